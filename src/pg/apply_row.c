/*
 * apply_row.c
 *	  Finding, locking, storing and removing one row: what apply_change.c decides,
 *	  carried out on the table and its indexes.
 *
 * A row is found through the index of its key and locked until the
 * transaction ends. An insert is speculative, as INSERT ... ON CONFLICT does it: if a live row
 * of the same key appears meanwhile, or one that claims a value of another unique index,
 * ours is taken back and the caller looks again. An update can't be taken back: the caller is told of
 * the clash and resolves it before the transaction ends. Exclusion and deferrable
 * constraints raise their error, which stops the origin.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply_internal.h"

/* A table of which an insert has met a row is looked at before so many further ones. */
#define GLANCES_AFTER_CLASH 10000

static bool index_look(RpOpenRelation *open, TupleTableSlot *key, Snapshot snapshot,
					   TupleTableSlot *out);
static void store_generate(RpOpenRelation *open, CmdType command);
static void deferred_refuse(RpOpenRelation *open, List *unchecked);

/* Walk the key's index entries under snapshot; true and the row in out if one is visible. */
static bool
index_look(RpOpenRelation *open, TupleTableSlot *key, Snapshot snapshot, TupleTableSlot *out)
{
	RpRelationMap *map = open->map;
	ScanKeyData scan_keys[INDEX_MAX_KEYS];
	IndexScanDesc scan;
	MemoryContext old;
	bool		found;

	if (open->key_index < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the identity index of table \"%s.%s\" has just changed",
						map->remote.schema, map->remote.name),
				 errhint("Applying is tried again by itself.")));
	for (int k = 0; k < map->nkeys; k++)
	{
		ScanKeyEntryInitializeWithInfo(&scan_keys[k],
									   key->tts_isnull[map->key_attnos[k]] ? SK_ISNULL : 0, k + 1,
									   BTEqualStrategyNumber, InvalidOid, map->key_collation[k],
									   &map->key_equal[k], key->tts_values[map->key_attnos[k]]);
	}
	scan = rp_relation_key_scan(open);
	scan->xs_snapshot = snapshot;
	index_rescan(scan, scan_keys, map->nkeys, NULL, 0);
	old = MemoryContextSwitchTo(open->scan_memory); /* what it allocates it uses again */
	found = index_getnext_slot(scan, ForwardScanDirection, out);
	MemoryContextSwitchTo(old);
	if (found)
		ExecMaterializeSlot(out);
	/* so that it holds no buffer between look-ups: they belong to whatever subtransaction runs */
	index_rescan(scan, NULL, map->nkeys, NULL, 0);
	scan->xs_snapshot = &open->dirty;
	return found;
}

/* Find and lock the row of key; false: there is none. */
bool
rp_row_find(RpOpenRelation *open, TupleTableSlot *key, TupleTableSlot *out)
{
	for (;;)
	{
		TM_FailureData failure;
		TM_Result	result;

		CHECK_FOR_INTERRUPTS();
		InitDirtySnapshot(open->dirty);
		if (index_look(open, key, &open->dirty, out))
		{
			TransactionId wait_for = TransactionIdIsValid(open->dirty.xmin) ? open->dirty.xmin :
				open->dirty.xmax;

			if (TransactionIdIsValid(wait_for))
			{
				if (open->never_wait)
					rp_relation_busy(open->map);
				XactLockTableWait(wait_for, NULL, NULL, XLTW_None);
				continue;
			}
			PushActiveSnapshot(GetLatestSnapshot());
			result = table_tuple_lock(open->rel, &out->tts_tid, GetActiveSnapshot(), out,
									  GetCurrentCommandId(false), LockTupleExclusive,
									  open->never_wait ? LockWaitSkip : LockWaitBlock, 0, &failure);
			PopActiveSnapshot();
			if (result == TM_Ok)
				return true;
			if (result == TM_WouldBlock)
				rp_relation_busy(open->map);
			if (result != TM_Updated && result != TM_Deleted)
				elog(ERROR, "unexpected result of locking a row: %d", (int) result);
		}
		else
		{
			Snapshot	fresh = RegisterSnapshot(GetLatestSnapshot());
			bool		hidden = index_look(open, key, fresh, open->found);

			UnregisterSnapshot(fresh);
			ExecClearTuple(open->found);
			if (!hidden)
				return false;
		}
	}
}

/*
 * Look once, without locking and without being sure that a row which isn't found isn't there. Waits for
 * nobody. The caller writes on condition that nothing has changed, or uses rp_row_find.
 */
RpGlance
rp_row_glance(RpOpenRelation *open, TupleTableSlot *key, TupleTableSlot *out)
{
	InitDirtySnapshot(open->dirty);
	if (!index_look(open, key, &open->dirty, out))
		return RP_GLANCE_NOTHING;
	if (TransactionIdIsValid(open->dirty.xmin) || TransactionIdIsValid(open->dirty.xmax))
		return RP_GLANCE_BUSY;
	return RP_GLANCE_ROW;
}

