#include "out.h"

#include "common/check.h"
#include "common/cli.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_INTERVAL_MS 100

/* Bytes of the UTF-8 character at `text`; 0 when there is none (RFC 3629, section 4). */
static size_t utf8_length(const uint8_t *text)
{
    uint8_t first = text[0], low = 0x80, high = 0xbf;
    size_t n = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (first == 0xe0 || first == 0xf0)
        low = first == 0xe0 ? 0xa0 : 0x90;
    else if (first == 0xed || first == 0xf4)
        high = first == 0xed ? 0x9f : 0x8f;
    for (size_t i = 1; i < n; i++, low = 0x80, high = 0xbf)
        if (text[i] < low || text[i] > high)
            return 0;
    return n;
}

/* Names are bytes, JSON is UTF-8: every byte that is none becomes U+FFFD. */
static json_t *utf8_string(const char *text)
{
    char *copy = malloc(3 * strlen(text) + 1), *out = copy;
    CHECK(copy != NULL);
    while (*text != '\0') {
        size_t n = utf8_length((const uint8_t *)text);
        memcpy(out, n != 0 ? text : "\xef\xbf\xbd", n != 0 ? n : 3);
        out += n != 0 ? n : 3;
        text += n != 0 ? n : 1;
    }
    json_t *string = json_stringn_nocheck(copy, (size_t)(out - copy));
    free(copy);
    return string;
}

static json_t *numbers(const uint64_t *values, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        CHECK(json_array_append_new(array, json_integer((json_int_t)values[i])) == 0);
    return array;
}

/* One object, from behind its '{' in *fmt to behind its '}'. */
static json_t *object_of(const char **fmt, va_list *args)
{
    json_t *object = json_object(), *value;
    while (*(*fmt)++ == 's') { /* a key, ':' and its value */
        const char *key = va_arg(*args, const char *);
        char kind = (*fmt)[1];
        *fmt += 2;
        if (kind == '{')
            value = object_of(fmt, args);
        else if (kind == 's')
            value = utf8_string(va_arg(*args, const char *));
        else if (kind == 'b')
            value = json_boolean(va_arg(*args, int));
        else if (kind == 'a') {
            const uint64_t *values = va_arg(*args, const uint64_t *);
            value = numbers(values, va_arg(*args, size_t));
        }
        else
            value = kind == 'i' ? json_integer(va_arg(*args, int)) : json_integer(va_arg(*args, long long));
        CHECK(value != NULL && json_object_set_new_nocheck(object, key, value) == 0);
        if (**fmt == '}')
            break;
        CHECK(*(*fmt)++ == ',');
    }
    (*fmt)++;
    return object;
}

void out_json(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    CHECK(*fmt++ == '{');
    json_t *value = object_of(&fmt, &args);
    va_end(args);
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
    uint64_t per_second = progress->done * 1000 / MAX(now - progress->started_ms, (uint64_t)1);
    if (progress->count) {
        snprintf(done, sizeof done, "%llu", (unsigned long long)progress->done);
        snprintf(rate, sizeof rate, "%llu", (unsigned long long)per_second);
    } else {
        cli_format_size(progress->done, done);
        cli_format_size(per_second, rate);
    }
    if (progress->total != 0)
        fprintf(stderr, "\r\033[K%s  %3u %%  %s  %s/s", progress->label,
                (unsigned)(progress->done * 100 / progress->total), done, rate);
    else
        fprintf(stderr, "\r\033[K%s  %s  %s/s", progress->label, done, rate);
    progress->visible = true;
}

void progress_left(struct progress *progress, uint64_t left)
{
    progress->total = MAX(progress->total, progress->done + left);
    uint64_t done = progress->total - left;
    progress_add(progress, done - progress->done);
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
