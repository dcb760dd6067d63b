/* Files by inode: what the mount, the gateway and the agent use. Reads and writes any range through
 * the file's map of extents; the map is cached per handle and refreshed when a store calls it
 * stale. Threads: the io's, from fibers; several fibers may use one file. */
#ifndef TARN_CLIENT_FILE_H
#define TARN_CLIENT_FILE_H

#include "meta.h"
#include "store.h"

struct file;
/* Opens by inode or path: sends OP_OPEN (or takes an already granted `handle` with its attr). */
int file_open(struct meta *meta, struct stores *stores, const Tarn__Where *where, uint32_t flags,
              const struct meta_cred *cred, struct file **ret);
int file_adopt(struct meta *meta, struct stores *stores, const Tarn__Attr *attr, uint64_t handle,
               uint32_t flags, const struct meta_cred *cred, struct file **ret);
/* Drops the handle at the metadata service (waits for it) and frees, also on error. */
int file_close(struct file *file);
uint64_t file_ino(const struct file *file);
uint64_t file_handle(const struct file *file);
/* Bytes read; short only at the end of the file as the metadata service knows it now. */
int64_t file_read(struct file *file, void *buf, size_t n, uint64_t offset);
/* All n bytes or an error; size and mtime are visible everywhere when it returns.
 * append: offset is ignored, the end of the file is taken atomically (retry on conflict). */
int file_write(struct file *file, const void *buf, size_t n, uint64_t offset, bool append);
int file_sync(struct file *file); /* data on disk at every member, size known */
int file_truncate(struct file *file, uint64_t size);
int file_attr(struct file *file, Tarn__Attr **ret); /* fresh; free with tarn__attr__free_unpacked */
/* When the whole file is one sealed chunk with a replica on this machine: its descriptor (owned by
 * the caller). Else -E_NOTSUP. */
int file_raw_fd(struct file *file, int *ret_fd);

#endif
