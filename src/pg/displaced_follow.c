/*
 * displaced_follow.c
 *	  Displaced rows come back: after what apply or local clients have changed in a
 *	  table, its displaced rows are judged anew, between apply's transactions.
 *
 *	  follow the own log --> rows that a local write superseded are forgotten
 *	  each table that has displaced rows and was changed: walk them, the greatest first
 *		a row in the table is greater	it is pinned (displaced.c); the row stays displaced
 *		none is							the row comes back, in a transaction of its own
 *
 * This is the rule itself (p2p_unique.h): since greater rows have their final
 * verdict when a row is looked at, one walk settles the table. Whom a row that
 * comes back displaces is less than it, and met later in the same walk.
 *
 * A row comes back with exactly its version: its transaction commits under the
 * replication origin of the version's node, with its seq as origin_lsn and its
 * stamp as origin_timestamp. Capture takes that from the commit record into the version
 * index; a seq that is long applied moves no vector. A row that this node itself
 * wrote has an origin for it, too (members[RP_SELF].roident). Apply puts no version entry
 * of its own: were the commit lost in a crash and the xid given to somebody else,
 * the entry would look like one that is covered. A row older than everything comes back under the
 * origin of copies, which says of no version.
 *
 * Nobody waits for this, and it waits for nobody: a row that a local transaction has in
 * work stays as it is, and is looked at again a little later. Until a walk has
 * gone through, nothing is dropped as stable (rp_droppable_seq): the pins that it makes
 * need the versions. Nor before tracked_follow.c has looked at the keys that were touched by then, however
 * often it fails: a client may have inserted the key of a displaced row that has counted, and who adds
 * up needs what both have written.
 *
 * When apply starts every table is walked over, since nobody knows what was left undone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "crashpoint.h"
#include "displaced.h"
#include "handlers.h"
#include "keyset.h"
#include "monotonic.h"
#include "ownlog.h"
#include "rowbody.h"

/* Rows that are read at once. */
#define WALK_ROWS 64
/* After a walk that met a local transaction, or an error. */
#define RETRY_MS 200
#define RETRY_LAST_MS 30000
/* A walk costs what it costs: this many times as long nothing of it is done afterwards. */
#define REST_FACTOR 4
#define REST_LAST_MS 1000

/* A walk over one table's displaced rows. */
typedef struct Walk
{
	Oid			relid;
	bool		busy;			/* a local transaction was met */
	bool		changed;		/* a row came back */
	RpDisplacedRow *last;		/* up to here it has gone; NULL: not begun */
	RpDisplacedRow *returning;	/* comes back next */
	List	   *pins;			/* RpKeyHash * that are in use */
	MemoryContext context;		/* of all that; transactions come and go */
} Walk;

static RpNode *our_node;
static int64 due_us = 0;
static int	retry_ms = 0;
static MemoryContext follow_context = NULL;
static Oid	save_user;			/* who we are, within a transaction; an ERROR's abort puts it back */
static int	save_sec;
static uint64 walked_seqs[RP_MAX_MEMBERS];	/* as of the beginning of the last walk */
static bool walk_waits = false; /* it has gone through, and waits for keys to be followed */

static bool own_log_is_new(void);
static void own_log_note(void);
static bool tables_walk(bool *settled);
static bool table_walk(Oid relid, bool *settled);
static bool walk_on(Walk *walk);
static void row_look(Walk *walk, RpApplyTransaction *txn, RpOpenRelation *open, RpDisplacedRow *row);
static void row_return(Walk *walk);
static bool row_is_superseded(RpApplyTransaction *txn, RpOpenRelation *open);
static void row_confirm(RpApplyTransaction *txn, RpOpenRelation *open,
						const RpDisplacedRow *row);
static void table_end(Walk *walk);
static void seqs_read(uint64 *seqs);
static void seqs_publish(RpDisplaced displaced, const uint64 *seqs);
static void others_publish(void);
static void transaction_begin(RpApplyTransaction *txn);
static void owner_become(RpOpenRelation *open);
static void transaction_end(void);
static void follow_failed(MemoryContext context);

