/*
 * join_internal.h
 *	  Shared by the files of the join worker and its copiers only.
 *
 *	  join.c         phases, retries: the join worker
 *	  join_donor.c   a try, and its session with a donor
 *	  join_donors.c  other members that tables are copied from, besides the sponsor
 *	  join_dump.c    running pg_dump
 *	  join_schema.c  executing what pg_dump has written; undoing it
 *	  join_plan.c    what is to be copied, and what has been: the tables join_*
 *	  join_table.c   the rows of one COPY of the donor into a table
 *	  join_pieces.c  copying pieces, in the join worker and in copiers beside it
 *	  join_renew.c   a table whose pieces are of several snapshots
 *	  join_patch.c   a table that was copied from another member than the sponsor
 *	  join_copy.c    the order of it all, and the commit that makes it count
 */
#ifndef RP_JOIN_INTERNAL_H
#define RP_JOIN_INTERNAL_H

#include "postgres.h"

#include "libpq-fe.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "join_plan.h"
#include "members.h"
#include "peer_call.h"
#include "shmem.h"

#include "p2p_vector.h"

/*
 * One try to copy, over one session. All memory of it is in `memory`. The join worker has one with
 * its sponsor, and one more for each other donor, which shares the memory.
 */
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
	/* the donor: the sponsor, or another member */
	P2pId		donor_id;
	const char *donor_dsn;
	const char *donor_name;		/* NULL: the sponsor */
	List	   *facts;			/* RpJoinFacts: of tables that may be copied from several */
	/* its transaction: its snapshot and what belongs to it */
	RpPeerSession *donor;
	char		snapshot[RP_SNAPSHOT_NAME_SIZE];	/* as exported */
	const char *seen;			/* pg_current_snapshot(): what it sees */
	uint64		seen_xmin;		/* all older xids had ended */
	P2pVector	vector;
	const char *vector_text;	/* the same with the stamp, as a bytea is written */
	P2pStamp	stamp;			/* no row in the snapshot has a greater one */
	pid_t		leader;			/* the join worker */
	int			settings_level; /* between rp_join_write_begin and _commit */
	char		sponsor_name[NAMEDATALEN];	/* once admitted */
	List	   *others;			/* RpJoin: the other donors, in the join worker */
	bool		copied;			/* it has begun to copy pieces */
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

/* join_donor.c */

/* Begin a try: read what join_group has recorded. The try lives in CurrentMemoryContext. */
RpJoin	   *rp_join_begin(RpNode *node);
/* Make one for another donor, in the same memory. Strings are not copied. */
RpJoin	   *rp_join_for_donor(const RpJoin *join, const P2pId *id, const char *name,
							  const char *dsn);
/* Open the session with the donor; ERROR if it fails. */
void		rp_join_donor_open(RpJoin *join);
/* Begin a transaction there whose snapshot has a vector; ERROR if there is none. */
void		rp_join_snapshot_take(RpJoin *join);
/* Pin the settings of that session; lock_timeout as in SET. */
void		rp_join_donor_settings(RpJoin *join, const char *lock_timeout);
/* Run a statement on the donor's connection; ERROR if it fails. */
void		rp_join_run(RpJoin *join, const char *sql);
/* The same for a query; the rows are in CurrentMemoryContext. */
RpJoinRows *rp_join_query(RpJoin *join, const char *sql);
const char *rp_join_value(const RpJoinRows *rows, int row, int column);
/* Note what the donor's transaction sees. */
void		rp_join_seen_read(RpJoin *join);
/* ERROR: the donor's statement has failed. result may be NULL; it is cleared. */
void		rp_join_donor_error(const RpJoin *join, PGresult *result,
								const char *error) pg_attribute_noreturn();
/* Read 32 hex digits. */
void		rp_join_id(const char *text, P2pId *id);

/* join_donors.c */

/* Note which tables the sponsor could share with other donors, before anybody's snapshot. */
void		rp_join_donors_begin(RpJoin *join);
/* Open sessions with other donors, and take their snapshots; the sponsor's comes after. */
void		rp_join_donors_open(RpJoin *join);
/* Is all in the sponsor's snapshot that is in theirs? */
bool		rp_join_donors_covered(RpJoin *join);
/* Leave out those of which it is not. */
void		rp_join_donors_drop_ahead(RpJoin *join);
/* Part the sponsor's tables (RpJoinTable) among all donors, and lock them there. */
void		rp_join_donors_assign(RpJoin *join, List *tables);
/* Go on with a plan: tables that can't be gone on with are the sponsor's again. In a write. */
void		rp_join_donors_resume(RpJoin *join);
/* Show copiers whom to copy from. */
void		rp_join_donors_show(RpJoin *join);
/* End their sessions: their pieces are here. */
void		rp_join_donors_close(RpJoin *join);

/* join_copy.c */

/* Copy all that is not copied yet, and commit it: the node is in catchup then. */
void		rp_join_copy(RpJoin *join);
/*
 * A transaction that writes for the join; ERROR if the node does not join any
 * more. After an ERROR the caller aborts, and resets the session's origin.
 */
void		rp_join_write_begin(RpJoin *join);
void		rp_join_write_commit(RpJoin *join);

/*
 * join_dump.c: what pg_dump writes of a section ("pre-data", "post-data") of
 * the donor's database in its snapshot: SQL alone, in CurrentMemoryContext.
 */
char	   *rp_join_dump(RpJoin *join, const char *section);

/* join_schema.c */

typedef struct RpJoinStatement
{
	const char *text;
	Oid			index_on;		/* it makes an index on this table, and nothing else; or InvalidOid */
} RpJoinStatement;

