/*
 * apply_tracked.c
 *	  One change on a table with a conflict handler or column merges: the row
 *	  becomes what the key's whole set of versions comes to.
 *
 * Elsewhere a row's version is that of the transaction that wrote it, and one
 * comparison decides (apply_change.c). Here a row may be made of several
 * versions, so it is the key set (keyset.h) that knows them, and the row is
 * always made to be a function of the set:
 *
 *	  handler				the row is
 *	  last_writer_wins		the winner's image
 *	  vector_clock			the winner's image; the others are shown as siblings
 *	  custom				the fold of f over the standing versions
 *	  and on top of it		columns with a merge (merge_columns.c)
 *
 * The order of steps:
 *
 *	  1  Local writes that capture has read are in the set. The row is looked
 *	     up and locked, also if the change is going to lose: so no local write
 *	     covers a version that it could not see. If its writer is not captured yet,
 *	     he is waited for, and is then in the set, too.
 *	  2  The change goes into the set; core says who stands and who wins; the
 *	     row is built and stored if it differs from what is here.
 *	  3  After an insert, as for any table, undecoded local deletes are waited
 *	     for. If the set has got something from it, the key is judged again.
 *	     A verdict "no row" is no less: where it may hang on more than the winner, the
 *	     key is held until our commit, so that no client inserts it meanwhile
 *	     and neither of us sees the other (rp_row_claim).
 *
 * Called by apply_change.c as the table's owner.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "displaced.h"
#include "tracked.h"

/* Displaced rows that are read at once when a table is truncated. */
#define TRUNCATE_ROWS 64

static P2pKeyVersion version_of_change(RpApplyTransaction *txn, P2pOp op);
static void newcomer_add(RpApplyTransaction *txn, RpTrackedKey *t, P2pOp op);
static void newcomer_find(RpTrackedKey *t, const P2pKeyVersion *version);
static void judge(RpTrackedKey *t);
static bool store(RpApplyTransaction *txn, RpTrackedKey *t, bool *inserted);
static bool absence_matters(RpTrackedKey *t);
static bool hold_absent(RpApplyTransaction *txn, RpTrackedKey *t, bool *inserted);
static bool obeys_counter(RpTrackedKey *t, const P2pKeyVersion *version);
static bool image_is_here(RpTrackedKey *t);
static TupleTableSlot *image_to_slot(const RpImage *image, TupleTableSlot *slot);
static bool set_has_grown(RpApplyTransaction *txn, RpTrackedKey *t, uint32 count,
						  const P2pKeyVersion *newcomer);
static void conflict_note(RpApplyTransaction *txn, RpTrackedKey *t, const RpImage *before, P2pOp op);
static void truncate_absent_key(RpApplyTransaction *txn, RpOpenRelation *open, RpKeyHash hash,
								const P2pKeyVersion *version);
static void truncate_displaced(RpApplyTransaction *txn, RpOpenRelation *open);
static bool only_deletes_stand(const P2pKeySet *set);
static void truncate_key(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
						 const P2pKeyVersion *version);

/* Apply one operation to a key; false: somebody inserted the key meanwhile, look again. */
bool
rp_tracked_change(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key)
{
	RpTrackedKey t = {.node = txn->node, .open = open, .key = key};
	RpImage    *before;

	if (op == P2P_OP_UPDATE && txn->second_half)
		op = P2P_OP_INSERT;
	t.hash = rp_key_hash(open->map, key);
	rp_tracked_look(txn, &t);
	before = t.here;
	newcomer_add(txn, &t, op);
	if (!rp_tracked_settle(txn, &t))
		return false;
	if (op == P2P_OP_DELETE)
		rp_keyindex_delete(t.hash, &txn->slot_version);	/* for a table that ceases to be tracked */
	conflict_note(txn, &t, before, op);
	rp_siblings_show(&t);
	CommandCounterIncrement();
	return true;
}

