/* tarn-agentd: runs tasks on one node. Keeps a connection to the allocator that holds the role, tells it
 * what runs here, takes tasks from its pushes; everything about a task is in task.c. */
#include "task.h"

#include "common/cli.h"
#include "common/config.h"
#include "common/err.h"
#include "common/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define RETRY_MS 200        /* between tries to find the allocator */
#define RPC_TIMEOUT_MS 3000
#define BEAT_DEFAULT_MS 1000

struct agent {
    struct io *io;
    struct config config;
    uint32_t node;
    struct slots slots;
    struct task_host host;
    uint8_t uuid[16];          /* of this process */
    struct rpc_client *rpc;    /* to the allocator; replaced when the role moves */
    bool linked;               /* it has answered our hello on the present connection */
    struct fiber_queue link_changed;
    bool refusal_told;
    uint32_t beat_ms;
    int exit_code;
};

/* ---- what runs here */

static size_t running_keys(struct agent *agent, Tarn__TaskKey ***ret)
{
    size_t n = 0, i = 0;
    list_foreach(&agent->host.tasks, it) n++;
    Tarn__TaskKey **keys = calloc(n + 1, sizeof *keys);
    *ret = keys;
    if (keys == NULL)
        return 0;
    list_foreach(&agent->host.tasks, it) keys[i++] = list_entry(it, struct task, list)->assign->key;
    return n;
}

static struct task *find_task(struct agent *agent, const Tarn__TaskKey *key)
{
    list_foreach(&agent->host.tasks, it)
    {
        struct task *task = list_entry(it, struct task, list);
        if (task_is(task, key))
            return task;
    }
    return NULL;
}

/* ---- pushes */

static void on_assign(struct agent *agent, const uint8_t *control, size_t len)
{
    Tarn__TaskAssign *assign = tarn__task_assign__unpack(NULL, len, control);
    if (assign == NULL || assign->key == NULL || assign->phase == NULL) {
        log_warn("the allocator sent a task that cannot be read");
        if (assign != NULL)
            tarn__task_assign__free_unpacked(assign, NULL);
        return;
    }
    if (find_task(agent, assign->key) != NULL) {
        tarn__task_assign__free_unpacked(assign, NULL);
        return;
    }
    /* What cannot be started is missed at the next beat and given to somebody else. */
    int err = task_start(&agent->host, assign);
    if (err != 0 && err != -E_CANCELED)
        log_warn("cannot take a task: %s", err_sentence(err));
}

static void on_kill(struct agent *agent, const uint8_t *control, size_t len)
{
    Tarn__TaskKill *kill = tarn__task_kill__unpack(NULL, len, control);
    if (kill == NULL)
        return;
    struct task *task = kill->key != NULL ? find_task(agent, kill->key) : NULL;
    if (task != NULL)
        task_kill(task);
    tarn__task_kill__free_unpacked(kill, NULL);
}

static void on_push(void *arg, unsigned op, const uint8_t *control, size_t len)
{
    if (op == OP_TASK_ASSIGN)
        on_assign(arg, control, len);
    else if (op == OP_TASK_KILL)
        on_kill(arg, control, len);
}

static void on_lost(void *arg)
{
    struct agent *agent = arg;
    agent->linked = false;
    fiber_queue_wake_all(&agent->link_changed);
}

/* ---- the link to the allocator */

static int find_allocator(struct agent *agent)
{
    Tarn__RoleGet request = TARN__ROLE_GET__INIT;
    Tarn__RoleReply *reply = NULL;
    request.role = "allocator";
    int err = meta_call(agent->host.meta, OP_ROLE_GET, &request.base, &request.ctx, &meta_root,
                        &tarn__role_reply__descriptor, &reply, NULL);
    if (err != 0)
        return err;
    if (!reply->held || reply->address[0] == '\0') {
        err = -E_UNAVAIL;
    } else if (agent->rpc == NULL || strcmp(rpc_client_address(agent->rpc), reply->address) != 0) {
        if (agent->rpc != NULL)
            rpc_client_destroy(agent->rpc);
        agent->rpc = rpc_client_create(agent->io, reply->address, &agent->config.auth);
        if (agent->rpc == NULL)
            err = -E_NOMEM;
        else
            rpc_client_on_push(agent->rpc, on_push, on_lost, agent);
    }
    tarn__role_reply__free_unpacked(reply, NULL);
    return err;
}

