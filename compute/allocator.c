#include "allocator.h"

#include "common/check.h"
#include "common/err.h"

#define MB 1000000ull
#define MEAN_UNKNOWN_US 1000000ull /* until the first task of all has ended */
#define PATIENCE_US 500000ul /* a tenant behind the others is served by any node after that */
#define GROUP_WEIGHT 8 /* of the old mean against a new sample */
#define ALL_WEIGHT 64

struct alloc_tenant {
    uint64_t running;
};

struct rack {
    uint32_t id;
    struct list idle;    /* nodes with a free slot */
    struct list expired; /* tasks that waited long enough for their holders */
};

struct alloc_node {
    uint32_t id;
    struct rack *rack;
    bool up;
    uint64_t slots, bound;
    struct list pending; /* waiting tasks that it holds bytes of */
    struct list idle, idle_in_rack;
};

struct alloc {
    struct alloc_options options;
    struct map nodes, racks, tenants;
    struct list idle;     /* nodes with a free slot, all racks */
    struct list anywhere; /* waiting tasks that may run on any node, oldest first */
    struct list bindings;
    struct heap timers;
    uint64_t nodes_up, slots, bound;
    uint64_t mean_us; /* of tasks of all groups */
};

int alloc_create(const struct alloc_options *options, struct alloc **ret)
{
    struct alloc *alloc = calloc(1, sizeof *alloc);
    if (alloc == NULL)
        return -E_NOMEM;
    if (options != NULL)
        alloc->options = *options;
    struct alloc_options *o = &alloc->options;
    o->price = o->price > 0 ? o->price : 1;
    o->local_bps = o->local_bps != 0 ? o->local_bps : 500 * MB;
    o->rack_bps = o->rack_bps != 0 ? o->rack_bps : 250 * MB;
    o->core_bps = o->core_bps != 0 ? o->core_bps : 100 * MB;
    alloc->mean_us = MEAN_UNKNOWN_US;
    list_init(&alloc->idle);
    list_init(&alloc->anywhere);
    list_init(&alloc->bindings);
    *ret = alloc;
    return 0;
}

static void free_values(struct map *map)
{
    uint64_t key;
    void *value;
    for (size_t at = 0; map_next(map, &at, &key, &value);)
        free(value);
    map_fini(map);
}

void alloc_destroy(struct alloc *alloc)
{
    if (alloc == NULL)
        return;
    free_values(&alloc->nodes);
    free_values(&alloc->racks);
    free_values(&alloc->tenants);
    heap_fini(&alloc->timers);
    free(alloc);
}

/* ---- nodes */

static struct alloc_node *find_node(const struct alloc *alloc, uint32_t id)
{
    return map_get(&alloc->nodes, id);
}

static bool has_idle_slot(const struct alloc_node *node)
{
    return node->up && node->bound < node->slots;
}

/* Free slots, negative when tasks were handed out ahead. */
static int64_t free_slots(const struct alloc_node *node)
{
    return node->up ? (int64_t)node->slots - (int64_t)node->bound : INT64_MIN;
}

/* May one more task of the group go there, counting the places ahead of its slots? */
static bool has_room(const struct alloc_node *node, const struct alloc_group *group)
{
    if (!node->up)
        return false;
    bool brief = group->mean_us != 0 && group->mean_us <= ALLOC_AHEAD_TASK_US;
    return node->bound < node->slots * (brief ? 2 : 1);
}

/* Keeps the idle lists equal to has_idle_slot(). */
static void update_idle(struct alloc *alloc, struct alloc_node *node)
{
    bool listed = !list_empty(&node->idle);
    if (has_idle_slot(node) == listed)
        return;
    if (listed) {
        list_remove(&node->idle);
        list_remove(&node->idle_in_rack);
    } else {
        list_append(&alloc->idle, &node->idle);
        list_append(&node->rack->idle, &node->idle_in_rack);
    }
}

static struct rack *get_rack(struct alloc *alloc, uint32_t id)
{
    struct rack *rack = map_get(&alloc->racks, id);
    if (rack != NULL)
        return rack;
    rack = calloc(1, sizeof *rack);
    if (rack == NULL)
        return NULL;
    rack->id = id;
    list_init(&rack->idle);
    list_init(&rack->expired);
    if (map_put(&alloc->racks, id, rack) != 0) {
        free(rack);
        return NULL;
    }
    return rack;
}

