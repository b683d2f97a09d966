/*
 * exhaustive_rules.c
 *	  What a set of transactions comes to, by definition.
 *
 * Written from the rules, with explicit sets of "has seen" and the place of a
 * transaction in the history for its version: no code of the core is used, and
 * nothing depends on an order of arrival, because none is known here.
 *
 * Order of versions: (handler epoch, transaction, step). The epoch is the
 * greatest handler change in the past, or -1.
 */
#include <string.h>

#include "exhaustive.h"

/* One version of a key. */
typedef struct Version
{
	int			txn;
	const Op   *op;
} Version;

/* All versions of a key that stand in a set of transactions, ascending. */
typedef struct Versions
{
	int			n;
	Version		versions[MAX_VERSIONS];
} Versions;

static Versions versions_of(const History *history, unsigned set, int key);
static Versions standing_of(const History *history, const Versions *all);
static bool less(const History *history, const Version *a, const Version *b);
static bool in_past(const History *history, const Version *a, const Version *b);
static bool fold(const Versions *standing, Row *row);
static Row	old_values(int key);
static int	column_of(const History *history, const Versions *all, const Versions *standing);
static int	extreme_of(const Versions *standing, Merge merge);
static int	count_of(const History *history, const Versions *all);
static Row	unique_winner(const History *history, unsigned set, int key);

/* Return the greatest change of a kind in the past of transaction i; -1: none. */
static int
greatest_change(const History *history, int i, bool is_merge)
{
	for (int j = i - 1; j >= 0; j--)
		if (in(history->txns[i].past, j) && history->txns[j].change >= 0 &&
			setting->changes[history->txns[j].change].is_merge == is_merge)
			return j;
	return -1;
}

int
rules_epoch(const History *history, int i)
{
	return greatest_change(history, i, false);
}

Handler
rules_handler_seen(const History *history, int i)
{
	int			epoch = rules_epoch(history, i);

	return epoch < 0 ? setting->handler
		: (Handler) setting->changes[history->txns[epoch].change].to;
}

Merge
rules_merge_seen(const History *history, int i)
{
	int			change = greatest_change(history, i, true);

	return change < 0 ? setting->merge
		: (Merge) setting->changes[history->txns[change].change].to;
}

bool
rules_may_count(void)
{
	for (int i = 0; i < setting->nchanges; i++)
		if (setting->changes[i].is_merge && setting->changes[i].to == COUNTER)
			return true;
	return setting->merge == COUNTER;
}

/*
 * Neither commutative nor associative, sometimes NULL, sometimes an error. Two
 * deletes are no conflict: it is not called for them. The unique column is that of the older row.
 */
bool
rules_function(const Row *older, const Row *newer, Row *result)
{
	int			mixed = (older->image * 7 + newer->image * 13 + 5) % 31;
	Row			row = *newer;

	if (older->image != 0)
		memcpy(row.unique, older->unique, sizeof row.unique);
	row.image = (uint8_t) (100 + mixed);
	if (mixed % 5 == 0 || (older->image == 0 && newer->image == 0))
		row.image = 0;
	else if (mixed % 7 == 1)
		return false;
	*result = row;
	return true;
}

Row
rules_stored(const Op *op)
{
	return (Row) {
		.image = op->image, .column = op->column, .unique = {op->unique[0], op->unique[1]}
	};
}

Row
rules_row(const History *history, unsigned set, int key)
{
	Versions	all = versions_of(history, set, key);
	Versions	standing = standing_of(history, &all);
	Row			row = {0};
	Row			folded;
	const Version *winner;

	if (all.n == 0)
		return history->old_rows ? old_values(key) : row;
	winner = &standing.versions[standing.n - 1];
	row = rules_stored(winner->op);
	if (rules_handler_seen(history, winner->txn) == CUSTOM && standing.n > 1 &&
		fold(&standing, &folded))
		row = folded;
	if (row.image == 0)
		return (Row) {.writer = (uint8_t) (winner->txn + 1)};
	row.column = (int16_t) column_of(history, &all, &standing);
	row.writer = (uint8_t) (winner->txn + 1);
	return row;
}

