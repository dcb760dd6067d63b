"""Jobs over stored objects: results equal those of the same commands on local files."""

import json
import os
import subprocess

from harness import main, pattern, wait_until

TEXT = {f't{i}': ''.join(f'word{n % (i + 3)} line {n}\n' for n in range(2000 + 100 * i)) for i in range(12)}


def load(c):
    c.ok('mkdir', '/texts')
    for name, text in TEXT.items():
        c.put(f'/texts/{name}', text.encode())


def a_word_count_equals_the_local_one(c):
    load(c)
    want = subprocess.run(['wc'], input=''.join(TEXT.values()).encode(), capture_output=True).stdout.split()
    got = c.ok('job', 'run', '--map', 'wc', '--reduce', "awk '{l+=$1;w+=$2;c+=$3} END {print l,w,c}'", '/texts').split()
    assert got == want, (got, want)


def a_map_alone_gives_the_outputs_in_order(c):
    got = c.ok('job', 'run', '--map', 'head -n 1', *[f'/texts/{n}' for n in TEXT]).decode().splitlines()
    assert got == [t.splitlines()[0] for t in TEXT.values()], got


def a_task_sees_its_object_on_stdin_and_as_a_read_only_file(c):
    script = ('cmp - "$TARN_INPUT_FILE" && echo same; echo "$TARN_INPUT_OBJECT"; '
              '(echo x >> "$TARN_INPUT_FILE") 2>/dev/null && echo WRITABLE; stat -c %s "$TARN_INPUT_FILE"')
    got = c.ok('job', 'run', '--map', script, '/texts/t3').decode().split()
    assert got == ['same', '/texts/t3', str(len(TEXT['t3']))], got


def the_input_file_is_the_local_chunk_itself(c):
    c.put('/texts/raw', pattern(300000, 'raw'))
    got = c.ok('job', 'run', '--map', 'stat -c %i "$TARN_INPUT_FILE"', '/texts/raw').decode().split()
    inodes = {os.stat(os.path.join(d, f)).st_ino for d, _, fs in os.walk(c.home) for f in fs}
    assert int(got[0]) in inodes, 'the input is not a file of any store'
    c.ok('rm', '/texts/raw')


def a_task_has_no_network_no_other_processes_and_no_leftovers(c):
    script = ('ls /sys/class/net 2>/dev/null | grep -v "^lo$"; (exec 3<>/dev/tcp/127.0.0.1/%s) 2>/dev/null && echo NETWORK; '
              'ls /proc | grep -c "^[0-9]"; ls /tmp | wc -l; touch /tmp/left; touch /usr/x 2>/dev/null && echo WRITABLE; true'
              % c.env['AWS_ENDPOINT_URL'].rsplit(':', 1)[1])
    for _ in range(3):
        got = c.ok('job', 'run', '--map', script, '/texts/t1').decode().split()
        assert 'NETWORK' not in got and 'WRITABLE' not in got, got
        assert int(got[-2]) <= 6 and got[-1] == '0', got


def a_failing_task_keeps_its_exit_code_and_standard_error(c):
    done = c.tarn('job', 'run', '--map', 'echo broken on purpose >&2; exit 42', '/texts/t1')
    assert done.code == 8, done
    assert b'broken on purpose' in done.err and b'42' in done.err, done
    job = c.json('job', 'ls')[-1]
    assert job['state'] == 'failed', job
    assert b'broken on purpose' in c.tarn('job', 'err', str(job['id'])).err
    task = c.json('job', 'report', str(job['id']))[1]
    assert (task['exit_code'], task['code']) == (42, 'UserTaskError'), task


def the_receipt_accounts_for_every_byte(c):
    done = c.tarn('job', 'run', '--map', 'wc -c', '/texts')
    assert done.code == 0, done
    job = c.json('job', 'ls')[-1]
    rows = c.json('job', 'report', str(job['id']))
    assert len(rows) == 1 + len(TEXT), rows
    for receipt in [rows[0]['receipt']], [row['receipt'] for row in rows[1:]]:
        total = sum(r['local'] + r['rack'] + r['remote'] for r in receipt)
        assert total == sum(len(t) for t in TEXT.values()), receipt
    assert rows[0]['receipt']['local'] > 0 and rows[0]['receipt']['mapped'] > 0, rows[0]


def a_bad_document_is_refused_with_its_reason(c):
    for text, word in [('{', 'JSON'), ('{"phases":[]}', 'phases'), ('{"phases":[{"exec":""}]}', 'exec'),
                       ('{"phases":[{"exec":"wc","colour":1}]}', 'colour')]:
        done = c.tarn('job', 'submit', '-', input=text.encode())
        assert done.code == 2 and word in done.err.decode(), (text, done)


def a_cancelled_job_ends(c):
    document = json.dumps({'name': 'long', 'phases': [{'exec': 'sleep 600'}], 'inputs': ['/texts/t1']})
    job = json.loads(c.ok('job', 'submit', '-', '--json', input=document.encode()))['id']
    wait_until(lambda: [j for j in c.json('job', 'ls') if str(j['id']) == str(job) and j['state'] == 'running'], 'the job to run')
    c.ok('job', 'cancel', str(job))
    done = c.tarn('job', 'wait', str(job))
    assert done.code == 8, done
    assert [j for j in c.json('job', 'ls') if str(j['id']) == str(job)][0]['state'] == 'cancelled'


if __name__ == '__main__':
    main([a_word_count_equals_the_local_one, a_map_alone_gives_the_outputs_in_order,
          a_task_sees_its_object_on_stdin_and_as_a_read_only_file, the_input_file_is_the_local_chunk_itself,
          a_task_has_no_network_no_other_processes_and_no_leftovers,
          a_failing_task_keeps_its_exit_code_and_standard_error, the_receipt_accounts_for_every_byte,
          a_bad_document_is_refused_with_its_reason, a_cancelled_job_ends], nodes=3, meta=1, racks=1)
