/*
 * p2p_batch.h
 *	  Batches: consecutive transactions of one origin, sealed and signed by it.
 *	  The same bytes stand in the origin's change log, on every wire, and in
 *	  every relay's log.
 *
 *	  offset size
 *	       0    4  magic "P2PB"
 *	       4    1  format version (1)
 *	       5    1  compression of the body: 0 none, 1 LZ4 block
 *	       6    1  flags: 1 = a part of a large transaction, 2 = not its last part
 *	       7    1  zero
 *	       8   16  group id
 *	      24   16  origin: node id
 *	      40    4  origin: epoch
 *	      44    8  first seq
 *	      52    8  last seq
 *	      60    4  part (0 unless flag 1)
 *	      64    8  stamp of the last transaction
 *	      72   32  hash of the origin's previous batch (zeros for its first)
 *	     104   32  BLAKE2b-256 of the stored body
 *	     136    4  length of the body as stored
 *	     140    4  length of the body unpacked
 *	     144    v  deps of the first transaction (p2p_put_vector)
 *	    144+v  64  Ed25519 signature by the origin of all bytes before it, tag "replp2p batch 1"
 *	    208+v      body as stored
 *
 * The hash of a batch, which the next one names, is BLAKE2b-256 of all bytes
 * before its body. ONLY APPEND to versions, compressions and flags.
 */
#ifndef P2P_BATCH_H
#define P2P_BATCH_H

#include "p2p_crypto.h"
#include "p2p_cursor.h"
#include "p2p_vector.h"

#define P2P_COMPRESSION_NONE 0
#define P2P_COMPRESSION_LZ4 1

#define P2P_BATCH_FIXED_SIZE 144
#define P2P_BATCH_MAX_HEADER (P2P_BATCH_FIXED_SIZE + P2P_VECTOR_MAX_SIZE + P2P_SIGNATURE_SIZE)
#define P2P_BATCH_MAX_BODY ((uint32_t) 512 * 1024 * 1024)

typedef struct P2pBatch
{
	P2pId		group;
	P2pOrigin	origin;
	P2pSpan		span;
	P2pStamp	last_stamp;
	uint8_t		compression;
	uint8_t		previous_hash[P2P_HASH_SIZE];
	P2pVector	deps;
	uint32_t	raw_length;		/* of the body unpacked */
	/* set by p2p_batch_parse and p2p_batch_seal */
	uint8_t		body_hash[P2P_HASH_SIZE];
	const uint8_t *body;
	uint32_t	body_length;
	const uint8_t *signature;
	uint8_t		hash[P2P_HASH_SIZE];
	size_t		header_length;	/* bytes before the body */
} P2pBatch;

/*
 * Write header and signature for batch and its stored body into header
 * (P2P_BATCH_MAX_HEADER bytes); the batch is header followed by body. Fills
 * batch->hash, body_hash, body, body_length and header_length.
 */
P2pStatus	p2p_batch_seal(P2pBatch *batch, const void *body, uint32_t body_length,
						   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
						   uint8_t *header, size_t capacity);

/* Read the structure of a whole batch, trusting nothing in it yet. */
P2pStatus	p2p_batch_parse(const void *bytes, size_t length, P2pBatch *batch);

/*
 * Is it of this group, of the origin with this key, and its body the one that its
 * header names? Who may rely on the header, must know from elsewhere: a batch
 * whose hash is the previous_hash of a verified one is as good as verified.
 */
P2pStatus	p2p_batch_check(const P2pBatch *batch, const P2pId *group,
							const uint8_t public_key[P2P_PUBLIC_KEY_SIZE]);

/* Is it of this group, signed by this key, and its body the signed one? */
P2pStatus	p2p_batch_verify(const P2pBatch *batch, const void *bytes, const P2pId *group,
							 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE]);

#endif							/* P2P_BATCH_H */
