/*
 * seeds.c
 *	  Write well-formed inputs for every decoder: where fuzzing begins.
 *
 *	  seeds FOLDER		FOLDER/<decoder>/seed-<n>; the folders are made
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <lz4.h>

#include "p2p_body.h"
#include "p2p_logrec.h"
#include "p2p_message.h"
#include "p2p_session.h"
#include "p2p_token.h"

#include "decoders.h"

static const P2pId group = {{0x47}};
static const uint8_t seed[P2P_SEED_SIZE] = {7};
static const char *folder;
static uint8_t memory[FUZZ_MAX_INPUT];

/* Write one input of a decoder. */
static void
put(const char *decoder, int number, const void *bytes, size_t length)
{
	char		path[4096];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", folder, decoder);
	(void) mkdir(path, 0777);
	snprintf(path, sizeof(path), "%s/%s/seed-%d", folder, decoder, number);
	file = fopen(path, "wb");
	FUZZ_REQUIRE(file != NULL);
	FUZZ_REQUIRE(fwrite(bytes, 1, length, file) == length);
	FUZZ_REQUIRE(fclose(file) == 0);
}

static P2pWriter
start(void)
{
	P2pWriter	w;

	p2p_writer_init(&w, memory, sizeof(memory));
	return w;
}

/* Write what w holds from `from` on: decoders of messages get no kind byte. */
static void
put_writer(const char *decoder, int number, const P2pWriter *w, size_t from)
{
	FUZZ_REQUIRE(!w->overflow);
	put(decoder, number, w->data + from, w->length - from);
}

static void
fill_vector(P2pVector *v, uint32_t n)
{
	p2p_vector_clear(v);
	for (uint32_t i = 0; i < n; i++)
		FUZZ_REQUIRE(p2p_vector_set(v, &(P2pOrigin) {{{(uint8_t) (i + 1)}}, 1}, 1000 * i + 1));
}

static void
seed_vectors(void)
{
	static P2pVector v;
	static P2pPosition position = {.lsn = 77, .seq = 5, .stamp = 123456, .floor = -1};

	for (int n = 0; n < 3; n++)
	{
		P2pWriter	w = start();

		fill_vector(&v, (uint32_t) n * n * 8);
		p2p_put_vector(&w, &v);
		put_writer("vector", n, &w, 0);
		w = start();
		position.vector = v;
		p2p_put_position(&w, &position);
		put_writer("position", n, &w, 0);
	}
}

/* One transaction of every kind of item; deps are n origins. */
static size_t
make_body(uint8_t *out, size_t capacity, const P2pVector *deps)
{
	static P2pVector later;
	P2pColumn	columns[2] = {{"id", "pg_catalog.int4", P2P_COLUMN_KEY}, {"t", "pg_catalog.text", 0}};
	P2pRelation relation = {0, "public", "t", 2, columns};
	P2pBegin	begin = {5, 1000, 999, 700};
	P2pValue	id = {P2P_VALUE_BINARY, (const uint8_t *) "\0\0\0\1", 4};
	P2pValue	text = {P2P_VALUE_TEXT, (const uint8_t *) "hello", 5};
	P2pValue	null = {P2P_VALUE_NULL, NULL, 0};
	P2pValue	absent = {P2P_VALUE_ABSENT, NULL, 0};
	P2pValue	unchanged = {P2P_VALUE_UNCHANGED, NULL, 0};
	uint32_t	relno = 0;
	P2pWriter	w;

	later = *deps;
	if (later.count > 0)
		later.entries[0].seq++;
	p2p_writer_init(&w, out, capacity);
	p2p_body_put_relation(&w, &relation);
	p2p_body_put_begin(&w, &begin, deps, deps);
	p2p_body_put_insert(&w, 0);
	p2p_body_put_value(&w, &id);
	p2p_body_put_value(&w, &text);
	p2p_body_put_update(&w, 0, true);
	p2p_body_put_value(&w, &id);
	p2p_body_put_value(&w, &absent);
	p2p_body_put_value(&w, &id);
	p2p_body_put_value(&w, &unchanged);
	p2p_body_put_commit(&w);
	begin.seq++;
	p2p_body_put_begin(&w, &begin, deps, &later);
	p2p_body_put_update(&w, 0, false);
	p2p_body_put_value(&w, &id);
	p2p_body_put_value(&w, &null);
	p2p_body_put_delete(&w, 0);
	p2p_body_put_value(&w, &id);
	p2p_body_put_value(&w, &absent);
	p2p_body_put_truncate(&w, P2P_TRUNCATE_CASCADE, &relno, 1);
	p2p_body_put_commit(&w);
	FUZZ_REQUIRE(!w.overflow);
	return w.length;
}

