/*
 * join_donor.c
 *	  A try to join as each of its processes sees it: who joins, by whom, and the
 *	  session with the donor that everything is copied over.
 *
 * A session is authenticated by both nodes' keys (peer_call.h); ordinary SQL then runs
 * on its connection, in one long READ ONLY transaction. Its settings are such that
 * values are written in the one way that is read the same here. An error of the
 * donor ends the try; memory and connection go with the try's context.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "p2p_crypto.h"

#include "catalog.h"
#include "identity.h"
#include "join_internal.h"

static RpJoinRows *donor_exec(RpJoin *join, const char *sql, ExecStatusType expected);

/* Wipe the secret key when the memory of a try goes. */
static void
join_wipe(void *arg)
{
	p2p_wipe(&((RpJoin *) arg)->me, sizeof(RpIdentity));
}

/* Begin a try: read what join_group has recorded. */
RpJoin *
rp_join_begin(RpNode *node)
{
	RpJoin	   *join = palloc0(sizeof(RpJoin));
	MemoryContextCallback *wipe = palloc0(sizeof(MemoryContextCallback));
	RpCatalog	catalog;

	join->node = node;
	join->leader = MyProcPid;
	join->memory = CurrentMemoryContext;
	wipe->func = join_wipe;
	wipe->arg = join;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, wipe);
	rp_crypto_required();
	rp_identity_read(node->dboid, &join->me);

	StartTransactionCommand();
	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT node_name, dsn, sponsor_dsn, sponsor_id FROM replp2p.local_node"
					   " WHERE sponsor_dsn IS NOT NULL AND sponsor_id IS NOT NULL",
					   SPI_OK_SELECT, NULL, 0) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node does not know by whom it joins"),
				 errhint("Leave the group by replp2p.leave_group(force => true), and join again.")));
	rp_column_name(0, 1, join->name);
	rp_column_text(0, 2, join->dsn, sizeof(join->dsn));
	rp_column_text(0, 3, join->sponsor_dsn, sizeof(join->sponsor_dsn));
	rp_column_bytes(0, 4, &join->sponsor, P2P_ID_SIZE);
	rp_catalog_close(&catalog);
	CommitTransactionCommand();
	MemoryContextSwitchTo(join->memory);
	return join;
}

/* Open the session with the sponsor that everything is copied over. */
void
rp_join_donor_open(RpJoin *join)
{
	char	   *error = NULL;

	join->donor = rp_peer_open(join->sponsor_dsn, &join->me, &join->me.group, &join->sponsor,
							   psprintf("replp2p join %s", join->name), &error);
	if (join->donor == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not open a session with the sponsor"),
				 errdetail_internal("%s", error),
				 errhint("It is tried again by itself.")));
}

/* Have the donor's session write values in the one way that is read the same here. */
void
rp_join_donor_settings(RpJoin *join, const char *lock_timeout)
{
	static const char *const settings[] = {
		"search_path = pg_catalog, pg_temp", "DateStyle = ISO", "IntervalStyle = postgres",
		"TimeZone = 'UTC'", "extra_float_digits = 3", "bytea_output = hex", "lc_monetary = 'C'",
		"row_security = off", "statement_timeout = 0",
		"idle_in_transaction_session_timeout = 0", "standard_conforming_strings = on"
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		rp_join_run(join, psprintf("SET %s", settings[i]));
	rp_join_run(join, psprintf("SET lock_timeout = '%s'", lock_timeout));
	rp_join_run(join, psprintf("SET client_encoding = '%s'", GetDatabaseEncodingName()));
}

/* Note what the donor's transaction sees. */
void
rp_join_seen_read(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT s, pg_snapshot_xmin(s) FROM pg_current_snapshot() s");

	join->seen = rp_join_value(rows, 0, 0);
	join->seen_xmin = strtoull(rp_join_value(rows, 0, 1), NULL, 10);
}

/* ERROR: the donor's statement has failed. */
void
rp_join_donor_error(PGresult *result, const char *error)
{
	char	   *text;
	const char *primary = result != NULL ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (primary == NULL)
		primary = error != NULL && error[0] != '\0' ? error : "The connection ended.";
	text = pchomp(primary);
	PQclear(result);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("copying from the sponsor failed"),
			 errdetail_internal("%s", text),
			 errhint("The role in the sponsor's dsn must be able to read all tables, also those with row-level security (BYPASSRLS).")));
}

/* Run a statement on the donor's connection and copy its rows. */
static RpJoinRows *
donor_exec(RpJoin *join, const char *sql, ExecStatusType expected)
{
	char	   *error = NULL;
	PGresult   *result = rp_peer_exec(join->donor, sql, &error);
	RpJoinRows *rows;

	if (result == NULL || PQresultStatus(result) != expected)
		rp_join_donor_error(result, error);
	rows = palloc0(sizeof(RpJoinRows));
	PG_TRY();
	{
		rows->nrows = PQntuples(result);
		rows->ncolumns = PQnfields(result);
		rows->values = palloc_extended(sizeof(char *) * rows->nrows * rows->ncolumns + 1,
									   MCXT_ALLOC_HUGE);
		for (int row = 0; row < rows->nrows; row++)
		{
			for (int column = 0; column < rows->ncolumns; column++)
				rows->values[row * rows->ncolumns + column] =
					PQgetisnull(result, row, column) ? NULL : pstrdup(PQgetvalue(result, row, column));
		}
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	return rows;
}

/* Run a statement without a result. */
void
rp_join_run(RpJoin *join, const char *sql)
{
	(void) donor_exec(join, sql, PGRES_COMMAND_OK);
}

/* Run a query. */
RpJoinRows *
rp_join_query(RpJoin *join, const char *sql)
{
	return donor_exec(join, sql, PGRES_TUPLES_OK);
}

/* Return a value, NULL for NULL. */
const char *
rp_join_value(const RpJoinRows *rows, int row, int column)
{
	Assert(row < rows->nrows && column < rows->ncolumns);
	return rows->values[row * rows->ncolumns + column];
}

/* Read an id as the donor writes it. */
void
rp_join_id(const char *text, P2pId *id)
{
	if (text == NULL || !p2p_id_from_text(text, id))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the sponsor has a member with a malformed id"),
				 errhint("Join by an invite of another member.")));
}
