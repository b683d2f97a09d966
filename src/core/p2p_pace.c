/*
 * p2p_pace.c
 *	  How long to let transactions gather: an origin before it seals the next batch,
 *	  and a peer before it asks for the next batches.
 *
 * A batch costs the same however little is in it: a signature, a hash, an fsync,
 * the waking of everybody who waits for it, here and at each peer. When commits
 * are rare each is a batch of its own, and nobody waits. When they come by the
 * thousand, waiting a few milliseconds lets dozens share one.
 *
 *	  delay
 *	   max |              ________
 *	       |            /
 *	       |         /
 *	     0 |_______/_____________  commits a second
 *	              quiet   busy
 *
 * A ramp, not a step: around a step, two commits in a row would fare differently for
 * no reason that a user could see. The rate is that of the last window, more or less:
 * the present one, and as much of the one before as is missing to a whole. So a burst
 * after silence is served at once for a moment, and silence after a burst is
 * believed soon.
 *
 * A pull, too, costs the one that is asked the same, however little it brings. The next one
 * waits for as many transactions as make it worth its while; the more nodes pull
 * from the same peer, the longer, up to four times as long, since all
 * of their pulls are that peer's work.
 *
 * Called by capture after each look at the WAL, and by gossip after each answer. The clock may
 * stand still between two calls, but does not go back; if it did, the count would begin anew.
 */
#include "p2p_pace.h"

#include <assert.h>

#define SECOND_US 1000000
#define WORTH_A_PULL 16			/* transactions, for each puller */
#define MOST_PULLERS 4			/* that stretch the longest delay */

/* Return the pace as it is at now_us, its windows moved on. */
static P2pPace
moved(const P2pPace *pace, int64_t now_us)
{
	P2pPace		now = *pace;
	int64_t		elapsed = now_us - pace->window_us;

	if (elapsed >= 0 && elapsed < P2P_PACE_WINDOW_US)
		return now;
	now.previous = elapsed >= 0 && elapsed < 2 * P2P_PACE_WINDOW_US ? pace->count : 0;
	now.window_us = now.previous > 0 ? pace->window_us + P2P_PACE_WINDOW_US : now_us;
	now.count = 0;
	return now;
}

/* Count commits. */
void
p2p_pace_note(P2pPace *pace, int64_t now_us, uint64_t commits)
{
	*pace = moved(pace, now_us);
	pace->count += commits;
}

/* Return commits a second: of the present window, and the end of the one before. */
uint64_t
p2p_pace_rate(const P2pPace *pace, int64_t now_us)
{
	P2pPace		now = moved(pace, now_us);
	uint64_t	left_us = (uint64_t) (P2P_PACE_WINDOW_US - (now_us - now.window_us));
	uint64_t	before = now.previous * left_us / P2P_PACE_WINDOW_US;

	return (now.count + before) * SECOND_US / P2P_PACE_WINDOW_US;
}

/* Return where on the ramp we are. */
int64_t
p2p_pace_delay(const P2pPace *pace, int64_t now_us, int64_t max_us)
{
	uint64_t	rate = p2p_pace_rate(pace, now_us);

	assert(max_us >= 0);
	if (rate <= P2P_PACE_QUIET)
		return 0;
	if (rate >= P2P_PACE_BUSY)
		return max_us;
	return max_us * (int64_t) (rate - P2P_PACE_QUIET) / (P2P_PACE_BUSY - P2P_PACE_QUIET);
}

/* Return how long the transactions that make a pull worthwhile take to come, within bounds. */
int64_t
p2p_pace_pull_delay(const P2pPace *pace, int64_t now_us, uint32_t pullers, int64_t max_us)
{
	uint64_t	rate = p2p_pace_rate(pace, now_us);
	uint64_t	sharers = pullers < 1 ? 1 : pullers;
	int64_t		delay_us;

	assert(max_us >= 0);
	if (rate <= P2P_PACE_QUIET)
		return 0;
	delay_us = (int64_t) (WORTH_A_PULL * sharers * SECOND_US / rate);
	max_us *= (int64_t) (sharers < MOST_PULLERS ? sharers : MOST_PULLERS);
	return delay_us < max_us ? delay_us : max_us;
}
