/* The production io: one ring, one loop. A turn of the loop:
 *   run every fiber that is ready once · fire timers · submit all they asked for in one system call
 *   (which sleeps when nothing is ready) · take the completions, which make fibers ready.
 * Other threads reach the loop by an eventfd under a lasting poll: io_post() and the workers. */
#include "io_ring.h"
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ENTRIES_DEFAULT 1024u
#define CQ_FACTOR 8u /* 8192 completions before the kernel has to keep some aside */
#define WORKERS_DEFAULT 2u
#define RANDOM_BYTES 512
#define CANCEL_AGAIN_NS 20000000u

/* user_data: a ring_op, whose address is a multiple of 8; the same plus TAG_CANCEL for its
 * cancellation; or one of the small numbers. */
#define TAG_CANCEL 1u
#define DATA_EVENT 8u
#define DATA_SIGNAL 16u
#define DATA_SMALL 64u

struct post {
    struct post *next;
    void (*fn)(void *arg);
    void *arg;
};

struct job {
    struct io_job job; /* first */
    struct fiber *fiber;
    bool done;
};

struct uring {
    struct io io; /* first */
    struct io_uring ring;
    bool disabled; /* the kernel takes requests only after the first io_run() */
    struct list in_flight;
    struct io_workers *workers;
    int event_fd, signal_fd;
    bool event_armed, signal_armed;
    uint8_t random[RANDOM_BYTES];
    size_t n_random; /* unused bytes at the end of `random` */
    pthread_mutex_t post_lock; /* guards the next four; held for no call but write(event_fd) */
    struct post *post_head, *post_tail;
    bool post_signalled, post_closed;
};

static const struct io_ops uring_ops;

struct uring *ring_of(struct io *io)
{
    CHECK(io->ops == &uring_ops);
    return container_of(io, struct uring, io);
}

/* ---- requests ---- */

static void reap(struct uring *uring);

static struct io_uring_sqe *get_sqe(struct uring *uring)
{
    struct io_uring_sqe *sqe;
    while ((sqe = io_uring_get_sqe(&uring->ring)) == NULL) {
        int r = io_uring_submit(&uring->ring);
        CHECK(r >= 0 || r == -EAGAIN || r == -EBUSY || r == -EINTR);
        if (r == -EAGAIN || r == -EBUSY)
            reap(uring);
    }
    return sqe;
}

static void prepare(struct io_uring_sqe *sqe, const struct ring_op *op)
{
    switch (op->code) {
    case RING_READ:
        io_uring_prep_read(sqe, op->fd, (void *)op->addr, op->len, op->offset);
        break;
    case RING_WRITE:
        io_uring_prep_write(sqe, op->fd, op->addr, op->len, op->offset);
        break;
    case RING_WRITEV:
        io_uring_prep_writev(sqe, op->fd, op->addr, op->len, op->offset);
        break;
    case RING_FSYNC:
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
        break;
    case RING_OPEN:
        io_uring_prep_openat(sqe, AT_FDCWD, op->addr, op->flags, op->len);
        break;
    case RING_ALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, 0, (off_t)op->offset, (off_t)op->offset2);
        break;
    case RING_UNLINK:
        io_uring_prep_unlinkat(sqe, AT_FDCWD, op->addr, 0);
        break;
    case RING_RENAME:
        io_uring_prep_renameat(sqe, AT_FDCWD, op->addr, AT_FDCWD, op->addr2, 0);
        break;
    case RING_MKDIR:
        io_uring_prep_mkdirat(sqe, AT_FDCWD, op->addr, op->len);
        break;
    case RING_ACCEPT:
        io_uring_prep_accept(sqe, op->fd, (void *)op->addr, (void *)op->addr2, SOCK_CLOEXEC);
        break;
    case RING_CONNECT:
        io_uring_prep_connect(sqe, op->fd, op->addr, op->len);
        break;
    case RING_SEND:
        io_uring_prep_send(sqe, op->fd, op->addr, op->len, MSG_NOSIGNAL);
        break;
    case RING_SENDMSG:
        io_uring_prep_sendmsg(sqe, op->fd, op->addr, MSG_NOSIGNAL);
        break;
    case RING_RECV:
        io_uring_prep_recv(sqe, op->fd, (void *)op->addr, op->len, 0);
        break;
    case RING_POLL:
        io_uring_prep_poll_add(sqe, op->fd, (unsigned)op->flags);
        break;
    }
}

