#include "s3error.h"
#include "common/check.h"
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *code;
    int http, err;
    const char *message;
} rows[S3_CODES] = {
#define S3E(name, code_, http_, err_, message_) [S3_##name] = {code_, http_, -E_##err_, message_},
#include "s3error.def"
#undef S3E
};

int s3_fail(struct s3_fault *fault, enum s3_code code, const char *fmt, ...)
{
    CHECK(code > S3_NONE && code < S3_CODES);
    fault->code = code;
    fault->message[0] = 0;
    if (fmt != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(fault->message, sizeof fault->message, fmt, args);
        va_end(args);
    }
    return rows[code].err;
}

const char *s3_fault_code(const struct s3_fault *fault, int err)
{
    return fault->code == S3_NONE ? err_to_s3(err) : rows[fault->code].code;
}

const char *s3_fault_message(const struct s3_fault *fault, int err)
{
    if (fault->message[0] != 0)
        return fault->message;
    return fault->code == S3_NONE ? err_sentence(err) : rows[fault->code].message;
}

int s3_fault_http(const struct s3_fault *fault, int err)
{
    return fault->code == S3_NONE ? err_to_http(err) : rows[fault->code].http;
}
