/*
 * worker.c
 *	  What every background worker of ours has in common: how it starts, how it
 *	  waits, and when it leaves.
 *
 * A worker enters its slot (RpNode.workers) under RpNode.lock before it
 * connects to the database, and only if nobody has asked for it to stay away. It
 * leaves the slot when it has already left the list of the database's
 * backends. So who sets `stop` under the same lock and then sees pid = 0 knows that no worker
 * is in the database or gets in: DROP, RENAME and copying of a database
 * build on that.
 *
 * A worker leaves quietly (exit 0) when it is asked to stop or its node is gone; SIGTERM
 * is for those that do not look. It leaves at the postmaster's death, waiting or not.
 * Whatever it dies of stands afterwards in its slot's last_error, caught by a log hook: an
 * error that nobody catches is only seen there. The launcher starts it again.
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "worker.h"

#define STOP_POLL_MS 100		/* between looks at workers that are to leave */
#define STOP_GRACE_MS 1000		/* after that they get a SIGTERM */

bool		rp_in_worker = false;

/* Whose slot this process holds; NULL in all others. */
static RpNode *my_node = NULL;
static RpWorkerKind my_kind;

static emit_log_hook_type next_emit_log = NULL;
static char fatal_text[RP_ERROR_TEXT_SIZE];

/* Settings that a worker depends on, whatever postgresql.conf, database or role say. */
static const struct
{
	const char *name;
	const char *value;
}			pinned_settings[] = {
	{"search_path", "pg_catalog"},
	{"DateStyle", "ISO"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"extra_float_digits", "3"},
	{"bytea_output", "hex"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"synchronous_commit", "off"},
	{"session_replication_role", "replica"},
	{"jit", "off"},
};

/* Return the word for a kind of worker. */
const char *
rp_worker_name(RpWorkerKind kind)
{
	switch (kind)
	{
		case RP_WORKER_CAPTURE:
			return "capture";
		case RP_WORKER_GOSSIP:
			return "gossip";
		case RP_WORKER_APPLY:
			return "apply";
		case RP_WORKER_JOIN:
			return "join";
		case RP_WORKER_SWEEP:
			return "sweep";
		case RP_WORKER_KINDS:
			break;
	}
	return "unknown";
}

/* Keep the text of what this process may be about to die of; called for every line of its log. */
static void
worker_emit_log(ErrorData *error)
{
	if (next_emit_log)
		next_emit_log(error);
	if (error->elevel >= ERROR && error->message != NULL &&
		error->sqlerrcode != ERRCODE_ADMIN_SHUTDOWN)
		strlcpy(fatal_text, error->message, sizeof(fatal_text));
}

/* Leave the slot; runs after this process has left the list of backends, before its PGPROC goes. */
static void
worker_leave(int code, Datum unused)
{
	RpWorkerSlot *slot = &my_node->workers[my_kind];

	(void) unused;
	if (code != 0 && fatal_text[0] != '\0')
		rp_worker_error(my_node, my_kind, fatal_text);
	LWLockAcquire(&my_node->lock, LW_EXCLUSIVE);
	slot->pid = 0;
	slot->latch = NULL;
	LWLockRelease(&my_node->lock);
	ConditionVariableBroadcast(&my_node->status_cv);
	rp_launcher_wake();
}

/* Has this kind of worker nothing more to do here? Unlocked: looked at again and again. */
static bool
worker_must_leave(RpNode *node, RpWorkerKind kind)
{
	volatile RpNode *shared = node;

	return shared->workers[kind].stop ||
		(shared->status == RP_NODE_GONE && kind != RP_WORKER_SWEEP);
}

/* Enter the slot, or leave quietly if that is not wanted (any more), or somebody is in it. */
static void
worker_enter(RpNode *node, RpWorkerKind kind)
{
	RpWorkerSlot *slot = &node->workers[kind];
	bool		enter;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	enter = slot->pid == 0 && !worker_must_leave(node, kind);
	if (enter)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->started_at = GetCurrentTimestamp();
	}
	LWLockRelease(&node->lock);
	if (!enter)
		proc_exit(0);
	my_node = node;
	my_kind = kind;
	on_shmem_exit(worker_leave, (Datum) 0);
}

/* Pin the settings and show the name in pg_stat_activity. */
static void
worker_pin_settings(const char *role)
{
	char		name[NAMEDATALEN];

	for (size_t i = 0; i < lengthof(pinned_settings); i++)
		SetConfigOption(pinned_settings[i].name, pinned_settings[i].value,
						PGC_SUSET, PGC_S_OVERRIDE);
	/* send and receive functions of some types (jsonb, arrays of text) convert to and from it */
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET, PGC_S_OVERRIDE);
	snprintf(name, sizeof(name), "replp2p %s", role);
	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
}

/* Have the postmaster start a process for a database; the handle is in TopMemoryContext. */
bool
rp_worker_start(Oid dboid, const char *role, const char *main_name, uint32 extra,
				BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	memcpy(worker.bgw_extra, &extra, sizeof(extra));
	snprintf(worker.bgw_type, BGW_MAXLEN, "replp2p %s", role);
	snprintf(worker.bgw_name, BGW_MAXLEN, "replp2p %s %u", role, dboid);
	strlcpy(worker.bgw_library_name, "replp2p", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, main_name, BGW_MAXLEN);

	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, handle);
	MemoryContextSwitchTo(old);
	return started;
}

