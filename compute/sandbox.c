#include "sandbox.h"

#include "cgroup.h"
#include "common/check.h"
#include "common/err.h"
#include "sandbox_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_TIMEOUT_MS 10000
#define STOP_TIMEOUT_MS 3000

struct sandbox {
    pid_t pid;
    int sock;
    struct cgroup *group;
    uint64_t oom_kills; /* when the task was started */
    bool running;
};

static char why_text[160];

static int explain(int err, const char **ret_why, const char *step, int errno_value)
{
    snprintf(why_text, sizeof why_text, "%s: %s", step, strerror(errno_value));
    *ret_why = why_text;
    return err;
}

static void make_group(struct sandbox *sandbox, const char *name)
{
    const char *why;
    if (name != NULL && cgroup_create(name, &sandbox->group, &why) != 0)
        sandbox->group = NULL;
}

static int fork_zygote(struct sandbox *sandbox, const char *dir, const char **ret_why)
{
    int socks[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) != 0)
        return explain(-E_IO, ret_why, "socketpair", errno);
    int room = (int)SANDBOX_REQUEST_MAX * 2;
    setsockopt(socks[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    fcntl(socks[0], F_SETFL, O_NONBLOCK);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        struct zygote_options options = {.sock = socks[1], .parent = parent, .dir = dir, .group = sandbox->group};
        zygote_main(&options);
    }
    close(socks[1]);
    if (pid < 0) {
        close(socks[0]);
        return explain(-E_IO, ret_why, "fork", errno);
    }
    sandbox->pid = pid;
    sandbox->sock = socks[0];
    return 0;
}

static int wait_ready(struct sandbox *sandbox, const char **ret_why)
{
    struct pollfd pollfd = {.fd = sandbox->sock, .events = POLLIN};
    struct sandbox_answer answer;
    int n;
    while ((n = poll(&pollfd, 1, READY_TIMEOUT_MS)) < 0 && errno == EINTR)
        continue;
    if (n <= 0)
        return explain(-E_IO, ret_why, "the zygote does not answer", ETIMEDOUT);
    ssize_t got = recv(sandbox->sock, &answer, sizeof answer, 0);
    if (got != sizeof answer || answer.kind != SANDBOX_MSG_READY)
        return explain(-E_IO, ret_why, "the zygote ended", EPIPE);
    if (answer.event.setup_errno != 0)
        return explain(-E_IO, ret_why, answer.event.step, answer.event.setup_errno);
    return 0;
}

int sandbox_start(const struct sandbox_options *options, struct sandbox **ret, const char **ret_why)
{
    *ret_why = "";
    if (geteuid() != 0)
        return explain(-E_PERM, ret_why, "a sandbox is made by root", EPERM);
    struct sandbox *sandbox = calloc(1, sizeof *sandbox);
    if (sandbox == NULL)
        return -E_NOMEM;
    sandbox->pid = -1;
    sandbox->sock = -1;
    make_group(sandbox, options->cgroup);
    int err = fork_zygote(sandbox, options->dir, ret_why);
    if (err == 0)
        err = wait_ready(sandbox, ret_why);
    if (err != 0) {
        sandbox_stop(sandbox);
        return err;
    }
    *ret = sandbox;
    return 0;
}

/* The zygote sees its socket closed, ends its task, waits for it and exits. Should it not, its own
 * death ends the task's init, and that every process of the namespace. */
