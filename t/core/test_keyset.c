/*
 * test_keyset.c
 *	  Key sets: each rule by name; then random causal histories, in every kind of
 *	  order, against the definitions.
 *
 * A random history is made by a few origins that write and hear of one another:
 * what a transaction has seen is closed, and its stamp is given by
 * p2p_stamp_next with clocks that disagree. Some transactions change the handler: what has
 * seen one is of its epoch. The reference asks the definitions of p2p_keyset.h of
 * explicit sets of "has seen", knowing neither vectors nor covered marks.
 */
#include "hostile.h"

#include "p2p_keyset.h"
#include "versions.h"

#define ROUNDS 3000
#define ORDERS 6				/* of arrival, per history */
#define MAX_ORIGINS 4
#define MAX_VERSIONS 16
#define ANCIENT_VALUE 1000

/* ---- making versions ---- */

/* Return a version of step 2 that has seen deps; deps must live. */
static P2pKeyVersion
key_version(P2pOp op, P2pStamp stamp, uint32_t origin, uint64_t seq, const P2pVector *deps)
{
	return (P2pKeyVersion) {
		.version = version_of(stamp, origin, seq), .step = 2, .op = op,
		.deps = deps->entries, .ndeps = deps->count
	};
}

typedef struct Room
{
	P2pKeySet	set;
	P2pKeyVersion versions[MAX_VERSIONS];
} Room;

static P2pKeySet *
room_open(Room *room)
{
	memset(room, 0, sizeof *room);
	room->set = (P2pKeySet) {.versions = room->versions, .capacity = MAX_VERSIONS};
	return &room->set;
}

static void
add(P2pKeySet *set, const P2pKeyVersion *version)
{
	assert_true(p2p_keyset_add(set, version));
}

static bool
same(const P2pKeyVersion *a, const P2pKeyVersion *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return p2p_version_compare(&a->version, &b->version) == 0 && a->step == b->step;
}

/* ---- each rule ---- */

static void
test_keyset_that_is_empty_has_no_winner(void **unused)
{
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	assert_null(p2p_keyset_winner(set));
	assert_null(p2p_keyset_last_delete(set));
	assert_null(p2p_keyset_base(set));
	assert_int_equal(p2p_keyset_standing(set, NULL, 0), 0);
}

static void
test_keyset_add_is_commutative(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	a1 = vector(1, 0, 0);
	P2pKeyVersion first = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	P2pKeyVersion second = key_version(P2P_OP_UPDATE, 20, 1, 1, &a1);
	const P2pKeyVersion *standing[2];
	Room		room;

	(void) unused;
	for (int order = 0; order < 2; order++)
	{
		P2pKeySet  *set = room_open(&room);

		add(set, order == 0 ? &first : &second);
		add(set, order == 0 ? &second : &first);
		assert_true(same(p2p_keyset_winner(set), &second));
		assert_int_equal(p2p_keyset_standing(set, standing, 2), 1);
		assert_true(same(standing[0], &second));
	}
}

static void
test_keyset_add_is_idempotent(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion version = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &version);
	add(set, &version);
	assert_int_equal(set->count, 1);
	assert_false(set->versions[0].covered);
}

static void
test_keyset_add_refuses_when_full_and_changes_nothing(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	a1 = vector(1, 0, 0);
	P2pKeyVersion first = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	P2pKeyVersion second = key_version(P2P_OP_UPDATE, 20, 1, 1, &a1);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	set->capacity = 1;
	add(set, &first);
	assert_false(p2p_keyset_add(set, &second));
	assert_int_equal(set->count, 1);
	assert_false(set->versions[0].covered);
	add(set, &first);
}

