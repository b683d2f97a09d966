/*
 * logpass.h
 *	  Walking the change log of one member, item by item, to index what is in
 *	  it: keyindex.c, keyset_read.c and ownlog.c are the ones that do.
 */
#ifndef RP_LOGPASS_H
#define RP_LOGPASS_H

#include "apply_relation.h"
#include "keyindex.h"
#include "shmem.h"

typedef struct RpLogPass RpLogPass;

/* A table as the current body describes it. */
typedef struct RpPassTable RpPassTable;

/* One change; valid until the visit returns. */
typedef struct RpPassItem
{
	P2pTag		tag;			/* INSERT, UPDATE, DELETE or TRUNCATE */
	uint32		number;			/* within its transaction, from 1: see step.h */
	RpSlotVersion version;		/* of its transaction */
	const P2pVector *deps;		/* likewise */
	RpPassTable *table;			/* INSERT, UPDATE, DELETE */
	const P2pValue *old_values; /* NULL if there are none */
	const P2pValue *new_values;
	int			ntables;		/* TRUNCATE */
	RpPassTable **tables;
} RpPassItem;

/* Called for each item, in memory that is reset after it; false: enough, end the pass. */
typedef bool (*RpPassVisit) (const RpPassItem *item, void *arg);

/*
 * Visit what a member's log holds after after_seq, up to limit_seq; return the last seq
 * that was read whole. What has been trimmed is left out: it is stable. In a transaction.
 */
uint64		rp_log_pass(RpNode *node, int slot, uint64 after_seq, uint64 limit_seq,
						RpPassVisit visit, void *arg);
/* Visit one transaction; false: the log does not have it, or no longer. */
bool		rp_log_pass_one(RpNode *node, int slot, uint64 seq, RpPassVisit visit, void *arg);

/*
 * A pass that stays open. Its memory, and its file, go with CurrentMemoryContext at its
 * beginning. After an ERROR out of rp_pass_run it is of no use any more.
 */
RpLogPass  *rp_pass_begin(RpNode *node, int slot, uint64 after_seq, RpPassVisit visit, void *arg);
uint64		rp_pass_run(RpLogPass *pass, uint64 limit_seq);

/* The table's oid here (no lock; InvalidOid: none of that name). */
Oid			rp_pass_relid(RpPassTable *table);
/* Its map for reading (rp_relation_map_for_reading). */
RpRelationMap *rp_pass_map(RpPassTable *table);

/* The keys of an item. */
typedef struct RpPassKeys
{
	TupleTableSlot *old;		/* NULL: no old values */
	TupleTableSlot *new;		/* NULL: a delete */
	RpKeyHash	old_key;		/* if old */
	RpKeyHash	new_key;		/* if new */
	bool		moved;			/* an update that changed the key */
} RpPassKeys;

/*
 * Read the key columns of an item's tuples, and the columns in also (attribute numbers, 0-based;
 * NULL: none); other columns of the slots are null. False: the table is not here any more, or has no key.
 */
bool		rp_pass_keys(const RpPassItem *item, const Bitmapset *also, RpPassKeys *keys);

#endif							/* RP_LOGPASS_H */
