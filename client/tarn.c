/* libtarn: each function packs its arguments into a call, runs it on the loop thread (tarn_loop.c) and
 * translates the result. Reads of sealed local chunks do not go there: see "local parts" below. */
#include "tarn_stream.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define LIST_PAGE 1000
#define PATH_BYTES_MAX 4096

/* ------------------------------------------------------------------ life */

static int64_t open_run(struct loop_call *call)
{
    struct tarn *tarn = call->tarn;
    char name[96];
    snprintf(name, sizeof name, "%s (%d)", program_invocation_short_name, (int)getpid());
    struct meta_options options = {.name = name};
    int r = meta_connect(tarn->io, &tarn->config, &options, &tarn->meta);
    if (r < 0)
        return r;
    r = stores_create(tarn->io, &tarn->config, tarn->meta, &tarn->stores);
    if (r < 0)
        return r;
    stores_on_fd_dropped(tarn->stores, tarn_files_fd_dropped, tarn);
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.where = &root;
    return meta_call(tarn->meta, OP_LOOKUP, &lookup.base, &lookup.ctx, &meta_root, NULL, NULL,
                     call->detail);
}

static int64_t close_run(struct loop_call *call)
{
    stores_destroy(call->tarn->stores);
    meta_disconnect(call->tarn->meta);
    return 0;
}

static int cred_take(struct tarn *tarn)
{
    tarn->cred.uid = geteuid();
    tarn->cred.gid = getegid();
    int n = getgroups(0, NULL);
    if (n <= 0)
        return 0;
    tarn->groups = malloc((size_t)n * sizeof tarn->groups[0]);
    if (!tarn->groups)
        return -E_NOMEM;
    _Static_assert(sizeof(gid_t) == sizeof tarn->groups[0], "groups are passed as they are");
    n = getgroups(n, tarn->groups);
    tarn->cred.n_groups = n > 0 ? (unsigned)n : 0;
    tarn->cred.groups = tarn->groups;
    return 0;
}

static void tarn_free(struct tarn *tarn)
{
    if (tarn->null_fd >= 0)
        close(tarn->null_fd);
    pthread_mutex_destroy(&tarn->files_lock);
    free(tarn->groups);
    free(tarn);
}

int tarn_open(const char *config, struct tarn **ret)
{
    struct tarn *tarn = calloc(1, sizeof *tarn);
    if (!tarn)
        return public_error(-E_NOMEM, NULL, "open the cluster");
    pthread_mutex_init(&tarn->files_lock, NULL);
    list_init(&tarn->files);
    tarn->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const char *why = NULL;
    int r = config_load(config, &tarn->config, &why);
    if (r < 0) {
        tarn_free(tarn);
        return public_error_why(r, "use the configuration", why);
    }
    r = tarn->null_fd < 0 ? err_from_errno(errno) : cred_take(tarn);
    if (r == 0)
        r = loop_start(tarn);
    if (r < 0) {
        tarn_free(tarn);
        return public_error(r, NULL, "open the cluster");
    }
    struct loop_call call = {0};
    r = (int)loop_call(tarn, &call, open_run);
    if (r == 0) {
        *ret = tarn;
        return 0;
    }
    char addresses[CONFIG_META_MAX * 65] = "";
    for (unsigned i = 0; i < tarn->config.n_meta; i++) {
        strcat(addresses, i ? " " : "");
        strcat(addresses, tarn->config.meta[i]);
    }
    int failed = public_error(r, call.detail, "reach the cluster at %s", addresses);
    tarn_close(tarn);
    return r == -E_UNAVAIL ? -ETIMEDOUT : failed;
}

void tarn_close(struct tarn *tarn)
{
    if (!tarn)
        return;
    struct loop_call call = {0};
    loop_call(tarn, &call, close_run);
    loop_stop(tarn);
    tarn_free(tarn);
}

struct counters_call {
    struct loop_call call;
    struct stores_counters stores;
};

static int64_t counters_run(struct loop_call *call)
{
    container_of(call, struct counters_call, call)->stores = *stores_counters(call->tarn->stores);
    return 0;
}

int tarn_counters(struct tarn *tarn, struct tarn_counters *ret, size_t size)
{
    struct counters_call c = {0};
    int r = (int)loop_call(tarn, &c.call, counters_run);
    if (r < 0)
        return public_error(r, NULL, "read the counters");
    struct tarn_counters all = {
        .direct = c.stores.read_fd + tarn_files_direct_bytes(tarn),
        .local = c.stores.read_local,
        .rack = c.stores.read_rack,
        .remote = c.stores.read_remote,
        .written = c.stores.written,
        .computed = c.stores.read_degraded,
        .decompressed = c.stores.read_compressed,
        .hedged = c.stores.read_hedged,
        .hedges_won = c.stores.hedges_won,
    };
    memset(ret, 0, size);
    memcpy(ret, &all, MIN(size, sizeof all));
    return 0;
}

