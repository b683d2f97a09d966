/*
 * capture.c
 *	  The capture worker: reads this server's WAL once, and turns what was
 *	  committed in this database into this node's change log.
 *
 *	  rest --> read records up to the flush pointer --> seal, flush, publish --> rest
 *			   |
 *			   commit record: parse, decode (decode.c writes the body), account
 *
 * One slot, one decoding, in this process, however many peers there are. Every
 * commit record of the database is looked at in WAL order, before the server's
 * decoding sees it:
 *
 *	  local			 gets the next seq and a stamp if it changed a replicated table;
 *					 its deps are the captured vector at this place of the WAL
 *	  remote (ours)	 applied here by apply; origin_lsn is its seq, origin_timestamp
 *					 its stamp: moves the captured vector, and is in the version index
 *	  restated		 a displaced row has come back (displaced_follow.c) under its old version:
 *					 in the version index, and nothing else. One of another node's looks
 *					 like a remote one, with a seq that moves no vector any more
 *	  copied		 written by a join: neither; its rows have their versions elsewhere
 *
 * A transaction under a replication origin that is not ours is a local one, with
 * the time of its commit record.
 *
 * The floor, which stamps must exceed, is taken from the WAL as well: from the position that
 * reading begins at, and from apply's notes (walnote.h), remote commits and copies behind it. So a
 * stamp is a function of the WAL: who decodes it again gives it again. For each key it
 * still holds that who overwrote, or could not see, a version that this node applied before has the
 * greater stamp. Say apply has noted T's stamp, and only then looks. A local U whose commit record
 * stands behind that note is stamped above T. One in front of it has inserted its commit record
 * before anything was looked up: its row or its delete is there for the look-up, or still locked,
 * which is waited for; then T has met U and the two are compared, once capture has come by,
 * whatever the stamps are.
 *
 *	 groups, early ones	 every member, and an attempt that is undone later, notes before it looks
 *	 what apply undid	 its note stays: the floor is higher than it had to be, for everybody
 *						 who reads this WAL
 *	 rows that return	 (displaced_follow.c) have versions that were noted when they came first
 *	 what is reverted	 is written anew, like by any client
 *	 tracked tables		 look and lock like others; sets hold what has been captured, and who is
 *						 not is waited for
 *	 joins				 note the greatest stamp that a copied row may have before the copy counts
 *	 prepared ones		 count from COMMIT PREPARED on, and hold their locks until then
 *
 * The captured vector is a member's required_seq at least: what a joiner's copy
 * contains counts as applied. The copy's commit comes, in WAL order, before all
 * that could depend on it; a transaction before it that names more than it saw
 * is only waited with a little longer.
 *
 * Wake-ups: committing backends publish their commit's end, and set the latch if we
 * listen (RpNode.capture_listens); an asynchronous commit is flushed from here. When
 * commits come fast (core/p2p_pace.h) we don't listen, but rest after each batch, for a
 * millisecond or, while clients want the processors, up to replp2p.batch_delay, so that many
 * share the next one. Who waits for
 * us (barrier.c) sets the latch himself, which ends any rest. WAL without commits of ours
 * (other databases, running-transaction records) sets no latch: a timer of a second
 * reads it, so that the slot does not hold it back; one of 10 ms while there is much, so
 * that little of a large transaction is left to be read when it commits.
 *
 * captured_lsn promises that every commit up to it is in the log, the version
 * index and the vectors; so it is published only when nothing is unsealed.
 * captured_below is an xid read before the insert position that captured_lsn
 * then has to reach: who is below it has written its commit record before.
 *
 * The slot is confirmed every few seconds or 16 MB, up to a durable position of
 * the log and after the version index was synced; and when other origins' batches that stand in
 * the WAL before that place are durable in their logs (batchnote.c). Its restart_lsn follows by
 * what decoding has proposed.
 *
 * Any ERROR ends the worker, and the launcher starts it again: it goes on at the
 * log's last position. Seqs and stamps that were given since are given again; who has seen
 * them finds them the same (capture_batch.c).
 *
 * While it holds the slot this process runs no query and writes no table: VACUUM
 * does not look at its snapshots.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/decode.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/spin.h"
#include "utils/memutils.h"

#include "capture.h"
#include "crashpoint.h"
#include "monotonic.h"
#include "settings.h"
#include "versions.h"
#include "walnote.h"
#include "walread.h"
#include "worker.h"

#define TIMER_MS 1000
/* After so much WAL there will be more: a large transaction is read while it runs. */
#define MUCH_WAL ((XLogRecPtr) 256 * 1024)
#define MUCH_TIMER_MS 10
/* What the system can wait for. */
#define NAP_MIN_US 1000
/* A position is written after so long, or so many remote commits, if no batch brings one. */
#define POSITION_INTERVAL_MS 1000
#define POSITION_REMOTE_COMMITS 1000
/* The slot is confirmed after so long, or so much WAL. */
#define CONFIRM_INTERVAL_MS 3000
#define CONFIRM_BYTES ((XLogRecPtr) 16 * 1024 * 1024)

