/*
 * p2p_message.c
 *	  Requests and replies, and the signed states of members.
 *
 *	  GOSSIP(_REPLY)  i64 clock, varint n, n * { origin, u64 counter },
 *	                  varint m, m * block (a signed state)
 *	  PULL            u32 wait_ms, u32 max_bytes, varint n,
 *	                  n * { origin, u64 after_seq, u32 parts, u8 from_start }
 *	  PULL_REPLY      block (a batch) to the end
 *	  JOIN(_CHECK)    32 secret, text name, text dsn, u32 server_version, text encoding
 *	  JOIN_REPLY      text group_name, sponsor (origin), text sponsor_name, u64 admission_seq
 *	  ERROR           u16 code, text
 *
 * after the kind byte, integers as in p2p_buf.h. A message is read whole: what
 * is left over at its end is P2P_CORRUPT, as is a message that is too short
 * (the session has vouched for its length). A declared number beyond its
 * limit is P2P_TOO_LARGE. Nothing here says whether the sender may say it.
 */
#include "p2p_message.h"

#include <string.h>

#define STATE_TAG "replp2p state 1"
#define STATE_VERSION 1
#define STATE_GROUP_AT 1

/* Return how a reader ended that has read a whole message. */
static P2pStatus
finish(const P2pReader *r)
{
	return (r->bad || p2p_reader_left(r) > 0) ? P2P_CORRUPT : P2P_OK;
}

/* Read a truth value; anything but 0 and 1 is bad. */
static bool
get_bool(P2pReader *r)
{
	uint8_t		value = p2p_get_u8(r);

	if (value > 1)
		p2p_reader_fail(r);
	return value == 1;
}

/* Read a number of things that must not be more than max. */
static P2pStatus
get_count(P2pReader *r, uint32_t max, uint32_t *count)
{
	uint64_t	declared = p2p_get_varint(r);

	*count = 0;
	if (r->bad)
		return P2P_CORRUPT;
	if (declared > max)
		return P2P_TOO_LARGE;
	*count = (uint32_t) declared;
	return P2P_OK;
}

/* Is it a phase that we know? */
static bool
phase_known(uint8_t phase)
{
	return phase >= P2P_PHASE_JOINING && phase <= P2P_PHASE_LEAVING;
}

/* Encode and sign a state into memory. */
P2pStatus
p2p_state_seal(P2pNodeState *state, const P2pId *group,
			   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
			   uint8_t *memory, size_t capacity)
{
	P2pWriter	w;

	p2p_writer_init(&w, memory, capacity);
	p2p_put_u8(&w, STATE_VERSION);
	p2p_put_id(&w, group);
	p2p_put_origin(&w, &state->node);
	p2p_put_u64(&w, state->counter);
	p2p_put_u8(&w, (uint8_t) state->phase);
	p2p_put_u64(&w, state->log_bytes);
	p2p_put_vector(&w, &state->stored);
	p2p_put_vector(&w, &state->oldest);
	p2p_put_vector(&w, &state->ack);
	if (w.overflow || capacity - w.length < P2P_SIGNATURE_SIZE)
		return P2P_NO_SPACE;
	p2p_sign(STATE_TAG, memory, w.length, secret_key, memory + w.length);
	state->bytes = memory;
	state->length = w.length + P2P_SIGNATURE_SIZE;
	return P2P_OK;
}

/* Read a state, trusting nothing in it yet; state->bytes points into bytes. */
P2pStatus
p2p_state_parse(const void *bytes, size_t length, P2pNodeState *state)
{
	P2pReader	r;
	uint8_t		version;
	uint8_t		phase;

	if (length > P2P_STATE_MAX_SIZE)
		return P2P_TOO_LARGE;
	p2p_reader_init(&r, bytes, length);
	version = p2p_get_u8(&r);
	if (!r.bad && version != STATE_VERSION)
		return P2P_BAD_VERSION;
	(void) p2p_get_bytes(&r, P2P_ID_SIZE);
	p2p_get_origin(&r, &state->node);
	state->counter = p2p_get_u64(&r);
	phase = p2p_get_u8(&r);
	state->log_bytes = p2p_get_u64(&r);
	p2p_get_vector(&r, &state->stored);
	p2p_get_vector(&r, &state->oldest);
	p2p_get_vector(&r, &state->ack);
	(void) p2p_get_bytes(&r, P2P_SIGNATURE_SIZE);
	if (finish(&r) != P2P_OK)
		return P2P_CORRUPT;
	if (!phase_known(phase))
		return P2P_BAD_VERSION;
	state->phase = (P2pNodePhase) phase;
	state->bytes = bytes;
	state->length = length;
	return P2P_OK;
}

