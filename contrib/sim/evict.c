/*
 * evict.c
 *	  The model of evictions: src/pg/evict.c and whoever runs evict_node().
 *
 * The rules are core's (p2p_evict.c). A node that hears of its own eviction
 * stops for good; that its user wipes it and joins anew is a join like any other.
 *
 * The users of this model do not evict one another in circles: that makes two
 * groups, or none, which is what they have asked for.
 */
#include "sim.h"

#include <string.h>

static bool evicts_at_last(uint32_t by, uint32_t node);
static bool frozen_of(void *arg, uint32_t member, uint32_t gone, uint64_t *seq);
static P2pStanding standing_of(uint8_t status);

/* evict_node(), called on `node`. */
void
evict_begin(Node *node, uint32_t victim)
{
	Op			op = {.kind = OP_EVICT, .key = (uint8_t) victim};

	if (!node->up || node->status != STATUS_ACTIVE || victim >= world.nnodes ||
		victim == node->index || node->catalog.members[victim] != MEMBER_ADMITTED ||
		evicts_at_last(victim, node->index) ||
		(!is_evicted(victim) && world.nodes[victim].status == STATUS_ACTIVE && members_left(node) < 3))
		return;
	world.evicts[node->index][victim] = true;
	TRACE("node %u evicts node %u", node->index, victim);
	(void) local_commit(node, &op, 1);
}

/* Has `by` evicted node, or somebody who has ...? */
static bool
evicts_at_last(uint32_t by, uint32_t node)
{
	if (world.evicts[by][node])
		return true;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (world.evicts[by][i] && evicts_at_last(i, node))
			return true;
	}
	return false;
}

/* Has anybody evicted it? */
bool
is_evicted(uint32_t node)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (world.evicts[i][node])
			return true;
	}
	return false;
}

/* How many members are there for a node, itself included, that are active and evicted by nobody? */
uint32_t
members_left(const Node *node)
{
	uint32_t	n = 0;

	for (uint32_t i = 0; i < world.nnodes; i++)
		n += world.nodes[i].status == STATUS_ACTIVE && !is_evicted(i) &&
			(i == node->index || node->catalog.members[i] == MEMBER_ADMITTED);
	return n;
}

/* The node hears that it was evicted, or is wiped: it does nothing any more. */
void
evict_hear(Node *node, const char *how)
{
	TRACE("node %u stops: it is told that it was evicted, %s", node->index, how);
	node->status = node->disk.status = STATUS_EVICTED;
	node->up = false;
	node->armed = ARM_NONE;
}

/* Tell a node that asks that it was evicted. */
void
evict_refuse(const Node *node, uint32_t to)
{
	Message		m = {.kind = MESSAGE_EVICTED, .from = node->index, .to = (uint8_t) to};

	message_send(&m);
}

static P2pStanding
standing_of(uint8_t status)
{
	switch ((MemberStatus) status)
	{
		case MEMBER_ADMITTED:
			return P2P_STANDING_MEMBER;
		case MEMBER_LEFT:
			return P2P_STANDING_LEFT;
		case MEMBER_EVICTED:
			return P2P_STANDING_EVICTED;
		case MEMBER_FREE:
			break;
	}
	return P2P_STANDING_NONE;
}

/* Freeze who is gone, and say so. The links follow what is loaded, so they are closed. */
void
evict_freeze(Node *node)
{
	P2pClosing	nodes[MAX_NODES] = {0};
	Op			ops[MAX_CHANGES];
	uint32_t	n = 0;

	if (memchr(node->shared.catalog.members, MEMBER_EVICTED, sizeof(node->shared.catalog.members)) == NULL)
		return;
	if (node->status < STATUS_CATCHUP || node->status > STATUS_LEAVING ||
		(node->status == STATUS_LEAVING && leave_is_written(node)))
		return;
	if (!PLANTED(hasty_freeze) && node->gossip.dirty)
		(void) pull_commit(node, false);
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		uint32_t	told = node->shared.catalog.frozen[node->index][i];

		nodes[i].standing = standing_of(node->shared.catalog.members[i]);
		if (nodes[i].standing == P2P_STANDING_LEFT && PLANTED(open_leavers))
			nodes[i].standing = P2P_STANDING_NONE;
		nodes[i].closed = true;
		nodes[i].frozen = told > 0;
		nodes[i].frozen_seq = told > 0 ? told - 1 : 0;
		nodes[i].stored_seq = node->shared.stored[i];
	}
	if (!p2p_evict_freezes(nodes, world.nnodes))
		return;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (!nodes[i].tell || (nodes[i].frozen && PLANTED(single_freeze)))
			continue;
		ops[n++] = (Op) {.kind = OP_FREEZE, .key = (uint8_t) i,
			.value = (uint32_t) nodes[i].stored_seq};
		TRACE("node %u freezes node %u at %u", node->index, i, (uint32_t) nodes[i].stored_seq);
	}
	(void) local_commit(node, ops, n);
}

