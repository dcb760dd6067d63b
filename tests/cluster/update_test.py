"""A node that was away while a file was written is brought up to date, not refilled: its own chunk file is still the one."""

import os

from harness import digest, main, pattern, wait_until

SIZE = 16 << 20
AT = 5 << 20


def chunk_files(c, size):
    """Of each store, the chunk files with so many bytes at least: {(store, name): inode}."""
    found = {}
    for path in c.home.glob('node-*/disk/chunks/*/*'):
        stat = path.stat()
        if stat.st_size >= size:
            found[path.parents[3].name, path.name] = stat.st_ino
    return found


def a_returning_node_is_brought_up_to_date(c):
    m = c.mount()
    (m / 'u').mkdir()
    data = bytearray(pattern(SIZE, 'first'))
    fd = os.open(m / 'u/file', os.O_CREAT | os.O_RDWR)
    for at in range(0, SIZE, 1 << 20):
        os.pwrite(fd, data[at:at + (1 << 20)], at)
    os.fsync(fd)
    before = chunk_files(c, SIZE)
    assert len(before) == 3, before
    held = [os.open(path, os.O_RDONLY) for path in c.home.glob('node-*/disk/chunks/*/*')]  # so that no new file gets an old inode's number
    node = sorted(before)[1][0]
    c.kill(node.replace('node', 'stored'))
    late = pattern(70_000, 'second')
    data[AT:AT + len(late)] = late
    os.pwrite(fd, late, AT)  # the member leaves the chunk
    os.fsync(fd)
    c.restart()
    os.close(fd)
    wait_until(lambda: c.status()['below_target'] == 0, 'the third copy', 120)
    assert chunk_files(c, SIZE) == before, 'a file was made anew'
    for path in c.home.glob(f'{node}/disk/chunks/*/*'):
        if path.stat().st_size == SIZE:
            assert digest(path.read_bytes()) == digest(bytes(data)), 'what the returned node has'
    for old in held:
        os.close(old)
    assert digest((m / 'u/file').read_bytes()) == digest(bytes(data))
    c.umount(m)


main([a_returning_node_is_brought_up_to_date], nodes=5)
