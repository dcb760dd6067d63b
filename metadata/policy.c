#include "policy.h"

#include "common/err.h"
#include "heal_state.h"
#include "namespace.h"
#include "placement.h"

#define POLICY_VERSION 2 /* 1, without code and compression, is read, too */

enum policy_mask {
    POLICY_COPIES = 1,
    POLICY_DOMAIN = 2,
    POLICY_CHUNK = 4,
    POLICY_AFFINITY = 8,
    POLICY_CODE = 16,
    POLICY_COMPRESS = 32,
    POLICY_ALL = 63
};
/* Words that existing chunks are brought to. */
#define POLICY_WALKED (POLICY_COPIES | POLICY_DOMAIN | POLICY_CODE | POLICY_COMPRESS)

void policy_encode(const struct policy *policy, struct writer *w)
{
    writer_u8(w, POLICY_VERSION);
    writer_u8(w, policy->copies);
    writer_u8(w, policy->domain);
    writer_u8(w, policy->shift);
    writer_u8(w, policy->code_k);
    writer_u8(w, policy->code_m);
    writer_u8(w, policy->compress);
    writer_u8(w, policy->affinity_len);
    writer_bytes(w, policy->affinity, policy->affinity_len);
}

static bool code_is_right(unsigned k, unsigned m)
{
    if (k <= POLICY_WHOLE)
        return m == 0;
    return k <= POLICY_CODE_K_MAX && m >= 1 && m <= POLICY_CODE_M_MAX;
}

int policy_decode(const void *data, size_t n, struct policy *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version != POLICY_VERSION && version != RECORD_VERSION)
        return -E_CORRUPT;
    struct policy policy = {0};
    policy.copies = reader_u8(&r);
    policy.domain = reader_u8(&r);
    policy.shift = reader_u8(&r);
    if (version == POLICY_VERSION) {
        policy.code_k = reader_u8(&r);
        policy.code_m = reader_u8(&r);
        policy.compress = reader_u8(&r);
    }
    policy.affinity_len = reader_u8(&r);
    const uint8_t *affinity = reader_bytes(&r, policy.affinity_len);
    if (r.failed || reader_left(&r) != 0 || policy.affinity_len > POLICY_AFFINITY_MAX ||
        policy.copies > MD_COPIES_MAX || policy.domain > DOMAIN_SITE || !code_is_right(policy.code_k, policy.code_m) ||
        (policy.copies != 0 && policy.code_k != 0) || policy.compress > POLICY_COMPRESS_MAX ||
        (policy.shift != 0 && (policy.shift < POLICY_SHIFT_MIN || policy.shift > POLICY_SHIFT_MAX)))
        return -E_CORRUPT;
    memcpy(policy.affinity, affinity, policy.affinity_len);
    *ret = policy;
    return 0;
}

/* What the directory itself says; all zero when nothing. */
static int policy_own(struct tables *t, const struct inode *inode, struct policy *ret)
{
    *ret = (struct policy){0};
    int err = 0;
    if (inode->flags & INODE_POLICY) {
        struct key key = key_1(TABLE_POLICY, inode->ino);
        struct kv_val value;
        err = tables_get(t, &key, &value);
        if (err == 0 && policy_decode(value.data, value.len, ret) != 0)
            err = tables_corrupt(t, &key, "policy");
    }
    if (inode->copies != 0) /* said when it was made, or of a single file */
        ret->copies = MIN(inode->copies, (uint8_t)MD_COPIES_MAX);
    return err;
}

void policy_default(struct policy *ret)
{
    *ret = (struct policy){
        .copies = MD_COPIES_DEFAULT, .domain = DOMAIN_NODE, .shift = POLICY_SHIFT_MAX};
}

static uint64_t group_of(const struct policy *policy, uint64_t dir)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (unsigned i = 0; i < policy->affinity_len; i++)
        hash = (hash ^ (uint8_t)policy->affinity[i]) * 0x100000001b3ull;
    if (strcmp(policy->affinity, POLICY_AFFINITY_DIR) == 0)
        hash = (hash ^ dir) * 0x9e3779b97f4a7c15ull;
    return MAX(hash, (uint64_t)1);
}

/* Takes over what has not been said nearer by. */
static void inherit(struct policy *so_far, const struct policy *above)
{
    if (so_far->copies == 0 && so_far->code_k == 0) {
        so_far->code_k = above->code_k;
        so_far->code_m = above->code_m;
    }
    if (so_far->code_k <= POLICY_WHOLE && so_far->copies == 0)
        so_far->copies = above->copies;
    so_far->compress = so_far->compress != 0 ? so_far->compress : above->compress;
    so_far->domain = so_far->domain != 0 ? so_far->domain : above->domain;
    so_far->shift = so_far->shift != 0 ? so_far->shift : above->shift;
    if (so_far->affinity_len == 0) {
        so_far->affinity_len = above->affinity_len;
        memcpy(so_far->affinity, above->affinity, sizeof so_far->affinity);
    }
}

