/*
 * fn_token.c
 *	  Consistency that clients carry about: current_token(), wait_for_token(),
 *	  wait_for_replication().
 *
 * A token is a version vector as text: all that was committed here when it was
 * made. To know that, capture must have decoded everything up to a barrier in
 * the WAL; its vector then says what is here, of every origin. Elsewhere the
 * token is fulfilled once the applied vector covers it.
 *
 * None of the three gives the transaction an xid or writes a row, so they work
 * in read-only transactions. The caller's own snapshot is taken before: only
 * statements after the wait see what was waited for.
 *
 * Shortly after a start of the server the launcher and the gossip worker have yet to
 * find out that this database is a node, and of which group: that is waited for, too.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "p2p_token.h"

#include "barrier.h"
#include "members.h"
#include "monotonic.h"
#include "nodeview.h"
#include "setup.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_current_token);
PG_FUNCTION_INFO_V1(rp_wait_for_token);
PG_FUNCTION_INFO_V1(rp_wait_for_replication);

/* How long current_token waits for capture. */
#define TOKEN_BARRIER_TIMEOUT_MS 30000
/* Wake-ups come by a condition variable; look at least so often whether the node is still there. */
#define LOOK_AGAIN_MS 1000
/* Whether the launcher has taken the node up is told to nobody. */
#define LOOK_FOR_START_MS 20
/* States of members arrive without a wake-up of their own. */
#define LOOK_FOR_ACKS_MS 50
/* A longer timeout is for ever. */
#define LONGEST_TIMEOUT_US ((double) PG_INT64_MAX / 4)

/* What wait_for_replication counts, and the text of its error. */
typedef struct AckCount
{
	int			others;			/* members besides this node */
	int			acked;
	StringInfoData lacking;		/* names of who has not acked */
} AckCount;

static RpNode *node_await(int64 deadline_us);
static void node_not_started(RpNode *node);
static void token_of_now(RpNode *node, P2pVector *vector);
static void token_read(RpNode *node, const char *token, P2pVector *vector);
static int64 deadline_after(const Interval *timeout);
static bool wait_step(RpNode *node, int64 deadline_us, int64 longest_ms);
static void describe_missing(RpNode *node, const P2pVector *wanted, StringInfo out);
static void count_acks(const P2pVector *wanted, AckCount *count);
static void require_nodes(const AckCount *count, int nodes);

/* SQL: current_token() -> text. */
Datum
rp_current_token(PG_FUNCTION_ARGS)
{
	RpNode	   *node = node_await(rp_monotonic_us() +
								  TOKEN_BARRIER_TIMEOUT_MS * INT64CONST(1000));
	P2pVector	vector;
	char	   *out = palloc(P2P_TOKEN_TEXT_SIZE);
	P2pId		group;

	token_of_now(node, &vector);
	LWLockAcquire(&node->lock, LW_SHARED);
	group = node->group;
	LWLockRelease(&node->lock);
	if (p2p_token_to_text(&group, &vector, out, P2P_TOKEN_TEXT_SIZE) != P2P_OK)
		elog(ERROR, "replp2p: a token did not fit");
	PG_RETURN_TEXT_P(cstring_to_text(out));
}

/*
 * Return this database's node once its workers know it, at most until the deadline; ERROR if
 * it is none. Who is no node has no identity, and is told so at once.
 */
