/* What the load's client does without asking the service: reads under read leases, and sizes that it keeps back under the exclusive
 * lease. (Delegated locks: load_work.c, through lease_lock.h.)
 *
 * A cached read happens at the instant its cache is asked. A raise that is kept back counts as answered at that instant when
 * the lease went back in a session that lives, else nobody knows. That only one client has the exclusive lease is a lock of the
 * history: each raise is a write by its holder. */
#include "load_impl.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>

#define KEEP_MS_MAX 40
#define RAISES 6
#define KEEPER 0xffff /* the lease's owner in the history, beside the workers */

/* ---- reads under read leases */

bool load_is_cached(struct load *load, uint64_t ino, const struct load_cache *cache, const struct history_op *op)
{
    unsigned wanted = op->verb == VERB_LOOKUP ? 1u << op->a : op->verb == VERB_LIST ? (1u << HISTORY_NAMES) - 1 : 1;
    bool reads = op->verb == VERB_LOOKUP || op->verb == VERB_LIST || op->verb == VERB_STAT;
    return reads && (cache->known & wanted) == wanted && cache->changing == 0 && load_session(load) > cache->doubt_session &&
           lease_valid(meta_leases(load->meta), ino, cache->stamp);
}

bool load_cached(struct load *load, uint64_t ino, const struct load_cache *cache, const struct history_op *op, uint64_t *result,
                 int *ret_err)
{
    if (!load_is_cached(load, ino, cache, op))
        return false;
    load->counters.cached_reads++;
    if (op->verb == VERB_LIST)
        memcpy(result, cache->value, sizeof cache->value);
    else
        result[0] = cache->value[op->verb == VERB_LOOKUP ? op->a : 0];
    *ret_err = op->verb == VERB_LOOKUP && result[0] == 0 ? -E_NOENT : 0;
    return true;
}

void load_cache_set(struct load_cache *cache, uint64_t stamp, unsigned known, const uint64_t *values)
{
    cache->stamp = stamp;
    cache->known = known;
    for (unsigned i = 0; i < HISTORY_NAMES; i++)
        cache->value[i] = known >> i & 1 ? values[i] : 0;
}

void load_change_begin(struct load_cache *cache)
{
    cache->changing++;
}

void load_change_end(struct load *load, struct load_cache *cache, int err)
{
    cache->changing--;
    uint64_t session = MAX(load->session, meta_session(load->meta));
    if (!load_certain(err))
        cache->doubt_session = MAX(cache->doubt_session, session);
}

void load_cache_prepare(struct load *load, uint64_t ino, struct load_cache *cache)
{
    struct leases *leases = meta_leases(load->meta);
    uint64_t stamp;
    if (!load->options.leases || lease_valid(leases, ino, cache->stamp) || load_draw(load, 2) == 0)
        return;
    if (lease_ask(leases, &ino, 1, &stamp) == 0 && stamp != 0 && stamp != cache->stamp)
        load_cache_set(cache, stamp, 0, NULL);
}

void load_cache_name(struct load *load, uint64_t ino, struct load_cache *cache, uint64_t stamp, uint64_t name, uint64_t value)
{
    if (cache->stamp != stamp || !lease_valid(meta_leases(load->meta), ino, stamp))
        return;
    cache->known |= 1u << name;
    cache->value[name] = value;
}

/* ---- a size kept back */

static size_t kept_begin(struct load *load, uint8_t verb, uint64_t a)
{
    return load_begin(load, &(struct history_op){.kind = HISTORY_SIZE, .verb = verb, .key = LOAD_SIZES, .a = a});
}

/* Done here and now; the return counts when it is known that it lasts. */
static void kept_note(struct load *load, uint8_t verb, uint64_t a)
{
    struct load_kept *kept = &load->kept;
    CHECK(kept->n_ops < LOAD_KEPT_OPS);
    kept->ops[kept->n_ops++] = kept_begin(load, verb, a);
    load_noted(load, kept->ops[kept->n_ops - 1])->result[0] = kept->size;
}

static void kept_settle(struct load *load, bool lasts)
{
    struct load_kept *kept = &load->kept;
    for (unsigned i = 0; i < kept->n_ops && lasts; i++) {
        struct history_op *op = load_noted(load, kept->ops[i]);
        op->return_ns = op->invoke_ns;
        load->counters.answered++;
    }
    load->doubtful += lasts ? 0 : kept->n_ops;
    kept->n_ops = 0;
}

static int flush(void *arg, uint64_t ino, uint64_t *ret_size, uint64_t *ret_mtime)
{
    struct load *load = arg;
    *ret_size = load->kept.size;
    return 0;
}

