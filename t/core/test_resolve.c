/*
 * test_resolve.c
 *	  The winner rule: its table, case by case; then all histories of up to four
 *	  transactions on one key, delivered at every node in every causal order.
 *
 * A history is a few transactions by up to four origins, each an insert, an
 * update, a delete, a truncate of the table, or two operations on the key. What
 * each had seen is any set that causal delivery allows: closed under "had seen"
 * and with the origin's own earlier ones in it. Transactions are numbered in
 * the order of their versions, which extends causality; that loses no history.
 * Equal stamps of concurrent transactions, told apart by id, are tried as well.
 *
 * Every history is played at an observer, who gets all of it by p2p_resolve, and
 * at each origin, which commits its own and gets the rest, in every order that
 * can happen there. After each step the key must be what the greatest version
 * delivered so far says, whatever the order, and the decision must name a
 * conflict exactly if the version met is not in the past. All is played with and
 * without a row that is older than everything at the start, and with and without
 * forgetting versions as soon as all that is still to come has them in its past.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_resolve.h"
#include "versions.h"

#define MAX_TRANSACTIONS 4
#define NOBODY (-1)				/* wrote the row that is older than everything */
#define OBSERVER (-1)			/* a node that commits nothing itself */

typedef enum Kind
{
	KIND_INSERT,
	KIND_UPDATE,
	KIND_DELETE,
	KIND_TRUNCATE,
	N_SIMPLE_KINDS,
	KIND_REINSERT = N_SIMPLE_KINDS,	/* delete, then insert, in one transaction */
	KIND_FLEETING,				/* insert, then delete, in one transaction */
	N_KINDS
} Kind;

typedef struct History
{
	int			n;
	Kind		kind[MAX_TRANSACTIONS];
	int			origin[MAX_TRANSACTIONS];
	unsigned	past[MAX_TRANSACTIONS];	/* bit i: has seen transaction i */
	P2pVersion	version[MAX_TRANSACTIONS];
	P2pVector	deps[MAX_TRANSACTIONS];
} History;

/* A node's copy of the key. */
typedef struct Copy
{
	P2pKeyState key;
	int			writer;			/* whose row it is, if there is one */
} Copy;

/* How a history is played. */
typedef struct Play
{
	const History *history;
	int			node;			/* an origin, or OBSERVER */
	bool		forgetting;
	unsigned long ends;			/* complete orders seen */
} Play;

static unsigned long n_histories;
static unsigned long n_orders;

/* ---- the table ---- */

typedef struct Case
{
	P2pOp		op;
	bool		row_exists;
	P2pStamp	row_stamp;		/* 0: ancient */
	P2pStamp	tombstone_stamp;	/* 0: none */
	bool		seen;			/* the incoming one has seen what is here */
	P2pAction	action;
	P2pConflict conflict;
} Case;

