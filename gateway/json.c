#include "json.h"
#include "text.h"
#include "client/form.h"
#include "common/err.h"

#include <jansson.h>

/* ---- requests ---- */

void json_locations_fini(struct json_locations *request)
{
    for (size_t i = 0; i < request->count; i++)
        free(request->paths[i]);
    free(request->paths);
    free(request->prefix);
    memset(request, 0, sizeof *request);
}

static int add_path(struct json_locations *request, const char *path, size_t n)
{
    /* Grown when the count is a power of two. */
    if ((request->count & (request->count - 1)) == 0) {
        char **paths = realloc(request->paths, MAX((size_t)1, request->count * 2) * sizeof paths[0]);
        if (paths == NULL)
            return -E_NOMEM;
        request->paths = paths;
    }
    request->paths[request->count] = strndup(path, n);
    return request->paths[request->count] == NULL ? -E_NOMEM : (request->count++, 0);
}

static int read_lines(const char *text, size_t n, struct json_locations *ret, const char **ret_why)
{
    const char *end = text + n;

    for (const char *at = text; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = newline == NULL ? (size_t)(end - at) : (size_t)(newline - at);
        size_t line = len;
        if (line > 0 && at[line - 1] == '\r')
            line--;
        if (line > 0 && (*at != '/' || memchr(at, 0, line) != NULL || ret->count == JSON_PATHS_MAX)) {
            *ret_why = "each line must be an absolute path, at most 1000000 of them";
            return -E_INVAL;
        }
        int r = line == 0 ? 0 : add_path(ret, at, line);
        if (r < 0)
            return r;
        at += len + 1;
    }
    return 0;
}

