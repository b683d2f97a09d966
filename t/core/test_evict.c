/*
 * test_evict.c
 *	  Evictions: which freezes a member tells, where an evicted node ends, and
 *	  when it is at its end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_evict.h"

#define N 4

/* [member][gone]: 1 + seq, 0 = not told */
static uint64_t told[N][N];

static bool
frozen(void *arg, uint32_t member, uint32_t gone, uint64_t *seq)
{
	(void) arg;
	*seq = told[member][gone] - (told[member][gone] > 0);
	return told[member][gone] > 0;
}

static P2pOrigin
origin(uint8_t number)
{
	P2pOrigin	o = {.epoch = 1};

	o.id.bytes[0] = number;
	return o;
}

static void
test_evict_freezes_nobody_while_members_only_leave(void **state)
{
	P2pClosing	nodes[] = {
		{.standing = P2P_STANDING_MEMBER},
		{.standing = P2P_STANDING_LEFT, .closed = true, .stored_seq = 7},
	};

	(void) state;
	assert_false(p2p_evict_freezes(nodes, 2));
	assert_false(nodes[1].tell);
}

static void
test_evict_freezes_all_who_are_gone_once_one_is_evicted(void **state)
{
	P2pClosing	nodes[] = {
		{.standing = P2P_STANDING_MEMBER, .closed = true},
		{.standing = P2P_STANDING_LEFT, .closed = true, .stored_seq = 7},
		{.standing = P2P_STANDING_EVICTED, .closed = true},
		{.standing = P2P_STANDING_NONE},
	};

	(void) state;
	assert_true(p2p_evict_freezes(nodes, 4));
	assert_false(nodes[0].tell);
	assert_true(nodes[1].tell);
	assert_true(nodes[2].tell);
	assert_false(nodes[3].tell);
}

static void
test_evict_does_not_freeze_what_is_not_closed(void **state)
{
	P2pClosing	node = {.standing = P2P_STANDING_EVICTED, .stored_seq = 3};

	(void) state;
	assert_false(p2p_evict_freezes(&node, 1));
	node.closed = true;
	assert_true(p2p_evict_freezes(&node, 1));
}

static void
test_evict_freeze_is_told_again_when_another_is_closed(void **state)
{
	P2pClosing	nodes[] = {
		{.standing = P2P_STANDING_EVICTED, .closed = true, .frozen = true, .frozen_seq = 3, .stored_seq = 5},
		{.standing = P2P_STANDING_EVICTED, .closed = true, .frozen = true, .frozen_seq = 4, .stored_seq = 4},
		{.standing = P2P_STANDING_MEMBER},
	};

	(void) state;
	/* what came from members meanwhile is in their freezes */
	assert_false(p2p_evict_freezes(nodes, 3));
	assert_false(nodes[0].tell);
	/* what may have come from one that is gone now is not */
	nodes[2].standing = P2P_STANDING_LEFT;
	nodes[2].closed = true;
	assert_true(p2p_evict_freezes(nodes, 3));
	assert_true(nodes[0].tell);
	assert_false(nodes[1].tell);
	assert_true(nodes[2].tell);
}

static void
test_evict_cut_is_the_greatest_freeze_of_all_members(void **state)
{
	P2pStanding standings[N] = {P2P_STANDING_MEMBER, P2P_STANDING_MEMBER, P2P_STANDING_EVICTED,
	P2P_STANDING_NONE};
	uint64_t	cuts[N];

	(void) state;
	told[0][2] = 1 + 5;
	told[1][2] = 0;
	assert_false(p2p_evict_cuts(standings, N, frozen, NULL, cuts));
	told[1][2] = 1 + 8;
	assert_true(p2p_evict_cuts(standings, N, frozen, NULL, cuts));
	assert_true(cuts[2] == 8);
	/* stored nothing is a word, too */
	told[0][2] = told[1][2] = 1;
	assert_true(p2p_evict_cuts(standings, N, frozen, NULL, cuts));
	assert_true(cuts[2] == 0);
}

static void
test_evict_cut_needs_the_freezes_of_all_who_are_gone_and_none_of_theirs(void **state)
{
	P2pStanding standings[N] = {P2P_STANDING_MEMBER, P2P_STANDING_EVICTED, P2P_STANDING_EVICTED,
	P2P_STANDING_LEFT};
	uint64_t	cuts[N];

	(void) state;
	told[0][1] = 1 + 4;
	told[0][2] = 1 + 6;
	told[0][3] = 0;
	told[1][2] = 1 + 9;			/* whatever an evicted one has said */
	assert_false(p2p_evict_cuts(standings, N, frozen, NULL, cuts));
	told[0][3] = 1 + 2;
	assert_true(p2p_evict_cuts(standings, N, frozen, NULL, cuts));
	assert_true(cuts[1] == 4 && cuts[2] == 6);
}

static void
test_evict_is_over_when_all_are_applied_up_to_their_cuts(void **state)
{
	P2pEvicted	evicted[] = {
		{.origin = origin(1), .cut = 4, .applied_seq = 4},
		{.origin = origin(2), .cut = 6, .applied_seq = 5},
	};

	(void) state;
	assert_false(p2p_evict_all_over(evicted, 2));
	assert_true(evicted[0].over);
	assert_false(evicted[1].over);
	evicted[1].applied_seq = 6;
	assert_true(p2p_evict_all_over(evicted, 2));
	assert_true(p2p_evict_all_over(evicted, 0));
}

static void
test_evict_is_over_where_it_depends_on_what_nobody_has(void **state)
{
	P2pVector	within = {0};
	P2pVector	beyond = {0};
	P2pEvicted	evicted[] = {
		{.origin = origin(1), .cut = 4, .applied_seq = 3},
		{.origin = origin(2), .cut = 6, .applied_seq = 5},
	};

	(void) state;
	assert_true(p2p_vector_set(&within, &evicted[0].origin, 4));
	assert_true(p2p_vector_set(&beyond, &evicted[0].origin, 5));
	evicted[1].next_deps = &within;
	assert_false(p2p_evict_all_over(evicted, 2));
	assert_false(evicted[1].over);
	evicted[1].next_deps = &beyond;
	assert_false(p2p_evict_all_over(evicted, 2));
	assert_true(evicted[1].over);
	/* and of one whose own end is before that */
	assert_true(p2p_vector_set(&within, &evicted[1].origin, 0));
	evicted[1].next_deps = &within;
	evicted[0].next_deps = &beyond;
	assert_false(p2p_evict_all_over(evicted, 2));
	assert_true(p2p_vector_set(&beyond, &evicted[1].origin, 7));
	assert_true(p2p_evict_all_over(evicted, 2));
	assert_true(evicted[0].over && evicted[1].over);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_evict_freezes_nobody_while_members_only_leave),
		cmocka_unit_test(test_evict_freezes_all_who_are_gone_once_one_is_evicted),
		cmocka_unit_test(test_evict_does_not_freeze_what_is_not_closed),
		cmocka_unit_test(test_evict_freeze_is_told_again_when_another_is_closed),
		cmocka_unit_test(test_evict_cut_is_the_greatest_freeze_of_all_members),
		cmocka_unit_test(test_evict_cut_needs_the_freezes_of_all_who_are_gone_and_none_of_theirs),
		cmocka_unit_test(test_evict_is_over_when_all_are_applied_up_to_their_cuts),
		cmocka_unit_test(test_evict_is_over_where_it_depends_on_what_nobody_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
