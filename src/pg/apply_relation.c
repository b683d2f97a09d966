/*
 * apply_relation.c
 *	  Tables as apply sees them: mapping remote descriptions to local tables,
 *	  and opening those for writing.
 *
 * Columns are matched by name, so that their order may differ. A local column
 * that the remote side lacks takes its default; a remote column that is
 * missing here is an error which stops that origin until the column is added.
 *
 * A map lives as long as the worker and is rebuilt after a relcache
 * invalidation of its table. A change carries its own description, and while
 * a schema change spreads one table comes in several (an origin's next
 * transaction, our own log read beside it): each description has its own map, so that
 * none changes under somebody who is still using it.
 *
 * Opening a table for writing makes executor state, slots and index descriptions.
 * That costs more than applying a row, so it is kept with the map
 * (rp_relation_take, rp_relation_give) until an invalidation of the table or of one of its
 * indexes; each transaction only opens the relations themselves, takes their
 * locks, and puts them in their places. Not kept is what holds on to
 * more: expressions, predicates, defaults, generated columns, access methods other than
 * btree with state of their own. After an error all that was in use
 * is thrown away, since its slots hold buffers that the abort has released.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "apply_relation.h"
#include "hashtable.h"
#include "settings.h"

static HTAB *maps = NULL;
static RpOpenRelation *taken = NULL;	/* by rp_relation_take, not given back */

static void map_invalidate(Datum arg, Oid relid);
static RpRelationMap *map_find(const P2pRelation *remote, bool for_reading);
static bool map_fits(const RpRelationMap *map, const P2pRelation *remote);
static void map_build(RpRelationMap *map, const P2pRelation *remote);
static void map_columns(RpRelationMap *map, Relation rel);
static bool type_has_receive(Oid type);
static void map_key(RpRelationMap *map, Relation rel);
static Oid	key_index_find(RpRelationMap *map, Relation rel);
static void map_defaults(RpRelationMap *map, Relation rel);
static RpOpenRelation *open_make(RpRelationMap *map, MemoryContext parent);
static void open_slots(RpOpenRelation *open);
static bool open_is_plain(RpOpenRelation *open);
static void open_attach(RpOpenRelation *open);
static void open_detach(RpOpenRelation *open);
static void open_free(RpOpenRelation *open);
static List *arbiters_find(RpOpenRelation *open);

void
rp_relation_maps_init(void)
{
	maps = rp_hash_make("replp2p relation maps", TopMemoryContext, 128, sizeof(RpRelationMapKey),
						sizeof(RpRelationMap));
	CacheRegisterRelcacheCallback(map_invalidate, (Datum) 0);
}

/* Is relid an index of the executor state that is kept with the map? */
static bool
is_kept_index(const RpRelationMap *map, Oid relid)
{
	for (int i = 0; map->kept != NULL && i < map->kept->result->ri_NumIndices; i++)
	{
		if (map->kept->index_oids[i] == relid)
			return true;
	}
	return false;
}

/* Forget that the maps of relid (or of all tables) are right. */
static void
map_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	RpRelationMap *map;

	hash_seq_init(&scan, maps);
	while ((map = hash_seq_search(&scan)) != NULL)
	{
		if (relid == InvalidOid || map->relid == relid || map->relid == InvalidOid ||
			is_kept_index(map, relid))
			map->valid = false;
	}
}

/* Hash what the columns of a description are. */
static uint64
columns_hash(const P2pRelation *remote)
{
	uint64		hash = remote->ncolumns;

	for (uint32 i = 0; i < remote->ncolumns; i++)
	{
		const P2pColumn *column = &remote->columns[i];

		hash = hash_combine64(hash, hash_bytes_extended((const unsigned char *) column->name,
														strlen(column->name), column->flags));
		hash = hash_combine64(hash, hash_bytes_extended((const unsigned char *) column->type,
														strlen(column->type), 0));
	}
	return hash;
}

RpRelationMap *
rp_relation_map(const P2pRelation *remote)
{
	return map_find(remote, false);
}

RpRelationMap *
rp_relation_map_for_reading(const P2pRelation *remote)
{
	return map_find(remote, true);
}

