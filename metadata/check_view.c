/* K1, K6, K7 and C11: snapshots, clones and history, and how many rows refer to each chunk. */
#include "check_impl.h"
#include "meta.pb-c.h"
#include "record_view.h"

struct views {
    uint64_t history, indexed;      /* sums over history and cover rows, and over their index */
    uint64_t referred, references;  /* sums over rows that name chunks, and over what chunks count */
    uint64_t kept, clones;          /* snapshots that rows are kept for; clone numbers */
    struct map names;               /* clone → live names + 1 that were found */
    uint64_t named, counted;        /* sums over history rows that name clones, and over their counts */
};

static uint64_t mix_key(const struct key *key)
{
    uint64_t sum = key->len;
    for (unsigned i = 0; i < key->len; i++)
        sum = check_mix(sum ^ key->data[i]);
    return sum;
}

static int names_add(struct views *views, uint32_t clone)
{
    if (clone == 0)
        return 0;
    uintptr_t names = (uintptr_t)map_get(&views->names, clone);
    return map_put(&views->names, clone, (void *)(MAX(names, (uintptr_t)1) + 1));
}

static void refer_chunk(struct views *views, const struct key *row, const void *data, size_t n)
{
    struct extent extent;
    if (row->data[0] == TABLE_EXTENT && extent_decode(0, data, n, &extent) == 0)
        views->referred += check_mix(extent.chunk);
}

/* The clone that the entry names from outside of it; 0 when none. */
static uint32_t clone_named_by(const struct key *row, const void *data, size_t n)
{
    struct entry entry;
    if (row->data[0] != TABLE_ENTRY || entry_decode(data, n, &entry) != 0)
        return 0;
    uint32_t clone = ino_clone(entry.ino);
    return clone == ino_clone(key_number(row, 0)) ? 0 : clone;
}

static uint64_t mix_name(uint32_t clone, uint64_t epoch)
{
    return check_mix(check_mix(clone) ^ epoch);
}

static int see_row(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    refer_chunk(arg, key, value.data, value.len);
    return names_add(arg, clone_named_by(key, value.data, value.len));
}

static int see_history(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct views *views = arg;
    struct history history;
    struct key row;
    uint64_t epoch;
    if (key_of_history(key->data, key->len, &row, &epoch) != 0 || history_decode(value.data, value.len, &history) != 0) {
        check_undecodable(check, key, "history");
        return 0;
    }
    struct key index = key_history_of(epoch, &row);
    views->history += mix_key(&index);
    if (history.kind != ROW_VALUE)
        return 0;
    refer_chunk(views, &row, history.data, history.len);
    uint32_t clone = clone_named_by(&row, history.data, history.len);
    views->named += clone == 0 ? 0 : mix_name(clone, epoch);
    return 0;
}

static int see_cover(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct views *views = arg;
    struct cover cover;
    if (cover_decode(value.data, value.len, &cover) != 0) {
        check_undecodable(check, key, "cover");
        return 0;
    }
    struct key index = key_history_of(cover.epoch, key);
    views->history += mix_key(&index);
    return 0;
}

static int see_index(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    ((struct views *)arg)->indexed += mix_key(key);
    return 0;
}

static int see_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct views *views = arg;
    struct chunk chunk;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0)
        return 0; /* told by the chunks' room */
    bool counts = chunk.state != TARN__CHUNK_STATE__CHUNK_DELETING && !(chunk.flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING));
    counts &= chunk.kind == CHUNK_DATA; /* no row of a file names the others */
    if (counts)
        views->references += (1 + (uint64_t)chunk.shares) * check_mix(chunk.id);
    if (chunk.shares > 0 && chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED)
        check_violation(check, "C11", "chunk %llu is shared and not sealed", (unsigned long long)chunk.id);
    return 0;
}

static bool number_at(struct check *check, const struct key *key, uint64_t expected)
{
    struct kv_val value;
    uint64_t number;
    return check_get(check, key, &value) && number_decode(value.data, value.len, &number) == 0 && number == expected;
}

