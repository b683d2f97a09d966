/*
 * test_batch.c
 *	  Batches: what is sealed parses and verifies; no byte can be changed, cut
 *	  or added without a refusal; another group's or key's batch is refused;
 *	  spans and lengths that may not be are neither sealed nor parsed.
 */
#include "hostile.h"

#include "p2p_batch.h"

typedef struct Sealed
{
	P2pId		group;
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	P2pBatch	batch;
	uint8_t		bytes[P2P_BATCH_MAX_HEADER + 64];
	size_t		length;
} Sealed;

static const char body[] = "the body of a batch, as stored";

/* Fill s->batch with what a sound batch of `body` says. */
static void
describe(Sealed *s)
{
	uint8_t		seed[P2P_SEED_SIZE] = {7};
	P2pBatch   *batch = &s->batch;

	memset(s, 0, sizeof(*s));
	memset(&s->group, 0x11, sizeof(s->group));
	p2p_keypair_from_seed(seed, s->public_key, s->secret_key);
	batch->group = s->group;
	p2p_id_of_key(s->public_key, &batch->origin.id);
	batch->origin.epoch = 3;
	batch->span = (P2pSpan) {5, 9, 0, false, true};
	batch->last_stamp = 123456789;
	memset(batch->previous_hash, 0x22, P2P_HASH_SIZE);
	batch->raw_length = sizeof(body);
	assert_true(p2p_vector_set(&batch->deps, &(P2pOrigin) {{{0xaa}}, 1}, 300));
	assert_true(p2p_vector_set(&batch->deps, &(P2pOrigin) {{{0xbb}}, 1}, 2));
}

/* Seal s->batch and put the whole of it into s->bytes. */
static P2pStatus
seal(Sealed *s)
{
	P2pStatus	status = p2p_batch_seal(&s->batch, body, sizeof(body), s->secret_key,
										s->bytes, P2P_BATCH_MAX_HEADER);

	if (status != P2P_OK)
		return status;
	memcpy(s->bytes + s->batch.header_length, body, sizeof(body));
	s->length = s->batch.header_length + sizeof(body);
	return P2P_OK;
}

/* Parse and verify bytes as a peer does. */
static P2pStatus
receive(const Sealed *s, const uint8_t *bytes, size_t length, P2pBatch *batch)
{
	P2pStatus	status = p2p_batch_parse(bytes, length, batch);

	if (status != P2P_OK)
		return status;
	return p2p_batch_verify(batch, bytes, &s->group, s->public_key);
}

static void
test_batch_sealed_parses_and_verifies(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	assert_int_equal(receive(&s, s.bytes, s.length, &found), P2P_OK);
	assert_int_equal(p2p_id_compare(&found.group, &s.group), 0);
	assert_true(p2p_origin_equal(&found.origin, &s.batch.origin));
	assert_true(found.span.first_seq == 5 && found.span.last_seq == 9);
	assert_false(found.span.partial);
	assert_true(found.span.final);
	assert_true(found.last_stamp == 123456789);
	assert_int_equal(found.compression, P2P_COMPRESSION_NONE);
	assert_memory_equal(found.previous_hash, s.batch.previous_hash, P2P_HASH_SIZE);
	assert_memory_equal(found.hash, s.batch.hash, P2P_HASH_SIZE);
	assert_true(p2p_vector_equal(&found.deps, &s.batch.deps));
	assert_int_equal(found.body_length, sizeof(body));
	assert_memory_equal(found.body, body, sizeof(body));
}

static void
test_batch_offsets_are_as_documented(void **unused)
{
	Sealed		s;
	P2pReader	r;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	assert_memory_equal(s.bytes, "P2PB\1\0\0\0", 8);
	assert_memory_equal(s.bytes + 8, &s.group, P2P_ID_SIZE);
	assert_memory_equal(s.bytes + 24, &s.batch.origin.id, P2P_ID_SIZE);
	assert_memory_equal(s.bytes + 72, s.batch.previous_hash, P2P_HASH_SIZE);
	assert_memory_equal(s.bytes + 104, s.batch.body_hash, P2P_HASH_SIZE);
	p2p_reader_init(&r, s.bytes + 40, 32);
	assert_int_equal(p2p_get_u32(&r), 3);
	assert_true(p2p_get_u64(&r) == 5);
	assert_true(p2p_get_u64(&r) == 9);
	assert_int_equal(p2p_get_u32(&r), 0);
	assert_true(p2p_get_i64(&r) == 123456789);
	p2p_reader_init(&r, s.bytes + 136, 9);
	assert_int_equal(p2p_get_u32(&r), sizeof(body));
	assert_int_equal(p2p_get_u32(&r), sizeof(body));
	assert_int_equal(p2p_get_u8(&r), 2);
}

