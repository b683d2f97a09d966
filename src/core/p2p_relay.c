/*
 * p2p_relay.c
 *	  Fan-out of one origin's batches over relays.
 *
 * For each origin the other members stand in an order of their own, given by
 * a mix of both ids. The first `fanout` ask the origin itself; of the others
 * each asks a member further in front, no more than `fanout` of them the same
 * one:
 *
 *	  origin <- 0, 1, 2      0 <- 3, 4, 5      1 <- 6, 7, 8   ...
 *
 * So the depth grows with the logarithm of the group, a group of fanout + 1 has
 * no relays at all, and since each origin has another order everybody relays
 * about as much as the others.
 *
 * All who know the same members come to the same tree, without a word about it.
 * Who knows other members for a moment may make it a circle, and a relay that
 * is cut off from its own source may ask one that asks it: so a relay is only
 * trusted while it keeps up with what the origin itself says that it has. One
 * that does not is avoided, and the origin asked instead: for half a minute, then for twice
 * as long each time, until a relay has kept up again.
 */
#include "p2p_relay.h"

#define AVOID_FIRST_US ((int64_t) 30 * 1000000)
#define AVOID_LAST_US ((int64_t) 600 * 1000000)

/* Mix the bits of a number, as splitmix64 does. */
static uint64_t
mix(uint64_t bits)
{
	bits += 0x9e3779b97f4a7c15U;
	bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
	bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
	return bits ^ (bits >> 31);
}

/* Return the first bytes of an id, which is a hash, as a number: the same one on every machine. */
static uint64_t
id_bits(const P2pId *id)
{
	uint64_t	bits = 0;

	for (int i = 0; i < 8; i++)
		bits = bits << 8 | id->bytes[i];
	return bits;
}

/* Return where a member stands in the order of an origin. */
static uint64_t
place_key(const P2pOrigin *origin, const P2pOrigin *member)
{
	return mix(mix(id_bits(&origin->id)) + id_bits(&member->id));
}

/* Does a stand in front of b in the order of an origin? */
static bool
stands_before(const P2pOrigin *origin, const P2pOrigin *a, const P2pOrigin *b)
{
	uint64_t	a_key = place_key(origin, a);
	uint64_t	b_key = place_key(origin, b);

	return a_key != b_key ? a_key < b_key : p2p_origin_compare(a, b) < 0;
}

/* Return how many others stand in front of a member, the origin not counted. */
static uint32_t
place_of(const P2pOrigin *members, uint32_t n, const P2pOrigin *origin, const P2pOrigin *member)
{
	uint32_t	place = 0;

	for (uint32_t i = 0; i < n; i++)
	{
		if (!p2p_origin_equal(&members[i], origin) && stands_before(origin, &members[i], member))
			place++;
	}
	return place;
}

/* Is it in the list? */
static bool
is_member(const P2pOrigin *members, uint32_t n, const P2pOrigin *wanted)
{
	for (uint32_t i = 0; i < n; i++)
	{
		if (p2p_origin_equal(&members[i], wanted))
			return true;
	}
	return false;
}

/* Find the relay between self and origin. Cost: n for those who ask the origin, else n * n at most. */
bool
p2p_relay_find(const P2pOrigin *members, uint32_t n, const P2pOrigin *self,
			   const P2pOrigin *origin, uint32_t fanout, uint32_t *relay)
{
	uint32_t	place;

	if (fanout == 0 || p2p_origin_equal(self, origin) ||
		!is_member(members, n, self) || !is_member(members, n, origin))
		return false;
	place = place_of(members, n, origin, self);
	if (place < fanout)
		return false;
	for (uint32_t i = 0; i < n; i++)
	{
		if (p2p_origin_equal(&members[i], origin) ||
			place_of(members, n, origin, &members[i]) != (place - fanout) / fanout)
			continue;
		*relay = i;
		return true;
	}
	return false;
}

/* May a relay be asked now? */
bool
p2p_relay_is_trusted(const P2pRelayTrust *trust, int64_t now_us)
{
	return now_us >= trust->avoid_until_us;
}

/* Note what the origin has, unless something is awaited already. */
void
p2p_relay_expect(P2pRelayTrust *trust, uint64_t head_seq, uint64_t have_seq, int64_t now_us)
{
	if (trust->awaited_seq > have_seq)
		return;
	if (trust->awaited_seq > 0)
		trust->avoid_us = 0;	/* the relay has brought it in time */
	trust->awaited_seq = head_seq > have_seq ? head_seq : 0;
	trust->since_us = now_us;
}

/* Look whether what is awaited is overdue. */
bool
p2p_relay_is_late(P2pRelayTrust *trust, uint64_t have_seq, int64_t now_us, int64_t patience_us)
{
	if (trust->awaited_seq <= have_seq || now_us - trust->since_us < patience_us)
		return false;
	if (trust->avoid_us == 0)
		trust->avoid_us = AVOID_FIRST_US;
	trust->avoid_until_us = now_us + trust->avoid_us;
	trust->avoid_us = trust->avoid_us * 2 < AVOID_LAST_US ? trust->avoid_us * 2 : AVOID_LAST_US;
	trust->awaited_seq = 0;
	return true;
}

/* Await nothing. */
void
p2p_relay_forget(P2pRelayTrust *trust)
{
	trust->awaited_seq = 0;
}
