/* Snapshots and clones as tests ask for them, and a tree as text. */
#ifndef TARN_TEST_METADATA_VIEW_WORLD_H
#define TARN_TEST_METADATA_VIEW_WORLD_H

#include "metadata/record_view.h"
#include "world.h"

#define SLOT (64ull << 20) /* bytes of a file's chunk slot */

int tree_take(struct world *w, const char *dir, const char *name);
int tree_drop(struct world *w, const char *dir, const char *name);
int tree_clone(struct world *w, const char *dir, const char *name, const char *parent,
               const char *new_name);
/* As world_query(), making numbers of clones when the answer asks for one, as the leader does. */
int tree_query(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx);
int tree_put(struct world *w, const char *dir, const char *name, const char *data);
int tree_xattr(struct world *w, const char *path, const char *value); /* NULL removes */
int tree_truncate(struct world *w, const char *path, uint64_t size);
/* Opens for writing; writes one slot's chunk (a clone of it if it is sealed) and lets the file end
 * `bytes` into it. *ret_chunk: where the bytes went. */
int tree_open(struct world *w, const char *path, uint64_t *ret_handle, uint64_t *ret_ino);
int tree_write(struct world *w, uint64_t ino, uint64_t slot, uint64_t bytes, uint64_t *ret_chunk);

/* The tree below a directory in order of names, one line each: path, type, mode, size, attribute
 * user.t, bytes in the inode, extents up to the size. `exact` adds link counts, and lengths and chunks of
 * extents (a chunk that a snapshot has sealed is cut by a truncation, an open one is not). free() */
char *tree_text(struct world *w, const char *dir, bool exact);
/* Copies a tree with commands of the plain tree; hard links stay hard links. */
void tree_copy(struct world *w, const char *from, const char *to_parent, const char *name);
void tree_remove_below(struct world *w, const char *dir);
/* Background work and stores' tasks until there are none. */
void tree_settle(struct world *w, const uint32_t *nodes, unsigned n);
uint64_t tree_rows(struct world *w, enum table table);

#endif
