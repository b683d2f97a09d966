/*
 * decode_stored.c
 *	  Decoders of what stands in change logs, the own ones and those of peers.
 */
#include <stdlib.h>
#include <string.h>

#include <lz4.h>

#include "p2p_batch.h"
#include "p2p_body.h"
#include "p2p_logrec.h"

#include "decoders.h"

static const P2pId group = {{0x47}};

/* A vector that was read reads back equal. */
static void
require_same_vector(const P2pVector *vector)
{
	static uint8_t memory[P2P_VECTOR_MAX_SIZE];
	P2pWriter	w;
	P2pReader	r;
	P2pVector	again;

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_vector(&w, vector);
	FUZZ_REQUIRE(!w.overflow);
	p2p_reader_init(&r, memory, w.length);
	p2p_get_vector(&r, &again);
	FUZZ_REQUIRE(!r.bad && p2p_reader_left(&r) == 0);
	FUZZ_REQUIRE(p2p_vector_equal(vector, &again));
}

void
fuzz_vector(const uint8_t *bytes, size_t length)
{
	static P2pVector vector;
	P2pReader	r;

	p2p_reader_init(&r, bytes, length);
	p2p_get_vector(&r, &vector);
	if (!r.bad)
		require_same_vector(&vector);
}

void
fuzz_logrec(const uint8_t *bytes, size_t length)
{
	P2pLogType	type;
	uint32_t	payload;

	if (p2p_logrec_peek(bytes, length, &type, &payload) == P2P_OK)
		FUZZ_REQUIRE(payload <= P2P_LOGREC_MAX_PAYLOAD);
	if (p2p_logrec_check(bytes, length) == P2P_OK)
		FUZZ_REQUIRE(length >= P2P_LOGREC_HEADER_SIZE + (size_t) payload);
}

void
fuzz_position(const uint8_t *bytes, size_t length)
{
	static P2pPosition position;
	static P2pPosition again;
	static uint8_t memory[P2P_POSITION_MAX_SIZE];
	P2pWriter	w;

	if (p2p_get_position(bytes, length, &position) != P2P_OK)
		return;
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_position(&w, &position);
	FUZZ_REQUIRE(!w.overflow);
	FUZZ_REQUIRE(p2p_get_position(memory, w.length, &again) == P2P_OK);
	FUZZ_REQUIRE(again.lsn == position.lsn && again.seq == position.seq &&
				 again.stamp == position.stamp && again.floor == position.floor &&
				 p2p_vector_equal(&again.vector, &position.vector));
}

/* A whole batch, as a peer sends it or as it stands in a log. */
void
fuzz_batch(const uint8_t *bytes, size_t length)
{
	static P2pBatch batch;

	if (p2p_batch_parse(bytes, length, &batch) != P2P_OK)
		return;
	FUZZ_REQUIRE(batch.header_length + batch.body_length == length);
	FUZZ_REQUIRE(batch.raw_length <= P2P_BATCH_MAX_BODY);
	FUZZ_REQUIRE(batch.span.first_seq <= batch.span.last_seq);
	require_same_vector(&batch.deps);
	/* The key is one that signed the seed inputs only: whatever else verifies was forged. */
	if (p2p_batch_verify(&batch, bytes, &group, fuzz_peer_public_key) == P2P_OK)
	{
		static uint8_t header[P2P_BATCH_MAX_HEADER];
		P2pBatch	again = batch;

		FUZZ_REQUIRE(p2p_batch_seal(&again, batch.body, batch.body_length, fuzz_peer_secret_key,
									header, sizeof(header)) == P2P_OK);
		FUZZ_REQUIRE(again.header_length == batch.header_length &&
					 memcmp(header, bytes, batch.header_length) == 0);
	}
}

/* A vector, as the header's deps, then the body. */
void
fuzz_body(const uint8_t *bytes, size_t length)
{
	static void *memory = NULL;
	static P2pVector deps;
	P2pBodyReader body;
	P2pItem		item;
	P2pReader	r;
	P2pStatus	status;
	size_t		items = 0;

	if (memory == NULL)
		memory = malloc(p2p_body_reader_memory());
	FUZZ_REQUIRE(memory != NULL);
	p2p_reader_init(&r, bytes, length);
	p2p_get_vector(&r, &deps);
	if (r.bad)
		return;
	p2p_body_reader_init(&body, memory, bytes + r.pos, length - r.pos, &deps);
	while ((status = p2p_body_next(&body, &item)) == P2P_OK)
	{
		/* every item takes a byte: it ends */
		FUZZ_REQUIRE(++items <= length);
		if (item.tag == P2P_TAG_RELATION)
			FUZZ_REQUIRE(item.relation.ncolumns <= P2P_MAX_COLUMNS &&
						 item.relation.relno < P2P_MAX_BODY_RELATIONS);
		if (item.tag == P2P_TAG_INSERT || item.tag == P2P_TAG_UPDATE)
		{
			for (uint32_t c = 0; c < item.ncolumns; c++)
			{
				const P2pValue *value = &body.new_values[c];

				FUZZ_REQUIRE(value->length == 0 ||
							 (value->data >= bytes && value->data + value->length <= bytes + length));
			}
		}
	}
	FUZZ_REQUIRE(status != P2P_OK);
}

/* Four bytes: the length that the header promises; then an LZ4 block, as changelog_pack.c unpacks it. */
void
fuzz_unpack(const uint8_t *bytes, size_t length)
{
	uint32_t	raw_length;
	char	   *out;
	int			size;

	if (length < 4)
		return;
	memcpy(&raw_length, bytes, 4);
	if (raw_length == 0 || raw_length > FUZZ_MAX_UNPACKED)
		return;
	out = malloc(raw_length);
	FUZZ_REQUIRE(out != NULL);
	size = LZ4_decompress_safe((const char *) bytes + 4, out, (int) (length - 4), (int) raw_length);
	FUZZ_REQUIRE(size <= (int) raw_length);
	free(out);
}
