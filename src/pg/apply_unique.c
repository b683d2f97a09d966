/*
 * apply_unique.c
 *	  Storing a row in a table with several unique indexes: who claims one value
 *	  with a greater version keeps its place, the other is displaced.
 *
 * The rule is core's (p2p_unique.h): walk the live rows in descending order of
 * version, keep each unless it conflicts in any unique index with one already
 * kept. Here it is applied to one row that is stored, and to those in the table
 * that conflict with it:
 *
 *	  none					nothing more is done
 *	  one is greater		the row goes to replp2p.displaced_rows, not to the table
 *	  all are less			they go there, in this transaction, then the row to the table
 *
 * Whom a row displaces was kept, so it may itself have kept others out; these are
 * brought back afterwards (displaced_follow.c), each in a transaction of its own. In
 * between a row may be missing that the rule would keep. Two that conflict are never in
 * the table: the server's indexes see to that.
 *
 * No look-up is made beforehand. The row is written with every unique index as an
 * arbiter: the indexes' own check says whether anything is in the way. Only
 * then all rows that conflict are looked up: by what each index would store of the row
 * (expressions, predicate, nulls, its operator class), waiting for local transactions that
 * are at such a row, and locked. So a table without a clash pays nothing; and one
 * that a local client causes while we write is not missed either: his entry is in the
 * index before ours, and we see it; or ours before his, and he waits for us.
 *
 * Deferrable and exclusion constraints are no arbiters (apply_row.c).
 *
 * Called by apply_change.c and apply_tracked.c as the table's owner, and by
 * displaced_follow.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "displaced.h"
#include "p2p_stamp.h"
#include "p2p_unique.h"
#include "rowbody.h"
#include "tracked.h"

/* One row and those in the table that conflict with it. Handle 1 is the row, 2.. the others. */
typedef struct Clash
{
	RpOpenRelation *open;
	TupleTableSlot *row;
	const RpSlotVersion *version;
	List	   *neighbours;		/* RpNeighbour * */
	bool	   *displaced;		/* by index in neighbours */
	bool		stands;
} Clash;

typedef enum Look
{
	LOOK_NOTHING,				/* no row conflicts in this index */
	LOOK_FOUND,
	LOOK_AGAIN,					/* it has changed meanwhile */
	LOOK_BUSY
} Look;

static bool is_tracked(RpOpenRelation *open);
static RpStored store_clashing(RpApplyTransaction *txn, RpOpenRelation *open, RpHere here,
							   const RpSlotVersion *version);
static bool key_hold(RpOpenRelation *open);
static void store_displaced(RpApplyTransaction *txn, RpOpenRelation *open,
							const RpSlotVersion *version, bool existed, List *neighbours,
							RpNeighbour *greatest);
static void neighbours_displace(RpApplyTransaction *txn, RpOpenRelation *open,
								const RpSlotVersion *version, bool existed, List *neighbours);
static TupleTableSlot *neighbour_add_up(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row);
static P2pConflict conflict_name(bool existed, List *neighbours);
static bool neighbours_find(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
							ItemPointer self, bool lock, List **neighbours);
static bool index_values(RpOpenRelation *open, int i, TupleTableSlot *row, Datum *values,
						 bool *isnull);
static Look index_look(RpApplyTransaction *txn, RpOpenRelation *open, int i, const Datum *values,
					   const bool *isnull, ItemPointer self, TupleTableSlot *out);
static Look row_lock(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row);
static RpSlotVersion row_version(RpApplyTransaction *txn, RpOpenRelation *open,
								 TupleTableSlot *row);
static RpSlotVersion tracked_row_version(RpNode *node, RpOpenRelation *open, TupleTableSlot *row,
										 const RpSlotVersion *by_xmin);
static void pin_renew(RpOpenRelation *open, const RpSlotVersion *version);

RpStored
rp_unique_store(RpApplyTransaction *txn, RpOpenRelation *open, RpHere here,
				const RpSlotVersion *version)
{
	RpStored	stored = RP_STORED;
	bool		in_table = here == RP_HERE_LOCKED || here == RP_HERE_GLANCED;
	bool		clashes = false;

	rp_displaced_touch(open->map->relid);
	if (!in_table)
		clashes = !rp_row_insert(open);
	else
	{
		RpUpdated	updated = rp_row_update(open, here == RP_HERE_LOCKED);

		if (updated == RP_UPDATE_AGAIN)
			return RP_STORE_AGAIN;
		clashes = updated == RP_UPDATED_CLASHING;
	}
	if (clashes)
		stored = store_clashing(txn, open, here, version);
	if (stored == RP_STORED)
		pin_renew(open, version);
	if (stored == RP_STORED && !in_table && rp_displaced_in(open->map->relid))
		rp_displaced_drop(txn, open, open->store);	/* the older version of the key */
	return stored;
}

