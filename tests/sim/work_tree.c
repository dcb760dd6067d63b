/* Names: each worker makes, renames and removes entries of a directory of its own, and knows what must be in it. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

static void dir_name(const struct worker *worker, char out[32])
{
    snprintf(out, 32, "t%u-%u", worker->client, worker->index);
}

static void where_dir(const struct worker *worker, Tarn__Where *where)
{
    tarn__where__init(where);
    where->ino = worker->tree.dir_ino;
}

static int make(struct client *client, Tarn__Where *parent, const char *name, bool is_dir, bool exclusive, uint64_t *ret_ino)
{
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = parent;
    request.name = (char *)(uintptr_t)name;
    request.type = is_dir ? TARN__FILE_TYPE__FT_DIR : TARN__FILE_TYPE__FT_FILE;
    request.mode = 0755;
    request.exclusive = exclusive;
    request.parents = !exclusive;
    int err = meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    if (err == 0) {
        *ret_ino = entry->attr->ino;
        tarn__entry__free_unpacked(entry, NULL);
    }
    return err;
}

static int remove_name(struct client *client, Tarn__Where *parent, const char *name, bool is_dir)
{
    Tarn__Unlink request = TARN__UNLINK__INIT;
    request.parent = parent;
    request.name = (char *)(uintptr_t)name;
    request.directory = is_dir;
    return meta_call(client->meta, OP_UNLINK, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* ---- one change */

/* Nobody can say whether the change happened. Every other error is an answer, and there is none that our own
 * directory could give. */
static bool in_doubt(int err)
{
    return err == -E_UNAVAIL || err == -E_NO_SESSION || err == -E_CANCELED || err == -E_BUSY || err == -E_NOMEM ||
           err == -E_TIMEOUT || err == -E_CONN;
}

static void retire(struct tree_model *model, unsigned number)
{
    model->retired[number / 8] |= (uint8_t)(1 << number % 8);
}

static void settle(struct worker *worker, const char *what, unsigned number, int err)
{
    if (!in_doubt(err))
        broken(worker, "%s n%u: %s, as the worker's own names cannot give", what, number, err_name(err));
    worker->doubtful++;
}

static void tree_make(struct client *client, struct worker *worker, struct name_model *name)
{
    struct tree_model *model = &worker->tree;
    Tarn__Where dir;
    char text[32];
    unsigned number = ++model->last_number;
    where_dir(worker, &dir);
    snprintf(text, sizeof text, "n%u", number);
    bool is_dir = prng_below(&worker->prng, 3) == 0;
    uint64_t ino;
    int err = make(client, &dir, text, is_dir, true, &ino);
    if (err == 0) {
        *name = (struct name_model){.number = number, .ino = ino, .is_dir = is_dir};
        worker->acked++;
        return;
    }
    retire(model, number);
    settle(worker, "make", number, err);
}

static void tree_remove(struct client *client, struct worker *worker, struct name_model *name)
{
    Tarn__Where dir;
    char text[32];
    where_dir(worker, &dir);
    snprintf(text, sizeof text, "n%u", name->number);
    int err = remove_name(client, &dir, text, name->is_dir);
    if (err != 0) {
        retire(&worker->tree, name->number);
        settle(worker, "remove", name->number, err);
    }
    worker->acked += err == 0;
    *name = (struct name_model){0};
}

