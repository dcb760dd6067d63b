/* Uploads: chunks that belong to a session and to no file yet. What chunkmap_file.c, which has their commands, and
 * upload_group.c share. Threads: the transaction's. */
#ifndef TARN_METADATA_UPLOAD_H
#define TARN_METADATA_UPLOAD_H

#include "chunkmap.h"

/* Who wants to put what where; borrowed from a request. */
struct upload_ask {
    uint64_t upload; /* 0 = a new one */
    Tarn__Where *near;
    const char *path;
    uint32_t copies;
};
/* The upload that is asked for, by one who may use it and whose quotas have room; a new one gets its row. */
int upload_begin(struct tables *t, const struct upload_ask *ask, struct upload *ret);
/* What was made for the index before goes, with its whole group. */
int upload_slot_clear(struct tables *t, uint64_t upload, uint64_t index);
/* The chunk becomes the upload's at that index and is saved. */
int upload_slot_fill(struct tables *t, uint64_t upload, uint64_t index, struct chunk *chunk);

#endif
