/*
 * test_cursor.c
 *	  Gap tracking: next, repeated, or a gap, for whole batches and parts; and
 *	  that a log fed in any order ends complete, each transaction taken once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "p2p_cursor.h"

static const uint8_t hash_one[P2P_HASH_SIZE] = {1};
static const uint8_t hash_two[P2P_HASH_SIZE] = {2};

static P2pSpan
whole(uint64_t first, uint64_t last)
{
	return (P2pSpan) {.first_seq = first, .last_seq = last, .final = true};
}

static P2pSpan
part(uint64_t seq, uint32_t n, bool final)
{
	return (P2pSpan) {.first_seq = seq, .last_seq = seq, .part = n, .partial = true, .final = final};
}

/* Return a cursor that holds all up to seq, and parts of the next. */
static P2pCursor
holding(uint64_t seq, uint32_t parts)
{
	P2pCursor	c;

	p2p_cursor_init(&c);
	c.seq = seq;
	c.parts = parts;
	c.started = true;
	return c;
}

#define assert_judged(c, span, expected) \
	do { \
		P2pSpan span_ = (span); \
		assert_int_equal(p2p_cursor_judge((c), &span_), (expected)); \
	} while (0)

static void
test_cursor_init_holds_nothing(void **state)
{
	static const uint8_t zeros[P2P_HASH_SIZE];
	P2pCursor	c;

	(void) state;
	memset(&c, 0xff, sizeof(c));
	p2p_cursor_init(&c);
	assert_int_equal(c.seq, 0);
	assert_int_equal(c.parts, 0);
	assert_false(c.started);
	assert_memory_equal(c.hash, zeros, P2P_HASH_SIZE);
}

static void
test_cursor_not_started_begins_anywhere_but_inside_a_transaction(void **state)
{
	P2pCursor	c;

	(void) state;
	p2p_cursor_init(&c);
	assert_judged(&c, whole(1, 1), P2P_ARRIVAL_NEXT);
	assert_judged(&c, whole(700, 710), P2P_ARRIVAL_NEXT);
	assert_judged(&c, part(700, 0, false), P2P_ARRIVAL_NEXT);
	assert_judged(&c, part(700, 1, false), P2P_ARRIVAL_GAP);
	assert_judged(&c, part(700, 1, true), P2P_ARRIVAL_GAP);
}

static void
test_cursor_started_at_the_origin_wants_seq_1(void **state)
{
	P2pCursor	c = holding(0, 0);

	(void) state;
	assert_judged(&c, whole(1, 3), P2P_ARRIVAL_NEXT);
	assert_judged(&c, whole(2, 3), P2P_ARRIVAL_GAP);
}

static void
test_cursor_judges_whole_batches(void **state)
{
	P2pCursor	c = holding(9, 0);

	(void) state;
	assert_judged(&c, whole(10, 10), P2P_ARRIVAL_NEXT);
	assert_judged(&c, whole(10, 25), P2P_ARRIVAL_NEXT);
	assert_judged(&c, whole(7, 9), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, whole(1, 1), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, whole(11, 11), P2P_ARRIVAL_GAP);
	assert_judged(&c, whole(8, 10), P2P_ARRIVAL_GAP);	/* cut elsewhere than ours */
}

static void
test_cursor_judges_parts(void **state)
{
	P2pCursor	c = holding(9, 2);

	(void) state;
	assert_judged(&c, part(10, 2, false), P2P_ARRIVAL_NEXT);
	assert_judged(&c, part(10, 2, true), P2P_ARRIVAL_NEXT);
	assert_judged(&c, part(10, 0, false), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, part(10, 1, false), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, part(10, 3, false), P2P_ARRIVAL_GAP);
	assert_judged(&c, part(11, 0, false), P2P_ARRIVAL_GAP);
	assert_judged(&c, part(9, 4, true), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, whole(9, 9), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, whole(10, 10), P2P_ARRIVAL_GAP);	/* contradicts the parts held */
	assert_judged(&c, whole(11, 12), P2P_ARRIVAL_GAP);
}

static void
test_cursor_refuses_spans_that_contradict_themselves(void **state)
{
	P2pCursor	fresh;
	P2pCursor	held = holding(9, 0);
	P2pSpan		bad[] = {
		whole(0, 0), whole(0, 10), whole(10, 8), part(0, 0, true),
		{.first_seq = 10, .last_seq = 11, .partial = true, .final = true},
		{.first_seq = 10, .last_seq = 10, .part = 1, .final = true},
		{.first_seq = 10, .last_seq = 10, .final = false},
		part(10, UINT32_MAX, false),
	};

	(void) state;
	p2p_cursor_init(&fresh);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		assert_judged(&fresh, bad[i], P2P_ARRIVAL_GAP);
		assert_judged(&held, bad[i], P2P_ARRIVAL_GAP);
	}
}

