/*
 * preflight.c
 *	  preflight(dsn): what would keep this database from being a node, or a peer
 *	  from reaching it, found before anything is changed.
 *
 * A table of checks. One that finds nothing gives one row that says OK; else a
 * row per finding, with what to do in its hint. CRITICAL: create_group or
 * join_group would fail, or the node would not work. WARNING: it works, but
 * perhaps not as its user believes. Nothing is written: it may run on a server
 * in use, in a read-only transaction, and where the library is not preloaded.
 *
 * health() is the counterpart for a node that runs.
 */
#include "postgres.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "replication/slot.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "changelog.h"
#include "compat.h"
#include "dsn.h"
#include "findings.h"
#include "settings.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_preflight);

/* What a node needs of the server beside what others use. */
#define WORKERS_PER_NODE 4		/* capture, gossip, apply, join */
#define ORIGINS_PER_NODE 3		/* a small group's; one per peer */
/* Running transactions older than this are named: making the slot waits for them. */
#define OLD_TRANSACTION "1 minute"

typedef struct Preflight
{
	RpFindings	out;
	const char *dsn;			/* NULL: none given */
	int			nodes;			/* entries in use in this cluster, this database's not counted */
	bool		is_node;		/* this database is one already */
} Preflight;

typedef struct PreflightCheck
{
	const char *name;
	void		(*run) (Preflight *p);
	const char *fine;			/* detail when it finds nothing */
} PreflightCheck;

static void check_preload(Preflight *p);
static void check_primary(Preflight *p);
static void check_read_only(Preflight *p);
static void check_wal_level(Preflight *p);
static void check_workers(Preflight *p);
static void check_slots(Preflight *p);
static void check_databases(Preflight *p);
static void check_node(Preflight *p);
static void check_data_folder(Preflight *p);
static void check_encoding(Preflight *p);
static void check_tables(Preflight *p);
static void check_unique_keys(Preflight *p);
static void check_sequence_keys(Preflight *p);
static void check_prepared(Preflight *p);
static void check_transactions(Preflight *p);
static void check_dsn(Preflight *p);

static const PreflightCheck checks[] = {
	{"preload", check_preload, "replp2p is in shared_preload_libraries"},
	{"primary", check_primary, "this server is a primary"},
	{"read_only", check_read_only, "transactions may write"},
	{"wal_level", check_wal_level, "wal_level is logical"},
	{"max_worker_processes", check_workers, "there are enough worker processes"},
	{"max_replication_slots", check_slots, "there are enough slots and replication origins"},
	{"max_databases", check_databases, "one more database may be a node"},
	{"node", check_node, "this database is not a node yet"},
	{"data_folder", check_data_folder, "the data directory takes logs and keys"},
	{"encoding", check_encoding, "the encoding is one that every peer understands"},
	{"tables", check_tables, "all tables have a usable replica identity"},
	{"unique_keys", check_unique_keys, "no table has a second unique key"},
	{"sequence_keys", check_sequence_keys, "no key is taken from a sequence of this node alone"},
	{"prepared_transactions", check_prepared, "there are no prepared transactions"},
	{"running_transactions", check_transactions, "no transaction has been open for long"},
	{"dsn", check_dsn, "a peer can connect by it and call replp2p.exchange"},
};


/* Count the nodes of this cluster, and see whether this database is one. */
static void
nodes_count(Preflight *p)
{
	p->nodes = 0;
	p->is_node = false;
	if (rp_shared == NULL)
		return;
	LWLockAcquire(&rp_shared->lock, LW_SHARED);
	for (int i = 0; i < rp_shared->max_nodes; i++)
	{
		RpNode	   *node = &rp_shared->nodes[i];

		if (!node->in_use)
			continue;
		if (node->dboid == MyDatabaseId)
			p->is_node = true;
		else
			p->nodes++;
	}
	LWLockRelease(&rp_shared->lock);
}

