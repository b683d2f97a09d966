/*
 * test_pace.c
 *	  How long a batch waits: not at all when commits are rare, however they
 *	  bunch; shortly when they come fast, and for the whole delay if the machine is
 *	  busy as well; and the rate is forgotten soon.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_pace.h"

#define START INT64_C(1000000000)
#define SECOND INT64_C(1000000)
#define MAX INT64_C(10000)

/* Note one commit every `every` microseconds for that long; returns when it ended. */
static int64_t
commits(P2pPace *pace, int64_t from, int64_t us, int64_t every)
{
	for (int64_t now = from; now < from + us; now += every)
		p2p_pace_note(pace, now, 1);
	return from + us;
}

static void
test_pace_nothing_waits_at_first(void **state)
{
	P2pPace		pace = {0};

	(void) state;
	assert_int_equal(p2p_pace_delay(&pace, START, MAX), 0);
	p2p_pace_note(&pace, START, 1);
	assert_int_equal(p2p_pace_delay(&pace, START, MAX), 0);
	assert_int_equal(p2p_pace_delay(&pace, START + SECOND, MAX), 0);
}

static void
test_pace_rate_is_commits_a_second(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 1000);

	(void) state;
	assert_in_range(p2p_pace_rate(&pace, now), 980, 1020);
	now = commits(&pace, now, SECOND, 100);
	assert_in_range(p2p_pace_rate(&pace, now), 9900, 10100);
}

static void
test_pace_two_hundred_a_second_never_wait(void **state)
{
	P2pPace		pace = {0};
	uint64_t	seed = 1;
	int64_t		now = START;

	(void) state;
	/* at random, as from many clients: 5 ms apart on average, often much less */
	for (int i = 0; i < 20000; i++)
	{
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		now += (int64_t) ((seed >> 33) % 10000);
		p2p_pace_note(&pace, now, 1);
		assert_int_equal(p2p_pace_delay(&pace, now, MAX), 0);
	}
}

/* Rests that are so much too long. */
static void
overstay(P2pPace *pace, int rests, int64_t late_us)
{
	for (int i = 0; i < rests; i++)
		p2p_pace_note_late(pace, late_us);
}

static void
test_pace_on_a_busy_machine_many_wait_for_the_whole_delay_and_not_longer(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 20);

	(void) state;
	overstay(&pace, 200, 10000);
	assert_int_equal(p2p_pace_delay(&pace, now, MAX), MAX);
	assert_int_equal(p2p_pace_delay(&pace, now, 0), 0);
	p2p_pace_note(&pace, now, UINT64_C(1) << 32);
	assert_int_equal(p2p_pace_delay(&pace, now, MAX), MAX);
}

static void
test_pace_on_an_idle_machine_many_wait_shortly(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 20);

	(void) state;
	assert_int_equal(p2p_pace_delay(&pace, now, MAX), P2P_PACE_SHORT_US);
	overstay(&pace, 1000, P2P_PACE_PROMPT_US);
	assert_int_equal(p2p_pace_delay(&pace, now, MAX), P2P_PACE_SHORT_US);
	/* one that was disturbed is no busy machine */
	overstay(&pace, 1, SECOND);
	assert_true(p2p_pace_delay(&pace, now, MAX) < MAX / 3);
	/* the setting is the limit */
	assert_int_equal(p2p_pace_delay(&pace, now, 500), 500);
	assert_int_equal(p2p_pace_delay(&pace, now, 0), 0);
}

static void
test_pace_follows_how_late_rests_are(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 20);
	int64_t		last = 0;

	(void) state;
	for (int64_t late = 0; late <= 2 * P2P_PACE_LATE_US; late += 20)
	{
		int64_t		delay;

		overstay(&pace, 200, late);
		delay = p2p_pace_delay(&pace, now, MAX);
		assert_true(delay >= last && delay <= MAX);
		last = delay;
	}
	assert_int_equal(last, MAX);
	overstay(&pace, 200, -5);
	assert_int_equal(p2p_pace_delay(&pace, now, MAX), P2P_PACE_SHORT_US);
}

static void
test_pace_very_many_at_once_are_late(void **state)
{
	P2pPace		pace = {0};

	(void) state;
	p2p_pace_note(&pace, START, P2P_PACE_BEHIND - 1);
	assert_int_equal(p2p_pace_delay(&pace, START, MAX), P2P_PACE_SHORT_US);
	p2p_pace_note(&pace, START, P2P_PACE_BEHIND);
	assert_int_equal(p2p_pace_delay(&pace, START, MAX), MAX);
}

