/*
 * log.c
 *	  The model of the change logs, of src/pg/pull.c and of src/pg/serve.c.
 *
 * A batch is made once, by its origin, and never changes; the logs of all nodes
 * point to the same ones. What a log holds is [first, count), of which
 * [first, synced) is durable. Where the next batch has to begin is core's cursor.
 *
 * Apply commits from what is written, with a note of its batch in the WAL (apply.c). So a log
 * that is opened gets back what it has lost and the WAL has noted (src/pg/pull_refill.c).
 */
#include "sim.h"

#include <string.h>

#include "p2p_member.h"
#include "p2p_plan.h"

#define PENALTY 300				/* ticks */
#define SILENCE 400				/* a peer that did not answer is not planned with for so long */
#define PATIENCE 150			/* before a PULL is given up */
#define RELAY_PATIENCE 400
#define FANOUT 2				/* so that small groups have relays, too */
#define SLOW_SYNC 400
#define SMALL 2					/* operations of a transaction that comes out the same again */

static void hash_make(Batch *batch);
static void cursor_find(Log *log);
static void tail_lose(Node *node, Log *log);
static bool is_open(const Node *node, uint32_t peer);
static void take_batch(Node *node, uint32_t peer, Batch *batch);
static void notes_put_back(Node *node, const bool *opened);

/* Append a batch behind the cursor. One of the own log gets its hash here. */
void
log_append(Node *node, Log *log, Batch *batch)
{
	if (log == &node->logs[node->index])
	{
		memcpy(batch->previous, log->cursor.hash, P2P_HASH_SIZE);
		hash_make(batch);
	}
	if (p2p_cursor_judge(&log->cursor, &batch->span) != P2P_ARRIVAL_NEXT)
		violation("dense: batch %u of node %u does not follow %u on node %u",
				  (uint32_t) batch->span.first_seq, batch->origin, (uint32_t) log->cursor.seq,
				  node->index);
	if (log->count == MAX_SEQ)
		violation("limit: the log of node %u on node %u is full", batch->origin, node->index);
	log->batches[log->count++] = batch;
	p2p_cursor_advance(&log->cursor, &batch->span, batch->hash);
}

/* A hash of all that matters. The model needs no cryptography. */
static void
hash_make(Batch *batch)
{
	Random		mix = {0};

	memcpy(&mix.state, batch->previous, sizeof(mix.state));
	for (uint32_t i = 0; i < batch->count; i++)
	{
		const Captured *t = batch->transactions[i];

		mix.state += t->seq * 31 + (uint64_t) t->stamp + ((uint64_t) t->local->number << 40);
		mix.state = random_next(&mix);
		for (uint32_t d = 0; d < t->deps->count; d++)
		{
			mix.state += t->deps->entries[d].seq * 31 + t->deps->entries[d].origin.id.bytes[0];
			mix.state = random_next(&mix);
		}
	}
	for (size_t i = 0; i < P2P_HASH_SIZE; i += 8)
	{
		uint64_t	word = random_next(&mix);

		memcpy(batch->hash + i, &word, 8);
	}
}

/* Find the cursor again after the log was cut. */
static void
cursor_find(Log *log)
{
	p2p_cursor_init(&log->cursor);
	if (log->count > log->first)
	{
		const Batch *last = log->batches[log->count - 1];

		log->cursor.started = true;
		log->cursor.seq = last->span.last_seq;
		memcpy(log->cursor.hash, last->hash, P2P_HASH_SIZE);
	}
	else
		log->first = log->count = log->synced = 0;
}

/*
 * Bring the own log and its position to what a start would find, or, as a step
 * of capture's, make both durable.
 */
void
log_recover_own(Node *node, bool survives)
{
	Log		   *log = &node->logs[node->index];
	Position   *position = &node->disk.position;
	uint32_t	registered = world.nregistered[node->index];

	if (node->capture.stage == CAPTURE_APPENDED && survives)
		*position = node->capture.position;
	log->count = position->there ? position->batches : 0;
	log->synced = log->count;
	for (uint32_t i = log->first; i < log->count; i++)
	{
		if (log->batches[i]->span.last_seq > registered)
			check_register(node, log->batches[i]);
	}
	cursor_find(log);
	if (node->shared.stored[node->index] > position->seq)
		node->shared.stored[node->index] = position->seq;
}

