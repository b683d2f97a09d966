/*
 * p2p_batch.c
 *	  Sealing, parsing and verifying batches.
 *
 * The format stands in p2p_batch.h. Sealing and parsing share one function
 * that says which spans and lengths may be, so nothing is ever sealed that a
 * peer refuses.
 *
 * The signature covers the header, and the header the hash of the body: a
 * relay can check a header without the body, and the body costs one pass of
 * BLAKE2b. Every byte of a batch is under the signature, is the signature, or
 * is under the hash; no byte can change unnoticed.
 */
#include "p2p_batch.h"

#include <string.h>

#define SIGN_TAG "replp2p batch 1"
#define FORMAT_VERSION 1
#define FLAG_PARTIAL 0x01
#define FLAG_NOT_FINAL 0x02
#define LZ4_MAX_RATIO 255		/* one byte of an LZ4 block says at most so many */

static const uint8_t magic[4] = {'P', '2', 'P', 'B'};

/* Check what all batches hold to, whoever made them. */
static P2pStatus
batch_check(const P2pBatch *batch)
{
	const P2pSpan *span = &batch->span;

	if (batch->compression > P2P_COMPRESSION_LZ4)
		return P2P_BAD_VERSION;
	if (batch->body_length > P2P_BATCH_MAX_BODY || batch->raw_length > P2P_BATCH_MAX_BODY)
		return P2P_TOO_LARGE;
	if (batch->compression == P2P_COMPRESSION_NONE && batch->raw_length != batch->body_length)
		return P2P_CORRUPT;
	/* No small batch makes a reader allocate much. */
	if (batch->raw_length / LZ4_MAX_RATIO > batch->body_length)
		return P2P_CORRUPT;
	if (span->first_seq == 0 || span->first_seq > span->last_seq)
		return P2P_CORRUPT;
	if (span->partial && span->first_seq != span->last_seq)
		return P2P_CORRUPT;
	if (!span->partial && (span->part != 0 || !span->final))
		return P2P_CORRUPT;
	return P2P_OK;
}

/* Write the signed part of the header. */
static void
put_header(P2pWriter *w, const P2pBatch *batch)
{
	uint8_t		flags = 0;

	if (batch->span.partial)
		flags |= FLAG_PARTIAL;
	if (!batch->span.final)
		flags |= FLAG_NOT_FINAL;

	p2p_put_bytes(w, magic, sizeof(magic));
	p2p_put_u8(w, FORMAT_VERSION);
	p2p_put_u8(w, batch->compression);
	p2p_put_u8(w, flags);
	p2p_put_u8(w, 0);
	p2p_put_id(w, &batch->group);
	p2p_put_origin(w, &batch->origin);
	p2p_put_u64(w, batch->span.first_seq);
	p2p_put_u64(w, batch->span.last_seq);
	p2p_put_u32(w, batch->span.part);
	p2p_put_i64(w, batch->last_stamp);
	p2p_put_bytes(w, batch->previous_hash, P2P_HASH_SIZE);
	p2p_put_bytes(w, batch->body_hash, P2P_HASH_SIZE);
	p2p_put_u32(w, batch->body_length);
	p2p_put_u32(w, batch->raw_length);
	p2p_put_vector(w, &batch->deps);
}

/* Write header and signature; batch->body and signature point into the caller's memory. */
P2pStatus
p2p_batch_seal(P2pBatch *batch, const void *body, uint32_t body_length,
			   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
			   uint8_t *header, size_t capacity)
{
	P2pWriter	w;
	P2pStatus	status;
	size_t		signed_length;

	batch->body = body;
	batch->body_length = body_length;
	status = batch_check(batch);
	if (status != P2P_OK)
		return status;

	p2p_hash(body, body_length, NULL, 0, batch->body_hash);
	p2p_writer_init(&w, header, capacity);
	put_header(&w, batch);
	signed_length = w.length;
	if (w.overflow || capacity - signed_length < P2P_SIGNATURE_SIZE)
		return P2P_NO_SPACE;

	p2p_sign(SIGN_TAG, header, signed_length, secret_key, header + signed_length);
	batch->signature = header + signed_length;
	batch->header_length = signed_length + P2P_SIGNATURE_SIZE;
	p2p_hash(header, batch->header_length, NULL, 0, batch->hash);
	return P2P_OK;
}

