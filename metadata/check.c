#include "check_impl.h"

#include "fsm.h"
#include "record_view.h"

#include <stdarg.h>
#include <stdio.h>

#define SENTENCE_MAX 320

static const struct {
    const char *tables; /* the letters of the rows it owns */
    int (*run)(struct check *check);
} rooms[] = {
    {"IDXOG", check_room_tree},
    {"bc", check_room_links},
    {"Q", check_room_quotas},
    {"ECRBwZT", check_room_chunks},
    {"!", check_room_damage},
    {"dgyo", check_room_disks},
    {"Mz", check_room_groups},
    {"PuKHhUVpsAF", check_room_sessions},
    {"LWl", check_room_locks},
    {"efr", check_room_leases},
    {"NnYJjqit", check_room_cluster},
    {"vxmk", check_room_views},
    {"12", check_room_pieces},
};

/* ------------------------------------------------------------------ what rooms use */
struct visit {
    struct check *check;
    check_visit fn;
    void *arg;
};

static int visit_row(void *arg, struct kv_val key, struct kv_val value)
{
    struct visit *visit = arg;
    struct key copy = {0};
    if (key.len > sizeof copy.data)
        return -E_CORRUPT;
    if (row_is_whiteout(value.data, value.len))
        return 0; /* of a clone: no row at all */
    memcpy(copy.data, key.data, key.len);
    copy.len = (uint16_t)key.len;
    visit->check->summary->rows++;
    return visit->fn(visit->check, &copy, value, visit->arg);
}

int check_below(struct check *check, const struct key *prefix, check_visit fn, void *arg)
{
    struct visit visit = {check, fn, arg};
    return kv_scan(check->txn, prefix->data, prefix->len, prefix->data, prefix->len, visit_row, &visit);
}

int check_each(struct check *check, enum table table, check_visit fn, void *arg)
{
    struct key prefix = key_table(table);
    return check_below(check, &prefix, fn, arg);
}

bool check_get(struct check *check, const struct key *key, struct kv_val *ret)
{
    return !key->overflow && kv_get(check->txn, key->data, key->len, ret) == 0;
}

bool check_has(struct check *check, const struct key *key)
{
    struct kv_val value;
    return check_get(check, key, &value);
}

bool check_has_inode(struct check *check, uint64_t ino)
{
    struct key key = key_1(TABLE_INODE, ino);
    return ino_snapshot(ino) != 0 || ino_clone(ino) != 0 || check_has(check, &key);
}

static int any(void *arg, struct kv_val key, struct kv_val value)
{
    *(bool *)arg = true;
    return 1;
}

bool check_any(struct check *check, const struct key *prefix)
{
    bool found = false;
    return kv_scan(check->txn, prefix->data, prefix->len, prefix->data, prefix->len, any, &found) == 0 && found;
}

void check_violation(struct check *check, const char *rule, const char *fmt, ...)
{
    char sentence[SENTENCE_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    check->summary->violations++;
    if (check->report != NULL)
        check->report(check->arg, rule, sentence);
}

void check_undecodable(struct check *check, const struct key *key, const char *what)
{
    char hex[2 * 40 + 1] = "";
    for (unsigned i = 0; i < MIN(key->len, (uint16_t)40); i++)
        snprintf(hex + 2 * i, 3, "%02x", key->data[i]);
    check_violation(check, "F1", "the row with the key %s is no %s that this version can read", hex, what);
}

void check_counter(struct check *check, const char *rule, const char *what, uint64_t counter, uint64_t counted)
{
    if (counter != counted)
        check_violation(check, rule, "the counter says %llu %s, there are %llu", (unsigned long long)counter, what,
                        (unsigned long long)counted);
}

/* splitmix64's finisher: a bijection that spreads neighbours. */
uint64_t check_mix(uint64_t number)
{
    number += 0x9e3779b97f4a7c15u;
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    return number ^ (number >> 31);
}

/* ------------------------------------------------------------------ all of it */
static bool load_state(struct check *check)
{
    struct key key = key_state();
    struct kv_val value;
    if (!check_get(check, &key, &value)) {
        struct key root = key_1(TABLE_INODE, MD_ROOT);
        if (check_has(check, &root))
            check_violation(check, "F2", "the row of the counters is missing");
        return false; /* tables that nothing was ever applied to */
    }
    if (state_decode(value.data, value.len, &check->state) == 0)
        return true;
    check_undecodable(check, &key, "row of counters");
    return false;
}

/* A table that no room looks at would be a hole in the checker. */
static void find_unknown(struct check *check)
{
    for (unsigned letter = 0; letter <= UINT8_MAX; letter++) {
        struct key prefix = key_table((enum table)letter);
        bool known = letter == TABLE_STATE || letter == TABLE_APPLIED;
        for (size_t i = 0; i < ARRAY_SIZE(rooms) && letter != 0; i++)
            known |= strchr(rooms[i].tables, (int)letter) != NULL;
        if (!known && check_any(check, &prefix))
            check_violation(check, "F3", "there are rows whose keys begin with 0x%02x; this version does not know such", letter);
    }
}

int check_tables(struct kv_txn *txn, check_report report, void *arg, struct check_summary *ret)
{
    *ret = (struct check_summary){0};
    struct check check = {.txn = txn, .report = report, .arg = arg, .summary = ret};
    int err = fsm_applied_index(txn, &ret->applied);
    if (err != 0 || !load_state(&check))
        return err == -E_CORRUPT ? 0 : err;
    for (size_t i = 0; err == 0 && i < ARRAY_SIZE(rooms); i++)
        err = rooms[i].run(&check);
    if (err == 0)
        find_unknown(&check);
    return err;
}
