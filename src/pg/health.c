/*
 * health.c
 *	  health(): is there anything that an operator must know of?
 *
 * A table of checks, each over one copy of shared memory (nodeview.c). A check
 * that finds nothing gives one row that says OK; else one row per finding, with
 * what to do in its hint. CRITICAL: changes are lost, stuck or not captured
 * until somebody acts. WARNING: it goes on, but not as it should.
 *
 * What the checks conclude is what the views show: both ask nodeview.c.
 */
#include "postgres.h"

#include <stdarg.h>

#include "access/xlog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "changelog.h"
#include "findings.h"
#include "members.h"
#include "nodeview.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(rp_health);

/* A worker's last error is a finding for so long. */
#define RECENT_ERROR_US (USECS_PER_HOUR)
/* Lag from which it is a finding. */
#define LAG_WARNING_US (USECS_PER_MINUTE)
#define LAG_CRITICAL_US (USECS_PER_HOUR)
/* WAL that waits for capture, from which it is a finding. */
#define CAPTURE_WARNING_BYTES ((uint64) 1024 * 1024 * 1024)
/* Part of replp2p.max_log_size, in per cent, from which it is a warning. */
#define LOG_WARNING_PERCENT 80

#define BYTES_PER_MB ((uint64) 1024 * 1024)

typedef struct HealthReport
{
	RpFindings	out;
	RpNode	   *node;
	const RpNodeView *view;
} HealthReport;

typedef struct HealthCheck
{
	const char *name;
	void		(*run) (HealthReport *report);
	const char *fine;			/* detail when it finds nothing */
} HealthCheck;

static void check_ready(HealthReport *report);
static void check_workers(HealthReport *report);
static void check_worker_errors(HealthReport *report);
static void check_capture(HealthReport *report);
static void check_own_log(HealthReport *report);
static void check_members(HealthReport *report);
static void check_evictions(HealthReport *report);
static void check_node_names(HealthReport *report);
static void check_apply(HealthReport *report);
static void check_lag(HealthReport *report);
static void check_clock(HealthReport *report);
static void check_log_size(HealthReport *report);
static void check_tables(HealthReport *report);
static void check_drill(HealthReport *report);

/* In the order in which an operator wants to read them. */
static const HealthCheck checks[] = {
	{"ready", check_ready, "the node is active"},
	{"workers", check_workers, "all workers are running"},
	{"worker_errors", check_worker_errors, "no worker has failed within the last hour"},
	{"capture", check_capture, "capture keeps up with the WAL"},
	{"own_log", check_own_log, "it is whole, as far as known, and no member knows more of this node"},
	{"members", check_members, "all members are heard"},
	{"evictions", check_evictions, "none is going on"},
	{"node_names", check_node_names, "the names of the members are different"},
	{"apply", check_apply, "nothing stands in the way of applying"},
	{"lag", check_lag, "the changes of all members are applied in time"},
	{"clock", check_clock, "the clocks agree"},
	{"log_size", check_log_size, "the change logs are within replp2p.max_log_size"},
	{"tables", check_tables, "all tables have a usable replica identity"},
	{"drill", check_drill, "replp2p.unreachable_peers is not set"},
};

/* SQL: health() -> rows of (check_name, status, detail, hint). */
Datum
rp_health(PG_FUNCTION_ARGS)
{
	HealthReport report;

	report.node = rp_node_required();
	report.view = rp_node_view();
	rp_row_begin(&report.out.row, fcinfo);
	if (report.view == NULL)
	{
		report.out.check = checks[0].name;
		rp_findings_put(&report.out, WARNING_STATUS, "the node is just being started, or removed",
						"Ask again in a few seconds.");
		return (Datum) 0;
	}

	for (size_t i = 0; i < lengthof(checks); i++)
	{
		report.out.check = checks[i].name;
		report.out.found = 0;
		checks[i].run(&report);
		if (report.out.found == 0)
			rp_findings_put(&report.out, "OK", checks[i].fine, NULL);
	}
	return (Datum) 0;
}

/* Return a duration as text, palloc'd. */
static char *
duration_text(int64 microseconds)
{
	Interval	span = {0};

	span.time = microseconds;
	return DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&span)));
}

