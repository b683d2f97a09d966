/*
 * fn_handlers.c
 *	  SQL functions that set how conflicts of a table are decided, for the whole
 *	  group.
 *
 * A change is a row of replp2p.handler_changes, which is replicated; its counterpart in
 * table_handlers makes it hold here, with the same commit. The lock on the table keeps out
 * whoever has written to it and has not committed, on both sides: clients, and apply, which
 * looks up the handler once it has its own lock: whoever has seen the change has seen what apply judged before it, be it
 * that there is no row. What apply reads of the own log it has not locked; there it listens first (ownlog.c).
 *
 * A counter needs old values with each update: the table gets REPLICA IDENTITY
 * FULL, here now and on the other nodes when they apply the change. No update that was
 * logged without them can commit later: that takes the strongest lock.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "compat.h"
#include "decode.h"
#include "fn_tables.h"
#include "handlers_internal.h"
#include "rowbuilder.h"
#include "settings.h"
#include "setup.h"
#include "versions.h"

PG_FUNCTION_INFO_V1(rp_set_conflict_handler);
PG_FUNCTION_INFO_V1(rp_set_column_merge);
PG_FUNCTION_INFO_V1(rp_get_table_handlers);

static RpNode *node_active_required(void);
static Relation table_required(Oid relid, LOCKMODE mode);
static void function_required(Oid function, Relation rel);
static AttrNumber column_required(Relation rel, const char *column, RpMergeKind merge);
static void pair_refuse(Oid relid, const RpHandlerRow *row);
static bool change_make(RpNode *node, RpHandlerRow *row, Oid relid, AttrNumber attno);

/* SQL: set_conflict_handler(relation regclass, handler text, handler_function regprocedure). */
Datum
rp_set_conflict_handler(PG_FUNCTION_ARGS)
{
	RpHandlerRow row = {0};
	RpHandlerKind kind;
	RpNode	   *node;
	Relation	rel;
	Oid			relid;
	char	   *handler;

	rp_arg_required(fcinfo, 0, "relation");
	relid = PG_GETARG_OID(0);
	handler = RP_ARG_TEXT(1, "handler");
	rp_writable_required("replp2p.set_conflict_handler()");
	node = node_active_required();
	if (!rp_handler_kind_by_name(handler, &kind))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no conflict handler \"%s\"", handler),
				 errhint("Use last_writer_wins, vector_clock or custom.")));
	if ((kind == RP_CUSTOM) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(kind == RP_CUSTOM ? "handler custom needs a handler_function"
						: "only handler custom takes a handler_function"),
				 errhint("Call replp2p.set_conflict_handler('table', 'custom', 'function(t, t, replp2p.conflict)').")));

	rel = table_required(relid, ShareRowExclusiveLock);
	if (kind == RP_CUSTOM)
	{
		Oid			function = PG_GETARG_OID(2);

		function_required(function, rel);
		strlcpy(row.function,
				quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
										   get_func_name(function)), sizeof(row.function));
	}
	strlcpy(row.setting, handler, sizeof(row.setting));
	table_close(rel, NoLock);
	if (!change_make(node, &row, relid, 0))
		ereport(NOTICE,
				(errmsg("table \"%s\" has this conflict handler already", get_rel_name(relid))));
	PG_RETURN_VOID();
}

/* SQL: set_column_merge(relation regclass, column_name name, merge text). */
Datum
rp_set_column_merge(PG_FUNCTION_ARGS)
{
	RpHandlerRow row = {0};
	RpMergeKind kind;
	RpNode	   *node;
	Relation	rel;
	AttrNumber	attno;
	Oid			relid;
	char	   *merge;

	rp_arg_required(fcinfo, 0, "relation");
	relid = PG_GETARG_OID(0);
	strlcpy(row.column, RP_ARG_NAME(1, "column_name"), sizeof(row.column));
	merge = RP_ARG_TEXT(2, "merge");
	rp_writable_required("replp2p.set_column_merge()");
	node = node_active_required();
	if (!rp_merge_kind_by_name(merge, &kind))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no column merge \"%s\"", merge),
				 errhint("Use counter, max, min or none.")));

	rel = table_required(relid, kind == RP_MERGE_COUNTER ? AccessExclusiveLock : ShareRowExclusiveLock);
	attno = column_required(rel, row.column, kind);
	strlcpy(row.setting, merge, sizeof(row.setting));
	table_close(rel, NoLock);
	if (!change_make(node, &row, relid, attno))
		ereport(NOTICE,
				(errmsg("column \"%s\" of table \"%s\" has this merge already",
						row.column, get_rel_name(relid))));
	PG_RETURN_VOID();
}

