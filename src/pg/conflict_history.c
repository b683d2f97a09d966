/*
 * conflict_history.c
 *	  The table behind the view conflicts: one row for each true conflict,
 *	  written in the transaction that resolved it, with images of both sides.
 *
 * The history is this node's own, and nothing in the resolution depends on it.
 * It is bounded by age and by rows: pruned every minute, and sooner by the transaction that
 * writes more than a tenth of what it may hold.
 *
 * relationship says how the incoming change stands to what it met: concurrent,
 * if its origin had not seen that, else after. Delivery is causal, so "before" cannot be: what
 * is here never has the incoming change in its past. Two rows that clash in a unique value, and
 * a change that was skipped, may stand in any relation; of one key only concurrent ones are conflicts.
 *
 * Images are made as the table's owner: their types may bring casts to json that are anybody's
 * functions. Only the row of the history is written as the owner of the extension.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply_internal.h"
#include "rowimage.h"
#include "settings.h"

/* The history may exceed its limit by one in so many before it is pruned out of turn. */
#define PRUNE_FRACTION 10

/* What a side of a conflict was: a row (its image may be too large to be kept), or a delete. */
#define SIDE_ROW 'r'
#define SIDE_DELETE 'd'

/* Rows written since the history was last pruned. */
static int64 unpruned = 0;

static void image_of(const RpConflictRecord *record, TupleTableSlot *slot, bool key_only,
					 RpRowImage *image);
static const char *relationship_of(RpApplyTransaction *txn, const RpSlotVersion *local);
static void history_insert(const Datum *values, const char *nulls);
static void history_prune(void);
static void as_owner(const char *sql, SPIPlanPtr *plan, int ntypes, Oid *types,
					 const Datum *values, const char *nulls, int expected);

/* Columns of the row that is inserted, in the order of its statement. */
enum
{
	C_RELATION, C_TYPE, C_RESOLUTION, C_MESSAGE, C_KEY, C_KEY_IMAGE,
	C_LOCAL_ROW, C_LOCAL_IMAGE, C_LOCAL_SIDE, C_REMOTE_ROW, C_REMOTE_IMAGE, C_REMOTE_SIDE,
	C_APPLIED_ROW, C_LOSER, C_LOCAL_SLOT, C_LOCAL_SEQ, C_LOCAL_STAMP,
	C_REMOTE_SLOT, C_REMOTE_SEQ, C_REMOTE_STAMP, C_RELATIONSHIP, C_COUNT
};

/* Put an image into its two columns. */
static void
put_image(const RpRowImage *image, Datum *values, char *nulls, int json, int exact)
{
	values[json] = image->json;
	nulls[json] = image->present ? ' ' : 'n';
	if (exact < 0)
		return;
	values[exact] = image->exact;
	nulls[exact] = nulls[json];
}

/* Put a text, NULL for none. */
static void
put_text(const char *text, Datum *values, char *nulls, int column)
{
	nulls[column] = text == NULL ? 'n' : ' ';
	if (text != NULL)
		values[column] = CStringGetTextDatum(text);
}

