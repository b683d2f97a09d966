/*
 * changelog_pack.c
 *	  Compression of batch bodies: LZ4 where it pays, plain otherwise.
 *
 * A body is packed once, by its origin, before the batch is sealed; relays hand
 * on the packed bytes. Small bodies and those that shrink by less than an
 * eighth stay as they are: unpacking them everywhere would cost more.
 *
 * Unpacking trusts no length: the batch is signed, but by a peer. How much memory
 * a body may ask for, p2p_batch_parse() has limited (LZ4 gains a factor of 255 at
 * most); here the bytes have to fill it exactly.
 */
#include "postgres.h"

#include <lz4.h>

#include "changelog_internal.h"

#define PACK_MIN_LENGTH 256
#define PACK_MIN_GAIN 8			/* an eighth of the length */

/* Return the room that packing a body of this length needs. */
size_t
rp_log_pack_bound(uint32 length)
{
	if (length > LZ4_MAX_INPUT_SIZE)
		return 0;
	return (size_t) LZ4_compressBound((int) length);
}

/* Pack body into `packed` if that pays; *out is where the bytes to store are. */
uint8
rp_log_pack(const void *body, uint32 length, void *packed, const void **out, uint32 *out_length)
{
	*out = body;
	*out_length = length;
	if (length > PACK_MIN_LENGTH && length <= P2P_BATCH_MAX_BODY)
	{
		int			worth = (int) (length - length / PACK_MIN_GAIN);
		/* giving it no more room than is worth it lets it give up early */
		int			size = LZ4_compress_default(body, packed, (int) length, worth);

		if (size > 0)
		{
			*out = packed;
			*out_length = (uint32) size;
			return P2P_COMPRESSION_LZ4;
		}
	}
	return P2P_COMPRESSION_NONE;
}

/* Unpack a batch's LZ4 body into memory of raw_length bytes. */
P2pStatus
rp_log_unpack_into(const P2pBatch *batch, void *memory)
{
	int			size = LZ4_decompress_safe((const char *) batch->body, memory,
										   (int) batch->body_length, (int) batch->raw_length);

	return (size >= 0 && (uint32) size == batch->raw_length) ? P2P_OK : P2P_CORRUPT;
}
