/* Snapshots and clones of the load's directories. What a snapshot shows is a listing of its directory at some instant while it
 * was taken: it is recorded as such. Further rules, which need no search: a snapshot never changes; a clone begins as its snapshot, then
 * does what a directory does that nobody else knows. */
#include "load_impl.h"

#include "common/check.h"
#include "common/err.h"
#include "linear.h"

#include <stdio.h>
#include <stdlib.h>

#define LOOK_AGAIN_MS 300
#define CLONE_CHANGES 6
#define NAME_MAX_BYTES 32

struct snapshot {
    char name[NAME_MAX_BYTES], path[NAME_MAX_BYTES + 16], clone[NAME_MAX_BYTES];
    uint32_t key;
    uint64_t dir;
    struct linear_state state;
};

_Noreturn static void broken(const struct snapshot *snapshot, const char *what, int err)
{
    fprintf(stderr, "snapshot %s of directory %u: %s (%s)\n", snapshot->name, snapshot->key, what, err == 0 ? "success" : err_name(err));
    abort();
}

static int take(struct load *load, const struct snapshot *snapshot)
{
    Tarn__Where where;
    Tarn__SnapshotTake request = TARN__SNAPSHOT_TAKE__INIT;
    load_where(snapshot->dir, &where);
    request.where = &where;
    request.name = (char *)(uintptr_t)snapshot->name;
    return load_call(load, OP_SNAPSHOT_TAKE, &request.base, &request.ctx, &meta_root, NULL, NULL);
}

static int drop(struct load *load, const struct snapshot *snapshot)
{
    Tarn__Where where;
    Tarn__SnapshotDrop request = TARN__SNAPSHOT_DROP__INIT;
    load_where(snapshot->dir, &where);
    request.where = &where;
    request.name = (char *)(uintptr_t)snapshot->name;
    return load_call(load, OP_SNAPSHOT_DROP, &request.base, &request.ctx, &meta_root, NULL, NULL);
}

static int clone_make(struct load *load, const struct snapshot *snapshot, uint64_t *ret_ino)
{
    Tarn__Where where, root = TARN__WHERE__INIT;
    Tarn__Clone request = TARN__CLONE__INIT;
    Tarn__Entry *entry = NULL;
    load_where(snapshot->dir, &where);
    request.where = &where;
    request.name = (char *)(uintptr_t)snapshot->name;
    request.parent = &root;
    request.new_name = (char *)(uintptr_t)snapshot->clone;
    int err = load_call(load, OP_CLONE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry);
    if (err != 0)
        return err;
    *ret_ino = entry->attr->ino;
    tarn__entry__free_unpacked(entry, NULL);
    return 0;
}

/* The snapshot, while it is there, shows the same each time. */
static int look_again(struct load *load, const struct snapshot *snapshot)
{
    uint64_t names[HISTORY_NAMES] = {0};
    int err = load_list(load, snapshot->dir, snapshot->path, NULL, names);
    if (load_certain(err) && (err != 0 || memcmp(names, snapshot->state.word, sizeof names) != 0))
        broken(snapshot, "it shows something else than before", err);
    return err;
}

/* Takes it and has its listing recorded. Not 0: it is not there, or nobody knows. */
static int take_and_look(struct load *load, struct snapshot *snapshot)
{
    size_t at = load_begin(load, &(struct history_op){.kind = HISTORY_DIRECTORY, .verb = VERB_LIST, .key = snapshot->key});
    int taken = take(load, snapshot);
    uint64_t taken_ns = load_now(load), names[HISTORY_NAMES] = {0};
    if (load_certain(taken) && taken != 0)
        broken(snapshot, "it cannot be taken", taken);
    int err = load_list(load, snapshot->dir, snapshot->path, NULL, names);
    if (taken == 0 && load_certain(err) && err != 0)
        broken(snapshot, "it was taken and is not there", err);
    if (err != 0) {
        load->doubtful++;
        return err;
    }
    memcpy(load_noted(load, at)->result, names, sizeof names);
    memcpy(snapshot->state.word, names, sizeof names);
    load_end(load, at, 0);
    if (taken == 0)
        load_noted(load, at)->return_ns = taken_ns;
    load->counters.snapshots++;
    return 0;
}

/* ---- the clone, which only this worker knows */

