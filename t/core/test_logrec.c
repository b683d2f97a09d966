/*
 * test_logrec.c
 *	  Log records: what was written checks out; a cut one is torn, never
 *	  corrupt; a changed one is never sound; positions round-trip.
 */
#include "hostile.h"

#include "p2p_logrec.h"

#define PAYLOAD "consecutive transactions"
#define RECORD_SIZE (P2P_LOGREC_HEADER_SIZE + sizeof(PAYLOAD))

/* Write a record of PAYLOAD, given in two pieces, the first of cut bytes. */
static void
write_record(uint8_t record[RECORD_SIZE], P2pLogType type, uint32_t cut)
{
	p2p_logrec_header(type, PAYLOAD, cut, &PAYLOAD[cut], (uint32_t) sizeof(PAYLOAD) - cut, record);
	memcpy(record + P2P_LOGREC_HEADER_SIZE, PAYLOAD, sizeof(PAYLOAD));
}

static void
test_logrec_written_checks_out_however_it_was_cut(void **unused)
{
	uint8_t		record[RECORD_SIZE];
	uint8_t		whole[RECORD_SIZE];
	P2pLogType	type;
	uint32_t	length;

	(void) unused;
	write_record(whole, P2P_LOG_BATCH, sizeof(PAYLOAD));
	for (uint32_t cut = 0; cut <= sizeof(PAYLOAD); cut++)
	{
		write_record(record, P2P_LOG_BATCH, cut);
		assert_memory_equal(record, whole, RECORD_SIZE);
	}
	assert_int_equal(p2p_logrec_peek(record, RECORD_SIZE, &type, &length), P2P_OK);
	assert_int_equal(type, P2P_LOG_BATCH);
	assert_int_equal(length, sizeof(PAYLOAD));
	assert_int_equal(p2p_logrec_check(record, RECORD_SIZE), P2P_OK);

	p2p_logrec_header(P2P_LOG_POSITION, PAYLOAD, 3, NULL, 0, record);
	memcpy(record + P2P_LOGREC_HEADER_SIZE, PAYLOAD, 3);
	assert_int_equal(p2p_logrec_check(record, P2P_LOGREC_HEADER_SIZE + 3), P2P_OK);
}

static void
test_logrec_what_follows_does_not_matter(void **unused)
{
	uint8_t		record[RECORD_SIZE + 5];

	(void) unused;
	write_record(record, P2P_LOG_BATCH, 0);
	memset(record + RECORD_SIZE, 0xff, 5);
	assert_int_equal(p2p_logrec_check(record, sizeof(record)), P2P_OK);
}

static void
test_logrec_every_truncation_is_torn(void **unused)
{
	uint8_t		record[RECORD_SIZE];

	(void) unused;
	write_record(record, P2P_LOG_POSITION, 4);
	for (size_t n = 0; n < RECORD_SIZE; n++)
	{
		uint8_t    *copy = exact_copy(record, n);

		assert_int_equal(p2p_logrec_check(copy, n), P2P_TORN);
		free(copy);
	}
}

static void
test_logrec_every_changed_bit_is_noticed(void **unused)
{
	uint8_t		record[RECORD_SIZE];

	(void) unused;
	write_record(record, P2P_LOG_BATCH, 4);
	for (size_t bit = 0; bit < RECORD_SIZE * 8; bit++)
	{
		record[bit / 8] ^= (uint8_t) (1 << bit % 8);
		assert_int_not_equal(p2p_logrec_check(record, RECORD_SIZE), P2P_OK);
		record[bit / 8] ^= (uint8_t) (1 << bit % 8);
	}
	assert_int_equal(p2p_logrec_check(record, RECORD_SIZE), P2P_OK);
}

/* Peek at a header that says these things. */
static P2pStatus
peek(uint32_t length, uint32_t type_and_zeros)
{
	uint8_t		header[P2P_LOGREC_HEADER_SIZE];
	P2pWriter	w;
	P2pLogType	type;
	uint32_t	found;

	p2p_writer_init(&w, header, sizeof(header));
	p2p_put_u32(&w, length);
	p2p_put_u32(&w, 0);
	p2p_put_u32(&w, type_and_zeros);
	return p2p_logrec_peek(header, sizeof(header), &type, &found);
}

static void
test_logrec_impossible_headers_are_corrupt(void **unused)
{
	(void) unused;
	assert_int_equal(peek(1, P2P_LOG_BATCH), P2P_OK);
	assert_int_equal(peek(P2P_LOGREC_MAX_PAYLOAD, P2P_LOG_POSITION), P2P_OK);
	assert_int_equal(peek(P2P_LOGREC_MAX_PAYLOAD + 1, P2P_LOG_BATCH), P2P_CORRUPT);
	assert_int_equal(peek(UINT32_MAX, P2P_LOG_BATCH), P2P_CORRUPT);
	assert_int_equal(peek(0, P2P_LOG_BATCH), P2P_CORRUPT);
	/* a hole in the file */
	assert_int_equal(peek(0, 0), P2P_CORRUPT);
	assert_int_equal(peek(1, 3), P2P_CORRUPT);
	assert_int_equal(peek(1, P2P_LOG_BATCH | 0x100), P2P_CORRUPT);
	assert_int_equal(peek(1, P2P_LOG_BATCH | 0x1000000), P2P_CORRUPT);
}

