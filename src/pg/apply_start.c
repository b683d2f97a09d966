/*
 * apply_start.c
 *	  What the apply worker needs to know before it may judge anything.
 *
 *	  wait until the logs hold all that the tables have -> conflict handlers
 *		-> tombstones, versions of copied rows, key sets, displaced rows: from the logs
 *
 * All of that is memory of this process, made anew at each start (keyindex.h, keyset.h,
 * displaced.h). It is complete for what is applied here, and for what was
 * committed by clients up to a barrier of now.
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/snapmgr.h"

#include "p2p_member.h"

#include "apply_internal.h"
#include "barrier.h"
#include "displaced.h"
#include "handlers.h"
#include "keyset.h"
#include "logpass.h"
#include "ownlog.h"
#include "worker.h"

#define READY_RECHECK_MS 1000

static void handlers_load(RpNode *node);
static void indexes_load(RpNode *node);

/*
 * Wait until the node talks (its copy is complete), and the logs hold all that is in the
 * tables and not stable, be it copied or applied: only then are versions known. After a
 * start gossip has to open them first, puts back what the WAL has noted for them, and pulls again
 * what a disk has lost.
 */
void
rp_apply_wait_until_ready(RpNode *node)
{
	for (;;)
	{
		RpNodeStatus status = rp_node_status(node);
		bool		ready = status == RP_NODE_ACTIVE || status == RP_NODE_CATCHUP ||
			status == RP_NODE_LEAVING;

		SpinLockAcquire(&node->vector_lock);
		ready &= node->capture_ready && node->notes_known;
		for (int slot = 1; slot < node->nmembers && ready; slot++)
		{
			P2pMemberLog log = {
				.stored_seq = node->members[slot].stored_seq,
				.applied_seq = node->members[slot].applied_seq,
				.required_seq = node->members[slot].required_seq
			};

			ready = p2p_member_tables_are_covered(&log);
		}
		SpinLockRelease(&node->vector_lock);
		if (ready)
			return;
		if (status == RP_NODE_EVICTED)
			proc_exit(0);
		rp_worker_wait(node, RP_WORKER_APPLY, READY_RECHECK_MS, PG_WAIT_EXTENSION);
	}
}

/* Read which tables have conflict handlers of their own. */
static void
handlers_load(RpNode *node)
{
	StartTransactionCommand();
	rp_handlers_load(node);
	CommitTransactionCommand();
}

/* Read tombstones, copied versions and key sets from all logs; own changes up to a barrier of now. */
static void
indexes_load(RpNode *node)
{
	XLogRecPtr	captured;
	uint64		own_seq;
	uint64		own_oldest;

	StartTransactionCommand();
	rp_barrier(node, 0);
	SpinLockAcquire(&node->vector_lock);
	captured = node->captured_lsn;
	own_seq = node->members[RP_SELF].captured_seq;
	own_oldest = node->members[RP_SELF].oldest_seq;
	SpinLockRelease(&node->vector_lock);
	PushActiveSnapshot(GetTransactionSnapshot());
	/* in the order of our tables, in which DROP EXTENSION locks them */
	rp_siblings_load();
	rp_displaced_load(node);
	for (int slot = 1; slot < node->nmembers; slot++)
	{
		uint64		applied;
		uint64		required;
		uint64		oldest;

		SpinLockAcquire(&node->vector_lock);
		applied = node->members[slot].applied_seq;
		required = node->members[slot].required_seq;
		oldest = node->members[slot].oldest_seq;
		SpinLockRelease(&node->vector_lock);
		if (oldest > 0 && applied >= oldest)
			rp_foreign_log_index(node, slot, oldest - 1, applied, required);
	}
	rp_own_log_start(node, own_oldest > 0 ? own_oldest - 1 : 0);
	rp_own_log_follow(own_seq);
	rp_keysets_touch_contested(InvalidOid);
	PopActiveSnapshot();
	CommitTransactionCommand();
	rp_keysets_commit();
	rp_apply_deletes_known_to(captured);
}

void
rp_apply_load(RpNode *node)
{
	handlers_load(node);
	indexes_load(node);
}