/* Take a script apart, without what is each node's own affair. In a transaction. */
List	   *rp_join_statements(const char *script);
/* Execute statements of such a list. */
void		rp_join_execute(const List *statements);

/* join_plan.c */

/* What must be the same for a table to be copied from another donor, and where it is at one. */
typedef struct RpJoinFacts
{
	const char *schema;
	const char *name;
	const char *shape;			/* its columns and key */
	Oid			oid;
	Oid			file;
	int64		blocks;
	int64		bytes;
} RpJoinFacts;

/* A table to be copied in pieces. */
typedef struct RpJoinTable
{
	const char *schema;
	const char *name;
	Oid			donor_oid;
	Oid			donor_file;		/* its relfilenode there: block numbers hold as long as it is the same */
	int64		blocks;
	int64		bytes;			/* with TOAST */
	const char *key;			/* quoted columns of a unique key that is never NULL; or NULL */
	bool		excluded;		/* not replicated at the donor: no data, and excluded here, too */
	const RpJoin *other;		/* NULL: copied from the sponsor; else where oid, file, sizes are of */
} RpJoinTable;

/* A part of a table, and what has been copied of it. */
typedef struct RpJoinPiece
{
	int32		number;
	Oid			relation;
	int64		first_block;
	int64		end_block;		/* exclusive; -1 = to the end of the table */
	int64		bytes;
} RpJoinPiece;

/* A table that has pieces of other snapshots than this one. */
typedef struct RpJoinStale
{
	Oid			relation;
	uint64		since_xmin;		/* rows of older xids at the donor are right here */
	const char *key;
} RpJoinStale;

/* A table that was copied from another donor: all of it, since it saw vector. */
typedef struct RpJoinForeign
{
	Oid			relation;
	const char *key;
	const char *vector;			/* as RpJoin.vector_text, of its first snapshot */
	bool		complete;		/* all pieces are here */
	P2pId		donor;
	Oid			donor_oid;
	Oid			donor_file;
} RpJoinForeign;

/* Read and lock the donor's tables. */
List	   *rp_join_tables(RpJoin *join);
/* Is there a plan for this schema (its hash), of tables that are here? In a write. */
bool		rp_join_plan_fits(const uint8 hash[P2P_HASH_SIZE]);
/* Is there any? In a write. */
bool		rp_join_plan_is_there(void);
/* Make it; the schema is here. In a write. */
void		rp_join_plan_make(RpJoin *join, const uint8 hash[P2P_HASH_SIZE], List *tables);
/* Take back pieces that can't be gone on with in this snapshot. In a write. */
void		rp_join_plan_renew(RpJoin *join, List *tables);
/* Forget the plan: what it was for is there. In a write. */
void		rp_join_plan_forget(void);
/* Is a statement of the post-data section done, has it been done now? In a write. */
bool		rp_join_step_is_done(const char *statement);
void		rp_join_step_done(const char *statement);
/* Are all indexes that were made among those that these statements make? In a write. */
bool		rp_join_steps_fit(const List *statements);
/* Take a piece of the donor that nobody copies, and lock it; false: none. In a write. */
bool		rp_join_piece_take(RpJoin *join, RpJoinPiece *piece);
/* It is copied. In the same write. */
void		rp_join_piece_done(RpJoin *join, const RpJoinPiece *piece, int64 rows);
/* Pieces not copied yet. In a write. */
int64		rp_join_pieces_left(void);
/* Have stat_join say what the plan says. In a write. */
void		rp_join_progress_load(RpNode *node);
/* Tables with pieces of another snapshot; RpJoinStale in CurrentMemoryContext. In a write. */
List	   *rp_join_stale(RpJoin *join);
/* The pieces of a table are of this snapshot now. In a write. */
void		rp_join_renewed(RpJoin *join, Oid relation);
/* Tables of other donors; RpJoinForeign in CurrentMemoryContext. In a write. */
List	   *rp_join_foreign(void);
/* The table is the sponsor's from here on: to be copied anew, or (taken) as it is. In a write. */
void		rp_join_table_to_sponsor(RpJoin *join, Oid relation, bool taken);

/* join_table.c */

/* Columns that a COPY of the table has: String nodes. */
List	   *rp_join_columns(Relation rel);
/* The same, quoted, with commas between. */
char	   *rp_join_column_list(Relation rel);
/* May its rows be copied in binary? */
bool		rp_join_is_portable(Relation rel);
/*
 * Have the donor execute COPY select TO STDOUT (select: a table with columns, or a query in
 * parentheses) and store the rows; columns as of rp_join_columns. Returns their number.
 */
int64		rp_join_copy_rows(RpJoin *join, const char *select, Relation rel, List *columns,
							  bool binary);

/* join_pieces.c: copy all pieces, with copiers beside this process. */
void		rp_join_pieces_copy(RpJoin *join);

/* join_renew.c */

/* Bring tables of other snapshots to this one. */
void		rp_join_renew(RpJoin *join);
/* Run a statement of our own, as the superuser that this process is. In a write. */
uint64		rp_join_statement(const char *sql, int expected);
/* Make an empty temporary table with these columns of a table. In a write. */
void		rp_join_temporary_make(const char *temporary, const char *columns, const char *table);
/* Fill a temporary table by a query of the donor. In a write. */
int64		rp_join_fetch(RpJoin *join, const char *temporary, const char *query, bool binary);
/* The condition that t and k have the same key: k is a temporary table of its columns alone. */
char	   *rp_join_keys_equal(const char *temporary);

/*
 * join_patch.c: have tables of other donors be as the sponsor has them; false: some are to be copied
 * from it instead.
 */
bool		rp_join_patch(RpJoin *join);

#endif							/* RP_JOIN_INTERNAL_H */
