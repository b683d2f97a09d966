/*
 * displaced.c
 *	  The tables replp2p.displaced_rows and replp2p.displacing_rows, and what
 *	  apply keeps of them in memory.
 *
 * A displaced row is live data: the winner of its primary key, kept out of its
 * table by a greater row that claims the same value of another unique key. For every
 * change of its key it counts as existing, with its exact version.
 *
 * Who displaces whom is a comparison of versions, and may have to be made again after
 * years, when everybody has forgotten the versions as stable. So
 *
 *	  displaced_rows	 has the version of each displaced row
 *	  displacing_rows	 has the version of each row in the table that is greater than
 *						 a displaced one that it conflicts with: it is "pinned"
 *
 * A row in the table with neither a version in the index nor a pin is
 * less than every displaced row that it conflicts with. That is kept true
 * as follows. When a row is displaced, those that displace it are pinned in
 * the same transaction. A row that is written later into such a conflict, by apply or by a
 * local client, has an exact version for as long as displaced_follow.c has
 * not looked at the table after it, because until then nothing is dropped as stable
 * (rp_droppable_seq, shmem.h); and that look pins it.
 *
 * In memory are two filters, so that tables without displaced rows pay nothing, and
 * others a look-up only for keys that are displaced:
 *
 *	  tables	which may have displaced rows, and which are to be judged again
 *	  keys		hashes of keys that may be displaced
 *
 * A transaction adds to them at once; if it fails, they hold too much, which does no harm.
 *
 * The tables are this node's own: what is written to them is not replicated. A join copies
 * them; the hashes, in which the table's oid is, are made anew when apply starts.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "catalog.h"
#include "decode.h"
#include "displaced.h"
#include "hashtable.h"
#include "ownlog.h"
#include "rowbody.h"

typedef struct TableEntry
{
	Oid			relid;
	bool		dirty;			/* changed since its displaced rows were judged */
} TableEntry;

typedef struct KeyEntry
{
	RpKeyHash	hash;
	Oid			relid;
} KeyEntry;

static RpNode *our_node;
static HTAB *tables = NULL;
static HTAB *keys = NULL;

static void filter_add(Oid relid, RpKeyHash hash);
static void table_rehash_or_warn(Oid relid);
static void table_rehash(Oid relid);
static RpArg arg_table(Oid relid);
static RpArg arg_json(Datum json);
static Datum row_json(RpOpenRelation *open, TupleTableSlot *row);
static Datum key_names(RpOpenRelation *open);
static P2pVersion version_write(const RpSlotVersion *version);
static RpSlotVersion version_read(uint64 row, int column);

void
rp_displaced_load(RpNode *node)
{
	RpCatalog	catalog;
	ListCell   *cell;
	uint64		n;

	our_node = node;
	tables = rp_hash_make("replp2p displaced tables", TopMemoryContext, 64, sizeof(Oid),
						  sizeof(TableEntry));
	keys = rp_hash_make("replp2p displaced keys", TopMemoryContext, 64, sizeof(RpKeyHash),
						sizeof(KeyEntry));
	(void) rp_displaced_remove_orphans();
	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT relation, key_hash FROM replp2p.displaced_rows", SPI_OK_SELECT,
					   NULL, 0);
	for (uint64 i = 0; i < n; i++)
	{
		RpKeyHash	hash;

		rp_column_bytes(i, 2, &hash, sizeof(hash));
		filter_add(DatumGetObjectId(rp_column(i, 1)), hash);
	}
	rp_catalog_close(&catalog);
	foreach(cell, rp_displaced_tables())
		table_rehash_or_warn(lfirst_oid(cell));
}

bool
rp_displaced_remove_orphans(void)
{
	static const char *const names[] = {"displaced_rows", "displacing_rows"};
	RpCatalog	catalog;
	uint64		n = 0;

	rp_catalog_open(&catalog);
	for (size_t i = 0; i < lengthof(names); i++)
		n += rp_catalog_run(psprintf("DELETE FROM replp2p.%s d WHERE NOT EXISTS"
									 " (SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.relation)",
									 names[i]), SPI_OK_DELETE, NULL, 0);
	rp_catalog_close(&catalog);
	return n > 0;
}

