/*
 * p2p_pace.c
 *	  How long an origin waits for company before it seals the next batch.
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
 * Called by capture after each look at the WAL. Its clock may stand still between two
 * calls, but does not go back; if it did, the count would begin anew.
 */
#include "p2p_pace.h"

#include <assert.h>

#define SECOND_US 1000000

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
