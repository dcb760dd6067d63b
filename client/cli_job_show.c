/* tarn job: ls, show, out, err, report. */
#include "cli_job.h"

#include "fetch.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define FAILURES_SHOWN 5
#define TAIL_BYTES 1024 /* of a failed task's standard error */

/* ---- receipts */

struct bytes {
    char local[16], rack[16], remote[16], mapped[16], all[16];
    double share; /* local, in percent */
};

static struct bytes describe(const Tarn__Receipt *receipt)
{
    static const Tarn__Receipt none = TARN__RECEIPT__INIT;
    const Tarn__Receipt *r = receipt != NULL ? receipt : &none;
    struct bytes bytes;
    uint64_t all = r->local + r->rack + r->remote;
    cli_format_size(r->local, bytes.local);
    cli_format_size(r->rack, bytes.rack);
    cli_format_size(r->remote, bytes.remote);
    cli_format_size(r->mapped, bytes.mapped);
    cli_format_size(all, bytes.all);
    bytes.share = all != 0 ? 100.0 * (double)r->local / (double)all : 100.0;
    return bytes;
}

void job_show_receipt(const struct job_client *client, const Tarn__Job *job, bool to_stdout)
{
    struct bytes b = describe(job->receipt);
    const Tarn__Receipt *r = job->receipt;
    uint64_t tasks = job->tasks_done + job->tasks_failed;
    FILE *out = to_stdout ? stdout : stderr;
    fprintf(out, "job %llu %s in %.2f s: %llu tasks, %llu failed\n", (unsigned long long)job->id,
            job_state_name(job->state), job->done > job->created ? (double)(job->done - job->created) / 1e9 : 0.0,
            (unsigned long long)tasks, (unsigned long long)job->tasks_failed);
    fprintf(out, "read %s: local %s (%.1f %%), of that %s in place; rack %s; elsewhere %s\n", b.all, b.local, b.share,
            b.mapped, b.rack, b.remote);
    if (r != NULL && tasks != 0)
        fprintf(out, "tasks used %.2f s of processor time, ran %.2f s, started in %.1f ms on average\n",
                (double)r->cpu_us / 1e6, (double)r->wall_us / 1e6, (double)r->start_us / 1e3 / (double)tasks);
}

#define RECEIPT_FMT "{s:I,s:I,s:I,s:I,s:I,s:I,s:I}"
#define RECEIPT_ARGS(r)                                                                                                \
    "local", (long long)(r)->local, "rack", (long long)(r)->rack, "remote", (long long)(r)->remote, "mapped",          \
        (long long)(r)->mapped, "cpu_us", (long long)(r)->cpu_us, "wall_us", (long long)(r)->wall_us, "start_us",      \
        (long long)(r)->start_us

void job_show_json(const Tarn__Job *job)
{
    Tarn__Receipt none = TARN__RECEIPT__INIT;
    const Tarn__Receipt *r = job->receipt != NULL ? job->receipt : &none;
    out_json("{s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:I,s:I,s:I,s:I,s:s,s:" RECEIPT_FMT "}", "id",
             (long long)job->id, "name", job->name, "state", job_state_name(job->state), "phases",
             (long long)job->n_phases, "phase", (long long)job->phase, "tasks", (long long)job->tasks, "tasks_done",
             (long long)job->tasks_done, "tasks_failed", (long long)job->tasks_failed, "inputs",
             (long long)job->inputs, "input_done", job->input_done, "bytes", (long long)job->bytes, "outputs",
             (long long)job->outputs, "created", (long long)job->created, "done", (long long)job->done, "dir", job->dir,
             "receipt", RECEIPT_ARGS(r));
}

