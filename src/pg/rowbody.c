/*
 * rowbody.c
 *	  One row as bytes that outlive the shape of its table.
 *
 * The bytes are a body as it goes over the wire (p2p_body.h), with one
 * transaction of one item:
 *
 *	  RELATION  the table's columns by name, and which are the key
 *	  BEGIN     seq 1; says nothing
 *	  INSERT    the row                       or DELETE	 its key alone
 *	  COMMIT
 *
 * Columns are found by name, so that a row survives columns that are added or
 * dropped while it is away; one that is renamed counts as dropped and added.
 * Generated columns are not in it, they are computed again. The binary form is
 * taken where it means the same on every server, since a joining node copies
 * these bytes; text otherwise, under the pinned settings of a worker.
 *
 * Unlike apply_stream.c this does not go through a relation map: a map
 * follows the description it was asked for last, and one is in use.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "decode.h"
#include "rowbody.h"

static void describe(RpOpenRelation *open, P2pRelation *relation);
static bool is_key_column(const RpRelationMap *map, int attno);
static P2pValue *row_values(RpOpenRelation *open, TupleTableSlot *row, bool key_only);
static void value_encode(Form_pg_attribute att, Datum datum, P2pValue *value);
static int	attno_by_name(const void *a, const void *b, void *desc);
static int	value_compare(Form_pg_attribute att, Datum a, Datum b);
static size_t body_put(P2pWriter *writer, const P2pRelation *relation, const P2pValue *values,
					   bool key_only);
static void body_read(bytea *bytes, P2pBodyReader *reader, P2pRelation *relation, bool *key_only);
static Datum value_decode(Form_pg_attribute att, const P2pValue *value);
static Datum value_missing(RpOpenRelation *open, int attno, bool *isnull);
static int	column_find(TupleDesc desc, const char *name);

bytea *
rp_rowbody_encode(RpOpenRelation *open, TupleTableSlot *row, bool key_only)
{
	P2pRelation relation = {0};
	P2pValue   *values;
	P2pWriter	writer;
	size_t		size;
	bytea	   *bytes;

	describe(open, &relation);
	values = row_values(open, row, key_only);
	p2p_writer_init(&writer, NULL, 0);
	size = body_put(&writer, &relation, values, key_only);
	if (size > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a row of table \"%s\" is too large to be kept as displaced",
						RelationGetRelationName(open->rel)),
				 errhint("Shorten the row, or change the unique value that another row has, too.")));
	bytes = palloc(VARHDRSZ + size);
	SET_VARSIZE(bytes, VARHDRSZ + size);
	p2p_writer_init(&writer, VARDATA(bytes), size);
	(void) body_put(&writer, &relation, values, key_only);
	Assert(!writer.overflow);
	return bytes;
}

/* Describe the table as it is now; its columns in CurrentMemoryContext. */
static void
describe(RpOpenRelation *open, P2pRelation *relation)
{
	TupleDesc	desc = RelationGetDescr(open->rel);

	strlcpy(relation->schema, get_namespace_name(RelationGetNamespace(open->rel)), P2P_NAME_SIZE);
	strlcpy(relation->name, RelationGetRelationName(open->rel), P2P_NAME_SIZE);
	relation->columns = palloc0_array(P2pColumn, Max(desc->natts, 1));
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);
		P2pColumn  *column = &relation->columns[relation->ncolumns];
		char	   *type;

		if (att->attisdropped || att->attgenerated)
			continue;
		type = format_type_be_qualified(att->atttypid);
		strlcpy(column->name, NameStr(att->attname), P2P_NAME_SIZE);
		memcpy(column->type, type, pg_mbcliplen(type, strlen(type), P2P_TYPE_NAME_SIZE - 1));
		column->flags = is_key_column(open->map, a) ? P2P_COLUMN_KEY : 0;
		relation->ncolumns++;
	}
}

/* Is the attribute (0-based) one of the key's? */
static bool
is_key_column(const RpRelationMap *map, int attno)
{
	for (int k = 0; k < map->nkeys; k++)
	{
		if (map->key_attnos[k] == attno)
			return true;
	}
	return false;
}