static void sync_at_end(int code, Datum arg);
static RpCapture *capture_create(RpNode *node);
static void error_place(void *arg);
static XLogRecPtr capture_round(RpCapture *capture);
static void rest(RpCapture *capture, XLogRecPtr limit, bool much);
static void nap(RpCapture *capture, long ms);
static XLogRecPtr flush_target(RpCapture *capture);
static void below_note(RpCapture *capture);
static XLogRecPtr insert_end(void);
static void read_up_to(RpCapture *capture, XLogRecPtr limit);
static void record_process(RpCapture *capture);
static bool commit_parse(XLogReaderState *reader, RpCommitRecord *commit);
static void commit_account(RpCapture *capture, XLogRecPtr end);
static void commit_refill(RpCapture *capture, int slot);
static void remote_versions_put(RpCapture *capture, int slot);
static void commit_remote(RpCapture *capture, int slot);
static void commit_local(RpCapture *capture, uint64 seq_before);
static void pending_add(RpCapture *capture, uint64 xid);
static void start_reached(RpCapture *capture);
static bool batch_is_full(RpCapture *capture);
static bool position_is_due(RpCapture *capture);
static void confirm_if_due(RpCapture *capture);

/* The worker. */
void
rp_capture_main(Datum dboid)
{
	RpNode	   *node = rp_worker_open(dboid, RP_WORKER_CAPTURE);
	RpCapture  *capture = capture_create(node);
	ErrorContextCallback context = {error_context_stack, error_place, capture};

	error_context_stack = &context;
	rp_capture_open(capture);
	before_shmem_exit(sync_at_end, PointerGetDatum(capture));
	for (;;)
	{
		XLogRecPtr	before = capture->decoding->reader->EndRecPtr;
		XLogRecPtr	limit = capture_round(capture);

		confirm_if_due(capture);
		MemoryContextReset(capture->step_memory);
		pgstat_report_stat(false);
		rest(capture, limit, limit - before >= MUCH_WAL);
	}
}

/*
 * The worker ends: make durable what is published, if nothing else is in work. Otherwise it is made
 * again, as after a crash.
 */
static void
sync_at_end(int code, Datum arg)
{
	RpCapture  *capture = (RpCapture *) DatumGetPointer(arg);

	(void) code;
	if (capture->unsynced > 0 && !capture->tx.open && !capture->appended &&
		capture->body.first_seq == 0 && rp_log_is_sound(capture->writer))
		rp_capture_sync(capture);
}

