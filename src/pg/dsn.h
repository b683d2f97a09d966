/*
 * dsn.h
 *	  Does a connection string lead where its user believes? Asked over a
 *	  plain connection, before anything is changed.
 */
#ifndef RP_DSN_H
#define RP_DSN_H

#include "postgres.h"

#include "libpq-fe.h"

/* What is wrong with a dsn. Each has its line in the table of faults in dsn.c. */
typedef enum RpDsnFault
{
	RP_DSN_FINE = 0,
	RP_DSN_MALFORMED,
	RP_DSN_TOO_LONG,
	RP_DSN_HAS_PASSWORD,
	RP_DSN_UNREACHABLE,
	RP_DSN_STANDBY,
	RP_DSN_NO_EXTENSION,
	RP_DSN_NO_EXECUTE,
	RP_DSN_ELSEWHERE,			/* should lead to this very database, and does not */
	RP_DSN_ONESELF,				/* should lead to another database, and does not */
	RP_DSN_FAULTS
} RpDsnFault;

typedef struct RpDsnProbe
{
	RpDsnFault	fault;
	char		detail[512];	/* what libpq or the server said; may be empty */
	/* known from RP_DSN_STANDBY on */
	int			server_version; /* as PG_VERSION_NUM */
	char		encoding[32];
	/* known with RP_DSN_NO_EXECUTE and RP_DSN_FINE */
	bool		here;			/* leads to this very database of this very server */
} RpDsnProbe;

/* Look at the text alone. */
void		rp_dsn_inspect(const char *dsn, RpDsnProbe *probe);
/* Look at the text, connect and ask; interruptible, at most replp2p.connect_timeout a step. */
void		rp_dsn_probe(const char *dsn, RpDsnProbe *probe);
/* ERROR that tells of a fault, if there is one. role: "dsn", "the sponsor's dsn", ... */
void		rp_dsn_require(const char *role, const RpDsnProbe *probe);
/* Probe what peers are to reach this node by; ERROR unless it leads here. */
void		rp_dsn_require_own(const char *dsn);
/* Text, errcode and hint of a fault; static memory. */
const char *rp_dsn_fault_text(RpDsnFault fault);
const char *rp_dsn_fault_hint(RpDsnFault fault);

/*
 * A plain connection for a few questions. NULL: *error says why (palloc'd).
 * Callers disconnect in PG_FINALLY; an interrupt while connecting disconnects
 * by itself.
 */
PGconn	   *rp_dsn_connect(const char *dsn, char **error);
void		rp_dsn_disconnect(PGconn *conn);
/* Run a query; the caller clears the result, whatever its status. NULL: time is up. */
PGresult   *rp_dsn_query(PGconn *conn, const char *sql);

#endif							/* RP_DSN_H */
