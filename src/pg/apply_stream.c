/*
 * apply_stream.c
 *	  The transactions of one origin, read from its change log one after the
 *	  other.
 *
 * A stream stands inside a batch: its body is unpacked once and walked item by
 * item. A large transaction goes over several batches (parts), each with its
 * own descriptions and a repeated BEGIN. It reads parts of a
 * transaction whose last part is not here yet (apply_early.c), too: bytes that the origin has
 * signed, and that are the same from whomever the others come. After an error,
 * or when the log was written anew, rp_stream_reset makes the next peek seek again.
 *
 * It reads what gossip has written and is still syncing. Nothing may be committed that
 * is less durable than the commit itself; so before that (rp_stream_secure), each batch of which
 * something is in the local transaction is made sure of, once:
 *
 *	  stored already					nothing is to be done
 *	  one small transaction				its bytes go into the WAL in front of the commit record,
 *										which is durable only after them (batchnote.c)
 *	  several, or large					the commit waits for the sync (pull_store.c begins it at
 *										once): to write them twice would cost as much
 *
 * A group of transactions may go on into the next batch. The bytes of the one before are gone then,
 * so it is made sure of when the stream leaves it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "apply_internal.h"
#include "batchnote.h"
#include "monotonic.h"
#include "walnote.h"

/*
 * A transaction that waits so long for its log to be synced is given up, as it
 * holds locks; it is applied when that is done.
 */
#define STORED_PATIENCE_US ((int64) 2000000)

struct RpStream
{
	RpNode	   *node;
	int			slot;
	P2pOrigin	origin;
	MemoryContext context;		/* of the stream */
	MemoryContext body_context; /* of the current body */
	RpLogReader *log;
	uint64		opened;			/* RpLogExtent, as it was before we read */
	P2pBatch	batch;
	P2pBlock	bytes;			/* of it, as in the log; NULL: not at hand any more */
	bool		in_use;			/* the end of a transaction was read from it, whose commit is to come */
	uint64		noted_seq;		/* up to here the WAL has what was not durable */
	uint64		secured_seq;	/* up to here that is so, or will be awaited */
	uint64		awaited_seq;	/* up to here the log has to be durable before the commit; 0 = no matter */
	P2pBodyReader body;
	void	   *body_memory;
	P2pItem		item;
	P2pRelation *described;		/* by relno */
	RpRelationMap **maps;		/* by relno; looked up on first use in each transaction */
	uint64	   *maps_generation;
	uint64		generation;		/* grows with every transaction */
	uint64		unsure_seq;		/* up to this only what is durable is read */
	uint64		after_seq;		/* where the log reader was last sought to */
	bool		positioned;		/* the log reader stands somewhere known */
	bool		in_body;
	bool		peeked;			/* item is the BEGIN of transaction peeked_seq */
	uint64		peeked_seq;
	P2pStamp	stamp;			/* of that transaction; 0 after a reset */
	uint64		change;			/* changes read of that transaction; 0 before the first */
	bool		at_change;		/* item is that change */
	const uint64 *skips;		/* further changes of it to be passed over, by number, ascending */
	int			nskips;
	P2pVector	deps;
};

static bool stream_next_body(RpStream *stream);
static P2pItem *stream_next_item(RpStream *stream);
static RpRelationMap *stream_map(RpStream *stream, uint32 relno);
static uint64 stored_seq(RpStream *stream);
static RpLogLimit readable(RpStream *stream);
static void batch_secure(RpStream *stream);
static void wait_stored(RpStream *stream, uint64 seq);

