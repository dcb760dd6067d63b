/* PutObject and CopyObject: streamed into a put, visible only when everything about the body was right. */
#include "condition.h"
#include "s3_body.h"
#include "s3_call.h"
#include "s3_meta.h"
#include "s3xml.h"
#include "stream.h"
#include "text.h"
#include "client/object.h"
#include "common/err.h"

#include <stdio.h>
#include <strings.h>

static int begin(struct s3_call *call, bool exclusive, uint64_t size, struct put **ret)
{
    struct put_options options = {
        .cred = &call->auth.cred,
        .path = call->path + strlen(call->bucket_path) + 1,
        .mode = s3_mode(call),
        .exclusive = exclusive,
        .expected_size = size,
    };

    tarn__where__init(&options.parent);
    options.parent.ino = 1;
    options.parent.path = call->bucket_path + 1;
    return put_begin(call->gate->meta, call->gate->stores, &options, ret);
}

static int commit(struct s3_call *call, struct put **put, const uint8_t md5[16], const struct s3_attrs *attrs, bool exclusive,
                  Tarn__Attr **ret_attr)
{
    int r = put_commit(take_ptr(*put), md5, 16, attrs->pairs, attrs->count, ret_attr);
    if (r == -E_EXIST && exclusive)
        return s3_fail(&call->fault, S3_PRECONDITION_FAILED, "The key exists");
    if (r == -E_NOENT || r == -E_NOTDIR)
        return s3_not_found(call, -E_NOENT, call->bucket_path);
    return r;
}

static void put_abortp(struct put **put)
{
    if (*put != NULL)
        put_abort(*put);
}

/* ---- PutObject ---- */

/* If-None-Match: * is the condition S3 has for writing. */
static int read_exclusive(struct s3_call *call, bool *ret)
{
    const char *none_match = s3_header(call, "if-none-match");

    if (s3_header(call, "if-match") != NULL)
        return s3_fail(&call->fault, S3_NOT_IMPLEMENTED, "If-Match is not offered for PutObject");
    if (none_match != NULL && strcmp(none_match, "*") != 0)
        return s3_fail(&call->fault, S3_NOT_IMPLEMENTED, "The only If-None-Match for PutObject is *");
    *ret = none_match != NULL;
    if (!*ret)
        return 0;
    /* Also checked by the commit; here so that nobody sends a body for nothing. */
    Tarn__LookupReply *reply;
    char path[S3_PATH_MAX + 8];
    strcpy(path, call->path);
    int r = s3_lookup(call, path, &reply);
    if (r == 0) {
        tarn__lookup_reply__free_unpacked(reply, NULL);
        return s3_fail(&call->fault, S3_PRECONDITION_FAILED, "The key exists");
    }
    call->fault.code = S3_NONE;
    return r == -E_NOENT ? 0 : r;
}

static int receive(struct s3_body *body, struct put *put)
{
    const void *data;
    int64_t n;

    while ((n = s3_body_next(body, &data)) > 0) {
        int r = put_write(put, data, (size_t)n);
        if (r < 0)
            return r;
    }
    return (int)n;
}

static int add_checksum(struct s3_call *call, const struct s3_body *body, struct s3_attrs *attrs)
{
    char xattr[64];

    if (body->checksum_name[0] == 0)
        return 0;
    snprintf(xattr, sizeof xattr, S3_XATTR "%s", body->checksum_name);
    int r = s3_attrs_add(attrs, xattr, body->checksum_text, strlen(body->checksum_text));
    return r < 0 ? r : http_reply_header(call->http, body->checksum_name, "%s", body->checksum_text);
}

int s3_put_object(struct s3_call *call)
{
    _cleanup_(s3_attrs_fini) struct s3_attrs attrs = {0};
    _cleanup_(put_abortp) struct put *put = NULL;
    _cleanup_(s3_body_fini) struct s3_body body = {0};
    bool exclusive;
    char etag[33];

    int r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r == 0)
        r = read_exclusive(call, &exclusive);
    if (r == 0)
        r = s3_attrs_collect(call, &attrs);
    if (r == 0)
        r = s3_body_open(call, &body);
    if (r == 0)
        r = begin(call, exclusive, body.has_length ? body.length : 0, &put);
    if (r == 0)
        r = receive(&body, put);
    if (r == 0)
        r = add_checksum(call, &body, &attrs);
    if (r == 0)
        r = commit(call, &put, body.md5_out, &attrs, exclusive, NULL);
    if (r < 0)
        return r;
    text_hex(body.md5_out, 16, etag);
    r = http_reply_header(call->http, "ETag", "\"%s\"", etag);
    return r < 0 ? r : s3_reply_empty(call, 200);
}