/* Return the map for a description, built or rebuilt as needed. */
static RpRelationMap *
map_find(const P2pRelation *remote, bool for_reading)
{
	RpRelationMapKey key = {0};
	bool		found;
	RpRelationMap *map;

	strlcpy(key.schema, remote->schema, P2P_NAME_SIZE);
	strlcpy(key.name, remote->name, P2P_NAME_SIZE);
	key.columns = columns_hash(remote);
	key.for_reading = for_reading;
	map = hash_search(maps, &key, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) map + sizeof(key), 0, sizeof(RpRelationMap) - sizeof(key));
		map->memory = AllocSetContextCreate(TopMemoryContext, "replp2p relation map",
											ALLOCSET_SMALL_SIZES);
	}
	if (!map->valid || !map_fits(map, remote))
		map_build(map, remote);
	return map;
}

/* Is the map made for this very description? */
static bool
map_fits(const RpRelationMap *map, const P2pRelation *remote)
{
	if (map->remote.ncolumns != remote->ncolumns)
		return false;
	for (uint32 i = 0; i < remote->ncolumns; i++)
	{
		const P2pColumn *a = &map->remote.columns[i];
		const P2pColumn *b = &remote->columns[i];

		if (a->flags != b->flags || strcmp(a->name, b->name) != 0 || strcmp(a->type, b->type) != 0)
			return false;
	}
	return true;
}

/* Fill map for the description; valid only once everything has succeeded. */
static void
map_build(RpRelationMap *map, const P2pRelation *remote)
{
	MemoryContext old;
	Relation	rel;

	map->valid = false;
	map->built++;
	MemoryContextReset(map->memory);
	old = MemoryContextSwitchTo(map->memory);
	map->remote = *remote;
	map->remote.columns = palloc_array(P2pColumn, Max(remote->ncolumns, 1));
	memcpy(map->remote.columns, remote->columns, sizeof(P2pColumn) * remote->ncolumns);
	MemoryContextSwitchTo(old);

	map->relid = RangeVarGetRelid(makeRangeVar(map->remote.schema, map->remote.name, -1),
								  AccessShareLock, true);
	map->is_membership = strcmp(remote->schema, RP_SCHEMA) == 0 &&
		strcmp(remote->name, "membership") == 0;
	map->is_handler_change = strcmp(remote->schema, RP_SCHEMA) == 0 &&
		strcmp(remote->name, "handler_changes") == 0;
	if (!OidIsValid(map->relid))
		return;					/* looked up again each time: it may be created */

	rel = table_open(map->relid, NoLock);
	old = MemoryContextSwitchTo(map->memory);
	if (rel->rd_rel->relkind != RELKIND_RELATION)
	{
		if (!map->key.for_reading)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s.%s\" is not an ordinary table here", remote->schema, remote->name),
					 errhint("A table must have the same shape on every node, its partitions included.")));
		MemoryContextSwitchTo(old);
		table_close(rel, NoLock);
		map->relid = InvalidOid;
		return;
	}
	map->owner = rel->rd_rel->relowner;
	map_columns(map, rel);
	map_key(map, rel);
	map_defaults(map, rel);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	map->valid = true;
}

/* Match columns by name; prepare their input and receive functions. */
static void
map_columns(RpRelationMap *map, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	map->natts = desc->natts;
	map->columns = palloc0_array(RpColumnMap, Max(map->remote.ncolumns, 1));
	for (uint32 i = 0; i < map->remote.ncolumns; i++)
	{
		RpColumnMap *column = &map->columns[i];
		Form_pg_attribute att = NULL;
		Oid			proc;

		column->attno = -1;
		for (int a = 0; a < desc->natts; a++)
		{
			att = TupleDescAttr(desc, a);
			if (!att->attisdropped && strcmp(NameStr(att->attname), map->remote.columns[i].name) == 0)
			{
				column->attno = a;
				break;
			}
		}
		if (column->attno < 0 && map->key.for_reading)
			continue;
		if (column->attno < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s.%s\" has no column \"%s\" here",
							map->remote.schema, map->remote.name, map->remote.columns[i].name),
					 errhint("Add the column (type %s) on this node; applying goes on by itself.",
							 map->remote.columns[i].type)));
		if (att->attgenerated)
		{
			column->attno = -1; /* computed here */
			continue;
		}
		column->typmod = att->atttypmod;
		getTypeInputInfo(att->atttypid, &proc, &column->typioparam);
		fmgr_info_cxt(proc, &column->input, map->memory);
		column->has_receive = type_has_receive(att->atttypid);
		if (column->has_receive)
		{
			getTypeBinaryInputInfo(att->atttypid, &proc, &column->receive_ioparam);
			fmgr_info_cxt(proc, &column->receive, map->memory);
		}
	}
}

