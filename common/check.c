#include "common/check.h"

#include "common/log.h"
#include <execinfo.h>
#include <unistd.h>

_Noreturn void check_failed(const char *expr, const char *file, int line, const char *func)
{
    log_set_level(LOG_ERROR); /* whatever was asked for: nobody must miss this */
    log_error("check failed: %s, in %s() at %s:%d: this is a bug, please report these lines", expr,
              func, file, line);
    void *frames[32];
    int n = backtrace(frames, ARRAY_SIZE(frames));
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
    abort();
}
