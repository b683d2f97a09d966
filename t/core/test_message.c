/*
 * test_message.c
 *	  Messages round-trip, fit the sizes that their header promises, hold their
 *	  limits, and are read whole; signed states are refused when anything in them
 *	  is changed; cut and flipped messages do no harm.
 */
#include "hostile.h"

#include "p2p_message.h"

#define MEMORY_SIZE (64 * 1024)

static const P2pId group = {{0x47}};
static uint8_t memory[MEMORY_SIZE];
static uint8_t public_key[P2P_PUBLIC_KEY_SIZE];
static uint8_t secret_key[P2P_SECRET_KEY_SIZE];

/* Start writing a message into memory. */
static P2pWriter
start(void)
{
	P2pWriter	w;

	p2p_writer_init(&w, memory, sizeof(memory));
	return w;
}

/* Start reading what w holds behind its kind, which must be this one. */
static P2pReader
behind_kind(const P2pWriter *w, P2pMessageKind kind)
{
	P2pReader	r;

	assert_false(w->overflow);
	p2p_reader_init(&r, w->data, w->length);
	assert_int_equal(p2p_get_u8(&r), kind);
	return r;
}

/* Fill v with n origins of seqs that are long as varints. */
static void
fill_vector(P2pVector *v, uint32_t n)
{
	p2p_vector_clear(v);
	for (uint32_t i = 0; i < n; i++)
		assert_true(p2p_vector_set(v, &(P2pOrigin) {{{(uint8_t) i}}, 1}, UINT64_MAX - i));
}

/* Describe a state of the owner of public_key. */
static void
describe_state(P2pNodeState *state, uint32_t n)
{
	memset(state, 0, sizeof(*state));
	p2p_id_of_key(public_key, &state->node.id);
	state->node.epoch = 2;
	state->counter = 1234567890123;
	state->phase = P2P_PHASE_ACTIVE;
	state->log_bytes = 99;
	fill_vector(&state->stored, n);
	fill_vector(&state->oldest, n / 2);
	fill_vector(&state->ack, n);
}

static void
test_message_state_round_trips_and_verifies(void **unused)
{
	static P2pNodeState state;
	static P2pNodeState found;

	(void) unused;
	describe_state(&state, P2P_MAX_MEMBERS);
	fill_vector(&state.oldest, P2P_MAX_MEMBERS);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, P2P_STATE_MAX_SIZE),
					 P2P_OK);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, state.length - 1),
					 P2P_NO_SPACE);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, 10), P2P_NO_SPACE);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, state.length), P2P_OK);

	assert_int_equal(p2p_state_parse(state.bytes, state.length, &found), P2P_OK);
	assert_int_equal(p2p_state_verify(&found, &group, public_key), P2P_OK);
	assert_true(p2p_origin_equal(&found.node, &state.node));
	assert_true(found.counter == state.counter);
	assert_int_equal(found.phase, P2P_PHASE_ACTIVE);
	assert_true(found.log_bytes == 99);
	assert_true(p2p_vector_equal(&found.stored, &state.stored));
	assert_true(p2p_vector_equal(&found.oldest, &state.oldest));
	assert_true(p2p_vector_equal(&found.ack, &state.ack));
	assert_ptr_equal(found.bytes, memory);
	assert_int_equal(found.length, state.length);
}

static void
test_message_state_every_change_is_refused(void **unused)
{
	static P2pNodeState state;
	static P2pNodeState found;

	(void) unused;
	describe_state(&state, 2);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, sizeof(memory)), P2P_OK);
	for (size_t at = 0; at < state.length; at++)
	{
		uint8_t    *copy = exact_copy(memory, state.length);
		P2pStatus	status;

		copy[at] ^= 0x03;
		status = p2p_state_parse(copy, state.length, &found);
		if (status == P2P_OK)
			status = p2p_state_verify(&found, &group, public_key);
		assert_int_not_equal(status, P2P_OK);
		free(copy);
	}
	for (size_t n = 0; n < state.length; n++)
	{
		uint8_t    *copy = exact_copy(memory, n);

		assert_int_equal(p2p_state_parse(copy, n, &found), P2P_CORRUPT);
		free(copy);
	}
	assert_int_equal(p2p_state_parse(memory, state.length + 1, &found), P2P_CORRUPT);
	assert_int_equal(p2p_state_parse(memory, P2P_STATE_MAX_SIZE + 1, &found), P2P_TOO_LARGE);
}

