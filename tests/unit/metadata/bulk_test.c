/* BATCH and LOOKUPS: each item by itself, once, and within the limits. */
#include "world.h"

#include <fcntl.h>
#include <stdio.h>

#include "metadata/bulk.h"
#include "metadata/session.h"
#include "tests/unit/cmocka.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR

static int setup(void **state)
{
    static struct world world;
    world_init(&world);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

/* A batch that is put together item by item. */
struct batch {
    Tarn__Batch message;
    Tarn__BatchItem items[BULK_ITEMS_MAX + 1], *pointers[BULK_ITEMS_MAX + 1];
    Tarn__Create creates[BULK_ITEMS_MAX + 1];
    Tarn__Unlink unlinks[BULK_ITEMS_MAX + 1];
    Tarn__Where parent;
    char names[BULK_ITEMS_MAX + 1][16];
};

static struct batch *batch_new(const char *dir)
{
    static struct batch batch;
    tarn__batch__init(&batch.message);
    batch.message.items = batch.pointers;
    tarn__where__init(&batch.parent);
    batch.parent.path = (char *)dir;
    return &batch;
}

static size_t batch_item(struct batch *b, unsigned number)
{
    size_t i = b->message.n_items++;
    tarn__batch_item__init(&b->items[i]);
    b->pointers[i] = &b->items[i];
    snprintf(b->names[i], sizeof b->names[i], "f%u", number);
    return i;
}

static Tarn__Create *batch_create(struct batch *b, unsigned number)
{
    size_t i = batch_item(b, number);
    Tarn__Create *m = b->items[i].create = &b->creates[i];
    tarn__create__init(m);
    m->parent = &b->parent;
    m->name = b->names[i];
    m->type = FILE_;
    m->mode = 0644;
    m->exclusive = true;
    return m;
}

static Tarn__Unlink *batch_unlink(struct batch *b, unsigned number)
{
    size_t i = batch_item(b, number);
    Tarn__Unlink *m = b->items[i].unlink = &b->unlinks[i];
    tarn__unlink__init(m);
    m->parent = &b->parent;
    m->name = b->names[i];
    return m;
}

static int batch_apply(struct world *w, struct batch *b)
{
    return world_apply(w, OP_BATCH, &b->message.base, &b->message.ctx);
}

static const Tarn__BatchReply *batch_reply(struct world *w)
{
    return world_reply(w, &tarn__batch_reply__descriptor);
}

static int status(const Tarn__BatchReply *reply, size_t i)
{
    return err_from_wire(reply->results[i]->status);
}

static void items_are_carried_out_in_order(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    batch_create(b, 1);
    batch_create(b, 2);
    batch_unlink(b, 1);
    batch_create(b, 1);
    assert_int_equal(batch_apply(w, b), 0);
    const Tarn__BatchReply *reply = batch_reply(w);
    assert_int_equal(reply->n_results, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(status(reply, i), 0);
    assert_int_equal(reply->results[3]->entry->attr->ino, reply->results[1]->entry->attr->ino + 1);
    assert_null(reply->results[2]->entry);
    assert_int_equal(world_lookup(w, "/f1", NULL), 0);
    assert_int_equal(world_lookup(w, "/f2", NULL), 0);
}

/* What an item changed before it failed is taken back, the others stay: as if it had not been asked for. */
static void an_item_that_fails_leaves_nothing(void **state)
{
    struct world *w = *state;
    static struct world other;
    Tarn__Where deep = TARN__WHERE__INIT;
    deep.path = "/a/b/c";
    world_init(&other);
    for (unsigned with = 0; with < 2; with++) {
        struct world *at = with ? w : &other;
        struct batch *b = batch_new("/");
        batch_create(b, 1);
        if (with) {
            batch_create(b, 1);                           /* exists */
            batch_unlink(b, 7);                           /* does not */
            Tarn__Create *m = batch_create(b, 2); /* makes directories and the file before it fails */
            m->parent = &deep;
            m->parents = m->open = true;
            m->open_flags = O_DIRECTORY;
            batch_create(b, 4)->parent = &deep; /* which is therefore missing */
        }
        batch_create(b, 3);
        assert_int_equal(batch_apply(at, b), 0);
    }
    const Tarn__BatchReply *reply = batch_reply(w);
    assert_int_equal(status(reply, 3), -E_NOTDIR);
    assert_int_equal(status(reply, 4), -E_NOENT);
    assert_int_equal(status(reply, 5), 0);
    assert_int_equal(world_status(w)->files, world_status(&other)->files);
    assert_int_equal(world_lookup(w, "/a", NULL), -E_NOENT);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, "/f3", &attr), 0);
    uint64_t ino = attr->ino;
    assert_int_equal(world_lookup(&other, "/f3", &attr), 0);
    assert_int_equal(attr->ino, ino); /* counters were taken back, too */
    world_fini(&other);
}

