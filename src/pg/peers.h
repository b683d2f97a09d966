/*
 * peers.h
 *	  The gossip worker's links: two to each member, and what is said on them.
 */
#ifndef RP_PEERS_H
#define RP_PEERS_H

#include "postgres.h"

#include "members.h"
#include "pull.h"

typedef struct RpPeers RpPeers;

/* Lives in a child of CurrentMemoryContext. me and pull must outlive it. */
RpPeers    *rp_peers_make(RpNode *node, const RpIdentity *me, RpPull *pull);
/* Make and close links as membership and settings want it. Cheap when nothing has changed. */
void		rp_peers_refresh(RpPeers *peers);
/*
 * Wait for sockets, the latch or timeout_ms, whatever is first; then go on with
 * all links that can. True: more batches are to be had at once, so that asking
 * for them comes before anything else. Does not serve interrupts.
 */
bool		rp_peers_wait(RpPeers *peers, long timeout_ms);
/* Send all requests that are due. states_changed: states were heard or made since the last call. */
void		rp_peers_talk(RpPeers *peers, bool states_changed);

/* Is there a link to the member in slot: is anything taken that it sends? */
bool		rp_peers_is_linked(const RpPeers *peers, int slot);
/* The name of a member that has said that this node is evicted, or NULL. */
const char *rp_peers_evicted_by(const RpPeers *peers);

/* Note an error at the link to a member, for the views, and in the server's log if it is news. */
void		rp_peer_error(RpNode *node, int slot, const char *text);

#endif							/* RP_PEERS_H */
