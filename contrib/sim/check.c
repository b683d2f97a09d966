/*
 * check.c
 *	  What must hold, looked at after every step that could break it, and at the
 *	  end. main.c's head lists all of it.
 *
 * The checker knows what the system under test may not know: which transaction
 * wrote a row (Local), what its node had applied in the order of its WAL, what
 * has become durable anywhere. Nothing here is read by the model.
 */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "p2p_clock.h"
#include "p2p_stamp.h"

static void check_fork(const Node *node, const Batch *batch);
static bool touches(const Local *local, uint32_t table, uint32_t key);
static const uint32_t *durable_vector(const Node *node);
static void check_key(const Node *node, uint32_t table, uint32_t key, const char *when);
static void check_keys(const Node *node, const Local *local, const char *when);
static bool is_greater(const Local *a, const Local *b);
static bool is_gone_for(const Node *node, uint32_t which);
static uint32_t target_of(uint32_t origin);

/* Stop the run. */
void
violation(const char *format, ...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(world.violation, sizeof(world.violation), format, args);
	va_end(args);
	longjmp(world.stop, 1);
}

/* Does a transaction say anything of this key? */
static bool
touches(const Local *local, uint32_t table, uint32_t key)
{
	for (uint32_t i = 0; i < local->nops; i++)
	{
		const Op   *op = &local->ops[i];

		if (op->kind >= OP_ADMIT || op->table != table)
			continue;
		if (op->kind == OP_TRUNCATE || op->key == key || (op->kind == OP_MOVE && op->key2 == key))
			return true;
	}
	return false;
}

/* Do two transactions touch the same key? */
bool
locals_meet(const Local *a, const Local *b)
{
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (touches(a, t, k) && touches(b, t, k))
				return true;
		}
	}
	return false;
}

/* What a transaction leaves of a key that it touches. */
bool
local_result(const Local *local, uint32_t table, uint32_t key, bool *exists, uint32_t *value)
{
	bool		touched = false;

	for (uint32_t i = 0; i < local->nops; i++)
	{
		const Op   *op = &local->ops[i];

		if (op->kind >= OP_ADMIT || op->table != table)
			continue;
		if (op->kind == OP_TRUNCATE || (op->key == key && (op->kind == OP_DELETE || op->kind == OP_MOVE)))
		{
			touched = true;
			*exists = false;
		}
		else if ((op->kind == OP_MOVE && op->key2 == key) ||
				 (op->key == key && op->kind != OP_MOVE))
		{
			touched = true;
			*exists = true;
			*value = op->value;
		}
	}
	return touched;
}

/* Is a's version the greater? */
static bool
is_greater(const Local *a, const Local *b)
{
	return p2p_version_compare(&a->version, &b->version) > 0;
}

/* Note that a transaction is applied, or committed and captured, on a node: before, it has no place. */
void
top_raise(Node *node, Local *local)
{
	if (local->version.stamp == 0)
		return;
	for (uint32_t i = 0; i < local->nops; i++)
	{
		const Op   *op = &local->ops[i];

		if (op->kind >= OP_ADMIT)
			continue;
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			Local	  **top = &node->top[op->table][k];

			if (touches(local, op->table, k) && (*top == NULL || is_greater(local, *top)))
				*top = local;
		}
	}
}

/* A local commit: what its stamp will have to exceed. */
void
check_local_commit(Node *node, Local *local)
{
	local->above_applied = node->wal_greatest;
	local->above_begun = 0;
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (touches(local, t, k) && local->above_begun < node->shared.begun[t][k])
				local->above_begun = node->shared.begun[t][k];
		}
	}
}

