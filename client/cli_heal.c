/* tarn heal status, tarn policy get|set. */
#include "commands.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define HEAL_LOOK_MS 500 /* between two looks of --wait */

static int complain(const char *what, int err, const char *detail)
{
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s: %s", what, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

/* ---- heal status */
struct heal {
    bool json, safe, wait;
};

static uint64_t age_s(uint64_t since_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t since_s = since_ns / 1000000000;
    return since_ns == 0 || (uint64_t)now.tv_sec < since_s ? 0 : (uint64_t)now.tv_sec - since_s;
}

static void print_levels(const Tarn__HealStatusReply *r)
{
    for (size_t i = 0; i < r->n_by_copies; i++)
        if (r->by_copies[i] != 0)
            printf("  with %zu live %s%s: %llu chunks\n", i, i == 1 ? "copy" : "copies",
                   i + 1 == r->n_by_copies ? " or more" : "", (unsigned long long)r->by_copies[i]);
    if (r->groups + r->coding != 0)
        printf("  parity groups: %llu coded (their chunks count by disks to lose before data is lost), %llu being made, %llu dead chunks in them\n",
               (unsigned long long)r->groups, (unsigned long long)r->coding, (unsigned long long)r->ghosts);
    if (r->weak != 0)
        printf("  with all copies, but in too few failure domains: %llu\n", (unsigned long long)r->weak);
    if (r->reduced != 0)
        printf("  with fewer copies than asked for, because there are too few disks: %llu\n", (unsigned long long)r->reduced);
}

void print_damages(const Tarn__Damages *d)
{
    char size[16];
    if (d == NULL || d->chunks == 0)
        return;
    printf("  with damaged copies: %llu chunks, being repaired: %llu\n", (unsigned long long)d->chunks,
           (unsigned long long)(d->chunks - d->lost));
    if (d->lost == 0)
        return;
    cli_format_size(d->lost_bytes, size);
    printf("  LOST bytes: %s in %llu chunks are right in no copy; reading them fails, all else of these files can be read:\n", size,
           (unsigned long long)d->lost);
    for (size_t i = 0; i < d->n_files; i++)
        printf("    %.*s\n", (int)d->files[i].len, (const char *)d->files[i].data);
}

void damaged_files(const Tarn__Damages *d, char out[DAMAGED_FILES_TEXT])
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; d != NULL && i < d->n_files && at + d->files[i].len + 2 < DAMAGED_FILES_TEXT; i++)
        at += (size_t)snprintf(out + at, DAMAGED_FILES_TEXT - at, "%s%.*s", i > 0 ? "\n" : "", (int)d->files[i].len,
                               (const char *)d->files[i].data);
}

static void print_work(const Tarn__HealStatusReply *r)
{
    char missing[16], rate[16];
    cli_format_size(r->missing_bytes, missing);
    cli_format_size(r->rate, rate);
    if (r->below_target != 0)
        printf("  below target: %llu chunks, %s to copy, the oldest since %llu s\n", (unsigned long long)r->below_target,
               missing, (unsigned long long)age_s(r->oldest_ns));
    printf("  copies under way %llu, tasks %llu, measured rate %s/s\n", (unsigned long long)r->copies,
           (unsigned long long)r->tasks, rate);
    if (r->below_target != 0 && r->eta_s != UINT64_MAX)
        printf("  every chunk has all its copies in about %llu s\n", (unsigned long long)r->eta_s);
    else if (r->below_target != 0)
        printf("  when every chunk has all its copies cannot be told%s\n",
               r->copies != 0 ? " yet" : ": nothing is being copied now");
    if (r->walk_end != 0)
        printf("  bringing chunks to their policies: %llu of %llu\n", (unsigned long long)r->walked,
               (unsigned long long)r->walk_end);
    if (r->balancing)
        puts("  balancing the disks");
    for (size_t i = 0; i < r->n_draining; i++)
        printf("  node %u: %s, %llu chunks depend on it\n", r->draining[i]->id,
               r->draining[i]->safe_to_remove ? "safe to remove" : "being emptied",
               (unsigned long long)r->draining[i]->dependents);
    printf("  next: %s\n", r->next);
}

