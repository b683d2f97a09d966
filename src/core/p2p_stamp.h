/*
 * p2p_stamp.h
 *	  Stamps and the one order of versions.
 *
 * Stamps are a hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva, Leone:
 * "Logical Physical Clocks", OPODIS 2014) read off the WAL: given once, by the
 * origin's capture, in commit order.
 */
#ifndef P2P_STAMP_H
#define P2P_STAMP_H

#include "p2p_types.h"

/*
 * Return the stamp of a local transaction: the greatest of its commit time,
 * the origin's previous stamp + 1 and floor + 1, where floor is the greatest
 * stamp that apply here has begun with.
 */
P2pStamp	p2p_stamp_next(P2pStamp commit_time, P2pStamp previous, P2pStamp floor);

/* Compare by (stamp, id, epoch, seq): < 0, 0, > 0. */
int			p2p_version_compare(const P2pVersion *a, const P2pVersion *b);

/* Is it "older than everything"? */
bool		p2p_version_is_ancient(const P2pVersion *v);

#endif							/* P2P_STAMP_H */