/* A batch is stored somewhere, durably or not: from now on there is no other. */
static void
check_fork(const Node *node, const Batch *batch)
{
	for (uint32_t i = 0; i < batch->count; i++)
	{
		Captured   *t = batch->transactions[i];
		uint32_t	n = world.nknown[batch->origin];

		if (t->seq > n + 1)
			violation("dense: node %u stores seq %u of node %u, anybody has %u", node->index,
					  t->seq, batch->origin, n);
		if (t->seq <= n)
		{
			const Batch *known = world.batches[batch->origin][t->seq - 1];

			if (memcmp(known->hash, batch->hash, P2P_HASH_SIZE) != 0)
				violation("fork: seq %u of node %u comes in %u..%u with stamp %ld on node %u, before in %u..%u with stamp %ld",
						  t->seq, batch->origin, (uint32_t) batch->span.first_seq,
						  (uint32_t) batch->span.last_seq, (long) t->stamp, node->index,
						  (uint32_t) known->span.first_seq, (uint32_t) known->span.last_seq,
						  (long) world.known[batch->origin][t->seq - 1]->stamp);
			continue;
		}
		world.known[batch->origin][n] = t;
		world.batches[batch->origin][n] = batch;
		world.nknown[batch->origin]++;
	}
}

/* A batch of the node's own has become durable: nothing of it may ever be otherwise. */
void
check_register(const Node *node, const Batch *batch)
{
	uint32_t	origin = node->index;

	check_fork(node, batch);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		Captured   *t = batch->transactions[i];
		Local	   *local = t->local;
		uint32_t	n = world.nregistered[origin];

		if (t->seq <= n)
			continue;
		if (t->seq != n + 1)
			violation("dense: node %u makes seq %u durable after %u", origin, t->seq, n);
		if (local->lost || !local->flushed)
			violation("durable: seq %u of node %u was lost in a crash", t->seq, origin);
		if (local->registered)
			violation("exactly once: local %u of node %u has seqs %u and %u", local->number, origin,
					  (uint32_t) local->version.dot.seq, t->seq);
		if (local->ordinal != t->seq)
			violation("durable: seq %u of node %u is its commit number %u", t->seq, origin,
					  local->ordinal);
		for (uint32_t j = 0; j < world.nnodes; j++)
		{
			if (vector_seq(t->deps, j) != local->past[j])
				violation("deps: seq %u of node %u names seq %u of node %u, its node had applied %u",
						  t->seq, origin, vector_seq(t->deps, j), j, local->past[j]);
		}
		if (n > 0 && world.registered[origin][n - 1]->stamp >= t->stamp)
			violation("stamps: seq %u of node %u is not later than the one before", t->seq, origin);
		if (t->stamp <= local->above_applied)
			violation("stamps: seq %u of node %u has stamp %ld, but was committed after %ld was applied",
					  t->seq, origin, (long) t->stamp, (long) local->above_applied);
		if (t->stamp <= local->above_begun)
			violation("stamps: seq %u of node %u has stamp %ld, but a look-up with %ld did not see it",
					  t->seq, origin, (long) t->stamp, (long) local->above_begun);
		local->registered = true;
		local->version.stamp = t->stamp;
		local->version.dot.origin = world.origins[origin];
		local->version.dot.seq = t->seq;
		world.registered[origin][world.nregistered[origin]++] = t;
	}
}

/* A node takes a batch of another origin: is it what that has committed for sure, and the only one? */
void
check_batch_taken(const Node *node, const Batch *batch)
{
	check_fork(node, batch);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		const Captured *t = batch->transactions[i];

		if (t->local->lost || !t->local->flushed)
			violation("chain: node %u stores a seq %u of node %u that its origin has lost",
					  node->index, t->seq, batch->origin);
		t->local->is_out = true;
		t->local->version.stamp = t->stamp;
		t->local->version.dot.origin = world.origins[batch->origin];
		t->local->version.dot.seq = t->seq;
	}
}

/* A node has applied so much of an origin, or is about to: does the log, which is open, hold it? */
void
check_stored(const Node *node, uint32_t origin, uint32_t applied)
{
	if (applied > node->logs[origin].cursor.seq && applied > node->disk.required[origin])
		violation("stored: node %u has applied seq %u of node %u, its log ends with %u", node->index,
				  applied, origin, (uint32_t) node->logs[origin].cursor.seq);
}

/* Progress: each transaction of an origin, once and in order. */
void
check_progress(const Node *node, uint32_t origin, uint32_t seq)
{
	if (node->wal_vector[origin] + 1 != seq)
		violation("exactly once: node %u applies seq %u of node %u after seq %u", node->index, seq,
				  origin, node->wal_vector[origin]);
}