/* A row of that key may be displaced from now on. */
static void
filter_add(Oid relid, RpKeyHash hash)
{
	bool		found;
	TableEntry *table = hash_search(tables, &relid, HASH_ENTER, &found);
	KeyEntry   *key;

	table->dirty = true;
	key = hash_search(keys, &hash, HASH_ENTER, &found);
	key->relid = relid;
}

bool
rp_displaced_in(Oid relid)
{
	return hash_get_num_entries(tables) > 0 && hash_search(tables, &relid, HASH_FIND, NULL) != NULL;
}

bool
rp_displaced_key(RpKeyHash hash)
{
	return hash_search(keys, &hash, HASH_FIND, NULL) != NULL;
}

bool
rp_displaced_is_empty(void)
{
	return hash_get_num_entries(tables) == 0;
}

bool
rp_displaced_any_dirty(void)
{
	HASH_SEQ_STATUS scan;
	TableEntry *table;
	bool		dirty = false;

	hash_seq_init(&scan, tables);
	while ((table = hash_seq_search(&scan)) != NULL)
		dirty |= table->dirty;
	return dirty;
}

void
rp_displaced_touch(Oid relid)
{
	if (hash_get_num_entries(tables) > 0)
		rp_displaced_set_dirty(relid, true);
}

bool
rp_displaced_is_dirty(Oid relid)
{
	TableEntry *table = hash_search(tables, &relid, HASH_FIND, NULL);

	return table != NULL && table->dirty;
}

void
rp_displaced_set_dirty(Oid relid, bool dirty)
{
	TableEntry *table = hash_search(tables, &relid, HASH_FIND, NULL);

	if (table)
		table->dirty = dirty;
}

List *
rp_displaced_tables(void)
{
	HASH_SEQ_STATUS scan;
	TableEntry *table;
	List	   *relids = NIL;

	hash_seq_init(&scan, tables);
	while ((table = hash_seq_search(&scan)) != NULL)
		relids = lappend_oid(relids, table->relid);
	return relids;
}

void
rp_displaced_table_done(Oid relid)
{
	HASH_SEQ_STATUS scan;
	KeyEntry   *key;

	(void) hash_search(tables, &relid, HASH_REMOVE, NULL);
	hash_seq_init(&scan, keys);
	while ((key = hash_seq_search(&scan)) != NULL)
	{
		if (key->relid == relid)
			(void) hash_search(keys, &key->hash, HASH_REMOVE, NULL);
	}
}

/* Arguments of statements. */
static RpArg
arg_table(Oid relid)
{
	return (RpArg) {REGCLASSOID, ObjectIdGetDatum(relid), false};
}

static RpArg
arg_json(Datum json)
{
	return (RpArg) {JSONBOID, json, false};
}

#define ARG_HASH(hash) rp_arg_bytes(&(hash), sizeof(RpKeyHash))
#define ARGS_VERSION(v) \
	rp_arg_bytes(&(v).dot.origin.id, P2P_ID_SIZE), rp_arg_int4((int32) (v).dot.origin.epoch), \
	rp_arg_int8((int64) (v).dot.seq), rp_arg_int8((v).stamp)

/* A version as the tables have it: with the origin, all zero if it is older than everything. */
static P2pVersion
version_write(const RpSlotVersion *version)
{
	return rp_version_of(our_node, version);
}

/* Read a version from four columns: node_id, epoch, seq, stamp. */
static RpSlotVersion
version_read(uint64 row, int column)
{
	RpSlotVersion version = {0};
	P2pOrigin	origin;
	int			slot;

	rp_column_bytes(row, column, &origin.id, P2P_ID_SIZE);
	origin.epoch = (uint32) DatumGetInt32(rp_column(row, column + 1));
	version.seq = (uint64) DatumGetInt64(rp_column(row, column + 2));
	if (version.seq == 0)
		return version;
	version.stamp = DatumGetInt64(rp_column(row, column + 3));
	slot = rp_member_by_origin(our_node, &origin);
	if (slot < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a displaced row has the version of an unknown node"),
				 errhint("Only the extension may write its tables.")));
	version.slot = (uint16) slot;
	return version;
}

