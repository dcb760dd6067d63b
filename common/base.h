/* What every file needs: fixed-width integers, container_of, cleanup attributes, arithmetic that
 * reports overflow. No functions with state, nothing that belongs to one module. */
#ifndef TARN_COMMON_BASE_H
#define TARN_COMMON_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define MIN(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) min_a_ = (a);                                                                \
        __typeof__(b) min_b_ = (b);                                                                \
        min_a_ < min_b_ ? min_a_ : min_b_;                                                         \
    })
#define MAX(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) max_a_ = (a);                                                                \
        __typeof__(b) max_b_ = (b);                                                                \
        max_a_ > max_b_ ? max_a_ : max_b_;                                                         \
    })

/* True (and *ret unchanged in meaning) when the sum or product does not fit. */
#define add_overflows(a, b, ret) __builtin_add_overflow((a), (b), (ret))
#define mul_overflows(a, b, ret) __builtin_mul_overflow((a), (b), (ret))

/* Frees at the end of the scope: `_cleanup_(freep) char *name = NULL;` */
#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _unused_ __attribute__((unused))

static inline void freep(void *p)
{
    void *mem;
    memcpy(&mem, p, sizeof mem);
    free(mem);
}
#define _cleanup_free_ _cleanup_(freep)

/* Gives the pointer away: the variable is NULL afterwards, its cleanup does nothing. */
#define take_ptr(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) *take_p_ = &(p);                                                             \
        __typeof__(p) take_v_ = *take_p_;                                                          \
        *take_p_ = NULL;                                                                           \
        take_v_;                                                                                   \
    })

static inline uint64_t round_up_u64(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

#endif
