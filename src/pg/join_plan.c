/*
 * join_plan.c
 *	  What a join has to copy, and what it has copied: the tables join_*.
 *
 *	  join_tables   what is copied in pieces, here and at the donor
 *	  join_pieces   ranges of a table's blocks; copied_from says in which snapshot
 *	  join_steps    hashes of the schema, and of the statements that made indexes
 *	  join_objects  what the schema has made, to be dropped if all begins anew
 *
 * Everything here changes in the transaction that does what it says, so that
 * whoever dies, plan and tables agree. A piece is taken by locking its row: it is copied
 * by one process at a time, and free again when that dies.
 *
 * A plan is gone on with in a later snapshot if the donor's schema is what it was (one hash
 * over what pg_dump writes, the tables' oids, keys, and which are excluded), and
 * the tables are here. Pieces of a table are kept if its file there is the same one, so
 * that block numbers still name the same rows, and if it has a key by which
 * join_renew.c can tell old rows from new ones. All others are taken back.
 *
 * Locks: whoever writes for the join has join_pieces in ROW EXCLUSIVE mode from the
 * beginning of its transaction (rp_join_write_begin); whoever drops the plan, in
 * ACCESS EXCLUSIVE mode before anything else. So the one never waits for the
 * other while it holds something that the other wants.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "p2p_crypto.h"

#include "catalog.h"
#include "join_internal.h"

/* Blocks of a piece: 16 MB of the table. */
#define PIECE_BLOCKS 2048
/* Beyond so many xids the age of a row says nothing any more. */
#define MAX_XIDS_BETWEEN (UINT64CONST(1) << 30)

/* Lock the donor's tables for the time of its transaction: their rows must stay where they are. */
static void
tables_lock(RpJoin *join, List *tables)
{
	StringInfoData names;
	ListCell   *cell;

	initStringInfo(&names);
	foreach(cell, tables)
	{
		const RpJoinTable *table = lfirst(cell);

		if (!table->excluded)
			appendStringInfo(&names, "%sONLY %s", names.len > 0 ? ", " : "",
							 quote_qualified_identifier(table->schema, table->name));
	}
	if (names.len > 0)
		rp_join_run(join, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", names.data));
}

/* Read where the donor's tables are, and how large. */
static void
files_read(RpJoin *join, List *tables)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT c.oid, pg_relation_filenode(c.oid),"
									 " pg_relation_size(c.oid) / current_setting('block_size')::int,"
									 " pg_table_size(c.oid) FROM pg_class c"
									 " WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384"
									 " ORDER BY c.oid");
	ListCell   *cell;

	foreach(cell, tables)
	{
		RpJoinTable *table = lfirst(cell);
		int			low = 0,
					high = rows->nrows;

		while (low < high)
		{
			int			middle = (low + high) / 2;

			if ((Oid) strtoul(rp_join_value(rows, middle, 0), NULL, 10) < table->donor_oid)
				low = middle + 1;
			else
				high = middle;
		}
		if (low == rows->nrows || rp_join_value(rows, low, 1) == NULL ||
			(Oid) strtoul(rp_join_value(rows, low, 0), NULL, 10) != table->donor_oid)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table \"%s.%s\" has just been dropped at the sponsor",
							table->schema, table->name),
					 errhint("Joining is tried again by itself.")));
		table->donor_file = (Oid) strtoul(rp_join_value(rows, low, 1), NULL, 10);
		table->blocks = strtoll(rp_join_value(rows, low, 2), NULL, 10);
		table->bytes = strtoll(rp_join_value(rows, low, 3), NULL, 10);
	}
}

/*
 * Read which tables to copy in pieces: permanent ones that no extension brings.
 * (join_copy.c copies the rest.) A key is the replica identity's, else the primary one.
 */
