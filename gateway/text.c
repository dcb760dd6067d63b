#include "text.h"
#include "common/err.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

void text_add(struct writer *out, const char *text)
{
    writer_bytes(out, text, strlen(text));
}

void text_format(struct writer *out, const char *fmt, ...)
{
    va_list args;
    _cleanup_free_ char *text = NULL;

    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0) {
        text = NULL;
        out->failed = true;
        return;
    }
    writer_bytes(out, text, (size_t)n);
}

const char *text_end(struct writer *out)
{
    writer_u8(out, 0);
    if (out->failed)
        return NULL;
    out->len--;
    return (const char *)out->data;
}

void text_hex(const uint8_t *data, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * n] = 0;
}

int text_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool text_unhex(const char *text, size_t digits, uint8_t *out)
{
    if (strlen(text) != digits || digits % 2 != 0)
        return false;
    for (size_t i = 0; i < digits / 2; i++) {
        int high = text_hex_digit(text[2 * i]), low = text_hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void text_base64(const uint8_t *data, size_t n, char *out)
{
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)data[i] << 16;

        if (left > 1)
            v |= (uint32_t)data[i + 1] << 8;
        if (left > 2)
            v |= data[i + 2];
        *out++ = base64_digits[v >> 18];
        *out++ = base64_digits[v >> 12 & 63];
        *out++ = left > 1 ? base64_digits[v >> 6 & 63] : '=';
        *out++ = left > 2 ? base64_digits[v & 63] : '=';
    }
    *out = 0;
}

int64_t text_unbase64(const char *text, uint8_t *out, size_t max)
{
    size_t len = strlen(text), n = 0;

    if (len % 4 != 0)
        return -E_INVAL;
    for (size_t i = 0; i < len; i += 4) {
        size_t pad = 0;
        uint32_t v = 0;

        if (i + 4 == len)
            pad = (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=');
        for (size_t k = 0; k < 4; k++) {
            const char *digit = k < 4 - pad ? strchr(base64_digits, text[i + k]) : base64_digits;
            if (digit == NULL || *digit == 0)
                return -E_INVAL;
            v = v << 6 | (uint32_t)(digit - base64_digits);
        }
        /* Bits the padding leaves over are zero in the canonical form. */
        if ((pad == 1 && (v & 0xff) != 0) || (pad == 2 && (v & 0xffff) != 0) || n + 3 - pad > max)
            return -E_INVAL;
        for (size_t k = 0; k < 3 - pad; k++)
            out[n++] = (uint8_t)(v >> (16 - 8 * k));
    }
    return (int64_t)n;
}

void text_http_date(uint64_t seconds, char out[TEXT_DATE_SIZE])
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t t = (time_t)seconds;
    struct tm tm;

    if (gmtime_r(&t, &tm) == NULL || tm.tm_year > 8099)
        memset(&tm, 0, sizeof tm);
    size_t n = (size_t)snprintf(out, TEXT_DATE_SIZE, "%.3s, ", days[tm.tm_wday]);
    n += strftime(out + n, TEXT_DATE_SIZE - n, "%d ", &tm);
    n += (size_t)snprintf(out + n, TEXT_DATE_SIZE - n, "%.3s", months[tm.tm_mon]);
    strftime(out + n, TEXT_DATE_SIZE - n, " %Y %H:%M:%S GMT", &tm);
}

void text_iso_date(uint64_t real_ns, char out[TEXT_DATE_SIZE])
{
    time_t t = (time_t)(real_ns / 1000000000);
    struct tm tm;

    if (gmtime_r(&t, &tm) == NULL || tm.tm_year > 8099)
        memset(&tm, 0, sizeof tm);
    size_t n = strftime(out, TEXT_DATE_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, TEXT_DATE_SIZE - n, ".%03uZ", (unsigned)(real_ns / 1000000 % 1000));
}

static int parse_date(const char *text, const char *format, uint64_t *ret_seconds)
{
    struct tm tm;

    memset(&tm, 0, sizeof tm);
    const char *end = strptime(text, format, &tm);
    if (end == NULL || *end != 0)
        return -E_INVAL;
    time_t t = timegm(&tm);
    if (t < 0)
        return -E_INVAL;
    *ret_seconds = (uint64_t)t;
    return 0;
}

int text_parse_http_date(const char *text, uint64_t *ret_seconds)
{
    static const char *const formats[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT",
                                          "%a %b %d %H:%M:%S %Y"};

    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (parse_date(text, formats[i], ret_seconds) == 0)
            return 0;
    return -E_INVAL;
}

int text_parse_amz_date(const char *text, uint64_t *ret_seconds)
{
    if (strlen(text) != 16)
        return -E_INVAL;
    for (size_t i = 0; i < 16; i++)
        if (i == 8 ? text[i] != 'T' : i == 15 ? text[i] != 'Z' : !isdigit((unsigned char)text[i]))
            return -E_INVAL;
    return parse_date(text, "%Y%m%dT%H%M%SZ", ret_seconds);
}

int text_parse_u64(const char *text, uint64_t *ret)
{
    uint64_t n = 0;

    if (*text == 0)
        return -E_INVAL;
    for (; *text != 0; text++) {
        if (*text < '0' || *text > '9' || mul_overflows(n, (uint64_t)10, &n) ||
            add_overflows(n, (uint64_t)(*text - '0'), &n))
            return -E_INVAL;
    }
    *ret = n;
    return 0;
}

size_t text_utf8_length(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    size_t n = *c < 0x80 ? 1 : *c >= 0xc2 && *c < 0xe0 ? 2 : *c >= 0xe0 && *c < 0xf0 ? 3 : *c >= 0xf0 && *c < 0xf5 ? 4 : 0;

    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    if ((*c == 0xe0 && c[1] < 0xa0) || (*c == 0xed && c[1] > 0x9f) || (*c == 0xf0 && c[1] < 0x90) ||
        (*c == 0xf4 && c[1] > 0x8f))
        return 0; /* overlong, surrogate, past U+10FFFF */
    return n;
}