static void tree_rename(struct client *client, struct worker *worker, struct name_model *name)
{
    struct tree_model *model = &worker->tree;
    Tarn__Where dir;
    char from[32], to[32];
    unsigned number = ++model->last_number;
    where_dir(worker, &dir);
    snprintf(from, sizeof from, "n%u", name->number);
    snprintf(to, sizeof to, "n%u", number);
    Tarn__Rename request = TARN__RENAME__INIT;
    request.from = request.to = &dir;
    request.from_name = from;
    request.to_name = to;
    int err = meta_call(client->meta, OP_RENAME, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    if (err == 0) {
        name->number = number;
        worker->acked++;
        return;
    }
    retire(model, name->number);
    retire(model, number);
    settle(worker, "rename", name->number, err);
    *name = (struct name_model){0};
}

void work_tree(struct client *client, struct worker *worker)
{
    struct tree_model *model = &worker->tree;
    if (model->dir_ino == 0) {
        Tarn__Where root = TARN__WHERE__INIT;
        char name[32];
        dir_name(worker, name);
        if (make(client, &root, name, true, false, &model->dir_ino) != 0)
            return;
    }
    for (unsigned i = 0; i < 3 && model->last_number + 2 < sizeof model->retired * 8; i++) {
        struct name_model *name = &model->live[prng_below(&worker->prng, NAMES_MAX)];
        if (name->number == 0)
            tree_make(client, worker, name);
        else if (prng_below(&worker->prng, 2) == 0)
            tree_rename(client, worker, name);
        else
            tree_remove(client, worker, name);
    }
}

/* ---- the end */

static int list(struct client *client, uint64_t ino, Tarn__ReadDirReply **ret)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    Tarn__ReadDir request = TARN__READ_DIR__INIT;
    request.where = &where;
    request.max = 1000;
    request.attrs = true;
    return meta_call(client->meta, OP_READDIR, &request.base, &request.ctx, &meta_root, &tarn__read_dir_reply__descriptor, ret, NULL);
}

static void check_entry(struct worker *worker, const Tarn__DirEntry *entry, bool found[NAMES_MAX])
{
    const struct tree_model *model = &worker->tree;
    unsigned number = 0;
    if (sscanf(entry->name, "n%u", &number) != 1 || number > model->last_number)
        broken(worker, "its directory has the name '%s', which it never made", entry->name);
    if (model->retired[number / 8] & 1 << number % 8)
        return;
    for (unsigned i = 0; i < NAMES_MAX; i++)
        if (model->live[i].number == number) {
            found[i] = true;
            bool is_dir = entry->attr->type == TARN__FILE_TYPE__FT_DIR;
            if (entry->attr->ino != model->live[i].ino || is_dir != model->live[i].is_dir)
                broken(worker, "n%u is another inode than it was", number);
            return;
        }
    broken(worker, "n%u was removed or renamed and is there again", number);
}

void check_tree(struct client *client, struct worker *worker)
{
    const struct tree_model *model = &worker->tree;
    bool found[NAMES_MAX] = {false};
    Tarn__ReadDirReply *reply = NULL;
    if (model->dir_ino == 0)
        return;
    int err = list(client, model->dir_ino, &reply);
    if (err != 0)
        broken(worker, "its directory cannot be listed after all faults have ended: %s", err_name(err));
    for (size_t i = 0; i < reply->n_entries; i++)
        check_entry(worker, reply->entries[i], found);
    tarn__read_dir_reply__free_unpacked(reply, NULL);
    for (unsigned i = 0; i < NAMES_MAX; i++)
        if (model->live[i].number != 0 && !found[i])
            broken(worker, "n%u was acknowledged and is not there", model->live[i].number);
    worker->checked++;
}

static int remove_below(struct client *client, uint64_t ino, unsigned depth)
{
    for (;;) {
        Tarn__ReadDirReply *reply = NULL;
        int err = list(client, ino, &reply);
        if (err != 0)
            return err;
        Tarn__Where where = TARN__WHERE__INIT;
        where.ino = ino;
        size_t n = reply->n_entries;
        for (size_t i = 0; i < n && err == 0; i++) {
            const Tarn__DirEntry *entry = reply->entries[i];
            bool is_dir = entry->attr->type == TARN__FILE_TYPE__FT_DIR;
            if (is_dir && depth > 0)
                err = remove_below(client, entry->attr->ino, depth - 1);
            if (err == 0)
                err = remove_name(client, &where, entry->name, is_dir);
        }
        tarn__read_dir_reply__free_unpacked(reply, NULL);
        if (err != 0 || n == 0)
            return err;
    }
}

int remove_all(struct client *client)
{
    return remove_below(client, 1, 4);
}
