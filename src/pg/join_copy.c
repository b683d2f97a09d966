/*
 * join_copy.c
 *	  The copy of a join: schema, rows, indexes, and the commit that makes it count.
 *
 *	  schema		 one transaction: what pg_dump calls pre-data (types, tables,
 *					 functions), and the plan (join_plan.c)
 *	  data			 one transaction per piece of a table, several at a time (join_pieces.c)
 *	  patching		 one per table that was copied from another member than the sponsor (join_patch.c)
 *	  renewing		 one per table that has pieces of earlier snapshots (join_renew.c)
 *	  indexes		 one per index or constraint that is an index
 *	  completing	 the last one: tables of extensions and of our own, sequences, the
 *					 rest of post-data (foreign keys, triggers, refreshed views), which
 *					 conflict handlers hold, the members, and how far each origin is
 *					 applied: the vector of the snapshot. Its commit makes the copy count
 *
 * Until then the tables that are copied are shut (join_guard.c): nothing half-copied is
 * ever seen, and nobody writes over it. Whatever fails or dies before, is gone on
 * with in another snapshot; all that counts in the end is as that last one sees it. If
 * the donor's schema is another one by then, what was made here is dropped, and all begins anew.
 *
 * Everything is written under RP_COPY_ORIGIN, so that capture takes none of it
 * for a change made here. The origin_lsn of the commit records is the greatest
 * stamp that a copied row may have: capture raises the floor to it when it
 * reads the record, also after a crash; a note in the WAL raises it before
 * anybody can see the rows and overwrite them.
 *
 * Version index: the xids of each of these transactions are entered as RP_SLOT_COPIED,
 * durably before its commit. A copied row then has the version that the logs
 * know of its key, or is older than everything; members.required_seq says up to
 * where apply must have the logs before it may ask.
 *
 * Order at the end: members and required_seq are loaded into shared memory while
 * the node is still joining, then capture passes a barrier, then comes the
 * commit. So capture knows the snapshot's vector when it meets the first local
 * transaction that saw the copied rows, and gives it the right deps. Should the
 * commit fail after that, shared memory is cleaned and capture started anew.
 */
#include "postgres.h"

#include <signal.h>

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "p2p_crypto.h"

#include "barrier.h"
#include "catalog.h"
#include "crashpoint.h"
#include "handlers_internal.h"
#include "join_internal.h"
#include "settings.h"
#include "versions.h"
#include "walnote.h"
#include "worker.h"

static void schema_copy(RpJoin *join);
static void indexes_make(RpJoin *join, List *statements);
static void complete(RpJoin *join, List *statements);
static void others_copy(RpJoin *join);
static void sequences_copy(RpJoin *join);
static void handlers_take_over(RpJoin *join);
static void members_take_over(RpJoin *join);
static void versions_enter(void);
static void commit(RpJoin *join);

