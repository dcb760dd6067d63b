/* tarn job: run, submit, wait, cancel. */
#include "cli_job.h"

#include "commands.h"
#include "job_doc.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define POLL_MS 1000        /* a push may be lost */
#define PROGRESS_MS 100
#define LINE_MS 5000        /* between plain progress lines */

/* ---- a session for one command */

struct session {
    struct job_client client;
    const struct config *config;
    job_client_fn fn;
    void *arg;
    int exit_code;
};

static void on_push(void *arg, unsigned op, const uint8_t *control, size_t len)
{
    struct job_client *client = arg;
    if (op != OP_JOB_CHANGED)
        return;
    client->changed = true;
    if (client->wake != NULL)
        fiber_queue_wake_all(client->wake);
}

static void session_fiber(void *arg)
{
    struct session *session = arg;
    struct job_client *client = &session->client;
    struct meta_options options = {.name = "tarn job", .push = on_push, .arg = client};
    int err = meta_connect(client->io, session->config, &options, &client->meta);
    if (err == 0)
        err = stores_create(client->io, session->config, client->meta, &client->stores);
    if (err == 0)
        session->exit_code = session->fn(client, session->arg);
    else if (err == -E_UNAVAIL)
        cli_complain("cannot reach the metadata service named in %s: is the cluster up?", session->config->path);
    else
        cli_complain("cannot open the cluster of %s: %s", session->config->path, err_sentence(err));
    if (err != 0)
        session->exit_code = cli_exit_for(err);
    if (client->stores != NULL)
        stores_destroy(client->stores);
    if (client->meta != NULL)
        meta_disconnect(client->meta);
    io_stop(client->io);
}

