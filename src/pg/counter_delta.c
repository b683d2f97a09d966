/*
 * counter_delta.c
 *	  What one version adds to the counter columns of its row.
 *
 * Apply computes it for the change in hand, a pass over a log for those it
 * indexes; both must come to the same, so both come here. Sums are the
 * server's numeric, so that no counter overflows on its way; they are kept as text, because most are
 * short and a set may hold many.
 *
 * Old values come with an update because set_column_merge() has the table's
 * replica identity carry them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

#include "keyset.h"

static bool column_numeric(TupleTableSlot *slot, AttrNumber attno, Datum *value);

void
rp_counter_deltas(const RpTableHandlers *handlers, const P2pKeyVersion *version,
				  TupleTableSlot *old, TupleTableSlot *row, RpKeyPayload *payload)
{
	payload->ndeltas = 0;
	payload->attnos = NULL;
	payload->deltas = NULL;
	if (handlers == NULL || handlers->nmerges == 0 || version->op == P2P_OP_DELETE)
		return;
	payload->attnos = palloc_array(AttrNumber, handlers->nmerges);
	payload->deltas = palloc_array(char *, handlers->nmerges);
	for (int i = 0; i < handlers->nmerges; i++)
	{
		const RpColumnMerge *merge = &handlers->merges[i];
		Datum		value;
		Datum		before;

		if (merge->kind != RP_MERGE_COUNTER || !rp_merge_is_seen(merge, version) ||
			!column_numeric(row, merge->attno, &value))
			continue;
		if (version->op == P2P_OP_UPDATE)
		{
			if (old == NULL || !column_numeric(old, merge->attno, &before))
				continue;
			value = DirectFunctionCall2(numeric_sub, value, before);
		}
		payload->attnos[payload->ndeltas] = merge->attno;
		payload->deltas[payload->ndeltas++] =
			DatumGetCString(DirectFunctionCall1(numeric_out, value));
	}
}

/* A column of a number type as numeric; false: it is null, or of another type. */
static bool
column_numeric(TupleTableSlot *slot, AttrNumber attno, Datum *value)
{
	bool		isnull;
	Datum		datum;

	if (attno > slot->tts_tupleDescriptor->natts)
		return false;
	datum = slot_getattr(slot, attno, &isnull);
	if (isnull)
		return false;
	switch (getBaseType(TupleDescAttr(slot->tts_tupleDescriptor, attno - 1)->atttypid))
	{
		case INT2OID:
			*value = DirectFunctionCall1(int2_numeric, datum);
			return true;
		case INT4OID:
			*value = DirectFunctionCall1(int4_numeric, datum);
			return true;
		case INT8OID:
			*value = DirectFunctionCall1(int8_numeric, datum);
			return true;
		case NUMERICOID:
			*value = datum;
			return true;
		default:
			return false;
	}
}
