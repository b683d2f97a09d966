/*
 * displaced.h
 *	  Displaced rows: live rows that a greater row keeps out of the table, since
 *	  both claim one value of a second unique key. What apply_unique.c (storing),
 *	  displaced.c (the tables), displaced_notes.c (local writes) and displaced_follow.c
 *	  (coming back) share.
 *
 * Only apply calls these, in a transaction, unless it says otherwise.
 */
#ifndef RP_DISPLACED_H
#define RP_DISPLACED_H

#include "apply_internal.h"

struct RpPassItem;

/* displaced.c */

/* Read which tables and keys have displaced rows; once, before the own log is followed. */
void		rp_displaced_load(RpNode *node);
/* May the table have displaced rows? No look-up. */
bool		rp_displaced_in(Oid relid);
/* May the row of that key be displaced? No look-up. */
bool		rp_displaced_key(RpKeyHash hash);
/* May no table have any? Is any table to be judged again? */
bool		rp_displaced_is_empty(void);
bool		rp_displaced_any_dirty(void);
/* Drop nothing as stable until displaced_follow.c has gone through. */
void		rp_displaced_hold(RpNode *node);
/* Something changed in a table: if it has displaced rows, they are to be judged again. */
void		rp_displaced_touch(Oid relid);
/*
 * Keep a row of the table, with its version, as displaced by another. The caller takes it
 * out of the table. As the table's owner.
 */
void		rp_displaced_put(RpApplyTransaction *txn, RpOpenRelation *open,
							 TupleTableSlot *row, const RpSlotVersion *version,
							 TupleTableSlot *by, const RpSlotVersion *by_version);
/*
 * Remember for good the version of a row in the table that displaces others: it must stay
 * comparable when everybody has forgotten it as stable.
 */
void		rp_displaced_pin(RpOpenRelation *open, TupleTableSlot *row, const RpSlotVersion *version);
/* A row has another version now: if it is pinned, with that one. */
void		rp_displaced_pin_renew(RpOpenRelation *open, TupleTableSlot *row, const RpSlotVersion *version);
/* The version that was remembered for the row of that key; false: none. */
bool		rp_displaced_pinned(RpOpenRelation *open, TupleTableSlot *row, RpSlotVersion *version);
/* Forget the displaced rows that a truncate of the table removes. */
void		rp_displaced_truncate(RpApplyTransaction *txn, Oid relid);
/* A displaced row as it is walked over. */
typedef struct RpDisplacedRow
{
	RpKeyHash	hash;
	RpSlotVersion version;
	bytea	   *image;
	RpSlotVersion by_version;	/* of the row that is shown as the one that displaces it */
	uint64		known_seq;		/* local writes up to here were known when it was displaced */
} RpDisplacedRow;

/*
 * The displaced rows of a table, RpDisplacedRow *, the greatest first: at most limit of those
 * below after, or of all (NULL). In CurrentMemoryContext.
 */
List	   *rp_displaced_list(Oid relid, const RpDisplacedRow *after, int limit);
/* Forget the one of that key. */
void		rp_displaced_forget(Oid relid, RpKeyHash hash);
/*
 * Forget the one of that key, or all of the table (NULL), if its version is less than that of a local write, which was
 * not known when it was displaced.
 */
void		rp_displaced_forget_older(Oid relid, const RpKeyHash *hash, const RpSlotVersion *version);
/* Show another row as the one that displaces it. */
void		rp_displaced_set_by(RpOpenRelation *open, const RpDisplacedRow *row,
								TupleTableSlot *by, const RpSlotVersion *by_version);
/*
 * Open a table to judge its displaced rows; NULL: it has gone, or has no replica identity any more.
 */
RpOpenRelation *rp_displaced_open(Oid relid);
/* Remove the pins of a table other than those of these keys, RpKeyHash *. */
void		rp_displaced_unpin(Oid relid, List *used);
/* Remove what belongs to tables that are not there any more; true if there was any. */
bool		rp_displaced_remove_orphans(void);

/* The oids of the tables that may have displaced rows. In CurrentMemoryContext. */
List	   *rp_displaced_tables(void);
/* Are the table's displaced rows to be judged again? */
bool		rp_displaced_is_dirty(Oid relid);
void		rp_displaced_set_dirty(Oid relid, bool dirty);
/* The table has none any more, as of a transaction that has committed. */
void		rp_displaced_table_done(Oid relid);

/* displaced_notes.c */

/*
 * An item of the own log: a local write supersedes the displaced row of its key. May be called
 * outside a transaction.
 */
void		rp_displaced_visit(const struct RpPassItem *item);
/*
 * A local client has inserted the key of a displaced row: does tracked_follow.c add up what both
 * have counted?
 */
bool		rp_displaced_is_followed(Oid relid, RpKeyHash hash);
/* Does a note say that this displaced row of the table is to be forgotten? */
bool		rp_displaced_is_superseded(Oid relid, const RpDisplacedRow *row);
/*
 * Carry out the notes of the own log in this transaction, true if any; after its commit call
 * rp_displaced_notes_done.
 */
bool		rp_displaced_notes_apply(void);
void		rp_displaced_notes_done(void);

/* displaced_follow.c */

/* tracked_follow.c is through with all keys that it was to look at: what waited for it may be forgotten. */
void		rp_displaced_keys_followed(void);

/* apply_unique.c */

/* A row in the table that claims a unique value that another row claims, too. */
typedef struct RpNeighbour
{
	TupleTableSlot *row;
	RpSlotVersion version;
} RpNeighbour;

typedef enum RpVerdict
{
	RP_STANDS,
	RP_DISPLACED,
	RP_BUSY						/* with txn->no_wait: a local transaction is at it */
} RpVerdict;

/*
 * Judge row against those in the table other than the tuple *self (NULL: row is not in it).
 * *neighbours: all that conflict with it, RpNeighbour *; *greatest: the greatest of those that
 * displace it. lock: lock them. As the table's owner; the list is in CurrentMemoryContext, and to
 * be released.
 */
RpVerdict	rp_unique_judge_row(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row,
								const RpSlotVersion *version, ItemPointer self, bool lock,
								List **neighbours, RpNeighbour **greatest);
/* Give up what the slots of neighbours hold. */
void		rp_unique_release(List *neighbours);

#endif							/* RP_DISPLACED_H */