static void print_heal(const Tarn__HealStatusReply *r, const struct heal *heal)
{
    if (heal->json) {
        out_json("{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:b,s:I,s:I,s:s,s:a}", "safe", heal->safe,
                 "chunks", (long long)r->chunks, "groups", (long long)r->groups, "coding", (long long)r->coding, "ghosts",
                 (long long)r->ghosts, "below_target", (long long)r->below_target, "weak", (long long)r->weak, "reduced",
                 (long long)r->reduced, "lost", (long long)r->lost, "missing_bytes", (long long)r->missing_bytes,
                 "oldest_s", (long long)age_s(r->oldest_ns), "copies", (long long)r->copies, "tasks", (long long)r->tasks,
                 "copied_bytes", (long long)r->copied_bytes, "rate", (long long)r->rate, "eta_s",
                 r->eta_s == UINT64_MAX ? -1ll : (long long)r->eta_s, "balancing", r->balancing, "counting", r->counting,
                 "walked", (long long)r->walked, "walk_end", (long long)r->walk_end, "next", r->next,
                 "levels", r->by_copies, r->n_by_copies);
        return;
    }
    printf("%s\n", r->lost != 0       ? "Data is LOST: some chunks have no readable copy."
                   : r->below_target != 0 ? "Not every chunk has all its copies."
                   : r->weak != 0         ? "Every chunk has all its copies, but some share a failure domain."
                                          : "Every chunk has all its copies, in as many failure domains as asked for.");
    print_levels(r);
    print_damages(r->damages);
    print_work(r);
}

static uint64_t heal_left(const Tarn__HealStatusReply *r)
{
    return r->below_target + (r->damages != NULL ? r->damages->chunks - r->damages->lost : 0);
}

/* Until nothing is left to heal that can be healed: what is lost, or waits for nodes, does not come by waiting. */
static int heal_wait(struct meta *meta)
{
    struct progress progress;
    progress_begin(&progress, "chunks healed", 0);
    progress.count = true;
    int err = 0;
    for (bool more = true; more && err == 0;) {
        Tarn__HealStatus request = TARN__HEAL_STATUS__INIT;
        Tarn__HealStatusReply *reply = NULL;
        char detail[160] = "";
        err = meta_call(meta, OP_HEAL_STATUS, &request.base, &request.ctx, &meta_root, &tarn__heal_status_reply__descriptor, &reply,
                        detail);
        if (err != 0) {
            err = complain("ask how the data is kept", err, detail);
            break;
        }
        progress_left(&progress, heal_left(reply));
        more = heal_left(reply) > reply->lost;
        tarn__heal_status_reply__free_unpacked(reply, NULL);
        if (more)
            err = io_sleep_ms(fiber_io(), HEAL_LOOK_MS);
    }
    progress_end(&progress);
    return err;
}

static int heal_fiber(struct meta *meta, void *arg)
{
    struct heal *heal = arg;
    int waited = heal->wait ? heal_wait(meta) : 0;
    if (waited != 0)
        return waited;
    Tarn__HealStatus request = TARN__HEAL_STATUS__INIT;
    Tarn__HealStatusReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_HEAL_STATUS, &request.base, &request.ctx, &meta_root,
                        &tarn__heal_status_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain("ask how the data is kept", err, detail);
    heal->safe = reply->below_target == 0 && reply->lost == 0 && reply->weak == 0;
    print_heal(reply, heal);
    tarn__heal_status_reply__free_unpacked(reply, NULL);
    return 0;
}

int command_heal(int argc, char **argv)
{
    struct heal heal = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &heal.json, NULL, "one JSON object", 0, 0},
        {"wait", CLI_FLAG, &heal.wait, NULL, "until every chunk that can be healed is", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn heal status",
              "How many copies there are, what is missing, what is being done. Exit code 1 when something is missing.",
              options, ARRAY_SIZE(options), &n);
    if (n != 1 || strcmp(argv[1], "status") != 0) {
        cli_complain("heal takes the word 'status'; see tarn heal --help");
        return CLI_USAGE;
    }
    int err = admin_run(config, false, 0, heal_fiber, &heal);
    return err != 0 ? cli_exit_for(err) : heal.safe ? CLI_OK : CLI_FAILED;
}

/* ---- policy */
static const char *const domains[] = {"inherited", "disk", "node", "rack", "site"};

struct policy_call {
    bool json, set;
    const char *path;
    uint32_t mask;
    Tarn__Policy policy;
};

static int word_copies(struct policy_call *call, const char *value)
{
    char *end;
    call->policy.copies = (uint32_t)strtoul(value, &end, 10);
    if (end == value || *end != '\0' || call->policy.copies > 6) {
        cli_complain("copies=%s: it is 1 to 6, or 0 to inherit again", value);
        return -E_INVAL;
    }
    return 0;
}

