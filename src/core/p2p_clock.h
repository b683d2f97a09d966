/*
 * p2p_clock.h
 *	  Group time, and which stamps are too far ahead of it.
 *
 * Group time = own clock + upper median of the members' offsets (own offset 0
 * included; offset = member's clock - own clock, microseconds). With two
 * members the upper median never holds anybody.
 */
#ifndef P2P_CLOCK_H
#define P2P_CLOCK_H

#include "p2p_types.h"

/* Upper median of n offsets (n >= 1, at most P2P_MAX_MEMBERS); sorts them in place. */
int64_t		p2p_clock_upper_median(int64_t *offsets, uint32_t n);

/* Is stamp further ahead of group time than max_skew? All microseconds; saturating. */
bool		p2p_clock_too_far_ahead(P2pStamp stamp, P2pStamp group_time, int64_t max_skew);

/* Offset of a peer's clock from one request: its time, and ours before and after. */
int64_t		p2p_clock_offset(int64_t sent, int64_t peer_time, int64_t received);

#endif							/* P2P_CLOCK_H */
