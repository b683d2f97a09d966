/*
 * nodeview.c
 *	  A copy of a node's shared memory for whoever only reads, and what can be
 *	  concluded from it.
 *
 * The views and health() answer at leisure, and build tuples that may raise
 * errors; the workers must not wait for that. So everything is copied first:
 * the whole under RpNode.lock (shared), each member's counters and positions
 * at once under vector_lock. Two members may thus be a few microseconds apart,
 * which no reader can notice. States that members have signed are parsed after
 * the locks are released; they were verified on arrival.
 *
 * Conclusions live here and not in the views, so that the views, health() and
 * whoever asks next can't differ over them.
 */
#include "postgres.h"

#include <stddef.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "evict.h"
#include "nodeview.h"
#include "settings.h"

/* A member is copied in three pieces, as its locks demand: see RpMember. */
#define VECTOR_PART_START offsetof(RpMember, stored_seq)
#define VECTOR_PART_END offsetof(RpMember, state_length)

static void copy_positions(RpNode *node, RpNodeView *view);
static void copy_member(RpNode *node, int slot, RpMemberView *copy);
static void read_states(RpNodeView *view, const P2pVector *captured);

/* Return a copy of this database's node in CurrentMemoryContext, or NULL. */
RpNodeView *
rp_node_view(void)
{
	RpNode	   *node = rp_shared == NULL ? NULL : rp_node_find(MyDatabaseId);
	RpNodeView *view;
	P2pVector	captured;

	if (node == NULL)
		return NULL;

	rp_vector_captured(node, &captured);

	/* An error in palloc releases the lock, as the end of any transaction does. */
	LWLockAcquire(&node->lock, LW_SHARED);
	view = palloc0(offsetof(RpNodeView, members) +
				   sizeof(RpMemberView) * Max(node->nmembers, 1));
	view->dboid = MyDatabaseId;
	view->status = node->status;
	view->group = node->group;
	view->stats_reset = node->stats_reset;
	view->evicted_settled = rp_evict_is_settled(node);
	view->cuts_known = node->cuts_known;
	memcpy(view->workers, node->workers, sizeof(view->workers));
	copy_positions(node, view);
	view->nmembers = node->nmembers;
	for (int slot = 0; slot < view->nmembers; slot++)
		copy_member(node, slot, &view->members[slot]);
	LWLockRelease(&node->lock);

	if (view->status == RP_NODE_NONE || view->status == RP_NODE_GONE)
	{
		pfree(view);
		return NULL;
	}
	view->now = GetCurrentTimestamp();
	read_states(view, &captured);
	return view;
}

/* Copy what is not of one member. RpNode.lock is held. */
static void
copy_positions(RpNode *node, RpNodeView *view)
{
	SpinLockAcquire(&node->vector_lock);
	view->captured_lsn = node->captured_lsn;
	view->confirmed_lsn = node->confirmed_lsn;
	view->last_stamp = node->last_stamp;
	view->floor = node->floor;
	view->capture_ready = node->capture_ready;
	view->group_offset_us = node->group_offset_us;
	view->clock_is_outlier = node->clock_is_outlier;
	SpinLockRelease(&node->vector_lock);
}

/* Copy one member. RpNode.lock is held. */
static void
copy_member(RpNode *node, int slot, RpMemberView *copy)
{
	const RpMember *member = &node->members[slot];
	char	   *to = (char *) &copy->m;

	memcpy(to, member, VECTOR_PART_START);

	SpinLockAcquire(&node->vector_lock);
	memcpy(to + VECTOR_PART_START, (const char *) member + VECTOR_PART_START,
		   VECTOR_PART_END - VECTOR_PART_START);
	SpinLockRelease(&node->vector_lock);

	copy->m.state_length = Min(member->state_length, (uint32) P2P_STATE_MAX_SIZE);
	memcpy(copy->m.state_bytes, member->state_bytes, copy->m.state_length);
}

/* Parse what the members say of themselves; say it for this node. */
static void
read_states(RpNodeView *view, const P2pVector *captured)
{
	for (int slot = 0; slot < view->nmembers; slot++)
	{
		RpMemberView *member = &view->members[slot];

		if (slot == RP_SELF)
		{
			member->has_state = true;
			member->state.node = member->m.origin;
			member->state.ack = *captured;
			for (int i = 0; i < view->nmembers; i++)
				(void) p2p_vector_set(&member->state.stored, &view->members[i].m.origin,
									  view->members[i].m.stored_seq);
		}
		else
			member->has_state = member->m.state_length > 0 &&
				p2p_state_parse(member->m.state_bytes, member->m.state_length,
								&member->state) == P2P_OK;
	}
}

/* Return when a member last gave a sign of life; 0 = never since the server was started. */
TimestampTz
rp_view_last_seen(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;

	if (slot == RP_SELF)
		return view->now;
	return Max(m->last_contact, m->heard_at);
}

