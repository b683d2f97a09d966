/*
 * barrier.c
 *	  "Capture has seen all up to now": a WAL record of our own as a mark, and
 *	  a wait until capture has passed it.
 *
 * Why a record and not the insert position: that position may stand behind a
 * page header that nothing follows yet, so that a reader of records never gets
 * there. The end of a record that is flushed is always reached. XLOG_NOOP is
 * replayed as nothing, and needs neither a transaction nor an xid.
 *
 * Called by apply (are tombstones complete?), joins and SQL functions. The waiter
 * sleeps on RpNode.captured_cv, holds no lock of ours, and wakes capture itself,
 * because no commit callback tells it of the record.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "barrier.h"

#define BARRIER_WAKE_MS 1000	/* capture is woken again after so long */

/* Return the position up to which capture has accounted for all commits. */
static XLogRecPtr
barrier_captured_lsn(RpNode *node)
{
	XLogRecPtr	lsn;

	SpinLockAcquire(&node->vector_lock);
	lsn = node->captured_lsn;
	SpinLockRelease(&node->vector_lock);
	return lsn;
}

/* Raise the error of a wait that has lasted too long, saying what to look at. */
static void
barrier_timed_out(RpNode *node, int64 timeout_ms)
{
	bool		running;

	LWLockAcquire(&node->lock, LW_SHARED);
	running = node->workers[RP_WORKER_CAPTURE].pid != 0;
	LWLockRelease(&node->lock);

	if (!running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the capture worker of this node is not running"),
				 errdetail("Waited %lld ms for it to read the write-ahead log.",
						   (long long) timeout_ms),
				 errhint("Look at replp2p.health() and the server log for the reason.")));
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("the capture worker of this node did not catch up within %lld ms",
					(long long) timeout_ms),
			 errhint("Look at the view replp2p.stat_capture, and try again.")));
}

/* Insert and flush a WAL record that says nothing; return its end. */
XLogRecPtr
rp_barrier_insert(void)
{
	char		nothing = 0;
	XLogRecPtr	end;

	XLogBeginInsert();
	XLogRegisterData(&nothing, 1);
	end = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	XLogFlush(end);
	return end;
}

/* Wait until capture has passed lsn, at most timeout_ms (0: without end). */
void
rp_barrier_wait(RpNode *node, XLogRecPtr lsn, int64 timeout_ms)
{
	TimestampTz end = GetCurrentTimestamp() + timeout_ms * 1000;

	ConditionVariablePrepareToSleep(&node->captured_cv);
	while (barrier_captured_lsn(node) < lsn)
	{
		long		sleep_ms = BARRIER_WAKE_MS;

		if (timeout_ms > 0)
		{
			long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

			if (left <= 0)
			{
				ConditionVariableCancelSleep();
				barrier_timed_out(node, timeout_ms);
			}
			sleep_ms = Min(sleep_ms, left);
		}
		rp_worker_wake(node, RP_WORKER_CAPTURE);
		(void) ConditionVariableTimedSleep(&node->captured_cv, sleep_ms, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/* Wait until capture has accounted for every commit before this call. */
void
rp_barrier(RpNode *node, int64 timeout_ms)
{
	rp_barrier_wait(node, rp_barrier_insert(), timeout_ms);
}
