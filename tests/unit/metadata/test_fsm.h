/* A state machine for tests of the replica: it notes every operation in its tables and checks that all
 * replicas apply the same commands at the same indexes. Linked in place of metadata/fsm.c. */
#ifndef TARN_TESTS_METADATA_TEST_FSM_H
#define TARN_TESTS_METADATA_TEST_FSM_H

#include "metadata/fsm.h"

#define TEST_OP 3

struct test_body {
    uint64_t client, seq;
};
void test_history_reset(void);
uint64_t test_history_conflicts(void); /* commands that differed from what another replica applied */
uint64_t test_history_last(void);      /* highest index applied by anybody */
uint64_t test_count(struct kv_txn *txn); /* operations applied */
bool test_has(struct kv_txn *txn, uint64_t client, uint64_t seq);

#endif