/* Is this slot a member that counts, other than this node? */
static bool
is_peer(const RpNodeView *view, int slot)
{
	return slot != RP_SELF && view->members[slot].m.status == RP_MEMBER_ADMITTED;
}

/* Is the node active, or what is it at? */
static void
check_ready(HealthReport *report)
{
	char		error[RP_ERROR_TEXT_SIZE];

	if (report->view->status == RP_NODE_ACTIVE)
		return;
	if (report->view->status == RP_NODE_EVICTED)
	{
		rp_finding(&report->out, CRITICAL_STATUS,
				   "Stop its clients, save what only this node has, call replp2p.leave_group(), empty the "
				   "tables and join anew.",
				   "this node was evicted from its group: nothing is replicated here any more");
		return;
	}

	LWLockAcquire(&report->node->lock, LW_SHARED);
	strlcpy(error, report->node->join.last_error, sizeof(error));
	LWLockRelease(&report->node->lock);
	if (report->view->status == RP_NODE_JOINING && error[0] != '\0')
		rp_finding(&report->out, CRITICAL_STATUS, "See replp2p.stat_join; the join is tried again by itself.",
				   "joining has failed so far: %s", error);
	else
		rp_finding(&report->out, WARNING_STATUS, "See replp2p.stat_join, or call replp2p.wait_for_ready().",
				   "the node is not active; its status is %s",
				   rp_node_status_name(report->view->status));
}

/* Return the name of a worker. */
static const char *
worker_name(RpWorkerKind kind)
{
	static const char *const names[RP_WORKER_KINDS] = {
		[RP_WORKER_CAPTURE] = "capture",
		[RP_WORKER_GOSSIP] = "gossip",
		[RP_WORKER_APPLY] = "apply",
		[RP_WORKER_JOIN] = "join",
		[RP_WORKER_SWEEP] = "sweep"
	};

	return names[kind];
}

/* Should this worker run in the node's present status? */
static bool
worker_is_due(RpNodeStatus status, RpWorkerKind kind)
{
	switch (status)
	{
		case RP_NODE_JOINING:
			return kind == RP_WORKER_CAPTURE || kind == RP_WORKER_GOSSIP ||
				kind == RP_WORKER_JOIN;
		case RP_NODE_CREATING:
		case RP_NODE_CATCHUP:
		case RP_NODE_ACTIVE:
		case RP_NODE_LEAVING:
			return kind == RP_WORKER_CAPTURE || kind == RP_WORKER_GOSSIP ||
				kind == RP_WORKER_APPLY;
		case RP_NODE_EVICTED:
			return kind == RP_WORKER_CAPTURE || kind == RP_WORKER_GOSSIP;
		case RP_NODE_NONE:
		case RP_NODE_GONE:
			break;
	}
	return false;
}

/* Do the launcher and all workers that are due run? */
static void
check_workers(HealthReport *report)
{
	pid_t		launcher;

	LWLockAcquire(&rp_shared->lock, LW_SHARED);
	launcher = rp_shared->launcher_pid;
	LWLockRelease(&rp_shared->lock);
	if (launcher == 0)
		rp_finding(&report->out, CRITICAL_STATUS,
				   "It restarts by itself; if it doesn't, see the server's log.",
				   "the launcher is not running, so no worker is restarted");

	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
		if (worker_is_due(report->view->status, kind) && report->view->workers[kind].pid == 0)
			rp_finding(&report->out, CRITICAL_STATUS,
					   "It restarts by itself; if it doesn't, see the server's log, and whether "
					   "max_worker_processes suffices.",
					   "the %s worker is not running", worker_name(kind));
}

/* Has a worker failed lately? */
static void
check_worker_errors(HealthReport *report)
{
	for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
	{
		const RpWorkerSlot *worker = &report->view->workers[kind];

		if (worker->last_error[0] == '\0' ||
			report->view->now - worker->last_error_at > RECENT_ERROR_US)
			continue;
		rp_finding(&report->out, WARNING_STATUS, "See the server's log.",
				   "the %s worker failed at %s (" INT64_FORMAT " restarts): %s",
				   worker_name(kind), timestamptz_to_str(worker->last_error_at),
				   worker->restarts, worker->last_error);
	}
}