static void
test_keyset_concurrent_versions_all_stand_in_ascending_order(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion a = key_version(P2P_OP_INSERT, 30, 0, 1, &none);
	P2pKeyVersion b = key_version(P2P_OP_DELETE, 10, 1, 1, &none);
	P2pKeyVersion c = key_version(P2P_OP_UPDATE, 10, 2, 1, &none);
	const P2pKeyVersion *standing[3];
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &a);
	add(set, &c);
	add(set, &b);
	assert_int_equal(p2p_keyset_standing(set, standing, 3), 3);
	assert_true(same(standing[0], &b));
	assert_true(same(standing[1], &c));
	assert_true(same(standing[2], &a));
	assert_true(same(p2p_keyset_winner(set), &a));
	assert_int_equal(p2p_keyset_standing(set, standing, 1), 3);
}

static void
test_keyset_earlier_version_of_the_same_origin_is_covered(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion first = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	P2pKeyVersion second = key_version(P2P_OP_UPDATE, 11, 0, 2, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &second);
	add(set, &first);
	assert_true(p2p_keyset_find(set, &first)->covered);
	assert_false(p2p_keyset_find(set, &second)->covered);
}

static void
test_keyset_earlier_incarnation_is_another_origin(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion first = key_version(P2P_OP_INSERT, 10, 0, 5, &none);
	P2pKeyVersion second = key_version(P2P_OP_UPDATE, 11, 0, 9, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	second.version.dot.origin.epoch = 2;
	add(set, &first);
	add(set, &second);
	assert_int_equal(p2p_keyset_standing(set, NULL, 0), 2);
}

static void
test_keyset_later_step_of_a_transaction_covers_the_earlier(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion delete = key_version(P2P_OP_DELETE, 10, 0, 1, &none);
	P2pKeyVersion insert = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	insert.step = 3;
	add(set, &insert);
	add(set, &delete);
	assert_int_equal(set->count, 2);
	assert_true(same(p2p_keyset_winner(set), &insert));
	assert_int_equal(p2p_keyset_standing(set, NULL, 0), 1);
	assert_true(same(p2p_keyset_last_delete(set), &delete));
}

static void
test_keyset_greater_epoch_beats_greater_stamp(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	c1 = vector(0, 0, 1);
	P2pKeyVersion old = key_version(P2P_OP_UPDATE, 90, 0, 1, &none);
	P2pKeyVersion new = key_version(P2P_OP_UPDATE, 10, 1, 1, &c1);
	const P2pKeyVersion *standing[2];
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	new.epoch = version_of(5, 2, 1);
	add(set, &old);
	add(set, &new);
	assert_true(same(p2p_keyset_winner(set), &new));
	assert_int_equal(p2p_keyset_standing(set, standing, 2), 1);
	assert_true(same(standing[0], &new));
	assert_false(set->versions[0].covered);
}

static void
test_keyset_drop_stable_leaves_the_rest_in_order(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	stable = vector(1, 0, 1);
	P2pKeyVersion a = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	P2pKeyVersion b = key_version(P2P_OP_INSERT, 11, 1, 1, &none);
	P2pKeyVersion a2 = key_version(P2P_OP_UPDATE, 12, 0, 2, &none);
	P2pKeyVersion c = key_version(P2P_OP_UPDATE, 13, 2, 1, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &a);
	add(set, &b);
	add(set, &a2);
	add(set, &c);
	assert_int_equal(p2p_keyset_drop_stable(set, &stable), 2);
	assert_int_equal(set->count, 2);
	assert_true(same(&set->versions[0], &b));
	assert_true(same(&set->versions[1], &a2));
	assert_int_equal(p2p_keyset_drop_stable(set, &stable), 0);
}

static void
test_keyset_last_delete_is_the_greatest_even_if_covered(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	b1 = vector(0, 1, 0);
	P2pKeyVersion low = key_version(P2P_OP_DELETE, 10, 0, 1, &none);
	P2pKeyVersion high = key_version(P2P_OP_DELETE, 20, 1, 1, &none);
	P2pKeyVersion insert = key_version(P2P_OP_INSERT, 30, 2, 1, &b1);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &high);
	add(set, &insert);
	add(set, &low);
	assert_true(same(p2p_keyset_last_delete(set), &high));
}

