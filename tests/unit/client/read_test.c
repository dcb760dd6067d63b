/* Reads of chunks that are lost, late, damaged, compressed or parts of others, over stores that fail on demand. */
#include "harness.h"
#include "shards.h"

#include "common/codec.h"
#include "common/crc.h"
#include "common/fiber.h"
#include "common/log.h"
#include "common/prng.h"
#include "tests/unit/cmocka.h"

struct test_case {
    const char *name;
    void (*body)(struct shards *s);
};

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    const struct test_case *test_case = arg;
    struct shards *s = malloc(sizeof *s);
    expect(s != NULL);
    shards_start(s, io, host);
    test_case->body(s);
    shards_stop(s);
    free(s);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

/* [offset, offset + n) as it is told to be: the bytes, then zeros. */
static void expect_range(struct shards *s, const Tarn__Extent *extent, const uint8_t *data, uint64_t length, uint64_t offset, size_t n)
{
    uint8_t *got = malloc(n + 1);
    expect(got != NULL);
    memset(got, 0xee, n + 1);
    expect_equal(stores_read(s->stores, extent, offset, got, n), 0);
    for (size_t i = 0; i < n; i++) {
        uint8_t right = offset + i < length ? data[offset + i] : 0;
        if (got[i] != right) {
            fprintf(stderr, "byte %zu of %zu at %llu: %02x, not %02x\n", i, n, (unsigned long long)offset, got[i], right);
            abort();
        }
    }
    expect_equal(got[n], 0xee);
    free(got);
}

static void expect_fails(struct shards *s, const Tarn__Extent *extent, int err)
{
    uint8_t byte;
    expect_equal(stores_read(s->stores, extent, 0, &byte, 1), err);
}

static const struct stores_counters *counters(const struct shards *s)
{
    return stores_counters(s->stores);
}

/* ------------------------------------------------------------------ groups */

static const uint64_t LENGTHS[4] = {700001, 65536, 1500000, 300};

/* Small ones, those across cells and windows, those behind the end. */
static void random_range(struct prng *prng, uint64_t length, uint64_t *ret_offset, size_t *ret_n)
{
    *ret_n = 1 + (size_t)prng_below(prng, prng_below(prng, 2) ? 9000 : 1300000);
    *ret_offset = prng_below(prng, length + 5);
}

static void read_lost_shards(struct shards *s, unsigned lost, struct prng *prng)
{
    static const enum ailment AILMENTS[] = {CLOSED, ROTTEN, EMPTY, SHORT};
    for (unsigned i = 0; i < s->k + s->m; i++)
        shards_ail(s, i, lost >> i & 1 ? AILMENTS[prng_below(prng, ARRAY_SIZE(AILMENTS))] : WELL);
    for (unsigned i = 0; i < s->k; i++) {
        if (s->lengths[i] == 0)
            continue;
        Tarn__Extent *extent = shards_extent(s, i);
        const struct held_chunk *held = shards_held(s, i, extent->chunk);
        for (unsigned round = 0; round < 3; round++) {
            uint64_t offset;
            size_t n;
            random_range(prng, held->length, &offset, &n);
            expect_range(s, extent, held->data, held->length, offset, n);
        }
        tarn__extent__free_unpacked(extent, NULL);
    }
}

static void read_all_patterns(struct shards *s, unsigned k, unsigned m, uint64_t seed)
{
    struct prng prng = prng_init(seed);
    shards_group(s, k, m, LENGTHS, seed);
    unsigned patterns = 0;
    for (unsigned lost = 0; lost < 1u << (k + m); lost++) {
        if ((unsigned)__builtin_popcount(lost) > m)
            continue;
        read_lost_shards(s, lost, &prng);
        patterns++;
    }
    expect(patterns > k + m);
    expect(counters(s)->read_degraded > 0);
}

static void every_loss_of_2_1_is_computed(struct shards *s)
{
    read_all_patterns(s, 2, 1, 21);
}

static void every_loss_of_3_2_is_computed(struct shards *s)
{
    read_all_patterns(s, 3, 2, 32);
}

static void every_loss_of_4_2_is_computed(struct shards *s)
{
    read_all_patterns(s, 4, 2, 42);
}

