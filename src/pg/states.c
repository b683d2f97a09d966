/*
 * states.c
 *	  The members' signed states in shared memory, and group time.
 *
 * A state says what a member stores, what it has applied (its ack) and what it
 * is doing. It is signed by that member, so it may come from anybody: a member
 * whose link is cut is heard of by way of the others, and its acks go on
 * counting. The newest of each, by its counter, stands in RpMember.state_bytes.
 *
 * A counter grows over restarts, too: it is at least the own clock. If the
 * clock was set back meanwhile, or if a copy of this node has spoken in its
 * name, a peer knows a greater one; it comes back to us here, and the next
 * own state goes beyond it.
 *
 * A node that joins acks nothing before its logs hold all that its copy covers:
 * until then the copy's donor must not trim it (pull.c).
 *
 * Signatures are verified without a lock, on a copy of the key; the counter is
 * looked at before (to save the work) and again under the lock.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "changelog.h"
#include "monotonic.h"
#include "settings.h"
#include "states.h"

#include "p2p_clock.h"
#include "p2p_member.h"

/* How often the size of the logs is looked up for the own state. */
#define LOG_MEASURE_INTERVAL_US 1000000

static uint64 measured_log_bytes(RpNode *node);
static P2pNodePhase own_phase(RpNode *node);
static bool copy_is_covered(RpNode *node);
static uint64 counter_of(RpNode *node, int slot);
static uint64 counter_in(const P2pGossip *gossip, const P2pOrigin *origin);
static void keep_state(RpNode *node, int slot, const P2pNodeState *state);
static bool same_state(const P2pNodeState *a, const P2pNodeState *b);

/* Take a state, if it is a member's and newer than what is known; return whether it was. */
bool
rp_state_hear(RpNode *node, const P2pBlock *bytes)
{
	P2pNodeState state;
	uint8		key[P2P_PUBLIC_KEY_SIZE];
	P2pId		group;
	bool		counts;
	int			slot;

	if (p2p_state_parse(bytes->bytes, bytes->length, &state) != P2P_OK)
		return false;
	slot = rp_member_by_origin(node, &state.node);
	if (slot < 0)
		return false;

	LWLockAcquire(&node->lock, LW_SHARED);
	counts = slot == RP_SELF || node->members[slot].status == RP_MEMBER_ADMITTED;
	memcpy(key, node->members[slot].public_key, sizeof(key));
	group = node->group;
	LWLockRelease(&node->lock);

	if (!counts || state.counter <= counter_of(node, slot) ||
		p2p_state_verify(&state, &group, key) != P2P_OK)
		return false;
	if (slot == RP_SELF)
	{
		/* Somebody knows a newer one of ours than we do: go beyond it next time. */
		SpinLockAcquire(&node->vector_lock);
		node->members[RP_SELF].heard_counter =
			Max(node->members[RP_SELF].heard_counter, state.counter);
		SpinLockRelease(&node->vector_lock);
		return false;
	}
	keep_state(node, slot, &state);
	return true;
}

/* Store a verified state, unless a newer one came meanwhile. */
static void
keep_state(RpNode *node, int slot, const P2pNodeState *state)
{
	RpMember   *member = &node->members[slot];
	TimestampTz now = GetCurrentTimestamp();
	bool		newer;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	SpinLockAcquire(&node->vector_lock);
	newer = state->counter > member->heard_counter;
	if (newer)
	{
		member->heard_counter = state->counter;
		member->heard_at = now;
		member->heard_phase = state->phase;
	}
	SpinLockRelease(&node->vector_lock);
	if (newer)
	{
		memcpy(member->state_bytes, state->bytes, state->length);
		member->state_length = (uint32) state->length;
	}
	LWLockRelease(&node->lock);
}

/* Return the counter of the newest state heard of a slot. */
static uint64
counter_of(RpNode *node, int slot)
{
	uint64		counter;

	SpinLockAcquire(&node->vector_lock);
	counter = node->members[slot].heard_counter;
	SpinLockRelease(&node->vector_lock);
	return counter;
}

