/*
 * link.c
 *	  One conversation with one peer, from the client's side.
 *
 * Each message goes as CALL replp2p.exchange($1), prepared once for each connection,
 * binary in and out, and is one query; so at most one is under way. The states
 * and who calls what stand in link.h. Three rules:
 *
 *	- Nothing blocks: names are resolved beside (resolve.c), the connection is
 *	  non-blocking, and every step has a deadline, which any progress moves on.
 *	- A failure, whatever it is, closes the connection, wipes the session's
 *	  secrets and waits: 0.2 s, then twice as long each time, up to 5 s. The short
 *	  wait comes back when the caller says that the peer answers sensibly
 *	  (rp_link_prosper); a handshake alone does not prove that.
 *	- What the peer sends is bytes: a text of its may be anything, so it is
 *	  cleaned before any log or view sees it; a result of an odd form is a failure.
 *
 * Used by the gossip worker (peers.c) and by peer_call.c. A link belongs to one
 * process; no lock.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "identity.h"
#include "link.h"
#include "monotonic.h"
#include "settings.h"

#define FIRST_BACKOFF_US 200000
#define LAST_BACKOFF_US 5000000
/* A reply buffer larger than this is given back before the next request. */
#define REPLY_KEEP_BYTES (8 * 1024 * 1024)

#define EXCHANGE_SQL "CALL replp2p.exchange($1)"
#define EXCHANGE_NAME "replp2p_exchange"

static void close_callback(void *arg);
static void close_link(RpLink *link);
static RpLinkEvent fail_link(RpLink *link, const char *prefix, const char *text);
static RpLinkEvent step_idle(RpLink *link);
static RpLinkEvent step_resolving(RpLink *link);
static bool start_connection(RpLink *link);
static RpLinkEvent step_connecting(RpLink *link, bool socket_ready);
static RpLinkEvent prepare(RpLink *link);
static RpLinkEvent greet(RpLink *link);
static void send_request(RpLink *link, const void *request, size_t length, int64 patience_ms,
						 bool streams);
static bool send_message(RpLink *link, const void *bytes, size_t length);
static bool flush_output(RpLink *link);
static RpLinkEvent step_ready(RpLink *link, bool socket_ready);
static RpLinkEvent step_waiting(RpLink *link, bool socket_ready);
static bool pump(RpLink *link);
static bool collect(RpLink *link, bool *complete);
static RpLinkEvent take_result(RpLink *link);
static RpLinkEvent take_row(RpLink *link);
static RpLinkEvent take_welcome(RpLink *link, const void *bytes, size_t length);
static RpLinkEvent take_frame(RpLink *link, const void *bytes, size_t length);

/* Copy the first line of text, printable ASCII only, into clean. */
void
rp_text_clean(char *clean, size_t size, const char *text)
{
	size_t		n = 0;

	for (; *text != '\0' && *text != '\n' && n < size - 1; text++)
		clean[n++] = (*text >= 0x20 && *text < 0x7f) ? *text : '?';
	clean[n] = '\0';
}

/* Make a link, due at once. */
RpLink *
rp_link_make(const RpLinkTarget *target)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p link",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RpLink	   *link = palloc0(sizeof(RpLink));

	link->context = context;
	link->target = *target;
	link->target.dsn = pstrdup(target->dsn);
	link->target.application_name = pstrdup(target->application_name);
	link->backoff_us = FIRST_BACKOFF_US;
	initStringInfo(&link->reply);
	link->callback.func = close_callback;
	link->callback.arg = link;
	MemoryContextRegisterResetCallback(context, &link->callback);
	MemoryContextSwitchTo(old);
	return link;
}

/* Close and free a link. */
void
rp_link_free(RpLink *link)
{
	MemoryContextDelete(link->context);
}

/* The link's memory goes: so must what is not memory. */
static void
close_callback(void *arg)
{
	close_link((RpLink *) arg);
}

