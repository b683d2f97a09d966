/*
 * merge_columns.c
 *	  Columns that are merged whatever becomes of the rest of the row: counter,
 *	  max, min (set_column_merge).
 *
 * max, min: the greatest (least) value among the standing versions that are no
 * deletes, in the order of the column's type; nulls don't take part. Always made from the
 * images in the logs: the row here may hold the maximum of a version that has been covered since.
 *
 * counter: every version adds what it added where it was written
 * (counter_delta.c). The row here holds the sum; core says what a newcomer does to it
 * (p2p_keyset_counter_step): add, restart, or nothing. Sums are taken in numeric, and stored in
 * the column's type; what does not fit there is an error, and the origin waits.
 *
 * A local client cannot see the displaced row of a key, and inserts the key anew. What he inserts is
 * added to what was counted, here as on the nodes where the row is not displaced, or not yet
 * (rp_merge_displaced).
 *
 * Which merge holds for a column is asked of the version, not of the clock of
 * this node: that of the greatest change in its past. So a version is a delta, or an
 * absolute value, on every node alike.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "tracked.h"

static RpMergeKind merge_obeyed(const RpTableHandlers *handlers, AttrNumber attno,
								const P2pKeyVersion *version);
static bool is_first_of_column(const RpTableHandlers *handlers, int m);
static bool was_counter(const RpTableHandlers *handlers, AttrNumber attno);
static void extreme_merge(RpTrackedKey *t, AttrNumber attno, RpMergeKind kind);
static void counter_merge(RpTrackedKey *t, AttrNumber attno);
static P2pKeySet view_of_column(RpTrackedKey *t, AttrNumber attno);
static const char *delta_of(const P2pKeyVersion *version, AttrNumber attno);
static Datum value_to_numeric(RpOpenRelation *open, AttrNumber attno, Datum value);
static Datum numeric_to_value(RpOpenRelation *open, AttrNumber attno, Datum number);
static Datum number_from_text(const char *text);

/* The merge of a column that a version obeys. */
static RpMergeKind
merge_obeyed(const RpTableHandlers *handlers, AttrNumber attno, const P2pKeyVersion *version)
{
	for (int m = 0; m < handlers->nmerges; m++)
	{
		if (handlers->merges[m].attno == attno && rp_merge_is_seen(&handlers->merges[m], version))
			return handlers->merges[m].kind;
	}
	return RP_MERGE_NONE;
}

/* Does no merge before the m-th name the same column? */
static bool
is_first_of_column(const RpTableHandlers *handlers, int m)
{
	for (int i = 0; i < m; i++)
	{
		if (handlers->merges[i].attno == handlers->merges[m].attno)
			return false;
	}
	return true;
}

/* Does any change known make the column a counter? */
static bool
was_counter(const RpTableHandlers *handlers, AttrNumber attno)
{
	for (int m = 0; m < handlers->nmerges; m++)
	{
		if (handlers->merges[m].attno == attno && handlers->merges[m].kind == RP_MERGE_COUNTER)
			return true;
	}
	return false;
}

void
rp_merge_columns(RpTrackedKey *t)
{
	const RpTableHandlers *handlers = t->handlers;

	for (int m = 0; m < handlers->nmerges; m++)
	{
		AttrNumber	attno = handlers->merges[m].attno;
		RpMergeKind kind;

		if (!is_first_of_column(handlers, m))
			continue;
		kind = merge_obeyed(handlers, attno, t->winner);
		if (kind == RP_MERGE_MAX || kind == RP_MERGE_MIN)
			extreme_merge(t, attno, kind);
		else if (was_counter(handlers, attno))
			counter_merge(t, attno);
	}
}

/* Set a column of the row to the greatest or least value of the standing versions. */
static void
extreme_merge(RpTrackedKey *t, AttrNumber attno, RpMergeKind kind)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->open->rel), attno - 1);
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_CMP_PROC_FINFO);
	const RpImage *best = NULL;
	int			rows = 0;

	if (t->nstanding < 2)
		return;					/* the row is that version's */
	if (!OidIsValid(type->cmp_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" of table \"%s\" has a type without an order, so there is no %s of it",
						NameStr(att->attname), RelationGetRelationName(t->open->rel),
						kind == RP_MERGE_MAX ? "greatest value" : "least value"),
				 errhint("Set another merge for the column by replp2p.set_column_merge().")));
	for (uint32 i = 0; i < t->nstanding; i++)
	{
		const RpImage *image;
		int			order;

		if (t->standing[i]->op == P2P_OP_DELETE)
			continue;
		rows++;
		image = rp_tracked_image(t, t->standing[i]);
		if (image->isnull[attno - 1])
			continue;
		if (best)
		{
			order = DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo, att->attcollation,
													image->values[attno - 1],
													best->values[attno - 1]));
			/* of equals the later one: they may look different */
			if (kind == RP_MERGE_MAX ? order < 0 : order > 0)
				continue;
		}
		best = image;
	}
	t->merged |= rows > 1;
	t->rewrite |= rows > 1;
	t->row->isnull[attno - 1] = best == NULL;
	if (best)
		t->row->values[attno - 1] = best->values[attno - 1];
}

