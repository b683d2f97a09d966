/*
 * capture_batch.c
 *	  From decoded transactions to durable, published batches.
 *
 *	  changes --> body --seal--> log --flush--> durable --> published
 *
 * The body collects whole transactions until capture seals it: when there is
 * nothing more to read now, at about replp2p.batch_max_kb or after
 * replp2p.batch_delay_ms of reading, and whenever the set of origins in the
 * captured vector grows (the transactions of a body name deps by their index).
 *
 * A large transaction goes to the log in parts, while it is being decoded (or from
 * its spool, capture_spool.c, where it was decoded before it committed):
 *
 *	  body:	   [ whole transactions | BEGIN, items of the large one ... ]
 *	  becomes  [ whole transactions ]				   sealed, flushed
 *			   [ descriptions, BEGIN, items ]		   part 0
 *			   [ BEGIN, items ] ...					   parts 1, 2, ...
 *			   [ BEGIN, items, COMMIT ]				   the last part
 *
 * Parts are appended without fsync; nobody reads them before the last one is
 * durable and published, and recovery cuts them off without it. Relations are
 * numbered within a body, so the first part takes along the descriptions of all
 * that were described in front of it; their numbers stay.
 *
 * A flush has a fixed order, each step relying on the one before it: batches and
 * the position behind them are appended; fsync; the version entries of the local
 * transactions are put; shared memory is told. So whoever sees a seq in shared
 * memory finds it in the log, and its xids in the version index. A crash between
 * two steps loses nothing: reading goes on at the last durable position, and
 * capture_position.c puts version entries that are missing.
 *
 * Published without an fsync. A batch need not be durable before it is told of and served if it is
 * repeatable: should a crash or a loss of power take it from the log, then decoding the same WAL
 * again from the last durable position gives the very same bytes. The commits in it are flushed
 * before they are decoded, and that WAL is kept (the slot is confirmed up to durable positions
 * only): so it is as durable as the WAL. Such batches are written, without a position, and synced
 * later: with the RP_UNSYNCED_BATCHES'th, after SYNC_DELAY_US, in front of the first batch that is
 * not repeatable, or when the worker ends. Recovery cuts off what stands behind the last position,
 * and it is made again. What a batch is
 * made of, and why that is so:
 *
 *	 transactions	 One, whole. After any start the first RP_UNSYNCED_BATCHES transactions are
 *					 sealed one by one, too; batches of several were durable before anybody had them.
 *	 previous hash,	 Of the last durable batch and position, and then of one repeatable batch after
 *	 seq			 the other.
 *	 stamp			 A function of the WAL (capture.c: the floor). Commit time and xid are the
 *					 commit record's.
 *	 deps			 The captured vector: the position's, and what remote commits behind it made of
 *					 it. Not so where members have changed since the position, or while the node is
 *					 not active (required_seq comes from elsewhere), or if a replication origin was
 *					 met that is none of ours yet (rp_capture_origin_slot).
 *	 rows			 Of the WAL. Unchanged values that are fetched from TOAST tables may be gone:
 *					 not so then.
 *	 tables, keys,	 Catalogs and our rules under the historic snapshot. Not so if the transaction
 *	 columns		 has changed catalogs, or others have while it ran, or the caches may still hold
 *					 what an older snapshot has put there (decode.c: catalogs_look).
 *	 values			 Binary send functions of the server's own types: no setting counts, since the
 *					 client's encoding is the database's. Text is made by settings and catalogs: not
 *					 so.
 *	 order, numbers	 The changes in WAL order, without aborted subtransactions. A spool's chunk may
 *	 of tables		 have numbers of tables that only those have touched, and whether there is one
 *					 hangs on all that runs: not so, and none will be next time for what is small
 *					 now (capture_position.c).
 *	 parts			 At most RP_PLAIN_MAX_BODY bytes, which no value of replp2p.batch_max_size cuts.
 *	 compression	 None up to that size, which no version of the library can change.
 *	 signature		 Ed25519 makes the same of the same.
 *
 * Whatever reads something else into a batch clears RpCapture.repeatable, which a durable position
 * sets. A new version of this code that makes other bytes of the same WAL has to begin with a log
 * that is durable as far as peers have it: which it is after a shutdown (capture.c: sync_at_end).
 *
 * Errors end the worker; nothing here needs undoing, since recovery of the log
 * begins at the last durable position and nobody has seen more but what comes again.
 *
 * Called by decode.c (within decoding callbacks) and capture.c. vector_lock is
 * taken for stamping and publishing, and never across I/O.
 */