bool
rp_displaced_follow_up(RpNode *node)
{
	MemoryContext old;
	volatile bool done = false;
	volatile bool settled = true;
	int64		start = rp_monotonic_us();

	our_node = node;
	if (rp_displaced_is_empty())
	{
		walk_waits = false;
		if (node->displaced != RP_DISPLACED_NONE && !rp_keysets_any_touched())
			seqs_publish(RP_DISPLACED_NONE, NULL);
		due_us = 0;
		return false;
	}
	if (start < due_us)
		return false;
	if (!rp_displaced_any_dirty() && !own_log_is_new())
	{
		others_publish();
		return false;
	}
	due_us = 0;
	if (follow_context == NULL)
		follow_context = AllocSetContextCreate(TopMemoryContext, "replp2p displaced rows",
											   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(follow_context);
	PG_TRY();
	{
		bool		all = true;

		walk_waits = false;
		seqs_read(walked_seqs);
		own_log_note();
		done = tables_walk(&all);
		settled = all;
		if (all)
		{
			if (rp_keysets_any_touched())
				walk_waits = true;
			else
				seqs_publish(RP_DISPLACED_SOME, walked_seqs);
			retry_ms = 0;
		}
	}
	PG_CATCH();
	{
		follow_failed(follow_context);
		settled = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextReset(follow_context);
	if (!settled)
	{
		retry_ms = retry_ms == 0 ? RETRY_MS : Min(retry_ms * 2, RETRY_LAST_MS);
		due_us = rp_monotonic_us() + retry_ms * INT64CONST(1000);
	}
	else
	{
		int64		end = rp_monotonic_us();

		due_us = end + Min((end - start) * REST_FACTOR, REST_LAST_MS * INT64CONST(1000));
	}
	return done;
}

void
rp_displaced_keys_followed(void)
{
	if (walk_waits)
		seqs_publish(RP_DISPLACED_SOME, walked_seqs);
	walk_waits = false;
}

int64
rp_displaced_due_us(void)
{
	return due_us;
}

/* Has capture read local transactions that the own log was not followed to? */
static bool
own_log_is_new(void)
{
	uint64		captured;

	SpinLockAcquire(&our_node->vector_lock);
	captured = our_node->members[RP_SELF].captured_seq;
	SpinLockRelease(&our_node->vector_lock);
	return captured > our_node->members[RP_SELF].rechecked_seq;
}

/* Learn what local clients have written, and forget the displaced rows that it supersedes. */
static void
own_log_note(void)
{
	bool		any;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	RP_CRASH_POINT("displaced_before_follow");
	rp_own_log_follow_captured();
	any = rp_displaced_notes_apply();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(follow_context);
	if (any)
		rp_displaced_notes_done();
}

/* Walk over every table that was changed; *settled: all went through. True if a row came back. */
static bool
tables_walk(bool *settled)
{
	List	   *relids = rp_displaced_tables();
	ListCell   *cell;
	bool		changed = false;

	foreach(cell, relids)
	{
		if (rp_displaced_is_dirty(lfirst_oid(cell)))
			changed |= table_walk(lfirst_oid(cell), settled);
	}
	return changed;
}

/* Walk over the displaced rows of one table. */
static bool
table_walk(Oid relid, bool *settled)
{
	Walk		walk = {.relid = relid, .context = CurrentMemoryContext};

	rp_displaced_set_dirty(relid, false);
	PG_TRY();
	{
		while (walk_on(&walk))
			row_return(&walk);
		if (!walk.busy)
			table_end(&walk);
	}
	PG_CATCH();
	{
		rp_displaced_set_dirty(relid, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (walk.busy)
	{
		rp_displaced_set_dirty(relid, true);
		*settled = false;
	}
	return walk.changed;
}

/* Look at rows until one is to come back (true), or there is no more. */
static bool
walk_on(Walk *walk)
{
	RpApplyTransaction txn = {.node = our_node, .no_wait = true};
	RpOpenRelation *open;
	List	   *rows;

	walk->returning = NULL;
	transaction_begin(&txn);
	open = rp_displaced_open(walk->relid);
	if (open == NULL)
	{
		(void) rp_displaced_remove_orphans();
		transaction_end();
		return false;
	}
	owner_become(open);
	do
	{
		ListCell   *cell;

		MemoryContextSwitchTo(walk->context);
		rows = rp_displaced_list(walk->relid, walk->last, WALK_ROWS);
		MemoryContextSwitchTo(txn.change_context);
		foreach(cell, rows)
		{
			CHECK_FOR_INTERRUPTS();
			walk->last = lfirst(cell);
			row_look(walk, &txn, open, walk->last);
			ResetPerTupleExprContext(open->estate);
			MemoryContextReset(txn.change_context);
			if (walk->returning)
				break;
		}
	} while (rows != NIL && walk->returning == NULL);
	rp_relation_close(open);
	transaction_end();
	MemoryContextSwitchTo(walk->context);
	return walk->returning != NULL;
}

/* Look who in the table is greater than one row, and pin them; nobody: the row is to come back. */
static void
row_look(Walk *walk, RpApplyTransaction *txn, RpOpenRelation *open, RpDisplacedRow *row)
{
	List	   *neighbours;
	RpNeighbour *greatest;
	RpVerdict	verdict;
	ListCell   *cell;

	rp_rowbody_decode(open, row->image, open->image);
	verdict = rp_unique_judge_row(txn, open, open->image, &row->version, NULL, false,
								  &neighbours, &greatest);
	if (verdict == RP_BUSY)
		walk->busy = true;
	if (verdict == RP_STANDS)
		walk->returning = row;
	foreach(cell, neighbours)
	{
		RpNeighbour *other = lfirst(cell);
		RpSlotVersion pinned;
		MemoryContext old;
		RpKeyHash  *pin;

		if (rp_slot_version_compare(&other->version, &row->version) < 0)
			continue;
		old = MemoryContextSwitchTo(walk->context);
		pin = palloc_object(RpKeyHash);
		*pin = rp_key_hash(open->map, other->row);
		walk->pins = lappend(walk->pins, pin);
		MemoryContextSwitchTo(old);
		if (!rp_displaced_pinned(open, other->row, &pinned) ||
			rp_slot_version_compare(&other->version, &pinned) != 0)
			rp_displaced_pin(open, other->row, &other->version);
	}
	if (verdict == RP_DISPLACED &&
		rp_slot_version_compare(&greatest->version, &row->by_version) != 0)
		rp_displaced_set_by(open, row, greatest->row, &greatest->version);
	rp_unique_release(neighbours);
}

/* Put a row back into its table, under its own version. */
static void
row_return(Walk *walk)
{
	RpDisplacedRow *row = walk->returning;
	RpApplyTransaction txn = {.node = our_node, .no_wait = true};
	RepOriginId origin = our_node->members[row->version.slot].roident;
	RpOpenRelation *open;

	transaction_begin(&txn);
	txn.slot_version = row->version;
	txn.version = rp_version_of(our_node, &row->version);
	if (row->version.seq == 0 || origin == InvalidRepOriginId)
	{
		replorigin_session_origin = RP_COPY_ORIGIN;
		replorigin_session_origin_lsn = InvalidXLogRecPtr;
		replorigin_session_origin_timestamp = 0;
	}
	else
		rp_apply_origin_set(row->version.slot, row->version.seq, row->version.stamp);
	open = rp_displaced_open(walk->relid);
	if (open == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("a table with displaced rows has just gone")));
	owner_become(open);
	rp_rowbody_decode(open, row->image, open->store);
	if (row_is_superseded(&txn, open))
	{
		if (!rp_displaced_is_followed(walk->relid, row->hash))
			rp_displaced_forget(walk->relid, row->hash);
	}
	else
	{
		RpStored	stored;

		rp_displaced_forget(walk->relid, row->hash);
		stored = rp_unique_store(&txn, open, RP_HERE_NOTHING, &row->version);
		if (stored == RP_STORE_AGAIN)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a local transaction has a row of table \"%s\" in work",
							RelationGetRelationName(open->rel))));
		if (stored == RP_STORED)	/* else somebody was faster */
		{
			/* its version may have been free to be forgotten for long, and this walk not get to whom it displaces */
			rp_displaced_pin(open, open->store, &row->version);
			row_confirm(&txn, open, row);
		}
		walk->changed |= stored == RP_STORED;
	}
	rp_relation_close(open);
	RP_CRASH_POINT("displaced_before_return");
	transaction_end();
	RP_CRASH_POINT("displaced_after_return");
	MemoryContextSwitchTo(walk->context);
}

