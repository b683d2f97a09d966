/*
 * leave.h
 *	  What follows on leave_group: when does this node say that it leaves, and
 *	  when may it go? The gossip worker's alone.
 */
#ifndef RP_LEAVE_H
#define RP_LEAVE_H

#include "postgres.h"

#include "members.h"

typedef struct RpLeave RpLeave;

/* Lives in CurrentMemoryContext. */
RpLeave    *rp_leave_make(RpNode *node, const RpIdentity *me);
/*
 * Say in this node's stream that it leaves, if all members have met all that it had when it
 * wished to. To be called again and again; outside of a transaction.
 */
void		rp_leave_say(RpLeave *leave);
/* It has said so. Has every other member what this node wrote up to that? Cheap; to be asked again and again. */
bool		rp_leave_may_go(RpLeave *leave);

#endif							/* RP_LEAVE_H */
