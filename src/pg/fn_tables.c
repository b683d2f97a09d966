/*
 * fn_tables.c
 *	  Which tables are replicated, and the guard against rewriting one.
 *
 * Replicated is every permanent table of a user that is not excluded. (What its
 * rows are found by on other nodes is said by the view tables, in SQL.)
 *
 * The guard: a row's version is looked up by its xmin (versions.h). An ALTER
 * TABLE that rewrites a table gives every row the xmin of that one local
 * transaction: all versions would be lost, and the nodes would decide later
 * conflicts differently. VACUUM FULL and CLUSTER keep xmin and are harmless. So is
 * the rewriting of a table without a single page. Workers and joins run with
 * session_replication_role = replica, where the trigger does not fire.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "fn_tables.h"
#include "settings.h"

/* Column of replp2p.excluded_tables. */
#define ANUM_EXCLUDED_RELATION 1

PG_FUNCTION_INFO_V1(rp_refuse_rewrite);

static bool is_permanent_user_table(Form_pg_class class);
static bool is_excluded(Oid relid);
static bool is_node(void);
static bool has_pages(Oid relid);

/* Would changes of this table go to the other nodes? Takes no lock on it. */
bool
rp_table_is_replicated(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		replicated;

	if (!HeapTupleIsValid(tuple))
		return false;
	replicated = relid >= FirstNormalObjectId &&
		is_permanent_user_table((Form_pg_class) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return replicated && !is_excluded(relid);
}

HeapTuple
rp_own_relation(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("It was dropped meanwhile.")));
	class = (Form_pg_class) GETSTRUCT(tuple);
	if (!has_privs_of_role(GetUserId(), class->relowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", NameStr(class->relname)),
				 errhint("Let its owner or a superuser call this.")));
	return tuple;
}

/* Is it a table, of a user and not ours, whose changes are in the WAL? */
static bool
is_permanent_user_table(Form_pg_class class)
{
	char	   *schema;

	if (class->relkind != RELKIND_RELATION && class->relkind != RELKIND_PARTITIONED_TABLE)
		return false;
	if (class->relpersistence != RELPERSISTENCE_PERMANENT)
		return false;
	schema = get_namespace_name(class->relnamespace);
	return schema == NULL || strcmp(schema, RP_SCHEMA) != 0;
}

/* Is it in replp2p.excluded_tables? Read past all rights, whoever calls. */
static bool
is_excluded(Oid relid)
{
	Oid			table_oid = rp_catalog_table("excluded_tables");
	Relation	table;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	if (!OidIsValid(table_oid))
		return false;
	table = table_open(table_oid, AccessShareLock);
	ScanKeyInit(&key, ANUM_EXCLUDED_RELATION, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(table, rp_catalog_table("excluded_tables_pkey"), true,
							  NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	return found;
}

/* Event trigger on table_rewrite: refuse it for a replicated table with rows. */
Datum
rp_refuse_rewrite(PG_FUNCTION_ARGS)
{
	Oid			relid;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("replp2p.refuse_rewrite() must be called as an event trigger")));

	relid = DatumGetObjectId(OidFunctionCall0(F_PG_EVENT_TRIGGER_TABLE_REWRITE_OID));
	if (is_node() && rp_table_is_replicated(relid) && has_pages(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot rewrite table \"%s\" while it is replicated",
						get_rel_name(relid)),
				 errdetail("A rewrite would lose the versions of its rows, by which the nodes "
						   "decide conflicts alike."),
				 errhint("Add a new column and fill it by UPDATE, or call "
						 "replp2p.exclude_table() on all nodes first, or leave the group.")));
	PG_RETURN_NULL();
}

/* Is this database a node? Asked of the table: shared memory is empty until the launcher has run. */
static bool
is_node(void)
{
	Oid			table_oid = rp_catalog_table("local_node");
	Relation	table;
	SysScanDesc scan;
	bool		found;

	if (!OidIsValid(table_oid))
		return false;
	table = table_open(table_oid, AccessShareLock);
	scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	return found;
}

/* Has the table a single page? Its lock is held by the command. */
static bool
has_pages(Oid relid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	bool		any = RelationGetNumberOfBlocks(relation) > 0;

	table_close(relation, AccessShareLock);
	return any;
}
