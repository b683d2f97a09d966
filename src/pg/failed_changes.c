/*
 * failed_changes.c
 *	  Transactions that apply cannot get past: what failed, why, and since when;
 *	  and what an operator has decided to leave out of them.
 *
 * Transactions of an origin are applied in their order, so that at most its next one is
 * blocked: one line an origin in replp2p.failed_transactions. Apply alone writes it, and
 * the line goes in the very transaction that gets past. Other origins flow meanwhile, as far
 * as they don't depend on what is blocked. Deadlocks and the like are tried again at once, and
 * listed only if they go on.
 *
 *	  a change fails
 *		-> rp_failure_note    copies what the log says of it and of the error
 *		-> the transaction is aborted, the stream reset
 *		-> rp_failure_store   renders the row and writes the line, in transactions of their own
 *		   ... retried, with growing delay, or at once by retry_failed()
 *		-> rp_failure_end     it went through: the line is deleted
 *
 * skip_failed() copies the line to replp2p.skipped_changes: that one change, by its number
 * in the transaction, is not applied here from then on, and kept in the conflict history
 * instead (as "skipped"; revert_conflict() writes it after all). Users only insert there and only read
 * the line, so that apply never waits for somebody's open transaction.
 *
 * The row is rendered by the origin's description: there may be no such table here, or no
 * such column, and that may be just what is wrong. Types are looked up by name; where that
 * fails, too, bytes are shown as they are. Code of types (domains' checks, casts to json) runs as the
 * owner of the table; where there is no table, only types of the server itself are read.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "apply_internal.h"
#include "catalog.h"
#include "conflict_counts.h"
#include "ownlog.h"
#include "rowimage.h"

/* What may go away by itself is listed when it has failed so often in a row. */
#define TRANSIENT_ATTEMPTS 3
/* Of one transaction; more are read in its next try. */
#define MAX_SKIPS 100000

struct RpFailure
{
	uint64		seq;
	P2pStamp	stamp;			/* 0: not known */
	uint64		change;			/* 0: no single change */
	P2pTag		tag;
	char		schema[P2P_NAME_SIZE];
	char		table[P2P_NAME_SIZE];
	Datum		more_tables;	/* text[], of a TRUNCATE */
	uint32		ncolumns;
	P2pColumn  *columns;
	P2pValue   *old_values;		/* NULL: none, or too large to be shown */
	P2pValue   *new_values;
	const ErrorData *error;
};

/* What becomes of a row: exact only if its types could read it. */
typedef struct Rendered
{
	RpRowImage	row;
	RpRowImage	key;
	bool		exact;
} Rendered;

/* Per slot: has it a line or skips in the tables? Read from them once. */
static bool known = false;
static bool blocked[RP_MAX_MEMBERS];
/* Per slot: tries that failed since the last one that did not. */
static int	failures[RP_MAX_MEMBERS];

/* The skipped changes of the transaction at hand, or just applied. */
static struct
{
	RpNode	   *node;
	int			slot;
	uint64		seq;
	int			n;
	uint64	   *changes;		/* of TopMemoryContext */
}			skipped;

static Datum names_of_more(RpStream *stream);
static void skipped_note(RpApplyTransaction *txn, const uint64 *changes, int n);
static void skipped_index(void);
static P2pValue *values_copy(const P2pValue *values, uint32 n);
static bool is_transient(const ErrorData *error);
static bool render(const RpFailure *failure, bool typed, Rendered *out);
static void render_in_transaction(const RpFailure *failure, bool typed, MemoryContext memory,
								  Rendered *out);
static void image_of(const RpFailure *failure, const P2pValue *values, bool key_only, bool any_type,
					 Rendered *rendered, RpRowImage *image);
static Oid	type_of(const char *name);
static void column_typed(const P2pValue *value, RpImageColumn *out);
static void column_raw(const P2pValue *value, RpImageColumn *out);
static Oid	owner_of(Oid table);
static void line_write(int slot, const RpFailure *failure, const Rendered *rendered);
static const char *operation_name(P2pTag tag);
static void blocked_load(void);

