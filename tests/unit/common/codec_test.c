/* common/codec.h: frames, the seek table, and what a liar may put there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <zstd.h>

#include "common/codec.h"
#include "common/err.h"
#include "common/prng.h"

#define CONTENT 100000
#define FRAME 4096

static uint8_t content[CONTENT];

static int setup(void **state)
{
    struct prng prng = prng_init(7);
    for (size_t i = 0; i < CONTENT; i++) /* words of two letters: compresses, but not to nothing */
        content[i] = prng_below(&prng, 4) == 0 ? (uint8_t)prng_u64(&prng) : 'a';
    return 0;
}

/* The content in frames of FRAME bytes, the table behind them. */
static void compress_all(struct writer *ret, struct codec_table *ret_table)
{
    struct codec *codec = codec_create(3);
    assert_non_null(codec);
    uint8_t frame[FRAME * 2];
    assert_true(codec_bound(FRAME) <= sizeof frame);
    for (size_t at = 0; at < CONTENT; at += FRAME) {
        size_t n = MIN((size_t)FRAME, CONTENT - at), len;
        assert_int_equal(codec_compress(codec, content + at, n, frame, sizeof frame, &len), 0);
        assert_int_equal(codec_table_add(ret_table, len, n), 0);
        writer_bytes(ret, frame, len);
    }
    codec_table_encode(ret_table, ret);
    assert_false(ret->failed);
    codec_destroy(codec);
}

static void any_range_is_read_from_its_frames(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    _cleanup_(codec_table_fini) struct codec_table made = {0}, table = {0};
    compress_all(&w, &made);
    size_t table_bytes;
    assert_int_equal(codec_table_measure(w.data + w.len - CODEC_FOOTER_BYTES, &table_bytes), 0);
    assert_int_equal(codec_table_decode(w.data + w.len - table_bytes, table_bytes, w.len, &table), 0);
    assert_int_equal(table.content_len, CONTENT);
    struct codec *codec = codec_create(1);
    uint8_t out[FRAME];
    struct prng prng = prng_init(8);
    for (unsigned i = 0; i < 500; i++) {
        uint64_t offset = prng_below(&prng, CONTENT);
        size_t at = codec_table_find(&table, offset);
        assert_in_range(at, 0, table.n - 1);
        const struct codec_frame *frame = &table.frames[at];
        assert_in_range(offset, frame->content_offset, frame->content_offset + frame->content_len - 1);
        assert_int_equal(codec_decompress(codec, w.data + frame->offset, frame->len, out, frame->content_len), 0);
        assert_memory_equal(out, content + frame->content_offset, frame->content_len);
    }
    assert_int_equal(codec_table_find(&table, CONTENT), table.n);
    codec_destroy(codec);
}

static void the_whole_is_one_zstd_stream_for_others(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    _cleanup_(codec_table_fini) struct codec_table table = {0};
    compress_all(&w, &table);
    uint8_t *out = malloc(CONTENT);
    assert_int_equal(ZSTD_decompress(out, CONTENT, w.data, w.len), CONTENT);
    assert_memory_equal(out, content, CONTENT);
    free(out);
}

static void every_prefix_of_a_table_is_refused(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    _cleanup_(codec_table_fini) struct codec_table table = {0}, decoded;
    for (unsigned i = 1; i <= 20; i++)
        assert_int_equal(codec_table_add(&table, 100 * i, 200 * i), 0);
    codec_table_encode(&table, &w);
    for (size_t n = 0; n < w.len; n++) {
        assert_int_equal(codec_table_decode(w.data, n, table.len + n, &decoded), -E_CORRUPT);
        assert_int_equal(codec_table_decode(w.data + w.len - n, n, table.len + n, &decoded), -E_CORRUPT);
        assert_null(decoded.frames);
    }
    assert_int_equal(codec_table_decode(w.data, w.len, table.len + w.len, &decoded), 0);
    codec_table_fini(&decoded);
}

static void sizes_that_do_not_add_up_are_refused(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    _cleanup_(codec_table_fini) struct codec_table table = {0}, decoded;
    assert_int_equal(codec_table_add(&table, 100, 200), 0);
    codec_table_encode(&table, &w);
    assert_int_equal(codec_table_decode(w.data, w.len, table.len + w.len + 1, &decoded), -E_CORRUPT);
    assert_int_equal(codec_table_decode(w.data, w.len, table.len + w.len - 1, &decoded), -E_CORRUPT);
    assert_int_equal(codec_table_decode(w.data, w.len, 5, &decoded), -E_CORRUPT);
}

/* A changed byte gives an error or the same content, never other bytes. */
static void no_changed_byte_gives_wrong_content(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    _cleanup_(codec_table_fini) struct codec_table table = {0};
    compress_all(&w, &table);
    struct codec *codec = codec_create(1);
    struct prng prng = prng_init(9);
    uint8_t out[FRAME];
    unsigned refused = 0;
    for (unsigned i = 0; i < 3000; i++) {
        const struct codec_frame *frame = &table.frames[prng_below(&prng, table.n)];
        uint8_t *at = w.data + frame->offset + prng_below(&prng, frame->len), was = *at;
        *at ^= (uint8_t)(1u << prng_below(&prng, 8));
        int err = codec_decompress(codec, w.data + frame->offset, frame->len, out, frame->content_len);
        assert_true(err == 0 || err == -E_CORRUPT);
        if (err == 0)
            assert_memory_equal(out, content + frame->content_offset, frame->content_len);
        refused += err != 0;
        *at = was;
    }
    assert_in_range(refused, 2900, 3000);
    codec_destroy(codec);
}

static void a_frame_of_another_length_or_with_bytes_behind_it_is_refused(void **state)
{
    struct codec *codec = codec_create(1);
    uint8_t frame[FRAME], out[200];
    size_t len;
    assert_int_equal(codec_compress(codec, content, 100, frame, sizeof frame, &len), 0);
    frame[len] = 0;
    assert_int_equal(codec_decompress(codec, frame, len, out, 100), 0);
    assert_int_equal(codec_decompress(codec, frame, len, out, 101), -E_CORRUPT);
    assert_int_equal(codec_decompress(codec, frame, len, out, 99), -E_CORRUPT);
    assert_int_equal(codec_decompress(codec, frame, len + 1, out, 100), -E_CORRUPT);
    assert_int_equal(codec_decompress(codec, frame, len - 1, out, 100), -E_CORRUPT);
    codec_destroy(codec);
}

static void bounds_are_refused(void **state)
{
    _cleanup_(codec_table_fini) struct codec_table table = {0};
    assert_null(codec_create(0));
    assert_null(codec_create(20));
    assert_int_equal(codec_table_add(&table, 0, 1), -E_RANGE);
    assert_int_equal(codec_table_add(&table, 1, (size_t)UINT32_MAX + 1), -E_RANGE);
    for (unsigned i = 0; i < CODEC_FRAMES_MAX; i++)
        assert_int_equal(codec_table_add(&table, 1, 1), 0);
    assert_int_equal(codec_table_add(&table, 1, 1), -E_RANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_range_is_read_from_its_frames),
        cmocka_unit_test(the_whole_is_one_zstd_stream_for_others),
        cmocka_unit_test(every_prefix_of_a_table_is_refused),
        cmocka_unit_test(sizes_that_do_not_add_up_are_refused),
        cmocka_unit_test(no_changed_byte_gives_wrong_content),
        cmocka_unit_test(a_frame_of_another_length_or_with_bytes_behind_it_is_refused),
        cmocka_unit_test(bounds_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
