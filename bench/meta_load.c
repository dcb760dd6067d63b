/* Load of many connections on the metadata service. meta_load KIND CONNECTIONS DEPTH BATCH COUNT [DIR [PER]]
 * KIND: create, lookup: files of DIR (made when absent), PER (1,000) in a directory below it; a lookup is of a whole
 * path.
 * CONNECTIONS sessions, each with DEPTH requests under way, each request with BATCH items (1: CREATE and
 * LOOKUP themselves; more: BATCH and LOOKUPS); COUNT files in all. Every answer is checked. Prints files a
 * second, microseconds of this process's processor time a file, and of the requests' microseconds the 50th and 99th
 * hundredth and the largest. */
#include "client/meta.h"
#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH_MAX 1000
#define CONNECTIONS_MAX 256

struct load {
    struct io *io;
    struct config config;
    struct meta *metas[CONNECTIONS_MAX];
    bool lookup;
    unsigned connections, depth, batch;
    unsigned long count, next, per; /* per: files in a directory */
    const char *dir;
    struct fiber_group group;
    float *us; /* of each request */
    unsigned long requests;
};

struct worker {
    struct load *load;
    struct meta *meta;
    /* one request */
    unsigned n;
    char parent[300], names[BATCH_MAX][32], paths[BATCH_MAX][340];
    Tarn__Where where, wheres[BATCH_MAX];
    Tarn__Create creates[BATCH_MAX];
    Tarn__BatchItem items[BATCH_MAX];
    void *pointers[BATCH_MAX];
};

_Noreturn static void fail(const char *what, const char *why)
{
    fprintf(stderr, "meta_load: %s: %s\n", what, why);
    exit(1);
}

static double clock_now(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void check(int err, const char *what)
{
    if (err != 0)
        fail(what, err_sentence(err));
}

static void create_init(Tarn__Create *create, Tarn__Where *parent, const char *name, Tarn__FileType type)
{
    tarn__create__init(create);
    create->parent = parent;
    create->name = (char *)name;
    create->type = type;
    create->mode = type == TARN__FILE_TYPE__FT_DIR ? 0755 : 0644;
    create->exclusive = type == TARN__FILE_TYPE__FT_FILE;
    create->parents = type == TARN__FILE_TYPE__FT_DIR;
}

/* The next `batch` files, which lie in one directory. False when there are none left. */
static bool take(struct worker *w)
{
    struct load *load = w->load;
    if (load->next >= load->count)
        return false;
    unsigned long first = load->next;
    w->n = (unsigned)MIN((unsigned long)load->batch, load->count - first);
    load->next += w->n;
    snprintf(w->parent, sizeof w->parent, "%s/dir-%06lu", load->dir, first / load->per);
    tarn__where__init(&w->where);
    w->where.path = w->parent;
    for (unsigned i = 0; i < w->n; i++)
        snprintf(w->names[i], sizeof w->names[i], "some-file-%08u.d", (unsigned)(first + i));
    return true;
}

static void make_dir(struct worker *w, const char *parent, const char *name)
{
    Tarn__Create create;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)parent;
    create_init(&create, &where, name, TARN__FILE_TYPE__FT_DIR);
    check(meta_call(w->meta, OP_CREATE, &create.base, &create.ctx, &meta_root, NULL, NULL, NULL), name);
}

static void create_one(struct worker *w)
{
    create_init(&w->creates[0], &w->where, w->names[0], TARN__FILE_TYPE__FT_FILE);
    Tarn__Entry *entry = NULL;
    check(meta_call(w->meta, OP_CREATE, &w->creates[0].base, &w->creates[0].ctx, &meta_root,
                    &tarn__entry__descriptor, &entry, NULL),
          w->names[0]);
    if (!entry->created)
        fail(w->names[0], "was there before");
    tarn__entry__free_unpacked(entry, NULL);
}

static void create_many(struct worker *w)
{
    Tarn__Batch batch = TARN__BATCH__INIT;
    for (unsigned i = 0; i < w->n; i++) {
        create_init(&w->creates[i], &w->where, w->names[i], TARN__FILE_TYPE__FT_FILE);
        tarn__batch_item__init(&w->items[i]);
        w->items[i].create = &w->creates[i];
        w->pointers[i] = &w->items[i];
    }
    batch.items = (Tarn__BatchItem **)w->pointers;
    batch.n_items = w->n;
    Tarn__BatchReply *reply = NULL;
    check(meta_call(w->meta, OP_BATCH, &batch.base, &batch.ctx, &meta_root, &tarn__batch_reply__descriptor, &reply,
                    NULL),
          "batch");
    for (unsigned i = 0; i < w->n; i++)
        if (reply->n_results != w->n || reply->results[i]->status != 0 || !reply->results[i]->entry->created)
            fail(w->names[i], "was not made");
    tarn__batch_reply__free_unpacked(reply, NULL);
}

static void lookup_one(struct worker *w)
{
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    Tarn__LookupReply *reply = NULL;
    snprintf(w->paths[0], sizeof w->paths[0], "%s/%s", w->parent, w->names[0]);
    w->where.path = w->paths[0];
    lookup.where = &w->where;
    check(meta_call(w->meta, OP_LOOKUP, &lookup.base, &lookup.ctx, &meta_root, &tarn__lookup_reply__descriptor,
                    &reply, NULL),
          w->paths[0]);
    if (reply->attr->mode != 0644)
        fail(w->paths[0], "is another file");
    tarn__lookup_reply__free_unpacked(reply, NULL);
}

