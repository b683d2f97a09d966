/*
 * test_unique.c
 *	  Second unique keys: each rule by name, then random events against a walk
 *	  over all rows in descending order, and the same rows in every order.
 *
 * The table under test has up to three unique indexes. A value of 0 conflicts
 * with nothing, as NULL does. Displaced rows stay in it, as they stay live data.
 */
#include "hostile.h"

#include "p2p_unique.h"

#define ROUNDS 300
#define EVENTS 100
#define MAX_INDEXES 3
#define MAX_ROWS (P2P_UNIQUE_MAX_ROWS + 10)

typedef struct Row
{
	bool		live;
	bool		kept;
	uint64_t	version;
	uint32_t	values[MAX_INDEXES];
} Row;

/* Rows by primary key; a row's handle is its key + 1. */
typedef struct Table
{
	uint32_t	n;				/* keys */
	uint32_t	n_indexes;
	uint32_t	n_noted;		/* verdicts, of the event in hand */
	uint64_t	last_noted;		/* its version */
	Row			rows[MAX_ROWS];
} Table;

static Table table;

static Row *
row_of(P2pUniqueRow handle)
{
	assert_in_range(handle, 1, table.n);
	assert_true(table.rows[handle - 1].live);
	return &table.rows[handle - 1];
}

/* ---- what p2p_unique_judge is given ---- */

static int
compare(void *arg, P2pUniqueRow a, P2pUniqueRow b)
{
	const Row  *row_a = row_of(a);
	const Row  *row_b = row_of(b);

	(void) arg;
	return (row_a->version > row_b->version) - (row_a->version < row_b->version);
}

static bool
is_kept(void *arg, P2pUniqueRow row)
{
	(void) arg;
	return row_of(row)->kept;
}

static bool
conflicts(const Row *a, const Row *b)
{
	for (uint32_t i = 0; i < table.n_indexes; i++)
		if (a->values[i] != 0 && a->values[i] == b->values[i])
			return true;
	return false;
}

/* Write the handles of live rows other than `except` that conflict with row; return how many. */
static uint32_t
find_conflicting(const Row *row, const Row *except, P2pUniqueRow *out, uint32_t max)
{
	uint32_t	n = 0;

	for (uint32_t i = 0; i < table.n; i++)
	{
		if (&table.rows[i] == except || !table.rows[i].live || !conflicts(row, &table.rows[i]))
			continue;
		if (n < max)
			out[n] = i + 1;
		n++;
	}
	return n;
}

static uint32_t
neighbours(void *arg, P2pUniqueRow row, P2pUniqueRow *out, uint32_t max)
{
	(void) arg;
	return find_conflicting(row_of(row), row_of(row), out, max);
}

/* A verdict must be news, and come in descending order. */
static void
set_kept(void *arg, P2pUniqueRow row, bool kept)
{
	Row		   *noted = row_of(row);

	(void) arg;
	assert_int_not_equal(noted->kept, kept);
	if (table.n_noted > 0)
		assert_true(noted->version < table.last_noted);
	noted->kept = kept;
	table.n_noted++;
	table.last_noted = noted->version;
}

static const P2pUniqueTable callbacks = {
	.compare = compare, .is_kept = is_kept, .neighbours = neighbours, .set_kept = set_kept
};

/* ---- events ---- */

static void
table_open(uint32_t n, uint32_t n_indexes)
{
	memset(&table, 0, sizeof table);
	table.n = n;
	table.n_indexes = n_indexes;
}

/*
 * Make the row of a key what `to` says (not live: it goes), and have it judged as
 * apply would: itself and all that conflict with its old or new values.
 */
static P2pStatus
event(uint32_t key, const Row *to)
{
	static P2pUniqueRow rows[2 * MAX_ROWS + 1];
	Row		   *row = &table.rows[key];
	uint32_t	n = 0;
	bool		was_kept = row->live && row->kept;

	if (row->live)
		n += find_conflicting(row, row, rows, MAX_ROWS);
	*row = *to;
	row->kept = was_kept;
	if (row->live)
	{
		rows[n++] = key + 1;
		n += find_conflicting(row, row, rows + n, MAX_ROWS);
	}
	table.n_noted = 0;
	return p2p_unique_judge(&callbacks, rows, n);
}

static void
put(uint32_t key, uint64_t version, uint32_t a, uint32_t b)
{
	Row			row = {.live = true, .version = version, .values = {a, b}};

	assert_int_equal(event(key, &row), P2P_OK);
}

static void
take_away(uint32_t key)
{
	Row			none = {.live = false};

	assert_int_equal(event(key, &none), P2P_OK);
}

/* ---- the rule, naively ---- */

