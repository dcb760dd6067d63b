/* Drives libraft through raft_step() alone. Every
 * event goes in here under step_lock and its update is carried out before the next: term and vote to
 * disk first, then entries into the log, then messages. See replica_impl.h for the rules. */
#include "replica_core.h"
#include "replica_message.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "meta.pb-c.h"
#include "ops.h"
#include <stdio.h>

/* Who frees what an event or update carries changed after 0.22: read the library again for another. */
_Static_assert(RAFT_VERSION_NUMBER / 100 == 22, "written for libraft 0.22");

#define INFLIGHT_ENTRIES_MAX 32768 /* R5 */
/* Until a leader offers its snapshot again: the follower may have crashed and forgotten the first offer. One that is
 * still pulling ignores the repetition, which is a small message. */
#define INSTALL_TIMEOUT_MS 5000

int core_error(int rv)
{
    switch (rv) {
    case 0:
        return 0;
    case RAFT_NOMEM:
        return -E_NOMEM;
    case RAFT_NOTLEADER:
    case RAFT_LEADERSHIPLOST:
        return -E_NOT_LEADER;
    case RAFT_NOSPACE:
        return -E_NOSPC;
    case RAFT_CANTCHANGE:
        return -E_BUSY;
    case RAFT_BADID:
    case RAFT_NOTFOUND:
        return -E_NOENT;
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
        return -E_EXIST;
    case RAFT_MALFORMED:
    case RAFT_CORRUPT:
        return -E_CORRUPT;
    default:
        return -E_IO;
    }
}

void replica_wake_all(struct replica *replica)
{
    fiber_queue_wake_all(&replica->write_wake);
    fiber_queue_wake_all(&replica->flush_done);
    fiber_queue_wake_all(&replica->apply_wake);
    fiber_queue_wake_all(&replica->timer_wake);
    fiber_queue_wake_all(&replica->read_wake);
    fiber_queue_wake_all(&replica->snapshot_wake);
    fiber_queue_wake_all(&replica->newcomer_wake);
    fiber_queue_wake_all(&replica->member_wake);
}

void replica_fail(struct replica *replica, int err, const char *what)
{
    if (replica->failed != 0)
        return;
    replica->failed = err;
    if (err == -E_CANCELED)
        return; /* stopping: everybody sees it at his next wait */
    if (err == -E_PERM)
        log_error("replica %u: was removed from the service and serves no more", replica->options.id);
    else
        log_error("replica %u: cannot %s in %s: %s; it takes no part until it is restarted",
                  replica->options.id, what, replica->dir, err_sentence(err));
    replica_leadership_lost(replica);
    replica_wake_all(replica);
    if (replica->options.on_end != NULL)
        replica->options.on_end(replica->options.arg, err);
}

/* ------------------------------------------------------------------ messages out */
bool core_is_silent(const struct replica *replica)
{
    return io_mono_ns(replica->io) < replica->quiet_until_ns;
}

void core_send(struct replica *replica, const struct raft_message *in)
{
    if (core_is_silent(replica) || in->server_id < 1 || in->server_id > REPLICA_ID_MAX ||
        in->server_id == replica->options.id)
        return;
    if (in->type == RAFT_REQUEST_VOTE && !newcomer_may_vote(replica, in->request_vote.term, in->request_vote.last_log_term,
                                                              in->request_vote.last_log_index))
        return; /* R9 */
    struct transport_message *out = transport_message_new();
    if (out == NULL)
        return; /* as good as lost on the way */
    struct member *to = member_find(replica, in->server_id);
    if (in->type == RAFT_INSTALL_SNAPSHOT && to != NULL)
        to->offered = in->install_snapshot.last_index;
    if (replica_message_encode(replica, in, out))
        transport_send(replica->transport, (uint32_t)in->server_id, out);
    else
        free(out);
}