/* The incoming version is (50, b, 1); what is here is by node a. */
static const Case cases[] = {
	/* nothing here */
	{P2P_OP_INSERT, false, 0, 0, false, P2P_INSERT_ROW, P2P_NO_CONFLICT},
	{P2P_OP_UPDATE, false, 0, 0, false, P2P_INSERT_ROW, P2P_NO_CONFLICT},
	{P2P_OP_DELETE, false, 0, 0, false, P2P_REMEMBER_DELETE, P2P_NO_CONFLICT},
	/* a row older than everything */
	{P2P_OP_INSERT, true, 0, 0, false, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_UPDATE, true, 0, 0, false, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_DELETE, true, 0, 0, false, P2P_DELETE_ROW, P2P_NO_CONFLICT},
	/* a row that the incoming one has seen */
	{P2P_OP_INSERT, true, 40, 0, true, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_UPDATE, true, 40, 0, true, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_DELETE, true, 40, 0, true, P2P_DELETE_ROW, P2P_NO_CONFLICT},
	/* a lower row, concurrent */
	{P2P_OP_INSERT, true, 40, 0, false, P2P_UPDATE_ROW, P2P_INSERT_EXISTS},
	{P2P_OP_UPDATE, true, 40, 0, false, P2P_UPDATE_ROW, P2P_UPDATE_ORIGIN_DIFFERS},
	{P2P_OP_DELETE, true, 40, 0, false, P2P_DELETE_ROW, P2P_DELETE_ORIGIN_DIFFERS},
	/* a greater row, concurrent */
	{P2P_OP_INSERT, true, 60, 0, false, P2P_KEEP, P2P_INSERT_EXISTS},
	{P2P_OP_UPDATE, true, 60, 0, false, P2P_KEEP, P2P_UPDATE_ORIGIN_DIFFERS},
	{P2P_OP_DELETE, true, 60, 0, false, P2P_KEEP, P2P_DELETE_ORIGIN_DIFFERS},
	/* a tombstone that the incoming one has seen */
	{P2P_OP_INSERT, false, 0, 40, true, P2P_INSERT_ROW, P2P_NO_CONFLICT},
	{P2P_OP_UPDATE, false, 0, 40, true, P2P_INSERT_ROW, P2P_NO_CONFLICT},
	{P2P_OP_DELETE, false, 0, 40, true, P2P_REMEMBER_DELETE, P2P_NO_CONFLICT},
	/* a lower tombstone, concurrent */
	{P2P_OP_INSERT, false, 0, 40, false, P2P_INSERT_ROW, P2P_INSERT_DELETED},
	{P2P_OP_UPDATE, false, 0, 40, false, P2P_INSERT_ROW, P2P_UPDATE_DELETED},
	{P2P_OP_DELETE, false, 0, 40, false, P2P_REMEMBER_DELETE, P2P_DELETE_MISSING},
	/* a greater tombstone, concurrent */
	{P2P_OP_INSERT, false, 0, 60, false, P2P_KEEP, P2P_INSERT_DELETED},
	{P2P_OP_UPDATE, false, 0, 60, false, P2P_KEEP, P2P_UPDATE_DELETED},
	{P2P_OP_DELETE, false, 0, 60, false, P2P_KEEP, P2P_DELETE_MISSING},
	/* equal stamps: a is less than b */
	{P2P_OP_UPDATE, true, 50, 0, false, P2P_UPDATE_ROW, P2P_UPDATE_ORIGIN_DIFFERS},
	{P2P_OP_DELETE, false, 0, 50, false, P2P_REMEMBER_DELETE, P2P_DELETE_MISSING},
	/* a row and an older tombstone (of a truncate, say): the row stands */
	{P2P_OP_UPDATE, true, 60, 40, false, P2P_KEEP, P2P_UPDATE_ORIGIN_DIFFERS},
	{P2P_OP_DELETE, true, 45, 40, false, P2P_DELETE_ROW, P2P_DELETE_ORIGIN_DIFFERS},
	/* a row below its tombstone shouldn't be: the tombstone stands */
	{P2P_OP_INSERT, true, 40, 60, false, P2P_KEEP, P2P_INSERT_DELETED},
	{P2P_OP_UPDATE, true, 40, 45, false, P2P_UPDATE_ROW, P2P_UPDATE_DELETED},
	{P2P_OP_DELETE, true, 40, 60, false, P2P_KEEP, P2P_DELETE_MISSING},
	/* an ancient row had overcome the tombstone, and became stable before it */
	{P2P_OP_INSERT, true, 0, 45, false, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_UPDATE, true, 0, 45, false, P2P_UPDATE_ROW, P2P_NO_CONFLICT},
	{P2P_OP_DELETE, true, 0, 45, false, P2P_DELETE_ROW, P2P_NO_CONFLICT},
};

