/* What the tarn command prints: JSON lines from a format, tables for people, a progress line on a
 * terminal. Thread: the command's own. */
#ifndef TARN_CLIENT_OUT_H
#define TARN_CLIENT_OUT_H

#include "common/base.h"

/* One JSON object on one line of standard output: "{s:s,s:I,s:{s:b}}" and key, value, … as jansson's json_pack() takes
 * them, with values s (a name may be any bytes: what is no UTF-8 becomes U+FFFD), i (int), I (long long), b (bool), {…},
 * and a (const uint64_t *, size_t: an array of numbers). */
void out_json(const char *fmt, ...);

/* "label  42 %  1.2 GiB  300 MiB/s" rewritten in place ten times a second at most; nothing at all when
 * standard error is not a terminal. total 0 = not known. */
struct progress {
    const char *label; /* borrowed */
    uint64_t total, done, started_ms, shown_ms;
    bool terminal, visible;
    bool count; /* things, not bytes: set behind progress_begin() */
};
void progress_begin(struct progress *progress, const char *label, uint64_t total);
void progress_add(struct progress *progress, uint64_t bytes);
/* So much is left; the total is the most there ever was. */
void progress_left(struct progress *progress, uint64_t left);
void progress_end(struct progress *progress); /* wipes the line */

/* "2026-11-21 10:46:00" in UTC, for tables. */
void out_time(uint64_t real_ns, char out[24]);

#endif
