#include "api.h"
#include "auth.h"
#include "json.h"
#include "text.h"
#include "tree.h"
#include "common/err.h"

#include <stdio.h>

#define BODY_MAX MIB(64)       /* 150,000 paths of 400 bytes */
#define BODY_FIRST_MAX MIB(1)  /* of bodies that are read before it is known who asks */
#define PATHS_PER_CALL 500     /* 64 KiB … 1 MiB of request */
#define FILES_PER_CALL 500
#define FLUSH_BYTES KIB(256)

struct api_call {
    struct gate *gate;
    struct http_request *http;
    struct uri_query query;
    struct auth auth;
    struct tree tree;
    struct s3_fault fault;
    char *body; /* NUL-terminated */
    size_t body_len;
};

/* ---- what calls share ---- */

static int read_body(struct api_call *call, size_t max)
{
    _cleanup_(writer_fini) struct writer text = {0};
    _cleanup_free_ char *window = malloc(KIB(64));
    int64_t n;

    if (window == NULL)
        return -E_NOMEM;
    while ((n = http_body_read(call->http, window, KIB(64))) > 0) {
        if (text.len + (size_t)n > max)
            return s3_fail(&call->fault, S3_ENTITY_TOO_LARGE, "The body of this request may have %zu bytes", max);
        writer_bytes(&text, window, (size_t)n);
    }
    if (n < 0)
        return (int)n;
    if (text_end(&text) == NULL)
        return -E_NOMEM;
    call->body_len = text.len;
    call->body = (char *)take_ptr(text.data);
    return 0;
}

/* The signature covers the body: a digest that was named is checked here, one that was not is needed before. */
static int check_body(struct api_call *call)
{
    const struct sigv4 *sigv4 = &call->auth.sigv4;
    uint8_t sha256[SHA256_BYTES];

    if (sigv4->payload >= SIGV4_STREAMING)
        return s3_fail(&call->fault, S3_INVALID_REQUEST, "Streaming signatures are not offered here");
    if (sigv4->payload != SIGV4_HASHED)
        return 0;
    digest_sha256(call->body, call->body_len, sha256);
    return digest_equal(sha256, sigv4->payload_sha256, SHA256_BYTES) ? 0 : s3_fail(&call->fault, S3_CONTENT_SHA256, NULL);
}

static int authenticate(struct api_call *call)
{
    if (uri_query_parse(call->http->head.query, &call->query) < 0)
        return s3_fail(&call->fault, S3_INVALID_URI, NULL);
    int r = auth_parse(call->http, &call->query, &call->auth, &call->fault);
    if (r == 0 && call->auth.sigv4.body_first) {
        r = read_body(call, BODY_FIRST_MAX);
        if (r == 0)
            sigv4_take_body(&call->auth.sigv4, call->body, call->body_len);
    }
    if (r == 0)
        r = auth_verify(call->gate, call->http, &call->query, &call->auth, &call->fault);
    if (r == 0 && call->body == NULL)
        r = read_body(call, BODY_MAX);
    if (r == 0)
        r = check_body(call);
    call->tree = (struct tree){call->gate->meta, &call->auth.cred};
    return r;
}

/* ---- POST /v1/placement/locations ---- */

static int start_lines(struct api_call *call)
{
    if (call->http->status != 0)
        return 0;
    int r = http_reply_header(call->http, "Content-Type", "application/x-ndjson");
    return r < 0 ? r : http_reply_start(call->http, 200, HTTP_LENGTH_UNKNOWN);
}

static int send_lines(struct api_call *call, struct writer *lines, size_t above)
{
    if (lines->len <= above)
        return 0;
    int r = start_lines(call);
    if (r == 0)
        r = http_reply_write(call->http, lines->data, lines->len);
    lines->len = 0;
    return r;
}

static int add_files(struct api_call *call, const Tarn__LocationsReply *page, const char *prefix, struct writer *lines)
{
    for (size_t i = 0; i < page->n_files; i++) {
        if (prefix != NULL && strncmp(page->files[i]->path, prefix, strlen(prefix)) != 0)
            continue;
        int r = json_write_file(lines, page->files[i], page->epoch);
        if (r < 0)
            return r;
    }
    return send_lines(call, lines, FLUSH_BYTES);
}

/* Named paths, as many as fit into each call; the service may answer for fewer and say where to go on. */
static int locate_paths(struct api_call *call, const struct json_locations *request, struct writer *lines)
{
    for (size_t at = 0; at < request->count;) {
        Tarn__LocationsReply *page;
        size_t n = MIN(request->count - at, (size_t)PATHS_PER_CALL);
        int r = tree_locations(&call->tree, request->paths + at, n, false, "", (unsigned)n, &page);
        if (r < 0)
            return r;
        size_t told = page->n_files;
        r = told == 0 || told > n ? -E_PROTO : add_files(call, page, NULL, lines);
        tarn__locations_reply__free_unpacked(page, NULL);
        if (r < 0)
            return r;
        at += told;
    }
    return 0;
}