/* Copy and parse the newest state of a slot. It was verified when it came. */
bool
rp_state_read(RpNode *node, int slot, uint8 *memory, P2pNodeState *state)
{
	uint32		length;

	LWLockAcquire(&node->lock, LW_SHARED);
	length = node->members[slot].state_length;
	memcpy(memory, node->members[slot].state_bytes, length);
	LWLockRelease(&node->lock);
	return length > 0 && p2p_state_parse(memory, length, state) == P2P_OK;
}

/* Return the bytes of all logs here; the files are looked at now and then only. */
static uint64
measured_log_bytes(RpNode *node)
{
	static uint64 bytes = 0;
	static int64 measured_us = 0;	/* monotonic; 0 = never */
	int64		now_us = rp_monotonic_us();
	P2pOrigin	origins[RP_MAX_MEMBERS];
	int			n = 0;

	if (measured_us != 0 && now_us < measured_us + LOG_MEASURE_INTERVAL_US)
		return bytes;
	measured_us = now_us;
	LWLockAcquire(&node->lock, LW_SHARED);
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		if (node->members[slot].status != RP_MEMBER_FREE)
			origins[n++] = node->members[slot].origin;
	}
	LWLockRelease(&node->lock);
	bytes = 0;
	for (int i = 0; i < n; i++)
		bytes += rp_log_bytes(node->dboid, &origins[i]);
	return bytes;
}

/*
 * Build this node's state and publish it, if it says anything new or is due as
 * a sign of life (members behind a relay know us only by it). The ack may be
 * given away at once: capture reads only WAL that is flushed.
 */
bool
rp_state_publish(RpNode *node, const RpIdentity *me)
{
	static P2pNodeState last;
	static int64 published_us = 0;	/* monotonic; 0 = never */
	static uint8 bytes[P2P_STATE_MAX_SIZE];
	P2pNodeState state;
	TimestampTz now = GetCurrentTimestamp();
	uint64		known = counter_of(node, RP_SELF);
	int64		heartbeat_us = (int64) rp_dead_after_s * 1000000 / 4;

	state.node = me->self;
	state.phase = own_phase(node);
	state.log_bytes = measured_log_bytes(node);
	rp_vector_stored(node, &state.stored);
	rp_vector_oldest(node, &state.oldest);
	rp_vector_captured(node, &state.ack);
	if (!copy_is_covered(node))
		p2p_vector_clear(&state.ack);

	if (published_us != 0 && same_state(&state, &last) && known <= last.counter &&
		rp_monotonic_us() < published_us + heartbeat_us)
		return false;

	state.counter = Max(known + 1, (uint64) now);
	if (p2p_state_seal(&state, &me->group, me->secret_key, bytes, sizeof(bytes)) != P2P_OK)
		elog(ERROR, "could not encode the node's state");
	keep_state(node, RP_SELF, &state);
	last = state;
	published_us = rp_monotonic_us();
	return true;
}

/* Do the logs hold what the copy that this node began with covers? */
static bool
copy_is_covered(RpNode *node)
{
	bool		covered = true;

	SpinLockAcquire(&node->vector_lock);
	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS && covered; slot++)
	{
		P2pMemberLog log = {
			.stored_seq = node->members[slot].stored_seq,
			.required_seq = node->members[slot].required_seq
		};

		covered = p2p_member_copy_is_covered(&log);
	}
	SpinLockRelease(&node->vector_lock);
	return covered;
}

/* Do two states of this node say the same? */
static bool
same_state(const P2pNodeState *a, const P2pNodeState *b)
{
	return a->phase == b->phase && a->log_bytes == b->log_bytes &&
		p2p_origin_equal(&a->node, &b->node) &&
		p2p_vector_equal(&a->stored, &b->stored) &&
		p2p_vector_equal(&a->oldest, &b->oldest) &&
		p2p_vector_equal(&a->ack, &b->ack);
}