void
rp_tracked_look(RpApplyTransaction *txn, RpTrackedKey *t)
{
	RpOpenRelation *open = t->open;
	RpSlotVersion version;

	t->newcomer = -1;
	t->images = NULL;
	t->hands_off = false;
	t->row_version = (RpSlotVersion) {0};
	t->is_displaced = false;
	t->over_displaced = false;
	t->here = NULL;
	t->handlers = rp_handlers_of(open->map->relid);
	rp_keysets_follow_own();
	t->row_exists = rp_row_find(open, t->key, open->local);
	if (t->row_exists)
	{
		/* whoever wrote the row is captured afterwards */
		t->row_version = rp_row_version(txn, open, open->local);
		rp_keysets_follow_own();
		slot_getallattrs(open->local);
		t->here = rp_image_of_slot(open->local);
	}
	if (rp_displaced_in(open->map->relid))
	{
		/*
		 * No client's delete or truncate meets a displaced row: one that has superseded it, and is not
		 * captured, may be less than what is being applied.
		 */
		if (!t->row_exists)
			(void) rp_apply_deletes_complete(txn, open->map->relid);
		rp_keysets_follow_own();
		(void) rp_displaced_notes_apply();	/* what a local write has superseded is not here any more */
	}
	if (!t->row_exists && rp_displaced_find(open, t->key, &version, open->image))
	{
		t->is_displaced = true;
		t->here = rp_image_of_slot(open->image);
	}
	t->set = rp_keyset_of(open->map->relid, t->hash);
	if (t->row_exists && rp_displaced_find(open, t->key, &version, open->image))
	{
		P2pVersion	displaced = rp_version_of(t->node, &version);

		t->over_displaced = true;
		rp_merge_displaced(t, rp_image_of_slot(open->image), &displaced);
	}
}

/* The version that this operation gives to its key; its epoch is found where it is added. */
static P2pKeyVersion
version_of_change(RpApplyTransaction *txn, P2pOp op)
{
	P2pKeyVersion version = {0};

	version.version = txn->version;
	version.step = txn->step;
	version.op = op;
	version.deps = txn->deps->entries;
	version.ndeps = txn->deps->count;
	return version;
}

/* Add the version of this change to the set. */
static void
newcomer_add(RpApplyTransaction *txn, RpTrackedKey *t, P2pOp op)
{
	P2pKeyVersion version = version_of_change(txn, op);
	RpKeyPayload payload = {.slot = txn->slot_version.slot};

	rp_counter_deltas(t->handlers, &version, TTS_EMPTY(t->open->old) ? NULL : t->open->old,
					  t->open->incoming, &payload);
	rp_keyset_add(t->set, &version, txn->deps, &payload);
	newcomer_find(t, &version);
}

/* Find in the set what was just added to it. */
static void
newcomer_find(RpTrackedKey *t, const P2pKeyVersion *version)
{
	const P2pKeyVersion *found = p2p_keyset_find(t->set, version);

	if (found == NULL)
		elog(ERROR, "a version is not in the key set that it was added to");
	t->newcomer = found - t->set->versions;
}

bool
rp_tracked_settle(RpApplyTransaction *txn, RpTrackedKey *t)
{
	const P2pKeyVersion *versions;
	P2pKeyVersion newcomer = {0};
	uint32		count;
	bool		inserted;
	bool		stored;

	if (t->newcomer >= 0)
		newcomer = t->set->versions[t->newcomer];
	do
	{
		judge(t);
		versions = t->set->versions;
		count = t->set->count;
		stored = store(txn, t, &inserted);
	} while (stored && inserted && set_has_grown(txn, t, count, &newcomer));
	t->moved = t->set->versions != versions || t->set->count != count;
	if (t->moved && t->newcomer >= 0)
		newcomer_find(t, &newcomer);
	return stored;
}

/* Fill in what the set comes to. */
static void
judge(RpTrackedKey *t)
{
	const RpHandlerChange *handler = NULL;
	P2pKeySet  *set = t->set;

	t->images = palloc0_array(RpImage *, Max(set->count, 1));
	t->standing = palloc_array(const P2pKeyVersion *, Max(set->count, 1));
	t->nstanding = p2p_keyset_standing(set, t->standing, set->count);
	t->winner = p2p_keyset_winner(set);
	t->newcomer_wins = t->winner && t->winner - set->versions == t->newcomer;
	t->row = t->here;
	t->merged = t->rewrite = false;
	t->message = NULL;
	if (t->winner == NULL || t->hands_off)
		return;

	handler = rp_handler_of_epoch(t->handlers, &t->winner->epoch);
	if (handler && handler->kind == RP_CUSTOM && t->nstanding > 1 && !obeys_counter(t, t->winner))
	{
		RpImage    *result;

		t->rewrite = true;
		if (rp_merge_function_fold(t, handler, &result, &t->message))
		{
			t->merged = true;
			t->row = result;
		}
		else
			t->row = t->winner->op == P2P_OP_DELETE ? NULL : rp_tracked_image(t, t->winner);
	}
	else if (t->winner->op == P2P_OP_DELETE)
		t->row = NULL;
	else if (t->here == NULL || t->newcomer_wins ||
			 (t->newcomer < 0 && rp_tracked_slot_version(t->node, t->winner).slot != RP_SELF))
		t->row = rp_tracked_image(t, t->winner);
	if (t->row)
	{
		t->row = rp_image_copy(t->row, t->open->map->natts);
		rp_merge_columns(t);
	}
}

