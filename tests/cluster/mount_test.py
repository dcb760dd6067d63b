"""The mount as a file system, and two mounts as one."""

import errno
import fcntl
import multiprocessing
import mmap
import os
import random
import shutil
import signal
import stat
import struct
import threading

from harness import alive, digest, main, pattern, wait_until


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def directories_behave(c):
    m = c.mount()
    os.makedirs(m / 'p/a/b')
    assert errno_of(os.mkdir, m / 'p/a') == errno.EEXIST
    assert errno_of(os.rmdir, m / 'p/a') == errno.ENOTEMPTY
    assert os.stat(m / 'p/a').st_nlink == 3
    os.rmdir(m / 'p/a/b')
    assert os.listdir(m / 'p/a') == []
    assert errno_of(os.rmdir, m / 'p/a/b') == errno.ENOENT
    for i in range(1300):
        (m / f'p/a/{i:05}').touch()
    assert sorted(os.listdir(m / 'p/a')) == [f'{i:05}' for i in range(1300)]
    c.umount(m)


def random_writes_and_reads_are_what_a_local_file_gives(c):
    m, rnd = c.mount(), random.Random(7)
    os.makedirs(m / 'rw', exist_ok=True)
    local, remote = open(c.dir / 'model', 'w+b', buffering=0), open(m / 'rw/file', 'w+b', buffering=0)
    for _ in range(300):
        at, n = rnd.randrange(3 << 20), rnd.choice([1, 511, 4096, 65536, 65537, 300000])
        action = rnd.random()
        if action < 0.55:
            data = rnd.randbytes(n)
            for f in (local, remote):
                os.pwrite(f.fileno(), data, at)
        elif action < 0.65:
            for f in (local, remote):
                os.ftruncate(f.fileno(), at)
        else:
            assert os.pread(local.fileno(), n, at) == os.pread(remote.fileno(), n, at), (at, n)
        assert os.fstat(local.fileno()).st_size == os.fstat(remote.fileno()).st_size
    size = os.fstat(local.fileno()).st_size
    assert digest(os.pread(local.fileno(), size, 0)) == digest((m / 'rw/file').read_bytes())
    remote.close()
    # Closed, its chunk is sealed; writing again must not disturb the rest.
    with open(m / 'rw/file', 'r+b', buffering=0) as again:
        os.pwrite(again.fileno(), b'again', 1000)
    os.pwrite(local.fileno(), b'again', 1000)
    assert digest(os.pread(local.fileno(), max(size, 1005), 0)) == digest((m / 'rw/file').read_bytes())
    local.close()
    c.umount(m)


def truncated_bytes_do_not_come_back(c):
    m = c.mount()
    path = m / 'trunc'
    path.write_bytes(b'x' * 200000)
    os.truncate(path, 1000)
    os.truncate(path, 150000)
    assert path.read_bytes() == b'x' * 1000 + bytes(149000)
    c.umount(m)


def append_goes_to_the_end_from_two_mounts(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'log').write_bytes(b'')
    fa, fb = os.open(a / 'log', os.O_WRONLY | os.O_APPEND), os.open(b / 'log', os.O_WRONLY | os.O_APPEND)
    for i in range(100):
        os.write(fa if i % 2 == 0 else fb, b'%06d\n' % i)
    os.close(fa)
    os.close(fb)
    assert (a / 'log').read_bytes() == b''.join(b'%06d\n' % i for i in range(100))
    c.umount(a)
    c.umount(b)


def rename_replaces_and_refuses_as_posix_says(c):
    m = c.mount()
    os.makedirs(m / 'rn/d1/sub')
    os.makedirs(m / 'rn/d2')
    (m / 'rn/f').write_bytes(b'one')
    (m / 'rn/g').write_bytes(b'two')
    os.rename(m / 'rn/f', m / 'rn/g')
    assert (m / 'rn/g').read_bytes() == b'one' and not (m / 'rn/f').exists()
    assert errno_of(os.rename, m / 'rn/d1', m / 'rn/d1/sub/x') == errno.EINVAL
    assert errno_of(os.rename, m / 'rn/d2', m / 'rn/d1') == errno.ENOTEMPTY
    assert errno_of(os.rename, m / 'rn/g', m / 'rn/d2') == errno.EISDIR
    assert errno_of(os.rename, m / 'rn/d2', m / 'rn/g') == errno.ENOTDIR
    os.rename(m / 'rn/d1', m / 'rn/d2')
    assert os.listdir(m / 'rn/d2') == ['sub']
    c.umount(m)


