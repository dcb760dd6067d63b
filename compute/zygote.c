/* The zygote of a slot and the processes it clones.
 *
 *   zygote ──clone(mount, pid, ipc)──> init (pid 1 of the task) ──fork──> bash
 *     │  answers STARTED by init, ENDED by the zygote when init is gone        (with no capability)
 *     └ waits for: its socket (KILL, or closed: end everything), the end of init
 *
 * init stays root without capabilities, reaps what the task leaves, and ends when bash ends: then the
 * kernel kills the rest of the namespace. Nothing here allocates after the zygote is ready. */
#include "sandbox_wire.h"

#include "cgroup.h"
#include "confine.h"
#include "userland.h"
#include "words.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65534
#define NPROC_OF_USER_MAX 32768 /* a user's processes on the machine, where a control group bounds the task's */
#define SHELL "/bin/bash"

struct zygote {
    int sock;
    struct confine_filter *filter;
};

/* A request as it arrived: strings point into `buf`, descriptors belong to us. */
struct order {
    struct sandbox_request request;
    const char *exec, *init, *input_name;
    char *env[SANDBOX_ENV_MAX + 1];
    int fds[SANDBOX_FDS_MAX]; /* stdin, stdout, stderr, input mount */
    unsigned n_fds;
};

/* What init tells the zygote at its end. */
struct outcome {
    int setup_errno;
    char step[32];
    bool init_failed, core;
    int status;
};

static char buf[SANDBOX_REQUEST_MAX];

static void close_all_but(int keep)
{
    if (keep > 3)
        syscall(SYS_close_range, 3u, (unsigned)keep - 1, 0);
    syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0);
}

/* The agent's standard streams are nobody's business here; the places stay taken. */
static void close_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
}

static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ---- becoming a zygote */

static int raise_loopback(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int err = ioctl(fd, SIOCSIFFLAGS, &ifr);
    close(fd);
    return err;
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    /* Best effort: a machine that refuses it kills in its own order. */
    if (write(fd, text, strlen(text)) < 0) {
    }
    close(fd);
}

static int become(struct zygote *zygote, const struct zygote_options *options, const char **ret_step)
{
    *ret_step = "control group";
    if (options->group != NULL && cgroup_join(options->group, getpid()) != 0) {
        errno = EIO;
        return -1;
    }
    write_text("/proc/self/oom_score_adj", "-1000"); /* a task that grows too large dies, not its slot */
    *ret_step = "namespaces";
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP) != 0)
        return -1;
    if (sethostname("task", 4) != 0 || raise_loopback() != 0)
        return -1;
    if (userland_enter(options->dir, ret_step) != 0)
        return -1;
    *ret_step = "system call filter";
    int err = confine_filter_create(&zygote->filter);
    if (err != 0) {
        errno = err;
        return -1;
    }
    return 0;
}

/* ---- the task's own processes */

static void set_step(struct outcome *outcome, const char *step)
{
    outcome->setup_errno = errno;
    snprintf(outcome->step, sizeof outcome->step, "%s", step);
}

/* Standard streams of the shell; for `init` no input, and its output beside the errors. */
static int set_streams(const struct order *order, bool is_init)
{
    int in = is_init ? open("/dev/null", O_RDONLY) : order->fds[0];
    int out = is_init ? order->fds[2] : order->fds[1];
    if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(order->fds[2], 2) < 0)
        return -1;
    return 0;
}

/* Names opened again through /dev/stdout and the like: let the task's user open its own pipes. */
static void own_pipe(int fd, uid_t uid, gid_t gid)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && fchown(fd, uid, gid) != 0)
        return;
}

static int become_user(const struct order *order)
{
    gid_t gid = order->request.gid != 0 ? order->request.gid : NOBODY;
    uid_t uid = order->request.uid != 0 ? order->request.uid : NOBODY;
    for (int fd = 0; fd < 3; fd++)
        own_pipe(fd, uid, gid);
    return setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0 ||
                   confine_drop_capabilities() != 0
               ? -1
               : 0;
}

static int confine(const struct order *order)
{
    const struct sandbox_request *request = &order->request;
    struct confine_limits limits = {
        .address_space = request->limit_address_space ? request->memory : 0,
        .file_bytes = request->scratch,
        .processes = request->limit_processes ? request->processes : NPROC_OF_USER_MAX,
    };
    return confine_limits_set(&limits);
}

/* The directories of the task's own PATH (environment.c). Returns when none of them has the program, or it cannot be
 * executed: bash then says so in its words, with its exit code. */