static void
test_keyset_counter_adds_concurrent_deltas(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion a = key_version(P2P_OP_UPDATE, 10, 0, 1, &none);
	P2pKeyVersion b = key_version(P2P_OP_UPDATE, 20, 1, 1, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	a.is_delta = b.is_delta = true;
	add(set, &b);
	assert_int_equal(p2p_keyset_counter_step(set, &b), P2P_COUNTER_ADD);
	add(set, &a);
	assert_int_equal(p2p_keyset_counter_step(set, &a), P2P_COUNTER_ADD);
	assert_true(p2p_keyset_counts(set, &a) && p2p_keyset_counts(set, &b));
}

static void
test_keyset_counter_restarts_at_a_delete_that_loses(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion below = key_version(P2P_OP_UPDATE, 10, 0, 1, &none);
	P2pKeyVersion delete = key_version(P2P_OP_DELETE, 20, 1, 1, &none);
	P2pKeyVersion above = key_version(P2P_OP_UPDATE, 30, 2, 1, &none);
	P2pKeyVersion late = key_version(P2P_OP_UPDATE, 15, 2, 1, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	below.is_delta = above.is_delta = late.is_delta = true;
	late.version.dot.origin = node(3);
	add(set, &below);
	add(set, &above);
	add(set, &delete);
	assert_int_equal(p2p_keyset_counter_step(set, &delete), P2P_COUNTER_RESTART);
	assert_false(p2p_keyset_counts(set, &below));
	assert_false(p2p_keyset_counts(set, &delete));
	assert_true(p2p_keyset_counts(set, &above));
	assert_null(p2p_keyset_base(set));
	add(set, &late);
	assert_int_equal(p2p_keyset_counter_step(set, &late), P2P_COUNTER_KEEP);
}

static void
test_keyset_counter_restarts_at_the_greatest_absolute_value(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pKeyVersion delete = key_version(P2P_OP_DELETE, 5, 0, 1, &none);
	P2pKeyVersion low = key_version(P2P_OP_UPDATE, 10, 1, 1, &none);
	P2pKeyVersion high = key_version(P2P_OP_UPDATE, 20, 2, 1, &none);
	P2pKeyVersion delta = key_version(P2P_OP_UPDATE, 30, 0, 2, &none);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	delta.is_delta = true;
	add(set, &delete);
	add(set, &delta);
	assert_null(p2p_keyset_base(set));
	add(set, &high);
	assert_int_equal(p2p_keyset_counter_step(set, &high), P2P_COUNTER_RESTART);
	add(set, &low);
	assert_int_equal(p2p_keyset_counter_step(set, &low), P2P_COUNTER_KEEP);
	assert_true(same(p2p_keyset_base(set), &high));
	assert_true(p2p_keyset_counts(set, &delta));
}

/* An absolute value that saw a delta (the merge had been taken away) has it in it. */
static void
test_keyset_counter_does_not_add_what_the_base_has_seen(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	a1 = vector(1, 0, 0);
	P2pKeyVersion delta = key_version(P2P_OP_UPDATE, 10, 0, 1, &none);
	P2pKeyVersion absolute = key_version(P2P_OP_UPDATE, 20, 1, 1, &a1);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	delta.is_delta = true;
	add(set, &delta);
	add(set, &absolute);
	assert_false(p2p_keyset_counts(set, &delta));
	assert_true(same(p2p_keyset_base(set), &absolute));
}

/* A delete that won by epoch left no row: a greater stamp of a lesser epoch must not count later. */
static void
test_keyset_counter_restarts_by_epoch_before_stamp(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	c1 = vector(0, 0, 1);
	P2pKeyVersion old = key_version(P2P_OP_UPDATE, 90, 0, 1, &none);
	P2pKeyVersion delete = key_version(P2P_OP_DELETE, 10, 1, 1, &c1);
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	old.is_delta = true;
	delete.epoch = version_of(5, 2, 1);
	add(set, &old);
	add(set, &delete);
	assert_true(same(p2p_keyset_winner(set), &delete));
	assert_false(p2p_keyset_counts(set, &old));
}

static void
test_keyset_conflict_is_named_against_the_greatest_unseen(void **unused)
{
	P2pVector	none = vector(0, 0, 0);
	P2pVector	a1 = vector(1, 0, 0);
	P2pKeyVersion seen = key_version(P2P_OP_INSERT, 10, 0, 1, &none);
	P2pKeyVersion unseen = key_version(P2P_OP_DELETE, 20, 2, 1, &a1);
	P2pKeyVersion newcomer = key_version(P2P_OP_UPDATE, 15, 1, 1, &a1);
	const P2pKeyVersion *other = &newcomer;
	Room		room;
	P2pKeySet  *set = room_open(&room);

	(void) unused;
	add(set, &seen);
	add(set, &newcomer);
	assert_int_equal(p2p_keyset_conflict(set, &newcomer, &other), P2P_NO_CONFLICT);
	assert_null(other);
	add(set, &unseen);
	assert_int_equal(p2p_keyset_conflict(set, &newcomer, &other), P2P_UPDATE_DELETED);
	assert_true(same(other, &unseen));
	assert_int_equal(p2p_keyset_conflict(set, &unseen, &other), P2P_DELETE_ORIGIN_DIFFERS);
	assert_true(same(other, &newcomer));
	assert_int_equal(p2p_keyset_conflict(set, &seen, &other), P2P_NO_CONFLICT);
}

/* ---- random histories ---- */

typedef struct History
{
	uint32_t	n;
	P2pKeyVersion versions[MAX_VERSIONS];
	P2pVector	deps[MAX_VERSIONS];
	uint32_t	past[MAX_VERSIONS]; /* bit i: has seen version i; itself not */
	int			amount[MAX_VERSIONS];	/* a delta, or an absolute value */
} History;

/* An origin while a history is made. */
typedef struct Writer
{
	P2pVector	applied;
	uint32_t	seen;			/* versions */
	P2pVersion	epoch;
	P2pStamp	greatest;		/* stamp that it has begun with, or given */
	P2pStamp	clock;
	uint64_t	seq;
} Writer;

/* One origin hears of all that another has. */
static void
writer_hear(Writer *writer, const Writer *from)
{
	assert_true(p2p_vector_merge(&writer->applied, &from->applied));
	writer->seen |= from->seen;
	if (p2p_version_compare(&from->epoch, &writer->epoch) > 0)
		writer->epoch = from->epoch;
	if (from->greatest > writer->greatest)
		writer->greatest = from->greatest;
}

/* Give the next dot and stamp; the clock may step back. */
static P2pVersion
writer_commit(uint64_t *state, Writer *writer, uint32_t self)
{
	P2pVersion	version;

	writer->clock += (P2pStamp) hostile_below(state, 5) - 1;
	writer->greatest = p2p_stamp_next(writer->clock, 0, writer->greatest);
	version = version_of(writer->greatest, self, ++writer->seq);
	assert_true(p2p_vector_set(&writer->applied, &version.dot.origin, version.dot.seq));
	return version;
}

/* Write the key once, or twice in one transaction. */
static void
writer_write(uint64_t *state, Writer *writer, uint32_t self, History *history)
{
	P2pVector	deps = writer->applied;
	P2pVersion	version = writer_commit(state, writer, self);
	uint32_t	steps = hostile_below(state, 4) == 0 ? 2 : 1;

	for (uint32_t step = 0; step < steps && history->n < MAX_VERSIONS; step++)
	{
		uint32_t	i = history->n++;

		history->deps[i] = deps;
		history->past[i] = writer->seen;
		history->amount[i] = (int) hostile_below(state, 100);
		history->versions[i] = (P2pKeyVersion) {
			.version = version,
			.step = 2 + step,
			.op = (P2pOp) (P2P_OP_INSERT + hostile_below(state, 3)),
			.epoch = writer->epoch,
			.deps = history->deps[i].entries,
			.ndeps = history->deps[i].count,
			.is_delta = hostile_below(state, 3) > 0,
		};
		writer->seen |= 1u << i;
	}
}

/* Make a history of up to n versions. */
static void
random_history(uint64_t *state, uint32_t n, History *history)
{
	Writer		writers[MAX_ORIGINS];
	uint32_t	origins = 3 + hostile_below(state, MAX_ORIGINS - 2);

	memset(history, 0, sizeof *history);
	memset(writers, 0, sizeof writers);
	for (uint32_t i = 0; i < origins; i++)
		writers[i].clock = (P2pStamp) hostile_below(state, 10);
	while (history->n < n)
	{
		uint32_t	self = hostile_below(state, origins);

		switch (hostile_below(state, 8))
		{
			case 0:
				writers[self].epoch = writer_commit(state, &writers[self], self);
				break;
			case 1:
			case 2:
			case 3:
				writer_hear(&writers[self], &writers[hostile_below(state, origins)]);
				break;
			default:
				writer_write(state, &writers[self], self, history);
				break;
		}
	}
}

/* Put 0 .. n-1 into an order of arrival: any, or a causal one. */
static void
random_order(uint64_t *state, const History *history, bool causal, uint32_t *order)
{
	uint32_t	arrived = 0;

	for (uint32_t n = 0; n < history->n;)
	{
		uint32_t	i = hostile_below(state, history->n);

		if ((arrived & (1u << i)) != 0)
			continue;
		if (causal && (history->past[i] & ~arrived) != 0)
			continue;
		arrived |= 1u << i;
		order[n++] = i;
	}
}

/* ---- what the definitions say of the versions in `have` ---- */

typedef struct Reference
{
	uint32_t	standing;		/* a set */
	int			winner;			/* -1: none; so on */
	int			last_delete;
	int			base;
	uint32_t	counted;		/* a set */
} Reference;

static bool
in(uint32_t set, uint32_t i)
{
	return (set & (1u << i)) != 0;
}

/* Return the greatest member of a set; -1 if it is empty. */
static int
greatest_of(const History *history, uint32_t set)
{
	int			best = -1;

	for (uint32_t i = 0; i < history->n; i++)
		if (in(set, i) &&
			(best < 0 || p2p_keyversion_compare(&history->versions[i], &history->versions[best]) > 0))
			best = (int) i;
	return best;
}

/* Return the members of a set that are above a version; all, if it is -1. */
static uint32_t
above(const History *history, uint32_t set, int floor)
{
	uint32_t	result = 0;

	for (uint32_t i = 0; i < history->n; i++)
		if (in(set, i) &&
			(floor < 0 ||
			 p2p_keyversion_compare(&history->versions[i], &history->versions[floor]) > 0))
			result |= 1u << i;
	return result;
}

static Reference
reference_of(const History *history, uint32_t have)
{
	Reference	reference = {0};
	uint32_t	covered = 0;
	uint32_t	deletes = 0;
	uint32_t	deltas = 0;

	for (uint32_t i = 0; i < history->n; i++)
	{
		if (!in(have, i))
			continue;
		covered |= history->past[i];
		if (history->versions[i].op == P2P_OP_DELETE)
			deletes |= 1u << i;
		else if (history->versions[i].is_delta)
			deltas |= 1u << i;
	}
	reference.winner = greatest_of(history, have & ~covered);
	for (uint32_t i = 0; i < history->n; i++)
		if (in(have & ~covered, i) &&
			p2p_version_compare(&history->versions[i].epoch,
								&history->versions[reference.winner].epoch) == 0)
			reference.standing |= 1u << i;
	reference.last_delete = greatest_of(history, deletes);
	reference.base = greatest_of(history, above(history, have & ~deletes & ~deltas,
												reference.last_delete));
	reference.counted = above(history, above(history, deltas, reference.last_delete),
							  reference.base);
	return reference;
}

static const P2pKeyVersion *
version_at(const History *history, int i)
{
	return i < 0 ? NULL : &history->versions[i];
}

/* Check a set that holds `have` against the definitions. */
static void
assert_set_is(const P2pKeySet *set, const History *history, uint32_t have)
{
	Reference	reference = reference_of(history, have);
	const P2pKeyVersion *standing[MAX_VERSIONS];
	uint32_t	n = p2p_keyset_standing(set, standing, MAX_VERSIONS);
	uint32_t	left = reference.standing;

	assert_true(same(p2p_keyset_winner(set), version_at(history, reference.winner)));
	assert_true(same(p2p_keyset_last_delete(set), version_at(history, reference.last_delete)));
	assert_true(same(p2p_keyset_base(set), version_at(history, reference.base)));
	for (uint32_t i = n; i > 0; i--)
	{
		int			expected = greatest_of(history, left);

		assert_true(expected >= 0);
		assert_true(same(standing[i - 1], &history->versions[expected]));
		left &= ~(1u << expected);
	}
	assert_int_equal(left, 0);
	for (uint32_t i = 0; i < history->n; i++)
		if (in(have, i))
			assert_int_equal(p2p_keyset_counts(set, &history->versions[i]),
							 in(reference.counted, i));
}

static void
test_keyset_is_a_function_of_the_set_in_every_order(void **unused)
{
	uint64_t	state = hostile_seed();
	History		history;
	Room		room;
	uint32_t	order[MAX_VERSIONS];

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		random_history(&state, 1 + hostile_below(&state, 10), &history);
		for (int i = 0; i < ORDERS; i++)
		{
			P2pKeySet  *set = room_open(&room);
			uint32_t	have = 0;

			random_order(&state, &history, i < 2, order);
			for (uint32_t n = 0; n < history.n; n++)
			{
				add(set, &history.versions[order[n]]);
				have |= 1u << order[n];
				assert_set_is(set, &history, have);
			}
		}
	}
}

/* The greatest of all stands, and is the winner: what last_writer_wins leans on. */
static void
test_keyset_winner_is_the_greatest_of_all(void **unused)
{
	uint64_t	state = hostile_seed();
	History		history;

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		random_history(&state, 1 + hostile_below(&state, 10), &history);
		assert_int_equal(reference_of(&history, (1u << history.n) - 1).winner,
						 greatest_of(&history, (1u << history.n) - 1));
	}
}

