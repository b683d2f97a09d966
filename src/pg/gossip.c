/*
 * gossip.c
 *	  The gossip worker: everything that this node says to the others of its own
 *	  accord, and the logs of what it hears.
 *
 * One process, one event loop, nothing in it waits but the loop itself:
 *
 *	  reload membership -> states: own, heard -> stability, trimming, leaving
 *		-> send what is due (peers.c) -> store what came (pull.c) -> wait, read
 *
 * It is also the one that moves the node through those states that no other
 * worker moves it through, and reloads the catalog into shared memory for all:
 *
 *	  creating --capture has its slot--> active
 *	  joining: idle; the join worker is at work
 *	  catchup, active, leaving: talk
 *	  leaving --all have met us: said, all have our changes; or by force--> gone
 *	  evicted: idle; whoever hears of it (here, or apply) sets it
 *
 * Memory: what lives as long as the node is in `life`; a step has a context of
 * its own, reset each time. An ERROR ends the worker, and the launcher starts it
 * anew; shared memory and logs are good for that at any time.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "evict.h"
#include "identity.h"
#include "join_serve.h"
#include "leave.h"
#include "monotonic.h"
#include "peers.h"
#include "pull.h"
#include "settings.h"
#include "stability.h"
#include "states.h"
#include "worker.h"

/* While nothing can be said yet: how often to look. */
#define IDLE_MS 1000
#define CREATING_MS 100
/* How often to look for rights that were lent to joiners and not given back. */
#define LOANS_US ((int64) 3600 * 1000000)

typedef struct Gossip
{
	RpNode	   *node;
	MemoryContext step;
	uint64		read_generation;	/* of the catalog, as this process has read it */
	bool		loaded;			/* it has, at least once */
	uint64		generation;		/* of the membership that peers and pull follow */
	bool		freeze_due;		/* who is gone is perhaps not frozen yet */
	bool		force_leave;
	bool		has_left;		/* and has said so: it is no member any more */
	P2pId		sponsor;		/* by whom it joined; zeros if it created the group */

	/* made when there is something to talk about */
	MemoryContext life;			/* NULL = not made */
	RpIdentity *me;
	RpPull	   *pull;
	RpPeers    *peers;
	RpStability *stability;
	RpLeave    *leave;
	uint64		seen[RP_MAX_MEMBERS];	/* counters of the states taken over */
	int64		tick_due_us;
	int64		loans_due_us;
} Gossip;

static void step(Gossip *gossip);
static void reload(Gossip *gossip);
static void read_local_node(Gossip *gossip);
static void go(Gossip *gossip);
static void become_active(Gossip *gossip);
static void talk(Gossip *gossip);
static void prepare(Gossip *gossip);
static void wipe_identity(int code, Datum arg);
static void follow_membership(Gossip *gossip);
static void freeze(Gossip *gossip);
static bool absorb_states(Gossip *gossip);
static void tick(Gossip *gossip);
static void leave(Gossip *gossip);
static void sweep_loans(Gossip *gossip);

/* The worker's main. */
void
rp_gossip_main(Datum dboid)
{
	RpNode	   *node = rp_worker_open(dboid, RP_WORKER_GOSSIP);
	Gossip	   *gossip = MemoryContextAllocZero(TopMemoryContext, sizeof(Gossip));

	rp_crypto_required();
	gossip->node = node;
	gossip->step = AllocSetContextCreate(TopMemoryContext, "replp2p gossip step",
										 ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		if (rp_worker_check(node, RP_WORKER_GOSSIP))
			gossip->tick_due_us = 0;	/* who has mended a setting waits for it */
		MemoryContextReset(gossip->step);
		MemoryContextSwitchTo(gossip->step);
		step(gossip);
	}
}

/* Go round once. */
static void
step(Gossip *gossip)
{
	reload(gossip);
	switch (rp_node_status(gossip->node))
	{
		case RP_NODE_NONE:
		case RP_NODE_GONE:
			proc_exit(0);
			break;
		case RP_NODE_CREATING:
			become_active(gossip);
			break;
		case RP_NODE_JOINING:
		case RP_NODE_EVICTED:
			if (gossip->life != NULL)
				proc_exit(0);	/* links, logs and key go with this process; the next one is idle */
			rp_worker_wait(gossip->node, RP_WORKER_GOSSIP, IDLE_MS, PG_WAIT_EXTENSION);
			break;
		case RP_NODE_LEAVING:
			if (gossip->force_leave)
				go(gossip);		/* whatever else may be broken here */
			talk(gossip);
			break;
		case RP_NODE_CATCHUP:
		case RP_NODE_ACTIVE:
			talk(gossip);
			break;
	}
}