/* Make this process's state. */
static RpCapture *
capture_create(RpNode *node)
{
	RpCapture  *capture;
	MemoryContext memory = AllocSetContextCreate(TopMemoryContext, "replp2p capture",
												 ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(memory);
	capture = palloc0(sizeof(RpCapture));
	capture->node = node;
	capture->memory = memory;
	capture->step_memory = AllocSetContextCreate(memory, "replp2p capture step",
												 ALLOCSET_DEFAULT_SIZES);
	capture->change_memory = AllocSetContextCreate(memory, "replp2p capture change",
												   ALLOCSET_DEFAULT_SIZES);
	capture->owner = ResourceOwnerCreate(NULL, "replp2p capture");
	CurrentResourceOwner = capture->owner;
	capture->slot_of_origin = palloc(PG_UINT16_MAX + 1);
	memset(capture->slot_of_origin, RP_NO_SLOT, PG_UINT16_MAX + 1);
	capture->published_seq = PG_UINT64_MAX;
	rp_identity_read(node->dboid, &capture->identity);
	rp_versions_attach(node->dboid);
	rp_body_init(capture);
	return capture;
}

/* Say in errors where we were. */
static void
error_place(void *arg)
{
	RpCapture  *capture = arg;

	if (capture->tx.open)
		errcontext("capturing local transaction %u as sequence " UINT64_FORMAT " of this node",
				   capture->commit.xid, capture->tx.begin.seq);
	if (capture->decoding != NULL)
		errcontext("capturing changes from WAL at %X/%X, after sequence " UINT64_FORMAT " of this node",
				   LSN_FORMAT_ARGS(capture->decoding->reader->ReadRecPtr), capture->seq);
}

/* Read what is there and let others know; returns up to where that was. */
static XLogRecPtr
capture_round(RpCapture *capture)
{
	XLogRecPtr	limit;
	uint64		commits = capture->commits;

	rp_capture_members_refresh(capture);
	below_note(capture);
	limit = flush_target(capture);
	read_up_to(capture, limit);
	if (capture->body.first_seq != 0 || capture->appended || position_is_due(capture))
		rp_capture_flush(capture);
	else
		rp_capture_publish(capture);
	if (!capture->started)
		rp_capture_started(capture);	/* what was decoded before the start was flushed then */
	p2p_pace_note(&capture->pace, rp_monotonic_us(), capture->commits - commits);
	return limit;
}

/*
 * Wait for something to read behind limit. While commits come fast, for the batch's sake: so long,
 * whatever comes, and no commit wakes us; who waits for us sets the latch himself, and we go on.
 * Else until a commit sets the latch: having said so, we look whether one has come before.
 */
static void
rest(RpCapture *capture, XLogRecPtr limit, bool much)
{
	RpNode	   *node = capture->node;
	int			timeout_ms = much ? MUCH_TIMER_MS : TIMER_MS;
	int64		delay_us = p2p_pace_delay(&capture->pace, rp_monotonic_us(),
										  rp_batch_delay_ms * INT64CONST(1000));

	if (delay_us >= NAP_MIN_US)
	{
		nap(capture, (long) (delay_us / 1000));
		return;
	}
	pg_atomic_write_u32(&node->capture_listens, 1);
	pg_memory_barrier();
	if (pg_atomic_read_u64(&node->commit_lsn) > limit)
		rp_worker_check(node, RP_WORKER_CAPTURE);
	else
		rp_worker_wait(node, RP_WORKER_CAPTURE, timeout_ms, PG_WAIT_EXTENSION);
	pg_atomic_write_u32(&node->capture_listens, 0);
}

/* Wait so long, unless somebody sets the latch; note how late we are then. */
static void
nap(RpCapture *capture, long ms)
{
	int64		until = rp_monotonic_us() + ms * INT64CONST(1000);
	int64		late_us;

	rp_worker_wait(capture->node, RP_WORKER_CAPTURE, ms, PG_WAIT_EXTENSION);
	late_us = rp_monotonic_us() - until;
	if (late_us >= 0)
		p2p_pace_note_late(&capture->pace, late_us);
}

/* Return how far the WAL is flushed, after flushing what was committed asynchronously. */
static XLogRecPtr
flush_target(RpCapture *capture)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	XLogRecPtr	committed = pg_atomic_read_u64(&capture->node->commit_lsn);

	if (committed > flushed)
	{
		XLogFlush(committed);
		flushed = GetFlushRecPtr(NULL);
	}
	return flushed;
}

