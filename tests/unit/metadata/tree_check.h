/* Checks N1, N2, N7 and N8 over all tables, from the entries alone: what the link rows and parents
 * say is computed anew and compared. */
#ifndef TARN_TEST_METADATA_TREE_CHECK_H
#define TARN_TEST_METADATA_TREE_CHECK_H

#include "world.h"

/* Fails the test at the first difference. With `upgrading` parents may still be unknown. */
void tree_check(struct world *w, bool upgrading);
/* Rewrites the tables as version 1 had them: inodes without parents, no link rows. */
void tree_downgrade(struct world *w);

#endif
