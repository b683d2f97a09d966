/*
 * ownlog.c
 *	  What apply reads from the change logs for its indexes: one pass, several
 *	  that look on.
 *
 * Each item goes to the tombstones (keyindex.c) and to the key sets
 * (keyset_read.c), those of the own log to the displaced rows (displaced.c),
 * too. The other members' logs are read once, when apply starts, up to what is
 * applied: what comes later apply adds as it carries it out. The own log is
 * followed by a pass that stays open, since local transactions commit without
 * asking apply: before it relies on what the indexes say of local changes, it
 * has them follow. To read something twice does no harm.
 *
 * A log is trimmed in whole segments, so it may hold what is long stable. That does no harm either, but for
 * one thing: stable versions are compared by stamp, and across a change of the table's handler that is not what
 * they were judged by. So what has not seen a settled change is left out (rp_handlers_is_past).
 */
#include "barrier.h"
#include "postgres.h"

#include "utils/inval.h"
#include "utils/memutils.h"

#include "displaced.h"
#include "keyset.h"
#include "logpass.h"
#include "ownlog.h"

/* What a pass over another member's log is given. */
typedef struct ForeignLog
{
	uint64		copied_seq;
} ForeignLog;

/* What a pass over some changes of one transaction is given: their numbers, ascending. */
typedef struct SomeChanges
{
	const uint64 *numbers;
	int			n;
} SomeChanges;

static RpNode *our_node;
static MemoryContext own_context = NULL;	/* of own_pass */
static RpLogPass *own_pass = NULL;	/* NULL: not in a state to go on from */
static uint64 own_seq = 0;
static bool following = false;	/* whoever asks meanwhile, from inside a visit, gets what is there */

static bool foreign_visit(const RpPassItem *whole, void *arg);
static bool some_visit(const RpPassItem *item, void *arg);
static bool own_visit(const RpPassItem *whole, void *arg);
static void own_run(uint64 limit_seq);
static void own_open(void);

void
rp_foreign_log_index(RpNode *node, int slot, uint64 after_seq, uint64 limit_seq, uint64 copied_seq)
{
	ForeignLog	log = {copied_seq};

	(void) rp_log_pass(node, slot, after_seq, limit_seq, foreign_visit, &log);
}

const RpPassItem *
rp_item_left(const RpPassItem *item, RpPassItem *left)
{
	if (!rp_handlers_in_use())
		return item;
	if (item->tag != P2P_TAG_TRUNCATE)
		return rp_handlers_is_past(rp_pass_relid(item->table), &item->version, item->deps) ? NULL : item;
	*left = *item;
	left->ntables = 0;
	left->tables = palloc_array(RpPassTable *, Max(item->ntables, 1));
	for (int i = 0; i < item->ntables; i++)
	{
		if (!rp_handlers_is_past(rp_pass_relid(item->tables[i]), &item->version, item->deps))
			left->tables[left->ntables++] = item->tables[i];
	}
	return left;
}

static bool
foreign_visit(const RpPassItem *whole, void *arg)
{
	RpPassItem	left;
	const RpPassItem *item = rp_item_left(whole, &left);

	if (item == NULL)
		return true;
	rp_keyindex_visit(item, ((ForeignLog *) arg)->copied_seq);
	rp_keysets_visit(item);
	return true;
}

void
rp_foreign_log_index_some(RpNode *node, int slot, uint64 seq, const uint64 *numbers, int n)
{
	SomeChanges some = {numbers, n};

	(void) rp_log_pass_one(node, slot, seq, some_visit, &some);
}

static bool
some_visit(const RpPassItem *item, void *arg)
{
	SomeChanges *some = arg;

	while (some->n > 0 && some->numbers[0] < item->number)
	{
		some->numbers++;
		some->n--;
	}
	if (some->n > 0 && some->numbers[0] == item->number)
	{
		RpPassItem	left;
		const RpPassItem *wanted = rp_item_left(item, &left);

		if (wanted != NULL)
		{
			rp_keyindex_visit(wanted, 0);
			rp_keysets_visit(wanted);
		}
	}
	return some->n > 0;
}

void
rp_own_log_start(RpNode *node, uint64 after_seq)
{
	our_node = node;
	own_seq = after_seq;
	own_pass = NULL;
}

void
rp_own_log_follow(uint64 limit_seq)
{
	if (following || own_seq >= limit_seq)
		return;
	/*
	 * A handler or merge may have been set since apply last heard of such. Whoever wrote the
	 * table after that had to wait for its lock, which is given back when all have been told: so
	 * to listen now, when the write is captured, is soon enough for it. (What apply judges itself
	 * it has locked: fn_handlers.c.)
	 */
	AcceptInvalidationMessages();
	following = true;
	PG_TRY();
	{
		for (int attempt = 0; own_seq < limit_seq; attempt++)
		{
			/* capture may be making the end of the log again: capture_batch.c */
			if (attempt == 1)
				rp_barrier(our_node, 0);
			if (attempt > 2)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("the change log of this node ends before transaction " UINT64_FORMAT, limit_seq),
						 errhint("Have this node leave the group by replp2p.leave_group(force "
								 "=> true), and join again.")));
			own_run(limit_seq);
		}
	}
	PG_FINALLY();
	{
		following = false;
	}
	PG_END_TRY();
}

uint64
rp_own_log_seq(void)
{
	return own_seq;
}

/* Go on with the standing pass; it stays open only if it has got there. */
static void
own_run(uint64 limit_seq)
{
	RpLogPass  *pass;

	if (own_pass == NULL)
		own_open();
	pass = own_pass;
	own_pass = NULL;
	own_seq = rp_pass_run(pass, limit_seq);
	if (own_seq >= limit_seq)
		own_pass = pass;
}

void
rp_own_log_follow_captured(void)
{
	uint64		captured;

	SpinLockAcquire(&our_node->vector_lock);
	captured = our_node->members[RP_SELF].captured_seq;
	SpinLockRelease(&our_node->vector_lock);
	rp_own_log_follow(captured);
}

/* Begin the standing pass anew, in memory that outlives the transaction. */
static void
own_open(void)
{
	MemoryContext old;

	if (own_context == NULL)
		own_context = AllocSetContextCreate(TopMemoryContext, "replp2p own log pass",
											ALLOCSET_DEFAULT_SIZES);
	else
		MemoryContextReset(own_context);
	old = MemoryContextSwitchTo(own_context);
	own_pass = rp_pass_begin(our_node, RP_SELF, own_seq, own_visit, NULL);
	MemoryContextSwitchTo(old);
}

static bool
own_visit(const RpPassItem *whole, void *arg)
{
	RpPassItem	left;
	const RpPassItem *item = rp_item_left(whole, &left);

	if (item == NULL)
		return true;
	rp_keyindex_visit(item, 0);
	rp_keysets_visit(item);
	rp_displaced_visit(item);
	return true;
}
