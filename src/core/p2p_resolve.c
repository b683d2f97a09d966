/*
 * p2p_resolve.c
 *	  The winner rule for one key.
 *
 * What is here for a key is one version: the row's, or that of the delete (or
 * truncate) that left no row. An incoming change is one version more. The
 * greater of the two stays; that is all, and because it is a maximum, neither
 * the order of arrival nor repetition nor the way of a change matters.
 *
 *	                    row here        no row here
 *	  insert, update    UPDATE_ROW      INSERT_ROW         if it wins
 *	  delete            DELETE_ROW      REMEMBER_DELETE    if it wins
 *	  any               KEEP            KEEP               if it loses
 *
 * A delete that wins is remembered as the key's tombstone in both cases. One
 * that loses needs no memory: the greater version that beat it also beats
 * whatever it would have beaten.
 *
 * Winning is not conflicting. The total order decides who wins; the deps say
 * whether the incoming transaction had seen what it meets. Only if it hadn't,
 * and the two come from different origins, is this a conflict to report. Since
 * delivery is causal, the version here never has the incoming one in its past.
 *
 * An update that finds neither row nor tombstone is stored as a full row:
 * skipping it would leave nodes different. It isn't reported: there is no
 * version here with which it could be concurrent. P2P_UPDATE_MISSING is
 * therefore never decided here. It stays in the list because the list is the
 * server's, and its numbers and names are stored; a caller that wants to count
 * such updates knows them by P2P_OP_UPDATE and P2P_INSERT_ROW over an ancient
 * tombstone (replication had been switched off, or the table not been a member,
 * when the row went away).
 *
 * Called by apply, once per change and key, under the lock of the row that it
 * found, and after the barrier that makes "no row, no tombstone" trustworthy.
 */
#include "p2p_resolve.h"

/* What the incoming version is compared with. */
typedef struct Standing
{
	const P2pVersion *version;
	bool		is_row;			/* else a tombstone, or nothing at all (ancient) */
} Standing;

static Standing find_standing(const P2pKeyState *here);
static bool wins_over(const P2pVersion *incoming, const P2pVersion *standing);
static P2pAction choose_action(P2pOp op, bool row_exists);

/* Decide what the incoming operation does to the key as it is here. */
P2pDecision
p2p_resolve(P2pOp op, const P2pVersion *incoming, const P2pVector *deps,
			const P2pKeyState *here)
{
	Standing	standing = find_standing(here);
	P2pDecision decision = {.action = P2P_KEEP, .conflict = P2P_NO_CONFLICT};

	decision.incoming_wins = wins_over(incoming, standing.version);
	if (decision.incoming_wins)
	{
		decision.action = choose_action(op, here->row_exists);
		decision.remember = (op == P2P_OP_DELETE);
	}

	if (!p2p_origin_equal(&standing.version->dot.origin, &incoming->dot.origin) &&
		!p2p_in_past(&standing.version->dot, &incoming->dot, deps))
		decision.conflict = p2p_conflict_of(op, standing.is_row);
	return decision;
}

/*
 * Return the version that stands for the key: the greater of row and
 * tombstone. Where they are equal one transaction deleted and stored again,
 * and the row is its last word.
 *
 * A row that is older than everything stands above any tombstone: it had a
 * version that overcame the tombstone, and became stable before the tombstone
 * did. (Were the tombstone to stand, an update that saw this row, but not the
 * delete, would be called a conflict.) Another row below its tombstone
 * shouldn't be; if it is, the tombstone stands.
 */
static Standing
find_standing(const P2pKeyState *here)
{
	if (here->row_exists &&
		(p2p_version_is_ancient(&here->row) ||
		 p2p_version_compare(&here->row, &here->tombstone) >= 0))
		return (Standing) {.version = &here->row, .is_row = true};
	return (Standing) {.version = &here->tombstone, .is_row = false};
}

/* Say whether incoming is the greater version, or a later operation of the same transaction. */
static bool
wins_over(const P2pVersion *incoming, const P2pVersion *standing)
{
	return p2p_version_compare(incoming, standing) >= 0;
}

/* Return what a winning operation does. */
static P2pAction
choose_action(P2pOp op, bool row_exists)
{
	switch (op)
	{
		case P2P_OP_INSERT:
		case P2P_OP_UPDATE:
			return row_exists ? P2P_UPDATE_ROW : P2P_INSERT_ROW;
		case P2P_OP_DELETE:
			return row_exists ? P2P_DELETE_ROW : P2P_REMEMBER_DELETE;
	}
	return P2P_KEEP;
}

/* Return what a true conflict of op is called, against a row or against a delete that stands. */
P2pConflict
p2p_conflict_of(P2pOp op, bool against_row)
{
	switch (op)
	{
		case P2P_OP_INSERT:
			return against_row ? P2P_INSERT_EXISTS : P2P_INSERT_DELETED;
		case P2P_OP_UPDATE:
			return against_row ? P2P_UPDATE_ORIGIN_DIFFERS : P2P_UPDATE_DELETED;
		case P2P_OP_DELETE:
			return against_row ? P2P_DELETE_ORIGIN_DIFFERS : P2P_DELETE_MISSING;
	}
	return P2P_NO_CONFLICT;
}

/*
 * Say whether dot is in the past of transaction `of`, itself included. The own
 * past of an origin is its lower seqs, whether or not deps names them. seq 0 is
 * the dot of what is older than everything.
 */
bool
p2p_in_past(const P2pDot *dot, const P2pDot *of, const P2pVector *deps)
{
	if (dot->seq == 0)
		return true;
	if (p2p_origin_equal(&dot->origin, &of->origin))
		return dot->seq <= of->seq;
	return dot->seq <= p2p_vector_get(deps, &dot->origin);
}

/* Return the name of conflict as the core server spells it; static memory. */
const char *
p2p_conflict_name(P2pConflict conflict)
{
	switch (conflict)
	{
		case P2P_NO_CONFLICT:
			return "none";
		case P2P_INSERT_EXISTS:
			return "insert_exists";
		case P2P_INSERT_DELETED:
			return "insert_deleted";
		case P2P_UPDATE_ORIGIN_DIFFERS:
			return "update_origin_differs";
		case P2P_UPDATE_DELETED:
			return "update_deleted";
		case P2P_UPDATE_MISSING:
			return "update_missing";
		case P2P_DELETE_ORIGIN_DIFFERS:
			return "delete_origin_differs";
		case P2P_DELETE_MISSING:
			return "delete_missing";
		case P2P_UPDATE_EXISTS:
			return "update_exists";
		case P2P_MULTIPLE_UNIQUE_CONFLICTS:
			return "multiple_unique_conflicts";
	}
	return "unknown";
}
