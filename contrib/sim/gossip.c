/*
 * gossip.c
 *	  The model of src/pg/gossip.c, states.c, stability.c: what members say of
 *	  themselves, what follows from it, and what is dropped then.
 *
 * A state does not change once it is made, so that messages carry pointers. It
 * goes round by way of anybody. Acks ripen by core's rules.
 */
#include "sim.h"

#include <string.h>

#include "p2p_clock.h"

static void state_publish(Node *node);
static bool copy_is_covered(const Node *node);
static void gossip_send(Node *node, uint32_t to, const Message *request);
static void state_hear(Node *node, const State *state);
static void clock_step(Node *node);
static void versions_trim(Node *node);
static bool stable_vector(Node *node, P2pVector *stable);

/* The worker ends, with all that it has heard. */
void
gossip_stop(Node *node)
{
	memset(&node->gossip, 0, sizeof(node->gossip));
	memset(node->gossip.source, NONE, sizeof(node->gossip.source));
	for (uint32_t i = 0; i < MAX_NODES; i++)
		p2p_ack_init(&node->acks[i]);
}

/* One step: something of what the worker's loop does. */
bool
gossip_step(Node *node)
{
	uint32_t	peer = random_below(&node->random, world.nnodes);

	if (node->status < STATUS_CATCHUP)
		return false;
	if (node->shared.loaded_generation != node->shared.wanted_generation)
	{
		members_load(node);
		return true;
	}
	log_open_all(node);
	evict_freeze(node);
	if (random_chance(&node->random, node->talk_chance))
		state_publish(node);
	if (random_chance(&node->random, node->talk_chance) && peer != node->index &&
		node->shared.catalog.members[peer] == MEMBER_ADMITTED)
		gossip_send(node, peer, NULL);
	if (random_chance(&node->random, node->talk_chance))
		stability_step(node);
	if (random_below(&node->random, 800) < node->trim_chance)
	{
		P2pVector	held;

		if (node->shared.loaded_generation == node->shared.wanted_generation &&
			stable_vector(node, &held))
			log_trim(node, &held);
		versions_trim(node);
	}
	if (random_chance(&node->random, 40))
	{
		if (random_chance(&node->random, 40))
			pull_plan(node);
		for (peer = 0; peer < world.nnodes; peer++)
		{
			if (peer != node->index)
				pull_request(node, peer);
		}
	}
	if (random_chance(&node->random, 50))
		(void) pull_commit(node, true);
	return true;
}

/* Make this node's state anew. */
static void
state_publish(Node *node)
{
	Shared	   *shared = &node->shared;
	static const uint32_t nothing[MAX_NODES];
	State	   *state = arena_take(sizeof(State));
	const State *old = shared->states[node->index];
	uint64_t	known = old != NULL && old->counter > shared->heard_self ? old->counter :
		shared->heard_self;
	uint32_t	ack[MAX_NODES];

	if (!node->shared.capture_ready || (old != NULL && random_chance(&node->random, 50)))
		return;
	memcpy(ack, PLANTED(early_ack) ? node->wal_vector : shared->captured, sizeof(ack));
	state->node = node->index;
	state->phase = node->status;
	state->counter = known + 1;
	if (node_clock(node) > 0 && (uint64_t) node_clock(node) > state->counter)
		state->counter = (uint64_t) node_clock(node);
	state->stored = vector_keep(shared->stored);
	state->ack = vector_keep(copy_is_covered(node) || PLANTED(early_join_ack) ? ack : nothing);
	shared->states[node->index] = state;
}

/* Do the logs hold what the copy that this node began with covers? */
static bool
copy_is_covered(const Node *node)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		P2pMemberLog log = member_log(node, i);

		if (i != node->index && !p2p_member_copy_is_covered(&log))
			return false;
	}
	return true;
}

/* Push what is known, or answer a push. */
static void
gossip_send(Node *node, uint32_t to, const Message *request)
{
	Message		m = {.kind = request == NULL ? MESSAGE_GOSSIP : MESSAGE_GOSSIP_REPLY,
		.from = node->index, .to = (uint8_t) to};

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i == node->index || node->shared.catalog.members[i] == MEMBER_ADMITTED)
			m.states[i] = node->shared.states[i];
	}
	m.asked_at = request == NULL ? node_clock(node) : request->asked_at;
	m.time = node_clock(node);
	message_send(&m);
}

/* Take a push or its answer. */
void
gossip_receive(Node *node, const Message *m)
{
	if (node->status < STATUS_CATCHUP || node->shared.catalog.members[m->from] == MEMBER_FREE)
		return;
	if (node->shared.catalog.members[m->from] == MEMBER_EVICTED)
	{
		evict_refuse(node, m->from);
		return;
	}
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (m->states[i] != NULL)
			state_hear(node, m->states[i]);
	}
	if (m->kind == MESSAGE_GOSSIP)
		gossip_send(node, m->from, m);
	else
	{
		node->shared.offsets[m->from] = p2p_clock_offset(m->asked_at, m->time, node_clock(node));
		node->shared.offset_known[m->from] = true;
		clock_step(node);
	}
}

