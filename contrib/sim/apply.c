/*
 * apply.c
 *	  The model of src/pg/apply.c: which transaction is next, and its frame.
 *
 * Every step of a transaction is one of the scheduler's: between any two of
 * them clients, capture and crashes may come. Two notes go into the WAL (src/pg/walnote.h): with which
 * stamp it looks, before it does; and before the commit its batch, if the log may yet lose that.
 */
#include "sim.h"

#include <string.h>

#include "p2p_follow.h"

#define DEADLOCK_PATIENCE 60
#define MAX_NOTED 2				/* transactions of a batch that is noted */

static bool is_ready(const Node *node);
static bool transaction_choose(Node *node);
static bool is_held(Node *node, P2pStamp stamp);
static uint64_t applied_seq_of(void *arg, const P2pOrigin *origin);
static void transaction_begin(Node *node, uint32_t origin, Captured *t);
static void floor_note(Node *node, P2pStamp stamp);
static void transaction_secure(Node *node);
static void batch_note(Node *node, Batch *batch);
static void transaction_commit(Node *node);
static void locks_free(Node *node);

/* The worker ends. */
void
apply_stop(Node *node)
{
	if (node->apply.stage == APPLY_WORKS)
		locks_free(node);
	memset(&node->apply, 0, sizeof(node->apply));
}

/* Undo the transaction at hand; it comes again. */
void
apply_abort(Node *node)
{
	TRACE("node %u gives up seq %u of node %u", node->index, node->apply.transaction->seq,
		  node->apply.origin);
	locks_free(node);
	node->apply.stage = APPLY_IDLE;
	node->apply.barrier = 0;
}

/* Write and flush a mark, and wait until capture has passed it. */
void
barrier_set(Node *node)
{
	Wal			mark = {.kind = WAL_MARK};

	node->apply.barrier = wal_insert(node, &mark);
	wal_flush(node, node->apply.barrier);
}

/* Has capture passed it? Then it is forgotten. */
bool
barrier_passed(Node *node)
{
	if (node->shared.captured_lsn < node->apply.barrier)
		return false;
	node->apply.barrier = 0;
	return true;
}

/* One step. */
bool
apply_step(Node *node)
{
	Apply	   *a = &node->apply;

	if (a->barrier != 0 && !barrier_passed(node))
		return false;
	switch ((ApplyStage) a->stage)
	{
		case APPLY_DOWN:
			if (!is_ready(node))
				return false;
			barrier_set(node);
			a->stage = APPLY_LOADS;
			return true;
		case APPLY_LOADS:
			members_load(node);
			for (uint32_t i = 0; i < world.nnodes; i++)
				a->applied[i] = node->shared.applied[i];
			if (keyindex_load(node))
				a->stage = APPLY_IDLE;
			else
				barrier_set(node);
			return true;
		case APPLY_IDLE:
			if (node->shared.wanted_generation != node->shared.loaded_generation)
				members_load(node);
			if (random_chance(&node->random, node->trim_chance / 4))
				keyindex_sweep(node);
			return transaction_choose(node);
		case APPLY_WORKS:
			if (random_below(&node->random, 10000) < node->error_chance)
				apply_abort(node);
			else if (a->subop == a->nsubops && !a->secured)
				transaction_secure(node);
			else if (a->subop == a->nsubops)
				transaction_commit(node);
			else if (subop_step(node))
				a->blocked = 0;
			else if (a->barrier == 0 && ++a->blocked > DEADLOCK_PATIENCE)
				apply_abort(node);
			return true;
	}
	return false;
}

/* Do the logs hold all that is in the tables and not stable? */
static bool
is_ready(const Node *node)
{
	const Shared *shared = &node->shared;

	if (node->status < STATUS_CATCHUP || node->status > STATUS_LEAVING || !shared->capture_ready ||
		!shared->notes_known)
		return false;
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		P2pMemberLog log;

		if (i == node->index || shared->catalog.members[i] == MEMBER_FREE)
			continue;
		log = member_log(node, i);
		if (!p2p_member_tables_are_covered(&log))
			return false;
	}
	return true;
}

