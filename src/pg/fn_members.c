/*
 * fn_members.c
 *	  SQL functions on single members as seen from here: hold back their changes,
 *	  let them flow again, accept stamps that are too far ahead.
 *
 * All of them concern this node alone: peers apply as they did.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "members.h"
#include "setup.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_pause_apply);
PG_FUNCTION_INFO_V1(rp_resume_apply);
PG_FUNCTION_INFO_V1(rp_accept_stamps);

/* ERROR: nobody else here is called that. */
static void
member_unknown(RpNode *node, const char *name)
{
	bool		self;

	LWLockAcquire(&node->lock, LW_SHARED);
	self = strcmp(node->members[RP_SELF].name, name) == 0;
	LWLockRelease(&node->lock);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 self ? errmsg("\"%s\" is this node itself", name) :
			 errmsg("there is no member \"%s\"", name),
			 errhint("See replp2p.stat_members for the names of this node's peers.")));
}

/* Set paused of one member, or of all that there are now. */
static void
paused_set(RpNode *node, const char *name, bool paused)
{
	RpCatalog	catalog;
	RpArg		args[] = {rp_arg_name(name), rp_arg_bool(paused)};
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run("UPDATE replp2p.members SET paused = $2"
					   " WHERE slot > 0 AND ($1 IS NULL OR node_name = $1)",
					   SPI_OK_UPDATE, args, lengthof(args));
	rp_catalog_close(&catalog);
	if (n == 0 && name != NULL)
		member_unknown(node, name);
	rp_members_changed(node);
}

/* SQL: pause_apply(origin name): apply nothing more of that member (NULL: of any), until resumed. */
Datum
rp_pause_apply(PG_FUNCTION_ARGS)
{
	rp_writable_required("replp2p.pause_apply()");
	paused_set(rp_node_required(), PG_ARGISNULL(0) ? NULL : NameStr(*PG_GETARG_NAME(0)), true);
	PG_RETURN_VOID();
}

/* SQL: resume_apply(origin name): the opposite. */
Datum
rp_resume_apply(PG_FUNCTION_ARGS)
{
	rp_writable_required("replp2p.resume_apply()");
	paused_set(rp_node_required(), PG_ARGISNULL(0) ? NULL : NameStr(*PG_GETARG_NAME(0)), false);
	PG_RETURN_VOID();
}

/* Return the greatest stamp stored here of the members of this name; ERROR if there is none. */
static P2pStamp
written_stamp_of(RpNode *node, const char *name)
{
	P2pStamp	stamp = 0;
	bool		found = false;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int slot = RP_SELF + 1; slot < node->nmembers; slot++)
	{
		RpMember   *member = &node->members[slot];

		if (member->status == RP_MEMBER_FREE || strcmp(member->name, name) != 0)
			continue;
		found = true;
		SpinLockAcquire(&node->vector_lock);
		stamp = Max(stamp, member->written_stamp);
		SpinLockRelease(&node->vector_lock);
	}
	LWLockRelease(&node->lock);
	if (!found)
		member_unknown(node, name);
	return stamp;
}

/*
 * SQL: accept_stamps(node_name name): apply what is stored here of a member
 * though its stamps are too far ahead of group time. All later stamps of this
 * node, and of whoever sees these changes, go beyond them: so stamps of any origin
 * are held again only from replp2p.max_clock_skew beyond what was accepted.
 */
Datum
rp_accept_stamps(PG_FUNCTION_ARGS)
{
	const char *name = RP_ARG_NAME(0, "node_name");
	RpNode	   *node;

	rp_writable_required("replp2p.accept_stamps()");
	node = rp_node_required();
	{
		RpArg		args[] = {rp_arg_name(name), rp_arg_int8(written_stamp_of(node, name))};

		rp_catalog_execute("UPDATE replp2p.members SET accepted_stamp = greatest(accepted_stamp, $2)"
						   " WHERE slot > 0 AND node_name = $1", SPI_OK_UPDATE, args, lengthof(args));
	}
	rp_members_changed(node);
	PG_RETURN_VOID();
}
