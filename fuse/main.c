/* tarn-mount: the tree as a file system of this machine. */
#include "mount.h"
#include "passthrough.h"

#include "common/cli.h"
#include "common/config.h"
#include "common/log.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    const unsigned want = FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_PARALLEL_DIROPS |
                          FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_DONT_MASK;
    conn->want |= want & conn->capable;
    /* The service checks permissions and access control lists, and applies the umask where a default list does not
     * take its place: FUSE_CAP_POSIX_ACL would turn on the kernel's own check, which knows less. */
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_POSIX_ACL);
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    struct mount *mount = userdata;
    mount->kernel_passes = mount->passthrough != MOUNT_PASSTHROUGH_OFF && fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
#endif
    conn->max_write = MOUNT_IO_MAX;
    conn->max_background = 64;
}

const struct fuse_lowlevel_ops mount_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .readlink = op_readlink,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .symlink = op_symlink,
    .link = op_link,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .rename = op_rename,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .access = op_access,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
    .open = op_open,
    .create = op_create,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .release = op_release,
    .fsync = op_fsync,
    .fallocate = op_fallocate,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .fsyncdir = op_fsyncdir,
    .getlk = op_getlk,
    .setlk = op_setlk,
    .flock = op_flock,
};

struct process {
    struct mount mount;
    struct config config;
    int ready_fd; /* the waiting parent's pipe, -1 in the foreground */
    int signal_fd;
    int log_fd; /* where messages go from the background, -1 = nowhere */
    int exit_code;
};

/* Tells the waiting parent how it went; on success detaches from its terminal. */
static void report(struct process *process, int exit_code)
{
    if (process->ready_fd < 0)
        return;
    uint8_t code = (uint8_t)exit_code;
    if (write(process->ready_fd, &code, 1) != 1)
        log_warn("nobody waits for the mount any more");
    close(process->ready_fd);
    process->ready_fd = -1;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(process->log_fd >= 0 ? process->log_fd : null, STDERR_FILENO);
    if (null > STDERR_FILENO)
        close(null);
}

static int connect_cluster(struct mount *mount)
{
    char name[64];
    snprintf(name, sizeof name, "tarn-mount %.50s", mount->point);
    struct meta_options options = {.name = name, .timeout_ms = mount->session_ms};
    int err = meta_connect(mount->io, mount->config, &options, &mount->meta);
    if (err == 0) {
        /* One question proves that the cluster answers before anything is mounted. */
        Tarn__StatFs request = TARN__STAT_FS__INIT;
        err = meta_call(mount->meta, OP_STATFS, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    }
    if (err == 0)
        err = stores_create(mount->io, mount->config, mount->meta, &mount->stores);
    if (err != 0)
        cli_complain("cannot mount %s: %s (metadata service of %s)", mount->point, err_sentence(err), mount->config->path);
    return err;
}

static int mount_kernel(struct mount *mount)
{
    char source[64];
    /* Others than the one who mounts: only root may allow that without asking /etc/fuse.conf. */
    snprintf(source, sizeof source, "-ofsname=tarn:%016llx,subtype=tarn%s",
             (unsigned long long)mount->config->auth.cluster_id, geteuid() == 0 ? ",allow_other" : "");
    char *argv[] = {(char *)"tarn-mount", source, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, argv);
    mount->session = fuse_session_new(&args, &mount_ops, sizeof mount_ops, mount);
    fuse_opt_free_args(&args);
    if (mount->session == NULL)
        return -E_INVAL;
    if (fuse_session_mount(mount->session, mount->point) != 0) {
        cli_complain("cannot mount %s: %s", mount->point, "the kernel or fusermount3 refused; is /dev/fuse there and the directory yours?");
        fuse_session_destroy(mount->session);
        mount->session = NULL;
        return -E_PERM;
    }
    return channel_init(mount);
}

/* Locks and open files go now, not when the session's time is over. */
static void end_session(struct mount *mount)
{
    Tarn__SessionEnd request = TARN__SESSION_END__INIT;
    request.session = meta_session(mount->meta);
    if (request.session == 0)
        return;
    int err = meta_call(mount->meta, OP_SESSION_END, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    if (err != 0)
        log_warn("the session of %s could not be ended (%s); it expires by itself", mount->point, err_sentence(err));
}

static void mount_fini(struct mount *mount)
{
    if (mount->session != NULL)
        fuse_session_destroy(mount->session);
    if (mount->stores != NULL)
        stores_destroy(mount->stores);
    if (mount->meta != NULL)
        meta_disconnect(mount->meta);
    list_foreach_safe(&mount->free_buffers, it, next) free(it);
    map_fini(&mount->lock_handles);
    passthrough_fini(mount);
}

static void mount_fiber(void *arg)
{
    struct process *process = arg;
    struct mount *mount = &process->mount;
    int err = connect_cluster(mount);
    if (err == 0)
        err = mount_kernel(mount);
    process->exit_code = cli_exit_for(err);
    report(process, process->exit_code);
    if (err == 0) {
        channel_run(mount);
        fuse_session_unmount(mount->session);
        end_session(mount);
    }
    io_stop(mount->io); /* requests that wait (locks) return, then nobody uses the mount any more */
    fiber_group_wait(&mount->requests);
    mount_fini(mount);
}

/* On a worker thread: the kernel may ask this very process for writes before it lets go. */
static void detach(void *arg)
{
    const char *point = arg;
    if (umount2(point, UMOUNT_NOFOLLOW | MNT_DETACH) == 0 || errno != EPERM)
        return;
    const char *argv[] = {"fusermount3", "-u", "-q", "-z", "--", point, NULL};
    pid_t pid = 0;
    if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ) == 0)
        waitpid(pid, NULL, 0);
}

