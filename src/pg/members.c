/*
 * members.c
 *	  From the catalog to shared memory: what this node is, and who its members
 *	  are.
 *
 *	  replp2p.local_node  ->  RpNode.status, group, group_name
 *	  replp2p.members     ->  RpNode.members[slot]: who, where, key, state
 *
 * Tables are the truth; shared memory is their copy for workers and commit
 * paths, which may not query. Whoever changes the tables calls
 * rp_members_changed(); at the commit wanted_generation goes up, and the gossip
 * worker (and each worker at its start) calls rp_members_load().
 *
 * Loads may overlap. Each notes wanted_generation before its snapshot, and one
 * that finds a later generation loaded keeps its hands off.
 *
 *	  creating -> active -> leaving -> gone
 *	  joining -> catchup -> active
 *	  active -> evicted -> leaving
 *
 * Locks: RpNode.lock exclusive while copying in, vector_lock inside it; neither
 * is held during SPI.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "p2p_crypto.h"

#include "catalog.h"
#include "evict.h"
#include "identity.h"
#include "join_plan.h"
#include "members.h"
#include "settings.h"
#include "shmem.h"

/* One row of members, as read. */
typedef struct LoadedMember
{
	RpMemberStatus status;		/* RP_MEMBER_FREE: no row of this slot */
	P2pOrigin	origin;
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	uint8		public_key[P2P_PUBLIC_KEY_SIZE];
	RepOriginId roident;
	uint64		progress;		/* of the replication origin */
	uint64		left_seq;
	bool		paused;
	P2pStamp	accepted_stamp;
	uint64		required_seq;
} LoadedMember;

typedef struct LoadedNode
{
	uint64		generation;
	RpNodeStatus status;
	P2pOrigin	self;
	P2pId		group;
	char		group_name[NAMEDATALEN];
	bool		force_leave;
	int			nmembers;
	bool		any_evicted;
	bool		cuts_known;
	LoadedMember members[RP_MAX_MEMBERS];
} LoadedNode;

/* Words of local_node.status; none and gone never stand in the table. */
static const char *const status_names[] = {
	[RP_NODE_NONE] = "none",
	[RP_NODE_CREATING] = "creating",
	[RP_NODE_JOINING] = "joining",
	[RP_NODE_CATCHUP] = "catchup",
	[RP_NODE_ACTIVE] = "active",
	[RP_NODE_LEAVING] = "leaving",
	[RP_NODE_GONE] = "gone",
	[RP_NODE_EVICTED] = "evicted",
};

/* Return the word for a status; static memory. */
const char *
rp_node_status_name(RpNodeStatus status)
{
	Assert((size_t) status < lengthof(status_names));
	return status_names[status];
}

static RpNodeStatus
status_of_name(const char *name)
{
	for (size_t i = 0; i < lengthof(status_names); i++)
		if (strcmp(status_names[i], name) == 0)
			return (RpNodeStatus) i;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("unknown node status \"%s\" in replp2p.local_node", name),
			 errhint("Only the extension may write its tables; restore the row, or leave by "
					 "replp2p.leave_group(force => true) and join again.")));
	return RP_NODE_NONE;		/* keep compiler quiet */
}

/* Write the name of the replication origin that stands for a member here. */
void
rp_origin_name(Oid dboid, const P2pOrigin *origin, char *name, size_t size)
{
	char		id[P2P_ID_TEXT_SIZE];

	p2p_id_to_text(&origin->id, id);
	snprintf(name, size, "replp2p_%u_%s_%u", dboid, id, origin->epoch);
}

/* Write the name of the database's logical slot. */
void
rp_slot_name(Oid dboid, char *name, size_t size)
{
	snprintf(name, size, "replp2p_%u", dboid);
}

/*
 * Lock replp2p.local_node against its creation and removal; false if there is
 * no such table. An uncommitted create_group makes this wait for its outcome.
 */
static bool
local_node_lock(void)
{
	Oid			relation = rp_catalog_table("local_node");

	if (!OidIsValid(relation))
		return false;
	LockRelationOid(relation, AccessShareLock);
	/* DROP EXTENSION may have been what we waited for */
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

/* Refuse rows of local_node that came here with a copy of another database or cluster. */
void
rp_node_copy_refuse(int64 system_identifier, Oid database)
{
	if ((uint64) system_identifier == GetSystemIdentifier() && database == MyDatabaseId)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database is a copy of a node, not a node"),
			 errdetail("Its tables belong to database %u of cluster " UINT64_FORMAT ".",
					   database, (uint64) system_identifier),
			 errhint("DROP EXTENSION replp2p here; the database can then join as a node of its own.")));
}

