#include "common/config.h"

#include "common/err.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define DEFAULT_PATH "/etc/tarn/tarn.conf"
#define FILE_BYTES_MAX KIB(64)
#define LINE_BYTES_MAX 1024
#define MIB_MAX (1u << 20) /* 1 TiB of memory */

static _Thread_local char why[512];

_printf_(1, 2) static const char *sentence(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    return why;
}

/* ---- one function per kind of value: NULL, or what is wrong with it ---- */

static const char *parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || v > max)
        return "it is not a whole number in range";
    *ret = v;
    return NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static const char *parse_key(struct config *config, char *text)
{
    if (strlen(text) != 2 * sizeof config->auth.key)
        return "it must be 64 hexadecimal digits";
    for (size_t i = 0; i < sizeof config->auth.key; i++) {
        int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return "it must be 64 hexadecimal digits";
        config->auth.key[i] = (uint8_t)(hi << 4 | lo);
    }
    return NULL;
}

static const char *parse_cluster_id(struct config *config, char *text)
{
    const char *wrong = parse_u64(text, UINT64_MAX, &config->auth.cluster_id);
    if (wrong == NULL && config->auth.cluster_id == 0)
        return "it must not be 0";
    return wrong;
}

static bool is_tcp(const char *text)
{
    const char *colon = strrchr(text, ':');
    if (strncmp(text, "tcp:", 4) != 0 || colon <= text + 4)
        return false;
    size_t n = strspn(colon + 1, "0123456789");
    return n > 0 && n <= 5 && colon[1 + n] == '\0' && strtoul(colon + 1, NULL, 10) <= UINT16_MAX;
}

const char *config_address_wrong(const char *text)
{
    if (!is_tcp(text) && strncmp(text, "unix:/", 6) != 0)
        return "an address is tcp:HOST:PORT or unix:/PATH";
    return strlen(text) >= 64 ? "an address has at most 63 characters" : NULL;
}

static const char *parse_address(const char *text, char ret[64])
{
    const char *wrong = config_address_wrong(text);
    if (wrong == NULL)
        strcpy(ret, text);
    return wrong;
}

static const char *parse_meta(struct config *config, char *text)
{
    char *save = NULL;
    for (char *word = strtok_r(text, " \t", &save); word != NULL;
         word = strtok_r(NULL, " \t", &save)) {
        if (config->n_meta == CONFIG_META_MAX)
            return "there are at most 5 metadata servers";
        const char *wrong = parse_address(word, config->meta[config->n_meta]);
        if (wrong != NULL)
            return wrong;
        config->n_meta++;
    }
    return config->n_meta % 2 == 1 ? NULL : "name 1, 3 or 5 metadata servers";
}

static const char *parse_gateway(struct config *config, char *text)
{
    text[strcspn(text, " \t")] = '\0';
    return parse_address(text, config->gateway);
}

static const char *parse_node(struct config *config, char *text)
{
    uint64_t node = 0;
    const char *wrong = parse_u64(text, UINT32_MAX, &node);
    config->node = (uint32_t)node;
    return wrong;
}

static const char *parse_verify(struct config *config, char *text)
{
    config->verify_always = strcmp(text, "always") == 0;
    return config->verify_always || strcmp(text, "once") == 0 ? NULL : "it is 'once' or 'always'";
}

static const char *parse_scrub_days(struct config *config, char *text)
{
    uint64_t days = 0;
    const char *wrong = parse_u64(text, 365, &days);
    config->scrub_days = (unsigned)days;
    return wrong == NULL && days == 0 ? "it is 1 to 365" : wrong;
}

static const char *parse_put_code_mib(struct config *config, char *text)
{
    uint64_t mib = 0;
    const char *wrong = parse_u64(text, MIB_MAX, &mib);
    config->put_code_mib = (uint32_t)mib;
    return wrong == NULL && mib == 0 ? "it is at least 1 (MiB)" : wrong;
}

static const char *parse_path(const char *text, char ret[256])
{
    if (text[0] != '/')
        return "it must be an absolute path";
    if (strlen(text) >= 256)
        return "a path has at most 255 characters here";
    strcpy(ret, text);
    return NULL;
}