/* If the row in store is pinned, it is from now on with this version (tracked_row_version). */
static void
pin_renew(RpOpenRelation *open, const RpSlotVersion *version)
{
	if (is_tracked(open) && rp_displaced_in(open->map->relid))
		rp_displaced_pin_renew(open, open->store, version);
}

void
rp_unique_delete(RpApplyTransaction *txn, RpOpenRelation *open)
{
	(void) txn;
	rp_displaced_touch(open->map->relid);
	rp_row_delete(open, open->local);
}

/* Is the row of a key made of its key set? */
static bool
is_tracked(RpOpenRelation *open)
{
	const RpTableHandlers *handlers = rp_handlers_of(open->map->relid);

	return handlers != NULL && handlers->tracked;
}

/* There was a clash. If a row was here, ours is written over it; else nothing is left of ours. */
static RpStored
store_clashing(RpApplyTransaction *txn, RpOpenRelation *open, RpHere here,
			   const RpSlotVersion *version)
{
	bool		in_table = here == RP_HERE_LOCKED || here == RP_HERE_GLANCED;
	bool		existed = in_table;

	rp_apply_alone(txn);
	for (;;)
	{
		List	   *neighbours;
		RpNeighbour *greatest;
		RpVerdict	verdict;

		CHECK_FOR_INTERRUPTS();
		CommandCounterIncrement();	/* our own tuples are visible to us */
		verdict = rp_unique_judge_row(txn, open, open->store, version,
									  in_table ? &open->store->tts_tid : NULL, true,
									  &neighbours, &greatest);
		if (verdict == RP_BUSY)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a local transaction has a row of table \"%s\" in work",
							RelationGetRelationName(open->rel))));
		if (verdict == RP_DISPLACED)
		{
			if (here == RP_HERE_NOTHING_HOLD && !key_hold(open))
			{
				rp_unique_release(neighbours);
				return RP_STORE_AGAIN;
			}
			if (in_table)
				rp_row_delete(open, open->store);
			store_displaced(txn, open, version, existed, neighbours, greatest);
			rp_unique_release(neighbours);
			return RP_STORED_DISPLACED;
		}
		if (neighbours == NIL && !in_table)
			return RP_STORE_AGAIN;	/* the key itself; or whoever it was has gone */
		neighbours_displace(txn, open, version, existed, neighbours);
		rp_unique_release(neighbours);
		if (in_table)
			return RP_STORED;
		CommandCounterIncrement();
		if (rp_row_insert(open))
			return RP_STORED;
	}
}

/* Keep others from making a row of the key in store before our commit; false: there is one. */
static bool
key_hold(RpOpenRelation *open)
{
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsHeapTuple);
	bool		held;

	ExecCopySlot(row, open->store);
	slot_getallattrs(row);
	held = rp_row_claim(open, row);
	ExecCopySlot(open->store, row);
	ExecDropSingleTupleTableSlot(row);
	return held;
}

/* Keep the row out of the table, and those that are in its way comparable for ever. */
static void
store_displaced(RpApplyTransaction *txn, RpOpenRelation *open, const RpSlotVersion *version,
				bool existed, List *neighbours, RpNeighbour *greatest)
{
	RpConflictRecord record = {0};
	ListCell   *cell;

	foreach(cell, neighbours)
	{
		RpNeighbour *other = lfirst(cell);

		if (rp_slot_version_compare(&other->version, version) >= 0)
			rp_displaced_pin(open, other->row, &other->version);
	}
	rp_displaced_put(txn, open, open->store, version, greatest->row, &greatest->version);
	record.conflict = conflict_name(existed, neighbours);
	record.resolution = "displaced";
	record.open = open;
	record.key = open->store;
	record.local_row = greatest->row;
	record.remote_row = open->store;
	record.applied_row = greatest->row;
	record.local = greatest->version;
	rp_conflict_record(txn, &record);
}

