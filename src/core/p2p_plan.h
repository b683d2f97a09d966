/*
 * p2p_plan.h
 *	  Pull planning: who is asked for which origin's batches.
 *
 * Prefer the origin itself, then the peer that stores most of it, then the
 * nearest (round trip time), then the smallest id. A peer that is not
 * reachable is never asked; one that stores nothing new is asked for an
 * origin only if it is that origin (its long poll brings what comes next), or
 * if the origin itself is not reachable and the peer is the best relay.
 */
#ifndef P2P_PLAN_H
#define P2P_PLAN_H

#include "p2p_vector.h"

typedef struct P2pPlanPeer
{
	P2pOrigin	origin;
	bool		reachable;
	int64_t		rtt_us;
	const P2pVector *stored;	/* what it last said that it stores */
} P2pPlanPeer;

#define P2P_PLAN_NOBODY UINT32_MAX

/*
 * For each of the n_origins origins, choose[i] = index of the peer to ask, or
 * P2P_PLAN_NOBODY. mine: what is stored here.
 */
void		p2p_plan_pulls(const P2pPlanPeer *peers, uint32_t n_peers,
						   const P2pOrigin *origins, uint32_t n_origins,
						   const P2pVector *mine, uint32_t *choose);

#endif							/* P2P_PLAN_H */
