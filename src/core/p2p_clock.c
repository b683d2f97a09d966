/*
 * p2p_clock.c
 *	  Group time, and which stamps are too far ahead of it.
 *
 * Nobody's clock is the right one. Group time is the own clock moved by the
 * upper median of the members' offsets: a minority of wrong clocks, the own one
 * included, cannot move it far. "Upper", because of an even number the later
 * half is believed: with two members it is the later clock, so that neither
 * ever holds the other.
 *
 * An offset is measured as NTP does: the peer's time against the middle of the
 * request's way, wrong by at most half of the round trip.
 *
 * Called by gossip for each answer of a peer, and by apply for each stamp
 * before it begins with it. Times come from peers, so every sum saturates.
 */
#include "p2p_clock.h"

#include <assert.h>

static int64_t add_saturating(int64_t a, int64_t b);
static int64_t subtract_saturating(int64_t a, int64_t b);

/*
 * Return the upper median of n offsets, and sort them in place. By insertion:
 * there are few, mostly sorted since the last time, and qsort may allocate.
 */
int64_t
p2p_clock_upper_median(int64_t *offsets, uint32_t n)
{
	assert(n >= 1 && n <= P2P_MAX_MEMBERS);

	for (uint32_t i = 1; i < n; i++)
	{
		int64_t		moving = offsets[i];
		uint32_t	place = i;

		for (; place > 0 && offsets[place - 1] > moving; place--)
			offsets[place] = offsets[place - 1];
		offsets[place] = moving;
	}
	return offsets[n / 2];
}

/* Say whether stamp is further ahead of group time than max_skew. */
bool
p2p_clock_too_far_ahead(P2pStamp stamp, P2pStamp group_time, int64_t max_skew)
{
	return stamp > add_saturating(group_time, max_skew);
}

/* Return the offset of a peer's clock, read between sent and received of ours. */
int64_t
p2p_clock_offset(int64_t sent, int64_t peer_time, int64_t received)
{
	int64_t		middle = sent / 2 + received / 2 + (sent % 2 + received % 2) / 2;

	return subtract_saturating(peer_time, middle);
}

/* Return a + b, or the limit that it passes. */
static int64_t
add_saturating(int64_t a, int64_t b)
{
	if (b > 0 && a > INT64_MAX - b)
		return INT64_MAX;
	if (b < 0 && a < INT64_MIN - b)
		return INT64_MIN;
	return a + b;
}

/* Return a - b, or the limit that it passes. */
static int64_t
subtract_saturating(int64_t a, int64_t b)
{
	if (b < 0 && a > INT64_MAX + b)
		return INT64_MAX;
	if (b > 0 && a < INT64_MIN + b)
		return INT64_MIN;
	return a - b;
}
