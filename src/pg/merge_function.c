/*
 * merge_function.c
 *	  Custom conflict handlers: fold the table's function over the standing
 *	  versions of a key.
 *
 *	  f(older T, newer T, conflict replp2p.conflict) RETURNS T
 *
 * The versions are taken in ascending order: f(f(v1, v2), v3) and so on. A
 * delete is passed as NULL, and NULL as the result means that there is no row;
 * of two NULLs the result is NULL, without a call. The third argument says of
 * older and newer when, on which node and by what they were made (of older: the
 * last one that was folded in). Nothing in it depends on the node where f runs.
 *
 * f runs as the owner of the table in a restricted context, with the settings
 * below, so that its result is the same everywhere, and for no longer than
 * replp2p.handler_timeout. It runs in a subtransaction, since its errors are
 * part of what it says:
 *
 *	  an error that f raises		it has no answer: the winner stands, on every node
 *	  a result with another key		the same
 *	  time-out, and SQLSTATEs that	no answer yet: ERROR, the origin's transaction waits. They tell
 *	  speak of the node, not of f	of resources, locks or a schema that is not complete here.
 *
 * Called as the table's owner (apply_tracked.c, tracked_follow.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "settings.h"
#include "tracked.h"

/* What f's result may hang on; the same on every node. */
static const char *const handler_settings[][2] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"TimeZone", "UTC"},
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
};

/* SQLSTATE classes that say nothing of what f thinks of its arguments. */
static const char *const waiting_classes[] = {
	"08",						/* connection exception: of what f asks elsewhere */
	"25",						/* invalid transaction state */
	"40",						/* transaction rollback: deadlock, serialization */
	"42",						/* syntax error or access rule violation: something f uses is not here */
	"53",						/* insufficient resources */
	"54",						/* program limit exceeded: stack depth */
	"55",						/* object not in prerequisite state: locks */
	"57",						/* operator intervention: cancel, shutdown */
	"58",						/* system error */
	"F0",						/* configuration file error */
	"XX",						/* internal error */
};

/* One fold. */
typedef struct Fold
{
	RpTrackedKey *t;
	FmgrInfo	function;
	TupleDesc	conflict_type;
	char	   *name;			/* of f, for messages */
} Fold;

static TimeoutId handler_timeout_id = MAX_TIMEOUTS; /* not registered yet */
static volatile sig_atomic_t timed_out = false;

static bool fold_guarded(Fold *fold, RpImage **result, char **message);
static RpImage *fold_run(Fold *fold, char **message);
static RpImage *call(Fold *fold, const P2pKeyVersion *older_version, const RpImage *older,
					 const P2pKeyVersion *newer_version, const RpImage *newer);
static Datum row_composite(RpOpenRelation *open, const RpImage *image);
static Datum conflict_composite(Fold *fold, const P2pKeyVersion *older, const P2pKeyVersion *newer);
static RpImage *result_image(Fold *fold, Datum result);
static bool key_is_kept(RpTrackedKey *t, const RpImage *image);
static bool is_waiting_class(int sqlstate);
static void function_prepare(Fold *fold, const RpHandlerChange *handler);

bool
rp_merge_function_fold(RpTrackedKey *t, const RpHandlerChange *handler, RpImage **result,
					   char **message)
{
	Fold		fold = {.t = t};

	/* images first: reading the log is no matter of f */
	for (uint32 i = 0; i < t->nstanding; i++)
	{
		if (t->standing[i]->op != P2P_OP_DELETE)
			(void) rp_tracked_image(t, t->standing[i]);
	}
	function_prepare(&fold, handler);
	return fold_guarded(&fold, result, message);
}

/* Find the function and the type of its third argument. */
static void
function_prepare(Fold *fold, const RpHandlerChange *handler)
{
	Oid			type;

	fold->name = pstrdup(handler->function_name);
	if (!OidIsValid(handler->function) ||
		!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler->function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("conflict handler function %s of table \"%s\" does not exist here",
						fold->name, RelationGetRelationName(fold->t->open->rel)),
				 errhint("Create it on this node as it is on the others; applying goes on by itself.")));
	if (!rp_function_is_executable(handler->function, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of table \"%s\" may not execute its conflict handler function %s",
						RelationGetRelationName(fold->t->open->rel), fold->name),
				 errhint("Grant EXECUTE on the function to the table's owner; applying goes on by itself.")));
	fmgr_info(handler->function, &fold->function);
	type = get_rel_type_id(rp_catalog_table("conflict"));
	fold->conflict_type = lookup_rowtype_tupdesc_copy(type, -1);
}

