/*
 * stability.c
 *	  What is stable here, and dropping what is no longer needed because of it.
 *
 * Every member tells in its signed state what it has applied, its own
 * transactions included, at one place of its WAL order: its ack. An ack counts
 * once this node has applied that member up to the ack's own component
 * (p2p_stability.h says why). Stable is the minimum over all admitted members,
 * this node among them; one that has never been heard of holds everything back.
 * "Has applied" means durably: capture, too, has read it, and reads only what is
 * flushed. What is merely visible may be lost in a crash and come again, after the
 * logs were trimmed that had the deletes it loses to.
 *
 * Membership must not be older than the vectors that are compared with it: who
 * was admitted by a transaction that is applied here has to count. So the
 * applied vector is copied first, then the generation of the membership in shared
 * memory is compared with the wanted one, which is bumped before apply shows an
 * admission as applied. If they differ, this step waits for the reload.
 *
 * An evicted member counts until all that ever will be applied of it is applied
 * (evict.h): else what it wrote before might come after the tombstones are gone.
 *
 * What was stable stays stable: a later member starts with a copy that covers
 * it. So RpMember.stable_seq only grows. But logs are trimmed only as far as the
 * acks of the members of now go: one that has joined and not acked yet may be in
 * the middle of pulling what its copy needs, also what was stable before it
 * came. Were that to go, its log would have a gap that nobody fills.
 *
 * Nor further than they are durable: what is applied, and acknowledged, may stand in the WAL alone
 * (batchnote.c, capture_batch.c), and comes back behind the last batch that the log has kept.
 *
 * Nothing is dropped while a change of conflict handlers may be unsettled (handlers.h).
 *
 *	  stable_seq -> segments of change logs (all origins, former members' too)
 *				 -> files of the version index
 *				 -> tombstones, key versions: apply drops them, by stable_seq
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "changelog.h"
#include "evict.h"
#include "handlers.h"
#include "monotonic.h"
#include "stability.h"
#include "versions.h"

#include "p2p_stability.h"

#define TRIM_INTERVAL_US 5000000
/* Trim sooner if so many transactions of one origin became stable. */
#define TRIM_TRANSACTIONS 100000

struct RpStability
{
	MemoryContext context;
	RpNode	   *node;
	P2pAck	   *acks[RP_MAX_MEMBERS];	/* by slot, made when first heard */
	uint64		trimmed_seq[RP_MAX_MEMBERS];	/* stable_seq when its log was last trimmed */
	int64		trim_due_us;
};

/* What the version index's entries are judged by. */
typedef struct StableSeqs
{
	int			nslots;
	bool		copies_stable;
	uint64		seqs[RP_MAX_MEMBERS];
	uint64		durable[RP_MAX_MEMBERS];
} StableSeqs;

static P2pAck *ack_of(RpStability *stability, int slot);
static bool stable_vector(RpStability *stability, const P2pVector *durable, P2pVector *stable);
static void publish(RpNode *node, const P2pVector *stable);
static bool trim_is_due(RpStability *stability, const StableSeqs *stable);
static void copy_stable(RpNode *node, StableSeqs *stable);
static void trim_log(RpStability *stability, int slot, uint64 stable_seq);
static void trim_versions(RpNode *node, StableSeqs *stable);
static bool entry_is_stable(const RpVersionEntry *entry, void *arg);

/* Make it; nothing is heard yet. */
RpStability *
rp_stability_make(RpNode *node)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p stability",
												  ALLOCSET_DEFAULT_SIZES);
	RpStability *stability = MemoryContextAllocZero(context, sizeof(RpStability));

	stability->context = context;
	stability->node = node;
	rp_versions_attach(MyDatabaseId);
	return stability;
}

/* Return the acks of a slot, made if need be. */
static P2pAck *
ack_of(RpStability *stability, int slot)
{
	if (stability->acks[slot] == NULL)
	{
		stability->acks[slot] = MemoryContextAlloc(stability->context, sizeof(P2pAck));
		p2p_ack_init(stability->acks[slot]);
	}
	return stability->acks[slot];
}

/* Take an ack. */
void
rp_stability_hear(RpStability *stability, int slot, const P2pOrigin *member, const P2pVector *ack)
{
	p2p_ack_hear(ack_of(stability, slot), member, ack);
}

/* Find out what is stable now, and publish it. */
void
rp_stability_step(RpStability *stability)
{
	RpNode	   *node = stability->node;
	P2pVector	own;
	P2pVector	durable;
	P2pVector	stable;
	P2pOrigin	self;

	rp_vector_captured(node, &own);
	rp_vector_applied(node, &durable);
	p2p_vector_meet(&durable, &own);
	pg_memory_barrier();		/* vectors first, membership later */

	LWLockAcquire(&node->lock, LW_SHARED);
	self = node->members[RP_SELF].origin;
	LWLockRelease(&node->lock);
	rp_stability_hear(stability, RP_SELF, &self, &own);

	if (stable_vector(stability, &durable, &stable))
		publish(node, &stable);
}

/*
 * Let all members' acks ripen, as far as durable goes, and take their minimum; false:
 * membership is about to change.
 */