static void
test_message_state_of_another_group_or_key_is_refused(void **unused)
{
	static P2pNodeState state;
	static P2pNodeState found;
	P2pId		other_group = {{0x48}};
	uint8_t		seed[P2P_SEED_SIZE] = {99};
	uint8_t		other_public[P2P_PUBLIC_KEY_SIZE];
	uint8_t		other_secret[P2P_SECRET_KEY_SIZE];

	(void) unused;
	p2p_keypair_from_seed(seed, other_public, other_secret);
	describe_state(&state, 2);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, sizeof(memory)), P2P_OK);
	assert_int_equal(p2p_state_parse(state.bytes, state.length, &found), P2P_OK);
	assert_int_equal(p2p_state_verify(&found, &other_group, public_key), P2P_FOREIGN_GROUP);
	assert_int_equal(p2p_state_verify(&found, &group, other_public), P2P_BAD_SIGNATURE);

	/* another member speaks in this one's name */
	assert_int_equal(p2p_state_seal(&state, &group, other_secret, memory, sizeof(memory)),
					 P2P_OK);
	assert_int_equal(p2p_state_parse(state.bytes, state.length, &found), P2P_OK);
	assert_int_equal(p2p_state_verify(&found, &group, public_key), P2P_BAD_SIGNATURE);
	assert_int_equal(p2p_state_verify(&found, &group, other_public), P2P_BAD_SIGNATURE);
}

static void
test_message_state_of_an_unknown_version_or_phase_is_told_apart(void **unused)
{
	static P2pNodeState state;
	static P2pNodeState found;

	(void) unused;
	describe_state(&state, 1);
	state.phase = (P2pNodePhase) (P2P_PHASE_LEAVING + 1);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, sizeof(memory)), P2P_OK);
	assert_int_equal(p2p_state_parse(state.bytes, state.length, &found), P2P_BAD_VERSION);
	state.phase = P2P_PHASE_LEAVING;
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, memory, sizeof(memory)), P2P_OK);
	memory[0]++;
	assert_int_equal(p2p_state_parse(state.bytes, state.length, &found), P2P_BAD_VERSION);
}

/* Write a gossip of n digest entries and n states of size bytes. */
static P2pWriter
write_gossip(P2pGossip *gossip, uint32_t n, size_t size)
{
	static const uint8_t state[P2P_STATE_MAX_SIZE] = {1, 2, 3};
	P2pWriter	w = start();

	memset(gossip, 0, sizeof(*gossip));
	gossip->clock = -77;
	gossip->ndigest = n;
	gossip->nstates = n;
	for (uint32_t i = 0; i < n && i < P2P_MAX_MEMBERS; i++)
	{
		gossip->digest[i] = (P2pDigestEntry) {{{{(uint8_t) i}}, i}, UINT64_MAX - i};
		gossip->states[i] = (P2pBlock) {state, size};
	}
	p2p_put_gossip(&w, P2P_MSG_GOSSIP_REPLY, gossip);
	return w;
}

static void
test_message_gossip_round_trips_within_its_size(void **unused)
{
	static P2pGossip gossip;
	static P2pGossip found;
	static const uint32_t counts[] = {0, 1, 3, P2P_MAX_MEMBERS};

	(void) unused;
	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
	{
		uint32_t	n = counts[c];
		P2pWriter	w = write_gossip(&gossip, n, 300);
		P2pReader	r = behind_kind(&w, P2P_MSG_GOSSIP_REPLY);

		assert_true(w.length <= p2p_gossip_size(&gossip));
		assert_int_equal(p2p_get_gossip(&r, &found), P2P_OK);
		assert_true(found.clock == -77);
		assert_int_equal(found.ndigest, n);
		assert_int_equal(found.nstates, n);
		for (uint32_t i = 0; i < n; i++)
		{
			assert_true(p2p_origin_equal(&found.digest[i].node, &gossip.digest[i].node));
			assert_true(found.digest[i].counter == gossip.digest[i].counter);
			assert_int_equal(found.states[i].length, 300);
			assert_memory_equal(found.states[i].bytes, gossip.states[i].bytes, 300);
		}
	}
}