static void op_timer_fired(struct core_timer *timer)
{
    struct ring_op *op = container_of(timer, struct ring_op, timer);
    if (!op->cancel_wanted)
        op->timed_out = true;
    ring_cancel(op);
}

int ring_call(struct uring *uring, struct ring_op *op, uint64_t timeout_ms)
{
    struct io *io = &uring->io;
    if (op->cancelable && io->stopping)
        return -ECANCELED; /* the stop came while the caller let others run */
    op->fiber = fiber_self();
    op->uring = uring;
    core_timer_init(&op->timer, op_timer_fired);
    if (timeout_ms != 0) {
        uint64_t deadline_ns = core_deadline_after(io, timeout_ms);
        if (deadline_ns != CORE_NEVER && core_timer_start(io, &op->timer, deadline_ns) < 0)
            return -ENOMEM;
    }
    struct io_uring_sqe *sqe = get_sqe(uring);
    prepare(sqe, op);
    io_uring_sqe_set_data(sqe, op);
    op->pending = 1;
    list_append(&uring->in_flight, &op->in_flight);
    if (op->owner != NULL)
        list_append(op->owner, &op->owned);
    while (op->pending > 0)
        core_park(io);
    if (op->owner != NULL)
        list_remove(&op->owned);
    list_remove(&op->in_flight);
    core_timer_stop(io, &op->timer);
    if (op->cancel_wanted && (op->result == -ECANCELED || op->result == -EINTR))
        return op->timed_out ? -ETIMEDOUT : -ECANCELED;
    return op->result;
}

void ring_cancel(struct ring_op *op)
{
    op->cancel_wanted = true;
    if (op->done || op->cancel_sent)
        return;
    op->cancel_sent = true;
    op->pending++;
    struct io_uring_sqe *sqe = get_sqe(op->uring);
    io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)op, 0);
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)op | TAG_CANCEL);
}

void ring_cancel_all(struct list *owner)
{
    list_foreach(owner, it)
        ring_cancel(list_entry(it, struct ring_op, owned));
}

/* The kernel may miss a request that is just being retried: ask again until it has ended. */
static void cancel_completed(struct ring_op *op)
{
    op->pending--;
    op->cancel_sent = false;
    if (op->done)
        return;
    struct io *io = &op->uring->io;
    core_timer_stop(io, &op->timer);
    /* Cannot fail: the heap had room for this timer or for one of the many that ended. */
    (void)core_timer_start(io, &op->timer, io_mono_ns(io) + CANCEL_AGAIN_NS);
}

static void event_arrived(struct uring *uring);
static void signal_arrived(struct uring *uring);

static void completed(struct uring *uring, uint64_t data, int result)
{
    if (data < DATA_SMALL) {
        if (data == DATA_EVENT)
            event_arrived(uring);
        else
            signal_arrived(uring);
        return;
    }
    struct ring_op *op = (struct ring_op *)(uintptr_t)(data & ~(uint64_t)TAG_CANCEL);
    if (data & TAG_CANCEL) {
        cancel_completed(op);
    } else {
        op->result = result;
        op->done = true;
        op->pending--;
    }
    if (op->pending == 0)
        core_unpark(op->fiber);
}

static void reap(struct uring *uring)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&uring->ring, &cqe) == 0 && cqe != NULL) {
        uint64_t data = cqe->user_data;
        int result = cqe->res;
        /* Seen before it is handled: handling may reap again when the submission queue is full. */
        io_uring_cqe_seen(&uring->ring, cqe);
        completed(uring, data, result);
    }
}

/* ---- other threads and signals ---- */

static void arm(struct uring *uring, int fd, uint64_t data)
{
    struct io_uring_sqe *sqe = get_sqe(uring);
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, data);
}

static void notify(void *arg)
{
    const struct uring *uring = arg;
    uint64_t one = 1;
    /* Fails only with EAGAIN when the counter is full, and then the loop is awake anyway. */
    ssize_t n = write(uring->event_fd, &one, sizeof one);
    (void)n;
}

