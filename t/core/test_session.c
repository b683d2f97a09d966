/*
 * test_session.c
 *	  Sessions: the handshake and frames in both directions; then everything
 *	  that an attacker on the line, a stranger, or a wrong peer may try. Whatever
 *	  fails leaves the session failed for good and its secrets wiped.
 */
#include "hostile.h"

#include "p2p_session.h"

#define TEXT "one request, one reply"
#define FRAME_SIZE 512

typedef struct Node
{
	P2pId		id;
	uint8_t		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8_t		secret_key[P2P_SECRET_KEY_SIZE];
	uint8_t		seed[P2P_SEED_SIZE];	/* of its next session */
} Node;

/* Two nodes, a stranger, and what goes over the line between the first two. */
typedef struct Line
{
	P2pId		group;
	Node		client_node;
	Node		server_node;
	Node		stranger;
	P2pSession	client;
	P2pSession	server;
	uint8_t		hello[P2P_HELLO_MAX_SIZE];
	size_t		hello_length;
	uint8_t		welcome[P2P_WELCOME_MAX_SIZE];
	size_t		welcome_length;
	uint8_t		frame[FRAME_SIZE];
	size_t		frame_length;
	uint8_t		plain[FRAME_SIZE];
	size_t		plain_length;
} Line;

/* Make a node from one byte. */
static void
make_node(Node *node, uint8_t n)
{
	uint8_t		seed[P2P_SEED_SIZE] = {n, 1};

	p2p_keypair_from_seed(seed, node->public_key, node->secret_key);
	p2p_id_of_key(node->public_key, &node->id);
	memset(node->seed, n, sizeof(node->seed));
}

/* Let the client say HELLO. */
static void
say_hello(Line *line)
{
	P2pWriter	w;

	p2p_writer_init(&w, line->hello, sizeof(line->hello));
	p2p_session_connect(&line->client, &line->group, &line->server_node.id,
						line->client_node.public_key, line->client_node.secret_key,
						line->client_node.seed, &w);
	assert_false(w.overflow);
	line->hello_length = w.length;
}

/* Let node, as a server of group, answer the HELLO on the line. */
static P2pStatus
answer(Line *line, const Node *node, const P2pId *group)
{
	P2pWriter	w;
	P2pStatus	status;

	p2p_writer_init(&w, line->welcome, sizeof(line->welcome));
	status = p2p_session_accept(&line->server, group, node->public_key, node->secret_key,
								node->seed, line->hello, line->hello_length, &w);
	line->welcome_length = w.length;
	return status;
}

/* Start over with the HELLO and WELCOME said, and the client having taken it. */
static void
shake_hands(Line *line)
{
	say_hello(line);
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_OK);
	assert_int_equal(p2p_session_welcome(&line->client, line->welcome, line->welcome_length),
					 P2P_OK);
}

/* Put text on the line as a frame of s. */
static void
send_text(Line *line, P2pSession *s, const char *text)
{
	size_t		expected = p2p_session_frame_size(s, strlen(text));

	assert_int_equal(p2p_session_seal(s, text, strlen(text), line->frame, FRAME_SIZE,
									  &line->frame_length), P2P_OK);
	assert_int_equal(line->frame_length, expected);
}

/* Let s take length bytes of a frame, standing in memory of exactly that size. */
static P2pStatus
take(Line *line, P2pSession *s, const uint8_t *frame, size_t length)
{
	uint8_t    *copy = exact_copy(frame, length);
	uint8_t    *out = malloc(length + 1);
	P2pStatus	status;

	assert_non_null(out);
	status = p2p_session_unseal(s, copy, length, out, &line->plain_length);
	assert_true(line->plain_length <= length);
	memcpy(line->plain, out, line->plain_length);
	free(copy);
	free(out);
	return status;
}

/* Let s take the frame on the line, which must be text. */
static void
receive_text(Line *line, P2pSession *s, const char *text)
{
	assert_int_equal(take(line, s, line->frame, line->frame_length), P2P_OK);
	assert_int_equal(line->plain_length, strlen(text));
	assert_memory_equal(line->plain, text, strlen(text));
}

