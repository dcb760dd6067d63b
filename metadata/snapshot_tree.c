/* SNAPSHOT_TAKE, SNAPSHOT_DROP, SNAPSHOT_LIST, and the giving back of a removed snapshot's rows. */
#include "snapshot_tree.h"

#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "namespace.h"
#include "view.h"

#define STEP_ROWS 256        /* history rows settled in one step: some milliseconds */
#define LIST_ROWS_MAX 20000u /* history rows looked at to say what snapshots keep, in one answer */
#define CLIMB_MAX 4096       /* directories between an open file and the snapshot's root */

/* ---- rows */

int snapshot_put(struct tables *t, const struct tree_snapshot *snapshot)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_ID, snapshot->id);
    tree_snapshot_encode(snapshot, &w);
    view_forget(t);
    return tables_put(t, &key, &w);
}

static int number_put(struct tables *t, const struct key *key, uint64_t number)
{
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(number, &w);
    return tables_put(t, key, &w);
}

int snapshot_free_id(struct tables *t, enum snapshot_room room, uint64_t max, uint64_t *last,
                     uint32_t *ret)
{
    for (uint64_t i = 0; i < max; i++) {
        *last = *last % max + 1;
        struct key key = key_2(TABLE_SNAPSHOT, room, *last);
        if (tables_has(t, &key))
            continue;
        *ret = (uint32_t)*last;
        return t->failed;
    }
    return tables_fail(t, -E_BUSY, "%llu snapshots or clones are the limit: remove some",
                       (unsigned long long)max);
}

static int snapshot_named(struct tables *t, uint64_t root, const char *name, struct tree_snapshot *ret)
{
    struct key key = key_snapshot_name(root, name, strlen(name));
    struct kv_val value;
    uint64_t id;
    const struct tree_snapshot *snapshot;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        err = tables_corrupt(t, &key, "name of a snapshot");
    if (err == 0)
        err = view_snapshot(t, (uint32_t)id, &snapshot);
    if (err == 0)
        *ret = *snapshot;
    return err == -E_NOENT ? tables_fail(t, err, "there is no snapshot %.100s", name) : err;
}

int snapshot_of(struct tables *t, const Tarn__Where *where, const char *name, struct inode *ret_dir,
                struct tree_snapshot *ret)
{
    int err = ns_where_dir(t, where, 0, ret_dir);
    if (err == 0 && ino_snapshot(ret_dir->ino) != 0)
        err = tables_fail(t, -E_ROFS, "a snapshot has no snapshots of its own");
    if (err == 0 && t->cred.uid != 0 && t->cred.uid != ret_dir->uid)
        err = tables_fail(t, -E_PERM, "only the owner of the directory and root do that");
    if (err == 0)
        err = ns_name_check(name);
    return err == 0 && ret != NULL ? snapshot_named(t, ret_dir->ino, name, ret) : err;
}

/* ---- taking one */

struct search {
    struct tables *t;
    uint64_t root;
    unsigned steps;
    bool found;
};

static int search_up(void *arg, uint64_t dir, uint32_t names)
{
    struct search *s = arg;
    for (uint64_t at = dir; !s->found;) {
        if (at == s->root || ++s->steps > CLIMB_MAX)
            s->found = true;
        if (at == MD_ROOT || s->found)
            return s->found;
        _cleanup_(inode_fini) struct inode inode = {0};
        int err = ns_inode_get(s->t, at, &inode);
        if (err == -E_NOENT || err == -E_STALE || inode.parent == at) /* outside of a clone's base */
            return 0;
        if (err != 0)
            return err;
        at = inode.parent;
    }
    return 1;
}

/* Is the inode named anywhere below the root? In doubt yes: a chunk is sealed in vain. */
static int is_below(struct tables *t, uint64_t ino, uint64_t root, bool *ret)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    struct search s = {.t = t, .root = root};
    int err = ns_inode_get(t, ino, &inode);
    if (err == 0 && inode.nlink > 0)
        err = ns_parents(t, &inode, search_up, &s);
    *ret = s.found || err == -E_NOENT;
    return err == -E_NOENT ? 0 : err;
}

struct open_files {
    uint64_t *inos;
    size_t n, cap;
};