static void
test_batch_every_changed_byte_is_refused(void **unused)
{
	static const uint8_t changes[] = {0x01, 0x02, 0x80, 0xff};
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	for (size_t at = 0; at < s.length; at++)
	{
		for (size_t i = 0; i < sizeof(changes); i++)
		{
			uint8_t    *copy = exact_copy(s.bytes, s.length);

			copy[at] ^= changes[i];
			assert_int_not_equal(receive(&s, copy, s.length, &found), P2P_OK);
			free(copy);
		}
	}
}

static void
test_batch_every_truncation_and_any_addition_is_refused(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	for (size_t n = 0; n < s.length; n++)
	{
		uint8_t    *copy = exact_copy(s.bytes, n);
		P2pStatus	status = p2p_batch_parse(copy, n, &found);

		assert_true(status == P2P_TORN || status == P2P_CORRUPT);
		free(copy);
	}
	assert_int_equal(p2p_batch_parse(s.bytes, s.length + 1, &found), P2P_CORRUPT);
}

/* A group and a key pair that are not the batch's. */
typedef struct Foreign
{
	P2pId		group;
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
} Foreign;

static Foreign
foreign_make(void)
{
	Foreign		foreign = {.group = {{0x99}}};
	uint8_t		seed[P2P_SEED_SIZE] = {8};

	p2p_keypair_from_seed(seed, foreign.public_key, foreign.secret_key);
	return foreign;
}

static void
test_batch_foreign_group_and_key_are_refused(void **unused)
{
	Sealed		s;
	P2pBatch	found;
	Foreign		foreign = foreign_make();

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_OK);
	assert_int_equal(p2p_batch_verify(&found, s.bytes, &foreign.group, s.public_key),
					 P2P_FOREIGN_GROUP);
	assert_int_equal(p2p_batch_verify(&found, s.bytes, &s.group, foreign.public_key),
					 P2P_BAD_SIGNATURE);

	/* another member signs a batch in this origin's name */
	memcpy(s.secret_key, foreign.secret_key, sizeof(s.secret_key));
	assert_int_equal(seal(&s), P2P_OK);
	assert_int_equal(receive(&s, s.bytes, s.length, &found), P2P_BAD_SIGNATURE);
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_OK);
	assert_int_equal(p2p_batch_verify(&found, s.bytes, &s.group, foreign.public_key),
					 P2P_BAD_SIGNATURE);
}

/* What a peer looks at who has the word of a later batch for this one. */
static void
test_batch_check_leaves_out_the_signature_alone(void **unused)
{
	Sealed		s;
	P2pBatch	found;
	Foreign		foreign = foreign_make();

	(void) unused;
	describe(&s);
	memcpy(s.secret_key, foreign.secret_key, sizeof(s.secret_key));
	assert_int_equal(seal(&s), P2P_OK);
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_OK);
	assert_int_equal(p2p_batch_check(&found, &s.group, s.public_key), P2P_OK);
	assert_int_equal(p2p_batch_verify(&found, s.bytes, &s.group, s.public_key), P2P_BAD_SIGNATURE);
	assert_int_equal(p2p_batch_check(&found, &foreign.group, s.public_key), P2P_FOREIGN_GROUP);
	assert_int_equal(p2p_batch_check(&found, &s.group, foreign.public_key), P2P_BAD_SIGNATURE);
	s.bytes[s.length - 1] ^= 1;
	assert_int_equal(p2p_batch_check(&found, &s.group, s.public_key), P2P_CORRUPT);
}

static void
test_batch_another_body_is_refused(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	s.bytes[s.length - 1] ^= 1;
	assert_int_equal(receive(&s, s.bytes, s.length, &found), P2P_CORRUPT);
}

static void
test_batch_hash_names_everything_before_the_body(void **unused)
{
	Sealed		s;
	uint8_t		first[P2P_HASH_SIZE];
	uint8_t		expected[P2P_HASH_SIZE];

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	p2p_hash(s.bytes, s.batch.header_length, NULL, 0, expected);
	assert_memory_equal(s.batch.hash, expected, P2P_HASH_SIZE);
	memcpy(first, s.batch.hash, P2P_HASH_SIZE);
	s.batch.previous_hash[31] ^= 1;
	assert_int_equal(seal(&s), P2P_OK);
	assert_memory_not_equal(s.batch.hash, first, P2P_HASH_SIZE);
}

static void
test_batch_parts_of_a_large_transaction_round_trip(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	for (uint32_t part = 0; part < 3; part++)
	{
		describe(&s);
		s.batch.span = (P2pSpan) {5, 5, part, true, part == 2};
		assert_int_equal(seal(&s), P2P_OK);
		assert_int_equal(receive(&s, s.bytes, s.length, &found), P2P_OK);
		assert_true(found.span.partial);
		assert_int_equal(found.span.part, part);
		assert_int_equal(found.span.final, part == 2);
	}
}

