/*
 * keyset_read.c
 *	  Key sets from the change logs: building them, following the own log, and
 *	  reading images back.
 *
 * Every unstable version stands in a log of this node. Others' logs are read
 * up to what is applied, since what comes later apply adds itself; the own one
 * as far as it goes. To read something twice does no harm: the same (dot, step)
 * is one version.
 *
 * A table that becomes tracked, or gets another column merge, has its sets
 * built (again) before they are used next: rp_handlers_of() and rp_keyset_of()
 * see to it. So it does no harm that a pass, which takes no locks on tables, may
 * be told of a handler change too late.
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/memutils.h"

#include "keyset.h"
#include "logpass.h"
#include "ownlog.h"

static bool build_visit(const RpPassItem *whole, void *arg);
static void item_take(const RpPassItem *item, Oid only);
static void row_take(const RpPassItem *item, const RpTableHandlers *handlers);
static void put(const RpPassItem *item, const RpTableHandlers *handlers, const RpPassKeys *keys,
				P2pOp op);
static P2pKeyVersion version_of_item(const RpPassItem *item, P2pOp op);
static const RpTableHandlers *tracked(Oid relid);
static bool is_stable(RpNode *node, const RpSlotVersion *version);
static Bitmapset *counters_of(const RpTableHandlers *handlers);
static bool image_visit(const RpPassItem *item, void *arg);

void
rp_keysets_visit(const RpPassItem *item)
{
	item_take(item, InvalidOid);
}

void
rp_keysets_build(Oid relid, uint64 own_seq)
{
	RpNode	   *node = rp_node_current();

	if (OidIsValid(relid) && tracked(relid) == NULL)
		return;					/* the sweep takes what there may be */
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		uint64		oldest;
		uint64		limit;

		SpinLockAcquire(&node->vector_lock);
		oldest = node->members[slot].oldest_seq;
		limit = node->members[slot].applied_seq;
		SpinLockRelease(&node->vector_lock);
		if (slot == RP_SELF)
			limit = Min(limit, own_seq);
		if (oldest > 0 && limit >= oldest)
			(void) rp_log_pass(node, slot, oldest - 1, limit, build_visit, &relid);
	}
	rp_keysets_touch_contested(relid);
}

/* Take up an item for the table that is being built; arg: its oid. */
static bool
build_visit(const RpPassItem *whole, void *arg)
{
	RpPassItem	left;
	const RpPassItem *item = rp_item_left(whole, &left);

	if (item != NULL)
		item_take(item, *(Oid *) arg);
	return true;
}

void
rp_keysets_follow_own(void)
{
	rp_own_log_follow_captured();
}

/* Take up one item, if its table is tracked, and is the one asked for (InvalidOid: any). */
static void
item_take(const RpPassItem *item, Oid only)
{
	if (item->tag == P2P_TAG_TRUNCATE)
	{
		for (int i = 0; i < item->ntables; i++)
		{
			Oid			relid = rp_pass_relid(item->tables[i]);
			P2pKeyVersion version;

			if ((OidIsValid(only) && relid != only) || tracked(relid) == NULL ||
				is_stable(rp_node_current(), &item->version))
				continue;
			version = version_of_item(item, P2P_OP_DELETE);
			rp_keysets_put_truncate(relid, &version, item->deps);
		}
	}
	else
	{
		Oid			relid = rp_pass_relid(item->table);
		const RpTableHandlers *handlers = tracked(relid);

		if (handlers && (!OidIsValid(only) || relid == only) &&
			!is_stable(rp_node_current(), &item->version))
			row_take(item, handlers);
	}
}

/* Take up the versions that one row change makes: an update that changes the key makes two. */
static void
row_take(const RpPassItem *item, const RpTableHandlers *handlers)
{
	RpPassKeys	keys;

	if (!rp_pass_keys(item, counters_of(handlers), &keys))
		return;
	if (item->tag == P2P_TAG_DELETE || keys.moved)
		put(item, handlers, &keys, P2P_OP_DELETE);
	if (item->tag == P2P_TAG_UPDATE && !keys.moved)
		put(item, handlers, &keys, P2P_OP_UPDATE);
	else if (item->tag != P2P_TAG_DELETE)
		put(item, handlers, &keys, P2P_OP_INSERT);
}