static bool
stable_vector(RpStability *stability, const P2pVector *durable, P2pVector *stable)
{
	RpNode	   *node = stability->node;
	const P2pAck *acks[RP_MAX_MEMBERS];
	uint32		n = 0;
	bool		current;

	LWLockAcquire(&node->lock, LW_SHARED);
	current = pg_atomic_read_u64(&node->wanted_generation) == node->loaded_generation;
	for (int slot = 0; current && slot < node->nmembers; slot++)
	{
		const RpMember *member = &node->members[slot];

		if (member->status != RP_MEMBER_ADMITTED &&
			(member->status != RP_MEMBER_EVICTED || rp_evict_is_settled(node)))
			continue;
		(void) p2p_ack_ripen(ack_of(stability, slot), &member->origin,
							 p2p_vector_get(durable, &member->origin));
		acks[n++] = stability->acks[slot];
	}
	LWLockRelease(&node->lock);
	if (!current || n == 0)
		return false;
	p2p_stable_vector(acks, n, stable);
	return true;
}

/* Raise stable_seq of every origin, former members included. */
static void
publish(RpNode *node, const P2pVector *stable)
{
	LWLockAcquire(&node->lock, LW_SHARED);
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		RpMember   *member = &node->members[slot];

		if (member->status != RP_MEMBER_FREE)
			member->stable_seq = Max(member->stable_seq,
									 p2p_vector_get(stable, &member->origin));
	}
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);
}

/* Drop what is stable. */
void
rp_stability_trim(RpStability *stability)
{
	static const P2pVector nothing_new;
	StableSeqs	stable;
	P2pVector	held;

	if (rp_handlers_unsettled(stability->node))
		return;
	copy_stable(stability->node, &stable);
	if (!trim_is_due(stability, &stable) || !stable_vector(stability, &nothing_new, &held))
		return;
	for (int slot = 0; slot < stable.nslots; slot++)
	{
		uint64		seq = Min(stable.seqs[slot],
							  p2p_vector_get(&held, &stability->node->members[slot].origin));

		seq = Min(seq, stable.durable[slot]);
		if (seq > stability->trimmed_seq[slot])
			trim_log(stability, slot, seq);
	}
	trim_versions(stability->node, &stable);
	stability->trim_due_us = rp_monotonic_us() + TRIM_INTERVAL_US;
}

/*
 * Copy the stable seqs, as far as they may be forgotten; also whether every row that a join copied
 * is stable.
 */
static void
copy_stable(RpNode *node, StableSeqs *stable)
{
	LWLockAcquire(&node->lock, LW_SHARED);
	stable->nslots = node->nmembers;
	/* before the copy is complete nobody knows what its rows require */
	stable->copies_stable = node->status != RP_NODE_JOINING;
	LWLockRelease(&node->lock);
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < stable->nslots; slot++)
	{
		stable->seqs[slot] = rp_droppable_seq(node, slot);
		stable->durable[slot] = node->members[slot].durable_seq;
		if (node->members[slot].required_seq > stable->seqs[slot])
			stable->copies_stable = false;
	}
	SpinLockRelease(&node->vector_lock);
}

/* Is it time, or is there much to drop? */
static bool
trim_is_due(RpStability *stability, const StableSeqs *stable)
{
	if (rp_monotonic_us() >= stability->trim_due_us)
		return true;
	for (int slot = 0; slot < stable->nslots; slot++)
	{
		if (stable->seqs[slot] > stability->trimmed_seq[slot] + TRIM_TRANSACTIONS)
			return true;
	}
	return false;
}

/* Trim one origin's log and publish what is left. */
static void
trim_log(RpStability *stability, int slot, uint64 stable_seq)
{
	RpNode	   *node = stability->node;
	RpMember   *member = &node->members[slot];
	P2pOrigin	origin;
	uint64		oldest_seq;

	LWLockAcquire(&node->lock, LW_SHARED);
	origin = member->origin;
	LWLockRelease(&node->lock);

	oldest_seq = rp_log_trim(MyDatabaseId, &origin, stable_seq);
	stability->trimmed_seq[slot] = stable_seq;

	SpinLockAcquire(&node->vector_lock);
	if (oldest_seq > member->oldest_seq)
		member->oldest_seq = oldest_seq;
	SpinLockRelease(&node->vector_lock);
}

/* Trim the version index, below what capture has accounted for. */
static void
trim_versions(RpNode *node, StableSeqs *stable)
{
	TransactionId before;

	SpinLockAcquire(&node->vector_lock);
	before = node->captured_below;
	SpinLockRelease(&node->vector_lock);
	if (TransactionIdIsNormal(before))
		(void) rp_versions_trim(rp_versions_full_xid(before), entry_is_stable, stable);
}

/* Is an entry's transaction stable? */
static bool
entry_is_stable(const RpVersionEntry *entry, void *arg)
{
	const StableSeqs *stable = arg;

	if (entry->slot == RP_SLOT_COPIED)
		return stable->copies_stable;
	return entry->slot < stable->nslots && entry->seq <= stable->seqs[entry->slot];
}
