/*
 * fn_group.c
 *	  SQL functions by which a node comes, invites, waits, moves and goes.
 *
 * They are thin: they check, and write down what is wished; workers do it after
 * the commit. create_group writes the first row of the membership log by
 * itself; the slot does not exist yet, so that row is never captured. Joiners
 * copy the log as it stands.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "p2p_crypto.h"
#include "p2p_token.h"

#include "catalog.h"
#include "dsn.h"
#include "identity.h"
#include "join_serve.h"
#include "members.h"
#include "settings.h"
#include "setup.h"
#include "shmem.h"

/* An invite that nobody has used is a door left open: not longer than this. */
#define INVITE_MAX_LIFE_US (30 * USECS_PER_DAY)
/* Invites that are kept, used and expired ones included. */
#define INVITES_MAX 1000

/* How long create_invite waits for a group that is being created. */
#define CREATION_PATIENCE_MS 60000
/* Longest sleep of wait_for_ready before it looks again by itself. */
#define READY_LOOK_MS 1000

PG_FUNCTION_INFO_V1(rp_create_group);
PG_FUNCTION_INFO_V1(rp_create_invite);
PG_FUNCTION_INFO_V1(rp_wait_for_ready);
PG_FUNCTION_INFO_V1(rp_leave_group);
PG_FUNCTION_INFO_V1(rp_set_node_dsn);

static void ready_wait(TimestampTz until);

/* What this node says of itself, for a membership row about it. */
static void
self_describe(const RpIdentity *me, const char *name, const char *dsn, RpMembershipRow *row)
{
	memset(row, 0, sizeof(*row));
	row->subject = me->self;
	strlcpy(row->name, name, sizeof(row->name));
	strlcpy(row->dsn, dsn, sizeof(row->dsn));
	memcpy(row->public_key, me->public_key, sizeof(row->public_key));
}

/* SQL: create_group(node_name name, dsn text, group_name name) -> text, the node's id. */
Datum
rp_create_group(PG_FUNCTION_ARGS)
{
	const char *name = RP_ARG_NAME(0, "node_name");
	const char *dsn = RP_ARG_TEXT(1, "dsn");
	const char *group_name = RP_ARG_NAME(2, "group_name");
	char		id_text[P2P_ID_TEXT_SIZE];
	RpMembershipRow row;
	RpIdentity	me;
	P2pId		group;

	rp_setup_required("replp2p.create_group()");
	rp_name_required("node", name);
	rp_name_required("group", group_name);
	rp_node_absent_required();
	rp_dsn_require_own(dsn);

	rp_setup_begin();
	rp_random(&group, sizeof(group));
	rp_identity_make(&group, &me);
	{
		RpNewNode	node = {&me, name, dsn, group_name, RP_NODE_CREATING, NULL, NULL};

		rp_setup_insert(&node);
	}
	self_describe(&me, name, dsn, &row);
	row.change = RP_MEMBERSHIP_CREATE;
	rp_membership_add(NULL, &me, &row);
	p2p_wipe(me.secret_key, sizeof(me.secret_key));

	p2p_id_to_text(&me.self.id, id_text);
	PG_RETURN_TEXT_P(cstring_to_text(id_text));
}

/* Return the node if it is active; ERROR otherwise. */
static RpNode *
active_node_required(const char *function)
{
	RpNode	   *node = rp_node_required();
	RpNodeStatus status = rp_node_status(node);

	if (status != RP_NODE_ACTIVE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot execute %s: this node is not active", function),
				 errdetail("Its status is \"%s\".", rp_node_status_name(status)),
				 errhint("SELECT replp2p.wait_for_ready() first.")));
	return node;
}

/* Return when a span of time from now ends; ERROR if it is not a positive one. */
static TimestampTz
time_after(const Interval *span, const char *what)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz then = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
															   TimestampTzGetDatum(now),
															   IntervalPGetDatum(span)));

	if (then <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be greater than zero", what),
				 errhint("Write it as '10 minutes', for example.")));
	return then;
}