static void a_group_with_absent_shards_is_computed(struct shards *s)
{
    struct prng prng = prng_init(7);
    shards_group(s, 4, 2, (const uint64_t[]){100000, 0, 200000, 0}, 9);
    for (unsigned lost = 0; lost < 64; lost++)
        if (__builtin_popcount(lost) <= 2)
            read_lost_shards(s, lost, &prng);
}

static void one_loss_too_many_is_unavailable(struct shards *s)
{
    shards_group(s, 3, 2, LENGTHS, 1);
    Tarn__Extent *extent = shards_extent(s, 0);
    shards_ail(s, 0, CLOSED);
    shards_ail(s, 1, EMPTY);
    shards_ail(s, 3, CLOSED);
    expect_fails(s, extent, -E_UNAVAIL);
    shards_ail(s, 0, ROTTEN);
    expect_fails(s, extent, -E_CORRUPT);
    shards_ail(s, 1, WELL);
    expect_range(s, extent, shards_held(s, 0, 100)->data, LENGTHS[0], 5, 100);
    tarn__extent__free_unpacked(extent, NULL);
}

/* One store is gone, and no other shard is whole: cell by cell there are enough. */
static void shards_damaged_in_different_cells_give_all_back(struct shards *s)
{
    shards_group(s, 4, 2, (const uint64_t[]){1 << 20, 1 << 20, 1 << 20, 1 << 20}, 5);
    shards_ail(s, 0, CLOSED);
    for (unsigned i = 1; i < 6; i++) {
        s->holders[i].spot = 2 * i * CELL_BYTES + i;
        shards_ail(s, i, SPOTTED);
    }
    for (unsigned i = 0; i < 4; i++) {
        Tarn__Extent *extent = shards_extent(s, i);
        expect_range(s, extent, shards_held(s, i, extent->chunk)->data, 1 << 20, 0, 1 << 20);
        tarn__extent__free_unpacked(extent, NULL);
    }
    Tarn__Extent *extent = shards_extent(s, 0);
    s->holders[1].spot = s->holders[2].spot = 0; /* three of cell 0 are missing */
    expect_fails(s, extent, -E_UNAVAIL); /* the one that is gone may have it */
    expect_range(s, extent, shards_held(s, 0, 100)->data, 1 << 20, CELL_BYTES, 3 * CELL_BYTES);
    tarn__extent__free_unpacked(extent, NULL);
}

static uint64_t all_bytes_read(const struct shards *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < HOLDERS; i++)
        sum += s->holders[i].bytes_read;
    return sum;
}

static void only_the_range_asked_for_is_read(struct shards *s)
{
    shards_group(s, 4, 2, (const uint64_t[]){1 << 20, 1 << 20, 1 << 20, 1 << 20}, 2);
    Tarn__Extent *extent = shards_extent(s, 2);
    shards_ail(s, 2, EMPTY);
    expect_range(s, extent, shards_held(s, 2, 102)->data, 1 << 20, 123456, 4096);
    expect_equal(all_bytes_read(s), (4 + 1) * 4096); /* four shards, and the store that does not have it */
    expect_equal(counters(s)->read_degraded, 4096);
    expect_equal(counters(s)->read_remote, 4096); /* given to the caller */
    tarn__extent__free_unpacked(extent, NULL);
}

static void what_a_group_is_made_of_is_asked_once(struct shards *s)
{
    shards_group(s, 3, 2, LENGTHS, 3);
    Tarn__Extent *extent = shards_extent(s, 0);
    const struct held_chunk *held = shards_held(s, 0, 100);
    shards_ail(s, 0, CLOSED);
    for (unsigned i = 0; i < 20; i++)
        expect_range(s, extent, held->data, held->length, i * 1000, 1000);
    expect_equal(s->asked, 1);
    shards_ail(s, 1, NEWER); /* not what the group says: asked again by the next */
    expect_range(s, extent, held->data, held->length, 0, 1000);
    expect_range(s, extent, held->data, held->length, 0, 1000);
    expect_equal(s->asked, 2);
    tarn__extent__free_unpacked(extent, NULL);
}

static void a_dissolved_group_means_a_stale_map(struct shards *s)
{
    shards_group(s, 2, 1, LENGTHS, 4);
    Tarn__Extent *extent = shards_extent(s, 0);
    shards_ail(s, 0, EMPTY);
    s->dissolved = true;
    expect_fails(s, extent, -E_STALE);
    s->dissolved = false;
    extent->chunk = 999; /* not one of its shards any more */
    expect_fails(s, extent, -E_STALE);
    tarn__extent__free_unpacked(extent, NULL);
}