static void exec_plain(char *const *words, char *const *env)
{
    static const char *const dirs[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};
    char path[300];
    if (strchr(words[0], '/') != NULL) {
        execve(words[0], words, env);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
        if (snprintf(path, sizeof path, "%s/%s", dirs[i], words[0]) < (int)sizeof path)
            execve(path, words, env);
}

/* Never returns: on success it is bash, or the command itself where that means the same; otherwise errno goes through `report`, which exec would close. */
_Noreturn static void run_shell(const struct zygote *zygote, const struct order *order, bool is_init, int report)
{
    char *plain[] = {"bash", "-c", (char *)(is_init ? order->init : order->exec), NULL};
    char *strict[] = {"bash", "-e", "-o", "pipefail", "-c", plain[2], NULL};
    write_text("/proc/self/oom_score_adj", "500");
    setsid();
    umask(022);
    if (set_streams(order, is_init) == 0 && chdir("/tmp") == 0 && confine(order) == 0 && become_user(order) == 0 &&
        confine_filter_install(zygote->filter) == 0) {
        struct words words;
        if (words_plain(plain[2], &words))
            exec_plain(words.items, order->env);
        execve(SHELL, order->request.strict && !is_init ? strict : plain, order->env);
    }
    int failed = errno;
    if (write(report, &failed, sizeof failed) < 0)
        _exit(126);
    _exit(127);
}

static uint64_t mono_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static pid_t fork_shell(const struct zygote *zygote, const struct order *order, bool is_init)
{
    int report[2];
    if (pipe2(report, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        run_shell(zygote, order, is_init, report[1]);
    close(report[1]);
    int failed = 0;
    ssize_t n = pid > 0 ? read(report[0], &failed, sizeof failed) : 0;
    close(report[0]);
    if (n == sizeof failed) {
        errno = failed;
        return -1;
    }
    return pid;
}

/* Reaps everything until `pid` has ended. */
static int wait_for(pid_t pid, bool *core)
{
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended > 0 && WIFSIGNALED(status) && WCOREDUMP(status))
            *core = true;
        if (ended == pid)
            return status;
        if (ended < 0 && errno != EINTR)
            return 0;
    }
}

static int run_init(const struct zygote *zygote, const struct order *order, struct outcome *outcome)
{
    if (!order->request.has_init)
        return 0;
    pid_t pid = fork_shell(zygote, order, true);
    if (pid < 0) {
        set_step(outcome, "start init");
        return -1;
    }
    outcome->status = wait_for(pid, &outcome->core);
    outcome->init_failed = outcome->status != 0;
    return outcome->init_failed ? -1 : 0;
}

static void life_of_init(const struct zygote *zygote, const struct order *order, struct outcome *outcome)
{
    const struct sandbox_request *request = &order->request;
    const char *step = "";
    errno = 0;
    if (userland_furnish(request->scratch, order->input_name, request->has_input ? order->fds[3] : -1, &step) != 0) {
        set_step(outcome, step);
        return;
    }
    if (confine_drop_bounding() != 0) {
        set_step(outcome, "capabilities");
        return;
    }
    if (run_init(zygote, order, outcome) != 0)
        return;
    pid_t pid = fork_shell(zygote, order, false);
    if (pid < 0) {
        set_step(outcome, "start " SHELL);
        return;
    }
    struct sandbox_answer answer = {.kind = SANDBOX_MSG_EVENT,
                                    .event = {.kind = SANDBOX_STARTED, .exec_ns = mono_ns()}};
    /* A failure to send means that our owner is gone: the zygote ends us. */
    if (send(zygote->sock, &answer, sizeof answer, MSG_NOSIGNAL) < 0)
        errno = 0;
    for (unsigned i = 0; i < order->n_fds; i++)
        close(order->fds[i]);
    confine_drop_capabilities();
    outcome->status = wait_for(pid, &outcome->core);
}

_Noreturn static void init_main(const struct zygote *zygote, const struct order *order, int result)
{
    struct outcome outcome = {.status = 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    life_of_init(zygote, order, &outcome);
    if (write(result, &outcome, sizeof outcome) != (ssize_t)sizeof outcome)
        _exit(1);
    _exit(0);
}

/* ---- the zygote's loop */

static int receive(int sock, struct order *order)
{
    union {
        char space[CMSG_SPACE(sizeof order->fds)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = sizeof buf};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    ssize_t n;
    while ((n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        continue;
    order->n_fds = 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    if (n > 0 && header != NULL && header->cmsg_type == SCM_RIGHTS) {
        order->n_fds = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(order->fds, CMSG_DATA(header), order->n_fds * sizeof(int));
    }
    if (n < (ssize_t)sizeof order->request)
        return -1;
    memcpy(&order->request, buf, sizeof order->request);
    return (int)n;
}

static bool parse(struct order *order, size_t len)
{
    const char *at = buf + sizeof order->request, *end = buf + len;
    const char *texts[SANDBOX_ENV_MAX + 3];
    if (order->request.n_env > SANDBOX_ENV_MAX || order->n_fds < 3u + (order->request.has_input ? 1 : 0))
        return false;
    for (unsigned i = 0; i < order->request.n_env + 3; i++) {
        const char *nul = memchr(at, '\0', (size_t)(end - at));
        if (nul == NULL)
            return false;
        texts[i] = at;
        at = nul + 1;
    }
    order->exec = texts[0];
    order->init = texts[1];
    order->input_name = texts[2];
    for (unsigned i = 0; i < order->request.n_env; i++)
        order->env[i] = (char *)texts[i + 3];
    order->env[order->request.n_env] = NULL;
    return true;
}

static pid_t clone_init(const struct zygote *zygote, const struct order *order, int result, int *ret_pidfd)
{
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        init_main(zygote, order, result);
    return pid;
}

/* Until the task has ended; a KILL or the end of our owner ends it. */
static void attend(const struct zygote *zygote, pid_t pid, int pidfd, bool *ret_orphaned)
{
    struct pollfd pollfds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = zygote->sock, .events = POLLIN}};
    for (;;) {
        if (poll(pollfds, 2, -1) < 0 && errno != EINTR)
            break;
        if (pollfds[0].revents != 0)
            return;
        if (pollfds[1].revents == 0)
            continue;
        struct sandbox_request request;
        ssize_t n = recv(zygote->sock, &request, sizeof request, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        kill(pid, SIGKILL);
        if (n > 0)
            continue;
        *ret_orphaned = true;
        break;
    }
    kill(pid, SIGKILL);
}

static uint64_t cpu_us(const struct rusage *usage)
{
    return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000 +
           (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static void run_task(const struct zygote *zygote, const struct order *order, struct sandbox_event *event, bool *orphaned)
{
    int result[2], pidfd = -1;
    struct outcome outcome = {.status = SIGKILL}; /* what it is when init is killed before it can tell */
    struct rusage usage = {0};
    if (pipe2(result, O_CLOEXEC) != 0) {
        set_step(&outcome, "pipe");
    } else {
        pid_t pid = clone_init(zygote, order, result[1], &pidfd);
        if (pid < 0)
            set_step(&outcome, "clone");
        for (unsigned i = 0; i < order->n_fds; i++)
            close(order->fds[i]);
        close(result[1]);
        if (pid > 0) {
            struct outcome told;
            attend(zygote, pid, pidfd, orphaned);
            while (wait4(pid, NULL, 0, &usage) < 0 && errno == EINTR)
                continue;
            if (read(result[0], &told, sizeof told) == sizeof told)
                outcome = told;
            close(pidfd);
        }
        close(result[0]);
    }
    *event = (struct sandbox_event){.kind = SANDBOX_ENDED, .setup_errno = outcome.setup_errno,
                                    .init_failed = outcome.init_failed, .status = outcome.status,
                                    .core = outcome.core, .cpu_us = cpu_us(&usage)};
    memcpy(event->step, outcome.step, sizeof event->step);
}

static void answer(const struct zygote *zygote, uint32_t kind, const struct sandbox_event *event)
{
    struct sandbox_answer message = {.kind = kind, .event = *event};
    if (send(zygote->sock, &message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message)
        _exit(0);
}

_Noreturn void zygote_main(const struct zygote_options *options)
{
    struct zygote zygote = {.sock = options->sock};
    struct sandbox_event event = {.setup_errno = 0};
    const char *step = "";
    static struct order order;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "tarn-zygote");
    if (getppid() != options->parent)
        _exit(0);
    reset_signals();
    close_all_but(zygote.sock);
    close_streams();
    /* Ctrl-C in the terminal of the agent is the agent's: it ends us in order. */
    setsid();
    if (become(&zygote, options, &step) != 0) {
        event.setup_errno = errno != 0 ? errno : EIO;
        snprintf(event.step, sizeof event.step, "%s", step);
    }
    answer(&zygote, SANDBOX_MSG_READY, &event);
    if (event.setup_errno != 0)
        _exit(1);

    bool orphaned = false;
    int n;
    while (!orphaned && (n = receive(zygote.sock, &order)) > 0) {
        if (order.request.kind != SANDBOX_MSG_RUN)
            continue; /* a KILL that came too late */
        if (!parse(&order, (size_t)n))
            _exit(1);
        run_task(&zygote, &order, &event, &orphaned);
        if (!orphaned)
            answer(&zygote, SANDBOX_MSG_EVENT, &event);
    }
    _exit(0);
}
