/*
 * keyindex.c
 *	  Tombstones, truncate versions and versions of copied rows: an index over
 *	  the change logs, held by apply alone.
 *
 * Every delete that is not yet stable stands in a change log of this node: a
 * remote one in its origin's log, a local one in our own as soon as capture
 * has passed it. So the index needs no storage of its own: apply rebuilds it
 * from the logs when it starts, adds the remote deletes that it applies, and
 * follows the own log before it relies on "no row, no tombstone".
 *
 * A joiner's rows were copied and carry the copy's xid. The versions of those
 * that are not stable stand in the logs, which it pulls from their oldest
 * batch on; every key in them up to the snapshot's vector is remembered as a
 * row. What is not found is older than everything.
 *
 * Keys are known by a 128-bit hash made with the hash functions of the key's
 * types, so that values which compare equal are one key whatever their bytes.
 * Memory: 48 bytes an entry. From 64 MB on the table lives in a mapped,
 * unlinked file, so that a peer which is down for a day costs disk, not memory.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "p2p_stamp.h"

#include "changelog.h"
#include "keyindex.h"

typedef struct KeyEntry
{
	RpKeyHash	key;
	P2pStamp	stamp;
	uint64		seq;
	uint16		slot;
	bool		is_row;
	char		status;			/* of simplehash */
} KeyEntry;

static void *index_allocate(void *unused, Size size);
static void index_free(void *unused, void *pointer);

#define SH_PREFIX keys
#define SH_ELEMENT_TYPE KeyEntry
#define SH_KEY_TYPE RpKeyHash
#define SH_KEY key
#define SH_HASH_KEY(tb, k) ((uint32) (k).h1)
#define SH_EQUAL(tb, a, b) ((a).h1 == (b).h1 && (a).h2 == (b).h2)
#define SH_SCOPE static inline
#define SH_USE_NONDEFAULT_ALLOCATOR
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct TruncateEntry
{
	Oid			table;
	RpSlotVersion version;
} TruncateEntry;

#define MAPPED_FROM ((Size) 64 * 1024 * 1024)

static RpNode *our_node;
static keys_hash *keys = NULL;
static HTAB *truncates = NULL;	/* by table */

/* State of one pass over a log. */
typedef struct LogPass
{
	int			slot;
	uint64		copied_seq;
	P2pRelation *described;		/* by relno of the current body, as are the next two */
	RpRelationMap **maps;		/* filled when first needed */
	TupleTableSlot **slots;
	uint32		nrelations;
	RpSlotVersion version;		/* of the current transaction */
	const RpKeyHash *wanted;	/* look for this row instead of remembering: rp_keyindex_wrote */
	bool		found;
	uint64		seq;			/* read up to */
	RpLogReader *log;
	P2pBatch   *batch;
	P2pBodyReader *body_reader;
	void	   *body_memory;
	P2pItem    *item;
	MemoryContext body_context;
} LogPass;

static void pass_body(LogPass *pass, P2pBlock *body, const P2pVector *deps);
static void pass_item(LogPass *pass, P2pBodyReader *r, P2pItem *item);
static void pass_describe(LogPass *pass, const P2pRelation *relation);
static void pass_key(LogPass *pass, uint32 relno, const P2pValue *values, bool is_row);

/*
 * The hash table's memory. Large pieces are mapped from an unlinked file in
 * the database's folder; a word in front says which kind a piece is.
 */
typedef struct PieceHeader
{
	Size		mapped;			/* length of the mapping, 0 = palloc */
	Size		padding;
} PieceHeader;

static void *
index_allocate(void *unused, Size size)
{
	PieceHeader *piece;
	Size		whole = size + sizeof(PieceHeader);

	if (whole < MAPPED_FROM)
	{
		piece = MemoryContextAllocExtended(TopMemoryContext, whole,
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		piece->mapped = 0;
	}
	else
	{
		char	   *path = psprintf("%s/keyindex.tmp", rp_directory_path(our_node->dboid));
		int			fd = BasicOpenFile(path, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);

		if (fd < 0 || unlink(path) != 0 || ftruncate(fd, (off_t) whole) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not make room for the key index in \"%s\": %m", path)));
		piece = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (piece == MAP_FAILED)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("could not map the key index of %zu bytes: %m", whole)));
		piece->mapped = whole;
	}
	return piece + 1;
}

