/*
 * p2p_stability.c
 *	  What every member is known to have applied, and will not contradict.
 *
 * Acks of one member are heard in any order, and later than they were read.
 * Each goes through three places:
 *
 *	  heard --> newest --> waiting --> mature
 *	            replaced   kept until  never goes
 *	            by newer   it is ripe  back
 *
 * An ack ripens when the member's own transactions are applied here up to the
 * ack's own component. From then on nothing can arrive from that member that
 * had not seen what the ack covers: all that it wrote before is here, and what
 * it writes later has the ack in its deps. Only the acks of all members
 * together, each ripe, allow to drop a tombstone.
 *
 * Under load a newer ack comes before the older one is ripe, time and again.
 * So the waiting one is kept, and the newest waits behind it.
 *
 * A member's acks are read along its WAL, so each covers those before it. One
 * that does not is late, repeated, or wrong, and is ignored: to ignore an ack
 * delays dropping and never loses anything.
 *
 * Called by gossip (hear) and by apply (ripen, stable), for every member, the
 * node itself included, whose own ack is ripe when capture has come to it. The
 * caller holds the lock of the acks. Who counts as a member is the caller's
 * question; a node that is admitted without an ack yet makes nothing stable.
 */
#include "p2p_stability.h"

static const P2pVector *latest_heard(const P2pAck *ack);
static bool is_ripe(const P2pVector *vector, const P2pOrigin *member, uint64_t applied_seq);
static void pull_up_newest(P2pAck *ack);

/* Make ack that of a member from which nothing was heard. */
void
p2p_ack_init(P2pAck *ack)
{
	ack->has_mature = false;
	ack->has_waiting = false;
	ack->has_newest = false;
	p2p_vector_clear(&ack->mature);
	p2p_vector_clear(&ack->waiting);
	p2p_vector_clear(&ack->newest);
}

/* Take a newly heard ack of member, unless it is not newer than the latest. */
void
p2p_ack_hear(P2pAck *ack, const P2pOrigin *member, const P2pVector *vector)
{
	const P2pVector *latest = latest_heard(ack);

	if (latest != NULL &&
		(p2p_vector_get(vector, member) < p2p_vector_get(latest, member) ||
		 !p2p_vector_covers(vector, latest) || p2p_vector_equal(vector, latest)))
		return;

	if (ack->has_waiting)
	{
		ack->newest = *vector;
		ack->has_newest = true;
	}
	else
	{
		ack->waiting = *vector;
		ack->has_waiting = true;
	}
}

/* Return the latest ack that was taken, or NULL. */
static const P2pVector *
latest_heard(const P2pAck *ack)
{
	if (ack->has_newest)
		return &ack->newest;
	if (ack->has_waiting)
		return &ack->waiting;
	return ack->has_mature ? &ack->mature : NULL;
}

/*
 * Move on what has matured, given that member's transactions are applied here
 * up to applied_seq. Return whether the mature ack moved.
 */
bool
p2p_ack_ripen(P2pAck *ack, const P2pOrigin *member, uint64_t applied_seq)
{
	bool		moved = false;

	while (ack->has_waiting && is_ripe(&ack->waiting, member, applied_seq))
	{
		ack->mature = ack->waiting;
		ack->has_mature = true;
		pull_up_newest(ack);
		moved = true;
	}
	return moved;
}

/* Say whether all that member wrote before this ack of its is applied here. */
static bool
is_ripe(const P2pVector *vector, const P2pOrigin *member, uint64_t applied_seq)
{
	return p2p_vector_get(vector, member) <= applied_seq;
}

/* Let the newest ack, if there is one, be the waiting one. */
static void
pull_up_newest(P2pAck *ack)
{
	ack->has_waiting = ack->has_newest;
	if (ack->has_newest)
		ack->waiting = ack->newest;
	ack->has_newest = false;
}

/* Set stable to the minimum of the members' mature acks; empty if any has none. */
void
p2p_stable_vector(const P2pAck *const *acks, uint32_t n_members, P2pVector *stable)
{
	p2p_vector_clear(stable);
	for (uint32_t i = 0; i < n_members; i++)
	{
		if (!acks[i]->has_mature)
		{
			p2p_vector_clear(stable);
			return;
		}
		if (i == 0)
			*stable = acks[i]->mature;
		else
			p2p_vector_meet(stable, &acks[i]->mature);
	}
}
