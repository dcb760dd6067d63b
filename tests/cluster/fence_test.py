"""A mount that is stopped while it holds a lock: another one gets the lock, the first is refused and told when it goes on."""

import errno
import fcntl
import multiprocessing
import os
import signal

from harness import background, main, wait_until

SESSION = 3  # seconds, of the mount that is stopped; the other one's outlives an election
BYTES = 300_000


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def mount(c, name, seconds=SESSION):
    point = c.dir / name
    point.mkdir(exist_ok=True)
    done = c.tarn('mount', '--options', f'session={seconds}', '--log', c.dir / f'{name}.log', point)
    assert done.code == 0, done
    c.mounts.append(point)
    return point


def mount_pid(c, point):
    """The process behind a mount."""
    for entry in os.listdir('/proc'):
        try:
            words = open(f'/proc/{entry}/cmdline', 'rb').read().split(b'\0') if entry.isdigit() else []
        except OSError:
            continue
        if words and words[0].endswith(b'tarn-mount') and str(point).encode() in words:
            return int(entry)
    raise AssertionError(f'no process of the mount {point}')


class Stopped:
    """SIGSTOP, and SIGCONT whatever happens."""

    def __init__(self, *pids):
        self.pids = pids

    def __enter__(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *why):
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


def holder(path, pipe):
    """A process of its own has the file of the first mount open: whoever starts a program closes copies of descriptors, and would
    hang with the stopped mount."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.pwrite(fd, b'A' * BYTES, 0)
    pipe.send('holds')
    pipe.recv()  # the mount is stopped: what follows hangs until it goes on
    pipe.send([errno_of(os.pwrite, fd, b'L' * BYTES, 0), errno_of(os.pread, fd, 1, 0),
               errno_of(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB), errno_of(os.close, fd)])


def take_over(c, a, b, name, meanwhile=lambda: None):
    """The first mount holds the lock and is stopped; the second gets it, writes and reads only its own bytes for ever after."""
    ours, theirs = multiprocessing.Pipe()
    first = multiprocessing.Process(target=holder, args=(a / name, theirs))
    first.start()
    assert ours.recv() == 'holds'
    fb = os.open(b / name, os.O_RDWR)
    with Stopped(mount_pid(c, a)):
        ours.send('write')
        with background(meanwhile):
            fcntl.lockf(fb, fcntl.LOCK_EX)
        os.pwrite(fb, b'B' * BYTES, 0)
        os.fsync(fb)
    assert ours.poll(60), 'the first one does not end'
    got = ours.recv()
    first.join(60)
    # close() tells a writer, too, that what it wrote may be in vain
    assert got == [errno.EIO, errno.EIO, errno.ENOLCK, errno.EIO], [errno.errorcode.get(e, e) for e in got]
    assert os.pread(fb, BYTES, 0) == b'B' * BYTES
    fresh = os.open(a / name, os.O_RDWR)  # without a new mount
    assert os.pread(fresh, BYTES, 0) == b'B' * BYTES
    fcntl.lockf(fb, fcntl.LOCK_UN)
    fcntl.lockf(fresh, fcntl.LOCK_EX)
    os.pwrite(fresh, b'A' * 10, 0)
    assert os.pread(fb, 11, 0) == b'A' * 10 + b'B'
    os.close(fresh)
    os.close(fb)
    return [line for line in (c.dir / f'{a.name}.log').read_text().splitlines() if 'must be opened again' in line]


def a_stopped_writer_is_refused_and_told(c):
    a, b = mount(c, 'a'), mount(c, 'b', 60)
    lines = take_over(c, a, b, 'file')
    assert len(lines) == 1 and ' 1 open files' in lines[0] and 'through 1 of them' in lines[0], lines
    c.umount(a)
    c.umount(b)


def the_leader_dies_while_a_session_is_fenced(c):
    """A store that is stopped holds the fence open until it counts as down: the leader dies in between."""
    a, b = mount(c, 'a2'), mount(c, 'b2', 60)
    leader = c.leader()
    log = c.home / 'log' / f'metad-{leader}.log'

    def count(what):
        return log.read_text().count(what)

    fenced, released = count('fallen silent: fenced'), count('is released')

    def between_the_changes():
        with Stopped(c.pid('stored-4')):
            wait_until(lambda: count('fallen silent: fenced') > fenced, 'the session to be fenced')
            assert count('is released') == released, 'the stopped store was not waited for'
            c.kill(f'metad-{leader}')
            wait_until(lambda: c.leader() not in (0, leader), 'a new leader')

    take_over(c, a, b, 'file2', between_the_changes)
    c.restart()
    wait_until(lambda: len(c.nodes_up()) == 4, 'all stores up again')
    c.umount(a)
    c.umount(b)


def a_store_that_was_stopped_takes_no_late_write(c):
    """All stores are stopped together with the writer, for longer than their contact counts."""
    a, b = mount(c, 'a3'), mount(c, 'b3', 60)
    stores = [c.pid(f'stored-{i}') for i in (1, 2, 3, 4)]

    def stores_stop_too():
        with Stopped(*stores):
            wait_until(lambda: c.nodes_up() == [], 'all stores to count as down')

    take_over(c, a, b, 'file3', stores_stop_too)
    wait_until(lambda: len(c.nodes_up()) == 4, 'all stores up again')
    c.umount(a)
    c.umount(b)


if __name__ == '__main__':
    main([a_stopped_writer_is_refused_and_told, a_store_that_was_stopped_takes_no_late_write,
          the_leader_dies_while_a_session_is_fenced], nodes=4, meta=3, racks=2)