/* Return what this node itself is doing. */
static RpMemberState
own_state(RpNodeStatus status)
{
	switch (status)
	{
		case RP_NODE_NONE:
		case RP_NODE_CREATING:
		case RP_NODE_JOINING:
			return RP_STATE_JOINING;
		case RP_NODE_CATCHUP:
			return RP_STATE_SYNCING;
		case RP_NODE_ACTIVE:
			return RP_STATE_ACTIVE;
		case RP_NODE_LEAVING:
			return RP_STATE_LEAVING;
		case RP_NODE_GONE:
			return RP_STATE_LEFT;
		case RP_NODE_EVICTED:
			return RP_STATE_EVICTED;
	}
	return RP_STATE_JOINING;
}

/*
 * Return what a member is doing. One that has never been heard and never wrote
 * is taken for a joiner: nodes don't speak while they copy.
 */
RpMemberState
rp_view_member_state(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;
	TimestampTz seen = rp_view_last_seen(view, slot);

	if (m->status == RP_MEMBER_LEFT)
		return RP_STATE_LEFT;
	if (m->status == RP_MEMBER_EVICTED)
		return RP_STATE_EVICTED;
	if (slot == RP_SELF)
		return own_state(view->status);
	if (seen == 0 && m->stored_seq == 0)
		return RP_STATE_JOINING;
	if (view->now - seen > (int64) rp_dead_after_s * USECS_PER_SEC)
		return RP_STATE_UNREACHABLE;

	switch (m->heard_phase)
	{
		case P2P_PHASE_JOINING:
			return RP_STATE_SYNCING;
		case P2P_PHASE_LEAVING:
			return RP_STATE_LEAVING;
		case P2P_PHASE_ACTIVE:
			break;
	}
	return RP_STATE_ACTIVE;
}

/* Return the name of a state as the view stat_members shows it. */
const char *
rp_member_state_name(RpMemberState state)
{
	static const char *const names[] = {
		[RP_STATE_JOINING] = "joining",
		[RP_STATE_SYNCING] = "syncing",
		[RP_STATE_ACTIVE] = "active",
		[RP_STATE_UNREACHABLE] = "unreachable",
		[RP_STATE_LEAVING] = "leaving",
		[RP_STATE_LEFT] = "left",
		[RP_STATE_EVICTED] = "evicted"
	};

	return names[state];
}

/* Return the greatest seq of an origin that the others say they store; *teller = who, or -1. */
uint64
rp_view_told_seq(const RpNodeView *view, int slot, int *teller)
{
	const P2pOrigin *origin = &view->members[slot].m.origin;
	uint64		greatest = 0;

	*teller = -1;
	for (int i = 0; i < view->nmembers; i++)
	{
		uint64		seq;

		if (i == RP_SELF || !view->members[i].has_state)
			continue;
		seq = p2p_vector_get(&view->members[i].state.stored, origin);
		if (seq > greatest)
		{
			greatest = seq;
			*teller = i;
		}
	}
	return greatest;
}

/* Return the greatest seq of an origin that anybody is known to store. */
uint64
rp_view_known_seq(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;
	int			teller;
	uint64		told;

	/* Of our own transactions we are the authority: see health(). */
	if (slot == RP_SELF)
		return m->applied_seq;
	told = rp_view_told_seq(view, slot, &teller);
	return Max(told, Max(m->written_seq, m->applied_seq));
}

/* Return how far we are behind an origin, in microseconds: 0 = not, -1 = cannot be said. */
int64
rp_view_lag_us(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;
	uint64		known = rp_view_known_seq(view, slot);
	P2pStamp	since = m->applied_stamp;

	if (known <= m->applied_seq)
		return 0;
	if (m->written_seq == m->applied_seq + 1 && m->written_stamp != 0)
		since = m->written_stamp;
	if (since == 0)
		return -1;
	return Max(view->now + view->group_offset_us - since, 0);
}

/* Return the average size of a transaction in an origin's log, 0 if the log is empty. */
uint64
rp_view_transaction_bytes(const RpNodeView *view, int slot)
{
	const RpMember *m = &view->members[slot].m;

	if (m->oldest_seq == 0 || m->stored_seq < m->oldest_seq)
		return 0;
	return rp_log_bytes(view->dboid, &m->origin) / (m->stored_seq - m->oldest_seq + 1);
}

/* Return the member with the smallest ack for an origin, -1 if all have acked all of it. */
int
rp_view_log_holder(const RpNodeView *view, int slot, uint64 *lacks)
{
	const RpMember *m = &view->members[slot].m;
	uint64		smallest = m->stored_seq;
	int			holder = -1;

	for (int i = 0; i < view->nmembers; i++)
	{
		const RpMemberView *member = &view->members[i];
		uint64		ack;

		if (member->m.status != RP_MEMBER_ADMITTED &&
			(member->m.status != RP_MEMBER_EVICTED || view->evicted_settled))
			continue;
		ack = member->has_state ? p2p_vector_get(&member->state.ack, &m->origin) : 0;
		if (ack < smallest)
		{
			smallest = ack;
			holder = i;
		}
	}
	*lacks = m->stored_seq - smallest;
	return holder;
}

/* Return the bytes of all logs on this node's disk, as they are now. */
uint64
rp_view_log_bytes(const RpNodeView *view)
{
	uint64		bytes = 0;

	for (int slot = 0; slot < view->nmembers; slot++)
		bytes += rp_log_bytes(view->dboid, &view->members[slot].m.origin);
	return bytes;
}
