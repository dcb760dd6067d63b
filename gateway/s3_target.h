/* Which bucket and key a request names: "/BUCKET/KEY", or KEY at the host BUCKET.DOMAIN. Pure. */
#ifndef TARN_GATEWAY_S3_TARGET_H
#define TARN_GATEWAY_S3_TARGET_H

#include "key.h"
#include "s3error.h"

struct s3_target {
    char bucket[KEY_NAME_MAX + 1], key[KEY_MAX + 1];
};
/* path is as sent (still percent-encoded). domain NULL: path style only. Errors: InvalidURI, InvalidBucketName,
 * KeyTooLongError. */
int s3_target_parse(const char *host, const char *path, const char *domain, struct s3_target *ret, struct s3_fault *fault);
/* Whether the host names a bucket by itself. */
bool s3_host_has_bucket(const char *host, const char *domain);
/* The rules for new buckets: 3 to 63 of a-z 0-9 . -, beginning and ending in a letter or digit, no "..", not an
 * address, none of our own first path components. */
bool s3_bucket_name_ok(const char *name);
/* What may be asked for: any directory of the root a mount could have made, but no hidden one. */
bool s3_bucket_name_usable(const char *name);

#endif
