#include "uri.h"
#include "common/err.h"
#include "text.h"

int uri_decode(const char *text, size_t n, bool plus, char *out, size_t *ret_len)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (c == '%') {
            if (n - i < 3 || text_hex_digit(text[i + 1]) < 0 || text_hex_digit(text[i + 2]) < 0)
                return -E_INVAL;
            c = (char)(text_hex_digit(text[i + 1]) << 4 | text_hex_digit(text[i + 2]));
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c == 0)
            return -E_INVAL;
        out[len++] = c;
    }
    out[len] = 0;
    if (ret_len != NULL)
        *ret_len = len;
    return 0;
}

static bool unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

void uri_encode(struct writer *out, const char *text, size_t n, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];

        if (unreserved(c) || (c == '/' && keep_slash)) {
            writer_u8(out, c);
        } else {
            const char escape[3] = {'%', digits[c >> 4], digits[c & 15]};
            writer_bytes(out, escape, 3);
        }
    }
}

int uri_query_parse(const char *query, struct uri_query *ret)
{
    size_t n = strlen(query), used = 0, count = 0;
    /* Decoding only shrinks; each parameter adds at most two NULs and had a '&' or an end. */
    _cleanup_free_ char *store = malloc(n + 2 * URI_PARAMS_MAX);

    if (store == NULL)
        return -E_NOMEM;
    memset(ret, 0, sizeof *ret);
    for (const char *at = query; *at != 0;) {
        size_t len = strcspn(at, "&"), decoded;
        const char *equals = memchr(at, '=', len);
        size_t name_len = equals == NULL ? len : (size_t)(equals - at);

        if (len > 0) {
            if (count == URI_PARAMS_MAX)
                return -E_INVAL;
            struct uri_param *param = &ret->params[count++];
            param->name = store + used;
            if (uri_decode(at, name_len, true, store + used, &decoded) < 0)
                return -E_INVAL;
            used += decoded + 1;
            param->value = store + used;
            size_t value_len = equals == NULL ? 0 : len - name_len - 1;
            if (uri_decode(at + len - value_len, value_len, true, store + used, &decoded) < 0)
                return -E_INVAL;
            used += decoded + 1;
        }
        at += len + (at[len] == '&');
    }
    ret->count = count;
    ret->store = take_ptr(store);
    return 0;
}

void uri_query_fini(struct uri_query *query)
{
    free(query->store);
    memset(query, 0, sizeof *query);
}

const char *uri_query_get(const struct uri_query *query, const char *name)
{
    for (size_t i = 0; i < query->count; i++)
        if (strcmp(query->params[i].name, name) == 0)
            return query->params[i].value;
    return NULL;
}
