/* Two caches, both of things that never change: pieces lie in sealed chunks.
 *
 *   table: chunk, offset of the piece → its frames, and the whole piece when it is small
 *   frame: the same and a number     → its content
 *
 * Several readers of one absent entry wait for the first of them. What does not match is read again in another way:
 * ROUTE_ANY → ROUTE_CHECKED (no passed descriptor) → each replica alone → the group alone. */
#include "piece.h"

#include "common/check.h"
#include "common/codec.h"
#include "common/err.h"
#include "common/log.h"

#define TAIL_BYTES KIB(1)    /* read first: the table of a chunk of 64 MiB has 0.5 KiB */
#define WHOLE_BYTES KIB(64)  /* a piece up to this size is read at once, and kept with its table */
#define PIECE_BYTES_MAX GIB(4) /* what frames may say; a chunk has 64 MiB */

enum entry_state { ENTRY_LOADING, ENTRY_GOOD, ENTRY_FAILED };

/* What both caches keep. Counted: a reader holds it while the cache moves on. */
struct entry {
    struct list lru;
    struct entry *next; /* same hash */
    uint64_t chunk, piece_offset;
    uint32_t number; /* of the frame; UINT32_MAX: the table */
    unsigned refs;
    bool kept;
    enum entry_state state;
    int err;
    size_t bytes; /* counted in the cache */
    struct fiber_queue loaded;
    /* what it is */
    struct codec_table table;
    uint8_t *data; /* frame: content; table: the whole piece, when it is small */
    enum store_from from;
    bool computed;
};

struct cache {
    struct map entries; /* hash → chain */
    struct list lru;    /* the most recently used first */
    size_t bytes, bytes_max;
};

struct pieces {
    struct stores *stores;
    struct codec *codec;
    struct cache tables, frames;
};

/* ------------------------------------------------------------------ the caches */

static uint64_t entry_hash(uint64_t chunk, uint64_t piece_offset, uint32_t number)
{
    uint64_t hash = (chunk * 0x9e3779b97f4a7c15u) ^ (piece_offset * 0xc2b2ae3d27d4eb4fu) ^ (number * 0x165667b19e3779f9u);
    return hash ^ hash >> 29;
}

static void entry_unref(struct entry *entry)
{
    CHECK(entry->refs > 0);
    if (--entry->refs > 0)
        return;
    codec_table_fini(&entry->table);
    free(entry->data);
    free(entry);
}

static void entry_unrefp(struct entry **entry)
{
    if (*entry)
        entry_unref(*entry);
}

static void cache_drop(struct cache *cache, struct entry *entry)
{
    if (!entry->kept)
        return;
    uint64_t hash = entry_hash(entry->chunk, entry->piece_offset, entry->number);
    struct entry *first = map_get(&cache->entries, hash), *before = first;
    if (first == entry) {
        map_remove(&cache->entries, hash);
        if (entry->next)
            CHECK(map_put(&cache->entries, hash, entry->next) == 0); /* in the slot that has just become free */
    } else {
        while (before->next != entry)
            before = before->next;
        before->next = entry->next;
    }
    list_remove(&entry->lru);
    cache->bytes -= entry->bytes;
    entry->kept = false;
    entry_unref(entry);
}

/* Entries being loaded have no bytes yet and stay. */
static void cache_trim(struct cache *cache)
{
    for (struct list *at = cache->lru.prev; cache->bytes > cache->bytes_max && at != &cache->lru;) {
        struct entry *entry = list_entry(at, struct entry, lru);
        at = at->prev;
        if (entry->state != ENTRY_LOADING)
            cache_drop(cache, entry);
    }
}

static void cache_fini(struct cache *cache)
{
    while (!list_empty(&cache->lru))
        cache_drop(cache, list_entry(cache->lru.next, struct entry, lru));
    map_fini(&cache->entries);
}

