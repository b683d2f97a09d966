/*
 * shmem.c
 *	  Shared memory: made once by the postmaster, found by everybody.
 *
 * Entries (RpNode) are taken by create_group, join_group and the launcher, and
 * given back by the launcher. They never move, and their locks, condition
 * variables and delete counters are initialised once and live on from one node to the
 * next: a process may still look at an entry, or owe it a decrement, when its node
 * is gone. Counters of deletes that are left raised or high for the next
 * node only make it wait for a barrier more often.
 *
 * Lock order and the writer of each field stand in shmem.h. Two things are read
 * without a lock, on purpose: in_use with dboid (rp_node_current, in every
 * commit; dboid is written first, and a stale answer is harmless there), and latches
 * (they lie in the array of PGPROCs, so that setting one of an ended process
 * wakes somebody in vain, no more).
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "settings.h"
#include "shmem.h"

RpShared   *rp_shared = NULL;

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

/* Return the size of the shared memory. */
static Size
shmem_size(void)
{
	return add_size(offsetof(RpShared, nodes), mul_size(rp_max_databases, sizeof(RpNode)));
}

/* Ask for the memory. */
static void
shmem_request(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(shmem_size());
}

/* Set all counters of a node to zero. */
static void
node_stats_reset(RpNode *node)
{
	RpNodeStats *s = &node->stats;
	pg_atomic_uint64 *counters[] = {
		&s->captured_transactions, &s->captured_changes, &s->captured_bytes,
		&s->captured_batches, &s->skipped_changes, &s->log_syncs, &s->requests_served,
		&s->bytes_sent, &s->refused_strangers, &s->refused_messages, &s->refused_batches
	};

	StaticAssertStmt(sizeof(*s) == lengthof(counters) * sizeof(pg_atomic_uint64),
					 "every counter of RpNodeStats is reset");
	for (size_t i = 0; i < lengthof(counters); i++)
		pg_atomic_write_u64(counters[i], 0);
	node->stats_reset = GetCurrentTimestamp();
}

/* Forget all of a former node that does not live as long as the entry; under RpShared.lock. */
static void
node_reset(RpNode *node)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->status = RP_NODE_NONE;
	memset(&node->group, 0, sizeof(node->group));
	memset(node->group_name, 0, sizeof(node->group_name));
	node->nmembers = 0;
	node->loaded_generation = 0;
	node->swept = false;
	pg_atomic_write_u64(&node->wanted_generation, 1);
	memset(node->workers, 0, sizeof(node->workers));
	memset(&node->join, 0, sizeof(node->join));
	pg_atomic_write_u64(&node->commit_lsn, 0);
	pg_atomic_write_u32(&node->capture_listens, 0);
	pg_atomic_write_u32(&node->apply_listens, 1);
	pg_atomic_write_u64(&node->handlers_settled, 0);

	SpinLockAcquire(&node->vector_lock);
	node->notes_known = false;
	node->captured_lsn = InvalidXLogRecPtr;
	node->confirmed_lsn = InvalidXLogRecPtr;
	node->captured_below = InvalidTransactionId;
	node->last_stamp = 0;
	node->own_time = 0;
	node->capture_ready = false;
	node->last_commit_time = 0;
	node->floor = 0;
	node->group_offset_us = 0;
	node->clock_is_outlier = false;
	memset(node->refusals, 0, sizeof(node->refusals));
	SpinLockRelease(&node->vector_lock);

	/* Nobody looks at members beyond nmembers, so that this needs no spinlock. */
	memset(node->members, 0, sizeof(node->members));
	for (int i = 0; i < RP_MAX_MEMBERS; i++)
	{
		node->members[i].rtt_us = -1;
		node->members[i].pull_source = -1;
	}
	node_stats_reset(node);
	node->conflict_counts.loaded = false;
	rp_conflict_counts_reset(&node->conflict_counts);
	LWLockRelease(&node->lock);
}

/* Initialise what lives as long as the entry. */
static void
node_init(RpNode *node, int tranche)
{
	LWLockInitialize(&node->lock, tranche);
	LWLockInitialize(&node->notes_lock, tranche);
	SpinLockInit(&node->vector_lock);
	ConditionVariableInit(&node->captured_cv);
	ConditionVariableInit(&node->applied_cv);
	ConditionVariableInit(&node->status_cv);
	pg_atomic_init_u64(&node->wanted_generation, 0);
	pg_atomic_init_u64(&node->commit_lsn, 0);
	pg_atomic_init_u32(&node->capture_listens, 0);
	pg_atomic_init_u32(&node->apply_listens, 1);
	for (int i = 0; i <= RP_DELETE_EVERY; i++)
	{
		pg_atomic_init_u32(&node->deleting[i], 0);
		pg_atomic_init_u64(&node->deleted_lsn[i], 0);
	}
	pg_atomic_init_u64(&node->handler_changes, 0);
	pg_atomic_init_u64(&node->handlers_settled, 0);
}