static bool complete(const struct policy *policy)
{
    return (policy->copies != 0 || policy->code_k > POLICY_WHOLE) && policy->domain != 0 && policy->shift != 0 &&
           policy->affinity_len != 0 && policy->compress != 0;
}

/* Climbs from `inode` to the root; *ret_dir is the first directory met. */
static int climb(struct tables *t, const struct inode *inode, struct policy *ret, uint64_t *ret_dir)
{
    bool is_dir = inode->type == TARN__FILE_TYPE__FT_DIR;
    uint64_t at = inode->ino, dir;
    *ret_dir = is_dir ? inode->ino : inode->parent;
    int err = policy_own(t, inode, ret);
    /* A file whose directory is not known yet (version 1) has the cluster's policy until it is. */
    if (err == 0)
        err = ns_parent_of(inode, &dir);
    for (unsigned i = 0; err == 0 && at != dir && !complete(ret) && i < POLICY_DEPTH_MAX; i++) {
        _cleanup_(inode_fini) struct inode above = {0};
        struct policy own;
        at = dir;
        err = ns_inode_get(t, at, &above);
        if (err == 0)
            err = policy_own(t, &above, &own);
        if (err != 0)
            break;
        inherit(ret, &own);
        err = ns_parent_of(&above, &dir);
    }
    return err == -E_NOENT ? 0 : err; /* removed, or still somebody's working directory */
}

int policy_of(struct tables *t, const struct inode *inode, struct policy *ret)
{
    struct policy rest;
    uint64_t dir = 0;
    int err = climb(t, inode, ret, &dir);
    if (err != 0)
        return err;
    policy_default(&rest);
    inherit(ret, &rest);
    /* Copies enough for the losses that the code will bear, until it is there. */
    if (ret->code_k > POLICY_WHOLE)
        ret->copies = (uint8_t)(ret->code_m + 1);
    else
        ret->code_k = 0;
    ret->compress = ret->compress > POLICY_COMPRESS_OFF ? (uint8_t)(ret->compress - 1) : 0;
    ret->group = ret->affinity_len == 0 ? 0 : group_of(ret, dir);
    return 0;
}

/* ------------------------------------------------------------------ commands */
static bool name_is_right(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
            return false;
    return len <= POLICY_AFFINITY_MAX;
}

static int shift_of(uint64_t bytes, uint8_t *ret)
{
    *ret = 0;
    for (uint8_t shift = POLICY_SHIFT_MIN; bytes != 0 && shift <= POLICY_SHIFT_MAX; shift++)
        if (bytes == 1ull << shift)
            *ret = shift;
    return bytes != 0 && *ret == 0 ? -E_INVAL : 0;
}

static int look_at(struct tables *t, const Tarn__PolicySet *m, uint8_t *ret_shift)
{
    const Tarn__Policy *to = m->policy;
    if (to == NULL || (m->mask & ~(uint32_t)POLICY_ALL) != 0 || m->mask == 0)
        return tables_fail(t, -E_INVAL, "nothing is said that a policy has");
    if (to->copies > MD_COPIES_MAX)
        return tables_fail(t, -E_INVAL, "copies go from 1 to %d", MD_COPIES_MAX);
    if (to->domain > DOMAIN_SITE)
        return tables_fail(t, -E_INVAL, "a failure domain is disk, node, rack or site");
    if (shift_of(to->chunk_bytes, ret_shift) != 0)
        return tables_fail(t, -E_INVAL, "a chunk's size is a power of two from 1 MiB to 64 MiB");
    if (!name_is_right(to->affinity))
        return tables_fail(t, -E_INVAL, "an affinity group has a name of up to %d bytes without spaces",
                           POLICY_AFFINITY_MAX);
    if (!code_is_right(to->code_k, to->code_m))
        return tables_fail(t, -E_INVAL, "a code K+M has K from %d to %d and M from 1 to %d", POLICY_CODE_K_MIN,
                           POLICY_CODE_K_MAX, POLICY_CODE_M_MAX);
    if ((m->mask & POLICY_COPIES) && (m->mask & POLICY_CODE) && to->copies != 0 && to->code_k != 0)
        return tables_fail(t, -E_INVAL, "data is kept in copies or in a code: say one of them");
    if (to->compress > POLICY_COMPRESS_MAX)
        return tables_fail(t, -E_INVAL, "compression is off or a level from 1 to %d", POLICY_COMPRESS_MAX - 1);
    return 0;
}

/* Copies and code: the one that is said takes the other's place. */
static void change_safety(const Tarn__PolicySet *m, struct policy *policy)
{
    const Tarn__Policy *to = m->policy;
    if (m->mask & POLICY_COPIES) {
        policy->copies = (uint8_t)to->copies;
        if (to->copies != 0)
            policy->code_k = policy->code_m = 0;
    }
    if (m->mask & POLICY_CODE) {
        policy->code_k = (uint8_t)to->code_k;
        policy->code_m = (uint8_t)to->code_m;
        if (to->code_k != 0)
            policy->copies = 0;
    }
}