def an_open_file_outlives_its_name_on_any_mount(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'gone').write_bytes(b'still here' * 1000)
    f = open(a / 'gone', 'r+b', buffering=0)
    os.unlink(b / 'gone')
    assert not (a / 'gone').exists() and not (b / 'gone').exists()
    assert f.read() == b'still here' * 1000
    os.pwrite(f.fileno(), b'X', 0)
    assert os.pread(f.fileno(), 5, 0) == b'Xtill'
    assert os.fstat(f.fileno()).st_nlink == 0
    f.close()
    c.umount(a)
    c.umount(b)


def links_and_permissions(c):
    m = c.mount()
    os.makedirs(m / 'ln')
    (m / 'ln/f').write_bytes(b'data')
    os.link(m / 'ln/f', m / 'ln/hard')
    os.symlink('f', m / 'ln/soft')
    assert os.stat(m / 'ln/hard').st_nlink == 2 and os.readlink(m / 'ln/soft') == 'f'
    assert (m / 'ln/soft').read_bytes() == b'data'
    os.unlink(m / 'ln/f')
    assert (m / 'ln/hard').read_bytes() == b'data' and errno_of(open, m / 'ln/soft') == errno.ENOENT
    os.chmod(m / 'ln/hard', 0o640)
    os.chown(m / 'ln/hard', 1234, 5678)
    st = os.stat(m / 'ln/hard')
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, 1234, 5678)
    os.chmod(m, 0o755)
    os.chmod(c.dir, 0o755)

    def as_user(queue, uid, gid, path):
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        queue.put((errno_of(lambda: os.close(os.open(path, os.O_RDONLY))), errno_of(lambda: os.close(os.open(path, os.O_WRONLY))),
                   errno_of(os.unlink, path)))

    for uid, gid, want in [(1234, 1, (0, 0, errno.EACCES)), (99, 5678, (0, errno.EACCES, errno.EACCES)),
                           (99, 99, (errno.EACCES, errno.EACCES, errno.EACCES))]:
        queue = multiprocessing.Queue()
        child = multiprocessing.Process(target=as_user, args=(queue, uid, gid, str(m / 'ln/hard')))
        child.start()
        assert queue.get(timeout=60) == want, (uid, gid, want)
        child.join()
    os.setxattr(m / 'ln/hard', 'user.colour', b'blue')
    assert os.listxattr(m / 'ln/hard') == ['user.colour'] and os.getxattr(m / 'ln/hard', 'user.colour') == b'blue'
    os.mkfifo(m / 'ln/fifo')
    assert stat.S_ISFIFO(os.stat(m / 'ln/fifo').st_mode)
    c.umount(m)


def a_write_is_seen_by_the_other_mount_when_it_returns(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'shared').write_bytes(b'')
    fa, fb = os.open(a / 'shared', os.O_RDWR), os.open(b / 'shared', os.O_RDWR)
    for i in range(200):
        w, r = (fa, fb) if i % 2 == 0 else (fb, fa)
        os.pwrite(w, b'%08d' % i, 8 * i)
        assert os.pread(r, 8, 8 * i) == b'%08d' % i
        assert os.fstat(r).st_size == 8 * (i + 1)
    os.close(fa)
    os.close(fb)
    c.umount(a)
    c.umount(b)


def change_somehow(path, content, rnd, most):
    """One finished change of the file; returns what it must hold then."""
    data, at, what = rnd.randbytes(rnd.randrange(1, most)), rnd.randrange(len(content) + 1), rnd.randrange(5)
    if what == 0:
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, data, at)
        content = content[:at] + data + content[at + len(data):]
    elif what == 1 and len(content) < 3 * most:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        content += data
    elif what == 2:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.write(fd, data)
        content = data
    elif what == 3:
        fd = os.open(f'{path}.new', os.O_WRONLY | os.O_CREAT)
        os.write(fd, data)
        os.rename(f'{path}.new', path)
        content = data
    else:
        fd = os.open(path, os.O_WRONLY)
        os.ftruncate(fd, at)
        content = content[:at]
    if rnd.random() < 0.8:
        os.close(fd)
        fd = None
    return content, fd


