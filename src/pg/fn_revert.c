/*
 * fn_revert.c
 *	  SQL function revert_conflict(): put the loser of a conflict back.
 *
 * It is a new write of this node, by its caller: an ordinary statement on the
 * table, under his rights and row security, that fires triggers and checks
 * constraints and is replicated as any other. A row that lost is written over the row
 * of its key, or inserted if there is none; a delete that lost deletes the row of its key.
 *
 * The history's exact image (rowimage.h) is by column names, so the table may have
 * changed since: columns that are gone are left out with a notice, columns that are new keep
 * what they have, or take their default. Generated columns are computed; an identity column that
 * is GENERATED ALWAYS is given its value in an insert, and keeps what it has in an update.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "rowimage.h"
#include "setup.h"

PG_FUNCTION_INFO_V1(rp_revert_conflict);

/* What the history says of the loser. */
typedef struct Loser
{
	int64		id;
	Oid			relation;
	bool		is_delete;
	int			nkeys;			/* 0: the table has no key */
	char	  **key_names;
	char	  **key_values;
	int			ncolumns;		/* of its row; 0 for a delete */
	char	  **names;
	char	  **values;			/* NULL = SQL NULL */
} Loser;

/* A column of the table, and its value as a parameter of the same number. */
typedef struct Target
{
	Form_pg_attribute att;
	bool		is_key;
	char	   *name;			/* quoted */
} Target;

/* The statements in the making. */
typedef struct Write
{
	Relation	rel;
	char	   *table;			/* quoted and qualified */
	const char *only;			/* "ONLY " where the table may have children that are other tables */
	int			n;
	Target	   *targets;
	Oid		   *types;
	Datum	   *values;
	char	   *nulls;
} Write;

static void conflict_visible_required(int64 id);
static void loser_read(int64 id, Loser *loser);
static void images_read(Loser *loser, Datum row, bool no_row, Datum key, bool no_key);
static Relation table_required(const Loser *loser);
static void write_prepare(Write *write, const Loser *loser);
static bool target_add(Write *write, const char *name, const char *value, bool is_key);
static bool is_among(const char *name, char **names, int n);
static uint64 write_run(const Write *write, const char *sql, int expected);
static void put_where_key(StringInfo sql, const Write *write);
static void row_delete(const Write *write);
static bool row_is_there(const Write *write);
static bool row_update(const Write *write);
static void row_insert(const Write *write);

/* SQL: revert_conflict(id bigint): write the loser of a conflict again. */
Datum
rp_revert_conflict(PG_FUNCTION_ARGS)
{
	Loser		loser = {0};
	Write		write = {0};

	rp_arg_required(fcinfo, 0, "id");
	rp_writable_required("replp2p.revert_conflict()");
	loser.id = PG_GETARG_INT64(0);
	conflict_visible_required(loser.id);
	loser_read(loser.id, &loser);
	write.rel = table_required(&loser);
	write_prepare(&write, &loser);

	SPI_connect();
	if (loser.is_delete)
		row_delete(&write);
	else if (loser.nkeys == 0 || !row_is_there(&write))
		row_insert(&write);
	else if (!row_update(&write))
		ereport(NOTICE,
				(errmsg("the row is there already, and has no column that could be set")));
	SPI_finish();
	table_close(write.rel, NoLock);
	PG_RETURN_VOID();
}

/* ERROR unless the caller sees this conflict: the view itself decides. */
static void
conflict_visible_required(int64 id)
{
	Oid			type = INT8OID;
	Datum		value = Int64GetDatum(id);

	SPI_connect();
	if (SPI_execute_with_args("SELECT FROM replp2p.conflicts c WHERE c.id OPERATOR(pg_catalog.=) $1",
							  1, &type, &value, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "replp2p: could not look for the conflict");
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no conflict " INT64_FORMAT " that you can see", id),
				 errhint("See replp2p.conflicts on this node: it shows conflicts of tables "
						 "that you may "
						 "select from and whose rows no policy hides from you.")));
	SPI_finish();
}

