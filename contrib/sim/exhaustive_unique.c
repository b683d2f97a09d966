/*
 * exhaustive_unique.c
 *	  Rows that may be displaced by second unique keys, kept step by step as the
 *	  server keeps them.
 *
 * Which version of a key is the live row is said by p2p_resolve; whether that
 * row stands in the table or is displaced, by p2p_unique_judge, for what an
 * arrival has changed. A local client knows nothing of displaced rows: what it
 * frees is noticed later (touched), and until then verdicts may be out of date.
 *
 * Handles of rows are key + 1. Versions of rows are forgotten once stable, as the version index
 * does, but for rows that are displaced or conflict with a displaced one.
 */
#include "exhaustive.h"

/* What p2p_unique_judge is given. */
typedef struct Arg
{
	const History *history;
	Node	   *node;
} Arg;

static int	version_of(const Node *node, int key);
static uint32_t conflicting(const Arg *arg, const Op *op, int key, P2pUniqueRow *out);
static void judge(Arg *arg, const P2pUniqueRow *rows, uint32_t n);

static const Op *
op_here(const Arg *arg, int key)
{
	return rules_row_op(arg->history, arg->node->rows[key].writer, key);
}

/* Return the version of a live row as the node knows it: transaction + 1; 0 = older than everything. */
static int
version_of(const Node *node, int key)
{
	int			writer = node->rows[key].writer;

	if (writer > 0 && in(node->forgotten, writer - 1) && !in(node->pinned, key))
		return 0;
	return writer;
}

static int
compare(void *arg, P2pUniqueRow a, P2pUniqueRow b)
{
	const Node *node = ((Arg *) arg)->node;
	int			order = version_of(node, (int) a - 1) - version_of(node, (int) b - 1);

	if (order != 0)
		return order;
	return (a > b) - (a < b);	/* both older than everything: they don't conflict */
}

static bool
is_kept(void *arg, P2pUniqueRow row)
{
	return !((Arg *) arg)->node->rows[row - 1].displaced;
}

static uint32_t
neighbours(void *arg, P2pUniqueRow row, P2pUniqueRow *out, uint32_t max)
{
	(void) max;
	return conflicting(arg, op_here(arg, (int) row - 1), (int) row - 1, out);
}

static void
set_kept(void *arg, P2pUniqueRow row, bool kept)
{
	Row		   *noted = &((Arg *) arg)->node->rows[row - 1];

	noted->displaced = !kept;
	if (!kept && plant == PLANT_drop_loser)
		*noted = (Row) {0};
}

/* Find the live rows of other keys that conflict with what op says. */
static uint32_t
conflicting(const Arg *arg, const Op *op, int key, P2pUniqueRow *out)
{
	uint32_t	n = 0;

	for (int other = 0; other < n_keys; other++)
		if (other != key && arg->node->rows[other].image != 0 &&
			rules_conflict(op, op_here(arg, other)))
			out[n++] = (P2pUniqueRow) other + 1;
	return n;
}

static void
judge(Arg *arg, const P2pUniqueRow *rows, uint32_t n)
{
	const P2pUniqueTable table = {
		.arg = arg, .compare = compare, .is_kept = is_kept, .neighbours = neighbours,
		.set_kept = set_kept
	};

	if (plant != PLANT_no_chain)
	{
		(void) p2p_unique_judge(&table, rows, n);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
	{
		P2pUniqueRow found[MAX_KEYS];
		uint32_t	n_found = neighbours(arg, rows[i], found, MAX_KEYS);
		bool		kept = true;

		for (uint32_t f = 0; f < n_found; f++)
			kept &= compare(arg, found[f], rows[i]) < 0 || !is_kept(arg, found[f]);
		set_kept(arg, rows[i], kept);
	}
}

/* Apply a transaction, all but its commit. */
void
unique_act(const History *history, Node *node, int txn)
{
	const Txn  *t = &history->txns[txn];
	Arg			arg = {history, node};
	P2pUniqueRow rows[4 * MAX_OPS * MAX_KEYS];
	uint32_t	n = 0;

	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &node->rows[op->key];
		int			tombstone = node->tombstone[op->key];
		P2pKeyState here = {.row_exists = row->image != 0};
		P2pDecision decision;

		if (row->image != 0 && version_of(node, op->key) > 0)
			here.row = history->txns[row->writer - 1].version;
		if (tombstone > 0 && !in(node->forgotten, tombstone - 1))
			here.tombstone = history->txns[tombstone - 1].version;
		decision = p2p_resolve(op->op, &t->version, &t->deps, &here);
		if (!decision.incoming_wins)
			continue;
		if (row->image != 0)
			n += conflicting(&arg, op_here(&arg, op->key), op->key, rows + n);
		node->locked = (uint8_t) ((1u << n_keys) - 1);
		node->pinned &= (uint8_t) ~(1u << op->key);
		if (op->op == P2P_OP_DELETE)
		{
			*row = (Row) {0};
			node->tombstone[op->key] = (uint8_t) (txn + 1);
			continue;
		}
		/* not kept until it is said to be, unless a row of that key stands already */
		row->displaced |= row->image == 0;
		row->image = op->image;
		row->writer = (uint8_t) (txn + 1);
		rows[n++] = (P2pUniqueRow) op->key + 1;
		n += conflicting(&arg, op, op->key, rows + n);
	}
	for (uint32_t i = 0; i < n;)
	{
		if (node->rows[rows[i] - 1].image == 0)
			rows[i] = rows[--n];
		else
			i++;
	}
	judge(&arg, rows, n);
}