static void
test_resolve_follows_the_table(void **state)
{
	P2pVersion	incoming = version_of(50, 1, 1);
	P2pVector	nothing_seen = vector(0, 0, 0);
	P2pVector	all_seen = vector(100, 0, 0);

	(void) state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		const Case *c = &cases[i];
		P2pKeyState here = {.row_exists = c->row_exists};
		P2pDecision d;

		/* seq like stamp, for want of another number */
		if (c->row_stamp > 0)
			here.row = version_of(c->row_stamp, 0, (uint64_t) c->row_stamp);
		if (c->tombstone_stamp > 0)
			here.tombstone = version_of(c->tombstone_stamp, 0, (uint64_t) c->tombstone_stamp);
		d = p2p_resolve(c->op, &incoming, c->seen ? &all_seen : &nothing_seen, &here);
		if (d.action != c->action || d.conflict != c->conflict ||
			d.incoming_wins != (c->action != P2P_KEEP) ||
			d.remember != (c->op == P2P_OP_DELETE && c->action != P2P_KEEP))
			fail_msg("case %zu: action %d, conflict %s, wins %d, remember %d", i,
					 (int) d.action, p2p_conflict_name(d.conflict), d.incoming_wins, d.remember);
	}
}

/* What deps say of the origin of the version here decides, not those of the incoming one. */
static void
test_resolve_reads_deps_at_the_exact_seq(void **state)
{
	P2pVersion	incoming = version_of(50, 1, 9);
	P2pKeyState here = {.row_exists = true, .row = version_of(40, 0, 7)};
	P2pVector	deps;

	(void) state;
	deps = vector(7, 0, 0);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &incoming, &deps, &here).conflict, P2P_NO_CONFLICT);
	deps = vector(6, 8, 99);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &incoming, &deps, &here).conflict,
					 P2P_UPDATE_ORIGIN_DIFFERS);
}

static void
test_resolve_same_origin_is_never_a_conflict(void **state)
{
	P2pVersion	incoming = version_of(50, 1, 9);
	P2pVector	deps = vector(0, 0, 0);
	P2pKeyState row = {.row_exists = true, .row = version_of(40, 1, 8)};
	P2pKeyState gone = {.tombstone = version_of(40, 1, 8)};

	(void) state;
	assert_int_equal(p2p_resolve(P2P_OP_INSERT, &incoming, &deps, &row).conflict, P2P_NO_CONFLICT);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &incoming, &deps, &row).action, P2P_UPDATE_ROW);
	assert_int_equal(p2p_resolve(P2P_OP_INSERT, &incoming, &deps, &gone).conflict, P2P_NO_CONFLICT);
	assert_int_equal(p2p_resolve(P2P_OP_INSERT, &incoming, &deps, &gone).action, P2P_INSERT_ROW);
}

/* An earlier epoch of the same node is another origin: only deps vouch for it. */
static void
test_resolve_takes_an_earlier_epoch_for_another_origin(void **state)
{
	P2pVersion	incoming = version_of(50, 1, 1);
	P2pVector	deps = vector(0, 0, 0);
	P2pKeyState here = {.row_exists = true, .row = version_of(40, 1, 8)};

	(void) state;
	incoming.dot.origin.epoch = 2;
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &incoming, &deps, &here).conflict,
					 P2P_UPDATE_ORIGIN_DIFFERS);
	deps = vector(0, 8, 0);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &incoming, &deps, &here).conflict, P2P_NO_CONFLICT);
}

