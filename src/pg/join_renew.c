/*
 * join_renew.c
 *	  Bringing a table to the join's snapshot S whose pieces were copied in earlier
 *	  ones: how a join goes on after either side has died.
 *
 * Snapshots die with the donor's server or with the session that holds them. Let
 * X be the least xmin of the snapshots that pieces of a table were copied in: every
 * older xid had ended before any of them was taken. Of what S sees in the table,
 *
 *	  old rows, xmin < X     are seen by all of these snapshots, at the same place of the same
 *	                         file; so each was copied once, with its range
 *	  new rows, xmin >= X    were perhaps copied, perhaps in another version
 *
 * and what was copied besides is gone by now. So, by a key that is unique and never
 * NULL: keep here what has the key of an old row, delete all else, and insert the
 * new rows. The donor sends the keys of old rows, and new rows whole.
 *
 * Nothing is assumed about who wrote a new row, and why: apply's own writes, rows that came back
 * from being displaced and the like need no entry in any change log. A frozen row
 * shows its raw xmin; one that seems to be new because xids have come round is sent
 * again, no more. The other way round can't be, as long as fewer than 2^30 xids lie in
 * between (rp_join_plan_renew sees to it).
 *
 * One transaction per table. With indexes there already, they serve as well.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "join_internal.h"

/* Names of the temporary tables. */
#define NEW_ROWS "replp2p_new_rows"
#define OLD_KEYS "replp2p_old_keys"

/* Run a statement of our own, as the superuser that this process is. */
uint64
rp_join_statement(const char *sql, int expected)
{
	uint64		n = rp_catalog_execute(sql, expected, NULL, 0);

	CommandCounterIncrement();
	return n;
}

/* Make an empty temporary table with columns of a table. */
void
rp_join_temporary_make(const char *temporary, const char *columns, const char *table)
{
	rp_join_statement(psprintf("CREATE TEMPORARY TABLE %s ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA",
							   temporary, columns, table), SPI_OK_UTILITY);
}

/* Return the oid of a temporary table of ours. */
static Oid
temporary_oid(const char *name)
{
	return RangeVarGetRelid(makeRangeVar("pg_temp", pstrdup(name), -1), NoLock, false);
}

/* Fill a temporary table by a query of the donor. */
int64
rp_join_fetch(RpJoin *join, const char *temporary, const char *query, bool binary)
{
	Relation	rel = table_open(temporary_oid(temporary), RowExclusiveLock);
	int64		rows = rp_join_copy_rows(join, query, rel, rp_join_columns(rel), binary);

	table_close(rel, NoLock);
	return rows;
}

/* Return the condition that t and k have the same key; the columns of k are the key. */
char *
rp_join_keys_equal(const char *temporary)
{
	Relation	keys = table_open(temporary_oid(temporary), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(keys);
	StringInfoData condition;

	initStringInfo(&condition);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(att->attname));
		/* a type that is not the server's own may have its operators anywhere */
		const char *as = att->atttypid >= FirstNormalObjectId ? "::pg_catalog.text" : "";

		appendStringInfo(&condition, "%sk.%s%s = t.%s%s", i > 0 ? " AND " : "", name, as, name, as);
	}
	table_close(keys, NoLock);
	return condition.data;
}

/* Bring one table to the snapshot. */
static void
table_renew(RpJoin *join, const RpJoinStale *stale)
{
	Relation	rel = table_open(stale->relation, RowExclusiveLock);
	const char *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));
	const char *columns = rp_join_column_list(rel);
	bool		binary = rp_join_is_portable(rel);
	const char *is_new = psprintf("age(xmin) <= age('%u'::xid)", (uint32) stale->since_xmin);

	rp_join_temporary_make(NEW_ROWS, columns, name);
	rp_join_temporary_make(OLD_KEYS, stale->key, name);
	(void) rp_join_fetch(join, NEW_ROWS,
						 psprintf("(SELECT %s FROM ONLY %s WHERE %s)", columns, name, is_new), binary);
	(void) rp_join_fetch(join, OLD_KEYS,
						 psprintf("(SELECT %s FROM ONLY %s WHERE NOT %s)", stale->key, name, is_new),
						 binary);
	rp_join_statement("ANALYZE pg_temp." OLD_KEYS, SPI_OK_UTILITY);
	rp_join_statement(psprintf("DELETE FROM ONLY %s t WHERE NOT EXISTS (SELECT FROM pg_temp." OLD_KEYS " k WHERE %s)",
							   name, rp_join_keys_equal(OLD_KEYS)), SPI_OK_DELETE);
	rp_join_statement(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp." NEW_ROWS,
							   name, columns, columns), SPI_OK_INSERT);
	rp_join_statement("DROP TABLE pg_temp." NEW_ROWS ", pg_temp." OLD_KEYS, SPI_OK_UTILITY);
	table_close(rel, NoLock);
	rp_join_renewed(join, stale->relation);
}

/* Bring all tables to the snapshot, each in a transaction of its own. */
void
rp_join_renew(RpJoin *join)
{
	for (;;)
	{
		List	   *stale;

		rp_join_write_begin(join);
		stale = rp_join_stale(join);
		if (stale != NIL)
		{
			rp_join_phase(join->node, "renewing", NULL);
			table_renew(join, linitial(stale));
		}
		rp_join_write_commit(join);
		if (stale == NIL)
			return;
	}
}
