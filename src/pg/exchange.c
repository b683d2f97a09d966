/*
 * exchange.c
 *	  CALL replp2p.exchange(INOUT message bytea): the serving side of a
 *	  conversation with a peer, on the ordinary port.
 *
 * One CALL is one message in and one out; but for a PULL that allows for several answers, of which each is sent as
 * a row as soon as it is there, the last one when the statement ends, after RP_PULL_MAX_WAIT_MS at the latest. So while
 * changes come one by one, a peer hears of each without asking, and neither side has a statement to begin and to end
 * for it. The conversation (P2pSession) is this
 * backend's, and ends with it:
 *
 *	  none --HELLO--> greeted --first FRAME, which proves the key--> open --FRAME*-->
 *	    ^                |                                             |
 *	    +--- anything malformed, forged, replayed, oversized ----------+
 *
 * Who may say what, looked up anew for every message, as membership changes:
 *
 *	  member		GOSSIP, PULL, JOIN_CHECK, JOIN (a joiner that asks again)
 *	  left			GOSSIP, JOIN_CHECK, JOIN: who leaves has to hear when all have its changes
 *	  stranger		JOIN_CHECK, JOIN
 *	  evicted		nothing: it is told that it is evicted
 *
 * What may not be said is answered by a sealed ERROR. What is no proper message
 * ends the session, is counted, and is answered by an 'E' message: an SQL error
 * per message would let a stranger fill the server's log (see refusals.c).
 *
 * A request may wait (PULL), and so may a large reply, for a slow client. A
 * waiting backend that held a snapshot would keep vacuum off all tables, so
 * before that the procedure commits the transaction in which it was called
 * (rp_exchange_let_go): SPI_commit leaves one that holds nothing. That works
 * only outside of a transaction block, for SECURITY INVOKER and without a SET
 * clause. What is answered at once with a few bytes saves that. Nothing here reads
 * a table; all that is needed lies in shared memory, the change logs and the key file.
 *
 * statement_timeout must not cut a long poll, and the server's log should not
 * show sealed bytes: for the peer's own session both are turned off. A backend
 * that serves a peer is never idle for long and would make a smart shutdown
 * wait for ever, so it looks into postmaster.pid now and then.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/plancache.h"
#include "utils/timeout.h"

#include "exchange.h"
#include "identity.h"
#include "join_serve.h"
#include "libpq_server.h"
#include "members.h"
#include "monotonic.h"
#include "refusals.h"
#include "serve.h"
#include "settings.h"
#include "worker.h"

#include "p2p_session.h"

/* Requests are small: a GOSSIP with the states of all members is the largest. */
#define MAX_REQUEST ((size_t) 4 * 1024 * 1024)

#define SHUTDOWN_LOOK_US 1000000

/* So much the server keeps back until the statement has ended: sending it waits for nobody. */
#define SMALL_REPLY 4096

/* Of the protocol between servers and clients. */
#define DATA_ROW 'D'

/* What the peer is to this node, right now. */
typedef enum Standing
{
	STANDING_STRANGER = 0,
	STANDING_MEMBER,
	STANDING_LEFT,
	STANDING_EVICTED
} Standing;

typedef struct Peer
{
	Standing	standing;
	char		name[NAMEDATALEN];
} Peer;

static P2pSession session;
static RpIdentity identity;		/* as read at HELLO */
static bool exit_callback_set = false;
static bool holds_snapshot;		/* the CALL at hand does */

PG_FUNCTION_INFO_V1(rp_exchange);

