/*
 * p2p_crypto.c
 *	  Everything that libsodium does for us, under our own names.
 *
 * Signatures: Ed25519 over BLAKE2b-512 of {u8 length of the tag, tag,
 * message}. A key signs nothing but such digests, and the tag says what for,
 * so a signed batch can never be shown as a signed state. libsodium refuses
 * keys of small order and signatures that are not canonical.
 *
 * Sealing: ChaCha20-Poly1305 (IETF); the nonce is four zero bytes and the
 * little-endian counter. A key serves one direction of one session, so no
 * nonce comes twice.
 *
 * Base64 is here because invites carry secrets: libsodium's looks nothing up
 * by secret bytes.
 *
 * Invariant: no function here draws random numbers; p2p_crypto_init may let
 * libsodium open its source, which nobody uses.
 */
#include "p2p_crypto.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "p2p_buf.h"

#define DIGEST_SIZE 64
#define NONCE_SIZE crypto_aead_chacha20poly1305_IETF_NPUBBYTES
#define BASE64_VARIANT sodium_base64_VARIANT_URLSAFE_NO_PADDING

_Static_assert(P2P_SEED_SIZE == crypto_sign_SEEDBYTES, "seed of a signing key");
_Static_assert(P2P_SEED_SIZE == crypto_kx_SEEDBYTES, "seed of an ephemeral key");
_Static_assert(P2P_PUBLIC_KEY_SIZE == crypto_sign_PUBLICKEYBYTES, "public key");
_Static_assert(P2P_SECRET_KEY_SIZE == crypto_sign_SECRETKEYBYTES, "secret key");
_Static_assert(P2P_SIGNATURE_SIZE == crypto_sign_BYTES, "signature");
_Static_assert(P2P_KX_KEY_SIZE == crypto_kx_PUBLICKEYBYTES, "public ephemeral key");
_Static_assert(P2P_KX_KEY_SIZE == crypto_kx_SECRETKEYBYTES, "secret ephemeral key");
_Static_assert(P2P_SESSION_KEY_SIZE == crypto_kx_SESSIONKEYBYTES, "session key");
_Static_assert(P2P_SESSION_KEY_SIZE == crypto_aead_chacha20poly1305_IETF_KEYBYTES, "AEAD key");
_Static_assert(P2P_SEAL_OVERHEAD == crypto_aead_chacha20poly1305_IETF_ABYTES, "AEAD overhead");

/* Make libsodium usable; calling it again is harmless. */
bool
p2p_crypto_init(void)
{
	return sodium_init() >= 0;
}

/* Derive an Ed25519 key pair from seed. */
void
p2p_keypair_from_seed(const uint8_t seed[P2P_SEED_SIZE],
					  uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
					  uint8_t secret_key[P2P_SECRET_KEY_SIZE])
{
	(void) crypto_sign_seed_keypair(public_key, secret_key, seed);
}

/* Compute the node id that belongs to a public key. */
void
p2p_id_of_key(const uint8_t public_key[P2P_PUBLIC_KEY_SIZE], P2pId *id)
{
	(void) crypto_generichash(id->bytes, P2P_ID_SIZE, public_key, P2P_PUBLIC_KEY_SIZE, NULL, 0);
}

/* Compute what is really signed: the digest of tag and message. */
static void
tagged_digest(const char *tag, const void *message, size_t length, uint8_t digest[DIGEST_SIZE])
{
	crypto_generichash_state state;
	size_t		tag_length = strlen(tag);
	uint8_t		tag_length_byte = (uint8_t) tag_length;

	assert(tag_length > 0 && tag_length <= UINT8_MAX);
	(void) crypto_generichash_init(&state, NULL, 0, DIGEST_SIZE);
	(void) crypto_generichash_update(&state, &tag_length_byte, 1);
	(void) crypto_generichash_update(&state, (const uint8_t *) tag, tag_length);
	(void) crypto_generichash_update(&state, message, length);
	(void) crypto_generichash_final(&state, digest, DIGEST_SIZE);
}

/* Sign message under tag. */
void
p2p_sign(const char *tag, const void *message, size_t length,
		 const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
		 uint8_t signature[P2P_SIGNATURE_SIZE])
{
	uint8_t		digest[DIGEST_SIZE];

	tagged_digest(tag, message, length, digest);
	(void) crypto_sign_detached(signature, NULL, digest, sizeof(digest), secret_key);
}