/* Remember an invite by the hash of its secret, and forget old ones. */
static void
invite_insert(const uint8 secret[P2P_SECRET_SIZE], TimestampTz expires_at)
{
	uint8		hash[P2P_HASH_SIZE];
	RpCatalog	catalog;

	p2p_hash(secret, P2P_SECRET_SIZE, NULL, 0, hash);
	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.invites WHERE granted_to IS NULL"
				   " AND coalesce(used_at, expires_at) < pg_catalog.clock_timestamp() - interval '30 days'",
				   SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("SELECT count(*) FROM replp2p.invites", SPI_OK_SELECT, NULL, 0);
	if (DatumGetInt64(rp_column(0, 1)) >= INVITES_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there are %d invites already", INVITES_MAX),
				 errhint("They are forgotten 30 days after they were used or have expired.")));
	{
		RpArg		args[] = {rp_arg_bytes(hash, sizeof(hash)), rp_arg_time(expires_at)};

		rp_catalog_run("INSERT INTO replp2p.invites (secret_hash, expires_at) VALUES ($1, $2)",
					   SPI_OK_INSERT, args, lengthof(args));
	}
	rp_catalog_close(&catalog);
}

/* A group that was created a moment ago is ready soon: wait for it, if that can be waited for. */
static void
await_creation(void)
{
	RpCatalog	catalog;
	bool		creating;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;					/* the slot would wait for us */
	rp_catalog_open(&catalog);
	creating = rp_catalog_run("SELECT FROM replp2p.local_node WHERE status = 'creating'",
							  SPI_OK_SELECT, NULL, 0) > 0;
	rp_catalog_close(&catalog);
	if (creating)
		ready_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CREATION_PATIENCE_MS));
}

/* SQL: create_invite(expires_in interval) -> text, to be handed to one joiner. */
Datum
rp_create_invite(PG_FUNCTION_ARGS)
{
	char		text[P2P_INVITE_TEXT_SIZE];
	TimestampTz expires_at;
	P2pInvite	invite;
	RpNode	   *node;
	Datum		result;

	rp_arg_required(fcinfo, 0, "expires_in");
	rp_writable_required("replp2p.create_invite()");
	await_creation();
	node = active_node_required("replp2p.create_invite()");
	rp_crypto_required();
	expires_at = time_after(PG_GETARG_INTERVAL_P(0), "expires_in");
	if (expires_at - GetCurrentTimestamp() > INVITE_MAX_LIFE_US)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_in must not be more than 30 days"),
				 errhint("Make an invite shortly before it is used.")));

	memset(&invite, 0, sizeof(invite));
	LWLockAcquire(&node->lock, LW_SHARED);
	invite.group = node->group;
	invite.sponsor = node->members[RP_SELF].origin.id;
	strlcpy(invite.dsn, node->members[RP_SELF].dsn, sizeof(invite.dsn));
	LWLockRelease(&node->lock);
	rp_random(invite.secret, sizeof(invite.secret));
	invite_insert(invite.secret, expires_at);
	if (p2p_invite_to_text(&invite, text, sizeof(text)) != P2P_OK)
		elog(ERROR, "replp2p: an invite does not fit");

	result = PointerGetDatum(cstring_to_text(text));
	p2p_wipe(&invite, sizeof(invite));
	p2p_wipe(text, sizeof(text));
	return result;
}

/* Append what keeps the node from being ready, as a sentence or more. */
static void
ready_obstacles(RpNode *node, StringInfo out)
{
	static const char *const kinds[] = {
		[RP_WORKER_CAPTURE] = "capture",
		[RP_WORKER_GOSSIP] = "gossip",
		[RP_WORKER_APPLY] = "apply",
		[RP_WORKER_JOIN] = "join",
	};

	LWLockAcquire(&node->lock, LW_SHARED);
	appendStringInfo(out, "Its status is \"%s\".", rp_node_status_name(node->status));
	if (node->status == RP_NODE_JOINING || node->status == RP_NODE_CATCHUP)
	{
		if (node->join.phase[0] != '\0')
			appendStringInfo(out, " The join is in phase \"%s\".", node->join.phase);
		if (node->join.waits_for[0] != '\0')
			appendStringInfo(out, " It waits for %s.", node->join.waits_for);
		if (node->join.last_error[0] != '\0')
			appendStringInfo(out, " Its last error: %s", node->join.last_error);
	}
	for (size_t kind = 0; kind < lengthof(kinds); kind++)
		if (node->workers[kind].last_error[0] != '\0')
			appendStringInfo(out, " Last error of the %s worker: %s",
							 kinds[kind], node->workers[kind].last_error);
	LWLockRelease(&node->lock);
}

/* ERROR unless local_node has its row, and not from elsewhere: else there is nothing to wait for. */
static void
node_row_required(void)
{
	RpCatalog	catalog;
	bool		there;

	rp_catalog_open(&catalog);
	there = rp_catalog_run("SELECT system_identifier, database_oid FROM replp2p.local_node",
						   SPI_OK_SELECT, NULL, 0) > 0;
	if (there)
		rp_node_copy_refuse(DatumGetInt64(rp_column(0, 1)), DatumGetObjectId(rp_column(0, 2)));
	rp_catalog_close(&catalog);
	if (!there)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not a node"),
				 errhint("Call replp2p.create_group() or replp2p.join_group() first.")));
}