/* The row as jsonb, for people. Runs casts of the owner's types, as the owner. */
static Datum
row_json(RpOpenRelation *open, TupleTableSlot *row)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	Oid			type = open->rel->rd_rel->reltype;
	FmgrInfo	to_jsonb;
	HeapTuple	tuple;

	slot_getallattrs(row);
	tuple = heap_form_tuple(desc, row->tts_values, row->tts_isnull);
	fmgr_info(F_TO_JSONB, &to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(type, -1, InvalidOid)),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &to_jsonb);
	return FunctionCall1(&to_jsonb, heap_copy_tuple_as_datum(tuple, desc));
}

/* The names of the key's columns. */
static Datum
key_names(RpOpenRelation *open)
{
	RpRelationMap *map = open->map;
	Datum		names[INDEX_MAX_KEYS];

	for (int k = 0; k < map->nkeys; k++)
		names[k] = CStringGetTextDatum(NameStr(TupleDescAttr(RelationGetDescr(open->rel),
															 map->key_attnos[k])->attname));
	return PointerGetDatum(construct_array(names, map->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
}

#define KEY_OF(json, names) \
	"(SELECT pg_catalog.jsonb_object_agg(k.key, k.value)" \
	" FROM pg_catalog.jsonb_each(" json ") AS k WHERE k.key = ANY (" names "))"

void
rp_displaced_put(RpApplyTransaction *txn, RpOpenRelation *open,
				 TupleTableSlot *row, const RpSlotVersion *version,
				 TupleTableSlot *by, const RpSlotVersion *by_version)
{
	RpKeyHash	hash = rp_key_hash(open->map, row);
	P2pVersion	v = version_write(version);
	P2pVersion	b = version_write(by_version);
	bytea	   *image = rp_rowbody_encode(open, row, false);
	RpArg		args[] = {
		arg_table(open->map->relid), ARG_HASH(hash),
		arg_json(row_json(open, row)),
		{BYTEAOID, PointerGetDatum(image), false},
		ARGS_VERSION(v),
		arg_json(row_json(open, by)), ARGS_VERSION(b),
		{TEXTARRAYOID, key_names(open), false},
		rp_arg_int8((int64) rp_own_log_seq()),
	};
	static RpStatement insert = {
		"INSERT INTO replp2p.displaced_rows AS d (relation, key_hash, key, row_data, image,"
		" node_id, epoch, seq, stamp, by_key, by_node_id, by_epoch, by_seq, by_stamp, known_seq)"
		" VALUES ($1, $2, " KEY_OF("$3", "$14") ", $3, $4, $5, $6, $7, $8, "
		KEY_OF("$9", "$14") ", $10, $11, $12, $13, $15)"
		" ON CONFLICT (relation, key_hash) DO UPDATE SET displaced_at = excluded.displaced_at,"
		" key = excluded.key, row_data = excluded.row_data, image = excluded.image,"
		" node_id = excluded.node_id, epoch = excluded.epoch,"
		" seq = excluded.seq, stamp = excluded.stamp,"
		" by_key = excluded.by_key, by_node_id = excluded.by_node_id,"
		" by_epoch = excluded.by_epoch, by_seq = excluded.by_seq,"
		" by_stamp = excluded.by_stamp, known_seq = excluded.known_seq",
		SPI_OK_INSERT
	};

	rp_statement_execute(&insert, args, lengthof(args));
	filter_add(open->map->relid, hash);
	rp_displaced_hold(txn->node);
}

void
rp_displaced_hold(RpNode *node)
{
	SpinLockAcquire(&node->vector_lock);
	if (node->displaced != RP_DISPLACED_SOME)
	{
		node->displaced = RP_DISPLACED_SOME;
		for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
			node->members[slot].rechecked_seq = 0;
	}
	SpinLockRelease(&node->vector_lock);
}

void
rp_displaced_set_by(RpOpenRelation *open, const RpDisplacedRow *row,
					TupleTableSlot *by, const RpSlotVersion *by_version)
{
	P2pVersion	b = version_write(by_version);
	RpArg		args[] = {
		arg_table(open->map->relid), ARG_HASH(row->hash),
		arg_json(row_json(open, by)), {TEXTARRAYOID, key_names(open), false}, ARGS_VERSION(b),
	};
	static RpStatement update = {
		"UPDATE replp2p.displaced_rows SET by_key = " KEY_OF("$3", "$4") ","
		" by_node_id = $5, by_epoch = $6, by_seq = $7, by_stamp = $8"
		" WHERE relation = $1 AND key_hash = $2",
		SPI_OK_UPDATE
	};

	rp_statement_execute(&update, args, lengthof(args));
}

void
rp_displaced_pin(RpOpenRelation *open, TupleTableSlot *row, const RpSlotVersion *version)
{
	static RpStatement insert = {
		"INSERT INTO replp2p.displacing_rows AS d"
		" (relation, key_hash, key_image, node_id, epoch, seq, stamp)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7)"
		" ON CONFLICT (relation, key_hash) DO UPDATE SET key_image = excluded.key_image,"
		" node_id = excluded.node_id, epoch = excluded.epoch,"
		" seq = excluded.seq, stamp = excluded.stamp"
		" WHERE (d.stamp, d.node_id, d.epoch, d.seq)"
		" <> (excluded.stamp, excluded.node_id, excluded.epoch, excluded.seq)",
		SPI_OK_INSERT
	};
	RpKeyHash	hash = rp_key_hash(open->map, row);
	P2pVersion	v = version_write(version);
	bytea	   *image;

	if (version->seq == 0)
		return;					/* never greater than a displaced row */
	image = rp_rowbody_encode(open, row, true);
	{
		RpArg		args[] = {
			arg_table(open->map->relid), ARG_HASH(hash),
			{BYTEAOID, PointerGetDatum(image), false}, ARGS_VERSION(v),
		};

		rp_statement_execute(&insert, args, lengthof(args));
	}
}

void
rp_displaced_pin_renew(RpOpenRelation *open, TupleTableSlot *row, const RpSlotVersion *version)
{
	static RpStatement update = {
		"UPDATE replp2p.displacing_rows SET node_id = $3, epoch = $4, seq = $5, stamp = $6"
		" WHERE relation = $1 AND key_hash = $2"
		" AND (stamp, node_id, epoch, seq) <> ($6, $3, $4, $5)",
		SPI_OK_UPDATE
	};
	RpKeyHash	hash = rp_key_hash(open->map, row);
	P2pVersion	v = version_write(version);
	RpArg		args[] = {arg_table(open->map->relid), ARG_HASH(hash), ARGS_VERSION(v)};

	rp_statement_execute(&update, args, lengthof(args));
}

bool
rp_displaced_pinned(RpOpenRelation *open, TupleTableSlot *row, RpSlotVersion *version)
{
	static RpStatement select = {
		"SELECT node_id, epoch, seq, stamp FROM replp2p.displacing_rows"
		" WHERE relation = $1 AND key_hash = $2",
		SPI_OK_SELECT
	};
	RpKeyHash	hash = rp_key_hash(open->map, row);
	RpArg		args[] = {arg_table(open->map->relid), ARG_HASH(hash)};
	RpCatalog	catalog;
	bool		found;

	if (!rp_displaced_in(open->map->relid))
		return false;
	rp_catalog_open(&catalog);
	found = rp_statement_run(&select, args, lengthof(args)) > 0;
	if (found)
		*version = version_read(0, 1);
	rp_catalog_close(&catalog);
	return found;
}

bool
rp_displaced_find(RpOpenRelation *open, TupleTableSlot *key, RpSlotVersion *version,
				  TupleTableSlot *out)
{
	static RpStatement select = {
		"SELECT image, node_id, epoch, seq, stamp FROM replp2p.displaced_rows"
		" WHERE relation = $1 AND key_hash = $2",
		SPI_OK_SELECT
	};
	MemoryContext caller = CurrentMemoryContext;
	RpKeyHash	hash;
	RpCatalog	catalog;
	bytea	   *image = NULL;

	if (!rp_displaced_in(open->map->relid))
		return false;
	hash = rp_key_hash(open->map, key);
	if (hash_search(keys, &hash, HASH_FIND, NULL) == NULL)
		return false;
	rp_catalog_open(&catalog);
	{
		RpArg		args[] = {arg_table(open->map->relid), ARG_HASH(hash)};

		if (rp_statement_run(&select, args, lengthof(args)) > 0)
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			image = DatumGetByteaPCopy(rp_column(0, 1));
			MemoryContextSwitchTo(old);
			*version = version_read(0, 2);
		}
	}
	rp_catalog_close(&catalog);
	if (image == NULL)
		return false;
	rp_rowbody_decode(open, image, out);
	return true;
}

void
rp_displaced_drop(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *key)
{
	RpKeyHash	hash = rp_key_hash(open->map, key);

	if (rp_displaced_key(hash))
		rp_displaced_forget(open->map->relid, hash);
	rp_displaced_touch(open->map->relid);
}

void
rp_displaced_forget(Oid relid, RpKeyHash hash)
{
	static RpStatement delete = {
		"DELETE FROM replp2p.displaced_rows WHERE relation = $1 AND key_hash = $2",
		SPI_OK_DELETE
	};
	RpArg		args[] = {arg_table(relid), ARG_HASH(hash)};

	rp_statement_execute(&delete, args, lengthof(args));
}

void
rp_displaced_forget_older(Oid relid, const RpKeyHash *hash, const RpSlotVersion *version)
{
	static RpStatement delete_row = {
		"DELETE FROM replp2p.displaced_rows WHERE relation = $1"
		" AND (stamp, node_id, epoch, seq) < ($5, $2, $3, $4) AND known_seq < $4 AND key_hash = $6",
		SPI_OK_DELETE
	};
	static RpStatement delete_rows = {
		"DELETE FROM replp2p.displaced_rows WHERE relation = $1"
		" AND (stamp, node_id, epoch, seq) < ($5, $2, $3, $4) AND known_seq < $4",
		SPI_OK_DELETE
	};
	P2pVersion	v = version_write(version);
	RpArg		args[] = {
		arg_table(relid), ARGS_VERSION(v), rp_arg_bytes(hash, sizeof(RpKeyHash)),
	};
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	if (hash != NULL)
		rp_statement_run(&delete_row, args, lengthof(args));
	else
		rp_statement_run(&delete_rows, args, lengthof(args) - 1);
	rp_catalog_close(&catalog);
}

void
rp_displaced_truncate(RpApplyTransaction *txn, Oid relid)
{
	RpArg		args[] = {arg_table(relid), ARGS_VERSION(txn->version)};

	if (!rp_displaced_in(relid))
		return;
	rp_displaced_touch(relid);
	rp_catalog_execute("DELETE FROM replp2p.displaced_rows WHERE relation = $1"
					   " AND (stamp, node_id, epoch, seq) <= ($5, $2, $3, $4)",
					   SPI_OK_DELETE, args, lengthof(args));
}

List *
rp_displaced_list(Oid relid, const RpDisplacedRow *after, int limit)
{
	static RpStatement select = {
		"SELECT key_hash, image, node_id, epoch, seq, stamp, by_node_id, by_epoch, by_seq, by_stamp, known_seq"
		" FROM replp2p.displaced_rows WHERE relation = $1"
		" AND (stamp, node_id, epoch, seq, key_hash) < ($5, $2, $3, $4, $6)"
		" ORDER BY stamp DESC, node_id DESC, epoch DESC, seq DESC, key_hash DESC LIMIT $7",
		SPI_OK_SELECT
	};
	MemoryContext caller = CurrentMemoryContext;
	/* no version has the greatest stamp there is: all come after it */
	P2pVersion	v = after ? version_write(&after->version) : (P2pVersion) {.stamp = PG_INT64_MAX};
	RpKeyHash	hash = after ? after->hash : (RpKeyHash) {0};
	RpArg		args[] = {
		arg_table(relid), ARGS_VERSION(v), ARG_HASH(hash), rp_arg_int4(limit),
	};
	RpCatalog	catalog;
	List	   *rows = NIL;
	uint64		n;

	rp_catalog_open(&catalog);
	/* an index has this order: without statistics the planner would rather sort all rows for these few */
	(void) set_config_option("enable_sort", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	n = rp_statement_run(&select, args, lengthof(args));
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);
		RpDisplacedRow *row = palloc0_object(RpDisplacedRow);

		rp_column_bytes(i, 1, &row->hash, sizeof(RpKeyHash));
		row->image = DatumGetByteaPCopy(rp_column(i, 2));
		row->version = version_read(i, 3);
		row->by_version = version_read(i, 7);
		row->known_seq = (uint64) DatumGetInt64(rp_column(i, 11));
		rows = lappend(rows, row);
		MemoryContextSwitchTo(old);
	}
	rp_catalog_close(&catalog);
	return rows;
}

