/*
 * launcher.c
 *	  The launcher: one per cluster, keeps the workers of every node running.
 *
 * At its start it looks through the folder replp2p/ of the data directory: a folder
 * with an identity, of a database that exists, is a node; one of a database that does
 * not is a leftover and gets swept. (Without an identity: a create_group may just be
 * making it.) create_group and join_group claim entries later and wake it.
 *
 * Which workers a node needs hangs on its status alone (wanted_workers):
 *
 *	  NONE       gossip, which reads the catalog and finds the status, or that
 *	             there is no node: GONE. (It waits there for a create_group that
 *	             has not committed yet, by a lock on replp2p.local_node.)
 *	  CREATING, ACTIVE, LEAVING    capture, gossip, apply
 *	  JOINING    capture, gossip, join
 *	  CATCHUP    capture, gossip, apply, join
 *	  GONE       once all others have left: sweep; after it the entry is given back
 *
 * Workers are dynamic and never restarted by the postmaster (a crash of one
 * restarts the cluster, and they would run twice); the launcher starts them
 * again, after a pause that doubles from 100 ms to 30 s as long as they do not
 * live for a minute. A launcher that itself was restarted has no handles of workers
 * that still run: their slots in shared memory tell, and a worker that was
 * started twice leaves by itself.
 *
 * It is connected to no database (shared catalogs only), so that it stands in
 * nobody's way; it reads nothing but pg_database. Locks: RpNode.lock, briefly.
 */
#include "postgres.h"

#include <limits.h>
#include <sys/stat.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "changelog.h"
#include "worker.h"

#define LAUNCHER_NAPTIME_MS 10000	/* looks at everything at least so often */
#define LAUNCHER_RESTART_S 5
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 30000
#define HEALTHY_MS 60000		/* a worker that lived so long restarts at once */
#define GONE_GRACE_MS 1000		/* workers of a node that is gone get a SIGTERM after it */
#define GONE_POLL_MS 200

#define WANT(kind) (1U << (kind))
#define WANT_ALL (WANT(RP_WORKER_CAPTURE) | WANT(RP_WORKER_GOSSIP) | WANT(RP_WORKER_APPLY))

static const uint32 wanted_workers[] = {
	[RP_NODE_NONE] = WANT(RP_WORKER_GOSSIP),
	[RP_NODE_CREATING] = WANT_ALL,
	[RP_NODE_JOINING] = WANT(RP_WORKER_CAPTURE) | WANT(RP_WORKER_GOSSIP) | WANT(RP_WORKER_JOIN),
	[RP_NODE_CATCHUP] = WANT_ALL | WANT(RP_WORKER_JOIN),
	[RP_NODE_ACTIVE] = WANT_ALL,
	[RP_NODE_LEAVING] = WANT_ALL,
	[RP_NODE_GONE] = WANT(RP_WORKER_SWEEP),
	[RP_NODE_EVICTED] = WANT(RP_WORKER_CAPTURE) | WANT(RP_WORKER_GOSSIP),
};

static const char *const worker_mains[RP_WORKER_KINDS] = {
	[RP_WORKER_CAPTURE] = "rp_capture_main",
	[RP_WORKER_GOSSIP] = "rp_gossip_main",
	[RP_WORKER_APPLY] = "rp_apply_main",
	[RP_WORKER_JOIN] = "rp_join_main",
	[RP_WORKER_SWEEP] = "rp_sweep_main",
};

/* What the launcher remembers of one worker. */
typedef struct Charge
{
	BackgroundWorkerHandle *handle; /* NULL = not started by me, or has ended */
	TimestampTz started_at;
	int			backoff_ms;
} Charge;

/* What it remembers of one entry. */
typedef struct Ward
{
	TimestampTz gone_since;		/* 0 = not gone */
	Charge		charges[RP_WORKER_KINDS];
} Ward;

static Ward *wards;

/* Register the launcher. */
void
rp_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_name, "replp2p launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "replp2p launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "replp2p", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "rp_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * Return the database that a worker of dboid connects to: itself, or, if it
 * exists no more, any other one, preferably no template.
 */
static Oid
launcher_find_database(Oid dboid)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	Oid			other = InvalidOid;
	bool		found = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (database->oid == dboid)
			found = true;
		else if (database->datallowconn && (!OidIsValid(other) || !database->datistemplate))
			other = database->oid;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	return found ? dboid : other;
}

