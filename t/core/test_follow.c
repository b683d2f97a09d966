/*
 * test_follow.c
 *	  May a transaction be applied: its deps, its stamp, its origin's leave.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_follow.h"

#define TEN_MINUTES INT64_C(600000000)

static P2pOrigin
node(uint8_t id)
{
	P2pOrigin	origin = {.epoch = 1};

	origin.id.bytes[0] = id;
	return origin;
}

/* What is applied is a vector of the test's. */
static uint64_t
applied_in(void *arg, const P2pOrigin *origin)
{
	return p2p_vector_get(arg, origin);
}

static void
vector_set(P2pVector *v, uint8_t id, uint64_t seq)
{
	P2pOrigin	origin = node(id);

	assert_true(p2p_vector_set(v, &origin, seq));
}

static void
test_follow_waits_for_each_dependency(void **state)
{
	P2pVector	deps = {0};
	P2pVector	applied = {0};
	P2pOrigin	origin = node(3);

	(void) state;
	assert_true(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	vector_set(&deps, 1, 5);
	vector_set(&deps, 2, 2);
	assert_false(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	vector_set(&applied, 1, 5);
	assert_false(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	vector_set(&applied, 2, 1);
	assert_false(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	vector_set(&applied, 2, 2);
	assert_true(p2p_follow_deps(&deps, &origin, applied_in, &applied));
}

static void
test_follow_passes_over_the_origin_itself(void **state)
{
	P2pVector	deps = {0};
	P2pVector	applied = {0};
	P2pOrigin	origin = node(3);

	(void) state;
	vector_set(&deps, 3, 9);
	assert_true(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	/* an earlier incarnation of it is somebody else */
	origin.epoch = 2;
	assert_false(p2p_follow_deps(&deps, &origin, applied_in, &applied));
}

static void
test_follow_needs_nothing_of_an_unknown_origin_with_seq_0(void **state)
{
	P2pVector	deps = {0};
	P2pVector	applied = {0};
	P2pOrigin	origin = node(3);

	(void) state;
	vector_set(&deps, 7, 0);
	assert_true(p2p_follow_deps(&deps, &origin, applied_in, &applied));
	vector_set(&deps, 7, 1);
	assert_false(p2p_follow_deps(&deps, &origin, applied_in, &applied));
}

static void
test_follow_holds_what_nobody_believes(void **state)
{
	const P2pStamp now = 1000000000000;

	(void) state;
	assert_false(p2p_follow_is_held(now + TEN_MINUTES, now, 0, TEN_MINUTES));
	assert_true(p2p_follow_is_held(now + TEN_MINUTES + 1, now, 0, TEN_MINUTES));
	/* the operator, or the own clock, has let it in */
	assert_false(p2p_follow_is_held(now + TEN_MINUTES + 1, now, now + 1, TEN_MINUTES));
	assert_true(p2p_follow_is_held(now + 3 * TEN_MINUTES, now, now + TEN_MINUTES, TEN_MINUTES));
	assert_true(p2p_follow_is_held(INT64_MAX, now, now, TEN_MINUTES));
	assert_false(p2p_follow_is_held(INT64_MIN, now, 0, 0));
}

static void
test_follow_ends_with_the_leave(void **state)
{
	(void) state;
	assert_true(p2p_follow_counts(false, 0, 1));
	assert_true(p2p_follow_counts(true, 7, 6));
	assert_true(p2p_follow_counts(true, 7, 7));
	assert_false(p2p_follow_counts(true, 7, 8));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_follow_waits_for_each_dependency),
		cmocka_unit_test(test_follow_passes_over_the_origin_itself),
		cmocka_unit_test(test_follow_needs_nothing_of_an_unknown_origin_with_seq_0),
		cmocka_unit_test(test_follow_holds_what_nobody_believes),
		cmocka_unit_test(test_follow_ends_with_the_leave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