/* Read what lost, as the owner of the history. In CurrentMemoryContext. */
static void
loser_read(int64 id, Loser *loser)
{
	RpCatalog	catalog;
	RpArg		args[] = {rp_arg_int8(id)};
	MemoryContext memory = CurrentMemoryContext;
	Datum		found[5];
	bool		isnull[5];

	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT relation, loser, CASE loser WHEN 'l' THEN local_side ELSE remote_side END,"
					   " CASE loser WHEN 'l' THEN local_image ELSE remote_image END, key_image"
					   " FROM replp2p.conflict_history WHERE id = $1",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("conflict " INT64_FORMAT " has left the history meanwhile", id),
				 errhint("See replp2p.conflict_history_days and replp2p.conflict_history_rows.")));
	for (int i = 0; i < lengthof(found); i++)
		found[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &isnull[i]);
	if (isnull[1])
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("conflict " INT64_FORMAT " has no loser", id),
				 errdetail("What stands was made of both changes."),
				 errhint("Change the row by an ordinary statement; replp2p.conflicts has both "
						 "images.")));
	loser->relation = DatumGetObjectId(found[0]);
	loser->is_delete = !isnull[2] && DatumGetChar(found[2]) == 'd';
	MemoryContextSwitchTo(memory);
	images_read(loser, found[3], isnull[3], found[4], isnull[4]);
	rp_catalog_close(&catalog);
}

/* Read the images of the row (not of a delete) and of its key. */
static void
images_read(Loser *loser, Datum row, bool no_row, Datum key, bool no_key)
{
	if (!no_key)
		loser->nkeys = rp_image_read(key, &loser->key_names, &loser->key_values);
	if (!no_row && !loser->is_delete)
		loser->ncolumns = rp_image_read(row, &loser->names, &loser->values);
	if (loser->is_delete ? no_key : no_row)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the history has no image of what lost in conflict " INT64_FORMAT, loser->id),
				 errdetail("Rows of more than %zu MB are not kept in "
						   "it.", RP_MAX_IMAGE_BYTES >> 20),
				 errhint("Change the row by an ordinary statement.")));
}

/* Open the table; ERROR if it is gone. */
static Relation
table_required(const Loser *loser)
{
	Relation	rel = OidIsValid(loser->relation) ?
		try_table_open(loser->relation, AccessShareLock) : NULL;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of conflict " INT64_FORMAT " is not there", loser->id),
				 errdetail("It has been dropped, or there was none on this node."),
				 errhint("The view conflicts has the row; insert it where it belongs now.")));
	return rel;
}

/*
 * Match the image with the table as it is now, and turn texts into values, under the
 * settings in which they were written. Keys come from the row if there is one: it may be
 * that of another key (rows that clash in a unique value).
 */
static void
write_prepare(Write *write, const Loser *loser)
{
	static const char *const settings[][2] = {
		{"DateStyle", "ISO"}, {"IntervalStyle", "postgres"}, {"xmloption", "content"}
	};
	int			level = NewGUCNestLevel();
	int			max = loser->is_delete ? loser->nkeys : loser->ncolumns;
	int			nkeys = 0;

	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	write->table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(write->rel)),
											  RelationGetRelationName(write->rel));
	write->only = write->rel->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "";
	write->targets = palloc0_array(Target, Max(max, 1));
	write->types = palloc0_array(Oid, Max(max, 1));
	write->values = palloc0_array(Datum, Max(max, 1));
	write->nulls = palloc0_array(char, Max(max, 1));
	for (int i = 0; i < max; i++)
	{
		const char *name = loser->is_delete ? loser->key_names[i] : loser->names[i];
		const char *value = loser->is_delete ? loser->key_values[i] : loser->values[i];
		bool		is_key = is_among(name, loser->key_names, loser->nkeys);

		if (target_add(write, name, value, is_key))
			nkeys += is_key;
		else if (!is_key)
			ereport(NOTICE,
					(errmsg("column \"%s\" is left out: table %s has no such column now, or computes it",
							name, write->table)));
	}
	if (nkeys < loser->nkeys)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table %s has lost a key column since conflict " INT64_FORMAT,
						write->table, loser->id),
				 errhint("The view conflicts has the row; write it by an ordinary statement.")));
	AtEOXact_GUC(false, level);
}