static void
test_message_gossip_holds_its_limits(void **unused)
{
	static P2pGossip gossip;
	P2pWriter	w = write_gossip(&gossip, P2P_MAX_MEMBERS + 1, 1);
	P2pReader	r;

	(void) unused;
	assert_true(w.overflow);

	w = start();
	p2p_put_i64(&w, 0);
	p2p_put_varint(&w, P2P_MAX_MEMBERS + 1);
	p2p_reader_init(&r, memory, w.length);
	assert_int_equal(p2p_get_gossip(&r, &gossip), P2P_TOO_LARGE);

	w = start();
	p2p_put_i64(&w, 0);
	p2p_put_varint(&w, 0);
	p2p_put_varint(&w, UINT64_MAX);
	p2p_reader_init(&r, memory, w.length);
	assert_int_equal(p2p_get_gossip(&r, &gossip), P2P_TOO_LARGE);

	/* a state larger than any */
	w = start();
	p2p_put_i64(&w, 0);
	p2p_put_varint(&w, 0);
	p2p_put_varint(&w, 1);
	p2p_put_varint(&w, P2P_STATE_MAX_SIZE + 1);
	p2p_reader_init(&r, memory, sizeof(memory));
	assert_int_equal(p2p_get_gossip(&r, &gossip), P2P_CORRUPT);
}

/* Write a pull of n wants. */
static P2pWriter
write_pull(P2pPull *pull, uint32_t n)
{
	P2pWriter	w = start();

	memset(pull, 0, sizeof(*pull));
	pull->wait_ms = 30000;
	pull->max_bytes = UINT32_MAX;
	pull->max_replies = 64;
	pull->nwants = n;
	for (uint32_t i = 0; i < n && i < P2P_MAX_MEMBERS; i++)
		pull->wants[i] = (P2pPullWant) {{{{(uint8_t) i}}, 1}, UINT64_MAX, i, i % 2 == 0};
	p2p_put_pull(&w, pull);
	return w;
}

static void
test_message_pull_round_trips_within_its_size(void **unused)
{
	static P2pPull pull;
	static P2pPull found;
	P2pWriter	w = write_pull(&pull, P2P_MAX_MEMBERS);
	P2pReader	r = behind_kind(&w, P2P_MSG_PULL);

	(void) unused;
	assert_true(w.length <= P2P_PULL_MAX_SIZE);
	assert_int_equal(p2p_get_pull(&r, &found), P2P_OK);
	assert_int_equal(found.wait_ms, 30000);
	assert_int_equal(found.max_bytes, UINT32_MAX);
	assert_int_equal(found.max_replies, 64);
	assert_int_equal(found.nwants, P2P_MAX_MEMBERS);
	for (uint32_t i = 0; i < P2P_MAX_MEMBERS; i++)
	{
		assert_true(p2p_origin_equal(&found.wants[i].origin, &pull.wants[i].origin));
		assert_true(found.wants[i].after_seq == UINT64_MAX);
		assert_int_equal(found.wants[i].parts, i);
		assert_int_equal(found.wants[i].from_start, i % 2 == 0);
	}
}

