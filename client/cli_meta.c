/* tarn meta: the replicas of the metadata service. Status asks each replica directly, so it also works when only a
 * minority answers; changes go to whoever leads and are asked again until they are done. */
#include "commands.h"
#include "out.h"
#include "program.h"

#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define REPLICAS_MAX 8
#define ASK_MS 2000            /* one replica that does not answer */
#define POLL_MS 200            /* between two looks at one that is being added */
#define WAIT_S_DEFAULT 3600    /* a new replica of a large service is fed for minutes */
#define DETAIL 160

struct meta_command {
    const struct config *config; /* of the command; for direct questions */
    const char *what;            /* add, remove, … */
    const char *address;
    uint64_t id, old, wait_s;
    bool json;
    int exit;
};

/* ------------------------------------------------------------------ questions to one replica */
struct replica {
    char address[64];
    Tarn__MetaStatusReply *status; /* NULL: did not answer */
    int err;
};
struct replicas {
    struct replica list[REPLICAS_MAX + CONFIG_META_MAX];
    unsigned n;
};

static void replicas_fini(struct replicas *replicas)
{
    for (unsigned i = 0; i < replicas->n; i++)
        if (replicas->list[i].status != NULL)
            tarn__meta_status_reply__free_unpacked(replicas->list[i].status, NULL);
}

static int ask(const struct config *config, const char *address, Tarn__MetaStatusReply **ret)
{
    struct rpc_client *client = rpc_client_create(fiber_io(), address, &config->auth);
    if (client == NULL)
        return -E_NOMEM;
    Tarn__MetaStatus request = TARN__META_STATUS__INIT;
    struct rpc_call call = {.op = OP_META_STATUS, .request = &request.base, .timeout_ms = ASK_MS,
                            .reply_type = &tarn__meta_status_reply__descriptor};
    int err = rpc_call(client, &call);
    if (err == 0) {
        *ret = (Tarn__MetaStatusReply *)call.reply;
        call.reply = NULL;
    }
    rpc_call_fini(&call);
    rpc_client_destroy(client);
    return err;
}

static void replicas_add(struct replicas *replicas, const char *address)
{
    for (unsigned i = 0; i < replicas->n; i++)
        if (strcmp(replicas->list[i].address, address) == 0)
            return;
    if (replicas->n < ARRAY_SIZE(replicas->list) && strlen(address) < sizeof replicas->list[0].address)
        strcpy(replicas->list[replicas->n++].address, address);
}

/* Those of the configuration file, then those that they name. */
static void ask_all(const struct config *config, struct replicas *ret)
{
    for (unsigned i = 0; i < config->n_meta; i++)
        replicas_add(ret, config->meta[i]);
    for (unsigned i = 0; i < ret->n; i++) {
        struct replica *replica = &ret->list[i];
        replica->err = ask(config, replica->address, &replica->status);
        for (size_t j = 0; replica->status != NULL && j < replica->status->n_members; j++)
            replicas_add(ret, replica->status->members[j]->address);
        if (replica->status != NULL && replica->status->leader_address[0] != '\0')
            replicas_add(ret, replica->status->leader_address);
    }
}

static const Tarn__MetaStatusReply *leader_of(const struct replicas *replicas)
{
    const Tarn__MetaStatusReply *best = NULL;
    for (unsigned i = 0; i < replicas->n; i++) {
        const Tarn__MetaStatusReply *status = replicas->list[i].status;
        if (status != NULL && strcmp(status->state, "leader") == 0 && (best == NULL || status->term > best->term))
            best = status;
    }
    return best;
}

static const Tarn__MetaMember *member_at(const Tarn__MetaStatusReply *leader, const char *address)
{
    for (size_t i = 0; leader != NULL && i < leader->n_members; i++)
        if (strcmp(leader->members[i]->address, address) == 0)
            return leader->members[i];
    return NULL;
}

/* ------------------------------------------------------------------ status */
static void print_silent(const struct replica *replica, const Tarn__MetaMember *member, bool json)
{
    if (json)
        out_json("{s:i,s:s,s:s,s:b}", "id", member == NULL ? 0 : (int)member->id, "address", replica->address, "state",
                 "silent", "reachable", 0);
    else
        printf("%4u  %-24s %-12s %s\n", member == NULL ? 0 : member->id, replica->address, "silent", err_sentence(replica->err));
}

