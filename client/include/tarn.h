/* libtarn: files and objects of a Tarn cluster from any C program.
 *
 * Every call blocks its thread; any number of threads may use one struct tarn. Functions return 0
 * or a byte count, or a negative errno value (-ENOENT); tarn_error() has the sentence.
 * Paths are absolute: "/bucket/key". Offsets and sizes are bytes. unlink and rename do what POSIX says. */
#ifndef TARN_H
#define TARN_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tarn;
struct tarn_file;
struct tarn_put;

/* config NULL: $TARN_CONFIG, else /etc/tarn/tarn.conf. Errors: -ENOENT no configuration, -EINVAL bad
 * configuration, -EACCES wrong cluster key, -ETIMEDOUT no leader found (30 s). */
int tarn_open(const char *config, struct tarn **ret);
void tarn_close(struct tarn *tarn);
/* The sentence for this thread's last failure; valid until its next call. Never NULL. */
const char *tarn_error(void);
int tarn_last_err(void); /* the err.def code (negative) behind it, for the tarn command's exit codes */

int tarn_stat(struct tarn *tarn, const char *path, struct stat *ret);
int tarn_mkdir(struct tarn *tarn, const char *path, mode_t mode, bool parents);
int tarn_unlink(struct tarn *tarn, const char *path);
int tarn_rmdir(struct tarn *tarn, const char *path);
int tarn_rename(struct tarn *tarn, const char *from, const char *to);
int tarn_symlink(struct tarn *tarn, const char *target, const char *path);
int tarn_readlink(struct tarn *tarn, const char *path, char **ret_target); /* free() it; -EINVAL not a symbolic link */
/* Calls fn for each entry in name order; a non-zero return ends the listing and is returned. */
typedef int (*tarn_entry_fn)(void *arg, const char *name, const struct stat *st);
int tarn_list(struct tarn *tarn, const char *path, tarn_entry_fn fn, void *arg);

/* flags: O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND. */
int tarn_file_open(struct tarn *tarn, const char *path, int flags, mode_t mode, struct tarn_file **ret);
int tarn_file_close(struct tarn_file *file);
/* A local replica of a sealed chunk is read by the calling thread itself from a passed descriptor. The descriptors belong to the
 * library: it closes them within a second of the chunk's deletion or move, also while the program does nothing, so that the
 * disk's space comes back. Who makes duplicates of them (/proc/self/fd, fork) keeps the space until he closes them. */
ssize_t tarn_pread(struct tarn_file *file, void *buf, size_t n, off_t offset);
ssize_t tarn_pwrite(struct tarn_file *file, const void *buf, size_t n, off_t offset);
int tarn_fsync(struct tarn_file *file);
int tarn_ftruncate(struct tarn_file *file, off_t size);

/* How many bytes this struct tarn has read by which path since it was opened. What a path gives is the same. */
struct tarn_counters {
    uint64_t direct;  /* from the file of a chunk on this machine, by a passed descriptor; verified when it was passed (`verify`
                         in the configuration), not at each read */
    uint64_t local;   /* from a store on this node, verified at each read, as are the following */
    uint64_t rack;    /* from a store in the same rack */
    uint64_t remote;
    uint64_t written; /* to all copies: counted once */
    /* Of the bytes read: */
    uint64_t computed;     /* no copy gave them: computed from other shards of their parity group */
    uint64_t decompressed;
    /* Requests for bytes for which a second place was asked because the first was late, and those that it answered first. */
    uint64_t hedged, hedges_won;
};
/* `size`: sizeof *ret as the program was compiled. Later versions append fields; what it does not know is not written. */
int tarn_counters(struct tarn *tarn, struct tarn_counters *ret, size_t size);

/* An object appears whole at tarn_put_commit, durable on every copy, or not at all; it takes the place of a file there.
 * Missing directories on the way are made. -EISDIR: a directory stands there; -ENOTDIR: a file is on the way. */
int tarn_put_begin(struct tarn *tarn, const char *path, mode_t mode, unsigned copies, struct tarn_put **ret);
/* It will have so many bytes, as far as known: large objects are laid out by it. Before the first write. */
void tarn_put_expect(struct tarn_put *put, uint64_t size);
int tarn_put_write(struct tarn_put *put, const void *buf, size_t n);
int tarn_put_commit(struct tarn_put *put); /* frees, also on failure */
void tarn_put_abort(struct tarn_put *put);

/* Where the bytes are. */
struct tarn_location {
    uint64_t offset, length;   /* of the file */
    uint64_t chunk, generation;
    unsigned n_nodes;
    struct {
        uint32_t node;
        char host[64], rack[64];
        bool up;
    } nodes[16];
    /* How the bytes lie in the chunk at these nodes: "open", "replicated", "coded", "packed" or "compressed"
     * (docs/protocols/api.md). Static. */
    const char *form;
    bool coded; /* the chunk is one of a parity group, of whatever form the bytes are */
};
typedef int (*tarn_location_fn)(void *arg, const char *path, const struct stat *st, const struct tarn_location *location);
/* Files that are inline have no location (location NULL, called once). */
int tarn_locate(struct tarn *tarn, const char *path, bool recursive, tarn_location_fn fn, void *arg);

#ifdef __cplusplus
}
#endif
#endif
