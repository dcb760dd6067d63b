#include "volume.h"

#include "verified.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

static void path_of(const struct volume *v, const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", v->dir, name);
}

/* ------------------------------------------------------------------ format */
static int make_dir(struct io *io, const char *path)
{
    int err = io_mkdir(io, path, 0700);
    return err == -E_EXIST ? 0 : err;
}

static int superblock_write(struct volume *v)
{
    char temporary[512], path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *block = malloc(BLOCK_BYTES);
    if (block == NULL)
        return -E_NOMEM;
    superblock_encode(&v->super, block);
    path_of(v, "superblock.new", temporary);
    path_of(v, "superblock", path);
    int err = io_open(v->io, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err == 0)
        err = volume_write_surely(v, file, &(struct iovec){block, BLOCK_BYTES}, 1, 0);
    if (err == 0)
        err = io_sync(file);
    if (err == 0)
        err = io_rename(v->io, temporary, path);
    return err != 0 ? err : io_sync_dir(v->io, v->dir);
}

static int refuse_name(void *arg, const char *name)
{
    return -E_EXIST;
}

/* A chunk file without a superblock beside it: this was a volume once. */
static int refuse_leftovers(struct volume *v)
{
    char path[512];
    for (unsigned shard = 0; shard < VOLUME_SHARDS; shard++) {
        snprintf(path, sizeof path, "%s/chunks/%02x", v->dir, shard);
        int err = io_list(v->io, path, refuse_name, NULL);
        if (err != 0 && err != -E_NOENT)
            return err == -E_EXIST ? -E_CORRUPT : err;
    }
    return 0;
}

/* The name of the volume's directory itself. */
static int sync_parent(struct volume *v)
{
    char path[sizeof v->dir];
    memcpy(path, v->dir, sizeof path);
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return io_sync_dir(v->io, ".");
    slash[slash == path ? 1 : 0] = '\0';
    return io_sync_dir(v->io, path);
}

/* The superblock comes last: a volume that has one is whole. */
static int format(struct volume *v, const struct volume_options *options)
{
    char path[512];
    v->super = (struct superblock){.cluster_id = options->cluster_id, .created_ns = io_real_ns(v->io)};
    v->super.journal_bytes = options->journal_bytes != 0 ? options->journal_bytes : VOLUME_JOURNAL_BYTES;
    io_random(v->io, v->super.uuid, sizeof v->super.uuid);
    if (v->super.journal_bytes % BLOCK_BYTES != 0 || v->super.journal_bytes < RECORD_BYTES_MAX)
        return -E_INVAL;
    int err = refuse_leftovers(v);
    if (err == 0)
        err = sync_parent(v);
    path_of(v, "chunks", path);
    if (err == 0)
        err = make_dir(v->io, path);
    for (unsigned shard = 0; err == 0 && shard < VOLUME_SHARDS; shard++) {
        snprintf(path, sizeof path, "%s/chunks/%02x", v->dir, shard);
        err = make_dir(v->io, path);
    }
    path_of(v, "chunks", path);
    if (err == 0)
        err = io_sync_dir(v->io, path);
    path_of(v, "spare", path);
    if (err == 0)
        err = make_dir(v->io, path);
    if (err == 0)
        err = journal_format(v->io, v->dir, v->super.uuid, v->super.journal_bytes);
    if (err == 0)
        err = io_sync_dir(v->io, v->dir);
    return err != 0 ? err : superblock_write(v);
}

static int superblock_read(struct volume *v, struct superblock *ret)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *block = malloc(BLOCK_BYTES);
    if (block == NULL)
        return -E_NOMEM;
    path_of(v, "superblock", path);
    int err = io_open(v->io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    int64_t n = io_pread(file, block, BLOCK_BYTES, 0);
    return n < 0 ? (int)n : superblock_decode(block, (size_t)n, ret);
}

int volume_set_node(struct volume *v, const uint8_t node_uuid[16], uint32_t node, uint32_t disk)
{
    if (v->super.node == node && v->super.disk == disk && memcmp(v->super.node_uuid, node_uuid, 16) == 0)
        return 0;
    v->super.node = node;
    v->super.disk = disk;
    memcpy(v->super.node_uuid, node_uuid, 16);
    return superblock_write(v);
}

