/*
 * capture_position.c
 *	  Where capture goes on: the slot, the log's last position, and what lies
 *	  between them.
 *
 *	  restart_lsn ..... confirmed (slot) ..... position (log) ..... flushed
 *		   |  decoding	  |					   |
 *		   |  rebuilds	  |	 version entries   |  not seen before: changes,
 *		   |  its state	  |	 may be missing	   |  vector, seqs go on here
 *
 * The log's last durable position says up to which LSN all commits are accounted
 * for, with which seq, stamp and vector. The slot is confirmed later and never
 * ahead of it, and only after the version index was synced. So:
 *
 * - Slot and empty log: the position is the slot's. A new node has neither, and
 *	 makes the slot; that waits for every running transaction of the cluster.
 * - A log without its slot, or a log that ends before what the slot has
 *	 confirmed, or after the end of the WAL: changes may be missing for ever, or
 *	 the node has been restored from a backup. It must not go on under this identity.
 * - Commits between the two have been accounted for, but a crash may have come
 *	 before their version entries were put, or before these reached the disk. They
 *	 are put again: remote ones from their commit records, local ones by looking up
 *	 the xid in the log, since only the commit record knows the subtransactions.
 *	 Entries of transactions beyond the position are dropped at the server's start.
 * - The floor goes on from the position's, too, as the WAL behind it raises it (capture.c). What
 *	 stands in shared memory may be gone, or further: stamps come from neither.
 *
 * A join copies rows under RP_COPY_ORIGIN; it may set the session's origin_lsn to
 * the donor's floor, and reading its commit raises ours to that.
 *
 * Called by capture.c at the worker's start. The members are loaded here, in the
 * only transaction of capture's life: with the slot in hand it runs no queries.
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "replication/snapbuild.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/spin.h"
#include "storage/standby.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "capture.h"
#include "decode.h"
#include "hashtable.h"
#include "monotonic.h"
#include "versions.h"
#include "walread.h"
#include "worker.h"

#define PLUGIN_SETTING "output_plugin_libraries"
#define WAIT_FOR_WAL_MS 10
/*
 * What running transactions may take before the largest is decoded ahead: capture_spool.c. Before
 * the first batches, which peers may have had from us already, more: so that no transaction that was
 * small enough to be published before it was durable is ever the largest, and comes out differently.
 * That many cannot be running, four times over since a crash leaves some behind in the WAL.
 */
#define DECODING_MEMORY "8MB"
#define START_DECODING_MEMORY "64MB"
#define START_DECODING_BYTES ((Size) 64 * 1024 * 1024)
#define MAX_RUNNING ((Size) 4 * (MaxBackends + max_prepared_xacts))

/* A local commit whose version entries may be missing. */
typedef struct RefillEntry
{
	uint64		xid;			/* hash key */
	int			nsubxacts;
	TransactionId *subxacts;
} RefillEntry;

static RpCapture *reading = NULL;

static void members_load(RpNode *node);
static void log_reopened(RpNode *node, uint64 seq);
static void plugin_allow(void);
static void slot_acquire(RpCapture *capture, const char *name, bool log_is_empty);
static void slot_create(RpCapture *capture, const char *name);
static void running_describe(char *text, size_t size);
static void waits_for_set(RpNode *node, const char *text);
static void position_take(RpCapture *capture, const RpLogEnd *end);
static void position_check(const P2pPosition *position);
static void node_raise(RpNode *node, P2pStamp stamp, P2pStamp floor);
static void versions_retain(RpCapture *capture);
static bool version_is_covered(const RpVersionEntry *entry, void *arg);
static int page_read_waiting(XLogReaderState *reader, XLogRecPtr page, int required,
							 XLogRecPtr target, char *buffer);
static void refill_body(RpCapture *capture, RpLogReader *log, const P2pBatch *batch);
static void refill_put(RpCapture *capture, const P2pBegin *begin);

/* Open log and slot, find the start position, make the decoding context. */
void
rp_capture_open(RpCapture *capture)
{
	char		name[NAMEDATALEN];
	RpLogEnd	end = {0};

	reading = capture;
	members_load(capture->node);
	CurrentResourceOwner = capture->owner;
	MemoryContextSwitchTo(capture->memory);
	rp_capture_members_refresh(capture);
	CheckLogicalDecodingRequirements();
	plugin_allow();
	SetConfigOption("logical_decoding_work_mem", START_DECODING_MEMORY, PGC_SUSET,
					PGC_S_OVERRIDE);
	rp_spools_open(capture);
	rp_decode_relations_init();
	rp_decode_attach(capture);
	rp_slot_name(capture->node->dboid, name, sizeof(name));

	capture->writer = rp_log_open_writer(capture->node->dboid, &capture->identity.self, true, &end);
	capture->cursor = end.cursor;
	capture->oldest_seq = end.oldest_seq;
	log_reopened(capture->node, end.cursor.seq);
	slot_acquire(capture, name, !end.has_position);
	position_take(capture, &end);
	versions_retain(capture);

	capture->decoding = CreateDecodingContext(capture->start_lsn, NIL, false,
											  XL_ROUTINE(.page_read = rp_wal_page_read,
														 .segment_open = wal_segment_open,
														 .segment_close = wal_segment_close),
											  NULL, NULL, NULL);
	XLogBeginRead(capture->decoding->reader, MyReplicationSlot->data.restart_lsn);
	CurrentResourceOwner = capture->owner;
}

