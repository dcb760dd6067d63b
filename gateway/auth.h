/* Who sends a request: Signature Version 4 against the users of the cluster. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_AUTH_H
#define TARN_GATEWAY_AUTH_H

#include "gate.h"
#include "sigv4.h"

struct auth {
    struct sigv4 sigv4;
    struct sigv4_chain chain;
    struct user user;
    struct meta_cred cred; /* of user */
};
/* Errors with *fault filled in: sigv4_parse()'s and sigv4_verify()'s, InvalidAccessKeyId; and meta_call()'s.
 * When sigv4.body_first is set after auth_parse(), sigv4_take_body() comes before auth_verify(). */
int auth_parse(const struct http_request *request, const struct uri_query *query, struct auth *ret, struct s3_fault *fault);
int auth_verify(struct gate *gate, const struct http_request *request, const struct uri_query *query, struct auth *auth,
                struct s3_fault *fault);

#endif