RpImage *
rp_tracked_image(RpTrackedKey *t, const P2pKeyVersion *version)
{
	RpOpenRelation *open = t->open;
	int64		i = version - t->set->versions;
	TupleTableSlot *base = NULL;

	if (t->images[i])
		return t->images[i];
	Assert(version->op != P2P_OP_DELETE);
	if (t->here)
		base = image_to_slot(t->here, open->base);
	if (i == t->newcomer)
	{
		rp_row_build(open, base);
		t->images[i] = rp_image_of_slot(open->store);
	}
	else
	{
		rp_keyset_image(open->map, t->hash, version, base, open->image);
		t->images[i] = rp_image_of_slot(open->image);
	}
	return t->images[i];
}

/*
 * Does version have a counter in its row? A function that can take the row away would take what was
 * counted with it, depending on the order of arrival: so beside a counter it is not asked. Both are
 * refused together; they can meet where two nodes set one each at the same time.
 */
static bool
obeys_counter(RpTrackedKey *t, const P2pKeyVersion *version)
{
	for (int m = 0; m < t->handlers->nmerges; m++)
	{
		if (t->handlers->merges[m].kind == RP_MERGE_COUNTER &&
			rp_merge_is_seen(&t->handlers->merges[m], version))
			return true;
	}
	return false;
}

/* Can what becomes of the key hang on a version that lost? */
static bool
absence_matters(RpTrackedKey *t)
{
	for (int i = 0; i < t->handlers->nchanges; i++)
	{
		if (t->handlers->changes[i].kind == RP_CUSTOM)
			return true;
	}
	for (int m = 0; m < t->handlers->nmerges; m++)
	{
		if (t->handlers->merges[m].kind == RP_MERGE_MAX || t->handlers->merges[m].kind == RP_MERGE_MIN)
			return true;
	}
	return false;
}

/* No row must be here, and none is: keep it so until our commit; false: there is one by now. */
static bool
hold_absent(RpApplyTransaction *txn, RpTrackedKey *t, bool *inserted)
{
	if (t->is_displaced)
		rp_displaced_drop(txn, t->open, t->key);
	if (t->held || t->newcomer < 0 || !absence_matters(t))
		return true;
	if (!rp_row_claim(t->open, t->key))
		return false;
	t->held = true;
	*inserted = true;
	return true;
}

