"""Replicas of the metadata service are added, replaced and removed while clients write."""

import signal

from harness import main
from replicas import METAD, Names, Replica, checks_clean, meta_address, point_config_at, status


def one_grows_to_five_a_dead_one_is_replaced_and_three_stay(c):
    first = meta_address(c)
    extra = {i: Replica(c, i) for i in (2, 3, 4, 5, 6)}
    try:
        names = Names(c, '/grow')
        with names.running():
            names.more()
            for i in (2, 3, 4, 5):
                extra[i].join()
                c.ok('meta', 'add', extra[i].address)
                if i in (3, 5):
                    point_config_at(c, first + [extra[j].address for j in range(2, i + 1)])
                names.more()
            rows = status(c)
            assert len(rows) == 5 and all(row['state'] in ('leader', 'follower') for row in rows), rows
            extra[3].stop(signal.SIGKILL)
            names.more()
            extra[6].join()
            c.ok('meta', 'replace', '3', extra[6].address)
            names.more()
            leader = next(row['id'] for row in status(c) if row['state'] == 'leader')
            c.ok('meta', 'remove', str(leader))  # hands over first
            names.more()
            second = next(i for i in (1, 2, 4, 5) if i != leader)
            c.ok('meta', 'remove', str(second))
            stay = [i for i in (1, 2, 4, 5, 6) if i not in (leader, second)]
            point_config_at(c, [first[0] if i == 1 else extra[i].address for i in stay])
            names.more()
        assert not names.failed, names.failed[:3]
        assert sorted(row['id'] for row in status(c)) == stay, status(c)
        names.check()
        for i in (leader, second):  # those that were removed know it, and say so at the next start, too
            if i != 1:
                assert extra[i].process.wait(60) == 9
                again = c.run(METAD, '--id', i, '--dir', extra[i].dir, '--listen', extra[i].address)
                assert again.code == 9, again
        c.put('/after/x', b'the stores found their way')
        assert c.cat('/after/x') == b'the stores found their way'
        for i in stay:
            if i != 1:
                assert extra[i].stop() == 0
                checks_clean(c, extra[i].dir)
    finally:
        for replica in extra.values():
            if replica.process:
                replica.stop(signal.SIGKILL)


if __name__ == '__main__':
    main([one_grows_to_five_a_dead_one_is_replaced_and_three_stay], nodes=1, meta=1)
