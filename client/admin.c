/* One-shot use of the metadata service by a command: a loop, a fiber, a session, one function. */
#include "commands.h"

#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"

struct admin {
    struct io *io;
    const struct config *config;
    uint64_t give_up_ms;
    bool quiet;
    admin_fn fn;
    void *arg;
    int err;
};

static void admin_fiber(void *arg)
{
    struct admin *admin = arg;
    struct meta_options options = {.name = "tarn", .give_up_ms = admin->give_up_ms};
    struct meta *meta = NULL;
    admin->err = meta_connect(admin->io, admin->config, &options, &meta);
    if (admin->err == 0) {
        admin->err = admin->fn(meta, admin->arg);
        meta_disconnect(meta);
    }
    if (admin->err == -E_UNAVAIL && !admin->quiet)
        cli_complain("cannot reach the metadata service named in %s: is the cluster up?", admin->config->path);
    io_stop(admin->io);
}

int admin_run(const char *config_path, bool quiet, uint64_t give_up_ms, admin_fn fn, void *arg)
{
    struct config config;
    const char *why = "";
    int err = config_load(config_path, &config, &why);
    if (err != 0) {
        if (!quiet)
            cli_complain("%s", why);
        return err;
    }
    struct admin admin = {.config = &config, .give_up_ms = give_up_ms, .quiet = quiet, .fn = fn, .arg = arg};
    err = io_uring_create(NULL, &admin.io);
    if (err != 0)
        return err;
    err = fiber_spawn(admin.io, "admin", admin_fiber, &admin);
    if (err == 0)
        err = io_run(admin.io);
    io_destroy(admin.io);
    return err != 0 ? err : admin.err;
}
