/*
 * join_guard.c
 *	  Shutting the tables that a join is copying.
 *
 * A join commits what it copies in many transactions, and only the last makes it
 * count. Until then nobody may see half of it, and nobody may write: a row of a client
 * would stand in the way of one that is still to be copied, and capture does
 * not know yet what such a transaction has seen.
 *
 * The tables are those in replp2p.join_tables, rows that live and die with the copy. Reading and
 * writing them is refused where the server checks rights (queries, COPY), TRUNCATE where
 * utility statements come by. Our own workers pass. Changing or dropping such a table is not
 * refused: the join begins anew then.
 *
 * That costs other databases and times nothing: unless the node of this database is
 * joining, or it is not known yet whether it has one (just after a start, before
 * launcher and gossip have looked), the hooks return at once.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/rel.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "join_plan.h"
#include "shmem.h"
#include "worker.h"

static ExecutorCheckPerms_hook_type next_check_perms = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

/*
 * May a join of this database be under way? Unlocked: who joins has not begun to copy when this
 * turns true.
 */
static bool
may_be_joining(void)
{
	volatile RpNode *node;

	if (rp_shared == NULL || rp_in_worker || IsParallelWorker() || !OidIsValid(MyDatabaseId))
		return false;
	node = rp_node_current();
	if (node == NULL)
		return !((volatile RpShared *) rp_shared)->nodes_known;
	return node->status == RP_NODE_JOINING || node->status == RP_NODE_NONE;
}

/* Is a table being copied? */
static bool
is_being_copied(Oid relation)
{
	Oid			tables = rp_catalog_table("join_tables");
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!OidIsValid(tables))
		return false;
	rel = table_open(tables, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull);

		found = !isnull && DatumGetObjectId(value) == relation;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Is a table, or what an insert into it may go to? */
static bool
is_shut(Oid relation)
{
	ListCell   *cell;

	if (get_rel_relkind(relation) != RELKIND_PARTITIONED_TABLE)
		return is_being_copied(relation);
	foreach(cell, find_all_inheritors(relation, AccessShareLock, NULL))
	{
		if (is_being_copied(lfirst_oid(cell)))
			return true;
	}
	return false;
}

/* ERROR if a table is being copied. */
static void
table_check(Oid relation)
{
	if (relation >= FirstNormalObjectId && is_shut(relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is being copied from another node", get_rel_name(relation)),
				 errhint("Wait with replp2p.wait_for_ready(); see replp2p.stat_join.")));
}

/* Hook: a query or COPY is about to use these tables. */
static bool
guard_check_perms(List *range_table, bool ereport_on_violation)
{
	ListCell   *cell;

	if (may_be_joining())
	{
		foreach(cell, range_table)
		{
			RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);

			if (entry->rtekind == RTE_RELATION)
				table_check(entry->relid);
		}
	}
	return next_check_perms == NULL || next_check_perms(range_table, ereport_on_violation);
}

/* Hook: a utility statement. */
static void
guard_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next = next_process_utility ?
		next_process_utility : standard_ProcessUtility;
	ListCell   *cell;

	if (IsA(pstmt->utilityStmt, TruncateStmt) && may_be_joining())
	{
		foreach(cell, ((TruncateStmt *) pstmt->utilityStmt)->relations)
			table_check(RangeVarGetRelid(lfirst_node(RangeVar, cell), NoLock, true));
	}
	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
}

/* Install the hooks. */
void
rp_join_guard_install(void)
{
	next_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = guard_check_perms;
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_process_utility;
}
