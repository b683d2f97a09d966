/*
 * fn_views.c
 *	  The functions behind the views stat_*, and stat_reset().
 *
 * Each copies the node's shared memory (nodeview.c), then builds rows from the
 * copy; what a row concludes from it stands in nodeview.c, so that health()
 * says the same. Where the database is no node, a view has no rows.
 *
 * The columns follow their order in sql/replp2p--VERSION.sql.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "members.h"
#include "nodeview.h"
#include "rowbuilder.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(rp_get_stat_members);
PG_FUNCTION_INFO_V1(rp_get_stat_lag);
PG_FUNCTION_INFO_V1(rp_get_stat_capture);
PG_FUNCTION_INFO_V1(rp_get_stat_apply);
PG_FUNCTION_INFO_V1(rp_get_stat_links);
PG_FUNCTION_INFO_V1(rp_get_stat_server);
PG_FUNCTION_INFO_V1(rp_get_stat_log);
PG_FUNCTION_INFO_V1(rp_get_stat_join);
PG_FUNCTION_INFO_V1(rp_stat_reset);

static void put_member(RpRow *row, const RpNodeView *view, int slot);
static void put_lag(RpRow *row, const RpNodeView *view, int slot);
static void put_lag_error(RpRow *row, const RpNodeView *view, int slot);
static const char *lag_state(const RpNodeView *view, int slot);
static const char *apply_state_name(RpApplyState state);
static void put_link(RpRow *row, const RpNodeView *view, int slot);
static void put_log(RpRow *row, const RpNodeView *view, int slot, uint64 bytes);

/* Read a counter that is exposed as bigint. */
static int64
counter(pg_atomic_uint64 *value)
{
	return (int64) pg_atomic_read_u64(value);
}

/* Return the pid of a worker as a column, NULL if it does not run. */
static void
put_pid(RpRow *row, const RpWorkerSlot *worker)
{
	if (worker->pid == 0)
		rp_row_null(row);
	else
		rp_row_int32(row, (int32) worker->pid);
}

/* stat_members: one row per member, former ones included. */
Datum
rp_get_stat_members(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();

	rp_row_begin(&row, fcinfo);
	for (int slot = 0; view != NULL && slot < view->nmembers; slot++)
		if (view->members[slot].m.status != RP_MEMBER_FREE)
			put_member(&row, view, slot);
	return (Datum) 0;
}

/* Return the name of the phase that a member has announced, or NULL if it has not spoken. */
static const char *
phase_name(const RpNodeView *view, int slot)
{
	if (slot == RP_SELF)
		return rp_node_status_name(view->status);
	if (view->members[slot].m.heard_at == 0)
		return NULL;
	switch (view->members[slot].m.heard_phase)
	{
		case P2P_PHASE_JOINING:
			return "joining";
		case P2P_PHASE_ACTIVE:
			return "active";
		case P2P_PHASE_LEAVING:
			return "leaving";
	}
	return NULL;
}

/* Add the row of one member. */
static void
put_member(RpRow *row, const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;
	char		id[P2P_ID_TEXT_SIZE];

	p2p_id_to_text(&m->origin.id, id);
	rp_row_name(row, m->name);
	rp_row_text(row, id);
	rp_row_text(row, rp_member_state_name(rp_view_member_state(view, slot)));
	rp_row_bool(row, slot == RP_SELF);
	rp_row_int32(row, (int32) m->origin.epoch);
	rp_row_text(row, m->dsn);
	rp_row_text(row, phase_name(view, slot));
	rp_row_time(row, rp_view_last_seen(view, slot));
	if (slot == RP_SELF || m->last_contact == 0 || m->rtt_us < 0)
		rp_row_null(row);
	else
		rp_row_interval(row, m->rtt_us);
	if (slot == RP_SELF || !m->clock_known)
		rp_row_null(row);
	else
		rp_row_interval(row, m->clock_offset_us);
	if (m->status == RP_MEMBER_LEFT || (m->status == RP_MEMBER_EVICTED && view->cuts_known))
		rp_row_int64(row, (int64) m->left_seq);
	else
		rp_row_null(row);
	rp_row_end(row);
}

/* stat_lag: one row per origin whose changes may still come. */
Datum
rp_get_stat_lag(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();

	rp_row_begin(&row, fcinfo);
	for (int slot = 0; view != NULL && slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;

		if (m->status == RP_MEMBER_ADMITTED ||
			(m->status == RP_MEMBER_LEFT && m->applied_seq < m->left_seq) ||
			(m->status == RP_MEMBER_EVICTED && !view->evicted_settled))
			put_lag(&row, view, slot);
	}
	return (Datum) 0;
}

