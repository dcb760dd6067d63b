/* A state machine on tables in memory, driven by commands as the leader would put them into the
 * log. */
#ifndef TARN_TEST_METADATA_WORLD_H
#define TARN_TEST_METADATA_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/coll.h"
#include "common/err.h"
#include "meta.pb-c.h"
#include "metadata/fsm.h"
#include "ops.h"

struct world {
    struct kv *kv;
    uint64_t index, now, seed;
    uint64_t session, seq; /* who asks in world_change(), and its last number */
    uint32_t uid, gid, groups[4];
    size_t n_groups;
    struct fsm_result result; /* of the last command or query */
    struct map packed;        /* containers that stores have made: their lengths + 1 */
    bool incompressible;      /* … and compression never pays */
};
void world_init(struct world *w); /* empty tables, one session */
void world_check(struct world *w); /* the consistency checker finds nothing */
void world_fini(struct world *w);  /* checks, too */
uint64_t world_session(struct world *w, const char *uuid);
/* Applies one command; `ctx` (NULL for the leader's own) is filled in from the world. Returns the
 * answer's code. */
int world_apply(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx);
int world_query(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx);
/* The last reply unpacked into static storage that the next call frees. */
void *world_reply(struct world *w, const ProtobufCMessageDescriptor *type);

Tarn__Where world_where(const char *path); /* the inode of that name, links not followed */

/* Short forms; paths are absolute, the code of the answer is returned. */
int world_make(struct world *w, Tarn__FileType type, const char *dir, const char *name,
               uint32_t mode);
int world_symlink(struct world *w, const char *dir, const char *name, const char *target);
int world_unlink(struct world *w, const char *dir, const char *name, bool directory);
int world_rename(struct world *w, const char *from, const char *from_name, const char *to,
                 const char *to_name, uint32_t flags);
int world_link(struct world *w, const char *target, const char *dir, const char *name);
int world_lookup(struct world *w, const char *path,
                 Tarn__Attr **ret); /* ret may be NULL; valid until the next call */
int world_open(struct world *w, const char *path, uint32_t flags, uint64_t *ret_handle);
int world_close(struct world *w, uint64_t handle);
int world_object(struct world *w, const char *dir, const char *path, const char *data);
int world_delete_object(struct world *w, const char *dir, const char *name);
uint32_t world_node(struct world *w, const char *name,
                    const char *rack); /* joins, up, 1 TiB free */
void world_node_set(struct world *w, uint32_t node, bool up);
/* Carries out and reports all queued tasks of a node, as a store does that holds `digest` and `length` bytes of everything
 * (UINT64_MAX: as many as it is told). */
unsigned world_do_tasks(struct world *w, uint32_t node, uint32_t digest, uint64_t length);
Tarn__StatusReply *world_status(struct world *w);
bool world_work(struct world *w); /* one background step when due */
/* Digest of all tables. */
uint32_t world_dump(struct world *w);

#endif
