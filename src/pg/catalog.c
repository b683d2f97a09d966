/*
 * catalog.c
 *	  Statements on the extension's own tables.
 *
 * Workers, SQL functions and sessions of peers all read and write the tables of
 * schema replp2p, with very different rights: the role of a peer may do nothing
 * but EXECUTE exchange(). So each access becomes the owner for its duration, in
 * a context where the search_path is pinned and no command of the caller can
 * slip in. An ERROR needs no clean-up of ours: the abort of the transaction
 * gives back user, settings and SPI.
 *
 * Most statements are parsed and planned each time. Those that apply runs for every
 * conflict, sibling or displaced row keep their plan (RpStatement), each its own: it is always run as
 * the owner, with the same search_path, by a worker whose settings are pinned. The server
 * makes a kept plan anew when a table that it reads was changed or analyzed, but not when one
 * has only grown, and what suits an empty table is slow for a large one. So a plan serves for a
 * while only, counted in uses and in time.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "monotonic.h"
#include "settings.h"

/* A kept plan serves so often, and so long. */
#define PLAN_USES 500
#define PLAN_AGE_US (10 * INT64CONST(1000000))

static void args_split(const RpArg *args, int nargs, Oid *types, Datum *values, char *nulls);
static void result_check(int rc, int expected, const char *sql);
static void statement_prepare(RpStatement *statement, const Oid *types, int nargs);

/* Become the owner, pin what a statement's meaning hangs on, and connect SPI. */
void
rp_catalog_open(RpCatalog *catalog)
{
	GetUserIdAndSecContext(&catalog->user, &catalog->security_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   catalog->security_context | SECURITY_LOCAL_USERID_CHANGE);
	catalog->settings_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	/* workers, and procedures that have let go of theirs, have no snapshot for SPI to stand on */
	catalog->pushed_snapshot = !ActiveSnapshotSet();
	if (catalog->pushed_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "replp2p: could not connect to SPI");
}

/* Undo rp_catalog_open. */
void
rp_catalog_close(RpCatalog *catalog)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "replp2p: could not finish SPI");
	if (catalog->pushed_snapshot)
		PopActiveSnapshot();
	AtEOXact_GUC(false, catalog->settings_level);
	SetUserIdAndSecContext(catalog->user, catalog->security_context);
}

/* Run one statement; ERROR unless it ends as expected. */
uint64
rp_catalog_run(const char *sql, int expected, const RpArg *args, int nargs)
{
	Oid			types[RP_MAX_ARGS];
	Datum		values[RP_MAX_ARGS];
	char		nulls[RP_MAX_ARGS];

	args_split(args, nargs, types, values, nulls);
	result_check(SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0), expected, sql);
	return SPI_processed;
}

/* Run a statement by its kept plan, which is made if there is none, or a new one is due. */
uint64
rp_statement_run(RpStatement *statement, const RpArg *args, int nargs)
{
	Oid			types[RP_MAX_ARGS];
	Datum		values[RP_MAX_ARGS];
	char		nulls[RP_MAX_ARGS];

	args_split(args, nargs, types, values, nulls);
	if (statement->plan == NULL || statement->uses >= PLAN_USES ||
		rp_monotonic_us() - statement->made_us >= PLAN_AGE_US)
		statement_prepare(statement, types, nargs);
	Assert(SPI_getargcount(statement->plan) == nargs);
	statement->uses++;
	result_check(SPI_execute_plan(statement->plan, values, nulls, false, 0),
				 statement->expected, statement->sql);
	return SPI_processed;
}

uint64
rp_catalog_execute(const char *sql, int expected, const RpArg *args, int nargs)
{
	RpCatalog	catalog;
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run(sql, expected, args, nargs);
	rp_catalog_close(&catalog);
	return n;
}

uint64
rp_statement_execute(RpStatement *statement, const RpArg *args, int nargs)
{
	RpCatalog	catalog;
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_statement_run(statement, args, nargs);
	rp_catalog_close(&catalog);
	return n;
}

/* Lay arguments out as SPI wants them. */
static void
args_split(const RpArg *args, int nargs, Oid *types, Datum *values, char *nulls)
{
	Assert(nargs <= RP_MAX_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
}

static void
result_check(int rc, int expected, const char *sql)
{
	if (rc != expected)
		elog(ERROR, "replp2p: unexpected result %s of \"%s\"", SPI_result_code_string(rc), sql);
}

/* Make a plan to be kept, in place of an older one; after an ERROR there is none. */
static void
statement_prepare(RpStatement *statement, const Oid *types, int nargs)
{
	SPIPlanPtr	old = statement->plan;
	SPIPlanPtr	plan;

	statement->plan = NULL;
	if (old != NULL)
		(void) SPI_freeplan(old);
	plan = SPI_prepare(statement->sql, nargs, unconstify(Oid *, types));
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "replp2p: could not prepare \"%s\"", statement->sql);
	statement->plan = plan;
	statement->uses = 0;
	statement->made_us = rp_monotonic_us();
}