/* Did the owner of public_key sign message under tag? */
bool
p2p_verify(const char *tag, const void *message, size_t length,
		   const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
		   const uint8_t signature[P2P_SIGNATURE_SIZE])
{
	uint8_t		digest[DIGEST_SIZE];

	tagged_digest(tag, message, length, digest);
	return crypto_sign_verify_detached(signature, digest, sizeof(digest), public_key) == 0;
}

/* Hash two pieces as if they were one. */
void
p2p_hash(const void *first, size_t first_length,
		 const void *second, size_t second_length,
		 uint8_t hash[P2P_HASH_SIZE])
{
	crypto_generichash_state state;

	(void) crypto_generichash_init(&state, NULL, 0, P2P_HASH_SIZE);
	(void) crypto_generichash_update(&state, first, first_length);
	(void) crypto_generichash_update(&state, second, second_length);
	(void) crypto_generichash_final(&state, hash, P2P_HASH_SIZE);
}

/* Derive an ephemeral X25519 pair from seed. */
void
p2p_kx_from_seed(const uint8_t seed[P2P_SEED_SIZE],
				 uint8_t public_key[P2P_KX_KEY_SIZE],
				 uint8_t secret_key[P2P_KX_KEY_SIZE])
{
	(void) crypto_kx_seed_keypair(public_key, secret_key, seed);
}

/* Derive the two session keys; false if the peer's key is a weak one. */
bool
p2p_kx_session(bool client,
			   const uint8_t public_key[P2P_KX_KEY_SIZE],
			   const uint8_t secret_key[P2P_KX_KEY_SIZE],
			   const uint8_t peer_public_key[P2P_KX_KEY_SIZE],
			   uint8_t receive_key[P2P_SESSION_KEY_SIZE],
			   uint8_t send_key[P2P_SESSION_KEY_SIZE])
{
	int			failed;

	if (client)
		failed = crypto_kx_client_session_keys(receive_key, send_key,
											   public_key, secret_key, peer_public_key);
	else
		failed = crypto_kx_server_session_keys(receive_key, send_key,
											   public_key, secret_key, peer_public_key);
	return failed == 0;
}

/* Write the nonce of a counter. */
static void
counter_nonce(uint64_t counter, uint8_t nonce[NONCE_SIZE])
{
	P2pWriter	w;

	p2p_writer_init(&w, nonce, NONCE_SIZE);
	p2p_put_u32(&w, 0);
	p2p_put_u64(&w, counter);
}

/* Seal plain into out. */
void
p2p_seal(const uint8_t key[P2P_SESSION_KEY_SIZE], uint64_t counter,
		 const void *ad, size_t ad_length,
		 const void *plain, size_t length, uint8_t *out)
{
	uint8_t		nonce[NONCE_SIZE];

	counter_nonce(counter, nonce);
	(void) crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, length, ad, ad_length,
													 NULL, nonce, key);
}

/* Open sealed into out; nothing of a forged message is left there. */
bool
p2p_unseal(const uint8_t key[P2P_SESSION_KEY_SIZE], uint64_t counter,
		   const void *ad, size_t ad_length,
		   const void *sealed, size_t length, uint8_t *out)
{
	uint8_t		nonce[NONCE_SIZE];

	if (length < P2P_SEAL_OVERHEAD)
		return false;
	counter_nonce(counter, nonce);
	return crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, sealed, length,
													 ad, ad_length, nonce, key) == 0;
}

/* Write bytes as base64 text and a zero byte. */
bool
p2p_base64_encode(const void *bytes, size_t length, char *text, size_t size)
{
	/* libsodium ends the process if the text does not fit: so ask first. */
	if (length > SIZE_MAX / 2 || sodium_base64_encoded_len(length, BASE64_VARIANT) > size)
		return false;
	(void) sodium_bin2base64(text, size, bytes, length, BASE64_VARIANT);
	return true;
}

/* Read base64 text, all of it. libsodium takes bytes from 0x80 on for '_': we don't. */
bool
p2p_base64_decode(const char *text, size_t text_length,
				  uint8_t *bytes, size_t capacity, size_t *length)
{
	unsigned	seen = 0;

	*length = 0;
	for (size_t i = 0; i < text_length; i++)
		seen |= (uint8_t) text[i];
	if (seen >= 0x80)
		return false;
	return sodium_base642bin(bytes, capacity, text, text_length, NULL, length, NULL,
							 BASE64_VARIANT) == 0;
}

/* Are the two equal? Takes the same time whatever they are. */
bool
p2p_equal_secret(const void *a, const void *b, size_t length)
{
	return sodium_memcmp(a, b, length) == 0;
}

/* Overwrite memory with zeros. */
void
p2p_wipe(void *memory, size_t length)
{
	sodium_memzero(memory, length);
}