def no_mount_shows_old_bytes(c):
    mounts, rnd = [c.mount('a'), c.mount('b')], random.Random(3)
    files = {'small': [3000, b'', [None, None]], 'large': [100000, b'', [None, None]]}
    left_open = []
    for name in files:
        (mounts[0] / name).write_bytes(b'')
    for round in range(2000):
        name, side = ('large' if round % 4 == 0 else 'small'), rnd.randrange(2)
        most, content, kept = files[name]
        inode = os.stat(mounts[side] / name).st_ino
        content, fd = change_somehow(str(mounts[side] / name), content, rnd, most)
        if fd is not None:
            left_open.append(fd)
        files[name][1] = content
        # by a handle from before when it is still the same file, or by a new one
        other = kept[1 - side]
        if other is None or os.fstat(other).st_ino != inode or os.stat(mounts[1 - side] / name).st_ino != inode:
            if other is not None:
                os.close(other)
            other = kept[1 - side] = os.open(mounts[1 - side] / name, os.O_RDONLY)
        assert os.pread(other, len(content) + 10, 0) == content, (round, name)
        assert os.fstat(other).st_size == len(content), (round, name)
        while len(left_open) > 3:
            os.close(left_open.pop(0))
    for fd in left_open + [f for _, _, kept in files.values() for f in kept if f is not None]:
        os.close(fd)
    for m in mounts:
        c.umount(m)


def as_user(uid, call):
    """The errno of call() in a process of this user."""
    def body(queue):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        queue.put(errno_of(call))

    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=body, args=(queue,))
    child.start()
    got = queue.get(timeout=60)
    child.join()
    return got


def put_bytes(path, data, flags=os.O_WRONLY):
    fd = os.open(path, flags)
    os.write(fd, data)
    os.close(fd)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def a_write_by_another_takes_the_set_id_bits(c):
    m = c.mount()
    os.chmod(c.dir, 0o755)
    path = m / 'setid'
    for call in (lambda: put_bytes(path, b'x'), lambda: put_bytes(path, b'x', os.O_WRONLY | os.O_TRUNC), lambda: os.truncate(path, 1)):
        path.write_bytes(b'abc')
        os.chmod(path, 0o6777)
        assert as_user(99, call) == 0 and mode_of(path) == 0o777
    path.write_bytes(b'abc')
    os.chmod(path, 0o6777)
    put_bytes(path, b'x')
    assert mode_of(path) == 0o6777
    c.umount(m)


def programs_run_from_the_mount(c):
    m = c.mount()
    os.chmod(c.dir, 0o755)
    shutil.copy('/bin/true', m / 'true')
    os.chmod(m / 'true', 0o711)
    run = lambda: c.run(m / 'true').code and os._exit(1)  # noqa: E731
    assert as_user(99, run) == 0
    assert as_user(99, lambda: open(m / 'true')) == errno.EACCES
    os.chmod(m / 'true', 0o744)
    assert as_user(99, run) == errno.EACCES
    c.umount(m)


def shared_mappings_and_holes(c):
    m = c.mount()
    with open(m / 'mapped', 'w+b', buffering=0) as f:
        f.truncate(3 * 4096)
        with mmap.mmap(f.fileno(), 3 * 4096) as area:
            area[4096:4101] = b'hello'
            area.flush()
            assert os.pread(f.fileno(), 5, 4096) == b'hello'
        assert os.pread(f.fileno(), 4096, 0) == bytes(4096)
        assert os.lseek(f.fileno(), 5, os.SEEK_DATA) == 5 and os.lseek(f.fileno(), 5, os.SEEK_HOLE) == 3 * 4096
        os.posix_fallocate(f.fileno(), 0, 100000)
        assert os.fstat(f.fileno()).st_size == 100000
        os.posix_fallocate(f.fileno(), 0, 10)
        assert os.fstat(f.fileno()).st_size == 100000
    assert (m / 'mapped').read_bytes() == bytes(4096) + b'hello' + bytes(100000 - 4101)
    c.umount(m)


