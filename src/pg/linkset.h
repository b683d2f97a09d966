/*
 * linkset.h
 *	  Waiting on many links at once.
 */
#ifndef RP_LINKSET_H
#define RP_LINKSET_H

#include "postgres.h"

#include "link.h"
#include "shmem.h"

/* Two links to each member. */
#define RP_LINKSET_MAX (2 * RP_MAX_MEMBERS)

typedef struct RpLinkSet RpLinkSet;

/* Lives in CurrentMemoryContext. */
RpLinkSet  *rp_linkset_make(void);
/* Each round: begin, add all links (the number that it has in this round is returned), wait, ask. */
void		rp_linkset_begin(RpLinkSet *set);
int			rp_linkset_add(RpLinkSet *set, RpLink *link);
/* Wait for a socket, the latch (which is reset) or timeout_ms. Does not serve interrupts. */
void		rp_linkset_wait(RpLinkSet *set, long timeout_ms);
/* Had the socket of this link what it wants? */
bool		rp_linkset_ready(const RpLinkSet *set, int number);
/* A link was freed: another one may get its address. */
void		rp_linkset_forget(RpLinkSet *set);

#endif							/* RP_LINKSET_H */
