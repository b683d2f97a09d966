/*
 * apply_change.c
 *	  The model of src/pg/apply_change.c: one operation against the row that is
 *	  here. The order of steps is the server's; its head says why.
 */
#include "sim.h"

#include "p2p_stamp.h"

static bool change_look(Node *node, const SubOp *subop);
static bool row_version(Node *node, const Cell *cell, const SubOp *subop, P2pVersion *version);
static void change_carry_out(Node *node, const SubOp *subop, Cell *cell, const P2pKeyState *here);
static bool change_insert(Node *node, const SubOp *subop);
static bool change_overrule(Node *node, const SubOp *subop);
static bool truncate_step(Node *node, const SubOp *subop);
static bool all_is_past(const Node *node);
static bool deletes_since(const Node *node, uint32_t table, uint32_t lsn);
static void subop_done(Apply *a);

/* The row operations of a transaction: a key update is a delete and an update. */
uint32_t
subops_of(const Local *local, SubOp *subops)
{
	uint32_t	n = 0;

	for (uint32_t i = 0; i < local->nops; i++)
	{
		const Op   *op = &local->ops[i];

		if (op->kind == OP_MOVE)
		{
			subops[n++] = (SubOp) {OP_DELETE, op->table, op->key, 0};
			subops[n++] = (SubOp) {OP_UPDATE, op->table, op->key2, op->value};
		}
		else
			subops[n++] = (SubOp) {op->kind, op->table, op->key, op->value};
	}
	return n;
}

/* One step of the operation at hand; false: it waits. */
bool
subop_step(Node *node)
{
	Apply	   *a = &node->apply;
	const SubOp *subop = &a->subops[a->subop];

	if (subop->kind >= OP_ADMIT)
	{
		subop_done(a);
		return true;
	}
	switch ((SubStep) a->substep)
	{
		case SUB_LOOK:
			if (subop->kind == OP_TRUNCATE)
				return truncate_step(node, subop);
			return change_look(node, subop);
		case SUB_INSERT:
			return change_insert(node, subop);
		case SUB_OVERRULE:
			return change_overrule(node, subop);
		case SUB_TRUNCATE:
			return truncate_step(node, subop);
	}
	return false;
}

static void
subop_done(Apply *a)
{
	a->subop++;
	a->substep = SUB_LOOK;
	a->waited = false;
}

/* Find row, version and tombstone, and decide. */
static bool
change_look(Node *node, const SubOp *subop)
{
	Apply	   *a = &node->apply;
	Cell	   *cell = &node->cells[subop->table][subop->key];
	P2pKeyState here = {0};
	uint8_t		table_lock = node->table_lock[subop->table];

	if ((cell->locked_by != 0 && cell->locked_by != BY_APPLY) ||
		(table_lock != 0 && table_lock != BY_APPLY))
		return false;
	if (node->shared.begun[subop->table][subop->key] < a->version.stamp)
		node->shared.begun[subop->table][subop->key] = a->version.stamp;
	here.row_exists = cell->locked_by == BY_APPLY ? cell->pending.exists : cell->row.exists;
	if (here.row_exists)
	{
		if (cell->locked_by == 0)
		{
			cell->locked_by = BY_APPLY;
			cell->pending = cell->row;
		}
		if (!row_version(node, cell, subop, &here.row))
			return true;
	}
	(void) keyindex_tombstone(node, subop->table, subop->key, &here.tombstone);
	change_carry_out(node, subop, cell, &here);
	return true;
}

/* The version of the row that is here; false: wait for capture, and look again. */
static bool
row_version(Node *node, const Cell *cell, const SubOp *subop, P2pVersion *version)
{
	Apply	   *a = &node->apply;
	uint32_t	xid = cell->pending.xid;
	const VersionEntry *entry = &node->versions[xid];

	if (xid == a->xid)
	{
		*version = a->version;
		return true;
	}
	if (xid < node->nversions && entry->origin == COPIED)
	{
		const KeyEntry *key = &a->keys[subop->table][subop->key];

		if (key->there && key->is_row)
			*version = key->version;
		if (PLANTED(copied_ancient))
			*version = (P2pVersion) {0};
		if (PLANTED(copied_now))
		{
			version->stamp = node->base_greatest;
			version->dot.origin = world.origins[node->index];
			version->dot.seq = 1;
		}
		return true;
	}
	if (xid < node->nversions && entry->origin != NONE)
	{
		version->stamp = entry->stamp;
		version->dot.origin = world.origins[entry->origin];
		version->dot.seq = entry->seq;
		return true;
	}
	if (xid < node->shared.captured_below || a->waited || PLANTED(no_wait_for_version))
		return true;
	a->waited = true;
	barrier_set(node);
	return false;
}