void
rp_conflict_record(RpApplyTransaction *txn, const RpConflictRecord *record)
{
	const char *type = record->type ? record->type : p2p_conflict_name(record->conflict);
	const char *resolution = record->resolution ? record->resolution :
		record->incoming_wins ? "apply_remote" : "keep_local";
	Datum		values[C_COUNT] = {0};
	char		nulls[C_COUNT];
	RpRowImage		image;

	memset(nulls, ' ', sizeof(nulls));
	values[C_RELATION] = ObjectIdGetDatum(record->open->map->relid);
	put_text(type, values, nulls, C_TYPE);
	put_text(resolution, values, nulls, C_RESOLUTION);
	put_text(record->message, values, nulls, C_MESSAGE);
	image_of(record, record->key, true, &image);
	put_image(&image, values, nulls, C_KEY, C_KEY_IMAGE);
	image_of(record, record->local_row, false, &image);
	put_image(&image, values, nulls, C_LOCAL_ROW, C_LOCAL_IMAGE);
	values[C_LOCAL_SIDE] = CharGetDatum(record->local_row ? SIDE_ROW : SIDE_DELETE);
	image_of(record, record->remote_row, false, &image);
	put_image(&image, values, nulls, C_REMOTE_ROW, C_REMOTE_IMAGE);
	values[C_REMOTE_SIDE] = CharGetDatum(record->remote_row ? SIDE_ROW : SIDE_DELETE);
	image_of(record, record->applied_row, false, &image);
	put_image(&image, values, nulls, C_APPLIED_ROW, -1);
	if (record->none_lost)
		nulls[C_LOSER] = 'n';
	values[C_LOSER] = CharGetDatum(record->incoming_wins ? 'l' : 'r');

	values[C_LOCAL_SLOT] = Int16GetDatum((int16) record->local.slot);
	values[C_LOCAL_SEQ] = Int64GetDatum((int64) record->local.seq);
	values[C_LOCAL_STAMP] = Int64GetDatum(record->local.stamp);
	if (record->local.seq == 0)
		nulls[C_LOCAL_SLOT] = nulls[C_LOCAL_SEQ] = nulls[C_LOCAL_STAMP] = 'n';
	values[C_REMOTE_SLOT] = Int16GetDatum((int16) txn->slot_version.slot);
	values[C_REMOTE_SEQ] = Int64GetDatum((int64) txn->slot_version.seq);
	values[C_REMOTE_STAMP] = Int64GetDatum(txn->slot_version.stamp);
	put_text(relationship_of(txn, &record->local), values, nulls, C_RELATIONSHIP);

	history_insert(values, nulls);
	rp_conflict_count(txn->node, record->open->map->relid, type);
	txn->conflicts++;
	if (++unpruned > rp_conflict_history_rows / PRUNE_FRACTION)
		history_prune();
}

/*
 * The image of a row of the table, as the table's owner. Of an incoming row only what
 * came: columns that its origin lacks, and values that it did not send, are left out.
 */
static void
image_of(const RpConflictRecord *record, TupleTableSlot *slot, bool key_only, RpRowImage *image)
{
	RpOpenRelation *open = record->open;
	TupleDesc	desc = RelationGetDescr(open->rel);
	RpImageColumn *columns = palloc_array(RpImageColumn, Max(desc->natts, 1));
	bool	   *leave_out = palloc0_array(bool, Max(desc->natts, 1));
	Oid			save_user;
	int			save_sec;
	int			n;

	memset(image, 0, sizeof(*image));
	if (slot == NULL || TTS_EMPTY(slot))
		return;
	for (int a = 0; a < desc->natts; a++)
		leave_out[a] = key_only || (slot == open->incoming &&
									(!open->given[a] || open->unavailable[a]));
	for (int k = 0; key_only && k < open->map->nkeys; k++)
		leave_out[open->map->key_attnos[k]] = false;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(open->map->owner, save_sec | SECURITY_RESTRICTED_OPERATION);
	n = rp_image_columns(desc, slot, leave_out, columns);
	rp_image_make(columns, n, image);
	SetUserIdAndSecContext(save_user, save_sec);
}

/* How the incoming transaction stands to a version that is here. */
static const char *
relationship_of(RpApplyTransaction *txn, const RpSlotVersion *local)
{
	P2pDot		dot = {0};

	if (local->seq != 0)
	{
		dot.origin = txn->node->members[local->slot].origin;
		dot.seq = local->seq;
	}
	if (txn->deps == NULL)
		return "concurrent";
	return p2p_in_past(&dot, &txn->version.dot, txn->deps) ? "after" : "concurrent";
}