static void
test_resolve_later_operation_of_a_transaction_wins(void **state)
{
	P2pVersion	t = version_of(50, 1, 1);
	P2pVector	deps = vector(0, 0, 0);
	P2pKeyState row = {.row_exists = true, .row = t};
	P2pKeyState gone = {.tombstone = t};
	P2pKeyState back = {.row_exists = true, .row = t, .tombstone = t};
	P2pDecision d;

	(void) state;
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &t, &deps, &row).action, P2P_UPDATE_ROW);
	assert_int_equal(p2p_resolve(P2P_OP_INSERT, &t, &deps, &gone).action, P2P_INSERT_ROW);
	assert_int_equal(p2p_resolve(P2P_OP_UPDATE, &t, &deps, &back).action, P2P_UPDATE_ROW);
	d = p2p_resolve(P2P_OP_DELETE, &t, &deps, &row);
	assert_int_equal(d.action, P2P_DELETE_ROW);
	assert_int_equal(d.conflict, P2P_NO_CONFLICT);
	assert_true(d.remember);
	assert_int_equal(p2p_resolve(P2P_OP_DELETE, &t, &deps, &back).action, P2P_DELETE_ROW);
}

static void
test_in_past_knows_own_and_foreign_origins(void **state)
{
	P2pDot		of = {.origin = node(1), .seq = 5};
	P2pVector	deps = vector(3, 0, 0);
	P2pDot		ancient = {.seq = 0};
	P2pDot		dot = {.origin = node(0), .seq = 3};

	(void) state;
	assert_true(p2p_in_past(&ancient, &of, &deps));
	assert_true(p2p_in_past(&dot, &of, &deps));
	dot.seq = 4;
	assert_false(p2p_in_past(&dot, &of, &deps));
	dot = (P2pDot) {.origin = node(2), .seq = 1};
	assert_false(p2p_in_past(&dot, &of, &deps));
	dot = (P2pDot) {.origin = node(1), .seq = 5};
	assert_true(p2p_in_past(&dot, &of, &deps));
	dot.seq = 6;
	assert_false(p2p_in_past(&dot, &of, &deps));
}

static void
test_conflict_names_are_those_of_the_server(void **state)
{
	(void) state;
	assert_string_equal(p2p_conflict_name(P2P_NO_CONFLICT), "none");
	assert_string_equal(p2p_conflict_name(P2P_INSERT_EXISTS), "insert_exists");
	assert_string_equal(p2p_conflict_name(P2P_INSERT_DELETED), "insert_deleted");
	assert_string_equal(p2p_conflict_name(P2P_UPDATE_ORIGIN_DIFFERS), "update_origin_differs");
	assert_string_equal(p2p_conflict_name(P2P_UPDATE_DELETED), "update_deleted");
	assert_string_equal(p2p_conflict_name(P2P_UPDATE_MISSING), "update_missing");
	assert_string_equal(p2p_conflict_name(P2P_DELETE_ORIGIN_DIFFERS), "delete_origin_differs");
	assert_string_equal(p2p_conflict_name(P2P_DELETE_MISSING), "delete_missing");
}

/* ---- all orders: playing one history ---- */

static bool
leaves_row(Kind kind)
{
	return kind == KIND_INSERT || kind == KIND_UPDATE || kind == KIND_REINSERT;
}

/* Return the greatest transaction of a set, or NOBODY. */
static int
greatest_of(unsigned set)
{
	for (int i = MAX_TRANSACTIONS - 1; i >= 0; i--)
		if (set & (1u << i))
			return i;
	return NOBODY;
}

static void
store_row(Copy *copy, const P2pVersion *v, int writer)
{
	copy->key.row_exists = true;
	copy->key.row = *v;
	copy->writer = writer;
}

static void
raise_tombstone(Copy *copy, const P2pVersion *v)
{
	if (p2p_version_compare(v, &copy->key.tombstone) > 0)
		copy->key.tombstone = *v;
}

/* Return which conflict, if any, operation op of transaction i must be called. */
static P2pConflict
expected_conflict(const History *h, int i, P2pOp op, unsigned delivered)
{
	int			met = greatest_of(delivered);
	bool		row;

	if (met == NOBODY || met == i || h->origin[met] == h->origin[i] ||
		(h->past[i] & (1u << met)))
		return P2P_NO_CONFLICT;
	row = leaves_row(h->kind[met]);
	if (op == P2P_OP_INSERT)
		return row ? P2P_INSERT_EXISTS : P2P_INSERT_DELETED;
	if (op == P2P_OP_UPDATE)
		return row ? P2P_UPDATE_ORIGIN_DIFFERS : P2P_UPDATE_DELETED;
	return row ? P2P_DELETE_ORIGIN_DIFFERS : P2P_DELETE_MISSING;
}

