/*
 * p2p_follow.h
 *	  May the next transaction of an origin be applied here and now?
 *
 * Three questions, each with an answer of its own: did its origin commit it
 * while it was a member; is its stamp one that can be believed; is everything
 * applied here that its origin had applied when it committed.
 */
#ifndef P2P_FOLLOW_H
#define P2P_FOLLOW_H

#include "p2p_vector.h"

/* Up to which seq is origin applied here? 0 for one that is not known. */
typedef uint64_t (*P2pAppliedSeq) (void *arg, const P2pOrigin *origin);

/* Is all that a transaction of origin depends on applied? Its own earlier ones are the caller's affair. */
bool		p2p_follow_deps(const P2pVector *deps, const P2pOrigin *origin,
							P2pAppliedSeq applied, void *arg);

/*
 * Is a stamp further ahead than is believed: of group time, and of let_in, the
 * greatest that was let in already (by the operator, or by the own clock)?
 */
bool		p2p_follow_is_held(P2pStamp stamp, P2pStamp group_time, P2pStamp let_in,
							   int64_t max_skew);

/* Does a transaction count? Of a member that left none does that it committed afterwards. */
bool		p2p_follow_counts(bool left, uint64_t left_seq, uint64_t seq);

#endif							/* P2P_FOLLOW_H */
