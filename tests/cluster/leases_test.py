"""Rights of clients over real processes: two mounts, a leader that dies, and what an uncontended lock costs."""

import fcntl
import multiprocessing
import os

from harness import main

ROUNDS = 1000


def an_uncontended_lock_costs_no_entry_of_the_log(c):
    m = c.mount()
    (m / 'mine').write_bytes(bytes(100))
    fd = os.open(m / 'mine', os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)  # the first brings the right to decide about the rest
    fcntl.lockf(fd, fcntl.LOCK_UN)
    before = c.status()['applied']
    for i in range(ROUNDS):
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, i)
        fcntl.lockf(fd, fcntl.LOCK_UN)
    # 2,000 requests; what the cluster does by itself meanwhile is a few entries.
    assert c.status()['applied'] - before < ROUNDS / 10, (before, c.status()['applied'])
    os.close(fd)
    c.umount(m)


def two_mounts_pass_a_line_back_and_forth(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'pingpong').write_bytes(b'')
    files = [open(m / 'pingpong', 'ab', buffering=0) for m in (a, b)]
    readers = [os.open(m / 'pingpong', os.O_RDONLY) for m in (a, b)]
    written = b''
    for i in range(ROUNDS):
        line = b'%06d\n' % i
        files[i % 2].write(line)
        written += line
        other = readers[1 - i % 2]
        assert os.fstat(other).st_size == len(written), i
        assert os.pread(other, 64, max(0, len(written) - 21)) == written[-21:], i
    for f in files:
        f.close()
    for fd in readers:
        os.close(fd)
    assert (a / 'pingpong').read_bytes() == written == (b / 'pingpong').read_bytes()
    c.umount(a)
    c.umount(b)


def add(path, rounds, start):
    start.wait()
    fd = os.open(path, os.O_RDWR)
    for _ in range(rounds):
        fcntl.lockf(fd, fcntl.LOCK_EX)
        value = int(os.pread(fd, 16, 0))
        os.pwrite(fd, b'%016d' % (value + 1), 0)
        fcntl.lockf(fd, fcntl.LOCK_UN)
    os.close(fd)


def a_count_of_two_mounts_is_right_though_the_leader_dies(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'count').write_bytes(b'%016d' % 0)
    start, rounds = multiprocessing.Event(), 60
    workers = [multiprocessing.Process(target=add, args=(str((a if i % 2 else b) / 'count'), rounds, start)) for i in range(6)]
    for w in workers:
        w.start()
    start.set()
    c.kill(f'metad-{c.leader()}')
    for w in workers:
        w.join(300)
        assert w.exitcode == 0
    assert int((b / 'count').read_bytes()) == 6 * rounds
    c.restart()
    c.umount(a)
    c.umount(b)


if __name__ == '__main__':
    main([an_uncontended_lock_costs_no_entry_of_the_log, two_mounts_pass_a_line_back_and_forth,
          a_count_of_two_mounts_is_right_though_the_leader_dies], nodes=3, meta=3, racks=2)