/* Give up waiting: say what is missing. node may be NULL: the launcher hasn't taken it up. */
static void
ready_timed_out(RpNode *node)
{
	StringInfoData why;

	initStringInfo(&why);
	if (node == NULL)
		appendStringInfoString(&why, "The launcher has not taken it up.");
	else
		ready_obstacles(node, &why);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this node did not become ready in time"),
			 errdetail_internal("%s", why.data),
			 errhint("It goes on by itself: wait again, and see replp2p.stat_join, replp2p.preflight() and the server's log.")));
}

/* Has the node become ready? ERROR if it never will. */
static bool
node_is_ready(RpNode *node)
{
	RpNodeStatus status = node != NULL ? rp_node_status(node) : RP_NODE_NONE;

	if (status == RP_NODE_EVICTED)
	{
		ConditionVariableCancelSleep();
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node was evicted from its group"),
				 errhint("Leave by replp2p.leave_group(), and join anew.")));
	}
	if (status == RP_NODE_LEAVING || status == RP_NODE_GONE)
	{
		ConditionVariableCancelSleep();
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node is leaving its group"),
				 errhint("When it has left, the database can create or join a group anew.")));
	}
	return status == RP_NODE_ACTIVE;
}

/* Wait for news of the node, or (not taken up yet) a moment; at most until the deadline. */
static void
ready_sleep(RpNode *node, TimestampTz until)
{
	long		left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	left_ms = Max(1, Min(left_ms, READY_LOOK_MS));
	if (node != NULL)
	{
		(void) ConditionVariableTimedSleep(&node->status_cv, left_ms, PG_WAIT_EXTENSION);
		return;
	}
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(left_ms, 100), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Wait until this node is active; ERROR if it is not in time. */
static void
ready_wait(TimestampTz until)
{
	RpNode	   *node;

	while (!node_is_ready(node = rp_node_find(MyDatabaseId)))
	{
		if (GetCurrentTimestamp() >= until)
		{
			ConditionVariableCancelSleep();
			ready_timed_out(node);
		}
		ready_sleep(node, until);
	}
	ConditionVariableCancelSleep();
}

/* SQL: wait_for_ready(timeout interval): until this node is active. */
Datum
rp_wait_for_ready(PG_FUNCTION_ARGS)
{
	TimestampTz until;

	rp_arg_required(fcinfo, 0, "timeout");
	until = time_after(PG_GETARG_INTERVAL_P(0), "timeout");
	/* making the slot waits for every running transaction: it would wait for us */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot execute replp2p.wait_for_ready() in a transaction that has written"),
				 errhint("COMMIT first: the workers start after the commit, and wait for the end of open transactions.")));
	node_row_required();

	ready_wait(until);
	PG_RETURN_VOID();
}

/* Read the own name and dsn as the tables have them. Buffers: NAMEDATALEN, P2P_DSN_SIZE. */
static void
self_read(char *name, char *dsn, RpNodeStatus *status, RpNode *node)
{
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT node_name, dsn FROM replp2p.local_node FOR UPDATE",
					   SPI_OK_SELECT, NULL, 0) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("there is no row in replp2p.local_node"),
				 errhint("Only the extension may write its tables; restore the row, or "
						 "leave by replp2p.leave_group(force => true) and join again.")));
	rp_column_name(0, 1, name);
	rp_column_text(0, 2, dsn, P2P_DSN_SIZE);
	rp_catalog_close(&catalog);
	*status = rp_node_status(node);
}

/* Mark the node as leaving; force: without waiting for peers. */
static void
leaving_mark(RpNode *node, bool force)
{
	RpArg		args[] = {
		rp_arg_text(rp_node_status_name(RP_NODE_LEAVING)),
		rp_arg_bool(force),
	};

	rp_catalog_execute("UPDATE replp2p.local_node SET status = $1, force_leave = force_leave OR $2",
					   SPI_OK_UPDATE, args, lengthof(args));
	rp_members_changed(node);
}

/* ERROR while somebody joins by this node: the one would wait for the other. */
static void
joiner_absent_required(RpNode *node)
{
	char		name[NAMEDATALEN];

	if (rp_join_is_served(node, name))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is joining the group by this node", name),
				 errhint("Leave when it has its copy; or leave_group(force => true), then it has to join again by another node.")));
}

