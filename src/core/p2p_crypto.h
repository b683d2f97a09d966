/*
 * p2p_crypto.h
 *	  The only room that knows libsodium: Ed25519 signatures, BLAKE2b,
 *	  X25519 key exchange, ChaCha20-Poly1305.
 *
 * Randomness comes from the caller as seeds. Secrets handed in are not kept.
 */
#ifndef P2P_CRYPTO_H
#define P2P_CRYPTO_H

#include "p2p_types.h"

#define P2P_SEED_SIZE 32
#define P2P_KX_KEY_SIZE 32
#define P2P_SESSION_KEY_SIZE 32
#define P2P_SEAL_OVERHEAD 16

/* Call once per process before anything else; false: libsodium is unusable. */
bool		p2p_crypto_init(void);

/* Ed25519 key pair from a seed of random bytes. */
void		p2p_keypair_from_seed(const uint8_t seed[P2P_SEED_SIZE],
								  uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
								  uint8_t secret_key[P2P_SECRET_KEY_SIZE]);
/* Node id = BLAKE2b-128 of the public key. */
void		p2p_id_of_key(const uint8_t public_key[P2P_PUBLIC_KEY_SIZE], P2pId *id);

/*
 * Sign {tag, message}: tag is a domain of its own ("replp2p batch 1"), hashed
 * in front with its length, so that no signature serves for anything else.
 */
void		p2p_sign(const char *tag, const void *message, size_t length,
					 const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
					 uint8_t signature[P2P_SIGNATURE_SIZE]);
bool		p2p_verify(const char *tag, const void *message, size_t length,
					   const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
					   const uint8_t signature[P2P_SIGNATURE_SIZE]);

/* BLAKE2b-256, unkeyed; of two pieces one after the other (second may be NULL, 0). */
void		p2p_hash(const void *first, size_t first_length,
					 const void *second, size_t second_length,
					 uint8_t hash[P2P_HASH_SIZE]);

/* Ephemeral X25519 pair from a seed. */
void		p2p_kx_from_seed(const uint8_t seed[P2P_SEED_SIZE],
							 uint8_t public_key[P2P_KX_KEY_SIZE],
							 uint8_t secret_key[P2P_KX_KEY_SIZE]);
/* Session keys (crypto_kx); false: the peer's key is not acceptable. */
bool		p2p_kx_session(bool client,
						   const uint8_t public_key[P2P_KX_KEY_SIZE],
						   const uint8_t secret_key[P2P_KX_KEY_SIZE],
						   const uint8_t peer_public_key[P2P_KX_KEY_SIZE],
						   uint8_t receive_key[P2P_SESSION_KEY_SIZE],
						   uint8_t send_key[P2P_SESSION_KEY_SIZE]);

/*
 * AEAD with the counter as nonce; out has length + P2P_SEAL_OVERHEAD bytes. In
 * both directions out may be the input itself, but not overlap it otherwise.
 */
void		p2p_seal(const uint8_t key[P2P_SESSION_KEY_SIZE], uint64_t counter,
					 const void *ad, size_t ad_length,
					 const void *plain, size_t length, uint8_t *out);
/* out has length - P2P_SEAL_OVERHEAD bytes; false: forged, replayed or out of order. */
bool		p2p_unseal(const uint8_t key[P2P_SESSION_KEY_SIZE], uint64_t counter,
					   const void *ad, size_t ad_length,
					   const void *sealed, size_t length, uint8_t *out);

/*
 * URL-safe base64 without padding, in constant time for its length. Encoding
 * writes a zero byte at the end; false: it does not fit. Decoding takes only
 * what encoding writes; false: anything else, or more than capacity bytes.
 */
bool		p2p_base64_encode(const void *bytes, size_t length, char *text, size_t size);
bool		p2p_base64_decode(const char *text, size_t text_length,
							  uint8_t *bytes, size_t capacity, size_t *length);

/* Compare in constant time; wipe secrets so that the compiler keeps it. */
bool		p2p_equal_secret(const void *a, const void *b, size_t length);
void		p2p_wipe(void *memory, size_t length);

#endif							/* P2P_CRYPTO_H */