RpFailure *
rp_failure_note(RpStream *stream, uint64 seq, const ErrorData *error)
{
	RpFailure  *failure = palloc0_object(RpFailure);
	RpStreamChange change;

	failure->seq = seq;
	failure->stamp = rp_stream_stamp(stream);
	failure->error = error;
	if (!rp_stream_change(stream, &change))
		return failure;
	failure->change = change.change;
	failure->tag = change.tag;
	strlcpy(failure->schema, change.relation->schema, P2P_NAME_SIZE);
	strlcpy(failure->table, change.relation->name, P2P_NAME_SIZE);
	if (change.tag == P2P_TAG_TRUNCATE)
	{
		failure->more_tables = names_of_more(stream);
		return failure;
	}
	failure->ncolumns = change.relation->ncolumns;
	failure->columns = palloc_array(P2pColumn, Max(failure->ncolumns, 1));
	memcpy(failure->columns, change.relation->columns, sizeof(P2pColumn) * failure->ncolumns);
	failure->old_values = values_copy(change.old_values, failure->ncolumns);
	failure->new_values = values_copy(change.new_values, failure->ncolumns);
	return failure;
}

/* The tables of a TRUNCATE but the first, as text[]. */
static Datum
names_of_more(RpStream *stream)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	const P2pRelation *relation;

	for (uint32 i = 1; (relation = rp_stream_truncated(stream, i)) != NULL; i++)
	{
		char	   *name = quote_qualified_identifier(relation->schema, relation->name);

		(void) accumArrayResult(names, CStringGetTextDatum(name), false, TEXTOID,
								CurrentMemoryContext);
	}
	return makeArrayResult(names, CurrentMemoryContext);
}

/* Copy values and what they point to; NULL if there are none, or too many bytes. */
static P2pValue *
values_copy(const P2pValue *values, uint32 n)
{
	P2pValue   *copy;
	Size		size = 0;

	if (values == NULL)
		return NULL;
	for (uint32 i = 0; i < n; i++)
		size += values[i].length;
	if (size > RP_MAX_IMAGE_BYTES)
		return NULL;
	copy = palloc_array(P2pValue, Max(n, 1));
	for (uint32 i = 0; i < n; i++)
	{
		uint8	   *data = palloc(values[i].length + 1);

		copy[i] = values[i];
		if (values[i].length > 0)
			memcpy(data, values[i].data, values[i].length);
		copy[i].data = data;
	}
	return copy;
}

void
rp_failure_store(int slot, const RpFailure *failure)
{
	MemoryContext memory = CurrentMemoryContext;
	Rendered	rendered = {0};

	if (++failures[slot] < TRANSIENT_ATTEMPTS && is_transient(failure->error))
		return;
	if (!render(failure, true, &rendered))
		(void) render(failure, false, &rendered);
	PG_TRY();
	{
		StartTransactionCommand();
		line_write(slot, failure, &rendered);
		CommitTransactionCommand();
		blocked[slot] = true;
	}
	PG_CATCH();
	{
		/* the origin is tried again anyway, and stat_lag says why it waits */
		MemoryContextSwitchTo(memory);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
}

/* May the next try succeed with nobody doing anything? */
static bool
is_transient(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE);
}