/* Shake hands and have the client proven. */
static void
open_session(Line *line)
{
	shake_hands(line);
	send_text(line, &line->client, TEXT);
	receive_text(line, &line->server, TEXT);
}

/* Is s failed for good, and does it hold no secret? */
static void
assert_failed(P2pSession *s)
{
	static const uint8_t zero[P2P_SECRET_KEY_SIZE];
	uint8_t		frame[FRAME_SIZE];
	size_t		length;

	assert_int_equal(s->state, P2P_SESSION_FAILED);
	assert_memory_equal(s->secret_key, zero, sizeof(s->secret_key));
	assert_memory_equal(s->ephemeral_secret, zero, sizeof(s->ephemeral_secret));
	assert_memory_equal(s->receive_key, zero, sizeof(s->receive_key));
	assert_memory_equal(s->send_key, zero, sizeof(s->send_key));
	assert_int_equal(p2p_session_seal(s, TEXT, 1, frame, sizeof(frame), &length), P2P_REFUSED);
	assert_int_equal(length, 0);
	assert_int_equal(p2p_session_unseal(s, frame, sizeof(frame), frame, &length), P2P_REFUSED);
}

static int
line_setup(void **state)
{
	Line	   *line = calloc(1, sizeof(*line));

	assert_non_null(line);
	assert_true(p2p_crypto_init());
	memset(&line->group, 0x77, sizeof(line->group));
	make_node(&line->client_node, 1);
	make_node(&line->server_node, 2);
	make_node(&line->stranger, 3);
	*state = line;
	return 0;
}

static int
line_teardown(void **state)
{
	free(*state);
	return 0;
}

static void
test_session_full_conversation(void **state)
{
	Line	   *line = *state;

	shake_hands(line);
	assert_int_equal(line->client.state, P2P_SESSION_OPEN);
	assert_int_equal(line->server.state, P2P_SESSION_WELCOME_SENT);
	send_text(line, &line->client, TEXT);
	receive_text(line, &line->server, TEXT);
	assert_int_equal(line->server.state, P2P_SESSION_OPEN);
	assert_memory_equal(line->server.peer_key, line->client_node.public_key,
						P2P_PUBLIC_KEY_SIZE);
	assert_int_equal(p2p_id_compare(&line->server.peer_id, &line->client_node.id), 0);
	assert_memory_equal(line->client.peer_key, line->server_node.public_key,
						P2P_PUBLIC_KEY_SIZE);

	for (int i = 0; i < 3; i++)
	{
		send_text(line, &line->server, "reply");
		receive_text(line, &line->client, "reply");
		send_text(line, &line->client, "");
		receive_text(line, &line->server, "");
	}
	/* several at once, in one direction */
	send_text(line, &line->client, "a");
	receive_text(line, &line->server, "a");
	send_text(line, &line->client, "b");
	receive_text(line, &line->server, "b");

	p2p_session_end(&line->client);
	assert_failed(&line->client);
}

static void
test_session_first_frame_may_be_empty(void **state)
{
	Line	   *line = *state;

	shake_hands(line);
	send_text(line, &line->client, "");
	receive_text(line, &line->server, "");
	assert_int_equal(line->server.state, P2P_SESSION_OPEN);
}

static void
test_session_plain_text_and_keys_are_not_on_the_line(void **state)
{
	Line	   *line = *state;

	open_session(line);
	for (size_t i = 0; i + strlen(TEXT) <= line->frame_length; i++)
		assert_memory_not_equal(line->frame + i, TEXT, strlen(TEXT));
	for (size_t i = 0; i + P2P_SEED_SIZE <= line->hello_length; i++)
		assert_memory_not_equal(line->hello + i, line->client_node.seed, P2P_SEED_SIZE);
}

static void
test_session_other_seed_makes_another_session(void **state)
{
	Line	   *line = *state;
	uint8_t		first[P2P_SESSION_KEY_SIZE];

	shake_hands(line);
	memcpy(first, line->client.send_key, sizeof(first));
	line->server_node.seed[0] ^= 1;
	shake_hands(line);
	assert_memory_not_equal(line->client.send_key, first, sizeof(first));
}

