/*
 * rowimage.h
 *	  Images of rows for people and for putting back: what the conflict history
 *	  and failed_changes keep of a row that may be gone tomorrow.
 *
 * An image is kept twice. As jsonb, to be read and searched; and exactly, as a
 * text[] of pairs {column name, value}, since jsonb is not exact: it knows no
 * difference between SQL NULL and a jsonb null, forgets the bounds of arrays and
 * the spelling of json. The text of a value is what its type's output function
 * gives under the settings of a worker (worker.c), and its input function takes
 * it back as it was; names make it survive columns that come and go.
 */
#ifndef RP_ROWIMAGE_H
#define RP_ROWIMAGE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "utils/array.h"

/* Rows with more bytes than this have no image: jsonb ends at 256 MB, and the history is no archive. */
#ifndef RP_MAX_IMAGE_BYTES
#define RP_MAX_IMAGE_BYTES ((Size) 16 * 1024 * 1024)
#endif

/* One column of a row. */
typedef struct RpImageColumn
{
	const char *name;
	Oid			type;
	Datum		value;
	bool		isnull;
} RpImageColumn;

typedef struct RpRowImage
{
	bool		present;		/* else there is no such row, or it is too large */
	Datum		json;			/* jsonb */
	Datum		exact;			/* text[][2] */
} RpRowImage;

/*
 * The columns of a row in slot, dropped and generated ones left out, and those of which
 * leave_out (by attribute; may be NULL) says so. out has room for all; returns how many.
 */
int			rp_image_columns(TupleDesc desc, TupleTableSlot *slot, const bool *leave_out,
							 RpImageColumn *out);
/*
 * Make the image. In CurrentMemoryContext. Runs output functions and casts to json, which
 * may be a user's: the caller has become whose code may run.
 */
void		rp_image_make(const RpImageColumn *columns, int ncolumns, RpRowImage *image);

/* Read an exact image back: returns the number of columns; a value that is NULL is SQL NULL. */
int			rp_image_read(Datum exact, char ***names, char ***values);

#endif							/* RP_ROWIMAGE_H */
