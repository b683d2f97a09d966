/*
 * apply_early.c
 *	  Large transactions that are begun before all of them is here.
 *
 * A large transaction comes in parts, over several replies. Apply begins with the first one that
 * gossip has verified and written, and goes on as others come, in one local transaction
 * that nobody sees before it commits, which takes the last part, and takes it durable, as for
 * any other transaction (rp_stream_secure). So by the time the last part is here the
 * others are applied.
 *
 *	  parts     1 . . 2 . . . . 3 . . . 4 . . 5 COMMIT
 *	  applied     1 1 . 2 2 - - - 3 3 - - 4 4 - 5 5 commit
 *	                        ^ waits: may have to give way
 *
 * What it rests on:
 *
 *	  Bytes		A part is signed by the origin, and served only when the origin has the
 *				whole transaction durably (capture_batch.c): it cannot come out differently
 *				any more, from whomever the others come, and over restarts of both sides.
 *	  Causality	Seq, stamp and deps stand in the BEGIN of each part. Deps are covered before
 *				the first change is looked at; and the floor is raised to the stamp, as ever.
 *				If the attempt is undone, the floor has been raised a little early, which
 *				costs nothing.
 *	  The end	A transaction whose origin is lost or evicted may have no end here. It is then
 *				not stored, not applied, not acknowledged, not frozen (evict.c): exactly as if
 *				none of its parts had come. The log keeps them, and whoever has the others
 *				brings those.
 *
 * The open transaction holds row locks, an xid, and dead rows of the whole database. So the
 * early attempt is a guest. It waits for nothing but its parts, and for these not long: it
 * fails at once if
 *
 *	  - a client has one of its rows in work, or somebody waits for a lock that it holds,
 *		whatever lock;
 *	  - another origin has a transaction that could be applied now;
 *	  - membership, pauses or what else gossip reads from the catalog have changed, or workers
 *		are to stop;
 *	  - it has met anything that is applied alone (rp_apply_alone), or there are displaced rows
 *		or conflict handlers: these want to be looked at between transactions;
 *	  - no part has come for PATIENCE_US, or it has taken MAX_US and its end is still not here.
 *
 * Failing leaves no trace: no error, no delay, no line in a view. Whatever the reason was, the
 * same transaction is not begun early again, so that it is tried twice at worst; the second time
 * it is all here, and is applied as any other. Once all of it is here during the first attempt,
 * that does not give way any more.
 *
 * Called by apply_commit.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "apply_internal.h"
#include "compat.h"
#include "crashpoint.h"
#include "handlers.h"
#include "monotonic.h"
#include "worker.h"

/*
 * While a transfer goes on, a reply comes after a round trip and what 2 MB take on the wire:
 * about this much from another continent over 100 Mbit/s. Who is slower gains little by being
 * applied early.
 */
#define PATIENCE_US ((int64) 500000)
/* Dead rows are kept meanwhile: as long as autovacuum rests between two rounds, by default. */
#define MAX_US ((int64) 60000000)
/* How often it looks, while it waits, whether it is in somebody's way. */
#define LOOK_US ((int64) 10000)

/* Per slot: the transaction that was begun early last. */
static uint64 begun[RP_MAX_MEMBERS];

/* The one in work: since when, and by which membership. */
static int64 begun_us;
static uint64 begun_generation;

static void give_way(const char *why);
static const char *must_give_way(RpApplyTransaction *txn);
static bool has_followers(RpNode *node);
static bool is_waited_for(void);

bool
rp_early_is_possible(RpNode *node, int slot, uint64 seq)
{
	RpNodeStatus status = rp_node_status(node);

	return begun[slot] != seq && (status == RP_NODE_ACTIVE || status == RP_NODE_CATCHUP) &&
		node->members[slot].status == RP_MEMBER_ADMITTED && !has_followers(node) &&
		!rp_apply_others_are_ready(slot);
}

void
rp_early_begin(RpApplyTransaction *txn)
{
	begun[txn->slot_version.slot] = txn->slot_version.seq;
	begun_us = rp_monotonic_us();
	begun_generation = txn->node->loaded_generation;
	txn->early = true;
}

void
rp_early_check(RpApplyTransaction *txn, RpStream *stream)
{
	const char *why;

	txn->early = !rp_stream_has(stream, txn->slot_version.seq - 1, 1);
	if (!txn->early)
		return;
	why = must_give_way(txn);
	if (why != NULL)
		give_way(why);
}

void
rp_early_wait(RpApplyTransaction *txn, RpStream *stream)
{
	int64		until = rp_monotonic_us() + PATIENCE_US;

	RP_CRASH_POINT("apply_early_wait");
	for (;;)
	{
		int64		left_us = until - rp_monotonic_us();

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (rp_stream_part_has_come(stream))
			return;
		rp_early_check(txn, stream);
		if (left_us <= 0)
			give_way("no further part has come for a while");
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) ((Min(left_us, LOOK_US) + 999) / 1000), PG_WAIT_EXTENSION);
	}
}

/* End the attempt. */
static void
give_way(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg_internal("%s", why)));
}

/* Why has the attempt to end? NULL: it may go on. */
static const char *
must_give_way(RpApplyTransaction *txn)
{
	RpNode	   *node = txn->node;
	RpNodeStatus status = rp_node_status(node);

	if (is_waited_for())
		return "somebody waits for a lock";
	if (rp_apply_others_are_ready(txn->slot_version.slot))
		return "another origin has something to be applied";
	if ((status != RP_NODE_ACTIVE && status != RP_NODE_CATCHUP) || rp_workers_are_stopped(node) ||
		node->loaded_generation != begun_generation ||
		pg_atomic_read_u64(&node->wanted_generation) > begun_generation)
		return "membership or what is wanted of apply has changed";
	if (has_followers(node))
		return "there is something to be done between transactions";
	if (rp_monotonic_us() - begun_us > MAX_US)
		return "its end is not here after a long time";
	return NULL;
}

/* May local or applied changes leave anything to be done between transactions? */
static bool
has_followers(RpNode *node)
{
	return node->displaced != RP_DISPLACED_NONE || rp_handlers_unsettled(node) ||
		rp_handlers_are_known();
}

/* Does anybody wait for a lock because we hold it? */
static bool
is_waited_for(void)
{
	bool		waited_for = false;

	for (int partition = 0; partition < NUM_LOCK_PARTITIONS && !waited_for; partition++)
	{
		PROCLOCK   *own = NULL;

		LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
		while (!waited_for && (own = rp_next_own_lock(partition, own)) != NULL)
		{
			const LOCK *lock = own->tag.myLock;
			LockMethod	method = GetLocksMethodTable(lock);

			for (LOCKMODE mode = 1; mode <= method->numLockModes && lock->waitMask != 0; mode++)
			{
				if ((own->holdMask & LOCKBIT_ON(mode)) != 0 &&
					(method->conflictTab[mode] & lock->waitMask) != 0)
					waited_for = true;
			}
		}
		LWLockRelease(LockHashPartitionLockByIndex(partition));
	}
	return waited_for;
}
