/* Every disk operation of a replica's life fails once: the 1st, the 2nd, … until none was reached; with an error, without
 * space, by the end of the process, by loss of power; in the first life, and in the second, which recovers. And every
 * allocation (not with the address sanitizer, which has its own allocator), of which nothing may leak. Then a
 * life without faults must find every change that was acknowledged, and tables that break no rule. */
#include "common/err.h"
#include "common/fiber.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "meta.pb-c.h"
#include "metadata/check.h"
#include "metadata/command.h"
#include "metadata/replica_impl.h"
#include "ops.h"
#ifdef SWEEP_MEMORY
#include "fail_alloc.h"
#endif

#include <stdio.h>
#include <stdlib.h>

#define FILES 20
#define LIVES 3 /* the last one without a fault */
#define LEADS_TRIES 400
#define LIFE_MS 120000
#define SWEEP_MAX 5000

enum fault {
    FAULT_IO,
    FAULT_NOSPC,
    FAULT_KILL,
    FAULT_POWER,
#ifdef SWEEP_MEMORY
    FAULT_MEMORY,
#endif
    FAULT_COUNT
};
static const char *const fault_names[] = {"an I/O error", "no space", "kill -9", "loss of power", "no memory"};

struct sweep {
    struct sim *sim;
    struct sim_host *host;
    struct rpc_auth auth;
    enum fault fault;
    unsigned fault_life, life;
    uint64_t nth;
    bool ended, last;
    bool acked[LIVES][FILES];
};

static _Noreturn void broken(const struct sweep *s, const char *what, int err)
{
    fprintf(stderr, "%s at operation or allocation %llu of life %u: %s (%s); again: replica_sweep %u %u %llu\n", fault_names[s->fault],
            (unsigned long long)s->nth, s->fault_life, what, err_name(err), s->fault, s->fault_life, (unsigned long long)s->nth);
    exit(1);
}

/* ---- one life */

/* *ret_session: of a SESSION_OPEN, when not NULL. */
static int propose(struct replica *replica, unsigned op, const ProtobufCMessage *message, int *ret_result, uint64_t *ret_session)
{
    uint8_t body[512];
    struct fsm_result result = {0};
    size_t len = protobuf_c_message_get_packed_size(message);
    if (len > sizeof body)
        abort();
    protobuf_c_message_pack(message, body);
    int err = replica_propose(replica, op, body, len, &result);
    *ret_result = result.err;
    if (err == 0 && result.err == 0 && ret_session != NULL) {
        Tarn__SessionOpenReply *reply = tarn__session_open_reply__unpack(NULL, result.reply_len, result.reply);
        *ret_session = reply == NULL ? 0 : reply->session;
        tarn__session_open_reply__free_unpacked(reply, NULL);
    }
    fsm_result_fini(&result);
    return err;
}

static void file_name(char out[16], unsigned life, unsigned i)
{
    snprintf(out, 16, "f%u-%u", life, i);
}

static void work(struct sweep *s, struct replica *replica)
{
    uint8_t uuid[16] = {(uint8_t)(s->life + 1)};
    int result = 0;
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
    uint64_t session = 0;
    int err = propose(replica, OP_SESSION_OPEN, &open.base, &result, &session);
    for (unsigned i = 0; i < FILES && err != -E_CANCELED; i++) {
        char name[16];
        Tarn__Ctx ctx = TARN__CTX__INIT;
        Tarn__Create create = TARN__CREATE__INIT;
        file_name(name, s->life, i);
        ctx.session = session; /* 0: refused */
        ctx.seq = i + 1;
        create.ctx = &ctx;
        create.name = name;
        create.type = TARN__FILE_TYPE__FT_FILE;
        create.exclusive = true;
        err = propose(replica, OP_CREATE, &create.base, &result, NULL);
        s->acked[s->life][i] = err == 0 && result == 0;
        if (err != 0)
            io_sleep_ms(fiber_io(), 50);
    }
}

static bool has_file(struct kv_txn *txn, unsigned life, unsigned i)
{
    char name[16];
    uint8_t body[128];
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    struct fsm_result result = {0};
    file_name(name, life, i);
    where.path = name;
    lookup.where = &where;
    size_t len = tarn__lookup__pack(&lookup, body);
    int err = fsm_query(txn, OP_LOOKUP, body, len, &result);
    bool there = err == 0 && result.err == 0;
    fsm_result_fini(&result);
    return there;
}

static void complain(void *arg, const char *rule, const char *sentence)
{
    fprintf(stderr, "%s: %s\n", rule, sentence);
}

static void look(struct sweep *s, struct replica *replica)
{
    struct kv_txn *txn;
    struct check_summary summary;
    int err = replica_read(replica, &txn);
    if (err != 0)
        broken(s, "the last life cannot read", err);
    if (check_tables(txn, complain, NULL, &summary) != 0 || summary.violations > 0)
        broken(s, "the tables break a rule", 0);
    for (unsigned life = 0; life < LIVES; life++)
        for (unsigned i = 0; i < FILES; i++)
            if (s->acked[life][i] && !has_file(txn, life, i))
                broken(s, "an acknowledged change is gone", 0);
    kv_abort(txn);
}

