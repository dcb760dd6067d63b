/* CRC32C (Castagnoli) and the cells data is checksummed in. Pure. */
#ifndef TARN_COMMON_CRC_H
#define TARN_COMMON_CRC_H
#include "base.h"
#define CELL_BYTES KIB(64)
/* crc of the empty string is 0; chain by passing the previous result. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);
#endif
