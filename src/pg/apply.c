/*
 * apply.c
 *	  The apply worker: takes the next transaction of each origin whose deps
 *	  are covered, and has it applied in one local transaction.
 *
 * One worker per database serves all origins in turn. What is in one local transaction, and what
 * goes with it, is apply_commit.c's; here it is said whether it may be done now, and what if it fails.
 *
 * State of an origin, shown in stat_lag:
 *
 *	  idle -> applying -> idle
 *	  idle -> waiting   what its next transaction depends on is not applied yet
 *	  idle -> held      its stamp is too far ahead of group time
 *	  idle -> paused    by pause_apply
 *	  applying -> error its transaction failed; tried again with growing delay,
 *	                    listed in failed_changes (failed_changes.c)
 *
 * An origin that cannot go on keeps nobody back but those who depend on it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "p2p_follow.h"

#include "apply_internal.h"
#include "displaced.h"
#include "evict.h"
#include "keyset.h"
#include "members.h"
#include "monotonic.h"
#include "settings.h"
#include "versions.h"
#include "worker.h"

#define TURN_TRANSACTIONS 100	/* of one origin before the others have their turn */
#define RETRY_FIRST_MS 100
#define RETRY_LAST_MS 30000
#define IDLE_WAIT_MS 10000
#define HELD_RECHECK_MS 1000
#define SETTLE_INTERVAL_MS 1000
/* Each time our commits are flushed the disk has to turn to that; acks have no such hurry. */
#define PUBLISH_INTERVAL_US 100000

static RpNode *node;
static RpApplyOrigin origins[RP_MAX_MEMBERS];
static MemoryContext turn_context;
static uint64 known_generation = 0;
static int64 wake_us;			/* monotonic; 0 = nothing timed */
static XLogRecPtr last_commit = InvalidXLogRecPtr;	/* not yet told to capture */
static RpCommit commit;			/* the one in work */

static void commits_publish(void);
static void listening_set(void);
static void members_refresh(void);
static bool turn(int slot);
static int	apply_next(int slot);
static uint64_t applied_seq_of(void *arg, const P2pOrigin *origin);
static bool is_after_leave(const RpMember *member, uint64 seq);
static bool is_held(P2pStamp stamp);
static void commit_account(void);
static void attempt_failed(void);
static void transaction_failed(int slot);
static void state_set(int slot, RpApplyState state);
static void deps_note(int slot, uint64 seq, const P2pVector *deps);
static void evicted_settle(void);
static bool follow_up(void);

/* Where an error happened, for its context line. */
typedef struct ApplyPlace
{
	int			slot;
	uint64		seq;
} ApplyPlace;

static void
error_place(void *arg)
{
	ApplyPlace *place = arg;

	errcontext("applying transaction " UINT64_FORMAT " of node \"%s\"",
			   place->seq, node->members[place->slot].name);
}

void
rp_apply_main(Datum dboid)
{
	node = rp_worker_open(dboid, RP_WORKER_APPLY);
	turn_context = AllocSetContextCreate(TopMemoryContext, "replp2p apply", ALLOCSET_DEFAULT_SIZES);
	rp_commit_init(node);
	rp_versions_attach(node->dboid);
	rp_relation_maps_init();
	rp_keyindex_init(node);
	rp_keysets_init(node);
	rp_apply_wait_until_ready(node);
	members_refresh();
	rp_apply_load(node);

	for (;;)
	{
		bool		progress = false;
		long		timeout = IDLE_WAIT_MS;

		rp_worker_check(node, RP_WORKER_APPLY);
		members_refresh();
		if (rp_node_status(node) == RP_NODE_EVICTED)
			proc_exit(0);		/* nothing is applied here any more */
		wake_us = 0;
		for (int slot = 1; slot < node->nmembers; slot++)
			progress |= turn(slot);
		listening_set();
		progress |= follow_up();
		evicted_settle();
		rp_apply_upkeep(node);
		if (progress)
			continue;
		commits_publish();
		if (wake_us != 0)
			timeout = Min(timeout, (wake_us - rp_monotonic_us() + 999) / 1000);
		rp_worker_wait(node, RP_WORKER_APPLY, Max(timeout, 1), PG_WAIT_EXTENSION);
	}
}

/*
 * Our commits are asynchronous. When there is nothing more to do, have capture
 * flush and read them, so that what we applied is acknowledged soon: at once, but not each of
 * many that come one by one.
 */