static void
test_batch_impossible_spans_and_lengths_are_not_sealed(void **unused)
{
	static const P2pSpan spans[] = {
		{0, 0, 0, false, true},		/* no transaction */
		{6, 5, 0, false, true},		/* backwards */
		{5, 5, 1, false, true},		/* a part of nothing */
		{5, 5, 0, false, false},
		{5, 6, 0, true, true},		/* a part of two */
	};
	Sealed		s;

	(void) unused;
	for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++)
	{
		describe(&s);
		s.batch.span = spans[i];
		assert_int_equal(seal(&s), P2P_CORRUPT);
	}
	describe(&s);
	s.batch.raw_length++;
	assert_int_equal(seal(&s), P2P_CORRUPT);
	describe(&s);
	s.batch.compression = P2P_COMPRESSION_LZ4;
	s.batch.raw_length = 1000;
	assert_int_equal(seal(&s), P2P_OK);
	s.batch.raw_length = P2P_BATCH_MAX_BODY;
	assert_int_equal(seal(&s), P2P_CORRUPT);
	s.batch.raw_length = P2P_BATCH_MAX_BODY + 1;
	assert_int_equal(seal(&s), P2P_TOO_LARGE);
	describe(&s);
	s.batch.compression = 2;
	assert_int_equal(seal(&s), P2P_BAD_VERSION);
	describe(&s);
	assert_int_equal(p2p_batch_seal(&s.batch, body, P2P_BATCH_MAX_BODY + 1, s.secret_key,
									s.bytes, P2P_BATCH_MAX_HEADER), P2P_TOO_LARGE);
}

static void
test_batch_unknown_versions_are_told_apart(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	s.bytes[4] = 2;
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_BAD_VERSION);
	s.bytes[4] = 1;
	s.bytes[6] = 4;
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_BAD_VERSION);
	s.bytes[6] = 0;
	s.bytes[7] = 1;
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_CORRUPT);
	s.bytes[7] = 0;
	s.bytes[0] = 'p';
	assert_int_equal(p2p_batch_parse(s.bytes, s.length, &found), P2P_CORRUPT);
}

static void
test_batch_largest_header_fits_and_one_byte_less_does_not(void **unused)
{
	Sealed		s;
	P2pBatch	found;

	(void) unused;
	describe(&s);
	p2p_vector_clear(&s.batch.deps);
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS; i++)
	{
		P2pOrigin	origin = {{{(uint8_t) i}}, UINT32_MAX};

		assert_true(p2p_vector_set(&s.batch.deps, &origin, UINT64_MAX));
	}
	assert_int_equal(seal(&s), P2P_OK);
	assert_int_equal(s.batch.header_length, P2P_BATCH_MAX_HEADER);
	assert_int_equal(receive(&s, s.bytes, s.length, &found), P2P_OK);
	for (size_t capacity = 0; capacity < P2P_BATCH_MAX_HEADER; capacity += 61)
		assert_int_equal(p2p_batch_seal(&s.batch, body, sizeof(body), s.secret_key,
										s.bytes, capacity), P2P_NO_SPACE);
	assert_int_equal(p2p_batch_seal(&s.batch, body, sizeof(body), s.secret_key,
									s.bytes, P2P_BATCH_MAX_HEADER - 1), P2P_NO_SPACE);
}

/* Parse hostile bytes; whatever parses stays inside them. */
static void
read_batch(const uint8_t *bytes, size_t length, void *context)
{
	P2pBatch	found;

	(void) context;
	if (p2p_batch_parse(bytes, length, &found) == P2P_OK)
		assert_true(found.header_length + found.body_length == length);
}

static void
test_batch_hostile_bytes_do_no_harm(void **unused)
{
	Sealed		s;

	(void) unused;
	describe(&s);
	assert_int_equal(seal(&s), P2P_OK);
	hostile_flip(s.bytes, s.length, 5000, read_batch, NULL);
}

static int
crypto_setup(void **unused)
{
	(void) unused;
	return p2p_crypto_init() ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_batch_sealed_parses_and_verifies),
		cmocka_unit_test(test_batch_offsets_are_as_documented),
		cmocka_unit_test(test_batch_every_changed_byte_is_refused),
		cmocka_unit_test(test_batch_every_truncation_and_any_addition_is_refused),
		cmocka_unit_test(test_batch_foreign_group_and_key_are_refused),
		cmocka_unit_test(test_batch_check_leaves_out_the_signature_alone),
		cmocka_unit_test(test_batch_another_body_is_refused),
		cmocka_unit_test(test_batch_hash_names_everything_before_the_body),
		cmocka_unit_test(test_batch_parts_of_a_large_transaction_round_trip),
		cmocka_unit_test(test_batch_impossible_spans_and_lengths_are_not_sealed),
		cmocka_unit_test(test_batch_unknown_versions_are_told_apart),
		cmocka_unit_test(test_batch_largest_header_fits_and_one_byte_less_does_not),
		cmocka_unit_test(test_batch_hostile_bytes_do_no_harm),
	};

	return cmocka_run_group_tests(tests, crypto_setup, NULL);
}