/* Do what apply does with a decision; anything that can't be done here is a failure. */
static void
obey(Copy *copy, const History *h, int i, P2pOp op, const P2pDecision *d)
{
	bool		deletes = d->action == P2P_DELETE_ROW || d->action == P2P_REMEMBER_DELETE;

	if (d->incoming_wins == (d->action == P2P_KEEP) || d->remember != deletes ||
		(d->incoming_wins && deletes != (op == P2P_OP_DELETE)))
		fail_msg("decision contradicts itself");
	switch (d->action)
	{
		case P2P_KEEP:
			break;
		case P2P_INSERT_ROW:
			assert_false(copy->key.row_exists);
			store_row(copy, &h->version[i], i);
			break;
		case P2P_UPDATE_ROW:
			assert_true(copy->key.row_exists);
			store_row(copy, &h->version[i], i);
			break;
		case P2P_DELETE_ROW:
			assert_true(copy->key.row_exists);
			copy->key.row_exists = false;
			break;
		case P2P_REMEMBER_DELETE:
			assert_false(copy->key.row_exists);
			break;
	}
	if (d->remember)
		raise_tombstone(copy, &h->version[i]);
}

static void
apply_operation(Copy *copy, const History *h, int i, P2pOp op, unsigned delivered)
{
	P2pDecision d = p2p_resolve(op, &h->version[i], &h->deps[i], &copy->key);

	if (d.conflict != expected_conflict(h, i, op, delivered))
		fail_msg("transaction %d calls %s what is %s", i, p2p_conflict_name(d.conflict),
				 p2p_conflict_name(expected_conflict(h, i, op, delivered)));
	obey(copy, h, i, op, &d);
}

static void
apply_truncate(Copy *copy, const P2pVersion *v)
{
	if (copy->key.row_exists && p2p_version_compare(&copy->key.row, v) <= 0)
		copy->key.row_exists = false;
	raise_tombstone(copy, v);
}

/* Deliver transaction i to a copy that has `delivered`. */
static void
apply_transaction(Copy *copy, const History *h, int i, unsigned delivered)
{
	unsigned	with_first;

	switch (h->kind[i])
	{
		case KIND_INSERT:
			apply_operation(copy, h, i, P2P_OP_INSERT, delivered);
			break;
		case KIND_UPDATE:
			apply_operation(copy, h, i, P2P_OP_UPDATE, delivered);
			break;
		case KIND_DELETE:
			apply_operation(copy, h, i, P2P_OP_DELETE, delivered);
			break;
		case KIND_TRUNCATE:
			apply_truncate(copy, &h->version[i]);
			break;
		case KIND_REINSERT:
		case KIND_FLEETING:
			with_first = delivered | (1u << i);
			apply_operation(copy, h, i, h->kind[i] == KIND_REINSERT ? P2P_OP_DELETE : P2P_OP_INSERT,
							delivered);
			apply_operation(copy, h, i, h->kind[i] == KIND_REINSERT ? P2P_OP_INSERT : P2P_OP_DELETE,
							with_first);
			break;
		case N_KINDS:
			fail();
	}
}

/* Commit transaction i at its own origin: a client's write asks nobody. */
static void
commit_transaction(Copy *copy, const History *h, int i)
{
	if (leaves_row(h->kind[i]))
		store_row(copy, &h->version[i], i);
	else
		copy->key.row_exists = false;
	if (h->kind[i] != KIND_INSERT && h->kind[i] != KIND_UPDATE)
		raise_tombstone(copy, &h->version[i]);
}

