/* Start of the log: finds the vote and the segments and reads every group, as docs/formats/wal.md
 * ("Reading it at start") says. Everything on disk is doubted; nothing is changed except that
 * unfinished files are removed and what is read is made durable first. */
#include "wal_impl.h"
#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include <fcntl.h>
#include <stdio.h>

#define SEGMENTS_MAX 65536

/* ------------------------------------------------------------------ vote */
static int vote_create(struct wal *wal, const char *path)
{
    char temp[WAL_PATH_MAX];
    wal_path(wal, temp, "vote.tmp");
    int err = wal_file_open(wal->io, temp, O_CREAT | O_TRUNC, &wal->vote_file);
    if (err == 0)
        err = wal_set_vote(wal, 0, 0);
    if (err == 0)
        err = io_sync(wal->vote_file);
    if (err == 0)
        err = io_rename(wal->io, temp, path);
    return err != 0 ? err : io_sync_dir(wal->io, wal->dir);
}

static int vote_open(struct wal *wal)
{
    char path[WAL_PATH_MAX];
    wal_path(wal, path, "vote");
    int err = wal_file_open(wal->io, path, 0, &wal->vote_file);
    if (err == -E_NOENT)
        return vote_create(wal, path);
    if (err == 0)
        err = io_sync(wal->vote_file); /* as for segments */
    if (err != 0)
        return err;
    _cleanup_free_ uint8_t *both = wal_aligned(WAL_VOTE_BYTES);
    if (both == NULL)
        return -E_NOMEM;
    int64_t got = io_pread(wal->vote_file, both, WAL_VOTE_BYTES, 0);
    if (got < 0)
        return (int)got;
    bool found = false;
    for (unsigned copy = 0; copy < 2; copy++) {
        struct wal_vote vote;
        if (wal_vote_decode(both + copy * WAL_BLOCK, &vote) != 0)
            continue;
        if (!found || vote.sequence > wal->vote.sequence)
            wal->vote = vote;
        found = true;
    }
    if (found)
        return 0;
    log_error("log file %s: both copies of the vote are damaged; this replica could vote twice and "
              "must be restored or replaced",
              path);
    return -E_CORRUPT;
}

/* ------------------------------------------------------------------ files */
struct found {
    struct wal *wal;
    uint64_t *numbers;
    size_t count, cap;
    bool spare, vote;
    char remove[8][32]; /* unfinished files */
    unsigned n_remove;
};

static int found_number(struct found *found, uint64_t number)
{
    if (found->count >= SEGMENTS_MAX)
        return -E_CORRUPT;
    if (found->count == found->cap) {
        size_t cap = found->cap == 0 ? 64 : found->cap * 2;
        uint64_t *numbers = realloc(found->numbers, cap * sizeof *numbers);
        if (numbers == NULL)
            return -E_NOMEM;
        found->numbers = numbers;
        found->cap = cap;
    }
    found->numbers[found->count++] = number;
    return 0;
}

static int found_name(void *arg, const char *name)
{
    struct found *found = arg;
    size_t len = strlen(name);
    unsigned long long number;
    int end = 0;
    if (sscanf(name, "segment-%16llx.log%n", &number, &end) == 1 && end == 28 && len == 28)
        return found_number(found, number);
    found->spare = found->spare || strcmp(name, "spare.log") == 0;
    found->vote = found->vote || strcmp(name, "vote") == 0;
    if (len > 4 && len < 32 && strcmp(name + len - 4, ".tmp") == 0 && found->n_remove < 8)
        strcpy(found->remove[found->n_remove++], name);
    return 0;
}

static int spare_check(struct wal *wal)
{
    char path[WAL_PATH_MAX];
    wal_path(wal, path, "spare.log");
    _cleanup_(io_closep) struct io_file *file = NULL;
    uint64_t size = 0;
    int err = io_open(wal->io, path, O_RDWR, 0, &file);
    if (err == 0)
        err = io_size(file, &size);
    if (err != 0)
        return err;
    wal->spare_ready = size == wal->segment_bytes;
    return wal->spare_ready ? 0 : io_unlink(wal->io, path);
}

