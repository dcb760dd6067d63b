"""Quotas through all doors: the command, the mount, S3."""

import errno
import os

from harness import main, wait_until

ALICE, TENANT = 1001, 2001


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def as_user(uid, gid, call):
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            code = errno_of(call)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def quota(c, *subject):
    return c.json('quota', 'get', *subject)[0]


def counted(c, *subject):
    return wait_until(lambda: (lambda q: not q['counting'] and q)(quota(c, *subject)), 'the count to be complete')


def write(path, n):
    with open(path, 'wb', buffering=0) as f:
        at = 0
        while at < n:
            at += f.write(bytes(min(1 << 20, n - at)))
        os.fsync(f.fileno())


def a_directory_is_limited_in_bytes_and_files(c):
    c.dir.chmod(0o755)
    m = c.mount()
    (m / 'q').mkdir()
    (m / 'q/before').write_bytes(bytes(100000))  # is there before the quota
    c.ok('quota', 'set', '/q', '--bytes', '4M', '--files', '5')
    q = counted(c, '/q')
    assert (q['kind'], q['path'], q['limit_bytes'], q['limit_files'], q['bytes'], q['files']) == ('directory', '/q', 4 << 20, 5, 100000, 1), q
    write(m / 'q/a', 3 << 20)
    assert quota(c, '/q')['bytes'] == 100000 + (3 << 20)
    assert errno_of(write, m / 'q/b', 2 << 20) == errno.EDQUOT
    df = os.statvfs(m / 'q')
    assert df.f_blocks * df.f_frsize == 4 << 20 and df.f_files == 5 and df.f_ffree == 2, df
    assert os.statvfs(m).f_blocks * df.f_frsize > 4 << 20
    os.truncate(m / 'q/b', 0)
    (m / 'q/c').touch()
    (m / 'q/d').touch()
    assert errno_of((m / 'q/e').touch) == errno.EDQUOT
    assert errno_of((m / 'q/dir').mkdir) == errno.EDQUOT
    (m / 'outside').write_text('x')
    assert errno_of(os.rename, m / 'outside', m / 'q/in') == errno.EDQUOT
    assert errno_of(os.link, m / 'outside', m / 'q/c2') == 0  # costs where it was
    os.rename(m / 'q/d', m / 'q/renamed')
    (m / 'q/a').unlink()
    wait_until(lambda: quota(c, '/q')['bytes'] < 2 << 20, 'the removed file to cost nothing')
    write(m / 'q/b', 2 << 20)
    c.umount(m)


def a_user_and_a_tenant_are_limited(c):
    m = c.mount()
    (m / 'home').mkdir()
    (m / 'home').chmod(0o777)
    c.ok('quota', 'set', '--user', str(ALICE), '--bytes', '1M')
    c.ok('quota', 'set', '--group', str(TENANT), '--files', '2')
    counted(c, '--user', str(ALICE))
    counted(c, '--group', str(TENANT))
    assert as_user(ALICE, ALICE, lambda: write(m / 'home/a', 2 << 20)) == errno.EDQUOT
    assert as_user(ALICE, ALICE, lambda: os.truncate(m / 'home/a', 1000)) == 0
    assert as_user(ALICE, TENANT, (m / 'home/b').touch) == 0
    assert as_user(ALICE, TENANT, (m / 'home/c').touch) == 0
    assert as_user(ALICE, TENANT, (m / 'home/d').touch) == errno.EDQUOT
    os.chown(m / 'home/c', 0, 0)
    assert as_user(ALICE, TENANT, (m / 'home/d').touch) == 0
    assert errno_of(os.chown, m / 'home/c', -1, TENANT) == errno.EDQUOT
    assert [q['kind'] for q in c.json('quota', 'ls')] == ['directory', 'user', 'group']
    c.umount(m)


def s3_and_the_command_tell_it(c):
    c.ok('mkdir', '/bucket')
    c.ok('quota', 'set', '/bucket', '--bytes', '100K')
    counted(c, '/bucket')
    big, small = c.dir / 'big', c.dir / 'small'
    big.write_bytes(bytes(200000))
    small.write_bytes(bytes(50000))
    done = c.s3cmd('put', small, 's3://bucket/small')
    assert done.code == 0, done
    done = c.s3cmd('put', big, 's3://bucket/big')
    assert done.code != 0 and b'QuotaExceeded' in done.err + done.out and b'403' in done.err + done.out, done
    done = c.tarn('put', big, '/bucket/big')
    assert done.code == 6 and b'quota' in done.err, done
    assert c.s3cmd('put', small, 's3://bucket/small').code == 0  # no more than before
    assert c.tarn('quota', 'get', '/nothing/here').code == 3
    assert c.tarn('quota', 'set', '/bucket').code == 2
    c.ok('quota', 'rm', '/bucket')
    assert c.tarn('quota', 'rm', '/bucket').code == 3
    c.ok('put', big, '/bucket/big')


def it_survives_a_restart(c):
    before = c.json('quota', 'ls')
    c.kill('metad-1')
    c.restart()
    assert c.json('quota', 'ls') == before


if __name__ == '__main__':
    main([a_directory_is_limited_in_bytes_and_files, a_user_and_a_tenant_are_limited, s3_and_the_command_tell_it,
          it_survives_a_restart], nodes=1)
