/* Entries in memory, groups to disk, term and vote. Segments are wal_segment.c, start is wal_recover.c. */
#include "wal_impl.h"
#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include <fcntl.h>
#include <stdio.h>

#define SEGMENT_BYTES_DEFAULT MIB(16)
#define CACHE_BYTES_DEFAULT MIB(64)

/* ------------------------------------------------------------------ slots */
struct wal_slot *wal_slot(const struct wal *wal, uint64_t index)
{
    if (index < wal->first || index > wal->last)
        return NULL;
    return &wal->slots[(wal->head + (index - wal->first)) & (wal->cap - 1)];
}

static int slots_grow(struct wal *wal)
{
    size_t cap = wal->cap == 0 ? 1024 : wal->cap * 2, n = wal->last + 1 - wal->first;
    struct wal_slot *slots = malloc(cap * sizeof *slots);
    if (slots == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < n; i++)
        slots[i] = *wal_slot(wal, wal->first + i);
    free(wal->slots);
    wal->slots = slots;
    wal->cap = cap;
    wal->head = 0;
    return 0;
}

int wal_slot_append(struct wal *wal, uint64_t term, unsigned type, const void *data, size_t len)
{
    if (wal->last + 1 - wal->first == wal->cap) {
        int err = slots_grow(wal);
        if (err != 0)
            return err;
    }
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL)
        return -E_NOMEM;
    if (len > 0)
        memcpy(copy, data, len);
    wal->last++;
    *wal_slot(wal, wal->last) = (struct wal_slot){
        .term = term, .put = wal->next_put++, .data = copy, .len = (uint32_t)len, .type = type};
    wal->cached_bytes += len;
    return 0;
}

static void slot_forget_data(struct wal *wal, struct wal_slot *slot)
{
    if (slot->data == NULL)
        return;
    wal->cached_bytes -= slot->len;
    free(slot->data);
    slot->data = NULL;
}

void wal_slots_drop_from(struct wal *wal, uint64_t index)
{
    CHECK(index >= wal->first);
    while (wal->last >= index) {
        slot_forget_data(wal, wal_slot(wal, wal->last));
        wal->last--;
    }
    wal->cache_first = MIN(wal->cache_first, index);
    wal->dirty_from = MIN(wal->dirty_from, index);
}

void wal_slots_drop_below(struct wal *wal, uint64_t index)
{
    while (wal->first < index && wal->first <= wal->last) {
        slot_forget_data(wal, wal_slot(wal, wal->first));
        wal->head = (wal->head + 1) & (wal->cap - 1);
        wal->first++;
    }
    wal->cache_first = MAX(wal->cache_first, wal->first);
}

void wal_slots_reset(struct wal *wal, uint64_t next)
{
    for (uint64_t i = wal->first; i <= wal->last; i++)
        slot_forget_data(wal, wal_slot(wal, i));
    wal->head = 0;
    wal->first = wal->dirty_from = wal->cache_first = next;
    wal->last = next - 1;
}

/* Only what is on disk may leave memory. */
void wal_cache_trim(struct wal *wal)
{
    while (wal->cached_bytes > wal->cache_bytes_max && wal->cache_first <= wal->last) {
        struct wal_slot *slot = wal_slot(wal, wal->cache_first);
        if (slot->segment == NULL)
            return;
        slot_forget_data(wal, slot);
        wal->cache_first++;
    }
}

/* ------------------------------------------------------------------ life */
void wal_path(const struct wal *wal, char out[WAL_PATH_MAX], const char *name)
{
    snprintf(out, WAL_PATH_MAX, "%s/%s", wal->dir, name);
}

void *wal_aligned(size_t bytes)
{
    void *mem = aligned_alloc(WAL_BLOCK, bytes);
    if (mem != NULL)
        memset(mem, 0, bytes);
    return mem;
}

int wal_file_open(struct io *io, const char *path, int flags, struct io_file **ret)
{
    int err = io_open(io, path, O_RDWR | O_DSYNC | O_DIRECT | flags, 0600, ret);
    if (err == -E_INVAL)
        err = io_open(io, path, O_RDWR | O_DSYNC | flags, 0600, ret);
    return err;
}