static void
seed_bodies(void)
{
	static uint8_t body[4096];
	static uint8_t whole[FUZZ_MAX_INPUT];
	static P2pVector deps;
	static P2pBatch batch;

	for (int n = 0; n < 2; n++)
	{
		P2pWriter	w = start();
		size_t		length;
		uint8_t		record[P2P_LOGREC_HEADER_SIZE];

		fill_vector(&deps, (uint32_t) n * 3);
		length = make_body(body, sizeof(body), &deps);
		p2p_put_vector(&w, &deps);
		p2p_put_bytes(&w, body, length);
		put_writer("body", n, &w, 0);

		memset(&batch, 0, sizeof(batch));
		batch.group = group;
		p2p_id_of_key(fuzz_peer_public_key, &batch.origin.id);
		batch.origin.epoch = 1;
		batch.span = (P2pSpan) {5, 6, 0, false, true};
		batch.last_stamp = 1000;
		batch.deps = deps;
		batch.raw_length = (uint32_t) length;
		FUZZ_REQUIRE(p2p_batch_seal(&batch, body, (uint32_t) length, fuzz_peer_secret_key,
									whole, P2P_BATCH_MAX_HEADER) == P2P_OK);
		memcpy(whole + batch.header_length, body, length);
		put("batch", n, whole, batch.header_length + length);

		w = start();
		p2p_put_pull_reply_start(&w);
		p2p_put_block(&w, whole, batch.header_length + length);
		p2p_put_block(&w, whole, 200);
		put_writer("pull_reply", n, &w, 1);

		w = start();
		p2p_logrec_header(P2P_LOG_BATCH, whole, (uint32_t) batch.header_length, body, (uint32_t) length, record);
		p2p_put_bytes(&w, record, sizeof(record));
		p2p_put_bytes(&w, whole, batch.header_length + length);
		put_writer("logrec", n, &w, 0);
	}
}

static void
seed_packed(void)
{
	static char plain[2000];
	uint32_t	raw = sizeof(plain);
	int			size;

	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (char) (i % 97 < 60 ? 'a' : i * 7);
	memcpy(memory, &raw, 4);
	size = LZ4_compress_default(plain, (char *) memory + 4, sizeof(plain), (int) sizeof(memory) - 4);
	FUZZ_REQUIRE(size > 0);
	put("unpack", 0, memory, (size_t) size + 4);
}