static int open_file_add(void *arg, struct kv_val key, struct kv_val value)
{
    struct open_files *files = arg;
    struct reader r = reader_init(key.data + 1, key.len - 1);
    uint64_t ino = reader_be64(&r);
    if (files->n > 0 && files->inos[files->n - 1] == ino)
        return 0;
    if (files->n == files->cap) {
        size_t cap = files->cap * 2 + 64;
        uint64_t *grown = realloc(files->inos, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        files->inos = grown;
        files->cap = cap;
    }
    files->inos[files->n++] = ino;
    return 0;
}

/* K5: nothing that the snapshot names is written in place any more. */
static int freeze_below(struct tables *t, uint64_t root)
{
    struct key all = key_table(TABLE_OPEN_CHUNK);
    struct open_files files = {0};
    int err = tables_scan(t, &all, &all, open_file_add, &files);
    for (size_t i = 0; i < files.n && err == 0; i++) {
        bool below;
        err = is_below(t, files.inos[i], root, &below);
        if (err == 0 && below)
            err = chunk_file_freeze(t, files.inos[i]);
    }
    free(files.inos);
    return err;
}

static int snapshot_add(struct tables *t, const struct inode *dir, const char *name,
                        struct tree_snapshot *ret)
{
    struct state *s = tables_state(t);
    *ret = (struct tree_snapshot){.state = SNAPSHOT_LIVE,
                             .root = dir->ino,
                             .created = t->now,
                             .uid = t->cred.uid,
                             .next_ino = s->next_ino,
                             .name_len = (uint8_t)strlen(name)};
    memcpy(ret->name, name, ret->name_len);
    int err = snapshot_free_id(t, SNAPSHOT_BY_ID, SNAPSHOT_ID_MAX, &s->snapshot_id, &ret->id);
    if (err != 0)
        return err;
    ret->epoch = ++s->snapshot_epoch;
    s->snapshot_next_ino = s->next_ino;
    s->snapshots++;
    struct key named = key_snapshot_name(dir->ino, name, ret->name_len);
    struct key rooted = key_3(TABLE_SNAPSHOT, SNAPSHOT_BY_ROOT, dir->ino, ret->epoch);
    struct key epoch = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_EPOCH, ret->epoch);
    err = snapshot_put(t, ret);
    if (err == 0)
        err = number_put(t, &named, ret->id);
    if (err == 0)
        err = number_put(t, &rooted, ret->id);
    if (err == 0)
        err = number_put(t, &epoch, ret->id);
    return err == 0 ? clone_named(t, ino_clone(dir->ino), 1) : err;
}

static void snapshot_message(const struct tree_snapshot *snapshot, Tarn__Snapshot *out)
{
    tarn__snapshot__init(out);
    out->name = (char *)snapshot->name;
    out->id = snapshot->id;
    out->epoch = snapshot->epoch;
    out->created = snapshot->created;
    out->uid = snapshot->uid;
    out->clones = snapshot->clones;
}

int snapshot_cmd_take(struct tables *t, const void *message)
{
    const Tarn__SnapshotTake *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    struct tree_snapshot snapshot;
    uint64_t first_task = t->state.next_task;
    int err = snapshot_of(t, m->where, m->name, &dir, NULL);
    struct key named = key_snapshot_name(dir.ino, m->name, strlen(m->name));
    if (err == 0 && (tables_has(t, &named) || strcmp(m->name, SNAPSHOT_DIR) == 0))
        return -E_EXIST;
    if (err == 0 && t->state.tree_upgrade != 0)
        return tables_fail(t, -E_BUSY, "the tables are being completed after an upgrade");
    if (err == 0)
        err = freeze_below(t, dir.ino);
    if (err == 0)
        err = snapshot_add(t, &dir, m->name, &snapshot);
    if (err != 0)
        return err;
    Tarn__Snapshot answer;
    snapshot_message(&snapshot, &answer);
    Tarn__SnapshotReply reply = TARN__SNAPSHOT_REPLY__INIT;
    reply.snapshot = &answer;
    reply.settled = t->state.next_task == first_task; /* nothing was sealed */
    reply.sealed_before = reply.settled ? 0 : t->state.next_task;
    return tables_reply(t, &reply.base);
}

struct seals {
    uint64_t before;
    bool found;
};

static int seal_visit(void *arg, struct kv_val key, struct kv_val value)
{
    struct seals *seals = arg;
    struct store_task task;
    struct reader r = reader_init(key.data + 9, key.len - 9);
    if (store_task_decode(reader_be64(&r), value.data, value.len, &task) != 0)
        return -E_CORRUPT;
    if (task.id >= seals->before)
        return 1;
    seals->found = task.kind == TARN__CHUNK_TASK__KIND__SEAL_KEEP;
    return seals->found;
}

