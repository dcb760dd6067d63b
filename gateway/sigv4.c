#include "sigv4.h"
#include "text.h"
#include "common/check.h"
#include "common/err.h"

#include <stdio.h>
#include <strings.h>
#include <time.h>

#define ALGORITHM "AWS4-HMAC-SHA256"

/* ---- reading the claim ---- */

static int malformed(const struct sigv4 *sigv4, struct s3_fault *fault, const char *what)
{
    return s3_fail(fault, sigv4->presigned ? S3_AUTH_QUERY : S3_AUTH_MALFORMED, "%s", what);
}

/* Copies [at, end) when it is not empty and fits. */
static bool copy_part(const char *at, const char *end, char *out, size_t size)
{
    size_t n = (size_t)(end - at);

    if (end <= at || n >= size)
        return false;
    memcpy(out, at, n);
    out[n] = 0;
    return true;
}

/* KEY/20130524/us-east-1/s3/aws4_request; the key may itself contain slashes, so it is read from the end. */
static int parse_credential(const char *text, size_t n, struct sigv4 *ret, struct s3_fault *fault)
{
    const char *slash[4], *end = text + n;
    size_t found = 0;

    for (const char *c = end; c > text && found < 4; c--)
        if (c[-1] == '/')
            slash[found++] = c - 1;
    if (found < 4 || (size_t)(end - slash[0]) != strlen("/aws4_request") ||
        memcmp(slash[0], "/aws4_request", strlen("/aws4_request")) != 0 ||
        !copy_part(text, slash[3], ret->access_key, sizeof ret->access_key) ||
        !copy_part(slash[3] + 1, slash[2], ret->date, sizeof ret->date) || strlen(ret->date) != 8 ||
        !copy_part(slash[2] + 1, slash[1], ret->region, sizeof ret->region) ||
        !copy_part(slash[1] + 1, slash[0], ret->service, sizeof ret->service) ||
        !copy_part(slash[3] + 1, end, ret->scope, sizeof ret->scope))
        return malformed(ret, fault, "The credential must be KEY/DATE/REGION/SERVICE/aws4_request");
    return 0;
}

static int take_signature(const char *text, struct sigv4 *ret, struct s3_fault *fault)
{
    if (!text_unhex(text, 2 * SHA256_BYTES, ret->signature))
        return malformed(ret, fault, "The signature must be 64 hexadecimal digits");
    return 0;
}

static int take_stamp(const char *text, struct sigv4 *ret, struct s3_fault *fault)
{
    if (text == NULL || text_parse_amz_date(text, &ret->time_s) < 0)
        return malformed(ret, fault, "X-Amz-Date must be of the form 20130524T000000Z");
    memcpy(ret->stamp, text, sizeof ret->stamp);
    if (memcmp(ret->stamp, ret->date, 8) != 0)
        return malformed(ret, fault, "The date of the credential differs from that of the request");
    return 0;
}

/* A client may give Date instead of X-Amz-Date. */
static int take_header_stamp(const struct http_head *head, struct sigv4 *ret, struct s3_fault *fault)
{
    const char *amz = http_head_get(head, "x-amz-date"), *date = http_head_get(head, "date");

    if (amz != NULL || date == NULL || text_parse_http_date(date, &ret->time_s) < 0)
        return take_stamp(amz, ret, fault);
    time_t t = (time_t)ret->time_s;
    struct tm tm;
    char stamp[sizeof ret->stamp];
    if (gmtime_r(&t, &tm) == NULL || strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &tm) == 0)
        return malformed(ret, fault, "The Date header is malformed");
    return take_stamp(stamp, ret, fault);
}