/* Mark what this transaction writes as a copy, and pin what its statements mean. */
static void
settings_pin(void)
{
	const char *const settings[][2] = {
		{"session_replication_role", "replica"},
		{"standard_conforming_strings", "on"},
		{"check_function_bodies", "off"},
		{"row_security", "off"},
		{"lc_monetary", "C"},
		{"default_tablespace", ""},
		{"maintenance_work_mem", psprintf("%dkB", rp_join_work_mem_kb)},
		{"work_mem", psprintf("%dkB", rp_join_work_mem_kb)},
		{"max_parallel_maintenance_workers", psprintf("%d", rp_join_workers)},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* ERROR if somebody has the node leave in the middle of its join; else nobody drops the plan now. */
static void
joining_required(void)
{
	RpCatalog	catalog;
	RpArg		args[] = {rp_arg_text(rp_node_status_name(RP_NODE_JOINING))};

	rp_catalog_open(&catalog);
	LockRelationOid(rp_catalog_table("join_pieces"), RowExclusiveLock);
	if (rp_catalog_run("SELECT FROM replp2p.local_node WHERE status = $1",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node does not join any more"),
				 errhint("Join again by replp2p.join_group().")));
	rp_catalog_close(&catalog);
}

/* Begin a transaction that writes for the join. */
void
rp_join_write_begin(RpJoin *join)
{
	StartTransactionCommand();
	join->settings_level = NewGUCNestLevel();
	settings_pin();
	replorigin_session_origin = RP_COPY_ORIGIN;
	replorigin_session_origin_lsn = (XLogRecPtr) Max(join->stamp, 1);
	replorigin_session_origin_timestamp = GetCurrentTimestamp();
	rp_versions_attach(join->node->dboid);
	joining_required();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* Commit it. */
void
rp_join_write_commit(RpJoin *join)
{
	AtEOXact_GUC(false, join->settings_level);
	versions_enter();
	PopActiveSnapshot();
	CommitTransactionCommand();
	replorigin_session_origin = InvalidRepOriginId;
	MemoryContextSwitchTo(join->memory);
}

/* Copy everything and make it count. */
void
rp_join_copy(RpJoin *join)
{
	List	   *statements;

	schema_copy(join);
	rp_join_phase(join->node, "data", NULL);
	do
		rp_join_pieces_copy(join);
	while (!rp_join_patch(join));
	rp_join_donors_close(join);
	rp_join_renew(join);
	rp_join_phase(join->node, "indexes", NULL);
	rp_join_write_begin(join);
	rp_join_progress_load(join->node);
	MemoryContextSwitchTo(join->memory);
	statements = rp_join_statements(rp_join_dump(join, "post-data"));
	rp_join_write_commit(join);
	indexes_make(join, statements);
	complete(join, statements);
}

/*
 * Hash what a plan hangs on: the donor's schema, which tables it has, and what is to be copied of
 * them.
 */
static void
schema_hash(const char *script, List *tables, uint8 hash[P2P_HASH_SIZE])
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, tables)
	{
		const RpJoinTable *table = lfirst(cell);

		appendStringInfo(&list, "%s %u %s %d\n",
						 quote_qualified_identifier(table->schema, table->name), table->donor_oid,
						 table->key != NULL ? table->key : "", table->excluded);
	}
	p2p_hash(script, strlen(script), list.data, list.len, hash);
}

/* Have the donor's schema here, and a plan that fits it. */
static void
schema_copy(RpJoin *join)
{
	char	   *script;
	List	   *tables;
	uint8		hash[P2P_HASH_SIZE];
	bool		fits;

	rp_join_phase(join->node, "schema", NULL);
	script = rp_join_dump(join, "pre-data");
	tables = rp_join_tables(join);
	schema_hash(script, tables, hash);

	rp_join_write_begin(join);
	fits = rp_join_plan_fits(hash);
	if (fits)
	{
		rp_join_plan_renew(join, tables);
		rp_join_donors_resume(join);
	}
	else if (rp_join_plan_drop())
		ereport(LOG,
				(errmsg("the sponsor's schema has changed: the join begins anew")));
	rp_join_write_commit(join);
	if (fits)
		return;

	rp_join_write_begin(join);
	rp_join_execute(rp_join_statements(script));
	rp_join_donors_assign(join, tables);
	rp_join_plan_make(join, hash, tables);
	rp_join_write_commit(join);
}

/* Show how many indexes there are to be made, and are. */
static void
indexes_show(RpNode *node, int total, int processed)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.indexes_total = total;
	node->join.indexes_processed = processed;
	LWLockRelease(&node->lock);
}

/* ERROR if indexes were made here that the donor does not have any more; the next try begins anew. */
static void
indexes_check(RpJoin *join, List *statements)
{
	bool		fit;

	rp_join_write_begin(join);
	fit = rp_join_steps_fit(statements);
	if (!fit)
		rp_join_plan_drop();
	rp_join_write_commit(join);
	if (!fit)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the sponsor has dropped an index in the middle of the join"),
				 errhint("Joining begins anew by itself.")));
}

/* Make what is an index and nothing else, as far as it is not there. */
static void
indexes_make(RpJoin *join, List *statements)
{
	int			total = 0,
				processed = 0;
	ListCell   *cell;

	indexes_check(join, statements);
	foreach(cell, statements)
		total += OidIsValid(((RpJoinStatement *) lfirst(cell))->index_on);
	indexes_show(join->node, total, processed);
	foreach(cell, statements)
	{
		RpJoinStatement *statement = lfirst(cell);

		if (!OidIsValid(statement->index_on))
			continue;
		rp_worker_check(join->node, RP_WORKER_JOIN);
		rp_join_write_begin(join);
		if (!rp_join_step_is_done(statement->text))
		{
			rp_join_execute(list_make1(statement));
			rp_join_step_done(statement->text);
			RP_CRASH_POINT("join_before_index");
		}
		rp_join_write_commit(join);
		indexes_show(join->node, total, ++processed);
	}
}

