/*
 * deletes.c
 *	  Which tables may have had a local delete that capture has not decoded
 *	  yet, and the commit callback that wakes capture.
 *
 * A key that is deleted by a local transaction has no tombstone before capture has
 * read the commit. Apply, finding neither row nor tombstone, must know whether such
 * a delete may exist. Two numbers per bucket of table oids tell (RpNode):
 *
 *	  deleting      transactions between their announcement and their end
 *	  deleted_lsn   greatest end of a commit record of one
 *
 * What a deleting transaction D does, in this order:
 *
 *	  (1) pre-commit callback: deleting++                (full barrier)
 *	  (2) commit record, ending at L
 *	  (3) it leaves the list of running transactions: its deletes become visible
 *	  (4) commit callback: deleted_lsn = max(deleted_lsn, L), then deleting--
 *
 * and capture afterwards puts D's tombstones into the index, then moves captured_lsn to L
 * or beyond. What apply has to do, in this order:
 *
 *	  (a) look for the row, with a snapshot: there is none
 *	  (b) rp_deletes_pending: reads captured_lsn, then deleting, then deleted_lsn
 *	  (c) if false: look for a tombstone. If true: barrier, then (c)
 *
 * Say (a) found nothing because of D. Then (3) came before (a), so (1) before (b). If
 * (b) reads deleting = 0, then (4) is done and deleted_lsn >= L is seen. If that is not
 * beyond the captured_lsn read before, capture has passed L, and the tombstone is there for
 * (c). A D that commits after (a) did not hide the row from (a). Looking for
 * tombstones before (b), or for the row after it, breaks this. deleted_lsn does not
 * depend on flushing: with synchronous_commit = off capture lags behind it, no more.
 *
 * Who announces what (before its commit; too much is harmless, too little is not):
 *	  - DELETE, MERGE and statements with modifying CTEs: their result relations;
 *	  - UPDATE (of ON CONFLICT, too): those whose replica identity it may change, that it may
 *	    move between partitions, or that have BEFORE UPDATE row triggers;
 *	  - TRUNCATE: every table;
 *	  - transactions that began while the database was no node: every table;
 *	  - transactions under a replication origin that are not our workers': every table;
 *	  - COMMIT PREPARED: every table, raised before it and lowered after the transaction
 *	    around it, so that a prepared transaction needs no mark while it lies there, and
 *	    none that a restart could lose;
 *	  - the server's own subscription workers, which go round executor and utility hooks and
 *	    commit prepared transactions between our callbacks: every table, from their first
 *	    transaction until they exit.
 * An aborted subtransaction leaves its announcement behind. Not seen are extensions that
 * delete rows of replicated tables through the table access method alone.
 *
 * Our own workers announce nothing: what apply deletes has its tombstone from apply.
 *
 * Counters are raised and lowered without locks, and lowered on the very entry that
 * they were raised on, whatever has become of the node (shmem.c). The callbacks run in every
 * process of the cluster and return at once where there is no node.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "port/pg_bitutils.h"
#include "replication/logicalworker.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "deletes.h"
#include "worker.h"

/* A statement with more result relations than this announces every table. */
#define MAX_ANNOUNCED_RELATIONS 32

#define BUCKET_WORDS (RP_DELETE_BUCKETS / 64 + 1)

/* What the running transaction has announced. */
static struct
{
	bool		any;
	uint64		buckets[BUCKET_WORDS];	/* bit set; the last is RP_DELETE_EVERY */
	RpNode	   *raised;			/* entry on which they are raised, or NULL */
	XLogRecPtr	prepared_end;	/* end of a COMMIT PREPARED inside it */
}			announced;

/* Entry on which this subscription worker has raised RP_DELETE_EVERY for good. */
static RpNode *standing = NULL;

static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

/* Return the bucket of a table, or that of all. */
static uint32
bucket_of(Oid table)
{
	if (!OidIsValid(table))
		return RP_DELETE_EVERY;
	return murmurhash32(table) % RP_DELETE_BUCKETS;
}

/* Raise *value to at least minimum. */
static void
raise_to(pg_atomic_uint64 *value, uint64 minimum)
{
	uint64		old = pg_atomic_read_u64(value);

	while (old < minimum && !pg_atomic_compare_exchange_u64(value, &old, minimum))
		;
}

/* Lower one bucket; lsn: commit end to publish before, or invalid. */
static void
bucket_lower(RpNode *node, uint32 bucket, XLogRecPtr lsn)
{
	if (!XLogRecPtrIsInvalid(lsn))
		raise_to(&node->deleted_lsn[bucket], lsn);
	pg_atomic_fetch_sub_u32(&node->deleting[bucket], 1);
}