/* Read the row of local_node; false if there is none. Between catalog open and close. */
static bool
local_node_read(LoadedNode *loaded)
{
	char		status[NAMEDATALEN];

	if (rp_catalog_run("SELECT node_id, epoch, group_id, group_name, status,"
					   " system_identifier, database_oid, force_leave FROM replp2p.local_node",
					   SPI_OK_SELECT, NULL, 0) == 0)
		return false;
	rp_node_copy_refuse(DatumGetInt64(rp_column(0, 6)), DatumGetObjectId(rp_column(0, 7)));
	rp_column_bytes(0, 1, &loaded->self.id, P2P_ID_SIZE);
	loaded->self.epoch = (uint32) DatumGetInt32(rp_column(0, 2));
	rp_column_bytes(0, 3, &loaded->group, P2P_ID_SIZE);
	rp_column_name(0, 4, loaded->group_name);
	rp_column_text(0, 5, status, sizeof(status));
	loaded->status = status_of_name(status);
	loaded->force_leave = DatumGetBool(rp_column(0, 8));
	return true;
}

/*
 * The key file must be this node's; read once per process and node. A node that
 * leaves by force may have lost it.
 */
static void
identity_check(const LoadedNode *loaded)
{
	static P2pOrigin checked;
	RpIdentity	identity;
	bool		same;

	if (p2p_origin_equal(&checked, &loaded->self) || loaded->force_leave)
		return;
	rp_identity_read(MyDatabaseId, &identity);
	same = p2p_origin_equal(&identity.self, &loaded->self) &&
		p2p_id_compare(&identity.group, &loaded->group) == 0;
	p2p_wipe(&identity, sizeof(identity));
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the key file of this node is another node's"),
				 errhint("Restore \"node.key\" of this very node from a backup, or leave the group by force and join anew.")));
	checked = loaded->self;
}

/* Find the replication origin of a member, and how far it has come. This node itself can do without. */
static void
origin_find(LoadedMember *member, bool self)
{
	char		name[RP_ORIGIN_NAME_SIZE];

	rp_origin_name(MyDatabaseId, &member->origin, name, sizeof(name));
	member->roident = replorigin_by_name(name, true);
	if (member->roident != InvalidRepOriginId)
		member->progress = replorigin_get_progress(member->roident, false);
	else if (member->status == RP_MEMBER_ADMITTED && !self)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replication origin \"%s\" of member \"%s\" is missing", name, member->name),
				 errdetail("It says which of the member's transactions are applied here."),
				 errhint("It must not be dropped while the node is a member. This node has to leave the group by force and join anew.")));
}

static RpMemberStatus
member_status_of_name(const char *name)
{
	if (strcmp(name, "left") == 0)
		return RP_MEMBER_LEFT;
	return strcmp(name, "evicted") == 0 ? RP_MEMBER_EVICTED : RP_MEMBER_ADMITTED;
}

/* Find where the evicted members end, if every member has frozen them. Between catalog open and close. */
static void
cuts_read(LoadedNode *loaded)
{
	RpMemberStatus statuses[RP_MAX_MEMBERS];
	uint64		cuts[RP_MAX_MEMBERS];

	if (!loaded->any_evicted)
		return;
	for (int slot = 0; slot < loaded->nmembers; slot++)
		statuses[slot] = loaded->members[slot].status;
	loaded->cuts_known = rp_evict_cuts_read(statuses, loaded->nmembers, cuts);
	for (int slot = 0; slot < loaded->nmembers; slot++)
	{
		if (statuses[slot] == RP_MEMBER_EVICTED)
			loaded->members[slot].left_seq = loaded->cuts_known ? cuts[slot] : 0;
	}
}

