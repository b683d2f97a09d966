/*
 * apply_change.c
 *	  One change against the rows that are here: look up, compare versions,
 *	  let the greater one stand.
 *
 * The order of steps is what makes it safe beside local clients:
 *
 *	  1  The floor was raised to this transaction's stamp before anything was
 *	     looked up (apply_commit.c), and a note in the WAL says so: whose commit record
 *	     comes behind that note gets a greater stamp than ours. Whose came in front of it,
 *	     be it captured or not, is there for every look-up, or in progress, and waited for.
 *	  2  The row is looked up by key with a dirty snapshot, which waits for
 *	     whoever has it in work, and locked. "Missing" is believed only after a
 *	     second look with a fresh snapshot, since a concurrent non-HOT update
 *	     can hide a row from one index scan.
 *	  3  Its version is found by its xmin: version index, else (not captured
 *	     yet) after waiting for capture, else older than everything.
 *	  4  p2p_resolve decides; the row is stored, overwritten or removed.
 *	  5  After an insert, with our row in the unique index, nobody else can have
 *	     a live row of that key; any that was there was deleted before. So only
 *	     now is asked whether a local delete is still undecoded (deletes.h), it
 *	     is waited for, and if a tombstone is greater than ours our row is taken
 *	     out again. Asking before the insert would leave a gap in which a
 *	     client inserts and deletes unseen.
 *
 * Most changes meet nobody: the row is there in a version that the change has seen, or it is
 * inserted and not there. For these one glance at the index does in place of step 2 (change_glanced): an
 * update or delete is carried out on condition that the row is still the one that was judged, and an
 * insert is checked by the unique index itself, which sees every row and hides none, so that not even
 * a glance comes before it, until one has met a row. Whatever is
 * unusual has left nothing behind then, and goes all the steps.
 *
 * Applied rows fire no triggers and check no constraints other than unique
 * ones: the origin has checked them. Code of the table's owner (index
 * expressions, generated columns, domains) runs as that owner.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply_internal.h"
#include "barrier.h"
#include "deletes.h"
#include "displaced.h"
#include "handlers.h"
#include "members.h"
#include "ownlog.h"
#include "step.h"
#include "versions.h"

/* Local deletes that committed up to here are in the key index. */
static XLogRecPtr deletes_known_to = InvalidXLogRecPtr;

static void key_update(RpApplyTransaction *txn, RpOpenRelation *open);
static RpOpenRelation *relation_of(RpApplyTransaction *txn, RpRelationMap *map);
static void change_key(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op,
					   TupleTableSlot *key, bool *has_base, TupleTableSlot *base);
static bool change_once(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op,
						TupleTableSlot *key);
static bool change_glanced(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op,
						   TupleTableSlot *key);
static bool store_glanced(RpApplyTransaction *txn, RpOpenRelation *open, bool in_table);
static bool insert_is_promising(RpOpenRelation *open);
static RpSlotVersion own_version(const RpApplyTransaction *txn, TransactionId xmin);
static void tombstone_reconsider(RpApplyTransaction *txn, P2pOp op, RpKeyHash hash,
								 RpConflictRecord *record);
static bool insert_is_overruled(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op,
								TupleTableSlot *key, RpStored stored);
static void insert_without_key(RpApplyTransaction *txn, RpOpenRelation *open);
static bool key_differs(RpOpenRelation *open);
static void truncate_by_version(RpApplyTransaction *txn, RpOpenRelation *open);
static bool all_is_past(RpApplyTransaction *txn);

