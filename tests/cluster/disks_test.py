#!/usr/bin/env python3
"""Several disks a node: one that breaks goes down alone, a full one still deletes, and writes go on when there is room."""
import contextlib
import os
import subprocess

import harness
from harness import Cluster, Skip, digest, pattern, wait_until


class Loop:
    """A small ext4 of its own on a directory."""

    def __init__(self, cluster, point, megabytes):
        self.image, self.point = cluster.dir / f'{point.name}-{point.parent.name}.img', point
        point.mkdir(parents=True, exist_ok=True)
        with open(self.image, 'wb') as f:
            f.truncate(megabytes << 20)
        subprocess.run(['mkfs.ext4', '-q', '-m', '0', '-F', self.image], check=True)
        done = subprocess.run(['mount', '-o', 'loop', self.image, point], capture_output=True)
        if done.returncode != 0:
            raise Skip(f'no loop mounts on this machine: {done.stderr.decode().strip()}')

    def umount(self):
        subprocess.run(['umount', '-l', self.point], check=False)


def disks(cluster):
    return {d['id']: d for d in cluster.json('disk', 'ls')}


def everything_is_safe(cluster):
    return cluster.status()['below_target'] == 0


def two_disks_a_node_are_told_each(cluster):
    all_disks = disks(cluster)
    assert len(all_disks) == 4 and all(d['up'] for d in all_disks.values()), all_disks
    assert sorted(d['node'] for d in all_disks.values()) == [1, 1, 2, 2]


def two_copies_may_share_a_node(cluster):
    """domain=disk: four copies on two nodes; the change goes on to another disk of the same store."""
    cluster.bucket('near')
    cluster.ok('policy', 'set', '/near', 'copies=4', 'domain=disk')
    data = pattern(3_000_000, 1)
    cluster.put('/near/a', data)
    assert digest(cluster.cat('/near/a')) == digest(data)
    wait_until(lambda: all(d['ready'] >= 1 for d in disks(cluster).values()), 'a copy on each disk')
    wait_until(lambda: everything_is_safe(cluster), 'all copies')


def a_broken_disk_goes_down_alone(cluster):
    """Its file system goes away under the store: the node goes on, nothing acknowledged is missing."""
    cluster.bucket('b')
    cluster.ok('policy', 'set', '/b', 'copies=2')
    before = {f'/b/{i}': pattern(200_000, i) for i in range(12)}
    for path, data in before.items():
        cluster.put(path, data)
    pid, lost = cluster.pid('stored-1'), cluster.home / 'node-1' / 'disk-2'
    os.rename(lost, str(lost) + '.gone')
    broken = wait_until(lambda: [d for d in disks(cluster).values() if not d['up']], 'a disk that is down')
    assert [d['node'] for d in broken] == [1], broken
    assert cluster.nodes_up() == [1, 2] and cluster.pid('stored-1') == pid
    after = {f'/b/after-{i}': pattern(100_000, 100 + i) for i in range(8)}
    for path, data in after.items():
        cluster.put(path, data)
    for path, data in {**before, **after}.items():
        assert digest(cluster.cat(path)) == digest(data), path
    # It comes back with what it had, by a start of the process; the others of the node go on meanwhile.
    os.rename(str(lost) + '.gone', lost)
    cluster.kill('stored-1')
    cluster.restart()
    wait_until(lambda: all(d['up'] for d in disks(cluster).values()), 'all disks')
    wait_until(lambda: everything_is_safe(cluster), 'every copy')
    for path, data in {**before, **after}.items():
        assert digest(cluster.cat(path)) == digest(data), path


def a_disk_is_emptied_until_it_is_safe_to_remove(cluster):
    last = max(disks(cluster))
    cluster.ok('policy', 'set', '/near', 'copies=3')
    cluster.ok('disk', 'drain', str(last), '--wait')
    row = disks(cluster)[last]
    assert row['safe_to_remove'] and row['state'] == 'drained' and row['ready'] == 0, row
    assert b'safe to remove' in cluster.ok('disk', 'ls')
    cluster.ok('disk', 'undrain', str(last))
    assert not disks(cluster)[last]['safe_to_remove']