/*
 * The log may have been cut back. Who stands there looks for his place anew, and is served no more than
 * there is. What was said to be captured stays so, as the same comes again: who needs it of the log
 * waits for that (ownlog.c).
 */
static void
log_reopened(RpNode *node, uint64 seq)
{
	RpMember   *self = &node->members[RP_SELF];

	SpinLockAcquire(&node->vector_lock);
	self->opened++;
	self->stored_seq = Min(self->stored_seq, seq);
	self->written_seq = Min(self->written_seq, seq);
	self->durable_seq = seq;
	SpinLockRelease(&node->vector_lock);
}

void
rp_capture_started(RpCapture *capture)
{
	capture->started = true;
	SetConfigOption("logical_decoding_work_mem", DECODING_MEMORY, PGC_SUSET, PGC_S_OVERRIDE);
}

bool
rp_capture_is_small(const ReorderBufferTXN *txn)
{
	return !rbtxn_is_serialized(txn) && !rbtxn_is_streamed(txn) &&
		txn->total_size < START_DECODING_BYTES / MAX_RUNNING;
}

/* Read the members from the catalog: no WAL may be judged without them. */
static void
members_load(RpNode *node)
{
	bool		loaded;

	StartTransactionCommand();
	loaded = rp_members_load(node);
	CommitTransactionCommand();
	if (!loaded)
		proc_exit(0);
}

/* Newer minor versions let only listed output plugins in: list ours, for this session. */
static void
plugin_allow(void)
{
	const char *setting = GetConfigOption(PLUGIN_SETTING, true, false);
	List	   *names;
	ListCell   *cell;
	char	   *copy;

	if (setting == NULL)
		return;
	copy = pstrdup(setting);
	if (SplitIdentifierString(copy, ',', &names))
	{
		foreach(cell, names)
		{
			if (strcmp(lfirst(cell), RP_PLUGIN_NAME) == 0)
				return;
		}
	}
	SetConfigOption(PLUGIN_SETTING,
					setting[0] == '\0' ? RP_PLUGIN_NAME : psprintf("%s, %s", setting, RP_PLUGIN_NAME),
					PGC_SUSET, PGC_S_SESSION);
}

/* Take the slot; make it for a new node. */
static void
slot_acquire(RpCapture *capture, const char *name, bool log_is_empty)
{
	if (SearchNamedReplicationSlot(name, true) == NULL)
	{
		if (!log_is_empty)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("replication slot \"%s\" of this node is missing", name),
					 errdetail("Changes that were committed since it was dropped would never reach the other nodes."),
					 errhint("Have this node leave the group by replp2p.leave_group(force => true), and join again.")));
		slot_create(capture, name);
	}
	ReplicationSlotAcquire(name, false);
	if (strcmp(NameStr(MyReplicationSlot->data.plugin), RP_PLUGIN_NAME) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" exists for output plugin \"%s\"", name,
						NameStr(MyReplicationSlot->data.plugin)),
				 errhint("Drop it by pg_drop_replication_slot().")));
	if (XLogRecPtrIsInvalid(MyReplicationSlot->data.restart_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replication slot \"%s\" of this node has been invalidated", name),
				 errdetail("The server removed WAL that it needed (max_slot_wal_keep_size)."),
				 errhint("Have this node leave the group by replp2p.leave_group(force => true), and join again.")));
	capture->confirmed_lsn = MyReplicationSlot->data.confirmed_flush;
}

/* Make the slot, waiting for all running transactions of the cluster. */
static void
slot_create(RpCapture *capture, const char *name)
{
	LogicalDecodingContext *ctx;
	char		waits_for[sizeof(capture->node->join.waits_for)];

	running_describe(waits_for, sizeof(waits_for));
	waits_for_set(capture->node, waits_for);
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false);
	ctx = CreateInitDecodingContext(RP_PLUGIN_NAME, NIL, false, InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = page_read_waiting,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									NULL, NULL, NULL);
	DecodingContextFindStartpoint(ctx);
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
	ReplicationSlotRelease();
	CurrentResourceOwner = capture->owner;
	MemoryContextSwitchTo(capture->memory);
	waits_for_set(capture->node, "");
	ereport(LOG, (errmsg("created replication slot \"%s\"", name)));
}

