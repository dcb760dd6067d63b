"""Large objects are coded while they are put: what they cost on the disks, what they survive."""

import os
import signal
import subprocess
from pathlib import Path

from harness import TARN, digest, main, pattern, wait_until

MIB = 1 << 20
NODES = 6


def disk_bytes(c):
    """What the nodes' directories take up, files that are deleted meanwhile left out."""
    total = 0
    for node in c.home.glob('node-*'):
        for where, _, names in os.walk(node):
            if where.endswith('spare'):  # kept for reuse
                continue
            for name in names:
                try:
                    total += os.lstat(Path(where) / name).st_blocks * 512
                except FileNotFoundError:
                    pass
    return total


def directory(c, name, code):
    c.ok('mkdir', f'/{name}')
    c.ok('policy', 'set', f'/{name}', f'code={code}')


def source(c, size, seed):
    path = c.dir / 'source'
    path.write_bytes(pattern(size, seed))
    return path


def sizes_come_back(c, code):
    name = code.replace('+', '')
    directory(c, name, code)
    for size in [4 * MIB - 1, 5 * MIB, 37 * MIB, 100 * MIB]:
        path = source(c, size, f'{code}{size}')
        c.ok('put', path, f'/{name}/o')
        assert digest(c.cat(f'/{name}/o')) == digest(path.read_bytes()), f'{size} bytes in {code}'
        with path.open('rb') as pipe:  # the size is not known
            c.ok('put', '-', f'/{name}/p', input=pipe.read())
        assert digest(c.cat(f'/{name}/p')) == digest(path.read_bytes()), f'{size} bytes from a pipe in {code}'


def objects_of_many_sizes_come_back_from_4_plus_2(c):
    sizes_come_back(c, '4+2')


def objects_of_many_sizes_come_back_from_2_plus_1(c):
    sizes_come_back(c, '2+1')


def a_large_object_costs_what_its_code_costs(c):
    directory(c, 'cost', '4+2')
    path, before = source(c, 300 * MIB, 'cost'), disk_bytes(c)
    c.ok('put', path, '/cost/o')
    ratio = (disk_bytes(c) - before) / (300 * MIB)
    assert 1.49 <= ratio <= 1.6, f'{ratio} bytes on disk for each'
    assert digest(c.cat('/cost/o')) == digest(path.read_bytes())


class Feeder:
    """A put from a pipe that the test fills."""
    def __init__(self, c, path, data):
        self.data, self.at = data, 0
        self.process = c.start(TARN, 'put', '-', path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def feed(self, n):
        """Returns when the put has taken all but what pipe and windows hold."""
        self.process.stdin.write(self.data[self.at:self.at + n])
        self.process.stdin.flush()
        self.at += n

    def end(self):
        self.feed(len(self.data) - self.at)
        self.process.stdin.close()
        err = self.process.stderr.read()
        return self.process.wait(300), err


def a_put_goes_on_when_a_member_dies(c):
    directory(c, 'member', '4+2')
    data = pattern(120 * MIB, 'member')
    put = Feeder(c, '/member/o', data)
    put.feed(70 * MIB)
    c.kill('stored-3')
    code, err = put.end()
    assert code == 0, err
    c.restart()
    wait_until(lambda: len(c.nodes_up()) == NODES, 'all nodes up')
    assert digest(c.cat('/member/o')) == digest(data)
    wait_until(lambda: c.tarn('status').code == 0, 'the lost shards to be computed', 120)
    assert digest(c.cat('/member/o')) == digest(data)


def parts_of_an_s3_upload_are_coded(c):
    directory(c, 's3', '4+2')
    path, before = source(c, 40 * MIB, 's3'), disk_bytes(c)
    done = c.s3cmd('put', '--multipart-chunk-size-mb=15', path, 's3://s3/o')
    assert done.code == 0, done
    ratio = (disk_bytes(c) - before) / (40 * MIB)
    assert 1.49 <= ratio <= 1.6, f'{ratio} bytes on disk for each'
    done = c.s3cmd('get', '--force', 's3://s3/o', c.dir / 'back')
    assert done.code == 0, done
    assert digest((c.dir / 'back').read_bytes()) == digest(path.read_bytes())
    c.ok('cp', 'tarn:/s3/o', 'tarn:/s3/p')
    assert digest(c.cat('/s3/p')) == digest(path.read_bytes())


def a_put_that_dies_leaves_nothing(c):
    directory(c, 'killed', '4+2')
    before = disk_bytes(c)
    put = Feeder(c, '/killed/o', pattern(40 * MIB, 'killed'))
    put.feed(40 * MIB)
    wait_until(lambda: disk_bytes(c) >= before + 32 * MIB, 'most of it to be on the disks')
    put.process.send_signal(signal.SIGKILL)
    put.process.wait()
    wait_until(lambda: disk_bytes(c) <= before + MIB, 'its chunks to be given back', 120)
    assert c.tarn('stat', '/killed/o').code != 0


def any_two_nodes_may_go_afterwards(c):
    directory(c, 'after', '4+2')
    data = pattern(50 * MIB, 'after')
    path = source(c, len(data), 'after')
    c.ok('put', path, '/after/o')
    for pair in [(1, 2), (3, 6), (4, 5)]:
        for node in pair:
            c.kill(f'stored-{node}')
        assert digest(c.cat('/after/o')) == digest(data), f'without {pair}'
        c.restart()
        wait_until(lambda: len(c.nodes_up()) == NODES, 'all nodes up')


if __name__ == '__main__':
    main([
        objects_of_many_sizes_come_back_from_4_plus_2,
        objects_of_many_sizes_come_back_from_2_plus_1,
        a_large_object_costs_what_its_code_costs,
        a_put_that_dies_leaves_nothing,
        parts_of_an_s3_upload_are_coded,
        a_put_goes_on_when_a_member_dies,
        any_two_nodes_may_go_afterwards,
    ], nodes=NODES)
