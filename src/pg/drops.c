/*
 * drops.c
 *	  Hooks that see a node's database or extension dropped, renamed, moved or
 *	  copied.
 *
 * Workers that are connected to a database, and an active slot, keep the server from
 * DROP DATABASE, from ALTER DATABASE ... RENAME and SET TABLESPACE, and from copying it
 * as a TEMPLATE. So before such a command the node's workers are stopped and waited for
 * (only for who owns the database or is superuser: others shall not stop anything);
 * they are allowed again when it has failed, or is done. Meanwhile backends that serve
 * peers leave by themselves (exchange.c), within the seconds that the server waits for
 * them. After DROP DATABASE and DROP EXTENSION, once they are committed, the node is swept.
 *
 *	  DROP DATABASE: stop ... command ... commit -> sweep, else allow
 *	  the others:    stop ... command, allow
 *
 * DROP EXTENSION, and DROP OWNED BY the extension's owner, lock our tables one after the
 * other, in an order of the server's own; a worker that holds one of them and wants another would
 * deadlock with it. So there, too, the workers are stopped first, whatever they wait for (also for
 * locks of the dropping transaction: after a moment they get a SIGTERM); whether the command drops the
 * extension is seen through the object access hook. They are allowed again when the command has not, or
 * when its (sub)transaction is rolled back. (DROP SCHEMA replp2p is refused by the server: the schema
 * belongs to the extension.)
 *
 *	  DROP EXTENSION: warn, stop ... command ... commit -> sweep, else allow
 *
 * Whoever drops it from a node that the group goes on counting (there are other members, and it has
 * neither left by leave_group() nor said by force that it will) is warned.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/user.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "members.h"
#include "worker.h"

#define EXTENSION_NAME "replp2p"
#define DEFAULT_TEMPLATE "template1"

/*
 * What the running transaction has dropped, and in which of its subtransactions the workers were
 * stopped for that.
 */
static Oid	dropped_database = InvalidOid;
static SubTransactionId dropped_extension_in = InvalidSubTransactionId;
static SubTransactionId stopped_in = InvalidSubTransactionId;

static object_access_hook_type next_object_access = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

/* Return the value of a text option, or NULL. */
static char *
option_text(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* Return the name of the database that nobody may be connected to for this command, or NULL. */
static const char *
command_database(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_CreatedbStmt:
			{
				char	   *name = option_text(((CreatedbStmt *) statement)->options, "template");

				return name != NULL ? name : DEFAULT_TEMPLATE;
			}
		case T_AlterDatabaseStmt:
			if (option_text(((AlterDatabaseStmt *) statement)->options, "tablespace") == NULL)
				return NULL;
			return ((AlterDatabaseStmt *) statement)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType != OBJECT_DATABASE)
				return NULL;
			return ((RenameStmt *) statement)->subname;
		default:
			return NULL;
	}
}

/* Return the node database whose workers the command needs out of the way, or InvalidOid. */
static Oid
command_node(Node *statement)
{
	const char *name;
	Oid			dboid;

	if (rp_shared == NULL)
		return InvalidOid;
	name = command_database(statement);
	if (name == NULL)
		return InvalidOid;
	dboid = get_database_oid(name, true);
	if (!OidIsValid(dboid) || rp_node_find(dboid) == NULL ||
		!rp_database_is_owned(dboid, GetUserId()))
		return InvalidOid;
	return dboid;
}

/* Let the workers start again after an error or a backend's exit. */
static void
command_failed(int code, Datum dboid)
{
	(void) code;
	rp_workers_allow(DatumGetObjectId(dboid));
}

/* Return the owner of an extension, or InvalidOid if it is not there. */
static Oid
extension_owner(Oid extension)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	Oid			owner = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(relation, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return owner;
}

/* Is our extension among those that DROP EXTENSION names? */
static bool
names_extension(const DropStmt *statement)
{
	ListCell   *cell;

	if (statement->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, statement->objects)
	{
		if (strcmp(strVal(lfirst(cell)), EXTENSION_NAME) == 0)
			return true;
	}
	return false;
}

/* Does the command drop our extension, if the server lets it? */
static bool
command_drops_extension(Node *statement)
{
	Oid			extension;

	if (rp_shared == NULL || !(IsA(statement, DropStmt) || IsA(statement, DropOwnedStmt)))
		return false;
	extension = get_extension_oid(EXTENSION_NAME, true);
	if (!OidIsValid(extension))
		return false;
	if (IsA(statement, DropStmt))
		return names_extension((DropStmt *) statement) &&
			rp_extension_is_owned(extension, GetUserId());
	else
	{
		Oid			owner = extension_owner(extension);

		return list_member_oid(roleSpecsToIds(((DropOwnedStmt *) statement)->roles), owner) &&
			has_privs_of_role(GetUserId(), owner);
	}
}

/*
 * Warn who drops the extension from a node on which others go on counting. The extension
 * is locked first, as the command is about to do: two that come here at once would else both
 * read our tables, and then wait for one another to drop them.
 */