/* Does the type take binary values? */
static bool
type_has_receive(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	result = OidIsValid(((Form_pg_type) GETSTRUCT(tuple))->typreceive);
	ReleaseSysCache(tuple);
	return result;
}

/* Find the local unique index that stands for the remote replica identity. */
static void
map_key(RpRelationMap *map, Relation rel)
{
	Relation	index;

	map->has_key = false;
	map->key_index = InvalidOid;
	map->nkeys = 0;
	for (uint32 i = 0; i < map->remote.ncolumns; i++)
		map->has_key |= (map->remote.columns[i].flags & P2P_COLUMN_KEY) != 0;
	if (!map->has_key)
		return;

	map->key_index = key_index_find(map, rel);
	if (!OidIsValid(map->key_index) && map->key.for_reading)
	{
		map->has_key = false;
		return;
	}
	if (!OidIsValid(map->key_index))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("table \"%s.%s\" has no unique index here on the columns of its replica identity",
						map->remote.schema, map->remote.name),
				 errhint("Create the same primary key (or replica identity index) on this node.")));

	index = index_open(map->key_index, AccessShareLock);
	map->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int k = 0; k < map->nkeys; k++)
	{
		int			attno = index->rd_index->indkey.values[k] - 1;
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attno);
		Oid			equal = get_opfamily_member(index->rd_opfamily[k], index->rd_opcintype[k],
												index->rd_opcintype[k], BTEqualStrategyNumber);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_HASH_EXTENDED_PROC);
		Oid			out;
		bool		varlena;

		map->key_attnos[k] = attno;
		fmgr_info_cxt(get_opcode(equal), &map->key_equal[k], map->memory);
		map->key_collation[k] = index->rd_indcollation[k];
		map->key_hash[k].fn_oid = InvalidOid;
		if (OidIsValid(type->hash_extended_proc))
			fmgr_info_cxt(type->hash_extended_proc, &map->key_hash[k], map->memory);
		getTypeOutputInfo(att->atttypid, &out, &varlena);
		fmgr_info_cxt(out, &map->key_out[k], map->memory);
	}
	index_close(index, AccessShareLock);
}

/* Return a valid, immediate, total unique index on exactly the remote key columns; InvalidOid: none. */
static Oid
key_index_find(RpRelationMap *map, Relation rel)
{
	Bitmapset  *wanted = NULL;
	Oid			preferred = RelationGetReplicaIndex(rel);
	Oid			result = InvalidOid;
	ListCell   *cell;

	for (uint32 i = 0; i < map->remote.ncolumns; i++)
	{
		if ((map->remote.columns[i].flags & P2P_COLUMN_KEY) == 0)
			continue;
		if (map->columns[i].attno < 0)
			return InvalidOid;
		wanted = bms_add_member(wanted, map->columns[i].attno);
	}
	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;
		Bitmapset  *have = NULL;
		bool		usable = form->indisunique && form->indisvalid && form->indimmediate &&
			index->rd_rel->relam == BTREE_AM_OID &&
			RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL;

		for (int k = 0; usable && k < form->indnkeyatts; k++)
			have = bms_add_member(have, form->indkey.values[k] - 1);
		if (usable && bms_equal(have, wanted) &&
			(!OidIsValid(result) || lfirst_oid(cell) == preferred))
			result = lfirst_oid(cell);
		index_close(index, AccessShareLock);
	}
	return result;
}

/* Plan the defaults of local columns that the remote side does not have. */
static void
map_defaults(RpRelationMap *map, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool	   *mapped = palloc0_array(bool, Max(desc->natts, 1));

	for (uint32 i = 0; i < map->remote.ncolumns; i++)
	{
		if (map->columns[i].attno >= 0)
			mapped[map->columns[i].attno] = true;
	}
	map->ndefaults = 0;
	map->default_attnos = palloc_array(int, Max(desc->natts, 1));
	map->defaults = palloc_array(Node *, Max(desc->natts, 1));
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);
		Expr	   *expr;

		if (mapped[a] || att->attisdropped || att->attgenerated)
			continue;
		expr = (Expr *) build_column_default(rel, a + 1);
		map->default_attnos[map->ndefaults] = a;
		map->defaults[map->ndefaults++] = expr ? (Node *) expression_planner(expr) : NULL;
	}
	pfree(mapped);
}