static int clone_list(struct load *load, const struct snapshot *snapshot, uint64_t ino, const struct linear_state *state)
{
    uint64_t names[HISTORY_NAMES] = {0};
    int err = load_list(load, ino, "", NULL, names);
    if (load_certain(err) && (err != 0 || memcmp(names, state->word, sizeof names) != 0))
        broken(snapshot, "its clone does not show what it should", err);
    return err;
}

static int clone_change(struct load *load, const struct snapshot *snapshot, uint64_t ino, struct history_op op, struct linear_state *state)
{
    uint64_t none[HISTORY_NAMES];
    op.kind = HISTORY_DIRECTORY;
    op.status = load_directory_ask(load, ino, &op, none);
    if (load_certain(op.status) && !linear_step(NULL, &op, true, state))
        broken(snapshot, "a change of its clone gave what it cannot give", op.status);
    return load_certain(op.status) ? 0 : op.status;
}

static int clone_remove(struct load *load, const struct snapshot *snapshot, uint64_t ino, struct linear_state *state)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Unlink request = TARN__UNLINK__INIT;
    int err = 0;
    for (uint64_t i = 0; i < HISTORY_NAMES && err == 0; i++)
        if (state->word[i] != 0)
            err = clone_change(load, snapshot, ino, (struct history_op){.verb = VERB_UNLINK, .a = i}, state);
    request.parent = &root;
    request.name = (char *)(uintptr_t)snapshot->clone;
    request.directory = true;
    if (err == 0)
        err = load_call(load, OP_UNLINK, &request.base, &request.ctx, &meta_root, NULL, NULL);
    if (load_certain(err) && err != 0)
        broken(snapshot, "its clone cannot be removed", err);
    return err;
}

/* Not 0: nobody knows what became of it. It stays then. */
static int clone_work(struct load *load, const struct snapshot *snapshot)
{
    static const uint8_t verbs[] = {VERB_CREATE, VERB_CREATE, VERB_UNLINK, VERB_RENAME, VERB_EXCHANGE};
    struct linear_state state = snapshot->state;
    uint64_t ino = 0;
    int err = clone_make(load, snapshot, &ino);
    if (load_certain(err) && err != 0)
        broken(snapshot, "it cannot be cloned", err);
    if (err == 0)
        err = clone_list(load, snapshot, ino, &state);
    for (unsigned i = 0; i < CLONE_CHANGES && err == 0; i++) {
        struct history_op op = {.verb = verbs[load_draw(load, ARRAY_SIZE(verbs))], .a = load_draw(load, HISTORY_NAMES)};
        op.b = op.verb == VERB_CREATE ? load->options.client * UINT64_C(1000000) + ++load->numbers
                                      : (op.a + 1 + load_draw(load, HISTORY_NAMES - 1)) % HISTORY_NAMES;
        err = clone_change(load, snapshot, ino, op, &state);
    }
    if (err == 0)
        err = clone_list(load, snapshot, ino, &state);
    if (err == 0)
        err = clone_remove(load, snapshot, ino, &state);
    load->counters.clones += err == 0;
    return err;
}

void load_snapshot_work(struct load *load)
{
    struct snapshot snapshot = {.key = (uint32_t)load_draw(load, LOAD_DIRECTORIES)};
    unsigned number = (unsigned)++load->numbers;
    snapshot.dir = load->directories[snapshot.key];
    snprintf(snapshot.name, sizeof snapshot.name, "s%u-%u", load->options.client, number);
    snprintf(snapshot.clone, sizeof snapshot.clone, "c%u-%u", load->options.client, number);
    snprintf(snapshot.path, sizeof snapshot.path, ".snapshot/%s", snapshot.name);
    if (take_and_look(load, &snapshot) != 0 || io_sleep_ms(fiber_io(), load_draw(load, LOOK_AGAIN_MS)) != 0)
        return;
    if (load_draw(load, 2) == 0 && clone_work(load, &snapshot) != 0)
        return;
    if (look_again(load, &snapshot) != 0 || load_draw(load, 4) == 0)
        return; /* some stay */
    uint64_t names[HISTORY_NAMES] = {0};
    int err = drop(load, &snapshot);
    if (load_certain(err) && err != 0)
        broken(&snapshot, "it cannot be removed", err);
    if (err != 0)
        return;
    err = load_list(load, snapshot.dir, snapshot.path, NULL, names);
    if (load_certain(err) && err != -E_NOENT)
        broken(&snapshot, "it was removed and is there", err);
}
