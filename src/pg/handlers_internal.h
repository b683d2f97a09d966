/*
 * handlers_internal.h
 *	  Shared by the files of conflict handlers only: handlers.c (what holds, in
 *	  apply's memory), handlers_catalog.c (the tables behind it), fn_handlers.c
 *	  (SQL).
 */
#ifndef RP_HANDLERS_INTERNAL_H
#define RP_HANDLERS_INTERNAL_H

#include "handlers.h"

/* A row of replp2p.handler_changes: what its author has set. */
typedef struct RpHandlerRow
{
	P2pOrigin	author;
	int64		serial;			/* per author, grows */
	char		schema[NAMEDATALEN];
	char		table[NAMEDATALEN];
	char		column[NAMEDATALEN];	/* empty: the handler itself */
	char		setting[NAMEDATALEN];
	char		function[RP_FUNCTION_NAME_SIZE];	/* empty unless custom */
} RpHandlerRow;

/* A row of replp2p.table_handlers. */
typedef struct RpHandlerEntry
{
	RpHandlerRow row;
	Oid			relid;			/* InvalidOid: there was no such table here */
	AttrNumber	attno;			/* 0: the handler itself, or no such column here */
	RpChangeVersion made;
	bool		seq_is_news;	/* the version index knew it; the table does not yet */
	P2pVector  *settle_at;		/* settled once this is stable; NULL = not known yet */
} RpHandlerEntry;

/* Names as SQL has them; false: there is no such. */
bool		rp_handler_kind_by_name(const char *name, RpHandlerKind *kind);
bool		rp_merge_kind_by_name(const char *name, RpMergeKind *kind);

/*
 * handlers_catalog.c. All between catalog open and close.
 */

/*
 * Read all entries, in CurrentMemoryContext, ascending by version; those of one transaction by
 * serial.
 */
RpHandlerEntry *rp_handler_entries_read(RpNode *node, uint64 *n);
/*
 * Note a change (made NULL: by the current transaction) unless it is noted already; returns
 * whether it was not. relid and attno: where it leads here.
 */
bool		rp_handler_entry_add(RpNode *node, const RpHandlerRow *row, Oid relid, AttrNumber attno,
								 const RpChangeVersion *made);
/* Was the change noted by the current transaction, so that it does not hold yet? */
bool		rp_handler_entry_is_new(const RpHandlerRow *row);
/*
 * If the version is that of a transaction here and captured by now, fill it in; returns whether it
 * is known.
 */
bool		rp_change_version_resolve(RpNode *node, RpChangeVersion *made);
/* Where names lead here: an ordinary table and (unless empty) a column of it. Takes no lock. */
void		rp_handler_row_resolve(const RpHandlerRow *row, Oid *relid, AttrNumber *attno);
/*
 * Have updates of the table carry old values: REPLICA IDENTITY FULL. Returns whether it was not;
 * ERROR if it may not be.
 */
bool		rp_old_values_required(Oid relid);

/* fn_handlers.c: why a function cannot decide conflicts of a table, as a sentence; NULL: it can. */
const char *rp_handler_function_unfit(Oid function, Oid relid);
/* Find one by its name, for the row type of the table; InvalidOid if none here will do. */
Oid			rp_handler_function_find(const char *name, Oid relid);

/* handlers.c: what is in memory may be out of date. */
void		rp_handlers_stale(void);

#endif							/* RP_HANDLERS_INTERNAL_H */