/* ---- CopyObject ---- */

static int check_source(struct s3_call *call, const Tarn__Attr *attr)
{
    struct conditions conditions = {
        .if_match = s3_header(call, "x-amz-copy-source-if-match"),
        .if_none_match = s3_header(call, "x-amz-copy-source-if-none-match"),
        .if_modified_since = s3_header(call, "x-amz-copy-source-if-modified-since"),
        .if_unmodified_since = s3_header(call, "x-amz-copy-source-if-unmodified-since"),
    };
    char etag[S3_ETAG_SIZE];

    s3_etag(attr, etag);
    return conditions_check(&conditions, etag, attr->mtime / 1000000000, false) == 0
               ? 0
               : s3_fail(&call->fault, S3_PRECONDITION_FAILED, NULL);
}

static int copy_attrs(struct s3_call *call, const char *source, struct s3_attrs *ret)
{
    const char *directive = s3_header(call, "x-amz-metadata-directive");
    Tarn__GetXattrReply *xattrs;

    if (directive != NULL && strcasecmp(directive, "REPLACE") == 0)
        return s3_attrs_collect(call, ret);
    if (directive != NULL && strcasecmp(directive, "COPY") != 0)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "x-amz-metadata-directive must be COPY or REPLACE");
    int r = tree_xattrs(&call->tree, source, &xattrs);
    if (r < 0)
        return r;
    r = s3_attrs_copy(ret, xattrs);
    tarn__get_xattr_reply__free_unpacked(xattrs, NULL);
    return r;
}

struct hashing {
    struct digest *md5;
    const void *data;
    size_t n;
};

static void hash(void *arg)
{
    struct hashing *hashing = arg;
    digest_update(hashing->md5, hashing->data, hashing->n);
}

static int copy_bytes(struct s3_call *call, struct stream *from, struct put *to, uint8_t md5_out[16])
{
    _cleanup_(digest_fini) struct digest md5 = {0};
    const void *data;
    int64_t n;

    int r = digest_init(&md5, DIGEST_MD5);
    while (r == 0 && (n = stream_next(from, &data)) != 0) {
        if (n < 0)
            return (int)n;
        r = io_work(call->gate->io, hash, &(struct hashing){&md5, data, (size_t)n});
        if (r == 0)
            r = put_write(to, data, (size_t)n);
    }
    if (r == 0)
        digest_final(&md5, md5_out);
    return r;
}

static int reply_copied(struct s3_call *call, const Tarn__Attr *attr)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    char etag[S3_ETAG_SIZE], date[TEXT_DATE_SIZE];

    s3_etag(attr, etag);
    text_iso_date(attr->mtime, date);
    xml_begin(&xml, "CopyObjectResult");
    xml_text(&xml, "LastModified", date);
    text_format(&xml, "<ETag>&quot;%s&quot;</ETag>", etag);
    xml_close(&xml, "CopyObjectResult");
    return s3_reply_xml(call, 200, &xml);
}

int s3_copy_object(struct s3_call *call)
{
    _cleanup_(s3_attrs_fini) struct s3_attrs attrs = {0};
    _cleanup_(put_abortp) struct put *put = NULL;
    _cleanup_(stream_close) struct stream *from = NULL;
    char source[S3_PATH_MAX], source_bucket[S3_BUCKET_PATH_MAX];
    const Tarn__Attr *attr;
    Tarn__Attr *made = NULL;
    uint8_t md5[16];

    int r = s3_parse_source(call, s3_header(call, "x-amz-copy-source"), source);
    if (r == 0)
        r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r < 0)
        return r;
    snprintf(source_bucket, sizeof source_bucket, "%.*s", (int)(1 + strcspn(source + 1, "/")), source);
    r = stream_open(call->gate, &call->tree, source, &from, &attr);
    if (r < 0)
        return s3_not_found(call, r, source_bucket);
    r = check_source(call, attr);
    if (r == 0)
        r = copy_attrs(call, stream_path(from), &attrs);
    if (r == 0)
        r = begin(call, false, attr->size, &put);
    if (r == 0)
        r = copy_bytes(call, from, put, md5);
    if (r == 0)
        r = commit(call, &put, md5, &attrs, false, &made);
    if (r < 0)
        return r;
    r = reply_copied(call, made);
    tarn__attr__free_unpacked(made, NULL);
    return r;
}
