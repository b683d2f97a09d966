/*
 * p2p_member.c
 *	  What coming and going asks of the change logs.
 *
 * A joiner copies rows, not their versions. Those that are not stable stand in
 * the logs of the node it copied from, which keeps them until the joiner acks:
 *
 *	  origin's log there   [oldest ...... required | ........ ]
 *	  the joiner's		   [oldest ...... required | ........ ]
 *									 ^ versions of copied rows: nothing is
 *									   applied, nothing acked, before they are here
 *
 * So the joiner's log of an origin may begin anywhere up to what is in its
 * tables; that of a member which was there from the start begins with seq 1,
 * and nothing in front of it.
 *
 * A member that leaves says so in its own stream. What comes later counts for
 * nothing (p2p_follow.h): the log is complete with the leave. From there on the
 * others neither ask it nor answer it. So a leave has two halves:
 *
 *	  wish ------> all have applied what I had ------> leave ------> all store it -----> gone
 *	  a member like any other, that admits nobody      one that is served no more
 *
 * In front of the leave: whoever was admitted by way of this node has to know
 * who was admitted elsewhere, and the other way about; later nobody might be left
 * who knows both. (A and B are cut from one another, A admits C, B admits D,
 * then A and B leave: C and D each know A and B, and will never hear of one
 * another.) To store is not enough: B may store that A has admitted C, go
 * without having read it, and not have waited for C. B's ack says that B has read
 * it; so from then on B itself waits for C's.
 * Nobody waits so for those whom an evicted node has admitted, so evictions have to be over first
 * (p2p_evict.c). If membership changes meanwhile, the wait begins anew with what is there then.
 *
 * Behind it: the leaving node stays until every other member stores the leave,
 * and all that it may depend on: a transaction of a node that dies later may be
 * nowhere else.
 *
 * Called by pull, states, apply and leave, and by the simulator.
 */
#include "p2p_member.h"

#include <string.h>

/* How far the origin's transactions are in the tables, with the log or without. */
static uint64_t
covered_seq(const P2pMemberLog *log)
{
	return log->required_seq > log->applied_seq ? log->required_seq : log->applied_seq;
}

/* May an empty log begin with this batch? */
bool
p2p_member_may_begin(const P2pMemberLog *log, const P2pSpan *span,
					 const uint8_t previous_hash[P2P_HASH_SIZE])
{
	static const uint8_t nothing[P2P_HASH_SIZE];

	if (span->first_seq == 1)
		return memcmp(previous_hash, nothing, P2P_HASH_SIZE) == 0;
	return covered_seq(log) > 0 && span->first_seq <= covered_seq(log) + 1;
}

/* Does the log hold what the copy covers? */
bool
p2p_member_copy_is_covered(const P2pMemberLog *log)
{
	return log->stored_seq >= log->required_seq;
}

/* Does the log hold all that is in the tables? */
bool
p2p_member_tables_are_covered(const P2pMemberLog *log)
{
	return log->stored_seq >= covered_seq(log);
}

/* Has the log all that there will ever be? */
bool
p2p_member_is_complete(const P2pMemberLog *log, uint64_t seq)
{
	return log->left && seq >= log->left_seq;
}

/* Has a member that says it has applied this met all that we had when we wished to leave? */
bool
p2p_member_has_met(const P2pVector *ack, const P2pVector *wished_at)
{
	return p2p_vector_covers(ack, wished_at);
}

/* Does a member that says it stores this have our leave, and what that depends on at most? */
bool
p2p_member_has_leave(const P2pVector *stored, const P2pOrigin *self, uint64_t leave_seq,
					 const P2pVector *deps)
{
	if (p2p_vector_get(stored, self) < leave_seq)
		return false;
	for (uint32_t i = 0; i < deps->count; i++)
	{
		const P2pVectorEntry *entry = &deps->entries[i];

		if (!p2p_origin_equal(&entry->origin, self) &&
			p2p_vector_get(stored, &entry->origin) < entry->seq)
			return false;
	}
	return true;
}