int job_client_run(const char *config_path, bool json, job_client_fn fn, void *arg)
{
    struct config config;
    const char *why = "";
    int err = config_load(config_path, &config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    struct session session = {.config = &config, .fn = fn, .arg = arg, .exit_code = CLI_FAILED};
    session.client.json = json;
    session.client.cred = (struct meta_cred){.uid = geteuid(), .gid = getegid()};
    err = io_uring_create(NULL, &session.client.io);
    if (err != 0)
        return cli_exit_for(err);
    err = fiber_spawn(session.client.io, "job command", session_fiber, &session);
    if (err == 0)
        err = io_run(session.client.io);
    io_destroy(session.client.io);
    return err != 0 ? cli_exit_for(err) : session.exit_code;
}

int job_client_failed(struct job_client *client, const char *what, int err)
{
    cli_complain("cannot %s: %s", what, client->detail[0] != '\0' ? client->detail : err_sentence(err));
    return cli_exit_for(err);
}

uint64_t cli_job_id(int n_args, char **argv, const char *command)
{
    char *end = NULL;
    errno = 0;
    uint64_t id = n_args == 1 && argv[1][0] >= '0' && argv[1][0] <= '9' ? strtoull(argv[1], &end, 10) : 0;
    if (end == NULL || *end != '\0' || id == 0 || errno != 0) {
        cli_complain("'tarn job %s' takes one job number, as 'tarn job ls' shows them", command);
        exit(CLI_USAGE);
    }
    return id;
}

/* ---- progress: a line in place on a terminal, plain lines otherwise */

struct follow {
    struct job_client *client;
    bool terminal, quiet, visible;
    uint64_t shown_ms;
    uint64_t shown_done;
};

static void format_progress(const Tarn__Job *job, char *line, size_t size)
{
    const Tarn__Receipt *receipt = job->receipt;
    uint64_t local = receipt != NULL ? receipt->local : 0;
    uint64_t all = receipt != NULL ? receipt->local + receipt->rack + receipt->remote : 0;
    char bytes[16];
    cli_format_size(all, bytes);
    int n = snprintf(line, size, "job %llu: %s, phase %u of %zu, tasks %llu of %llu", (unsigned long long)job->id,
                     job_state_name(job->state), job->phase + 1, job->n_phases,
                     (unsigned long long)(job->tasks_done + job->tasks_failed), (unsigned long long)job->tasks);
    if (job->tasks_failed != 0 && (size_t)n < size)
        n += snprintf(line + n, size - (size_t)n, ", %llu failed", (unsigned long long)job->tasks_failed);
    if (all != 0 && (size_t)n < size)
        snprintf(line + n, size - (size_t)n, ", read %s, %.1f %% local", bytes, 100.0 * (double)local / (double)all);
}

static void show_progress(struct follow *follow, const Tarn__Job *job)
{
    char line[256];
    uint64_t now = io_mono_ms(follow->client->io), done = job->tasks_done + job->tasks_failed;
    bool due = now - follow->shown_ms >= (follow->terminal ? PROGRESS_MS : LINE_MS);
    if (follow->quiet || !due || (!follow->terminal && done == follow->shown_done))
        return;
    follow->shown_ms = now;
    follow->shown_done = done;
    format_progress(job, line, sizeof line);
    fprintf(stderr, follow->terminal ? "\r\033[K%s" : "%s\n", line);
    follow->visible = follow->terminal;
}

/* Until the job is over. */
static int follow_job(struct job_client *client, uint64_t id, bool quiet, Tarn__Job **ret)
{
    struct fiber_queue queue = {0};
    struct follow follow = {.client = client, .terminal = isatty(STDERR_FILENO) == 1, .quiet = quiet};
    follow.shown_ms = io_mono_ms(client->io);
    client->wake = &queue;
    int err = job_watch(client->meta, &client->cred);
    while (err == 0) {
        Tarn__Job *job = NULL;
        client->changed = false;
        err = job_get(client->meta, &client->cred, id, &job, client->detail);
        if (err != 0)
            break;
        if (job_is_over(job)) {
            *ret = job;
            break;
        }
        show_progress(&follow, job);
        tarn__job__free_unpacked(job, NULL);
        if (!client->changed)
            err = fiber_queue_wait(&queue, POLL_MS);
        err = err == -E_TIMEOUT ? 0 : err;
    }
    if (follow.visible)
        fputs("\r\033[K", stderr);
    client->wake = NULL;
    return err;
}

static int exit_of(const Tarn__Job *job)
{
    return job->state == TARN__JOB_STATE__JOB_DONE && job->tasks_failed == 0 ? CLI_OK : CLI_TASKS_FAILED;
}

/* ---- submit */

static int submit(struct job_client *client, const Tarn__Job *job, char *const *paths, size_t n, uint64_t *ret_id)
{
    const char *failed = "";
    char what[300];
    int err = job_create(client->meta, &client->cred, job, ret_id, client->detail);
    if (err != 0)
        return job_client_failed(client, "create the job", err);
    err = job_add_inputs(client->meta, &client->cred, *ret_id, paths, n, &failed, client->detail);
    if (err == 0)
        err = job_end_inputs(client->meta, &client->cred, *ret_id, client->detail);
    if (err == 0)
        return CLI_OK;
    snprintf(what, sizeof what, "add %.250s to the job", failed);
    int exit_code = job_client_failed(client, what, err);
    job_cancel(client->meta, &client->cred, *ret_id, NULL);
    return exit_code;
}

/* ---- job run */

struct run_options {
    Tarn__Job job;
    Tarn__JobPhase phases[JOB_DOC_PHASES_MAX], *phase_list[JOB_DOC_PHASES_MAX];
    Tarn__JobPhase defaults; /* of options that stand before the first phase */
    bool too_many;
    const char *name;
    char *const *paths;
    size_t n_paths;
};

static Tarn__JobPhase *current_phase(struct run_options *run)
{
    return run->job.n_phases > 0 ? &run->phases[run->job.n_phases - 1] : &run->defaults;
}

static void add_phase(struct run_options *run, const char *type, const char *exec)
{
    if (run->job.n_phases == JOB_DOC_PHASES_MAX) {
        run->too_many = true;
        return;
    }
    Tarn__JobPhase *phase = &run->phases[run->job.n_phases];
    *phase = run->defaults;
    phase->type = (char *)type;
    phase->exec = (char *)exec;
    run->phase_list[run->job.n_phases++] = phase;
}

/* The table has parsed and bounded the values; which phase they belong to follows from the order. */
static void on_option(void *arg, const struct cli_option *option, const char *value)
{
    struct run_options *run = arg;
    Tarn__JobPhase *phase = current_phase(run);
    uint64_t size = 0;
    if (strcmp(option->name, "map") == 0)
        add_phase(run, "map", value);
    else if (strcmp(option->name, "reduce") == 0)
        add_phase(run, "reduce", value);
    else if (strcmp(option->name, "init") == 0)
        phase->init = (char *)value;
    else if (strcmp(option->name, "strict") == 0)
        phase->strict = true;
    else if (strcmp(option->name, "count") == 0)
        phase->count = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(option->name, "retries") == 0)
        phase->retries = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(option->name, "timeout") == 0)
        phase->timeout_ms = strtoull(value, NULL, 10) * 1000;
    else if (strcmp(option->name, "cpu") == 0)
        phase->cpu_milli = (uint32_t)strtoul(value, NULL, 10) * 1000;
    else if (strcmp(option->name, "mem") == 0 && cli_parse_size(value, &size) == 0)
        phase->memory = size;
    else if (strcmp(option->name, "disk") == 0 && cli_parse_size(value, &size) == 0)
        phase->disk = size;
}

