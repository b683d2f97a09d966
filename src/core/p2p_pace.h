/*
 * p2p_pace.h
 *	  How long to let transactions gather: an origin before it seals the next batch,
 *	  and a peer before it asks for the next batches.
 */
#ifndef P2P_PACE_H
#define P2P_PACE_H

#include "p2p_types.h"

/* Commits are counted over so long, and the time before it of the same length. */
#define P2P_PACE_WINDOW_US 100000
/* Up to this many commits a second, nothing waits; from that many on, for the whole delay. */
#define P2P_PACE_QUIET 500
#define P2P_PACE_BUSY 2500

/* Zeroed to begin with. All times are microseconds of one clock that goes on evenly. */
typedef struct P2pPace
{
	int64_t		window_us;		/* when the present window began */
	uint64_t	count;			/* commits in it */
	uint64_t	previous;		/* commits in the one before */
} P2pPace;

/* Note commits that have just been read. */
void		p2p_pace_note(P2pPace *pace, int64_t now_us, uint64_t commits);
/* Commits a second, lately. */
uint64_t	p2p_pace_rate(const P2pPace *pace, int64_t now_us);
/* How long to wait before the next look, at most max_us; 0: look at once. */
int64_t		p2p_pace_delay(const P2pPace *pace, int64_t now_us, int64_t max_us);
/*
 * How long after an answer the next pull goes out. pullers: how many may be asking the same
 * peer, this node among them; max_us: the longest delay, if this node is the only one.
 */
int64_t		p2p_pace_pull_delay(const P2pPace *pace, int64_t now_us, uint32_t pullers,
								int64_t max_us);

#endif							/* P2P_PACE_H */
