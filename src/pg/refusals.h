/*
 * refusals.h
 *	  Logging what was refused, so that nobody can fill the log.
 */
#ifndef RP_REFUSALS_H
#define RP_REFUSALS_H

#include "postgres.h"

#include "shmem.h"

/* By a key that is no member's: what ("request") was refused, and why. */
void		rp_refused_key(RpNode *node, const uint8 key[P2P_PUBLIC_KEY_SIZE],
						   const char *what, const char *why);
/* By the client's address, where no key is proven. */
void		rp_refused_client(RpNode *node, const char *what, const char *why);

#endif							/* RP_REFUSALS_H */
