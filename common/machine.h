/* Which kernel and network this process sees: two processes with the same machine id reach one
 * another by unix sockets and may pass descriptors. Reads /proc; thread-safe. */
#ifndef TARN_COMMON_MACHINE_H
#define TARN_COMMON_MACHINE_H
#include "base.h"
#define MACHINE_ID_SIZE 17
/* 16 hex digits: the start of SHA-256 over /etc/machine-id (when there), the boot id and the network
 * namespace's inode. Empty string when the boot id cannot be read: then nothing is local. */
void machine_id(char out[MACHINE_ID_SIZE]);
#endif
