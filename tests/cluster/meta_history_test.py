"""The metadata service as real processes, each in a network namespace of its own, while replicas are killed and stopped and the
network is cut, one way too. Clients record what they did and were told; the history must be linearizable. Two of three clients
use leases: what they read from a cache, keep back of a size or decide about a lock is in the history like what they ask for.
All take snapshots and clones; one that breaks their rules ends its client (tests/history/load_snapshot.c).

For longer: TARN_META_SECONDS=600 meta_history_test.py. The seed of the faults is printed; TARN_META_SEED sets it. The
times of real processes are their own, so a seed repeats the faults, not the run."""

import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import BUILD, TARN, Skip, wait_until

METAD = str(BUILD / 'metadata' / 'tarn-metad')
RECORD = str(BUILD / 'tests' / 'history' / 'history-record')
CHECK = str(BUILD / 'tests' / 'history' / 'history-check')
SECONDS = float(os.environ.get('TARN_META_SECONDS', '70'))
SEED = int(os.environ.get('TARN_META_SEED', str(os.getpid())))
CLIENTS = 3
COUNTED = re.compile(r'(cached_reads|kept_raises|locks_here|snapshots|clones)=(\d+)')


def ip(*words, check=True):
    done = subprocess.run(['ip', *map(str, words)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f'ip {" ".join(map(str, words))}: {done.stderr.strip()}')
    return done.returncode == 0


class Network:
    """Namespaces on one bridge, which is in a namespace, too: nothing of it is seen outside, and it goes with them."""

    def __init__(self, names):
        self.prefix = f'tarn{os.getpid()}'
        self.spaces = []
        self.address = {name: f'10.77.0.{i + 1}' for i, name in enumerate(names)}
        self.cuts = set()
        if not shutil.which('ip') or not ip('netns', 'add', self.space('hub'), check=False):
            raise Skip('network namespaces cannot be made here')
        self.spaces.append(self.space('hub'))
        ip('-n', self.space('hub'), 'link', 'add', 'hub', 'type', 'bridge')
        ip('-n', self.space('hub'), 'link', 'set', 'hub', 'up')
        for name in names:
            self.join(name)

    def space(self, name):
        return f'{self.prefix}-{name}'

    def join(self, name):
        own, hub = self.space(name), self.space('hub')
        ip('netns', 'add', own)
        self.spaces.append(own)
        ip('-n', own, 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', f'p{name}', 'netns', hub)
        ip('-n', hub, 'link', 'set', f'p{name}', 'master', 'hub')
        ip('-n', hub, 'link', 'set', f'p{name}', 'up')
        ip('-n', own, 'addr', 'add', f'{self.address[name]}/24', 'dev', 'up0')
        ip('-n', own, 'link', 'set', 'up0', 'up')
        ip('-n', own, 'link', 'set', 'lo', 'up')

    def cut(self, a, b):
        """What `a` sends to `b` is lost."""
        if (a, b) not in self.cuts:
            self.cuts.add((a, b))
            ip('-n', self.space(a), 'route', 'add', 'blackhole', f'{self.address[b]}/32')

    def mend(self):
        for a, b in self.cuts:
            ip('-n', self.space(a), 'route', 'del', 'blackhole', f'{self.address[b]}/32')
        self.cuts.clear()

    def command(self, name, *argv):
        return ['ip', 'netns', 'exec', self.space(name), *map(str, argv)]

    def close(self):
        for space in self.spaces:
            ip('netns', 'del', space, check=False)


class Service:
    def __init__(self, replicas, rng):
        self.rng = rng
        self.names = [f'm{i + 1}' for i in range(replicas)]
        self.clients = [f'c{i + 1}' for i in range(CLIENTS)]
        self.dir = Path(tempfile.mkdtemp(prefix='tarn-test-'))
        self.processes, self.stopped, self.histories = {}, set(), []
        self.faults, self.next_faults = {}, []
        self.network = Network(self.names + self.clients)
        config = self.dir / 'tarn.conf'
        meta = ' '.join(f'tcp:{self.network.address[n]}:7000' for n in self.names)
        config.write_text(f'cluster_id = 0x4d\nkey = {"4d" * 32}\nmeta = {meta}\n')
        self.env = dict(os.environ, TARN_CONFIG=str(config), LC_ALL='C.UTF-8')

    # ---- processes
    def spawn(self, name, *argv):
        log = open(self.dir / f'{name}.log', 'ab')
        self.processes[name] = subprocess.Popen(self.network.command(name, *argv), env=self.env, stdout=log, stderr=log)
        log.close()

    def start(self, name):
        if name not in self.processes:
            self.spawn(name, METAD, '--id', name[1:], '--dir', self.dir / name)

    def signal(self, name, sig):
        self.processes[name].send_signal(sig)

    def end(self, name, sig):
        process = self.processes.pop(name)
        process.send_signal(sig)
        self.stopped.discard(name)
        process.send_signal(signal.SIGCONT)
        return process.wait(60)

    def record(self, name):
        out = self.dir / f'{name}.history'
        self.histories.append(out)
        # The third sends some changes twice; one who holds leases must not (record.c).
        leases = ['--leases', '--workers', '4', '--readers', '2'] if int(name[1:]) % 3 != 0 else []
        self.spawn(name, RECORD, '--client', name[1:], '--seed', SEED, '--out', out, '--snapshots', *leases)

    def ready(self, name):
        return b'ready' in (self.dir / f'{name}.log').read_bytes()

    def leader(self):
        """Asked of whoever answers soon; None when nobody does."""
        asker = self.rng.choice(self.clients)
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError, KeyError):
            done = subprocess.run(self.network.command(asker, TARN, 'status', '--json'), env=self.env, capture_output=True, timeout=1)
            return f"m{json.loads(done.stdout)['leader']}"
        return None

    def victim(self):
        return (self.leader() if self.rng.random() < 0.6 else None) or self.rng.choice(self.names)

    def last(self, seconds):
        """A fault lasts; nobody may end meanwhile who was not told to."""
        for name, process in list(self.processes.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds / len(self.processes))
                raise AssertionError(f'{name} has ended by itself: {code}')

    # ---- faults
    def fault(self):
        if not self.next_faults:
            self.next_faults = [self.killed, self.all_killed, self.stopped_for_a_while, self.stopped_for_a_while, self.cut_off, self.cut_off,
                                self.one_way, self.one_way, self.client_cut_off, self.client_cut_off, self.client_cut_off, self.client_stopped]
            self.rng.shuffle(self.next_faults)
        kind = self.next_faults.pop()
        self.faults[kind.__name__] = self.faults.get(kind.__name__, 0) + 1
        kind()
        self.network.mend()
        self.last(0.2 + self.rng.random() * 2)

    def killed(self):
        name = self.victim()
        self.end(name, signal.SIGKILL)
        self.last(self.rng.random() * 3)
        self.start(name)

    def all_killed(self):
        for name in self.names:
            self.end(name, signal.SIGKILL)
        for name in self.names:
            self.start(name)

    def stop_for(self, name, seconds):
        self.signal(name, signal.SIGSTOP)
        self.last(seconds)
        self.signal(name, signal.SIGCONT)

    def stopped_for_a_while(self):
        self.stop_for(self.victim(), 0.5 + self.rng.random() * 4)

    def client_stopped(self):
        """For longer than its session lasts."""
        self.stop_for(self.rng.choice(self.clients), 6)

    def cut_all(self, name, ways):
        for other in self.names:
            if other == name:
                continue
            if 'out' in ways:
                self.network.cut(name, other)
            if 'in' in ways:
                self.network.cut(other, name)

    def cut_off(self):
        """From the other replicas, not from the clients: there a leader that does not know yet answers."""
        self.cut_all(self.victim(), ('in', 'out'))
        self.last(1 + self.rng.random() * 4)

    def one_way(self):
        self.cut_all(self.victim(), (self.rng.choice(('in', 'out')),))
        self.last(1 + self.rng.random() * 4)

    def client_cut_off(self):
        """Mostly from all: what it may still trust without a word from anybody is what the others change meanwhile."""
        client = self.rng.choice(self.clients)
        several = self.rng.sample(self.names, self.rng.randrange(1, len(self.names) + 1))
        for name in self.names if self.rng.random() < 0.6 else several:
            self.network.cut(client, name)
            self.network.cut(name, client)
        self.last(1 + self.rng.random() * 5)

    # ---- the run
    def run(self, seconds):
        for name in self.names:
            self.start(name)
        for name in self.clients:
            self.record(name)
        for name in self.clients:
            wait_until(lambda: self.ready(name), f'{name} to work\n{self.logs()}')
        end = os.times().elapsed + seconds
        while os.times().elapsed < end:
            self.fault()
        for name in self.clients:
            self.last(0.05)
            code = self.end(name, signal.SIGTERM)
            assert code == 0, f'{name}: exit {code}\n{self.logs()}'
        out = self.dir / 'look.history'
        self.histories.append(out)
        done = subprocess.run(self.network.command('c1', RECORD, '--client', '99', '--out', out, '--look'), env=self.env, capture_output=True,
                              timeout=120)
        assert done.returncode == 0, f'nobody answers after the faults: {done.stderr[-2000:]}\n{self.logs()}'
        for name in self.names:
            code = self.end(name, signal.SIGTERM)
            assert code == 0, f'{name}: exit {code}\n{self.logs()}'

    def check(self):
        done = subprocess.run([CHECK, *map(str, self.histories)], capture_output=True, text=True)
        lines = done.stdout.splitlines() or ['']
        if done.returncode != 0:
            raise AssertionError('\n'.join(lines[-200:]) + done.stderr)
        operations = int(lines[0].split()[0])
        assert operations > 200, f'the clients did next to nothing: {lines[0]}'
        return lines[0]

    def counted(self):
        """What the clients did without asking, and their snapshots, by what they wrote at their end."""
        sums = collections.Counter()
        for name in self.clients:
            for what, n in COUNTED.findall((self.dir / f'{name}.log').read_text(errors='replace')):
                sums[what] += int(n)
        return sums

    def logs(self):
        return '\n'.join(f'--- {p.name}\n' + '\n'.join(p.read_text(errors='replace').splitlines()[-15:]) for p in sorted(self.dir.glob('*.log')))

    def close(self):
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(60)
        self.network.close()
        if not os.environ.get('TARN_KEEP'):
            shutil.rmtree(self.dir, ignore_errors=True)


def one(replicas, seconds, rng):
    service = Service(replicas, rng)
    try:
        service.run(seconds)
        said = service.check()
        faults = ', '.join(f'{n} {name.replace("_", " ")}' for name, n in sorted(service.faults.items()))
        counted = service.counted()
        done = ', '.join(f'{n} {what.replace("_", " ")}' for what, n in sorted(counted.items()))
        print(f'ok    {replicas} replicas: {said}; {done}; {faults}', flush=True)
        return counted
    finally:
        service.close()


def main():
    print(f'seed {SEED}', flush=True)
    rng = random.Random(SEED)
    try:
        counted = one(3, SECONDS * 0.6, rng) + one(5, SECONDS * 0.4, rng)
        for what in ('cached_reads', 'kept_raises', 'locks_here', 'snapshots', 'clones'):
            assert counted[what] > 0, f'no {what.replace("_", " ")}: {dict(counted)}'
    except Skip as why:
        print(f'skip  {why}', flush=True)
        return 77
    except AssertionError as why:
        print(f'FAIL  {why}', flush=True)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
