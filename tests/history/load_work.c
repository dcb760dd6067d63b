/* The operations of the load: names, sizes, locks with what they guard. */
#include "load_impl.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <stdio.h>

#define HOLD_MS_MAX 40
#define GIVE_BACK_TRIES 20
#define TURN_NS UINT64_C(3000000000)
#define GLANCE_NS UINT64_C(2500000000)
#define RENAME_EXCHANGE_FLAG 2 /* renameat2(2) */

uint64_t load_draw(struct load *load, uint64_t bound)
{
    return prng_below(&load->prng, bound);
}

static void name_of(uint64_t number, char out[16])
{
    snprintf(out, 16, "n%u", (unsigned)number);
}

void load_where(uint64_t ino, Tarn__Where *where)
{
    tarn__where__init(where);
    where->ino = ino;
}

/* ---- names */

/* A name's number is the owner of what it stands for: the client chooses it, so an answer that is lost leaves no riddle. */
static int create(struct load *load, uint64_t dir, const struct history_op *op)
{
    char name[16];
    Tarn__Where parent;
    Tarn__Create request = TARN__CREATE__INIT;
    struct meta_cred cred = {.uid = (uint32_t)op->b, .gid = 1};
    name_of(op->a, name);
    load_where(dir, &parent);
    request.parent = &parent;
    request.name = name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    request.exclusive = true;
    return load_call(load, OP_CREATE, &request.base, &request.ctx, &cred, NULL, NULL);
}

static int unlink_name(struct load *load, uint64_t dir, const struct history_op *op)
{
    char name[16];
    Tarn__Where parent;
    Tarn__Unlink request = TARN__UNLINK__INIT;
    name_of(op->a, name);
    load_where(dir, &parent);
    request.parent = &parent;
    request.name = name;
    return load_call(load, OP_UNLINK, &request.base, &request.ctx, &meta_root, NULL, NULL);
}

static int rename_name(struct load *load, uint64_t dir, const struct history_op *op, uint32_t flags)
{
    char from[16], to[16];
    Tarn__Where parent;
    Tarn__Rename request = TARN__RENAME__INIT;
    name_of(op->a, from);
    name_of(op->b, to);
    load_where(dir, &parent);
    request.from = request.to = &parent;
    request.from_name = from;
    request.to_name = to;
    request.flags = flags;
    return load_call(load, OP_RENAME, &request.base, &request.ctx, &meta_root, NULL, NULL);
}

static int lookup(struct load *load, Tarn__Where *where, bool want_lease, Tarn__LookupReply **ret)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = where;
    request.want_lease = want_lease;
    return load_call(load, OP_LOOKUP, &request.base, &request.ctx, &meta_root, &tarn__lookup_reply__descriptor, ret);
}

static int lookup_name(struct load *load, uint64_t dir, const struct history_op *op, uint64_t result[HISTORY_NAMES])
{
    char name[16];
    Tarn__Where where;
    Tarn__LookupReply *reply = NULL;
    name_of(op->a, name);
    load_where(dir, &where);
    where.path = name;
    int err = lookup(load, &where, false, &reply);
    if (err != 0)
        return err;
    result[0] = reply->attr->uid;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return 0;
}

int load_list(struct load *load, uint64_t dir, const char *path, struct load_cache *cache, uint64_t result[HISTORY_NAMES])
{
    struct leases *leases = meta_leases(load->meta);
    struct lease_asking asking;
    Tarn__Where where;
    Tarn__ReadDir request = TARN__READ_DIR__INIT;
    Tarn__ReadDirReply *reply = NULL;
    load_where(dir, &where);
    where.path = (char *)(uintptr_t)path;
    request.where = &where;
    request.max = 100;
    request.attrs = true;
    request.want_lease = cache != NULL && load->options.leases;
    lease_ask_begin(leases, &asking);
    int err = load_call(load, OP_READDIR, &request.base, &request.ctx, &meta_root, &tarn__read_dir_reply__descriptor, &reply);
    uint64_t stamp = lease_ask_end(leases, &asking, err == 0 ? reply->lease : NULL, err == 0 ? reply->dir->version : 0);
    if (err != 0)
        return err;
    for (size_t i = 0; i < reply->n_entries; i++) {
        unsigned number;
        CHECK(sscanf(reply->entries[i]->name, "n%u", &number) == 1 && number < HISTORY_NAMES && result[number] == 0);
        result[number] = reply->entries[i]->attr->uid;
    }
    if (stamp != 0 && cache != NULL)
        load_cache_set(cache, stamp, (1u << HISTORY_NAMES) - 1, result);
    tarn__read_dir_reply__free_unpacked(reply, NULL);
    return 0;
}

