/* Where the bytes of files are, for the public library. */
#include "tarn_internal.h"

#include "common/err.h"

#include <stdio.h>

#define LOCATE_PAGE 500

struct locate_call {
    struct loop_call call;
    const char *path, *after;
    bool recursive;
    Tarn__LocationsReply *reply;
};

static int64_t locate_run(struct loop_call *call)
{
    struct locate_call *c = container_of(call, struct locate_call, call);
    char *paths[1] = {(char *)c->path};
    Tarn__Locations request = TARN__LOCATIONS__INIT;
    request.n_paths = 1;
    request.paths = paths;
    request.recursive = c->recursive;
    request.after = (char *)c->after;
    request.max = LOCATE_PAGE;
    return meta_call(call->tarn->meta, OP_LOCATIONS, &request.base, &request.ctx, &call->tarn->cred,
                     &tarn__locations_reply__descriptor, &c->reply, call->detail);
}

static void location_fill(const Tarn__Extent *extent, struct tarn_location *ret)
{
    *ret = (struct tarn_location){
        .offset = extent->offset,
        .length = extent->length,
        .chunk = extent->chunk,
        .generation = extent->generation,
    };
    size_t max = ARRAY_SIZE(ret->nodes);
    for (size_t i = 0; i < extent->n_replicas && ret->n_nodes < max; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        unsigned at = ret->n_nodes++;
        ret->nodes[at].node = replica->node;
        ret->nodes[at].up = replica->up && replica->ready;
        snprintf(ret->nodes[at].host, sizeof ret->nodes[at].host, "%s", replica->host);
        snprintf(ret->nodes[at].rack, sizeof ret->nodes[at].rack, "%s", replica->rack);
    }
}

/* fn's non-zero value, a code for the file, or 0. */
static int locate_file(const Tarn__LocatedFile *file, tarn_location_fn fn, void *arg, int *ret_err)
{
    *ret_err = err_from_wire(file->status);
    if (*ret_err < 0 || !file->attr)
        return 0;
    struct stat st;
    attr_to_stat(file->attr, &st);
    if (file->n_extents == 0)
        return fn(arg, file->path, &st, NULL);
    int r = 0;
    for (size_t i = 0; i < file->n_extents && r == 0; i++) {
        struct tarn_location location;
        location_fill(file->extents[i], &location);
        r = fn(arg, file->path, &st, &location);
    }
    return r;
}

int tarn_locate(struct tarn *tarn, const char *path, bool recursive, tarn_location_fn fn, void *arg)
{
    if (path[0] != '/')
        return public_error_relative("locate", path);
    char *after = strdup("");
    int r = after ? 0 : -E_NOMEM, stop = 0;
    char detail[160] = "";
    while (r == 0 && stop == 0 && after) {
        struct locate_call c = {.path = path, .after = after, .recursive = recursive};
        r = (int)loop_call(tarn, &c.call, locate_run);
        memcpy(detail, c.call.detail, sizeof detail);
        if (r < 0)
            break;
        for (size_t i = 0; i < c.reply->n_files && r == 0 && stop == 0; i++)
            stop = locate_file(c.reply->files[i], fn, arg, &r);
        free(after);
        after = recursive && c.reply->next[0] ? strdup(c.reply->next) : NULL;
        tarn__locations_reply__free_unpacked(c.reply, NULL);
    }
    free(after);
    return r < 0 ? public_error(r, detail, "locate %s", path) : stop;
}