void
rp_apply_change(RpApplyTransaction *txn, RpRelationMap *map, P2pTag tag,
				const P2pValue *old_values, const P2pValue *new_values)
{
	RpOpenRelation *open = relation_of(txn, map);
	MemoryContext old = MemoryContextSwitchTo(txn->change_context);
	TupleTableSlot *handler_change = NULL;

	if (map->is_membership || map->is_handler_change)
		rp_apply_alone(txn);
	if (tag != P2P_TAG_INSERT || !map->has_key)
		(void) rp_run_flush(txn);	/* it may concern one of its rows */
	if (new_values)
		rp_values_to_slot(map, new_values, open->incoming, open->given, open->unavailable);
	if (old_values)
		rp_values_to_slot(map, old_values, open->old, NULL, NULL);

	if (!map->has_key)
	{
		if (tag == P2P_TAG_INSERT)
			insert_without_key(txn, open);
	}
	else if (tag == P2P_TAG_INSERT)
	{
		if (!rp_run_take(txn, open))
		{
			/* what flushes uses our slots, too */
			if (rp_run_flush(txn))
				rp_values_to_slot(map, new_values, open->incoming, open->given, open->unavailable);
			change_key(txn, open, P2P_OP_INSERT, open->incoming, NULL, NULL);
		}
	}
	else if (tag == P2P_TAG_DELETE)
		change_key(txn, open, P2P_OP_DELETE, open->old, NULL, NULL);
	else if (old_values && key_differs(open))
		key_update(txn, open);
	else
		change_key(txn, open, P2P_OP_UPDATE, open->incoming, NULL, NULL);

	if (map->is_membership && tag == P2P_TAG_INSERT)
	{
		RpMembershipRow row;

		rp_membership_row_read(open->incoming, &row);
		rp_membership_register(txn->node, &row, txn->slot_version.seq);
		txn->membership_changed = true;
	}
	if (map->is_handler_change && tag == P2P_TAG_INSERT)
	{
		handler_change = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(open->rel)),
												  &TTSOpsHeapTuple);
		ExecCopySlot(handler_change, open->incoming);
	}
	txn->changes++;
	ExecClearTuple(open->local);
	ExecClearTuple(open->found);
	ExecClearTuple(open->incoming);
	ExecClearTuple(open->old);
	ExecClearTuple(open->store);
	ResetPerTupleExprContext(open->estate);
	if (handler_change)
	{
		rp_apply_close_relations(txn);	/* it may alter one of them */
		/* local ones from before our note get their versions, later ones have greater stamps */
		rp_barrier(txn->node, 0);
		rp_handlers_register(txn->node, handler_change, &txn->version);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(txn->change_context);
}

/*
 * Apply an update that has changed the key: a delete and an insert with one version. Values
 * that did not come because they are unchanged are those of the row that is deleted.
 */
static void
key_update(RpApplyTransaction *txn, RpOpenRelation *open)
{
	TupleTableSlot *base = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsHeapTuple);
	bool		has_base = false;

	change_key(txn, open, P2P_OP_DELETE, open->old, &has_base, base);
	if (has_base)
	{
		slot_getallattrs(base);
		for (int a = 0; a < open->map->natts; a++)
		{
			if (!open->unavailable[a])
				continue;
			open->incoming->tts_values[a] = base->tts_values[a];
			open->incoming->tts_isnull[a] = base->tts_isnull[a];
			open->unavailable[a] = false;
		}
	}
	txn->second_half = true;
	change_key(txn, open, P2P_OP_UPDATE, open->incoming, NULL, NULL);
	txn->second_half = false;
	ExecDropSingleTupleTableSlot(base);
}

void
rp_apply_close_relations(RpApplyTransaction *txn)
{
	ListCell   *cell;

	(void) rp_run_flush(txn);
	foreach(cell, txn->opened)
		rp_relation_give(lfirst(cell));
	txn->opened = NIL;
}

/* Return the relation of this transaction for map, opened on first use. */
static RpOpenRelation *
relation_of(RpApplyTransaction *txn, RpRelationMap *map)
{
	ListCell   *cell;
	RpOpenRelation *open;
	MemoryContext old;

	foreach(cell, txn->opened)
	{
		open = lfirst(cell);
		if (open->map != map)
			continue;
		open->never_wait = txn->group != NULL || txn->early;
		return open;
	}
	/* what came before in a group holds locks already, and what is early gives way */
	if ((txn->early || (txn->group != NULL && txn->group->n > 1)) &&
		!ConditionalLockRelationOid(map->relid, RowExclusiveLock))
		rp_relation_busy(map);
	old = MemoryContextSwitchTo(TopTransactionContext);
	open = rp_relation_take(map);
	txn->opened = lappend(txn->opened, open);
	MemoryContextSwitchTo(old);
	open->never_wait = txn->group != NULL || txn->early;
	return open;
}