RpStream *
rp_stream_create(RpNode *node, int slot)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "replp2p stream",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RpStream   *stream = palloc0(sizeof(RpStream));

	stream->node = node;
	stream->slot = slot;
	stream->origin = node->members[slot].origin;
	stream->context = context;
	stream->body_context = AllocSetContextCreate(context, "replp2p stream body",
												 ALLOCSET_DEFAULT_SIZES);
	stream->body_memory = palloc(p2p_body_reader_memory());
	stream->described = palloc0(sizeof(P2pRelation) * P2P_MAX_BODY_RELATIONS);
	stream->maps = palloc0(sizeof(RpRelationMap *) * P2P_MAX_BODY_RELATIONS);
	stream->maps_generation = palloc0(sizeof(uint64) * P2P_MAX_BODY_RELATIONS);
	MemoryContextSwitchTo(old);
	return stream;
}

void
rp_stream_reset(RpStream *stream)
{
	if (stream->log)
		rp_log_close_reader(stream->log);
	stream->log = NULL;
	stream->bytes.bytes = NULL;
	stream->in_use = false;
	stream->awaited_seq = 0;
	stream->positioned = false;
	stream->in_body = false;
	stream->peeked = false;
	stream->stamp = 0;
	stream->change = 0;
	stream->at_change = false;
	stream->nskips = 0;
}

/* How far the log is durable. */
static uint64
stored_seq(RpStream *stream)
{
	uint64		seq;

	SpinLockAcquire(&stream->node->vector_lock);
	seq = stream->node->members[stream->slot].stored_seq;
	SpinLockRelease(&stream->node->vector_lock);
	return seq;
}

/* How far the log can be read: what is being synced included, unless that took too long before. */
static RpLogLimit
readable(RpStream *stream)
{
	const RpMember *member = &stream->node->members[stream->slot];
	RpLogLimit	stored = {0, 0};
	RpLogLimit	written = {0, 0};

	SpinLockAcquire(&stream->node->vector_lock);
	stored.seq = member->stored_seq;
	written.seq = member->written_seq;
	written.parts = member->written_parts;
	SpinLockRelease(&stream->node->vector_lock);
	return stored.seq >= stream->unsure_seq && written.seq >= stored.seq ? written : stored;
}

void
rp_stream_secure(RpStream *stream, uint64 seq)
{
	if (stream->in_use)
		batch_secure(stream);
	if (stream->awaited_seq > 0)
		wait_stored(stream, stream->awaited_seq);
	stream->awaited_seq = 0;
	stream->in_use = false;
	Assert(stream->secured_seq >= seq);
}

/* See to it that the batch at hand is durable if our next commit is, or have that wait for it. */
static void
batch_secure(RpStream *stream)
{
	uint64		last_seq = stream->batch.span.last_seq;

	stream->secured_seq = last_seq;
	if (stored_seq(stream) >= last_seq)
		return;
	if (!rp_wal_note_takes(&stream->batch))
	{
		stream->awaited_seq = last_seq;
		return;
	}
	if (stream->noted_seq >= last_seq &&
		rp_log_extent(stream->node, stream->slot).opened == stream->opened)
		return;
	if (!rp_batch_note(stream->node, stream->slot, stream->opened, last_seq, &stream->bytes))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the change log was opened anew, and is read again")));
	stream->noted_seq = last_seq;
}