int load_directory_ask(struct load *load, uint64_t dir, const struct history_op *op, uint64_t result[HISTORY_NAMES])
{
    switch (op->verb) {
    case VERB_CREATE:
        return create(load, dir, op);
    case VERB_UNLINK:
        return unlink_name(load, dir, op);
    case VERB_RENAME:
        return rename_name(load, dir, op, 0);
    case VERB_EXCHANGE:
        return rename_name(load, dir, op, RENAME_EXCHANGE_FLAG);
    case VERB_LOOKUP:
        return lookup_name(load, dir, op, result);
    default:
        return load_list(load, dir, "", &load->directory_caches[op->key], result);
    }
}

static int directory_do(struct load *load, struct history_op *op)
{
    struct load_cache *cache = &load->directory_caches[op->key];
    uint64_t dir = load->directories[op->key], result[HISTORY_NAMES] = {0};
    if (op->verb == VERB_LOOKUP)
        load_cache_prepare(load, dir, cache);
    uint64_t stamp = cache->stamp;
    size_t at = load_begin(load, op);
    bool changes = op->verb != VERB_LOOKUP && op->verb != VERB_LIST;
    int err;
    if (changes)
        load_change_begin(cache);
    if (!load_cached(load, dir, cache, op, result, &err)) {
        err = load_directory_ask(load, dir, op, result);
        if (op->verb == VERB_LOOKUP && (err == 0 || err == -E_NOENT))
            load_cache_name(load, dir, cache, stamp, op->a, result[0]);
    }
    if (changes)
        load_change_end(load, cache, err);
    memcpy(load_noted(load, at)->result, result, sizeof result);
    load_end(load, at, err);
    return err;
}

static void work_directory(struct load *load)
{
    static const uint8_t verbs[] = {VERB_CREATE, VERB_CREATE, VERB_CREATE,   VERB_UNLINK, VERB_UNLINK,
                                    VERB_RENAME, VERB_RENAME, VERB_EXCHANGE, VERB_LOOKUP, VERB_LIST};
    struct history_op op = {.kind = HISTORY_DIRECTORY,
                            .verb = verbs[load_draw(load, ARRAY_SIZE(verbs))],
                            .key = (uint32_t)load_draw(load, LOAD_DIRECTORIES),
                            .a = load_draw(load, HISTORY_NAMES),
                            .b = load_draw(load, HISTORY_NAMES)};
    if (op.verb == VERB_CREATE)
        op.b = load->options.client * UINT64_C(1000000) + ++load->numbers;
    if ((op.verb == VERB_RENAME || op.verb == VERB_EXCHANGE) && op.a == op.b)
        op.b = (op.b + 1) % HISTORY_NAMES;
    directory_do(load, &op);
}

/* ---- sizes */

int load_size_of(struct load *load, uint64_t ino, struct load_cache *cache, uint64_t *ret)
{
    static const struct history_op stat = {.verb = VERB_STAT};
    struct leases *leases = meta_leases(load->meta);
    struct lease_asking asking;
    Tarn__Where where;
    Tarn__LookupReply *reply = NULL;
    int err;
    if (cache != NULL && load_cached(load, ino, cache, &stat, ret, &err))
        return err;
    load_where(ino, &where);
    lease_ask_begin(leases, &asking);
    err = lookup(load, &where, cache != NULL && load->options.leases, &reply);
    uint64_t stamp = lease_ask_end(leases, &asking, err == 0 ? reply->lease : NULL, err == 0 ? reply->attr->version : 0);
    if (err != 0)
        return err;
    *ret = reply->attr->size;
    if (stamp != 0 && cache != NULL)
        load_cache_set(cache, stamp, 1, ret);
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return 0;
}

