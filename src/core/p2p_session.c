/*
 * p2p_session.c
 *	  Handshake and sealed messages between two nodes.
 *
 *	  client:  NEW --connect--> HELLO_SENT --welcome--> OPEN
 *	  server:  NEW --accept--> WELCOME_SENT --first frame--> OPEN
 *	  either:  any --anything wrong--> FAILED, secrets wiped
 *
 * Formats stand in p2p_session.h. Both sides sign the transcript, which names
 * protocol, group, both node keys, both ephemeral keys and both nonces: so
 * nobody can be made to believe that it talks in another group or with
 * somebody else, a recorded HELLO or WELCOME is of no use (the other side's
 * ephemeral key is new), and what was said stays secret when a node key is
 * stolen later. Client and server sign under different tags, so a signature
 * can't be sent back to its maker.
 *
 * The client signs only after it has verified the server, inside its first
 * frame. The server believes nothing until then: HELLO costs it one key
 * exchange and one signature, and no memory beyond this struct.
 *
 * Frames carry no counter: each side counts by itself, so a frame that is
 * lost, repeated, swapped or sent back does not open, and the session is over.
 */
#include "p2p_session.h"

#include <string.h>

#define CLIENT_TAG "replp2p hello client 1"
#define SERVER_TAG "replp2p hello server 1"
#define NONCE_LABEL "replp2p session nonce 1"

#define NONCE_SIZE P2P_HASH_SIZE
#define HELLO_SIZE (3 + P2P_ID_SIZE + P2P_PUBLIC_KEY_SIZE + P2P_KX_KEY_SIZE + NONCE_SIZE)
#define WELCOME_SIGNED_SIZE (3 + P2P_PUBLIC_KEY_SIZE + P2P_KX_KEY_SIZE + NONCE_SIZE)
#define WELCOME_SIZE (WELCOME_SIGNED_SIZE + P2P_SIGNATURE_SIZE)
#define AD_SIZE (2 + P2P_HASH_SIZE)

_Static_assert(HELLO_SIZE <= P2P_HELLO_MAX_SIZE, "P2P_HELLO_MAX_SIZE is too small");
_Static_assert(WELCOME_SIZE <= P2P_WELCOME_MAX_SIZE, "P2P_WELCOME_MAX_SIZE is too small");

/* Wipe all secrets; the session can't be used any more. */
void
p2p_session_end(P2pSession *s)
{
	p2p_wipe(s->secret_key, sizeof(s->secret_key));
	p2p_wipe(s->ephemeral_secret, sizeof(s->ephemeral_secret));
	p2p_wipe(s->receive_key, sizeof(s->receive_key));
	p2p_wipe(s->send_key, sizeof(s->send_key));
	s->state = P2P_SESSION_FAILED;
}

/* End the session because of status; return status. */
static P2pStatus
session_fail(P2pSession *s, P2pStatus status)
{
	p2p_session_end(s);
	return status;
}

/* Start s with our keys and a fresh ephemeral pair; nonce comes from seed, too. */
static void
session_init(P2pSession *s, bool client, const P2pId *group,
			 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
			 const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
			 const uint8_t seed[P2P_SEED_SIZE])
{
	memset(s, 0, sizeof(*s));
	s->state = P2P_SESSION_NEW;
	s->client = client;
	s->group = *group;
	memcpy(s->public_key, public_key, P2P_PUBLIC_KEY_SIZE);
	memcpy(s->secret_key, secret_key, P2P_SECRET_KEY_SIZE);
	p2p_kx_from_seed(seed, s->ephemeral_public, s->ephemeral_secret);
}

/* Write protocol, node key, ephemeral key and nonce: what HELLO and WELCOME have in common. */
static void
put_keys(P2pWriter *w, const P2pSession *s, const uint8_t seed[P2P_SEED_SIZE])
{
	uint8_t		nonce[NONCE_SIZE];

	p2p_hash(seed, P2P_SEED_SIZE, NONCE_LABEL, strlen(NONCE_LABEL), nonce);
	p2p_put_bytes(w, s->public_key, P2P_PUBLIC_KEY_SIZE);
	p2p_put_bytes(w, s->ephemeral_public, P2P_KX_KEY_SIZE);
	p2p_put_bytes(w, nonce, NONCE_SIZE);
}

