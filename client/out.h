/* What the tarn command prints: JSON lines from a format, tables for people, a progress line on a
 * terminal. Thread: the command's own. */
#ifndef TARN_CLIENT_OUT_H
#define TARN_CLIENT_OUT_H

#include "common/base.h"

/* One JSON value on one line of standard output; `fmt` and arguments as jansson's json_pack(). */
void out_json(const char *fmt, ...);
/* Names are bytes, JSON is UTF-8: the text with every byte that is none replaced by U+FFFD. Free it; never NULL. */
char *out_utf8(const char *text);

/* "label  42 %  1.2 GiB  300 MiB/s" rewritten in place ten times a second at most; nothing at all when
 * standard error is not a terminal. total 0 = not known. */
struct progress {
    const char *label; /* borrowed */
    uint64_t total, done, started_ms, shown_ms;
    bool terminal, visible;
};
void progress_begin(struct progress *progress, const char *label, uint64_t total);
void progress_add(struct progress *progress, uint64_t bytes);
void progress_end(struct progress *progress); /* wipes the line */

/* "2026-11-21 10:46:00" in UTC, for tables. */
void out_time(uint64_t real_ns, char out[24]);

#endif
