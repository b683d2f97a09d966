/*
 * peer_call.h
 *	  Talking to a peer from ordinary code: blocking, but interruptible and
 *	  bounded in time. For SQL functions (one request) and for the join worker
 *	  (several, and ordinary SQL on the same connection).
 */
#ifndef RP_PEER_CALL_H
#define RP_PEER_CALL_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "libpq-fe.h"

#include "members.h"

/*
 * Connect to dsn, which must prove to be expected_peer of group, send one
 * request (plain, kind byte first), and append the plain reply to *reply, which
 * the caller has initialised. The reply may be an ERROR message: look at its first byte.
 * False: nobody answered, or not whom we expect; *error says why (palloc'd,
 * printable, without a password). Interruptible; the connection is closed in
 * any case. No transaction or snapshot is needed; ERROR only for cancels and lack of memory.
 */
bool		rp_peer_call(const char *dsn, const RpIdentity *me, const P2pId *group,
						 const P2pId *expected_peer, const void *request, size_t length,
						 StringInfo reply, char **error);

typedef struct RpPeerSession RpPeerSession;

/*
 * The same in pieces. The session lives in a child of CurrentMemoryContext,
 * whose reset (as after an ERROR) closes the connection. NULL: *error says why.
 */
RpPeerSession *rp_peer_open(const char *dsn, const RpIdentity *me, const P2pId *group,
							const P2pId *expected_peer, const char *application_name,
							char **error);
/*
 * One request, one reply. patience_ms: how long it may go without progress (a
 * JOIN waits for capture there). After false the session is dead: close it.
 */
bool		rp_peer_session_call(RpPeerSession *session, const void *request, size_t length,
								 int64 patience_ms, StringInfo reply, char **error);
/*
 * The connection, idle and in blocking mode between calls: ordinary SQL may be
 * run on it, in transactions, too, as long as none is open at the next call.
 */
PGconn	   *rp_peer_connection(RpPeerSession *session);
/*
 * Run a query on it, interruptibly (PQexec is not); NULL and *error if the
 * connection broke. The result may be an error; the caller clears it.
 * With COPY the result is PGRES_COPY_*: the caller goes on with PQgetCopyData.
 */
PGresult   *rp_peer_exec(RpPeerSession *session, const char *sql, char **error);
void		rp_peer_close(RpPeerSession *session);

#endif							/* RP_PEER_CALL_H */