/* Make the memory, or find it (where processes are not forked). */
static void
shmem_startup(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	rp_shared = ShmemInitStruct("replp2p", shmem_size(), &found);
	if (!found)
	{
		int			node_tranche = LWLockNewTrancheId();

		memset(rp_shared, 0, shmem_size());
		LWLockInitialize(&rp_shared->lock, LWLockNewTrancheId());
		rp_shared->max_nodes = rp_max_databases;
		for (int i = 0; i < rp_shared->max_nodes; i++)
			node_init(&rp_shared->nodes[i], node_tranche);
	}
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(rp_shared->lock.tranche, "replp2p_shared");
	LWLockRegisterTranche(rp_shared->nodes[0].lock.tranche, "replp2p_node");
}

/* Install the hooks that ask for the memory and make it. */
void
rp_shmem_install(void)
{
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Return the entry of a database, or NULL; the caller holds RpShared.lock. */
static RpNode *
node_lookup(Oid dboid)
{
	for (int i = 0; i < rp_shared->max_nodes; i++)
	{
		RpNode	   *node = &rp_shared->nodes[i];

		if (node->in_use && node->dboid == dboid)
			return node;
	}
	return NULL;
}

/* Return the node of a database, or NULL. */
RpNode *
rp_node_find(Oid dboid)
{
	RpNode	   *node;

	if (rp_shared == NULL)
		return NULL;
	LWLockAcquire(&rp_shared->lock, LW_SHARED);
	node = node_lookup(dboid);
	LWLockRelease(&rp_shared->lock);
	return node;
}

/* Return the node of this process's database, or NULL, by unlocked reads. */
RpNode *
rp_node_current(void)
{
	static RpNode *last = NULL;

	if (rp_shared == NULL || !OidIsValid(MyDatabaseId))
		return NULL;
	if (last != NULL && last->in_use && last->dboid == MyDatabaseId)
		return last;
	for (int i = 0; i < rp_shared->max_nodes; i++)
	{
		RpNode	   *node = &rp_shared->nodes[i];

		if (node->in_use && node->dboid == MyDatabaseId)
			return last = node;
	}
	return NULL;
}

/* Find or take the entry of a database; NULL if none is free. Raises no error. */
RpNode *
rp_node_claim(Oid dboid)
{
	RpNode	   *node;

	if (rp_shared == NULL)
		return NULL;
	LWLockAcquire(&rp_shared->lock, LW_EXCLUSIVE);
	node = node_lookup(dboid);
	for (int i = 0; node == NULL && i < rp_shared->max_nodes; i++)
	{
		if (rp_shared->nodes[i].in_use)
			continue;
		node = &rp_shared->nodes[i];
		node_reset(node);
		node->dboid = dboid;
		pg_write_barrier();
		node->in_use = true;
	}
	LWLockRelease(&rp_shared->lock);
	return node;
}

/* Give the entry back: all workers are gone, and all traces removed. */
void
rp_node_release(RpNode *node)
{
	LWLockAcquire(&rp_shared->lock, LW_EXCLUSIVE);
	node->in_use = false;
	pg_write_barrier();
	node->dboid = InvalidOid;
	node_reset(node);
	LWLockRelease(&rp_shared->lock);
	ConditionVariableBroadcast(&node->status_cv);
}

/* Return the node of this process's database, or ERROR saying what to do. */
RpNode *
rp_node_required(void)
{
	RpNode	   *node;

	if (rp_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replp2p is not loaded by the server"),
				 errhint("Add replp2p to shared_preload_libraries and restart.")));
	node = rp_node_current();
	if (node == NULL || rp_node_status(node) == RP_NODE_GONE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not a node of a group"),
				 errhint("Call replp2p.create_group() or replp2p.join_group() first.")));
	return node;
}

/* Return the node's status. */
RpNodeStatus
rp_node_status(RpNode *node)
{
	RpNodeStatus status;

	LWLockAcquire(&node->lock, LW_SHARED);
	status = node->status;
	LWLockRelease(&node->lock);
	return status;
}

/* Copy one seq of every member, found at offset in RpMember, read at one moment. */
static void
vector_copy(RpNode *node, size_t offset, P2pVector *v)
{
	uint64		seqs[RP_MAX_MEMBERS];
	int			nmembers;

	p2p_vector_clear(v);
	LWLockAcquire(&node->lock, LW_SHARED);
	nmembers = node->nmembers;
	SpinLockAcquire(&node->vector_lock);
	for (int i = 0; i < nmembers; i++)
		seqs[i] = *(uint64 *) ((char *) &node->members[i] + offset);
	SpinLockRelease(&node->vector_lock);
	for (int i = 0; i < nmembers; i++)
	{
		if (node->members[i].status != RP_MEMBER_FREE)
			(void) p2p_vector_set(v, &node->members[i].origin, seqs[i]);
	}
	LWLockRelease(&node->lock);
}

