/* A replica that starts with an empty directory. It may be new, or it may have lost its disk: then it has
 * forgotten votes it gave and entries it acknowledged, and by voting again it could help a leader to power who lacks what
 * was committed. So it takes entries like any other, but gives its vote (to itself, too) only when (R9)
 *
 *   every other voter has told its term and the end of its log,
 *   the candidate's log reaches at least as far as the furthest of these ends, and
 *   the vote is in a term above all of these terms.
 *
 * Why that is enough: whatever it acknowledged lay in the log of a leader, so a committed entry is in the log of one of
 * the others or of a leader that they have heard of since; a vote it gave is in a term the candidate, one of the others,
 * has told. All must answer: with fewer the one that knows could be missing. A new service therefore begins when all
 * its replicas have been started once. The file `newcomer` in the directory stands for this state until it is over: until
 * its own log reaches that far and its term is above.
 *
 * Which of the two it is the others tell: when none of them has more than the first entry the service is new, and
 * the first configuration is written from the command line; otherwise it waits for the leader to send everything,
 * configurations too, and until then goes by the configuration that the others tell (only in memory). One that was
 * started to join writes nothing and asks nobody: it waits for the leader's welcome (replica_member.c).
 *
 * A leader that has seen a longer log of this replica would never send it what is missing: libraft takes the refusals for
 * old ones. It falls silent until it is no leader any more; the next one, perhaps itself, begins anew. */
#include "replica_impl.h"
#include "common/err.h"
#include "common/log.h"
#include "raft_types.h"

#include <fcntl.h>
#include <stdio.h>

#define ASK_MS 300
#define COMPLAIN_MS 10000

static void marker_path(const struct replica *replica, char out[REPLICA_PATH_MAX + 16])
{
    snprintf(out, REPLICA_PATH_MAX + 16, "%s/newcomer", replica->dir);
}

int newcomer_init(struct replica *replica, bool empty)
{
    char path[REPLICA_PATH_MAX + 16];
    _cleanup_(io_closep) struct io_file *file = NULL;
    marker_path(replica, path);
    int err = io_open(replica->io, path, empty ? O_RDWR | O_CREAT : O_RDONLY, 0600, &file);
    if (!empty) {
        replica->newcomer = err == 0;
        return err == -E_NOENT ? 0 : err;
    }
    if (err == 0)
        err = io_sync(file);
    if (err == 0)
        err = io_sync_dir(replica->io, replica->dir);
    replica->newcomer = true;
    return err;
}

/* The furthest a log is known to reach: by term, then index. */
static bool reaches(uint64_t term, uint64_t index, uint64_t other_term, uint64_t other_index)
{
    return term > other_term || (term == other_term && index >= other_index);
}

static void own_end(const struct replica *replica, uint64_t *ret_term, uint64_t *ret_index)
{
    *ret_index = wal_last(replica->wal);
    *ret_term = wal_term_of(replica->wal, *ret_index);
    if (*ret_term == 0) { /* all of it is in the snapshot */
        *ret_index = replica->snapshot.index;
        *ret_term = replica->snapshot.term;
    }
}

static bool has_told(const struct replica *replica, uint32_t id)
{
    for (unsigned i = 0; i < replica->n_told; i++)
        if (replica->told[i] == id)
            return true;
    return id == replica->options.id;
}

static bool all_told(const struct replica *replica)
{
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.voter && !has_told(replica, replica->members[i].server.id))
            return false;
    return replica->n_members > 0;
}

bool newcomer_may_vote(const struct replica *replica, uint64_t term, uint64_t last_term, uint64_t last_index)
{
    if (!replica->newcomer)
        return true;
    if (!all_told(replica))
        return false;
    return term > replica->told_term && reaches(last_term, last_index, replica->told_last_term, replica->told_last_index);
}

bool newcomer_may_stand(const struct replica *replica)
{
    uint64_t term, index;
    own_end(replica, &term, &index);
    return newcomer_may_vote(replica, core_term(replica) + 1, term, index);
}