/* Read the 8 bytes that say how to read the others. */
static P2pStatus
get_preamble(P2pReader *r, P2pBatch *batch)
{
	uint8_t		found[sizeof(magic)];
	uint8_t		version;
	uint8_t		flags;
	uint8_t		zero;

	p2p_get_raw(r, found, sizeof(found));
	version = p2p_get_u8(r);
	batch->compression = p2p_get_u8(r);
	flags = p2p_get_u8(r);
	zero = p2p_get_u8(r);
	if (r->bad)
		return P2P_TORN;
	if (memcmp(found, magic, sizeof(magic)) != 0)
		return P2P_CORRUPT;
	if (version != FORMAT_VERSION || (flags & ~(FLAG_PARTIAL | FLAG_NOT_FINAL)) != 0)
		return P2P_BAD_VERSION;
	if (zero != 0)
		return P2P_CORRUPT;
	batch->span.partial = (flags & FLAG_PARTIAL) != 0;
	batch->span.final = (flags & FLAG_NOT_FINAL) == 0;
	return P2P_OK;
}

/* Read the fields of fixed size behind the preamble. */
static void
get_fields(P2pReader *r, P2pBatch *batch)
{
	p2p_get_id(r, &batch->group);
	p2p_get_origin(r, &batch->origin);
	batch->span.first_seq = p2p_get_u64(r);
	batch->span.last_seq = p2p_get_u64(r);
	batch->span.part = p2p_get_u32(r);
	batch->last_stamp = p2p_get_i64(r);
	p2p_get_raw(r, batch->previous_hash, P2P_HASH_SIZE);
	p2p_get_raw(r, batch->body_hash, P2P_HASH_SIZE);
	batch->body_length = p2p_get_u32(r);
	batch->raw_length = p2p_get_u32(r);
}

/*
 * Read a batch that is all of bytes; body and signature point into them. A cut
 * one is P2P_TORN, except where the cut makes its deps unreadable: P2P_CORRUPT.
 */
P2pStatus
p2p_batch_parse(const void *bytes, size_t length, P2pBatch *batch)
{
	P2pReader	r;
	P2pStatus	status;

	p2p_reader_init(&r, bytes, length);
	status = get_preamble(&r, batch);
	if (status != P2P_OK)
		return status;
	get_fields(&r, batch);
	if (r.bad)
		return P2P_TORN;
	status = batch_check(batch);
	if (status != P2P_OK)
		return status;

	p2p_get_vector(&r, &batch->deps);
	if (r.bad)
		return P2P_CORRUPT;
	batch->signature = p2p_get_bytes(&r, P2P_SIGNATURE_SIZE);
	batch->header_length = r.pos;
	batch->body = p2p_get_bytes(&r, batch->body_length);
	if (r.bad)
		return P2P_TORN;
	if (p2p_reader_left(&r) > 0)
		return P2P_CORRUPT;
	p2p_hash(bytes, batch->header_length, NULL, 0, batch->hash);
	return P2P_OK;
}

/* Is it of this group and of the origin with this key? */
static P2pStatus
check_origin(const P2pBatch *batch, const P2pId *group,
			 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE])
{
	P2pId		owner;

	if (p2p_id_compare(&batch->group, group) != 0)
		return P2P_FOREIGN_GROUP;
	p2p_id_of_key(public_key, &owner);
	return p2p_id_compare(&batch->origin.id, &owner) == 0 ? P2P_OK : P2P_BAD_SIGNATURE;
}

/* Is the body the one that the header names? */
static P2pStatus
check_body(const P2pBatch *batch)
{
	uint8_t		body_hash[P2P_HASH_SIZE];

	p2p_hash(batch->body, batch->body_length, NULL, 0, body_hash);
	return memcmp(body_hash, batch->body_hash, P2P_HASH_SIZE) == 0 ? P2P_OK : P2P_CORRUPT;
}

/* Check a parsed batch but for its signature. */
P2pStatus
p2p_batch_check(const P2pBatch *batch, const P2pId *group,
				const uint8_t public_key[P2P_PUBLIC_KEY_SIZE])
{
	P2pStatus	status = check_origin(batch, group, public_key);

	return status == P2P_OK ? check_body(batch) : status;
}

/*
 * Check a parsed batch: P2P_FOREIGN_GROUP; P2P_BAD_SIGNATURE also if the key is
 * not the origin's; P2P_CORRUPT if only the body is not the signed one.
 */
P2pStatus
p2p_batch_verify(const P2pBatch *batch, const void *bytes, const P2pId *group,
				 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE])
{
	P2pStatus	status = check_origin(batch, group, public_key);

	if (status != P2P_OK)
		return status;
	if (!p2p_verify(SIGN_TAG, bytes, batch->header_length - P2P_SIGNATURE_SIZE,
					public_key, batch->signature))
		return P2P_BAD_SIGNATURE;
	return check_body(batch);
}
