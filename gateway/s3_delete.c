/* DeleteObject and DeleteObjects. */
#include "s3_body.h"
#include "s3_call.h"
#include "s3_target.h"
#include "s3xml.h"
#include "text.h"
#include "common/err.h"

#include <stdio.h>

#define DELETE_KEYS_MAX 1000
#define DELETE_BODY_MAX MIB(4) /* 1000 keys of 1024 bytes, each byte perhaps an entity */

/* What is not there counts as deleted. */
static int delete_path(struct s3_call *call, const char *path)
{
    int r = tree_unlink(&call->tree, path, true);
    if (r == -E_ISDIR) {
        char self[S3_PATH_MAX + 8];
        snprintf(self, sizeof self, "%s/%%self", path);
        r = tree_unlink(&call->tree, self, true);
    }
    return r == -E_NOENT || r == -E_NOTDIR || r == -E_ISDIR ? 0 : r;
}

int s3_delete_object(struct s3_call *call)
{
    int r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r == 0)
        r = delete_path(call, call->path);
    return r < 0 ? r : s3_reply_empty(call, 204);
}

struct delete_request {
    char *keys[DELETE_KEYS_MAX];
    size_t count;
    bool quiet;
};

static int visit(void *arg, const char *path, const char *text)
{
    struct delete_request *request = arg;

    if (strcmp(path, "/Delete/Quiet") == 0)
        request->quiet = strcmp(text, "true") == 0;
    if (strcmp(path, "/Delete/Object/Key") != 0)
        return 0;
    if (request->count == DELETE_KEYS_MAX)
        return -E_PROTO;
    request->keys[request->count] = strdup(text);
    return request->keys[request->count++] == NULL ? -E_NOMEM : 0;
}

static void request_free(struct delete_request **request)
{
    for (size_t i = 0; *request != NULL && i < (*request)->count; i++)
        free((*request)->keys[i]);
    free(*request);
}

static void delete_one(struct s3_call *call, const char *key, bool quiet, struct writer *xml)
{
    char path[S3_PATH_MAX];
    int n = sprintf(path, "%s/", call->bucket_path);

    int r = key_to_path(key, path + n);
    if (r == 0)
        r = delete_path(call, path);
    if (r == 0 && quiet)
        return;
    xml_open(xml, r == 0 ? "Deleted" : "Error");
    xml_text(xml, "Key", key);
    if (r < 0) {
        xml_text(xml, "Code", err_to_s3(r));
        xml_text(xml, "Message", err_sentence(r));
    }
    xml_close(xml, r == 0 ? "Deleted" : "Error");
}

int s3_delete_objects(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    _cleanup_(request_free) struct delete_request *request = calloc(1, sizeof *request);
    _cleanup_free_ char *text = NULL;
    size_t n;

    if (request == NULL)
        return -E_NOMEM;
    int r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r == 0)
        r = s3_body_all(call, DELETE_BODY_MAX, &text, &n);
    if (r == 0) {
        r = xml_parse(text, n, "Delete", visit, request);
        if (r == -E_PROTO || (r == 0 && request->count == 0))
            r = s3_fail(&call->fault, S3_MALFORMED_XML, NULL);
    }
    if (r < 0)
        return r;
    xml_begin(&xml, "DeleteResult");
    for (size_t i = 0; i < request->count; i++)
        delete_one(call, request->keys[i], request->quiet, &xml);
    xml_close(&xml, "DeleteResult");
    return s3_reply_xml(call, 200, &xml);
}
