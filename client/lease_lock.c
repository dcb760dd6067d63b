/* See lease_lock.h. The state of one file and kind:
 *
 *   nothing ── LOCK answered with a delegation ── locks decided here ── asked back, a wait, the last close ──┐
 *      └───────────── nothing for QUIET_MS ───────────── returned: its locks are rows of the service ────────┘
 *
 * While a range is on its way back (busy) nothing is decided in the file. */
#include "lease_internal.h"

#include "common/check.h"
#include "common/err.h"
#include "common/lock_range.h"
#include "common/log.h"

#define DELEGATIONS_MAX 8  /* ranges of one file */
#define FILES_MAX 8192     /* files with delegations; beyond, every lock is asked for */
#define LOCKS_HERE_MAX 1000 /* of one file: what goes back in one message, about 40 KiB */
#define QUIET_MS 1000      /* after one was asked back, others are using the file: nothing is decided here */

struct delegation {
    uint64_t number, start, end;
    struct lock_table table; /* locks granted here, all inside; their owners' session is 0 */
};
struct lock_file {
    struct leases *leases;
    uint64_t ino, session;
    Tarn__LockKind kind;
    struct delegation delegations[DELEGATIONS_MAX];
    unsigned n;
    unsigned asking; /* requests on their way that may bring one */
    uint64_t early;  /* number of one that was asked back before it came */
    bool plain;      /* the service may have rows of ours */
    bool busy;
    uint64_t quiet_until_ms;
    unsigned users;
    struct fiber_queue changed;
};

/* A request that may be interrupted before it waits at the service. */
struct lock_here {
    struct list node;
    uint64_t waiter;
    bool interrupted;
};

const struct lease_counters *lease_counters(const struct leases *leases)
{
    return &leases->counters;
}

/* ------------------------------------------------------------------ files */

static uint64_t file_key(uint64_t ino, Tarn__LockKind kind)
{
    return ino << 1 | (kind == TARN__LOCK_KIND__LOCK_FLOCK);
}

static struct lock_file *file_find(struct leases *leases, uint64_t ino, Tarn__LockKind kind)
{
    struct lock_file *file = map_get(&leases->lock_files, file_key(ino, kind));
    return file && file->ino == ino ? file : NULL;
}

static struct lock_file *file_make(struct leases *leases, uint64_t session, uint64_t ino, Tarn__LockKind kind)
{
    uint64_t key = file_key(ino, kind);
    if (leases->lock_files.count >= FILES_MAX || map_get(&leases->lock_files, key))
        return NULL;
    struct lock_file *file = calloc(1, sizeof *file);
    if (!file || map_put(&leases->lock_files, key, file) < 0) {
        free(file);
        return NULL;
    }
    file->leases = leases;
    file->session = session;
    file->ino = ino;
    file->kind = kind;
    return file;
}

static void delegation_remove(struct lock_file *file, unsigned i)
{
    lock_table_fini(&file->delegations[i].table);
    file->delegations[i] = file->delegations[--file->n];
}

/* Its session is over: nothing of it counts. Whoever is using it sees n == 0 and the other session. */
static void file_reset(struct lock_file *file)
{
    while (file->n > 0)
        delegation_remove(file, 0);
    file->early = 0;
    file->session = 0;
}

void lock_files_lost(struct leases *leases)
{
    size_t at = 0;
    uint64_t key;
    void *value;
    while (map_next(&leases->lock_files, &at, &key, &value)) {
        struct lock_file *file = value;
        file_reset(file);
        fiber_queue_wake_all(&file->changed);
        if (file->users > 0 || file->asking > 0 || file->busy)
            continue;
        map_remove(&leases->lock_files, key);
        free(file);
    }
}

void lock_files_forget(struct leases *leases)
{
    lock_files_lost(leases);
    map_fini(&leases->lock_files);
}

/* The delegation that has the whole range, or NULL. */
static struct delegation *covering(struct lock_file *file, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < file->n; i++)
        if (file->delegations[i].start <= start && end <= file->delegations[i].end)
            return &file->delegations[i];
    return NULL;
}

