/* A file of each worker, overwritten in place: with and without fsync, truncated, read by its owner and by
 * workers of the other host. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

static int file_make(struct client *client, struct worker *worker, const char *name)
{
    Tarn__Where dir = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    if (worker->run->codes)
        dir.path = "/coded";
    request.parent = &dir;
    request.name = (char *)(uintptr_t)name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    int err = meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    if (err != 0)
        return err;
    worker->file.ino = entry->attr->ino;
    worker->file.made = true;
    tarn__entry__free_unpacked(entry, NULL);
    return 0;
}

static struct file *file_of(struct client *client, struct worker *owner, uint32_t flags, bool make)
{
    char path[64], name[32];
    snprintf(name, sizeof name, "f%u-%u", owner->client, owner->index);
    snprintf(path, sizeof path, "%s/%s", owner->run->codes ? "/coded" : "", name);
    if (!owner->file.made && (!make || file_make(client, owner, name) != 0))
        return NULL;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = path;
    struct file *file = NULL;
    return file_open(client->meta, client->stores, &where, flags, &meta_root, &file) == 0 ? file : NULL;
}

/* ---- changes */

static void bytes_become(struct file_model *model, size_t from, size_t to, enum byte_state state)
{
    memset(model->state + from, state, to - from);
}

void file_excuse(struct file_model *model)
{
    for (size_t i = 0; i < model->limit; i++)
        if (model->state[i] == WRITTEN)
            model->state[i] = DOUBTFUL;
}

static int change_write(struct file *file, struct worker *worker)
{
    struct file_model *model = &worker->file;
    size_t at = (size_t)prng_below(&worker->prng, model->limit), n = (size_t)prng_below(&worker->prng, model->limit * 9 / 40) + 1;
    n = MIN(n, model->limit - at);
    _cleanup_free_ uint8_t *buf = malloc(n + 8);
    CHECK(buf != NULL);
    content_fill(prng_u64(&worker->prng), buf, n);
    bytes_become(model, at, at + n, DOUBTFUL);
    bool grows = at + n > model->size, was_doubtful = model->size_doubtful;
    model->size_doubtful |= grows;
    int err = file_write(file, buf, n, at, false);
    if (err != 0)
        return err;
    memcpy(model->bytes + at, buf, n);
    bytes_become(model, at, at + n, WRITTEN);
    model->changed_from = at;
    model->changed_to = at + n;
    if (grows && !was_doubtful) {
        model->size = at + n;
        model->size_doubtful = false;
    }
    worker->acked++;
    return 0;
}

static int change_truncate(struct file *file, struct worker *worker)
{
    struct file_model *model = &worker->file;
    size_t size = (size_t)prng_below(&worker->prng, model->limit);
    bytes_become(model, size, model->limit, DOUBTFUL);
    model->size_doubtful = true;
    int err = file_truncate(file, size);
    if (err != 0)
        return err;
    memset(model->bytes + size, 0, model->limit - size);
    bytes_become(model, size, model->limit, WRITTEN);
    model->changed_from = size;
    model->changed_to = model->limit;
    model->size = size;
    model->size_doubtful = false;
    worker->acked++;
    return 0;
}

/* A sync of the handle that changed the file promises the change also when all members lost power in between: else it had
 * failed (C22). For what was closed before it promises what is left. */
static int change_sync(struct file *file, struct worker *worker, bool same_handle)
{
    struct file_model *model = &worker->file;
    int err = file_sync(file);
    if (err == 0 && same_handle)
        bytes_become(model, model->changed_from, model->changed_to, SYNCED);
    for (size_t i = 0; err == 0 && i < model->limit; i++)
        if (model->state[i] == WRITTEN)
            model->state[i] = SYNCED;
    return err;
}

void work_write(struct client *client, struct worker *worker)
{
    struct file *file = file_of(client, worker, O_RDWR, true);
    if (file == NULL)
        return;
    bool synced = prng_below(&worker->prng, 2) == 0;
    int err = 0;
    for (unsigned i = 0; i < 4 && err == 0; i++) {
        worker->file.changes++;
        err = prng_below(&worker->prng, 8) == 0 ? change_truncate(file, worker) : change_write(file, worker);
        worker->file.changes++;
        if (err == 0 && synced)
            rest_unsynced(worker);
        if (err == 0 && synced)
            err = change_sync(file, worker, true);
        if (!synced && prng_below(&worker->prng, 4) == 0) /* kept open and not synced for a while */
            io_sleep_ms(fiber_io(), prng_below(&worker->prng, 1500));
    }
    worker->doubtful += err != 0;
    file_close(file); /* without a session the handle is gone already */
    if (err == 0 && prng_below(&worker->prng, 3) == 0) { /* what another handle wrote */
        file = file_of(client, worker, O_RDWR, false);
        if (file != NULL) {
            change_sync(file, worker, false);
            file_close(file);
        }
    }
}

/* ---- reads */

static void compare(struct worker *worker, const struct worker *owner, const uint8_t *buf, int64_t n)
{
    const struct file_model *model = &owner->file;
    if (!model->size_doubtful && (uint64_t)n != model->size)
        broken(worker, "the file of client %u worker %u has %" PRId64 " bytes, acknowledged were %" PRIu64, owner->client, owner->index,
               n, model->size);
    for (size_t i = 0; i < model->limit; i++)
        if (model->state[i] != DOUBTFUL && buf[i] != model->bytes[i])
            broken(worker, "byte %zu of the file of client %u worker %u is %02x, acknowledged%s was %02x (size %" PRId64 ", ino %" PRIu64 ")",
                   i, owner->client, owner->index, buf[i], model->state[i] == SYNCED ? " and synced" : "", model->bytes[i], n, model->ino);
    worker->checked++;
}

void work_check_file(struct client *client, struct worker *worker, struct worker *owner, bool final)
{
    unsigned changes = owner->file.changes;
    struct file *file = file_of(client, owner, O_RDONLY, false);
    if (file == NULL) {
        if (final && owner->file.made)
            broken(worker, "the file of client %u worker %u cannot be opened after all faults have ended", owner->client, owner->index);
        return;
    }
    _cleanup_free_ uint8_t *buf = calloc(1, owner->file.limit);
    CHECK(buf != NULL);
    int64_t n = file_read(file, buf, owner->file.limit, 0);
    file_close(file);
    if (n < 0 && final)
        broken(worker, "the file of client %u worker %u cannot be read after all faults have ended: %s", owner->client, owner->index,
               err_name((int)n));
    /* The owner changed it meanwhile, or is about to: either content is right. */
    if (n >= 0 && changes % 2 == 0 && changes == owner->file.changes)
        compare(worker, owner, buf, n);
}