#include "postgres.h"

#include "storage/spin.h"
#include "utils/memutils.h"

#include "capture.h"
#include "crashpoint.h"
#include "p2p_batch.h"
#include "p2p_stamp.h"
#include "monotonic.h"
#include "settings.h"
#include "versions.h"

#define BODY_START_SIZE ((size_t) 256 * 1024)
/* A body's memory beyond this is given back after it is sealed. */
#define BODY_KEEP_SIZE ((size_t) 32 * 1024 * 1024)
/* What is published is made durable after so long. */
#define SYNC_DELAY_US INT64CONST(1000000)
/* Room that a BEGIN takes at most. */
#define BEGIN_MAX_SIZE (1 + 10 + 8 + 8 + 8 + 10 + P2P_MAX_MEMBERS * 20)

static void body_make(RpCapture *capture, RpBody *body);
static void body_check(RpCapture *capture);
static void vector_copy(P2pVector *to, const P2pVector *from);
static P2pStamp stamp_give(RpCapture *capture, TimestampTz commit_time);
static void put_begin(RpCapture *capture, const P2pVector *previous);
static bool part_is_full(RpCapture *capture);
static void part_end(RpCapture *capture, bool final);
static void body_split(RpCapture *capture);
static void body_append(RpBody *body, const uint8_t *bytes, size_t start, size_t end);
static void batch_append(RpCapture *capture, P2pSpan span, P2pStamp last_stamp,
						 const P2pVector *deps);
static const void *body_pack(RpCapture *capture, bool plain, uint8 *compression, uint32 *length);
static void position_append(RpCapture *capture);
static void pending_put(RpCapture *capture);
static void publish_vectors(RpCapture *capture);
static bool publish_self(RpCapture *capture);

/* Make an empty body, and one for what is spooled. */
void
rp_body_init(RpCapture *capture)
{
	body_make(capture, &capture->body);
	body_make(capture, &capture->chunk);
	capture->out = &capture->body;
}

/* Make one body. */
static void
body_make(RpCapture *capture, RpBody *body)
{
	body->relations = MemoryContextAlloc(capture->memory,
										 P2P_MAX_BODY_RELATIONS * sizeof(RpBodyRange));
	p2p_writer_init(&body->writer,
					MemoryContextAlloc(capture->memory, BODY_START_SIZE), BODY_START_SIZE);
	rp_body_reset(capture, body);
}

/* Empty a body: what tables are described where is forgotten. */
void
rp_body_reset(RpCapture *capture, RpBody *body)
{
	P2pWriter  *writer = &body->writer;

	if (writer->capacity > BODY_KEEP_SIZE)
	{
		pfree(writer->data);
		p2p_writer_init(writer, MemoryContextAlloc(capture->memory, BODY_START_SIZE),
						BODY_START_SIZE);
	}
	else
		p2p_writer_init(writer, writer->data, writer->capacity);
	body->number = ++capture->bodies;
	body->nrelations = 0;
	body->first_seq = 0;
	body->last_seq = 0;
}

/* Make room for so many more bytes. */
void
rp_body_reserve(RpCapture *capture, size_t bytes)
{
	P2pWriter  *writer = &capture->out->writer;
	size_t		capacity = writer->capacity;

	if (capacity - writer->length >= bytes)
		return;
	if (bytes > P2P_BATCH_MAX_BODY || writer->length > P2P_BATCH_MAX_BODY - bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a changed row is too large to be replicated"),
				 errdetail("A batch may have %u bytes; this row and what stands before it need %zu.",
						   P2P_BATCH_MAX_BODY, writer->length + bytes),
				 errhint("This node cannot send its changes any more. Have it leave the group, shorten the row, and join again.")));
	while (capacity - writer->length < bytes)
		capacity *= 2;
	writer->data = repalloc_huge(writer->data, capacity);
	writer->capacity = capacity;
}

