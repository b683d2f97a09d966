/*
 * exchange.h
 *	  The serving side of a conversation: CALL replp2p.exchange(INOUT bytea).
 */
#ifndef RP_EXCHANGE_H
#define RP_EXCHANGE_H

#include "postgres.h"

#include "p2p_types.h"

/*
 * Is this backend inside a session whose peer has proven its key? Its id and
 * key then (either may be NULL). Says nothing of membership.
 */
bool		rp_exchange_peer(P2pId *id, uint8 key[P2P_PUBLIC_KEY_SIZE]);
/*
 * Let go of the snapshot of the CALL at hand, if that has not been done: before
 * anything that may wait, or has transactions of its own.
 */
void		rp_exchange_let_go(void);

#endif							/* RP_EXCHANGE_H */
