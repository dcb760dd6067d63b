/* The search. Invocations and returns of one object stand in a list in order of time. The first invocation that the
 * state allows is placed: it and its return leave the list, and the search begins again in front. When a return is met whose
 * operation was not placed, the operations of unknown result that began before it are tried, which stand in a list of
 * their own; mostly they are not needed. When none helps, the last placed one is taken back and the next is tried. A
 * configuration that was seen before is not entered again. */
#include "linear.h"

#include "common/check.h"

#define OPS_MAX 8192 /* of one object: the bit sets stay small */

struct event {
    struct event *next, *prev;
    struct event *match; /* of a known invocation: its return; of a return: NULL */
    const struct history_op *op;
    unsigned number; /* of the operation */
    uint64_t at_ns;
    bool is_return;
};
struct placed {
    struct event *event;
    struct linear_state before;
};
/* Configurations: open addressing over fixed-size records in one array. */
struct memory {
    uint64_t *records; /* record 0 is not used */
    uint32_t *slots;
    size_t n, cap, n_slots, words;
};
struct search {
    struct linear_owners owners;
    struct event *events, head, late; /* late: invocations of unknown result */
    unsigned n_ops, known_left, most;
    const struct history_op *blocked; /* with the most operations placed, this one's end was in the way */
    struct memory memory;
    struct placed *stack;
    unsigned n_placed;
    uint64_t *done; /* bit set of placed operations, then the state: a configuration */
    size_t done_words;
};

/* ---- memory */

static uint64_t hash(const uint64_t *words, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ words[i]) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 29;
    }
    return h;
}

static size_t slot_find(const struct memory *memory, const uint64_t *words)
{
    size_t at = hash(words, memory->words) & (memory->n_slots - 1);
    while (memory->slots[at] != 0 && memcmp(&memory->records[memory->slots[at] * memory->words], words, memory->words * sizeof *words) != 0)
        at = (at + 1) & (memory->n_slots - 1);
    return at;
}

static void memory_grow(struct memory *memory)
{
    memory->cap *= 2;
    memory->records = realloc(memory->records, memory->cap * memory->words * sizeof *memory->records);
    free(memory->slots);
    memory->n_slots = memory->cap * 2;
    memory->slots = calloc(memory->n_slots, sizeof *memory->slots);
    CHECK(memory->records != NULL && memory->slots != NULL);
    for (uint32_t i = 1; i < memory->n; i++)
        memory->slots[slot_find(memory, &memory->records[i * memory->words])] = i;
}

static void memory_init(struct memory *memory, size_t words)
{
    *memory = (struct memory){.words = words, .n = 1, .cap = 512};
    memory_grow(memory);
}

/* False when it was there. */
static bool memory_add(struct memory *memory, const uint64_t *words)
{
    if (memory->n == memory->cap)
        memory_grow(memory);
    size_t at = slot_find(memory, words);
    if (memory->slots[at] != 0)
        return false;
    memcpy(&memory->records[memory->n * memory->words], words, memory->words * sizeof *words);
    memory->slots[at] = (uint32_t)memory->n++;
    return true;
}

/* ---- the list */

static bool is_late(const struct event *event)
{
    return !event->is_return && event->match == NULL;
}

static void unlink_event(struct event *event)
{
    event->prev->next = event->next;
    if (event->next != NULL)
        event->next->prev = event->prev;
}

static void relink_event(struct event *event)
{
    event->prev->next = event;
    if (event->next != NULL)
        event->next->prev = event;
}

static void lift(struct event *event)
{
    unlink_event(event);
    if (event->match != NULL)
        unlink_event(event->match);
}

static void put_back(struct event *event)
{
    if (event->match != NULL)
        relink_event(event->match);
    relink_event(event);
}

