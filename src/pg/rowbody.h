/*
 * rowbody.h
 *	  One row as bytes that outlive the shape of its table: the form in which
 *	  displaced rows, and the keys of those that displace them, are kept.
 */
#ifndef RP_ROWBODY_H
#define RP_ROWBODY_H

#include "apply_relation.h"

/*
 * Encode a row (or its key alone, other columns left out). In CurrentMemoryContext.
 */
bytea	   *rp_rowbody_encode(RpOpenRelation *open, TupleTableSlot *row, bool key_only);
/*
 * Decode into slot (virtual), as a row of the table as it is now; values in
 * CurrentMemoryContext. What the bytes don't have is null in a key, and else
 * what ALTER TABLE ADD COLUMN gave to the rows in the table, or the column's default.
 * Runs code of the table's owner, as that owner.
 */
void		rp_rowbody_decode(RpOpenRelation *open, bytea *bytes, TupleTableSlot *slot);
/*
 * Order two rows with different keys by their keys, the same on every node: < 0 or > 0. It is no
 * order that the key's types know.
 */
int			rp_rowbody_key_compare(RpOpenRelation *open, TupleTableSlot *a, TupleTableSlot *b);

#endif							/* RP_ROWBODY_H */
