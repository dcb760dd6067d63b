/* Read leases, exclusive leases and delegated locks between real clients and a real metadata replica, in the
 * simulator: time is virtual and exact. E and L of docs/invariants.md. */
#include "cluster.h"
#include "harness.h"

#include "client/lease.h"
#include "client/lease_lock.h"
#include "common/log.h"
#include "metadata/lease.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>

struct test_case {
    const char *name;
    void (*body)(struct cluster *cluster);
};

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    struct cluster cluster;
    cluster_start(&cluster, io, host, dir);
    ((const struct test_case *)arg)->body(&cluster);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

/* ---- short forms */

static uint64_t file_make(struct user *user, const char *name)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = &root;
    request.name = (char *)(uintptr_t)name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    expect_equal(meta_call(user->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL), 0);
    uint64_t ino = entry->attr->ino;
    tarn__entry__free_unpacked(entry, NULL);
    return ino;
}

static int mode_set(struct user *user, uint64_t ino, uint32_t mode)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.where = &where;
    request.mask = TARN__SET_ATTR_BITS__SA_MODE;
    request.mode = mode;
    return meta_call(user->meta, OP_SETATTR, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static uint64_t lease_of(struct user *user, uint64_t ino)
{
    uint64_t stamp;
    expect_equal(lease_ask(meta_leases(user->meta), &ino, 1, &stamp), 0);
    return stamp;
}

static bool valid(struct user *user, uint64_t ino, uint64_t stamp)
{
    return lease_valid(meta_leases(user->meta), ino, stamp);
}

struct told {
    unsigned n;
    uint64_t ino;
};

static void told(void *arg, uint64_t ino)
{
    struct told *t = arg;
    t->n++;
    t->ino = ino;
}

/* ---- read leases */

static void a_change_ends_the_leases_of_others_before_it_is_answered(struct cluster *cluster)
{
    struct user a, b;
    struct told news = {0};
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    lease_on_recall(meta_leases(a.meta), told, &news);
    uint64_t f = file_make(&a, "f"), g = file_make(&a, "g");
    uint64_t on_f = lease_of(&a, f), on_g = lease_of(&a, g);
    expect(valid(&a, f, on_f) && valid(&a, g, on_g));
    uint64_t before = io_mono_ms(cluster->io);
    expect_equal(mode_set(&b, f, 0600), 0);
    expect(io_mono_ms(cluster->io) - before < LEASE_TERM_MS / 2); /* by answer, not by time */
    expect(!valid(&a, f, on_f) && valid(&a, g, on_g));
    expect_equal(news.n, 1);
    expect_equal(news.ino, f);
    expect(lease_of(&a, f) != 0);
    user_stop(&a);
    user_stop(&b);
}

static void a_change_of_ones_own_ends_ones_own_lease(struct cluster *cluster)
{
    struct user a;
    user_start(&a, cluster, 0);
    uint64_t f = file_make(&a, "f"), stamp = lease_of(&a, f);
    expect_equal(mode_set(&a, f, 0600), 0);
    expect(!valid(&a, f, stamp));
    uint64_t again = lease_of(&a, f);
    while (again == 0) /* until the service has our answer */
        again = lease_of(&a, f);
    expect(valid(&a, f, again) && !valid(&a, f, stamp));
    user_stop(&a);
}

static void a_directorys_lease_covers_names_that_are_not_there(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f"), root = lease_of(&a, 1), on_f = lease_of(&a, f);
    file_make(&b, "g");
    expect(!valid(&a, 1, root) && valid(&a, f, on_f));
    user_stop(&a);
    user_stop(&b);
}

static void nobody_has_a_lease_beside_anothers_writer(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f"), stamp = lease_of(&a, f);
    struct file *file = user_open(&b, "f", O_WRONLY);
    expect(!valid(&a, f, stamp));
    expect_equal(lease_of(&a, f), 0);
    expect(lease_of(&b, f) != 0);
    expect_equal(file_close(file), 0);
    expect(lease_of(&a, f) != 0);
    user_stop(&a);
    user_stop(&b);
}

static void leases_are_kept_by_pings_and_over_a_new_leader(struct cluster *cluster)
{
    struct user a, b;
    struct told news = {0};
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    lease_on_recall(meta_leases(a.meta), told, &news);
    uint64_t f = file_make(&a, "f"), g = file_make(&a, "g");
    uint64_t on_f = lease_of(&a, f), on_g = lease_of(&a, g);
    expect_equal(io_sleep_ms(cluster->io, 10 * LEASE_TERM_MS), 0);
    expect(valid(&a, f, on_f) && valid(&a, g, on_g));
    cluster_server_restart(cluster);
    expect_equal(mode_set(&b, g, 0600), 0); /* waits until leases of the leader before cannot be valid */
    expect(!valid(&a, g, on_g));
    while (!valid(&a, f, on_f))
        expect_equal(io_sleep_ms(cluster->io, 10), 0); /* an event without a push */
    expect_equal(news.n, 1); /* what had not changed was never given up */
    expect_equal(news.ino, g);
    user_stop(&a);
    user_stop(&b);
}

static void an_idle_lease_is_given_back(struct cluster *cluster)
{
    struct user a;
    user_start(&a, cluster, 0);
    uint64_t f = file_make(&a, "f");
    expect(lease_of(&a, f) != 0);
    expect_equal(io_sleep_ms(cluster->io, 40000), 0);
    expect_equal(lease_count(meta_leases(a.meta)), 0);
    user_stop(&a);
}

/* ---- a client that does not do its part: messages by hand */

struct stubborn {
    struct rpc_client *rpc;
    Tarn__Ctx ctx;
};

static ProtobufCMessage *by_hand(struct stubborn *s, unsigned op, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                                 int expected)
{
    struct rpc_call call = {.op = op, .request = request, .reply_type = type};
    expect_equal(rpc_call(s->rpc, &call), expected);
    ProtobufCMessage *reply = call.reply;
    call.reply = NULL;
    rpc_call_fini(&call);
    return reply;
}

static void stubborn_start(struct stubborn *s, struct cluster *cluster, uint32_t timeout_ms)
{
    s->rpc = rpc_client_create(cluster->io, cluster->config.meta[0], &cluster->config.auth);
    tarn__ctx__init(&s->ctx);
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)"stubborn", .len = 8};
    open.timeout_ms = timeout_ms;
    Tarn__SessionOpenReply *reply =
        (Tarn__SessionOpenReply *)by_hand(s, OP_SESSION_OPEN, &open.base, &tarn__session_open_reply__descriptor, 0);
    s->ctx.session = reply->session;
    tarn__session_open_reply__free_unpacked(reply, NULL);
}