static bool signal_wait(struct process *process)
{
    struct signalfd_siginfo info;
    int events = io_poll(process->mount.io, process->signal_fd, POLLIN, 0);
    if (events < 0)
        return false;
    return read(process->signal_fd, &info, sizeof info) == sizeof info;
}

/* A signal detaches the mount; the kernel ends the channel when the last file in it is closed. Who does
 * not want to wait for that sends another: what is still open then gives errors. */
static void signal_fiber(void *arg)
{
    struct process *process = arg;
    struct mount *mount = &process->mount;
    if (!signal_wait(process))
        return;
    log_info("a signal ends the mount at %s", mount->point);
    if (mount->session != NULL) {
        io_work(mount->io, detach, (void *)(uintptr_t)mount->point);
        if (!signal_wait(process))
            return;
        log_warn("a second signal ends the mount at %s with files open", mount->point);
    }
    io_stop(mount->io);
}

static int watch_signals(struct process *process)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return err_from_errno(errno);
    process->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return process->signal_fd < 0 ? err_from_errno(errno) : 0;
}

static int run(struct process *process)
{
    struct mount *mount = &process->mount;
    mount->config = &process->config;
    list_init(&mount->free_buffers);
    int err = io_uring_create(NULL, &mount->io);
    if (err == 0)
        err = watch_signals(process);
    if (err == 0)
        err = fiber_spawn(mount->io, "signals", signal_fiber, process);
    if (err == 0)
        err = fiber_spawn(mount->io, "mount", mount_fiber, process);
    if (err == 0)
        err = io_run(mount->io);
    if (mount->io != NULL)
        io_destroy(mount->io);
    return err != 0 ? cli_exit_for(err) : process->exit_code;
}

/* Forks; the parent waits for the child's word and exits with it. Returns in the child only. */
static int into_background(struct process *process)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_from_errno(errno);
    pid_t pid = fork();
    if (pid < 0)
        return err_from_errno(errno);
    if (pid == 0) {
        close(fds[0]);
        setsid();
        if (chdir("/") < 0)
            return err_from_errno(errno);
        process->ready_fd = fds[1];
        return 0;
    }
    close(fds[1]);
    uint8_t code = CLI_FAILED;
    if (read(fds[0], &code, 1) != 1) {
        int status = 0;
        waitpid(pid, &status, 0);
        code = WIFEXITED(status) && WEXITSTATUS(status) != 0 ? (uint8_t)WEXITSTATUS(status) : CLI_FAILED;
    }
    exit(code);
}

