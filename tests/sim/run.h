/* One run of the simulated cluster: its workers, what each was told, and what therefore must be there. The
 * models live outside the simulated hosts; README.md says what they allow. Threads: the simulation's. */
#ifndef TARN_TESTS_SIM_RUN_H
#define TARN_TESTS_SIM_RUN_H

#include "rot.h"
#include "world.h"

#include "common/prng.h"

#define OBJECTS 8           /* names a worker puts to, again and again */
#define OBJECT_MAX KIB(300)
#define CODED_OBJECTS 2     /* larger ones, below a directory with a code */
#define FILE_BYTES KIB(400) /* of the file each worker overwrites in place */
#define FILE_BYTES_MAX KIB(2560) /* … where it is to become a parity group */
#define PACKED_OBJECTS 8    /* small ones, below a directory that compresses */
#define NAMES_MAX 6         /* entries a worker keeps in its directory */
#define APPENDS_MAX 512     /* records a worker appends to the file all share */
#define TOKENS_MAX 64
#define CONTESTS_MAX 512
#define CONTEST_PUTS_MAX 8
#define SESSION_MS 10000    /* without a sign of life so long a session ends */

/* Puts to one name. */
struct object_model {
    uint64_t acked;    /* content seed of the last acknowledged put; 0 = none */
    uint64_t maybe[8]; /* puts since then whose answer was lost: each may be there */
    unsigned n_maybe;
    bool never_again;  /* more answers were lost than are remembered: not checked any more */
};
/* A byte of a worker's file: SYNCED must be there whatever happens; WRITTEN unless all members lost power
 * before it reached a disk; DOUBTFUL may be anything that was ever tried. */
enum byte_state { SYNCED, WRITTEN, DOUBTFUL };
struct file_model {
    uint8_t bytes[FILE_BYTES_MAX], state[FILE_BYTES_MAX];
    size_t limit; /* of these count */
    uint64_t size;
    bool size_doubtful, made;
    size_t changed_from, changed_to; /* by the last change of the present handle: nothing else is unsynced */
    uint64_t ino;
    unsigned changes; /* grows when a change begins and when it ends: a reader beside sees that */
};
/* A name of a worker's own directory. A change whose answer is lost retires its names: nothing is known of
 * them any more, and they are not used again. */
struct name_model {
    unsigned number; /* 0 = free */
    uint64_t ino;
    bool is_dir;
};
struct tree_model {
    struct name_model live[NAMES_MAX];
    unsigned last_number;
    uint8_t retired[8192 / 8]; /* by number */
    uint64_t dir_ino;
};
/* Records a worker appended to the shared file: 0 = tried, or not synced; 1 = synced; 2 = seen (at the end). */
struct append_model {
    unsigned n;
    uint8_t state[APPENDS_MAX];
};
/* What stands in the file that the lock protects. */
struct token_model {
    uint64_t acked;
    uint64_t maybe[TOKENS_MAX]; /* writes whose answer was lost; the oldest is forgotten */
    unsigned n_maybe;
    bool forgot;
};
/* Exclusive puts to one name: at most one wins. */
struct contest {
    uint64_t winner;
    uint64_t maybe[CONTEST_PUTS_MAX];
    unsigned n_maybe, n_refused;
    bool forgot;
};

/* A snapshot of a directory with coded or packed objects: what this worker's had then. */
#define SNAPSHOTS 2
struct snapshot_model {
    unsigned number; /* 0 = none */
    const char *dir;
    uint64_t contents[PACKED_OBJECTS]; /* 0: none, or not known */
};

struct run;
struct worker {
    struct run *run;
    unsigned client, index;
    struct prng prng;
    struct object_model objects[OBJECTS];
    struct object_model coded[CODED_OBJECTS], packed[PACKED_OBJECTS];
    struct snapshot_model snapshots[SNAPSHOTS];
    unsigned last_snapshot; /* number given out */
    struct file_model file;
    struct tree_model tree;
    struct append_model appends;
    uint64_t acked, doubtful, checked;
};
/* The register that clients read through leases (work_lease.c). Numbers of writes whose answer was lost stay. */
#define LEASE_MAYBE_MAX 512
#define REGISTER_FIRST 1000000000000000 /* below any time a file is made at, above all that is written */
struct lease_model {
    uint64_t tried, acked;
    uint64_t maybe[LEASE_MAYBE_MAX];
    unsigned n_maybe;
    bool forgot, writing;
};
struct lease_cache {
    uint64_t stamp, value;
};