/* Wait until the log is durable up to seq; ERROR if that takes too long. */
static void
wait_stored(RpStream *stream, uint64 seq)
{
	int64		until = rp_monotonic_us() + STORED_PATIENCE_US;

	while (stored_seq(stream) < seq)
	{
		int64		left_us = until - rp_monotonic_us();

		ResetLatch(MyLatch);
		if (stored_seq(stream) >= seq)
			break;
		if (left_us <= 0)
		{
			stream->unsure_seq = seq;
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the change log is not synced in time")));
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) ((left_us + 999) / 1000), PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
}

bool
rp_stream_peek(RpStream *stream, uint64 after_seq, P2pBegin *begin, const P2pVector **deps)
{
	RpLogLimit	limit = readable(stream);
	uint64		opened = rp_log_extent(stream->node, stream->slot).opened;

	if (limit.seq < after_seq || (limit.seq == after_seq && limit.parts == 0))
		return false;
	if (stream->peeked && stream->peeked_seq != after_seq + 1)
		rp_stream_reset(stream);
	/* what we hold of it could not be noted any more */
	if (stream->opened != opened && !stream->in_use && stream->awaited_seq == 0)
		rp_stream_reset(stream);
	if (!stream->positioned)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->context);

		if (stream->opened != opened)
			stream->noted_seq = 0;
		stream->opened = opened;
		stream->log = rp_log_open_reader(stream->node->dboid, &stream->origin);
		MemoryContextSwitchTo(old);
		if (!rp_log_seek(stream->log, after_seq, 0, false))
		{
			rp_stream_reset(stream);
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the change log here no longer has transaction " UINT64_FORMAT " of this origin",
							after_seq + 1)));
		}
		stream->positioned = true;
	}
	while (!stream->peeked)
	{
		P2pItem    *item = stream_next_item(stream);

		if (item == NULL)
			return false;
		if (item->tag != P2P_TAG_BEGIN || item->begin.seq <= after_seq)
			continue;
		if (item->begin.seq != after_seq + 1)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the change log jumps from transaction " UINT64_FORMAT " to " UINT64_FORMAT,
							after_seq, item->begin.seq)));
		stream->peeked = true;
		stream->peeked_seq = item->begin.seq;
		if (stream->batch.span.partial)
			stream->deps = stream->body.deps;	/* over the ends of bodies */
		stream->generation++;
		stream->stamp = item->begin.stamp;
		stream->change = 0;
		stream->nskips = 0;
	}
	*begin = stream->item.begin;
	*deps = stream->batch.span.partial ? &stream->deps : &stream->body.deps;
	return true;
}

/* Unpack the next batch; false: there is none yet. */
static bool
stream_next_body(RpStream *stream)
{
	RpLogLimit	limit = readable(stream);
	P2pBlock	body;
	P2pStatus	status;

	if (stream->in_use)
		batch_secure(stream);
	stream->bytes.bytes = NULL;
	status = rp_log_read_to(stream->log, &limit, &stream->bytes, &stream->batch);
	if (status == P2P_END)
		return false;
	stream->in_use = false;
	if (status == P2P_OK)
		status = rp_log_unpack(stream->log, &stream->batch, &body);
	if (status != P2P_OK)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change log cannot be read: %s", p2p_status_text(status))));
	MemoryContextReset(stream->body_context);
	p2p_body_reader_init(&stream->body, stream->body_memory, body.bytes, body.length,
						 &stream->batch.deps);
	stream->in_body = true;
	return true;
}

/* Return the next item other than a description, over the ends of bodies; NULL: nothing yet. */
static P2pItem *
stream_next_item(RpStream *stream)
{
	for (;;)
	{
		P2pStatus	status;

		stream->at_change = false;
		if (!stream->in_body && !stream_next_body(stream))
			return NULL;
		status = p2p_body_next(&stream->body, &stream->item);
		if (status == P2P_END)
		{
			stream->in_body = false;
			continue;
		}
		if (status != P2P_OK)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("malformed batch: %s", p2p_status_text(status))));
		if (stream->item.tag == P2P_TAG_RELATION)
		{
			P2pRelation *copy = &stream->described[stream->item.relation.relno];
			Size		size = sizeof(P2pColumn) * Max(stream->item.relation.ncolumns, 1);

			*copy = stream->item.relation;
			copy->columns = MemoryContextAlloc(stream->body_context, size);
			memcpy(copy->columns, stream->item.relation.columns, size);
			stream->maps_generation[copy->relno] = 0;
			continue;
		}
		return &stream->item;
	}
}

/* The map of a relation of the current body, looked up once a transaction. */
static RpRelationMap *
stream_map(RpStream *stream, uint32 relno)
{
	if (stream->maps_generation[relno] != stream->generation)
	{
		stream->maps[relno] = rp_relation_map(&stream->described[relno]);
		stream->maps_generation[relno] = stream->generation;
	}
	return stream->maps[relno];
}

