/*
 * test_stamp.c
 *	  Stamps grow whatever the clock does, and versions have one total order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_stamp.h"

#define N_SAMPLES 36

static P2pVersion
version(P2pStamp stamp, uint8_t id, uint32_t epoch, uint64_t seq)
{
	P2pVersion	v = {.stamp = stamp};

	v.dot.origin.id.bytes[P2P_ID_SIZE - 1] = id;
	v.dot.origin.epoch = epoch;
	v.dot.seq = seq;
	return v;
}

static void
test_stamp_is_the_commit_time_when_that_is_latest(void **state)
{
	(void) state;
	assert_int_equal(p2p_stamp_next(1000, 0, 0), 1000);
	assert_int_equal(p2p_stamp_next(1000, 999, 999), 1000);
	assert_int_equal(p2p_stamp_next(1000, 5, 17), 1000);
}

static void
test_stamp_passes_the_previous_one(void **state)
{
	(void) state;
	assert_int_equal(p2p_stamp_next(1000, 1000, 0), 1001);
	assert_int_equal(p2p_stamp_next(1000, 5000, 0), 5001);
	assert_int_equal(p2p_stamp_next(1000, 5000, 4000), 5001);
}

static void
test_stamp_passes_the_floor(void **state)
{
	(void) state;
	assert_int_equal(p2p_stamp_next(1000, 0, 1000), 1001);
	assert_int_equal(p2p_stamp_next(1000, 0, 9000), 9001);
	assert_int_equal(p2p_stamp_next(1000, 8000, 9000), 9001);
}

/* A clock that stands still, steps back and forth: stamps grow all the same. */
static void
test_stamp_grows_with_any_clock(void **state)
{
	static const P2pStamp clock[] = {100, 100, 90, 50, 200, 200, 1, -7, 0, 300, INT64_MIN, 301};
	P2pStamp	previous = 0;

	(void) state;
	for (size_t i = 0; i < sizeof(clock) / sizeof(clock[0]); i++)
	{
		P2pStamp	floor = (P2pStamp) (i * 13);
		P2pStamp	stamp = p2p_stamp_next(clock[i], previous, floor);

		assert_true(stamp > previous);
		assert_true(stamp > floor);
		assert_true(stamp >= clock[i]);
		previous = stamp;
	}
}

static void
test_stamp_is_never_zero_or_less(void **state)
{
	P2pVersion	first;
	P2pVersion	ancient = {0};

	(void) state;
	assert_int_equal(p2p_stamp_next(0, 0, 0), 1);
	assert_int_equal(p2p_stamp_next(-5, -5, -5), 1);
	assert_int_equal(p2p_stamp_next(0, -1, -1), 1);
	assert_int_equal(p2p_stamp_next(INT64_MIN, INT64_MIN, INT64_MIN), 1);
	first = version(p2p_stamp_next(-5, 0, 0), 0, 1, 1);
	assert_true(p2p_version_compare(&first, &ancient) > 0);
}

static void
test_stamp_saturates_at_the_end_of_time(void **state)
{
	(void) state;
	assert_true(p2p_stamp_next(0, INT64_MAX, 0) == INT64_MAX);
	assert_true(p2p_stamp_next(0, 0, INT64_MAX) == INT64_MAX);
	assert_true(p2p_stamp_next(INT64_MAX, 0, 0) == INT64_MAX);
	assert_true(p2p_stamp_next(0, INT64_MAX - 1, 0) == INT64_MAX);
}

static void
test_version_order_is_stamp_then_id_then_epoch_then_seq(void **state)
{
	P2pVersion	low;
	P2pVersion	high;

	(void) state;
	low = version(1, 9, 9, 9);
	high = version(2, 1, 1, 1);
	assert_true(p2p_version_compare(&low, &high) < 0);
	low = version(5, 1, 9, 9);
	high = version(5, 2, 1, 1);
	assert_true(p2p_version_compare(&low, &high) < 0);
	low = version(5, 2, 1, 9);
	high = version(5, 2, 2, 1);
	assert_true(p2p_version_compare(&low, &high) < 0);
	low = version(5, 2, 2, 1);
	high = version(5, 2, 2, 2);
	assert_true(p2p_version_compare(&low, &high) < 0);
	assert_true(p2p_version_compare(&high, &high) == 0);
}

/* Differences that don't fit the type of the result, or have the top bit set. */
static void
test_version_order_holds_at_the_limits(void **state)
{
	P2pVersion	low = version(INT64_MIN, 1, 1, 1);
	P2pVersion	high = version(INT64_MAX, 1, 1, 1);

	(void) state;
	assert_true(p2p_version_compare(&low, &high) < 0);
	assert_true(p2p_version_compare(&high, &low) > 0);
	low = version(1, 0x7f, 1, 1);
	high = version(1, 0x80, 1, 1);
	assert_true(p2p_version_compare(&low, &high) < 0);
	low = version(1, 1, 1, 1);
	high = version(1, 1, UINT32_MAX, 1);
	assert_true(p2p_version_compare(&low, &high) < 0);
	high = version(1, 1, 1, UINT64_MAX);
	assert_true(p2p_version_compare(&low, &high) < 0);
}

static void
test_version_order_is_total(void **state)
{
	P2pVersion	v[N_SAMPLES];
	size_t		n = 0;

	(void) state;
	for (P2pStamp stamp = 1; stamp <= 3; stamp++)
		for (uint8_t id = 1; id <= 3; id++)
			for (uint32_t epoch = 1; epoch <= 2; epoch++)
				for (uint64_t seq = 1; seq <= 2; seq++)
					v[n++] = version(stamp, id, epoch, seq);
	assert_int_equal(n, N_SAMPLES);

	/* made in ascending order: then the order is total, and transitive */
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
		{
			int			order = p2p_version_compare(&v[i], &v[j]);

			assert_int_equal((order > 0) - (order < 0), (i > j) - (i < j));
		}
}

static void
test_version_of_zeros_is_ancient(void **state)
{
	P2pVersion	v = {0};

	(void) state;
	assert_true(p2p_version_is_ancient(&v));
	v = version(1, 0, 0, 0);
	assert_false(p2p_version_is_ancient(&v));
	v = version(0, 1, 0, 0);
	assert_false(p2p_version_is_ancient(&v));
	v = version(0, 0, 1, 0);
	assert_false(p2p_version_is_ancient(&v));
	v = version(0, 0, 0, 1);
	assert_false(p2p_version_is_ancient(&v));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stamp_is_the_commit_time_when_that_is_latest),
		cmocka_unit_test(test_stamp_passes_the_previous_one),
		cmocka_unit_test(test_stamp_passes_the_floor),
		cmocka_unit_test(test_stamp_grows_with_any_clock),
		cmocka_unit_test(test_stamp_is_never_zero_or_less),
		cmocka_unit_test(test_stamp_saturates_at_the_end_of_time),
		cmocka_unit_test(test_version_order_is_stamp_then_id_then_epoch_then_seq),
		cmocka_unit_test(test_version_order_holds_at_the_limits),
		cmocka_unit_test(test_version_order_is_total),
		cmocka_unit_test(test_version_of_zeros_is_ancient),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
