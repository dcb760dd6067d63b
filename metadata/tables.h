/* One command's (or query's) view of the tables: the open transaction, who asks, the command's time
 * and chance, the counters, and an undo log, so that a handler that fails half way leaves nothing
 * behind. Failures of the tables themselves (disk, memory, a record that cannot be read) stick in
 * `failed`: then the whole transaction must be aborted. Threads: the transaction's. */
#ifndef TARN_METADATA_TABLES_H
#define TARN_METADATA_TABLES_H

#include "common/arena.h"
#include "common/bytes.h"
#include "common/prng.h"
#include "fsm.h"
#include "meta.pb-c.h"
#include "record.h"

/* One changed row as it was before; the arena's. */
struct undo_entry {
    struct undo_entry *before; /* the change before this one */
    bool existed;
    uint16_t key_len;
    uint32_t len;
    uint8_t bytes[]; /* key, value */
};

struct cred {
    uint32_t uid, gid;
    const uint32_t *groups; /* borrowed from the request */
    size_t n_groups;
};

struct tables {
    struct kv_txn *txn;
    bool write;
    uint64_t now; /* the command's real_ns; 0 in queries */
    struct prng prng;
    uint64_t session; /* who asks; 0 = nobody in particular */
    struct cred cred;
    int failed; /* sticky table failure */
    struct state state;
    bool state_dirty;
    bool keep_on_error; /* the handler's error is an answer: its changes stay */
    struct undo_entry *undo; /* the latest change */
    size_t n_undo;
    struct arena arena; /* for the undo log */
    struct quota_touched *quotas; /* quotas that this command changes: quota.c; owned */
    size_t n_quotas;
    struct fsm_result *result; /* detail, reply, pushes of this command */
    struct view_memory *view;  /* of snapshots and clones (view.h); owned */
};

/* Loads the counters. A command ends with tables_finish(), a query with tables_fini(). */
int tables_init(struct tables *t, struct kv_txn *txn, bool write, struct fsm_result *result);
/* err = the handler's result. Success: counters are stored. Failure: every change is taken back.
 * Returns err, or the sticky failure. Frees the undo log in any case. */
int tables_finish(struct tables *t, int err);
void tables_fini(struct tables *t);

/* A point in a command that it can be taken back to: one item of many that fails leaves nothing. */
struct tables_mark {
    size_t n_undo, n_pushes;
    struct state state;
    bool state_dirty;
};
struct tables_mark tables_mark(const struct tables *t);
int tables_rollback(struct tables *t, const struct tables_mark *mark); /* 0, or the sticky failure */

/* As kv.h's; -E_NOENT is an ordinary answer, anything else also sticks in `failed`. Rows of the tree
 * may be of a snapshot or a clone, by their inode number: then -E_STALE (the snapshot is gone) and
 * -E_ROFS are ordinary answers, too (view.h). */
int tables_get(struct tables *t, const struct key *key, struct kv_val *ret);
bool tables_has(struct tables *t, const struct key *key);
int tables_put(struct tables *t, const struct key *key, const struct writer *value);
int tables_put_empty(struct tables *t, const struct key *key);
int tables_del(struct tables *t, const struct key *key);
/* Marks a record as unreadable: -E_CORRUPT, sticky. */
int tables_corrupt(struct tables *t, const struct key *key, const char *what);
/* Gives `err` back; -E_NOMEM becomes sticky first. For what is asked and not answered with an error by all who ask (a row that
 * is not there, a right that is not given): memory that is short here must not become another answer than the other replicas'. */
int tables_note(struct tables *t, int err);
/* What decoding a record came to, when the decoder allocates: 0, -E_CORRUPT as above, or -E_NOMEM, which says nothing about
 * the record; both sticky. */
int tables_decoded(struct tables *t, const struct key *key, const char *what, int err);
/* A row that is a packed message behind the version byte. Free with protobuf_c_message_free_unpacked(). Errors as above. */
int tables_message(struct tables *t, const struct key *key, struct kv_val value, const ProtobufCMessageDescriptor *type,
                   ProtobufCMessage **ret);

/* Up to `max` entries with the prefix from `start` on, copied: the caller may change the tables
 * while it goes through them. Free with rows_fini(). */
struct row {
    struct key key;
    uint8_t *value;
    size_t len;
};
struct rows {
    struct row *rows;
    size_t count, cap;
};
void rows_fini(struct rows *rows);
int tables_rows(struct tables *t, const struct key *start, const struct key *prefix, size_t max,
                struct rows *ret);
/* Like kv_scan and kv_last, with sticky failures. A scan of a whole table of the tree passes over
 * whiteouts. */
int tables_scan(struct tables *t, const struct key *start, const struct key *prefix, kv_visit fn,
                void *arg);
bool tables_any(struct tables *t, const struct key *prefix);
int tables_last(struct tables *t, const struct key *at, const struct key *prefix,
                struct kv_val *ret_key, struct kv_val *ret_value);

/* What is stored under the key, whiteouts of clones included: for view*.c, and for walks over whole
 * tables. */
int tables_stored_get(struct tables *t, const struct key *key, struct kv_val *ret);
int tables_stored_put(struct tables *t, const struct key *key, const void *data, size_t n);
int tables_stored_del(struct tables *t, const struct key *key);
int tables_stored_scan(struct tables *t, const struct key *start, const struct key *prefix,
                       kv_visit fn, void *arg);
int tables_stored_rows(struct tables *t, const struct key *start, const struct key *prefix,
                       size_t max, struct rows *ret);
int tables_stored_last(struct tables *t, const struct key *at, const struct key *prefix,
                       struct kv_val *ret_key, struct kv_val *ret_value);

/* The answer of the command. */
int tables_reply(struct tables *t, const ProtobufCMessage *message);
int tables_push(struct tables *t, uint64_t session, unsigned op, const ProtobufCMessage *message);
/* Notes that what clients know of the inode is not true after this command. For const views, too: a note is not
 * a change of the tables. */
void tables_touched(const struct tables *t, uint64_t ino);
/* Notes a right that stands in the way (fsm.h). */
int tables_recall(struct tables *t, const struct fsm_recall *recall);
/* Sets the words that go with an error; returns err. */
int tables_fail(struct tables *t, int err, const char *fmt, ...) _printf_(3, 4);

static inline struct state *tables_state(struct tables *t)
{
    t->state_dirty = true;
    return &t->state;
}

#endif