static struct alloc_node *get_node(struct alloc *alloc, uint32_t id)
{
    struct alloc_node *node = find_node(alloc, id);
    if (node != NULL)
        return node;
    node = calloc(1, sizeof *node);
    if (node == NULL)
        return NULL;
    node->id = id;
    list_init(&node->pending);
    list_init(&node->idle);
    list_init(&node->idle_in_rack);
    if (map_put(&alloc->nodes, id, node) != 0) {
        free(node);
        return NULL;
    }
    return node;
}

/* ---- lists of waiting tasks */

static void link_to(struct list *head, struct alloc_link *link, struct alloc_task *task)
{
    link->task = task;
    list_append(head, &link->list);
}

static void unlink_from(struct alloc_link *link)
{
    if (link->list.next != NULL)
        list_remove(&link->list);
}

static void stop_waiting(struct alloc *alloc, struct alloc_task *task)
{
    for (unsigned i = 0; i < ALLOC_HOLDERS_MAX; i++)
        unlink_from(&task->pending[i]);
    for (unsigned i = 0; i < ALLOC_TASK_RACKS_MAX; i++)
        unlink_from(&task->racks[i]);
    unlink_from(&task->queue);
    if (task->timer.index != SIZE_MAX)
        heap_remove(&alloc->timers, &task->timer);
}

static bool shuns(const struct alloc *alloc, const struct alloc_task *task, const struct alloc_node *node)
{
    return task->avoid == node->id && alloc->nodes_up > 1;
}

/* ---- binding */

static enum alloc_level level_on(const struct alloc *alloc, const struct alloc_task *task,
                                 const struct alloc_node *node)
{
    if (task->n_holders == 0)
        return ALLOC_NO_INPUT;
    enum alloc_level level = ALLOC_ANY;
    for (unsigned i = 0; i < task->n_holders; i++) {
        if (task->holders[i].node == node->id)
            return ALLOC_LOCAL;
        const struct alloc_node *holder = find_node(alloc, task->holders[i].node);
        if (holder != NULL && holder->rack != NULL && holder->rack == node->rack)
            level = ALLOC_RACK;
    }
    return level;
}

static void occupy(struct alloc *alloc, struct alloc_task *task, struct alloc_node *node)
{
    task->state = ALLOC_BOUND;
    task->node = node;
    task->level = level_on(alloc, task, node);
    task->group->record->running++;
    node->bound++;
    alloc->bound++;
    if (node->rack != NULL)
        update_idle(alloc, node);
}

static void bind_task(struct alloc *alloc, struct alloc_task *task, struct alloc_node *node)
{
    stop_waiting(alloc, task);
    occupy(alloc, task, node);
    link_to(&alloc->bindings, &task->queue, task);
}

/* Room for the task on the most loaded-but-free of its other holders: how badly it needs this one. */
static int64_t room_elsewhere(const struct alloc *alloc, const struct alloc_task *task, const struct alloc_node *here)
{
    int64_t most = INT64_MIN;
    for (unsigned i = 0; i < task->n_holders; i++) {
        const struct alloc_node *node = find_node(alloc, task->holders[i].node);
        if (node != NULL && node != here)
            most = MAX(most, free_slots(node));
    }
    return most;
}

/* From the head of a list: the task of the tenant with the fewest running tasks; among equals the one
 * whose other holders are most loaded (`local`), else the oldest. */
static struct alloc_task *best_of(const struct alloc *alloc, const struct list *head, const struct alloc_node *node,
                                  bool local)
{
    struct alloc_task *best = NULL;
    int64_t best_elsewhere = 0;
    unsigned seen = 0;
    list_foreach(head, it)
    {
        struct alloc_task *task = list_entry(it, struct alloc_link, list)->task;
        if (seen++ == ALLOC_SCAN)
            break;
        /* Moving bytes is never done ahead of a slot: by then a holder may be free. */
        bool room = local || task->n_holders == 0 ? has_room(node, task->group) : has_idle_slot(node);
        if (!room || shuns(alloc, task, node))
            continue;
        int64_t elsewhere = local ? room_elsewhere(alloc, task, node) : 0;
        uint64_t running = task->group->record->running;
        if (best == NULL || running < best->group->record->running ||
            (running == best->group->record->running && elsewhere < best_elsewhere)) {
            best = task;
            best_elsewhere = elsewhere;
        }
    }
    return best;
}

