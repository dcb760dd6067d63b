/* What the parts of the public library share: tarn_loop.c (the thread behind it, errors), tarn.c (tree,
 * files, objects), tarn_locate.c. Nobody else includes it. */
#ifndef TARN_CLIENT_TARN_INTERNAL_H
#define TARN_CLIENT_TARN_INTERNAL_H

#include "include/tarn.h"

#include "attr.h"
#include "common/base.h"
#include "common/coll.h"
#include "object.h"

#include <pthread.h>
#include <stdatomic.h>

#define CHANGE_SLOTS 256

struct tarn {
    struct config config;
    struct io *io;
    pthread_t thread;
    struct meta *meta;
    struct stores *stores;
    struct meta_cred cred;
    uint32_t *groups;
    /* Changes made through this library, by inode number modulo: descriptors that were taken
     * before one are not read any more. */
    atomic_uint changes[CHANGE_SLOTS];
    /* Descriptors that open files keep of chunks on this machine (tarn_file.c). */
    pthread_mutex_t files_lock;   /* before a file's own lock */
    struct list files;            /* under files_lock */
    atomic_uint fd_drops;         /* times descriptors were asked back; changed by the loop thread */
    atomic_ullong closed_direct;  /* bytes read directly from files that are closed by now */
    int null_fd;                  /* stands where a descriptor was until the file is closed */
};

/* stores_on_fd_dropped(): open files close what they have of the chunk (0: of all). On the loop thread. */
void tarn_files_fd_dropped(void *tarn, uint64_t chunk);
uint64_t tarn_files_direct_bytes(struct tarn *tarn); /* read by descriptor without the loop thread */

/* One call of the user, carried out by a fiber of the loop thread while his thread waits. `run`
 * returns >= 0 or a code; detail: the server's words. Embedded at the start of each call's struct. */
struct loop_call {
    int64_t (*run)(struct loop_call *call);
    struct tarn *tarn;
    char detail[160];
};
int64_t loop_call(struct tarn *tarn, struct loop_call *call, int64_t (*run)(struct loop_call *call));
int loop_start(struct tarn *tarn); /* thread and io */
void loop_stop(struct tarn *tarn);

/* Remembers the sentence "cannot WHAT PATH: no such file or directory (detail)" and gives -errno. */
int public_error(int err, const char *detail, const char *fmt, ...) _printf_(3, 4);
/* The same with words of one's own instead of the code's. */
int public_error_why(int err, const char *what, const char *why);
/* For a path that is not absolute. */
int public_error_relative(const char *what, const char *path);

#endif
