/*
 * capture.c
 *	  The model of src/pg/capture*.c: from WAL to the own change log.
 *
 *	  down -> reads -> appended -> synced -> entered -> (published) reads
 *
 * Each arrow is a step of its own, so that a crash or anybody else's step may
 * come between any two. What is lost where is the server's: a worker that ends
 * loses its body and goes on at the log's last position; what was appended and
 * not synced survives a crash of the server, and by chance one of the machine.
 *
 * What is appended as one transaction by itself others may have at once (batch_is_out), and so with
 * several of them, published without a sync. If they are lost, by a crash since no position stands behind
 * them, or with power, they are decoded again, and have to come out as the same batches. So stamps hang on
 * the WAL alone: the floor is what stands in front of a commit there; and as many transactions as may have been
 * out are sealed one by one after a start. Larger ones, which the server
 * can't repeat (parts, values fetched), and several at once are served once they are synced.
 */
#include "sim.h"

#include <string.h>

#include "p2p_stamp.h"

#define SLOW_SYNC 400			/* ticks */
#define UNSYNCED_BATCHES 4

static void capture_open(Node *node);
static void refill(Node *node, uint32_t from, uint32_t to);
static void retain(Node *node);
static void confirm(Node *node);
static void floor_raise(Node *node, P2pStamp stamp);
static bool capture_read(Node *node);
static void record_read(Node *node, const Wal *record, uint32_t lsn);
static void local_read(Node *node, const Wal *record);
static P2pStamp stamp_give(Node *node, P2pStamp time);
static void append_all(Node *node);
static void versions_enter(Node *node);
static void publish(Node *node);

/* The worker ends; its memory is gone. */
void
capture_stop(Node *node)
{
	node->capture.stage = CAPTURE_DOWN;
}

/* One step. */
bool
capture_step(Node *node)
{
	Capture    *c = &node->capture;

	switch ((CaptureStage) c->stage)
	{
		case CAPTURE_DOWN:
			capture_open(node);
			return true;
		case CAPTURE_READS:
			return capture_read(node);
		case CAPTURE_APPENDED:
			/* a slow disk */
			if (node->armed == ARM_OUT && c->out && !world.ending &&
				world.tick < c->appended_tick + SLOW_SYNC)
				return false;
			node->logs[node->index].synced = node->logs[node->index].count;
			log_recover_own(node, true);
			c->synced_lsn = c->position.lsn;
			c->unsynced = 0;
			c->stage = CAPTURE_SYNCED;
			return true;
		case CAPTURE_SYNCED:
			versions_enter(node);
			c->stage = CAPTURE_ENTERED;
			return true;
		case CAPTURE_ENTERED:
			publish(node);
			c->stage = CAPTURE_READS;
			return true;
	}
	return false;
}

/* Go on from the log's position. */
static void
capture_open(Node *node)
{
	Capture    *c = &node->capture;
	Shared	   *shared = &node->shared;
	const Position *p = &node->disk.position;
	uint32_t	start = p->there ? p->lsn : node->disk.confirmed;

	memset(c->captured, 0, sizeof(c->captured));
	c->nbody = c->npending = 0;
	c->below_xid = c->confirm_lsn = 0;
	c->seq = 0;
	c->stamp = c->floor = 0;
	if (p->there)
	{
		if (p->lsn < node->disk.confirmed)
			violation("slot: the log of node %u ends at LSN %u, the slot has confirmed %u",
					  node->index, p->lsn, node->disk.confirmed);
		memcpy(c->captured, p->vector, sizeof(c->captured));
		c->seq = p->seq;
		c->stamp = p->stamp;
		if (shared->last_stamp < p->stamp)
			shared->last_stamp = p->stamp;
		if (shared->own_time < p->stamp)
			shared->own_time = p->stamp;
		c->floor = p->floor;
	}
	c->captured[node->index] = c->seq;
	if (!shared->capture_ready && !PLANTED(kept_versions))
		retain(node);
	for (uint32_t i = start; i < node->flushed && PLANTED(floor_as_read); i++)
	{
		if (shared->floor < node->wal[i].stamp)
			shared->floor = node->wal[i].stamp;
	}
	if (!PLANTED(no_refill))
		refill(node, node->disk.confirmed, start);
	c->read_lsn = PLANTED(again_from_slot) ? node->disk.confirmed : start;
	c->synced_lsn = p->there ? start : 0;
	c->appended = !p->there;	/* the first position has to be written */
	c->alone = UNSYNCED_BATCHES + 1;	/* one more is out while it is being synced */
	c->out = false;
	c->unsynced = 0;
	c->stage = CAPTURE_READS;
	shared->capture_ready = true;
	if (p->there)
		publish(node);
}