static void
test_pace_delay_grows_with_the_rate(void **state)
{
	int64_t		last = 0;

	(void) state;
	for (int64_t rate = P2P_PACE_QUIET; rate <= P2P_PACE_BUSY; rate += 500)
	{
		P2pPace		pace = {0};
		int64_t		now = commits(&pace, START, SECOND, SECOND / rate);
		int64_t		delay;

		overstay(&pace, 200, P2P_PACE_LATE_US);
		delay = p2p_pace_delay(&pace, now, MAX);
		assert_true(delay >= last && delay <= MAX);
		last = delay;
	}
	assert_true(last > MAX * 9 / 10);
}

static void
test_pace_forgets_a_burst_soon(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 20);

	(void) state;
	assert_int_equal(p2p_pace_delay(&pace, now + P2P_PACE_WINDOW_US / 10, MAX), P2P_PACE_SHORT_US);
	assert_int_equal(p2p_pace_delay(&pace, now + 2 * P2P_PACE_WINDOW_US, MAX), 0);
	/* silence of any length: no number overflows */
	assert_int_equal(p2p_pace_delay(&pace, now + 1000000000 * SECOND, MAX), 0);
}

static void
test_pace_serves_a_burst_at_once_at_first(void **state)
{
	P2pPace		pace = {0};

	(void) state;
	p2p_pace_note(&pace, START, 1);
	p2p_pace_note(&pace, START + 10 * SECOND, 40);
	assert_int_equal(p2p_pace_delay(&pace, START + 10 * SECOND, MAX), 0);
}

static void
test_pace_begins_anew_if_the_clock_goes_back(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 20);

	(void) state;
	assert_int_equal(p2p_pace_delay(&pace, now - 10 * SECOND, MAX), 0);
	p2p_pace_note(&pace, now - 10 * SECOND, 1);
	assert_int_equal(p2p_pace_delay(&pace, now - 10 * SECOND, MAX), 0);
}

static void
test_pace_several_pullers_share_the_batches(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = commits(&pace, START, SECOND, 250);

	(void) state;
	/* 4,000 a second, 8 in a batch: one each 2 ms. A single puller takes each; nobody is as one */
	assert_int_equal(p2p_pace_pull_delay(&pace, now, 8, 1, MAX), 0);
	assert_int_equal(p2p_pace_pull_delay(&pace, now, 8, 0, MAX), 0);
	/* of several each takes as many as they are, but does not wait without end */
	assert_in_range(p2p_pace_pull_delay(&pace, now, 8, 2, MAX), 1950, 2050);
	assert_in_range(p2p_pace_pull_delay(&pace, now, 8, 9, MAX), 15500, 16500);
	assert_int_equal(p2p_pace_pull_delay(&pace, now, 8, 100, MAX), 4 * MAX);
	assert_int_equal(p2p_pace_pull_delay(&pace, now, UINT64_MAX, UINT32_MAX, MAX), 4 * MAX);
	assert_int_equal(p2p_pace_pull_delay(&pace, now, 8, 2, 0), 0);
	/* a load that has ended delays nothing */
	assert_int_equal(p2p_pace_pull_delay(&pace, now + SECOND, 8, 8, MAX), 0);
}

static void
test_pace_pulls_of_rare_transactions_go_at_once(void **state)
{
	P2pPace		pace = {0};
	int64_t		now = START;

	(void) state;
	/* 200 a second, in pairs */
	for (int i = 0; i < 1000; i++, now += 10000)
	{
		p2p_pace_note(&pace, now, 2);
		assert_int_equal(p2p_pace_pull_delay(&pace, now, 2, 8, MAX), 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pace_nothing_waits_at_first),
		cmocka_unit_test(test_pace_rate_is_commits_a_second),
		cmocka_unit_test(test_pace_two_hundred_a_second_never_wait),
		cmocka_unit_test(test_pace_on_a_busy_machine_many_wait_for_the_whole_delay_and_not_longer),
		cmocka_unit_test(test_pace_on_an_idle_machine_many_wait_shortly),
		cmocka_unit_test(test_pace_follows_how_late_rests_are),
		cmocka_unit_test(test_pace_very_many_at_once_are_late),
		cmocka_unit_test(test_pace_delay_grows_with_the_rate),
		cmocka_unit_test(test_pace_forgets_a_burst_soon),
		cmocka_unit_test(test_pace_serves_a_burst_at_once_at_first),
		cmocka_unit_test(test_pace_begins_anew_if_the_clock_goes_back),
		cmocka_unit_test(test_pace_several_pullers_share_the_batches),
		cmocka_unit_test(test_pace_pulls_of_rare_transactions_go_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