static void require_own_statement(FunctionCallInfo fcinfo);
static TupleDesc reply_descriptor(void);
static void leave_if_stopping(void);
static void leave_if_stopped(RpNode *node);
static bytea *handle(const uint8 *bytes, size_t length);
static bytea *take_hello(RpNode *node, const uint8 *bytes, size_t length);
static bytea *take_frame(RpNode *node, const uint8 *bytes, size_t length);
static P2pStatus answer(RpNode *node, const uint8 *plain, size_t length, StringInfo reply);
static bool may_speak(RpNode *node, const Peer *peer, uint8 kind, StringInfo reply);
static P2pStatus answer_gossip(RpNode *node, P2pReader *r, StringInfo reply);
static P2pStatus answer_pull(RpNode *node, P2pReader *r, StringInfo reply);
static void send_ahead(bytea *message);
static P2pStatus answer_join(RpNode *node, bool check_only, P2pReader *r, StringInfo reply);
static void find_peer(RpNode *node, Peer *peer);
static void quiet_session(void);
static bytea *seal(RpNode *node, const StringInfoData *plain);
static bytea *refusal(const char *text);
static bytea *refuse_message(RpNode *node, const char *why);
static void end_session(void);
static void wipe_at_exit(int code, Datum arg);

/* The procedure. */
Datum
rp_exchange(PG_FUNCTION_ARGS)
{
	TupleDesc	descriptor;
	const uint8 *bytes = NULL;
	size_t		length = 0;
	bool		oversized = false;
	Datum		values[1];
	bool		nulls[1] = {false};

	require_own_statement(fcinfo);
	descriptor = reply_descriptor();
	if (!PG_ARGISNULL(0))
	{
		length = toast_raw_datum_size(PG_GETARG_DATUM(0)) - VARHDRSZ;
		oversized = length > MAX_REQUEST;
	}
	if (!PG_ARGISNULL(0) && !oversized)
	{
		bytea	   *message = PG_GETARG_BYTEA_PP(0);

		bytes = (const uint8 *) VARDATA_ANY(message);
		length = VARSIZE_ANY_EXHDR(message);
	}
	holds_snapshot = true;
	disable_timeout(STATEMENT_TIMEOUT, false);
	leave_if_stopping();
	leave_if_stopped(rp_node_find(MyDatabaseId));

	if (oversized)
		values[0] = PointerGetDatum(refuse_message(rp_node_find(MyDatabaseId), "it is too large"));
	else
		values[0] = PointerGetDatum(handle(bytes, length));
	if (VARSIZE(DatumGetPointer(values[0])) > SMALL_REPLY)
		rp_exchange_let_go();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)));
}

/* Refuse to run where a snapshot can't be let go. */
static void
require_own_statement(FunctionCallInfo fcinfo)
{
	if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("replp2p.exchange cannot run inside a transaction block or a function"),
			 errhint("It is for peers, which call it as a statement of its own.")));
}

/* Return the descriptor of the procedure's result; made once, while a snapshot is held anyway. */
static TupleDesc
reply_descriptor(void)
{
	static TupleDesc descriptor = NULL;

	if (descriptor == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		TupleDesc	fresh = CreateTemplateTupleDesc(1);

		TupleDescInitEntry(fresh, 1, "message", BYTEAOID, -1, 0);
		descriptor = BlessTupleDesc(fresh);
		MemoryContextSwitchTo(old);
	}
	return descriptor;
}

