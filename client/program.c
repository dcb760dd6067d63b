#include "program.h"

#include "common/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static bool found(char *path, size_t size, const char *dir, const char *sub, const char *name)
{
    int n = snprintf(path, size, "%s/%s%s", dir, sub, name);
    return n > 0 && (size_t)n < size && access(path, X_OK) == 0;
}

int program_find(const char *name, char *ret_path, size_t size)
{
    /* The build tree has each program in the folder it is made of. */
    static const char *const folders[] = {"",         "../client/", "../metadata/", "../objstore/",
                                          "../fuse/", "../gateway/", "../compute/"};
    const char *bindir = getenv("TARN_BINDIR");
    if (bindir != NULL && found(ret_path, size, bindir, "", name))
        return 0;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
            if (found(ret_path, size, self, folders[i], name))
                return 0;
    }
    const char *path = getenv("PATH");
    _cleanup_free_ char *copy = strdup(path != NULL ? path : "/usr/local/bin:/usr/bin:/bin");
    char *rest = copy;
    for (char *dir; copy != NULL && (dir = strsep(&rest, ":")) != NULL;)
        if (*dir != '\0' && found(ret_path, size, dir, "", name))
            return 0;
    return -E_NOENT;
}

/* Field 22 of /proc/PID/stat: clock ticks since boot at which the process started; 0 = no such process. */
static uint64_t start_time(pid_t pid)
{
    char path[64], stat[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    size_t n = fread(stat, 1, sizeof stat - 1, file);
    fclose(file);
    stat[n] = '\0';
    char *at = strrchr(stat, ')'); /* the name may contain spaces and parentheses */
    if (at == NULL || at[1] == '\0' || at[2] == 'Z')
        return 0;
    for (int field = 2; field < 22 && at != NULL; field++)
        at = strchr(at + 1, ' ');
    return at != NULL ? strtoull(at + 1, NULL, 10) : 0;
}

static void pid_path(char *path, size_t size, const char *run_dir, const char *name)
{
    snprintf(path, size, "%s/%s.pid", run_dir, name);
}

enum program_state program_state(const char *run_dir, const char *name, pid_t *ret_pid)
{
    char path[PATH_MAX];
    pid_path(path, sizeof path, run_dir, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return PROGRAM_STOPPED;
    int pid = 0;
    unsigned long long started = 0;
    int n = fscanf(file, "%d %llu", &pid, &started);
    fclose(file);
    if (n != 2 || pid <= 1 || start_time(pid) != started || started == 0)
        return PROGRAM_STOPPED;
    *ret_pid = pid;
    return PROGRAM_RUNNING;
}

static int write_pid(const char *run_dir, const char *name, pid_t pid)
{
    char path[PATH_MAX];
    pid_path(path, sizeof path, run_dir, name);
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return err_from_errno(errno);
    fprintf(file, "%d %llu\n", (int)pid, (unsigned long long)start_time(pid));
    return fclose(file) == 0 ? 0 : err_from_errno(errno);
}

_Noreturn static void child(const struct program *program, const char *binary, int log)
{
    setsid();
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
        _exit(127);
    syscall(SYS_close_range, 3, ~0U, 0);
    execv(binary, program->argv);
    dprintf(STDERR_FILENO, "cannot execute %s: %s\n", binary, strerror(errno));
    _exit(127);
}

int program_start(const struct program *program, pid_t *ret_pid, uint64_t *ret_log_offset)
{
    char binary[PATH_MAX], path[PATH_MAX];
    if (program_find(program->binary, binary, sizeof binary) != 0)
        return -E_NOENT;
    snprintf(path, sizeof path, "%s/%s.log", program->log_dir, program->name);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return err_from_errno(errno);
    off_t offset = lseek(log, 0, SEEK_END);
    pid_t pid = fork();
    if (pid == 0)
        child(program, binary, log);
    int err = pid < 0 ? err_from_errno(errno) : 0;
    close(log);
    if (err == 0)
        err = write_pid(program->run_dir, program->name, pid);
    if (err != 0 && pid > 0)
        kill(pid, SIGKILL);
    if (err != 0)
        return err;
    *ret_pid = pid;
    *ret_log_offset = offset > 0 ? (uint64_t)offset : 0;
    return 0;
}

/* Looks for a line "ready…" behind the offset; leaves the last whole line in `last` (256 bytes). */
static bool log_has_ready(const struct program *program, uint64_t offset, char *last)
{
    char path[PATH_MAX], line[512];
    bool ready = false;
    snprintf(path, sizeof path, "%s/%s.log", program->log_dir, program->name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    fseeko(file, (off_t)offset, SEEK_SET);
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        ready |= strncmp(line, "ready", 5) == 0;
        snprintf(last, 256, "%.255s", line);
    }
    fclose(file);
    return ready;
}

int program_wait_ready(const struct program *program, pid_t pid, uint64_t log_offset, uint64_t timeout_ms,
                       int *ret_exit, char *why)
{
    why[0] = '\0';
    for (uint64_t waited = 0; waited < timeout_ms; waited += 10) {
        int status = 0;
        bool ended = waitpid(pid, &status, WNOHANG) == pid;
        if (log_has_ready(program, log_offset, why))
            return 0;
        if (ended) {
            *ret_exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            return -E_IO;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return -E_TIMEOUT;
}

/* Waits for the end of any process, ours or not. */
static bool wait_end(int pidfd, uint64_t timeout_ms)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};
    return poll(&fd, 1, (int)timeout_ms) > 0;
}

bool program_stop(const char *run_dir, const char *name, uint64_t grace_ms)
{
    pid_t pid = 0;
    bool killed = false;
    if (program_state(run_dir, name, &pid) == PROGRAM_RUNNING) {
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        /* Asked again with the descriptor held: the pid cannot be reused from here on. */
        if (pidfd >= 0 && program_state(run_dir, name, &pid) == PROGRAM_RUNNING) {
            syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
            if (!wait_end(pidfd, grace_ms)) {
                killed = true;
                syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
                wait_end(pidfd, 5000);
            }
        }
        if (pidfd >= 0)
            close(pidfd);
        waitpid(pid, NULL, WNOHANG);
    }
    char path[PATH_MAX];
    pid_path(path, sizeof path, run_dir, name);
    unlink(path);
    return killed;
}
