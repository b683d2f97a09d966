/*
 * setup.c
 *	  What create_group and join_group have in common.
 *
 * Both only record a wish: rows and a key file, checked as far as can be known
 * now. What takes time (the slot, which waits for every running transaction;
 * the copy) is the workers' business after the commit: a function that waited
 * for them here would wait for itself.
 *
 * local_node is locked ACCESS EXCLUSIVE from the check to the commit. So two
 * callers cannot both make a node, and rp_members_load of a worker that came
 * too early blocks instead of finding nothing and sweeping the key file away.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "at_commit.h"
#include "catalog.h"
#include "identity.h"
#include "members.h"
#include "settings.h"
#include "setup.h"
#include "shmem.h"
#include "worker.h"

/* How long a former node of this database may take to be swept. */
#define SWEEP_WAIT_MS 10000
#define SWEEP_LOOK_MS 100

/* ERROR naming the argument if it is NULL. */
void
rp_arg_required(struct FunctionCallInfoBaseData *fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument %s must not be NULL", what),
				 errhint("Give a value for %s.", what)));
}

/* ERROR where nothing can be written. */
void
rp_writable_required(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s on a standby", function),
				 errhint("Call it on a primary; a standby cannot be a node.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s in a read-only transaction", function),
				 errhint("Use BEGIN READ WRITE, or turn off default_transaction_read_only.")));
}

/* ERROR unless a node may be made here, as far as it is not about this node. */
void
rp_setup_required(const char *function)
{
	rp_writable_required(function);
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to execute %s", function),
				 errhint("A node's workers act for every user of the database, so a superuser sets it up.")));
	rp_check_prerequisites(ERROR);
	rp_crypto_required();
}

/* ERROR unless name may name a node or a group. */
void
rp_name_required(const char *what, const char *name)
{
	size_t		length = strlen(name);
	const char *wrong = NULL;

	if (length == 0)
		wrong = "It is empty.";
	else if (length >= NAMEDATALEN)
		wrong = "It is longer than 63 bytes.";
	else if (name[0] == ' ' || name[length - 1] == ' ')
		wrong = "It begins or ends with a blank.";
	for (const char *c = name; *c != '\0' && wrong == NULL; c++)
	{
		if (*c == ',')
			wrong = "It has a comma in it.";
		else if ((unsigned char) *c < ' ' || *c == 0x7f)
			wrong = "It has a control character in it.";
	}
	if (wrong != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a %s: \"%s\"", what, name),
				 errdetail_internal("%s", wrong),
				 errhint("Use a short name of letters, digits, '-' and '_'.")));
}

/* ERROR if local_node has its row. */
static void
row_absent_required(void)
{
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT node_name, group_name, system_identifier, database_oid"
					   " FROM replp2p.local_node", SPI_OK_SELECT, NULL, 0) > 0)
	{
		rp_node_copy_refuse(DatumGetInt64(rp_column(0, 3)), DatumGetObjectId(rp_column(0, 4)));
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("this database is node \"%s\" of group \"%s\" already",
						NameStr(*DatumGetName(rp_column(0, 1))),
						NameStr(*DatumGetName(rp_column(0, 2)))),
				 errhint("A database is a node of one group; replp2p.leave_group() makes it free again.")));
	}
	rp_catalog_close(&catalog);
}

/* Is an entry of shared memory free? */
static bool
entry_is_free(void)
{
	bool		found = false;

	LWLockAcquire(&rp_shared->lock, LW_SHARED);
	for (int i = 0; i < rp_shared->max_nodes && !found; i++)
		found = !rp_shared->nodes[i].in_use;
	LWLockRelease(&rp_shared->lock);
	return found;
}

/* Give the launcher up to wait_ms to sweep a former node of this database; ERROR if it stays. */
static void
former_node_absent_required(int wait_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait_ms);

	while (rp_node_find(MyDatabaseId) != NULL)
	{
		if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("the former node of this database is still being removed"),
					 errhint("Try again in a few seconds; the server's log says what is in the way.")));
		rp_launcher_wake();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 SWEEP_LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ERROR if this database is a node, or no more can be had. */
void
rp_node_absent_required(void)
{
	row_absent_required();
	former_node_absent_required(SWEEP_WAIT_MS);
	if (!entry_is_free())
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all %d databases that may be nodes are nodes", rp_max_databases),
				 errhint("Raise replp2p.max_databases and restart the server.")));
}

/* Lock out others and worker, look again, and watch the end of the transaction. */
void
rp_setup_begin(void)
{
	Oid			local_node = rp_catalog_table("local_node");

	if (!OidIsValid(local_node))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the tables of replp2p are not there"),
				 errhint("Run CREATE EXTENSION replp2p.")));
	LockRelationOid(local_node, AccessExclusiveLock);
	row_absent_required();
	former_node_absent_required(0);

	/*
	 * No row and no entry: a key file that is there is what a crash between
	 * file and commit has left, and nobody can be using it.
	 */
	rp_identity_remove(MyDatabaseId);
	rp_at_commit_start_node();
}

/* Insert the rows of a new node and write its key file. */
void
rp_setup_insert(const RpNewNode *node)
{
	const RpIdentity *me = node->identity;
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	/* what a former group has left speaks of other members by the same slots */
	rp_catalog_run("DELETE FROM replp2p.conflict_history", SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("DELETE FROM replp2p.failed_transactions", SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("DELETE FROM replp2p.skipped_changes", SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("DELETE FROM replp2p.displaced_rows", SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("DELETE FROM replp2p.displacing_rows", SPI_OK_DELETE, NULL, 0);
	{
		RpArg		args[] = {
			rp_arg_bytes(&me->self.id, P2P_ID_SIZE),
			rp_arg_int4((int32) me->self.epoch),
			rp_arg_name(node->name),
			rp_arg_text(node->dsn),
			rp_arg_bytes(&me->group, P2P_ID_SIZE),
			rp_arg_name(node->group_name),
			rp_arg_bytes(me->public_key, P2P_PUBLIC_KEY_SIZE),
			rp_arg_int8((int64) GetSystemIdentifier()),
			rp_arg_oid(MyDatabaseId),
			rp_arg_text(rp_node_status_name(node->status)),
			rp_arg_text(node->sponsor_dsn),
			rp_arg_bytes(node->sponsor, P2P_ID_SIZE),
		};

		rp_catalog_run("INSERT INTO replp2p.local_node (node_id, epoch, node_name, dsn, group_id,"
					   " group_name, public_key, system_identifier, database_oid, status,"
					   " sponsor_dsn, sponsor_id)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
					   SPI_OK_INSERT, args, lengthof(args));
	}
	rp_member_insert(RP_SELF, &me->self, node->name, node->dsn, me->public_key);
	rp_catalog_close(&catalog);

	rp_identity_write(MyDatabaseId, me);
}