int replica_fetch(void *arg, uint64_t term, uint64_t first, uint32_t max,
                  struct transport_batch *batch)
{
    struct replica *replica = arg;
    batch->entries = calloc(max, sizeof *batch->entries);
    if (batch->entries == NULL)
        return -E_NOMEM;
    while (batch->count < max && batch->data.len < TRANSPORT_BYTES_MAX) {
        uint64_t index = first + batch->count;
        if (index > wal_last(replica->wal))
            break;
        Tarn__RaftEntry *entry = &batch->entries[batch->count];
        tarn__raft_entry__init(entry);
        entry->term = wal_term_of(replica->wal, index);
        entry->type = wal_type_of(replica->wal, index);
        entry->length = (uint32_t)wal_length_of(replica->wal, index);
        int err = wal_read(replica->wal, index, &batch->data);
        if (err != 0)
            return err;
        batch->count++;
    }
    /* Within one term a leader's log only grows: what was read belongs together. Otherwise drop it. */
    if (!replica->core_leads || raft_current_term(&replica->core->raft) != term)
        return -E_NOENT;
    return batch->count > 0 ? 0 : -E_NOENT;
}

/* ------------------------------------------------------------------ updates */
static void state_changed(struct replica *replica)
{
    struct raft *raft = &replica->core->raft;
    bool leads = raft_state(raft) == RAFT_LEADER;
    if (leads && !replica->core_leads) {
        replica->core_leads = true;
        replica->ready_index = wal_last(replica->wal);
        replica->led_since_ns = io_mono_ns(replica->io);
        replica->lease_void = false;
        for (unsigned i = 0; i < replica->n_members; i++)
            replica->members[i].stamp = replica->members[i].offered = 0;
        log_info("replica %u leads in term %llu", replica->options.id,
                 (unsigned long long)raft_current_term(raft));
    }
    fiber_queue_wake_all(&replica->timer_wake);
    fiber_queue_wake_all(&replica->apply_wake);
}

/* Copies the entries into the log. The barrier of a new leader is the only one whose memory comes from
 * raft itself; that of a received message is the caller's (R6). */
static int take_entries(struct replica *replica, const struct raft_update *update)
{
    struct raft *raft = &replica->core->raft;
    for (unsigned i = 0; i < update->entries.n; i++) {
        struct raft_entry *entry = &update->entries.batch[i];
        int err = wal_put(replica->wal, update->entries.index + i, entry->term, entry->type,
                          entry->buf.base, entry->buf.len);
        if (entry == &raft->barrier) {
            raft_free(entry->batch);
            entry->batch = entry->buf.base = NULL;
        }
        if (err != 0)
            return err;
    }
    fiber_queue_wake_all(&replica->write_wake);
    return 0;
}

static void take_snapshot(struct replica *replica, struct raft_update *update)
{
    struct core *core = replica->core;
    CHECK(!core->has_install);
    core->install = update->snapshot.metadata;
    core->has_install = true;
    raft_free(update->snapshot.chunk.base);
    replica->installing = true;
    install_start(replica);
}

static int carry_out(struct replica *replica, struct raft_update *update)
{
    struct raft *raft = &replica->core->raft;
    if ((update->flags & (RAFT_UPDATE_CURRENT_TERM | RAFT_UPDATE_VOTED_FOR)) != 0) {
        int err = wal_set_vote(replica->wal, raft_current_term(raft), raft_voted_for(raft));
        if (err != 0) {
            replica_fail(replica, err, "write the vote");
            return err;
        }
    }
    if ((update->flags & RAFT_UPDATE_ENTRIES) != 0) {
        int err = take_entries(replica, update);
        if (err != 0) {
            replica_fail(replica, err, "take entries into the log");
            return err;
        }
    }
    if ((update->flags & RAFT_UPDATE_SNAPSHOT) != 0)
        take_snapshot(replica, update);
    if ((update->flags & RAFT_UPDATE_STATE) != 0)
        state_changed(replica);
    if ((update->flags & RAFT_UPDATE_MESSAGES) != 0)
        for (unsigned i = 0; i < update->messages.n; i++)
            core_send(replica, &update->messages.batch[i]);
    if ((update->flags & RAFT_UPDATE_COMMIT_INDEX) != 0)
        fiber_queue_wake_all(&replica->apply_wake);
    return 0;
}