static void
commits_publish(void)
{
	static int64 due_us = 0;

	if (last_commit == InvalidXLogRecPtr)
		return;
	if (rp_monotonic_us() < due_us)
	{
		rp_apply_wake_by(due_us);
		return;
	}
	rp_commit_publish(node, last_commit);
	last_commit = InvalidXLogRecPtr;
	due_us = rp_monotonic_us() + PUBLISH_INTERVAL_US;
}

void
rp_apply_wake_by(int64 at_us)
{
	if (wake_us == 0 || at_us < wake_us)
		wake_us = at_us;
}

/*
 * Say whether local transactions leave anything for us to do, so that capture wakes us after them.
 * Before follow_up looks: what is captured until then it sees, what comes later wakes us.
 */
static void
listening_set(void)
{
	uint32		listens = node->displaced != RP_DISPLACED_NONE || rp_handlers_in_use() ||
		rp_handlers_unsettled(node);

	if (pg_atomic_read_u32(&node->apply_listens) == listens)
		return;
	pg_atomic_write_u32(&node->apply_listens, listens);
	pg_memory_barrier();
}

/*
 * Take up members that are new, and pauses and acceptances: those that have
 * committed count for the very next transaction, whether or not gossip has loaded them.
 */
static void
members_refresh(void)
{
	uint64		generation;
	int			nmembers;

	if (pg_atomic_read_u64(&node->wanted_generation) > node->loaded_generation)
	{
		StartTransactionCommand();
		(void) rp_members_load(node);
		CommitTransactionCommand();
	}
	LWLockAcquire(&node->lock, LW_SHARED);
	generation = node->loaded_generation;
	nmembers = node->nmembers;
	LWLockRelease(&node->lock);
	if (generation == known_generation)
		return;
	known_generation = generation;
	for (int slot = 1; slot < nmembers; slot++)
	{
		if (origins[slot].retry_us != 0)
			origins[slot].retry_us = 1; /* at once: this may be retry_failed() or skip_failed() */
		if (origins[slot].stream)
			continue;
		origins[slot].slot = slot;
		origins[slot].stream = rp_stream_create(node, slot);
		SpinLockAcquire(&node->vector_lock);
		origins[slot].applied_seq = node->members[slot].applied_seq;
		SpinLockRelease(&node->vector_lock);
	}
}

/* Apply what one origin has ready, up to a fair share; true if anything was done. */
static bool
turn(int slot)
{
	int			done = 0;
	int			n;

	if (origins[slot].stream == NULL)
		return false;
	if (origins[slot].retry_us != 0)
	{
		if (rp_monotonic_us() < origins[slot].retry_us)
		{
			rp_apply_wake_by(origins[slot].retry_us);
			return false;
		}
		origins[slot].retry_us = 0;
	}
	while (done < TURN_TRANSACTIONS && (n = apply_next(slot)) > 0)
	{
		done += n;
		rp_worker_check(node, RP_WORKER_APPLY);
		members_refresh();
	}
	return done > 0;
}

/*
 * Apply the next transaction of an origin if it is there and may be applied, and perhaps some that
 * follow. How many were tried and need not be waited for: 0 if there is nothing to be done now.
 */
