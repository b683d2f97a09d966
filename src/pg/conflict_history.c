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

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "apply_internal.h"
#include "catalog.h"
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
static void history_insert(const RpArg *args);
static void history_prune(void);

/* Columns of the row that is inserted, in the order of its statement. */
enum
{
	C_RELATION, C_TYPE, C_RESOLUTION, C_MESSAGE, C_KEY, C_KEY_IMAGE,
	C_LOCAL_ROW, C_LOCAL_IMAGE, C_LOCAL_SIDE, C_REMOTE_ROW, C_REMOTE_IMAGE, C_REMOTE_SIDE,
	C_APPLIED_ROW, C_LOSER, C_LOCAL_SLOT, C_LOCAL_SEQ, C_LOCAL_STAMP,
	C_REMOTE_SLOT, C_REMOTE_SEQ, C_REMOTE_STAMP, C_RELATIONSHIP, C_COUNT
};

/* Put an image into its two columns; into one, if there is none for exact. */
static void
put_image(const RpRowImage *image, RpArg *args, int json, int exact)
{
	args[json] = (RpArg) {JSONBOID, image->json, !image->present};
	if (exact >= 0)
		args[exact] = (RpArg) {TEXTARRAYOID, image->exact, !image->present};
}

/* Put a version into its three columns, or NULL. */
static void
put_version(const RpSlotVersion *version, bool none, RpArg *args, int slot)
{
	args[slot] = (RpArg) {INT2OID, Int16GetDatum((int16) version->slot), none};
	args[slot + 1] = (RpArg) {INT8OID, Int64GetDatum((int64) version->seq), none};
	args[slot + 2] = (RpArg) {INT8OID, Int64GetDatum(version->stamp), none};
}

void
rp_conflict_record(RpApplyTransaction *txn, const RpConflictRecord *record)
{
	const char *type = record->type ? record->type : p2p_conflict_name(record->conflict);
	const char *resolution = record->resolution ? record->resolution :
		record->incoming_wins ? "apply_remote" : "keep_local";
	RpArg		args[C_COUNT];
	RpRowImage	image;

	args[C_RELATION] = rp_arg_oid(record->open->map->relid);
	args[C_TYPE] = rp_arg_text(type);
	args[C_RESOLUTION] = rp_arg_text(resolution);
	args[C_MESSAGE] = rp_arg_text(record->message);
	image_of(record, record->key, true, &image);
	put_image(&image, args, C_KEY, C_KEY_IMAGE);
	image_of(record, record->local_row, false, &image);
	put_image(&image, args, C_LOCAL_ROW, C_LOCAL_IMAGE);
	args[C_LOCAL_SIDE] = rp_arg_char(record->local_row ? SIDE_ROW : SIDE_DELETE);
	image_of(record, record->remote_row, false, &image);
	put_image(&image, args, C_REMOTE_ROW, C_REMOTE_IMAGE);
	args[C_REMOTE_SIDE] = rp_arg_char(record->remote_row ? SIDE_ROW : SIDE_DELETE);
	image_of(record, record->applied_row, false, &image);
	put_image(&image, args, C_APPLIED_ROW, -1);
	args[C_LOSER] = rp_arg_char(record->incoming_wins ? 'l' : 'r');
	args[C_LOSER].isnull = record->none_lost;
	put_version(&record->local, record->local.seq == 0, args, C_LOCAL_SLOT);
	put_version(&txn->slot_version, false, args, C_REMOTE_SLOT);
	args[C_RELATIONSHIP] = rp_arg_text(relationship_of(txn, &record->local));

	history_insert(args);
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
history_insert(const RpArg *args)
{
	static RpStatement insert = {
		"INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, message, key, key_image,"
		" local_row, local_image, local_side, remote_row, remote_image, remote_side, applied_row, loser,"
		" local_slot, local_seq, local_stamp, remote_slot, remote_seq, remote_stamp, relationship)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,"
		" $20, $21)",
		SPI_OK_INSERT
	};

	rp_statement_execute(&insert, args, C_COUNT);
}

/* Remove what is too old or too much, within the running transaction. */
static void
history_prune(void)
{
	RpArg		days[] = {rp_arg_int4(rp_conflict_history_days)};
	RpArg		rows[] = {rp_arg_int4(rp_conflict_history_rows)};
	RpCatalog	catalog;

	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.conflict_history"
				   " WHERE detected_at < pg_catalog.now() - pg_catalog.make_interval(days => $1)",
				   SPI_OK_DELETE, days, lengthof(days));
	rp_catalog_run("DELETE FROM replp2p.conflict_history"
				   " WHERE id <= (SELECT pg_catalog.max(id) - $1 FROM replp2p.conflict_history)",
				   SPI_OK_DELETE, rows, lengthof(rows));
	rp_catalog_close(&catalog);
	unpruned = 0;
}

void
rp_conflict_prune(void)
{
	RpNode	   *node = rp_node_required();

	rp_conflict_counts_open(node);
	history_prune();
	rp_conflict_counts_prune(node);
}
