"""Draining, filling, policies and racks, with real processes and under load."""

import json
import subprocess
import threading
from contextlib import contextmanager

from harness import BUILD, background, digest, main, pattern, wait_until


class Puts:
    """Puts and reads objects until told to stop; everything acknowledged must be readable at any time."""

    def __init__(self, c, bucket, size=300_000):
        self.c, self.bucket, self.size, self.acked, self.stop = c, bucket, size, {}, threading.Event()
        c.bucket(bucket)

    def __call__(self):
        i = 0
        while not self.stop.is_set():
            data = pattern(self.size, f'{self.bucket}{i}')
            self.c.ok('put', '-', f'/{self.bucket}/{i}', input=data)
            self.acked[i] = digest(data)
            self.look(i // 2)
            i += 1

    def look(self, i):
        assert digest(self.c.cat(f'/{self.bucket}/{i}')) == self.acked[i], f'object {i} of {len(self.acked)}'

    def check(self):
        for i in self.acked:
            self.look(i)


@contextmanager
def puts(c, bucket, **kwargs):
    work = Puts(c, bucket, **kwargs)
    with background(work):
        try:
            wait_until(lambda: len(work.acked) >= 3, 'the first puts')
            yield work
        finally:
            work.stop.set()


def node(c, number):
    return next(n for n in c.json('node', 'ls') if n['id'] == number)


def heal(c):
    done = c.tarn('heal', 'status', '--json')
    assert done.code in (0, 1) and done.out, done
    return json.loads(done.out)


def holders(c, path):
    """Of the first chunk of the file."""
    return {row['host'] for row in c.json('locate', path) if row.get('offset') == 0}


def a_node_is_drained_under_writes_and_can_then_be_removed(c):
    with puts(c, 'drained') as work:
        c.ok('node', 'drain', '3')
        assert node(c, 3)['draining']
        wait_until(lambda: node(c, 3)['safe_to_remove'], 'node 3 to be safe to remove', 120)
        before = len(work.acked)
        wait_until(lambda: len(work.acked) >= before + 3, 'writes to go on')
        assert node(c, 3)['safe_to_remove'], 'something went to the drained node'
        c.kill('stored-3')
        before = len(work.acked)
        wait_until(lambda: len(work.acked) >= before + 3, 'writes to go on without it')
    wait_until(lambda: c.status()['safe'], 'every chunk to have its copies')
    wait_until(lambda: c.status()['nodes_up'] == 3, 'node 3 to count as down')
    assert c.status()['safe']
    work.check()
    c.restart()
    c.ok('node', 'undrain', '3')
    wait_until(lambda: len(c.nodes_up()) == 4, 'node 3 to be back')


def a_change_of_policy_reaches_existing_files_while_they_are_read(c):
    with puts(c, 'policy') as work:
        c.ok('policy', 'set', '/policy', 'copies=2')
        wait_until(lambda: len(work.acked) >= 8, 'some objects')
        inode = c.json('stat', '/policy/1')[0]['ino']
        for copies in (3, 1, 2):
            c.ok('policy', 'set', '/policy', f'copies={copies}')
            wait_until(lambda: c.json('policy', 'get', '/policy')[0]['walk_end'] == 0, 'the walk over the chunks')
            wait_until(lambda: all(len(holders(c, f'/policy/{i}')) == copies for i in range(8)), f'{copies} copies', 120)
        assert c.json('stat', '/policy/1')[0]['ino'] == inode
    work.check()
    for wrong in ('code=4', 'code=4+5', 'code=17+1', 'code=4+2x', 'code= 4+2', 'compress=20', 'compress=fast'):
        assert c.tarn('policy', 'set', '/policy', wrong).code == 2, wrong
    assert c.tarn('policy', 'set', '/policy', 'chunk=3M').code == 1


def the_chunks_of_a_group_are_on_the_same_nodes(c):
    c.bucket('group')
    c.ok('policy', 'set', '/group', 'affinity=study', 'copies=2')
    for i in range(6):
        c.put(f'/group/{i}', pattern(100_000, f'group{i}'))
    places = {frozenset(holders(c, f'/group/{i}')) for i in range(6)}
    assert len(places) == 1, places


class Store:
    """One more store, started by hand."""

    def __init__(self, c, name, *options, env=None):
        self.pid_of = subprocess.Popen(
            [str(BUILD / 'objstore' / 'tarn-stored'), '--config', str(c.home / 'tarn.conf'), '--dir', str(c.dir / name),
             '--host', name, *options], env=dict(c.env, **(env or {})), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        line = self.pid_of.stdout.readline()
        assert line.startswith(b'ready '), line

    def stop(self):
        self.pid_of.terminate()
        self.pid_of.wait(60)
        self.pid_of.stdout.close()


@contextmanager
def stores(c, *specs):
    started = []
    try:
        for name, *options in specs:
            started.append(Store(c, name, *options))
        yield started
    finally:
        for store in started:
            store.stop()


def with_the_clusters_own_nodes_drained(c):
    """So that only stores with a capacity take chunks."""
    for number in (1, 2, 3, 4):
        c.ok('node', 'drain', str(number))


def disks_by_host(c):
    return {d['host']: d for d in c.json('disk', 'ls')}


def a_node_that_joins_gets_its_share_of_what_is_there(c):
    small = ('--rack', '/s/r1', '--capacity', '1G')
    c.bucket('fill')
    with stores(c, ('x1', *small), ('x2', *small)):
        with_the_clusters_own_nodes_drained(c)
        wait_until(lambda: all(node(c, n)['safe_to_remove'] for n in (1, 2, 3, 4)), 'the others to be empty', 240)
        c.ok('policy', 'set', '/fill', 'copies=1')
        data = pattern(16 << 20, 'fill')
        for i in range(28):
            c.put(f'/fill/{i}', data)
        wait_until(lambda: sum(disks_by_host(c)[h]['fill_ppm'] for h in ('x1', 'x2')) > 300_000, 'the fill to be told')
        with stores(c, ('x3', *small)):
            wait_until(lambda: disks_by_host(c).get('x3', {}).get('ready', 0) >= 6, 'chunks to move to the new node', 180)

            def even():
                fills = [disks_by_host(c)[h]['fill_ppm'] for h in ('x1', 'x2', 'x3')]
                return max(fills) - min(fills) <= 100_000  # each within five points of the average

            wait_until(lambda: not heal(c)['balancing'] and even(), 'balancing to end', 180)
            for i in range(28):
                assert digest(c.cat(f'/fill/{i}')) == digest(data)
            for n in (1, 2, 3, 4):
                c.ok('node', 'undrain', str(n))
            for host in ('x1', 'x2', 'x3'):
                c.ok('node', 'drain', str(disks_by_host(c)[host]['node']))
            wait_until(lambda: all(node(c, disks_by_host(c)[h]['node'])['safe_to_remove'] for h in ('x1', 'x2', 'x3')),
                       'the three to be empty again', 240)
    assert c.status()['lost'] == 0


def a_node_without_a_rack_is_asked_for_at_the_script(c):
    script = c.dir / 'topology'
    script.write_text('#!/bin/sh\nfor name; do case $name in named) echo /site/rack-9;; *) echo /elsewhere;; esac; done\n')
    script.chmod(0o755)
    with open(c.home / 'tarn.conf', 'a') as config:
        config.write(f'topology_script = {script}\n')
    c.kill('metad-1')
    c.restart()
    with stores(c, ('named',)):
        number = next(n['id'] for n in wait_until(lambda: [n for n in c.json('node', 'ls') if n['host'] == 'named'], 'the node'))
        wait_until(lambda: node(c, number)['rack'] == '/site/rack-9', 'its rack')
        c.ok('node', 'rack', str(number), '/moved/rack-1')
        assert node(c, number)['rack'] == '/moved/rack-1'
        c.ok('node', 'drain', str(number), '--wait')
        assert node(c, number)['safe_to_remove']


if __name__ == '__main__':
    main([a_node_is_drained_under_writes_and_can_then_be_removed,
          a_change_of_policy_reaches_existing_files_while_they_are_read,
          the_chunks_of_a_group_are_on_the_same_nodes,
          a_node_that_joins_gets_its_share_of_what_is_there,
          a_node_without_a_rack_is_asked_for_at_the_script], nodes=4, racks=2)
