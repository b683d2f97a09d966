/*
 * tracked_follow.c
 *	  What local writes leave to be done on tracked tables: fold a row again,
 *	  take siblings away that were covered.
 *
 * A local client writes its row and knows nothing of key sets. Mostly nothing
 * is to be done: it has seen what was here, and covers it. But a change that
 * was applied while there was no row to lock, and a client that inserted one at the same
 * moment, have not seen each other. The row is then the client's own, and the
 * set says that it should be more. Such a row is known by its xmin, which is
 * that of a local transaction: whatever apply makes of several versions it
 * writes itself. So a row is folded again once, and not a second time after a restart,
 * when the log may no longer hold all of what it was made of.
 *
 * What is written here commits under RP_COPY_ORIGIN with no position: capture
 * takes no version from it, for it is none. Every node does the same by itself.
 *
 * Called by apply between the transactions of origins. A key that fails is
 * tried again later, and keeps only itself back; but until it is done nothing is dropped
 * as stable (displaced_follow.c), since it is judged by what both sides have written, be it
 * stable meanwhile.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "displaced.h"
#include "monotonic.h"
#include "tracked.h"

#define RETRY_FIRST_MS 100
#define RETRY_LAST_MS 30000

static uint64 followed_seq = 0; /* of the own log, when last asked */
static bool left_over = true;	/* there may be keys left: of the start, or of a failure */
static int	retry_ms = 0;
static int64 retry_us = 0;		/* monotonic: not before this; 0 = no error */
static char last_error[RP_ERROR_TEXT_SIZE];

static bool follow_one(RpNode *node);
static void key_follow(RpApplyTransaction *txn, Oid relid, RpKeyHash hash);
static void row_follow(RpApplyTransaction *txn, RpTrackedKey *t);
static bool row_is_raw(RpTrackedKey *t);
static bool is_logged(RpNode *node, const P2pKeyVersion *version);
static void failed(RpNode *node);

bool
rp_tracked_follow_up(RpNode *node)
{
	uint64		own_seq;
	volatile bool done = false;
	MemoryContext context = CurrentMemoryContext;
	RepOriginId origin = replorigin_session_origin;

	if (!rp_handlers_in_use() && !rp_keysets_any_touched())
		return false;
	SpinLockAcquire(&node->vector_lock);
	own_seq = node->members[RP_SELF].captured_seq;
	SpinLockRelease(&node->vector_lock);
	if (own_seq == followed_seq && !left_over && !rp_keysets_any_touched())
		return false;
	if (retry_us != 0 && rp_monotonic_us() < retry_us)
		return false;
	PG_TRY();
	{
		replorigin_session_origin = RP_COPY_ORIGIN;
		replorigin_session_origin_lsn = InvalidXLogRecPtr;
		replorigin_session_origin_timestamp = 0;
		while (follow_one(node))
			done = true;
		rp_displaced_keys_followed();
		followed_seq = own_seq;
		left_over = false;
		retry_ms = 0;
		retry_us = 0;
		last_error[0] = '\0';
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		failed(node);
	}
	PG_END_TRY();
	replorigin_session_origin = origin;
	MemoryContextSwitchTo(context);
	return done;
}

int64
rp_tracked_due_us(void)
{
	return left_over ? retry_us : 0;
}

