/* One S3 request on its way through its handler, and what handlers share: their table in s3.c calls them; they return
 * 0 after a response, or a negative code (with call->fault perhaps) that becomes an error response. */
#ifndef TARN_GATEWAY_S3_CALL_H
#define TARN_GATEWAY_S3_CALL_H

#include "auth.h"
#include "http.h"
#include "key.h"
#include "tree.h"

#define S3_REGION "us-east-1"
#define S3_BUCKET_PATH_MAX (KEY_NAME_MAX + 2)
#define S3_PATH_MAX (S3_BUCKET_PATH_MAX + 1 + KEY_PATH_MAX)

struct s3_call {
    struct gate *gate;
    struct http_request *http;
    struct uri_query query;
    struct auth auth;
    struct tree tree; /* as the user who asks */
    struct s3_fault fault;
    const char *op;
    char request_id[17];
    char bucket[KEY_NAME_MAX + 1]; /* "" for the service itself */
    char key[KEY_MAX + 1];         /* "" for the bucket itself */
    char bucket_path[S3_BUCKET_PATH_MAX], path[S3_PATH_MAX]; /* "/BUCKET", "/BUCKET/spelled/key" */
};
typedef int (*s3_handler)(struct s3_call *call);

static inline const char *s3_param(const struct s3_call *call, const char *name)
{
    return uri_query_get(&call->query, name);
}
static inline const char *s3_header(const struct s3_call *call, const char *name)
{
    return http_head_get(&call->http->head, name);
}
int s3_reply_xml(struct s3_call *call, int status, struct writer *xml);
int s3_reply_empty(struct s3_call *call, int status);
/* 0 when the bucket is there; NoSuchBucket. ret may be NULL. */
int s3_need_bucket(struct s3_call *call, const char *bucket_path, Tarn__Attr *ret);
/* The object at a key's path: the file itself, or the one beside the directory of that name (its "%self" entry;
 * then `path` becomes that, S3_PATH_MAX bytes). NoSuchBucket, NoSuchKey. */
int s3_lookup(struct s3_call *call, char *path, Tarn__LookupReply **ret);
/* Turns "not there" into NoSuchBucket or NoSuchKey. */
int s3_not_found(struct s3_call *call, int err, const char *bucket_path);
/* BUCKET and path of "bucket/key" as x-amz-copy-source has it (decoded). InvalidArgument. */
int s3_parse_source(struct s3_call *call, const char *source, char *ret_path);

int s3_list_buckets(struct s3_call *call);
int s3_create_bucket(struct s3_call *call);
int s3_head_bucket(struct s3_call *call);
int s3_delete_bucket(struct s3_call *call);
int s3_get_bucket_location(struct s3_call *call);
int s3_get_bucket_versioning(struct s3_call *call);
int s3_list_objects(struct s3_call *call);
int s3_list_objects_v2(struct s3_call *call);
int s3_put_object(struct s3_call *call);
int s3_copy_object(struct s3_call *call);
int s3_get_object(struct s3_call *call);
int s3_head_object(struct s3_call *call);
int s3_delete_object(struct s3_call *call);
int s3_delete_objects(struct s3_call *call);
int s3_create_multipart_upload(struct s3_call *call);
int s3_upload_part(struct s3_call *call);
int s3_complete_multipart_upload(struct s3_call *call);
int s3_abort_multipart_upload(struct s3_call *call);
int s3_list_parts(struct s3_call *call);
int s3_list_multipart_uploads(struct s3_call *call);

#endif