/* Return what is left to be executed when the indexes are there. */
static List *
statements_left(List *statements)
{
	List	   *left = NIL;
	ListCell   *cell;

	foreach(cell, statements)
	{
		if (!OidIsValid(((RpJoinStatement *) lfirst(cell))->index_on))
			left = lappend(left, lfirst(cell));
	}
	return left;
}

/* The last transaction. */
static void
complete(RpJoin *join, List *statements)
{
	rp_join_phase(join->node, "completing", NULL);
	rp_join_write_begin(join);
	others_copy(join);
	sequences_copy(join);
	rp_join_execute(statements_left(statements));
	handlers_take_over(join);
	members_take_over(join);
	rp_join_plan_forget();
	commit(join);
	MemoryContextSwitchTo(join->memory);
}

/*
 * Copy what has no plan: of tables of extensions the configuration, as pg_dump
 * does; the logs of membership and of handlers; displaced rows and siblings.
 */
static void
others_copy(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT n.nspname, c.relname, CASE WHEN d.ours"
									 "  THEN 'WHERE EXISTS (SELECT FROM pg_class k WHERE k.oid = relation)'"
									 "  ELSE coalesce(x.condition, '') END"
									 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
									 " LEFT JOIN LATERAL (SELECT e.extcondition[array_position(e.extconfig, c.oid)] AS condition"
									 "  FROM pg_extension e WHERE c.oid = ANY (e.extconfig)) x ON true"
									 " CROSS JOIN LATERAL (SELECT c.oid IN ('replp2p.displaced_rows'::regclass,"
									 "  'replp2p.displacing_rows'::regclass, 'replp2p.sibling_rows'::regclass) AS ours) d"
									 " WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384"
									 " AND (c.oid IN ('replp2p.membership'::regclass, 'replp2p.handler_changes'::regclass) OR d.ours"
									 "  OR (n.nspname <> 'replp2p' AND x.condition IS NOT NULL))"
									 " AND NOT EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid)"
									 " ORDER BY n.nspname, c.relname");

	for (int i = 0; i < rows->nrows; i++)
	{
		Oid			relation = rp_table_of(rp_join_value(rows, i, 0), rp_join_value(rows, i, 1));
		Relation	rel;

		rp_worker_check(join->node, RP_WORKER_JOIN);
		if (!OidIsValid(relation))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table \"%s.%s\" of the sponsor is not here",
							rp_join_value(rows, i, 0), rp_join_value(rows, i, 1)),
					 errhint("Use the same versions of extensions on both servers.")));
		rel = table_open(relation, RowExclusiveLock);
		(void) rp_join_copy_rows(join, psprintf("(SELECT %s FROM ONLY %s %s)", rp_join_column_list(rel),
												quote_qualified_identifier(rp_join_value(rows, i, 0),
																		   rp_join_value(rows, i, 1)),
												rp_join_value(rows, i, 2)),
								 rel, rp_join_columns(rel), false);
		table_close(rel, NoLock);
	}
	/* seqs of the sponsor's own; this node has written nothing yet */
	rp_catalog_execute("UPDATE replp2p.displaced_rows SET known_seq = 0", SPI_OK_UPDATE, NULL, 0);
}

/* Set a sequence here to where it is at the donor. */
static void
sequence_copy(RpJoin *join, const char *name)
{
	RpJoinRows *rows = rp_join_query(join, psprintf("SELECT last_value, is_called FROM %s", name));
	RpCatalog	catalog;

	if (rows->nrows != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("sequence %s of the node that is joined has no value", name),
				 errhint("Look at that sequence on that node; joining is tried again by itself.")));
	rp_catalog_open(&catalog);
	{
		RpArg		args[] = {
			rp_arg_text(name),
			rp_arg_text(rp_join_value(rows, 0, 0)),
			rp_arg_bool(strcmp(rp_join_value(rows, 0, 1), "t") == 0),
		};

		rp_catalog_run("SELECT pg_catalog.setval($1::pg_catalog.regclass, $2::bigint, $3)",
					   SPI_OK_SELECT, args, lengthof(args));
	}
	rp_catalog_close(&catalog);
}

/* Set all sequences, those of identity columns included. */
static void
sequences_copy(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
									 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
									 " WHERE c.relkind = 'S' AND c.relpersistence = 'p' AND c.oid >= 16384"
									 " AND n.nspname <> 'replp2p'"
									 " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
									 "  AND d.objid = c.oid AND d.deptype = 'e')");

	for (int i = 0; i < rows->nrows; i++)
	{
		rp_worker_check(join->node, RP_WORKER_JOIN);
		sequence_copy(join, rp_join_value(rows, i, 0));
	}
}

