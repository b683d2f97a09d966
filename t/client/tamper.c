/*
 * tamper.c
 *	  Falsify a batch in a segment of a change log, so well that its relay serves it.
 *
 *	  tamper SEGMENT SEQ HOW [KEYFILE]
 *
 * Finds the batch that holds transaction SEQ, changes it in place and makes the
 * record's CRC-32C right again. HOW:
 *
 *	  body        a bit of the body
 *	  resign      nothing, but signed with KEYFILE's key
 *	  previous    another previous hash, signed with KEYFILE's key
 *	  group       another group, signed with KEYFILE's key
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_batch.h"
#include "p2p_logrec.h"

/* Where the secret key stands in node.key, see identity.c. */
#define KEY_FILE_SECRET 76

_Noreturn static void
give_up(const char *why)
{
	fprintf(stderr, "tamper: %s\n", why);
	exit(2);
}

/* Return the content of a file, and its length. */
static uint8_t *
read_file(const char *path, size_t *length)
{
	FILE	   *file = fopen(path, "rb");
	long		size;
	uint8_t    *bytes;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
		give_up("cannot read a file");
	rewind(file);
	*length = (size_t) size;
	bytes = malloc(*length + 1);
	if (bytes == NULL || fread(bytes, 1, *length, file) != *length)
		give_up("cannot read a file");
	fclose(file);
	return bytes;
}

/* Return the offset of the record whose batch holds seq. */
static size_t
find_record(const uint8_t *bytes, size_t length, uint64_t seq)
{
	size_t		at = 0;

	while (length - at >= P2P_LOGREC_HEADER_SIZE)
	{
		P2pLogType	type;
		uint32_t	size;
		P2pBatch	batch;

		if (p2p_logrec_peek(bytes + at, length - at, &type, &size) != P2P_OK ||
			length - at - P2P_LOGREC_HEADER_SIZE < size)
			break;
		if (type == P2P_LOG_BATCH &&
			p2p_batch_parse(bytes + at + P2P_LOGREC_HEADER_SIZE, size, &batch) == P2P_OK &&
			batch.span.first_seq <= seq && seq <= batch.span.last_seq)
			return at;
		at += P2P_LOGREC_HEADER_SIZE + size;
	}
	give_up("no batch holds that transaction");
}

/* Sign a batch with the key of a file, in place; its size stays. */
static void
sign(uint8_t *bytes, P2pBatch *batch, const char *key_file)
{
	static uint8_t header[P2P_BATCH_MAX_HEADER];
	size_t		header_length = batch->header_length;
	size_t		key_length;
	uint8_t    *key = read_file(key_file, &key_length);

	if (key_length < KEY_FILE_SECRET + P2P_SECRET_KEY_SIZE ||
		p2p_batch_seal(batch, batch->body, batch->body_length, key + KEY_FILE_SECRET, header,
					   sizeof(header)) != P2P_OK || batch->header_length != header_length)
		give_up("cannot sign");
	memcpy(bytes, header, header_length);
	free(key);
}

/* Change a batch as told. */
static void
falsify(uint8_t *bytes, P2pBatch *batch, const char *how, const char *key_file)
{
	if (strcmp(how, "body") == 0)
		bytes[batch->header_length + batch->body_length - 1] ^= 1;
	if (strcmp(how, "previous") == 0)
		batch->previous_hash[0] ^= 1;
	if (strcmp(how, "group") == 0)
		batch->group.bytes[0] ^= 1;
	if (key_file != NULL)
		sign(bytes, batch, key_file);
}

/* Write bytes at an offset of a file that somebody else has open. */
static void
write_at(const char *path, size_t offset, const uint8_t *bytes, size_t length)
{
	FILE	   *file = fopen(path, "rb+");

	if (file == NULL || fseek(file, (long) offset, SEEK_SET) != 0 ||
		fwrite(bytes, 1, length, file) != length || fclose(file) != 0)
		give_up("cannot write the segment");
}

int
main(int argc, char **argv)
{
	P2pBatch	batch;
	P2pLogType	type;
	uint32_t	size;
	size_t		length;
	size_t		at;
	uint8_t    *bytes;
	uint8_t    *payload;

	if (argc != 4 && argc != 5)
		give_up("usage: tamper SEGMENT SEQ HOW [KEYFILE]");
	if (!p2p_crypto_init())
		give_up("libsodium does not work");
	bytes = read_file(argv[1], &length);
	at = find_record(bytes, length, strtoull(argv[2], NULL, 10));
	(void) p2p_logrec_peek(bytes + at, length - at, &type, &size);
	payload = bytes + at + P2P_LOGREC_HEADER_SIZE;
	(void) p2p_batch_parse(payload, size, &batch);

	falsify(payload, &batch, argv[3], argc == 5 ? argv[4] : NULL);
	p2p_logrec_header(type, payload, size, NULL, 0, bytes + at);
	write_at(argv[1], at, bytes + at, P2P_LOGREC_HEADER_SIZE + size);
	free(bytes);
	return 0;
}
