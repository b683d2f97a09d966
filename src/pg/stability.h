/*
 * stability.h
 *	  What is stable here, and dropping what is no longer needed because of it.
 *	  The gossip worker's alone.
 */
#ifndef RP_STABILITY_H
#define RP_STABILITY_H

#include "postgres.h"

#include "shmem.h"

typedef struct RpStability RpStability;

/* Lives in a child of CurrentMemoryContext. */
RpStability *rp_stability_make(RpNode *node);
/* Take an ack of the member in slot, as its signed state has it. */
void		rp_stability_hear(RpStability *stability, int slot, const P2pOrigin *member,
							  const P2pVector *ack);
/* Let acks ripen; publish what is stable now. */
void		rp_stability_step(RpStability *stability);
/* Trim change logs and version index, if it is time or much can go. */
void		rp_stability_trim(RpStability *stability);

#endif							/* RP_STABILITY_H */
