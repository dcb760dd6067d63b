/* Bytes of existing files for a new object: NewObject.from. */
#ifndef TARN_METADATA_NAMESPACE_FROM_H
#define TARN_METADATA_NAMESPACE_FROM_H

#include "namespace.h"

struct ns_taken {
    struct extent *extents; /* offsets in the new object; owned */
    size_t count, cap;
    uint64_t size;
    bool any_inline;
    uint8_t data[MD_INLINE_MAX + 1];
};
void ns_taken_fini(struct ns_taken *taken);
/* Takes the bytes out of the files and removes them. -E_INVAL one is listed twice, open, has
 * another name, or keeps bytes in its inode that do not fit into the new one's. */
int ns_take(struct tables *t, const Tarn__NewObject *object, struct ns_taken *taken);
/* Gives them to a new file; the caller puts the inode. */
int ns_taken_attach(struct tables *t, const struct ns_taken *taken, struct inode *inode);

#endif