/*
 * Read the oldest running xid, and then the end of the WAL: when captured_lsn
 * has come there, everything committed below the xid is captured. One pair at a
 * time, until it is reached.
 */
static void
below_note(RpCapture *capture)
{
	if (TransactionIdIsValid(capture->below_xid))
		return;
	capture->below_xid = GetOldestActiveTransactionId();
	capture->below_lsn = insert_end();
}

/* End of the last record inserted; at a page boundary the server names the first byte after a header. */
static XLogRecPtr
insert_end(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		return lsn - SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return lsn - SizeOfXLogShortPHD;
	return lsn;
}

/* Read and process all records up to limit. */
static void
read_up_to(RpCapture *capture, XLogRecPtr limit)
{
	XLogReaderState *reader = capture->decoding->reader;
	uint64		records = 0;

	rp_wal_read_limit(limit);
	while (reader->EndRecPtr < limit && rp_wal_record_read(reader, capture->memory))
	{
		record_process(capture);
		if (++records % RP_RECORDS_PER_CHECK == 0)
			rp_worker_check(capture->node, RP_WORKER_CAPTURE);
	}
	if (!capture->caught_up && reader->EndRecPtr >= capture->start_lsn)
		start_reached(capture);		/* nothing has come since */
}

/* Process the record under the reader. */
static void
record_process(RpCapture *capture)
{
	XLogReaderState *reader = capture->decoding->reader;
	XLogRecPtr	end = reader->EndRecPtr;
	uint64		seq_before = capture->seq;
	RpWalNote	note;
	bool		is_commit;

	if (!capture->caught_up && reader->ReadRecPtr >= capture->start_lsn)
		start_reached(capture);
	(void) rp_group_note_read(reader, &capture->group);
	if (capture->caught_up && rp_wal_note_parse(reader, &note) && note.kind == RP_WAL_NOTE_FLOOR)
		rp_capture_floor_raise(capture, note.floor);
	is_commit = commit_parse(reader, &capture->commit);
	LogicalDecodingProcessRecord(capture->decoding, reader);
	/* The server's transaction around decoding, if there was one, has changed both. */
	CurrentResourceOwner = capture->owner;
	MemoryContextSwitchTo(capture->step_memory);
	if (is_commit)
	{
		capture->commits++;
		if (capture->seq != seq_before)
			commit_local(capture, seq_before);
		else
			commit_account(capture, end);
		if (capture->commit.changes_catalogs)
			capture->catalogs_lsn = end;
		capture->commit.known = false;
	}
	if (!capture->caught_up)
		return;
	capture->done_lsn = end;
	if (is_commit && (capture->appended || (capture->body.first_seq != 0 && batch_is_full(capture))))
		rp_capture_flush(capture);
}

/* Parse the record under the reader into *commit, if it is a commit in this database. */
static bool
commit_parse(XLogReaderState *reader, RpCommitRecord *commit)
{
	xl_xact_parsed_commit parsed;
	uint8		info = XLogRecGetInfo(reader) & XLOG_XACT_OPMASK;

	commit->known = false;
	if (XLogRecGetRmid(reader) != RM_XACT_ID ||
		(info != XLOG_XACT_COMMIT && info != XLOG_XACT_COMMIT_PREPARED))
		return false;
	ParseCommitRecord(XLogRecGetInfo(reader), (xl_xact_commit *) XLogRecGetData(reader), &parsed);
	if (parsed.dbId != MyDatabaseId)
		return false;

	commit->known = true;
	commit->xid = TransactionIdIsValid(parsed.twophase_xid) ? parsed.twophase_xid :
		XLogRecGetXid(reader);
	commit->full_xid = rp_versions_full_xid(commit->xid);
	commit->changes_catalogs = parsed.nmsgs > 0;
	commit->nsubxacts = parsed.nsubxacts;
	commit->subxacts = parsed.subxacts;
	commit->commit_time = parsed.xact_time;
	commit->origin = XLogRecGetOrigin(reader);
	commit->origin_lsn = InvalidXLogRecPtr;
	commit->origin_timestamp = 0;
	if (parsed.xinfo & XACT_XINFO_HAS_ORIGIN)
	{
		commit->origin_lsn = parsed.origin_lsn;
		commit->origin_timestamp = parsed.origin_timestamp;
	}
	return true;
}

