/*
 * client.c
 *	  Clients of one node: READ COMMITTED transactions that lock rows.
 *
 *	  runs -> commits -> written -> (visible, free)
 *
 * An operation waits while somebody else holds the row, or the table. A commit
 * takes its time first and writes its record later, so that times are out of
 * LSN order; a synchronous one flushes before it is visible, an asynchronous
 * one does not. Between record and visibility others (capture among them) go on.
 * As in src/pg/deletes.c a transaction that deletes announces that before its
 * record, and takes it back after it is visible.
 *
 * A delete that finds nothing is left out; an insert that finds the row, or an
 * update that does not, is done as the other. Who waits too long gives up, as a victim of a deadlock.
 */
#include "sim.h"

#include <string.h>

#define PATIENCE 40

static bool op_run(Node *node, Session *s, uint8_t me);
static bool truncate_run(Node *node, Session *s, uint8_t me, const Op *op);
static bool move_run(Node *node, Session *s, uint8_t me, const Op *op);
static void op_note(Node *node, Session *s, const Op *op, uint32_t value);
static void session_end(Node *node, Session *s, uint8_t me);
static void session_write(Node *node, Session *s, uint8_t me);
static void session_show(Node *node, Session *s, uint8_t me);
static bool deletes_from(const Local *local, uint32_t table);

/* Have a transaction begun as soon as a session is free. */
void
client_begin(Node *node, const Event *event)
{
	if (node->nqueued < MAX_QUEUE)
		node->queue[node->nqueued++] = event;
}

/* A free session takes the next of those that wait. */
static void
session_begin(Node *node, Session *s)
{
	const Event *event = node->queue[0];

	node->nqueued--;
	memmove(node->queue, node->queue + 1, node->nqueued * sizeof(node->queue[0]));
	memset(s, 0, sizeof(*s));
	s->phase = SESSION_RUNS;
	s->wanted = event->ops;
	s->nwanted = event->nops;
	s->async = event->async;
	s->local = arena_take(sizeof(Local));
	s->local->origin = node->index;
	s->local->number = ++world.nlocals;
}

/* One step of one client; true: something happened. */
bool
client_step(Node *node)
{
	uint32_t	start = random_below(&node->random, MAX_SESSIONS);

	for (uint32_t i = 0; i < MAX_SESSIONS; i++)
	{
		uint32_t	which = (start + i) % MAX_SESSIONS;
		Session    *s = &node->sessions[which];
		uint8_t		me = (uint8_t) (which + 1);

		switch ((SessionPhase) s->phase)
		{
			case SESSION_FREE:
				if (node->nqueued == 0)
					continue;
				session_begin(node, s);
				return true;
			case SESSION_RUNS:
				if (s->next < s->nwanted)
				{
					if (op_run(node, s, me))
					{
						s->next++;
						s->blocked = 0;
					}
					else if (++s->blocked > PATIENCE)
						session_end(node, s, me);
				}
				else if (s->local->nops == 0)
					session_end(node, s, me);
				else
				{
					s->phase = SESSION_COMMITS;
					s->time = node_clock(node);
					for (uint32_t t = 0; t < NTABLES; t++)
						node->shared.deleting[t] += deletes_from(s->local, t);
				}
				return true;
			case SESSION_COMMITS:
				session_write(node, s, me);
				return true;
			case SESSION_WRITTEN:
				session_show(node, s, me);
				return true;
		}
	}
	return false;
}

/* What the session sees of a cell. */
static Row *
cell_view(Cell *cell, uint8_t me)
{
	return cell->locked_by == me ? &cell->pending : &cell->row;
}

/* Does somebody else hold the cell or its table? */
static bool
is_held_by_other(const Node *node, const Cell *cell, uint32_t table, uint8_t me)
{
	return (cell->locked_by != 0 && cell->locked_by != me) ||
		(node->table_lock[table] != 0 && node->table_lock[table] != me);
}

static Row *
cell_lock(Cell *cell, uint8_t me)
{
	if (cell->locked_by != me)
	{
		cell->locked_by = me;
		cell->pending = cell->row;
	}
	return &cell->pending;
}

/* Give the session its xid when it first writes. */
static void
xid_take(Node *node, Session *s)
{
	if (s->xid == 0)
		s->xid = node->next_xid++;
}

/* Run the next operation; false: it has to wait. */
static bool
op_run(Node *node, Session *s, uint8_t me)
{
	const Op   *op = &s->wanted[s->next];
	Cell	   *cell = &node->cells[op->table][op->key];
	Op			done = *op;
	Row		   *row;
	bool		exists;

	if (op->kind == OP_TRUNCATE)
		return truncate_run(node, s, me, op);
	if (op->kind == OP_MOVE)
		return move_run(node, s, me, op);
	if (is_held_by_other(node, cell, op->table, me))
		return false;
	exists = cell_view(cell, me)->exists;
	if (op->kind == OP_DELETE && !exists)
		return true;
	/* as INSERT ... ON CONFLICT does, and its contrary: most clients get something done */
	if (op->kind != OP_DELETE)
		done.kind = exists ? OP_UPDATE : OP_INSERT;
	xid_take(node, s);
	row = cell_lock(cell, me);
	row->exists = op->kind != OP_DELETE;
	row->xid = s->xid;
	row->truth = s->local;
	row->value = ++world.nvalues;
	op_note(node, s, &done, row->value);
	return true;
}