RpOpenRelation *
rp_displaced_open(Oid relid)
{
	P2pRelation described = {0};
	Relation	rel;
	TupleDesc	desc;
	Bitmapset  *key;
	RpRelationMap *map;

	rel = try_table_open(relid, RowExclusiveLock);
	if (rel == NULL)
		return NULL;
	desc = RelationGetDescr(rel);
	key = rp_decode_key(rel);
	strlcpy(described.schema, get_namespace_name(RelationGetNamespace(rel)), P2P_NAME_SIZE);
	strlcpy(described.name, RelationGetRelationName(rel), P2P_NAME_SIZE);
	described.columns = palloc0_array(P2pColumn, Max(desc->natts, 1));
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);
		P2pColumn  *column = &described.columns[described.ncolumns];

		if (att->attisdropped || !bms_is_member(a + 1, key))
			continue;
		strlcpy(column->name, NameStr(att->attname), P2P_NAME_SIZE);
		column->flags = P2P_COLUMN_KEY;
		described.ncolumns++;
	}
	map = rp_relation_map_for_reading(&described);
	table_close(rel, NoLock);
	return OidIsValid(map->relid) && map->has_key ? rp_relation_open(map) : NULL;
}

/* Make the hashes of a table's keys anew: a join has copied them from a node where its oid is another. */
static void
table_rehash(Oid relid)
{
	static const char *const statements[][2] = {
		{"SELECT key_hash, image FROM replp2p.displaced_rows WHERE relation = $1",
		"UPDATE replp2p.displaced_rows SET key_hash = $3 WHERE relation = $1 AND key_hash = $2"},
		{"SELECT key_hash, key_image FROM replp2p.displacing_rows WHERE relation = $1",
		"UPDATE replp2p.displacing_rows SET key_hash = $3 WHERE relation = $1 AND key_hash = $2"},
	};
	RpOpenRelation *open = rp_displaced_open(relid);

	for (size_t i = 0; open != NULL && i < lengthof(statements); i++)
	{
		RpArg		table[] = {arg_table(relid)};
		RpCatalog	catalog;
		SPITupleTable *rows;
		uint64		n;

		rp_catalog_open(&catalog);
		n = rp_catalog_run(statements[i][0], SPI_OK_SELECT, table, lengthof(table));
		rows = SPI_tuptable;
		for (uint64 row = 0; row < n; row++)
		{
			RpKeyHash	from;
			RpKeyHash	to;

			SPI_tuptable = rows;
			rp_column_bytes(row, 1, &from, sizeof(from));
			rp_rowbody_decode(open, DatumGetByteaPP(rp_column(row, 2)), open->image);
			to = rp_key_hash(open->map, open->image);
			filter_add(relid, to);
			if (from.h1 != to.h1 || from.h2 != to.h2)
			{
				RpArg		args[] = {arg_table(relid), ARG_HASH(from), ARG_HASH(to)};

				rp_catalog_run(statements[i][1], SPI_OK_UPDATE, args, lengthof(args));
			}
			ResetPerTupleExprContext(open->estate);
		}
		rp_catalog_close(&catalog);
	}
	if (open != NULL)
		rp_relation_close(open);
}