/* Return the node; ERROR unless it takes part in its group. */
static RpNode *
node_active_required(void)
{
	RpNode	   *node = rp_node_required();

	if (rp_node_status(node) != RP_NODE_ACTIVE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node is not active"),
				 errhint("Wait for it by replp2p.wait_for_ready(), or ask another node.")));
	return node;
}

/* Open a table and lock it; ERROR unless it is the caller's, replicated, and has a key. */
static Relation
table_required(Oid relid, LOCKMODE mode)
{
	HeapTuple	tuple = rp_own_relation(relid);
	Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
	Relation	rel;

	if (class->relkind == RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is partitioned", NameStr(class->relname)),
				 errdetail("Rows are replicated, and conflicts decided, partition by partition."),
				 errhint("Call this for each partition: see pg_partition_tree().")));
	if (class->relkind != RELKIND_RELATION || !rp_table_is_replicated(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" is not replicated", NameStr(class->relname)),
				 errhint("Only what is replicated can have conflicts; see replp2p.tables.")));
	ReleaseSysCache(tuple);

	rel = table_open(relid, mode);
	if (!has_privs_of_role(GetUserId(), rel->rd_rel->relowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", RelationGetRelationName(rel)),
				 errhint("It changed hands just now.")));
	if (bms_is_empty(rp_decode_key(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key by which its rows are found on other nodes",
						RelationGetRelationName(rel)),
				 errhint("Add a primary key; see replp2p.tables.")));
	return rel;
}

/* ERROR unless the function can decide conflicts of the table. */
static void
function_required(Oid function, Relation rel)
{
	const char *why = rp_handler_function_unfit(function, RelationGetRelid(rel));

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot decide conflicts of table \"%s\"",
						format_procedure(function), RelationGetRelationName(rel)),
				 errdetail_internal("%s", why),
				 errhint("It has to be: f(older %1$s, newer %1$s, replp2p.conflict) RETURNS %1$s, IMMUTABLE.",
						 format_type_be(rel->rd_rel->reltype))));
}

const char *
rp_handler_function_unfit(Oid function, Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	HeapTuple	class = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			schema = get_namespace_oid(RP_SCHEMA, true);
	Oid			conflict = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										   CStringGetDatum("conflict"), ObjectIdGetDatum(schema));
	const char *why = NULL;

	if (!HeapTupleIsValid(tuple) || !HeapTupleIsValid(class))
		why = "It does not exist.";
	else
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
		Oid			row = ((Form_pg_class) GETSTRUCT(class))->reltype;
		Oid			owner = ((Form_pg_class) GETSTRUCT(class))->relowner;

		if (proc->prokind != PROKIND_FUNCTION)
			why = "It is not an ordinary function.";
		else if (proc->pronargs != 3 || proc->proargtypes.values[0] != row ||
				 proc->proargtypes.values[1] != row || proc->proargtypes.values[2] != conflict)
			why = "It does not take two rows of the table and a replp2p.conflict.";
		else if (proc->prorettype != row || proc->proretset)
			why = "It does not return a row of the table.";
		else if (proc->provolatile != PROVOLATILE_IMMUTABLE)
			why = "It is not IMMUTABLE: all nodes must come to the same row, whenever they call it.";
		else if (proc->prosecdef && proc->proowner != owner)
			why = "It is SECURITY DEFINER, and belongs to another role than the table.";
		else if (!rp_function_is_executable(function, owner))
			why = "The owner of the table may not execute it.";
	}
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (HeapTupleIsValid(class))
		ReleaseSysCache(class);
	return why;
}

