/* A request as it comes: head, who signed it, what it names, its body in both chunked framings. */
#include "fuzz.h"

#include "common/check.h"
#include "gateway/awschunk.h"
#include "gateway/condition.h"
#include "gateway/http_parse.h"
#include "gateway/s3_target.h"

static void try_chunked(const char *body, size_t n)
{
    for (size_t step = 1; step <= n; step = step * 7 + 1) {
        struct http_chunked chunked = {0};
        for (size_t at = 0; at < n && !chunked.done;) {
            size_t used, len, piece = MIN(step, n - at);
            const char *data;
            if (http_chunked_feed(&chunked, body + at, piece, &used, &data, &len) < 0)
                return;
            CHECK(used > 0 && used <= piece && len <= used);
            CHECK(len == 0 || (data >= body && data + len <= body + n));
            at += used;
        }
    }
}

static void try_awschunk(const struct sigv4 *sigv4, const struct sigv4_chain *chain, const char *body, size_t n)
{
    struct awschunk chunk;
    char *copy = malloc(n + 1);

    CHECK(copy != NULL && awschunk_init(&chunk, sigv4, chain) == 0);
    memcpy(copy, body, n);
    for (size_t at = 0; at < n;) {
        size_t piece = MIN((size_t)100, n - at);
        int64_t out = awschunk_decode(&chunk, copy + at, piece);
        CHECK(out <= (int64_t)piece);
        if (out < 0)
            break;
        at += piece;
    }
    char value[64];
    if (chunk.done && awschunk_trailer(&chunk, "x-amz-checksum-crc32", value, sizeof value))
        CHECK(strlen(value) < sizeof value);
    awschunk_fini(&chunk);
    free(copy);
}

static void try_signed(const struct http_head *head, const char *body, size_t n)
{
    struct uri_query query;
    struct sigv4 sigv4;
    struct sigv4_chain chain = {0};
    struct s3_fault fault = {0};

    if (uri_query_parse(head->query, &query) < 0)
        return;
    if (sigv4_parse(head, &query, &sigv4, &fault) == 0) {
        if (sigv4.body_first)
            sigv4_take_body(&sigv4, body, n);
        sigv4_verify(&sigv4, head, &query, "secret", sigv4.time_s, &chain, &fault);
        if (sigv4.payload >= SIGV4_STREAMING)
            try_awschunk(&sigv4, &chain, body, n);
    }
    uri_query_fini(&query);
}

static void try_meaning(const struct http_head *head)
{
    struct s3_target target;
    struct s3_fault fault = {0};
    struct range range;
    struct conditions conditions = {http_head_get(head, "if-match"), http_head_get(head, "if-none-match"),
                                    http_head_get(head, "if-modified-since"), http_head_get(head, "if-unmodified-since")};
    char path[KEY_PATH_MAX], back[KEY_PATH_MAX];

    if (range_parse(http_head_get(head, "range"), 1000, &range) == 0)
        CHECK(range.offset + range.length <= 1000 && (!range.partial || range.length > 0));
    conditions_check(&conditions, "0123", 1000000, true);
    if (s3_target_parse(http_head_get(head, "host"), head->path, "s3.test", &target, &fault) == 0 && target.key[0] != 0) {
        CHECK(key_to_path(target.key, path) == 0);
        key_from_path(path, back);
        CHECK(strcmp(back, target.key) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct http_refusal refusal;
    struct http_head head;
    size_t n = http_head_length(text, size, 0);

    CHECK(n <= size);
    try_chunked(text + n, size - n);
    if (n == 0)
        return 0;
    char *copy = malloc(n);
    CHECK(copy != NULL);
    memcpy(copy, text, n);
    if (http_head_parse(copy, n, &head, &refusal) == 0) {
        CHECK(head.n_fields <= HTTP_FIELDS_MAX && !(head.chunked && head.has_length));
        try_signed(&head, text + n, size - n);
        try_meaning(&head);
    } else {
        CHECK(refusal.status >= 400 && refusal.why != NULL);
    }
    free(copy);
    return 0;
}