/* Write the description of a table as the next relno. */
uint32
rp_body_describe(RpCapture *capture, P2pRelation *relation, size_t size)
{
	RpBody	   *body = capture->out;
	RpBodyRange *range = &body->relations[body->nrelations];

	if (body->nrelations >= P2P_MAX_BODY_RELATIONS)
		elog(ERROR, "too many tables in one batch");
	rp_body_reserve(capture, size + 10);
	relation->relno = body->nrelations++;
	range->start = body->writer.length;
	p2p_body_put_relation(&body->writer, relation);
	range->end = body->writer.length;
	body_check(capture);
	return relation->relno;
}

/* Whatever is put had room reserved: overflow is our own bug, or beyond a limit of the format. */
static void
body_check(RpCapture *capture)
{
	if (capture->out->writer.overflow)
		elog(ERROR, "could not encode a change for table or transaction");
}

/* Copy a vector without what it doesn't use. */
static void
vector_copy(P2pVector *to, const P2pVector *from)
{
	to->count = from->count;
	memcpy(to->entries, from->entries, from->count * sizeof(from->entries[0]));
}

/* Before each replicated change: begin the transaction, or a new part of a large one. */
void
rp_transaction_change(RpCapture *capture)
{
	if (!capture->tx.open)
		rp_transaction_begin(capture);
	else if (part_is_full(capture))
		part_end(capture, false);
}

/* Give the transaction of the current commit record its seq, stamp and deps. */
void
rp_transaction_begin(RpCapture *capture)
{
	RpOpenTransaction *tx = &capture->tx;
	RpBody	   *body = &capture->body;
	const RpCommitRecord *commit = &capture->commit;

	Assert(capture->out == body);
	Assert(body->first_seq != 0 || body->writer.length == 0);
	tx->open = true;
	tx->partial = false;
	tx->part = 0;
	tx->changes = 0;
	tx->begin.seq = capture->seq + 1;
	tx->begin.stamp = stamp_give(capture, commit->commit_time);
	tx->begin.commit_time = commit->commit_time;
	tx->begin.xid = commit->full_xid;
	vector_copy(&tx->deps, &capture->vector);
	tx->start = body->writer.length;
	if (body->first_seq == 0)
	{
		vector_copy(&body->deps, &tx->deps);
		body->since_us = rp_monotonic_us();
		put_begin(capture, &tx->deps);
	}
	else
		put_begin(capture, &body->last_deps);
}

/*
 * Give the next stamp, by nothing but what stands in the WAL up to here: what is told in shared
 * memory of it is for others. (capture.c says why the floor of this place is enough.)
 */
static P2pStamp
stamp_give(RpCapture *capture, TimestampTz commit_time)
{
	RpNode	   *node = capture->node;
	P2pStamp	stamp = p2p_stamp_next(commit_time, capture->stamp, capture->floor);

	SpinLockAcquire(&node->vector_lock);
#ifdef RP_CRASH_POINTS
	/* Only for the test that must be seen to lose writes without this rule. */
	if (rp_raw_stamps)
		stamp = node->last_stamp = commit_time;
#endif
	node->last_stamp = Max(node->last_stamp, stamp);
	if (stamp == commit_time)
		node->own_time = Max(node->own_time, stamp);
	SpinLockRelease(&node->vector_lock);
	return stamp;
}

/* Write the open transaction's BEGIN. */
static void
put_begin(RpCapture *capture, const P2pVector *previous)
{
	RpOpenTransaction *tx = &capture->tx;

	rp_body_reserve(capture, BEGIN_MAX_SIZE);
	p2p_body_put_begin(&capture->body.writer, &tx->begin, previous, &tx->deps);
	tx->items = capture->body.writer.length;
	body_check(capture);
}

/* Write the end of the open transaction. */
void
rp_transaction_commit(RpCapture *capture)
{
	RpOpenTransaction *tx = &capture->tx;
	RpBody	   *body = &capture->body;
	RpNodeStats *stats = &capture->node->stats;

	rp_body_reserve(capture, 1);
	p2p_body_put_commit(&body->writer);
	body_check(capture);
	if (tx->partial)
		part_end(capture, true);
	else
	{
		if (body->first_seq == 0)
			body->first_seq = tx->begin.seq;
		body->last_seq = tx->begin.seq;
		body->last_stamp = tx->begin.stamp;
		vector_copy(&body->last_deps, &tx->deps);
	}
	tx->open = false;

	capture->seq = tx->begin.seq;
	capture->stamp = tx->begin.stamp;
	capture->last_commit_time = tx->begin.commit_time;
	capture->captured[RP_SELF] = capture->seq;
	(void) p2p_vector_set(&capture->vector, &capture->identity.self, capture->seq);
	pg_atomic_fetch_add_u64(&stats->captured_transactions, 1);
	pg_atomic_fetch_add_u64(&stats->captured_changes, tx->changes);
}

