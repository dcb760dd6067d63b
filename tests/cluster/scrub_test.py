"""Flipped bytes in the files of a running cluster: never served, found and repaired without a command or by one, and checked offline."""

import json
import os
import random

from harness import BUILD, digest, main, pattern, wait_until

CELL = 65536
STORED = str(BUILD / 'objstore' / 'tarn-stored')
SIZES = {'two': 2, 'three': 3}


def volumes(c):
    """Directory of each node's volume."""
    return {n: next((c.home / f'node-{n}').glob('*/superblock')).parent for n in (1, 2, 3)}


def chunk_files(c):
    found = []
    for node, volume in volumes(c).items():
        found += [(node, path) for path in sorted((volume / 'chunks').glob('*/*')) if path.stat().st_size > 0]
    return found


def flip(path, offset):
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte[0] ^ 0x5a]), offset)
    finally:
        os.close(fd)


def flip_at_random(c, count, seed):
    """Random bytes of random files, but never the same cell in every copy of a chunk: that would be lost."""
    chance, bad = random.Random(seed), {}
    files = chunk_files(c)
    copies = {}
    for node, path in files:
        copies.setdefault(path.name, set()).add(node)
    done = set()
    while len(done) < count:
        node, path = chance.choice(files)
        offset = chance.randrange(path.stat().st_size)
        hit = bad.setdefault((path.name, offset // CELL), set())
        if (str(path), offset) in done or (node not in hit and len(hit) + 1 >= len(copies[path.name])):
            continue
        hit.add(node)
        flip(path, offset)
        done.add((str(path), offset))
    return len(done)


def verified_cat(c, path):
    """Every byte compared with its checksum: a descriptor that was verified before the flips would show them."""
    config = c.dir / 'verify.conf'
    config.write_text((c.home / 'tarn.conf').read_text() + 'verify = always\n')
    return c.ok('cat', '--config', config, path)


def check_offline(c, *options):
    done = c.run(STORED, 'check', '--json', *options, *[str(v) for v in volumes(c).values()])
    return done.code, [json.loads(line) for line in done.out.splitlines()]


def stop_stores(c):
    import signal
    from harness import alive
    pids = [c.pid(f'stored-{n}') for n in (1, 2, 3)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        wait_until(lambda: not alive(pid), 'a store to stop')


def settled(c):
    wait_until(lambda: c.status()['safe'] and c.status()['pending_tasks'] == 0, 'every chunk to have its copies', 120)


def a_thousand_flipped_bytes_are_never_served_and_all_repaired(c):
    want = {}
    for name, copies in SIZES.items():
        c.bucket(name)
        c.ok('policy', 'set', f'/{name}', f'copies={copies}')
        for i in range(6):
            data = pattern((12 << 20) + 1000 * i, f'{name}{i}')
            c.put(f'/{name}/{i}', data)
            want[f'/{name}/{i}'] = digest(data)
    settled(c)
    assert flip_at_random(c, 1000, 'flips') == 1000
    for path, right in want.items():  # while it is damaged: the right bytes, whoever has them
        assert digest(verified_cat(c, path)) == right, path
    done = c.tarn('scrub', '--wait', '--json')
    assert done.code == 0, done
    told = json.loads(done.out)
    assert told['whole'] and told['complete'] and told['lost'] == 0 and told['disks'] == 3, told
    settled(c)
    again = json.loads(c.ok('scrub', '--wait', '--json'))
    assert again['found_cells'] == 0, again
    for path, right in want.items():
        assert digest(c.cat(path)) == right, path
    code, lines = check_offline(c)
    assert code == 1, 'stores that run are refused'
    stop_stores(c)
    code, lines = check_offline(c)
    assert code == 0 and len(lines) == 3 and all(line['clean'] for line in lines), (code, lines)
    c.restart()
    settled(c)


def new_chunk_files(c, before):
    return [path for _, path in chunk_files(c) if path.name not in before]


def damaged_shards_are_computed_from_their_groups(c):
    c.bucket('coded')
    c.ok('policy', 'set', '/coded', 'code=2+1', 'chunk=1M')
    before, want, data_chunks = {path.name for _, path in chunk_files(c)}, {}, {}
    for i in range(6):
        data = pattern(2 << 20, f'coded{i}')  # two chunks: a group of its own
        c.put(f'/coded/{i}', data)
        want[f'/coded/{i}'] = digest(data)
    wait_until(lambda: all(len(c.json('locate', path)) == 2 for path in want) and len(new_chunk_files(c, before)) == 18,
               'two shards of data and one of parity for each object, no copies', 120)
    settled(c)
    for path in want:
        for row in c.json('locate', path):
            data_chunks[row['chunk']] = row['offset'] >> 20
    flipped = set()
    for path in new_chunk_files(c, before):
        first = data_chunks.get(int(path.name, 16), 2)  # of no cell more than the one shard that the parity gives back
        for cell in range(first, path.stat().st_size // CELL, 3):
            flip(path, cell * CELL + 100 + cell)
            flipped.add((path.name, cell))
    assert len(flipped) >= 6 * 15 and len({name for name, _ in flipped}) == 18, len(flipped)
    for path, right in want.items():
        assert digest(verified_cat(c, path)) == right, path
    told = json.loads(c.ok('scrub', '--wait', '--json'))
    assert told['whole'] and told['complete'] and told['lost'] == 0, told
    settled(c)
    assert json.loads(c.ok('scrub', '--wait', '--json'))['found_cells'] == 0
    for path, right in want.items():
        assert digest(verified_cat(c, path)) == right, path
    stop_stores(c)
    code, lines = check_offline(c)
    assert code == 0 and all(line['clean'] for line in lines), (code, lines)
    c.restart()
    settled(c)


def what_is_damaged_in_the_last_copy_is_told_with_its_name_and_never_served(c):
    c.bucket('one')
    c.ok('policy', 'set', '/one', 'copies=1')
    before = {path.name for _, path in chunk_files(c)}
    data = pattern(3 << 20, 'one')
    c.put('/one/file', data)
    settled(c)
    (path,) = [path for _, path in chunk_files(c) if path.name not in before]
    flip(path, (1 << 20) + 17)
    done = c.tarn('scrub', '--wait')
    assert done.code == 1 and b'/one/file' in done.out, done
    status = c.status()
    assert not status['safe'] and status['damaged_lost'] == 1 and status['damaged_files'] == '/one/file', status
    assert b'/one/file' in c.tarn('status').out
    done = c.tarn('cat', '/one/file')
    assert done.code != 0 and data.startswith(done.out), 'nothing wrong is served'
    stop_stores(c)
    code, lines = check_offline(c)
    assert code == 10, (code, lines)
    (finding,) = [line for line in lines if line.get('damage') is True]
    assert path.name in finding['finding'] and 'cell 16' in finding['finding'], finding
    assert check_offline(c, '--fast')[0] == 0
    c.restart()
    wait_until(lambda: len(c.nodes_up()) == 3, 'the nodes to be back')
    c.ok('rm', '/one/file')
    wait_until(lambda: c.status()['damaged'] == 0 and c.status()['safe'], 'the damage to be gone with the file')


if __name__ == '__main__':
    main([a_thousand_flipped_bytes_are_never_served_and_all_repaired,
          damaged_shards_are_computed_from_their_groups,
          what_is_damaged_in_the_last_copy_is_told_with_its_name_and_never_served], nodes=3)
