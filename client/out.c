#include "out.h"

#include "common/cli.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_INTERVAL_MS 100

void out_json(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    json_error_t why;
    json_t *value = json_vpack_ex(&why, 0, fmt, args);
    va_end(args);
    if (value == NULL) {
        /* Names are bytes; JSON is UTF-8. A name that is not gets refused here, not misprinted. */
        cli_complain("cannot print a value as JSON: %s", why.text);
        return;
    }
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    putchar('\n');
    json_decref(value);
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void progress_begin(struct progress *progress, const char *label, uint64_t total)
{
    *progress = (struct progress){.label = label, .total = total, .started_ms = now_ms(),
                                  .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_add(struct progress *progress, uint64_t bytes)
{
    progress->done += bytes;
    if (!progress->terminal)
        return;
    uint64_t now = now_ms();
    if (now - progress->shown_ms < PROGRESS_INTERVAL_MS)
        return;
    progress->shown_ms = now;
    char done[16], rate[16];
    cli_format_size(progress->done, done);
    cli_format_size(progress->done * 1000 / MAX(now - progress->started_ms, (uint64_t)1), rate);
    if (progress->total != 0)
        fprintf(stderr, "\r\033[K%s  %3u %%  %s  %s/s", progress->label,
                (unsigned)(progress->done * 100 / progress->total), done, rate);
    else
        fprintf(stderr, "\r\033[K%s  %s  %s/s", progress->label, done, rate);
    progress->visible = true;
}

void progress_end(struct progress *progress)
{
    if (progress->visible)
        fputs("\r\033[K", stderr);
    progress->visible = false;
}

void out_time(uint64_t real_ns, char out[24])
{
    time_t seconds = (time_t)(real_ns / 1000000000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strftime(out, 24, "%Y-%m-%d %H:%M:%S", &tm);
}
