/*
 * decode_spoken.c
 *	  Decoders of what peers send, before and inside of a session, and of what
 *	  users paste (invites, tokens).
 */
#include <string.h>

#include "p2p_message.h"
#include "p2p_session.h"
#include "p2p_token.h"

#include "decoders.h"

static const P2pId group = {{0x47}};
static const uint8_t seed[P2P_SEED_SIZE] = {7};
static uint8_t memory[4 * FUZZ_MAX_INPUT];

/* Start writing into memory. */
static P2pWriter
start(void)
{
	P2pWriter	w;

	p2p_writer_init(&w, memory, sizeof(memory));
	return w;
}

/* Read back what w holds, behind its kind byte. */
static P2pReader
behind_kind(const P2pWriter *w)
{
	P2pReader	r;

	FUZZ_REQUIRE(!w->overflow);
	p2p_reader_init(&r, w->data, w->length);
	(void) p2p_get_u8(&r);
	return r;
}

void
fuzz_hello(const uint8_t *bytes, size_t length)
{
	static P2pSession session;
	P2pWriter	w = start();

	if (p2p_session_accept(&session, &group, fuzz_public_key, fuzz_secret_key, seed,
						   bytes, length, &w) == P2P_OK)
		FUZZ_REQUIRE(!w.overflow && w.length <= P2P_WELCOME_MAX_SIZE &&
					 session.state == P2P_SESSION_WELCOME_SENT);
	p2p_session_end(&session);
}

/* Nobody but the peer may answer, and none of the inputs is by it in this very session. */
void
fuzz_welcome(const uint8_t *bytes, size_t length)
{
	static P2pSession session;
	char		text[P2P_REFUSAL_MAX_TEXT];
	P2pId		peer;
	P2pWriter	w = start();

	p2p_id_of_key(fuzz_peer_public_key, &peer);
	p2p_session_connect(&session, &group, &peer, fuzz_public_key, fuzz_secret_key, seed, &w);
	if (p2p_session_refusal(bytes, length, text))
		FUZZ_REQUIRE(memchr(text, '\0', sizeof(text)) != NULL);
	if (p2p_session_welcome(&session, bytes, length) == P2P_OK)
		FUZZ_REQUIRE(session.state == P2P_SESSION_OPEN);
	p2p_session_end(&session);
}

/* A server that has sent its WELCOME: whatever comes now is no frame of the client's. */
void
fuzz_frame(const uint8_t *bytes, size_t length)
{
	static P2pSession client;
	static P2pSession server;
	static P2pSession server_ready;
	static bool ready = false;
	static uint8_t plain[FUZZ_MAX_INPUT];
	size_t		plain_length;

	if (length > sizeof(plain))
		return;
	if (!ready)
	{
		uint8_t		hello[P2P_HELLO_MAX_SIZE];
		uint8_t		welcome[P2P_WELCOME_MAX_SIZE];
		P2pWriter	h;
		P2pWriter	w;
		P2pId		id;

		p2p_id_of_key(fuzz_public_key, &id);
		p2p_writer_init(&h, hello, sizeof(hello));
		p2p_session_connect(&client, &group, &id, fuzz_peer_public_key, fuzz_peer_secret_key, seed, &h);
		p2p_writer_init(&w, welcome, sizeof(welcome));
		FUZZ_REQUIRE(p2p_session_accept(&server_ready, &group, fuzz_public_key, fuzz_secret_key, seed,
										hello, h.length, &w) == P2P_OK);
		ready = true;
	}
	server = server_ready;
	if (p2p_session_unseal(&server, bytes, length, plain, &plain_length) == P2P_OK)
		FUZZ_REQUIRE(plain_length <= length && server.state == P2P_SESSION_OPEN);
	else
		FUZZ_REQUIRE(server.state == P2P_SESSION_FAILED);
}

void
fuzz_state(const uint8_t *bytes, size_t length)
{
	static P2pNodeState state;

	if (p2p_state_parse(bytes, length, &state) != P2P_OK)
		return;
	FUZZ_REQUIRE(state.bytes == bytes && state.length == length);
	if (p2p_state_verify(&state, &group, fuzz_peer_public_key) == P2P_OK)
	{
		static uint8_t again[P2P_STATE_MAX_SIZE];

		FUZZ_REQUIRE(p2p_state_seal(&state, &group, fuzz_peer_secret_key,
									again, sizeof(again)) == P2P_OK);
		FUZZ_REQUIRE(state.length == length && memcmp(again, bytes, length) == 0);
	}
}

void
fuzz_gossip(const uint8_t *bytes, size_t length)
{
	static P2pGossip gossip;
	static P2pGossip again;
	P2pReader	r;
	P2pWriter	w = start();

	p2p_reader_init(&r, bytes, length);
	if (p2p_get_gossip(&r, &gossip) != P2P_OK)
		return;
	p2p_put_gossip(&w, P2P_MSG_GOSSIP, &gossip);
	FUZZ_REQUIRE(w.length <= p2p_gossip_size(&gossip));
	r = behind_kind(&w);
	FUZZ_REQUIRE(p2p_get_gossip(&r, &again) == P2P_OK);
	FUZZ_REQUIRE(again.clock == gossip.clock && again.ndigest == gossip.ndigest &&
				 again.nstates == gossip.nstates);
	for (uint32_t i = 0; i < gossip.ndigest; i++)
		FUZZ_REQUIRE(again.digest[i].counter == gossip.digest[i].counter &&
					 p2p_origin_equal(&again.digest[i].node, &gossip.digest[i].node));
	for (uint32_t i = 0; i < gossip.nstates; i++)
		FUZZ_REQUIRE(again.states[i].length == gossip.states[i].length &&
					 memcmp(again.states[i].bytes, gossip.states[i].bytes, again.states[i].length) == 0);
}

