/*
 * exhaustive_node.c
 *	  Every schedule of one node: in which order it hears of transactions, when
 *	  it commits its own, when its capture reads them, and when it forgets,
 *	  restarts and looks again.
 *
 *	  write		a client commits here; only at the place that its deps say. Its stamp
 *				is above all that is noted in front of it in the WAL, and need not be above
 *				what is noted behind it, however much later capture reads it
 *	  capture	reads the oldest local transaction that it has not read, and syncs it;
 *				from then on key sets and tombstones know it
 *	  act		apply does all of a transaction but its commit: notes its stamp in
 *				the WAL, looks, locks, stores. A row whose writer is not captured is waited
 *				for, and so is what it has seen of this node's own
 *	  commit	of that. Between the two, clients commit what doesn't touch its locks
 *	  forget	versions that are stable: all who have not seen them have been
 *				heard. Drops them from key sets, tombstones, version index; also
 *				while a handler change is new, which the server does not
 *	  restart	key sets are built from the logs, which hold what is not forgotten;
 *				what was in memory alone is lost
 *				The machine may have stopped: what apply has committed comes back into
 *				the logs from the notes in front of the commits
 *	  lose		once in a history: capture reads the oldest that it has not read, others
 *				pull it at once, and power fails before it is synced. It is read again,
 *				and must come out as before
 *	  follow up	look again at a key that a client has written
 *
 * Commits that were not flushed are lost with power, too; but capture reads what is flushed, so
 * nobody else knows of what was behind that, and the node is where it was before.
 *
 * Nodes meet only through transactions, and what is in those is fixed by the
 * history: its values are what the rules say that its origin had. So schedules of
 * different nodes need not be combined: if each node, in each of its schedules, has at each
 * quiet moment what the rules say, then so have all of them together, and a first
 * deviation anywhere is seen where it happens. What a node will forget hangs on the others only in
 * this: a version can be stable, at the earliest, when all transactions that have not seen it are
 * here. (Members may have acknowledged it at once.)
 *
 * States that were met before, by another way, are not gone on with.
 */
#include <stdio.h>
#include <string.h>

#include "exhaustive.h"

#define SIGNATURE offsetof(Node, sets)
#define MAX_SEEN 65536			/* states of one node in one history; a power of 2 */
#define MAX_DEPTH 64
#define MAX_WALKS (2 * MAX_KEYS + 2)	/* until all displaced rows are where they belong */

/*
 * Up to here every cut that can be stable is forgotten by itself, and restarts happen anywhere;
 * beyond, all that is stable at once, and restarts where they lose something.
 */
#define FINE_OPS 4

#define ALL(history) ((1u << (history)->n) - 1)

/* The search in one history at one node. */
typedef struct Search
{
	const History *history;
	int			self;
	unsigned	own;			/* transactions of this node */
	int			depth;
	const char *steps[MAX_DEPTH];
	unsigned	arguments[MAX_DEPTH];
} Search;

static struct
{
	uint32_t	round;
	uint32_t	used;
	uint32_t	rounds[MAX_SEEN];
	uint8_t		signatures[MAX_SEEN][SIGNATURE];
} seen;

static bool go_on(Search *search, Node *node);
static bool try_write(Search *search, const Node *node);
static bool try_capture(Search *search, const Node *node);
static bool try_lose(Search *search, const Node *node);
static bool try_act(Search *search, const Node *node);
static bool try_note(Search *search, const Node *node);
static bool try_commit(Search *search, const Node *node);
static bool try_forget(Search *search, const Node *node);
static bool try_restart_with(Search *search, const Node *node, unsigned left);
static void restart(const Search *search, const Node *node, unsigned left, Node *next);
static bool try_restart(Search *search, const Node *node);
static bool walks_end(const Search *search, const Node *node);
static bool try_follow_up(Search *search, const Node *node);
static bool is_right(const Search *search, const Node *node);
static void rows_act(const History *history, Node *node, int self, int txn);

/* ---- searching ---- */