/* Has the update changed the key? old carries the old key, incoming the new. */
static bool
key_differs(RpOpenRelation *open)
{
	RpRelationMap *map = open->map;

	for (int k = 0; k < map->nkeys; k++)
	{
		int			a = map->key_attnos[k];

		if (!DatumGetBool(FunctionCall2Coll(&map->key_equal[k], map->key_collation[k],
											open->old->tts_values[a], open->incoming->tts_values[a])))
			return true;
	}
	return false;
}

/*
 * Apply one operation to the row of key. If base is given it receives a copy
 * of the row that was here.
 */
static void
change_key(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key,
		   bool *has_base, TupleTableSlot *base)
{
	Oid			save_user;
	int			save_sec;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	txn->step = op == P2P_OP_DELETE ? rp_step_removing(txn->item) : rp_step_storing(txn->item);
	if (rp_displaced_in(open->map->relid) || rp_handlers_of(open->map->relid) != NULL)
		rp_apply_alone(txn);
	else if (base == NULL && change_glanced(txn, open, op, key))
	{
		SetUserIdAndSecContext(save_user, save_sec);
		return;
	}
	do
	{
		RpSlotVersion version;

		CHECK_FOR_INTERRUPTS();
		if (base)
			*has_base = false;
		if (base && rp_row_find(open, key, open->local))
			*has_base = ExecCopySlot(base, open->local) != NULL;
		else if (base && rp_displaced_find(open, key, &version, open->image))
			*has_base = ExecCopySlot(base, open->image) != NULL;
	} while (!change_once(txn, open, op, key));
	SetUserIdAndSecContext(save_user, save_sec);
}

/*
 * Apply an operation that meets nobody. False: it is not as simple as that, and nothing has been
 * written. The resolution is that of change_once.
 */
static bool
change_glanced(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key)
{
	Oid			relid = open->map->relid;
	RpSlotVersion row = {0};
	RpSlotVersion tombstone = {0};
	P2pKeyState here = {0};
	P2pDecision decision;
	RpKeyHash	hash;
	RpGlance	glance;

	if (txn->careful)
		return false;
	if (op == P2P_OP_INSERT && insert_is_promising(open))
		glance = RP_GLANCE_NOTHING;
	else
		glance = rp_row_glance(open, key, open->local);
	if (glance == RP_GLANCE_BUSY || (glance == RP_GLANCE_NOTHING && op != P2P_OP_INSERT))
		return false;
	here.row_exists = glance == RP_GLANCE_ROW;
	if (here.row_exists)
	{
		row = rp_row_version(txn, open, open->local);
		here.row = rp_version_of(txn->node, &row);
	}
	hash = rp_key_hash(open->map, key);
	if (rp_keyindex_tombstone(relid, hash, &tombstone))
		here.tombstone = rp_version_of(txn->node, &tombstone);
	decision = p2p_resolve(op, &txn->version, txn->deps, &here);
	if (decision.conflict != P2P_NO_CONFLICT)
		return false;

	switch (decision.action)
	{
		case P2P_KEEP:
		case P2P_REMEMBER_DELETE:
			return false;
		case P2P_INSERT_ROW:
			if (!store_glanced(txn, open, false))
				return false;
			/* else there is no tombstone but the one that was looked at */
			if (rp_apply_deletes_complete(txn, relid))
				rp_insert_reconsider(txn, open, op, key);
			break;
		case P2P_UPDATE_ROW:
			if (!store_glanced(txn, open, true))
				return false;
			break;
		case P2P_DELETE_ROW:
			rp_displaced_touch(relid);
			if (!rp_row_delete_unlocked(open))
				return false;
			break;
	}
	if (decision.remember)
		rp_keyindex_delete(hash, &txn->slot_version);
	CommandCounterIncrement();
	return true;
}

void
rp_insert_reconsider(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key)
{
	RpConflictRecord record = {0};

	if (insert_is_overruled(txn, open, op, key, RP_STORED))
		return;
	record.open = open;
	record.key = key;
	record.remote_row = open->incoming;
	record.applied_row = open->store;
	record.incoming_wins = true;
	tombstone_reconsider(txn, op, rp_key_hash(open->map, key), &record);
	if (record.conflict != P2P_NO_CONFLICT)
		rp_conflict_record(txn, &record);
}

void
rp_insert_again(RpApplyTransaction *txn, RpOpenRelation *open)
{
	change_key(txn, open, P2P_OP_INSERT, open->incoming, NULL, NULL);
}