List *
rp_join_tables(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT c.oid, n.nspname, c.relname, k.columns,"
									 " EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid)"
									 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
									 " LEFT JOIN LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) AS columns"
									 "  FROM (SELECT i.indrelid, i.indkey FROM pg_index i WHERE i.indrelid = c.oid"
									 "    AND (i.indisprimary OR i.indisreplident) AND i.indisvalid"
									 "    ORDER BY i.indisreplident DESC LIMIT 1) x"
									 "  CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY u (attnum, place)"
									 "  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.attnum) k ON true"
									 " WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384"
									 " AND n.nspname <> 'replp2p'"
									 " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
									 "  AND d.objid = c.oid AND d.deptype = 'e')"
									 " ORDER BY n.nspname, c.relname");
	List	   *tables = NIL;

	for (int i = 0; i < rows->nrows; i++)
	{
		RpJoinTable *table = palloc0(sizeof(RpJoinTable));

		table->donor_oid = (Oid) strtoul(rp_join_value(rows, i, 0), NULL, 10);
		table->schema = rp_join_value(rows, i, 1);
		table->name = rp_join_value(rows, i, 2);
		table->key = rp_join_value(rows, i, 3);
		table->excluded = strcmp(rp_join_value(rows, i, 4), "t") == 0;
		tables = lappend(tables, table);
	}
	tables_lock(join, tables);
	files_read(join, tables);
	return tables;
}

/* Is there a plan? */
bool
rp_join_plan_is_there(void)
{
	return rp_catalog_execute("SELECT FROM replp2p.join_steps", SPI_OK_SELECT, NULL, 0) > 0;
}

/* Is there a plan for this schema, and are its tables still here? */
bool
rp_join_plan_fits(const uint8 hash[P2P_HASH_SIZE])
{
	RpArg		args[] = {rp_arg_bytes(hash, P2P_HASH_SIZE)};

	return rp_catalog_execute("SELECT FROM replp2p.join_steps WHERE step = $1 AND NOT EXISTS"
							  " (SELECT FROM replp2p.join_tables t WHERE NOT EXISTS"
							  "  (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relation))",
							  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/* Return the table here that has been made for one of the donor. */
static Oid
table_here(const RpJoinTable *table)
{
	Oid			relation = rp_table_of(table->schema, table->name);

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" of the sponsor is not in its schema",
						table->schema, table->name),
				 errhint("The role in the sponsor's dsn must be able to read all tables. The join is tried again by itself.")));
	return relation;
}

/*
 * Plan a table: its pieces, the last of them open, since the table may grow. Between catalog open
 * and close.
 */
static void
table_plan(const RpJoinTable *table, Oid relation)
{
	RpArg		names[] = {
		rp_arg_oid(relation), rp_arg_oid(table->donor_oid),
		rp_arg_oid(table->donor_file), rp_arg_text(table->key),
		rp_arg_bytes(table->other ? &table->other->donor_id : NULL, P2P_ID_SIZE),
		rp_arg_text(table->other ? table->other->vector_text : NULL)
	};
	int64		npieces = Max((table->blocks + PIECE_BLOCKS - 1) / PIECE_BLOCKS, 1);
	RpArg		sizes[] = {
		rp_arg_oid(relation), rp_arg_int8(npieces), rp_arg_int8(PIECE_BLOCKS),
		rp_arg_int8(table->bytes)
	};

	rp_catalog_run("INSERT INTO replp2p.join_tables VALUES ($1, $2, $3, $4, $5, $6::bytea)",
				   SPI_OK_INSERT, names, lengthof(names));
	rp_catalog_run("INSERT INTO replp2p.join_pieces (relation, first_block, end_block, bytes)"
				   " SELECT $1, (i - 1) * $3, CASE WHEN i < $2 THEN i * $3 ELSE -1 END, $4 / $2"
				   " FROM pg_catalog.generate_series(1, $2) i",
				   SPI_OK_INSERT, sizes, lengthof(sizes));
}

/* Don't replicate from here what the donor does not replicate. Between catalog open and close. */
static void
table_exclude(Oid relation)
{
	RpArg		args[] = {rp_arg_oid(relation)};

	rp_catalog_run("INSERT INTO replp2p.excluded_tables VALUES ($1)",
				   SPI_OK_INSERT, args, lengthof(args));
}

