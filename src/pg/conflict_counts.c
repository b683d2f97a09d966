/*
 * conflict_counts.c
 *	  How many conflicts of which type were met in which table.
 *
 * The history is bounded, so it cannot count; a table of counters would grow a dead row
 * with every conflict, and a transaction with a hundred thousand of them would walk
 * through all of its own dead rows. So the counters stand in shared memory. Apply
 * collects what its transaction has met and adds it when that has committed: what is
 * undone was never met. Nothing else writes here, so what is no conflict is in no counter.
 *
 * They live as the server's own statistics do: over a clean shutdown in a file that
 * apply writes when it leaves and takes up, and removes, when it starts; a crash
 * resets them, and stats_reset says so.
 *
 *	  replp2p/<database oid>/conflict_counts
 *		  header { u32 magic, u32 entries, i64 stats_reset }, RpConflictCount each, u32 CRC-32C
 *
 * The file is read by the server that wrote it, in its byte order, else ignored.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "changelog.h"
#include "conflict_counts.h"
#include "rowbuilder.h"
#include "shmem.h"

#define FILE_MAGIC 0x52504343
#define FILE_NAME "conflict_counts"

/* What of the file comes before the entries. */
typedef struct FileHeader
{
	uint32		magic;
	uint32		n;
	TimestampTz stats_reset;
} FileHeader;

PG_FUNCTION_INFO_V1(rp_get_stat_conflicts);

/* What the running transaction has met. */
static RpConflictCount *met = NULL;
static int	nmet = 0;
static int	max_met = 0;
static RpNode *met_by = NULL;

static RpConflictCount *entry_of(RpConflictCounts *counts, Oid relation, const char *type);
static void entry_add(RpConflictCounts *counts, const RpConflictCount *more);
static void transaction_ended(XactEvent event, void *arg);
static void counts_load(RpNode *node);
static bool file_read(const char *path, FileHeader *header, RpConflictCount *entries);
static void counts_save(int code, Datum arg);
static bool file_write(const char *path, const FileHeader *header, const RpConflictCount *entries);
static pg_crc32c checksum(const FileHeader *header, const RpConflictCount *entries);

void
rp_conflict_counts_open(RpNode *node)
{
	if (met_by != NULL)
		return;
	met_by = node;
	RegisterXactCallback(transaction_ended, NULL);
	counts_load(node);
	on_shmem_exit(counts_save, PointerGetDatum(node));
}

void
rp_conflict_count(RpNode *node, Oid relation, const char *type)
{
	TimestampTz now = GetCurrentTimestamp();

	rp_conflict_counts_open(node);
	for (int i = 0; i < nmet; i++)
	{
		if (met[i].relation == relation && strcmp(met[i].type, type) == 0)
		{
			met[i].count++;
			met[i].last_at = now;
			return;
		}
	}
	if (nmet == max_met)
	{
		max_met = Max(16, max_met * 2);
		met = met == NULL ? MemoryContextAlloc(TopMemoryContext, max_met * sizeof(*met)) :
			repalloc(met, max_met * sizeof(*met));
	}
	memset(&met[nmet], 0, sizeof(*met));
	met[nmet].relation = relation;
	strlcpy(met[nmet].type, type, RP_CONFLICT_TYPE_SIZE);
	met[nmet].count = 1;
	met[nmet].last_at = now;
	nmet++;
}

/* Add what the transaction has met, if it has committed. Raises no error. */
static void
transaction_ended(XactEvent event, void *arg)
{
	RpConflictCounts *counts = &met_by->conflict_counts;

	(void) arg;
	if (nmet == 0 || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		LWLockAcquire(&met_by->lock, LW_EXCLUSIVE);
		for (int i = 0; i < nmet; i++)
			entry_add(counts, &met[i]);
		LWLockRelease(&met_by->lock);
	}
	nmet = 0;
}

/* Return the counter of a table and type, taken if need be; NULL: all are in use. */
static RpConflictCount *
entry_of(RpConflictCounts *counts, Oid relation, const char *type)
{
	int			room = OidIsValid(relation) ? RP_CONFLICT_COUNTS :
		RP_CONFLICT_COUNTS + RP_CONFLICT_OTHERS;
	RpConflictCount *entry;

	for (int i = 0; i < counts->n; i++)
	{
		entry = &counts->entries[i];
		if (entry->relation == relation && strcmp(entry->type, type) == 0)
			return entry;
	}
	if (counts->n >= room)
		return NULL;
	entry = &counts->entries[counts->n++];
	memset(entry, 0, sizeof(*entry));
	entry->relation = relation;
	strlcpy(entry->type, type, RP_CONFLICT_TYPE_SIZE);
	return entry;
}

/* Add to the counter of a table and type, or to that of all tables that have none. */
static void
entry_add(RpConflictCounts *counts, const RpConflictCount *more)
{
	RpConflictCount *entry = entry_of(counts, more->relation, more->type);

	if (entry == NULL)
		entry = entry_of(counts, InvalidOid, more->type);
	if (entry == NULL)
		return;
	entry->count += more->count;
	entry->last_at = Max(entry->last_at, more->last_at);
}

void
rp_conflict_counts_reset(RpConflictCounts *counts)
{
	counts->n = 0;
	counts->stats_reset = GetCurrentTimestamp();
}