static void
test_message_pull_holds_its_limits(void **unused)
{
	static P2pPull pull;
	P2pWriter	w = write_pull(&pull, P2P_MAX_MEMBERS + 1);
	P2pReader	r;

	(void) unused;
	assert_true(w.overflow);
	w = start();
	p2p_put_u32(&w, 0);
	p2p_put_u32(&w, 0);
	p2p_put_u32(&w, 0);
	p2p_put_varint(&w, P2P_MAX_MEMBERS + 1);
	p2p_reader_init(&r, memory, w.length);
	assert_int_equal(p2p_get_pull(&r, &pull), P2P_TOO_LARGE);

	/* a truth value of 2 */
	w = write_pull(&pull, 1);
	memory[w.length - 1] = 2;
	r = behind_kind(&w, P2P_MSG_PULL);
	assert_int_equal(p2p_get_pull(&r, &pull), P2P_CORRUPT);
}

static void
test_message_pull_reply_yields_its_batches(void **unused)
{
	P2pWriter	w = start();
	P2pReader	r;
	P2pBlock	batch;

	(void) unused;
	p2p_put_pull_reply_start(&w);
	r = behind_kind(&w, P2P_MSG_PULL_REPLY);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_END);

	p2p_put_block(&w, "first", 5);
	p2p_put_block(&w, "2", 1);
	r = behind_kind(&w, P2P_MSG_PULL_REPLY);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_OK);
	assert_int_equal(batch.length, 5);
	assert_memory_equal(batch.bytes, "first", 5);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_OK);
	assert_int_equal(batch.length, 1);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_END);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_END);

	/* cut inside the last batch: bad, and not an end, however often asked */
	w.length--;
	r = behind_kind(&w, P2P_MSG_PULL_REPLY);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_OK);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_CORRUPT);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_CORRUPT);

	/* an empty batch would be an endless loop's friend */
	w = start();
	p2p_put_pull_reply_start(&w);
	p2p_put_block(&w, "", 0);
	r = behind_kind(&w, P2P_MSG_PULL_REPLY);
	assert_int_equal(p2p_pull_reply_next(&r, &batch), P2P_CORRUPT);
}

/* Write a join with the longest texts. */
static P2pWriter
write_join(P2pJoin *join)
{
	P2pWriter	w = start();

	memset(join, 0, sizeof(*join));
	memset(join->secret, 0x5e, sizeof(join->secret));
	memset(join->name, 'n', sizeof(join->name) - 1);
	memset(join->dsn, 'd', sizeof(join->dsn) - 1);
	memset(join->encoding, 'e', sizeof(join->encoding) - 1);
	join->server_version = 150020;
	p2p_put_join(&w, P2P_MSG_JOIN, join);
	return w;
}

static void
test_message_join_round_trips_within_its_size(void **unused)
{
	P2pJoin		join;
	P2pJoin		found;
	P2pWriter	w = write_join(&join);
	P2pReader	r = behind_kind(&w, P2P_MSG_JOIN);

	(void) unused;
	assert_true(w.length <= P2P_JOIN_MAX_SIZE);
	assert_int_equal(p2p_get_join(&r, &found), P2P_OK);
	assert_memory_equal(found.secret, join.secret, sizeof(join.secret));
	assert_string_equal(found.name, join.name);
	assert_string_equal(found.dsn, join.dsn);
	assert_string_equal(found.encoding, join.encoding);
	assert_int_equal(found.server_version, 150020);

	join.name[63] = 'n';
	w = start();
	p2p_put_join(&w, P2P_MSG_JOIN_CHECK, &join);
	assert_true(w.overflow);
}

static void
test_message_join_reply_round_trips(void **unused)
{
	P2pJoinReply reply = {"my group", {{{9}}, 4}, "grün", 17};
	P2pJoinReply found;
	P2pWriter	w = start();
	P2pReader	r;

	(void) unused;
	p2p_put_join_reply(&w, &reply);
	r = behind_kind(&w, P2P_MSG_JOIN_REPLY);
	assert_int_equal(p2p_get_join_reply(&r, &found), P2P_OK);
	assert_string_equal(found.group_name, "my group");
	assert_string_equal(found.sponsor_name, "grün");
	assert_true(p2p_origin_equal(&found.sponsor, &reply.sponsor));
	assert_true(found.admission_seq == 17);
}