/* Drop version entries of transactions that the position does not cover: they may never have been. */
static void
retain(Node *node)
{
	for (uint32_t i = 0; i < node->nversions; i++)
	{
		VersionEntry *entry = &node->versions[i];

		if (entry->origin < MAX_NODES && entry->seq > node->capture.captured[entry->origin])
			entry->origin = NONE;
	}
}

/* Put version entries that may be missing: of commits before the position and after the slot's. */
static void
refill(Node *node, uint32_t from, uint32_t to)
{
	const Log  *log = &node->logs[node->index];

	for (uint32_t i = from; i < to; i++)
	{
		const Wal  *record = &node->wal[i];

		if (record->kind == WAL_REMOTE)
			versions_put(node, record->xid, record->origin, record->seq, record->stamp);
		if (record->kind != WAL_LOCAL)
			continue;
		for (uint32_t b = log->first; b < log->count; b++)
		{
			for (uint32_t t = 0; t < log->batches[b]->count; t++)
			{
				const Captured *captured = log->batches[b]->transactions[t];

				if (captured->xid == record->xid)
					versions_put(node, record->xid, node->index, captured->seq, captured->stamp);
			}
		}
	}
}

/* Read on; when there is nothing, or enough, flush or publish. */
static bool
capture_read(Node *node)
{
	Capture    *c = &node->capture;
	Shared	   *shared = &node->shared;
	uint32_t	limit;
	bool		read = false;

	if (random_chance(&node->random, 50))
		wal_flush(node, node->nwal);
	if (c->below_xid == 0)
	{
		c->below_xid = oldest_running(node);
		c->below_lsn = node->nwal;
	}
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != node->index && shared->catalog.members[i] != MEMBER_FREE &&
			c->captured[i] < shared->required[i])
			c->captured[i] = shared->required[i];
	}
	limit = c->read_lsn + 1 + random_below(&node->random, 6);
	while (c->read_lsn < node->flushed && c->read_lsn < limit)
	{
		record_read(node, &node->wal[c->read_lsn], c->read_lsn + 1);
		c->read_lsn++;
		read = true;
	}
	if (c->nbody > 0 && c->read_lsn < node->flushed && random_chance(&node->random, 60))
		return true;
	if (c->nbody > 0 || c->appended ||
		(c->read_lsn != c->synced_lsn && random_chance(&node->random, 25)))
	{
		append_all(node);
		c->stage = CAPTURE_APPENDED;
		if (c->out && c->unsynced < UNSYNCED_BATCHES && random_chance(&node->random, 60))
		{
			const Log  *log = &node->logs[node->index];

			check_register(node, log->batches[log->count - 1]);
			c->unsynced++;
			c->stage = CAPTURE_SYNCED;
		}
		return true;
	}
	if (shared->captured_lsn < c->read_lsn || read)
		publish(node);
	else
		confirm(node);
	return read;
}

/*
 * Let the slot go, now and then, to where the log is durable; once other logs have durably what was
 * noted in front of that, as this lets the WAL go (src/pg/batchnote.c).
 */
static void
confirm(Node *node)
{
	Capture    *c = &node->capture;
	const Shared *shared = &node->shared;

	if (c->confirm_lsn == 0 && c->synced_lsn > node->disk.confirmed &&
		random_chance(&node->random, 10))
	{
		c->confirm_lsn = c->synced_lsn;
		memcpy(c->confirm_mark, shared->noted_seq, sizeof(c->confirm_mark));
	}
	if (c->confirm_lsn == 0)
		return;
	for (uint32_t i = 0; i < world.nnodes && node->status >= STATUS_CATCHUP; i++)
	{
		uint32_t	noted = c->confirm_mark[i] < shared->noted_seq[i] ? c->confirm_mark[i] :
			shared->noted_seq[i];

		if ((!shared->notes_known || shared->stored[i] < noted) && !PLANTED(confirmed_notes))
			return;
	}
	for (uint32_t i = 0; i < node->nversions; i++)
		node->versions[i].synced = true;
	node->disk.confirmed = c->confirm_lsn;
	c->confirm_lsn = 0;
}

/* One record. */
static void
record_read(Node *node, const Wal *record, uint32_t lsn)
{
	Capture    *c = &node->capture;

	(void) lsn;
	switch ((WalKind) record->kind)
	{
		case WAL_LOCAL:
			local_read(node, record);
			break;
		case WAL_REMOTE:
			if (!PLANTED(no_floor))
				floor_raise(node, record->stamp);
			versions_put(node, record->xid, record->origin, record->seq, record->stamp);
			if (c->captured[record->origin] < record->seq)
				c->captured[record->origin] = record->seq;
			break;
		case WAL_COPY:
			if (!PLANTED(no_copy_floor))
				floor_raise(node, record->stamp);
			break;
		case WAL_FLOOR:
			floor_raise(node, record->stamp);
			break;
		case WAL_BATCH:
		case WAL_MARK:
			break;
	}
}

