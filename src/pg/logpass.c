/*
 * logpass.c
 *	  Walking the change log of one member, item by item.
 *
 * A pass opens batch after batch, keeps the descriptions of the current body,
 * numbers the items of each transaction (step.h) and hands them to its
 * visitor. It is for indexes, which want little of most items: so values stay
 * bytes, and tables names, until the visitor asks for more. Then columns that are not of the
 * key are left undecoded; and what has no place here any more (a column
 * dropped since, a table dropped) is passed over, not an error: the log also
 * describes tables as they were.
 *
 * A log is trimmed from its beginning while it is read. What is trimmed is
 * stable, and no index needs it: the pass goes on at what is left.
 *
 * Memory: the pass's own context, below the caller's; one for the body; one
 * for the item, in which the visitor runs.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "barrier.h"
#include "changelog.h"
#include "logpass.h"

struct RpPassTable
{
	P2pRelation described;
	Oid			relid;
	bool		relid_known;
	RpRelationMap *map;			/* NULL: not asked for yet, as are the next two */
	TupleTableSlot *old;
	TupleTableSlot *new;
};

struct RpLogPass
{
	RpNode	   *node;
	int			slot;
	RpPassVisit visit;
	void	   *arg;
	bool		positioned;		/* the log reader stands somewhere */
	bool		enough;			/* the visitor has said so */
	uint64		seq;			/* read whole up to */
	uint64		until_seq;		/* visit nothing behind it, though its batch may go on */
	uint64		only_seq;		/* visit this transaction only; 0 = all */
	RpPassItem	item;			/* version and number go on from one to the next */
	RpLogReader *log;
	uint64		opened;			/* RpLogExtent */
	uint64		durable_seq;
	P2pBatch	batch;
	P2pBodyReader reader;
	void	   *reader_memory;
	P2pItem		raw;
	RpPassTable **tables;		/* by relno of the current body */
	MemoryContext body_context;
	MemoryContext item_context;
};

static RpLogPass *pass_create(RpNode *node, int slot, uint64 after_seq, RpPassVisit visit,
							  void *arg);
static bool pass_seek_oldest(RpLogPass *pass);
static void pass_look(RpLogPass *pass);
static P2pStatus pass_batches(RpLogPass *pass, uint64 limit_seq);
static void pass_body(RpLogPass *pass, const P2pBlock *body);
static void pass_describe(RpLogPass *pass, const P2pRelation *relation);
static void pass_transaction(RpLogPass *pass, const P2pBegin *begin);
static void pass_change(RpLogPass *pass);
static TupleTableSlot *table_slot(RpPassTable *table, TupleTableSlot **slot);
static const P2pValue *values_wanted(RpPassTable *table, const P2pValue *values,
									 const P2pValue *instead, const Bitmapset *also);
static bool key_is_given(RpPassTable *table, const P2pValue *values);

uint64
rp_log_pass(RpNode *node, int slot, uint64 after_seq, uint64 limit_seq, RpPassVisit visit,
			void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RpLogPass  *pass = rp_pass_begin(node, slot, after_seq, visit, arg);
	uint64		seq;

	pass->until_seq = limit_seq;
	seq = rp_pass_run(pass, Max(limit_seq, rp_log_extent(node, slot).readable_seq));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return seq;
}

bool
rp_log_pass_one(RpNode *node, int slot, uint64 seq, RpPassVisit visit, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RpLogPass  *pass = pass_create(node, slot, seq - 1, visit, arg);
	uint64		readable;
	bool		there;

	/* an own one may have been lost, and be about to be made again: capture_batch.c */
	if (slot == RP_SELF && rp_log_extent(node, slot).readable_seq < seq)
		rp_barrier(node, 0);
	readable = rp_log_extent(node, slot).readable_seq;

	pass->until_seq = seq;
	pass->only_seq = seq;
	pass->positioned = readable >= seq && rp_log_seek(pass->log, seq - 1, 0, false);
	there = pass->positioned;
	if (there)
		there = rp_pass_run(pass, readable) >= seq || pass->enough;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return there;
}

RpLogPass *
rp_pass_begin(RpNode *node, int slot, uint64 after_seq, RpPassVisit visit, void *arg)
{
	RpLogPass  *pass = pass_create(node, slot, after_seq, visit, arg);

	pass->positioned = rp_log_seek(pass->log, after_seq, 0, false) || pass_seek_oldest(pass);
	return pass;
}

/* Stand at the oldest transaction that is left; false: the log is empty. */
static bool
pass_seek_oldest(RpLogPass *pass)
{
	pass->item.version.seq = 0;
	return rp_log_seek(pass->log, 0, 0, true);
}

