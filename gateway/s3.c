#include "s3.h"
#include "s3_call.h"
#include "s3_target.h"
#include "s3xml.h"
#include "text.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

enum level { SERVICE, BUCKET, OBJECT };

/* The first row whose verb, level, parameters and header fit decides. */
static const struct s3_op {
    enum http_verb verb;
    enum level level;
    const char *param, *value; /* query parameter that must be there (with this value, when not NULL) */
    const char *header;        /* header that must be there */
    const char *name;
    s3_handler handle;
} ops[] = {
    {HTTP_VERB_GET, SERVICE, NULL, NULL, NULL, "ListBuckets", s3_list_buckets},
    {HTTP_VERB_GET, BUCKET, "location", NULL, NULL, "GetBucketLocation", s3_get_bucket_location},
    {HTTP_VERB_GET, BUCKET, "versioning", NULL, NULL, "GetBucketVersioning", s3_get_bucket_versioning},
    {HTTP_VERB_GET, BUCKET, "uploads", NULL, NULL, "ListMultipartUploads", s3_list_multipart_uploads},
    {HTTP_VERB_GET, BUCKET, "list-type", "2", NULL, "ListObjectsV2", s3_list_objects_v2},
    {HTTP_VERB_GET, BUCKET, NULL, NULL, NULL, "ListObjects", s3_list_objects},
    {HTTP_VERB_HEAD, BUCKET, NULL, NULL, NULL, "HeadBucket", s3_head_bucket},
    {HTTP_VERB_PUT, BUCKET, NULL, NULL, NULL, "CreateBucket", s3_create_bucket},
    {HTTP_VERB_DELETE, BUCKET, NULL, NULL, NULL, "DeleteBucket", s3_delete_bucket},
    {HTTP_VERB_POST, BUCKET, "delete", NULL, NULL, "DeleteObjects", s3_delete_objects},
    {HTTP_VERB_POST, OBJECT, "uploads", NULL, NULL, "CreateMultipartUpload", s3_create_multipart_upload},
    {HTTP_VERB_POST, OBJECT, "uploadId", NULL, NULL, "CompleteMultipartUpload", s3_complete_multipart_upload},
    {HTTP_VERB_PUT, OBJECT, "uploadId", NULL, NULL, "UploadPart", s3_upload_part},
    {HTTP_VERB_PUT, OBJECT, NULL, NULL, "x-amz-copy-source", "CopyObject", s3_copy_object},
    {HTTP_VERB_PUT, OBJECT, NULL, NULL, NULL, "PutObject", s3_put_object},
    {HTTP_VERB_GET, OBJECT, "uploadId", NULL, NULL, "ListParts", s3_list_parts},
    {HTTP_VERB_GET, OBJECT, NULL, NULL, NULL, "GetObject", s3_get_object},
    {HTTP_VERB_HEAD, OBJECT, NULL, NULL, NULL, "HeadObject", s3_head_object},
    {HTTP_VERB_DELETE, OBJECT, "uploadId", NULL, NULL, "AbortMultipartUpload", s3_abort_multipart_upload},
    {HTTP_VERB_DELETE, OBJECT, NULL, NULL, NULL, "DeleteObject", s3_delete_object},
};

/* Sub-resources of S3 that are not offered: a row without a parameter must not answer for them. */
static const char *const not_offered[] = {
    "accelerate", "acl", "analytics", "attributes", "cors", "encryption", "intelligent-tiering", "inventory", "legal-hold",
    "lifecycle", "logging", "metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus",
    "publicAccessBlock", "replication", "requestPayment", "restore", "retention", "select", "tagging", "torrent",
    "versionId", "versions", "website",
};

static bool fits(const struct s3_op *op, const struct s3_call *call, enum level level)
{
    if (op->verb != call->http->head.verb || op->level != level)
        return false;
    if (op->header != NULL && s3_header(call, op->header) == NULL)
        return false;
    if (op->param == NULL)
        return true;
    const char *value = s3_param(call, op->param);
    return value != NULL && (op->value == NULL || strcmp(value, op->value) == 0);
}