static void show_task_json(const Tarn__Task *task)
{
    Tarn__Receipt none = TARN__RECEIPT__INIT;
    const Tarn__Receipt *r = task->receipt != NULL ? task->receipt : &none;
    out_json("{s:I,s:I,s:s,s:I,s:I,s:i,s:i,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:" RECEIPT_FMT "}", "phase", (long long)task->phase,
             "index", (long long)task->index, "state", job_task_state_name(task->state), "attempt",
             (long long)task->attempt, "node", (long long)task->node, "exit_code", task->exit_code, "signal",
             task->signal, "code", task->code, "error", task->error, "input",
             task->n_inputs == 1 ? task->inputs[0] : "", "output", task->n_outputs == 1 ? task->outputs[0] : "",
             "stderr", task->stderr_path, "started", (long long)task->started, "ended", (long long)task->ended, "receipt", RECEIPT_ARGS(r));
}

/* ---- outputs */

static int write_out(void *arg, const void *data, size_t n, uint64_t offset)
{
    return fwrite(data, 1, n, arg) == n ? 0 : err_from_errno(errno);
}

static int show_task_output(void *arg, const Tarn__Task *task)
{
    struct job_client *client = arg;
    int err = 0;
    for (size_t i = 0; i < task->n_outputs && err == 0; i++) {
        Tarn__Where where = TARN__WHERE__INIT;
        where.path = task->outputs[i];
        err = fetch_object(client->meta, client->stores, &where, &client->cred, write_out, stdout, NULL);
    }
    return err;
}

int job_show_outputs(struct job_client *client, const Tarn__Job *job)
{
    int err = job_tasks(client->meta, &client->cred, job->id, (uint32_t)job->n_phases - 1, show_task_output, client,
                        client->detail);
    if (err == 0 && fflush(stdout) != 0)
        err = err_from_errno(errno);
    return err != 0 ? job_client_failed(client, "print the output", err) : CLI_OK;
}

/* ---- failures */

struct tail {
    char bytes[TAIL_BYTES];
    uint64_t total;
};

static int keep_tail(void *arg, const void *data, size_t n, uint64_t offset)
{
    struct tail *tail = arg;
    for (size_t i = n > TAIL_BYTES ? n - TAIL_BYTES : 0; i < n; i++)
        tail->bytes[(offset + i) % TAIL_BYTES] = ((const char *)data)[i];
    tail->total = offset + n;
    return 0;
}

static void print_tail(const struct tail *tail)
{
    uint64_t from = tail->total > TAIL_BYTES ? tail->total - TAIL_BYTES : 0;
    bool line_start = true;
    if (from != 0) { /* begin with a whole line when there is one */
        uint64_t at = from;
        while (at < tail->total && tail->bytes[at % TAIL_BYTES] != '\n')
            at++;
        from = at + 1 < tail->total ? at + 1 : from;
        fputs("    | ...\n", stderr);
    }
    for (uint64_t i = from; i < tail->total; i++) {
        char c = tail->bytes[i % TAIL_BYTES];
        if (line_start)
            fputs("    | ", stderr);
        fputc(c, stderr);
        line_start = c == '\n';
    }
    if (!line_start)
        fputc('\n', stderr);
}

struct failures {
    struct job_client *client;
    uint64_t shown, max;
};

static int show_failure(void *arg, const Tarn__Task *task)
{
    struct failures *failures = arg;
    if (task->state != TARN__TASK_STATE__TASK_FAILED || failures->shown == failures->max)
        return 0;
    failures->shown++;
    fprintf(stderr, "task %u.%llu on node %u%s%s: %s: %s\n", task->phase, (unsigned long long)task->index, task->node,
            task->n_inputs == 1 ? ", input " : "", task->n_inputs == 1 ? task->inputs[0] : "", task->code, task->error);
    if (task->stderr_path[0] == '\0')
        return 0;
    struct tail tail = {.total = 0};
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = task->stderr_path;
    struct job_client *client = failures->client;
    if (fetch_object(client->meta, client->stores, &where, &client->cred, keep_tail, &tail, NULL) == 0)
        print_tail(&tail);
    return 0;
}