/* Does fairness outweigh locality? When the other tenant is behind and its task has waited so long that
 * a free slot on one of its holders is not to be hoped for. */
static bool overdue(const struct alloc_task *other, const struct alloc_task *local, uint64_t now_us)
{
    const struct alloc_group *group = other->group;
    uint64_t patience = group->mean_us != 0 ? MIN(group->mean_us, PATIENCE_US) : PATIENCE_US;
    return group->record->running < local->group->record->running && now_us - other->ready_us >= patience;
}

/* The next task for a node with room: its own first, unless another tenant's turn is overdue. */
static struct alloc_task *choose_for(const struct alloc *alloc, const struct alloc_node *node, uint64_t now_us)
{
    struct alloc_task *local = best_of(alloc, &node->pending, node, true);
    struct alloc_task *other = best_of(alloc, &node->rack->expired, node, false);
    struct alloc_task *any = best_of(alloc, &alloc->anywhere, node, false);
    if (other == NULL || (any != NULL && any->group->record->running < other->group->record->running))
        other = any;
    if (local == NULL || (other != NULL && overdue(other, local, now_us)))
        return other;
    return local;
}

static void fill(struct alloc *alloc, struct alloc_node *node, uint64_t now_us)
{
    if (!node->up)
        return;
    struct alloc_task *task;
    while (node->bound < node->slots * 2 && (task = choose_for(alloc, node, now_us)) != NULL)
        bind_task(alloc, task, node);
}

static struct alloc_node *best_holder(const struct alloc *alloc, const struct alloc_task *task)
{
    struct alloc_node *best = NULL;
    uint64_t best_bytes = 0;
    for (unsigned i = 0; i < task->n_holders; i++) {
        struct alloc_node *node = find_node(alloc, task->holders[i].node);
        uint64_t bytes = task->holders[i].bytes;
        if (node == NULL || !has_room(node, task->group) || shuns(alloc, task, node))
            continue;
        if (best == NULL || bytes > best_bytes ||
            (bytes == best_bytes && free_slots(node) > free_slots(best))) {
            best = node;
            best_bytes = bytes;
        }
    }
    return best;
}

static struct alloc_node *idle_of(const struct alloc *alloc, const struct list *idle, size_t offset,
                                  const struct alloc_task *task)
{
    struct alloc_node *best = NULL;
    unsigned seen = 0;
    list_foreach(idle, it)
    {
        struct alloc_node *node = (struct alloc_node *)((char *)it - offset);
        if (seen++ == ALLOC_SCAN)
            break;
        if (!shuns(alloc, task, node) && (best == NULL || free_slots(node) > free_slots(best)))
            best = node;
    }
    return best;
}

static struct alloc_node *any_idle(const struct alloc *alloc, const struct alloc_task *task)
{
    return idle_of(alloc, &alloc->idle, offsetof(struct alloc_node, idle), task);
}

static struct alloc_node *idle_in_racks(const struct alloc *alloc, const struct alloc_task *task)
{
    for (unsigned i = 0; i < task->n_holders; i++) {
        struct alloc_node *holder = find_node(alloc, task->holders[i].node);
        if (holder == NULL || holder->rack == NULL)
            continue;
        struct alloc_node *node =
            idle_of(alloc, &holder->rack->idle, offsetof(struct alloc_node, idle_in_rack), task);
        if (node != NULL)
            return node;
    }
    return NULL;
}

/* ---- waiting: bounded by what the remote read would cost */

static uint64_t remote_cost_us(uint64_t bytes, uint64_t near_bps, uint64_t far_bps)
{
    double cost = (double)bytes * 1e6 * (1.0 / (double)far_bps - 1.0 / (double)near_bps);
    return cost > 0 ? (uint64_t)cost : 0;
}

/* Share of a mean task time that may be waited: with one holder there is no other choice to hope for. */
static double wait_share(unsigned n_holders)
{
    return n_holders >= 3 ? 0.05 : n_holders == 2 ? 0.15 : 0.5;
}