Oid
rp_handler_function_find(const char *name, Oid relid)
{
	Oid			row = get_rel_type_id(relid);
	Oid			schema = get_namespace_oid(RP_SCHEMA, true);
	Oid			arguments[3];
	Oid			function;

	arguments[0] = arguments[1] = row;
	arguments[2] = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("conflict"),
								   ObjectIdGetDatum(schema));
	function = LookupFuncName(stringToQualifiedNameList(name), 3, arguments, true);
	if (OidIsValid(function) && rp_handler_function_unfit(function, relid) != NULL)
		return InvalidOid;
	return function;
}

/* Return a column's number; ERROR unless it can be merged so. */
static AttrNumber
column_required(Relation rel, const char *column, RpMergeKind merge)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), column);
	Form_pg_attribute att;
	const char *why = NULL;
	const char *hint = "Merge another column, or write a function for handler custom.";

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"%s\"", RelationGetRelationName(rel), column),
				 errhint("Columns of the system cannot be merged.")));
	if (merge == RP_MERGE_NONE)
		return attno;
	att = TupleDescAttr(RelationGetDescr(rel), attno - 1);
	switch (getBaseType(att->atttypid))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
			break;
		default:
			why = "Only smallint, integer, bigint and numeric columns can be merged.";
	}
	if (bms_is_member(attno, rp_decode_key(rel)))
		why = "It is part of the key.";
	else if (att->attgenerated != '\0')
		why = "It is generated: every node computes it.";
	else if (why == NULL && !att->attnotnull)
	{
		why = "It may be null.";
		hint = "Set it NOT NULL on every node.";
	}
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of table \"%s\" cannot be merged", column,
						RelationGetRelationName(rel)),
				 errdetail_internal("%s", why),
				 errhint("%s", hint)));
	return attno;
}

/* Is this what holds now? Between catalog open and close. */
static bool
change_is_in_force(RpNode *node, const RpHandlerRow *row, Oid relid, AttrNumber attno)
{
	const char *setting = attno == 0 ? "last_writer_wins" : "none";
	const char *function = "";
	RpHandlerEntry *entries;
	uint64		n;

	entries = rp_handler_entries_read(node, &n);
	for (uint64 i = 0; i < n; i++)
	{
		if (entries[i].relid != relid || entries[i].attno != attno)
			continue;
		setting = entries[i].row.setting;	/* the last one is the greatest */
		function = entries[i].row.function;
	}
	return strcmp(row->setting, setting) == 0 && strcmp(row->function, function) == 0;
}

/*
 * Insert a row into handler_changes, completed as this node's word. Between catalog open and
 * close.
 */
static void
change_publish(RpHandlerRow *row, Oid relid)
{
	strlcpy(row->schema, get_namespace_name(get_rel_namespace(relid)), NAMEDATALEN);
	strlcpy(row->table, get_rel_name(relid), NAMEDATALEN);
	/* the lock on this row also keeps two authors of this node in order */
	if (rp_catalog_run("UPDATE replp2p.local_node SET handler_serial = handler_serial + 1"
					   " RETURNING node_id, epoch, handler_serial",
					   SPI_OK_UPDATE_RETURNING, NULL, 0) != 1)
		elog(ERROR, "replp2p: no row in replp2p.local_node");
	rp_column_bytes(0, 1, &row->author.id, P2P_ID_SIZE);
	row->author.epoch = (uint32) DatumGetInt32(rp_column(0, 2));
	row->serial = DatumGetInt64(rp_column(0, 3));
	{
		RpArg		args[] = {
			rp_arg_bytes(&row->author.id, P2P_ID_SIZE),
			rp_arg_int4((int32) row->author.epoch),
			rp_arg_int8(row->serial),
			rp_arg_name(row->schema),
			rp_arg_name(row->table),
			rp_arg_name(row->column),
			rp_arg_text(row->setting),
			rp_arg_text(row->function),
			rp_arg_time(GetCurrentTimestamp()),
		};

		rp_catalog_run("INSERT INTO replp2p.handler_changes (author_id, author_epoch, serial, schema_name,"
					   " table_name, column_name, setting, function_name, made_at)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
					   SPI_OK_INSERT, args, lengthof(args));
	}
}

/*
 * ERROR if a table would have a counter and handler custom: a function may take a row away, and
 * what was counted with it, depending on the order in which changes arrive.
 */
