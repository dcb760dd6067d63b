/* What the files of this room share: the memory of a command. */
#ifndef TARN_METADATA_VIEW_IMPL_H
#define TARN_METADATA_VIEW_IMPL_H

#include "view.h"

#define VIEW_REMEMBERED 8u        /* snapshots and clones; more are looked up again */
#define VIEW_COVERS_REMEMBERED 16u /* inodes: a command changes a few, over and over */

struct known_cover {
    uint64_t ino;
    struct coverage coverage;
};
struct view_memory {
    struct tree_snapshot snapshots[VIEW_REMEMBERED];
    struct clone clones[VIEW_REMEMBERED];
    struct known_cover covers[VIEW_COVERS_REMEMBERED];
    unsigned n_snapshots, n_clones, n_covers; /* ever put in: the oldest is overwritten */
};
struct view_memory *view_memory(struct tables *t); /* NULL: no memory */

#endif
