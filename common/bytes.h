/* Bounded reader and writer of fixed-width little- and big-endian integers and byte strings. The
 * reader never looks past its end: after the first failure every read gives 0 and `failed` stays
 * set, so a decoder checks once at its end. Pure. */
#ifndef TARN_COMMON_BYTES_H
#define TARN_COMMON_BYTES_H
#include "base.h"
struct reader {
    const uint8_t *at, *end;
    bool failed;
};
struct reader reader_init(const void *data, size_t n);
size_t reader_left(const struct reader *r);
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
uint64_t reader_be64(struct reader *r);
/* n bytes, borrowed from the input; NULL when fewer are left. */
const uint8_t *reader_bytes(struct reader *r, size_t n);

/* Appends to a growing buffer. After -E_NOMEM once, `failed` stays set. Zero-initialised is empty. */
struct writer {
    uint8_t *data;
    size_t len, cap;
    bool failed;
};
void writer_u8(struct writer *w, uint8_t v);
void writer_u16(struct writer *w, uint16_t v);
void writer_u32(struct writer *w, uint32_t v);
void writer_u64(struct writer *w, uint64_t v);
void writer_be64(struct writer *w, uint64_t v);
void writer_bytes(struct writer *w, const void *data, size_t n);
void writer_zero(struct writer *w, size_t n);
void writer_fini(struct writer *w); /* frees; usable as _cleanup_(writer_fini) */
#endif
