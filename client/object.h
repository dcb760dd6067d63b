/* Whole objects: a put that becomes visible at once at its commit, and never partly. Streaming: at
 * most a few windows of 1 MiB are in memory, and where the policy has a code the parity of two groups. Threads: the io's, from fibers. */
#ifndef TARN_CLIENT_OBJECT_H
#define TARN_CLIENT_OBJECT_H

#include "file.h"

struct put;
struct put_options {
    const struct meta_cred *cred;
    Tarn__Where parent;       /* borrowed until put_begin returns */
    const char *path;         /* relative to parent; parents are made */
    uint32_t mode;            /* 0 = 0644 */
    uint32_t copies;          /* 0 = the directory's policy */
    bool exclusive;
    bool file;                /* NewObject.file: nothing but a file is replaced */
    uint64_t expected_size;   /* 0 = not known */
    bool no_inline;           /* always in chunks: NewObject.from can take them over later */
    const char *policy_dir, *policy_path; /* … to here: paths as parent's and path, whose policy counts. NULL = parent and path */
};
int put_begin(struct meta *meta, struct stores *stores, const struct put_options *options, struct put **ret);
/* The object will have so many bytes, as far as known. Before the first of them is written. */
void put_expect(struct put *put, uint64_t size);
/* Takes the bytes (copied or sent before it returns); waits for room in the window. */
int put_write(struct put *put, const void *buf, size_t n);
/* Waits until all bytes are on disk at every member, then commits. etag may be NULL, xattrs may be NULL.
 * ret_attr may be NULL. Frees put also on failure (then nothing became visible). */
int put_commit(struct put *put, const void *etag, size_t etag_len, Tarn__XattrPair **xattrs, size_t n_xattrs,
               Tarn__Attr **ret_attr);
/* Instead of the commit: the object as a value for a bigger transaction (task output). Free with
 * tarn__new_object__free_unpacked(). Frees put. */
int put_detach(struct put *put, Tarn__NewObject **ret);
void put_abort(struct put *put); /* the chunks are given back */

#endif
