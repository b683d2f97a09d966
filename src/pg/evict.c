/*
 * evict.c
 *	  What an eviction brings about on a member. The rules, and why they hold,
 *	  stand in p2p_evict.c; here is who carries them out, and when.
 *
 *	  evict_node()	fn_evict.c: a row in replp2p.membership, an ordinary
 *					transaction of this node's stream
 *	  applied		membership.c: status evicted. From then on exchange.c refuses
 *					the node, states.c forgets it, gossip closes its links
 *	  freeze		gossip, links closed and logs synced: a row per node that is
 *					gone, evicted or left, all of a moment in one transaction.
 *					It is durable before it is visible: what follows from it
 *					here may not be built on what a crash takes back
 *	  cuts			whoever loads membership adds up the freezes: the greatest of
 *					all members is the last seq that counts (RpMember.left_seq)
 *	  end			apply, once all evicted ones are applied as far as anybody can:
 *					RpNode.settled_generation. Holds for that state of membership
 *					only; any change of it has apply look again
 *	  stability		counts evicted ones until then (stability.c)
 *
 * Nothing of the evicted node is held back meanwhile: what any member stores of
 * it the others pull, as of any origin, and apply.
 *
 * The evicted node hears of it when it asks anybody who knows, or by the row
 * itself. It stops for good: capture goes on, so that no WAL is kept for it, and
 * writes to its own log; nothing is sent, taken or applied.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "p2p_crypto.h"
#include "p2p_evict.h"

#include "catalog.h"
#include "evict.h"

/* Freezes as read: by author's and subject's slot, 1 + seq; 0 = none. */
typedef struct Freezes
{
	int			nmembers;
	uint64	   *told;			/* [author * nmembers + subject] */
} Freezes;

static P2pStanding
standing_of(RpMemberStatus status)
{
	switch (status)
	{
		case RP_MEMBER_ADMITTED:
			return P2P_STANDING_MEMBER;
		case RP_MEMBER_LEFT:
			return P2P_STANDING_LEFT;
		case RP_MEMBER_EVICTED:
			return P2P_STANDING_EVICTED;
		case RP_MEMBER_FREE:
			break;
	}
	return P2P_STANDING_NONE;
}

/* Read all freezes. Between catalog open and close. */
static void
freezes_read(int nmembers, Freezes *freezes)
{
	uint64		n;

	freezes->nmembers = nmembers;
	freezes->told = palloc0(sizeof(uint64) * nmembers * nmembers);
	n = rp_catalog_run("SELECT a.slot, s.slot, max(f.frozen_seq) FROM replp2p.membership f"
					   " JOIN replp2p.members a ON a.node_id = f.author_id AND a.epoch = f.author_epoch"
					   " JOIN replp2p.members s ON s.node_id = f.subject_id AND s.epoch = f.subject_epoch"
					   " WHERE f.change = 'f' GROUP BY a.slot, s.slot",
					   SPI_OK_SELECT, NULL, 0);
	for (uint64 row = 0; row < n; row++)
	{
		int			author = DatumGetInt16(rp_column(row, 1));
		int			subject = DatumGetInt16(rp_column(row, 2));

		if (author >= 0 && author < nmembers && subject >= 0 && subject < nmembers)
			freezes->told[author * nmembers + subject] = 1 + (uint64) DatumGetInt64(rp_column(row, 3));
	}
}

/* What a member has said of one that is gone: see p2p_evict_cuts. */
static bool
frozen_seq(void *arg, uint32_t member, uint32_t gone, uint64_t *seq)
{
	const Freezes *freezes = arg;
	uint64		told = freezes->told[member * (uint32) freezes->nmembers + gone];

	*seq = told > 0 ? told - 1 : 0;
	return told > 0;
}

/* Find the last seq of every evicted member; false: not known yet. */
bool
rp_evict_cuts_read(const RpMemberStatus *statuses, int nmembers, uint64 *cuts)
{
	P2pStanding standings[RP_MAX_MEMBERS];
	uint64_t	found[RP_MAX_MEMBERS];
	Freezes		freezes;

	for (int slot = 0; slot < nmembers; slot++)
		standings[slot] = standing_of(statuses[slot]);
	freezes_read(nmembers, &freezes);
	if (!p2p_evict_cuts(standings, (uint32) nmembers, frozen_seq, &freezes, found))
		return false;
	for (int slot = 0; slot < nmembers; slot++)
		cuts[slot] = found[slot];
	return true;
}

/* Write the freeze of one member into this node's stream. In a transaction. */
static void
freeze_add(RpNode *node, const RpIdentity *me, int slot, uint64 seq)
{
	const RpMember *member = &node->members[slot];
	RpMembershipRow row;

	memset(&row, 0, sizeof(row));
	row.change = RP_MEMBERSHIP_FREEZE;
	LWLockAcquire(&node->lock, LW_SHARED);
	row.subject = member->origin;
	strlcpy(row.name, member->name, sizeof(row.name));
	strlcpy(row.dsn, member->dsn, sizeof(row.dsn));
	memcpy(row.public_key, member->public_key, sizeof(row.public_key));
	LWLockRelease(&node->lock);
	row.frozen_seq = (int64) seq;
	rp_membership_add(node, me, &row);
	ereport(LOG,
			(errmsg("froze node \"%s\", which is gone: " UINT64_FORMAT " of its transactions are stored here",
					row.name, seq)));
}

