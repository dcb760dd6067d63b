#include "damage.h"

#include "common/io.h"
#include "common/log.h"

void damages_init(struct damages *d, struct io *io)
{
    *d = (struct damages){.io = io};
    list_init(&d->untold);
    list_init(&d->told);
}

static void drop(struct damages *d, struct damage *damage)
{
    map_remove(&d->known, damage->chunk);
    list_remove(&damage->link);
    free(damage);
}

static void drop_all(struct damages *d, struct list *list)
{
    list_foreach_safe(list, it, next)
        drop(d, list_entry(it, struct damage, link));
}

void damages_fini(struct damages *d)
{
    drop_all(d, &d->untold);
    drop_all(d, &d->told);
    map_fini(&d->known);
}

/* Room for one more: the one told longest ago goes; when all are still to be told, none. */
static struct damage *make(struct damages *d, uint64_t chunk)
{
    if (d->known.count >= DAMAGE_MAX && list_empty(&d->told))
        return NULL;
    if (d->known.count >= DAMAGE_MAX)
        drop(d, list_entry(d->told.next, struct damage, link));
    struct damage *damage = calloc(1, sizeof *damage);
    if (damage == NULL || map_put(&d->known, chunk, damage) != 0) {
        free(damage);
        return NULL;
    }
    damage->chunk = chunk;
    list_init(&damage->link);
    return damage;
}

void damage_note(struct damages *d, struct chunk *c, uint64_t cell)
{
    if ((c->flags & CHUNK_PARTIAL) != 0 || c->dead)
        return;
    d->cells++;
    uint64_t now = io_mono_ms(d->io) + 1; /* never 0 */
    struct damage *damage = map_get(&d->known, c->id);
    if (damage != NULL && (damage->told_ms == 0 || now - damage->told_ms < DAMAGE_AGAIN_MS))
        return;
    if (damage == NULL)
        damage = make(d, c->id);
    if (damage == NULL)
        return;
    damage->generation = c->generation;
    damage->offset = cell * CELL_BYTES;
    damage->told_ms = 0;
    list_remove(&damage->link);
    list_append(&d->untold, &damage->link);
    log_error("chunk %llx generation %llu is damaged at byte %llu: the metadata service is told", (unsigned long long)c->id,
              (unsigned long long)c->generation, (unsigned long long)damage->offset);
    if (d->news != NULL)
        d->news(d->arg);
}

void damage_forget(struct damages *d, uint64_t chunk)
{
    struct damage *damage = map_get(&d->known, chunk);
    if (damage != NULL)
        drop(d, damage);
}

size_t damages_untold(const struct damages *d, struct damage *out, size_t max)
{
    size_t n = 0;
    list_foreach(&d->untold, it) {
        if (n == max)
            break;
        out[n++] = *list_entry(it, struct damage, link);
    }
    return n;
}

/* One that was forgotten, or forgotten and found again in the meantime, is another one: its time says so. */
void damages_told(struct damages *d, const struct damage *told, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct damage *damage = map_get(&d->known, told[i].chunk);
        if (damage == NULL || damage->told_ms != 0 || damage->generation != told[i].generation)
            continue;
        damage->told_ms = io_mono_ms(d->io) + 1;
        list_remove(&damage->link);
        list_append(&d->told, &damage->link);
    }
}