/* Write for each key whether it is kept, by a walk over all rows in descending order. */
static void
walk_all(bool *kept)
{
	uint64_t	below = UINT64_MAX;

	memset(kept, 0, table.n * sizeof *kept);
	for (;;)
	{
		const Row  *next = NULL;
		bool		free_place = true;

		for (uint32_t i = 0; i < table.n; i++)
			if (table.rows[i].live && table.rows[i].version < below &&
				(next == NULL || table.rows[i].version > next->version))
				next = &table.rows[i];
		if (next == NULL)
			return;
		below = next->version;
		for (uint32_t i = 0; i < table.n; i++)
			if (kept[i] && conflicts(&table.rows[i], next))
				free_place = false;
		kept[next - table.rows] = free_place;
	}
}

static void
assert_table_is_right(void)
{
	static bool kept[MAX_ROWS];

	walk_all(kept);
	for (uint32_t i = 0; i < table.n; i++)
		if (table.rows[i].live)
			assert_int_equal(table.rows[i].kept, kept[i]);
}

/* ---- each rule ---- */

static void
test_unique_keeps_the_greatest_whoever_comes_first(void **unused)
{
	(void) unused;
	for (uint32_t first = 0; first < 2; first++)
	{
		table_open(2, 1);
		put(first, 10 + first, 7, 0);
		put(1 - first, 11 - first, 7, 0);
		assert_false(table.rows[0].kept);
		assert_true(table.rows[1].kept);
	}
}

static void
test_unique_takes_null_for_no_conflict(void **unused)
{
	(void) unused;
	table_open(2, 2);
	put(0, 10, 0, 1);
	put(1, 11, 0, 2);
	assert_true(table.rows[0].kept);
	assert_true(table.rows[1].kept);
}

static void
test_unique_brings_a_row_back_when_what_displaced_it_goes(void **unused)
{
	(void) unused;
	table_open(2, 1);
	put(0, 10, 7, 0);
	put(1, 11, 7, 0);
	take_away(1);
	assert_true(table.rows[0].kept);
}

static void
test_unique_brings_a_row_back_when_the_value_is_given_up(void **unused)
{
	(void) unused;
	table_open(2, 1);
	put(0, 10, 7, 0);
	put(1, 11, 7, 0);
	put(1, 12, 8, 0);
	assert_true(table.rows[0].kept);
	assert_true(table.rows[1].kept);
	assert_int_equal(table.n_noted, 1);
}

/* A row that comes back displaces one below it, which frees the next, and so on. */
static void
test_unique_follows_a_chain_to_its_end(void **unused)
{
	(void) unused;
	table_open(5, 2);
	put(4, 50, 1, 0);
	put(3, 40, 1, 2);
	put(2, 30, 3, 2);
	put(1, 20, 3, 4);
	put(0, 10, 5, 4);
	assert_false(table.rows[3].kept);
	assert_true(table.rows[2].kept);
	assert_false(table.rows[1].kept);
	assert_true(table.rows[0].kept);
	take_away(4);
	assert_true(table.rows[3].kept);
	assert_false(table.rows[2].kept);
	assert_true(table.rows[1].kept);
	assert_false(table.rows[0].kept);
	assert_int_equal(table.n_noted, 4);
}

static void
test_unique_one_row_displaces_several(void **unused)
{
	(void) unused;
	table_open(3, 2);
	put(0, 10, 1, 0);
	put(1, 20, 0, 2);
	put(2, 30, 1, 2);
	assert_false(table.rows[0].kept);
	assert_false(table.rows[1].kept);
	assert_true(table.rows[2].kept);
}

static void
test_unique_notes_nothing_where_nothing_changes(void **unused)
{
	const P2pUniqueRow rows[] = {2, 0, 1, 2, 1};

	(void) unused;
	table_open(2, 1);
	put(0, 10, 7, 0);
	put(1, 11, 7, 0);
	table.n_noted = 0;
	assert_int_equal(p2p_unique_judge(&callbacks, rows, 5), P2P_OK);
	assert_int_equal(table.n_noted, 0);
	assert_int_equal(p2p_unique_judge(&callbacks, rows, 0), P2P_OK);
}

/* ---- the limit ---- */

/* Rows 0 .. n-1 in a chain, each conflicting with the next; row n-1 is the greatest. */
static void
make_chain(uint32_t n)
{
	table_open(n, 2);
	for (uint32_t i = 0; i < n; i++)
	{
		Row			row = {.live = true, .version = i + 1};

		row.values[i % 2] = 1 + i;
		row.values[1 - i % 2] = i + 2;
		row.kept = (n - 1 - i) % 2 == 0;
		table.rows[i] = row;
	}
}

static void
test_unique_walks_a_chain_as_long_as_the_limit(void **unused)
{
	(void) unused;
	make_chain(P2P_UNIQUE_MAX_ROWS + 1);
	take_away(P2P_UNIQUE_MAX_ROWS);
	assert_int_equal(table.n_noted, P2P_UNIQUE_MAX_ROWS);
	assert_table_is_right();
}