/* Say which transactions the slot has to wait for, as of now; empty if none. */
static void
running_describe(char *text, size_t size)
{
	RunningTransactions running = GetRunningTransactionData();
	TransactionId oldest = running->oldestRunningXid;
	int			count = running->xcnt;
	int			pid;

	/* The call returns with both locks held. */
	LWLockRelease(ProcArrayLock);
	LWLockRelease(XidGenLock);

	text[0] = '\0';
	if (count == 0)
		return;
	pid = BackendXidGetPid(oldest);
	if (pid != 0)
		snprintf(text, size, "transaction %u of process %d", oldest, pid);
	else
		snprintf(text, size, "prepared transaction %u", oldest);
	if (count > 1)
		snprintf(text + strlen(text), size - strlen(text), " and %d more", count - 1);
}

/* Show in stat_join what we wait for. */
static void
waits_for_set(RpNode *node, const char *text)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	strlcpy(node->join.waits_for, text, sizeof(node->join.waits_for));
	LWLockRelease(&node->lock);
	ConditionVariableBroadcast(&node->status_cv);
}

/* Go on from the log's position, or begin at the slot's and write it down. */
static void
position_take(RpCapture *capture, const RpLogEnd *end)
{
	capture->refill_lsn = capture->confirmed_lsn;
	capture->start_lsn = end->has_position ? end->position.lsn : capture->confirmed_lsn;
	capture->done_lsn = capture->start_lsn;
	if (end->has_position)
	{
		const P2pPosition *position = &end->position;

		position_check(position);
		if (end->cursor.seq != position->seq || end->cursor.parts != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the change log of this node ends at sequence " UINT64_FORMAT ", its position says " UINT64_FORMAT,
							end->cursor.seq, position->seq)));
		capture->seq = position->seq;
		capture->stamp = position->stamp;
		capture->floor = position->floor;
		for (int slot = RP_SELF + 1; slot < capture->nmembers; slot++)
		{
			uint64		seq = p2p_vector_get(&position->vector, &capture->origins[slot]);

			if (seq > 0)
				rp_capture_vector_raise(capture, slot, seq);
		}
		node_raise(capture->node, position->stamp, position->floor);
	}
	capture->start_seq = capture->seq;
	capture->captured[RP_SELF] = capture->seq;
	(void) p2p_vector_set(&capture->vector, &capture->identity.self, capture->seq);
	capture->synced_lsn = end->has_position ? capture->start_lsn : InvalidXLogRecPtr;
	capture->synced_us = rp_monotonic_us();
}

/* Refuse to go on where changes would be lost or numbered twice. */
static void
position_check(const P2pPosition *position)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	XLogRecPtr	confirmed = MyReplicationSlot->data.confirmed_flush;

	if (position->lsn > flushed)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the change log of this node is ahead of the server's WAL"),
				 errdetail("The log's position is %X/%X, the WAL ends at %X/%X: the server has been restored to an earlier state.",
						   LSN_FORMAT_ARGS(position->lsn), LSN_FORMAT_ARGS(flushed)),
				 errhint("Have this node leave the group by replp2p.leave_group(force => true), and join again.")));
	if (position->lsn < confirmed)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the change log of this node has lost its end"),
				 errdetail("The log's position is %X/%X, the slot has confirmed %X/%X.",
						   LSN_FORMAT_ARGS(position->lsn), LSN_FORMAT_ARGS(confirmed)),
				 errhint("Have this node leave the group by replp2p.leave_group(force => true), and join again.")));
}

/*
 * Raise the stamps that others are told of. Which of those that were given
 * before this start came from our own clock is no longer known: all count as that.
 */
static void
node_raise(RpNode *node, P2pStamp stamp, P2pStamp floor)
{
	SpinLockAcquire(&node->vector_lock);
	if (node->last_stamp < stamp)
		node->last_stamp = stamp;
	if (node->own_time < stamp)
		node->own_time = stamp;
	if (node->floor < floor)
		node->floor = floor;
	SpinLockRelease(&node->vector_lock);
}

/*
 * After a start of the server, drop version entries that our position does not
 * cover: their xids may never have reached the WAL, and be given out again. What
 * did is put again as we read on. Apply waits for capture_ready; after a mere
 * restart of this worker it runs, and nothing is to be dropped.
 */
static void
versions_retain(RpCapture *capture)
{
	RpNode	   *node = capture->node;
	bool		first;

	SpinLockAcquire(&node->vector_lock);
	first = !node->capture_ready;
	SpinLockRelease(&node->vector_lock);
	if (first)
		rp_versions_retain(version_is_covered, capture);
}