static int read_paths(const json_t *paths, struct json_locations *ret, const char **ret_why)
{
    size_t i;
    json_t *item;

    *ret_why = "\"paths\" must be an array of absolute paths, at most 1000000";
    if (!json_is_array(paths) || json_array_size(paths) > JSON_PATHS_MAX)
        return -E_INVAL;
    json_array_foreach(paths, i, item)
    {
        const char *path = json_string_value(item);
        if (path == NULL || *path != '/')
            return -E_INVAL;
        int r = add_path(ret, path, strlen(path));
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_object(const json_t *root, struct json_locations *ret, const char **ret_why)
{
    const json_t *paths = json_object_get(root, "paths"), *prefix = json_object_get(root, "prefix");
    const json_t *recursive = json_object_get(root, "recursive");

    *ret_why = "the body must be an object with \"paths\" and perhaps \"recursive\", or with \"prefix\"";
    if (!json_is_object(root) || (paths == NULL) == (prefix == NULL) || (recursive != NULL && !json_is_boolean(recursive)))
        return -E_INVAL;
    ret->recursive = json_is_true(recursive);
    if (paths != NULL)
        return read_paths(paths, ret, ret_why);
    *ret_why = "\"prefix\" must be an absolute path";
    const char *text = json_string_value(prefix);
    if (text == NULL || *text != '/')
        return -E_INVAL;
    ret->prefix = strdup(text);
    return ret->prefix == NULL ? -E_NOMEM : 0;
}

int json_read_locations(const char *text, size_t n, struct json_locations *ret, const char **ret_why)
{
    size_t blank = 0;
    int r;

    memset(ret, 0, sizeof *ret);
    while (blank < n && strchr(" \t\r\n", text[blank]) != NULL && text[blank] != 0)
        blank++;
    if (blank == n || text[blank] != '{') {
        r = read_lines(text, n, ret, ret_why);
    } else {
        json_error_t error;
        json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
        *ret_why = "the body is not JSON";
        r = root == NULL ? -E_INVAL : read_object(root, ret, ret_why);
        json_decref(root);
    }
    if (r == 0 && ret->count == 0 && ret->prefix == NULL) {
        *ret_why = "no paths are given";
        r = -E_INVAL;
    }
    if (r < 0)
        json_locations_fini(ret);
    return r;
}

/* ---- answers ---- */

static int append(const char *data, size_t n, void *arg)
{
    struct writer *out = arg;
    writer_bytes(out, data, n);
    return out->failed ? -1 : 0;
}

/* Takes the value's reference. */
static int write_line(struct writer *out, json_t *value)
{
    int r = value == NULL ? -1 : json_dump_callback(value, append, out, JSON_COMPACT);

    json_decref(value);
    writer_u8(out, '\n');
    return r < 0 || out->failed ? -E_NOMEM : 0;
}

/* A name may be any bytes; JSON has only UTF-8. */
static json_t *text_value(const char *text)
{
    json_t *value = json_string(text);
    if (value != NULL)
        return value;
    _cleanup_(writer_fini) struct writer out = {0};
    for (size_t i = 0, n; text[i] != 0; i += n == 0 ? 1 : n) {
        n = text_utf8_length(text + i);
        writer_bytes(&out, n == 0 ? "\xef\xbf\xbd" : text + i, n == 0 ? 3 : n);
    }
    return text_end(&out) == NULL ? NULL : json_stringn((char *)out.data, out.len);
}

/* Replicas that can be read: up and complete. */
static json_t *chunk_value(const Tarn__Extent *extent)
{
    json_t *hosts = json_array(), *racks = json_array(), *nodes = json_array();

    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (!replica->up || !replica->ready)
            continue;
        json_array_append_new(hosts, text_value(replica->host));
        json_array_append_new(racks, text_value(replica->rack));
        json_array_append_new(nodes, json_integer(replica->node));
    }
    return json_pack("{s:I,s:I,s:I,s:o,s:o,s:o,s:s,s:n,s:s,s:b}", "off", (json_int_t)extent->offset, "len",
                     (json_int_t)extent->length, "chunk", (json_int_t)extent->chunk, "hosts", hosts, "racks", racks, "nodes",
                     nodes, "tier", "disk", "cached", "form", extent_form(extent), "coded", extent->group != 0);
}

int json_write_file(struct writer *out, const Tarn__LocatedFile *file, uint64_t epoch)
{
    if (file->status != 0 || file->attr == NULL) {
        int err = file->status == 0 ? -E_PROTO : err_from_wire(file->status);
        return write_line(out, json_pack("{s:o,s:s,s:s}", "path", text_value(file->path), "error", err_name(err), "message",
                                         err_sentence(err)));
    }
    json_t *chunks = json_array();
    for (size_t i = 0; i < file->n_extents; i++)
        json_array_append_new(chunks, chunk_value(file->extents[i]));
    return write_line(out, json_pack("{s:o,s:I,s:I,s:I,s:b,s:o}", "path", text_value(file->path), "epoch", (json_int_t)epoch,
                                     "size", (json_int_t)file->attr->size, "version", (json_int_t)file->attr->version, "inline",
                                     file->attr->size > 0 && file->n_extents == 0, "chunks", chunks));
}

int json_write_status(struct writer *out, const Tarn__StatusReply *status)
{
    json_t *by_copies = json_array(), *replicas = json_array();

    for (size_t i = 0; i < status->n_by_copies; i++)
        json_array_append_new(by_copies, json_integer((json_int_t)status->by_copies[i]));
    for (size_t i = 0; i < status->n_replicas; i++) {
        const Tarn__MetaReplica *r = status->replicas[i];
        json_array_append_new(replicas, json_pack("{s:i,s:o,s:b,s:b}", "id", (int)r->id, "address", text_value(r->address),
                                                  "leader", r->leader, "reachable", r->reachable));
    }
    return write_line(out, json_pack("{s:I,s:I,s:o,s:I,s:I,s:i,s:i,s:i,s:o,s:I,s:I}", "files", (json_int_t)status->files,
                                     "chunks", (json_int_t)status->chunks, "by_copies", by_copies, "below_target",
                                     (json_int_t)status->below_target, "lost", (json_int_t)status->lost, "nodes",
                                     (int)status->nodes, "nodes_up", (int)status->nodes_up, "leader", (int)status->leader,
                                     "metadata", replicas, "sessions", (json_int_t)status->sessions, "pending_tasks",
                                     (json_int_t)status->pending_tasks));
}

int json_write_error(struct writer *out, const char *code, const char *message)
{
    return write_line(out, json_pack("{s:s,s:o}", "error", code, "message", text_value(message)));
}