void
fuzz_pull(const uint8_t *bytes, size_t length)
{
	static P2pPull pull;
	static P2pPull again;
	P2pReader	r;
	P2pWriter	w = start();

	p2p_reader_init(&r, bytes, length);
	if (p2p_get_pull(&r, &pull) != P2P_OK)
		return;
	p2p_put_pull(&w, &pull);
	FUZZ_REQUIRE(w.length <= P2P_PULL_MAX_SIZE);
	r = behind_kind(&w);
	FUZZ_REQUIRE(p2p_get_pull(&r, &again) == P2P_OK);
	FUZZ_REQUIRE(again.wait_ms == pull.wait_ms && again.max_bytes == pull.max_bytes &&
				 again.max_replies == pull.max_replies && again.nwants == pull.nwants);
	for (uint32_t i = 0; i < pull.nwants; i++)
		FUZZ_REQUIRE(p2p_origin_equal(&again.wants[i].origin, &pull.wants[i].origin) &&
					 again.wants[i].after_seq == pull.wants[i].after_seq &&
					 again.wants[i].parts == pull.wants[i].parts &&
					 again.wants[i].from_start == pull.wants[i].from_start);
}

void
fuzz_pull_reply(const uint8_t *bytes, size_t length)
{
	P2pReader	r;
	P2pBlock	batch;
	size_t		batches = 0;

	p2p_reader_init(&r, bytes, length);
	while (p2p_pull_reply_next(&r, &batch) == P2P_OK)
	{
		FUZZ_REQUIRE(++batches <= length);
		FUZZ_REQUIRE(batch.length == 0 ||
					 (batch.bytes >= bytes && batch.bytes + batch.length <= bytes + length));
	}
}

void
fuzz_join(const uint8_t *bytes, size_t length)
{
	static P2pJoin join;
	static P2pJoin again;
	P2pReader	r;
	P2pWriter	w = start();

	p2p_reader_init(&r, bytes, length);
	if (p2p_get_join(&r, &join) != P2P_OK)
		return;
	p2p_put_join(&w, P2P_MSG_JOIN, &join);
	FUZZ_REQUIRE(w.length <= P2P_JOIN_MAX_SIZE);
	r = behind_kind(&w);
	FUZZ_REQUIRE(p2p_get_join(&r, &again) == P2P_OK);
	FUZZ_REQUIRE(memcmp(again.secret, join.secret, sizeof(join.secret)) == 0 &&
				 strcmp(again.name, join.name) == 0 && strcmp(again.dsn, join.dsn) == 0 &&
				 again.server_version == join.server_version &&
				 strcmp(again.encoding, join.encoding) == 0);
}

void
fuzz_join_reply(const uint8_t *bytes, size_t length)
{
	static P2pJoinReply reply;
	static P2pJoinReply again;
	P2pReader	r;
	P2pWriter	w = start();

	p2p_reader_init(&r, bytes, length);
	if (p2p_get_join_reply(&r, &reply) != P2P_OK)
		return;
	p2p_put_join_reply(&w, &reply);
	r = behind_kind(&w);
	FUZZ_REQUIRE(p2p_get_join_reply(&r, &again) == P2P_OK);
	FUZZ_REQUIRE(strcmp(again.group_name, reply.group_name) == 0 &&
				 strcmp(again.sponsor_name, reply.sponsor_name) == 0 &&
				 p2p_origin_equal(&again.sponsor, &reply.sponsor) &&
				 again.admission_seq == reply.admission_seq);
}

void
fuzz_error(const uint8_t *bytes, size_t length)
{
	P2pErrorCode code;
	char		text[P2P_TEXT_SIZE];
	P2pReader	r;

	p2p_reader_init(&r, bytes, length);
	if (p2p_get_error(&r, &code, text) == P2P_OK)
		FUZZ_REQUIRE(memchr(text, '\0', sizeof(text)) != NULL);
}

/* An invite or a consistency token, as a user pastes it. */
void
fuzz_text(const uint8_t *bytes, size_t length)
{
	static char text[FUZZ_MAX_INPUT + 1];
	static char again[P2P_TOKEN_TEXT_SIZE];
	static P2pInvite invite;
	static P2pVector vector;
	P2pId		id;

	if (length > FUZZ_MAX_INPUT)
		return;
	memcpy(text, bytes, length);
	text[length] = '\0';
	if (p2p_invite_from_text(text, &invite) == P2P_OK)
		FUZZ_REQUIRE(p2p_invite_to_text(&invite, again, sizeof(again)) == P2P_OK &&
					 strcmp(again, text) == 0);
	if (p2p_token_from_text(text, &id, &vector) == P2P_OK)
		FUZZ_REQUIRE(p2p_token_to_text(&id, &vector, again, sizeof(again)) == P2P_OK &&
					 strcmp(again, text) == 0);
}
