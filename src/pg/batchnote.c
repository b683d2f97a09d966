/*
 * batchnote.c
 *	  Batches that apply commits from before the log has them durably: who has
 *	  noted what in the WAL, and who may forget it.
 *
 * A batch that gossip has written is applied while it is being synced. Were apply to commit and
 * the machine to fail, the WAL might have the transaction and the log not: applied here,
 * acknowledged, and perhaps in no log of anybody who is left. So before such a commit the batch
 * itself goes into the WAL (walnote.h), which is durable in its order:
 *
 *	  WAL     ... | note 11 | commit 11 | note 12 | commit 12 | ...
 *	  log     ... 9 10 | 11 12 ~~~     behind the bar: written, not durable
 *
 * What is applied durably is in the log, or stands as a note in WAL that is kept. Four take part,
 * and meet in shared memory:
 *
 *	  apply		notes a batch (noted_seq), then commits
 *	  gossip	opens a log, after a crash or its own failure: bytes that were written and
 *				not synced may be gone. It reads the WAL from where it is kept, and puts
 *				back what is noted and comes next in the log (pull_refill.c)
 *	  capture	confirms its slot, and so lets WAL go, only as far as everything
 *				noted before is durable in a log (stored_seq)
 *	  freezes	(evict.c) tell what is stored, right after a sync of all that is written
 *
 * Why that is enough:
 *
 *	  Nothing is noted too late.  A note is made under notes_lock, if the log was not opened
 *				since the bytes were read from it; gossip counts an opening under the same
 *				lock. So when it then reads the WAL, every note of what the log may have
 *				lost stands there, also if its commit is yet to come; and what is noted from
 *				then on is in the file, written before apply could read it, and synced by
 *				whoever has it open. One look at each opening is all that it takes.
 *	  Nothing is let go too early.  noted_seq is raised before the note is inserted. Capture has
 *				flushed and read the WAL up to some place, then copies noted_seq (the mark),
 *				and lets that place go when stored_seq has come up to the mark. It does not
 *				look at noted_seq again, which may be ahead whenever one looks while much is
 *				applied. After a start of the server nobody knows what is noted before gossip
 *				has looked (notes_known): until then nothing goes, and apply notes nothing,
 *				for it waits for the same.
 *	  Nothing is kept for ever.  A log that was damaged on the disk is cut in front of the damage, and
 *				notes may not continue it. They are given up (noted_seq goes back to the
 *				log's end): all behind the cut is pulled from peers, as ever. What nobody has
 *				any more cannot be had by keeping more WAL. A log whose origin is evicted is
 *				a log like any other; members' entries and logs go only with the node. A node
 *				that copies has applied nothing, one that was evicted applies and gives
 *				nothing any more: what is in their WAL stands for nothing.
 *
 * The slot's confirmed position bounds its restart_lsn, and the server keeps WAL from there on. A
 * node without a slot can't go on anyway (capture_position.c).
 *
 * A note without its commit does no harm: its batch is as the origin signed it, and put back it is
 * as good as pulled. Nor does one whose batch is in the log.
 */
#include "postgres.h"

#include "replication/slot.h"
#include "utils/memutils.h"

#include "barrier.h"
#include "batchnote.h"
#include "members.h"
#include "walnote.h"
#include "walread.h"
#include "worker.h"

/* How many records of WAL are read between two looks whether to go on. */
#define RECORDS_PER_CHECK 256

static XLogRecPtr kept_from(RpNode *node);

bool
rp_batch_note(RpNode *node, int slot, uint64 opened, uint64 last_seq, const P2pBlock *bytes)
{
	RpMember   *member = &node->members[slot];
	bool		same;

	LWLockAcquire(&node->notes_lock, LW_SHARED);
	SpinLockAcquire(&node->vector_lock);
	same = member->opened == opened;
	if (same)
		member->noted_seq = Max(member->noted_seq, last_seq);
	SpinLockRelease(&node->vector_lock);
	if (same)
		rp_wal_note_batch(bytes->bytes, (uint32) bytes->length);
	LWLockRelease(&node->notes_lock);
	return same;
}