/* Close whatever is open and wipe the session; IDLE then. */
static void
close_link(RpLink *link)
{
	if (link->resolve != NULL)
		rp_resolve_free(link->resolve);
	link->resolve = NULL;
	PQclear(link->result);
	link->result = NULL;
	PQfinish(link->conn);
	link->conn = NULL;
	if (link->has_fd)
		ReleaseExternalFD();
	link->has_fd = false;
	p2p_session_end(&link->session);
	link->flushing = false;
	link->streams = false;
	link->replied = false;
	link->state = RP_LINK_IDLE;
	link->sockets++;
}

/* Is a session open? */
bool
rp_link_is_open(const RpLink *link)
{
	return link->state == RP_LINK_READY || link->state == RP_LINK_BUSY;
}

/* Return the socket to wait on, or PGINVALID_SOCKET. */
pgsocket
rp_link_socket(const RpLink *link)
{
	return link->conn != NULL ? PQsocket(link->conn) : PGINVALID_SOCKET;
}

/* Return the connection, or NULL. */
PGconn *
rp_link_connection(RpLink *link)
{
	return link->conn;
}

/* Return what to wait for on the socket. */
uint32
rp_link_wants(const RpLink *link)
{
	switch (link->state)
	{
		case RP_LINK_IDLE:
		case RP_LINK_RESOLVING:
			return 0;
		case RP_LINK_CONNECTING:
			return link->polling == PGRES_POLLING_READING ?
				WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		case RP_LINK_PREPARING:
		case RP_LINK_GREETING:
		case RP_LINK_READY:
		case RP_LINK_BUSY:
			return WL_SOCKET_READABLE | (link->flushing ? WL_SOCKET_WRITEABLE : 0);
	}
	return 0;
}

/* Return after how many milliseconds the link must be stepped in any case; -1 = never. */
long
rp_link_timeout(const RpLink *link, int64 now_us)
{
	int64		until = link->deadline_us;

	switch (link->state)
	{
		case RP_LINK_IDLE:
			until = link->retry_us;
			break;
		case RP_LINK_RESOLVING:
			return RP_RESOLVE_POLL_MS;
		case RP_LINK_READY:
			return -1;
		case RP_LINK_CONNECTING:
		case RP_LINK_PREPARING:
		case RP_LINK_GREETING:
		case RP_LINK_BUSY:
			break;
	}
	return until <= now_us ? 0 : (long) ((until - now_us + 999) / 1000);
}

/* Go on as far as possible without waiting. */
RpLinkEvent
rp_link_step(RpLink *link, bool socket_ready)
{
	switch (link->state)
	{
		case RP_LINK_IDLE:
			return step_idle(link);
		case RP_LINK_RESOLVING:
			return step_resolving(link);
		case RP_LINK_CONNECTING:
			return step_connecting(link, socket_ready);
		case RP_LINK_READY:
			return step_ready(link, socket_ready);
		case RP_LINK_PREPARING:
		case RP_LINK_GREETING:
		case RP_LINK_BUSY:
			return step_waiting(link, socket_ready);
	}
	return RP_LINK_NOTHING;
}

/* End the link because of what the caller found. */
void
rp_link_fail(RpLink *link, const char *error)
{
	(void) fail_link(link, NULL, error);
}

void
rp_link_restart(RpLink *link)
{
	close_link(link);
	link->retry_us = 0;
}

/* Forget that the peer failed lately. */
void
rp_link_prosper(RpLink *link)
{
	link->backoff_us = FIRST_BACKOFF_US;
	link->attempts = 0;
}

/* Close the link and remember why: prefix (may be NULL) and text, which may be the connection's own. */
static RpLinkEvent
fail_link(RpLink *link, const char *prefix, const char *text)
{
	char		clean[RP_ERROR_TEXT_SIZE];

	rp_text_clean(clean, sizeof(clean), text);
	snprintf(link->error, sizeof(link->error), "%s%s%s",
			 prefix != NULL ? prefix : "", prefix != NULL ? ": " : "", clean);
	close_link(link);
	link->retry_us = rp_monotonic_us() + link->backoff_us;
	link->backoff_us = Min(link->backoff_us * 2, LAST_BACKOFF_US);
	return RP_LINK_FAILED;
}