/* Return what this node is doing, as it tells the others. */
static P2pNodePhase
own_phase(RpNode *node)
{
	switch (rp_node_status(node))
	{
		case RP_NODE_LEAVING:
		case RP_NODE_GONE:
			return P2P_PHASE_LEAVING;
		case RP_NODE_ACTIVE:
			return P2P_PHASE_ACTIVE;
		case RP_NODE_NONE:
		case RP_NODE_CREATING:
		case RP_NODE_JOINING:
		case RP_NODE_CATCHUP:
		case RP_NODE_EVICTED:	/* says nothing any more */
			break;
	}
	return P2P_PHASE_JOINING;
}

/* Does a slot's state travel? Lock: RpNode.lock. */
static bool
state_travels(const RpNode *node, int slot)
{
	return node->members[slot].state_length > 0 &&
		(slot == RP_SELF || node->members[slot].status == RP_MEMBER_ADMITTED);
}

/* List the counters of all states known here. */
void
rp_states_digest(RpNode *node, P2pGossip *gossip)
{
	gossip->ndigest = 0;
	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; i < node->nmembers; i++)
	{
		if (state_travels(node, i))
		{
			P2pDigestEntry *entry = &gossip->digest[gossip->ndigest++];

			entry->node = node->members[i].origin;
			entry->counter = counter_of(node, i);
		}
	}
	LWLockRelease(&node->lock);
}

/* Copy the states that are newer than in the other side's digest. */
void
rp_states_newer(RpNode *node, const P2pGossip *theirs, P2pGossip *gossip)
{
	gossip->nstates = 0;
	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; i < node->nmembers; i++)
	{
		RpMember   *member = &node->members[i];

		if (state_travels(node, i) && counter_of(node, i) > counter_in(theirs, &member->origin))
		{
			P2pBlock   *block = &gossip->states[gossip->nstates++];
			uint8	   *copy = palloc(member->state_length);

			memcpy(copy, member->state_bytes, member->state_length);
			block->bytes = copy;
			block->length = member->state_length;
		}
	}
	LWLockRelease(&node->lock);
}

/* Is any state known here that the other side lacks? */
bool
rp_states_any_newer(RpNode *node, const P2pGossip *theirs)
{
	bool		any = false;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; i < node->nmembers && !any; i++)
		any = state_travels(node, i) &&
			counter_of(node, i) > counter_in(theirs, &node->members[i].origin);
	LWLockRelease(&node->lock);
	return any;
}

/* Return a node's counter in a digest; 0 if it is not there. */
static uint64
counter_in(const P2pGossip *gossip, const P2pOrigin *origin)
{
	for (uint32 i = 0; i < gossip->ndigest; i++)
	{
		if (p2p_origin_equal(&gossip->digest[i].node, origin))
			return gossip->digest[i].counter;
	}
	return 0;
}

/* Append an encoded GOSSIP or GOSSIP_REPLY to out. */
void
rp_states_write(StringInfo out, P2pMessageKind kind, const P2pGossip *gossip)
{
	size_t		size = p2p_gossip_size(gossip);
	P2pWriter	w;

	enlargeStringInfo(out, (int) size);
	p2p_writer_init(&w, out->data + out->len, size);
	p2p_put_gossip(&w, kind, gossip);
	Assert(!w.overflow);
	out->len += (int) w.length;
}

/* Recompute group time, and whether this node is itself the one whose clock is wrong. */
void
rp_states_clock(RpNode *node)
{
	int64		offsets[RP_MAX_MEMBERS];
	uint32		n = 0;
	int64		median;

	offsets[n++] = 0;
	LWLockAcquire(&node->lock, LW_SHARED);
	SpinLockAcquire(&node->vector_lock);
	for (int i = 0; i < node->nmembers; i++)
	{
		const RpMember *member = &node->members[i];

		if (i != RP_SELF && member->status == RP_MEMBER_ADMITTED && member->clock_known)
			offsets[n++] = member->clock_offset_us;
	}
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);

	median = p2p_clock_upper_median(offsets, n);
	SpinLockAcquire(&node->vector_lock);
	node->group_offset_us = median;
	node->clock_is_outlier = Abs(median) > (int64) rp_max_clock_skew_s * 1000000;
	SpinLockRelease(&node->vector_lock);
}