int load_size_set(struct load *load, uint64_t ino, uint32_t mask, uint64_t size, uint64_t append_bytes, uint64_t *ret)
{
    Tarn__Where where;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    Tarn__Entry *entry = NULL;
    load_where(ino, &where);
    request.where = &where;
    request.mask = mask;
    request.size = size;
    request.append_bytes = append_bytes;
    int err = load_call(load, OP_SETATTR, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry);
    if (err == 0) {
        *ret = entry->attr->size;
        tarn__entry__free_unpacked(entry, NULL);
    }
    return err;
}

static int size_do(struct load *load, struct history_op *op)
{
    size_t at = load_begin(load, op);
    uint64_t ino = load->sizes[op->key], size = 0;
    struct load_cache *cache = &load->size_caches[op->key];
    int err;
    if (op->verb != VERB_STAT)
        load_change_begin(cache);
    if (op->verb == VERB_APPEND)
        err = load_size_set(load, ino, TARN__SET_ATTR_BITS__SA_GROW, 0, op->a, &size);
    else if (op->verb == VERB_GROW)
        err = load_size_set(load, ino, TARN__SET_ATTR_BITS__SA_GROW, op->a, 0, &size);
    else if (op->verb == VERB_CUT)
        err = load_size_set(load, ino, TARN__SET_ATTR_BITS__SA_SIZE, op->a, 0, &size);
    else
        err = load_size_of(load, ino, cache, &size);
    if (op->verb != VERB_STAT)
        load_change_end(load, cache, err);
    load_noted(load, at)->result[0] = size;
    load_end(load, at, err);
    return err;
}

static void work_size(struct load *load)
{
    static const uint8_t verbs[] = {VERB_APPEND, VERB_APPEND, VERB_APPEND, VERB_GROW, VERB_CUT, VERB_STAT, VERB_STAT};
    struct history_op op = {.kind = HISTORY_SIZE, .verb = verbs[load_draw(load, ARRAY_SIZE(verbs))], .key = (uint32_t)load_draw(load, LOAD_SIZES)};
    op.a = op.verb == VERB_APPEND ? 1 + load_draw(load, 1000) : load_draw(load, 100000);
    size_do(load, &op);
}

/* ---- locks */

static int lock_ask(struct load *load, struct load_worker *worker, const struct history_op *op, uint64_t waiter)
{
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = load->locks[op->key];
    lock.kind = op->key % 2 == 0 ? TARN__LOCK_KIND__LOCK_FCNTL : TARN__LOCK_KIND__LOCK_FLOCK;
    lock.type = op->verb == VERB_UNLOCK ? TARN__LOCK_TYPE__LOCK_UN
                : op->a == 1            ? TARN__LOCK_TYPE__LOCK_EX
                                        : TARN__LOCK_TYPE__LOCK_SH;
    lock.end = UINT64_MAX;
    lock.owner = worker->number;
    lock.wait = op->verb == VERB_LOCK && op->b == 0;
    lock.waiter = lock.wait ? waiter : 0;
    if (load->options.leases)
        return lease_lock(meta_leases(load->meta), op->owner >> 16, &lock, &meta_root);
    if (lock.wait || op->verb == VERB_LOCK)
        return meta_lock(load->meta, &lock, &meta_root);
    return load_call(load, OP_LOCK, &lock.base, &lock.ctx, &meta_root, NULL, NULL);
}

/* All that the owner has in the file, as a close does it. */
static int lock_drop(struct load *load, struct load_worker *worker, const struct history_op *op)
{
    Tarn__LockDrop drop = TARN__LOCK_DROP__INIT;
    drop.ino = load->locks[op->key];
    drop.kind = op->key % 2 == 0 ? TARN__LOCK_KIND__LOCK_FCNTL : TARN__LOCK_KIND__LOCK_FLOCK;
    drop.owner = worker->number;
    return lease_lock_drop(meta_leases(load->meta), op->owner >> 16, &drop, &meta_root);
}

