/*
 * resolve.c
 *	  Connection parameters from a dsn, host names resolved beside the event loop.
 *
 * libpq resolves names by getaddrinfo, which may block for many seconds; given
 * hostaddr, too, it does not. So names are looked up by getaddrinfo_a, in
 * threads of the C library that run with all signals blocked and touch nothing
 * but the request handed to them, and each name becomes as many entries of
 * host/hostaddr/port as it has addresses. TLS and .pgpass go on seeing the name.
 * Sockets, literal addresses and a hostaddr in the dsn need no look-up.
 *
 * Not covered: a dsn that names its host only by service= (libpq finds it
 * itself then, and blocks).
 *
 * A request belongs to its thread until it is done. One that can't be cancelled
 * is put on a list, and freed by a later call.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE				/* getaddrinfo_a */
#endif

#include "postgres.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "utils/memutils.h"

#include "resolve.h"

/* One entry of the dsn's lists of hosts; empty strings where it says nothing. */
typedef struct RpHost
{
	char	   *host;
	char	   *hostaddr;
	char	   *port;
	bool		asked;			/* request is, or was, under way */
	struct gaicb request;
} RpHost;

/* Lives in a context of its own under TopMemoryContext: threads write into it. */
struct RpResolve
{
	MemoryContext context;
	PQconninfoOption *options;
	struct addrinfo hints;
	bool		verbatim;		/* hosts are handed to libpq as they are */
	int			nhosts;
	RpHost		hosts[RP_MAX_HOSTS];
	RpResolve  *next;			/* in abandoned */
};

/* What one entry of libpq's lists comes to. */
typedef struct RpEndpoint
{
	const char *host;
	const char *hostaddr;
	const char *port;
} RpEndpoint;

static RpResolve *abandoned = NULL;

static void split_hosts(RpResolve *resolve);
static int	split_list(const char *list, char **items);
static void ask(RpResolve *resolve, RpHost *host);
static bool needs_look_up(const RpHost *host);
static bool try_free(RpResolve *resolve);
static int	endpoints(RpResolve *resolve, RpEndpoint *out);
static int	endpoints_of_host(RpHost *host, RpEndpoint *out);
static const char *join_list(const RpEndpoint *list, int n, int turn, size_t field);

/* Return the value of an option of the dsn, or NULL. */
static const char *
option_value(const RpResolve *resolve, const char *keyword)
{
	for (PQconninfoOption *o = resolve->options; o->keyword != NULL; o++)
	{
		if (strcmp(o->keyword, keyword) == 0)
			return o->val != NULL && o->val[0] != '\0' ? o->val : NULL;
	}
	return NULL;
}

/* Parse dsn and start the look-ups that it needs. */
RpResolve *
rp_resolve_start(const char *dsn, char **error)
{
	MemoryContext context;
	RpResolve  *resolve;
	char	   *message = NULL;
	PQconninfoOption *options = PQconninfoParse(dsn, &message);

	if (options == NULL)
	{
		/* The message quotes the dsn, which must not bring a password to light. */
		*error = psprintf("invalid dsn: %s",
						  message != NULL && strstr(dsn, "pass") == NULL ? message : "not parsed");
		PQfreemem(message);
		return NULL;
	}

	context = AllocSetContextCreate(TopMemoryContext, "replp2p resolve", ALLOCSET_SMALL_SIZES);
	resolve = MemoryContextAllocZero(context, sizeof(RpResolve));
	resolve->context = context;
	resolve->options = options;
	resolve->hints.ai_family = AF_UNSPEC;
	resolve->hints.ai_socktype = SOCK_STREAM;
	split_hosts(resolve);
	for (int i = 0; i < resolve->nhosts && !resolve->verbatim; i++)
	{
		if (needs_look_up(&resolve->hosts[i]))
			ask(resolve, &resolve->hosts[i]);
	}
	return resolve;
}

