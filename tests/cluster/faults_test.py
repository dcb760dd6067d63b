"""kill -9 of every kind of process in the middle of work: what was acknowledged is there afterwards."""

import os
import threading

from harness import TARN, background, digest, main, pattern, wait_until

BIG = 24 << 20


def stored_bytes(c):
    """Of the upload's parts, which are hidden from listings of the bucket."""
    return sum(row['size'] for row in c.json('ls', '--recursive', '/.tarn') if row['type'] == 'file') if c.tarn('stat', '/.tarn').code == 0 else 0


class Writer:
    """Puts objects one after another until told to stop; remembers which were acknowledged."""

    def __init__(self, c, bucket):
        self.c, self.bucket, self.acked, self.refused, self.stop = c, bucket, {}, [], threading.Event()
        c.bucket(bucket)

    def __call__(self):
        i = 0
        while not self.stop.is_set():
            data = pattern([100, 5000, 70000, 3 << 20][i % 4], f'{self.bucket}{i}')
            done = self.c.tarn('put', '-', f'/{self.bucket}/{i}', input=data)
            if done.code == 0:
                self.acked[i] = digest(data)
            else:
                self.refused.append(done)
            i += 1

    def check(self):
        for i, want in self.acked.items():
            assert digest(self.c.cat(f'/{self.bucket}/{i}')) == want, f'object {i} of {len(self.acked)}'


def puts_survive(c, bucket, victims):
    c.ok('mkdir', f'/{bucket}')
    writer = Writer(c, bucket)
    with background(writer):
        wait_until(lambda: len(writer.acked) >= 4, 'the first puts')
        for victim in victims():
            before = len(writer.acked)
            c.kill(victim)
            wait_until(lambda: len(writer.acked) >= before + 4, f'puts to go on without {victim}', 120)
            c.restart()
        writer.stop.set()
    assert not writer.refused, writer.refused
    writer.check()


def puts_go_on_while_the_metadata_leader_dies(c):
    puts_survive(c, 'leader', lambda: (f'metad-{c.leader()}' for _ in range(2)))


def puts_go_on_while_any_store_dies(c):
    puts_survive(c, 'store', lambda: (f'stored-{i}' for i in (1, 3, 5)))
    wait_until(lambda: len(c.nodes_up()) == 5, 'all nodes up')


def a_mounted_write_goes_on_while_a_store_and_the_leader_die(c):
    m = c.mount()
    (m / 'w').mkdir()
    data = pattern(BIG, 'mounted')
    killed = []
    fd = os.open(m / 'w/file', os.O_CREAT | os.O_RDWR)
    for at in range(0, BIG, 1 << 20):
        os.pwrite(fd, data[at:at + (1 << 20)], at)
        if at == 5 << 20:
            killed.append('stored-2')
        elif at == 10 << 20:
            killed.append(f'metad-{c.leader()}')
        elif at == 15 << 20:
            killed.append('stored-4')
        else:
            continue
        c.kill(killed[-1])
    os.fsync(fd)
    assert digest(os.pread(fd, BIG, 0)) == digest(data)
    os.close(fd)
    c.restart()
    assert digest((m / 'w/file').read_bytes()) == digest(data)
    assert digest(c.cat('/w/file')) == digest(data)
    os.rename(m / 'w/file', m / 'w/other')
    assert os.listdir(m / 'w') == ['other']
    c.umount(m)


def s3_clients_retry_over_a_dead_gateway(c):
    assert c.s3cmd('mb', 's3://gate').code == 0
    data = pattern(8 * BIG, 'gate')
    (c.dir / 'big').write_bytes(data)
    log = (c.dir / 'upload.log').open('wb')
    upload = c.start('s3cmd', '-c', c.dir / 's3cfg', '--no-progress', '--limit-rate=40m', 'put', c.dir / 'big', 's3://gate/big',
                     stdout=log, stderr=log)
    wait_until(lambda: stored_bytes(c) > BIG, 'the upload to be in its middle')
    c.kill('gatewayd')
    c.restart()
    if upload.wait(300) != 0:  # the client may have given up; nothing half may be visible then
        assert c.s3cmd('info', 's3://gate/big').code != 0
        done = c.s3cmd('put', c.dir / 'big', 's3://gate/big')
        assert done.code == 0, done
    assert digest(c.cat('/gate/big')) == digest(data)


def a_job_gives_the_right_answer_once_though_an_agent_and_a_store_die(c):
    c.ok('mkdir', '/jobin')
    total = 0
    for i in range(40):
        lines = [f'{i} {n} {"yes" if n % 3 == 0 else "no"}' for n in range(3000)]
        total += sum(line.endswith('yes') for line in lines)
        c.put(f'/jobin/{i:02}', '\n'.join(lines).encode() + b'\n')
    box = {}

    def job():
        box['done'] = c.tarn('job', 'run', '--map', 'sleep 0.2; grep -c yes', '--reduce',
                             "awk '{n++; s+=$1} END {print n, s}'", '/jobin', timeout=280)

    with background(job):
        wait_until(lambda: [j for j in c.json('job', 'ls') if j.get('tasks_done', 0) >= 3], 'the first tasks to finish')
        for victim in ('agentd-1', 'stored-2', 'allocd', 'agentd-3'):
            c.kill(victim)
        c.restart()
    assert box['done'].code == 0, box['done']
    assert box['done'].out.decode().split() == ['40', str(total)], box['done']


def everything_dies_at_once_and_comes_back(c):
    c.ok('mkdir', '/all')
    want = {}
    for i in range(12):
        data = pattern(200000, f'all{i}')
        c.put(f'/all/{i}', data)
        want[i] = digest(data)
    for name in [p.stem for p in sorted((c.home / 'run').glob('*.pid'))]:
        c.kill(name)
    c.restart()
    for i, value in want.items():
        assert digest(c.cat(f'/all/{i}')) == value


def a_lost_copy_is_made_again(c):
    c.put('/all/heal', pattern(5 << 20, 'heal'))
    rows = c.json('locate', '/all/heal')
    victim = rows[0]['node']
    c.kill(f'stored-{victim}')

    def healed():
        return len([r for r in c.json('locate', '/all/heal') if r['up'] and r['node'] != victim]) == 3

    wait_until(healed, 'a third copy on another node', 120)
    assert digest(c.cat('/all/heal')) == digest(pattern(5 << 20, 'heal'))
    c.restart()
    wait_until(lambda: c.tarn('status').code == 0, 'the status to be safe', 120)


if __name__ == '__main__':
    main([puts_go_on_while_the_metadata_leader_dies, puts_go_on_while_any_store_dies,
          a_mounted_write_goes_on_while_a_store_and_the_leader_die, s3_clients_retry_over_a_dead_gateway,
          a_job_gives_the_right_answer_once_though_an_agent_and_a_store_die, everything_dies_at_once_and_comes_back,
          a_lost_copy_is_made_again], nodes=5, meta=3, racks=2)
