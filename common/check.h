/* Checks for our own mistakes: on in production, ignore NDEBUG, end the process with a report.
 * Never used on bytes from disk, peers or users. */
#ifndef TARN_COMMON_CHECK_H
#define TARN_COMMON_CHECK_H
#include "base.h"
_Noreturn void check_failed(const char *expr, const char *file, int line, const char *func);
#define CHECK(expr)                                                                                \
    do {                                                                                           \
        if (__builtin_expect(!(expr), 0))                                                          \
            check_failed(#expr, __FILE__, __LINE__, __func__);                                     \
    } while (0)
/* Structs carry a magic as first use: CHECK_MAGIC(p, FOO_MAGIC). */
#define CHECK_MAGIC(p, m) CHECK((p) != NULL && (p)->magic == (m))
#endif
