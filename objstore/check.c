/* The rows: superblock, boot file, index, journal. */
#include "check.h"

#include "common/err.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

void volume_check_tell(struct volume_checker *check, bool damage, const char *fmt, ...)
{
    char sentence[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    check->sum->damage += damage;
    check->fn(check->arg, damage, sentence);
}

static int read_start(struct volume *v, const char *name, uint8_t *buf, size_t n, int64_t *ret)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    snprintf(path, sizeof path, "%s/%s", v->dir, name);
    int err = io_open(v->io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    *ret = io_pread(file, buf, n, 0);
    return *ret < 0 ? (int)*ret : 0;
}

static void look_boot(struct volume_checker *check)
{
    int64_t n = 0;
    char *text = (char *)check->buf, state[16] = "", boot[VOLUME_BOOT_MAX];
    int err = read_start(check->volume, "boot", check->buf, 128, &n);
    check->buf[MAX(n, 0)] = '\0';
    if (err == 0 && sscanf(text, "tarn-boot 1 %15s %63s", state, boot) == 2) {
        if (strcmp(state, "closed") != 0)
            volume_check_tell(check, false, "it was not closed (%s): what the journal has counts as in the files", state);
        return;
    }
    volume_check_tell(check, err != -E_NOENT && err != 0, "the file boot %s: the next start suspects what was being written",
                      err == -E_NOENT ? "is not there" : "cannot be understood");
}

/* ------------------------------------------------------------------ journal */
static struct check_pending *pending_of(struct volume_checker *check, uint64_t chunk, bool make)
{
    struct check_pending *p = map_get(&check->pending, chunk);
    if (p != NULL || !make)
        return p;
    p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    list_init(&p->redos);
    if (map_put(&check->pending, chunk, p) == 0)
        return p;
    free(p);
    return NULL;
}

static void cut_redos(struct check_pending *p, uint64_t from)
{
    list_foreach_safe(&p->redos, it, next) {
        struct check_redo *redo = list_entry(it, struct check_redo, link);
        if (redo->offset + redo->len <= from)
            continue;
        redo->len = redo->offset < from ? from - redo->offset : 0;
        if (redo->len > 0)
            continue;
        list_remove(it);
        free(redo);
    }
}

static int note_data(struct check_pending *p, const struct record *record)
{
    struct check_redo *redo = malloc(sizeof *redo);
    if (redo == NULL)
        return -E_NOMEM;
    *redo = (struct check_redo){.offset = record->data_offset, .len = record->data_len, .data = record->data};
    list_append(&p->redos, &redo->link);
    return 0;
}

/* As the start of a volume does it (volume.c), but for the files. */
static int see_record(void *arg, const struct record *record, bool durable)
{
    struct volume_checker *check = arg;
    int err = index_apply(&check->volume->index, record);
    if (err != 0 || record->type == RECORD_MARK)
        return err;
    struct check_pending *p = pending_of(check, record->chunk, true);
    if (p == NULL)
        return -E_NOMEM;
    if (record->type == RECORD_TRUNCATE || record->type == RECORD_DELETE)
        cut_redos(p, record->type == RECORD_DELETE ? 0 : record->length);
    if (record->type == RECORD_SEAL || record->type == RECORD_DELETE)
        p->doubt = (struct cell_set){0};
    if (record->data_len > 0)
        err = note_data(p, record);
    uint32_t first = record->first_cell;
    if (record->data_len > 0)
        first = (uint32_t)((record->data_offset + record->data_len + CELL_BYTES - 1) / CELL_BYTES);
    for (uint32_t i = first; record->type == RECORD_WRITE && !durable && i < record->first_cell + record->n_cells; i++)
        cell_set_add(&p->doubt, i);
    return err;
}

static int load(struct volume_checker *check, uint8_t *memory[2], const char **ret_why)
{
    struct volume *v = check->volume;
    uint64_t covered = 0, seq, lsn;
    int64_t n = 0;
    int err = read_start(v, "superblock", check->buf, BLOCK_BYTES, &n);
    *ret_why = err == -E_NOENT ? "there is no superblock: it is no volume, or its superblock is lost" : err_sentence(err);
    if (err == 0)
        err = superblock_decode(check->buf, (size_t)n, &v->super);
    if (err != 0) {
        *ret_why = err == -E_CORRUPT   ? "its superblock is damaged"
                   : err == -E_VERSION ? "it was made by another version of Tarn"
                                       : *ret_why;
        return err;
    }
    look_boot(check);
    err = volume_index_load(v, &covered);
    if (err != 0) {
        *ret_why = err == -E_CORRUPT ? "its index is damaged" : err_sentence(err);
        return err;
    }
    err = journal_replay(v->io, v->dir, v->super.uuid, v->super.journal_bytes, covered, see_record, check, memory, &seq, &lsn);
    *ret_why = err == -E_CORRUPT ? "its journal is damaged" : err_sentence(err);
    return err;
}

/* ------------------------------------------------------------------ all */
static int id_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int look_chunks(struct volume_checker *check)
{
    struct map *chunks = &check->volume->index.chunks;
    _cleanup_free_ uint64_t *ids = malloc(MAX(chunks->count, (size_t)1) * sizeof *ids);
    size_t at = 0, n = 0;
    uint64_t id;
    void *value;
    if (ids == NULL)
        return -E_NOMEM;
    while (map_next(chunks, &at, &id, &value))
        ids[n++] = id;
    qsort(ids, n, sizeof *ids, id_compare);
    int err = 0;
    for (size_t i = 0; i < n && err == 0; i++)
        err = volume_check_chunk(check, map_get(chunks, ids[i]));
    return err;
}

static void forget_nothing(void *arg, struct chunk *chunk) {}

static void pending_fini(struct volume_checker *check)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&check->pending, &at, &id, &value)) {
        struct check_pending *p = value;
        cut_redos(p, 0);
        free(p);
    }
    map_fini(&check->pending);
}

int volume_check(struct io *io, const char *dir, bool fast, volume_check_fn fn, void *arg, struct volume_check_summary *ret,
                 const char **ret_why)
{
    _cleanup_free_ struct volume *v = calloc(1, sizeof *v);
    struct volume_checker check = {.volume = v, .fast = fast, .fn = fn, .arg = arg, .sum = ret};
    uint8_t *memory[2] = {NULL, NULL};
    *ret = (struct volume_check_summary){0};
    *ret_why = err_sentence(-E_NOMEM);
    if (v == NULL || posix_memalign((void **)&check.buf, BLOCK_BYTES, CELLS_WINDOW * CELL_BYTES) != 0)
        return -E_NOMEM;
    v->io = io;
    v->read_only = true;
    snprintf(v->dir, sizeof v->dir, "%s", dir);
    index_init(&v->index, forget_nothing, NULL);
    int err = strlen(dir) < sizeof v->dir ? load(&check, memory, ret_why) : -E_NAMETOOLONG;
    if (err == 0) {
        err = look_chunks(&check);
        if (err == 0)
            err = volume_check_files(&check);
        *ret_why = err_sentence(err);
    }
    pending_fini(&check);
    index_fini(&v->index);
    free(memory[0]);
    free(memory[1]);
    free(check.buf);
    return err;
}