/* The time is over: cancel what runs, and remember that it was this. */
static void
time_is_over(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* Have f run no longer than it may. */
static void
timer_start(void)
{
	if (handler_timeout_id == MAX_TIMEOUTS)
		handler_timeout_id = RegisterTimeout(USER_TIMEOUT, time_is_over);
	timed_out = false;
	enable_timeout_after(handler_timeout_id, rp_handler_timeout_ms);
}

/* Stop the clock; a cancel that came too late must hit nobody else. */
static void
timer_stop(void)
{
	disable_timeout(handler_timeout_id, false);
	if (timed_out)
		QueryCancelPending = false;
}

/*
 * Fold inside a subtransaction. Its errors are told apart; what is not f's own is
 * thrown on, to be met again when the transaction is tried again.
 */
static bool
fold_guarded(Fold *fold, RpImage **result, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	RpImage    *volatile image = NULL;
	char	   *volatile text = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		char	   *said = NULL;
		int			settings_level = NewGUCNestLevel();

		for (size_t i = 0; i < lengthof(handler_settings); i++)
			(void) set_config_option(handler_settings[i][0], handler_settings[i][1], PGC_SUSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		PushActiveSnapshot(GetLatestSnapshot());
		image = fold_run(fold, &said);
		text = said;
		PopActiveSnapshot();
		AtEOXact_GUC(false, settings_level);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		timer_stop();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (timed_out)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("conflict handler function %s took longer than %d ms",
						fold->name, rp_handler_timeout_ms),
				 errhint("Make it faster, or raise replp2p.handler_timeout; applying goes on by itself.")));
	if (error && is_waiting_class(error->sqlerrcode))
		ReThrowError(error);
	*message = error ? psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message) : text;
	*result = image;
	return *message == NULL;
}

/* Call f for one version after the other. *message: why its result can't be taken; else NULL. */
static RpImage *
fold_run(Fold *fold, char **message)
{
	RpTrackedKey *t = fold->t;
	RpImage    *result = NULL;

	for (uint32 i = 0; i < t->nstanding; i++)
	{
		const P2pKeyVersion *version = t->standing[i];
		const RpImage *newer = version->op == P2P_OP_DELETE ? NULL : rp_tracked_image(t, version);

		if (i == 0)
			result = newer ? rp_image_copy(newer, t->open->map->natts) : NULL;
		else if (result || newer)
			result = call(fold, t->standing[i - 1], result, version, newer);
		if (result && !key_is_kept(t, result))
		{
			*message = psprintf("%s has changed the key of the row", fold->name);
			return NULL;
		}
	}
	return result;
}

/* One call of f. */
static RpImage *
call(Fold *fold, const P2pKeyVersion *older_version, const RpImage *older,
	 const P2pKeyVersion *newer_version, const RpImage *newer)
{
	LOCAL_FCINFO(info, 3);
	RpOpenRelation *open = fold->t->open;
	Datum		result;

	if (fold->function.fn_strict && (older == NULL || newer == NULL))
		return NULL;
	InitFunctionCallInfoData(*info, &fold->function, 3, InvalidOid, NULL, NULL);
	info->args[0].isnull = older == NULL;
	info->args[0].value = older ? row_composite(open, older) : (Datum) 0;
	info->args[1].isnull = newer == NULL;
	info->args[1].value = newer ? row_composite(open, newer) : (Datum) 0;
	info->args[2].isnull = false;
	info->args[2].value = conflict_composite(fold, older_version, newer_version);

	timer_start();
	result = FunctionCallInvoke(info);
	timer_stop();
	if (timed_out)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("conflict handler function %s has caught its own cancellation", fold->name)));
	return info->isnull ? NULL : result_image(fold, result);
}

/* An image as a value of the table's row type. */
static Datum
row_composite(RpOpenRelation *open, const RpImage *image)
{
	TupleDesc	desc = RelationGetDescr(open->rel);

	return heap_copy_tuple_as_datum(heap_form_tuple(desc, image->values, image->isnull), desc);
}