/* Begin the next transaction of some origin, if one may be applied. */
static bool
transaction_choose(Node *node)
{
	Apply	   *a = &node->apply;
	uint32_t	start = random_below(&node->random, world.nnodes);

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		uint32_t	origin = (start + i) % world.nnodes;
		Captured   *t;

		if (origin == node->index || node->shared.catalog.members[origin] == MEMBER_FREE ||
			node->logs[origin].cursor.seq <= a->applied[origin] ||
			(world.tick < node->paused[origin] && !world.ending) ||
			(!PLANTED(late_writes) &&
			 !p2p_follow_counts(node->shared.catalog.members[origin] == MEMBER_LEFT,
								node->shared.catalog.left_seq[origin], a->applied[origin] + 1)))
			continue;
		t = log_find(&node->logs[origin], a->applied[origin] + 1);
		if (t == NULL)
			continue;
		if (is_held(node, t->stamp))
		{
			if (PLANTED(held_skipped))
				a->applied[origin]++;
			continue;
		}
		if (!PLANTED(no_deps) && !p2p_follow_deps(t->deps, &world.origins[origin], applied_seq_of, node))
			continue;
		transaction_begin(node, origin, t);
		return true;
	}
	return false;
}

/* Is the stamp further ahead than we believe? */
static bool
is_held(Node *node, P2pStamp stamp)
{
	return p2p_follow_is_held(stamp, node_clock(node) + node->shared.group_offset,
							  node->shared.own_time, world.profile.max_skew_us);
}

/* Up to which seq is an origin applied here? Of this node: what capture has accounted for. */
static uint64_t
applied_seq_of(void *arg, const P2pOrigin *origin)
{
	const Node *node = arg;
	uint32_t	i = origin->id.bytes[0] - 1u;

	return i == node->index ? node->shared.captured[i] : node->apply.applied[i];
}

/* Before the first look-up. */
static void
transaction_begin(Node *node, uint32_t origin, Captured *t)
{
	Apply	   *a = &node->apply;

	check_held(node, t->stamp);
	if (!PLANTED(late_floor))
		floor_note(node, t->stamp);
	a->stage = APPLY_WORKS;
	a->opened = node->shared.opened[origin];
	a->secured = false;
	a->origin = (uint8_t) origin;
	a->transaction = t;
	a->batch = log_batch(&node->logs[origin], t->seq);
	a->xid = node->next_xid++;
	a->version.stamp = t->stamp;
	a->version.dot.origin = world.origins[origin];
	a->version.dot.seq = t->seq;
	a->subop = 0;
	a->substep = SUB_LOOK;
	a->waited = false;
	a->blocked = 0;
	memset(a->deleted, 0, sizeof(a->deleted));
	memset(a->truncated, 0, sizeof(a->truncated));
	a->nsubops = (uint8_t) subops_of(t->local, a->subops);
	versions_put(node, a->xid, origin, t->seq, t->stamp);
	TRACE("node %u begins seq %u of node %u as xid %u", node->index, t->seq, origin, a->xid);
}

/* Say in the WAL with which stamp this node looks from here on, if that says it not yet. */
static void
floor_note(Node *node, P2pStamp stamp)
{
	Wal			note = {.kind = WAL_FLOOR, .stamp = stamp};

	if (node->shared.floor < stamp && PLANTED(floor_as_read))
		node->shared.floor = stamp;
	if (node->shared.noted >= stamp || PLANTED(no_floor) || PLANTED(floor_as_read))
		return;
	node->shared.noted = stamp;
	(void) wal_insert(node, &note);
}

/*
 * What we commit will be durable if the commit is: it is in its log by now, or in the WAL in front
 * of us; or it is large, and the sync is waited for.
 */