/*
 * Build in store what will stand here: the incoming values over those of base
 * (the row that is here), or over defaults if there is none.
 *
 * An unchanged TOAST value that was not in the origin's WAL any more keeps
 * what is here; the origin has changed or deleted it since in a later
 * transaction, whose greater version is on its way.
 */
void
rp_row_build(RpOpenRelation *open, TupleTableSlot *base)
{
	TupleTableSlot *store = open->store;
	RpRelationMap *map = open->map;

	ExecClearTuple(store);
	if (base)
	{
		slot_getallattrs(base);
		memcpy(store->tts_values, base->tts_values, sizeof(Datum) * map->natts);
		memcpy(store->tts_isnull, base->tts_isnull, sizeof(bool) * map->natts);
	}
	else
	{
		memset(store->tts_isnull, true, sizeof(bool) * map->natts);
		if (open->defaults == NULL && map->ndefaults > 0)
		{
			MemoryContext old = MemoryContextSwitchTo(open->estate->es_query_cxt);

			open->defaults = palloc0(sizeof(ExprState *) * map->ndefaults);
			for (int i = 0; i < map->ndefaults; i++)
			{
				if (map->defaults[i])
					open->defaults[i] = ExecInitExpr((Expr *) map->defaults[i], NULL);
			}
			MemoryContextSwitchTo(old);
		}
		for (int i = 0; i < map->ndefaults; i++)
		{
			int			a = map->default_attnos[i];

			if (open->defaults[i])
				store->tts_values[a] = ExecEvalExpr(open->defaults[i],
													GetPerTupleExprContext(open->estate),
													&store->tts_isnull[a]);
		}
	}
	for (int a = 0; a < map->natts; a++)
	{
		if (!open->given[a] || open->unavailable[a])
			continue;
		store->tts_values[a] = open->incoming->tts_values[a];
		store->tts_isnull[a] = open->incoming->tts_isnull[a];
	}
	ExecStoreVirtualTuple(store);
}

/* Compute the generated columns of store. */
static void
store_generate(RpOpenRelation *open, CmdType command)
{
	TupleConstr *constraints = RelationGetDescr(open->rel)->constr;

	if (constraints && constraints->has_generated_stored)
		ExecComputeStoredGenerated(open->result, open->estate, open->store, command);
}

/* Insert store; false: a live row claims one of its unique values, and nothing is left behind. */
bool
rp_row_insert(RpOpenRelation *open)
{
	bool		clash = false;
	List	   *unchecked;
	uint32		token;
	CommandId	cid = GetCurrentCommandId(true);

	store_generate(open, CMD_INSERT);
	open->estate->es_output_cid = cid;
	open->store->tts_tableOid = RelationGetRelid(open->rel);
	token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
	table_tuple_insert_speculative(open->rel, open->store, cid, 0, NULL, token);
	unchecked = ExecInsertIndexTuples(open->result, open->store, open->estate, false, true, &clash,
									  open->arbiters);
	table_tuple_complete_speculative(open->rel, open->store, token, !clash);
	SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	if (!clash)
		deferred_refuse(open, unchecked);
	return !clash;
}

/*
 * Insert store into a table with no unique index but its key's, where hardly anything can be.
 * Not speculative, which saves a lock and a WAL record. If there is a live row of that key, ours
 * is removed again. Nobody waits for us because of it who holds that key: whose
 * entry came into the index first has not seen ours.
 */
bool
rp_row_insert_new(RpOpenRelation *open)
{
	bool		clash = false;

	open->estate->es_output_cid = GetCurrentCommandId(true);
	open->store->tts_tableOid = RelationGetRelid(open->rel);
	table_tuple_insert(open->rel, open->store, open->estate->es_output_cid, 0, NULL);
	(void) ExecInsertIndexTuples(open->result, open->store, open->estate, false, true, &clash,
								 open->arbiters);
	if (!clash)
		return true;
	rp_row_inserts_meet(open);
	CommandCounterIncrement();
	rp_row_delete(open, open->store);
	CommandCounterIncrement();
	return false;
}

void
rp_row_inserts_meet(RpOpenRelation *open)
{
	open->map->glances = GLANCES_AFTER_CLASH;
}

/*
 * Keep a key that has no row from being inserted by anybody else until this transaction has
 * ended; false: a live row of that key appeared meanwhile. A row of nothing but the key is inserted,
 * with an entry in the index of the key alone, and removed again: whoever inserts that key waits
 * for us, as he finds it in work.
 */
