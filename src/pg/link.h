/*
 * link.h
 *	  One conversation with one peer, from the client's side: an asynchronous
 *	  libpq connection, the handshake over it, then one sealed request at a time.
 *
 *	  IDLE --due--> RESOLVING --> CONNECTING --> PREPARING --> GREETING --> READY <--> BUSY
 *	    ^               |             |              |             |          |          |
 *	    +-- backoff ----+-------------+--------------+-------------+----------+----------+
 *
 * Nothing here blocks. The caller waits for rp_link_socket to be ready for
 * rp_link_wants, or for rp_link_timeout to pass, and calls rp_link_step, which
 * says what has come about. Process-local; no lock.
 */
#ifndef RP_LINK_H
#define RP_LINK_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "libpq-fe.h"

#include "members.h"
#include "resolve.h"

#include "p2p_session.h"

typedef enum RpLinkState
{
	RP_LINK_IDLE = 0,			/* not connected; tries when retry_at has come */
	RP_LINK_RESOLVING,			/* waits for the addresses of the host names */
	RP_LINK_CONNECTING,			/* PQconnectPoll */
	RP_LINK_PREPARING,			/* the statement of all messages is sent */
	RP_LINK_GREETING,			/* HELLO is sent */
	RP_LINK_READY,				/* a session stands, nothing is under way */
	RP_LINK_BUSY				/* a request is sent */
} RpLinkState;

typedef enum RpLinkEvent
{
	RP_LINK_NOTHING = 0,
	RP_LINK_OPENED,				/* now READY for the first request */
	RP_LINK_REPLIED,			/* link->reply has the plain reply; READY, if no more can come */
	RP_LINK_FAILED				/* link->error says why; IDLE until retry_at */
} RpLinkEvent;

/* Whom to talk to, and as whom. */
typedef struct RpLinkTarget
{
	const RpIdentity *me;		/* must outlive the link */
	P2pId		group;
	P2pId		peer;			/* node id that must prove itself */
	const char *dsn;
	const char *application_name;
} RpLinkTarget;

typedef struct RpLink
{
	/* for the caller to read */
	RpLinkState state;
	StringInfoData reply;		/* of the last request; kept until the next one, or the next reply */
	char		error[RP_ERROR_TEXT_SIZE];	/* of the last failure, printable ASCII */
	uint64		sockets;		/* grows with each socket that may be a new one */
	int64		sent_us;		/* monotonic: when the last request was sent, ... */
	int64		replied_us;		/* ... and its reply was complete */

	/* private */
	MemoryContext context;
	MemoryContextCallback callback;
	RpLinkTarget target;		/* strings are copies */
	P2pSession	session;
	PGconn	   *conn;
	RpResolve  *resolve;
	PostgresPollingStatusType polling;
	bool		flushing;		/* output waits in libpq */
	bool		streams;		/* what is under way may have several replies */
	bool		replied;		/* and has had one; there may be more in libpq */
	bool		has_fd;			/* counted by AcquireExternalFD */
	PGresult   *result;			/* first one of the query under way */
	int64		retry_us;		/* monotonic: IDLE until then */
	int64		deadline_us;	/* monotonic: the step under way fails then */
	int64		patience_us;	/* how long it may go without any progress */
	int64		backoff_us;
	int			attempts;
} RpLink;

/*
 * Make a link; it connects when first stepped. It lives in a child of
 * CurrentMemoryContext, whose reset or deletion closes it, too.
 */
RpLink	   *rp_link_make(const RpLinkTarget *target);
void		rp_link_free(RpLink *link);

/* Is a session open? */
bool		rp_link_is_open(const RpLink *link);
/* Socket to wait on and WL_SOCKET_* to wait for; PGINVALID_SOCKET and 0 if none. */
pgsocket	rp_link_socket(const RpLink *link);
uint32		rp_link_wants(const RpLink *link);
/* Its connection, NULL if none; not to be used while a request is under way. */
PGconn	   *rp_link_connection(RpLink *link);
/* Milliseconds after which to step it although its socket is silent; -1 = never. */
long		rp_link_timeout(const RpLink *link, int64 now_us);

/* Go on. socket_ready: its socket had one of the events wanted. */
RpLinkEvent rp_link_step(RpLink *link, bool socket_ready);
/*
 * Seal and send a request; the link must be READY, and is BUSY then. It fails
 * after patience_ms without progress. What fails at once is reported by the next step.
 */
void		rp_link_send(RpLink *link, const void *request, size_t length, int64 patience_ms);
/*
 * The same for a request that may have several replies: RP_LINK_REPLIED comes for each, and the link is BUSY until
 * after the last. After each one it is to be stepped again, its socket ready or not.
 */
void		rp_link_stream(RpLink *link, const void *request, size_t length, int64 patience_ms);
/* End it with this error (not a failure of its own), and back off. */
void		rp_link_fail(RpLink *link, const char *error);
/* Close it in the middle of whatever is under way, and connect anew at once: no failure. */
void		rp_link_restart(RpLink *link);
/* The peer answers sensibly: the next failure starts with a short backoff again. */
void		rp_link_prosper(RpLink *link);

/* Copy text so that any log and view can show it: printable ASCII, its first line only. */
void		rp_text_clean(char *clean, size_t size, const char *text);

#endif							/* RP_LINK_H */
