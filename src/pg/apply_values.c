/*
 * apply_values.c
 *	  Turning the values of a change into local datums, and keys into hashes.
 *
 * A value is what the type's send function gave at the origin, or text for types that have
 * none. The type's functions make a datum of it, as the table's owner, since
 * they may be anybody's; those of the most common types are simple enough to be done here.
 *
 * Two keys that the replica identity takes for equal have the same hash, whatever their bytes: it
 * is made by the hash functions of the key's operators.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "apply_relation.h"

#define KEY_HASH_SEED_1 UINT64CONST(0x6c62272e07bb0142)
/* A buffer for values that is not larger than this is kept from one to the next. */
#define RECEIVED_KEPT (64 * 1024)
#define KEY_HASH_SEED_2 UINT64CONST(0x9e3779b97f4a7c15)

static StringInfoData received;	/* scratch of value_receive; data NULL: none */

static Datum value_receive(RpRelationMap *map, uint32 i, const P2pValue *value);
static bool value_read(const RpColumnMap *column, const P2pValue *value, Datum *datum);

void
rp_values_to_slot(RpRelationMap *map, const P2pValue *values,
				  TupleTableSlot *slot, bool *given, bool *unavailable)
{
	Oid			save_user;
	int			save_sec;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * map->natts);
	memset(slot->tts_values, 0, sizeof(Datum) * map->natts);
	if (given)
		memset(given, false, sizeof(bool) * map->natts);
	if (unavailable)
		memset(unavailable, false, sizeof(bool) * map->natts);

	for (uint32 i = 0; i < map->remote.ncolumns; i++)
	{
		RpColumnMap *column = &map->columns[i];
		const P2pValue *value = &values[i];

		if (column->attno < 0 || value->kind == P2P_VALUE_ABSENT)
			continue;
		if (given)
			given[column->attno] = true;
		switch (value->kind)
		{
			case P2P_VALUE_NULL:
			case P2P_VALUE_ABSENT:
				break;
			case P2P_VALUE_UNCHANGED:
				if (unavailable)
					unavailable[column->attno] = true;
				break;
			case P2P_VALUE_BINARY:
				slot->tts_values[column->attno] = value_receive(map, i, value);
				slot->tts_isnull[column->attno] = false;
				break;
			case P2P_VALUE_TEXT:
				slot->tts_values[column->attno] =
					InputFunctionCall(&column->input,
									  pnstrdup((const char *) value->data, value->length),
									  column->typioparam, column->typmod);
				slot->tts_isnull[column->attno] = false;
				break;
		}
	}
	ExecStoreVirtualTuple(slot);
	SetUserIdAndSecContext(save_user, save_sec);
}

/* The hint of errors about column i, for ereport. */
static int
hint_same_type(const RpRelationMap *map, uint32 i)
{
	return errhint("Give the column the same type (%s) on every node.",
				   map->remote.columns[i].type);
}

/* Make a datum of a binary value of column i, in CurrentMemoryContext. */
static Datum
value_receive(RpRelationMap *map, uint32 i, const P2pValue *value)
{
	RpColumnMap *column = &map->columns[i];
	Datum		datum;

	if (value_read(column, value, &datum))
		return datum;
	if (!column->has_receive)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" of table \"%s.%s\" has a type here that takes no binary values",
						map->remote.columns[i].name, map->remote.schema, map->remote.name),
				 hint_same_type(map, i)));
	if (received.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&received);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(&received);
	appendBinaryStringInfo(&received, (const char *) value->data, value->length);
	datum = ReceiveFunctionCall(&column->receive, &received, column->receive_ioparam, column->typmod);
	if (received.cursor != received.len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("value of column \"%s\" of table \"%s.%s\" does not fit its type here",
						map->remote.columns[i].name, map->remote.schema, map->remote.name),
				 hint_same_type(map, i)));
	if (received.maxlen > RECEIVED_KEPT)
	{
		pfree(received.data);
		received.data = NULL;
	}
	return datum;
}

/*
 * Read a value of one of the types that most columns have without calling its function; false: that
 * must.
 */
static bool
value_read(const RpColumnMap *column, const P2pValue *value, Datum *datum)
{
	uint16		n16;
	uint32		n32;
	uint64		n64;

	switch (column->receive.fn_oid)
	{
		case F_INT2RECV:
			if (value->length != sizeof(n16))
				return false;
			memcpy(&n16, value->data, sizeof(n16));
			*datum = Int16GetDatum((int16) pg_ntoh16(n16));
			return true;
		case F_INT4RECV:
			if (value->length != sizeof(n32))
				return false;
			memcpy(&n32, value->data, sizeof(n32));
			*datum = Int32GetDatum((int32) pg_ntoh32(n32));
			return true;
		case F_INT8RECV:
			if (value->length != sizeof(n64))
				return false;
			memcpy(&n64, value->data, sizeof(n64));
			*datum = Int64GetDatum((int64) pg_ntoh64(n64));
			return true;
		case F_TEXTRECV:
			(void) pg_verify_mbstr(GetDatabaseEncoding(), (const char *) value->data,
								   (int) value->length, false);
			*datum = PointerGetDatum(cstring_to_text_with_len((const char *) value->data,
															  (int) value->length));
			return true;
		default:
			return false;
	}
}

RpKeyHash
rp_key_hash(RpRelationMap *map, TupleTableSlot *slot)
{
	RpKeyHash	hash;

	hash.h1 = hash_uint32_extended(map->relid, KEY_HASH_SEED_1);
	hash.h2 = hash_uint32_extended(map->relid, KEY_HASH_SEED_2);
	for (int k = 0; k < map->nkeys; k++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, map->key_attnos[k] + 1, &isnull);
		uint64		a = 0;
		uint64		b = 0;

		if (isnull)
			a = b = 1;
		else if (OidIsValid(map->key_hash[k].fn_oid))
		{
			a = DatumGetUInt64(FunctionCall2Coll(&map->key_hash[k], map->key_collation[k], value,
												 UInt64GetDatum(KEY_HASH_SEED_1)));
			b = DatumGetUInt64(FunctionCall2Coll(&map->key_hash[k], map->key_collation[k], value,
												 UInt64GetDatum(KEY_HASH_SEED_2)));
		}
		else
		{
			char	   *text = OutputFunctionCall(&map->key_out[k], value);

			a = hash_bytes_extended((unsigned char *) text, strlen(text), KEY_HASH_SEED_1);
			b = hash_bytes_extended((unsigned char *) text, strlen(text), KEY_HASH_SEED_2);
		}
		hash.h1 = hash_combine64(hash.h1, a);
		hash.h2 = hash_combine64(hash.h2, b);
	}
	return hash;
}
