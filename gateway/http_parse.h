/* The bytes of an HTTP/1.1 request: its head, and the chunked framing of a body. Pure, bounded, strict: what
 * two parsers could read differently is refused (RFC 9112 sections 2.2, 3, 5, 6.3, 7.1, 11.2). Debian builds
 * http_parser without its strict mode, so it is trusted with the head's grammar only after our own scan, and not
 * with chunks. */
#ifndef TARN_GATEWAY_HTTP_PARSE_H
#define TARN_GATEWAY_HTTP_PARSE_H

#include "common/base.h"

#define HTTP_TARGET_MAX KIB(16)
#define HTTP_FIELDS_BYTES_MAX KIB(64)
#define HTTP_FIELDS_MAX 100
/* Request line (method, two spaces, version, line end fit into 64 bytes beside the target) and fields. */
#define HTTP_HEAD_MAX (HTTP_TARGET_MAX + HTTP_FIELDS_BYTES_MAX + 64)

enum http_verb { HTTP_VERB_GET, HTTP_VERB_HEAD, HTTP_VERB_PUT, HTTP_VERB_POST, HTTP_VERB_DELETE, HTTP_VERB_OPTIONS };

struct http_field {
    const char *name, *value; /* value without surrounding blanks */
};
/* All texts point into the head's bytes and are NUL-terminated there. */
struct http_head {
    enum http_verb verb;
    const char *method;
    const char *path, *query; /* as sent, not decoded; query "" when there is none */
    unsigned minor;           /* HTTP/1.minor, 0 or 1 */
    bool keep_alive, expect_continue, chunked, has_length;
    uint64_t length;
    size_t n_fields;
    struct http_field fields[HTTP_FIELDS_MAX];
};
struct http_refusal {
    int status; /* 400 414 417 431 501 505 */
    const char *why;
};

/* Bytes up to and with the empty line; 0 when it is not there yet. Looks again only from `from` on. */
size_t http_head_length(const char *text, size_t n, size_t from);
/* Parses exactly one head (ending in its empty line) and changes its bytes in place.
 * Errors: -E_PROTO with *ret_refusal filled in. */
int http_head_parse(char *text, size_t n, struct http_head *ret, struct http_refusal *ret_refusal);
/* The value of the first field of that name in any case; NULL when there is none. */
const char *http_head_get(const struct http_head *head, const char *name);
/* Whether the comma-separated list `value` has `word` (any case). */
bool http_list_has(const char *value, const char *word);

/* The decoder of Transfer-Encoding: chunked. Zero-initialised is the start. */
#define HTTP_CHUNK_LINE_MAX 1024  /* a size line with its extensions */
#define HTTP_TRAILERS_MAX KIB(8)  /* all trailer lines; their content is not used */
struct http_chunked {
    unsigned state;
    unsigned line, trailers; /* bytes of the current line, of all trailers */
    unsigned digits;
    uint64_t left;
    bool done;
};
/* Consumes framing and at most one run of data: *ret_used bytes of `in` are eaten, of which the last
 * *ret_data_len at *ret_data are data. Ends when input is used up, a run was found or the body is done.
 * Errors: -E_PROTO. */
int http_chunked_feed(struct http_chunked *chunked, const char *in, size_t n, size_t *ret_used, const char **ret_data,
                      size_t *ret_data_len);

const char *http_status_text(int status);

#endif
