#include "condition.h"
#include "text.h"
#include "common/err.h"

#include <ctype.h>
#include <strings.h>

/* Digits up to something else. False when there is none or it is too large. */
static bool take_number(const char **at, uint64_t *ret)
{
    uint64_t n = 0;

    if (!isdigit((unsigned char)**at))
        return false;
    for (; isdigit((unsigned char)**at); (*at)++)
        if (mul_overflows(n, (uint64_t)10, &n) || add_overflows(n, (uint64_t)(**at - '0'), &n))
            return false;
    *ret = n;
    return true;
}

static int range_suffix(const char *at, uint64_t size, struct range *ret)
{
    uint64_t n;

    if (!take_number(&at, &n) || *at != 0)
        return 0;
    if (n == 0 || size == 0)
        return -E_RANGE;
    ret->length = MIN(n, size);
    ret->offset = size - ret->length;
    ret->partial = true;
    return 0;
}

int range_parse(const char *value, uint64_t size, struct range *ret)
{
    uint64_t first, last = UINT64_MAX;

    *ret = (struct range){0, size, false};
    if (value == NULL || strncasecmp(value, "bytes=", 6) != 0)
        return 0;
    const char *at = value + 6 + strspn(value + 6, " ");
    if (*at == '-')
        return range_suffix(at + 1, size, ret);
    if (!take_number(&at, &first) || *at++ != '-')
        return 0;
    if (*at != 0 && (!take_number(&at, &last) || *at != 0 || last < first))
        return 0;
    if (first >= size)
        return -E_RANGE;
    last = MIN(last, size - 1);
    *ret = (struct range){first, last - first + 1, true};
    return 0;
}

/* Whether the list of entity tags (or "*") names `etag`; weak prefixes and missing quotes are tolerated. */
static bool names_etag(const char *list, const char *etag)
{
    size_t len = strlen(etag);

    while (*list != 0) {
        list += strspn(list, " \t,");
        size_t n = strcspn(list, ",");
        size_t next = n;
        const char *at = list;
        while (n > 0 && (at[n - 1] == ' ' || at[n - 1] == '\t'))
            n--;
        if (n == 1 && *at == '*')
            return true;
        if (n > 2 && memcmp(at, "W/", 2) == 0)
            at += 2, n -= 2;
        if (n >= 2 && *at == '"' && at[n - 1] == '"')
            at++, n -= 2;
        if (n == len && memcmp(at, etag, n) == 0)
            return true;
        list += next;
    }
    return false;
}

int conditions_check(const struct conditions *c, const char *etag, uint64_t mtime_s, bool reading)
{
    uint64_t date;

    if (c->if_match != NULL) {
        if (!names_etag(c->if_match, etag))
            return 412;
    } else if (c->if_unmodified_since != NULL && text_parse_http_date(c->if_unmodified_since, &date) == 0 &&
               mtime_s > date) {
        return 412;
    }
    if (c->if_none_match != NULL)
        return names_etag(c->if_none_match, etag) ? (reading ? 304 : 412) : 0;
    if (c->if_modified_since != NULL && text_parse_http_date(c->if_modified_since, &date) == 0 && mtime_s <= date)
        return reading ? 304 : 412;
    return 0;
}
