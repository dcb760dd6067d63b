"""A directory goes from copies to a code and back while every door reads it, nodes die and stop in each state, a disk is
lost and a node is drained: no read fails or is wrong, and `tarn status` tells what is on the disks."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading

from harness import BUILD, digest, main, pattern, wait_until

MIB = 1 << 20
NODES = 6
STORED = str(BUILD / 'objstore' / 'tarn-stored')
BIG, SMALL = 'big', [f'small{i:03}' for i in range(300)]
RANDOM, TEXT = ['mid0', 'mid1', 'mid2'], [f'text{i}' for i in range(7)]
BY_MOUNT = ['mid1', 'text1']
DATA, INODES = {}, {}


# ---- what it is compared with
def text(size, seed):
    """Numbers in words: gets less than half as long."""
    chance = random.Random(seed)
    line = b''.join(b'%d reads, %d writes\n' % (chance.getrandbits(12), chance.getrandbits(12)) for _ in range(60_000))
    return (line * (size // len(line) + 1))[:size]


def chunk_files(c, nodes=None):
    """Chunk to the sizes of its files, looked up on the disks themselves."""
    found = {}
    for node in nodes or range(1, NODES + 2):
        for root, _, names in os.walk(c.home / f'node-{node}/disk/chunks'):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found.setdefault(int(name, 16), []).append(os.stat(os.path.join(root, name)).st_size)
    return found


def bytes_on_disk(files):
    return sum(sum(sizes) for sizes in files.values())


def settled(c, done, what, seconds=60):
    """Waits; a failure tells what there was instead."""
    try:
        wait_until(done, what, seconds)
    except AssertionError as why:
        files = chunk_files(c)
        raise AssertionError(f'{why}; {bytes_on_disk(files) / MIB:.0f} MiB, texts {text_on_disk(c) / MIB:.0f} MiB; {c.status()}') from why


def locate(c, name):
    return c.json('locate', f'/data/{name}')


# ---- readers
class Readers:
    """Ranges by every door, at random, all the time; each byte is compared."""

    def __init__(self, c, point):
        self.c, self.point, self.stop, self.errors = c, point, threading.Event(), []
        self.reads = {'cat': 0, 's3': 0, 'mount': 0}
        self.threads = [threading.Thread(target=self.work, args=[door]) for door in self.reads]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *why):
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self.threads), 'a read does not end'
        if why[0] is None:
            assert not self.errors, self.errors[:5]

    def work(self, door):
        chance, read = random.Random(door), getattr(self, door)
        while not self.stop.is_set():
            name = chance.choice(RANDOM + TEXT + SMALL[:10] + [BIG] * 3 if door != 'cat' else RANDOM + TEXT + SMALL[:10])
            size = len(DATA[name])
            begin = chance.randrange(size)
            end = min(size, begin + chance.choice([1, 5000, 70_000, 3 * MIB]))
            try:
                got = read(name, begin, end)
                if got != DATA[name][begin:end]:
                    self.errors.append(f'{door} {name} {begin}-{end}: wrong bytes, {len(got)}')
            except Exception as why:  # noqa: told by the test
                self.errors.append(f'{door} {name} {begin}-{end}: {why}')
            self.reads[door] += 1

    def cat(self, name, begin, end):
        return self.c.cat(f'/data/{name}')[begin:end]

    def s3(self, name, begin, end):
        env = self.c.env
        done = self.c.run('curl', '--fail', '--silent', '--show-error', '--header', f'x-amz-content-sha256: {digest(b"")}',
                          '--aws-sigv4', f'aws:amz:{env["AWS_DEFAULT_REGION"]}:s3', '--user',
                          f'{env["AWS_ACCESS_KEY_ID"]}:{env["AWS_SECRET_ACCESS_KEY"]}', '--range', f'{begin}-{end - 1}',
                          f'{env["AWS_ENDPOINT_URL"]}/data/{name}')
        assert done.code == 0, done
        return done.out

    def mount(self, name, begin, end):
        with open(self.point / 'data' / name, 'rb', buffering=0) as file:
            return os.pread(file.fileno(), end - begin, begin)

    def go_on(self):
        """Each door finished a read that began now or later; none failed."""
        before = dict(self.reads)
        wait_until(lambda: all(self.reads[door] > before[door] + 1 for door in before), f'reads: {self.reads}')
        assert not self.errors, self.errors[:5]


# ---- faults
def without(c, readers, killed, stopped):
    """Nodes are away; the status says exactly what the disks that are left say, and reads go on."""
    away = killed + stopped
    lost = set(chunk_files(c, away))
    assert lost, 'nothing is on these nodes'
    for node in killed:
        c.kill(f'stored-{node}')
    for node in stopped:
        c.kill(f'stored-{node}', signal.SIGSTOP)

    def told():
        status = c.status()
        return status['nodes_up'] == status['nodes'] - len(away) and status['below_target'] == len(lost) and status

    try:
        status = wait_until(told, f'{len(lost)} chunks to be told as endangered; {c.status()}')
        assert not status['safe'] and status['lost'] == 0 and status['levels'][0] == 0, status
        assert sum(status['levels']) == status['chunks'], status
        assert sum(status['levels'][1:3 if len(away) > 1 else 4]) >= len(lost), status
        assert 'bring back' in status['next'], status['next']
        readers.go_on()
    finally:
        for node in stopped:
            c.kill(f'stored-{node}', signal.SIGCONT)


def all_back(c, nodes=NODES):
    c.restart()
    wait_until(lambda: len(c.nodes_up()) == nodes and c.status()['safe'], 'all to be back and safe')


# ---- the states
def put_everything(c, point):
    c.ok('policy', 'set', '/data', 'copies=3', 'chunk=4M')
    source = c.dir / 'source'
    source.mkdir()
    DATA.update({BIG: pattern(200 * MIB, BIG)})
    DATA.update({name: pattern(20 * MIB, name) for name in RANDOM})
    DATA.update({name: text(20 * MIB, name) for name in TEXT})
    DATA.update({name: pattern(20_000, name) for name in SMALL})
    for name in BY_MOUNT:
        data = bytearray(DATA[name])
        with open(point / 'data' / name, 'wb', buffering=0) as file:
            file.write(data)
            os.pwrite(file.fileno(), b'middle' * 1000, 9 * MIB - 100)
            os.fsync(file.fileno())
        data[9 * MIB - 100:9 * MIB + 5900] = b'middle' * 1000
        DATA[name] = bytes(data)
    for name in set(DATA) - set(BY_MOUNT):
        (source / name).write_bytes(DATA[name])
    c.ok('put', '--recursive', *[source / name for name in sorted(set(DATA) - set(BY_MOUNT))], '/data/')
    shutil.rmtree(source)
    INODES.update(inodes(c))
    c.ok('snapshot', 'take', '/data', 'before')


def inodes(c):
    return {name: c.json('stat', f'/data/{name}')[0]['ino'] for name in [BIG, *RANDOM, *TEXT, SMALL[0]]}


def to_code(c):
    before = bytes_on_disk(chunk_files(c))
    assert before > 2.9 * sum(map(len, DATA.values()))
    c.ok('policy', 'set', '/data', 'code=4+2', 'compress=3')

    def done():
        """Nothing is left to do: a last group of less than four containers would wait for a minute."""
        status, files = c.status(), chunk_files(c)
        texts = {row['chunk'] for name in TEXT for row in locate(c, name)}
        smalls = {row['chunk'] for name in SMALL[::10] for row in locate(c, name)}
        containers = texts | {chunk for chunk in smalls if max(files.get(chunk, [0])) > 20_000}
        return (status['safe'] and status['coding'] == 0 and status['pending_tasks'] == 0 and
                text_on_disk(c) < 0.5 * sum(len(DATA[name]) for name in TEXT) and
                sum(len(files[chunk]) != 1 for chunk in containers) < 4 and
                all(len(files[row['chunk']]) == 1 for row in locate(c, BIG)))

    settled(c, done, 'the directory to be coded and compressed')
    status = c.status()
    assert status['next'] == 'nothing to do' and status['levels'][3] == status['chunks'], status
    assert bytes_on_disk(chunk_files(c)) <= allowed(c), (bytes_on_disk(chunk_files(c)), allowed(c))


def text_on_disk(c):
    """Bytes of the containers with the texts, parity not counted."""
    files = chunk_files(c)
    chunks = {row['chunk'] for name in TEXT for row in locate(c, name)}
    return sum(sum(files.get(chunk, [])) for chunk in chunks)


def allowed(c):
    """1.6 times the raw bytes of what cannot be compressed, and of the texts half of theirs."""
    random_bytes = sum(len(data) for name, data in DATA.items() if name not in TEXT)
    return 1.6 * random_bytes + 1.6 * 0.5 * sum(len(DATA[name]) for name in TEXT)


def to_copies(c):
    c.ok('policy', 'set', '/data', 'copies=2', 'compress=off')

    def done():
        status = c.status()
        return status['safe'] and status['groups'] == 0 and status['coding'] == 0 and status['pending_tasks'] == 0 and \
            c.json('policy', 'get', '/data')[0]['walk_end'] == 0 and text_on_disk(c) >= 2 * sum(len(DATA[n]) for n in TEXT)

    settled(c, done, 'the directory to be copies again')
    status = c.status()
    assert status['levels'][2] == status['chunks'] and status['levels'][3:] == [0] * len(status['levels'][3:]), status


def a_disk_is_lost(c, node):
    """Its store is down: it starts with an empty one, and what it held is computed again."""
    lost = len(chunk_files(c, [node]))
    shutil.rmtree(c.home / f'node-{node}/disk')
    all_back(c)
    status = c.status()
    assert status['levels'][3] == status['chunks'] and lost > 0, status


@contextlib.contextmanager
def one_more_node(c):
    disk = c.home / f'node-{NODES + 1}/disk'
    disk.parent.mkdir()
    store = subprocess.Popen([STORED, '--config', str(c.home / 'tarn.conf'), '--dir', str(disk), '--host', 'more'], env=c.env,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert store.stdout.readline().startswith(b'ready ')
        yield
    finally:
        store.terminate()
        store.wait(60)
        store.stdout.close()


def is_drained(c, node):
    return next(n for n in c.json('node', 'ls') if n['id'] == node)['safe_to_remove']


def overwrite(c, point, name):
    """In the middle of what is coded; the snapshot keeps what was."""
    at = len(DATA[name]) // 2
    with open(point / 'data' / name, 'r+b', buffering=0) as file:
        os.pwrite(file.fileno(), b'later' * 2000, at)
        os.fsync(file.fileno())
    data = bytearray(DATA[name])
    data[at:at + 10_000] = b'later' * 2000
    DATA[name] = bytes(data)


def everything_is_right(c, old):
    copy = c.dir / 'copy'
    for source, data in (('/data', DATA), ('/data/.snapshot/before', old)):
        for name in [BIG, *RANDOM, *TEXT]:
            assert digest(c.cat(f'{source}/{name}')) == digest(data[name]), f'{source}/{name}'
        copy.mkdir()
        c.ok('get', *[f'{source}/{name}' for name in SMALL], f'{copy}/')
        for name in SMALL:
            assert (copy / name).read_bytes() == data[name], f'{source}/{name}'
        shutil.rmtree(copy)


def copies_become_a_code_and_copies_again_under_reads_and_faults(c):
    point = c.mount()
    c.bucket('data')
    put_everything(c, point)
    old = dict(DATA)
    with Readers(c, point) as readers:
        without(c, readers, [1], [2])
        all_back(c)
        to_code(c)
        readers.go_on()
        without(c, readers, [3], [4])
        a_disk_is_lost(c, 3)
        overwrite(c, point, 'mid2')
        c.ok('node', 'drain', '5')
        wait_until(lambda: c.status()['next'].startswith('add nodes'), 'to be told that 5 nodes are too few')
        with one_more_node(c):
            wait_until(lambda: is_drained(c, 5), 'node 5 to be safe to remove', 120)
            wait_until(lambda: c.status()['next'].startswith('remove the drained'), 'to be told so')
            readers.go_on()
            c.ok('node', 'undrain', '5')
            to_copies(c)
            without(c, readers, [], [6])
            wait_until(lambda: c.status()['safe'], 'all copies to be there')
            readers.go_on()
            assert inodes(c) == INODES
            everything_is_right(c, old)
    c.umount(point)
    assert c.tarn('cluster', 'down', '--dir', c.home).code == 0
    volumes = [c.home / f'node-{node}/disk' for node in range(1, NODES + 2)]
    done = c.run(STORED, 'check', *volumes)
    assert done.code == 0 and done.out.count(b': clean') == NODES + 1, done


if __name__ == '__main__':
    main([copies_become_a_code_and_copies_again_under_reads_and_faults], nodes=NODES)
