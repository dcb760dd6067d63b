/* XML as S3 speaks it: written into a growing text, read by a bounded visitor. expat is in s3xml.c only. Pure. */
#ifndef TARN_GATEWAY_S3XML_H
#define TARN_GATEWAY_S3XML_H

#include "common/base.h"
#include "common/bytes.h"

#define XML_S3_NAMESPACE "http://s3.amazonaws.com/doc/2006-03-01/"

void xml_begin(struct writer *out, const char *root); /* declaration and root with S3's namespace */
void xml_open(struct writer *out, const char *tag);
void xml_close(struct writer *out, const char *tag);
/* <tag>text</tag>, escaped. Bytes that are no UTF-8 become U+FFFD; control characters become references
 * (as S3 itself does it: clients that want them whole ask for encoding-type=url). */
void xml_text(struct writer *out, const char *tag, const char *text);
void xml_number(struct writer *out, const char *tag, uint64_t number);
void xml_bool(struct writer *out, const char *tag, bool value);

#define XML_DEPTH_MAX 8
#define XML_TEXT_MAX KIB(8)
/* Called at the end of each element: its path "/Delete/Object/Key" (prefixes of names dropped) and its own
 * text. A non-zero return ends the parsing and is returned. */
typedef int (*xml_visit_fn)(void *arg, const char *path, const char *text);
/* Errors: -E_PROTO not well-formed, too deep, text over XML_TEXT_MAX, a document type (entities), or a root
 * other than `root`; -E_NOMEM. */
int xml_parse(const char *text, size_t n, const char *root, xml_visit_fn visit, void *arg);

#endif