static int word_domain(struct policy_call *call, const char *value)
{
    for (uint32_t i = 0; i < ARRAY_SIZE(domains); i++)
        if (strcmp(value, domains[i]) == 0) {
            call->policy.domain = i;
            return 0;
        }
    cli_complain("domain=%s: it is disk, node, rack, site or inherited", value);
    return -E_INVAL;
}

static int word_chunk(struct policy_call *call, const char *value)
{
    int err = strcmp(value, "inherited") == 0 ? 0 : cli_parse_size(value, &call->policy.chunk_bytes);
    if (err != 0)
        cli_complain("chunk=%s: it is a size like 16M, or inherited", value);
    return err;
}

static int word_affinity(struct policy_call *call, const char *value)
{
    call->policy.affinity = (char *)(strcmp(value, "inherited") == 0 ? "" : value);
    return 0;
}

/* "4+2": digits only on both sides, so that nothing is taken for what was not meant. */
static bool parse_code(const char *value, uint32_t *ret_k, uint32_t *ret_m)
{
    char *end;
    if (*value < '0' || *value > '9')
        return false;
    unsigned long k = strtoul(value, &end, 10);
    if (*end != '+' || end[1] < '0' || end[1] > '9')
        return false;
    unsigned long m = strtoul(end + 1, &end, 10);
    if (*end != '\0' || k < 2 || k > 16 || m < 1 || m > 4)
        return false;
    *ret_k = (uint32_t)k;
    *ret_m = (uint32_t)m;
    return true;
}

static int word_code(struct policy_call *call, const char *value)
{
    if (strcmp(value, "inherited") == 0)
        return 0;
    if (strcmp(value, "off") == 0) {
        call->policy.code_k = 1;
        return 0;
    }
    if (parse_code(value, &call->policy.code_k, &call->policy.code_m))
        return 0;
    cli_complain("code=%s: it is K+M with K from 2 to 16 and M from 1 to 4 (as 4+2), off, or inherited", value);
    return -E_INVAL;
}

static int word_compress(struct policy_call *call, const char *value)
{
    char *end;
    if (strcmp(value, "inherited") == 0)
        return 0;
    unsigned long level = strcmp(value, "off") == 0 ? 0 : strtoul(value, &end, 10);
    if (strcmp(value, "off") != 0 && (*value < '0' || *value > '9' || *end != '\0' || level < 1 || level > 19)) {
        cli_complain("compress=%s: it is a level from 1 to 19, off, or inherited", value);
        return -E_INVAL;
    }
    call->policy.compress = (uint32_t)level + 1;
    return 0;
}

static const struct {
    const char *name;
    uint32_t bit;
    int (*parse)(struct policy_call *call, const char *value);
} words[] = {{"copies", 1, word_copies},     {"domain", 2, word_domain}, {"chunk", 4, word_chunk},
             {"affinity", 8, word_affinity}, {"code", 16, word_code},    {"compress", 32, word_compress}};

static int word(struct policy_call *call, char *text)
{
    char *value = strchr(text, '=');
    for (size_t i = 0; value != NULL && i < ARRAY_SIZE(words); i++)
        if (strlen(words[i].name) == (size_t)(value - text) && strncmp(words[i].name, text, (size_t)(value - text)) == 0) {
            call->mask |= words[i].bit;
            return words[i].parse(call, value + 1);
        }
    cli_complain("'%.200s' is nothing a policy has: copies=N code=K+M domain=D chunk=SIZE affinity=NAME compress=LEVEL", text);
    return -E_INVAL;
}

#define POLICY_TEXT 24

/* "4+2", "off", or "inherited". */
static const char *code_text(const Tarn__Policy *policy, char out[POLICY_TEXT])
{
    if (policy->code_k > 1)
        snprintf(out, POLICY_TEXT, "%u+%u", policy->code_k, policy->code_m);
    else
        snprintf(out, POLICY_TEXT, "%s", policy->code_k == 1 ? "off" : "inherited");
    return out;
}

static const char *compress_text(const Tarn__Policy *policy, char out[POLICY_TEXT])
{
    if (policy->compress > 1)
        snprintf(out, POLICY_TEXT, "%u", policy->compress - 1);
    else
        snprintf(out, POLICY_TEXT, "%s", policy->compress == 1 ? "off" : "inherited");
    return out;
}

