#include "s3xml.h"
#include "text.h"
#include "common/err.h"

#include <expat.h>

#define PATH_BYTES_MAX 256

/* ---- writing ---- */

void xml_begin(struct writer *out, const char *root)
{
    text_format(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<%s xmlns=\"%s\">", root, XML_S3_NAMESPACE);
}

void xml_open(struct writer *out, const char *tag)
{
    text_format(out, "<%s>", tag);
}

void xml_close(struct writer *out, const char *tag)
{
    text_format(out, "</%s>", tag);
}

static void add_escaped(struct writer *out, const char *text)
{
    for (const char *c = text; *c != 0;) {
        size_t n = text_utf8_length(c);

        if (n == 0 || memcmp(c, "\xef\xbf\xbe", n) == 0 || memcmp(c, "\xef\xbf\xbf", n) == 0) {
            text_add(out, "\xef\xbf\xbd");
            n = n == 0 ? 1 : n;
        } else if (*c == '&') {
            text_add(out, "&amp;");
        } else if (*c == '<') {
            text_add(out, "&lt;");
        } else if (*c == '>') {
            text_add(out, "&gt;");
        } else if (*c == '"') {
            text_add(out, "&quot;");
        } else if ((unsigned char)*c < ' ' || *c == 0x7f) {
            text_format(out, "&#x%x;", *c);
        } else {
            writer_bytes(out, c, n);
        }
        c += n;
    }
}

void xml_text(struct writer *out, const char *tag, const char *text)
{
    xml_open(out, tag);
    add_escaped(out, text);
    xml_close(out, tag);
}

void xml_number(struct writer *out, const char *tag, uint64_t number)
{
    text_format(out, "<%s>%llu</%s>", tag, (unsigned long long)number, tag);
}

void xml_bool(struct writer *out, const char *tag, bool value)
{
    xml_text(out, tag, value ? "true" : "false");
}

/* ---- reading ---- */

struct visitor {
    XML_Parser parser;
    const char *root;
    xml_visit_fn visit;
    void *arg;
    int err; /* first failure: then the rest is skipped */
    unsigned depth;
    size_t starts[XML_DEPTH_MAX]; /* where each level's name begins in path */
    size_t path_len, text_len;
    char path[PATH_BYTES_MAX];
    char text[XML_TEXT_MAX];
};

static void stop(struct visitor *visitor, int err)
{
    if (visitor->err == 0)
        visitor->err = err;
    XML_StopParser(visitor->parser, XML_FALSE);
}

static void on_start(void *arg, const char *name, const char **attributes)
{
    struct visitor *visitor = arg;
    if (visitor->err != 0)
        return; /* expat still delivers what the same piece of text holds */
    const char *colon = strchr(name, ':');
    const char *local = colon == NULL ? name : colon + 1;
    size_t n = strlen(local);

    if (visitor->depth == XML_DEPTH_MAX || visitor->path_len + n + 2 > PATH_BYTES_MAX ||
        (visitor->depth == 0 && strcmp(local, visitor->root) != 0)) {
        stop(visitor, -E_PROTO);
        return;
    }
    visitor->starts[visitor->depth++] = visitor->path_len;
    visitor->path[visitor->path_len++] = '/';
    memcpy(visitor->path + visitor->path_len, local, n + 1);
    visitor->path_len += n;
    visitor->text_len = 0;
}

static void on_text(void *arg, const char *text, int n)
{
    struct visitor *visitor = arg;

    if (visitor->err != 0)
        return;
    if (visitor->text_len + (size_t)n >= XML_TEXT_MAX) {
        stop(visitor, -E_PROTO);
        return;
    }
    memcpy(visitor->text + visitor->text_len, text, (size_t)n);
    visitor->text_len += (size_t)n;
}

static void on_end(void *arg, const char *name)
{
    struct visitor *visitor = arg;

    if (visitor->err != 0)
        return;
    visitor->text[visitor->text_len] = 0;
    int r = visitor->visit(visitor->arg, visitor->path, visitor->text);
    if (r != 0)
        stop(visitor, r);
    visitor->path_len = visitor->starts[--visitor->depth];
    visitor->path[visitor->path_len] = 0;
    visitor->text_len = 0;
}

static void on_doctype(void *arg, const char *name, const char *system, const char *public, int internal)
{
    stop(arg, -E_PROTO);
}

int xml_parse(const char *text, size_t n, const char *root, xml_visit_fn visit, void *arg)
{
    _cleanup_free_ struct visitor *visitor = calloc(1, sizeof *visitor);
    if (visitor == NULL)
        return -E_NOMEM;
    visitor->parser = XML_ParserCreate(NULL);
    if (visitor->parser == NULL)
        return -E_NOMEM;
    visitor->root = root;
    visitor->visit = visit;
    visitor->arg = arg;
    XML_SetUserData(visitor->parser, visitor);
    XML_SetElementHandler(visitor->parser, on_start, on_end);
    XML_SetCharacterDataHandler(visitor->parser, on_text);
    XML_SetStartDoctypeDeclHandler(visitor->parser, on_doctype);
    enum XML_Status status = n > INT32_MAX ? XML_STATUS_ERROR : XML_Parse(visitor->parser, text, (int)n, 1);
    XML_ParserFree(visitor->parser);
    if (visitor->err != 0)
        return visitor->err;
    return status == XML_STATUS_OK ? 0 : -E_PROTO;
}
