/*
 * exhaustive_both.c
 *	  Rows that are made of key sets, in a table with a further unique index, kept
 *	  step by step as the server keeps them.
 *
 * What a key comes to is said by its set (tracked_judge), with the version of the
 * set's winner, who may have been a delete. Whether that row stands in the table is then
 * a matter of its version and those of the rows in the table that claim the same
 * value; two of one transaction are ordered by their keys.
 *
 *	  rows			the table; writer is what the row's xmin says
 *	  displaced		kept out of it, with their exact versions (writer)
 *	  pins			exact versions of rows in the table that displace others
 *	  noted			what the own log has told of local writes to keys of displaced rows
 *	  dirty			the displaced rows are to be walked over
 *	  rechecked		what may be forgotten: displaced rows were judged after it
 *
 * A local client sees the table only. So he may insert the key of a displaced row, and both are here
 * until somebody looks; and a key whose row is displaced is not locked while it
 * is judged, unless there comes to be no row of it (hold_absent of the server).
 *
 * What the server does here: src/pg/apply_tracked.c, apply_unique.c, displaced_notes.c,
 * displaced_follow.c, tracked_follow.c.
 */
#include <string.h>

#include "exhaustive.h"

/* One key in work: RpTrackedKey. */
typedef struct Work
{
	const History *history;
	Node	   *node;
	int			self;
	int			key;
	int			writer;			/* what the xmin of a row stored will say */
	int			newcomer;		/* index in the set; -1: none */
	bool		in_table;
	bool		is_displaced;
	bool		over_displaced;
	bool		hands_off;
	bool		held;
	Row			here;
	Verdict		verdict;
} Work;

static void look(Work *w);
static int	counted(const Work *w, int key);
static void settle(Work *w);
static void judge(Work *w);
static bool store(Work *w);
static bool unique_store(Work *w, int key, Row row, bool in_table);
static int	claimant(const Node *node, int key, const Row *row);
static int	version_in_table(Work *w, int key);
static bool stands(int key, int version, int other, int others_version);
static void displace(Node *node, int key, const Row *row, int version);
static void pin(Node *node, int key, int version);
static void drop_displaced(Node *node, int key);
static void truncate(const History *history, Node *node, int self, int txn);
static bool is_deleted(const Node *node, int key);
static void settle_truncated(Work *w, int key, int txn, bool in_table);
static void apply_notes(Work *w);
static bool sum_is_due(const Work *w, int key);
static int	next_displaced(const Node *node, unsigned looked_at);
static void come_back(Work *w, int key);

/* ---- one key ---- */

static int
origin_of(const Work *w, int writer)
{
	return writer == 0 ? -1 : w->history->txns[writer - 1].origin;
}

/* Lock a key, and the value that its row claims. */
static void
lock(Node *node, int key, const Row *row)
{
	node->locked |= (uint8_t) (1u << key);
	if (row->image != 0)
		node->values_locked |= (uint8_t) (1u << rules_claim(row));
}

/* Does what becomes of a key hang on more than the winner here? */
static bool
absence_matters(const Work *w)
{
	bool		matters = setting->handler == CUSTOM || setting->merge == MAX ||
		setting->merge == MIN;

	for (int i = 0; i < w->history->n; i++)
		matters |= w->history->txns[i].change >= 0 && in(w->node->applied, i);
	return matters;
}

/* Find the row, in either place; whoever wrote it is captured then. */
static void
look(Work *w)
{
	Node	   *node = w->node;
	Row		   *row = &node->rows[w->key];

	if (origin_of(w, row->writer) == w->self)
		node_capture(w->history, node, w->self, row->writer - 1);
	/* no client can remove a displaced row, so who has superseded it is asked for: he may be less than us */
	if (row->image == 0 && node->displaced[w->key].image != 0 && plant != PLANT_unread_truncate)
		node_capture(w->history, node, w->self, w->history->n - 1);
	if (plant != PLANT_late_notes)
		apply_notes(w);
	w->in_table = row->image != 0;
	w->is_displaced = !w->in_table && node->displaced[w->key].image != 0;
	w->over_displaced = w->in_table && node->displaced[w->key].image != 0;
	w->here = w->in_table ? *row : node->displaced[w->key];
	if (w->in_table)
		node->locked |= (uint8_t) (1u << w->key);
	if (w->over_displaced && setting->merge == COUNTER)
		w->here.column = (int16_t) (w->here.column + counted(w, w->key));
}