static uint64_t stubborn_lease(struct stubborn *s, uint64_t ino)
{
    Tarn__LeaseAsk ask = TARN__LEASE_ASK__INIT;
    ask.ctx = &s->ctx;
    ask.inos = &ino;
    ask.n_inos = 1;
    Tarn__LeaseAskReply *reply = (Tarn__LeaseAskReply *)by_hand(s, OP_LEASE_ASK, &ask.base, &tarn__lease_ask_reply__descriptor, 0);
    uint64_t number = reply->answers[0]->number;
    tarn__lease_ask_reply__free_unpacked(reply, NULL);
    return number;
}

static void who_does_not_answer_delays_others_by_one_term_and_loses_its_session(struct cluster *cluster)
{
    struct user a;
    struct stubborn s;
    user_start(&a, cluster, 0);
    uint64_t f = file_make(&a, "f");
    stubborn_start(&s, cluster, 5000);
    expect(stubborn_lease(&s, f) != 0);
    uint64_t before = io_mono_ms(cluster->io);
    expect_equal(mode_set(&a, f, 0600), 0);
    uint64_t took = io_mono_ms(cluster->io) - before;
    expect(took >= LEASE_TERM_MS && took <= LEASE_HOLD_MS + 100);
    expect_equal(stubborn_lease(&s, f), 0);
    Tarn__SessionPing ping = TARN__SESSION_PING__INIT;
    ping.ctx = &s.ctx;
    for (unsigned i = 0; i < 7; i++) { /* it pings every second, and that does not help */
        struct rpc_call call = {.op = OP_SESSION_PING, .request = &ping.base};
        int err = rpc_call(s.rpc, &call);
        rpc_call_fini(&call);
        expect(err == 0 || (err == -E_NO_SESSION && i >= 3));
        expect_equal(io_sleep_ms(cluster->io, 1000), 0);
    }
    expect(by_hand(&s, OP_SESSION_PING, &ping.base, NULL, -E_NO_SESSION) == NULL);
    rpc_client_destroy(s.rpc);
    user_stop(&a);
}

