/*
 * deletes.h
 *	  Which tables may have had a local delete, truncate or key update that
 *	  capture has not decoded yet: such a key has no tombstone so far.
 *
 * A local writing transaction announces the tables before its commit (executor
 * and utility hooks, then the pre-commit callback), and publishes its commit
 * position after it. Transactions that come by unusual ways (other logical
 * subscriptions, extensions writing through table access methods) announce every bucket.
 * Our own apply and copy transactions announce nothing.
 */
#ifndef RP_DELETES_H
#define RP_DELETES_H

#include "shmem.h"

/* Install the executor, utility and transaction hooks (commit wake-up of capture included). */
void		rp_deletes_install(void);
/*
 * May table have had a local delete that committed after lsn, or is about to?
 */
bool		rp_deletes_since(RpNode *node, Oid table, XLogRecPtr lsn);
/* May table have a local delete that capture has not accounted for? Reads node->captured_lsn first. */
bool		rp_deletes_pending(RpNode *node, Oid table);
/* Announce for this transaction: table, or every table (InvalidOid). */
void		rp_deletes_announce(Oid table);

#endif							/* RP_DELETES_H */