/* Note what this transaction has made in the database's catalogs. Between catalog open and close. */
static void
objects_note(void)
{
	rp_catalog_run("INSERT INTO replp2p.join_objects"
				   " SELECT classid, objid FROM pg_catalog.pg_depend"
				   "  WHERE xmin = pg_catalog.pg_current_xact_id()::xid AND objid >= 16384"
				   " UNION SELECT 'pg_catalog.pg_namespace'::regclass, oid FROM pg_catalog.pg_namespace"
				   "  WHERE xmin = pg_catalog.pg_current_xact_id()::xid AND oid >= 16384",
				   SPI_OK_INSERT, NULL, 0);
}

/* Compare tables by size, larger ones first: they are begun with. */
static int
compare_sizes(const ListCell *a, const ListCell *b)
{
	int64		first = ((RpJoinTable *) lfirst(a))->bytes;
	int64		second = ((RpJoinTable *) lfirst(b))->bytes;

	return first > second ? -1 : first < second ? 1 : 0;
}

/* Make the plan; the schema has just been made by this transaction. */
void
rp_join_plan_make(RpJoin *join, const uint8 hash[P2P_HASH_SIZE], List *tables)
{
	RpArg		args[] = {rp_arg_bytes(hash, P2P_HASH_SIZE)};
	RpCatalog	catalog;
	ListCell   *cell;

	(void) join;
	list_sort(tables, compare_sizes);
	rp_catalog_open(&catalog);
	objects_note();
	foreach(cell, tables)
	{
		const RpJoinTable *table = lfirst(cell);

		if (table->excluded)
			table_exclude(table_here(table));
		else
			table_plan(table, table_here(table));
	}
	rp_catalog_run("INSERT INTO replp2p.join_steps VALUES ($1)", SPI_OK_INSERT, args, lengthof(args));
	rp_catalog_close(&catalog);
}

/*
 * Is a table's file at the donor the one that its pieces were copied of? If they are of another
 * donor, that is not asked here (rp_join_donors_resume). Between catalog open and close.
 */
static bool
file_is_same(const RpJoinTable *table, Oid relation)
{
	RpArg		args[] = {
		rp_arg_oid(relation), rp_arg_oid(table->donor_oid), rp_arg_oid(table->donor_file)
	};

	return rp_catalog_run("SELECT FROM replp2p.join_tables WHERE relation = $1"
						  " AND (donor_id IS NOT NULL OR (donor_relation = $2 AND donor_file = $3))",
						  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/* Copy a table anew. Between catalog open and close. */
static void
table_take_back(Oid relation)
{
	RpArg		args[] = {rp_arg_oid(relation)};

	rp_catalog_run(psprintf("TRUNCATE ONLY %s",
							DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relation)))),
				   SPI_OK_UTILITY, NULL, 0);
	rp_catalog_run("UPDATE replp2p.join_pieces SET copied_from = NULL, copied_xmin = NULL, rows = NULL"
				   " WHERE relation = $1", SPI_OK_UPDATE, args, lengthof(args));
}

/* Take back what can't be gone on with. */
void
rp_join_plan_renew(RpJoin *join, List *tables)
{
	uint64		oldest = join->seen_xmin > MAX_XIDS_BETWEEN ? join->seen_xmin - MAX_XIDS_BETWEEN : 0;
	RpArg		args[] = {rp_arg_text(join->seen), rp_arg_int8((int64) oldest)};
	RpCatalog	catalog;
	ListCell   *cell;
	Oid		   *relations;
	uint64		n;

	rp_catalog_open(&catalog);
	foreach(cell, tables)
	{
		const RpJoinTable *table = lfirst(cell);

		if (!table->excluded && !file_is_same(table, table_here(table)))
		{
			RpArg		file[] = {rp_arg_oid(table_here(table)), rp_arg_oid(table->donor_file)};

			rp_catalog_run("UPDATE replp2p.join_tables SET donor_file = $2 WHERE relation = $1",
						   SPI_OK_UPDATE, file, lengthof(file));
			table_take_back(table_here(table));
		}
	}
	n = rp_catalog_run("SELECT DISTINCT relation FROM replp2p.join_pieces JOIN replp2p.join_tables USING (relation)"
					   " WHERE copied_from <> $1 AND donor_id IS NULL"
					   " AND (key_columns IS NULL OR copied_xmin < $2)",
					   SPI_OK_SELECT, args, lengthof(args));
	relations = palloc(sizeof(Oid) * n + 1);
	for (uint64 i = 0; i < n; i++)
		relations[i] = DatumGetObjectId(rp_column(i, 1));
	for (uint64 i = 0; i < n; i++)
		table_take_back(relations[i]);
	rp_catalog_close(&catalog);
}