static void
index_free(void *unused, void *pointer)
{
	PieceHeader *piece = (PieceHeader *) pointer - 1;

	if (piece->mapped > 0)
		munmap(piece, piece->mapped);
	else
		pfree(piece);
}

static inline void *
keys_allocate(keys_hash *type, Size size)
{
	return index_allocate(type, size);
}

static inline void
keys_free(keys_hash *type, void *pointer)
{
	index_free(type, pointer);
}

void
rp_keyindex_init(RpNode *node)
{
	HASHCTL		ctl = {0};

	our_node = node;
	keys = keys_create(TopMemoryContext, 1024, NULL);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(TruncateEntry);
	ctl.hcxt = TopMemoryContext;
	truncates = hash_create("replp2p truncates", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

int
rp_slot_version_compare(const RpSlotVersion *a, const RpSlotVersion *b)
{
	if (a->stamp != b->stamp)
		return a->stamp < b->stamp ? -1 : 1;
	if (a->slot != b->slot)
		return p2p_origin_compare(&our_node->members[a->slot].origin,
								  &our_node->members[b->slot].origin);
	if (a->seq != b->seq)
		return a->seq < b->seq ? -1 : 1;
	return 0;
}

void
rp_keyindex_put(RpKeyHash key, const RpSlotVersion *version, bool is_row)
{
	bool		found;
	KeyEntry   *entry = keys_insert(keys, key, &found);

	if (found)
	{
		RpSlotVersion old = {entry->slot, entry->seq, entry->stamp};

		/* within one transaction the later operation counts */
		if (rp_slot_version_compare(&old, version) > 0)
			return;
	}
	entry->slot = version->slot;
	entry->seq = version->seq;
	entry->stamp = version->stamp;
	entry->is_row = is_row;
}

void
rp_keyindex_put_truncate(Oid table, const RpSlotVersion *version)
{
	bool		found;
	TruncateEntry *entry = hash_search(truncates, &table, HASH_ENTER, &found);

	if (!found || rp_slot_version_compare(&entry->version, version) < 0)
		entry->version = *version;
}

bool
rp_keyindex_tombstone(Oid table, RpKeyHash key, RpSlotVersion *version)
{
	KeyEntry   *entry = keys_lookup(keys, key);
	TruncateEntry *truncate = hash_search(truncates, &table, HASH_FIND, NULL);
	bool		found = false;

	if (entry && !entry->is_row)
	{
		*version = (RpSlotVersion) {entry->slot, entry->seq, entry->stamp};
		found = true;
	}
	if (truncate && (!found || rp_slot_version_compare(version, &truncate->version) < 0))
	{
		*version = truncate->version;
		found = true;
	}
	return found;
}

bool
rp_keyindex_copied_row(RpKeyHash key, RpSlotVersion *version)
{
	KeyEntry   *entry = keys_lookup(keys, key);

	if (!entry || !entry->is_row)
		return false;
	*version = (RpSlotVersion) {entry->slot, entry->seq, entry->stamp};
	return true;
}

void
rp_keyindex_sweep(const uint64 *stable_by_slot, int nslots)
{
	keys_iterator scan;
	KeyEntry   *entry;
	HASH_SEQ_STATUS tables;
	TruncateEntry *truncate;

	keys_start_iterate(keys, &scan);
	while ((entry = keys_iterate(keys, &scan)) != NULL)
	{
		if (entry->slot < nslots && entry->seq <= stable_by_slot[entry->slot])
			keys_delete_item(keys, entry);
	}
	hash_seq_init(&tables, truncates);
	while ((truncate = hash_seq_search(&tables)) != NULL)
	{
		if (truncate->version.slot < nslots &&
			truncate->version.seq <= stable_by_slot[truncate->version.slot])
			hash_search(truncates, &truncate->table, HASH_REMOVE, NULL);
	}
}

/* Start a pass in CurrentMemoryContext, standing after after_seq; false: nothing to read there yet. */
static bool
pass_open(LogPass *pass, int slot, const P2pOrigin *origin, uint64 after_seq, uint64 copied_seq)
{
	memset(pass, 0, sizeof(*pass));
	pass->slot = slot;
	pass->copied_seq = copied_seq;
	pass->seq = after_seq;
	pass->described = palloc(sizeof(P2pRelation) * P2P_MAX_BODY_RELATIONS);
	pass->maps = palloc(sizeof(RpRelationMap *) * P2P_MAX_BODY_RELATIONS);
	pass->slots = palloc(sizeof(TupleTableSlot *) * P2P_MAX_BODY_RELATIONS);
	pass->body_reader = palloc(sizeof(P2pBodyReader));
	pass->body_memory = palloc(p2p_body_reader_memory());
	pass->item = palloc(sizeof(P2pItem));
	pass->batch = palloc(sizeof(P2pBatch));
	pass->body_context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass body",
											   ALLOCSET_DEFAULT_SIZES);
	pass->log = rp_log_open_reader(our_node->dboid, origin);
	return rp_log_seek(pass->log, after_seq, 0, after_seq == 0);
}

/* Read on, up to limit_seq. */
static void
pass_run(LogPass *pass, uint64 limit_seq)
{
	P2pBlock	bytes;
	P2pStatus	status;

	while ((status = rp_log_read(pass->log, limit_seq, &bytes, pass->batch)) == P2P_OK)
	{
		P2pBlock	body;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		status = rp_log_unpack(pass->log, pass->batch, &body);
		if (status != P2P_OK)
			break;
		old = MemoryContextSwitchTo(pass->body_context);
		pass_body(pass, &body, &pass->batch->deps);
		MemoryContextSwitchTo(old);
		MemoryContextReset(pass->body_context);
		if (pass->batch->span.final)
		{
			pass->seq = pass->batch->span.last_seq;
			if (pass->wanted)
				return;			/* one transaction was asked for */
		}
	}
	if (status != P2P_END)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change log of node \"%s\" cannot be read after seq " UINT64_FORMAT ": %s",
						our_node->members[pass->slot].name, pass->seq, p2p_status_text(status))));
}

