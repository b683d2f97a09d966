/*
 * p2p_session.h
 *	  One conversation between two nodes: handshake, then sealed messages.
 *
 *	  client                                   server
 *	  HELLO   {protocol, group, public key,
 *	           ephemeral key, nonce}       ->
 *	                                       <-  WELCOME {protocol, public key, ephemeral
 *	                                           key, nonce, signature of the transcript}
 *	  every later message is a FRAME: sealed with the session keys (crypto_kx of
 *	  the ephemeral keys), counter per direction as nonce, associated data =
 *	  {protocol, transcript hash}. The client's first frame opens with its
 *	  signature of the transcript; until that verifies the server does nothing else.
 *
 * transcript = BLAKE2b-256 of HELLO and WELCOME without its signature. Signing
 * tags: "replp2p hello client 1", "replp2p hello server 1". A failed frame ends
 * the session: nothing of it is used again. First byte of every message:
 * 'H' HELLO, 'W' WELCOME, 'F' FRAME, 'E' ERROR (text, unauthenticated; only
 * before a session stands). ONLY APPEND.
 *
 *	HELLO    'H', u16 protocol, 16 group, 32 public key, 32 ephemeral key, 32 nonce
 *	WELCOME  'W', u16 protocol, 32 public key, 32 ephemeral key, 32 nonce, 64 signature
 *	FRAME    'F', sealed: plain (the client's first: 64 signature, then plain)
 *	ERROR    'E', text to the end
 */
#ifndef P2P_SESSION_H
#define P2P_SESSION_H

#include "p2p_buf.h"
#include "p2p_crypto.h"

#define P2P_PROTOCOL_VERSION 1
#define P2P_MAX_MESSAGE ((size_t) 640 * 1024 * 1024)	/* sealed, with all overhead */
#define P2P_HELLO_MAX_SIZE 256
#define P2P_WELCOME_MAX_SIZE 256
#define P2P_REFUSAL_MAX_TEXT 512

/* First byte of every message. ONLY APPEND. */
typedef enum P2pSessionByte
{
	P2P_BYTE_HELLO = 'H',
	P2P_BYTE_WELCOME = 'W',
	P2P_BYTE_FRAME = 'F',
	P2P_BYTE_ERROR = 'E'
} P2pSessionByte;

typedef enum P2pSessionState
{
	P2P_SESSION_NEW = 0,
	P2P_SESSION_HELLO_SENT,		/* client */
	P2P_SESSION_WELCOME_SENT,	/* server: waits for the client's proof */
	P2P_SESSION_OPEN,
	P2P_SESSION_FAILED
} P2pSessionState;

typedef struct P2pSession
{
	P2pSessionState state;
	bool		client;
	P2pId		group;
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];	/* ours */
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	uint8_t		peer_key[P2P_PUBLIC_KEY_SIZE];	/* client: expected; server: learned, proven once OPEN */
	P2pId		peer_id;		/* hash of peer_key */
	uint8_t		ephemeral_public[P2P_KX_KEY_SIZE];
	uint8_t		ephemeral_secret[P2P_KX_KEY_SIZE];
	uint8_t		receive_key[P2P_SESSION_KEY_SIZE];
	uint8_t		send_key[P2P_SESSION_KEY_SIZE];
	uint64_t	received;
	uint64_t	sent;
	uint8_t		transcript[P2P_HASH_SIZE];
	uint8_t		hello[P2P_HELLO_MAX_SIZE];	/* the HELLO sent, or taken */
	size_t		hello_length;
} P2pSession;

/*
 * Client: begin; write HELLO to w. peer_id: whom we expect (a member's id or an
 * invite's fingerprint). seed: fresh random bytes.
 */
void		p2p_session_connect(P2pSession *s, const P2pId *group, const P2pId *peer_id,
								const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
								const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
								const uint8_t seed[P2P_SEED_SIZE], P2pWriter *w);
/*
 * Client: take WELCOME; the session is then open for sealing. P2P_REFUSED if it
 * is an ERROR instead (p2p_session_refusal has its text); P2P_BAD_SIGNATURE if
 * somebody else answered than whom we expect.
 */
P2pStatus	p2p_session_welcome(P2pSession *s, const void *bytes, size_t length);

/*
 * Server: take HELLO, write WELCOME. The group must be ours. The caller decides
 * after the first frame whether peer_key may speak (member, or joiner).
 */
P2pStatus	p2p_session_accept(P2pSession *s, const P2pId *group,
							   const uint8_t public_key[P2P_PUBLIC_KEY_SIZE],
							   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
							   const uint8_t seed[P2P_SEED_SIZE],
							   const void *bytes, size_t length, P2pWriter *w);

/* Server: write an ERROR instead of a WELCOME; a text too long is cut. */
void		p2p_session_refuse(P2pWriter *w, const char *text);
/* Client: read the text of an ERROR; false if it isn't one. Anybody may have written it. */
bool		p2p_session_refusal(const void *bytes, size_t length,
								char text[P2P_REFUSAL_MAX_TEXT]);

/* How long plain bytes become as a frame (the client's first one included). */
size_t		p2p_session_frame_size(const P2pSession *s, size_t length);
/* Seal plain into a frame; capacity of out at least p2p_session_frame_size. */
P2pStatus	p2p_session_seal(P2pSession *s, const void *plain, size_t length,
							 uint8_t *out, size_t capacity, size_t *out_length);
/*
 * Open a frame into out (at least length bytes, apart from frame). On the server the first frame
 * also proves peer_key. Anything wrong: P2P_SESSION_FAILED for good, with its
 * secrets wiped and nothing of the frame in out.
 */
P2pStatus	p2p_session_unseal(P2pSession *s, const void *frame, size_t length,
							   uint8_t *out, size_t *out_length);
/* Wipe all secrets. */
void		p2p_session_end(P2pSession *s);

#endif							/* P2P_SESSION_H */
