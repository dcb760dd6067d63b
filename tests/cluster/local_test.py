"""Bytes of this machine: passed descriptors, FUSE passthrough, the unix socket, and TCP give the same; a path that fails is
replaced by the next; what is passed is dropped when the chunk goes."""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
from pathlib import Path

from harness import BUILD, Skip, main, pattern, wait_until

SIZE = (3 << 20) + 4321
RDONLY = os.O_RDONLY


class Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ('direct', 'local', 'rack', 'remote', 'written', 'computed')]

    def read(self):
        return self.direct + self.local + self.rack + self.remote


class Tarn:
    """libtarn in this very process."""

    def __init__(self, config):
        self.lib = ctypes.CDLL(str(BUILD / 'client' / 'libtarn.so'))
        self.lib.tarn_error.restype = ctypes.c_char_p
        self.lib.tarn_pread.restype = ctypes.c_ssize_t
        self.lib.tarn_pread.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
        for name in ('tarn_close', 'tarn_file_close'):
            getattr(self.lib, name).argtypes = [ctypes.c_void_p]
        self.lib.tarn_counters.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.tarn = ctypes.c_void_p()
        self.check(self.lib.tarn_open(str(config).encode(), ctypes.byref(self.tarn)))

    def check(self, r):
        assert r >= 0, self.lib.tarn_error()
        return r

    def open(self, path):
        file = ctypes.c_void_p()
        self.check(self.lib.tarn_file_open(self.tarn, path.encode(), RDONLY, 0, ctypes.byref(file)))
        return file

    def pread(self, file, n, at):
        buf = ctypes.create_string_buffer(n)
        got = self.check(self.lib.tarn_pread(file, buf, n, at))
        return buf.raw[:got]

    def counters(self):
        c = Counters()
        self.check(self.lib.tarn_counters(self.tarn, ctypes.byref(c), ctypes.sizeof(c)))
        return c

    def close_file(self, file):
        self.check(self.lib.tarn_file_close(file))

    def close(self):
        self.lib.tarn_close(self.tarn)


@contextlib.contextmanager
def libtarn(config):
    tarn = Tarn(config)
    try:
        yield tarn
    finally:
        tarn.close()


def config_of(c, node, *lines):
    """The cluster as seen from a node, with more settings."""
    path = c.dir / f'node-{node}-{len(lines)}.conf'
    path.write_text((c.home / f'node-{node}' / 'tarn.conf').read_text() + ''.join(line + '\n' for line in lines))
    return path


@contextlib.contextmanager
def mounted(c, config, options, name='m'):
    point = c.dir / name
    point.mkdir(exist_ok=True)
    if not os.path.exists('/dev/fuse'):
        raise Skip('no /dev/fuse on this machine')
    c.ok('mount', '--config', config, '--options', options, '--log', c.dir / f'{name}.log', point)
    c.mounts.append(point)
    try:
        yield point
    finally:
        c.umount(point, lazy=True)


def mount_counters(point):
    return {name: int(value) for name, value in (line.split() for line in os.getxattr(point, 'tarn.counters').decode().splitlines())}


def holders(c, path):
    return [row['node'] for row in c.json('locate', path)]


def chunk_file(c, node, path):
    chunk = c.json('locate', path)[0]['chunk']
    found = list((c.home / f'node-{node}').rglob(f'{chunk:016x}'))
    assert len(found) == 1, (chunk, found)
    return found[0]


def sealed_object(c, path, data, copies):
    """Put, and readable by descriptor at its first holder."""
    c.bucket(path.split('/')[1])
    c.ok('put', '--copies', str(copies), '-', path, input=data)
    node = holders(c, path)[0]
    with libtarn(config_of(c, node)) as tarn:
        def direct():
            file = tarn.open(path)
            try:
                assert tarn.pread(file, len(data) + 1, 0) == data
                return tarn.counters().direct > 0
            finally:
                tarn.close_file(file)
        wait_until(direct, f'{path} to be handed out')
    return node


def chunk_descriptors(pid='self'):
    held = []
    for fd in Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(OSError):
            if '/chunks/' in os.readlink(fd):
                held.append(os.readlink(fd))
    return held