/* Is it time to cut the open transaction? Never in front of its first change. */
static bool
part_is_full(RpCapture *capture)
{
	RpBody	   *body = &capture->body;

	return body->writer.length != capture->tx.items && rp_body_is_part(body);
}

/* Has a body the size of a part? */
bool
rp_body_is_part(const RpBody *body)
{
	return body->writer.length >= (size_t) rp_batch_max_kb * 1024 * RP_PART_BATCHES ||
		body->nrelations >= RP_BODY_RELATIONS_SOFT;
}

/* Append the body as a part of the open transaction that is not its last, and begin the next one. */
void
rp_transaction_cut(RpCapture *capture)
{
	part_end(capture, false);
}

/* Append what the body holds of the open transaction as a part, and begin the next one. */
static void
part_end(RpCapture *capture, bool final)
{
	RpOpenTransaction *tx = &capture->tx;
	P2pSpan		span = {0};

	if (!tx->partial)
	{
		if (capture->body.first_seq != 0)
			body_split(capture);
		tx->partial = true;
	}
	span.first_seq = tx->begin.seq;
	span.last_seq = tx->begin.seq;
	span.part = tx->part++;
	span.partial = true;
	span.final = final;
	batch_append(capture, span, tx->begin.stamp, &tx->deps);
	rp_body_reset(capture, &capture->body);
	if (!final)
		put_begin(capture, &tx->deps);
}

/*
 * Take the open transaction out of a body that has whole ones in front of it:
 * flush those, and leave a body that begins with the open one. Tables keep their
 * numbers, and the body its own.
 */
static void
body_split(RpCapture *capture)
{
	RpOpenTransaction *tx = &capture->tx;
	RpBody	   *body = &capture->body;
	size_t		length = body->writer.length;
	size_t		items = tx->items;
	uint32		nranges = body->nrelations;
	uint64		number = body->number;
	RpBodyRange *ranges = MemoryContextAlloc(capture->memory, nranges * sizeof(RpBodyRange));
	uint8_t    *copy = MemoryContextAllocHuge(capture->memory, length);

	memcpy(ranges, body->relations, nranges * sizeof(RpBodyRange));
	memcpy(copy, body->writer.data, length);

	/* Flush what stands in front, as if the open transaction were yet to come. */
	body->writer.length = tx->start;
	tx->open = false;
	rp_capture_flush(capture);
	tx->open = true;

	/* All descriptions in their order, a BEGIN of its own, then the other items. */
	rp_body_reserve(capture, length + BEGIN_MAX_SIZE);
	body->number = number;
	body->nrelations = nranges;
	for (uint32 i = 0; i < nranges; i++)
		body_append(body, copy, ranges[i].start, ranges[i].end);
	put_begin(capture, &tx->deps);
	for (uint32 i = 0; i < nranges; i++)
	{
		if (ranges[i].start < items)
			continue;
		body_append(body, copy, items, ranges[i].start);
		items = ranges[i].end;
	}
	body_append(body, copy, items, length);
	body_check(capture);
	pfree(copy);
	pfree(ranges);
}

/* Append the bytes from start to end of another body. */
static void
body_append(RpBody *body, const uint8_t *bytes, size_t start, size_t end)
{
	p2p_put_bytes(&body->writer, bytes + start, end - start);
}

/* Seal the whole transactions in the body, if any, and append the batch. */
void
rp_capture_seal(RpCapture *capture)
{
	RpBody	   *body = &capture->body;
	P2pSpan		span = {0};

	Assert(!capture->tx.open);
	if (body->first_seq == 0)
		return;
	span.first_seq = body->first_seq;
	span.last_seq = body->last_seq;
	span.final = true;
	batch_append(capture, span, body->last_stamp, &body->deps);
	rp_body_reset(capture, &capture->body);
}

