/*
 * exhaustive.c
 *	  All histories of a few transactions on a few keys, tried one by one, with
 *	  the object code that the server runs.
 *
 * usage: exhaustive [ops=N] [keys=N] [only=setting] [claims] [part=K/N]
 *					 [plants | plant=name [-v]]
 *
 * A history is up to N transactions of up to three nodes, each an operation of a
 * kind below, with everything that it could have seen: any set that is closed,
 * and has the origin's own earlier ones in it. Transactions are numbered in the
 * order of their versions, which extends causality, and clocks are as bad as
 * that takes: whatever order of stamps is possible, occurs. A transaction's
 * values are what the rules say its origin had.
 *
 *	  insert, update (of two kinds where there is a merged column: counters add
 *	  or are set to 0, max and min go up or down), delete, truncate, key update,
 *	  delete and insert in one, handler change
 *
 * Each history is played at every node in every schedule (exhaustive_node.c); at
 * every quiet moment the rows must be what the rules (exhaustive_rules.c) say of
 * the transactions applied by then, and so are the same on all nodes in the end.
 *
 * What is left out because it would be the same again:
 *
 *	  nodes		differ by number alone: they come in the order of their first
 *				transaction. Those that write nothing are all the same
 *	  keys		likewise; and they don't meet, but for second unique keys, since
 *				a node keeps each by itself. What a history of two keys does to
 *				one of them is what it does with the other's operations left out
 *				(half a key update is a delete or an insert), and that is a
 *				history of one key. So beyond 3 operations there is one key
 *
 * What is left out and would not be: beyond 4 operations unique columns are never
 * NULL, all that is stable is forgotten at once, and restarts happen only where
 * something in memory is lost (exhaustive_node.c).
 *
 * With `part=K/N`, of the histories of the full length only the Kth of N parts is tried: for those that
 * are too many at once. Which part one is in hangs on its mixed number, so each part is a fair draw of all, and
 * the parts from 1 to N together are all. The shorter ones are tried each time.
 *
 * With `claims`, apply holds a key that has no row as it holds a row, and waits for
 * local deletes before it judges: then there is nothing to follow up. So does the
 * server where a verdict may hang on more than the winner (custom functions, max,
 * min); without, a row is folded again after a local write, and that is right only
 * if nobody ever forgets which keys are left to be folded.
 *
 * Exit status: 0 all is right (with plants: each was found), 1 it is not, with the
 * history, 2 usage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exhaustive.h"

static const Setting settings[] = {
	{.name = "last_writer_wins", .variants = 1},
	{.name = "vector_clock", .tracked = true, .handler = VECTOR_CLOCK, .variants = 1},
	{.name = "custom", .tracked = true, .handler = CUSTOM, .variants = 1},
	{.name = "counter", .tracked = true, .merge = COUNTER, .variants = 2},
	/* f can take the row away, and with it what was counted: wrong, and shown by only= */
	{.name = "custom_and_counter", .tracked = true, .handler = CUSTOM, .merge = COUNTER,
	 .variants = 2, .refused = true},
	{.name = "custom_and_max", .tracked = true, .handler = CUSTOM, .merge = MAX, .variants = 2},
	{.name = "max", .tracked = true, .merge = MAX, .variants = 2},
	{.name = "min", .tracked = true, .merge = MIN, .variants = 2},
	{.name = "unique", .unique = true, .unique_columns = 1, .variants = 3},
	{.name = "two_unique_columns", .unique = true, .unique_columns = 2, .variants = 4},
	{.name = "unique_and_custom", .tracked = true, .unique = true, .handler = CUSTOM,
	 .unique_columns = 1, .variants = 2},
	{.name = "unique_and_vector_clock", .tracked = true, .unique = true, .handler = VECTOR_CLOCK,
	 .unique_columns = 1, .variants = 2},
	{.name = "unique_and_counter", .tracked = true, .unique = true, .merge = COUNTER,
	 .unique_columns = 1, .variants = 2},
	{.name = "unique_max", .tracked = true, .unique = true, .merge = MAX, .claim = CLAIM_COLUMN,
	 .unique_columns = 1, .variants = 2},
	{.name = "unique_where_max", .tracked = true, .unique = true, .merge = MAX,
	 .claim = CLAIM_WHERE, .unique_columns = 1, .variants = 2},
	{.name = "unique_where_min", .tracked = true, .unique = true, .merge = MIN,
	 .claim = CLAIM_WHERE, .unique_columns = 1, .variants = 2},
	{.name = "unique_to_custom", .tracked = true, .unique = true, .unique_columns = 1,
	 .variants = 2, .nchanges = 2, .changes = {{false, CUSTOM}, {false, LAST_WRITER_WINS}}},
	{.name = "to_custom", .tracked = true, .variants = 1, .nchanges = 2,
	 .changes = {{false, CUSTOM}, {false, LAST_WRITER_WINS}}},
	{.name = "to_counter", .tracked = true, .variants = 2, .nchanges = 2,
	 .changes = {{true, COUNTER}, {true, NO_MERGE}}},
	{.name = "to_max", .tracked = true, .variants = 2, .nchanges = 2,
	 .changes = {{true, MAX}, {true, NO_MERGE}}},
	{.name = "counter_and_vector_clock", .tracked = true, .merge = COUNTER, .variants = 2,
	 .nchanges = 2, .changes = {{false, VECTOR_CLOCK}, {false, LAST_WRITER_WINS}}},
};

