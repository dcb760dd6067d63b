/* Golden files: formats frozen as bytes. Lines `name = hex digits`, which may go on in lines that
 * start with a blank; '#' starts a comment. Read-only: a difference is a change of the format. */
#ifndef TARN_TESTS_GOLDEN_H
#define TARN_TESTS_GOLDEN_H

#include "common/base.h"

/* Reads the bytes of `name` from the file; fails the running test when it is not there, is not hex
 * or does not fit. Returns the number of bytes. */
size_t golden_read(const char *path, const char *name, uint8_t *out, size_t size);

#endif