void
rp_capture_floor_raise(RpCapture *capture, P2pStamp floor)
{
	RpNode	   *node = capture->node;

	if (floor <= capture->floor)
		return;
	capture->floor = floor;
	SpinLockAcquire(&node->vector_lock);
	node->floor = Max(node->floor, floor);
	SpinLockRelease(&node->vector_lock);
}

/* Account for a commit that was none of our transactions. */
static void
commit_account(RpCapture *capture, XLogRecPtr end)
{
	const RpCommitRecord *commit = &capture->commit;
	int			slot = rp_capture_origin_slot(capture, commit->origin);

	if (end <= capture->start_lsn)
	{
		if (end > capture->refill_lsn && commit->origin != RP_COPY_ORIGIN)
			commit_refill(capture, slot);
		return;
	}
	if (commit->origin == RP_COPY_ORIGIN)
		rp_capture_floor_raise(capture, (P2pStamp) commit->origin_lsn);
	if (slot > 0)
		commit_remote(capture, slot);
	else if (slot == RP_SELF)
		rp_capture_versions_put(commit, RP_SELF, commit->origin_lsn, commit->origin_timestamp);
}

/* A commit before the start position: it has been accounted for, its version entries may be lost. */
static void
commit_refill(RpCapture *capture, int slot)
{
	const RpCommitRecord *commit = &capture->commit;

	if (slot >= 0)
		remote_versions_put(capture, slot);
	else
		rp_capture_refill_note(capture, commit);
}

/* Put the version entries of a commit of another node's: of one transaction, or of a group. */
static void
remote_versions_put(RpCapture *capture, int slot)
{
	const RpCommitRecord *commit = &capture->commit;
	const RpGroupNote *group = &capture->group;
	RpVersionEntry entry = {(uint16) slot, commit->origin_lsn, commit->origin_timestamp};

	if (group->n == 0 || group->xid != commit->xid ||
		group->first_seq + group->n - 1 != commit->origin_lsn)
	{
		rp_capture_versions_put(commit, slot, commit->origin_lsn, commit->origin_timestamp);
		return;
	}
	rp_versions_put(commit->full_xid, &entry);
	for (int i = 0; i < commit->nsubxacts; i++)
	{
		int			member = rp_group_note_find(group, commit->subxacts[i]);

		if (member < 0)
			elog(ERROR, "subtransaction %u of a group belongs to no member", commit->subxacts[i]);
		entry.seq = group->first_seq + member;
		entry.stamp = group->members[member].stamp;
		rp_versions_put(commit->full_xid + (int32) (commit->subxacts[i] - commit->xid), &entry);
	}
}

/* A transaction of another node that apply has committed here. */
static void
commit_remote(RpCapture *capture, int slot)
{
	const RpCommitRecord *commit = &capture->commit;

	rp_capture_floor_raise(capture, commit->origin_timestamp);
	remote_versions_put(capture, slot);
	rp_capture_vector_raise(capture, slot, commit->origin_lsn);
	capture->remote_commits++;
}