/* A transaction was applied: causally, above what is stable, and its keys are the greatest versions. */
void
check_applied(Node *node, Captured *t)
{
	uint32_t	origin = t->local->origin;

	if (t->seq > left_at(origin))
		violation("leave: node %u applies seq %u of node %u, which left with seq %u", node->index,
				  t->seq, origin, left_at(origin));
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != origin && t->local->past[i] > node->wal_vector[i])
			violation("causal: node %u applies seq %u of node %u before seq %u of node %u, which it depends on",
					  node->index, t->seq, origin, t->local->past[i], i);
		if (i != origin && t->local->past[i] < node->shared.stable[i])
			violation("stable: on node %u seq %u of node %u is stable, but seq %u of node %u arrives and has seen only %u",
					  node->index, node->shared.stable[i], i, t->seq, origin, t->local->past[i]);
	}
	if (t->seq <= node->shared.stable[origin])
		violation("stable: on node %u seq %u of node %u is stable before it is applied",
				  node->index, t->seq, origin);
	check_keys(node, t->local, "after an apply");
}

/* Capture has stamped a transaction: now its place is known. */
void
check_captured(Node *node, Local *local)
{
	top_raise(node, local);
	check_keys(node, local, "after a capture");
}

/* Look at all keys of a transaction. */
static void
check_keys(const Node *node, const Local *local, const char *when)
{
	for (uint32_t table = 0; table < NTABLES; table++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (touches(local, table, k))
				check_key(node, table, k, when);
		}
	}
}

/* Has a client here committed something of this key that capture has not read? */
static bool
is_unread(const Node *node, uint32_t table, uint32_t key)
{
	for (uint32_t i = node->disk.position.there ? node->disk.position.lsn : 0; i < node->nwal; i++)
	{
		const Wal  *record = &node->wal[i];

		if (record->kind == WAL_LOCAL && record->local->version.stamp == 0 &&
			touches(record->local, table, key))
			return true;
	}
	return false;
}

/* Is the row of a key what its greatest applied version left? */
static void
check_key(const Node *node, uint32_t table, uint32_t key, const char *when)
{
	const Row  *row = &node->cells[table][key].row;
	const Local *top = node->top[table][key];
	bool		exists = false;
	uint32_t	value = 0;

	if (node->cells[table][key].locked_by != 0 || top == NULL || is_unread(node, table, key))
		return;					/* a commit that is not visible yet, or not stamped */
	(void) local_result(top, table, key, &exists, &value);
	if (exists == row->exists && (!exists || value == row->value))
		return;
	violation("winner: on node %u %s key %u.%u is %s, but the greatest version there, local %u (node %u, seq %u, stamp %ld), is %s (row there: local %u)",
			  node->index, when, table, key, row->exists ? "a row" : "no row", top->number, top->origin,
			  (uint32_t) top->version.dot.seq, (long) top->version.stamp, exists ? "a row" : "a delete",
			  row->exists ? row->truth->number : 0);
}

/* A conflict is reported: had neither seen the other? */
void
check_conflict(const Node *node, const Captured *t, const P2pVersion *other)
{
	uint32_t	origin = other->dot.origin.id.bytes[0] - 1u;

	world.conflicts++;
	if (origin == t->local->origin || t->local->past[origin] >= other->dot.seq)
		violation("conflict: node %u reports one between seq %u of node %u and seq %u of node %u, which it had seen",
				  node->index, t->seq, t->local->origin, (uint32_t) other->dot.seq, origin);
}

/* What a node would have after a crash now. */
static const uint32_t *
durable_vector(const Node *node)
{
	return node->flushed > 0 ? node->wal[node->flushed - 1].vector : node->base_vector;
}

/* Something is called stable: have all members that count here applied it, durably? */
void
check_stable(const Node *node, const P2pVector *stable)
{
	for (uint32_t m = 0; m < world.nnodes; m++)
	{
		const Node *member = &world.nodes[m];
		const uint32_t *durable;

		if (node->catalog.members[m] != MEMBER_ADMITTED || member->status >= STATUS_GONE)
			continue;
		durable = durable_vector(member);
		for (uint32_t i = 0; i < stable->count; i++)
		{
			uint32_t	origin = stable->entries[i].origin.id.bytes[0] - 1u;
			uint32_t	seq = (uint32_t) stable->entries[i].seq;

			if (durable[origin] < seq)
				violation("stable: node %u takes seq %u of node %u for stable, member %u has applied %u for sure",
						  node->index, seq, origin, m, durable[origin]);
		}
	}
}

