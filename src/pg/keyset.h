/*
 * keyset.h
 *	  The key sets of tracked tables (handlers.h): every version of every key
 *	  that is not stable, indexed from the change logs, and their images.
 *
 * Like the tombstones of keyindex.h, key sets need no storage of their own: every unstable
 * version stands in a change log of this node, with its image. Apply builds them when it starts
 * or when a table becomes tracked, adds what it applies, and follows the own log.
 *
 * Only apply calls these, in a transaction.
 */
#ifndef RP_KEYSET_H
#define RP_KEYSET_H

#include "handlers.h"

/* What the server keeps with a P2pKeyVersion (its payload). */
typedef struct RpKeyPayload
{
	uint16		slot;			/* the origin's */
	int			ndeltas;		/* one per counter column that the version had seen as such */
	AttrNumber *attnos;			/* 1-based */
	char	  **deltas;			/* numeric as text; NULL for a delete */
} RpKeyPayload;

void		rp_keysets_init(RpNode *node);
/* Build the sets of a table (or of all tracked tables, InvalidOid) from all logs: others' up to what is applied, own up to own_seq. */
void		rp_keysets_build(Oid relid, uint64 own_seq);
/* Have the sets know every local change that capture has read by now. Cheap to repeat. */
void		rp_keysets_follow_own(void);
/* The set of a key of a tracked table, made if there is none: truncates of the table are in it. */
P2pKeySet  *rp_keyset_of(Oid relid, RpKeyHash key);
/*
 * Add a version of the transaction that is being applied (deps are copied, payload too). Undone by rp_keysets_abort
 * if the transaction fails, kept by rp_keysets_commit.
 */
void		rp_keyset_add(P2pKeySet *set, const P2pKeyVersion *version, const P2pVector *deps,
						  const RpKeyPayload *payload);
/* Add a truncate of the table to all its sets, and to those to come. */
void		rp_keysets_truncate(Oid relid, const P2pKeyVersion *version, const P2pVector *deps);
void		rp_keysets_commit(void);
void		rp_keysets_abort(void);
/*
 * Put the row image of a version (an insert or update) into slot (virtual, the table's columns;
 * unchanged TOAST values that were not sent come from base, which may be NULL), read from the change log. ERROR if the log no longer has it.
 */
void		rp_keyset_image(RpRelationMap *map, RpKeyHash key, const P2pKeyVersion *version,
							TupleTableSlot *base, TupleTableSlot *slot);
/* Forget what is stable. */
void		rp_keysets_sweep(const P2pVector *stable);

/*
 * Keys whose set got a local version since last asked, of tables with a custom handler: their
 * rows may have to be folded again. Returns false when there is none left.
 */
bool		rp_keysets_next_touched(Oid *relid, RpKeyHash *key);

#endif							/* RP_KEYSET_H */
