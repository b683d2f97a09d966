/*
 * join.c
 *	  The join worker: makes a node out of what join_group has recorded.
 *
 *	  status    phase (stat_join)
 *	  joining   connecting     capture makes its slot; a session with the sponsor
 *	            admission      JOIN: the sponsor admits this node to the group
 *	            schema, data,  the copy, in the donor's snapshot and one local
 *	            indexes        transaction: join_copy.c
 *	  catchup   catching up    gossip pulls, apply applies, until all is here that
 *	                           the members had when this phase began
 *	  active    ready          the worker ends
 *
 * The slot comes first, so that capture sees every transaction that writes on
 * copied rows. The admission comes before the snapshot, so that nothing that this
 * node still needs is trimmed anywhere (stability counts it from then on).
 *
 * An error ends a try; it is shown in stat_join, and the next one begins from
 * scratch after a pause that doubles from 1 s to 60 s. The invite may be shown
 * again and again by the key that used it. The worker may die at any moment: where it
 * goes on hangs on the node's status alone.
 *
 * No lock is held over any wait. The secret of the invite is read from its file
 * for each use, and the file is removed before the node is active.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "p2p_crypto.h"
#include "p2p_message.h"

#include "catalog.h"
#include "compat.h"
#include "crashpoint.h"
#include "identity.h"
#include "join_internal.h"
#include "monotonic.h"
#include "settings.h"
#include "states.h"
#include "worker.h"

#define RETRY_FIRST_MS 1000
#define RETRY_LAST_MS 60000
#define LOOK_MS 1000			/* between looks at what nobody wakes us for */
/* The sponsor waits for its capture worker before it answers. */
#define ADMISSION_PATIENCE_MS 120000
/* How long the sponsor may take to apply what other donors have, before it is copied from it alone. */
#define COVER_TRIES 50
#define COVER_WAIT_MS 100

static void step_copy(RpNode *node);
static void step_catch_up(RpNode *node);

/* Show a phase in stat_join. */
void
rp_join_phase(RpNode *node, const char *phase, const char *waits_for)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	strlcpy(node->join.phase, phase, sizeof(node->join.phase));
	strlcpy(node->join.waits_for, waits_for != NULL ? waits_for : "",
			sizeof(node->join.waits_for));
	LWLockRelease(&node->lock);
	ConditionVariableBroadcast(&node->status_cv);
}

/* Copy a text, cut to whole characters; the caller holds RpNode.lock. */
static void
text_show(char *to, size_t size, const char *text)
{
	int			length = pg_mbcliplen(text, (int) strlen(text), (int) size - 1);

	memcpy(to, text, length);
	to[length] = '\0';
}

/* End a try: clean up, show the error, and log it unless the last one was the same. */
static void
try_failed(RpNode *node)
{
	ErrorData  *error = CopyErrorData();
	char	   *text = error->detail == NULL ? pstrdup(error->message) :
		psprintf("%s: %s", error->message, error->detail);
	char		shown[RP_ERROR_TEXT_SIZE];
	bool		news;

	LWLockReleaseAll();
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	text_show(shown, sizeof(shown), text);
	news = strcmp(shown, node->join.last_error) != 0;
	strlcpy(node->join.last_error, shown, sizeof(node->join.last_error));
	node->join.waits_for[0] = '\0';
	LWLockRelease(&node->lock);
	if (news)
		EmitErrorReport();
	FlushErrorState();
	ConditionVariableCancelSleep();
	AbortCurrentTransaction();
	replorigin_session_origin = InvalidRepOriginId;
	ConditionVariableBroadcast(&node->status_cv);
}

/* Try a step; false: it has failed, and nothing of it is left. */
static bool
try_step(RpNode *node, void (*step) (RpNode *node))
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "replp2p join",
												  ALLOCSET_DEFAULT_SIZES);
	volatile bool done = false;

	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(node);
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		try_failed(node);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	return done;
}

