/*
 * p2p_member.h
 *	  What coming and going asks of the change logs: where a joiner's logs may
 *	  begin, when they hold what its copy needs, when a former member's is
 *	  complete, when a leaving member may go.
 */
#ifndef P2P_MEMBER_H
#define P2P_MEMBER_H

#include "p2p_cursor.h"
#include "p2p_vector.h"

/* One member, or former one, as another sees its log. */
typedef struct P2pMemberLog
{
	uint64_t	stored_seq;		/* durable here */
	uint64_t	applied_seq;
	uint64_t	required_seq;	/* the copy that this node began with covers up to this; 0 = none */
	bool		left;
	uint64_t	left_seq;		/* if it left: of the transaction that said so */
} P2pMemberLog;

/* May an empty log begin with a batch of this span and previous hash? */
bool		p2p_member_may_begin(const P2pMemberLog *log, const P2pSpan *span,
								 const uint8_t previous_hash[P2P_HASH_SIZE]);
/* Does the log hold what the copy covers, so that versions of copied rows are known, and acks may be told? */
bool		p2p_member_copy_is_covered(const P2pMemberLog *log);
/* Does it hold all that is in the tables, so that apply may rely on it? */
bool		p2p_member_tables_are_covered(const P2pMemberLog *log);
/* Has the log all that there will ever be of its origin? seq: of the last whole transaction held. */
bool		p2p_member_is_complete(const P2pMemberLog *log, uint64_t seq);
/* Has a member that says it has applied this (its ack) met all that we had when we wished to leave? */
bool		p2p_member_has_met(const P2pVector *ack, const P2pVector *wished_at);
/* Does a member that says it stores this have our leave, and what that depends on at most? */
bool		p2p_member_has_leave(const P2pVector *stored, const P2pOrigin *self, uint64_t leave_seq,
								 const P2pVector *deps);

#endif							/* P2P_MEMBER_H */
