/*
 * p2p_token.c
 *	  Invites and consistency tokens as text.
 *
 * The formats stand in p2p_token.h. Texts are copied by hand and through chats:
 * the checksum tells a mangled one from a wrong one, and the prefix says what
 * it is before anything is decoded. Neither is a proof of anything; an
 * invite's secret is checked by the sponsor, who keeps its hash.
 *
 * P2P_BAD_VERSION: of this sort, but from another version. P2P_CORRUPT:
 * mangled, or something else altogether.
 */
#include "p2p_token.h"

#include <string.h>

#define INVITE_FAMILY "replp2p"
#define INVITE_PREFIX "replp2p1:"
#define INVITE_MAX_SIZE (2 * P2P_ID_SIZE + P2P_SECRET_SIZE + 2 + P2P_DSN_SIZE + CHECK_SIZE)
#define TOKEN_FAMILY "t"
#define TOKEN_PREFIX "t1:"
#define TOKEN_MAX_SIZE (P2P_ID_SIZE + P2P_VECTOR_MAX_SIZE + CHECK_SIZE)
#define CHECK_SIZE 4

/* Compute the checksum of what stands before it. */
static void
checksum(const uint8_t *bytes, size_t length, uint8_t check[CHECK_SIZE])
{
	uint8_t		hash[P2P_HASH_SIZE];

	p2p_hash(bytes, length, NULL, 0, hash);
	memcpy(check, hash, CHECK_SIZE);
}

/* Add the checksum to what w holds, and write prefix and base64 of it all to text. */
static P2pStatus
text_close(P2pWriter *w, const char *prefix, char *text, size_t size)
{
	size_t		prefix_length = strlen(prefix);
	uint8_t		check[CHECK_SIZE];

	if (w->overflow)
		return P2P_TOO_LARGE;
	checksum(w->data, w->length, check);
	p2p_put_bytes(w, check, CHECK_SIZE);
	if (w->overflow)
		return P2P_TOO_LARGE;
	if (size < prefix_length)
		return P2P_NO_SPACE;
	if (!p2p_base64_encode(w->data, w->length, text + prefix_length, size - prefix_length))
		return P2P_NO_SPACE;
	memcpy(text, prefix, prefix_length);
	return P2P_OK;
}

/* Is text of family, whatever its version: family, digits, colon? */
static bool
of_family(const char *text, const char *family)
{
	size_t		family_length = strlen(family);
	size_t		digits;

	if (strncmp(text, family, family_length) != 0)
		return false;
	digits = strspn(text + family_length, "0123456789");
	return digits > 0 && text[family_length + digits] == ':';
}

/* Decode text into bytes and start r over them, without the checksum, which holds. */
static P2pStatus
text_open(const char *text, const char *family, const char *prefix,
		  P2pWriter *memory, P2pReader *r)
{
	size_t		prefix_length = strlen(prefix);
	size_t		length;
	uint8_t		check[CHECK_SIZE];

	if (strncmp(text, prefix, prefix_length) != 0)
		return of_family(text, family) ? P2P_BAD_VERSION : P2P_CORRUPT;
	text += prefix_length;
	if (!p2p_base64_decode(text, strlen(text), memory->data, memory->capacity, &length) ||
		length < CHECK_SIZE)
		return P2P_CORRUPT;
	length -= CHECK_SIZE;
	checksum(memory->data, length, check);
	if (memcmp(check, memory->data + length, CHECK_SIZE) != 0)
		return P2P_CORRUPT;
	p2p_reader_init(r, memory->data, length);
	return P2P_OK;
}

/* Return how a reader ended that has read a whole text. */
static P2pStatus
finish(const P2pReader *r)
{
	return (r->bad || p2p_reader_left(r) > 0) ? P2P_CORRUPT : P2P_OK;
}

/* Write an invite to text. */
P2pStatus
p2p_invite_to_text(const P2pInvite *invite, char *text, size_t size)
{
	uint8_t		bytes[INVITE_MAX_SIZE];
	P2pWriter	w;
	P2pStatus	status;

	p2p_writer_init(&w, bytes, sizeof(bytes));
	p2p_put_id(&w, &invite->group);
	p2p_put_id(&w, &invite->sponsor);
	p2p_put_bytes(&w, invite->secret, P2P_SECRET_SIZE);
	p2p_put_text_field(&w, invite->dsn, sizeof(invite->dsn));
	status = text_close(&w, INVITE_PREFIX, text, size);
	p2p_wipe(bytes, sizeof(bytes));
	return status;
}

/* Read an invite; it is zero unless P2P_OK. */
P2pStatus
p2p_invite_from_text(const char *text, P2pInvite *invite)
{
	uint8_t		bytes[INVITE_MAX_SIZE];
	P2pWriter	memory;
	P2pReader	r;
	P2pStatus	status;

	p2p_writer_init(&memory, bytes, sizeof(bytes));
	status = text_open(text, INVITE_FAMILY, INVITE_PREFIX, &memory, &r);
	if (status == P2P_OK)
	{
		p2p_get_id(&r, &invite->group);
		p2p_get_id(&r, &invite->sponsor);
		p2p_get_raw(&r, invite->secret, P2P_SECRET_SIZE);
		p2p_get_text(&r, invite->dsn, sizeof(invite->dsn));
		status = finish(&r);
	}
	if (status != P2P_OK)
		p2p_wipe(invite, sizeof(*invite));
	p2p_wipe(bytes, sizeof(bytes));
	return status;
}

/* Write a consistency token to text. */
P2pStatus
p2p_token_to_text(const P2pId *group, const P2pVector *vector, char *text, size_t size)
{
	uint8_t		bytes[TOKEN_MAX_SIZE];
	P2pWriter	w;

	p2p_writer_init(&w, bytes, sizeof(bytes));
	p2p_put_id(&w, group);
	p2p_put_vector(&w, vector);
	return text_close(&w, TOKEN_PREFIX, text, size);
}

/* Read a consistency token. */
P2pStatus
p2p_token_from_text(const char *text, P2pId *group, P2pVector *vector)
{
	uint8_t		bytes[TOKEN_MAX_SIZE];
	P2pWriter	memory;
	P2pReader	r;
	P2pStatus	status;

	p2p_writer_init(&memory, bytes, sizeof(bytes));
	status = text_open(text, TOKEN_FAMILY, TOKEN_PREFIX, &memory, &r);
	if (status != P2P_OK)
		return status;
	p2p_get_id(&r, group);
	p2p_get_vector(&r, vector);
	return finish(&r);
}