int core_step(struct replica *replica, struct raft_event *event, struct raft_update *ret_update)
{
    CHECK(replica->step_lock.held);
    if (replica->failed != 0)
        return replica->failed;
    memset(ret_update, 0, sizeof *ret_update);
    event->time = io_mono_ms(replica->io);
    int rv = raft_step(&replica->core->raft, event, ret_update);
    core_members(replica); /* before messages leave: they may be for somebody new */
    if (replica->core_leads && raft_state(&replica->core->raft) != RAFT_LEADER) {
        /* At once: writing the vote down may take long on a slow disk, and somebody else leads meanwhile. */
        log_info("replica %u no longer leads", replica->options.id);
        replica_leadership_lost(replica);
    }
    if (rv == 0)
        return carry_out(replica, ret_update);
    int err = core_error(rv);
    if ((event->type != RAFT_SUBMIT && event->type != RAFT_TRANSFER) || rv == RAFT_NOMEM)
        replica_fail(replica, err, raft_strerror(rv));
    return err;
}

/* ------------------------------------------------------------------ timer */
/* Does not stand for election: it could not keep what it would be elected for, or must not vote even for itself. */
static bool must_keep_quiet(const struct replica *replica)
{
    if (replica->core_leads || raft_state(&replica->core->raft) == RAFT_LEADER)
        return false;
    return replica->unfit || replica->muted || !newcomer_may_stand(replica);
}

void timer_fiber(void *arg)
{
    struct replica *replica = arg;
    while (!replica->stopping && replica->failed == 0) {
        if (fiber_mutex_lock(&replica->step_lock) != 0)
            break;
        struct raft *raft = &replica->core->raft;
        uint64_t now = io_mono_ms(replica->io);
        if (!replica->stopping && now >= raft_timeout(raft) && !must_keep_quiet(replica)) {
            struct raft_event event = {.type = RAFT_TIMEOUT};
            struct raft_update update;
            (void)core_step(replica, &event, &update); /* a failure is recorded in `failed` */
            now = io_mono_ms(replica->io);
        }
        uint64_t until = MAX(raft_timeout(raft), now + (must_keep_quiet(replica) ? replica->options.heartbeat_ms : 0));
        fiber_mutex_unlock(&replica->step_lock);
        if (replica->stopping ||
            fiber_queue_wait(&replica->timer_wake, until > now ? until - now : 1) == -E_CANCELED)
            break;
    }
    fiber_group_done(&replica->fibers);
}

/* ------------------------------------------------------------------ entries of our own */
int core_submit(struct replica *replica, struct proposal **list, unsigned n)
{
    struct raft *raft = &replica->core->raft;
    static char no_batch; /* raft never frees what was submitted, it only wants it set */
    _cleanup_free_ struct raft_entry *entries = calloc(n, sizeof *entries);
    if (entries == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < n; i++)
        entries[i] = (struct raft_entry){.term = raft_current_term(raft),
                                         .type = (enum raft_entry_type)list[i]->type,
                                         .buf = {.base = list[i]->data, .len = list[i]->len},
                                         .batch = &no_batch};
    uint64_t term = raft_current_term(raft), first = raft_last_index(raft) + 1;
    for (unsigned i = 0; i < n; i++) {
        list[i]->index = first + i;
        list[i]->term = term;
        proposals_push(&replica->inflight, list[i]);
    }
    struct raft_event event = {.type = RAFT_SUBMIT, .submit = {.entries = entries, .n = n}};
    struct raft_update update;
    int err = core_step(replica, &event, &update);
    /* A failed replica has answered them already (leadership lost); a refusal has not. */
    if (err != 0 && replica->failed == 0)
        for (unsigned i = 0; i < n; i++)
            proposals_remove(&replica->inflight, list[i]);
    return replica->failed != 0 ? 0 : err;
}