/* ------------------------------------------------------------------ paths */

/* A path cut into the directory and the last component, for requests that name both. */
struct split {
    char text[PATH_BYTES_MAX];
    const char *name;
    Tarn__Where parent;
};

static int path_split(const char *path, struct split *ret)
{
    size_t len = strlen(path);
    if (path[0] != '/')
        return -E_INVAL;
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (len >= sizeof ret->text)
        return -E_NAMETOOLONG;
    memcpy(ret->text, path, len);
    ret->text[len] = '\0';
    char *slash = strrchr(ret->text, '/');
    *slash = '\0';
    ret->name = slash + 1;
    tarn__where__init(&ret->parent);
    ret->parent.path = ret->text;
    return 0;
}

/* A request with one or two paths. */
struct path_call {
    struct loop_call call;
    const char *path;
    struct split at, to;
    const char *target;
    char *link; /* out: owned by the caller */
    mode_t mode;
    bool parents, directory;
    struct stat *stat;
};

static int simple(struct path_call *c, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx)
{
    struct tarn *tarn = c->call.tarn;
    return meta_call(tarn->meta, op, request, ctx, &tarn->cred, NULL, NULL, c->call.detail);
}

/* What stands at c->path; the caller frees *ret, which has attributes. */
static int lookup(struct path_call *c, bool nofollow, Tarn__LookupReply **ret)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)c->path;
    where.nofollow = nofollow;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    struct tarn *tarn = c->call.tarn;
    int r = meta_call(tarn->meta, OP_LOOKUP, &request.base, &request.ctx, &tarn->cred,
                      &tarn__lookup_reply__descriptor, &reply, c->call.detail);
    if (r == 0 && !reply->attr) {
        tarn__lookup_reply__free_unpacked(reply, NULL);
        r = -E_PROTO;
    }
    if (r == 0)
        *ret = reply;
    return r;
}

static int64_t stat_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__LookupReply *reply;
    int r = lookup(c, false, &reply);
    if (r < 0)
        return r;
    attr_to_stat(reply->attr, c->stat);
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return 0;
}

int tarn_stat(struct tarn *tarn, const char *path, struct stat *ret)
{
    struct path_call c = {.path = path, .stat = ret};
    if (path[0] != '/')
        return public_error_relative("stat", path);
    int r = (int)loop_call(tarn, &c.call, stat_run);
    return r < 0 ? public_error(r, c.call.detail, "stat %s", path) : 0;
}

static int64_t mkdir_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &c->at.parent;
    request.name = (char *)c->at.name;
    request.type = TARN__FILE_TYPE__FT_DIR;
    request.mode = c->mode;
    request.parents = c->parents;
    request.exclusive = !c->parents;
    return simple(c, OP_CREATE, &request.base, &request.ctx);
}

int tarn_mkdir(struct tarn *tarn, const char *path, mode_t mode, bool parents)
{
    struct path_call c = {.mode = mode, .parents = parents};
    if (path[0] != '/')
        return public_error_relative("make the directory", path);
    int r = path_split(path, &c.at);
    if (r == 0 && !c.at.name[0])
        r = parents ? 0 : -E_EXIST; /* the root */
    else if (r == 0)
        r = (int)loop_call(tarn, &c.call, mkdir_run);
    return r < 0 ? public_error(r, c.call.detail, "make the directory %s", path) : 0;
}

static int64_t unlink_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__Unlink request = TARN__UNLINK__INIT;
    request.parent = &c->at.parent;
    request.name = (char *)c->at.name;
    request.directory = c->directory;
    return simple(c, OP_UNLINK, &request.base, &request.ctx);
}

static int remove_path(struct tarn *tarn, const char *path, bool directory)
{
    struct path_call c = {.directory = directory};
    if (path[0] != '/')
        return public_error_relative("remove", path);
    int r = path_split(path, &c.at);
    if (r == 0 && !c.at.name[0])
        return public_error_why(-E_PERM, "remove /", "it is the root of the tree");
    if (r == 0)
        r = (int)loop_call(tarn, &c.call, unlink_run);
    return r < 0 ? public_error(r, c.call.detail, "remove %s", path) : 0;
}

int tarn_unlink(struct tarn *tarn, const char *path)
{
    return remove_path(tarn, path, false);
}

int tarn_rmdir(struct tarn *tarn, const char *path)
{
    return remove_path(tarn, path, true);
}

static int64_t rename_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__Rename request = TARN__RENAME__INIT;
    request.from = &c->at.parent;
    request.from_name = (char *)c->at.name;
    request.to = &c->to.parent;
    request.to_name = (char *)c->to.name;
    return simple(c, OP_RENAME, &request.base, &request.ctx);
}