/* Look at one key, in a transaction of its own; false: there is none. */
static bool
follow_one(RpNode *node)
{
	RpApplyTransaction txn = {.node = node};
	Oid			relid;
	RpKeyHash	hash;
	bool		found;

	CHECK_FOR_INTERRUPTS();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rp_keysets_follow_own();
	found = rp_keysets_next_touched(&relid, &hash);
	if (found)
	{
		MemoryContextSwitchTo(TopTransactionContext);
		txn.change_context = AllocSetContextCreate(TopTransactionContext, "replp2p change",
												   ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(txn.change_context);
		key_follow(&txn, relid, hash);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	rp_keysets_commit();
	return found;
}

/* Make the row and the siblings of a key right. */
static void
key_follow(RpApplyTransaction *txn, Oid relid, RpKeyHash hash)
{
	RpTrackedKey t = {.node = txn->node, .hash = hash};
	RpOpenRelation *open;
	Oid			save_user;
	int			save_sec;

	open = rp_displaced_open(relid);
	if (open == NULL)
		return;					/* dropped meanwhile, or without a key */
	t.open = open;
	t.handlers = rp_handlers_of(relid);
	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	if (t.handlers && t.handlers->tracked)
		row_follow(txn, &t);
	SetUserIdAndSecContext(save_user, save_sec);
	ResetPerTupleExprContext(open->estate);
	rp_relation_close(open);
}

/*
 * Fold the row again if a client's own row stands where several versions should, or where a displaced
 * one has counted; show what is left of its siblings. A row that is not there is nothing to be made
 * again: apply holds a key without a row until its commit, so whoever writes it later has seen, and
 * covers, what was judged.
 */
static void
row_follow(RpApplyTransaction *txn, RpTrackedKey *t)
{
	RpOpenRelation *open = t->open;
	TupleTableSlot *key = MakeSingleTupleTableSlot(RelationGetDescr(open->rel), &TTSOpsVirtual);

	t->set = rp_keyset_of(open->map->relid, t->hash);
	if (rp_tracked_key_values(t, key))
	{
		t->key = key;
		do
		{
			CHECK_FOR_INTERRUPTS();
			rp_tracked_look(txn, t);
			t->hands_off = !row_is_raw(t) && !t->over_displaced;
		} while (!rp_tracked_settle(txn, t));
	}
	else
	{
		t->newcomer = -1;
		t->hands_off = true;
		(void) rp_tracked_settle(txn, t);
	}
	rp_siblings_show(t);
	ExecDropSingleTupleTableSlot(key);
}

/*
 * Is the row as a local client left it, by a version that is in the set, and should it be another's? What the
 * set no longer holds is stable, and its row is what it should be. If the client's version is the winner his
 * row is right, too: where that could hang on others, apply holds the key. And not all that
 * looks like his is: a row that was made of several, and has come back under the greatest version of these.
 */
static bool
row_is_raw(RpTrackedKey *t)
{
	if (!t->row_exists || t->row_version.seq == 0 || t->row_version.slot != RP_SELF)
		return false;
	for (uint32 i = 0; i < t->set->count; i++)
	{
		RpSlotVersion v = rp_tracked_slot_version(t->node, &t->set->versions[i]);

		if (v.slot == RP_SELF && v.seq == t->row_version.seq)
			return rp_tracked_slot_version(t->node, p2p_keyset_winner(t->set)).seq != v.seq ||
				rp_tracked_slot_version(t->node, p2p_keyset_winner(t->set)).slot != v.slot;
	}
	return false;
}

/*
 * Read the key's values from a version that stored a row and is in the log still; false: all
 * are deletes or trimmed, and there is nothing to do.
 */
bool
rp_tracked_key_values(RpTrackedKey *t, TupleTableSlot *key)
{
	for (uint32 i = t->set->count; i-- > 0;)
	{
		const P2pKeyVersion *version = &t->set->versions[i];

		if (version->op == P2P_OP_DELETE || !is_logged(t->node, version))
			continue;
		rp_keyset_image(t->open->map, t->hash, version, NULL, key);
		return true;
	}
	return false;
}

/* Does the log still have the version? Stable alone does not say: what is to be followed is kept. */
static bool
is_logged(RpNode *node, const P2pKeyVersion *version)
{
	RpSlotVersion v = rp_tracked_slot_version(node, version);
	uint64		oldest;

	SpinLockAcquire(&node->vector_lock);
	oldest = node->members[v.slot].oldest_seq;
	SpinLockRelease(&node->vector_lock);
	return oldest != 0 && v.seq >= oldest;
}

/* Undo, say what happened once, and try again later. */
static void
failed(RpNode *node)
{
	ErrorData  *error = CopyErrorData();

	if (error->elevel >= FATAL || ProcDiePending)
		PG_RE_THROW();
	if (strncmp(last_error, error->message, RP_ERROR_TEXT_SIZE - 1) != 0)
		EmitErrorReport();
	strlcpy(last_error, error->message, RP_ERROR_TEXT_SIZE);
	FlushErrorState();
	AbortCurrentTransaction();
	rp_keysets_abort();
	rp_displaced_hold(node);
	rp_worker_error(node, RP_WORKER_APPLY, error->message);
	FreeErrorData(error);
	left_over = true;
	retry_ms = retry_ms == 0 ? RETRY_FIRST_MS : Min(retry_ms * 2, RETRY_LAST_MS);
	retry_us = rp_monotonic_us() + retry_ms * INT64CONST(1000);
}
