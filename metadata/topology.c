#include "topology.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TABLE_BYTES_MAX MIB(4)

extern char **environ;

/* ------------------------------------------------------------------ text */
/* The next word at or after *at; its length, 0 at the end. */
static size_t word(const char *text, size_t len, size_t *at)
{
    while (*at < len && strchr(" \t\r\n", text[*at]) != NULL)
        (*at)++;
    size_t start = *at, end = start;
    while (end < len && strchr(" \t\r\n", text[end]) == NULL)
        end++;
    return end - start;
}

static bool rack_take(const char *text, size_t n, struct topology_place *place)
{
    if (n == 0 || n > TOPOLOGY_RACK_MAX || text[0] != '/' || text[n - 1] == '/' || memchr(text, 0, n) != NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f || (text[i] == '/' && i + 1 < n && text[i + 1] == '/'))
            return false;
    memcpy(place->rack, text, n);
    place->rack[n] = '\0';
    return true;
}

int topology_parse_output(const char *text, size_t len, struct topology_place *places, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t got = word(text, len, &at);
        if (!rack_take(text + at, got, &places[i]))
            return -E_INVAL;
        at += got;
    }
    return word(text, len, &at) == 0 ? 0 : -E_INVAL;
}

static void table_line(const char *line, size_t len, struct topology_place *places, size_t n)
{
    const char *comment = memchr(line, '#', len);
    len = comment != NULL ? (size_t)(comment - line) : len;
    size_t at = 0, name_len = word(line, len, &at), rack_at = at + name_len;
    const char *name = line + at;
    size_t rack_len = word(line, len, &rack_at);
    for (size_t i = 0; i < n && name_len > 0; i++)
        if (places[i].rack[0] == '\0' && strlen(places[i].name) == name_len &&
            memcmp(places[i].name, name, name_len) == 0)
            (void)rack_take(line + rack_at, rack_len, &places[i]);
}

void topology_parse_table(const char *text, size_t len, struct topology_place *places, size_t n)
{
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line = end != NULL ? (size_t)(end - text) - at : len - at;
        table_line(text + at, line, places, n);
        at += line + 1;
    }
}

/* ------------------------------------------------------------------ table */
static int read_all(int fd, char *buf, size_t size, size_t *ret_len)
{
    *ret_len = 0;
    for (;;) {
        ssize_t n = read(fd, buf + *ret_len, size - *ret_len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? 0 : err_from_errno(errno);
        *ret_len += (size_t)n;
        if (*ret_len == size)
            return -E_FBIG;
    }
}

static int ask_table(const char *path, struct topology_place *places, size_t n)
{
    _cleanup_free_ char *text = malloc(TABLE_BYTES_MAX);
    size_t len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || text == NULL) {
        int err = fd < 0 ? err_from_errno(errno) : -E_NOMEM;
        if (fd >= 0)
            close(fd);
        return err;
    }
    int err = read_all(fd, text, TABLE_BYTES_MAX, &len);
    close(fd);
    if (err == 0)
        topology_parse_table(text, len, places, n);
    return err;
}

/* ------------------------------------------------------------------ script */
struct call {
    pid_t pid;
    int fd;
    char output[TOPOLOGY_OUTPUT_MAX];
    size_t len;
};

static uint64_t mono_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* In a process group of its own, so that its children can be ended with it; signals as a shell has them. */
static int spawn(const char *script, char **argv, struct call *call)
{
    int ends[2];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_from_errno(errno);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    int failed = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    failed = failed != 0 ? failed : posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    failed = failed != 0 ? failed : posix_spawn(&call->pid, script, &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed != 0) {
        close(ends[0]);
        return err_from_errno(failed);
    }
    call->fd = ends[0];
    return 0;
}

/* Reads until the script closes its output. -E_TIMEOUT, -E_FBIG. */
static int collect(struct call *call)
{
    uint64_t until = mono_ms() + TOPOLOGY_TIMEOUT_MS;
    for (;;) {
        uint64_t now = mono_ms();
        struct pollfd poll_fd = {.fd = call->fd, .events = POLLIN};
        int ready = now >= until ? 0 : poll(&poll_fd, 1, (int)(until - now));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return ready == 0 ? -E_TIMEOUT : err_from_errno(errno);
        ssize_t n = read(call->fd, call->output + call->len, sizeof call->output - call->len);
        if (n <= 0)
            return n == 0 ? 0 : err_from_errno(errno);
        call->len += (size_t)n;
        if (call->len == sizeof call->output)
            return -E_FBIG;
    }
}

/* Waits for the end, which is sure: whoever is still there is killed. */
static int reap(struct call *call, int err)
{
    int status;
    close(call->fd);
    if (err != 0)
        (void)kill(-call->pid, SIGKILL);
    while (waitpid(call->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (err != 0)
        return err;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -E_IO;
}

static int ask_script(const char *script, struct topology_place *places, size_t n)
{
    char *argv[TOPOLOGY_NAMES_MAX + 2] = {(char *)script};
    for (size_t i = 0; i < n; i++)
        argv[i + 1] = (char *)places[i].name;
    _cleanup_free_ struct call *call = calloc(1, sizeof *call);
    if (call == NULL)
        return -E_NOMEM;
    int err = spawn(script, argv, call);
    if (err != 0)
        return err;
    err = reap(call, collect(call));
    return err == 0 ? topology_parse_output(call->output, call->len, places, n) : err;
}

/* The script is asked for those the table does not have. */
static int ask_for_rest(const char *script, struct topology_place *places, size_t n)
{
    struct topology_place rest[TOPOLOGY_NAMES_MAX];
    size_t of[TOPOLOGY_NAMES_MAX], n_rest = 0;
    for (size_t i = 0; i < n; i++)
        if (places[i].rack[0] == '\0') {
            rest[n_rest] = places[i];
            of[n_rest++] = i;
        }
    int err = n_rest > 0 ? ask_script(script, rest, n_rest) : 0;
    for (size_t i = 0; i < n_rest && err == 0; i++)
        places[of[i]] = rest[i];
    return err;
}

int topology_find(const struct topology *topology, struct topology_place *places, size_t n)
{
    CHECK(n <= TOPOLOGY_NAMES_MAX);
    int table = 0, script = 0;
    for (size_t i = 0; i < n; i++)
        places[i].rack[0] = '\0';
    if (topology->table[0] != '\0')
        table = ask_table(topology->table, places, n);
    if (table != 0)
        log_warn("cannot read the table of racks %s: %s", topology->table, err_sentence(table));
    if (topology->script[0] != '\0')
        script = ask_for_rest(topology->script, places, n);
    if (script != 0)
        log_warn("the rack script %s gave no usable answer (%s): %s stands for it", topology->script,
                 err_sentence(script), TOPOLOGY_DEFAULT);
    for (size_t i = 0; i < n; i++)
        if (places[i].rack[0] == '\0')
            snprintf(places[i].rack, sizeof places[i].rack, "%s", TOPOLOGY_DEFAULT);
    return script != 0 ? script : table;
}