int volume_look(struct volume *v)
{
    struct superblock there;
    int err = superblock_read(v, &there);
    return err != 0 ? err : memcmp(there.uuid, v->super.uuid, 16) == 0 ? 0 : -E_CONFLICT;
}

void volume_fail(struct volume *v, int err)
{
    journal_fail(v->journal, err);
}

bool volume_failed(const struct volume *v)
{
    return v->journal->failed != 0;
}

/* ------------------------------------------------------------------ replay */
/* Data of a record that is to be written into its chunk's file again. */
struct redo {
    struct list link;
    uint64_t chunk, offset;
    size_t len;
    const uint8_t *data; /* in the journal's memory */
};
/* A cell whose data went straight to the file and may not have reached the disk. */
struct doubt {
    struct list link;
    uint64_t chunk;
    uint32_t first, n;
};
struct recovery {
    struct volume *v;
    struct list redos, doubts;
    uint64_t records;
};

static void drop_redos(struct recovery *rc, uint64_t chunk, uint64_t from)
{
    list_foreach_safe(&rc->redos, it, next) {
        struct redo *redo = list_entry(it, struct redo, link);
        if (redo->chunk != chunk || redo->offset + redo->len <= from)
            continue;
        redo->len = redo->offset < from ? from - redo->offset : 0;
        if (redo->len == 0) {
            list_remove(&redo->link);
            free(redo);
        }
    }
}

static void drop_doubts(struct recovery *rc, uint64_t chunk)
{
    list_foreach_safe(&rc->doubts, it, next) {
        struct doubt *doubt = list_entry(it, struct doubt, link);
        if (doubt->chunk == chunk) {
            list_remove(&doubt->link);
            free(doubt);
        }
    }
}

static int note_redo(struct recovery *rc, const struct record *record)
{
    struct redo *redo = malloc(sizeof *redo);
    if (redo == NULL)
        return -E_NOMEM;
    *redo = (struct redo){.chunk = record->chunk, .offset = record->data_offset, .len = record->data_len,
                          .data = record->data};
    list_append(&rc->redos, &redo->link);
    return 0;
}

/* The record's cells behind its own data were written straight to the file. */
static int note_doubt(struct recovery *rc, const struct record *record)
{
    uint32_t first = record->first_cell;
    if (record->data_len > 0)
        first = (uint32_t)((record->data_offset + record->data_len + CELL_BYTES - 1) / CELL_BYTES);
    uint32_t end = record->first_cell + record->n_cells;
    if (first >= end)
        return 0;
    struct doubt *doubt = malloc(sizeof *doubt);
    if (doubt == NULL)
        return -E_NOMEM;
    *doubt = (struct doubt){.chunk = record->chunk, .first = first, .n = end - first};
    list_append(&rc->doubts, &doubt->link);
    return 0;
}

static int replay_record(void *arg, const struct record *record, bool durable)
{
    struct recovery *rc = arg;
    int err = index_apply(&rc->v->index, record);
    rc->records++;
    if (err == 0 && (record->type == RECORD_TRUNCATE || record->type == RECORD_DELETE))
        drop_redos(rc, record->chunk, record->type == RECORD_DELETE ? 0 : record->length);
    /* A seal is recorded after the file was synced. */
    if (err == 0 && (record->type == RECORD_SEAL || record->type == RECORD_DELETE))
        drop_doubts(rc, record->chunk);
    if (err == 0 && record->data_len > 0)
        err = note_redo(rc, record);
    if (err == 0 && record->type == RECORD_WRITE && !durable)
        err = note_doubt(rc, record);
    return err;
}

static int redo_one(struct volume *v, const struct redo *redo)
{
    struct chunk *c = index_get(&v->index, redo->chunk);
    if (c == NULL)
        return 0;
    struct io_file *file;
    int err = volume_file(v, c, FILE_BUFFERED, true, &file);
    if (err == 0) {
        err = volume_write_surely(v, file, &(struct iovec){(void *)(uintptr_t)redo->data, redo->len}, 1, redo->offset);
        c->new_name = true; /* perhaps */
        volume_file_written(v, c, false);
        volume_file_done(v, c);
    }
    chunk_unref(&v->index, c);
    return err;
}