/* Take a state if it is a member's and newer than what is known. */
static void
state_hear(Node *node, const State *state)
{
	Shared	   *shared = &node->shared;
	const State *known = shared->states[state->node];

	if (state->node == node->index)
	{
		if (state->counter > shared->heard_self)
			shared->heard_self = state->counter;
		return;
	}
	if (shared->catalog.members[state->node] != MEMBER_ADMITTED)
		return;
	if (known != NULL && state->counter <= known->counter)
		return;
	shared->states[state->node] = state;
	if (node->gossip.over_relay[state->node])
		p2p_relay_expect(&node->gossip.trust[state->node],
						 p2p_vector_get(state->stored, &world.origins[state->node]),
						 node->logs[state->node].cursor.seq, world.tick);
}

/* Reckon group time anew. */
static void
clock_step(Node *node)
{
	int64_t		offsets[MAX_NODES];
	uint32_t	n = 0;

	offsets[n++] = 0;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != node->index && node->shared.catalog.members[i] == MEMBER_ADMITTED &&
			node->shared.offset_known[i])
			offsets[n++] = node->shared.offsets[i];
	}
	node->shared.group_offset = p2p_clock_upper_median(offsets, n);
}

/* Find out what is stable, and publish it. */
void
stability_step(Node *node)
{
	Shared	   *shared = &node->shared;
	P2pVector	own;
	P2pVector	stable;
	bool		news = memcmp(node->gossip.ripe_at, shared->captured, sizeof(shared->captured)) != 0;

	if (news)
	{
		vector_build(&own, shared->captured);
		p2p_ack_hear(&node->acks[node->index], &world.origins[node->index], &own);
		memcpy(node->gossip.ripe_at, shared->captured, sizeof(shared->captured));
	}
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		const State *state = shared->states[i];

		if (i != node->index && state != NULL && state != node->gossip.seen[i])
		{
			P2pVector	ack;

			news = true;
			node->gossip.seen[i] = state;
			ack.count = state->ack->count;
			memcpy(ack.entries, state->ack->entries, ack.count * sizeof(P2pVectorEntry));
			p2p_ack_hear(&node->acks[i], &world.origins[i], &ack);
		}
	}
	if (!news && random_chance(&node->random, 70))
		return;
	if (shared->loaded_generation != shared->wanted_generation || !stable_vector(node, &stable))
		return;
	check_stable(node, &stable);
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		uint32_t	seq = vector_seq(&stable, i);

		if (shared->catalog.members[i] != MEMBER_FREE && shared->stable[i] < seq)
			shared->stable[i] = seq;
	}
}

/* The minimum over all members that count. */
static bool
stable_vector(Node *node, P2pVector *stable)
{
	static P2pAck unripe[MAX_NODES];
	const P2pAck *acks[MAX_NODES];
	uint32_t	n = 0;
	bool		settled = evict_is_settled(node) || PLANTED(early_drop);

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		P2pAck	   *ack = &node->acks[i];
		/* what capture has read is durable; what is applied may be lost in a crash, and come again */
		uint32_t	applied = node->shared.captured[i];

		if (node->shared.catalog.members[i] != MEMBER_ADMITTED &&
			(node->shared.catalog.members[i] != MEMBER_EVICTED || settled))
			continue;
		if (PLANTED(gossip_admission) && i != node->index && node->shared.states[i] == NULL)
			continue;
		(void) p2p_ack_ripen(ack, &world.origins[i], applied);
		acks[n] = ack;
		if (PLANTED(immature_acks) && (ack->has_waiting || ack->has_newest))
		{
			unripe[n].has_mature = true;
			unripe[n].mature = ack->has_newest ? ack->newest : ack->waiting;
			acks[n] = &unripe[n];
		}
		n++;
	}
	if (n == 0)
		return false;
	p2p_stable_vector(acks, n, stable);
	return true;
}

/* Remove leading version entries that are stable, below what capture has accounted for. */
static void
versions_trim(Node *node)
{
	const Shared *shared = &node->shared;
	bool		copies_stable = true;

	for (uint32_t i = 0; i < world.nnodes; i++)
		copies_stable &= i == node->index || shared->required[i] <= shared->stable[i];
	while (node->trimmed_xid + 4 <= shared->captured_below)
	{
		for (uint32_t xid = node->trimmed_xid; xid < node->trimmed_xid + 4; xid++)
		{
			const VersionEntry *entry = &node->versions[xid];

			if (xid >= node->nversions || entry->origin == NONE)
				continue;
			if (entry->origin == COPIED ? !copies_stable :
				entry->seq > shared->stable[entry->origin])
				return;
		}
		for (uint32_t xid = node->trimmed_xid; xid < node->trimmed_xid + 4; xid++)
		{
			if (xid < node->nversions)
				node->versions[xid].origin = NONE;
		}
		node->trimmed_xid += 4;
	}
}