/* Is the entry's transaction accounted for at our position? */
static bool
version_is_covered(const RpVersionEntry *entry, void *arg)
{
	RpCapture  *capture = arg;

	if (entry->slot == RP_SLOT_COPIED)
		return true;
	return entry->slot < RP_MAX_MEMBERS && entry->seq <= capture->captured[entry->slot];
}

/* Page_read callback for making the slot: waits for WAL, but not for a dead postmaster. */
static int
page_read_waiting(XLogReaderState *reader, XLogRecPtr page, int required, XLogRecPtr target,
				  char *buffer)
{
	for (;;)
	{
		XLogRecPtr	flushed = GetFlushRecPtr(NULL);

		rp_wal_read_limit(flushed);
		if (page + required <= flushed)
			return rp_wal_page_read(reader, page, required, target, buffer);
		rp_worker_wait(reading->node, RP_WORKER_CAPTURE, WAIT_FOR_WAL_MS, PG_WAIT_EXTENSION);
	}
}

/* Remember a local commit whose version entries may be missing. */
void
rp_capture_refill_note(RpCapture *capture, const RpCommitRecord *commit)
{
	RefillEntry *entry;

	if (capture->refill == NULL)
		capture->refill = rp_hash_make("replp2p version entries", capture->memory, 1024,
									   sizeof(uint64), sizeof(RefillEntry));
	entry = hash_search(capture->refill, &commit->full_xid, HASH_ENTER, NULL);
	entry->nsubxacts = commit->nsubxacts;
	entry->subxacts = NULL;
	if (commit->nsubxacts == 0)
		return;
	entry->subxacts = MemoryContextAlloc(capture->memory,
										 commit->nsubxacts * sizeof(TransactionId));
	memcpy(entry->subxacts, commit->subxacts, commit->nsubxacts * sizeof(TransactionId));
}

/*
 * Put the entries of the local commits noted. They are among the last so many
 * transactions in the log, since each seq up to the position is one commit.
 */
void
rp_capture_refill_finish(RpCapture *capture)
{
	uint64		n = capture->refill == NULL ? 0 : hash_get_num_entries(capture->refill);
	uint64		after = n < capture->seq ? capture->seq - n : 0;
	RpLogReader *log;
	P2pBlock	bytes;
	static P2pBatch batch;
	P2pStatus	status = P2P_END;

	if (n == 0)
		return;
	if (capture->oldest_seq > 0 && after < capture->oldest_seq - 1)
		after = capture->oldest_seq - 1;
	log = rp_log_open_reader(capture->node->dboid, &capture->identity.self);
	if (after < capture->seq && rp_log_seek(log, after, 0, false))
	{
		while ((status = rp_log_read(log, capture->seq, &bytes, &batch)) == P2P_OK)
		{
			refill_body(capture, log, &batch);
			rp_worker_check(capture->node, RP_WORKER_CAPTURE);
		}
	}
	rp_log_close_reader(log);
	if (status != P2P_END)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read the change log of this node: %s", p2p_status_text(status))));
	hash_destroy(capture->refill);
	capture->refill = NULL;
}

/* Put the entries of the transactions in one batch. */
static void
refill_body(RpCapture *capture, RpLogReader *log, const P2pBatch *batch)
{
	P2pBlock	body;
	P2pBodyReader *reader = palloc(sizeof(P2pBodyReader));
	void	   *memory = palloc(p2p_body_reader_memory());
	P2pItem		item;
	P2pStatus	status = rp_log_unpack(log, batch, &body);

	if (status == P2P_OK)
	{
		p2p_body_reader_init(reader, memory, body.bytes, body.length, &batch->deps);
		while ((status = p2p_body_next(reader, &item)) == P2P_OK)
		{
			if (item.tag == P2P_TAG_BEGIN)
				refill_put(capture, &item.begin);
		}
	}
	pfree(memory);
	pfree(reader);
	if (status != P2P_END)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the batch of sequences " UINT64_FORMAT " to " UINT64_FORMAT " in the change log of this node is damaged: %s",
						batch->span.first_seq, batch->span.last_seq, p2p_status_text(status))));
}

/* Put the entries of one transaction, if it is among those noted. */
static void
refill_put(RpCapture *capture, const P2pBegin *begin)
{
	uint64		xid = begin->xid;
	RefillEntry *entry = hash_search(capture->refill, &xid, HASH_FIND, NULL);
	RpCommitRecord commit = {0};

	if (entry == NULL)
		return;
	commit.xid = (TransactionId) entry->xid;
	commit.full_xid = entry->xid;
	commit.nsubxacts = entry->nsubxacts;
	commit.subxacts = entry->subxacts;
	rp_capture_versions_put(&commit, RP_SELF, begin->seq, begin->stamp);
}
