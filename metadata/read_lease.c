#include "read_lease.h"

/* Two ends are enough: the last session's, and the latest of all others. */
struct read_lease {
    uint64_t session, until_ms, others_until_ms;
};

void read_leases_fini(struct read_leases *leases)
{
    size_t at = 0;
    uint64_t ino;
    void *lease;
    while (map_next(&leases->map, &at, &ino, &lease))
        free(lease);
    map_fini(&leases->map);
    *leases = (struct read_leases){0};
}

static void sweep(struct read_leases *leases, uint64_t now_ms)
{
    size_t at = 0;
    uint64_t ino;
    void *value;
    leases->swept_ms = now_ms;
    while (map_next(&leases->map, &at, &ino, &value)) {
        const struct read_lease *lease = value;
        if (MAX(lease->until_ms, lease->others_until_ms) > now_ms)
            continue;
        map_remove(&leases->map, ino);
        leases->count--;
        free(value);
    }
}

static struct read_lease *lease_make(struct read_leases *leases, uint64_t ino, uint64_t now_ms)
{
    if (leases->count >= READ_LEASES_MAX && now_ms >= leases->swept_ms + READ_LEASE_HOLD_MS)
        sweep(leases, now_ms);
    if (leases->count >= READ_LEASES_MAX)
        return NULL;
    struct read_lease *lease = calloc(1, sizeof *lease);
    if (lease != NULL && map_put(&leases->map, ino, lease) != 0) {
        free(lease);
        return NULL;
    }
    leases->count += lease != NULL;
    return lease;
}

void read_leases_note(struct read_leases *leases, uint64_t ino, uint64_t session, uint64_t now_ms)
{
    struct read_lease *lease = map_get(&leases->map, ino);
    if (lease == NULL)
        lease = lease_make(leases, ino, now_ms);
    if (lease == NULL) {
        leases->all_until_ms = now_ms + READ_LEASE_HOLD_MS;
        return;
    }
    if (lease->session != session) {
        lease->others_until_ms = MAX(lease->others_until_ms, lease->until_ms);
        lease->session = session;
    }
    lease->until_ms = now_ms + READ_LEASE_HOLD_MS;
}

void read_leases_unknown(struct read_leases *leases, uint64_t now_ms)
{
    leases->all_until_ms = now_ms + READ_LEASE_HOLD_MS;
}

uint64_t read_leases_end(const struct read_leases *leases, uint64_t ino, uint64_t session)
{
    const struct read_lease *lease = map_get(&leases->map, ino);
    uint64_t end = leases->all_until_ms;
    if (lease == NULL)
        return end;
    end = MAX(end, lease->others_until_ms);
    return lease->session == session ? end : MAX(end, lease->until_ms);
}

bool read_leases_none(const struct read_leases *leases, uint64_t now_ms)
{
    return leases->count == 0 && leases->all_until_ms <= now_ms;
}
