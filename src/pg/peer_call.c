/*
 * peer_call.c
 *	  A link driven by waiting: for SQL functions and the join worker.
 *
 * The link itself is that of the event loop (link.c), so a name, a time-out, a
 * handshake and an error mean the same everywhere. While waiting, the latch and
 * interrupts are served. An ERROR in between (a cancel) unwinds through the
 * memory context of the link, which closes the connection.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "identity.h"
#include "link.h"
#include "monotonic.h"
#include "peer_call.h"
#include "settings.h"

struct RpPeerSession
{
	RpLink	   *link;
};

static RpLinkEvent wait_for_event(RpLink *link);
static uint32 wait_on_socket(pgsocket socket, uint32 wants, long timeout_ms);
static void give_error(RpLink *link, char **error);

/* One request to whoever answers at dsn, which must be expected_peer. */
bool
rp_peer_call(const char *dsn, const RpIdentity *me, const P2pId *group,
			 const P2pId *expected_peer, const void *request, size_t length,
			 StringInfo reply, char **error)
{
	RpPeerSession *session = rp_peer_open(dsn, me, group, expected_peer, "replp2p", error);
	bool		answered;

	if (session == NULL)
		return false;
	answered = rp_peer_session_call(session, request, length,
									(int64) rp_connect_timeout_s * 1000, reply, error);
	rp_peer_close(session);
	return answered;
}

/* Connect and shake hands. */
RpPeerSession *
rp_peer_open(const char *dsn, const RpIdentity *me, const P2pId *group,
			 const P2pId *expected_peer, const char *application_name, char **error)
{
	RpLinkTarget target = {
		.me = me,
		.group = *group,
		.peer = *expected_peer,
		.dsn = dsn,
		.application_name = application_name
	};
	RpPeerSession *session;
	RpLink	   *link;

	rp_crypto_required();
	link = rp_link_make(&target);
	if (wait_for_event(link) != RP_LINK_OPENED)
	{
		give_error(link, error);
		rp_link_free(link);
		return NULL;
	}
	(void) PQsetnonblocking(rp_link_connection(link), 0);
	session = palloc(sizeof(RpPeerSession));
	session->link = link;
	return session;
}

/* Send one request and append its reply to *reply. */
bool
rp_peer_session_call(RpPeerSession *session, const void *request, size_t length,
					 int64 patience_ms, StringInfo reply, char **error)
{
	RpLink	   *link = session->link;

	if (link->state != RP_LINK_READY)
	{
		give_error(link, error);
		return false;
	}
	rp_link_send(link, request, length, patience_ms);
	if (wait_for_event(link) != RP_LINK_REPLIED)
	{
		give_error(link, error);
		return false;
	}
	(void) PQsetnonblocking(rp_link_connection(link), 0);
	appendBinaryStringInfo(reply, link->reply.data, link->reply.len);
	return true;
}

/* Return the connection for ordinary SQL. */
PGconn *
rp_peer_connection(RpPeerSession *session)
{
	return rp_link_connection(session->link);
}

/* Close the session and its connection. */
void
rp_peer_close(RpPeerSession *session)
{
	rp_link_free(session->link);
	pfree(session);
}

/* Wait until something has come about on the link. */
static RpLinkEvent
wait_for_event(RpLink *link)
{
	RpLinkEvent event = rp_link_step(link, false);

	while (event == RP_LINK_NOTHING)
	{
		uint32		wants = rp_link_wants(link);
		uint32		got = wait_on_socket(rp_link_socket(link), wants,
										 rp_link_timeout(link, rp_monotonic_us()));

		event = rp_link_step(link, (got & wants) != 0);
	}
	return event;
}

/* Wait on socket (if any), latch and time (-1 = for ever), serve interrupts; return what came. */
static uint32
wait_on_socket(pgsocket socket, uint32 wants, long timeout_ms)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	int			got;

	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	if (socket == PGINVALID_SOCKET || wants == 0)
		got = WaitLatch(MyLatch, events, timeout_ms, PG_WAIT_EXTENSION);
	else
		got = WaitLatchOrSocket(MyLatch, events | (int) wants, socket, timeout_ms,
								PG_WAIT_EXTENSION);
	if (got & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return (uint32) got;
}

/* Copy the link's error into the caller's memory. */
static void
give_error(RpLink *link, char **error)
{
	*error = pstrdup(link->error[0] != '\0' ? link->error : "the connection is closed");
}

/* Run a query as PQexec does, but interruptibly. */
PGresult *
rp_peer_exec(RpPeerSession *session, const char *sql, char **error)
{
	PGconn	   *conn = rp_link_connection(session->link);
	PGresult   *last = NULL;

	if (conn == NULL || !PQsendQuery(conn, sql))
	{
		*error = pstrdup(conn == NULL ? "the connection is closed" : PQerrorMessage(conn));
		return NULL;
	}
	for (;;)
	{
		PGresult   *result;

		while (PQisBusy(conn))
		{
			(void) wait_on_socket(PQsocket(conn), WL_SOCKET_READABLE, -1);
			if (!PQconsumeInput(conn))
				break;			/* PQgetResult makes an error of it */
		}
		result = PQgetResult(conn);
		if (result == NULL)
			break;
		PQclear(last);
		last = result;
		if (PQresultStatus(last) == PGRES_COPY_OUT || PQresultStatus(last) == PGRES_COPY_IN)
			break;
	}
	if (last == NULL || PQstatus(conn) == CONNECTION_BAD)
	{
		*error = pstrdup(PQerrorMessage(conn));
		PQclear(last);
		return NULL;
	}
	return last;
}