/* Does capture keep up with the WAL? */
static void
check_capture(HealthReport *report)
{
	const RpNodeView *view = report->view;
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	uint64		behind;

	if (!view->capture_ready)
	{
		rp_finding(&report->out, WARNING_STATUS,
				   "The slot is made once all transactions that are running now have ended: look for "
				   "old ones in pg_stat_activity and pg_prepared_xacts.",
				   "the replication slot does not stand yet");
		return;
	}
	if (view->confirmed_lsn == InvalidXLogRecPtr || view->confirmed_lsn >= flushed)
		return;
	behind = flushed - view->confirmed_lsn;
	if (behind > CAPTURE_WARNING_BYTES)
		rp_finding(&report->out, WARNING_STATUS,
				   "The server keeps the WAL from there on. See replp2p.stat_capture.",
				   "capture is " UINT64_FORMAT " MB of WAL behind, at %X/%X",
				   behind / BYTES_PER_MB, LSN_FORMAT_ARGS(view->confirmed_lsn));
}

/*
 * Is our own log damaged? Has somebody transactions of ours that we lack? Then
 * our data directory went back in time; unless capture is about to make them again (capture_batch.c).
 */
static void
check_own_log(HealthReport *report)
{
	const RpNodeView *view = report->view;
	int			teller;
	uint64		told = rp_view_told_seq(view, RP_SELF, &teller);
	uint64		own = view->members[RP_SELF].m.stored_seq;

	if (rp_log_is_suspect(MyDatabaseId, &view->members[RP_SELF].m.origin))
		rp_finding(&report->out, CRITICAL_STATUS,
				   "Members get the transactions that cannot be read here from one another, if one of "
				   "them has them. Restore the log's files from a backup, and restart the server; or "
				   "leave the group by replp2p.leave_group(force => true) and join it again.",
				   "the change log of this node is damaged on this disk");
	if (told <= own + RP_UNSYNCED_BATCHES &&
		(!view->capture_ready || view->captured_lsn < GetFlushRecPtr(NULL)))
		return;
	if (told > own)
		rp_finding(&report->out, CRITICAL_STATUS,
				   "A backup was restored, or a standby promoted that had not received everything. "
				   "Don't write here any more; leave the group by replp2p.leave_group(force => true) "
				   "and join it again.",
				   "node \"%s\" has transactions of this node up to " UINT64_FORMAT
				   ", this node itself only up to " UINT64_FORMAT,
				   view->members[teller].m.name, told, own);
}

/* Who has not frozen all that are gone, as far as this node knows? Appends names; returns how many. */
static int
list_missing_freezes(StringInfo names)
{
	RpCatalog	catalog;
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT m.node_name::text FROM replp2p.members m WHERE m.status = 'admitted'"
					   " AND EXISTS (SELECT FROM replp2p.members x WHERE x.status <> 'admitted'"
					   " AND NOT EXISTS (SELECT FROM replp2p.membership f WHERE f.change = 'f'"
					   " AND f.author_id = m.node_id AND f.author_epoch = m.epoch"
					   " AND f.subject_id = x.node_id AND f.subject_epoch = x.epoch)) ORDER BY 1",
					   SPI_OK_SELECT, NULL, 0);
	for (uint64 row = 0; row < n; row++)
	{
		char		name[NAMEDATALEN];

		rp_column_text(row, 1, name, sizeof(name));
		appendStringInfo(names, "%s\"%s\"", row > 0 ? ", " : "", name);
	}
	rp_catalog_close(&catalog);
	return (int) n;
}

/* Is an eviction not at its end? */
static void
check_evictions(HealthReport *report)
{
	const RpNodeView *view = report->view;
	StringInfoData names;

	if (view->evicted_settled || view->status == RP_NODE_EVICTED)
		return;
	initStringInfo(&names);
	if (list_missing_freezes(&names) > 0)
		rp_finding(&report->out, WARNING_STATUS,
				   "Until then the evicted nodes keep logs from being trimmed. Bring those nodes back, "
				   "or evict who is gone for good, too.",
				   "an eviction waits for the word of %s", names.data);
	else
		rp_finding(&report->out, WARNING_STATUS,
				   "It goes on by itself; see replp2p.stat_lag if it doesn't.",
				   "the last changes of an evicted node are not all applied yet");
}