/* What a displaced row has counted that is to be added to what a client has inserted over it. */
static int
counted(const Work *w, int key)
{
	const P2pKeySet *set = &w->node->sets[key];
	const Row  *displaced = &w->node->displaced[key];

	if (tracked_writer(w->history, p2p_keyset_last_delete(set)) > displaced->writer ||
		tracked_writer(w->history, p2p_keyset_base(set)) > displaced->writer)
		return 0;
	return displaced->column;
}

/* Have stand here what the set comes to. */
static void
settle(Work *w)
{
	Node	   *node = w->node;
	P2pKeySet  *set = &node->sets[w->key];
	uint32_t	known = set->count;
	const void *newcomer = w->newcomer < 0 ? NULL : set->versions[w->newcomer].payload;

	judge(w);
	if (!store(w))
		return;

	/* it is ours, or held; local deletes that were not known are now (or since it was judged) */
	if (plant == PLANT_late_count)
		known = set->count;
	node_capture(w->history, node, w->self, w->history->n - 1);
	if (set->count == known)
		return;
	if (plant != PLANT_unmoved)
		w->newcomer = tracked_index(set, newcomer); /* it may have moved */
	w->in_table = node->rows[w->key].image != 0;
	w->is_displaced = !w->in_table && node->displaced[w->key].image != 0;
	judge(w);
	(void) store(w);
}

static void
judge(Work *w)
{
	w->verdict = tracked_judge(w->history, w->node, w->self, w->key, w->newcomer, w->here);
}

/* Store what was judged; true: there was no row, and nobody can make one (but if it is displaced). */
static bool
store(Work *w)
{
	Node	   *node = w->node;
	Row			row = w->verdict.row;
	bool		same = row.image == w->here.image && row.column == w->here.column &&
		memcmp(row.unique, w->here.unique, sizeof row.unique) == 0;

	if (w->verdict.winner == 0 || w->hands_off)
		return false;
	if (row.image == 0 && !w->in_table)
	{
		if (w->is_displaced)
			drop_displaced(node, w->key);
		if (w->held || w->newcomer < 0 || !absence_matters(w))
			return false;
		node->locked |= (uint8_t) (1u << w->key);
		w->held = true;
		return true;
	}
	if (row.image == 0)
	{
		node->dirty |= node->may_displace;
		lock(node, w->key, &node->rows[w->key]);
		node->rows[w->key] = (Row) {0};
		if (w->over_displaced)
			drop_displaced(node, w->key);
		return false;
	}
	if (same && !w->verdict.rewrite && !w->over_displaced && !w->verdict.newcomer_wins)
		return false;
	row.writer = (uint8_t) w->verdict.winner;
	if (unique_store(w, w->key, row, w->in_table) && w->over_displaced)
		drop_displaced(node, w->key);
	return !w->in_table;
}

/* ---- claims: apply_unique.c ---- */

/* Store a row, of version row.writer, in the table; false: it is displaced. */
static bool
unique_store(Work *w, int key, Row row, bool in_table)
{
	Node	   *node = w->node;
	int			version = row.writer;
	int			other = claimant(node, key, &row);
	int			others_version = other < 0 ? 0 : version_in_table(w, other);

	node->dirty |= node->may_displace;
	if (node->pins[key] != 0)
		node->pins[key] = (uint8_t) version;
	if (in_table)
		lock(node, key, &node->rows[key]);
	if (other >= 0)
		lock(node, other, &node->rows[other]);
	if (other >= 0 && !stands(key, version, other, others_version))
	{
		if (others_version >= version)
			pin(node, other, others_version);
		if (w->newcomer >= 0 && absence_matters(w) && plant != PLANT_unheld)
			node->locked |= (uint8_t) (1u << key);
		node->rows[key] = (Row) {0};
		displace(node, key, &row, version);
		return false;
	}
	if (other >= 0)
	{
		Row			theirs = node->rows[other];

		/* of a client, over a displaced one: what both have counted is not added up yet */
		if (node->displaced[other].image != 0 && setting->merge == COUNTER &&
			plant != PLANT_lost_count)
			theirs.column = (int16_t) (theirs.column + counted(w, other));
		pin(node, key, version);
		displace(node, other, &theirs, others_version);
		node->rows[other] = (Row) {0};
	}
	row.writer = (uint8_t) w->writer;
	row.raw = row.displaced = false;
	node->rows[key] = row;
	lock(node, key, &row);
	if (!in_table && node->may_displace)
		drop_displaced(node, key);
	return true;
}

