/*
 * dsn.c
 *	  Does a connection string lead where its user believes?
 *
 * A wrong dsn is the most common mistake in setting up a group, and shows itself
 * late: peers simply never come. So create_group, join_group, set_node_dsn and
 * preflight connect by it and ask who is there. Who: node_fingerprint(), a hash
 * that any role may read and that differs between databases and between running
 * servers, so that a standby or a clone of this very server is told apart, too.
 *
 * The connection goes out of a backend, to another server or back to our own:
 * it waits on socket and latch, so that a cancel and the postmaster's death are
 * noticed, and gives up after replp2p.connect_timeout.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "p2p_buf.h"
#include "p2p_crypto.h"
#include "p2p_message.h"

#include "dsn.h"
#include "settings.h"

#define FINGERPRINT_SIZE 16		/* bytes; twice as many hex digits */
#define APPLICATION_NAME "replp2p preflight"

PG_FUNCTION_INFO_V1(rp_node_fingerprint);

/* Each fault in words; order of RpDsnFault. */
static const struct
{
	int			errcode;
	const char *text;
	const char *hint;
}			faults[RP_DSN_FAULTS] = {
	{ERRCODE_SUCCESSFUL_COMPLETION, "fine", NULL},
	{ERRCODE_SYNTAX_ERROR, "is not a valid connection string",
	"Write it as for psql: 'host=... port=... dbname=... user=...'."},
	{ERRCODE_INVALID_PARAMETER_VALUE, "is too long",
	"A connection string may have up to 1023 bytes."},
	{ERRCODE_INVALID_PARAMETER_VALUE, "holds a password",
	"All members see each other's connection strings: use a .pgpass file of the server's user, or certificates."},
	{ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, "does not connect",
	"Check host, port, listen_addresses, pg_hba.conf and the .pgpass file of the server's user."},
	{ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "leads to a standby",
	"A node must be a primary that accepts writes."},
	{ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "leads to a database without the extension",
	"Run CREATE EXTENSION replp2p there, in a transaction of its own that is committed."},
	{ERRCODE_INSUFFICIENT_PRIVILEGE, "connects as a role that may not call replp2p.exchange",
	"GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO that role."},
	{ERRCODE_INVALID_PARAMETER_VALUE, "leads to another database",
	"It must be the way by which peers reach this very database."},
	{ERRCODE_INVALID_PARAMETER_VALUE, "leads to this very database: a node cannot join oneself",
	"Use an invite that another node has made."},
};

/* Write what tells this running database from all others, in hex. */
static void
fingerprint_here(char text[2 * FINGERPRINT_SIZE + 1])
{
	uint8		bytes[8 + 8 + 4];
	uint8		hash[P2P_HASH_SIZE];
	P2pWriter	w;

	p2p_writer_init(&w, bytes, sizeof(bytes));
	p2p_put_u64(&w, GetSystemIdentifier());
	p2p_put_i64(&w, PgStartTime);
	p2p_put_u32(&w, MyDatabaseId);
	p2p_hash(bytes, sizeof(bytes), NULL, 0, hash);
	for (int i = 0; i < FINGERPRINT_SIZE; i++)
		snprintf(text + 2 * i, 3, "%02x", hash[i]);
}