/* Drop the objects that are noted and still there. Between catalog open and close. */
static void
objects_drop(void)
{
	ObjectAddresses *objects = new_object_addresses();
	uint64		n = rp_catalog_run("SELECT class, object FROM replp2p.join_objects"
								   " WHERE (pg_catalog.pg_identify_object(class, object, 0)).identity IS NOT NULL",
								   SPI_OK_SELECT, NULL, 0);

	for (uint64 i = 0; i < n; i++)
	{
		ObjectAddress object;

		ObjectAddressSet(object, DatumGetObjectId(rp_column(i, 1)), DatumGetObjectId(rp_column(i, 2)));
		add_exact_object_address(&object, objects);
	}
	performMultipleDeletions(objects, DROP_CASCADE, PERFORM_DELETION_INTERNAL);
	free_object_addresses(objects);
	CommandCounterIncrement();
}

/* Delete the plan's rows. Between catalog open and close. */
static void
rows_delete(void)
{
	static const char *const tables[] = {
		"join_objects", "join_steps", "join_pieces", "join_tables"
	};

	for (size_t i = 0; i < lengthof(tables); i++)
		rp_catalog_run(psprintf("DELETE FROM replp2p.%s", tables[i]), SPI_OK_DELETE, NULL, 0);
}

/* Forget the plan. */
void
rp_join_plan_forget(void)
{
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	rows_delete();
	rp_catalog_close(&catalog);
}

/* Drop what a join has made, and its plan; false: there is none. */
bool
rp_join_plan_drop(void)
{
	RpCatalog	catalog;
	bool		there;

	rp_catalog_open(&catalog);
	LockRelationOid(rp_catalog_table("join_pieces"), AccessExclusiveLock);
	there = rp_catalog_run("SELECT FROM replp2p.join_steps", SPI_OK_SELECT, NULL, 0) > 0;
	objects_drop();
	rp_catalog_run("DELETE FROM replp2p.excluded_tables e WHERE NOT EXISTS"
				   " (SELECT FROM pg_catalog.pg_class c WHERE c.oid = e.relation)",
				   SPI_OK_DELETE, NULL, 0);
	rows_delete();
	rp_catalog_close(&catalog);
	return there;
}

/* The argument that stands for a statement. */
static RpArg
step_arg(const char *statement)
{
	uint8		hash[P2P_HASH_SIZE];

	p2p_hash(statement, strlen(statement), NULL, 0, hash);
	return rp_arg_bytes(hash, P2P_HASH_SIZE);
}