#define N_SETTINGS ((int) (sizeof settings / sizeof settings[0]))

static const char *const plant_names[] = {
	"nothing",
#define PLANT_TEXT(name, text) #name,
	PLANTS(PLANT_TEXT)
#undef PLANT_TEXT
};

/*
 * Where the plants are found that take more than two operations. Where there are too many histories of
 * that length, only those whose transactions are of these kinds are tried, with all else left open.
 */
static const struct
{
	const char *setting;
	int			ops;
	int			keys;
	const char *kinds[MAX_TXNS];
}			places[N_PLANTS] = {
	[PLANT_no_floor] = {"last_writer_wins", 3, 1},
	[PLANT_follow_rows_only] = {"custom", 3, 2},
	[PLANT_lost_touch] = {"custom", 3, 2},
	[PLANT_truncate_rows_only] = {"custom", 3, 2},
	[PLANT_no_epochs] = {"counter_and_vector_clock", 3, 1},
	[PLANT_delete_by_stamp] = {"counter_and_vector_clock", 3, 1},
	[PLANT_arrival_handler] = {"to_custom", 3, 1},
	[PLANT_late_count] = {"unique_and_custom", 3, 2},
	[PLANT_truncate_displaced] = {"unique_and_custom", 3, 2},
	[PLANT_early_superseded] = {"unique_and_counter", 3, 2},
	[PLANT_fold_winner] = {"unique_and_custom", 3, 2},
	[PLANT_known_notes] = {"unique_and_custom", 3, 2},
	[PLANT_unheld] = {"unique_and_custom", 3, 2},
	[PLANT_no_notes] = {"unique_and_custom", 3, 2},
	[PLANT_late_pin] = {"unique_max", 3, 3},
	[PLANT_unread_truncate] = {"unique_and_counter", 4, 2,
		{"insert", "insert", "truncate", "insert"}},
	[PLANT_lost_count] = {"unique_and_counter", 4, 2, {"insert", "insert", "insert", "update"}},
	[PLANT_late_notes] = {"unique_and_counter", 4, 2, {"insert", "insert", "truncate", "insert"}},
	[PLANT_delete_of_old] = {"unique_to_custom", 4, 2,
		{"handler", "write both", "delete", "update"}},
	[PLANT_truncate_of_old] = {"unique_to_custom", 4, 2,
		{"handler", "insert", "truncate", "insert"}},
};

const Setting *setting;
Plant		plant = NOTHING;
int			n_keys;
bool		claims;
Counts		counts;

static bool verbose;
static unsigned part = 1;		/* of so many: */
static unsigned parts = 1;
static int	longest;			/* operations asked for */

