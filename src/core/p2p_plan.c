/*
 * p2p_plan.c
 *	  Pull planning: who is asked for which origin's batches, where no relay
 *	  stands between (p2p_relay.h).
 *
 * Each origin is planned on its own, from what the peers last said:
 *
 *	  1. The origin itself, if it is reachable. It has all there is, and a long
 *	     poll on it brings the next transaction with one hop.
 *	  2. Else the best relay: the reachable peer that stores most of what is not
 *	     stored here, among equals the nearest, then the smallest id. It is asked
 *	     even if it stores nothing new: its long poll brings what it may get by
 *	     another way.
 *	  3. Else nobody.
 *
 * Relays are compared only by what goes beyond `mine`. What they said is older
 * than what a long poll has brought since, so that below it a difference says
 * nothing, and following it would make the choice flap between equals.
 *
 * A node under an earlier epoch is another origin: its present incarnation is
 * only a relay for it. A peer that has not said yet what it stores (stored is
 * NULL) counts as storing nothing.
 *
 * Called by gossip whenever a peer's reachability or vector changes. The caller
 * leaves its own origin out, and an evicted origin's peer too, which must never
 * be asked again. Cost: origins times peers, both bounded by P2P_MAX_MEMBERS.
 */
#include "p2p_plan.h"

static uint32_t choose_peer(const P2pPlanPeer *peers, uint32_t n_peers,
							const P2pOrigin *origin, uint64_t my_seq);
static bool is_better_relay(const P2pPlanPeer *a, const P2pPlanPeer *b,
							const P2pOrigin *origin, uint64_t my_seq);
static uint64_t stored_beyond(const P2pPlanPeer *peer, const P2pOrigin *origin, uint64_t my_seq);

/* Set choose[i] to the index of the peer to ask for origins[i], or P2P_PLAN_NOBODY. */
void
p2p_plan_pulls(const P2pPlanPeer *peers, uint32_t n_peers,
			   const P2pOrigin *origins, uint32_t n_origins,
			   const P2pVector *mine, uint32_t *choose)
{
	for (uint32_t i = 0; i < n_origins; i++)
		choose[i] = choose_peer(peers, n_peers, &origins[i], p2p_vector_get(mine, &origins[i]));
}

/* Return the index of the peer to ask for origin, of which my_seq is stored here. */
static uint32_t
choose_peer(const P2pPlanPeer *peers, uint32_t n_peers, const P2pOrigin *origin, uint64_t my_seq)
{
	uint32_t	best = P2P_PLAN_NOBODY;

	for (uint32_t i = 0; i < n_peers; i++)
	{
		if (!peers[i].reachable)
			continue;
		if (p2p_origin_equal(&peers[i].origin, origin))
			return i;
		if (best == P2P_PLAN_NOBODY ||
			is_better_relay(&peers[i], &peers[best], origin, my_seq))
			best = i;
	}
	return best;
}

/* Say whether a is to be preferred to b as a relay of origin. */
static bool
is_better_relay(const P2pPlanPeer *a, const P2pPlanPeer *b,
				const P2pOrigin *origin, uint64_t my_seq)
{
	uint64_t	a_seq = stored_beyond(a, origin, my_seq);
	uint64_t	b_seq = stored_beyond(b, origin, my_seq);

	if (a_seq != b_seq)
		return a_seq > b_seq;
	if (a->rtt_us != b->rtt_us)
		return a->rtt_us < b->rtt_us;
	return p2p_origin_compare(&a->origin, &b->origin) < 0;
}

/* Return the seq up to which peer stores origin, but no less than my_seq. */
static uint64_t
stored_beyond(const P2pPlanPeer *peer, const P2pOrigin *origin, uint64_t my_seq)
{
	uint64_t	seq = peer->stored == NULL ? 0 : p2p_vector_get(peer->stored, origin);

	return seq > my_seq ? seq : my_seq;
}
