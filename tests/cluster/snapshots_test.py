"""Snapshots and clones through all doors: the command, the mount, S3, a job."""

import errno
import os

from harness import main, pattern, wait_until


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def what_was_written_before_stays_while_a_writer_goes_on(c):
    m = c.mount()
    (m / 'd').mkdir()
    old, new = pattern(3 << 20, 1), pattern(3 << 20, 2)
    with open(m / 'd/log', 'wb', buffering=0) as f:
        f.write(old)
        os.fsync(f.fileno())
        c.ok('snapshot', 'take', '/d', 'one')
        f.seek(0)
        f.write(new)  # in place, on the same descriptor, into what the snapshot shows
        f.write(b'more')
        os.fsync(f.fileno())
        assert c.cat('/d/.snapshot/one/log') == old
        assert (m / 'd/.snapshot/one/log').read_bytes() == old
    assert (m / 'd/log').read_bytes() == new + b'more'
    assert os.listdir(m / 'd') == ['log'] and os.listdir(m / 'd/.snapshot') == ['one']
    assert errno_of(open, m / 'd/.snapshot/one/log', 'wb') == errno.EROFS
    assert errno_of(os.unlink, m / 'd/.snapshot/one/log') == errno.EROFS
    os.unlink(m / 'd/log')
    assert c.cat('/d/.snapshot/one/log') == old
    assert [s['name'] for s in c.json('snapshot', 'ls', '/d')] == ['one']
    wait_until(lambda: c.status()['safe'], 'all copies')
    c.ok('snapshot', 'rm', '/d', 'one')
    assert c.tarn('cat', '/d/.snapshot/one/log').code == 3


def a_clone_is_written_and_its_base_is_not(c):
    m = c.mount('mnt2')
    (m / 'base').mkdir()
    data = pattern(2 << 20, 3)
    (m / 'base/big').write_bytes(data)
    (m / 'base/small').write_bytes(b'small')
    c.ok('snapshot', 'take', '/base', 's')
    c.ok('snapshot', 'clone', '/base', 's', '/copy')
    with open(m / 'copy/big', 'r+b') as f:
        f.write(b'changed')
    (m / 'copy/own').write_bytes(b'own')
    os.unlink(m / 'copy/small')
    assert (m / 'copy/big').read_bytes() == b'changed' + data[7:]
    assert (m / 'base/big').read_bytes() == data == c.cat('/base/.snapshot/s/big')
    assert sorted(os.listdir(m / 'copy')) == ['big', 'own'] and sorted(os.listdir(m / 'base')) == ['big', 'small']
    c.ok('snapshot', 'rm', '/base', 's')  # the clone keeps what it needs
    assert (m / 'copy/big').read_bytes() == b'changed' + data[7:]


def objects_and_jobs_read_snapshots_where_they_are(c):
    c.bucket('in')
    data = pattern(1 << 20, 4)
    c.put('/in/a', data)
    c.ok('snapshot', 'take', '/in', 's')
    c.put('/in/a', b'other\n')
    got = c.dir / 'got'
    assert c.s3cmd('get', 's3://in/.snapshot/s/a', got).code == 0 and got.read_bytes() == data
    job = c.json('job', 'run', '--map', 'wc -c', '/in/.snapshot/s/a')[-1]
    assert job['state'] == 'done' and job['receipt']['local'] > 0 and job['receipt']['remote'] == 0, job


if __name__ == '__main__':
    main([what_was_written_before_stays_while_a_writer_goes_on, a_clone_is_written_and_its_base_is_not,
          objects_and_jobs_read_snapshots_where_they_are])
