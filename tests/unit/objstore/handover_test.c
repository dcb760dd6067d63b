/* A store on the ring with a real directory and socket: what a local client is handed. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/log.h"
#include "object.pb-c.h"
#include "objstore/handover.h"
#include "objstore/store.h"
#include "objstore/verified.h"
#include "objstore/verify.h"
#include "proto/ops.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
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

static void put_and_seal(struct rpc_client *client, uint64_t chunk)
{
    uint32_t crcs[32];
    Tarn__ChunkPut put = TARN__CHUNK_PUT__INIT;
    Tarn__ChunkSeal seal = TARN__CHUNK_SEAL__INIT;
    put.chunk = seal.chunk = chunk;
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

/* What the connection was told. */
struct told {
    uint64_t chunk;
    unsigned n, lost;
    struct fiber_queue wake;
};

static void on_push(void *arg, unsigned op, const uint8_t *control, size_t len)
{
    struct told *told = arg;
    Tarn__FdDropped *push = tarn__fd_dropped__unpack(NULL, len, control);
    assert_int_equal(op, OP_FD_DROPPED);
    assert_non_null(push);
    told->chunk = push->chunk;
    told->n++;
    tarn__fd_dropped__free_unpacked(push, NULL);
    fiber_queue_wake_all(&told->wake);
}

static void on_lost(void *arg)
{
    struct told *told = arg;
    told->lost++;
    fiber_queue_wake_all(&told->wake);
}

static int ask(struct rpc_client *client, uint64_t chunk, int *ret_fd)
{
    Tarn__ChunkFd request = TARN__CHUNK_FD__INIT;
    request.chunk = chunk;
    request.generation = 2;
    struct rpc_call call = {.op = OP_CHUNK_FD, .request = &request.base, .reply_type = &tarn__chunk_fd_reply__descriptor};
    int err = rpc_call_fd(client, &call, ret_fd);
    if (err == 0)
        assert_int_equal(((Tarn__ChunkFdReply *)call.reply)->length, LENGTH);
    rpc_call_fini(&call);
    return err;
}

static void drop(struct store *store, uint64_t chunk)
{
    struct held held;
    assert_int_equal(store_hold_all(store->volumes[0], chunk, false, true, &held), 0);
    handover_drop(store, store->volumes[0], chunk);
    store_release(&held);
}

static bool is_verified(const struct store *store, uint64_t id)
{
    const struct chunk *chunk = map_get(&store->volumes[0]->index.chunks, id);
    return chunk->verified;
}

static void a_descriptor_and_a_path(struct store *store, struct rpc_client *client)
{
    struct rpc_client *tcp = rpc_client_create(io, store_address(store), &auth);
    Tarn__ChunkFd request = TARN__CHUNK_FD__INIT;
    int fd;
    request.chunk = 42;
    request.generation = 2;
    put_and_seal(client, 42);
    /* Read through while nobody asks for it, so that the first handover need not wait. */
    while (!is_verified(store, 42))
        fiber_yield();
    assert_int_equal(ask(client, 42, &fd), 0);
    assert_file_is_the_chunk(fd);
    close(fd);
    request.want_path = true;
    struct rpc_call call = {.op = OP_CHUNK_FD, .request = &request.base, .reply_type = &tarn__chunk_fd_reply__descriptor};
    assert_int_equal(rpc_call(client, &call), 0);
    assert_int_equal(access(((Tarn__ChunkFdReply *)call.reply)->path, R_OK), 0);
    rpc_call_fini(&call);
    assert_int_equal(call_simple(tcp, OP_CHUNK_FD, &request.base, NULL), -E_NOTSUP);
    request.chunk = 43;
    assert_int_equal(call_simple(client, OP_CHUNK_FD, &request.base, NULL), -E_NOENT);
    rpc_client_destroy(tcp);
}

static void holders_are_told(struct store *store, struct rpc_client *client)
{
    struct rpc_client *other = rpc_client_create(io, local, &auth);
    struct told told = {0}, told_other = {0};
    int fd;
    rpc_client_on_push(client, on_push, on_lost, &told);
    rpc_client_on_push(other, on_push, on_lost, &told_other);
    put_and_seal(client, 44);
    for (unsigned i = 0; i < 2; i++) { /* asked twice: one entry */
        assert_int_equal(ask(client, 44, &fd), 0);
        close(fd);
    }
    assert_int_equal(ask(other, 44, &fd), 0);
    close(fd);
    assert_int_equal(handover_held(store->handover), 3); /* and chunk 42 before */
    drop(store, 44);
    while (told.n == 0 || told_other.n == 0)
        assert_int_equal(fiber_queue_wait(told.n == 0 ? &told.wake : &told_other.wake, 0), 0);
    assert_int_equal(told.chunk, 44);
    assert_int_equal(told_other.chunk, 44);
    assert_int_equal(handover_held(store->handover), 1);
    drop(store, 44); /* nobody has it any more */
    assert_int_equal(store->counters.fds_dropped, 2);
    /* Who has gone holds nothing. */
    assert_int_equal(ask(other, 42, &fd), 0);
    close(fd);
    assert_int_equal(handover_held(store->handover), 2);
    rpc_client_destroy(other);
    while (handover_held(store->handover) != 1)
        fiber_yield();
    assert_int_equal(told.n, 1);
    rpc_client_on_push(client, NULL, NULL, NULL);
}

