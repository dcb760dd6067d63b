#include "http_parse.h"
#include "text.h"
#include "common/check.h"
#include "common/err.h"

#include <http_parser.h>
#include <strings.h>

static bool token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

size_t http_head_length(const char *text, size_t n, size_t from)
{
    /* The four bytes may have begun before `from`. */
    size_t at = from > 3 ? from - 3 : 0;
    const char *end = n < 4 ? NULL : memmem(text + at, n - at, "\r\n\r\n", 4);

    return end == NULL ? 0 : (size_t)(end - text) + 4;
}

static int refuse(struct http_refusal *refusal, int status, const char *why)
{
    refusal->status = status;
    refusal->why = why;
    return -E_PROTO;
}

/* ---- our own scan: only bytes and shapes that every parser reads the same way pass ---- */

static int scan_request_line(const char *line, size_t len, struct http_refusal *refusal)
{
    const char *space = memchr(line, ' ', len);
    if (space == NULL || space == line || space - line > 16)
        return refuse(refusal, 400, "the request line is malformed");
    for (const char *c = line; c < space; c++)
        if (!token_char((unsigned char)*c))
            return refuse(refusal, 400, "the method is malformed");

    const char *target = space + 1;
    const char *target_end = memchr(target, ' ', len - (size_t)(target - line));
    if (target_end == NULL || target_end == target)
        return refuse(refusal, 400, "the request line is malformed");
    if ((size_t)(target_end - target) > HTTP_TARGET_MAX)
        return refuse(refusal, 414, "the request target is longer than 16 KiB");
    for (const char *c = target; c < target_end; c++)
        if (*c <= ' ' || *c >= 0x7f)
            return refuse(refusal, 400, "the request target has bytes that must be percent-encoded");
    if (*target != '/')
        return refuse(refusal, 400, "the request target must begin with '/'");

    const char *version = target_end + 1;
    size_t version_len = len - (size_t)(version - line);
    if (version_len != 8 || memcmp(version, "HTTP/", 5) != 0)
        return refuse(refusal, 400, "the request line is malformed");
    if (memcmp(version, "HTTP/1.1", 8) != 0 && memcmp(version, "HTTP/1.0", 8) != 0)
        return refuse(refusal, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    return 0;
}

static int scan_field(const char *line, size_t len, struct http_refusal *refusal)
{
    size_t name = 0;

    if (*line == ' ' || *line == '\t')
        return refuse(refusal, 400, "folded header lines are not accepted");
    while (name < len && token_char((unsigned char)line[name]))
        name++;
    if (name == 0 || name == len || line[name] != ':')
        return refuse(refusal, 400, "a header name is malformed");
    for (size_t i = name; i < len; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return refuse(refusal, 400, "a header value has control characters");
    }
    return 0;
}

static int scan_head(const char *text, size_t n, struct http_refusal *refusal)
{
    const char *at = text, *end = text + n - 2; /* without the empty line */
    size_t fields = 0, first = 0;

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (newline == NULL || newline == at || newline[-1] != '\r')
            return refuse(refusal, 400, "lines must end in CR LF");
        size_t len = (size_t)(newline - 1 - at);
        if (memchr(at, '\r', len) != NULL)
            return refuse(refusal, 400, "a line has a bare CR");
        int r = at == text ? scan_request_line(at, len, refusal) : scan_field(at, len, refusal);
        if (r < 0)
            return r;
        if (at == text)
            first = len + 2;
        else if (++fields > HTTP_FIELDS_MAX)
            return refuse(refusal, 431, "more than 100 header lines");
        at = newline + 1;
    }
    if (n - first > HTTP_FIELDS_BYTES_MAX)
        return refuse(refusal, 431, "more than 64 KiB of headers");
    return 0;
}

/* ---- the grammar, by http_parser ---- */

struct spans {
    struct http_head *head;
    char *target;
    size_t target_len;
    size_t name_len[HTTP_FIELDS_MAX], value_len[HTTP_FIELDS_MAX];
    size_t n_names, n_values;
};