static void print_replica(const struct replica *replica, const Tarn__MetaStatusReply *leader, bool json)
{
    const Tarn__MetaStatusReply *s = replica->status;
    uint64_t behind = leader != NULL && leader->last > s->applied ? leader->last - s->applied : 0;
    if (json) {
        out_json("{s:i,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s}", "id", (int)s->id, "address",
                 replica->address, "state", s->state, "reachable", 1, "term", (long long)s->term, "led_ms", (long long)s->led_ms,
                 "applied", (long long)s->applied, "commit", (long long)s->commit, "last", (long long)s->last, "behind",
                 (long long)behind, "log_bytes", (long long)s->log_bytes, "snapshot", (long long)s->snapshot_index,
                 "snapshot_bytes", (long long)s->snapshot_bytes, "disk_free", (long long)s->disk_free, "disk_total",
                 (long long)s->disk_total, "change", s->change, "trouble", s->trouble);
        return;
    }
    char log[16], spare[16], snapshot[32] = "none";
    cli_format_size(s->log_bytes, log);
    cli_format_size(s->disk_free, spare);
    if (s->snapshot_index != 0)
        snprintf(snapshot, sizeof snapshot, "%llu", (unsigned long long)s->snapshot_index);
    printf("%4u  %-24s %-12s %6llu %12llu %8llu %10s %12s %10s  %s\n", s->id, replica->address, s->state,
           (unsigned long long)s->term, (unsigned long long)s->applied, (unsigned long long)behind, log, snapshot, spare, s->trouble);
}

static void status_fiber(struct meta_command *command)
{
    struct replicas replicas = {0};
    ask_all(command->config, &replicas);
    const Tarn__MetaStatusReply *leader = leader_of(&replicas);
    if (!command->json)
        puts("  ID  ADDRESS                  STATE          TERM      APPLIED   BEHIND        LOG     SNAPSHOT  DISK FREE");
    unsigned voters = 0, answer = 0, any = 0;
    for (unsigned i = 0; i < replicas.n; i++) {
        const Tarn__MetaMember *member = member_at(leader, replicas.list[i].address);
        any += replicas.list[i].status != NULL;
        voters += member != NULL && member->voter;
        answer += member != NULL && member->voter && replicas.list[i].status != NULL;
        if (replicas.list[i].status != NULL)
            print_replica(&replicas.list[i], leader, command->json);
        else if (leader == NULL || member != NULL)
            print_silent(&replicas.list[i], member, command->json);
    }
    if (!command->json && leader != NULL)
        printf("Replica %u leads in term %llu, for %llu s. %u of %u voters answer.%s%s\n", leader->id,
               (unsigned long long)leader->term, (unsigned long long)leader->led_ms / 1000, answer, voters,
               leader->change[0] != '\0' ? " Under way: " : "", leader->change);
    else if (!command->json)
        puts("No replica leads: changes and reads wait until a majority of the voters answers.");
    command->exit = any == 0 ? CLI_UNREACHABLE : leader == NULL || answer < voters ? CLI_FAILED : CLI_OK;
    replicas_fini(&replicas);
}

/* ------------------------------------------------------------------ changes */
static int complain(const char *what, const char *whom, int err, const char *detail)
{
    cli_complain("cannot %s replica %s: %s", what, whom, detail[0] != '\0' ? detail : err_sentence(err));
    return cli_exit_for(err);
}

/* Asked again while the answer is not final: each step succeeds when it is done already. */
static int change(struct meta *meta, Tarn__MetaMemberChange__Kind kind, uint64_t id, const char *address, char detail[DETAIL])
{
    Tarn__MetaMemberChange request = TARN__META_MEMBER_CHANGE__INIT;
    request.kind = kind;
    request.id = (uint32_t)id;
    request.address = (char *)(uintptr_t)address;
    return meta_call(meta, OP_META_MEMBER, &request.base, &request.ctx, &meta_root, NULL, NULL, detail);
}

static void show_progress(struct progress *progress, const Tarn__MetaStatusReply *leader, const Tarn__MetaMember *member)
{
    progress->total = leader->last;
    if (member->match > progress->done)
        progress_add(progress, member->match - progress->done);
}

/* Until the new one votes. */
static int wait_for_voter(const struct meta_command *command, const char *address)
{
    uint64_t until_ms = io_mono_ms(fiber_io()) + command->wait_s * 1000;
    struct progress progress;
    progress_begin(&progress, "log entries at the new replica", 0);
    int err = -E_TIMEOUT;
    while (err == -E_TIMEOUT && io_mono_ms(fiber_io()) < until_ms) {
        struct replicas replicas = {0};
        ask_all(command->config, &replicas);
        replicas_add(&replicas, address);
        const Tarn__MetaStatusReply *leader = leader_of(&replicas);
        const Tarn__MetaMember *member = member_at(leader, address);
        if (member != NULL)
            show_progress(&progress, leader, member);
        if (member != NULL && member->voter)
            err = 0;
        replicas_fini(&replicas);
        if (err != 0 && io_sleep_ms(fiber_io(), POLL_MS) != 0)
            err = -E_CANCELED;
    }
    progress_end(&progress);
    return err;
}

