/*
 * test_clock.c
 *	  Group time: the upper median, what is too far ahead, offsets; at the
 *	  limits of the numbers too, since times come from peers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_clock.h"

#define HOUR INT64_C(3600000000)
#define TEN_MINUTES INT64_C(600000000)

static void
test_clock_median_of_one_is_itself(void **state)
{
	int64_t		own[] = {0};
	int64_t		far[] = {-77};

	(void) state;
	assert_int_equal(p2p_clock_upper_median(own, 1), 0);
	assert_true(p2p_clock_upper_median(far, 1) == -77);
}

static void
test_clock_median_is_the_upper_one_and_sorts(void **state)
{
	int64_t		even[] = {40, 10, 30, 20};
	int64_t		odd[] = {5, -3, 9, 9, -100};

	(void) state;
	assert_int_equal(p2p_clock_upper_median(even, 4), 30);
	for (int i = 0; i < 4; i++)
		assert_int_equal(even[i], (i + 1) * 10);
	assert_int_equal(p2p_clock_upper_median(odd, 5), 5);
}

static void
test_clock_median_sorts_the_greatest_group(void **state)
{
	int64_t		offsets[P2P_MAX_MEMBERS];

	(void) state;
	for (int i = 0; i < P2P_MAX_MEMBERS; i++)
		offsets[i] = (i * 37) % P2P_MAX_MEMBERS;	/* each once: 37 is odd */
	assert_int_equal(p2p_clock_upper_median(offsets, P2P_MAX_MEMBERS), P2P_MAX_MEMBERS / 2);
	for (int i = 0; i < P2P_MAX_MEMBERS; i++)
		assert_int_equal(offsets[i], i);
}

/* Say whether a node whose clock shows own holds a stamp, given its members' offsets. */
static bool
is_held(int64_t own, int64_t *offsets, uint32_t n, P2pStamp stamp)
{
	int64_t		group_time = own + p2p_clock_upper_median(offsets, n);

	return p2p_clock_too_far_ahead(stamp, group_time, TEN_MINUTES);
}

static void
test_clock_two_members_never_hold_each_other(void **state)
{
	int64_t		now = 100 * HOUR;
	int64_t		of_slow[] = {0, HOUR};	/* the peer is an hour ahead */
	int64_t		of_fast[] = {0, -HOUR};

	(void) state;
	assert_false(is_held(now, of_slow, 2, now + HOUR));
	assert_false(is_held(now + HOUR, of_fast, 2, now));
}

static void
test_clock_three_members_hold_the_fast_one(void **state)
{
	int64_t		now = 100 * HOUR;
	int64_t		of_right[] = {0, 200, HOUR};
	int64_t		of_fast[] = {0, -HOUR, 200 - HOUR};
	int64_t		of_slow_right[] = {0, 200, -HOUR};

	(void) state;
	assert_true(is_held(now, of_right, 3, now + HOUR));
	assert_false(is_held(now, of_right, 3, now + 300));
	/* the outlier sees that the others are right, and holds nobody */
	assert_false(is_held(now + HOUR, of_fast, 3, now));
	/* a slow clock costs nothing */
	assert_false(is_held(now, of_slow_right, 3, now - HOUR));
}

static void
test_clock_limit_itself_is_not_too_far(void **state)
{
	(void) state;
	assert_false(p2p_clock_too_far_ahead(1010, 1000, 10));
	assert_true(p2p_clock_too_far_ahead(1011, 1000, 10));
	assert_false(p2p_clock_too_far_ahead(-5, 1000, 10));
	assert_true(p2p_clock_too_far_ahead(1001, 1000, 0));
}

static void
test_clock_limit_saturates(void **state)
{
	(void) state;
	assert_false(p2p_clock_too_far_ahead(INT64_MAX, INT64_MAX - 5, 10));
	assert_false(p2p_clock_too_far_ahead(INT64_MAX, 0, INT64_MAX));
	assert_false(p2p_clock_too_far_ahead(INT64_MIN, INT64_MIN, -10));
	assert_true(p2p_clock_too_far_ahead(INT64_MAX, INT64_MIN, 10));
}

static void
test_clock_offset_is_against_the_middle_of_the_way(void **state)
{
	(void) state;
	assert_int_equal(p2p_clock_offset(1000, 1050, 1100), 0);
	assert_int_equal(p2p_clock_offset(1000, 2050, 1100), 1000);
	assert_true(p2p_clock_offset(1000, 50, 1100) == -1000);
	assert_int_equal(p2p_clock_offset(1000, 1000, 1000), 0);
	/* our own clock stepped back meanwhile */
	assert_int_equal(p2p_clock_offset(1000, 950, 900), 0);
}

static void
test_clock_offset_saturates(void **state)
{
	(void) state;
	assert_true(p2p_clock_offset(-100, INT64_MAX, -90) == INT64_MAX);
	assert_true(p2p_clock_offset(100, INT64_MIN, 110) == INT64_MIN);
	assert_true(p2p_clock_offset(INT64_MIN, 0, INT64_MIN) == INT64_MAX);
	assert_true(p2p_clock_offset(INT64_MIN, 0, INT64_MAX) == 1);
	assert_true(p2p_clock_offset(INT64_MAX, 0, INT64_MAX) == -INT64_MAX);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clock_median_of_one_is_itself),
		cmocka_unit_test(test_clock_median_is_the_upper_one_and_sorts),
		cmocka_unit_test(test_clock_median_sorts_the_greatest_group),
		cmocka_unit_test(test_clock_two_members_never_hold_each_other),
		cmocka_unit_test(test_clock_three_members_hold_the_fast_one),
		cmocka_unit_test(test_clock_limit_itself_is_not_too_far),
		cmocka_unit_test(test_clock_limit_saturates),
		cmocka_unit_test(test_clock_offset_is_against_the_middle_of_the_way),
		cmocka_unit_test(test_clock_offset_saturates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
