/*
 * at_commit.h
 *	  What follows when a transaction that changed the node ends.
 */
#ifndef RP_AT_COMMIT_H
#define RP_AT_COMMIT_H

#include "postgres.h"

/*
 * This transaction makes the node of this database. Abort: its files go.
 * Commit: its entry in shared memory is claimed and the launcher woken. Call
 * before the first file is written.
 */
void		rp_at_commit_start_node(void);

#endif							/* RP_AT_COMMIT_H */
