#include "s3_meta.h"
#include "text.h"
#include "common/err.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

static const struct {
    const char *header, *xattr, *override;
} kept[] = {
    {"Content-Type", S3_XATTR "content-type", "response-content-type"},
    {"Cache-Control", S3_XATTR "cache-control", "response-cache-control"},
    {"Content-Disposition", S3_XATTR "content-disposition", "response-content-disposition"},
    {"Content-Encoding", S3_XATTR "content-encoding", "response-content-encoding"},
    {"Content-Language", S3_XATTR "content-language", "response-content-language"},
    {"Expires", S3_XATTR "expires", "response-expires"},
};
#define USER_META "x-amz-meta-"
#define USER_XATTR S3_XATTR "meta."
#define CHECKSUM_XATTR S3_XATTR "x-amz-checksum-"

int s3_attrs_add(struct s3_attrs *attrs, const char *name, const void *value, size_t n)
{
    Tarn__XattrPair **pairs = realloc(attrs->pairs, (attrs->count + 1) * sizeof pairs[0]);
    if (pairs == NULL)
        return -E_NOMEM;
    attrs->pairs = pairs;
    Tarn__XattrPair *pair = malloc(sizeof *pair);
    if (pair == NULL)
        return -E_NOMEM;
    tarn__xattr_pair__init(pair);
    pair->name = strdup(name);
    pair->value.data = malloc(n + 1);
    pair->value.len = n;
    if (pair->name == NULL || pair->value.data == NULL) {
        free(pair->name);
        free(pair->value.data);
        free(pair);
        return -E_NOMEM;
    }
    if (n > 0)
        memcpy(pair->value.data, value, n);
    pairs[attrs->count++] = pair;
    return 0;
}

void s3_attrs_fini(struct s3_attrs *attrs)
{
    for (size_t i = 0; i < attrs->count; i++) {
        free(attrs->pairs[i]->name);
        free(attrs->pairs[i]->value.data);
        free(attrs->pairs[i]);
    }
    free(attrs->pairs);
    memset(attrs, 0, sizeof *attrs);
}

int s3_attrs_copy(struct s3_attrs *attrs, const Tarn__GetXattrReply *from)
{
    int r = 0;
    for (size_t i = 0; i < from->n_pairs && r == 0; i++)
        if (strncmp(from->pairs[i]->name, S3_XATTR, strlen(S3_XATTR)) == 0)
            r = s3_attrs_add(attrs, from->pairs[i]->name, from->pairs[i]->value.data, from->pairs[i]->value.len);
    return r;
}

/* "aws-chunked" is how the body came, not what it is. */
static int add_kept(struct s3_attrs *attrs, size_t row, const char *value)
{
    if (strcmp(kept[row].header, "Content-Encoding") == 0 && strncasecmp(value, "aws-chunked", 11) == 0) {
        value += 11;
        value += strspn(value, ", \t");
        if (*value == 0)
            return 0;
    }
    return s3_attrs_add(attrs, kept[row].xattr, value, strlen(value));
}

static int add_user_meta(struct s3_call *call, struct s3_attrs *attrs)
{
    const struct http_head *head = &call->http->head;
    size_t total = 0;

    for (size_t i = 0; i < head->n_fields; i++) {
        const char *name = head->fields[i].name, *value = head->fields[i].value;
        char xattr[256];
        if (strncasecmp(name, USER_META, strlen(USER_META)) != 0)
            continue;
        name += strlen(USER_META);
        total += strlen(name) + strlen(value);
        if (total > S3_META_MAX || strlen(name) + strlen(USER_XATTR) >= sizeof xattr)
            return s3_fail(&call->fault, S3_METADATA_TOO_LARGE, NULL);
        snprintf(xattr, sizeof xattr, USER_XATTR "%s", name);
        for (char *c = xattr; *c != 0; c++)
            *c = (char)tolower((unsigned char)*c);
        int r = s3_attrs_add(attrs, xattr, value, strlen(value));
        if (r < 0)
            return r;
    }
    return 0;
}

int s3_attrs_collect(struct s3_call *call, struct s3_attrs *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        const char *value = s3_header(call, kept[i].header);
        int r = value == NULL ? 0 : add_kept(ret, i, value);
        if (r < 0)
            return r;
    }
    return add_user_meta(call, ret);
}

static int reply_pair(struct s3_call *call, const char *name, const char *value)
{
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        if (strcmp(kept[i].xattr, name) == 0)
            return s3_param(call, kept[i].override) != NULL ? 0 : http_reply_header(call->http, kept[i].header, "%s", value);
    if (strncmp(name, USER_XATTR, strlen(USER_XATTR)) == 0) {
        char header[300];
        snprintf(header, sizeof header, USER_META "%s", name + strlen(USER_XATTR));
        return http_reply_header(call->http, header, "%s", value);
    }
    const char *mode = s3_header(call, "x-amz-checksum-mode");
    if (strncmp(name, CHECKSUM_XATTR, strlen(CHECKSUM_XATTR)) == 0 && mode != NULL && strcasecmp(mode, "ENABLED") == 0)
        return http_reply_header(call->http, name + strlen(S3_XATTR), "%s", value);
    return 0;
}

int s3_meta_reply(struct s3_call *call, const Tarn__GetXattrReply *xattrs)
{
    bool has_type = s3_param(call, "response-content-type") != NULL;

    for (size_t i = 0; i < xattrs->n_pairs; i++) {
        const Tarn__XattrPair *pair = xattrs->pairs[i];
        _cleanup_free_ char *value = pair->value.len == 0 ? strdup("") : strndup((const char *)pair->value.data, pair->value.len);
        if (value == NULL)
            return -E_NOMEM;
        int r = reply_pair(call, pair->name, value);
        if (r < 0 && r != -E_INVAL) /* a mount may have written what no header can carry: left out */
            return r;
        has_type |= strcmp(pair->name, kept[0].xattr) == 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        const char *value = s3_param(call, kept[i].override);
        if (value != NULL && http_reply_header(call->http, kept[i].header, "%s", value) < 0)
            return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "%s has control characters", kept[i].override);
    }
    return has_type ? 0 : http_reply_header(call->http, "Content-Type", "binary/octet-stream");
}

void s3_etag(const Tarn__Attr *attr, char out[S3_ETAG_SIZE])
{
    const ProtobufCBinaryData *etag = &attr->etag;

    if (etag->len == 0 || etag->len > 64) {
        snprintf(out, S3_ETAG_SIZE, "%llx-%llx", (unsigned long long)attr->ino, (unsigned long long)attr->version);
        return;
    }
    if (etag->len != S3_MULTIPART_ETAG_BYTES) {
        text_hex(etag->data, etag->len, out);
        return;
    }
    struct reader r = reader_init(etag->data + 16, 4);
    text_hex(etag->data, 16, out);
    snprintf(out + 32, S3_ETAG_SIZE - 32, "-%u", reader_u32(&r));
}

void s3_multipart_etag(const uint8_t md5[16], uint32_t n, uint8_t out[S3_MULTIPART_ETAG_BYTES])
{
    memcpy(out, md5, 16);
    for (unsigned i = 0; i < 4; i++)
        out[16 + i] = (uint8_t)(n >> (8 * i));
}

uint32_t s3_mode(const struct s3_call *call)
{
    const char *acl = s3_header(call, "x-amz-acl");
    return acl != NULL && strcmp(acl, "private") == 0 ? 0600 : 0644;
}