void
rp_stream_skip(RpStream *stream, const uint64 *changes, int n)
{
	stream->skips = changes;
	stream->nskips = n;
}

/* Is the change that was just read to be passed over? Both come in ascending order. */
static bool
change_is_skipped(RpStream *stream)
{
	while (stream->nskips > 0 && stream->skips[0] < stream->change)
	{
		stream->skips++;
		stream->nskips--;
	}
	return stream->nskips > 0 && stream->skips[0] == stream->change;
}

bool
rp_stream_change(RpStream *stream, RpStreamChange *out)
{
	uint32		relno;

	if (!stream->at_change)
		return false;
	relno = stream->item.tag == P2P_TAG_TRUNCATE ? stream->body.relnos[0] : stream->item.relno;
	out->change = stream->change;
	out->tag = stream->item.tag;
	out->relation = &stream->described[relno];
	out->old_values = stream->item.has_old ? stream->body.old_values : NULL;
	out->new_values = stream->item.tag == P2P_TAG_INSERT || stream->item.tag == P2P_TAG_UPDATE ?
		stream->body.new_values : NULL;
	return true;
}

const P2pRelation *
rp_stream_truncated(RpStream *stream, uint32 n)
{
	if (!stream->at_change || stream->item.tag != P2P_TAG_TRUNCATE || n >= stream->item.nrelnos)
		return NULL;
	return &stream->described[stream->body.relnos[n]];
}

P2pStamp
rp_stream_stamp(RpStream *stream)
{
	return stream->stamp;
}

bool
rp_stream_is_large(RpStream *stream)
{
	return stream->batch.span.partial;
}

bool
rp_stream_has(RpStream *stream, uint64 after_seq, uint64 n)
{
	return readable(stream).seq >= after_seq + n;
}

bool
rp_stream_part_has_come(RpStream *stream)
{
	RpLogLimit	limit = readable(stream);

	Assert(stream->peeked && !stream->in_body && !stream->batch.span.final);
	return limit.seq >= stream->peeked_seq ||
		(limit.seq == stream->peeked_seq - 1 && limit.parts > stream->batch.span.part + 1);
}

void
rp_stream_has_no_end(RpStream *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("transaction " UINT64_FORMAT " has no end in the change log", stream->peeked_seq),
			 errhint("It is tried again by itself; if it stays so, have this node "
					 "leave the group and join again.")));
}

bool
rp_stream_next(RpStream *stream, RpStreamItem *out)
{
	P2pItem    *item;

	Assert(stream->peeked);
	memset(out, 0, sizeof(*out));
	for (;;)
	{
		item = stream_next_item(stream);
		if (item == NULL && !stream->batch.span.final)
		{
			out->awaited = true;
			return true;
		}
		if (item == NULL)
			rp_stream_has_no_end(stream);
		if (item->tag == P2P_TAG_COMMIT)
		{
			stream->peeked = false;
			stream->in_use = true;
			return false;
		}
		if (item->tag != P2P_TAG_BEGIN)
			break;				/* a repeated BEGIN opens each further part */
	}
	stream->change++;
	stream->at_change = true;
	out->tag = item->tag;
	out->change = stream->change;
	out->skipped = change_is_skipped(stream);
	if (out->skipped)
		return true;			/* there may be no table to look up */
	if (item->tag == P2P_TAG_TRUNCATE)
	{
		out->truncate_flags = item->truncate_flags;
		for (uint32 i = 0; i < item->nrelnos; i++)
		{
			RpRelationMap *map = stream_map(stream, stream->body.relnos[i]);

			if (OidIsValid(map->relid))
				out->truncated = lappend(out->truncated, map);
		}
		return true;
	}
	out->map = stream_map(stream, item->relno);
	if (item->has_old)
		out->old_values = stream->body.old_values;
	if (item->tag != P2P_TAG_DELETE)
		out->new_values = stream->body.new_values;
	return true;
}
