/* Percent escapes and query strings. Pure. Source: RFC 3986; in queries '+' is a space. */
#ifndef TARN_GATEWAY_URI_H
#define TARN_GATEWAY_URI_H

#include "common/base.h"
#include "common/bytes.h"

/* Decodes n bytes into out (n + 1 bytes, NUL-terminated). -E_INVAL for a broken escape and for %00:
 * nothing we name can hold a NUL. */
int uri_decode(const char *text, size_t n, bool plus, char *out, size_t *ret_len);
/* Everything but A-Z a-z 0-9 - . _ ~ becomes %XX; '/' stays when keep_slash. */
void uri_encode(struct writer *out, const char *text, size_t n, bool keep_slash);

#define URI_PARAMS_MAX 64
struct uri_param {
    const char *name, *value; /* decoded; value "" when there is no '=' */
};
struct uri_query {
    struct uri_param params[URI_PARAMS_MAX];
    size_t count;
    char *store; /* what the params point into */
};
/* Errors: -E_INVAL broken escape or more than URI_PARAMS_MAX parameters; -E_NOMEM. Then nothing to free. */
int uri_query_parse(const char *query, struct uri_query *ret);
void uri_query_fini(struct uri_query *query);
/* The first value, NULL when the parameter is not there. */
const char *uri_query_get(const struct uri_query *query, const char *name);

#endif