static void lookup_many(struct worker *w)
{
    Tarn__Lookups lookups = TARN__LOOKUPS__INIT;
    Tarn__LookupsReply *reply = NULL;
    for (unsigned i = 0; i < w->n; i++) {
        char path[sizeof w->paths[i]]; /* the compiler does not see that the name ends before the paths begin */
        snprintf(path, sizeof path, "%s/%s", w->parent, w->names[i]);
        memcpy(w->paths[i], path, sizeof path);
        tarn__where__init(&w->wheres[i]);
        w->wheres[i].path = w->paths[i];
        w->pointers[i] = &w->wheres[i];
    }
    lookups.wheres = (Tarn__Where **)w->pointers;
    lookups.n_wheres = w->n;
    check(meta_call(w->meta, OP_LOOKUPS, &lookups.base, &lookups.ctx, &meta_root, &tarn__lookups_reply__descriptor,
                    &reply, NULL),
          "lookups");
    for (unsigned i = 0; i < w->n; i++)
        if (reply->n_results != w->n || reply->results[i]->status != 0 || reply->results[i]->attr->mode != 0644)
            fail(w->paths[i], "was not found");
    tarn__lookups_reply__free_unpacked(reply, NULL);
}

static void request(struct worker *w)
{
    struct load *load = w->load;
    double start = clock_now(CLOCK_MONOTONIC);
    if (load->lookup)
        (load->batch == 1 ? lookup_one : lookup_many)(w);
    else
        (load->batch == 1 ? create_one : create_many)(w);
    load->us[load->requests++] = (float)((clock_now(CLOCK_MONOTONIC) - start) * 1e6);
}

static void worker_fiber(void *arg)
{
    struct worker *w = arg;
    while (take(w))
        request(w);
    fiber_group_done(&w->load->group);
    free(w);
}

static struct worker *worker_new(struct load *load, unsigned connection)
{
    struct worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        fail("worker", err_sentence(-E_NOMEM));
    w->load = load;
    w->meta = load->metas[connection];
    return w;
}

static void prepare(struct load *load)
{
    struct worker *w = worker_new(load, 0);
    for (unsigned long i = 0; !load->lookup && i * load->per < load->count; i++) {
        char name[32];
        snprintf(name, sizeof name, "dir-%06lu", i);
        make_dir(w, load->dir, name);
    }
    for (unsigned i = 0; i < load->connections; i++) { /* every session is open before the clock starts */
        w->meta = load->metas[i];
        make_dir(w, "", load->dir + 1);
    }
    free(w);
}

static int compare(const void *a, const void *b)
{
    return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b;
}

static void load_fiber(void *arg)
{
    struct load *load = arg;
    for (unsigned i = 0; i < load->connections; i++)
        check(meta_connect(load->io, &load->config, NULL, &load->metas[i]), "connect");
    prepare(load);
    double start = clock_now(CLOCK_MONOTONIC), cpu = clock_now(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < load->connections * load->depth; i++) {
        fiber_group_add(&load->group);
        check(fiber_spawn(load->io, "worker", worker_fiber, worker_new(load, i % load->connections)), "fiber");
    }
    fiber_group_wait(&load->group);
    double seconds = clock_now(CLOCK_MONOTONIC) - start;
    cpu = clock_now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    qsort(load->us, load->requests, sizeof *load->us, compare);
    printf("%.0f %.2f %.0f %.0f %.0f\n", (double)load->count / seconds, cpu * 1e6 / (double)load->count,
           (double)load->us[load->requests / 2], (double)load->us[load->requests * 99 / 100],
           (double)load->us[load->requests - 1]);
    for (unsigned i = 0; i < load->connections; i++)
        meta_disconnect(load->metas[i]);
    io_stop(load->io);
}

int main(int argc, char **argv)
{
    struct load load = {.dir = "/load", .per = 1000};
    const char *why = "";
    if (argc >= 6) {
        load.lookup = strcmp(argv[1], "lookup") == 0;
        load.connections = (unsigned)atoi(argv[2]);
        load.depth = (unsigned)atoi(argv[3]);
        load.batch = (unsigned)atoi(argv[4]);
        load.count = strtoul(argv[5], NULL, 10);
        load.dir = argc > 6 ? argv[6] : load.dir;
        load.per = argc > 7 ? strtoul(argv[7], NULL, 10) : load.per;
    }
    if (load.connections < 1 || load.connections > CONNECTIONS_MAX || load.depth < 1 || load.batch < 1 ||
        load.batch > BATCH_MAX || load.per % load.batch != 0 || load.count < 1 || load.per < 1 || load.dir[0] != '/') {
        fprintf(stderr, "usage: meta_load create|lookup CONNECTIONS DEPTH BATCH COUNT [DIR [PER]]\n");
        return 2;
    }
    load.us = calloc(load.count / load.batch + 2, sizeof *load.us);
    int err = config_load(NULL, &load.config, &why);
    if (err != 0)
        fail("configuration", why);
    err = load.us == NULL ? -E_NOMEM : io_uring_create(NULL, &load.io);
    if (err == 0)
        err = fiber_spawn(load.io, "load", load_fiber, &load);
    if (err == 0)
        err = io_run(load.io);
    check(err, "start");
    io_destroy(load.io);
    free(load.us);
    return 0;
}
