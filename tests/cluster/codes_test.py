"""Files under a code become parity groups, outlive the loss of as many nodes as there is parity, are healed, and
become copies and a code again: with real stores, byte for byte, read all the time."""

import json
import threading

from harness import background, digest, main, pattern, wait_until

MIB = 1 << 20
DIGESTS = {}
SIZES = {'four': 4 * MIB, 'seven': 7 * MIB - 12345, 'two': 2 * MIB - 1, 'one': 100_000}


def heal(c):
    done = c.tarn('heal', 'status', '--json')
    assert done.code in (0, 1) and done.out, done
    return json.loads(done.out)


def holders(c, path):
    """Nodes by the offset of their chunk."""
    places = {}
    for row in c.json('locate', path):
        places.setdefault(row['offset'], set()).add(row['node'])
    return places


def coded(c, paths):
    """Every chunk of them lies on one node, as coded chunks do, and is called so."""
    return all(len(nodes) == 1 for path in paths for nodes in holders(c, path).values()) and \
        all(row['coded'] and row['form'] == 'coded' for path in paths for row in c.json('locate', path))


class Readers:
    """Reads everything again and again; every byte must be right."""

    def __init__(self, c):
        self.c, self.stop, self.passes = c, threading.Event(), 0

    def __call__(self):
        while not self.stop.is_set():
            self.once()
            self.passes += 1

    def once(self):
        for path, want in DIGESTS.items():
            assert digest(self.c.cat(path)) == want, path


def what_is_put_is_coded(c):
    c.bucket('coded')
    c.ok('policy', 'set', '/coded', 'code=4+2', 'chunk=1M')
    for name, size in SIZES.items():
        data = pattern(size, name)
        c.put(f'/coded/{name}', data)
        DIGESTS[f'/coded/{name}'] = digest(data)
    big = [f'/coded/{name}' for name in ('four', 'seven', 'two')]
    wait_until(lambda: coded(c, big) and heal(c)['coding'] == 0, 'the chunks to be coded')
    for path in big[:1]:
        nodes = [next(iter(n)) for n in holders(c, path).values()]
        assert len(set(nodes)) == len(nodes) == 4, nodes
    assert all(len(n) == 3 for n in holders(c, '/coded/one').values())  # alone in its file
    wait_until(lambda: heal(c)['safe'], 'all to be safe')
    assert heal(c)['groups'] >= 3, heal(c)


def two_nodes_are_lost_and_nothing_is_missed(c):
    readers, places = Readers(c), holders(c, '/coded/four')
    readers.once()
    for node in (next(iter(places[0])), next(iter(places[MIB]))):
        c.kill(f'stored-{node}')
    readers.once()  # at once: the service still takes them for living
    wait_until(lambda: heal(c)['below_target'] > 0, 'the loss to be told')
    readers.once()
    wait_until(lambda: heal(c)['safe'], 'the lost shards to be computed again', 120)
    assert heal(c)['lost'] == 0
    readers.once()
    c.restart()
    wait_until(lambda: len(c.nodes_up()) == 8, 'the nodes to be back')


def a_code_becomes_copies_and_a_code_again_under_reads(c):
    readers, stat = Readers(c), c.json('stat', '/coded/seven')[0]
    with background(readers):
        try:
            c.ok('policy', 'set', '/coded', 'copies=2')
            wait_until(lambda: heal(c)['groups'] == 0 and heal(c)['safe'], 'the groups to go', 120)
            c.ok('policy', 'set', '/coded', 'code=2+1')
            wait_until(lambda: coded(c, ['/coded/four', '/coded/two']) and heal(c)['coding'] == 0 and heal(c)['safe'], 'another code', 120)
            before = readers.passes
            wait_until(lambda: readers.passes > before, 'a read of everything')
        finally:
            readers.stop.set()
    again = c.json('stat', '/coded/seven')[0]
    assert (again['ino'], again['mtime'], again['size']) == (stat['ino'], stat['mtime'], stat['size'])


def what_goes_leaves_nothing(c):
    for path in DIGESTS:
        c.ok('rm', path)
    wait_until(lambda: heal(c)['chunks'] == 0 and heal(c)['groups'] == 0, 'parity and data to go')


if __name__ == '__main__':
    main([what_is_put_is_coded,
          two_nodes_are_lost_and_nothing_is_missed,
          a_code_becomes_copies_and_a_code_again_under_reads,
          what_goes_leaves_nothing], nodes=8)
