/*
 * fn_foreign_keys.c
 *	  SQL function fk_violations(): rows whose foreign key leads nowhere.
 *
 * Applied rows fire no triggers: that their origin has checked them says nothing of what
 * another node has deleted at the same time. So orphans can arise, the same ones on
 * every node, and somebody has to decide what becomes of them; this function finds them.
 *
 * One anti-join per constraint, as the caller, who must be allowed to select from both tables:
 *
 *	  SELECT key, foreign key FROM referencing f
 *	  WHERE f.a IS NOT NULL AND f.b IS NOT NULL		(MATCH FULL: OR)
 *	  AND NOT EXISTS (SELECT FROM referenced p WHERE p.x = f.a AND p.y = f.b)
 *
 * with the constraint's own operators. That of MATCH FULL also finds rows of which a
 * part of the key is NULL: they equal nothing. A partitioned table is read as a whole, once for
 * the constraint on its root; a partition that was asked for is read alone. Rows that were there
 * before a constraint that is NOT VALID are found as well.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "rowbuilder.h"

/* Rows that are fetched at a time. */
#define FETCH_ROWS 1000

PG_FUNCTION_INFO_V1(rp_fk_violations);

/* One foreign key. */
typedef struct ForeignKey
{
	Oid			oid;
	char	   *name;
	Oid			relation;
	Oid			referenced;
	bool		match_full;
	int			n;
	AttrNumber	columns[INDEX_MAX_KEYS];
	AttrNumber	referenced_columns[INDEX_MAX_KEYS];
	Oid			equal[INDEX_MAX_KEYS];	/* referenced = referencing */
} ForeignKey;

static List *foreign_keys_find(Oid relation);
static bool is_wanted(Form_pg_constraint form, Oid relation);
static ForeignKey *foreign_key_read(HeapTuple tuple);
static bool may_read(Oid relation);
static void reading_required(Oid relation);
static void orphans_put(RpRow *row, const ForeignKey *fk);
static char *anti_join(const ForeignKey *fk);
static void put_object(StringInfo sql, Oid relation, const AttrNumber *columns, int n);
static void put_conditions(StringInfo sql, const ForeignKey *fk);
static const char *table_of(Oid relation);
static const char *column_of(const char *alias, Oid relation, AttrNumber attno);

/* SQL: fk_violations(relation regclass): orphans of a table's foreign keys, or of all. */
Datum
rp_fk_violations(PG_FUNCTION_ARGS)
{
	Oid			relation = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	List	   *keys;
	ListCell   *cell;
	RpRow		row;

	if (OidIsValid(relation))
		reading_required(relation);
	rp_row_begin(&row, fcinfo);
	keys = foreign_keys_find(relation);
	foreach(cell, keys)
	{
		ForeignKey *fk = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(relation))
			reading_required(fk->referenced);
		else if (!may_read(fk->relation) || !may_read(fk->referenced))
			continue;
		orphans_put(&row, fk);
	}
	return (Datum) 0;
}

/* Return the foreign keys of a table, or of all of this database. */
static List *
foreign_keys_find(Oid relation)
{
	Relation	catalog = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *found = NIL;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relation));
	scan = systable_beginscan(catalog, ConstraintRelidTypidNameIndexId, true, NULL,
							  OidIsValid(relation) ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (is_wanted((Form_pg_constraint) GETSTRUCT(tuple), relation))
			found = lappend(found, foreign_key_read(tuple));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/*
 * Is this a foreign key to look at? Partitions on either side have constraints of their own,
 * children of one on the root. Wanted is the topmost one of the referencing table.
 */
static bool
is_wanted(Form_pg_constraint form, Oid relation)
{
	HeapTuple	parent;
	bool		same_table;

	if (form->contype != CONSTRAINT_FOREIGN)
		return false;
	if (!OidIsValid(form->conparentid))
		return true;
	if (!OidIsValid(relation))
		return false;
	parent = SearchSysCache1(CONSTROID, ObjectIdGetDatum(form->conparentid));
	if (!HeapTupleIsValid(parent))
		return true;
	same_table = ((Form_pg_constraint) GETSTRUCT(parent))->conrelid == relation;
	ReleaseSysCache(parent);
	return !same_table;
}

/* Read a constraint. */
static ForeignKey *
foreign_key_read(HeapTuple tuple)
{
	Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
	ForeignKey *fk = palloc0_object(ForeignKey);

	fk->oid = form->oid;
	fk->name = pstrdup(NameStr(form->conname));
	fk->relation = form->conrelid;
	fk->referenced = form->confrelid;
	fk->match_full = form->confmatchtype == FKCONSTR_MATCH_FULL;
	DeconstructFkConstraintRow(tuple, &fk->n, fk->columns, fk->referenced_columns, fk->equal,
							   NULL, NULL, NULL, NULL);
	return fk;
}

/* May the caller read all rows of a table? */
static bool
may_read(Oid relation)
{
	return !isOtherTempNamespace(get_rel_namespace(relation)) &&
		pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(relation, InvalidOid, true) != RLS_ENABLED;
}

/* ERROR unless the caller may read all rows of a table, which is one that can have foreign keys. */
static void
reading_required(Oid relation)
{
	char		kind = get_rel_relkind(relation);

	if (kind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation),
				 errhint("It was dropped meanwhile.")));
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", get_rel_name(relation)),
				 errhint("Give a table that has foreign keys, or nothing for all tables.")));
	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", get_rel_name(relation)),
				 errhint("Finding orphans needs SELECT on the table and on what it references.")));
	if (!may_read(relation))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("not all rows of table \"%s\" can be seen", get_rel_name(relation)),
				 errdetail("Row security, or its being another session's temporary table, "
						   "hides some: "
						   "rows would look like orphans that are none."),
				 errhint("Let its owner or a superuser call this.")));
}