/* Fail unless the copy is what the greatest of the delivered transactions says. */
static void
check_copy(const Copy *copy, const History *h, unsigned delivered)
{
	int			greatest = greatest_of(delivered);
	bool		row = leaves_row(h->kind[greatest]);

	if (copy->key.row_exists != row)
		fail_msg("row %s, though transaction %d is the greatest of set %x",
				 row ? "is missing" : "is there", greatest, delivered);
	if (row && copy->writer != greatest)
		fail_msg("row is of transaction %d, though %d is the greatest of set %x",
				 copy->writer, greatest, delivered);
}

/* Forget versions that all transactions still to come have in their past: they are stable. */
static void
forget_stable(Copy *copy, const History *h, unsigned delivered)
{
	static const P2pVersion ancient = {0};

	for (int i = 0; i < h->n; i++)
	{
		bool		stable = true;

		for (int j = 0; j < h->n; j++)
			if (!(delivered & (1u << j)) && !(h->past[j] & (1u << i)))
				stable = false;
		if (!stable || !(delivered & (1u << i)))
			continue;
		if (p2p_version_compare(&copy->key.row, &h->version[i]) == 0)
			copy->key.row = ancient;
		if (p2p_version_compare(&copy->key.tombstone, &h->version[i]) == 0)
			copy->key.tombstone = ancient;
	}
}

/* Deliver everything once more: nothing may change. */
static void
check_repetition(Copy copy, const History *h)
{
	unsigned	all = (1u << h->n) - 1;

	for (int i = 0; i < h->n; i++)
	{
		apply_transaction(&copy, h, i, all);
		check_copy(&copy, h, all);
	}
}

/* Go on from a copy with `delivered` in every order that can happen at this node. */
static void
play_orders(Play *play, const Copy *copy, unsigned delivered)
{
	const History *h = play->history;

	if (delivered == (1u << h->n) - 1)
	{
		play->ends++;
		if (!play->forgetting)
			check_repetition(*copy, h);
		return;
	}
	for (int i = 0; i < h->n; i++)
	{
		Copy		next = *copy;
		unsigned	bit = 1u << i;
		bool		own = (h->origin[i] == play->node);

		if ((delivered & bit) || (h->past[i] & ~delivered))
			continue;
		if (own && delivered != h->past[i])
			continue;			/* it was committed before something that is here */
		if (own)
			commit_transaction(&next, h, i);
		else
			apply_transaction(&next, h, i, delivered);
		check_copy(&next, h, delivered | bit);
		if (play->forgetting)
			forget_stable(&next, h, delivered | bit);
		play_orders(play, &next, delivered | bit);
	}
}

static void
play_history(const History *h, int n_origins)
{
	n_histories++;
	for (int node_no = OBSERVER; node_no < n_origins; node_no++)
		for (int how = 0; how < 4; how++)
		{
			Play		play = {.history = h, .node = node_no, .forgetting = (how & 1) != 0};
			Copy		copy = {.key = {.row_exists = (how & 2) != 0}, .writer = NOBODY};

			play_orders(&play, &copy, 0);
			if (play.ends == 0)
				fail_msg("no order is possible at node %d", node_no);
			n_orders += play.ends;
		}
}

/* ---- all orders: making the histories ---- */

/* Say whether a transaction may share the stamp of those from first on before it. */
static bool
may_share_stamp(const History *h, int first, int i)
{
	for (int j = first; j < i; j++)
		if (h->past[i] & (1u << j))
			return false;
	return h->origin[i - 1] < h->origin[i];
}

