#include "common/err.h"

#include "common/base.h"
#include <errno.h>

struct row {
    unsigned wire;
    int errno_value;
    int http;
    const char *s3;
    enum err_retry retry;
    const char *name;
    const char *sentence;
};

#define NEVER ERR_RETRY_NEVER
#define AGAIN ERR_RETRY_AGAIN
#define REDIRECT ERR_RETRY_REDIRECT
#define REFRESH ERR_RETRY_REFRESH
static const struct row rows[] = {
#define ERR(name, wire, errno_, http, s3, retry, sentence)                                         \
    {wire, errno_, http, s3, retry, #name, sentence},
#include "err.def"
#undef ERR
};
#undef NEVER
#undef AGAIN
#undef REDIRECT
#undef REFRESH

static const struct row success = {0, 0, 200, "OK", ERR_RETRY_NEVER, "OK", "success"};

/* What the kernel says and the table does not spell that way. Comes before the table, because
 * several rows share EIO. */
static const struct {
    int errno_value;
    int err;
} extra[] = {
    {EIO, -E_IO},
    {ECONNREFUSED, -E_CONN},
    {ECONNRESET, -E_CONN},
    {ECONNABORTED, -E_CONN},
    {EPIPE, -E_CONN},
    {ENOTCONN, -E_CONN},
    {EHOSTUNREACH, -E_CONN},
    {ENETUNREACH, -E_CONN},
    {ENETDOWN, -E_CONN},
    {EHOSTDOWN, -E_CONN},
    {ETIME, -E_TIMEOUT},
    {EMFILE, -E_BUSY},
    {ENFILE, -E_BUSY},
    {ETXTBSY, -E_BUSY},
    {ENOBUFS, -E_NOMEM},
    {EROFS, -E_PERM},
    {ENOSYS, -E_NOTSUP},
    {EXDEV, -E_NOTSUP},
    {EBADMSG, -E_CORRUPT},
    {EOVERFLOW, -E_FBIG},
    {EFAULT, -E_INVAL},
};

static const struct row *find(int err)
{
    if (err == 0)
        return &success;
    const struct row *io = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].wire == 0u - (unsigned)err)
            return &rows[i];
        if (rows[i].wire == E_IO)
            io = &rows[i];
    }
    return io;
}

int err_to_errno(int err)
{
    return find(err)->errno_value;
}

int err_from_errno(int errno_value)
{
    if (errno_value == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(extra); i++) {
        if (extra[i].errno_value == errno_value)
            return extra[i].err;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].errno_value == errno_value)
            return -(int)rows[i].wire;
    }
    return -E_IO;
}

int err_to_http(int err)
{
    return find(err)->http;
}

const char *err_to_s3(int err)
{
    return find(err)->s3;
}

enum err_retry err_retry(int err)
{
    return find(err)->retry;
}

const char *err_name(int err)
{
    return find(err)->name;
}

const char *err_sentence(int err)
{
    return find(err)->sentence;
}

int err_from_wire(unsigned wire)
{
    if (wire == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].wire == wire)
            return -(int)wire;
    }
    return -E_PROTO;
}

unsigned err_to_wire(int err)
{
    return find(err)->wire;
}
