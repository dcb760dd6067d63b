/* tarn snapshot take, ls, rm, clone. */
#include "commands.h"
#include "out.h"

#include "common/err.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define GROUPS_MAX 64

struct snapshot_call {
    bool json;
    const char *config, *dir, *name, *dest;
    uint32_t groups[GROUPS_MAX];
    struct meta_cred cred;
};

static int complain(const struct snapshot_call *call, const char *what, int err, const char *detail)
{
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s of %s: %s", what, call->dir, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

static Tarn__Where at(const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)(uintptr_t)path;
    return where;
}

static void print_snapshot(const struct snapshot_call *call, const Tarn__Snapshot *s)
{
    if (call->json) {
        out_json("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "name", s->name, "id", (long long)s->id, "epoch",
                 (long long)s->epoch, "created", (long long)s->created, "uid", (long long)s->uid, "clones",
                 (long long)s->clones, "rows", (long long)s->rows, "bytes", (long long)s->bytes, "more", s->more);
        return;
    }
    char bytes[16], when[32];
    time_t seconds = (time_t)(s->created / 1000000000u);
    struct tm tm;
    cli_format_size(s->bytes, bytes);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&seconds, &tm));
    printf("%s  %6u %9llu%s %9s  %s\n", when, s->clones, (unsigned long long)s->rows, s->more ? "+" : " ", bytes,
           s->name);
}

static int take_fiber(struct meta *meta, void *arg)
{
    struct snapshot_call *call = arg;
    Tarn__Where where = at(call->dir);
    Tarn__SnapshotTake request = TARN__SNAPSHOT_TAKE__INIT;
    request.where = &where;
    request.name = (char *)(uintptr_t)call->name;
    Tarn__SnapshotReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_SNAPSHOT_TAKE, &request.base, &request.ctx, &call->cred,
                        &tarn__snapshot_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain(call, "take a snapshot", err, detail);
    if (!reply->settled)
        cli_complain("the snapshot is taken, but a storage node has not answered: files that were being written may "
                     "have bytes of the next moments in it");
    if (call->json && reply->snapshot != NULL)
        print_snapshot(call, reply->snapshot);
    tarn__snapshot_reply__free_unpacked(reply, NULL);
    return 0;
}

static int rm_fiber(struct meta *meta, void *arg)
{
    struct snapshot_call *call = arg;
    Tarn__Where where = at(call->dir);
    Tarn__SnapshotDrop request = TARN__SNAPSHOT_DROP__INIT;
    request.where = &where;
    request.name = (char *)(uintptr_t)call->name;
    Tarn__Empty *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_SNAPSHOT_DROP, &request.base, &request.ctx, &call->cred, &tarn__empty__descriptor,
                        &reply, detail);
    if (err != 0)
        return complain(call, "remove the snapshot", err, detail);
    if (call->json)
        out_json("{s:s}", "removed", call->name);
    tarn__empty__free_unpacked(reply, NULL);
    return 0;
}

static int clone_fiber(struct meta *meta, void *arg)
{
    struct snapshot_call *call = arg;
    const char *slash = strrchr(call->dest, '/');
    char *parent = strndup(call->dest, (size_t)(slash - call->dest));
    if (parent == NULL)
        return -E_NOMEM;
    Tarn__Where where = at(call->dir), to = at(parent);
    Tarn__Clone request = TARN__CLONE__INIT;
    request.where = &where;
    request.name = (char *)(uintptr_t)call->name;
    request.parent = &to;
    request.new_name = (char *)(uintptr_t)slash + 1;
    Tarn__Entry *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_CLONE, &request.base, &request.ctx, &call->cred, &tarn__entry__descriptor, &reply,
                        detail);
    free(parent);
    if (err != 0)
        return complain(call, "clone the snapshot", err, detail);
    if (call->json)
        out_json("{s:s}", "made", call->dest);
    tarn__entry__free_unpacked(reply, NULL);
    return 0;
}

static int ls_fiber(struct meta *meta, void *arg)
{
    struct snapshot_call *call = arg;
    Tarn__Where where = at(call->dir);
    Tarn__SnapshotList request = TARN__SNAPSHOT_LIST__INIT;
    request.where = &where;
    Tarn__SnapshotListReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_SNAPSHOT_LIST, &request.base, &request.ctx, &call->cred,
                        &tarn__snapshot_list_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain(call, "list the snapshots", err, detail);
    if (!call->json)
        puts("TAKEN                CLONES      ROWS      BYTES  NAME");
    for (size_t i = 0; i < reply->n_snapshots; i++)
        print_snapshot(call, reply->snapshots[i]);
    tarn__snapshot_list_reply__free_unpacked(reply, NULL);
    return 0;
}

static void cred_take(struct snapshot_call *call)
{
    gid_t groups[GROUPS_MAX];
    int n = getgroups(GROUPS_MAX, groups);
    for (int i = 0; i < n; i++)
        call->groups[i] = groups[i];
    call->cred = (struct meta_cred){
        .uid = geteuid(), .gid = getegid(), .groups = call->groups, .n_groups = n > 0 ? (unsigned)n : 0};
}

static bool is_path(const char *path)
{
    if (path[0] == '/' && path[strlen(path) - 1] != '/')
        return true;
    cli_complain("'%s' is no path of the tree: paths begin with a slash, and end with a name", path);
    return false;
}

int command_snapshot(int argc, char **argv)
{
    static const struct {
        const char *word;
        admin_fn fn;
        int args;
    } words[] = {{"take", take_fiber, 2}, {"ls", ls_fiber, 1}, {"rm", rm_fiber, 2}, {"clone", clone_fiber, 3}};
    struct snapshot_call call = {0};
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &call.json, NULL, "one JSON object a line", 0, 0},
        {"config", CLI_STRING, &call.config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn snapshot take|rm DIR NAME, ls DIR, clone DIR NAME DEST",
              "Keeps a directory as it is now, below DIR/.snapshot/NAME; a clone is a copy that can be changed.",
              options, ARRAY_SIZE(options), &n_args);
    size_t i = 0;
    while (n_args > 0 && i < ARRAY_SIZE(words) && strcmp(argv[1], words[i].word) != 0)
        i++;
    if (n_args == 0 || i == ARRAY_SIZE(words) || n_args != words[i].args + 1) {
        cli_complain("snapshot takes 'take DIR NAME', 'ls DIR', 'rm DIR NAME' or 'clone DIR NAME DEST'");
        return CLI_USAGE;
    }
    call.dir = argv[2];
    call.name = n_args > 2 ? argv[3] : NULL;
    call.dest = n_args > 3 ? argv[4] : NULL;
    if (call.dir[0] != '/') {
        cli_complain("'%s' is no path of the tree: paths begin with a slash", call.dir);
        return CLI_USAGE;
    }
    if (call.dest != NULL && !is_path(call.dest))
        return CLI_USAGE;
    cred_take(&call);
    return cli_exit_for(admin_run(call.config, false, 0, words[i].fn, &call));
}