/* ------------------------------------------------------------------ asking and telling */
static void send(struct replica *replica, uint32_t to, unsigned type)
{
    struct transport_message *out = transport_message_new();
    if (out == NULL)
        return;
    out->head.type = type;
    out->head.from = replica->options.id;
    out->head.address = replica->address;
    out->head.term = core_term(replica);
    if (type == RAFT_TYPE_END)
        core_tell_configuration(replica, out);
    own_end(replica, &out->head.last_term, &out->head.last_index);
    transport_send(replica->transport, to, out);
}

void newcomer_asked(struct replica *replica, const Tarn__RaftMessage *in)
{
    send(replica, (uint32_t)in->from, RAFT_TYPE_END);
    if (!replica->core_leads || core_match(replica, (uint32_t)in->from) <= in->last_index)
        return;
    log_warn("replica %u: replica %u has lost its log; an election begins, so that it gets it again", replica->options.id,
             (unsigned)in->from);
    replica->quiet_until_ns = io_mono_ns(replica->io) + 3 * replica->options.election_ms * UINT64_C(1000000);
}

void newcomer_told(struct replica *replica, const Tarn__RaftMessage *in)
{
    if (!replica->newcomer || replica->waiting || has_told(replica, (uint32_t)in->from))
        return;
    if (replica->n_told < REPLICA_SERVERS_MAX)
        replica->told[replica->n_told++] = (uint32_t)in->from;
    core_hint(replica, in);
    replica->told_term = MAX(replica->told_term, in->term);
    if (!reaches(replica->told_last_term, replica->told_last_index, in->last_term, in->last_index)) {
        replica->told_last_term = in->last_term;
        replica->told_last_index = in->last_index;
    }
}

static void ask(struct replica *replica, bool complain)
{
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct replica_server *server = &replica->members[i].server;
        if (!server->voter || has_told(replica, server->id))
            continue;
        send(replica, server->id, RAFT_TYPE_END_ASK);
        if (complain)
            log_warn("replica %u began with an empty directory: it waits for an answer of replica %u before it votes",
                     replica->options.id, server->id);
    }
}

int newcomer_leave(struct replica *replica)
{
    char path[REPLICA_PATH_MAX + 16];
    marker_path(replica, path);
    int err = io_unlink(replica->io, path);
    if (err == 0)
        err = io_sync_dir(replica->io, replica->dir);
    if (err == 0)
        replica->newcomer = false;
    return err;
}

/* None of the others has more than the first entry, which all write alike. */
static bool service_is_new(const struct replica *replica)
{
    return wal_last(replica->wal) == 0 && replica->snapshot.index == 0 && !replica->installing && replica->told_last_index <= 1 &&
           replica->told_last_term <= 1 && replica->hint_index <= 1 && all_told(replica);
}

static int begin_service(struct replica *replica)
{
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    if (service_is_new(replica)) { /* still */
        err = replica_bootstrap(replica);
        if (err == 0)
            err = core_restart(replica);
        else
            replica_fail(replica, err, "write the first entry");
    }
    fiber_mutex_unlock(&replica->step_lock);
    return err;
}

/* Only what the log has on disk counts here: votes in this term and the entries are there. */
static bool over(const struct replica *replica)
{
    uint64_t term, index;
    own_end(replica, &term, &index);
    return !wal_dirty(replica->wal) && newcomer_may_vote(replica, wal_current_term(replica->wal), term, index);
}

static void go_on(struct replica *replica, bool complain)
{
    if (replica->waiting)
        return;
    ask(replica, complain);
    if (service_is_new(replica) && begin_service(replica) != 0)
        return;
    if (all_told(replica) && over(replica) && newcomer_leave(replica) != 0)
        log_warn("replica %u: the file newcomer in %s cannot be removed; it asks again after the next start", replica->options.id,
                 replica->dir);
}

void newcomer_fiber(void *arg)
{
    struct replica *replica = arg;
    uint64_t complained_ms = io_mono_ms(replica->io);
    while (replica->newcomer && !replica->stopping && replica->failed == 0) {
        uint64_t now = io_mono_ms(replica->io);
        bool complain = now - complained_ms > COMPLAIN_MS;
        complained_ms = complain ? now : complained_ms;
        go_on(replica, complain);
        if (fiber_queue_wait(&replica->newcomer_wake, ASK_MS) == -E_CANCELED)
            break;
    }
    fiber_group_done(&replica->fibers);
}
