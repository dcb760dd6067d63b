/* Where the bytes of files are, for the public library. */
#include "tarn_stream.h"

#include "form.h"

#include "common/err.h"

#include <stdio.h>

#define LOCATE_PAGE 500 /* files in a part */

struct locate {
    Tarn__Locations request;
    char *paths[1], *after; /* after: owned */
};

static int locate_advance(void *arg, const ProtobufCMessage *part)
{
    struct locate *l = arg;
    const Tarn__LocationsReply *reply = (const Tarn__LocationsReply *)part;
    if (!l->request.recursive || reply->next[0] == '\0')
        return META_END;
    char *after = strdup(reply->next);
    if (!after)
        return -E_NOMEM;
    free(l->after);
    l->request.after = l->after = after;
    return 0;
}

static void location_fill(const Tarn__Extent *extent, struct tarn_location *ret)
{
    *ret = (struct tarn_location){
        .offset = extent->offset,
        .length = extent->length,
        .chunk = extent->chunk,
        .generation = extent->generation,
        .form = extent_form(extent),
        .coded = extent->group != 0,
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
    struct locate l = {.request = TARN__LOCATIONS__INIT, .paths = {(char *)path}};
    l.request.n_paths = 1;
    l.request.paths = l.paths;
    l.request.recursive = recursive;
    l.request.max = LOCATE_PAGE;
    l.request.stream = true;
    struct tarn_stream stream = {.tarn = tarn,
                                 .op = OP_LOCATIONS,
                                 .request = &l.request.base,
                                 .ctx = &l.request.ctx,
                                 .type = &tarn__locations_reply__descriptor,
                                 .advance = locate_advance,
                                 .arg = &l};
    const ProtobufCMessage *part;
    int r = 1, stop = 0;
    while (r > 0 && stop == 0 && (r = tarn_stream_next(&stream, &part)) > 0) {
        const Tarn__LocationsReply *reply = (const Tarn__LocationsReply *)part;
        for (size_t i = 0; i < reply->n_files && r > 0 && stop == 0; i++) {
            int err = 0;
            stop = locate_file(reply->files[i], fn, arg, &err);
            r = err < 0 ? err : r;
        }
    }
    tarn_stream_close(&stream);
    free(l.after);
    return r < 0 ? public_error(r, stream.call.detail, "locate %s", path) : stop;
}
