/*
 * join_internal.h
 *	  Shared by the files of the join worker only: join.c (phases, retries),
 *	  join_copy.c (schema and data into one local transaction), join_dump.c
 *	  (running pg_dump).
 */
#ifndef RP_JOIN_INTERNAL_H
#define RP_JOIN_INTERNAL_H

#include "postgres.h"

#include "libpq-fe.h"

#include "members.h"
#include "peer_call.h"
#include "shmem.h"

#include "p2p_vector.h"

/* One try to copy. All memory of it is in `memory`. */
typedef struct RpJoin
{
	RpNode	   *node;
	MemoryContext memory;
	RpIdentity	me;
	/* from replp2p.local_node */
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	char		sponsor_dsn[P2P_DSN_SIZE];
	P2pId		sponsor;
	/* the donor's transaction: its snapshot and what belongs to it */
	RpPeerSession *donor;
	char		snapshot[64];
	P2pVector	vector;
	P2pStamp	stamp;			/* no row in the snapshot has a greater one */
} RpJoin;

/* A result of the donor, palloc'd. */
typedef struct RpJoinRows
{
	int			nrows;
	int			ncolumns;
	char	  **values;			/* row by row; NULL for NULL */
} RpJoinRows;

/* join.c */

/* Show a phase in stat_join; waits_for may be NULL. */
void		rp_join_phase(RpNode *node, const char *phase, const char *waits_for);
/* Run a statement on the donor's connection; ERROR if it fails. */
void		rp_join_run(RpJoin *join, const char *sql);
/* The same for a query; the rows are in CurrentMemoryContext. */
RpJoinRows *rp_join_query(RpJoin *join, const char *sql);
const char *rp_join_value(const RpJoinRows *rows, int row, int column);
/* ERROR: the donor's statement has failed. result may be NULL; it is cleared. */
void		rp_join_donor_error(PGresult *result, const char *error) pg_attribute_noreturn();
/* Read 32 hex digits. */
void		rp_join_id(const char *text, P2pId *id);

/* join_copy.c: copy all within the donor's snapshot, in one local transaction, and commit it. */
void		rp_join_copy(RpJoin *join);

/*
 * join_dump.c: what pg_dump writes of a section ("pre-data", "post-data") of
 * the donor's database in its snapshot: SQL alone, in CurrentMemoryContext.
 */
char	   *rp_join_dump(RpJoin *join, const char *section);

#endif							/* RP_JOIN_INTERNAL_H */