/* The row in the table, of another key, that claims what this one does; -1: none. */
static int
claimant(const Node *node, int key, const Row *row)
{
	for (int other = 0; other < n_keys; other++)
		if (other != key && rules_rows_conflict(row, &node->rows[other]))
			return other;
	return -1;
}

/*
 * The version of the row of a key that is in the table; its writer is captured then. The set may have
 * forgotten its winner, and still have another that lost to it; and a pin is never of an earlier row.
 */
static int
version_in_table(Work *w, int key)
{
	Node	   *node = w->node;
	int			version;

	if (origin_of(w, node->rows[key].writer) == w->self)
		node_capture(w->history, node, w->self, node->rows[key].writer - 1);
	version = tracked_writer(w->history, p2p_keyset_winner(&node->sets[key]));
	if (!node->may_displace || (version > 0 && plant == PLANT_low_winner))
		return version;
	return version > node->pins[key] ? version : node->pins[key];
}

/* Is the row in hand greater than the other? (Of those older than everything only the other is in its table.) */
static bool
stands(int key, int version, int other, int others_version)
{
	if (version != others_version)
		return version > others_version;
	return version == 0 || plant == PLANT_tie_in_hand || key > other;
}

static void
displace(Node *node, int key, const Row *row, int version)
{
	node->displaced[key] = *row;
	node->displaced[key].writer = (uint8_t) version;
	node->displaced[key].raw = false;
	node->known_to[key] = node->captured;
	node->may_be_displaced |= (uint8_t) (1u << key);
	node->may_displace = node->dirty = true;
	if (!node->holds)
		node->rechecked = 0;
	node->holds = true;
}

static void
pin(Node *node, int key, int version)
{
	if (version != 0 && plant != PLANT_no_pins)
		node->pins[key] = (uint8_t) version;
}

static void
drop_displaced(Node *node, int key)
{
	node->displaced[key] = (Row) {0};
	node->known_to[key] = 0;
	node->dirty |= node->may_displace;
}

/* ---- apply ---- */

void
both_act(const History *history, Node *node, int self, int txn)
{
	const Txn  *t = &history->txns[txn];

	if (t->truncate)
	{
		truncate(history, node, self, txn);
		return;
	}
	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Work		w = {
			.history = history, .node = node, .self = self, .key = op->key, .writer = txn + 1
		};

		look(&w);
		tracked_add(history, node, txn, op);
		w.newcomer = tracked_index(&node->sets[op->key], op);
		settle(&w);
		if (op->op == P2P_OP_DELETE && node->tombstone[op->key] <= txn)
			node->tombstone[op->key] = (uint8_t) (txn + 1);
	}
}

/* rp_apply_truncate, rp_tracked_truncate */
static void
truncate(const History *history, Node *node, int self, int txn)
{
	const Txn  *t = &history->txns[txn];
	Work		w = {.history = history, .node = node, .self = self, .writer = txn + 1};
	unsigned	rows = 0;

	node_capture(history, node, self, history->n - 1);
	for (int key = 0; key < n_keys; key++)
	{
		tracked_add(history, node, txn, &t->ops[key]);
		if (both_is_contested(node, key))
			node->touched |= (uint8_t) (1u << key);
		if (node->rows[key].image != 0)
			rows |= 1u << key;
	}
	for (int key = 0; key < n_keys; key++)
		if (in(rows, key))
			settle_truncated(&w, key, txn, true);
	for (int key = 0; key < n_keys; key++)
		if (both_is_contested(node, key))
			settle_truncated(&w, key, txn, false);
	for (int key = 0; key < n_keys; key++)
	{
		node->locked |= (uint8_t) (1u << key);
		if (node->tombstone[key] <= txn)
			node->tombstone[key] = (uint8_t) (txn + 1);
		if (plant == PLANT_truncate_displaced ? node->displaced[key].writer <= txn + 1 :
			is_deleted(node, key))
			drop_displaced(node, key);
	}
}

/* Do only deletes stand? */
static bool
is_deleted(const Node *node, int key)
{
	const P2pKeyVersion *standing[MAX_VERSIONS];
	uint32_t	n = p2p_keyset_standing(&node->sets[key], standing, MAX_VERSIONS);
	bool		deleted = true;

	for (uint32_t i = 0; i < n; i++)
		deleted &= standing[i]->op == P2P_OP_DELETE;
	return deleted;
}