/* A cell that never reached the disk was never acknowledged as synced: it is dropped. */
static int settle_cell(struct volume *v, struct chunk *c, struct io_file *file, uint32_t i, uint8_t *buf)
{
    struct cell cell = chunk_cell(c, i);
    if (cell.valid == 0)
        return 0;
    int64_t n = file == NULL ? 0 : io_pread(file, buf, cell.valid, (uint64_t)i * CELL_BYTES);
    if (n < 0)
        return (int)n;
    if (n == cell.valid && crc32c(0, buf, cell.valid) == cell.crc)
        return 0;
    log_warn("chunk %llx: cell %u was not yet on disk when the machine stopped: dropped",
             (unsigned long long)c->id, i);
    c->cells[i] = (struct cell){0, 0};
    return 0;
}

static int settle(struct volume *v, const struct doubt *doubt, uint8_t *buf)
{
    struct chunk *c = index_get(&v->index, doubt->chunk);
    if (c == NULL)
        return 0;
    struct io_file *file = NULL;
    int err = volume_file(v, c, FILE_BUFFERED, false, &file);
    bool open = err == 0;
    if (err == -E_NOENT)
        err = 0;
    for (uint32_t i = 0; err == 0 && i < doubt->n; i++)
        err = settle_cell(v, c, file, doubt->first + i, buf);
    if (open) {
        c->new_name = true; /* perhaps */
        volume_file_written(v, c, false);
        volume_file_done(v, c);
    }
    chunk_unref(&v->index, c);
    return err;
}

static int carry_out(struct recovery *rc)
{
    _cleanup_free_ uint8_t *buf = malloc(CELL_BYTES);
    int err = buf == NULL ? -E_NOMEM : 0;
    list_foreach_safe(&rc->redos, it, next) {
        struct redo *redo = list_entry(it, struct redo, link);
        if (err == 0)
            err = redo_one(rc->v, redo);
        list_remove(it);
        free(redo);
    }
    list_foreach_safe(&rc->doubts, jt, after) {
        struct doubt *doubt = list_entry(jt, struct doubt, link);
        if (err == 0)
            err = settle(rc->v, doubt, buf);
        list_remove(jt);
        free(doubt);
    }
    return err;
}

/* A crash between the seal's record and the cut leaves a file that is too long, or none. */
static int cut_sealed(struct volume *v)
{
    list_foreach(&v->index.dirty, it) {
        struct chunk *c = list_entry(it, struct chunk, dirty);
        struct io_file *file;
        if ((c->flags & CHUNK_SEALED) == 0)
            continue;
        int err = volume_file(v, c, FILE_BUFFERED, true, &file);
        if (err != 0)
            return err;
        err = io_truncate(file, c->length);
        volume_file_written(v, c, false);
        volume_file_done(v, c);
        if (err != 0)
            return err;
    }
    return 0;
}

/* Copies that were under way when the process ended begin anew. */
static int drop_partial(struct volume *v)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&v->index.chunks, &at, &id, &value)) {
        struct chunk *c = value;
        struct record record = {.type = RECORD_DELETE, .chunk = id};
        if ((c->flags & CHUNK_PARTIAL) == 0)
            continue;
        c->refs++;
        int err = index_apply(&v->index, &record);
        if (err == 0)
            volume_file_remove(v, c);
        chunk_unref(&v->index, c);
        if (err != 0)
            return err;
        at = 0; /* the table changed */
    }
    return 0;
}