/* SQL: preflight(dsn text) -> rows of (check_name, status, detail, hint). */
Datum
rp_preflight(PG_FUNCTION_ARGS)
{
	Preflight	p;

	p.dsn = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	/* a connection out of the server carries the rights of its operating system user */
	if (p.dsn != NULL && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to try a dsn"),
				 errhint("Call replp2p.preflight() without it.")));
	rp_row_begin(&p.out.row, fcinfo);
	nodes_count(&p);
	for (size_t i = 0; i < lengthof(checks); i++)
	{
		if (checks[i].run == check_dsn && p.dsn == NULL)
			continue;
		CHECK_FOR_INTERRUPTS();
		p.out.check = checks[i].name;
		p.out.found = 0;
		checks[i].run(&p);
		if (p.out.found == 0)
			rp_findings_put(&p.out, "OK", checks[i].fine, NULL);
	}
	return (Datum) 0;
}

static void
check_preload(Preflight *p)
{
	if (rp_shared == NULL)
		rp_finding(&p->out, CRITICAL_STATUS, "Add replp2p to shared_preload_libraries and restart the server.",
				   "replp2p is not loaded at server start");
}

static void
check_primary(Preflight *p)
{
	if (RecoveryInProgress())
		rp_finding(&p->out, CRITICAL_STATUS, "A node must be a primary: promote this server, or use its primary.",
				   "this server is a standby");
}

static void
check_read_only(Preflight *p)
{
	if (DefaultXactReadOnly)
		rp_finding(&p->out, WARNING_STATUS, "Write BEGIN READ WRITE around create_group or join_group.",
				   "default_transaction_read_only is on");
}

static void
check_wal_level(Preflight *p)
{
	if (wal_level < WAL_LEVEL_LOGICAL)
		rp_finding(&p->out, CRITICAL_STATUS, "Set wal_level = logical and restart the server.",
				   "wal_level is %s", wal_level == WAL_LEVEL_REPLICA ? "replica" : "minimal");
}

/* Launcher, the workers of every node, the server's own launcher; and what others ask for. */
static void
check_workers(Preflight *p)
{
	int			needed = 1 + (p->nodes + 1) * WORKERS_PER_NODE + 1;

	if (max_worker_processes < needed)
		rp_finding(&p->out, CRITICAL_STATUS,
				   psprintf("Set max_worker_processes to %d or more and restart the server.",
				   needed + max_parallel_workers),
				   "max_worker_processes is %d, and %d are needed", max_worker_processes, needed);
	else if (max_worker_processes < needed + max_parallel_workers)
		rp_finding(&p->out, WARNING_STATUS,
				   psprintf("Set max_worker_processes to %d or more and restart the server.",
				   needed + max_parallel_workers),
				   "max_worker_processes is %d; with %d for this and other nodes, parallel queries get"
				   " less than max_parallel_workers (%d)",
				   max_worker_processes, needed, max_parallel_workers);
}

/* Origins and slots are limited by one setting. */
static void
check_slots(Preflight *p)
{
	RpCatalog	catalog;
	int			slots,
				origins;

	if (p->is_node)
		return;
	rp_catalog_open(&catalog);
	rp_catalog_run("SELECT (SELECT count(*)::integer FROM pg_catalog.pg_replication_slots),"
				   " (SELECT count(*)::integer FROM pg_catalog.pg_replication_origin_status)",
				   SPI_OK_SELECT, NULL, 0);
	slots = DatumGetInt32(rp_column(0, 1));
	origins = DatumGetInt32(rp_column(0, 2));
	rp_catalog_close(&catalog);

	if (slots >= max_replication_slots)
		rp_finding(&p->out, CRITICAL_STATUS, "Raise max_replication_slots and restart the server, or drop unused slots.",
				   "all %d replication slots are in use", max_replication_slots);
	else if (origins + ORIGINS_PER_NODE > max_replication_slots)
		rp_finding(&p->out, WARNING_STATUS,
				   "Set max_replication_slots to the number of members of all groups, or more, and restart the server.",
				   "%d of %d replication origins are in use; a node needs one for each member",
				   origins, max_replication_slots);
}

