/*
 * p2p_resolve.h
 *	  The winner rule for one key: what an incoming change does to what is
 *	  here. A join over versions: order of arrival, duplication and relaying
 *	  cannot matter. No I/O, no locks: the caller has looked everything up.
 */
#ifndef P2P_RESOLVE_H
#define P2P_RESOLVE_H

#include "p2p_stamp.h"
#include "p2p_vector.h"

typedef enum P2pOp
{
	P2P_OP_INSERT = 1,
	P2P_OP_UPDATE,
	P2P_OP_DELETE
} P2pOp;

/* What is here for the key. Versions may be ancient (all zero). */
typedef struct P2pKeyState
{
	bool		row_exists;
	P2pVersion	row;			/* if row_exists */
	/* greatest delete of the key or truncate of its table; ancient if none */
	P2pVersion	tombstone;
} P2pKeyState;

typedef enum P2pAction
{
	P2P_KEEP,					/* what is here stays */
	P2P_INSERT_ROW,				/* no row here: store the incoming one */
	P2P_UPDATE_ROW,				/* overwrite the row with the incoming one */
	P2P_DELETE_ROW,				/* remove the row */
	P2P_REMEMBER_DELETE			/* no row here: only keep the tombstone */
} P2pAction;

/* Named as the core server names them (conflict.c of PostgreSQL 18). */
typedef enum P2pConflict
{
	P2P_NO_CONFLICT = 0,
	P2P_INSERT_EXISTS,
	P2P_INSERT_DELETED,			/* insert lost to, or overcame, a concurrent delete */
	P2P_UPDATE_ORIGIN_DIFFERS,
	P2P_UPDATE_DELETED,
	P2P_UPDATE_MISSING,			/* no row, no tombstone, version unknown: stored as a full row, no history row */
	P2P_DELETE_ORIGIN_DIFFERS,
	P2P_DELETE_MISSING,			/* deleted on both sides */
	/* Of a second unique key (p2p_unique.h); never decided here, but named here. */
	P2P_UPDATE_EXISTS,
	P2P_MULTIPLE_UNIQUE_CONFLICTS
} P2pConflict;

typedef struct P2pDecision
{
	P2pAction	action;
	P2pConflict conflict;		/* P2P_NO_CONFLICT unless truly concurrent */
	bool		incoming_wins;
	/* A delete whose version must be remembered as tombstone of the key. */
	bool		remember;
} P2pDecision;

/*
 * Decide what transaction version `incoming` (whose origin had applied `deps`
 * when it committed) does to the key. True conflict = the version here is not
 * in the incoming one's past (seq > deps[its origin]), and not same origin;
 * ancient versions are in everybody's past. Same dot: the later operation wins.
 */
P2pDecision p2p_resolve(P2pOp op, const P2pVersion *incoming, const P2pVector *deps,
						const P2pKeyState *here);

/* Is dot in the past of a transaction of origin `origin` with these deps? */
bool		p2p_in_past(const P2pDot *dot, const P2pDot *of, const P2pVector *deps);

/* What a true conflict of op with a row, or else with a delete, is called. */
P2pConflict p2p_conflict_of(P2pOp op, bool against_row);

/* "insert_exists", ...; static memory. */
const char *p2p_conflict_name(P2pConflict conflict);

#endif							/* P2P_RESOLVE_H */