/* Has a local client written the key anew? Then his version is greater, and known from now on. */
static bool
row_is_superseded(RpApplyTransaction *txn, RpOpenRelation *open)
{
	if (!rp_row_find(open, open->store, open->local))
		return false;
	(void) rp_row_version(txn, open, open->local);
	rp_own_log_follow_captured();
	ExecClearTuple(open->local);
	return true;
}

/*
 * The row is in the table: take it out again if a client has deleted the key, or emptied the table, without our
 * knowing. Only such local writes are asked for that were not known when the row was displaced, and so are
 * noted. A tombstone would not do: it may be one that the row had beaten by a change of the handler, which nobody
 * remembers once that is settled.
 */
static void
row_confirm(RpApplyTransaction *txn, RpOpenRelation *open, const RpDisplacedRow *row)
{
	rp_apply_deletes_complete(txn, open->map->relid);
	if (!rp_displaced_is_superseded(open->map->relid, row))
		return;
	CommandCounterIncrement();
	rp_row_delete(open, open->store);
}

/* The walk has gone through: what is left of the table's pins, and is anything left at all? */
static void
table_end(Walk *walk)
{
	List	   *left;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rp_displaced_unpin(walk->relid, walk->pins);
	left = rp_displaced_list(walk->relid, NULL, 1);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(walk->context);
	if (left == NIL)
		rp_displaced_table_done(walk->relid);
}