bool
rp_row_claim(RpOpenRelation *open, TupleTableSlot *key)
{
	RpRelationMap *map = open->map;
	ResultRelInfo only_key = *open->result;
	TupleTableSlot *store = open->store;
	bool		clash = false;
	uint32		token;
	CommandId	cid = GetCurrentCommandId(true);

	for (int i = 0; i < open->result->ri_NumIndices; i++)
	{
		if (RelationGetRelid(open->result->ri_IndexRelationDescs[i]) != map->key_index)
			continue;
		only_key.ri_NumIndices = 1;
		only_key.ri_IndexRelationDescs = &open->result->ri_IndexRelationDescs[i];
		only_key.ri_IndexRelationInfo = &open->result->ri_IndexRelationInfo[i];
	}
	ExecClearTuple(store);
	memset(store->tts_isnull, true, sizeof(bool) * map->natts);
	for (int k = 0; k < map->nkeys; k++)
	{
		store->tts_values[map->key_attnos[k]] = key->tts_values[map->key_attnos[k]];
		store->tts_isnull[map->key_attnos[k]] = key->tts_isnull[map->key_attnos[k]];
	}
	ExecStoreVirtualTuple(store);
	store->tts_tableOid = RelationGetRelid(open->rel);
	open->estate->es_output_cid = cid;
	token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
	table_tuple_insert_speculative(open->rel, store, cid, 0, NULL, token);
	(void) ExecInsertIndexTuples(&only_key, store, open->estate, false, true, &clash,
								 list_make1_oid(map->key_index));
	table_tuple_complete_speculative(open->rel, store, token, !clash);
	SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	if (clash)
		return false;
	CommandCounterIncrement();
	rp_row_delete(open, store);
	CommandCounterIncrement();
	return true;
}

/* Insert store into a table without a key. */
void
rp_row_insert_anyway(RpOpenRelation *open)
{
	store_generate(open, CMD_INSERT);
	open->estate->es_output_cid = GetCurrentCommandId(true);
	open->store->tts_tableOid = RelationGetRelid(open->rel);
	table_tuple_insert(open->rel, open->store, open->estate->es_output_cid, 0, NULL);
	if (open->result->ri_NumIndices > 0)
		deferred_refuse(open, ExecInsertIndexTuples(open->result, open->store, open->estate,
													false, false, NULL, NIL));
}

/*
 * Deferrable constraints are checked by triggers, which don't fire here: what
 * would have to be checked again later stops the origin rather than break them.
 */
static void
deferred_refuse(RpOpenRelation *open, List *unchecked)
{
	if (unchecked == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("a row would violate the deferrable constraint \"%s\" of table \"%s.%s\"",
					get_rel_name(linitial_oid(unchecked)),
					open->map->remote.schema, open->map->remote.name),
			 errhint("Change one of the two rows on this node; applying goes on by itself.")));
}

/*
 * Overwrite the row in local by store. It is locked by us, or else was glanced at: then this waits for
 * nobody, and leaves nothing behind if somebody has changed it, or has it in work.
 */
RpUpdated
rp_row_update(RpOpenRelation *open, bool locked)
{
	TM_FailureData failure;
	LockTupleMode mode;
	bool		update_indexes;
	bool		clash = false;
	TM_Result	result;
	CommandId	cid = GetCurrentCommandId(true);

	store_generate(open, CMD_UPDATE);
	open->estate->es_output_cid = cid;
	open->store->tts_tableOid = RelationGetRelid(open->rel);
	result = table_tuple_update(open->rel, &open->local->tts_tid, open->store, cid,
								GetActiveSnapshot(), InvalidSnapshot, locked, &failure, &mode,
								&update_indexes);
	if (result != TM_Ok)
	{
		if (locked)
			elog(ERROR, "unexpected result of updating a row: %d", (int) result);
		return RP_UPDATE_AGAIN;
	}
	if (update_indexes)
		deferred_refuse(open, list_difference_oid(ExecInsertIndexTuples(open->result, open->store,
																		 open->estate, true, true,
																		 &clash, open->arbiters),
												  open->arbiters));
	return clash ? RP_UPDATED_CLASHING : RP_UPDATED;
}

/* Remove a row that was glanced at, on the same conditions. */
bool
rp_row_delete_unlocked(RpOpenRelation *open)
{
	TM_FailureData failure;

	return table_tuple_delete(open->rel, &open->local->tts_tid, GetCurrentCommandId(true),
							  GetActiveSnapshot(), InvalidSnapshot, false, &failure, false) == TM_Ok;
}

void
rp_row_delete(RpOpenRelation *open, TupleTableSlot *row)
{
	PushActiveSnapshot(GetLatestSnapshot());
	simple_table_tuple_delete(open->rel, &row->tts_tid, GetActiveSnapshot());
	PopActiveSnapshot();
}