/* Client: begin, and write HELLO. */
void
p2p_session_connect(P2pSession *s, const P2pId *group, const P2pId *peer_id,
					const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
					const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
					const uint8_t seed[P2P_SEED_SIZE], P2pWriter *w)
{
	P2pWriter	hello;

	session_init(s, true, group, public_key, secret_key, seed);
	s->peer_id = *peer_id;

	p2p_writer_init(&hello, s->hello, sizeof(s->hello));
	p2p_put_u8(&hello, P2P_BYTE_HELLO);
	p2p_put_u16(&hello, P2P_PROTOCOL_VERSION);
	p2p_put_id(&hello, group);
	put_keys(&hello, s, seed);
	s->hello_length = hello.length;

	p2p_put_bytes(w, s->hello, s->hello_length);
	s->state = P2P_SESSION_HELLO_SENT;
}

/* Check kind, protocol and size of a HELLO or WELCOME; leave r behind the protocol. */
static P2pStatus
open_greeting(P2pReader *r, const void *bytes, size_t length, P2pSessionByte kind, size_t size)
{
	uint8_t		found;
	uint16_t	protocol;

	p2p_reader_init(r, bytes, length);
	found = p2p_get_u8(r);
	protocol = p2p_get_u16(r);
	if (r->bad)
		return P2P_TORN;
	if (found != kind)
		return P2P_CORRUPT;
	if (protocol != P2P_PROTOCOL_VERSION)
		return P2P_BAD_VERSION;
	if (length != size)
		return (length < size) ? P2P_TORN : P2P_CORRUPT;
	return P2P_OK;
}

/* Compute the session keys and forget the ephemeral secret; false: the peer's key is weak. */
static bool
derive_keys(P2pSession *s, const uint8_t peer_ephemeral[P2P_KX_KEY_SIZE])
{
	bool		sound = p2p_kx_session(s->client, s->ephemeral_public, s->ephemeral_secret,
									   peer_ephemeral, s->receive_key, s->send_key);

	p2p_wipe(s->ephemeral_secret, sizeof(s->ephemeral_secret));
	return sound;
}

/* Client: take WELCOME, which proves who answers, and derive the session keys. */
P2pStatus
p2p_session_welcome(P2pSession *s, const void *bytes, size_t length)
{
	P2pReader	r;
	P2pId		answering;
	uint8_t		peer_ephemeral[P2P_KX_KEY_SIZE];
	const uint8_t *signature;
	P2pStatus	status;

	if (s->state != P2P_SESSION_HELLO_SENT)
		return session_fail(s, P2P_REFUSED);
	if (length > 0 && *(const uint8_t *) bytes == P2P_BYTE_ERROR)
		return session_fail(s, P2P_REFUSED);
	status = open_greeting(&r, bytes, length, P2P_BYTE_WELCOME, WELCOME_SIZE);
	if (status != P2P_OK)
		return session_fail(s, status);

	p2p_get_raw(&r, s->peer_key, P2P_PUBLIC_KEY_SIZE);
	p2p_get_raw(&r, peer_ephemeral, P2P_KX_KEY_SIZE);
	(void) p2p_get_bytes(&r, NONCE_SIZE);
	signature = p2p_get_bytes(&r, P2P_SIGNATURE_SIZE);

	p2p_id_of_key(s->peer_key, &answering);
	if (p2p_id_compare(&answering, &s->peer_id) != 0)
		return session_fail(s, P2P_BAD_SIGNATURE);
	p2p_hash(s->hello, s->hello_length, bytes, WELCOME_SIGNED_SIZE, s->transcript);
	if (!p2p_verify(SERVER_TAG, s->transcript, P2P_HASH_SIZE, s->peer_key, signature))
		return session_fail(s, P2P_BAD_SIGNATURE);
	if (!derive_keys(s, peer_ephemeral))
		return session_fail(s, P2P_CORRUPT);
	s->state = P2P_SESSION_OPEN;
	return P2P_OK;
}