/* Wait before the next try. */
static void
pause_for(RpNode *node, int pause_ms)
{
	int64		end_us = rp_monotonic_us() + pause_ms * INT64CONST(1000);
	int64		left_us;

	while ((left_us = end_us - rp_monotonic_us()) > 0)
		rp_worker_wait(node, RP_WORKER_JOIN, left_us / 1000 + 1, PG_WAIT_EXTENSION);
}

/* Main of the join worker. */
void
rp_join_main(Datum dboid)
{
	RpNode	   *node = rp_worker_open(dboid, RP_WORKER_JOIN);
	int			pause_ms = RETRY_FIRST_MS;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (node->join.started_at == 0)
		node->join.started_at = GetCurrentTimestamp();
	LWLockRelease(&node->lock);

	for (;;)
	{
		RpNodeStatus status = rp_node_status(node);
		bool		done = true;

		if (status == RP_NODE_JOINING)
			done = try_step(node, step_copy);
		else if (status == RP_NODE_CATCHUP)
			done = try_step(node, step_catch_up);
		else
			return;
		if (done)
			pause_ms = RETRY_FIRST_MS;
		else
		{
			pause_for(node, pause_ms);
			pause_ms = Min(pause_ms * 2, RETRY_LAST_MS);
		}
	}
}

/* Encode JOIN or JOIN_CHECK; false: the secret is not there any more. */
static bool
request_write(const RpJoin *join, P2pMessageKind kind, P2pWriter *w)
{
	P2pJoin		message;

	memset(&message, 0, sizeof(message));
	if (!rp_join_secret_read(join->node->dboid, message.secret))
		return false;
	strlcpy(message.name, join->name, sizeof(message.name));
	strlcpy(message.dsn, join->dsn, sizeof(message.dsn));
	message.server_version = RP_SERVER_VERSION;
	strlcpy(message.encoding, GetDatabaseEncodingName(), sizeof(message.encoding));
	p2p_put_join(w, kind, &message);
	p2p_wipe(&message, sizeof(message));
	if (w->overflow)
		elog(ERROR, "replp2p: a join request does not fit");
	return true;
}

/* Wait until capture has its slot; it says itself in waits_for what it waits for. */
static void
wait_for_capture(RpNode *node)
{
	for (;;)
	{
		bool		ready;

		SpinLockAcquire(&node->vector_lock);
		ready = node->capture_ready;
		SpinLockRelease(&node->vector_lock);
		if (ready)
			return;
		rp_worker_wait(node, RP_WORKER_JOIN, LOOK_MS, PG_WAIT_EXTENSION);
	}
}

/* ERROR: the sponsor refuses. */
static void
refusal_raise(P2pErrorCode code, const char *text)
{
	bool		final = code == P2P_ERROR_INVITE_INVALID || code == P2P_ERROR_INVITE_EXPIRED ||
		code == P2P_ERROR_INVITE_USED || code == P2P_ERROR_NAME_TAKEN ||
		code == P2P_ERROR_EVICTED;

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("the sponsor refuses the join"),
			 errdetail("The sponsor says: %s", text),
			 final ? errhint("Leave by replp2p.leave_group(force => true), and join again with a new invite.") :
			 errhint("It is tried again by itself.")));
}

/* Have the sponsor admit this node. */
static void
admit(RpJoin *join)
{
	uint8		request[P2P_JOIN_MAX_SIZE];
	char		text[P2P_TEXT_SIZE];
	StringInfoData answer;
	P2pJoinReply reply;
	P2pErrorCode code;
	P2pWriter	w;
	P2pReader	r;
	char	   *error = NULL;
	uint8		kind;

	p2p_writer_init(&w, request, sizeof(request));
	if (!request_write(join, P2P_MSG_JOIN, &w))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the secret of the invite is gone"),
				 errhint("Leave by replp2p.leave_group(force => true), and join again with a new invite.")));
	initStringInfo(&answer);
	if (!rp_peer_session_call(join->donor, request, w.length, ADMISSION_PATIENCE_MS, &answer, &error))
		rp_join_donor_error(join, NULL, error);
	p2p_wipe(request, sizeof(request));

	p2p_reader_init(&r, answer.data, (size_t) answer.len);
	kind = p2p_get_u8(&r);
	if (kind == P2P_MSG_ERROR && p2p_get_error(&r, &code, text) == P2P_OK)
		refusal_raise(code, text);
	if (kind != P2P_MSG_JOIN_REPLY || p2p_get_join_reply(&r, &reply) != P2P_OK ||
		p2p_id_compare(&reply.sponsor.id, &join->sponsor) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the sponsor's answer is not understood"),
				 errhint("Use the same version of replp2p on both servers.")));
	strlcpy(join->sponsor_name, reply.sponsor_name, sizeof(join->sponsor_name));
	ereport(LOG,
			(errmsg("admitted to group \"%s\" by node \"%s\"", reply.group_name, reply.sponsor_name)));
}