def all_paths_give_the_same_bytes_and_the_counters_add_up(c):
    data = pattern(SIZE, 1)
    node = sealed_object(c, '/l/object', data, 1)
    other = next(n for n in c.nodes_up() if n != node)
    near, far, strict = config_of(c, node), config_of(c, other), config_of(c, node, 'verify = always')
    for config, want in [(near, 'direct'), (strict, 'local'), (far, 'rack')]:
        with libtarn(config) as tarn:
            file = tarn.open('/l/object')
            for at in range(0, SIZE, 70001):
                assert tarn.pread(file, 70001, at) == data[at:at + 70001]
            counted = tarn.counters()
            assert counted.read() == SIZE and getattr(counted, want) == SIZE, (want, [getattr(counted, f) for f, _ in Counters._fields_])
            tarn.close_file(file)
    c.ok('snapshot', 'take', '/l', 's')
    for config, options, path, want in [(near, 'passthrough=off', 'l/object', 'read_descriptor_bytes'),
                                        (near, 'verify=always', 'l/object', 'read_local_bytes'),
                                        (near, 'passthrough=auto', 'l/object', 'read_descriptor_bytes'),
                                        (near, 'passthrough=on', 'l/object', 'passthrough_file_bytes'),
                                        (near, 'passthrough=auto', 'l/.snapshot/s/object', 'passthrough_file_bytes'),
                                        (strict, 'passthrough=on', 'l/object', 'read_local_bytes'),
                                        (far, 'passthrough=on', 'l/object', 'read_rack_bytes')]:
        with mounted(c, config, options) as m:
            if want == 'passthrough_file_bytes' and not passes_through(m / path):
                want = 'read_descriptor_bytes'
                print('the kernel does not pass through here: the descriptor path stands in')
            before = mount_counters(m)
            with open(m / path, 'rb', buffering=0) as f:
                for at in range(0, SIZE, 70001):
                    assert os.pread(f.fileno(), 70001, at) == data[at:at + 70001]
                assert os.pread(f.fileno(), 10, SIZE) == b''
            after = mount_counters(m)
            grown = {name: after[name] - before[name] for name in after if after[name] != before[name] and name != 'passthrough_opens'}
            assert grown == {want: SIZE}, (options, path, grown)
            assert errno_of(os.open, m / path, os.O_RDONLY | os.O_DIRECTORY) == errno.ENOTDIR


def passes_through(path):
    root = path
    while not os.path.ismount(root):
        root = root.parent
    before = mount_counters(root)['passthrough_opens']
    open(path, 'rb').close()
    return mount_counters(root)['passthrough_opens'] > before


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def with_verify_always_a_flipped_byte_is_never_served(c):
    data = pattern(SIZE, 2)
    for copies in (1, 2):
        path = f'/l/flipped-{copies}'
        node = sealed_object(c, path, data, copies)
        file = chunk_file(c, node, path)
        with open(file, 'r+b', buffering=0) as f:
            os.pwrite(f.fileno(), bytes([data[1 << 20] ^ 1]), 1 << 20)
        with mounted(c, config_of(c, node), 'verify=always') as m, libtarn(config_of(c, node, 'verify = always')) as tarn:
            handle = tarn.open(path)
            with open(m / path[1:], 'rb', buffering=0) as f:
                assert os.pread(f.fileno(), 4096, 0) == data[:4096]
                for at in ((1 << 20) - 100, 1 << 20):
                    if copies == 2:
                        assert os.pread(f.fileno(), 200, at) == data[at:at + 200] == tarn.pread(handle, 200, at)
                    else:
                        assert errno_of(os.pread, f.fileno(), 200, at) == errno.EIO
            assert mount_counters(m)['read_descriptor_bytes'] == 0 and chunk_descriptors() == []
            tarn.close_file(handle)


def what_was_passed_is_dropped_when_the_chunk_goes(c):
    data = pattern(SIZE, 3)
    node = sealed_object(c, '/l/gone', data, 1)
    with libtarn(config_of(c, node)) as tarn:
        file = tarn.open('/l/gone')
        for _ in range(2): # the second is the library's own pread
            assert tarn.pread(file, 4096, 8192) == data[8192:8192 + 4096]
        assert tarn.counters().direct == 8192 and len(chunk_descriptors()) >= 1
        held = chunk_descriptors()[0]
        free = os.statvfs(c.home).f_bfree * os.statvfs(c.home).f_frsize
        tarn.close_file(file)
        assert len(chunk_descriptors()) == 1 # the cache's
        c.ok('rm', '/l/gone')
        # This program does nothing now; its library closes what it has.
        wait_until(lambda: chunk_descriptors() == [] and not os.path.exists(held), 'the descriptor to be dropped')
        if c.own_file_system:
            wait_until(lambda: os.statvfs(c.home).f_bfree * os.statvfs(c.home).f_frsize >= free + SIZE, 'the space to come back')


