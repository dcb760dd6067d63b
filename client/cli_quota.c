/* tarn quota set, get, ls, rm. */
#include "commands.h"
#include "out.h"

#include "common/err.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define GROUPS_MAX 64

struct quota_call {
    bool json;
    bool set_bytes, set_files;
    uint64_t bytes, files;
    const char *config, *user, *group, *path;
    Tarn__QuotaKind kind;
    uint64_t subject;
    bool remove;
    unsigned shown;
    uint32_t groups[GROUPS_MAX];
    struct meta_cred cred;
};

/* ---- what is shown */

/* The system's name of an id where it has one; else the number. */
static void subject_name(const Tarn__Quota *q, char out[1040])
{
    const struct passwd *user = q->kind == TARN__QUOTA_KIND__QUOTA_USER ? getpwuid((uid_t)q->subject) : NULL;
    const struct group *group = q->kind == TARN__QUOTA_KIND__QUOTA_GROUP ? getgrgid((gid_t)q->subject) : NULL;
    if (q->kind == TARN__QUOTA_KIND__QUOTA_DIR && q->path[0] != '\0')
        snprintf(out, 1040, "%s", q->path);
    else if (q->kind == TARN__QUOTA_KIND__QUOTA_DIR)
        snprintf(out, 1040, "inode %llu", (unsigned long long)q->subject);
    else
        snprintf(out, 1040, "%s %s%s%llu", q->kind == TARN__QUOTA_KIND__QUOTA_USER ? "user" : "group",
                 user != NULL ? user->pw_name : group != NULL ? group->gr_name : "",
                 user != NULL || group != NULL ? " " : "", (unsigned long long)q->subject);
}

static void print_quota(struct quota_call *call, const Tarn__Quota *q)
{
    static const char *const kinds[] = {"none", "directory", "user", "group"};
    char name[1040], used[16], limit[16] = "-";
    subject_name(q, name);
    if (call->json) {
        out_json("{s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:b}", "kind", kinds[q->kind % 4], "id", (long long)q->subject, "path", q->path,
                 "limit_bytes", (long long)q->limit_bytes, "limit_files", (long long)q->limit_files, "bytes",
                 (long long)q->bytes, "files", (long long)q->files, "counting", q->counting);
        return;
    }
    if (call->shown++ == 0)
        puts("      USED      LIMIT      FILES      LIMIT  OF");
    cli_format_size(q->bytes, used);
    if (q->limit_bytes != 0)
        cli_format_size(q->limit_bytes, limit);
    char files[24] = "-";
    if (q->limit_files != 0)
        snprintf(files, sizeof files, "%llu", (unsigned long long)q->limit_files);
    printf("%10s %10s %10llu %10s  %s%s\n", used, limit, (unsigned long long)q->files, files, name,
           q->counting ? "  (still being counted)" : "");
}

static void subject_text(const struct quota_call *call, char out[300])
{
    if (call->kind == TARN__QUOTA_KIND__QUOTA_DIR)
        snprintf(out, 300, "%.280s", call->path);
    else
        snprintf(out, 300, "%s %.280s", call->user != NULL ? "user" : "group",
                 call->user != NULL ? call->user : call->group);
}

static int complain(const struct quota_call *call, const char *what, int err, const char *detail)
{
    char of[300];
    subject_text(call, of);
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s the quota of %s: %s", what, of, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

/* ---- calls */

static int set_fiber(struct meta *meta, void *arg)
{
    struct quota_call *call = arg;
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__QuotaSet request = TARN__QUOTA_SET__INIT;
    where.path = (char *)(uintptr_t)(call->path != NULL ? call->path : "");
    request.where = &where;
    request.kind = call->kind;
    request.subject = call->subject;
    request.set_bytes = call->set_bytes;
    request.bytes = call->bytes;
    request.set_files = call->set_files;
    request.files = call->files;
    request.remove = call->remove;
    Tarn__QuotaReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_QUOTA_SET, &request.base, &request.ctx, &call->cred,
                        &tarn__quota_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain(call, call->remove ? "remove" : "set", err, detail);
    for (size_t i = 0; i < reply->n_quotas && call->json; i++)
        print_quota(call, reply->quotas[i]);
    if (call->remove && call->json)
        out_json("{s:b}", "removed", true);
    tarn__quota_reply__free_unpacked(reply, NULL);
    return 0;
}

static int get_fiber(struct meta *meta, void *arg)
{
    struct quota_call *call = arg;
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__QuotaGet request = TARN__QUOTA_GET__INIT;
    where.path = (char *)(uintptr_t)(call->path != NULL ? call->path : "");
    request.where = &where;
    request.kind = call->kind;
    request.subject = call->subject;
    Tarn__QuotaReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_QUOTA_GET, &request.base, &request.ctx, &call->cred,
                        &tarn__quota_reply__descriptor, &reply, detail);
    if (err == 0 && reply->n_quotas == 0) {
        err = -E_NOENT;
        snprintf(detail, sizeof detail, "there is none");
    }
    for (size_t i = 0; err == 0 && i < reply->n_quotas; i++)
        print_quota(call, reply->quotas[i]);
    if (reply != NULL)
        tarn__quota_reply__free_unpacked(reply, NULL);
    return err == 0 ? 0 : complain(call, "show", err, detail);
}