/* Set the counters of stat_join back for a new try. */
static void
progress_reset(RpNode *node)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.tables_total = node->join.tables_processed = 0;
	node->join.indexes_total = node->join.indexes_processed = 0;
	node->join.bytes_total = node->join.bytes_processed = 0;
	node->join.rows_processed = 0;
	LWLockRelease(&node->lock);
}

/* Have shared memory say what the catalog says. */
static void
members_reload(RpNode *node)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	(void) rp_members_load(node);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	rp_launcher_wake();
	rp_worker_wake(node, RP_WORKER_GOSSIP);
}

/* Take the snapshots of all donors; the sponsor's last, so that it has all that the others have. */
static void
snapshots_take(RpJoin *join)
{
	rp_join_donor_settings(join, "60s");
	rp_join_donors_begin(join);
	rp_join_donors_open(join);
	RP_CRASH_POINT("join_between_snapshots");
	rp_join_snapshot_take(join);
	for (int i = 0; i < COVER_TRIES && !rp_join_donors_covered(join); i++)
	{
		rp_join_run(join, "ROLLBACK");
		rp_worker_wait(join->node, RP_WORKER_JOIN, COVER_WAIT_MS, PG_WAIT_EXTENSION);
		rp_join_snapshot_take(join);
	}
	rp_join_donors_drop_ahead(join);
}

/* From joining to catchup. */
static void
step_copy(RpNode *node)
{
	RpJoin	   *join = rp_join_begin(node);

	progress_reset(node);
	rp_join_phase(node, "connecting", NULL);
	wait_for_capture(node);
	rp_join_donor_open(join);
	rp_join_phase(node, "admission", NULL);
	admit(join);
	snapshots_take(join);
	rp_join_copy(join);
	rp_peer_close(join->donor);
	members_reload(node);
	ereport(LOG,
			(errmsg("copied " INT64_FORMAT " rows of " INT64_FORMAT " tables from the sponsor",
					node->join.rows_processed, node->join.tables_processed)));
}

/*
 * Tell the sponsor that the copy is complete, so that it takes back the right to
 * read that it lent. It does so by itself some day; so a failure is no error.
 */
static bool
loan_return(RpJoin *join)
{
	uint8		request[P2P_JOIN_MAX_SIZE];
	StringInfoData answer;
	P2pWriter	w;
	char	   *error = NULL;
	bool		returned;

	p2p_writer_init(&w, request, sizeof(request));
	if (!request_write(join, P2P_MSG_JOIN_CHECK, &w))
		return true;
	initStringInfo(&answer);
	returned = rp_peer_call(join->sponsor_dsn, &join->me, &join->me.group, &join->sponsor,
							request, w.length, &answer, &error) &&
		answer.len > 0 && (uint8) answer.data[0] == P2P_MSG_JOIN_REPLY;
	p2p_wipe(request, sizeof(request));
	return returned;
}

/*
 * Join what the members have said since `since` that they store into *target.
 * False: none of them has spoken yet. True also if there is no other member.
 */
