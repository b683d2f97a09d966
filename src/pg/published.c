/*
 * published.c
 *	  Columns of rows that members publish: those of the tables membership and
 *	  handler_changes, which go to all nodes as any row does, and mean something there.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "catalog.h"
#include "published.h"
#include "settings.h"

/* ERROR: a column is not what it may be. */
static void
refuse(TupleTableSlot *slot, int column)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a row for a table of schema \"%s\" has no proper value of column \"%s\"",
					RP_SCHEMA, NameStr(TupleDescAttr(slot->tts_tupleDescriptor, column - 1)->attname)),
			 errhint("A member has published what it may not publish.")));
}

Datum
rp_published_column(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	if (isnull)
		refuse(slot, column);
	return value;
}

void
rp_published_bytes(TupleTableSlot *slot, int column, void *out, size_t length)
{
	bytea	   *value = DatumGetByteaPP(rp_published_column(slot, column));

	if (VARSIZE_ANY_EXHDR(value) != length)
		refuse(slot, column);
	memcpy(out, VARDATA_ANY(value), length);
}

void
rp_published_text(TupleTableSlot *slot, int column, char *out, size_t size)
{
	char	   *value = TextDatumGetCString(rp_published_column(slot, column));

	if (strlcpy(out, value, size) >= size)
		refuse(slot, column);
	pfree(value);
}