static void reap(pid_t pid)
{
    for (unsigned i = 0; i < STOP_TIMEOUT_MS; i++) {
        pid_t done = waitpid(pid, NULL, WNOHANG);
        if (done == pid || (done < 0 && errno != EINTR))
            return;
        usleep(1000);
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

void sandbox_stop(struct sandbox *sandbox)
{
    if (sandbox == NULL)
        return;
    if (sandbox->sock >= 0)
        close(sandbox->sock);
    if (sandbox->pid > 0)
        reap(sandbox->pid);
    cgroup_destroy(sandbox->group);
    free(sandbox);
}

/* ---- a task */

static int pack(const struct sandbox_task *task, const struct sandbox_request *request, char *buf, size_t *ret_len)
{
    size_t len = sizeof *request;
    memcpy(buf, request, len);
    for (unsigned i = 0; i < task->n_env + 3; i++) {
        const char *text = i == 0   ? task->exec
                           : i == 1 ? (task->init != NULL ? task->init : "")
                           : i == 2 ? (task->input_name != NULL ? task->input_name : "")
                                    : task->env[i - 3];
        size_t n = strlen(text) + 1;
        if (n > SANDBOX_REQUEST_MAX - len)
            return -E_INVAL;
        memcpy(buf + len, text, n);
        len += n;
    }
    *ret_len = len;
    return 0;
}

static int send_request(struct sandbox *sandbox, const struct sandbox_task *task, char *buf, size_t len)
{
    int fds[SANDBOX_FDS_MAX] = {task->stdin_fd, task->stdout_fd, task->stderr_fd, task->input_tree};
    size_t fds_len = sizeof(int) * (task->input_tree >= 0 ? 4 : 3);
    union {
        char space[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                         .msg_controllen = CMSG_SPACE(fds_len)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fds_len)};
    memcpy(CMSG_DATA(header), fds, fds_len);
    return sendmsg(sandbox->sock, &msg, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -E_CONN;
}

int sandbox_run(struct sandbox *sandbox, const struct sandbox_task *task)
{
    CHECK(!sandbox->running);
    if (strlen(task->exec) > SANDBOX_EXEC_MAX || task->n_env > SANDBOX_ENV_MAX)
        return -E_INVAL;
    struct sandbox_request request = {
        .kind = SANDBOX_MSG_RUN,
        .uid = task->uid,
        .gid = task->gid,
        .n_env = task->n_env,
        .processes = task->processes != 0 ? task->processes : SANDBOX_PROCESSES_DEFAULT,
        .strict = task->strict,
        .has_init = task->init != NULL && task->init[0] != '\0',
        .has_input = task->input_tree >= 0,
        .limit_address_space = !sandbox_limits_memory(sandbox),
        .limit_processes = !cgroup_controls(sandbox->group, CGROUP_PIDS),
        .memory = task->memory,
        .scratch = task->scratch != 0 ? task->scratch : SANDBOX_SCRATCH_DEFAULT,
    };
    _cleanup_free_ char *buf = malloc(SANDBOX_REQUEST_MAX);
    if (buf == NULL)
        return -E_NOMEM;
    size_t len = 0;
    int err = pack(task, &request, buf, &len);
    if (err != 0)
        return err;
    if (sandbox->group != NULL) {
        struct cgroup_limits limits = {.memory = task->memory, .cpu_milli = task->cpu_milli,
                                       .processes = request.processes};
        err = cgroup_limit(sandbox->group, &limits);
        if (err != 0)
            return err;
        sandbox->oom_kills = cgroup_oom_kills(sandbox->group);
    }
    err = send_request(sandbox, task, buf, len);
    if (err == 0)
        sandbox->running = true;
    return err;
}

int sandbox_kill(struct sandbox *sandbox)
{
    struct sandbox_request request = {.kind = SANDBOX_MSG_KILL};
    if (!sandbox->running)
        return 0;
    return send(sandbox->sock, &request, sizeof request, MSG_NOSIGNAL) == sizeof request ? 0 : -E_CONN;
}

int sandbox_event(struct sandbox *sandbox, struct sandbox_event *ret)
{
    struct sandbox_answer answer;
    ssize_t n;
    while ((n = recv(sandbox->sock, &answer, sizeof answer, MSG_DONTWAIT)) < 0 && errno == EINTR)
        continue;
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n != sizeof answer || answer.kind != SANDBOX_MSG_EVENT)
        return -E_CONN;
    if (answer.event.kind == SANDBOX_ENDED) {
        sandbox->running = false;
        answer.event.out_of_memory = cgroup_oom_kills(sandbox->group) != sandbox->oom_kills;
    }
    *ret = answer.event;
    return 1;
}

int sandbox_fd(const struct sandbox *sandbox)
{
    return sandbox->sock;
}

bool sandbox_limits_memory(const struct sandbox *sandbox)
{
    return cgroup_controls(sandbox->group, CGROUP_MEMORY);
}

int sandbox_input_tree(int fd, int *ret_tree)
{
    int tree = (int)syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0)
        return errno == EINVAL || errno == ENOSYS ? -E_NOTSUP : err_from_errno(errno);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) != 0) {
        int err = err_from_errno(errno);
        close(tree);
        return err;
    }
    *ret_tree = tree;
    return 0;
}
