/* A store that makes containers, in simulation: pieces from here and from another store, compressed, copied as they
 * are, decompressed; sources that are damaged; loss of power and errors at every operation of the disk. */
#include "tests/unit/cmocka.h"

#include "common/codec.h"
#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "common/prng.h"
#include "objstore/get.h"
#include "objstore/pack.h"
#include "objstore/put.h"
#include "objstore/store.h"

#include <stdio.h>

#define STORES 2
#define PIECES 60
#define LEVEL_RAW 255
#define LUCK 3 /* what a loss of power leaves is chance */

struct node {
    struct sim_host *host;
    struct store *store;
    struct fiber_queue leave;
    char address[64];
    bool open;
};
struct source {
    uint64_t id, length;
    uint8_t *data;
};
struct world {
    struct sim *sim;
    struct prng prng;
    struct node nodes[STORES];
    struct source sources[PIECES];
    unsigned n;
    Tarn__ChunkTask task;
    Tarn__Piece pieces[PIECES], *pointers[PIECES];
    Tarn__Replica replicas[STORES], *from[STORES];
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

/* ------------------------------------------------------------------ stores */
static void node_run(void *arg)
{
    struct node *node = arg;
    char listen[64];
    const char *why;
    snprintf(listen, sizeof listen, "tcp:%s:7000", sim_host_name(node->host));
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = listen, .journal_bytes = MIB(5),
                                    .reserve_bytes = MIB(1)};
    node->leave = (struct fiber_queue){0};
    if (store_open(sim_host_io(node->host), &options, &node->store, &why) != 0)
        return; /* the disk fails: it is tried again */
    assert_int_equal(store_serve(node->store), 0);
    snprintf(node->address, sizeof node->address, "%s", store_address(node->store));
    node->open = true;
    (void)fiber_queue_wait(&node->leave, 0);
    store_stop(node->store);
    node->open = false;
}

static bool is_open(void *arg)
{
    return ((struct node *)arg)->open;
}

static void node_start(struct world *w, struct node *node, bool again)
{
    struct io *io = again ? sim_host_restart(node->host) : sim_host_io(node->host);
    assert_int_equal(fiber_spawn(io, "store", node_run, node), 0);
    assert_int_equal(sim_run(w->sim, 60000, is_open, node), SIM_DONE);
}

static void node_restart(struct world *w, struct node *node, bool power_loss)
{
    if (sim_host_up(node->host))
        sim_host_crash(node->host, power_loss);
    sim_run(w->sim, 1000, NULL, NULL);
    assert_false(node->open);
    node_start(w, node, true);
}

static void begin(struct world *w, uint64_t seed)
{
    static const char *const names[STORES] = {"s1", "s2"};
    *w = (struct world){.sim = sim_create(seed, NULL), .prng = prng_init(seed)};
    for (unsigned i = 0; i < STORES; i++) {
        w->nodes[i].host = sim_host_create(w->sim, names[i]);
        node_start(w, &w->nodes[i], false);
        tarn__replica__init(&w->replicas[i]);
        w->replicas[i].address = w->nodes[i].address;
        w->from[i] = &w->replicas[i];
    }
    tarn__chunk_task__init(&w->task);
    w->task.generation = 1;
    w->task.pieces = w->pointers;
}

static void end(struct world *w)
{
    for (unsigned i = 0; i < w->n; i++)
        free(w->sources[i].data);
    sim_destroy(w->sim);
}

/* ------------------------------------------------------------------ on a store */
struct act {
    struct world *w;
    struct node *node;
    void (*fn)(struct act *act);
    const struct source *source;
    struct pack_result result;
    uint64_t id, offset, length;
    uint8_t *to;
    int err;
    bool done;
};

static void act_run(void *arg)
{
    struct act *act = arg;
    act->fn(act);
    act->done = true;
}

static bool act_done(void *arg)
{
    return ((struct act *)arg)->done;
}