/* The entry, counted; *ret_load: it is new, the caller has to load it and to call entry_loaded(). */
static struct entry *cache_get(struct cache *cache, const Tarn__Extent *extent, uint32_t number, bool *ret_load)
{
    uint64_t hash = entry_hash(extent->chunk, extent->piece_offset, number);
    struct entry *first = map_get(&cache->entries, hash), *entry = first;
    while (entry && (entry->chunk != extent->chunk || entry->piece_offset != extent->piece_offset || entry->number != number))
        entry = entry->next;
    *ret_load = entry == NULL;
    if (entry) {
        list_remove(&entry->lru);
    } else {
        entry = calloc(1, sizeof *entry);
        if (!entry)
            return NULL;
        *entry = (struct entry){.chunk = extent->chunk, .piece_offset = extent->piece_offset, .number = number, .next = first,
                                .refs = 1, .kept = true, .state = ENTRY_LOADING};
        if (map_put(&cache->entries, hash, entry) < 0) {
            free(entry);
            return NULL;
        }
    }
    list_prepend(&cache->lru, &entry->lru);
    entry->refs++;
    return entry;
}

static void entry_loaded(struct cache *cache, struct entry *entry, int err, size_t bytes)
{
    entry->state = err == 0 ? ENTRY_GOOD : ENTRY_FAILED;
    entry->err = err;
    fiber_queue_wake_all(&entry->loaded);
    if (err < 0) {
        cache_drop(cache, entry); /* who waits for it gets the error, who comes later tries anew */
        return;
    }
    entry->bytes = bytes + sizeof *entry;
    cache->bytes += entry->bytes;
    cache_trim(cache);
}

/* Another reader's loading. */
static int entry_wait(struct entry *entry)
{
    while (entry->state == ENTRY_LOADING) {
        int r = fiber_queue_wait(&entry->loaded, 0);
        if (r < 0)
            return r;
    }
    return entry->err;
}

static int pieces_make(struct stores *stores)
{
    if (stores->pieces)
        return 0;
    struct pieces *pieces = calloc(1, sizeof *pieces);
    if (!pieces)
        return -E_NOMEM;
    pieces->codec = codec_create(CODEC_LEVEL_MIN); /* only decompresses: the level says nothing */
    if (!pieces->codec) {
        free(pieces);
        return -E_NOMEM;
    }
    pieces->stores = stores;
    list_init(&pieces->tables.lru);
    list_init(&pieces->frames.lru);
    pieces->tables.bytes_max = PIECE_TABLES_BYTES;
    pieces->frames.bytes_max = PIECE_FRAMES_BYTES;
    stores->pieces = pieces;
    return 0;
}

void pieces_destroy(struct pieces *pieces)
{
    if (!pieces)
        return;
    cache_fini(&pieces->tables);
    cache_fini(&pieces->frames);
    codec_destroy(pieces->codec);
    free(pieces);
}

/* ------------------------------------------------------------------ compressed bytes */

/* How the bytes are come by. */
enum { ROUTE_ANY, ROUTE_CHECKED, ROUTE_REPLICA };
struct route {
    unsigned number; /* ROUTE_REPLICA + i: replica i alone; the one behind the last: the group alone */
    bool damaged;    /* what one of them gave was wrong */
    struct store_ask ask;
};

/* True: there is another way, which may help after what came of this one. Else *err is the whole's result. */
static bool route_next(struct route *route, const Tarn__Extent *extent, int *err)
{
    route->damaged |= *err == -E_CORRUPT;
    if (!route->damaged || (*err != -E_CORRUPT && *err != -E_UNAVAIL))
        return false;
    *err = -E_CORRUPT;
    unsigned replicas = (unsigned)MIN(extent->n_replicas, (size_t)STORE_MEMBERS_MAX);
    unsigned end = ROUTE_REPLICA + replicas + (extent->group != 0);
    if (++route->number >= end)
        return false;
    route->ask = (struct store_ask){.verified = true};
    if (route->number >= ROUTE_REPLICA) {
        unsigned only = route->number - ROUTE_REPLICA;
        route->ask.avoid = only < replicas ? ~(1u << only) : UINT32_MAX;
        route->ask.alone = only < replicas;
    }
    return true;
}

