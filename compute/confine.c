#include "confine.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPEN_FILES_MAX 4096

struct confine_filter {
    struct sock_fprog program;
};

/* Refused with EPERM: they change the machine, reach other processes, or open much kernel code that no
 * batch command needs. Everything else is allowed: tasks are ordinary Unix programs. */
static const char *const refused[] = {
    "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev",
    "kcmp", "pidfd_getfd", "process_madvise", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key",
    "open_by_handle_at", "name_to_handle_at", "io_uring_setup", "io_uring_enter", "io_uring_register", "reboot",
    "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime", "clock_adjtime",
    "adjtimex", "sethostname", "setdomainname", "iopl", "ioperm", "syslog", "vhangup", "nfsservctl",
    "lookup_dcookie", "mbind", "move_pages", "migrate_pages", "fanotify_init",
};

/* Families that a network namespace confines; vsock, for one, it does not. */
static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

static int refuse_families(scmp_filter_ctx ctx)
{
    int last = 0, err = 0;
    for (size_t i = 0; i <= ARRAY_SIZE(families); i++) {
        int next = i < ARRAY_SIZE(families) ? families[i] : -1;
        for (int family = last; next >= 0 && family < next && err == 0; family++)
            err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                   SCMP_A0_32(SCMP_CMP_EQ, (scmp_datum_t)family));
        if (next < 0 && err == 0)
            err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                   SCMP_A0_32(SCMP_CMP_GE, (scmp_datum_t)last));
        last = next + 1;
    }
    return err;
}

static int refuse_namespaces(scmp_filter_ctx ctx)
{
    static const unsigned long flags[] = {CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,   CLONE_NEWNET,
                                          CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP};
    int err = 0;
    for (size_t i = 0; i < ARRAY_SIZE(flags) && err == 0; i++)
        err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
    /* clone3 keeps its flags in memory, where no filter can look: the C library falls back to clone. */
    if (err == 0)
        err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* Typing into the terminal somebody else reads. */
    if (err == 0)
        err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1, SCMP_A1_32(SCMP_CMP_EQ, 0x5412));
    return err;
}

static int add_rules(scmp_filter_ctx ctx)
{
    int err = 0;
    for (size_t i = 0; i < ARRAY_SIZE(refused) && err == 0; i++) {
        int nr = seccomp_syscall_resolve_name(refused[i]);
        if (nr != __NR_SCMP_ERROR && nr >= 0) /* negative: not on this architecture */
            err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), nr, 0);
    }
    if (err == 0)
        err = refuse_namespaces(ctx);
    if (err == 0)
        err = refuse_families(ctx);
    return err;
}

/* The library writes the program to a descriptor; children then install it without the library. */
static int export_program(scmp_filter_ctx ctx, struct confine_filter *filter)
{
    int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0)
        return errno;
    int err = -seccomp_export_bpf(ctx, fd);
    off_t len = lseek(fd, 0, SEEK_END);
    if (err == 0 && (len <= 0 || len % (off_t)sizeof(struct sock_filter) != 0))
        err = EIO;
    if (err == 0) {
        filter->program.filter = malloc((size_t)len);
        filter->program.len = (unsigned short)((size_t)len / sizeof(struct sock_filter));
        if (filter->program.filter == NULL)
            err = ENOMEM;
        else if (pread(fd, filter->program.filter, (size_t)len, 0) != len)
            err = EIO;
    }
    close(fd);
    return err;
}

int confine_filter_create(struct confine_filter **ret)
{
    struct confine_filter *filter = calloc(1, sizeof *filter);
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    int err = filter == NULL || ctx == NULL ? ENOMEM : 0;
    if (err == 0)
        err = -add_rules(ctx);
    if (err == 0)
        err = export_program(ctx, filter);
    if (ctx != NULL)
        seccomp_release(ctx);
    if (err != 0) {
        if (filter != NULL)
            free(filter->program.filter);
        free(filter);
        return err;
    }
    *ret = filter;
    return 0;
}

int confine_filter_install(const struct confine_filter *filter)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter->program);
}

int confine_drop_bounding(void)
{
    for (cap_value_t cap = 0; cap_get_bound(cap) >= 0; cap++)
        if (cap_drop_bound(cap) != 0)
            return -1;
    return 0;
}

int confine_drop_capabilities(void)
{
    cap_t none = cap_init();
    if (none == NULL)
        return -1;
    int err = cap_set_proc(none);
    cap_free(none);
    return err;
}

static int set_limit(__rlimit_resource_t resource, uint64_t value)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0)
        return -1;
    /* Raising needs CAP_SYS_RESOURCE, which containers often lack; what is lower already stays. */
    limit.rlim_max = MIN((uint64_t)limit.rlim_max, value);
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit);
}

int confine_limits_set(const struct confine_limits *limits)
{
    if (set_limit(RLIMIT_CORE, 0) != 0 || set_limit(RLIMIT_NOFILE, OPEN_FILES_MAX) != 0 ||
        set_limit(RLIMIT_MEMLOCK, MIB(8)) != 0 || set_limit(RLIMIT_MSGQUEUE, MIB(1)) != 0 ||
        set_limit(RLIMIT_FSIZE, limits->file_bytes) != 0 || set_limit(RLIMIT_NPROC, limits->processes) != 0)
        return -1;
    return limits->address_space != 0 ? set_limit(RLIMIT_AS, limits->address_space) : 0;
}
