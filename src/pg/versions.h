/*
 * versions.h
 *	  The version index: 64-bit local xid -> (member slot, seq, stamp) of every
 *	  transaction that is not yet stable.
 *
 * Entries of 16 bytes in mapped files of 65,536 xids ("replp2p/<db>/versions/
 * <first xid, 16 hex>"): disk-backed, shared by all processes, memory only as
 * the kernel sees fit.
 *
 *	  8 bytes  stamp
 *	  8 bytes  slot << 48 | seq; zero = no entry
 *
 * Writers: apply puts its own entries before it commits; capture puts all in
 * WAL order (the same values again for apply's), local ones only after their
 * batch is durable in the log. A reader that finds an entry may rely on it.
 * After a crash of the operating system capture fills in again from the last
 * synced point, which the slot never passes.
 *
 * After any crash of the server the index may hold entries that apply put for
 * xids whose records never reached the WAL; such xids are given out again. So
 * capture, before apply starts and before anybody looks anything up, drops by
 * rp_versions_retain() what the last position of its log does not cover, and puts
 * it again as it reads on.
 */
#ifndef RP_VERSIONS_H
#define RP_VERSIONS_H

#include "postgres.h"

#include "access/transam.h"

#include "p2p_types.h"

#define RP_SLOT_COPIED 0xFFFE	/* rows that a join copied: the key index knows their version */

typedef struct RpVersionEntry
{
	uint16		slot;
	uint64		seq;
	P2pStamp	stamp;
} RpVersionEntry;

/*
 * Use the index of this database in this process (mappings are made as needed, for the
 * process's life). Once per process or again at any time: it notices an index made anew.
 */
void		rp_versions_attach(Oid dboid);
/* ERROR if the disk is full. seq < 2^48. */
void		rp_versions_put(uint64 xid, const RpVersionEntry *entry);
bool		rp_versions_get(uint64 xid, RpVersionEntry *entry);
/*
 * Make all entries durable that this process has put since its last sync. Capture
 * puts apply's entries again, so its sync covers those of apply, too; the
 * join worker syncs what it put as RP_SLOT_COPIED. Nobody else needs it.
 */
void		rp_versions_sync(void);
/* Zero every entry that keep() does not want. Only while nobody puts or looks up. */
typedef bool (*RpVersionKeep) (const RpVersionEntry *entry, void *arg);
void		rp_versions_retain(RpVersionKeep keep, void *arg);
/* Is entry stable? arg is the caller's. */
typedef bool (*RpVersionStable) (const RpVersionEntry *entry, void *arg);
/*
 * Remove leading whole files before xid `before` all of whose entries are stable; returns
 * bytes left. Nobody may put an xid before `before` any more.
 */
uint64		rp_versions_trim(uint64 before, RpVersionStable stable, void *arg);
/* Call visit for every entry with first <= xid < end; it may look up and put. */
typedef void (*RpVersionVisit) (uint64 xid, const RpVersionEntry *entry, void *arg);
void		rp_versions_scan(uint64 first, uint64 end, RpVersionVisit visit, void *arg);
/* The 64-bit xid that a raw xmin, not newer than now, stands for. */
uint64		rp_versions_full_xid(TransactionId xid);

#endif							/* RP_VERSIONS_H */