/* Make a pass that stands nowhere yet. */
static RpLogPass *
pass_create(RpNode *node, int slot, uint64 after_seq, RpPassVisit visit, void *arg)
{
	RpLogPass  *pass = palloc0_object(RpLogPass);

	pass->node = node;
	pass->slot = slot;
	pass->visit = visit;
	pass->arg = arg;
	pass->seq = after_seq;
	pass->until_seq = PG_UINT64_MAX;
	pass->tables = palloc_array(RpPassTable *, P2P_MAX_BODY_RELATIONS);
	pass->reader_memory = palloc(p2p_body_reader_memory());
	pass->body_context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass body",
											   ALLOCSET_DEFAULT_SIZES);
	pass->item_context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass item",
											   ALLOCSET_DEFAULT_SIZES);
	pass->opened = rp_log_extent(node, slot).opened;
	pass->log = rp_log_open_reader(node->dboid, &node->members[slot].origin);
	return pass;
}

uint64
rp_pass_run(RpLogPass *pass, uint64 limit_seq)
{
	P2pStatus	status = P2P_END;
	Oid			save_user;
	int			save_sec;

	pass_look(pass);
	if (!pass->positioned && pass->only_seq == 0)
		pass->positioned = pass_seek_oldest(pass);
	if (!pass->positioned)
		return pass->seq;

	/* names are looked up as the worker's user, whoever's change is being applied meanwhile */
	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(GetSessionUserId(), save_sec);
	do
	{
		status = pass_batches(pass, limit_seq);
		if (status == P2P_REFUSED)
			pass->positioned = pass->only_seq == 0 && pass_seek_oldest(pass);
	} while (status == P2P_REFUSED && pass->positioned);
	SetUserIdAndSecContext(save_user, save_sec);

	if (status != P2P_END && status != P2P_REFUSED)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change log of node \"%s\" cannot be read after seq " UINT64_FORMAT ": %s",
						pass->node->members[pass->slot].name, pass->seq, p2p_status_text(status))));
	return Min(pass->seq, pass->until_seq);
}

/* Look how far the log is durable; if it may have been cut since the last look, seek anew. */
static void
pass_look(RpLogPass *pass)
{
	RpLogExtent extent = rp_log_extent(pass->node, pass->slot);

	if (pass->positioned && pass->opened != extent.opened)
		pass->positioned = rp_log_seek(pass->log, pass->seq, 0, false);
	pass->opened = extent.opened;
	pass->durable_seq = extent.durable_seq;
}

/*
 * Visit batch after batch. A reader takes a batch only as a whole, so limit_seq is where the
 * log ends and not where the visits do. P2P_END at either, or when the visitor has enough.
 */
static P2pStatus
pass_batches(RpLogPass *pass, uint64 limit_seq)
{
	MemoryContext old = CurrentMemoryContext;

	while (!pass->enough && pass->seq < pass->until_seq)
	{
		RpLogLimit	limit = {limit_seq, 0, pass->seq >= pass->durable_seq};
		P2pBlock	bytes;
		P2pBlock	body;
		P2pStatus	status;

		CHECK_FOR_INTERRUPTS();
		status = rp_log_read_to(pass->log, &limit, &bytes, &pass->batch);
		if (status == P2P_OK)
			status = rp_log_unpack(pass->log, &pass->batch, &body);
		if (status != P2P_OK)
			return status;
		MemoryContextSwitchTo(pass->body_context);
		pass_body(pass, &body);
		MemoryContextSwitchTo(old);
		MemoryContextReset(pass->body_context);
		if (pass->batch.span.final)
			pass->seq = pass->batch.span.last_seq;
	}
	return P2P_END;
}

/* Visit the items of one body, of the transactions after pass->seq. In the body's memory. */
static void
pass_body(RpLogPass *pass, const P2pBlock *body)
{
	MemoryContext old = CurrentMemoryContext;
	P2pStatus	status;

	p2p_body_reader_init(&pass->reader, pass->reader_memory, body->bytes, body->length,
						 &pass->batch.deps);
	while (!pass->enough && (status = p2p_body_next(&pass->reader, &pass->raw)) != P2P_END)
	{
		if (status != P2P_OK)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a batch of node \"%s\" is malformed: %s",
							pass->node->members[pass->slot].name, p2p_status_text(status))));
		if (pass->raw.tag == P2P_TAG_RELATION)
			pass_describe(pass, &pass->raw.relation);
		else if (pass->raw.tag == P2P_TAG_BEGIN)
			pass_transaction(pass, &pass->raw.begin);
		else if (pass->raw.tag != P2P_TAG_COMMIT)
		{
			MemoryContextSwitchTo(pass->item_context);
			pass_change(pass);
			MemoryContextSwitchTo(old);
			MemoryContextReset(pass->item_context);
		}
	}
}

/* Keep a copy of a description: the reader's columns live only until the next item. */
static void
pass_describe(RpLogPass *pass, const P2pRelation *relation)
{
	RpPassTable *table = palloc0_object(RpPassTable);

	table->described = *relation;
	table->described.columns = palloc_array(P2pColumn, Max(relation->ncolumns, 1));
	memcpy(table->described.columns, relation->columns, sizeof(P2pColumn) * relation->ncolumns);
	pass->tables[relation->relno] = table;
}