/* Pack, sign and append the body as the batch of this span. Not durable yet. */
static void
batch_append(RpCapture *capture, P2pSpan span, P2pStamp last_stamp, const P2pVector *deps)
{
	static P2pBatch batch;
	static uint8 header[P2P_BATCH_MAX_HEADER];
	RpNodeStats *stats = &capture->node->stats;
	MemoryContext old = MemoryContextSwitchTo(capture->step_memory);
	const void *stored;
	uint32		stored_length;
	bool		plain = !span.partial && span.first_seq == span.last_seq &&
		capture->body.writer.length <= RP_PLAIN_MAX_BODY;
	P2pStatus	status;

	memset(&batch, 0, sizeof(batch));
	batch.group = capture->identity.group;
	batch.origin = capture->identity.self;
	batch.span = span;
	batch.last_stamp = last_stamp;
	batch.raw_length = (uint32) capture->body.writer.length;
	memcpy(batch.previous_hash, capture->cursor.hash, P2P_HASH_SIZE);
	vector_copy(&batch.deps, deps);
	stored = body_pack(capture, plain, &batch.compression, &stored_length);

	status = p2p_batch_seal(&batch, stored, stored_length, capture->identity.secret_key,
							header, sizeof(header));
	if (status != P2P_OK)
		elog(ERROR, "could not seal a batch: %s", p2p_status_text(status));
	if (p2p_cursor_judge(&capture->cursor, &span) != P2P_ARRIVAL_NEXT)
		elog(ERROR, "batch " UINT64_FORMAT " does not follow " UINT64_FORMAT,
			 span.first_seq, capture->cursor.seq);

	rp_log_append_batch(capture->writer, &batch, header, batch.header_length,
						stored, stored_length);
	p2p_cursor_advance(&capture->cursor, &span, batch.hash);
	if (!plain || capture->appended)
		capture->repeatable = false;
	capture->appended = true;
	if (capture->oldest_seq == 0)
		capture->oldest_seq = span.first_seq;
	pg_atomic_fetch_add_u64(&stats->captured_bytes, batch.raw_length);
	pg_atomic_fetch_add_u64(&stats->captured_batches, 1);
	MemoryContextSwitchTo(old);
}

/* Pack the body; returns it as it is stored, in memory of capture's. */
static const void *
body_pack(RpCapture *capture, bool plain, uint8 *compression, uint32 *length)
{
	P2pWriter  *writer = &capture->body.writer;
	uint32		raw_length = (uint32) writer->length;
	size_t		bound = rp_log_pack_bound(raw_length);
	const void *stored;

	if (plain)
	{
		*compression = P2P_COMPRESSION_NONE;
		*length = raw_length;
		return writer->data;
	}
	if (capture->packed_size < bound || capture->packed_size > BODY_KEEP_SIZE)
	{
		if (capture->packed != NULL)
			pfree(capture->packed);
		capture->packed = MemoryContextAllocHuge(capture->memory, bound);
		capture->packed_size = bound;
	}
	*compression = rp_log_pack(writer->data, raw_length, capture->packed, &stored, length);
	return stored;
}

/*
 * Make everything up to done_lsn visible to others; durable before, if it might not come out the
 * same again.
 */
void
rp_capture_flush(RpCapture *capture)
{
	MemoryContext old = MemoryContextSwitchTo(capture->step_memory);

	rp_capture_seal(capture);
	if (capture->appended && capture->repeatable)
	{
		rp_log_write(capture->writer);
		if (capture->unsynced++ == 0)
			capture->unsynced_us = rp_monotonic_us();
		RP_CRASH_POINT("capture_after_write");
	}
	else
		rp_capture_sync(capture);
	capture->appended = false;

	pending_put(capture);
	rp_capture_publish(capture);
	if (capture->unsynced >= RP_UNSYNCED_BATCHES || rp_capture_sync_is_due(capture))
		rp_capture_sync(capture);
	if (!capture->started && capture->seq >= capture->start_seq + RP_UNSYNCED_BATCHES)
		rp_capture_started(capture);
	rp_log_prepare(capture->writer);
	MemoryContextSwitchTo(old);
}

bool
rp_capture_sync_is_due(const RpCapture *capture)
{
	return capture->unsynced > 0 &&
		rp_monotonic_us() - capture->unsynced_us >= SYNC_DELAY_US;
}

