/*
 * links.c
 *	  The wires between the nodes: a TCP relay for each ordered pair of them, which
 *	  can be cut, cut in one direction only, slowed down, and torn.
 *
 *	  links FROM:TO:PORT ...
 *
 * For each argument it listens on a free port of loopback, prints "FROM TO PORT"
 * and hands what connects there to PORT, where node TO listens; node FROM has been
 * told that TO is reached by that port. Commands come on stdin, one a line, each
 * answered by "ok"; the end of stdin ends the program, and so all links.
 *
 *	  wire FROM TO pass|hold|MS    what happens to bytes from FROM to TO: they
 *	                               pass, wait, or take MS milliseconds
 *	  tear FROM TO                 reset all connections that FROM has opened to TO
 *	  count FROM TO                answered by "CONNECTIONS BYTES" carried so far
 *
 * Bytes that wait come through when the wire passes again, as with TCP after a short
 * outage; "tear" before that makes it a long one. A wire carries the bytes of both
 * kinds of connections, those that FROM has opened and the answers on those that TO
 * has. The end of a connection travels like bytes: over a wire that holds nobody
 * learns that the other side is gone, and a connection that FROM opens is opened to TO
 * when the wire passes. That a connect() succeeds at once and then nothing follows is
 * the one thing in which this differs from lost packets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINKS 64
#define MAX_CONNECTIONS 1024
#define CHUNK_SIZE 16384
#define MAX_CHUNKS 32			/* that wait in one direction; then we don't read on */
#define NAME_SIZE 64
#define HOLD -1					/* of Wire.delay_ms */

/* Bytes that are due at a time. */
typedef struct Chunk
{
	int64_t		due_ms;
	size_t		length;
	size_t		sent;
	char		bytes[CHUNK_SIZE];
} Chunk;

/* From one socket of a connection to the other. */
typedef struct Stream
{
	Chunk	   *chunks[MAX_CHUNKS];
	int			first;
	int			count;
	bool		ended;			/* the source has: pass that on behind the chunks */
	bool		closed;			/* passed on */
} Stream;

/* What happens to bytes from one node to another. */
typedef struct Wire
{
	char		from[NAME_SIZE];
	char		to[NAME_SIZE];
	int			delay_ms;
} Wire;

/* Connections that one node opens to another; wires[0] is from it, [1] back to it. */
typedef struct Link
{
	int			listener;
	int			port;
	Wire	   *wires[2];
	uint64_t	connections;
	uint64_t	bytes;
} Link;

/* sockets[0] is that of who has opened it; -1: not opened to the target yet. */
typedef struct Connection
{
	Link	   *link;
	int			sockets[2];
	Stream		streams[2];		/* by where the bytes come from */
} Connection;

static Link links[MAX_LINKS];
static int	link_count;
static Wire wires[2 * MAX_LINKS];
static int	wire_count;
static Connection *connections[MAX_CONNECTIONS];
static int	connection_count;

_Noreturn static void
give_up(const char *what)
{
	fprintf(stderr, "links: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

/* The wire from one node to another, made if it is new. */
static Wire *
wire_get(const char *from, const char *to)
{
	Wire	   *wire;

	for (int i = 0; i < wire_count; i++)
	{
		if (strcmp(wires[i].from, from) == 0 && strcmp(wires[i].to, to) == 0)
			return &wires[i];
	}
	if (wire_count == 2 * MAX_LINKS)
		return NULL;
	wire = &wires[wire_count++];
	snprintf(wire->from, sizeof(wire->from), "%s", from);
	snprintf(wire->to, sizeof(wire->to), "%s", to);
	return wire;
}

static Link *
link_find(const char *from, const char *to)
{
	for (int i = 0; i < link_count; i++)
	{
		if (strcmp(links[i].wires[0]->from, from) == 0 && strcmp(links[i].wires[0]->to, to) == 0)
			return &links[i];
	}
	return NULL;
}

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

/* Listen for a link that is named FROM:TO:PORT. */
static void
link_make(const char *name)
{
	struct sockaddr_in address = loopback(0);
	socklen_t	length = sizeof(address);
	char		from[NAME_SIZE];
	char		to[NAME_SIZE];
	Link	   *link = &links[link_count];

	if (link_count == MAX_LINKS ||
		sscanf(name, "%63[^:]:%63[^:]:%d", from, to, &link->port) != 3)
	{
		fprintf(stderr, "links: too many, or not FROM:TO:PORT: %s\n", name);
		exit(2);
	}
	link->wires[0] = wire_get(from, to);
	link->wires[1] = wire_get(to, from);
	link->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (link->listener < 0 ||
		bind(link->listener, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(link->listener, 64) != 0 ||
		getsockname(link->listener, (struct sockaddr *) &address, &length) != 0)
		give_up("cannot listen");
	printf("%s %s %d\n", from, to, ntohs(address.sin_port));
	link_count++;
}

/* Take a new connection of a link. */
static void
connection_accept(Link *link)
{
	int			s = accept4(link->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	Connection *connection;

	if (s < 0)
		return;
	if (connection_count == MAX_CONNECTIONS ||
		(connection = calloc(1, sizeof(Connection))) == NULL)
	{
		close(s);
		return;
	}
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int) {1}, sizeof(int));
	connection->link = link;
	connection->sockets[0] = s;
	connection->sockets[1] = -1;
	connections[connection_count++] = connection;
	link->connections++;
}

/* Open the other half; false if that fails at once. */
static bool
connection_open(Connection *connection)
{
	struct sockaddr_in address = loopback(connection->link->port);
	int			s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s < 0)
		return false;
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int) {1}, sizeof(int));
	connection->sockets[1] = s;
	return connect(s, (struct sockaddr *) &address, sizeof(address)) == 0 || errno == EINPROGRESS;
}

