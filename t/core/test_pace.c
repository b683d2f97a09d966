/*
 * test_pace.c
 *	  Pulls go out at once while transactions are rare, and let some gather
 *	  under load.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_pace.h"

#define MS ((int64_t) 1000)
#define MAX_US (10 * MS)

/* Answers of n transactions each, gap_us apart, for a second; return the delay after the last. */
static int64_t
steady(P2pPace *pace, int64_t *now_us, int64_t gap_us, uint64_t n, uint32_t pullers)
{
	int64_t		end_us = *now_us + 1000 * MS;
	int64_t		delay_us = 0;

	for (; *now_us < end_us; *now_us += gap_us)
		delay_us = p2p_pace_next(pace, *now_us, n, pullers, MAX_US);
	return delay_us;
}

static void
test_pace_never_delays_rare_transactions(void **state)
{
	P2pPace		pace = {0};
	int64_t		now_us = 1;

	(void) state;
	/* 200 a second, in pairs that follow one another at once */
	for (int i = 0; i < 1000; i++)
	{
		assert_int_equal(p2p_pace_next(&pace, now_us, 1, 8, MAX_US), 0);
		assert_int_equal(p2p_pace_next(&pace, now_us + 1, 1, 8, MAX_US), 0);
		now_us += 10 * MS;
	}
}

static void
test_pace_lets_transactions_gather_under_load(void **state)
{
	P2pPace		pace = {0};
	int64_t		now_us = 1;

	(void) state;
	/* 4,000 a second: 16 of them come in 4 ms */
	assert_in_range(steady(&pace, &now_us, MS, 4, 1), 3900, 4100);
	/* 100,000 a second: no time worth mentioning */
	assert_in_range(steady(&pace, &now_us, MS, 100, 1), 150, 170);
}

static void
test_pace_keeps_to_the_longest_delay(void **state)
{
	P2pPace		pace = {0};
	int64_t		now_us = 1;

	(void) state;
	assert_int_equal(steady(&pace, &now_us, MS, 1, 1), MAX_US);
	assert_int_equal(p2p_pace_next(&pace, now_us, 1, 1, 0), 0);
}

static void
test_pace_waits_longer_with_more_pullers(void **state)
{
	P2pPace		pace = {0};
	int64_t		now_us = 1;

	(void) state;
	assert_in_range(steady(&pace, &now_us, MS, 4, 2), 7800, 8200);
	assert_in_range(steady(&pace, &now_us, MS, 4, 8), 31000, 33000);
	/* but not without end */
	assert_int_equal(steady(&pace, &now_us, MS, 4, 100), 4 * MAX_US);
	/* nobody is as one */
	assert_in_range(steady(&pace, &now_us, MS, 4, 0), 3900, 4100);
}

static void
test_pace_forgets_a_load_that_has_ended(void **state)
{
	P2pPace		pace = {0};
	int64_t		now_us = 1;

	(void) state;
	assert_true(steady(&pace, &now_us, MS, 4, 1) > 0);
	now_us += 1000 * MS;
	assert_int_equal(p2p_pace_next(&pace, now_us, 1, 1, MAX_US), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pace_never_delays_rare_transactions),
		cmocka_unit_test(test_pace_lets_transactions_gather_under_load),
		cmocka_unit_test(test_pace_keeps_to_the_longest_delay),
		cmocka_unit_test(test_pace_waits_longer_with_more_pullers),
		cmocka_unit_test(test_pace_forgets_a_load_that_has_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