/* ---- exclusive leases */

struct kept_back {
    struct user *user;
    uint64_t handle, number, size;
    unsigned flushes;
};

static int flush(void *arg, uint64_t ino, uint64_t *ret_size, uint64_t *ret_mtime)
{
    struct kept_back *k = arg;
    k->flushes++;
    *ret_size = k->size;
    *ret_mtime = 77;
    return 0;
}

/* Opens for writing and asks for the exclusive lease. */
static void exclusive_open(struct user *user, uint64_t ino, struct kept_back *k)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    Tarn__Open request = TARN__OPEN__INIT;
    request.where = &where;
    request.flags = O_WRONLY;
    request.want_exclusive = true;
    Tarn__Entry *entry = NULL;
    expect_equal(meta_call(user->meta, OP_OPEN, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL), 0);
    *k = (struct kept_back){.user = user, .handle = entry->handle, .number = entry->exclusive};
    tarn__entry__free_unpacked(entry, NULL);
    if (k->number != 0)
        expect_equal(lease_exclusive_begin(meta_leases(user->meta), ino, k->number, flush, k), 0);
}

static void handle_drop(struct user *user, uint64_t handle)
{
    Tarn__Close request = TARN__CLOSE__INIT;
    request.handle = handle;
    expect_equal(meta_call(user->meta, OP_CLOSE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
}

static uint64_t size_seen(struct user *user, uint64_t ino, uint64_t *ret_mtime)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    expect_equal(meta_call(user->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, &tarn__lookup_reply__descriptor, &reply, NULL), 0);
    uint64_t size = reply->attr->size;
    *ret_mtime = reply->attr->mtime;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return size;
}

static void whoever_looks_sees_what_was_kept_back(struct cluster *cluster)
{
    struct user a, b;
    struct kept_back k, second;
    uint64_t mtime;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    exclusive_open(&a, f, &k);
    expect(k.number != 0 && lease_exclusive_valid(meta_leases(a.meta), f));
    k.size = 5000;
    uint64_t before = io_mono_ms(cluster->io);
    expect_equal(size_seen(&b, f, &mtime), 5000);
    expect(io_mono_ms(cluster->io) - before < 500);
    expect_equal(mtime, 77);
    expect_equal(k.flushes, 1);
    expect(!lease_exclusive_valid(meta_leases(a.meta), f));
    exclusive_open(&b, f, &second);
    expect_equal(second.number, 0); /* a still has it open */
    handle_drop(&a, k.handle);
    handle_drop(&b, second.handle);
    exclusive_open(&b, f, &second);
    expect(second.number != 0);
    expect_equal(lease_exclusive_end(meta_leases(b.meta), f), 0);
    expect_equal(second.flushes, 1);
    handle_drop(&b, second.handle);
    user_stop(&a);
    user_stop(&b);
}

/* Two opens of one client: the reply of the second comes first, and its lease has gone back when the other comes. */
static void an_older_grant_brings_nothing_once_a_newer_one_went_back(struct cluster *cluster)
{
    struct user a;
    struct kept_back first, second;
    user_start(&a, cluster, 0);
    struct leases *leases = meta_leases(a.meta);
    uint64_t f = file_make(&a, "f");
    exclusive_open(&a, f, &first);
    exclusive_open(&a, f, &second);
    expect(first.number != 0 && second.number > first.number);
    expect_equal(lease_exclusive_end(leases, f), 0);
    expect_equal(lease_exclusive_begin(leases, f, first.number, flush, &first), -E_STALE);
    expect(!lease_exclusive_valid(leases, f));
    handle_drop(&a, first.handle);
    handle_drop(&a, second.handle);
    exclusive_open(&a, f, &first); /* a newer one does */
    expect(first.number > second.number && lease_exclusive_valid(leases, f));
    expect_equal(lease_exclusive_end(leases, f), 0);
    handle_drop(&a, first.handle);
    user_stop(&a);
}

static void an_exclusive_lease_outlives_the_leader(struct cluster *cluster)
{
    struct user a, b;
    struct kept_back k;
    uint64_t mtime;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    exclusive_open(&a, f, &k);
    k.size = 9;
    cluster_server_restart(cluster);
    expect(lease_exclusive_valid(meta_leases(a.meta), f));
    expect_equal(size_seen(&b, f, &mtime), 9);
    expect_equal(k.flushes, 1);
    handle_drop(&a, k.handle);
    user_stop(&a);
    user_stop(&b);
}

static void a_holder_that_returns_nothing_loses_its_session(struct cluster *cluster)
{
    struct user b;
    struct stubborn s;
    uint64_t mtime;
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&b, "f");
    stubborn_start(&s, cluster, 3000);
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = f;
    Tarn__Open open = TARN__OPEN__INIT;
    open.ctx = &s.ctx;
    s.ctx.seq = 1;
    open.where = &where;
    open.flags = O_WRONLY;
    open.want_exclusive = true;
    Tarn__Entry *entry = (Tarn__Entry *)by_hand(&s, OP_OPEN, &open.base, &tarn__entry__descriptor, 0);
    expect(entry->exclusive != 0);
    tarn__entry__free_unpacked(entry, NULL);
    expect_equal(size_seen(&b, f, &mtime), 0);
    Tarn__SessionPing ping = TARN__SESSION_PING__INIT;
    ping.ctx = &s.ctx;
    expect(by_hand(&s, OP_SESSION_PING, &ping.base, NULL, -E_NO_SESSION) == NULL);
    rpc_client_destroy(s.rpc);
    user_stop(&b);
}

