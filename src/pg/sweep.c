/*
 * sweep.c
 *	  The sweep worker: removes what a node that is gone has left outside its
 *	  database: logical slot, replication origins, change logs, keys.
 *
 * The launcher starts it for a node of status GONE once all other workers have
 * left. It is a process of its own because pg_replication_origin can only be read
 * from inside a database: the node's own one, or any other if that is dropped.
 *
 * Each step is harmless to repeat, and the folder goes last, by one rename out of the
 * way: no node that is made later may find half of it (version entries of another
 * life). Whatever stops the sweep before, the launcher finds the folder at its next
 * start and sweeps again; what is renamed it removes. Errors (a slot or origin that
 * somebody still uses) end the worker, and the launcher tries again later.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_replication_origin.h"
#include "postmaster/bgworker.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "changelog.h"
#include "worker.h"

/* Drop the logical slot, if it is there; ERROR if somebody uses it. */
static void
sweep_slot(Oid dboid)
{
	char		name[NAMEDATALEN];

	rp_slot_name(dboid, name, sizeof(name));
	if (SearchNamedReplicationSlot(name, true) != NULL)
		ReplicationSlotDrop(name, true);
}

/* Return the names of all replication origins of the database's members; current context. */
static List *
sweep_list_origins(Oid dboid)
{
	char		prefix[NAMEDATALEN];
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *names = NIL;

	snprintf(prefix, sizeof(prefix), "replp2p_%u_", dboid);
	relation = table_open(ReplicationOriginRelationId, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		datum = heap_getattr(tuple, Anum_pg_replication_origin_roname,
										 RelationGetDescr(relation), &isnull);
		char	   *name = TextDatumGetCString(datum);

		if (strncmp(name, prefix, strlen(prefix)) == 0)
			names = lappend(names, name);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return names;
}

/* Drop all replication origins of the database's members; ERROR if somebody uses one. */
static void
sweep_origins(Oid dboid)
{
	List	   *names;
	ListCell   *cell;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	names = sweep_list_origins(dboid);
	foreach(cell, names)
		replorigin_drop_by_name(lfirst(cell), true, true);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Move the database's folder out of the way, then remove it. */
static void
sweep_files(Oid dboid)
{
	char	   *path = rp_directory_path(dboid);
	char	   *removed = psprintf("%s%s", path, RP_REMOVED_SUFFIX);
	struct stat status;

	if (stat(removed, &status) == 0)
		(void) rmtree(removed, true);
	if (rename(path, removed) != 0)
	{
		if (errno == ENOENT)
			return;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename directory \"%s\" to \"%s\": %m", path, removed),
				 errhint("Remove what stands in its way.")));
	}
	fsync_fname(RP_DIRECTORY, true);
	(void) rmtree(removed, true);
}

/* Main of the sweep worker. */
void
rp_sweep_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	Oid			connect_to;
	RpNode	   *node;

	memcpy(&connect_to, MyBgworkerEntry->bgw_extra, sizeof(connect_to));
	node = rp_worker_open_in(dboid, RP_WORKER_SWEEP, connect_to);
	sweep_slot(dboid);
	sweep_origins(dboid);
	sweep_files(dboid);

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->swept = true;
	LWLockRelease(&node->lock);
	ereport(LOG, (errmsg("removed slot, origins and files of the former node of database %u",
						 dboid)));
}