def full(cluster):
    """Fills the cluster of small disks; returns what was acknowledged."""
    kept, i = {}, 0
    while True:
        data = pattern(700_000, 1000 + i)
        done = cluster.tarn('put', '-', f'/s/{i}', input=data)
        if done.code != 0:
            assert done.code == 6, done
            return kept
        kept[f'/s/{i}'] = digest(data)
        i += 1
        assert i < 500, 'a small disk does not fill'


def a_full_cluster_still_deletes(cluster):
    """The disks' reserve, and then the file systems under them to the last block."""
    cluster.bucket('s')
    cluster.ok('policy', 'set', '/s', 'copies=2', 'domain=node', 'chunk=1M')
    kept = full(cluster)
    fillers = [point / 'filler' for point in cluster.points]
    for filler in fillers * 2:
        for piece in (65536, 4096):
            with contextlib.suppress(OSError), open(filler, 'ab', buffering=0) as f:
                while f.write(b'x' * piece):
                    pass
        os.sync()
    left = [(lambda fs: fs.f_bavail * fs.f_frsize)(os.statvfs(point)) for point in cluster.points]
    assert all(n < 256 << 10 for n in left), left
    names = list(kept)
    cluster.ok('mv', names[0], '/s/moved')
    kept['/s/moved'] = kept.pop(names[0])
    for name in names[1:4]:
        cluster.ok('rm', name)
        del kept[name]
    for name, wanted in kept.items():
        assert digest(cluster.cat(name)) == wanted, name
    # A start on a file system without one free block, and everything is there.
    for node in (1, 2):
        cluster.kill(f'stored-{node}')
    cluster.restart()
    for name, wanted in kept.items():
        assert digest(cluster.cat(name)) == wanted, name
    for filler in fillers:
        filler.unlink()
    for name in list(kept)[:45]:  # beyond the reserve, and the eighth that placement leaves on a small disk
        cluster.ok('rm', name)
        del kept[name]
    try:
        wait_until(lambda: cluster.tarn('put', '-', '/s/again', input=b'x' * 500_000).code == 0, 'room for a write', 30)
    except AssertionError as why:
        last = cluster.tarn('put', '-', '/s/again', input=b'x' * 500_000)
        raise AssertionError(f'{why}: {last}, {disks(cluster)}') from why
    for name, wanted in kept.items():
        assert digest(cluster.cat(name)) == wanted, name


def small(tests):
    """The same as main(), on file systems of 160 MiB."""
    cluster = Cluster(nodes=2)
    loops = []
    try:
        cluster.points = [cluster.home / f'node-{n}' / 'disk' for n in (1, 2)]
        if os.geteuid() != 0:
            raise Skip('mounting needs root')
        for point in cluster.points:
            loops.append(Loop(cluster, point, 160))
        cluster.up()
        for test in tests:
            test(cluster)
            print(f'ok    {test.__name__.replace("_", " ")}', flush=True)
    except Skip as why:
        print(f'skip  {why}', flush=True)
    except BaseException:
        print(cluster.logs(40), flush=True)
        raise
    finally:
        with contextlib.suppress(AssertionError):
            cluster.tarn('cluster', 'down', '--dir', str(cluster.home))
        for loop in loops:
            loop.umount()
        cluster.down() if (cluster.home / 'cluster.state').exists() else None


if __name__ == '__main__':
    small([a_full_cluster_still_deletes])
    harness.main([two_disks_a_node_are_told_each, two_copies_may_share_a_node, a_broken_disk_goes_down_alone,
                  a_disk_is_emptied_until_it_is_safe_to_remove], nodes=2, disks=2)
