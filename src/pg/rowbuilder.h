/*
 * rowbuilder.h
 *	  Rows of a set-returning function, column by column in their order: no
 *	  column numbers that could be off by one.
 */
#ifndef RP_ROWBUILDER_H
#define RP_ROWBUILDER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#define RP_ROW_MAX_COLUMNS 24

typedef struct RpRow
{
	struct ReturnSetInfo *result;
	int			n;
	Datum		values[RP_ROW_MAX_COLUMNS];
	bool		nulls[RP_ROW_MAX_COLUMNS];
} RpRow;

/* Begin the result of a function that returns SETOF record. */
void		rp_row_begin(RpRow *row, FunctionCallInfo fcinfo);
void		rp_row_null(RpRow *row);
void		rp_row_bool(RpRow *row, bool value);
void		rp_row_int32(RpRow *row, int32 value);
void		rp_row_int64(RpRow *row, int64 value);
void		rp_row_oid(RpRow *row, Oid value);
/* A value of any type. */
void		rp_row_datum(RpRow *row, Datum value, bool isnull);
/* NULL or empty: NULL. What is not valid in the database's encoding is cut off. */
void		rp_row_text(RpRow *row, const char *value);
void		rp_row_name(RpRow *row, const char *value);
/* 0: NULL. Also for stamps: they count from the same moment. */
void		rp_row_time(RpRow *row, TimestampTz value);
void		rp_row_interval(RpRow *row, int64 microseconds);
/* Invalid: NULL. */
void		rp_row_lsn(RpRow *row, XLogRecPtr value);
/* Add the row to the result and start the next; every column must have been given. */
void		rp_row_end(RpRow *row);

#endif							/* RP_ROWBUILDER_H */