/* [at, at + n) of the piece as it is stored. */
static int stored_read(struct stores *stores, const Tarn__Extent *extent, uint64_t at, void *buf, size_t n, struct route *route)
{
    if (at > extent->stored || n > extent->stored - at)
        return -E_CORRUPT;
    return store_chunk_read(stores, extent, extent->piece_offset + at, buf, n, &route->ask);
}

static void entry_note(struct entry *entry, const struct route *route)
{
    entry->from = MAX(entry->from, route->ask.from);
    entry->computed |= route->ask.computed > 0;
}

/* ------------------------------------------------------------------ the table */

/* The end of the piece with the whole table; owned by the caller. */
static int tail_read(struct stores *stores, const Tarn__Extent *extent, struct route *route, uint8_t **ret, size_t *ret_n)
{
    size_t n = (size_t)MIN(extent->stored, extent->stored <= WHOLE_BYTES ? WHOLE_BYTES : TAIL_BYTES);
    if (n < CODEC_FOOTER_BYTES)
        return -E_CORRUPT;
    for (;;) {
        _cleanup_free_ uint8_t *tail = malloc(n);
        if (!tail)
            return -E_NOMEM;
        size_t table_bytes;
        int r = stored_read(stores, extent, extent->stored - n, tail, n, route);
        if (r == 0)
            r = codec_table_measure(tail + n - CODEC_FOOTER_BYTES, &table_bytes);
        if (r == 0 && table_bytes > extent->stored)
            r = -E_CORRUPT;
        if (r < 0)
            return r;
        if (table_bytes <= n) {
            *ret = take_ptr(tail);
            *ret_n = n;
            return 0;
        }
        n = table_bytes; /* larger than was thought: once more */
    }
}

static int table_from(struct stores *stores, const Tarn__Extent *extent, struct route *route, struct entry *entry, size_t *ret_bytes)
{
    _cleanup_free_ uint8_t *tail = NULL;
    size_t n, table_bytes;
    int r = tail_read(stores, extent, route, &tail, &n);
    if (r == 0)
        r = codec_table_measure(tail + n - CODEC_FOOTER_BYTES, &table_bytes);
    if (r == 0)
        r = codec_table_decode(tail + n - table_bytes, table_bytes, extent->stored, &entry->table);
    if (r == 0 && entry->table.content_len != extent->content) {
        codec_table_fini(&entry->table);
        r = -E_CORRUPT;
    }
    if (r < 0)
        return r;
    *ret_bytes = entry->table.n * sizeof entry->table.frames[0];
    if (n == extent->stored) {
        *ret_bytes += n;
        entry->data = take_ptr(tail);
    }
    entry_note(entry, route);
    return 0;
}

static int table_load(struct stores *stores, const Tarn__Extent *extent, struct entry *entry, size_t *ret_bytes)
{
    struct route route = {0};
    int r;
    do
        r = table_from(stores, extent, &route, entry, ret_bytes);
    while (route_next(&route, extent, &r));
    if (r == -E_CORRUPT)
        log_warn("chunk %llx: the table of the compressed piece at %llu is damaged in every copy",
                 (unsigned long long)extent->chunk, (unsigned long long)extent->piece_offset);
    return r;
}

static int table_get(struct pieces *pieces, const Tarn__Extent *extent, struct entry **ret)
{
    bool load;
    struct entry *entry = cache_get(&pieces->tables, extent, UINT32_MAX, &load);
    if (!entry)
        return -E_NOMEM;
    size_t bytes = 0;
    int r = load ? table_load(pieces->stores, extent, entry, &bytes) : entry_wait(entry);
    if (load)
        entry_loaded(&pieces->tables, entry, r, bytes);
    if (r < 0)
        entry_unref(entry);
    else
        *ret = entry;
    return r;
}

/* ------------------------------------------------------------------ frames */

