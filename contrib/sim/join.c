/*
 * join.c
 *	  The model of src/pg/join.c, join_serve.c, snapshot.c, join_copy.c, leave.c:
 *	  how members come and go.
 *
 *	  connects -> admitted -> snapshot -> copies -> read -> done
 *	      ^__________|___________|__________|  the sponsor is gone, or its snapshot has no vector
 *
 * The admission is a transaction of the sponsor's stream and comes first. The
 * snapshot is one of xids; its vector is looked for by the server's steps.
 */
#include "sim.h"

#include <string.h>

#include "p2p_clock.h"

static bool sponsor_is_there(const Node *node, const Node *sponsor);
static void admit(Node *node, Node *sponsor);
static void snapshot_take(Node *node, Node *sponsor);
static bool snapshot_sees(const Join *join, uint32_t xid);
static bool vector_find(Join *join, const Node *sponsor);
static void copy_announce(Node *node);
static void copy_commit(Node *node);
static bool catch_up(Node *node);
static bool leave_looked(Node *node);
static bool leave_write(Node *node);
static bool leave_may_go(Node *node);

/* A new node wants to join by this sponsor. */
void
join_begin(uint32_t sponsor)
{
	Node	   *node;

	if (world.nnodes == MAX_NODES || world.nodes[sponsor].status != STATUS_ACTIVE)
		return;
	node = &world.nodes[world.nnodes];
	node_init(node, world.nnodes++, STATUS_JOINING);
	node->clock_offset = random_chance(&node->random, 50) ? 0 :
		(int64_t) random_below(&node->random, 2000000) - 1000000;
	node->join.stage = JOIN_CONNECTS;
	node->join.sponsor = (uint8_t) sponsor;
	node_start(node);
	TRACE("node %u wants to join by node %u", node->index, sponsor);
}

/* One step of the join worker. */
bool
join_step(Node *node)
{
	Join	   *join = &node->join;
	Node	   *sponsor = &world.nodes[join->sponsor];

	if (node->status == STATUS_CATCHUP)
		return catch_up(node);
	if (node->status != STATUS_JOINING || !node->shared.capture_ready)
		return false;
	if (join->stage < JOIN_READ && !sponsor_is_there(node, sponsor))
	{
		join->stage = JOIN_CONNECTS;
		join->xid = 0;
		return false;
	}
	switch ((JoinStage) join->stage)
	{
		case JOIN_NONE:
		case JOIN_DONE:
			return false;
		case JOIN_CONNECTS:
			admit(node, sponsor);
			return true;
		case JOIN_ADMITTED:
			if (sponsor->shared.captured_lsn < join->barrier)
				return false;
			members_load(sponsor);
			snapshot_take(node, sponsor);
			return true;
		case JOIN_SNAPSHOT:
			if (sponsor->shared.captured_lsn < join->barrier)
				return false;
			join->stage = vector_find(join, sponsor) ? JOIN_COPIES : JOIN_ADMITTED;
			join->wait = world.tick + random_below(&node->random, 300);
			return true;
		case JOIN_COPIES:
			if (world.tick < join->wait)
				return false;
			copy_announce(node);
			return true;
		case JOIN_READ:
			if (node->shared.captured_lsn < join->barrier)
				return false;
			copy_commit(node);
			return true;
	}
	return false;
}

/* Is the session with the sponsor possible, and still the one that was begun? */
static bool
sponsor_is_there(const Node *node, const Node *sponsor)
{
	return sponsor->up && sponsor->status == STATUS_ACTIVE && sponsor->shared.capture_ready &&
		!world.cut[node->index][sponsor->index] && !world.cut[sponsor->index][node->index] &&
		(node->join.stage == JOIN_CONNECTS || node->join.sponsor_life == sponsor->life);
}

/* The sponsor's part: the admission, in its stream; and a mark behind it. */
static void
admit(Node *node, Node *sponsor)
{
	Op			op = {.kind = OP_ADMIT, .key = node->index};
	Wal			mark = {.kind = WAL_MARK};

	if (sponsor->catalog.members[node->index] > MEMBER_ADMITTED)
	{
		evict_hear(node, "by its sponsor");
		return;
	}
	if (sponsor->catalog.members[node->index] == MEMBER_FREE && !PLANTED(late_admission))
		(void) local_commit(sponsor, &op, 1);
	node->join.sponsor_life = sponsor->life;
	node->join.barrier = wal_insert(sponsor, &mark);
	wal_flush(sponsor, node->join.barrier);
	node->join.stage = JOIN_ADMITTED;
}