static int unlock(struct load *load, struct load_worker *worker, const struct history_op *op)
{
    int err = load->options.leases && load_draw(load, 4) == 0 ? lock_drop(load, worker, op) : lock_ask(load, worker, op, 0);
    return err;
}

/* What the client may have decided itself does not show that its session lives. */
static void lock_end(struct load *load, size_t at, int err)
{
    if (load->options.leases)
        load_end_here(load, at, err);
    else
        load_end(load, at, err);
}

static int lock_forget(struct load *load, uint64_t ino, uint64_t waiter)
{
    Tarn__LockCancel cancel = TARN__LOCK_CANCEL__INIT;
    cancel.ino = ino;
    cancel.waiter = waiter;
    return load_call(load, OP_LOCK_CANCEL, &cancel.base, &cancel.ctx, &meta_root, NULL, NULL);
}

/* Until it is certain that nothing is held or waited for, or the session is over. */
static void give_back(struct load *load, struct load_worker *worker, const struct history_op *taken, uint64_t session, uint64_t waiter)
{
    struct history_op op = {.kind = HISTORY_LOCK, .verb = VERB_UNLOCK, .key = taken->key, .owner = taken->owner};
    int err = -E_UNAVAIL;
    for (unsigned i = 0; i < GIVE_BACK_TRIES && load_session(load) == session; i++) {
        err = waiter == 0 ? 0 : lock_forget(load, load->locks[op.key], waiter);
        if (load_certain(err) && load_session(load) == session) {
            size_t at = load_begin(load, &op);
            err = unlock(load, worker, &op);
            lock_end(load, at, err);
        }
        if (load_certain(err) || err == -E_CANCELED)
            return;
    }
    worker->stuck = true;
    worker->stuck_session = session;
}

/* Reads the guarded number and writes the next. The lock is held unless the session is over. */
static void guarded_change(struct load *load, struct load_worker *worker, const struct history_op *held, uint64_t session)
{
    struct history_op op = {.kind = HISTORY_LOCK, .verb = VERB_READ, .key = held->key, .owner = held->owner};
    uint64_t ino = load->guarded[held->key], now = 0;
    size_t at = load_begin(load, &op);
    int err = load_size_of(load, ino, &load->guarded_caches[held->key], &now);
    load_noted(load, at)->result[0] = now;
    load_end(load, at, err);
    if (err != 0 || io_sleep_ms(fiber_io(), load_draw(load, HOLD_MS_MAX)) != 0 || load_session(load) != session)
        return;
    op.verb = VERB_WRITE;
    op.a = now + 1;
    at = load_begin(load, &op);
    load_change_begin(&load->guarded_caches[held->key]);
    err = load_size_set(load, ino, TARN__SET_ATTR_BITS__SA_SIZE, op.a, 0, &now);
    load_change_end(load, &load->guarded_caches[held->key], err);
    load_end(load, at, err);
}

/* Mostly one that the others leave alone for a while: only then are delegations given, and worth something. */
static uint32_t lock_key(struct load *load)
{
    uint64_t turn = load->options.client + load_now(load) / TURN_NS;
    return (uint32_t)(load_draw(load, 4) > 0 ? turn % LOAD_LOCKS : load_draw(load, LOAD_LOCKS));
}

static void lock_work(struct load *load, struct load_worker *worker, uint64_t session, uint32_t key)
{
    struct history_op op = {.kind = HISTORY_LOCK,
                            .verb = VERB_LOCK,
                            .key = key,
                            .a = load_draw(load, 3) > 0,
                            .b = load_draw(load, 3) == 0,
                            .owner = session << 16 | worker->number};
    uint64_t waiter = op.b == 0 ? meta_lock_waiter(load->meta) : 0;
    worker->waiter = waiter;
    size_t at = load_begin(load, &op);
    int err = lock_ask(load, worker, &op, waiter);
    worker->waiter = 0;
    if (err == -E_INTR) { /* taken out of the queue: it happened not at all */
        load_noted(load, at)->verb = VERB_UNLOCK;
        lock_end(load, at, 0);
        return;
    }
    lock_end(load, at, err);
    if (err == -E_WOULDBLOCK || (load_certain(err) && err != 0) || err == -E_CANCELED)
        return;
    if (err == 0 && op.a == 1)
        guarded_change(load, worker, &op, session);
    give_back(load, worker, &op, session, err == 0 ? 0 : waiter);
}