static uint64_t group_max(const struct wal *wal)
{
    return MIN(WAL_GROUP_MAX, wal->segment_bytes - WAL_BLOCK);
}

int wal_open(struct io *io, const struct wal_options *options, struct wal **ret)
{
    struct wal *wal = calloc(1, sizeof *wal);
    if (wal == NULL)
        return -E_NOMEM;
    wal->io = io;
    wal->segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : SEGMENT_BYTES_DEFAULT;
    wal->cache_bytes_max = options->cache_bytes != 0 ? options->cache_bytes : CACHE_BYTES_DEFAULT;
    CHECK(wal->segment_bytes % WAL_BLOCK == 0 && wal->segment_bytes >= 4 * WAL_BLOCK);
    list_init(&wal->segments);
    wal->first = wal->dirty_from = wal->cache_first = 1;
    wal->next_put = 1;
    int err = -E_NAMETOOLONG;
    if (snprintf(wal->dir, sizeof wal->dir, "%s", options->dir) >= (int)sizeof wal->dir)
        goto fail;
    wal->buffer = wal_aligned(group_max(wal));
    err = wal->buffer == NULL ? -E_NOMEM : wal_recover(wal);
    if (err != 0)
        goto fail;
    *ret = wal;
    return 0;
fail:
    wal_close(wal);
    return err;
}

void wal_segment_free(struct wal_segment *segment)
{
    list_remove(&segment->link);
    io_close(segment->file);
    free(segment);
}

void wal_close(struct wal *wal)
{
    if (wal == NULL)
        return;
    if (wal->making.running > 0)
        fiber_group_wait(&wal->making);
    list_foreach_safe(&wal->segments, it, next)
    {
        wal_segment_free(list_entry(it, struct wal_segment, link));
    }
    wal_slots_reset(wal, 1);
    io_close(wal->vote_file);
    free(wal->slots);
    free(wal->buffer);
    free(wal);
}

/* ------------------------------------------------------------------ vote */
uint64_t wal_current_term(const struct wal *wal)
{
    return wal->vote.term;
}

uint64_t wal_voted_for(const struct wal *wal)
{
    return wal->vote.voted_for;
}

int wal_set_vote(struct wal *wal, uint64_t term, uint64_t voted_for)
{
    struct wal_vote vote = {
        .sequence = wal->vote.sequence + 1, .term = term, .voted_for = voted_for};
    _cleanup_free_ uint8_t *block = wal_aligned(WAL_BLOCK);
    if (block == NULL)
        return -E_NOMEM;
    wal_vote_encode(&vote, block);
    /* One after the other: at every moment at least one copy on disk is whole. */
    for (unsigned copy = 0; copy < 2; copy++) {
        int err = io_pwrite(wal->vote_file, block, WAL_BLOCK, copy * WAL_BLOCK);
        if (err != 0)
            return err;
    }
    wal->vote = vote;
    return 0;
}

/* ------------------------------------------------------------------ entries */
uint64_t wal_first(const struct wal *wal)
{
    return wal->first;
}

uint64_t wal_last(const struct wal *wal)
{
    return wal->last;
}

uint64_t wal_term_of(const struct wal *wal, uint64_t index)
{
    const struct wal_slot *slot = wal_slot(wal, index);
    return slot == NULL ? 0 : slot->term;
}

unsigned wal_type_of(const struct wal *wal, uint64_t index)
{
    const struct wal_slot *slot = wal_slot(wal, index);
    return slot == NULL ? 0 : slot->type;
}

size_t wal_length_of(const struct wal *wal, uint64_t index)
{
    const struct wal_slot *slot = wal_slot(wal, index);
    return slot == NULL ? 0 : slot->len;
}

uint64_t wal_bytes(const struct wal *wal)
{
    uint64_t bytes = 0;
    list_foreach(&wal->segments, it) bytes += list_entry(it, struct wal_segment, link)->header.bytes;
    return bytes;
}

