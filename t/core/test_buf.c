/*
 * test_buf.c
 *	  Writers and readers: every kind round-trips; running over an end is
 *	  sticky and harmless; a varint has one encoding; ids have one text.
 */
#include "hostile.h"

#include "p2p_buf.h"

static void
test_buf_every_kind_round_trips(void **unused)
{
	uint8_t		memory[256];
	P2pWriter	w;
	P2pReader	r;
	P2pOrigin	origin = {{{1, 2, 3}}, 0x01020304};
	P2pOrigin	found;
	char		text[8];
	size_t		length;

	(void) unused;
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_u8(&w, 0xfe);
	p2p_put_u16(&w, 0xfedc);
	p2p_put_u32(&w, 0xfedcba98);
	p2p_put_u64(&w, 0xfedcba9876543210);
	p2p_put_i64(&w, INT64_MIN);
	p2p_put_block(&w, "abc", 3);
	p2p_put_text(&w, "seven c");
	p2p_put_origin(&w, &origin);
	assert_false(w.overflow);

	p2p_reader_init(&r, memory, w.length);
	assert_int_equal(p2p_get_u8(&r), 0xfe);
	assert_int_equal(p2p_get_u16(&r), 0xfedc);
	assert_int_equal(p2p_get_u32(&r), 0xfedcba98);
	assert_true(p2p_get_u64(&r) == 0xfedcba9876543210);
	assert_true(p2p_get_i64(&r) == INT64_MIN);
	assert_memory_equal(p2p_get_block(&r, 3, &length), "abc", 3);
	assert_int_equal(length, 3);
	p2p_get_text(&r, text, sizeof(text));
	assert_string_equal(text, "seven c");
	p2p_get_origin(&r, &found);
	assert_true(p2p_origin_equal(&found, &origin));
	assert_false(r.bad);
	assert_int_equal(p2p_reader_left(&r), 0);
}

static void
test_buf_integers_are_little_endian(void **unused)
{
	static const uint8_t expected[] = {1, 2, 1, 4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1};
	uint8_t		memory[32];
	P2pWriter	w;

	(void) unused;
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_u8(&w, 1);
	p2p_put_u16(&w, 0x0102);
	p2p_put_u32(&w, 0x01020304);
	p2p_put_u64(&w, 0x0102030405060708);
	assert_int_equal(w.length, sizeof(expected));
	assert_memory_equal(memory, expected, sizeof(expected));
}

static void
test_buf_varint_round_trips_at_every_length(void **unused)
{
	(void) unused;
	for (int bits = 0; bits < 64; bits++)
	{
		for (int offset = -1; offset <= 1; offset++)
		{
			uint64_t	value = ((uint64_t) 1 << bits) + (uint64_t) (int64_t) offset;
			uint8_t		memory[10];
			P2pWriter	w;
			P2pReader	r;

			p2p_writer_init(&w, memory, sizeof(memory));
			p2p_put_varint(&w, value);
			assert_false(w.overflow);
			p2p_reader_init(&r, memory, w.length);
			assert_true(p2p_get_varint(&r) == value);
			assert_false(r.bad);
			for (size_t n = 0; n < w.length; n++)
			{
				p2p_reader_init(&r, memory, n);
				assert_true(p2p_get_varint(&r) == 0);
				assert_true(r.bad);
			}
		}
	}
}

static void
test_buf_varint_has_one_encoding(void **unused)
{
	static const struct
	{
		size_t		length;
		uint8_t		bytes[11];
	}			refused[] = {
		{2, {0x80, 0x00}},
		{3, {0xff, 0x80, 0x00}},
		{10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}},
		{10, {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}},
		{11, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
	};

	(void) unused;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
	{
		P2pReader	r;

		p2p_reader_init(&r, refused[i].bytes, refused[i].length);
		assert_true(p2p_get_varint(&r) == 0);
		assert_true(r.bad);
		assert_int_equal(p2p_reader_left(&r), 0);
	}
}

static void
test_buf_writer_overflow_is_sticky_and_counts_on(void **unused)
{
	uint8_t    *memory = malloc(4);
	P2pWriter	w;

	(void) unused;
	assert_non_null(memory);
	memset(memory, 0x55, 4);
	p2p_writer_init(&w, memory, 4);
	p2p_put_u16(&w, 0);
	p2p_put_u32(&w, UINT32_MAX);
	assert_true(w.overflow);
	assert_int_equal(w.length, 6);
	p2p_put_u8(&w, 1);
	assert_int_equal(w.length, 7);
	assert_int_equal(memory[2], 0x55);
	assert_int_equal(memory[3], 0x55);
	free(memory);

	p2p_writer_init(&w, NULL, 0);
	p2p_put_text(&w, "only counted");
	p2p_put_bytes(&w, NULL, 0);
	assert_int_equal(w.length, 13);
	assert_true(w.overflow);
}

