/*
 * fn_exclude.c
 *	  SQL functions that take single tables out of replication, or back in.
 *
 * The list (table excluded_tables) is this node's own: it says whose local
 * changes capture leaves out. Capture reads it under its historic snapshot, so
 * a change counts from its commit on, in WAL order. The lock on the table keeps
 * out transactions that have written to it and would straddle that commit; the
 * invalidation makes decoding look again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "fn_tables.h"
#include "settings.h"
#include "setup.h"

PG_FUNCTION_INFO_V1(rp_exclude_table);
PG_FUNCTION_INFO_V1(rp_include_table);

/* Return why a relation is never replicated, or NULL if it is one that may be. */
static const char *
never_replicated(Oid relation, Form_pg_class class)
{
	const char *schema = get_namespace_name(class->relnamespace);

	if (class->relkind != RELKIND_RELATION && class->relkind != RELKIND_PARTITIONED_TABLE)
		return "It is not a table.";
	if (class->relpersistence != RELPERSISTENCE_PERMANENT)
		return "It is temporary or unlogged.";
	if (relation < FirstNormalObjectId || schema == NULL || IsCatalogNamespace(class->relnamespace))
		return "It is a system table.";
	if (strcmp(schema, RP_SCHEMA) == 0)
		return "It belongs to the extension itself.";
	return NULL;
}

/* ERROR unless the caller owns the relation and it may be replicated at all. */
static void
table_required(Oid relation)
{
	HeapTuple	tuple = rp_own_relation(relation);
	Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
	const char *why = never_replicated(relation, class);

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" is never replicated", NameStr(class->relname)),
				 errdetail_internal("%s", why),
				 errhint("Permanent tables of users are replicated; see replp2p.tables.")));
	ReleaseSysCache(tuple);
}

/* Insert or delete the line of one table; returns whether that changed anything. */
static bool
line_change(Oid relation, bool exclude)
{
	RpArg		args[] = {rp_arg_oid(relation)};

	CacheInvalidateRelcacheByRelid(relation);
	if (exclude)
		/* a catalog table knows no ON CONFLICT; the relation's lock keeps others out */
		return rp_catalog_run("INSERT INTO replp2p.excluded_tables (relation) SELECT $1 WHERE NOT EXISTS"
							  " (SELECT FROM replp2p.excluded_tables WHERE relation = $1)",
							  SPI_OK_INSERT, args, 1) > 0;
	return rp_catalog_run("DELETE FROM replp2p.excluded_tables WHERE relation = $1",
						  SPI_OK_DELETE, args, 1) > 0;
}

/* Does a table hold rows? Between catalog open and close. */
static bool
table_has_rows(Oid relation)
{
	const char *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
												  get_rel_name(relation));

	rp_catalog_run(psprintf("SELECT EXISTS (SELECT FROM %s)", name), SPI_OK_SELECT, NULL, 0);
	return DatumGetBool(rp_column(0, 1));
}

/* Exclude or include a table and its partitions; returns whether that changed anything. */
static bool
table_change(Oid relation, bool exclude)
{
	RpCatalog	catalog;
	List	   *relations;
	ListCell   *cell;
	bool		changed = false;

	table_required(relation);
	LockRelationOid(relation, ShareRowExclusiveLock);
	table_required(relation);	/* as it is now that nobody can change it */
	relations = find_all_inheritors(relation, ShareRowExclusiveLock, NULL);
	if (get_rel_relkind(relation) != RELKIND_PARTITIONED_TABLE)
		relations = list_make1_oid(relation);

	rp_catalog_open(&catalog);
	foreach(cell, relations)
		changed |= line_change(lfirst_oid(cell), exclude);
	if (changed && !exclude && table_has_rows(relation))
		ereport(NOTICE,
				(errmsg("rows that are in table \"%s\" now are not copied to other nodes",
						get_rel_name(relation)),
				 errdetail("Changes from now on are replicated, also those of rows that are missing elsewhere."),
				 errhint("Make its contents equal on all nodes before.")));
	rp_catalog_close(&catalog);
	return changed;
}

/* SQL: exclude_table(relation regclass): local changes of it stay here. */
Datum
rp_exclude_table(PG_FUNCTION_ARGS)
{
	Oid			relation;

	rp_arg_required(fcinfo, 0, "relation");
	relation = PG_GETARG_OID(0);
	rp_writable_required("replp2p.exclude_table()");
	if (!table_change(relation, true))
		ereport(NOTICE,
				(errmsg("table \"%s\" is excluded already", get_rel_name(relation))));
	PG_RETURN_VOID();
}

/* SQL: include_table(relation regclass): the opposite. */
Datum
rp_include_table(PG_FUNCTION_ARGS)
{
	Oid			relation;

	rp_arg_required(fcinfo, 0, "relation");
	relation = PG_GETARG_OID(0);
	rp_writable_required("replp2p.include_table()");
	if (!table_change(relation, false))
		ereport(NOTICE,
				(errmsg("table \"%s\" is not excluded", get_rel_name(relation))));
	PG_RETURN_VOID();
}