int wal_put(struct wal *wal, uint64_t index, uint64_t term, unsigned type, const void *data,
            size_t len)
{
    if (index < wal->first || index > wal->last + 1 || term == 0)
        return -E_INVAL;
    if (len > group_max(wal) || WAL_GROUP_HEADER + wal_entry_bytes(len) > group_max(wal))
        return -E_FBIG;
    if (index <= wal->last)
        wal_slots_drop_from(wal, index);
    return wal_slot_append(wal, term, type, data, len);
}

bool wal_broken(const struct wal *wal)
{
    return wal->broken != 0;
}

bool wal_dirty(const struct wal *wal)
{
    return wal->dirty_from <= wal->last;
}

/* ------------------------------------------------------------------ groups */
static struct wal_segment *newest(const struct wal *wal)
{
    return list_entry(wal->segments.prev, struct wal_segment, link);
}

/* The last index of [from, to] that one group takes, and its size on disk. */
static uint64_t group_plan(const struct wal *wal, uint64_t from, uint64_t to, uint64_t *ret_size)
{
    uint64_t size = WAL_GROUP_HEADER, at = from;
    for (; at <= to; at++) {
        uint64_t more = wal_entry_bytes(wal_slot(wal, at)->len);
        if (size + more > group_max(wal))
            break;
        size += more;
    }
    *ret_size = round_up_u64(size, WAL_BLOCK);
    return at - 1;
}

static size_t group_build(struct wal *wal, uint64_t from, uint64_t to, unsigned flags)
{
    uint8_t *body = wal->buffer + WAL_GROUP_HEADER;
    size_t len = 0;
    for (uint64_t i = from; i <= to; i++) {
        const struct wal_slot *slot = wal_slot(wal, i);
        struct wal_entry entry = {
            .index = i, .term = slot->term, .type = slot->type, .len = slot->len, .data = slot->data};
        wal_entry_encode(&entry, body + len);
        len += wal_entry_bytes(slot->len);
    }
    struct wal_group group = {.flags = flags,
                              .salt = newest(wal)->header.salt,
                              .sequence = wal->sequence,
                              .first_index = from,
                              .n_entries = (uint32_t)(to + 1 - from),
                              .body_len = (uint32_t)len,
                              .body_crc = crc32c(0, body, len)};
    wal_group_encode(&group, wal->buffer);
    size_t size = round_up_u64(WAL_GROUP_HEADER + len, WAL_BLOCK);
    memset(body + len, 0, size - WAL_GROUP_HEADER - len);
    return size;
}

/* After a failed write the group may be on disk or not. Going on elsewhere could give two groups one
 * sequence, so nothing more is written until a restart has read what is there. */
static int group_write(struct wal *wal, size_t size)
{
    if (wal->broken != 0)
        return wal->broken;
    int err = io_pwrite(newest(wal)->file, wal->buffer, size, wal->offset);
    if (err != 0) {
        wal->broken = err;
        return err;
    }
    wal->offset += size;
    wal->sequence++;
    return 0;
}

/* Tells the slots that were written, and not replaced meanwhile, where they are. */
static void group_place(struct wal *wal, uint64_t from, uint64_t to, uint64_t flight_put,
                        uint64_t offset)
{
    struct wal_segment *segment = newest(wal);
    segment->max_index = MAX(segment->max_index, to);
    uint64_t at = offset + WAL_GROUP_HEADER;
    for (uint64_t i = from; i <= to; i++) {
        struct wal_slot *slot = wal_slot(wal, i);
        if (slot == NULL || slot->put > flight_put)
            return;
        slot->segment = segment;
        slot->offset = (uint32_t)at;
        at += wal_entry_bytes(slot->len);
    }
}

