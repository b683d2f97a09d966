/*
 * fn_failed.c
 *	  SQL functions on what apply cannot get past (failed_changes.c): try again
 *	  now, or leave the one change out.
 *
 * Both take effect when the caller's transaction commits: apply is woken, and
 * tries all blocked origins again. They only read the line, so that apply, which
 * writes it, never waits for them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "members.h"
#include "settings.h"
#include "setup.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_retry_failed);
PG_FUNCTION_INFO_V1(rp_skip_failed);

static void line_required(int64 id);
static Oid	skipping_required(int64 id);
static int	more_tables_read(int64 id, Oid **more);
static bool owns_table(Oid table);

/* SQL: retry_failed(id bigint): try a blocked transaction again now. */
Datum
rp_retry_failed(PG_FUNCTION_ARGS)
{
	RpCatalog	catalog;
	RpNode	   *node;

	rp_arg_required(fcinfo, 0, "id");
	rp_writable_required("replp2p.retry_failed()");
	node = rp_node_required();
	rp_catalog_open(&catalog);
	line_required(PG_GETARG_INT64(0));
	rp_catalog_close(&catalog);
	rp_members_changed(node);
	PG_RETURN_VOID();
}

/* SQL: skip_failed(id bigint): leave out the change that fails, here and for good. */
Datum
rp_skip_failed(PG_FUNCTION_ARGS)
{
	RpCatalog	catalog;
	RpNode	   *node;
	int64		id;
	bool		may;
	Oid			table;
	Oid		   *more;
	int			nmore;

	rp_arg_required(fcinfo, 0, "id");
	rp_writable_required("replp2p.skip_failed()");
	node = rp_node_required();
	id = PG_GETARG_INT64(0);
	rp_catalog_open(&catalog);
	line_required(id);
	table = skipping_required(id);
	nmore = more_tables_read(id, &more);
	rp_catalog_close(&catalog);
	may = owns_table(table);
	for (int i = 0; i < nmore; i++)
		may &= owns_table(more[i]);
	if (!may)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of the table to skip a change of it"),
				 errhint("Let the table's owner call this, or a superuser; only the latter "
						 "where there is no such table.")));
	{
		RpArg		args[] = {rp_arg_int8(id), rp_arg_oid(table)};

		rp_catalog_open(&catalog);
		if (rp_catalog_run("INSERT INTO replp2p.skipped_changes (slot, seq, change, relation, more_relations,"
						   " operation, key, key_image, remote_row, remote_image, error_message)"
						   " SELECT slot, seq, change, $2, ARRAY(SELECT coalesce(to_regclass(t)::oid, 0::oid)"
						   "  FROM unnest(more_tables) t), operation, key, key_image, remote_row, remote_image,"
						   " error_message FROM replp2p.failed_transactions WHERE id = $1"
						   " ON CONFLICT DO NOTHING", SPI_OK_INSERT, args, lengthof(args)) == 0)
			ereport(NOTICE,
					(errmsg("that change is to be skipped already")));
		rp_catalog_close(&catalog);
	}
	rp_members_changed(node);
	PG_RETURN_VOID();
}

/* Find the line; ERROR if there is none. Between catalog open and close. */
static void
line_required(int64 id)
{
	RpArg		args[] = {rp_arg_int8(id)};

	if (rp_catalog_run("SELECT change IS NOT NULL, coalesce(schema_name, ''), coalesce(table_name, '')"
					   " FROM replp2p.failed_transactions WHERE id = $1",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no failed change " INT64_FORMAT, id),
				 errhint("See replp2p.failed_changes; it may have gone through meanwhile.")));
}

/*
 * ERROR unless the line found is of a change that may be skipped; returns its table, if there is
 * one here.
 */
static Oid
skipping_required(int64 id)
{
	char		schema[NAMEDATALEN];
	char		table[NAMEDATALEN];

	if (!DatumGetBool(rp_column(0, 1)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no single change fails in failed change " INT64_FORMAT, id),
				 errhint("See its error message for what to do, then call "
						 "replp2p.retry_failed().")));
	rp_column_name(0, 2, schema);
	rp_column_name(0, 3, table);
	if (strcmp(schema, RP_SCHEMA) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot skip a change of table \"%s.%s\"", schema, table),
				 errdetail("Every node must take every change of the group itself."),
				 errhint("See its error message for what to do, then call "
						 "replp2p.retry_failed().")));
	return rp_table_of(schema, table);
}

/*
 * Read the tables of a TRUNCATE besides the first; 0 for one that is not here. Returns how many; the
 * array is of the memory of the caller of catalog open. Between that and close.
 */
static int
more_tables_read(int64 id, Oid **more)
{
	RpArg		args[] = {rp_arg_int8(id)};
	uint64		n = rp_catalog_run("SELECT coalesce(to_regclass(t)::oid, 0::oid) FROM replp2p.failed_transactions,"
								   " unnest(more_tables) t WHERE id = $1",
								   SPI_OK_SELECT, args, lengthof(args));

	*more = SPI_palloc(sizeof(Oid) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		(*more)[i] = DatumGetObjectId(rp_column(i, 1));
	return (int) n;
}

/* Has the caller the rights of the table's owner? Of one that is not here: only a superuser has. */
static bool
owns_table(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	bool		owns;

	if (!HeapTupleIsValid(tuple))
		return superuser();
	owns = has_privs_of_role(GetUserId(), ((Form_pg_class) GETSTRUCT(tuple))->relowner);
	ReleaseSysCache(tuple);
	return owns;
}
