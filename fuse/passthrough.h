/* Handles that the kernel reads from a chunk's file itself (FUSE passthrough, Linux 6.9): no request comes to us. It is used for
 * handles opened for reading, of files that are one whole sealed chunk on this node, and:
 *   auto  only of snapshots: such a file never changes, so there is nothing the kernel would have to be told;
 *   on    of all files. A handle then shows the file as it was when it was opened, whatever is written meanwhile, and while
 *         one is open here the file cannot be opened for writing through this mount (ETXTBSY);
 *   off   of none.
 * Why, with figures: docs/decisions/passthrough.md.
 *
 * What the kernel demands (fs/fuse/iomode.c): while one handle of an inode passes through, all that are opened do, to the same
 * backing file, or open(2) ends with EIO; and the first must not come while another one is open that may use the page cache. A
 * handle with direct I/O and a backing file counts as passing through, and its reads come to us: that is what a handle gets
 * whose file has changed since. Writers never get one: they could map the chunk's file for writing.
 * Threads: the loop's. */
#ifndef TARN_FUSE_PASSTHROUGH_H
#define TARN_FUSE_PASSTHROUGH_H

#include "mount.h"

/* Decides about a handle that was just opened, and replies to the open. What fuse_reply_open() returns; ETXTBSY was
 * replied, and nothing is counted, when *ret_refused. May wait. */
int passthrough_reply_open(fuse_req_t req, struct mount_file *open, struct fuse_file_info *fi, bool *ret_refused);
/* A handle made by create(2), before its reply: it does not pass through, and while it is open none does. -E_NOMEM. */
int passthrough_note_plain(struct mount *mount, struct mount_file *open);
/* The handle is gone, or its reply was not wanted. */
void passthrough_release(fuse_req_t req, struct mount_file *open);
void passthrough_fini(struct mount *mount);

#endif
