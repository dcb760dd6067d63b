/* S3's own failures, on top of err.def's. A function that may fail in S3's words takes a struct s3_fault,
 * fills it in and returns the negative err code that goes with it. Pure. */
#ifndef TARN_GATEWAY_S3ERROR_H
#define TARN_GATEWAY_S3ERROR_H

#include "common/base.h"

enum s3_code {
    S3_NONE, /* not an S3 failure: the err code says it all */
#define S3E(name, code, http, err, message) S3_##name,
#include "s3error.def"
#undef S3E
    S3_CODES
};
struct s3_fault {
    enum s3_code code;
    char message[256]; /* empty = the table's */
};
/* Returns the negative err code of the row. fmt NULL: the table's message. */
int s3_fail(struct s3_fault *fault, enum s3_code code, const char *fmt, ...) _printf_(3, 4);
/* What a response says; `err` decides when fault->code is S3_NONE. */
const char *s3_fault_code(const struct s3_fault *fault, int err);
const char *s3_fault_message(const struct s3_fault *fault, int err);
int s3_fault_http(const struct s3_fault *fault, int err);

#endif
