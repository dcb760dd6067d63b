/* Compressed chunks: independent zstd frames with a seek table behind them, so that any range is read
 * by decompressing only the frames it lies in, and `zstd -d` reads the whole. The only file that knows
 * zstd. Source: RFC 8878 (zstd); "Zstandard Seekable Format" 0.1.0 (zstd, contrib/seekable_format).
 *
 *   frame 0 | frame 1 | … | seek table (a skippable frame: sizes of each frame, count, magic)
 *
 * Bytes from disk or a peer are never trusted: every size is checked against what is there.
 * Pure. Threads: a codec is used by one thread at a time; tables are read by any number. */
#ifndef TARN_COMMON_CODEC_H
#define TARN_COMMON_CODEC_H

#include "base.h"
#include "bytes.h"

#define CODEC_FRAME_BYTES MIB(1)   /* of content in one frame: a smaller one costs ratio, a larger one range reads */
#define CODEC_FRAMES_MAX 65536     /* of one chunk: 64 MiB in frames of 1 KiB */
#define CODEC_LEVEL_MIN 1
#define CODEC_LEVEL_MAX 19
#define CODEC_PAYS_PERCENT 87      /* a chunk is kept compressed when it is at most so much of its content (ratio 1.15) */

struct codec;
/* Levels 1 … 19. NULL when there is no memory or the level is out of bounds. */
struct codec *codec_create(int level);
void codec_destroy(struct codec *codec); /* NULL allowed */

/* Room that one frame of `n` bytes may need. */
size_t codec_bound(size_t n);
/* One frame. Errors: -E_NOSPC `cap` is less than codec_bound(n), -E_NOMEM. */
int codec_compress(struct codec *codec, const void *from, size_t n, void *to, size_t cap, size_t *ret_len);
/* One frame whose content has exactly `n` bytes. Errors: -E_CORRUPT it is no frame, has another
 * length, or its checksum fails; -E_NOMEM. `to` may be partly written then. */
int codec_decompress(struct codec *codec, const void *from, size_t len, void *to, size_t n);

/* Where each frame lies. */
struct codec_frame {
    uint64_t offset, content_offset; /* in the compressed chunk, in its content */
    uint32_t len, content_len;
};
struct codec_table {
    struct codec_frame *frames; /* owned */
    size_t n, cap;
    uint64_t len, content_len; /* sums; the table itself is not counted */
};
void codec_table_fini(struct codec_table *table);
/* -E_NOMEM; -E_RANGE CODEC_FRAMES_MAX reached, or a size of 0 or 4 GiB. */
int codec_table_add(struct codec_table *table, size_t len, size_t content_len);
size_t codec_table_bytes(const struct codec_table *table); /* of its encoding */
void codec_table_encode(const struct codec_table *table, struct writer *w);
/* How long the table at the end of a compressed chunk is, from its last CODEC_FOOTER_BYTES.
 * -E_CORRUPT. */
#define CODEC_FOOTER_BYTES 9
int codec_table_measure(const void *footer, size_t *ret_bytes);
/* The table from its own bytes; `len` is that of the whole compressed chunk, table included: sizes
 * that do not add up to it are -E_CORRUPT. -E_NOMEM. On failure *ret is empty. */
int codec_table_decode(const void *data, size_t n, uint64_t len, struct codec_table *ret);
/* Index of the frame that holds the content's byte `offset`; table->n when it is behind the end.
 * Cost: O(log frames). */
size_t codec_table_find(const struct codec_table *table, uint64_t offset);

#endif