/* Is an insert likely to find nothing, so that not even a glance is worth it? */
static bool
insert_is_promising(RpOpenRelation *open)
{
	if (!open->plain || !open->key_alone)
		return false;
	if (open->map->glances == 0)
		return true;
	open->map->glances--;
	return false;
}

/*
 * Store the incoming row where a glance found a row in open->local, or none; false: it is not so
 * any more.
 */
static bool
store_glanced(RpApplyTransaction *txn, RpOpenRelation *open, bool in_table)
{
	rp_row_build(open, in_table ? open->local : NULL);
	if (!in_table && open->plain && open->key_alone)
	{
		rp_displaced_touch(open->map->relid);
		return rp_row_insert_new(open);
	}
	return rp_unique_store(txn, open, in_table ? RP_HERE_GLANCED : RP_HERE_NOTHING,
						   &txn->slot_version) != RP_STORE_AGAIN;
}

/*
 * After an insert: a local delete may have become known, which loses (else it
 * would have been overruled), but is a conflict all the same.
 */
static void
tombstone_reconsider(RpApplyTransaction *txn, P2pOp op, RpKeyHash hash, RpConflictRecord *record)
{
	P2pKeyState here = {0};

	if (!rp_keyindex_tombstone(record->open->map->relid, hash, &record->local))
		return;
	here.tombstone = rp_version_of(txn->node, &record->local);
	record->conflict = p2p_resolve(op, &txn->version, txn->deps, &here).conflict;
}

/*
 * One attempt; false: somebody inserted the key meanwhile, look again. A row that is
 * displaced is here as well as one in the table, but for where it is.
 */
static bool
change_once(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key)
{
	const RpTableHandlers *handlers = rp_handlers_of(open->map->relid);
	RpKeyHash	hash = rp_key_hash(open->map, key);
	P2pKeyState here = {0};
	RpSlotVersion row = {0};
	RpSlotVersion tombstone = {0};
	RpConflictRecord record = {0};
	P2pDecision decision;
	RpStored	stored;
	bool		in_table;

	if (handlers != NULL && handlers->tracked)
		return rp_tracked_change(txn, open, op, key);
	in_table = rp_row_find(open, key, open->local);
	if (in_table)
		row = rp_row_version(txn, open, open->local);
	here.row_exists = in_table || rp_displaced_find(open, key, &row, open->image);
	here.row = rp_version_of(txn->node, &row);
	if (rp_keyindex_tombstone(open->map->relid, hash, &tombstone))
		here.tombstone = rp_version_of(txn->node, &tombstone);
	decision = p2p_resolve(op, &txn->version, txn->deps, &here);

	/* history first: the images are still as they were found */
	if (here.row_exists)
		record.local_row = in_table ? open->local : open->image;
	if (op != P2P_OP_DELETE && decision.incoming_wins)
		rp_row_build(open, record.local_row);
	record.conflict = decision.conflict;
	record.incoming_wins = decision.incoming_wins;
	record.open = open;
	record.key = key;
	record.remote_row = op != P2P_OP_DELETE ? open->incoming : NULL;
	record.local = here.row_exists ? row : tombstone;
	if (decision.incoming_wins)
		record.applied_row = op != P2P_OP_DELETE ? open->store : NULL;
	else
		record.applied_row = record.local_row;

	switch (decision.action)
	{
		case P2P_KEEP:
		case P2P_REMEMBER_DELETE:
			break;
		case P2P_INSERT_ROW:
		case P2P_UPDATE_ROW:
			stored = rp_unique_store(txn, open, in_table ? RP_HERE_LOCKED : RP_HERE_NOTHING,
									 &txn->slot_version);
			if (stored == RP_STORE_AGAIN)
				return false;
			if (!in_table && insert_is_overruled(txn, open, op, key, stored))
				return true;
			if (decision.conflict == P2P_NO_CONFLICT && !here.row_exists)
				tombstone_reconsider(txn, op, hash, &record);
			break;
		case P2P_DELETE_ROW:
			if (in_table)
				rp_unique_delete(txn, open);
			else
				rp_displaced_drop(txn, open, key);
			break;
	}
	if (decision.remember)
		rp_keyindex_delete(hash, &txn->slot_version);
	if (record.conflict != P2P_NO_CONFLICT)
		rp_conflict_record(txn, &record);
	CommandCounterIncrement();
	return true;
}