RpOpenRelation *
rp_relation_open(RpRelationMap *map)
{
	return open_make(map, CurrentMemoryContext);
}

/* Open the table and make all that is needed for writing to it, in memory of its own below parent. */
static RpOpenRelation *
open_make(RpRelationMap *map, MemoryContext parent)
{
	MemoryContext memory;
	MemoryContext old;
	RpOpenRelation *open;
	RangeTblEntry *rte;
	Relation	rel;

	if (!OidIsValid(map->relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" does not exist here", map->remote.schema, map->remote.name),
				 errhint("Create it on this node; applying goes on by itself.")));

	rel = table_open(map->relid, RowExclusiveLock);
	memory = AllocSetContextCreate(CurrentMemoryContext, "replp2p open relation",
								   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(memory);
	open = palloc0_object(RpOpenRelation);
	open->map = map;
	open->memory = memory;
	open->built = map->built;
	open->rel = rel;
	open->estate = CreateExecutorState();
	rte = makeNode(RangeTblEntry);
	rte->rtekind = RTE_RELATION;
	rte->relid = map->relid;
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	ExecInitRangeTable(open->estate, list_make1(rte));
	open->result = makeNode(ResultRelInfo);
	InitResultRelInfo(open->result, rel, 1, NULL, 0);
	open->estate->es_opened_result_relations =
		lappend(open->estate->es_opened_result_relations, open->result);
	open->estate->es_output_cid = GetCurrentCommandId(true);
	ExecOpenIndices(open->result, true);
	open->key_index = -1;
	open->key_alone = true;
	open->index_oids = palloc_array(Oid, Max(open->result->ri_NumIndices, 1));
	for (int i = 0; i < open->result->ri_NumIndices; i++)
	{
		open->index_oids[i] = RelationGetRelid(open->result->ri_IndexRelationDescs[i]);
		if (open->index_oids[i] == map->key_index)
			open->key_index = i;
		else if (open->result->ri_IndexRelationDescs[i]->rd_index->indisunique)
			open->key_alone = false;
	}
	open->key_alone &= open->key_index >= 0;
	open_slots(open);
	open->arbiters = arbiters_find(open);
	open->given = palloc0_array(bool, Max(map->natts, 1));
	open->unavailable = palloc0_array(bool, Max(map->natts, 1));
	open->plain = open_is_plain(open);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(memory, parent);
	return open;
}

/* Make the slots, with a row description of their own: that of the relation may go before they do. */
static void
open_slots(RpOpenRelation *open)
{
	TupleDesc	desc = CreateTupleDescCopyConstr(RelationGetDescr(open->rel));
	const TupleTableSlotOps *stored = table_slot_callbacks(open->rel);

	open->local = ExecInitExtraTupleSlot(open->estate, desc, stored);
	open->found = ExecInitExtraTupleSlot(open->estate, desc, stored);
	open->incoming = ExecInitExtraTupleSlot(open->estate, desc, &TTSOpsVirtual);
	open->old = ExecInitExtraTupleSlot(open->estate, desc, &TTSOpsVirtual);
	open->store = ExecInitExtraTupleSlot(open->estate, desc, &TTSOpsVirtual);
	open->image = ExecInitExtraTupleSlot(open->estate, desc, &TTSOpsVirtual);
	open->base = ExecInitExtraTupleSlot(open->estate, desc, &TTSOpsVirtual);
}

/* May all of it but the relations outlive the transaction? */
static bool
open_is_plain(RpOpenRelation *open)
{
	TupleConstr *constraints = RelationGetDescr(open->rel)->constr;

	if (open->map->ndefaults > 0 || (constraints != NULL && constraints->has_generated_stored))
		return false;
	for (int i = 0; i < open->result->ri_NumIndices; i++)
	{
		IndexInfo  *info = open->result->ri_IndexRelationInfo[i];

		if (info->ii_Am != BTREE_AM_OID || info->ii_Expressions != NIL ||
			info->ii_Predicate != NIL || info->ii_ExclusionOps != NULL)
			return false;
	}
	return true;
}