/* Return the counter that the definitions give for `have`; *row: is there one? */
static int
whole_value(const History *history, uint32_t have, bool *row)
{
	Reference	reference = reference_of(history, have);
	int			value = 0;

	*row = reference.winner < 0 || history->versions[reference.winner].op != P2P_OP_DELETE;
	if (reference.base >= 0)
		value = history->amount[reference.base];
	else if (reference.last_delete < 0)
		value = ANCIENT_VALUE;
	for (uint32_t i = 0; i < history->n; i++)
		if (in(reference.counted, i))
			value += history->amount[i];
	return *row ? value : 0;
}

/* Return base + deltas as a restart at the newcomer counts them: from the set alone. */
static int
restart_value(const P2pKeySet *set, const History *history, uint32_t newcomer)
{
	int			value = 0;

	if (history->versions[newcomer].op != P2P_OP_DELETE)
		value = history->amount[newcomer];
	for (uint32_t i = 0; i < set->count; i++)
		if (p2p_keyset_counts(set, &set->versions[i]))
			value += *(const int *) set->versions[i].payload;
	return value;
}

/* What add and drop count by the way is what a count of all comes to. */
static void
assert_counted(const P2pKeySet *set)
{
	P2pKeySet	again = *set;

	p2p_keyset_recount(&again);
	assert_int_equal(set->uncovered, again.uncovered);
	assert_int_equal(set->restarts, again.restarts);
}