/* Note a state; false: it was met before. */
static bool
is_new(const Node *node)
{
	const uint8_t *bytes = (const uint8_t *) node;
	uint64_t	hash = 14695981039346656037ULL;
	uint32_t	place;

	for (size_t i = 0; i < SIGNATURE; i++)
		hash = (hash ^ bytes[i]) * 1099511628211ULL;
	for (place = (uint32_t) (hash >> 20) % MAX_SEEN; seen.rounds[place] == seen.round;
		 place = (place + 1) % MAX_SEEN)
		if (memcmp(seen.signatures[place], bytes, SIGNATURE) == 0)
			return false;
	if (++seen.used >= MAX_SEEN)
	{
		fprintf(stderr, "exhaustive: MAX_SEEN is too small\n");
		_Exit(2);
	}
	seen.rounds[place] = seen.round;
	memcpy(seen.signatures[place], bytes, SIGNATURE);
	return true;
}

bool
node_try_all(const History *history, int self, char *where, size_t size)
{
	Search		search = {.history = history, .self = self};
	Node		node;
	bool		right;

	memset(&node, 0, sizeof node);
	for (int i = 0; i < history->n; i++)
		if (history->txns[i].origin == self)
			search.own |= 1u << i;
	for (int key = 0; key < n_keys; key++)
		if (history->old_rows)
			node.rows[key] = rules_row(history, 0, key);
	seen.round++;
	seen.used = 0;
	right = go_on(&search, &node);
	where[0] = '\0';
	for (int i = 0; !right && i < search.depth; i++)
	{
		size_t		length = strlen(where);

		snprintf(where + length, size - length, "%s%s %u", i > 0 ? ", " : "", search.steps[i],
				 search.arguments[i]);
	}
	return right;
}

/* Take a step: its name stays on the path if what follows fails. */
static bool
step(Search *search, Node *node, const char *name, unsigned argument)
{
	bool		right;

	search->steps[search->depth] = name;
	search->arguments[search->depth++] = argument;
	right = go_on(search, node);
	if (right)
		search->depth--;
	return right;
}

/* Sets point into the node that holds them: say so again after a copy. */
static void
node_copy(Node *to, const Node *from)
{
	memcpy(to, from, offsetof(Node, versions));
	for (int key = 0; key < n_keys; key++)
	{
		to->sets[key].versions = to->versions[key];
		to->sets[key].capacity = MAX_VERSIONS;
		memcpy(to->versions[key], from->versions[key],
			   from->sets[key].count * sizeof to->versions[0][0]);
	}
}

/* Sets are the same if they hold the same versions (that follows from the rest), and marks. */
static void
note_covered(const History *history, Node *node)
{
	for (int key = 0; key < n_keys; key++)
	{
		node->covered[key] = 0;
		for (uint32_t v = 0; v < node->sets[key].count; v++)
		{
			const Op   *op = node->sets[key].versions[v].payload;
			size_t		txn = (size_t) ((const char *) op - (const char *) history->txns) / sizeof(Txn);

			if (node->sets[key].versions[v].covered)
				node->covered[key] |= (uint16_t) (1u << (2 * txn + (op->step & 1)));
		}
	}
}

static bool
go_on(Search *search, Node *node)
{
	note_covered(search->history, node);
	if (!is_new(node))
		return true;
	counts.states++;
	if (node->forked || node->gone)
		return false;
	if (node->acting == 0)
	{
		if (!is_right(search, node))
			return false;
		if (node->applied == ALL(search->history))
			counts.ends++;
	}
	return try_write(search, node) && try_capture(search, node) && try_lose(search, node) &&
		try_act(search, node) && try_note(search, node) && try_commit(search, node) &&
		try_follow_up(search, node) && try_forget(search, node) && try_restart(search, node);
}

/* What its own transactions it has committed, and capture has not read. */
static unsigned
uncaptured(const Search *search, const Node *node)
{
	return search->own & node->applied & ~(unsigned) node->captured;
}

unsigned
node_known(const History *history, const Node *node, int self)
{
	unsigned	known = node->applied | node->captured;

	for (int i = 0; i < history->n; i++)
		if (history->txns[i].origin == self && !in(node->captured, i))
			known &= ~(1u << i);
	if (node->acting > 0)
		known |= 1u << (node->acting - 1);
	return known & ~(unsigned) node->forgotten;
}

/* ---- clients and capture ---- */

/* Can the stamp of what commits now, whatever the clock says, be that of transaction i? */
static bool
stamp_can_be(const History *history, const Node *node, int i)
{
	P2pStamp	floor = node->begun == 0 ? 0 : history->txns[node->begun - 1].version.stamp;

	return p2p_stamp_next(0, 0, floor) <= history->txns[i].version.stamp;
}

