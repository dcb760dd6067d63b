/* Which path served how many bytes, as the extended attribute `tarn.counters` of the mount's root: one "name value" a line
 * (docs/ops/mount.md). It is in no listing of attributes. */
#include "mount.h"

#include <inttypes.h>
#include <stdio.h>

static void add(char *text, size_t size, const char *name, uint64_t value)
{
    size_t at = strlen(text);
    snprintf(text + at, size - at, "%s %" PRIu64 "\n", name, value);
}

bool counters_reply(fuse_req_t req, uint64_t ino, const char *name, size_t size)
{
    if (ino != FUSE_ROOT_ID || strcmp(name, MOUNT_COUNTERS) != 0)
        return false;
    const struct mount *mount = mount_of(req);
    const struct stores_counters *c = stores_counters(mount->stores);
    char text[1024] = "";
    add(text, sizeof text, "passthrough_opens", mount->opens_through);
    add(text, sizeof text, "passthrough_file_bytes", mount->opens_through_bytes);
    add(text, sizeof text, "read_descriptor_bytes", c->read_fd);
    add(text, sizeof text, "read_local_bytes", c->read_local);
    add(text, sizeof text, "read_rack_bytes", c->read_rack);
    add(text, sizeof text, "read_remote_bytes", c->read_remote);
    add(text, sizeof text, "read_degraded_bytes", c->read_degraded);
    add(text, sizeof text, "read_compressed_bytes", c->read_compressed);
    add(text, sizeof text, "written_bytes", c->written);
    size_t n = strlen(text);
    if (size == 0)
        fuse_reply_xattr(req, n);
    else if (n > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, text, n);
    return true;
}