/* Close both sides, by a reset so that what is under way is lost, and forget it. */
static void
connection_close(int i)
{
	Connection *connection = connections[i];

	for (int side = 0; side < 2; side++)
	{
		Stream	   *stream = &connection->streams[side];

		if (connection->sockets[side] >= 0)
		{
			setsockopt(connection->sockets[side], SOL_SOCKET, SO_LINGER, &(struct linger) {1, 0},
					   sizeof(struct linger));
			close(connection->sockets[side]);
		}
		for (int n = 0; n < stream->count; n++)
			free(stream->chunks[(stream->first + n) % MAX_CHUNKS]);
	}
	free(connection);
	connections[i] = connections[--connection_count];
}

/* Read a chunk from one side; false: the connection is broken. */
static bool
stream_read(Connection *connection, int side)
{
	Stream	   *stream = &connection->streams[side];
	Chunk	   *chunk = malloc(sizeof(Chunk));
	ssize_t		n;

	if (chunk == NULL)
		give_up("out of memory");
	n = recv(connection->sockets[side], chunk->bytes, CHUNK_SIZE, 0);
	if (n <= 0)
	{
		free(chunk);
		stream->ended = n == 0;
		return n == 0 || errno == EAGAIN || errno == EINTR;
	}
	chunk->length = (size_t) n;
	chunk->sent = 0;
	chunk->due_ms = now_ms();
	if (connection->link->wires[side]->delay_ms > 0)
		chunk->due_ms += connection->link->wires[side]->delay_ms;
	stream->chunks[(stream->first + stream->count++) % MAX_CHUNKS] = chunk;
	connection->link->bytes += (uint64_t) n;
	return true;
}