/*
 * Does capture, if it reads transaction i now, give it the stamp that it has? That was settled by
 * what stands in front of it (try_write), so it does, whenever and however often it reads.
 */
static bool
stamp_is_as_before(const History *history, const Node *node, int i)
{
	return plant != PLANT_floor_as_read || stamp_can_be(history, node, i);
}

/* Is the row of each key that a client reads what it read? */
static bool
rows_are_as_read(const Search *search, const Node *node, int txn)
{
	const History *history = search->history;
	const Txn  *t = &history->txns[txn];
	unsigned	written = 0;

	if (is_both())
		return both_may_write(history, node, txn);
	if (setting->unique)
		return unique_may_write(history, node, txn);
	for (int o = 0; o < t->nops && !t->truncate; o++)
	{
		const Op   *op = &t->ops[o];
		Row			row = rules_row(history, t->past, op->key);

		if (in(written, op->key))
			continue;
		written |= 1u << op->key;
		if ((row.image != 0) != (node->rows[op->key].image != 0) ||
			(rules_may_count() && row.column != node->rows[op->key].column))
			return false;
	}
	return true;
}

static bool
try_write(Search *search, const Node *node)
{
	const History *history = search->history;
	unsigned	left = search->own & ~(unsigned) node->applied;
	int			i = 0;
	const Txn  *t;
	Node		next;

	if (left == 0)
		return true;
	while (!in(left, i))
		i++;
	t = &history->txns[i];
	if (t->past != node->applied || !stamp_can_be(history, node, i))
		return true;
	if (node->acting > 0 && (t->truncate || t->change >= 0 ||
							 history->txns[node->acting - 1].change >= 0))
		return true;
	for (int o = 0; o < t->nops; o++)
		if (in(node->locked, t->ops[o].key))
			return true;
	if (!rows_are_as_read(search, node, i))
		return true;

	node_copy(&next, node);
	next.applied |= (uint8_t) (1u << i);
	if (is_both())
		both_write(history, &next, i);
	else if (setting->unique)
		unique_write(history, &next, i);
	for (int o = 0; o < t->nops && !setting->unique; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &next.rows[op->key];

		*row = (Row) {0};
		if (op->op != P2P_OP_DELETE)
			*row = (Row) {
				.image = op->image, .column = op->column, .writer = (uint8_t) (i + 1), .raw = true
			};
	}
	return step(search, &next, "write", (unsigned) i);
}

void
node_capture(const History *history, Node *node, int self, int i)
{
	for (int j = 0; j <= i; j++)
	{
		const Txn  *t = &history->txns[j];

		if (t->origin != self || !in(node->applied, j) || in(node->captured, j))
			continue;
		node->captured |= (uint8_t) (1u << j);
		node->forked |= node->out == j + 1 && !stamp_is_as_before(history, node, j);
		for (int o = 0; o < t->nops; o++)
		{
			P2pKeySet  *set = &node->sets[t->ops[o].key];
			bool		contested = is_both() && both_is_contested(node, t->ops[o].key);

			if (is_both())
			{
				tracked_add(history, node, j, &t->ops[o]);
				both_captured(history, node, j, &t->ops[o], contested);
			}
			else if (setting->tracked)
			{
				tracked_add(history, node, j, &t->ops[o]);
				if (!claims)
					node->touched |= (uint8_t) (1u << t->ops[o].key);
				for (uint32_t v = 0; plant == PLANT_siblings_by_stamp && v + 1 < set->count; v++)
				{
					set->versions[v].covered = true;
					p2p_keyset_recount(set);
				}
			}
			else if (t->ops[o].op == P2P_OP_DELETE && node->tombstone[t->ops[o].key] <= j)
				node->tombstone[t->ops[o].key] = (uint8_t) (j + 1);
		}
	}
}

static bool
try_capture(Search *search, const Node *node)
{
	unsigned	left = uncaptured(search, node);
	int			i = 0;
	Node		next;

	if (left == 0)
		return true;
	while (!in(left, i))
		i++;
	if (node->out != i + 1 && !stamp_is_as_before(search->history, node, i))
		return true;			/* there is no such history */
	node_copy(&next, node);
	node_capture(search->history, &next, search->self, i);
	return step(search, &next, "capture", (unsigned) i);
}

