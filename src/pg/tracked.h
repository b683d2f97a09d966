/*
 * tracked.h
 *	  One key of a tracked table in work: what apply_tracked.c (a change),
 *	  tracked_follow.c (folding again), merge_function.c (custom handlers),
 *	  merge_columns.c (counter, max, min) and siblings.c (the view siblings)
 *	  hand to one another.
 *
 * All of it lives in CurrentMemoryContext of who looked the key up: the context of one change.
 */
#ifndef RP_TRACKED_H
#define RP_TRACKED_H

#include "apply_internal.h"
#include "handlers.h"
#include "keyset.h"

/* A row by columns, as many as the table has attributes. Datums may point into open->local. */
typedef struct RpImage
{
	Datum	   *values;
	bool	   *isnull;
} RpImage;

typedef struct RpTrackedKey
{
	RpNode	   *node;
	RpOpenRelation *open;
	const RpTableHandlers *handlers;
	TupleTableSlot *key;		/* its key columns are set; NULL: not known (tracked_follow.c) */
	RpKeyHash	hash;
	P2pKeySet  *set;
	bool		row_exists;		/* open->local has the row, locked */
	RpSlotVersion row_version;	/* by its xmin; nothing of ours, or older than everything: seq 0 */
	bool		is_displaced;	/* it is not in the table, but in displaced_rows */
	bool		over_displaced; /* in the table by a local client, who could not see the one in displaced_rows */
	RpImage    *here;			/* the row that is here, in either place, before newcomer came; NULL: none */
	int64		newcomer;		/* index in set of the version being applied; -1: none */
	bool		hands_off;		/* the row is right; only who stands is asked */
	bool		held;			/* there is no row, and nobody else can insert one before our commit */
	RpImage   **images;			/* by index in set; filled by rp_tracked_image */

	/* rp_tracked_settle: what the set comes to */
	const P2pKeyVersion *winner;	/* NULL: the set is empty */
	const P2pKeyVersion **standing; /* ascending */
	uint32		nstanding;
	bool		newcomer_wins;
	bool		moved;			/* storing has had the own log followed: winner and standing are not to be looked at */
	RpImage    *row;			/* that must be here; NULL: none */
	bool		merged;			/* made of more than the winner */
	bool		rewrite;		/* to be written even if it is here: see apply_tracked.c */
	char	   *message;		/* f's own error: the winner stands; NULL: none */
} RpTrackedKey;

/*
 * apply_tracked.c: the row image of a version of the set that is no delete; read from the log but
 * once.
 */
RpImage    *rp_tracked_image(RpTrackedKey *t, const P2pKeyVersion *version);
/* Find, lock, and know every version of the key by now. t: node, open, key and hash are set. */
void		rp_tracked_look(RpApplyTransaction *txn, RpTrackedKey *t);
/*
 * Judge the set and have what it comes to stand here; false: somebody inserted the key meanwhile,
 * look again.
 */
bool		rp_tracked_settle(RpApplyTransaction *txn, RpTrackedKey *t);
/*
 * tracked_follow.c: the key's values, read from a version of the set that stored a row; false:
 * there is none.
 */
bool		rp_tracked_key_values(RpTrackedKey *t, TupleTableSlot *key);
/* A copy in CurrentMemoryContext of a slot's columns; of an image (values themselves are shared). */
RpImage    *rp_image_of_slot(TupleTableSlot *slot);
RpImage    *rp_image_copy(const RpImage *image, int natts);
/* A version of the set with the slot in place of the origin. */
RpSlotVersion rp_tracked_slot_version(RpNode *node, const P2pKeyVersion *version);
/* Is the version stable? Then nobody can come who has not seen it. */
bool		rp_tracked_is_stable(RpNode *node, const P2pKeyVersion *version);
/* "insert", "update", "delete" */
const char *rp_op_name(P2pOp op);

/*
 * merge_function.c: fold the handler's function over the standing versions. true: *result is what
 * came out (NULL: no row); false: f raised an error of its own, *message is its text. Whatever else
 * goes wrong is an ERROR.
 */
bool		rp_merge_function_fold(RpTrackedKey *t, const RpHandlerChange *handler,
								   RpImage **result, char **message);

/* merge_columns.c: set the columns of t->row that have a merge. */
void		rp_merge_columns(RpTrackedKey *t);
/* Add to the counters of the row here what the displaced row of its key, of this version, had counted. */
void		rp_merge_displaced(RpTrackedKey *t, const RpImage *displaced, const P2pVersion *version);

/* siblings.c: show the versions that stand if the key is contested under vector_clock, and no others. */
void		rp_siblings_show(RpTrackedKey *t);
/* Forget the lines of a whole table. */
void		rp_siblings_forget_table(Oid relid);

/* jsonb of the key columns, of all columns of a row. */
Datum		rp_key_jsonb(RpOpenRelation *open, TupleTableSlot *key);
Datum		rp_image_jsonb(RpOpenRelation *open, const RpImage *image);

#endif							/* RP_TRACKED_H */
