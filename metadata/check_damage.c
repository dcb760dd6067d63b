/* W1, W5: rows of damaged copies and the flags of the copies say the same. */
#include "check_impl.h"
#include "chunkmap.h"
#include "damage.h"

static bool damaged_there(struct check *check, uint64_t id, uint32_t disk)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    struct chunk chunk;
    if (!check_get(check, &key, &value) || chunk_decode(id, value.data, value.len, &chunk) != 0)
        return false;
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        if (chunk.replicas[i].disk == disk)
            return (chunk.replicas[i].flags & REPLICA_DAMAGED) != 0;
    return false;
}

static int see_row(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t room = key_number(key, 0);
    struct damage_row row;
    if (room == DAMAGE_DUE) {
        struct key of = damage_key(key_number(key, 2), (uint32_t)key_number(key, 3));
        struct kv_val found;
        if (!check_get(check, &of, &found) ||
            damage_row_decode(key_number(key, 2), (uint32_t)key_number(key, 3), found.data, found.len, &row) != 0 ||
            row.due_ns != key_number(key, 1))
            check_violation(check, "W5", "the repair of chunk %llu is due and the chunk is not known as damaged so",
                            (unsigned long long)key_number(key, 2));
        return 0;
    }
    if (room != DAMAGE_OF ||
        damage_row_decode(key_number(key, 1), (uint32_t)key_number(key, 2), value.data, value.len, &row) != 0) {
        check_undecodable(check, key, "damaged copy");
        return 0;
    }
    struct key due = damage_due_key(&row);
    if (!check_has(check, &due))
        check_violation(check, "W5", "the repair of chunk %llu on disk %u is never due", (unsigned long long)row.chunk, row.disk);
    if (!damaged_there(check, row.chunk, row.disk))
        check_violation(check, "W5", "chunk %llu on disk %u is listed as damaged and is not", (unsigned long long)row.chunk, row.disk);
    return 0;
}

static int see_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct chunk chunk;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0)
        return 0; /* check_chunk.c says so */
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        const struct chunk_replica *r = &chunk.replicas[i];
        struct key row = damage_key(chunk.id, r->disk);
        if ((r->flags & REPLICA_DAMAGED) && (!(r->flags & REPLICA_READY) || !check_has(check, &row)))
            check_violation(check, "W5", "chunk %llu on disk %u is damaged, and no repair is noted", (unsigned long long)chunk.id,
                            r->disk);
    }
    return 0;
}

int check_room_damage(struct check *check)
{
    int err = check_each(check, TABLE_DAMAGED, see_row, NULL);
    return err == 0 ? check_each(check, TABLE_CHUNK, see_chunk, NULL) : err;
}