static RpNode *
node_await(int64 deadline_us)
{
	for (;;)
	{
		RpNode	   *node = rp_node_current();
		int64		left_ms = (deadline_us - rp_monotonic_us() + 999) / 1000;

		if (node != NULL && rp_node_status(node) != RP_NODE_NONE)
			break;
		if (rp_shared == NULL || RecoveryInProgress() || !rp_identity_exists(MyDatabaseId))
			break;
		if (left_ms <= 0)
			node_not_started(node);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) Min(left_ms, LOOK_FOR_START_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return rp_node_required();
}

/* Raise the error of a node that has not started in time. node may be NULL: not taken up at all. */
static void
node_not_started(RpNode *node)
{
	char		why[RP_ERROR_TEXT_SIZE] = "";

	if (node != NULL)
	{
		LWLockAcquire(&node->lock, LW_SHARED);
		strlcpy(why, node->workers[RP_WORKER_GOSSIP].last_error, sizeof(why));
		LWLockRelease(&node->lock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the workers of this node have not started yet"),
			 why[0] != '\0' ? errdetail("Last error: %s", why) : 0,
			 errhint("Try again, with a longer timeout; the server's log says what they wait for.")));
}

/* Set vector to all that is committed here by now. */
static void
token_of_now(RpNode *node, P2pVector *vector)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a token cannot be made in a transaction that has written"),
				 errdetail("What it has written is not committed, so no token can stand for it."),
				 errhint("Commit first, then ask for the token.")));

	rp_barrier(node, TOKEN_BARRIER_TIMEOUT_MS);
	rp_vector_captured(node, vector);
}

/* Read a user's token into vector; ERROR if it is none of this group. */
static void
token_read(RpNode *node, const char *token, P2pVector *vector)
{
	P2pId		group;
	bool		same;

	if (p2p_token_from_text(token, &group, vector) != P2P_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("malformed token"),
				 errhint("Pass on unchanged what replp2p.current_token() returned.")));

	LWLockAcquire(&node->lock, LW_SHARED);
	same = p2p_id_compare(&group, &node->group) == 0;
	LWLockRelease(&node->lock);
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("token is of another group"),
				 errhint("A token is good on the nodes of the group that it was made in.")));
}

/* Return the monotonic time at which a timeout that starts now is over. */
static int64
deadline_after(const Interval *timeout)
{
	double		us = (double) timeout->time +
		((double) timeout->day + (double) timeout->month * DAYS_PER_MONTH) * USECS_PER_DAY;

	if (us < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative"),
				 errhint("'0 s' looks once and does not wait.")));
	return rp_monotonic_us() + (int64) Min(us, LONGEST_TIMEOUT_US);
}

/*
 * Sleep on applied_cv, which the caller has prepared, until it is broadcast, at
 * most longest_ms. Returns false, without sleeping, once the deadline is over.
 * ERROR if the node is gone meanwhile.
 */
static bool
wait_step(RpNode *node, int64 deadline_us, int64 longest_ms)
{
	int64		left_us = deadline_us - rp_monotonic_us();
	int64		left_ms = (left_us + 999) / 1000;
	RpNodeStatus status = rp_node_status(node);

	if (status == RP_NODE_NONE || status == RP_NODE_GONE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has left its group"),
				 errhint("Nothing arrives here any more; ask another node.")));
	if (left_us <= 0)
		return false;
	ConditionVariableTimedSleep(&node->applied_cv, (long) Min(left_ms, longest_ms),
								PG_WAIT_EXTENSION);
	return true;
}

/* SQL: wait_for_token(token text, timeout interval). */
Datum
rp_wait_for_token(PG_FUNCTION_ARGS)
{
	const char *token;
	RpNode	   *node;
	P2pVector	wanted;
	P2pVector	applied;
	int64		deadline_us;
	bool		in_time = true;

	rp_arg_required(fcinfo, 1, "timeout");
	token = RP_ARG_TEXT(0, "token");
	deadline_us = deadline_after(PG_GETARG_INTERVAL_P(1));
	node = node_await(deadline_us);
	token_read(node, token, &wanted);

	ConditionVariablePrepareToSleep(&node->applied_cv);
	rp_vector_applied(node, &applied);
	while (!p2p_vector_covers(&applied, &wanted) && in_time)
	{
		in_time = wait_step(node, deadline_us, LOOK_AGAIN_MS);
		rp_vector_applied(node, &applied);
	}
	ConditionVariableCancelSleep();

	if (!p2p_vector_covers(&applied, &wanted))
	{
		StringInfoData missing;

		initStringInfo(&missing);
		describe_missing(node, &wanted, &missing);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("not all that the token stands for has arrived in time"),
				 errdetail("Missing: %s.", missing.data),
				 errhint("See replp2p.stat_lag, or wait with a longer timeout.")));
	}
	PG_RETURN_VOID();
}