static bool try_setting(const Setting *chosen, int ops, int keys);
static bool extend(History *history, int n, int nodes, int keys);
static bool choose_operation(History *history, int n, int nodes, int keys);
static bool choose_pair(History *history, int n, int nodes);
static bool is_refused(const History *history, int n);
static bool with(History *history, int n, int nodes, int keys);
static bool check(const History *history, int nodes);
static void print_history(const History *history);

/* ---- making histories ---- */

static P2pOrigin
origin_of(int node)
{
	P2pOrigin	origin = {.epoch = 1};

	origin.id.bytes[0] = (uint8_t) ('a' + node);
	return origin;
}

/* Give transaction i its version: above all before it, by a clock that says what that takes. */
static void
give_version(History *history, int i)
{
	Txn		   *t = &history->txns[i];
	P2pStamp	previous = 0;
	P2pStamp	floor = 0;
	P2pStamp	clock = i == 0 ? 0 : history->txns[i - 1].version.stamp + 1;
	uint64_t	seq = 1;

	p2p_vector_clear(&t->deps);
	for (int j = 0; j < i; j++)
	{
		const P2pVersion *seen = &history->txns[j].version;

		if (!in(t->past, j))
			continue;
		(void) p2p_vector_raise(&t->deps, &seen->dot.origin, seen->dot.seq);
		if (history->txns[j].origin == t->origin)
		{
			previous = seen->stamp;
			seq++;
		}
		else
			floor = seen->stamp;
	}
	t->version = (P2pVersion) {
		.stamp = p2p_stamp_next(clock, previous, floor),
		.dot = {.origin = origin_of(t->origin), .seq = seq}
	};
}

/* Choose an origin and a past for transaction n, and go on. */
static bool
extend(History *history, int n, int nodes, int keys)
{
	Txn		   *t = &history->txns[n];

	if (n == history->n)
		return check(history, nodes);
	for (int origin = 0; origin <= nodes && origin < MAX_NODES; origin++)
		for (unsigned past = 0; past < 1u << n; past++)
		{
			bool		closed = true;

			for (int i = 0; i < n; i++)
			{
				if (in(past, i))
					closed &= (history->txns[i].past & ~past) == 0;
				else
					closed &= history->txns[i].origin != origin;
			}
			if (!closed)
				continue;
			t->origin = (uint8_t) origin;
			t->past = past;
			give_version(history, n);
			if (!choose_operation(history, n, origin == nodes ? nodes + 1 : nodes, keys))
				return false;
		}
	return true;
}

/* Append an operation that deletes key. */
static void
op_delete(Txn *t, int key)
{
	t->ops[t->nops] = (Op) {
		.key = (uint8_t) key, .step = (uint8_t) (2 + t->nops), .op = P2P_OP_DELETE
	};
	t->nops++;
}

/*
 * Append an operation that stores a row; before = the row there as the origin saw it. False: this
 * variant would be the same as another.
 */
static bool
op_store(Txn *t, int n, int key, const Row *before, int variant)
{
	Op			op = {
		.key = (uint8_t) key, .step = (uint8_t) (2 + t->nops),
		.op = before->image != 0 ? P2P_OP_UPDATE : P2P_OP_INSERT, .image = (uint8_t) (n + 1)
	};
	bool		extreme = setting->merge == MAX || setting->merge == MIN ||
		(setting->nchanges > 0 && setting->changes[0].is_merge && setting->changes[0].to == MAX);

	if (is_both())
	{
		bool		counts = setting->merge == COUNTER;

		op.unique[0] = (uint8_t) (setting->claim == CLAIM_WHERE ? 1 : 1 + variant);
		op.column = (int16_t) (1 + variant);
		if (counts)
		{
			op.delta = (int16_t) (1 << n);
			op.column = (int16_t) ((before->image != 0 ? before->column : 0) + op.delta);
		}
	}
	else if (extreme)
		op.column = (int16_t) (variant == 0 ? 50 + n : 50 - n);
	else if (rules_may_count())
	{
		op.delta = (int16_t) (1 << n);
		if (variant == 1)
		{
			if (before->image == 0 || before->column == 0)
				return false;
			op.delta = (int16_t) -before->column;
		}
		op.column = (int16_t) ((before->image != 0 ? before->column : 0) + op.delta);
	}
	else if (setting->unique_columns == 1)
		op.unique[0] = (uint8_t) variant;
	else if (setting->unique_columns == 2)
	{
		op.unique[0] = (uint8_t) (1 + variant / 2);
		op.unique[1] = (uint8_t) (1 + variant % 2);
	}
	t->ops[t->nops++] = op;
	return true;
}