static int act_on(struct act *act)
{
    act->done = false;
    assert_int_equal(fiber_spawn(sim_host_io(act->node->host), "act", act_run, act), 0);
    assert_int_equal(sim_run(act->w->sim, 600000, act_done, act), SIM_DONE);
    return act->err;
}

static void do_make(struct act *act)
{
    struct volume *v = act->node->store->volumes[0];
    const struct source *s = act->source;
    struct held held;
    act->err = store_hold_all(v, s->id, true, true, &held);
    for (uint64_t at = 0; at < s->length && act->err == 0; at += MIB(1)) {
        uint32_t crcs[PUT_PIECES_MAX];
        struct put put = {.generation = 1, .offset = at, .length = MIN(MIB(1), s->length - at), .data = s->data + at, .crcs = crcs};
        for (size_t i = 0; i < put.length; i += CELL_BYTES)
            crcs[put.n_crcs++] = crc32c(0, put.data + i, MIN(CELL_BYTES, put.length - i));
        act->err = put_bytes(v, held.chunk, &put);
    }
    if (act->err == 0)
        act->err = put_seal(v, held.chunk, 2, s->length);
    store_release(&held);
}

/* Text or noise, sealed on a store. */
static struct source *make(struct world *w, unsigned node, uint64_t length, bool text)
{
    struct source *s = &w->sources[w->n];
    *s = (struct source){.id = 100 + w->n++, .length = length};
    assert_int_equal(posix_memalign((void **)&s->data, 4096, round_up_u64(length, 4096)), 0);
    for (uint64_t i = 0; i < length; i++)
        s->data[i] = text ? (uint8_t)("the water of a tarn is cold and clear "[(i + s->id) % 38] + (i % 1009 == 0)) : (uint8_t)prng_below(&w->prng, 256);
    struct act act = {.w = w, .node = &w->nodes[node], .fn = do_make, .source = s};
    assert_int_equal(act_on(&act), 0);
    return s;
}

static void do_pack(struct act *act)
{
    struct background background = {.store = act->node->store, .volume = act->node->store->volumes[0]};
    act->err = pack_make(&background, &act->w->task, &act->result);
}

static int pack(struct world *w, uint64_t container, struct pack_result *ret)
{
    w->task.chunk = container;
    struct act act = {.w = w, .node = &w->nodes[0], .fn = do_pack};
    int err = act_on(&act);
    *ret = act.result;
    return err;
}

static void do_read(struct act *act)
{
    struct volume *v = act->node->store->volumes[0];
    struct held held;
    act->err = store_hold_all(v, act->id, false, false, &held);
    if (act->err != 0)
        return;
    if ((held.chunk->flags & (CHUNK_SEALED | CHUNK_PARTIAL)) != CHUNK_SEALED)
        act->err = -E_NOENT;
    for (uint64_t at = 0; at < act->length && act->err == 0; at += MIB(1)) {
        struct get get;
        act->err = get_read(v, held.chunk, act->offset + at, MIN(MIB(1), act->length - at), &get);
        if (act->err == 0) {
            assert_int_equal(get.length, MIN(MIB(1), act->length - at));
            memcpy(act->to + at, get.buffer + get.skip, get.length);
            get_fini(v, &get);
        }
    }
    store_release(&held);
}

static int read_chunk(struct world *w, uint64_t id, uint64_t offset, uint64_t length, uint8_t *to)
{
    struct act act = {.w = w, .node = &w->nodes[0], .fn = do_read, .id = id, .offset = offset, .length = length, .to = to};
    return act_on(&act);
}

/* ------------------------------------------------------------------ what came out */
static void decompress(const uint8_t *from, uint64_t stored, uint8_t *to, uint64_t content)
{
    struct codec_table table;
    struct codec *codec = codec_create(1);
    size_t bytes;
    assert_int_equal(codec_table_measure(from + stored - CODEC_FOOTER_BYTES, &bytes), 0);
    assert_int_equal(codec_table_decode(from + stored - bytes, bytes, stored, &table), 0);
    assert_int_equal(table.content_len, content);
    for (size_t i = 0; i < table.n; i++)
        assert_int_equal(codec_decompress(codec, from + table.frames[i].offset, table.frames[i].len,
                                          to + table.frames[i].content_offset, table.frames[i].content_len), 0);
    codec_table_fini(&table);
    codec_destroy(codec);
}