/* Read a change of conflict handlers as the donor has it. */
static void
handler_read(const RpJoinRows *rows, int i, RpHandlerRow *row, RpChangeVersion *made)
{
	memset(row, 0, sizeof(*row));
	memset(made, 0, sizeof(*made));
	rp_join_id(rp_join_value(rows, i, 0), &row->author.id);
	row->author.epoch = (uint32) strtoul(rp_join_value(rows, i, 1), NULL, 10);
	row->serial = strtoll(rp_join_value(rows, i, 2), NULL, 10);
	strlcpy(row->schema, rp_join_value(rows, i, 3), sizeof(row->schema));
	strlcpy(row->table, rp_join_value(rows, i, 4), sizeof(row->table));
	strlcpy(row->column, rp_join_value(rows, i, 5), sizeof(row->column));
	strlcpy(row->setting, rp_join_value(rows, i, 6), sizeof(row->setting));
	strlcpy(row->function, rp_join_value(rows, i, 7), sizeof(row->function));
	made->version.dot.origin = row->author;
	made->version.dot.seq = strtoull(rp_join_value(rows, i, 8), NULL, 10);
	made->version.stamp = strtoll(rp_join_value(rows, i, 9), NULL, 10);
	made->settled = strcmp(rp_join_value(rows, i, 10), "t") == 0;
}

/*
 * Note the conflict handlers that hold at the donor. Not from the copied log: the
 * versions of old changes stand in no change log any more. What is settled there is so everywhere.
 */
static void
handlers_take_over(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT author_id, author_epoch, serial, schema_name, table_name,"
									 " coalesce(column_name, ''), setting, coalesce(function_name, ''),"
									 " coalesce(seq, 0), coalesce(stamp, 0), settled FROM replp2p.get_table_handlers()");
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	for (int i = 0; i < rows->nrows; i++)
	{
		RpHandlerRow row;
		RpChangeVersion made;
		Oid			relid;
		AttrNumber	attno;

		handler_read(rows, i, &row, &made);
		if (made.version.dot.seq == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the sponsor does not know the version of a change of conflict handlers yet"),
					 errhint("The join is tried again by itself.")));
		rp_handler_row_resolve(&row, &relid, &attno);
		(void) rp_handler_entry_add(join->node, &row, relid, attno, &made);
	}
	rp_catalog_close(&catalog);
}

/* ERROR unless the log that was copied admits this node. Between catalog open and close. */
static void
own_admission_required(const RpJoin *join)
{
	RpArg		args[] = {
		rp_arg_bytes(&join->me.self.id, P2P_ID_SIZE),
		rp_arg_int4((int32) join->me.self.epoch),
	};

	if (rp_catalog_run("SELECT FROM replp2p.membership WHERE subject_id = $1 AND subject_epoch = $2"
					   " AND change = 'a'", SPI_OK_SELECT, args, lengthof(args)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the sponsor's snapshot does not admit this node"),
				 errhint("The join is tried again by itself.")));
}

/* Take over the last seqs of members that left, which the log does not have. */
static void
left_seqs_copy(const RpJoinRows *rows)
{
	for (int i = 0; i < rows->nrows; i++)
	{
		P2pId		id;

		rp_join_id(rp_join_value(rows, i, 0), &id);
		{
			RpArg		args[] = {
				rp_arg_bytes(&id, P2P_ID_SIZE),
				rp_arg_text(rp_join_value(rows, i, 1)),
				rp_arg_text(rp_join_value(rows, i, 2)),
			};

			rp_catalog_run("UPDATE replp2p.members SET left_seq = $3::bigint"
						   " WHERE node_id = $1 AND epoch = $2::integer AND status = 'left'",
						   SPI_OK_UPDATE, args, lengthof(args));
		}
	}
}

/* Note up to where the snapshot covers an origin. Between catalog open and close. */
static void
required_seq_set(const P2pVectorEntry *entry)
{
	RpArg		args[] = {
		rp_arg_bytes(&entry->origin.id, P2P_ID_SIZE),
		rp_arg_int4((int32) entry->origin.epoch),
		rp_arg_int8((int64) entry->seq),
	};

	if (rp_catalog_run("UPDATE replp2p.members SET required_seq = $3"
					   " WHERE node_id = $1 AND epoch = $2", SPI_OK_UPDATE, args, lengthof(args)) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the sponsor's snapshot has changes of a node that its membership log does not know"),
				 errhint("Join by an invite of another member.")));
}

