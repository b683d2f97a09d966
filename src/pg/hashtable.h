/*
 * hashtable.h
 *	  The server's hash tables with keys that are compared byte by byte: all that
 *	  a worker remembers by an oid, an xid or the hash of a key is kept in one.
 *	  A key's padding must be zero.
 */
#ifndef RP_HASHTABLE_H
#define RP_HASHTABLE_H

#include "postgres.h"

#include "utils/hsearch.h"

/* Make a hash table in a child of context, with room for about nelem entries before it grows. */
static inline HTAB *
rp_hash_make(const char *name, MemoryContext context, long nelem, Size keysize, Size entrysize)
{
	HASHCTL		ctl = {0};

	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = context;
	return hash_create(name, nelem, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

#endif							/* RP_HASHTABLE_H */
