/*
 * leave.h
 *	  The end of leave_group: when may this node go? The gossip worker's alone.
 */
#ifndef RP_LEAVE_H
#define RP_LEAVE_H

#include "postgres.h"

#include "members.h"

typedef struct RpLeave RpLeave;

/* Lives in CurrentMemoryContext. */
RpLeave    *rp_leave_make(RpNode *node, const RpIdentity *me);
/* Has every other member what this node wrote up to its leaving? Cheap; to be asked again and again. */
bool		rp_leave_may_go(RpLeave *leave);

#endif							/* RP_LEAVE_H */
