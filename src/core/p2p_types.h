/*
 * p2p_types.h
 *	  The nouns that everything else is said with: node id, origin, dot,
 *	  stamp, version, status.
 *
 * The core is pure C11: no PostgreSQL header, clock, socket, file, malloc or
 * random number.  Time and randomness are arguments, memory is handed in.
 * Functions that read bytes from a network or a disk never assert on them:
 * they return a P2pStatus.
 */
#ifndef P2P_TYPES_H
#define P2P_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define P2P_ID_SIZE 16			/* node id, group id */
#define P2P_PUBLIC_KEY_SIZE 32	/* Ed25519 */
#define P2P_SECRET_KEY_SIZE 64	/* Ed25519, libsodium's form */
#define P2P_SIGNATURE_SIZE 64
#define P2P_HASH_SIZE 32		/* BLAKE2b-256 */

/* Members of a group, former ones and earlier epochs included. */
#define P2P_MAX_MEMBERS 128

typedef enum P2pStatus
{
	P2P_OK = 0,
	P2P_END,					/* nothing more; not an error */
	P2P_TORN,					/* the bytes end in the middle of something */
	P2P_CORRUPT,				/* checksum or structure is wrong */
	P2P_TOO_LARGE,				/* a declared limit is exceeded */
	P2P_NO_SPACE,				/* the memory handed in does not suffice */
	P2P_BAD_SIGNATURE,
	P2P_BAD_VERSION,			/* format or protocol version unknown */
	P2P_FOREIGN_GROUP,
	P2P_REFUSED					/* well formed, but not allowed here and now */
} P2pStatus;

/* Return a short lower-case text for status ("bad signature"); static memory. */
const char *p2p_status_text(P2pStatus status);

/* BLAKE2b-128 of an Ed25519 public key, or a random group id. */
typedef struct P2pId
{
	uint8_t		bytes[P2P_ID_SIZE];
} P2pId;

/* One incarnation of a node. Epochs start at 1. */
typedef struct P2pOrigin
{
	P2pId		id;
	uint32_t	epoch;
} P2pOrigin;

/* Names one transaction in the whole group. seq starts at 1. */
typedef struct P2pDot
{
	P2pOrigin	origin;
	uint64_t	seq;
} P2pDot;

/* Hybrid logical time, microseconds since 2000-01-01 UTC (TimestampTz). */
typedef int64_t P2pStamp;

/*
 * Version of a row. The order of versions is (stamp, id, epoch, seq). All
 * bytes zero is "older than everything".
 */
typedef struct P2pVersion
{
	P2pStamp	stamp;
	P2pDot		dot;
} P2pVersion;

/* Compare in the total order of ids, of origins: < 0, 0, > 0. */
int			p2p_id_compare(const P2pId *a, const P2pId *b);
int			p2p_origin_compare(const P2pOrigin *a, const P2pOrigin *b);
bool		p2p_origin_equal(const P2pOrigin *a, const P2pOrigin *b);

/* Write id as 32 lower-case hex digits and a zero byte; read it back. */
#define P2P_ID_TEXT_SIZE (2 * P2P_ID_SIZE + 1)
void		p2p_id_to_text(const P2pId *id, char text[P2P_ID_TEXT_SIZE]);
bool		p2p_id_from_text(const char *text, P2pId *id);

#endif							/* P2P_TYPES_H */