/* Capture reads, others pull, and power fails before the sync. */
static bool
try_lose(Search *search, const Node *node)
{
	unsigned	left = uncaptured(search, node);
	int			i = 0;
	Node		lost;
	Node		next;

	if (left == 0 || node->acting > 0 || node->out != 0)
		return true;
	while (!in(left, i))
		i++;
	if (!stamp_is_as_before(search->history, node, i))
		return true;
	node_copy(&lost, node);
	lost.out = (uint8_t) (i + 1);
	restart(search, &lost, 0, &next);
	return step(search, &next, "lose", (unsigned) i);
}

/* ---- apply ---- */

static bool
try_act(Search *search, const Node *node)
{
	const History *history = search->history;

	if (node->acting > 0)
		return true;
	for (int i = 0; i < history->n; i++)
	{
		const Txn  *t = &history->txns[i];
		unsigned	later = ALL(history) & ~((2u << i) - 1);
		Node		next;

		if (in(node->applied | search->own, i) || (t->past & ~(unsigned) node->applied) != 0 ||
			(t->past & uncaptured(search, node)) != 0)
			continue;
		/* there is no such history */
		if (plant == PLANT_floor_as_read &&
			(uncaptured(search, node) & ~later & ~(node->out == 0 ? 0 : 1u << (node->out - 1))) != 0)
			continue;
		node_copy(&next, node);
		next.acting = (uint8_t) (i + 1);
		if (next.begun <= i && plant != PLANT_no_floor && plant != PLANT_late_floor)
			next.begun = (uint8_t) (i + 1);
		if (is_both())
			both_act(history, &next, search->self, i);
		else if (setting->unique)
			unique_act(history, &next, i);
		else if (setting->tracked)
			tracked_act(history, &next, search->self, i);
		else
			rows_act(history, &next, search->self, i);
		if (!step(search, &next, "apply", (unsigned) i))
			return false;
	}
	return true;
}

/* The note comes late. */
static bool
try_note(Search *search, const Node *node)
{
	Node		next;

	if (plant != PLANT_late_floor || node->acting == 0 || node->begun >= node->acting)
		return true;
	node_copy(&next, node);
	next.begun = node->acting;
	return step(search, &next, "note", node->acting - 1u);
}

static bool
try_commit(Search *search, const Node *node)
{
	Node		next;

	if (node->acting == 0)
		return true;
	node_copy(&next, node);
	next.applied |= (uint8_t) (1u << (node->acting - 1));
	if (next.begun < node->acting)
		next.begun = node->acting;
	if (plant != PLANT_no_batch_note)
		next.batch_noted |= (uint8_t) (1u << (node->acting - 1));
	next.acting = 0;
	next.locked = 0;
	next.values_locked = 0;
	return step(search, &next, "commit", node->acting - 1u);
}

/* Do walks over displaced rows come to an end, if only keys are looked at again between them? */
static bool
walks_end(const Search *search, const Node *node)
{
	Node		next;

	node_copy(&next, node);
	for (int i = 0; i < MAX_WALKS && both_is_to_walk(&next, search->own); i++)
	{
		for (int key = 0; key < n_keys; key++)
			if (in(next.touched, key))
				both_follow_up(search->history, &next, search->self, key);
		both_walk(search->history, &next, search->self, false);
	}
	return !both_is_to_walk(&next, search->own);
}

static bool
try_follow_up(Search *search, const Node *node)
{
	if (node->acting > 0)
		return true;
	for (int key = 0; key < n_keys; key++)
	{
		Node		next;

		if (!in(node->touched, key))
			continue;
		node_copy(&next, node);
		if (is_both())
			both_follow_up(search->history, &next, search->self, key);
		else if (setting->unique)
			unique_follow_up(search->history, &next);
		else
			tracked_follow_up(search->history, &next, search->self, key);
		if (!step(search, &next, "follow up", (unsigned) key))
			return false;
	}
	if (!is_both() || !both_is_to_walk(node, search->own))
		return true;
	if (!walks_end(search, node))
		return false;
	for (unsigned partly = 0; partly < 2; partly++)
	{
		Node		next;

		node_copy(&next, node);
		both_walk(search->history, &next, search->self, partly != 0);
		if (!step(search, &next, "walk", partly))
			return false;
	}
	return true;
}