/* Append, per origin that is behind, how many transactions are missing. */
static void
describe_missing(RpNode *node, const P2pVector *wanted, StringInfo out)
{
	P2pVector	applied;

	rp_vector_applied(node, &applied);
	for (uint32 i = 0; i < wanted->count; i++)
	{
		const P2pVectorEntry *entry = &wanted->entries[i];
		uint64		have = p2p_vector_get(&applied, &entry->origin);
		char		name[Max(NAMEDATALEN, P2P_ID_TEXT_SIZE)];
		int			slot;

		if (have >= entry->seq)
			continue;
		slot = rp_member_by_origin(node, &entry->origin);
		if (slot < 0)
			p2p_id_to_text(&entry->origin.id, name);
		else
		{
			LWLockAcquire(&node->lock, LW_SHARED);
			strlcpy(name, node->members[slot].name, sizeof(name));
			LWLockRelease(&node->lock);
		}
		appendStringInfo(out, "%s" UINT64_FORMAT " of node \"%s\"",
						 out->len > 0 ? ", " : "", entry->seq - have, name);
	}
	if (out->len == 0)
		appendStringInfoString(out, "nothing any more");
}

/* SQL: wait_for_replication(token text, nodes int, timeout interval); NULL: now, all. */
Datum
rp_wait_for_replication(PG_FUNCTION_ARGS)
{
	RpNode	   *node;
	P2pVector	wanted;
	AckCount	count;
	int64		deadline_us;
	int			nodes;
	bool		in_time = true;

	rp_arg_required(fcinfo, 2, "timeout");
	deadline_us = deadline_after(PG_GETARG_INTERVAL_P(2));
	node = node_await(deadline_us);
	initStringInfo(&count.lacking);
	if (!PG_ARGISNULL(0))
		token_read(node, text_to_cstring(PG_GETARG_TEXT_PP(0)), &wanted);
	else
		token_of_now(node, &wanted);
	nodes = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT32(1);
	if (!PG_ARGISNULL(1) && nodes < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of nodes must not be negative"),
				 errhint("NULL stands for all other nodes.")));

	ConditionVariablePrepareToSleep(&node->applied_cv);
	count_acks(&wanted, &count);
	require_nodes(&count, nodes);
	while (count.acked < (nodes < 0 ? count.others : nodes) && in_time)
	{
		in_time = wait_step(node, deadline_us, LOOK_FOR_ACKS_MS);
		count_acks(&wanted, &count);
	}
	ConditionVariableCancelSleep();

	if (count.acked < (nodes < 0 ? count.others : nodes))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%d of %d nodes have acknowledged in time",
						count.acked, nodes < 0 ? count.others : nodes),
				 errdetail("Not yet: %s.", count.lacking.data),
				 errhint("What is committed here stays committed and will be replicated; "
						 "see replp2p.stat_members and replp2p.stat_log.")));
	PG_RETURN_VOID();
}

/* ERROR if more nodes are asked for than there are. */
static void
require_nodes(const AckCount *count, int nodes)
{
	if (nodes > count->others)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot wait for so many other nodes (%d): there are %d",
						nodes, count->others),
				 errhint("NULL stands for all other nodes; see replp2p.stat_members.")));
}

/* Count the other members, and those whose newest ack covers what is wanted. */
static void
count_acks(const P2pVector *wanted, AckCount *count)
{
	RpNodeView *view = rp_node_view();

	count->others = count->acked = 0;
	resetStringInfo(&count->lacking);
	if (view == NULL)
		return;
	for (int slot = RP_SELF + 1; slot < view->nmembers; slot++)
	{
		const RpMemberView *member = &view->members[slot];

		if (member->m.status != RP_MEMBER_ADMITTED)
			continue;
		count->others++;
		if (member->has_state && p2p_vector_covers(&member->state.ack, wanted))
			count->acked++;
		else
			appendStringInfo(&count->lacking, "%s\"%s\"",
							 count->lacking.len > 0 ? ", " : "", member->m.name);
	}
	pfree(view);
}