def times_and_names(c):
    m = c.mount()
    path = m / ('n' * 255)
    path.write_bytes(b'0123456789')
    assert errno_of(os.mkdir, m / ('n' * 256)) == errno.ENAMETOOLONG
    with open(path, 'r+b', buffering=0) as f:
        f.write(b'a')
        f.write(b'b')  # the second write within the size: its time is told later
        os.utime(f.fileno(), ns=(5, -86400 * 10**9 + 7))
    assert os.stat(path).st_mtime_ns == -86400 * 10**9 + 7, 'close(2) must not change a time that was set'
    deep = m
    for _ in range(100):
        deep = deep / 'deep'
    os.makedirs(deep)
    assert os.path.isdir(deep)
    assert errno_of(os.setxattr, path, 'system.nonsense', b'x') == errno.EOPNOTSUPP
    st = os.statvfs(m)
    assert st.f_namemax == 255 and 0 < st.f_bavail <= st.f_bfree <= st.f_blocks and st.f_ffree < st.f_files
    c.umount(m)


def a_directory_changes_while_it_is_read(c):
    m = c.mount()
    os.mkdir(m / 'big')
    names = {f'{i:05}' for i in range(1100)}
    (m / 'one').touch()
    for name in names:
        os.link(m / 'one', m / 'big' / name)
    seen = []
    with os.scandir(m / 'big') as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(m / 'big' / entry.name)
    assert sorted(seen) == sorted(names) and os.listdir(m / 'big') == []
    c.umount(m)


def mount_pid(point):
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            argv = open(f'/proc/{pid}/cmdline', 'rb').read().split(b'\0')
        except OSError:
            continue
        if argv[0].endswith(b'tarn-mount') and str(point).encode() in argv:
            return int(pid)
    raise AssertionError(f'no tarn-mount of {point}')


def signals_end_a_mount(c):
    m = c.mount()
    pid = mount_pid(m)
    f = open(m / 'held', 'w+b', buffering=0)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.ismount(m), 'the mount to be detached')
    f.write(b'still works')
    assert os.pread(f.fileno(), 99, 0) == b'still works'
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), 'the second signal to end the mount')
    assert errno_of(os.pread, f.fileno(), 1, 0) in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    with open(os.devnull) as null:  # closing gives the error of the dead mount
        os.dup2(null.fileno(), f.fileno())
    c.mounts.remove(m)
    m = c.mount()
    assert (m / 'held').read_bytes() == b'still works'
    os.kill(mount_pid(m), signal.SIGKILL)
    wait_until(lambda: errno_of(os.stat, m) == errno.ENOTCONN, 'the dead mount to say so')
    c.umount(m)
    m = c.mount()
    assert (m / 'held').read_bytes() == b'still works'
    c.umount(m)