static int on_url(http_parser *parser, const char *at, size_t n)
{
    struct spans *spans = parser->data;
    spans->target = (char *)at;
    spans->target_len = n;
    return 0;
}

static int on_field(http_parser *parser, const char *at, size_t n)
{
    struct spans *spans = parser->data;

    if (spans->n_names == HTTP_FIELDS_MAX || spans->n_names != spans->n_values)
        return 1;
    spans->head->fields[spans->n_names].name = at;
    spans->name_len[spans->n_names++] = n;
    return 0;
}

static int on_value(http_parser *parser, const char *at, size_t n)
{
    struct spans *spans = parser->data;

    if (spans->n_values + 1 != spans->n_names)
        return 1;
    spans->head->fields[spans->n_values].value = at;
    spans->value_len[spans->n_values++] = n;
    return 0;
}

static int on_headers_complete(http_parser *parser)
{
    return 1; /* the body is none of the parser's business */
}

static const struct {
    unsigned method;
    enum http_verb verb;
    const char *text;
} verbs[] = {
    {HTTP_GET, HTTP_VERB_GET, "GET"},          {HTTP_HEAD, HTTP_VERB_HEAD, "HEAD"},
    {HTTP_PUT, HTTP_VERB_PUT, "PUT"},          {HTTP_POST, HTTP_VERB_POST, "POST"},
    {HTTP_DELETE, HTTP_VERB_DELETE, "DELETE"}, {HTTP_OPTIONS, HTTP_VERB_OPTIONS, "OPTIONS"},
};

static int take_method(struct http_head *head, unsigned method, struct http_refusal *refusal)
{
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        if (verbs[i].method == method) {
            head->verb = verbs[i].verb;
            head->method = verbs[i].text;
            return 0;
        }
    return refuse(refusal, 501, "this method is not offered");
}

/* Ends the texts with NULs; the bytes behind them (':' CR '?' ' ') were delimiters. */
static void end_texts(struct spans *spans)
{
    struct http_head *head = spans->head;

    spans->target[spans->target_len] = 0;
    head->path = spans->target;
    char *mark = strchr(spans->target, '?');
    head->query = mark == NULL ? "" : mark + 1;
    if (mark != NULL)
        *mark = 0;
    head->n_fields = spans->n_names;
    for (size_t i = 0; i < head->n_fields; i++) {
        char *name = (char *)head->fields[i].name, *value = (char *)head->fields[i].value;
        size_t len = spans->value_len[i];

        name[spans->name_len[i]] = 0;
        while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
            len--;
        if (len > 0)
            value[len] = 0;
        else
            head->fields[i].value = ""; /* the parser's mark of an empty value lies in the next line */
    }
}

static int parse_grammar(char *text, size_t n, struct http_head *head, struct http_refusal *refusal)
{
    struct spans spans = {.head = head};
    http_parser_settings settings;
    http_parser parser;

    http_parser_settings_init(&settings);
    settings.on_url = on_url;
    settings.on_header_field = on_field;
    settings.on_header_value = on_value;
    settings.on_headers_complete = on_headers_complete;
    http_parser_set_max_header_size(HTTP_HEAD_MAX + 1);
    http_parser_init(&parser, HTTP_REQUEST);
    /* Our own rules for lengths are stricter; without this the two are refused without a reason. */
    parser.allow_chunked_length = 1;
    parser.data = &spans;
    size_t used = http_parser_execute(&parser, &settings, text, n);

    enum http_errno error = HTTP_PARSER_ERRNO(&parser);
    if (error == HPE_INVALID_METHOD)
        return refuse(refusal, 501, "this method is not offered");
    if (error == HPE_INVALID_CONTENT_LENGTH || error == HPE_UNEXPECTED_CONTENT_LENGTH)
        return refuse(refusal, 400, "the content length is malformed or given more than once");
    if (error != HPE_OK || used != n || spans.target == NULL || spans.n_names != spans.n_values)
        return refuse(refusal, 400, "the request head is malformed");
    int r = take_method(head, parser.method, refusal);
    if (r < 0)
        return r;
    head->minor = parser.http_minor;
    end_texts(&spans);
    return 0;
}

