/*
 * resolve.h
 *	  Connection parameters from a dsn, with every host name already resolved:
 *	  PQconnectStart resolves names by a blocking call, and one dead name
 *	  server would stop the whole event loop.
 */
#ifndef RP_RESOLVE_H
#define RP_RESOLVE_H

#include "postgres.h"

/* Hosts of one dsn, addresses of one host: what goes beyond is not tried. */
#define RP_MAX_HOSTS 8
#define RP_MAX_ADDRESSES 16

typedef struct RpResolve RpResolve;

typedef enum RpResolveStatus
{
	RP_RESOLVE_PENDING = 0,		/* ask again in RP_RESOLVE_POLL_MS */
	RP_RESOLVE_DONE,
	RP_RESOLVE_FAILED
} RpResolveStatus;

#define RP_RESOLVE_POLL_MS 20

/* Begin with a dsn; nothing blocks. NULL and *error (palloc'd) if it is no valid dsn. */
RpResolve  *rp_resolve_start(const char *dsn, char **error);
/* Is it done? On failure *error (palloc'd) says which name, and why. */
RpResolveStatus rp_resolve_poll(RpResolve *resolve, char **error);
/*
 * Parameters for PQconnectStartParams, NULL-terminated and palloc'd (values may
 * point into resolve): those of the dsn, hosts with their addresses, and
 * application_name as a fallback. turn: rotates the addresses, so that one that
 * never answers does not hide the others for ever.
 */
void		rp_resolve_parameters(RpResolve *resolve, int turn, const char *application_name,
								  const char ***keywords, const char ***values);
/* Free it at any time; a look-up under way is left to end by itself. */
void		rp_resolve_free(RpResolve *resolve);

#endif							/* RP_RESOLVE_H */