static void assert_piece(struct world *w, uint64_t container, const Tarn__Piece *piece, const struct source *source)
{
    uint8_t *stored = malloc(piece->stored), *content = malloc(source->length);
    assert_int_equal(read_chunk(w, container, piece->offset, piece->stored, stored), 0);
    if (piece->form == TARN__CHUNK_FORM__FORM_ZSTD)
        decompress(stored, piece->stored, content, source->length);
    else
        memcpy(content, stored, MIN(piece->stored, source->length));
    assert_memory_equal(content, source->data, source->length);
    free(stored);
    free(content);
}

static Tarn__Piece *ask(struct world *w, const struct source *source, unsigned n_from, uint32_t level)
{
    Tarn__Piece *piece = &w->pieces[w->task.n_pieces];
    tarn__piece__init(piece);
    piece->piece = piece->chunk = source->id;
    piece->generation = 2;
    piece->stored = piece->content = source->length;
    piece->level = level;
    piece->from = w->from;
    piece->n_from = n_from;
    w->pointers[w->task.n_pieces++] = piece;
    w->task.length += source->length;
    return piece;
}

/* Another container of what is in this one. */
static void ask_again(struct world *w, uint64_t container, const struct pack_result *result, const struct source *sources, uint32_t level)
{
    w->task.n_pieces = 0;
    w->task.length = 0;
    for (size_t i = 0; i < result->n; i++) {
        Tarn__Piece *piece = ask(w, &sources[i], 0, level);
        piece->chunk = container;
        piece->generation = 1;
        piece->offset = result->pieces[i].offset;
        piece->stored = result->pieces[i].stored;
        piece->form = result->pieces[i].form;
    }
}

static void pieces_come_from_here_and_elsewhere_in_every_form(void **state)
{
    struct world w;
    struct pack_result first, second, third;
    begin(&w, 3);
    for (unsigned i = 0; i < 40; i++) {
        const struct source *s = make(&w, i % 3 == 0, 1 + prng_below(&w.prng, i % 5 == 0 ? 400000 : 60000), i % 2 == 0);
        (void)ask(&w, s, STORES, i % 4 < 2 ? 3 : 0);
    }
    (void)ask(&w, make(&w, 0, MIB(5) + 17, true), STORES, 3);
    (void)ask(&w, make(&w, 1, MIB(3) + 1, false), STORES, 3);
    assert_int_equal(pack(&w, 1, &first), 0);
    assert_int_equal(first.n, 42);
    node_restart(&w, &w.nodes[0], true); /* what was told is on the disk */
    uint64_t end_of = 0, content = 0;
    for (unsigned i = 0; i < 42; i++) {
        assert_int_equal(first.pieces[i].offset, end_of); /* one behind the other, nothing in between */
        end_of += first.pieces[i].stored;
        content += w.sources[i].length;
        assert_piece(&w, 1, &first.pieces[i], &w.sources[i]);
        bool zstd = first.pieces[i].form == TARN__CHUNK_FORM__FORM_ZSTD, text = i < 40 ? i % 2 == 0 : i == 40;
        assert_true(!zstd || (text && w.pieces[i].level == 3));
        assert_true(zstd || w.pieces[i].level == 0 || !text || w.sources[i].length < 1000);
    }
    assert_int_equal(first.length, end_of);
    assert_true(first.length < content);
    ask_again(&w, 1, &first, w.sources, 0); /* compaction: as they are */
    assert_int_equal(pack(&w, 2, &second), 0);
    assert_int_equal(second.length, first.length);
    assert_int_equal(second.digest, first.digest);
    ask_again(&w, 2, &second, w.sources, LEVEL_RAW);
    assert_int_equal(pack(&w, 3, &third), 0);
    assert_int_equal(third.length, content);
    for (unsigned i = 0; i < 42; i++) {
        assert_int_equal(third.pieces[i].form, TARN__CHUNK_FORM__FORM_RAW);
        assert_piece(&w, 3, &third.pieces[i], &w.sources[i]);
    }
    pack_result_fini(&first);
    pack_result_fini(&second);
    pack_result_fini(&third);
    end(&w);
}

