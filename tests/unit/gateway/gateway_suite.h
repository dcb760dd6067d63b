/* What several tests of the gateway need: cmocka, and a request head from its text. */
#ifndef TARN_TESTS_GATEWAY_SUITE_H
#define TARN_TESTS_GATEWAY_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "gateway/http_parse.h"
#include "common/err.h"

/* The text stays allocated as long as the head is used. */
static inline char *suite_head(const char *text, struct http_head *ret)
{
    struct http_refusal refusal = {0};
    char *copy = strdup(text);

    assert_non_null(copy);
    int r = http_head_parse(copy, strlen(copy), ret, &refusal);
    if (r != 0)
        print_message("refused: %d %s\n", refusal.status, refusal.why);
    assert_int_equal(r, 0);
    return copy;
}

#endif