/* The group is coded anew without its second chunk while a client knows what it was. The parity has the same numbers and another
 * content; one store was not there and still has the old one. */
static void shards_of_two_generations_are_not_mixed(struct shards *s)
{
    static const uint64_t before[2] = {100000, 90000}, after[2] = {100000, 0};
    shards_group(s, 2, 2, before, 5);
    Tarn__Extent *extent = shards_extent(s, 0);
    shards_ail(s, 0, CLOSED);
    expect_range(s, extent, shards_held(s, 0, 100)->data, 100000, 0, 5000); /* now it is known */
    struct held_chunk old = *shards_held(s, 3, 103);
    uint8_t *kept = malloc(old.length);
    expect(kept != NULL);
    memcpy(kept, old.data, old.length);
    s->generation++;
    shards_group(s, 2, 2, after, 5);
    struct held_chunk *left = shards_held(s, 3, 103);
    memcpy(left->data, kept, left->length);
    left->generation = old.generation;
    shards_ail(s, 1, EMPTY);
    for (unsigned i = 0; i < 5; i++)
        expect_range(s, extent, shards_held(s, 0, 100)->data, 100000, i * 20000, 20000);
    shards_ail(s, 2, CLOSED); /* the old parity is all that is left */
    expect_fails(s, extent, -E_UNAVAIL);
    free(kept);
    tarn__extent__free_unpacked(extent, NULL);
}

static uint64_t elapsed_ms(struct shards *s, const Tarn__Extent *extent, const uint8_t *data, uint64_t length, size_t n)
{
    uint64_t begun = io_mono_ms(s->io);
    expect_range(s, extent, data, length, 0, n);
    return io_mono_ms(s->io) - begun;
}

/* Virtual time: silence is not waited for. */
static void a_silent_shard_is_replaced_by_another(struct shards *s)
{
    shards_group(s, 4, 2, LENGTHS, 6);
    Tarn__Extent *extent = shards_extent(s, 2);
    shards_ail(s, 2, CLOSED);
    shards_ail(s, 0, SILENT);
    for (unsigned i = 0; i < 8; i++)
        expect(elapsed_ms(s, extent, shards_held(s, 2, 102)->data, LENGTHS[2], 1500000) < 4000);
    tarn__extent__free_unpacked(extent, NULL);
}

/* ------------------------------------------------------------------ late answers */

static uint8_t *drawn(size_t n, uint64_t seed)
{
    struct prng prng = prng_init(seed);
    uint8_t *data = malloc(n + 1);
    expect(data != NULL);
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)prng_u64(&prng);
    return data;
}

static void a_late_replica_is_overtaken(struct shards *s)
{
    Tarn__Extent *extent = shards_chunk(s, 7, drawn(200000, 1), 200000, 3);
    const uint8_t *data = shards_held(s, 0, 7)->data;
    for (unsigned silent = 0; silent < 2; silent++) {
        shards_ail(s, silent, SILENT);
        for (unsigned i = 0; i < 6; i++)
            expect(elapsed_ms(s, extent, data, 200000, 200000) < 1000);
        shards_ail(s, silent, WELL);
        expect_equal(io_sleep_ms(s->io, 6000), 0); /* until nobody is suspect */
    }
    expect(counters(s)->read_hedged > 0);
    expect_equal(counters(s)->hedges_won, counters(s)->read_hedged);
    tarn__extent__free_unpacked(extent, NULL);
}

static void a_late_coded_chunk_is_computed(struct shards *s)
{
    shards_group(s, 3, 1, LENGTHS, 8);
    Tarn__Extent *extent = shards_extent(s, 1);
    shards_ail(s, 1, SILENT);
    for (unsigned i = 0; i < 6; i++)
        expect(elapsed_ms(s, extent, shards_held(s, 1, 101)->data, LENGTHS[1], 65536) < 1000);
    expect(counters(s)->hedges_won > 0);
    expect(counters(s)->read_degraded >= 6 * 65536);
    tarn__extent__free_unpacked(extent, NULL);
}