/* Take all of these out of the table for the row in store. */
static void
neighbours_displace(RpApplyTransaction *txn, RpOpenRelation *open, const RpSlotVersion *version,
					bool existed, List *neighbours)
{
	ListCell   *cell;

	if (neighbours != NIL)
		rp_displaced_pin(open, open->store, version);
	foreach(cell, neighbours)
	{
		RpNeighbour *other = lfirst(cell);
		RpConflictRecord record = {0};

		TupleTableSlot *summed = neighbour_add_up(txn, open, other->row);

		rp_displaced_put(txn, open, summed ? summed : other->row, &other->version, open->store, version);
		if (summed)
			ExecDropSingleTupleTableSlot(summed);
		rp_row_delete(open, other->row);
		record.conflict = conflict_name(existed, neighbours);
		record.incoming_wins = true;
		record.resolution = "displaced";
		record.open = open;
		record.key = other->row;
		record.local_row = other->row;
		record.remote_row = open->store;
		record.applied_row = open->store;
		record.local = other->version;
		rp_conflict_record(txn, &record);
	}
}

/*
 * A client may have inserted the key of a displaced row, and what both have counted is not added up yet: return the
 * row with the sum, as it replaces the displaced one; NULL: it is not so. To be dropped.
 */
static TupleTableSlot *
neighbour_add_up(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row)
{
	RpTrackedKey t = {.node = txn->node, .open = open, .newcomer = -1};
	TupleTableSlot *displaced = NULL;
	TupleTableSlot *summed = NULL;
	RpSlotVersion version;

	if (!is_tracked(open) || !rp_displaced_in(open->map->relid))
		return NULL;
	displaced = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsVirtual);
	if (rp_displaced_find(open, row, &version, displaced))
	{
		P2pVersion	older = rp_version_of(txn->node, &version);

		t.handlers = rp_handlers_of(open->map->relid);
		t.hash = rp_key_hash(open->map, row);
		t.set = rp_keyset_of(open->map->relid, t.hash);
		t.here = rp_image_of_slot(row);
		rp_merge_displaced(&t, rp_image_of_slot(displaced), &older);
		summed = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsVirtual);
		memcpy(summed->tts_values, t.here->values, sizeof(Datum) * open->map->natts);
		memcpy(summed->tts_isnull, t.here->isnull, sizeof(bool) * open->map->natts);
		ExecStoreVirtualTuple(summed);
	}
	ExecDropSingleTupleTableSlot(displaced);
	return summed;
}

/* As the core server names it. */
static P2pConflict
conflict_name(bool existed, List *neighbours)
{
	if (list_length(neighbours) > 1)
		return P2P_MULTIPLE_UNIQUE_CONFLICTS;
	return existed ? P2P_UPDATE_EXISTS : P2P_INSERT_EXISTS;
}

/* The callbacks of p2p_unique_judge. */
static const RpSlotVersion *
clash_version(const Clash *clash, P2pUniqueRow row)
{
	return row == 1 ? clash->version :
		&((RpNeighbour *) list_nth(clash->neighbours, (int) row - 2))->version;
}

static TupleTableSlot *
clash_slot(const Clash *clash, P2pUniqueRow row)
{
	return row == 1 ? clash->row : ((RpNeighbour *) list_nth(clash->neighbours, (int) row - 2))->row;
}

/*
 * Two rows of one transaction conflict if a custom function or a merge has made one of them of older
 * versions, too: their keys tell. Of those that are older than everything only one is in
 * its table without a pin (displaced.c), and is less than the row in hand.
 */
static int
clash_compare(void *arg, P2pUniqueRow a, P2pUniqueRow b)
{
	const Clash *clash = arg;
	int			order = rp_slot_version_compare(clash_version(clash, a), clash_version(clash, b));

	if (order == 0 && a != b && clash_version(clash, a)->seq != 0)
		order = rp_rowbody_key_compare(clash->open, clash_slot(clash, a), clash_slot(clash, b));
	if (order == 0 && a != b)
		order = a < b ? 1 : -1;
	return order;
}

static bool
clash_is_kept(void *arg, P2pUniqueRow row)
{
	Clash	   *clash = arg;

	return row == 1 ? clash->stands : !clash->displaced[row - 2];
}

