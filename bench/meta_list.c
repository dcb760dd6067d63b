/* Lists a directory with attributes as one stream. meta_list PATH ENTRIES: ENTRIES must come, in order. Prints
 * entries a second, and the KiB by which this process's largest resident memory grew from the first part to the
 * last one. */
#include "client/meta.h"
#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

struct listing {
    struct io *io;
    struct config config;
    Tarn__ReadDir request;
    char after[256];
    unsigned long seen;
    long first_kib; /* resident after the first part */
};

_Noreturn static void fail(const char *what, const char *why)
{
    fprintf(stderr, "meta_list: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static long resident_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static int on_part(void *arg, const ProtobufCMessage *part)
{
    struct listing *l = arg;
    const Tarn__ReadDirReply *reply = (const Tarn__ReadDirReply *)part;
    for (size_t i = 0; i < reply->n_entries; i++) {
        const char *name = reply->entries[i]->name;
        if (strcmp(name, l->after) <= 0 || reply->entries[i]->attr->nlink != 1)
            fail(name, "is not what comes next");
        snprintf(l->after, sizeof l->after, "%s", name);
        l->seen++;
    }
    if (l->first_kib == 0)
        l->first_kib = resident_kib();
    return reply->end ? META_END : 0;
}

struct run {
    struct listing listing;
    char *path;
    unsigned long entries;
};

static void list_fiber(void *arg)
{
    struct run *run = arg;
    struct listing *l = &run->listing;
    struct meta *meta;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = run->path;
    tarn__read_dir__init(&l->request);
    l->request.where = &where;
    l->request.after = l->after;
    l->request.attrs = l->request.stream = true;
    int err = meta_connect(l->io, &l->config, NULL, &meta);
    double start = now();
    if (err == 0)
        err = meta_stream(meta, OP_READDIR, &l->request.base, &l->request.ctx, &meta_root,
                          &tarn__read_dir_reply__descriptor, on_part, l, NULL);
    double seconds = now() - start;
    if (err != 0)
        fail(run->path, err_sentence(err));
    if (l->seen != run->entries)
        fail(run->path, "has another number of entries");
    printf("%.0f %ld\n", (double)l->seen / seconds, resident_kib() - l->first_kib);
    meta_disconnect(meta);
    io_stop(l->io);
}

int main(int argc, char **argv)
{
    static struct run run;
    const char *why = "";
    if (argc != 3) {
        fprintf(stderr, "usage: meta_list PATH ENTRIES\n");
        return 2;
    }
    run.path = argv[1];
    run.entries = strtoul(argv[2], NULL, 10);
    int err = config_load(NULL, &run.listing.config, &why);
    if (err != 0)
        fail("configuration", why);
    err = io_uring_create(NULL, &run.listing.io);
    if (err == 0)
        err = fiber_spawn(run.listing.io, "list", list_fiber, &run);
    if (err == 0)
        err = io_run(run.listing.io);
    if (err != 0)
        fail("start", err_sentence(err));
    io_destroy(run.listing.io);
    return 0;
}