static void
test_buf_reader_past_the_end_yields_zeros_for_good(void **unused)
{
	uint8_t    *bytes = exact_copy("\1\2\3", 3);
	P2pReader	r;
	P2pId		id;
	P2pId		zero = {{0}};
	char		text[4] = "abc";
	size_t		length = 9;

	(void) unused;
	p2p_reader_init(&r, bytes, 3);
	assert_int_equal(p2p_get_u32(&r), 0);
	assert_true(r.bad);
	/* The three bytes are not to be had any more. */
	assert_int_equal(p2p_get_u8(&r), 0);
	assert_int_equal(p2p_get_u16(&r), 0);
	assert_true(p2p_get_u64(&r) == 0);
	assert_null(p2p_get_bytes(&r, 0));
	assert_null(p2p_get_block(&r, 10, &length));
	assert_int_equal(length, 0);
	p2p_get_text(&r, text, sizeof(text));
	assert_string_equal(text, "");
	memset(&id, 0xff, sizeof(id));
	p2p_get_id(&r, &id);
	assert_int_equal(p2p_id_compare(&id, &zero), 0);
	free(bytes);

	p2p_reader_init(&r, NULL, 0);
	assert_non_null(p2p_get_bytes(&r, 0));
	assert_false(r.bad);
}

static void
test_buf_block_and_text_hold_their_limits(void **unused)
{
	static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1};
	uint8_t		memory[16];
	char		text[4];
	size_t		length;
	P2pWriter	w;
	P2pReader	r;

	(void) unused;
	p2p_reader_init(&r, huge, sizeof(huge));
	assert_null(p2p_get_block(&r, SIZE_MAX, &length));
	assert_true(r.bad);

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_text(&w, "four");
	p2p_reader_init(&r, memory, w.length);
	assert_null(p2p_get_block(&r, 3, &length));
	p2p_reader_init(&r, memory, w.length);
	p2p_get_text(&r, text, sizeof(text));
	assert_true(r.bad);
	assert_string_equal(text, "");

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_block(&w, "a\0b", 3);
	p2p_reader_init(&r, memory, w.length);
	p2p_get_text(&r, text, sizeof(text));
	assert_true(r.bad);
	assert_string_equal(text, "");

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_text_field(&w, "abcd", 4);
	assert_true(w.overflow);
	assert_int_equal(w.length, 0);
}

static void
test_buf_id_has_one_text(void **unused)
{
	P2pId		id = {{0x00, 0x9a, 0xff, 0x10}};
	P2pId		found;
	char		text[P2P_ID_TEXT_SIZE];

	(void) unused;
	p2p_id_to_text(&id, text);
	assert_string_equal(text, "009aff10000000000000000000000000");
	assert_true(p2p_id_from_text(text, &found));
	assert_int_equal(p2p_id_compare(&id, &found), 0);
	assert_false(p2p_id_from_text("009AFF10000000000000000000000000", &found));
	assert_false(p2p_id_from_text("009aff1000000000000000000000000", &found));
	assert_false(p2p_id_from_text("009aff100000000000000000000000000", &found));
	assert_false(p2p_id_from_text("009aff1000000000000000000000000g", &found));
	assert_false(p2p_id_from_text("", &found));
}

static void
test_buf_origins_are_ordered_by_id_then_epoch(void **unused)
{
	P2pOrigin	low = {{{1}}, 9};
	P2pOrigin	later = {{{1}}, 10};
	P2pOrigin	high = {{{0xff}}, 1};

	(void) unused;
	assert_true(p2p_origin_compare(&low, &later) < 0);
	assert_true(p2p_origin_compare(&high, &later) > 0);
	assert_int_equal(p2p_origin_compare(&low, &low), 0);
	assert_false(p2p_origin_equal(&low, &later));
	assert_false(p2p_origin_equal(&low, &high));
}

static void
test_buf_every_status_has_a_text(void **unused)
{
	(void) unused;
	for (int i = P2P_OK; i <= P2P_REFUSED; i++)
	{
		assert_non_null(p2p_status_text((P2pStatus) i));
		for (int j = P2P_OK; j < i; j++)
			assert_string_not_equal(p2p_status_text((P2pStatus) i),
									p2p_status_text((P2pStatus) j));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buf_every_kind_round_trips),
		cmocka_unit_test(test_buf_integers_are_little_endian),
		cmocka_unit_test(test_buf_varint_round_trips_at_every_length),
		cmocka_unit_test(test_buf_varint_has_one_encoding),
		cmocka_unit_test(test_buf_writer_overflow_is_sticky_and_counts_on),
		cmocka_unit_test(test_buf_reader_past_the_end_yields_zeros_for_good),
		cmocka_unit_test(test_buf_block_and_text_hold_their_limits),
		cmocka_unit_test(test_buf_id_has_one_text),
		cmocka_unit_test(test_buf_origins_are_ordered_by_id_then_epoch),
		cmocka_unit_test(test_buf_every_status_has_a_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