/* One frame's content, by one route. */
static int frame_from(struct pieces *pieces, const Tarn__Extent *extent, const struct codec_frame *frame, struct route *route, uint8_t *to)
{
    _cleanup_free_ uint8_t *compressed = malloc(frame->len);
    if (!compressed)
        return -E_NOMEM;
    int r = stored_read(pieces->stores, extent, frame->offset, compressed, frame->len, route);
    return r < 0 ? r : codec_decompress(pieces->codec, compressed, frame->len, to, frame->content_len);
}

/* The frame's content into `to`; who brought it is noted in `note`. */
static int frame_decompress(struct pieces *pieces, const Tarn__Extent *extent, const struct entry *table, size_t number, uint8_t *to,
                            struct entry *note)
{
    const struct codec_frame *frame = &table->table.frames[number];
    if (table->data && codec_decompress(pieces->codec, table->data + frame->offset, frame->len, to, frame->content_len) == 0) {
        note->from = table->from;
        note->computed = table->computed;
        return 0;
    }
    struct route route = {0};
    int r;
    do
        r = frame_from(pieces, extent, frame, &route, to);
    while (route_next(&route, extent, &r));
    if (r == 0)
        entry_note(note, &route);
    else if (r == -E_CORRUPT)
        log_warn("chunk %llx: frame %zu of the compressed piece at %llu is damaged in every copy", (unsigned long long)extent->chunk,
                 number, (unsigned long long)extent->piece_offset);
    return r;
}

static int frame_load(struct pieces *pieces, const Tarn__Extent *extent, const struct entry *table, size_t number, struct entry *entry)
{
    entry->data = malloc(table->table.frames[number].content_len);
    return entry->data ? frame_decompress(pieces, extent, table, number, entry->data, entry) : -E_NOMEM;
}

/* A part of a frame, by the cache. */
static int frame_part(struct pieces *pieces, const Tarn__Extent *extent, const struct entry *table, size_t number, size_t skip,
                      uint8_t *buf, size_t n, struct store_ask *ask)
{
    bool load;
    _cleanup_(entry_unrefp) struct entry *entry = cache_get(&pieces->frames, extent, (uint32_t)number, &load);
    if (!entry)
        return -E_NOMEM;
    int r = load ? frame_load(pieces, extent, table, number, entry) : entry_wait(entry);
    if (load)
        entry_loaded(&pieces->frames, entry, r, table->table.frames[number].content_len);
    if (r < 0)
        return r;
    memcpy(buf, entry->data + skip, n);
    ask->from = MAX(ask->from, entry->from);
    ask->computed += entry->computed ? n : 0;
    return 0;
}

static int frame_whole(struct pieces *pieces, const Tarn__Extent *extent, const struct entry *table, size_t number, uint8_t *buf,
                       struct store_ask *ask)
{
    struct entry note = {0};
    int r = frame_decompress(pieces, extent, table, number, buf, &note);
    ask->from = MAX(ask->from, note.from);
    ask->computed += note.computed ? table->table.frames[number].content_len : 0;
    return r;
}

int piece_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, uint8_t *buf, size_t n, struct store_ask *ask)
{
    if (extent->form != TARN__CHUNK_FORM__FORM_ZSTD || extent->stored > PIECE_BYTES_MAX)
        return -E_NOTSUP;
    size_t inside = offset < extent->content ? (size_t)MIN((uint64_t)n, extent->content - offset) : 0;
    memset(buf + inside, 0, n - inside);
    if (inside == 0)
        return 0;
    int r = pieces_make(stores);
    _cleanup_(entry_unrefp) struct entry *table = NULL;
    if (r == 0)
        r = table_get(stores->pieces, extent, &table);
    while (r == 0 && inside > 0) {
        size_t number = codec_table_find(&table->table, offset);
        const struct codec_frame *frame = &table->table.frames[number]; /* there is one: the table covers the content */
        size_t skip = (size_t)(offset - frame->content_offset);
        size_t part = MIN(inside, frame->content_len - skip);
        r = part == frame->content_len ? frame_whole(stores->pieces, extent, table, number, buf, ask)
                                       : frame_part(stores->pieces, extent, table, number, skip, buf, part, ask);
        offset += part;
        buf += part;
        inside -= part;
    }
    return r;
}
