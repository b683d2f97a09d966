/*
 * p2p_evict.h
 *	  Evictions: what the members tell one another when one of them is declared
 *	  gone, up to where its transactions count, and when it stops to count for
 *	  stability.
 *
 * An eviction is a row of the membership log in the stream of the member that
 * evicts. Whoever applies it closes the evicted node: asks it for nothing any
 * more, and answers it nothing. Then it says so, by a freeze in its own stream:
 * "I have closed X, and store X up to seq". p2p_evict.c tells why that suffices.
 */
#ifndef P2P_EVICT_H
#define P2P_EVICT_H

#include "p2p_vector.h"

/* What a node is to another one, by what that one has applied. */
typedef enum P2pStanding
{
	P2P_STANDING_NONE = 0,
	P2P_STANDING_MEMBER,
	P2P_STANDING_LEFT,			/* said good-bye in its own stream */
	P2P_STANDING_EVICTED
} P2pStanding;

/* One node, as the member that may have to freeze it sees it. */
typedef struct P2pClosing
{
	P2pStanding standing;
	bool		closed;			/* nothing that it sends is taken any more */
	bool		frozen;			/* this member has said so before, */
	uint64_t	frozen_seq;		/* storing it up to this */
	uint64_t	stored_seq;		/* now, durably, nothing else being under way */
	bool		tell;			/* out: say it (again), with stored_seq */
} P2pClosing;

/* Find out which freezes a member has to tell, in one transaction; false: none. */
bool		p2p_evict_freezes(P2pClosing *nodes, uint32_t n);

/* Has member said that it froze node gone, and if so, up to which seq it stored it? */
typedef bool (*P2pFrozenSeq) (void *arg, uint32_t member, uint32_t gone, uint64_t *seq);

/*
 * Find the last seq of each evicted node that any member stores, or ever will;
 * false: not known yet, as a member's freeze is missing. cuts has n entries.
 */
bool		p2p_evict_cuts(const P2pStanding *standings, uint32_t n, P2pFrozenSeq frozen, void *arg,
						   uint64_t *cuts);

/* An evicted node whose cut is known, as one member sees it. */
typedef struct P2pEvicted
{
	P2pOrigin	origin;
	uint64_t	cut;
	uint64_t	applied_seq;
	const P2pVector *next_deps; /* of the transaction after applied_seq; NULL = not stored here */
	bool		over;			/* out: nothing of it will be applied any more, by anybody */
} P2pEvicted;

/* Is all applied that ever will be of all evicted nodes? Only then do they stop to count for stability. */
bool		p2p_evict_all_over(P2pEvicted *evicted, uint32_t n);

#endif							/* P2P_EVICT_H */
