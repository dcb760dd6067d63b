/* The configuration file. What is accepted has every required setting in its range; what is refused has a sentence. */
#include "fuzz.h"

#include "common/check.h"
#include "common/config.h"
#include "common/err.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct config config;
    const char *why = NULL;
    int fd = memfd_create("config", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int err = config_load(path, &config, &why);
    close(fd);
    if (err != 0) {
        CHECK(err == -E_INVAL && why != NULL && why[0] != '\0');
        return 0;
    }
    CHECK(config.auth.cluster_id != 0);
    CHECK(config.n_meta == 1 || config.n_meta == 3 || config.n_meta == 5);
    for (unsigned i = 0; i < config.n_meta; i++)
        CHECK(config_address_wrong(config.meta[i]) == NULL);
    CHECK(config.gateway[0] == '\0' || config_address_wrong(config.gateway) == NULL);
    return 0;
}
