"""put, get, cp, rm as people who know cp(1) and rm(1) expect them; --json is JSON; an interrupt leaves nothing half."""

import json
import os
import signal
import subprocess
from pathlib import Path

from harness import TARN, main, pattern, wait_until

ODD = ['with space', 'new\nline', '\u00fc\u2603', '-dash', '*', '"quote"', "'", '\\', '%self not', 'trail ']


def tree_of(root):
    """Every name below root with what it is."""
    found = {}
    for path in sorted(root.rglob('*')):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else 'dir' if path.is_dir() else path.read_bytes()
    return found


def sample(c, name):
    root = c.dir / name
    (root / 'sub' / 'empty').mkdir(parents=True)
    (root / 'zero').write_bytes(b'')
    (root / 'sub' / 'big').write_bytes(pattern(3 << 20, name))
    (root / 'link').symlink_to('zero')
    (root / 'dangling').symlink_to('nowhere')
    for odd in ODD:
        (root / 'sub' / odd).write_text(odd)
    return root


def a_tree_comes_back_as_it_went(c):
    root = sample(c, 'tree')
    c.ok('mkdir', '/cmd')
    c.ok('put', '--recursive', root, '/cmd/t')
    c.ok('get', '--recursive', '/cmd/t', c.dir / 'back')
    assert tree_of(c.dir / 'back') == tree_of(root)
    c.ok('cp', '--recursive', 'tarn:/cmd/t', 'tarn:/cmd/t2')
    c.ok('get', '--recursive', '/cmd/t2/', c.dir / 'back2')
    assert tree_of(c.dir / 'back2') == tree_of(root)


def an_existing_directory_takes_the_sources(c):
    root = c.dir / 'tree'
    c.ok('put', '--recursive', str(root) + '/', '/cmd/t')
    assert c.cat('/cmd/t/tree/sub/-dash') == b'-dash'
    c.ok('put', root / 'zero', root / 'sub' / '-dash', '/cmd')
    assert c.cat('/cmd/-dash') == b'-dash'
    (c.dir / 'into').mkdir()
    c.ok('get', '/cmd/zero', '/cmd/-dash', c.dir / 'into')
    assert (c.dir / 'into' / '-dash').read_text() == '-dash'


def several_sources_need_a_directory(c):
    one, two = c.dir / 'tree' / 'zero', c.dir / 'tree' / 'sub' / '-dash'
    for argv, word in [(['put', one, two, '/cmd/none'], '/cmd/none'), (['get', '/cmd/zero', '/cmd/-dash', c.dir / 'none'], 'none')]:
        done = c.tarn(*argv)
        assert done.code == 3 and word in done.err.decode() and b'not a directory' in done.err, done
    assert c.tarn('stat', '/cmd/none').code == 3 and not (c.dir / 'none').exists()


def what_is_there_is_not_turned_into_something_else(c):
    c.put('/cmd/file', b'file')
    done = c.tarn('put', '-', '/cmd/file/below', input=b'x')
    assert done.code == 1 and b'not a directory' in done.err, done
    assert c.cat('/cmd/file') == b'file'
    c.ok('mkdir', '/cmd/taken', '/cmd/taken/-dash')
    done = c.tarn('put', c.dir / 'tree' / 'sub' / '-dash', '/cmd/taken')
    assert done.code == 1 and b'directory' in done.err, done


def dash_is_standard_input_and_output(c):
    c.ok('put', '-', '/cmd/stdin', input=b'from a pipe')
    assert c.ok('get', '/cmd/stdin', '-') == b'from a pipe' == c.cat('/cmd/stdin')
    c.ok('get', '/cmd/stdin', '/dev/null')
    assert not os.path.isfile('/dev/null'), 'a device became a file'
    done = c.run('sh', '-c', f'{TARN} cat /cmd/stdin > /dev/full')
    assert done.code == 6 and b'standard output' in done.err, done


def rm_is_rm(c):
    c.ok('mkdir', '/cmd/empty')
    c.ok('rm', '/cmd/empty')
    done = c.tarn('rm', '/cmd/t')
    assert done.code == 1 and b'not empty' in done.err, done
    c.ok('rm', '--recursive', '/cmd/t')
    assert c.tarn('stat', '/cmd/t').code == 3
    c.ok('rm', '--force', '/cmd/t')


def every_json_line_is_json(c):
    raw = os.fsencode(c.dir) + b'/bad\xff'
    Path(os.fsdecode(raw)).write_bytes(b'x')
    for argv in [['put', os.fsdecode(raw), '/cmd'], ['ls', '/cmd'], ['ls', '--recursive', '/'], ['stat', '/cmd/zero'],
                 ['locate', '--recursive', '/cmd'], ['get', '/cmd/zero', c.dir / 'z'], ['mkdir', '/cmd/j'],
                 ['mv', '/cmd/j', '/cmd/k'], ['rm', '/cmd/k'], ['node', 'ls'], ['status'], ['job', 'ls'],
                 ['cluster', 'status', '--dir', c.home]]:
        lines = [json.loads(line) for line in c.ok(*argv, '--json').decode('utf-8').splitlines()]
        assert lines or argv[:2] == ['job', 'ls'], argv
        assert all(isinstance(line, dict) for line in lines), argv


def an_interrupt_leaves_nothing_half(c):
    put = c.start(TARN, 'put', '-', '/cmd/half', stdin=subprocess.PIPE)
    put.stdin.write(pattern(8 << 20, 'half'))
    put.send_signal(signal.SIGINT)
    assert put.wait(60) == -signal.SIGINT
    put.stdin = None
    assert c.tarn('stat', '/cmd/half').code == 3
    c.put('/cmd/whole', pattern(32 << 20, 'whole'))
    target = c.dir / 'into'
    fetch = c.start(TARN, 'get', '/cmd/whole', target / 'whole')
    wait_until(lambda: fetch.poll() is not None or any(p.name.startswith('.tarn-part') for p in target.iterdir()), 'get to begin')
    fetch.send_signal(signal.SIGINT)
    code = fetch.wait(60)
    assert not any(p.name.startswith('.tarn-part') for p in target.iterdir())
    assert code == 0 or not (target / 'whole').exists()


def an_interrupted_job_run_says_how_to_end_the_job(c):
    c.put('/cmd/one', b'1')
    run = c.start(TARN, 'job', 'run', '--map', 'sleep 1000', '/cmd/one', stderr=subprocess.PIPE)
    job = run.stderr.readline().split()[1].decode()
    wait_until(lambda: c.json('job', 'show', job)[0]['state'] == 'running', 'the job to run')
    run.send_signal(signal.SIGINT)
    said = run.stderr.read().decode()
    assert run.wait(60) == -signal.SIGINT and f'tarn job cancel {job}' in said, said
    run.stderr.close()
    c.ok('job', 'cancel', job)
    assert c.json('job', 'show', job)[0]['state'] != 'running'


if __name__ == '__main__':
    main([a_tree_comes_back_as_it_went, an_existing_directory_takes_the_sources, several_sources_need_a_directory,
          what_is_there_is_not_turned_into_something_else, dash_is_standard_input_and_output, rm_is_rm,
          every_json_line_is_json, an_interrupt_leaves_nothing_half, an_interrupted_job_run_says_how_to_end_the_job], nodes=1, meta=1, racks=1)
