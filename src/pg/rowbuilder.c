/*
 * rowbuilder.c
 *	  Rows of a set-returning function, column by column in their order.
 *
 * Texts may come from a peer or from its server's messages, cut to the size of
 * a field in shared memory: so each is checked against the encoding of this
 * database, and cut where it stops being valid.
 */
#include "postgres.h"

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/tuplestore.h"

#include "rowbuilder.h"

/* Start the result of the calling function. */
void
rp_row_begin(RpRow *row, FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	row->result = (ReturnSetInfo *) fcinfo->resultinfo;
	row->n = 0;
}

/* Give the next column a value. */
static void
add(RpRow *row, Datum value)
{
	if (row->n >= RP_ROW_MAX_COLUMNS)
		elog(ERROR, "row has too many columns");
	row->values[row->n] = value;
	row->nulls[row->n] = false;
	row->n++;
}

/* Give the next column no value. */
void
rp_row_null(RpRow *row)
{
	add(row, (Datum) 0);
	row->nulls[row->n - 1] = true;
}

void
rp_row_bool(RpRow *row, bool value)
{
	add(row, BoolGetDatum(value));
}

void
rp_row_int32(RpRow *row, int32 value)
{
	add(row, Int32GetDatum(value));
}

void
rp_row_int64(RpRow *row, int64 value)
{
	add(row, Int64GetDatum(value));
}

void
rp_row_oid(RpRow *row, Oid value)
{
	add(row, ObjectIdGetDatum(value));
}

void
rp_row_datum(RpRow *row, Datum value, bool isnull)
{
	if (isnull)
		rp_row_null(row);
	else
		add(row, value);
}

/* Return how many bytes of a text are valid in the database's encoding. */
static int
valid_length(const char *value)
{
	return pg_encoding_verifymbstr(GetDatabaseEncoding(), value, (int) strlen(value));
}

/* Give the next column a text, or NULL for an empty one. */
void
rp_row_text(RpRow *row, const char *value)
{
	if (value == NULL || value[0] == '\0')
		rp_row_null(row);
	else
		add(row, PointerGetDatum(cstring_to_text_with_len(value, valid_length(value))));
}

/* Give the next column a name, or NULL for an empty one. */
void
rp_row_name(RpRow *row, const char *value)
{
	if (value == NULL || value[0] == '\0')
		rp_row_null(row);
	else
		add(row, DirectFunctionCall1(namein,
									 CStringGetDatum(pnstrdup(value, valid_length(value)))));
}

/* Give the next column a time, or NULL for one that was never set. */
void
rp_row_time(RpRow *row, TimestampTz value)
{
	if (value == 0)
		rp_row_null(row);
	else
		add(row, TimestampTzGetDatum(value));
}

void
rp_row_interval(RpRow *row, int64 microseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	add(row, IntervalPGetDatum(interval));
}

/* Give the next column a position in the WAL, or NULL for an invalid one. */
void
rp_row_lsn(RpRow *row, XLogRecPtr value)
{
	if (value == InvalidXLogRecPtr)
		rp_row_null(row);
	else
		add(row, LSNGetDatum(value));
}

/* Store the row; the columns given must be those declared. */
void
rp_row_end(RpRow *row)
{
	if (row->n != row->result->setDesc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a function of replp2p has %d columns, but is declared with %d",
						row->n, row->result->setDesc->natts),
				 errhint("Library and extension are not of one version: see ALTER EXTENSION replp2p UPDATE.")));
	tuplestore_putvalues(row->result->setResult, row->result->setDesc,
						 row->values, row->nulls);
	row->n = 0;
}