static char interrupted[128]; /* what a signal says: a handler cannot make it up */

static void on_interrupt(int signal_number)
{
    if (write(STDERR_FILENO, interrupted, strlen(interrupted)) < 0)
        _exit(CLI_FAILED);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* The job does not need us: who interrupts the wait is told how to end the work. */
static void tell_when_interrupted(uint64_t id)
{
    snprintf(interrupted, sizeof interrupted, "\ntarn: job %llu goes on without this command; 'tarn job cancel %llu' ends it\n",
             (unsigned long long)id, (unsigned long long)id);
    signal(SIGINT, on_interrupt);
}

static int run_job(struct job_client *client, void *arg)
{
    struct run_options *run = arg;
    uint64_t id = 0;
    Tarn__Job *job = NULL;
    int exit_code = submit(client, &run->job, run->paths, run->n_paths, &id);
    if (exit_code != CLI_OK)
        return exit_code;
    if (!client->json)
        fprintf(stderr, "job %llu\n", (unsigned long long)id);
    tell_when_interrupted(id);
    int err = follow_job(client, id, client->json, &job);
    if (err != 0)
        return job_client_failed(client, "follow the job", err);
    exit_code = exit_of(job);
    if (client->json) {
        job_show_json(job);
    } else {
        int shown = job_show_outputs(client, job);
        if (exit_code != CLI_OK)
            job_show_failures(client, job);
        job_show_receipt(client, job, false);
        exit_code = exit_code != CLI_OK ? exit_code : shown;
    }
    tarn__job__free_unpacked(job, NULL);
    return exit_code;
}

static int check_run(const struct run_options *run)
{
    char why[JOB_DOC_WHY];
    if (run->job.n_phases == 0 || run->too_many) {
        cli_complain("a job has 1 to %d phases: --map COMMAND, --reduce COMMAND", JOB_DOC_PHASES_MAX);
        return CLI_USAGE;
    }
    for (size_t i = 0; i < run->job.n_phases; i++) {
        if (job_doc_check(&run->phases[i], i, why) != 0) {
            cli_complain("%s", why);
            return CLI_USAGE;
        }
    }
    if (run->n_paths == 0) {
        cli_complain("name at least one object or directory to work on");
        return CLI_USAGE;
    }
    for (size_t i = 0; i < run->n_paths; i++) {
        if (run->paths[i][0] != '/') {
            cli_complain("'%s' is not a path of the cluster: those begin with '/'", run->paths[i]);
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

static int cli_job_run(int argc, char **argv, const char *config)
{
    static struct run_options run;
    struct cli_strings maps = {.count = 0}, reduces = {.count = 0}, inits = {.count = 0};
    bool json = false, strict = false;
    uint64_t count = 0, memory = 0, disk = 0, cpu = 0, retries = 0, timeout = 0;
    const struct cli_option options[] = {
        {"map", CLI_STRINGS, &maps, "COMMAND", "a phase with one task per object, which is its input", 0, 0},
        {"reduce", CLI_STRINGS, &reduces, "COMMAND", "a phase that reads all outputs of the phase before", 0, 0},
        {"count", CLI_UINT, &count, "N", "tasks of the reduce phase before it (1)", 1, JOB_DOC_REDUCERS_MAX},
        {"init", CLI_STRINGS, &inits, "COMMAND", "runs before each task of the phase before it", 0, 0},
        {"strict", CLI_FLAG, &strict, NULL, "bash -e -o pipefail", 0, 0},
        {"mem", CLI_SIZE, &memory, "SIZE", "memory of a task (1G)", JOB_DOC_MEMORY_MIN, JOB_DOC_MEMORY_MAX},
        {"disk", CLI_SIZE, &disk, "SIZE", "scratch space of a task (1G)", MIB(1), GIB(1024)},
        {"cpu", CLI_UINT, &cpu, "C", "weight of a task in processors (1)", 1, 1024},
        {"retries", CLI_UINT, &retries, "N", "tries after a failure of the command (0)", 0, 100},
        {"timeout", CLI_UINT, &timeout, "SECONDS", "longest time of a task (none)", 1, 31536000},
        {"name", CLI_STRING, &run.name, "NAME", "shown in lists", 0, 0},
        {"json", CLI_FLAG, &json, NULL, "print the job's record instead of its output", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    tarn__job__init(&run.job);
    tarn__job_phase__init(&run.defaults);
    run.job.phases = run.phase_list;
    cli_parse_seen(argc, argv, "tarn job run [--map COMMAND]... [--reduce COMMAND] [OPTION...] PATH...",
                   "Runs commands where the objects are and prints the result. Options of a phase follow it;\n"
                   "before the first phase they are for all. The exit code is 8 when a task failed.",
                   options, ARRAY_SIZE(options), &n_args, on_option, &run);
    run.paths = argv + 1;
    run.n_paths = (size_t)n_args;
    if (run.name != NULL)
        run.job.name = (char *)run.name;
    int exit_code = check_run(&run);
    return exit_code != CLI_OK ? exit_code : job_client_run(config, json, run_job, &run);
}

/* ---- job submit */

static int submit_job(struct job_client *client, void *arg)
{
    struct job_doc *doc = arg;
    uint64_t id = 0;
    int exit_code = submit(client, &doc->job, doc->inputs, doc->n_inputs, &id);
    if (exit_code != CLI_OK)
        return exit_code;
    if (client->json)
        out_json("{s:I}", "id", (long long)id);
    else
        printf("%llu\n", (unsigned long long)id);
    return CLI_OK;
}

/* NULL after a complaint; then *ret_exit is the exit code. */
static char *read_file(const char *path, size_t *ret_len, int *ret_exit)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (file == NULL) {
        *ret_exit = cli_exit_for(err_from_errno(errno));
        cli_complain("cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    char *text = malloc(JOB_DOC_BYTES_MAX + 1);
    *ret_len = text != NULL ? fread(text, 1, JOB_DOC_BYTES_MAX + 1, file) : 0;
    if (text == NULL || ferror(file)) {
        *ret_exit = cli_exit_for(err_from_errno(errno));
        cli_complain("cannot read %s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (file != stdin)
        fclose(file);
    return text;
}

static int cli_job_submit(int argc, char **argv, const char *config)
{
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "print {\"id\":N}", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn job submit FILE.json [PATH...]",
              "Submits a job document ('-' reads it from standard input) with its inputs and PATHs; prints the\n"
              "job's number and does not wait.",
              options, ARRAY_SIZE(options), &n_args);
    if (n_args < 1) {
        cli_complain("'tarn job submit' takes a job document");
        return CLI_USAGE;
    }
    char why[JOB_DOC_WHY];
    size_t len = 0;
    struct job_doc *doc = NULL;
    int exit_code = CLI_OK;
    _cleanup_free_ char *text = read_file(argv[1], &len, &exit_code);
    if (text == NULL)
        return exit_code;
    int err = job_doc_parse(text, len, &doc, why);
    if (err != 0) {
        cli_complain("cannot submit %s: %s", argv[1], err == -E_INVAL ? why : err_sentence(err));
        return CLI_USAGE;
    }
    size_t n = doc->n_inputs + (size_t)n_args - 1;
    char **inputs = realloc(doc->inputs, (n + 1) * sizeof *inputs);
    if (inputs != NULL) {
        doc->inputs = inputs;
        for (int i = 1; i < n_args && exit_code == CLI_OK; i++)
            if ((doc->inputs[doc->n_inputs] = strdup(argv[i + 1])) != NULL)
                doc->n_inputs++;
            else
                exit_code = CLI_FAILED;
    }
    if (inputs != NULL && exit_code == CLI_OK)
        exit_code = job_client_run(config, json, submit_job, doc);
    job_doc_free(doc);
    return exit_code;
}

/* ---- job wait, job cancel */

static int wait_job(struct job_client *client, void *arg)
{
    const uint64_t *id = arg;
    Tarn__Job *job = NULL;
    int err = follow_job(client, *id, client->json, &job);
    if (err != 0)
        return job_client_failed(client, "wait for the job", err);
    int exit_code = exit_of(job);
    if (client->json)
        job_show_json(job);
    else if (exit_code != CLI_OK)
        job_show_failures(client, job);
    tarn__job__free_unpacked(job, NULL);
    return exit_code;
}

static int cli_job_wait(int argc, char **argv, const char *config)
{
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "print the job's record at its end", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn job wait ID", "Waits for the end of a job. The exit code is 8 when a task failed.",
              options, ARRAY_SIZE(options), &n_args);
    uint64_t id = cli_job_id(n_args, argv, "wait");
    return job_client_run(config, json, wait_job, &id);
}

static int cancel_job(struct job_client *client, void *arg)
{
    const uint64_t *id = arg;
    Tarn__Job *job = NULL;
    int err = job_cancel(client->meta, &client->cred, *id, client->detail);
    if (err == 0)
        err = follow_job(client, *id, true, &job);
    if (err != 0)
        return job_client_failed(client, "cancel the job", err);
    if (client->json)
        job_show_json(job);
    else
        fprintf(stderr, "job %llu: %s\n", (unsigned long long)*id, job_state_name(job->state));
    tarn__job__free_unpacked(job, NULL);
    return CLI_OK;
}

static int cli_job_cancel(int argc, char **argv, const char *config)
{
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "print the job's record", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn job cancel ID",
              "Ends a job: its processes are killed, what was committed stays. Returns when it is over.", options,
              ARRAY_SIZE(options), &n_args);
    uint64_t id = cli_job_id(n_args, argv, "cancel");
    return job_client_run(config, json, cancel_job, &id);
}

/* ---- dispatch */

static const struct job_command {
    const char *name;
    int (*run)(int argc, char **argv, const char *config);
    const char *help;
} commands[] = {
    {"run", cli_job_run, "run commands over objects, wait, print the result"},
    {"submit", cli_job_submit, "submit a job document, print the job's number"},
    {"ls", cli_job_ls, "list jobs"},
    {"show", cli_job_show, "show a job and its tasks"},
    {"wait", cli_job_wait, "wait for the end of a job"},
    {"out", cli_job_out, "print the output of a job"},
    {"err", cli_job_err, "show what failed, with the standard error of those tasks"},
    {"cancel", cli_job_cancel, "end a job"},
    {"report", cli_job_report, "where the bytes were read from, task by task"},
};

static void print_help(FILE *out)
{
    fputs("Usage: tarn job COMMAND [OPTION...] [ARGUMENT...]\n\nRuns work where the data is.\n\nCommands:\n", out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-8s  %s\n", commands[i].name, commands[i].help);
    fputs("\nEvery command takes --help, --json and --config FILE.\n", out);
}

int cli_job(int argc, char **argv, const char *config)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1, config);
    cli_complain("there is no command '%s' for jobs; 'tarn job --help' lists them", argv[1]);
    return CLI_USAGE;
}

int command_job(int argc, char **argv)
{
    return cli_job(argc, argv, NULL);
}
