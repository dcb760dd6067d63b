/* cmocka with what it wants included before it, and base.h. Every unit test includes this one. */
#ifndef TARN_TESTS_UNIT_CMOCKA_H
#define TARN_TESTS_UNIT_CMOCKA_H

#include "common/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#endif
