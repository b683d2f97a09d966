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
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "p2p_crypto.h"

#include "catalog.h"
#include "identity.h"
#include "join_internal.h"
#include "snapshot.h"
#include "worker.h"

/* Snapshots that have no version vector in a row (snapshot.c). */
#define MAX_SNAPSHOTS 200

static RpJoinRows *donor_exec(RpJoin *join, const char *sql, ExecStatusType expected);

/* Wipe the secret key when the memory of a try goes. */
static void
join_wipe(void *arg)
{
	p2p_wipe(&((RpJoin *) arg)->me, sizeof(RpIdentity));
}

/* Have that done. */
static void
wipe_register(RpJoin *join)
{
	MemoryContextCallback *wipe = MemoryContextAllocZero(join->memory, sizeof(MemoryContextCallback));

	wipe->func = join_wipe;
	wipe->arg = join;
	MemoryContextRegisterResetCallback(join->memory, wipe);
}

/* Begin a try: read what join_group has recorded. */
RpJoin *
rp_join_begin(RpNode *node)
{
	RpJoin	   *join = palloc0(sizeof(RpJoin));
	RpCatalog	catalog;

	join->node = node;
	join->leader = MyProcPid;
	join->memory = CurrentMemoryContext;
	wipe_register(join);
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
	join->donor_id = join->sponsor;
	join->donor_dsn = join->sponsor_dsn;
	CommitTransactionCommand();
	MemoryContextSwitchTo(join->memory);
	return join;
}

/* Make what a session with another donor needs. */
RpJoin *
rp_join_for_donor(const RpJoin *join, const P2pId *id, const char *name, const char *dsn)
{
	RpJoin	   *other = MemoryContextAlloc(join->memory, sizeof(RpJoin));

	*other = *join;
	wipe_register(other);
	other->donor_id = *id;
	other->donor_name = name;
	other->donor_dsn = dsn;
	other->donor = NULL;
	other->facts = NIL;
	other->others = NIL;
	return other;
}

/* Open the session with the donor that everything is copied over. */
void
rp_join_donor_open(RpJoin *join)
{
	char	   *error = NULL;

	join->donor = rp_peer_open(join->donor_dsn, &join->me, &join->me.group, &join->donor_id,
							   psprintf("replp2p join %s", join->name), &error);
	if (join->donor == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 join->donor_name == NULL ? errmsg("could not open a session with the sponsor") :
				 errmsg("could not open a session with node \"%s\"", join->donor_name),
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

/* Read what export_snapshot returned: hex digits of a vector and a stamp. */
static void
vector_read(RpJoin *join, const char *hex)
{
	size_t		length = strlen(hex) / 2;
	uint8	   *bytes = palloc(length + 1);

	(void) hex_decode(hex, length * 2, (char *) bytes);
	if (!rp_snapshot_vector_read(bytes, length, &join->vector, &join->stamp) || join->stamp < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the vector of a donor's snapshot is malformed"),
				 errhint("Use the same version of replp2p on both servers.")));
}

/* Begin a transaction of the donor whose snapshot has a vector. */
void
rp_join_snapshot_take(RpJoin *join)
{
	for (int i = 0; i < MAX_SNAPSHOTS; i++)
	{
		RpJoinRows *rows;

		rp_worker_check(join->node, RP_WORKER_JOIN);
		rp_join_run(join, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
		rows = rp_join_query(join, "SELECT snapshot, encode(vector, 'hex') FROM replp2p.export_snapshot()");
		if (rows->nrows == 1 && rp_join_value(rows, 0, 0) != NULL && rp_join_value(rows, 0, 1) != NULL)
		{
			strlcpy(join->snapshot, rp_join_value(rows, 0, 0), sizeof(join->snapshot));
			vector_read(join, rp_join_value(rows, 0, 1));
			join->vector_text = psprintf("\\x%s", rp_join_value(rows, 0, 1));
			rp_join_seen_read(join);
			elog(DEBUG1, "replp2p: snapshot %s of attempt %d", join->snapshot, i + 1);
			return;
		}
		rp_join_run(join, "ROLLBACK");
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the donor had no snapshot with a version vector in %d attempts", MAX_SNAPSHOTS),
			 errdetail("Its transactions become visible in another order than they commit in, because of very many of them at once or of synchronous replication."),
			 errhint("It is tried again by itself; join by an invite of a node with less load.")));
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
rp_join_donor_error(const RpJoin *join, PGresult *result, const char *error)
{
	char	   *text;
	const char *primary = result != NULL ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (primary == NULL)
		primary = error != NULL && error[0] != '\0' ? error : "The connection ended.";
	text = pchomp(primary);
	PQclear(result);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 join->donor_name == NULL ? errmsg("copying from the sponsor failed") :
			 errmsg("copying from node \"%s\" failed", join->donor_name),
			 errdetail_internal("%s", text),
			 errhint("The role in its dsn must be able to read all tables, also those with row-level security (BYPASSRLS).")));
}

/* Run a statement on the donor's connection and copy its rows. */
static RpJoinRows *
donor_exec(RpJoin *join, const char *sql, ExecStatusType expected)
{
	char	   *error = NULL;
	PGresult   *result = rp_peer_exec(join->donor, sql, &error);
	RpJoinRows *rows;

	if (result == NULL || PQresultStatus(result) != expected)
		rp_join_donor_error(join, result, error);
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
