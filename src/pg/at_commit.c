/*
 * at_commit.c
 *	  What follows when a transaction that changed the node ends.
 *
 * create_group and join_group only record a wish: rows, and a key file. Rows
 * vanish by themselves on abort, the file does not; and workers must not see
 * the wish before it is committed. So both ends of the transaction are watched
 * here, savepoints included:
 *
 *	  abort  of the (sub)transaction that made the node: its files are removed
 *	  commit of the whole: the node's entry is claimed, the launcher woken;
 *	         or, for a node that runs: its workers are told to reload
 *
 * If the server dies between file and commit, a key file without a node stays
 * behind; rp_members_load then returns false, and the launcher sweeps it.
 *
 * The commit callback runs after the transaction has become visible, so a
 * worker that is woken sees its rows. Nothing in here may throw: the outcome
 * of the transaction is decided. A prepared transaction would end in another
 * process, so it is refused.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "at_commit.h"
#include "identity.h"
#include "members.h"
#include "shmem.h"

/* Of the running transaction of this process. */
static struct
{
	bool		installed;		/* callbacks; for the life of the process */
	bool		changed;		/* workers must reload */
	SubTransactionId made_in;	/* makes the node; invalid = it doesn't */
} ours = {false, false, InvalidSubTransactionId};

/* Have the entry claimed and the workers started for a node just committed. */
static void
node_committed(void)
{
	if (rp_node_claim(MyDatabaseId) == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all replp2p.max_databases entries were taken meanwhile, so this node does not start"),
				 errhint("Raise replp2p.max_databases and restart the server.")));
}

/* Tell all workers of the node that its tables have changed. */
static void
node_changed(void)
{
	RpNode	   *node = rp_node_find(MyDatabaseId);

	if (node != NULL)
	{
		pg_atomic_fetch_add_u64(&node->wanted_generation, 1);
		for (int kind = 0; kind < RP_WORKER_KINDS; kind++)
			rp_worker_wake(node, (RpWorkerKind) kind);
	}
	rp_launcher_wake();
}

static void
transaction_ended(XactEvent event, void *arg)
{
	if (!ours.changed && ours.made_in == InvalidSubTransactionId)
		return;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (ours.made_in != InvalidSubTransactionId)
				node_committed();
			node_changed();
			break;
		case XACT_EVENT_ABORT:
			if (ours.made_in != InvalidSubTransactionId)
				rp_identity_remove(MyDatabaseId);
			break;
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has changed the node"),
					 errhint("Use COMMIT.")));
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			return;
	}
	ours.changed = false;
	ours.made_in = InvalidSubTransactionId;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (ours.made_in == InvalidSubTransactionId || ours.made_in != mine)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		ours.made_in = parent;
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		rp_identity_remove(MyDatabaseId);
		ours.made_in = InvalidSubTransactionId;
	}
}

/* Watch the ends of transactions in this process from now on. */
static void
callbacks_install(void)
{
	if (ours.installed)
		return;
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
	ours.installed = true;
}

/* This (sub)transaction makes the node of this database. */
void
rp_at_commit_start_node(void)
{
	Assert(ours.made_in == InvalidSubTransactionId);
	callbacks_install();
	ours.made_in = GetCurrentSubTransactionId();
}

/* Have the node's workers reload after this transaction's commit. node may be NULL: not claimed yet. */
void
rp_members_changed(RpNode *node)
{
	Assert(node == NULL || node->dboid == MyDatabaseId);
	callbacks_install();
	ours.changed = true;
}
