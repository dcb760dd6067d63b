#include "dir_marks.h"

#include "common/err.h"

/* The prefix is what a mark's first name shares with the name before it, but for some bytes: a
 * counter at the end of names can then run through its digits within one mark. */
#define SLACK 3
#define CODE_BYTES 4

/* Cookie: mark + 1 in the upper bits, in the lower 33: 0 = where the mark begins, else code + 1. */
#define CODE_BITS 33
#define MARKS_MAX ((1u << 30) - 1)

void dir_marks_fini(struct dir_marks *marks)
{
    for (size_t i = 0; i < marks->n; i++) {
        free(marks->items[i].before);
        free(marks->items[i].prefix);
    }
    free(marks->items);
    *marks = (struct dir_marks){0};
}

static uint64_t cookie_of(size_t mark, uint64_t low)
{
    return (uint64_t)(mark + 1) << CODE_BITS | low;
}

static uint32_t code_of(const char *name, size_t prefix_len)
{
    uint32_t code = 0;
    size_t len = strlen(name);
    for (size_t i = prefix_len; i < prefix_len + CODE_BYTES; i++)
        code = code << 8 | (i < len ? (uint8_t)name[i] : 0);
    return code;
}

static int mark_add(struct dir_marks *marks, const char *name)
{
    size_t shared = 0;
    while (name[shared] != 0 && name[shared] == marks->last[shared])
        shared++;
    if (marks->n == MARKS_MAX)
        return -E_NOMEM;
    if (marks->n == marks->cap) {
        size_t cap = marks->cap * 2 + 16;
        struct dir_mark *grown = realloc(marks->items, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        marks->items = grown;
        marks->cap = cap;
    }
    struct dir_mark mark = {.before = strdup(marks->last),
                            .prefix = strndup(name, shared > SLACK ? shared - SLACK : 0)};
    if (mark.before == NULL || mark.prefix == NULL) {
        free(mark.before);
        free(mark.prefix);
        return -E_NOMEM;
    }
    marks->items[marks->n++] = mark;
    return 0;
}

/* A name that the listing comes by for the first time. */
static int cookie_first(struct dir_marks *marks, const char *name, uint64_t *ret)
{
    const char *prefix = marks->n > 0 ? marks->items[marks->n - 1].prefix : "";
    size_t len = strlen(prefix);
    bool joins = marks->n > 0 && strncmp(name, prefix, len) == 0 && code_of(name, len) > marks->last_code;
    int err = joins ? 0 : mark_add(marks, name);
    if (err != 0)
        return err;
    marks->last_code = code_of(name, strlen(marks->items[marks->n - 1].prefix));
    memcpy(marks->last, name, strlen(name) + 1);
    *ret = cookie_of(marks->n - 1, (uint64_t)marks->last_code + 1);
    return 0;
}

/* The last mark that begins before the name. */
static size_t mark_find(const struct dir_marks *marks, const char *name)
{
    size_t low = 0, high = marks->n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (strcmp(marks->items[middle].before, name) < 0)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* A name in a part that was listed before: if it is not one of those, it may have another prefix. */
static uint64_t cookie_again(const struct dir_marks *marks, const char *name)
{
    size_t mark = mark_find(marks, name);
    const char *prefix = marks->items[mark].prefix;
    int order = strncmp(name, prefix, strlen(prefix));
    if (order != 0)
        return cookie_of(mark, order < 0 ? 0 : (uint64_t)UINT32_MAX + 1);
    return cookie_of(mark, (uint64_t)code_of(name, strlen(prefix)) + 1);
}

int dir_marks_cookies(struct dir_marks *marks, const char *const *names, size_t n, uint64_t *cookies)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(names[i]) > DIR_NAME_MAX)
            return -E_NAMETOOLONG;
        if (marks->n > 0 && strcmp(names[i], marks->last) <= 0) {
            cookies[i] = cookie_again(marks, names[i]);
            continue;
        }
        int err = cookie_first(marks, names[i], &cookies[i]);
        if (err != 0)
            return err;
    }
    /* Of several names with one code, of which all but one are new, only the last may say "behind this
     * code": which one was there before is not known. The others go on where the run begins. */
    uint64_t before = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n && cookies[i] == cookies[i + 1])
            cookies[i] = before >> CODE_BITS == cookies[i] >> CODE_BITS ? before : cookies[i] >> CODE_BITS << CODE_BITS;
        else
            before = cookies[i];
    }
    return 0;
}

int dir_marks_seek(const struct dir_marks *marks, uint64_t cookie, char ret_after[DIR_NAME_MAX + 1])
{
    uint64_t mark = cookie >> CODE_BITS, low = cookie & ((1ull << CODE_BITS) - 1);
    if (mark == 0 || mark > marks->n || low > (uint64_t)UINT32_MAX + 1)
        return -E_INVAL;
    const struct dir_mark *m = &marks->items[--mark];
    if (low == 0) {
        memcpy(ret_after, m->before, strlen(m->before) + 1);
        return 0;
    }
    /* The last name that can have this code; one that ended within it is the name itself. */
    size_t len = strlen(m->prefix);
    memcpy(ret_after, m->prefix, len);
    for (int shift = 24; shift >= 0 && len < DIR_NAME_MAX; shift -= 8)
        ret_after[len++] = (char)((low - 1) >> shift);
    memset(ret_after + len, 0xff, DIR_NAME_MAX - len);
    ret_after[DIR_NAME_MAX] = 0;
    /* But not past what this mark has seen: names with the same code may begin the next one. */
    const char *end = mark + 1 < marks->n ? m[1].before : marks->last;
    if (strcmp(ret_after, end) > 0)
        memcpy(ret_after, end, strlen(end) + 1);
    return 0;
}