static const struct {
    const char *text;
    enum sigv4_payload payload;
} payloads[] = {
    {"UNSIGNED-PAYLOAD", SIGV4_UNSIGNED},
    {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", SIGV4_STREAMING},
    {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", SIGV4_STREAMING_TRAILER},
    {"STREAMING-UNSIGNED-PAYLOAD-TRAILER", SIGV4_STREAMING_UNSIGNED_TRAILER},
};

static int take_payload(const char *text, struct sigv4 *ret, struct s3_fault *fault)
{
    ret->payload_text = text;
    for (size_t i = 0; i < ARRAY_SIZE(payloads); i++)
        if (strcmp(payloads[i].text, text) == 0) {
            ret->payload = payloads[i].payload;
            return 0;
        }
    ret->payload = SIGV4_HASHED;
    if (!text_unhex(text, 2 * SHA256_BYTES, ret->payload_sha256))
        return s3_fail(fault, S3_INVALID_ARGUMENT,
                       "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- form or a SHA-256 digest");
    return 0;
}

/* Credential=…, SignedHeaders=…, Signature=… in any order, separated by commas and blanks. */
static int parse_authorization(const char *text, struct sigv4 *ret, struct s3_fault *fault)
{
    const char *credential = NULL, *signature = NULL;
    size_t credential_len = 0;

    for (const char *at = text; *at != 0;) {
        at += strspn(at, ", \t");
        size_t len = strcspn(at, ", \t");
        if (strncmp(at, "Credential=", 11) == 0 && len >= 11) {
            credential = at + 11;
            credential_len = len - 11;
        } else if (strncmp(at, "SignedHeaders=", 14) == 0) {
            ret->signed_headers = at + 14; /* ends at a comma, a blank or NUL */
        } else if (strncmp(at, "Signature=", 10) == 0) {
            signature = at + 10;
        }
        at += len;
    }
    if (credential == NULL || ret->signed_headers == NULL || signature == NULL)
        return malformed(ret, fault, "Credential, SignedHeaders and Signature are needed");
    int r = parse_credential(credential, credential_len, ret, fault);
    if (r < 0)
        return r;
    char digits[2 * SHA256_BYTES + 1];
    size_t len = strcspn(signature, ", \t");
    if (!copy_part(signature, signature + len, digits, sizeof digits))
        digits[0] = 0;
    return take_signature(digits, ret, fault);
}

static int parse_header_form(const struct http_head *head, const char *authorization, struct sigv4 *ret,
                             struct s3_fault *fault)
{
    int r = parse_authorization(authorization + strlen(ALGORITHM), ret, fault);
    if (r == 0)
        r = take_header_stamp(head, ret, fault);
    if (r < 0)
        return r;
    const char *payload = http_head_get(head, "x-amz-content-sha256");
    if (payload == NULL && strcmp(ret->service, "s3") == 0)
        return s3_fail(fault, S3_INVALID_REQUEST, "The x-amz-content-sha256 header is needed");
    if (payload == NULL) {
        ret->payload = SIGV4_HASHED;
        ret->body_first = true;
        return 0;
    }
    return take_payload(payload, ret, fault);
}

void sigv4_take_body(struct sigv4 *sigv4, const void *body, size_t n)
{
    digest_sha256(body, n, sigv4->payload_sha256);
    text_hex(sigv4->payload_sha256, SHA256_BYTES, sigv4->payload_digits);
    sigv4->payload_text = sigv4->payload_digits;
    sigv4->body_first = false;
}

static int parse_presigned(const struct http_head *head, const struct uri_query *query, struct sigv4 *ret,
                           struct s3_fault *fault)
{
    const char *algorithm = uri_query_get(query, "X-Amz-Algorithm");
    const char *credential = uri_query_get(query, "X-Amz-Credential");
    const char *expires = uri_query_get(query, "X-Amz-Expires");
    const char *signature = uri_query_get(query, "X-Amz-Signature");
    const char *payload = uri_query_get(query, "X-Amz-Content-Sha256");

    ret->presigned = true;
    ret->signed_headers = uri_query_get(query, "X-Amz-SignedHeaders");
    if (algorithm == NULL || strcmp(algorithm, ALGORITHM) != 0)
        return malformed(ret, fault, "X-Amz-Algorithm must be AWS4-HMAC-SHA256");
    if (credential == NULL || ret->signed_headers == NULL || signature == NULL || expires == NULL)
        return malformed(ret, fault, "X-Amz-Credential, -Date, -Expires, -SignedHeaders and -Signature are needed");
    if (text_parse_u64(expires, &ret->expires_s) < 0 || ret->expires_s == 0 || ret->expires_s > SIGV4_EXPIRES_MAX_S)
        return malformed(ret, fault, "X-Amz-Expires must be between 1 and 604800 seconds");
    int r = parse_credential(credential, strlen(credential), ret, fault);
    if (r == 0)
        r = take_stamp(uri_query_get(query, "X-Amz-Date"), ret, fault);
    if (r == 0)
        r = take_signature(signature, ret, fault);
    if (payload == NULL)
        payload = http_head_get(head, "x-amz-content-sha256");
    if (r == 0)
        r = take_payload(payload == NULL ? "UNSIGNED-PAYLOAD" : payload, ret, fault);
    return r;
}

int sigv4_parse(const struct http_head *head, const struct uri_query *query, struct sigv4 *ret, struct s3_fault *fault)
{
    const char *authorization = http_head_get(head, "authorization");

    memset(ret, 0, sizeof *ret);
    if (uri_query_get(query, "X-Amz-Algorithm") != NULL || uri_query_get(query, "X-Amz-Signature") != NULL) {
        if (authorization != NULL)
            return s3_fail(fault, S3_INVALID_ARGUMENT, "A request is signed in its headers or its query, not both");
        return parse_presigned(head, query, ret, fault);
    }
    if (authorization == NULL && uri_query_get(query, "Signature") == NULL)
        return s3_fail(fault, S3_ACCESS_DENIED, "The request is not signed; anonymous access is not offered");
    if (authorization == NULL || strncmp(authorization, ALGORITHM " ", strlen(ALGORITHM) + 1) != 0)
        return s3_fail(fault, S3_INVALID_REQUEST,
                       "The authorization mechanism is not offered here. Please use AWS4-HMAC-SHA256.");
    return parse_header_form(head, authorization, ret, fault);
}

/* ---- the canonical request ---- */

struct pair {
    const char *name, *value; /* encoded */
    size_t name_at, value_at; /* where they lie while the writer still moves */
};

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : strcmp(x->value, y->value);
}

/* All parameters but the signature, encoded, in order of the encoded name and value. */
static int add_query(struct writer *out, const struct uri_query *query, bool presigned)
{
    _cleanup_(writer_fini) struct writer store = {0};
    struct pair pairs[URI_PARAMS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < query->count; i++) {
        const struct uri_param *param = &query->params[i];
        if (presigned && strcmp(param->name, "X-Amz-Signature") == 0)
            continue;
        pairs[n].name_at = store.len;
        uri_encode(&store, param->name, strlen(param->name), false);
        writer_u8(&store, 0);
        pairs[n].value_at = store.len;
        uri_encode(&store, param->value, strlen(param->value), false);
        writer_u8(&store, 0);
        n++;
    }
    if (store.failed)
        return -E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        pairs[i].name = (const char *)store.data + pairs[i].name_at;
        pairs[i].value = (const char *)store.data + pairs[i].value_at;
    }
    qsort(pairs, n, sizeof pairs[0], compare_pairs);
    for (size_t i = 0; i < n; i++)
        text_format(out, "%s%s=%s", i == 0 ? "" : "&", pairs[i].name, pairs[i].value);
    writer_u8(out, '\n');
    return 0;
}

