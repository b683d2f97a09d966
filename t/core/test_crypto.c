/*
 * test_crypto.c
 *	  The cryptography against published vectors and an independent
 *	  implementation; signatures are bound to their tag; sealed messages to key,
 *	  counter and associated data; base64 has one spelling.
 *
 * Vectors that are pinned here are on wires and disks: they never change.
 */
#include "hostile.h"

#include "p2p_crypto.h"

/* RFC 8032, section 7.1, test 1 */
static const char *seed_hex = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
static const char *public_hex = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/* Read hex into bytes. */
static void
unhex(const char *hex, uint8_t *bytes)
{
	for (size_t i = 0; hex[2 * i] != '\0'; i++)
	{
		char		pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

		bytes[i] = (uint8_t) strtoul(pair, NULL, 16);
	}
}

/* Are bytes those that hex says? */
static void
assert_hex(const void *bytes, size_t length, const char *hex)
{
	uint8_t		expected[256];

	assert_int_equal(strlen(hex), 2 * length);
	unhex(hex, expected);
	assert_memory_equal(bytes, expected, length);
}

/* Make the key pair of the RFC's vector. */
static void
known_keys(uint8_t public_key[P2P_PUBLIC_KEY_SIZE], uint8_t secret_key[P2P_SECRET_KEY_SIZE])
{
	uint8_t		seed[P2P_SEED_SIZE];

	unhex(seed_hex, seed);
	p2p_keypair_from_seed(seed, public_key, secret_key);
}

static void
test_crypto_key_pair_and_id_match_known_vectors(void **unused)
{
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	P2pId		id;

	(void) unused;
	known_keys(public_key, secret_key);
	assert_hex(public_key, sizeof(public_key), public_hex);
	p2p_id_of_key(public_key, &id);
	assert_hex(id.bytes, P2P_ID_SIZE, "d7108b422f25cc5edb865cc4ae184f55");
}

