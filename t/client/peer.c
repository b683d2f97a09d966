/*
 * peer.c
 *	  A peer that says what it is told to: for tests of what a real one never says.
 *
 *	  peer DSN GROUP PEER KEYFILE
 *
 * Speaks to the node PEER (32 hex digits) of GROUP at DSN. KEYFILE: the node.key
 * of a member, or "-" for a key that nobody knows. Commands come on stdin, one
 * a line; each is answered by one line:
 *
 *	  connect                 a new connection, and with it a new session of exchange()
 *	  hello                   shake hands
 *	  gossip                  ask for states
 *	  pull ORIGIN EPOCH SEQ   ask for batches behind SEQ
 *	  join NAME SECRET DSN    ask to be admitted by an invite
 *	  state ORIGIN EPOCH      push a state of ORIGIN that we have signed ourselves
 *	  odd KIND                a sealed message of an unknown kind
 *	  hold N                  seal a gossip as frame N (0 to 9), don't send it
 *	  send N CUT FLIP         send frame N without its last CUT bytes, bit 0 of byte FLIP
 *	                          turned (-1 = none); N = 10 is the last HELLO, 11 the last reply
 *	  bytes FIRST COUNT       a message of COUNT bytes; the first is FIRST, the rest arbitrary
 *	  empty, null             a message without bytes; none at all
 *	  group HEX, claim HEX    from the next hello on say this group, this public key
 *	  sql QUERY               the first value of a query on the same connection
 *
 * Answers: "welcome", "gossip STATES", "batches COUNT", "admitted", "error CODE TEXT"
 * (sealed), "refused TEXT" (the session is over), "sql STATE TEXT", "local TEXT".
 */
#include <libpq-fe.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_message.h"
#include "p2p_session.h"

#define BYTEA_OID 17
#define HELD 12
#define HELD_HELLO 10
#define HELD_REPLY 11
#define LINE_SIZE 4096
/* Where the keys stand in node.key; see identity.c. */
#define KEY_FILE_PUBLIC 44
#define KEY_FILE_SECRET 76

typedef struct Bytes
{
	uint8_t    *data;
	size_t		length;
} Bytes;

static const char *dsn;
static P2pId group;
static P2pId expected;
static uint8_t public_key[P2P_PUBLIC_KEY_SIZE];
static uint8_t secret_key[P2P_SECRET_KEY_SIZE];
static PGconn *conn;
static P2pSession session;
static Bytes held[HELD];

/* End the program: it was called wrongly, or has no memory. */
_Noreturn static void
give_up(const char *why)
{
	fprintf(stderr, "peer: %s\n", why);
	exit(2);
}

static void *
allocate(size_t size)
{
	void	   *memory = malloc(size > 0 ? size : 1);

	if (memory == NULL)
		give_up("out of memory");
	return memory;
}

/* Keep a copy of a message in a slot. */
static void
keep(int slot, const void *data, size_t length)
{
	free(held[slot].data);
	held[slot].data = allocate(length);
	if (length > 0)
		memcpy(held[slot].data, data, length);
	held[slot].length = length;
}

/* Read hex digits into exactly size bytes. */
static void
from_hex(const char *text, void *bytes, size_t size)
{
	size_t		length;

	if (sodium_hex2bin(bytes, size, text, strlen(text), NULL, &length, NULL) != 0 || length != size)
		give_up("bad hex digits");
}

/* Take our keys from a key file, or make some. */
static void
read_keys(const char *path)
{
	uint8_t		seed[P2P_SEED_SIZE];
	FILE	   *file;

	if (strcmp(path, "-") == 0)
	{
		randombytes_buf(seed, sizeof(seed));
		p2p_keypair_from_seed(seed, public_key, secret_key);
		return;
	}
	file = fopen(path, "rb");
	if (file == NULL || fseek(file, KEY_FILE_PUBLIC, SEEK_SET) != 0 ||
		fread(public_key, sizeof(public_key), 1, file) != 1 ||
		fseek(file, KEY_FILE_SECRET, SEEK_SET) != 0 ||
		fread(secret_key, sizeof(secret_key), 1, file) != 1)
		give_up("cannot read the key file");
	fclose(file);
}

