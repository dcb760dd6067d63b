#include "lease.h"

#include "common/err.h"

struct lease_inode {
    uint64_t ino;
    struct list leases;
    unsigned blocks;
};

struct lease_session {
    uint64_t id;
    struct list leases; /* oldest first */
    size_t count;
    unsigned owed;      /* leases asked back and not given back */
    bool lapsed;        /* some were over before they were given back: it must say that it knows */
    uint64_t until_ms;  /* all its leases are over then */
    uint64_t deaf_since_ms, rows_deaf_since_ms;
};

void lease_table_init(struct lease_table *table)
{
    *table = (struct lease_table){.session_max = LEASES_SESSION_MAX, .total_max = LEASES_MAX};
    list_init(&table->ages);
}

static void clear(struct lease_table *table)
{
    list_foreach_safe(&table->ages, it, next) free(list_entry(it, struct lease, by_age));
    list_init(&table->ages);
    struct map *maps[] = {&table->inodes, &table->sessions};
    for (size_t m = 0; m < ARRAY_SIZE(maps); m++) {
        size_t at = 0;
        uint64_t id;
        void *value;
        while (map_next(maps[m], &at, &id, &value))
            free(value);
        map_fini(maps[m]);
        *maps[m] = (struct map){0};
    }
    table->count = 0;
}

void lease_table_fini(struct lease_table *table)
{
    clear(table);
}

/* Blocks belong to changes of the leadership that has ended: lease_unblock() of an unknown inode is allowed. */
void lease_table_restart(struct lease_table *table, bool grace, uint64_t now_ms)
{
    clear(table);
    table->grace_until_ms = grace ? now_ms + LEASE_HOLD_MS : 0;
}

/* ------------------------------------------------------------------ parts */

static struct lease_session *session_get(struct lease_table *table, uint64_t id)
{
    struct lease_session *session = map_get(&table->sessions, id);
    if (session != NULL || id == 0 || table->sessions.count >= LEASE_SESSIONS_MAX)
        return session;
    session = calloc(1, sizeof *session);
    if (session == NULL)
        return NULL;
    session->id = id;
    list_init(&session->leases);
    if (map_put(&table->sessions, id, session) == 0)
        return session;
    free(session);
    return NULL;
}

static struct lease_inode *inode_get(struct lease_table *table, uint64_t ino)
{
    struct lease_inode *inode = map_get(&table->inodes, ino);
    if (inode != NULL)
        return inode;
    inode = calloc(1, sizeof *inode);
    if (inode == NULL)
        return NULL;
    inode->ino = ino;
    list_init(&inode->leases);
    if (map_put(&table->inodes, ino, inode) == 0)
        return inode;
    free(inode);
    return NULL;
}

static void inode_put(struct lease_table *table, struct lease_inode *inode)
{
    if (inode->blocks > 0 || !list_empty(&inode->leases))
        return;
    map_remove(&table->inodes, inode->ino);
    free(inode);
}

static struct lease *find(const struct lease_table *table, uint64_t session, uint64_t ino)
{
    const struct lease_inode *inode = map_get(&table->inodes, ino);
    if (inode == NULL)
        return NULL;
    list_foreach(&inode->leases, it) {
        struct lease *lease = list_entry(it, struct lease, by_inode);
        if (lease->session->id == session)
            return lease;
    }
    return NULL;
}

static void drop(struct lease_table *table, struct lease *lease)
{
    struct lease_inode *inode = lease->inode;
    lease->session->count--;
    lease->session->owed -= lease->recalled;
    list_remove(&lease->by_inode);
    list_remove(&lease->by_session);
    list_remove(&lease->by_age);
    table->count--;
    free(lease);
    inode_put(table, inode);
}

static void drop_all(struct lease_table *table, struct lease_session *session)
{
    list_foreach_safe(&session->leases, it, next)
        drop(table, list_entry(it, struct lease, by_session));
}

/* Whoever was silent for a term has nothing any more, and knows it. */
static void expire(struct lease_table *table, struct lease_session *session, uint64_t now_ms)
{
    if (session->count == 0 || session->until_ms > now_ms)
        return;
    session->lapsed |= session->owed > 0;
    drop_all(table, session);
}

