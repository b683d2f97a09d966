/*
 * batchnote.h
 *	  Batches that apply commits from before the log has them durably: who has
 *	  noted what in the WAL, and who may forget it.
 */
#ifndef RP_BATCHNOTE_H
#define RP_BATCHNOTE_H

#include "shmem.h"

/*
 * Apply: note a batch of the origin in slot that ends with last_seq, and was read from its log
 * since that was opened for the `opened`-th time. False: it was opened again, and may lack it.
 */
bool		rp_batch_note(RpNode *node, int slot, uint64 opened, uint64 last_seq,
						  const P2pBlock *bytes);

/* Gossip has opened the log in slot: from here on nothing is noted that was read of it before. */
void		rp_batch_notes_stop(RpNode *node, int slot);
/* May the WAL have notes of the log in slot, which ends at seq, that it lacks? */
bool		rp_batch_notes_are_wanted(RpNode *node, int slot, uint64 seq);
typedef void (*RpBatchNoteTake) (const void *bytes, size_t length, void *arg);
/* Gossip: hand over every batch that was noted and may be in no log. Not in a transaction. */
void		rp_batch_notes_read(RpNode *node, RpBatchNoteTake take, void *arg);
/* Gossip: the log in slot has what it can get by that, and ends at seq now. */
void		rp_batch_notes_are_back(RpNode *node, int slot, uint64 seq);
/* Gossip: all logs have, since the server's start. */
void		rp_batch_notes_are_known(RpNode *node);

/* What is noted of each log at some moment. */
typedef struct RpBatchMark
{
	uint64		noted_seq[RP_MAX_MEMBERS];
} RpBatchMark;

/* Capture: remember what is noted in the WAL read so far. */
void		rp_batch_notes_mark(RpNode *node, RpBatchMark *mark);
/* May that WAL go: does none of it stand for what a log lacks? */
bool		rp_batch_notes_may_go(RpNode *node, const RpBatchMark *mark);

#endif							/* RP_BATCHNOTE_H */
