#include "fetch.h"

#include "common/err.h"
#include "common/fiber.h"

#define WINDOW MIB(1)
#define MAP_EXTENTS 256 /* of one question for a file's map */
#define STALE_TRIES 7   /* a chunk may be moved, sealed or coded while we read */
#define CORRUPT_TRIES 3 /* or repaired */
#define STALE_PAUSE_MS 25 /* doubled each time: 6.4 s in all */

struct fetch {
    struct meta *meta;
    struct stores *stores;
    const Tarn__Where *where;
    const struct meta_cred *cred;
    fetch_sink sink;
    void *arg;
    struct stores_counters *count;
    uint8_t *window;
    uint64_t at; /* sent up to here */
};

static int ask_map(struct meta *meta, const Tarn__Where *where, const struct meta_cred *cred, uint64_t offset,
                   Tarn__FileMapReply **ret)
{
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    Tarn__Where copy = *where;
    Tarn__FileMapReply *reply = NULL;
    request.where = &copy;
    request.offset = offset;
    request.max = MAP_EXTENTS;
    int err = meta_call(meta, OP_FILE_MAP, &request.base, &request.ctx, cred, &tarn__file_map_reply__descriptor,
                        &reply, NULL);
    if (err != 0)
        return err;
    if (reply->attr == NULL || (reply->next != 0 && reply->next <= offset)) {
        tarn__file_map_reply__free_unpacked(reply, NULL);
        return -E_PROTO;
    }
    *ret = reply;
    return 0;
}

int fetch_map(struct meta *meta, const Tarn__Where *where, const struct meta_cred *cred, Tarn__FileMapReply **ret)
{
    return ask_map(meta, where, cred, 0, ret);
}

static int read_piece(struct fetch *fetch, const Tarn__FileMapReply *map, size_t n)
{
    uint64_t at = fetch->at;
    memset(fetch->window, 0, n); /* what no extent covers is a hole */
    for (size_t i = 0; i < map->n_extents; i++) {
        const Tarn__Extent *extent = map->extents[i];
        uint64_t begin = MAX(extent->offset, at), end = MIN(extent->offset + extent->length, at + n);
        if (begin >= end)
            continue;
        int err = stores_read_counted(fetch->stores, extent, extent->chunk_offset + (begin - extent->offset),
                                      fetch->window + (begin - at), end - begin, fetch->count);
        if (err != 0)
            return err;
    }
    return 0;
}

static int send_inline(struct fetch *fetch, const Tarn__FileMapReply *map)
{
    if (fetch->count != NULL)
        fetch->count->read_remote += map->data.len;
    return map->data.len != 0 ? fetch->sink(fetch->arg, map->data.data, map->data.len, 0) : 0;
}

static int send_mapped(struct fetch *fetch, const Tarn__FileMapReply *map, bool *ret_refused)
{
    uint64_t end = map->next != 0 ? MIN(map->next, map->attr->size) : map->attr->size;
    while (fetch->at < end) {
        size_t n = (size_t)MIN(end - fetch->at, (uint64_t)WINDOW);
        int err = read_piece(fetch, map, n);
        if (err != 0)
            return err;
        err = fetch->sink(fetch->arg, fetch->window, n, fetch->at);
        if (err != 0) {
            *ret_refused = true;
            return err;
        }
        fetch->at += n;
    }
    return 0;
}

static int fetch_all(struct fetch *fetch)
{
    for (unsigned stale = 0;;) {
        Tarn__FileMapReply *map = NULL;
        uint64_t before = fetch->at;
        bool refused = false;
        int err = ask_map(fetch->meta, fetch->where, fetch->cred, fetch->at, &map);
        if (err != 0)
            return err;
        bool last = map->inline_data || map->next == 0;
        err = map->inline_data ? send_inline(fetch, map) : send_mapped(fetch, map, &refused);
        bool inlined = map->inline_data;
        tarn__file_map_reply__free_unpacked(map, NULL);
        if (err == 0 && last)
            return 0;
        if (err == 0)
            continue;
        stale = fetch->at != before ? 0 : stale + 1;
        bool again = err == -E_STALE || err == -E_UNAVAIL || (err == -E_CORRUPT && stale <= CORRUPT_TRIES);
        if (refused || inlined || stale > STALE_TRIES || !again)
            return err;
        if (io_sleep_ms(fiber_io(), STALE_PAUSE_MS << stale) != 0)
            return -E_CANCELED;
    }
}

int fetch_object(struct meta *meta, struct stores *stores, const Tarn__Where *where, const struct meta_cred *cred,
                 fetch_sink sink, void *arg, struct stores_counters *count)
{
    struct fetch fetch = {.meta = meta, .stores = stores, .where = where, .cred = cred, .sink = sink, .arg = arg,
                          .count = count, .window = malloc(WINDOW)};
    if (fetch.window == NULL)
        return -E_NOMEM;
    int err = fetch_all(&fetch);
    free(fetch.window);
    return err;
}
