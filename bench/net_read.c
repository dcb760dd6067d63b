/* Reads over the network beside what the network carries. net_read PATH SIZE RUNS PID: PATH is a file of SIZE bytes whose
 * chunks are sealed and held by another node than the one of the configuration; PID is that node's tarn-stored. Prints a
 * line a run: MiB/s read in order, MiB/s of one TCP stream over loopback between two processes, 4 KiB reads a second with
 * DEPTH under way, and the same a second of processor time of the store.
 *
 * Everything is read once before, so that it is in the page cache of the store's machine. The counters of the read path must
 * say that all of it came over TCP. */
#include "client/file.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/prng.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WINDOW MIB(1)
#define AHEAD 8        /* windows under way of a reader in order */
#define SMALL KIB(4)
#define DEPTH 64
#define SMALL_READS 100000 /* of a run */

struct bench {
    struct io *io;
    struct config config;
    struct file *file;
    const char *path;
    uint64_t size;
    unsigned runs;
    int pid;
    /* the reads under way */
    uint64_t next, end;
    size_t block;
    bool random;
    struct prng prng;
    struct fiber_group group;
};

_Noreturn static void fail(const char *what, const char *why)
{
    fprintf(stderr, "net_read: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Seconds of processor time of the store. */
static double cpu_of(int pid)
{
    char path[64], text[1024] = "";
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stat = fopen(path, "re");
    if (stat == NULL || fgets(text, sizeof text, stat) == NULL)
        fail(path, "cannot read it");
    fclose(stat);
    const char *behind = strrchr(text, ')');
    if (behind == NULL || sscanf(behind, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        fail(path, "has another form");
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- through Tarn */

static void reader(void *arg)
{
    struct bench *b = arg;
    uint8_t *buf = aligned_alloc(4096, b->block);
    if (buf == NULL)
        fail("reader", "no memory");
    while (b->next < b->end) {
        uint64_t i = b->next++, blocks = b->size / b->block;
        uint64_t at = (b->random ? prng_below(&b->prng, blocks) : i % blocks) * b->block;
        int64_t n = file_read(b->file, buf, b->block, at);
        if (n != (int64_t)b->block)
            fail(b->path, n < 0 ? err_sentence((int)n) : "too few bytes");
    }
    free(buf);
    fiber_group_done(&b->group);
}

static double read_many(struct bench *b, uint64_t n, size_t block, bool random, unsigned depth)
{
    double start = now();
    b->next = 0;
    b->end = n;
    b->block = block;
    b->random = random;
    for (unsigned i = 0; i < depth; i++) {
        fiber_group_add(&b->group);
        if (fiber_spawn(b->io, "reader", reader, b) != 0)
            fail("reader", "cannot start");
    }
    fiber_group_wait(&b->group);
    return now() - start;
}

/* ---- one TCP stream */

static void pump(int fd, uint64_t bytes, char *buf)
{
    for (uint64_t done = 0; done < bytes; done += WINDOW)
        for (size_t at = 0; at < WINDOW;) {
            ssize_t n = send(fd, buf + at, WINDOW - at, MSG_NOSIGNAL);
            if (n <= 0)
                _exit(1);
            at += (size_t)n;
        }
    _exit(0);
}

static double stream(uint64_t bytes)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int status, listener = socket(AF_INET, SOCK_STREAM, 0);
    char *buf = aligned_alloc(4096, WINDOW);
    if (buf == NULL || listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&at, &len) != 0)
        fail("loopback", "cannot listen");
    memset(buf, 1, WINDOW);
    int to = socket(AF_INET, SOCK_STREAM, 0);
    if (to < 0 || connect(to, (struct sockaddr *)&at, sizeof at) != 0)
        fail("loopback", "cannot connect");
    int from = accept(listener, NULL, NULL);
    double start = now();
    pid_t pid = fork();
    if (pid == 0)
        pump(to, bytes, buf);
    close(to);
    for (uint64_t got = 0; got < bytes;) {
        ssize_t n = recv(from, buf, WINDOW, 0);
        if (n <= 0)
            fail("loopback", "the stream ended early");
        got += (uint64_t)n;
    }
    double seconds = now() - start;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        fail("loopback", "the sender failed");
    close(from);
    close(listener);
    free(buf);
    return seconds;
}

/* ---- */

static void measure(struct bench *b)
{
    double tarn = 0, raw = 0, mib = (double)b->size / (double)MIB(1);
    for (unsigned i = 0; i < 4; i++) { /* in turn, whatever else the machine does */
        tarn += read_many(b, b->size / WINDOW, WINDOW, false, AHEAD);
        raw += stream(b->size);
    }
    double cpu = cpu_of(b->pid), small = read_many(b, SMALL_READS, SMALL, true, DEPTH);
    cpu = cpu_of(b->pid) - cpu;
    printf("%.1f %.1f %.1f %.1f\n", 4 * mib / tarn, 4 * mib / raw, SMALL_READS / small, SMALL_READS / cpu);
    fflush(stdout);
}

static void bench_fiber(void *arg)
{
    struct bench *b = arg;
    struct meta *meta;
    struct stores *stores;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)b->path;
    int err = meta_connect(b->io, &b->config, NULL, &meta);
    if (err == 0)
        err = stores_create(b->io, &b->config, meta, &stores);
    if (err == 0)
        err = file_open(meta, stores, &where, O_RDONLY, &meta_root, &b->file);
    if (err != 0)
        fail(b->path, err_sentence(err));
    (void)read_many(b, b->size / WINDOW, WINDOW, false, AHEAD);
    for (unsigned i = 0; i < b->runs; i++)
        measure(b);
    const struct stores_counters *counters = stores_counters(stores);
    if (counters->read_fd + counters->read_local != 0)
        fail(b->path, "was not read over the network");
    (void)file_close(b->file);
    stores_destroy(stores);
    meta_disconnect(meta);
    io_stop(b->io);
}

int main(int argc, char **argv)
{
    static struct bench b;
    const char *why = "";
    if (argc != 5) {
        fprintf(stderr, "usage: net_read PATH SIZE RUNS PID\n");
        return 2;
    }
    b.path = argv[1];
    b.size = strtoull(argv[2], NULL, 10);
    b.runs = (unsigned)atoi(argv[3]);
    b.pid = atoi(argv[4]);
    if (b.size < WINDOW || b.size % WINDOW != 0)
        fail("SIZE", "is no multiple of 1 MiB");
    b.prng = prng_init(1);
    int err = config_load(NULL, &b.config, &why);
    if (err != 0)
        fail("configuration", why);
    err = io_uring_create(NULL, &b.io);
    if (err == 0)
        err = fiber_spawn(b.io, "bench", bench_fiber, &b);
    if (err == 0)
        err = io_run(b.io);
    if (err != 0)
        fail("start", err_sentence(err));
    io_destroy(b.io);
    return 0;
}