static int show_failures(struct job_client *client, const Tarn__Job *job, uint64_t max)
{
    struct failures failures = {.client = client, .max = max};
    int err = 0;
    for (uint32_t phase = 0; phase < job->n_phases && err == 0; phase++)
        err = job_tasks(client->meta, &client->cred, job->id, phase, show_failure, &failures, client->detail);
    if (err != 0)
        return job_client_failed(client, "list the tasks", err);
    if (job->tasks_failed > failures.shown && failures.shown == max)
        fprintf(stderr, "... and %llu more: tarn job err %llu\n",
                (unsigned long long)(job->tasks_failed - failures.shown), (unsigned long long)job->id);
    return CLI_OK;
}

int job_show_failures(struct job_client *client, const Tarn__Job *job)
{
    return show_failures(client, job, FAILURES_SHOWN);
}

/* ---- sub-commands about one job */

struct about {
    uint64_t id;
    int (*show)(struct job_client *client, const Tarn__Job *job);
};

static int about_job(struct job_client *client, void *arg)
{
    const struct about *about = arg;
    Tarn__Job *job = NULL;
    int err = job_get(client->meta, &client->cred, about->id, &job, client->detail);
    if (err != 0)
        return job_client_failed(client, "find the job", err);
    int exit_code = about->show(client, job);
    tarn__job__free_unpacked(job, NULL);
    return exit_code;
}

static int cli_about(int argc, char **argv, const char *config, const char *name, const char *help,
                     int (*show)(struct job_client *client, const Tarn__Job *job))
{
    bool json = false;
    char usage[64];
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object a line", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    snprintf(usage, sizeof usage, "tarn job %s ID", name);
    cli_parse(argc, argv, usage, help, options, ARRAY_SIZE(options), &n_args);
    struct about about = {.id = cli_job_id(n_args, argv, name), .show = show};
    return job_client_run(config, json, about_job, &about);
}

static int list_task(void *arg, const Tarn__Task *task)
{
    struct job_client *client = arg;
    if (client->json) {
        show_task_json(task);
        return 0;
    }
    char place[40];
    snprintf(place, sizeof place, "%u.%llu", task->phase, (unsigned long long)task->index);
    printf("  %-8s %-8s node %-4u attempt %u  %s%s%s\n", place, job_task_state_name(task->state), task->node,
           task->attempt, task->n_inputs == 1 ? task->inputs[0] : "", task->code[0] != '\0' ? "  " : "", task->error);
    return 0;
}

static int all_tasks(struct job_client *client, const Tarn__Job *job, job_task_fn fn)
{
    int err = 0;
    for (uint32_t phase = 0; phase < job->n_phases && err == 0; phase++)
        err = job_tasks(client->meta, &client->cred, job->id, phase, fn, client, client->detail);
    return err != 0 ? job_client_failed(client, "list the tasks", err) : CLI_OK;
}

static int show_job(struct job_client *client, const Tarn__Job *job)
{
    if (client->json) {
        job_show_json(job);
        return all_tasks(client, job, list_task);
    }
    char created[24];
    out_time(job->created, created);
    printf("job %llu %s\n  state %s, created %s, by %u\n  inputs %llu%s, outputs %llu in %s/out\n",
           (unsigned long long)job->id, job->name, job_state_name(job->state), created, job->uid,
           (unsigned long long)job->inputs, job->input_done ? "" : " and more to come",
           (unsigned long long)job->outputs, job->dir);
    for (size_t i = 0; i < job->n_phases; i++)
        printf("  phase %zu: %s %s\n", i, job->phases[i]->type[0] != '\0' ? job->phases[i]->type : "map",
               job->phases[i]->exec);
    return all_tasks(client, job, list_task);
}

int cli_job_show(int argc, char **argv, const char *config)
{
    return cli_about(argc, argv, config, "show", "Shows a job and its tasks.", show_job);
}