/* Judge a key of a truncated table, that has a row in it or has none. */
static void
settle_truncated(Work *w, int key, int txn, bool in_table)
{
	Node	   *node = w->node;
	const Op   *op = &w->history->txns[txn].ops[key];

	if (in_table != (node->rows[key].image != 0))
		return;
	w->key = key;
	w->held = w->hands_off = false;
	look(w);
	w->newcomer = tracked_index(&node->sets[key], op);
	settle(w);
}

/* ---- clients ---- */

/* Can a client here, who sees the rows in the table, do this? */
bool
both_may_write(const History *history, const Node *node, int txn)
{
	const Txn  *t = &history->txns[txn];
	bool		moves = t->nops == 2 && t->ops[0].op == P2P_OP_DELETE && t->ops[1].op != P2P_OP_DELETE;
	Row			seen[MAX_KEYS];
	Row			after[MAX_KEYS];

	if (t->truncate)
		return true;
	rules_both(history, t->past, seen);
	memcpy(after, node->rows, sizeof after);
	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &after[op->key];
		Row			stored = rules_stored(op);
		bool		saw = seen[op->key].image != 0 && !seen[op->key].displaced;

		if (saw != (row->image != 0) || in(node->locked, op->key))
			return false;
		if (saw && (rules_may_count() || moves) && row->column != seen[op->key].column)
			return false;
		if (saw && moves && row->unique[0] != seen[op->key].unique[0])
			return false;
		if (stored.image != 0 && in(node->values_locked, rules_claim(&stored)) &&
			rules_claim(&stored) != 0)
			return false;
		for (int key = 0; key < n_keys; key++)
			if (key != op->key && rules_rows_conflict(&stored, &after[key]))
				return false;
		*row = stored;
	}
	return true;
}

/* A client commits here. */
void
both_write(const History *history, Node *node, int txn)
{
	const Txn  *t = &history->txns[txn];

	for (int o = 0; o < t->nops; o++)
	{
		Row		   *row = &node->rows[t->ops[o].key];

		*row = rules_stored(&t->ops[o]);
		if (row->image != 0)
			row->writer = (uint8_t) (txn + 1);
	}
}

/* ---- what local writes mean: rp_keyset_put, displaced_notes.c ---- */

bool
both_is_contested(const Node *node, int key)
{
	const P2pKeyVersion *standing[2];

	return p2p_keyset_standing(&node->sets[key], standing, 2) > 1;
}

void
both_captured(const History *history, Node *node, int txn, const Op *op, bool contested)
{
	if (contested || both_is_contested(node, op->key))
		node->touched |= (uint8_t) (1u << op->key);
	if (op->op == P2P_OP_DELETE && node->tombstone[op->key] <= txn)
		node->tombstone[op->key] = (uint8_t) (txn + 1);
	if (!node->may_displace)
		return;
	node->dirty = true;
	if (history->txns[txn].truncate)
	{
		if (node->noted_all <= txn)
			node->noted_all = (uint8_t) (txn + 1);
	}
	else if (in(node->may_be_displaced, op->key))
	{
		if (node->noted[op->key] <= txn)
			node->noted[op->key] = (uint8_t) (txn + 1);
		if (op->op != P2P_OP_DELETE && setting->merge == COUNTER)
			node->touched |= (uint8_t) (1u << op->key);
	}
}

/* A client has inserted the key of a displaced row: is to be added up what both have counted? */
static bool
sum_is_due(const Work *w, int key)
{
	const P2pKeyVersion *winner = p2p_keyset_winner(&w->node->sets[key]);

	return setting->merge == COUNTER && winner != NULL && winner->op != P2P_OP_DELETE;
}

/* Is what a client wrote greater than the displaced row of a key, and news to it? */
static bool
is_greater(const Node *node, int key, int written)
{
	return written > node->displaced[key].writer &&
		(!in(node->known_to[key], written - 1) || plant == PLANT_known_notes);
}

