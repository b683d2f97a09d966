/*
 * conflict_counts.h
 *	  How many conflicts of which type were met in which table: the counters
 *	  behind the view stat_conflicts, in shared memory.
 */
#ifndef RP_CONFLICT_COUNTS_H
#define RP_CONFLICT_COUNTS_H

#include "postgres.h"

#include "utils/timestamp.h"

/* Counters of one node; tables that come when all are taken are counted as one, relation NULL. */
#define RP_CONFLICT_COUNTS 1024
/* Types that can be counted for that one. */
#define RP_CONFLICT_OTHERS 32
#define RP_CONFLICT_TYPE_SIZE 32

typedef struct RpConflictCount
{
	Oid			relation;		/* InvalidOid: tables without a counter of their own */
	char		type[RP_CONFLICT_TYPE_SIZE];
	int64		count;
	TimestampTz last_at;
} RpConflictCount;

/* Lock: RpNode.lock. Writers: apply adds, stat_reset() clears. */
typedef struct RpConflictCounts
{
	TimestampTz stats_reset;
	bool		loaded;			/* what a clean shutdown kept has been added */
	int			n;
	RpConflictCount entries[RP_CONFLICT_COUNTS + RP_CONFLICT_OTHERS];
} RpConflictCounts;

struct RpNode;

/* Apply, any time, cheap to repeat: take up what the last shutdown kept, and keep it at the next. */
void		rp_conflict_counts_open(struct RpNode *node);
/* Apply: count one conflict, if the current transaction commits. type: as the view shows it. */
void		rp_conflict_count(struct RpNode *node, Oid relation, const char *type);
/* Apply, in a transaction: forget tables that are gone. */
void		rp_conflict_counts_prune(struct RpNode *node);
/* Set all to zero; RpNode.lock is held, exclusively. */
void		rp_conflict_counts_reset(RpConflictCounts *counts);

#endif							/* RP_CONFLICT_COUNTS_H */