/* Runs of blanks become one, as the signer does it. */
static void add_collapsed(struct writer *out, const char *value)
{
    for (const char *c = value; *c != 0; c++) {
        bool blank = *c == ' ' || *c == '\t';
        if (!blank)
            writer_u8(out, (uint8_t)*c);
        else if (c[1] != ' ' && c[1] != '\t' && c[1] != 0)
            writer_u8(out, ' ');
    }
}

/* "name:value[,value…]\n" of one signed header; nothing when the request has none of that name, which
 * then fails by its signature. */
static void add_header(struct writer *out, const struct http_head *head, const char *name, size_t len)
{
    bool first = true;

    for (size_t i = 0; i < head->n_fields; i++) {
        const struct http_field *field = &head->fields[i];
        if (strlen(field->name) != len || strncasecmp(field->name, name, len) != 0)
            continue;
        if (first) {
            writer_bytes(out, name, len);
            writer_u8(out, ':');
        } else {
            writer_u8(out, ',');
        }
        add_collapsed(out, field->value);
        first = false;
    }
    if (!first)
        writer_u8(out, '\n');
}

static size_t signed_len(const struct sigv4 *sigv4)
{
    return strcspn(sigv4->signed_headers, ", \t");
}

static void add_headers(struct writer *out, const struct sigv4 *sigv4, const struct http_head *head)
{
    const char *at = sigv4->signed_headers, *end = at + signed_len(sigv4);

    for (unsigned n = 0; at < end && n < SIGV4_SIGNED_HEADERS_MAX; n++) {
        size_t len = strcspn(at, ";, \t");
        add_header(out, head, at, len);
        at += len;
        if (at < end)
            at++;
    }
    writer_u8(out, '\n');
    writer_bytes(out, sigv4->signed_headers, signed_len(sigv4));
    writer_u8(out, '\n');
}