/* Drop what all that is still to come has seen: at random places of the order, as stability would. */
static void
forget(uint64_t *state, P2pKeySet *set, const History *history, uint32_t have)
{
	P2pVector	stable;
	uint32_t	unseen = 0;

	for (uint32_t i = 0; i < history->n; i++)
		if (!in(have, i))
			unseen |= have & ~history->past[i];
	p2p_vector_clear(&stable);
	for (uint32_t i = 0; i < history->n; i++)
		if (in(have & ~unseen, i) && hostile_below(state, 2) == 0)
		{
			const P2pDot *dot = &history->versions[i].version.dot;

			/* a vector covers the lower seqs, too: none of them may be needed */
			for (uint32_t j = 0; j < history->n; j++)
				if (in(unseen | ~have, j) &&
					p2p_origin_equal(&history->versions[j].version.dot.origin, &dot->origin) &&
					history->versions[j].version.dot.seq <= dot->seq)
					dot = NULL, j = history->n;
			if (dot != NULL)
				assert_true(p2p_vector_raise(&stable, &dot->origin, dot->seq));
		}
	p2p_keyset_drop_stable(set, &stable);
	assert_counted(set);
}

/*
 * The row of a counter, kept as the server keeps it, is the whole sum after
 * each arrival, however early stable versions are forgotten.
 */
