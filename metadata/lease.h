/* Read leases: who may use what he knows of an inode (attributes, extended attributes, map, bytes; of a
 * directory its entries, absent names included) without asking. The leader keeps them in memory only. A
 * session's leases hold for a term, which its pings and its asking renew; a change that touches an inode first
 * recalls the leases of the others and waits until they are given back or the terms of the silent are over
 * (E1-E6 in docs/invariants.md, docs/decisions/leases.md). Pure: time comes in.
 * Units: milliseconds of the leader's monotonic clock. Threads: the owner's. Cost: O(1) but where said. */
#ifndef TARN_METADATA_LEASE_H
#define TARN_METADATA_LEASE_H

#include "common/coll.h"

#define LEASE_TERM_MS 600 /* told to the client, who counts from when he sent the request */
#define LEASE_HOLD_MS 660 /* kept here, from when it was answered: clocks that drift by a tenth */
#define LEASES_SESSION_MAX 16384 /* of one session; then its oldest is recalled */
#define LEASES_MAX 262144        /* of all: about 130 bytes each, 34 MiB */
#define LEASE_SESSIONS_MAX 65536

struct lease {
    struct list by_inode, by_session, by_age;
    uint64_t number; /* grows with each grant and recall of this leader */
    bool recalled;   /* asked back; still the holder's until given back or over */
    struct lease_inode *inode;
    struct lease_session *session;
};
/* Zero-initialised but for lease_table_init(). */
struct lease_table {
    struct map inodes, sessions; /* struct lease_inode, struct lease_session */
    struct list ages;            /* all leases, oldest first */
    size_t count;
    size_t session_max, total_max;
    uint64_t last_number;
    uint64_t grace_until_ms; /* before that others may hold leases that are not known here */
};
void lease_table_init(struct lease_table *table);
void lease_table_fini(struct lease_table *table);
/* A new leader knows of no lease. grace: some may be out, given by the leader before. */
void lease_table_restart(struct lease_table *table, bool grace, uint64_t now_ms);

/* What a leader must tell: leases asked back. Called for each; must not change the table. */
typedef void (*lease_recall_fn)(void *arg, uint64_t session, uint64_t ino, uint64_t number);

/* A session's ping or question was answered. True: its term was renewed. False: it owes answers to recalls. */
bool lease_renew(struct lease_table *table, uint64_t session, uint64_t now_ms);
/* The number of the session's lease on the inode, or 0: a change of the inode is under way, a recall is not
 * answered, or too many are out; then `recall` is asked to get the oldest back. The caller has read the tables
 * since anything else ran. Renews the term as lease_renew(). */
uint64_t lease_grant(struct lease_table *table, uint64_t session, uint64_t ino, uint64_t now_ms,
                     lease_recall_fn recall, void *arg);
/* No lease on the inode is granted until lease_unblock(); counts. -E_NOMEM. */
int lease_block(struct lease_table *table, uint64_t ino);
void lease_unblock(struct lease_table *table, uint64_t ino);
/* Asks the leases on the inode of all but `session` back (each once). Returns when the last of them is over if
 * nobody answers; at most now_ms: there is none. Cost: O(holders). */
uint64_t lease_recall(struct lease_table *table, uint64_t ino, uint64_t session, uint64_t now_ms,
                      lease_recall_fn recall, void *arg);
/* The same without asking. */
uint64_t lease_end(const struct lease_table *table, uint64_t ino, uint64_t session, uint64_t now_ms);
/* A change of the session's own: its own lease is asked back, too, but nobody waits for that. */
void lease_recall_own(struct lease_table *table, uint64_t ino, uint64_t session, uint64_t now_ms,
                      lease_recall_fn recall, void *arg);
/* Asks all back; when the last is over. Cost: O(leases). */
uint64_t lease_recall_everything(struct lease_table *table, uint64_t now_ms, lease_recall_fn recall, void *arg);
/* The holder has let go of what it had up to `number`. An answer to an old recall does not end a newer lease. */
void lease_give_back(struct lease_table *table, uint64_t session, uint64_t ino, uint64_t number, uint64_t now_ms);
void lease_give_back_all(struct lease_table *table, uint64_t session, uint64_t now_ms);
/* Up to `max` unanswered recalls of the session. */
struct lease_item {
    uint64_t ino, number;
};
size_t lease_owed(const struct lease_table *table, uint64_t session, struct lease_item *ret, size_t max);
/* A recall of what lies in the tables (an exclusive lease, locks) went out to the session; it returned one. */
void lease_rows_asked(struct lease_table *table, uint64_t session, uint64_t now_ms);
void lease_rows_returned(struct lease_table *table, uint64_t session);
/* Since when the session has answered none of the recalls of a kind that it was sent; 0 = it owes nothing. */
uint64_t lease_deaf_since(const struct lease_table *table, uint64_t session);
/* Forgets what is over. Cost: O(sessions + what is over). */
void lease_sweep(struct lease_table *table, uint64_t now_ms);

#endif
