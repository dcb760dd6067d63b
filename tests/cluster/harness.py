"""A real cluster for one test: started in a fresh directory, torn down to the last process and mount.

Every test file is a program: exit 0 passed, 1 failed, 77 skipped with the reason on standard output.
Waiting is for events (wait_until polls a condition), never for time to pass."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

BUILD = Path(os.environ.get('TARN_BUILD', Path(__file__).resolve().parents[2] / 'build'))
TARN = str(BUILD / 'client' / 'tarn')
WAIT_SECONDS = 60


class Skip(Exception):
    pass


def wait_until(condition, what, seconds=WAIT_SECONDS):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'waited {seconds} s for: {what}')
        time.sleep(0.05)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def pattern(size, seed):
    """Bytes that are the same for the same seed and differ everywhere else."""
    source, piece = random.Random(seed), 1 << 24
    return b''.join(source.randbytes(min(piece, size - at)) for at in range(0, size, piece))


class Result:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self):
        return f'exit {self.code}, stdout {self.out[-600:]!r}, stderr {self.err[-1500:]!r}'


class Cluster:
    def __init__(self, nodes=3, meta=1, racks=1, disks=1, own_file_system=False):
        self.dir = Path(tempfile.mkdtemp(prefix='tarn-test-'))
        self.home = self.dir / 'c'
        self.numbers = ['--nodes', str(nodes), '--meta', str(meta), '--racks', str(racks), '--disks', str(disks)]
        self.mounts = []
        self.buckets = set()
        self.own_file_system = own_file_system  # its free space is nobody else's business then
        self.env = dict(os.environ, LC_ALL='C.UTF-8')

    # ---- life
    def up(self):
        if self.own_file_system:
            self.home.mkdir()
            done = self.run('mount', '-t', 'tmpfs', '-o', 'size=4g', 'tarn-test', self.home)
            self.own_file_system = done.code == 0
        done = self.tarn('cluster', 'up', '--dir', str(self.home), *self.numbers)
        assert done.code == 0, f'cluster up: {done}\n{self.logs()}'
        for line in (self.home / 'tarn.env').read_text().splitlines():
            if line.startswith('export '):
                name, value = line[7:].split('=', 1)
                self.env[name] = value.strip("'")
        return self

    def down(self):
        for point in list(self.mounts):
            with contextlib.suppress(Exception):
                self.umount(point, lazy=True)
        done = self.tarn('cluster', 'down', '--dir', str(self.home))
        left = self.processes_left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.own_file_system:
            self.run('umount', '-l', self.home)
        if not os.environ.get('TARN_KEEP'):
            shutil.rmtree(self.dir, ignore_errors=True)
        assert not left, f'processes left behind: {left}'
        assert done.code == 0, f'cluster down: {done}'

    def processes_left(self):
        """Processes whose command line names this cluster's directory."""
        left = []
        for entry in Path('/proc').iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if str(self.home).encode() in (entry / 'cmdline').read_bytes():
                    left.append(int(entry.name))
        return left

    def logs(self, lines=12):
        text = ''
        for log in sorted((self.home / 'log').glob('*.log')) if (self.home / 'log').exists() else []:
            tail = log.read_text(errors='replace').splitlines()[-lines:]
            text += f'--- {log.name}\n' + '\n'.join(tail) + '\n'
        return text

    # ---- commands
    def run(self, *argv, input=None, timeout=300, cwd=None):
        return Result(subprocess.run([str(a) for a in argv], input=input, capture_output=True, env=self.env,
                                     timeout=timeout, cwd=cwd))

    def start(self, *argv, **kwargs):
        return subprocess.Popen([str(a) for a in argv], env=self.env, **kwargs)

    def tarn(self, *argv, **kwargs):
        return self.run(TARN, *argv, **kwargs)

    def ok(self, *argv, **kwargs):
        done = self.tarn(*argv, **kwargs)
        assert done.code == 0, f'tarn {" ".join(map(str, argv))}: {done}\n{self.logs()}'
        return done.out

    def put(self, path, data):
        self.bucket(path.split('/')[1])
        self.ok('put', '-', path, input=data)

    def bucket(self, name):
        if name not in self.buckets:
            self.ok('mkdir', '--parents', f'/{name}')
            self.buckets.add(name)

    def cat(self, path):
        return self.ok('cat', path)

    def json(self, *argv):
        return [json.loads(line) for line in self.ok(*argv, '--json').splitlines()]

    # ---- processes
    def pid(self, name):
        return int((self.home / 'run' / f'{name}.pid').read_text().split()[0])

    def kill(self, name, sig=signal.SIGKILL):
        pid = self.pid(name)
        os.kill(pid, sig)
        if sig == signal.SIGKILL:
            wait_until(lambda: not alive(pid), f'{name} to die')

    def restart(self):
        """Starts whatever of the cluster does not run."""
        done = self.tarn('cluster', 'up', '--dir', str(self.home))
        assert done.code == 0, f'cluster up again: {done}\n{self.logs()}'

    def status(self):
        """Exit code 1 only says that not every chunk has all its copies."""
        done = self.tarn('status', '--json')
        assert done.code in (0, 1) and done.out, done
        return json.loads(done.out)

    def leader(self):
        return self.status()['leader']

    def nodes_up(self):
        return [n['id'] for n in self.json('node', 'ls') if n['up']]

    # ---- mounts
    def mount(self, name='mnt'):
        if not os.path.exists('/dev/fuse'):
            raise Skip('no /dev/fuse on this machine')
        point = self.dir / name
        point.mkdir(exist_ok=True)
        done = self.tarn('mount', str(point))
        assert done.code == 0, f'mount: {done}\n{self.logs()}'
        self.mounts.append(point)
        return point

    def umount(self, point, lazy=False):
        done = self.tarn('umount', *(['--lazy'] if lazy else []), str(point))
        if point in self.mounts:
            self.mounts.remove(point)
        assert done.code == 0, f'umount: {done}'

    # ---- S3, by s3cmd
    def s3cmd(self, *argv, **kwargs):
        host = self.env['AWS_ENDPOINT_URL'].split('//')[1]
        config = self.dir / 's3cfg'
        config.write_text(f"[default]\naccess_key = {self.env['AWS_ACCESS_KEY_ID']}\n"
                          f"secret_key = {self.env['AWS_SECRET_ACCESS_KEY']}\nhost_base = {host}\nhost_bucket = {host}\n"
                          'use_https = False\nsignature_v2 = False\nbucket_location = us-east-1\n')
        return self.run('s3cmd', '-c', config, '--no-progress', *argv, **kwargs)