/* ---- what the fields mean for the framing ---- */

const char *http_head_get(const struct http_head *head, const char *name)
{
    for (size_t i = 0; i < head->n_fields; i++)
        if (strcasecmp(head->fields[i].name, name) == 0)
            return head->fields[i].value;
    return NULL;
}

static size_t count_fields(const struct http_head *head, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < head->n_fields; i++)
        n += strcasecmp(head->fields[i].name, name) == 0;
    return n;
}

bool http_list_has(const char *value, const char *word)
{
    size_t len = strlen(word);

    while (*value != 0) {
        value += strspn(value, " \t,");
        size_t item = strcspn(value, ","), trimmed = item;
        while (trimmed > 0 && (value[trimmed - 1] == ' ' || value[trimmed - 1] == '\t'))
            trimmed--;
        if (trimmed == len && strncasecmp(value, word, len) == 0)
            return true;
        value += item;
    }
    return false;
}

static int read_framing(struct http_head *head, struct http_refusal *refusal)
{
    size_t lengths = count_fields(head, "content-length"), codings = count_fields(head, "transfer-encoding");

    if (lengths > 1)
        return refuse(refusal, 400, "more than one Content-Length");
    if (lengths + codings > 1)
        return refuse(refusal, 400, "both Content-Length and Transfer-Encoding, or one of them twice");
    if (lengths == 1) {
        if (text_parse_u64(http_head_get(head, "content-length"), &head->length) < 0 || head->length > INT64_MAX)
            return refuse(refusal, 400, "the Content-Length is not a number");
        head->has_length = true;
    }
    if (codings == 1) {
        if (head->minor == 0)
            return refuse(refusal, 400, "Transfer-Encoding in HTTP/1.0");
        if (strcasecmp(http_head_get(head, "transfer-encoding"), "chunked") != 0)
            return refuse(refusal, 501, "the only transfer coding is chunked");
        head->chunked = true;
    }
    return 0;
}

static int read_connection(struct http_head *head, struct http_refusal *refusal)
{
    const char *connection = http_head_get(head, "connection");
    const char *expect = http_head_get(head, "expect");
    size_t hosts = count_fields(head, "host");

    if (hosts > 1 || (hosts == 0 && head->minor == 1))
        return refuse(refusal, 400, "exactly one Host header is needed");
    head->keep_alive = head->minor == 1;
    if (connection != NULL && http_list_has(connection, "close"))
        head->keep_alive = false;
    else if (connection != NULL && http_list_has(connection, "keep-alive"))
        head->keep_alive = true;
    if (expect != NULL && head->minor == 1) {
        if (strcasecmp(expect, "100-continue") != 0)
            return refuse(refusal, 417, "the only expectation is 100-continue");
        head->expect_continue = true;
    }
    return 0;
}

int http_head_parse(char *text, size_t n, struct http_head *ret, struct http_refusal *ret_refusal)
{
    memset(ret, 0, sizeof *ret);
    if (n < 4 || memcmp(text + n - 4, "\r\n\r\n", 4) != 0)
        return refuse(ret_refusal, 400, "the request head is not complete");
    int r = scan_head(text, n, ret_refusal);
    if (r == 0)
        r = parse_grammar(text, n, ret, ret_refusal);
    if (r == 0)
        r = read_framing(ret, ret_refusal);
    if (r == 0)
        r = read_connection(ret, ret_refusal);
    return r;
}

/* ---- chunked ----
 * SIZE -> EXT -> SIZE_LF -> DATA -> DATA_CR -> DATA_LF -> SIZE ...; size 0: SIZE_LF -> LINE
 * LINE: at the start of a trailer or of the final empty line; TRAILER -> TRAILER_LF -> LINE; END_LF -> done */