/* Print one line, whatever bytes are in it. */
static void
answer(const char *kind, const char *text)
{
	printf("%s%s", kind, text[0] != '\0' ? " " : "");
	for (; *text != '\0' && *text != '\n'; text++)
		putchar(*text >= ' ' && *text <= '~' ? *text : '?');
	putchar('\n');
	fflush(stdout);
}

/* Print what a plain reply says. */
static void
answer_plain(const uint8_t *plain, size_t length)
{
	static P2pGossip gossip;
	P2pJoinReply joined;
	P2pErrorCode code;
	P2pReader	r;
	P2pBlock	block;
	char		text[P2P_TEXT_SIZE];
	char		line[P2P_TEXT_SIZE + 32];
	int			count = 0;

	p2p_reader_init(&r, plain + 1, length - 1);
	switch (plain[0])
	{
		case P2P_MSG_GOSSIP_REPLY:
			if (p2p_get_gossip(&r, &gossip) != P2P_OK)
				break;
			snprintf(line, sizeof(line), "%u", (unsigned) gossip.nstates);
			answer("gossip", line);
			return;
		case P2P_MSG_PULL_REPLY:
			while (p2p_pull_reply_next(&r, &block) == P2P_OK)
				count++;
			snprintf(line, sizeof(line), "%d", count);
			answer("batches", line);
			return;
		case P2P_MSG_JOIN_REPLY:
			if (p2p_get_join_reply(&r, &joined) != P2P_OK)
				break;
			answer("admitted", "");
			return;
		case P2P_MSG_ERROR:
			if (p2p_get_error(&r, &code, text) != P2P_OK)
				break;
			snprintf(line, sizeof(line), "%d %s", (int) code, text);
			answer("error", line);
			return;
		default:
			break;
	}
	answer("local", "a reply that is not understood");
}

/* Take a reply of exchange(). */
static void
take_reply(const uint8_t *bytes, size_t length)
{
	char		text[P2P_REFUSAL_MAX_TEXT];
	uint8_t    *plain;
	size_t		plain_length;
	P2pStatus	status;

	keep(HELD_REPLY, bytes, length);
	if (p2p_session_refusal(bytes, length, text))
	{
		answer("refused", text);
		return;
	}
	if (session.state == P2P_SESSION_HELLO_SENT)
	{
		status = p2p_session_welcome(&session, bytes, length);
		answer(status == P2P_OK ? "welcome" : "local", status == P2P_OK ? "" : p2p_status_text(status));
		return;
	}
	plain = allocate(length);
	status = p2p_session_unseal(&session, bytes, length, plain, &plain_length);
	if (status != P2P_OK || plain_length == 0)
		answer("local", p2p_status_text(status));
	else
		answer_plain(plain, plain_length);
	free(plain);
}

/* Send a message (NULL: none) and print what comes back. */
static void
call(const void *bytes, size_t length)
{
	const char *values[1] = {bytes};
	int			lengths[1] = {(int) length};
	int			formats[1] = {1};
	Oid			types[1] = {BYTEA_OID};
	PGresult   *result = PQexecParams(conn, "CALL replp2p.exchange($1)", 1, types, values, lengths,
									  formats, 1);

	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1)
		take_reply((const uint8_t *) PQgetvalue(result, 0, 0), (size_t) PQgetlength(result, 0, 0));
	else
	{
		char		line[LINE_SIZE];
		const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

		snprintf(line, sizeof(line), "%s %s", state != NULL ? state : "-",
				 text != NULL ? text : "the connection is lost");
		answer("sql", line);
	}
	PQclear(result);
}

static void
command_connect(void)
{
	PQfinish(conn);
	conn = PQconnectdb(dsn);
	answer(PQstatus(conn) == CONNECTION_OK ? "connected" : "local", PQerrorMessage(conn));
}

static void
command_hello(void)
{
	uint8_t		seed[P2P_SEED_SIZE];
	uint8_t		hello[P2P_HELLO_MAX_SIZE];
	P2pWriter	w;

	randombytes_buf(seed, sizeof(seed));
	p2p_writer_init(&w, hello, sizeof(hello));
	p2p_session_connect(&session, &group, &expected, public_key, secret_key, seed, &w);
	keep(HELD_HELLO, hello, w.length);
	call(hello, w.length);
}