static uint64_t wait_us(const struct alloc *alloc, const struct alloc_task *task, unsigned stage)
{
    const struct alloc_options *o = &alloc->options;
    uint64_t cost = stage == 0 ? remote_cost_us(task->bytes, o->local_bps, o->rack_bps)
                               : remote_cost_us(task->bytes, o->rack_bps, o->core_bps);
    /* A group's first tasks are taken to be like those of other groups. */
    uint64_t mean = task->group->mean_us != 0 ? task->group->mean_us : alloc->mean_us;
    return MIN((uint64_t)(o->price * (double)cost), (uint64_t)(wait_share(task->n_holders) * (double)mean));
}

static bool rack_seen(const struct alloc *alloc, const struct alloc_task *task, unsigned before, const struct rack *rack)
{
    for (unsigned i = 0; i < before; i++) {
        const struct alloc_node *node = find_node(alloc, task->holders[i].node);
        if (node != NULL && node->rack == rack)
            return true;
    }
    return false;
}

static void link_racks(struct alloc *alloc, struct alloc_task *task)
{
    unsigned n = 0;
    for (unsigned i = 0; i < task->n_holders && n < ALLOC_TASK_RACKS_MAX; i++) {
        const struct alloc_node *node = find_node(alloc, task->holders[i].node);
        if (node != NULL && node->rack != NULL && !rack_seen(alloc, task, i, node->rack))
            link_to(&node->rack->expired, &task->racks[n++], task);
    }
}

/* Moves a waiting task through the stages whose wait is over. */
static void step(struct alloc *alloc, struct alloc_task *task, uint64_t now_us)
{
    while (task->state == ALLOC_WAITING && task->stage < 2) {
        uint64_t due = task->timer.key;
        if (due > now_us) {
            /* A task whose timer cannot be kept waits no longer. */
            if (heap_push(&alloc->timers, &task->timer) == 0)
                return;
        }
        task->stage++;
        struct alloc_node *node = task->stage == 1 ? idle_in_racks(alloc, task) : any_idle(alloc, task);
        if (node != NULL) {
            bind_task(alloc, task, node);
            return;
        }
        if (task->stage == 1)
            link_racks(alloc, task);
        else
            link_to(&alloc->anywhere, &task->queue, task);
        task->timer.key = due + wait_us(alloc, task, 1);
    }
}

static int join_tenant(struct alloc *alloc, struct alloc_group *group)
{
    if (group->record != NULL)
        return 0;
    /* Keys of a map are any u64; uid 0 is a tenant like others. */
    struct alloc_tenant *tenant = map_get(&alloc->tenants, group->tenant);
    if (tenant == NULL) {
        tenant = calloc(1, sizeof *tenant);
        if (tenant == NULL || map_put(&alloc->tenants, group->tenant, tenant) != 0) {
            free(tenant);
            return -E_NOMEM;
        }
    }
    group->record = tenant;
    return 0;
}

static void reset_links(struct alloc_task *task)
{
    memset(task->pending, 0, sizeof task->pending);
    memset(task->racks, 0, sizeof task->racks);
    memset(&task->queue, 0, sizeof task->queue);
    task->timer.index = SIZE_MAX;
}

/* Any node with room for tasks that have nothing to be near to: idle first, then ahead of a slot is
 * left to fill(), which runs when a slot comes free. */
static struct alloc_node *node_for(const struct alloc *alloc, const struct alloc_task *task)
{
    return task->n_holders != 0 ? best_holder(alloc, task) : any_idle(alloc, task);
}