/* What a crash leaves of all logs. */
void
log_recover(Node *node, bool power)
{
	if (node->capture.stage != CAPTURE_DOWN)
		log_recover_own(node, !power || random_chance(&node->random, 50));
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		Log		   *log = &node->logs[i];

		if (i == node->index)
			continue;
		if (power)
			tail_lose(node, log);
		log->open = false;
	}
}

/* What was not synced is gone, or only some of it. */
static void
tail_lose(Node *node, Log *log)
{
	log->count = log->synced + random_below(&node->random, log->count - log->synced + 1);
	log->synced = log->count;
	cursor_find(log);
}

/* The gossip worker ended while the server runs: what it wrote is found again, unless a sync failed. */
void
log_reopen(Node *node, bool failed)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i == node->index)
			continue;
		if (failed)
			tail_lose(node, &node->logs[i]);
		node->logs[i].open = false;
	}
}

/*
 * Open the logs of members that are new here, make what is found durable, have back what was
 * noted, and publish where they end.
 */
void
log_open_all(Node *node)
{
	Shared	   *shared = &node->shared;
	bool		opened[MAX_NODES] = {false};
	bool		any = false;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		Log		   *log = &node->logs[i];

		if (i == node->index || shared->catalog.members[i] == MEMBER_FREE || log->open)
			continue;
		log->open = opened[i] = any = true;
		log->synced = log->count;
		shared->opened[i]++;
	}
	if (any)
		notes_put_back(node, opened);
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		const Log  *log = &node->logs[i];

		if (!opened[i])
			continue;
		check_stored(node, i, node->wal_vector[i]);
		shared->stored[i] = (uint32_t) log->cursor.seq;
		if (shared->noted_seq[i] > log->cursor.seq)
			shared->noted_seq[i] = (uint32_t) log->cursor.seq;
		if (PLANTED(assumed_floor) && log->count > 0 &&
			shared->noted < log->batches[log->count - 1]->last_stamp)
			shared->noted = log->batches[log->count - 1]->last_stamp;
	}
	shared->notes_known = true;
}

/* Append what the WAL has notes of, as far as it is kept, where it comes next; and sync it. */
static void
notes_put_back(Node *node, const bool *opened)
{
	for (uint32_t i = node->disk.confirmed; i < node->nwal; i++)
	{
		Batch	   *batch = node->wal[i].batch;
		P2pMemberLog member;
		Log		   *log;

		if (node->wal[i].kind != WAL_BATCH || !opened[batch->origin])
			continue;
		log = &node->logs[batch->origin];
		member = member_log(node, batch->origin);
		if (p2p_member_is_complete(&member, log->cursor.seq) ||
			(!log->cursor.started && batch->span.first_seq != 1) ||
			p2p_cursor_judge(&log->cursor, &batch->span) != P2P_ARRIVAL_NEXT ||
			(log->cursor.started &&
			 memcmp(batch->previous, log->cursor.hash, P2P_HASH_SIZE) != 0))
			continue;
		log_append(node, log, batch);
		log->synced = log->count;
		check_batch_taken(node, batch);
		check_cut(node, batch);
		TRACE("node %u puts back %u..%u of node %u", node->index, (uint32_t) batch->span.first_seq,
			  (uint32_t) batch->span.last_seq, batch->origin);
	}
}

/* May a batch be served before it is synced, since it would come out the same again? */
bool
batch_is_out(const Batch *batch)
{
	return batch->count == 1 && batch->transactions[0]->local->nops <= SMALL;
}

/* Up to here the log is durable. */
uint32_t
log_synced_seq(const Log *log)
{
	return log->synced > log->first ? (uint32_t) log->batches[log->synced - 1]->span.last_seq : 0;
}

