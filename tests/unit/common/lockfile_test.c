/* The lock file of a directory, against another process that has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/err.h"
#include "common/lockfile.h"

static char dir[] = "/tmp/tarn-lockfile-XXXXXX";

/* A process that holds the lock; it has it when this returns. It ends when `go[1]` is closed. */
static pid_t holder(int go[2])
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready) | pipe(go), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd;
        close(go[1]);
        if (lockfile_take(dir, 0, &fd) != 0 || write(ready[1], &byte, 1) != 1)
            _exit(1);
        _exit(read(go[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(go[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void a_living_holder_keeps_it(void **state)
{
    (void)state;
    int go[2], fd;
    pid_t pid = holder(go);
    assert_int_equal(lockfile_take(dir, 0, &fd), -E_BUSY);
    assert_int_equal(lockfile_take(dir, 50, &fd), -E_BUSY);
    close(go[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(lockfile_take(dir, 0, &fd), 0);
    close(fd);
}

static void an_ending_one_is_waited_for(void **state)
{
    (void)state;
    int go[2], fd;
    pid_t pid = holder(go);
    kill(pid, SIGKILL); /* perhaps it has the lock still, perhaps not any more */
    assert_int_equal(lockfile_take(dir, LOCKFILE_WAIT_MS, &fd), 0);
    close(fd);
    close(go[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void what_cannot_be_locked_is_told(void **state)
{
    (void)state;
    int fd;
    char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(lockfile_take(longest, 0, &fd), -E_NAMETOOLONG);
    assert_int_equal(lockfile_take("/nonexistent/there", 0, &fd), -E_NOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_living_holder_keeps_it), cmocka_unit_test(an_ending_one_is_waited_for),
                                       cmocka_unit_test(what_cannot_be_locked_is_told)};
    if (mkdtemp(dir) == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[64];
    snprintf(path, sizeof path, "%s/lock", dir);
    unlink(path);
    rmdir(dir);
    return failed;
}