/* Can a client here, who sees the rows that stand, do this? */
bool
unique_may_write(const History *history, const Node *node, int txn)
{
	const Txn  *t = &history->txns[txn];
	Node		after = *node;

	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		const Row  *row = &after.rows[op->key];
		bool		stands = row->image != 0 && !row->displaced;

		if (op->op == P2P_OP_DELETE)
		{
			if (!stands && !t->truncate)
				return false;
			if (stands)
				after.rows[op->key] = (Row) {0};
			continue;
		}
		if ((op->op == P2P_OP_UPDATE) != stands)
			return false;
		for (int key = 0; key < n_keys; key++)
			if (key != op->key && after.rows[key].image != 0 && !after.rows[key].displaced &&
				rules_conflict(op, rules_row_op(history, after.rows[key].writer, key)))
				return false;
	}
	return true;
}

/* A client commits here. */
void
unique_write(const History *history, Node *node, int txn)
{
	const Txn  *t = &history->txns[txn];

	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &node->rows[op->key];

		*row = (Row) {0};
		node->pinned &= (uint8_t) ~(1u << op->key);
		if (op->op == P2P_OP_DELETE)
			node->tombstone[op->key] = (uint8_t) (txn + 1);
		else
		{
			row->image = op->image;
			row->writer = (uint8_t) (txn + 1);
		}
	}
	node->touched = 1;
}

/* Judge all displaced rows again: what was freed by a client may let them come back. */
void
unique_follow_up(const History *history, Node *node)
{
	Arg			arg = {history, node};
	P2pUniqueRow rows[MAX_KEYS];
	uint32_t	n = 0;

	node->touched = 0;
	if (plant == PLANT_no_follow_up)
		return;
	for (int key = 0; key < n_keys; key++)
		if (node->rows[key].image != 0 && node->rows[key].displaced)
			rows[n++] = (P2pUniqueRow) key + 1;
	judge(&arg, rows, n);
}

/* Versions become stable: pin those that the order of conflicting rows hangs on. */
void
unique_forget(const History *history, Node *node, unsigned forgotten)
{
	Arg			arg = {history, node};

	for (int key = 0; key < n_keys; key++)
	{
		const Row  *row = &node->rows[key];
		bool		hangs = row->displaced;

		if (row->image == 0 || row->writer == 0 || !in(forgotten, row->writer - 1) ||
			in(node->forgotten, row->writer - 1) || plant == PLANT_no_pins)
			continue;
		for (int other = 0; other < n_keys; other++)
			hangs |= other != key && node->rows[other].displaced &&
				rules_conflict(op_here(&arg, key), op_here(&arg, other));
		if (hangs)
			node->pinned |= (uint8_t) (1u << key);
	}
}

bool
unique_is_right(const History *history, const Node *node)
{
	Row			rows[MAX_KEYS];

	rules_unique(history, node->applied, rows);
	for (int key = 0; key < n_keys; key++)
		if (rows[key].image != node->rows[key].image ||
			rows[key].displaced != node->rows[key].displaced)
			return false;
	return true;
}