/* The row that was there before; those of several keys don't conflict. */
static Row
old_values(int key)
{
	Row			row = {.image = ANCIENT_IMAGE, .column = ANCIENT_COLUMN};

	if (setting->tracked && setting->unique)
	{
		row.unique[0] = (uint8_t) (setting->claim == CLAIM_WHERE ? 1 : 1 + key);
		if (setting->claim == CLAIM_COLUMN)
			row.column = (int16_t) (1 + key);
		else if (setting->claim == CLAIM_WHERE)
			row.column = key == 0 ? 2 : 1;
	}
	return row;
}

/* Collect the versions of a key, ascending. */
static Versions
versions_of(const History *history, unsigned set, int key)
{
	Versions	all = {0};

	for (int i = 0; i < history->n; i++)
	{
		if (!in(set, i))
			continue;
		for (int o = 0; o < history->txns[i].nops; o++)
		{
			Version		version = {i, &history->txns[i].ops[o]};
			int			place = all.n;

			if (version.op->key != key)
				continue;
			for (; place > 0 && less(history, &version, &all.versions[place - 1]); place--)
				all.versions[place] = all.versions[place - 1];
			all.versions[place] = version;
			all.n++;
		}
	}
	return all;
}

static bool
less(const History *history, const Version *a, const Version *b)
{
	int			epoch_a = rules_epoch(history, a->txn);
	int			epoch_b = rules_epoch(history, b->txn);

	if (epoch_a != epoch_b)
		return epoch_a < epoch_b;
	if (a->txn != b->txn)
		return a->txn < b->txn;
	return a->op->step < b->op->step;
}

static bool
in_past(const History *history, const Version *a, const Version *b)
{
	if (a->txn == b->txn)
		return a->op->step < b->op->step;
	return in(history->txns[b->txn].past, a->txn);
}

/* Keep what is not covered, and of the greatest epoch of these. */
static Versions
standing_of(const History *history, const Versions *all)
{
	Versions	uncovered = {0};
	Versions	standing = {0};

	for (int i = 0; i < all->n; i++)
	{
		bool		covered = false;

		for (int j = 0; j < all->n; j++)
			covered |= in_past(history, &all->versions[i], &all->versions[j]);
		if (!covered)
			uncovered.versions[uncovered.n++] = all->versions[i];
	}
	for (int i = 0; i < uncovered.n; i++)
		if (rules_epoch(history, uncovered.versions[i].txn) ==
			rules_epoch(history, uncovered.versions[uncovered.n - 1].txn))
			standing.versions[standing.n++] = uncovered.versions[i];
	return standing;
}

unsigned
rules_standing(const History *history, unsigned set, int key)
{
	Versions	all = versions_of(history, set, key);
	Versions	standing = standing_of(history, &all);
	unsigned	result = 0;

	for (int i = 0; i < standing.n; i++)
		result |= 1u << standing.versions[i].txn;
	return result;
}

/* Fold f over the standing; false: it raised an error. */
static bool
fold(const Versions *standing, Row *row)
{
	*row = rules_stored(standing->versions[0].op);
	for (int i = 1; i < standing->n; i++)
	{
		Row			newer = rules_stored(standing->versions[i].op);

		if (!rules_function(row, &newer, row))
			return false;
	}
	return true;
}

/* The merged column of the row. */
static int
column_of(const History *history, const Versions *all, const Versions *standing)
{
	const Version *winner = &standing->versions[standing->n - 1];

	switch (rules_merge_seen(history, winner->txn))
	{
		case NO_MERGE:
			return winner->op->column;
		case COUNTER:
			return count_of(history, all);
		case MAX:
			return extreme_of(standing, MAX);
		case MIN:
			return extreme_of(standing, MIN);
	}
	return 0;
}

/* The greatest, or least, value of the standing versions that are no deletes. */
static int
extreme_of(const Versions *standing, Merge merge)
{
	bool		any = false;
	int			best = 0;

	for (int i = 0; i < standing->n; i++)
	{
		const Op   *op = standing->versions[i].op;

		if (op->op == P2P_OP_DELETE)
			continue;
		if (!any || (merge == MAX ? op->column > best : op->column < best))
			best = op->column;
		any = true;
	}
	return best;
}

