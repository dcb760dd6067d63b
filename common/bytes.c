#include "common/bytes.h"

#include <endian.h>

struct reader reader_init(const void *data, size_t n)
{
    return (struct reader){.at = data, .end = n == 0 ? data : (const uint8_t *)data + n};
}

size_t reader_left(const struct reader *r)
{
    return r->failed ? 0 : (size_t)(r->end - r->at);
}

const uint8_t *reader_bytes(struct reader *r, size_t n)
{
    if (reader_left(r) < n || r->failed) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    if (n > 0)
        r->at += n;
    return at;
}

uint8_t reader_u8(struct reader *r)
{
    const uint8_t *at = reader_bytes(r, 1);
    return at == NULL ? 0 : *at;
}

uint16_t reader_u16(struct reader *r)
{
    uint16_t v = 0;
    const uint8_t *at = reader_bytes(r, sizeof v);
    if (at != NULL)
        memcpy(&v, at, sizeof v);
    return le16toh(v);
}

uint32_t reader_u32(struct reader *r)
{
    uint32_t v = 0;
    const uint8_t *at = reader_bytes(r, sizeof v);
    if (at != NULL)
        memcpy(&v, at, sizeof v);
    return le32toh(v);
}

static uint64_t read_raw64(struct reader *r)
{
    uint64_t v = 0;
    const uint8_t *at = reader_bytes(r, sizeof v);
    if (at != NULL)
        memcpy(&v, at, sizeof v);
    return v;
}

uint64_t reader_u64(struct reader *r)
{
    return le64toh(read_raw64(r));
}

uint64_t reader_be64(struct reader *r)
{
    return be64toh(read_raw64(r));
}

/* Room for n more bytes at the end, or NULL and failed. */
static uint8_t *extend(struct writer *w, size_t n)
{
    size_t need;
    if (w->failed || add_overflows(w->len, n, &need)) {
        w->failed = true;
        return NULL;
    }
    if (need > w->cap) {
        size_t doubled = MAX(w->cap * 2, (size_t)64);
        size_t cap = MAX(need, doubled);
        uint8_t *data = realloc(w->data, cap);
        if (data == NULL) {
            w->failed = true;
            return NULL;
        }
        w->data = data;
        w->cap = cap;
    }
    uint8_t *at = w->data + w->len;
    w->len = need;
    return at;
}

void writer_bytes(struct writer *w, const void *data, size_t n)
{
    if (n == 0)
        return;
    uint8_t *at = extend(w, n);
    if (at != NULL)
        memcpy(at, data, n);
}

void writer_zero(struct writer *w, size_t n)
{
    if (n == 0)
        return;
    uint8_t *at = extend(w, n);
    if (at != NULL)
        memset(at, 0, n);
}

void writer_u8(struct writer *w, uint8_t v)
{
    writer_bytes(w, &v, sizeof v);
}

void writer_u16(struct writer *w, uint16_t v)
{
    v = htole16(v);
    writer_bytes(w, &v, sizeof v);
}

void writer_u32(struct writer *w, uint32_t v)
{
    v = htole32(v);
    writer_bytes(w, &v, sizeof v);
}

void writer_u64(struct writer *w, uint64_t v)
{
    v = htole64(v);
    writer_bytes(w, &v, sizeof v);
}

void writer_be64(struct writer *w, uint64_t v)
{
    v = htobe64(v);
    writer_bytes(w, &v, sizeof v);
}

void writer_fini(struct writer *w)
{
    free(w->data);
    *w = (struct writer){0};
}