/*
 * Is the index's entry for the raw xmin of a frozen row really this row's? A
 * frozen row may be older than 2^32 xids, and its xmin have come round again:
 * then the transaction that the entry names did not write this key.
 */
static bool
frozen_version_is_right(RpOpenRelation *open, TupleTableSlot *row, const RpVersionEntry *entry)
{
	if (EpochFromFullTransactionId(ReadNextFullTransactionId()) == 0)
		return true;			/* no xid has come round */
	return open->map->has_key &&
		rp_keyindex_wrote(entry->slot, entry->seq, rp_key_hash(open->map, row));
}

/*
 * The version of a row that this local transaction has written: of this or an earlier member of its
 * group.
 */
static RpSlotVersion
own_version(const RpApplyTransaction *txn, TransactionId xmin)
{
	int			member = txn->group == NULL ? -1 : rp_group_note_find(txn->group, xmin);

	if (member < 0)
		return txn->slot_version;
	return (RpSlotVersion) {
		txn->slot_version.slot, txn->group->first_seq + member, txn->group->members[member].stamp
	};
}

/*
 * The version of a row found here, by its xmin. The horizon is read before
 * the index is asked: an xid below it was captured before, so that its entry, if it
 * ever had one, is there or has become stable.
 */
RpSlotVersion
rp_row_version(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row)
{
	RpSlotVersion version = {0};
	HeapTuple	tuple = ExecFetchSlotHeapTuple(row, false, NULL);
	TransactionId xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);

	if (!TransactionIdIsNormal(xmin))
		return version;
	if (!HeapTupleHeaderXminFrozen(tuple->t_data) && TransactionIdIsCurrentTransactionId(xmin))
		return own_version(txn, xmin);

	for (int attempt = 0; attempt < 2; attempt++)
	{
		RpVersionEntry entry;
		TransactionId below;

		SpinLockAcquire(&txn->node->vector_lock);
		below = txn->node->captured_below;
		SpinLockRelease(&txn->node->vector_lock);
		if (rp_versions_get(rp_versions_full_xid(xmin), &entry))
		{
			if (HeapTupleHeaderXminFrozen(tuple->t_data) && entry.slot != RP_SLOT_COPIED &&
				!frozen_version_is_right(open, row, &entry))
				return version;
			if (entry.slot == RP_SLOT_COPIED)
				(void) rp_keyindex_copied_row(rp_key_hash(open->map, row), &version);
			else
				version = (RpSlotVersion) {entry.slot, entry.seq, entry.stamp};
			return version;
		}
		if (HeapTupleHeaderXminFrozen(tuple->t_data) ||
			(TransactionIdIsValid(below) && TransactionIdPrecedes(xmin, below)))
			break;
		if (attempt == 0)
			rp_barrier(txn->node, 0);
	}
	return version;
}

/* The same version with the origin in place of the slot. */
P2pVersion
rp_version_of(RpNode *node, const RpSlotVersion *v)
{
	P2pVersion	version = {0};

	if (v->seq == 0)
		return version;
	version.stamp = v->stamp;
	version.dot.origin = node->members[v->slot].origin;
	version.dot.seq = v->seq;
	return version;
}

/* A table without replica identity takes inserts as they come. */
static void
insert_without_key(RpApplyTransaction *txn, RpOpenRelation *open)
{
	Oid			save_user;
	int			save_sec;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	rp_row_build(open, NULL);
	rp_row_insert_anyway(open);
	SetUserIdAndSecContext(save_user, save_sec);
	CommandCounterIncrement();
}

void
rp_apply_deletes_known_to(XLogRecPtr lsn)
{
	deletes_known_to = lsn;
}

/*
 * Make the key index complete for all local deletes of table that have
 * committed up to now; false: it was. Costs a few reads when there was none.
 */
bool
rp_apply_deletes_complete(RpApplyTransaction *txn, Oid table)
{
	RpNode	   *node = txn->node;
	XLogRecPtr	captured;
	uint64		seq;

	if (!rp_deletes_since(node, table, deletes_known_to))
		return false;
	if (rp_deletes_pending(node, table))
		rp_barrier(node, 0);
	SpinLockAcquire(&node->vector_lock);
	captured = node->captured_lsn;
	seq = node->members[RP_SELF].captured_seq;
	SpinLockRelease(&node->vector_lock);
	rp_own_log_follow(seq);
	deletes_known_to = captured;
	return true;
}