/* Add the row of one origin. */
static void
put_lag(RpRow *row, const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;
	uint64		known = rp_view_known_seq(view, slot);
	uint64		missing = known - Min(known, m->applied_seq);
	uint64		each = rp_view_transaction_bytes(view, slot);
	int64		lag_us = rp_view_lag_us(view, slot);
	bool		has_source = m->pull_source > RP_SELF && m->pull_source < view->nmembers;

	rp_row_name(row, m->name);
	rp_row_name(row, slot != RP_SELF && has_source ? view->members[m->pull_source].m.name : NULL);
	rp_row_int64(row, (int64) m->applied_seq);
	rp_row_int64(row, (int64) known);
	rp_row_int64(row, (int64) missing);
	if (missing > 0 && each == 0)
		rp_row_null(row);
	else
		rp_row_int64(row, (int64) (missing * each));
	if (lag_us < 0)
		rp_row_null(row);
	else
		rp_row_interval(row, lag_us);
	rp_row_time(row, m->applied_stamp);
	rp_row_text(row, lag_state(view, slot));
	put_lag_error(row, view, slot);
	rp_row_int64(row, m->transactions_applied);
	rp_row_int64(row, m->changes_applied);
	rp_row_int64(row, m->conflicts);
	rp_row_time(row, view->stats_reset);
	rp_row_end(row);
}

/* Add last_error and last_error_at of an origin: of apply, else of the link to it. */
static void
put_lag_error(RpRow *row, const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;

	if (m->apply_error[0] != '\0')
	{
		rp_row_text(row, m->apply_error);
		rp_row_time(row, m->apply_error_at);
	}
	else
	{
		rp_row_text(row, m->link_error);
		rp_row_time(row, m->link_error[0] == '\0' ? 0 : m->connect_failed_at);
	}
}

/*
 * Return what happens to an origin's changes here. Apply knows only what is
 * stored; that there is nobody to fetch the rest from is "disconnected".
 */
static const char *
lag_state(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;

	if (slot == RP_SELF)
		return apply_state_name(RP_APPLY_IDLE);
	if (m->paused)
		return apply_state_name(RP_APPLY_PAUSED);
	if (m->written_seq > m->applied_seq)
		return view->workers[RP_WORKER_APPLY].pid == 0 ?
			apply_state_name(RP_APPLY_ERROR) : apply_state_name(m->apply_state);
	if (m->pull_source < 0 && !m->connected)
		return "disconnected";
	return apply_state_name(m->apply_state);
}

/* Return the name of a state of apply as the views show it. */
static const char *
apply_state_name(RpApplyState state)
{
	static const char *const names[] = {
		[RP_APPLY_IDLE] = "idle",
		[RP_APPLY_APPLYING] = "applying",
		[RP_APPLY_WAITING] = "waiting",
		[RP_APPLY_HELD] = "held",
		[RP_APPLY_PAUSED] = "paused",
		[RP_APPLY_ERROR] = "error"
	};

	return names[state];
}

/* stat_capture: one row. */
Datum
rp_get_stat_capture(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();
	RpNodeStats *stats;
	const RpWorkerSlot *worker;
	char		slot_name[NAMEDATALEN];

	rp_row_begin(&row, fcinfo);
	if (view == NULL)
		return (Datum) 0;

	stats = &rp_node_required()->stats;
	worker = &view->workers[RP_WORKER_CAPTURE];
	rp_slot_name(view->dboid, slot_name, sizeof(slot_name));

	put_pid(&row, worker);
	rp_row_name(&row, slot_name);
	rp_row_bool(&row, view->capture_ready);
	rp_row_lsn(&row, view->captured_lsn);
	rp_row_lsn(&row, view->confirmed_lsn);
	rp_row_int64(&row, view->nmembers > 0 ? (int64) view->members[RP_SELF].m.captured_seq : 0);
	rp_row_time(&row, view->last_stamp);
	rp_row_time(&row, view->floor);
	rp_row_int64(&row, counter(&stats->captured_transactions));
	rp_row_int64(&row, counter(&stats->captured_changes));
	rp_row_int64(&row, counter(&stats->captured_batches));
	rp_row_int64(&row, counter(&stats->captured_bytes));
	rp_row_int64(&row, counter(&stats->skipped_changes));
	rp_row_int64(&row, counter(&stats->log_syncs));
	rp_row_int64(&row, worker->restarts);
	rp_row_text(&row, worker->last_error);
	rp_row_time(&row, worker->last_error_at);
	rp_row_time(&row, view->stats_reset);
	rp_row_end(&row);
	return (Datum) 0;
}