/* Those in the table conflict with nobody but the row in hand. */
static uint32_t
clash_neighbours(void *arg, P2pUniqueRow row, P2pUniqueRow *out, uint32_t max)
{
	Clash	   *clash = arg;
	uint32		n = row == 1 ? list_length(clash->neighbours) : 1;

	for (uint32 i = 0; i < Min(n, max); i++)
		out[i] = row == 1 ? i + 2 : 1;
	return n;
}

static void
clash_set_kept(void *arg, P2pUniqueRow row, bool kept)
{
	Clash	   *clash = arg;

	if (row == 1)
		clash->stands = kept;
	else
		clash->displaced[row - 2] = !kept;
}

RpVerdict
rp_unique_judge_row(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
					const RpSlotVersion *version, ItemPointer self, bool lock,
					List **neighbours, RpNeighbour **greatest)
{
	Clash		clash = {.open = open, .row = row, .version = version};
	P2pUniqueTable table = {&clash, clash_compare, clash_is_kept, clash_neighbours, clash_set_kept};
	P2pUniqueRow in_hand = 1;
	ListCell   *cell;

	*greatest = NULL;
	if (!neighbours_find(txn, open, row, self, lock, neighbours))
		return RP_BUSY;
	clash.neighbours = *neighbours;
	clash.displaced = palloc0_array(bool, Max(list_length(*neighbours), 1));
	if (p2p_unique_judge(&table, &in_hand, 1) != P2P_OK)
		elog(ERROR, "a row conflicts with too many others");
	if (clash.stands)
		return RP_STANDS;
	foreach(cell, *neighbours)
	{
		RpNeighbour *other = lfirst(cell);

		if (*greatest == NULL ||
			rp_slot_version_compare(&other->version, &(*greatest)->version) > 0)
			*greatest = other;
	}
	return RP_DISPLACED;
}

/* Find all rows in the table that conflict with row; false: one of them is busy. */
static bool
neighbours_find(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
				ItemPointer self, bool lock, List **neighbours)
{
	*neighbours = NIL;
	for (int i = 0; i < open->result->ri_NumIndices; i++)
	{
		Oid			index = RelationGetRelid(open->result->ri_IndexRelationDescs[i]);
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];
		TupleTableSlot *out;
		RpNeighbour *other;
		ListCell   *cell;
		Look		look;
		bool		known = false;

		if (index == open->map->key_index || !list_member_oid(open->arbiters, index) ||
			!index_values(open, i, row, values, isnull))
			continue;
		out = table_slot_create(open->rel, NULL);
		do
		{
			CHECK_FOR_INTERRUPTS();
			look = index_look(txn, open, i, values, isnull, self, out);
			if (look == LOOK_FOUND && lock)
				look = row_lock(txn, open, out);
		} while (look == LOOK_AGAIN);
		foreach(cell, *neighbours)
			known |= look == LOOK_FOUND &&
				ItemPointerEquals(&((RpNeighbour *) lfirst(cell))->row->tts_tid, &out->tts_tid);
		if (look != LOOK_FOUND || known)
			ExecDropSingleTupleTableSlot(out);
		if (look == LOOK_BUSY)
			return false;
		if (look == LOOK_NOTHING || known)
			continue;
		ExecMaterializeSlot(out);	/* lets go of its buffer */
		other = palloc_object(RpNeighbour);
		other->row = out;
		other->version = row_version(txn, open, out);
		*neighbours = lappend(*neighbours, other);
	}
	return true;
}

void
rp_unique_release(List *neighbours)
{
	ListCell   *cell;

	foreach(cell, neighbours)
		ExecDropSingleTupleTableSlot(((RpNeighbour *) lfirst(cell))->row);
}

/* What the index would store of row; false: nothing that could conflict. */
static bool
index_values(RpOpenRelation *open, int i, TupleTableSlot *row, Datum *values, bool *isnull)
{
	Relation	index = open->result->ri_IndexRelationDescs[i];
	IndexInfo  *info = open->result->ri_IndexRelationInfo[i];
	ExprContext *econtext = GetPerTupleExprContext(open->estate);

	econtext->ecxt_scantuple = row;
	if (info->ii_Predicate != NIL)
	{
		if (info->ii_PredicateState == NULL)
			info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, open->estate);
		if (!ExecQual(info->ii_PredicateState, econtext))
			return false;
	}
	FormIndexDatum(info, row, open->estate, values, isnull);
	for (int k = 0; k < IndexRelationGetNumberOfKeyAttributes(index); k++)
	{
		if (isnull[k] && !info->ii_NullsNotDistinct)
			return false;
	}
	return true;
}

