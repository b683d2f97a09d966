/*
 * join_patch.c
 *	  Bringing a table that was copied from another donor B to what the sponsor A
 *	  has in its snapshot.
 *
 * B's snapshot has the vector V_B, A's has V_A, and V_B <= V_A (join_donors.c). For each key that a
 * transaction in V_A but not in V_B touches (changed_keys.c: keys of stored, deleted and moved
 * rows, read from A's change logs), drop here what was copied, and take A's row instead, if it has
 * one. After that the table is A's, row by row. Let k be a key:
 *
 *	  touched		 it is A's row now, or none as at A
 *	  not touched	 both snapshots have seen the same transactions that touch k. What a table
 *					 holds of k is a function of the set of those, the same on every node: the
 *					 greatest version, or nothing. That is convergence itself, for tables in which
 *					 no other key matters: no further unique index, no handlers (join_donors.c
 *					 leaves all others out)
 *
 * "Exactly V_B": B's export_snapshot answers for it as A's does (snapshot.c); a commit of B's own
 * that its snapshot sees is in V_B, or the snapshot has no vector, and is not used. The logs reach
 * back to V_B: whoever trims one has waited for B's ack first, which B's snapshot covers; and from
 * the admission on, which both snapshots see, nothing is trimmed before this node acks.
 *
 * B's pieces may be of several snapshots (somebody has died in between), the first with V_B. A row
 * that such pieces have twice, not at all or in an older version was moved or changed in between,
 * by a transaction that a later snapshot of B sees and the first does not. It is in V_A, since that
 * covers all of them; so its key is touched. (The file must be the same one: else the table is
 * copied anew.)
 *
 * A TRUNCATE in between, or anything else that can't be told by keys: the table is copied from A.
 *
 * Patch, and the note that the table is of A's snapshot now, are one transaction. From then on it
 * is as if A had sent it: join_renew.c brings it to later snapshots of A.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "crashpoint.h"
#include "join_internal.h"

/* Names of the temporary tables. */
#define CHANGED_ROWS "replp2p_changed_rows"
#define CHANGED_KEYS "replp2p_changed_keys"

/* Is there no telling which keys have changed? No column of a key is ever NULL. */
static bool
is_unclear(void)
{
	return rp_join_statement("SELECT FROM pg_temp." CHANGED_KEYS " k WHERE NOT (k IS NOT NULL)", SPI_OK_SELECT) > 0;
}

/*
 * Replace the rows that have changed by the sponsor's; false: there is no telling which. In a
 * write.
 */
static bool
rows_replace(RpJoin *join, const RpJoinForeign *foreign, Relation rel)
{
	const char *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));
	const char *columns = rp_join_column_list(rel);
	const char *keys = psprintf("SELECT %s FROM replp2p.get_changed_keys(NULL::%s, '%s'::bytea, '%s'::bytea)",
								foreign->key, name, foreign->vector, join->vector_text);
	bool		binary = rp_join_is_portable(rel);
	int64		nkeys;

	rp_join_temporary_make(CHANGED_KEYS, foreign->key, name);
	nkeys = rp_join_fetch(join, CHANGED_KEYS, psprintf("(%s)", keys), binary);
	if (nkeys > 0 && is_unclear())
		return false;
	if (nkeys > 0)
	{
		rp_join_temporary_make(CHANGED_ROWS, columns, name);
		(void) rp_join_fetch(join, CHANGED_ROWS,
							 psprintf("(SELECT %s FROM ONLY %s WHERE (%s) IN (%s))", columns, name,
									  foreign->key, keys), binary);
		rp_join_statement("ANALYZE pg_temp." CHANGED_KEYS, SPI_OK_UTILITY);
		rp_join_statement(psprintf("DELETE FROM ONLY %s t USING pg_temp." CHANGED_KEYS " k WHERE %s",
								   name, rp_join_keys_equal(CHANGED_KEYS)), SPI_OK_DELETE);
		rp_join_statement(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp." CHANGED_ROWS,
								   name, columns, columns), SPI_OK_INSERT);
		rp_join_statement("DROP TABLE pg_temp." CHANGED_ROWS, SPI_OK_UTILITY);
	}
	elog(DEBUG1, "replp2p: " INT64_FORMAT " keys of %s have changed since it was copied", nkeys, name);
	return true;
}

/* Have one table be as the sponsor has it; false: it is to be copied from there. In a write. */
static bool
table_patch(RpJoin *join, const RpJoinForeign *foreign)
{
	Relation	rel = table_open(foreign->relation, RowExclusiveLock);
	bool		patched = rows_replace(join, foreign, rel);

	rp_join_statement("DROP TABLE pg_temp." CHANGED_KEYS, SPI_OK_UTILITY);
	table_close(rel, NoLock);
	if (!patched)
		ereport(LOG,
				(errmsg("table \"%s\" is copied from the sponsor after all",
						get_rel_name(foreign->relation))));
	rp_join_table_to_sponsor(join, foreign->relation, patched);
	return patched;
}

/* Have all tables be as the sponsor has them, each in a transaction of its own. */
bool
rp_join_patch(RpJoin *join)
{
	bool		all = true;

	for (;;)
	{
		List	   *foreign;

		rp_join_write_begin(join);
		foreign = rp_join_foreign();
		if (foreign != NIL)
		{
			rp_join_phase(join->node, "patching", NULL);
			all &= table_patch(join, linitial(foreign));
			RP_CRASH_POINT("join_before_patch");
		}
		rp_join_write_commit(join);
		if (foreign == NIL)
			return all;
		RP_CRASH_POINT("join_after_patch");
	}
}