static void
test_keyset_counter_steps_come_to_the_whole_sum(void **unused)
{
	uint64_t	state = hostile_seed();
	History		history;
	Room		room;
	uint32_t	order[MAX_VERSIONS];

	(void) unused;
	for (int round = 0; round < ROUNDS * ORDERS; round++)
	{
		P2pKeySet  *set = room_open(&room);
		bool		row = true;
		int			value = ANCIENT_VALUE;
		uint32_t	have = 0;

		random_history(&state, 1 + hostile_below(&state, 8), &history);
		random_order(&state, &history, true, order);
		for (uint32_t n = 0; n < history.n; n++)
		{
			uint32_t	i = order[n];
			bool		whole_row;
			int			whole;

			history.versions[i].payload = &history.amount[i];
			add(set, &history.versions[i]);
			have |= 1u << i;
			switch (p2p_keyset_counter_step(set, &history.versions[i]))
			{
				case P2P_COUNTER_KEEP:
					break;
				case P2P_COUNTER_ADD:
					value = (row ? value : 0) + history.amount[i];
					break;
				case P2P_COUNTER_RESTART:
					value = restart_value(set, &history, i);
					break;
			}
			row = p2p_keyset_winner(set)->op != P2P_OP_DELETE;
			whole = whole_value(&history, have, &whole_row);
			assert_int_equal(row, whole_row);
			if (row)
				assert_int_equal(value, whole);
			forget(&state, set, &history, have);
		}
	}
}

