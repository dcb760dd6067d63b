/* A store on the ring with a real directory and socket: what a local client is handed. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/log.h"
#include "object.pb-c.h"
#include "objstore/store.h"
#include "proto/ops.h"

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define LENGTH (CELL_BYTES * 20 + 123)

static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};
static char dir[64], volume_dir[96], local[96];
static struct io *io;
static uint8_t *data;

static int call_simple(struct rpc_client *client, unsigned op, const ProtobufCMessage *request, const uint32_t *crcs)
{
    struct iovec payload = {data, LENGTH};
    struct rpc_call call = {.op = op, .request = request, .payload = crcs != NULL ? &payload : NULL,
                            .n_payload = crcs != NULL ? 1 : 0, .payload_cells = crcs != NULL};
    int err = rpc_call(client, &call);
    rpc_call_fini(&call);
    return err;
}

static void put_and_seal(struct rpc_client *client)
{
    uint32_t crcs[32];
    Tarn__ChunkPut put = TARN__CHUNK_PUT__INIT;
    Tarn__ChunkSeal seal = TARN__CHUNK_SEAL__INIT;
    put.chunk = seal.chunk = 42;
    put.generation = 1;
    put.length = seal.length = LENGTH;
    put.crcs = crcs;
    for (size_t at = 0; at < LENGTH; at += CELL_BYTES)
        crcs[put.n_crcs++] = crc32c(0, data + at, MIN(CELL_BYTES, LENGTH - at));
    assert_int_equal(call_simple(client, OP_CHUNK_PUT, &put.base, crcs), 0);
    seal.generation = 2;
    assert_int_equal(call_simple(client, OP_CHUNK_SEAL, &seal.base, NULL), 0);
}

static void assert_file_is_the_chunk(int fd)
{
    uint8_t *back = malloc(LENGTH + 1);
    assert_int_equal(pread(fd, back, LENGTH + 1, 0), LENGTH);
    assert_memory_equal(back, data, LENGTH);
    assert_true(write(fd, "x", 1) < 0); /* read-only */
    free(back);
}

static void script(struct store *store)
{
    struct rpc_client *client = rpc_client_create(io, local, &auth), *tcp = rpc_client_create(io, store_address(store), &auth);
    Tarn__ChunkFd request = TARN__CHUNK_FD__INIT;
    int fd;
    request.chunk = 42;
    request.generation = 2;
    struct rpc_call call = {.op = OP_CHUNK_FD, .request = &request.base, .reply_type = &tarn__chunk_fd_reply__descriptor};
    put_and_seal(client);
    /* Read through while nobody asks for it, so that the first handover need not wait. */
    const struct chunk *chunk = map_get(&store->volumes[0]->index.chunks, 42);
    while (!chunk->verified)
        fiber_yield();
    assert_int_equal(rpc_call_fd(client, &call, &fd), 0);
    assert_int_equal(((Tarn__ChunkFdReply *)call.reply)->length, LENGTH);
    assert_file_is_the_chunk(fd);
    close(fd);
    rpc_call_fini(&call);
    request.want_path = true;
    call = (struct rpc_call){.op = OP_CHUNK_FD, .request = &request.base, .reply_type = &tarn__chunk_fd_reply__descriptor};
    assert_int_equal(rpc_call(client, &call), 0);
    assert_int_equal(access(((Tarn__ChunkFdReply *)call.reply)->path, R_OK), 0);
    rpc_call_fini(&call);
    assert_int_equal(call_simple(tcp, OP_CHUNK_FD, &request.base, NULL), -E_NOTSUP);
    request.chunk = 43;
    assert_int_equal(call_simple(client, OP_CHUNK_FD, &request.base, NULL), -E_NOENT);
    rpc_client_destroy(client);
    rpc_client_destroy(tcp);
}

static void main_fiber(void *arg)
{
    struct store_options options = {.dir = volume_dir, .auth = &auth, .listen = "tcp:127.0.0.1:0", .local = local,
                                    .journal_bytes = MIB(8)};
    struct store *store;
    const char *why;
    for (unsigned life = 0; life < 2; life++) { /* the second finds what the first left */
        assert_int_equal(store_open(io, &options, &store, &why), 0);
        assert_int_equal(store_serve(store), 0);
        if (life == 0)
            script(store);
        assert_int_equal(volume_chunks(store->volumes[0]), 1);
        store_stop(store);
    }
    io_stop(io);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void test_a_descriptor_of_the_chunk(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/tarn-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    snprintf(volume_dir, sizeof volume_dir, "%s/volume", dir);
    snprintf(local, sizeof local, "unix:%s/socket", dir);
    assert_int_equal(posix_memalign((void **)&data, 4096, round_up_u64(LENGTH, 4096)), 0);
    for (size_t i = 0; i < LENGTH; i++)
        data[i] = (uint8_t)(i * 7 + i / 1000);
    assert_int_equal(io_uring_create(&(struct io_options){0}, &io), 0);
    assert_int_equal(fiber_spawn(io, "main", main_fiber, NULL), 0);
    assert_int_equal(io_run(io), 0);
    io_destroy(io);
    free(data);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_descriptor_of_the_chunk)};
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
