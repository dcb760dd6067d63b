#include "s3_target.h"
#include "text.h"
#include "uri.h"
#include "common/err.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

/* Bytes of the host's bucket part: "b" of "b.domain:port"; 0 when there is none. */
static size_t host_bucket_len(const char *host, const char *domain)
{
    if (domain == NULL || host == NULL)
        return 0;
    size_t n = strcspn(host, ":"), d = strlen(domain);
    if (n < d + 2 || host[n - d - 1] != '.' || strncasecmp(host + n - d, domain, d) != 0)
        return 0;
    return n - d - 1;
}

bool s3_host_has_bucket(const char *host, const char *domain)
{
    return host_bucket_len(host, domain) > 0;
}

static int copy_bucket(const char *at, size_t n, struct s3_target *ret, struct s3_fault *fault)
{
    if (n > KEY_NAME_MAX)
        return s3_fail(fault, S3_INVALID_BUCKET_NAME, NULL);
    memcpy(ret->bucket, at, n);
    ret->bucket[n] = 0;
    if (n > 0 && !s3_bucket_name_usable(ret->bucket))
        return s3_fail(fault, S3_INVALID_BUCKET_NAME, NULL);
    return 0;
}

static int copy_key(const char *at, struct s3_target *ret, struct s3_fault *fault)
{
    if (strlen(at) > KEY_MAX)
        return s3_fail(fault, S3_KEY_TOO_LONG, NULL);
    for (size_t i = 0, n; at[i] != 0; i += n) {
        n = text_utf8_length(at + i);
        if (n == 0)
            return s3_fail(fault, S3_INVALID_URI, "The key is not valid UTF-8");
    }
    strcpy(ret->key, at);
    return 0;
}

int s3_target_parse(const char *host, const char *path, const char *domain, struct s3_target *ret, struct s3_fault *fault)
{
    size_t in_host = host_bucket_len(host, domain);
    _cleanup_free_ char *decoded = malloc(strlen(path) + 1);

    memset(ret, 0, sizeof *ret);
    if (decoded == NULL)
        return -E_NOMEM;
    if (*path != '/' || uri_decode(path, strlen(path), false, decoded, NULL) < 0)
        return s3_fail(fault, S3_INVALID_URI, NULL);
    const char *rest = decoded + 1;
    int r;
    if (in_host > 0) {
        r = copy_bucket(host, in_host, ret, fault);
    } else {
        size_t n = strcspn(rest, "/");
        r = copy_bucket(rest, n, ret, fault);
        if (r == 0 && n == 0 && *rest != 0)
            r = s3_fail(fault, S3_INVALID_BUCKET_NAME, "The bucket name is empty");
        rest += n + (rest[n] == '/');
    }
    return r < 0 ? r : copy_key(rest, ret, fault);
}

bool s3_bucket_name_usable(const char *name)
{
    return *name != 0 && *name != '.' && strchr(name, '/') == NULL && strlen(name) <= KEY_NAME_MAX;
}

bool s3_bucket_name_ok(const char *name)
{
    static const char *const reserved[] = {"v1", "metrics", "healthz", "webhdfs"};
    size_t n = strlen(name), dots = 0, digits = 0;

    if (n < 3 || n > 63 || !isalnum((unsigned char)name[0]) || !isalnum((unsigned char)name[n - 1]) ||
        strstr(name, "..") != NULL)
        return false;
    for (const char *c = name; *c != 0; c++) {
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '.' && *c != '-')
            return false;
        dots += *c == '.';
        digits += isdigit((unsigned char)*c) != 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
        if (strcmp(reserved[i], name) == 0)
            return false;
    return !(dots == 3 && digits + dots == n);
}
