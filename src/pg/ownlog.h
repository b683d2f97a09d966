/*
 * ownlog.h
 *	  What apply reads from the change logs for its indexes: all logs when it
 *	  starts, the own one as it grows.
 */
#ifndef RP_OWNLOG_H
#define RP_OWNLOG_H

#include "shmem.h"

/*
 * Index what another member's log holds after after_seq up to limit_seq; transactions up to
 * copied_seq came with a join's copy. In a transaction, as are the next two.
 */
void		rp_foreign_log_index(RpNode *node, int slot, uint64 after_seq, uint64 limit_seq,
								 uint64 copied_seq);

/* Index these changes of one transaction that is applied, by their numbers in it, ascending. */
void		rp_foreign_log_index_some(RpNode *node, int slot, uint64 seq, const uint64 *numbers, int n);

/*
 * Return what of an item of any log is left to be indexed: nothing (NULL) of a table of which it has not seen a
 * settled change of the handler. left: room for it; memory is CurrentMemoryContext's.
 */
struct RpPassItem;
const struct RpPassItem *rp_item_left(const struct RpPassItem *item, struct RpPassItem *left);

/* Follow the own log from after_seq on. */
void		rp_own_log_start(RpNode *node, uint64 after_seq);
/*
 * Index the own log up to limit_seq; cheap to repeat. What was trimmed meanwhile is stable, and
 * left out.
 */
void		rp_own_log_follow(uint64 limit_seq);
/* Up to where it is indexed. */
uint64		rp_own_log_seq(void);
/* Index what capture has read by now. */
void		rp_own_log_follow_captured(void);

#endif							/* RP_OWNLOG_H */