/* Versions stand in their order, whatever the order of arrival, and are found again. */
static void
test_keyset_is_in_order_of_versions(void **unused)
{
	uint64_t	state = hostile_seed();
	History		history;
	Room		room;
	uint32_t	order[MAX_VERSIONS];

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		P2pKeySet  *set = room_open(&room);

		random_history(&state, 1 + hostile_below(&state, 10), &history);
		random_order(&state, &history, false, order);
		for (uint32_t n = 0; n < history.n; n++)
		{
			assert_null(p2p_keyset_find(set, &history.versions[order[n]]));
			add(set, &history.versions[order[n]]);
			add(set, &history.versions[order[n]]);
			assert_true(same(p2p_keyset_find(set, &history.versions[order[n]]),
							 &history.versions[order[n]]));
		}
		assert_int_equal(set->count, history.n);
		for (uint32_t i = 1; i < set->count; i++)
		{
			int			o = p2p_version_compare(&set->versions[i - 1].version,
												&set->versions[i].version);

			assert_true(o < 0 || (o == 0 && set->versions[i - 1].step < set->versions[i].step));
		}
	}
}

/*
 * A hot counter while a member is down: 100,000 writes of two origins in turn. Not timed; a walk over
 * all for each would be 10 billion steps, and make this test stand out.
 */