void
rp_batch_notes_stop(RpNode *node, int slot)
{
	LWLockAcquire(&node->notes_lock, LW_EXCLUSIVE);
	SpinLockAcquire(&node->vector_lock);
	node->members[slot].opened++;
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->notes_lock);
}

bool
rp_batch_notes_are_wanted(RpNode *node, int slot, uint64 seq)
{
	bool		wanted;

	SpinLockAcquire(&node->vector_lock);
	wanted = !node->notes_known || node->members[slot].noted_seq > seq;
	SpinLockRelease(&node->vector_lock);
	return wanted;
}

/* Up to where this node's slot has let WAL go; Invalid: there is none, or it has lost its WAL. */
static XLogRecPtr
kept_from(RpNode *node)
{
	XLogRecPtr	from = InvalidXLogRecPtr;
	char		name[NAMEDATALEN];
	ReplicationSlot *slot;

	rp_slot_name(node->dboid, name, sizeof(name));
	slot = SearchNamedReplicationSlot(name, true);
	if (slot == NULL)
		return InvalidXLogRecPtr;
	SpinLockAcquire(&slot->mutex);
	if (!XLogRecPtrIsInvalid(slot->data.restart_lsn))
		from = slot->data.confirmed_flush;
	SpinLockRelease(&slot->mutex);
	return from;
}

void
rp_batch_notes_read(RpNode *node, RpBatchNoteTake take, void *arg)
{
	XLogRecPtr	from = kept_from(node);
	XLogReaderState *reader;
	uint64		records = 0;

	if (XLogRecPtrIsInvalid(from))
		return;
	rp_wal_read_limit(rp_barrier_insert());
	reader = rp_wal_reader_open(from);
	while (rp_wal_record_read(reader, CurrentMemoryContext))
	{
		RpWalNote	note;

		if (rp_wal_note_parse(reader, &note) && note.kind == RP_WAL_NOTE_BATCH)
			take(note.batch, note.length, arg);
		if (++records % RECORDS_PER_CHECK == 0)
			(void) rp_worker_check(node, RP_WORKER_GOSSIP);
	}
	XLogReaderFree(reader);
}

void
rp_batch_notes_are_back(RpNode *node, int slot, uint64 seq)
{
	RpMember   *member = &node->members[slot];

	SpinLockAcquire(&node->vector_lock);
	member->noted_seq = Min(member->noted_seq, seq);
	SpinLockRelease(&node->vector_lock);
}

void
rp_batch_notes_are_known(RpNode *node)
{
	SpinLockAcquire(&node->vector_lock);
	node->notes_known = true;
	SpinLockRelease(&node->vector_lock);
}

void
rp_batch_notes_mark(RpNode *node, RpBatchMark *mark)
{
	memset(mark, 0, sizeof(*mark));
	SpinLockAcquire(&node->vector_lock);
	for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
		mark->noted_seq[slot] = node->members[slot].noted_seq;
	SpinLockRelease(&node->vector_lock);
}

bool
rp_batch_notes_may_go(RpNode *node, const RpBatchMark *mark)
{
	bool		may_go;

	switch (rp_node_status(node))
	{
		case RP_NODE_CATCHUP:
		case RP_NODE_ACTIVE:
		case RP_NODE_LEAVING:
			break;
		case RP_NODE_NONE:
		case RP_NODE_CREATING:
		case RP_NODE_JOINING:
		case RP_NODE_GONE:
		case RP_NODE_EVICTED:
			return true;
	}
	SpinLockAcquire(&node->vector_lock);
	may_go = node->notes_known;
	for (int slot = RP_SELF + 1; slot < node->nmembers && may_go; slot++)
	{
		const RpMember *member = &node->members[slot];

		/* it goes back where notes were given up */
		may_go = member->stored_seq >= Min(mark->noted_seq[slot], member->noted_seq);
	}
	SpinLockRelease(&node->vector_lock);
	return may_go;
}