/* Is what must be here, here? */
static bool
image_is_here(RpTrackedKey *t)
{
	TupleDesc	desc = RelationGetDescr(t->open->rel);

	if (t->row == NULL)
		return !t->row_exists && !t->is_displaced;
	if (t->here == NULL)
		return false;
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);

		if (att->attisdropped || att->attgenerated)
			continue;
		if (t->row->isnull[a] != t->here->isnull[a])
			return false;
		if (!t->row->isnull[a] &&
			!datum_image_eq(t->row->values[a], t->here->values[a], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/* Put an image into a virtual slot. */
static TupleTableSlot *
image_to_slot(const RpImage *image, TupleTableSlot *slot)
{
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, image->values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, image->isnull, sizeof(bool) * natts);
	return ExecStoreVirtualTuple(slot);
}

/*
 * Have t->row stand here. *inserted: there was no row, and we keep others from making one; false:
 * there is one by now, look again.
 *
 * Written even if it has the same values: a change that wins, so that the row's xmin says its
 * version should the table cease to be tracked; and what several versions were made into, so
 * that xmin tells it from a local client's own row, which is still to be folded (tracked_follow.c).
 */
static bool
store(RpApplyTransaction *txn, RpTrackedKey *t, bool *inserted)
{
	RpOpenRelation *open = t->open;
	RpSlotVersion version;
	RpStored	stored;
	RpHere		here = RP_HERE_NOTHING;

	*inserted = false;
	if (t->winner == NULL || t->hands_off)
		return true;
	if (t->row == NULL && !t->row_exists)
		return hold_absent(txn, t, inserted);
	if (t->row == NULL)
	{
		rp_unique_delete(txn, open);
		if (t->over_displaced)
			rp_displaced_drop(txn, open, t->key);
		return true;
	}
	if (image_is_here(t) && !t->rewrite && !t->over_displaced && !t->newcomer_wins)
		return true;
	version = rp_tracked_slot_version(t->node, t->winner);
	(void) image_to_slot(t->row, open->store);
	if (t->row_exists)
		here = RP_HERE_LOCKED;
	else if (!t->held && t->newcomer >= 0 && absence_matters(t))
		here = RP_HERE_NOTHING_HOLD;
	stored = rp_unique_store(txn, open, here, &version);
	if (stored == RP_STORE_AGAIN)
		return false;
	t->held |= here == RP_HERE_NOTHING_HOLD;
	if (t->over_displaced && stored == RP_STORED)
		rp_displaced_drop(txn, open, t->key);
	*inserted = !t->row_exists;
	return true;
}

/*
 * Our row is stored where there was none, or the key is held: nobody else can have a live row of
 * that key, but any that was there may have been deleted without our knowing. Have the set know it;
 * true if it has got anything since it was judged with this many, and the key is to be judged
 * again.
 */
static bool
set_has_grown(RpApplyTransaction *txn, RpTrackedKey *t, uint32 count,
			  const P2pKeyVersion *newcomer)
{
	RpOpenRelation *open = t->open;
	RpSlotVersion version;

	rp_apply_deletes_complete(txn, open->map->relid);
	rp_keysets_follow_own();
	t->set = rp_keyset_of(open->map->relid, t->hash);
	if (t->newcomer >= 0)
		newcomer_find(t, newcomer); /* it may have moved */
	if (t->set->count == count)
		return false;
	CommandCounterIncrement();

	/* t->here stays NULL: nothing was here before the newcomer */
	t->row_exists = rp_row_find(open, t->key, open->local);
	t->is_displaced = !t->row_exists && rp_displaced_find(open, t->key, &version, open->image);
	return true;
}

/* Write down what the change met, if that was a true conflict. */
static void
conflict_note(RpApplyTransaction *txn, RpTrackedKey *t, const RpImage *before, P2pOp op)
{
	RpConflictRecord record = {0};
	RpOpenRelation *open = t->open;
	const P2pKeyVersion *newcomer = &t->set->versions[t->newcomer];
	const P2pKeyVersion *other;

	record.conflict = p2p_keyset_conflict(t->set, newcomer, &other);
	if (record.conflict == P2P_NO_CONFLICT)
		return;
	record.incoming_wins = t->newcomer_wins;
	if (t->message)
		record.resolution = "error_winner_stands";
	else if (t->merged)
		record.resolution = "merged";
	record.message = t->message;
	record.none_lost = t->merged;
	record.open = open;
	record.key = t->key;
	record.local = rp_tracked_slot_version(t->node, other);
	record.local_row = before ? image_to_slot(before, open->base) : NULL;
	record.remote_row = op != P2P_OP_DELETE ? open->incoming : NULL;
	record.applied_row = t->row ? image_to_slot(t->row, open->image) : NULL;
	rp_conflict_record(txn, &record);
}

void
rp_tracked_truncate(RpApplyTransaction *txn, RpOpenRelation *open)
{
	P2pKeyVersion version = version_of_change(txn, P2P_OP_DELETE);
	TupleTableSlot *row = table_slot_create(open->rel, NULL);
	RpKeyHash  *keys;
	int			nkeys;
	Snapshot	snapshot;
	TableScanDesc scan;
	Oid			save_user;
	int			save_sec;

	rp_keysets_follow_own();
	rp_keysets_truncate(open->map->relid, &version, txn->deps);
	rp_siblings_forget_table(open->map->relid);
	rp_keysets_touch_contested(open->map->relid);	/* for the siblings of those without a row */
	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(open->rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		CHECK_FOR_INTERRUPTS();
		truncate_key(txn, open, row, &version);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(row);
	keys = rp_keysets_contested(open->map->relid, &nkeys);
	for (int i = 0; i < nkeys; i++)
		truncate_absent_key(txn, open, keys[i], &version);
	if (rp_displaced_in(open->map->relid))
		truncate_displaced(txn, open);
	SetUserIdAndSecContext(save_user, save_sec);
}

/*
 * Forget the displaced rows of whose keys only deletes stand, ours among them. Versions don't say it: a function may
 * have made the row of older versions, because of the truncate, and a version of a greater handler epoch beats it.
 */
static void
truncate_displaced(RpApplyTransaction *txn, RpOpenRelation *open)
{
	MemoryContext old = MemoryContextSwitchTo(txn->change_context);
	Oid			relid = open->map->relid;
	RpDisplacedRow *last = NULL;
	List	   *rows;

	rp_displaced_touch(relid);
	while ((rows = rp_displaced_list(relid, last, TRUNCATE_ROWS)) != NIL)
	{
		ListCell   *cell;

		foreach(cell, rows)
		{
			last = lfirst(cell);
			if (only_deletes_stand(rp_keyset_of(relid, last->hash)))
				rp_displaced_forget(relid, last->hash);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(txn->change_context);
}

/* Does no version of the set stand that stored a row? */
static bool
only_deletes_stand(const P2pKeySet *set)
{
	const P2pKeyVersion **standing = palloc_array(const P2pKeyVersion *, Max(set->count, 1));
	uint32		n = p2p_keyset_standing(set, standing, set->count);
	bool		only = true;

	for (uint32 i = 0; i < n; i++)
		only &= standing[i]->op == P2P_OP_DELETE;
	pfree(standing);
	return only;
}

/* Judge one row of a table that is being truncated. The table is locked. */
static void
truncate_key(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
			 const P2pKeyVersion *version)
{
	RpTrackedKey t = {.node = txn->node, .open = open, .key = row};
	MemoryContext old = MemoryContextSwitchTo(txn->change_context);

	slot_getallattrs(row);
	t.hash = rp_key_hash(open->map, row);
	rp_tracked_look(txn, &t);
	newcomer_find(&t, version);
	if (!rp_tracked_settle(txn, &t))
		elog(ERROR, "a row appeared in a table that is locked");
	rp_siblings_show(&t);
	CommandCounterIncrement();
	MemoryContextSwitchTo(old);
	MemoryContextReset(txn->change_context);
}

/* Judge a key of which several versions stand, if it has no row: a custom function may want one now. */
static void
truncate_absent_key(RpApplyTransaction *txn, RpOpenRelation *open, RpKeyHash hash,
					const P2pKeyVersion *version)
{
	RpTrackedKey t = {.node = txn->node, .open = open, .hash = hash};
	MemoryContext old = MemoryContextSwitchTo(txn->change_context);
	TupleTableSlot *key = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsVirtual);

	t.handlers = rp_handlers_of(open->map->relid);
	t.set = rp_keyset_of(open->map->relid, hash);
	if (rp_tracked_key_values(&t, key))
	{
		t.key = key;
		rp_tracked_look(txn, &t);
		newcomer_find(&t, version);
		if (!t.row_exists && !rp_tracked_settle(txn, &t))
			elog(ERROR, "a row appeared in a table that is locked");
		CommandCounterIncrement();
	}
	ExecDropSingleTupleTableSlot(key);
	MemoryContextSwitchTo(old);
	MemoryContextReset(txn->change_context);
}

RpImage *
rp_image_of_slot(TupleTableSlot *slot)
{
	RpImage		image;

	slot_getallattrs(slot);
	image.values = slot->tts_values;
	image.isnull = slot->tts_isnull;
	return rp_image_copy(&image, slot->tts_tupleDescriptor->natts);
}

RpImage *
rp_image_copy(const RpImage *image, int natts)
{
	RpImage    *copy = palloc_object(RpImage);

	copy->values = palloc_array(Datum, Max(natts, 1));
	copy->isnull = palloc_array(bool, Max(natts, 1));
	memcpy(copy->values, image->values, sizeof(Datum) * natts);
	memcpy(copy->isnull, image->isnull, sizeof(bool) * natts);
	return copy;
}

RpSlotVersion
rp_tracked_slot_version(RpNode *node, const P2pKeyVersion *version)
{
	const RpKeyPayload *payload = version->payload;
	int			slot = payload ? payload->slot :
		rp_member_by_origin(node, &version->version.dot.origin);

	return (RpSlotVersion) {(uint16) slot, version->version.dot.seq, version->version.stamp};
}

bool
rp_tracked_is_stable(RpNode *node, const P2pKeyVersion *version)
{
	RpSlotVersion v = rp_tracked_slot_version(node, version);
	uint64		stable;

	SpinLockAcquire(&node->vector_lock);
	stable = node->members[v.slot].stable_seq;
	SpinLockRelease(&node->vector_lock);
	return v.seq <= stable;
}

const char *
rp_op_name(P2pOp op)
{
	switch (op)
	{
		case P2P_OP_INSERT:
			return "insert";
		case P2P_OP_UPDATE:
			return "update";
		case P2P_OP_DELETE:
			return "delete";
	}
	return "unknown";
}