static void
test_cursor_holds_at_the_last_seq(void **state)
{
	P2pCursor	c = holding(UINT64_MAX, 0);

	(void) state;
	assert_judged(&c, whole(UINT64_MAX, UINT64_MAX), P2P_ARRIVAL_DUPLICATE);
	assert_judged(&c, whole(0, UINT64_MAX), P2P_ARRIVAL_GAP);
	c = holding(UINT64_MAX - 1, 0);
	assert_judged(&c, whole(UINT64_MAX, UINT64_MAX), P2P_ARRIVAL_NEXT);
}

static void
test_cursor_advances_over_batches_and_parts(void **state)
{
	P2pCursor	c;
	P2pSpan		span;

	(void) state;
	p2p_cursor_init(&c);

	span = part(50, 0, false);
	p2p_cursor_advance(&c, &span, hash_one);
	assert_true(c.started);
	assert_int_equal(c.seq, 49);
	assert_int_equal(c.parts, 1);
	assert_memory_equal(c.hash, hash_one, P2P_HASH_SIZE);

	span = part(50, 1, true);
	p2p_cursor_advance(&c, &span, hash_two);
	assert_int_equal(c.seq, 50);
	assert_int_equal(c.parts, 0);
	assert_memory_equal(c.hash, hash_two, P2P_HASH_SIZE);

	span = whole(51, 60);
	p2p_cursor_advance(&c, &span, hash_one);
	assert_int_equal(c.seq, 60);
	assert_int_equal(c.parts, 0);

	span = part(61, 0, true);	/* large, but of one part */
	p2p_cursor_advance(&c, &span, hash_two);
	assert_int_equal(c.seq, 61);
	assert_int_equal(c.parts, 0);
}

/* Feed a log of six batches in every order, again and again until nothing is taken. */
static void
feed_in_order(const P2pSpan *log, const int *order, int n)
{
	P2pCursor	c = holding(0, 0);
	int			taken[6] = {0};
	bool		progress = true;

	while (progress)
	{
		progress = false;
		for (int i = 0; i < n; i++)
		{
			P2pArrival	arrival = p2p_cursor_judge(&c, &log[order[i]]);

			assert_true((arrival == P2P_ARRIVAL_DUPLICATE) == (taken[order[i]] == 1));
			if (arrival != P2P_ARRIVAL_NEXT)
				continue;
			assert_true(order[i] == 0 || taken[order[i] - 1] == 1);
			p2p_cursor_advance(&c, &log[order[i]], hash_one);
			taken[order[i]]++;
			progress = true;
		}
	}
	for (int i = 0; i < n; i++)
		assert_int_equal(taken[i], 1);
	assert_int_equal(c.seq, 9);
	assert_int_equal(c.parts, 0);
}

static void
feed_permutations(const P2pSpan *log, int *order, int k, int n)
{
	if (k == n)
	{
		feed_in_order(log, order, n);
		return;
	}
	for (int i = k; i < n; i++)
	{
		int			swap = order[k];

		order[k] = order[i];
		order[i] = swap;
		feed_permutations(log, order, k + 1, n);
		order[i] = order[k];
		order[k] = swap;
	}
}

static void
test_cursor_takes_each_batch_once_in_any_order_of_arrival(void **state)
{
	P2pSpan		log[] = {
		whole(1, 3), part(4, 0, false), part(4, 1, false), part(4, 2, true), whole(5, 5), whole(6, 9)
	};
	int			order[] = {0, 1, 2, 3, 4, 5};

	(void) state;
	feed_permutations(log, order, 0, 6);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cursor_init_holds_nothing),
		cmocka_unit_test(test_cursor_not_started_begins_anywhere_but_inside_a_transaction),
		cmocka_unit_test(test_cursor_started_at_the_origin_wants_seq_1),
		cmocka_unit_test(test_cursor_judges_whole_batches),
		cmocka_unit_test(test_cursor_judges_parts),
		cmocka_unit_test(test_cursor_refuses_spans_that_contradict_themselves),
		cmocka_unit_test(test_cursor_holds_at_the_last_seq),
		cmocka_unit_test(test_cursor_advances_over_batches_and_parts),
		cmocka_unit_test(test_cursor_takes_each_batch_once_in_any_order_of_arrival),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