/* SQL: node_fingerprint() -> text. Harmless, so PUBLIC may call it. */
Datum
rp_node_fingerprint(PG_FUNCTION_ARGS)
{
	char		text[2 * FINGERPRINT_SIZE + 1];

	fingerprint_here(text);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

static void
probe_fault(RpDsnProbe *probe, RpDsnFault fault, const char *detail)
{
	size_t		length;

	probe->fault = fault;
	strlcpy(probe->detail, detail != NULL ? detail : "", sizeof(probe->detail));
	length = strlen(probe->detail);
	while (length > 0 && (unsigned char) probe->detail[length - 1] <= ' ')
		probe->detail[--length] = '\0';
}

/* Look at the text alone: syntax, length, no secret in it. */
void
rp_dsn_inspect(const char *dsn, RpDsnProbe *probe)
{
	PQconninfoOption *options;
	char	   *error = NULL;

	memset(probe, 0, sizeof(*probe));
	if (strlen(dsn) >= P2P_DSN_SIZE)
	{
		probe_fault(probe, RP_DSN_TOO_LONG, NULL);
		return;
	}
	for (const char *c = dsn; *c != '\0'; c++)
		if ((unsigned char) *c < ' ' || *c == 0x7f)
		{
			probe_fault(probe, RP_DSN_MALFORMED, "It has a control character in it.");
			return;
		}
	options = PQconninfoParse(dsn, &error);
	if (options == NULL)
	{
		/* libpq's message may quote a piece of a password: it is not repeated */
		probe_fault(probe, RP_DSN_MALFORMED, NULL);
		if (error != NULL)
			PQfreemem(error);
		return;
	}
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
		if (o->val != NULL && (strcmp(o->keyword, "password") == 0 ||
							   strcmp(o->keyword, "sslpassword") == 0))
			probe_fault(probe, RP_DSN_HAS_PASSWORD, NULL);
	if (probe->fault == RP_DSN_FINE && dsn[strspn(dsn, " ")] == '\0')
		probe_fault(probe, RP_DSN_MALFORMED, "It is empty.");
	PQconninfoFree(options);
}

/* Wait until the connection's socket is ready, or until; false when time is up. */
static bool
socket_wait(PGconn *conn, int events, TimestampTz until)
{
	long		left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	int			rc;

	if (left_ms <= 0)
		return false;
	rc = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
						   PQsocket(conn), left_ms, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

static TimestampTz
deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), rp_connect_timeout_s * (int64) 1000);
}

/* Bring a started connection to its end; false when time is up. */
static bool
connect_finish(PGconn *conn, TimestampTz until)
{
	PostgresPollingStatusType want = PGRES_POLLING_WRITING;

	while (want == PGRES_POLLING_READING || want == PGRES_POLLING_WRITING)
	{
		int			events = want == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		if (PQstatus(conn) == CONNECTION_BAD)
			return true;
		if (!socket_wait(conn, events, until))
			return false;
		want = PQconnectPoll(conn);
	}
	return true;
}