static struct delegation *overlapping(struct lock_file *file, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < file->n; i++)
        if (file->delegations[i].start <= end && start <= file->delegations[i].end)
            return &file->delegations[i];
    return NULL;
}

/* ------------------------------------------------------------------ giving back */

static Tarn__LeaseKind lease_kind(Tarn__LockKind kind)
{
    return kind == TARN__LOCK_KIND__LOCK_FCNTL ? TARN__LEASE_KIND__LEASE_LOCKS_FCNTL : TARN__LEASE_KIND__LEASE_LOCKS_FLOCK;
}

/* Sends back a number with the locks inside. Again until it is answered, or the session is over. */
static int send_back(struct leases *leases, uint64_t session, uint64_t ino, Tarn__LockKind kind, uint64_t number,
                     Tarn__LockRange **locks, size_t n)
{
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT;
    item.kind = lease_kind(kind);
    item.ino = ino;
    item.number = number;
    Tarn__LeaseReturn request = TARN__LEASE_RETURN__INIT;
    request.item = &item;
    request.locks = locks;
    request.n_locks = n;
    int r;
    do
        r = meta_call_urgent_in(leases->meta, session, OP_LEASE_RETURN, &request.base, &request.ctx);
    while (lease_return_again(leases, r));
    leases->counters.returned++;
    return r;
}

static void locks_fill(const struct lock_table *table, Tarn__LockRange *locks, Tarn__LockRange **list)
{
    for (size_t i = 0; i < table->n_held; i++) {
        const struct lock_range *held = &table->held[i];
        list[i] = &locks[i];
        tarn__lock_range__init(&locks[i]);
        locks[i].type = (Tarn__LockType)held->type;
        locks[i].start = held->start;
        locks[i].end = held->end;
        locks[i].owner = held->owner.owner;
        locks[i].pid = held->pid;
        locks[i].handle = held->handle;
    }
}

static struct delegation *numbered(struct lock_file *file, uint64_t number)
{
    for (unsigned i = 0; i < file->n; i++)
        if (file->delegations[i].number == number)
            return &file->delegations[i];
    return NULL;
}

/* With the file busy: nothing changes in it meanwhile, but for the end of the session. Afterwards the service has the
 * locks. */
static int give_back(struct lock_file *file, const struct delegation *d)
{
    size_t n = d->table.n_held;
    uint64_t session = file->session, number = d->number;
    _cleanup_free_ Tarn__LockRange *locks = calloc(n + 1, sizeof *locks);
    _cleanup_free_ Tarn__LockRange **list = calloc(n + 1, sizeof *list);
    if (!locks || !list)
        return -E_NOMEM;
    locks_fill(&d->table, locks, list);
    int r = send_back(file->leases, session, file->ino, file->kind, number, list, n);
    if (r < 0)
        return r;
    d = numbered(file, number);
    if (!d || file->session != session)
        return -E_NO_SESSION;
    delegation_remove(file, (unsigned)(d - file->delegations));
    file->plain |= n > 0;
    return 0;
}

static int busy_begin(struct lock_file *file)
{
    while (file->busy) {
        int r = fiber_queue_wait(&file->changed, 0);
        if (r < 0)
            return r;
    }
    file->busy = true;
    return 0;
}

static void busy_end(struct lock_file *file)
{
    file->busy = false;
    fiber_queue_wake_all(&file->changed);
}

/* All delegations that overlap the range. */
static int give_back_overlapping(struct lock_file *file, uint64_t start, uint64_t end)
{
    int r = busy_begin(file);
    if (r < 0)
        return r;
    for (struct delegation *d; r == 0 && (d = overlapping(file, start, end)) != NULL;)
        r = give_back(file, d);
    busy_end(file);
    return r;
}

/* ------------------------------------------------------------------ asked back */

struct recall {
    struct leases *leases;
    uint64_t ino, number, session;
    Tarn__LockKind kind;
};