RpOpenRelation *
rp_relation_take(RpRelationMap *map)
{
	ResourceOwner owner = CurrentResourceOwner;
	RpOpenRelation *open;

	CurrentResourceOwner = TopTransactionResourceOwner;
	if (map->kept != NULL)
	{
		/* with the lock come the invalidations of whoever had it before */
		LockRelationOid(map->kept->map->relid, RowExclusiveLock);
		if (!map->valid || map->kept->built != map->built)
		{
			open_free(map->kept);
			map->kept = NULL;
		}
	}
	if (map->kept != NULL)
	{
		open = map->kept;
		open_attach(open);
		map->kept = NULL;
	}
	else
		open = open_make(map, TopMemoryContext);
	open->next = taken;
	taken = open;
	CurrentResourceOwner = owner;
	return open;
}

void
rp_relation_busy(RpRelationMap *map)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("a local transaction has table \"%s.%s\", or a row of it, in work",
					map->remote.schema, map->remote.name)));
}

void
rp_relation_give(RpOpenRelation *open)
{
	ResourceOwner owner = CurrentResourceOwner;
	RpOpenRelation **at = &taken;

	while (*at != open)
		at = &(*at)->next;
	*at = open->next;
	CurrentResourceOwner = TopTransactionResourceOwner;
	open_detach(open);
	CurrentResourceOwner = owner;
	if (open->plain && open->map->kept == NULL && open->map->valid && open->built == open->map->built)
		open->map->kept = open;
	else
		open_free(open);
}

void
rp_relations_abort(void)
{
	while (taken != NULL)
	{
		RpOpenRelation *open = taken;

		taken = open->next;
		MemoryContextDelete(open->memory);
	}
}

/* Open the relations again, the table being locked, and put them in their places. */
static void
open_attach(RpOpenRelation *open)
{
	ResultRelInfo *result = open->result;

	open->rel = table_open(open->map->relid, NoLock);
	result->ri_RelationDesc = open->rel;
	for (int i = 0; i < result->ri_NumIndices; i++)
		result->ri_IndexRelationDescs[i] = index_open(open->index_oids[i], RowExclusiveLock);
	open->estate->es_output_cid = GetCurrentCommandId(true);
}

/* Let go of all that belongs to the transaction; locks stay. */
static void
open_detach(RpOpenRelation *open)
{
	if (open->scan != NULL)
	{
		index_endscan(open->scan);
		MemoryContextDelete(open->scan_memory);
	}
	open->scan = NULL;
	ExecClearTuple(open->local);
	ExecClearTuple(open->found);
	ExecClearTuple(open->incoming);
	ExecClearTuple(open->old);
	ExecClearTuple(open->store);
	ExecClearTuple(open->image);
	ExecClearTuple(open->base);
	for (int i = 0; i < open->result->ri_NumIndices; i++)
		index_close(open->result->ri_IndexRelationDescs[i], NoLock);
	table_close(open->rel, NoLock);
}

/* Free the state of a table that is detached. */
static void
open_free(RpOpenRelation *open)
{
	FreeExecutorState(open->estate);
	MemoryContextDelete(open->memory);
}

IndexScanDesc
rp_relation_key_scan(RpOpenRelation *open)
{
	if (open->scan == NULL)
	{
		ResourceOwner owner = CurrentResourceOwner;
		MemoryContext old;

		open->scan_memory = AllocSetContextCreate(open->memory, "replp2p key scan",
												  ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(open->scan_memory);
		CurrentResourceOwner = TopTransactionResourceOwner;
		open->scan = index_beginscan(open->rel, open->result->ri_IndexRelationDescs[open->key_index],
									 &open->dirty, open->map->nkeys, 0);
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(old);
	}
	return open->scan;
}

/* The unique indexes in which a clash is resolved; those of deferrable constraints are not. */
static List *
arbiters_find(RpOpenRelation *open)
{
	List	   *oids = NIL;

	for (int i = 0; i < open->result->ri_NumIndices; i++)
	{
		Form_pg_index index = open->result->ri_IndexRelationDescs[i]->rd_index;

		if (index->indisunique && index->indimmediate && index->indisready &&
			open->result->ri_IndexRelationDescs[i]->rd_rel->relam == BTREE_AM_OID)
			oids = lappend_oid(oids, index->indexrelid);
	}
	return oids;
}

void
rp_relation_close(RpOpenRelation *open)
{
	open_detach(open);
	open_free(open);
}