/* Connect by a dsn for a few questions; NULL and *error if that fails. */
PGconn *
rp_dsn_connect(const char *dsn, char **error)
{
	const char *const keywords[] = {"fallback_application_name", "dbname", "client_encoding", NULL};
	const char *const values[] = {APPLICATION_NAME, dsn, GetDatabaseEncodingName(), NULL};
	PGconn	   *conn;
	volatile bool in_time = false;

	if (!AcquireExternalFD())
	{
		*error = pstrdup("too many files are open");
		return NULL;
	}
	conn = PQconnectStartParams(keywords, values, 1);
	if (conn == NULL)
	{
		ReleaseExternalFD();
		*error = pstrdup("out of memory");
		return NULL;
	}
	PG_TRY();
	{
		in_time = connect_finish(conn, deadline());
	}
	PG_CATCH();
	{
		rp_dsn_disconnect(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (in_time && PQstatus(conn) == CONNECTION_OK)
		return conn;
	*error = in_time ? pstrdup(PQerrorMessage(conn)) :
		psprintf("no answer within %d s (replp2p.connect_timeout)", rp_connect_timeout_s);
	rp_dsn_disconnect(conn);
	return NULL;
}

/* Close what rp_dsn_connect has opened. */
void
rp_dsn_disconnect(PGconn *conn)
{
	PQfinish(conn);
	ReleaseExternalFD();
}

/* Run a query, interruptibly; NULL when it can't be sent or time is up. */
PGresult *
rp_dsn_query(PGconn *conn, const char *sql)
{
	TimestampTz until = deadline();
	PGresult   *result = NULL;
	PGresult   *next;

	if (!PQsendQueryParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0))
		return NULL;
	for (;;)
	{
		while (PQisBusy(conn))
			if (!socket_wait(conn, WL_SOCKET_READABLE, until) || !PQconsumeInput(conn))
			{
				PQclear(result);
				return NULL;
			}
		next = PQgetResult(conn);
		if (next == NULL)
			break;
		PQclear(result);
		result = next;
	}
	return result;
}

/* Take a query's answer: true if it has one row, else the fault is noted. */
static bool
probe_answered(RpDsnProbe *probe, PGconn *conn, const PGresult *result, RpDsnFault fault)
{
	if (result != NULL && PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1)
		return true;
	probe_fault(probe, fault, result != NULL ? PQresultErrorMessage(result) :
				PQstatus(conn) == CONNECTION_OK ? "The query was not answered in time." :
				PQerrorMessage(conn));
	return false;
}

/* Ask who is there and what we may do, over an open connection. */
static void
probe_questions(PGconn *conn, RpDsnProbe *probe)
{
	char		fingerprint[2 * FINGERPRINT_SIZE + 1];
	PGresult   *result;
	bool		installed = false;

	result = rp_dsn_query(conn,
						  "SELECT pg_catalog.current_setting('server_encoding'),"
						  " pg_catalog.pg_is_in_recovery(),"
						  " EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'replp2p')");
	probe->server_version = PQserverVersion(conn);
	if (probe_answered(probe, conn, result, RP_DSN_UNREACHABLE))
	{
		strlcpy(probe->encoding, PQgetvalue(result, 0, 0), sizeof(probe->encoding));
		installed = *PQgetvalue(result, 0, 2) == 't';
		if (*PQgetvalue(result, 0, 1) == 't')
			probe_fault(probe, RP_DSN_STANDBY, NULL);
		else if (!installed)
			probe_fault(probe, RP_DSN_NO_EXTENSION, NULL);
	}
	PQclear(result);
	if (probe->fault != RP_DSN_FINE)
		return;

	result = rp_dsn_query(conn,
						  "SELECT replp2p.node_fingerprint(), pg_catalog.has_function_privilege("
						  "'replp2p.exchange(bytea)', 'EXECUTE'), current_user");
	if (probe_answered(probe, conn, result, RP_DSN_NO_EXTENSION))
	{
		fingerprint_here(fingerprint);
		probe->here = strcmp(PQgetvalue(result, 0, 0), fingerprint) == 0;
		if (*PQgetvalue(result, 0, 1) != 't')
			probe_fault(probe, RP_DSN_NO_EXECUTE,
						psprintf("The role is \"%s\".", PQgetvalue(result, 0, 2)));
	}
	PQclear(result);
}

/* Look at the text, connect and ask. */
void
rp_dsn_probe(const char *dsn, RpDsnProbe *probe)
{
	PGconn	   *conn;
	char	   *error = NULL;

	rp_dsn_inspect(dsn, probe);
	if (probe->fault != RP_DSN_FINE)
		return;
	conn = rp_dsn_connect(dsn, &error);
	if (conn == NULL)
	{
		probe_fault(probe, RP_DSN_UNREACHABLE, error);
		return;
	}
	PG_TRY();
	{
		probe_questions(conn, probe);
	}
	PG_FINALLY();
	{
		rp_dsn_disconnect(conn);
	}
	PG_END_TRY();
}

/* Report a fault as an ERROR, if there is one. */
void
rp_dsn_require(const char *role, const RpDsnProbe *probe)
{
	if (probe->fault == RP_DSN_FINE)
		return;
	ereport(ERROR,
			(errcode(faults[probe->fault].errcode),
			 errmsg("%s %s", role, faults[probe->fault].text),
			 probe->detail[0] != '\0' ? errdetail_internal("%s", probe->detail) : 0,
			 errhint("%s", faults[probe->fault].hint)));
}

/* Probe what peers are to reach this node by; ERROR unless it leads here. */
void
rp_dsn_require_own(const char *dsn)
{
	RpDsnProbe	probe;

	rp_dsn_probe(dsn, &probe);
	/* where it leads matters more than what may be done there */
	if ((probe.fault == RP_DSN_FINE || probe.fault == RP_DSN_NO_EXECUTE) && !probe.here)
		probe_fault(&probe, RP_DSN_ELSEWHERE, NULL);
	rp_dsn_require("the dsn", &probe);
}

const char *
rp_dsn_fault_text(RpDsnFault fault)
{
	return faults[fault].text;
}

const char *
rp_dsn_fault_hint(RpDsnFault fault)
{
	return faults[fault].hint;
}
