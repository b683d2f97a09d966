/*
 * p2p_cursor.h
 *	  Gap tracking: where the contiguous part of an origin's log ends, and
 *	  whether a batch is the next one, a repetition, or leaves a gap.
 */
#ifndef P2P_CURSOR_H
#define P2P_CURSOR_H

#include "p2p_types.h"

/*
 * A batch holds whole transactions [first_seq, last_seq], or one part of a
 * transaction too large for a batch (first_seq = last_seq, parts from 0).
 */
typedef struct P2pCursor
{
	uint64_t	seq;			/* last complete transaction; 0 = none */
	uint32_t	parts;			/* parts already held of transaction seq + 1 */
	bool		started;		/* false: the log may begin anywhere (a joiner's) */
	uint8_t		hash[P2P_HASH_SIZE];	/* of the last batch held; zeros at the origin's start */
} P2pCursor;

typedef enum P2pArrival
{
	P2P_ARRIVAL_NEXT,
	P2P_ARRIVAL_DUPLICATE,
	P2P_ARRIVAL_GAP
} P2pArrival;

/* The place of a batch in its origin's log. */
typedef struct P2pSpan
{
	uint64_t	first_seq;
	uint64_t	last_seq;
	uint32_t	part;
	bool		partial;		/* one part of a large transaction */
	bool		final;			/* its last part; always true if not partial */
} P2pSpan;

void		p2p_cursor_init(P2pCursor *c);
P2pArrival	p2p_cursor_judge(const P2pCursor *c, const P2pSpan *span);
/* Take a P2P_ARRIVAL_NEXT batch with this hash (asserts that it is one). */
void		p2p_cursor_advance(P2pCursor *c, const P2pSpan *span,
							   const uint8_t hash[P2P_HASH_SIZE]);

#endif							/* P2P_CURSOR_H */
