/*
 * test_plan.c
 *	  Pull planning: the origin first, then the fullest, the nearest, the
 *	  smallest; and what happens when links are cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_plan.h"

static P2pOrigin
node(uint8_t id)
{
	P2pOrigin	origin = {.epoch = 1};

	origin.id.bytes[0] = id;
	return origin;
}

static P2pPlanPeer
peer(uint8_t id, bool reachable, int64_t rtt_us, const P2pVector *stored)
{
	return (P2pPlanPeer) {
		.origin = node(id), .reachable = reachable, .rtt_us = rtt_us, .stored = stored
	};
}

/* Return a vector with seqs of nodes 1, 2, 3. */
static P2pVector
vector(uint64_t one, uint64_t two, uint64_t three)
{
	const uint64_t seqs[] = {one, two, three};
	P2pVector	v;

	p2p_vector_clear(&v);
	for (uint8_t i = 0; i < 3; i++)
	{
		P2pOrigin	origin = node((uint8_t) (i + 1));

		if (seqs[i] > 0)
			assert_true(p2p_vector_set(&v, &origin, seqs[i]));
	}
	return v;
}

/* Return whom the plan asks for the batches of node id. */
static uint32_t
plan_one(const P2pPlanPeer *peers, uint32_t n_peers, uint8_t id, const P2pVector *mine)
{
	P2pOrigin	origin = node(id);
	uint32_t	choice = 4711;

	p2p_plan_pulls(peers, n_peers, &origin, 1, mine, &choice);
	return choice;
}

static void
test_plan_prefers_the_origin_itself(void **state)
{
	P2pVector	little = vector(5, 0, 0);
	P2pVector	much = vector(90, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(2, true, 1, &much), peer(1, true, 9000, &little)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
}

static void
test_plan_goes_through_a_relay_when_the_link_is_cut(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(1, false, 1, &has), peer(2, true, 500, &has)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
	peers[0].reachable = true;	/* the link is back */
	assert_int_equal(plan_one(peers, 2, 1, &mine), 0);
}

static void
test_plan_prefers_the_relay_that_stores_most(void **state)
{
	P2pVector	less = vector(20, 0, 0);
	P2pVector	more = vector(21, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(2, true, 1, &less), peer(3, true, 9000, &more)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
}

static void
test_plan_prefers_the_nearest_of_equal_relays(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(2, true, 800, &has), peer(3, true, 300, &has), peer(4, true, 301, &has)};

	(void) state;
	assert_int_equal(plan_one(peers, 3, 1, &mine), 1);
}

static void
test_plan_breaks_ties_by_the_smallest_id_in_any_order(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer ascending[] = {peer(2, true, 300, &has), peer(3, true, 300, &has)};
	P2pPlanPeer descending[] = {peer(3, true, 300, &has), peer(2, true, 300, &has)};

	(void) state;
	assert_int_equal(plan_one(ascending, 2, 1, &mine), 0);
	assert_int_equal(plan_one(descending, 2, 1, &mine), 1);
}

/* Below what is stored here, what a relay said last says nothing: it is only late. */
static void
test_plan_does_not_flap_between_relays_that_bring_nothing_new(void **state)
{
	P2pVector	older = vector(7, 0, 0);
	P2pVector	newer = vector(9, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(2, true, 300, &older), peer(3, true, 800, &newer)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 0);
	peers[0].stored = &newer;
	peers[1].stored = &older;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 0);
}

static void
test_plan_polls_the_best_relay_of_a_dead_origin(void **state)
{
	P2pVector	nothing = vector(0, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(1, false, 1, &nothing), peer(2, true, 500, &nothing)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
}

static void
test_plan_asks_nobody_who_is_not_reachable(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(0, 0, 0);
	P2pPlanPeer peers[] = {peer(1, false, 1, &has), peer(2, false, 1, &has)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), P2P_PLAN_NOBODY);
	assert_int_equal(plan_one(NULL, 0, 1, &mine), P2P_PLAN_NOBODY);
}

static void
test_plan_takes_a_silent_peer_for_an_empty_one(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(2, true, 1, NULL), peer(3, true, 900, &has)};

	(void) state;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
	assert_int_equal(plan_one(peers, 1, 1, &mine), 0);
}

static void
test_plan_takes_an_earlier_epoch_for_another_origin(void **state)
{
	P2pVector	has = vector(20, 0, 0);
	P2pVector	mine = vector(10, 0, 0);
	P2pPlanPeer peers[] = {peer(1, true, 1, NULL), peer(2, true, 900, &has)};

	(void) state;
	peers[0].origin.epoch = 2;
	assert_int_equal(plan_one(peers, 2, 1, &mine), 1);
}

/* Each origin is planned on its own: some direct, some by relay. */
static void
test_plan_serves_many_origins_at_once(void **state)
{
	P2pVector	at_two = vector(30, 20, 5);
	P2pVector	at_three = vector(31, 10, 8);
	P2pVector	mine = vector(1, 1, 1);
	P2pPlanPeer peers[] = {
		peer(1, false, 1, &at_two), peer(2, true, 400, &at_two), peer(3, true, 900, &at_three)
	};
	P2pOrigin	origins[] = {node(1), node(2), node(3)};
	uint32_t	choose[4] = {0, 0, 0, 4711};

	(void) state;
	p2p_plan_pulls(peers, 3, origins, 3, &mine, choose);
	assert_int_equal(choose[0], 2);
	assert_int_equal(choose[1], 1);
	assert_int_equal(choose[2], 2);
	assert_int_equal(choose[3], 4711);
}

static void
test_plan_holds_at_the_greatest_group(void **state)
{
	static P2pPlanPeer peers[P2P_MAX_MEMBERS];
	static P2pOrigin origins[P2P_MAX_MEMBERS];
	static uint32_t choose[P2P_MAX_MEMBERS];
	P2pVector	mine = vector(0, 0, 0);

	(void) state;
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS; i++)
	{
		origins[i] = node((uint8_t) i);
		peers[P2P_MAX_MEMBERS - 1 - i] = peer((uint8_t) i, i != 5, i, NULL);
	}
	p2p_plan_pulls(peers, P2P_MAX_MEMBERS, origins, P2P_MAX_MEMBERS, &mine, choose);
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS; i++)
		assert_int_equal(choose[i], P2P_MAX_MEMBERS - 1 - (i == 5 ? 0 : i));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan_prefers_the_origin_itself),
		cmocka_unit_test(test_plan_goes_through_a_relay_when_the_link_is_cut),
		cmocka_unit_test(test_plan_prefers_the_relay_that_stores_most),
		cmocka_unit_test(test_plan_prefers_the_nearest_of_equal_relays),
		cmocka_unit_test(test_plan_breaks_ties_by_the_smallest_id_in_any_order),
		cmocka_unit_test(test_plan_does_not_flap_between_relays_that_bring_nothing_new),
		cmocka_unit_test(test_plan_polls_the_best_relay_of_a_dead_origin),
		cmocka_unit_test(test_plan_asks_nobody_who_is_not_reachable),
		cmocka_unit_test(test_plan_takes_a_silent_peer_for_an_empty_one),
		cmocka_unit_test(test_plan_takes_an_earlier_epoch_for_another_origin),
		cmocka_unit_test(test_plan_serves_many_origins_at_once),
		cmocka_unit_test(test_plan_holds_at_the_greatest_group),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
