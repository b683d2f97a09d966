/*
 * test_stability.c
 *	  Acks mature only when their member's own writes are applied here, do so
 *	  under continuous load, and never go back; stable is their minimum. The
 *	  last test shows what maturity is for: with "acked by all" alone the same
 *	  history raises the dead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_resolve.h"
#include "p2p_stability.h"
#include "versions.h"

#define X 0
#define Y 1
#define Z 2

static void
hear(P2pAck *ack, int member, uint64_t x, uint64_t y, uint64_t z)
{
	P2pOrigin	origin = node((uint32_t) member);
	P2pVector	v = vector(x, y, z);

	p2p_ack_hear(ack, &origin, &v);
}

static bool
ripen(P2pAck *ack, int member, uint64_t applied_seq)
{
	P2pOrigin	origin = node((uint32_t) member);

	return p2p_ack_ripen(ack, &origin, applied_seq);
}

static void
assert_vector(const P2pVector *v, uint64_t x, uint64_t y, uint64_t z)
{
	P2pVector	expected = vector(x, y, z);

	assert_true(p2p_vector_equal(v, &expected));
}

static void
test_ack_matures_when_the_members_own_writes_are_applied(void **state)
{
	P2pAck		ack;

	(void) state;
	p2p_ack_init(&ack);
	assert_false(ripen(&ack, Y, UINT64_MAX));
	hear(&ack, Y, 5, 3, 7);
	assert_false(ack.has_mature);
	assert_false(ripen(&ack, Y, 2));
	assert_false(ack.has_mature);
	assert_true(ripen(&ack, Y, 3));
	assert_true(ack.has_mature);
	assert_vector(&ack.mature, 5, 3, 7);
	assert_false(ripen(&ack, Y, 4));
}

static void
test_ack_of_a_member_that_wrote_nothing_is_ripe_at_once(void **state)
{
	P2pAck		ack;

	(void) state;
	p2p_ack_init(&ack);
	hear(&ack, Y, 5, 0, 7);
	assert_true(ripen(&ack, Y, 0));
	assert_vector(&ack.mature, 5, 0, 7);
	hear(&ack, Y, 6, 0, 7);		/* reads on without writing */
	assert_true(ripen(&ack, Y, 0));
	assert_vector(&ack.mature, 6, 0, 7);
}

static void
test_ack_that_is_not_newer_is_ignored(void **state)
{
	P2pAck		ack;

	(void) state;
	p2p_ack_init(&ack);
	hear(&ack, Y, 5, 3, 7);
	assert_true(ripen(&ack, Y, 3));
	hear(&ack, Y, 5, 3, 7);		/* repeated */
	assert_false(ack.has_waiting);
	hear(&ack, Y, 4, 3, 7);		/* late */
	hear(&ack, Y, 4, 2, 6);
	assert_false(ack.has_waiting);
	hear(&ack, Y, 9, 2, 9);		/* own component goes back: wrong */
	hear(&ack, Y, 4, 9, 9);		/* another goes back: wrong */
	assert_false(ack.has_waiting);

	hear(&ack, Y, 6, 4, 7);
	assert_true(ack.has_waiting);
	hear(&ack, Y, 6, 4, 7);
	hear(&ack, Y, 5, 4, 7);
	assert_false(ack.has_newest);
	hear(&ack, Y, 8, 6, 8);
	assert_true(ack.has_newest);
	hear(&ack, Y, 7, 5, 7);		/* between waiting and newest */
	assert_vector(&ack.newest, 8, 6, 8);
	assert_vector(&ack.waiting, 6, 4, 7);
	assert_vector(&ack.mature, 5, 3, 7);
}

static void
test_ack_moves_over_several_at_once(void **state)
{
	P2pAck		ack;

	(void) state;
	p2p_ack_init(&ack);
	hear(&ack, Y, 1, 1, 1);
	hear(&ack, Y, 2, 2, 2);
	hear(&ack, Y, 3, 3, 3);
	assert_vector(&ack.waiting, 1, 1, 1);
	assert_vector(&ack.newest, 3, 3, 3);
	assert_true(ripen(&ack, Y, 1));
	assert_vector(&ack.mature, 1, 1, 1);
	assert_vector(&ack.waiting, 3, 3, 3);
	assert_false(ack.has_newest);
	hear(&ack, Y, 4, 4, 4);
	assert_true(ripen(&ack, Y, 4));
	assert_vector(&ack.mature, 4, 4, 4);
	assert_false(ack.has_waiting);
	assert_false(ack.has_newest);
}