static void
transaction_secure(Node *node)
{
	Apply	   *a = &node->apply;
	Shared	   *shared = &node->shared;
	uint32_t	last = (uint32_t) a->batch->span.last_seq;

	a->secured = true;
	if (shared->stored[a->origin] >= last || PLANTED(unnoted) || PLANTED(late_batch_note))
		return;
	if (a->batch->count > MAX_NOTED)
	{
		a->secured = false;
		if (++a->blocked > DEADLOCK_PATIENCE)
			apply_abort(node);
	}
	else if (a->opened != shared->opened[a->origin] && !PLANTED(closed_log_notes))
		apply_abort(node);		/* the log may lack it, and has had its look at the WAL */
	else if (shared->noted_seq[a->origin] < last)
		batch_note(node, a->batch);
}

/* Have the WAL hold a batch. */
static void
batch_note(Node *node, Batch *batch)
{
	Wal			note = {.kind = WAL_BATCH, .batch = batch};

	node->shared.noted_seq[batch->origin] = (uint32_t) batch->span.last_seq;
	(void) wal_insert(node, &note);
}

/* Rows and progress, together. */
static void
transaction_commit(Node *node)
{
	Apply	   *a = &node->apply;
	Captured   *t = a->transaction;
	Effect	   *effects = arena_take(sizeof(Effect) * MAX_EFFECTS);
	Wal			record = {.kind = WAL_REMOTE, .origin = a->origin, .xid = a->xid, .seq = t->seq,
		.stamp = t->stamp, .time = node_clock(node), .local = t->local, .effects = effects};
	uint32_t	seq = t->seq;

	for (uint32_t i = 0; i < NTABLES * MAX_KEYS; i++)
	{
		const Cell *cell = &node->cells[i / MAX_KEYS][i % MAX_KEYS];

		if (cell->locked_by != BY_APPLY)
			continue;
		if (cell->pending.exists == cell->row.exists && cell->pending.xid == cell->row.xid)
			continue;			/* locked and kept */
		effects[record.neffects++] = (Effect) {
			.what = cell->pending.exists ? EFFECT_ROW : EFFECT_GONE, .table = (uint8_t) (i / MAX_KEYS),
			.key = (uint8_t) (i % MAX_KEYS), .value = cell->pending.value, .truth = cell->pending.truth
		};
	}
	for (uint32_t i = 0; i < a->nsubops; i++)
	{
		const SubOp *subop = &a->subops[i];

		if (subop->kind < OP_ADMIT)
			continue;
		effects[record.neffects++] = (Effect) {
			.what = (uint8_t) (EFFECT_ADMIT + (subop->kind - OP_ADMIT)), .table = a->origin,
			.key = subop->key, .value = subop->kind == OP_LEAVE ? seq : subop->value
		};
	}
	if (node->logs[a->origin].open) /* else it is going to be, and has its look at the WAL */
		check_stored(node, a->origin, seq);
	if (PLANTED(late_floor))
		floor_note(node, t->stamp);
	(void) wal_insert(node, &record);
	if (PLANTED(late_batch_note) && node->shared.stored[a->origin] < a->batch->span.last_seq)
		batch_note(node, a->batch);
	effects_show(node, effects, record.neffects, a->xid);
	locks_free(node);
	keyindex_remember(node);
	a->stage = APPLY_IDLE;
	a->applied[a->origin] = seq;
	node->shared.applied[a->origin] = seq;
	TRACE("node %u applies seq %u of node %u, LSN %u", node->index, seq, a->origin, node->nwal);
	check_applied(node, t);
	if (node->shared.wanted_generation != node->shared.loaded_generation)
		members_load(node);
	world.applied++;
}

static void
locks_free(Node *node)
{
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		if (node->table_lock[t] == BY_APPLY)
			node->table_lock[t] = 0;
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (node->cells[t][k].locked_by == BY_APPLY)
				node->cells[t][k].locked_by = 0;
		}
	}
}
