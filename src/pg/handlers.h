/*
 * handlers.h
 *	  Which conflict handler and which column merges a table has, and since
 *	  which change of the group.
 *
 * set_conflict_handler() and set_column_merge() insert a row into
 * replp2p.handler_changes, which is replicated: an ordinary transaction of the
 * stream, so that the change takes effect everywhere at one place of causal
 * order. What it comes to is kept in replp2p.table_handlers, with the
 * version of each change, and by apply in its memory.
 *
 * A version has seen a change if its transaction has that of the change in its
 * past. The transaction of the change itself has not: what it wrote, before or
 * after, is judged as before.
 *
 * A change is settled once every version that has not seen it is stable; until
 * then versions are compared by epoch first (p2p_keyset.h), and nothing is trimmed.
 *
 * Only apply calls these, in a transaction, unless it says otherwise.
 */
#ifndef RP_HANDLERS_H
#define RP_HANDLERS_H

#include "keyindex.h"
#include "p2p_keyset.h"

typedef enum RpHandlerKind
{
	RP_LAST_WRITER_WINS = 0,
	RP_VECTOR_CLOCK,
	RP_CUSTOM
} RpHandlerKind;

typedef enum RpMergeKind
{
	RP_MERGE_NONE = 0,
	RP_MERGE_COUNTER,
	RP_MERGE_MAX,
	RP_MERGE_MIN
} RpMergeKind;

/* Schema and name of a function, quoted where need be. */
#define RP_FUNCTION_NAME_SIZE (2 * (2 * NAMEDATALEN + 2))

/*
 * Which transaction made a change. One made here is looked up by its xid until capture has given
 * it a seq.
 */
typedef struct RpChangeVersion
{
	P2pVersion	version;		/* seq 0: not captured yet, and so seen by nobody */
	TransactionId xid;
	bool		settled;
} RpChangeVersion;

/* One change of the handler of a table. */
typedef struct RpHandlerChange
{
	RpChangeVersion made;
	RpHandlerKind kind;
	Oid			function;		/* RP_CUSTOM: InvalidOid if there is none here that will do */
	char		function_name[RP_FUNCTION_NAME_SIZE];
} RpHandlerChange;

/* A column merge; versions that have seen it, and no later one of the column, obey it. */
typedef struct RpColumnMerge
{
	RpChangeVersion made;
	AttrNumber	attno;			/* 1-based, of the table here */
	RpMergeKind kind;
	struct RpColumnMerge *next; /* the next greater change of the same column, or NULL */
} RpColumnMerge;

/* What holds for one table. */
typedef struct RpTableHandlers
{
	Oid			relid;
	bool		tracked;		/* a handler or merge, now or unsettled: its key sets are kept */
	int			nchanges;		/* ascending by version; the last settled one first, if any */
	RpHandlerChange *changes;
	int			nmerges;		/* as changes, column by column; a settled RP_MERGE_NONE is left out */
	RpColumnMerge *merges;
} RpTableHandlers;

/*
 * Read replp2p.table_handlers; once per worker, before rp_keysets_build(). Later changes are
 * noticed by themselves.
 */
void		rp_handlers_load(RpNode *node);
/*
 * What holds for a table; NULL: last_writer_wins and nothing else, and not tracked. Valid
 * until the transaction ends. Ask while holding a lock on the table, such as
 * rp_relation_open() takes: it keeps changes made here out. A table that became tracked has
 * its key sets built before this returns.
 */
const RpTableHandlers *rp_handlers_of(Oid relid);
/*
 * A row of replp2p.handler_changes was inserted by this version: note it, and set the
 * replica identity where deltas need it. Takes effect with the commit. Idempotent; for
 * changes made here there is nothing to do. No relation of the transaction may be open.
 */
struct TupleTableSlot;
void		rp_handlers_register(RpNode *node, struct TupleTableSlot *row, const P2pVersion *version);
/*
 * The epoch of a version of this table: the greatest handler change that it has seen;
 * ancient if none, and if handlers is NULL. Settled changes count as any other, so that what
 * is in a key set stays comparable.
 */
P2pVersion	rp_handler_epoch(const RpTableHandlers *handlers, const P2pKeyVersion *version);
/* The change that an epoch stands for; NULL: last_writer_wins. */
const RpHandlerChange *rp_handler_of_epoch(const RpTableHandlers *handlers, const P2pVersion *epoch);
/*
 * Has the version not seen a change of the table's handler that is settled? Then it is stable, and whatever is here
 * was judged with it while epochs were still known. It must not be compared again with what is kept
 * beyond that, displaced rows above all: one of a greater epoch may have the lesser stamp. No lock is needed.
 */
bool		rp_handlers_is_past(Oid relid, const RpSlotVersion *version, const P2pVector *deps);
/*
 * Does this version obey the merge: has it seen its change, and no later one of the column?
 * Of a counter: then it carries a delta, if the log has the old value.
 */
bool		rp_merge_is_seen(const RpColumnMerge *merge, const P2pKeyVersion *version);
/* May any table be tracked? Costs nothing. */
bool		rp_handlers_in_use(void);
/* Is there surely one, as far as has been looked? */
bool		rp_handlers_are_known(void);
/*
 * Now and then, in a transaction of its own: find out what is settled by now, forget superseded
 * changes.
 */
void		rp_handlers_settle(RpNode *node);
/*
 * May a change be unsettled? Any process: while it may, nothing is trimmed. True until apply has
 * looked.
 */
bool		rp_handlers_unsettled(RpNode *node);

#endif							/* RP_HANDLERS_H */
