/* Cookies of a directory listing (d_off, telldir(3)) that stay good while the directory changes and
 * without keeping the names that were read. Names come in byte order, so a cookie only has to say
 * between which names the listing goes on: it is the number of a mark and a code. All names of a
 * mark begin with the same bytes, and the code is their next four: it grows from name to name. A
 * name that does not begin so, or whose code would not grow, begins a new mark. So there is a mark
 * for every few thousand names of the usual kind, and at worst one for each.
 * Pure. Owns: its marks. */
#ifndef TARN_FUSE_DIR_MARKS_H
#define TARN_FUSE_DIR_MARKS_H

#include "common/base.h"

#define DIR_NAME_MAX 255
#define DIR_COOKIE_MIN 3 /* 0, 1 and 2 are the beginning, "." and ".." */

struct dir_mark {
    char *before;   /* owned: the last name of the mark before; "" of the first */
    char *prefix;   /* owned */
};
struct dir_marks {
    struct dir_mark *items; /* owned */
    size_t n, cap;
    char last[DIR_NAME_MAX + 1]; /* the furthest name so far; "" = none */
    uint32_t last_code;
};
void dir_marks_fini(struct dir_marks *marks); /* zeroed is empty */

/* The cookies of n names that were read one after the other, in order: the listing that goes on at
 * cookies[i] does so behind names[i], whatever came or went. Names that were not there when the
 * listing first came by may be repeated after a seek, names that were there are not, and none of
 * these is left out. -E_NOMEM; -E_NAMETOOLONG. */
int dir_marks_cookies(struct dir_marks *marks, const char *const *names, size_t n, uint64_t *cookies);
/* The name behind which the listing goes on at a cookie. -E_INVAL: no such cookie was given out. */
int dir_marks_seek(const struct dir_marks *marks, uint64_t cookie, char ret_after[DIR_NAME_MAX + 1]);

#endif