/* Read all rows of members. Between catalog open and close. */
static void
members_read(LoadedNode *loaded)
{
	uint64		n = rp_catalog_run("SELECT slot, node_id, epoch, node_name, dsn, public_key,"
								   " status, left_seq, paused, accepted_stamp, required_seq"
								   " FROM replp2p.members ORDER BY slot",
								   SPI_OK_SELECT, NULL, 0);

	for (uint64 row = 0; row < n; row++)
	{
		int			slot = DatumGetInt16(rp_column(row, 1));
		LoadedMember *member;
		char		status[NAMEDATALEN];

		if (slot < 0 || slot >= RP_MAX_MEMBERS)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("slot %d in replp2p.members is out of range", slot),
					 errhint("Only the extension may write its tables; restore the row, or "
							 "leave by replp2p.leave_group(force => true) and join again.")));
		member = &loaded->members[slot];
		rp_column_bytes(row, 2, &member->origin.id, P2P_ID_SIZE);
		member->origin.epoch = (uint32) DatumGetInt32(rp_column(row, 3));
		rp_column_name(row, 4, member->name);
		rp_column_text(row, 5, member->dsn, sizeof(member->dsn));
		rp_column_bytes(row, 6, member->public_key, P2P_PUBLIC_KEY_SIZE);
		rp_column_text(row, 7, status, sizeof(status));
		member->status = member_status_of_name(status);
		loaded->any_evicted |= member->status == RP_MEMBER_EVICTED;
		member->left_seq = (uint64) rp_column_int8_or_zero(row, 8);
		member->paused = DatumGetBool(rp_column(row, 9));
		member->accepted_stamp = DatumGetInt64(rp_column(row, 10));
		member->required_seq = (uint64) DatumGetInt64(rp_column(row, 11));
		loaded->nmembers = slot + 1;
	}
	if (loaded->nmembers == 0 ||
		!p2p_origin_equal(&loaded->members[RP_SELF].origin, &loaded->self))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("slot 0 of replp2p.members is not this node"),
				 errhint("Only the extension may write its tables; restore the row, or "
						 "leave by replp2p.leave_group(force => true) and join again.")));
	/* look-ups of origins use the catalog, so SPI's result is done with before */
	for (int slot = RP_SELF; slot < loaded->nmembers; slot++)
		if (loaded->members[slot].status != RP_MEMBER_FREE)
			origin_find(&loaded->members[slot], slot == RP_SELF);
}

/*
 * Copy one member in. trust_progress: what the replication origin says may be
 * taken over; otherwise the apply worker knows better, as progress moves a
 * moment before the transaction becomes visible. Holds RpNode.lock.
 */
static void
member_copy(RpNode *node, int slot, const LoadedMember *from, bool trust_progress)
{
	RpMember   *to = &node->members[slot];
	bool		fresh = to->status == RP_MEMBER_FREE;

	to->status = from->status;
	to->origin = from->origin;
	strlcpy(to->name, from->name, sizeof(to->name));
	strlcpy(to->dsn, from->dsn, sizeof(to->dsn));
	memcpy(to->public_key, from->public_key, sizeof(to->public_key));
	to->roident = from->roident;
	to->left_seq = from->left_seq;
	to->paused = from->paused;
	to->accepted_stamp = from->accepted_stamp;

	SpinLockAcquire(&node->vector_lock);
	to->required_seq = from->required_seq;
	if (fresh)
	{
		to->rtt_us = -1;
		to->pull_source = -1;
	}
	if (slot != RP_SELF && (fresh || trust_progress) && from->progress > to->applied_seq)
		to->applied_seq = from->progress;
	SpinLockRelease(&node->vector_lock);
}

/* Copy what was read into shared memory, unless something newer is there. */
static void
node_copy(RpNode *node, const LoadedNode *loaded)
{
	bool		trust_progress;
	bool		turned = false;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (loaded->generation >= node->loaded_generation)
	{
		/* no apply worker moves anything before the copy of a join is complete */
		trust_progress = node->status == RP_NODE_NONE || node->status == RP_NODE_JOINING;
		node->group = loaded->group;
		strlcpy(node->group_name, loaded->group_name, sizeof(node->group_name));
		for (int slot = 0; slot < loaded->nmembers; slot++)
			if (loaded->members[slot].status != RP_MEMBER_FREE)
				member_copy(node, slot, &loaded->members[slot], trust_progress);
		node->nmembers = Max(node->nmembers, loaded->nmembers);
		node->any_evicted = loaded->any_evicted;
		node->cuts_known = loaded->cuts_known;
		turned = node->status != loaded->status;
		node->status = loaded->status;
		node->loaded_generation = loaded->generation;
	}
	LWLockRelease(&node->lock);
	if (turned)
		rp_launcher_wake();		/* other workers are wanted now */
}