static void
test_message_error_round_trips_and_is_cut_between_characters(void **unused)
{
	P2pWriter	w = start();
	P2pReader	r;
	P2pErrorCode code;
	char		text[P2P_TEXT_SIZE];
	char		long_text[2 * P2P_TEXT_SIZE + 1];

	(void) unused;
	p2p_put_error(&w, P2P_ERROR_GONE, "trimmed");
	r = behind_kind(&w, P2P_MSG_ERROR);
	assert_int_equal(p2p_get_error(&r, &code, text), P2P_OK);
	assert_int_equal(code, P2P_ERROR_GONE);
	assert_string_equal(text, "trimmed");

	/* "ü" has two bytes; the limit falls between them */
	for (size_t i = 0; i < P2P_TEXT_SIZE; i++)
		memcpy(long_text + 2 * i, "ü", 2);
	long_text[2 * P2P_TEXT_SIZE] = '\0';
	w = start();
	p2p_put_error(&w, P2P_ERROR_NOT_READY, long_text);
	r = behind_kind(&w, P2P_MSG_ERROR);
	assert_int_equal(p2p_get_error(&r, &code, text), P2P_OK);
	assert_int_equal(strlen(text), P2P_TEXT_SIZE - 2);

	/* a code of a newer peer */
	w = start();
	p2p_put_error(&w, (P2pErrorCode) 999, "new");
	r = behind_kind(&w, P2P_MSG_ERROR);
	assert_int_equal(p2p_get_error(&r, &code, text), P2P_OK);
	assert_int_equal(code, P2P_ERROR_INTERNAL);
}

/* Read hostile bytes as the kind of message that *context says; cut ones must be refused. */
static void
read_message(const uint8_t *bytes, size_t length, void *context)
{
	static P2pGossip gossip;
	static P2pPull pull;
	static P2pNodeState state;
	P2pMessageKind kind = *(const P2pMessageKind *) context;
	P2pJoin		join;
	P2pJoinReply reply;
	P2pErrorCode code;
	P2pBlock	batch;
	char		text[P2P_TEXT_SIZE];
	P2pReader	r;

	p2p_reader_init(&r, bytes, length);
	(void) p2p_get_u8(&r);
	switch (kind)
	{
		case P2P_MSG_GOSSIP:
		case P2P_MSG_GOSSIP_REPLY:
			if (p2p_get_gossip(&r, &gossip) == P2P_OK)
				for (uint32_t i = 0; i < gossip.nstates; i++)
					(void) p2p_state_parse(gossip.states[i].bytes, gossip.states[i].length,
										   &state);
			break;
		case P2P_MSG_PULL:
			(void) p2p_get_pull(&r, &pull);
			break;
		case P2P_MSG_PULL_REPLY:
			while (p2p_pull_reply_next(&r, &batch) == P2P_OK)
				assert_true(batch.length > 0 && batch.length < length);
			break;
		case P2P_MSG_JOIN_CHECK:
		case P2P_MSG_JOIN:
			if (p2p_get_join(&r, &join) == P2P_OK)
				assert_true(strlen(join.name) < sizeof(join.name) &&
							strlen(join.dsn) < sizeof(join.dsn));
			break;
		case P2P_MSG_JOIN_REPLY:
			(void) p2p_get_join_reply(&r, &reply);
			break;
		case P2P_MSG_ERROR:
			if (p2p_get_error(&r, &code, text) == P2P_OK)
				assert_true(strlen(text) < sizeof(text));
			break;
	}
}

/* Throw cut and changed copies of what w holds at its reader. */
static void
attack(const P2pWriter *w, P2pMessageKind kind)
{
	static uint8_t original[MEMORY_SIZE];

	assert_false(w->overflow);
	memcpy(original, w->data, w->length);
	hostile_truncate(original, w->length, read_message, &kind);
	hostile_flip(original, w->length, 3000, read_message, &kind);
}

