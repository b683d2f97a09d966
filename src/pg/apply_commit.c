/*
 * apply_commit.c
 *	  One local commit of apply: a transaction of an origin, or a group of them.
 *
 * The replication origin of the session is switched to the transaction's, with origin_lsn = seq and
 * origin_timestamp = stamp, so that rows and progress commit together and
 * capture later reads from the commit record what it was: exactly once, over
 * any crash. Every transaction has an xid, also when all of its changes lose,
 * since one without an xid would record no progress.
 *
 * Before anything is looked up the node's floor is raised to the stamp, by a note in the WAL
 * (walnote.c): capture gives stamps by what it reads in front of a local commit. Before the commit
 * the version index gets our entry (versions.h). And what is not durable in the origin's log yet
 * goes into the WAL before the commit record does, or is waited for (apply_stream.c): in WAL the
 * note comes first, and so is durable if the commit is.
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
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply_internal.h"
#include "crashpoint.h"
#include "keyset.h"
#include "versions.h"
#include "walnote.h"

/* A large transaction looks this often whether the postmaster is alive. */
#define CHANGES_PER_CHECK 1024
/* A group that has so many changes takes no further transaction: it holds locks. */
#define GROUP_CHANGES 1000
/* After a group that failed at most so many transactions are applied singly. */
#define MAX_ALONE 1000

static RpNode *node;
static MemoryContext change_context;	/* of one change */
static RepOriginId session_origin = InvalidRepOriginId;

static bool group_is_possible(const RpApplyOrigin *origin);
static bool takes_another(const RpCommit *commit, P2pBegin *begin, const P2pVector **deps);
static void transaction_apply(RpCommit *commit, const P2pBegin *begin, const P2pVector *deps);
static void member_begin(RpCommit *commit, const P2pBegin *begin);
static void items_apply(RpCommit *commit);
static void commit_finish(RpCommit *commit);

