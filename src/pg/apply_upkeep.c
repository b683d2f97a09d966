/*
 * apply_upkeep.c
 *	  What the apply worker does beside applying: now and then, between transactions.
 *
 *	  settle	 look whether a change of conflict handlers is behind everybody
 *	  forget	 what is stable, and the end of the conflict history
 *	  report	 what was written, to the server's statistics
 *
 * Each knows when it is due next, and has the worker woken for it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "apply_internal.h"
#include "handlers.h"
#include "keyindex.h"
#include "keyset.h"
#include "monotonic.h"

#define SETTLE_INTERVAL_MS 1000
#define FORGET_INTERVAL_MS 60000

static void handlers_settle(RpNode *node);
static void sets_sweep(RpNode *node, const uint64 *stable, int n);
static void forget(RpNode *node);
static void stats_report(void);

void
rp_apply_upkeep(RpNode *node)
{
	handlers_settle(node);
	forget(node);
	stats_report();
}

/* While a change of conflict handlers is not settled, look again now and then. */
static void
handlers_settle(RpNode *node)
{
	static int64 next_us = 0;

	if (!rp_handlers_unsettled(node))
		return;
	if (rp_monotonic_us() >= next_us)
	{
		StartTransactionCommand();
		rp_handlers_settle(node);
		CommitTransactionCommand();
		next_us = rp_monotonic_us() + SETTLE_INTERVAL_MS * INT64CONST(1000);
	}
	rp_apply_wake_by(next_us);
}

/* Have the key sets forget what is stable. */
static void
sets_sweep(RpNode *node, const uint64 *stable, int n)
{
	P2pVector	vector;

	p2p_vector_clear(&vector);
	for (int slot = 0; slot < n; slot++)
		p2p_vector_set(&vector, &node->members[slot].origin, stable[slot]);
	StartTransactionCommand();
	rp_keysets_sweep(&vector);
	CommitTransactionCommand();
}

/* Now and then: forget what is stable, prune the history. */
static void
forget(RpNode *node)
{
	static int64 forgot_us = 0;
	static uint64 swept[RP_MAX_MEMBERS];
	int64		now = rp_monotonic_us();
	uint64		stable[RP_MAX_MEMBERS];
	int			n = node->nmembers;

	if (forgot_us != 0 && now < forgot_us + FORGET_INTERVAL_MS * INT64CONST(1000))
		return;
	forgot_us = now;
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < n; slot++)
		stable[slot] = rp_droppable_seq(node, slot);
	SpinLockRelease(&node->vector_lock);
	if (memcmp(stable, swept, sizeof(uint64) * n) != 0 && !rp_handlers_unsettled(node))
	{
		rp_keyindex_sweep(stable, n);
		sets_sweep(node, stable, n);
		rp_siblings_sweep();
		memcpy(swept, stable, sizeof(uint64) * n);
	}

	StartTransactionCommand();
	rp_conflict_prune();
	CommitTransactionCommand();
}

/*
 * Report to the server's statistics what was written: autovacuum goes by them. At most once a
 * second while there is work, and what is left soon after it.
 */
static void
stats_report(void)
{
	static int64 due_us = 0;
	bool		due = due_us != 0 && rp_monotonic_us() >= due_us;
	long		again_ms = pgstat_report_stat(due);

	if (again_ms <= 0)
		due_us = 0;
	else if (due_us == 0 || due)
		due_us = rp_monotonic_us() + again_ms * INT64CONST(1000);
	if (due_us != 0)
		rp_apply_wake_by(due_us);
}
