"""What happens to replicas of the metadata service: planned ends, damaged logs and snapshots, full disks. What was
acknowledged is there afterwards."""

import os
import shutil
import signal
import subprocess

from harness import Skip, alive, main, wait_until
from replicas import METAD, Names, Replica, checks_clean, meta_address, states, status


def leadership_moves_under_load_and_a_planned_end_hands_it_over(c):
    names = Names(c, '/transfer')
    with names.running():
        names.more()
        for to in (1, 2, 3, 1):
            c.ok('meta', 'transfer', str(to))
            assert states(c)[to] == 'leader', status(c)
            names.more()
        c.kill('metad-1', signal.SIGTERM)
        wait_until(lambda: not alive(c.pid('metad-1')), 'the leader to end')
        assert 'leadership handed over' in (c.home / 'log' / 'metad-1.log').read_text()
        wait_until(lambda: 'leader' in states(c).values(), 'another leader')
        names.more()
        c.restart()
    assert not names.failed, names.failed[:3]
    names.check()


def status_tells_what_is_wrong(c):
    c.kill('metad-2')
    done = c.tarn('meta', 'status')
    assert done.code == 1 and b'silent' in done.out, done
    c.kill('metad-3')
    wait_until(lambda: b'No replica leads' in c.tarn('meta', 'status').out, 'the last one to step down')
    c.restart()
    wait_until(lambda: c.tarn('meta', 'status').code == 0, 'all to answer again')
    for wrong in (['meta'], ['meta', 'add'], ['meta', 'remove', 'x'], ['meta', 'transfer', '0'], ['meta', 'add', 'nowhere']):
        assert c.tarn(*wrong).code == 2, wrong
    assert c.tarn('meta', 'add', 'tcp:127.0.0.1:1').code == 5
    assert c.tarn('meta', 'transfer', '9').code == 3


def a_damaged_log_is_refused_and_a_replica_rejoins(c):
    names = Names(c, '/rejoin')
    for i in range(20):
        c.ok('mkdir', f'/rejoin/n{i}')
    victim = next(i for i, state in states(c).items() if state == 'follower')
    c.kill(f'metad-{victim}')
    home = c.home / f'meta-{victim}'
    segment = sorted((home / 'log').glob('segment-*.log'))[0]
    with open(segment, 'r+b') as f:
        f.seek(2 * 4096 + 100)  # in the middle of what was acknowledged
        f.write(b'\xff' * 64)
    address = meta_address(c)[victim - 1]
    broken = c.run(METAD, '--id', victim, '--dir', home, '--listen', address)
    assert broken.code == 1 and b'--rejoin' in broken.err, broken
    assert c.tarn('meta', 'check', home).code == 1
    replica = c.start(METAD, '--id', victim, '--dir', home, '--listen', address, '--rejoin', stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: states(c).get(victim) == 'follower', 'the replica to be one of them again')
        rows = {row['id']: row for row in status(c)}
        wait_until(lambda: {row['id']: row for row in status(c)}[victim]['behind'] == 0, 'it to have everything')
        assert (home / 'aside-1' / 'log').exists(), rows
    finally:
        replica.terminate()
        assert replica.wait(60) == 0
    checks_clean(c, home)
    c.restart()


def a_torn_snapshot_does_no_harm(c):
    for i in range(5):
        c.ok('mkdir', '--parents', f'/torn/n{i}')
    for i in range(4):  # of four by the leaders there may be, one has taken two
        c.ok('mkdir', f'/torn/later{i}')
        c.ok('meta', 'snapshot')
    leader, snapshots = next((i, found) for i in (1, 2, 3)
                             if len(found := sorted((c.home / f'meta-{i}' / 'snapshots').glob('snapshot-*'))) >= 2)
    home = c.home / f'meta-{leader}'
    c.kill(f'metad-{leader}')
    with open(snapshots[-1], 'r+b') as f:
        f.truncate(snapshots[-1].stat().st_size - 20)
    shutil.rmtree(home / 'tables')  # as after a crash of the machine: only the snapshot can help
    c.restart()
    wait_until(lambda: states(c).get(leader) in ('leader', 'follower'), 'the replica to come back')
    wait_until(lambda: {row['id']: row for row in status(c)}[leader]['behind'] == 0, 'it to have everything')
    assert b'later3' in c.ok('ls', '/torn')


def a_full_disk_stops_one_replica_and_not_the_service(c):
    if os.geteuid() != 0:
        raise Skip('mounting a tmpfs needs root')
    mounted = c.dir / 'small'
    mounted.mkdir()
    if c.run('mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', mounted).code != 0:
        raise Skip('no tmpfs can be mounted here')
    replica = Replica(c, 4, mounted / 'r')
    try:
        replica.join()
        c.ok('meta', 'add', replica.address)
        ballast = mounted / 'ballast'
        spare = os.statvfs(mounted)
        with open(ballast, 'wb') as f:
            f.write(b'\0' * (spare.f_bavail * spare.f_frsize - 8192))
        c.ok('meta', 'transfer', '4')
        names = Names(c, '/full')
        big = 'x' * 3000
        with names.running():
            # Long names fill the segment it has; then it must hand over, and the others go on.
            for i in range(20000):
                if states(c).get(4) != 'leader':
                    break
                c.put(f'/fill/{i}', big.encode() * 1300)
                c.ok('mkdir', '--parents', f'/fill/{"d" * 200}{i}/{"e" * 200}/{"f" * 200}')
                if i > 60:
                    break
            names.more()
        assert not names.failed, names.failed[:3]
        names.check()
        ballast.unlink()
        wait_until(lambda: {row['id']: row for row in status(c)}[4]['trouble'] == '', 'it to go on by itself')
        c.ok('meta', 'remove', '4')
        assert replica.process.wait(60) == 9
    finally:
        if replica.process:
            replica.stop(signal.SIGKILL)
        c.run('umount', mounted)


if __name__ == '__main__':
    main([leadership_moves_under_load_and_a_planned_end_hands_it_over, status_tells_what_is_wrong,
          a_damaged_log_is_refused_and_a_replica_rejoins, a_torn_snapshot_does_no_harm,
          a_full_disk_stops_one_replica_and_not_the_service], nodes=1, meta=3)