/*
 * Fill in what this node sees and has said of the others; returns how many there are. In a
 * transaction.
 */
static int
closings_find(RpNode *node, const bool *closed, P2pClosing *nodes)
{
	RpCatalog	catalog;
	Freezes		freezes;
	int			n;

	LWLockAcquire(&node->lock, LW_SHARED);
	n = node->nmembers;
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < n; slot++)
	{
		nodes[slot].standing = standing_of(node->members[slot].status);
		nodes[slot].closed = slot != RP_SELF && closed[slot];
		nodes[slot].stored_seq = node->members[slot].stored_seq;
	}
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);

	rp_catalog_open(&catalog);
	freezes_read(n, &freezes);
	for (int slot = 0; slot < n; slot++)
		nodes[slot].frozen = frozen_seq(&freezes, RP_SELF, (uint32) slot, &nodes[slot].frozen_seq);
	rp_catalog_close(&catalog);
	return n;
}

/*
 * A freeze must not say less than what is applied here, now or later: the cut may come out as what
 * it says, the others end there, and we'd be the only one to have more. Apply commits from what is
 * written and not yet durable (batchnote.c). Does a freeze cover that?
 *
 *	  What is applied by now, or will be from what apply has read by now, was in a log's file,
 *	  written by this gossip worker: then it was synced before the freeze, or that is not now.
 *	  Or by a former one: then the log was opened since, and what it had lost was put back from
 *	  the WAL, all of it, before anything else was done (pull_refill.c). What apply had read
 *	  of the log before that, and not noted, it must read again.
 *
 * What is left is a disk that has lost synced records: those are pulled again, from whomever has
 * them, and until then nothing is told. What is stable every member has applied, and no cut
 * makes a difference to it; what only the copy covers the donor has, too.
 */
static bool
applied_is_stored(RpNode *node)
{
	bool		stored = true;

	LWLockAcquire(&node->lock, LW_SHARED);
	SpinLockAcquire(&node->vector_lock);
	for (int slot = RP_SELF + 1; slot < node->nmembers && stored; slot++)
	{
		const RpMember *member = &node->members[slot];

		if (member->status == RP_MEMBER_LEFT || member->status == RP_MEMBER_EVICTED)
			stored = member->written_seq <= member->stored_seq &&
				member->applied_seq <= Max(member->stored_seq,
										   Max(member->required_seq, member->stable_seq));
	}
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);
	return stored;
}

/* Say what this node stores of those who are gone, if it has not; false: not now. */
bool
rp_evict_freeze(RpNode *node, const RpIdentity *me, const bool *closed)
{
	P2pClosing	nodes[RP_MAX_MEMBERS] = {0};
	bool		done = true;
	int			n;

	if (!applied_is_stored(node))
		return false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	n = closings_find(node, closed, nodes);
	if (p2p_evict_freezes(nodes, (uint32) n))
		done = rp_membership_is_free();
	for (int slot = 0; slot < n && done; slot++)
	{
		if (!nodes[slot].tell)
			continue;
		freeze_add(node, me, slot, nodes[slot].stored_seq);
		ForceSyncCommit();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return done;
}

/* Find out whether all evicted members are at their end here. */
bool
rp_evict_settle(RpNode *node, const uint64 *applied, const P2pVector *const *next_deps)
{
	P2pEvicted	evicted[RP_MAX_MEMBERS];
	int			slots[RP_MAX_MEMBERS];
	uint64		generation;
	uint32		n = 0;
	bool		known;

	LWLockAcquire(&node->lock, LW_SHARED);
	generation = node->loaded_generation;
	known = !rp_evict_is_settled(node) && node->cuts_known;
	for (int slot = 0; slot < node->nmembers && known; slot++)
	{
		if (node->members[slot].status != RP_MEMBER_EVICTED)
			continue;
		evicted[n].origin = node->members[slot].origin;
		evicted[n].cut = node->members[slot].left_seq;
		slots[n++] = slot;
	}
	LWLockRelease(&node->lock);
	if (!known)
		return true;			/* a change of membership brings us here again */

	SpinLockAcquire(&node->vector_lock);
	for (uint32 i = 0; i < n; i++)
	{
		uint64		durable = Min(applied[slots[i]], node->members[slots[i]].captured_seq);

		evicted[i].applied_seq = durable;
		evicted[i].next_deps = durable == applied[slots[i]] ? next_deps[slots[i]] : NULL;
	}
	SpinLockRelease(&node->vector_lock);
	if (!p2p_evict_all_over(evicted, n))
		return false;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (generation == node->loaded_generation)
		node->settled_generation = generation;
	LWLockRelease(&node->lock);
	rp_worker_wake(node, RP_WORKER_GOSSIP);
	return true;
}

/* Have this node stop. */
void
rp_evict_self(RpNode *node, const char *teller)
{
	if (rp_node_status(node) == RP_NODE_EVICTED)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this node was evicted from its replp2p group, node \"%s\" says", teller),
			 errdetail("What is written here from now on stays here, and so does what had reached no other node."),
			 errhint("Save what is needed, then leave by replp2p.leave_group() and join anew.")));
	rp_node_set_status(node, RP_NODE_EVICTED);
}