/* Server: read HELLO into s. */
static P2pStatus
take_hello(P2pSession *s, const void *bytes, size_t length,
		   uint8_t peer_ephemeral[P2P_KX_KEY_SIZE])
{
	P2pReader	r;
	P2pId		group;
	P2pStatus	status = open_greeting(&r, bytes, length, P2P_BYTE_HELLO, HELLO_SIZE);

	if (status != P2P_OK)
		return status;
	p2p_get_id(&r, &group);
	if (p2p_id_compare(&group, &s->group) != 0)
		return P2P_FOREIGN_GROUP;
	p2p_get_raw(&r, s->peer_key, P2P_PUBLIC_KEY_SIZE);
	p2p_get_raw(&r, peer_ephemeral, P2P_KX_KEY_SIZE);
	p2p_id_of_key(s->peer_key, &s->peer_id);
	memcpy(s->hello, bytes, length);
	s->hello_length = length;
	return P2P_OK;
}

/* Server: write WELCOME and compute the transcript. */
static P2pStatus
put_welcome(P2pSession *s, const uint8_t seed[P2P_SEED_SIZE], P2pWriter *w)
{
	uint8_t		welcome[WELCOME_SIZE];
	P2pWriter	own;

	p2p_writer_init(&own, welcome, sizeof(welcome));
	p2p_put_u8(&own, P2P_BYTE_WELCOME);
	p2p_put_u16(&own, P2P_PROTOCOL_VERSION);
	put_keys(&own, s, seed);
	p2p_hash(s->hello, s->hello_length, welcome, WELCOME_SIGNED_SIZE, s->transcript);
	p2p_sign(SERVER_TAG, s->transcript, P2P_HASH_SIZE, s->secret_key,
			 welcome + WELCOME_SIGNED_SIZE);
	p2p_put_bytes(w, welcome, sizeof(welcome));
	return w->overflow ? P2P_NO_SPACE : P2P_OK;
}

/* Server: take HELLO and answer it; peer_key is only claimed until the first frame. */
P2pStatus
p2p_session_accept(P2pSession *s, const P2pId *group,
				   const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
				   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
				   const uint8_t seed[P2P_SEED_SIZE],
				   const void *bytes, size_t length, P2pWriter *w)
{
	uint8_t		peer_ephemeral[P2P_KX_KEY_SIZE];
	P2pStatus	status;

	session_init(s, false, group, public_key, secret_key, seed);
	status = take_hello(s, bytes, length, peer_ephemeral);
	if (status == P2P_OK && !derive_keys(s, peer_ephemeral))
		status = P2P_CORRUPT;
	if (status == P2P_OK)
		status = put_welcome(s, seed, w);
	if (status != P2P_OK)
		return session_fail(s, status);
	/* A server has nothing more to sign. */
	p2p_wipe(s->secret_key, sizeof(s->secret_key));
	s->state = P2P_SESSION_WELCOME_SENT;
	return P2P_OK;
}

/* Write an ERROR. */
void
p2p_session_refuse(P2pWriter *w, const char *text)
{
	size_t		length = strlen(text);

	if (length > P2P_REFUSAL_MAX_TEXT - 1)
		length = P2P_REFUSAL_MAX_TEXT - 1;
	p2p_put_u8(w, P2P_BYTE_ERROR);
	p2p_put_bytes(w, text, length);
}

/* Read the text of an ERROR; bytes that are not printable ASCII come out as '?'. */
bool
p2p_session_refusal(const void *bytes, size_t length, char text[P2P_REFUSAL_MAX_TEXT])
{
	const uint8_t *at = bytes;
	size_t		n = 0;

	text[0] = '\0';
	if (length == 0 || at[0] != P2P_BYTE_ERROR)
		return false;
	for (size_t i = 1; i < length && n < P2P_REFUSAL_MAX_TEXT - 1; i++)
	{
		bool		printable = at[i] >= 0x20 && at[i] < 0x7f;

		text[n++] = printable ? (char) at[i] : '?';
	}
	text[n] = '\0';
	return true;
}