/* Seal a plain message into a slot; false: there is no session. */
static bool
seal(int slot, const void *plain, size_t length)
{
	size_t		capacity = p2p_session_frame_size(&session, length);
	uint8_t    *frame = allocate(capacity);
	size_t		frame_length;
	bool		sealed = p2p_session_seal(&session, plain, length, frame, capacity,
										  &frame_length) == P2P_OK;

	if (sealed)
		keep(slot, frame, frame_length);
	free(frame);
	return sealed;
}

/* Seal and send a plain message. */
static void
call_sealed(const void *plain, size_t length)
{
	if (seal(0, plain, length))
		call(held[0].data, held[0].length);
	else
		answer("local", "no session");
}

/* Write a GOSSIP without a digest; state may be NULL. */
static void
write_gossip(P2pWriter *w, const P2pNodeState *state)
{
	static P2pGossip gossip;

	memset(&gossip, 0, sizeof(gossip));
	if (state != NULL)
	{
		gossip.nstates = 1;
		gossip.states[0].bytes = state->bytes;
		gossip.states[0].length = state->length;
	}
	p2p_put_gossip(w, P2P_MSG_GOSSIP, &gossip);
	if (w->overflow)
		give_up("a gossip does not fit");
}

/* Take an origin, "ID EPOCH", from a command. */
static P2pOrigin
take_origin(const char *id, const char *epoch)
{
	P2pOrigin	origin;

	from_hex(id, &origin.id, sizeof(origin.id));
	origin.epoch = (uint32_t) strtoul(epoch, NULL, 10);
	return origin;
}

static void
command_pull(const char *id, const char *epoch, const char *seq)
{
	static P2pPull pull;
	uint8_t		memory[P2P_PULL_MAX_SIZE];
	P2pWriter	w;

	memset(&pull, 0, sizeof(pull));
	pull.max_bytes = 1024 * 1024;
	pull.nwants = 1;
	pull.wants[0].origin = take_origin(id, epoch);
	pull.wants[0].after_seq = strtoull(seq, NULL, 10);
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_pull(&w, &pull);
	call_sealed(memory, w.length);
}

static void
command_join(const char *name, const char *secret, const char *own_dsn)
{
	static P2pJoin join;
	uint8_t		memory[P2P_JOIN_MAX_SIZE];
	P2pWriter	w;

	memset(&join, 0, sizeof(join));
	from_hex(secret, join.secret, sizeof(join.secret));
	snprintf(join.name, sizeof(join.name), "%s", name);
	snprintf(join.dsn, sizeof(join.dsn), "%s", own_dsn);
	snprintf(join.encoding, sizeof(join.encoding), "UTF8");
	join.server_version = 150000;
	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_join(&w, P2P_MSG_JOIN, &join);
	call_sealed(memory, w.length);
}

/* Say of another member that it is leaving and has everything. */
static void
command_state(const char *id, const char *epoch)
{
	static P2pNodeState state;
	static uint8_t bytes[P2P_STATE_MAX_SIZE];
	static uint8_t memory[P2P_STATE_MAX_SIZE + 4096];
	P2pWriter	w;

	memset(&state, 0, sizeof(state));
	state.node = take_origin(id, epoch);
	state.counter = UINT64_MAX / 2;
	state.phase = P2P_PHASE_LEAVING;
	(void) p2p_vector_set(&state.stored, &state.node, UINT64_MAX / 2);
	(void) p2p_vector_set(&state.ack, &state.node, UINT64_MAX / 2);
	if (p2p_state_seal(&state, &group, secret_key, bytes, sizeof(bytes)) != P2P_OK)
		give_up("a state does not fit");
	p2p_writer_init(&w, memory, sizeof(memory));
	write_gossip(&w, &state);
	call_sealed(memory, w.length);
}