static void file_put(struct lock_file *file)
{
    if (--file->users > 0 || file->n > 0 || file->asking > 0 || file->busy || file->session != 0)
        return;
    map_remove(&file->leases->lock_files, file_key(file->ino, file->kind));
    free(file);
}

static void recall_run(const struct recall *recall)
{
    struct lock_file *file = file_find(recall->leases, recall->ino, recall->kind);
    if (!file) {
        (void)send_back(recall->leases, recall->session, recall->ino, recall->kind, recall->number, NULL, 0);
        return;
    }
    file->users++;
    file->quiet_until_ms = io_mono_ms(recall->leases->io) + QUIET_MS;
    if (busy_begin(file) == 0) {
        const struct delegation *d = numbered(file, recall->number);
        int r = 0;
        if (d)
            r = give_back(file, d);
        else if (file->asking == 0) /* its grant was lost: nothing was ever granted under it */
            r = send_back(recall->leases, recall->session, recall->ino, recall->kind, recall->number, NULL, 0);
        else
            file->early = recall->number; /* with its grant, or when that turns out to be lost */
        if (r < 0)
            log_debug("locks of inode %llu are not given back: %s", (unsigned long long)recall->ino, err_sentence(r));
        busy_end(file);
    }
    file_put(file);
}

static void recall_fiber(void *arg)
{
    struct recall *recall = arg;
    struct meta *meta = recall->leases->meta;
    recall_run(recall);
    free(recall);
    meta_fiber_done(meta);
}

static void recall_begin(struct leases *leases, uint64_t ino, Tarn__LockKind kind, uint64_t number)
{
    struct recall *recall = calloc(1, sizeof *recall);
    if (!recall)
        return; /* asked for again soon */
    *recall = (struct recall){
        .leases = leases, .ino = ino, .number = number, .kind = kind, .session = meta_session(leases->meta)};
    if (recall->session == 0 || meta_spawn(leases->meta, "lock-return", recall_fiber, recall) < 0)
        free(recall);
}

void lease_locks_recall(struct leases *leases, const Tarn__LeaseItem *item)
{
    Tarn__LockKind kind = item->kind == TARN__LEASE_KIND__LEASE_LOCKS_FCNTL ? TARN__LOCK_KIND__LOCK_FCNTL
                                                                            : TARN__LOCK_KIND__LOCK_FLOCK;
    recall_begin(leases, item->ino, kind, item->number);
}

/* ------------------------------------------------------------------ asking */

void lease_lock_asking(struct leases *leases, const Tarn__Lock *ask)
{
    struct lock_file *file = file_find(leases, ask->ino, ask->kind);
    CHECK(file != NULL);
    file->asking++;
}

static struct lock_range range_of(const Tarn__Lock *lock)
{
    return (struct lock_range){.owner = {0, lock->owner},
                               .start = lock->start,
                               .end = lock->end,
                               .type = (uint8_t)lock->type,
                               .pid = lock->pid,
                               .handle = lock->handle};
}

/* In the same stretch as the reply came: no recall comes between. */
int lease_lock_asked(struct leases *leases, uint64_t session, const Tarn__Lock *ask, const Tarn__LockReply *reply)
{
    int r = 0;
    struct lock_file *file = file_find(leases, ask->ino, ask->kind);
    CHECK(file != NULL && file->asking > 0);
    file->asking--;
    if (reply && reply->delegation != 0 && file->session == session) {
        struct lock_range range = range_of(ask);
        CHECK(file->n < DELEGATIONS_MAX);
        struct delegation *d = &file->delegations[file->n++];
        *d = (struct delegation){.number = reply->delegation, .start = reply->start, .end = reply->end};
        r = lock_table_set(&d->table, &range);
        file->early = r < 0 ? reply->delegation : file->early; /* no memory: it goes back as if nothing was granted */
        meta_keeper_wake(leases->meta);
    } else if (reply) {
        file->plain = true;
    }
    if (file->early != 0 && (file->asking == 0 || numbered(file, file->early))) {
        recall_begin(leases, ask->ino, ask->kind, file->early);
        file->early = 0;
    }
    return r;
}