uint64
rp_keyindex_read_log(int slot, const P2pOrigin *origin, uint64 after_seq, uint64 limit_seq,
					 uint64 copied_seq)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LogPass    *pass = palloc(sizeof(LogPass));
	uint64		seq;

	if (pass_open(pass, slot, origin, after_seq, copied_seq))
		pass_run(pass, limit_seq);
	seq = pass->seq;
	rp_log_close_reader(pass->log);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return seq;
}

bool
rp_keyindex_wrote(int slot, uint64 seq, RpKeyHash key)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p log pass",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LogPass    *pass = palloc(sizeof(LogPass));
	uint64		stored;
	bool		found;

	SpinLockAcquire(&our_node->vector_lock);
	stored = our_node->members[slot].stored_seq;
	SpinLockRelease(&our_node->vector_lock);
	if (pass_open(pass, slot, &our_node->members[slot].origin, seq - 1, PG_UINT64_MAX))
	{
		pass->wanted = &key;
		pass_run(pass, stored);
	}
	found = pass->found;
	rp_log_close_reader(pass->log);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

/* The standing pass over the own log; dropped and begun again after an error in it. */
static LogPass own_pass;
static MemoryContext own_context = NULL;
static uint64 own_seq = 0;
static bool own_broken = false;	/* not in a state to go on from: open it again */

void
rp_keyindex_start_own(uint64 after_seq)
{
	own_seq = after_seq;
	own_broken = true;
}

/* Begin the standing pass anew; what was trimmed meanwhile is stable and needs no index. */
static void
own_open(void)
{
	if (own_context == NULL)
		own_context = AllocSetContextCreate(TopMemoryContext, "replp2p own log pass",
											ALLOCSET_DEFAULT_SIZES);
	else
	{
		if (own_pass.log)
			rp_log_close_reader(own_pass.log);
		own_pass.log = NULL;
		MemoryContextReset(own_context);
	}
	MemoryContextSwitchTo(own_context);
	if (!pass_open(&own_pass, RP_SELF, &our_node->members[RP_SELF].origin, own_seq, 0))
		(void) rp_log_seek(own_pass.log, 0, 0, true);
}

void
rp_keyindex_follow_own(uint64 limit_seq)
{
	MemoryContext old = CurrentMemoryContext;

	for (int attempt = 0; own_seq < limit_seq; attempt++)
	{
		if (attempt > 1)
			elog(ERROR, "own change log ends before transaction " UINT64_FORMAT, limit_seq);
		if (own_broken)
			own_open();
		own_broken = true;		/* until it has gone well */
		MemoryContextSwitchTo(own_context);
		pass_run(&own_pass, limit_seq);
		own_seq = own_pass.seq;
		own_broken = own_seq < limit_seq;
	}
	MemoryContextSwitchTo(old);
}