/* Return a transaction that the log holds, or NULL. */
Captured *
log_find(const Log *log, uint32_t seq)
{
	const Batch *b = log_batch(log, seq);

	return b == NULL ? NULL : b->transactions[seq - b->span.first_seq];
}

/* The same of its batch. */
Batch *
log_batch(const Log *log, uint32_t seq)
{
	uint32_t	low = log->first;
	uint32_t	high = log->count;

	while (low < high)
	{
		uint32_t	middle = (low + high) / 2;
		Batch	   *b = log->batches[middle];

		if (seq < b->span.first_seq)
			high = middle;
		else if (seq > b->span.last_seq)
			low = middle + 1;
		else
			return b;
	}
	return NULL;
}

/* First seq that the log still holds; 0 = none. */
uint32_t
log_oldest(const Log *log)
{
	return log->first < log->count ? (uint32_t) log->batches[log->first]->span.first_seq : 0;
}

/* Drop the batches that are stable, and that the members of now do not ask for; one stays. */
void
log_trim(Node *node, const P2pVector *held)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		Log		   *log = &node->logs[i];
		uint32_t	limit = node->shared.stable[i];

		if (vector_seq(held, i) < limit && !PLANTED(late_trim))
			limit = vector_seq(held, i);
		while (log->first + 1 < log->synced && log->batches[log->first]->span.last_seq <= limit)
			log->first++;
	}
}

/* What core's rules about joining and leaving want to know of a log. */
P2pMemberLog
member_log(const Node *node, uint32_t origin)
{
	return (P2pMemberLog) {
		.stored_seq = node->shared.stored[origin],
		.applied_seq = node->shared.applied[origin],
		.required_seq = node->shared.required[origin],
		.left = node->shared.catalog.members[origin] == MEMBER_LEFT,
		.left_seq = node->shared.catalog.left_seq[origin]
	};
}

/* The relay between a node and an origin, where `set` has a bit for each member; NONE: there is none. */
static uint8_t
relay_among(uint32_t set, uint32_t self, uint32_t origin)
{
	P2pOrigin	members[MAX_NODES];
	uint8_t		nodes[MAX_NODES];
	uint32_t	n = 0;
	uint32_t	relay;

	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		if ((set >> i & 1) == 0)
			continue;
		members[n] = world.origins[i];
		nodes[n++] = (uint8_t) i;
	}
	if (!p2p_relay_find(members, n, &world.origins[self], &world.origins[origin], FANOUT, &relay))
		return NONE;
	return nodes[relay];
}

/*
 * The relay between this node and an origin, if it may be asked; else NONE. It follows from
 * who is a member alone, so it is reckoned once for each such set.
 */
static uint8_t
relay_of(Node *node, uint32_t origin)
{
	static uint8_t relays[1 << MAX_NODES][MAX_NODES][MAX_NODES];	/* 0 = not known yet */
	P2pRelayTrust *trust = &node->gossip.trust[origin];
	uint64_t	have_seq = node->logs[origin].cursor.seq;
	uint32_t	set = 0;
	uint8_t    *known;

	if (node->gossip.over_relay[origin])
		(void) p2p_relay_is_late(trust, have_seq, world.tick, RELAY_PATIENCE);
	if (node->status == STATUS_CATCHUP || !p2p_relay_is_trusted(trust, world.tick))
		return NONE;
	for (uint32_t i = 0; i < world.nnodes; i++)
		set |= (uint32_t) (node->shared.catalog.members[i] == MEMBER_ADMITTED) << i;
	known = &relays[set][node->index][origin];
	if (*known == 0)
		*known = (uint8_t) (relay_among(set, node->index, origin) - NONE + 1);
	return (uint8_t) (*known + NONE - 1);
}

