"""Measures Tarn beside what it is compared with, in one run, alternating, and prints the ratio with its spread.

bench.py [--json] NAME...   NAME: metadata, data, posix, jobs. README.md says how each figure is taken.
Results are checked (same bytes, right counts, read from where it is claimed); times never are."""

import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests' / 'cluster'))
from harness import BUILD, Cluster, Skip, digest, pattern, wait_until  # noqa: E402

RUNS = int(os.environ.get('BENCH_RUNS', '7'))
FILES = int(os.environ.get('BENCH_FILES', '1000000'))  # in the parts of metadata that depend on it
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LOCALE = dict(os.environ, LC_ALL='C')  # grep's speed depends on it; tasks of jobs have no locale


class Wrong(Exception):
    """The result, or the way it came, is not what the figure claims."""


class Report:
    def __init__(self, bench, as_json):
        self.bench, self.as_json = bench, as_json

    def figure(self, figure, pairs, unit, against, bigger_is_better=True):
        """pairs: (Tarn's value, the other's) of each run; the ratio is Tarn's speed over the other's."""
        ratios = [(t / o if bigger_is_better else o / t) for t, o in pairs]
        self.print(figure, [t for t, _ in pairs], unit, against, ratios)

    def plain(self, figure, values, unit):
        """Beside nothing: min and max are of the values."""
        self.print(figure, values, unit, None, values)

    def print(self, figure, values, unit, against, spread):
        value, ratio = statistics.median(values), statistics.median(spread)
        row = {'bench': self.bench, 'figure': figure, 'value': digits(value, 4), 'unit': unit, 'against': against,
               'ratio': digits(ratio, 3) if against else None, 'min': digits(min(spread), 3), 'max': digits(max(spread), 3),
               'runs': len(spread)}
        if self.as_json:
            print(json.dumps(row), flush=True)
            return
        beside = f"{row['ratio']:6g} of {against}" if against else ''
        print(f"{self.bench:8} {figure:44} {row['value']:>9g} {unit:5} {beside:34} ({row['min']:g} … {row['max']:g}, "
              f"{row['runs']} runs)", flush=True)


def digits(number, n):
    return float(f'{number:.{n}g}')


def pairs(tarn, other):
    """Both in each run, every second time the other first; the first run warms up and does not count."""
    rows = []
    for i in range(RUNS + 1):
        if i % 2 == 0:
            t, o = tarn(), other()
        else:
            o, t = other(), tarn()
        rows.append((t, o))
    return rows[1:]


