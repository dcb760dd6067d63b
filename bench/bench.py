"""Measures Tarn beside what it is compared with, in one run, alternating, and prints the ratio with its spread.

bench.py [--json] NAME...   NAME: data, posix, jobs. See README.md for machine, method and what each figure is."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests' / 'cluster'))
from harness import BUILD, Cluster, Skip, pattern  # noqa: E402

RUNS = int(os.environ.get('BENCH_RUNS', '7'))
MIB = 1 << 20


class Report:
    def __init__(self, as_json):
        self.as_json = as_json

    def figure(self, bench, figure, values, unit, against, others, bigger_is_better=True):
        """values and others are paired runs; the ratio is Tarn's speed over the other's."""
        ratios = [(v / o if bigger_is_better else o / v) for v, o in zip(values, others)]
        row = {'bench': bench, 'figure': figure, 'value': round(statistics.median(values), 6), 'unit': unit, 'against': against,
               'ratio': round(statistics.median(ratios), 3), 'min': round(min(ratios), 3), 'max': round(max(ratios), 3),
               'runs': len(ratios)}
        self.print(row)

    def plain(self, bench, figure, values, unit):
        self.print({'bench': bench, 'figure': figure, 'value': round(statistics.median(values), 3), 'unit': unit,
                    'against': None, 'ratio': None, 'min': round(min(values), 3), 'max': round(max(values), 3), 'runs': len(values)})

    def print(self, row):
        if self.as_json:
            print(json.dumps(row), flush=True)
        elif row['against']:
            print(f"{row['bench']:6} {row['figure']:34} {row['value']:>12} {row['unit']:6} {row['ratio']:6.2f} of {row['against']}"
                  f"  ({row['min']:.2f} … {row['max']:.2f}, {row['runs']} runs)", flush=True)
        else:
            print(f"{row['bench']:6} {row['figure']:34} {row['value']:>12} {row['unit']:6}"
                  f"  ({row['min']} … {row['max']}, {row['runs']} runs)", flush=True)


def timed(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start


def check(done):
    if done.returncode != 0:
        raise RuntimeError(f'{done.args}: {done.stderr}')
    return done


# ---- data: libtarn and puts

def local_reads(c, report):
    size = 48 * MIB
    data = pattern(size, 'local')
    c.ok('mkdir', '/bench')
    c.put('/bench/local', data)
    plain = c.dir / 'plain'
    plain.write_bytes(data)
    for block, name in [(4096, 'local read 4 KiB'), (MIB, 'local read 1 MiB')]:
        done = c.run(BUILD / 'bench/local_read', '/bench/local', plain, size, block, RUNS)
        if done.code != 0:
            raise RuntimeError(repr(done))
        pairs = [tuple(map(float, line.split())) for line in done.out.decode().splitlines()]
        report.figure('data', name, [p[0] * 1e6 for p in pairs], 'us', 'pread', [p[1] * 1e6 for p in pairs], False)


RAW = r'''
import mmap, os, sys, time
path, size = sys.argv[1], int(sys.argv[2])
buf = mmap.mmap(-1, 1 << 20); buf.write(os.urandom(1 << 20))
start = time.monotonic()
fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600)
os.posix_fallocate(fd, 0, size)
for at in range(0, size, 1 << 20):
    os.pwrite(fd, buf, at)
os.fdatasync(fd); os.close(fd)
print(time.monotonic() - start)
'''


def raw_write_seconds(c, size):
    """Raw disk bandwidth: a fresh file on the same file system. fio with 8 writes in flight where it is installed."""
    path = c.dir / 'raw'
    if shutil.which('fio'):
        done = check(subprocess.run(['fio', '--name=raw', f'--filename={path}', '--rw=write', '--bs=1M', f'--size={size}', '--direct=1',
                                     '--ioengine=io_uring', '--iodepth=8', '--end_fsync=1', '--fallocate=posix', '--output-format=json'],
                                    capture_output=True))
        seconds = json.loads(done.stdout)['jobs'][0]['write']['runtime'] / 1000
    else:
        seconds = float(check(subprocess.run([sys.executable, '-c', RAW, path, str(size)], capture_output=True)).stdout)
    path.unlink()
    return seconds


def puts(c, report):
    size, copies = 512 * MIB, 3
    source = c.dir / 'source'
    source.write_bytes(pattern(size, 'put'))
    put_rates, bounds = [], []
    for i in range(RUNS + 1):
        seconds = timed(lambda: c.ok('put', '--copies', copies, source, f'/bench/put{i}'))
        bound = size / raw_write_seconds(c, size) / copies
        c.ok('rm', f'/bench/put{i}')
        if i > 0:  # the first one makes files that later ones recycle
            put_rates.append(size / seconds / MIB)
            bounds.append(bound / MIB)
    report.figure('data', 'put 512 MiB, 3 copies', put_rates, 'MiB/s', 'raw disk / 3', bounds)


def bench_data(report):
    with_cluster(lambda c: (local_reads(c, report), puts(c, report)), nodes=3, meta=1, racks=1)


# ---- posix: through the mount, beside a FUSE mirror of a local directory

READ = r'''
import mmap, os, sys, time
path, block, direct = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'direct'
fd = os.open(path, os.O_RDONLY)
if not direct:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
buf = mmap.mmap(-1, block)
start, at = time.monotonic(), 0
while (n := os.preadv(fd, [buf], at)) > 0:
    at += n
print(at / (time.monotonic() - start) / (1 << 20))
'''


def read_rate(path, block=MIB):
    return float(check(subprocess.run([sys.executable, '-c', READ, str(path), str(block), 'cold'], capture_output=True)).stdout)


def mirror(c):
    if not shutil.which('bindfs'):
        raise Skip('bindfs is not installed')
    below, point = c.dir / 'below', c.dir / 'mirror'
    below.mkdir()
    point.mkdir()
    check(subprocess.run(['bindfs', '--no-allow-other', below, point], capture_output=True))
    return below, point


def bench_posix_in(c, report):
    size = 48 * MIB
    data = pattern(size, 'posix')
    c.ok('mkdir', '/bench')
    c.put('/bench/file', data)
    mount = c.mount()
    below, point = mirror(c)
    try:
        (below / 'file').write_bytes(data)
        tarn, other = [], []
        for i in range(RUNS + 1):
            t, o = read_rate(mount / 'bench/file'), read_rate(point / 'file')
            if i > 0:
                tarn.append(t)
                other.append(o)
        report.figure('posix', 'sequential read', tarn, 'MiB/s', 'bindfs', other)
    finally:
        subprocess.run(['fusermount3', '-u', point], capture_output=True)


def bench_posix(report):
    with_cluster(lambda c: bench_posix_in(c, report), nodes=3, meta=1, racks=1)


# ---- jobs: a grep over stored objects, beside xargs -P with grep over local files

def grep_job(c, report):
    count, size = 64, 16 * MIB
    local = c.dir / 'local'
    local.mkdir()
    c.ok('mkdir', '/grep')
    line = b'2026-11-21 host%04d INFO something ordinary happened here, nothing to see\n'
    for i in range(count):
        block = b''.join(line % n if n % 997 else b'2026-11-21 ERROR %d\n' % n for n in range(i, i + 14000))
        (local / f'{i:02}').write_bytes((block * (size // len(block) + 1))[:size])
    c.ok('put', '--recursive', local, '/grep/in')
    cpus = os.cpu_count()
    find = f"find {local} -type f -print0 | xargs -0 -P {cpus} -n 1 grep -c ERROR"
    tarn, other = [], []
    for i in range(RUNS + 1):
        t = timed(lambda: c.ok('job', 'run', '--map', 'grep -c ERROR', '/grep/in'))
        o = timed(lambda: check(subprocess.run(['sh', '-c', find], capture_output=True)))
        if i > 0:
            tarn.append(t)
            other.append(o)
    report.figure('jobs', 'grep over 64 x 16 MiB', tarn, 's', f'xargs -P {cpus} grep', other, False)


def task_start(c, report):
    c.put('/grep/one', b'x' * 100000)
    for _ in range(RUNS):
        c.ok('job', 'run', '--map', 'cat >/dev/null', '/grep/one')
    starts = []
    for job in c.json('job', 'ls')[-RUNS:]:
        rows = [row for row in c.json('job', 'report', str(job['id'])) if row.get('start_us')]
        starts += [row['start_us'] / 1000 for row in rows[:1]]
    report.plain('jobs', 'task start to first byte', starts, 'ms')


def bench_jobs(report):
    with_cluster(lambda c: (grep_job(c, report), task_start(c, report)), nodes=2, meta=1, racks=1)


def with_cluster(body, **numbers):
    cluster = Cluster(**numbers)
    try:
        body(cluster.up())
    finally:
        cluster.down()


BENCHES = {'data': bench_data, 'posix': bench_posix, 'jobs': bench_jobs}


def main(argv):
    as_json = '--json' in argv
    names = [a for a in argv if a != '--json'] or list(BENCHES)
    unknown = [n for n in names if n not in BENCHES]
    if unknown:
        sys.exit(f"bench: there is no benchmark '{unknown[0]}'; there are {', '.join(BENCHES)}")
    for name in names:
        try:
            BENCHES[name](Report(as_json))
        except Skip as why:
            print(f'bench: {name} skipped: {why}', file=sys.stderr)


if __name__ == '__main__':
    main(sys.argv[1:])