/* Begin an attempt when its time has come. */
static RpLinkEvent
step_idle(RpLink *link)
{
	int64		now = rp_monotonic_us();
	char	   *error;

	if (now < link->retry_us)
		return RP_LINK_NOTHING;
	link->deadline_us = now + (int64) rp_connect_timeout_s * 1000000;
	link->resolve = rp_resolve_start(link->target.dsn, &error);
	if (link->resolve == NULL)
		return fail_link(link, NULL, error);
	link->state = RP_LINK_RESOLVING;
	return step_resolving(link);
}

/* Connect when all names have addresses. */
static RpLinkEvent
step_resolving(RpLink *link)
{
	char	   *error;

	switch (rp_resolve_poll(link->resolve, &error))
	{
		case RP_RESOLVE_PENDING:
			if (rp_monotonic_us() > link->deadline_us)
				return fail_link(link, NULL, "timed out while resolving the host name");
			return RP_LINK_NOTHING;
		case RP_RESOLVE_FAILED:
			return fail_link(link, NULL, error);
		case RP_RESOLVE_DONE:
			break;
	}
	if (!AcquireExternalFD())
		return fail_link(link, NULL, "out of file descriptors in this process");
	link->has_fd = true;
	if (!start_connection(link))
		return fail_link(link, NULL, link->conn != NULL ?
						 PQerrorMessage(link->conn) : "out of memory");
	return RP_LINK_NOTHING;
}

/* Ignore what the server says aside; libpq would print it. */
static void
ignore_notice(void *arg, const PGresult *result)
{
	(void) arg;
	(void) result;
}

/* Start the connection proper. */
static bool
start_connection(RpLink *link)
{
	const char **keywords;
	const char **values;

	rp_resolve_parameters(link->resolve, link->attempts++, link->target.application_name,
						  &keywords, &values);
	link->conn = PQconnectStartParams(keywords, values, 0);
	link->sockets++;
	pfree(keywords);
	pfree(values);
	rp_resolve_free(link->resolve);
	link->resolve = NULL;
	if (link->conn == NULL || PQstatus(link->conn) == CONNECTION_BAD)
		return false;
	PQsetNoticeReceiver(link->conn, ignore_notice, NULL);
	link->polling = PGRES_POLLING_WRITING;
	link->state = RP_LINK_CONNECTING;
	return true;
}

/* Go on connecting. The socket may be another one after each poll. */
static RpLinkEvent
step_connecting(RpLink *link, bool socket_ready)
{
	if (!socket_ready)
	{
		if (rp_monotonic_us() > link->deadline_us)
			return fail_link(link, NULL, "timed out while connecting");
		return RP_LINK_NOTHING;
	}
	link->polling = PQconnectPoll(link->conn);
	link->sockets++;
	switch (link->polling)
	{
		case PGRES_POLLING_OK:
			return prepare(link);
		case PGRES_POLLING_FAILED:
			return fail_link(link, NULL, PQerrorMessage(link->conn));
		case PGRES_POLLING_READING:
		case PGRES_POLLING_WRITING:
		case PGRES_POLLING_ACTIVE:
			break;
	}
	return RP_LINK_NOTHING;
}

/* The connection stands: have the server parse our one statement. */
static RpLinkEvent
prepare(RpLink *link)
{
	const Oid	types[1] = {BYTEAOID};

	link->patience_us = (int64) rp_connect_timeout_s * 1000000;
	link->deadline_us = rp_monotonic_us() + link->patience_us;
	link->state = RP_LINK_PREPARING;
	if (PQsetnonblocking(link->conn, 1) != 0 ||
		!PQsendPrepare(link->conn, EXCHANGE_NAME, EXCHANGE_SQL, 1, types) || !flush_output(link))
		return fail_link(link, NULL, PQerrorMessage(link->conn));
	return RP_LINK_NOTHING;
}

/* It has: say HELLO. */
static RpLinkEvent
greet(RpLink *link)
{
	const RpLinkTarget *t = &link->target;
	uint8		seed[P2P_SEED_SIZE];
	uint8		hello[P2P_HELLO_MAX_SIZE];
	P2pWriter	w;

	rp_random(seed, sizeof(seed));
	p2p_writer_init(&w, hello, sizeof(hello));
	p2p_session_connect(&link->session, &t->group, &t->peer,
						t->me->public_key, t->me->secret_key, seed, &w);
	p2p_wipe(seed, sizeof(seed));
	Assert(!w.overflow);
	link->patience_us = (int64) rp_connect_timeout_s * 1000000;
	link->state = RP_LINK_GREETING;
	if (!send_message(link, hello, w.length))
		return fail_link(link, NULL, PQerrorMessage(link->conn));
	return RP_LINK_NOTHING;
}

