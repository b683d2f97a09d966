/*
 * join_copy.c
 *	  The copy of a join: schema, data and versions, in one local transaction.
 *
 *	  schema		 what pg_dump calls pre-data: types, tables, functions
 *	  data			 COPY of each table out of the donor's snapshot, sequences
 *	  indexes		 post-data: indexes, constraints, triggers; refreshed views
 *	  handlers		 which conflict handlers hold, with the versions of their changes
 *	  catching up	 the members, and how far each origin is applied: the vector
 *					 of the snapshot; then the commit
 *
 * Whatever fails rolls back all of it, and the join begins anew with another
 * snapshot: nothing half-copied is ever seen.
 *
 * Everything is written under RP_COPY_ORIGIN, so that capture takes none of it
 * for a change made here. The origin_lsn of the commit record is the greatest
 * stamp that a copied row may have: capture raises the floor to it when it
 * reads the record, also after a crash; here it is raised in shared memory, before
 * anybody can see the rows and overwrite them.
 *
 * Version index: the transaction's xids are entered as RP_SLOT_COPIED, made
 * durable before the commit. A copied row then has the version that the logs
 * know of its key, or is older than everything; members.required_seq says up to
 * where apply must have the logs before it may ask.
 *
 * Order at the end: members and required_seq are loaded into shared memory while
 * the node is still joining, then capture passes a barrier, then comes the
 * commit. So capture knows the snapshot's vector when it meets the first local
 * transaction that saw the copied rows, and gives it the right deps. Should the
 * commit fail after that, shared memory is cleaned and capture started anew.
 *
 * What pg_dump says of our own extension's objects is left out: rights on them
 * are each node's own affair. Roles and tablespaces belong to clusters, not to
 * databases, and are not copied.
 */
#include "postgres.h"

#include <signal.h>

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "commands/copy.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "replication/origin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "barrier.h"
#include "catalog.h"
#include "crashpoint.h"
#include "handlers_internal.h"
#include "join_internal.h"
#include "settings.h"
#include "versions.h"
#include "worker.h"

/* A table of the donor. */
typedef struct CopyTable
{
	const char *schema;
	const char *name;
	const char *condition;		/* WHERE ...: rows that its extension doesn't bring itself; or NULL */
	bool		excluded;		/* not replicated at the donor: no data, and excluded here, too */
	List	   *columns;		/* String nodes; generated ones left out */
} CopyTable;

/* The COPY whose data the server's COPY FROM pulls; its callback has no argument. */
static struct
{
	RpJoin	   *join;
	char	   *line;			/* of libpq, or NULL */
	int			length;
	int			taken;
	bool		ended;
	int64		rows;			/* not yet shown */
	int64		bytes;
} source;

static void schema_run(const char *script);
static void data_copy(RpJoin *join);
static void sequences_copy(RpJoin *join);
static void handlers_take_over(RpJoin *join);
static void members_take_over(RpJoin *join);
static void commit(RpJoin *join);