/* Choose for each origin whom to ask. */
void
pull_plan(Node *node)
{
	P2pPlanPeer peers[MAX_NODES];
	uint8_t		nodes[MAX_NODES];
	P2pVector	mine;

	for (uint32_t origin = 0; origin < world.nnodes; origin++)
	{
		const Log  *log = &node->logs[origin];
		uint8_t		relay = NONE;
		uint32_t	n = 0;
		uint32_t	choice;
		uint32_t	seqs[MAX_NODES] = {0};
		P2pMemberLog member;
		bool		donor_only = !PLANTED(any_donor) && node->status == STATUS_CATCHUP &&
			log->cursor.seq < node->shared.required[origin];

		node->gossip.source[origin] = NONE;
		if (origin == node->index || !log->open)
			continue;
		member = member_log(node, origin);
		if (p2p_member_is_complete(&member, log->cursor.seq))
			continue;
		relay = relay_of(node, origin);
		node->gossip.over_relay[origin] = false;
		for (uint32_t peer = 0; peer < world.nnodes; peer++)
		{
			if (peer == node->index || !is_open(node, peer) ||
				node->gossip.silent[peer] > world.tick ||
				node->gossip.penalty[origin][peer] > world.tick ||
				(donor_only && peer != node->disk.donor))
				continue;
			peers[n].origin = world.origins[peer];
			peers[n].reachable = true;
			peers[n].rtt_us = world.rtt[node->index][peer];
			peers[n].stored = node->shared.states[peer] == NULL ? NULL :
				node->shared.states[peer]->stored;
			node->gossip.over_relay[origin] |= peer == relay;
			nodes[n++] = (uint8_t) peer;
		}
		if (node->gossip.over_relay[origin])
		{
			node->gossip.source[origin] = relay;
			continue;
		}
		p2p_relay_forget(&node->gossip.trust[origin]);
		seqs[origin] = (uint32_t) log->cursor.seq;
		vector_build(&mine, seqs);
		p2p_plan_pulls(peers, n, &world.origins[origin], 1, &mine, &choice);
		if (choice != P2P_PLAN_NOBODY)
			node->gossip.source[origin] = nodes[choice];
	}
}

/* Is this node linked with a peer? Not with one that is gone. */
static bool
is_open(const Node *node, uint32_t peer)
{
	return node->shared.catalog.members[peer] == MEMBER_ADMITTED ||
		(node->shared.catalog.members[peer] == MEMBER_EVICTED && PLANTED(open_evicted));
}

/* Ask a peer for all that it was chosen for. */
void
pull_request(Node *node, uint32_t peer)
{
	Message		m;
	bool		any = false;

	for (uint32_t origin = 0; origin < world.nnodes; origin++)
		any |= node->gossip.source[origin] == peer;
	if (!any || !is_open(node, peer))
		return;
	if (node->gossip.asked[peer] != 0)
	{
		if (world.tick < node->gossip.asked[peer] + PATIENCE)
			return;
		node->gossip.asked[peer] = 0;
		node->gossip.silent[peer] = world.tick + random_below(&node->random, SILENCE);
		return;
	}
	m = (Message) {.kind = MESSAGE_PULL, .from = node->index, .to = (uint8_t) peer};
	for (uint32_t origin = 0; origin < world.nnodes; origin++)
	{
		const Log  *log = &node->logs[origin];

		if (node->gossip.source[origin] != peer)
			continue;
		m.wanted[origin] = true;
		m.after[origin] = (uint32_t) log->cursor.seq;
		m.from_start[origin] = !log->cursor.started &&
			(node->shared.required[origin] > 0 || node->shared.applied[origin] > 0);
	}
	node->gossip.asked[peer] = world.tick;
	message_send(&m);
}

/* Up to here an origin is served: what is durable; and of the own, what comes out the same again. */
static uint32_t
served_seq(const Node *node, uint32_t origin)
{
	const Log  *log = &node->logs[origin];

	if (PLANTED(served_unsynced) ||
		(origin == node->index && node->capture.stage == CAPTURE_APPENDED && node->capture.out))
		return (uint32_t) log->cursor.seq;
	return node->shared.stored[origin];
}