static int add_path(struct writer *out, const char *raw)
{
    size_t n = strlen(raw), len;
    _cleanup_free_ char *path = malloc(n + 1);

    if (path == NULL)
        return -E_NOMEM;
    int r = uri_decode(raw, n, false, path, &len);
    if (r < 0)
        return r;
    uri_encode(out, path, len, true);
    writer_u8(out, '\n');
    return 0;
}

static int canonical_sha256(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
                            uint8_t out[SHA256_BYTES])
{
    _cleanup_(writer_fini) struct writer text = {0};

    text_format(&text, "%s\n", head->method);
    int r = add_path(&text, head->path);
    if (r == 0)
        r = add_query(&text, query, sigv4->presigned);
    if (r < 0)
        return r;
    add_headers(&text, sigv4, head);
    text_add(&text, sigv4->payload_text);
    if (text.failed)
        return -E_NOMEM;
    digest_sha256(text.data, text.len, out);
    return 0;
}

static void signing_key(const struct sigv4 *sigv4, const char *secret, uint8_t out[SHA256_BYTES])
{
    char first[4 + 256];
    const char *const steps[] = {sigv4->region, sigv4->service, "aws4_request"};

    snprintf(first, sizeof first, "AWS4%s", secret);
    digest_hmac_sha256(first, strlen(first), sigv4->date, strlen(sigv4->date), out);
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        uint8_t key[SHA256_BYTES];
        memcpy(key, out, sizeof key);
        digest_hmac_sha256(key, sizeof key, steps[i], strlen(steps[i]), out);
    }
}

static int sign_with_key(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
                         const uint8_t key[SHA256_BYTES], uint8_t ret[SHA256_BYTES])
{
    uint8_t canonical[SHA256_BYTES];
    char digits[2 * SHA256_BYTES + 1], text[512];

    int r = canonical_sha256(sigv4, head, query, canonical);
    if (r < 0)
        return r;
    text_hex(canonical, sizeof canonical, digits);
    int n = snprintf(text, sizeof text, ALGORITHM "\n%s\n%s\n%s", sigv4->stamp, sigv4->scope, digits);
    digest_hmac_sha256(key, SHA256_BYTES, text, (size_t)n, ret);
    return 0;
}

int sigv4_sign(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
               const char *secret, uint8_t ret_signature[SHA256_BYTES])
{
    uint8_t key[SHA256_BYTES];

    signing_key(sigv4, secret, key);
    return sign_with_key(sigv4, head, query, key, ret_signature);
}

/* ---- the verdict ---- */

static bool signs(const struct sigv4 *sigv4, const char *name)
{
    const char *at = sigv4->signed_headers, *end = at + signed_len(sigv4);
    size_t n = strlen(name);

    while (at < end) {
        size_t len = strcspn(at, ";, \t");
        if (len == n && strncasecmp(at, name, n) == 0)
            return true;
        at += len + 1;
    }
    return false;
}