static void
test_keyset_of_a_hot_counter(void **unused)
{
	enum {WRITES = 100000};
	P2pKeySet	set = {.versions = malloc(WRITES * sizeof *set.versions), .capacity = WRITES};
	P2pVectorEntry *deps = malloc(2 * WRITES * sizeof *deps);
	const P2pKeyVersion *standing[2];
	const P2pKeyVersion *other;

	(void) unused;
	assert_non_null(set.versions);
	assert_non_null(deps);
	for (uint32_t i = 0; i < WRITES; i++)
	{
		const P2pVector seen = vector((i + 1) / 2, i / 2, 0);
		P2pKeyVersion version = key_version(P2P_OP_UPDATE, 10 + i, i % 2, i / 2 + 1, &seen);

		memcpy(&deps[2 * i], seen.entries, seen.count * sizeof deps[0]);
		version.deps = &deps[2 * i];
		version.is_delta = true;
		add(&set, &version);
		assert_int_equal(p2p_keyset_standing(&set, standing, 2), 1);
		assert_true(same(standing[0], &version));
		assert_true(same(p2p_keyset_winner(&set), &version));
		assert_int_equal(p2p_keyset_counter_step(&set, p2p_keyset_winner(&set)), P2P_COUNTER_ADD);
		assert_int_equal(p2p_keyset_conflict(&set, p2p_keyset_winner(&set), &other),
						 P2P_NO_CONFLICT);
	}
	assert_counted(&set);
	free(set.versions);
	free(deps);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keyset_that_is_empty_has_no_winner),
		cmocka_unit_test(test_keyset_add_is_commutative),
		cmocka_unit_test(test_keyset_add_is_idempotent),
		cmocka_unit_test(test_keyset_add_refuses_when_full_and_changes_nothing),
		cmocka_unit_test(test_keyset_concurrent_versions_all_stand_in_ascending_order),
		cmocka_unit_test(test_keyset_earlier_version_of_the_same_origin_is_covered),
		cmocka_unit_test(test_keyset_is_in_order_of_versions),
		cmocka_unit_test(test_keyset_of_a_hot_counter),
		cmocka_unit_test(test_keyset_earlier_incarnation_is_another_origin),
		cmocka_unit_test(test_keyset_later_step_of_a_transaction_covers_the_earlier),
		cmocka_unit_test(test_keyset_greater_epoch_beats_greater_stamp),
		cmocka_unit_test(test_keyset_drop_stable_leaves_the_rest_in_order),
		cmocka_unit_test(test_keyset_last_delete_is_the_greatest_even_if_covered),
		cmocka_unit_test(test_keyset_counter_adds_concurrent_deltas),
		cmocka_unit_test(test_keyset_counter_restarts_at_a_delete_that_loses),
		cmocka_unit_test(test_keyset_counter_restarts_at_the_greatest_absolute_value),
		cmocka_unit_test(test_keyset_counter_does_not_add_what_the_base_has_seen),
		cmocka_unit_test(test_keyset_counter_restarts_by_epoch_before_stamp),
		cmocka_unit_test(test_keyset_conflict_is_named_against_the_greatest_unseen),
		cmocka_unit_test(test_keyset_is_a_function_of_the_set_in_every_order),
		cmocka_unit_test(test_keyset_winner_is_the_greatest_of_all),
		cmocka_unit_test(test_keyset_counter_steps_come_to_the_whole_sum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