/* Put one version: a delete to the old key, others to the new one. */
static void
put(const RpPassItem *item, const RpTableHandlers *handlers, const RpPassKeys *keys, P2pOp op)
{
	P2pKeyVersion version = version_of_item(item, op);
	RpKeyPayload payload = {.slot = item->version.slot};

	rp_counter_deltas(handlers, &version, keys->old, keys->new, &payload);
	rp_keyset_put(handlers->relid, op == P2P_OP_DELETE ? keys->old_key : keys->new_key,
				  &version, item->deps, &payload);
}

/* The version that an item gives to a key; its deps are the item's own. */
static P2pKeyVersion
version_of_item(const RpPassItem *item, P2pOp op)
{
	P2pKeyVersion version = {0};

	version.version.stamp = item->version.stamp;
	version.version.dot.origin = rp_node_current()->members[item->version.slot].origin;
	version.version.dot.seq = item->version.seq;
	version.step = op == P2P_OP_DELETE ? rp_step_removing(item->number) : rp_step_storing(item->number);
	version.op = op;
	version.deps = item->deps->entries;
	version.ndeps = item->deps->count;
	return version;
}

/* The handlers of a tracked table; NULL: it is not. */
static const RpTableHandlers *
tracked(Oid relid)
{
	const RpTableHandlers *handlers = OidIsValid(relid) ? rp_handlers_of(relid) : NULL;

	return handlers && handlers->tracked ? handlers : NULL;
}

/* Would a sweep forget the version? */
static bool
is_stable(RpNode *node, const RpSlotVersion *version)
{
	uint64		stable;

	SpinLockAcquire(&node->vector_lock);
	stable = rp_droppable_seq(node, version->slot);
	SpinLockRelease(&node->vector_lock);
	return version->seq <= stable && !rp_handlers_unsettled(node);
}

/* The counter columns, as attribute numbers from 0. */
static Bitmapset *
counters_of(const RpTableHandlers *handlers)
{
	Bitmapset  *counters = NULL;

	for (int i = 0; i < handlers->nmerges; i++)
	{
		if (handlers->merges[i].kind == RP_MERGE_COUNTER)
			counters = bms_add_member(counters, handlers->merges[i].attno - 1);
	}
	return counters;
}

/* What rp_keyset_image looks for, and where it puts it. */
typedef struct ImageSearch
{
	Oid			relid;
	RpKeyHash	key;
	uint32		step;
	TupleTableSlot *base;
	TupleTableSlot *slot;
	MemoryContext context;		/* of the values */
	bool		found;
} ImageSearch;

void
rp_keyset_image(RpRelationMap *map, RpKeyHash key, const P2pKeyVersion *version,
				TupleTableSlot *base, TupleTableSlot *slot)
{
	RpNode	   *node = rp_node_current();
	ImageSearch search = {map->relid, key, version->step, base, slot, CurrentMemoryContext, false};
	int			member = ((RpKeyPayload *) version->payload)->slot;

	Assert(version->op != P2P_OP_DELETE);
	if (!rp_log_pass_one(node, member, version->version.dot.seq, image_visit, &search) ||
		!search.found)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the change log here does not have the row that transaction " UINT64_FORMAT
						" of node \"%s\" gave table \"%s.%s\"",
						version->version.dot.seq, node->members[member].name,
						map->remote.schema, map->remote.name),
				 errhint("If the table's replica identity was changed since, wait until that transaction is stable everywhere.")));
}

/* Is this the operation that is looked for? Then put its row together. */
static bool
image_visit(const RpPassItem *item, void *arg)
{
	ImageSearch *search = arg;
	RpRelationMap *map;
	MemoryContext old;
	RpKeyHash	key;
	bool	   *given;
	bool	   *unavailable;

	if (item->new_values == NULL || rp_step_storing(item->number) != search->step)
		return true;
	map = rp_pass_map(item->table);
	if (map->relid != search->relid || !map->has_key)
		return false;
	given = palloc_array(bool, Max(map->natts, 1));
	unavailable = palloc_array(bool, Max(map->natts, 1));

	old = MemoryContextSwitchTo(search->context);
	rp_values_to_slot(map, item->new_values, search->slot, given, unavailable);
	MemoryContextSwitchTo(old);
	if (search->base)
		slot_getallattrs(search->base);
	for (int a = 0; a < map->natts; a++)
	{
		if ((given[a] && !unavailable[a]) || search->base == NULL)
			continue;
		search->slot->tts_values[a] = search->base->tts_values[a];
		search->slot->tts_isnull[a] = search->base->tts_isnull[a];
	}
	key = rp_key_hash(map, search->slot);
	search->found = key.h1 == search->key.h1 && key.h2 == search->key.h2;
	return false;
}
