/*
 * pull_store.c
 *	  The logs of other origins, as gossip writes them: what came goes to apply and to other peers at
 *	  once, and to the disk soon.
 *
 *	  append (all of a reply) -> write: written_seq, apply and relaying begin
 *		-> sync, at once or at SYNC_DELAY_US -> stored_seq
 *
 * stored_seq is durable: acks, freezes and leaving count on that. Two things need not wait for it:
 *
 *	  Relaying	What is written cannot come out differently later, be it durable here or not: its
 *				origin has it, or makes the very same of its WAL (capture_batch.c). Who got it from
 *				here has it; should this node lose it, it pulls it again like anybody.
 *	  Apply		commits a batch of one small transaction, with its bytes in the WAL in front of the
 *				commit (walnote.h, batchnote.c). For anything else its commit waits, with the locks that
 *				it holds; so that is synced at once.
 *
 * So while transactions come one by one, a sync covers those of SYNC_DELAY_US, and no change waits for it;
 * when many come together they share a batch, and that is what syncs are for.
 *
 * If writing or syncing fails, the ERROR ends the worker, and recovery at its next start tells what
 * is there; what is missing and stands in the WAL is put back before anything else is done (pull_refill.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "batchnote.h"
#include "crashpoint.h"
#include "monotonic.h"
#include "pull_internal.h"
#include "walnote.h"

/*
 * How long what apply need not wait for may stay without a sync; as long as at its origin. The node's own state says
 * what is durable: in front of that it is synced anyway (gossip.c).
 */
#define SYNC_DELAY_US 1000000
/* So many that come together are a backlog: for these, too, a sync costs less than copies in the WAL. */
#define MANY_BATCHES 16

static void publish(RpPull *pull, int slot);
static void sync_by(RpPull *pull, int64 at_us);
static void show_written(RpPull *pull);

/*
 * Open a log for writing, which recovers it, and publish where it ends. What was written and not
 * synced before may be gone: rp_pull_refill is to follow.
 */
void
rp_pull_open_log(RpPull *pull, int slot)
{
	PulledLog  *log = &pull->logs[slot];
	MemoryContext old = MemoryContextSwitchTo(pull->context);
	RpLogEnd	end;

	log->writer = rp_log_open_writer(MyDatabaseId, &log->origin, false, &end);
	log->cursor = end.cursor;
	log->stamp = end.last_stamp;
	log->oldest_seq = end.oldest_seq;
	log->unwritten = false;
	log->dirty = false;
	MemoryContextSwitchTo(old);
	rp_batch_notes_stop(pull->node, slot);
	SpinLockAcquire(&pull->node->vector_lock);
	pull->node->members[slot].oldest_seq = 0;
	SpinLockRelease(&pull->node->vector_lock);
	publish(pull, slot);
}

/* Publish where a log ends; all of it is durable. */
static void
publish(RpPull *pull, int slot)
{
	const PulledLog *log = &pull->logs[slot];
	RpMember   *member = &pull->node->members[slot];

	SpinLockAcquire(&pull->node->vector_lock);
	member->stored_seq = log->cursor.seq;
	member->durable_seq = log->cursor.seq;
	member->written_seq = log->cursor.seq;
	member->written_parts = log->cursor.parts;
	member->written_stamp = log->stamp;
	/* Trimming moves it on in shared memory only. */
	member->oldest_seq = Max(member->oldest_seq, log->oldest_seq);
	SpinLockRelease(&pull->node->vector_lock);
}

/* Wake whoever waits for what was published: more of these logs. */
void
rp_pull_announce(RpPull *pull, const RpSlotSet *grown)
{
	rp_pollers_wake(pull->node, grown);
	rp_worker_wake(pull->node, RP_WORKER_APPLY);
}