/* Deltas above the greatest delete or absolute value, and that value. */
static int
count_of(const History *history, const Versions *all)
{
	int			value = history->old_rows ? ANCIENT_COLUMN : 0;

	for (int i = 0; i < all->n; i++)
	{
		const Op   *op = all->versions[i].op;

		if (op->op == P2P_OP_DELETE)
			value = 0;
		else if (rules_merge_seen(history, all->versions[i].txn) != COUNTER)
			value = op->column;
		else
			value += op->delta;
	}
	return value;
}

/* ---- second unique keys ---- */

bool
rules_conflict(const Op *a, const Op *b)
{
	for (int i = 0; i < setting->unique_columns; i++)
		if (a->unique[i] != 0 && a->unique[i] == b->unique[i])
			return true;
	return false;
}

/* What the history's old row of a key is. Those don't conflict with one another. */
static const Op *
old_row(int key)
{
	static const Op old[MAX_KEYS] = {
		{.unique = {1, 0}}, {.unique = {2, 1}}, {.unique = {0, 2}}
	};

	return &old[key];
}

const Op *
rules_row_op(const History *history, int writer, int key)
{
	const Op   *op = old_row(key);

	if (writer > 0)
		for (int o = 0; o < history->txns[writer - 1].nops; o++)
			if (history->txns[writer - 1].ops[o].key == key)
				op = &history->txns[writer - 1].ops[o];
	return op;
}

/* Walk the winners of all keys in descending order; keep what doesn't conflict with one kept. */
void
rules_unique(const History *history, unsigned set, Row rows[MAX_KEYS])
{
	unsigned	judged = 0;

	for (int key = 0; key < n_keys; key++)
		rows[key] = unique_winner(history, set, key);
	for (int round = 0; round < n_keys; round++)
	{
		int			next = -1;

		for (int key = 0; key < n_keys; key++)
			if (!in(judged, key) && (next < 0 || rows[key].writer > rows[next].writer))
				next = key;
		for (int key = 0; key < n_keys; key++)
			if (in(judged, key) && rows[key].image != 0 && !rows[key].displaced &&
				rules_conflict(rules_row_op(history, rows[next].writer, next),
							   rules_row_op(history, rows[key].writer, key)))
				rows[next].displaced = rows[next].image != 0;
		judged |= 1u << next;
	}
}

/* The greatest version of a key, as a row. */
static Row
unique_winner(const History *history, unsigned set, int key)
{
	Versions	all = versions_of(history, set, key);
	Row			row = {0};

	if (all.n > 0)
	{
		row.image = all.versions[all.n - 1].op->image;
		row.writer = row.image == 0 ? 0 : (uint8_t) (all.versions[all.n - 1].txn + 1);
	}
	else if (history->old_rows)
		row.image = ANCIENT_IMAGE;
	return row;
}

/* ---- second unique keys of rows that are made of several versions ---- */

int
rules_claim(const Row *row)
{
	switch (setting->claim)
	{
		case CLAIM_UNIQUE:
			return row->unique[0];
		case CLAIM_COLUMN:
			return row->column;
		case CLAIM_WHERE:
			return row->column >= 2 ? row->unique[0] : 0;
	}
	return 0;
}

bool
rules_rows_conflict(const Row *a, const Row *b)
{
	return a->image != 0 && b->image != 0 && rules_claim(a) != 0 && rules_claim(a) == rules_claim(b);
}

/* As rules_unique: by the version of each row's winner, and of one transaction's rows by key. */
void
rules_both(const History *history, unsigned set, Row rows[MAX_KEYS])
{
	for (int key = 0; key < n_keys; key++)
		rows[key] = rules_row(history, set, key);
	for (int place = history->n; place >= 0; place--)
		for (int key = n_keys - 1; key >= 0; key--)
			for (int other = 0; other < n_keys && rows[key].writer == place; other++)
			{
				bool		greater = rows[other].writer > place ||
					(rows[other].writer == place && other > key);

				rows[key].displaced |= greater && !rows[other].displaced &&
					rules_rows_conflict(&rows[key], &rows[other]);
			}
}