void
rp_commit_init(RpNode *of_node)
{
	node = of_node;
	change_context = AllocSetContextCreate(TopMemoryContext, "replp2p change", ALLOCSET_DEFAULT_SIZES);
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

void
rp_commit_begin(RpCommit *commit, RpApplyOrigin *origin)
{
	commit->origin = origin;
	commit->started_at = GetCurrentTimestamp();
	commit->grouped = false;
	commit->early = false;
	commit->n = 0;
	commit->txn.storing_run = false;
}

void
rp_commit_apply(RpCommit *commit, const P2pBegin *begin, const P2pVector *deps)
{
	MemoryContext context = CurrentMemoryContext;
	RpApplyOrigin *origin = commit->origin;
	P2pBegin	next = *begin;

	commit->seq = begin->seq;
	commit->grouped = group_is_possible(origin);
	commit->note.n = 0;
	commit->note.first_seq = begin->seq;
	memset(&commit->txn, 0, sizeof(commit->txn));
	commit->txn.node = node;
	commit->txn.change_context = change_context;
	commit->txn.careful = origin->retry_ms != 0 || begin->seq <= origin->careful_until;
	commit->txn.group = commit->grouped ? &commit->note : NULL;
	commit->early = !rp_stream_has(origin->stream, begin->seq - 1, 1);

	StartTransactionCommand();
	rp_apply_origin_set(origin->slot, begin->seq, begin->stamp);
	commit->note.xid = GetTopTransactionId();
	PushActiveSnapshot(GetTransactionSnapshot());
	do
		transaction_apply(commit, &next, deps);
	while (takes_another(commit, &next, &deps));
	commit_finish(commit);
	MemoryContextSwitchTo(context);
	if (commit->n > 1)
		origin->alone /= 2;
}

/* Are there several transactions, none of them special as far as can be told beforehand? */
static bool
group_is_possible(const RpApplyOrigin *origin)
{
	return origin->retry_ms == 0 && origin->applied_seq >= origin->alone_until &&
		!rp_failure_any(origin->slot) && rp_stream_has(origin->stream, origin->applied_seq, 2) &&
		!rp_stream_is_large(origin->stream);
}

/* Does one more transaction go into the group? Then it is peeked. */
static bool
takes_another(const RpCommit *commit, P2pBegin *begin, const P2pVector **deps)
{
	RpApplyState state;

	return commit->grouped && commit->n < RP_GROUP_MAX && commit->txn.changes < GROUP_CHANGES &&
		pg_atomic_read_u64(&node->wanted_generation) <= node->loaded_generation &&
		rp_apply_next_is_ready(commit->origin, commit->seq, begin, deps, &state) &&
		!rp_stream_is_large(commit->origin->stream);
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
transaction_apply(RpCommit *commit, const P2pBegin *begin, const P2pVector *deps)
{
	int			slot = commit->origin->slot;
	RpApplyTransaction *txn = &commit->txn;
	RpVersionEntry entry = {(uint16) slot, begin->seq, begin->stamp};

	rp_floor_raise(node, begin->stamp);
	txn->slot_version = (RpSlotVersion) {(uint16) slot, begin->seq, begin->stamp};
	txn->version.stamp = begin->stamp;
	txn->version.dot.origin = node->members[slot].origin;
	txn->version.dot.seq = begin->seq;
	txn->deps = deps;
	txn->item = 0;
	txn->streak = 0;
	rp_apply_origin_set(slot, begin->seq, begin->stamp);
	commit->n++;
	commit->seq = begin->seq;
	commit->stamp = begin->stamp;
	if (commit->grouped)
		member_begin(commit, begin);
	MemoryContextSwitchTo(TopTransactionContext);
	rp_versions_put(U64FromFullTransactionId(GetCurrentFullTransactionId()), &entry);
	items_apply(commit);
	(void) rp_run_flush(txn);
	if (commit->grouped)
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(TopTransactionContext);
}

/* Begin the subtransaction of a member of the group, and list it. */
static void
member_begin(RpCommit *commit, const P2pBegin *begin)
{
	RpGroupMember *member = &commit->note.members[commit->note.n++];

	Assert(begin->seq == commit->note.first_seq + commit->note.n - 1);
	BeginInternalSubTransaction(NULL);
	member->xid = GetCurrentTransactionId();
	member->stamp = begin->stamp;
}

/* Carry out the items of the transaction that was peeked. */
static void
items_apply(RpCommit *commit)
{
	RpApplyTransaction *txn = &commit->txn;
	RpStream   *stream = commit->origin->stream;
	RpStreamItem item;

	if (!commit->grouped)
		rp_failure_begin(txn, stream);
	if (commit->early)
		rp_early_begin(txn);
	while (rp_stream_next(stream, &item))
	{
		CHECK_FOR_INTERRUPTS();
		if (item.awaited)
		{
			if (!commit->early)
				rp_stream_has_no_end(stream);
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
commit_finish(RpCommit *commit)
{
	RpApplyTransaction *txn = &commit->txn;

	rp_apply_close_relations(txn);
	rp_stream_secure(commit->origin->stream, commit->seq);
	if (commit->grouped)
	{
		RpVersionEntry entry = {(uint16) commit->origin->slot, commit->seq, commit->stamp};

		rp_versions_put(U64FromFullTransactionId(GetTopFullTransactionId()), &entry);
		rp_group_note_write(&commit->note);
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

bool
rp_commit_is_attempt(const RpCommit *commit)
{
	return commit->early || commit->grouped || commit->txn.storing_run;
}

/* What was begun early is tried once all of it is here; all else is applied one by one, row by row. */
void
rp_commit_give_up(RpCommit *commit)
{
	RpApplyOrigin *origin = commit->origin;

	rp_commit_undo(commit);
	if (commit->early)
		return;
	if (commit->txn.storing_run)
		origin->careful_until = commit->seq;
	origin->alone = Min(origin->alone * 2 + 1, MAX_ALONE);
	origin->alone_until = commit->seq + origin->alone - 1;
}

void
rp_commit_undo(RpCommit *commit)
{
	AbortOutOfAnyTransaction();
	rp_keyindex_abort();
	rp_keysets_abort();
	rp_run_abort();
	rp_relations_abort();
	MemoryContextReset(change_context);
	replorigin_session_origin = InvalidRepOriginId;
	rp_stream_reset(commit->origin->stream);
}
