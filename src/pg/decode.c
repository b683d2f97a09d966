/*
 * decode.c
 *	  The output plugin "replp2p": decoded changes become items of the body in
 *	  the making.
 *
 * The library is its own output plugin, so that capture decodes in its own
 * process; nobody else may use it. A transaction's callbacks run while
 * capture processes its commit record (two-phase decoding is not offered), so
 * capture->commit says whose changes they are. But those of a transaction that has
 * outgrown DECODING_MEMORY come in runs while it is still running, between stream_start
 * and stream_stop: what is written then goes to its spool (capture_spool.c).
 *
 * The callbacks run inside a transaction of the server's that will be aborted,
 * with a historic snapshot: they look up catalogs and write to capture's memory
 * (and, for transactions too large for it, append parts to the log, or to a spool), nothing
 * else. A transaction gets its seq and its stamp with its first replicated
 * change, a spooled one with its commit; one without any is none.
 *
 * If a running (sub)transaction is aborted while its changes are decoded, a look into the catalogs
 * may end in an ERROR, which the server catches: it calls stream_stop in the middle of
 * a change. What was not completed is forgotten, and so is a table that was being described.
 *
 *	  INSERT    the new row
 *	  UPDATE    the new row, all columns; the old key if it differs
 *	  DELETE    the old key
 *
 * If the table has counters (set_column_merge), the old key and the old values of
 * the counters always go with updates, and deletes: the difference is what was added.
 *
 * A TOAST value that an update left unchanged is taken from the old row if the
 * WAL has it there, else read by its pointer (decode_toast.c), else sent as
 * "unchanged".
 *
 * Updates and deletes of a table without a usable key are dropped and counted.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "replication/output_plugin.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "decode.h"
#include "monotonic.h"
#include "worker.h"

/* Items and tuples have at most so many bytes beside their values. */
#define ITEM_OVERHEAD 32
#define VALUE_OVERHEAD 16
/* Emptying the caches costs milliseconds: at most so often. */
#define CACHES_RESET_US INT64CONST(1000000)
/* In large transactions the postmaster is looked at every so many changes. */
#define CHANGES_PER_CHECK 1024

/* One row of a change, by attribute. */
typedef struct Row
{
	Datum	   *values;
	bool	   *nulls;
	bool	   *missing;		/* NULL: none is */
	bool		only_old;		/* columns other than key and counters are left out */
} Row;

static RpCapture *attached = NULL;
/* Whose change is being written, in a run of a transaction that is not at its end. */
static TransactionId subtransaction;

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *callbacks);

static void plugin_startup(LogicalDecodingContext *ctx, OutputPluginOptions *options, bool is_init);
static void plugin_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
static void plugin_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation relation,
						  ReorderBufferChange *change);
static void plugin_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations,
							Relation relations[], ReorderBufferChange *change);
static void plugin_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn);
static bool plugin_filter_by_origin(LogicalDecodingContext *ctx, RepOriginId origin);

static void plugin_stream_start(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
static void plugin_stream_stop(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
static void plugin_stream_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
								 Relation relation, ReorderBufferChange *change);
static void plugin_stream_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
								   int nrelations, Relation relations[],
								   ReorderBufferChange *change);
static void plugin_stream_abort(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn);
static void plugin_stream_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
								 XLogRecPtr lsn);

static void commit_check(const RpCapture *capture, const ReorderBufferTXN *txn);
static void catalogs_look(RpCapture *capture, const ReorderBufferTXN *txn);
static void change_begin(RpCapture *capture);
static void change_end(RpCapture *capture, int64 rows);
static void put_insert(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc,
					   ReorderBufferChange *change);
static void put_update(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc,
					   ReorderBufferChange *change);
static void put_delete(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc,
					   ReorderBufferChange *change);
static void describe(RpCapture *capture, RpDecodeRelation *entry);
static void resolve_toast(RpCapture *capture, RpDecodeRelation *entry, bool has_old);
static bool key_differs(RpDecodeRelation *entry);
static void put_row(RpCapture *capture, RpDecodeRelation *entry, const Row *row);
static void put_value(RpCapture *capture, RpDecodeColumn *column, Datum datum);

