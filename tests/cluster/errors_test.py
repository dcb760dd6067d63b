"""Mistakes of users: one clear sentence on standard error and the documented exit code."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from harness import BUILD, TARN, main


def complains(done, code, *words):
    text = done.err.decode()
    assert done.code == code, f'expected exit {code}: {done}'
    assert len(text.strip().splitlines()) == 1, f'not one sentence: {text!r}'
    for word in words:
        assert word in text, f'{word!r} is not in {text!r}'


def a_missing_file_is_exit_3(c):
    complains(c.tarn('cat', '/nope/nothing'), 3, '/nope/nothing', 'no such file')
    complains(c.tarn('stat', '/nope'), 3, '/nope')
    complains(c.tarn('rm', '/nope'), 3, '/nope')
    c.ok('mkdir', '/x')
    complains(c.tarn('put', '/no/such/local/file', '/x/y'), 3, '/no/such/local/file')
    complains(c.tarn('put', '-', '/nobucket/y', input=b''), 3, 'no bucket /nobucket', 'tarn mkdir')
    complains(c.tarn('job', 'show', '999'), 3, '999')
    complains(c.tarn('job', 'run', '--map', 'wc', '/nope'), 3, '/nope')
    complains(c.tarn('cluster', 'status', '--dir', c.dir / 'none'), 3, 'none')


def what_cannot_be_meant_is_refused(c):
    complains(c.tarn('rm', '--recursive', '/'), 2, 'root')
    complains(c.tarn('ls', 'relative'), 2, 'relative', "begin with '/'")
    complains(c.tarn('job', 'run', '--map', 'wc', 'relative'), 2, 'relative')
    complains(c.tarn('cp', __file__, 'there'), 2, 'tarn:')
    complains(c.tarn('cat', '/x'), 1, 'directory')
    complains(c.tarn('put', c.dir, '/x/d'), 2, '--recursive')


def a_configuration_that_does_not_serve_names_the_line(c):
    bad = c.dir / 'bad.conf'
    for text, words in [('garbage\n', ['bad.conf:1', '=']), ('key = zz\n', ['bad.conf:1', '64']), ('', ['cluster_id'])]:
        bad.write_text(text)
        complains(c.tarn('ls', '/', '--config', bad), 1, *words)
    complains(c.tarn('ls', '/', '--config', c.dir), 1, str(c.dir))


def somebody_else_is_denied_with_exit_4(c):
    if os.geteuid() != 0:
        raise __import__('harness').Skip('only root can become somebody else')
    secret, shared = c.dir / 'secret.conf', c.dir / 'shared.conf'
    for path, mode in [(secret, 0o600), (shared, 0o644)]:
        path.write_text((c.home / 'tarn.conf').read_text())
        path.chmod(mode)
    c.dir.chmod(0o755)
    nobody = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', TARN]
    complains(c.run(*nobody, 'ls', '/', '--config', secret), 4, 'secret.conf', 'permission denied')
    complains(c.run(*nobody, 'put', __file__, '/x/y', '--config', shared), 4, '/x/y', 'permission denied')
    complains(c.run(*nobody, 'cluster', 'down', '--dir', c.home), 4, str(c.home))


def a_bad_flag_is_exit_2(c):
    complains(c.tarn('ls', '--no-such-flag'), 2, '--no-such-flag')
    complains(c.tarn('cluster', 'up', '--nodes', '0'), 2, '--nodes')
    complains(c.tarn('cluster', 'up', '--nodes', 'many'), 2, '--nodes')
    complains(c.tarn('frobnicate'), 2, 'frobnicate')
    complains(c.tarn('put', '--copies', '9', '-', '/x/y', input=b''), 2, '--copies')


def a_wrong_cluster_key_is_exit_4(c):
    text = (c.home / 'tarn.conf').read_text()
    bad = '\n'.join('key = ' + 'ab' * 32 if line.startswith('key') else line for line in text.splitlines())
    (c.dir / 'bad.conf').write_text(bad + '\n')
    complains(c.tarn('ls', '/', '--config', c.dir / 'bad.conf'), 4, 'key')


def a_wrong_s3_key_is_refused_by_name(c):
    saved = c.env['AWS_SECRET_ACCESS_KEY']
    c.env['AWS_SECRET_ACCESS_KEY'] = 'wrong' * 8
    done = c.s3cmd('ls')
    c.env['AWS_SECRET_ACCESS_KEY'] = saved
    assert done.code != 0 and b'SignatureDoesNotMatch' in done.err, done
    saved, c.env['AWS_ACCESS_KEY_ID'] = c.env['AWS_ACCESS_KEY_ID'], 'NOSUCHKEY'
    done = c.s3cmd('ls')
    c.env['AWS_ACCESS_KEY_ID'] = saved
    assert done.code != 0 and b'InvalidAccessKeyId' in done.err, done


def no_configuration_is_exit_3_and_a_dead_cluster_exit_5(c):
    complains(c.tarn('ls', '/', '--config', '/no/such.conf'), 3, '/no/such.conf')


def a_port_in_use_is_exit_7(c):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        address = f'tcp:127.0.0.1:{s.getsockname()[1]}'
        for program, more in [('gateway/tarn-gatewayd', []), ('compute/tarn-allocd', []),
                              ('objstore/tarn-stored', ['--dir', str(c.dir / 'spare'), '--host', 'x', '--rack', 'y'])]:
            (c.dir / 'spare').mkdir(exist_ok=True)
            done = c.run(BUILD / program, '--config', c.home / 'tarn.conf', '--listen', address, *more, timeout=60)
            assert done.code == 7, (program, done)
            assert address.split(':')[2] in done.err.decode(), (program, done)
            complains(c.run(BUILD / program, '--config', c.home / 'tarn.conf', '--listen', 'here', *more, timeout=60), 2,
                      '--listen', 'tcp:HOST:PORT')


def a_directory_without_space_is_exit_6(c):
    small = Path(tempfile.mkdtemp(prefix='tarn-small-'))
    try:
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]).returncode != 0:
            raise __import__('harness').Skip('cannot mount a small tmpfs')
        done = c.run(BUILD / 'objstore/tarn-stored', '--config', c.home / 'tarn.conf', '--dir', small / 'd', '--listen',
                     'tcp:127.0.0.1:0', '--host', 'small', '--rack', 'r', timeout=60)
        assert done.code == 6, done
        assert str(small) in done.err.decode(), done
        complains(c.tarn('cluster', 'up', '--dir', small / 'c'), 6, 'no space', str(small))
    finally:
        subprocess.run(['umount', small], capture_output=True)
        shutil.rmtree(small, ignore_errors=True)


def a_mount_point_that_is_not_there_is_exit_3(c):
    complains(c.tarn('mount', c.dir / 'no-such-dir'), 3, 'no-such-dir')
    complains(c.tarn('umount', c.dir / 'no-such-dir'), 3, 'no-such-dir')


def only_tarn_is_unmounted_and_mounted_once(c):
    complains(c.tarn('umount', '/proc'), 3, '/proc', 'not mounted')
    point = c.mount()
    complains(c.tarn('mount', point), 1, str(point), 'already')
    c.umount(point)


def a_path_too_long_for_sockets_is_exit_2(c):
    complains(c.tarn('cluster', 'up', '--dir', c.dir / ('d' * 120)), 2, '--dir')


if __name__ == '__main__':
    main([a_missing_file_is_exit_3, a_bad_flag_is_exit_2, what_cannot_be_meant_is_refused,
          a_configuration_that_does_not_serve_names_the_line, somebody_else_is_denied_with_exit_4, a_wrong_cluster_key_is_exit_4, a_wrong_s3_key_is_refused_by_name,
          no_configuration_is_exit_3_and_a_dead_cluster_exit_5, a_port_in_use_is_exit_7, a_directory_without_space_is_exit_6,
          a_mount_point_that_is_not_there_is_exit_3, only_tarn_is_unmounted_and_mounted_once,
          a_path_too_long_for_sockets_is_exit_2], nodes=1, meta=1, racks=1)
