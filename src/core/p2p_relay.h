/*
 * p2p_relay.h
 *	  Fan-out of one origin's batches over relays, so that its work does not
 *	  grow with the group; and when to go to the origin instead.
 */
#ifndef P2P_RELAY_H
#define P2P_RELAY_H

#include "p2p_types.h"

/* How many members ask an origin, or a relay of it, when all is well. */
#define P2P_FANOUT 3

/*
 * Is there a relay between self and origin? *relay is its index in members then.
 * members: those of the group now, in any order, self and origin among them
 * (without either of them there is no relay); all members that have the same
 * list come to one tree.
 */
bool		p2p_relay_find(const P2pOrigin *members, uint32_t n, const P2pOrigin *self,
						   const P2pOrigin *origin, uint32_t fanout, uint32_t *relay);

/* What is known of the relays of one origin; zeros to begin with. Times are monotonic. */
typedef struct P2pRelayTrust
{
	uint64_t	awaited_seq;	/* the origin had it at since_us; 0 = nothing is awaited */
	int64_t		since_us;
	int64_t		avoid_until_us;
	int64_t		avoid_us;		/* for how long next time; 0 = as short as possible */
} P2pRelayTrust;

/* May a relay be asked now? */
bool		p2p_relay_is_trusted(const P2pRelayTrust *trust, int64_t now_us);
/* The origin says that it has head_seq, while a relay of it is asked that has brought have_seq. */
void		p2p_relay_expect(P2pRelayTrust *trust, uint64_t head_seq, uint64_t have_seq,
							 int64_t now_us);
/*
 * Does the relay lag behind what the origin had patience_us ago? Then it is avoided
 * for a while, longer each time.
 */
bool		p2p_relay_is_late(P2pRelayTrust *trust, uint64_t have_seq, int64_t now_us,
							  int64_t patience_us);
/* Another source is asked: nothing is awaited of a relay. */
void		p2p_relay_forget(P2pRelayTrust *trust);

#endif							/* P2P_RELAY_H */