static void
test_unique_refuses_a_chain_beyond_the_limit(void **unused)
{
	Row			none = {.live = false};

	(void) unused;
	make_chain(P2P_UNIQUE_MAX_ROWS + 2);
	assert_int_equal(event(P2P_UNIQUE_MAX_ROWS + 1, &none), P2P_TOO_LARGE);
}

static void
test_unique_refuses_more_neighbours_than_the_limit(void **unused)
{
	const P2pUniqueRow row = P2P_UNIQUE_MAX_ROWS + 2;

	(void) unused;
	table_open(P2P_UNIQUE_MAX_ROWS + 2, 1);
	for (uint32_t i = 0; i < table.n; i++)
		table.rows[i] = (Row) {.live = true, .version = i + 1, .values = {7}};
	assert_int_equal(p2p_unique_judge(&callbacks, &row, 1), P2P_TOO_LARGE);
}

/* ---- random events ---- */

/* Return a row with random values, few enough to conflict often. */
static Row
random_row(uint64_t *state, uint64_t version)
{
	Row			row = {.live = true, .version = version};
	uint32_t	spread = 2 + table.n;

	for (uint32_t i = 0; i < table.n_indexes; i++)
		row.values[i] = hostile_below(state, spread);
	return row;
}

/* Rows come, change and go, at versions that need not be the greatest so far. */
static void
test_unique_is_the_walk_over_all_rows_after_every_event(void **unused)
{
	static bool before[MAX_ROWS];
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		uint32_t	n = 2 + hostile_below(&state, 10);

		table_open(n, 1 + hostile_below(&state, MAX_INDEXES));
		for (int i = 0; i < EVENTS; i++)
		{
			uint32_t	key = hostile_below(&state, n);
			Row			to = random_row(&state, hostile_next(&state));
			uint32_t	changed = 0;

			to.live = hostile_below(&state, 4) > 0;
			for (uint32_t k = 0; k < n; k++)
				before[k] = table.rows[k].live && table.rows[k].kept;
			if (!to.live)
				before[key] = false;
			assert_int_equal(event(key, &to), P2P_OK);
			assert_table_is_right();
			for (uint32_t k = 0; k < n; k++)
				changed += table.rows[k].live && table.rows[k].kept != before[k];
			assert_int_equal(table.n_noted, changed);
		}
	}
}

/* The same versions of the same keys, the greatest of each key winning, in random orders. */
static void
test_unique_is_the_same_in_every_order_of_arrival(void **unused)
{
	enum {KEYS = 5, VERSIONS = 12, ORDERS = 20};
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		Row			versions[VERSIONS];
		uint32_t	keys[VERSIONS];
		bool		kept[KEYS];

		table_open(KEYS, 1 + hostile_below(&state, MAX_INDEXES));
		for (uint32_t i = 0; i < VERSIONS; i++)
		{
			keys[i] = hostile_below(&state, KEYS);
			versions[i] = random_row(&state, i + 1);
			versions[i].live = hostile_below(&state, 5) > 0;	/* else a delete */
		}
		for (int order = 0; order < ORDERS; order++)
		{
			uint64_t	standing[KEYS] = {0};
			uint32_t	arrived = 0;

			table_open(KEYS, table.n_indexes);
			while (arrived != (1u << VERSIONS) - 1)
			{
				uint32_t	i = hostile_below(&state, VERSIONS);

				if ((arrived & (1u << i)) != 0)
					continue;
				arrived |= 1u << i;
				if (versions[i].version < standing[keys[i]])
					continue;
				standing[keys[i]] = versions[i].version;
				assert_int_equal(event(keys[i], &versions[i]), P2P_OK);
			}
			for (uint32_t k = 0; k < KEYS; k++)
			{
				bool		here = table.rows[k].live && table.rows[k].kept;

				if (order == 0)
					kept[k] = here;
				assert_int_equal(here, kept[k]);
			}
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unique_keeps_the_greatest_whoever_comes_first),
		cmocka_unit_test(test_unique_takes_null_for_no_conflict),
		cmocka_unit_test(test_unique_brings_a_row_back_when_what_displaced_it_goes),
		cmocka_unit_test(test_unique_brings_a_row_back_when_the_value_is_given_up),
		cmocka_unit_test(test_unique_follows_a_chain_to_its_end),
		cmocka_unit_test(test_unique_one_row_displaces_several),
		cmocka_unit_test(test_unique_notes_nothing_where_nothing_changes),
		cmocka_unit_test(test_unique_walks_a_chain_as_long_as_the_limit),
		cmocka_unit_test(test_unique_refuses_a_chain_beyond_the_limit),
		cmocka_unit_test(test_unique_refuses_more_neighbours_than_the_limit),
		cmocka_unit_test(test_unique_is_the_walk_over_all_rows_after_every_event),
		cmocka_unit_test(test_unique_is_the_same_in_every_order_of_arrival),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
