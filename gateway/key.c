#include "key.h"
#include "common/check.h"
#include "common/err.h"

struct spelling {
    char *out;
    size_t len;
    bool full; /* the name last written fills its 255 bytes, so "%c…" behind it would continue it */
};

/* Whether a name means something else than itself, or would but for one more "25" behind its '%':
 * "%", any number of "25", then e, d, dd, self, or a continuation where one is possible. */
static bool special(const char *name, size_t n, bool after_full)
{
    static const char *const words[] = {"e", "d", "dd", "self"};

    if (n == 0 || *name != '%')
        return false;
    for (name++, n--; n >= 2 && memcmp(name, "25", 2) == 0; n -= 2)
        name += 2;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strlen(words[i]) == n && memcmp(words[i], name, n) == 0)
            return true;
    return after_full && n > 1 && *name == 'c';
}

static void put(struct spelling *to, const char *text, size_t n)
{
    CHECK(to->len + n < KEY_PATH_MAX);
    memcpy(to->out + to->len, text, n);
    to->len += n;
}

/* Names of at most 255 bytes: the first as it is, those that continue it behind "%c". */
static void put_pieces(struct spelling *to, const char *text, size_t n)
{
    size_t piece = MIN(n, (size_t)KEY_NAME_MAX);

    put(to, text, piece);
    to->full = piece == KEY_NAME_MAX;
    for (text += piece, n -= piece; n > 0; text += piece, n -= piece) {
        piece = MIN(n, (size_t)KEY_NAME_MAX - 2);
        put(to, "/%c", 3);
        put(to, text, piece);
        to->full = piece == KEY_NAME_MAX - 2;
    }
}

static void put_component(struct spelling *to, const char *text, size_t n)
{
    char escaped[KEY_MAX + 2];

    if (n == 0) {
        put_pieces(to, "%e", 2);
    } else if (n <= 2 && memcmp(text, "..", n) == 0) {
        put_pieces(to, "%dd", n + 1);
    } else if (special(text, n, to->full)) {
        memcpy(escaped, "%25", 3);
        memcpy(escaped + 3, text + 1, n - 1);
        put_pieces(to, escaped, n + 2);
    } else {
        put_pieces(to, text, n);
    }
}

/* Writes the components that a slash follows; returns the rest behind the last slash. */
static const char *put_complete(struct spelling *to, const char *key)
{
    for (const char *slash; (slash = strchr(key, '/')) != NULL; key = slash + 1) {
        put_component(to, key, (size_t)(slash - key));
        put(to, "/", 1);
    }
    return key;
}

int key_to_path(const char *key, char out[KEY_PATH_MAX])
{
    struct spelling to = {.out = out};
    size_t n = strlen(key);

    if (n == 0)
        return -E_INVAL;
    if (n > KEY_MAX)
        return -E_NAMETOOLONG;
    const char *last = put_complete(&to, key);
    put_component(&to, last, strlen(last));
    out[to.len] = 0;
    return 0;
}

int key_prefix_to_path(const char *prefix, char out[KEY_PATH_MAX])
{
    struct spelling to = {.out = out};

    if (strlen(prefix) > KEY_MAX)
        return -E_NAMETOOLONG;
    const char *last = put_complete(&to, prefix);
    if (*last == '%')
        put(&to, "%", 1); /* what follows may or may not need an escape; the '%' stays */
    else if (strcmp(last, ".") != 0 && strcmp(last, "..") != 0)
        put_pieces(&to, last, strlen(last));
    out[to.len] = 0;
    return 0;
}

/* Undoes the escape of the component at out[0, n); returns its length. */
static size_t unescape(char *out, size_t n, bool after_full)
{
    if (n == 2 && memcmp(out, "%e", 2) == 0)
        return 0;
    if ((n == 2 && memcmp(out, "%d", 2) == 0) || (n == 3 && memcmp(out, "%dd", 3) == 0)) {
        memset(out, '.', n - 1);
        return n - 1;
    }
    if (n > 3 && memcmp(out, "%25", 3) == 0 && special(out, n, after_full)) {
        memmove(out + 1, out + 3, n - 3);
        return n - 2;
    }
    return n;
}

void key_from_path(const char *path, char *out)
{
    size_t start = 0, len = 0; /* of the component being put together, of all */
    bool full = false, before_full = false;

    for (const char *at = path; *at != 0;) {
        size_t n = strcspn(at, "/");
        bool continues = full && n > 2 && memcmp(at, "%c", 2) == 0;

        if (continues) {
            memcpy(out + len, at + 2, n - 2);
            len += n - 2;
        } else {
            if (at != path) {
                len = start + unescape(out + start, len - start, before_full);
                out[len++] = '/';
            }
            start = len;
            before_full = full;
            memcpy(out + len, at, n);
            len += n;
        }
        full = n == KEY_NAME_MAX;
        at += n + (at[n] == '/');
    }
    len = start + unescape(out + start, len - start, before_full);
    out[len] = 0;
}