static void a_large_chunk_that_does_not_get_smaller_is_left_as_it_is(void **state)
{
    struct world w;
    struct pack_result result;
    uint8_t byte;
    begin(&w, 4);
    (void)ask(&w, make(&w, 0, MIB(3), false), 0, 19);
    assert_int_equal(pack(&w, 1, &result), 0);
    assert_int_equal(result.length, 0);
    assert_int_equal(read_chunk(&w, 1, 0, 1, &byte), -E_NOENT);
    pack_result_fini(&result);
    end(&w);
}

static void a_damaged_source_is_read_elsewhere_or_left_out(void **state)
{
    struct world w;
    struct pack_result result;
    char path[512];
    begin(&w, 5);
    const struct source *sources[3];
    for (unsigned i = 0; i < 3; i++) {
        sources[i] = make(&w, 0, 100000, false);
        struct act copy = {.w = &w, .node = &w.nodes[1], .fn = do_make, .source = sources[i]};
        assert_int_equal(act_on(&copy), 0);
        (void)ask(&w, sources[i], STORES, 0);
    }
    for (unsigned i = 1; i < 3; i++) {
        volume_chunk_path(w.nodes[0].store->volumes[0], sources[i]->id, path);
        assert_int_equal(sim_disk_corrupt(w.nodes[0].host, path, 70000), 0);
    }
    volume_chunk_path(w.nodes[1].store->volumes[0], sources[2]->id, path);
    assert_int_equal(sim_disk_corrupt(w.nodes[1].host, path, 3), 0);
    assert_int_equal(pack(&w, 1, &result), 0);
    assert_int_equal(result.n, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(result.pieces[i].piece, sources[i]->id);
        assert_piece(&w, 1, &result.pieces[i], sources[i]);
    }
    pack_result_fini(&result);
    w.pointers[0] = &w.pieces[2]; /* nothing but that: no container */
    w.task.n_pieces = 1;
    assert_int_equal(pack(&w, 2, &result), -E_UNAVAIL);
    assert_int_equal(read_chunk(&w, 2, 0, 0, NULL), -E_NOENT);
    pack_result_fini(&result);
    end(&w);
}

static void do_delete(struct act *act)
{
    struct volume *v = act->node->store->volumes[0];
    struct held held;
    act->err = store_hold_all(v, act->id, false, true, &held);
    if (act->err != 0)
        return;
    volume_note_deleted(v, act->id);
    act->err = volume_delete(v, held.chunk);
    store_release(&held);
}

static void a_task_that_comes_again_harms_nothing(void **state)
{
    struct world w;
    struct pack_result result, again;
    begin(&w, 6);
    (void)ask(&w, make(&w, 0, 50000, true), 0, 3);
    assert_int_equal(pack(&w, 1, &result), 0);
    assert_int_equal(pack(&w, 1, &again), -E_CONFLICT);
    assert_piece(&w, 1, &result.pieces[0], &w.sources[0]);
    pack_result_fini(&again);
    struct act delete = {.w = &w, .node = &w.nodes[0], .fn = do_delete, .id = 1};
    assert_int_equal(act_on(&delete), 0);
    assert_int_equal(pack(&w, 1, &again), -E_STALE);
    pack_result_fini(&again);
    pack_result_fini(&result);
    w.task.n_pieces = 0;
    assert_int_equal(pack(&w, 2, &again), -E_UNAVAIL);
    pack_result_fini(&again);
    end(&w);
}