/* Append a verified batch, verbatim. */
void
rp_pull_append(RpPull *pull, PulledLog *log, const P2pBatch *batch, const P2pBlock *bytes)
{
	rp_log_append_batch(log->writer, batch, bytes->bytes, batch->header_length,
						bytes->bytes + batch->header_length, batch->body_length);
	if (log->oldest_seq == 0)
		log->oldest_seq = batch->span.first_seq;
	p2p_cursor_advance(&log->cursor, &batch->span, batch->hash);
	if (batch->span.final)
		log->stamp = batch->last_stamp;
	log->unwritten = true;
	log->dirty = true;
	pull->unwritten++;
	sync_by(pull, rp_wal_note_takes(batch) && pull->unwritten < MANY_BATCHES ?
			rp_monotonic_us() + SYNC_DELAY_US : 1);
}

/* Have what is dirty synced at this time, or before. */
static void
sync_by(RpPull *pull, int64 at_us)
{
	pull->sync_due_us = pull->sync_due_us == 0 ? at_us : Min(pull->sync_due_us, at_us);
}

void
rp_pull_store(RpPull *pull)
{
	show_written(pull);
	if (pull->sync_due_us != 0 && rp_monotonic_us() >= pull->sync_due_us)
		rp_pull_commit(pull);
}

int64
rp_pull_due_us(const RpPull *pull)
{
	return pull->sync_due_us;
}

/* Let apply begin with what was appended, and relay it. */
static void
show_written(RpPull *pull)
{
	RpSlotSet	grown = {0};
	bool		any = false;

	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];
		RpMember   *member = &pull->node->members[slot];

		if (log->writer == NULL || !log->unwritten)
			continue;
		RP_CRASH_POINT("gossip_after_append");
		rp_log_write(log->writer);
		log->unwritten = false;
		SpinLockAcquire(&pull->node->vector_lock);
		member->written_seq = log->cursor.seq;
		member->written_parts = log->cursor.parts;
		member->written_stamp = log->stamp;
		member->oldest_seq = Max(member->oldest_seq, log->oldest_seq);
		SpinLockRelease(&pull->node->vector_lock);
		rp_slots_add(&grown, slot);
		any = true;
	}
	if (!any)
		return;
	pull->unwritten = 0;
	rp_pull_announce(pull, &grown);
	RP_CRASH_POINT("gossip_after_write");
}

void
rp_pull_commit(RpPull *pull)
{
	bool		any = false;

	show_written(pull);
	pull->sync_due_us = 0;
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];

		if (log->writer == NULL || !log->dirty)
			continue;
		rp_log_sync(log->writer);
		log->dirty = false;
		pg_atomic_fetch_add_u64(&pull->node->stats.log_syncs, 1);
		RP_CRASH_POINT("gossip_after_sync");
		publish(pull, slot);
		any = true;
	}
	if (any)
		rp_worker_wake(pull->node, RP_WORKER_APPLY);	/* it may wait for it */
}

/* Have all logs make room for what comes next. */
void
rp_pull_prepare(RpPull *pull)
{
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		if (pull->logs[slot].writer != NULL)
			rp_log_prepare(pull->logs[slot].writer);
	}
}

/*
 * Close and open again the logs that a reader has marked: opening cuts them
 * before the damage. What is published goes back with them; peers that have
 * heard more only ask somebody else.
 */
void
rp_pull_repair(RpPull *pull)
{
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];
		RpSlotSet	reopened = {0};

		if (log->writer == NULL || !rp_log_is_suspect(MyDatabaseId, &log->origin))
			continue;
		ereport(LOG,
				(errmsg("change log of origin \"%s\" is damaged, and is checked as a whole",
						log->name),
				 errdetail("What is cut off is pulled from a peer again.")));
		rp_log_close_writer(log->writer);
		log->writer = NULL;
		rp_pull_open_log(pull, slot);
		pull->stale_us = rp_monotonic_us();
		rp_slots_add(&reopened, slot);
		rp_pull_refill(pull, &reopened);
		rp_pull_announce(pull, &reopened);
	}
}