/* Put a row for each orphan of a foreign key. */
static void
orphans_put(RpRow *row, const ForeignKey *fk)
{
	Portal		portal;

	SPI_connect();
	portal = SPI_cursor_open_with_args(NULL, anti_join(fk), 0, NULL, NULL, NULL, true, 0);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			rp_row_name(row, fk->name);
			rp_row_oid(row, fk->relation);
			rp_row_oid(row, fk->referenced);
			for (int column = 1; column <= 2; column++)
			{
				bool		isnull;
				Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
												  column, &isnull);

				rp_row_datum(row, value, isnull);
			}
			rp_row_end(row);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
}

/* Return the query that finds the orphans: their keys, and their foreign keys. */
static char *
anti_join(const ForeignKey *fk)
{
	Relation	rel = table_open(fk->relation, AccessShareLock);
	Bitmapset  *identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	AttrNumber	key[INDEX_MAX_KEYS];
	int			nkey = 0;
	StringInfoData sql;

	if (bms_is_empty(identity))
		identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	for (int a = -1; nkey < INDEX_MAX_KEYS && (a = bms_next_member(identity, a)) >= 0;)
		key[nkey++] = a + FirstLowInvalidHeapAttributeNumber;
	table_close(rel, NoLock);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	put_object(&sql, fk->relation, key, nkey);
	appendStringInfoString(&sql, ", ");
	put_object(&sql, fk->relation, fk->columns, fk->n);
	appendStringInfo(&sql, " FROM %s f WHERE (", table_of(fk->relation));
	for (int i = 0; i < fk->n; i++)
		appendStringInfo(&sql, "%s%s IS NOT NULL", i == 0 ? "" : fk->match_full ? " OR " : " AND ",
						 column_of("f", fk->relation, fk->columns[i]));
	appendStringInfo(&sql, ") AND NOT EXISTS (SELECT FROM %s p WHERE ", table_of(fk->referenced));
	put_conditions(&sql, fk);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* Put an expression that makes an object of columns of f, NULL of none. */
static void
put_object(StringInfo sql, Oid relation, const AttrNumber *columns, int n)
{
	if (n == 0)
	{
		appendStringInfoString(sql, "NULL::pg_catalog.jsonb");
		return;
	}
	appendStringInfoString(sql, "pg_catalog.jsonb_build_object(");
	for (int i = 0; i < n; i++)
		appendStringInfo(sql, "%s%s, %s", i == 0 ? "" : ", ",
						 quote_literal_cstr(get_attname(relation, columns[i], false)),
						 column_of("f", relation, columns[i]));
	appendStringInfoChar(sql, ')');
}

/* Put what makes p the row that f references. */
static void
put_conditions(StringInfo sql, const ForeignKey *fk)
{
	for (int i = 0; i < fk->n; i++)
	{
		Oid			type = get_atttype(fk->relation, fk->columns[i]);
		Oid			collation;
		int32		typmod;
		Oid			referenced_type;
		Oid			referenced_collation;

		get_atttypetypmodcoll(fk->relation, fk->columns[i], &type, &typmod, &collation);
		get_atttypetypmodcoll(fk->referenced, fk->referenced_columns[i], &referenced_type, &typmod,
							  &referenced_collation);
		if (i > 0)
			appendStringInfoString(sql, " AND ");
		generate_operator_clause(sql, column_of("p", fk->referenced, fk->referenced_columns[i]),
								 referenced_type, fk->equal[i],
								 column_of("f", fk->relation, fk->columns[i]), type);
		/* keys are equal by the collation of the referenced side */
		if (OidIsValid(referenced_collation) && referenced_collation != collation)
			appendStringInfo(sql, " COLLATE %s", generate_collation_name(referenced_collation));
	}
}

/* Return a table's name for FROM: with its partitions, without other children. */
static const char *
table_of(Oid relation)
{
	return psprintf("%s%s", get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
											   get_rel_name(relation)));
}

/* Return a column's name, quoted, of an alias. */
static const char *
column_of(const char *alias, Oid relation, AttrNumber attno)
{
	return psprintf("%s.%s", alias, quote_identifier(get_attname(relation, attno, false)));
}
