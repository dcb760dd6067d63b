#include "cgroup.h"

#include "common/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define KILL_ROUNDS 100 /* times 2 ms: a killed process leaves its group within that */

static const char *const control_names[CGROUP_CONTROLS] = {"memory", "cpu", "pids"};

/* Where a control's groups live: the directory of our own group in its hierarchy. */
struct base {
    char dir[512];
    bool found, v2;
};

struct cgroup {
    char dir[CGROUP_CONTROLS][640]; /* empty: not available */
    bool v2[CGROUP_CONTROLS];
    struct cgroup_limits limits; /* as last written */
    bool limited;
};

/* ---- small files */

static int write_file(const char *dir, const char *name, const char *text)
{
    char path[768];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path)
        return -E_NAMETOOLONG;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    ssize_t n = write(fd, text, strlen(text));
    int err = n == (ssize_t)strlen(text) ? 0 : err_from_errno(errno);
    close(fd);
    return err;
}

static int write_number(const char *dir, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return write_file(dir, name, text);
}

/* The number after `key` at the start of a line; 0 when there is none. */
static uint64_t read_key(const char *dir, const char *name, const char *key)
{
    char path[768], line[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    uint64_t value = 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ' ')
            value = strtoull(line + strlen(key), NULL, 10);
    fclose(file);
    return value;
}

static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n) {
        bool starts = at == list || strchr(separators, at[-1]) != NULL;
        bool ends = at[n] == '\0' || strchr(separators, at[n]) != NULL;
        if (starts && ends)
            return true;
    }
    return false;
}

/* ---- where we are: proc(5), /proc/PID/mountinfo and /proc/PID/cgroup */

/* Our path in the hierarchy that has `control` (version 1) or in version 2 (control NULL). */
static bool own_path(const char *control, char *ret, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return false;
    char line[1024];
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        names++;
        if (control == NULL ? strcmp(line, "0") == 0 && names[0] == '\0' : has_word(names, control, ","))
            found = (size_t)snprintf(ret, size, "%s", path) < size;
    }
    fclose(file);
    return found;
}

static void take_mount(struct base *base, const char *mount_point, const char *control, bool v2)
{
    char path[512];
    if (!own_path(control, path, sizeof path))
        return;
    struct stat st;
    snprintf(base->dir, sizeof base->dir, "%.250s%.250s", mount_point, strcmp(path, "/") == 0 ? "" : path);
    /* In a container the mount may show only its own part of the hierarchy. */
    if (stat(base->dir, &st) != 0)
        snprintf(base->dir, sizeof base->dir, "%.500s", mount_point);
    base->v2 = v2;
    base->found = true;
}

static bool v2_controls(const char *dir, const char *control)
{
    char path[640], line[512] = "";
    snprintf(path, sizeof path, "%s/cgroup.controllers", dir);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool found = fgets(line, sizeof line, file) != NULL && has_word(line, control, " \n");
    fclose(file);
    return found;
}

/* Looked up once: in version 2 the first group made moves us into a leaf below our own. */
static struct base bases[CGROUP_CONTROLS];
static bool bases_known;

static void read_mount(char *line)
{
    char mount_point[256], type[32], options[512];
    char *tail = strstr(line, " - ");
    if (tail == NULL || sscanf(line, "%*s %*s %*s %*s %255s", mount_point) != 1 ||
        sscanf(tail, " - %31s %*s %511s", type, options) != 2)
        return;
    bool v2 = strcmp(type, "cgroup2") == 0;
    if (!v2 && strcmp(type, "cgroup") != 0)
        return;
    for (unsigned i = 0; i < CGROUP_CONTROLS; i++) {
        if (bases[i].found)
            continue;
        struct base found = {.found = false};
        if (v2)
            take_mount(&found, mount_point, NULL, true);
        else if (has_word(options, control_names[i], ","))
            take_mount(&found, mount_point, control_names[i], false);
        if (found.found && (!v2 || v2_controls(found.dir, control_names[i])))
            bases[i] = found;
    }
}

static void find_bases(void)
{
    if (bases_known)
        return;
    bases_known = true;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (file == NULL)
        return;
    char line[2048];
    while (fgets(line, sizeof line, file) != NULL)
        read_mount(line);
    fclose(file);
}

/* Version 2 lets a group hand controls to its children only while it has no processes itself (the
 * root excepted): we step aside into a leaf, as cgroups(7) "no internal processes" asks for. */
static int open_v2(const char *dir, const char *control)
{
    char word[32], leaf[640];
    snprintf(word, sizeof word, "+%s", control);
    if (write_file(dir, "cgroup.subtree_control", word) == 0)
        return 0;
    snprintf(leaf, sizeof leaf, "%.500s/agent", dir);
    if (mkdir(leaf, 0755) != 0 && errno != EEXIST)
        return err_from_errno(errno);
    int err = write_number(leaf, "cgroup.procs", (uint64_t)getpid());
    return err != 0 ? err : write_file(dir, "cgroup.subtree_control", word);
}

/* ---- groups */