/* Announce a table, or every one (InvalidOid), for this transaction. */
void
rp_deletes_announce(Oid table)
{
	uint32		bucket = bucket_of(table);
	uint64		bit = UINT64CONST(1) << (bucket % 64);

	if (rp_in_worker || (announced.buckets[bucket / 64] & bit) != 0)
		return;
	announced.any = true;
	announced.buckets[bucket / 64] |= bit;
	if (announced.raised != NULL)	/* another pre-commit callback writes */
		pg_atomic_fetch_add_u32(&announced.raised->deleting[bucket], 1);
}

/* Find the first announced bucket from *bucket on: for loops over all. */
static bool
announced_find(uint32 *bucket)
{
	for (uint32 word = *bucket / 64; word < BUCKET_WORDS; word++)
	{
		uint64		bits = announced.buckets[word];

		if (word == *bucket / 64)
			bits &= PG_UINT64_MAX << (*bucket % 64);
		if (bits != 0)
		{
			*bucket = word * 64 + (uint32) pg_rightmost_one_pos64(bits);
			return true;
		}
	}
	return false;
}

/* Raise the counters of all that is announced. */
static void
announced_raise(RpNode *node)
{
	announced.raised = node;
	for (uint32 bucket = 0; announced_find(&bucket); bucket++)
		pg_atomic_fetch_add_u32(&node->deleting[bucket], 1);
}

/* Lower what was raised, publishing lsn if valid, and forget the announcements. */
static void
announced_end(XLogRecPtr lsn)
{
	if (!announced.any)
		return;
	for (uint32 bucket = 0; announced.raised != NULL && announced_find(&bucket); bucket++)
		bucket_lower(announced.raised, bucket, lsn);
	memset(&announced, 0, sizeof(announced));
}

/* May table have had a local delete that committed after lsn, or is about to? */
bool
rp_deletes_since(RpNode *node, Oid table, XLogRecPtr lsn)
{
	uint32		buckets[] = {bucket_of(table), RP_DELETE_EVERY};

	pg_memory_barrier();
	for (size_t i = 0; i < lengthof(buckets); i++)
	{
		if (pg_atomic_read_u32(&node->deleting[buckets[i]]) > 0)
			return true;
		pg_read_barrier();
		if (pg_atomic_read_u64(&node->deleted_lsn[buckets[i]]) > lsn)
			return true;
	}
	return false;
}

/* May table have a local delete that has no tombstone yet? The order of reads is in the head. */
bool
rp_deletes_pending(RpNode *node, Oid table)
{
	XLogRecPtr	captured;

	SpinLockAcquire(&node->vector_lock);
	captured = node->captured_lsn;
	SpinLockRelease(&node->vector_lock);
	return rp_deletes_since(node, table, captured);
}

/* Does the statement set a column that partitions rel, so that the row may move? */
static bool
update_may_move(Relation rel, const Bitmapset *updated)
{
	Bitmapset  *columns = NULL;
	bool		moves;

	if (!rel->rd_rel->relispartition)
		return false;
	pull_varattnos((Node *) RelationGetPartitionQual(rel), 1, &columns);
	moves = bms_overlap(columns, updated);
	bms_free(columns);
	return moves;
}

/* May an update of these columns change the replica identity of a row? */
static bool
update_may_change_key(ResultRelInfo *target, EState *estate)
{
	Relation	rel = target->ri_RelationDesc;
	Bitmapset  *updated = ExecGetAllUpdatedCols(target, estate);
	Bitmapset  *key;
	bool		changes;

	if (bms_is_empty(updated))
		return false;			/* an INSERT without ON CONFLICT DO UPDATE */
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL ||
		(target->ri_TrigDesc != NULL && target->ri_TrigDesc->trig_update_before_row))
		return true;
	key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	changes = bms_overlap(key, updated) || update_may_move(rel, updated);
	bms_free(key);
	return changes;
}

/* Announce what a statement that has been started may delete. */
static void
announce_statement(QueryDesc *query)
{
	EState	   *estate = query->estate;
	bool		deletes = query->operation != CMD_UPDATE && query->operation != CMD_INSERT;
	ListCell   *cell;

	if (query->plannedstmt->hasModifyingCTE)
		deletes = true;
	if (rp_node_current() == NULL ||
		list_length(estate->es_opened_result_relations) > MAX_ANNOUNCED_RELATIONS)
	{
		rp_deletes_announce(InvalidOid);
		return;
	}
	foreach(cell, estate->es_opened_result_relations)
	{
		ResultRelInfo *target = lfirst(cell);
		Relation	rel = target->ri_RelationDesc;
		bool		partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;

		if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
			continue;
		if (partitioned && query->operation == CMD_UPDATE && !deletes)
			continue;			/* its partitions are in the list, too */
		if (deletes || update_may_change_key(target, estate))
			rp_deletes_announce(partitioned ? InvalidOid : RelationGetRelid(rel));
	}
}