/* Return the state that most needs looking at, over all origins. */
static const char *
worst_apply_state(const RpNodeView *view)
{
	RpApplyState worst = RP_APPLY_IDLE;

	if (view->workers[RP_WORKER_APPLY].pid == 0)
		return "stopped";
	/* the enum stands in the order of urgency, except that held needs an operator more than paused */
	for (int slot = RP_SELF + 1; slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;
		RpApplyState state = m->paused ? RP_APPLY_PAUSED : m->apply_state;

		if (m->status != RP_MEMBER_ADMITTED)
			continue;
		if (state == RP_APPLY_PAUSED && worst == RP_APPLY_HELD)
			continue;
		if (state > worst || (state == RP_APPLY_HELD && worst == RP_APPLY_PAUSED))
			worst = state;
	}
	return apply_state_name(worst);
}

/* stat_apply: one row. */
Datum
rp_get_stat_apply(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();
	const RpWorkerSlot *worker;
	int64		transactions = 0;
	int64		commits = 0;
	int64		changes = 0;
	int64		conflicts = 0;
	int64		errors = 0;

	rp_row_begin(&row, fcinfo);
	if (view == NULL)
		return (Datum) 0;

	for (int slot = 0; slot < view->nmembers; slot++)
	{
		transactions += view->members[slot].m.transactions_applied;
		commits += view->members[slot].m.commits_applied;
		changes += view->members[slot].m.changes_applied;
		conflicts += view->members[slot].m.conflicts;
		errors += view->members[slot].m.apply_errors;
	}
	worker = &view->workers[RP_WORKER_APPLY];
	put_pid(&row, worker);
	rp_row_text(&row, worst_apply_state(view));
	rp_row_time(&row, worker->pid == 0 ? 0 : worker->started_at);
	rp_row_int64(&row, transactions);
	rp_row_int64(&row, commits);
	rp_row_int64(&row, changes);
	rp_row_int64(&row, conflicts);
	rp_row_int64(&row, errors);
	rp_row_int64(&row, worker->restarts);
	rp_row_text(&row, worker->last_error);
	rp_row_time(&row, worker->last_error_at);
	rp_row_time(&row, view->stats_reset);
	rp_row_end(&row);
	return (Datum) 0;
}

/* stat_links: one row per peer. */
Datum
rp_get_stat_links(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();

	rp_row_begin(&row, fcinfo);
	for (int slot = RP_SELF + 1; view != NULL && slot < view->nmembers; slot++)
		if (view->members[slot].m.status == RP_MEMBER_ADMITTED)
			put_link(&row, view, slot);
	return (Datum) 0;
}

/* Add the row of the link to one peer. */
static void
put_link(RpRow *row, const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;

	rp_row_name(row, m->name);
	rp_row_bool(row, m->connected);
	rp_row_time(row, m->last_contact);
	if (m->last_contact == 0 || m->rtt_us < 0)
		rp_row_null(row);
	else
		rp_row_interval(row, m->rtt_us);
	rp_row_int64(row, m->bytes_received);
	rp_row_int64(row, m->batches_received);
	rp_row_int64(row, m->link_errors);
	rp_row_text(row, m->link_error);
	rp_row_time(row, m->connect_failed_at);
	rp_row_bool(row, rp_peer_is_cut(m->name));
	rp_row_time(row, view->stats_reset);
	rp_row_end(row);
}

/* stat_server: one row. */
Datum
rp_get_stat_server(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();
	RpNodeStats *stats;

	rp_row_begin(&row, fcinfo);
	if (view == NULL)
		return (Datum) 0;

	stats = &rp_node_required()->stats;
	rp_row_int64(&row, counter(&stats->requests_served));
	rp_row_int64(&row, counter(&stats->bytes_sent));
	rp_row_int64(&row, counter(&stats->refused_strangers));
	rp_row_int64(&row, counter(&stats->refused_messages));
	rp_row_int64(&row, counter(&stats->refused_batches));
	rp_row_time(&row, view->stats_reset);
	rp_row_end(&row);
	return (Datum) 0;
}

