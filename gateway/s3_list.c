/* ListObjects and ListObjectsV2: parameters in, a page of listing.c, XML out. */
#include "listing.h"
#include "s3_call.h"
#include "s3xml.h"
#include "text.h"
#include "uri.h"
#include "common/err.h"

#include <stdio.h>

struct list_request {
    struct listing_query query;
    const char *start, *token; /* marker or start-after; continuation-token; NULL = none */
    bool url, v2, owner;
};

static int fetch(void *arg, const char *prefix, const char *delimiter, const char *after, unsigned max,
                 Tarn__ListObjectsReply **ret)
{
    struct s3_call *call = arg;
    return tree_list(&call->tree, call->bucket_path, prefix, delimiter, after, max, ret);
}

static const char *param_or(const struct s3_call *call, const char *name, const char *otherwise)
{
    const char *value = s3_param(call, name);
    return value == NULL ? otherwise : value;
}

static int read_request(struct s3_call *call, bool v2, struct list_request *ret)
{
    const char *max = param_or(call, "max-keys", "1000"), *encoding = s3_param(call, "encoding-type");
    uint64_t n;

    memset(ret, 0, sizeof *ret);
    ret->v2 = v2;
    ret->query.sorted = v2;
    ret->query.prefix = param_or(call, "prefix", "");
    ret->query.delimiter = param_or(call, "delimiter", "");
    ret->start = s3_param(call, v2 ? "start-after" : "marker");
    ret->token = v2 ? s3_param(call, "continuation-token") : NULL;
    ret->owner = !v2 || strcmp(param_or(call, "fetch-owner", "false"), "true") == 0;
    if (text_parse_u64(max, &n) < 0 || n > INT32_MAX)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "max-keys must be a number from 0 to 2147483647");
    ret->query.max = (unsigned)MIN(n, (uint64_t)LISTING_MAX);
    if (encoding != NULL && strcmp(encoding, "url") != 0)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "The only encoding-type is url");
    ret->url = encoding != NULL;
    if (ret->token != NULL) {
        if (listing_token_read(ret->token, &ret->query) < 0)
            return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "The continuation token is not valid");
        return 0;
    }
    return ret->start == NULL ? 0 : listing_start_after(&ret->query, ret->start);
}

/* A key as text, or percent-encoded when the client asked for it. */
static void add_key(struct writer *xml, const struct list_request *request, const char *tag, const char *key)
{
    if (!request->url) {
        xml_text(xml, tag, key);
        return;
    }
    xml_open(xml, tag);
    uri_encode(xml, key, strlen(key), true);
    xml_close(xml, tag);
}

static void add_object(struct writer *xml, const struct list_request *request, const struct listing_item *item)
{
    char date[TEXT_DATE_SIZE], id[16];

    text_iso_date(item->mtime, date);
    xml_open(xml, "Contents");
    add_key(xml, request, "Key", item->key);
    xml_text(xml, "LastModified", date);
    text_format(xml, "<ETag>&quot;%s&quot;</ETag>", item->etag);
    xml_number(xml, "Size", item->size);
    if (request->owner) {
        snprintf(id, sizeof id, "%u", item->uid);
        xml_open(xml, "Owner");
        xml_text(xml, "ID", id);
        xml_text(xml, "DisplayName", id);
        xml_close(xml, "Owner");
    }
    xml_text(xml, "StorageClass", "STANDARD");
    xml_close(xml, "Contents");
}

static void add_items(struct writer *xml, const struct list_request *request, const struct listing *page)
{
    for (size_t i = 0; i < page->count; i++)
        if (!page->items[i].common_prefix)
            add_object(xml, request, &page->items[i]);
    for (size_t i = 0; i < page->count; i++)
        if (page->items[i].common_prefix) {
            xml_open(xml, "CommonPrefixes");
            add_key(xml, request, "Prefix", page->items[i].key);
            xml_close(xml, "CommonPrefixes");
        }
}

static void add_paging(struct writer *xml, const struct list_request *request, const struct listing *page)
{
    char token[LISTING_TOKEN_SIZE];

    if (!request->v2) {
        add_key(xml, request, "Marker", request->start == NULL ? "" : request->start);
        if (page->truncated && page->count > 0)
            add_key(xml, request, "NextMarker", page->items[page->count - 1].key);
        return;
    }
    xml_number(xml, "KeyCount", page->count);
    if (request->token != NULL)
        xml_text(xml, "ContinuationToken", request->token);
    if (request->start != NULL)
        add_key(xml, request, "StartAfter", request->start);
    if (page->truncated) {
        listing_token_write(page, token);
        xml_text(xml, "NextContinuationToken", token);
    }
}

static int list(struct s3_call *call, bool v2)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    _cleanup_(listing_fini) struct listing page = {0};
    _cleanup_free_ struct list_request *request = malloc(sizeof *request);

    if (request == NULL)
        return -E_NOMEM;
    int r = read_request(call, v2, request);
    if (r == 0)
        r = listing_run(&request->query, fetch, call, &page);
    if (r < 0)
        return r == -E_NOENT || r == -E_NOTDIR ? s3_fail(&call->fault, S3_NO_SUCH_BUCKET, NULL) : r;
    xml_begin(&xml, "ListBucketResult");
    xml_text(&xml, "Name", call->bucket);
    add_key(&xml, request, "Prefix", request->query.prefix);
    if (request->query.delimiter[0] != 0)
        add_key(&xml, request, "Delimiter", request->query.delimiter);
    xml_number(&xml, "MaxKeys", request->query.max);
    if (request->url)
        xml_text(&xml, "EncodingType", "url");
    xml_bool(&xml, "IsTruncated", page.truncated);
    add_paging(&xml, request, &page);
    add_items(&xml, request, &page);
    xml_close(&xml, "ListBucketResult");
    return s3_reply_xml(call, 200, &xml);
}

int s3_list_objects(struct s3_call *call)
{
    return list(call, false);
}

int s3_list_objects_v2(struct s3_call *call)
{
    return list(call, true);
}