int snapshot_seals_due(struct kv_txn *txn, uint64_t before, bool *ret_due)
{
    struct fsm_result result = {0};
    struct tables t;
    struct seals seals = {.before = before};
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = clustermap_load(&t, &cluster);
    for (size_t i = 0; i < cluster.count && err == 0 && !seals.found; i++) {
        struct key tasks = key_1(TABLE_TASK, cluster.nodes[i].id);
        if (cluster.nodes[i].up) /* what is written on one that is down, is not acknowledged */
            err = tables_scan(&t, &tasks, &tasks, seal_visit, &seals);
    }
    *ret_due = seals.found;
    tables_fini(&t);
    fsm_result_fini(&result);
    return err;
}

/* ---- removing one */

int snapshot_dying(struct tables *t, struct tree_snapshot *snapshot)
{
    struct key rooted = key_3(TABLE_SNAPSHOT, SNAPSHOT_BY_ROOT, snapshot->root, snapshot->epoch);
    struct key epoch = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_EPOCH, snapshot->epoch);
    struct key dying = key_2(TABLE_SNAPSHOT, SNAPSHOT_DYING, snapshot->id);
    snapshot->state = SNAPSHOT_GOING;
    tables_state(t)->snapshots--;
    int err = snapshot_put(t, snapshot);
    if (err == 0)
        err = tables_del(t, &rooted);
    if (err == 0)
        err = tables_del(t, &epoch);
    if (err == 0)
        err = tables_put_empty(t, &dying);
    return err;
}

int snapshot_rests(struct tables *t, uint32_t id, int step)
{
    const struct tree_snapshot *found;
    int err = view_snapshot(t, id, &found);
    if (err != 0)
        return err;
    struct tree_snapshot snapshot = *found;
    snapshot.clones += (uint32_t)step;
    return snapshot.state == SNAPSHOT_HIDDEN && snapshot.clones == 0 ? snapshot_dying(t, &snapshot)
                                                                     : snapshot_put(t, &snapshot);
}

int snapshot_cmd_drop(struct tables *t, const void *message)
{
    const Tarn__SnapshotDrop *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    struct tree_snapshot snapshot;
    int err = snapshot_of(t, m->where, m->name, &dir, &snapshot);
    struct key named = key_snapshot_name(dir.ino, m->name, strlen(m->name));
    if (err == 0)
        err = tables_del(t, &named);
    if (err == 0)
        err = clone_named(t, ino_clone(snapshot.root), -1);
    if (err != 0)
        return err;
    if (snapshot.clones == 0)
        return snapshot_dying(t, &snapshot);
    snapshot.state = SNAPSHOT_HIDDEN; /* K6: its clones read it */
    return snapshot_put(t, &snapshot);
}

/* ---- giving back */

static int first_epoch(void *arg, struct kv_val key, struct kv_val value)
{
    struct key row;
    return key_of_history(key.data, key.len, &row, arg) != 0 ? -E_CORRUPT : 1;
}

/* K4: the row goes to the next older snapshot that covers it, unless that has one already. */
static int history_settle(struct tables *t, const struct key *key, uint64_t epoch)
{
    struct key row = key_history(key, epoch);
    struct kv_val value;
    struct history history;
    uint64_t target, first = 0;
    int err = tables_get(t, &row, &value);
    if (err == 0)
        err = view_keep(t, value.data, value.len, &value);
    if (err == 0 && history_decode(value.data, value.len, &history) != 0)
        err = tables_corrupt(t, &row, "history");
    if (err == 0)
        err = view_newest(t, &history.set, epoch, UINT64_MAX, &target);
    struct key from = key_history(key, target), prefix = key_history_prefix(key);
    if (err == 0 && target != 0)
        err = tables_scan(t, &from, &prefix, first_epoch, &first);
    if (err == 0)
        err = history_remove(t, key, epoch);
    if (err != 0)
        return err;
    bool moves = target != 0 && first == epoch;
    if (moves) { /* first taken, then given back: what is referred to must not go in between */
        err = history_put(t, key, target, &history);
        if (err == 0)
            err = history_refer(t, key, target, &history, 1);
    }
    return err == 0 ? history_refer(t, key, epoch, &history, -1) : err;
}