/* What is there under the container's number is nothing, or the whole of it. */
static void assert_all_or_nothing(struct world *w, uint64_t container, bool told)
{
    uint64_t length = 0;
    for (unsigned i = 0; i < w->n; i++)
        length += w->sources[i].length;
    uint8_t *all = malloc(length);
    int err = read_chunk(w, container, 0, length, all);
    assert_true(err == 0 || (!told && err == -E_NOENT));
    for (unsigned i = 0; i < w->n && err == 0; i++) {
        assert_memory_equal(all, w->sources[i].data, w->sources[i].length);
        memmove(all, all + w->sources[i].length, length -= w->sources[i].length);
    }
    free(all);
    for (unsigned i = 0; i < w->n; i++) {
        uint8_t *data = malloc(w->sources[i].length);
        assert_int_equal(read_chunk(w, w->sources[i].id, 0, w->sources[i].length, data), 0);
        assert_memory_equal(data, w->sources[i].data, w->sources[i].length);
        free(data);
    }
}

static void sweep_sources(struct world *w)
{
    for (unsigned i = 0; i < 3; i++)
        (void)ask(w, make(w, 0, 40000 + i * 500000, false), 0, 0);
    node_restart(w, &w->nodes[0], false); /* sources are on the disk */
}

static bool act_done_or_down(void *arg)
{
    struct act *act = arg;
    return act->done || !sim_host_up(act->node->host);
}

static void power_is_lost_at_every_write(void **state)
{
    struct world w;
    unsigned finished = 0, cut = 0;
    uint64_t container = 1;
    begin(&w, 7);
    sweep_sources(&w);
    for (unsigned i = 0; finished < LUCK; i++, container++) {
        w.task.chunk = container;
        struct act act = {.w = &w, .node = &w.nodes[0], .fn = do_pack};
        sim_disk_crash_at(w.nodes[0].host, 1 + i / LUCK, true);
        assert_int_equal(fiber_spawn(sim_host_io(w.nodes[0].host), "act", act_run, &act), 0);
        assert_int_equal(sim_run(w.sim, 600000, act_done_or_down, &act), SIM_DONE);
        bool told = act.done && act.err == 0;
        sim_disk_crash_at(w.nodes[0].host, 0, false);
        finished += told;
        cut += !told;
        node_restart(&w, &w.nodes[0], true);
        assert_true(act.done);
        pack_result_fini(&act.result);
        assert_all_or_nothing(&w, container, told);
    }
    assert_true(cut > 0);
    end(&w);
}

static void errors_of_the_disk_leave_nothing_half_made(void **state)
{
    static const int errors[] = {-E_IO, -E_NOSPC};
    struct world w;
    unsigned failed = 0;
    uint64_t container = 1;
    begin(&w, 8);
    sweep_sources(&w);
    for (unsigned k = 0; k < ARRAY_SIZE(errors); k++) {
        int err = -1;
        for (unsigned i = 1; err != 0 || i < 8; i++, container++) {
            struct pack_result result;
            sim_disk_fail(w.nodes[0].host, i, 1, errors[k]);
            err = pack(&w, container, &result);
            sim_disk_fail(w.nodes[0].host, 0, 0, 0);
            failed += err != 0;
            node_restart(&w, &w.nodes[0], false);
            if (err != 0) /* what was sealed before the error need not go: nobody was told of it */
                assert_all_or_nothing(&w, container, false);
            for (size_t n = 0; n < result.n && err == 0; n++) /* a source that could not be read is left out */
                assert_piece(&w, container, &result.pieces[n], &w.sources[result.pieces[n].piece - w.sources[0].id]);
            pack_result_fini(&result);
        }
    }
    assert_true(failed > 0);
    end(&w);
}

int main(void)
{
    log_init("test");
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_come_from_here_and_elsewhere_in_every_form),
        cmocka_unit_test(a_large_chunk_that_does_not_get_smaller_is_left_as_it_is),
        cmocka_unit_test(a_damaged_source_is_read_elsewhere_or_left_out),
        cmocka_unit_test(a_task_that_comes_again_harms_nothing),
        cmocka_unit_test(power_is_lost_at_every_write),
        cmocka_unit_test(errors_of_the_disk_leave_nothing_half_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