static void see_snapshot(struct check *check, const struct key *key, struct kv_val value, struct views *views)
{
    struct tree_snapshot s;
    uint32_t id = (uint32_t)key_number(key, 1);
    if (tree_snapshot_decode(id, value.data, value.len, &s) != 0) {
        check_undecodable(check, key, "snapshot");
        return;
    }
    bool keeps = s.state != SNAPSHOT_GOING;
    struct key named = key_snapshot_name(s.root, s.name, s.name_len);
    struct key rooted = key_3(TABLE_SNAPSHOT, SNAPSHOT_BY_ROOT, s.root, s.epoch);
    struct key epoch = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_EPOCH, s.epoch);
    struct key dying = key_2(TABLE_SNAPSHOT, SNAPSHOT_DYING, id);
    views->kept += keeps;
    if ((s.state == SNAPSHOT_LIVE && !number_at(check, &named, id)) || number_at(check, &rooted, id) != keeps ||
        number_at(check, &epoch, id) != keeps || check_has(check, &dying) == keeps)
        check_violation(check, "K1", "snapshot %u is not listed as what it is", id);
    if (s.epoch > check->state.snapshot_epoch)
        check_violation(check, "K1", "the epoch of snapshot %u was never given out", id);
    if (s.state == SNAPSHOT_HIDDEN && s.clones == 0)
        check_violation(check, "K6", "snapshot %u is kept for clones and has none", id);
}

static void see_clone(struct check *check, const struct key *key, struct kv_val value, struct views *views)
{
    struct clone clone;
    uint32_t id = (uint32_t)key_number(key, 1);
    if (clone_decode(id, value.data, value.len, &clone) != 0) {
        check_undecodable(check, key, "clone");
        return;
    }
    uintptr_t names = (uintptr_t)map_get(&views->names, id);
    views->clones++;
    if (clone.names != (names == 0 ? 0 : names - 1))
        check_violation(check, "K7", "clone %u counts %llu names, it has %llu", id, (unsigned long long)clone.names,
                        (unsigned long long)(names == 0 ? 0 : names - 1));
    struct key by_base = key_3(TABLE_SNAPSHOT, CLONE_BY_BASE, clone.family, clone.base);
    struct key snapshot = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_ID, clone.snapshot);
    if (!number_at(check, &by_base, id) || !check_has(check, &snapshot))
        check_violation(check, "K6", "clone %u rests on snapshot %u, which does not know it", id, clone.snapshot);
}

static int see_root_name(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct tree_snapshot s;
    if (key_number(key, 0) != SNAPSHOT_BY_ID || tree_snapshot_decode(0, value.data, value.len, &s) != 0)
        return 0;
    return s.state == SNAPSHOT_LIVE ? names_add(arg, ino_clone(s.root)) : 0;
}

static int see_room(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    if (key_number(key, 0) == SNAPSHOT_BY_ID)
        see_snapshot(check, key, value, arg);
    if (key_number(key, 0) == CLONE_BY_ID)
        see_clone(check, key, value, arg);
    uint64_t names;
    if (key_number(key, 0) == CLONE_IN_HISTORY && number_decode(value.data, value.len, &names) == 0)
        ((struct views *)arg)->counted += names * mix_name((uint32_t)key_number(key, 1), key_number(key, 2));
    return 0;
}

int check_room_views(struct check *check)
{
    struct views views = {0};
    int err = check_each(check, TABLE_EXTENT, see_row, &views);
    if (err == 0)
        err = check_each(check, TABLE_ENTRY, see_row, &views);
    if (err == 0)
        err = check_each(check, TABLE_HISTORY, see_history, &views);
    if (err == 0)
        err = check_each(check, TABLE_COVER, see_cover, &views);
    if (err == 0)
        err = check_each(check, TABLE_HISTORY_OF, see_index, &views);
    if (err == 0)
        err = check_each(check, TABLE_CHUNK, see_chunk, &views);
    if (err == 0)
        err = check_each(check, TABLE_SNAPSHOT, see_root_name, &views);
    if (err == 0)
        err = check_each(check, TABLE_SNAPSHOT, see_room, &views);
    if (err == 0 && views.history != views.indexed)
        check_violation(check, "K2", "the history rows and their index do not agree");
    if (err == 0 && views.referred != views.references)
        check_violation(check, "C11", "chunks do not count the rows that name them");
    if (err == 0 && views.named != views.counted)
        check_violation(check, "K7", "the history rows that name clones are not counted right");
    check_counter(check, "K1", "snapshots", check->state.snapshots, views.kept);
    check_counter(check, "K7", "clone numbers", check->state.clones, views.clones);
    map_fini(&views.names);
    return err;
}