static const struct s3_op *find_op(struct s3_call *call)
{
    enum level level = call->bucket[0] == 0 ? SERVICE : call->key[0] == 0 ? BUCKET : OBJECT;

    for (size_t i = 0; i < ARRAY_SIZE(not_offered); i++)
        if (s3_param(call, not_offered[i]) != NULL) {
            s3_fail(&call->fault, S3_NOT_IMPLEMENTED, "The sub-resource \"%s\" is not offered here", not_offered[i]);
            return NULL;
        }
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
        if (fits(&ops[i], call, level))
            return &ops[i];
    s3_fail(&call->fault, S3_METHOD_NOT_ALLOWED, NULL);
    return NULL;
}

/* ---- responses ---- */

static int common_headers(struct s3_call *call)
{
    return http_reply_header(call->http, "x-amz-request-id", "%s", call->request_id);
}

int s3_reply_xml(struct s3_call *call, int status, struct writer *xml)
{
    if (xml->failed)
        return -E_NOMEM;
    int r = common_headers(call);
    return r < 0 ? r : http_reply(call->http, status, "application/xml", xml->data, xml->len);
}

int s3_reply_empty(struct s3_call *call, int status)
{
    int r = common_headers(call);
    return r < 0 ? r : http_reply(call->http, status, NULL, NULL, 0);
}

static void reply_error(struct s3_call *call, int err)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    int status = s3_fault_http(&call->fault, err);

    if (call->http->status != 0)
        return; /* a response was begun: the connection ends in the middle of it, that is all one can say */
    if (status >= 500 && status != 501)
        log_warn("s3: %s /%s/%s failed with %s (request %s)", call->op, call->bucket, call->key, err_name(err),
                 call->request_id);
    http_reply_reset(call->http);
    text_add(&xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml_open(&xml, "Error");
    xml_text(&xml, "Code", s3_fault_code(&call->fault, err));
    xml_text(&xml, "Message", s3_fault_message(&call->fault, err));
    if (call->key[0] != 0)
        xml_text(&xml, "Key", call->key);
    xml_text(&xml, "Resource", call->http->head.path);
    xml_text(&xml, "RequestId", call->request_id);
    xml_close(&xml, "Error");
    if (status == 503)
        http_reply_header(call->http, "Retry-After", "1");
    s3_reply_xml(call, status, &xml);
}

/* ---- what handlers share ---- */

int s3_need_bucket(struct s3_call *call, const char *bucket_path, Tarn__Attr *ret)
{
    Tarn__LookupReply *reply;
    int r = tree_lookup(&call->tree, bucket_path, &reply);

    if (r == -E_NOENT)
        return s3_fail(&call->fault, S3_NO_SUCH_BUCKET, NULL);
    if (r < 0)
        return r;
    if (reply->attr->type != TARN__FILE_TYPE__FT_DIR)
        r = s3_fail(&call->fault, S3_NO_SUCH_BUCKET, NULL);
    else if (ret != NULL) {
        *ret = *reply->attr;
        ret->etag = (ProtobufCBinaryData){0};
    }
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return r;
}

int s3_not_found(struct s3_call *call, int err, const char *bucket_path)
{
    if (err != -E_NOENT && err != -E_NOTDIR && err != -E_ISDIR)
        return err;
    int r = s3_need_bucket(call, bucket_path, NULL);
    return r < 0 ? r : s3_fail(&call->fault, S3_NO_SUCH_KEY, NULL);
}

static void bucket_of(const char *path, char *out)
{
    size_t n = 1 + strcspn(path + 1, "/");
    memcpy(out, path, n);
    out[n] = 0;
}