/* Fill resolve->hosts from the lists host, hostaddr and port; verbatim if they are odd, or absent. */
static void
split_hosts(RpResolve *resolve)
{
	MemoryContext old = MemoryContextSwitchTo(resolve->context);
	char	   *hosts[RP_MAX_HOSTS];
	char	   *addresses[RP_MAX_HOSTS];
	char	   *ports[RP_MAX_HOSTS];
	int			nhosts = split_list(option_value(resolve, "host"), hosts);
	int			naddresses = split_list(option_value(resolve, "hostaddr"), addresses);
	int			nports = split_list(option_value(resolve, "port"), ports);
	int			n = Max(nhosts, naddresses);

	/* What does not fit together is left to libpq to complain about. */
	resolve->verbatim = n <= 0 || nhosts < 0 || naddresses < 0 || nports < 0 ||
		(nhosts > 0 && nhosts != n) || (naddresses > 0 && naddresses != n) ||
		(nports > 1 && nports != n);
	if (!resolve->verbatim)
	{
		resolve->nhosts = n;
		for (int i = 0; i < n; i++)
		{
			RpHost	   *host = &resolve->hosts[i];

			host->host = nhosts > 0 ? hosts[i] : "";
			host->hostaddr = naddresses > 0 ? addresses[i] : "";
			host->port = nports == 0 ? "" : ports[nports > 1 ? i : 0];
		}
	}
	MemoryContextSwitchTo(old);
}

/* Split a comma-separated list into copies; their number, or -1 if there are too many. */
static int
split_list(const char *list, char **items)
{
	int			n = 0;

	if (list == NULL)
		return 0;
	for (;;)
	{
		size_t		length = strcspn(list, ",");

		if (n == RP_MAX_HOSTS)
			return -1;
		items[n++] = pnstrdup(list, length);
		if (list[length] == '\0')
			return n;
		list += length + 1;
	}
}

/* Is it a name that libpq would have to look up? */
static bool
needs_look_up(const RpHost *host)
{
	struct in_addr v4;

	if (host->hostaddr[0] != '\0' || host->host[0] == '\0')
		return false;
	if (host->host[0] == '/' || host->host[0] == '@')
		return false;			/* a socket */
	return strchr(host->host, ':') == NULL && inet_pton(AF_INET, host->host, &v4) != 1;
}

/* Have a host's name looked up by a thread of the C library. */
static void
ask(RpResolve *resolve, RpHost *host)
{
	struct gaicb *list[1] = {&host->request};

	host->request.ar_name = host->host;
	host->request.ar_request = &resolve->hints;
	/* If it can't even be started, gai_error says so at the next poll. */
	if (getaddrinfo_a(GAI_NOWAIT, list, 1, NULL) == 0)
		host->asked = true;
	else
		resolve->verbatim = true;
}

/* Say whether all names are looked up; done if at least one host has an address. */
RpResolveStatus
rp_resolve_poll(RpResolve *resolve, char **error)
{
	const char *failed_name = NULL;
	int			failed_code = 0;
	int			usable = 0;

	if (resolve->verbatim)
		return RP_RESOLVE_DONE;
	for (int i = 0; i < resolve->nhosts; i++)
	{
		RpHost	   *host = &resolve->hosts[i];
		int			code = host->asked ? gai_error(&host->request) : 0;

		if (code == EAI_INPROGRESS)
			return RP_RESOLVE_PENDING;
		if (code == 0)
			usable++;
		else
		{
			failed_name = host->host;
			failed_code = code;
		}
	}
	if (usable > 0)
		return RP_RESOLVE_DONE;
	*error = psprintf("could not resolve host name \"%s\": %s",
					  failed_name, gai_strerror(failed_code));
	return RP_RESOLVE_FAILED;
}