/* What a member has said of a node that is gone. */
static bool
frozen_of(void *arg, uint32_t member, uint32_t gone, uint64_t *seq)
{
	const Node *node = arg;
	uint32_t	told = node->shared.catalog.frozen[member][gone];

	if (told == 0 && node->shared.catalog.members[gone] == MEMBER_LEFT && PLANTED(open_leavers))
		told = 1;
	if (told == 0 && PLANTED(some_freezes))
	{
		for (uint32_t i = 0; i < world.nnodes; i++)
			told |= node->shared.catalog.frozen[i][gone] > 0;
	}
	*seq = told > 0 ? told - 1 : 0;
	if (PLANTED(own_cut))
		*seq = node->shared.stored[gone];
	return told > 0 || PLANTED(own_cut);
}

/* Where do the evicted nodes end? false: not known yet. */
bool
evict_cuts(const Node *node, uint64_t *cuts)
{
	P2pStanding standings[MAX_NODES];

	for (uint32_t i = 0; i < world.nnodes; i++)
		standings[i] = standing_of(node->shared.catalog.members[i]);
	return p2p_evict_cuts(standings, world.nnodes, frozen_of, (void *) node, cuts);
}

/* Do the evicted nodes count for nothing any more? */
bool
evict_is_settled(const Node *node)
{
	P2pEvicted	evicted[MAX_NODES];
	uint32_t	which[MAX_NODES];
	uint64_t	cuts[MAX_NODES];
	uint32_t	n = 0;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		const Captured *next;

		if (node->shared.catalog.members[i] != MEMBER_EVICTED)
			continue;
		/* durably, as in stability */
		next = log_find(&node->logs[i], node->shared.captured[i] + 1);
		evicted[n] = (P2pEvicted) {.origin = world.origins[i],
			.applied_seq = node->shared.captured[i],
			.next_deps = next == NULL || PLANTED(endless) ? NULL : next->deps};
		which[n++] = i;
	}
	if (n == 0 || !evict_cuts(node, cuts))
		return n == 0;
	for (uint32_t i = 0; i < n; i++)
		evicted[i].cut = PLANTED(cut_unapplied) ? 0 : cuts[which[i]];
	return p2p_evict_all_over(evicted, n);
}

/* Was its admission perhaps lost: is its sponsor evicted, or the sponsor of that one ...? */
static bool
may_be_lost(const Node *node)
{
	while (node->index >= world.profile.nnodes)
	{
		node = &world.nodes[node->join.sponsor];
		if (is_evicted(node->index))
			return true;
	}
	return false;
}

/* Is none of those left, of whom it knows, who could tell it that it was evicted? */
static bool
reaches_nobody(const Node *node)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != node->index && node->catalog.members[i] == MEMBER_ADMITTED &&
			world.nodes[i].status < STATUS_GONE && !is_evicted(i))
			return false;
	}
	return true;
}

/*
 * Mark the active nodes that belong together: the first ones that nobody has evicted, or
 * if all of these are gone one whom they left behind; and whom they have admitted.
 */
static void
group_find(bool in_group[MAX_NODES])
{
	bool		any = false;
	bool		moved = true;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		in_group[i] = world.nodes[i].status == STATUS_ACTIVE && !is_evicted(i) &&
			(i < world.profile.nnodes || (!any && !may_be_lost(&world.nodes[i])));
		any |= in_group[i];
	}
	for (uint32_t i = 0; i < world.nnodes && !any; i++)
		any = in_group[i] = world.nodes[i].status == STATUS_ACTIVE;
	while (moved)
	{
		moved = false;
		for (uint32_t i = 0; i < world.nnodes; i++)
		{
			for (uint32_t by = 0; by < world.nnodes && !in_group[i]; by++)
			{
				in_group[i] = in_group[by] && world.nodes[i].status == STATUS_ACTIVE &&
					world.nodes[by].catalog.members[i] == MEMBER_ADMITTED;
				moved |= in_group[i];
			}
		}
	}
}

/*
 * What users do in the end: wipe what cannot go on (a joiner whose sponsor was
 * evicted; one that is active, but whom nobody knows, as its admission was lost with
 * its sponsor, which was evicted: who leaves loses nobody; a node that is evicted and reaches nobody), end a leave that all
 * have taken note of, and evict what was wiped.
 */
void
evict_operate(bool patient)
{
	bool		in_group[MAX_NODES];

	group_find(in_group);
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		Node	   *node = &world.nodes[i];
		bool		evicted = false;
		bool		left = true;

		for (uint32_t by = 0; by < world.nnodes; by++)
		{
			Node	   *other = &world.nodes[by];

			if (!in_group[by] || by == i || !other->up)
				continue;
			left &= other->catalog.members[i] == MEMBER_LEFT;
			evicted |= other->catalog.members[i] == MEMBER_EVICTED;
			if (node->status == STATUS_EVICTED)
				evict_begin(other, i);
		}
		if (patient || !node->up)
			continue;
		if ((node->status == STATUS_JOINING || node->status == STATUS_CATCHUP) &&
			world.nodes[node->join.sponsor].status >= STATUS_GONE && is_evicted(node->join.sponsor))
			evict_hear(node, "wiped, as its sponsor was evicted");
		else if (node->status == STATUS_LEAVING && left)
		{
			/* it waits for one that was evicted meanwhile: leave_group(force => true) */
			node->status = STATUS_GONE;
			node->up = false;
		}
		else if ((node->status == STATUS_ACTIVE && !in_group[i] &&
				  (may_be_lost(node) || (is_evicted(i) && reaches_nobody(node)))) ||
				 (node->status == STATUS_LEAVING && evicted))
			evict_hear(node, "wiped, as nobody knows it");
	}
}