static uint64_t machine_memory(void)
{
    struct sysinfo info;
    return sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 0;
}

/* The allocator does not take us yet: said once until it does. */
static void tell_refusal(struct agent *agent, int err, const char *detail)
{
    if (!agent->refusal_told && detail[0] != '\0')
        log_warn("the allocator does not take this agent: %s (%s); trying again", detail, err_sentence(err));
    agent->refusal_told |= detail[0] != '\0';
}

static int hello(struct agent *agent)
{
    Tarn__AgentHello request = TARN__AGENT_HELLO__INIT;
    request.node = agent->node;
    request.slots = agent->slots.n;
    request.memory = machine_memory();
    request.uuid = (ProtobufCBinaryData){.len = sizeof agent->uuid, .data = agent->uuid};
    request.n_running = running_keys(agent, &request.running);
    struct rpc_call call = {.op = OP_AGENT_HELLO, .request = &request.base, .timeout_ms = RPC_TIMEOUT_MS,
                            .reply_type = &tarn__agent_hello_reply__descriptor};
    int err = rpc_call(agent->rpc, &call);
    free(request.running);
    if (err == 0) {
        uint32_t beat_ms = ((Tarn__AgentHelloReply *)call.reply)->beat_ms;
        agent->beat_ms = beat_ms != 0 ? beat_ms : BEAT_DEFAULT_MS;
        agent->refusal_told = false;
    } else {
        tell_refusal(agent, err, call.detail);
    }
    rpc_call_fini(&call);
    return err;
}

static void obey(struct agent *agent, const Tarn__AgentBeatReply *reply)
{
    for (size_t i = 0; i < reply->n_kill; i++) {
        struct task *task = find_task(agent, reply->kill[i]);
        if (task != NULL)
            task_kill(task);
    }
}

static int beat(struct agent *agent)
{
    Tarn__AgentBeat request = TARN__AGENT_BEAT__INIT;
    request.node = agent->node;
    request.n_running = running_keys(agent, &request.running);
    struct rpc_call call = {.op = OP_AGENT_BEAT, .request = &request.base, .timeout_ms = RPC_TIMEOUT_MS,
                            .reply_type = &tarn__agent_beat_reply__descriptor};
    int err = rpc_call(agent->rpc, &call);
    free(request.running);
    if (err == 0)
        obey(agent, (Tarn__AgentBeatReply *)call.reply);
    rpc_call_fini(&call);
    return err;
}

/* Until the link breaks or we stop. */
static int keep_link(struct agent *agent)
{
    int err = find_allocator(agent);
    if (err == 0)
        err = hello(agent);
    if (err != 0)
        return err;
    log_info("linked to the allocator at %s", rpc_client_address(agent->rpc));
    agent->linked = true;
    fiber_queue_wake_all(&agent->link_changed);
    while (err == 0 && agent->linked) {
        err = fiber_queue_wait(&agent->link_changed, agent->beat_ms);
        if (err == -E_TIMEOUT)
            err = beat(agent);
    }
    if (agent->linked || err != -E_CANCELED)
        log_info("the link to the allocator is lost");
    agent->linked = false;
    return err;
}

static void link_fiber(struct agent *agent)
{
    while (keep_link(agent) != -E_CANCELED || !io_stopping(agent->io))
        if (io_sleep_ms(agent->io, RETRY_MS) != 0)
            break;
}

static int deliver(void *arg, const Tarn__TaskReport *report)
{
    struct agent *agent = arg;
    for (;;) {
        while (!agent->linked) {
            int err = fiber_queue_wait(&agent->link_changed, 0);
            if (err != 0)
                return err;
        }
        struct rpc_call call = {.op = OP_TASK_REPORT, .request = &report->base, .timeout_ms = RPC_TIMEOUT_MS};
        int err = rpc_call(agent->rpc, &call);
        rpc_call_fini(&call);
        if (err == 0 || err == -E_CANCELED)
            return err;
        if (io_sleep_ms(agent->io, RETRY_MS) != 0)
            return -E_CANCELED;
    }
}

/* ---- process */