/* Hand the plugin's callbacks to the server. */
void
_PG_output_plugin_init(OutputPluginCallbacks *callbacks)
{
	callbacks->startup_cb = plugin_startup;
	callbacks->begin_cb = plugin_begin;
	callbacks->change_cb = plugin_change;
	callbacks->truncate_cb = plugin_truncate;
	callbacks->commit_cb = plugin_commit;
	callbacks->filter_by_origin_cb = plugin_filter_by_origin;
	callbacks->stream_start_cb = plugin_stream_start;
	callbacks->stream_stop_cb = plugin_stream_stop;
	callbacks->stream_change_cb = plugin_stream_change;
	callbacks->stream_truncate_cb = plugin_stream_truncate;
	callbacks->stream_abort_cb = plugin_stream_abort;
	callbacks->stream_commit_cb = plugin_stream_commit;
}

/* Let the plugin in this process write to capture. */
void
rp_decode_attach(RpCapture *capture)
{
	attached = capture;
}

/* Refuse everybody but our capture worker. */
static void
plugin_startup(LogicalDecodingContext *ctx, OutputPluginOptions *options, bool is_init)
{
	(void) is_init;
	if (attached == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("output plugin \"%s\" serves its own capture worker only", RP_PLUGIN_NAME),
				 errhint("Use another output plugin, such as pgoutput, to decode changes yourself.")));
	ctx->output_plugin_private = attached;
	options->output_type = OUTPUT_PLUGIN_BINARY_OUTPUT;
	options->receive_rewrites = false;
}

/* A transaction's changes follow. */
static void
plugin_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	RpCapture  *capture = ctx->output_plugin_private;

	commit_check(capture, txn);
	catalogs_look(capture, txn);
	if (capture->commit.changes_catalogs || rbtxn_has_catalog_changes(txn) ||
		!rp_capture_is_small(txn))
		capture->repeatable = false;
}

/* Make sure that these are the changes of the commit record under the reader. */
static void
commit_check(const RpCapture *capture, const ReorderBufferTXN *txn)
{
	if (!capture->commit.known || capture->commit.xid != txn->xid || capture->tx.open)
		elog(ERROR, "decoding transaction %u, which is not at its commit record", txn->xid);
}

/*
 * Will whoever decodes this transaction again see the catalogs as it sees them now? Not for sure if
 * they changed while it ran, and no lock kept that from its tables (a schema or a type was
 * renamed): then the server's caches may hold something newer than its snapshot, and something older
 * afterwards, until they are emptied.
 */
static void
catalogs_look(RpCapture *capture, const ReorderBufferTXN *txn)
{
	bool		older = txn->first_lsn < capture->catalogs_lsn;

	if (capture->caches_doubtful &&
		rp_monotonic_us() - capture->caches_reset_us >= CACHES_RESET_US)
	{
		InvalidateSystemCaches();
		capture->caches_reset_us = rp_monotonic_us();
		capture->caches_doubtful = false;
	}
	if (older || capture->caches_doubtful)
		capture->repeatable = false;
	capture->caches_doubtful |= older;
}