/* A new ack at each step, applying always ten transactions behind: it matures all the same. */
static void
test_ack_matures_under_continuous_load(void **state)
{
	P2pAck		ack;
	P2pOrigin	y = node(Y);

	(void) state;
	p2p_ack_init(&ack);
	for (uint64_t step = 1; step <= 200; step++)
	{
		uint64_t	before = p2p_vector_get(&ack.mature, &y);
		uint64_t	applied = step > 10 ? step - 10 : 0;

		hear(&ack, Y, step, step, step);
		ripen(&ack, Y, applied);
		assert_true(p2p_vector_get(&ack.mature, &y) >= before);
		assert_true(p2p_vector_get(&ack.mature, &y) <= applied);
		if (step > 30)
			assert_true(p2p_vector_get(&ack.mature, &y) >= step - 30);
	}
}

static void
test_stable_is_the_minimum_of_mature_acks(void **state)
{
	static P2pAck acks[3];
	const P2pAck *const all[] = {&acks[X], &acks[Y], &acks[Z]};
	P2pVector	stable = vector(9, 9, 9);

	(void) state;
	for (int i = 0; i < 3; i++)
		p2p_ack_init(&acks[i]);
	hear(&acks[X], X, 9, 4, 5);
	hear(&acks[Y], Y, 7, 8, 3);
	hear(&acks[Z], Z, 8, 0, 9);
	p2p_stable_vector(all, 3, &stable);
	assert_int_equal(stable.count, 0);

	assert_true(ripen(&acks[X], X, 9));
	assert_true(ripen(&acks[Y], Y, 8));
	p2p_stable_vector(all, 3, &stable);
	assert_int_equal(stable.count, 0);	/* one has none yet */
	p2p_stable_vector(all, 2, &stable);
	assert_vector(&stable, 7, 4, 3);

	assert_true(ripen(&acks[Z], Z, 9));
	p2p_stable_vector(all, 3, &stable);
	assert_vector(&stable, 7, 0, 3);

	hear(&acks[Z], Z, 8, 8, 10);	/* waits: does not count yet */
	p2p_stable_vector(all, 3, &stable);
	assert_vector(&stable, 7, 0, 3);
	assert_true(ripen(&acks[Z], Z, 10));
	p2p_stable_vector(all, 3, &stable);
	assert_vector(&stable, 7, 4, 3);
}

static void
test_stable_without_members_is_empty(void **state)
{
	P2pVector	stable = vector(1, 2, 3);

	(void) state;
	p2p_stable_vector(NULL, 0, &stable);
	assert_int_equal(stable.count, 0);
}

/*
 * X deletes a row (seq 2, stamp 20) that it had stored (seq 1). Y, not knowing
 * of the delete, updates the row (Y's seq 1, stamp 15), then applies the delete,
 * which wins there, and acks it. At Z the ack comes before the update.
 */
static void
test_stability_keeps_a_tombstone_while_an_older_write_is_on_its_way(void **state)
{
	P2pVersion	delete = {.stamp = 20, .dot = {.origin = node(X), .seq = 2}};
	P2pVersion	update = {.stamp = 15, .dot = {.origin = node(Y), .seq = 1}};
	P2pVector	update_deps = vector(1, 0, 0);
	P2pKeyState with_tombstone = {.tombstone = delete};
	P2pKeyState forgotten = {.row_exists = false};
	static P2pAck acks[3];
	const P2pAck *const all[] = {&acks[X], &acks[Y], &acks[Z]};
	P2pVector	stable;

	(void) state;
	for (int i = 0; i < 3; i++)
		p2p_ack_init(&acks[i]);
	hear(&acks[X], X, 2, 0, 0);
	hear(&acks[Y], Y, 2, 1, 0);	/* everybody has acked the delete ... */
	hear(&acks[Z], Z, 2, 0, 0);
	ripen(&acks[X], X, 2);
	ripen(&acks[Y], Y, 0);		/* ... but Y's own write is not here */
	ripen(&acks[Z], Z, 0);
	p2p_stable_vector(all, 3, &stable);
	assert_false(p2p_vector_covers_dot(&stable, &delete.dot));

	/* so the tombstone is here, and the update loses to it; without, it would not */
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &update, &update_deps, &with_tombstone).action,
					 P2P_KEEP);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &update, &update_deps, &forgotten).action,
					 P2P_INSERT_ROW);

	/* the update is applied: now nothing older can come */
	assert_true(ripen(&acks[Y], Y, 1));
	p2p_stable_vector(all, 3, &stable);
	assert_true(p2p_vector_covers_dot(&stable, &delete.dot));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ack_matures_when_the_members_own_writes_are_applied),
		cmocka_unit_test(test_ack_of_a_member_that_wrote_nothing_is_ripe_at_once),
		cmocka_unit_test(test_ack_that_is_not_newer_is_ignored),
		cmocka_unit_test(test_ack_moves_over_several_at_once),
		cmocka_unit_test(test_ack_matures_under_continuous_load),
		cmocka_unit_test(test_stable_is_the_minimum_of_mature_acks),
		cmocka_unit_test(test_stable_without_members_is_empty),
		cmocka_unit_test(test_stability_keeps_a_tombstone_while_an_older_write_is_on_its_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