/* Forget the displaced rows that local writes have superseded. */
static void
apply_notes(Work *w)
{
	Node	   *node = w->node;

	for (int key = 0; key < n_keys && plant != PLANT_no_notes; key++)
	{
		int			winner = tracked_writer(w->history, p2p_keyset_winner(&node->sets[key]));
		bool		forget = false;

		if (node->displaced[key].image == 0)
			continue;
		forget |= plant == PLANT_truncate_of_old && node->noted_all > node->displaced[key].writer;
		forget |= is_greater(node, key, node->noted_all) &&
			(winner == 0 || origin_of(w, winner) == w->self);
		forget |= is_greater(node, key, node->noted[key]) && !sum_is_due(w, key) &&
			(winner == 0 || origin_of(w, winner) == w->self);
		if (forget)
		{
			node->displaced[key] = (Row) {0};
			node->known_to[key] = 0;
		}
	}
}

/* tracked_follow.c: fold a client's own row again if several versions stand */
void
both_follow_up(const History *history, Node *node, int self, int key)
{
	Work		w = {.history = history, .node = node, .self = self, .key = key, .newcomer = -1};
	const P2pKeySet *set = &node->sets[key];
	bool		has_row = false;
	bool		raw = false;

	node->touched &= (uint8_t) ~(1u << key);
	for (uint32_t i = 0; i < set->count; i++)
		has_row |= set->versions[i].op != P2P_OP_DELETE;
	if (plant == PLANT_no_follow_up || !has_row)
		return;
	look(&w);
	for (uint32_t i = 0; i < set->count && origin_of(&w, node->rows[key].writer) == self; i++)
		raw |= tracked_writer(history, &set->versions[i]) == node->rows[key].writer &&
			(plant == PLANT_fold_winner || set->versions[i].version.stamp !=
			 p2p_keyset_winner(set)->version.stamp);
	w.hands_off = !raw && !w.over_displaced;
	settle(&w);
	node->locked = 0;
	node->values_locked = 0;
}

/* ---- coming back: displaced_follow.c ---- */

bool
both_is_to_walk(const Node *node, unsigned own)
{
	if (!node->may_displace)
		return node->holds;
	return node->dirty || (node->captured & own & ~(unsigned) node->rechecked) != 0;
}

void
both_walk(const History *history, Node *node, int self, bool partly)
{
	Work		w = {.history = history, .node = node, .self = self, .newcomer = -1};
	unsigned	looked_at = 0;
	unsigned	pinned = 0;
	uint8_t		known = 0;
	int			key = -1;
	bool		left = false;

	if (!node->may_displace)
	{
		node->holds = false;
		return;
	}
	for (int i = 0; i < history->n; i++)
		if (in(node->applied, i) && (history->txns[i].origin != self || in(node->captured, i)))
			known |= (uint8_t) (1u << i);
	apply_notes(&w);
	memset(node->noted, 0, sizeof node->noted);
	node->noted_all = 0;
	if (node->dirty)
	{
		node->dirty = false;
		while ((key = next_displaced(node, looked_at)) >= 0)
		{
			int			other = claimant(node, key, &node->displaced[key]);
			int			version = node->displaced[key].writer;
			int			others_version = other < 0 ? 0 : version_in_table(&w, other);

			looked_at |= 1u << key;
			if (other >= 0 && others_version >= version)
			{
				pinned |= 1u << other;
				pin(node, other, others_version);
			}
			if (other >= 0 && !stands(key, version, other, others_version))
				continue;
			come_back(&w, key);
			node->dirty = true;
			if (partly)
				break;
		}
		if (!partly || key < 0)
		{
			for (int other = 0; other < n_keys; other++)
			{
				left |= node->displaced[other].image != 0;
				if (!in(pinned, other) || plant == PLANT_lost_pin)
					node->pins[other] = 0;
			}
			if (!left)
			{
				node->may_displace = node->dirty = false;
				node->may_be_displaced = 0;
			}
		}
	}
	if (!partly || key < 0)
		node->rechecked = known;
	node->locked = 0;
	node->values_locked = 0;
}

/* The greatest displaced row that was not looked at; -1: none. */
static int
next_displaced(const Node *node, unsigned looked_at)
{
	int			next = -1;

	for (int key = 0; key < n_keys; key++)
		if (node->displaced[key].image != 0 && !in(looked_at, key) &&
			(next < 0 || node->displaced[key].writer >= node->displaced[next].writer))
			next = key;
	return next;
}