/* Seal a request and send it. */
void
rp_link_send(RpLink *link, const void *request, size_t length, int64 patience_ms)
{
	send_request(link, request, length, patience_ms, false);
}

void
rp_link_stream(RpLink *link, const void *request, size_t length, int64 patience_ms)
{
	send_request(link, request, length, patience_ms, true);
}

static void
send_request(RpLink *link, const void *request, size_t length, int64 patience_ms, bool streams)
{
	size_t		capacity = p2p_session_frame_size(&link->session, length);
	uint8	   *frame = palloc(capacity);
	size_t		frame_length;

	Assert(link->state == RP_LINK_READY);
	if (link->reply.maxlen > REPLY_KEEP_BYTES)
	{
		MemoryContext old = MemoryContextSwitchTo(link->context);

		pfree(link->reply.data);
		initStringInfo(&link->reply);
		MemoryContextSwitchTo(old);
	}
	link->patience_us = patience_ms * 1000;
	link->sent_us = rp_monotonic_us();
	link->state = RP_LINK_BUSY;
	link->streams = streams;
	link->replied = false;
	if (p2p_session_seal(&link->session, request, length, frame, capacity,
						 &frame_length) != P2P_OK ||
		!send_message(link, frame, frame_length) ||
		(streams && PQsetSingleRowMode(link->conn) == 0))
		link->deadline_us = 0;	/* the next step fails it */
	pfree(frame);
}

/* Send bytes as the one query under way. */
static bool
send_message(RpLink *link, const void *bytes, size_t length)
{
	const char *values[1] = {bytes};
	const int	lengths[1] = {(int) length};
	const int	formats[1] = {1};

	link->deadline_us = rp_monotonic_us() + link->patience_us;
	return PQsetnonblocking(link->conn, 1) == 0 &&
		PQsendQueryPrepared(link->conn, EXCHANGE_NAME, 1, values, lengths, formats, 1) &&
		flush_output(link);
}

/* Send what libpq holds, as far as possible without waiting; false: the connection is broken. */
static bool
flush_output(RpLink *link)
{
	int			left = PQflush(link->conn);

	link->flushing = left > 0;
	return left >= 0;
}

/* Nothing is under way: notice when the peer closes the connection. */
static RpLinkEvent
step_ready(RpLink *link, bool socket_ready)
{
	PGnotify   *notify;

	if (!socket_ready)
		return RP_LINK_NOTHING;
	if (!PQconsumeInput(link->conn))
		return fail_link(link, NULL, PQerrorMessage(link->conn));
	/* Has libpq parse what has come, a farewell as a rule. */
	while ((notify = PQnotifies(link->conn)) != NULL)
		PQfreemem(notify);
	if (PQstatus(link->conn) == CONNECTION_BAD)
		return fail_link(link, NULL, PQerrorMessage(link->conn));
	return RP_LINK_NOTHING;
}

/* A query is under way: send the rest of it, read, and see if the answer is complete. */
static RpLinkEvent
step_waiting(RpLink *link, bool socket_ready)
{
	bool		complete = false;

	if (link->deadline_us == 0)
		return fail_link(link, NULL, "could not send a request");
	if (!socket_ready && !link->replied)
	{
		if (rp_monotonic_us() > link->deadline_us)
			return fail_link(link, NULL, "timed out while waiting for a reply");
		return RP_LINK_NOTHING;
	}
	link->deadline_us = rp_monotonic_us() + link->patience_us;
	if (socket_ready && !pump(link))
		return fail_link(link, NULL, PQerrorMessage(link->conn));
	link->replied = false;
	if (!collect(link, &complete))
		return fail_link(link, NULL, "the server answered with something else than a reply");
	if (complete)
		return take_result(link);
	return link->result != NULL && PQresultStatus(link->result) == PGRES_SINGLE_TUPLE ?
		take_row(link) : RP_LINK_NOTHING;
}