static int ls_fiber(struct meta *meta, void *arg)
{
    struct quota_call *call = arg;
    Tarn__QuotaGet request = TARN__QUOTA_GET__INIT;
    request.list = true;
    for (bool end = false; !end;) {
        Tarn__QuotaReply *reply = NULL;
        char detail[160] = "";
        int err = meta_call(meta, OP_QUOTA_GET, &request.base, &request.ctx, &call->cred,
                            &tarn__quota_reply__descriptor, &reply, detail);
        if (err != 0) {
            if (err != -E_UNAVAIL)
                cli_complain("cannot list the quotas: %s", detail[0] != '\0' ? detail : err_sentence(err));
            return err;
        }
        for (size_t i = 0; i < reply->n_quotas; i++) {
            print_quota(call, reply->quotas[i]);
            request.kind = reply->quotas[i]->kind;
            request.subject = reply->quotas[i]->subject;
        }
        end = reply->end || reply->n_quotas == 0;
        tarn__quota_reply__free_unpacked(reply, NULL);
    }
    return 0;
}

/* ---- the command line */

/* A number, or a name of this system's users or groups. */
static bool subject_parse(struct quota_call *call)
{
    const char *text = call->user != NULL ? call->user : call->group;
    char *end;
    errno = 0;
    unsigned long long id = strtoull(text, &end, 10);
    call->subject = id;
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && id < UINT32_MAX)
        return true;
    const struct passwd *user = call->user != NULL ? getpwnam(text) : NULL;
    const struct group *group = call->group != NULL ? getgrnam(text) : NULL;
    if (user == NULL && group == NULL) {
        cli_complain("this system knows no %s '%s'; give its number", call->user != NULL ? "user" : "group", text);
        return false;
    }
    call->subject = user != NULL ? user->pw_uid : group->gr_gid;
    return true;
}

static int subject_check(struct quota_call *call, int n_args, char **argv)
{
    int given = (call->user != NULL) + (call->group != NULL) + (n_args > 1);
    if (given != 1 || n_args > 2) {
        cli_complain("quota %s needs one path, or --user, or --group", argv[1]);
        return CLI_USAGE;
    }
    if (n_args == 2) {
        call->kind = TARN__QUOTA_KIND__QUOTA_DIR;
        call->path = argv[2];
        if (call->path[0] != '/') {
            cli_complain("'%s' is no path of the tree: paths begin with a slash", call->path);
            return CLI_USAGE;
        }
        return CLI_OK;
    }
    call->kind = call->user != NULL ? TARN__QUOTA_KIND__QUOTA_USER : TARN__QUOTA_KIND__QUOTA_GROUP;
    return subject_parse(call) ? CLI_OK : CLI_NOT_FOUND;
}

static void cred_take(struct quota_call *call)
{
    gid_t groups[GROUPS_MAX];
    int n = getgroups(GROUPS_MAX, groups);
    for (int i = 0; i < n; i++)
        call->groups[i] = groups[i];
    call->cred = (struct meta_cred){
        .uid = geteuid(), .gid = getegid(), .groups = call->groups, .n_groups = n > 0 ? (unsigned)n : 0};
}

static void option_seen(void *arg, const struct cli_option *option, const char *value)
{
    struct quota_call *call = arg;
    call->set_bytes |= option->target == &call->bytes;
    call->set_files |= option->target == &call->files;
}

int command_quota(int argc, char **argv)
{
    static const struct {
        const char *word;
        admin_fn fn;
        bool subject, limits, remove;
    } words[] = {{"set", set_fiber, true, true, false},
                 {"get", get_fiber, true, false, false},
                 {"ls", ls_fiber, false, false, false},
                 {"rm", set_fiber, true, false, true}};
    struct quota_call call = {0};
    const struct cli_option options[] = {
        {"user", CLI_STRING, &call.user, "U", "of this user: a name of this system or a number", 0, 0},
        {"group", CLI_STRING, &call.group, "G", "of this group, for example a tenant", 0, 0},
        {"bytes", CLI_SIZE, &call.bytes, "N", "set: at most so many bytes; 0 = any number", 0, 0},
        {"files", CLI_UINT, &call.files, "N", "set: at most so many files, directories and others; 0 = any number", 0, 0},
        {"json", CLI_FLAG, &call.json, NULL, "one JSON object a line", 0, 0},
        {"config", CLI_STRING, &call.config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse_seen(argc, argv, "tarn quota set|get|rm PATH|--user U|--group G, tarn quota ls",
                   "Limits what a directory's tree, a user or a group may hold.", options, ARRAY_SIZE(options), &n_args,
                   option_seen, &call);
    size_t i = 0;
    while (n_args > 0 && i < ARRAY_SIZE(words) && strcmp(argv[1], words[i].word) != 0)
        i++;
    if (n_args == 0 || i == ARRAY_SIZE(words)) {
        cli_complain("quota takes one of the words set, get, ls and rm; see tarn quota --help");
        return CLI_USAGE;
    }
    bool limits = call.set_bytes || call.set_files;
    if (limits != words[i].limits || (!words[i].subject && n_args > 1)) {
        cli_complain(limits ? "only quota set takes limits"
                     : words[i].limits ? "quota set needs --bytes or --files" : "quota ls takes no path");
        return CLI_USAGE;
    }
    int code = words[i].subject ? subject_check(&call, n_args, argv) : CLI_OK;
    if (code != CLI_OK)
        return code;
    call.remove = words[i].remove;
    cred_take(&call);
    return cli_exit_for(admin_run(call.config, false, 0, words[i].fn, &call));
}