def alive(pid):
    try:
        return (Path('/proc') / str(pid) / 'stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


@contextlib.contextmanager
def background(fn, *args):
    """Runs fn(*args) in a thread; leaving the block waits for it and raises what it raised."""
    box = {}

    def body():
        try:
            box['value'] = fn(*args)
        except BaseException as why:  # noqa: handed on below
            box['error'] = why

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield box
    finally:
        thread.join(300)
        assert not thread.is_alive(), 'the background work does not end'
        if 'error' in box:
            raise box['error']


def main(tests, **numbers):
    """Runs each function with one shared cluster; prints a line each."""
    cluster = Cluster(**numbers)
    failed = 0
    try:
        cluster.up()
        for test in tests:
            name = test.__name__.replace('_', ' ')
            try:
                test(cluster)
                print(f'ok    {name}', flush=True)
            except Skip as why:
                print(f'skip  {name}: {why}', flush=True)
            except Exception as why:  # noqa: reported, counted
                failed += 1
                print(f'FAIL  {name}: {why}', flush=True)
                traceback.print_exc()
        if failed:
            print(cluster.logs(30))
    except Exception as why:  # noqa: reported, counted
        failed += 1
        print(f'FAIL  starting: {why}', flush=True)
    finally:
        try:
            cluster.down()
        except Exception as why:  # noqa: reported, counted
            failed += 1
            print(f'FAIL  stopping: {why}', flush=True)
    sys.exit(1 if failed else 0)