/* Move bytes in both directions; false: the connection is broken. */
static bool
pump(RpLink *link)
{
	if (!PQconsumeInput(link->conn))
		return false;
	return !link->flushing || flush_output(link);
}

/*
 * Take over results that are complete, keeping the first; of those that come row by row, one at a time. False: one
 * is of a form that never ends.
 */
static bool
collect(RpLink *link, bool *complete)
{
	while (!PQisBusy(link->conn))
	{
		PGresult   *result = PQgetResult(link->conn);
		ExecStatusType status = PQresultStatus(result);

		if (result == NULL)
		{
			*complete = true;
			return true;
		}
		if (link->result == NULL)
			link->result = result;
		else
			PQclear(result);
		if (status == PGRES_SINGLE_TUPLE && link->result == result)
			return true;
		if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK &&
			status != PGRES_FATAL_ERROR)
			return false;
	}
	return true;
}

/* The query is complete: find the message in its result. */
static RpLinkEvent
take_result(RpLink *link)
{
	PGresult   *result = link->result;

	if (PQresultStatus(result) == PGRES_FATAL_ERROR)
	{
		const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

		return fail_link(link, NULL, primary != NULL ? primary : PQresultErrorMessage(result));
	}
	if (link->state == RP_LINK_PREPARING)
	{
		link->result = NULL;
		PQclear(result);
		return greet(link);
	}
	if (link->streams)
	{
		/* all replies have come as rows */
		link->result = NULL;
		PQclear(result);
		link->state = RP_LINK_READY;
		return RP_LINK_NOTHING;
	}
	return take_row(link);
}

/* Find the message in a result's one row. */
static RpLinkEvent
take_row(RpLink *link)
{
	PGresult   *result = link->result;
	RpLinkEvent event;

	if (PQntuples(result) != 1 || PQnfields(result) != 1 || PQfformat(result, 0) != 1 ||
		PQgetisnull(result, 0, 0))
		return fail_link(link, NULL, "the server's procedure replp2p.exchange is not ours");

	link->replied_us = rp_monotonic_us();
	link->result = NULL;
	if (link->state == RP_LINK_GREETING)
		event = take_welcome(link, PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0));
	else
		event = take_frame(link, PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0));
	PQclear(result);
	return event;
}

/* Take the answer to HELLO. */
static RpLinkEvent
take_welcome(RpLink *link, const void *bytes, size_t length)
{
	P2pStatus	status = p2p_session_welcome(&link->session, bytes, length);
	char		text[P2P_REFUSAL_MAX_TEXT];

	if (status == P2P_OK)
	{
		link->state = RP_LINK_READY;
		return RP_LINK_OPENED;
	}
	if (status == P2P_REFUSED && p2p_session_refusal(bytes, length, text))
		return fail_link(link, "refused by the peer", text);
	if (status == P2P_BAD_SIGNATURE)
		return fail_link(link, NULL, "another node answered than the one expected");
	return fail_link(link, "handshake failed", p2p_status_text(status));
}

/* Open the reply's frame. */
static RpLinkEvent
take_frame(RpLink *link, const void *bytes, size_t length)
{
	char		text[P2P_REFUSAL_MAX_TEXT];
	size_t		plain_length;
	P2pStatus	status;

	if (p2p_session_refusal(bytes, length, text))
		return fail_link(link, "refused by the peer", text);
	if (length > P2P_MAX_MESSAGE)
		return fail_link(link, NULL, "the reply is too large");
	resetStringInfo(&link->reply);
	enlargeStringInfo(&link->reply, (int) length);
	status = p2p_session_unseal(&link->session, bytes, length,
								(uint8 *) link->reply.data, &plain_length);
	if (status != P2P_OK)
		return fail_link(link, "the reply cannot be opened", p2p_status_text(status));
	if (plain_length == 0)
		return fail_link(link, NULL, "the reply is empty");
	link->reply.len = (int) plain_length;
	if (link->streams)
		link->replied = true;
	else
		link->state = RP_LINK_READY;
	return RP_LINK_REPLIED;
}