/* ---- delegated locks */

static int lock_one(struct user *user, uint64_t ino, uint64_t owner, int type, uint64_t start, uint64_t end, bool wait)
{
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = ino;
    lock.type = (Tarn__LockType)type;
    lock.start = start;
    lock.end = end;
    lock.owner = owner;
    lock.wait = wait;
    lock.waiter = wait ? meta_lock_waiter(user->meta) : 0;
    return lease_lock(meta_leases(user->meta), meta_session(user->meta), &lock, &meta_root);
}

enum { UN = TARN__LOCK_TYPE__LOCK_UN, SH = TARN__LOCK_TYPE__LOCK_SH, EX = TARN__LOCK_TYPE__LOCK_EX };

static const struct lease_counters *counted(struct user *user)
{
    return lease_counters(meta_leases(user->meta));
}

static void an_uncontended_lock_costs_no_round_trip(struct cluster *cluster)
{
    struct user a;
    user_start(&a, cluster, 0);
    uint64_t f = file_make(&a, "f");
    for (unsigned i = 0; i < 1000; i++) {
        expect_equal(lock_one(&a, f, 1, EX, i, i + 10, false), 0);
        expect_equal(lock_one(&a, f, 1, UN, 0, UINT64_MAX, false), 0);
    }
    expect_equal(counted(&a)->locks_asked, 1);
    expect_equal(counted(&a)->locks_here, 1999);
    expect_equal(lock_one(&a, f, 1, EX, 0, 9, false), 0);
    expect_equal(lock_one(&a, f, 2, SH, 5, 5, false), -E_WOULDBLOCK);
    lease_lock_closed(meta_leases(a.meta), f);
    expect_equal(counted(&a)->returned, 1);
    user_stop(&a);
}

static void locks_here_are_seen_by_others(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    expect_equal(lock_one(&a, f, 1, EX, 0, 9, false), 0);
    expect_equal(lock_one(&a, f, 1, SH, 20, 29, false), 0);
    uint64_t before = io_mono_ms(cluster->io);
    expect_equal(lock_one(&b, f, 1, EX, 5, 5, false), -E_WOULDBLOCK);
    expect_equal(lock_one(&b, f, 1, SH, 20, 20, false), 0);
    expect(io_mono_ms(cluster->io) - before < 500);
    Tarn__GetLock ask = TARN__GET_LOCK__INIT;
    Tarn__GetLockReply found;
    ask.ino = f;
    ask.type = TARN__LOCK_TYPE__LOCK_EX;
    ask.start = 3;
    ask.end = 3;
    ask.owner = 9;
    expect_equal(lease_getlk(meta_leases(b.meta), &ask, &meta_root, &found), 0);
    expect(found.conflict && found.start == 0 && found.end == 9);
    expect_equal(lock_one(&a, f, 1, UN, 0, UINT64_MAX, false), 0);
    expect_equal(lock_one(&b, f, 1, EX, 5, 5, false), 0);
    user_stop(&a);
    user_stop(&b);
}

