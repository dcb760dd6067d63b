/* Tarn's other programs: where they are, starting them in the background, stopping them. */
#ifndef TARN_CLIENT_PROGRAM_H
#define TARN_CLIENT_PROGRAM_H

#include "common/base.h"

/* Finds `name` in $TARN_BINDIR, beside this program, in the build tree this program is part of, then
 * in $PATH. 0 or -E_NOENT. */
int program_find(const char *name, char *ret_path, size_t size);

/* A background process known by a pid file "PID STARTTIME": the start time keeps a reused pid from
 * being taken for it. */
struct program {
    const char *name;     /* of pid and log file: "stored-2" */
    const char *binary;   /* "tarn-stored" */
    char **argv;          /* NULL-terminated, argv[0] included */
    const char *run_dir, *log_dir;
};
enum program_state { PROGRAM_STOPPED, PROGRAM_RUNNING };
enum program_state program_state(const char *run_dir, const char *name, pid_t *ret_pid);
/* Starts it in its own session with output to LOG_DIR/NAME.log and writes the pid file. Does not wait. */
int program_start(const struct program *program, pid_t *ret_pid, uint64_t *ret_log_offset);
/* Waits until a line "ready" is in the log behind log_offset. -E_TIMEOUT, or -E_IO when the process
 * has ended: *ret_exit has its exit code and why (256 bytes) the last line of its log. */
int program_wait_ready(const struct program *program, pid_t pid, uint64_t log_offset, uint64_t timeout_ms,
                       int *ret_exit, char *why);
/* SIGTERM, then SIGKILL after grace_ms. Returns true when it had to be killed. Removes the pid file. */
bool program_stop(const char *run_dir, const char *name, uint64_t grace_ms);

#endif
