/*
 * test_crc32c.c
 *	  CRC-32C against published vectors (RFC 3720, appendix B.4) and against the
 *	  definition, bit by bit, at every length and alignment.
 */
#include "hostile.h"

#include "p2p_crc32c.h"

/* Return the checksum as the polynomial defines it. */
static uint32_t
crc_by_definition(uint32_t crc, const uint8_t *bytes, size_t length)
{
	crc = ~crc;
	for (size_t i = 0; i < length; i++)
	{
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ ((crc & 1) ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void
test_crc32c_matches_the_published_vectors(void **unused)
{
	uint8_t		bytes[32];

	(void) unused;
	assert_int_equal(p2p_crc32c(0, "", 0), 0);
	assert_int_equal(p2p_crc32c(0, NULL, 0), 0);
	assert_int_equal(p2p_crc32c(0, "123456789", 9), 0xe3069283);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(p2p_crc32c(0, bytes, sizeof(bytes)), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(p2p_crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		bytes[i] = (uint8_t) i;
	assert_int_equal(p2p_crc32c(0, bytes, sizeof(bytes)), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		bytes[i] = (uint8_t) (31 - i);
	assert_int_equal(p2p_crc32c(0, bytes, sizeof(bytes)), 0x113fdb5c);
}

static void
test_crc32c_matches_its_definition(void **unused)
{
	uint64_t	state = hostile_seed();
	uint8_t		bytes[80];

	(void) unused;
	for (int round = 0; round < 2000; round++)
	{
		size_t		start = hostile_below(&state, 9);
		size_t		length = hostile_below(&state, 72);
		uint32_t	crc = (uint32_t) hostile_next(&state);

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t) hostile_next(&state);
		assert_int_equal(p2p_crc32c(crc, bytes + start, length),
						 crc_by_definition(crc, bytes + start, length));
	}
}

static void
test_crc32c_goes_on_where_it_stopped(void **unused)
{
	const char *text = "consecutive transactions of one origin";
	size_t		length = strlen(text);
	uint32_t	whole = p2p_crc32c(0, text, length);

	(void) unused;
	for (size_t cut = 0; cut <= length; cut++)
		assert_int_equal(p2p_crc32c(p2p_crc32c(0, text, cut), text + cut, length - cut), whole);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc32c_matches_the_published_vectors),
		cmocka_unit_test(test_crc32c_matches_its_definition),
		cmocka_unit_test(test_crc32c_goes_on_where_it_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
