"""Coded data under every door while as many nodes as the code bears are killed, stopped or asleep."""

import itertools
import os
import random
import re
import signal
import urllib.request

from harness import background, digest, main, pattern, wait_until

MIB = 1 << 20
NODES = 6
SIZE = 23 * MIB + 4567
CODES = {'21': '2+1', '42': '4+2'}


def put_coded(c, name):
    """An object in a directory with the code; returns its bytes when it is coded: each chunk on one node, the group on k + m."""
    c.ok('mkdir', '--parents', f'/{name}')
    c.ok('policy', 'set', f'/{name}', f'code={CODES[name]}', 'chunk=4M')
    data = pattern(SIZE, name)
    c.ok('put', '-', f'/{name}/o', input=data)
    wait_until(lambda: all(len(nodes) == 1 for nodes in holders(c, f'/{name}/o').values()), f'/{name}/o to be coded', 120)
    return data


def holders(c, path):
    """Offset of each extent → the nodes that have its bytes."""
    by_offset = {}
    for row in c.json('locate', path):
        by_offset.setdefault(row['offset'], set()).add(row['node'])
    return by_offset


def data_nodes(c, path):
    return sorted(set().union(*holders(c, path).values()))


def metric(c, name):
    with urllib.request.urlopen(c.env['AWS_ENDPOINT_URL'] + '/metrics') as page:
        return int(re.search(rf'^{name} (\d+)$', page.read().decode(), re.M).group(1))


def all_back(c, stopped, killed):
    for node in stopped:
        c.kill(f'stored-{node}', signal.SIGCONT)
    if killed:
        c.restart()
    wait_until(lambda: len(c.nodes_up()) == NODES, 'all nodes up')


def every_loss_of_2_plus_1_and_some_of_4_plus_2_are_read(c):
    for name in CODES:
        data = put_coded(c, name)
        chance = random.Random(name)
        patterns = list(itertools.combinations(range(1, NODES + 1), 1 if name == '21' else 2))
        for lost in patterns if name == '21' else chance.sample(patterns, 3):
            killed = [node for node in lost if chance.random() < 0.5]
            stopped = [node for node in lost if node not in killed]
            for node in lost:
                c.kill(f'stored-{node}', signal.SIGKILL if node in killed else signal.SIGSTOP)
            try:
                assert digest(c.cat(f'/{name}/o')) == digest(data), f'/{name}/o without {lost}'
            finally:
                all_back(c, stopped, killed)


def every_read_after_a_kill_is_answered(c):
    data = pattern(SIZE, '42')
    nodes = data_nodes(c, '/42/o')[:2]
    for node in nodes:
        c.kill(f'stored-{node}')
    try:
        for _ in range(20):  # each by a client that knows nothing yet, from before the loss is noticed until after
            done = c.tarn('cat', '/42/o')
            assert done.code == 0 and digest(done.out) == digest(data) and b'cannot be learned' not in done.err, done
    finally:
        all_back(c, [], nodes)


def ranges_come_by_s3_while_nodes_die_under_them(c):
    data, url = pattern(SIZE, '42'), c.env['AWS_ENDPOINT_URL']
    before = metric(c, 'tarn_gateway_store_computed_bytes_total')
    nodes = data_nodes(c, '/42/o')[:2]
    get = c.dir / 'range'

    def read(rounds):
        chance = random.Random(rounds)
        for _ in range(rounds):
            begin = chance.randrange(SIZE)
            end = min(SIZE, begin + chance.choice([1, 5000, 70000, 3 * MIB]))
            done = c.run('curl', '--fail', '--silent', '--show-error', '--header', f'x-amz-content-sha256: {digest(b"")}', '--aws-sigv4', f'aws:amz:{c.env["AWS_DEFAULT_REGION"]}:s3', '--user',
                         f'{c.env["AWS_ACCESS_KEY_ID"]}:{c.env["AWS_SECRET_ACCESS_KEY"]}', '--range', f'{begin}-{end - 1}',
                         '--output', get, f'{url}/42/o')
            assert done.code == 0, f'{begin}-{end}: {done}'
            assert get.read_bytes() == data[begin:end], f'{begin}-{end}'

    try:
        with background(read, 30):
            c.kill(f'stored-{nodes[0]}')
            c.kill(f'stored-{nodes[1]}', signal.SIGSTOP)
        read(10)
    finally:
        all_back(c, nodes[1:], nodes[:1])
    assert metric(c, 'tarn_gateway_store_computed_bytes_total') > before


def a_job_reads_what_is_lost_and_its_receipt_is_right(c):
    data = pattern(SIZE, '21')
    lost = data_nodes(c, '/21/o')[0]
    c.kill(f'stored-{lost}')
    try:
        got = c.ok('job', 'run', '--map', 'sha256sum', '/21/o').decode().split()[0]
        assert got == digest(data)
        receipt = c.json('job', 'ls')[-1]['receipt']
        assert receipt['local'] + receipt['rack'] + receipt['remote'] == SIZE, receipt
    finally:
        all_back(c, [], [lost])


def the_mount_reads_what_is_lost(c):
    point = c.mount()
    data = pattern(SIZE, '42')
    nodes = data_nodes(c, '/42/o')[:2]
    for node in nodes:
        c.kill(f'stored-{node}')
    try:
        with open(point / '42/o', 'rb', buffering=0) as file:
            chance = random.Random(1)
            for _ in range(40):
                at = chance.randrange(SIZE)
                assert os.pread(file.fileno(), 5000, at) == data[at:at + 5000], at
    finally:
        all_back(c, [], nodes)
        c.umount(point)


def the_mount_writes_into_what_is_lost(c):
    point = c.mount()
    data = bytearray(pattern(SIZE, '42'))
    nodes = data_nodes(c, '/42/o')[:2]
    for node in nodes:
        c.kill(f'stored-{node}')
    try:
        with open(point / '42/o', 'r+b', buffering=0) as file:
            for at in [10, SIZE // 2, SIZE - 3]:  # the old content of the chunk is computed where its node is down
                data[at:at + 3] = b'new'
                os.pwrite(file.fileno(), b'new', at)
            os.fsync(file.fileno())
            assert os.pread(file.fileno(), 100, SIZE // 2 - 50) == data[SIZE // 2 - 50:SIZE // 2 + 50]
        assert digest(c.cat('/42/o')) == digest(data)
    finally:
        all_back(c, [], nodes)
        c.umount(point)


if __name__ == '__main__':
    main([
        every_loss_of_2_plus_1_and_some_of_4_plus_2_are_read,
        every_read_after_a_kill_is_answered,
        ranges_come_by_s3_while_nodes_die_under_them,
        a_job_reads_what_is_lost_and_its_receipt_is_right,
        the_mount_reads_what_is_lost,
        the_mount_writes_into_what_is_lost,
    ], nodes=NODES)