static int uring_post(struct io *io, void (*fn)(void *arg), void *arg)
{
    struct uring *uring = ring_of(io);
    struct post *post = malloc(sizeof *post);
    if (post == NULL)
        return -E_NOMEM;
    *post = (struct post){.fn = fn, .arg = arg};
    pthread_mutex_lock(&uring->post_lock);
    bool closed = uring->post_closed;
    if (!closed) {
        if (uring->post_tail != NULL)
            uring->post_tail->next = post;
        else
            uring->post_head = post;
        uring->post_tail = post;
        /* Under the lock, so that io_destroy() cannot close the descriptor in between. */
        if (!uring->post_signalled)
            notify(uring);
        uring->post_signalled = true;
    }
    pthread_mutex_unlock(&uring->post_lock);
    if (closed)
        free(post);
    return closed ? -E_CANCELED : 0;
}

static void run_posts(struct uring *uring, bool close)
{
    pthread_mutex_lock(&uring->post_lock);
    struct post *post = uring->post_head;
    uring->post_head = uring->post_tail = NULL;
    uring->post_signalled = false;
    uring->post_closed = close;
    pthread_mutex_unlock(&uring->post_lock);
    while (post != NULL) {
        struct post *next = post->next;
        post->fn(post->arg);
        free(post);
        post = next;
    }
}

static void take_jobs(struct uring *uring)
{
    struct io_job *next;
    for (struct io_job *it = io_workers_take(uring->workers); it != NULL; it = next) {
        next = it->next;
        struct job *job = container_of(it, struct job, job);
        job->done = true;
        core_unpark(job->fiber);
    }
}

static void event_arrived(struct uring *uring)
{
    uint64_t count;
    ssize_t n = read(uring->event_fd, &count, sizeof count); /* first: what comes later notifies again */
    (void)n;
    uring->event_armed = false;
    take_jobs(uring);
    run_posts(uring, false);
}