/* Decide, and do what is decided. */
static void
change_carry_out(Node *node, const SubOp *subop, Cell *cell, const P2pKeyState *here)
{
	Apply	   *a = &node->apply;
	Captured   *t = a->transaction;
	P2pOp		op = subop->kind == OP_INSERT ? P2P_OP_INSERT :
		subop->kind == OP_DELETE ? P2P_OP_DELETE : P2P_OP_UPDATE;
	P2pKeyState seen = *here;
	P2pDecision decision;
	bool		row_stands = here->row_exists && (p2p_version_is_ancient(&here->row) ||
												  p2p_version_compare(&here->row, &here->tombstone) >= 0);
	const P2pVersion *standing = row_stands ? &here->row : &here->tombstone;

	if (PLANTED(arrival_wins))
	{
		seen.row = (P2pVersion) {0};
		seen.tombstone = (P2pVersion) {0};
	}
	decision = p2p_resolve(op, &a->version, t->deps, &seen);
	if (PLANTED(any_conflict) && !p2p_version_is_ancient(standing) &&
		!p2p_origin_equal(&standing->dot.origin, &a->version.dot.origin))
		decision.conflict = P2P_UPDATE_ORIGIN_DIFFERS;
	if (decision.conflict != P2P_NO_CONFLICT)
		check_conflict(node, t, standing);

	switch (decision.action)
	{
		case P2P_KEEP:
		case P2P_REMEMBER_DELETE:
			break;
		case P2P_INSERT_ROW:
			if (PLANTED(skip_missing) && op == P2P_OP_UPDATE)
				break;
			a->substep = SUB_INSERT;
			return;
		case P2P_UPDATE_ROW:
			cell->pending = (Row) {.exists = true, .xid = a->xid, .value = subop->value,
				.truth = t->local};
			break;
		case P2P_DELETE_ROW:
			cell->pending.exists = false;
			break;
	}
	if (decision.remember)
		a->deleted[subop->table][subop->key] = true;
	if (PLANTED(early_tombstones))
		keyindex_remember(node);
	subop_done(a);
}

/* Put the row in the index, unless somebody was faster. */
static bool
change_insert(Node *node, const SubOp *subop)
{
	Apply	   *a = &node->apply;
	Cell	   *cell = &node->cells[subop->table][subop->key];
	uint8_t		table_lock = node->table_lock[subop->table];

	if ((cell->locked_by != 0 && cell->locked_by != BY_APPLY) ||
		(table_lock != 0 && table_lock != BY_APPLY))
		return false;
	if (cell->locked_by == 0 && cell->row.exists)
	{
		a->substep = SUB_LOOK;
		a->waited = false;
		return true;
	}
	if (cell->locked_by == 0)
		cell->pending = cell->row;
	cell->locked_by = BY_APPLY;
	cell->pending = (Row) {.exists = true, .xid = a->xid, .value = subop->value,
		.truth = a->transaction->local};
	a->substep = SUB_OVERRULE;
	a->waited = false;
	return true;
}

/* May the table have a local delete that committed after lsn, or is about to? */
static bool
deletes_since(const Node *node, uint32_t table, uint32_t lsn)
{
	return node->shared.deleting[table] > 0 || node->shared.deleted_lsn[table] > lsn;
}

/* The row is in: has an undecoded local delete of this key a greater version? */
static bool
change_overrule(Node *node, const SubOp *subop)
{
	Apply	   *a = &node->apply;
	Cell	   *cell = &node->cells[subop->table][subop->key];
	P2pVersion	tombstone = {0};

	if (!PLANTED(unchecked_inserts))
	{
		if (a->waited || deletes_since(node, subop->table, a->deletes_known_to))
		{
			if (!a->waited && deletes_since(node, subop->table, node->shared.captured_lsn))
			{
				a->waited = true;
				barrier_set(node);
				return true;
			}
			if (!keyindex_follow_own(node, node->shared.captured[node->index]))
			{
				barrier_set(node);
				return true;
			}
			a->deletes_known_to = node->shared.captured_lsn;
		}
		if (keyindex_tombstone(node, subop->table, subop->key, &tombstone) &&
			p2p_version_compare(&tombstone, &a->version) > 0)
			cell->pending.exists = false;
	}
	subop_done(a);
	return true;
}

/* TRUNCATE: lock the table, have capture read all of it, remove what is not greater. */
static bool
truncate_step(Node *node, const SubOp *subop)
{
	Apply	   *a = &node->apply;
	bool		everything;

	if (a->substep == SUB_LOOK)
	{
		if (node->table_lock[subop->table] != 0 && node->table_lock[subop->table] != BY_APPLY)
			return false;
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			uint8_t		by = node->cells[subop->table][k].locked_by;

			if (by != 0 && by != BY_APPLY)
				return false;
			if (node->shared.begun[subop->table][k] < a->version.stamp)
				node->shared.begun[subop->table][k] = a->version.stamp;
		}
		node->table_lock[subop->table] = BY_APPLY;
		barrier_set(node);
		a->substep = SUB_TRUNCATE;
		return true;
	}
	everything = all_is_past(node);
	for (uint32_t k = 0; k < MAX_KEYS; k++)
	{
		Cell	   *cell = &node->cells[subop->table][k];
		SubOp		at = {.table = subop->table, .key = (uint8_t) k};
		P2pVersion	version = {0};

		if (cell->locked_by == 0)
			cell->pending = cell->row;
		cell->locked_by = BY_APPLY;
		if (!cell->pending.exists)
			continue;
		if (!everything && !row_version(node, cell, &at, &version))
			return true;
		if (everything || p2p_version_compare(&version, &a->version) <= 0)
			cell->pending.exists = false;
	}
	a->truncated[subop->table] = !PLANTED(forgotten_truncates);
	if (PLANTED(early_tombstones))
		keyindex_remember(node);
	subop_done(a);
	return true;
}

/* Has the transaction's origin seen everything that is applied here? */
static bool
all_is_past(const Node *node)
{
	const Apply *a = &node->apply;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != a->origin && node->shared.applied[i] > vector_seq(a->transaction->deps, i))
			return false;
	}
	return true;
}