/* Build the arrays for PQconnectStartParams. */
void
rp_resolve_parameters(RpResolve *resolve, int turn, const char *application_name,
					  const char ***keywords, const char ***values)
{
	RpEndpoint *list = palloc(sizeof(RpEndpoint) * RP_MAX_HOSTS * RP_MAX_ADDRESSES);
	int			n = resolve->verbatim ? 0 : endpoints(resolve, list);
	int			noptions = 0;
	int			at = 0;

	while (resolve->options[noptions].keyword != NULL)
		noptions++;
	*keywords = palloc0(sizeof(char *) * (noptions + 5));
	*values = palloc0(sizeof(char *) * (noptions + 5));

#define PUT(k, v) ((*keywords)[at] = (k), (*values)[at++] = (v))
	for (PQconninfoOption *o = resolve->options; o->keyword != NULL; o++)
	{
		bool		ours = strcmp(o->keyword, "host") == 0 ||
			strcmp(o->keyword, "hostaddr") == 0 || strcmp(o->keyword, "port") == 0;

		if (o->val != NULL && !(ours && n > 0) &&
			strcmp(o->keyword, "fallback_application_name") != 0)
			PUT(o->keyword, o->val);
	}
	if (n > 0)
	{
		PUT("host", join_list(list, n, turn, offsetof(RpEndpoint, host)));
		PUT("hostaddr", join_list(list, n, turn, offsetof(RpEndpoint, hostaddr)));
		PUT("port", join_list(list, n, turn, offsetof(RpEndpoint, port)));
	}
	PUT("fallback_application_name", application_name);
#undef PUT
}

/* Write all ways to reach the dsn's server into out; returns how many. */
static int
endpoints(RpResolve *resolve, RpEndpoint *out)
{
	int			n = 0;

	for (int i = 0; i < resolve->nhosts; i++)
		n += endpoints_of_host(&resolve->hosts[i], out + n);
	return n;
}

/* The same for one host: each of its addresses, at most RP_MAX_ADDRESSES. */
static int
endpoints_of_host(RpHost *host, RpEndpoint *out)
{
	int			n = 0;

	if (!host->asked)
	{
		*out = (RpEndpoint) {host->host, host->hostaddr, host->port};
		return 1;
	}
	if (gai_error(&host->request) != 0)
		return 0;
	for (struct addrinfo *a = host->request.ar_result; a != NULL && n < RP_MAX_ADDRESSES;
		 a = a->ai_next)
	{
		char		text[NI_MAXHOST];

		if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0,
						NI_NUMERICHOST) == 0)
			out[n++] = (RpEndpoint) {host->host, pstrdup(text), host->port};
	}
	return n;
}

/* Join one field of all endpoints with commas, beginning with number turn. */
static const char *
join_list(const RpEndpoint *list, int n, int turn, size_t field)
{
	StringInfoData joined;

	initStringInfo(&joined);
	for (int i = 0; i < n; i++)
	{
		const RpEndpoint *e = &list[(i + turn) % n];

		if (i > 0)
			appendStringInfoChar(&joined, ',');
		appendStringInfoString(&joined, *(const char *const *) ((const char *) e + field));
	}
	return joined.data;
}

/* Free resolve, now or, if a thread still has it, at a later call. */
void
rp_resolve_free(RpResolve *resolve)
{
	RpResolve **at = &abandoned;

	resolve->next = abandoned;
	abandoned = resolve;
	while (*at != NULL)
	{
		RpResolve  *one = *at;
		RpResolve  *next = one->next;

		if (try_free(one))
			*at = next;
		else
			at = &one->next;
	}
}

/* Free resolve, unless a look-up of its is under way and can't be cancelled. */
static bool
try_free(RpResolve *resolve)
{
	for (int i = 0; i < resolve->nhosts; i++)
	{
		RpHost	   *host = &resolve->hosts[i];

		if (host->asked && gai_error(&host->request) == EAI_INPROGRESS &&
			gai_cancel(&host->request) == EAI_NOTCANCELED)
			return false;
	}
	for (int i = 0; i < resolve->nhosts; i++)
	{
		if (resolve->hosts[i].asked && resolve->hosts[i].request.ar_result != NULL)
			freeaddrinfo(resolve->hosts[i].request.ar_result);
	}
	PQconninfoFree(resolve->options);
	MemoryContextDelete(resolve->context);
	return true;
}
