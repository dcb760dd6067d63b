#include "codec.h"

#include <stdlib.h>
#include <zstd.h>

#include "check.h"
#include "err.h"

/* Seekable format 0.1.0: a skippable frame's header, 8 bytes for each frame, a footer. */
#define SKIPPABLE_MAGIC 0x184D2A5Eu
#define SEEKABLE_MAGIC 0x8F92EAB1u
#define HEADER_BYTES 8
#define ENTRY_BYTES 8 /* without checksums: frames carry their own */
_Static_assert(HEADER_BYTES + (size_t)CODEC_FRAMES_MAX * ENTRY_BYTES + CODEC_FOOTER_BYTES < UINT32_MAX, "fits Frame_Size");

struct codec {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
};

struct codec *codec_create(int level)
{
    if (level < CODEC_LEVEL_MIN || level > CODEC_LEVEL_MAX)
        return NULL;
    struct codec *codec = calloc(1, sizeof *codec);
    if (codec == NULL)
        return NULL;
    codec->compressor = ZSTD_createCCtx();
    codec->decompressor = ZSTD_createDCtx();
    if (codec->compressor == NULL || codec->decompressor == NULL ||
        ZSTD_isError(ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_compressionLevel, level)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_checksumFlag, 1))) {
        codec_destroy(codec);
        return NULL;
    }
    return codec;
}

void codec_destroy(struct codec *codec)
{
    if (codec == NULL)
        return;
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->decompressor);
    free(codec);
}

size_t codec_bound(size_t n)
{
    return ZSTD_compressBound(n);
}

int codec_compress(struct codec *codec, const void *from, size_t n, void *to, size_t cap, size_t *ret_len)
{
    if (cap < codec_bound(n))
        return -E_NOSPC;
    size_t len = ZSTD_compress2(codec->compressor, to, cap, from, n);
    if (ZSTD_isError(len)) /* the room is there, the parameters are checked: only memory is left */
        return -E_NOMEM;
    *ret_len = len;
    return 0;
}

int codec_decompress(struct codec *codec, const void *from, size_t len, void *to, size_t n)
{
    /* More than one frame, or bytes behind it, would decompress too. */
    if (ZSTD_findFrameCompressedSize(from, len) != len || ZSTD_getFrameContentSize(from, len) != n)
        return -E_CORRUPT;
    return ZSTD_decompressDCtx(codec->decompressor, to, n, from, len) == n ? 0 : -E_CORRUPT;
}

/* ------------------------------------------------------------------ the table */
void codec_table_fini(struct codec_table *table)
{
    free(table->frames);
    *table = (struct codec_table){0};
}

int codec_table_add(struct codec_table *table, size_t len, size_t content_len)
{
    if (table->n >= CODEC_FRAMES_MAX || len == 0 || content_len == 0 || len > UINT32_MAX || content_len > UINT32_MAX)
        return -E_RANGE;
    if (table->n == table->cap) {
        size_t cap = MAX(table->cap * 2, (size_t)64);
        struct codec_frame *frames = realloc(table->frames, cap * sizeof *frames);
        if (frames == NULL)
            return -E_NOMEM;
        table->frames = frames;
        table->cap = cap;
    }
    table->frames[table->n++] = (struct codec_frame){.offset = table->len,
                                                     .content_offset = table->content_len,
                                                     .len = (uint32_t)len,
                                                     .content_len = (uint32_t)content_len};
    table->len += len;
    table->content_len += content_len;
    return 0;
}

size_t codec_table_bytes(const struct codec_table *table)
{
    return HEADER_BYTES + table->n * ENTRY_BYTES + CODEC_FOOTER_BYTES;
}

void codec_table_encode(const struct codec_table *table, struct writer *w)
{
    size_t before = w->len;
    writer_u32(w, SKIPPABLE_MAGIC);
    writer_u32(w, (uint32_t)(codec_table_bytes(table) - HEADER_BYTES));
    for (size_t i = 0; i < table->n; i++) {
        writer_u32(w, table->frames[i].len);
        writer_u32(w, table->frames[i].content_len);
    }
    writer_u32(w, (uint32_t)table->n);
    writer_u8(w, 0); /* Seek_Table_Descriptor: no checksums */
    writer_u32(w, SEEKABLE_MAGIC);
    CHECK(w->failed || w->len - before == codec_table_bytes(table));
}

int codec_table_measure(const void *footer, size_t *ret_bytes)
{
    struct reader r = reader_init(footer, CODEC_FOOTER_BYTES);
    uint32_t n = reader_u32(&r);
    uint8_t descriptor = reader_u8(&r);
    if (reader_u32(&r) != SEEKABLE_MAGIC || descriptor != 0 || n > CODEC_FRAMES_MAX)
        return -E_CORRUPT;
    *ret_bytes = HEADER_BYTES + (size_t)n * ENTRY_BYTES + CODEC_FOOTER_BYTES;
    return 0;
}

static int decode_frames(struct reader *r, size_t n, struct codec_table *table)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t len = reader_u32(r), content_len = reader_u32(r);
        int err = codec_table_add(table, len, content_len);
        if (err != 0)
            return err == -E_RANGE ? -E_CORRUPT : err;
    }
    return 0;
}

int codec_table_decode(const void *data, size_t n, uint64_t len, struct codec_table *ret)
{
    struct codec_table table = {0};
    size_t bytes;
    *ret = table;
    if (n < HEADER_BYTES + CODEC_FOOTER_BYTES || n > len)
        return -E_CORRUPT;
    int err = codec_table_measure((const uint8_t *)data + n - CODEC_FOOTER_BYTES, &bytes);
    if (err != 0 || bytes != n)
        return -E_CORRUPT;
    struct reader r = reader_init(data, n);
    if (reader_u32(&r) != SKIPPABLE_MAGIC || reader_u32(&r) != n - HEADER_BYTES)
        return -E_CORRUPT;
    err = decode_frames(&r, (n - HEADER_BYTES - CODEC_FOOTER_BYTES) / ENTRY_BYTES, &table);
    if (err == 0 && table.len + n != len)
        err = -E_CORRUPT;
    if (err != 0)
        codec_table_fini(&table);
    *ret = table;
    return err;
}

size_t codec_table_find(const struct codec_table *table, uint64_t offset)
{
    size_t low = 0, high = table->n; /* frames before `low` end at or before it, those from `high` on begin behind it */
    while (low < high) {
        size_t at = low + (high - low) / 2;
        const struct codec_frame *frame = &table->frames[at];
        if (offset >= frame->content_offset + frame->content_len)
            low = at + 1;
        else if (offset < frame->content_offset)
            high = at;
        else
            return at;
    }
    return table->n;
}
