/* From codes and attributes to what the kernel reads. */
#include "mount.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

void mount_cred(fuse_req_t req, struct mount_cred *ret)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    ret->cred = (struct meta_cred){.uid = ctx->uid, .gid = ctx->gid};
    if (ctx->uid == 0)
        return;
    gid_t groups[MOUNT_GROUPS_MAX];
    int n = fuse_req_getgroups(req, MOUNT_GROUPS_MAX, groups);
    for (int i = 0; i < MIN(n, MOUNT_GROUPS_MAX); i++)
        ret->groups[ret->cred.n_groups++] = groups[i];
    ret->cred.groups = ret->groups;
}

void mount_reply_err(fuse_req_t req, int err)
{
    fuse_reply_err(req, err_to_errno(err));
}

/* Nothing is cached in the kernel: what another mount changed is seen at the next look. */
#define CACHE_SECONDS 0.0

void mount_reply_entry(fuse_req_t req, const Tarn__Attr *attr)
{
    struct fuse_entry_param entry = {.ino = attr->ino, .attr_timeout = CACHE_SECONDS, .entry_timeout = CACHE_SECONDS};
    attr_to_stat(attr, &entry.attr);
    fuse_reply_entry(req, &entry);
}

void mount_reply_attr(fuse_req_t req, const Tarn__Attr *attr)
{
    struct stat st;
    attr_to_stat(attr, &st);
    fuse_reply_attr(req, &st, CACHE_SECONDS);
}

int mount_call(fuse_req_t req, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx,
               const ProtobufCMessageDescriptor *reply_type, void *ret_reply)
{
    struct mount_cred cred;
    mount_cred(req, &cred);
    return meta_call(mount_of(req)->meta, op, request, ctx, &cred.cred, reply_type, ret_reply, NULL);
}
