/*
 * test_token.c
 *	  Invites and tokens as text: they round-trip, fit the sizes that their
 *	  header promises, and a text that was cut, changed, or is something else is
 *	  refused and leaves nothing behind.
 */
#include "hostile.h"

#include "p2p_token.h"

/* Fill an invite with a dsn of length characters. */
static void
describe_invite(P2pInvite *invite, size_t length)
{
	memset(invite, 0, sizeof(*invite));
	memset(&invite->group, 1, sizeof(invite->group));
	memset(&invite->sponsor, 2, sizeof(invite->sponsor));
	memset(invite->secret, 0xfb, sizeof(invite->secret));
	memset(invite->dsn, 'd', length);
}

static void
test_token_invite_round_trips_up_to_the_longest_dsn(void **unused)
{
	static const size_t lengths[] = {0, 1, 40, 127, 128, P2P_DSN_SIZE - 1};
	P2pInvite	invite;
	P2pInvite	found;
	char		text[P2P_INVITE_TEXT_SIZE];

	(void) unused;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
	{
		describe_invite(&invite, lengths[i]);
		assert_int_equal(p2p_invite_to_text(&invite, text, sizeof(text)), P2P_OK);
		assert_memory_equal(text, "replp2p1:", 9);
		assert_int_equal(strspn(text + 9, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
								"0123456789-_"), strlen(text + 9));
		assert_int_equal(p2p_invite_from_text(text, &found), P2P_OK);
		assert_int_equal(p2p_id_compare(&found.group, &invite.group), 0);
		assert_int_equal(p2p_id_compare(&found.sponsor, &invite.sponsor), 0);
		assert_memory_equal(found.secret, invite.secret, P2P_SECRET_SIZE);
		assert_string_equal(found.dsn, invite.dsn);
	}
	invite.dsn[P2P_DSN_SIZE - 1] = 'd';
	assert_int_equal(p2p_invite_to_text(&invite, text, sizeof(text)), P2P_TOO_LARGE);
}

static void
test_token_invite_too_small_memory_is_refused(void **unused)
{
	P2pInvite	invite;
	char		text[P2P_INVITE_TEXT_SIZE];
	size_t		size;

	(void) unused;
	describe_invite(&invite, 10);
	assert_int_equal(p2p_invite_to_text(&invite, text, sizeof(text)), P2P_OK);
	size = strlen(text) + 1;
	for (size_t n = 0; n < size; n++)
	{
		char	   *exact = malloc(n + 1);

		assert_non_null(exact);
		assert_int_equal(p2p_invite_to_text(&invite, exact, n), P2P_NO_SPACE);
		free(exact);
	}
	assert_int_equal(p2p_invite_to_text(&invite, text, size), P2P_OK);
}

static void
test_token_invite_every_change_is_refused_and_leaves_nothing(void **unused)
{
	static const P2pInvite zero;
	P2pInvite	invite;
	P2pInvite	found;
	char		text[P2P_INVITE_TEXT_SIZE];
	size_t		length;

	(void) unused;
	describe_invite(&invite, 20);
	assert_int_equal(p2p_invite_to_text(&invite, text, sizeof(text)), P2P_OK);
	length = strlen(text);
	for (size_t at = 0; at < length; at++)
	{
		char		old = text[at];

		for (const char *other = "AZaz09-_:= \n\x80"; *other != '\0'; other++)
		{
			if (*other == old)
				continue;
			text[at] = *other;
			describe_invite(&found, 5);
			assert_int_not_equal(p2p_invite_from_text(text, &found), P2P_OK);
			assert_memory_equal(&found, &zero, sizeof(found));
		}
		text[at] = old;
	}
	for (size_t n = 0; n < length; n++)
	{
		char	   *cut = (char *) exact_copy(text, n + 1);

		cut[n] = '\0';
		assert_int_equal(p2p_invite_from_text(cut, &found), P2P_CORRUPT);
		free(cut);
	}
	strcat(text, "A");
	assert_int_equal(p2p_invite_from_text(text, &found), P2P_CORRUPT);
}

