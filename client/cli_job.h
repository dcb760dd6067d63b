/* What the halves of `tarn job` share: cli_job.c (run, submit, wait, cancel) and cli_job_show.c (ls, show,
 * out, err, report). Nobody else includes it but tests and tarn_main.c for cli_job(). */
#ifndef TARN_CLIENT_CLI_JOB_H
#define TARN_CLIENT_CLI_JOB_H

#include "common/cli.h"
#include "job.h"

/* `tarn job …`: argv[0] is "job". config NULL = as usual; --config of a sub-command wins. */
int cli_job(int argc, char **argv, const char *config);

/* What a sub-command needs while it runs. */
struct job_client {
    struct io *io;
    struct meta *meta;
    struct stores *stores;
    struct meta_cred cred;
    bool json;
    bool changed;             /* a push came since it was cleared */
    struct fiber_queue *wake; /* while somebody waits for pushes */
    char detail[160];
};
typedef int (*job_client_fn)(struct job_client *client, void *arg); /* returns an exit code */
/* Runs fn in a fiber with a session; returns its exit code or that of the failure, which it told. */
int job_client_run(const char *config, bool json, job_client_fn fn, void *arg);
/* "tarn: cannot WHAT: WHY"; the exit code. */
int job_client_failed(struct job_client *client, const char *what, int err);

/* cli_job_show.c */
int job_show_outputs(struct job_client *client, const Tarn__Job *job);
int job_show_failures(struct job_client *client, const Tarn__Job *job);
void job_show_receipt(const struct job_client *client, const Tarn__Job *job, bool to_stdout);
void job_show_json(const Tarn__Job *job);
int cli_job_ls(int argc, char **argv, const char *config);
int cli_job_show(int argc, char **argv, const char *config);
int cli_job_out(int argc, char **argv, const char *config);
int cli_job_err(int argc, char **argv, const char *config);
int cli_job_report(int argc, char **argv, const char *config);
/* The one operand of most of them; exits with a sentence when it is not a job's number. */
uint64_t cli_job_id(int n_args, char **argv, const char *command);

#endif