/* What changes the meaning of a request has to be signed: Host always, and each x-amz- header. */
static int check_signed_headers(const struct sigv4 *sigv4, const struct http_head *head, struct s3_fault *fault)
{
    if (!signs(sigv4, "host"))
        return s3_fail(fault, S3_ACCESS_DENIED, "The host header must be signed");
    for (size_t i = 0; i < head->n_fields; i++) {
        const char *name = head->fields[i].name;
        if (strncasecmp(name, "x-amz-", 6) == 0 && !signs(sigv4, name) &&
            strcasecmp(name, "x-amz-content-sha256") != 0)
            return s3_fail(fault, S3_ACCESS_DENIED, "There were headers present which were not signed: %.64s", name);
    }
    return 0;
}

static int check_time(const struct sigv4 *sigv4, uint64_t now_s, struct s3_fault *fault)
{
    if (sigv4->time_s > now_s + SIGV4_SKEW_S)
        return s3_fail(fault, S3_TIME_SKEWED, NULL);
    if (sigv4->presigned)
        return now_s > sigv4->time_s + sigv4->expires_s ? s3_fail(fault, S3_EXPIRED, NULL) : 0;
    return now_s > sigv4->time_s + SIGV4_SKEW_S ? s3_fail(fault, S3_TIME_SKEWED, NULL) : 0;
}

int sigv4_verify(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
                 const char *secret, uint64_t now_s, struct sigv4_chain *ret_chain, struct s3_fault *fault)
{
    struct sigv4_chain chain;
    uint8_t expected[SHA256_BYTES];

    CHECK(!sigv4->body_first);
    int r = check_time(sigv4, now_s, fault);
    if (r == 0)
        r = check_signed_headers(sigv4, head, fault);
    if (r < 0)
        return r;
    signing_key(sigv4, secret, chain.key);
    r = sign_with_key(sigv4, head, query, chain.key, expected);
    if (r == -E_INVAL)
        return s3_fail(fault, S3_INVALID_URI, NULL);
    if (r < 0)
        return r;
    if (!digest_equal(expected, sigv4->signature, SHA256_BYTES))
        return s3_fail(fault, S3_SIGNATURE, NULL);
    memcpy(chain.last, expected, sizeof chain.last);
    *ret_chain = chain;
    return 0;
}

/* ---- streaming bodies ---- */

static bool chain_step(struct sigv4_chain *chain, const struct sigv4 *sigv4, const char *algorithm, const char *middle,
                       const uint8_t sha256[SHA256_BYTES], const uint8_t signature[SHA256_BYTES])
{
    char previous[2 * SHA256_BYTES + 1], digits[2 * SHA256_BYTES + 1], text[640];
    uint8_t expected[SHA256_BYTES];

    text_hex(chain->last, SHA256_BYTES, previous);
    text_hex(sha256, SHA256_BYTES, digits);
    int n = snprintf(text, sizeof text, "%s\n%s\n%s\n%s\n%s%s", algorithm, sigv4->stamp, sigv4->scope, previous, middle,
                     digits);
    digest_hmac_sha256(chain->key, SHA256_BYTES, text, (size_t)n, expected);
    memcpy(chain->last, expected, sizeof chain->last);
    return digest_equal(expected, signature, SHA256_BYTES);
}

bool sigv4_chain_chunk(struct sigv4_chain *chain, const struct sigv4 *sigv4, const uint8_t data_sha256[SHA256_BYTES],
                       const uint8_t signature[SHA256_BYTES])
{
    /* The digest of the empty string stands for the (never used) chunk headers. */
    return chain_step(chain, sigv4, "AWS4-HMAC-SHA256-PAYLOAD",
                      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n", data_sha256, signature);
}

bool sigv4_chain_trailer(struct sigv4_chain *chain, const struct sigv4 *sigv4,
                         const uint8_t trailer_sha256[SHA256_BYTES], const uint8_t signature[SHA256_BYTES])
{
    return chain_step(chain, sigv4, "AWS4-HMAC-SHA256-TRAILER", "", trailer_sha256, signature);
}
