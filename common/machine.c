#include "machine.h"

#include <openssl/sha.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID_FILE_MAX 64 /* machine-id has 33 bytes, boot_id 37 */

static size_t read_id(const char *path, char buf[ID_FILE_MAX])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, buf, ID_FILE_MAX);
    close(fd);
    return n > 0 ? (size_t)n : 0;
}

void machine_id(char out[MACHINE_ID_SIZE])
{
    char machine[ID_FILE_MAX], boot[ID_FILE_MAX];
    out[0] = '\0';
    size_t n_machine = read_id("/etc/machine-id", machine);
    size_t n_boot = read_id("/proc/sys/kernel/random/boot_id", boot);
    struct stat net;
    if (n_boot == 0 || stat("/proc/self/ns/net", &net) < 0)
        return;
    uint8_t text[2 * ID_FILE_MAX + sizeof(uint64_t)];
    uint64_t net_inode = net.st_ino;
    size_t n = 0;
    memcpy(text + n, machine, n_machine);
    n += n_machine;
    memcpy(text + n, boot, n_boot);
    n += n_boot;
    memcpy(text + n, &net_inode, sizeof net_inode);
    n += sizeof net_inode;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256(text, n, digest);
    for (unsigned i = 0; i < 8; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}