static bool
target_hear(RpNode *node, TimestampTz since, P2pVector *target)
{
	uint8	   *memory = palloc(P2P_STATE_MAX_SIZE);
	P2pNodeState *state = palloc(sizeof(P2pNodeState));
	bool		alone = true,
				heard = false;
	int			nmembers;

	p2p_vector_clear(target);
	LWLockAcquire(&node->lock, LW_SHARED);
	nmembers = node->nmembers;
	LWLockRelease(&node->lock);
	for (int slot = RP_SELF + 1; slot < nmembers; slot++)
	{
		TimestampTz heard_at;

		if (node->members[slot].status != RP_MEMBER_ADMITTED)
			continue;
		alone = false;
		SpinLockAcquire(&node->vector_lock);
		heard_at = node->members[slot].heard_at;
		SpinLockRelease(&node->vector_lock);
		if (!rp_state_read(node, slot, memory, state))
			continue;
		heard |= heard_at >= since;
		if (!p2p_vector_merge(target, &state->stored))
			elog(ERROR, "replp2p: too many members in a vector");
	}
	pfree(state);
	pfree(memory);
	return heard || alone;
}

/* A peer may store more of a member that is gone than anybody applies: how far does it count? */
static uint64
last_that_counts(RpNode *node, const P2pVectorEntry *stored)
{
	int			slot = rp_member_by_origin(node, &stored->origin);
	uint64		last = stored->seq;

	if (slot < 0)
		return last;
	LWLockAcquire(&node->lock, LW_SHARED);
	if (node->members[slot].status == RP_MEMBER_LEFT)
		last = Min(last, node->members[slot].left_seq);
	else if (node->members[slot].status == RP_MEMBER_EVICTED)
		last = 0;				/* it comes, as far as it can: p2p_evict.c */
	LWLockRelease(&node->lock);
	return last;
}

/* Say in stat_join of what something is still missing; true if nothing is. */
static bool
target_is_reached(RpNode *node, const P2pVector *target)
{
	P2pVector  *applied = palloc(sizeof(P2pVector));
	char		waits_for[sizeof(node->join.waits_for)];
	uint64		lacking = 0;

	rp_vector_applied(node, applied);
	for (uint32 i = 0; i < target->count; i++)
	{
		uint64		seq = p2p_vector_get(applied, &target->entries[i].origin);
		uint64		wanted = last_that_counts(node, &target->entries[i]);

		if (seq < wanted)
			lacking += wanted - seq;
	}
	pfree(applied);
	snprintf(waits_for, sizeof(waits_for), UINT64_FORMAT " transactions of other nodes", lacking);
	if (lacking > 0)
		rp_join_phase(node, "catching up", waits_for);
	return lacking == 0;
}

/* Wait until all is applied that the members had when this began. */
static void
wait_for_target(RpNode *node, const P2pOrigin *self)
{
	TimestampTz began = GetCurrentTimestamp();
	P2pVector  *target = palloc(sizeof(P2pVector));

	rp_join_phase(node, "catching up", "a first word of the other members");
	while (!target_hear(node, began, target))
		rp_worker_wait(node, RP_WORKER_JOIN, LOOK_MS, PG_WAIT_EXTENSION);
	/* our own transactions need not come back to us */
	(void) p2p_vector_set(target, self, 0);

	ConditionVariablePrepareToSleep(&node->applied_cv);
	while (!target_is_reached(node, target))
	{
		rp_worker_check(node, RP_WORKER_JOIN);
		(void) ConditionVariableTimedSleep(&node->applied_cv, LOOK_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	pfree(target);
}

/* From catchup to active. */
static void
step_catch_up(RpNode *node)
{
	RpJoin	   *join = rp_join_begin(node);
	bool		returned;

	rp_join_phase(node, "catching up", NULL);
	returned = loan_return(join);
	members_reload(node);
	wait_for_target(node, &join->me.self);
	if (!returned && !loan_return(join))
		ereport(LOG,
				(errmsg("the sponsor could not be told that the copy is complete"),
				 errdetail("Its role for peers keeps pg_read_all_data for about a day.")));
	rp_join_secret_remove(node->dboid);
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.last_error[0] = '\0';
	LWLockRelease(&node->lock);
	/* before the status: whoever has waited for that looks at this next */
	rp_join_phase(node, "ready", NULL);
	rp_node_set_status(node, RP_NODE_ACTIVE);
	MemoryContextSwitchTo(join->memory);
	members_reload(node);
	ereport(LOG, (errmsg("the join is complete: node \"%s\" is active", join->name)));
}