int tarn_rename(struct tarn *tarn, const char *from, const char *to)
{
    struct path_call c = {0};
    if (from[0] != '/' || to[0] != '/')
        return public_error_relative("rename", from[0] != '/' ? from : to);
    int r = path_split(from, &c.at);
    if (r == 0)
        r = path_split(to, &c.to);
    size_t n = strlen(from);
    if (r == 0 && strncmp(to, from, n) == 0 && to[n] == '/' && c.to.name[0])
        return public_error_why(-E_INVAL, "rename", "a directory cannot move into itself");
    if (r == 0)
        r = c.at.name[0] && c.to.name[0] ? (int)loop_call(tarn, &c.call, rename_run) : -E_INVAL;
    return r < 0 ? public_error(r, c.call.detail, "rename %s to %s", from, to) : 0;
}

static int64_t symlink_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &c->at.parent;
    request.name = (char *)c->at.name;
    request.type = TARN__FILE_TYPE__FT_SYMLINK;
    request.mode = 0777;
    request.target = (char *)c->target;
    request.exclusive = true;
    return simple(c, OP_CREATE, &request.base, &request.ctx);
}

int tarn_symlink(struct tarn *tarn, const char *target, const char *path)
{
    struct path_call c = {.target = target};
    if (path[0] != '/')
        return public_error_relative("make the symbolic link", path);
    int r = path_split(path, &c.at);
    if (r == 0)
        r = c.at.name[0] ? (int)loop_call(tarn, &c.call, symlink_run) : -E_EXIST;
    return r < 0 ? public_error(r, c.call.detail, "make the symbolic link %s", path) : 0;
}

static int64_t readlink_run(struct loop_call *call)
{
    struct path_call *c = container_of(call, struct path_call, call);
    Tarn__LookupReply *reply;
    int r = lookup(c, true, &reply);
    if (r < 0)
        return r;
    if (reply->attr->type != TARN__FILE_TYPE__FT_SYMLINK)
        r = -E_INVAL;
    else
        r = (c->link = strdup(reply->target)) ? 0 : -E_NOMEM;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return r;
}

int tarn_readlink(struct tarn *tarn, const char *path, char **ret_target)
{
    if (path[0] != '/')
        return public_error_relative("read the symbolic link", path);
    struct path_call c = {.path = path};
    int r = (int)loop_call(tarn, &c.call, readlink_run);
    if (r < 0)
        return public_error(r, c.call.detail, "read the symbolic link %s", path);
    *ret_target = c.link;
    return 0;
}

/* ------------------------------------------------------------------ listing */

struct listing {
    Tarn__ReadDir request;
    char after[256];
};

static int list_advance(void *arg, const ProtobufCMessage *part)
{
    struct listing *l = arg;
    const Tarn__ReadDirReply *reply = (const Tarn__ReadDirReply *)part;
    if (reply->end || reply->n_entries == 0)
        return META_END;
    snprintf(l->after, sizeof l->after, "%s", reply->entries[reply->n_entries - 1]->name);
    return 0;
}

/* The entries of one part. Returns fn's non-zero value or 0. */
static int list_part(const Tarn__ReadDirReply *reply, tarn_entry_fn fn, void *arg)
{
    for (size_t i = 0; i < reply->n_entries; i++) {
        struct stat st = {0};
        if (reply->entries[i]->attr)
            attr_to_stat(reply->entries[i]->attr, &st);
        int r = fn(arg, reply->entries[i]->name, &st);
        if (r != 0)
            return r;
    }
    return 0;
}

int tarn_list(struct tarn *tarn, const char *path, tarn_entry_fn fn, void *arg)
{
    if (path[0] != '/')
        return public_error_relative("list", path);
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    struct listing l = {.request = TARN__READ_DIR__INIT};
    l.request.where = &where;
    l.request.after = l.after;
    l.request.max = LIST_PAGE;
    l.request.attrs = true;
    l.request.stream = true;
    struct tarn_stream stream = {.tarn = tarn,
                                 .op = OP_READDIR,
                                 .request = &l.request.base,
                                 .ctx = &l.request.ctx,
                                 .type = &tarn__read_dir_reply__descriptor,
                                 .advance = list_advance,
                                 .arg = &l};
    const ProtobufCMessage *part;
    int r = 1, stop = 0;
    while (stop == 0 && (r = tarn_stream_next(&stream, &part)) > 0)
        stop = list_part((const Tarn__ReadDirReply *)part, fn, arg);
    tarn_stream_close(&stream);
    return r < 0 ? public_error(r, stream.call.detail, "list %s", path) : stop;
}
