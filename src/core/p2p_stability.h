/*
 * p2p_stability.h
 *	  What every member is known to have applied, and will not contradict.
 *
 * An ack of member Y is one vector read at one place of Y's WAL order, its own
 * component included. At Z it is mature once Z has applied Y up to the ack's
 * own component. Stable = minimum over members of their latest mature acks.
 * "Acked by all" alone would let Y's own older write, still on its way, raise
 * the dead.
 */
#ifndef P2P_STABILITY_H
#define P2P_STABILITY_H

#include "p2p_vector.h"

/*
 * Per member: the latest mature ack, one that waits to mature, and the newest
 * one heard meanwhile. Keeping the waiting one (and not replacing it by each
 * newer) is what makes it mature under continuous load.
 */
typedef struct P2pAck
{
	bool		has_mature;
	bool		has_waiting;
	bool		has_newest;
	P2pVector	mature;
	P2pVector	waiting;
	P2pVector	newest;
} P2pAck;

void		p2p_ack_init(P2pAck *ack);
/* Take a newly heard ack of member; one that is not newer (own component and all) is ignored. */
void		p2p_ack_hear(P2pAck *ack, const P2pOrigin *member, const P2pVector *vector);
/* Move on what has matured, given how far member's transactions are applied here. Returns whether mature moved. */
bool		p2p_ack_ripen(P2pAck *ack, const P2pOrigin *member, uint64_t applied_seq);
/* stable = minimum of the mature acks; a member without one makes it empty. */
void		p2p_stable_vector(const P2pAck *const *acks, uint32_t n_members, P2pVector *stable);

#endif							/* P2P_STABILITY_H */
