/*
 * apply_run.c
 *	  Inserts in runs: rows of one transaction for one table, put into its pages
 *	  by one call, and into its index after that.
 *
 * A row costs a page look-up, a lock and a WAL record; a page full of them costs hardly more than
 * one. So from the RUN_FROM-th insert in a row on that a transaction makes into a table, rows
 * are gathered, and stored when something else comes, the transaction (or its subtransaction, of a
 * group) ends, or there are enough. Only where hardly anything can be in the way:
 *
 *	  - the table has no unique index but that of its key, nothing that the executor would have to
 *		compute, no handler, no displaced rows;
 *	  - the key has no tombstone;
 *	  - no insert into the table has met a row lately (RpRelationMap.glances).
 *
 * What apply_change.c says of inserts without a glance holds for each row: the unique index
 * tells what is there. A row that meets another one is taken out again, and goes the
 * usual way. Then, with all rows in the index, undecoded local deletes are asked for once.
 *
 * An error while a run is stored belongs to none of the changes that were just read. So it is
 * not noted: the transaction is applied once more without runs (apply_commit.c).
 *
 * Called by apply_change.c and apply_commit.c.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply_internal.h"
#include "displaced.h"
#include "handlers.h"

#define RUN_FROM 8
#define RUN_ROWS 500
#define RUN_BYTES (256 * 1024)

static struct
{
	RpOpenRelation *open;		/* of the rows; NULL: there are none */
	MemoryContext memory;		/* of what storing them takes */
	int			n;
	Size		bytes;
}			run;

static bool is_fit(RpApplyTransaction *txn, RpOpenRelation *open);
static void run_store(RpApplyTransaction *txn, RpOpenRelation *open, Bitmapset **met);
static void run_reconsider(RpApplyTransaction *txn, RpOpenRelation *open, Bitmapset *met);
static void row_restore(RpOpenRelation *open, TupleTableSlot *row);

bool
rp_run_take(RpApplyTransaction *txn, RpOpenRelation *open)
{
	TupleTableSlot *slot;
	MemoryContext old;
	HeapTuple	tuple;

	txn->streak = open == txn->streak_of ? txn->streak + 1 : 1;
	txn->streak_of = open;
	if (txn->streak < RUN_FROM || !is_fit(txn, open))
		return false;
	Assert(run.open == NULL || run.open == open);
	if (run.memory == NULL)
		run.memory = AllocSetContextCreate(TopMemoryContext, "replp2p run", ALLOCSET_DEFAULT_SIZES);
	rp_row_build(open, NULL);
	old = MemoryContextSwitchTo(open->memory);	/* the slots' */
	if (open->run == NULL)
		open->run = palloc0_array(TupleTableSlot *, RUN_ROWS);
	if (open->run[run.n] == NULL)
		open->run[run.n] = ExecInitExtraTupleSlot(open->estate, open->store->tts_tupleDescriptor,
												  &TTSOpsHeapTuple);
	slot = open->run[run.n];
	MemoryContextSwitchTo(slot->tts_mcxt);	/* else it would be copied there */
	tuple = heap_form_tuple(open->store->tts_tupleDescriptor, open->store->tts_values,
							open->store->tts_isnull);
	MemoryContextSwitchTo(old);
	ExecStoreHeapTuple(tuple, slot, true);
	slot->tts_tableOid = RelationGetRelid(open->rel);
	run.open = open;
	run.n++;
	run.bytes += tuple->t_len;
	if (run.n == RUN_ROWS || run.bytes >= RUN_BYTES)
		(void) rp_run_flush(txn);
	return true;
}

/* May the incoming row be stored in a run? */
static bool
is_fit(RpApplyTransaction *txn, RpOpenRelation *open)
{
	RpSlotVersion tombstone;
	Oid			relid = open->map->relid;

	return !txn->careful && open->plain && open->key_alone && open->map->glances == 0 &&
		!rp_displaced_in(relid) && rp_handlers_of(relid) == NULL &&
		!rp_keyindex_tombstone(relid, rp_key_hash(open->map, open->incoming), &tombstone);
}

