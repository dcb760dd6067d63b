/* What io.h promises, as tests that run unchanged on both implementations. A harness runs each body
 * as the first fiber of a fresh io and stops the io when the body has returned. */
#ifndef TARN_TESTS_IO_SUITE_H
#define TARN_TESTS_IO_SUITE_H

#include "common/err.h"
#include "common/fiber.h"
#include "common/io.h"
#include <stdio.h>

/* cmocka's assertions jump to another stack: inside a fiber a failure ends the program instead. */
#define expect(expr)                                                                               \
    do {                                                                                           \
        if (!(expr)) {                                                                             \
            fprintf(stderr, "%s:%d: expected: %s\n", __FILE__, __LINE__, #expr);                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#define expect_equal(a, b)                                                                         \
    do {                                                                                           \
        long long equal_a_ = (long long)(a), equal_b_ = (long long)(b);                            \
        if (equal_a_ != equal_b_) {                                                                \
            fprintf(stderr, "%s:%d: expected: %s == %s, but %lld != %lld\n", __FILE__, __LINE__, #a, #b, \
                    equal_a_, equal_b_);                                                           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef void (*suite_body)(struct io *io, const char *dir); /* dir: an empty directory */
struct suite_case {
    const char *name;
    suite_body body;
};
extern const struct suite_case io_suite[];
extern const size_t n_io_suite;

#endif
