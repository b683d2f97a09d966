/*
 * barrier.h
 *	  "Capture has seen all up to now."
 */
#ifndef RP_BARRIER_H
#define RP_BARRIER_H

#include "shmem.h"

/* Insert and flush a WAL record of our own; return its end. Needs no xid. */
XLogRecPtr	rp_barrier_insert(void);
/*
 * Wait until capture has accounted for every commit up to lsn: its log, version
 * entries and vectors. Interruptible; ERROR if timeout_ms (0 = none) passes.
 */
void		rp_barrier_wait(RpNode *node, XLogRecPtr lsn, int64 timeout_ms);
/* Both. */
void		rp_barrier(RpNode *node, int64 timeout_ms);

#endif							/* RP_BARRIER_H */
