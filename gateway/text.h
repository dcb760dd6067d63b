/* Small text needs of HTTP and S3: appending to a writer, hexadecimal, base64, HTTP and ISO dates.
 * Pure; dates are seconds since 1970-01-01 UTC. */
#ifndef TARN_GATEWAY_TEXT_H
#define TARN_GATEWAY_TEXT_H

#include "common/base.h"
#include "common/bytes.h"

void text_add(struct writer *out, const char *text);
void text_format(struct writer *out, const char *fmt, ...) _printf_(2, 3);
/* Ends the text with a NUL that does not count. Returns it, or NULL when the writer has failed. */
const char *text_end(struct writer *out);

void text_hex(const uint8_t *data, size_t n, char *out); /* 2n digits and a NUL */
int text_hex_digit(char c); /* 0..15, -1 when it is none */
bool text_unhex(const char *text, size_t digits, uint8_t *out); /* exactly `digits` digits, either case */

#define TEXT_BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1)
void text_base64(const uint8_t *data, size_t n, char *out); /* TEXT_BASE64_SIZE(n) bytes */
/* The number of bytes, at most `max`; -E_INVAL for anything but canonical base64 with padding. */
int64_t text_unbase64(const char *text, uint8_t *out, size_t max);

#define TEXT_DATE_SIZE 40
void text_http_date(uint64_t seconds, char out[TEXT_DATE_SIZE]); /* "Sun, 06 Nov 1994 08:49:37 GMT" */
void text_iso_date(uint64_t real_ns, char out[TEXT_DATE_SIZE]);  /* "2026-11-21T10:46:00.000Z" */
/* The three forms of RFC 9110 5.6.7. -E_INVAL when it is none. */
int text_parse_http_date(const char *text, uint64_t *ret_seconds);
int text_parse_amz_date(const char *text, uint64_t *ret_seconds); /* "20130524T000000Z" */
/* Decimal digits only, no sign. -E_INVAL when empty, anything else is there or it does not fit. */
int text_parse_u64(const char *text, uint64_t *ret);
/* Bytes of the UTF-8 character that begins a NUL-terminated text (RFC 3629); 0 when none does. */
size_t text_utf8_length(const char *text);

#endif
