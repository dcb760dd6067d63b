#include "golden.h"

#include "tests/unit/cmocka.h"
#include <ctype.h>
#include <stdio.h>

static size_t append_hex(const char *text, uint8_t *out, size_t at, size_t size)
{
    while (*text != '\0' && *text != '#') {
        unsigned byte;
        if (isspace((unsigned char)*text)) {
            text++;
            continue;
        }
        assert_true(isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1]));
        assert_int_equal(sscanf(text, "%2x", &byte), 1);
        assert_true(at < size);
        out[at++] = (uint8_t)byte;
        text += 2;
    }
    return at;
}

size_t golden_read(const char *path, const char *name, uint8_t *out, size_t size)
{
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    char line[512];
    bool inside = false, found = false;
    size_t n = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (line[0] != ' ') {
            char *value = strstr(line, " = ");
            assert_non_null(value);
            *value = '\0';
            inside = strcmp(line, name) == 0;
            found = found || inside;
            if (inside)
                n = append_hex(value + 3, out, n, size);
        } else if (inside) {
            n = append_hex(line, out, n, size);
        }
    }
    fclose(file);
    assert_true(found);
    return n;
}