/* A tombstone goes: have all members applied it? */
void
check_dropped(const Node *node, const P2pVersion *version)
{
	uint32_t	origin = version->dot.origin.id.bytes[0] - 1u;

	for (uint32_t m = 0; m < world.nnodes; m++)
	{
		/* one that has not copied yet will copy what has this in it */
		if (node->catalog.members[m] == MEMBER_ADMITTED && world.nodes[m].status < STATUS_GONE &&
			world.nodes[m].status != STATUS_JOINING &&
			durable_vector(&world.nodes[m])[origin] < version->dot.seq)
			violation("tombstone: node %u drops that of seq %u of node %u, which member %u has not applied",
					  node->index, (uint32_t) version->dot.seq, origin, m);
	}
}

/* A transaction is begun: is its stamp one that this node believes? */
void
check_held(const Node *node, P2pStamp stamp)
{
	P2pStamp	now = node_clock(node) + node->shared.group_offset;

	if (p2p_clock_too_far_ahead(stamp, now, world.profile.max_skew_us) &&
		p2p_clock_too_far_ahead(stamp, node->shared.own_time, world.profile.max_skew_us))
		violation("held: node %u applies stamp %ld at %ld", node->index, (long) stamp, (long) now);
}

/* The seq of a node's leave, or one that is never reached. */
uint32_t
left_at(uint32_t origin)
{
	for (uint32_t i = 0; i < world.nflushed[origin]; i++)
	{
		const Local *local = world.flushed[origin][i];

		if (local->nops == 1 && local->ops[0].kind == OP_LEAVE)
			return local->ordinal;
	}
	return UINT32_MAX;
}

/* The greatest version of a key among all that a vector covers; NULL: there is none. */
void
winner_find(uint32_t table, uint32_t key, const uint32_t *vector, Local **winner)
{
	*winner = NULL;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		for (uint32_t seq = 1; seq <= vector[i] && seq <= world.nknown[i]; seq++)
		{
			Local	   *local = world.known[i][seq - 1]->local;

			if (touches(local, table, key) && (*winner == NULL || is_greater(local, *winner)))
				*winner = local;
		}
	}
}

/* A joiner's copy: exactly what its vector says? */
void
check_copy(const Node *node)
{
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (node->join.vector[i] > world.nknown[i])
			violation("copy: node %u copies seq %u of node %u, which nobody has", node->index,
					  node->join.vector[i], i);
	}
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
			check_key(node, t, k, "after the copy");
	}
}

/* Is a node no member for another any more, or not yet? */
static bool
is_gone_for(const Node *node, uint32_t which)
{
	return which != node->index && node->catalog.members[which] != MEMBER_ADMITTED;
}

/* A batch is stored: is it within what was agreed on of its origin, if that was evicted? */
void
check_cut(const Node *node, const Batch *batch)
{
	uint64_t	cuts[MAX_NODES];

	if (node->shared.catalog.members[batch->origin] == MEMBER_EVICTED &&
		evict_is_settled(node) && evict_cuts(node, cuts) &&
		batch->span.last_seq > cuts[batch->origin])
		violation("evict: node %u stores seq %u of node %u, which ended at %u", node->index,
				  (uint32_t) batch->span.last_seq, batch->origin, (uint32_t) cuts[batch->origin]);
}

/* How much of an origin all members have to apply in the end, if nobody else is evicted. */
static uint32_t
limit_of(uint32_t origin)
{
	uint32_t	left = left_at(origin);
	uint32_t	limit = 0;

	if (world.nodes[origin].status == STATUS_ACTIVE || world.nodes[origin].status == STATUS_LEAVING ||
		!is_evicted(origin))
		limit = world.nknown[origin];
	for (uint32_t n = 0; n < world.nnodes; n++)
	{
		if (world.nodes[n].status == STATUS_ACTIVE && limit < world.nodes[n].shared.stored[origin])
			limit = world.nodes[n].shared.stored[origin];
	}
	return limit < left ? limit : left;
}

