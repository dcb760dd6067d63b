"""The present metadata service starts from what earlier releases wrote, finds in it what they put there, and the checker finds
nothing wrong, neither before nor after."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

BUILD = Path(os.environ['TARN_BUILD'])
TARN, METAD = BUILD / 'client' / 'tarn', BUILD / 'metadata' / 'tarn-metad'
EXPECTED = {  # path below /b → its type
    'moved': 'file', 'big': 'file', 'words': 'file', 'd': 'directory', 'late1': 'directory', 'late20': 'directory', 'hard': 'file',
    'soft': 'file', 'x2': 'directory', 'd/f3': 'file', 'd/f30': 'file', 'x2/y/z': 'directory'}
GONE = ['d/f1', 'd/f2', 'd/f8', 'x']


def run(*argv, env=None):
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, env=env)


def check(directory):
    done = run(METAD, '--check', '--dir', directory)
    assert done.returncode == 0 and 'sound' in done.stdout, (done.stdout, done.stderr)


def serve(directory, look):
    """Runs look(env) while a replica serves the directory."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        address = f'tcp:127.0.0.1:{s.getsockname()[1]}'
    config = directory.parent / 'tarn.conf'
    config.write_text(f'cluster_id = 0x1\nkey = {"ab" * 32}\nmeta = {address}\n')
    env = dict(os.environ, TARN_CONFIG=str(config))
    with open(directory.parent / 'log', 'w') as log:
        process = subprocess.Popen([str(METAD), '--dir', str(directory)], stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        end = time.monotonic() + 60
        while 'ready' not in (directory.parent / 'log').read_text():
            assert process.poll() is None and time.monotonic() < end, (directory.parent / 'log').read_text()
            time.sleep(0.02)
        look(env)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def look(env):
    for path, kind in EXPECTED.items():
        done = run(TARN, 'stat', '--json', f'/b/{path}', env=env)
        assert done.returncode == 0 and f'"type":"{kind}"' in done.stdout.replace(' ', ''), (path, done.stdout, done.stderr)
    for path in GONE:
        assert run(TARN, 'stat', f'/b/{path}', env=env).returncode == 3, path
    assert '"nlink":2' in run(TARN, 'stat', '--json', '/b/hard', env=env).stdout.replace(' ', '')
    assert '"mode":"0640"' in run(TARN, 'stat', '--json', '/b/d/f6', env=env).stdout.replace(' ', '') or \
        '640' in run(TARN, 'stat', '--json', '/b/d/f6', env=env).stdout
    assert run(TARN, 'mkdir', '/b/new', env=env).returncode == 0  # and it goes on
    assert run(TARN, 'mv', '/b/d/f9', '/b/new/f9', env=env).returncode == 0
    assert run(TARN, 'job', 'ls', env=env).returncode == 0


def from_release(archive):
    home = Path(tempfile.mkdtemp(prefix='tarn-upgrade-'))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(home)
        directory = home / 'frozen'
        check(directory)
        serve(directory, look)
        check(directory)
    finally:
        shutil.rmtree(home)


failed = 0
for release in sorted((Path(__file__).parent / 'upgrade').glob('*.tar.xz')):
    try:
        from_release(release)
        print(f'ok    {release.name}')
    except Exception as why:  # noqa: reported, counted
        failed += 1
        print(f'FAIL  {release.name}: {why!r}')
sys.exit(failed != 0)
