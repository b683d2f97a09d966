/*
 * keyindex.h
 *	  What apply remembers of keys beyond the rows themselves: tombstones, the
 *	  truncate versions of tables, and the versions of rows that a join copied.
 */
#ifndef RP_KEYINDEX_H
#define RP_KEYINDEX_H

#include "apply_relation.h"
#include "shmem.h"

/* A version with a local slot in place of the origin. slot 0, seq 0, stamp 0: ancient. */
typedef struct RpSlotVersion
{
	uint16		slot;
	uint64		seq;
	P2pStamp	stamp;
} RpSlotVersion;

/* Empty index; once per worker. */
void		rp_keyindex_init(RpNode *node);

/*
 * Remember a delete (or with is_row, the version of a copied row); the greatest version of a key
 * stays.
 */
void		rp_keyindex_put(RpKeyHash key, const RpSlotVersion *version, bool is_row);
/* Remember a truncate of table. */
void		rp_keyindex_put_truncate(Oid table, const RpSlotVersion *version);

/*
 * What the transaction that is being applied deletes or truncates: remembered by
 * rp_keyindex_commit, after its commit, and forgotten by rp_keyindex_abort if it fails.
 */
void		rp_keyindex_delete(RpKeyHash key, const RpSlotVersion *version);
void		rp_keyindex_truncate(Oid table, const RpSlotVersion *version);
/*
 * Raises no error: if there is no memory the worker ends, and reads all from the logs at its next
 * start.
 */
void		rp_keyindex_commit(void);
void		rp_keyindex_abort(void);

/* The greatest of the key's tombstone and its table's truncate; false if neither. */
bool		rp_keyindex_tombstone(Oid table, RpKeyHash key, RpSlotVersion *version);
/* The version of a copied row; false: older than everything. */
bool		rp_keyindex_copied_row(RpKeyHash key, RpSlotVersion *version);

/*
 * Take up one item of a log (logpass.h): deletes, truncates and key updates; of transactions up
 * to copied_seq every version. In a transaction.
 */
struct RpPassItem;
void		rp_keyindex_visit(const struct RpPassItem *item, uint64 copied_seq);

/*
 * Did this very transaction insert or update the row of key? Reads it from the
 * change log; false if the log no longer has it. In a transaction.
 */
bool		rp_keyindex_wrote(int slot, uint64 seq, RpKeyHash key);

/* Forget what is stable. */
void		rp_keyindex_sweep(const uint64 *stable_by_slot, int nslots);
/* Compare by (stamp, id, epoch, seq). */
int			rp_slot_version_compare(const RpSlotVersion *a, const RpSlotVersion *b);

#endif							/* RP_KEYINDEX_H */
