/*
 * apply_relation.h
 *	  Tables as apply sees them: a remote description mapped to a local table,
 *	  and the same table opened for the length of one transaction, by executor
 *	  state that outlives it.
 */
#ifndef RP_APPLY_RELATION_H
#define RP_APPLY_RELATION_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/execdesc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/typcache.h"

#include "p2p_body.h"

/* How a column of the remote description becomes a local value. */
typedef struct RpColumnMap
{
	int			attno;			/* local attribute, 0-based; -1 = not mapped */
	Oid			typioparam;
	int32		typmod;
	bool		has_receive;
	FmgrInfo	input;
	FmgrInfo	receive;
	Oid			receive_ioparam;
} RpColumnMap;

/* What a map is found by. Two descriptions of one table have a map each. */
typedef struct RpRelationMapKey
{
	char		schema[P2P_NAME_SIZE];	/* both with zeros to the end */
	char		name[P2P_NAME_SIZE];
	uint64		columns;		/* hash of what they are */
	uint64		for_reading;	/* 1: what is not here any more is left out */
} RpRelationMapKey;

/* A remote description and where it leads here. Long-lived; rebuilt after an invalidation. */
typedef struct RpRelationMap
{
	RpRelationMapKey key;
	bool		valid;
	P2pRelation remote;			/* with its own columns */
	Oid			relid;			/* InvalidOid: there is no such table here */
	Oid			owner;			/* the table's */
	MemoryContext memory;		/* of what hangs below, and of remote.columns */
	int			natts;
	RpColumnMap *columns;		/* remote.ncolumns */
	bool		has_key;		/* the remote side sent a replica identity */
	Oid			key_index;		/* local unique index on the same columns */
	int			nkeys;
	int			key_attnos[INDEX_MAX_KEYS]; /* 0-based, in index order */
	FmgrInfo	key_equal[INDEX_MAX_KEYS];
	Oid			key_collation[INDEX_MAX_KEYS];
	FmgrInfo	key_hash[INDEX_MAX_KEYS];	/* extended hash; fn_oid invalid: hash the bytes of its text */
	FmgrInfo	key_out[INDEX_MAX_KEYS];
	bool		is_membership;	/* replp2p.membership */
	bool		is_handler_change;	/* replp2p.handler_changes */
	int			ndefaults;		/* local columns that the remote side lacks */
	int		   *default_attnos;
	Node	  **defaults;		/* planned expressions, Expr nodes; NULL = null */
	uint64		built;			/* grows each time it is built */
	int			glances;		/* look before so many more inserts: one has met a row without (apply_change.c) */
	struct RpOpenRelation *kept;	/* executor state that waits for the next transaction, or NULL */
} RpRelationMap;

/* A key by value: two independent 64-bit hashes of (table, key values). */
typedef struct RpKeyHash
{
	uint64		h1;
	uint64		h2;
} RpKeyHash;

/* A table opened within the current transaction. */
typedef struct RpOpenRelation
{
	RpRelationMap *map;
	MemoryContext memory;		/* of this and of all below, but for what the server's caches own */
	uint64		built;			/* the map's, when this was made */
	bool		plain;			/* nothing in it is tied to one transaction but rel, indexes and scan */
	struct RpOpenRelation *next;	/* of those taken by rp_relation_take */
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *result;
	TupleTableSlot *local;		/* row found here */
	TupleTableSlot *found;		/* scratch of the look-up */
	TupleTableSlot *incoming;	/* virtual: new values, local columns */
	TupleTableSlot *old;		/* virtual: old key values, and what was sent with them */
	TupleTableSlot *store;		/* virtual: what is written */
	TupleTableSlot *image;		/* virtual: a row that was kept elsewhere */
	TupleTableSlot *base;		/* virtual: scratch of apply_tracked.c */
	int			key_index;		/* which of result's indexes is the key's; -1: none of them */
	bool		key_alone;		/* it is the only unique one */
	bool		never_wait;		/* for a client that has a row in work: ERROR */
	Oid		   *index_oids;		/* of result's indexes */
	IndexScanDesc scan;			/* on the key's index, from its first look-up in the transaction on */
	MemoryContext scan_memory;	/* of all that the index allocates for it */
	SnapshotData dirty;			/* of that scan */
	TupleTableSlot **run;		/* of rows that are stored together (apply_run.c), made when first wanted */
	List	   *arbiters;		/* oids of the unique indexes that are checked at once: the key's, and further ones */
	bool	   *given;			/* per local attribute: incoming carries a value */
	bool	   *unavailable;	/* per local attribute: unchanged TOAST, not sent */
	ExprState **defaults;		/* made when first wanted */
} RpOpenRelation;

/* Set up the cache; once per worker. */
void		rp_relation_maps_init(void);
/*
 * Return the map for a remote description, built or rebuilt as needed. In a
 * transaction. relid is InvalidOid if there is no such table. ERROR if the
 * tables do not fit (missing column, no matching unique index).
 */
RpRelationMap *rp_relation_map(const P2pRelation *remote);
/*
 * The same to look at what a log holds, which may describe the table as it was: columns
 * that are not here are left out, and without its key index has_key is false. No ERROR.
 */
RpRelationMap *rp_relation_map_for_reading(const P2pRelation *remote);

/* Open for writing, in CurrentMemoryContext. ERROR with a hint if there is no such table. */
RpOpenRelation *rp_relation_open(RpRelationMap *map);
/* Close executor state; locks stay until the transaction ends. */
void		rp_relation_close(RpOpenRelation *open);
/*
 * The same for apply's transactions, with executor state that is kept from one to the next for
 * as long as nothing in the table's shape changes. In the top transaction or
 * any subtransaction, for the rest of the top one.
 */
RpOpenRelation *rp_relation_take(RpRelationMap *map);
/* ERROR, to be tried again: this may not wait for a client. */
void		rp_relation_busy(RpRelationMap *map);
void		rp_relation_give(RpOpenRelation *open);
/* After an abort: forget those that were taken, the server has let go of their relations. */
void		rp_relations_abort(void);
/* The scan on the key's index, to be used by apply_row.c. */
IndexScanDesc rp_relation_key_scan(RpOpenRelation *open);

/*
 * Turn values into local columns of slot (virtual, cleared first); other
 * columns are null. given and unavailable may be NULL. Input functions run as
 * the table's owner.
 */
void		rp_values_to_slot(RpRelationMap *map, const P2pValue *values,
							  TupleTableSlot *slot, bool *given, bool *unavailable);
/* Hash the key columns of slot. */
RpKeyHash	rp_key_hash(RpRelationMap *map, TupleTableSlot *slot);

#endif							/* RP_APPLY_RELATION_H */