static void signal_arrived(struct uring *uring)
{
    struct signalfd_siginfo info;
    uring->signal_armed = false;
    if (read(uring->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        io_stop(&uring->io);
}

static int uring_stop_on_signals(struct io *io, const int *signals)
{
    struct uring *uring = ring_of(io);
    sigset_t set;
    sigemptyset(&set);
    for (; *signals != 0; signals++)
        sigaddset(&set, *signals);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -E_INVAL;
    int fd = signalfd(uring->signal_fd, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    uring->signal_fd = fd;
    return 0;
}

int ring_work(struct io *io, void (*fn)(void *arg), void *arg)
{
    struct uring *uring = ring_of(io);
    struct job job = {.job = {.fn = fn, .arg = arg}, .fiber = fiber_self()};
    CHECK(job.fiber != NULL);
    int r = io_workers_submit(uring->workers, &job.job);
    if (r < 0)
        return r;
    while (!job.done)
        core_park(io);
    return 0;
}

/* ---- the loop ---- */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    CHECK(clock_gettime(clock, &ts) == 0);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t uring_mono_ns(struct io *io)
{
    return clock_ns(CLOCK_BOOTTIME); /* a suspended machine must notice how late it is */
}

static uint64_t uring_real_ns(struct io *io)
{
    return clock_ns(CLOCK_REALTIME);
}

static void get_random(void *buf, size_t n)
{
    while (n > 0) {
        ssize_t r = getrandom(buf, n, 0);
        CHECK(r > 0 || errno == EINTR);
        if (r < 0)
            continue;
        buf = (char *)buf + r;
        n -= (size_t)r;
    }
}

/* Small draws (ids, jitter) come from a block of kernel randomness; used bytes are wiped. */
static void uring_random(struct io *io, void *buf, size_t n)
{
    struct uring *uring = ring_of(io);
    if (n > RANDOM_BYTES / 4) {
        get_random(buf, n);
        return;
    }
    if (uring->n_random < n) {
        get_random(uring->random, RANDOM_BYTES);
        uring->n_random = RANDOM_BYTES;
    }
    uint8_t *from = uring->random + RANDOM_BYTES - uring->n_random;
    memcpy(buf, from, n);
    memset(from, 0, n);
    uring->n_random -= n;
}

static bool sleep_or_submit(struct uring *uring)
{
    struct io *io = &uring->io;
    struct io_uring_cqe *cqe;
    int r;
    if (io->n_ready > 0) {
        r = io_uring_sq_ready(&uring->ring) > 0 ? io_uring_submit_and_get_events(&uring->ring) : 0;
    } else {
        uint64_t deadline_ns = core_deadline(io);
        struct __kernel_timespec ts, *timeout = NULL;
        if (deadline_ns != CORE_NEVER) {
            uint64_t now_ns = uring_mono_ns(io);
            uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
            ts = (struct __kernel_timespec){.tv_sec = (long long)(left_ns / 1000000000u),
                                            .tv_nsec = (long long)(left_ns % 1000000000u)};
            timeout = &ts;
        }
        r = io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, timeout, NULL);
    }
    if (r >= 0 || r == -ETIME || r == -EINTR || r == -EAGAIN || r == -EBUSY)
        return true;
    fprintf(stderr, "tarn: the loop ends: io_uring_enter: %s\n", strerror(-r));
    errno = -r;
    return false;
}

static int uring_run(struct io *io)
{
    struct uring *uring = ring_of(io);
    if (uring->disabled) {
        /* Makes this thread the one issuer. liburing 2.3 declares a function for it but exports none. */
        if (syscall(__NR_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
            return err_from_errno(errno);
        uring->disabled = false;
    }
    for (;;) {
        if (!uring->event_armed) {
            arm(uring, uring->event_fd, DATA_EVENT);
            uring->event_armed = true;
        }
        if (!uring->signal_armed && uring->signal_fd >= 0) {
            arm(uring, uring->signal_fd, DATA_SIGNAL);
            uring->signal_armed = true;
        }
        core_run_ready(io);
        if (io->stopping && io->n_fibers == 0)
            break;
        if (core_deadline(io) != CORE_NEVER)
            core_fire_timers(io, uring_mono_ns(io));
        if (!sleep_or_submit(uring))
            return err_from_errno(errno);
        reap(uring);
    }
    run_posts(uring, true);
    return 0;
}

static void uring_stop(struct io *io)
{
    struct uring *uring = ring_of(io);
    list_foreach(&uring->in_flight, it) {
        struct ring_op *op = list_entry(it, struct ring_op, in_flight);
        if (op->cancelable)
            ring_cancel(op);
    }
}

/* ---- life ---- */

static void uring_destroy(struct io *io)
{
    struct uring *uring = ring_of(io);
    run_posts(uring, true);
    core_fini(io);
    io_workers_destroy(uring->workers);
    io_uring_queue_exit(&uring->ring);
    if (uring->signal_fd >= 0)
        close(uring->signal_fd);
    close(uring->event_fd);
    pthread_mutex_destroy(&uring->post_lock);
    free(uring);
}

/* The best mode the kernel offers: completions run only when the loop asks for them (6.1), else
 * without interrupting it (5.19), else as it always was. */
static int ring_init(struct uring *uring, unsigned entries)
{
    static const unsigned modes[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int r = -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(modes) && r == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = modes[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, .cq_entries = entries * CQ_FACTOR};
        r = io_uring_queue_init_params(entries, &uring->ring, &params);
        uring->disabled = r == 0 && (modes[i] & IORING_SETUP_R_DISABLED) != 0;
    }
    if (r == -ENOSYS || r == -EPERM)
        fprintf(stderr, "tarn: io_uring is not available (%s): it needs Linux 5.15 or newer, the sysctl "
                        "kernel.io_uring_disabled=0 and a sandbox that allows io_uring_setup(2)\n", strerror(-r));
    else if (r < 0)
        fprintf(stderr, "tarn: io_uring_setup with %u entries failed: %s\n", entries, strerror(-r));
    return r;
}

/* Names what is missing and returns false. */
static bool ring_complete(struct uring *uring)
{
    static const struct {
        int op;
        const char *name;
    } needed[] = {
        {IORING_OP_READ, "READ"},           {IORING_OP_WRITE, "WRITE"},       {IORING_OP_WRITEV, "WRITEV"},
        {IORING_OP_FSYNC, "FSYNC"},         {IORING_OP_OPENAT, "OPENAT"},     {IORING_OP_FALLOCATE, "FALLOCATE"},
        {IORING_OP_UNLINKAT, "UNLINKAT"},   {IORING_OP_RENAMEAT, "RENAMEAT"}, {IORING_OP_MKDIRAT, "MKDIRAT"},
        {IORING_OP_ACCEPT, "ACCEPT"},       {IORING_OP_CONNECT, "CONNECT"},   {IORING_OP_SEND, "SEND"},
        {IORING_OP_SENDMSG, "SENDMSG"},     {IORING_OP_RECV, "RECV"},         {IORING_OP_POLL_ADD, "POLL_ADD"},
        {IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL"},
    };
    struct io_uring_probe *probe = io_uring_get_probe_ring(&uring->ring);
    if (probe == NULL) {
        fprintf(stderr, "tarn: this kernel's io_uring cannot be asked what it offers (needs Linux 5.15)\n");
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        if (io_uring_opcode_supported(probe, needed[i].op))
            continue;
        fprintf(stderr, "tarn: this kernel's io_uring has no IORING_OP_%s (needs Linux 5.15)\n", needed[i].name);
        ok = false;
    }
    io_uring_free_probe(probe);
    if (ok && !(uring->ring.features & IORING_FEAT_EXT_ARG)) {
        fprintf(stderr, "tarn: this kernel's io_uring has no IORING_FEAT_EXT_ARG (needs Linux 5.15)\n");
        ok = false;
    }
    return ok;
}

int io_uring_create(const struct io_options *options, struct io **ret_io)
{
    struct io_options o = options != NULL ? *options : (struct io_options){0};
    struct uring *uring = calloc(1, sizeof *uring);
    if (uring == NULL)
        return -E_NOMEM;
    core_init(&uring->io, &uring_ops, o.fibers);
    list_init(&uring->in_flight);
    uring->signal_fd = -1;
    int r = ring_init(uring, o.entries != 0 ? o.entries : ENTRIES_DEFAULT);
    if (r < 0) {
        r = err_from_errno(-r);
        goto fail_alloc;
    }
    if (!ring_complete(uring)) {
        r = -E_NOTSUP;
        goto fail_ring;
    }
    uring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (uring->event_fd < 0) {
        r = err_from_errno(errno);
        goto fail_ring;
    }
    uring->workers = io_workers_create(o.workers != 0 ? o.workers : WORKERS_DEFAULT, notify, uring);
    if (uring->workers == NULL) {
        r = -E_NOMEM;
        goto fail_event;
    }
    pthread_mutex_init(&uring->post_lock, NULL);
    signal(SIGPIPE, SIG_IGN);
    *ret_io = &uring->io;
    return 0;

fail_event:
    close(uring->event_fd);
fail_ring:
    io_uring_queue_exit(&uring->ring);
fail_alloc:
    CHECK(r < 0);
    free(uring);
    return r;
}

static const struct io_ops uring_ops = {
    .stop = uring_stop,
    .run = uring_run,
    .destroy = uring_destroy,
    .post = uring_post,
    .stop_on_signals = uring_stop_on_signals,
    .mono_ns = uring_mono_ns,
    .real_ns = uring_real_ns,
    .random = uring_random,
    .open = uring_open,
    .close = uring_close,
    .pread = uring_pread,
    .pwritev = uring_pwritev,
    .sync = uring_sync,
    .truncate = uring_truncate,
    .allocate = uring_allocate,
    .size = uring_size,
    .file_fd = uring_file_fd,
    .unlink = uring_unlink,
    .rename = uring_rename,
    .mkdir = uring_mkdir,
    .sync_dir = uring_sync_dir,
    .list = uring_list,
    .statfs = uring_statfs,
    .listen = uring_listen,
    .accept = uring_accept,
    .listener_close = uring_listener_close,
    .connect = uring_connect,
    .recv = uring_recv,
    .sendv = uring_sendv,
    .sock_shutdown = uring_sock_shutdown,
    .sock_close = uring_sock_close,
    .sock_fd = uring_sock_fd,
    .send_fd = uring_send_fd,
    .recv_fd = uring_recv_fd,
    .poll = uring_poll,
    .read_fd = uring_read_fd,
    .write_fd = uring_write_fd,
    .work = ring_work,
};