/* What the origin of transaction n sees. */
static Row
row_seen(const History *history, int n, int key)
{
	Row			rows[MAX_KEYS];

	if (!setting->unique)
		return rules_row(history, history->txns[n].past, key);
	if (is_both())
		rules_both(history, history->txns[n].past, rows);
	else
		rules_unique(history, history->txns[n].past, rows);
	if (rows[key].displaced)
		rows[key] = (Row) {0};
	return rows[key];
}

static void
begin(Txn *t, const char *text, int key, int variant)
{
	t->nops = 0;
	t->truncate = false;
	t->change = -1;
	t->text = text;
	t->key = key;
	t->variant = variant;
}

/* Choose what transaction n does, and go on. */
static bool
choose_operation(History *history, int n, int nodes, int keys)
{
	Txn		   *t = &history->txns[n];
	const Row	none = {0};
	int			no_null = setting->unique_columns == 1 && history->n > 4;

	for (int key = 0; key <= keys && key < n_keys; key++)
	{
		Row			row = row_seen(history, n, key);
		int			now = key == keys ? keys + 1 : keys;

		for (int variant = no_null; variant < setting->variants; variant++)
		{
			begin(t, row.image == 0 ? "insert" : "update", key, variant);
			if (op_store(t, n, key, &row, variant) && !with(history, n, nodes, now))
				return false;
		}
		if (row.image == 0)
			continue;
		begin(t, "delete", key, 0);
		op_delete(t, key);
		if (!with(history, n, nodes, now))
			return false;
		begin(t, "delete and insert", key, 0);
		op_delete(t, key);
		(void) op_store(t, n, key, &none, 0);
		if (!setting->unique && !with(history, n, nodes, now))
			return false;
		for (int to = 0; to <= now && to < n_keys; to++)
		{
			if (to == key || row_seen(history, n, to).image != 0)
				continue;
			begin(t, "change key of", key, to);
			op_delete(t, key);
			(void) op_store(t, n, to, &none, 0);
			if (is_both())
			{
				t->ops[1].unique[0] = row.unique[0];
				t->ops[1].column = row.column;
				t->ops[1].delta = row.column;
			}
			else if (setting->unique)
				memcpy(t->ops[1].unique, rules_row_op(history, row.writer, key)->unique,
					   sizeof t->ops[1].unique);
			if (!with(history, n, nodes, to == now ? now + 1 : now))
				return false;
		}
	}
	if (is_both() && n_keys > 1 && !choose_pair(history, n, nodes))
		return false;
	begin(t, "truncate", 0, 0);
	t->truncate = true;
	for (int key = 0; key < n_keys; key++)
	{
		op_delete(t, key);
		t->ops[key].step = 2;
	}
	if (!with(history, n, nodes, keys))
		return false;
	for (int change = 0; change < setting->nchanges; change++)
	{
		begin(t, "handler", change, 0);
		t->change = change;
		if (!with(history, n, nodes, keys))
			return false;
	}
	return true;
}

/* Choose what transaction n does to two keys at once, in either order of their values, and go on. */
static bool
choose_pair(History *history, int n, int nodes)
{
	Txn		   *t = &history->txns[n];
	Row			rows[] = {row_seen(history, n, 0), row_seen(history, n, 1)};

	for (int variant = 0; variant < 2; variant++)
	{
		begin(t, "write both", 0, variant);
		(void) op_store(t, n, 0, &rows[0], variant);
		(void) op_store(t, n, 1, &rows[1], 1 - variant);
		if (!with(history, n, nodes, 2))
			return false;
	}
	if (rows[0].image == 0 || rows[1].image == 0)
		return true;
	begin(t, "delete both", 0, 0);
	op_delete(t, 0);
	op_delete(t, 1);
	return with(history, n, nodes, 2);
}