/* Up to where is everything applied and captured? */
static void
seqs_read(uint64 *seqs)
{
	SpinLockAcquire(&our_node->vector_lock);
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
		seqs[slot] = slot == RP_SELF ? our_node->members[slot].captured_seq :
			our_node->members[slot].applied_seq;
	SpinLockRelease(&our_node->vector_lock);
}

/* Displaced rows have been judged after all of this. */
static void
seqs_publish(RpDisplaced displaced, const uint64 *seqs)
{
	SpinLockAcquire(&our_node->vector_lock);
	our_node->displaced = displaced;
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
		our_node->members[slot].rechecked_seq = seqs ? seqs[slot] : 0;
	SpinLockRelease(&our_node->vector_lock);
}

/* Nothing was changed that displaced rows hang on: what was applied of others meanwhile needs no walk. */
static void
others_publish(void)
{
	if (rp_keysets_any_touched())
		return;
	SpinLockAcquire(&our_node->vector_lock);
	for (int slot = RP_SELF + 1; slot < our_node->nmembers; slot++)
		our_node->members[slot].rechecked_seq = our_node->members[slot].applied_seq;
	SpinLockRelease(&our_node->vector_lock);
}

static void
transaction_begin(RpApplyTransaction *txn)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	GetUserIdAndSecContext(&save_user, &save_sec);
	txn->change_context = AllocSetContextCreate(TopTransactionContext, "replp2p displaced row",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(TopTransactionContext);
}

/* Code of the table's owner runs as that owner; until the transaction ends. */
static void
owner_become(RpOpenRelation *open)
{
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
}

static void
transaction_end(void)
{
	SetUserIdAndSecContext(save_user, save_sec);
	PopActiveSnapshot();
	CommitTransactionCommand();
	replorigin_session_origin = InvalidRepOriginId;
}

/* Undo, say what happened unless a local transaction was in the way, and try again later. */
static void
follow_failed(MemoryContext context)
{
	ErrorData  *error;
	static char last[RP_ERROR_TEXT_SIZE];

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->elevel >= FATAL || ProcDiePending)
		PG_RE_THROW();
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED &&
		strncmp(last, error->message, sizeof(last) - 1) != 0)
	{
		strlcpy(last, error->message, sizeof(last));
		EmitErrorReport();
	}
	FlushErrorState();
	AbortCurrentTransaction();
	replorigin_session_origin = InvalidRepOriginId;
}