static void
check_databases(Preflight *p)
{
	if (rp_shared != NULL && !p->is_node && p->nodes >= rp_shared->max_nodes)
		rp_finding(&p->out, CRITICAL_STATUS, "Raise replp2p.max_databases and restart the server.",
				   "all %d databases that may be nodes are nodes", rp_shared->max_nodes);
}

static void
check_node(Preflight *p)
{
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT node_name, group_name, status, system_identifier, database_oid"
					   " FROM replp2p.local_node", SPI_OK_SELECT, NULL, 0) > 0 &&
		((uint64) DatumGetInt64(rp_column(0, 4)) != GetSystemIdentifier() ||
		 DatumGetObjectId(rp_column(0, 5)) != MyDatabaseId))
		rp_finding(&p->out, CRITICAL_STATUS, "DROP EXTENSION replp2p here, and create it again.",
				   "this database is a copy of node \"%s\", not a node",
				   NameStr(*DatumGetName(rp_column(0, 1))));
	else if (SPI_processed > 0)
		rp_finding(&p->out, WARNING_STATUS, "Nothing to do; to leave that group, call replp2p.leave_group().",
				   "this database is node \"%s\" of group \"%s\" already; its status is %s",
				   NameStr(*DatumGetName(rp_column(0, 1))),
				   NameStr(*DatumGetName(rp_column(0, 2))),
				   TextDatumGetCString(rp_column(0, 3)));
	else if (p->is_node)
		rp_finding(&p->out, WARNING_STATUS, "Wait some seconds; the server's log says what is in the way.",
				   "a former node of this database is still being removed");
	rp_catalog_close(&catalog);
}

/* Only look: a node's folder is made when a node is made. */
static void
check_data_folder(Preflight *p)
{
	struct stat st;

	if (access(DataDir, R_OK | W_OK | X_OK) != 0)
		rp_finding(&p->out, CRITICAL_STATUS, "The server's user must own its data directory.",
				   "the data directory is not writable");
	else if (stat(RP_DIRECTORY, &st) != 0)
	{
		if (errno != ENOENT)
			rp_finding(&p->out, CRITICAL_STATUS, "See the permissions of the data directory.",
					   "folder \"%s\" of the data directory cannot be read", RP_DIRECTORY);
	}
	else if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
			 access(RP_DIRECTORY, R_OK | W_OK | X_OK) != 0)
		rp_finding(&p->out, CRITICAL_STATUS, "It must be a folder that belongs to the server's user.",
				   "\"%s\" in the data directory is not usable", RP_DIRECTORY);
}

static void
check_encoding(Preflight *p)
{
	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		rp_finding(&p->out, WARNING_STATUS, "Use a database with ENCODING 'UTF8'.",
				   "the encoding is SQL_ASCII: nodes cannot know what their texts mean");
}

/*
 * Run a query of (count, up to five names) and report if it counts anything.
 * detail takes the count and the names.
 */
static void
names_check(Preflight *p, const char *from, const char *status, const char *what, const char *hint)
{
	RpCatalog	catalog;
	int64		n;

	rp_catalog_open(&catalog);
	rp_catalog_run(psprintf("SELECT count(*), coalesce(string_agg(name, ', ' ORDER BY name)"
							" FILTER (WHERE n <= 5), '')"
							" FROM (SELECT name, row_number() OVER (ORDER BY name) AS n"
							" FROM (%s) named) numbered", from), SPI_OK_SELECT, NULL, 0);
	n = DatumGetInt64(rp_column(0, 1));
	if (n > 0)
		rp_finding(&p->out, status, hint, INT64_FORMAT " %s: %s%s", n, what,
				   TextDatumGetCString(rp_column(0, 2)), n > 5 ? ", ..." : "");
	rp_catalog_close(&catalog);
}

static void
check_tables(Preflight *p)
{
	names_check(p, "SELECT relation::text AS name FROM replp2p.tables WHERE warning IS NOT NULL",
				WARNING_STATUS, "tables are not, or not fully, replicated",
				"Give them a primary key; see the column warning of replp2p.tables.");
}