/* Mark what this transaction writes as a copy, and pin what its statements mean. */
static void
copy_begin(RpJoin *join)
{
	static const char *const settings[][2] = {
		{"session_replication_role", "replica"},
		{"standard_conforming_strings", "on"},
		{"check_function_bodies", "off"},
		{"row_security", "off"},
		{"lc_monetary", "C"},
		{"default_tablespace", ""},
	};

	replorigin_session_origin = RP_COPY_ORIGIN;
	replorigin_session_origin_lsn = (XLogRecPtr) Max(join->stamp, 1);
	replorigin_session_origin_timestamp = GetCurrentTimestamp();
	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Copy everything and commit. After an ERROR the caller aborts, and resets the session's origin. */
void
rp_join_copy(RpJoin *join)
{
	int			settings_level;

	StartTransactionCommand();
	settings_level = NewGUCNestLevel();
	copy_begin(join);
	rp_versions_attach(join->node->dboid);
	PushActiveSnapshot(GetTransactionSnapshot());

	rp_join_phase(join->node, "schema", NULL);
	schema_run(rp_join_dump(join, "pre-data"));
	rp_join_phase(join->node, "data", NULL);
	data_copy(join);
	sequences_copy(join);
	rp_join_phase(join->node, "indexes", NULL);
	schema_run(rp_join_dump(join, "post-data"));
	handlers_take_over(join);
	members_take_over(join);

	AtEOXact_GUC(false, settings_level);
	commit(join);
	MemoryContextSwitchTo(join->memory);
}

/* Is a dotted name, as the parser gives it, one of our schema? */
static bool
name_is_ours(Node *object)
{
	List	   *name = NIL;

	if (IsA(object, RangeVar))
		return ((RangeVar *) object)->schemaname != NULL &&
			strcmp(((RangeVar *) object)->schemaname, RP_SCHEMA) == 0;
	if (IsA(object, String))
		return strcmp(strVal(object), RP_SCHEMA) == 0;
	if (IsA(object, ObjectWithArgs))
		name = ((ObjectWithArgs *) object)->objname;
	else if (IsA(object, List))
		name = (List *) object;
	return list_length(name) > 1 && strcmp(strVal(linitial(name)), RP_SCHEMA) == 0;
}

/* Does a statement make our extension, or give or take rights on an object of it? */
static bool
statement_is_local(Node *statement)
{
	GrantStmt  *grant = (GrantStmt *) statement;

	if (IsA(statement, CreateExtensionStmt))
		return strcmp(((CreateExtensionStmt *) statement)->extname, RP_SCHEMA) == 0;
	if (!IsA(statement, GrantStmt) || grant->targtype != ACL_TARGET_OBJECT ||
		grant->objects == NIL)
		return false;
	switch (grant->objtype)
	{
		case OBJECT_TABLE:
		case OBJECT_SEQUENCE:
		case OBJECT_FUNCTION:
		case OBJECT_PROCEDURE:
		case OBJECT_ROUTINE:
		case OBJECT_TYPE:
		case OBJECT_DOMAIN:
		case OBJECT_SCHEMA:
			return name_is_ours(linitial(grant->objects));
		default:
			return false;
	}
}

/* Where an error of the schema happened. */
static void
schema_error_place(void *arg)
{
	(void) arg;
	errcontext("copying the schema of the sponsor");
}

/* Give an error that says that something is missing the hint that it is not copied. */
static void
statement_run(const char *text)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		int			rc = SPI_execute(text, false, 0);

		if (rc < 0)
			elog(ERROR, "replp2p: unexpected result %s of \"%s\"", SPI_result_code_string(rc), text);
		SPI_freetuptable(SPI_tuptable);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->hint == NULL && error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT)
			error->hint = "Roles and tablespaces are not copied: create here what the schema needs. The join is tried again by itself.";
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* Execute what pg_dump has written. */
static void
schema_run(const char *script)
{
	ErrorContextCallback callback = {error_context_stack, schema_error_place, NULL};
	ListCell   *cell;

	error_context_stack = &callback;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "replp2p: could not connect to SPI");
	foreach(cell, raw_parser(script, RAW_PARSE_DEFAULT))
	{
		RawStmt    *raw = lfirst_node(RawStmt, cell);
		const char *start = script + raw->stmt_location;
		char	   *text;

		CHECK_FOR_INTERRUPTS();
		if (statement_is_local(raw->stmt))
			continue;
		text = raw->stmt_len == 0 ? pstrdup(start) : pnstrdup(start, raw->stmt_len);
		statement_run(text);
		pfree(text);
	}
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "replp2p: could not finish SPI");
	error_context_stack = callback.previous;
}

/*
 * Read which tables to copy: permanent ones that no extension brings; of those
 * of extensions the configuration, as pg_dump does; the logs of membership and of handlers; and
 * displaced rows and siblings.
 */
