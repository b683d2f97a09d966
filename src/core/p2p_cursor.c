/*
 * p2p_cursor.c
 *	  Gap tracking: where the contiguous part of an origin's log ends.
 *
 * Batches of an origin come from several peers, late, twice, or with some left
 * out. A log only grows at its end, so one question is asked of each of them:
 * is it the next?
 *
 *	  held:  ... [7..9]  and parts 0, 1 of transaction 10    (seq 9, parts 2)
 *
 *	  DUPLICATE  whatever ends at 9 or before; parts 0 and 1 of 10
 *	  NEXT       part 2 of 10
 *	  GAP        part 3 of 10; whatever begins after 10; and what fits nowhere:
 *	             a batch across 9 and 10, a whole batch that begins with the 10
 *	             of which parts are held, a span that contradicts itself
 *
 * An origin cuts its log into batches once, so an honest one is never asked
 * about the last kind; calling it a gap refuses it without a verdict on who
 * lied. Whether a batch continues the hash chain is the caller's question: it
 * compares the batch's previous hash with the cursor's once started.
 *
 * A log that is not started takes any batch as its first, except in the middle
 * of a large transaction, whose beginning would be missing for ever.
 *
 * Called by whoever appends to a change log: capture for its own, pull for
 * those of others, and recovery when it reads a log from disk. The cursor
 * belongs to one process; no lock.
 */
#include "p2p_cursor.h"

#include <assert.h>
#include <string.h>

static bool span_is_sound(const P2pSpan *span);
static P2pArrival judge_part(const P2pCursor *c, const P2pSpan *span);
static P2pArrival judge_whole(const P2pCursor *c, const P2pSpan *span);

/* Make c the cursor of a log that holds nothing and may begin anywhere. */
void
p2p_cursor_init(P2pCursor *c)
{
	memset(c, 0, sizeof(*c));
}

/* Say whether a batch with this span is the next one of the log, held already, or leaves a gap. */
P2pArrival
p2p_cursor_judge(const P2pCursor *c, const P2pSpan *span)
{
	if (!span_is_sound(span))
		return P2P_ARRIVAL_GAP;
	if (!c->started)
		return span->part == 0 ? P2P_ARRIVAL_NEXT : P2P_ARRIVAL_GAP;
	if (span->last_seq <= c->seq)
		return P2P_ARRIVAL_DUPLICATE;
	return span->partial ? judge_part(c, span) : judge_whole(c, span);
}

/* Say whether span can be that of a batch at all. It comes from a network. */
static bool
span_is_sound(const P2pSpan *span)
{
	if (span->first_seq == 0 || span->last_seq < span->first_seq)
		return false;
	if (!span->partial)
		return span->part == 0 && span->final;
	return span->first_seq == span->last_seq && span->part < UINT32_MAX;
}

/* Judge a part of a transaction that is not complete here. */
static P2pArrival
judge_part(const P2pCursor *c, const P2pSpan *span)
{
	if (span->first_seq != c->seq + 1 || span->part > c->parts)
		return P2P_ARRIVAL_GAP;
	return span->part == c->parts ? P2P_ARRIVAL_NEXT : P2P_ARRIVAL_DUPLICATE;
}

/* Judge a batch of whole transactions of which at least the last is not here. */
static P2pArrival
judge_whole(const P2pCursor *c, const P2pSpan *span)
{
	if (span->first_seq != c->seq + 1 || c->parts != 0)
		return P2P_ARRIVAL_GAP;
	return P2P_ARRIVAL_NEXT;
}

/* Move c over a batch that was judged to be the next; hash is that batch's own. */
void
p2p_cursor_advance(P2pCursor *c, const P2pSpan *span, const uint8_t hash[P2P_HASH_SIZE])
{
	assert(p2p_cursor_judge(c, span) == P2P_ARRIVAL_NEXT);

	if (span->final)
	{
		c->seq = span->last_seq;
		c->parts = 0;
	}
	else
	{
		c->seq = span->first_seq - 1;
		c->parts = span->part + 1;
	}
	c->started = true;
	memcpy(c->hash, hash, P2P_HASH_SIZE);
}
