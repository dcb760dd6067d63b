/* Many names in few requests, against a real metadata service; requests are counted where they arrive. */
#include "cluster.h"
#include "harness.h"

#include "common/log.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#define FILES 3000 /* more than three answers hold */

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    struct cluster cluster;
    struct user user;
    cluster_start(&cluster, io, host, dir);
    user_start(&user, &cluster, 1);
    ((void (*)(struct user *))arg)(&user);
    user_stop(&user);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

static int make_dir(struct user *user, const char *path)
{
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Where parent = TARN__WHERE__INIT;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", path);
    char *slash = strrchr(copy, '/');
    *slash = 0;
    parent.path = copy;
    request.parent = &parent;
    request.name = slash + 1;
    request.type = TARN__FILE_TYPE__FT_DIR;
    request.mode = 0755;
    request.parents = true;
    return meta_call(user->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* Files first … first + n - 1 of a directory in one request. */
static void make_files(struct user *user, const char *dir, unsigned first, unsigned n)
{
    struct one {
        Tarn__BatchItem item;
        Tarn__Create create;
        char name[16];
    } *all = calloc(n, sizeof *all);
    Tarn__BatchItem **items = calloc(n, sizeof *items);
    expect(all != NULL && items != NULL);
    Tarn__Where parent = TARN__WHERE__INIT;
    parent.path = (char *)dir;
    for (unsigned i = 0; i < n; i++) {
        tarn__batch_item__init(&all[i].item);
        tarn__create__init(&all[i].create);
        snprintf(all[i].name, sizeof all[i].name, "%06u", first + i);
        all[i].create.parent = &parent;
        all[i].create.name = all[i].name;
        all[i].create.type = TARN__FILE_TYPE__FT_FILE;
        all[i].create.mode = 0644;
        all[i].create.exclusive = true;
        all[i].item.create = &all[i].create;
        items[i] = &all[i].item;
    }
    Tarn__Batch batch = TARN__BATCH__INIT;
    batch.n_items = n;
    batch.items = items;
    Tarn__BatchReply *reply = NULL;
    expect_equal(meta_call(user->meta, OP_BATCH, &batch.base, &batch.ctx, &meta_root,
                           &tarn__batch_reply__descriptor, &reply, NULL), 0);
    expect_equal(reply->n_results, n);
    for (unsigned i = 0; i < n; i++) {
        expect_equal(reply->results[i]->status, 0);
        expect(reply->results[i]->entry->created);
    }
    tarn__batch_reply__free_unpacked(reply, NULL);
    free(items);
    free(all);
}

static uint64_t requests(const struct user *user, unsigned op)
{
    return server_requests(user->cluster->server, op);
}

static void a_whole_path_is_one_request(struct user *user)
{
    char path[256] = "";
    for (unsigned depth = 0; depth < 20; depth++) {
        size_t n = strlen(path);
        snprintf(path + n, sizeof path - n, "/level%u", depth);
    }
    expect_equal(make_dir(user, path), 0);
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = path;
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.where = &where;
    uint64_t before[OP_SESSION_PING] = {0}, asked = 0;
    for (unsigned op = OP_LOOKUP; op < OP_SESSION_PING; op++)
        before[op] = requests(user, op);
    expect_equal(meta_call(user->meta, OP_LOOKUP, &lookup.base, &lookup.ctx, &meta_root, NULL, NULL, NULL), 0);
    for (unsigned op = OP_LOOKUP; op < OP_SESSION_PING; op++)
        asked += requests(user, op) - before[op];
    expect_equal(asked, 1);
}

struct listing {
    Tarn__ReadDir request;
    char after[256];
    unsigned seen, parts, stop_at;
};

static int listing_part(void *arg, const ProtobufCMessage *part)
{
    struct listing *l = arg;
    const Tarn__ReadDirReply *reply = (const Tarn__ReadDirReply *)part;
    for (size_t i = 0; i < reply->n_entries; i++) {
        expect_equal(atoi(reply->entries[i]->name), l->seen++);
        expect_equal(reply->entries[i]->attr->mode, 0644);
    }
    l->parts++;
    if (reply->end)
        return META_END;
    snprintf(l->after, sizeof l->after, "%s", reply->entries[reply->n_entries - 1]->name);
    return l->stop_at > 0 && l->seen >= l->stop_at ? META_END : 0;
}

static int list(struct user *user, const char *path, struct listing *l)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    tarn__read_dir__init(&l->request);
    l->request.where = &where;
    l->request.after = l->after;
    l->request.attrs = l->request.stream = true;
    return meta_stream(user->meta, OP_READDIR, &l->request.base, &l->request.ctx, &meta_root,
                       &tarn__read_dir_reply__descriptor, listing_part, l, NULL);
}

static void a_large_directory_is_listed_in_one_request(struct user *user)
{
    expect_equal(make_dir(user, "/dir"), 0);
    for (unsigned i = 0; i < FILES; i += 1000)
        make_files(user, "/dir", i, 1000);
    expect_equal(requests(user, OP_BATCH), FILES / 1000);
    struct listing l = {0};
    expect_equal(list(user, "/dir", &l), 0);
    expect_equal(l.seen, FILES);
    expect(l.parts >= 3);
    expect_equal(requests(user, OP_READDIR), 1);
    struct listing some = {.stop_at = 1000};
    expect_equal(list(user, "/dir", &some), 0);
    expect_equal(some.seen, 1000);
    struct listing none = {0};
    expect_equal(list(user, "/nowhere", &none), -E_NOENT);
    expect_equal(none.parts, 0);
}

struct locating {
    Tarn__Locations request;
    char *after;
    unsigned seen, missing, parts;
};

static int locating_part(void *arg, const ProtobufCMessage *part)
{
    struct locating *l = arg;
    const Tarn__LocationsReply *reply = (const Tarn__LocationsReply *)part;
    for (size_t i = 0; i < reply->n_files; i++) {
        expect_equal(atoi(strrchr(reply->files[i]->path, '/') + 1), l->seen++);
        l->missing += err_from_wire(reply->files[i]->status) == -E_NOENT;
    }
    l->parts++;
    free(l->after);
    l->after = strdup(reply->next);
    expect(l->after != NULL);
    if (l->request.recursive) {
        l->request.after = l->after;
    } else {
        l->request.paths += reply->n_files;
        l->request.n_paths -= reply->n_files;
    }
    return l->after[0] ? 0 : META_END;
}

static void locate(struct user *user, struct locating *l)
{
    l->request.stream = true;
    expect_equal(meta_stream(user->meta, OP_LOCATIONS, &l->request.base, &l->request.ctx, &meta_root,
                             &tarn__locations_reply__descriptor, locating_part, l, NULL), 0);
    free(l->after);
}

static void a_tree_is_located_in_one_request(struct user *user)
{
    char dir[] = "/tree", *paths[] = {dir};
    expect_equal(make_dir(user, dir), 0);
    for (unsigned i = 0; i < FILES; i += 1000)
        make_files(user, dir, i, 1000);
    struct locating l = {.request = TARN__LOCATIONS__INIT};
    l.request.recursive = true;
    l.request.n_paths = 1;
    l.request.paths = paths;
    locate(user, &l);
    expect_equal(l.seen, FILES);
    expect(l.parts >= 3);
    expect_equal(requests(user, OP_LOCATIONS), 1);
}

/* Named one by one: in their order, those that are missing too. */
static void many_paths_are_located_in_one_request(struct user *user)
{
    static char text[FILES][24];
    static char *paths[FILES];
    expect_equal(make_dir(user, "/paths"), 0);
    make_files(user, "/paths", 0, 1000);
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(text[i], sizeof text[i], "/paths/%06u", i);
        paths[i] = text[i];
    }
    struct locating l = {.request = TARN__LOCATIONS__INIT};
    l.request.n_paths = FILES;
    l.request.paths = paths;
    locate(user, &l);
    expect_equal(l.seen, FILES);
    expect_equal(l.missing, FILES - 1000);
    expect(l.parts >= 3);
    expect_equal(requests(user, OP_LOCATIONS), 1);
}

#define CASE(fn) {#fn, fn}
static const struct {
    const char *name;
    void (*body)(struct user *user);
} cases[] = {
    CASE(a_whole_path_is_one_request),
    CASE(a_large_directory_is_listed_in_one_request),
    CASE(a_tree_is_located_in_one_request),
    CASE(many_paths_are_located_in_one_request),
};

int main(void)
{
    log_init("bulk_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[ARRAY_SIZE(cases)];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)cases[i].body};
    return _cmocka_run_group_tests("many at once", tests, ARRAY_SIZE(cases), NULL, NULL);
}
