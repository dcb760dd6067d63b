/* The small texts of S3 and the API: XML, JSON, keys, tokens, base64, escapes, dates. The first byte chooses. */
#include "fuzz.h"

#include "common/check.h"
#include "gateway/json.h"
#include "gateway/listing.h"
#include "gateway/s3xml.h"
#include "gateway/text.h"
#include "gateway/uri.h"

static int visit(void *arg, const char *path, const char *text)
{
    CHECK(path[0] == '/');
    xml_text(arg, "T", text);
    return 0;
}

static void try_xml(const char *text, size_t n)
{
    _cleanup_(writer_fini) struct writer out = {0};
    xml_parse(text, n, "Delete", visit, &out);
}

static void try_json(const char *text, size_t n)
{
    struct json_locations request;
    const char *why;

    if (json_read_locations(text, n, &request, &why) < 0)
        return;
    CHECK(request.count > 0 || request.prefix != NULL);
    for (size_t i = 0; i < request.count; i++)
        CHECK(request.paths[i][0] == '/');
    json_locations_fini(&request);
}

static void try_key(const char *key)
{
    char path[KEY_PATH_MAX], back[KEY_PATH_MAX];

    if (key_to_path(key, path) < 0)
        return;
    CHECK(strlen(path) < KEY_PATH_MAX);
    key_from_path(path, back);
    CHECK(strcmp(back, key) == 0);
    CHECK(key_prefix_to_path(key, path) == 0);
}

static void try_token(const char *token)
{
    struct listing_query query = {0};

    if (listing_token_read(token, &query) == 0)
        CHECK(strlen(query.after) < sizeof query.after && strlen(query.group) < sizeof query.group);
}

static void try_text(const char *text, size_t n)
{
    struct uri_query query;
    uint8_t bytes[64];
    uint64_t number;
    char *out = malloc(n + 1), again[TEXT_BASE64_SIZE(64)];

    CHECK(out != NULL);
    if (uri_decode(text, n, true, out, NULL) == 0)
        CHECK(strlen(out) <= n);
    if (uri_query_parse(text, &query) == 0)
        uri_query_fini(&query);
    int64_t len = text_unbase64(text, bytes, sizeof bytes);
    if (len >= 0) {
        text_base64(bytes, (size_t)len, again);
        CHECK(strcmp(again, text) == 0);
    }
    text_parse_http_date(text, &number);
    text_parse_amz_date(text, &number);
    text_parse_u64(text, &number);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t n = size - 1;
    char *text = malloc(n + 1);
    CHECK(text != NULL);
    memcpy(text, data + 1, n);
    text[n] = 0;
    switch (data[0]) {
    case 'X':
        try_xml(text, n);
        break;
    case 'J':
        try_json(text, n);
        break;
    case 'K':
        try_key(text);
        break;
    case 'T':
        try_token(text);
        break;
    default:
        try_text(text, n);
    }
    free(text);
    return 0;
}