/*
 * The same: of an evicted one, what any that stays has stored, up to what
 * depends on something that none of them has.
 */
static void
targets_find(uint32_t *targets)
{
	bool		moved = true;

	for (uint32_t i = 0; i < world.nnodes; i++)
		targets[i] = limit_of(i);
	while (moved)
	{
		moved = false;
		for (uint32_t i = 0; i < world.nnodes; i++)
		{
			for (uint32_t seq = 1; seq <= targets[i]; seq++)
			{
				const Local *local = world.known[i][seq - 1]->local;
				bool		reached = true;

				for (uint32_t j = 0; j < world.nnodes; j++)
					reached &= j == i || local->past[j] <= targets[j];
				if (reached)
					continue;
				targets[i] = seq - 1;
				moved = true;
			}
		}
	}
}

/* Of one origin. */
static uint32_t
target_of(uint32_t origin)
{
	static uint32_t targets[MAX_NODES];
	static uint32_t tick;
	static uint64_t seed;

	if (tick != world.tick || seed != world.seed || origin == 0)
		targets_find(targets);
	tick = world.tick;
	seed = world.seed;
	return targets[origin];
}

/* Is everything done that can be done? If not, why. */
bool
quiet(char *why, size_t size)
{
	for (uint32_t n = 0; n < world.nnodes; n++)
	{
		const Node *node = &world.nodes[n];

		if (node->status >= STATUS_GONE)
			continue;
		if (!node->up || node->status != STATUS_ACTIVE)
		{
			snprintf(why, size, "node %u is not active (status %u)", n, node->status);
			return false;
		}
		if (world.nflushed[n] != world.nregistered[n] || node->flushed != node->nwal)
		{
			snprintf(why, size, "node %u has captured %u of %u commits", n, world.nregistered[n],
					 world.nflushed[n]);
			return false;
		}
		for (uint32_t i = 0; i < MAX_SESSIONS; i++)
		{
			if (node->sessions[i].phase != SESSION_FREE || node->nqueued > 0)
			{
				snprintf(why, size, "a client of node %u has not ended", n);
				return false;
			}
		}
		for (uint32_t i = 0; i < world.nnodes; i++)
		{
			if (is_gone_for(node, i) != (world.nodes[i].status >= STATUS_GONE))
			{
				snprintf(why, size, "node %u has status %u, and is %u to node %u", i, world.nodes[i].status,
						 node->catalog.members[i], n);
				return false;
			}
			if (i != n && (node->shared.applied[i] < target_of(i) || node->apply.stage != APPLY_IDLE))
			{
				snprintf(why, size, "node %u has stored %u, applied %u of %u transactions of node %u",
						 n, node->shared.stored[i], node->shared.applied[i], target_of(i), i);
				return false;
			}
			if (node->shared.stable[i] < target_of(i))
			{
				snprintf(why, size, "on node %u only %u of %u transactions of node %u are stable",
						 n, node->shared.stable[i], target_of(i), i);
				return false;
			}
		}
	}
	return true;
}

/* All quiet: nothing lost, and all tables equal, to one another and to the greatest versions. */
void
check_end(void)
{
	uint32_t	targets[MAX_NODES];

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		targets[i] = target_of(i);
		if (world.nodes[i].status == STATUS_GONE && world.nregistered[i] < left_at(i) &&
			left_at(i) != UINT32_MAX)
			violation("durable: node %u is gone, and has taken along commits", i);
	}
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			Local	   *winner;
			bool		exists = false;
			uint32_t	value = 0;

			winner_find(t, k, targets, &winner);
			if (winner != NULL)
				(void) local_result(winner, t, k, &exists, &value);
			for (uint32_t n = 0; n < world.nnodes; n++)
			{
				const Node *node = &world.nodes[n];
				const Row  *row = &node->cells[t][k].row;

				if (node->status >= STATUS_GONE)
					continue;
				if (row->exists != exists || (exists && row->value != value))
					violation("divergence: on node %u key %u.%u is %s (value %u), it should be %s (value %u)",
							  n, t, k, row->exists ? "a row" : "no row", row->exists ? row->value : 0,
							  exists ? "a row" : "no row", exists ? value : 0);
			}
		}
	}
}