/* ------------------------------------------------------------------ groups */
struct scan {
    struct wal *wal;
    struct wal_segment *segment;
    const uint8_t *data;
    uint64_t size;
    bool begun; /* the first entry or reset of the whole log was seen */
};

static int scan_complain(const struct scan *scan, uint64_t offset, const char *what)
{
    char path[WAL_PATH_MAX];
    wal_segment_path(scan->wal, path, scan->segment->header.number);
    log_error("log file %s is damaged at byte %llu: %s; restore or replace this replica", path,
              (unsigned long long)offset, what);
    return -E_CORRUPT;
}

/* A group header of this use of the file, whatever its body is like. */
static bool header_at(const struct scan *scan, uint64_t offset, struct wal_group *ret)
{
    return offset + WAL_BLOCK <= scan->size && wal_group_decode(scan->data + offset, ret) == 0 &&
           ret->salt == scan->segment->header.salt &&
           ret->body_len <= scan->size - offset - WAL_GROUP_HEADER;
}

static bool group_at(const struct scan *scan, uint64_t offset, struct wal_group *ret)
{
    return header_at(scan, offset, ret) && ret->sequence == scan->wal->sequence &&
           crc32c(0, scan->data + offset + WAL_GROUP_HEADER, ret->body_len) == ret->body_crc;
}

static int take_entries(struct scan *scan, uint64_t offset, const struct wal_group *group)
{
    struct wal *wal = scan->wal;
    const uint8_t *body = scan->data + offset + WAL_GROUP_HEADER;
    struct reader r = reader_init(body, group->body_len);
    for (uint32_t i = 0; i < group->n_entries; i++) {
        uint64_t at = offset + WAL_GROUP_HEADER + (group->body_len - reader_left(&r));
        struct wal_entry entry;
        if (wal_entry_decode(&r, &entry) != 0 || entry.index != group->first_index + i)
            return scan_complain(scan, offset, "an entry is not valid");
        int err = wal_slot_append(wal, entry.term, entry.type, entry.data, entry.len);
        if (err != 0)
            return err;
        struct wal_slot *slot = wal_slot(wal, wal->last);
        slot->segment = scan->segment;
        slot->offset = (uint32_t)at;
        wal->dirty_from = wal->last + 1;
        wal_cache_trim(wal);
    }
    scan->segment->max_index = MAX(scan->segment->max_index, wal->last);
    return reader_left(&r) == 0 ? 0 : scan_complain(scan, offset, "a group has too many bytes");
}

static int take_group(struct scan *scan, uint64_t offset, const struct wal_group *group)
{
    struct wal *wal = scan->wal;
    if ((group->flags & WAL_GROUP_RESET) != 0) {
        wal_slots_reset(wal, group->first_index);
        list_foreach(&wal->segments, it) list_entry(it, struct wal_segment, link)->max_index = 0;
    } else if (!scan->begun || group->first_index < wal->first) {
        wal_slots_reset(wal, group->first_index);
    } else if (group->first_index > wal->last + 1) {
        return scan_complain(scan, offset, "entries are missing");
    } else if (group->first_index <= wal->last) {
        wal_slots_drop_from(wal, group->first_index);
    }
    scan->begun = true;
    return take_entries(scan, offset, group);
}

static int read_groups(struct scan *scan)
{
    struct wal *wal = scan->wal;
    struct wal_group group;
    uint64_t offset = WAL_BLOCK;
    while (group_at(scan, offset, &group)) {
        int err = take_group(scan, offset, &group);
        if (err != 0)
            return err;
        offset += round_up_u64(WAL_GROUP_HEADER + group.body_len, WAL_BLOCK);
        wal->sequence++;
    }
    wal->offset = offset;
    /* A torn tail has nothing after it: the next group is only begun when this one is whole. */
    for (; offset < scan->size; offset += WAL_BLOCK)
        if (header_at(scan, offset, &group) && group.sequence > wal->sequence)
            return scan_complain(scan, wal->offset, "a whole group follows one that is not");
    return 0;
}

