/*
 * ownlog.c
 *	  What apply reads from the change logs for its indexes: one pass, several
 *	  that look on.
 *
 * Each item goes to the tombstones (keyindex.c) and to the key sets
 * (keyset_read.c), those of the own log to the displaced rows (displaced.c), too. The other members' logs are read once, when apply starts,
 * up to what is applied: what comes later apply adds as it carries it out.
 * The own log is followed by a pass that stays open, since local
 * transactions commit without asking apply: before it relies on what the
 * indexes say of local changes, it has them follow.
 *
 * Handler changes that were made on this node are met here, too: at their own
 * place among the local changes. They are registered in the transaction that
 * happens to be open, so that if it fails, they must be read again; to read
 * anything twice does no harm.
 *
 *	  own_seq		indexed up to
 *	  retry_seq		where own_seq stood before the first registration in this
 *					transaction
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "displaced.h"
#include "handlers.h"
#include "keyset.h"
#include "logpass.h"
#include "ownlog.h"
#include "settings.h"

#define HANDLER_CHANGES "handler_changes"

/* What a pass over another member's log is given. */
typedef struct ForeignLog
{
	uint64		copied_seq;
} ForeignLog;

static RpNode *our_node;
static MemoryContext own_context = NULL;	/* of own_pass */
static RpLogPass *own_pass = NULL;	/* NULL: not in a state to go on from */
static uint64 own_seq = 0;
static bool following = false;	/* whoever asks meanwhile, from inside a visit, gets what is there */
static bool registered = false;
static uint64 retry_seq;

static bool foreign_visit(const RpPassItem *item, void *arg);
static bool own_visit(const RpPassItem *item, void *arg);
static void own_run(uint64 limit_seq);
static void own_open(void);
static bool is_handler_change(const RpPassItem *item);
static void handler_change_register(const RpPassItem *item);

void
rp_foreign_log_index(RpNode *node, int slot, uint64 after_seq, uint64 limit_seq, uint64 copied_seq)
{
	ForeignLog	log = {copied_seq};

	(void) rp_log_pass(node, slot, after_seq, limit_seq, foreign_visit, &log);
}

static bool
foreign_visit(const RpPassItem *item, void *arg)
{
	rp_keyindex_visit(item, ((ForeignLog *) arg)->copied_seq);
	rp_keysets_visit(item);
	return true;
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
	following = true;
	PG_TRY();
	{
		for (int attempt = 0; own_seq < limit_seq; attempt++)
		{
			if (attempt > 1)
				elog(ERROR, "own change log ends before transaction " UINT64_FORMAT, limit_seq);
			own_run(limit_seq);
		}
	}
	PG_FINALLY();
	{
		following = false;
	}
	PG_END_TRY();
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
own_visit(const RpPassItem *item, void *arg)
{
	if (is_handler_change(item))
		handler_change_register(item);
	rp_keyindex_visit(item, 0);
	rp_keysets_visit(item);
	rp_displaced_visit(item);
	return true;
}

/* Is the item a row of replp2p.handler_changes? */
static bool
is_handler_change(const RpPassItem *item)
{
	const P2pRelation *table;

	if (item->tag != P2P_TAG_INSERT)
		return false;
	table = rp_pass_described(item->table);
	return strcmp(table->name, HANDLER_CHANGES) == 0 && strcmp(table->schema, RP_SCHEMA) == 0;
}

/* Register a handler change of this node under its version. */
static void
handler_change_register(const RpPassItem *item)
{
	TupleTableSlot *row = rp_pass_row(item);
	P2pVersion	version = {0};

	if (row == NULL)
		return;
	version.stamp = item->version.stamp;
	version.dot.origin = our_node->members[RP_SELF].origin;
	version.dot.seq = item->version.seq;
	if (!registered)
		retry_seq = own_seq;
	registered = true;
	rp_handlers_register(our_node, row, &version);
}

void
rp_own_log_commit(void)
{
	registered = false;
}

void
rp_own_log_abort(void)
{
	if (registered)
	{
		own_seq = Min(own_seq, retry_seq);
		own_pass = NULL;
	}
	registered = false;
}