struct client {
    struct run *run;
    unsigned index;
    struct meta *meta;
    struct stores *stores;
    struct fiber_group workers;
    uint64_t sessions_lost; /* a number that grows: a worker compares it before and after */
    struct lease_cache cached;
    unsigned keeping; /* workers with a handle that may have the exclusive lease */
};
struct run {
    struct world world;
    bool codes; /* most of the work is on what is coded, packed and compressed, and bits flip */
    struct rot rot;
    uint64_t coded_dirs; /* … are there */
    uint64_t snapshot_reads;
    uint64_t read_degraded, read_compressed; /* bytes, as clients counted them */
    struct client clients[WORLD_CLIENTS];
    struct worker workers[WORLD_CLIENTS][WORLD_WORKERS];
    bool stop; /* workers end after their present operation */
    unsigned running;
    bool verified, emptied;
    const struct worker *holder; /* who believes to hold the lock */
    uint64_t grants;
    uint64_t lock_ino, append_ino, lease_ino, kept_ino;
    struct lease_model lease;
    uint64_t cached_reads;
    uint64_t kept_size, kept_writes, kept_losses; /* the size as the exclusive lease's holder knows it */
    struct token_model token;
    struct contest contests[CONTESTS_MAX];
    unsigned n_contests;
};
extern bool verbose;

/* Prints what is wrong and how to replay it; the process ends. */
_Noreturn void broken(const struct worker *worker, const char *fmt, ...) _printf_(2, 3);

/* ---- work_object.c ---- */
void content_fill(uint64_t content, uint8_t *buf, size_t n);
int64_t read_path(struct client *client, const char *path, uint8_t *buf, size_t size);
void rest_unsynced(struct worker *worker);
int put_whole(struct client *client, struct worker *worker, const char *path, const uint8_t *buf, size_t n, bool exclusive);
void work_put(struct client *client, struct worker *worker);
void work_get(struct client *client, struct worker *worker, unsigned k, bool final);
void work_contest(struct client *client, struct worker *worker);
void check_contests(struct client *client, struct worker *worker);

/* ---- work_coded.c ---- */
void work_coded(struct client *client, struct worker *worker);
void work_coded_get(struct client *client, struct worker *worker, unsigned k, bool final);
void work_packed(struct client *client, struct worker *worker);
void work_packed_get(struct client *client, struct worker *worker, unsigned k, bool final);
void work_policy(struct client *client, struct worker *worker);
/* Takes, reads, drops snapshots of these directories. */
void work_snapshot(struct client *client, struct worker *worker);
void check_snapshots(struct client *client, struct worker *worker, bool final);
void drop_snapshots(struct client *client, struct worker *worker); /* all that there may be */
/* Directories with a code each, and one that packs and compresses. */
int make_coded_dirs(struct client *client);

/* ---- work_scrub.c ---- */
/* An operator asks a store to read all it has. */
void work_scrub(struct client *client, struct worker *worker);
/* All stores; returns when they have. */
void scrub_all(struct client *client, struct worker *worker);

/* ---- work_file.c ---- */
void work_write(struct client *client, struct worker *worker);
/* Reads `owner`'s file and compares; by `worker`, who may be on another host. */
void work_check_file(struct client *client, struct worker *worker, struct worker *owner, bool final);
/* The file may have lost what was not synced. */
void file_excuse(struct file_model *model);

/* ---- work_shared.c: the lock, what it protects, appends by all ---- */
void work_lock(struct client *client, struct worker *worker);
void work_append(struct client *client, struct worker *worker);
void check_appends(struct client *client, struct worker *worker);
void check_token(struct client *client, struct worker *worker);
int make_shared_files(struct client *client);

/* ---- work_lease.c: read leases, what is kept back under an exclusive lease ---- */
void work_lease(struct client *client, struct worker *worker);
void lease_client_lost(struct client *client); /* its session, or its process */

/* ---- work_admin.c ---- */
void work_admin(struct client *client, struct worker *worker);

/* ---- work_tree.c ---- */
void work_tree(struct client *client, struct worker *worker);
void check_tree(struct client *client, struct worker *worker);
/* Removes everything below the root. */
int remove_all(struct client *client);

#endif