int core_persisted(struct replica *replica, uint64_t durable)
{
    durable = MIN(durable, wal_last(replica->wal));
    if (replica->installing || durable <= replica->core->raft.last_stored) /* R1 and R2 */
        return 0;
    struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES, .persisted_entries.index = durable};
    struct raft_update update;
    return core_step(replica, &event, &update);
}

/* ------------------------------------------------------------------ life of the core */
static int meta_configuration(const struct snapshot_meta *meta, struct raft_configuration *ret)
{
    int rv = 0;
    raft_configuration_init(ret);
    for (unsigned i = 0; i < meta->n_servers && rv == 0; i++)
        rv = raft_configuration_add(ret, meta->servers[i].id, meta->servers[i].address, (int)meta->servers[i].role);
    CHECK(rv == 0 || rv == RAFT_NOMEM);
    if (rv != 0)
        raft_configuration_close(ret);
    return core_error(rv);
}

static int load_entries(struct replica *replica, struct raft_entry **ret, unsigned *ret_n)
{
    struct wal *wal = replica->wal;
    unsigned n = (unsigned)(wal_last(wal) + 1 - wal_first(wal));
    struct raft_entry *entries = calloc(n + 1, sizeof *entries);
    if (entries == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < n; i++) {
        uint64_t index = wal_first(wal) + i;
        entries[i].term = wal_term_of(wal, index);
        entries[i].type = (enum raft_entry_type)wal_type_of(wal, index);
        if (entries[i].type != RAFT_CHANGE)
            continue; /* raft looks only into configurations */
        struct writer data = {0};
        int err = wal_read(wal, index, &data);
        entries[i].buf = (struct raft_buffer){.base = data.data, .len = data.len};
        if (err != 0) {
            for (unsigned j = 0; j <= i; j++)
                free(entries[j].buf.base);
            free(entries);
            return err;
        }
    }
    *ret = entries;
    *ret_n = n;
    return 0;
}

static void free_entries(struct raft_entry *entries, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        free(entries[i].buf.base);
    free(entries);
}

static int core_begin(struct replica *replica)
{
    struct raft_entry *entries, *given = NULL;
    unsigned n;
    int err = load_entries(replica, &entries, &n);
    if (err != 0)
        return err;
    struct raft_snapshot_metadata metadata = {.index = replica->snapshot.index,
                                              .term = replica->snapshot.term,
                                              .configuration_index = replica->snapshot.conf_index};
    struct raft_event event = {.type = RAFT_START,
                               .start = {.term = wal_current_term(replica->wal),
                                         .voted_for = wal_voted_for(replica->wal),
                                         .start_index = wal_first(replica->wal),
                                         .n_entries = n}};
    if (metadata.index > 0) {
        err = meta_configuration(&replica->snapshot, &metadata.configuration); /* raft takes it */
        event.start.metadata = &metadata;
    }
    if (err == 0 && (given = event.start.entries = malloc((n + 1) * sizeof *given)) == NULL) {
        raft_configuration_close(&metadata.configuration);
        err = -E_NOMEM;
    }
    if (err != 0) {
        free_entries(entries, n);
        return err;
    }
    memcpy(given, entries, n * sizeof *given);
    struct raft_update update;
    err = core_step(replica, &event, &update);
    if (err == 0) /* else raft has freed the array, or not, according to how far it came: it is left, this replica ends */
        free(given);
    for (uint64_t i = 0; err == 0 && i < n; i++)
        if (entries[i].type == RAFT_CHANGE && wal_first(replica->wal) + i <= replica->applied)
            err = core_configuration_applied(replica, wal_first(replica->wal) + i,
                                             entries[i].buf.base, entries[i].buf.len);
    free_entries(entries, n);
    return err;
}

