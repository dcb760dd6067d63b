/* Proposals in, the state machine, answers out, linearizable reads.
 * One write transaction of the tables for every group of committed entries; answers leave after its
 * commit. The transaction is opened, used and closed without a wait in between. */
#include "replica_impl.h"
#include "common/arena.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "meta.pb-c.h"

#define APPLY_GROUP_MAX 512
#define APPLY_GROUP_BYTES KIB(512) /* about 10,000 files made in batches: 50 ms in which no heartbeat leaves */

/* ------------------------------------------------------------------ lists */
void proposals_init(struct proposals *list)
{
    *list = (struct proposals){.tail = &list->head};
}

void proposals_push(struct proposals *list, struct proposal *proposal)
{
    proposal->next = NULL;
    *list->tail = proposal;
    list->tail = &proposal->next;
    list->count++;
}

struct proposal *proposals_pop(struct proposals *list)
{
    struct proposal *proposal = list->head;
    if (proposal == NULL)
        return NULL;
    list->head = proposal->next;
    if (list->head == NULL)
        list->tail = &list->head;
    list->count--;
    return proposal;
}

void proposals_remove(struct proposals *list, struct proposal *proposal)
{
    struct proposal **at = &list->head;
    while (*at != NULL && *at != proposal)
        at = &(*at)->next;
    if (*at == NULL)
        return;
    *at = proposal->next;
    if (list->tail == &proposal->next)
        list->tail = at;
    list->count--;
}

static void finish(struct proposal *proposal, int err)
{
    proposal->err = err;
    proposal->done = true;
    fiber_wake(proposal->fiber);
}

/* ------------------------------------------------------------------ leadership */
bool replica_leads(const struct replica *replica)
{
    return replica->leads && replica->failed == 0;
}

void replica_give_back(struct replica *replica, unsigned slice, unsigned slices)
{
    kv_give_back(replica->kv, slice, slices);
}

uint64_t replica_applied(const struct replica *replica)
{
    return replica->applied;
}

/* What is in the log may still be committed by the next leader; what is not never will be. */
void replica_leadership_lost(struct replica *replica)
{
    bool led = replica->leads;
    replica->core_leads = replica->leads = false;
    struct proposal *proposal;
    while ((proposal = proposals_pop(&replica->inflight)) != NULL)
        finish(proposal, -E_CONN);
    while ((proposal = proposals_pop(&replica->pending)) != NULL)
        finish(proposal, -E_NOT_LEADER);
    fiber_queue_wake_all(&replica->read_wake);
    if (led && replica->options.on_leader != NULL)
        replica->options.on_leader(replica->options.arg, false);
}

/* A leader knows what was committed before its term once an entry of its own term is applied, or when
 * its log had nothing uncommitted to begin with; ready_index is that entry in both cases. */
void replica_check_ready(struct replica *replica)
{
    if (!replica->core_leads || replica->leads || replica->applied < replica->ready_index)
        return;
    replica->leads = true;
    if (replica->options.on_leader != NULL)
        replica->options.on_leader(replica->options.arg, true);
}

/* ------------------------------------------------------------------ propose */
static int pack(struct replica *replica, unsigned op, const uint8_t *body, size_t body_len,
                struct proposal *proposal)
{
    Tarn__LogCommand command = TARN__LOG_COMMAND__INIT;
    replica->last_real_ns = MAX(replica->last_real_ns, io_real_ns(replica->io));
    command.op = op;
    command.real_ns = replica->last_real_ns;
    command.seed = io_random_u64(replica->io);
    command.body = (ProtobufCBinaryData){.len = body_len, .data = (uint8_t *)(uintptr_t)body};
    proposal->len = tarn__log_command__get_packed_size(&command);
    proposal->data = malloc(proposal->len);
    if (proposal->data == NULL)
        return -E_NOMEM;
    tarn__log_command__pack(&command, proposal->data);
    return 0;
}

static int refusal(const struct replica *replica)
{
    if (replica->failed != 0)
        return replica->failed;
    if (!replica->leads || replica->stopping)
        return -E_NOT_LEADER;
    if (replica->muted || replica->unfit)
        return -E_NOSPC;
    bool full = replica->pending.count + replica->inflight.count >= PROPOSALS_MAX ||
                replica->proposed_bytes >= PROPOSALS_BYTES_MAX;
    return full ? -E_BUSY : 0;
}

static int await(struct replica *replica, struct proposal *proposal)
{
    int err = 0;
    replica->proposed_bytes += proposal->len;
    proposals_push(&replica->pending, proposal);
    fiber_queue_wake_one(&replica->write_wake);
    while (err == 0 && !proposal->done)
        err = fiber_suspend();
    if (!proposal->done) {
        proposals_remove(&replica->pending, proposal);
        proposals_remove(&replica->inflight, proposal);
    }
    replica->proposed_bytes -= proposal->len;
    return proposal->done ? proposal->err : err;
}