int cgroup_create(const char *name, struct cgroup **ret, const char **ret_why)
{
    find_bases();
    struct cgroup *group = calloc(1, sizeof *group);
    if (group == NULL)
        return -E_NOMEM;
    unsigned usable = 0;
    *ret_why = "no cgroup hierarchy with memory, cpu or pids is mounted";
    for (unsigned i = 0; i < CGROUP_CONTROLS; i++) {
        if (!bases[i].found)
            continue;
        *ret_why = "the control groups of this process may not be changed";
        if (bases[i].v2 && open_v2(bases[i].dir, control_names[i]) != 0)
            continue;
        char dir[640];
        if ((size_t)snprintf(dir, sizeof dir, "%s/%s", bases[i].dir, name) >= sizeof dir)
            continue;
        if (mkdir(dir, 0755) != 0 && errno != EEXIST)
            continue;
        memcpy(group->dir[i], dir, sizeof dir);
        group->v2[i] = bases[i].v2;
        usable++;
    }
    if (usable == 0) {
        free(group);
        return -E_NOTSUP;
    }
    *ret = group;
    return 0;
}

bool cgroup_controls(const struct cgroup *group, enum cgroup_control control)
{
    return group != NULL && group->dir[control][0] != '\0';
}

int cgroup_join(struct cgroup *group, pid_t pid)
{
    for (unsigned i = 0; i < CGROUP_CONTROLS; i++) {
        if (!cgroup_controls(group, i))
            continue;
        int err = write_number(group->dir[i], "cgroup.procs", (uint64_t)pid);
        if (err != 0)
            return err;
    }
    return 0;
}

static int limit_memory(struct cgroup *group, uint64_t bytes)
{
    const char *dir = group->dir[CGROUP_MEMORY];
    if (group->v2[CGROUP_MEMORY]) {
        write_file(dir, "memory.swap.max", bytes != 0 ? "0" : "max"); /* absent without swap accounting */
        return bytes != 0 ? write_number(dir, "memory.max", bytes) : write_file(dir, "memory.max", "max");
    }
    /* memsw (memory and swap together) must never be below the limit: lift it, set, lower it. */
    write_file(dir, "memory.memsw.limit_in_bytes", "-1");
    int err = bytes != 0 ? write_number(dir, "memory.limit_in_bytes", bytes)
                         : write_file(dir, "memory.limit_in_bytes", "-1");
    if (err == 0 && bytes != 0)
        write_number(dir, "memory.memsw.limit_in_bytes", bytes);
    return err;
}

static int limit_cpu(struct cgroup *group, uint32_t milli)
{
    const char *dir = group->dir[CGROUP_CPU];
    uint64_t shares = MAX((uint64_t)(milli != 0 ? milli : 1000) * 1024 / 1000, 2ull);
    if (!group->v2[CGROUP_CPU])
        return write_number(dir, "cpu.shares", shares);
    /* The kernel's own mapping of shares 2…262144 to weights 1…10000. */
    return write_number(dir, "cpu.weight", MIN(1 + (shares - 2) * 9999 / 262142, 10000ull));
}

int cgroup_limit(struct cgroup *group, const struct cgroup_limits *limits)
{
    int err = 0;
    bool all = !group->limited;
    group->limited = false;
    if (cgroup_controls(group, CGROUP_MEMORY) && (all || limits->memory != group->limits.memory))
        err = limit_memory(group, limits->memory);
    if (err == 0 && cgroup_controls(group, CGROUP_CPU) && (all || limits->cpu_milli != group->limits.cpu_milli))
        err = limit_cpu(group, limits->cpu_milli);
    if (err == 0 && cgroup_controls(group, CGROUP_PIDS) && (all || limits->processes != group->limits.processes))
        err = limits->processes != 0 ? write_number(group->dir[CGROUP_PIDS], "pids.max", limits->processes)
                                     : write_file(group->dir[CGROUP_PIDS], "pids.max", "max");
    if (err == 0) {
        group->limits = *limits;
        group->limited = true;
    }
    return err;
}

uint64_t cgroup_oom_kills(const struct cgroup *group)
{
    if (!cgroup_controls(group, CGROUP_MEMORY))
        return 0;
    return read_key(group->dir[CGROUP_MEMORY],
                    group->v2[CGROUP_MEMORY] ? "memory.events" : "memory.oom_control", "oom_kill");
}

static void kill_members(const char *dir)
{
    char path[768];
    snprintf(path, sizeof path, "%s/cgroup.procs", dir);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    int pid;
    while (fscanf(file, "%d", &pid) == 1)
        if (pid > 1)
            kill(pid, SIGKILL);
    fclose(file);
}

static void remove_group(const char *dir)
{
    for (unsigned i = 0; i < KILL_ROUNDS; i++) {
        if (rmdir(dir) == 0 || errno == ENOENT)
            return;
        kill_members(dir);
        usleep(2000);
    }
}

void cgroup_destroy(struct cgroup *group)
{
    if (group == NULL)
        return;
    for (unsigned i = 0; i < CGROUP_CONTROLS; i++)
        if (group->dir[i][0] != '\0')
            remove_group(group->dir[i]);
    free(group);
}

void cgroup_sweep(const char *prefix)
{
    find_bases();
    for (unsigned i = 0; i < CGROUP_CONTROLS; i++) {
        DIR *dir = bases[i].found ? opendir(bases[i].dir) : NULL;
        if (dir == NULL)
            continue;
        struct dirent *entry;
        while ((entry = readdir(dir)) != NULL) {
            char path[800];
            if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
                continue;
            snprintf(path, sizeof path, "%.500s/%.255s", bases[i].dir, entry->d_name);
            remove_group(path);
        }
        closedir(dir);
    }
}