static void print_policy_json(const Tarn__PolicyReply *reply, const struct policy_call *call)
{
    const Tarn__Policy *own = reply->own, *all = reply->effective;
    char code[POLICY_TEXT], compress[POLICY_TEXT], own_code[POLICY_TEXT], own_compress[POLICY_TEXT];
    out_json("{s:s,s:i,s:s,s:s,s:I,s:s,s:s,s:{s:i,s:s,s:s,s:I,s:s,s:s},s:I,s:I}", "path", call->path, "copies", (int)all->copies,
             "code", code_text(all, code), "domain", domains[all->domain % ARRAY_SIZE(domains)], "chunk",
             (long long)all->chunk_bytes, "affinity", all->affinity, "compress", compress_text(all, compress), "own", "copies",
             (int)own->copies, "code", code_text(own, own_code), "domain", domains[own->domain % ARRAY_SIZE(domains)], "chunk",
             (long long)own->chunk_bytes, "affinity", own->affinity, "compress", compress_text(own, own_compress), "walked",
             (long long)reply->walked, "walk_end", (long long)reply->walk_end);
}

static const char *inherited(bool own)
{
    return own ? "" : " (inherited)";
}

static void print_policy(const Tarn__PolicyReply *reply, const struct policy_call *call)
{
    const Tarn__Policy *own = reply->own, *all = reply->effective;
    char size[16], text[POLICY_TEXT];
    cli_format_size(all->chunk_bytes, size);
    if (call->json) {
        print_policy_json(reply, call);
        return;
    }
    if (all->code_k > 1)
        printf("code=%s%s", code_text(all, text), inherited(own->code_k != 0));
    else
        printf("copies=%u%s", all->copies, inherited(own->copies != 0));
    printf(" domain=%s%s chunk=%s%s", domains[all->domain % ARRAY_SIZE(domains)], inherited(own->domain != 0), size,
           inherited(own->chunk_bytes != 0));
    if (all->affinity[0] != '\0')
        printf(" affinity=%s%s", all->affinity, inherited(own->affinity[0] != '\0'));
    if (all->compress > 1)
        printf(" compress=%s%s", compress_text(all, text), inherited(own->compress != 0));
    putchar('\n');
    if (reply->walk_end != 0)
        printf("existing chunks are being brought to the policies: %llu of %llu looked at\n",
               (unsigned long long)reply->walked, (unsigned long long)reply->walk_end);
}

static int policy_fiber(struct meta *meta, void *arg)
{
    struct policy_call *call = arg;
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__PolicySet set = TARN__POLICY_SET__INIT;
    Tarn__PolicyGet get = TARN__POLICY_GET__INIT;
    Tarn__PolicyReply *reply = NULL;
    const struct meta_cred cred = {.uid = getuid(), .gid = getgid()};
    char detail[160] = "", what[300];
    where.path = (char *)call->path;
    set.where = get.where = &where;
    set.policy = &call->policy;
    set.mask = call->mask;
    int err = call->set ? meta_call(meta, OP_POLICY_SET, &set.base, &set.ctx, &cred, &tarn__policy_reply__descriptor,
                                    &reply, detail)
                        : meta_call(meta, OP_POLICY_GET, &get.base, &get.ctx, &cred, &tarn__policy_reply__descriptor,
                                    &reply, detail);
    snprintf(what, sizeof what, "%s the policy of %.200s", call->set ? "set" : "get", call->path);
    if (err != 0)
        return complain(what, err, detail);
    print_policy(reply, call);
    tarn__policy_reply__free_unpacked(reply, NULL);
    return 0;
}

int command_policy(int argc, char **argv)
{
    struct policy_call call = {.policy = TARN__POLICY__INIT};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &call.json, NULL, "one JSON object", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn policy get PATH | set PATH [copies=N | code=K+M] [domain=disk|node|rack|site] [chunk=SIZE] [affinity=NAME] [compress=LEVEL]",
              "How the data below a directory is kept. What exists is brought to it in the background.", options,
              ARRAY_SIZE(options), &n);
    bool get = n == 2 && strcmp(argv[1], "get") == 0;
    call.set = n >= 3 && strcmp(argv[1], "set") == 0;
    if (!get && !call.set) {
        cli_complain("policy takes get PATH or set PATH NAME=VALUE...; see tarn policy --help");
        return CLI_USAGE;
    }
    call.path = argv[2];
    for (int i = 3; i <= n; i++)
        if (word(&call, argv[i]) != 0)
            return CLI_USAGE;
    return cli_exit_for(admin_run(config, false, 0, policy_fiber, &call));
}
