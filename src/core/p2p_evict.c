/*
 * p2p_evict.c
 *	  Evictions: freezes, cuts, and the end of a node that is gone.
 *
 * E is dead, or cut off, and may have handed its last transactions to some of
 * the others. None of those may be lost, all members have to end with the same
 * ones, and E shall no longer hold back what is stable. Nobody coordinates:
 *
 *	  A: evict E ------> (A's stream) --> whoever applies it closes E
 *	  A, B, C: freeze E, seq -----------> (own stream) --> each adds up for itself
 *	  all freezes held: cut = the greatest --> all applied up to it: E is over
 *
 * Closed means: no batch of any origin is taken from E, and what was taken
 * before is durable. Of E's batches the others still hand one another what they
 * have, and apply it; nothing is held back for want of a cut.
 *
 * Gone are nodes that have left, too. A member that has not applied a leave yet
 * may still take E's batches from the leaving node, which need not know of the
 * eviction; so a member freezes every node that is gone, once one of them is
 * evicted. When it has closed another one, it says again what it stores of
 * those evicted before, if that has grown: the other may have been the source.
 * All of one moment goes into one transaction.
 *
 * Why the cut is final. Let Z hold, of every member that it knows, a freeze of
 * every node that is gone by what it knows, and let cut be the greatest seq of E
 * in the latest of them. Take the first member to store something of E beyond
 * the cut. It does so after its freezes (they would have said it), from a peer
 * that it had not closed: another such member, which then was earlier; or a
 * joiner that Z does not know. That one was admitted by a member after its freezes, so that
 * its copy has them, and it closes the same nodes; or by a node that is gone,
 * whose admission Z has not applied: which is why Z does not rely on any cut
 * before all evicted nodes are over.
 *
 * Over. A transaction of E may depend on one of F that only F had, who is gone
 * too. Nobody can ever apply it, nor what follows it in E's stream. So E is over
 * when it is applied up to its cut, or when its next transaction depends on
 * something of an evicted node beyond the cut, or beyond where that one is
 * over. All members have the same bytes and find the same end.
 *
 * Nothing is remembered of all this but the freezes: it is reckoned anew
 * whenever membership changes. A second eviction, of a member whose freeze was
 * missing, lets the first come to its end. What the evicted node's own word said
 * does not count for the cut: what only it had is gone with it.
 *
 * Breaks (contrib/sim has each as a planted bug): dropping E at once; the cut
 * being what one stores oneself; taking from E after the freeze; a freeze that tells
 * less than what is under way; not saying it again; not freezing who left;
 * relying on one node's end before all are over.
 *
 * Called by gossip (freezes), by whoever loads membership (cuts), by apply (the
 * end), and by the simulator.
 */
#include "p2p_evict.h"

static bool is_gone(P2pStanding standing);
static bool is_out_of_reach(const P2pVector *deps, const P2pEvicted *evicted, uint32_t n,
							uint32_t self);

/* Is it no member any more? */
static bool
is_gone(P2pStanding standing)
{
	return standing == P2P_STANDING_LEFT || standing == P2P_STANDING_EVICTED;
}

/* Find out which freezes a member has to tell, in one transaction; false: none. */
bool
p2p_evict_freezes(P2pClosing *nodes, uint32_t n)
{
	bool		any_evicted = false;
	bool		any = false;

	for (uint32_t i = 0; i < n; i++)
		any_evicted |= nodes[i].standing == P2P_STANDING_EVICTED;
	for (uint32_t i = 0; i < n; i++)
	{
		nodes[i].tell = any_evicted && is_gone(nodes[i].standing) && nodes[i].closed &&
			!nodes[i].frozen;
		any |= nodes[i].tell;
	}
	/* what was just closed may have been the source of more than was told */
	for (uint32_t i = 0; i < n && any; i++)
	{
		if (is_gone(nodes[i].standing) && nodes[i].frozen &&
			nodes[i].stored_seq > nodes[i].frozen_seq)
			nodes[i].tell = true;
	}
	return any;
}

/* Find the cut of each evicted node; false: a member's freeze is missing. */
bool
p2p_evict_cuts(const P2pStanding *standings, uint32_t n, P2pFrozenSeq frozen, void *arg,
			   uint64_t *cuts)
{
	for (uint32_t gone = 0; gone < n; gone++)
	{
		cuts[gone] = 0;
		if (!is_gone(standings[gone]))
			continue;
		for (uint32_t member = 0; member < n; member++)
		{
			uint64_t	seq;

			if (standings[member] != P2P_STANDING_MEMBER)
				continue;
			if (!frozen(arg, member, gone, &seq))
				return false;
			if (seq > cuts[gone])
				cuts[gone] = seq;
		}
	}
	return true;
}

/* Is all applied that ever will be of all evicted nodes? */
bool
p2p_evict_all_over(P2pEvicted *evicted, uint32_t n)
{
	uint32_t	left = n;
	bool		moved = true;

	for (uint32_t i = 0; i < n; i++)
		evicted[i].over = false;
	while (left > 0 && moved)
	{
		moved = false;
		for (uint32_t i = 0; i < n; i++)
		{
			P2pEvicted *e = &evicted[i];

			if (e->over)
				continue;
			e->over = e->applied_seq >= e->cut ||
				(e->next_deps != NULL && is_out_of_reach(e->next_deps, evicted, n, i));
			moved |= e->over;
			left -= e->over;
		}
	}
	return left == 0;
}

/* Does a transaction of `self` depend on what nobody can ever apply? */
static bool
is_out_of_reach(const P2pVector *deps, const P2pEvicted *evicted, uint32_t n, uint32_t self)
{
	for (uint32_t i = 0; i < n; i++)
	{
		uint64_t	seq = p2p_vector_get(deps, &evicted[i].origin);

		if (i != self && seq > evicted[i].applied_seq &&
			(seq > evicted[i].cut || evicted[i].over))
			return true;
	}
	return false;
}
