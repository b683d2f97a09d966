/*
 * decode.h
 *	  The output plugin side of capture: which tables are replicated, how their
 *	  columns are sent, where TOAST values come from.
 */
#ifndef RP_DECODE_H
#define RP_DECODE_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/bitmapset.h"
#include "utils/relcache.h"

#include "capture.h"
#include "p2p_body.h"

/* How a column's value becomes bytes. */
typedef enum RpColumnForm
{
	RP_FORM_FIXED,				/* by value, 1 to 8 bytes: big-endian, as its send function has it */
	RP_FORM_RAW,				/* by reference, fixed length: as stored */
	RP_FORM_BYTES,				/* varlena whose send function copies its payload */
	RP_FORM_SEND,				/* send function */
	RP_FORM_TEXT				/* output function: types whose binary form means nothing elsewhere */
} RpColumnForm;

typedef struct RpDecodeColumn
{
	int			attno;			/* 0-based */
	bool		key;
	bool		counter;		/* updates and deletes carry its old value, too */
	bool		byval;
	int16		length;			/* attlen */
	RpColumnForm form;
	FmgrInfo	function;
} RpDecodeColumn;

/* A table as the historic snapshot of the current change shows it. */
typedef struct RpDecodeRelation
{
	Oid			relid;			/* hash key */
	bool		valid;
	bool		replicated;
	bool		is_rule;		/* replp2p.excluded_tables or table_handlers */
	bool		has_key;
	bool		full;			/* REPLICA IDENTITY FULL: old rows are complete */
	bool		has_counters;	/* and full */
	uint64		body;			/* number of the body that describes it as relno */
	uint32		relno;
	P2pRelation description;
	size_t		description_size;
	int			natts;
	RpDecodeColumn *columns;	/* description.ncolumns of them */
	/* scratch for one change, by attribute */
	Datum	   *new_values;
	bool	   *new_nulls;
	bool	   *new_missing;	/* TOAST value that is nowhere any more */
	Datum	   *old_values;
	bool	   *old_nulls;
	MemoryContext memory;		/* of all that hangs below */
} RpDecodeRelation;

/* Let the plugin in this process write to capture; NULL: nobody may use it. */
void		rp_decode_attach(RpCapture *capture);

/* Set up the cache of tables; once per process. */
void		rp_decode_relations_init(void);
/* The entry of an open relation, valid until the next call. In a decoding callback. */
RpDecodeRelation *rp_decode_relation(Relation relation);
/* A decoding callback may have been left by an ERROR: forget what was being built. */
void		rp_decode_relation_check(void);
/* A change of a table that says what is replicated, and how, was decoded: judge every table again. */
void		rp_decode_rules_changed(void);

/* For the catalogs as they are now, too: */

/* The attribute numbers (from 1) of the key by which a table's rows are known; empty: none is of use. */
Bitmapset  *rp_decode_key(Relation relation);
/* Do the bytes of the type's send function mean the same on every server? A domain: ask for its base. */
bool		rp_type_is_portable(Oid type);

/*
 * Fetch an on-disk TOAST value by its pointer, whoever still refers to it, into
 * CurrentMemoryContext, decompressed. NULL if any of it is gone or locked (patient: for long).
 */
struct varlena *rp_decode_toast_fetch(struct varlena *pointer, bool patient);

#endif							/* RP_DECODE_H */
