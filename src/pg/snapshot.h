/*
 * snapshot.h
 *	  What the functions for a joiner that copies from here have in common.
 */
#ifndef RP_SNAPSHOT_H
#define RP_SNAPSHOT_H

#include "p2p_types.h"
#include "p2p_vector.h"

#include "shmem.h"

/* ERROR unless a member asks, in a transaction whose snapshot stays. */
void		rp_snapshot_caller_check(RpNode *node, const char *function);
/* Read what export_snapshot() gives as "vector"; false: it is malformed. */
bool		rp_snapshot_vector_read(const void *bytes, size_t length, P2pVector *vector, P2pStamp *stamp);

#endif							/* RP_SNAPSHOT_H */