int core_start(struct replica *replica)
{
    const struct replica_options *options = &replica->options;
    struct core *core = calloc(1, sizeof *core);
    if (core == NULL)
        return -E_NOMEM;
    int rv = raft_init(&core->raft, NULL, NULL, options->id, replica->address);
    if (rv != 0) {
        free(core);
        return core_error(rv);
    }
    replica->core = core;
    raft_seed(&core->raft, (unsigned)io_random_u64(replica->io));
    raft_set_election_timeout(&core->raft, options->election_ms);
    raft_set_heartbeat_timeout(&core->raft, options->heartbeat_ms);
    raft_set_install_snapshot_timeout(&core->raft, INSTALL_TIMEOUT_MS);
    raft_set_max_inflight_entries(&core->raft, INFLIGHT_ENTRIES_MAX);
    raft_set_pre_vote(&core->raft, true);
    return core_begin(replica);
}

void replica_core_stop(struct replica *replica)
{
    struct core *core = replica->core;
    if (core == NULL)
        return;
    if (core->has_install)
        raft_configuration_close(&core->install.configuration);
    raft_close(&core->raft, NULL);
    free(core);
    replica->core = NULL;
}

int core_restart(struct replica *replica)
{
    replica_core_stop(replica);
    replica->installing = false;
    int err = core_start(replica);
    if (err != 0)
        replica_fail(replica, err, "start again");
    replica_wake_all(replica);
    return err;
}

/* The leader would wait for the installation until its timeout; a refusal of just this index makes it begin anew. */
static void refuse_install(struct replica *replica, uint64_t index)
{
    struct raft *raft = &replica->core->raft;
    struct raft_message reply = {.type = RAFT_APPEND_ENTRIES_RESULT, .server_id = replica->offer_from};
    reply.append_entries_result = (struct raft_append_entries_result){
        .version = 1, .term = raft_current_term(raft), .rejected = index, .last_log_index = raft_last_index(raft)};
    core_send(replica, &reply);
}

/* Raft cannot give up an installation: it is begun again from what is on disk. */
void core_abandon_install(struct replica *replica)
{
    uint64_t index = replica->core->has_install ? replica->core->install.index : 0;
    log_warn("replica %u: gives up on %s and starts again from its own log", replica->options.id,
             replica->offer);
    if (core_restart(replica) == 0)
        refuse_install(replica, index);
}

int core_bootstrap_entry(struct replica *replica, uint8_t **ret_data, size_t *ret_len)
{
    struct raft_configuration conf;
    raft_configuration_init(&conf);
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < replica->options.n_servers; i++)
        rv = raft_configuration_add(&conf, i + 1, replica->address_list[i], RAFT_VOTER);
    struct raft_buffer buf;
    if (rv == 0)
        rv = raft_configuration_encode(&conf, &buf);
    raft_configuration_close(&conf);
    if (rv != 0)
        return rv == RAFT_DUPLICATEADDRESS ? -E_INVAL : core_error(rv);
    *ret_data = malloc(buf.len);
    if (*ret_data != NULL)
        memcpy(*ret_data, buf.base, buf.len);
    *ret_len = buf.len;
    raft_free(buf.base);
    return *ret_data != NULL ? 0 : -E_NOMEM;
}

