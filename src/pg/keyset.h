/*
 * keyset.h
 *	  The key sets of tracked tables (handlers.h): every version of every key
 *	  that is not stable, indexed from the change logs, and their images.
 *
 * Like the tombstones of keyindex.h, key sets need no storage of their own: every unstable
 * version stands in a change log of this node, with its image. Apply builds them when it starts
 * or when a table becomes tracked, adds what it applies, and follows the own log.
 *
 * Only apply calls these, in a transaction, unless it says otherwise. A set stays at its address
 * until the next sweep; its versions move with whatever adds one, rp_keysets_follow_own included.
 */
#ifndef RP_KEYSET_H
#define RP_KEYSET_H

#include "handlers.h"
#include "step.h"

/* What the server keeps with a P2pKeyVersion (its payload). */
typedef struct RpKeyPayload
{
	uint16		slot;			/* the origin's */
	int			ndeltas;		/* one per counter column that the version had seen as such */
	AttrNumber *attnos;			/* 1-based */
	char	  **deltas;			/* numeric as text; none for a delete */
} RpKeyPayload;

/* keyset.c: the sets. Once per worker. */
void		rp_keysets_init(RpNode *node);
/*
 * The set of a key of a tracked table, made if there is none: truncates of the table are in it. If
 * the table's column merges are others than when its sets were built, they are built again first.
 */
P2pKeySet  *rp_keyset_of(Oid relid, RpKeyHash key);
/*
 * Add a version of the transaction that is being applied (deps are copied, payload too). Its epoch
 * is found here, and it is a delta if it has any. Undone by rp_keysets_abort if the transaction
 * fails, kept by rp_keysets_commit. Again the same (dot, step): renewed.
 */
void		rp_keyset_add(P2pKeySet *set, const P2pKeyVersion *version, const P2pVector *deps,
						  const RpKeyPayload *payload);
/* Add a truncate of the table to all its sets, and to those to come. */
void		rp_keysets_truncate(Oid relid, const P2pKeyVersion *version, const P2pVector *deps);
/* The transaction has ended; outside of one. Neither raises an error. */
void		rp_keysets_commit(void);
void		rp_keysets_abort(void);
/* Forget what is stable; nothing while a handler change is unsettled. In a transaction of its own. */
void		rp_keysets_sweep(const P2pVector *stable);

/*
 * Keys of which a local version has come, or that were built from the logs, and of which more
 * than one version stands or stood: their row, or what is shown of them, may have to be made
 * again. Returns false when there is none left. What was taken comes again if the transaction fails.
 */
bool		rp_keysets_next_touched(Oid *relid, RpKeyHash *key);
/* Are there any? */
bool		rp_keysets_any_touched(void);

/* keyset_read.c: what the logs hold. Take up one item of any log (logpass.h). */
struct RpPassItem;
void		rp_keysets_visit(const struct RpPassItem *item);
/*
 * Build the sets of a table (or of all tracked tables, InvalidOid) from all logs: others' up to
 * what is applied, the own one up to own_seq. What the sets have already is renewed.
 */
void		rp_keysets_build(Oid relid, uint64 own_seq);
/* Have the sets know every local change that capture has read by now. Cheap to repeat. */
void		rp_keysets_follow_own(void);
/*
 * Put the row image of a version (an insert or update) into slot (virtual, the table's columns),
 * read from the change log: values in CurrentMemoryContext. What the image does not carry
 * (unchanged TOAST values that were not sent, columns that its origin lacks) is base's, or null
 * without one (base may be NULL, and must live as long as slot). ERROR if the log no longer has it.
 */
void		rp_keyset_image(RpRelationMap *map, RpKeyHash key, const P2pKeyVersion *version,
							TupleTableSlot *base, TupleTableSlot *slot);

/* For keyset_read.c: add what a log says, outside of the transaction being applied. */
void		rp_keyset_put(Oid relid, RpKeyHash key, const P2pKeyVersion *version,
						  const P2pVector *deps, const RpKeyPayload *payload);
void		rp_keysets_put_truncate(Oid relid, const P2pKeyVersion *version, const P2pVector *deps);
/* Touch a key: the row, or what is shown of it, may have to be made again. */
void		rp_keyset_touch(Oid relid, RpKeyHash key);
/* siblings.c: may something be shown of the key? Touch all such keys of a table. */
bool		rp_siblings_may_be(Oid relid, RpKeyHash key);
void		rp_siblings_touch_table(Oid relid);
/* The keys of a table of which more than one version stands, palloc'd. */
RpKeyHash  *rp_keysets_contested(Oid relid, int *count);
/* Touch the contested keys of a table (all tables, InvalidOid). */
void		rp_keysets_touch_contested(Oid relid);

/*
 * counter_delta.c: what a version of a table adds to its counters, into payload (memory:
 * CurrentMemoryContext). Its dot, deps and op are set: an insert adds its value, an update what is
 * more than in old, a delete nothing. A merge that it has not seen, and a value that is null or
 * not there, have no delta. The second half of a key update is an insert.
 */
void		rp_counter_deltas(const RpTableHandlers *handlers, const P2pKeyVersion *version,
							  TupleTableSlot *old, TupleTableSlot *row, RpKeyPayload *payload);

#endif							/* RP_KEYSET_H */