/* A transaction of this node, which decoding has just finished. */
static void
commit_local(RpCapture *capture, uint64 seq_before)
{
	const RpCommitRecord *commit = &capture->commit;

	if (capture->seq != seq_before + 1 || !capture->caught_up)
		elog(ERROR, "sequence " UINT64_FORMAT " was given out of order", capture->seq);
	pending_add(capture, commit->full_xid);
	for (int i = 0; i < commit->nsubxacts; i++)
		pending_add(capture, commit->full_xid + (int32) (commit->subxacts[i] - commit->xid));
}

/* Remember a version entry of the last transaction until that is durable. */
static void
pending_add(RpCapture *capture, uint64 xid)
{
	RpPendingVersion *pending;

	if (capture->npending == capture->max_pending)
	{
		capture->max_pending = Max(1024, capture->max_pending * 2);
		if (capture->pending == NULL)
			capture->pending = MemoryContextAllocHuge(capture->memory, capture->max_pending *
													  sizeof(RpPendingVersion));
		else
			capture->pending = repalloc_huge(capture->pending, capture->max_pending *
											 sizeof(RpPendingVersion));
	}
	pending = &capture->pending[capture->npending++];
	pending->xid = xid;
	pending->seq = capture->seq;
	pending->stamp = capture->stamp;
}

/* Put version entries for a transaction and its subtransactions. */
void
rp_capture_versions_put(const RpCommitRecord *commit, uint16 slot, uint64 seq, P2pStamp stamp)
{
	RpVersionEntry entry = {slot, seq, stamp};

	rp_versions_put(commit->full_xid, &entry);
	for (int i = 0; i < commit->nsubxacts; i++)
		rp_versions_put(commit->full_xid + (int32) (commit->subxacts[i] - commit->xid), &entry);
}

/* Slot of a replication origin; RP_SELF: versions of this node restated; -1: it is none of ours. */
int
rp_capture_origin_slot(RpCapture *capture, RepOriginId origin)
{
	int			slot = capture->slot_of_origin[origin];

	if (slot != RP_NO_SLOT)
		return slot;
	if (origin == InvalidRepOriginId || origin == RP_COPY_ORIGIN)
		return -1;
	/* Apply may have begun with a member since we last looked. */
	slot = rp_member_by_roident(capture->node, origin);
	if (slot < 0)
		capture->repeatable = false;	/* it may become the origin of a member */
	return slot;
}

/* Take over the members from shared memory if they have changed. */
void
rp_capture_members_refresh(RpCapture *capture)
{
	RpNode	   *node = capture->node;
	uint64		required[RP_MAX_MEMBERS] = {0};
	bool		changed;

	LWLockAcquire(&node->lock, LW_SHARED);
	changed = capture->generation != node->loaded_generation ||
		capture->nmembers != node->nmembers;
	capture->active = node->status == RP_NODE_ACTIVE;
	if (changed)
	{
		capture->generation = node->loaded_generation;
		capture->nmembers = node->nmembers;
		for (int slot = RP_SELF; slot < node->nmembers; slot++)
		{
			const RpMember *member = &node->members[slot];

			if (member->status == RP_MEMBER_FREE)
				continue;
			capture->origins[slot] = member->origin;
			if (member->roident != InvalidRepOriginId)
				capture->slot_of_origin[member->roident] = slot;
		}
		SpinLockAcquire(&node->vector_lock);
		for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
			required[slot] = node->members[slot].required_seq;
		SpinLockRelease(&node->vector_lock);
	}
	LWLockRelease(&node->lock);

	if (changed || !capture->active)
		capture->repeatable = false;	/* until a position has the vector as it is now */
	for (int slot = RP_SELF + 1; changed && slot < capture->nmembers; slot++)
		rp_capture_vector_raise(capture, slot, required[slot]);
}

/* Raise the captured vector; a new origin in it needs a new body. */
void
rp_capture_vector_raise(RpCapture *capture, int slot, uint64 seq)
{
	if (slot >= capture->nmembers)
		rp_capture_members_refresh(capture);
	if (seq <= capture->captured[slot])
		return;
	if (!capture->in_vector[slot])
	{
		rp_capture_seal(capture);
		capture->in_vector[slot] = true;
	}
	capture->captured[slot] = seq;
	if (!p2p_vector_set(&capture->vector, &capture->origins[slot], seq))
		elog(ERROR, "too many members in the captured vector");
}

