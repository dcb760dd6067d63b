/* What a fuzzer gives: one function that takes any bytes and returns 0. It must not keep state
 * between calls; a finding is a sanitizer's report or a failed CHECK. */
#ifndef TARN_TESTS_FUZZ_H
#define TARN_TESTS_FUZZ_H

#include "common/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
