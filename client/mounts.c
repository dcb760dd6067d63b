#include "mounts.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>

/* Undoes the octal escapes of mountinfo in place. */
static void unescape(char *text)
{
    char *out = text;
    for (char *in = text; *in != '\0';) {
        unsigned value;
        if (in[0] == '\\' && sscanf(in + 1, "%3o", &value) == 1) {
            *out++ = (char)value;
            in += 4;
        } else {
            *out++ = *in++;
        }
    }
    *out = '\0';
}

struct mount_line {
    char point[PATH_MAX], type[64], source[256];
};

static bool parse(char *line, struct mount_line *ret)
{
    char *rest = strstr(line, " - ");
    if (rest == NULL || sscanf(line, "%*s %*s %*s %*s %4095s", ret->point) != 1 ||
        sscanf(rest, " - %63s %255s", ret->type, ret->source) != 2)
        return false;
    unescape(ret->point);
    return true;
}

static bool is_tarn(const struct mount_line *mount)
{
    return strcmp(mount->type, "fuse.tarn") == 0;
}

int mounts_each(mounts_fn fn, void *arg)
{
    struct mount_line mount;
    char line[8192];
    int stop = 0;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (stop == 0 && file != NULL && fgets(line, sizeof line, file) != NULL)
        if (parse(line, &mount) && is_tarn(&mount))
            stop = fn(arg, mount.point, mount.source);
    if (file != NULL)
        fclose(file);
    return stop;
}

/* The real path without asking `path` itself: the process behind a dead mount does not answer. */
static bool real_path(const char *path, char *ret)
{
    if (realpath(path, ret) != NULL)
        return true;
    char dir_text[PATH_MAX], base_text[PATH_MAX], dir[PATH_MAX];
    if (strlen(path) >= sizeof dir_text)
        return false;
    strcpy(dir_text, path);
    strcpy(base_text, path);
    if (realpath(dirname(dir_text), dir) == NULL)
        return false;
    return snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, basename(base_text)) <
           PATH_MAX;
}

bool mounts_is_tarn(const char *path)
{
    struct mount_line mount;
    char real[PATH_MAX], line[8192];
    bool tarn = false;
    FILE *file = real_path(path, real) ? fopen("/proc/self/mountinfo", "re") : NULL;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (parse(line, &mount) && strcmp(mount.point, real) == 0)
            tarn = is_tarn(&mount); /* later lines lie on top */
    if (file != NULL)
        fclose(file);
    return tarn;
}