static void the_first_answer_counts_even_after_the_second_was_asked(struct shards *s)
{
    Tarn__Extent *extent = shards_chunk(s, 7, drawn(5000, 1), 5000, 3);
    for (unsigned i = 0; i < 2; i++) {
        s->holders[i].slow_ms = 150;
        shards_ail(s, i, SLOW);
    }
    for (unsigned i = 0; i < 5; i++)
        expect_range(s, extent, shards_held(s, 0, 7)->data, 5000, 0, 5000);
    expect(counters(s)->read_hedged > 0);
    expect_equal(counters(s)->hedges_won, 0);
    tarn__extent__free_unpacked(extent, NULL);
}

static void second_requests_are_few(struct shards *s)
{
    Tarn__Extent *extent = shards_chunk(s, 7, drawn(5000, 1), 5000, 3);
    const uint8_t *data = shards_held(s, 0, 7)->data;
    enum { READS = 2000 };
    for (unsigned i = 0; i < READS; i++) { /* each is slower than all before, whoever answers: all are late */
        for (unsigned h = 0; h < 2; h++) {
            s->holders[h].slow_ms = 6 + i;
            shards_ail(s, h, SLOW);
        }
        expect_range(s, extent, data, 5000, 0, 100);
    }
    uint64_t requests = s->holders[0].reads + s->holders[1].reads;
    expect_equal(requests, READS + counters(s)->read_hedged);
    expect(counters(s)->read_hedged <= 16 + requests / 20);
    expect(counters(s)->read_hedged > 16);
    tarn__extent__free_unpacked(extent, NULL);
}

static void the_own_node_is_waited_for(struct shards *s)
{
    s->config.node = 1;
    Tarn__Extent *extent = shards_chunk(s, 7, drawn(5000, 1), 5000, 3);
    s->holders[0].slow_ms = 700;
    shards_ail(s, 0, SLOW);
    expect(elapsed_ms(s, extent, shards_held(s, 0, 7)->data, 5000, 5000) >= 700);
    expect_equal(counters(s)->read_hedged, 0);
    expect_equal(s->holders[1].reads, 0);
    tarn__extent__free_unpacked(extent, NULL);
}

/* ------------------------------------------------------------------ pieces */

struct piece {
    uint8_t *content;
    size_t content_len, frame;
    uint8_t *stored;
    size_t stored_len;
};

/* Text-like, so that frames have different lengths. */
static struct piece piece_make(size_t content_len, size_t frame, uint64_t seed)
{
    struct piece piece = {.content = drawn(content_len, seed), .content_len = content_len, .frame = frame};
    for (size_t i = 0; i < content_len; i++)
        if (piece.content[i] % 3)
            piece.content[i] = (uint8_t)('a' + i / 100 % 7);
    struct codec *codec = codec_create(3);
    struct codec_table table = {0};
    expect(codec != NULL);
    piece.stored = malloc(codec_bound(frame) * (content_len / frame + 1) + 1000000);
    expect(piece.stored != NULL);
    for (size_t at = 0; at < content_len; at += frame) {
        size_t n = MIN(frame, content_len - at), len;
        expect_equal(codec_compress(codec, piece.content + at, n, piece.stored + piece.stored_len, codec_bound(frame), &len), 0);
        expect_equal(codec_table_add(&table, len, n), 0);
        piece.stored_len += len;
    }
    struct writer w = {0};
    codec_table_encode(&table, &w);
    expect(!w.failed);
    memcpy(piece.stored + piece.stored_len, w.data, w.len);
    piece.stored_len += w.len;
    writer_fini(&w);
    codec_table_fini(&table);
    codec_destroy(codec);
    return piece;
}

static void piece_free(struct piece *piece)
{
    free(piece->content);
    free(piece->stored);
}

/* The bytes of a container with the piece between others' bytes. */
static uint8_t *contain(const struct piece *piece, size_t before, size_t behind)
{
    uint8_t *data = drawn(before + piece->stored_len + behind, 99);
    memcpy(data + before, piece->stored, piece->stored_len);
    return data;
}

static void extent_of_piece(Tarn__Extent *extent, const struct piece *piece, size_t before)
{
    extent->stored = piece->stored_len;
    extent->piece_offset = before;
    extent->form = TARN__CHUNK_FORM__FORM_ZSTD;
    extent->content = piece->content_len;
    extent->chunk_offset = 0;
    extent->length = piece->content_len + 1000; /* the file goes on with zeros */
}