/* Take up one folder: a node, or a leftover to be swept. */
static void
launcher_take_up(Oid dboid)
{
	bool		is_dropped;
	RpNode	   *node;

	/* Claimed already: before the launcher's restart, or by a create_group just now. */
	if (rp_node_find(dboid) != NULL)
		return;
	is_dropped = launcher_find_database(dboid) != dboid;
	if (!is_dropped && !rp_identity_exists(dboid))
		return;
	node = rp_node_claim(dboid);
	if (node == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many nodes in this cluster: the one of database %u does not run",
						dboid),
				 errhint("Raise replp2p.max_databases and restart.")));
	else if (is_dropped)
		rp_node_sweep_after_commit(dboid);
}

/* Take up one entry of the folder replp2p/: a database's folder, or what a sweep has renamed. */
static void
launcher_take_up_entry(const char *name)
{
	char	   *end;
	unsigned long number;

	errno = 0;
	number = strtoul(name, &end, 10);
	if (errno != 0 || end == name || number == 0 || number > PG_UINT32_MAX)
		return;
	if (*end == '\0')
		launcher_take_up((Oid) number);
	else if (strcmp(end, RP_REMOVED_SUFFIX) == 0)
	{
		char	   *path = psprintf("%s/%s", RP_DIRECTORY, name);

		(void) rmtree(path, true);
		pfree(path);
	}
}

/* Look through the folder replp2p/. */
static void
launcher_scan(void)
{
	DIR		   *directory;
	struct dirent *entry;
	struct stat status;
	List	   *names = NIL;
	ListCell   *cell;

	if (stat(RP_DIRECTORY, &status) != 0)
		return;
	/* First all names: the end of a transaction would close the directory. */
	directory = AllocateDir(RP_DIRECTORY);
	while ((entry = ReadDir(directory, RP_DIRECTORY)) != NULL)
		names = lappend(names, pstrdup(entry->d_name));
	FreeDir(directory);
	foreach(cell, names)
		launcher_take_up_entry(lfirst(cell));
	list_free_deep(names);
}

/* Set when a worker may be started again. */
static void
charge_retry_after(RpNode *node, RpWorkerKind kind, int delay_ms)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->workers[kind].retry_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	LWLockRelease(&node->lock);
}

/* Take note that a worker has ended. */
static void
charge_ended(RpNode *node, RpWorkerKind kind, Charge *charge)
{
	pfree(charge->handle);
	charge->handle = NULL;
	if (TimestampDifferenceExceeds(charge->started_at, GetCurrentTimestamp(), HEALTHY_MS))
		charge->backoff_ms = 0;
	charge->backoff_ms = Min(Max(charge->backoff_ms * 2, BACKOFF_MIN_MS), BACKOFF_MAX_MS);
	charge_retry_after(node, kind, charge->backoff_ms);
}

/* Start a worker that is due. */
static void
charge_start(RpNode *node, RpWorkerKind kind, Charge *charge)
{
	Oid			connect_to = launcher_find_database(node->dboid);
	bool		started;

	if (connect_to != node->dboid && kind != RP_WORKER_SWEEP)
	{
		rp_node_sweep_after_commit(node->dboid);
		return;
	}
	started = rp_worker_start(node->dboid, rp_worker_name(kind), worker_mains[kind], connect_to,
							  &charge->handle);
	charge->started_at = GetCurrentTimestamp();
	if (!started)
	{
		charge->handle = NULL;
		charge->backoff_ms = BACKOFF_MAX_MS;
		charge_retry_after(node, kind, charge->backoff_ms);
		rp_worker_error(node, kind, "no free slot for a background worker");
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free slot for the %s worker of database %u",
						rp_worker_name(kind), node->dboid),
				 errhint("Raise max_worker_processes and restart.")));
		return;
	}
	/* Who has a time of its last start is being restarted, whichever launcher started it then. */
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (node->workers[kind].started_at != 0)
		node->workers[kind].restarts++;
	LWLockRelease(&node->lock);
}

