/* Copies between the tree and local files, as cp(1) makes them: copy_put.c (local to tree),
 * copy_get.c (tree to local), copy.c (inside the tree, and what they share). Each tells its
 * failures itself and returns the exit code of the first. The commands over them are in cli_copy.c.
 * Thread: the command's own. */
#ifndef TARN_CLIENT_COPY_H
#define TARN_CLIENT_COPY_H

#include "commands.h"
#include "out.h"

#define COPY_WINDOW_BYTES MIB(1)

struct copy {
    struct tarn *tarn;
    bool json, recursive;
    uint64_t copies; /* of new objects; 0 = the directory's policy */
    uint8_t *window; /* COPY_WINDOW_BYTES */
    struct progress progress;
};

/* From "-" = standard input. Symbolic links below a directory are copied as links, what is neither
 * file, directory nor link is left out and told. */
int copy_put(struct copy *copy, const char *from, const char *to);
/* To "-" = standard output. A file appears under its name only when it is complete; into what is no
 * regular file (a device, a pipe) the bytes are written as they come. */
int copy_get(struct copy *copy, const char *from, const char *to);
int copy_inside(struct copy *copy, const char *from, const char *to);
/* The bytes of one object into an open file. */
int copy_get_fd(struct copy *copy, const char *from, int fd, const char *to);

/* DIR/NAME without doubled slashes. Never NULL. */
char *copy_join(const char *dir, const char *name);
/* "cannot WHAT PATH: " and the words of errno; the exit code. */
int copy_complain_local(const char *what, const char *path);
/* FROM is a directory and --recursive was not given. */
int copy_needs_recursive(const char *from);
/* One line of --json. */
void copy_done(const struct copy *copy, const char *from, const char *to, uint64_t bytes);

#endif