/* Begin in the process: signals, and the node, without which it leaves quietly. */
static RpNode *
process_begin(Oid dboid)
{
	RpNode	   *node;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	node = rp_node_find(dboid);
	if (node == NULL)
		proc_exit(0);
	rp_in_worker = true;
	return node;
}

/* Open a worker of the node of dboid, connected to the database connect_to. */
RpNode *
rp_worker_open_in(Oid dboid, RpWorkerKind kind, Oid connect_to)
{
	RpNode	   *node = process_begin(dboid);

	next_emit_log = emit_log_hook;
	emit_log_hook = worker_emit_log;
	worker_enter(node, kind);

	BackgroundWorkerInitializeConnectionByOid(connect_to, InvalidOid,
											  connect_to == dboid ? 0 : BGWORKER_BYPASS_ALLOWCONN);
	worker_pin_settings(rp_worker_name(kind));
	return node;
}

/* Open a worker: the first thing that its main does. */
RpNode *
rp_worker_open(Datum dboid, RpWorkerKind kind)
{
	return rp_worker_open_in(DatumGetObjectId(dboid), kind, DatumGetObjectId(dboid));
}

/* Open a process beside a worker: whoever started it sees to its end. */
RpNode *
rp_worker_open_helper(Oid dboid, const char *role)
{
	RpNode	   *node = process_begin(dboid);

	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	worker_pin_settings(role);
	return node;
}

/* Look whether to go on: postmaster, interrupts, stop, reload. True: settings may be others. */
bool
rp_worker_check(RpNode *node, RpWorkerKind kind)
{
	if (!PostmasterIsAlive())
		proc_exit(1);
	CHECK_FOR_INTERRUPTS();
	if (worker_must_leave(node, kind))
		proc_exit(0);
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/* Wait until the latch is set, at most timeout_ms (negative: without end); resets the latch. */
void
rp_worker_wait(RpNode *node, RpWorkerKind kind, long timeout_ms, uint32 wait_event)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	(void) rp_worker_check(node, kind);
	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	(void) WaitLatch(MyLatch, events, timeout_ms, wait_event);
	ResetLatch(MyLatch);
	(void) rp_worker_check(node, kind);
}

/* Wake all workers that have to leave, by SIGTERM if force; return whether one still runs. */
bool
rp_workers_push_out(RpNode *node, bool force)
{
	bool		running = false;

	/* A pid seen under the lock is alive: it gives up its slot under the same lock. */
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
	{
		RpWorkerSlot *slot = &node->workers[kind];

		if (slot->pid == 0 || slot->pid == MyProcPid || !worker_must_leave(node, kind))
			continue;
		running = true;
		SetLatch(slot->latch);
		if (force)
			(void) kill(slot->pid, SIGTERM);
	}
	LWLockRelease(&node->lock);
	return running;
}

/* Ask all workers of the node to stay away, or allow them again. */
static void
workers_set_stop(RpNode *node, bool stop)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
		node->workers[kind].stop = stop;
	LWLockRelease(&node->lock);
}

/* Are the workers stopped for a command? Unlocked: looked at again and again. */
bool
rp_workers_are_stopped(RpNode *node)
{
	volatile RpNode *shared = node;

	return shared->workers[RP_WORKER_GOSSIP].stop;
}

/*
 * Stop all workers of a database and wait until they are out of it; they stay
 * away until rp_workers_allow, which the caller owes even after an error.
 */
void
rp_workers_stop_and_wait(Oid dboid)
{
	RpNode	   *node = rp_node_find(dboid);
	TimestampTz start = GetCurrentTimestamp();

	if (node == NULL)
		return;
	workers_set_stop(node, true);
	/* backends that serve a long poll */
	rp_pollers_wake(node, NULL);
	ConditionVariablePrepareToSleep(&node->status_cv);
	while (rp_workers_push_out(node, TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
																STOP_GRACE_MS)))
		(void) ConditionVariableTimedSleep(&node->status_cv, STOP_POLL_MS, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/* Let the workers of a database start again. */
void
rp_workers_allow(Oid dboid)
{
	RpNode	   *node = rp_node_find(dboid);

	if (node == NULL)
		return;
	workers_set_stop(node, false);
	rp_launcher_wake();
}

/*
 * Have everything of a node removed that is not in its database: slot, origins,
 * files. Called in commit callbacks, so that it raises no error.
 */
void
rp_node_sweep_after_commit(Oid dboid)
{
	RpNode	   *node = rp_node_find(dboid);

	if (node == NULL)
		return;
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->status = RP_NODE_GONE;
	LWLockRelease(&node->lock);
	workers_set_stop(node, false);
	(void) rp_workers_push_out(node, false);
	ConditionVariableBroadcast(&node->status_cv);
	rp_launcher_wake();
}
