/* Makes the n-th allocation of the process fail, wherever it is made, libraries included: malloc() and its
 * relatives are interposed. Not with the address sanitizer, which has its own. Threads: one. */
#ifndef TARN_TESTS_SWEEP_FAIL_ALLOC_H
#define TARN_TESTS_SWEEP_FAIL_ALLOC_H

#include "common/base.h"

/* From now on the n-th allocation (1 = the next) gives NULL, once. */
void fail_alloc_arm(uint64_t n);
bool fail_alloc_disarm(void); /* true when it was reached */
uint64_t fail_alloc_live(void); /* pieces of memory in use */

#endif
