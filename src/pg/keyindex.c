/*
 * keyindex.c
 *	  Tombstones, truncate versions and versions of copied rows: an index over
 *	  the change logs, held by apply alone.
 *
 * Every delete that is not yet stable stands in a change log of this node: a
 * remote one in its origin's log, a local one in our own as soon as capture
 * has passed it. So the index needs no storage of its own: apply rebuilds it
 * from the logs when it starts, adds the remote deletes that it applies, and
 * follows the own log before it relies on "no row, no tombstone" (ownlog.c).
 *
 * A joiner's rows were copied and carry the copy's xid. The versions of those
 * that are not stable stand in the logs, which it pulls from their oldest
 * batch on; every key in them up to the snapshot's vector is remembered as a
 * row. What is not found is older than everything.
 *
 * What a transaction deletes comes in after its commit: one that fails, and
 * is tried again later, must not beat anything meanwhile. Within itself it has no
 * use for it, since the later operation of one version wins; nor has a group of transactions
 * that commits at once, since a later one of the same origin wins.
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

#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "p2p_stamp.h"

#include "changelog.h"
#include "groupnote.h"
#include "hashtable.h"
#include "keyindex.h"
#include "logpass.h"

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

static bool wrote_visit(const RpPassItem *item, void *arg);

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
	our_node = node;
	keys = keys_create(TopMemoryContext, 1024, NULL);
	truncates = rp_hash_make("replp2p truncates", TopMemoryContext, 64, sizeof(Oid),
							 sizeof(TruncateEntry));
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

/* Where in the arrays the deletes of one version end. */
typedef struct DeleteRun
{
	RpSlotVersion version;
	size_t		nkeys;
	size_t		ntables;
} DeleteRun;

/* What the local transaction at hand deletes, version after version (there are several in a group). */
static struct
{
	DeleteRun	runs[RP_GROUP_MAX];
	int			nruns;
	RpKeyHash  *keys;
	size_t		nkeys;
	size_t		max_keys;
	Oid		   *tables;
	size_t		ntables;
	size_t		max_tables;
}			deletes;

#define DELETES_KEPT 65536		/* room for so many is kept from transaction to transaction */

/* Make room for one more in an array of the worker's life. */
static void *
array_extend(void *array, size_t n, size_t *max, size_t size)
{
	if (n < *max)
		return array;
	*max = Max(64, *max * 2);
	if (array == NULL)
		return MemoryContextAllocHuge(TopMemoryContext, *max * size);
	return repalloc_huge(array, *max * size);
}

/* The array of keys or tables has got one more of this version. */
static void
run_extend(const RpSlotVersion *version)
{
	DeleteRun  *run = deletes.nruns == 0 ? NULL : &deletes.runs[deletes.nruns - 1];

	if (run == NULL || run->version.seq != version->seq)
	{
		Assert(deletes.nruns < RP_GROUP_MAX);
		run = &deletes.runs[deletes.nruns++];
		run->version = *version;
	}
	run->nkeys = deletes.nkeys;
	run->ntables = deletes.ntables;
}

void
rp_keyindex_delete(RpKeyHash key, const RpSlotVersion *version)
{
	deletes.keys = array_extend(deletes.keys, deletes.nkeys, &deletes.max_keys, sizeof(RpKeyHash));
	deletes.keys[deletes.nkeys++] = key;
	run_extend(version);
}

void
rp_keyindex_truncate(Oid table, const RpSlotVersion *version)
{
	deletes.tables = array_extend(deletes.tables, deletes.ntables, &deletes.max_tables, sizeof(Oid));
	deletes.tables[deletes.ntables++] = table;
	run_extend(version);
}

void
rp_keyindex_commit(void)
{
	PG_TRY();
	{
		size_t		key = 0;
		size_t		table = 0;

		for (int i = 0; i < deletes.nruns; i++)
		{
			const DeleteRun *run = &deletes.runs[i];

			for (; key < run->nkeys; key++)
				rp_keyindex_put(deletes.keys[key], &run->version, false);
			for (; table < run->ntables; table++)
				rp_keyindex_put_truncate(deletes.tables[table], &run->version);
		}
	}
	PG_CATCH();
	{
		EmitErrorReport();
		proc_exit(1);
	}
	PG_END_TRY();
	rp_keyindex_abort();
}

void
rp_keyindex_abort(void)
{
	deletes.nruns = 0;
	deletes.nkeys = 0;
	deletes.ntables = 0;
	if (deletes.max_keys <= DELETES_KEPT)
		return;
	pfree(deletes.keys);
	deletes.keys = NULL;
	deletes.max_keys = 0;
}

bool
rp_keyindex_tombstone(Oid table, RpKeyHash key, RpSlotVersion *version)
{
	KeyEntry   *entry = keys->members == 0 ? NULL : keys_lookup(keys, key);
	TruncateEntry *truncate = hash_get_num_entries(truncates) == 0 ? NULL :
		hash_search(truncates, &table, HASH_FIND, NULL);
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

/* Put the keys that one item deletes; with copied_seq, also those of rows up to it. */
void
rp_keyindex_visit(const RpPassItem *item, uint64 copied_seq)
{
	bool		copied = item->version.seq <= copied_seq;
	RpPassKeys	keys;

	if (item->tag == P2P_TAG_TRUNCATE)
	{
		for (int i = 0; i < item->ntables; i++)
		{
			Oid			relid = rp_pass_relid(item->tables[i]);

			if (OidIsValid(relid))
				rp_keyindex_put_truncate(relid, &item->version);
		}
		return;
	}
	if (item->old_values == NULL && !copied)
		return;					/* an update that keeps its key, or an insert */
	if (!rp_pass_keys(item, NULL, &keys))
		return;
	if (item->tag == P2P_TAG_DELETE || keys.moved)
		rp_keyindex_put(keys.old_key, &item->version, false);
	if (copied && keys.new)
		rp_keyindex_put(keys.new_key, &item->version, true);
}

/* What rp_keyindex_wrote looks for. */
typedef struct WroteSearch
{
	RpKeyHash	key;
	bool		found;
} WroteSearch;

bool
rp_keyindex_wrote(int slot, uint64 seq, RpKeyHash key)
{
	WroteSearch search = {key, false};

	(void) rp_log_pass_one(our_node, slot, seq, wrote_visit, &search);
	return search.found;
}

/* Does the item store the row that is looked for? Then it is enough. */
static bool
wrote_visit(const RpPassItem *item, void *arg)
{
	WroteSearch *search = arg;
	RpPassKeys	keys;

	if (item->new_values == NULL || !rp_pass_keys(item, NULL, &keys))
		return true;
	search->found = keys.new_key.h1 == search->key.h1 && keys.new_key.h2 == search->key.h2;
	return !search->found;
}