/* Write one row change. */
static void
plugin_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation relation,
			  ReorderBufferChange *change)
{
	RpCapture  *capture = ctx->output_plugin_private;
	static uint64 changes = 0;
	RpDecodeRelation *entry;
	MemoryContext old = MemoryContextSwitchTo(capture->change_memory);

	(void) txn;
	entry = rp_decode_relation(relation);
	if (entry->is_rule)
		rp_decode_rules_changed();
	if (entry->replicated)
	{
		switch (change->action)
		{
			case REORDER_BUFFER_CHANGE_INSERT:
				put_insert(capture, entry, RelationGetDescr(relation), change);
				break;
			case REORDER_BUFFER_CHANGE_UPDATE:
				put_update(capture, entry, RelationGetDescr(relation), change);
				break;
			case REORDER_BUFFER_CHANGE_DELETE:
				put_delete(capture, entry, RelationGetDescr(relation), change);
				break;
			default:
				elog(ERROR, "unexpected change %d", (int) change->action);
		}
		if (++changes % CHANGES_PER_CHECK == 0 && !PostmasterIsAlive())
			proc_exit(1);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(capture->change_memory);
}

/* Write a TRUNCATE of those of its tables that are replicated. */
static void
plugin_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations,
				Relation relations[], ReorderBufferChange *change)
{
	RpCapture  *capture = ctx->output_plugin_private;
	MemoryContext old = MemoryContextSwitchTo(capture->change_memory);
	uint32	   *relnos = palloc(P2P_MAX_TRUNCATED * sizeof(uint32));
	uint8		flags = 0;
	int			i = 0;

	(void) txn;
	if (change->data.truncate.cascade)
		flags |= P2P_TRUNCATE_CASCADE;
	if (change->data.truncate.restart_seqs)
		flags |= P2P_TRUNCATE_RESTART_SEQS;

	/* More tables than an item holds go in several items. */
	while (i < nrelations)
	{
		uint32		n = 0;

		for (; i < nrelations && n < P2P_MAX_TRUNCATED; i++)
		{
			RpDecodeRelation *entry = rp_decode_relation(relations[i]);

			if (entry->is_rule)
				rp_decode_rules_changed();
			if (!entry->replicated)
				continue;
			if (n == 0)
				change_begin(capture);
			describe(capture, entry);
			relnos[n++] = entry->relno;
		}
		if (n == 0)
			break;
		rp_body_reserve(capture, ITEM_OVERHEAD + (size_t) n * 5);
		p2p_body_put_truncate(&capture->out->writer, flags, relnos, n);
		change_end(capture, n);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(capture->change_memory);
}

/* End the transaction, if anything of it was replicated. */
static void
plugin_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn)
{
	RpCapture  *capture = ctx->output_plugin_private;

	(void) txn;
	(void) lsn;
	if (capture->tx.open)
		rp_transaction_commit(capture);
}

/* A run of changes of a transaction that is not at its end begins. */
static void
plugin_stream_start(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	catalogs_look(ctx->output_plugin_private, txn);
	rp_spool_start(ctx->output_plugin_private, txn->xid);
}

/* The run ends, if need be in the middle of a change. */
static void
plugin_stream_stop(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	(void) txn;
	rp_spool_stop(ctx->output_plugin_private);
	rp_decode_relation_check();
}

/* Write one row change, of a subtransaction perhaps. */
static void
plugin_stream_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation relation,
					 ReorderBufferChange *change)
{
	subtransaction = change->txn->xid;
	plugin_change(ctx, txn, relation, change);
}

/* Write a TRUNCATE, of a subtransaction perhaps. */
static void
plugin_stream_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations,
					   Relation relations[], ReorderBufferChange *change)
{
	subtransaction = change->txn->xid;
	plugin_truncate(ctx, txn, nrelations, relations, change);
}

/* A transaction is aborted, or a subtransaction of one that goes on. */
static void
plugin_stream_abort(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn)
{
	(void) lsn;
	rp_spool_abort(ctx->output_plugin_private,
				   txn->toptxn != NULL ? txn->toptxn->xid : txn->xid, txn->xid);
}

/* All of it has been decoded, and it has committed. */
static void
plugin_stream_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn)
{
	(void) lsn;
	commit_check(ctx->output_plugin_private, txn);
	rp_spool_commit(ctx->output_plugin_private, txn->xid);
}

/* Before each replicated change: begin a transaction, or a part, or a chunk. */
static void
change_begin(RpCapture *capture)
{
	if (capture->spool != NULL)
		rp_spool_change(capture, subtransaction);
	else
		rp_transaction_change(capture);
}

/* A change is complete. */
static void
change_end(RpCapture *capture, int64 rows)
{
	if (capture->spool != NULL)
		rp_spool_changed(capture, rows);
	else
		capture->tx.changes += rows;
}