static void
test_logrec_blank_is_where_no_header_can_be(void **unused)
{
	uint8_t		record[RECORD_SIZE];
	uint8_t		zeros[P2P_LOGREC_HEADER_SIZE + 1] = {0};

	(void) unused;
	assert_true(p2p_logrec_is_blank(zeros, 0));
	for (size_t n = 1; n <= sizeof(zeros); n++)
		assert_true(p2p_logrec_is_blank(zeros, n));
	/* what stands behind a header does not matter */
	zeros[P2P_LOGREC_HEADER_SIZE] = 1;
	assert_true(p2p_logrec_is_blank(zeros, sizeof(zeros)));
	for (size_t n = 0; n < P2P_LOGREC_HEADER_SIZE; n++)
	{
		zeros[n] = 1;
		assert_false(p2p_logrec_is_blank(zeros, sizeof(zeros)));
		assert_true(p2p_logrec_is_blank(zeros, n));
		zeros[n] = 0;
	}
	write_record(record, P2P_LOG_BATCH, 0);
	assert_false(p2p_logrec_is_blank(record, RECORD_SIZE));
}

/* Write a position with a vector of n origins. */
static size_t
write_position(uint8_t memory[P2P_POSITION_MAX_SIZE], uint32_t n, P2pPosition *position)
{
	P2pWriter	w;

	*position = (P2pPosition) {.lsn = UINT64_MAX,.seq = 77,.stamp = INT64_MIN,.floor = -1};
	for (uint32_t i = 0; i < n; i++)
		assert_true(p2p_vector_set(&position->vector, &(P2pOrigin) {{{(uint8_t) i}}, 1},
								   UINT64_MAX - i));
	p2p_writer_init(&w, memory, P2P_POSITION_MAX_SIZE);
	p2p_put_position(&w, position);
	assert_false(w.overflow);
	return w.length;
}

static void
test_logrec_position_round_trips(void **unused)
{
	uint8_t		memory[P2P_POSITION_MAX_SIZE];
	P2pPosition position;
	P2pPosition found;
	size_t		length;

	(void) unused;
	length = write_position(memory, P2P_MAX_MEMBERS, &position);
	assert_int_equal(length, P2P_POSITION_MAX_SIZE);
	assert_int_equal(p2p_get_position(memory, length, &found), P2P_OK);
	assert_true(found.lsn == position.lsn);
	assert_true(found.seq == position.seq);
	assert_true(found.stamp == position.stamp);
	assert_true(found.floor == position.floor);
	assert_true(p2p_vector_equal(&found.vector, &position.vector));
}

/* Read hostile bytes as a position. */
static void
read_position(const uint8_t *bytes, size_t length, void *context)
{
	P2pPosition found;
	P2pStatus	status = p2p_get_position(bytes, length, &found);

	if (context != NULL)
		assert_int_equal(status, P2P_CORRUPT);
	assert_true(status == P2P_OK || status == P2P_CORRUPT);
}

static void
test_logrec_position_cut_or_too_long_is_corrupt(void **unused)
{
	uint8_t		memory[P2P_POSITION_MAX_SIZE];
	P2pPosition position;
	P2pPosition found;
	size_t		length = write_position(memory, 3, &position);

	(void) unused;
	memory[length] = 0;
	assert_int_equal(p2p_get_position(memory, length, &found), P2P_OK);
	assert_int_equal(p2p_get_position(memory, length + 1, &found), P2P_CORRUPT);
	hostile_truncate(memory, length, read_position, &position);
	hostile_flip(memory, length, 5000, read_position, NULL);
}

/* Check hostile bytes as a record. */
static void
read_record(const uint8_t *bytes, size_t length, void *context)
{
	P2pStatus	status = p2p_logrec_check(bytes, length);

	(void) context;
	assert_true(status == P2P_TORN || status == P2P_CORRUPT);
}

static void
test_logrec_hostile_bytes_do_no_harm(void **unused)
{
	uint8_t		record[RECORD_SIZE];

	(void) unused;
	write_record(record, P2P_LOG_BATCH, 4);
	hostile_truncate(record, RECORD_SIZE, read_record, NULL);
	for (size_t n = 1; n < 4; n++)
	{
		uint8_t		copy[RECORD_SIZE];

		memcpy(copy, record, RECORD_SIZE);
		copy[n * 7] ^= 0x5a;
		read_record(copy, RECORD_SIZE, NULL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_logrec_written_checks_out_however_it_was_cut),
		cmocka_unit_test(test_logrec_what_follows_does_not_matter),
		cmocka_unit_test(test_logrec_every_truncation_is_torn),
		cmocka_unit_test(test_logrec_every_changed_bit_is_noticed),
		cmocka_unit_test(test_logrec_impossible_headers_are_corrupt),
		cmocka_unit_test(test_logrec_blank_is_where_no_header_can_be),
		cmocka_unit_test(test_logrec_position_round_trips),
		cmocka_unit_test(test_logrec_position_cut_or_too_long_is_corrupt),
		cmocka_unit_test(test_logrec_hostile_bytes_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