def timed(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start


def command(*argv, **kwargs):
    done = subprocess.run([str(a) for a in argv], capture_output=True, **kwargs)
    if done.returncode != 0:
        raise RuntimeError(f'{argv}: {done.stderr.decode(errors="replace")}')
    return done.stdout


def clustered(c, *argv):
    """A bench program of ours, in the cluster's environment: its lines, as numbers."""
    done = c.run(*argv)
    if done.code != 0:
        raise Wrong(done.err.decode(errors='replace').strip())
    return [tuple(map(float, line.split())) for line in done.out.decode().splitlines()]


def need(program):
    if not shutil.which(program):
        raise Skip(f'{program} is not installed')


def on_disk(path, data):
    """Written, synced and out of the page cache, as a chunk is."""
    path.write_bytes(data)
    forget([path])


def forget(paths):
    for path in paths:
        with open(path, 'rb') as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(paths):
    for path in paths:
        with open(path, 'rb', buffering=0) as f:
            while f.read(MIB):
                pass


# ---- metadata: changes and lookups, with one and with three replicas

METADATA = [  # figure, Tarn's column and the other's of meta_rate, against
    ('create, one at a time', 0, 4, 'raw O_DSYNC write'),
    ('create, one at a time', 0, 8, 'the writes and messages alone'),
    ('create, one at a time', 0, 5, 'bare LMDB put, synced'),
    ('create, 64 at a time', 1, 6, 'bare LMDB put, 64 a synced transaction'),
    ('lookup, one at a time', 2, 7, 'bare LMDB get'),
    ('lookup, 64 at a time', 3, 7, 'bare LMDB get'),
]


LOADS = [  # figure, meta_load's arguments, column of meta_rate beside it, against
    ('create, 1,024 under way on 64 connections', ('create', 64, 16, 1, 50000), 6, 'bare LMDB put, 64 a synced transaction'),
    ('create, batches of 100 on 16 connections', ('create', 16, 2, 100, 300000), 6, 'bare LMDB put, 64 a synced transaction'),
    ('lookup of a path, 64 under way on 16 connections', ('lookup', 16, 4, 1, 50000), 7, 'bare LMDB get'),
    ('lookup of a path, 100 a request on 16 connections', ('lookup', 16, 2, 100, 300000), 7, 'bare LMDB get'),
]


def metadata_in(c, report, replicas):
    name = '1 replica' if replicas == 1 else f'{replicas} replicas'
    scratch = c.dir / 'scratch'
    scratch.mkdir()
    rows = clustered(c, BUILD / 'bench/meta_rate', scratch, RUNS + 1, replicas)[1:]
    for figure, tarn, other, against in METADATA:
        report.figure(f'{figure}, {name}', [(row[tarn], row[other]) for row in rows], '/s', against)
    report.plain(f'create, one at a time, {name}: time', [1e6 / row[0] for row in rows], 'us')
    for figure, argv, other, against in LOADS:
        values = []
        for i, row in enumerate(rows):  # a lookup finds what the create of the same run has made
            what = [*argv, f'/load{argv[3]}-{i}']
            if argv[0] == 'lookup':
                clustered(c, BUILD / 'bench/meta_load', 'create', 16, 2, 100, argv[4], f'/look{argv[3]}-{i}')
                what[-1] = f'/look{argv[3]}-{i}'
            values.append((clustered(c, BUILD / 'bench/meta_load', *what)[0][0], row[other]))
        report.figure(f'{figure}, {name}', values, '/s', against)


def state_machine(report):
    """In one process, by processor time: how much of the figures above is the state machine's."""
    scratch = Path(tempfile.mkdtemp(prefix='tarn-bench-'))
    try:
        for batch, files in ((1, min(FILES, 1000000)), (100, FILES)):
            (scratch / str(batch)).mkdir()
            made, looked, listed, put, size, bare = (float(x) for x in command(
                BUILD / 'bench/meta_fsm', scratch / str(batch), files, batch).split())
            what = f'{files:,} files, requests of {batch}'
            report.figure(f'state machine: creates, {what}', [(made, put)], '/cpu-s', 'bare LMDB, two puts a file')
            if batch > 1:
                report.figure(f'state machine: lookups, {what}', [(looked, put)], '/cpu-s', 'bare LMDB, two puts a file')
                report.figure(f'state machine: entries listed, {what}', [(listed, put)], '/cpu-s', 'bare LMDB, two puts a file')
                report.figure(f'tables on disk, {what}', [(size, bare)], 'B/file', 'bare LMDB, two puts a file', False)
            shutil.rmtree(scratch / str(batch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resident_mib(c, n):
    text = Path(f"/proc/{c.pid(f'metad-{n}')}/status").read_text()
    return int(re.search(r'VmRSS:\s+(\d+)', text)[1]) / 1024


def load(c, *argv):
    """One line of meta_load, however long it takes."""
    done = c.run(BUILD / 'bench/meta_load', *argv, timeout=36000)
    if done.code != 0:
        raise Wrong(done.err.decode(errors='replace').strip())
    return tuple(map(float, done.out.split()))


def metadata_many(report):
    """Three replicas with FILES files: space, memory, a large directory, a snapshot, the death of the leader."""
    entries = min(FILES, 1000000)
    with cluster(nodes=1, meta=3) as c:
        what = f'{FILES:,} files'
        report.plain(f'create, batches of 1,000, up to {what}, 3 replicas', [load(c, 'create', 16, 1, 1000, FILES, '/many')[0]], '/s')
        tables = [sum(f.stat().st_blocks * 512 for f in (c.home / f'meta-{n}' / 'tables').iterdir()) / FILES for n in (1, 2, 3)]
        report.plain(f'tables on disk, {what}, each replica', tables, 'B/file')
        load(c, 'lookup', 16, 2, 100, FILES, '/many')
        report.plain(f'resident memory after {what} were made and looked up', [resident_mib(c, n) for n in (1, 2, 3)], 'MiB')
        load(c, 'create', 16, 1, 1000, entries, '/flat', entries)
        rows = [clustered(c, BUILD / 'bench/meta_list', '/flat/dir-000000', entries)[0] for _ in range(RUNS + 1)][1:]
        report.plain(f'entries listed of a directory of {entries:,}', [row[0] for row in rows], '/s')
        report.plain('… memory of the reader from the first part to the last one', [row[1] for row in rows], 'KiB')
        quiet = [load(c, 'create', 1, 1, 1, 2000, f'/quiet{i}') for i in range(RUNS)]
        if c.tarn('meta', 'snapshot').code == 0:
            beside = [load(c, 'create', 1, 1, 1, 2000, f'/beside{i}') for i in range(RUNS)]
            report.figure('create, one at a time, during a snapshot: 99th hundredth',
                          [(b[3], q[3]) for b, q in zip(beside, quiet)], 'us', 'without a snapshot', False)
        else:
            print('bench: no snapshot can be asked for: its figure is left out', file=sys.stderr)
        leader_dies(c, report, what)


def leader_dies(c, report, what):
    leader = c.leader()
    files = c.status()['files']
    writer = c.start(BUILD / 'bench/meta_load', 'create', 8, 1, 1, 40000, '/death', stdout=subprocess.PIPE)
    while c.status()['files'] < files + 1000:
        pass
    c.kill(f'metad-{leader}')
    out = writer.communicate()[0]
    if writer.returncode != 0:
        raise Wrong('creates failed when the leader died')
    report.plain(f'longest create when the leader is killed, {what}', [float(out.split()[4]) / 1e6], 's')
    for n in (1, 2, 3):
        if n != leader:
            c.kill(f'metad-{n}')
    start = time.monotonic()
    c.restart()
    load(c, 'create', 1, 1, 1, 1, '/again')
    report.plain(f'all replicas killed: from their start until one leads and has made a file, {what}', [time.monotonic() - start], 's')


def bench_metadata(report):
    with cluster(nodes=1, meta=1) as c:
        metadata_in(c, report, 1)
    with cluster(nodes=1, meta=3) as c:
        metadata_in(c, report, 3)
    state_machine(report)
    metadata_many(report)


# ---- data: libtarn and puts

def local_reads(c, report):
    size = 48 * MIB
    data = pattern(size, 'local')
    c.ok('mkdir', '/bench')
    c.put('/bench/local', data)
    plain = c.dir / 'plain'
    on_disk(plain, data)
    for block, name in [(4 * KIB, 'local read 4 KiB'), (MIB, 'local read 1 MiB')]:
        rows = clustered(c, BUILD / 'bench/local_read', '/bench/local', plain, size, block, RUNS + 1)
        report.figure(name, [(t * 1e6, o * 1e6) for t, o in rows[1:]], 'us', 'pread', False)


def mount_counters(mount):
    return dict(line.split() for line in os.getxattr(mount, 'tarn.counters').decode().splitlines())


def mount_raw_reads(c, report):
    """After local_reads(): the same object through the mount, beside the same raw file."""
    for options, how, counter in [('passthrough=on', 'passed through', 'passthrough_opens'),
                                  ('passthrough=off', 'by descriptor', 'read_descriptor_bytes')]:
        point = c.dir / how.replace(' ', '-')
        point.mkdir()
        c.ok('mount', '--options', options, point)
        c.mounts.append(point)
        for block, name in [(4 * KIB, '4 KiB'), (MIB, '1 MiB')]:
            before = int(mount_counters(point)[counter])
            rows = clustered(c, BUILD / 'bench/file_read', point / 'bench/local', c.dir / 'plain', block, RUNS + 1)
            if int(mount_counters(point)[counter]) == before:
                print(f'bench: {how} serves nothing on this machine: its figures are left out', file=sys.stderr)
                break
            report.figure(f'mount read {name}, {how}', [(t * 1e6, o * 1e6) for t, o in rows[1:]], 'us', 'pread of the raw file', False)
        c.umount(point)


def raw_write_rate(c, size, copies):
    """MiB a second of the disk when `copies` files of `size` bytes are written at once, over space that was written
    before, past the page cache, and on disk at the end."""
    done = json.loads(command(
        'fio', '--name=raw', f'--directory={c.dir}', '--filename_format=raw.$jobnum', f'--numjobs={copies}', '--group_reporting',
        '--rw=write', '--bs=1M', f'--size={size}', '--direct=1', '--overwrite=1', '--ioengine=io_uring', '--iodepth=8',
        '--end_fsync=1', '--output-format=json'))
    write = done['jobs'][0]['write']
    if write['io_bytes'] != size * copies:
        raise Wrong(f"fio wrote {write['io_bytes']} bytes, not {copies} times {size}")
    return size * copies / MIB / (write['runtime'] / 1000)


def puts(c, report):
    need('fio')
    size, copies = 512 * MIB, 3
    source, numbers = c.dir / 'source', iter(range(1000))
    data = pattern(size, 'put')
    source.write_bytes(data)

    def put():
        path = f'/bench/put{next(numbers)}'
        seconds = timed(lambda: c.ok('put', '--copies', copies, source, path))
        if digest(c.cat(path)) != digest(data):
            raise Wrong(f'{path} is not what was put')
        c.ok('rm', path)
        return size / MIB / seconds

    report.figure('put 512 MiB, 3 copies', pairs(put, lambda: raw_write_rate(c, size, copies) / copies), 'MiB/s', 'raw disk / 3')


def taken(c):
    """MiB that the nodes' directories take up on the disk."""
    return sum(int(command('du', '-s', '--exclude=spare', '--block-size=1M', node).split()[0]) for node in c.home.glob('node-*'))


def coded_puts(c, report):
    """A large object is coded while it is put: the raw disk writes as many bytes, in as many files, at once."""
    need('fio')
    size, k, m = GIB, 4, 2
    source, numbers, space = c.dir / 'source', iter(range(1000)), []
    data = pattern(size, 'coded')
    source.write_bytes(data)
    c.ok('mkdir', '/coded')
    c.ok('policy', 'set', '/coded', f'code={k}+{m}')

    def put():
        path, before = f'/coded/put{next(numbers)}', taken(c)
        seconds = timed(lambda: c.ok('put', source, path))
        space.append((taken(c) - before, size / MIB))
        if digest(c.cat(path)) != digest(data):
            raise Wrong(f'{path} is not what was put')
        c.ok('rm', path)
        wait_until(lambda: taken(c) <= before + size // MIB // 100, f'the space of {path} to be free')
        return size / MIB / seconds

    report.figure(f'put 1 GiB, {k}+{m}', pairs(put, lambda: raw_write_rate(c, size // k, k + m) * k / (k + m)), 'MiB/s',
                  f'raw disk / {(k + m) / k}')
    report.figure(f'put 1 GiB, {k}+{m}: space', space[1:], 'MiB', 'raw bytes', False)


def network_reads(c, report):
    """A file whose only copy is on node 2, read by a client of node 1."""
    size = 192 * MIB
    data = pattern(size, 'net')
    source = c.dir / 'net'
    source.write_bytes(data)
    c.ok('put', '--config', c.home / 'node-2/tarn.conf', '--copies', 1, source, '/bench/net')
    holders = {row['node'] for row in c.json('locate', '/bench/net')}
    if holders != {2}:
        raise Wrong(f'/bench/net is on {holders}, not on node 2 alone')
    env = dict(c.env, TARN_CONFIG=str(c.home / 'node-1/tarn.conf'))
    out = command(BUILD / 'bench/net_read', '/bench/net', size, RUNS + 1, c.pid('stored-2'), env=env)
    rows = [tuple(map(float, line.split())) for line in out.decode().splitlines()][1:]
    report.figure('remote read 1 MiB, 8 ahead', [(row[0], row[1]) for row in rows], 'MiB/s', 'one TCP stream over loopback')
    report.plain('remote read 4 KiB, 64 under way, cached', [row[2] for row in rows], '/s')
    report.plain('… for a second of processor time of the store', [row[3] for row in rows], '/cpu-s')


def code_rates(report):
    for k, m in ((4, 2), (8, 3), (10, 4)):
        rows = [tuple(map(float, line.split())) for line in command(BUILD / 'bench/code_rate', k, m, RUNS + 1).decode().splitlines()][1:]
        report.figure(f'encode {k}+{m}', [(row[0], row[1]) for row in rows], 'GB/s', 'ISA-L alone')
        report.plain(f'compute a lost shard of {k}+{m}', [row[4] for row in rows], 'GB/s read')
        if k == 4:
            report.figure('checksum of a cell', [(row[2], row[3]) for row in rows], 'GB/s', 'ISA-L alone')


def bench_data(report):
    code_rates(report)
    with cluster(nodes=3, meta=1) as c:
        local_reads(c, report)
        mount_raw_reads(c, report)
        network_reads(c, report)
        puts(c, report)
    with cluster(nodes=6, meta=1) as c:
        coded_puts(c, report)


# ---- healing: a node is lost

def copy_rate(c, size):
    """MiB a second of the disk when `size` bytes are read and as many written at the same time, past the page cache."""
    need('fio')
    done = json.loads(command(
        'fio', f'--directory={c.dir}', '--bs=1M', f'--size={size}', '--direct=1', '--ioengine=io_uring', '--iodepth=8', '--overwrite=1',
        '--output-format=json', '--name=in', '--rw=read', '--name=out', '--rw=write', '--end_fsync=1'))
    return size / MIB / (max(job[way]['runtime'] for job, way in zip(done['jobs'], ('read', 'write'))) / 1000)


def probe(c, path, size, seconds):
    """Median and 99th of a hundred of 4 KiB reads by a client of node 1."""
    env = dict(c.env, TARN_CONFIG=str(c.home / 'node-1/tarn.conf'))
    return tuple(map(float, command(BUILD / 'bench/read_probe', path, size, seconds, env=env).split()))[:2]


def healing(c):
    """Exit code 1 only says that not every chunk is safe."""
    return json.loads(c.tarn('heal', 'status', '--json').out)


def lost_node(c, report, size):
    watched, at = 64 * MIB, '/bench/watched'
    c.ok('mkdir', '/bench')
    (c.dir / 'watched').write_bytes(pattern(watched, 'watched'))
    c.ok('put', '--config', c.home / 'node-2/tarn.conf', '--copies', 1, c.dir / 'watched', at)
    (c.dir / 'part').write_bytes(pattern(64 * MIB, 'part'))
    for i in range(size // (64 * MIB)):  # node 3 has a copy of each
        c.ok('put', '--config', c.home / 'node-3/tarn.conf', '--copies', 2, c.dir / 'part', f'/bench/part{i}')
    wait_until(lambda: c.tarn('status').code == 0, 'every copy to be verified')
    raw = copy_rate(c, size)
    idle = [probe(c, at, watched, 3) for _ in range(3)]
    before = healing(c)['copied_bytes']
    c.kill('stored-3')
    while healing(c)['copied_bytes'] == before:
        time.sleep(0.05)
    start, first = time.monotonic(), healing(c)['copied_bytes']
    felt = []
    while healing(c)['below_target']:
        felt.append(probe(c, at, watched, 1))
    seconds, copied = time.monotonic() - start, healing(c)['copied_bytes'] - first
    report.figure(f'lost node: {size // MIB} MiB copied again beside a reader', [(copied / MIB / seconds, raw)], 'MiB/s', 'raw disk, read and written')
    for i, name in ((0, 'median'), (1, '99th of 100')):
        base = statistics.median(row[i] for row in idle)
        report.figure(f'4 KiB read while it heals, {name}', [(row[i], base) for row in felt or idle], 'us', 'the same reader, idle', False)


def bench_heal(report):
    with cluster(nodes=4, meta=1) as c:
        lost_node(c, report, 1024 * MIB)


# ---- posix: through the mount, beside a FUSE mirror of a local directory

READ = r'''
import mmap, os, random, sys, time
path, block, order = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fd = os.open(path, os.O_RDONLY)
at = list(range(0, os.fstat(fd).st_size, block))
if order == 'random':
    random.Random(1).shuffle(at)
buf, got = mmap.mmap(-1, block), 0
start = time.monotonic()
for offset in at:
    got += os.preadv(fd, [buf], offset)
print(time.monotonic() - start, got, len(at))
'''

WRITE = r'''
import os, sys, time
path, size, block = sys.argv[1], int(sys.argv[2]), os.urandom(1 << 20)
start = time.monotonic()
fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
for at in range(0, size, len(block)):
    os.pwrite(fd, block, at)
os.fsync(fd)
os.close(fd)
seconds = time.monotonic() - start
fd = os.open(path, os.O_RDONLY)
good = all(os.pread(fd, len(block), at) == block for at in range(0, size, len(block)))
print(seconds, size if good else -1, 1)
'''

CREATE = r'''
import os, sys, time
path, n = sys.argv[1], int(sys.argv[2])
os.mkdir(path)
start = time.monotonic()
for i in range(n):
    os.close(os.open(f'{path}/{i:05}', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
print(time.monotonic() - start, len(os.listdir(path)), n)
'''


def measured(script, *argv):
    """(seconds, bytes or names found, operations) of a script in a process of its own."""
    return tuple(map(float, command(sys.executable, '-c', script, *argv).split()))


class Mirror:
    """bindfs over a directory beside the cluster's, and how many bytes it has read for the kernel."""

    def __init__(self, c):
        need('bindfs')
        self.below, self.point = c.dir / 'below', c.dir / 'mirror'
        self.below.mkdir()
        self.point.mkdir()

    def __enter__(self):
        self.process = subprocess.Popen(['bindfs', '-f', '--no-allow-other', self.below, self.point])
        while not os.path.ismount(self.point):
            if self.process.poll() is not None:
                raise Skip('bindfs cannot mount here')
            time.sleep(0.01)
        return self

    def __exit__(self, *why):
        subprocess.run(['fusermount3', '-u', self.point], capture_output=True)
        self.process.wait()

    def bytes_read(self):
        return int(re.search(r'rchar: (\d+)', Path(f'/proc/{self.process.pid}/io').read_text())[1])


def mount_reads(c, report, mount, mirror):
    size = 48 * MIB
    data = pattern(size, 'posix')
    c.put('/bench/file', data)
    on_disk(mirror.below / 'file', data)
    if digest((mount / 'bench/file').read_bytes()) != digest((mirror.point / 'file').read_bytes()):
        raise Wrong('the two files differ')

    def read(path, block, order):
        seconds, got, n = measured(READ, path, block, order)
        if got != size:
            raise Wrong(f'{got} bytes of {path} came')
        return size / MIB / seconds if order == 'sequential' else n / seconds

    def read_mirror(block, order):
        before = mirror.bytes_read()
        rate = read(mirror.point / 'file', block, order)
        if mirror.bytes_read() - before < size:
            raise Wrong('the kernel answered from its cache instead of asking bindfs')
        return rate

    for figure, block, order, unit in [('sequential read 1 MiB', MIB, 'sequential', 'MiB/s'),
                                       ('random read 4 KiB', 4 * KIB, 'random', '/s')]:
        rows = pairs(lambda: read(mount / 'bench/file', block, order), lambda: read_mirror(block, order))
        report.figure(figure, rows, unit, 'bindfs')


def mount_writes(report, mount, mirror):
    size, files, numbers = 128 * MIB, 500, iter(range(1000))

    def write(directory):
        path = directory / f'write{next(numbers)}'
        seconds, got, _ = measured(WRITE, path, size)
        if got != size:
            raise Wrong(f'{path} does not read as it was written')
        path.unlink()
        return size / MIB / seconds

    def create(directory):
        path = directory / f'create{next(numbers)}'
        seconds, found, n = measured(CREATE, path, files)
        if found != n:
            raise Wrong(f'{path} has {found} names')
        shutil.rmtree(path)
        return n / seconds

    for figure, call, unit in [('sequential write 1 MiB, fsync at the end', write, 'MiB/s'), ('create', create, '/s')]:
        rows = pairs(lambda: call(mount / 'bench'), lambda: call(mirror.point))
        report.figure(figure, rows, unit, 'bindfs')


def bench_posix(report):
    """One node: one copy, as the mirror has."""
    with cluster(nodes=1, meta=1) as c, Mirror(c) as mirror:
        c.ok('mkdir', '/bench')
        mount = c.mount()
        mount_reads(c, report, mount, mirror)
        mount_writes(report, mount, mirror)


# ---- jobs: a grep over stored objects, beside xargs -P with grep over local files

OBJECTS, OBJECT_SIZE = 64, 16 * MIB
LINE = b'2026-11-21 host%04d INFO something ordinary happened here, nothing to see\n'


def make_logs(local):
    for i in range(OBJECTS):
        block = b''.join(LINE % n if n % 997 else b'2026-11-21 ERROR %d\n' % n for n in range(i, i + 14000))
        on_disk(local / f'{i:02}', (block * (OBJECT_SIZE // len(block) + 1))[:OBJECT_SIZE])


def chunk_files(c):
    return [path for path in c.home.glob('node-*/disk/chunks/**/*') if path.is_file() and path.stat().st_size == OBJECT_SIZE]


class Grep:
    def __init__(self, c, cpus):
        self.c, self.cpus, self.local = c, cpus, c.dir / 'local'
        self.local.mkdir()
        make_logs(self.local)
        c.ok('mkdir', '/grep')
        copies = min(cpus, 3)
        c.ok('put', '--recursive', '--copies', copies, self.local, '/grep/in')
        self.files, self.chunks = sorted(self.local.iterdir()), chunk_files(c)
        if len(self.chunks) != OBJECTS * copies:
            raise Wrong(f'{len(self.chunks)} chunk files instead of {OBJECTS} times {copies}')

    def check(self, out, expected):
        if sorted(map(int, out.split())) != expected:
            raise Wrong('the counts are not the right ones')

    def check_receipt(self):
        """All bytes, and nearly all from the chunk's own file on its node, without a copy."""
        receipt, size = self.c.json('job', 'ls')[-1]['receipt'], OBJECTS * OBJECT_SIZE
        if receipt['local'] + receipt['rack'] + receipt['remote'] != size or receipt['mapped'] < 0.95 * size:
            raise Wrong(f'not read in place: {receipt}')

    def pair(self, options, pattern_text, prepare):
        regex = re.compile(pattern_text.encode())
        expected = sorted(sum(1 for line in path.read_bytes().splitlines() if regex.search(line)) for path in self.files)
        grep = f"grep {options} '{pattern_text}'"
        xargs = f'find {self.local} -type f -print0 | xargs -0 -P {self.cpus} -n 1 {grep} | cat'

        def job():
            prepare(self.chunks)
            box = []
            seconds = timed(lambda: box.append(self.c.ok('job', 'run', '--map', grep, '/grep/in')))
            self.check(box[0], expected)
            self.check_receipt()
            return seconds

        def local():
            prepare(self.files)
            box = []
            seconds = timed(lambda: box.append(command('sh', '-c', xargs, env=LOCALE)))
            self.check(box[0], expected)
            return seconds

        return pairs(job, local)


def grep_jobs(c, report, cpus):
    grep = Grep(c, cpus)
    against = f'xargs -P {cpus} grep'
    for figure, options, text, prepare in [
            ("grep -c ERROR over 64 x 16 MiB", '-c -h', 'ERROR', warm),
            ("grep -c ERROR over 64 x 16 MiB, cold", '-c -h', 'ERROR', forget),
            ("grep -cE over 64 x 16 MiB", '-cE -h', '(host[0-9]+7 (INFO|WARN)|ERROR) .*[0-9]', warm)]:
        rows = grep.pair(options, text, prepare)
        report.figure(figure, rows, 's', against, False)
        report.plain(f'{figure}: more per task', [(t - o) * 1000 * cpus / OBJECTS for t, o in rows], 'ms')


def task_start(c, report):
    c.put('/grep/one', b'x' * 100000)
    starts = []
    for _ in range(3 * RUNS):
        c.ok('job', 'run', '--map', 'cat >/dev/null', '/grep/one')
        starts.append(c.json('job', 'ls')[-1]['receipt']['start_us'] / 1000)
    report.plain('task start to first byte', starts, 'ms')


def bench_jobs(report):
    """One slot a node, as many nodes as processors."""
    cpus = min(os.cpu_count(), 16)
    with cluster(nodes=cpus, meta=1) as c:
        grep_jobs(c, report, cpus)
        task_start(c, report)


# ----

@contextlib.contextmanager
def cluster(nodes, meta):
    c = Cluster(nodes=nodes, meta=meta, racks=1)
    try:
        yield c.up()
    finally:
        c.down()


def busy_share(seconds=1):
    """How much of the processors' time goes to others, before we begin."""
    def read():
        numbers = list(map(int, Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:]))
        return sum(numbers) - numbers[3] - numbers[4], sum(numbers)
    busy, total = read()
    time.sleep(seconds)
    busy_now, total_now = read()
    return (busy_now - busy) / max(total_now - total, 1)


BENCHES = {'metadata': bench_metadata, 'data': bench_data, 'heal': bench_heal, 'posix': bench_posix, 'jobs': bench_jobs}


def main(argv):
    as_json = '--json' in argv
    names = [a for a in argv if a != '--json'] or list(BENCHES)
    unknown = [n for n in names if n not in BENCHES]
    if unknown:
        sys.exit(f"bench: there is no benchmark '{unknown[0]}'; there are {', '.join(BENCHES)}")
    busy = busy_share()
    if busy > 0.1:
        print(f'bench: others use {busy:.0%} of the processors: what needs them (put, jobs) comes out wrong', file=sys.stderr)
    for name in names:
        try:
            BENCHES[name](Report(name, as_json))
        except Skip as why:
            print(f'bench: {name} skipped: {why}', file=sys.stderr)


if __name__ == '__main__':
    main(sys.argv[1:])
