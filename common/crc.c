/* The only file that knows ISA-L's CRC. Its crc32_iscsi() works on the raw register: no inversion
 * before or after, and its length is an int. */
#include "common/crc.h"

#include <isa-l/crc.h>

#define STEP_BYTES_MAX GIB(1) /* fits an int */

uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *at = data;
    uint32_t reg = ~crc;
    while (n > 0) {
        size_t step = MIN(n, (size_t)STEP_BYTES_MAX);
        reg = crc32_iscsi((unsigned char *)at, (int)step, reg);
        at += step;
        n -= step;
    }
    return ~reg;
}
