#include "pack_rows.h"

#include "common/err.h"
#include "group.h"
#include "meta.pb-c.h"
#include "placement.h"

/* In the number of a policy (group.h) these bits are free: they tell apart what it does not say. */
#define CLASS_PLACE_SHIFT 40
#define CLASS_PLACES (1ull << 23)

static int done(const struct reader *r)
{
    return r->failed || reader_left(r) != 0 ? -E_CORRUPT : 0;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 29;
}

void pack_class_from(const struct policy *policy, struct pack_class *ret)
{
    *ret = (struct pack_class){.copies = policy->copies,
                               .domain = policy->domain,
                               .shift = policy->shift,
                               .code_k = policy->code_k,
                               .code_m = policy->code_m,
                               .compress = policy->compress,
                               .affinity = policy->group,
                               .due_ns = PACK_NEVER};
    uint64_t place = mix(mix(0, ret->affinity), ret->shift) % CLASS_PLACES;
    if (ret->affinity == 0 && ret->shift == POLICY_SHIFT_MAX)
        place = 0;
    ret->id = group_policy_number(policy) | place << CLASS_PLACE_SHIFT;
}

uint64_t pack_class_next(uint64_t id)
{
    uint64_t place = (id >> CLASS_PLACE_SHIFT) % CLASS_PLACES, rest = id & ~((CLASS_PLACES - 1) << CLASS_PLACE_SHIFT);
    return rest | (place + 1) % CLASS_PLACES << CLASS_PLACE_SHIFT;
}

void pack_class_policy(const struct pack_class *c, struct policy *ret)
{
    *ret = (struct policy){.copies = c->copies,
                           .domain = c->domain,
                           .shift = c->shift,
                           .code_k = c->code_k,
                           .code_m = c->code_m,
                           .compress = c->compress,
                           .group = c->affinity};
}

bool pack_class_same(const struct pack_class *a, const struct pack_class *b)
{
    return a->copies == b->copies && a->domain == b->domain && a->shift == b->shift && a->code_k == b->code_k &&
           a->code_m == b->code_m && a->compress == b->compress && a->affinity == b->affinity;
}

void pack_class_encode(const struct pack_class *c, struct writer *w)
{
    const uint8_t words[] = {c->copies, c->domain, c->shift, c->code_k, c->code_m, c->compress};
    const uint64_t numbers[] = {c->affinity, c->candidates, c->bytes, c->containers, c->due_ns, c->next};
    writer_u8(w, RECORD_VERSION);
    writer_bytes(w, words, sizeof words);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
}

int pack_class_decode(uint64_t id, const void *data, size_t n, struct pack_class *ret)
{
    struct reader r = reader_init(data, n);
    struct pack_class c = {.id = id};
    uint8_t *const words[] = {&c.copies, &c.domain, &c.shift, &c.code_k, &c.code_m, &c.compress};
    uint64_t *const numbers[] = {&c.affinity, &c.candidates, &c.bytes, &c.containers, &c.due_ns, &c.next};
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        *words[i] = reader_u8(&r);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    if (done(&r) != 0 || c.copies < 1 || c.copies > MD_COPIES_MAX || c.domain < DOMAIN_DISK || c.domain > DOMAIN_SITE ||
        c.shift < POLICY_SHIFT_MIN || c.shift > POLICY_SHIFT_MAX || c.code_k > POLICY_CODE_K_MAX ||
        c.code_m > POLICY_CODE_M_MAX || c.compress >= POLICY_COMPRESS_MAX)
        return -E_CORRUPT;
    *ret = c;
    return 0;
}

void pack_candidate_encode(const struct pack_candidate *c, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, c->since_ns);
    writer_u64(w, c->bytes);
}

int pack_candidate_decode(const void *data, size_t n, struct pack_candidate *ret)
{
    struct reader r = reader_init(data, n);
    struct pack_candidate c = {0};
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    c.since_ns = reader_u64(&r);
    c.bytes = reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = c;
    return 0;
}

void pack_job_encode(const struct pack_job *job, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, job->state);
    writer_u32(w, job->disk);
    writer_u64(w, job->class);
    writer_u64(w, job->due_ns);
}

int pack_job_decode(uint64_t container, const void *data, size_t n, struct pack_job *ret)
{
    struct reader r = reader_init(data, n);
    struct pack_job job = {.container = container};
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    job.state = reader_u8(&r);
    job.disk = reader_u32(&r);
    job.class = reader_u64(&r);
    job.due_ns = reader_u64(&r);
    if (done(&r) != 0 || job.state < PACK_MAKING || job.state > PACK_COPYING)
        return -E_CORRUPT;
    *ret = job;
    return 0;
}

void pack_list_encode(const struct pack_list *list, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u16(w, (uint16_t)list->n);
    for (unsigned i = 0; i < list->n; i++) {
        const struct pack_piece *p = &list->pieces[i];
        const uint64_t numbers[] = {p->chunk, p->generation, p->body, p->body_offset, p->stored, p->content, p->offset, p->size};
        for (size_t k = 0; k < ARRAY_SIZE(numbers); k++)
            writer_u64(w, numbers[k]);
        writer_u8(w, p->form);
        writer_u8(w, p->level);
        writer_u8(w, p->made);
    }
}

int pack_list_decode(const void *data, size_t n, struct pack_list *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    unsigned count = reader_u16(&r);
    if (r.failed || count > PACK_PIECES_MAX)
        return -E_CORRUPT;
    for (unsigned i = 0; i < count; i++) {
        struct pack_piece *p = &ret->pieces[i];
        uint64_t *const numbers[] = {&p->chunk, &p->generation, &p->body, &p->body_offset, &p->stored, &p->content, &p->offset, &p->size};
        for (size_t k = 0; k < ARRAY_SIZE(numbers); k++)
            *numbers[k] = reader_u64(&r);
        p->form = reader_u8(&r);
        p->level = reader_u8(&r);
        p->made = reader_u8(&r);
        if (p->form > TARN__CHUNK_FORM__FORM_ZSTD || p->made > TARN__CHUNK_FORM__FORM_ZSTD)
            return -E_CORRUPT;
    }
    ret->n = count;
    return done(&r);
}