/* Does a row that transaction n stores claim what another that its origin sees does? Then it could not. */
static bool
is_refused(const History *history, int n)
{
	const Txn  *t = &history->txns[n];
	Row			rows[MAX_KEYS];

	if (!is_both() || t->change >= 0)
		return false;
	for (int key = 0; key < n_keys; key++)
		rows[key] = row_seen(history, n, key);
	for (int o = 0; o < t->nops; o++)
	{
		Row			stored = rules_stored(&t->ops[o]);

		for (int key = 0; key < n_keys; key++)
			if (key != t->ops[o].key && rules_rows_conflict(&stored, &rows[key]))
				return true;
		rows[t->ops[o].key] = stored;
	}
	return false;
}

/* Transaction n is complete: go on with the next. */
static bool
with(History *history, int n, int nodes, int keys)
{
	const char *kind = places[plant].kinds[n];

	if ((kind != NULL && strcmp(history->txns[n].text, kind) != 0) || is_refused(history, n))
		return true;
	return extend(history, n + 1, nodes, keys);
}

/* ---- trying them ---- */

/* Is the history that was made last in the part to be tried? Its number is mixed as by splitmix64. */
static bool
is_in_part(const History *history)
{
	uint64_t	mixed = counts.made * 0x9E3779B97F4A7C15ULL;

	if (history->n < longest)
		return true;
	mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ULL;
	mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBULL;
	return (mixed ^ (mixed >> 31)) % parts == part - 1;
}

/* Play a history at every node; nodes that write nothing are all the same. */
static bool
check(const History *history, int nodes)
{
	static char where[2048];

	counts.made++;
	if (!is_in_part(history))
		return true;
	counts.histories++;
	for (int self = 0; self < MAX_NODES && self <= nodes; self++)
	{
		if (node_try_all(history, self, where, sizeof where))
			continue;
		if (plant == NOTHING || verbose)
		{
			printf("%s: node %c is not what the rules say\n", setting->name, 'a' + self);
			print_history(history);
			printf("  at %c: %s\n", 'a' + self, where);
		}
		return false;
	}
	return true;
}

static void
print_history(const History *history)
{
	printf("  before: %s\n", history->old_rows ? "every key has a row" : "no rows");
	for (int i = 0; i < history->n; i++)
	{
		const Txn  *t = &history->txns[i];

		printf("  %d: node %c: %s %d/%d, has seen", i, 'a' + t->origin, t->text, t->key,
			   t->variant);
		for (int j = 0; j < i; j++)
			if (in(t->past, j))
				printf(" %d", j);
		printf("%s\n", t->past == 0 ? " nothing" : "");
	}
}

/* How many keys a setting is tried with: where keys don't meet, one says it all (file head). */
static int
keys_of(const Setting *chosen, int ops)
{
	if (chosen->unique)
		return 1 + chosen->unique_columns;
	return ops <= 3 ? 2 : 1;
}

/* Try all histories of a setting, the shortest first. keys = 0: as keys_of says. */
static bool
try_setting(const Setting *chosen, int ops, int keys)
{
	static History history;
	clock_t		start = clock();
	bool		right = true;

	setting = chosen;
	longest = ops;
	n_keys = keys > 0 ? keys : keys_of(chosen, ops);
	memset(&counts, 0, sizeof counts);
	for (int n = 1; n <= ops && right; n++)
		for (int old = 0; old < 2 && right; old++)
		{
			history.n = n;
			history.old_rows = old != 0;
			right = extend(&history, 0, 0, is_both() ? n_keys : 0);	/* keys are ordered there */
		}
	if (plant == NOTHING || verbose)
		printf("%-26s %d ops, %d keys: %10lu histories, %12lu states, %11lu ends, %7.1f s: %s\n",
			   setting->name, ops, n_keys, counts.histories, counts.states, counts.ends,
			   (double) (clock() - start) / CLOCKS_PER_SEC, right ? "right" : "WRONG");
	if (counts.histories < counts.made)
		printf("%-26s of %lu histories: part %u of %u of those of %d ops\n",
			   "", counts.made, part, parts, ops);
	fflush(stdout);
	return right;
}