/* The third argument of f: see its type, replp2p.conflict. */
static Datum
conflict_composite(Fold *fold, const P2pKeyVersion *older, const P2pKeyVersion *newer)
{
	const P2pKeyVersion *versions[] = {older, newer};
	RpOpenRelation *open = fold->t->open;
	char		node[P2P_ID_TEXT_SIZE];
	Datum		values[8];
	bool		nulls[8] = {0};
	int			n = 0;

	values[n++] = CStringGetTextDatum(quote_qualified_identifier(
																 get_namespace_name(RelationGetNamespace(open->rel)),
																 RelationGetRelationName(open->rel)));
	values[n++] = rp_key_jsonb(open, fold->t->key);
	for (int i = 0; i < 2; i++)
	{
		p2p_id_to_text(&versions[i]->version.dot.origin.id, node);
		values[n++] = CStringGetTextDatum(node);
		values[n++] = TimestampTzGetDatum(versions[i]->version.stamp);
		values[n++] = CStringGetTextDatum(rp_op_name(versions[i]->op));
	}
	if (n != fold->conflict_type->natts)
		elog(ERROR, "type replp2p.conflict has %d columns instead of %d", fold->conflict_type->natts, n);
	return heap_copy_tuple_as_datum(heap_form_tuple(fold->conflict_type, values, nulls),
									fold->conflict_type);
}

/* What f has returned, by columns. */
static RpImage *
result_image(Fold *fold, Datum result)
{
	RpOpenRelation *open = fold->t->open;
	TupleDesc	desc = RelationGetDescr(open->rel);
	HeapTupleHeader header = DatumGetHeapTupleHeaderCopy(result);
	HeapTupleData tuple;
	RpImage    *image = palloc_object(RpImage);

	if (HeapTupleHeaderGetTypeId(header) != open->rel->rd_rel->reltype)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("conflict handler function %s does not return a row of table \"%s\"",
						fold->name, RelationGetRelationName(open->rel))));
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	image->values = palloc_array(Datum, Max(desc->natts, 1));
	image->isnull = palloc_array(bool, Max(desc->natts, 1));
	heap_deform_tuple(&tuple, desc, image->values, image->isnull);
	return image;
}

/* Has the result the key of the row? */
static bool
key_is_kept(RpTrackedKey *t, const RpImage *image)
{
	RpRelationMap *map = t->open->map;

	for (int k = 0; k < map->nkeys; k++)
	{
		int			a = map->key_attnos[k];

		if (image->isnull[a] != t->key->tts_isnull[a])
			return false;
		if (!image->isnull[a] &&
			!DatumGetBool(FunctionCall2Coll(&map->key_equal[k], map->key_collation[k],
											image->values[a], t->key->tts_values[a])))
			return false;
	}
	return true;
}

/* Does an error of this kind say nothing of f's arguments? */
static bool
is_waiting_class(int sqlstate)
{
	const char *state = unpack_sql_state(sqlstate);

	for (size_t i = 0; i < lengthof(waiting_classes); i++)
	{
		if (strncmp(state, waiting_classes[i], 2) == 0)
			return true;
	}
	return false;
}

/* A value of jsonb, of columns of a row: those of the key, or all. */
static Datum
columns_jsonb(RpOpenRelation *open, const RpImage *image, bool key_only)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	RpRelationMap *map = open->map;
	TupleDesc	part;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	Datum		composite;
	Datum		json;

	if (!key_only)
		composite = row_composite(open, image);
	else
	{
		part = CreateTemplateTupleDesc(map->nkeys);
		for (int k = 0; k < map->nkeys; k++)
		{
			TupleDescCopyEntry(part, k + 1, desc, map->key_attnos[k] + 1);
			values[k] = image->values[map->key_attnos[k]];
			nulls[k] = image->isnull[map->key_attnos[k]];
		}
		BlessTupleDesc(part);
		composite = heap_copy_tuple_as_datum(heap_form_tuple(part, values, nulls), part);
	}
	json = DirectFunctionCall1(row_to_json, composite);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json)));
}

Datum
rp_key_jsonb(RpOpenRelation *open, TupleTableSlot *key)
{
	RpImage		image;

	slot_getallattrs(key);
	image.values = key->tts_values;
	image.isnull = key->tts_isnull;
	return columns_jsonb(open, &image, true);
}

Datum
rp_image_jsonb(RpOpenRelation *open, const RpImage *image)
{
	return columns_jsonb(open, image, false);
}