/* Is a name among others? */
static bool
is_among(const char *name, char **names, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* Add a column and its value to the statement; false: the table has no such column to write to. */
static bool
target_add(Write *write, const char *name, const char *value, bool is_key)
{
	TupleDesc	desc = RelationGetDescr(write->rel);
	AttrNumber	attno = get_attnum(RelationGetRelid(write->rel), name);
	Form_pg_attribute att;
	Oid			input;
	Oid			param;

	if (attno <= 0)
		return false;
	att = TupleDescAttr(desc, attno - 1);
	if (att->attgenerated)
		return false;
	getTypeInputInfo(att->atttypid, &input, &param);
	write->targets[write->n] = (Target) {att, is_key, pstrdup(quote_identifier(name))};
	write->types[write->n] = att->atttypid;
	write->nulls[write->n] = value == NULL ? 'n' : ' ';
	write->values[write->n] = OidInputFunctionCall(input, unconstify(char *, value), param,
												   att->atttypmod);
	write->n++;
	return true;
}

/* Run a statement with all values as parameters, as the caller; returns the rows it touched. */
static uint64
write_run(const Write *write, const char *sql, int expected)
{
	int			rc = SPI_execute_with_args(sql, write->n, write->types, write->values, write->nulls,
										   false, 0);

	if (rc == SPI_OK_REWRITTEN)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a rule on table %s does something else instead", write->table),
				 errhint("Disable the rule meanwhile, or write the row by a statement of your own.")));
	if (rc != expected)
		elog(ERROR, "replp2p: unexpected result %s of \"%s\"", SPI_result_code_string(rc), sql);
	return SPI_processed;
}

/* Put the condition that names the row by its key. */
static void
put_where_key(StringInfo sql, const Write *write)
{
	const char *word = " WHERE ";

	for (int i = 0; i < write->n; i++)
	{
		const Target *target = &write->targets[i];
		Oid			type = target->att->atttypid;
		Oid			equal = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;

		if (!target->is_key)
			continue;
		if (!OidIsValid(equal))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("type %s of key column %s has no equality operator",
							format_type_be(type), target->name),
					 errhint("Change the row by an ordinary statement.")));
		appendStringInfoString(sql, word);
		generate_operator_clause(sql, target->name, type, equal, psprintf("$%d", i + 1), type);
		word = " AND ";
	}
}

/* Delete the row of the key. */
static void
row_delete(const Write *write)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s%s", write->only, write->table);
	put_where_key(&sql, write);
	if (write_run(write, sql.data, SPI_OK_DELETE) == 0)
		ereport(NOTICE,
				(errmsg("there is no row of that key in table %s: nothing to delete", write->table)));
}

/* Is there a row of the key, which the caller sees? */
static bool
row_is_there(const Write *write)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s%s", write->only, write->table);
	put_where_key(&sql, write);
	return write_run(write, sql.data, SPI_OK_SELECT) > 0;
}

/* Overwrite the row of the key; false: it has no column that could be set. */
static bool
row_update(const Write *write)
{
	StringInfoData sql;
	const char *word = " SET ";

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s%s", write->only, write->table);
	for (int i = 0; i < write->n; i++)
	{
		const Target *target = &write->targets[i];

		if (target->is_key || target->att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
			continue;
		appendStringInfo(&sql, "%s%s = $%d", word, target->name, i + 1);
		word = ", ";
	}
	if (strcmp(word, " SET ") == 0)
		return false;
	put_where_key(&sql, write);
	if (write_run(write, sql.data, SPI_OK_UPDATE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("the row of that key in table %s could not be updated", write->table),
				 errdetail("It was deleted meanwhile, or a policy or trigger keeps it as it is."),
				 errhint("Try again, and if that does not help look at the table's policies "
						 "and triggers.")));
	return true;
}

/* Insert the row, identity columns with the values that they had. */
static void
row_insert(const Write *write)
{
	StringInfoData sql;
	StringInfoData values;

	initStringInfo(&sql);
	initStringInfo(&values);
	appendStringInfo(&sql, "INSERT INTO %s", write->table);
	for (int i = 0; i < write->n; i++)
	{
		appendStringInfo(&sql, "%s%s", i == 0 ? " (" : ", ", write->targets[i].name);
		appendStringInfo(&values, "%s$%d", i == 0 ? "" : ", ", i + 1);
	}
	if (write->n == 0)
		appendStringInfoString(&sql, " DEFAULT VALUES");
	else
		appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE VALUES (%s)", values.data);
	(void) write_run(write, sql.data, SPI_OK_INSERT);
}