/* The row's values in the order of the description. */
static P2pValue *
row_values(RpOpenRelation *open, TupleTableSlot *row, bool key_only)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	P2pValue   *values = palloc0_array(P2pValue, Max(desc->natts, 1));
	int			n = 0;

	slot_getallattrs(row);
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);

		if (att->attisdropped || att->attgenerated)
			continue;
		if (key_only && !is_key_column(open->map, a))
			values[n].kind = P2P_VALUE_ABSENT;
		else if (row->tts_isnull[a])
			values[n].kind = P2P_VALUE_NULL;
		else
			value_encode(att, row->tts_values[a], &values[n]);
		n++;
	}
	return values;
}

/* Encode a value that is there. */
static void
value_encode(Form_pg_attribute att, Datum datum, P2pValue *value)
{
	Oid			base = getBaseType(att->atttypid);
	Oid			function;
	bool		varlena;

	if (rp_type_is_portable(base))
	{
		bytea	   *bytes;

		getTypeBinaryOutputInfo(base, &function, &varlena);
		bytes = OidSendFunctionCall(function, datum);
		value->kind = P2P_VALUE_BINARY;
		value->data = (const uint8_t *) VARDATA(bytes);
		value->length = VARSIZE(bytes) - VARHDRSZ;
	}
	else
	{
		getTypeOutputInfo(att->atttypid, &function, &varlena);
		value->kind = P2P_VALUE_TEXT;
		value->data = (const uint8_t *) OidOutputFunctionCall(function, datum);
		value->length = strlen((const char *) value->data);
	}
}

int
rp_rowbody_key_compare(RpOpenRelation *open, TupleTableSlot *a, TupleTableSlot *b)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	int			attnos[INDEX_MAX_KEYS];
	int			order = 0;

	memcpy(attnos, open->map->key_attnos, sizeof(int) * open->map->nkeys);
	qsort_arg(attnos, open->map->nkeys, sizeof(int), attno_by_name, desc);
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int k = 0; k < open->map->nkeys && order == 0; k++)
	{
		int			attno = attnos[k];

		order = value_compare(TupleDescAttr(desc, attno), a->tts_values[attno], b->tts_values[attno]);
	}
	return order;
}

/* The order of two attributes (0-based) by name: nodes may have the columns in another order. */
static int
attno_by_name(const void *a, const void *b, void *desc)
{
	return strcmp(NameStr(TupleDescAttr((TupleDesc) desc, *(const int *) a)->attname),
				  NameStr(TupleDescAttr((TupleDesc) desc, *(const int *) b)->attname));
}

/* Any order that is the same on every node: that of the encoded bytes. */
static int
value_compare(Form_pg_attribute att, Datum a, Datum b)
{
	P2pValue	va = {0};
	P2pValue	vb = {0};
	int			order;

	value_encode(att, a, &va);
	value_encode(att, b, &vb);
	order = memcmp(va.data, vb.data, Min(va.length, vb.length));
	if (order == 0 && va.length != vb.length)
		order = va.length < vb.length ? -1 : 1;
	return order;
}

/* Put the whole body, or count its bytes if the writer has no room; returns how many they are. */
static size_t
body_put(P2pWriter *writer, const P2pRelation *relation, const P2pValue *values, bool key_only)
{
	static const P2pVector none = {0};
	P2pBegin	begin = {.seq = 1};

	p2p_body_put_relation(writer, relation);
	p2p_body_put_begin(writer, &begin, &none, &none);
	if (key_only)
		p2p_body_put_delete(writer, relation->relno);
	else
		p2p_body_put_insert(writer, relation->relno);
	for (uint32 i = 0; i < relation->ncolumns; i++)
		p2p_body_put_value(writer, &values[i]);
	p2p_body_put_commit(writer);
	return writer->length;
}