def a_replaced_file_is_dropped_while_it_is_open(c):
    old, new = pattern(SIZE, 4), pattern(SIZE, 5)
    node = sealed_object(c, '/l/replaced', old, 1)
    with libtarn(config_of(c, node)) as tarn, mounted(c, config_of(c, node), 'passthrough=off') as m:
        file = tarn.open('/l/replaced')
        for _ in range(2):
            assert tarn.pread(file, 4096, 0) == old[:4096]
        assert len(chunk_descriptors()) == 2 # of the cache and of the open file
        held = chunk_descriptors()[0]
        with open(m / 'l/replaced', 'r+b', buffering=0) as f: # a clone takes the chunk's place
            os.pwrite(f.fileno(), new, 0)
            wait_until(lambda: not any(held in name for name in chunk_descriptors()), 'the descriptors of the old chunk to be dropped')
            wait_until(lambda: tarn.pread(file, 4096, 0) == new[:4096], 'the new bytes')
        tarn.close_file(file)


def passthrough_shows_what_was_opened(c):
    old, new = pattern(SIZE, 6), pattern(SIZE, 7)
    node = sealed_object(c, '/l/version', old, 1)
    with mounted(c, config_of(c, node), 'passthrough=on') as m, mounted(c, config_of(c, node), 'passthrough=auto', 'w') as w:
        if not passes_through(m / 'l/version'):
            raise Skip('the kernel does not pass through here')
        with open(m / 'l/version', 'rb', buffering=0) as f:
            with mmap.mmap(f.fileno(), SIZE, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == old
            # Not through this mount while it is open here; elsewhere at any time.
            assert errno_of(os.open, m / 'l/version', os.O_RDWR) == errno.ETXTBSY
            with open(w / 'l/version', 'r+b', buffering=0) as g:
                os.pwrite(g.fileno(), new, 0)
            assert os.pread(f.fileno(), SIZE, 0) == old
            # Opened now it is the new one, though the kernel knows one backing file for both.
            with open(m / 'l/version', 'rb', buffering=0) as g:
                assert os.pread(g.fileno(), SIZE, 0) == new and os.pread(f.fileno(), 100, 5) == old[5:105]
        with open(m / 'l/version', 'r+b', buffering=0) as g: # nothing passes any more
            os.pwrite(g.fileno(), b'again', 0)
            with open(m / 'l/version', 'rb', buffering=0) as f: # nor does it beside a writer
                assert os.pread(f.fileno(), 5, 0) == b'again'
                with mmap.mmap(f.fileno(), SIZE, prot=mmap.PROT_READ) as mapped:
                    assert mapped[:5] == b'again'
        # A snapshot's file passes through, and the file goes on beside it.
        c.ok('snapshot', 'take', '/l', 't')
        snap = w / 'l/.snapshot/t/version'
        wait_until(lambda: passes_through(snap), 'the snapshot to be sealed')
        with open(snap, 'rb', buffering=0) as f, open(w / 'l/version', 'r+b', buffering=0) as g:
            os.pwrite(g.fileno(), b'later', 0)
            assert os.pread(f.fileno(), 5, 0) == b'again' and os.pread(g.fileno(), 5, 0) == b'later'
            c.ok('snapshot', 'rm', '/l', 't')
            assert os.pread(f.fileno(), 5, 0) == b'again' # a descriptor of an old version stays whole


def a_killed_store_is_replaced_by_the_next_path(c):
    data = pattern(SIZE, 8)
    node = sealed_object(c, '/l/two', data, 2)
    with libtarn(config_of(c, node)) as tarn, mounted(c, config_of(c, node), 'passthrough=off') as m:
        file = tarn.open('/l/two')
        with open(m / 'l/two', 'rb', buffering=0) as f:
            for _ in range(2):
                assert tarn.pread(file, 4096, 0) == data[:4096] == os.pread(f.fileno(), 4096, 0)
            c.kill(f'stored-{node}', signal.SIGKILL)
            for at in range(0, SIZE, 100000):
                assert tarn.pread(file, 100000, at) == data[at:at + 100000] == os.pread(f.fileno(), 100000, at)
            wait_until(lambda: chunk_descriptors() == [], 'the descriptors of a store that is gone to be closed')
            counted = tarn.counters()
            assert counted.rack + counted.remote > 0
            c.restart()
            before = counted.direct

            def direct_again():
                assert tarn.pread(file, 4096, 0) == data[:4096]
                return tarn.counters().direct > before
            wait_until(direct_again, 'the descriptor path to be used again')
        tarn.close_file(file)


if __name__ == '__main__':
    main([all_paths_give_the_same_bytes_and_the_counters_add_up, with_verify_always_a_flipped_byte_is_never_served,
          what_was_passed_is_dropped_when_the_chunk_goes, a_replaced_file_is_dropped_while_it_is_open,
          passthrough_shows_what_was_opened, a_killed_store_is_replaced_by_the_next_path], own_file_system=True)
