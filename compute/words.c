#include "words.h"

/* Builtins and reserved words of bash 5 (bash(1), SHELL BUILTIN COMMANDS and RESERVED WORDS) that consist of plain characters. Where a
 * program of the same name exists, it need not do the same. */
static const char *const own_words[] = {
    ".",       ":",       "alias",    "bg",      "bind",    "break",  "builtin", "caller",  "case",    "cd",       "command",
    "compgen", "complete", "compopt", "continue", "coproc", "declare", "dirs",   "disown",  "do",      "done",     "echo",
    "elif",    "else",    "enable",   "esac",    "eval",    "exec",   "exit",    "export",  "false",   "fc",       "fg",
    "fi",      "for",     "function", "getopts", "hash",    "help",   "history", "if",      "in",      "jobs",     "kill",
    "let",     "local",   "logout",   "mapfile", "popd",    "printf", "pushd",   "pwd",     "read",    "readarray", "readonly",
    "return",  "select",  "set",      "shift",   "shopt",   "source", "suspend", "test",    "then",    "time",     "times",
    "trap",    "true",    "type",     "typeset", "ulimit",  "umask",  "unalias", "unset",   "until",   "wait",     "while",
};

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c != '\0' && strchr("_./=+,:@%-", c) != NULL);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_own(const char *word)
{
    for (size_t i = 0; i < ARRAY_SIZE(own_words); i++)
        if (strcmp(word, own_words[i]) == 0)
            return true;
    return false;
}

bool words_plain(const char *command, struct words *ret)
{
    size_t n = strlen(command), count = 0;
    if (n >= sizeof ret->text)
        return false;
    memcpy(ret->text, command, n + 1);
    for (size_t i = 0; i < n; i++) {
        bool blank = is_blank(command[i]);
        if (!blank && !is_plain(command[i]))
            return false;
        if (blank) {
            ret->text[i] = '\0';
        } else if (i == 0 || is_blank(command[i - 1])) {
            if (count == WORDS_MAX)
                return false;
            ret->items[count++] = &ret->text[i];
        }
    }
    ret->items[count] = NULL;
    return count > 0 && strchr(ret->items[0], '=') == NULL && !is_own(ret->items[0]);
}
