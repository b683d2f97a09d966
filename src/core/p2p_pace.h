/*
 * p2p_pace.h
 *	  How soon after an answer the next pull goes out.
 *
 * Each pull costs its server about the same, however much it brings. While
 * transactions are rare it goes out at once and waits at the peer, so that each
 * one travels by itself; where they come thick, some are let gather first.
 */
#ifndef P2P_PACE_H
#define P2P_PACE_H

#include <stdint.h>

typedef struct P2pPace
{
	int64_t		since_us;		/* beginning of the window at hand; 0 = nothing seen yet */
	uint64_t	counted;		/* transactions that came in it */
	uint64_t	rate;			/* transactions a second, of the last whole window */
} P2pPace;

/*
 * An answer with so many transactions has come, at now_us (monotonic, above 0):
 * return the microseconds to let pass before the next pull. pullers: how many
 * may be asking the same peer, this node among them. max_delay_us: the longest
 * that a transaction may be kept for the sake of others, if this node is the only puller.
 */
int64_t		p2p_pace_next(P2pPace *pace, int64_t now_us, uint64_t transactions,
						  uint32_t pullers, int64_t max_delay_us);

#endif							/* P2P_PACE_H */