void
rp_rowbody_decode(RpOpenRelation *open, bytea *bytes, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	P2pBodyReader reader;
	P2pRelation relation;
	P2pValue   *values;
	bool		key_only;
	bool	   *given = palloc0_array(bool, Max(desc->natts, 1));
	Oid			save_user;
	int			save_sec;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	body_read(bytes, &reader, &relation, &key_only);
	values = key_only ? reader.old_values : reader.new_values;
	ExecClearTuple(slot);
	memset(slot->tts_values, 0, sizeof(Datum) * desc->natts);
	memset(slot->tts_isnull, true, sizeof(bool) * desc->natts);
	for (uint32 i = 0; i < relation.ncolumns; i++)
	{
		int			a = column_find(desc, relation.columns[i].name);

		if (a < 0)
			continue;			/* dropped since */
		given[a] = true;
		if (values[i].kind != P2P_VALUE_BINARY && values[i].kind != P2P_VALUE_TEXT)
			continue;
		slot->tts_values[a] = value_decode(TupleDescAttr(desc, a), &values[i]);
		slot->tts_isnull[a] = false;
	}
	for (int a = 0; a < desc->natts && !key_only; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);

		if (!given[a] && !att->attisdropped && !att->attgenerated)
			slot->tts_values[a] = value_missing(open, a, &slot->tts_isnull[a]);
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(open->rel);
	if (!key_only && desc->constr && desc->constr->has_generated_stored)
		ExecComputeStoredGenerated(open->result, open->estate, slot, CMD_INSERT);
	SetUserIdAndSecContext(save_user, save_sec);
}

/* Read the bytes: the description and, in the reader, the values. All in CurrentMemoryContext. */
static void
body_read(bytea *bytes, P2pBodyReader *reader, P2pRelation *relation, bool *key_only)
{
	static const P2pVector none = {0};
	P2pItem    *item = palloc0_object(P2pItem);
	P2pStatus	status;
	bool		found = false;

	memset(relation, 0, sizeof(*relation));
	p2p_body_reader_init(reader, palloc(p2p_body_reader_memory()),
						 VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), &none);
	while (!found && (status = p2p_body_next(reader, item)) == P2P_OK)
	{
		if (item->tag == P2P_TAG_RELATION)
		{
			*relation = item->relation;
			relation->columns = palloc_array(P2pColumn, Max(relation->ncolumns, 1));
			memcpy(relation->columns, item->relation.columns,
				   sizeof(P2pColumn) * relation->ncolumns);
		}
		*key_only = item->tag == P2P_TAG_DELETE;
		found = *key_only || item->tag == P2P_TAG_INSERT;
	}
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the image of a displaced row is malformed"),
				 errhint("Only the extension may write its tables.")));
	pfree(item);
}

/* Decode a value by the type that its column has here. */
static Datum
value_decode(Form_pg_attribute att, const P2pValue *value)
{
	Oid			function;
	Oid			ioparam;
	StringInfoData buf;

	if (value->kind == P2P_VALUE_TEXT)
	{
		getTypeInputInfo(att->atttypid, &function, &ioparam);
		return OidInputFunctionCall(function, pnstrdup((const char *) value->data, value->length),
									ioparam, att->atttypmod);
	}
	getTypeBinaryInputInfo(att->atttypid, &function, &ioparam);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, (const char *) value->data, value->length);
	return OidReceiveFunctionCall(function, &buf, ioparam, att->atttypmod);
}

/* The value of a column that the row was written without. */
static Datum
value_missing(RpOpenRelation *open, int attno, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(open->rel);
	Expr	   *expr;

	if (TupleDescAttr(desc, attno)->atthasmissing)
		return getmissingattr(desc, attno + 1, isnull);
	expr = (Expr *) build_column_default(open->rel, attno + 1);
	if (expr == NULL)
	{
		*isnull = true;
		return (Datum) 0;
	}
	return ExecEvalExpr(ExecInitExpr(expression_planner(expr), NULL),
						GetPerTupleExprContext(open->estate), isnull);
}

/* The attribute (0-based) of that name; -1: none. */
static int
column_find(TupleDesc desc, const char *name)
{
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, a);

		if (!att->attisdropped && !att->attgenerated && strcmp(NameStr(att->attname), name) == 0)
			return a;
	}
	return -1;
}
