/* Commands that need no shell. `grep -c ERROR` means the same to bash and to execve(2): it is a row of plain
 * words. Starting bash for it costs more than a fresh sandbox does, so such commands are executed directly; whatever
 * could mean anything else to bash goes through bash. Pure. */
#ifndef TARN_COMPUTE_WORDS_H
#define TARN_COMPUTE_WORDS_H

#include "common/base.h"

#define WORDS_MAX 64
#define WORDS_BYTES_MAX 4096
struct words {
    char *items[WORDS_MAX + 1]; /* into text, then NULL */
    char text[WORDS_BYTES_MAX];
};
/* True when `command` is 1 … WORDS_MAX plain words (letters, digits and _./=+,:@%- only, separated by blanks) of which the
 * first is neither an assignment nor a word that bash takes for itself (builtin or keyword). */
bool words_plain(const char *command, struct words *ret);

#endif