/* What comes behind this in the WAL gets a greater stamp. */
static void
floor_raise(Node *node, P2pStamp stamp)
{
	Capture    *c = &node->capture;

	if (c->floor < stamp)
		c->floor = stamp;
	if (PLANTED(floor_as_read) && node->shared.floor < stamp)
		node->shared.floor = stamp;
}

/* A transaction of a client here: seq, stamp, deps. */
static void
local_read(Node *node, const Wal *record)
{
	Capture    *c = &node->capture;
	Captured   *t = arena_take(sizeof(Captured));
	Local	   *local = record->local;

	t->local = local;
	t->seq = ++c->seq;
	t->xid = record->xid;
	t->stamp = stamp_give(node, record->time);
	t->deps = vector_keep(PLANTED(shared_deps) ? node->shared.applied : c->captured);
	c->captured[node->index] = t->seq;
	c->stamp = t->stamp;
	if (!local->registered && !local->is_out)
	{
		local->version.stamp = t->stamp;
		local->version.dot.origin = world.origins[node->index];
		local->version.dot.seq = t->seq;
	}
	check_captured(node, local);
	if (c->nbody == MAX_SEQ)
		violation("limit: the body of node %u is full", node->index);
	c->body[c->nbody++] = t;
	c->pending[c->npending++] = (PendingVersion) {t->xid, t->seq, t->stamp};
	TRACE("node %u captures local %u as seq %u, stamp %ld", node->index, local->number, t->seq,
		  (long) t->stamp);
}

static P2pStamp
stamp_give(Node *node, P2pStamp time)
{
	const Capture *c = &node->capture;
	Shared	   *shared = &node->shared;
	P2pStamp	stamp = p2p_stamp_next(time, PLANTED(kept_stamp) ? shared->last_stamp : c->stamp,
									   PLANTED(floor_as_read) ? shared->floor : c->floor);

	if (PLANTED(raw_stamps))
		stamp = time;
	if (shared->last_stamp < stamp)
		shared->last_stamp = stamp;
	if (stamp == time)
		shared->own_time = stamp;
	return stamp;
}

/* Seal what was read, and append it and a position. */
static void
append_all(Node *node)
{
	Capture    *c = &node->capture;
	Log		   *log = &node->logs[node->index];
	uint32_t	done = 0;
	uint32_t	before = log->count;

	while (done < c->nbody)
	{
		uint32_t	n = 1 + random_below(&node->random, node->batch_size);
		Batch	   *batch;

		if (c->alone > 0 && !PLANTED(sealed_with_more))
			n = 1;
		if (c->alone > 0)
			c->alone--;
		if (n > c->nbody - done)
			n = c->nbody - done;
		batch = arena_take(sizeof(Batch) + n * sizeof(Captured *));
		batch->origin = node->index;
		batch->count = n;
		memcpy(batch->transactions, &c->body[done], n * sizeof(Captured *));
		batch->span.first_seq = batch->transactions[0]->seq;
		batch->span.last_seq = batch->transactions[n - 1]->seq;
		batch->span.final = true;
		batch->last_stamp = batch->transactions[n - 1]->stamp;
		log_append(node, log, batch);
		done += n;
	}
	c->nbody = 0;
	c->out = log->count == before + 1 && batch_is_out(log->batches[before]);
	c->appended_tick = world.tick;
	c->appended = false;
	c->position.there = true;
	c->position.lsn = c->read_lsn;
	c->position.seq = c->seq;
	c->position.stamp = c->stamp;
	c->position.floor = PLANTED(floor_as_read) ? node->shared.floor : c->floor;
	c->position.batches = log->count;
	memcpy(c->position.vector, c->captured, sizeof(c->captured));
	if (PLANTED(early_confirm))
		node->disk.confirmed = c->read_lsn;
}

/* The version entries of transactions that are durable now. */
static void
versions_enter(Node *node)
{
	Capture    *c = &node->capture;

	for (uint32_t i = 0; i < c->npending; i++)
		versions_put(node, c->pending[i].xid, node->index, c->pending[i].seq, c->pending[i].stamp);
	c->npending = 0;
}

/* Tell the others on this node how far we are. */
static void
publish(Node *node)
{
	Capture    *c = &node->capture;
	Shared	   *shared = &node->shared;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (shared->captured[i] < c->captured[i])
			shared->captured[i] = c->captured[i];
	}
	if (shared->captured_lsn < c->read_lsn)
		shared->captured_lsn = c->read_lsn;
	if (shared->floor < c->floor)
		shared->floor = c->floor;
	if (c->below_xid != 0 && c->below_lsn <= c->read_lsn)
	{
		if (shared->captured_below < c->below_xid)
			shared->captured_below = c->below_xid;
		c->below_xid = 0;
	}
	shared->stored[node->index] = c->seq;
	if (shared->applied[node->index] < c->seq)
		shared->applied[node->index] = c->seq;
}