/* Answer a PULL. */
void
pull_serve(Node *node, const Message *request)
{
	Message		m = {.kind = MESSAGE_BATCHES, .from = node->index, .to = request->from};
	uint32_t	each = 1 + random_below(&node->random, 3);

	if (node->status < STATUS_CATCHUP)
		return;
	if (node->shared.catalog.members[request->from] == MEMBER_EVICTED)
		evict_refuse(node, request->from);
	if (node->shared.catalog.members[request->from] != MEMBER_ADMITTED)
		return;
	for (uint32_t origin = 0; origin < world.nnodes; origin++)
	{
		const Log  *log = &node->logs[origin];
		uint32_t	served = served_seq(node, origin);
		uint32_t	end = log->count;
		uint32_t	i = log->first;
		uint32_t	left = each;

		if (!request->wanted[origin] || served <= request->after[origin])
			continue;
		if (!request->from_start[origin])
		{
			while (i < end && log->batches[i]->span.last_seq <= request->after[origin])
				i++;
			if (i < end && log->batches[i]->span.first_seq != request->after[origin] + 1)
			{
				m.gone[origin] = true;
				continue;
			}
		}
		for (; i < end && left > 0 && m.nbatches < MAX_REPLY; i++, left--)
		{
			if (log->batches[i]->span.last_seq > served)
				break;
			m.batches[m.nbatches++] = log->batches[i];
		}
	}
	message_send(&m);
}

/* Take a reply's batches. */
void
pull_receive(Node *node, const Message *reply)
{
	node->gossip.asked[reply->from] = 0;
	node->gossip.silent[reply->from] = 0;
	if (!is_open(node, reply->from) && !PLANTED(open_replies))
		return;					/* its link is closed */
	for (uint32_t origin = 0; origin < world.nnodes; origin++)
	{
		if (reply->gone[origin])
			node->gossip.penalty[origin][reply->from] = world.tick + PENALTY;
	}
	for (uint32_t i = 0; i < reply->nbatches; i++)
		take_batch(node, reply->from, reply->batches[i]);
}

/* Take one batch if it is the next of its log. */
static void
take_batch(Node *node, uint32_t peer, Batch *batch)
{
	Log		   *log = &node->logs[batch->origin];
	P2pMemberLog member = member_log(node, batch->origin);

	if (batch->origin == node->index || !log->open)
		return;
	switch (p2p_cursor_judge(&log->cursor, &batch->span))
	{
		case P2P_ARRIVAL_DUPLICATE:
			return;
		case P2P_ARRIVAL_GAP:
			node->gossip.penalty[batch->origin][peer] = world.tick + PENALTY;
			return;
		case P2P_ARRIVAL_NEXT:
			break;
	}
	if (log->cursor.started ? memcmp(batch->previous, log->cursor.hash, P2P_HASH_SIZE) != 0 :
		!p2p_member_may_begin(&member, &batch->span, batch->previous))
	{
		if (log->cursor.started)
			violation("chain: batch %u..%u of node %u does not continue its log on node %u",
					  (uint32_t) batch->span.first_seq, (uint32_t) batch->span.last_seq,
					  batch->origin, node->index);
		node->gossip.penalty[batch->origin][peer] = world.tick + PENALTY;
		return;
	}
	log_append(node, log, batch);
	check_batch_taken(node, batch);
	check_cut(node, batch);
	if (!node->gossip.dirty)
		node->gossip.dirty_since = world.tick;
	node->gossip.dirty = true;
}

/*
 * Make durable what was appended, and publish it; true if there was anything. slowly: a slow disk may
 * still be at it.
 */
bool
pull_commit(Node *node, bool slowly)
{
	if (!node->gossip.dirty ||
		(slowly && node->armed == ARM_NOTED && !world.ending &&
		 world.tick < node->gossip.dirty_since + SLOW_SYNC))
		return false;
	node->gossip.dirty = false;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		Log		   *log = &node->logs[i];

		if (i == node->index || !log->open)
			continue;
		log->synced = log->count;
		node->shared.stored[i] = (uint32_t) log->cursor.seq;
	}
	return true;
}