struct locker {
    struct user *user;
    uint64_t ino, owner;
    int result;
    struct fiber_group group;
};

static void locker_fiber(void *arg)
{
    struct locker *l = arg;
    l->result = lock_one(l->user, l->ino, l->owner, EX, 0, UINT64_MAX, true);
    fiber_group_done(&l->group);
}

static void locker_start(struct locker *l, struct user *user, uint64_t ino, uint64_t owner)
{
    *l = (struct locker){.user = user, .ino = ino, .owner = owner, .result = 1};
    fiber_group_add(&l->group);
    expect_equal(fiber_spawn(user->cluster->io, "locker", locker_fiber, l), 0);
}

static void a_wait_ends_when_the_holder_unlocks(struct cluster *cluster)
{
    struct user a, b;
    struct locker wait_b, wait_a;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    expect_equal(lock_one(&a, f, 1, EX, 0, UINT64_MAX, false), 0);
    locker_start(&wait_b, &b, f, 1);
    expect_equal(io_sleep_ms(cluster->io, 100), 0);
    locker_start(&wait_a, &a, f, 2); /* of the holder's own client: behind the other */
    expect_equal(io_sleep_ms(cluster->io, 100), 0);
    expect(wait_b.result == 1 && wait_a.result == 1);
    expect_equal(lock_one(&a, f, 1, UN, 0, UINT64_MAX, false), 0);
    fiber_group_wait(&wait_b.group);
    expect_equal(wait_b.result, 0);
    expect_equal(wait_a.result, 1);
    expect_equal(lock_one(&b, f, 1, UN, 0, UINT64_MAX, false), 0);
    fiber_group_wait(&wait_a.group);
    expect_equal(wait_a.result, 0);
    user_stop(&a);
    user_stop(&b);
}

/* Two files, each lock granted here; each process then wants the other's. Across clients, and within one. */
static void deadlock_between(struct cluster *cluster, struct user *one, struct user *two)
{
    uint64_t f = file_make(one, one == two ? "f1" : "f2"), g = file_make(one, one == two ? "g1" : "g2");
    struct locker first, second;
    expect_equal(lock_one(one, f, 1, EX, 0, 0, false), 0);
    expect_equal(lock_one(two, g, 2, EX, 0, 0, false), 0);
    locker_start(&first, one, g, 1);
    expect_equal(io_sleep_ms(cluster->io, 50), 0);
    locker_start(&second, two, f, 2);
    expect_equal(io_sleep_ms(cluster->io, 5000), 0);
    expect((first.result == -E_DEADLOCK) != (second.result == -E_DEADLOCK)); /* one of them, and only one */
    expect_equal(first.result == 1 ? lock_one(two, g, 2, UN, 0, 0, false) : lock_one(one, f, 1, UN, 0, 0, false), 0);
    fiber_group_wait(&first.group);
    fiber_group_wait(&second.group);
    expect(first.result == 0 || second.result == 0);
}

static void no_deadlock_goes_unseen(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    deadlock_between(cluster, &a, &a);
    deadlock_between(cluster, &a, &b);
    user_stop(&a);
    user_stop(&b);
}

static void delegations_outlive_the_leader(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    expect_equal(lock_one(&a, f, 1, EX, 0, 9, false), 0);
    cluster_server_restart(cluster);
    expect_equal(lock_one(&a, f, 1, EX, 10, 19, false), 0);
    expect_equal(counted(&a)->locks_asked, 1);
    expect_equal(lock_one(&b, f, 1, EX, 15, 15, false), -E_WOULDBLOCK);
    expect_equal(lock_one(&b, f, 1, EX, 20, 20, false), 0);
    user_stop(&a);
    user_stop(&b);
}

