/*
 * versionset.h
 *	  One set of versions with the memory that belongs to it: what keyset.c
 *	  keeps for each key, and for the truncates of each table.
 */
#ifndef RP_VERSIONSET_H
#define RP_VERSIONSET_H

#include "keyset.h"

/* The deps of one transaction, or of several of one origin. */
typedef struct RpSharedDeps
{
	uint32		references;
	uint32		count;
	P2pVectorEntry entries[FLEXIBLE_ARRAY_MEMBER];
} RpSharedDeps;

/* A set of core's and what belongs to it here; set comes first, so that its address is ours. */
typedef struct RpVersionSet
{
	P2pKeySet	set;
	struct RpKeyTable *table;	/* keyset.c's */
	bool		pending;		/* has versions of the transaction that is being applied */
} RpVersionSet;

/* Where the memory comes from; once per worker. */
void		rp_version_sets_init(MemoryContext context);

/*
 * The deps in our memory, those of the origin's last version if they are the same. Valid until the
 * next call for slot.
 */
RpSharedDeps *rp_deps_share(int slot, const P2pVector *deps);
/* Those of a version that is in a set. */
RpSharedDeps *rp_deps_of(const P2pKeyVersion *version);
/* A payload without deltas, for ever. */
RpKeyPayload *rp_payload_plain(int slot);

/*
 * Add a version (its epoch is set), or renew what handlers make of it if it is there. Payload is
 * copied. relid: for the warning that the set is large.
 */
void		rp_version_set_put(RpVersionSet *in, const P2pKeyVersion *version, RpSharedDeps *deps,
							   const RpKeyPayload *payload, Oid relid);
/* Does more than one version stand? */
bool		rp_version_set_is_contested(const RpVersionSet *in);
/* Drop covered versions, but not the last delete. */
void		rp_version_set_prune(RpVersionSet *in);
/* Take the versions of one transaction out; what they covered stands again. Raises no error. */
void		rp_version_set_undo(RpVersionSet *in, const P2pDot *dot);
void		rp_version_set_drop_stable(RpVersionSet *in, const P2pVector *stable);
/* Drop all versions, and their room. */
void		rp_version_set_empty(RpVersionSet *in);

#endif							/* RP_VERSIONSET_H */