/* stat_log: one row per origin that is a member or has bytes on disk. */
Datum
rp_get_stat_log(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNodeView *view = rp_node_view();

	rp_row_begin(&row, fcinfo);
	for (int slot = 0; view != NULL && slot < view->nmembers; slot++)
	{
		const RpMember *m = &view->members[slot].m;

		uint64		bytes = m->status == RP_MEMBER_FREE ? 0 : rp_log_bytes(view->dboid, &m->origin);

		if (m->status == RP_MEMBER_ADMITTED || bytes > 0)
			put_log(&row, view, slot, bytes);
	}
	return (Datum) 0;
}

/* Add the row of one origin's log. */
static void
put_log(RpRow *row, const RpNodeView *view, int slot, uint64 bytes)
{
	const RpMember *m = &view->members[slot].m;
	uint64		lacks;
	int			holder = rp_view_log_holder(view, slot, &lacks);

	rp_row_name(row, m->name);
	if (m->oldest_seq == 0)
		rp_row_null(row);
	else
		rp_row_int64(row, (int64) m->oldest_seq);
	rp_row_int64(row, (int64) m->stored_seq);
	rp_row_int64(row, (int64) m->durable_seq);
	rp_row_int64(row, (int64) m->stable_seq);
	rp_row_int64(row, (int64) bytes);
	rp_row_name(row, holder < 0 ? NULL : view->members[holder].m.name);
	rp_row_int64(row, (int64) lacks);
	rp_row_end(row);
}

/* stat_join: one row once a join has begun. */
Datum
rp_get_stat_join(PG_FUNCTION_ARGS)
{
	RpRow		row;
	RpNode	   *node = rp_shared == NULL ? NULL : rp_node_find(MyDatabaseId);
	__typeof__(node->join) join;

	rp_row_begin(&row, fcinfo);
	if (node == NULL)
		return (Datum) 0;

	LWLockAcquire(&node->lock, LW_SHARED);
	join = node->join;
	LWLockRelease(&node->lock);
	if (join.phase[0] == '\0')
		return (Datum) 0;

	rp_row_text(&row, join.phase);
	rp_row_int64(&row, join.tables_total);
	rp_row_int64(&row, join.tables_processed);
	rp_row_int64(&row, join.indexes_total);
	rp_row_int64(&row, join.indexes_processed);
	rp_row_int64(&row, join.bytes_total);
	rp_row_int64(&row, join.bytes_processed);
	rp_row_int64(&row, join.rows_processed);
	rp_row_time(&row, join.started_at);
	rp_row_text(&row, join.waits_for);
	rp_row_text(&row, join.last_error);
	rp_row_text(&row, join.donors);
	rp_row_end(&row);
	return (Datum) 0;
}

/* Set what RpNodeStats counts to zero. */
static void
reset_counters(RpNodeStats *stats)
{
	pg_atomic_write_u64(&stats->captured_transactions, 0);
	pg_atomic_write_u64(&stats->captured_changes, 0);
	pg_atomic_write_u64(&stats->captured_bytes, 0);
	pg_atomic_write_u64(&stats->captured_batches, 0);
	pg_atomic_write_u64(&stats->skipped_changes, 0);
	pg_atomic_write_u64(&stats->log_syncs, 0);
	pg_atomic_write_u64(&stats->requests_served, 0);
	pg_atomic_write_u64(&stats->bytes_sent, 0);
	pg_atomic_write_u64(&stats->refused_strangers, 0);
	pg_atomic_write_u64(&stats->refused_messages, 0);
	pg_atomic_write_u64(&stats->refused_batches, 0);
}

/* Set all counters of this node to zero. Positions and last errors are no counters. */
Datum
rp_stat_reset(PG_FUNCTION_ARGS)
{
	RpNode	   *node = rp_node_required();

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	reset_counters(&node->stats);
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		RpMember   *m = &node->members[slot];

		SpinLockAcquire(&node->vector_lock);
		m->apply_errors = 0;
		m->transactions_applied = 0;
		m->commits_applied = 0;
		m->changes_applied = 0;
		m->conflicts = 0;
		m->bytes_received = 0;
		m->batches_received = 0;
		m->link_errors = 0;
		SpinLockRelease(&node->vector_lock);
	}
	rp_conflict_counts_reset(&node->conflict_counts);
	node->stats_reset = GetCurrentTimestamp();
	LWLockRelease(&node->lock);
	PG_RETURN_VOID();
}
