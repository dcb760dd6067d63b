#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 1024 /* longer lines are cut; one write(2) each, so lines never mix */

static _Atomic(const char *) program = "tarn";
#define LEVEL_UNSET (-2) /* TARN_LOG has not been read yet */
static _Atomic int level_max = LEVEL_UNSET;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static int level_from_environment(void)
{
    const char *wanted = getenv("TARN_LOG");
    for (size_t i = 0; wanted != NULL && i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(wanted, level_names[i]) == 0)
            return (int)i;
    }
    return LOG_INFO;
}

void log_init(const char *name)
{
    program = name;
    level_max = level_from_environment();
}

void log_set_level(enum log_level level)
{
    level_max = (int)level;
}

static size_t line_start(char *line, size_t size, enum log_level level)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
    int more = snprintf(line + len, size - len, ".%03dZ %s %s: ", (int)(now.tv_nsec / 1000000),
                        program, level_names[level]);
    return MIN(len + (more > 0 ? (size_t)more : 0), size - 2);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (level_max == LEVEL_UNSET)
        level_max = level_from_environment();
    if ((int)level > level_max)
        return;
    int saved = errno;
    char line[LINE_BYTES_MAX];
    size_t len = line_start(line, sizeof line, level);
    va_list args;
    va_start(args, fmt);
    int more = vsnprintf(line + len, sizeof line - len - 1, fmt, args);
    va_end(args);
    len = MIN(len + (more > 0 ? (size_t)more : 0), sizeof line - 2);
    line[len++] = '\n';
    /* A log that cannot be written has nowhere to complain. */
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written;
    errno = saved;
}