static void work_lock(struct load *load, struct load_worker *worker)
{
    uint64_t session = load_session(load);
    if (session == 0 || (worker->stuck && worker->stuck_session == session))
        return; /* the other operations open a session */
    worker->stuck = false;
    uint32_t key = lock_key(load);
    load->lock_users[key]++;
    lock_work(load, worker, session, key);
    if (worker->stuck)
        return; /* it counts as open for as long as this client lives */
    if (--load->lock_users[key] == 0 && load->options.leases && load_draw(load, 8) == 0)
        lease_lock_closed(meta_leases(load->meta), load->locks[key]);
}

/* Half of the time a reader asks nothing, two of them in turn: one that hangs in a question would not use what it knows while it
 * is cut off. */
static bool only_here(struct load *load, const struct load_worker *worker)
{
    uint64_t turn = load_now(load) / GLANCE_NS + load->options.client + (load->options.workers - worker->number);
    return load->options.leases && turn % 2 == 0;
}

static void work_look(struct load *load, const struct load_worker *worker)
{
    static const uint8_t verbs[] = {VERB_LOOKUP, VERB_LIST};
    struct history_op stat = {.kind = HISTORY_SIZE, .verb = VERB_STAT, .key = (uint32_t)load_draw(load, LOAD_SIZES)};
    struct history_op look = {.kind = HISTORY_DIRECTORY,
                              .verb = verbs[load_draw(load, ARRAY_SIZE(verbs))],
                              .key = (uint32_t)load_draw(load, LOAD_DIRECTORIES),
                              .a = load_draw(load, HISTORY_NAMES)};
    bool here = only_here(load, worker);
    if (load_draw(load, 2) == 0) {
        if (!here || load_is_cached(load, load->sizes[stat.key], &load->size_caches[stat.key], &stat))
            size_do(load, &stat);
    } else if (!here || load_is_cached(load, load->directories[look.key], &load->directory_caches[look.key], &look)) {
        directory_do(load, &look);
    }
}

void load_interrupt(struct load *load, const struct load_worker *worker)
{
    if (worker->waiter != 0 && load->options.leases)
        lease_lock_interrupt(meta_leases(load->meta), worker->waiter);
    else if (worker->waiter != 0)
        meta_lock_interrupt(load->meta, worker->waiter);
}

/* A wait of another worker ends early. */
static void work_interrupt(struct load *load)
{
    load_interrupt(load, &load->workers[load_draw(load, load->options.workers)]);
}

/* ---- */

void load_work(struct load *load, struct load_worker *worker)
{
    uint64_t what = load_draw(load, load->options.snapshots ? 26 : 24);
    if (worker->number > load->options.workers - load->options.readers)
        work_look(load, worker);
    else if (what < 8)
        work_directory(load);
    else if (what < 13)
        work_size(load);
    else if (what < 19)
        work_lock(load, worker);
    else if (what < 20)
        work_interrupt(load);
    else if (what < 24)
        load_kept_work(load);
    else
        load_snapshot_work(load);
}

int load_look(struct load *load)
{
    int err = 0;
    for (uint32_t i = 0; i < LOAD_DIRECTORIES && err == 0; i++)
        err = directory_do(load, &(struct history_op){.kind = HISTORY_DIRECTORY, .verb = VERB_LIST, .key = i});
    for (uint32_t i = 0; i < LOAD_SIZES && err == 0; i++)
        err = size_do(load, &(struct history_op){.kind = HISTORY_SIZE, .verb = VERB_STAT, .key = i});
    for (uint32_t i = 0; i < LOAD_LOCKS && err == 0; i++) {
        size_t at = load_begin(load, &(struct history_op){.kind = HISTORY_LOCK, .verb = VERB_READ, .key = i});
        uint64_t number = 0;
        err = load_size_of(load, load->guarded[i], NULL, &number);
        load_noted(load, at)->result[0] = number;
        load_end(load, at, err);
    }
    return err == 0 ? load_kept_look(load) : err;
}
