/* Ranges and preconditions of a GET, HEAD or copy. Pure. Source: RFC 9110 sections 13 and 14. */
#ifndef TARN_GATEWAY_CONDITION_H
#define TARN_GATEWAY_CONDITION_H

#include "common/base.h"

struct range {
    uint64_t offset, length;
    bool partial; /* false: the whole object, answer 200 */
};
/* value NULL, another unit, several ranges or nonsense: the whole object (a Range may be ignored).
 * -E_RANGE when no byte of it is there: answer 416. */
int range_parse(const char *value, uint64_t size, struct range *ret);

struct conditions {
    const char *if_match, *if_none_match, *if_modified_since, *if_unmodified_since; /* NULL = not given */
};
/* etag without quotes. 0 to go on, 304 (only when `reading`) or 412 to answer at once. */
int conditions_check(const struct conditions *conditions, const char *etag, uint64_t mtime_s, bool reading);

#endif
