/*
 * join_serve.h
 *	  The sponsor's side of a join: checking an invite, and admitting.
 */
#ifndef RP_JOIN_SERVE_H
#define RP_JOIN_SERVE_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "members.h"

/*
 * Answer JOIN_CHECK (check_only) or JOIN of the holder of joiner_key, which the
 * session has proven: append one plain message to reply, JOIN_REPLY or ERROR.
 *
 * Called by exchange.c with: a transaction that has just begun (no xid, no
 * snapshot, nothing on the SPI stack), the calling role's rights, statement
 * timeout off, interrupts served. It may commit and begin transactions by
 * SPI_connect_ext(SPI_OPT_NONATOMIC) and SPI_commit, and must return inside a
 * transaction, user id and settings as they were, SPI finished, no snapshot held.
 * CurrentMemoryContext and reply live over commits. An ERROR is passed on to the
 * joiner as an SQL error; the session lives on.
 */
void		rp_serve_join(RpNode *node, const RpIdentity *me, bool check_only,
						  const P2pJoin *join, const uint8 joiner_key[P2P_PUBLIC_KEY_SIZE],
						  StringInfo reply);

/*
 * Is somebody whom this node has admitted still copying from it? Then its name.
 * Locks members until the transaction's end, so that nobody begins to.
 */
bool		rp_join_is_served(RpNode *node, char name[NAMEDATALEN]);

/*
 * Take back the right to read that joiners were lent more than a day ago and
 * that they have not given back. In a transaction with write access.
 */
void		rp_join_loans_sweep(void);

#endif							/* RP_JOIN_SERVE_H */
