/* What clients did and were told, and when: the material of the linearizability checker (linear.h). An object is one
 * directory of four names, one file's size, or one lock with the number it guards; operations on different objects
 * do not touch each other, so each is checked by itself.
 * Times: nanoseconds of one clock that all clients share. Threads: one.
 *
 * The file, one operation a line, any number of files together are one history (`check FILE...`):
 *     KIND KEY CLIENT VERB A B OWNER INVOKE RETURN STATUS RESULT RESULT RESULT RESULT
 * RETURN is '-' when nobody knows what became of it. STATUS is 0 or an error's number on the wire (common/err.def). */
#ifndef TARN_TESTS_HISTORY_H
#define TARN_TESTS_HISTORY_H

#include "common/base.h"

#include <stdio.h>

#define HISTORY_NAMES 4
#define HISTORY_UNKNOWN UINT64_MAX

enum history_kind { HISTORY_DIRECTORY, HISTORY_SIZE, HISTORY_LOCK };
enum history_verb {
    /* HISTORY_DIRECTORY: a and b are names 0 … 3, what a name stands for is a number that create chose. */
    VERB_CREATE,   /* a, b = number; only when the name is free (EXIST) */
    VERB_UNLINK,   /* a (NOENT) */
    VERB_RENAME,   /* a to b, over what is there (NOENT) */
    VERB_EXCHANGE, /* a and b, both there (NOENT) */
    VERB_LOOKUP,   /* a; result[0] = number (NOENT) */
    VERB_LIST,     /* result = all four, 0 = free */
    /* HISTORY_SIZE; result[0] = the size afterwards. */
    VERB_APPEND, /* size += a */
    VERB_GROW,   /* size = max(size, a) */
    VERB_CUT,    /* size = a */
    VERB_STAT,
    /* HISTORY_LOCK. owner = session << 16 | who. */
    VERB_LOCK,   /* a = 1 exclusive; b = 1: does not wait (WOULDBLOCK) */
    VERB_UNLOCK,
    VERB_WRITE,  /* guarded number = a, by a holder of the exclusive lock */
    VERB_READ,   /* guarded number */
    VERB_EXPIRE, /* the session of owner ends: nothing of it happens any more, its locks go some time later */
    VERB_COUNT
};

struct history_op {
    uint8_t kind, verb;
    uint32_t key, client;
    uint64_t a, b, owner;
    uint64_t invoke_ns, return_ns; /* HISTORY_UNKNOWN: it may have happened at any time since, or never */
    int status;                    /* 0 or -E_X */
    uint64_t result[HISTORY_NAMES];
};
struct history {
    struct history_op *ops; /* owned */
    size_t n, cap;
};
void history_fini(struct history *history);
/* The number of the new operation; it is unknown until its return is set. CHECK-fails without memory. */
size_t history_add(struct history *history, const struct history_op *op);

const char *history_verb_name(unsigned verb);
void history_print(FILE *out, const struct history_op *op);
/* Appends the file's operations. -E_NOENT, or -E_INVAL with *ret_line the first line that is not one. */
int history_load(struct history *history, const char *path, unsigned *ret_line);

#endif