/* Tables of users, as the other checks of tables mean them. */
#define USER_TABLES \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace" \
	" JOIN pg_catalog.pg_index i ON i.indrelid = c.oid" \
	" WHERE c.relkind = 'r' AND c.relpersistence = 'p'" \
	" AND s.nspname !~ '^pg_' AND s.nspname NOT IN ('information_schema', 'replp2p')" \
	" AND NOT EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid)"

/* The winner rule works by replica identity: two rows may win with one value of another key. */
static void
check_unique_keys(Preflight *p)
{
	names_check(p, "SELECT c.oid::pg_catalog.regclass::text AS name" USER_TABLES
				" AND i.indisunique GROUP BY c.oid HAVING count(*) > 1",
				WARNING_STATUS, "tables have more than one unique key",
				"Concurrent inserts of one value of such a key on two nodes stop apply until a person decides: let one node alone choose these values.");
}

/* A sequence counts on each node for itself. */
static void
check_sequence_keys(Preflight *p)
{
	names_check(p, "SELECT DISTINCT c.oid::pg_catalog.regclass::text AS name" USER_TABLES
				" AND i.indisprimary AND i.indnatts = 1 AND EXISTS (SELECT FROM pg_catalog.pg_depend d"
				"  JOIN pg_catalog.pg_class q ON q.oid = d.objid AND q.relkind = 'S'"
				"  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
				"  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
				"  AND d.refobjid = c.oid AND d.refobjsubid = i.indkey[0])",
				WARNING_STATUS, "tables take their primary key from a sequence, and sequences are not replicated",
				"Nodes would insert the same keys: use uuid keys, or ALTER SEQUENCE ... INCREMENT BY with another start on each node.");
}

static void
check_prepared(Preflight *p)
{
	if (!p->is_node)
		names_check(p, "SELECT gid || ' (database ' || database || ')' AS name"
					" FROM pg_catalog.pg_prepared_xacts",
					WARNING_STATUS, "transactions are prepared, and making the slot waits for their end",
					"COMMIT PREPARED or ROLLBACK PREPARED them.");
}

static void
check_transactions(Preflight *p)
{
	if (!p->is_node)
		names_check(p, "SELECT 'pid ' || pid AS name FROM pg_catalog.pg_stat_activity"
					" WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
					" AND xact_start < pg_catalog.clock_timestamp() - interval '" OLD_TRANSACTION "'",
					WARNING_STATUS, "transactions have been open for more than " OLD_TRANSACTION
					", and making the slot waits for their end",
					"Let them end, or call pg_terminate_backend(pid).");
}

/* What a peer would find there; for another database also whether it fits to this one. */
static void
check_dsn(Preflight *p)
{
	RpDsnProbe	probe;

	rp_dsn_probe(p->dsn, &probe);
	if (probe.fault != RP_DSN_FINE)
		rp_finding(&p->out, CRITICAL_STATUS, rp_dsn_fault_hint(probe.fault), "the dsn %s%s%s",
				   rp_dsn_fault_text(probe.fault), probe.detail[0] != '\0' ? ": " : "", probe.detail);
	if (probe.server_version != 0 && RP_MAJOR_OF(probe.server_version) != RP_MAJOR_OF(RP_SERVER_VERSION))
		rp_finding(&p->out, CRITICAL_STATUS, "Use servers of the same major version.",
				   "it leads to a server of version %d, this one is of version %d",
				   RP_MAJOR_OF(probe.server_version), RP_MAJOR_OF(RP_SERVER_VERSION));
	if (probe.encoding[0] != '\0' && strcmp(probe.encoding, GetDatabaseEncodingName()) != 0)
		rp_finding(&p->out, CRITICAL_STATUS, "Create the joining database with the encoding of the group.",
				   "it leads to a database of encoding %s, this one has %s",
				   probe.encoding, GetDatabaseEncodingName());
	if (p->out.found == 0)
		rp_findings_put(&p->out, "OK", probe.here ? "it leads to this very database, and a peer may connect by it" :
						"it leads to another database that has the extension; its role may call replp2p.exchange",
						NULL);
	p->out.found++;
}
