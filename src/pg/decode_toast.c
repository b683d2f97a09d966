/*
 * decode_toast.c
 *	  Reading a TOAST value by its pointer while decoding.
 *
 * An update that leaves a TOAST value unchanged has only the pointer in its WAL.
 * The chunks themselves mostly still stand in the TOAST table, so capture reads
 * them there and sends the value; receivers then need not look for it. But
 * decoding runs behind: by now the row may be deleted and vacuumed, the table
 * rewritten, truncated or dropped. The server's own detoasting would raise an
 * error for any of these, and an error in capture comes back at each restart.
 * So this is a scan that expects the worst: it takes nothing for granted but
 * complete, gapless chunks of the announced total size, and returns NULL else.
 * A value that is returned is right: chunks are never updated in place, and they
 * stay together until VACUUM has removed all references.
 *
 * Locks: capture must not wait for a lock, whose holder may wait for capture
 * without the deadlock detector seeing it. The locks on the TOAST table and its
 * index are taken only if they are free, with a few tries, and given back at
 * once. While they are held nobody rewrites or drops the table; that the files
 * the historic catalog names are still there is checked under the lock. What
 * remains is a commit that has given up its locks but not yet removed its old
 * files: an error, and after capture's restart the files are gone for good.
 *
 * Called by decode.c. All memory is the caller's CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/toast_internals.h"
#include "catalog/pg_index.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "decode.h"

#define LOCK_TRIES 5
#define LOCK_RETRY_MS 2

static bool lock_if_free(Oid relid, bool patient);
static bool relation_files_exist(Relation relation);
static Relation toast_index_open(Relation toast, bool patient);
static bool chunks_read(Relation toast, Relation index, Oid value_id,
						char *into, size_t length);
static bool chunk_take(HeapTuple tuple, TupleDesc desc, size_t expected,
					   char *into, size_t length);

/* Return the value that an on-disk TOAST pointer stands for, or NULL. */
struct varlena *
rp_decode_toast_fetch(struct varlena *pointer, bool patient)
{
	struct varatt_external external;
	Relation	toast;
	Relation	index = NULL;
	struct varlena *value = NULL;
	size_t		length;

	Assert(VARATT_IS_EXTERNAL_ONDISK(pointer));
	VARATT_EXTERNAL_GET_POINTER(external, pointer);
	length = VARATT_EXTERNAL_GET_EXTSIZE(external);

	if (!lock_if_free(external.va_toastrelid, patient))
		return NULL;
	toast = RelationIdGetRelation(external.va_toastrelid);
	if (RelationIsValid(toast) && relation_files_exist(toast))
		index = toast_index_open(toast, patient);
	if (index != NULL)
	{
		value = palloc(length + VARHDRSZ);
		if (length + VARHDRSZ < (size_t) external.va_rawsize)	/* stored compressed */
			SET_VARSIZE_COMPRESSED(value, length + VARHDRSZ);
		else
			SET_VARSIZE(value, length + VARHDRSZ);
		if (!chunks_read(toast, index, external.va_valueid, VARDATA(value), length))
		{
			pfree(value);
			value = NULL;
		}
		UnlockRelationOid(RelationGetRelid(index), AccessShareLock);
		RelationClose(index);
	}
	if (RelationIsValid(toast))
		RelationClose(toast);
	UnlockRelationOid(external.va_toastrelid, AccessShareLock);

	if (value != NULL && VARATT_IS_COMPRESSED(value))
		value = detoast_attr(value);
	return value;
}

/* Take AccessShareLock if that needs no wait to speak of. */
static bool
lock_if_free(Oid relid, bool patient)
{
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (ConditionalLockRelationOid(relid, AccessShareLock))
			return true;
		if (!patient)
			break;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOCK_RETRY_MS,
						 PG_WAIT_EXTENSION);
	}
	return false;
}

/* Are there blocks in the file that the (historic) catalog names? */
static bool
relation_files_exist(Relation relation)
{
	return smgrexists(RelationGetSmgr(relation), MAIN_FORKNUM) &&
		RelationGetNumberOfBlocks(relation) > 0;
}

/* Open and lock the valid index of a TOAST table; NULL if there is none to be had. */
static Relation
toast_index_open(Relation toast, bool patient)
{
	List	   *indexes = RelationGetIndexList(toast);
	ListCell   *cell;
	Relation	result = NULL;

	foreach(cell, indexes)
	{
		Oid			relid = lfirst_oid(cell);
		Relation	index;

		if (!lock_if_free(relid, patient))
			continue;
		index = RelationIdGetRelation(relid);
		if (RelationIsValid(index) && index->rd_index->indisvalid && relation_files_exist(index))
		{
			result = index;
			break;
		}
		if (RelationIsValid(index))
			RelationClose(index);
		UnlockRelationOid(relid, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Read all chunks of a value in order; false unless they come to exactly length bytes. */
static bool
chunks_read(Relation toast, Relation index, Oid value_id, char *into, size_t length)
{
	SnapshotData snapshot;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	size_t		chunks = 0;
	bool		complete = true;

	ScanKeyInit(&key, (AttrNumber) 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(value_id));
	InitToastSnapshot(snapshot, InvalidXLogRecPtr, 0);
	scan = systable_beginscan_ordered(toast, index, &snapshot, 1, &key);
	while (complete && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		complete = chunk_take(tuple, RelationGetDescr(toast), chunks, into, length);
		chunks++;
	}
	systable_endscan_ordered(scan);
	return complete && chunks == ((length - 1) / TOAST_MAX_CHUNK_SIZE) + 1;
}

/* Copy one chunk to its place; false if it is not the expected one, or not of its size. */
static bool
chunk_take(HeapTuple tuple, TupleDesc desc, size_t expected, char *into, size_t length)
{
	bool		seq_null;
	bool		data_null;
	int32		seq = DatumGetInt32(fastgetattr(tuple, 2, desc, &seq_null));
	Pointer		chunk = DatumGetPointer(fastgetattr(tuple, 3, desc, &data_null));
	size_t		offset = expected * TOAST_MAX_CHUNK_SIZE;
	size_t		size;

	if (seq_null || data_null || seq < 0 || (size_t) seq != expected || offset >= length)
		return false;
	if (VARATT_IS_EXTERNAL(chunk) || VARATT_IS_COMPRESSED(chunk))
		return false;
	size = VARSIZE_ANY_EXHDR(chunk);
	if (size != Min(TOAST_MAX_CHUNK_SIZE, length - offset))
		return false;
	memcpy(into + offset, VARDATA_ANY(chunk), size);
	return true;
}
