/* What a loss of power may have taken (V5, C18). Data that nobody asked to be synced reaches the disk within a second or so;
 * when the machine stops before, a member of a chunk comes back without bytes that the other members have, and does not
 * know which. So a volume remembers in the file `boot` on which boot of its machine it was in use and whether it was
 * closed; opened on another boot and not closed, it suspects every chunk that is not sealed here until the metadata
 * service has decided which copies count (NODE_INVENTORY). A process that is killed loses nothing: same boot. After
 * a failed sync the kernel may show bytes that are not on the disk and never will be: that is suspect on any boot.
 *
 * Writers that have not synced must learn of it, too, also when every other member lost power at the same time: each
 * such opening begins a new `life`, a number that every answer to a change carries (C22).
 *
 *   closed ──open──> in use (this boot) ──close──> closed, or failed when the journal has failed
 *   in use (other boot), failed ──open──> suspect, file unchanged ──inventory settled──> in use (this boot) */
#include "volume.h"

#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define BOOT_FILE_BYTES 128 /* "tarn-boot 1 STATE BOOT LIFE\n" and zeros */

/* On a full disk the old file is written over. It is less than a sector; torn all the same it cannot be understood, and
 * then the next start suspects. */
static int boot_overwrite(struct volume *v, const char *path, const char text[BOOT_FILE_BYTES])
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = io_open(v->io, path, O_RDWR, 0, &file);
    if (err == 0)
        err = io_pwrite(file, text, BOOT_FILE_BYTES, 0);
    return err != 0 ? err : io_sync(file);
}

static int boot_write(struct volume *v, const char *state)
{
    char temporary[512], path[512], life[24] = "", text[BOOT_FILE_BYTES] = "";
    _cleanup_(io_closep) struct io_file *file = NULL;
    snprintf(temporary, sizeof temporary, "%s/boot.new", v->dir);
    snprintf(path, sizeof path, "%s/boot", v->dir);
    if (v->life != 0)
        snprintf(life, sizeof life, " %" PRIx64, v->life);
    snprintf(text, sizeof text, "tarn-boot 1 %s %s%s\n", state, v->boot, life);
    int err = io_open(v->io, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err == 0)
        err = io_pwrite(file, text, sizeof text, 0);
    if (err == 0)
        err = io_sync(file);
    if (err == 0)
        err = io_rename(v->io, temporary, path);
    if (err == -E_NOSPC && boot_overwrite(v, path, text) == 0) {
        (void)io_unlink(v->io, temporary); /* nothing is in it */
        return 0;
    }
    return err != 0 ? err : io_sync_dir(v->io, v->dir);
}

/* A file that cannot be understood counts as another boot: suspicion costs copying, trust could cost data. */
static int boot_read(struct volume *v, bool *ret_suspect)
{
    char path[512], text[BOOT_FILE_BYTES + 1] = "", state[16], boot[VOLUME_BOOT_MAX];
    _cleanup_(io_closep) struct io_file *file = NULL;
    snprintf(path, sizeof path, "%s/boot", v->dir);
    *ret_suspect = false;
    int err = io_open(v->io, path, O_RDONLY, 0, &file);
    if (err == -E_NOENT) {
        *ret_suspect = volume_chunks(v) > 0; /* else a volume just made */
        return 0;
    }
    if (err != 0)
        return err;
    int64_t n = io_pread(file, text, BOOT_FILE_BYTES, 0);
    if (n < 0)
        return (int)n;
    _Static_assert(VOLUME_BOOT_MAX == 64, "the width in the format below");
    if (sscanf(text, "tarn-boot 1 %15s %63s %16" SCNx64, state, boot, &v->life) < 2) /* no life: 0 */
        *ret_suspect = true;
    else
        *ret_suspect = strcmp(state, "failed") == 0 || (strcmp(state, "closed") != 0 && strcmp(boot, v->boot) != 0);
    return 0;
}

int volume_boot_open(struct volume *v, const char *boot)
{
    snprintf(v->boot, sizeof v->boot, "%s", boot != NULL && *boot != '\0' ? boot : "unknown");
    int err = boot_read(v, &v->suspect);
    if (err == 0 && v->suspect) {
        v->life = io_random_u64(v->io) | 1; /* kept with the next "in-use"; after a crash before that there is another one */
        log_warn("%s was in use when the machine stopped, or its disk failed: chunks that were being written are not served until the "
                 "metadata service has decided about them",
                 v->dir);
    }
    return err != 0 || v->suspect ? err : boot_write(v, "in-use");
}

int volume_boot_settled(struct volume *v)
{
    if (!v->suspect)
        return 0;
    int err = boot_write(v, "in-use");
    v->suspect = err != 0;
    return err;
}

int volume_boot_close(struct volume *v, bool failed)
{
    if (v->suspect)
        return 0;
    return boot_write(v, failed ? "failed" : "closed");
}

bool volume_suspects(const struct volume *v, const struct chunk *c)
{
    return v->suspect && (c->flags & CHUNK_SEALED) == 0;
}