/* Send what is due from one side to the other; false: the connection is broken. */
static bool
stream_write(Connection *connection, int side)
{
	Stream	   *stream = &connection->streams[side];
	int			target = connection->sockets[!side];

	while (stream->count > 0)
	{
		Chunk	   *chunk = stream->chunks[stream->first];
		ssize_t		n;

		if (chunk->due_ms > now_ms())
			return true;
		n = send(target, chunk->bytes + chunk->sent, chunk->length - chunk->sent, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		chunk->sent += (size_t) n;
		if (chunk->sent < chunk->length)
			return true;
		free(chunk);
		stream->first = (stream->first + 1) % MAX_CHUNKS;
		stream->count--;
	}
	if (stream->ended && !stream->closed)
	{
		shutdown(target, SHUT_WR);
		stream->closed = true;
	}
	return true;
}

static bool
wire_holds(const Connection *connection, int side)
{
	return connection->link->wires[side]->delay_ms == HOLD;
}

/*
 * Say for which events of a side to wait, and lower *timeout_ms to when its bytes are
 * due. Without any, the socket is left out: poll() always reports its end.
 */
static short
side_wants(const Connection *connection, int side, int *timeout_ms)
{
	const Stream *in = &connection->streams[side];
	const Stream *out = &connection->streams[!side];
	short		events = 0;

	if (!in->ended && in->count < MAX_CHUNKS && !wire_holds(connection, side))
		events |= POLLIN;
	if (out->count > 0 && !wire_holds(connection, !side))
	{
		int64_t		wait_ms = out->chunks[out->first]->due_ms - now_ms();

		if (wait_ms <= 0)
			events |= POLLOUT;
		else if (*timeout_ms < 0 || wait_ms < *timeout_ms)
			*timeout_ms = (int) wait_ms;
	}
	else if (out->ended && !out->closed && !wire_holds(connection, !side))
		*timeout_ms = 0;
	return events;
}

/* Move what can be moved; false: the connection is over. */
static bool
connection_serve(Connection *connection, const short revents[2])
{
	for (int side = 0; side < 2; side++)
	{
		if (connection->sockets[side] < 0 || connection->sockets[!side] < 0)
			continue;
		if (revents[side] & (POLLIN | POLLHUP | POLLERR))
		{
			if (connection->streams[side].ended || connection->streams[side].count == MAX_CHUNKS)
			{
				if (revents[side] & POLLERR)
					return false;
			}
			else if (!wire_holds(connection, side) && !stream_read(connection, side))
				return false;
		}
	}
	for (int side = 0; side < 2; side++)
	{
		if (connection->sockets[!side] >= 0 && !wire_holds(connection, side) &&
			!stream_write(connection, side))
			return false;
	}
	return !(connection->streams[0].closed && connection->streams[1].closed);
}

/* Obey one line; false: it is none of ours. */
static bool
command(const char *line)
{
	char		from[NAME_SIZE];
	char		to[NAME_SIZE];
	char		how[NAME_SIZE];
	Link	   *link;

	if (sscanf(line, "wire %63s %63s %63s", from, to, how) == 3)
	{
		Wire	   *wire = wire_get(from, to);

		if (wire == NULL)
			return false;
		wire->delay_ms = strcmp(how, "hold") == 0 ? HOLD : strcmp(how, "pass") == 0 ? 0 : atoi(how);
		puts("ok");
		return true;
	}
	if (sscanf(line, "tear %63s %63s", from, to) == 2 && (link = link_find(from, to)) != NULL)
	{
		for (int i = connection_count - 1; i >= 0; i--)
		{
			if (connections[i]->link == link)
				connection_close(i);
		}
		puts("ok");
		return true;
	}
	if (sscanf(line, "count %63s %63s", from, to) == 2 && (link = link_find(from, to)) != NULL)
	{
		printf("%llu %llu\n", (unsigned long long) link->connections,
			   (unsigned long long) link->bytes);
		return true;
	}
	return false;
}

/* Read commands; false: there will be no more. */
static bool
commands_read(void)
{
	static char buffer[4096];
	static size_t filled;
	ssize_t		n = read(STDIN_FILENO, buffer + filled, sizeof(buffer) - 1 - filled);
	char	   *line = buffer;
	char	   *end;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	filled += (size_t) n;
	buffer[filled] = '\0';
	while ((end = strchr(line, '\n')) != NULL)
	{
		*end = '\0';
		if (!command(line))
			printf("no such command: %s\n", line);
		line = end + 1;
	}
	filled -= (size_t) (line - buffer);
	memmove(buffer, line, filled);
	fflush(stdout);
	return filled < sizeof(buffer) - 1;
}

/* Wait for something to happen, and do what follows; false at the end of commands. */
static bool
round_once(void)
{
	static struct pollfd files[1 + MAX_LINKS + 2 * MAX_CONNECTIONS];
	int			count = 1 + link_count;
	int			timeout_ms = -1;
	int			served = connection_count;

	files[0] = (struct pollfd) {.fd = STDIN_FILENO,.events = POLLIN};
	for (int i = 0; i < link_count; i++)
		files[1 + i] = (struct pollfd) {.fd = links[i].listener,.events = POLLIN};
	for (int i = 0; i < connection_count; i++)
	{
		for (int side = 0; side < 2; side++)
		{
			short		events = side_wants(connections[i], side, &timeout_ms);
			int			fd = events != 0 ? connections[i]->sockets[side] : -1;

			files[count++] = (struct pollfd) {.fd = fd,.events = events};
		}
	}
	if (poll(files, (nfds_t) count, timeout_ms) < 0 && errno != EINTR)
		give_up("poll");

	/* from the end, since closing one moves the last into its place */
	for (int i = served - 1; i >= 0; i--)
	{
		const struct pollfd *mine = &files[1 + link_count + 2 * i];
		short		revents[2] = {mine[0].revents, mine[1].revents};

		if (!connection_serve(connections[i], revents))
			connection_close(i);
	}
	for (int i = 0; i < link_count; i++)
	{
		if (files[1 + i].revents != 0)
			connection_accept(&links[i]);
	}
	if (files[0].revents != 0 && !commands_read())
		return false;
	for (int i = connection_count - 1; i >= 0; i--)
	{
		if (connections[i]->sockets[1] < 0 && !wire_holds(connections[i], 0) &&
			!connection_open(connections[i]))
			connection_close(i);
	}
	return true;
}

int
main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	/* the terminal's ^C is for who has started us */
	signal(SIGINT, SIG_IGN);
	for (int i = 1; i < argc; i++)
		link_make(argv[i]);
	fflush(stdout);
	while (round_once())
		;
	return 0;
}