/* Who is not heard? */
static void
check_members(HealthReport *report)
{
	const RpNodeView *view = report->view;

	for (int slot = 0; slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;
		TimestampTz seen = rp_view_last_seen(view, slot);

		if (!is_peer(view, slot) || rp_view_member_state(view, slot) != RP_STATE_UNREACHABLE)
			continue;
		rp_finding(&report->out, WARNING_STATUS,
				   "The others go on without it and keep what it lacks; see replp2p.stat_links.",
				   "node \"%s\" has not been heard %s%s%s%s", m->name,
				   seen == 0 ? "since this server was started" : "since ",
				   seen == 0 ? "" : timestamptz_to_str(seen),
				   m->link_error[0] == '\0' ? "" : ": ", m->link_error);
	}
}

/* Have two members the same name? (Two joins at once by different sponsors.) */
static void
check_node_names(HealthReport *report)
{
	const RpNodeView *view = report->view;

	for (int slot = 0; slot < view->nmembers; slot++)
		for (int other = slot + 1; other < view->nmembers; other++)
		{
			const RpMember *a = &view->members[slot].m;
			const RpMember *b = &view->members[other].m;

			if (a->status == RP_MEMBER_ADMITTED && b->status == RP_MEMBER_ADMITTED &&
				strcmp(a->name, b->name) == 0)
				rp_finding(&report->out, WARNING_STATUS,
						   "Replication is not disturbed, but functions that take a name cannot "
						   "tell them apart: let one of them leave and join under another name.",
						   "two members are called \"%s\"", a->name);
		}
}

/* Say of one origin's held changes how far ahead they are. */
static void
find_held(HealthReport *report, const RpMember *m)
{
	const RpNodeView *view = report->view;
	int64		ahead = m->written_stamp - (view->now + view->group_offset_us);
	char	   *hint = psprintf("Set the clock of \"%s\" right: its changes are applied once time "
								"has passed their stamps, or now by SELECT replp2p.accept_stamps(%s).",
								m->name, quote_literal_cstr(m->name));

	rp_finding(&report->out, CRITICAL_STATUS, hint,
			   "the changes of node \"%s\" are held: its stamps are up to %s ahead of group time%s%s",
			   m->name, duration_text(Max(ahead, 0)),
			   m->clock_known ? ", its clock differs from this node's by " : "",
			   m->clock_known ? duration_text(m->clock_offset_us) : "");
}

/* What stands in the way of applying an origin's changes? */
static void
check_apply(HealthReport *report)
{
	const RpNodeView *view = report->view;

	for (int slot = 0; slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;

		if (!is_peer(view, slot))
			continue;
		if (m->paused)
			rp_finding(&report->out, WARNING_STATUS, "Call replp2p.resume_apply() when it may go on.",
					   "applying the changes of node \"%s\" is paused", m->name);
		else if (m->apply_state == RP_APPLY_ERROR)
			rp_finding(&report->out, CRITICAL_STATUS,
					   "Remove the cause; it is tried again by itself. See replp2p.stat_lag.",
					   "the changes of node \"%s\" cannot be applied: %s", m->name, m->apply_error);
		else if (m->apply_state == RP_APPLY_HELD)
			find_held(report, m);
	}
}

/* Whose changes are late? */
static void
check_lag(HealthReport *report)
{
	const RpNodeView *view = report->view;

	for (int slot = 0; slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;
		int64		lag = rp_view_lag_us(view, slot);

		if (!is_peer(view, slot) || lag < LAG_WARNING_US)
			continue;
		rp_finding(&report->out, lag < LAG_CRITICAL_US ? WARNING_STATUS : CRITICAL_STATUS,
				   "See state and last_error in replp2p.stat_lag.",
				   "the changes of node \"%s\" are late: lag %s, transactions not applied yet: "
				   UINT64_FORMAT,
				   m->name, duration_text(lag), rp_view_known_seq(view, slot) - m->applied_seq);
	}
}