/* Make images of what failed, in a transaction of its own; false: its types cannot read it. */
static bool
render(const RpFailure *failure, bool typed, Rendered *out)
{
	MemoryContext memory = CurrentMemoryContext;
	volatile bool done = false;

	memset(out, 0, sizeof(*out));
	PG_TRY();
	{
		render_in_transaction(failure, typed, memory, out);
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		FlushErrorState();
		AbortCurrentTransaction();
		memset(out, 0, sizeof(*out));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	return done;
}

/* The same, where an error may come out of it; what is made is of memory. */
static void
render_in_transaction(const RpFailure *failure, bool typed, MemoryContext memory, Rendered *out)
{
	Oid			save_user;
	int			save_sec;
	Oid			table;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(memory);
	table = rp_table_of(failure->schema, failure->table);
	out->exact = typed;
	GetUserIdAndSecContext(&save_user, &save_sec);
	if (OidIsValid(table))
		SetUserIdAndSecContext(owner_of(table), save_sec | SECURITY_RESTRICTED_OPERATION);
	image_of(failure, failure->new_values, false, OidIsValid(table), out, &out->row);
	image_of(failure, failure->old_values ? failure->old_values : failure->new_values, true,
			 OidIsValid(table), out, &out->key);
	SetUserIdAndSecContext(save_user, save_sec);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Make the image of values of the origin's columns: those that were sent, or its key alone.
 * Where no owner has lent his name (there is no such table) types of users are not trusted.
 */
static void
image_of(const RpFailure *failure, const P2pValue *values, bool key_only, bool any_type,
		 Rendered *rendered, RpRowImage *image)
{
	RpImageColumn *columns = palloc_array(RpImageColumn, Max(failure->ncolumns, 1));
	int			n = 0;

	if (values == NULL)
		return;
	for (uint32 i = 0; i < failure->ncolumns; i++)
	{
		const P2pColumn *column = &failure->columns[i];
		RpImageColumn *out = &columns[n];

		if (values[i].kind == P2P_VALUE_ABSENT || values[i].kind == P2P_VALUE_UNCHANGED ||
			(key_only && (column->flags & P2P_COLUMN_KEY) == 0))
			continue;
		out->name = column->name;
		out->type = type_of(column->type);
		if (!OidIsValid(out->type) || (!any_type && out->type >= FirstNormalObjectId))
			rendered->exact = false;
		if (rendered->exact)
			column_typed(&values[i], out);
		else
			column_raw(&values[i], out);
		n++;
	}
	if (n > 0)
		rp_image_make(columns, n, image);
}

/* The type of that name here, or InvalidOid. */
static Oid
type_of(const char *name)
{
	LOCAL_FCINFO(call, 1);
	Datum		type;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = CStringGetTextDatum(name);
	call->args[0].isnull = false;
	type = to_regtype(call);
	return call->isnull ? InvalidOid : DatumGetObjectId(type);
}

/* Read a value by its type. */
static void
column_typed(const P2pValue *value, RpImageColumn *out)
{
	Oid			type = getBaseType(out->type);
	Oid			function;
	Oid			param;
	StringInfoData bytes;

	out->isnull = value->kind == P2P_VALUE_NULL;
	if (out->isnull)
		return;
	if (value->kind == P2P_VALUE_TEXT)
	{
		getTypeInputInfo(type, &function, &param);
		out->value = OidInputFunctionCall(function, pnstrdup((const char *) value->data, value->length),
										  param, -1);
		return;
	}
	initStringInfo(&bytes);
	appendBinaryStringInfo(&bytes, (const char *) value->data, value->length);
	getTypeBinaryInputInfo(type, &function, &param);
	out->value = OidReceiveFunctionCall(function, &bytes, param, -1);
}

/* Take a value's text, or its bytes in hexadecimal digits. */
static void
column_raw(const P2pValue *value, RpImageColumn *out)
{
	out->isnull = value->kind == P2P_VALUE_NULL;
	if (out->isnull)
		return;
	if (value->kind == P2P_VALUE_TEXT)
	{
		out->type = TEXTOID;
		out->value = PointerGetDatum(cstring_to_text_with_len((const char *) value->data,
															  value->length));
		return;
	}
	out->type = BYTEAOID;
	out->value = rp_arg_bytes(value->data, value->length).value;
}

/* The owner of a table. */
static Oid
owner_of(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u was dropped meanwhile", table),
				 errhint("It is tried again by itself.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* An image as arguments. */
static RpArg
arg_json(const RpRowImage *image)
{
	return (RpArg) {JSONBOID, image->json, !image->present};
}

static RpArg
arg_exact(const RpRowImage *image, bool exact)
{
	return (RpArg) {TEXTARRAYOID, image->exact, !image->present || !exact};
}

/* Write the line of an origin: a new one, or what is new of it. */
static void
line_write(int slot, const RpFailure *failure, const Rendered *rendered)
{
	const ErrorData *error = failure->error;
	bool		single = failure->change != 0;
	RpCatalog	catalog;
	RpArg		args[] = {
		rp_arg_int4(slot),
		rp_arg_int8((int64) failure->seq),
		{INT8OID, Int64GetDatum((int64) failure->change), !single},
		rp_arg_name(single ? failure->schema : NULL),
		rp_arg_name(single ? failure->table : NULL),
		rp_arg_text(single ? operation_name(failure->tag) : NULL),
		arg_json(&rendered->key),
		arg_exact(&rendered->key, rendered->exact),
		arg_json(&rendered->row),
		arg_exact(&rendered->row, rendered->exact),
		rp_arg_text(error->message ? error->message : "unknown error"),
		rp_arg_text(error->detail),
		rp_arg_text(error->hint),
		rp_arg_text(unpack_sql_state(error->sqlerrcode)),
		rp_arg_int8(failures[slot]),
		{INT8OID, Int64GetDatum(failure->stamp), failure->stamp == 0},
		{TEXTARRAYOID, failure->more_tables, failure->more_tables == (Datum) 0},
	};

	rp_catalog_open(&catalog);
	/* a line stands for one change: who skips by its id must not hit another */
	rp_catalog_run("DELETE FROM replp2p.failed_transactions"
				   " WHERE slot = $1 AND (seq <> $2 OR change IS DISTINCT FROM $3)",
				   SPI_OK_DELETE, args, 3);
	if (rp_catalog_run("UPDATE replp2p.failed_transactions SET change = $3, schema_name = $4, table_name = $5,"
					   " operation = $6, key = $7, key_image = $8, remote_row = $9, remote_image = $10,"
					   " error_message = $11, error_detail = $12, error_hint = $13, sqlstate = $14,"
					   " attempts = greatest(attempts + 1, $15), stamp = $16, more_tables = $17,"
					   " last_attempt = clock_timestamp()"
					   " WHERE slot = $1 AND seq = $2",
					   SPI_OK_UPDATE, args, lengthof(args)) == 0)
		rp_catalog_run("INSERT INTO replp2p.failed_transactions (slot, seq, change, schema_name, table_name,"
					   " operation, key, key_image, remote_row, remote_image, error_message, error_detail,"
					   " error_hint, sqlstate, attempts, stamp, more_tables)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
					   SPI_OK_INSERT, args, lengthof(args));
	rp_catalog_close(&catalog);
}

/* What a change does, in a word. */
static const char *
operation_name(P2pTag tag)
{
	switch (tag)
	{
		case P2P_TAG_INSERT:
			return "INSERT";
		case P2P_TAG_UPDATE:
			return "UPDATE";
		case P2P_TAG_DELETE:
			return "DELETE";
		case P2P_TAG_TRUNCATE:
			return "TRUNCATE";
		case P2P_TAG_RELATION:
		case P2P_TAG_BEGIN:
		case P2P_TAG_COMMIT:
			break;
	}
	return NULL;
}

/* Which origins have lines or skips from before this worker's start? In a transaction. */
static void
blocked_load(void)
{
	RpCatalog	catalog;

	if (known)
		return;
	rp_catalog_open(&catalog);
	rp_catalog_run("SELECT slot::integer FROM replp2p.failed_transactions"
				   " UNION SELECT slot FROM replp2p.skipped_changes", SPI_OK_SELECT, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int32		slot = DatumGetInt32(rp_column(i, 1));

		if (slot > RP_SELF && slot < RP_MAX_MEMBERS)
			blocked[slot] = true;
	}
	rp_catalog_close(&catalog);
	known = true;
}

bool
rp_failure_any(int slot)
{
	return !known || blocked[slot];
}

void
rp_failure_begin(RpApplyTransaction *txn, RpStream *stream)
{
	RpCatalog	catalog;
	RpArg		args[] = {
		rp_arg_int4(txn->slot_version.slot), rp_arg_int8((int64) txn->slot_version.seq), rp_arg_int4(MAX_SKIPS)
	};
	uint64	   *changes;
	uint64		n;

	blocked_load();
	skipped.n = 0;
	if (!blocked[txn->slot_version.slot])
		return;
	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT change FROM replp2p.skipped_changes WHERE slot = $1 AND seq = $2"
					   " ORDER BY change LIMIT $3", SPI_OK_SELECT, args, lengthof(args));
	changes = MemoryContextAlloc(TopTransactionContext, sizeof(uint64) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		changes[i] = (uint64) DatumGetInt64(rp_column(i, 1));
	rp_catalog_close(&catalog);
	rp_stream_skip(stream, changes, (int) n);
	skipped_note(txn, changes, (int) n);
}

/* Remember what is skipped beyond the transaction's end. */
static void
skipped_note(RpApplyTransaction *txn, const uint64 *changes, int n)
{
	if (n == 0)
		return;
	if (skipped.changes)
		pfree(skipped.changes);
	skipped.changes = MemoryContextAlloc(TopMemoryContext, sizeof(uint64) * n);
	memcpy(skipped.changes, changes, sizeof(uint64) * n);
	skipped.n = n;
	skipped.node = txn->node;
	skipped.slot = txn->slot_version.slot;
	skipped.seq = txn->slot_version.seq;
}

void
rp_failure_skip(RpApplyTransaction *txn, uint64 change)
{
	RpCatalog	catalog;
	RpArg		args[] = {
		rp_arg_int4(txn->slot_version.slot), rp_arg_int8((int64) txn->slot_version.seq),
		rp_arg_int8((int64) change), rp_arg_int8(txn->slot_version.stamp)
	};
	uint64		n;

	rp_catalog_open(&catalog);
	n = rp_catalog_run("INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, message,"
					   " key, key_image, remote_row, remote_image, remote_side, loser,"
					   " remote_slot, remote_seq, remote_stamp)"
					   " SELECT t.relation, 'skipped', 'keep_local', error_message, key, key_image, remote_row,"
					   "  remote_image, CASE WHEN operation IN ('DELETE', 'TRUNCATE') THEN 'd' ELSE 'r' END, 'r',"
					   "  slot, seq, $4"
					   " FROM replp2p.skipped_changes s, unnest(s.relation || s.more_relations) t (relation)"
					   " WHERE slot = $1 AND seq = $2 AND change = $3"
					   " RETURNING relation", SPI_OK_INSERT_RETURNING, args, lengthof(args));
	for (uint64 i = 0; i < n; i++)
		rp_conflict_count(txn->node, DatumGetObjectId(rp_column(i, 1)), "skipped");
	rp_catalog_close(&catalog);
	txn->changes++;
}

void
rp_failure_end(RpApplyTransaction *txn)
{
	RpCatalog	catalog;
	RpArg		args[] = {
		rp_arg_int4(txn->slot_version.slot), rp_arg_int8((int64) txn->slot_version.seq)
	};

	if (!blocked[txn->slot_version.slot])
		return;
	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.failed_transactions WHERE slot = $1 AND seq <= $2",
				   SPI_OK_DELETE, args, lengthof(args));
	rp_catalog_run("DELETE FROM replp2p.skipped_changes WHERE slot = $1 AND seq <= $2",
				   SPI_OK_DELETE, args, lengthof(args));
	rp_catalog_close(&catalog);
}

void
rp_failure_over(int slot)
{
	failures[slot] = 0;
	blocked[slot] = false;
	if (skipped.n > 0 && skipped.slot == slot)
		skipped_index();
	skipped.n = 0;
}

/*
 * Enter what was skipped into the indexes; what is committed cannot fail: if this does, the worker
 * reads all anew.
 */
static void
skipped_index(void)
{
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		rp_foreign_log_index_some(skipped.node, skipped.slot, skipped.seq, skipped.changes,
								  skipped.n);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		EmitErrorReport();
		proc_exit(1);
	}
	PG_END_TRY();
}