static void
test_crypto_hash_matches_a_known_vector_however_it_is_cut(void **unused)
{
	uint8_t		hash[P2P_HASH_SIZE];

	(void) unused;
	for (size_t cut = 0; cut <= 3; cut++)
	{
		p2p_hash("abc", cut, &"abc"[cut], 3 - cut, hash);
		assert_hex(hash, sizeof(hash),
				   "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
	}
	p2p_hash("abc", 3, NULL, 0, hash);
	assert_hex(hash, sizeof(hash),
			   "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
	p2p_hash(NULL, 0, NULL, 0, hash);
	assert_hex(hash, sizeof(hash),
			   "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
}

static void
test_crypto_signature_is_what_others_compute(void **unused)
{
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	uint8_t		signature[P2P_SIGNATURE_SIZE];

	(void) unused;
	known_keys(public_key, secret_key);
	p2p_sign("replp2p test 1", "message", 7, secret_key, signature);
	assert_hex(signature, sizeof(signature),
			   "f7c5b2b9188c5707d0438ee4399fb291364e95150a98aa726cfbe09bbedaffc5"
			   "0a579ca980f8a5d2a544cd2c824207c977c7578d37c516ec2d098d1c1fb7a80f");
	assert_true(p2p_verify("replp2p test 1", "message", 7, public_key, signature));
}

static void
test_crypto_signature_serves_for_nothing_else(void **unused)
{
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	uint8_t		signature[P2P_SIGNATURE_SIZE];

	(void) unused;
	known_keys(public_key, secret_key);
	p2p_sign("ab", "cd", 2, secret_key, signature);
	assert_true(p2p_verify("ab", "cd", 2, public_key, signature));
	assert_false(p2p_verify("ab", "ce", 2, public_key, signature));
	assert_false(p2p_verify("ab", "c", 1, public_key, signature));
	assert_false(p2p_verify("ac", "cd", 2, public_key, signature));
	/* the same bytes, cut elsewhere into tag and message */
	assert_false(p2p_verify("a", "bcd", 3, public_key, signature));
	assert_false(p2p_verify("abc", "d", 1, public_key, signature));
}

static void
test_crypto_every_flipped_bit_of_a_signature_or_key_is_refused(void **unused)
{
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	uint8_t		signature[P2P_SIGNATURE_SIZE];

	(void) unused;
	known_keys(public_key, secret_key);
	p2p_sign("tag", "message", 7, secret_key, signature);
	for (size_t bit = 0; bit < sizeof(signature) * 8; bit++)
	{
		signature[bit / 8] ^= (uint8_t) (1 << bit % 8);
		assert_false(p2p_verify("tag", "message", 7, public_key, signature));
		signature[bit / 8] ^= (uint8_t) (1 << bit % 8);
	}
	for (size_t bit = 0; bit < sizeof(public_key) * 8; bit++)
	{
		public_key[bit / 8] ^= (uint8_t) (1 << bit % 8);
		assert_false(p2p_verify("tag", "message", 7, public_key, signature));
		public_key[bit / 8] ^= (uint8_t) (1 << bit % 8);
	}
	assert_true(p2p_verify("tag", "message", 7, public_key, signature));
}

static void
test_crypto_weak_keys_are_refused(void **unused)
{
	uint8_t		seed[P2P_SEED_SIZE] = {1};
	uint8_t		public_key[P2P_KX_KEY_SIZE];
	uint8_t		secret_key[P2P_KX_KEY_SIZE];
	uint8_t		weak[P2P_KX_KEY_SIZE] = {0};
	uint8_t		receive_key[P2P_SESSION_KEY_SIZE];
	uint8_t		send_key[P2P_SESSION_KEY_SIZE];
	uint8_t		signature[P2P_SIGNATURE_SIZE] = {1};

	(void) unused;
	p2p_kx_from_seed(seed, public_key, secret_key);
	assert_false(p2p_kx_session(true, public_key, secret_key, weak, receive_key, send_key));
	weak[0] = 1;
	assert_false(p2p_kx_session(false, public_key, secret_key, weak, receive_key, send_key));
	/* The neutral point as key and as R with S = 0 would verify everything. */
	assert_false(p2p_verify("tag", "message", 7, weak, signature));
}

static void
test_crypto_both_sides_derive_the_same_session_keys(void **unused)
{
	uint8_t		seed[2][P2P_SEED_SIZE] = {{1}, {2}};
	uint8_t		public_key[2][P2P_KX_KEY_SIZE];
	uint8_t		secret_key[2][P2P_KX_KEY_SIZE];
	uint8_t		receive_key[2][P2P_SESSION_KEY_SIZE];
	uint8_t		send_key[2][P2P_SESSION_KEY_SIZE];

	(void) unused;
	for (int i = 0; i < 2; i++)
		p2p_kx_from_seed(seed[i], public_key[i], secret_key[i]);
	for (int i = 0; i < 2; i++)
		assert_true(p2p_kx_session(i == 0, public_key[i], secret_key[i], public_key[1 - i],
								   receive_key[i], send_key[i]));
	assert_memory_equal(receive_key[0], send_key[1], P2P_SESSION_KEY_SIZE);
	assert_memory_equal(receive_key[1], send_key[0], P2P_SESSION_KEY_SIZE);
	assert_memory_not_equal(receive_key[0], send_key[0], P2P_SESSION_KEY_SIZE);
}

static void
test_crypto_seal_is_what_others_compute_and_opens(void **unused)
{
	uint8_t		key[P2P_SESSION_KEY_SIZE];
	uint8_t		sealed[5 + P2P_SEAL_OVERHEAD] = "plain";
	uint8_t		opened[5];

	(void) unused;
	for (uint8_t i = 0; i < sizeof(key); i++)
		key[i] = i;
	/* in place, as sessions do */
	p2p_seal(key, 0x0102030405060708, "ad", 2, sealed, 5, sealed);
	assert_hex(sealed, sizeof(sealed), "8025cc8dc55b82f2b05b6fc7e68af2621c3c89804c");
	assert_true(p2p_unseal(key, 0x0102030405060708, "ad", 2, sealed, sizeof(sealed), opened));
	assert_memory_equal(opened, "plain", 5);
	assert_true(p2p_unseal(key, 0x0102030405060708, "ad", 2, sealed, sizeof(sealed), sealed));
	assert_memory_equal(sealed, "plain", 5);
}

static void
test_crypto_unseal_refuses_any_difference(void **unused)
{
	uint8_t		key[P2P_SESSION_KEY_SIZE] = {3};
	uint8_t		sealed[5 + P2P_SEAL_OVERHEAD];
	uint8_t		opened[sizeof(sealed)];

	(void) unused;
	p2p_seal(key, 7, "ad", 2, "plain", 5, sealed);
	assert_false(p2p_unseal(key, 8, "ad", 2, sealed, sizeof(sealed), opened));
	assert_false(p2p_unseal(key, 7, "ae", 2, sealed, sizeof(sealed), opened));
	assert_false(p2p_unseal(key, 7, "a", 1, sealed, sizeof(sealed), opened));
	for (size_t n = 0; n < sizeof(sealed); n++)
		assert_false(p2p_unseal(key, 7, "ad", 2, sealed, n, opened));
	for (size_t at = 0; at < sizeof(sealed); at++)
	{
		sealed[at] ^= 0x10;
		assert_false(p2p_unseal(key, 7, "ad", 2, sealed, sizeof(sealed), opened));
		sealed[at] ^= 0x10;
	}
	key[31] ^= 1;
	assert_false(p2p_unseal(key, 7, "ad", 2, sealed, sizeof(sealed), opened));
}

static void
test_crypto_base64_round_trips_and_knows_its_limits(void **unused)
{
	uint64_t	state = hostile_seed();
	uint8_t		bytes[64];
	uint8_t		found[64];
	char		text[96];
	size_t		length;

	(void) unused;
	assert_true(p2p_base64_encode("\xfb\xff\xfe", 3, text, 5));
	assert_string_equal(text, "-__-");
	assert_false(p2p_base64_encode("\xfb\xff\xfe", 3, text, 4));
	assert_false(p2p_base64_encode("\xfb\xff\xfe", 3, text, 0));
	for (size_t n = 0; n <= sizeof(bytes); n++)
	{
		for (size_t i = 0; i < n; i++)
			bytes[i] = (uint8_t) hostile_next(&state);
		assert_true(p2p_base64_encode(bytes, n, text, sizeof(text)));
		assert_true(p2p_base64_decode(text, strlen(text), found, n, &length));
		assert_int_equal(length, n);
		assert_memory_equal(found, bytes, n);
		if (n > 0)
			assert_false(p2p_base64_decode(text, strlen(text), found, n - 1, &length));
	}
}

static void
test_crypto_base64_has_one_spelling(void **unused)
{
	static const char *const refused[] = {
		"A", "AB", "AA=", "AA==", "AA ", " AA", "A A", "A+", "A/", "AA\n", "AAB", "A\xc3",
		"AA\200A", "AAA\xff", "AAAAA",
	};
	uint8_t		found[16];
	size_t		length;

	(void) unused;
	assert_true(p2p_base64_decode("AA", 2, found, sizeof(found), &length));
	assert_int_equal(length, 1);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		assert_false(p2p_base64_decode(refused[i], strlen(refused[i]), found, sizeof(found),
									   &length));
}

static void
test_crypto_wipe_and_equal(void **unused)
{
	uint8_t		secret[32] = {1, 2, 3};
	uint8_t		zero[32] = {0};

	(void) unused;
	assert_false(p2p_equal_secret(secret, zero, sizeof(secret)));
	p2p_wipe(secret, sizeof(secret));
	assert_true(p2p_equal_secret(secret, zero, sizeof(secret)));
}

static int
crypto_setup(void **unused)
{
	(void) unused;
	return (p2p_crypto_init() && p2p_crypto_init()) ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crypto_key_pair_and_id_match_known_vectors),
		cmocka_unit_test(test_crypto_hash_matches_a_known_vector_however_it_is_cut),
		cmocka_unit_test(test_crypto_signature_is_what_others_compute),
		cmocka_unit_test(test_crypto_signature_serves_for_nothing_else),
		cmocka_unit_test(test_crypto_every_flipped_bit_of_a_signature_or_key_is_refused),
		cmocka_unit_test(test_crypto_weak_keys_are_refused),
		cmocka_unit_test(test_crypto_both_sides_derive_the_same_session_keys),
		cmocka_unit_test(test_crypto_seal_is_what_others_compute_and_opens),
		cmocka_unit_test(test_crypto_unseal_refuses_any_difference),
		cmocka_unit_test(test_crypto_base64_round_trips_and_knows_its_limits),
		cmocka_unit_test(test_crypto_base64_has_one_spelling),
		cmocka_unit_test(test_crypto_wipe_and_equal),
	};

	return cmocka_run_group_tests(tests, crypto_setup, NULL);
}
