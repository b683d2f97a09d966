/*
 * fn_evict.c
 *	  SQL: evict_node(), by which any member declares another one gone for good.
 *
 * It checks, and writes a row of the membership log; evict.c says what follows.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "p2p_crypto.h"

#include "catalog.h"
#include "identity.h"
#include "members.h"
#include "setup.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_evict_node);

/* ERROR: the name is not that of a member that can be evicted. */
static void
victim_refuse(RpNode *node, const char *name, int nadmitted)
{
	int			slot = rp_member_by_name(node, name);
	RpMemberStatus status = RP_MEMBER_FREE;

	if (slot >= 0)
	{
		LWLockAcquire(&node->lock, LW_SHARED);
		status = node->members[slot].status;
		LWLockRelease(&node->lock);
	}
	if (nadmitted > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("%d members are called \"%s\"", nadmitted, name),
				 errhint("Let one of those that are up leave the group, and join again under another name.")));
	if (slot == RP_SELF)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is this node itself", name),
				 errhint("To take this node out of its group call replp2p.leave_group().")));
	if (status == RP_MEMBER_LEFT || status == RP_MEMBER_EVICTED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 status == RP_MEMBER_LEFT ? errmsg("node \"%s\" has left the group already", name) :
				 errmsg("node \"%s\" is evicted already", name),
				 errhint("See replp2p.stat_members, and replp2p.health() for what is still waited for.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no member \"%s\"", name),
			 errhint("See replp2p.stat_members for the names of this node's peers.")));
}

/* Fill in who is meant; ERROR unless it is exactly one other member. */
static void
victim_find(RpNode *node, const char *name, RpMembershipRow *row)
{
	int			found = 0;
	bool		self;

	LWLockAcquire(&node->lock, LW_SHARED);
	self = strcmp(node->members[RP_SELF].name, name) == 0;
	for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
	{
		const RpMember *member = &node->members[slot];

		if (member->status != RP_MEMBER_ADMITTED || strcmp(member->name, name) != 0)
			continue;
		found++;
		row->subject = member->origin;
		strlcpy(row->name, member->name, sizeof(row->name));
		strlcpy(row->dsn, member->dsn, sizeof(row->dsn));
		memcpy(row->public_key, member->public_key, sizeof(row->public_key));
	}
	LWLockRelease(&node->lock);
	if (found + self != 1 || self)
		victim_refuse(node, name, found + self);
}

/* SQL: evict_node(node_name name): a member is gone for good. */
Datum
rp_evict_node(PG_FUNCTION_ARGS)
{
	const char *name = RP_ARG_NAME(0, "node_name");
	RpMembershipRow row;
	RpIdentity	me;
	RpNode	   *node;

	rp_writable_required("replp2p.evict_node()");
	node = rp_node_required();
	if (rp_node_status(node) != RP_NODE_ACTIVE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot execute %s: this node is not active", "replp2p.evict_node()"),
				 errdetail("Its status is \"%s\".", rp_node_status_name(rp_node_status(node))),
				 errhint("Call it on another member.")));
	memset(&row, 0, sizeof(row));
	victim_find(node, name, &row);
	row.change = RP_MEMBERSHIP_EVICT;
	rp_identity_read(MyDatabaseId, &me);
	rp_membership_add(node, &me, &row);
	p2p_wipe(me.secret_key, sizeof(me.secret_key));
	ereport(NOTICE,
			(errmsg("node \"%s\" is a member no longer once this is committed", name),
			 errdetail("All changes of it that any other member has are kept, and go to all of them; what reached none of them is lost to the group."),
			 errhint("This cannot be taken back. If that node still runs, its clients should stop writing; it can leave_group() and join anew.")));
	PG_RETURN_VOID();
}
