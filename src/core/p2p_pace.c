/*
 * p2p_pace.c
 *	  How long to let transactions gather: an origin before it seals the next batch,
 *	  and a peer before it asks for the next batches.
 *
 * A batch costs the same however little is in it: a signature, a hash, an fsync,
 * the waking of everybody who waits for it, here and at each peer. When commits
 * are rare each is a batch of its own, and nobody waits. When they come by the
 * thousand, waiting lets many share one.
 *
 *	  delay
 *	   max |              ________  the processors are wanted by others
 *	       |            /
 *	       |         /
 *	 short |       /  ____________  they are idle
 *	     0 |_______/_|____________  commits a second
 *	           quiet brisk busy
 *
 * How long depends on what waiting saves. While processors idle, it saves nothing that
 * anybody wants: a millisecond, so that batches take no more than a tenth of one
 * processor. When clients queue for them, what batches cost is taken from the clients: then
 * for the whole delay. Which of the two it is shows in the rests themselves: who wants to
 * sleep for a millisecond, and runs again much later, had to queue. In between the delay is
 * in between. Finding very many commits at once counts as being late: all who get them
 * have enough to do.
 *
 * The rate is that of the last window, more or less:
 * the present one, and as much of the one before as is missing to a whole. So a burst
 * after silence is served at once for a moment, and silence after a burst is
 * believed soon.
 *
 * A pull, too, costs the one that is asked the same, however little it brings, and all pulls
 * of all nodes are that peer's work. One puller asks for each batch, as soon as it has the
 * one before: the origin's own pace keeps them apart. Several take as many batches at a time as
 * there are pullers, so that their pulls together cost what those of one do, but wait no longer
 * than four times the longest delay.
 *
 * Called by capture after each look at the WAL, and by gossip after each answer. The clock may
 * stand still between two calls, but does not go back; if it did, the count would begin anew.
 */
#include "p2p_pace.h"

#include <assert.h>

#define SECOND_US 1000000
#define MOST_PULLERS 4			/* that stretch the longest delay */
#define MAX_PULLERS 1000		/* that are told apart */
#define LATE_WEIGHT 16			/* of so many rests we know how late they were */
#define LATE_MOST_US 300		/* a single one that was disturbed says no more than this */

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
	if (commits >= P2P_PACE_BEHIND)
		pace->late_us = LATE_WEIGHT * P2P_PACE_LATE_US;
}

/* Let one more rest count, and those before it less. */
void
p2p_pace_note_late(P2pPace *pace, int64_t late_us)
{
	int64_t		late = late_us < 0 ? 0 : late_us > LATE_MOST_US ? LATE_MOST_US : late_us;

	pace->late_us += late - pace->late_us / LATE_WEIGHT;
}

/* Return how much of the longest delay is worth it, in thousandths: is the processor in demand? */
static int64_t
scarcity(const P2pPace *pace)
{
	int64_t		late = pace->late_us / LATE_WEIGHT;

	if (late <= P2P_PACE_PROMPT_US)
		return 0;
	if (late >= P2P_PACE_LATE_US)
		return 1000;
	return 1000 * (late - P2P_PACE_PROMPT_US) / (P2P_PACE_LATE_US - P2P_PACE_PROMPT_US);
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

/* Return where between the two lines of the drawing we are. */
int64_t
p2p_pace_delay(const P2pPace *pace, int64_t now_us, int64_t max_us)
{
	uint64_t	rate = p2p_pace_rate(pace, now_us);
	int64_t		most = max_us;
	int64_t		least;

	assert(max_us >= 0);
	if (rate <= P2P_PACE_QUIET)
		return 0;
	if (rate < P2P_PACE_BUSY)
		most = max_us * (int64_t) (rate - P2P_PACE_QUIET) / (P2P_PACE_BUSY - P2P_PACE_QUIET);
	least = rate < P2P_PACE_BRISK ? 0 : P2P_PACE_SHORT_US;
	if (most <= least)
		return most;
	return least + (most - least) * scarcity(pace) / 1000;
}

/* Return how long the batches for the other pullers take to come, within bounds. */
int64_t
p2p_pace_pull_delay(const P2pPace *pace, int64_t now_us, uint64_t batch, uint32_t pullers,
					int64_t max_us)
{
	uint64_t	rate = p2p_pace_rate(pace, now_us);
	uint64_t	others = pullers < 1 ? 0 : pullers > MAX_PULLERS ? MAX_PULLERS : pullers - 1;
	uint64_t	transactions = batch < SECOND_US ? batch : SECOND_US;
	int64_t		delay_us;

	assert(max_us >= 0);
	if (rate <= P2P_PACE_QUIET)
		return 0;
	delay_us = (int64_t) (others * transactions * SECOND_US / rate);
	max_us *= (int64_t) (pullers < MOST_PULLERS ? pullers : MOST_PULLERS);
	return delay_us < max_us ? delay_us : max_us;
}