static void
test_message_hostile_bytes_do_no_harm(void **unused)
{
	static P2pGossip gossip;
	static P2pNodeState state;
	static uint8_t state_bytes[P2P_STATE_MAX_SIZE];
	static P2pPull pull;
	P2pJoin		join;
	P2pJoinReply reply = {"group", {{{9}}, 4}, "name", 17};
	P2pWriter	w;

	(void) unused;
	describe_state(&state, 3);
	assert_int_equal(p2p_state_seal(&state, &group, secret_key, state_bytes,
									sizeof(state_bytes)), P2P_OK);
	memset(&gossip, 0, sizeof(gossip));
	gossip.ndigest = 2;
	gossip.nstates = 2;
	gossip.states[0] = gossip.states[1] = (P2pBlock) {state_bytes, state.length};
	w = start();
	p2p_put_gossip(&w, P2P_MSG_GOSSIP, &gossip);
	attack(&w, P2P_MSG_GOSSIP);

	w = write_pull(&pull, 4);
	attack(&w, P2P_MSG_PULL);

	w = start();
	p2p_put_pull_reply_start(&w);
	p2p_put_block(&w, state_bytes, 200);
	p2p_put_block(&w, state_bytes, 20);
	attack(&w, P2P_MSG_PULL_REPLY);

	w = write_join(&join);
	attack(&w, P2P_MSG_JOIN);
	w = start();
	p2p_put_join_reply(&w, &reply);
	attack(&w, P2P_MSG_JOIN_REPLY);
	w = start();
	p2p_put_error(&w, P2P_ERROR_GONE, "trimmed");
	attack(&w, P2P_MSG_ERROR);
}

static void
test_message_every_truncation_and_any_addition_is_refused(void **unused)
{
	static P2pGossip gossip;
	static P2pGossip found_gossip;
	static P2pPull pull;
	static P2pPull found_pull;
	P2pJoin		join;
	P2pReader	r;
	P2pWriter	w = write_gossip(&gossip, 2, 50);

	(void) unused;
	for (size_t n = 1; n <= w.length + 1; n++)
	{
		p2p_reader_init(&r, memory + 1, n - 1);
		assert_int_equal(p2p_get_gossip(&r, &found_gossip), n == w.length ? P2P_OK : P2P_CORRUPT);
	}
	w = write_pull(&pull, 2);
	for (size_t n = 1; n <= w.length + 1; n++)
	{
		p2p_reader_init(&r, memory + 1, n - 1);
		assert_int_equal(p2p_get_pull(&r, &found_pull), n == w.length ? P2P_OK : P2P_CORRUPT);
	}
	w = write_join(&join);
	for (size_t n = 1; n <= w.length + 1; n++)
	{
		p2p_reader_init(&r, memory + 1, n - 1);
		assert_int_equal(p2p_get_join(&r, &join), n == w.length ? P2P_OK : P2P_CORRUPT);
	}
}

static int
keys_setup(void **unused)
{
	uint8_t		seed[P2P_SEED_SIZE] = {5};

	(void) unused;
	if (!p2p_crypto_init())
		return -1;
	p2p_keypair_from_seed(seed, public_key, secret_key);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_state_round_trips_and_verifies),
		cmocka_unit_test(test_message_state_every_change_is_refused),
		cmocka_unit_test(test_message_state_of_another_group_or_key_is_refused),
		cmocka_unit_test(test_message_state_of_an_unknown_version_or_phase_is_told_apart),
		cmocka_unit_test(test_message_gossip_round_trips_within_its_size),
		cmocka_unit_test(test_message_gossip_holds_its_limits),
		cmocka_unit_test(test_message_pull_round_trips_within_its_size),
		cmocka_unit_test(test_message_pull_holds_its_limits),
		cmocka_unit_test(test_message_pull_reply_yields_its_batches),
		cmocka_unit_test(test_message_join_round_trips_within_its_size),
		cmocka_unit_test(test_message_join_reply_round_trips),
		cmocka_unit_test(test_message_error_round_trips_and_is_cut_between_characters),
		cmocka_unit_test(test_message_hostile_bytes_do_no_harm),
		cmocka_unit_test(test_message_every_truncation_and_any_addition_is_refused),
	};

	return cmocka_run_group_tests(tests, keys_setup, NULL);
}
