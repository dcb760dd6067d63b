/* See snapshot_tree.h. Seen are: live snapshots; families with a live name, or with a file that is open
 * or being removed; what those rest on; families of the roots of seen snapshots; and families named by
 * a history row that a seen snapshot may read: one of its epoch or a later one. All numbers of clones
 * and snapshots are few (4,095 each), so they are gone through again until nothing is added. */
#include "common/err.h"
#include "snapshot_tree.h"
#include "view.h"

struct reach {
    struct {
        uint32_t family, base, snapshot; /* family 0: the number is free */
        uint64_t names, last_epoch;      /* of history rows that name it; 0 none */
        bool seen;                       /* at the family's own number */
        bool named;
    } clones[CLONE_ID_MAX + 1];
    struct {
        uint64_t epoch; /* 0: free */
        uint32_t root;  /* the clone number of its root */
        bool seen;
    } snapshots[SNAPSHOT_ID_MAX + 1];
    bool changed;
};

void reach_free(struct reach **reach)
{
    free(*reach);
}

struct key clone_rows(enum table table, uint32_t clone)
{
    struct key key = key_1(table, ino_with_clone(0, clone));
    key.len = 4; /* the letter, and three bytes: no snapshot, this clone */
    return key;
}

static void see_family(struct reach *r, uint32_t family)
{
    if (family == 0 || r->clones[family].seen)
        return;
    r->clones[family].seen = true;
    r->changed = true;
}

static void see_snapshot(struct reach *r, uint32_t id)
{
    if (id == 0 || id > SNAPSHOT_ID_MAX || r->snapshots[id].seen)
        return;
    r->snapshots[id].seen = true;
    r->changed = true;
}

static int load_clones(struct tables *t, struct reach *r)
{
    struct key prefix = key_1(TABLE_SNAPSHOT, CLONE_BY_ID);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, CLONE_ID_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct clone c;
        uint32_t id = (uint32_t)key_number(&rows.rows[i].key, 1);
        if (id > CLONE_ID_MAX || clone_decode(id, rows.rows[i].value, rows.rows[i].len, &c) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "clone");
        struct key history = key_2(TABLE_SNAPSHOT, CLONE_IN_HISTORY, id);
        struct key last = key_3(TABLE_SNAPSHOT, CLONE_IN_HISTORY, id, UINT64_MAX);
        struct kv_val key, value;
        err = tables_last(t, &last, &history, &key, &value);
        if (err == 0) {
            struct reader reader = reader_init(key.data + key.len - 8, 8);
            r->clones[id].last_epoch = reader_be64(&reader);
        }
        err = err == -E_NOENT ? 0 : err;
        r->clones[id].family = c.family;
        r->clones[id].base = c.base;
        r->clones[id].snapshot = c.snapshot;
        r->clones[id].names = c.names;
    }
    return err;
}

static int load_snapshots(struct tables *t, struct reach *r)
{
    struct key prefix = key_1(TABLE_SNAPSHOT, SNAPSHOT_BY_ID);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SNAPSHOT_ID_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct tree_snapshot s;
        uint32_t id = (uint32_t)key_number(&rows.rows[i].key, 1);
        if (id > SNAPSHOT_ID_MAX ||
            tree_snapshot_decode(id, rows.rows[i].value, rows.rows[i].len, &s) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "snapshot");
        r->snapshots[id].epoch = s.state == SNAPSHOT_GOING ? 0 : s.epoch;
        r->snapshots[id].root = ino_clone(s.root);
        if (s.state == SNAPSHOT_LIVE)
            see_snapshot(r, id);
    }
    return err;
}

/* Files that are open or being removed still need their numbers. */
static bool in_use(struct tables *t, uint32_t clone)
{
    static const enum table users[] = {TABLE_ORPHAN, TABLE_GARBAGE, TABLE_OPENS, TABLE_TO_SEAL};
    for (size_t j = 0; j < ARRAY_SIZE(users); j++) {
        struct key prefix = clone_rows(users[j], clone);
        if (tables_any(t, &prefix))
            return true;
    }
    return false;
}

static void pass(struct reach *r)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t id = 1; id <= SNAPSHOT_ID_MAX; id++)
        if (r->snapshots[id].seen && r->snapshots[id].epoch != 0) {
            oldest = MIN(oldest, r->snapshots[id].epoch);
            see_family(r, r->clones[r->snapshots[id].root].family);
        }
    for (uint32_t id = 1; id <= CLONE_ID_MAX; id++) {
        if (r->clones[id].last_epoch >= oldest)
            see_family(r, r->clones[id].family);
        if (r->clones[r->clones[id].family].seen)
            see_snapshot(r, r->clones[id].snapshot);
    }
}

int reach_find(struct tables *t, struct reach **ret)
{
    struct reach *r = *ret = calloc(1, sizeof *r);
    int err = r == NULL ? -E_NOMEM : load_snapshots(t, r);
    if (err == 0)
        err = load_clones(t, r);
    for (uint32_t id = 1; id <= CLONE_ID_MAX && err == 0; id++) {
        uint32_t family = r->clones[id].family;
        r->clones[family].named |= family != 0 && r->clones[id].names > 0;
        if (family != 0 && (r->clones[id].names > 0 || in_use(t, id)))
            see_family(r, family);
    }
    for (bool more = err == 0; more; more = r->changed) {
        r->changed = false;
        pass(r);
    }
    return err;
}

bool reach_sees(const struct reach *reach, uint32_t family)
{
    return reach->clones[family].seen;
}

bool reach_named(const struct reach *reach, uint32_t family)
{
    return reach->clones[family].named;
}

bool reach_member(const struct reach *reach, uint32_t family, uint32_t *at, uint32_t *ret_base)
{
    for (uint32_t id = *at + 1; id <= CLONE_ID_MAX; id++)
        if (reach->clones[id].family == family) {
            *at = id;
            *ret_base = reach->clones[id].base;
            return true;
        }
    return false;
}