bool
rp_run_flush(RpApplyTransaction *txn)
{
	RpOpenRelation *open = run.open;
	Bitmapset  *met = NULL;
	MemoryContext old;
	Oid			save_user;
	int			save_sec;

	if (open == NULL)
		return false;
	txn->storing_run = true;
	old = MemoryContextSwitchTo(run.memory);
	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	run_store(txn, open, &met);
	run_reconsider(txn, open, met);
	SetUserIdAndSecContext(save_user, save_sec);
	for (int i = 0; i < run.n; i++)
		ExecClearTuple(open->run[i]);
	MemoryContextSwitchTo(old);
	rp_run_abort();
	txn->storing_run = false;
	return true;
}

void
rp_run_abort(void)
{
	run.open = NULL;
	run.n = 0;
	run.bytes = 0;
	if (run.memory != NULL)
		MemoryContextReset(run.memory);
}

/*
 * Put the rows into the table and its indexes; *met: those whose key is there already, taken out
 * again.
 */
static void
run_store(RpApplyTransaction *txn, RpOpenRelation *open, Bitmapset **met)
{
	CommandId	cid = GetCurrentCommandId(true);
	int			row = -1;

	(void) txn;
	open->estate->es_output_cid = cid;
	table_multi_insert(open->rel, open->run, run.n, cid, 0, NULL);
	for (int i = 0; i < run.n; i++)
	{
		bool		clash = false;

		(void) ExecInsertIndexTuples(open->result, open->run[i], open->estate, false, true, &clash,
									 open->arbiters);
		if (clash)
			*met = bms_add_member(*met, i);
		ResetPerTupleExprContext(open->estate);
	}
	CommandCounterIncrement();
	while ((row = bms_next_member(*met, row)) >= 0)
		rp_row_delete(open, open->run[row]);
	if (*met == NULL)
		return;
	rp_row_inserts_meet(open);
	CommandCounterIncrement();
}

/* What became known meanwhile of local deletes; and rows that have met others go the usual way. */
static void
run_reconsider(RpApplyTransaction *txn, RpOpenRelation *open, Bitmapset *met)
{
	bool		deletes = rp_apply_deletes_complete(txn, open->map->relid);

	if (!deletes && met == NULL)
		return;
	for (int i = 0; i < run.n; i++)
	{
		if (!deletes && !bms_is_member(i, met))
			continue;
		row_restore(open, open->run[i]);
		if (bms_is_member(i, met))
			rp_insert_again(txn, open);
		else
			rp_insert_reconsider(txn, open, P2P_OP_INSERT, open->incoming);
		CHECK_FOR_INTERRUPTS();
	}
	ExecClearTuple(open->local);
	ExecClearTuple(open->incoming);
	ExecClearTuple(open->store);
}

/* Have the slots say of a row what they said when it came in, and where it is now. */
static void
row_restore(RpOpenRelation *open, TupleTableSlot *row)
{
	TupleTableSlot *slots[] = {open->incoming, open->store};

	slot_getallattrs(row);
	for (size_t i = 0; i < lengthof(slots); i++)
	{
		ExecClearTuple(slots[i]);
		memcpy(slots[i]->tts_values, row->tts_values, sizeof(Datum) * open->map->natts);
		memcpy(slots[i]->tts_isnull, row->tts_isnull, sizeof(bool) * open->map->natts);
		ExecStoreVirtualTuple(slots[i]);
	}
	open->store->tts_tid = row->tts_tid;
	memset(open->unavailable, false, sizeof(bool) * open->map->natts);
	for (int a = 0; a < open->map->natts; a++)
		open->given[a] = false;
	for (uint32 i = 0; i < open->map->remote.ncolumns; i++)
	{
		if (open->map->columns[i].attno >= 0)
			open->given[open->map->columns[i].attno] = true;
	}
}