/* Mark the node as gone: its database has no row for it any more. */
static void
node_mark_gone(RpNode *node, uint64 generation)
{
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	if (generation >= node->loaded_generation)
	{
		node->status = RP_NODE_GONE;
		node->loaded_generation = generation;
	}
	LWLockRelease(&node->lock);
}

/*
 * Read the catalog into shared memory. false: there is no node in this
 * database. The lock on local_node stays until the transaction's end, so that
 * who sweeps because of a false answer does it before a new node is made.
 */
bool
rp_members_load(RpNode *node)
{
	uint64		generation = pg_atomic_read_u64(&node->wanted_generation);
	LoadedNode *loaded;
	RpCatalog	catalog;
	bool		there = false;

	Assert(IsTransactionState() && node->dboid == MyDatabaseId);
	pg_read_barrier();			/* generation first, snapshot later */
	if (local_node_lock())
	{
		rp_catalog_open(&catalog);
		loaded = palloc0(sizeof(LoadedNode));
		loaded->generation = generation;
		there = local_node_read(loaded);
		if (there)
		{
			identity_check(loaded);
			members_read(loaded);
			cuts_read(loaded);
			node_copy(node, loaded);
		}
		rp_catalog_close(&catalog);
	}
	if (!there)
		node_mark_gone(node, generation);
	ConditionVariableBroadcast(&node->status_cv);
	return there;
}

void
rp_member_insert(int slot, const P2pOrigin *origin, const char *name, const char *dsn,
				 const uint8 *public_key)
{
	char		origin_name[RP_ORIGIN_NAME_SIZE];
	RpArg		args[] = {
		rp_arg_int4(slot),
		rp_arg_bytes(&origin->id, P2P_ID_SIZE),
		rp_arg_int4((int32) origin->epoch),
		rp_arg_name(name),
		rp_arg_text(dsn),
		rp_arg_bytes(public_key, P2P_PUBLIC_KEY_SIZE),
	};

	rp_catalog_run("INSERT INTO replp2p.members (slot, node_id, epoch, node_name, dsn, public_key, status)"
				   " VALUES ($1, $2, $3, $4, $5, $6, 'admitted')",
				   SPI_OK_INSERT, args, lengthof(args));
	rp_origin_name(MyDatabaseId, origin, origin_name, sizeof(origin_name));
	if (replorigin_by_name(origin_name, true) == InvalidRepOriginId)
		(void) replorigin_create(origin_name);
}

/* Delete all that says that this database is a node. Between catalog open and close. */
static void
rows_delete(void)
{
	static const char *const tables[] = {
		"invites", "members", "membership", "handler_changes", "table_handlers", "local_node"
	};

	for (size_t i = 0; i < lengthof(tables); i++)
		rp_catalog_run(psprintf("DELETE FROM replp2p.%s", tables[i]), SPI_OK_DELETE, NULL, 0);
}

/* Change the row of local_node. In a transaction. */
static void
status_update(RpNode *node, RpNodeStatus status)
{
	RpCatalog	catalog;

	if (status == RP_NODE_GONE)
		rp_join_plan_drop();
	rp_catalog_open(&catalog);
	if (status == RP_NODE_GONE)
		rows_delete();
	else
	{
		RpArg		args[] = {rp_arg_text(rp_node_status_name(status))};

		rp_catalog_run("UPDATE replp2p.local_node SET status = $1", SPI_OK_UPDATE, args, 1);
	}
	rp_catalog_close(&catalog);
	rp_members_changed(node);
}

/*
 * Set the node's status, in the current transaction or one of its own.
 * RP_NODE_GONE deletes the node's rows, under an origin that is never captured:
 * or the deletes would travel to the peers. So it takes a transaction of its own.
 */
void
rp_node_set_status(RpNode *node, RpNodeStatus status)
{
	RepOriginId origin = replorigin_session_origin;

	if (IsTransactionState())
	{
		if (status == RP_NODE_GONE)
			elog(ERROR, "replp2p: the node's rows cannot be deleted inside another transaction");
		status_update(node, status);
		return;
	}
	StartTransactionCommand();
	if (status == RP_NODE_GONE)
		replorigin_session_origin = RP_COPY_ORIGIN;
	PG_TRY();
	{
		status_update(node, status);
		CommitTransactionCommand();
	}
	PG_FINALLY();
	{
		replorigin_session_origin = origin;
	}
	PG_END_TRY();
}
