/*
 * compat.h
 *	  The only place that knows server versions: each difference under a name
 *	  of our own.
 */
#ifndef RP_COMPAT_H
#define RP_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "replp2p supports PostgreSQL 15"
#endif

/* This server's version as a number (150020), to be told to others. */
#define RP_SERVER_VERSION PG_VERSION_NUM
#define RP_MAJOR_OF(version) ((version) / 10000)

#endif							/* RP_COMPAT_H */