/* ------------------------------------------------------------------ one request */

/* Decides here: 0 granted, -E_WOULDBLOCK somebody of this client has it, -E_NOLCK the table is full. */
static int decide(struct delegation *d, const Tarn__Lock *lock)
{
    struct lock_range range = range_of(lock);
    if (range.type != LOCK_RANGE_UN && lock_table_conflict(&d->table, &range))
        return -E_WOULDBLOCK;
    if (range.type != LOCK_RANGE_UN && d->table.n_held >= LOCKS_HERE_MAX)
        return -E_NOLCK;
    return lock_table_set(&d->table, &range);
}

/* The parts of the range that are here. */
static int unlock_here(struct lock_file *file, const Tarn__Lock *lock)
{
    int r = 0;
    for (unsigned i = 0; i < file->n && r == 0; i++)
        r = decide(&file->delegations[i], lock);
    return r;
}

static bool may_ask(struct leases *leases, const struct lock_file *file, const Tarn__Lock *lock)
{
    return lock->type != TARN__LOCK_TYPE__LOCK_UN && file->n + file->asking < DELEGATIONS_MAX &&
           io_mono_ms(leases->io) >= file->quiet_until_ms;
}

static int ask_service(struct leases *leases, uint64_t session, struct lock_file *file, const Tarn__Lock *lock,
                       const struct meta_cred *cred, const struct lock_here *here)
{
    Tarn__Lock ask = *lock;
    ask.want_delegation = file && file->session == session && may_ask(leases, file, lock);
    leases->counters.locks_asked++;
    int r = here->interrupted ? -E_INTR : meta_lock_in(leases->meta, session, &ask, cred);
    if (file && (!ask.want_delegation || (r < 0 && r != -E_WOULDBLOCK))) /* granted there, or nobody knows */
        file->plain = true;
    return r;
}

static int lock_in_file(struct leases *leases, struct lock_file *file, uint64_t session, const Tarn__Lock *lock,
                        const struct meta_cred *cred, const struct lock_here *here)
{
    while (file->busy) {
        int r = fiber_queue_wait(&file->changed, 0);
        if (r < 0)
            return r;
    }
    if (session != meta_session(leases->meta))
        return -E_NO_SESSION;
    if (file->session == 0)
        file->session = session;
    bool unlock = lock->type == TARN__LOCK_TYPE__LOCK_UN;
    struct delegation *d = covering(file, lock->start, lock->end);
    if (d) {
        int r = decide(d, lock);
        if (r == 0 || r == -E_NOMEM || (r == -E_WOULDBLOCK && !lock->wait)) {
            leases->counters.locks_here++;
            return r;
        }
    }
    if (unlock) {
        int r = unlock_here(file, lock); /* the rest is the service's */
        return r < 0 || !file->plain ? r : ask_service(leases, session, file, lock, cred, here);
    }
    if (overlapping(file, lock->start, lock->end)) {
        file->quiet_until_ms = io_mono_ms(leases->io) + QUIET_MS;
        int r = give_back_overlapping(file, lock->start, lock->end);
        if (r < 0)
            return r;
    }
    return ask_service(leases, session, file, lock, cred, here);
}

int lease_lock(struct leases *leases, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    struct lock_here here = {.waiter = lock->waiter};
    struct lock_file *file = file_find(leases, lock->ino, lock->kind);
    if (!file && lock->type != TARN__LOCK_TYPE__LOCK_UN)
        file = file_make(leases, session, lock->ino, lock->kind);
    list_append(&leases->lock_waits, &here.node);
    int r;
    if (file) {
        file->users++;
        r = lock_in_file(leases, file, session, lock, cred, &here);
        file_put(file);
    } else {
        leases->locks_untracked |= lock->type != TARN__LOCK_TYPE__LOCK_UN;
        r = ask_service(leases, session, NULL, lock, cred, &here);
    }
    list_remove(&here.node);
    return r;
}