/* A snapshot of the sponsor, and what it sees; and a mark behind it. */
static void
snapshot_take(Node *node, Node *sponsor)
{
	Join	   *join = &node->join;
	Wal			mark = {.kind = WAL_MARK};

	join->nrunning = 0;
	for (uint32_t i = 0; i < MAX_SESSIONS; i++)
	{
		if (sponsor->sessions[i].phase != SESSION_FREE && sponsor->sessions[i].xid != 0)
			join->running[join->nrunning++] = sponsor->sessions[i].xid;
	}
	if (sponsor->apply.stage == APPLY_WORKS)
		join->running[join->nrunning++] = sponsor->apply.xid;
	join->xmin = oldest_running(sponsor);
	join->xmax = sponsor->next_xid;
	for (uint32_t i = 0; i < NTABLES * MAX_KEYS; i++)
		join->rows[i / MAX_KEYS][i % MAX_KEYS] = sponsor->cells[i / MAX_KEYS][i % MAX_KEYS].row;
	join->catalog = sponsor->catalog;
	join->barrier = wal_insert(sponsor, &mark);
	wal_flush(sponsor, join->barrier);
	join->stage = JOIN_SNAPSHOT;
}

static bool
snapshot_sees(const Join *join, uint32_t xid)
{
	if (xid >= join->xmax)
		return false;
	for (uint32_t i = 0; i < join->nrunning; i++)
	{
		if (join->running[i] == xid)
			return false;
	}
	return true;
}

/* The vector of exactly what the snapshot sees; false: there is none (snapshot.c, steps 3 to 5). */
static bool
vector_find(Join *join, const Node *sponsor)
{
	const Shared *shared = &sponsor->shared;
	uint32_t	first_unseen[MAX_NODES] = {0};
	uint32_t	unseen[MAX_NODES] = {0};
	static bool is_unseen[MAX_NODES][MAX_SEQ];
	bool		unclean = false;

	join->stamp = shared->last_stamp > shared->floor ? shared->last_stamp : shared->floor;
	if (p2p_clock_too_far_ahead(join->stamp, node_clock(sponsor) + shared->group_offset,
								world.profile.max_skew_us))
		return false;
	memset(is_unseen, 0, sizeof(is_unseen));
	for (uint32_t pass = 0; pass < 2; pass++)
	{
		for (uint32_t xid = join->xmin; xid < sponsor->next_xid && xid < sponsor->nversions; xid++)
		{
			const VersionEntry *entry = &sponsor->versions[xid];
			uint32_t	o = entry->origin;

			if (o >= MAX_NODES || entry->seq > shared->captured[o])
				continue;
			if (pass == 0)
			{
				if (!snapshot_sees(join, xid) &&
					(first_unseen[o] == 0 || first_unseen[o] > entry->seq))
					first_unseen[o] = entry->seq;
			}
			else if (first_unseen[o] != 0 && entry->seq >= first_unseen[o])
			{
				if (snapshot_sees(join, xid))
					unclean |= o == sponsor->index;
				else if (!is_unseen[o][entry->seq])
				{
					is_unseen[o][entry->seq] = true;
					unseen[o]++;
				}
			}
		}
	}
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		join->vector[i] = first_unseen[i] != 0 ? first_unseen[i] - 1 : shared->captured[i];
		if (first_unseen[i] != 0 && unseen[i] != shared->captured[i] - first_unseen[i] + 1)
			unclean = true;
		if (PLANTED(snapshot_vector))
			join->vector[i] = shared->captured[i];
	}
	return !unclean || PLANTED(snapshot_vector);
}

/* Show members and required seqs to capture, and have it look before the copy commits, which tells the floor. */
static void
copy_announce(Node *node)
{
	Join	   *join = &node->join;
	Wal			mark = {.kind = WAL_MARK};

	join->xid = node->next_xid++;
	versions_put(node, join->xid, COPIED, 1, 1);
	node->versions[join->xid].synced = true;
	node->shared.catalog = join->catalog;
	memcpy(node->shared.required, join->vector, sizeof(join->vector));
	join->barrier = wal_insert(node, &mark);
	wal_flush(node, join->barrier);
	join->stage = JOIN_READ;
}

/* The commit of the copy. */
static void
copy_commit(Node *node)
{
	Join	   *join = &node->join;
	Wal			record = {.kind = WAL_COPY, .xid = join->xid, .stamp = join->stamp,
		.time = node_clock(node)};
	Op			op = {.kind = OP_ADMIT, .key = node->index};

	if (PLANTED(late_admission))
	{
		Node	   *sponsor = &world.nodes[join->sponsor];

		join->catalog.members[node->index] = MEMBER_ADMITTED;
		if (sponsor->catalog.members[node->index] == MEMBER_FREE && sponsor->up)
			(void) local_commit(sponsor, &op, 1);
	}
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			join->rows[t][k].xid = join->xid;
			node->disk.rows[t][k] = node->cells[t][k].row = join->rows[t][k];
			winner_find(t, k, join->vector, &node->base_top[t][k]);
		}
	}
	memcpy(node->top, node->base_top, sizeof(node->top));
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		uint32_t	seq = join->vector[i];

		node->base_vector[i] = node->wal_vector[i] = seq;
		if (seq > 0 && node->base_greatest < world.known[i][seq - 1]->stamp)
			node->base_greatest = world.known[i][seq - 1]->stamp;
	}
	node->wal_greatest = node->base_greatest;
	node->catalog = node->disk.catalog = join->catalog;
	memcpy(node->disk.required, join->vector, sizeof(join->vector));
	node->disk.donor = join->sponsor;
	node->disk.status = node->status = STATUS_CATCHUP;
	(void) wal_insert(node, &record);
	wal_flush(node, node->nwal);
	node->shared.wanted_generation++;
	join->stage = JOIN_DONE;
	TRACE("node %u has copied node %u", node->index, join->sponsor);
	check_copy(node);
}