static const char *parse_topology_script(struct config *config, char *text)
{
    return parse_path(text, config->topology_script);
}

static const char *parse_topology_table(struct config *config, char *text)
{
    return parse_path(text, config->topology_table);
}

static const struct setting {
    const char *name;
    const char *(*parse)(struct config *config, char *text);
    bool required;
} settings[] = {
    {"cluster_id", parse_cluster_id, true}, {"key", parse_key, true},    {"meta", parse_meta, true},
    {"gateway", parse_gateway, false},      {"node", parse_node, false}, {"verify", parse_verify, false},
    {"put_code_mib", parse_put_code_mib, false},
    {"topology_script", parse_topology_script, false}, {"topology_table", parse_topology_table, false},
    {"scrub_days", parse_scrub_days, false},
};

/* ---- lines ---- */

static char *trim(char *text)
{
    text += strspn(text, " \t");
    size_t len = strlen(text);
    while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL)
        text[--len] = '\0';
    return text;
}

static int parse_line(struct config *config, char *line, unsigned number, unsigned *seen)
{
    line[strcspn(line, "#")] = '\0';
    char *name = trim(line);
    if (*name == '\0')
        return 0;
    char *value = strchr(name, '=');
    if (value == NULL) {
        sentence("%s:%u: expected NAME = VALUE, write a '=' or put '#' before a comment",
                 config->path, number);
        return -E_INVAL;
    }
    *value++ = '\0';
    name = trim(name);
    value = trim(value);
    for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
        if (strcmp(settings[i].name, name) != 0)
            continue;
        const char *wrong = (*seen & 1u << i) != 0 ? "it is set twice, remove one of the lines"
                            : *value == '\0'       ? "it has no value"
                                                   : settings[i].parse(config, value);
        *seen |= 1u << i;
        if (wrong == NULL)
            return 0;
        sentence("%s:%u: the setting '%s' is wrong: %s", config->path, number, name, wrong);
        return -E_INVAL;
    }
    sentence("%s:%u: there is no setting '%.40s', remove the line or correct the name",
             config->path, number, name);
    return -E_INVAL;
}

static int parse_file(struct config *config, FILE *file)
{
    char line[LINE_BYTES_MAX];
    unsigned seen = 0;
    size_t total = 0;
    for (unsigned number = 1; fgets(line, sizeof line, file) != NULL; number++) {
        size_t len = strlen(line);
        total += len;
        if (total > FILE_BYTES_MAX || (len == sizeof line - 1 && line[len - 1] != '\n')) {
            sentence("%s:%u: the line or the file is too long", config->path, number);
            return -E_INVAL;
        }
        int err = parse_line(config, line, number, &seen);
        if (err != 0)
            return err;
    }
    if (ferror(file)) {
        sentence("cannot read %s: it is not a readable file", config->path);
        return -E_INVAL;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
        if (settings[i].required && (seen & 1u << i) == 0) {
            sentence("%s: the setting '%s' is missing, add it", config->path, settings[i].name);
            return -E_INVAL;
        }
    }
    return 0;
}

static void closep(FILE **file)
{
    if (*file != NULL)
        fclose(*file);
}

int config_load(const char *path, struct config *ret, const char **ret_why)
{
    if (path == NULL)
        path = getenv("TARN_CONFIG");
    if (path == NULL || *path == '\0')
        path = DEFAULT_PATH;
    struct config config = {0};
    *ret_why = why;
    if (strlen(path) >= sizeof config.path) {
        sentence("the path of the configuration file is too long: %.100s...", path);
        return -E_INVAL;
    }
    strcpy(config.path, path);
    _cleanup_(closep) FILE *file = fopen(path, "re");
    if (file == NULL) {
        int err = err_from_errno(errno);
        sentence("cannot read the configuration %s: %s; name the file in TARN_CONFIG or with "
                 "--config",
                 path, err_sentence(err));
        return err == -E_NOENT || err == -E_ACCES ? err : -E_INVAL;
    }
    int err = parse_file(&config, file);
    if (err != 0)
        return err;
    *ret = config;
    *ret_why = "";
    return 0;
}
