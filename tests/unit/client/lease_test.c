/* Read leases, exclusive leases and delegated locks between real clients and a real metadata replica, in the
 * simulator: time is virtual and exact. E and L of docs/invariants.md. */
#include "cluster.h"
#include "harness.h"

#include "client/lease.h"
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

#define CASE(fn) {#fn, fn}
static const struct test_case cases[] = {
    CASE(a_change_ends_the_leases_of_others_before_it_is_answered),
    CASE(a_change_of_ones_own_ends_ones_own_lease),
    CASE(a_directorys_lease_covers_names_that_are_not_there),
    CASE(nobody_has_a_lease_beside_anothers_writer),
    CASE(leases_are_kept_by_pings_and_over_a_new_leader),
    CASE(an_idle_lease_is_given_back),
    CASE(who_does_not_answer_delays_others_by_one_term_and_loses_its_session),
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
