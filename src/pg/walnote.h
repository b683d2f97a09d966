/*
 * walnote.h
 *	  What apply leaves in the WAL for this node's own later reading.
 */
#ifndef RP_WALNOTE_H
#define RP_WALNOTE_H

#include "postgres.h"

#include "access/xlogreader.h"

#include "p2p_batch.h"
#include "shmem.h"

/* ONLY APPEND: the numbers stand in WAL. */
typedef enum RpWalNoteKind
{
	RP_WAL_NOTE_FLOOR = 1,		/* apply begins with stamps up to this one */
	RP_WAL_NOTE_BATCH = 2,		/* a batch that apply commits from before the log has it durably */
} RpWalNoteKind;

typedef struct RpWalNote
{
	RpWalNoteKind kind;
	P2pStamp	floor;			/* FLOOR */
	const void *batch;			/* BATCH: as in the log, in the reader's memory */
	uint32		length;
} RpWalNote;

/* The largest batch that can be noted, in bytes. */
#define RP_WAL_NOTE_MAX_BATCH 8192

/*
 * Is a batch noted, rather than waited for? One of one whole transaction: when many share one, a
 * sync costs less by transaction than a copy in the WAL.
 */
static inline bool
rp_wal_note_takes(const P2pBatch *batch)
{
	return batch->span.first_seq == batch->span.last_seq && !batch->span.partial &&
		batch->header_length + batch->body_length <= RP_WAL_NOTE_MAX_BATCH;
}

/*
 * Before anything is looked up for a transaction with this stamp: raise the node's floor to it,
 * behind a note that says so.
 */
void		rp_floor_raise(RpNode *node, P2pStamp stamp);
/* Insert a note; nothing is flushed. */
void		rp_wal_note_floor(P2pStamp floor);
void		rp_wal_note_batch(const void *batch, uint32 length);
/* Parse the record under the reader; false: it is no note, or of another database. */
bool		rp_wal_note_parse(XLogReaderState *reader, RpWalNote *note);

#endif							/* RP_WALNOTE_H */
