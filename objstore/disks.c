#include "disks.h"

#include "beat.h"
#include "handover.h"
#include "scrub.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

struct disk_dir {
    const char *dir;
    struct volume *volume; /* NULL: left out */
    bool told;             /* why it does not serve was logged */
};

struct disks {
    struct store *store;
    struct volume_options options; /* the same for all */
    int (*claim)(void *arg, const char *dir);
    void *claim_arg;
    struct disk_dir items[STORE_DISKS_MAX];
    unsigned n;
    bool stopping;
    struct fiber_queue wake;
    struct fiber_group fibers;
};

/* ------------------------------------------------------------------ open and close */
static const char *claim_failure(int err)
{
    return err == -E_BUSY ? "another tarn-stored runs on it" : err == -E_NOTDIR ? "nothing is mounted there" : err_sentence(err);
}

static void damage_found(void *arg)
{
    struct store *s = arg;
    if (s->beat != NULL)
        beat_tell(s->beat);
}

static int open_one(struct disks *d, struct disk_dir *item, const char **ret_why)
{
    struct store *s = d->store;
    struct volume_options options = d->options;
    options.dir = item->dir;
    int err = d->claim != NULL ? d->claim(d->claim_arg, item->dir) : 0;
    *ret_why = claim_failure(err);
    if (err == 0)
        err = volume_open(s->io, &options, &item->volume, ret_why);
    if (err != 0)
        return err;
    if (s->n_meta == 0)
        item->volume->first_chunk = 1; /* alone: whatever is written is made */
    item->volume->damages.news = damage_found;
    item->volume->damages.arg = s;
    s->volumes[s->n_volumes++] = item->volume;
    return 0;
}

static void options_take(struct store *s, struct disks *d, const struct store_options *options)
{
    d->options = (struct volume_options){.cluster_id = options->auth->cluster_id, .journal_bytes = options->journal_bytes,
                                         .reserve_bytes = options->reserve_bytes, .capacity = options->capacity,
                                         .files_max = options->files_max, .boot = options->boot,
                                         .withdraw = handover_drop, .withdraw_arg = s};
    d->claim = options->claim;
    d->claim_arg = options->claim_arg;
    d->n = options->dirs != NULL ? options->n_dirs : 1;
    for (unsigned i = 0; i < d->n && i < STORE_DISKS_MAX; i++)
        d->items[i].dir = options->dirs != NULL ? options->dirs[i] : options->dir;
}

int disks_open(struct store *s, const struct store_options *options, const char **ret_why)
{
    struct disks *d = calloc(1, sizeof *d);
    *ret_why = err_sentence(-E_NOMEM);
    if (d == NULL)
        return -E_NOMEM;
    s->disks = d;
    d->store = s;
    options_take(s, d, options);
    *ret_why = "a store has 1 to 64 directories";
    int first = d->n == 0 || d->n > STORE_DISKS_MAX ? -E_INVAL : 0;
    for (unsigned i = 0; first != -E_INVAL && i < d->n; i++) {
        const char *why;
        int err = open_one(d, &d->items[i], &why);
        if (err == 0)
            continue;
        if (d->n > 1) {
            log_error("cannot open the disk %s: %s; the others serve without it", d->items[i].dir, why);
            d->items[i].told = true;
        }
        if (first == 0) {
            first = err;
            *ret_why = why;
        }
        if (err == -E_CANCELED)
            break;
    }
    return s->n_volumes > 0 && first != -E_CANCELED ? 0 : first;
}

void disks_close(struct store *s)
{
    for (unsigned i = 0; i < s->n_volumes; i++)
        volume_close(s->volumes[i]);
    s->n_volumes = 0;
    free(s->disks);
    s->disks = NULL;
}

/* ------------------------------------------------------------------ watching */
static void look(struct disks *d, struct disk_dir *item)
{
    int err = volume_failed(item->volume) ? -E_IO : volume_look(item->volume);
    if (err == 0 || err == -E_CANCELED || err == -E_NOMEM || item->told)
        return;
    item->told = true;
    if (!volume_failed(item->volume)) {
        log_error("the disk %s is not what it was when it was opened: %s", item->dir, err_sentence(err));
        volume_fail(item->volume, err);
    }
    log_error("the disk %s has failed and is told as down; what is missing is copied from the other disks", item->dir);
    if (d->store->beat != NULL)
        beat_tell(d->store->beat);
}

static void try_again(struct disks *d, struct disk_dir *item)
{
    const char *why;
    if (open_one(d, item, &why) != 0)
        return;
    log_info("the disk %s is there again", item->dir);
    item->told = false;
    int err = scrub_watch(d->store);
    if (err != 0 && err != -E_CANCELED)
        log_warn("the disk %s is not scrubbed: %s", item->dir, err_sentence(err));
    if (d->store->beat != NULL)
        beat_rejoin(d->store->beat);
}

static void watch_run(void *arg)
{
    struct disks *d = arg;
    while (!d->stopping && fiber_queue_wait(&d->wake, DISKS_LOOK_MS) == -E_TIMEOUT)
        for (unsigned i = 0; i < d->n && !d->stopping; i++) {
            if (d->items[i].volume != NULL)
                look(d, &d->items[i]);
            else
                try_again(d, &d->items[i]);
        }
    fiber_group_done(&d->fibers);
}

int disks_watch(struct store *s)
{
    fiber_group_add(&s->disks->fibers);
    int err = fiber_spawn(s->io, "disks", watch_run, s->disks);
    if (err != 0)
        fiber_group_done(&s->disks->fibers);
    return err;
}

void disks_unwatch(struct store *s)
{
    if (s->disks == NULL)
        return;
    s->disks->stopping = true;
    fiber_queue_wake_all(&s->disks->wake);
    fiber_group_wait(&s->disks->fibers);
}

/* ------------------------------------------------------------------ who this node is */
static const uint8_t *node_uuid(const struct volume *v)
{
    static const uint8_t none[16];
    return memcmp(v->super.node_uuid, none, 16) != 0 ? v->super.node_uuid : v->super.uuid;
}

/* A disk that comes from another node says that node: most of them decide, and the configuration before them. */
static unsigned votes(const struct store *s, const struct volume *v)
{
    unsigned n = v->super.node == s->node_wanted && v->super.node != 0 ? STORE_DISKS_MAX : 0;
    for (unsigned i = 0; i < s->n_volumes; i++)
        n += s->volumes[i]->super.node != 0 && memcmp(node_uuid(s->volumes[i]), node_uuid(v), 16) == 0;
    return n;
}

uint32_t disks_node(const struct store *s, uint8_t ret_uuid[16])
{
    const struct volume *best = s->volumes[0];
    for (unsigned i = 1; i < s->n_volumes; i++)
        if (votes(s, s->volumes[i]) > votes(s, best))
            best = s->volumes[i];
    memcpy(ret_uuid, node_uuid(best), 16);
    return best->super.node;
}

unsigned disks_working(const struct store *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->n_volumes; i++)
        n += !volume_failed(s->volumes[i]);
    return n;
}
