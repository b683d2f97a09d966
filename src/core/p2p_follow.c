/*
 * p2p_follow.c
 *	  May the next transaction of an origin be applied here and now?
 *
 * Whatever the answer is, it is "not yet" or "never" for that origin alone, and
 * for who depends on it; all others go on.
 *
 *	  counts	A leave is a transaction of the leaving member's own stream, so
 *				all members meet it at the same seq. What the member commits after
 *				it (its clients may still be writing) would reach some members and
 *				not others, since they stop asking for it. So it is applied by none.
 *	  held		A stamp far ahead of group time would drag along the stamps of
 *				all who apply it. Whoever has let a later one in already, be it by
 *				an operator's word or because its own clock is the wrong one, goes
 *				on from there: to hold what is less would only stall it.
 *	  deps		Causal delivery. The own seq of the origin in deps is passed over:
 *				its transactions are applied in their order anyway. An origin that
 *				is not known here counts as not applied.
 *
 * Called by apply for each transaction before it begins, and by the simulator.
 */
#include "p2p_follow.h"

#include "p2p_clock.h"

/* Is everything applied that the transaction's origin had applied? */
bool
p2p_follow_deps(const P2pVector *deps, const P2pOrigin *origin, P2pAppliedSeq applied, void *arg)
{
	for (uint32_t i = 0; i < deps->count; i++)
	{
		const P2pVectorEntry *entry = &deps->entries[i];

		if (entry->seq == 0 || p2p_origin_equal(&entry->origin, origin))
			continue;
		if (applied(arg, &entry->origin) < entry->seq)
			return false;
	}
	return true;
}

/* Is the stamp further ahead than we believe? */
bool
p2p_follow_is_held(P2pStamp stamp, P2pStamp group_time, P2pStamp let_in, int64_t max_skew)
{
	return p2p_clock_too_far_ahead(stamp, group_time, max_skew) &&
		p2p_clock_too_far_ahead(stamp, let_in, max_skew);
}

/* Did the origin commit it as a member? */
bool
p2p_follow_counts(bool left, uint64_t left_seq, uint64_t seq)
{
	return !left || seq <= left_seq;
}