/* What happens at the same instant may overlap: invocations first. */
static int by_time(const void *a, const void *b)
{
    const struct event *x = *(struct event *const *)a, *y = *(struct event *const *)b;
    if (x->at_ns != y->at_ns)
        return x->at_ns < y->at_ns ? -1 : 1;
    if (x->is_return != y->is_return)
        return x->is_return ? 1 : -1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void events_init(struct search *search, const struct history_op *const *ops, unsigned n)
{
    struct event **order = calloc(2 * (size_t)n + 1, sizeof *order);
    search->events = calloc(2 * (size_t)n + 1, sizeof *search->events);
    CHECK(order != NULL && search->events != NULL);
    unsigned n_events = 0;
    for (unsigned i = 0; i < n; i++) {
        struct event *call = &search->events[n_events++];
        *call = (struct event){.op = ops[i], .number = i, .at_ns = ops[i]->invoke_ns};
        order[n_events - 1] = call;
        if (ops[i]->return_ns == HISTORY_UNKNOWN)
            continue;
        struct event *end = &search->events[n_events++];
        *end = (struct event){.op = ops[i], .number = i, .at_ns = ops[i]->return_ns, .is_return = true};
        order[n_events - 1] = end;
        call->match = end;
        search->known_left++;
    }
    qsort(order, n_events, sizeof(struct event *), by_time);
    struct event *last = &search->head, *last_late = &search->late;
    for (unsigned i = 0; i < n_events; i++) {
        struct event **list = is_late(order[i]) ? &last_late : &last;
        (*list)->next = order[i];
        order[i]->prev = *list;
        *list = order[i];
    }
    free(order);
}

/* ---- the search */

static struct linear_state *state_of(struct search *search)
{
    return (struct linear_state *)(void *)&search->done[search->done_words];
}

/* Places the operation when the state allows it and the configuration is new. */
static bool try_place(struct search *search, struct event *event)
{
    struct linear_state *state = state_of(search), before = *state;
    bool known = event->match != NULL;
    if (!linear_step(&search->owners, event->op, known, state)) {
        *state = before;
        return false;
    }
    if (!known && memcmp(state, &before, sizeof before) == 0)
        return false; /* the same as if it had not happened */
    search->done[event->number / 64] ^= UINT64_C(1) << event->number % 64;
    if (!memory_add(&search->memory, search->done)) {
        search->done[event->number / 64] ^= UINT64_C(1) << event->number % 64;
        *state = before;
        return false;
    }
    search->stack[search->n_placed++] = (struct placed){event, before};
    search->known_left -= known;
    lift(event);
    return true;
}

static struct event *take_back(struct search *search)
{
    struct placed *placed = &search->stack[--search->n_placed];
    struct event *event = placed->event;
    *state_of(search) = placed->before;
    search->done[event->number / 64] ^= UINT64_C(1) << event->number % 64;
    search->known_left += event->match != NULL;
    put_back(event);
    return event;
}

/* The end that comes first: what begins after it comes after it. */
static const struct event *first_end(const struct search *search)
{
    const struct event *event = search->head.next;
    while (!event->is_return)
        event = event->next;
    return event;
}

/* What is tried after `event` could not be placed, or was taken back; NULL: nothing any more. */
static struct event *next_choice(struct search *search, struct event *event)
{
    if (!is_late(event) && !event->next->is_return)
        return event->next;
    const struct event *end = first_end(search);
    struct event *late = is_late(event) ? event->next : search->late.next;
    if (late != NULL && late->at_ns <= end->at_ns)
        return late;
    if (search->n_placed >= search->most) {
        search->most = search->n_placed;
        search->blocked = end->op;
    }
    return NULL;
}

static enum linear_verdict run(struct search *search, size_t states_max)
{
    struct event *event = search->head.next;
    while (search->known_left > 0) {
        if (search->memory.n > states_max)
            return LINEAR_UNDECIDED;
        if (try_place(search, event)) {
            event = search->head.next;
            continue;
        }
        event = next_choice(search, event);
        while (event == NULL && search->n_placed > 0)
            event = next_choice(search, take_back(search));
        if (event == NULL)
            return LINEAR_NO;
    }
    return LINEAR_YES;
}

static bool owners_init(struct linear_owners *owners, const struct history_op *const *ops, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (ops[i]->kind != HISTORY_LOCK || ops[i]->verb == VERB_EXPIRE || ops[i]->verb == VERB_READ)
            continue;
        unsigned at = 0;
        while (at < owners->n && owners->ids[at] != ops[i]->owner)
            at++;
        if (at == ARRAY_SIZE(owners->ids))
            return false;
        owners->ids[at] = ops[i]->owner;
        owners->n = MAX(owners->n, at + 1);
    }
    return true;
}

static enum linear_verdict check_object(const struct history_op *const *ops, unsigned n, size_t states_max, struct linear_report *report)
{
    struct search search = {.n_ops = n, .done_words = (n + 63) / 64};
    if (n > OPS_MAX || !owners_init(&search.owners, ops, n))
        return LINEAR_UNDECIDED;
    events_init(&search, ops, n);
    search.done = calloc(search.done_words + LINEAR_WORDS, sizeof *search.done);
    search.stack = calloc(n + 1, sizeof *search.stack);
    CHECK(search.done != NULL && search.stack != NULL);
    memory_init(&search.memory, search.done_words + LINEAR_WORDS);
    enum linear_verdict verdict = run(&search, states_max);
    report->configurations += search.memory.n;
    report->placed = search.most;
    if (verdict != LINEAR_YES && search.blocked != NULL)
        report->blocked = *search.blocked;
    free(search.memory.records);
    free(search.memory.slots);
    free(search.stack);
    free(search.done);
    free(search.events);
    return verdict;
}

static int by_object(const void *a, const void *b)
{
    const struct history_op *x = *(const struct history_op *const *)a, *y = *(const struct history_op *const *)b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    if (x->invoke_ns != y->invoke_ns)
        return x->invoke_ns < y->invoke_ns ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void report_bad(struct linear_report *report, const struct history_op *const *ops, size_t n)
{
    report->bad = calloc(n, sizeof *report->bad);
    CHECK(report->bad != NULL);
    for (size_t i = 0; i < n; i++)
        report->bad[i] = *ops[i];
    report->n_bad = n;
}

enum linear_verdict linear_check(const struct history *history, size_t states_max, struct linear_report *ret)
{
    *ret = (struct linear_report){.ops = history->n};
    const struct history_op **order = calloc(history->n + 1, sizeof *order);
    CHECK(order != NULL);
    for (size_t i = 0; i < history->n; i++) {
        order[i] = &history->ops[i];
        ret->unknown += history->ops[i].return_ns == HISTORY_UNKNOWN;
    }
    qsort(order, history->n, sizeof(const struct history_op *), by_object);
    enum linear_verdict verdict = LINEAR_YES;
    for (size_t from = 0, to; from < history->n && verdict == LINEAR_YES; from = to) {
        for (to = from + 1; to < history->n && order[to]->kind == order[from]->kind && order[to]->key == order[from]->key;)
            to++;
        ret->objects++;
        verdict = check_object(order + from, (unsigned)(to - from), states_max, ret);
        if (verdict != LINEAR_YES)
            report_bad(ret, order + from, to - from);
    }
    free(order);
    return verdict;
}