/* Has a statement been executed before? */
bool
rp_join_step_is_done(const char *statement)
{
	RpArg		args[] = {step_arg(statement)};

	return rp_catalog_execute("SELECT FROM replp2p.join_steps WHERE step = $1",
							  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/* A statement is executed by this transaction. */
void
rp_join_step_done(const char *statement)
{
	RpArg		args[] = {step_arg(statement)};

	rp_catalog_execute("INSERT INTO replp2p.join_steps VALUES ($1)", SPI_OK_INSERT, args, lengthof(args));
}

/* Are all indexes that were made still wanted? One step is the schema itself. */
bool
rp_join_steps_fit(const List *statements)
{
	uint64		done = 0;
	ListCell   *cell;

	foreach(cell, statements)
	{
		const RpJoinStatement *statement = lfirst(cell);

		if (OidIsValid(statement->index_on) && rp_join_step_is_done(statement->text))
			done++;
	}
	return rp_catalog_execute("SELECT FROM replp2p.join_steps", SPI_OK_SELECT, NULL, 0) == done + 1;
}

/* Take a piece. */
bool
rp_join_piece_take(RpJoin *join, RpJoinPiece *piece)
{
	RpArg		args[] = {rp_arg_bytes(join->donor_name ? &join->donor_id : NULL, P2P_ID_SIZE)};
	RpCatalog	catalog;
	bool		taken;

	rp_catalog_open(&catalog);
	taken = rp_catalog_run("SELECT piece, relation, first_block, end_block, bytes FROM replp2p.join_pieces p"
						   " JOIN replp2p.join_tables USING (relation)"
						   " WHERE copied_from IS NULL AND donor_id IS NOT DISTINCT FROM $1"
						   " ORDER BY piece LIMIT 1 FOR UPDATE OF p SKIP LOCKED",
						   SPI_OK_SELECT, args, lengthof(args)) > 0;
	if (taken)
	{
		piece->number = DatumGetInt32(rp_column(0, 1));
		piece->relation = DatumGetObjectId(rp_column(0, 2));
		piece->first_block = DatumGetInt64(rp_column(0, 3));
		piece->end_block = DatumGetInt64(rp_column(0, 4));
		piece->bytes = DatumGetInt64(rp_column(0, 5));
	}
	rp_catalog_close(&catalog);
	return taken;
}

/* Note that a piece is copied. */
void
rp_join_piece_done(RpJoin *join, const RpJoinPiece *piece, int64 rows)
{
	RpArg		args[] = {
		rp_arg_int4(piece->number), rp_arg_text(join->seen),
		rp_arg_int8((int64) join->seen_xmin), rp_arg_int8(rows)
	};

	rp_catalog_execute("UPDATE replp2p.join_pieces SET copied_from = $2, copied_xmin = $3, rows = $4"
					   " WHERE piece = $1", SPI_OK_UPDATE, args, lengthof(args));
}

/* Count the pieces that are left. */
int64
rp_join_pieces_left(void)
{
	return (int64) rp_catalog_execute("SELECT FROM replp2p.join_pieces WHERE copied_from IS NULL",
									  SPI_OK_SELECT, NULL, 0);
}

/* Show the plan in stat_join. */
void
rp_join_progress_load(RpNode *node)
{
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	(void) rp_catalog_run("SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE complete),"
						  " coalesce(pg_catalog.sum(bytes), 0)::bigint, coalesce(pg_catalog.sum(copied), 0)::bigint,"
						  " coalesce(pg_catalog.sum(rows), 0)::bigint"
						  " FROM (SELECT pg_catalog.bool_and(copied_from IS NOT NULL) AS complete,"
						  "  pg_catalog.sum(bytes) AS bytes,"
						  "  pg_catalog.sum(bytes) FILTER (WHERE copied_from IS NOT NULL) AS copied,"
						  "  pg_catalog.sum(rows) AS rows FROM replp2p.join_pieces GROUP BY relation) t",
						  SPI_OK_SELECT, NULL, 0);
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.tables_total = DatumGetInt64(rp_column(0, 1));
	node->join.tables_processed = DatumGetInt64(rp_column(0, 2));
	node->join.bytes_total = DatumGetInt64(rp_column(0, 3));
	node->join.bytes_processed = DatumGetInt64(rp_column(0, 4));
	node->join.rows_processed = DatumGetInt64(rp_column(0, 5));
	LWLockRelease(&node->lock);
	rp_catalog_close(&catalog);
}

/* Find tables with pieces of other snapshots. */
List *
rp_join_stale(RpJoin *join)
{
	MemoryContext context = CurrentMemoryContext;
	RpArg		args[] = {rp_arg_text(join->seen)};
	RpCatalog	catalog;
	List	   *found = NIL;
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT relation, pg_catalog.min(copied_xmin), pg_catalog.min(key_columns)"
					   " FROM replp2p.join_pieces JOIN replp2p.join_tables USING (relation)"
					   " WHERE copied_from <> $1 GROUP BY relation",
					   SPI_OK_SELECT, args, lengthof(args));
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		RpJoinStale *stale = palloc(sizeof(RpJoinStale));

		stale->relation = DatumGetObjectId(rp_column(i, 1));
		stale->since_xmin = (uint64) DatumGetInt64(rp_column(i, 2));
		stale->key = TextDatumGetCString(rp_column(i, 3));
		found = lappend(found, stale);
		MemoryContextSwitchTo(old);
	}
	rp_catalog_close(&catalog);
	return found;
}