static RpArg
arg(Oid type, Datum value)
{
	RpArg		a = {type, value, false};

	return a;
}

RpArg
rp_arg_bytes(const void *bytes, size_t length)
{
	bytea	   *copy;

	if (bytes == NULL)
		return (RpArg) {BYTEAOID, (Datum) 0, true};
	copy = palloc(VARHDRSZ + length);
	SET_VARSIZE(copy, VARHDRSZ + length);
	memcpy(VARDATA(copy), bytes, length);
	return arg(BYTEAOID, PointerGetDatum(copy));
}

RpArg
rp_arg_text(const char *text)
{
	if (text == NULL)
		return (RpArg) {TEXTOID, (Datum) 0, true};
	return arg(TEXTOID, CStringGetTextDatum(text));
}

RpArg
rp_arg_name(const char *name)
{
	Name		copy;

	if (name == NULL)
		return (RpArg) {NAMEOID, (Datum) 0, true};
	copy = palloc0(NAMEDATALEN);
	namestrcpy(copy, name);
	return arg(NAMEOID, NameGetDatum(copy));
}

RpArg
rp_arg_int4(int32 value)
{
	return arg(INT4OID, Int32GetDatum(value));
}

RpArg
rp_arg_int8(int64 value)
{
	return arg(INT8OID, Int64GetDatum(value));
}

RpArg
rp_arg_bool(bool value)
{
	return arg(BOOLOID, BoolGetDatum(value));
}

RpArg
rp_arg_oid(Oid value)
{
	return arg(OIDOID, ObjectIdGetDatum(value));
}

RpArg
rp_arg_char(char value)
{
	return arg(CHAROID, CharGetDatum(value));
}

RpArg
rp_arg_time(TimestampTz value)
{
	return arg(TIMESTAMPTZOID, TimestampTzGetDatum(value));
}

/* Return a column's value and whether it is NULL. */
static Datum
column_or_null(uint64 row, int column, bool *isnull)
{
	Assert(SPI_tuptable != NULL && row < SPI_tuptable->numvals);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* Return a column that must not be NULL. */
Datum
rp_column(uint64 row, int column)
{
	bool		isnull;
	Datum		value = column_or_null(row, column, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unexpected NULL in a table of schema \"%s\"", RP_SCHEMA),
				 errhint("Only the extension may write its tables.")));
	return value;
}

/* Return a bigint column, 0 for NULL. */
int64
rp_column_int8_or_zero(uint64 row, int column)
{
	bool		isnull;
	Datum		value = column_or_null(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* Copy a bytea column that must have exactly length bytes. */
void
rp_column_bytes(uint64 row, int column, void *out, size_t length)
{
	bytea	   *value = DatumGetByteaPP(rp_column(row, column));

	if (VARSIZE_ANY_EXHDR(value) != length)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a value of wrong length in a table of schema \"%s\"", RP_SCHEMA),
				 errhint("Only the extension may write its tables.")));
	memcpy(out, VARDATA_ANY(value), length);
}

/* Copy a text column that must fit into size bytes. */
void
rp_column_text(uint64 row, int column, char *out, size_t size)
{
	char	   *value = TextDatumGetCString(rp_column(row, column));

	if (strlen(value) >= size)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a value too long in a table of schema \"%s\"", RP_SCHEMA),
				 errhint("Only the extension may write its tables.")));
	strlcpy(out, value, size);
	pfree(value);
}

/* Copy a name column into NAMEDATALEN bytes. */
void
rp_column_name(uint64 row, int column, char *out)
{
	strlcpy(out, NameStr(*DatumGetName(rp_column(row, column))), NAMEDATALEN);
}

/* Return the oid of a table, InvalidOid if it is not there. */
Oid
rp_table_of(const char *schema, const char *table)
{
	Oid			namespace = get_namespace_oid(schema, true);

	return OidIsValid(namespace) ? get_relname_relid(table, namespace) : InvalidOid;
}

/* Return the oid of a table of ours, InvalidOid if it is not there. */
Oid
rp_catalog_table(const char *name)
{
	return rp_table_of(RP_SCHEMA, name);
}