def a_signal_ends_the_wait_for_a_lock(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'il').write_bytes(b'')
    fa = os.open(a / 'il', os.O_RDWR)
    fcntl.flock(fa, fcntl.LOCK_EX)

    class Alarm(Exception):
        pass

    def stop(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, stop)
    fb = os.open(b / 'il', os.O_RDWR)
    try:
        for delay in (0.001, 0.01, 0.1):
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                fcntl.flock(fb, fcntl.LOCK_EX)
                raise AssertionError('a lock that is held was granted')
            except Alarm:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    fcntl.flock(fa, fcntl.LOCK_UN)
    fcntl.flock(fb, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing was left in the queue
    os.close(fa)
    os.close(fb)
    c.umount(a)
    c.umount(b)


def lock_bytes(kind, start, length):
    return struct.pack('hhqqi4x', kind, os.SEEK_SET, start, length, 0)


OFD_SETLK = 37


def locks_are_seen_by_both_mounts(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'lk').write_bytes(bytes(100))
    fa, fb = os.open(a / 'lk', os.O_RDWR), os.open(b / 'lk', os.O_RDWR)
    # OFD locks: two owners within one process
    fcntl.fcntl(fa, OFD_SETLK, lock_bytes(fcntl.F_WRLCK, 0, 10))
    assert errno_of(fcntl.fcntl, fb, OFD_SETLK, lock_bytes(fcntl.F_WRLCK, 9, 1)) == errno.EAGAIN
    fcntl.fcntl(fb, OFD_SETLK, lock_bytes(fcntl.F_WRLCK, 10, 1))
    # flock is another kind of lock
    fcntl.flock(fb, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert errno_of(fcntl.flock, fa, fcntl.LOCK_SH | fcntl.LOCK_NB) == errno.EAGAIN
    os.close(fb)  # the kernel sends no unlock for OFD locks: the release drops them
    wait_until(lambda: errno_of(fcntl.flock, fa, fcntl.LOCK_EX | fcntl.LOCK_NB) == 0, 'flock released by close')
    wait_until(lambda: errno_of(fcntl.fcntl, fa, OFD_SETLK, lock_bytes(fcntl.F_WRLCK, 10, 1)) == 0, 'OFD lock released by close')
    os.close(fa)
    c.umount(a)
    c.umount(b)


def a_blocking_lock_is_granted_when_the_other_mount_releases(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'bl').write_bytes(bytes(10))
    fa, fb = os.open(a / 'bl', os.O_RDWR), os.open(b / 'bl', os.O_RDWR)
    fcntl.flock(fa, fcntl.LOCK_EX)
    got = threading.Event()

    def waits():
        fcntl.flock(fb, fcntl.LOCK_EX)
        got.set()

    thread = threading.Thread(target=waits)
    thread.start()
    assert not got.wait(0.3)
    fcntl.flock(fa, fcntl.LOCK_UN)
    assert got.wait(30), 'the waiter was not woken'
    thread.join()
    os.close(fa)
    os.close(fb)
    c.umount(a)
    c.umount(b)


def count(path, rounds):
    for _ in range(rounds):
        fd = os.open(path, os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        value = int(os.pread(fd, 16, 0) or b'0')
        os.pwrite(fd, b'%016d' % (value + 1), 0)
        os.close(fd)


def eight_processes_on_two_mounts_count_without_losing_one(c):
    a, b = c.mount('a'), c.mount('b')
    (a / 'count').write_bytes(b'%016d' % 0)
    workers = [multiprocessing.Process(target=count, args=(str((a if i % 2 else b) / 'count'), 25)) for i in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
        assert w.exitcode == 0
    assert int((a / 'count').read_bytes()) == 200
    c.umount(a)
    c.umount(b)


def git_and_sqlite_work(c):
    m = c.mount()
    if shutil.which('git'):
        env = {'GIT_AUTHOR_NAME': 't', 'GIT_AUTHOR_EMAIL': 't@t', 'GIT_COMMITTER_NAME': 't', 'GIT_COMMITTER_EMAIL': 't@t',
               'HOME': str(c.dir), 'PATH': os.environ['PATH']}
        c.env.update(env)
        repo = m / 'repo'
        assert c.run('git', 'init', '-q', repo).code == 0
        for i in range(40):
            (repo / f'f{i}').write_text('line\n' * i)
        assert c.run('git', '-C', repo, 'add', '.').code == 0
        done = c.run('git', '-C', repo, 'commit', '-qm', 'x')
        assert done.code == 0, done
        assert c.run('git', '-C', repo, 'status', '--porcelain').out == b''
        assert c.run('git', '-C', repo, 'fsck', '--strict').code == 0
    import sqlite3
    db = sqlite3.connect(m / 'db.sqlite')
    db.execute('create table t (n integer)')
    for i in range(30):
        with db:
            db.execute('insert into t values (?)', (i,))
    assert db.execute('select count(*), sum(n) from t').fetchone() == (30, 435)
    assert db.execute('pragma integrity_check').fetchone() == ('ok',)
    db.close()
    c.umount(m)


if __name__ == '__main__':
    main([directories_behave, random_writes_and_reads_are_what_a_local_file_gives, truncated_bytes_do_not_come_back,
          append_goes_to_the_end_from_two_mounts, rename_replaces_and_refuses_as_posix_says,
          an_open_file_outlives_its_name_on_any_mount, links_and_permissions,
          a_write_is_seen_by_the_other_mount_when_it_returns, no_mount_shows_old_bytes, a_write_by_another_takes_the_set_id_bits,
          programs_run_from_the_mount, shared_mappings_and_holes, times_and_names, a_directory_changes_while_it_is_read,
          signals_end_a_mount, a_signal_ends_the_wait_for_a_lock, locks_are_seen_by_both_mounts,
          a_blocking_lock_is_granted_when_the_other_mount_releases,
          eight_processes_on_two_mounts_count_without_losing_one, git_and_sqlite_work], nodes=3, meta=1, racks=1)