int s3_lookup(struct s3_call *call, char *path, Tarn__LookupReply **ret)
{
    char bucket_path[S3_BUCKET_PATH_MAX];
    Tarn__LookupReply *reply;

    bucket_of(path, bucket_path);
    int r = tree_lookup(&call->tree, path, &reply);
    if (r == 0 && reply->attr->type == TARN__FILE_TYPE__FT_DIR) {
        tarn__lookup_reply__free_unpacked(reply, NULL);
        strcat(path, "/%self");
        r = tree_lookup(&call->tree, path, &reply);
    }
    if (r < 0)
        return s3_not_found(call, r, bucket_path);
    if (reply->attr->type != TARN__FILE_TYPE__FT_FILE) {
        tarn__lookup_reply__free_unpacked(reply, NULL);
        return s3_fail(&call->fault, S3_NO_SUCH_KEY, NULL);
    }
    *ret = reply;
    return 0;
}

int s3_parse_source(struct s3_call *call, const char *source, char *ret_path)
{
    struct s3_target target;
    _cleanup_free_ char *absolute = NULL;

    if (strstr(source, "?versionId=") != NULL)
        return s3_fail(&call->fault, S3_NOT_IMPLEMENTED, "Versions of objects are not offered here");
    if (asprintf(&absolute, "/%s", source + (*source == '/')) < 0) {
        absolute = NULL;
        return -E_NOMEM;
    }
    int r = s3_target_parse(NULL, absolute, NULL, &target, &call->fault);
    if (r < 0 || target.bucket[0] == 0 || target.key[0] == 0)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "x-amz-copy-source must be BUCKET/KEY, percent-encoded");
    int n = sprintf(ret_path, "/%s/", target.bucket);
    return key_to_path(target.key, ret_path + n);
}

/* ---- one request ---- */

static int take_target(struct s3_call *call)
{
    struct s3_target target;
    int r = s3_target_parse(s3_header(call, "host"), call->http->head.path, call->gate->domain, &target, &call->fault);

    if (r < 0)
        return r;
    strcpy(call->bucket, target.bucket);
    strcpy(call->key, target.key);
    int n = sprintf(call->bucket_path, "/%s", target.bucket);
    if (call->key[0] == 0)
        return 0;
    memcpy(call->path, call->bucket_path, (size_t)n);
    call->path[n] = '/';
    return key_to_path(call->key, call->path + n + 1);
}

static int authenticate(struct s3_call *call)
{
    int r = auth_parse(call->http, &call->query, &call->auth, &call->fault);
    if (r == 0 && call->auth.sigv4.body_first)
        r = s3_fail(&call->fault, S3_INVALID_REQUEST, "The x-amz-content-sha256 header is needed");
    if (r == 0)
        r = auth_verify(call->gate, call->http, &call->query, &call->auth, &call->fault);
    call->tree = (struct tree){call->gate->meta, &call->auth.cred};
    return r;
}

static int run_call(struct s3_call *call)
{
    const struct http_head *head = &call->http->head;

    if (uri_query_parse(head->query, &call->query) < 0)
        return s3_fail(&call->fault, S3_INVALID_URI, NULL);
    int r = take_target(call);
    if (r == 0)
        r = authenticate(call);
    if (r < 0)
        return r;
    const struct s3_op *op = find_op(call);
    if (op == NULL)
        return -E_NOTSUP;
    call->op = op->name;
    return op->handle(call);
}

const char *s3_handle(struct gate *gate, struct http_request *request)
{
    _cleanup_free_ struct s3_call *call = calloc(1, sizeof *call);

    if (call == NULL)
        return "OutOfMemory";
    call->gate = gate;
    call->http = request;
    call->op = "Refused";
    snprintf(call->request_id, sizeof call->request_id, "%016llX", (unsigned long long)io_random_u64(gate->io));
    int r = run_call(call);
    if (r < 0)
        reply_error(call, r);
    uri_query_fini(&call->query);
    return call->op;
}