/* Everything in the journal into files and index, then one checkpoint: the journal begins empty. */
static int recover(struct volume *v, uint64_t *ret_seq, uint64_t *ret_lsn)
{
    struct recovery rc = {.v = v};
    uint8_t *memory[2] = {NULL, NULL};
    uint64_t covered;
    list_init(&rc.redos);
    list_init(&rc.doubts);
    int err = volume_index_load(v, &covered);
    if (err == 0)
        err = journal_replay(v->io, v->dir, v->super.uuid, v->super.journal_bytes, covered, replay_record, &rc,
                             memory, ret_seq, ret_lsn);
    if (err == 0)
        err = volume_files_scan(v);
    int carried = carry_out(&rc); /* frees the lists in any case */
    free(memory[0]);
    free(memory[1]);
    if (err == 0)
        err = carried;
    if (err == 0)
        err = drop_partial(v);
    if (err == 0)
        err = cut_sealed(v);
    if (err == 0)
        err = volume_sync_unflushed(v);
    if (err != 0)
        return err;
    if (rc.records > 0)
        log_info("%s: %llu journal records replayed", v->dir, (unsigned long long)rc.records);
    if (!index_is_dirty(&v->index) && v->index_number != 0 && covered == *ret_seq)
        return 0;
    uint64_t count;
    bool full = v->index_number == 0 || volume_is_tight(v);
    _cleanup_(writer_fini) struct writer entries = {0};
    index_dump(&v->index, full, &entries, &count);
    return entries.failed ? -E_NOMEM : volume_index_write(v, *ret_seq, full, &entries, count);
}

/* ------------------------------------------------------------------ open and close */
static void want_checkpoint(void *arg)
{
    struct volume *v = arg;
    v->want_checkpoint = true;
    fiber_queue_wake_one(&v->checkpoint_work);
}

static void sync_run(void *arg)
{
    struct volume *v = arg;
    int err = 0;
    while (!v->closing && (err == 0 || err == -E_TIMEOUT)) {
        err = fiber_queue_wait(&v->sync_work, VOLUME_SYNC_MS);
        if (err == -E_TIMEOUT)
            err = journal_sync(v->journal);
        if (err == 0 && v->reserved == 0)
            volume_reserve_keep(v);
    }
    fiber_group_done(&v->fibers);
}

static int start_fiber(struct volume *v, const char *name, fiber_fn fn)
{
    fiber_group_add(&v->fibers);
    int err = fiber_spawn(v->io, name, fn, v);
    if (err != 0)
        fiber_group_done(&v->fibers);
    return err;
}

static void stop_fibers(struct volume *v)
{
    v->closing = true;
    fiber_queue_wake_all(&v->checkpoint_work);
    fiber_queue_wake_all(&v->sync_work);
    fiber_group_wait(&v->fibers);
}

static const char *open_failure(int err)
{
    switch (err) {
    case -E_CLUSTER: return "it belongs to another cluster";
    case -E_VERSION: return "it was made by another version of Tarn";
    case -E_CORRUPT: return "it is damaged, or holds chunks without a superblock";
    default: return err_sentence(err);
    }
}

static int load(struct volume *v, const struct volume_options *options)
{
    int err = make_dir(v->io, v->dir);
    if (err == 0)
        err = superblock_read(v, &v->super);
    if (err == -E_NOENT)
        err = format(v, options);
    if (err == 0 && v->super.cluster_id != options->cluster_id)
        err = -E_CLUSTER;
    uint64_t seq, lsn;
    uint64_t total, free;
    if (err == 0) {
        volume_reserve_find(v);
        err = volume_space(v, &total, &free); /* from the start: is it tight? */
    }
    if (err == 0)
        err = recover(v, &seq, &lsn);
    if (err == 0)
        volume_reserve_keep(v);
    if (err == 0)
        err = volume_boot_open(v, options->boot);
    struct journal_hooks hooks = {.before_sync = volume_sync_unsynced, .want_roll = want_checkpoint, .arg = v};
    if (err == 0)
        err = journal_open(v->io, v->dir, v->super.uuid, v->super.journal_bytes, seq + 1, lsn + 1, &hooks,
                           &v->journal);
    return err;
}

