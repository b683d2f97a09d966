/*
 * evict.h
 *	  What an eviction brings about on a member: freezes, the evicted ones' last
 *	  seqs, and their end. The rules, and why they hold: p2p_evict.c.
 */
#ifndef RP_EVICT_H
#define RP_EVICT_H

#include "members.h"

/*
 * Find the last seq of every evicted member (cuts, by slot), from the freezes in
 * the membership log; false: a member's freeze is missing. Between catalog open
 * and close; statuses are those of replp2p.members.
 */
bool		rp_evict_cuts_read(const RpMemberStatus *statuses, int nmembers, uint64 *cuts);

/*
 * Say, in this node's stream, what it stores of those who are gone, if it has
 * not said so. closed: by slot, nothing is taken any more of what it sends; and
 * all that was taken is durable. Gossip only, outside of a transaction. false: a
 * user's transaction that changes membership is in the way; try again.
 */
bool		rp_evict_freeze(RpNode *node, const RpIdentity *me, const bool *closed);

/*
 * Find out whether all evicted members are at their end here, and publish that.
 * next_deps: by slot, of the transaction that waits behind applied[slot], or NULL.
 * Apply only. Returns false if it is worth asking again soon.
 */
bool		rp_evict_settle(RpNode *node, const uint64 *applied, const P2pVector *const *next_deps);

/* Do evicted members hold nothing any more? Lock: RpNode.lock is held. */
static inline bool
rp_evict_is_settled(const RpNode *node)
{
	return !node->any_evicted || node->settled_generation == node->loaded_generation;
}

/* Have this node stop, which was told by a member that it is evicted. Outside of a transaction. */
void		rp_evict_self(RpNode *node, const char *teller);

#endif							/* RP_EVICT_H */