/* Begin a transaction, or a further part of one, whose items are then counted on. */
static void
pass_transaction(RpLogPass *pass, const P2pBegin *begin)
{
	if (begin->seq == pass->item.version.seq)
		return;
	pass->item.version = (RpSlotVersion) {(uint16) pass->slot, begin->seq, begin->stamp};
	pass->item.number = 0;
}

/* Number the change that was just read, and have it visited if it is asked for. */
static void
pass_change(RpLogPass *pass)
{
	RpPassItem *item = &pass->item;
	P2pItem    *raw = &pass->raw;

	item->number++;
	if (item->version.seq <= pass->seq || item->version.seq > pass->until_seq ||
		(pass->only_seq != 0 && item->version.seq != pass->only_seq))
		return;
	item->tag = raw->tag;
	item->deps = &pass->reader.deps;
	item->table = NULL;
	item->old_values = NULL;
	item->new_values = NULL;
	item->ntables = 0;
	if (raw->tag == P2P_TAG_TRUNCATE)
	{
		item->ntables = (int) raw->nrelnos;
		item->tables = palloc_array(RpPassTable *, Max(raw->nrelnos, 1));
		for (uint32 i = 0; i < raw->nrelnos; i++)
			item->tables[i] = pass->tables[pass->reader.relnos[i]];
	}
	else
	{
		item->table = pass->tables[raw->relno];
		if (raw->has_old)
			item->old_values = pass->reader.old_values;
		if (raw->tag != P2P_TAG_DELETE)
			item->new_values = pass->reader.new_values;
	}
	if (!pass->visit(item, pass->arg))
		pass->enough = true;
}

Oid
rp_pass_relid(RpPassTable *table)
{
	if (!table->relid_known)
	{
		RangeVar   *name = makeRangeVar(table->described.schema, table->described.name, -1);

		table->relid = RangeVarGetRelid(name, NoLock, true);
		table->relid_known = true;
	}
	return table->relid;
}

RpRelationMap *
rp_pass_map(RpPassTable *table)
{
	if (table->map == NULL)
		table->map = rp_relation_map_for_reading(&table->described);
	return table->map;
}

/* One of the table's two slots, made when first wanted, in the memory of the body. */
static TupleTableSlot *
table_slot(RpPassTable *table, TupleTableSlot **slot)
{
	if (*slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(table));
		Relation	rel = RelationIdGetRelation(table->map->relid);

		if (!RelationIsValid(rel))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table with OID %u was dropped meanwhile", table->map->relid),
					 errhint("It is tried again by itself.")));
		*slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)), &TTSOpsVirtual);
		RelationClose(rel);
		MemoryContextSwitchTo(old);
	}
	return *slot;
}

bool
rp_pass_keys(const RpPassItem *item, const Bitmapset *also, RpPassKeys *keys)
{
	RpPassTable *table = item->table;
	RpRelationMap *map = rp_pass_map(table);

	memset(keys, 0, sizeof(*keys));
	if (!OidIsValid(map->relid) || !map->has_key)
		return false;
	if (item->old_values)
	{
		keys->old = table_slot(table, &table->old);
		rp_values_to_slot(map, values_wanted(table, item->old_values, NULL, also), keys->old,
						  NULL, NULL);
		keys->old_key = rp_key_hash(map, keys->old);
	}
	if (item->new_values)
	{
		keys->new = table_slot(table, &table->new);
		rp_values_to_slot(map, values_wanted(table, item->new_values, item->old_values, also),
						  keys->new, NULL, NULL);
		keys->new_key = rp_key_hash(map, keys->new);
	}
	keys->moved = keys->old && keys->new && key_is_given(table, item->old_values) &&
		(keys->old_key.h1 != keys->new_key.h1 || keys->old_key.h2 != keys->new_key.h2);
	return true;
}

/*
 * The values with all but those of the key and of also left out; one that is unchanged is taken
 * from instead.
 */
static const P2pValue *
values_wanted(RpPassTable *table, const P2pValue *values, const P2pValue *instead,
			  const Bitmapset *also)
{
	P2pValue   *wanted = palloc0_array(P2pValue, Max(table->described.ncolumns, 1));

	for (uint32 i = 0; i < table->described.ncolumns; i++)
	{
		int			attno = table->map->columns[i].attno;

		wanted[i].kind = P2P_VALUE_ABSENT;
		if ((table->described.columns[i].flags & P2P_COLUMN_KEY) == 0 &&
			(attno < 0 || !bms_is_member(attno, also)))
			continue;
		wanted[i] = values[i];
		if (values[i].kind == P2P_VALUE_UNCHANGED && instead)
			wanted[i] = instead[i];
	}
	return wanted;
}

/* Does a tuple carry the whole key? */
static bool
key_is_given(RpPassTable *table, const P2pValue *values)
{
	for (uint32 i = 0; i < table->described.ncolumns; i++)
	{
		if ((table->described.columns[i].flags & P2P_COLUMN_KEY) != 0 &&
			values[i].kind == P2P_VALUE_ABSENT)
			return false;
	}
	return true;
}