int alloc_task_ready(struct alloc *alloc, struct alloc_task *task, uint64_t now_us)
{
    CHECK(task->state == ALLOC_IDLE && task->n_holders <= ALLOC_HOLDERS_MAX);
    int err = join_tenant(alloc, task->group);
    if (err != 0)
        return err;
    for (unsigned i = 0; i < task->n_holders; i++)
        if (get_node(alloc, task->holders[i].node) == NULL)
            return -E_NOMEM;
    reset_links(task);
    task->ready_us = now_us;
    task->queued = false;
    task->state = ALLOC_WAITING;
    task->stage = 0;
    struct alloc_node *node = node_for(alloc, task);
    if (node != NULL) {
        bind_task(alloc, task, node);
        return 0;
    }
    task->queued = true;
    if (task->n_holders == 0) {
        task->stage = 2;
        link_to(&alloc->anywhere, &task->queue, task);
        return 0;
    }
    for (unsigned i = 0; i < task->n_holders; i++)
        link_to(&find_node(alloc, task->holders[i].node)->pending, &task->pending[i], task);
    task->timer.key = now_us + wait_us(alloc, task, 0);
    step(alloc, task, now_us);
    return 0;
}

int alloc_task_adopt(struct alloc *alloc, struct alloc_task *task, uint32_t node_id)
{
    CHECK(task->state == ALLOC_IDLE);
    struct alloc_node *node = get_node(alloc, node_id);
    if (node == NULL || join_tenant(alloc, task->group) != 0)
        return -E_NOMEM;
    reset_links(task);
    occupy(alloc, task, node);
    return 0;
}

static uint64_t moving_mean(uint64_t mean, uint64_t sample, uint64_t weight)
{
    return (mean * (weight - 1) + sample) / weight;
}

void alloc_task_end(struct alloc *alloc, struct alloc_task *task, uint64_t ran_us, uint64_t now_us)
{
    if (task->state == ALLOC_IDLE)
        return;
    stop_waiting(alloc, task);
    struct alloc_node *node = task->node;
    bool bound = task->state == ALLOC_BOUND;
    task->state = ALLOC_IDLE;
    task->node = NULL;
    if (!bound)
        return;
    struct alloc_group *group = task->group;
    if (ran_us != 0) {
        group->mean_us = group->mean_us == 0 ? ran_us : moving_mean(group->mean_us, ran_us, GROUP_WEIGHT);
        alloc->mean_us = moving_mean(alloc->mean_us, ran_us, ALL_WEIGHT);
    }
    CHECK(group->record->running > 0 && node->bound > 0 && alloc->bound > 0);
    group->record->running--;
    node->bound--;
    alloc->bound--;
    if (node->rack == NULL)
        return;
    update_idle(alloc, node);
    fill(alloc, node, now_us);
}

/* ---- nodes come and go */

int alloc_node_up(struct alloc *alloc, uint32_t id, uint32_t rack_id, uint32_t slots, uint64_t now_us)
{
    struct alloc_node *node = get_node(alloc, id);
    struct rack *rack = get_rack(alloc, rack_id);
    if (node == NULL || rack == NULL)
        return -E_NOMEM;
    alloc_node_down(alloc, id);
    node->rack = rack;
    node->slots = slots;
    node->up = true;
    alloc->nodes_up++;
    alloc->slots += slots;
    update_idle(alloc, node);
    fill(alloc, node, now_us);
    return 0;
}

void alloc_node_down(struct alloc *alloc, uint32_t id)
{
    struct alloc_node *node = find_node(alloc, id);
    if (node == NULL || !node->up)
        return;
    node->up = false;
    alloc->nodes_up--;
    alloc->slots -= node->slots;
    update_idle(alloc, node);
}

void alloc_load(const struct alloc *alloc, uint64_t *ret_slots, uint64_t *ret_bound)
{
    *ret_slots = alloc->slots;
    *ret_bound = alloc->bound;
}

/* ---- time, results */

uint64_t alloc_deadline(const struct alloc *alloc)
{
    const struct heap_node *first = heap_peek(&alloc->timers);
    return first != NULL ? first->key : UINT64_MAX;
}

void alloc_advance(struct alloc *alloc, uint64_t now_us)
{
    struct heap_node *first;
    while ((first = heap_peek(&alloc->timers)) != NULL && first->key <= now_us) {
        heap_remove(&alloc->timers, first);
        step(alloc, container_of(first, struct alloc_task, timer), now_us);
    }
}

struct alloc_task *alloc_next(struct alloc *alloc, uint32_t *ret_node)
{
    if (list_empty(&alloc->bindings))
        return NULL;
    struct alloc_link *link = list_entry(alloc->bindings.next, struct alloc_link, list);
    list_remove(&link->list);
    *ret_node = link->task->node->id;
    return link->task;
}
