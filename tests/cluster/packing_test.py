"""Small objects share containers, large ones are compressed, half-dead containers are made anew, under kill -9."""

import json
import os
import shutil

from harness import digest, main, pattern, wait_until

OBJECTS = 600
WAITING = 64  # as many may still wait for company
TEXT = b'all work and no play ' * 150000  # one chunk


def content(name):
    i = int(name)
    return pattern(4200 + i * 7919 % 12000, f'small{i}')


def chunk_files(c):
    """Sizes of the chunk files of all stores."""
    sizes = []
    for root, _, files in os.walk(c.home):
        for name in files if '/chunks' in root else []:
            try:
                sizes.append(os.stat(os.path.join(root, name)).st_size)
            except FileNotFoundError:
                pass
    return sizes


def located(c):
    """For each object, by its name, a row of locate."""
    rows = [json.loads(line) for line in c.ok('locate', '--recursive', '/small', '--json').splitlines()]
    return {row['path'].rsplit('/', 1)[1]: row for row in rows if 'chunk' in row}


def alone(c):
    """Objects that have a chunk of their own."""
    return [name for name, row in located(c).items() if row['form'] != 'packed']


def containers(c):
    return {row['chunk'] for row in located(c).values() if row['form'] == 'packed'}


def check(c, names):
    """Every object byte for byte, by one command that reads them all."""
    copy = c.dir / 'copy'
    copy.mkdir()
    c.ok('cp', '--recursive', 'tarn:/small/small', str(copy))
    there = {p.name: p for p in copy.rglob('*') if p.is_file()}
    assert sorted(there) == names, f'{len(there)} objects are there, not {len(names)}'
    for name in names:
        assert digest(there[name].read_bytes()) == digest(content(name)), name
    shutil.rmtree(copy)


def kill_store_and_leader(c, store):
    c.kill(f'stored-{store}')
    c.kill(f'metad-{c.leader()}')
    c.restart()


def safe(c):
    return c.status()['safe']


def put_all(c):
    source = c.dir / 'small'
    source.mkdir()
    names = [f'{i:04}' for i in range(OBJECTS)]
    for name in names:
        (source / name).write_bytes(content(name))
    c.bucket('small')
    c.ok('put', '--recursive', str(source), '/small')
    return names


def form(c, path):
    return c.json('locate', path)[0]['form']


def put_large(c):
    c.bucket('large')
    c.ok('policy', 'set', '/large', 'compress=3')
    c.put('/large/text', TEXT)
    c.put('/large/noise', pattern(len(TEXT), 'noise'))


def text_is_compressed_and_unpacked(c):
    wait_until(lambda: form(c, '/large/text') == 'compressed', 'compression', 120)
    assert c.cat('/large/text') == TEXT
    assert form(c, '/large/noise') == 'replicated', 'it does not get smaller'
    c.ok('policy', 'set', '/large', 'compress=off')
    wait_until(lambda: form(c, '/large/text') != 'compressed', 'the chunk to be raw again', 120)
    assert c.cat('/large/text') == TEXT
    c.ok('rm', '/large/text', '/large/noise')


def objects_are_packed_compressed_and_compacted_under_kill_9(c):
    put_large(c)
    names = put_all(c)
    wait_until(lambda: len(alone(c)) < OBJECTS, 'the first container', 120)
    kill_store_and_leader(c, 1)
    wait_until(lambda: len(alone(c)) < WAITING, 'the objects to share containers', 120)
    text_is_compressed_and_unpacked(c)
    wait_until(lambda: safe(c), 'every container to have its copies', 120)
    check(c, names)
    most = 3 * (WAITING + len(containers(c)))
    wait_until(lambda: len(chunk_files(c)) <= most, 'the files of the pieces to go', 120)

    before = containers(c)
    dead = [name for name in names if int(name) % 4]
    names = [name for name in names if int(name) % 4 == 0]
    c.ok('rm', *[f'/small/small/{name}' for name in dead])
    kill_store_and_leader(c, 2)
    wait_until(lambda: not before & containers(c), 'the half-dead containers to be made anew', 120)
    wait_until(lambda: safe(c), 'every container to have its copies', 120)
    alive = sum(len(content(name)) for name in names)
    wait_until(lambda: sum(chunk_files(c)) < 3 * alive * 2, 'the space of the dead to be free', 120)
    check(c, names)


if __name__ == '__main__':
    main([objects_are_packed_compressed_and_compacted_under_kill_9], nodes=4, meta=3)
