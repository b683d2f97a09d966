/*
 * pull_refill.c
 *	  Putting back what the WAL has noted of a log, and the log has lost.
 *
 * A log that is opened ends where the last sync left it, at least. What was written behind
 * that may be gone, after a failure of the machine or of a sync; and apply may have committed from
 * it, with the batches in the WAL (batchnote.c says why they are all there, and are kept).
 *
 *	  log     ... 9 10            as recovered
 *	  WAL         10 11 12 14     noted, in the order of their commits
 *	  log     ... 9 10 11 12      not 14: 13 was large, so its commit waited for the sync. If
 *								  the log has lost that, a disk is damaged
 *
 * One pass over the WAL serves all logs. A note is believed as little as a reply: its batch is
 * taken if it comes next, continues the hash chain, and has its origin's signature. An empty log
 * takes the origin's first batch only: where a joined node's log may begin is said by more than
 * its tables (p2p_member.c). Whatever else is missing is pulled from peers, as ever.
 *
 * Gossip does it before it says or takes anything, so that nobody sees the gap: no freeze is told
 * (evict.c), nothing is pulled, and after a start of the server apply has not begun.
 */
#include "postgres.h"

#include "batchnote.h"
#include "pull_internal.h"

/* The pass at hand. */
typedef struct Refill
{
	RpPull	   *pull;
	uint64		batches;		/* put back */
} Refill;

static bool is_wanted(const RpPull *pull, const RpSlotSet *opened);
static void take_noted(const void *bytes, size_t length, void *arg);

/* Put back what logs that were just opened lack. */
void
rp_pull_refill(RpPull *pull, const RpSlotSet *opened)
{
	Refill		refill = {pull, 0};

	if (is_wanted(pull, opened))
	{
		rp_batch_notes_read(pull->node, take_noted, &refill);
		rp_pull_commit(pull);
	}
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		if (rp_slots_has(opened, slot))
			rp_batch_notes_are_back(pull->node, slot, pull->logs[slot].cursor.seq);
	}
	rp_batch_notes_are_known(pull->node);
	if (refill.batches > 0)
		ereport(LOG,
				(errmsg_plural("put %llu batch from the WAL back into its change log",
							   "put %llu batches from the WAL back into their change logs",
							   (unsigned long) refill.batches,
							   (unsigned long long) refill.batches)));
}

/* May the WAL have anything for one of these logs? */
static bool
is_wanted(const RpPull *pull, const RpSlotSet *opened)
{
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		if (rp_slots_has(opened, slot) &&
			rp_batch_notes_are_wanted(pull->node, slot, pull->logs[slot].cursor.seq))
			return true;
	}
	return false;
}

/* Append a batch that was noted, if it is the next one of a log. */
static void
take_noted(const void *bytes, size_t length, void *arg)
{
	Refill	   *refill = arg;
	RpPull	   *pull = refill->pull;
	P2pBlock	block = {bytes, length};
	P2pBatch	batch;
	PulledLog  *log;
	int			slot;

	if (p2p_batch_parse(bytes, length, &batch) != P2P_OK)
		return;
	slot = rp_member_by_origin(pull->node, &batch.origin);
	if (slot <= RP_SELF || slot >= pull->nslots)
		return;
	log = &pull->logs[slot];
	if (log->writer == NULL || rp_pull_is_complete(log) ||
		(!log->cursor.started && batch.span.first_seq != 1) ||
		p2p_cursor_judge(&log->cursor, &batch.span) != P2P_ARRIVAL_NEXT ||
		p2p_batch_verify(&batch, bytes, &pull->me->group, log->public_key) != P2P_OK ||
		rp_pull_judge_place(log, &log->cursor, &batch) != NULL)
		return;
	rp_pull_append(pull, log, &batch, &block);
	refill->batches++;
}