static List *
tables_read(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT c.oid, n.nspname, c.relname, CASE WHEN d.ours"
									 "  THEN 'WHERE EXISTS (SELECT FROM pg_class k WHERE k.oid = relation)'"
									 "  ELSE x.condition END,"
									 " EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid),"
									 " a.attname"
									 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
									 " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
									 "  AND NOT a.attisdropped AND a.attgenerated = ''"
									 " LEFT JOIN LATERAL (SELECT e.extcondition[array_position(e.extconfig, c.oid)] AS condition"
									 "  FROM pg_extension e WHERE c.oid = ANY (e.extconfig)) x ON true"
									 " CROSS JOIN LATERAL (SELECT c.oid IN ('replp2p.displaced_rows'::regclass,"
									 "  'replp2p.displacing_rows'::regclass, 'replp2p.sibling_rows'::regclass) AS ours) d"
									 " WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384"
									 " AND (c.oid IN ('replp2p.membership'::regclass, 'replp2p.handler_changes'::regclass) OR d.ours"
									 "  OR (n.nspname <> 'replp2p' AND (x.condition IS NOT NULL"
									 "   OR NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
									 "    AND d.objid = c.oid AND d.deptype = 'e'))))"
									 " ORDER BY n.nspname, c.relname, a.attnum");
	List	   *tables = NIL;
	CopyTable  *table = NULL;

	for (int i = 0; i < rows->nrows; i++)
	{
		if (i == 0 || strcmp(rp_join_value(rows, i, 0), rp_join_value(rows, i - 1, 0)) != 0)
		{
			table = palloc0(sizeof(CopyTable));
			table->schema = rp_join_value(rows, i, 1);
			table->name = rp_join_value(rows, i, 2);
			table->condition = rp_join_value(rows, i, 3);
			table->excluded = strcmp(rp_join_value(rows, i, 4), "t") == 0;
			tables = lappend(tables, table);
		}
		if (rp_join_value(rows, i, 5) != NULL)
			table->columns = lappend(table->columns,
									 makeString(pstrdup(rp_join_value(rows, i, 5))));
	}
	return tables;
}

/* Add what was copied since the last time to stat_join. */
static void
progress_show(void)
{
	RpNode	   *node = source.join->node;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.rows_processed += source.rows;
	node->join.bytes_processed += source.bytes;
	LWLockRelease(&node->lock);
	source.rows = source.bytes = 0;
}

/* Fetch the next line of the COPY; false: none is here yet, or (source.ended) none is left. */
static bool
source_next(void)
{
	PGconn	   *conn = rp_peer_connection(source.join->donor);
	int			length;

	PQfreemem(source.line);
	source.line = NULL;
	length = PQgetCopyData(conn, &source.line, true);
	if (length == 0)
	{
		if (!PQconsumeInput(conn))
			rp_join_donor_error(NULL, PQerrorMessage(conn));
		length = PQgetCopyData(conn, &source.line, true);
	}
	if (length < -1)
		rp_join_donor_error(NULL, PQerrorMessage(conn));
	source.ended = length == -1;
	if (length <= 0)
		return false;
	source.length = length;
	source.taken = 0;
	source.rows++;
	source.bytes += length;
	return true;
}