static void
warn_if_counted(void)
{
	RpNode	   *node = rp_node_find(MyDatabaseId);
	RpNodeStatus status = node != NULL ? rp_node_status(node) : RP_NODE_NONE;
	RpCatalog	catalog;
	int64		others = 0;

	if (status != RP_NODE_ACTIVE && status != RP_NODE_LEAVING)
		return;
	LockDatabaseObject(ExtensionRelationId, get_extension_oid(EXTENSION_NAME, false), 0,
					   AccessExclusiveLock);
	if (!OidIsValid(rp_catalog_table("local_node")))
		return;
	rp_catalog_open(&catalog);
	if (rp_catalog_run("SELECT count(*) FROM replp2p.members, replp2p.local_node"
					   " WHERE slot > 0 AND members.status = 'admitted' AND NOT force_leave",
					   SPI_OK_SELECT, NULL, 0) > 0)
		others = DatumGetInt64(rp_column(0, 1));
	rp_catalog_close(&catalog);
	if (others == 0)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("this database is dropped out of a group with other members without a word to them"),
			 errdetail_plural("%d other member goes on waiting for what this node acknowledges.",
							  "%d other members go on waiting for what this node acknowledges.",
							  (int) others, (int) others),
			 status == RP_NODE_LEAVING ?
			 errhint("It was about to leave. Next time wait until replp2p.stat_members is empty.") :
			 errhint("Roll back, SELECT replp2p.leave_group(), and wait until replp2p.stat_members is empty.")));
}

/* Let the workers that this transaction has stopped start again. */
static void
stopped_allow(void)
{
	stopped_in = InvalidSubTransactionId;
	rp_workers_allow(MyDatabaseId);
}

/* If the command drops the extension, get the workers out of its way; return whether it does. */
static bool
extension_drop_begin(Node *statement)
{
	if (!command_drops_extension(statement))
		return false;
	warn_if_counted();
	if (stopped_in != InvalidSubTransactionId)
		return true;
	/* first: whatever ends the wait, the end of the subtransaction lets them start again */
	stopped_in = GetCurrentSubTransactionId();
	rp_workers_stop_and_wait(MyDatabaseId);
	return true;
}

/* Run a command, with the workers out of the way if it needs that. */
static void
drops_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *environment, DestReceiver *dest,
					  QueryCompletion *completion)
{
	ProcessUtility_hook_type next = next_process_utility ?
	next_process_utility : standard_ProcessUtility;
	Node	   *statement = pstmt->utilityStmt;
	Oid			dboid = command_node(statement);

	if (!OidIsValid(dboid))
	{
		bool		stopped = extension_drop_begin(statement);

		next(pstmt, query_string, read_only_tree, context, params, environment, dest, completion);
		if (stopped && dropped_extension_in == InvalidSubTransactionId)
			stopped_allow();
		return;
	}
	PG_ENSURE_ERROR_CLEANUP(command_failed, ObjectIdGetDatum(dboid));
	{
		rp_workers_stop_and_wait(dboid);
		next(pstmt, query_string, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(command_failed, ObjectIdGetDatum(dboid));
	if (IsA(statement, DropdbStmt))
		dropped_database = dboid;
	else
		rp_workers_allow(dboid);
}

/* Note that the extension is dropped. */
static void
drops_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_DROP && class_id == ExtensionRelationId)
	{
		char	   *name = get_extension_name(object_id);

		/* of several (it may be created anew in between) the outermost counts */
		if (name != NULL && strcmp(name, EXTENSION_NAME) == 0 &&
			dropped_extension_in == InvalidSubTransactionId)
			dropped_extension_in = GetCurrentSubTransactionId();
	}
}

/* At the end of the transaction: sweep what was dropped, or go on with what was not. */
static void
drops_xact_event(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	(void) arg;
	if (event == XACT_EVENT_PRE_PREPARE && dropped_extension_in != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has dropped extension %s", EXTENSION_NAME),
				 errhint("Use COMMIT.")));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (OidIsValid(dropped_database))
	{
		if (committed)
			rp_node_sweep_after_commit(dropped_database);
		else
			rp_workers_allow(dropped_database);
	}
	if (dropped_extension_in != InvalidSubTransactionId && committed)
		rp_node_sweep_after_commit(MyDatabaseId);
	else if (stopped_in != InvalidSubTransactionId)
		rp_workers_allow(MyDatabaseId);
	dropped_database = InvalidOid;
	dropped_extension_in = InvalidSubTransactionId;
	stopped_in = InvalidSubTransactionId;
}

/* At the end of a subtransaction: what it did is undone, or its parent's. */
static void
drops_subxact_event(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void *arg)
{
	bool		aborted = event == SUBXACT_EVENT_ABORT_SUB;

	(void) arg;
	if (!aborted && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	if (dropped_extension_in != InvalidSubTransactionId && dropped_extension_in == self)
		dropped_extension_in = aborted ? InvalidSubTransactionId : parent;
	if (stopped_in == InvalidSubTransactionId || stopped_in != self)
		return;
	if (aborted)
		stopped_allow();
	else
		stopped_in = parent;
}

/* Install the hooks. */
void
rp_drops_install(void)
{
	next_object_access = object_access_hook;
	object_access_hook = drops_object_access;
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = drops_process_utility;
	RegisterXactCallback(drops_xact_event, NULL);
	RegisterSubXactCallback(drops_subxact_event, NULL);
}