void
rp_capture_sync(RpCapture *capture)
{
	RpNode	   *node = capture->node;

	position_append(capture);
	RP_CRASH_POINT("capture_after_append");
	if (capture->appended)
		RP_CRASH_POINT("capture_before_sync");
	rp_log_sync(capture->writer);
	RP_CRASH_POINT("capture_after_sync");
	pg_atomic_fetch_add_u64(&node->stats.log_syncs, 1);
	capture->unsynced = 0;
	capture->repeatable = capture->active;
	capture->synced_lsn = capture->done_lsn;
	capture->synced_us = rp_monotonic_us();
	capture->remote_commits = 0;
	SpinLockAcquire(&node->vector_lock);
	node->members[RP_SELF].durable_seq = capture->seq;
	SpinLockRelease(&node->vector_lock);
}

/* Append where we are: the record from which everything goes on after a crash. */
static void
position_append(RpCapture *capture)
{
	static P2pPosition position;

	position.lsn = capture->done_lsn;
	position.seq = capture->seq;
	position.stamp = capture->stamp;
	position.floor = capture->floor;
	vector_copy(&position.vector, &capture->vector);
	rp_log_append_position(capture->writer, &position);
}

/* Put the version entries of transactions whose batches are durable, or will be made again. */
static void
pending_put(RpCapture *capture)
{
	for (size_t i = 0; i < capture->npending; i++)
	{
		RpPendingVersion *pending = &capture->pending[i];
		RpVersionEntry entry = {RP_SELF, pending->seq, pending->stamp};

		rp_versions_put(pending->xid, &entry);
	}
	capture->npending = 0;
}

/* Tell shared memory how far we are, and whoever waits for it. */
void
rp_capture_publish(RpCapture *capture)
{
	RpNode	   *node = capture->node;
	RpSlotSet	self = {0};
	bool		own;

	Assert(capture->body.first_seq == 0 && !capture->appended && capture->npending == 0);
	SpinLockAcquire(&node->vector_lock);
	publish_vectors(capture);
	own = publish_self(capture);
	SpinLockRelease(&node->vector_lock);

	rp_slots_add(&self, RP_SELF);
	if (own)
		rp_pollers_wake(node, &self);	/* first: peers wait for it */
	if (capture->published_lsn != capture->done_lsn || own)
		ConditionVariableBroadcast(&node->captured_cv);
	capture->published_lsn = capture->done_lsn;
	if (!own)
		return;
	ConditionVariableBroadcast(&node->applied_cv);
	/* gossip tells of it with its next state, and waiting pulls answer by themselves */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&node->apply_listens) != 0)
		rp_worker_wake(node, RP_WORKER_APPLY);
}

/* What was read from the WAL of others' transactions. vector_lock is held. */
static void
publish_vectors(RpCapture *capture)
{
	RpNode	   *node = capture->node;

	for (int slot = RP_SELF + 1; slot < capture->nmembers; slot++)
	{
		if (node->members[slot].captured_seq < capture->captured[slot])
			node->members[slot].captured_seq = capture->captured[slot];
	}
	if (node->captured_lsn < capture->done_lsn)
		node->captured_lsn = capture->done_lsn;
	if (TransactionIdIsValid(capture->below_xid) && capture->below_lsn <= capture->done_lsn)
	{
		if (!TransactionIdIsValid(node->captured_below) ||
			TransactionIdPrecedes(node->captured_below, capture->below_xid))
			node->captured_below = capture->below_xid;
		capture->below_xid = InvalidTransactionId;
	}
}

/* Our own transactions; returns whether there are new ones. vector_lock is held. */
static bool
publish_self(RpCapture *capture)
{
	RpNode	   *node = capture->node;
	RpMember   *self = &node->members[RP_SELF];

	if (capture->published_seq == capture->seq)
		return false;
	capture->published_seq = capture->seq;
	self->captured_seq = Max(self->captured_seq, capture->seq);
	self->stored_seq = capture->seq;
	self->written_seq = capture->seq;
	self->applied_seq = Max(self->applied_seq, capture->seq);
	self->written_stamp = capture->stamp;
	self->applied_stamp = capture->stamp;
	if (self->oldest_seq == 0)
		self->oldest_seq = capture->oldest_seq;
	node->last_commit_time = capture->last_commit_time;
	return true;
}