/* Leave out what apply and joins write: others have it from its origin. */
static bool
plugin_filter_by_origin(LogicalDecodingContext *ctx, RepOriginId origin)
{
	RpCapture  *capture = ctx->output_plugin_private;

	if (origin == InvalidRepOriginId)
		return false;
	return origin == RP_COPY_ORIGIN || rp_capture_origin_slot(capture, origin) >= 0;
}

/* Write an insert. */
static void
put_insert(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc, ReorderBufferChange *change)
{
	Row			row = {entry->new_values, entry->new_nulls, entry->new_missing, false};

	heap_deform_tuple(&change->data.tp.newtuple->tuple, desc, entry->new_values, entry->new_nulls);
	resolve_toast(capture, entry, false);

	change_begin(capture);
	describe(capture, entry);
	rp_body_reserve(capture, ITEM_OVERHEAD);
	p2p_body_put_insert(&capture->out->writer, entry->relno);
	put_row(capture, entry, &row);
	change_end(capture, 1);
}

/* Write an update: the old key only if the row has moved to another, or old values are wanted. */
static void
put_update(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc, ReorderBufferChange *change)
{
	Row			new_row = {entry->new_values, entry->new_nulls, entry->new_missing, false};
	Row			old_row = {entry->old_values, entry->old_nulls, NULL, true};
	ReorderBufferTupleBuf *old_tuple = change->data.tp.oldtuple;
	bool		send_old;

	if (!entry->has_key)
	{
		pg_atomic_fetch_add_u64(&capture->node->stats.skipped_changes, 1);
		return;
	}
	heap_deform_tuple(&change->data.tp.newtuple->tuple, desc, entry->new_values, entry->new_nulls);
	if (old_tuple != NULL)
		heap_deform_tuple(&old_tuple->tuple, desc, entry->old_values, entry->old_nulls);
	resolve_toast(capture, entry, old_tuple != NULL);
	send_old = old_tuple != NULL && (entry->has_counters || key_differs(entry));

	change_begin(capture);
	describe(capture, entry);
	rp_body_reserve(capture, ITEM_OVERHEAD);
	p2p_body_put_update(&capture->out->writer, entry->relno, send_old);
	if (send_old)
		put_row(capture, entry, &old_row);
	put_row(capture, entry, &new_row);
	change_end(capture, 1);
}

/* Write a delete. */
static void
put_delete(RpCapture *capture, RpDecodeRelation *entry, TupleDesc desc, ReorderBufferChange *change)
{
	Row			row = {entry->old_values, entry->old_nulls, NULL, true};

	if (!entry->has_key || change->data.tp.oldtuple == NULL)
	{
		pg_atomic_fetch_add_u64(&capture->node->stats.skipped_changes, 1);
		return;
	}
	heap_deform_tuple(&change->data.tp.oldtuple->tuple, desc, entry->old_values, entry->old_nulls);

	change_begin(capture);
	describe(capture, entry);
	rp_body_reserve(capture, ITEM_OVERHEAD);
	p2p_body_put_delete(&capture->out->writer, entry->relno);
	put_row(capture, entry, &row);
	change_end(capture, 1);
}

/* Make sure that the body describes the table. */
static void
describe(RpCapture *capture, RpDecodeRelation *entry)
{
	if (entry->body == capture->out->number)
		return;
	entry->relno = rp_body_describe(capture, &entry->description, entry->description_size);
	entry->body = capture->out->number;
}

/*
 * Replace pointers to TOAST values that are not in the WAL by the values, or
 * mark them as missing. The old row has a value if it is complete, or for its key. A lock on
 * the TOAST table is waited for, but not for a spool: who still runs may hold it till after us.
 */
