/* Error codes: every function that can fail returns 0 or a negative code -E_NAME. The table is
 * err.def; this is the only translation to errno, HTTP, S3 and sentences. Thread-safe, no state. */
#ifndef TARN_COMMON_ERR_H
#define TARN_COMMON_ERR_H

enum err {
#define ERR(name, wire, errno_, http, s3, retry, sentence) E_##name = wire,
#include "err.def"
#undef ERR
};

enum err_retry { ERR_RETRY_NEVER, ERR_RETRY_AGAIN, ERR_RETRY_REDIRECT, ERR_RETRY_REFRESH };

/* All take the negative code (0 is success); a code that is not in the table counts as -E_IO. */
int err_to_errno(int err);           /* positive errno; 0 for 0 */
int err_from_errno(int errno_value); /* negative code; takes a positive errno, 0 for 0 */
int err_to_http(int err);
const char *err_to_s3(int err);
enum err_retry err_retry(int err);
const char *err_name(int err);     /* "NOENT", "OK" */
const char *err_sentence(int err); /* "no such file or directory" */
int err_from_wire(unsigned wire);  /* 0 or negative code; unknown numbers become -E_PROTO */
unsigned err_to_wire(int err);

#endif
