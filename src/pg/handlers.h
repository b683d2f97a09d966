/*
 * handlers.h
 *	  Which conflict handler and which column merges a table has, and since
 *	  which change of the group.
 *
 * set_conflict_handler() and set_column_merge() insert a row into
 * replp2p.handler_changes, which is replicated: an ordinary transaction of the
 * stream, so that the change takes effect everywhere at one place of causal
 * order. Apply keeps what it comes to in replp2p.table_handlers, with the
 * version of each change, and here in its memory.
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

/* One change of the handler of a table. */
typedef struct RpHandlerChange
{
	P2pVersion	version;		/* of the transaction that made it; ancient if settled */
	RpHandlerKind kind;
	Oid			function;		/* RP_CUSTOM: InvalidOid if there is none such here */
	char		function_name[2 * NAMEDATALEN + 1];
} RpHandlerChange;

/* A column merge; from its change on, versions that have seen it carry deltas. */
typedef struct RpColumnMerge
{
	P2pVersion	version;
	AttrNumber	attno;			/* 1-based, of the table here */
	RpMergeKind kind;
} RpColumnMerge;

/* What holds for one table. */
typedef struct RpTableHandlers
{
	Oid			relid;
	bool		tracked;		/* a handler or merge, now or unsettled: its key sets are kept */
	int			nchanges;		/* ascending by version; the last settled one first, if any */
	RpHandlerChange *changes;
	int			nmerges;		/* the greatest change of each column, RP_MERGE_NONE left out once settled */
	RpColumnMerge *merges;
} RpTableHandlers;

/* Read replp2p.table_handlers; once per worker, and again after an error undid a registration. */
void		rp_handlers_load(RpNode *node);
/* What holds for a table; NULL: last_writer_wins and nothing else, and never tracked. Valid until the next registration. */
const RpTableHandlers *rp_handlers_of(Oid relid);
/*
 * A row of replp2p.handler_changes was inserted by this version, applied here or read from the own
 * log: note it (idempotent), set replica identity where deltas need it, and have the table's key sets built.
 */
struct TupleTableSlot;
void		rp_handlers_register(RpNode *node, struct TupleTableSlot *row, const P2pVersion *version);
/* The epoch of a version of this table: the greatest handler change in its past; ancient if none or settled. */
P2pVersion	rp_handler_epoch(const RpTableHandlers *handlers, const P2pKeyVersion *version);
/* The change that an epoch stands for; NULL: last_writer_wins. */
const RpHandlerChange *rp_handler_of_epoch(const RpTableHandlers *handlers, const P2pVersion *epoch);
/* Had this version seen the merge's change? Then it carries a delta. */
bool		rp_merge_is_seen(const RpColumnMerge *merge, const P2pKeyVersion *version);
/* Now and then, after stability has moved: mark changes settled, forget superseded ones. */
void		rp_handlers_settle(RpNode *node);
/* Is any change unsettled? Any process: while it is, nothing is trimmed. */
bool		rp_handlers_unsettled(RpNode *node);

#endif							/* RP_HANDLERS_H */