/* Give versions with equal stamps where ties has a bit; false if these can't be. */
static bool
give_versions(History *h, unsigned ties)
{
	P2pStamp	stamp = 100;
	int			first = 0;		/* of those with this stamp */

	for (int i = 0; i < h->n; i++)
	{
		uint64_t	seq = 1;

		if (ties & (1u << i))
		{
			if (i == 0 || !may_share_stamp(h, first, i))
				return false;
		}
		else
		{
			stamp++;
			first = i;
		}
		for (int j = 0; j < i; j++)
			seq += h->origin[j] == h->origin[i];
		h->version[i] = version_of(stamp, (uint32_t) h->origin[i], seq);
	}
	return true;
}

/* Give deps that say exactly what past says, the own origin left out. */
static void
give_deps(History *h)
{
	for (int i = 0; i < h->n; i++)
	{
		p2p_vector_clear(&h->deps[i]);
		for (int j = 0; j < i; j++)
			if ((h->past[i] & (1u << j)) && h->origin[j] != h->origin[i])
				assert_true(p2p_vector_raise(&h->deps[i], &h->version[j].dot.origin,
											 h->version[j].dot.seq));
	}
}

static void
play_all_kinds(History *h, int i, int n_origins, Kind n_kinds)
{
	if (i == h->n)
	{
		play_history(h, n_origins);
		return;
	}
	for (Kind kind = 0; kind < n_kinds; kind++)
	{
		h->kind[i] = kind;
		play_all_kinds(h, i + 1, n_origins, n_kinds);
	}
}

/* Say whether past is one that transaction i can have: closed, and with its origin's earlier ones. */
static bool
past_is_causal(const History *h, int i, unsigned past)
{
	for (int j = 0; j < i; j++)
	{
		bool		seen = (past & (1u << j)) != 0;

		if (!seen && h->origin[j] == h->origin[i])
			return false;
		if (seen && (h->past[j] & ~past))
			return false;
	}
	return true;
}

/* Choose origin and past of transaction i in all ways, origins named as they first appear. */
static void
play_all_shapes(History *h, int i, int n_origins, Kind n_kinds)
{
	if (i == h->n)
	{
		for (unsigned ties = 0; ties < 1u << h->n; ties++)
			if (give_versions(h, ties))
			{
				give_deps(h);
				play_all_kinds(h, 0, n_origins, n_kinds);
			}
		return;
	}
	for (h->origin[i] = 0; h->origin[i] <= n_origins; h->origin[i]++)
		for (unsigned past = 0; past < 1u << i; past++)
			if (past_is_causal(h, i, past))
			{
				h->past[i] = past;
				play_all_shapes(h, i + 1,
								h->origin[i] == n_origins ? n_origins + 1 : n_origins, n_kinds);
			}
}

static void
play_everything(int n, Kind n_kinds)
{
	static History h;

	n_histories = 0;
	n_orders = 0;
	h.n = n;
	play_all_shapes(&h, 0, 0, n_kinds);
	print_message("# %d transactions of %d kinds: %lu histories, %lu orders\n", n, (int) n_kinds,
				  n_histories, n_orders);
}

static void
test_resolve_all_orders_of_up_to_three_transactions_converge(void **state)
{
	(void) state;
	for (int n = 1; n <= 3; n++)
		play_everything(n, N_KINDS);
}

static void
test_resolve_all_orders_of_four_transactions_converge(void **state)
{
	(void) state;
	play_everything(4, N_SIMPLE_KINDS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resolve_follows_the_table),
		cmocka_unit_test(test_resolve_reads_deps_at_the_exact_seq),
		cmocka_unit_test(test_resolve_same_origin_is_never_a_conflict),
		cmocka_unit_test(test_resolve_takes_an_earlier_epoch_for_another_origin),
		cmocka_unit_test(test_resolve_later_operation_of_a_transaction_wins),
		cmocka_unit_test(test_in_past_knows_own_and_foreign_origins),
		cmocka_unit_test(test_conflict_names_are_those_of_the_server),
		cmocka_unit_test(test_resolve_all_orders_of_up_to_three_transactions_converge),
		cmocka_unit_test(test_resolve_all_orders_of_four_transactions_converge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