/* Is a parsed state of this group and signed by this key, and is the key its node's? */
P2pStatus
p2p_state_verify(const P2pNodeState *state, const P2pId *group,
				 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE])
{
	size_t		signed_length = state->length - P2P_SIGNATURE_SIZE;
	P2pId		owner;

	if (memcmp(state->bytes + STATE_GROUP_AT, group->bytes, P2P_ID_SIZE) != 0)
		return P2P_FOREIGN_GROUP;
	p2p_id_of_key(public_key, &owner);
	if (p2p_id_compare(&state->node.id, &owner) != 0)
		return P2P_BAD_SIGNATURE;
	if (!p2p_verify(STATE_TAG, state->bytes, signed_length, public_key,
					state->bytes + signed_length))
		return P2P_BAD_SIGNATURE;
	return P2P_OK;
}

/* Write GOSSIP or GOSSIP_REPLY. */
void
p2p_put_gossip(P2pWriter *w, P2pMessageKind kind, const P2pGossip *gossip)
{
	if (gossip->ndigest > P2P_MAX_MEMBERS || gossip->nstates > P2P_MAX_MEMBERS)
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, (uint8_t) kind);
	p2p_put_i64(w, gossip->clock);
	p2p_put_varint(w, gossip->ndigest);
	for (uint32_t i = 0; i < gossip->ndigest; i++)
	{
		p2p_put_origin(w, &gossip->digest[i].node);
		p2p_put_u64(w, gossip->digest[i].counter);
	}
	p2p_put_varint(w, gossip->nstates);
	for (uint32_t i = 0; i < gossip->nstates; i++)
		p2p_put_block(w, gossip->states[i].bytes, gossip->states[i].length);
}

/* Read GOSSIP or GOSSIP_REPLY; the states point into the message and are not verified. */
P2pStatus
p2p_get_gossip(P2pReader *r, P2pGossip *gossip)
{
	P2pStatus	status;

	gossip->nstates = 0;
	gossip->clock = p2p_get_i64(r);
	status = get_count(r, P2P_MAX_MEMBERS, &gossip->ndigest);
	if (status != P2P_OK)
		return status;
	for (uint32_t i = 0; i < gossip->ndigest; i++)
	{
		p2p_get_origin(r, &gossip->digest[i].node);
		gossip->digest[i].counter = p2p_get_u64(r);
	}
	status = get_count(r, P2P_MAX_MEMBERS, &gossip->nstates);
	if (status != P2P_OK)
		return status;
	for (uint32_t i = 0; i < gossip->nstates; i++)
	{
		P2pBlock   *state = &gossip->states[i];

		state->bytes = p2p_get_block(r, P2P_STATE_MAX_SIZE, &state->length);
	}
	return finish(r);
}

/* Return how many bytes p2p_put_gossip writes at most. */
size_t
p2p_gossip_size(const P2pGossip *gossip)
{
	size_t		size = 1 + 8 + 10 + 10;

	size += (size_t) gossip->ndigest * (P2P_ID_SIZE + 4 + 8);
	for (uint32_t i = 0; i < gossip->nstates; i++)
		size += 10 + gossip->states[i].length;
	return size;
}

/* Write PULL. */
void
p2p_put_pull(P2pWriter *w, const P2pPull *pull)
{
	if (pull->nwants > P2P_MAX_MEMBERS)
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, P2P_MSG_PULL);
	p2p_put_u32(w, pull->wait_ms);
	p2p_put_u32(w, pull->max_bytes);
	p2p_put_u32(w, pull->max_replies);
	p2p_put_varint(w, pull->nwants);
	for (uint32_t i = 0; i < pull->nwants; i++)
	{
		const P2pPullWant *want = &pull->wants[i];

		p2p_put_origin(w, &want->origin);
		p2p_put_u64(w, want->after_seq);
		p2p_put_u32(w, want->parts);
		p2p_put_u8(w, want->from_start);
	}
}

/* Read PULL. */
P2pStatus
p2p_get_pull(P2pReader *r, P2pPull *pull)
{
	P2pStatus	status;

	pull->wait_ms = p2p_get_u32(r);
	pull->max_bytes = p2p_get_u32(r);
	pull->max_replies = p2p_get_u32(r);
	status = get_count(r, P2P_MAX_MEMBERS, &pull->nwants);
	if (status != P2P_OK)
		return status;
	for (uint32_t i = 0; i < pull->nwants; i++)
	{
		P2pPullWant *want = &pull->wants[i];

		p2p_get_origin(r, &want->origin);
		want->after_seq = p2p_get_u64(r);
		want->parts = p2p_get_u32(r);
		want->from_start = get_bool(r);
	}
	return finish(r);
}