/* Whose clock is wrong, ours or a member's? */
static void
check_clock(HealthReport *report)
{
	const RpNodeView *view = report->view;
	int64		limit = (int64) rp_max_clock_skew_s * USECS_PER_SEC;

	if (view->clock_is_outlier)
		rp_finding(&report->out, CRITICAL_STATUS,
				   "Set it right: while it is ahead, the others hold the changes of this node.",
				   "this node's own clock is the one that is wrong: %s off the group's",
				   duration_text(-view->group_offset_us));

	for (int slot = 0; slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;
		int64		off = m->clock_offset_us - view->group_offset_us;

		if (is_peer(view, slot) && m->clock_known && (off > limit || off < -limit))
			rp_finding(&report->out, WARNING_STATUS,
					   "Set its clock right. One that is behind does no harm but loses conflicts.",
					   "the clock of node \"%s\" is %s off the group's", m->name, duration_text(off));
	}
}

/* Do the change logs outgrow their limit, and for whom are they kept? */
static void
check_log_size(HealthReport *report)
{
	const RpNodeView *view = report->view;
	uint64		limit = (uint64) rp_max_log_size_mb * BYTES_PER_MB;
	uint64		bytes = rp_view_log_bytes(view);
	uint64		most = 0;
	int			holder = -1;

	if (bytes * 100 < limit * LOG_WARNING_PERCENT)
		return;

	/* of all logs, the one with the most bytes that somebody still lacks */
	for (int slot = 0; slot < view->nmembers; slot++)
	{
		uint64		lacks;
		int			candidate = rp_view_log_holder(view, slot, &lacks);
		uint64		kept = lacks * rp_view_transaction_bytes(view, slot);

		if (candidate >= 0 && kept >= most)
		{
			most = kept;
			holder = candidate;
		}
	}
	rp_finding(&report->out, bytes > limit ? CRITICAL_STATUS : WARNING_STATUS,
			   "See replp2p.stat_log. Bring that node back, let it leave the group, or raise "
			   "replp2p.max_log_size if there is room on the disk.",
			   "the change logs have " UINT64_FORMAT " MB of %d MB%s%s%s",
			   bytes / BYTES_PER_MB, rp_max_log_size_mb,
			   holder < 0 ? "" : ", kept for node \"",
			   holder < 0 ? "" : view->members[holder].m.name,
			   holder < 0 ? "" : "\"");
}

/* Which tables are not fully replicated? */
static void
check_tables(HealthReport *report)
{
	RpCatalog	catalog;
	int64		tables;
	int64		skipped = (int64) pg_atomic_read_u64(&report->node->stats.skipped_changes);

	rp_catalog_open(&catalog);
	rp_catalog_run("SELECT count(*), coalesce(string_agg(t.name, ', ' ORDER BY t.n) "
				   "FILTER (WHERE t.n <= 5), '') "
				   "FROM (SELECT relation::text AS name, "
				   "row_number() OVER (ORDER BY relation::text) AS n "
				   "FROM replp2p.tables WHERE warning IS NOT NULL) t",
				   SPI_OK_SELECT, NULL, 0);
	tables = DatumGetInt64(rp_column(0, 1));
	if (tables > 0)
		rp_finding(&report->out, WARNING_STATUS, "See the column warning of replp2p.tables.",
				   "tables that are replicated not at all, or only in part: " INT64_FORMAT " (%s%s)", tables,
				   TextDatumGetCString(rp_column(0, 2)), tables > 5 ? ", ..." : "");
	rp_catalog_close(&catalog);

	if (skipped > 0)
		rp_finding(&report->out, WARNING_STATUS,
				   "The nodes may differ in these rows. Give the tables in replp2p.tables that have "
				   "a warning a primary key; replp2p.stat_reset() sets this count to zero.",
				   "updates and deletes that were not replicated, for want of a usable replica "
				   "identity: " INT64_FORMAT, skipped);
}

/* Is a drill going on? */
static void
check_drill(HealthReport *report)
{
	if (rp_unreachable_peers != NULL && rp_unreachable_peers[0] != '\0')
		rp_finding(&report->out, WARNING_STATUS,
				   "ALTER SYSTEM RESET replp2p.unreachable_peers, and pg_reload_conf().",
				   "links are cut on purpose: replp2p.unreachable_peers is \"%s\"",
				   rp_unreachable_peers);
}