/* Try settings (NULL: all), loudly; return how many are wrong. */
static int
try_settings(const char *only, int ops, int keys)
{
	int			wrong = 0;

	for (int i = 0; i < N_SETTINGS; i++)
		if (only == NULL ? !settings[i].refused : strcmp(only, settings[i].name) == 0)
			wrong += !try_setting(&settings[i], ops, keys);
	return wrong;
}

/* Is the planted mistake found in this setting? */
static bool
found_in(const Setting *chosen, int ops, int keys)
{
	if (try_setting(chosen, ops, keys))
		return false;
	printf("ok - %s: found in %s with %d operations on %d keys, history %lu\n",
		   plant_names[plant], chosen->name, ops, n_keys, counts.histories);
	fflush(stdout);
	return true;
}

/* Is the planted mistake found? Where places says, or else anywhere, the shortest histories first. */
static bool
try_plant(void)
{
	static const struct
	{
		int			ops;
		int			keys;
	}			sizes[] = {{2, 2}, {2, 3}, {3, 2}, {3, 3}};
	const char *name = places[plant].setting;

	for (int i = 0; i < N_SETTINGS; i++)
		if (name != NULL && strcmp(name, settings[i].name) == 0 &&
			found_in(&settings[i], places[plant].ops, places[plant].keys))
			return true;
	for (int size = 0; name == NULL && size < (int) (sizeof sizes / sizeof sizes[0]); size++)
		for (int i = 0; i < N_SETTINGS; i++)
			if (!settings[i].refused && (sizes[size].keys < 3 || settings[i].unique) &&
				found_in(&settings[i], sizes[size].ops, sizes[size].keys))
				return true;
	printf("not ok - %s: not found\n", plant_names[plant]);
	return false;
}

static int
usage(void)
{
	fprintf(stderr, "usage: exhaustive [ops=1..%d] [keys=1..%d] [only=setting] [claims]"
			" [part=K/N] [plants | plant=name [-v]]\nsettings:", MAX_TXNS, MAX_KEYS);
	for (int i = 0; i < N_SETTINGS; i++)
		fprintf(stderr, " %s", settings[i].name);
	fprintf(stderr, "\nplants:\n");
#define PLANT_USAGE(name, text) fprintf(stderr, "  %-24s %s\n", #name, text);
	PLANTS(PLANT_USAGE)
#undef PLANT_USAGE
	return 2;
}

/* Return the plant of that name; N_PLANTS if there is none. */
static Plant
plant_by_name(const char *name)
{
	Plant		found = NOTHING + 1;

	while (found < N_PLANTS && strcmp(name, plant_names[found]) != 0)
		found++;
	return found;
}

int
main(int argc, char **argv)
{
	const char *only = NULL;
	bool		plants = false;
	int			ops = 3;
	int			keys = 0;
	int			missed = 0;

	for (int i = 1; i < argc; i++)
	{
		if (sscanf(argv[i], "ops=%d", &ops) == 1 || sscanf(argv[i], "keys=%d", &keys) == 1 ||
			sscanf(argv[i], "part=%u/%u", &part, &parts) == 2)
			continue;
		if (strncmp(argv[i], "only=", 5) == 0)
			only = argv[i] + 5;
		else if (strcmp(argv[i], "claims") == 0)
			claims = true;
		else if (strcmp(argv[i], "-v") == 0)
			verbose = true;
		else if (strcmp(argv[i], "plants") == 0)
			plants = true;
		else if (strncmp(argv[i], "plant=", 6) != 0 ||
				 (plant = plant_by_name(argv[i] + 6)) == N_PLANTS)
			return usage();
	}
	if (ops < 1 || ops > MAX_TXNS || keys < 0 || keys > MAX_KEYS || part < 1 || part > parts)
		return usage();
	if (plant != NOTHING && only == NULL)
		return try_plant() ? 0 : 1;
	if (!plants)
		return try_settings(only, ops, keys) > 0;
	for (plant = NOTHING + 1; plant < N_PLANTS; plant++)
		missed += !try_plant();
	return missed > 0;
}