static Tarn__Extent *contained(struct shards *s, const struct piece *piece, size_t before, size_t behind, unsigned mask)
{
    Tarn__Extent *extent = shards_chunk(s, 8, contain(piece, before, behind), before + piece->stored_len + behind, mask);
    extent_of_piece(extent, piece, before);
    return extent;
}

static void a_compressed_piece_is_read_in_any_range(struct shards *s)
{
    struct prng prng = prng_init(1);
    static const struct {
        size_t content, frame;
    } SHAPES[] = {{1, 1000}, {5000, 100000}, {3000000, 1 << 20}, {200000, 1000}, {300001, 3}};
    for (unsigned i = 0; i < ARRAY_SIZE(SHAPES); i++) {
        struct piece piece = piece_make(MIN(SHAPES[i].content, SHAPES[i].frame * 60000), SHAPES[i].frame, i);
        Tarn__Extent *extent = shards_chunk(s, 200 + i, contain(&piece, 12345, 777), 12345 + piece.stored_len + 777, 1);
        extent_of_piece(extent, &piece, 12345);
        for (unsigned round = 0; round < 20; round++) {
            uint64_t offset;
            size_t n;
            random_range(&prng, piece.content_len, &offset, &n);
            expect_range(s, extent, piece.content, piece.content_len, offset, n);
        }
        tarn__extent__free_unpacked(extent, NULL);
        piece_free(&piece);
    }
}

static void small_reads_in_order_read_each_frame_once(struct shards *s)
{
    struct piece piece = piece_make(4 << 20, 1 << 20, 3);
    Tarn__Extent *extent = contained(s, &piece, 5, 5, 1);
    for (size_t at = 0; at < piece.content_len; at += 4096)
        expect_range(s, extent, piece.content, piece.content_len, at, 4096);
    expect(all_bytes_read(s) <= piece.stored_len + 2048);
    expect_equal(counters(s)->read_compressed, piece.content_len);
    expect_equal(counters(s)->read_remote, piece.content_len);
    tarn__extent__free_unpacked(extent, NULL);
    piece_free(&piece);
}

struct part_reader {
    struct shards *s;
    const Tarn__Extent *extent;
    const struct piece *piece;
    struct fiber_group *group;
};

static void read_a_part(void *arg)
{
    struct part_reader *reader = arg;
    expect_range(reader->s, reader->extent, reader->piece->content, reader->piece->content_len, 100, 1000);
    fiber_group_done(reader->group);
}

static void readers_of_one_frame_share_it(struct shards *s)
{
    struct piece piece = piece_make(1 << 20, 1 << 20, 3);
    Tarn__Extent *extent = contained(s, &piece, 5, 5, 1);
    struct fiber_group group = {0};
    struct part_reader reader = {s, extent, &piece, &group};
    for (unsigned i = 0; i < 20; i++) {
        fiber_group_add(&group);
        expect_equal(fiber_spawn(s->io, "reader", read_a_part, &reader), 0);
    }
    fiber_group_wait(&group);
    expect(s->holders[0].reads <= 1 + piece.stored_len / (1 << 20) + 2); /* the table, and the frame */
    tarn__extent__free_unpacked(extent, NULL);
    piece_free(&piece);
}

/* Checksums of cells are right, what they protect is not. */
static void a_damaged_frame_is_read_from_another_copy(struct shards *s)
{
    for (unsigned table = 0; table < 2; table++) {
        struct piece piece = piece_make(300000, 100000, 4);
        uint64_t id = 300 + table;
        Tarn__Extent *extent = shards_chunk(s, id, contain(&piece, 64, 64), 128 + piece.stored_len, 3);
        extent_of_piece(extent, &piece, 64);
        size_t at = 64 + (table ? piece.stored_len - 3 : piece.stored_len / 2);
        shards_held(s, 0, id)->data[at] ^= 1;
        for (unsigned i = 0; i < 4; i++)
            expect_range(s, extent, piece.content, piece.content_len, 0, 300000);
        tarn__extent__free_unpacked(extent, NULL);
        piece_free(&piece);
    }
}