static int read_segment(struct wal *wal, uint64_t number, bool *begun)
{
    struct wal_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return -E_NOMEM;
    segment->header.number = number;
    list_append(&wal->segments, &segment->link); /* freed with the log on failure */
    char path[WAL_PATH_MAX];
    wal_segment_path(wal, path, number);
    struct scan scan = {.wal = wal, .segment = segment, .begun = *begun};
    int err = wal_file_open(wal->io, path, 0, &segment->file);
    /* What a killed process was writing may be readable and yet not on disk. It will be built upon. */
    if (err == 0)
        err = io_sync(segment->file);
    if (err == 0)
        err = io_size(segment->file, &scan.size);
    if (err != 0)
        return err;
    if (scan.size < 2 * WAL_BLOCK || scan.size % WAL_BLOCK != 0 || scan.size > GIB(1))
        return scan_complain(&scan, 0, "its size is not that of a segment");
    _cleanup_free_ uint8_t *data = wal_aligned(scan.size);
    if (data == NULL)
        return -E_NOMEM;
    int64_t got = io_pread(segment->file, data, scan.size, 0);
    if (got < 0)
        return (int)got;
    struct wal_segment_header header;
    if ((uint64_t)got != scan.size || wal_segment_decode(data, &header) != 0 ||
        header.number != number || header.bytes != scan.size)
        return scan_complain(&scan, 0, "its header is not valid");
    bool oldest = wal->segments.next == &segment->link;
    if (!oldest && header.first_sequence != wal->sequence)
        return scan_complain(&scan, 0, "groups before it are missing");
    wal->sequence = header.first_sequence;
    segment->header = header;
    scan.data = data;
    err = read_groups(&scan);
    *begun = scan.begun;
    return err;
}

static int read_segments(struct wal *wal, const struct found *found)
{
    bool begun = false;
    for (size_t i = 0; i < found->count; i++) {
        if (i > 0 && found->numbers[i] != found->numbers[i - 1] + 1) {
            log_error("log %s: segment %016llx is missing; restore or replace this replica", wal->dir,
                      (unsigned long long)found->numbers[i - 1] + 1);
            return -E_CORRUPT;
        }
        int err = read_segment(wal, found->numbers[i], &begun);
        if (err != 0)
            return err;
    }
    return 0;
}

int wal_make_dir(struct io *io, const char *path)
{
    char parent[WAL_PATH_MAX];
    if (snprintf(parent, sizeof parent, "%s", path) >= (int)sizeof parent)
        return -E_NAMETOOLONG;
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        strcpy(parent, ".");
    else
        slash[slash == parent] = '\0';
    int err = io_mkdir(io, path, 0700);
    if (err != 0 && err != -E_EXIST)
        return err;
    return io_sync_dir(io, parent); /* also when it was there: a crash may have come before the sync */
}

int wal_recover(struct wal *wal)
{
    int err = wal_make_dir(wal->io, wal->dir);
    if (err != 0)
        return err;
    err = io_sync_dir(wal->io, wal->dir);
    if (err != 0)
        return err;
    struct found found = {.wal = wal};
    err = io_list(wal->io, wal->dir, found_name, &found); /* byte order: hexadecimal sorts */
    _cleanup_free_ uint64_t *numbers = found.numbers;
    for (unsigned i = 0; err == 0 && i < found.n_remove; i++) {
        char path[WAL_PATH_MAX];
        wal_path(wal, path, found.remove[i]);
        err = io_unlink(wal->io, path);
    }
    if (err == 0 && found.count > 0 && !found.vote) {
        log_error("log %s: the vote is missing beside the segments; this replica could vote twice and "
                  "must be restored or replaced",
                  wal->dir);
        return -E_CORRUPT;
    }
    if (err == 0 && found.spare)
        err = spare_check(wal);
    if (err == 0)
        err = vote_open(wal);
    if (err == 0)
        err = read_segments(wal, &found);
    if (err == 0 && list_empty(&wal->segments))
        err = wal_segment_switch(wal);
    return err;
}