/* row_return: put a row back into the table, under its own version */
static void
come_back(Work *w, int key)
{
	Node	   *node = w->node;
	Row			row = node->displaced[key];
	const P2pKeyVersion *winner;
	uint8_t		known_to = node->known_to[key];
	int			written;

	if (node->rows[key].image != 0)
	{
		if (plant != PLANT_early_superseded)
			(void) version_in_table(w, key);
		/* a client has inserted the key: his version is greater */
		if (sum_is_due(w, key))
			node->touched |= (uint8_t) (1u << key);
		else
			drop_displaced(node, key);
		return;
	}
	drop_displaced(node, key);
	w->writer = row.writer;
	if (!unique_store(w, key, row, false))
		return;
	if (plant != PLANT_late_pin)
		pin(node, key, row.writer);
	node_capture(w->history, node, w->self, w->history->n - 1);
	written = node->noted[key] > node->noted_all ? node->noted[key] : node->noted_all;
	if (plant == PLANT_delete_of_old && node->tombstone[key] > written)
		written = node->tombstone[key];
	winner = p2p_keyset_winner(&node->sets[key]);
	if (written > row.writer && origin_of(w, written) == w->self &&
		(plant == PLANT_delete_of_old || !in(known_to, written - 1)) &&
		(plant == PLANT_delete_of_old ||
		 (!sum_is_due(w, key) && (winner == NULL || origin_of(w, tracked_writer(w->history, winner)) == w->self))))
		node->rows[key] = (Row) {0};
}

/* What may be forgotten of what is stable: rp_droppable_seq; and nothing while a handler change is new */
unsigned
both_may_forget(const History *history, const Node *node, unsigned own, unsigned stable)
{
	unsigned	rechecked = node->rechecked;

	for (int i = 0; i < history->n; i++)
		for (int j = 0; j < history->n && history->txns[i].change >= 0 && in(node->applied, i); j++)
			if (!in(history->txns[j].past, i) && !in(stable | node->forgotten, j))
				return 0;
	if (!node->holds)
		return stable;
	if (!both_is_to_walk(node, own))
		rechecked |= node->applied & ~own;
	return stable & rechecked;
}

/* ---- restart ---- */

/* Which of its own forgotten transactions does a restart know again? rp_handlers_is_past leaves out the others. */
unsigned
both_is_left(const History *history, const Node *node, unsigned own)
{
	unsigned	left = node->forgotten & own;

	for (int i = 0; i < history->n; i++)
	{
		bool		settled = history->txns[i].change >= 0 && in(node->applied, i);

		for (int j = 0; j < history->n; j++)
			settled &= in(history->txns[j].past, i) || in(node->forgotten, j);
		for (int j = 0; settled && j < history->n; j++)
			if (!in(history->txns[j].past, i))
				left &= ~(1u << j);
	}
	return left;
}

void
both_restart(const History *history, Node *node, unsigned logged, unsigned own)
{
	node->may_displace = false;
	node->may_be_displaced = 0;
	node->rechecked = 0;
	memset(node->noted, 0, sizeof node->noted);
	node->noted_all = 0;
	for (int key = 0; key < n_keys; key++)
		if (node->displaced[key].image != 0)
		{
			node->may_displace = true;
			node->may_be_displaced |= (uint8_t) (1u << key);
		}
	node->holds = node->may_displace;
	node->dirty = node->may_displace && plant != PLANT_lost_dirty;
	for (int i = 0; i < history->n; i++)
		for (int o = 0; in(logged & own, i) && o < history->txns[i].nops; o++)
			both_captured(history, node, i, &history->txns[i].ops[o], false);
	if (plant == PLANT_lost_dirty)
		node->dirty = false;
	for (int key = 0; key < n_keys; key++)
		if (both_is_contested(node, key))
			node->touched |= (uint8_t) (1u << key);
}

/* ---- what it came to ---- */

bool
both_is_quiet(const Node *node)
{
	for (int key = 0; key < n_keys; key++)
		if (node->noted[key] != 0)
			return false;
	return !node->dirty && node->touched == 0 && node->noted_all == 0;
}

bool
both_is_right(const History *history, const Node *node)
{
	Row			rows[MAX_KEYS];

	rules_both(history, node->applied, rows);
	for (int key = 0; key < n_keys; key++)
	{
		const Row  *must = &rows[key];
		const Row  *row = &node->rows[key];

		if (must->displaced || must->image == 0)
		{
			if (row->image != 0 || (node->displaced[key].image != 0) != must->displaced)
				return false;
			row = &node->displaced[key];
		}
		else if (node->displaced[key].image != 0)
			return false;
		if (row->image != must->image || (row->image != 0 &&
										  (row->column != must->column ||
										   row->unique[0] != must->unique[0])))
			return false;
	}
	return true;
}
