/*
 * test_member.c
 *	  What coming and going asks of the logs: where one may begin, when the copy
 *	  is covered, when all of a former member is here, when one may say that it
 *	  leaves, when it may go.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_member.h"

static const uint8_t nothing[P2P_HASH_SIZE];
static const uint8_t something[P2P_HASH_SIZE] = {1};

static P2pSpan
span_from(uint64_t first_seq)
{
	return (P2pSpan) {.first_seq = first_seq, .last_seq = first_seq + 2, .final = true};
}

static void
test_member_log_begins_with_the_origins_first_batch(void **state)
{
	P2pMemberLog log = {0};
	P2pSpan		first = span_from(1);
	P2pSpan		second = span_from(2);

	(void) state;
	assert_true(p2p_member_may_begin(&log, &first, nothing));
	assert_false(p2p_member_may_begin(&log, &first, something));
	assert_false(p2p_member_may_begin(&log, &second, something));
}

static void
test_member_joiners_log_begins_within_its_tables(void **state)
{
	P2pMemberLog log = {.required_seq = 5};
	P2pSpan		within = span_from(3);
	P2pSpan		next = span_from(6);
	P2pSpan		gap = span_from(7);

	(void) state;
	assert_true(p2p_member_may_begin(&log, &within, something));
	assert_true(p2p_member_may_begin(&log, &next, something));
	assert_false(p2p_member_may_begin(&log, &gap, something));
	/* a log that was lost begins anew where apply has come to */
	log.applied_seq = 6;
	assert_true(p2p_member_may_begin(&log, &gap, something));
}

static void
test_member_copy_and_tables_are_covered_by_what_is_stored(void **state)
{
	P2pMemberLog log = {.stored_seq = 4, .required_seq = 5, .applied_seq = 5};

	(void) state;
	assert_false(p2p_member_copy_is_covered(&log));
	assert_false(p2p_member_tables_are_covered(&log));
	log.stored_seq = 5;
	assert_true(p2p_member_copy_is_covered(&log));
	assert_true(p2p_member_tables_are_covered(&log));
	log.applied_seq = 6;
	assert_true(p2p_member_copy_is_covered(&log));
	assert_false(p2p_member_tables_are_covered(&log));
}

static void
test_member_log_is_complete_with_the_leave(void **state)
{
	P2pMemberLog log = {.left_seq = 9};

	(void) state;
	assert_false(p2p_member_is_complete(&log, 9));
	log.left = true;
	assert_false(p2p_member_is_complete(&log, 8));
	assert_true(p2p_member_is_complete(&log, 9));
	assert_true(p2p_member_is_complete(&log, 12));
}

static void
test_member_leaves_when_others_have_applied_what_it_had(void **state)
{
	P2pOrigin	self = {.epoch = 1};
	P2pOrigin	other = {.epoch = 1};
	P2pVector	had = {0};
	P2pVector	ack = {0};

	(void) state;
	self.id.bytes[0] = 4;
	other.id.bytes[0] = 5;
	assert_true(p2p_vector_set(&had, &self, 3));
	assert_true(p2p_vector_set(&had, &other, 2));
	/* a joiner acks nothing before it is through */
	assert_false(p2p_member_has_met(&ack, &had));
	assert_true(p2p_vector_set(&ack, &self, 3));
	assert_true(p2p_vector_set(&ack, &other, 1));
	assert_false(p2p_member_has_met(&ack, &had));
	assert_true(p2p_vector_set(&ack, &other, 7));
	assert_true(p2p_member_has_met(&ack, &had));
	/* what it has itself counts as well */
	assert_true(p2p_vector_set(&ack, &self, 2));
	assert_false(p2p_member_has_met(&ack, &had));
}

static void
test_member_goes_when_others_store_its_leave(void **state)
{
	P2pOrigin	self = {.epoch = 1};
	P2pOrigin	other = {.epoch = 1};
	P2pVector	stored = {0};
	P2pVector	deps = {0};

	(void) state;
	self.id.bytes[0] = 4;
	other.id.bytes[0] = 5;
	assert_true(p2p_vector_set(&deps, &self, 9));
	assert_true(p2p_member_has_leave(&stored, &self, 0, &deps));
	assert_false(p2p_member_has_leave(&stored, &self, 3, &deps));
	assert_true(p2p_vector_set(&stored, &self, 2));
	assert_false(p2p_member_has_leave(&stored, &self, 3, &deps));
	assert_true(p2p_vector_set(&stored, &self, 3));
	assert_true(p2p_member_has_leave(&stored, &self, 3, &deps));
	/* what it depends on counts, too */
	assert_true(p2p_vector_set(&deps, &other, 2));
	assert_true(p2p_vector_set(&stored, &other, 1));
	assert_false(p2p_member_has_leave(&stored, &self, 3, &deps));
	assert_true(p2p_vector_set(&stored, &other, 2));
	assert_true(p2p_member_has_leave(&stored, &self, 3, &deps));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_member_log_begins_with_the_origins_first_batch),
		cmocka_unit_test(test_member_joiners_log_begins_within_its_tables),
		cmocka_unit_test(test_member_copy_and_tables_are_covered_by_what_is_stored),
		cmocka_unit_test(test_member_log_is_complete_with_the_leave),
		cmocka_unit_test(test_member_leaves_when_others_have_applied_what_it_had),
		cmocka_unit_test(test_member_goes_when_others_store_its_leave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