/* Find the live row other than *self that has these values in the index. */
static Look
index_look(RpApplyTransaction *txn, RpOpenRelation *open, int i, const Datum *values,
		   const bool *isnull, ItemPointer self, TupleTableSlot *out)
{
	Relation	index = open->result->ri_IndexRelationDescs[i];
	IndexInfo  *info = open->result->ri_IndexRelationInfo[i];
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	ScanKeyData keys[INDEX_MAX_KEYS];
	SnapshotData dirty;
	IndexScanDesc scan;
	TransactionId wait_for = InvalidTransactionId;
	bool		found;

	for (int k = 0; k < nkeys; k++)
		ScanKeyEntryInitialize(&keys[k], isnull[k] ? SK_ISNULL | SK_SEARCHNULL : 0, k + 1,
							   info->ii_UniqueStrats[k], InvalidOid, index->rd_indcollation[k],
							   info->ii_UniqueProcs[k], values[k]);
	InitDirtySnapshot(dirty);
	scan = index_beginscan(open->rel, index, &dirty, nkeys, 0);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while ((found = index_getnext_slot(scan, ForwardScanDirection, out)))
	{
		if (self == NULL || !ItemPointerEquals(self, &out->tts_tid))
			break;
	}
	if (found)
	{
		wait_for = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		ExecMaterializeSlot(out);
	}
	index_endscan(scan);
	if (!found)
		return LOOK_NOTHING;
	if (!TransactionIdIsValid(wait_for))
		return LOOK_FOUND;
	if (txn->no_wait)
		return LOOK_BUSY;
	if (dirty.speculativeToken)
		SpeculativeInsertionWait(dirty.xmin, dirty.speculativeToken);
	else
		XactLockTableWait(wait_for, NULL, NULL, XLTW_None);
	return LOOK_AGAIN;
}

/* Lock a row that was found, as it is now. */
static Look
row_lock(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row)
{
	TM_FailureData failure;
	TM_Result	result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = table_tuple_lock(open->rel, &row->tts_tid, GetActiveSnapshot(), row,
							  GetCurrentCommandId(false), LockTupleExclusive,
							  txn->no_wait ? LockWaitSkip : LockWaitBlock, 0, &failure);
	PopActiveSnapshot();
	switch (result)
	{
		case TM_Ok:
			return LOOK_FOUND;
		case TM_Updated:
		case TM_Deleted:
			return LOOK_AGAIN;
		case TM_WouldBlock:
			return LOOK_BUSY;
		case TM_Invisible:
		case TM_SelfModified:
		case TM_BeingModified:
			break;
	}
	elog(ERROR, "unexpected result of locking a row: %d", (int) result);
	return LOOK_AGAIN;			/* keep compiler quiet */
}

/*
 * The version of a row in the table: by its xmin; once that is forgotten as stable, the one that it
 * was pinned with.
 */
static RpSlotVersion
row_version(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row)
{
	RpSlotVersion version = rp_row_version(txn, open, row);

	if (is_tracked(open))
		return tracked_row_version(txn->node, open, row, &version);
	if (version.seq == 0)
		(void) rp_displaced_pinned(open, row, &version);
	return version;
}

/*
 * Of a tracked table: that of its key set's winner, or what the row is pinned with. The set may have
 * lost its winner, which is stable, and still have a lower version that had not seen it: that one
 * is taken for the winner. So a pin is believed before the set. It is the older one only if the
 * winner has written the row itself, as a local client may have done: apply renews the pin of a row
 * that it writes (rp_unique_store).
 */
static RpSlotVersion
tracked_row_version(RpNode *node, RpOpenRelation *open, TupleTableSlot *row,
					const RpSlotVersion *by_xmin)
{
	RpSlotVersion version = {0};
	const P2pKeyVersion *winner;

	rp_keysets_follow_own();	/* rp_row_version has waited until the row's writer is captured */
	winner = p2p_keyset_winner(rp_keyset_of(open->map->relid, rp_key_hash(open->map, row)));
	if (winner != NULL)
	{
		version = rp_tracked_slot_version(node, winner);
		if (version.seq == by_xmin->seq && version.slot == by_xmin->slot)
			return version;
	}
	(void) rp_displaced_pinned(open, row, &version);
	return version;
}