/* End the calling transaction, and with it its snapshot; we are in a fresh one then. */
void
rp_exchange_let_go(void)
{
	if (!holds_snapshot)
		return;
	holds_snapshot = false;
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_commit();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

/* Give the connection up if somebody wants the database for himself (drops.c). */
static void
leave_if_stopped(RpNode *node)
{
	if (node != NULL && rp_workers_are_stopped(node))
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating a peer's connection because its database or extension is being dropped, renamed or copied")));
}

/* Give the connection up if the server is in a smart shutdown, which waits for its clients. */
static void
leave_if_stopping(void)
{
	static int64 looked_us = 0;
	int64		now = rp_monotonic_us();
	char		line[128];
	bool		stopping = false;
	FILE	   *file;

	if (looked_us != 0 && now < looked_us + SHUTDOWN_LOOK_US)
		return;
	looked_us = now;
	file = fopen("postmaster.pid", "r");
	if (file == NULL)
		return;
	for (int n = 1; fgets(line, sizeof(line), file) != NULL; n++)
	{
		if (n == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	}
	fclose(file);
	if (stopping)
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating a peer's connection because the server is shutting down")));
}

/* Answer one message, whatever it is. The answer is in CurrentMemoryContext. */
static bytea *
handle(const uint8 *bytes, size_t length)
{
	RpNode	   *node = rp_node_find(MyDatabaseId);
	RpNodeStatus status = node != NULL ? rp_node_status(node) : RP_NODE_NONE;

	if (status == RP_NODE_NONE || status == RP_NODE_GONE)
	{
		end_session();
		return refusal("there is no node in this database");
	}
	rp_crypto_required();
	pg_atomic_fetch_add_u64(&node->stats.requests_served, 1);
	if (length == 0)
		return refuse_message(node, "it is empty");
	switch (bytes[0])
	{
		case P2P_BYTE_HELLO:
			return take_hello(node, bytes, length);
		case P2P_BYTE_FRAME:
			return take_frame(node, bytes, length);
		default:
			return refuse_message(node, "it is of no known kind");
	}
}

/* Begin a session. Nothing of the peer is believed yet. */
static bytea *
take_hello(RpNode *node, const uint8 *bytes, size_t length)
{
	uint8		seed[P2P_SEED_SIZE];
	bytea	   *reply = palloc(VARHDRSZ + P2P_WELCOME_MAX_SIZE);
	P2pWriter	w;
	P2pStatus	status;

	end_session();
	if (!exit_callback_set)
		before_shmem_exit(wipe_at_exit, (Datum) 0);
	exit_callback_set = true;
	rp_identity_read(MyDatabaseId, &identity);

	rp_random(seed, sizeof(seed));
	p2p_writer_init(&w, VARDATA(reply), P2P_WELCOME_MAX_SIZE);
	status = p2p_session_accept(&session, &identity.group, identity.public_key,
								identity.secret_key, seed, bytes, length, &w);
	p2p_wipe(seed, sizeof(seed));
	if (status == P2P_FOREIGN_GROUP)
	{
		end_session();
		pg_atomic_fetch_add_u64(&node->stats.refused_strangers, 1);
		return refusal("this node belongs to another group");
	}
	if (status != P2P_OK)
		return refuse_message(node, p2p_status_text(status));
	SET_VARSIZE(reply, VARHDRSZ + w.length);
	return reply;
}

/* Open a frame, answer what is in it, seal the answer. */
static bytea *
take_frame(RpNode *node, const uint8 *bytes, size_t length)
{
	uint8	   *plain = palloc(length);
	size_t		plain_length;
	StringInfoData reply;
	P2pStatus	status = p2p_session_unseal(&session, bytes, length, plain, &plain_length);

	if (status == P2P_REFUSED)
		return refuse_message(node, "no session stands");
	if (status == P2P_OK && plain_length == 0)
		status = P2P_TORN;
	if (status != P2P_OK)
		return refuse_message(node, p2p_status_text(status));

	initStringInfo(&reply);
	status = answer(node, plain, plain_length, &reply);
	if (status != P2P_OK)
		return refuse_message(node, p2p_status_text(status));
	return seal(node, &reply);
}

/* Append the plain answer to a plain message; anything but P2P_OK: it is malformed. */
static P2pStatus
answer(RpNode *node, const uint8 *plain, size_t length, StringInfo reply)
{
	Peer		peer;
	P2pReader	r;

	find_peer(node, &peer);
	if (peer.standing == STANDING_MEMBER)
		quiet_session();
	if (!may_speak(node, &peer, plain[0], reply))
		return P2P_OK;
	p2p_reader_init(&r, plain + 1, length - 1);
	switch (plain[0])
	{
		case P2P_MSG_GOSSIP:
			return answer_gossip(node, &r, reply);
		case P2P_MSG_PULL:
			return answer_pull(node, &r, reply);
		case P2P_MSG_JOIN_CHECK:
			return answer_join(node, true, &r, reply);
		case P2P_MSG_JOIN:
			return answer_join(node, false, &r, reply);
		default:
			return P2P_BAD_VERSION;
	}
}

/* May the peer say this, here and now? If not, an ERROR is appended. */
static bool
may_speak(RpNode *node, const Peer *peer, uint8 kind, StringInfo reply)
{
	bool		joins = kind == P2P_MSG_JOIN_CHECK || kind == P2P_MSG_JOIN;
	bool		allowed = peer->standing == STANDING_MEMBER || joins ||
		(peer->standing == STANDING_LEFT && kind == P2P_MSG_GOSSIP);
	RpNodeStatus status = rp_node_status(node);

	/* First, as a node that is joining knows nobody yet. */
	if (status == RP_NODE_CREATING || status == RP_NODE_JOINING || status == RP_NODE_EVICTED ||
		(status != RP_NODE_ACTIVE && joins))
	{
		rp_serve_error(reply, P2P_ERROR_NOT_READY, "this node is not ready for that");
		return false;
	}
	if (peer->standing == STANDING_EVICTED)
	{
		rp_serve_error(reply, P2P_ERROR_EVICTED, "you were evicted from the group");
		return false;
	}
	if (!allowed)
	{
		pg_atomic_fetch_add_u64(&node->stats.refused_strangers, 1);
		rp_refused_key(node, session.peer_key, "request",
					   "its sender is not a member of the group");
		rp_serve_error(reply, P2P_ERROR_UNKNOWN_NODE, "you are not a member here");
		return false;
	}
	if (peer->standing != STANDING_STRANGER && rp_peer_is_cut(peer->name))
	{
		rp_serve_error(reply, P2P_ERROR_UNREACHABLE,
					   "this link is cut by replp2p.unreachable_peers");
		return false;
	}
	return true;
}

static P2pStatus
answer_gossip(RpNode *node, P2pReader *r, StringInfo reply)
{
	P2pGossip  *gossip = palloc(sizeof(P2pGossip));
	P2pStatus	status = p2p_get_gossip(r, gossip);

	if (status == P2P_OK)
		rp_serve_gossip(node, gossip, reply);
	return status;
}

static P2pStatus
answer_pull(RpNode *node, P2pReader *r, StringInfo reply)
{
	P2pPull    *pull = palloc(sizeof(P2pPull));
	P2pStatus	status = p2p_get_pull(r, pull);
	int64		until;
	MemoryContext step;
	MemoryContext old;
	Peer		peer;

	if (status != P2P_OK)
		return status;
	until = rp_monotonic_us() + RP_PULL_MAX_WAIT_MS * INT64CONST(1000);
	step = AllocSetContextCreate(CurrentMemoryContext, "replp2p pull", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(step);
	/* settings are read again between statements; they may cut this very link */
	while (rp_serve_pull(node, pull, reply) && pull->max_replies > 1 && !ConfigReloadPending &&
		   !rp_workers_are_stopped(node) && rp_monotonic_us() < until)
	{
		send_ahead(seal(node, reply));
		resetStringInfo(reply);
		MemoryContextReset(step);
		pull->max_replies--;
		leave_if_stopping();
		find_peer(node, &peer);
		if (!may_speak(node, &peer, P2P_MSG_PULL, reply))
			break;
	}
	MemoryContextSwitchTo(old);
	return P2P_OK;
}

/* Send one more answer while the statement goes on: a row before the one that the server sends at its end. */
static void
send_ahead(bytea *message)
{
	StringInfoData row;

	rp_exchange_let_go();
	pq_beginmessage(&row, DATA_ROW);
	pq_sendint16(&row, 1);
	pq_sendint32(&row, (uint32) (VARSIZE(message) - VARHDRSZ));
	pq_sendbytes(&row, VARDATA(message), (int) (VARSIZE(message) - VARHDRSZ));
	pq_endmessage(&row);
	(void) pq_flush();			/* who has gone is noticed by who waits */
}

static P2pStatus
answer_join(RpNode *node, bool check_only, P2pReader *r, StringInfo reply)
{
	P2pJoin    *join = palloc(sizeof(P2pJoin));
	P2pStatus	status = p2p_get_join(r, join);

	rp_exchange_let_go();
	if (status == P2P_OK)
		rp_serve_join(node, &identity, check_only, join, session.peer_key, reply);
	p2p_wipe(join, sizeof(P2pJoin));
	return status;
}

/* Find out what the holder of the session's key is to this node. */
static void
find_peer(RpNode *node, Peer *peer)
{
	memset(peer, 0, sizeof(*peer));
	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = RP_SELF + 1; i < node->nmembers; i++)
	{
		const RpMember *member = &node->members[i];

		if (member->status == RP_MEMBER_FREE ||
			memcmp(member->public_key, session.peer_key, P2P_PUBLIC_KEY_SIZE) != 0)
			continue;
		peer->standing = member->status == RP_MEMBER_ADMITTED ? STANDING_MEMBER :
			member->status == RP_MEMBER_EVICTED ? STANDING_EVICTED : STANDING_LEFT;
		strlcpy(peer->name, member->name, sizeof(peer->name));
		if (peer->standing == STANDING_MEMBER)
			break;				/* else a later epoch may be one */
	}
	LWLockRelease(&node->lock);
}

/*
 * Keep what this session sends out of the server's log, and its one statement
 * from being planned again for each message. Only for proven members: other
 * roles that may CALL the procedure are logged as the administrator wants.
 */
static void
quiet_session(void)
{
	if (plan_cache_mode != PLAN_CACHE_MODE_FORCE_GENERIC_PLAN)
		SetConfigOption("plan_cache_mode", "force_generic_plan", PGC_USERSET, PGC_S_SESSION);
	if (log_min_duration_statement == -1 && log_min_duration_sample == -1 &&
		log_parameter_max_length == 0)
		return;
	SetConfigOption("log_min_duration_statement", "-1", PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("log_min_duration_sample", "-1", PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("log_parameter_max_length", "0", PGC_SUSET, PGC_S_SESSION);
}

/* Seal a plain answer. */
static bytea *
seal(RpNode *node, const StringInfoData *plain)
{
	size_t		capacity = p2p_session_frame_size(&session, plain->len);
	bytea	   *reply;
	size_t		length;

	if (capacity > P2P_MAX_MESSAGE)
		elog(ERROR, "a reply of %zu bytes is too large", capacity);
	reply = palloc(VARHDRSZ + capacity);
	if (p2p_session_seal(&session, plain->data, plain->len, (uint8 *) VARDATA(reply),
						 capacity, &length) != P2P_OK)
		elog(ERROR, "could not seal a reply");
	SET_VARSIZE(reply, VARHDRSZ + length);
	pg_atomic_fetch_add_u64(&node->stats.bytes_sent, length);
	return reply;
}

/* Return an 'E' message. */
static bytea *
refusal(const char *text)
{
	size_t		capacity = 1 + P2P_REFUSAL_MAX_TEXT;
	bytea	   *reply = palloc(VARHDRSZ + capacity);
	P2pWriter	w;

	p2p_writer_init(&w, VARDATA(reply), capacity);
	p2p_session_refuse(&w, text);
	SET_VARSIZE(reply, VARHDRSZ + w.length);
	return reply;
}

/* Something is no proper message: end the session, count, log now and then, answer 'E'. */
static bytea *
refuse_message(RpNode *node, const char *why)
{
	end_session();
	if (node != NULL)
	{
		pg_atomic_fetch_add_u64(&node->stats.refused_messages, 1);
		rp_refused_client(node, "message", why);
	}
	return refusal(psprintf("message refused: %s", why));
}

/* Forget the session, its secrets and what was opened for it. */
static void
end_session(void)
{
	p2p_session_end(&session);
	p2p_wipe(&identity, sizeof(identity));
	rp_serve_end();
}

/* The backend ends. */
static void
wipe_at_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;
	p2p_session_end(&session);
	p2p_wipe(&identity, sizeof(identity));
}

/* Whose session this is, if its key is proven. */
bool
rp_exchange_peer(P2pId *id, uint8 key[P2P_PUBLIC_KEY_SIZE])
{
	if (session.state != P2P_SESSION_OPEN || session.client)
		return false;
	if (id != NULL)
		*id = session.peer_id;
	if (key != NULL)
		memcpy(key, session.peer_key, P2P_PUBLIC_KEY_SIZE);
	return true;
}
