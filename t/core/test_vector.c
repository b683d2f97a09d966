/*
 * test_vector.c
 *	  Version vectors are a lattice: join and meet are commutative,
 *	  associative, idempotent and agree with covers. Checked on random vectors
 *	  against the plain definition, and at the limit of P2P_MAX_MEMBERS.
 */
#include "hostile.h"

#include "p2p_vector.h"

#define ROUNDS 2000
#define ORIGINS 12

/* Return the n-th of a small set of origins that differ in id or only in epoch. */
static P2pOrigin
origin_of(uint32_t n)
{
	P2pOrigin	origin = {{{0}}, 1 + n % 2};

	origin.id.bytes[0] = (uint8_t) (n / 2 % 128);
	origin.id.bytes[15] = (uint8_t) (n / 256);
	return origin;
}

/* Fill v with a random vector; some entries are set to 0. */
static void
random_vector(uint64_t *state, P2pVector *v)
{
	p2p_vector_clear(v);
	for (uint32_t i = 0; i < ORIGINS; i++)
	{
		P2pOrigin	origin = origin_of(hostile_below(state, ORIGINS));

		if (hostile_below(state, 2) == 0)
			assert_true(p2p_vector_set(v, &origin, hostile_below(state, 4)));
	}
}

/* Check that entries ascend. */
static void
assert_sorted(const P2pVector *v)
{
	for (uint32_t i = 1; i < v->count; i++)
		assert_true(p2p_origin_compare(&v->entries[i - 1].origin, &v->entries[i].origin) < 0);
}

static void
test_vector_merge_is_the_maximum_of_each_component(void **unused)
{
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		P2pVector	a;
		P2pVector	b;
		P2pVector	join;
		P2pVector	meet;

		random_vector(&state, &a);
		random_vector(&state, &b);
		join = a;
		assert_true(p2p_vector_merge(&join, &b));
		meet = a;
		p2p_vector_meet(&meet, &b);
		assert_sorted(&join);
		assert_sorted(&meet);
		for (uint32_t i = 0; i < ORIGINS; i++)
		{
			P2pOrigin	origin = origin_of(i);
			uint64_t	x = p2p_vector_get(&a, &origin);
			uint64_t	y = p2p_vector_get(&b, &origin);

			assert_true(p2p_vector_get(&join, &origin) == (x > y ? x : y));
			assert_true(p2p_vector_get(&meet, &origin) == (x < y ? x : y));
		}
	}
}

static void
test_vector_merge_is_commutative(void **unused)
{
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		P2pVector	a;
		P2pVector	b;
		P2pVector	ab;
		P2pVector	ba;

		random_vector(&state, &a);
		random_vector(&state, &b);
		ab = a;
		ba = b;
		assert_true(p2p_vector_merge(&ab, &b));
		assert_true(p2p_vector_merge(&ba, &a));
		assert_true(p2p_vector_equal(&ab, &ba));
		assert_int_equal(ab.count, ba.count);
	}
}

static void
test_vector_merge_is_associative_and_idempotent(void **unused)
{
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		P2pVector	a;
		P2pVector	b;
		P2pVector	c;
		P2pVector	left;
		P2pVector	right;

		random_vector(&state, &a);
		random_vector(&state, &b);
		random_vector(&state, &c);
		left = a;
		assert_true(p2p_vector_merge(&left, &b));
		assert_true(p2p_vector_merge(&left, &c));
		right = b;
		assert_true(p2p_vector_merge(&right, &c));
		assert_true(p2p_vector_merge(&right, &a));
		assert_true(p2p_vector_equal(&left, &right));
		assert_true(p2p_vector_merge(&right, &left));
		assert_true(p2p_vector_merge(&right, &right));
		assert_true(p2p_vector_equal(&left, &right));
	}
}

static void
test_vector_covers_agrees_with_merge_and_meet(void **unused)
{
	uint64_t	state = hostile_seed();

	(void) unused;
	for (int round = 0; round < ROUNDS; round++)
	{
		P2pVector	a;
		P2pVector	b;
		P2pVector	join;
		P2pVector	meet;

		random_vector(&state, &a);
		random_vector(&state, &b);
		join = a;
		assert_true(p2p_vector_merge(&join, &b));
		meet = a;
		p2p_vector_meet(&meet, &b);
		assert_true(p2p_vector_covers(&join, &a) && p2p_vector_covers(&join, &b));
		assert_true(p2p_vector_covers(&a, &meet) && p2p_vector_covers(&b, &meet));
		assert_int_equal(p2p_vector_covers(&a, &b), p2p_vector_equal(&join, &a));
		assert_int_equal(p2p_vector_covers(&a, &b), p2p_vector_equal(&meet, &b));
	}
}

static void
test_vector_zero_equals_absent(void **unused)
{
	P2pOrigin	origin = origin_of(3);
	P2pVector	empty;
	P2pVector	zero;

	(void) unused;
	p2p_vector_clear(&empty);
	p2p_vector_clear(&zero);
	assert_true(p2p_vector_set(&zero, &origin, 0));
	assert_int_equal(zero.count, 1);
	assert_true(p2p_vector_equal(&empty, &zero));
	assert_true(p2p_vector_raise(&empty, &origin, 0));
	assert_int_equal(empty.count, 0);
}

