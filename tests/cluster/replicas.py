"""What the tests of the metadata service's replicas share: replicas beside those of `tarn cluster up`, a writer of names,
what status says."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

from harness import BUILD, background, wait_until

METAD = BUILD / 'metadata' / 'tarn-metad'


class Replica:
    """One that is not of `tarn cluster up`: its port is its own, its directory below the cluster's home."""

    def __init__(self, c, id, dir=None):
        self.c, self.id = c, id
        self.dir = Path(dir or c.home / f'extra-{id}')
        self.dir.mkdir(exist_ok=True)
        self.log = c.home / 'log' / f'extra-{id}.log'
        self.address = f'tcp:127.0.0.1:{self.free_port()}'
        self.process = None

    def free_port(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            return s.getsockname()[1]

    def start(self, *options):
        with open(self.log, 'a') as log:
            mark = log.tell()
            self.process = self.c.start(METAD, '--id', self.id, '--dir', self.dir, '--listen', self.address, *options,
                                        stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: 'ready ' in self.log.read_text()[mark:] or self.process.poll() is not None, f'replica {self.id} to start')
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return self

    def join(self):
        return self.start('--join')

    def stop(self, sig=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(60)


class Names:
    """Makes directories one after another; remembers which were acknowledged."""

    def __init__(self, c, base):
        self.c, self.base, self.acked, self.failed, self.stop = c, base, [], [], threading.Event()
        c.ok('mkdir', '--parents', base)

    def __call__(self):
        i = 0
        while not self.stop.is_set():
            done = self.c.tarn('mkdir', f'{self.base}/{i}')
            (self.acked if done.code == 0 else self.failed).append(f'{self.base}/{i}' if done.code == 0 else done)
            i += 1

    @contextlib.contextmanager
    def running(self):
        """Ends when the block does, however that is."""
        with background(self):
            try:
                yield self
            finally:
                self.stop.set()

    def more(self, n=5):
        before = len(self.acked)
        wait_until(lambda: len(self.acked) >= before + n, f'{n} more names', 120)

    def check(self):
        there = {row['path'] if row['path'].startswith('/') else f"{self.base}/{row['path']}" for row in self.c.json('ls', self.base)}
        missing = [name for name in self.acked if name not in there and name.rsplit('/', 1)[1] not in
                   {path.rstrip('/').rsplit('/', 1)[1] for path in there}]
        assert not missing, f'{len(missing)} of {len(self.acked)} acknowledged names are lost: {missing[:5]}'


def point_config_at(c, addresses):
    """What an operator does after a change: the configuration file names those that are there now."""
    path = Path(c.env['TARN_CONFIG'])
    lines = [line for line in path.read_text().splitlines() if not line.startswith('meta =')]
    new = path.with_suffix('.new')
    new.write_text('\n'.join(lines + ['meta = ' + ' '.join(addresses)]) + '\n')
    os.chmod(new, path.stat().st_mode)
    new.rename(path)


def meta_address(c):
    for line in Path(c.env['TARN_CONFIG']).read_text().splitlines():
        if line.startswith('meta ='):
            return line.split('=', 1)[1].split()


def status(c):
    done = c.tarn('meta', 'status', '--json')
    return [json.loads(line) for line in done.out.splitlines()]


def states(c):
    return {row['id']: row['state'] for row in status(c)}


def checks_clean(c, replica):
    done = c.tarn('meta', 'check', replica)
    assert done.code == 0, done
