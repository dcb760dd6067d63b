#include "slots.h"

#include "cgroup.h"
#include "common/err.h"
#include "common/io.h"
#include "common/log.h"

#include <stdio.h>

static int start_slot(struct slots *slots, unsigned index, bool quiet, const char **ret_why)
{
    char group[96];
    snprintf(group, sizeof group, "%s%u", slots->prefix, index);
    struct sandbox_options options = {.dir = slots->dir, .cgroup = group};
    int err = sandbox_start(&options, &slots->items[index].sandbox, ret_why);
    if (err == 0 && !quiet && !sandbox_limits_memory(slots->items[index].sandbox))
        log_warn("no control group for memory can be made here: tasks are limited by address space instead");
    return err;
}

/* Agents of several clusters may share a machine: the group's name has the directory in it. */
static uint32_t hash_dir(const char *dir)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *dir != '\0'; dir++)
        hash = (hash ^ (uint8_t)*dir) * 16777619u;
    return hash;
}

int slots_start(struct slots *slots, unsigned n, const char *dir, uint32_t node, const char **ret_why)
{
    *slots = (struct slots){.items = calloc(n, sizeof *slots->items)};
    if (slots->items == NULL)
        return -E_NOMEM;
    snprintf(slots->dir, sizeof slots->dir, "%s", dir);
    snprintf(slots->prefix, sizeof slots->prefix, "tarn-agent-%u-%08x-slot-", node, hash_dir(dir));
    cgroup_sweep(slots->prefix);
    for (slots->n = 0; slots->n < n; slots->n++) {
        int err = start_slot(slots, slots->n, slots->n > 0, ret_why);
        if (err != 0) {
            slots_stop(slots);
            return err;
        }
    }
    return 0;
}

void slots_stop(struct slots *slots)
{
    for (unsigned i = 0; i < slots->n; i++)
        sandbox_stop(slots->items[i].sandbox);
    free(slots->items);
    slots->items = NULL;
    slots->n = 0;
}

int slots_take(struct slots *slots, const bool *give_up, struct slot **ret)
{
    for (;;) {
        if (*give_up)
            return -E_INTR;
        for (unsigned i = 0; i < slots->n; i++) {
            struct slot *slot = &slots->items[i];
            if (slot->busy || (slot->sandbox == NULL && slots_renew(slots, slot) != 0))
                continue;
            slot->busy = true;
            *ret = slot;
            return 0;
        }
        int err = fiber_queue_wait(&slots->waiters, 1000); /* a slot that could not be renewed is tried again */
        if (err != 0 && err != -E_TIMEOUT)
            return err;
    }
}

void slots_give(struct slots *slots, struct slot *slot)
{
    slot->busy = false;
    fiber_queue_wake_one(&slots->waiters);
}

void slots_wake(struct slots *slots)
{
    fiber_queue_wake_all(&slots->waiters);
}

int slots_renew(struct slots *slots, struct slot *slot)
{
    const char *why = "";
    sandbox_stop(slot->sandbox);
    slot->sandbox = NULL;
    if (io_stopping(fiber_io()))
        return -E_CANCELED;
    int err = start_slot(slots, (unsigned)(slot - slots->items), true, &why);
    if (err != 0)
        log_error("cannot start slot %u again: %s; it is tried again", (unsigned)(slot - slots->items), why);
    return err;
}