static void
test_session_server_says_nothing_before_the_proof(void **state)
{
	Line	   *line = *state;

	shake_hands(line);
	assert_int_equal(p2p_session_seal(&line->server, TEXT, 1, line->frame, FRAME_SIZE,
									  &line->frame_length), P2P_REFUSED);
	assert_int_equal(line->server.state, P2P_SESSION_WELCOME_SENT);
}

static void
test_session_wrong_group_is_refused(void **state)
{
	Line	   *line = *state;
	P2pId		other = {{1}};

	say_hello(line);
	assert_int_equal(answer(line, &line->server_node, &other), P2P_FOREIGN_GROUP);
	assert_int_equal(line->welcome_length, 0);
	assert_failed(&line->server);
}

static void
test_session_wrong_server_key_is_refused(void **state)
{
	Line	   *line = *state;

	/* Somebody else answers, under its own key. */
	say_hello(line);
	assert_int_equal(answer(line, &line->stranger, &line->group), P2P_OK);
	assert_int_equal(p2p_session_welcome(&line->client, line->welcome, line->welcome_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->client);

	/* Somebody else shows the server's public key, but can't sign with it. */
	memcpy(line->stranger.public_key, line->server_node.public_key, P2P_PUBLIC_KEY_SIZE);
	say_hello(line);
	assert_int_equal(answer(line, &line->stranger, &line->group), P2P_OK);
	assert_int_equal(p2p_session_welcome(&line->client, line->welcome, line->welcome_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->client);
}

static void
test_session_wrong_client_key_is_refused(void **state)
{
	Line	   *line = *state;

	/* Somebody else says HELLO in the client's name, but can't sign in it. */
	memcpy(line->client_node.secret_key, line->stranger.secret_key, P2P_SECRET_KEY_SIZE);
	shake_hands(line);
	send_text(line, &line->client, TEXT);
	assert_int_equal(take(line, &line->server, line->frame, line->frame_length),
					 P2P_BAD_SIGNATURE);
	assert_int_equal(line->plain_length, 0);
	assert_failed(&line->server);
}

static void
test_session_server_learns_who_a_stranger_is(void **state)
{
	Line	   *line = *state;

	line->client_node = line->stranger;
	open_session(line);
	assert_int_equal(p2p_id_compare(&line->server.peer_id, &line->stranger.id), 0);
}

static void
test_session_replayed_handshake_gets_nowhere(void **state)
{
	Line	   *line = *state;
	uint8_t		old_welcome[P2P_WELCOME_MAX_SIZE];
	uint8_t		old_frame[FRAME_SIZE];
	size_t		old_length;

	open_session(line);
	memcpy(old_welcome, line->welcome, line->welcome_length);
	memcpy(old_frame, line->frame, line->frame_length);
	old_length = line->frame_length;

	/* The recorded HELLO and first frame, played to the server again. */
	line->server_node.seed[0] ^= 1;
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_OK);
	assert_int_equal(take(line, &line->server, old_frame, old_length), P2P_BAD_SIGNATURE);
	assert_failed(&line->server);

	/* The recorded WELCOME, played to the client again. */
	line->client_node.seed[0] ^= 1;
	say_hello(line);
	assert_int_equal(p2p_session_welcome(&line->client, old_welcome, line->welcome_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->client);
}

static void
test_session_replayed_frame_is_refused(void **state)
{
	Line	   *line = *state;

	open_session(line);
	/* the first frame once more */
	assert_int_not_equal(take(line, &line->server, line->frame, line->frame_length), P2P_OK);
	assert_failed(&line->server);

	open_session(line);
	send_text(line, &line->client, "second");
	receive_text(line, &line->server, "second");
	assert_int_equal(take(line, &line->server, line->frame, line->frame_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->server);
}

static void
test_session_reordered_and_lost_frames_are_refused(void **state)
{
	Line	   *line = *state;
	uint8_t		held[FRAME_SIZE];

	open_session(line);
	send_text(line, &line->client, "second");
	memcpy(held, line->frame, line->frame_length);
	send_text(line, &line->client, "third!");
	assert_int_equal(take(line, &line->server, line->frame, line->frame_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->server);
	/* The one that would have been next is of no use any more. */
	assert_int_equal(take(line, &line->server, held, line->frame_length), P2P_REFUSED);
}

static void
test_session_reflected_frame_is_refused(void **state)
{
	Line	   *line = *state;

	open_session(line);
	send_text(line, &line->client, TEXT);
	assert_int_equal(take(line, &line->client, line->frame, line->frame_length),
					 P2P_BAD_SIGNATURE);
	assert_failed(&line->client);
}

static void
test_session_frame_of_another_session_is_refused(void **state)
{
	Line	   *line = *state;
	P2pSession	other;

	open_session(line);
	other = line->server;
	line->client_node.seed[0] ^= 1;
	open_session(line);
	send_text(line, &line->client, TEXT);
	assert_int_equal(take(line, &other, line->frame, line->frame_length), P2P_BAD_SIGNATURE);
	assert_failed(&other);
}

/* Try each frame that differs in one byte, or is cut, or longer, on copies of s. */
static void
try_tampering(Line *line, const P2pSession *s)
{
	P2pSession	copy;

	for (size_t at = 0; at < line->frame_length; at++)
	{
		copy = *s;
		line->frame[at] ^= 0x41;
		assert_int_not_equal(take(line, &copy, line->frame, line->frame_length), P2P_OK);
		assert_int_equal(line->plain_length, 0);
		assert_failed(&copy);
		line->frame[at] ^= 0x41;
	}
	for (size_t n = 0; n <= line->frame_length + 1; n++)
	{
		if (n == line->frame_length)
			continue;
		copy = *s;
		assert_int_not_equal(take(line, &copy, line->frame, n), P2P_OK);
		assert_failed(&copy);
	}
	copy = *s;
	assert_int_equal(take(line, &copy, line->frame, line->frame_length), P2P_OK);
}

static void
test_session_every_tampered_or_cut_frame_is_refused(void **state)
{
	Line	   *line = *state;

	shake_hands(line);
	send_text(line, &line->client, TEXT);
	try_tampering(line, &line->server);
	receive_text(line, &line->server, TEXT);
	send_text(line, &line->client, TEXT);
	try_tampering(line, &line->server);
	send_text(line, &line->server, TEXT);
	try_tampering(line, &line->client);
}

static void
test_session_every_tampered_or_cut_hello_is_refused(void **state)
{
	Line	   *line = *state;

	say_hello(line);
	for (size_t at = 0; at < line->hello_length; at++)
	{
		P2pSession	client = line->client;

		/* Where the server can't know yet, the client refuses its signature. */
		line->hello[at] ^= 0x41;
		if (answer(line, &line->server_node, &line->group) == P2P_OK)
		{
			assert_int_equal(p2p_session_welcome(&client, line->welcome, line->welcome_length),
							 P2P_BAD_SIGNATURE);
			assert_failed(&client);
		}
		else
			assert_failed(&line->server);
		line->hello[at] ^= 0x41;
	}
	for (size_t n = 0; n < line->hello_length; n++)
	{
		uint8_t    *copy = exact_copy(line->hello, n);
		P2pWriter	w;

		p2p_writer_init(&w, line->welcome, sizeof(line->welcome));
		assert_int_equal(p2p_session_accept(&line->server, &line->group,
											line->server_node.public_key,
											line->server_node.secret_key,
											line->server_node.seed, copy, n, &w), P2P_TORN);
		assert_int_equal(w.length, 0);
		assert_failed(&line->server);
		free(copy);
	}
	line->hello_length++;
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_CORRUPT);
}

static void
test_session_every_tampered_or_cut_welcome_is_refused(void **state)
{
	Line	   *line = *state;
	P2pSession	client;

	say_hello(line);
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_OK);
	for (size_t at = 0; at < line->welcome_length; at++)
	{
		client = line->client;
		line->welcome[at] ^= 0x41;
		assert_int_not_equal(p2p_session_welcome(&client, line->welcome, line->welcome_length),
							 P2P_OK);
		assert_failed(&client);
		line->welcome[at] ^= 0x41;
	}
	for (size_t n = 0; n < line->welcome_length; n++)
	{
		uint8_t    *copy = exact_copy(line->welcome, n);

		client = line->client;
		assert_int_equal(p2p_session_welcome(&client, copy, n), P2P_TORN);
		assert_failed(&client);
		free(copy);
	}
	client = line->client;
	assert_int_equal(p2p_session_welcome(&client, line->welcome, line->welcome_length + 1),
					 P2P_CORRUPT);
}

static void
test_session_other_protocol_is_told_apart(void **state)
{
	Line	   *line = *state;

	say_hello(line);
	line->hello[1] = P2P_PROTOCOL_VERSION + 1;
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_BAD_VERSION);
	say_hello(line);
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_OK);
	line->welcome[1] = P2P_PROTOCOL_VERSION + 1;
	assert_int_equal(p2p_session_welcome(&line->client, line->welcome, line->welcome_length),
					 P2P_BAD_VERSION);
}

