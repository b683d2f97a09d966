/*
 * pollers.h
 *	  Long polls that wait at this node, and waking just those that a new batch
 *	  is for.
 */
#ifndef RP_POLLERS_H
#define RP_POLLERS_H

#include "postgres.h"

#include "storage/latch.h"

#include "p2p_types.h"

struct RpNode;

/* Each member may wait twice: a connection that is lost is noticed later than the next one comes. */
#define RP_MAX_POLLERS (2 * P2P_MAX_MEMBERS)

/* A set of members' slots. */
typedef struct RpSlotSet
{
	uint64		bits[P2P_MAX_MEMBERS / 64];
} RpSlotSet;

static inline void
rp_slots_add(RpSlotSet *set, int slot)
{
	set->bits[slot / 64] |= UINT64CONST(1) << (slot % 64);
}

static inline bool
rp_slots_has(const RpSlotSet *set, int slot)
{
	return (set->bits[slot / 64] & (UINT64CONST(1) << (slot % 64))) != 0;
}

/* Who waits. Lock: RpNode.vector_lock. Writer: the backend that waits. */
typedef struct RpPollers
{
	int			used;			/* entries from here on are free */
	struct
	{
		Latch	   *latch;		/* NULL = free; else of a process of this server, living or not */
		RpSlotSet	wanted;
	}			entry[RP_MAX_POLLERS];
} RpPollers;

/*
 * From now on set this process's latch when one of the wanted logs has grown.
 * Returns a number to leave with, also after an ERROR or on exit; -1 = too many wait already.
 */
int			rp_poller_enter(struct RpNode *node, const RpSlotSet *wanted);
void		rp_poller_leave(struct RpNode *node, int number);
/* These logs have grown (and that is published); NULL: wake all, whatever they wait for. */
void		rp_pollers_wake(struct RpNode *node, const RpSlotSet *grown);

#endif							/* RP_POLLERS_H */