/* TRUNCATE waits for everybody who has written to the table. */
static bool
truncate_run(Node *node, Session *s, uint8_t me, const Op *op)
{
	if (node->table_lock[op->table] != 0 && node->table_lock[op->table] != me)
		return false;
	for (uint32_t k = 0; k < MAX_KEYS; k++)
	{
		if (is_held_by_other(node, &node->cells[op->table][k], op->table, me))
			return false;
	}
	xid_take(node, s);
	node->table_lock[op->table] = me;
	for (uint32_t k = 0; k < MAX_KEYS; k++)
		cell_lock(&node->cells[op->table][k], me)->exists = false;
	op_note(node, s, op, 0);
	return true;
}

/* An update of the key. */
static bool
move_run(Node *node, Session *s, uint8_t me, const Op *op)
{
	Cell	   *from = &node->cells[op->table][op->key];
	Cell	   *to = &node->cells[op->table][op->key2];
	Row		   *row;

	if (is_held_by_other(node, from, op->table, me) || is_held_by_other(node, to, op->table, me))
		return false;
	if (!cell_view(from, me)->exists || cell_view(to, me)->exists)
		return true;
	xid_take(node, s);
	cell_lock(from, me)->exists = false;
	row = cell_lock(to, me);
	*row = (Row) {.exists = true, .xid = s->xid, .truth = s->local, .value = ++world.nvalues};
	op_note(node, s, op, row->value);
	return true;
}

static void
op_note(Node *node, Session *s, const Op *op, uint32_t value)
{
	Op		   *done = &s->local->ops[s->local->nops++];

	(void) node;
	*done = *op;
	done->value = value;
}

/* Forget a transaction and free what it held. */
static void
session_end(Node *node, Session *s, uint8_t me)
{
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		if (node->table_lock[t] == me)
			node->table_lock[t] = 0;
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (node->cells[t][k].locked_by == me)
				node->cells[t][k].locked_by = 0;
		}
	}
	s->phase = SESSION_FREE;
}

/* Write the commit record. */
static void
session_write(Node *node, Session *s, uint8_t me)
{
	Effect	   *effects = arena_take(sizeof(Effect) * NTABLES * MAX_KEYS);
	Wal			record = {.kind = WAL_LOCAL, .xid = s->xid, .time = s->time, .local = s->local,
		.effects = effects, .origin = node->index};

	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			const Cell *cell = &node->cells[t][k];

			if (cell->locked_by != me)
				continue;
			effects[record.neffects++] = (Effect) {
				.what = cell->pending.exists ? EFFECT_ROW : EFFECT_GONE,
				.table = (uint8_t) t, .key = (uint8_t) k, .value = cell->pending.value,
				.truth = cell->pending.truth
			};
		}
	}
	s->lsn = wal_insert(node, &record);
	if (!s->async)
		wal_flush(node, s->lsn);
	s->phase = SESSION_WRITTEN;
	TRACE("node %u commits local %u as xid %u, LSN %u%s", node->index, s->local->number, s->xid,
		  s->lsn, s->async ? ", asynchronously" : "");
}

/* Become visible. */
static void
session_show(Node *node, Session *s, uint8_t me)
{
	const Wal  *record = &node->wal[s->lsn - 1];

	effects_show(node, record->effects, record->neffects, s->xid);
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		if (!deletes_from(s->local, t))
			continue;
		if (node->shared.deleted_lsn[t] < s->lsn)
			node->shared.deleted_lsn[t] = s->lsn;
		node->shared.deleting[t]--;
	}
	session_end(node, s, me);
}

/* Does the transaction delete, truncate or change keys there? */
static bool
deletes_from(const Local *local, uint32_t table)
{
	for (uint32_t i = 0; i < local->nops; i++)
	{
		const Op   *op = &local->ops[i];

		if (op->table == table &&
			(op->kind == OP_DELETE || op->kind == OP_TRUNCATE || op->kind == OP_MOVE))
			return true;
	}
	return false;
}

/* Commit a transaction about members at once; returns its LSN. */
uint32_t
local_commit(Node *node, const Op *ops, uint32_t nops)
{
	Effect	   *effects = arena_take(sizeof(Effect) * nops);
	Local	   *local = arena_take(sizeof(Local));
	Wal			record = {.kind = WAL_LOCAL, .xid = node->next_xid++, .time = node_clock(node),
		.local = local, .effects = effects, .origin = node->index};
	uint32_t	lsn;

	local->origin = node->index;
	local->number = ++world.nlocals;
	local->nops = (uint8_t) nops;
	memcpy(local->ops, ops, sizeof(Op) * nops);
	for (uint32_t i = 0; i < nops; i++)
	{
		if (ops[i].kind == OP_ADMIT || ops[i].kind == OP_EVICT)
			effects[record.neffects++] = (Effect) {
				.what = ops[i].kind == OP_ADMIT ? EFFECT_ADMIT : EFFECT_EVICT, .key = ops[i].key
			};
		else if (ops[i].kind == OP_FREEZE)
			effects[record.neffects++] = (Effect) {
				.what = EFFECT_FREEZE, .table = node->index, .key = ops[i].key, .value = ops[i].value
			};
	}
	lsn = wal_insert(node, &record);
	wal_flush(node, lsn);
	effects_show(node, effects, record.neffects, record.xid);
	return lsn;
}
