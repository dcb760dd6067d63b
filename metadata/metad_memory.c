#include "metad_memory.h"

#include "common/fiber.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define LOOK_MS 100
#define SLICES 8 /* of the tables are given back one after the other, so that not everything is missing at once */

uint64_t metad_memory_resident(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    unsigned long size = 0, resident = 0;
    if (sscanf(text, "%lu %lu", &size, &resident) != 2)
        return 0;
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void metad_memory_fiber(void *arg)
{
    struct metad_memory *memory = arg;
    unsigned slice = 0;
    bool complained = false;
    while (io_sleep_ms(memory->io, LOOK_MS) == 0 && memory->replica != NULL) {
        unsigned given = 0;
        while (given < SLICES && metad_memory_resident() > memory->limit_bytes) {
            replica_give_back(memory->replica, slice, SLICES);
            slice = (slice + 1) % SLICES;
            given++;
        }
        bool over = given == SLICES && metad_memory_resident() > memory->limit_bytes;
        if (over && !complained)
            log_warn("more than %llu MiB of memory are in use besides the tables' pages",
                     (unsigned long long)(memory->limit_bytes >> 20));
        complained = over;
    }
}