/* A word of the mount options. False: there is none of that name. */
static bool option_word(struct mount *mount, const char *word)
{
    static const struct {
        const char *name;
        size_t at;
        int value;
    } known[] = {
        {"relatime", offsetof(struct mount, atime), MOUNT_RELATIME},
        {"strictatime", offsetof(struct mount, atime), MOUNT_STRICTATIME},
        {"noatime", offsetof(struct mount, atime), MOUNT_NOATIME},
        {"passthrough=auto", offsetof(struct mount, passthrough), MOUNT_PASSTHROUGH_AUTO},
        {"passthrough=on", offsetof(struct mount, passthrough), MOUNT_PASSTHROUGH_ON},
        {"passthrough=off", offsetof(struct mount, passthrough), MOUNT_PASSTHROUGH_OFF},
    };
    _Static_assert(sizeof(enum mount_atime) == sizeof(int) && sizeof(enum mount_passthrough) == sizeof(int), "written as int");
    if (strcmp(word, "verify=always") == 0 || strcmp(word, "verify=once") == 0) {
        mount->verify_always = strcmp(word, "verify=always") == 0;
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(known[i].name, word) != 0)
            continue;
        memcpy((char *)mount + known[i].at, &known[i].value, sizeof known[i].value);
        return true;
    }
    return false;
}

/* The last of several that contradict each other counts, as mount(8) has it. */
static bool options_parse(const char *text, struct mount *mount)
{
    char word[64];
    for (size_t n; *text != '\0'; text += n + (text[n] == ',')) {
        unsigned seconds;
        n = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)MIN(n, sizeof word - 1), text);
        if (sscanf(word, "session=%u", &seconds) == 1) {
            if (seconds < MOUNT_SESSION_S_MIN || seconds > MOUNT_SESSION_S_MAX) {
                cli_complain("the mount option session takes %d to %d seconds", MOUNT_SESSION_S_MIN, MOUNT_SESSION_S_MAX);
                return false;
            }
            mount->session_ms = seconds * 1000;
        } else if (n > 0 && !option_word(mount, word)) {
            cli_complain("tarn-mount knows no mount option '%s', only relatime, strictatime, noatime, session=SECONDS, "
                         "passthrough=auto|on|off and verify=always|once",
                         word);
            return false;
        }
    }
    return true;
}

static int check_point(const char *point, char *ret_real)
{
    struct stat st;
    if (realpath(point, ret_real) == NULL || stat(ret_real, &st) < 0) {
        if (errno == ENOTCONN)
            cli_complain("%s is the rest of a mount that ended; 'tarn umount %s' clears it", point, point);
        else
            cli_complain("cannot mount at %s: %s", point, strerror(errno));
        return errno == ENOENT ? CLI_NOT_FOUND : CLI_FAILED;
    }
    if (!S_ISDIR(st.st_mode)) {
        cli_complain("cannot mount at %s: it is not a directory", point);
        return CLI_FAILED;
    }
    return CLI_OK;
}

int main(int argc, char **argv)
{
    static struct process process = {.ready_fd = -1, .log_fd = -1};
    static char point[PATH_MAX];
    bool foreground = false;
    const char *config = NULL, *options_text = NULL, *log_path = NULL;
    const struct cli_option options[] = {
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
        {"options", CLI_STRING, &options_text, "A,B", "mount options: relatime (as without), strictatime, noatime, session=SECONDS, passthrough=auto|on|off, verify=always", 0, 0},
        {"log", CLI_STRING, &log_path, "FILE", "log file when in the background", 0, 0},
        {"foreground", CLI_FLAG, &foreground, NULL, "stay in the foreground", 0, 0},
    };
    int n_args = 0;
    log_init("tarn-mount");
    cli_parse(argc, argv, "tarn-mount [--config FILE] DIR", "Mounts the tree at DIR.", options, ARRAY_SIZE(options), &n_args);
    if (n_args != 1) {
        cli_complain("tarn-mount needs one directory");
        return CLI_USAGE;
    }
    if (options_text != NULL && !options_parse(options_text, &process.mount))
        return CLI_USAGE;
    const char *why = "";
    int err = config_load(config, &process.config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    process.config.verify_always |= process.mount.verify_always;
    if (process.config.verify_always)
        process.mount.passthrough = MOUNT_PASSTHROUGH_OFF;
    int code = check_point(argv[1], point);
    if (code != CLI_OK)
        return code;
    process.mount.point = point;
    if (log_path != NULL)
        process.log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (log_path != NULL && process.log_fd < 0) {
        cli_complain("cannot write the log %s: %s", log_path, strerror(errno));
        return CLI_FAILED;
    }
    err = foreground ? 0 : into_background(&process);
    if (err != 0) {
        cli_complain("cannot go into the background: %s", err_sentence(err));
        return cli_exit_for(err);
    }
    return run(&process);
}
