/* Log lines on standard error: state changes and anomalies, never a line per request. Thread-safe.
 * Level from TARN_LOG (error warn info debug), default info. */
#ifndef TARN_COMMON_LOG_H
#define TARN_COMMON_LOG_H
#include "base.h"
enum log_level { LOG_OFF = -1, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
void log_init(const char *program); /* borrowed; appears in each line */
void log_set_level(enum log_level level); /* LOG_OFF: nothing, for tests that make things fail by the thousand */
void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#endif