/* Everything below a directory whose path begins with `prefix` (NULL = all). */
static int locate_tree(struct api_call *call, char *dir, const char *prefix, struct writer *lines)
{
    _cleanup_free_ char *after = strdup("");

    while (after != NULL) {
        Tarn__LocationsReply *page;
        int r = tree_locations(&call->tree, &dir, 1, true, after, FILES_PER_CALL, &page);
        if (r < 0)
            return r;
        r = add_files(call, page, prefix, lines);
        bool end = page->next == NULL || page->next[0] == 0;
        bool stuck = !end && strcmp(page->next, after) == 0;
        free(after);
        after = end ? NULL : strdup(page->next);
        bool no_memory = !end && after == NULL;
        tarn__locations_reply__free_unpacked(page, NULL);
        if (r < 0 || stuck || no_memory)
            return r < 0 ? r : stuck ? -E_PROTO : -E_NOMEM;
    }
    return 0;
}

static int locate(struct api_call *call, const struct json_locations *request, struct writer *lines)
{
    int r = 0;

    if (request->prefix != NULL) {
        _cleanup_free_ char *dir = strdup(request->prefix);
        if (dir == NULL)
            return -E_NOMEM;
        char *slash = strrchr(dir, '/');
        slash[slash == dir] = 0;
        return locate_tree(call, dir, request->prefix, lines);
    }
    if (!request->recursive)
        return locate_paths(call, request, lines);
    for (size_t i = 0; i < request->count && r == 0; i++)
        r = locate_tree(call, request->paths[i], NULL, lines);
    return r;
}

static int locations(struct api_call *call)
{
    _cleanup_(json_locations_fini) struct json_locations request = {0};
    _cleanup_(writer_fini) struct writer lines = {0};
    const char *why;

    int r = authenticate(call);
    if (r < 0)
        return r;
    r = json_read_locations(call->body, call->body_len, &request, &why);
    if (r < 0)
        return r == -E_INVAL ? s3_fail(&call->fault, S3_INVALID_ARGUMENT, "%s", why) : r;
    r = locate(call, &request, &lines);
    if (r == 0)
        r = send_lines(call, &lines, 0);
    if (r == 0)
        r = start_lines(call);
    return r < 0 ? r : http_reply_end(call->http);
}

/* ---- the small ones ---- */

static int status(struct api_call *call)
{
    _cleanup_(writer_fini) struct writer out = {0};
    Tarn__StatusReply *reply;

    int r = authenticate(call);
    if (r == 0)
        r = tree_status(&call->tree, &reply);
    if (r < 0)
        return r;
    r = json_write_status(&out, reply);
    tarn__status_reply__free_unpacked(reply, NULL);
    return r < 0 ? r : http_reply(call->http, 200, "application/json", out.data, out.len);
}

static int metrics(struct api_call *call)
{
    _cleanup_(writer_fini) struct writer out = {0};

    metrics_write(&call->gate->metrics, http_server_counters(call->gate->http), stores_counters(call->gate->stores), &out);
    return out.failed ? -E_NOMEM : http_reply(call->http, 200, "text/plain; version=0.0.4", out.data, out.len);
}

static int health(struct api_call *call)
{
    return http_reply(call->http, 200, "text/plain", "ok\n", 3);
}

static const struct {
    enum http_verb verb;
    const char *path, *name;
    int (*handle)(struct api_call *call);
} ops[] = {
    {HTTP_VERB_POST, "/v1/placement/locations", "Locations", locations},
    {HTTP_VERB_GET, "/v1/status", "Status", status},
    {HTTP_VERB_GET, "/metrics", "Metrics", metrics},
    {HTTP_VERB_GET, "/healthz", "Health", health},
};

bool api_owns(const char *path)
{
    return strcmp(path, "/metrics") == 0 || strcmp(path, "/healthz") == 0 || strncmp(path, "/v1/", 4) == 0;
}

static void reply_error(struct api_call *call, int err)
{
    _cleanup_(writer_fini) struct writer out = {0};

    if (call->http->status != 0)
        return; /* in the middle of the lines: the missing end of the chunked body tells */
    http_reply_reset(call->http);
    if (json_write_error(&out, s3_fault_code(&call->fault, err), s3_fault_message(&call->fault, err)) == 0)
        http_reply(call->http, s3_fault_http(&call->fault, err), "application/json", out.data, out.len);
}

static int run(struct api_call *call, const char **ret_name)
{
    bool path_known = false;

    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        if (strcmp(ops[i].path, call->http->head.path) != 0)
            continue;
        path_known = true;
        if (ops[i].verb != call->http->head.verb)
            continue;
        *ret_name = ops[i].name;
        return ops[i].handle(call);
    }
    if (path_known)
        return s3_fail(&call->fault, S3_METHOD_NOT_ALLOWED, NULL);
    return s3_fail(&call->fault, S3_NO_SUCH_KEY, "There is no such resource in this API");
}

const char *api_handle(struct gate *gate, struct http_request *request)
{
    _cleanup_free_ struct api_call *call = calloc(1, sizeof *call);
    const char *name = "Refused";

    if (call == NULL)
        return name;
    call->gate = gate;
    call->http = request;
    int r = run(call, &name);
    if (r < 0)
        reply_error(call, r);
    uri_query_fini(&call->query);
    free(call->body);
    return name;
}