static int settle(struct tables *t, const struct row *index, uint64_t epoch)
{
    struct key key;
    if (key_of_history_of(&index->key, &key) != 0)
        return tables_corrupt(t, &index->key, "index of history");
    if (key.data[0] != TABLE_COVER)
        return history_settle(t, &key, epoch);
    return view_cover_settle(t, key_number(&key, 0), epoch);
}

static int give_back(struct tables *t, uint32_t id)
{
    const struct tree_snapshot *found;
    int err = view_snapshot(t, id, &found);
    if (err != 0)
        return err;
    uint64_t epoch = found->epoch;
    struct key prefix = key_1(TABLE_HISTORY_OF, epoch);
    _cleanup_(rows_fini) struct rows rows = {0};
    err = tables_rows(t, &prefix, &prefix, STEP_ROWS, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = settle(t, &rows.rows[i], epoch);
    if (err != 0 || rows.count == STEP_ROWS)
        return err;
    struct key dying = key_2(TABLE_SNAPSHOT, SNAPSHOT_DYING, id);
    struct key row = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_ID, id);
    view_forget(t);
    err = tables_del(t, &dying);
    return err == 0 ? tables_del(t, &row) : err;
}

bool snapshot_work_due(struct tables *t)
{
    struct key dying = key_1(TABLE_SNAPSHOT, SNAPSHOT_DYING);
    return t->state.snapshot_epoch != 0 && (tables_any(t, &dying) || clone_work_due(t));
}

int snapshot_step(struct tables *t)
{
    if (t->state.snapshot_epoch == 0)
        return 0;
    struct key prefix = key_1(TABLE_SNAPSHOT, SNAPSHOT_DYING);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, 1, &rows);
    if (err == 0 && rows.count == 1)
        err = give_back(t, (uint32_t)key_number(&rows.rows[0].key, 1));
    return err == 0 ? clone_step(t, STEP_ROWS) : err;
}

/* ---- listing */

/* What only this snapshot and older ones keep: the extents in its history rows. */
static int count_kept(struct tables *t, Tarn__Snapshot *out, size_t *budget)
{
    struct key prefix = key_1(TABLE_HISTORY_OF, out->epoch);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, *budget, &rows);
    out->more = rows.count == *budget;
    *budget -= rows.count;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct key key;
        struct kv_val value;
        struct history history;
        struct extent extent;
        if (key_of_history_of(&rows.rows[i].key, &key) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "index of history");
        out->rows++;
        if (key.data[0] != TABLE_EXTENT)
            continue;
        struct key row = key_history(&key, out->epoch);
        err = tables_get(t, &row, &value);
        if (err == 0 && history_decode(value.data, value.len, &history) != 0)
            err = tables_corrupt(t, &row, "history");
        if (err == 0 && history.kind == ROW_VALUE &&
            extent_decode(0, history.data, history.len, &extent) == 0)
            out->bytes += extent.length;
    }
    return err;
}

int snapshot_query_list(struct tables *t, const void *message)
{
    const Tarn__SnapshotList *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = ns_where_dir(t, m->where, 0, &dir);
    if (err == 0)
        err = ns_may(t, &dir, NS_READ);
    struct key names = key_snapshot_name(dir.ino, "", 0);
    if (err == 0)
        err = tables_rows(t, &names, &names, SNAPSHOT_ID_MAX, &rows);
    _cleanup_free_ struct tree_snapshot *found = calloc(rows.count + 1, sizeof *found);
    _cleanup_free_ Tarn__Snapshot *answers = calloc(rows.count + 1, sizeof *answers);
    _cleanup_free_ Tarn__Snapshot **pointers = calloc(rows.count + 1, sizeof *pointers);
    if (err == 0 && (found == NULL || answers == NULL || pointers == NULL))
        err = -E_NOMEM;
    size_t budget = LIST_ROWS_MAX;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        const struct tree_snapshot *snapshot;
        uint64_t id;
        if (number_decode(rows.rows[i].value, rows.rows[i].len, &id) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "name of a snapshot");
        err = view_snapshot(t, (uint32_t)id, &snapshot);
        if (err != 0)
            break;
        found[i] = *snapshot;
        pointers[i] = &answers[i];
        snapshot_message(&found[i], &answers[i]);
        err = count_kept(t, &answers[i], &budget);
    }
    if (err != 0)
        return err;
    Tarn__SnapshotListReply reply = TARN__SNAPSHOT_LIST_REPLY__INIT;
    reply.snapshots = pointers;
    reply.n_snapshots = rows.count;
    return tables_reply(t, &reply.base);
}