/* Writes one group of [from, to] and gives the index after it; `from` again after a new segment. */
static int flush_group(struct wal *wal, uint64_t from, uint64_t to, uint64_t flight_put,
                       uint64_t *ret_next)
{
    uint64_t size;
    to = group_plan(wal, from, to, &size);
    CHECK(to >= from);
    *ret_next = from;
    if (wal->broken == 0 && wal->offset + size > newest(wal)->header.bytes)
        return wal_segment_switch(wal);
    group_build(wal, from, to, 0);
    uint64_t offset = wal->offset;
    int err = group_write(wal, size);
    if (err != 0)
        return err;
    group_place(wal, from, to, flight_put, offset);
    *ret_next = to + 1;
    return 0;
}

int wal_flush(struct wal *wal, uint64_t *ret_durable)
{
    uint64_t from = wal->dirty_from, to = wal->last, flight_put = wal->next_put - 1;
    wal->dirty_from = to + 1;
    for (uint64_t at = from; at <= to;) {
        int err = flush_group(wal, at, to, flight_put, &at);
        if (err != 0) {
            wal->dirty_from = MIN(wal->dirty_from, at);
            return err;
        }
        /* While it was written a suffix may have been replaced: that part waits for the next flush. */
        to = MIN(to, wal->dirty_from - 1);
    }
    uint64_t kept = from;
    for (struct wal_slot *slot; kept <= to; kept++) {
        slot = wal_slot(wal, kept);
        if (slot == NULL || slot->put > flight_put)
            break;
    }
    *ret_durable = kept > from ? kept - 1 : 0;
    wal_cache_trim(wal);
    return 0;
}

int wal_reset(struct wal *wal, uint64_t next)
{
    CHECK(next > 0);
    if (wal->offset + WAL_BLOCK > newest(wal)->header.bytes) {
        int err = wal_segment_switch(wal);
        if (err != 0)
            return err;
    }
    int err = group_write(wal, group_build(wal, next, next - 1, WAL_GROUP_RESET));
    if (err != 0)
        return err;
    wal_slots_reset(wal, next);
    list_foreach(&wal->segments, it) list_entry(it, struct wal_segment, link)->max_index = 0;
    return wal_segments_trim(wal);
}

int wal_trim(struct wal *wal, uint64_t first)
{
    CHECK(first <= wal->last + 1);
    wal_slots_drop_below(wal, first);
    return wal_segments_trim(wal);
}

/* ------------------------------------------------------------------ reading back */
static int read_entry(struct wal *wal, struct wal_segment *segment, uint64_t offset, uint32_t len,
                      uint64_t index, struct writer *out)
{
    uint64_t start = offset / WAL_BLOCK * WAL_BLOCK;
    size_t n = round_up_u64(offset + wal_entry_bytes(len), WAL_BLOCK) - start;
    _cleanup_free_ uint8_t *buf = wal_aligned(n);
    if (buf == NULL)
        return -E_NOMEM;
    segment->readers++;
    int64_t got = io_pread(segment->file, buf, n, start);
    segment->readers--;
    if (got < 0)
        return (int)got;
    struct wal_entry entry = {0};
    int err = -E_CORRUPT;
    if ((uint64_t)got == n) {
        struct reader r = reader_init(buf + (offset - start), wal_entry_bytes(len));
        err = wal_entry_decode(&r, &entry);
    }
    if (err != 0 || entry.index != index) {
        log_error("log %s: entry %llu in segment %016llx at %llu does not match its checksum",
                  wal->dir, (unsigned long long)index, (unsigned long long)segment->header.number,
                  (unsigned long long)offset);
        return -E_CORRUPT;
    }
    writer_bytes(out, entry.data, entry.len);
    return out->failed ? -E_NOMEM : 0;
}

int wal_read(struct wal *wal, uint64_t index, struct writer *out)
{
    const struct wal_slot *slot = wal_slot(wal, index);
    if (slot == NULL)
        return -E_NOENT;
    if (slot->data != NULL) {
        writer_bytes(out, slot->data, slot->len);
        return out->failed ? -E_NOMEM : 0;
    }
    uint64_t put = slot->put;
    int err = read_entry(wal, slot->segment, slot->offset, slot->len, index, out);
    if (err != 0)
        return err;
    slot = wal_slot(wal, index);
    return slot != NULL && slot->put == put ? 0 : -E_NOENT;
}
