/*
 * states.h
 *	  The members' signed states in shared memory, and group time.
 *
 * Called by the gossip worker and by backends that serve GOSSIP.
 */
#ifndef RP_STATES_H
#define RP_STATES_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "members.h"

#include "p2p_message.h"

/*
 * Take the signed bytes of a member's state, from whomever: keep them if they
 * are of a member other than this node, verify, and are newer than what is
 * known. Returns whether they were. Anything wrong is ignored.
 */
bool		rp_state_hear(RpNode *node, const P2pBlock *bytes);
/* Copy the newest state of a slot into memory (P2P_STATE_MAX_SIZE) and parse it; false if none. */
bool		rp_state_read(RpNode *node, int slot, uint8 *memory, P2pNodeState *state);

/* Build, sign and publish this node's state if it has changed. Gossip only. Returns whether it had. */
bool		rp_state_publish(RpNode *node, const RpIdentity *me);

/* Set gossip->digest to the counters of all states that are known here. */
void		rp_states_digest(RpNode *node, P2pGossip *gossip);
/*
 * Set gossip->states to copies (palloc'd) of all that are newer than in the
 * other side's digest.
 */
void		rp_states_newer(RpNode *node, const P2pGossip *theirs, P2pGossip *gossip);
/* Are there any? */
bool		rp_states_any_newer(RpNode *node, const P2pGossip *theirs);
/* Append an encoded GOSSIP or GOSSIP_REPLY to out. */
void		rp_states_write(StringInfo out, P2pMessageKind kind, const P2pGossip *gossip);

/* Recompute group time from the members' clock offsets. Gossip only. */
void		rp_states_clock(RpNode *node);

#endif							/* RP_STATES_H */