static void a_piece_that_is_damaged_everywhere_is_an_error(struct shards *s)
{
    struct prng prng = prng_init(17);
    for (unsigned round = 0; round < 60; round++) {
        struct piece piece = piece_make(150000, 100000, 4);
        piece.stored[prng_below(&prng, piece.stored_len)] ^= (uint8_t)(1 + prng_below(&prng, 255));
        Tarn__Extent *extent = contained(s, &piece, 10, 10, 3);
        extent->chunk = 400 + round; /* each is new to the caches */
        for (unsigned h = 0; h < 2; h++)
            shards_held(s, h, 8)->id = extent->chunk;
        uint8_t *got = malloc(piece.content_len);
        expect(got != NULL);
        int r = stores_read(s->stores, extent, 0, got, piece.content_len);
        expect(r == -E_CORRUPT || (r == 0 && memcmp(got, piece.content, piece.content_len) == 0));
        for (unsigned h = 0; h < 2; h++)
            shards_held(s, h, extent->chunk)->id = 8;
        free(got);
        tarn__extent__free_unpacked(extent, NULL);
        piece_free(&piece);
    }
}

static void a_piece_of_a_lost_container_is_computed(struct shards *s)
{
    struct piece piece = piece_make(400000, 50000, 5);
    uint64_t lengths[3] = {60 + piece.stored_len + 60, 100000, 50};
    shards_group(s, 3, 2, lengths, 6);
    struct held_chunk *held = shards_held(s, 0, 100);
    memcpy(held->data + 60, piece.stored, piece.stored_len);
    struct ec_codec codec; /* the parity of what is in it now */
    uint8_t *shards[5];
    expect_equal(ec_codec_init(3, 2, &codec), 0);
    uint64_t longest = s->lengths[3];
    for (unsigned i = 0; i < 5; i++) {
        shards[i] = calloc(1, longest);
        expect(shards[i] != NULL);
        memcpy(shards[i], shards_held(s, i, 100 + i)->data, MIN(longest, s->lengths[i]));
    }
    ec_encode(&codec, longest, (const uint8_t *const *)shards, shards + 3);
    for (unsigned i = 0; i < 5; i++) {
        memcpy(shards_held(s, i, 100 + i)->data, shards[i], s->lengths[i]);
        free(shards[i]);
    }
    shards_ail(s, 0, EMPTY);
    shards_ail(s, 3, ROTTEN);
    Tarn__Extent *extent = shards_extent(s, 0);
    extent_of_piece(extent, &piece, 60);
    expect_range(s, extent, piece.content, piece.content_len, 0, 400000);
    expect_range(s, extent, piece.content, piece.content_len, 49990, 20);
    expect_equal(counters(s)->read_compressed, 400020);
    expect_equal(counters(s)->read_degraded, 400020);
    tarn__extent__free_unpacked(extent, NULL);
    piece_free(&piece);
}

static void a_raw_piece_ends_before_its_neighbours(struct shards *s)
{
    struct prng prng = prng_init(2);
    Tarn__Extent *extent = shards_chunk(s, 7, drawn(300000, 1), 300000, 1);
    uint8_t *data = shards_held(s, 0, 7)->data;
    extent->piece_offset = extent->chunk_offset = 1000;
    extent->stored = extent->content = 70000;
    for (unsigned round = 0; round < 30; round++) {
        uint64_t offset;
        size_t n;
        random_range(&prng, 70000, &offset, &n);
        uint8_t *own = calloc(1, 71000);
        expect(own != NULL);
        memcpy(own + 1000, data + 1000, 70000); /* in the chunk's offsets */
        expect_range(s, extent, own, 71000, 1000 + offset, n);
        free(own);
    }
    int fd;
    extent->form = TARN__CHUNK_FORM__FORM_ZSTD;
    expect_equal(stores_fd(s->stores, extent, &fd), -E_NOTSUP);
    tarn__extent__free_unpacked(extent, NULL);
}

/* ------------------------------------------------------------------ clones of what the members do not have */

static int clone(struct shards *s, const Tarn__Extent *source, uint64_t length)
{
    Tarn__Extent *extent = shards_open(s, 900, 0xc0);
    extent->clone_of = 5;
    extent->clone_length = length;
    int r = stores_clone(s->stores, meta_session(s->meta), extent, source);
    tarn__extent__free_unpacked(extent, NULL);
    return r;
}

static void expect_cloned(struct shards *s, const uint8_t *content, uint64_t length)
{
    for (unsigned holder = 6; holder < 8; holder++) {
        const struct held_chunk *held = shards_held(s, holder, 900);
        expect(held != NULL && held->synced);
        expect_equal(held->length, length);
        expect(memcmp(held->data, content, length) == 0);
    }
}

