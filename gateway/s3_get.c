/* GetObject and HeadObject. */
#include "condition.h"
#include "s3_call.h"
#include "s3_meta.h"
#include "stream.h"
#include "text.h"
#include "common/err.h"

#include <stdio.h>

static struct conditions read_conditions(const struct s3_call *call)
{
    return (struct conditions){
        .if_match = s3_header(call, "if-match"),
        .if_none_match = s3_header(call, "if-none-match"),
        .if_modified_since = s3_header(call, "if-modified-since"),
        .if_unmodified_since = s3_header(call, "if-unmodified-since"),
    };
}

/* ETag, Last-Modified and what lies beside the bytes. */
static int add_headers(struct s3_call *call, const char *path, const Tarn__Attr *attr, const char *etag)
{
    Tarn__GetXattrReply *xattrs;
    char date[TEXT_DATE_SIZE];

    text_http_date(attr->mtime / 1000000000, date);
    int r = http_reply_header(call->http, "x-amz-request-id", "%s", call->request_id);
    if (r == 0)
        r = http_reply_header(call->http, "ETag", "\"%s\"", etag);
    if (r == 0)
        r = http_reply_header(call->http, "Last-Modified", "%s", date);
    if (r == 0)
        r = http_reply_header(call->http, "Accept-Ranges", "bytes");
    if (r == 0)
        r = tree_xattrs(&call->tree, path, &xattrs);
    if (r < 0)
        return r;
    r = s3_meta_reply(call, xattrs);
    tarn__get_xattr_reply__free_unpacked(xattrs, NULL);
    return r;
}

/* 304 has the validators and no body. */
static int answer_condition(struct s3_call *call, int status, const char *etag)
{
    if (status == 412)
        return s3_fail(&call->fault, S3_PRECONDITION_FAILED, NULL);
    int r = http_reply_header(call->http, "ETag", "\"%s\"", etag);
    return r < 0 ? r : s3_reply_empty(call, status);
}

static int answer_range(struct s3_call *call, uint64_t size, struct range *ret)
{
    int r = range_parse(s3_header(call, "range"), size, ret);
    if (r < 0)
        return s3_fail(&call->fault, S3_INVALID_RANGE, "The object has %llu bytes", (unsigned long long)size);
    if (!ret->partial)
        return 0;
    return http_reply_header(call->http, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)ret->offset,
                             (unsigned long long)(ret->offset + ret->length - 1), (unsigned long long)size);
}

static int send_range(struct s3_call *call, struct stream *stream, const struct range *range)
{
    const void *data;
    int64_t n;

    int r = stream_range(stream, range->offset, range->length);
    if (r < 0)
        return r;
    /* The first window is read before the status is sent: a failure up to then is an error response. */
    n = range->length == 0 ? 0 : stream_next(stream, &data);
    if (n < 0)
        return (int)n;
    r = http_reply_start(call->http, range->partial ? 206 : 200, range->length);
    for (; r == 0 && n > 0; n = r < 0 ? 0 : stream_next(stream, &data))
        r = http_reply_write(call->http, data, (size_t)n);
    if (r == 0 && n < 0)
        r = (int)n;
    return r < 0 ? r : http_reply_end(call->http);
}

static int get_opened(struct s3_call *call, struct stream *stream, const Tarn__Attr *attr)
{
    struct conditions conditions = read_conditions(call);
    char etag[S3_ETAG_SIZE];
    struct range range;

    s3_etag(attr, etag);
    int status = conditions_check(&conditions, etag, attr->mtime / 1000000000, true);
    if (status != 0)
        return answer_condition(call, status, etag);
    int r = answer_range(call, attr->size, &range);
    if (r == 0)
        r = add_headers(call, stream_path(stream), attr, etag);
    return r < 0 ? r : send_range(call, stream, &range);
}

int s3_get_object(struct s3_call *call)
{
    _cleanup_(stream_close) struct stream *stream = NULL;
    const Tarn__Attr *attr;

    int r = stream_open(call->gate, &call->tree, call->path, &stream, &attr);
    return r < 0 ? s3_not_found(call, r, call->bucket_path) : get_opened(call, stream, attr);
}

static int head_found(struct s3_call *call, const char *path, const Tarn__Attr *attr)
{
    struct conditions conditions = read_conditions(call);
    char etag[S3_ETAG_SIZE];
    struct range range;

    s3_etag(attr, etag);
    int status = conditions_check(&conditions, etag, attr->mtime / 1000000000, true);
    if (status != 0)
        return answer_condition(call, status, etag);
    int r = answer_range(call, attr->size, &range);
    if (r == 0)
        r = tree_access(&call->tree, path, 4 /* R_OK */);
    if (r == 0)
        r = add_headers(call, path, attr, etag);
    if (r == 0)
        r = http_reply_start(call->http, range.partial ? 206 : 200, range.length);
    return r < 0 ? r : http_reply_end(call->http);
}

int s3_head_object(struct s3_call *call)
{
    Tarn__LookupReply *reply;
    char path[S3_PATH_MAX + 8];

    strcpy(path, call->path);
    int r = s3_lookup(call, path, &reply);
    if (r < 0)
        return r;
    r = head_found(call, path, reply->attr);
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return r;
}