/* Copy the stored vector. */
void
rp_vector_stored(RpNode *node, P2pVector *v)
{
	vector_copy(node, offsetof(RpMember, stored_seq), v);
}

/* Copy the vector at capture's place of the WAL. */
void
rp_vector_captured(RpNode *node, P2pVector *v)
{
	vector_copy(node, offsetof(RpMember, captured_seq), v);
}

/* Copy the applied vector. */
void
rp_vector_applied(RpNode *node, P2pVector *v)
{
	vector_copy(node, offsetof(RpMember, applied_seq), v);
}

/* Copy the stable vector. */
void
rp_vector_stable(RpNode *node, P2pVector *v)
{
	vector_copy(node, offsetof(RpMember, stable_seq), v);
}

/* Copy the first seqs that the logs still have. */
void
rp_vector_oldest(RpNode *node, P2pVector *v)
{
	vector_copy(node, offsetof(RpMember, oldest_seq), v);
}

/* Return the slot of an origin, or -1. */
int
rp_member_by_origin(RpNode *node, const P2pOrigin *origin)
{
	int			found = -1;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; found < 0 && i < node->nmembers; i++)
	{
		if (node->members[i].status != RP_MEMBER_FREE &&
			p2p_origin_equal(&node->members[i].origin, origin))
			found = i;
	}
	LWLockRelease(&node->lock);
	return found;
}

/* Return the slot of a local replication origin id, or -1. */
int
rp_member_by_roident(RpNode *node, RepOriginId roident)
{
	int			found = -1;

	if (roident == InvalidRepOriginId)
		return -1;
	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; found < 0 && i < node->nmembers; i++)
	{
		if (node->members[i].status != RP_MEMBER_FREE && node->members[i].roident == roident)
			found = i;
	}
	LWLockRelease(&node->lock);
	return found;
}

/* Return the slot of a name, an admitted member's before a former one's; or -1. */
int
rp_member_by_name(RpNode *node, const char *name)
{
	int			found = -1;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int i = 0; i < node->nmembers; i++)
	{
		RpMember   *member = &node->members[i];

		if (member->status == RP_MEMBER_FREE || strcmp(member->name, name) != 0)
			continue;
		if (found < 0 || member->status == RP_MEMBER_ADMITTED)
			found = i;
	}
	LWLockRelease(&node->lock);
	return found;
}

/*
 * Publish a commit. Capture sets capture_listens and then reads commit_lsn, with a barrier in
 * between; so either it sees this commit, or we see that it wants to be woken.
 */
void
rp_commit_publish(RpNode *node, XLogRecPtr end)
{
	uint64		old = pg_atomic_read_u64(&node->commit_lsn);

	while (old < end && !pg_atomic_compare_exchange_u64(&node->commit_lsn, &old, end))
		;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&node->capture_listens) != 0)
		rp_worker_wake(node, RP_WORKER_CAPTURE);
}

RpLogExtent
rp_log_extent(RpNode *node, int slot)
{
	const RpMember *member = &node->members[slot];
	RpLogExtent extent;

	SpinLockAcquire(&node->vector_lock);
	extent.opened = member->opened;
	extent.readable_seq = Max(member->stored_seq, member->written_seq);
	extent.durable_seq = member->durable_seq;
	SpinLockRelease(&node->vector_lock);
	return extent;
}

/* Wake a worker; takes no lock, see the head of this file. */
void
rp_worker_wake(RpNode *node, RpWorkerKind kind)
{
	Latch	   *latch = ((volatile RpWorkerSlot *) &node->workers[kind])->latch;

	if (latch != NULL)
		SetLatch(latch);
}

/* Wake the launcher; takes no lock. */
void
rp_launcher_wake(void)
{
	Latch	   *latch;

	if (rp_shared == NULL)
		return;
	latch = ((volatile RpShared *) rp_shared)->launcher_latch;
	if (latch != NULL)
		SetLatch(latch);
}

/* Remember a worker's last error, cut to whole characters. */
void
rp_worker_error(RpNode *node, RpWorkerKind kind, const char *text)
{
	RpWorkerSlot *slot = &node->workers[kind];
	int			length = pg_mbcliplen(text, strlen(text), RP_ERROR_TEXT_SIZE - 1);

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	memcpy(slot->last_error, text, length);
	slot->last_error[length] = '\0';
	slot->last_error_at = GetCurrentTimestamp();
	LWLockRelease(&node->lock);
}