/* ---- forgetting ---- */

/*
 * What may be stable by now: here, and in the past of all that is still to come, and of
 * what capture has still to read (this node's own ack is read in the order of the WAL).
 */
static unsigned
may_be_stable(const Search *search, const Node *node)
{
	const History *history = search->history;
	unsigned	stable = node->applied;

	for (int i = 0; i < history->n; i++)
	{
		if (in(uncaptured(search, node), i))
			stable &= history->txns[i].past;
		if (!in(node->applied, i) && plant != PLANT_all_acked)
			stable &= history->txns[i].past;
	}
	return stable;
}

/* Drop what is stable: one transaction and its past, or all. Shown with all that is gone, as bits. */
static bool
try_forget(Search *search, const Node *node)
{
	const History *history = search->history;
	unsigned	stable = may_be_stable(search, node) & ~(unsigned) node->forgotten;

	if (is_both())
		stable = both_may_forget(history, node, search->own, stable);
	if (node->acting > 0 || stable == 0)
		return true;
	if (node->touched != 0 && setting->tracked && plant != PLANT_sweep_before_follow_up)
		return true;
	for (int i = 0; i < history->n; i++)
	{
		unsigned	forgotten = node->forgotten | history->txns[i].past | 1u << i;
		static P2pVector vector;
		Node		next;

		if (!in(stable, i) || (is_both() && (forgotten & ~(stable | node->forgotten)) != 0))
			continue;
		if (history->n > FINE_OPS || (is_both() && setting->nchanges > 0))
		{
			forgotten = node->forgotten | stable;
			i = history->n;
		}
		node_copy(&next, node);
		if (setting->unique && !is_both())
			unique_forget(history, &next, forgotten);
		next.forgotten = (uint8_t) forgotten;
		p2p_vector_clear(&vector);
		for (int j = 0; j < history->n; j++)
			if (in(forgotten, j))
				(void) p2p_vector_raise(&vector, &history->txns[j].version.dot.origin,
										history->txns[j].version.dot.seq);
		for (int key = 0; key < n_keys; key++)
		{
			(void) p2p_keyset_drop_stable(&next.sets[key], &vector);
			if (next.tombstone[key] > 0 && in(forgotten, next.tombstone[key] - 1))
				next.tombstone[key] = 0;
		}
		if (!step(search, &next, "forget", forgotten))
			return false;
	}
	return true;
}

/* ---- restart ---- */

/* Is the row as a client left it, by a version that the set holds? */
static bool
is_raw(const Node *node, int key)
{
	const Row  *row = &node->rows[key];

	return row->image != 0 && row->raw && in(node->captured, row->writer - 1) &&
		!in(node->forgotten, row->writer - 1);
}

/* Logs are trimmed in whole segments: all or nothing of what is forgotten of the node's own may be there still. */
static bool
try_restart(Search *search, const Node *node)
{
	unsigned	left = is_both() ? both_is_left(search->history, node, search->own) : 0;

	return try_restart_with(search, node, 0) && (left == 0 || try_restart_with(search, node, left));
}

/* Restart with these transactions in the log, though they were forgotten. */
static bool
try_restart_with(Search *search, const Node *node, unsigned left)
{
	Node		next;

	if (node->acting > 0 ||
		(search->history->n > FINE_OPS && node->touched == 0 && !setting->unique))
		return true;
	restart(search, node, left, &next);
	return step(search, &next, "restart", left);
}

/*
 * Make *next of *node: what stands in memory is made anew from the logs. Of others' these have lost
 * what was not synced, which may be all that is not forgotten; the notes bring it back.
 */
