/* A parity group that is coded while an object is put: each data byte is folded into m accumulators in memory as it
 * is sent to its own store, so the parity is there when the last of the k chunks ends, and nothing is read back. The
 * service has chosen k + m nodes and made the chunks (UPLOAD_GROUP). Members that fail are lost, not replaced, as long as one
 * spare shard is left; the commit tells the service. Why: docs/decisions/direct-coding.md.
 * Threads: the io's, from fibers; the budget is of the whole process. */
#ifndef TARN_CLIENT_PUT_CODE_H
#define TARN_CLIENT_PUT_CODE_H

#include "store.h"

#include "common/ec.h"
#include "common/fiber.h"

/* ------------------------------------------------------------------ the accumulators: pure */

/* Shard i has up to `length` bytes; data behind what was folded counts as zeros. */
struct put_code {
    struct ec_codec codec;
    uint64_t length, longest; /* longest: bytes of the parity so far */
    uint64_t reserved;        /* bytes of the budget */
    uint8_t *parity[EC_PARITY_MAX];
};
/* Errors: -E_INVAL no such code; -E_BUSY the budget of `memory_max` bytes has no room; -E_NOMEM. Nothing is kept then. */
int put_code_init(struct put_code *code, unsigned k, unsigned m, uint64_t length, uint64_t memory_max);
void put_code_fini(struct put_code *code); /* zeroed is empty */
/* Adds bytes of data shard `shard`; the shards' bytes come in any order, each once. offset + n <= length. */
void put_code_fold(struct put_code *code, unsigned shard, uint64_t offset, const uint8_t *data, size_t n);
uint64_t put_code_memory_used(void); /* of the process's budget */

/* ------------------------------------------------------------------ a group of an upload */

struct put_group;
/* A parity shard is on disk, or is not stored (err). From the fiber that sent it; the group may be freed. */
typedef void (*put_group_ended)(void *arg, struct put_group *group, uint64_t chunk, int err);

struct put_parity {
    struct put_group *group;
    uint64_t sent;    /* bytes that streams have taken */
    unsigned streams; /* under way */
    int err;
    struct store_lives lives;
};
struct put_group {
    struct put_code code;
    struct stores *stores;
    Tarn__UploadGroupReply *reply; /* data[i] is NULL once taken */
    size_t first;                  /* index in the upload of data shard 0 */
    unsigned lost;                 /* members */
    unsigned users;                /* chunks and parity shards under way; the owner's to count but for those of send_parity */
    struct put_parity parity[EC_PARITY_MAX];
    uint64_t session;
    struct fiber_group *running;
    put_group_ended ended;
    void *arg;
};
struct put_group_where {
    struct stores *stores;
    struct meta *meta;
    const struct meta_cred *cred;
    Tarn__Where *near;
    char *path;
    uint64_t upload;    /* 0 = a new one */
    size_t index;       /* of the next chunk */
    uint64_t remaining; /* bytes still to come, 0 = not known */
    uint64_t before;    /* bytes of the object before them */
};
/* Asks for a group and takes memory for it. -E_NOTSUP: these bytes are put in copies (no code, too few nodes or bytes, no
 * memory); *ret_upload is the upload that was begun, or as in `where`. */
int put_group_begin(const struct put_group_where *where, uint64_t *ret_upload, struct put_group **ret);
void put_group_free(struct put_group *group); /* NULL is nothing */
/* All data is folded: sends the parity, some windows at a time, each shard in fibers that `running` counts. `ended` is called once for
 * each shard; each is a user of the group until then. On an error some may have begun. */
int put_group_send_parity(struct put_group *group, uint64_t session, struct fiber_group *running, put_group_ended ended, void *arg);
/* One member does not store its shard. 0: the group bears it; else what the put fails with. */
int put_group_lose(struct put_group *group, uint64_t chunk, int err);

#endif