static int change(struct tables *t, const Tarn__PolicySet *m, struct policy *policy)
{
    const Tarn__Policy *to = m->policy;
    uint8_t shift = 0;
    int err = look_at(t, m, &shift);
    if (err != 0)
        return err;
    change_safety(m, policy);
    if (m->mask & POLICY_DOMAIN)
        policy->domain = (uint8_t)to->domain;
    if (m->mask & POLICY_CHUNK)
        policy->shift = shift;
    if (m->mask & POLICY_AFFINITY) {
        policy->affinity_len = (uint8_t)strlen(to->affinity);
        memset(policy->affinity, 0, sizeof policy->affinity);
        memcpy(policy->affinity, to->affinity, policy->affinity_len);
    }
    if (m->mask & POLICY_COMPRESS)
        policy->compress = (uint8_t)to->compress;
    return 0;
}

/* A directory's row comes, changes or goes; copies given when it was made are now the row's. */
static int dir_put(struct tables *t, struct inode *dir, const struct policy *policy)
{
    struct key key = key_1(TABLE_POLICY, dir->ino);
    bool had = (dir->flags & INODE_POLICY) != 0;
    bool has = policy->copies != 0 || policy->domain != 0 || policy->shift != 0 || policy->affinity_len != 0 ||
               policy->code_k != 0 || policy->compress != 0;
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    _cleanup_(writer_fini) struct writer w = {0};
    policy_encode(policy, &w);
    if (err == 0)
        err = has ? tables_put(t, &key, &w) : had ? tables_del(t, &key) : 0;
    if (err == 0 && had != has) {
        heal.policies += has ? 1 : UINT64_MAX;
        err = heal_state_put(t, &heal);
    }
    dir->flags = has ? dir->flags | INODE_POLICY : dir->flags & (uint16_t)~INODE_POLICY;
    dir->copies = 0;
    return err;
}

int policy_dir_removed(struct tables *t, const struct inode *dir)
{
    struct heal_state heal;
    struct key key = key_1(TABLE_POLICY, dir->ino);
    int err = dir->flags & INODE_POLICY ? heal_state_get(t, &heal) : -E_NOENT;
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    heal.policies--;
    err = heal_state_put(t, &heal);
    return err == 0 ? tables_del(t, &key) : err;
}

static int set_on(struct tables *t, const Tarn__PolicySet *m, struct inode *inode)
{
    struct policy policy;
    int err = policy_own(t, inode, &policy);
    if (err == 0)
        err = change(t, m, &policy);
    if (err != 0)
        return err;
    if (inode->type == TARN__FILE_TYPE__FT_DIR) {
        err = dir_put(t, inode, &policy);
    } else if (m->mask == POLICY_COPIES && inode->type == TARN__FILE_TYPE__FT_FILE) {
        inode->copies = policy.copies;
    } else {
        err = tables_fail(t, -E_NOTDIR, "of a single file only the number of copies can be set");
    }
    return err;
}

static int reply_policy(struct tables *t, const struct inode *inode);

int policy_cmd_set(struct tables *t, const void *message)
{
    const Tarn__PolicySet *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0 && t->cred.uid != 0 && t->cred.uid != inode.uid)
        err = tables_fail(t, -E_PERM, "only the owner or root may set a policy");
    if (err == 0)
        err = set_on(t, m, &inode);
    if (err == 0) {
        ns_touch(t, &inode, false);
        err = ns_inode_put(t, &inode);
    }
    if (err == 0 && (m->mask & POLICY_WALKED))
        err = heal_walk_ask(t);
    return err == 0 ? reply_policy(t, &inode) : err;
}

static void policy_message(const struct policy *policy, Tarn__Policy *out)
{
    tarn__policy__init(out);
    out->copies = policy->copies;
    out->domain = policy->domain;
    out->chunk_bytes = policy->shift == 0 ? 0 : 1ull << policy->shift;
    out->affinity = (char *)policy->affinity;
    out->code_k = policy->code_k;
    out->code_m = policy->code_m;
    out->compress = policy->compress;
}

static int reply_policy(struct tables *t, const struct inode *inode)
{
    struct policy own, effective;
    struct heal_state heal;
    Tarn__Policy own_message, effective_message;
    int err = policy_own(t, inode, &own);
    if (err == 0)
        err = policy_of(t, inode, &effective);
    if (err == 0)
        err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    policy_message(&own, &own_message);
    policy_message(&effective, &effective_message);
    effective_message.code_k = MAX(effective.code_k, (uint8_t)POLICY_WHOLE);
    effective_message.compress++; /* as a row has it */
    Tarn__PolicyReply reply = TARN__POLICY_REPLY__INIT;
    reply.own = &own_message;
    reply.effective = &effective_message;
    heal_walk_progress(&heal, &reply.walked, &reply.walk_end);
    return tables_reply(t, &reply.base);
}

int policy_query_get(struct tables *t, const void *message)
{
    const Tarn__PolicyGet *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0)
        err = ns_may(t, &inode, NS_READ);
    return err == 0 ? reply_policy(t, &inode) : err;
}