static void ask_back(struct lease_table *table, struct lease *lease, uint64_t now_ms, lease_recall_fn recall,
                     void *arg)
{
    struct lease_session *session = lease->session;
    if (lease->recalled)
        return;
    lease->recalled = true;
    lease->number = ++table->last_number; /* voids a grant that is still on its way */
    session->owed++;
    if (session->deaf_since_ms == 0)
        session->deaf_since_ms = now_ms + 1;
    recall(arg, session->id, lease->inode->ino, lease->number);
}

/* ------------------------------------------------------------------ granting */

static bool renew(struct lease_table *table, struct lease_session *session, uint64_t now_ms)
{
    expire(table, session, now_ms);
    if (session->owed > 0 || session->lapsed)
        return false;
    session->until_ms = now_ms + LEASE_HOLD_MS;
    return true;
}

bool lease_renew(struct lease_table *table, uint64_t id, uint64_t now_ms)
{
    struct lease_session *session = map_get(&table->sessions, id);
    return session == NULL || renew(table, session, now_ms);
}

/* True when there is room; else the oldest is on its way back. */
static bool room(struct lease_table *table, struct lease_session *session, uint64_t now_ms, lease_recall_fn recall,
                 void *arg)
{
    if (session->count >= table->session_max) {
        ask_back(table, list_entry(session->leases.next, struct lease, by_session), now_ms, recall, arg);
        return false;
    }
    if (table->count < table->total_max)
        return true;
    struct lease *oldest = list_entry(table->ages.next, struct lease, by_age);
    struct lease_session *holder = oldest->session;
    expire(table, holder, now_ms);
    if (holder->count > 0 && table->count >= table->total_max)
        ask_back(table, oldest, now_ms, recall, arg);
    return table->count < table->total_max;
}

static struct lease *make(struct lease_table *table, struct lease_session *session, uint64_t ino)
{
    struct lease_inode *inode = inode_get(table, ino);
    struct lease *lease = calloc(1, sizeof *lease);
    if (inode == NULL || lease == NULL) {
        free(lease);
        if (inode != NULL)
            inode_put(table, inode);
        return NULL;
    }
    lease->inode = inode;
    lease->session = session;
    list_append(&inode->leases, &lease->by_inode);
    list_append(&session->leases, &lease->by_session);
    list_append(&table->ages, &lease->by_age);
    session->count++;
    table->count++;
    return lease;
}

uint64_t lease_grant(struct lease_table *table, uint64_t id, uint64_t ino, uint64_t now_ms, lease_recall_fn recall,
                     void *arg)
{
    const struct lease_inode *inode = map_get(&table->inodes, ino);
    struct lease_session *session = session_get(table, id);
    if (session == NULL || (inode != NULL && inode->blocks > 0) || !renew(table, session, now_ms))
        return 0;
    struct lease *lease = find(table, id, ino);
    if (lease == NULL && room(table, session, now_ms, recall, arg))
        lease = make(table, session, ino);
    if (lease == NULL || lease->recalled)
        return 0;
    lease->number = ++table->last_number;
    return lease->number;
}

int lease_block(struct lease_table *table, uint64_t ino)
{
    struct lease_inode *inode = inode_get(table, ino);
    if (inode == NULL)
        return -E_NOMEM;
    inode->blocks++;
    return 0;
}

void lease_unblock(struct lease_table *table, uint64_t ino)
{
    struct lease_inode *inode = map_get(&table->inodes, ino);
    if (inode == NULL || inode->blocks == 0)
        return;
    inode->blocks--;
    inode_put(table, inode);
}

/* ------------------------------------------------------------------ getting back */

uint64_t lease_recall(struct lease_table *table, uint64_t ino, uint64_t id, uint64_t now_ms, lease_recall_fn recall,
                      void *arg)
{
    uint64_t end = table->grace_until_ms;
    struct lease_inode *inode = map_get(&table->inodes, ino);
    if (inode == NULL)
        return end;
    inode->blocks++; /* it stays while its leases go */
    list_foreach_safe(&inode->leases, it, next) {
        struct lease *lease = list_entry(it, struct lease, by_inode);
        if (lease->session->id == id)
            continue;
        if (lease->session->until_ms <= now_ms) {
            lease->session->lapsed |= lease->recalled;
            drop(table, lease);
            continue;
        }
        ask_back(table, lease, now_ms, recall, arg);
        end = MAX(end, lease->session->until_ms);
    }
    lease_unblock(table, ino);
    return end;
}