/* Remember what one body says, of the transactions after pass->seq. Current context: one body's. */
static void
pass_body(LogPass *pass, P2pBlock *body, const P2pVector *deps)
{
	P2pBodyReader *r = pass->body_reader;
	P2pItem    *item = pass->item;
	P2pStatus	status;

	pass->nrelations = 0;
	p2p_body_reader_init(r, pass->body_memory, body->bytes, body->length, deps);

	while ((status = p2p_body_next(r, item)) == P2P_OK)
	{
		if (item->tag == P2P_TAG_RELATION)
			pass_describe(pass, &item->relation);
		else if (item->tag == P2P_TAG_BEGIN)
			pass->version = (RpSlotVersion) {(uint16) pass->slot, item->begin.seq, item->begin.stamp};
		else if (pass->version.seq > pass->seq &&
				 (pass->wanted == NULL || pass->version.seq == pass->seq + 1))
			pass_item(pass, r, item);
	}
	if (status != P2P_END)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a batch of node %s is malformed: %s",
						our_node->members[pass->slot].name, p2p_status_text(status))));
	for (uint32 i = 0; i < pass->nrelations; i++)
	{
		if (pass->slots[i])
			ExecDropSingleTupleTableSlot(pass->slots[i]);
	}
}

/* Keep a copy of a relation's description: its columns live only until the next item. */
static void
pass_describe(LogPass *pass, const P2pRelation *relation)
{
	P2pRelation *copy = &pass->described[relation->relno];

	*copy = *relation;
	copy->columns = palloc(sizeof(P2pColumn) * Max(relation->ncolumns, 1));
	memcpy(copy->columns, relation->columns, sizeof(P2pColumn) * relation->ncolumns);
	pass->maps[relation->relno] = NULL;
	pass->slots[relation->relno] = NULL;
	pass->nrelations = relation->relno + 1;
}

static void
pass_item(LogPass *pass, P2pBodyReader *r, P2pItem *item)
{
	bool		copied = pass->version.seq <= pass->copied_seq;

	switch (item->tag)
	{
		case P2P_TAG_DELETE:
			pass_key(pass, item->relno, r->old_values, false);
			break;
		case P2P_TAG_UPDATE:
			if (item->has_old)
				pass_key(pass, item->relno, r->old_values, false);
			if (copied)
				pass_key(pass, item->relno, r->new_values, true);
			break;
		case P2P_TAG_INSERT:
			if (copied)
				pass_key(pass, item->relno, r->new_values, true);
			break;
		case P2P_TAG_TRUNCATE:
			for (uint32 i = 0; i < item->nrelnos && pass->wanted == NULL; i++)
			{
				RpRelationMap *map = rp_relation_map(&pass->described[r->relnos[i]]);

				if (OidIsValid(map->relid))
					rp_keyindex_put_truncate(map->relid, &pass->version);
			}
			break;
		case P2P_TAG_RELATION:
		case P2P_TAG_BEGIN:
		case P2P_TAG_COMMIT:
			break;
	}
}

/* Put the key of one tuple; a table that is not here any more has no keys. */
static void
pass_key(LogPass *pass, uint32 relno, const P2pValue *values, bool is_row)
{
	RpRelationMap *map = pass->maps[relno];
	RpKeyHash	key;

	if (map == NULL)
	{
		map = pass->maps[relno] = rp_relation_map(&pass->described[relno]);
		if (OidIsValid(map->relid) && map->has_key)
		{
			Relation	rel = RelationIdGetRelation(map->relid);

			pass->slots[relno] = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)),
														  &TTSOpsVirtual);
			RelationClose(rel);
		}
	}
	if (pass->slots[relno] == NULL)
		return;
	rp_values_to_slot(map, values, pass->slots[relno], NULL, NULL);
	key = rp_key_hash(map, pass->slots[relno]);
	if (pass->wanted == NULL)
		rp_keyindex_put(key, &pass->version, is_row);
	else if (is_row && key.h1 == pass->wanted->h1 && key.h2 == pass->wanted->h2)
		pass->found = true;
}
