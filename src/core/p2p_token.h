/*
 * p2p_token.h
 *	  Two things that users carry about as text: invites and consistency tokens.
 *
 * Invite: "replp2p1:" and URL-safe base64 (no padding) of {group id, sponsor's
 * node id, 32 bytes secret, text dsn, 4 bytes of BLAKE2b over the rest}.
 * Token: "t1:" and URL-safe base64 of {group id, vector, 4 bytes of BLAKE2b}.
 */
#ifndef P2P_TOKEN_H
#define P2P_TOKEN_H

#include "p2p_message.h"

typedef struct P2pInvite
{
	P2pId		group;
	P2pId		sponsor;
	uint8_t		secret[P2P_SECRET_SIZE];
	char		dsn[P2P_DSN_SIZE];
} P2pInvite;

#define P2P_INVITE_TEXT_SIZE 2048
#define P2P_TOKEN_TEXT_SIZE (((P2P_VECTOR_MAX_SIZE + 64) * 4) / 3 + 16)

P2pStatus	p2p_invite_to_text(const P2pInvite *invite, char *text, size_t size);
P2pStatus	p2p_invite_from_text(const char *text, P2pInvite *invite);
P2pStatus	p2p_token_to_text(const P2pId *group, const P2pVector *vector, char *text, size_t size);
P2pStatus	p2p_token_from_text(const char *text, P2pId *group, P2pVector *vector);

#endif							/* P2P_TOKEN_H */