static void
resolve_toast(RpCapture *capture, RpDecodeRelation *entry, bool has_old)
{
	bool		patient = capture->spool == NULL;

	for (uint32 i = 0; i < entry->description.ncolumns; i++)
	{
		RpDecodeColumn *column = &entry->columns[i];
		int			attno = column->attno;
		struct varlena *value;

		entry->new_missing[attno] = false;
		if (column->length != -1 || entry->new_nulls[attno])
			continue;
		value = (struct varlena *) DatumGetPointer(entry->new_values[attno]);
		if (!VARATT_IS_EXTERNAL_ONDISK(value))
			continue;

		if (has_old && (entry->full || column->key) && !entry->old_nulls[attno] &&
			!VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(entry->old_values[attno])))
		{
			entry->new_values[attno] = entry->old_values[attno];
			continue;
		}
		capture->repeatable = false;	/* the chunks may be gone the next time */
		value = rp_decode_toast_fetch(value, patient);
		if (value != NULL)
			entry->new_values[attno] = PointerGetDatum(value);
		else
			entry->new_missing[attno] = true;
	}
}

/* Is the key of the old row another than that of the new? */
static bool
key_differs(RpDecodeRelation *entry)
{
	for (uint32 i = 0; i < entry->description.ncolumns; i++)
	{
		RpDecodeColumn *column = &entry->columns[i];
		int			attno = column->attno;

		if (!column->key || entry->new_missing[attno])
			continue;
		if (entry->old_nulls[attno] != entry->new_nulls[attno])
			return true;
		if (!entry->new_nulls[attno] &&
			!datum_image_eq(entry->old_values[attno], entry->new_values[attno],
							column->byval, column->length))
			return true;
	}
	return false;
}

/* Write the columns of one row. */
static void
put_row(RpCapture *capture, RpDecodeRelation *entry, const Row *row)
{
	for (uint32 i = 0; i < entry->description.ncolumns; i++)
	{
		RpDecodeColumn *column = &entry->columns[i];
		P2pValue	value = {0};

		if (row->only_old && !column->key && !column->counter)
			value.kind = P2P_VALUE_ABSENT;
		else if (row->nulls[column->attno])
			value.kind = P2P_VALUE_NULL;
		else if (row->missing != NULL && row->missing[column->attno])
			value.kind = P2P_VALUE_UNCHANGED;
		else
		{
			put_value(capture, column, row->values[column->attno]);
			continue;
		}
		rp_body_reserve(capture, VALUE_OVERHEAD);
		p2p_body_put_value(&capture->out->writer, &value);
	}
}

/* Write one value that is there. */
static void
put_value(RpCapture *capture, RpDecodeColumn *column, Datum datum)
{
	P2pValue	value = {P2P_VALUE_BINARY, NULL, 0};
	uint64		fixed;
	struct varlena *bytes;

	switch (column->form)
	{
		case RP_FORM_FIXED:
			/* big-endian, so the last bytes of eight are the value of a shorter one */
			fixed = pg_hton64((uint64) datum);
			value.data = (const uint8_t *) &fixed + sizeof(fixed) - column->length;
			value.length = column->length;
			break;
		case RP_FORM_RAW:
			value.data = (const uint8_t *) DatumGetPointer(datum);
			value.length = column->length;
			break;
		case RP_FORM_BYTES:
			bytes = PG_DETOAST_DATUM_PACKED(datum);
			value.data = (const uint8_t *) VARDATA_ANY(bytes);
			value.length = VARSIZE_ANY_EXHDR(bytes);
			break;
		case RP_FORM_SEND:
			bytes = SendFunctionCall(&column->function, datum);
			value.data = (const uint8_t *) VARDATA(bytes);
			value.length = VARSIZE(bytes) - VARHDRSZ;
			break;
		case RP_FORM_TEXT:
			capture->repeatable = false;	/* settings and catalogs of the moment are in it */
			value.kind = P2P_VALUE_TEXT;
			value.data = (const uint8_t *) OutputFunctionCall(&column->function, datum);
			value.length = strlen((const char *) value.data);
			break;
	}
	rp_body_reserve(capture, VALUE_OVERHEAD + value.length);
	p2p_body_put_value(&capture->out->writer, &value);
}