static void failures_come_with_their_codes(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    batch_create(b, 1);
    batch_create(b, 1);
    batch_unlink(b, 7);
    batch_unlink(b, 1)->directory = true;
    assert_int_equal(batch_apply(w, b), 0);
    const Tarn__BatchReply *reply = batch_reply(w);
    assert_int_equal(status(reply, 0), 0);
    assert_int_equal(status(reply, 1), -E_EXIST);
    assert_int_equal(status(reply, 2), -E_NOENT);
    assert_int_equal(status(reply, 3), -E_NOTDIR);
    assert_null(reply->results[1]->entry);
}

static void a_repeated_batch_happens_once(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    batch_create(b, 1);
    batch_unlink(b, 7);
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = w->session;
    ctx.seq = ++w->seq;
    b->message.ctx = &ctx;
    assert_int_equal(batch_apply(w, b), 0);
    size_t len = w->result.reply_len;
    uint8_t *first = malloc(len);
    memcpy(first, w->result.reply, len);
    uint64_t files = world_status(w)->files;
    b->message.ctx = &ctx;
    assert_int_equal(batch_apply(w, b), 0);
    assert_int_equal(w->result.reply_len, len);
    assert_memory_equal(w->result.reply, first, len);
    assert_int_equal(world_status(w)->files, files);
    free(first);
}

static void a_full_batch_is_kept_and_one_more_is_refused(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    for (unsigned i = 0; i < BULK_ITEMS_MAX; i++)
        batch_create(b, i);
    assert_int_equal(batch_apply(w, b), 0);
    assert_int_equal(batch_reply(w)->n_results, BULK_ITEMS_MAX);
    assert_true(w->result.reply_len <= SESSION_KEPT_REPLY_MAX);
    batch_create(b, BULK_ITEMS_MAX);
    assert_int_equal(batch_apply(w, b), -E_INVAL);
    assert_non_null(strstr(w->result.detail, "at most 1000"));
}

static void what_waits_for_leases_is_not_for_batches(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    batch_create(b, 1);
    Tarn__Create *m = batch_create(b, 2);
    m->exclusive = false;
    m->open = true;
    m->open_flags = O_RDWR;
    assert_int_equal(batch_apply(w, b), -E_INVAL);
    assert_non_null(strstr(w->result.detail, "item 1 of the batch opens a file"));
    assert_int_equal(world_lookup(w, "/f1", NULL), -E_NOENT); /* none was carried out */
    b = batch_new("/");
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    set.where = &b->parent;
    set.mask = TARN__SET_ATTR_BITS__SA_SIZE;
    b->items[batch_item(b, 0)].set_attr = &set;
    assert_int_equal(batch_apply(w, b), -E_INVAL);
    assert_non_null(strstr(w->result.detail, "changes a size"));
    b = batch_new("/");
    batch_item(b, 0);
    assert_int_equal(batch_apply(w, b), -E_INVAL);
    assert_non_null(strstr(w->result.detail, "not exactly one change"));
}

