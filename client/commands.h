/* The sub-commands of `tarn`: each takes its own argv (argv[0] is its name) and returns an exit code
 * of common/cli.h. Rows for dispatch and help are in tarn_main.c. */
#ifndef TARN_CLIENT_COMMANDS_H
#define TARN_CLIENT_COMMANDS_H

#include "common/cli.h"
#include "include/tarn.h"
#include "meta.h"

int command_put(int argc, char **argv);
int command_get(int argc, char **argv);
int command_cat(int argc, char **argv);
int command_ls(int argc, char **argv);
int command_rm(int argc, char **argv);
int command_stat(int argc, char **argv);
int command_mkdir(int argc, char **argv);
int command_mv(int argc, char **argv);
int command_cp(int argc, char **argv);
int command_locate(int argc, char **argv);
int command_mount(int argc, char **argv);
int command_umount(int argc, char **argv);
int command_cluster(int argc, char **argv);
int command_quota(int argc, char **argv);
int command_snapshot(int argc, char **argv);
int command_node(int argc, char **argv);
int command_disk(int argc, char **argv);
int command_heal(int argc, char **argv);
int command_scrub(int argc, char **argv);
int command_policy(int argc, char **argv);
int command_status(int argc, char **argv);
int command_meta(int argc, char **argv);
int command_job(int argc, char **argv);

/* Opens the cluster or explains why not; *ret_exit is then the exit code. */
struct tarn *command_open(const char *config, int *ret_exit);
/* "tarn: cannot WHAT PATH: sentence"; returns the exit code for this thread's last libtarn failure. */
int command_failed(const char *what, const char *path);

/* Runs fn(meta, arg) in a fiber of a fresh loop with a session to the cluster; returns fn's code or why
 * there was no session. With `quiet` nothing is printed on failure. */
typedef int (*admin_fn)(struct meta *meta, void *arg);
int admin_run(const char *config, bool quiet, uint64_t give_up_ms, admin_fn fn, void *arg);

/* Lines about damaged copies and the files with bytes that no copy has any more; nothing when there are none. */
void print_damages(const Tarn__Damages *damages); /* NULL: a service of the version before */
/* The same files, one a line, for JSON. */
#define DAMAGED_FILES_TEXT 12288
void damaged_files(const Tarn__Damages *damages, char out[DAMAGED_FILES_TEXT]);

#endif