static void what_rots_is_not_handed_out(struct store *store, struct rpc_client *client)
{
    char path[512];
    int fd;
    put_and_seal(client, 46);
    volume_chunk_path(store->volumes[0], 46, path);
    while (!is_verified(store, 46))
        fiber_yield();
    struct told told = {0};
    rpc_client_on_push(client, on_push, on_lost, &told);
    assert_int_equal(ask(client, 46, &fd), 0);
    close(fd);
    int file = open(path, O_RDWR);
    assert_int_equal(pwrite(file, "rotten", 6, CELL_BYTES * 3), 6);
    close(file);
    /* A read finds it: from now on it does not count as verified, also not after a start on the same boot. */
    Tarn__ChunkGet get = TARN__CHUNK_GET__INIT;
    get.chunk = 46;
    get.offset = CELL_BYTES * 3;
    get.length = 100;
    assert_int_equal(call_simple(client, OP_CHUNK_GET, &get.base, NULL), -E_CORRUPT);
    assert_false(is_verified(store, 46));
    while (told.n == 0)
        assert_int_equal(fiber_queue_wait(&told.wake, 0), 0);
    assert_int_equal(told.chunk, 46);
    assert_int_equal(ask(client, 46, &fd), -E_CORRUPT);
    rpc_client_on_push(client, NULL, NULL, NULL);
}

static void first_life(struct store *store)
{
    struct rpc_client *client = rpc_client_create(io, local, &auth);
    a_descriptor_and_a_path(store, client);
    holders_are_told(store, client);
    what_rots_is_not_handed_out(store, client);
    rpc_client_destroy(client);
}

/* The same boot: what was read need not be read again, what was found damaged does not count. */
static void second_life(struct store *store)
{
    struct rpc_client *client = rpc_client_create(io, local, &auth);
    int fd;
    assert_true(is_verified(store, 42));
    assert_true(is_verified(store, 44));
    assert_false(is_verified(store, 46));
    assert_int_equal(ask(client, 42, &fd), 0);
    assert_file_is_the_chunk(fd);
    close(fd);
    /* Deleted, and come again under the same number and version: it is another file. */
    struct held held;
    assert_int_equal(store_hold_all(store->volumes[0], 44, false, true, &held), 0);
    assert_int_equal(volume_delete(store->volumes[0], held.chunk), 0);
    store_release(&held);
    /* However often one and the same is read and forgotten: the file is written anew and stays small. */
    struct stat st;
    char path[512];
    snprintf(path, sizeof path, "%s/verified", volume_dir);
    assert_int_equal(store_hold_all(store->volumes[0], 42, false, false, &held), 0);
    for (unsigned i = 0; i < 2 * VERIFIED_RECORDS_SPARE; i++) {
        verified_gone(store->volumes[0], held.chunk);
        verified_note(store->volumes[0], held.chunk);
    }
    store_release(&held);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < VERIFIED_HEADER_BYTES + 2 * VERIFIED_RECORDS_SPARE * VERIFIED_RECORD_BYTES);
    verify_stop(store->verify);
    store->verify = NULL; /* nobody reads it ahead */
    put_and_seal(client, 44);
    assert_false(is_verified(store, 44));
    rpc_client_destroy(client);
}

static void third_life(struct store *store)
{
    assert_true(is_verified(store, 42));
    assert_false(is_verified(store, 44));
}

static void another_boot(struct store *store)
{
    assert_false(is_verified(store, 42));
}

static void main_fiber(void *arg)
{
    struct store_options options = {.dir = volume_dir, .auth = &auth, .listen = "tcp:127.0.0.1:0", .local = local,
                                    .journal_bytes = MIB(8), .boot = "this"};
    void (*const lives[])(struct store *store) = {first_life, second_life, third_life, another_boot};
    struct store *store;
    const char *why;
    for (unsigned life = 0; life < ARRAY_SIZE(lives); life++) { /* each finds what the one before left */
        if (lives[life] == another_boot)
            options.boot = "another";
        assert_int_equal(store_open(io, &options, &store, &why), 0);
        if (lives[life] != third_life && lives[life] != another_boot)
            assert_int_equal(store_serve(store), 0);
        lives[life](store);
        assert_int_equal(volume_chunks(store->volumes[0]), 3);
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
