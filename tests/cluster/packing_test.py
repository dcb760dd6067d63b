"""Small objects share containers, large ones are compressed, half-dead containers are made anew, under kill -9."""

import json
import os
import shutil

from harness import digest, main, pattern, wait_until

OBJECTS = 3000


def sizes(i):
    return 4200 + i * 7919 % 12000


def chunk_files(c):
    """Chunk files of all stores."""
    return sum(1 for root, _, files in os.walk(c.home) for name in files if '/chunks' in root)


def chunks_of(c, path):
    """Of each object the chunk that has its bytes, in one question."""
    rows = [json.loads(line) for line in c.ok('locate', '--recursive', path, '--json').splitlines()]
    return {row['path'].rsplit('/', 1)[1]: row['chunk'] for row in rows if 'chunk' in row}


def fill(c, directory):
    for i in range(OBJECTS):
        (directory / f'{i:04}').write_bytes(pattern(sizes(i), f'small{i}'))


def check(c, names, copy):
    """Every object byte for byte, by one command that reads them all."""
    copy.mkdir()
    c.ok('cp', '--recursive', 'tarn:/small/small', str(copy))
    there = sorted(p.name for p in copy.rglob('*') if p.is_file())
    assert there == names, f'{len(there)} objects are there, not {len(names)}'
    for p in copy.rglob('*'):
        if p.is_file():
            assert digest(p.read_bytes()) == digest(pattern(sizes(int(p.name)), f'small{int(p.name)}')), p.name
    shutil.rmtree(copy)


def three_thousand_small_objects_are_packed_and_compacted(c):
    source, copy = c.dir / 'small', c.dir / 'copy'
    source.mkdir()
    fill(c, source)
    c.bucket('small')
    c.ok('put', '--recursive', str(source), '/small')
    names = [f'{i:04}' for i in range(OBJECTS)]

    def distinct():
        return len(set(chunks_of(c, '/small').values()))

    wait_until(lambda: distinct() < OBJECTS - 300, 'packing to begin', 120)
    c.kill('stored-1')
    leader = c.leader()
    c.kill(f'metad-{leader}')
    c.restart()
    # fewer than 64 wait for company, and the containers
    wait_until(lambda: distinct() < 64 + OBJECTS / 50, 'the objects to share containers', 240)
    wait_until(lambda: c.status()['safe'], 'every container to have its copies', 120)
    check(c, names, copy)
    wait_until(lambda: chunk_files(c) < 3 * (64 + OBJECTS / 50), 'the files of the pieces to go', 120)
    for first in range(0, 1700, 100):
        c.ok('rm', *[f'/small/small/{name}' for name in names[first:first + 100]])
    names = names[1700:]
    c.kill('stored-2')
    c.restart()
    alive = sum(sizes(int(name)) for name in names)
    wait_until(lambda: used(c) < 3 * alive * 2, 'the space of the dead to be free', 120)
    wait_until(lambda: c.status()['safe'], 'every container to have its copies', 120)
    check(c, names, copy)


def used(c):
    """Bytes of all chunk files."""
    total = 0
    for root, _, files in os.walk(c.home):
        if '/chunks' in root:
            for name in files:
                try:
                    total += os.stat(os.path.join(root, name)).st_size
                except FileNotFoundError:
                    pass
    return total


if __name__ == '__main__':
    main([three_thousand_small_objects_are_packed_and_compacted], nodes=4, meta=3)