/* Note that a table is as this snapshot sees it. */
void
rp_join_renewed(RpJoin *join, Oid relation)
{
	RpArg		args[] = {
		rp_arg_oid(relation), rp_arg_text(join->seen), rp_arg_int8((int64) join->seen_xmin)
	};

	rp_catalog_execute("UPDATE replp2p.join_pieces SET copied_from = $2, copied_xmin = $3 WHERE relation = $1",
					   SPI_OK_UPDATE, args, lengthof(args));
}

/* Find tables of other donors. */
List *
rp_join_foreign(void)
{
	MemoryContext context = CurrentMemoryContext;
	RpCatalog	catalog;
	List	   *found = NIL;
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT relation, key_columns, donor_vector::text, donor_id,"
					   " donor_relation, donor_file, pg_catalog.bool_and(copied_from IS NOT NULL)"
					   " FROM replp2p.join_pieces JOIN replp2p.join_tables USING (relation)"
					   " WHERE donor_id IS NOT NULL GROUP BY relation, key_columns, donor_vector, donor_id,"
					   " donor_relation, donor_file",
					   SPI_OK_SELECT, NULL, 0);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		RpJoinForeign *foreign = palloc(sizeof(RpJoinForeign));

		foreign->relation = DatumGetObjectId(rp_column(i, 1));
		foreign->key = TextDatumGetCString(rp_column(i, 2));
		foreign->vector = TextDatumGetCString(rp_column(i, 3));
		rp_column_bytes(i, 4, &foreign->donor, P2P_ID_SIZE);
		foreign->donor_oid = DatumGetObjectId(rp_column(i, 5));
		foreign->donor_file = DatumGetObjectId(rp_column(i, 6));
		foreign->complete = DatumGetBool(rp_column(i, 7));
		found = lappend(found, foreign);
		MemoryContextSwitchTo(old);
	}
	rp_catalog_close(&catalog);
	return found;
}

/* Read where a table is at the sponsor now. */
static void
sponsor_table_read(RpJoin *join, Oid relation, Oid *oid, Oid *file)
{
	const char *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
												  get_rel_name(relation));
	RpJoinRows *rows = rp_join_query(join, psprintf("SELECT r, pg_relation_filenode(r) FROM"
													" (SELECT to_regclass(%s)::oid AS r) x",
													quote_literal_cstr(name)));

	if (rows->nrows != 1 || rp_join_value(rows, 0, 0) == NULL || rp_join_value(rows, 0, 1) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s is not at the sponsor any more", name),
				 errhint("Joining is tried again by itself.")));
	*oid = (Oid) strtoul(rp_join_value(rows, 0, 0), NULL, 10);
	*file = (Oid) strtoul(rp_join_value(rows, 0, 1), NULL, 10);
}

/* Make a table one that is copied from the sponsor. */
void
rp_join_table_to_sponsor(RpJoin *join, Oid relation, bool taken)
{
	RpCatalog	catalog;
	Oid			oid,
				file;

	sponsor_table_read(join, relation, &oid, &file);
	rp_catalog_open(&catalog);
	{
		RpArg		args[] = {rp_arg_oid(relation), rp_arg_oid(oid), rp_arg_oid(file)};

		rp_catalog_run("UPDATE replp2p.join_tables SET donor_id = NULL, donor_vector = NULL,"
					   " donor_relation = $2, donor_file = $3 WHERE relation = $1",
					   SPI_OK_UPDATE, args, lengthof(args));
	}
	if (!taken)
		table_take_back(relation);
	rp_catalog_close(&catalog);
	if (taken)
		rp_join_renewed(join, relation);
}