void
rp_conflict_counts_prune(RpNode *node)
{
	RpConflictCounts *counts = &node->conflict_counts;
	Oid		   *gone = palloc(sizeof(Oid) * lengthof(counts->entries));
	int			ngone = 0;
	int			kept = 0;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; i < counts->n; i++)
		gone[ngone++] = counts->entries[i].relation;
	LWLockRelease(&node->lock);
	/* catalogs are not looked up under the lock */
	for (int i = 0; i < ngone; i++)
	{
		if (OidIsValid(gone[i]) && !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(gone[i])))
			gone[kept++] = gone[i];
	}
	ngone = kept;
	if (ngone > 0)
	{
		LWLockAcquire(&node->lock, LW_EXCLUSIVE);
		kept = 0;
		for (int i = 0; i < counts->n; i++)
		{
			bool		is_gone = false;

			for (int g = 0; g < ngone && !is_gone; g++)
				is_gone = counts->entries[i].relation == gone[g];
			if (!is_gone)
				counts->entries[kept++] = counts->entries[i];
		}
		counts->n = kept;
		LWLockRelease(&node->lock);
	}
	pfree(gone);
}

/* After a start of the server, add what the last one kept. Its file serves once. */
static void
counts_load(RpNode *node)
{
	RpConflictCounts *counts = &node->conflict_counts;
	char	   *folder = rp_directory_path(node->dboid);
	char	   *path = psprintf("%s/%s", folder, FILE_NAME);
	RpConflictCount *entries = palloc(sizeof(counts->entries));
	FileHeader	header;
	bool		found = file_read(path, &header, entries);

	(void) unlink(path);
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (found && !counts->loaded)
	{
		for (uint32 i = 0; i < header.n; i++)
			entry_add(counts, &entries[i]);
		counts->stats_reset = header.stats_reset;
	}
	counts->loaded = true;
	LWLockRelease(&node->lock);
	pfree(entries);
	pfree(path);
	pfree(folder);
}

/* Read the file; false: it is not there, or not whole. */
static bool
file_read(const char *path, FileHeader *header, RpConflictCount *entries)
{
	FILE	   *file = AllocateFile(path, PG_BINARY_R);
	pg_crc32c	crc;
	bool		whole;

	if (file == NULL)
		return false;
	whole = fread(header, sizeof(*header), 1, file) == 1 && header->magic == FILE_MAGIC &&
		header->n <= RP_CONFLICT_COUNTS + RP_CONFLICT_OTHERS &&
		fread(entries, sizeof(*entries), header->n, file) == header->n &&
		fread(&crc, sizeof(crc), 1, file) == 1 && EQ_CRC32C(crc, checksum(header, entries));
	FreeFile(file);
	if (!whole)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is not what was written; conflicts are counted from zero",
						path)));
	return whole;
}

/* When this process ends: keep the counters, in case that the server does. Locks are released. */
static void
counts_save(int code, Datum arg)
{
	RpNode	   *node = (RpNode *) DatumGetPointer(arg);
	RpConflictCounts *counts = &node->conflict_counts;
	static RpConflictCount entries[lengthof(counts->entries)];
	FileHeader	header = {FILE_MAGIC};
	char		path[MAXPGPATH];
	char		unfinished[MAXPGPATH];

	(void) code;
	if (rp_node_status(node) == RP_NODE_GONE)
		return;
	LWLockAcquire(&node->lock, LW_SHARED);
	header.n = counts->n;
	header.stats_reset = counts->stats_reset;
	memcpy(entries, counts->entries, sizeof(*entries) * counts->n);
	LWLockRelease(&node->lock);

	snprintf(path, sizeof(path), "%s/%u/%s", RP_DIRECTORY, node->dboid, FILE_NAME);
	snprintf(unfinished, sizeof(unfinished), "%s.new", path);
	if (!file_write(unfinished, &header, entries) || rename(unfinished, path) != 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
		(void) unlink(unfinished);
	}
}

/* Write the file; false: not all of it, errno says why. */
static bool
file_write(const char *path, const FileHeader *header, const RpConflictCount *entries)
{
	FILE	   *file = AllocateFile(path, PG_BINARY_W);
	pg_crc32c	crc = checksum(header, entries);
	bool		whole;

	if (file == NULL)
		return false;
	whole = fwrite(header, sizeof(*header), 1, file) == 1 &&
		fwrite(entries, sizeof(*entries), header->n, file) == header->n &&
		fwrite(&crc, sizeof(crc), 1, file) == 1;
	return FreeFile(file) == 0 && whole;
}

static pg_crc32c
checksum(const FileHeader *header, const RpConflictCount *entries)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, sizeof(*header));
	COMP_CRC32C(crc, entries, sizeof(*entries) * header->n);
	FIN_CRC32C(crc);
	return crc;
}

/* stat_conflicts: one row per table and type that was met. */
Datum
rp_get_stat_conflicts(PG_FUNCTION_ARGS)
{
	RpNode	   *node = rp_shared == NULL ? NULL : rp_node_find(MyDatabaseId);
	RpConflictCounts *copy;
	RpRow		row;

	rp_row_begin(&row, fcinfo);
	if (node == NULL)
		return (Datum) 0;
	copy = palloc(sizeof(RpConflictCounts));
	LWLockAcquire(&node->lock, LW_SHARED);
	*copy = node->conflict_counts;
	LWLockRelease(&node->lock);
	for (int i = 0; i < copy->n; i++)
	{
		if (OidIsValid(copy->entries[i].relation))
			rp_row_oid(&row, copy->entries[i].relation);
		else
			rp_row_null(&row);
		rp_row_text(&row, copy->entries[i].type);
		rp_row_int64(&row, copy->entries[i].count);
		rp_row_time(&row, copy->entries[i].last_at);
		rp_row_time(&row, copy->stats_reset);
		rp_row_end(&row);
	}
	return (Datum) 0;
}
