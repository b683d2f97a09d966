/*
 * p2p_vector.h
 *	  Version vectors: origin -> highest contiguous seq, sorted by origin.
 *
 * An origin that is not in a vector has seq 0 there.
 */
#ifndef P2P_VECTOR_H
#define P2P_VECTOR_H

#include "p2p_buf.h"

typedef struct P2pVectorEntry
{
	P2pOrigin	origin;
	uint64_t	seq;
} P2pVectorEntry;

typedef struct P2pVector
{
	uint32_t	count;			/* at most P2P_MAX_MEMBERS */
	P2pVectorEntry entries[P2P_MAX_MEMBERS];
} P2pVector;

void		p2p_vector_clear(P2pVector *v);
uint64_t	p2p_vector_get(const P2pVector *v, const P2pOrigin *origin);
/* Set the component, lower or higher; false if the vector is full. */
bool		p2p_vector_set(P2pVector *v, const P2pOrigin *origin, uint64_t seq);
/* Raise the component to at least seq; false if the vector is full. */
bool		p2p_vector_raise(P2pVector *v, const P2pOrigin *origin, uint64_t seq);
/* into = componentwise maximum (join); false if it does not fit. */
bool		p2p_vector_merge(P2pVector *into, const P2pVector *from);
/* into = componentwise minimum (meet); entries missing in from become 0. */
void		p2p_vector_meet(P2pVector *into, const P2pVector *from);
/* Is every component of b at most that of a? */
bool		p2p_vector_covers(const P2pVector *a, const P2pVector *b);
bool		p2p_vector_covers_dot(const P2pVector *v, const P2pDot *dot);
bool		p2p_vector_equal(const P2pVector *a, const P2pVector *b);

/* Encoding: varint count, then per entry id, u32 epoch, varint seq, ascending. */
#define P2P_VECTOR_MAX_SIZE (2 + P2P_MAX_MEMBERS * (P2P_ID_SIZE + 4 + 10))
void		p2p_put_vector(P2pWriter *w, const P2pVector *v);
/* Refuses (bad) unsorted, duplicate or too many entries. */
void		p2p_get_vector(P2pReader *r, P2pVector *v);

#endif							/* P2P_VECTOR_H */