/* Wait until the donor has sent more. */
static void
source_wait(void)
{
	PGconn	   *conn = rp_peer_connection(source.join->donor);

	progress_show();
	(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH,
							 PQsocket(conn), -1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	rp_worker_check(source.join->node, RP_WORKER_JOIN);
}

/* Callback of COPY FROM: give it at least minread bytes, or all that is left. */
static int
source_read(void *buffer, int minread, int maxread)
{
	int			given = 0;

	while (given < maxread && !source.ended)
	{
		int			n;

		if (source.line == NULL && !source_next())
		{
			if (source.ended || given >= minread)
				break;
			source_wait();
			continue;
		}
		n = Min(maxread - given, source.length - source.taken);
		memcpy((char *) buffer + given, source.line + source.taken, n);
		given += n;
		source.taken += n;
		if (source.taken == source.length)
		{
			PQfreemem(source.line);
			source.line = NULL;
		}
	}
	CHECK_FOR_INTERRUPTS();
	return given;
}

/* Return the statement that has the donor send a table. */
static char *
copy_statement(const CopyTable *table)
{
	StringInfoData columns;
	const char *name = quote_qualified_identifier(table->schema, table->name);
	ListCell   *cell;

	initStringInfo(&columns);
	foreach(cell, table->columns)
		appendStringInfo(&columns, "%s%s", foreach_current_index(cell) > 0 ? ", " : "",
						 quote_identifier(strVal(lfirst(cell))));
	if (table->condition != NULL && table->condition[0] != '\0')
		return psprintf("COPY (SELECT %s FROM ONLY %s %s) TO STDOUT", columns.data, name,
						table->condition);
	if (table->columns == NIL)
		return psprintf("COPY %s TO STDOUT", name);
	return psprintf("COPY %s (%s) TO STDOUT", name, columns.data);
}

/* Have the donor begin to send. */
static void
source_open(RpJoin *join, const CopyTable *table)
{
	char	   *error = NULL;
	PGresult   *result = rp_peer_exec(join->donor, copy_statement(table), &error);

	if (result == NULL || PQresultStatus(result) != PGRES_COPY_OUT)
		rp_join_donor_error(result, error);
	PQclear(result);
	PQfreemem(source.line);
	memset(&source, 0, sizeof(source));
	source.join = join;
}

/* After the last line: has the donor sent all? */
static void
source_close(RpJoin *join)
{
	PGconn	   *conn = rp_peer_connection(join->donor);
	PGresult   *result = PQgetResult(conn);

	if (result == NULL || PQresultStatus(result) != PGRES_COMMAND_OK)
		rp_join_donor_error(result, PQerrorMessage(conn));
	PQclear(result);
	while ((result = PQgetResult(conn)) != NULL)
		PQclear(result);
	progress_show();
}

/* Copy one table. */
static void
table_copy(RpJoin *join, const CopyTable *table)
{
	Relation	rel = table_openrv(makeRangeVar(pstrdup(table->schema), pstrdup(table->name), -1),
								   RowExclusiveLock);
	ParseState *pstate = make_parsestate(NULL);
	CopyFromState copy;

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" is a table at the sponsor, and something else here",
						table->schema, table->name),
				 errhint("Join with an empty database.")));
	PushActiveSnapshot(GetTransactionSnapshot());
	source_open(join, table);
	(void) addRangeTableEntryForRelation(pstate, rel, RowExclusiveLock, NULL, false, false);
	copy = BeginCopyFrom(pstate, rel, NULL, NULL, false, source_read, table->columns, NIL);
	(void) CopyFrom(copy);
	EndCopyFrom(copy);
	source_close(join);
	PopActiveSnapshot();
	free_parsestate(pstate);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Don't replicate from here what the donor does not replicate. */
static void
table_exclude(const CopyTable *table)
{
	RpCatalog	catalog;
	RpArg		args[] = {
		rp_arg_text(quote_qualified_identifier(table->schema, table->name))
	};

	rp_catalog_open(&catalog);
	rp_catalog_run("INSERT INTO replp2p.excluded_tables VALUES ($1::pg_catalog.regclass)",
				   SPI_OK_INSERT, args, lengthof(args));
	rp_catalog_close(&catalog);
}

/* Copy the rows of all tables. */
static void
data_copy(RpJoin *join)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p join table",
												  ALLOCSET_DEFAULT_SIZES);
	List	   *tables = tables_read(join);
	ListCell   *cell;

	LWLockAcquire(&join->node->lock, LW_EXCLUSIVE);
	join->node->join.tables_total = list_length(tables);
	LWLockRelease(&join->node->lock);
	foreach(cell, tables)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		const CopyTable *table = lfirst(cell);

		rp_worker_check(join->node, RP_WORKER_JOIN);
		if (table->excluded)
			table_exclude(table);
		else
			table_copy(join, table);
		LWLockAcquire(&join->node->lock, LW_EXCLUSIVE);
		join->node->join.tables_processed++;
		LWLockRelease(&join->node->lock);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
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

/* Forget members that were loaded of a transaction that was not committed, and what capture knows of them. */
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

	SpinLockAcquire(&node->vector_lock);
	node->floor = Max(node->floor, join->stamp);
	SpinLockRelease(&node->vector_lock);
	(void) pg_atomic_fetch_add_u64(&node->wanted_generation, 1);
	(void) rp_members_load(node);
	rp_barrier(node, 0);
}

/* Make the copy count. */
static void
commit(RpJoin *join)
{
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