/* Start a statement, then announce what it may delete: both before its first row. */
static void
deletes_executor_start(QueryDesc *query, int eflags)
{
	if (next_executor_start)
		next_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);

	if (rp_shared == NULL || rp_in_worker || (eflags & EXEC_FLAG_EXPLAIN_ONLY) != 0 ||
		query->estate->es_opened_result_relations == NIL)
		return;
	announce_statement(query);
}

/* Is it COMMIT PREPARED? */
static bool
is_commit_prepared(const Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		((const TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/* Announce TRUNCATE and COMMIT PREPARED. */
static void
deletes_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *environment, DestReceiver *dest,
						QueryCompletion *completion)
{
	bool		commit_prepared = is_commit_prepared(pstmt->utilityStmt);

	if (rp_shared != NULL && (commit_prepared || IsA(pstmt->utilityStmt, TruncateStmt)))
	{
		RpNode	   *node = rp_node_current();

		rp_deletes_announce(InvalidOid);
		if (commit_prepared && node != NULL && announced.any && announced.raised == NULL)
			announced_raise(node);
	}
	if (next_process_utility)
		next_process_utility(pstmt, query_string, read_only_tree, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params,
								environment, dest, completion);
	/* The last record that this process wrote ends at or after the prepared commit's. */
	if (commit_prepared)
		announced.prepared_end = XactLastRecEnd;
}

/* Give up what a subscription worker has raised for good; all that it committed is published. */
static void
standing_lower(int code, Datum unused)
{
	(void) code;
	(void) unused;
	if (standing != NULL)
		bucket_lower(standing, RP_DELETE_EVERY, Max(XactLastCommitEnd, XactLastRecEnd));
	standing = NULL;
}

/* Raise every table for as long as this subscription worker lives. */
static void
standing_raise(RpNode *node)
{
	static bool registered = false;

	if (standing == node)
		return;
	if (!registered)
		on_shmem_exit(standing_lower, (Datum) 0);
	registered = true;
	standing_lower(0, (Datum) 0);
	pg_atomic_fetch_add_u32(&node->deleting[RP_DELETE_EVERY], 1);
	standing = node;
}

/* Before the commit record: raise what is announced. */
static void
before_commit(void)
{
	RpNode	   *node = rp_node_current();

	if (node == NULL || rp_in_worker)
		return;
	if (IsLogicalWorker())
		standing_raise(node);
	else if (replorigin_session_origin != InvalidRepOriginId)
		rp_deletes_announce(InvalidOid);
	if (announced.any && announced.raised == NULL)
		announced_raise(node);
}

/* After a commit: publish where it ends, lower what was raised, wake capture. */
static void
after_commit(void)
{
	RpNode	   *node = rp_node_current();
	bool		is_remote = rp_in_worker && replorigin_session_origin != InvalidRepOriginId;
	XLogRecPtr	end = InvalidXLogRecPtr;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		end = XactLastCommitEnd;
	if (announced.prepared_end > end)
		end = announced.prepared_end;
	announced_end(end);
	if (node == NULL || XLogRecPtrIsInvalid(end) || is_remote)
		return;
	rp_commit_publish(node, end);
}

/*
 * After an abort: lower what was raised. A COMMIT PREPARED may have
 * succeeded before its surrounding transaction failed: then its end is not
 * known here any more, and the end of all WAL stands for it.
 */
static void
after_abort(void)
{
	bool		every = announced.raised != NULL &&
		(announced.buckets[BUCKET_WORDS - 1] & 1) != 0;

	announced_end(every ? GetXLogInsertRecPtr() : InvalidXLogRecPtr);
}

/* Dispatch the transaction's events. */
static void
deletes_xact_event(XactEvent event, void *arg)
{
	(void) arg;
	if (rp_shared == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			before_commit();
			break;
		case XACT_EVENT_COMMIT:
			after_commit();
			break;
		case XACT_EVENT_ABORT:
			after_abort();
			break;
		case XACT_EVENT_PREPARE:
			announced_end(InvalidXLogRecPtr);
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
}

/* Install the hooks. */
void
rp_deletes_install(void)
{
	StaticAssertStmt(RP_DELETE_BUCKETS % 64 == 0, "RP_DELETE_EVERY is bit 0 of the last word");
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = deletes_executor_start;
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = deletes_process_utility;
	RegisterXactCallback(deletes_xact_event, NULL);
}