uint64_t lease_end(const struct lease_table *table, uint64_t ino, uint64_t id, uint64_t now_ms)
{
    uint64_t end = table->grace_until_ms;
    const struct lease_inode *inode = map_get(&table->inodes, ino);
    if (inode == NULL)
        return end;
    list_foreach(&inode->leases, it) {
        const struct lease *lease = list_entry(it, struct lease, by_inode);
        if (lease->session->id != id && lease->session->until_ms > now_ms)
            end = MAX(end, lease->session->until_ms);
    }
    return end;
}

void lease_recall_own(struct lease_table *table, uint64_t ino, uint64_t session, uint64_t now_ms,
                      lease_recall_fn recall, void *arg)
{
    struct lease *lease = find(table, session, ino);
    if (lease != NULL)
        ask_back(table, lease, now_ms, recall, arg);
}

uint64_t lease_recall_everything(struct lease_table *table, uint64_t now_ms, lease_recall_fn recall, void *arg)
{
    uint64_t end = table->grace_until_ms;
    list_foreach(&table->ages, it) {
        struct lease *lease = list_entry(it, struct lease, by_age);
        ask_back(table, lease, now_ms, recall, arg);
        end = MAX(end, lease->session->until_ms);
    }
    return end;
}

/* Whoever still owes others has shown that it listens: its time begins anew. */
static void heard(struct lease_session *session, uint64_t now_ms)
{
    session->deaf_since_ms = session->owed > 0 || session->lapsed ? now_ms + 1 : 0;
}

void lease_give_back(struct lease_table *table, uint64_t id, uint64_t ino, uint64_t number, uint64_t now_ms)
{
    struct lease_session *session = map_get(&table->sessions, id);
    struct lease *lease = find(table, id, ino);
    if (lease != NULL && lease->number <= number)
        drop(table, lease);
    if (session != NULL)
        heard(session, now_ms);
}

void lease_give_back_all(struct lease_table *table, uint64_t id, uint64_t now_ms)
{
    struct lease_session *session = map_get(&table->sessions, id);
    if (session == NULL)
        return;
    drop_all(table, session);
    session->lapsed = false;
    heard(session, now_ms);
}

size_t lease_owed(const struct lease_table *table, uint64_t id, struct lease_item *ret, size_t max)
{
    const struct lease_session *session = map_get(&table->sessions, id);
    size_t n = 0;
    if (session == NULL || session->owed == 0)
        return 0;
    list_foreach(&session->leases, it) {
        const struct lease *lease = list_entry(it, struct lease, by_session);
        if (n == max)
            break;
        if (lease->recalled)
            ret[n++] = (struct lease_item){lease->inode->ino, lease->number};
    }
    return n;
}

/* ------------------------------------------------------------------ who does not answer */

void lease_rows_asked(struct lease_table *table, uint64_t id, uint64_t now_ms)
{
    struct lease_session *session = session_get(table, id);
    if (session != NULL && session->rows_deaf_since_ms == 0)
        session->rows_deaf_since_ms = now_ms + 1;
}

void lease_rows_returned(struct lease_table *table, uint64_t id)
{
    struct lease_session *session = map_get(&table->sessions, id);
    if (session != NULL)
        session->rows_deaf_since_ms = 0;
}

uint64_t lease_deaf_since(const struct lease_table *table, uint64_t id)
{
    const struct lease_session *session = map_get(&table->sessions, id);
    if (session == NULL)
        return 0;
    if (session->deaf_since_ms == 0 || session->rows_deaf_since_ms == 0)
        return MAX(session->deaf_since_ms, session->rows_deaf_since_ms);
    return MIN(session->deaf_since_ms, session->rows_deaf_since_ms);
}

void lease_sweep(struct lease_table *table, uint64_t now_ms)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&table->sessions, &at, &id, &value)) {
        struct lease_session *session = value;
        expire(table, session, now_ms);
        if (session->count > 0 || session->deaf_since_ms != 0 || session->rows_deaf_since_ms != 0 || session->until_ms > now_ms)
            continue;
        map_remove(&table->sessions, id);
        free(session);
    }
}