static void
restart(const Search *search, const Node *node, unsigned left, Node *next)
{
	const History *history = search->history;
	unsigned	logged = node_known(history, node, search->self);	/* and not forgotten */

	if (setting->unique && !is_both())
		logged |= uncaptured(search, node); /* captured before they matter */
	node_copy(next, node);
	if (is_both())
	{
		/* apply starts with a barrier */
		node_capture(history, next, search->self, history->n - 1);
		next->forgotten &= (uint8_t) ~left;
		logged = node_known(history, next, search->self);
	}
	next->gone = (node->applied & ~(search->own | node->forgotten | node->batch_noted)) != 0;
	if (plant == PLANT_unread_batch_notes)
		logged &= ~(unsigned) node->batch_noted;
	next->touched = setting->unique && !is_both();
	next->begun = 0;
	for (int i = 0; i < history->n; i++)
		if (in(node->applied & ~search->own, i) && next->begun <= i)
			next->begun = (uint8_t) (i + 1);
	for (int key = 0; key < n_keys; key++)
	{
		p2p_keyset_clear(&next->sets[key]);
		next->tombstone[key] = 0;
	}
	for (int i = history->n - 1; i >= 0; i--)	/* the logs come in no order */
		for (int o = 0; in(logged, i) && o < history->txns[i].nops; o++)
		{
			const Op   *op = &history->txns[i].ops[o];

			if (setting->tracked)
				tracked_add(history, next, i, op);
			else if (op->op == P2P_OP_DELETE && next->tombstone[op->key] <= i)
				next->tombstone[op->key] = (uint8_t) (i + 1);
		}
	if (is_both())
		both_restart(history, next, logged, search->own);
	for (int key = 0; key < n_keys; key++)
		if (setting->tracked && !claims && !is_both() &&
			(is_raw(next, key) ||
			 (plant != PLANT_lost_touch && next->rows[key].image == 0 && in(node->touched, key))))
			next->touched |= (uint8_t) (1u << key);
}

/* ---- what it came to ---- */

/* May rows still be to be looked at again? */
static bool
is_pending(const Search *search, const Node *node)
{
	if (is_both())
		return uncaptured(search, node) != 0 || !both_is_quiet(node);
	if (claims && !setting->unique)
		return uncaptured(search, node) != 0;
	if (!setting->unique && setting->handler != CUSTOM && setting->merge != MAX &&
		setting->merge != MIN && setting->nchanges == 0)
		return false;
	return node->touched != 0 || uncaptured(search, node) != 0;
}

static bool
is_right(const Search *search, const Node *node)
{
	const History *history = search->history;

	if (setting->tracked &&
		!tracked_is_right(history, node, node_known(history, node, search->self)))
		return false;
	if (is_pending(search, node))
		return true;
	if (is_both())
		return both_is_right(history, node);
	if (setting->unique)
		return unique_is_right(history, node);
	for (int key = 0; key < n_keys; key++)
	{
		Row			row = rules_row(history, node->applied, key);

		if (row.image != node->rows[key].image)
			return false;
		if (row.image != 0 && row.column != node->rows[key].column)
			return false;
	}
	return true;
}

/* ---- tables that are not tracked: a row's version is that of who wrote it ---- */

/* The version of transaction + 1 as the node knows it. */
static P2pVersion
version_of(const History *history, const Node *node, int writer)
{
	P2pVersion	ancient = {0};

	if (writer == 0 || in(node->forgotten, writer - 1))
		return ancient;
	return history->txns[writer - 1].version;
}

static void
rows_act(const History *history, Node *node, int self, int txn)
{
	const Txn  *t = &history->txns[txn];

	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &node->rows[op->key];
		P2pKeyState here = {.row_exists = row->image != 0};
		P2pDecision decision;

		if (row->image != 0 && row->raw)
			node_capture(history, node, self, row->writer - 1);
		if (row->image != 0 || t->truncate)
			node->locked |= (uint8_t) (1u << op->key);
		here.row = version_of(history, node, row->image != 0 ? row->writer : 0);
		here.tombstone = version_of(history, node, node->tombstone[op->key]);
		decision = p2p_resolve(op->op, &t->version, &t->deps, &here);
		if (plant == PLANT_last_arrival)
			decision.incoming_wins = true;
		if (!decision.incoming_wins)
			continue;
		if (op->op == P2P_OP_DELETE)
		{
			*row = (Row) {0};
			if (plant != PLANT_no_tombstone)
				node->tombstone[op->key] = (uint8_t) (txn + 1);
			continue;
		}
		if (row->image == 0 && plant != PLANT_no_delete_barrier)
		{
			node_capture(history, node, self, history->n - 1);
			if (node->tombstone[op->key] > txn + 1)
				continue;
		}
		node->locked |= (uint8_t) (1u << op->key);
		*row = (Row) {.image = op->image, .writer = (uint8_t) (txn + 1), .column = op->column};
	}
}
