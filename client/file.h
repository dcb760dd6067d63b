/* Files by inode: what the mount, the gateway and the agent use. Reads and writes any range through
 * the file's map of extents. What is known of an inode is shared by all its handles in this process
 * (same struct stores), so they agree at once. What another client writes is seen at once where it
 * writes into a chunk that is open, behind the known end and in holes; where it replaced a sealed or
 * inline part, after at most a second, at once after file_refresh() and in files that are kept fresh.
 * A file belongs to the session in which it was opened: when that has ended every call but file_close(), file_attr() and the
 * plain getters is answered with -E_NO_SESSION; it must be opened again. (What it was for may be in other hands.)
 * Threads: the io's, from fibers; several fibers may use one file. */
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
uint64_t file_size_known(const struct file *file); /* as last told */
/* Before a lock is asked for through the file: -E_NO_SESSION, or the session in which to ask. */
int file_session(struct file *file, uint64_t *ret_session);
/* Bytes read; short only at the end of the file as the metadata service knows it now. */
int64_t file_read(struct file *file, void *buf, size_t n, uint64_t offset);
/* All n bytes or an error; the size is visible everywhere when it returns, the mtime too unless the
 * file did not grow: then it follows within a second of writing, or with sync, attr or close.
 * An error: some of the bytes may be there, but none behind the file's end. -E_NO_SESSION: they may still come, whole or in
 * part, until the service has released the session.
 * append: offset is ignored; the file first grows by n in one change, which makes the place ours
 * alone, then the data goes there. When the data then cannot be stored, zeros remain in that place. */
int file_write(struct file *file, const void *buf, size_t n, uint64_t offset, bool append);
int file_sync(struct file *file); /* data on disk at every member, size known */
int file_truncate(struct file *file, uint64_t size);
int file_attr(struct file *file, Tarn__Attr **ret); /* fresh; free with tarn__attr__free_unpacked */
/* From now on a read sees every write of any client that ended before the read began, and a write goes
 * where the file's bytes are now: each asks the metadata service, beside the data transfer, whether what
 * is known of the file still holds. For the mount. */
void file_keep_fresh(struct file *file);
/* What close(2) waits for: the mtime is told. */
int file_flush(struct file *file);
/* The same for whatever handles of the inode are open here: before somebody looks at the times or sets them. */
int file_settle(struct meta *meta, struct stores *stores, uint64_t ino);
/* Before a write or truncation by `cred`: takes the set-id bits away when that is not root. */
int file_drop_setid(struct file *file, const struct meta_cred *cred);
/* The file was read at `real_ns`: its atime follows by the relatime rule, or with `strict` always. Asks the
 * service only when what is known of the times says that it would. */
int file_mark_read(struct file *file, uint64_t real_ns, bool strict);
/* The file has at least this size. */
int file_extend(struct file *file, uint64_t size);
/* Forgets the cached map: the next read asks. For the mount at the grant of a lock. */
void file_refresh(struct file *file);
/* The part around `offset` that this machine can read by descriptor: file bytes [offset, offset+length)
 * are at fd_offset of fd (the caller's to close, at the latest when stores_on_fd_dropped() names the chunk); bytes past the
 * descriptor's end are zeros. Right for about a second, like everything sealed. -E_NOTSUP when there is none. */
struct file_part {
    uint64_t offset, length, fd_offset, size; /* size: of the file */
    uint64_t chunk;
    int fd;
};
int file_local_part(struct file *file, uint64_t offset, struct file_part *ret);
/* When the whole file is one sealed chunk as it is, with a replica on this machine: its descriptor and number (the
 * descriptor is the caller's, as with file_local_part). Else -E_NOTSUP. */
int file_raw_fd(struct file *file, int *ret_fd, uint64_t *ret_chunk);

#endif
