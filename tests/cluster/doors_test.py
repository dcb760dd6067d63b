"""The same bytes through every door: the tarn command, S3, the mount."""

import json
import os
import subprocess

from harness import TARN, digest, main, pattern

SIZES = [0, 1, 4096, 4097, 65536, 1 << 20, (1 << 20) + 7, 20 * (1 << 20) + 12345]


def what_the_command_puts_every_door_reads(c):
    c.ok('mkdir', '/doors')
    point = c.mount()
    for size in SIZES:
        data = pattern(size, size)
        c.put(f'/doors/a/{size}', data)
        assert digest(c.cat(f'/doors/a/{size}')) == digest(data), size
        assert digest((point / f'doors/a/{size}').read_bytes()) == digest(data), size
        got = c.s3cmd('get', '--force', f's3://doors/a/{size}', c.dir / 'got')
        assert got.code == 0, got
        assert digest((c.dir / 'got').read_bytes()) == digest(data), size
    c.umount(point)


def what_s3_puts_every_door_reads(c):
    point = c.mount()
    assert c.s3cmd('mb', 's3://s3door').code == 0
    for size in SIZES:
        data = pattern(size, size + 1)
        (c.dir / 'up').write_bytes(data)
        done = c.s3cmd('put', c.dir / 'up', f's3://s3door/b/{size}')
        assert done.code == 0, done
        assert digest(c.cat(f'/s3door/b/{size}')) == digest(data), size
        assert digest((point / f's3door/b/{size}').read_bytes()) == digest(data), size
    c.umount(point)


def what_the_mount_writes_every_door_reads(c):
    point = c.mount()
    (point / 'mnt/d').mkdir(parents=True)
    for size in SIZES:
        data = pattern(size, size + 2)
        (point / f'mnt/d/{size}').write_bytes(data)
        assert digest(c.cat(f'/mnt/d/{size}')) == digest(data), size
        got = c.s3cmd('get', '--force', f's3://mnt/d/{size}', c.dir / 'got')
        assert got.code == 0, got
        assert digest((c.dir / 'got').read_bytes()) == digest(data), size
    c.umount(point)


def a_listing_is_the_same_through_every_door(c):
    point = c.mount()
    c.ok('mkdir', '/list')
    names = sorted(f'f{i:03}' for i in range(60))
    for name in names:
        c.put(f'/list/{name}', name.encode())
    assert sorted(os.listdir(point / 'list')) == names
    assert c.ok('ls', '/list').decode().split() == names
    listed = c.s3cmd('ls', 's3://list/').out.decode().split('\n')
    assert [line.rsplit('/', 1)[1] for line in listed if line] == names
    c.umount(point)


def locate_names_three_nodes_in_two_racks_for_each_chunk(c):
    c.put('/doors/located', pattern(3 << 20, 9))
    rows = c.json('locate', '/doors/located')
    assert len(rows) == 3 and len({r['node'] for r in rows}) == 3, rows
    assert len({r['rack'] for r in rows}) == 2, rows


def the_first_copy_is_on_the_writers_own_node(c):
    for node in (1, 2, 3, 4):
        done = c.tarn('put', '-', f'/doors/own{node}', '--config', c.home / f'node-{node}/tarn.conf', input=pattern(100000, node))
        assert done.code == 0, done
        rows = c.json('locate', f'/doors/own{node}')
        assert rows[0]['node'] == node and len({r['rack'] for r in rows}) == 2, rows


def the_placement_service_tells_what_locate_tells(c):
    def ask(secret):
        return c.run('curl', '-sS', '--fail-with-body', '--aws-sigv4', 'aws:amz:us-east-1:tarn', '--user',
                     f"{c.env['AWS_ACCESS_KEY_ID']}:{secret}", '-H', 'Content-Type: application/json', '-d',
                     '{"paths": ["/doors/located", "/doors/nowhere"]}', c.env['TARN_API_URL'] + '/placement/locations')

    done = ask(c.env['AWS_SECRET_ACCESS_KEY'])
    assert done.code == 0, done
    rows = [json.loads(line) for line in done.out.splitlines()]
    located = c.json('locate', '/doors/located')
    chunk = rows[0]['chunks'][0]
    assert rows[0]['path'] == '/doors/located' and chunk['hosts'] == [r['host'] for r in located], rows
    assert all((r['form'], r['coded']) == (chunk['form'], chunk['coded']) == ('replicated', False) for r in located), rows
    assert rows[1]['path'] == '/doors/nowhere' and 'chunks' not in rows[1], rows
    assert ask('wrong').code != 0


def an_object_that_is_replaced_is_never_seen_half(c):
    old, new = pattern(9 << 20, 1), pattern(9 << 20, 2)
    c.put('/doors/swap', old)
    writer = c.start(TARN, 'put', '-', '/doors/swap', stdin=subprocess.PIPE)
    writer.stdin.write(new[:5 << 20])
    writer.stdin.flush()
    assert digest(c.cat('/doors/swap')) == digest(old)
    writer.stdin.write(new[5 << 20:])
    writer.stdin.close()
    assert writer.wait() == 0
    assert digest(c.cat('/doors/swap')) == digest(new)


if __name__ == '__main__':
    main([what_the_command_puts_every_door_reads, what_s3_puts_every_door_reads,
          what_the_mount_writes_every_door_reads, a_listing_is_the_same_through_every_door,
          locate_names_three_nodes_in_two_racks_for_each_chunk, the_first_copy_is_on_the_writers_own_node,
          the_placement_service_tells_what_locate_tells, an_object_that_is_replaced_is_never_seen_half],
         nodes=4, meta=1, racks=2)
