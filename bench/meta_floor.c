#include "meta_floor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECORD 512
#define BLOCK 4096
#define BLOCKS 1024 /* of a file, written in a row, again and again */

struct floor {
    unsigned replicas;
    int leader; /* the client's socket */
    pid_t pids[FLOOR_REPLICAS_MAX];
    char paths[FLOOR_REPLICAS_MAX][512];
};

_Noreturn static void fail(const char *what)
{
    fprintf(stderr, "meta_floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Two ends of a TCP connection over loopback. */
static void connection(int ends[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&at, &len) != 0)
        fail("listen");
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (ends[0] < 0 || connect(ends[0], (struct sockaddr *)&at, sizeof at) != 0 || (ends[1] = accept(listener, NULL, NULL)) < 0)
        fail("connect");
    close(listener);
    for (unsigned i = 0; i < 2; i++)
        if (setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
            fail("TCP_NODELAY");
}

static bool receive(int fd, char record[RECORD]) /* false: the other side has ended */
{
    ssize_t n = recv(fd, record, RECORD, MSG_WAITALL);
    if (n < 0)
        fail("receive");
    return n == RECORD;
}

static void deliver(int fd, const char record[RECORD])
{
    if (send(fd, record, RECORD, MSG_NOSIGNAL) != RECORD)
        fail("send");
}

struct log {
    int fd;
    unsigned next;
    char *block;
};

static struct log log_open(const char *path)
{
    struct log log = {.fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_DSYNC, 0600), .block = aligned_alloc(BLOCK, (size_t)BLOCK * 64)};
    if (log.fd < 0 || log.block == NULL)
        fail(path);
    memset(log.block, 0, (size_t)BLOCK * 64);
    for (off_t at = 0; at < (off_t)BLOCK * BLOCKS; at += BLOCK * 64)
        if (pwrite(log.fd, log.block, (size_t)BLOCK * 64, at) != BLOCK * 64)
            fail(path);
    return log;
}

static void log_write(struct log *log, const char record[RECORD])
{
    memcpy(log->block, record, RECORD);
    if (pwrite(log->fd, log->block, BLOCK, (off_t)(log->next++ % BLOCKS) * BLOCK) != BLOCK)
        fail("write");
}

_Noreturn static void follower(const char *path, int leader)
{
    char record[RECORD];
    struct log log = log_open(path);
    deliver(leader, log.block); /* ready */
    while (receive(leader, record)) {
        log_write(&log, record);
        deliver(leader, record);
    }
    _exit(0);
}

/* Waits until `needed` followers have answered change `number`; answers to earlier ones come by the way. */
static void majority(int *followers, unsigned n, unsigned needed, uint64_t number)
{
    struct pollfd fds[FLOOR_REPLICAS_MAX];
    char record[RECORD];
    for (unsigned i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = followers[i], .events = POLLIN};
    for (unsigned got = 0; got < needed;) {
        if (poll(fds, n, -1) < 0)
            fail("poll");
        for (unsigned i = 0; i < n; i++) {
            uint64_t answered;
            if ((fds[i].revents & (POLLIN | POLLHUP)) == 0)
                continue;
            if (!receive(followers[i], record)) {
                errno = ECONNRESET;
                fail("follower");
            }
            memcpy(&answered, record, sizeof answered);
            got += answered == number;
        }
    }
}

_Noreturn static void leader(const char *path, int client, int *followers, unsigned n)
{
    char record[RECORD];
    struct log log = log_open(path);
    for (unsigned i = 0; i < n; i++)
        (void)receive(followers[i], record);
    deliver(client, log.block);
    for (uint64_t number = 1; receive(client, record); number++) {
        memcpy(record, &number, sizeof number);
        for (unsigned i = 0; i < n; i++)
            deliver(followers[i], record);
        log_write(&log, record);
        majority(followers, n, (n + 1) / 2, number);
        deliver(client, record);
    }
    _exit(0);
}

static pid_t start(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    return pid;
}

struct floor *floor_start(const char *dir, unsigned replicas)
{
    struct floor *floor = calloc(1, sizeof *floor);
    int followers[FLOOR_REPLICAS_MAX], ends[2];
    if (floor == NULL || replicas == 0 || replicas > FLOOR_REPLICAS_MAX)
        fail("start");
    floor->replicas = replicas;
    for (unsigned i = 0; i < replicas; i++)
        snprintf(floor->paths[i], sizeof floor->paths[i], "%s/floor-%u", dir, i);
    for (unsigned i = 1; i < replicas; i++) {
        connection(ends);
        floor->pids[i] = start();
        if (floor->pids[i] == 0) {
            for (unsigned j = 1; j < i; j++)
                close(followers[j - 1]);
            close(ends[0]);
            follower(floor->paths[i], ends[1]);
        }
        close(ends[1]);
        followers[i - 1] = ends[0];
    }
    connection(ends);
    floor->pids[0] = start();
    if (floor->pids[0] == 0) {
        close(ends[0]);
        leader(floor->paths[0], ends[1], followers, replicas - 1);
    }
    close(ends[1]);
    for (unsigned i = 1; i < replicas; i++)
        close(followers[i - 1]);
    floor->leader = ends[0];
    char record[RECORD];
    (void)receive(floor->leader, record);
    return floor;
}

double floor_changes(struct floor *floor, unsigned n)
{
    char record[RECORD] = {0};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned i = 0; i < n; i++) {
        deliver(floor->leader, record);
        if (!receive(floor->leader, record)) {
            errno = ECONNRESET;
            fail("leader");
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
}

void floor_stop(struct floor *floor)
{
    close(floor->leader);
    for (unsigned i = 0; i < floor->replicas; i++) {
        waitpid(floor->pids[i], NULL, 0);
        unlink(floor->paths[i]);
    }
    free(floor);
}