/*
 * Set the progress of every origin, also of one that the snapshot has nothing
 * of: a try that failed may have left progress under the same origin id.
 */
static void
progress_set(RpJoin *join)
{
	uint64		n = rp_catalog_run("SELECT node_id, epoch FROM replp2p.members WHERE slot > 0",
								   SPI_OK_SELECT, NULL, 0);
	P2pOrigin  *origins = palloc(sizeof(P2pOrigin) * n + 1);

	for (uint64 i = 0; i < n; i++)
	{
		rp_column_bytes(i, 1, &origins[i].id, P2P_ID_SIZE);
		origins[i].epoch = (uint32) DatumGetInt32(rp_column(i, 2));
	}
	for (uint64 i = 0; i < n; i++)
	{
		char		name[RP_ORIGIN_NAME_SIZE];
		RepOriginId origin;

		rp_origin_name(join->node->dboid, &origins[i], name, sizeof(name));
		origin = replorigin_by_name(name, false);
		LockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
		replorigin_advance(origin, (XLogRecPtr) p2p_vector_get(&join->vector, &origins[i]),
						   GetXLogInsertRecPtr(), true, true);
		UnlockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
	}
}

/* Register the members, and note for each what the snapshot has of it. */
static void
members_take_over(RpJoin *join)
{
	RpJoinRows *left = rp_join_query(join,
									 "SELECT encode(node_id, 'hex'), epoch, left_seq"
									 " FROM replp2p.members WHERE status = 'left' AND left_seq IS NOT NULL");
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	own_admission_required(join);
	rp_membership_register_all(join->node);
	left_seqs_copy(left);
	for (uint32 i = 0; i < join->vector.count; i++)
	{
		if (!p2p_origin_equal(&join->vector.entries[i].origin, &join->me.self))
			required_seq_set(&join->vector.entries[i]);
	}
	progress_set(join);
	rp_catalog_close(&catalog);
}

/* Enter the xids of this transaction into the version index, durably. */
static void
versions_enter(void)
{
	RpVersionEntry copied = {RP_SLOT_COPIED, 1, 1};
	FullTransactionId top = GetTopFullTransactionId();
	TransactionId *children;
	int			nchildren = xactGetCommittedChildren(&children);

	rp_versions_put(U64FromFullTransactionId(top), &copied);
	for (int i = 0; i < nchildren; i++)
		rp_versions_put(U64FromFullTransactionId(top) +
						(uint32) (children[i] - XidFromFullTransactionId(top)), &copied);
	rp_versions_sync();
}

/*
 * Forget members that were loaded of a transaction that was not committed, and what capture knows
 * of them.
 */
static void
members_forget(RpNode *node)
{
	pid_t		capture;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	SpinLockAcquire(&node->vector_lock);
	for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
	{
		memset(&node->members[slot], 0, sizeof(RpMember));
		node->members[slot].rtt_us = -1;
		node->members[slot].pull_source = -1;
	}
	SpinLockRelease(&node->vector_lock);
	node->nmembers = RP_SELF + 1;
	capture = node->workers[RP_WORKER_CAPTURE].pid;
	if (capture != 0)
		(void) kill(capture, SIGTERM);
	LWLockRelease(&node->lock);
}

/* Show members and floor to capture, and see that it has looked. */
static void
commit_announce(RpJoin *join)
{
	RpNode	   *node = join->node;

	rp_floor_raise(node, join->stamp);
	(void) pg_atomic_fetch_add_u64(&node->wanted_generation, 1);
	(void) rp_members_load(node);
	rp_barrier(node, 0);
}

/* Make the copy count. */
static void
commit(RpJoin *join)
{
	AtEOXact_GUC(false, join->settings_level);
	versions_enter();
	rp_join_phase(join->node, "catching up", "the capture worker to read the copy");
	PG_TRY();
	{
		commit_announce(join);
		rp_node_set_status(join->node, RP_NODE_CATCHUP);
		PopActiveSnapshot();
		ForceSyncCommit();
		RP_CRASH_POINT("join_before_commit");
		CommitTransactionCommand();
		RP_CRASH_POINT("join_after_commit");
	}
	PG_CATCH();
	{
		members_forget(join->node);
		PG_RE_THROW();
	}
	PG_END_TRY();
	replorigin_session_origin = InvalidRepOriginId;
}
