#include "placement.h"

#include "common/check.h"

struct choice {
    const struct placement_node *nodes;
    size_t n;
    const struct placement_node *picked[PLACEMENT_COPIES_MAX];
    unsigned n_picked;
    unsigned rack_cap;
    struct prng *prng;
};

static bool has_room(const struct placement_node *node)
{
    return node->up && node->free >= PLACEMENT_ROOM_BYTES;
}

static bool candidate(const struct choice *c, const struct placement_node *node)
{
    if (!has_room(node) || node->excluded || node->holds)
        return false;
    for (unsigned i = 0; i < c->n_picked; i++)
        if (c->picked[i] == node)
            return false;
    return true;
}

static unsigned in_rack(const struct choice *c, uint32_t rack)
{
    unsigned count = 0;
    for (unsigned i = 0; i < c->n_picked; i++)
        count += c->picked[i]->rack == rack;
    for (size_t i = 0; i < c->n; i++)
        count += c->nodes[i].holds && c->nodes[i].rack == rack;
    return count;
}

/* Racks that hold a copy or could get one. */
static unsigned racks_usable(const struct choice *c)
{
    unsigned racks = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct placement_node *node = &c->nodes[i];
        bool seen = !(node->holds || candidate(c, node));
        for (size_t j = 0; j < i && !seen; j++)
            seen =
                c->nodes[j].rack == node->rack && (c->nodes[j].holds || candidate(c, &c->nodes[j]));
        racks += !seen;
    }
    return racks;
}

static bool allowed(const struct choice *c, const struct placement_node *node, bool capped)
{
    return candidate(c, node) && (!capped || in_rack(c, node->rack) < c->rack_cap);
}

static const struct placement_node *nth(const struct choice *c, bool capped, uint64_t nth)
{
    for (size_t i = 0; i < c->n; i++)
        if (allowed(c, &c->nodes[i], capped) && nth-- == 0)
            return &c->nodes[i];
    return NULL;
}

static const struct placement_node *pick(const struct choice *c)
{
    for (int capped = 1; capped >= 0; capped--) {
        uint64_t count = 0;
        for (size_t i = 0; i < c->n; i++)
            count += allowed(c, &c->nodes[i], capped);
        if (count == 0)
            continue;
        const struct placement_node *a = nth(c, capped, prng_below(c->prng, count));
        const struct placement_node *b = nth(c, capped, prng_below(c->prng, count));
        return b->free > a->free ? b : a;
    }
    return NULL;
}

unsigned placement_choose(const struct placement_node *nodes, size_t n, unsigned copies,
                          uint32_t writer, struct prng *prng, uint32_t *ret_ids)
{
    CHECK(copies <= PLACEMENT_COPIES_MAX);
    struct choice c = {.nodes = nodes, .n = n, .prng = prng};
    unsigned held = 0;
    for (size_t i = 0; i < n; i++)
        held += nodes[i].holds;
    unsigned racks = racks_usable(&c);
    c.rack_cap = racks == 0 ? 1 : (copies + held + racks - 1) / racks;
    for (size_t i = 0; i < n && copies > 0 && writer != 0; i++)
        if (nodes[i].id == writer && candidate(&c, &nodes[i])) {
            c.picked[c.n_picked++] = &nodes[i];
            break;
        }
    while (c.n_picked < copies) {
        const struct placement_node *node = pick(&c);
        if (node == NULL)
            break;
        c.picked[c.n_picked++] = node;
    }
    for (unsigned i = 0; i < c.n_picked; i++)
        ret_ids[i] = c.picked[i]->id;
    return c.n_picked;
}