void lease_lock_interrupt(struct leases *leases, uint64_t waiter)
{
    list_foreach(&leases->lock_waits, it) {
        struct lock_here *here = list_entry(it, struct lock_here, node);
        if (here->waiter == waiter)
            here->interrupted = true;
    }
    meta_lock_interrupt(leases->meta, waiter);
}

/* ------------------------------------------------------------------ the rest */

static int getlk_service(struct leases *leases, const Tarn__GetLock *ask, const struct meta_cred *cred,
                         Tarn__GetLockReply *ret)
{
    Tarn__GetLock request = *ask;
    Tarn__GetLockReply *reply = NULL;
    int r = meta_call(leases->meta, OP_GETLK, &request.base, &request.ctx, cred, &tarn__get_lock_reply__descriptor,
                      &reply, NULL);
    if (r < 0)
        return r;
    *ret = *reply;
    tarn__get_lock_reply__free_unpacked(reply, NULL);
    return 0;
}

int lease_getlk(struct leases *leases, const Tarn__GetLock *ask, const struct meta_cred *cred, Tarn__GetLockReply *ret)
{
    struct lock_file *file = file_find(leases, ask->ino, ask->kind);
    bool ours = file && !file->busy && file->session != 0 && file->session == meta_session(leases->meta);
    const struct delegation *d = ours ? covering(file, ask->start, ask->end) : NULL;
    if (!d)
        return getlk_service(leases, ask, cred, ret);
    struct lock_range range = {
        .owner = {0, ask->owner}, .start = ask->start, .end = ask->end, .type = (uint8_t)ask->type};
    const struct lock_range *found = lock_table_conflict(&d->table, &range);
    tarn__get_lock_reply__init(ret);
    if (!found)
        return 0;
    ret->conflict = true;
    ret->type = (Tarn__LockType)found->type;
    ret->start = found->start;
    ret->end = found->end;
    ret->pid = found->pid;
    ret->session = file->session;
    ret->owner = found->owner.owner;
    return 0;
}

static bool match_drop(const void *arg, const struct lock_range *range)
{
    const Tarn__LockDrop *drop = arg;
    return drop->by_handle ? range->handle == drop->handle : range->owner.owner == drop->owner;
}

static int drop_service(struct leases *leases, uint64_t session, const Tarn__LockDrop *drop, const struct meta_cred *cred)
{
    Tarn__LockDrop request = *drop;
    return meta_call_in(leases->meta, session, OP_LOCK_DROP, &request.base, &request.ctx, cred, NULL, NULL, NULL);
}

int lease_lock_drop(struct leases *leases, uint64_t session, const Tarn__LockDrop *drop, const struct meta_cred *cred)
{
    struct lock_file *file = file_find(leases, drop->ino, drop->kind);
    if (!file)
        return leases->locks_untracked ? drop_service(leases, session, drop, cred) : 0;
    file->users++;
    int r = busy_begin(file);
    size_t removed = 0;
    if (r == 0) {
        for (unsigned i = 0; i < file->n && file->session == session; i++)
            lock_table_remove(&file->delegations[i].table, match_drop, drop, &removed);
        busy_end(file);
    }
    bool plain = file->plain || file->asking > 0 || file->session != session;
    file_put(file);
    return r < 0 || !plain ? r : drop_service(leases, session, drop, cred);
}

void lease_lock_closed(struct leases *leases, uint64_t ino)
{
    for (int kind = TARN__LOCK_KIND__LOCK_FCNTL; kind <= TARN__LOCK_KIND__LOCK_FLOCK; kind++) {
        struct lock_file *file = file_find(leases, ino, (Tarn__LockKind)kind);
        if (!file)
            continue;
        file->users++;
        (void)give_back_overlapping(file, 0, UINT64_MAX);
        if (file->users == 1 && file->n == 0)
            file_reset(file);
        file_put(file);
    }
}
