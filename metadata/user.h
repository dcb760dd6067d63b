/* Users: what an access key stands for. Only root sees and changes them: the records hold secrets.
 */
#ifndef TARN_METADATA_USER_H
#define TARN_METADATA_USER_H

#include "tables.h"

int user_cmd_put(struct tables *t, const void *message);
int user_query_get(struct tables *t, const void *message);

#endif