/*
 * Our row is in the index (or displaced, so that there is nothing for a client to delete
 * unseen: what he inserted and deleted is read in the own log, see displaced.c). Has a
 * delete or truncate of this key a greater version than ours? Then take the row out again,
 * and say so in the history.
 */
static bool
insert_is_overruled(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key,
					RpStored stored)
{
	RpSlotVersion tombstone = {0};
	RpConflictRecord record = {0};
	P2pKeyState here = {0};
	P2pDecision decision;

	(void) rp_apply_deletes_complete(txn, open->map->relid);
	if (!rp_keyindex_tombstone(open->map->relid, rp_key_hash(open->map, key), &tombstone) ||
		rp_slot_version_compare(&tombstone, &txn->slot_version) <= 0)
		return false;

	CommandCounterIncrement();
	if (stored == RP_STORED)
		rp_row_delete(open, open->store);
	else
		rp_displaced_drop(txn, open, key);
	rp_displaced_touch(open->map->relid);
	here.tombstone = rp_version_of(txn->node, &tombstone);
	decision = p2p_resolve(op, &txn->version, txn->deps, &here);
	record.conflict = decision.conflict;
	record.open = open;
	record.key = key;
	record.remote_row = open->incoming;
	record.local = tombstone;
	if (decision.conflict != P2P_NO_CONFLICT)
		rp_conflict_record(txn, &record);
	CommandCounterIncrement();
	return true;
}

void
rp_apply_truncate(RpApplyTransaction *txn, List *maps, uint8 flags)
{
	List	   *rels = NIL;
	List	   *relids = NIL;
	ListCell   *cell;
	bool		past;

	rp_apply_alone(txn);
	txn->step = rp_step_removing(txn->item);
	rp_apply_close_relations(txn);	/* they hold indexes open */
	foreach(cell, maps)
	{
		RpRelationMap *map = lfirst(cell);

		LockRelationOid(map->relid, AccessExclusiveLock);
		rels = lappend(rels, table_open(map->relid, NoLock));
		relids = lappend_oid(relids, map->relid);
	}
	rp_barrier(txn->node, 0);	/* the tables' local changes are all stamped now */
	past = all_is_past(txn);
	if (past)
		ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT,
							(flags & P2P_TRUNCATE_RESTART_SEQS) != 0);
	foreach(cell, maps)
	{
		RpOpenRelation *open = relation_of(txn, lfirst(cell));
		const RpTableHandlers *handlers = rp_handlers_of(open->map->relid);

		if (handlers != NULL && handlers->tracked)
			rp_tracked_truncate(txn, open);
		else if (!past)
			truncate_by_version(txn, open);
	}
	foreach(cell, maps)
	{
		Oid			relid = ((RpRelationMap *) lfirst(cell))->relid;
		const RpTableHandlers *handlers = rp_handlers_of(relid);

		rp_keyindex_truncate(relid, &txn->slot_version);
		if (handlers == NULL || !handlers->tracked)
			rp_displaced_truncate(txn, relid);
	}
	foreach(cell, rels)
		table_close(lfirst(cell), NoLock);
	txn->changes++;
	CommandCounterIncrement();
}

/* Has the transaction's origin seen everything that is applied here? */
static bool
all_is_past(RpApplyTransaction *txn)
{
	RpNode	   *node = txn->node;
	bool		past = true;

	SpinLockAcquire(&node->vector_lock);
	for (int m = 0; m < node->nmembers && past; m++)
	{
		if (m != txn->slot_version.slot)
			past = node->members[m].applied_seq <= p2p_vector_get(txn->deps, &node->members[m].origin);
	}
	SpinLockRelease(&node->vector_lock);
	return past;
}

/* Remove the rows whose version is not greater than the truncate's. The table is locked. */
static void
truncate_by_version(RpApplyTransaction *txn, RpOpenRelation *open)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(open->rel, snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, open->local))
	{
		RpSlotVersion version;

		CHECK_FOR_INTERRUPTS();
		version = rp_row_version(txn, open, open->local);
		if (rp_slot_version_compare(&version, &txn->slot_version) <= 0)
			rp_row_delete(open, open->local);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}
