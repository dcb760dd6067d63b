/* Attributes of the metadata service as POSIX has them. Times travel as nanoseconds since 1970 in two's complement, so
 * those before 1970 are kept: years 1677 to 2262. Pure. */
#ifndef TARN_CLIENT_ATTR_H
#define TARN_CLIENT_ATTR_H

#include "meta.pb-c.h"

#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

struct timespec attr_timespec(uint64_t ns);
uint64_t attr_ns(const struct timespec *ts); /* cut to what fits */
void attr_to_stat(const Tarn__Attr *attr, struct stat *ret);

/* relatime: an atime after mtime and ctime is good for so long (mount(8)). */
#define ATTR_RELATIME_NS (24 * 3600 * 1000000000ull)

#endif