/* Look after one worker; return when to look again at the latest. */
static TimestampTz
charge_supervise(RpNode *node, RpWorkerKind kind, Charge *charge, bool wanted)
{
	RpWorkerSlot slot;
	TimestampTz now;
	pid_t		pid;

	if (charge->handle != NULL)
	{
		if (GetBackgroundWorkerPid(charge->handle, &pid) != BGWH_STOPPED)
			return DT_NOEND;
		charge_ended(node, kind, charge);
	}
	LWLockAcquire(&node->lock, LW_SHARED);
	slot = node->workers[kind];
	LWLockRelease(&node->lock);
	if (slot.stop)
		charge->backoff_ms = 0;
	if (!wanted || slot.stop || slot.pid != 0)
		return DT_NOEND;
	/* A time beyond any backoff is left from before the clock was set back. */
	now = GetCurrentTimestamp();
	if (slot.retry_at > now &&
		slot.retry_at <= TimestampTzPlusMilliseconds(now, BACKOFF_MAX_MS))
		return slot.retry_at;
	charge_start(node, kind, charge);
	return charge->handle != NULL ? DT_NOEND : GetCurrentTimestamp();
}

/* Push out the workers of a node that is gone; return whether only the sweep may be left. */
static bool
ward_is_empty(RpNode *node, Ward *ward)
{
	TimestampTz now = GetCurrentTimestamp();

	if (ward->gone_since == 0)
		ward->gone_since = now;
	if (rp_workers_push_out(node, TimestampDifferenceExceeds(ward->gone_since, now,
															 GONE_GRACE_MS)))
		return false;
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
	{
		if (kind != RP_WORKER_SWEEP && ward->charges[kind].handle != NULL)
			return false;
	}
	return true;
}

/* Give back the entry of a node that is swept, if so. */
static bool
ward_release(RpNode *node, Ward *ward)
{
	bool		done;

	LWLockAcquire(&node->lock, LW_SHARED);
	done = node->swept && node->workers[RP_WORKER_SWEEP].pid == 0;
	LWLockRelease(&node->lock);
	if (!done || ward->charges[RP_WORKER_SWEEP].handle != NULL)
		return false;
	rp_node_release(node);
	memset(ward, 0, sizeof(*ward));
	return true;
}

/* Look after one node; return when to look again at the latest. */
static TimestampTz
ward_supervise(RpNode *node, Ward *ward)
{
	RpNodeStatus status = rp_node_status(node);
	uint32		wanted = wanted_workers[status];
	TimestampTz next = DT_NOEND;

	if (status == RP_NODE_GONE)
	{
		if (!ward_is_empty(node, ward))
		{
			wanted = 0;
			next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), GONE_POLL_MS);
		}
		else if (node->swept)
			wanted = 0;
	}
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
	{
		TimestampTz at = charge_supervise(node, kind, &ward->charges[kind],
										  (wanted & WANT(kind)) != 0);

		next = Min(next, at);
	}
	if (status == RP_NODE_GONE && ward_release(node, ward))
		return DT_NOEND;
	return next;
}

/* Look after all nodes; return how long to sleep. */
static long
launcher_supervise(void)
{
	TimestampTz next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LAUNCHER_NAPTIME_MS);

	for (int i = 0; i < rp_shared->max_nodes; i++)
	{
		RpNode	   *node = &rp_shared->nodes[i];
		bool		in_use;

		LWLockAcquire(&rp_shared->lock, LW_SHARED);
		in_use = node->in_use;
		LWLockRelease(&rp_shared->lock);
		if (in_use)
			next = Min(next, ward_supervise(node, &wards[i]));
	}
	return Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next), 1);
}

/* Be no launcher any more. */
static void
launcher_leave(int code, Datum unused)
{
	(void) code;
	(void) unused;
	LWLockAcquire(&rp_shared->lock, LW_EXCLUSIVE);
	rp_shared->launcher_latch = NULL;
	rp_shared->launcher_pid = 0;
	LWLockRelease(&rp_shared->lock);
}

/* Be the launcher: others may wake this process from now on. */
static void
launcher_enter(void)
{
	LWLockAcquire(&rp_shared->lock, LW_EXCLUSIVE);
	rp_shared->launcher_latch = MyLatch;
	rp_shared->launcher_pid = MyProcPid;
	LWLockRelease(&rp_shared->lock);
	on_shmem_exit(launcher_leave, (Datum) 0);
}

/* Main of the launcher; never returns. */
void
rp_launcher_main(Datum unused)
{
	(void) unused;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	launcher_enter();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("replp2p launcher");
	MemoryContextSwitchTo(TopMemoryContext);
	wards = MemoryContextAllocZero(TopMemoryContext, rp_shared->max_nodes * sizeof(Ward));
	launcher_scan();
	rp_shared->nodes_known = true;

	for (;;)
	{
		long		timeout_ms = launcher_supervise();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
