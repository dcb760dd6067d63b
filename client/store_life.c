/* Who holds bytes that are not synced yet (C22). A store answers with the life of its volume, a number that changes when
 * acknowledged bytes may have gone. As long as a member lives that did not lose power, the others leave the chunk
 * (C18) and nothing is lost; when all did, only this tells the writer that a sync comes too late. */
#include "store_internal.h"

static bool find(const struct store_lives *lives, uint32_t disk, unsigned *ret)
{
    for (*ret = 0; *ret < lives->n; ++*ret)
        if (lives->disks[*ret] == disk)
            return true;
    return false;
}

void store_lives_note(struct store_lives *lives, size_t n, const uint32_t *disks, const uint64_t *numbers)
{
    for (size_t i = 0; i < n; i++) {
        unsigned at;
        if (find(lives, disks[i], &at)) {
            lives->lost |= lives->lives[at] != numbers[i];
        } else if (lives->n < STORE_LIVES_MAX) {
            lives->disks[lives->n] = disks[i];
            lives->lives[lives->n++] = numbers[i];
        } else {
            lives->lost = true; /* more than can be watched: better an error too many */
        }
    }
}

void store_lives_add(struct store_lives *lives, const struct store_lives *more)
{
    store_lives_note(lives, more->n, more->disks, more->lives);
    lives->lost |= more->lost;
}

bool store_lives_same(const struct store_lives *before, const struct store_lives *synced)
{
    bool witness = before->n == 0 || synced->n == 0; /* nothing to lose, or stores that do not tell */
    for (unsigned i = 0, at; i < synced->n; i++) {
        if (!find(before, synced->disks[i], &at))
            continue;
        if (before->lives[at] != synced->lives[i])
            return false;
        witness = true;
    }
    return witness && !before->lost;
}