/* Send a gossip, or hold it in a slot. */
static void
command_gossip(int slot)
{
	uint8_t		memory[256];
	P2pWriter	w;

	p2p_writer_init(&w, memory, sizeof(memory));
	write_gossip(&w, NULL);
	if (slot < 0)
		call_sealed(memory, w.length);
	else
		answer(seal(slot, memory, w.length) ? "held" : "local", "");
}

static void
command_send(int slot, size_t cut, long flip)
{
	Bytes		message;

	if (slot < 0 || slot >= HELD || held[slot].length <= cut ||
		flip >= (long) (held[slot].length - cut))
		give_up("nothing like that is held");
	message.length = held[slot].length - cut;
	message.data = allocate(message.length);
	memcpy(message.data, held[slot].data, message.length);
	if (flip >= 0)
		message.data[flip] ^= 1;
	call(message.data, message.length);
	free(message.data);
}

static void
command_bytes(char first, size_t count)
{
	uint8_t    *message = allocate(count);

	memset(message, 'x', count);
	message[0] = (uint8_t) first;
	call(message, count);
	free(message);
}

static void
command_sql(const char *query)
{
	PGresult   *result = PQexec(conn, query);

	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) > 0)
		answer("value", PQgetvalue(result, 0, 0));
	else
		answer("sql", PQresultErrorMessage(result));
	PQclear(result);
}

/* Carry out one command. */
static void
obey(char *line)
{
	char	   *name = strtok(line, " ");
	char	   *rest = strtok(NULL, "");
	char	   *arg[3] = {"", "", ""};

	if (name == NULL)
		return;
	if (rest == NULL)
		rest = "";
	if (strcmp(name, "sql") == 0)
	{
		command_sql(rest);
		return;
	}
	/* the last one goes to the end of the line: a dsn has blanks in it */
	for (int i = 0; i < 3 && *rest != '\0'; i++)
	{
		char	   *blank = i < 2 ? strchr(rest, ' ') : NULL;

		arg[i] = rest;
		rest = blank != NULL ? blank + 1 : "";
		if (blank != NULL)
			*blank = '\0';
	}
	if (strcmp(name, "connect") == 0)
		command_connect();
	else if (strcmp(name, "hello") == 0)
		command_hello();
	else if (strcmp(name, "gossip") == 0)
		command_gossip(-1);
	else if (strcmp(name, "pull") == 0)
		command_pull(arg[0], arg[1], arg[2]);
	else if (strcmp(name, "join") == 0)
		command_join(arg[0], arg[1], arg[2]);
	else if (strcmp(name, "state") == 0)
		command_state(arg[0], arg[1]);
	else if (strcmp(name, "odd") == 0)
		call_sealed(&(uint8_t) {(uint8_t) atoi(arg[0])}, 1);
	else if (strcmp(name, "hold") == 0)
		command_gossip(atoi(arg[0]));
	else if (strcmp(name, "send") == 0)
		command_send(atoi(arg[0]), strtoul(arg[1], NULL, 10), strtol(arg[2], NULL, 10));
	else if (strcmp(name, "bytes") == 0)
		command_bytes(arg[0][0], strtoul(arg[1], NULL, 10));
	else if (strcmp(name, "empty") == 0)
		call("", 0);
	else if (strcmp(name, "null") == 0)
		call(NULL, 0);
	else if (strcmp(name, "group") == 0 || strcmp(name, "claim") == 0)
	{
		if (name[0] == 'g')
			from_hex(arg[0], &group, sizeof(group));
		else
			from_hex(arg[0], public_key, sizeof(public_key));
		answer("noted", "");
	}
	else
		give_up("unknown command");
}

int
main(int argc, char **argv)
{
	static char line[LINE_SIZE];

	if (argc != 5)
		give_up("usage: peer DSN GROUP PEER KEYFILE");
	if (!p2p_crypto_init())
		give_up("libsodium does not work");
	dsn = argv[1];
	from_hex(argv[2], &group, sizeof(group));
	from_hex(argv[3], &expected, sizeof(expected));
	read_keys(argv[4]);
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		line[strcspn(line, "\n")] = '\0';
		obey(line);
	}
	PQfinish(conn);
	for (int i = 0; i < HELD; i++)
		free(held[i].data);
	return 0;
}
