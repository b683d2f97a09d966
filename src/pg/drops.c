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
 * DROP EXTENSION is seen through the object access hook, so that DROP OWNED or
 * DROP SCHEMA ... CASCADE count as well; rolling back to a savepoint before it undoes it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "worker.h"

#define EXTENSION_NAME "replp2p"
#define DEFAULT_TEMPLATE "template1"

/* What the running transaction has dropped. */
static Oid	dropped_database = InvalidOid;
static SubTransactionId dropped_extension_in = InvalidSubTransactionId;

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
		!pg_database_ownercheck(dboid, GetUserId()))
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
		next(pstmt, query_string, read_only_tree, context, params, environment, dest, completion);
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

		if (name != NULL && strcmp(name, EXTENSION_NAME) == 0)
			dropped_extension_in = GetCurrentSubTransactionId();
	}
}

/* At the end of the transaction: sweep what was dropped, or go on with what was not. */
static void
drops_xact_event(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	(void) arg;
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
	dropped_database = InvalidOid;
	dropped_extension_in = InvalidSubTransactionId;
}

/* At the end of a subtransaction: its drop is undone, or its parent's. */
static void
drops_subxact_event(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void *arg)
{
	(void) arg;
	if (dropped_extension_in == InvalidSubTransactionId || dropped_extension_in != self)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		dropped_extension_in = InvalidSubTransactionId;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		dropped_extension_in = parent;
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