static void an_interrupted_wait_for_a_delegated_lock_ends(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 0);
    user_start(&b, cluster, 0);
    uint64_t f = file_make(&a, "f");
    expect_equal(lock_one(&a, f, 1, EX, 0, 9, false), 0);
    struct locker l;
    locker_start(&l, &b, f, 1);
    expect_equal(io_sleep_ms(cluster->io, 50), 0);
    lease_lock_interrupt(meta_leases(b.meta), 1); /* the client's first waiter */
    fiber_group_wait(&l.group);
    expect_equal(l.result, -E_INTR);
    expect_equal(lock_one(&a, f, 1, UN, 0, UINT64_MAX, false), 0);
    expect_equal(lock_one(&a, f, 1, EX, 0, UINT64_MAX, false), 0);
    user_stop(&a);
    user_stop(&b);
}

/* Counts under a lock, by three processes of each of two clients, while the leader restarts now and then. */
struct counting {
    struct user *user;
    uint64_t ino, owner;
    unsigned *inside, *total;
    unsigned rounds;
    struct fiber_group *group;
};

static void counting_fiber(void *arg)
{
    struct counting *c = arg;
    for (unsigned i = 0; i < c->rounds; i++) {
        expect_equal(lock_one(c->user, c->ino, c->owner, EX, 0, UINT64_MAX, true), 0);
        expect_equal(++*c->inside, 1);
        unsigned before = *c->total;
        fiber_yield();
        if (i % 5 == 0)
            expect_equal(io_sleep_ms(c->user->cluster->io, 3), 0);
        *c->total = before + 1;
        --*c->inside;
        expect_equal(lock_one(c->user, c->ino, c->owner, UN, 0, UINT64_MAX, false), 0);
        if (i % 40 == 39)
            expect_equal(io_sleep_ms(c->user->cluster->io, 1500), 0);
    }
    fiber_group_done(c->group);
}

static void nobody_is_lost_in_a_count_of_many(struct cluster *cluster)
{
    struct user users[2];
    struct counting c[6];
    struct fiber_group group = {0};
    unsigned inside = 0, total = 0;
    for (unsigned i = 0; i < 2; i++)
        user_start(&users[i], cluster, 0);
    uint64_t f = file_make(&users[0], "f");
    expect_equal(mode_set(&users[1], f, 0600), 0); /* it has a session */
    for (unsigned i = 0; i < 6; i++) {
        c[i] = (struct counting){.user = &users[i % 2], .ino = f, .owner = 10 + i, .inside = &inside, .total = &total, .rounds = 100, .group = &group};
        fiber_group_add(&group);
        expect_equal(fiber_spawn(cluster->io, "counting", counting_fiber, &c[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        expect_equal(io_sleep_ms(cluster->io, 700), 0);
        cluster_server_restart(cluster);
    }
    fiber_group_wait(&group);
    expect_equal(total, 600);
    for (unsigned i = 0; i < 2; i++)
        user_stop(&users[i]);
}

#define CASE(fn) {#fn, fn}
static const struct test_case cases[] = {
    CASE(a_change_ends_the_leases_of_others_before_it_is_answered),
    CASE(a_change_of_ones_own_ends_ones_own_lease),
    CASE(a_directorys_lease_covers_names_that_are_not_there),
    CASE(nobody_has_a_lease_beside_anothers_writer),
    CASE(leases_are_kept_by_pings_and_over_a_new_leader),
    CASE(an_idle_lease_is_given_back),
    CASE(who_does_not_answer_delays_others_by_one_term_and_loses_its_session),
    CASE(whoever_looks_sees_what_was_kept_back),
    CASE(an_older_grant_brings_nothing_once_a_newer_one_went_back),
    CASE(an_exclusive_lease_outlives_the_leader),
    CASE(a_holder_that_returns_nothing_loses_its_session),
    CASE(an_uncontended_lock_costs_no_round_trip),
    CASE(locks_here_are_seen_by_others),
    CASE(a_wait_ends_when_the_holder_unlocks),
    CASE(no_deadlock_goes_unseen),
    CASE(delegations_outlive_the_leader),
    CASE(an_interrupted_wait_for_a_delegated_lock_ends),
    CASE(nobody_is_lost_in_a_count_of_many),
};

int main(int argc, char **argv)
{
    log_init("lease_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[64];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("leases", tests, ARRAY_SIZE(cases), NULL, NULL);
}
