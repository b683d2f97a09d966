/*
 * snapshot.h
 *	  What the functions for a joiner that copies from here have in common.
 */
#ifndef RP_SNAPSHOT_H
#define RP_SNAPSHOT_H

#include "shmem.h"

/* ERROR unless a member asks, in a transaction whose snapshot stays. */
void		rp_snapshot_caller_check(RpNode *node, const char *function);

#endif							/* RP_SNAPSHOT_H */