static void
test_session_weak_ephemeral_key_is_refused(void **state)
{
	Line	   *line = *state;

	say_hello(line);
	memset(line->hello + 3 + P2P_ID_SIZE + P2P_PUBLIC_KEY_SIZE, 0, P2P_KX_KEY_SIZE);
	assert_int_equal(answer(line, &line->server_node, &line->group), P2P_CORRUPT);
	assert_failed(&line->server);
}

static void
test_session_steps_out_of_turn_are_refused(void **state)
{
	Line	   *line = *state;

	/* a frame before WELCOME */
	say_hello(line);
	memset(line->frame, 'F', FRAME_SIZE);
	assert_int_equal(take(line, &line->client, line->frame, FRAME_SIZE), P2P_REFUSED);
	assert_failed(&line->client);

	/* WELCOME twice */
	shake_hands(line);
	assert_int_equal(p2p_session_welcome(&line->client, line->welcome, line->welcome_length),
					 P2P_REFUSED);
	assert_failed(&line->client);

	/* HELLO where a frame is due, and a HELLO as WELCOME */
	shake_hands(line);
	assert_int_not_equal(take(line, &line->server, line->hello, line->hello_length), P2P_OK);
	assert_failed(&line->server);
	say_hello(line);
	assert_int_equal(p2p_session_welcome(&line->client, line->hello, line->hello_length),
					 P2P_CORRUPT);
}