/* ------------------------------------------------------------------ snapshots and configurations */
bool core_describe(struct replica *replica, struct snapshot_meta *ret)
{
    struct raft *raft = &replica->core->raft;
    const struct raft_configuration *conf = &raft->configuration_committed;
    *ret = (struct snapshot_meta){.index = replica->applied,
                                  .term = wal_term_of(replica->wal, replica->applied),
                                  .conf_index = raft->configuration_committed_index,
                                  .real_ns = replica->last_real_ns,
                                  .n_servers = conf->n};
    if (replica->installing || raft->configuration_uncommitted_index != 0 || ret->term == 0 ||
        ret->index > raft->last_stored || ret->conf_index > ret->index || conf->n == 0 || conf->n > SNAPSHOT_SERVERS_MAX)
        return false;
    for (unsigned i = 0; i < conf->n; i++) {
        ret->servers[i].id = conf->servers[i].id;
        ret->servers[i].role = (uint32_t)conf->servers[i].role;
        strncpy(ret->servers[i].address, conf->servers[i].address, sizeof ret->servers[i].address - 1);
    }
    return true;
}

int core_snapshot_taken(struct replica *replica, const struct snapshot_meta *meta, unsigned trailing)
{
    struct raft_event event = {.type = RAFT_SNAPSHOT,
                               .snapshot = {.metadata = {.index = meta->index,
                                                         .term = meta->term,
                                                         .configuration_index = meta->conf_index},
                                            .trailing = trailing}};
    int err = meta_configuration(meta, &event.snapshot.metadata.configuration); /* raft takes it */
    struct raft_update update;
    return err == 0 ? core_step(replica, &event, &update) : err;
}

int core_snapshot_installed(struct replica *replica)
{
    struct core *core = replica->core;
    CHECK(core->has_install && replica->installing);
    struct raft_event event = {.type = RAFT_PERSISTED_SNAPSHOT,
                               .persisted_snapshot = {.metadata = core->install, .last = true}};
    core->has_install = false; /* raft takes the configuration */
    replica->installing = false;
    struct raft_update update;
    return core_step(replica, &event, &update);
}

int core_configuration_applied(struct replica *replica, uint64_t index, const void *data, size_t len)
{
    struct raft_buffer buf = {.base = (void *)(uintptr_t)data, .len = len};
    struct raft_event event = {.type = RAFT_CONFIGURATION, .configuration.index = index};
    int rv = raft_configuration_decode(&buf, &event.configuration.conf); /* raft takes it */
    if (rv != 0)
        return core_error(rv);
    struct raft_update update;
    return core_step(replica, &event, &update);
}

/* ------------------------------------------------------------------ getters */
uint64_t core_apply_limit(const struct replica *replica)
{
    const struct raft *raft = &replica->core->raft;
    return replica->installing ? 0 : MIN(raft_commit_index(raft), raft->last_stored);
}

uint64_t core_term(const struct replica *replica)
{
    return raft_current_term(&replica->core->raft);
}

uint64_t core_match(const struct replica *replica, uint32_t id)
{
    raft_index index = 0;
    return raft_match_index(&replica->core->raft, id, &index) == 0 ? index : 0;
}

uint64_t core_commit(const struct replica *replica)
{
    return raft_commit_index(&replica->core->raft);
}

uint64_t core_conf_index(const struct replica *replica)
{
    const struct raft *raft = &replica->core->raft;
    return MAX(raft->configuration_uncommitted_index, raft->configuration_committed_index);
}

bool core_has_configuration(const struct replica *replica)
{
    return core_conf_index(replica) > 0;
}

uint64_t replica_term(const struct replica *replica)
{
    return core_term(replica);
}

uint32_t replica_leader_id(const struct replica *replica)
{
    if (replica->core_leads)
        return replica->leads ? replica->options.id : 0;
    raft_id id = 0;
    const char *address;
    raft_leader(&replica->core->raft, &id, &address);
    return id <= REPLICA_ID_MAX && id != replica->options.id ? (uint32_t)id : 0;
}

const char *replica_leader_address(const struct replica *replica)
{
    if (replica->core_leads)
        return replica->leads && !replica->transferring ? replica->address : NULL;
    raft_id id = 0;
    const char *address = NULL;
    raft_leader(&replica->core->raft, &id, &address);
    return id != 0 && id != replica->options.id && address != NULL && address[0] != '-' ? address : NULL;
}