static int
apply_next(int slot)
{
	MemoryContext old = MemoryContextSwitchTo(turn_context);
	ApplyPlace	place = {slot, origins[slot].applied_seq + 1};
	ErrorContextCallback callback = {error_context_stack, error_place, &place};
	volatile int done = 0;

	error_context_stack = &callback;
	rp_commit_begin(&commit, &origins[slot]);
	PG_TRY();
	{
		P2pBegin	begin;
		const P2pVector *deps;
		RpApplyState state;

		if (!rp_apply_next_is_ready(&origins[slot], origins[slot].applied_seq, &begin, &deps, &state))
		{
			state_set(slot, state);
			if (state == RP_APPLY_WAITING)
				deps_note(slot, begin.seq, deps);
		}
		else
		{
			state_set(slot, RP_APPLY_APPLYING);
			rp_commit_apply(&commit, &begin, deps);
			commit_account();
			done = commit.n;
			origins[slot].retry_ms = 0;
			rp_failure_over(slot);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(turn_context);
		if (rp_commit_is_attempt(&commit))
		{
			done = Max(commit.n, 1);
			attempt_failed();
		}
		else
			transaction_failed(slot);
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(old);
	MemoryContextReset(turn_context);
	return done;
}

bool
rp_apply_next_is_ready(const RpApplyOrigin *origin, uint64 after_seq, P2pBegin *begin,
					   const P2pVector **deps, RpApplyState *state)
{
	const RpMember *member = &node->members[origin->slot];

	if (is_after_leave(member, after_seq + 1) ||
		!rp_stream_peek(origin->stream, after_seq, begin, deps) ||
		(!rp_stream_has(origin->stream, after_seq, 1) &&
		 !rp_early_is_possible(node, origin->slot, after_seq + 1)))
		*state = RP_APPLY_IDLE;
	else if (member->paused)
		*state = RP_APPLY_PAUSED;
	else if (is_held(begin->stamp))
	{
		*state = RP_APPLY_HELD;
		rp_apply_wake_by(rp_monotonic_us() + HELD_RECHECK_MS * INT64CONST(1000));
	}
	else if (!p2p_follow_deps(*deps, &member->origin, applied_seq_of, NULL))
		*state = RP_APPLY_WAITING;
	else
		return true;
	return false;
}

bool
rp_apply_others_are_ready(int slot)
{
	for (int other = RP_SELF + 1; other < node->nmembers; other++)
	{
		const RpApplyOrigin *origin = &origins[other];
		P2pBegin	begin;
		const P2pVector *deps;
		RpApplyState state;

		if (other == slot || origin->stream == NULL || origin->retry_us > rp_monotonic_us() ||
			!rp_stream_has(origin->stream, origin->applied_seq, 1))
			continue;
		if (rp_apply_next_is_ready(origin, origin->applied_seq, &begin, &deps, &state))
			return true;
	}
	return false;
}

static void
state_set(int slot, RpApplyState state)
{
	if (node->members[slot].apply_state == state)
		return;
	SpinLockAcquire(&node->vector_lock);
	node->members[slot].apply_state = state;
	SpinLockRelease(&node->vector_lock);
}

/* Up to which seq is an origin applied here? Of this node: what capture has accounted for. */
static uint64_t
applied_seq_of(void *arg, const P2pOrigin *origin)
{
	uint64		applied = 0;

	(void) arg;
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		if (!p2p_origin_equal(origin, &node->members[slot].origin))
			continue;
		if (slot != RP_SELF)
			return origins[slot].applied_seq;
		SpinLockAcquire(&node->vector_lock);
		applied = node->members[RP_SELF].captured_seq;
		SpinLockRelease(&node->vector_lock);
	}
	return applied;
}

/* Has the origin left the group before it committed this one? Then nobody applies it. */
static bool
is_after_leave(const RpMember *member, uint64 seq)
{
	bool		counts;

	if (member->status != RP_MEMBER_LEFT)
		return false;			/* as of a moment ago, as with the lock */
	LWLockAcquire(&node->lock, LW_SHARED);
	counts = p2p_follow_counts(member->status == RP_MEMBER_LEFT, member->left_seq, seq);
	LWLockRelease(&node->lock);
	return !counts;
}

/*
 * Is the stamp further ahead than we believe? Of group time; or of what was let
 * in already, by the operator or by our own clock (which is then the one that is
 * wrong): who has seen that goes on from there, and must not be held for it.
 */
static bool
is_held(P2pStamp stamp)
{
	int64		max_skew = (int64) rp_max_clock_skew_s * USECS_PER_SEC;
	P2pStamp	let_in;
	int64		offset;

	SpinLockAcquire(&node->vector_lock);
	offset = node->group_offset_us;
	let_in = node->own_time;
	SpinLockRelease(&node->vector_lock);
	for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
		let_in = Max(let_in, node->members[slot].accepted_stamp);
	return p2p_follow_is_held(stamp, commit.started_at + offset, let_in, max_skew);
}

/* Tell everybody what was committed. */
static void
commit_account(void)
{
	RpMember   *member = &node->members[commit.origin->slot];

	commit.origin->applied_seq = commit.seq;
	SpinLockAcquire(&node->vector_lock);
	member->applied_seq = commit.seq;
	member->applied_stamp = commit.stamp;
	member->transactions_applied += commit.n;
	member->commits_applied++;
	member->changes_applied += commit.txn.changes;
	member->conflicts += commit.txn.conflicts;
	member->apply_error[0] = '\0';
	SpinLockRelease(&node->vector_lock);
	ConditionVariableBroadcast(&node->applied_cv);
	last_commit = XactLastCommitEnd;

	if (commit.txn.membership_changed)
	{
		StartTransactionCommand();
		(void) rp_members_load(node);
		CommitTransactionCommand();
		rp_worker_wake(node, RP_WORKER_GOSSIP);
	}
}

/* What applied and local changes have left to be done; true if anything was. */
static bool
follow_up(void)
{
	bool		done = rp_displaced_follow_up(node);
	int64		due_us[] = {rp_displaced_due_us(), 0};

	done |= rp_tracked_follow_up(node);
	due_us[1] = rp_tracked_due_us();
	if (done)
		last_commit = XactLastCommitEnd;
	for (size_t i = 0; i < lengthof(due_us); i++)
	{
		if (due_us[i] != 0)
			rp_apply_wake_by(due_us[i]);
	}
	return done;
}

/* Undo an attempt, which is tried in another way. If something is wrong, that says what. */
static void
attempt_failed(void)
{
	ErrorData  *error = CopyErrorData();

	if (error->elevel >= FATAL || ProcDiePending)
		PG_RE_THROW();
	ereport(DEBUG1,
			(errmsg_internal("%d transactions are applied %s: %s", commit.n,
							 commit.early ? "when all is here" : "one by one", error->message)));
	FlushErrorState();
	rp_commit_give_up(&commit);
	FreeErrorData(error);
}

/* Undo, say what happened (once per text), and try again later. */
static void
transaction_failed(int slot)
{
	RpMember   *member = &node->members[slot];
	RpApplyOrigin *origin = &origins[slot];
	ErrorData  *error = CopyErrorData();
	RpFailure  *failure;
	bool		deadlock = error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
	bool		news = strncmp(member->apply_error, error->message, RP_ERROR_TEXT_SIZE - 1) != 0;

	if (error->elevel >= FATAL || ProcDiePending)
		PG_RE_THROW();
	if (news && !deadlock)
		EmitErrorReport();
	FlushErrorState();
	failure = rp_failure_note(origin->stream, origin->applied_seq + 1, error);
	rp_commit_undo(&commit);
	MemoryContextSwitchTo(turn_context);
	rp_failure_store(slot, failure);

	origin->retry_ms = origin->retry_ms == 0 ? RETRY_FIRST_MS : Min(origin->retry_ms * 2, RETRY_LAST_MS);
	if (deadlock)
		origin->retry_ms = 1;
	origin->retry_us = rp_monotonic_us() + origin->retry_ms * INT64CONST(1000);
	rp_apply_wake_by(origin->retry_us);
	SpinLockAcquire(&node->vector_lock);
	member->apply_state = RP_APPLY_ERROR;
	strlcpy(member->apply_error, error->message, RP_ERROR_TEXT_SIZE);
	member->apply_error_at = GetCurrentTimestamp();
	member->apply_errors++;
	SpinLockRelease(&node->vector_lock);
	FreeErrorData(error);
}

/* Remember what the next transaction of an evicted member waits for: it may be for ever. */
static void
deps_note(int slot, uint64 seq, const P2pVector *deps)
{
	RpApplyOrigin *origin = &origins[slot];

	if (node->members[slot].status != RP_MEMBER_EVICTED)
		return;
	if (origin->deps == NULL)
		origin->deps = MemoryContextAlloc(TopMemoryContext, sizeof(P2pVector));
	*origin->deps = *deps;
	origin->deps_seq = seq;
}

/* If members are evicted: is all applied of them that ever will be? */
static void
evicted_settle(void)
{
	uint64		applied[RP_MAX_MEMBERS];
	const P2pVector *deps[RP_MAX_MEMBERS];

	if (!node->any_evicted || node->settled_generation == known_generation)
		return;
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
	{
		const RpApplyOrigin *origin = &origins[slot];

		applied[slot] = origin->applied_seq;
		deps[slot] = origin->deps_seq == origin->applied_seq + 1 ? origin->deps : NULL;
	}
	if (!rp_evict_settle(node, applied, deps))
	{
		commits_publish();		/* what is applied counts once capture has read it */
		rp_apply_wake_by(rp_monotonic_us() + SETTLE_INTERVAL_MS * INT64CONST(1000));
	}
}