/* The same, and if that fails leave the table alone: nothing else here is to stand still for it. */
static void
table_rehash_or_warn(Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		table_rehash(relid);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(WARNING,
				(errmsg("displaced rows of table \"%s\" cannot be read: %s",
						get_rel_name(relid), error->message),
				 errhint("Undo what has changed in the table's columns, and restart the server.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

void
rp_displaced_unpin(Oid relid, List *used)
{
	Datum	   *hashes = palloc_array(Datum, Max(list_length(used), 1));
	RpCatalog	catalog;
	ListCell   *cell;

	foreach(cell, used)
		hashes[foreach_current_index(cell)] = rp_arg_bytes(lfirst(cell), sizeof(RpKeyHash)).value;
	{
		RpArg		args[] = {
			arg_table(relid),
			{BYTEAARRAYOID, PointerGetDatum(construct_array(hashes, list_length(used), BYTEAOID, -1,
															false, TYPALIGN_INT)), false},
		};

		rp_catalog_open(&catalog);
		/* planned each time: only an array that the planner knows is looked up by hash */
		rp_catalog_run("DELETE FROM replp2p.displacing_rows WHERE relation = $1"
					   " AND key_hash <> ALL ($2)", SPI_OK_DELETE, args, lengthof(args));
		rp_catalog_close(&catalog);
	}
}