static void
test_vector_raise_never_lowers(void **unused)
{
	P2pOrigin	origin = origin_of(3);
	P2pDot		dot = {origin, 7};
	P2pVector	v;

	(void) unused;
	p2p_vector_clear(&v);
	assert_false(p2p_vector_covers_dot(&v, &dot));
	assert_true(p2p_vector_raise(&v, &origin, 7));
	assert_true(p2p_vector_raise(&v, &origin, 5));
	assert_true(p2p_vector_covers_dot(&v, &dot));
	assert_true(p2p_vector_set(&v, &origin, 6));
	assert_false(p2p_vector_covers_dot(&v, &dot));
}

static void
test_vector_full_refuses_and_stays_as_it_was(void **unused)
{
	P2pVector	full;
	P2pVector	more;
	P2pVector	before;
	P2pOrigin	extra = origin_of(P2P_MAX_MEMBERS);
	P2pOrigin	present = origin_of(0);

	(void) unused;
	p2p_vector_clear(&full);
	p2p_vector_clear(&more);
	/* In descending order: the worst for insertion. */
	for (uint32_t i = P2P_MAX_MEMBERS; i > 0; i--)
	{
		P2pOrigin	origin = origin_of(i - 1);

		assert_true(p2p_vector_raise(&full, &origin, i));
	}
	assert_sorted(&full);
	before = full;
	assert_false(p2p_vector_set(&full, &extra, 1));
	assert_false(p2p_vector_raise(&full, &extra, 1));
	assert_true(p2p_vector_set(&more, &extra, 1));
	assert_true(p2p_vector_set(&more, &present, 1000));
	assert_false(p2p_vector_merge(&full, &more));
	assert_int_equal(full.count, before.count);
	assert_true(p2p_vector_equal(&full, &before));
	assert_true(p2p_vector_raise(&full, &present, 1000));
}

/* Read hostile bytes as a vector: it must be bad and empty, or sound. */
static void
read_vector(const uint8_t *bytes, size_t length, void *context)
{
	P2pVector	v;
	P2pReader	r;

	(void) context;
	p2p_reader_init(&r, bytes, length);
	p2p_get_vector(&r, &v);
	if (r.bad)
		assert_int_equal(v.count, 0);
	assert_true(v.count <= P2P_MAX_MEMBERS);
	assert_sorted(&v);
}

static void
test_vector_encoding_round_trips_and_fits_its_maximum(void **unused)
{
	uint8_t		memory[P2P_VECTOR_MAX_SIZE];
	P2pVector	v;
	P2pVector	found;
	P2pWriter	w;
	P2pReader	r;

	(void) unused;
	p2p_vector_clear(&v);
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS; i++)
	{
		P2pOrigin	origin = origin_of(i);

		assert_true(p2p_vector_set(&v, &origin, UINT64_MAX - i));
	}
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_vector(&w, &v);
	assert_false(w.overflow);
	assert_int_equal(w.length, P2P_VECTOR_MAX_SIZE);
	p2p_reader_init(&r, memory, w.length);
	p2p_get_vector(&r, &found);
	assert_false(r.bad);
	assert_true(p2p_vector_equal(&v, &found));
	for (size_t n = 0; n < w.length; n += 7)
	{
		p2p_reader_init(&r, memory, n);
		p2p_get_vector(&r, &found);
		assert_true(r.bad);
		assert_int_equal(found.count, 0);
	}
	hostile_truncate(memory, 200, read_vector, NULL);
	hostile_flip(memory, w.length, 2000, read_vector, NULL);
}

/* Is a vector of these entries, as they stand, refused? */
static bool
refused(const uint32_t *origins, uint32_t n, uint64_t count)
{
	static uint8_t memory[P2P_VECTOR_MAX_SIZE + 64];
	P2pVector	v;
	P2pWriter	w;
	P2pReader	r;

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_varint(&w, count);
	for (uint32_t i = 0; i < n; i++)
	{
		P2pOrigin	origin = origin_of(origins[i]);

		p2p_put_origin(&w, &origin);
		p2p_put_varint(&w, 1);
	}
	p2p_reader_init(&r, memory, w.length);
	p2p_get_vector(&r, &v);
	return r.bad && v.count == 0;
}

static void
test_vector_decoder_refuses_unsorted_duplicate_and_too_many(void **unused)
{
	uint32_t	sorted[] = {0, 1, 2};
	uint32_t	unsorted[] = {0, 2, 1};
	uint32_t	duplicate[] = {0, 1, 1};
	uint32_t	many[P2P_MAX_MEMBERS + 1];

	(void) unused;
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS + 1; i++)
		many[i] = i;
	assert_false(refused(sorted, 3, 3));
	assert_true(refused(unsorted, 3, 3));
	assert_true(refused(duplicate, 3, 3));
	assert_true(refused(sorted, 3, 4));
	assert_true(refused(sorted, 3, UINT64_MAX));
	assert_true(refused(sorted, 3, (uint64_t) 3 << 32 | 3));
	assert_true(refused(many, P2P_MAX_MEMBERS + 1, P2P_MAX_MEMBERS + 1));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vector_merge_is_the_maximum_of_each_component),
		cmocka_unit_test(test_vector_merge_is_commutative),
		cmocka_unit_test(test_vector_merge_is_associative_and_idempotent),
		cmocka_unit_test(test_vector_covers_agrees_with_merge_and_meet),
		cmocka_unit_test(test_vector_zero_equals_absent),
		cmocka_unit_test(test_vector_raise_never_lowers),
		cmocka_unit_test(test_vector_full_refuses_and_stays_as_it_was),
		cmocka_unit_test(test_vector_encoding_round_trips_and_fits_its_maximum),
		cmocka_unit_test(test_vector_decoder_refuses_unsorted_duplicate_and_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