enum { SIZE, EXT, SIZE_LF, DATA, DATA_CR, DATA_LF, LINE, TRAILER, TRAILER_LF, END_LF };

static int size_byte(struct http_chunked *chunked, char c)
{
    int digit = text_hex_digit(c);

    if (++chunked->line > HTTP_CHUNK_LINE_MAX)
        return -E_PROTO;
    if (chunked->state == SIZE && digit >= 0) {
        if (++chunked->digits > 15) /* 60 bits: left cannot overflow */
            return -E_PROTO;
        chunked->left = chunked->left << 4 | (uint64_t)digit;
        return 0;
    }
    if (chunked->digits == 0)
        return -E_PROTO;
    if (c == '\r')
        chunked->state = SIZE_LF;
    else if (chunked->state == SIZE && c == ';')
        chunked->state = EXT;
    else if (chunked->state == SIZE || (c < ' ' && c != '\t') || c == 0x7f)
        return -E_PROTO;
    return 0;
}

static int trailer_byte(struct http_chunked *chunked, char c)
{
    if (++chunked->trailers > HTTP_TRAILERS_MAX)
        return -E_PROTO;
    if (chunked->state == LINE) {
        if (c != '\r' && !token_char((unsigned char)c))
            return -E_PROTO;
        chunked->state = c == '\r' ? END_LF : TRAILER;
        return 0;
    }
    if (c == '\r')
        chunked->state = TRAILER_LF;
    else if ((c < ' ' && c > 0 && c != '\t') || c == 0 || c == 0x7f)
        return -E_PROTO;
    return 0;
}

static int newline_byte(struct http_chunked *chunked, char c)
{
    if (c != '\n')
        return -E_PROTO;
    switch (chunked->state) {
    case SIZE_LF:
        chunked->state = chunked->left > 0 ? DATA : LINE;
        break;
    case DATA_LF:
        chunked->state = SIZE;
        chunked->line = chunked->digits = 0;
        break;
    case TRAILER_LF:
        chunked->state = LINE;
        break;
    default:
        chunked->done = true;
    }
    return 0;
}

static int framing_byte(struct http_chunked *chunked, char c)
{
    switch (chunked->state) {
    case SIZE:
    case EXT:
        return size_byte(chunked, c);
    case DATA_CR:
        chunked->state = DATA_LF;
        return c == '\r' ? 0 : -E_PROTO;
    case LINE:
    case TRAILER:
        return trailer_byte(chunked, c);
    default:
        return newline_byte(chunked, c);
    }
}

int http_chunked_feed(struct http_chunked *chunked, const char *in, size_t n, size_t *ret_used, const char **ret_data,
                      size_t *ret_data_len)
{
    size_t at = 0;

    *ret_data = NULL;
    *ret_data_len = 0;
    while (at < n && !chunked->done) {
        if (chunked->state == DATA) {
            size_t len = MIN(chunked->left, (uint64_t)(n - at));
            *ret_data = in + at;
            *ret_data_len = len;
            at += len;
            chunked->left -= len;
            if (chunked->left == 0)
                chunked->state = DATA_CR;
            break;
        }
        int r = framing_byte(chunked, in[at]);
        if (r < 0)
            return r;
        at++;
    }
    *ret_used = at;
    return 0;
}

static const struct {
    int status;
    const char *text;
} statuses[] = {
    {200, "OK"}, {201, "Created"}, {204, "No Content"}, {206, "Partial Content"}, {304, "Not Modified"},
    {307, "Temporary Redirect"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"},
    {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"}, {411, "Length Required"},
    {412, "Precondition Failed"}, {413, "Content Too Large"}, {414, "URI Too Long"}, {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"}, {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"},
    {501, "Not Implemented"}, {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
};

const char *http_status_text(int status)
{
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
        if (statuses[i].status == status)
            return statuses[i].text;
    return "Status";
}