static void main_fiber(void *arg)
{
    struct agent *agent = arg;
    struct meta_options options = {.name = "tarn-agentd", .timeout_ms = 10000};
    int err = meta_connect(agent->io, &agent->config, &options, &agent->host.meta);
    if (err == 0)
        err = stores_create(agent->io, &agent->config, agent->host.meta, &agent->host.stores);
    if (err == 0) {
        agent->host.stage.meta = agent->host.meta;
        agent->host.stage.stores = agent->host.stores;
        puts("ready");
        fflush(stdout);
        link_fiber(agent);
    } else if (err != -E_CANCELED) {
        cli_complain("cannot join the cluster: %s", err_sentence(err));
        agent->exit_code = cli_exit_for(err);
    }
    io_stop(agent->io);
    fiber_queue_wake_all(&agent->link_changed);
    slots_wake(&agent->slots);
    fiber_group_wait(&agent->host.running);
    if (agent->rpc != NULL)
        rpc_client_destroy(agent->rpc);
    if (agent->host.stores != NULL)
        stores_destroy(agent->host.stores);
    if (agent->host.meta != NULL)
        meta_disconnect(agent->host.meta);
}

static int run(struct agent *agent)
{
    static const int signals[] = {SIGTERM, SIGINT, 0};
    int err = io_uring_create(NULL, &agent->io);
    if (err != 0)
        return CLI_FAILED;
    agent->host.io = agent->host.stage.io = agent->io;
    io_random(agent->io, agent->uuid, sizeof agent->uuid);
    err = io_stop_on_signals(agent->io, signals);
    if (err == 0)
        err = fiber_spawn(agent->io, "agent", main_fiber, agent);
    if (err == 0)
        err = io_run(agent->io);
    io_destroy(agent->io);
    if (err != 0)
        cli_complain("cannot run: %s", err_sentence(err));
    return err != 0 ? cli_exit_for(err) : agent->exit_code;
}

static int prepare_dir(const char *dir)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        cli_complain("cannot make the scratch directory %s: %s", dir, strerror(errno));
        return CLI_FAILED;
    }
    stage_sweep(dir);
    return 0;
}

int main(int argc, char **argv)
{
    static struct agent agent;
    const char *config_path = NULL, *dir = NULL, *why = "";
    uint64_t node = 0, slots = (uint64_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    const struct cli_option options[] = {
        {"config", CLI_STRING, &config_path, "FILE", "where the cluster is ($TARN_CONFIG, /etc/tarn/tarn.conf)", 0, 0},
        {"node", CLI_UINT, &node, "N", "the storage node of this machine (from the configuration)", 1, UINT32_MAX},
        {"dir", CLI_STRING, &dir, "DIR", "scratch directory (/var/lib/tarn/scratch)", 0, 0},
        {"slots", CLI_UINT, &slots, "N", "tasks at a time (as many as processors)", 1, SLOTS_MAX},
    };
    int n_args = 0;
    log_init("tarn-agentd");
    cli_parse(argc, argv, "tarn-agentd [OPTION...]", "Runs the tasks of jobs on this node.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args != 0) {
        cli_complain("tarn-agentd takes no arguments, only options");
        return CLI_USAGE;
    }
    int err = config_load(config_path, &agent.config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    agent.node = node != 0 ? (uint32_t)node : agent.config.node;
    if (agent.node == 0) {
        cli_complain("cannot tell which node this is: give --node N or set node in %s", agent.config.path);
        return CLI_USAGE;
    }
    agent.config.node = agent.node;
    snprintf(agent.config.auth.name, sizeof agent.config.auth.name, "agentd %u", agent.node);
    dir = dir != NULL ? dir : "/var/lib/tarn/scratch";
    int exit_code = prepare_dir(dir);
    if (exit_code != 0)
        return exit_code;
    signal(SIGPIPE, SIG_IGN);
    /* The zygotes first, while this process is small and has one thread. */
    err = slots_start(&agent.slots, (unsigned)slots, dir, agent.node, &why);
    if (err != 0) {
        cli_complain("cannot make sandboxes: %s%s", why, err == -E_PERM ? "; run it as root" : "");
        return err == -E_PERM ? CLI_DENIED : CLI_FAILED;
    }
    list_init(&agent.host.tasks);
    agent.host.slots = &agent.slots;
    agent.host.report = deliver;
    agent.host.arg = &agent;
    agent.host.stage.node = agent.node;
    agent.host.stage.dir = dir;
    exit_code = run(&agent);
    slots_stop(&agent.slots);
    stage_sweep(dir);
    return exit_code;
}
