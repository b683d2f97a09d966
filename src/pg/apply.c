/*
 * apply.c
 *	  The apply worker: takes the next transaction of each origin whose deps
 *	  are covered, and applies it in one local transaction.
 *
 * One worker per database serves all origins in turn. The replication origin
 * of the session is switched to the transaction's, with origin_lsn = seq and
 * origin_timestamp = stamp, so that rows and progress commit together and
 * capture later reads from the commit record what it was: exactly once, over
 * any crash. Every transaction has an xid, also when all of its changes lose,
 * since one without an xid would record no progress.
 *
 * Before anything is looked up the node's floor is raised to the stamp, and
 * before the commit the version index gets our entry (versions.h).
 *
 * While several transactions of an origin are queued they go into one local commit, as a
 * group: a commit costs more than a row. Each is a subtransaction with an xid of its own, so
 * that every row's xmin names the very transaction that wrote it: the version index gives each
 * xid its dot and stamp, and no version differs from what it had been one by one. The commit has
 * the last one's seq and stamp; which subtransaction is which stands in the WAL
 * before it (groupnote.c). Nothing waits for a group to fill, and a group waits for no
 * client: who would have to, or is something special, raises an error, the whole group is
 * undone, and its members are applied one by one. If that happens again and again, more and more are
 * applied singly before the next group is tried.
 *
 * A large transaction comes in parts, and is begun with the first of them if nothing else is to be
 * done (apply_early.c). If that attempt fails, for whatever reason, it leaves no trace, and the
 * transaction is applied once all of it is here.
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
#include "executor/executor.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "p2p_follow.h"

#include "apply_internal.h"
#include "crashpoint.h"
#include "displaced.h"
#include "evict.h"
#include "keyset.h"
#include "members.h"
#include "monotonic.h"
#include "settings.h"
#include "versions.h"
#include "worker.h"

#define TURN_TRANSACTIONS 100	/* of one origin before the others have their turn */
/* A large transaction looks this often whether the postmaster is alive. */
#define CHANGES_PER_CHECK 1024
/* A group that has so many changes takes no further transaction: it holds locks. */
#define GROUP_CHANGES 1000
/* After a group that failed at most so many transactions are applied singly. */
#define MAX_ALONE 1000
#define RETRY_FIRST_MS 100
#define RETRY_LAST_MS 30000
#define IDLE_WAIT_MS 10000
#define HELD_RECHECK_MS 1000
#define SETTLE_INTERVAL_MS 1000

/* What this worker knows of one member. */
typedef struct ApplyOrigin
{
	RpStream   *stream;
	uint64		applied_seq;	/* this worker is its only writer */
	int			retry_ms;
	int64		retry_us;		/* monotonic: not before this; 0 = no error */
	P2pVector  *deps;			/* of the next transaction of an evicted one, while it waits; or NULL */
	uint64		deps_seq;		/* which one that is */
	uint64		alone_until;	/* no groups up to this seq */
	uint64		careful_until;	/* no runs, either */
	uint64		alone;			/* so many were to be applied singly after the last failure of a group */
} ApplyOrigin;

/* A local transaction in the making: what apply commits at once. */
typedef struct Commit
{
	int			slot;
	TimestampTz started_at;		/* by our clock */
	bool		grouped;		/* members are subtransactions, listed in note */
	bool		early;			/* begun before all of it was here */
	int			n;				/* transactions so far */
	uint64		seq;			/* of the last, and its stamp */
	P2pStamp	stamp;
	RpApplyTransaction txn;		/* the last; its counts are those of all */
	RpGroupNote note;
} Commit;

static RpNode *node;
static ApplyOrigin origins[RP_MAX_MEMBERS];
static MemoryContext turn_context;
static MemoryContext change_context;	/* of one change */
static RepOriginId session_origin = InvalidRepOriginId;
static uint64 known_generation = 0;
static int64 wake_us;			/* monotonic; 0 = nothing timed */
static XLogRecPtr last_commit = InvalidXLogRecPtr;	/* not yet told to capture */
static Commit commit;			/* the one in work */

static void commits_publish(void);
static void listening_set(void);
static void members_refresh(void);
static bool turn(int slot);
static int	apply_next(int slot);
static bool next_is_ready(int slot, uint64 after_seq, P2pBegin *begin, const P2pVector **deps,
						  RpApplyState *state);
