/*
 * changed_keys.c
 *	  SQL function get_changed_keys: which rows of a table the transactions
 *	  between two version vectors have touched.
 *
 * A joiner that has copied a table from another member asks its sponsor for them
 * (join_patch.c): both vectors belong to snapshots, the later one to a snapshot of this
 * node. All between them stands in the change logs here, since the joiner was
 * admitted before either snapshot, and holds back trimming until it acks.
 *
 *	  row		 the keys of one change: of the row it stored, of the row it deleted or
 *				 moved; other columns are NULL. A key may come several times
 *	  NULL row	 (one, alone) nobody can say by keys: a TRUNCATE was among them, the table has
 *				 no key to go by, or a log does not reach back so far
 *
 * The answer is the same whenever it is asked for in one snapshot: logs do not change.
 *
 * Open to PUBLIC, since it refuses all but a backend in whose session a member
 * has proven its key, and whose role may read the table.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parse_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/tuplestore.h"

#include "p2p_vector.h"

#include "logpass.h"
#include "snapshot.h"

PG_FUNCTION_INFO_V1(rp_get_changed_keys);

/* What a pass fills. */
typedef struct ChangedKeys
{
	Oid			relid;
	Tuplestorestate *keys;
	bool		unclear;		/* not to be told by keys */
} ChangedKeys;

static Oid	relation_required(FunctionCallInfo fcinfo);
static void vector_read(bytea *bytes, P2pVector *vector);
static void log_read(RpNode *node, int slot, uint64 after_seq, uint64 upto_seq,
					 ChangedKeys *changed);
static bool change_visit(const RpPassItem *item, void *arg);
static void unclear_answer(ReturnSetInfo *result);

/* Return the keys that were changed after one vector, up to another. */
Datum
rp_get_changed_keys(PG_FUNCTION_ARGS)
{
	static bool maps_made = false;
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	RpNode	   *node = rp_node_required();
	P2pVector  *after = palloc(sizeof(P2pVector));
	P2pVector  *upto = palloc(sizeof(P2pVector));
	ChangedKeys changed = {0};
	int			nmembers;

	rp_snapshot_caller_check(node, "get_changed_keys");
	changed.relid = relation_required(fcinfo);
	vector_read(PG_GETARG_BYTEA_PP(1), after);
	vector_read(PG_GETARG_BYTEA_PP(2), upto);
	InitMaterializedSRF(fcinfo, 0);
	changed.keys = result->setResult;
	if (!maps_made)
		rp_relation_maps_init();
	maps_made = true;

	LWLockAcquire(&node->lock, LW_SHARED);
	nmembers = node->nmembers;
	LWLockRelease(&node->lock);
	for (int slot = 0; slot < nmembers && !changed.unclear; slot++)
	{
		const P2pOrigin *origin = &node->members[slot].origin;

		log_read(node, slot, p2p_vector_get(after, origin), p2p_vector_get(upto, origin), &changed);
	}
	if (changed.unclear)
		unclear_answer(result);
	return (Datum) 0;
}

/*
 * Return the table whose row type the first argument has; ERROR unless the caller may read all of
 * it.
 */
static Oid
relation_required(FunctionCallInfo fcinfo)
{
	Oid			relid = typeOrDomainTypeRelid(get_fn_expr_argtype(fcinfo->flinfo, 0));

	if (!OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_RELATION || PG_ARGISNULL(1) ||
		PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("get_changed_keys() needs a row of a table, and two vectors"),
				 errhint("It is called by joining nodes.")));
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table \"%s\"", get_rel_name(relid)),
				 errhint("The role must be able to read all of its rows.")));
	return relid;
}

/* Read what export_snapshot gave: a vector, and a stamp that does not matter here; ERROR if that is malformed. */
static void
vector_read(bytea *bytes, P2pVector *vector)
{
	P2pStamp	stamp;

	if (!rp_snapshot_vector_read(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), vector, &stamp))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a vector is malformed"),
				 errhint("Give what export_snapshot() returned, on this node or another.")));
}

/* Add what one origin has changed. */
static void
log_read(RpNode *node, int slot, uint64 after_seq, uint64 upto_seq, ChangedKeys *changed)
{
	uint64		oldest;

	if (after_seq >= upto_seq)
		return;
	SpinLockAcquire(&node->vector_lock);
	oldest = node->members[slot].oldest_seq;
	SpinLockRelease(&node->vector_lock);
	if (oldest == 0 || oldest > after_seq + 1 || rp_log_extent(node, slot).readable_seq < upto_seq ||
		(rp_log_pass(node, slot, after_seq, upto_seq, change_visit, changed) < upto_seq))
		changed->unclear = true;
}

/* Is a table among those that a TRUNCATE empties? */
static bool
is_truncated(const RpPassItem *item, Oid relid)
{
	for (int i = 0; i < item->ntables; i++)
	{
		if (rp_pass_relid(item->tables[i]) == relid)
			return true;
	}
	return false;
}

/* Add the keys of one change. */
static bool
change_visit(const RpPassItem *item, void *arg)
{
	ChangedKeys *changed = arg;
	RpPassKeys	keys;

	if (item->tag == P2P_TAG_TRUNCATE)
		changed->unclear |= is_truncated(item, changed->relid);
	else if (rp_pass_relid(item->table) == changed->relid)
	{
		if (!rp_pass_keys(item, NULL, &keys))
			changed->unclear = true;
		else
		{
			if (keys.old != NULL && (keys.moved || keys.new == NULL))
				tuplestore_puttupleslot(changed->keys, keys.old);
			if (keys.new != NULL)
				tuplestore_puttupleslot(changed->keys, keys.new);
		}
	}
	return !changed->unclear;
}

/* Answer that nobody can say. */
static void
unclear_answer(ReturnSetInfo *result)
{
	int			natts = result->setDesc->natts;
	Datum	   *values = palloc0(sizeof(Datum) * natts + 1);
	bool	   *nulls = palloc(sizeof(bool) * natts + 1);

	memset(nulls, true, natts);
	tuplestore_clear(result->setResult);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}