static struct history_op keeper_op(uint8_t verb, uint64_t session)
{
    return (struct history_op){.kind = HISTORY_LOCK, .verb = verb, .key = LOAD_LOCKS, .a = 1, .b = 1, .owner = session << 16 | KEEPER};
}

static void keep_raise(struct load *load, uint64_t session)
{
    struct load_kept *kept = &load->kept;
    struct history_op write = keeper_op(VERB_WRITE, session);
    kept->size += load_draw(load, 1000);
    kept_note(load, VERB_GROW, kept->size);
    load_end_here(load, load_begin(load, &write), 0);
    load->counters.kept_raises++;
}

/* With the lease: raises until it is asked back, or enough. When it went is known no better than: after the last raise. */
static void keep(struct load *load, uint64_t session, uint64_t invoke_ns)
{
    struct leases *leases = meta_leases(load->meta);
    struct history_op lock = keeper_op(VERB_LOCK, session), unlock = keeper_op(VERB_UNLOCK, session);
    if (!lease_exclusive_valid(leases, load->kept_ino))
        return; /* asked back before it came */
    size_t at = load_begin(load, &lock);
    load_noted(load, at)->invoke_ns = invoke_ns;
    load_end_here(load, at, 0);
    int err = 0;
    for (unsigned i = 0; i < RAISES && err == 0 && lease_exclusive_valid(leases, load->kept_ino); i++) {
        invoke_ns = load_now(load);
        keep_raise(load, session);
        err = io_sleep_ms(fiber_io(), load_draw(load, KEEP_MS_MAX));
    }
    at = load_begin(load, &unlock);
    load_noted(load, at)->invoke_ns = invoke_ns;
    err = lease_exclusive_end(leases, load->kept_ino);
    bool lasts = err == 0 && load_session(load) == session;
    kept_settle(load, lasts);
    load_end_here(load, at, lasts ? 0 : -E_NO_SESSION);
}

static void kept_open(struct load *load, uint64_t session)
{
    Tarn__Where where;
    Tarn__Open request = TARN__OPEN__INIT;
    Tarn__Close close = TARN__CLOSE__INIT;
    Tarn__Entry *entry = NULL;
    uint64_t invoke_ns = load_now(load);
    load_where(load->kept_ino, &where);
    request.where = &where;
    request.flags = O_WRONLY;
    request.want_exclusive = true;
    if (load_call(load, OP_OPEN, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry) != 0)
        return;
    uint64_t number = entry->exclusive;
    close.handle = entry->handle;
    load->kept.size = entry->attr->size;
    tarn__entry__free_unpacked(entry, NULL);
    if (number != 0 && load_session(load) == session &&
        lease_exclusive_begin(meta_leases(load->meta), load->kept_ino, number, flush, load) == 0)
        keep(load, session, invoke_ns);
    (void)load_call(load, OP_CLOSE, &close.base, &close.ctx, &meta_root, NULL, NULL); /* else with the session */
}

/* Through the service, as one who keeps nothing back. */
static int kept_ask(struct load *load, uint8_t verb, uint64_t a)
{
    size_t at = kept_begin(load, verb, a);
    uint64_t session = load_session(load), size = 0;
    int err = verb == VERB_STAT     ? load_size_of(load, load->kept_ino, NULL, &size)
              : verb == VERB_APPEND ? load_size_set(load, load->kept_ino, TARN__SET_ATTR_BITS__SA_GROW, 0, a, &size)
                                    : load_size_set(load, load->kept_ino, TARN__SET_ATTR_BITS__SA_SIZE, a, 0, &size);
    load_noted(load, at)->result[0] = size;
    load_end(load, at, err);
    if (verb != VERB_STAT && !load_certain(err))
        load->kept.doubt_session = session;
    return err;
}

void load_kept_work(struct load *load)
{
    static const uint8_t verbs[] = {VERB_STAT, VERB_STAT, VERB_APPEND, VERB_CUT};
    struct load_kept *kept = &load->kept;
    uint64_t session = load_session(load), what = load_draw(load, 8);
    if (kept->busy) { /* a colleague sees what is kept back */
        if (kept->n_ops > 0 && kept->n_ops < LOAD_KEPT_OPS - RAISES && lease_exclusive_valid(meta_leases(load->meta), load->kept_ino))
            kept_note(load, VERB_STAT, 0);
        return;
    }
    kept->busy = true;
    if (what >= ARRAY_SIZE(verbs) && load->options.leases && session != 0 && session != kept->doubt_session)
        kept_open(load, session);
    else if (session != 0)
        kept_ask(load, verbs[what % ARRAY_SIZE(verbs)], load_draw(load, 5000));
    kept->busy = false;
}

int load_kept_look(struct load *load)
{
    return kept_ask(load, VERB_STAT, 0);
}