static uint64_t applied_seq_of(void *arg, const P2pOrigin *origin);
static bool is_after_leave(int slot, uint64 seq);
static bool is_held(P2pStamp stamp);
static int	commit_next(int slot, const P2pBegin *begin, const P2pVector *deps);
static bool commit_takes_another(P2pBegin *begin, const P2pVector **deps);
static bool group_is_possible(int slot, uint64 after_seq);
static void transaction_apply(const P2pBegin *begin, const P2pVector *deps);
static void items_apply(RpApplyTransaction *txn, RpStream *stream);
static void member_begin(const P2pBegin *begin);
static void commit_finish(void);
static void commit_account(void);
static void undo(int slot);
static void attempt_failed(int slot);
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
	change_context = AllocSetContextCreate(TopMemoryContext, "replp2p change", ALLOCSET_DEFAULT_SIZES);
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
 * flush and read them, so that what we applied is acknowledged soon.
 */
static void
commits_publish(void)
{
	if (last_commit == InvalidXLogRecPtr)
		return;
	rp_commit_publish(node, last_commit);
	last_commit = InvalidXLogRecPtr;
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
	commit.started_at = GetCurrentTimestamp();
	commit.n = 0;
	commit.grouped = false;
	commit.early = false;
	commit.txn.storing_run = false;
	PG_TRY();
	{
		P2pBegin	begin;
		const P2pVector *deps;
		RpApplyState state;

		if (!next_is_ready(slot, origins[slot].applied_seq, &begin, &deps, &state))
		{
			state_set(slot, state);
			if (state == RP_APPLY_WAITING)
				deps_note(slot, begin.seq, deps);
		}
		else
		{
			state_set(slot, RP_APPLY_APPLYING);
			done = commit_next(slot, &begin, deps);
			origins[slot].retry_ms = 0;
			rp_failure_over(slot);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(turn_context);
		if (commit.early || commit.grouped || commit.txn.storing_run)
		{
			done = Max(commit.n, 1);
			attempt_failed(slot);
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

/* Is the transaction behind after_seq here, at least in part, and may it be applied? If not, *state says why. */
static bool
next_is_ready(int slot, uint64 after_seq, P2pBegin *begin, const P2pVector **deps,
			  RpApplyState *state)
{
	RpStream   *stream = origins[slot].stream;

	if (is_after_leave(slot, after_seq + 1) || !rp_stream_peek(stream, after_seq, begin, deps) ||
		(!rp_stream_has(stream, after_seq, 1) && !rp_early_is_possible(node, slot, after_seq + 1)))
		*state = RP_APPLY_IDLE;
	else if (node->members[slot].paused)
		*state = RP_APPLY_PAUSED;
	else if (is_held(begin->stamp))
	{
		*state = RP_APPLY_HELD;
		rp_apply_wake_by(rp_monotonic_us() + HELD_RECHECK_MS * INT64CONST(1000));
	}
	else if (!p2p_follow_deps(*deps, &node->members[slot].origin, applied_seq_of, NULL))
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
		const ApplyOrigin *origin = &origins[other];
		P2pBegin	begin;
		const P2pVector *deps;
		RpApplyState state;

		if (other == slot || origin->stream == NULL || origin->retry_us > rp_monotonic_us() ||
			!rp_stream_has(origin->stream, origin->applied_seq, 1))
			continue;
		if (next_is_ready(other, origin->applied_seq, &begin, &deps, &state))
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
is_after_leave(int slot, uint64 seq)
{
	const RpMember *member = &node->members[slot];
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

/* Have the session commit under the origin of slot. */
void
rp_apply_origin_set(int slot, uint64 seq, P2pStamp stamp)
{
	RepOriginId wanted = node->members[slot].roident;

	if (session_origin != wanted)
	{
		if (session_origin != InvalidRepOriginId)
			replorigin_session_reset();
		session_origin = InvalidRepOriginId;
		replorigin_session_setup(wanted);
		session_origin = wanted;
	}
	replorigin_session_origin = wanted;
	replorigin_session_origin_lsn = (XLogRecPtr) seq;
	replorigin_session_origin_timestamp = stamp;
}

/* Apply the transaction that was peeked, and others behind it if they are here; returns how many. */
static int
commit_next(int slot, const P2pBegin *begin, const P2pVector *deps)
{
	MemoryContext context = CurrentMemoryContext;
	P2pBegin	next = *begin;

	commit.slot = slot;
	commit.seq = begin->seq;
	commit.grouped = group_is_possible(slot, origins[slot].applied_seq);
	commit.note.n = 0;
	commit.note.first_seq = begin->seq;
	memset(&commit.txn, 0, sizeof(commit.txn));
	commit.txn.node = node;
	commit.txn.change_context = change_context;
	commit.txn.careful = origins[slot].retry_ms != 0 || begin->seq <= origins[slot].careful_until;
	commit.txn.group = commit.grouped ? &commit.note : NULL;
	commit.early = !rp_stream_has(origins[slot].stream, begin->seq - 1, 1);

	StartTransactionCommand();
	rp_apply_origin_set(slot, begin->seq, begin->stamp);
	commit.note.xid = GetTopTransactionId();
	PushActiveSnapshot(GetTransactionSnapshot());
	do
		transaction_apply(&next, deps);
	while (commit_takes_another(&next, &deps));
	commit_finish();
	MemoryContextSwitchTo(context);
	commit_account();
	return commit.n;
}

/* Are there several transactions, none of them special as far as can be told beforehand? */
static bool
group_is_possible(int slot, uint64 after_seq)
{
	ApplyOrigin *origin = &origins[slot];

	return origin->retry_ms == 0 && after_seq >= origin->alone_until && !rp_failure_any(slot) &&
		rp_stream_has(origin->stream, after_seq, 2) && !rp_stream_is_large(origin->stream);
}

/* Does one more transaction go into the group? Then it is peeked. */
static bool
commit_takes_another(P2pBegin *begin, const P2pVector **deps)
{
	RpApplyState state;

	return commit.grouped && commit.n < RP_GROUP_MAX && commit.txn.changes < GROUP_CHANGES &&
		pg_atomic_read_u64(&node->wanted_generation) <= node->loaded_generation &&
		next_is_ready(commit.slot, commit.seq, begin, deps, &state) &&
		!rp_stream_is_large(origins[commit.slot].stream);
}

void
rp_apply_alone(const RpApplyTransaction *txn)
{
	if (txn->group != NULL || txn->early)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the transaction has to be applied alone")));
}

/* Apply one whole transaction; as a member of the group, if there is one. */
static void
transaction_apply(const P2pBegin *begin, const P2pVector *deps)
{
	RpApplyTransaction *txn = &commit.txn;
	RpVersionEntry entry = {(uint16) commit.slot, begin->seq, begin->stamp};

	SpinLockAcquire(&node->vector_lock);
	node->floor = Max(node->floor, begin->stamp);
	SpinLockRelease(&node->vector_lock);

	txn->slot_version = (RpSlotVersion) {(uint16) commit.slot, begin->seq, begin->stamp};
	txn->version.stamp = begin->stamp;
	txn->version.dot.origin = node->members[commit.slot].origin;
	txn->version.dot.seq = begin->seq;
	txn->deps = deps;
	txn->item = 0;
	txn->streak = 0;
	rp_apply_origin_set(commit.slot, begin->seq, begin->stamp);
	commit.n++;
	commit.seq = begin->seq;
	commit.stamp = begin->stamp;
	if (commit.grouped)
		member_begin(begin);
	MemoryContextSwitchTo(TopTransactionContext);
	rp_versions_put(U64FromFullTransactionId(GetCurrentFullTransactionId()), &entry);
	items_apply(txn, origins[commit.slot].stream);
	(void) rp_run_flush(txn);
	if (commit.grouped)
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(TopTransactionContext);
}

/* Begin the subtransaction of a member of the group, and list it. */
static void
member_begin(const P2pBegin *begin)
{
	RpGroupMember *member = &commit.note.members[commit.note.n++];

	Assert(begin->seq == commit.note.first_seq + commit.note.n - 1);
	BeginInternalSubTransaction(NULL);
	member->xid = GetCurrentTransactionId();
	member->stamp = begin->stamp;
}

/* Carry out the items of the transaction that was peeked. */
static void
items_apply(RpApplyTransaction *txn, RpStream *stream)
{
	RpStreamItem item;

	if (!commit.grouped)
		rp_failure_begin(txn, stream);
	if (commit.early)
		rp_early_begin(txn);
	while (rp_stream_next(stream, &item))
	{
		CHECK_FOR_INTERRUPTS();
		if (item.awaited)
		{
			rp_early_wait(txn, stream);
			continue;
		}
		txn->item++;
		if (item.skipped)
			rp_failure_skip(txn, item.change);
		else if (item.tag == P2P_TAG_TRUNCATE)
			rp_apply_truncate(txn, item.truncated, item.truncate_flags);
		else
			rp_apply_change(txn, item.map, item.tag, item.old_values, item.new_values);
		if (txn->changes % CHANGES_PER_CHECK != 0)
			continue;
		if (!PostmasterIsAlive())
			proc_exit(1);
		if (txn->early)
			rp_early_check(txn, stream);
	}
	txn->early = false;
}

/* Commit; and then what must be done whatever happens. */
static void
commit_finish(void)
{
	RpApplyTransaction *txn = &commit.txn;

	rp_apply_close_relations(txn);
	rp_stream_wait_stored(origins[commit.slot].stream, commit.seq);
	if (commit.grouped)
	{
		RpVersionEntry entry = {(uint16) commit.slot, commit.seq, commit.stamp};

		rp_versions_put(U64FromFullTransactionId(GetTopFullTransactionId()), &entry);
		rp_group_note_write(&commit.note);
		RP_CRASH_POINT("apply_group_before_commit");
	}
	else
		rp_failure_end(txn);
	PopActiveSnapshot();
	RP_CRASH_POINT("apply_before_commit");
	CommitTransactionCommand();
	RP_CRASH_POINT("apply_after_commit");
	rp_keyindex_commit();
	rp_keysets_commit();
	replorigin_session_origin = InvalidRepOriginId;
}

/* Tell everybody what was committed. */
static void
commit_account(void)
{
	RpMember   *member = &node->members[commit.slot];
	ApplyOrigin *origin = &origins[commit.slot];

	origin->applied_seq = commit.seq;
	if (commit.n > 1)
		origin->alone /= 2;
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

/* Abort the transaction, subtransactions and all, and forget what was remembered of it. */
static void
undo(int slot)
{
	AbortOutOfAnyTransaction();
	rp_keyindex_abort();
	rp_keysets_abort();
	rp_run_abort();
	rp_relations_abort();
	MemoryContextReset(change_context);
	replorigin_session_origin = InvalidRepOriginId;
	rp_stream_reset(origins[slot].stream);
}

/*
 * Undo a group, or a transaction in which a run failed: it is applied one by one, and row by row, which also
 * says what is wrong, if anything is. One that was begun early is applied once all of it is here.
 */
static void
attempt_failed(int slot)
{
	ApplyOrigin *origin = &origins[slot];
	ErrorData  *error = CopyErrorData();

	if (error->elevel >= FATAL || ProcDiePending)
		PG_RE_THROW();
	ereport(DEBUG1,
			(errmsg_internal("%d transactions are applied %s: %s", commit.n,
							 commit.early ? "when all is here" : "one by one", error->message)));
	FlushErrorState();
	undo(slot);
	if (!commit.early)
	{
		if (commit.txn.storing_run)
			origin->careful_until = commit.seq;
		origin->alone = Min(origin->alone * 2 + 1, MAX_ALONE);
		origin->alone_until = commit.seq + origin->alone - 1;
	}
	FreeErrorData(error);
}

/* Undo, say what happened (once per text), and try again later. */
static void
transaction_failed(int slot)
{
	RpMember   *member = &node->members[slot];
	ApplyOrigin *origin = &origins[slot];
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
	undo(slot);
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
	ApplyOrigin *origin = &origins[slot];

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
		const ApplyOrigin *origin = &origins[slot];

		applied[slot] = origin->applied_seq;
		deps[slot] = origin->deps_seq == origin->applied_seq + 1 ? origin->deps : NULL;
	}
	if (!rp_evict_settle(node, applied, deps))
	{
		commits_publish();		/* what is applied counts once capture has read it */
		rp_apply_wake_by(rp_monotonic_us() + SETTLE_INTERVAL_MS * INT64CONST(1000));
	}
}