/*
 * SQL: leave_group(force boolean): the gossip worker carries it out after the
 * commit, and says it in the stream when that is safe (leave.c); by force it is said at once.
 */
Datum
rp_leave_group(PG_FUNCTION_ARGS)
{
	bool		force;
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	RpMembershipRow row;
	RpNodeStatus status;
	RpIdentity	me;
	RpNode	   *node;

	rp_arg_required(fcinfo, 0, "force");
	force = PG_GETARG_BOOL(0);
	rp_writable_required("replp2p.leave_group()");
	node = rp_node_required();
	self_read(name, dsn, &status, node);
	/* there is nobody who would wait for its changes */
	force |= status == RP_NODE_EVICTED;

	if (status != RP_NODE_ACTIVE && !force)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 status == RP_NODE_LEAVING ?
				 errmsg("this node is leaving its group already") :
				 errmsg("this node is not active yet"),
				 errdetail("Its status is \"%s\".", rp_node_status_name(status)),
				 errhint("leave_group(force => true) does not wait for peers to fetch the last changes.")));
	if (!force)
		joiner_absent_required(node);
	/*
	 * One that is no full member has no stream to say it in, and one that has lost
	 * its key cannot.
	 */
	if (force && (status == RP_NODE_ACTIVE || status == RP_NODE_LEAVING) &&
		!rp_membership_has_left() && rp_identity_exists(MyDatabaseId))
	{
		rp_identity_read(MyDatabaseId, &me);
		self_describe(&me, name, dsn, &row);
		row.change = RP_MEMBERSHIP_LEAVE;
		rp_membership_add(node, &me, &row);
		p2p_wipe(me.secret_key, sizeof(me.secret_key));
	}
	leaving_mark(node, force);
	PG_RETURN_VOID();
}

/*
 * Reach a peer by another dsn from here, until it says one itself: how a node
 * that has moved before it could tell is found again. The session still proves its key.
 */
static void
peer_dsn_set(RpNode *node, const char *name, const char *dsn)
{
	RpArg		args[] = {rp_arg_name(name), rp_arg_text(dsn)};
	RpDsnProbe	probe = {0};
	RpCatalog	catalog;
	uint64		n;

	rp_dsn_inspect(dsn, &probe);
	rp_dsn_require("dsn", &probe);
	rp_catalog_open(&catalog);
	n = rp_catalog_run("UPDATE replp2p.members SET dsn = $2"
					   " WHERE slot > 0 AND status = 'admitted' AND node_name = $1",
					   SPI_OK_UPDATE, args, lengthof(args));
	rp_catalog_close(&catalog);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no member \"%s\"", name),
				 errhint("See replp2p.stat_members for the names of this node and its peers.")));
	ereport(NOTICE,
			(errmsg("only this node reaches \"%s\" by that dsn", name),
			 errdetail("It tells the whole group itself, once set_node_dsn() is called there.")));
	rp_members_changed(node);
}

/* SQL: set_node_dsn(node_name name, dsn text): how peers reach this node from now on. */
Datum
rp_set_node_dsn(PG_FUNCTION_ARGS)
{
	const char *name = RP_ARG_NAME(0, "node_name");
	const char *dsn = RP_ARG_TEXT(1, "dsn");
	char		own_name[NAMEDATALEN];
	char		old_dsn[P2P_DSN_SIZE];
	RpMembershipRow row;
	RpNodeStatus status;
	RpCatalog	catalog;
	RpIdentity	me;
	RpNode	   *node;

	rp_writable_required("replp2p.set_node_dsn()");
	node = active_node_required("replp2p.set_node_dsn()");
	self_read(own_name, old_dsn, &status, node);
	if (strcmp(name, own_name) != 0)
	{
		peer_dsn_set(node, name, dsn);
		PG_RETURN_VOID();
	}
	rp_dsn_require_own(dsn);

	rp_identity_read(MyDatabaseId, &me);
	self_describe(&me, own_name, dsn, &row);
	row.change = RP_MEMBERSHIP_DSN;
	rp_membership_add(node, &me, &row);
	p2p_wipe(me.secret_key, sizeof(me.secret_key));

	rp_catalog_open(&catalog);
	{
		RpArg		args[] = {rp_arg_text(dsn)};

		rp_catalog_run("UPDATE replp2p.local_node SET dsn = $1", SPI_OK_UPDATE, args, 1);
	}
	rp_catalog_close(&catalog);
	PG_RETURN_VOID();
}