int replica_propose(struct replica *replica, unsigned op, const uint8_t *body, size_t body_len,
                    struct fsm_result *ret)
{
    int err = refusal(replica);
    if (err != 0)
        return err;
    if (body_len > PROPOSAL_BYTES_MAX)
        return -E_FBIG;
    struct proposal proposal = {.type = RAFT_ENTRY_COMMAND, .result = ret, .fiber = fiber_self()};
    err = pack(replica, op, body, body_len, &proposal);
    if (err == 0)
        err = await(replica, &proposal);
    free(proposal.data);
    return err;
}

int replica_propose_entry(struct replica *replica, unsigned type, uint8_t *data, size_t len, struct fsm_result *ret)
{
    int err = refusal(replica);
    struct proposal proposal = {.type = type, .data = data, .len = len, .result = ret, .fiber = fiber_self()};
    return err != 0 ? err : await(replica, &proposal);
}

/* ------------------------------------------------------------------ apply */
struct group {
    uint64_t first;
    unsigned n;
    struct writer data;
    size_t offset[APPLY_GROUP_MAX + 1];
    uint64_t term[APPLY_GROUP_MAX];
    unsigned type[APPLY_GROUP_MAX];
    struct fsm_result result[APPLY_GROUP_MAX];
};

static void group_clear(struct group *group)
{
    for (unsigned i = 0; i < group->n; i++) {
        fsm_result_fini(&group->result[i]);
        group->result[i] = (struct fsm_result){0};
    }
    group->n = 0;
    group->data.len = 0;
    group->data.failed = false; /* it had no memory: it is tried again */
}

static void group_free(struct group *group)
{
    if (group == NULL)
        return;
    group_clear(group);
    writer_fini(&group->data);
    free(group);
}

/* Copies the entries; may wait for the disk after a restart. */
static int group_gather(struct replica *replica, struct group *group, uint64_t limit)
{
    group->first = replica->applied + 1;
    while (group->n < APPLY_GROUP_MAX && group->data.len < APPLY_GROUP_BYTES &&
           group->first + group->n <= limit) {
        uint64_t index = group->first + group->n;
        unsigned i = group->n;
        group->offset[i] = group->data.len;
        group->term[i] = wal_term_of(replica->wal, index);
        group->type[i] = wal_type_of(replica->wal, index);
        int err = wal_read(replica->wal, index, &group->data);
        if (err != 0)
            return err;
        group->n++;
        group->offset[group->n] = group->data.len;
    }
    return 0;
}

static int apply_command(struct replica *replica, struct kv_txn *txn, struct group *group, unsigned i)
{
    const uint8_t *data = group->data.data + group->offset[i];
    size_t len = group->offset[i + 1] - group->offset[i];
    _Alignas(16) uint8_t scratch[KIB(2)];
    _cleanup_(arena_fini) struct arena arena;
    arena_init(&arena, scratch, sizeof scratch);
    ProtobufCAllocator allocator = arena_allocator(&arena);
    Tarn__LogCommand *packed = tarn__log_command__unpack(&allocator, len, data);
    if (packed == NULL && arena.failed)
        return -E_NOMEM;
    if (packed == NULL) {
        log_error("replica %u: log entry %llu is not a command", replica->options.id,
                  (unsigned long long)(group->first + i));
        return -E_CORRUPT;
    }
    struct fsm_command command = {.index = group->first + i,
                                  .op = packed->op,
                                  .real_ns = packed->real_ns,
                                  .seed = packed->seed,
                                  .body = packed->body.data,
                                  .body_len = packed->body.len};
    replica->last_real_ns = MAX(replica->last_real_ns, packed->real_ns);
    int err = fsm_apply(txn, &command, &group->result[i]);
    return err;
}

static int group_apply(struct replica *replica, struct group *group)
{
    struct kv_txn *txn;
    int err = kv_begin(replica->kv, true, &txn);
    if (err != 0)
        return err;
    for (unsigned i = 0; err == 0 && i < group->n; i++)
        if (group->type[i] == RAFT_ENTRY_COMMAND)
            err = apply_command(replica, txn, group, i);
    if (err == 0)
        return kv_commit(txn);
    kv_abort(txn);
    return err;
}

/* Gives the result to whoever waits for exactly this entry. */
static void answer(struct replica *replica, struct group *group, unsigned i)
{
    uint64_t index = group->first + i;
    struct fsm_result *result = &group->result[i];
    if (replica->core_leads && replica->options.on_result != NULL &&
        group->type[i] == RAFT_ENTRY_COMMAND)
        replica->options.on_result(replica->options.arg, result);
    struct proposal *proposal = replica->inflight.head;
    if (proposal == NULL || proposal->index != index || proposal->term != group->term[i])
        return;
    proposals_pop(&replica->inflight);
    *proposal->result = *result;
    *result = (struct fsm_result){0};
    finish(proposal, 0);
}