/* Writes belong to a session: any change opens it. */
static void session_begin(struct shards *s)
{
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    expect_equal(meta_call(s->meta, OP_SETATTR, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
}

static void a_coded_chunk_is_cloned_by_its_writer(struct shards *s)
{
    session_begin(s);
    shards_group(s, 4, 2, LENGTHS, 3);
    Tarn__Extent *source = shards_extent(s, 2);
    expect_equal(clone(s, source, LENGTHS[2]), 0);
    expect_cloned(s, shards_held(s, 2, 102)->data, LENGTHS[2]);
    shards_ail(s, 2, CLOSED);
    shards_ail(s, 0, ROTTEN);
    expect_equal(clone(s, source, LENGTHS[2]), 0);
    expect_cloned(s, shards_held(s, 2, 102)->data, LENGTHS[2]);
    shards_ail(s, 1, CLOSED);
    expect_equal(clone(s, source, LENGTHS[2]), -E_UNAVAIL);
    s->dissolved = true;
    expect_equal(clone(s, source, LENGTHS[2]), -E_STALE);
    tarn__extent__free_unpacked(source, NULL);
}

static void a_compressed_piece_is_cloned_by_its_writer(struct shards *s)
{
    session_begin(s);
    struct piece piece = piece_make(2500000, 1 << 20, 3);
    Tarn__Extent *source = contained(s, &piece, 333, 5, 3);
    expect_equal(clone(s, source, piece.content_len), 0);
    expect_cloned(s, piece.content, piece.content_len);
    expect_equal(clone(s, source, 0), 0);
    tarn__extent__free_unpacked(source, NULL);
    piece_free(&piece);
}

/* ------------------------------------------------------------------ */

#define CASE(fn) {#fn, fn}
/* Zeros for who has just been told that the chunk is open; who was told some time ago asks again: it may have been sealed, and its
 * bytes packed into another chunk, since. */
static void nobody_has_an_open_chunk(struct shards *s)
{
    Tarn__Extent *extent = shards_open(s, 700, 7);
    uint8_t got[10];
    for (unsigned i = 0; i < 3; i++)
        shards_ail(s, i, EMPTY);
    expect_equal(stores_read_known(s->stores, extent, 0, got, sizeof got), -E_STALE);
    memset(got, 0xee, sizeof got);
    expect_equal(stores_read(s->stores, extent, 0, got, sizeof got), 0);
    for (size_t i = 0; i < sizeof got; i++)
        expect_equal(got[i], 0);
    tarn__extent__free_unpacked(extent, NULL);
}

static const struct test_case cases[] = {
    CASE(every_loss_of_2_1_is_computed),
    CASE(every_loss_of_3_2_is_computed),
    CASE(every_loss_of_4_2_is_computed),
    CASE(a_group_with_absent_shards_is_computed),
    CASE(one_loss_too_many_is_unavailable),
    CASE(shards_damaged_in_different_cells_give_all_back),
    CASE(only_the_range_asked_for_is_read),
    CASE(what_a_group_is_made_of_is_asked_once),
    CASE(a_dissolved_group_means_a_stale_map),
    CASE(shards_of_two_generations_are_not_mixed),
    CASE(nobody_has_an_open_chunk),
    CASE(a_silent_shard_is_replaced_by_another),
    CASE(a_late_replica_is_overtaken),
    CASE(a_late_coded_chunk_is_computed),
    CASE(the_first_answer_counts_even_after_the_second_was_asked),
    CASE(second_requests_are_few),
    CASE(the_own_node_is_waited_for),
    CASE(a_compressed_piece_is_read_in_any_range),
    CASE(small_reads_in_order_read_each_frame_once),
    CASE(readers_of_one_frame_share_it),
    CASE(a_damaged_frame_is_read_from_another_copy),
    CASE(a_piece_that_is_damaged_everywhere_is_an_error),
    CASE(a_piece_of_a_lost_container_is_computed),
    CASE(a_raw_piece_ends_before_its_neighbours),
    CASE(a_coded_chunk_is_cloned_by_its_writer),
    CASE(a_compressed_piece_is_cloned_by_its_writer),
};

int main(int argc, char **argv)
{
    log_init("read_test");
    if (!getenv("TARN_LOG"))
        log_set_level(LOG_OFF);
    struct CMUnitTest tests[ARRAY_SIZE(cases)];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("client reads", tests, ARRAY_SIZE(cases), NULL, NULL);
}
