/* What an inode number says to whoever sees it. The whole layout is in metadata/record_view.h. Pure. */
#ifndef TARN_PROTO_INO_H
#define TARN_PROTO_INO_H

#include <stdbool.h>
#include <stdint.h>

#define INO_SNAPSHOT_SHIFT 52

/* The snapshot that the number is of, 0 = the tree as it is now. What has such a number never changes: it is opened for
 * writing by nobody, and goes with its snapshot. */
static inline uint32_t ino_snapshot(uint64_t ino)
{
    return (uint32_t)(ino >> INO_SNAPSHOT_SHIFT);
}

#endif
