/*
 * walnote.c
 *	  What apply leaves in the WAL for this node's own later reading.
 *
 * WAL is the one place where order and durability come for free: a record is durable
 * if any later one is. So what must be durable before a local commit is, or must be
 * known to stand before or behind it, stands in a record before it:
 *
 *	  FLOOR	 before the first look-up of a transaction of another node's: what commits behind this
 *			 record could not be seen by it, and gets the greater stamp; what has committed
 *			 in front of it is seen, or waited for (capture.c)
 *	  BATCH	 before the commit of a transaction whose batch is not durable in its log yet: if
 *			 the commit is, so is the batch (pull_refill.c puts it back)
 *
 * The record is an XLOG_NOOP, which is replayed as nothing and shown to no output plugin, with
 *
 *	  4 bytes	 magic, also the version of this format
 *	  4 bytes	 oid of the database
 *	  1 byte	 kind (RpWalNoteKind, ONLY APPEND)
 *	  n bytes	 FLOOR: the stamp, 8 bytes. BATCH: the batch as it is in the log
 *
 * in the machine's byte order: it is read by this server alone. A barrier's record
 * (barrier.c) is a NOOP of one byte. No client can write one.
 *
 * Written by apply and joins, read by capture and gossip.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "storage/spin.h"

#include "walnote.h"

#define MAGIC 0x72703201		/* ONLY APPEND */

typedef struct NoteHeader
{
	uint32		magic;
	Oid			dboid;
	uint8		kind;
} NoteHeader;

#define HEADER_SIZE (offsetof(NoteHeader, kind) + sizeof(uint8))

static void note_insert(RpWalNoteKind kind, const void *bytes, uint32 length);

/* A floor in shared memory stands in the WAL already: written here, or read by capture. */
void
rp_floor_raise(RpNode *node, P2pStamp stamp)
{
	P2pStamp	floor;

	SpinLockAcquire(&node->vector_lock);
	floor = node->floor;
	SpinLockRelease(&node->vector_lock);
	if (floor >= stamp)
		return;
	rp_wal_note_floor(stamp);
	SpinLockAcquire(&node->vector_lock);
	node->floor = Max(node->floor, stamp);
	SpinLockRelease(&node->vector_lock);
}

void
rp_wal_note_floor(P2pStamp floor)
{
	note_insert(RP_WAL_NOTE_FLOOR, &floor, sizeof(floor));
}

void
rp_wal_note_batch(const void *batch, uint32 length)
{
	Assert(length > 0 && length <= RP_WAL_NOTE_MAX_BATCH);
	note_insert(RP_WAL_NOTE_BATCH, batch, length);
}

/* Insert one record. Unimportant: alone it is no reason for a checkpoint. */
static void
note_insert(RpWalNoteKind kind, const void *bytes, uint32 length)
{
	NoteHeader	header = {MAGIC, MyDatabaseId, (uint8) kind};

	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	XLogRegisterData((char *) &header, HEADER_SIZE);
	XLogRegisterData(unconstify(char *, (const char *) bytes), (int) length);
	(void) XLogInsert(RM_XLOG_ID, XLOG_NOOP);
}

bool
rp_wal_note_parse(XLogReaderState *reader, RpWalNote *note)
{
	NoteHeader	header;
	const char *data = XLogRecGetData(reader);
	uint32		length = XLogRecGetDataLen(reader);

	if (XLogRecGetRmid(reader) != RM_XLOG_ID ||
		(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) != XLOG_NOOP || length <= HEADER_SIZE)
		return false;
	memcpy(&header, data, HEADER_SIZE);
	if (header.magic != MAGIC || header.dboid != MyDatabaseId)
		return false;
	data += HEADER_SIZE;
	length -= HEADER_SIZE;
	note->kind = (RpWalNoteKind) header.kind;
	switch (note->kind)
	{
		case RP_WAL_NOTE_FLOOR:
			if (length != sizeof(note->floor))
				return false;
			memcpy(&note->floor, data, sizeof(note->floor));
			return true;
		case RP_WAL_NOTE_BATCH:
			note->batch = data;
			note->length = length;
			return true;
	}
	return false;				/* of a later version of ours */
}
