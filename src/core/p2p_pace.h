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
/* Up to this many commits a second, nothing waits; from that many, perhaps the whole delay. */
#define P2P_PACE_QUIET 500
#define P2P_PACE_BUSY 2500
/* From so many commits a second on each batch waits so long at least, however idle the machine. */
#define P2P_PACE_BRISK 1000
#define P2P_PACE_SHORT_US 1000
/* Who comes no later than this has the processor for the asking; who comes so late queues for it. */
#define P2P_PACE_PROMPT_US 125
#define P2P_PACE_LATE_US 175
/* Who finds so many commits at once is late, too. */
#define P2P_PACE_BEHIND 1000

/* Zeroed to begin with. All times are microseconds of one clock that goes on evenly. */
typedef struct P2pPace
{
	int64_t		window_us;		/* when the present window began */
	uint64_t	count;			/* commits in it */
	uint64_t	previous;		/* commits in the one before */
	int64_t		late_us;		/* by how much rests were overstayed, summed up with fading weights */
} P2pPace;

/* Note commits that have just been read. */
void		p2p_pace_note(P2pPace *pace, int64_t now_us, uint64_t commits);
/* Note by how much a rest became longer than it should have been. */
void		p2p_pace_note_late(P2pPace *pace, int64_t late_us);
/* Commits a second, lately. */
uint64_t	p2p_pace_rate(const P2pPace *pace, int64_t now_us);
/* How long to wait before the next look, at most max_us; 0: look at once. */
int64_t		p2p_pace_delay(const P2pPace *pace, int64_t now_us, int64_t max_us);
/*
 * How long after an answer the next pull goes out. batch: transactions in each batch of the
 * answer; pullers: how many may be asking the same peer, this node among them; max_us: the longest
 * delay for two of them.
 */
int64_t		p2p_pace_pull_delay(const P2pPace *pace, int64_t now_us, uint64_t batch,
								uint32_t pullers, int64_t max_us);

#endif							/* P2P_PACE_H */
