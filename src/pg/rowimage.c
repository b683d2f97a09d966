/*
 * rowimage.c
 *	  Images of rows: as jsonb, and as exact pairs of name and text.
 *
 * Called by apply (conflict_history.c, failed_changes.c) and by revert_conflict(),
 * which reads them back.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "rowimage.h"

static bool image_is_too_large(const RpImageColumn *columns, int ncolumns);
static Datum value_text(const RpImageColumn *column);
static Jsonb *value_jsonb(const RpImageColumn *column);
static void put_pair(JsonbParseState **state, const RpImageColumn *column);

int
rp_image_columns(TupleDesc desc, TupleTableSlot *slot, const bool *leave_out, RpImageColumn *out)
{
	int			n = 0;

	slot_getallattrs(slot);
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);

		if (att->attisdropped || att->attgenerated || (leave_out != NULL && leave_out[a]))
			continue;
		out[n++] = (RpImageColumn) {
			NameStr(att->attname), att->atttypid, slot->tts_values[a], slot->tts_isnull[a]
		};
	}
	return n;
}

void
rp_image_make(const RpImageColumn *columns, int ncolumns, RpRowImage *image)
{
	Datum	   *texts = palloc(sizeof(Datum) * 2 * Max(ncolumns, 1));
	bool	   *nulls = palloc0(sizeof(bool) * 2 * Max(ncolumns, 1));
	JsonbParseState *state = NULL;
	int			dims[] = {ncolumns, 2};
	int			bounds[] = {1, 1};

	memset(image, 0, sizeof(*image));
	if (image_is_too_large(columns, ncolumns))
		return;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < ncolumns; i++)
	{
		put_pair(&state, &columns[i]);
		texts[2 * i] = CStringGetTextDatum(columns[i].name);
		nulls[2 * i + 1] = columns[i].isnull;
		if (!columns[i].isnull)
			texts[2 * i + 1] = value_text(&columns[i]);
	}
	image->json = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
	image->exact = PointerGetDatum(construct_md_array(texts, nulls, 2, dims, bounds,
													  TEXTOID, -1, false, TYPALIGN_INT));
	image->present = true;
}

/* Has the row more bytes than an image may have? Looks at no value's content. */
static bool
image_is_too_large(const RpImageColumn *columns, int ncolumns)
{
	Size		size = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		if (!columns[i].isnull && get_typlen(columns[i].type) == -1)
			size += toast_raw_datum_size(columns[i].value);
	}
	return size > RP_MAX_IMAGE_BYTES;
}

/* Return a value as its type writes it. */
static Datum
value_text(const RpImageColumn *column)
{
	Oid			output;
	bool		varlena;

	getTypeOutputInfo(column->type, &output, &varlena);
	return CStringGetTextDatum(OidOutputFunctionCall(output, column->value));
}

/* Return a value as to_jsonb() gives it. */
static Jsonb *
value_jsonb(const RpImageColumn *column)
{
	FmgrInfo	to_jsonb;
	Const	   *of_type = makeNullConst(column->type, -1, InvalidOid);

	/* it asks for the type of its argument by the expression that it is called in */
	fmgr_info(F_TO_JSONB, &to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(of_type),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &to_jsonb);
	return DatumGetJsonbP(FunctionCall1(&to_jsonb, column->value));
}

/* Add name and value of a column to the object in the making. */
static void
put_pair(JsonbParseState **state, const RpImageColumn *column)
{
	JsonbValue	item;

	item.type = jbvString;
	item.val.string.val = unconstify(char *, column->name);
	item.val.string.len = strlen(column->name);
	(void) pushJsonbValue(state, WJB_KEY, &item);
	if (column->isnull)
		item.type = jbvNull;
	else
		JsonbToJsonbValue(value_jsonb(column), &item);
	(void) pushJsonbValue(state, WJB_VALUE, &item);
}

int
rp_image_read(Datum exact, char ***names, char ***values)
{
	ArrayType  *array = DatumGetArrayTypeP(exact);
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &n);
	if (n % 2 != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the image of a row is malformed"),
				 errhint("Only the extension may write the tables of schema replp2p.")));
	n /= 2;
	*names = palloc(sizeof(char *) * Max(n, 1));
	*values = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[2 * i])
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the image of a row is malformed"),
					 errhint("Only the extension may write the tables of schema replp2p.")));
		(*names)[i] = TextDatumGetCString(texts[2 * i]);
		(*values)[i] = nulls[2 * i + 1] ? NULL : TextDatumGetCString(texts[2 * i + 1]);
	}
	return n;
}