static void life_fiber(void *arg)
{
    struct sweep *s = arg;
    const char *addresses[] = {"tcp:m1:7000"};
    struct replica_options options = {.dir = "/meta",
                                      .id = 1,
                                      .n_servers = 1,
                                      .addresses = addresses,
                                      .auth = &s->auth,
                                      .memory_tables = true,
                                      .segment_bytes = KIB(32),
                                      .snapshot_entries = 12,
                                      .trailing_entries = 4};
    struct replica *replica = NULL;
    int err = replica_start(fiber_io(), &options, &replica);
    if (err != 0 && (s->last || (err != -E_IO && err != -E_NOSPC && err != -E_CANCELED && err != -E_NOMEM)))
        broken(s, "the replica does not start", err);
    if (err == 0) {
        for (unsigned i = 0; i < LEADS_TRIES && !replica_leads(replica) && err == 0; i++)
            err = io_sleep_ms(fiber_io(), 10);
        work(s, replica);
        if (s->last)
            look(s, replica);
        replica_stop(replica);
    }
    s->ended = true;
}

static bool has_ended(void *arg)
{
    struct sweep *s = arg;
    return s->ended || !sim_host_up(s->host);
}

static void arm(struct sweep *s)
{
    switch (s->fault) {
    case FAULT_IO:
        sim_disk_fail(s->host, s->nth, 1, -E_IO);
        break;
    case FAULT_NOSPC:
        sim_disk_fail(s->host, s->nth, 3, -E_NOSPC);
        break;
#ifdef SWEEP_MEMORY
    case FAULT_MEMORY:
        fail_alloc_arm(s->nth);
        break;
#endif
    default:
        sim_disk_crash_at(s->host, s->nth, s->fault == FAULT_POWER);
    }
}

/* The life is over; true when the fault was reached. */
static bool disarm(struct sweep *s, uint64_t ops)
{
#ifdef SWEEP_MEMORY
    if (s->fault == FAULT_MEMORY)
        return fail_alloc_disarm();
#endif
    sim_disk_fail(s->host, 0, 0, 0);
    return ops >= s->nth;
}

/* ---- all lives of one fault; true when it was reached */
static bool run(enum fault fault, unsigned fault_life, uint64_t nth)
{
    struct sweep s = {.fault = fault, .fault_life = fault_life, .nth = nth};
    bool reached = false;
    s.sim = sim_create(nth * 10 + fault * 2 + fault_life, NULL);
    s.host = sim_host_create(s.sim, "m1");
    for (s.life = 0; s.life < LIVES; s.life++) {
        struct io *io = s.life == 0 ? sim_host_io(s.host) : sim_host_restart(s.host);
        uint64_t before = sim_disk_ops(s.host);
        s.last = s.life + 1 == LIVES;
        s.ended = false;
        if (fiber_spawn(io, "life", life_fiber, &s) != 0)
            abort();
        if (s.life == fault_life)
            arm(&s);
        if (sim_run(s.sim, LIFE_MS, has_ended, &s) != SIM_DONE)
            broken(&s, "a life does not come to its end", 0);
        if (s.life == fault_life)
            reached = disarm(&s, sim_disk_ops(s.host) - before);
        sim_host_crash(s.host, s.life == 1); /* unwinds; the second life always ends with a loss of power */
        sim_run(s.sim, 1, NULL, NULL);
    }
    unsigned acked = 0;
    for (unsigned i = 0; i < FILES; i++)
        acked += s.acked[LIVES - 1][i];
    if (acked != FILES)
        broken(&s, "the last life, without faults, does not do its work", 0);
    sim_destroy(s.sim);
    return reached;
}

/* The same, and nothing is left of it. */
static bool run_whole(enum fault fault, unsigned fault_life, uint64_t nth)
{
#ifdef SWEEP_MEMORY
    uint64_t live = fail_alloc_live();
    bool reached = run(fault, fault_life, nth);
    if (fail_alloc_live() > live + 1) { /* 1: see core_begin() */
        struct sweep s = {.fault = fault, .fault_life = fault_life, .nth = nth};
        broken(&s, "memory is leaked", 0);
    }
    return reached;
#else
    return run(fault, fault_life, nth);
#endif
}

int main(int argc, char **argv)
{
    unsigned runs = 0;
    log_init("sweep");
    if (argc == 4) /* FAULT LIFE N, as numbers: that one again, with its log */
        return run(FAULT_IO, 0, SWEEP_MAX) || run_whole((enum fault)atoi(argv[1]), (unsigned)atoi(argv[2]), strtoull(argv[3], NULL, 10)) ? 0 : 1;
    log_set_level(LOG_OFF);
    for (unsigned fault = argc == 2 ? (unsigned)atoi(argv[1]) : 0; fault < FAULT_COUNT; fault++) /* from that one on */
        for (unsigned life = 0; life < LIVES - 1; life++) {
            uint64_t nth = 1;
            while (nth < SWEEP_MAX && run_whole(fault, life, nth))
                nth++;
            runs += (unsigned)nth;
            if (nth < 50 || nth == SWEEP_MAX) {
                fprintf(stderr, "%s in life %u: %llu operations were reached\n", fault_names[fault], life, (unsigned long long)nth);
                return 1;
            }
        }
    printf("%u lives with a fault\n", runs);
    return 0;
}