/* Write the start of PULL_REPLY; p2p_put_block adds each batch. */
void
p2p_put_pull_reply_start(P2pWriter *w)
{
	p2p_put_u8(w, P2P_MSG_PULL_REPLY);
}

/* Read the next batch of PULL_REPLY; it points into the message. */
P2pStatus
p2p_pull_reply_next(P2pReader *r, P2pBlock *batch)
{
	batch->bytes = NULL;
	batch->length = 0;
	if (r->bad)
		return P2P_CORRUPT;
	if (p2p_reader_left(r) == 0)
		return P2P_END;
	batch->bytes = p2p_get_block(r, (size_t) P2P_BATCH_MAX_HEADER + P2P_BATCH_MAX_BODY,
								 &batch->length);
	if (!r->bad && batch->length == 0)
		p2p_reader_fail(r);
	return r->bad ? P2P_CORRUPT : P2P_OK;
}

/* Write JOIN_CHECK or JOIN. */
void
p2p_put_join(P2pWriter *w, P2pMessageKind kind, const P2pJoin *join)
{
	p2p_put_u8(w, (uint8_t) kind);
	p2p_put_bytes(w, join->secret, P2P_SECRET_SIZE);
	p2p_put_text_field(w, join->name, sizeof(join->name));
	p2p_put_text_field(w, join->dsn, sizeof(join->dsn));
	p2p_put_u32(w, join->server_version);
	p2p_put_text_field(w, join->encoding, sizeof(join->encoding));
}

/* Read JOIN_CHECK or JOIN. */
P2pStatus
p2p_get_join(P2pReader *r, P2pJoin *join)
{
	p2p_get_raw(r, join->secret, P2P_SECRET_SIZE);
	p2p_get_text(r, join->name, sizeof(join->name));
	p2p_get_text(r, join->dsn, sizeof(join->dsn));
	join->server_version = p2p_get_u32(r);
	p2p_get_text(r, join->encoding, sizeof(join->encoding));
	return finish(r);
}

/* Write JOIN_REPLY. */
void
p2p_put_join_reply(P2pWriter *w, const P2pJoinReply *reply)
{
	p2p_put_u8(w, P2P_MSG_JOIN_REPLY);
	p2p_put_text_field(w, reply->group_name, sizeof(reply->group_name));
	p2p_put_origin(w, &reply->sponsor);
	p2p_put_text_field(w, reply->sponsor_name, sizeof(reply->sponsor_name));
	p2p_put_u64(w, reply->admission_seq);
}

/* Read JOIN_REPLY. */
P2pStatus
p2p_get_join_reply(P2pReader *r, P2pJoinReply *reply)
{
	p2p_get_text(r, reply->group_name, sizeof(reply->group_name));
	p2p_get_origin(r, &reply->sponsor);
	p2p_get_text(r, reply->sponsor_name, sizeof(reply->sponsor_name));
	reply->admission_seq = p2p_get_u64(r);
	return finish(r);
}

/* Write ERROR; a text too long is cut, and never inside a character of UTF-8. */
void
p2p_put_error(P2pWriter *w, P2pErrorCode code, const char *text)
{
	size_t		length = strlen(text);

	if (length > P2P_TEXT_SIZE - 1)
	{
		length = P2P_TEXT_SIZE - 1;
		while (length > 0 && ((uint8_t) text[length] & 0xc0) == 0x80)
			length--;
	}
	p2p_put_u8(w, P2P_MSG_ERROR);
	p2p_put_u16(w, (uint16_t) code);
	p2p_put_block(w, text, length);
}

/* Read ERROR; a code that we don't know becomes P2P_ERROR_INTERNAL. */
P2pStatus
p2p_get_error(P2pReader *r, P2pErrorCode *code, char text[P2P_TEXT_SIZE])
{
	uint16_t	number = p2p_get_u16(r);

	*code = P2P_ERROR_INTERNAL;
	if (number >= P2P_ERROR_UNKNOWN_NODE && number <= P2P_ERROR_EVICTED)
		*code = (P2pErrorCode) number;
	p2p_get_text(r, text, P2P_TEXT_SIZE);
	return finish(r);
}