static int configurations(struct replica *replica, struct group *group)
{
    int err = 0;
    for (unsigned i = 0; err == 0 && i < group->n; i++) {
        if (group->type[i] != RAFT_ENTRY_CHANGE)
            continue;
        err = fiber_mutex_lock(&replica->step_lock);
        if (err != 0)
            return err;
        err = core_configuration_applied(replica, group->first + i,
                                         group->data.data + group->offset[i],
                                         group->offset[i + 1] - group->offset[i]);
        fiber_mutex_unlock(&replica->step_lock);
    }
    return err;
}

static int apply_some(struct replica *replica, struct group *group)
{
    int err = group_gather(replica, group, core_apply_limit(replica));
    if (err != 0)
        return err;
    /* While it waited a snapshot may have begun to replace everything. */
    if (replica->installing || replica->applied + 1 != group->first)
        return 0;
    err = group_apply(replica, group);
    if (err != 0)
        return err;
    replica->applied = group->first + group->n - 1;
    err = configurations(replica, group); /* first: who waits for one may ask for the next */
    for (unsigned i = 0; i < group->n; i++)
        answer(replica, group, i);
    fiber_queue_wake_all(&replica->snapshot_wake);
    return err;
}

void apply_fiber(void *arg)
{
    struct replica *replica = arg;
    struct group *group = calloc(1, sizeof *group);
    int err = 0;
    bool complained = false;
    if (group == NULL)
        replica_fail(replica, -E_NOMEM, "begin to apply entries");
    while (err != -E_CANCELED && !replica->stopping && replica->failed == 0) {
        if (replica->applied >= core_apply_limit(replica)) {
            replica_check_ready(replica);
            err = fiber_queue_wait(&replica->apply_wake, 0);
            continue;
        }
        err = apply_some(replica, group);
        group_clear(group);
        replica_check_ready(replica);
        if (err != 0 && err != -E_CANCELED) {
            if (!complained)
                log_error("replica %u: cannot apply entry %llu to the tables in %s: %s; tried again "
                          "until it works",
                          replica->options.id, (unsigned long long)replica->applied + 1, replica->dir,
                          err_sentence(err));
            complained = replica->unfit = true;
            err = io_sleep_ms(replica->io, RETRY_MS);
        } else {
            complained = replica->unfit = false;
        }
    }
    group_free(group);
    fiber_group_done(&replica->fibers);
}

/* ------------------------------------------------------------------ reads */
/* The largest s such that a majority of the voters, with us, has answered an AppendEntries that left here at s or
 * later: until then, by our clock, nobody else led. */
uint64_t replica_quorum_stamp(const struct replica *replica)
{
    uint64_t sorted[REPLICA_SERVERS_MAX];
    bool votes = false;
    for (unsigned i = 0; i < replica->n_members; i++)
        votes |= replica->members[i].server.voter && replica->members[i].server.id == replica->options.id;
    unsigned n = 0, others = member_voters(replica) / 2 + !votes;
    if (others == 0)
        return UINT64_MAX;
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct member *member = &replica->members[i];
        if (member->server.id == replica->options.id || !member->server.voter)
            continue;
        unsigned at = n++;
        for (; at > 0 && sorted[at - 1] < member->stamp; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = member->stamp;
    }
    return sorted[others - 1];
}

/* Followers that answered refuse to vote for an election timeout after, so nobody else can lead for
 * a part of it (lease_ns leaves room for clocks that drift). Without a lease: a round of heartbeats
 * that left after the read began. What was acknowledged is applied here already. */
static bool read_is_safe(const struct replica *replica, uint64_t began_ns)
{
    uint64_t stamp = replica_quorum_stamp(replica), now = io_mono_ns(replica->io);
    return stamp >= began_ns || (!replica->lease_void && stamp > 0 && now - stamp < replica->lease_ns);
}

int replica_read(struct replica *replica, struct kv_txn **ret_txn)
{
    uint64_t began_ns = io_mono_ns(replica->io);
    uint64_t until_ns = began_ns + 2 * replica->options.election_ms * UINT64_C(1000000);
    while (replica_leads(replica) && !read_is_safe(replica, began_ns)) {
        uint64_t now = io_mono_ns(replica->io);
        if (now >= until_ns)
            return -E_UNAVAIL;
        int err = fiber_queue_wait(&replica->read_wake, (until_ns - now) / 1000000 + 1);
        if (err == -E_CANCELED)
            return err;
    }
    if (!replica_leads(replica))
        return -E_NOT_LEADER;
    return kv_read(replica->kv, ret_txn);
}

int replica_look(struct replica *replica, struct kv_txn **ret_txn)
{
    return kv_begin(replica->kv, false, ret_txn);
}
