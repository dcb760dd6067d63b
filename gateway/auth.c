#include "auth.h"
#include "common/err.h"

int auth_parse(const struct http_request *request, const struct uri_query *query, struct auth *ret, struct s3_fault *fault)
{
    memset(ret, 0, sizeof *ret);
    return sigv4_parse(&request->head, query, &ret->sigv4, fault);
}

int auth_verify(struct gate *gate, const struct http_request *request, const struct uri_query *query, struct auth *auth,
                struct s3_fault *fault)
{
    int r = users_get(gate->users, auth->sigv4.access_key, &auth->user);
    if (r == -E_AUTH)
        return s3_fail(fault, S3_INVALID_ACCESS_KEY, NULL);
    if (r < 0)
        return r;
    auth->cred = (struct meta_cred){.uid = auth->user.uid, .gid = auth->user.gid};
    return sigv4_verify(&auth->sigv4, &request->head, query, auth->user.secret, io_real_ns(gate->io) / 1000000000,
                        &auth->chain, fault);
}