static void
test_session_refusal_is_read_as_printable_text(void **state)
{
	Line	   *line = *state;
	char		text[P2P_REFUSAL_MAX_TEXT];
	char		long_text[2 * P2P_REFUSAL_MAX_TEXT];
	P2pWriter	w;

	say_hello(line);
	p2p_writer_init(&w, line->frame, FRAME_SIZE);
	p2p_session_refuse(&w, "no such group\n\x1b[2J");
	assert_true(p2p_session_refusal(line->frame, w.length, text));
	assert_string_equal(text, "no such group??[2J");
	assert_int_equal(p2p_session_welcome(&line->client, line->frame, w.length), P2P_REFUSED);
	assert_failed(&line->client);

	assert_false(p2p_session_refusal(line->hello, line->hello_length, text));
	assert_false(p2p_session_refusal("", 0, text));
	assert_string_equal(text, "");

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[0] = P2P_BYTE_ERROR;
	long_text[sizeof(long_text) - 1] = '\0';
	assert_true(p2p_session_refusal(long_text, sizeof(long_text) - 1, text));
	assert_int_equal(strlen(text), P2P_REFUSAL_MAX_TEXT - 1);
	p2p_writer_init(&w, NULL, 0);
	p2p_session_refuse(&w, long_text);
	assert_int_equal(w.length, P2P_REFUSAL_MAX_TEXT);
}