/* Return how many bytes stand before the plain text in the next frame: the client's proof. */
static size_t
proof_size(const P2pSession *s)
{
	return (s->client && s->sent == 0) ? P2P_SIGNATURE_SIZE : 0;
}

/* Return how long the next frame is with length plain bytes. */
size_t
p2p_session_frame_size(const P2pSession *s, size_t length)
{
	return 1 + proof_size(s) + length + P2P_SEAL_OVERHEAD;
}

/* Write what every frame is bound to. */
static void
associated_data(const P2pSession *s, uint8_t ad[AD_SIZE])
{
	P2pWriter	w;

	p2p_writer_init(&w, ad, AD_SIZE);
	p2p_put_u16(&w, P2P_PROTOCOL_VERSION);
	p2p_put_bytes(&w, s->transcript, P2P_HASH_SIZE);
}

/* Seal plain into a frame. A refusal for want of space or state leaves the session as it was. */
P2pStatus
p2p_session_seal(P2pSession *s, const void *plain, size_t length,
				 uint8_t *out, size_t capacity, size_t *out_length)
{
	uint8_t		ad[AD_SIZE];
	size_t		proof = proof_size(s);

	*out_length = 0;
	if (s->state != P2P_SESSION_OPEN)
		return P2P_REFUSED;
	if (length > P2P_MAX_MESSAGE || p2p_session_frame_size(s, length) > P2P_MAX_MESSAGE)
		return P2P_TOO_LARGE;
	if (p2p_session_frame_size(s, length) > capacity)
		return P2P_NO_SPACE;

	*out_length = p2p_session_frame_size(s, length);
	associated_data(s, ad);
	out[0] = P2P_BYTE_FRAME;
	if (proof > 0)
	{
		p2p_sign(CLIENT_TAG, s->transcript, P2P_HASH_SIZE, s->secret_key, out + 1);
		p2p_wipe(s->secret_key, sizeof(s->secret_key));
		if (length > 0)
			memcpy(out + 1 + proof, plain, length);
		plain = out + 1;
	}
	p2p_seal(s->send_key, s->sent, ad, sizeof(ad), plain, proof + length, out + 1);
	s->sent++;
	return P2P_OK;
}

/* Open a frame; on the server the first one also proves who the client is. */
P2pStatus
p2p_session_unseal(P2pSession *s, const void *frame, size_t length,
				   uint8_t *out, size_t *out_length)
{
	const uint8_t *bytes = frame;
	uint8_t		ad[AD_SIZE];
	bool		first = (s->state == P2P_SESSION_WELCOME_SENT);
	size_t		proof = first ? P2P_SIGNATURE_SIZE : 0;
	size_t		plain_length;

	*out_length = 0;
	if (s->state != P2P_SESSION_OPEN && !first)
		return session_fail(s, P2P_REFUSED);
	if (length > P2P_MAX_MESSAGE)
		return session_fail(s, P2P_TOO_LARGE);
	if (length < 1 + proof + P2P_SEAL_OVERHEAD)
		return session_fail(s, P2P_TORN);
	if (bytes[0] != P2P_BYTE_FRAME)
		return session_fail(s, P2P_CORRUPT);

	associated_data(s, ad);
	if (!p2p_unseal(s->receive_key, s->received, ad, sizeof(ad), bytes + 1, length - 1, out))
		return session_fail(s, P2P_BAD_SIGNATURE);
	plain_length = length - 1 - P2P_SEAL_OVERHEAD - proof;
	if (first)
	{
		if (!p2p_verify(CLIENT_TAG, s->transcript, P2P_HASH_SIZE, s->peer_key, out))
		{
			p2p_wipe(out, proof + plain_length);
			return session_fail(s, P2P_BAD_SIGNATURE);
		}
		memmove(out, out + proof, plain_length);
		s->state = P2P_SESSION_OPEN;
	}
	s->received++;
	*out_length = plain_length;
	return P2P_OK;
}