/* Read membership from the catalog if it has changed, or if this process never did. */
static void
reload(Gossip *gossip)
{
	uint64		wanted = pg_atomic_read_u64(&gossip->node->wanted_generation);
	bool		there;

	/* apply may have loaded it before us; what only we read is read all the same */
	if (gossip->loaded && wanted <= gossip->read_generation)
		return;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	there = rp_members_load(gossip->node);
	if (there)
		read_local_node(gossip);
	else
		/* Still under the load's lock: nobody makes another node here meanwhile. */
		rp_node_sweep_after_commit(gossip->node->dboid);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(gossip->step);
	gossip->read_generation = wanted;
	gossip->loaded = true;
	if (!there)
		proc_exit(0);
}

/*
 * Read what only this worker wants of the node's row: was leave_group told not
 * to wait for the others, has it been said in the stream, and by whom did the node join? In a transaction.
 */
static void
read_local_node(Gossip *gossip)
{
	P2pId		nobody = {0};
	RpArg		args[] = {rp_arg_bytes(&nobody, P2P_ID_SIZE)};
	RpCatalog	catalog;

	gossip->force_leave = false;
	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT force_leave, coalesce(sponsor_id, $1) FROM replp2p.local_node",
					   SPI_OK_SELECT, args, lengthof(args)) > 0)
	{
		gossip->force_leave = DatumGetBool(rp_column(0, 1));
		rp_column_bytes(0, 2, &gossip->sponsor, P2P_ID_SIZE);
	}
	rp_catalog_close(&catalog);
	gossip->has_left = rp_membership_has_left();
}

/* Remove the node from the catalog; then there is none to read, and this process ends. */
static void
go(Gossip *gossip)
{
	ereport(LOG,
			(errmsg("this node leaves its replp2p group%s",
					gossip->force_leave ? " by force" : "")));
	rp_node_set_status(gossip->node, RP_NODE_GONE);
	reload(gossip);
	proc_exit(0);
}

/* A node that is being created is active once capture has its slot. */
static void
become_active(Gossip *gossip)
{
	bool		ready;

	SpinLockAcquire(&gossip->node->vector_lock);
	ready = gossip->node->capture_ready;
	SpinLockRelease(&gossip->node->vector_lock);
	if (ready)
	{
		rp_node_set_status(gossip->node, RP_NODE_ACTIVE);
		MemoryContextSwitchTo(gossip->step);
		reload(gossip);
	}
	if (rp_node_status(gossip->node) == RP_NODE_CREATING)
		rp_worker_wait(gossip->node, RP_WORKER_GOSSIP, CREATING_MS, PG_WAIT_EXTENSION);
}

/* One round of the event loop. */
static void
talk(Gossip *gossip)
{
	bool		changed;
	int64		due_us;
	int64		left_us;
	const char *teller;

	if (gossip->life == NULL)
		prepare(gossip);
	follow_membership(gossip);
	if (gossip->freeze_due)
		freeze(gossip);
	changed = absorb_states(gossip);
	if (rp_monotonic_us() >= gossip->tick_due_us)
	{
		tick(gossip);
		changed = true;
	}
	if (changed && !gossip->has_left)
		rp_stability_step(gossip->stability);
	rp_peers_talk(gossip->peers, changed);
	rp_pull_store(gossip->pull);
	rp_pull_prepare(gossip->pull);

	due_us = gossip->tick_due_us;
	if (rp_pull_due_us(gossip->pull) != 0)
		due_us = Min(due_us, rp_pull_due_us(gossip->pull));
	left_us = due_us - rp_monotonic_us();
	if (!rp_peers_wait(gossip->peers, left_us <= 0 ? 0 : (long) ((left_us + 999) / 1000)))
		rp_pull_store(gossip->pull);
	teller = rp_peers_evicted_by(gossip->peers);
	if (teller != NULL && rp_node_status(gossip->node) == RP_NODE_LEAVING)
		gossip->force_leave = true; /* nobody waits for its changes any more */
	else if (teller != NULL)
		rp_evict_self(gossip->node, teller);
}

