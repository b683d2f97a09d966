/*
 * conflict_history.c
 *	  The table behind the view conflicts: one row for each true conflict,
 *	  written in the transaction that resolved it, with full images.
 *
 * The history is this node's own. It is bounded by age and by rows, and
 * nothing in the resolution depends on it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply_internal.h"
#include "settings.h"

static Datum row_datum(RpOpenRelation *open, TupleTableSlot *slot, char *null);

/* Return slot as a composite of the table's row type. */
static Datum
row_datum(RpOpenRelation *open, TupleTableSlot *slot, char *null)
{
	HeapTuple	tuple;

	if (slot == NULL || TTS_EMPTY(slot))
	{
		*null = 'n';
		return (Datum) 0;
	}
	*null = ' ';
	slot_getallattrs(slot);
	tuple = heap_form_tuple(RelationGetDescr(open->rel), slot->tts_values, slot->tts_isnull);
	return heap_copy_tuple_as_datum(tuple, RelationGetDescr(open->rel));
}

void
rp_conflict_record(RpApplyTransaction *txn, const RpConflictRecord *record)
{
	static const char *insert =
		"INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, key,"
		" local_row, remote_row, applied_row, local_slot, local_seq, local_stamp,"
		" remote_slot, remote_seq, remote_stamp, relationship, message)"
		" SELECT $1, $2, $3, (SELECT pg_catalog.jsonb_object_agg(k.key, k.value)"
		"  FROM pg_catalog.jsonb_each(pg_catalog.to_jsonb($4)) AS k WHERE k.key = ANY ($14)),"
		" pg_catalog.to_jsonb($5), pg_catalog.to_jsonb($6), pg_catalog.to_jsonb($7),"
		" $8, $9, $10, $11, $12, $13, 'concurrent', $15";
	Oid			row_type = record->open->rel->rd_rel->reltype;
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID, row_type, row_type, row_type, row_type,
		INT2OID, INT8OID, INT8OID, INT2OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTOID};
	Datum		values[15];
	char		nulls[15];
	Datum		names[INDEX_MAX_KEYS];
	RpRelationMap *map = record->open->map;
	Oid			save_user;
	int			save_sec;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = ObjectIdGetDatum(map->relid);
	values[1] = CStringGetTextDatum(p2p_conflict_name(record->conflict));
	values[2] = CStringGetTextDatum(record->resolution ? record->resolution :
									record->incoming_wins ? "apply_remote" : "keep_local");
	values[3] = row_datum(record->open, record->key, &nulls[3]);
	values[4] = row_datum(record->open, record->local_row, &nulls[4]);
	values[5] = row_datum(record->open, record->remote_row, &nulls[5]);
	values[6] = row_datum(record->open, record->applied_row, &nulls[6]);
	values[7] = Int16GetDatum((int16) record->local.slot);
	values[8] = Int64GetDatum((int64) record->local.seq);
	values[9] = Int64GetDatum(record->local.stamp);
	if (record->local.seq == 0)
		nulls[7] = nulls[8] = nulls[9] = 'n';
	values[10] = Int16GetDatum((int16) txn->slot_version.slot);
	values[11] = Int64GetDatum((int64) txn->slot_version.seq);
	values[12] = Int64GetDatum(txn->slot_version.stamp);
	for (int k = 0; k < map->nkeys; k++)
		names[k] = CStringGetTextDatum(NameStr(TupleDescAttr(RelationGetDescr(record->open->rel),
															 map->key_attnos[k])->attname));
	values[13] = PointerGetDatum(construct_array(names, map->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
	values[14] = CStringGetTextDatum(record->message ? record->message : "");
	if (record->message == NULL)
		nulls[14] = 'n';

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, save_sec & ~SECURITY_RESTRICTED_OPERATION);
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (SPI_execute_with_args(insert, lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the conflict history");
	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_user, save_sec);
	txn->conflicts++;
}

void
rp_conflict_prune(void)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(rp_conflict_history_days), Int32GetDatum(rp_conflict_history_rows)};

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	SPI_execute_with_args("DELETE FROM replp2p.conflict_history"
						  " WHERE detected_at < pg_catalog.now() - pg_catalog.make_interval(days => $1)"
						  " OR id <= (SELECT pg_catalog.max(id) - $2 FROM replp2p.conflict_history)",
						  lengthof(types), types, values, NULL, false, 0);
	SPI_finish();
	PopActiveSnapshot();
}
