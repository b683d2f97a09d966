/*
 * libpq_server.h
 *	  The server's side of a client's connection (libpq/libpq.h), without the headers of OpenSSL and
 *	  Kerberos, which need not be installed. What they add to struct Port is nobody's business here.
 */
#ifndef RP_LIBPQ_SERVER_H
#define RP_LIBPQ_SERVER_H

#include "postgres.h"

#undef USE_OPENSSL
#undef USE_SSL
#undef ENABLE_GSS

#include "libpq/libpq.h"

#endif							/* RP_LIBPQ_SERVER_H */