/* Write one row of the history. */
static void
history_insert(const Datum *values, const char *nulls)
{
	static const char *sql =
		"INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, message, key, key_image,"
		" local_row, local_image, local_side, remote_row, remote_image, remote_side, applied_row, loser,"
		" local_slot, local_seq, local_stamp, remote_slot, remote_seq, remote_stamp, relationship)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,"
		" $20, $21)";
	static SPIPlanPtr plan = NULL;
	Oid			types[C_COUNT] = {
		[C_RELATION] = OIDOID, [C_TYPE] = TEXTOID, [C_RESOLUTION] = TEXTOID, [C_MESSAGE] = TEXTOID,
		[C_KEY] = JSONBOID, [C_KEY_IMAGE] = TEXTARRAYOID,
		[C_LOCAL_ROW] = JSONBOID, [C_LOCAL_IMAGE] = TEXTARRAYOID, [C_LOCAL_SIDE] = CHAROID,
		[C_REMOTE_ROW] = JSONBOID, [C_REMOTE_IMAGE] = TEXTARRAYOID, [C_REMOTE_SIDE] = CHAROID,
		[C_APPLIED_ROW] = JSONBOID, [C_LOSER] = CHAROID,
		[C_LOCAL_SLOT] = INT2OID, [C_LOCAL_SEQ] = INT8OID, [C_LOCAL_STAMP] = INT8OID,
		[C_REMOTE_SLOT] = INT2OID, [C_REMOTE_SEQ] = INT8OID, [C_REMOTE_STAMP] = INT8OID,
		[C_RELATIONSHIP] = TEXTOID
	};

	as_owner(sql, &plan, C_COUNT, types, values, nulls, SPI_OK_INSERT);
}

/* Remove what is too old or too much, within the running transaction. */
static void
history_prune(void)
{
	static const char *by_age =
		"DELETE FROM replp2p.conflict_history"
		" WHERE detected_at < pg_catalog.now() - pg_catalog.make_interval(days => $1)";
	static const char *by_rows =
		"DELETE FROM replp2p.conflict_history"
		" WHERE id <= (SELECT pg_catalog.max(id) - $1 FROM replp2p.conflict_history)";
	static SPIPlanPtr age_plan = NULL;
	static SPIPlanPtr rows_plan = NULL;
	Oid			types[] = {INT4OID};
	Datum		days = Int32GetDatum(rp_conflict_history_days);
	Datum		rows = Int32GetDatum(rp_conflict_history_rows);

	as_owner(by_age, &age_plan, 1, types, &days, NULL, SPI_OK_DELETE);
	as_owner(by_rows, &rows_plan, 1, types, &rows, NULL, SPI_OK_DELETE);
	unpruned = 0;
}

/* Run a statement on our own table, planned once, as the extension's owner. */
static void
as_owner(const char *sql, SPIPlanPtr *plan, int ntypes, Oid *types,
		 const Datum *values, const char *nulls, int expected)
{
	Oid			save_user;
	int			save_sec;
	int			rc;

	GetUserIdAndSecContext(&save_user, &save_sec);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, save_sec & ~SECURITY_RESTRICTED_OPERATION);
	CommandCounterIncrement();	/* what this transaction has written before counts, too */
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (*plan == NULL)
	{
		*plan = SPI_prepare(sql, ntypes, types);
		if (*plan == NULL || SPI_keepplan(*plan) != 0)
			elog(ERROR, "replp2p: could not prepare \"%s\"", sql);
	}
	rc = SPI_execute_plan(*plan, unconstify(Datum *, values), nulls, false, 0);
	if (rc != expected)
		elog(ERROR, "replp2p: unexpected result %s of \"%s\"", SPI_result_code_string(rc), sql);
	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_user, save_sec);
}

void
rp_conflict_prune(void)
{
	RpNode	   *node = rp_node_required();

	rp_conflict_counts_open(node);
	history_prune();
	rp_conflict_counts_prune(node);
}