/* Read the key and make what talking takes; opens, and so recovers, all logs. */
static void
prepare(Gossip *gossip)
{
	MemoryContext life = AllocSetContextCreate(TopMemoryContext, "replp2p gossip",
											   ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(life);
	gossip->me = palloc0(sizeof(RpIdentity));
	before_shmem_exit(wipe_identity, PointerGetDatum(gossip->me));
	rp_identity_read(MyDatabaseId, gossip->me);
	gossip->pull = rp_pull_make(gossip->node, gossip->me);
	rp_pull_donor(gossip->pull, &gossip->sponsor);
	gossip->peers = rp_peers_make(gossip->node, gossip->me, gossip->pull);
	gossip->stability = rp_stability_make(gossip->node);
	gossip->leave = rp_leave_make(gossip->node, gossip->me);
	gossip->generation = 0;
	gossip->life = life;
	MemoryContextSwitchTo(gossip->step);
}

/* The worker ends: forget the secret key. */
static void
wipe_identity(int code, Datum arg)
{
	(void) code;
	p2p_wipe(DatumGetPointer(arg), sizeof(RpIdentity));
}

/* Have logs and links follow membership, if another one was loaded. */
static void
follow_membership(Gossip *gossip)
{
	uint64		loaded;

	LWLockAcquire(&gossip->node->lock, LW_SHARED);
	loaded = gossip->node->loaded_generation;
	LWLockRelease(&gossip->node->lock);
	if (gossip->generation == loaded)
		return;
	gossip->generation = loaded;
	rp_pull_refresh(gossip->pull);
	rp_peers_refresh(gossip->peers);
	gossip->tick_due_us = 0;
	gossip->freeze_due = true;
}

/* Freeze who is gone, if need be: their links are closed by now, and what came by them is made durable. */
static void
freeze(Gossip *gossip)
{
	RpNode	   *node = gossip->node;
	bool		closed[RP_MAX_MEMBERS];
	bool		any_evicted;

	LWLockAcquire(&node->lock, LW_SHARED);
	any_evicted = node->any_evicted;
	LWLockRelease(&node->lock);
	gossip->freeze_due = false;
	if (!any_evicted || gossip->has_left)
		return;
	rp_pull_commit(gossip->pull);
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
		closed[slot] = !rp_peers_is_linked(gossip->peers, slot);
	gossip->freeze_due = !rp_evict_freeze(node, gossip->me, closed);
	MemoryContextSwitchTo(gossip->step);
}

/* Take over the states of other members that have come since the last look, by whatever way. */
static bool
absorb_states(Gossip *gossip)
{
	RpNode	   *node = gossip->node;
	uint64		counters[RP_MAX_MEMBERS];
	int			nslots;
	bool		any = false;

	LWLockAcquire(&node->lock, LW_SHARED);
	nslots = node->nmembers;
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < nslots; slot++)
		counters[slot] = node->members[slot].heard_counter;
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);

	for (int slot = RP_SELF + 1; slot < nslots; slot++)
	{
		uint8		memory[P2P_STATE_MAX_SIZE];
		P2pNodeState state;

		if (counters[slot] <= gossip->seen[slot] ||
			!rp_state_read(node, slot, memory, &state))
			continue;
		gossip->seen[slot] = state.counter;
		rp_pull_heard(gossip->pull, slot, &state.stored);
		rp_stability_hear(gossip->stability, slot, &state.node, &state.ack);
		any = true;
	}
	return any;
}

/* What is done once per interval: own state, settings, repair, trimming, leaving. */
static void
tick(Gossip *gossip)
{
	gossip->tick_due_us = rp_monotonic_us() + (int64) rp_gossip_interval_ms * 1000;
	rp_peers_refresh(gossip->peers);	/* the cut links may be others */
	rp_pull_refresh(gossip->pull);	/* what is applied here has moved */
	rp_pull_repair(gossip->pull);
	rp_pull_watch(gossip->pull);
	rp_pull_commit(gossip->pull);	/* what it then says is durable is up to date */
	(void) rp_state_publish(gossip->node, gossip->me);
	if (rp_monotonic_us() >= gossip->loans_due_us)
		sweep_loans(gossip);
	if (!gossip->has_left)
		rp_stability_trim(gossip->stability);
	if (rp_node_status(gossip->node) == RP_NODE_LEAVING)
		leave(gossip);
}

/* Leave, as far as that is possible now. */
static void
leave(Gossip *gossip)
{
	if (!gossip->has_left)
		rp_leave_say(gossip->leave);
	else if (rp_leave_may_go(gossip->leave))
		go(gossip);
	MemoryContextSwitchTo(gossip->step);
}

/* Take back what joiners were lent for their copy and have kept too long. */
static void
sweep_loans(Gossip *gossip)
{
	gossip->loans_due_us = rp_monotonic_us() + LOANS_US;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rp_join_loans_sweep();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(gossip->step);
}