static void new_files_may_be_opened_and_closed_in_batches(void **state)
{
    struct world *w = *state;
    struct batch *b = batch_new("/");
    Tarn__Create *m = batch_create(b, 1);
    m->open = true;
    m->open_flags = O_RDWR;
    assert_int_equal(batch_apply(w, b), 0);
    uint64_t handle = batch_reply(w)->results[0]->entry->handle;
    assert_true(handle != 0);
    b = batch_new("/");
    Tarn__Close close_ = TARN__CLOSE__INIT;
    close_.handle = handle;
    batch_unlink(b, 1);
    b->items[batch_item(b, 0)].close = &close_;
    assert_int_equal(batch_apply(w, b), 0);
    assert_int_equal(status(batch_reply(w), 1), 0);
    assert_int_equal(world_status(w)->files, 0);
}

static void permissions_are_those_of_the_caller(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "private", 0700), 0);
    w->uid = w->gid = 1000;
    struct batch *b = batch_new("/private");
    batch_create(b, 1);
    assert_int_equal(batch_apply(w, b), 0);
    assert_int_equal(status(batch_reply(w), 0), -E_ACCES);
}

/* ---- LOOKUPS */
struct lookups {
    Tarn__Lookups message;
    Tarn__Where wheres[BULK_ITEMS_MAX + 1], *pointers[BULK_ITEMS_MAX + 1];
};

static const Tarn__LookupsReply *lookups(struct world *w, const char *const *paths, size_t n, int expected)
{
    static struct lookups l;
    tarn__lookups__init(&l.message);
    l.message.n_wheres = n;
    l.message.wheres = l.pointers;
    for (size_t i = 0; i < n; i++) {
        tarn__where__init(&l.wheres[i]);
        l.wheres[i].path = (char *)paths[i];
        l.wheres[i].nofollow = true;
        l.pointers[i] = &l.wheres[i];
    }
    assert_int_equal(world_query(w, OP_LOOKUPS, &l.message.base, &l.message.ctx), expected);
    return expected == 0 ? world_reply(w, &tarn__lookups_reply__descriptor) : NULL;
}

static void many_are_looked_up_at_once(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "a", 0600), 0);
    assert_int_equal(world_symlink(w, "/", "l", "a"), 0);
    const char *paths[] = {"/a", "/missing", "/l", "/a/below", ""};
    const Tarn__LookupsReply *reply = lookups(w, paths, ARRAY_SIZE(paths), 0);
    assert_int_equal(reply->n_results, ARRAY_SIZE(paths));
    assert_int_equal(reply->results[0]->attr->mode, 0600);
    assert_int_equal(err_from_wire(reply->results[1]->status), -E_NOENT);
    assert_null(reply->results[1]->attr);
    assert_string_equal(reply->results[2]->target, "a");
    assert_int_equal(err_from_wire(reply->results[3]->status), -E_NOTDIR);
    assert_int_equal(reply->results[4]->attr->ino, 1);
}

static void a_long_answer_stops_early_and_too_many_are_refused(void **state)
{
    struct world *w = *state;
    static char target[4001];
    static const char *paths[BULK_ITEMS_MAX + 1];
    memset(target, 'x', sizeof target - 1);
    assert_int_equal(world_symlink(w, "/", "l", target), 0);
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        paths[i] = "/l";
    size_t n = lookups(w, paths, BULK_ITEMS_MAX, 0)->n_results;
    assert_true(n > 100 && n < 200);
    assert_true(w->result.reply_len < MIB(1));
    lookups(w, paths, BULK_ITEMS_MAX + 1, -E_INVAL);
    assert_non_null(strstr(w->result.detail, "at most 1000"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(items_are_carried_out_in_order),
                                       T(an_item_that_fails_leaves_nothing),
                                       T(failures_come_with_their_codes),
                                       T(a_repeated_batch_happens_once),
                                       T(a_full_batch_is_kept_and_one_more_is_refused),
                                       T(what_waits_for_leases_is_not_for_batches),
                                       T(new_files_may_be_opened_and_closed_in_batches),
                                       T(permissions_are_those_of_the_caller),
                                       T(many_are_looked_up_at_once),
                                       T(a_long_answer_stops_early_and_too_many_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