static void
pair_refuse(Oid relid, const RpHandlerRow *row)
{
	RpArg		args[] = {rp_arg_oid(relid)};
	bool		is_custom = strcmp(row->setting, "custom") == 0;

	if (!is_custom && strcmp(row->setting, "counter") != 0)
		return;
	rp_catalog_run("SELECT t.handler = 'custom', EXISTS (SELECT FROM jsonb_each_text(t.merges) m WHERE m.value = 'counter')"
				   " FROM replp2p.tables t WHERE t.relation = $1", SPI_OK_SELECT, args, 1);
	if (SPI_processed != 1 || !DatumGetBool(rp_column(0, is_custom ? 2 : 1)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 is_custom ? errmsg("table \"%s\" has a counter, which handler custom cannot have", get_rel_name(relid))
			 : errmsg("table \"%s\" has handler custom, which cannot have a counter", get_rel_name(relid)),
			 errhint("Use handler vector_clock or last_writer_wins beside counters.")));
}

/* Make a change of a table that is locked; false: it holds already, and nothing is done. */
static bool
change_make(RpNode *node, RpHandlerRow *row, Oid relid, AttrNumber attno)
{
	RpCatalog	catalog;
	RpMergeKind merge;
	bool		news;

	rp_catalog_open(&catalog);
	rp_versions_attach(MyDatabaseId);
	news = !change_is_in_force(node, row, relid, attno);
	if (news)
	{
		pair_refuse(relid, row);
		change_publish(row, relid);
		(void) rp_handler_entry_add(node, row, relid, attno, NULL);
		if (attno > 0 && rp_merge_kind_by_name(row->setting, &merge) &&
			merge == RP_MERGE_COUNTER && rp_old_values_required(relid))
			ereport(NOTICE,
					(errmsg("table \"%s\" has REPLICA IDENTITY FULL from now on", get_rel_name(relid)),
					 errdetail("A counter needs the old values of updates; so it is set on every node.")));
	}
	rp_catalog_close(&catalog);
	return news;
}

/* Add the row of one change. */
static void
put_entry(RpRow *row, RpHandlerEntry *entry)
{
	char		id[P2P_ID_TEXT_SIZE];
	char	   *table;
	char	   *column;

	if (!OidIsValid(entry->relid) || (entry->attno == 0 && entry->row.column[0] != '\0'))
		rp_handler_row_resolve(&entry->row, &entry->relid, &entry->attno);
	table = OidIsValid(entry->relid) ? get_rel_name(entry->relid) : NULL;
	column = table && entry->attno > 0 ? get_attname(entry->relid, entry->attno, true) : NULL;

	p2p_id_to_text(&entry->row.author.id, id);
	rp_row_text(row, id);
	rp_row_int32(row, (int32) entry->row.author.epoch);
	rp_row_int64(row, entry->row.serial);
	if (table)
		rp_row_oid(row, entry->relid);
	else
		rp_row_null(row);
	rp_row_name(row, table ? get_namespace_name(get_rel_namespace(entry->relid)) : entry->row.schema);
	rp_row_name(row, table ? table : entry->row.table);
	rp_row_name(row, column ? column : entry->row.column);
	rp_row_text(row, entry->row.setting);
	rp_row_text(row, entry->row.function);
	if (entry->made.version.dot.seq == 0)
	{
		rp_row_null(row);
		rp_row_null(row);
	}
	else
	{
		rp_row_int64(row, (int64) entry->made.version.dot.seq);
		rp_row_int64(row, entry->made.version.stamp);
	}
	rp_row_bool(row, entry->made.settled);
	rp_row_end(row);
}

/*
 * SQL: get_table_handlers(): the changes that count here, by the names of now, the greatest last.
 */
Datum
rp_get_table_handlers(PG_FUNCTION_ARGS)
{
	RpNode	   *node = rp_node_current();
	RpRow		row;
	RpCatalog	catalog;
	RpHandlerEntry *entries;
	uint64		n;

	rp_row_begin(&row, fcinfo);
	if (node == NULL)
		return (Datum) 0;
	rp_versions_attach(MyDatabaseId);
	rp_catalog_open(&catalog);
	entries = rp_handler_entries_read(node, &n);
	for (uint64 i = 0; i < n; i++)
		put_entry(&row, &entries[i]);
	rp_catalog_close(&catalog);
	return (Datum) 0;
}