/* The server that waits there knows its id. */
static int id_of_joining(const struct meta_command *command, uint64_t *id)
{
    Tarn__MetaStatusReply *status = NULL;
    int err = ask(command->config, command->address, &status);
    if (err != 0) {
        cli_complain("cannot add the replica at %s: no tarn-metad answers there (%s); start it with --join first", command->address,
                     err_sentence(err));
        return CLI_UNREACHABLE;
    }
    if (*id != 0 && *id != status->id)
        cli_complain("cannot add the replica at %s: it has id %u, not %llu", command->address, status->id, (unsigned long long)*id);
    err = *id != 0 && *id != status->id ? CLI_FAILED : 0;
    *id = status->id;
    tarn__meta_status_reply__free_unpacked(status, NULL);
    return err;
}

static int add(struct meta *meta, struct meta_command *command)
{
    char detail[DETAIL] = "", name[24];
    int exit = id_of_joining(command, &command->id);
    if (exit != 0)
        return exit;
    snprintf(name, sizeof name, "%llu", (unsigned long long)command->id);
    int err = change(meta, TARN__META_MEMBER_CHANGE__KIND__ADD, command->id, command->address, detail);
    if (err != 0)
        return complain("add", name, err, detail);
    err = command->wait_s == 0 ? 0 : wait_for_voter(command, command->address);
    if (err != 0) {
        cli_complain("replica %s joins but has not caught up after %llu s; the service goes on feeding it (tarn meta status)", name,
                     (unsigned long long)command->wait_s);
        return CLI_UNREACHABLE;
    }
    return CLI_OK;
}

static int remove_one(struct meta *meta, uint64_t id)
{
    char detail[DETAIL] = "", name[24];
    snprintf(name, sizeof name, "%llu", (unsigned long long)id);
    int err = change(meta, TARN__META_MEMBER_CHANGE__KIND__REMOVE, id, "", detail);
    return err != 0 ? complain("remove", name, err, detail) : CLI_OK;
}

static int move(struct meta *meta, const struct meta_command *command)
{
    char detail[DETAIL] = "", name[24];
    snprintf(name, sizeof name, "%llu", (unsigned long long)command->id);
    int err = change(meta, TARN__META_MEMBER_CHANGE__KIND__ADDRESS, command->id, command->address, detail);
    return err != 0 ? complain("move", name, err, detail) : CLI_OK;
}

static int transfer(struct meta *meta, const struct meta_command *command)
{
    char detail[DETAIL] = "";
    Tarn__MetaTransfer request = TARN__META_TRANSFER__INIT;
    request.to = (uint32_t)command->id;
    int err = meta_call(meta, OP_META_TRANSFER, &request.base, &request.ctx, &meta_root, NULL, NULL, detail);
    if (err != 0)
        cli_complain("cannot hand leadership over: %s", detail[0] != '\0' ? detail : err_sentence(err));
    return cli_exit_for(err);
}

static int snapshot(struct meta *meta, const struct meta_command *command)
{
    char detail[DETAIL] = "";
    Tarn__MetaSnapshot request = TARN__META_SNAPSHOT__INIT;
    Tarn__MetaSnapshotReply *reply = NULL;
    int err;
    for (;;) { /* a large one takes minutes: each answer waits a little */
        err = meta_call(meta, OP_META_SNAPSHOT, &request.base, &request.ctx, &meta_root,
                        &tarn__meta_snapshot_reply__descriptor, &reply, detail);
        if (err != 0 || reply->index >= reply->reach)
            break;
        request.reach = reply->reach;
        tarn__meta_snapshot_reply__free_unpacked(reply, NULL);
    }
    if (err != 0) {
        cli_complain("cannot take a snapshot: %s", detail[0] != '\0' ? detail : err_sentence(err));
        return cli_exit_for(err);
    }
    char size[16];
    cli_format_size(reply->bytes, size);
    if (command->json)
        out_json("{s:I,s:I}", "index", (long long)reply->index, "bytes", (long long)reply->bytes);
    else
        printf("The leader has a snapshot of everything up to log entry %llu: %s.\n", (unsigned long long)reply->index, size);
    tarn__meta_snapshot_reply__free_unpacked(reply, NULL);
    return CLI_OK;
}

/* The new one first: at no moment are there fewer that count than before. */
static int replace(struct meta *meta, struct meta_command *command)
{
    int exit = add(meta, command);
    return exit != 0 ? exit : remove_one(meta, command->old);
}