static void
test_session_limits_leave_it_usable(void **state)
{
	Line	   *line = *state;
	uint8_t		out[64];
	size_t		length = 1;

	open_session(line);
	assert_int_equal(p2p_session_seal(&line->client, TEXT, P2P_MAX_MESSAGE, out, sizeof(out),
									  &length), P2P_TOO_LARGE);
	assert_int_equal(length, 0);
	assert_int_equal(p2p_session_seal(&line->client, TEXT, SIZE_MAX, out, sizeof(out),
									  &length), P2P_TOO_LARGE);
	assert_int_equal(p2p_session_seal(&line->client, TEXT, 10, out,
									  p2p_session_frame_size(&line->client, 10) - 1,
									  &length), P2P_NO_SPACE);
	send_text(line, &line->client, TEXT);
	receive_text(line, &line->server, TEXT);

	/* An oversized frame is refused by its length alone. */
	assert_int_equal(p2p_session_unseal(&line->server, out, P2P_MAX_MESSAGE + 1, out, &length),
					 P2P_TOO_LARGE);
	assert_failed(&line->server);
}

static void
test_session_welcome_that_does_not_fit_fails(void **state)
{
	Line	   *line = *state;
	P2pWriter	w;

	say_hello(line);
	p2p_writer_init(&w, line->welcome, 10);
	assert_int_equal(p2p_session_accept(&line->server, &line->group,
										line->server_node.public_key,
										line->server_node.secret_key, line->server_node.seed,
										line->hello, line->hello_length, &w), P2P_NO_SPACE);
	assert_failed(&line->server);
}

/* Show hostile bytes to a server as HELLO and to a client as WELCOME. */
static void
read_greeting(const uint8_t *bytes, size_t length, void *context)
{
	Line	   *line = context;
	P2pSession	client = line->client;
	P2pWriter	w;

	p2p_writer_init(&w, line->welcome, sizeof(line->welcome));
	(void) p2p_session_accept(&line->server, &line->group, line->server_node.public_key,
							  line->server_node.secret_key, line->server_node.seed,
							  bytes, length, &w);
	assert_int_not_equal(p2p_session_welcome(&client, bytes, length), P2P_OK);
	assert_failed(&client);
}

static void
test_session_hostile_greetings_do_no_harm(void **state)
{
	Line	   *line = *state;
	uint8_t		welcome[P2P_WELCOME_MAX_SIZE];
	size_t		length;

	shake_hands(line);
	length = line->welcome_length;
	memcpy(welcome, line->welcome, length);
	say_hello(line);
	hostile_flip(welcome, length, 500, read_greeting, line);
	hostile_flip(line->hello, line->hello_length, 500, read_greeting, line);
}

#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, line_setup, line_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SESSION_TEST(test_session_full_conversation),
		SESSION_TEST(test_session_first_frame_may_be_empty),
		SESSION_TEST(test_session_plain_text_and_keys_are_not_on_the_line),
		SESSION_TEST(test_session_other_seed_makes_another_session),
		SESSION_TEST(test_session_server_says_nothing_before_the_proof),
		SESSION_TEST(test_session_wrong_group_is_refused),
		SESSION_TEST(test_session_wrong_server_key_is_refused),
		SESSION_TEST(test_session_wrong_client_key_is_refused),
		SESSION_TEST(test_session_server_learns_who_a_stranger_is),
		SESSION_TEST(test_session_replayed_handshake_gets_nowhere),
		SESSION_TEST(test_session_replayed_frame_is_refused),
		SESSION_TEST(test_session_reordered_and_lost_frames_are_refused),
		SESSION_TEST(test_session_reflected_frame_is_refused),
		SESSION_TEST(test_session_frame_of_another_session_is_refused),
		SESSION_TEST(test_session_every_tampered_or_cut_frame_is_refused),
		SESSION_TEST(test_session_every_tampered_or_cut_hello_is_refused),
		SESSION_TEST(test_session_every_tampered_or_cut_welcome_is_refused),
		SESSION_TEST(test_session_other_protocol_is_told_apart),
		SESSION_TEST(test_session_weak_ephemeral_key_is_refused),
		SESSION_TEST(test_session_steps_out_of_turn_are_refused),
		SESSION_TEST(test_session_refusal_is_read_as_printable_text),
		SESSION_TEST(test_session_limits_leave_it_usable),
		SESSION_TEST(test_session_welcome_that_does_not_fit_fails),
		SESSION_TEST(test_session_hostile_greetings_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