/* The start position is reached: from here on everything is new. */
static void
start_reached(RpCapture *capture)
{
	RpNode	   *node = capture->node;
	MemoryContext old = MemoryContextSwitchTo(capture->step_memory);

	rp_capture_refill_finish(capture);
	capture->caught_up = true;
	SpinLockAcquire(&node->vector_lock);
	node->confirmed_lsn = capture->confirmed_lsn;
	SpinLockRelease(&node->vector_lock);
	if (XLogRecPtrIsInvalid(capture->synced_lsn))
		rp_capture_flush(capture);
	else
		rp_capture_publish(capture);

	SpinLockAcquire(&node->vector_lock);
	node->capture_ready = true;
	SpinLockRelease(&node->vector_lock);
	ConditionVariableBroadcast(&node->status_cv);
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
	{
		if (kind != RP_WORKER_CAPTURE)
			rp_worker_wake(node, kind);
	}
	MemoryContextSwitchTo(old);
}

/* Has so much time passed since then? By a clock that nobody sets. */
static bool
time_is_up(int64 since_us, int ms)
{
	return rp_monotonic_us() - since_us >= ms * INT64CONST(1000);
}

/* Is it time to seal the body, though there is more to read? */
static bool
batch_is_full(RpCapture *capture)
{
	const RpBody *body = &capture->body;

	/* alone, as it was if it was published before it was durable */
	if (!capture->started)
		return true;
	return body->writer.length >= (size_t) rp_batch_max_kb * 1024 ||
		body->nrelations >= RP_BODY_RELATIONS_SOFT ||
		time_is_up(body->since_us, rp_batch_delay_ms);
}

/* Is it time for a position that comes with no batch? */
static bool
position_is_due(RpCapture *capture)
{
	if (capture->done_lsn == capture->synced_lsn)
		return false;
	return capture->remote_commits >= POSITION_REMOTE_COMMITS ||
		time_is_up(capture->synced_us, POSITION_INTERVAL_MS) || rp_capture_sync_is_due(capture);
}

/* Is it time to let the slot go on? */
static bool
confirm_is_due(const RpCapture *capture)
{
	return capture->synced_lsn > capture->confirmed_lsn &&
		(capture->synced_lsn - capture->confirmed_lsn >= CONFIRM_BYTES ||
		 time_is_up(capture->confirmed_us, CONFIRM_INTERVAL_MS));
}

/*
 * Let the slot go up to the log's last durable position, now and then; as soon as no log needs
 * what is in the WAL before it.
 */
static void
confirm_if_due(RpCapture *capture)
{
	RpNode	   *node = capture->node;

	if (XLogRecPtrIsInvalid(capture->confirm_lsn) && confirm_is_due(capture))
	{
		capture->confirm_lsn = capture->synced_lsn;
		rp_batch_notes_mark(node, &capture->confirm_mark);
	}
	if (XLogRecPtrIsInvalid(capture->confirm_lsn) ||
		!rp_batch_notes_may_go(node, &capture->confirm_mark))
		return;

	rp_versions_sync();
	LogicalConfirmReceivedLocation(capture->confirm_lsn);
	ReplicationSlotMarkDirty();
	ReplicationSlotSave();
	ReplicationSlotsComputeRequiredLSN();
	RP_CRASH_POINT("capture_after_confirm");
	capture->confirmed_lsn = capture->confirm_lsn;
	capture->confirm_lsn = InvalidXLogRecPtr;
	capture->confirmed_us = rp_monotonic_us();
	SpinLockAcquire(&node->vector_lock);
	node->confirmed_lsn = capture->confirmed_lsn;
	SpinLockRelease(&node->vector_lock);
}
