/* Memory for cells and windows on their way: 4096-aligned buffers of two sizes, kept for the next
 * user, because fresh pages from the kernel cost more than the checksum of what goes into them.
 * Bounded: past the limit the answer is -E_BUSY. Threads: the io's. */
#ifndef TARN_OBJSTORE_BUFFERS_H
#define TARN_OBJSTORE_BUFFERS_H

#include "common/base.h"
#include "common/crc.h"
#include "common/frame.h"

#define BUFFER_SMALL_BYTES (2 * CELL_BYTES)            /* a cell, or a small range that crosses two */
#define BUFFER_LARGE_BYTES (MIB(1) + 2 * CELL_BYTES)   /* a window and the rest of its first and last cell */
#define BUFFER_BYTES_MAX (FRAME_PAYLOAD_MAX + 2 * CELL_BYTES)
#define BUFFERS_BYTES_MAX MIB(256)                     /* in use at a time: 220 windows */
#define BUFFERS_IDLE_MAX 32                            /* kept of each size: 36 MiB + 4 MiB */

struct buffers {
    void *idle[2][BUFFERS_IDLE_MAX];
    unsigned n_idle[2];
    uint64_t used;
};
void buffers_init(struct buffers *buffers);
void buffers_fini(struct buffers *buffers); /* none is in use */
/* At least n bytes (n <= BUFFER_BYTES_MAX). Errors: -E_BUSY, -E_NOMEM. */
int buffers_get(struct buffers *buffers, size_t n, uint8_t **ret);
void buffers_put(struct buffers *buffers, size_t n, uint8_t *buffer); /* the same n; NULL allowed */

#endif