static int run(struct meta *meta, void *arg)
{
    struct meta_command *command = arg;
    if (strcmp(command->what, "status") == 0)
        status_fiber(command);
    else if (strcmp(command->what, "add") == 0)
        command->exit = add(meta, command);
    else if (strcmp(command->what, "remove") == 0)
        command->exit = remove_one(meta, command->id);
    else if (strcmp(command->what, "replace") == 0)
        command->exit = replace(meta, command);
    else if (strcmp(command->what, "move") == 0)
        command->exit = move(meta, command);
    else if (strcmp(command->what, "transfer") == 0)
        command->exit = transfer(meta, command);
    else
        command->exit = snapshot(meta, command);
    return 0;
}

/* ------------------------------------------------------------------ the command line */
/* The checker is the metadata service's own: it runs as its program. */
static int check(const char *dir)
{
    char path[512];
    if (program_find("tarn-metad", path, sizeof path) != 0) {
        cli_complain("cannot find tarn-metad, which checks; set TARN_BINDIR to its directory");
        return CLI_NOT_FOUND;
    }
    execl(path, "tarn-metad", "--check", "--dir", dir, (char *)NULL);
    cli_complain("cannot run %s: %s", path, err_sentence(err_from_errno(errno)));
    return CLI_FAILED;
}

static bool number(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *ret = value;
    return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && value >= 1 && value <= 65535;
}

static const struct {
    const char *what, *operands;
    int least, most;
} forms[] = {
    {"status", "", 0, 0},           {"add", "ADDRESS", 1, 1},     {"remove", "ID", 1, 1},  {"replace", "ID ADDRESS", 2, 2},
    {"move", "ID ADDRESS", 2, 2},   {"transfer", "[ID]", 0, 1},   {"snapshot", "", 0, 0},  {"check", "DIR", 1, 1},
};

static int usage(const char *what)
{
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++)
        if (strcmp(forms[i].what, what) == 0) {
            cli_complain("tarn meta %s takes %s; a replica is named by its number", what,
                         forms[i].operands[0] != '\0' ? forms[i].operands : "nothing more");
            return CLI_USAGE;
        }
    cli_complain("meta takes status, add, remove, replace, move, transfer, snapshot or check; see tarn meta --help");
    return CLI_USAGE;
}

/* Fills the command from its operands; 0 or an exit code. */
static int operands(struct meta_command *command, int n, char **argv)
{
    const char *what = command->what;
    int least = -1, most = -1;
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++)
        if (strcmp(forms[i].what, what) == 0) {
            least = forms[i].least;
            most = forms[i].most;
        }
    if (least < 0 || n < least || n > most)
        return usage(what);
    bool address_last = strcmp(what, "add") == 0 || strcmp(what, "replace") == 0 || strcmp(what, "move") == 0;
    if (address_last)
        command->address = argv[n - 1];
    if (address_last && config_address_wrong(command->address) != NULL) {
        cli_complain("%s: %s", command->address, config_address_wrong(command->address));
        return CLI_USAGE;
    }
    uint64_t *id = strcmp(what, "replace") == 0 ? &command->old : &command->id;
    bool has_id = n > address_last && strcmp(what, "check") != 0;
    return has_id && !number(argv[0], id) ? usage(what) : 0;
}

int command_meta(int argc, char **argv)
{
    struct meta_command command = {.wait_s = WAIT_S_DEFAULT, .exit = CLI_FAILED};
    const char *config_path = NULL, *why = "";
    bool no_wait = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &command.json, NULL, "one JSON object a line", 0, 0},
        {"wait", CLI_UINT, &command.wait_s, "SECONDS", "how long a new replica may take to catch up (default 3600)", 0, 86400},
        {"no-wait", CLI_FLAG, &no_wait, NULL, "return when the new replica is being fed", 0, 0},
        {"config", CLI_STRING, &config_path, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn meta status | add ADDRESS | remove ID | replace ID ADDRESS | move ID ADDRESS | transfer [ID] | "
                          "snapshot | check DIR",
              "The replicas of the metadata service.", options, ARRAY_SIZE(options), &n_args);
    command.what = n_args > 0 ? argv[1] : "";
    int exit = operands(&command, n_args - 1, argv + 2);
    if (exit != 0)
        return exit;
    if (strcmp(command.what, "check") == 0)
        return check(argv[2]);
    if (no_wait)
        command.wait_s = 0;
    struct config config;
    int err = config_load(config_path, &config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    command.config = &config;
    err = admin_run(config_path, false, 0, run, &command);
    return err != 0 ? cli_exit_for(err) : command.exit;
}