/* From catchup to active: the copy is covered, and apply runs. */
static bool
catch_up(Node *node)
{
	if (node->apply.stage < APPLY_IDLE || !random_chance(&node->random, 10))
		return false;
	node->status = node->disk.status = STATUS_ACTIVE;
	TRACE("node %u is active", node->index);
	return true;
}

/* A member wants to leave. One that somebody joins by stays until that is done. */
void
leave_begin(Node *node)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		const Node *other = &world.nodes[i];

		if (other->status == STATUS_JOINING && other->join.sponsor == node->index)
			return;
	}
	if (!node->up || node->status != STATUS_ACTIVE || members_left(node) < 3)
		return;
	node->status = node->disk.status = STATUS_LEAVING;
	TRACE("node %u wants to leave", node->index);
}

/* Has a leaving node said so in its stream? Until then it is a member like any other. */
bool
leave_is_written(const Node *node)
{
	return left_at(node->index) != UINT32_MAX;
}

/* One step of leaving. */
bool
leave_step(Node *node)
{
	if (node->status != STATUS_LEAVING)
		return false;
	return leave_is_written(node) ? leave_may_go(node) : leave_write(node);
}

/* Has capture passed the barrier, so that leave_deps are what the node had there? */
static bool
leave_looked(Node *node)
{
	Wal			mark = {.kind = WAL_MARK};

	if (node->leave_barrier == 0)
	{
		node->leave_barrier = wal_insert(node, &mark);
		wal_flush(node, node->leave_barrier);
		node->leave_generation = node->shared.loaded_generation;
		memset(node->leave_deps, 0, sizeof(node->leave_deps));
		node->leave_looked = false;
	}
	if (node->shared.captured_lsn < node->leave_barrier)
		return false;
	if (!node->leave_looked)
		memcpy(node->leave_deps, node->shared.captured, sizeof(node->leave_deps));
	node->leave_looked = true;
	return true;
}

/* Say it in the stream, when every other member has applied all that this node has, and evictions are over. */
static bool
leave_write(Node *node)
{
	Op			op = {.kind = OP_LEAVE, .key = node->index};
	bool		hasty = PLANTED(hasty_leave) || PLANTED(early_farewell) || PLANTED(early_leave);
	P2pVector	wished_at;

	if (node->leave_generation != node->shared.wanted_generation)
		node->leave_barrier = 0;
	if (node->shared.loaded_generation != node->shared.wanted_generation || !leave_looked(node) ||
		(!evict_is_settled(node) && !hasty))
		return false;
	vector_build(&wished_at, node->leave_deps);
	for (uint32_t i = 0; i < world.nnodes && !hasty; i++)
	{
		const State *state = node->shared.states[i];

		if (i != node->index && node->shared.catalog.members[i] == MEMBER_ADMITTED &&
			(state == NULL || !p2p_member_has_met(state->ack, &wished_at)))
			return false;
	}
	(void) local_commit(node, &op, 1);
	node->leave_barrier = 0;
	TRACE("node %u leaves", node->index);
	return true;
}

/* May it go? When every other member has said that it stores the leave. */
static bool
leave_may_go(Node *node)
{
	P2pVector	deps;
	uint32_t	seq = left_at(node->index);

	if (!leave_looked(node))
		return false;
	vector_build(&deps, node->leave_deps);
	if (PLANTED(early_farewell))
		p2p_vector_clear(&deps);
	for (uint32_t i = 0; i < world.nnodes && !PLANTED(early_leave); i++)
	{
		const State *state = node->shared.states[i];

		if (i == node->index || node->shared.catalog.members[i] != MEMBER_ADMITTED)
			continue;
		if (state == NULL || (state->phase < STATUS_ACTIVE && !PLANTED(early_farewell)) ||
			!p2p_member_has_leave(state->stored, &world.origins[node->index], seq, &deps))
			return false;
	}
	node->status = STATUS_GONE;
	node->up = false;
	TRACE("node %u is gone", node->index);
	return true;
}