static void
test_token_other_versions_are_told_apart_from_other_things(void **unused)
{
	P2pInvite	invite;
	P2pId		group;
	P2pVector	vector;

	(void) unused;
	assert_int_equal(p2p_invite_from_text("replp2p2:AAAA", &invite), P2P_BAD_VERSION);
	assert_int_equal(p2p_invite_from_text("replp2p12:AAAA", &invite), P2P_BAD_VERSION);
	assert_int_equal(p2p_invite_from_text("replp2p:AAAA", &invite), P2P_CORRUPT);
	assert_int_equal(p2p_invite_from_text("replp2p2", &invite), P2P_CORRUPT);
	assert_int_equal(p2p_invite_from_text("t1:AAAA", &invite), P2P_CORRUPT);
	assert_int_equal(p2p_invite_from_text("", &invite), P2P_CORRUPT);
	assert_int_equal(p2p_invite_from_text("replp2p1:", &invite), P2P_CORRUPT);
	assert_int_equal(p2p_token_from_text("t2:AAAA", &group, &vector), P2P_BAD_VERSION);
	assert_int_equal(p2p_token_from_text("0/16B3748", &group, &vector), P2P_CORRUPT);
	assert_int_equal(p2p_token_from_text("t1:", &group, &vector), P2P_CORRUPT);
}

static void
test_token_text_of_any_length_is_refused_not_read_over(void **unused)
{
	size_t		length = 100000;
	char	   *text = malloc(length + 1);
	P2pInvite	invite;
	P2pId		group;
	P2pVector	vector;

	(void) unused;
	assert_non_null(text);
	memset(text, 'A', length);
	text[length] = '\0';
	memcpy(text, "replp2p1:", 9);
	assert_int_equal(p2p_invite_from_text(text, &invite), P2P_CORRUPT);
	memcpy(text, "t1:", 3);
	assert_int_equal(p2p_token_from_text(text, &group, &vector), P2P_CORRUPT);
	free(text);
}

static void
test_token_round_trips_up_to_the_largest_vector(void **unused)
{
	static const uint32_t counts[] = {0, 1, 3, P2P_MAX_MEMBERS};
	char		text[P2P_TOKEN_TEXT_SIZE];
	P2pId		group = {{0x33}};
	P2pId		found_group;
	P2pVector	vector;
	P2pVector	found;

	(void) unused;
	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
	{
		p2p_vector_clear(&vector);
		for (uint32_t i = 0; i < counts[c]; i++)
			assert_true(p2p_vector_set(&vector, &(P2pOrigin) {{{(uint8_t) i}}, 1},
									   UINT64_MAX - i));
		assert_int_equal(p2p_token_to_text(&group, &vector, text, sizeof(text)), P2P_OK);
		assert_memory_equal(text, "t1:", 3);
		assert_int_equal(p2p_token_from_text(text, &found_group, &found), P2P_OK);
		assert_int_equal(p2p_id_compare(&found_group, &group), 0);
		assert_int_equal(found.count, counts[c]);
		assert_true(p2p_vector_equal(&found, &vector));
	}
	assert_int_equal(p2p_token_to_text(&group, &vector, text, 100), P2P_NO_SPACE);
}

/* Read hostile characters as a token: nearly always refused, never harmful. */
static void
read_token(const uint8_t *bytes, size_t length, void *context)
{
	char	   *text = malloc(length + 1);
	P2pId		group;
	P2pVector	vector;

	assert_non_null(text);
	memcpy(text, bytes, length);
	text[length] = '\0';
	if (strcmp(text, context) != 0)
		assert_int_not_equal(p2p_token_from_text(text, &group, &vector), P2P_OK);
	free(text);
}

static void
test_token_hostile_texts_do_no_harm(void **unused)
{
	char		text[P2P_TOKEN_TEXT_SIZE];
	P2pId		group = {{0x33}};
	P2pVector	vector;

	(void) unused;
	p2p_vector_clear(&vector);
	for (uint8_t i = 0; i < 5; i++)
		assert_true(p2p_vector_set(&vector, &(P2pOrigin) {{{i}}, 1}, 1000 + i));
	assert_int_equal(p2p_token_to_text(&group, &vector, text, sizeof(text)), P2P_OK);
	hostile_truncate(text, strlen(text), read_token, text);
	hostile_flip(text, strlen(text), 5000, read_token, text);
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
		cmocka_unit_test(test_token_invite_round_trips_up_to_the_longest_dsn),
		cmocka_unit_test(test_token_invite_too_small_memory_is_refused),
		cmocka_unit_test(test_token_invite_every_change_is_refused_and_leaves_nothing),
		cmocka_unit_test(test_token_other_versions_are_told_apart_from_other_things),
		cmocka_unit_test(test_token_text_of_any_length_is_refused_not_read_over),
		cmocka_unit_test(test_token_round_trips_up_to_the_largest_vector),
		cmocka_unit_test(test_token_hostile_texts_do_no_harm),
	};

	return cmocka_run_group_tests(tests, crypto_setup, NULL);
}