/* Set a counter of the row: what is here, and what the newcomer does to it. */
static void
counter_merge(RpTrackedKey *t, AttrNumber attno)
{
	int			a = attno - 1;
	P2pKeySet	view = view_of_column(t, attno);
	const P2pKeyVersion *newcomer = t->newcomer < 0 ? NULL : &view.versions[t->newcomer];
	P2pCounterStep step = newcomer ? p2p_keyset_counter_step(&view, newcomer) : P2P_COUNTER_KEEP;
	Datum		sum = number_from_text("0");
	Datum		own = t->row->values[a];
	bool		own_null = t->row->isnull[a];

	if (step == P2P_COUNTER_KEEP)
	{
		if (t->here == NULL)
			return;				/* the winner's own value */
		t->row->values[a] = t->here->values[a];
		t->row->isnull[a] = t->here->isnull[a];
	}
	else
	{
		if (step == P2P_COUNTER_ADD)
		{
			if (t->here && !t->here->isnull[a])
				sum = value_to_numeric(t->open, attno, t->here->values[a]);
			sum = DirectFunctionCall2(numeric_add, sum, number_from_text(delta_of(newcomer, attno)));
		}
		else
		{
			if (newcomer->op != P2P_OP_DELETE)
			{
				const RpImage *image = rp_tracked_image(t, &t->set->versions[t->newcomer]);

				if (!image->isnull[a])
					sum = value_to_numeric(t->open, attno, image->values[a]);
			}
			/* the newcomer is where counting restarts */
			for (uint32 i = 0; i < view.count; i++)
			{
				const char *delta = delta_of(&view.versions[i], attno);

				if (delta && p2p_keyversion_compare(&view.versions[i], newcomer) > 0)
					sum = DirectFunctionCall2(numeric_add, sum, number_from_text(delta));
			}
		}
		t->row->values[a] = numeric_to_value(t->open, attno, sum);
		t->row->isnull[a] = false;
	}
	t->merged |= own_null != t->row->isnull[a] ||
		(!own_null && !datum_image_eq(own, t->row->values[a],
									  TupleDescAttr(RelationGetDescr(t->open->rel), a)->attbyval,
									  TupleDescAttr(RelationGetDescr(t->open->rel), a)->attlen));
}

void
rp_merge_displaced(RpTrackedKey *t, const RpImage *displaced, const P2pVersion *version)
{
	const RpTableHandlers *handlers = t->handlers;

	for (int m = 0; m < handlers->nmerges; m++)
	{
		AttrNumber	attno = handlers->merges[m].attno;
		int			a = attno - 1;
		P2pKeySet	view;
		const P2pKeyVersion *deleted;
		const P2pKeyVersion *base;

		if (!is_first_of_column(handlers, m) || !was_counter(handlers, attno) ||
			displaced->isnull[a] || t->here->isnull[a])
			continue;
		view = view_of_column(t, attno);
		deleted = p2p_keyset_last_delete(&view);
		base = p2p_keyset_base(&view);
		/* he may have deleted the key again in between: then counting has restarted there */
		if ((deleted && p2p_version_compare(&deleted->version, version) > 0) ||
			(base && p2p_version_compare(&base->version, version) > 0))
			continue;
		t->here->values[a] = numeric_to_value(t->open, attno,
											  DirectFunctionCall2(numeric_add,
																  value_to_numeric(t->open, attno, t->here->values[a]),
																  value_to_numeric(t->open, attno, displaced->values[a])));
	}
}

/*
 * The set as one counter sees it: is_delta is what it is for this column. If there has never been another
 * counter it is that already, and nothing is copied.
 */
static P2pKeySet
view_of_column(RpTrackedKey *t, AttrNumber attno)
{
	P2pKeySet	view = *t->set;
	bool		others = false;

	for (int m = 0; m < t->handlers->nmerges; m++)
		others |= t->handlers->merges[m].kind == RP_MERGE_COUNTER &&
			t->handlers->merges[m].attno != attno;
	if (!others)
		return view;
	view.versions = palloc_array(P2pKeyVersion, Max(view.count, 1));
	memcpy(view.versions, t->set->versions, sizeof(P2pKeyVersion) * view.count);
	for (uint32 i = 0; i < view.count; i++)
		view.versions[i].is_delta = delta_of(&view.versions[i], attno) != NULL;
	p2p_keyset_recount(&view);
	return view;
}

/* What a version adds to a counter; NULL: it says no such thing. */
static const char *
delta_of(const P2pKeyVersion *version, AttrNumber attno)
{
	const RpKeyPayload *payload = version->payload;

	for (int d = 0; payload && d < payload->ndeltas; d++)
	{
		if (payload->attnos[d] == attno)
			return payload->deltas[d];
	}
	return NULL;
}

/* A counter's value as numeric. */
static Datum
value_to_numeric(RpOpenRelation *open, AttrNumber attno, Datum value)
{
	Oid			type = TupleDescAttr(RelationGetDescr(open->rel), attno - 1)->atttypid;
	Oid			out;
	bool		varlena;

	if (type == NUMERICOID)
		return value;
	getTypeOutputInfo(type, &out, &varlena);
	return number_from_text(OidOutputFunctionCall(out, value));
}

/* A sum as a value of the column; ERROR if it does not fit. */
static Datum
numeric_to_value(RpOpenRelation *open, AttrNumber attno, Datum number)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(open->rel), attno - 1);
	Oid			in;
	Oid			param;

	getTypeInputInfo(att->atttypid, &in, &param);
	return OidInputFunctionCall(in, DatumGetCString(DirectFunctionCall1(numeric_out, number)),
								param, att->atttypmod);
}

static Datum
number_from_text(const char *text)
{
	return DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}
