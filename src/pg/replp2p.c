/*
 * replp2p.c
 *	  The library's entry point, and the check of what it needs of the server.
 *
 * Preloaded (shared_preload_libraries), it asks for shared memory, registers the launcher and
 * installs its hooks. Loaded in any other way it only defines its settings:
 * its functions then say what is missing.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "replication/logicallauncher.h"
#include "replication/slot.h"
#include "utils/guc.h"

#include "p2p_crypto.h"

#include "compat.h"
#include "deletes.h"
#include "join_plan.h"
#include "settings.h"
#include "worker.h"

PG_MODULE_MAGIC;

/* capture, gossip, apply and join */
#define WORKERS_PER_NODE 4
/* Members that even the smallest group has. */
#define MIN_MEMBERS 2

void		_PG_init(void);

PG_FUNCTION_INFO_V1(rp_sql_check_prerequisites);

/* Load the library into this process. */
void
_PG_init(void)
{
	if (!p2p_crypto_init())
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialise libsodium"),
				 errhint("Check that the system's random number generator works.")));
	rp_settings_define();
	if (!process_shared_preload_libraries_in_progress)
		return;
	rp_shmem_install();
	rp_launcher_register();
	rp_deletes_install();
	rp_drops_install();
	rp_join_guard_install();
}

/* Add up what the nodes of this cluster need, that of this database included. */
static void
count_needs(int *nodes, int *members)
{
	RpNode	   *current = rp_node_current();

	*nodes = current == NULL ? 1 : 0;
	*members = *nodes * MIN_MEMBERS;
	LWLockAcquire(&rp_shared->lock, LW_SHARED);
	for (int i = 0; i < rp_shared->max_nodes; i++)
	{
		RpNode	   *node = &rp_shared->nodes[i];

		if (!node->in_use)
			continue;
		*nodes += 1;
		LWLockAcquire(&node->lock, LW_SHARED);
		*members += Max(node->nmembers, MIN_MEMBERS);
		LWLockRelease(&node->lock);
	}
	LWLockRelease(&rp_shared->lock);
}

/* Is every replication slot of the cluster in use, and none of them ours? */
static bool
slots_are_full(void)
{
	int			used = 0;

	if (rp_node_current() != NULL)
		return false;			/* it has one, or is about to make it */
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
		used += ReplicationSlotCtl->replication_slots[i].in_use ? 1 : 0;
	LWLockRelease(ReplicationSlotControlLock);
	return used >= max_replication_slots;
}

/* Report what keeps this cluster from having (one more) node in this database. */
void
rp_check_prerequisites(int elevel)
{
	int			nodes;
	int			members;
	int			workers;

	if (rp_shared == NULL)
	{
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replp2p is not loaded by the server"),
				 errhint("Add replp2p to shared_preload_libraries and restart.")));
		return;
	}
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replp2p requires wal_level = logical"),
				 errhint("Set wal_level to \"logical\" and restart.")));

	count_needs(&nodes, &members);
	if (nodes > rp_shared->max_nodes)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("all %d nodes that this cluster may have are in use",
						rp_shared->max_nodes),
				 errhint("Raise replp2p.max_databases and restart.")));
	workers = 1 + nodes * WORKERS_PER_NODE + (max_logical_replication_workers > 0 ? 1 : 0);
	if (max_worker_processes < workers)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("max_worker_processes is too small for replp2p"),
				 errdetail("It is %d; %d nodes in this cluster, the launcher and the server's own"
						   " launcher need %d.", max_worker_processes, nodes, workers),
				 errhint("Set max_worker_processes to %d or more and restart.", workers)));
	if (max_replication_slots < Max(nodes, members) || slots_are_full())
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("max_replication_slots is too small for replp2p"),
				 errdetail("It is %d. Each node needs a free slot, and a replication origin for"
						   " each member of its group: %d so far.",
						   max_replication_slots, members),
				 errhint("Set max_replication_slots to %d or more and restart.",
						 Max(max_replication_slots + 1, members))));
}

/* SQL: replp2p.check_prerequisites(), called by the script of CREATE EXTENSION. */
Datum
rp_sql_check_prerequisites(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	rp_check_prerequisites(ERROR);
	PG_RETURN_VOID();
}