static int list_output(void *arg, const Tarn__Task *task)
{
    for (size_t i = 0; i < task->n_outputs; i++)
        out_json("{s:I,s:s}", "index", (long long)task->index, "path", task->outputs[i]);
    return 0;
}

static int show_out(struct job_client *client, const Tarn__Job *job)
{
    if (!client->json)
        return job_show_outputs(client, job);
    int err = job_tasks(client->meta, &client->cred, job->id, (uint32_t)job->n_phases - 1, list_output, client,
                        client->detail);
    return err != 0 ? job_client_failed(client, "list the outputs", err) : CLI_OK;
}

int cli_job_out(int argc, char **argv, const char *config)
{
    return cli_about(argc, argv, config, "out",
                     "Prints the outputs of the last phase in the order of its tasks; with --json their paths.", show_out);
}

static int list_failed(void *arg, const Tarn__Task *task)
{
    return task->state == TARN__TASK_STATE__TASK_FAILED ? list_task(arg, task) : 0;
}

static int show_err(struct job_client *client, const Tarn__Job *job)
{
    return client->json ? all_tasks(client, job, list_failed) : show_failures(client, job, UINT64_MAX);
}

int cli_job_err(int argc, char **argv, const char *config)
{
    return cli_about(argc, argv, config, "err", "Shows the tasks that failed and the end of their standard error.",
                     show_err);
}

static int report_task(void *arg, const Tarn__Task *task)
{
    struct job_client *client = arg;
    if (task->state != TARN__TASK_STATE__TASK_DONE && task->state != TARN__TASK_STATE__TASK_FAILED)
        return 0;
    if (client->json) {
        show_task_json(task);
        return 0;
    }
    struct bytes b = describe(task->receipt);
    char place[40];
    snprintf(place, sizeof place, "%u.%llu", task->phase, (unsigned long long)task->index);
    printf("  %-8s node %-4u %10s local %10s in place %10s rack %10s elsewhere  %8.1f ms\n", place, task->node, b.local,
           b.mapped, b.rack, b.remote, task->receipt != NULL ? (double)task->receipt->wall_us / 1e3 : 0.0);
    return 0;
}

static int show_report(struct job_client *client, const Tarn__Job *job)
{
    if (client->json)
        job_show_json(job);
    int exit_code = all_tasks(client, job, report_task);
    if (exit_code == CLI_OK && !client->json)
        job_show_receipt(client, job, true);
    return exit_code;
}

int cli_job_report(int argc, char **argv, const char *config)
{
    return cli_about(argc, argv, config, "report",
                     "The locality receipt: for every task and in total the bytes read from this node, the rack and\n"
                     "elsewhere; 'in place' are those of local ones that were not even copied.",
                     show_report);
}

/* ---- job ls */

static int list_job(void *arg, const Tarn__Job *job)
{
    struct job_client *client = arg;
    if (client->json) {
        job_show_json(job);
        return 0;
    }
    char created[24];
    out_time(job->created, created);
    printf("%-18llu %-10s %8llu %8llu %8llu  %s  %s\n", (unsigned long long)job->id, job_state_name(job->state),
           (unsigned long long)job->tasks, (unsigned long long)job->tasks_done, (unsigned long long)job->tasks_failed,
           created, job->name);
    return 0;
}

static int list_all(struct job_client *client, void *arg)
{
    if (!client->json)
        puts("ID                 STATE         TASKS     DONE   FAILED  CREATED              NAME");
    int err = job_list(client->meta, &client->cred, list_job, client, client->detail);
    return err != 0 ? job_client_failed(client, "list the jobs", err) : CLI_OK;
}

int cli_job_ls(int argc, char **argv, const char *config)
{
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object a line", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn job ls", "Lists your jobs, oldest first; all jobs for root.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args != 0) {
        cli_complain("'tarn job ls' takes no arguments");
        return CLI_USAGE;
    }
    return job_client_run(config, json, list_all, NULL);
}