static void
seed_sessions(void)
{
	static P2pSession client;
	static P2pSession server;
	uint8_t		hello[P2P_HELLO_MAX_SIZE];
	uint8_t		welcome[P2P_WELCOME_MAX_SIZE];
	uint8_t		frame[512];
	size_t		length;
	P2pId		id;
	P2pWriter	h;
	P2pWriter	w;

	/* as decode_spoken.c has it: the peer calls us for hello and frame, we call the peer for welcome */
	p2p_id_of_key(fuzz_public_key, &id);
	p2p_writer_init(&h, hello, sizeof(hello));
	p2p_session_connect(&client, &group, &id, fuzz_peer_public_key, fuzz_peer_secret_key, seed, &h);
	put_writer("hello", 0, &h, 0);
	p2p_writer_init(&w, welcome, sizeof(welcome));
	FUZZ_REQUIRE(p2p_session_accept(&server, &group, fuzz_public_key, fuzz_secret_key, seed,
									hello, h.length, &w) == P2P_OK);
	FUZZ_REQUIRE(p2p_session_welcome(&client, welcome, w.length) == P2P_OK);
	FUZZ_REQUIRE(p2p_session_seal(&client, "plain", 5, frame, sizeof(frame), &length) == P2P_OK);
	put("frame", 0, frame, length);

	p2p_id_of_key(fuzz_peer_public_key, &id);
	p2p_writer_init(&h, hello, sizeof(hello));
	p2p_session_connect(&client, &group, &id, fuzz_public_key, fuzz_secret_key, seed, &h);
	p2p_writer_init(&w, welcome, sizeof(welcome));
	FUZZ_REQUIRE(p2p_session_accept(&server, &group, fuzz_peer_public_key, fuzz_peer_secret_key, seed,
									hello, h.length, &w) == P2P_OK);
	put_writer("welcome", 0, &w, 0);
	w = start();
	p2p_session_refuse(&w, "no such group here");
	put_writer("welcome", 1, &w, 0);
}

static void
seed_messages(void)
{
	static P2pNodeState state;
	static uint8_t signed_state[P2P_STATE_MAX_SIZE];
	static P2pGossip gossip;
	static P2pPull pull = {1000, 1 << 20, 64, 2, {{{{{1}}, 1}, 7, 0, false}, {{{{2}}, 1}, 0, 3, true}}};
	static P2pJoin join = {{1}, "b", "host=b dbname=app", 150018, "UTF8"};
	static P2pJoinReply reply = {"replp2p", {{{3}}, 1}, "a", 12};
	P2pWriter	w;

	p2p_id_of_key(fuzz_peer_public_key, &state.node.id);
	state.node.epoch = 1;
	state.counter = 99;
	state.phase = P2P_PHASE_ACTIVE;
	fill_vector(&state.stored, 3);
	fill_vector(&state.ack, 2);
	FUZZ_REQUIRE(p2p_state_seal(&state, &group, fuzz_peer_secret_key,
								signed_state, sizeof(signed_state)) == P2P_OK);
	put("state", 0, state.bytes, state.length);

	gossip.clock = 5;
	gossip.ndigest = 1;
	gossip.digest[0] = (P2pDigestEntry) {state.node, 99};
	gossip.nstates = 1;
	gossip.states[0] = (P2pBlock) {state.bytes, state.length};
	w = start();
	p2p_put_gossip(&w, P2P_MSG_GOSSIP, &gossip);
	put_writer("gossip", 0, &w, 1);
	w = start();
	p2p_put_pull(&w, &pull);
	put_writer("pull", 0, &w, 1);
	w = start();
	p2p_put_join(&w, P2P_MSG_JOIN, &join);
	put_writer("join", 0, &w, 1);
	w = start();
	p2p_put_join_reply(&w, &reply);
	put_writer("join_reply", 0, &w, 1);
	w = start();
	p2p_put_error(&w, P2P_ERROR_GONE, "trimmed");
	put_writer("error", 0, &w, 1);
}

static void
seed_texts(void)
{
	static P2pInvite invite = {{{0x47}}, {{5}}, {6}, "host=a dbname=app"};
	static P2pVector v;
	static char text[P2P_TOKEN_TEXT_SIZE];

	FUZZ_REQUIRE(p2p_invite_to_text(&invite, text, sizeof(text)) == P2P_OK);
	put("text", 0, text, strlen(text));
	fill_vector(&v, 3);
	FUZZ_REQUIRE(p2p_token_to_text(&group, &v, text, sizeof(text)) == P2P_OK);
	put("text", 1, text, strlen(text));
}

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		fprintf(stderr, "usage: seeds FOLDER\n");
		return 2;
	}
	folder = argv[1];
	(void) mkdir(folder, 0777);
	fuzz_begin();
	seed_vectors();
	seed_bodies();
	seed_packed();
	seed_sessions();
	seed_messages();
	seed_texts();
	return 0;
}