int volume_open(struct io *io, const struct volume_options *options, struct volume **ret, const char **ret_why)
{
    struct volume *v = calloc(1, sizeof *v);
    *ret_why = err_sentence(-E_NOMEM);
    if (v == NULL)
        return -E_NOMEM;
    v->io = io;
    snprintf(v->dir, sizeof v->dir, "%s", options->dir);
    v->capacity = options->capacity;
    v->withdraw = options->withdraw;
    v->withdraw_arg = options->withdraw_arg;
    v->reserve_bytes = options->reserve_bytes;
    v->reserve_given = options->reserve_bytes != 0;
    v->files_max = options->files_max != 0 ? options->files_max : VOLUME_FILES_MAX;
    list_init(&v->open);
    list_init(&v->unsynced);
    list_init(&v->unflushed);
    index_init(&v->index, volume_file_forget, v);
    buffers_init(&v->buffers);
    damages_init(&v->damages, io);
    int err = strlen(options->dir) < sizeof v->dir ? load(v, options) : -E_NAMETOOLONG;
    if (err == 0)
        err = verified_open(v, &v->verified);
    if (err == 0)
        err = start_fiber(v, "checkpoint", volume_checkpoint_run);
    if (err == 0)
        err = start_fiber(v, "sync", sync_run);
    if (err != 0) {
        *ret_why = open_failure(err);
        stop_fibers(v);
        if (v->journal != NULL)
            journal_close(v->journal);
        verified_close(v->verified);
        index_fini(&v->index);
        buffers_fini(&v->buffers);
        damages_fini(&v->damages);
        free(v);
        return err;
    }
    *ret = v;
    return 0;
}

void volume_close(struct volume *v)
{
    stop_fibers(v);
    int err = v->journal->failed != 0 ? v->journal->failed : index_is_dirty(&v->index) ? volume_checkpoint(v) : 0;
    int noted = err == -E_CANCELED ? 0 : volume_boot_close(v, err != 0);
    if (err == 0)
        err = noted;
    if (err != 0 && err != -E_CANCELED)
        log_warn("no last checkpoint of %s: %s; the next start replays the journal", v->dir, err_sentence(err));
    journal_close(v->journal);
    verified_close(v->verified);
    index_fini(&v->index);
    buffers_fini(&v->buffers);
    damages_fini(&v->damages);
    map_fini(&v->deleted);
    free(v);
}

/* ------------------------------------------------------------------ what is not made anew */
void volume_note_deleted(struct volume *v, uint64_t chunk)
{
    if (v->deleted.count >= VOLUME_DELETED_MAX)
        map_fini(&v->deleted);
    if (map_put(&v->deleted, chunk, v) != 0)
        log_warn("out of memory: the deletion of chunk %llx is not remembered", (unsigned long long)chunk);
}

int volume_refuses(const struct volume *v, uint64_t id)
{
    const struct chunk *c = map_get(&v->index.chunks, id);
    if (c == NULL || !chunk_is_real(c))
        return map_get(&v->deleted, id) != NULL ? -E_STALE
               : v->first_chunk == 0            ? -E_BUSY
               : id < v->first_chunk            ? -E_NOENT
                                                : 0;
    return volume_suspects(v, c) ? -E_BUSY : 0;
}

/* ------------------------------------------------------------------ changes */
uint64_t volume_chunks(const struct volume *v)
{
    return v->index.chunks.count;
}

int volume_record(struct volume *v, struct chunk *c, struct record *record,
                  int (*check)(const struct chunk *chunk, const struct record *record))
{
    record->chunk = c->id;
    int err = journal_reserve(v->journal, record_size(record));
    if (err == 0 && check != NULL)
        err = check(c, record);
    if (err == 0)
        err = journal_put(v->journal, record);
    if (err != 0)
        return err;
    err = index_apply(&v->index, record);
    CHECK(err == 0 || record->type == RECORD_DELETE);
    if (v->index.dirty_bytes > VOLUME_DIRTY_BYTES_MAX)
        want_checkpoint(v);
    return err;
}

int volume_delete(struct volume *v, struct chunk *c)
{
    struct record record = {.type = RECORD_DELETE};
    verified_gone(v, c); /* before it is gone: see verified.h */
    int err = volume_record(v, c, &record, NULL);
    if (err == 0)
        err = journal_commit(v->journal, record.lsn, true);
    if (err == 0)
        volume_file_remove(v, c);
    if (err == 0)
        damage_forget(&v->damages, c->id);
    return err;
}
