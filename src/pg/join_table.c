/*
 * join_table.c
 *	  The rows of one COPY of the donor, into one table.
 *
 * The donor's COPY TO STDOUT and the server's own COPY FROM, with this file's callback
 * in between: it hands on what libpq gives, and looks at nothing in it. In binary if
 * every column's binary form means the same on every server (capture has the
 * same rule); else in text, for the whole table.
 *
 * The callback has no argument, so a process runs one such copy at a time (source).
 */
#include "postgres.h"

#include "commands/copy.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "decode.h"
#include "join_internal.h"
#include "worker.h"

/* Rows between two looks at stat_join and at what may end this process. */
#define SHOW_ROWS 10000

/* The COPY whose data the server's COPY FROM pulls. */
static struct
{
	RpJoin	   *join;
	char	   *line;			/* of libpq, or NULL */
	int			length;
	int			taken;
	bool		ended;
	int64		rows;			/* not yet shown */
} source;

/* Return the columns that are copied. */
List *
rp_join_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			columns = lappend(columns, makeString(pstrdup(NameStr(att->attname))));
	}
	return columns;
}

/* Return them as a list in SQL. */
char *
rp_join_column_list(Relation rel)
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, rp_join_columns(rel))
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
						 quote_identifier(strVal(lfirst(cell))));
	return list.data;
}

/* Does the binary form of every column mean the same on every server? */
bool
rp_join_is_portable(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0' && !rp_type_is_portable(att->atttypid))
			return false;
	}
	return true;
}

/* Add what was copied since the last time to stat_join, and look whether to go on. */
static void
source_show(void)
{
	RpNode	   *node = source.join->node;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.rows_processed += source.rows;
	LWLockRelease(&node->lock);
	source.rows = 0;
	rp_worker_check(node, RP_WORKER_JOIN);
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
			rp_join_donor_error(source.join, NULL, PQerrorMessage(conn));
		length = PQgetCopyData(conn, &source.line, true);
	}
	if (length < -1)
		rp_join_donor_error(source.join, NULL, PQerrorMessage(conn));
	source.ended = length == -1;
	if (length <= 0)
		return false;
	source.length = length;
	source.taken = 0;
	if (++source.rows >= SHOW_ROWS)
		source_show();
	return true;
}

/* Wait until the donor has sent more. */
static void
source_wait(void)
{
	PGconn	   *conn = rp_peer_connection(source.join->donor);

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

/* Have the donor begin to send. */
static void
source_open(RpJoin *join, const char *statement)
{
	char	   *error = NULL;
	PGresult   *result = rp_peer_exec(join->donor, statement, &error);

	if (result == NULL || PQresultStatus(result) != PGRES_COPY_OUT)
		rp_join_donor_error(join, result, error);
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
	PGresult   *result;

	/* COPY FROM in binary stops at the trailer, before the donor's last word */
	while (!source.ended)
	{
		if (source_next())
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("the sponsor has sent more rows than it counted"),
					 errhint("Joining is tried again by itself.")));
		if (!source.ended)
			source_wait();
	}
	result = PQgetResult(conn);
	if (result == NULL || PQresultStatus(result) != PGRES_COMMAND_OK)
		rp_join_donor_error(join, result, PQerrorMessage(conn));
	PQclear(result);
	while ((result = PQgetResult(conn)) != NULL)
		PQclear(result);
	source_show();
}

/* Copy what a query of the donor gives into a table. */
int64
rp_join_copy_rows(RpJoin *join, const char *select, Relation rel, List *columns, bool binary)
{
	ParseState *pstate = make_parsestate(NULL);
	List	   *options = NIL;
	CopyFromState copy;
	uint64		rows;

	if (binary)
		options = list_make1(makeDefElem("format", (Node *) makeString("binary"), -1));
	PushActiveSnapshot(GetTransactionSnapshot());
	source_open(join, psprintf("COPY %s TO STDOUT%s", select, binary ? " (FORMAT binary)" : ""));
	(void) addRangeTableEntryForRelation(pstate, rel, RowExclusiveLock, NULL, false, false);
	copy = BeginCopyFrom(pstate, rel, NULL, NULL, false, source_read, columns, options);
	rows = CopyFrom(copy);
	EndCopyFrom(copy);
	source_close(join);
	PopActiveSnapshot();
	free_parsestate(pstate);
	CommandCounterIncrement();
	return (int64) rows;
}
