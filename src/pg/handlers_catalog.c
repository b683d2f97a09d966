/*
 * handlers_catalog.c
 *	  Changes of conflict handlers on disk: from replp2p.handler_changes, which
 *	  is replicated, to replp2p.table_handlers, which is this node's.
 *
 * Both get a row in the very transaction that makes a change, or applies one.
 * So capture, which reads table_handlers under its historic snapshot, sends old
 * values of counter columns from exactly that commit on; and whoever holds a lock on a
 * table and reads table_handlers afterwards knows every change that any row of it may have seen.
 *
 * The version of a change made here is not known until capture has passed its
 * commit: until then the xmin of its row stands for it, which the version index
 * translates. (The tables are written by the extension alone, so that xmin is the
 * transaction's of the change, or that of apply filling in what was missing.)
 *
 * Settling. When change C is stable, this node has applied every version that has not seen
 * it: whoever acknowledged C makes no more of them, and an ack counts only once all that its
 * member made before is applied here. So once what is applied at that moment is stable,
 * every version that has not seen C is:
 *
 *	  (noted) -> stable: settle_at = the applied vector of now -> settle_at is stable: settled
 *
 * Stable means here that what local writes leave to be done for it is done, too
 * (rp_droppable_seq): then all that displaced rows had to be compared with was compared while
 * epochs were known, and what has not seen a settled change is not asked about any more
 * (rp_handlers_is_past).
 *
 * A settled change makes lesser ones of the same table, or column, superfluous.
 *
 * RpNode.handler_changes and handlers_settled tell all processes whether a change may be
 * unsettled. Who adds an entry holds a ROW EXCLUSIVE lock on table_handlers to the end of
 * his transaction, and counts after he got it; apply reads the count under a SHARE lock, and
 * publishes it once its finding is committed. So either apply sees the entry, or its finding
 * is out of date by the count. It never waits for that lock: a client may hold it for long.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "p2p_buf.h"
#include "p2p_stamp.h"

#include "catalog.h"
#include "handlers_internal.h"
#include "published.h"
#include "versions.h"
#include "worker.h"

/* Columns of replp2p.handler_changes, in their order. */
enum
{
	CHANGE_AUTHOR_ID = 1,
	CHANGE_AUTHOR_EPOCH,
	CHANGE_SERIAL,
	CHANGE_SCHEMA,
	CHANGE_TABLE,
	CHANGE_COLUMN,
	CHANGE_SETTING,
	CHANGE_FUNCTION,
	CHANGE_MADE_AT
};

/* What the current transaction has done to table_handlers; gone at its end. */
static struct
{
	bool		written;
	List	   *noted;			/* RpHandlerRow *, in TopTransactionContext */
	uint64		settled;		/* to be published in RpNode.handlers_settled by the commit; 0 = nothing */
	RpNode	   *node;
} here;

static void row_read(TupleTableSlot *slot, RpHandlerRow *row);
static void row_resolve_late(RpNode *node, RpHandlerEntry *entry);
static void entry_read(RpHandlerEntry *entry, uint64 i);
static int	entry_compare(const void *a, const void *b);
static void entry_update(RpNode *node, const RpHandlerEntry *entry);
static void entry_settle(RpNode *node, RpHandlerEntry *entry, const P2pVector *stable,
						 const P2pVector *applied);
static void superfluous_delete(void);
static void vector_droppable(RpNode *node, P2pVector *stable);

/* At the end of a transaction: what it wrote holds now, or never was. */
static void
handlers_xact_event(XactEvent event, void *arg)
{
	(void) arg;
	if (!here.written)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		if (here.settled != 0)
			pg_atomic_write_u64(&here.node->handlers_settled, here.settled);
		rp_handlers_stale();
		if (!rp_in_worker)
			rp_worker_wake(here.node, RP_WORKER_APPLY);	/* to begin to settle it */
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		memset(&here, 0, sizeof(here));
}

/* From now on this transaction has written table_handlers. */
static void
written_here(RpNode *node)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(handlers_xact_event, NULL);
	registered = true;
	here.written = true;
	here.node = node;
}

bool
rp_handlers_unsettled(RpNode *node)
{
	return pg_atomic_read_u64(&node->handlers_settled) !=
		pg_atomic_read_u64(&node->handler_changes) + 1;
}

/* A row of the stream takes effect here with this transaction. */
void
rp_handlers_register(RpNode *node, TupleTableSlot *slot, const P2pVersion *version)
{
	RpCatalog	catalog;
	RpHandlerRow row;
	RpChangeVersion made = {*version, InvalidTransactionId, false};
	Oid			relid;
	AttrNumber	attno;
	RpMergeKind merge;

	row_read(slot, &row);
	if (!p2p_origin_equal(&row.author, &version->dot.origin))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change of the conflict handler of table \"%s.%s\" is refused",
						row.schema, row.table),
				 errdetail("Its author is not the node that published it."),
				 errhint("A member has published what it may not publish, or its tables were changed by hand.")));
	if (p2p_origin_equal(&row.author, &node->members[RP_SELF].origin))
		return;					/* noted by the function that made it */

	rp_catalog_open(&catalog);
	rp_handler_row_resolve(&row, &relid, &attno);
	if (rp_handler_entry_add(node, &row, relid, attno, &made) && attno > 0 &&
		rp_merge_kind_by_name(row.setting, &merge) && merge == RP_MERGE_COUNTER)
		(void) rp_old_values_required(relid);
	rp_catalog_close(&catalog);
}

/*
 * Read a row of handler_changes; ERROR if it is malformed, or says what this version does not
 * know.
 */
static void
row_read(TupleTableSlot *slot, RpHandlerRow *row)
{
	bytea	   *id;
	RpHandlerKind kind;
	RpMergeKind merge;

	if (slot->tts_tupleDescriptor->natts < CHANGE_MADE_AT)
		elog(ERROR, "replp2p: not a row of replp2p.handler_changes");
	memset(row, 0, sizeof(*row));
	id = DatumGetByteaPP(rp_published_column(slot, CHANGE_AUTHOR_ID));
	if (VARSIZE_ANY_EXHDR(id) == P2P_ID_SIZE)
		memcpy(&row->author.id, VARDATA_ANY(id), P2P_ID_SIZE);	/* else it is nobody's */
	row->author.epoch = (uint32) DatumGetInt32(rp_published_column(slot, CHANGE_AUTHOR_EPOCH));
	row->serial = DatumGetInt64(rp_published_column(slot, CHANGE_SERIAL));
	strlcpy(row->schema, NameStr(*DatumGetName(rp_published_column(slot, CHANGE_SCHEMA))), NAMEDATALEN);
	strlcpy(row->table, NameStr(*DatumGetName(rp_published_column(slot, CHANGE_TABLE))), NAMEDATALEN);
	strlcpy(row->column, NameStr(*DatumGetName(rp_published_column(slot, CHANGE_COLUMN))), NAMEDATALEN);
	rp_published_text(slot, CHANGE_SETTING, row->setting, sizeof(row->setting));
	rp_published_text(slot, CHANGE_FUNCTION, row->function, sizeof(row->function));
	if (row->column[0] != '\0' && rp_merge_kind_by_name(row->setting, &merge))
		return;
	if (row->column[0] == '\0' && rp_handler_kind_by_name(row->setting, &kind))
	{
		/* ERROR here, not whenever it is looked up */
		if (kind == RP_CUSTOM)
			(void) stringToQualifiedNameList(row->function);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this version does not know \"%s\", which is set for table \"%s.%s\"",
					row->setting, row->schema, row->table),
			 errhint("Update replp2p on this node; applying goes on by itself.")));
}

void
rp_handler_row_resolve(const RpHandlerRow *row, Oid *relid, AttrNumber *attno)
{
	Oid			schema = get_namespace_oid(row->schema, true);

	*relid = OidIsValid(schema) ? get_relname_relid(row->table, schema) : InvalidOid;
	*attno = 0;
	if (OidIsValid(*relid) && get_rel_relkind(*relid) != RELKIND_RELATION)
		*relid = InvalidOid;
	if (OidIsValid(*relid) && row->column[0] != '\0')
		*attno = Max(get_attnum(*relid, row->column), 0);
}

/* Tell all processes that what holds for a table has changed; with the commit. */
static void
invalidate(Oid relid)
{
	CacheInvalidateRelcacheByRelid(rp_catalog_table("table_handlers"));
	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
}

bool
rp_handler_entry_add(RpNode *node, const RpHandlerRow *row, Oid relid, AttrNumber attno,
					 const RpChangeVersion *made)
{
	bool		known = made != NULL && made->version.dot.seq != 0;
	RpArg		args[] = {
		rp_arg_bytes(&row->author.id, P2P_ID_SIZE),
		rp_arg_int4((int32) row->author.epoch),
		rp_arg_int8(row->serial),
		rp_arg_name(row->schema),
		rp_arg_name(row->table),
		rp_arg_name(row->column),
		rp_arg_text(row->setting),
		rp_arg_text(row->function),
		rp_arg_oid(relid),
		rp_arg_int4(attno),
		{INT8OID, known ? Int64GetDatum((int64) made->version.dot.seq) : (Datum) 0, !known},
		{INT8OID, known ? Int64GetDatum(made->version.stamp) : (Datum) 0, !known},
		rp_arg_bool(known && made->settled),
	};
	MemoryContext old;
	RpHandlerRow *copy;

	if (rp_catalog_run("INSERT INTO replp2p.table_handlers (author_id, author_epoch, serial, schema_name,"
					   " table_name, column_name, setting, function_name, relation, column_number, seq, stamp, settled)"
					   " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13"
					   " WHERE NOT EXISTS (SELECT FROM replp2p.table_handlers"
					   "  WHERE author_id = $1 AND author_epoch = $2 AND serial = $3)",
					   SPI_OK_INSERT, args, lengthof(args)) == 0)
		return false;
	pg_atomic_fetch_add_u64(&node->handler_changes, 1);
	written_here(node);
	old = MemoryContextSwitchTo(TopTransactionContext);
	copy = palloc(sizeof(RpHandlerRow));
	*copy = *row;
	here.noted = lappend(here.noted, copy);
	MemoryContextSwitchTo(old);
	invalidate(relid);
	return true;
}

bool
rp_handler_entry_is_new(const RpHandlerRow *row)
{
	ListCell   *cell;

	foreach(cell, here.noted)
	{
		const RpHandlerRow *noted = lfirst(cell);

		if (noted->serial == row->serial && p2p_origin_equal(&noted->author, &row->author))
			return true;
	}
	return false;
}

bool
rp_old_values_required(Oid relid)
{
	Relation	rel = table_open(relid, AccessExclusiveLock);
	char		identity = rel->rd_rel->relreplident;
	bool		by_key = identity == REPLICA_IDENTITY_DEFAULT ||
		(identity == REPLICA_IDENTITY_INDEX &&
		 RelationGetReplicaIndex(rel) == RelationGetPrimaryKeyIndex(rel));
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));

	table_close(rel, NoLock);
	if (identity == REPLICA_IDENTITY_FULL)
		return false;
	if (!by_key)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has a replica identity of its own", name),
				 errdetail("A counter needs REPLICA IDENTITY FULL, so that updates carry old values."),
				 errhint("Set REPLICA IDENTITY DEFAULT for the table on every node first.")));
	(void) rp_catalog_run(psprintf("ALTER TABLE ONLY %s REPLICA IDENTITY FULL", name),
						  SPI_OK_UTILITY, NULL, 0);
	return true;
}

bool
rp_change_version_resolve(RpNode *node, RpChangeVersion *made)
{
	RpVersionEntry entry;

	if (made->version.dot.seq != 0)
		return true;
	if (!TransactionIdIsNormal(made->xid) || TransactionIdIsCurrentTransactionId(made->xid) ||
		!rp_versions_get(rp_versions_full_xid(made->xid), &entry) || entry.slot != RP_SELF)
		return false;
	made->version.stamp = entry.stamp;
	made->version.dot.origin = node->members[RP_SELF].origin;
	made->version.dot.seq = entry.seq;
	return true;
}

RpHandlerEntry *
rp_handler_entries_read(RpNode *node, uint64 *n)
{
	RpHandlerEntry *entries;

	*n = rp_catalog_run("SELECT author_id, author_epoch, serial, schema_name, table_name, column_name,"
						" setting, function_name, relation, column_number, seq, stamp, settled,"
						" settle_at, xmin FROM replp2p.table_handlers", SPI_OK_SELECT, NULL, 0);
	entries = palloc0(sizeof(RpHandlerEntry) * *n + 1);
	for (uint64 i = 0; i < *n; i++)
	{
		entry_read(&entries[i], i);
		entries[i].seq_is_news = entries[i].made.version.dot.seq == 0 &&
			rp_change_version_resolve(node, &entries[i].made);
	}
	qsort(entries, *n, sizeof(RpHandlerEntry), entry_compare);
	return entries;
}

/* Read row i of SPI_tuptable. */
static void
entry_read(RpHandlerEntry *entry, uint64 i)
{
	bool		isnull;
	Datum		settle_at;

	rp_column_bytes(i, 1, &entry->row.author.id, P2P_ID_SIZE);
	entry->row.author.epoch = (uint32) DatumGetInt32(rp_column(i, 2));
	entry->row.serial = DatumGetInt64(rp_column(i, 3));
	rp_column_name(i, 4, entry->row.schema);
	rp_column_name(i, 5, entry->row.table);
	rp_column_name(i, 6, entry->row.column);
	rp_column_text(i, 7, entry->row.setting, sizeof(entry->row.setting));
	rp_column_text(i, 8, entry->row.function, sizeof(entry->row.function));
	entry->relid = DatumGetObjectId(rp_column(i, 9));
	entry->attno = DatumGetInt16(rp_column(i, 10));
	entry->made.version.dot.seq = (uint64) rp_column_int8_or_zero(i, 11);
	entry->made.version.dot.origin = entry->row.author;
	entry->made.version.stamp = rp_column_int8_or_zero(i, 12);
	entry->made.settled = DatumGetBool(rp_column(i, 13));
	settle_at = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 14, &isnull);
	if (!isnull)
	{
		bytea	   *bytes = DatumGetByteaPP(settle_at);
		P2pReader	r;

		entry->settle_at = palloc(sizeof(P2pVector));
		p2p_reader_init(&r, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		p2p_get_vector(&r, entry->settle_at);
	}
	entry->made.xid = DatumGetTransactionId(rp_column(i, 15));
}

/*
 * Ascending by version; not captured yet is greater than all that is, since its stamp will be: who
 * registers a change of another node's has waited until those made here before it were captured.
 */
static int
entry_compare(const void *a, const void *b)
{
	const RpHandlerEntry *left = a;
	const RpHandlerEntry *right = b;
	bool		left_known = left->made.version.dot.seq != 0;
	bool		right_known = right->made.version.dot.seq != 0;
	int			order = 0;

	if (left_known != right_known)
		return left_known ? -1 : 1;
	if (left_known)
		order = p2p_version_compare(&left->made.version, &right->made.version);
	if (order != 0)
		return order;
	return left->row.serial < right->row.serial ? -1 : left->row.serial > right->row.serial;
}

/* What is stable, and displaced rows were judged after it: file head. */
static void
vector_droppable(RpNode *node, P2pVector *stable)
{
	uint64		seqs[RP_MAX_MEMBERS];
	int			n = node->nmembers;

	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < n; slot++)
		seqs[slot] = rp_droppable_seq(node, slot);
	SpinLockRelease(&node->vector_lock);
	p2p_vector_clear(stable);
	for (int slot = 0; slot < n; slot++)
	{
		if (node->members[slot].status != RP_MEMBER_FREE)
			(void) p2p_vector_set(stable, &node->members[slot].origin, seqs[slot]);
	}
}

/* Settle what can be by now, in a transaction of its own. */
void
rp_handlers_settle(RpNode *node)
{
	RpCatalog	catalog;
	RpHandlerEntry *entries;
	P2pVector	stable;
	P2pVector	applied;
	uint64		changes;
	uint64		n;

	if (!rp_handlers_unsettled(node))
		return;
	rp_catalog_open(&catalog);
	/* before the lock: this may wait for others' locks on their tables */
	entries = rp_handler_entries_read(node, &n);
	for (uint64 i = 0; i < n; i++)
		row_resolve_late(node, &entries[i]);

	if (ConditionalLockRelationOid(rp_catalog_table("table_handlers"), ShareLock))
	{
		changes = pg_atomic_read_u64(&node->handler_changes);
		superfluous_delete();
		vector_droppable(node, &stable);	/* first: what was applied by then covers more */
		rp_vector_applied(node, &applied);
		entries = rp_handler_entries_read(node, &n);
		for (uint64 i = 0; i < n; i++)
			entry_settle(node, &entries[i], &stable, &applied);
		superfluous_delete();
		if (rp_catalog_run("SELECT FROM replp2p.table_handlers WHERE NOT settled",
						   SPI_OK_SELECT, NULL, 0) == 0)
		{
			written_here(node);
			here.settled = changes + 1;
		}
	}
	rp_catalog_close(&catalog);
}

/*
 * A table, or column, that was not here when the change came, may be now. Then
 * have old values sent, too; if they cannot be, its updates count as absolute, on every node.
 */
static void
row_resolve_late(RpNode *node, RpHandlerEntry *entry)
{
	RpMergeKind merge;
	Relation	rel;
	bool		by_key;

	if (entry->made.version.dot.seq == 0 ||
		(OidIsValid(entry->relid) && (entry->row.column[0] == '\0' || entry->attno > 0)))
		return;
	rp_handler_row_resolve(&entry->row, &entry->relid, &entry->attno);
	if (!OidIsValid(entry->relid) || (entry->row.column[0] != '\0' && entry->attno == 0))
		return;
	entry_update(node, entry);
	invalidate(entry->relid);
	if (entry->attno == 0 || !rp_merge_kind_by_name(entry->row.setting, &merge) ||
		merge != RP_MERGE_COUNTER)
		return;
	rel = table_open(entry->relid, AccessExclusiveLock);
	by_key = rel->rd_rel->relreplident == REPLICA_IDENTITY_DEFAULT;
	table_close(rel, NoLock);
	if (by_key)
		(void) rp_old_values_required(entry->relid);
}

/* Store what has been found out of an entry. */
static void
entry_update(RpNode *node, const RpHandlerEntry *entry)
{
	uint8		bytes[P2P_VECTOR_MAX_SIZE];
	P2pWriter	w;
	uint64		seq = entry->made.version.dot.seq;

	p2p_writer_init(&w, bytes, sizeof(bytes));
	if (entry->settle_at)
		p2p_put_vector(&w, entry->settle_at);
	{
		RpArg		args[] = {
			rp_arg_bytes(&entry->row.author.id, P2P_ID_SIZE),
			rp_arg_int4((int32) entry->row.author.epoch),
			rp_arg_int8(entry->row.serial),
			rp_arg_oid(entry->relid),
			rp_arg_int4(entry->attno),
			{INT8OID, Int64GetDatum((int64) seq), seq == 0},
			{INT8OID, Int64GetDatum(entry->made.version.stamp), seq == 0},
			rp_arg_bool(entry->made.settled),
			rp_arg_bytes(entry->settle_at ? bytes : NULL, w.length),
		};

		rp_catalog_run("UPDATE replp2p.table_handlers SET relation = $4, column_number = $5, seq = $6,"
					   " stamp = $7, settled = $8, settle_at = $9"
					   " WHERE author_id = $1 AND author_epoch = $2 AND serial = $3",
					   SPI_OK_UPDATE, args, lengthof(args));
	}
	written_here(node);
}

/* Take an entry one step further, if it can go one. */
static void
entry_settle(RpNode *node, RpHandlerEntry *entry, const P2pVector *stable, const P2pVector *applied)
{
	bool		changed = entry->seq_is_news;

	if (entry->made.settled || entry->made.version.dot.seq == 0)
		return;
	if (entry->settle_at != NULL && p2p_vector_covers(stable, entry->settle_at))
		entry->made.settled = changed = true;
	else if (entry->settle_at == NULL && p2p_vector_covers_dot(stable, &entry->made.version.dot))
	{
		entry->settle_at = palloc(sizeof(P2pVector));
		*entry->settle_at = *applied;
		changed = true;
	}
	if (changed)
		entry_update(node, entry);
}

/* Delete entries of tables that are gone, and those that a settled one has superseded. */
static void
superfluous_delete(void)
{
	rp_catalog_run("DELETE FROM replp2p.table_handlers h WHERE relation <> 0"
				   " AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = h.relation)",
				   SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("DELETE FROM replp2p.table_handlers o USING replp2p.table_handlers n"
				   " WHERE n.settled AND o.seq IS NOT NULL"
				   " AND n.relation = o.relation AND n.column_number = o.column_number"
				   " AND (n.relation <> 0 OR (n.schema_name = o.schema_name AND n.table_name = o.table_name))"
				   " AND (n.column_number <> 0 OR n.column_name = o.column_name)"
				   " AND (o.stamp, o.author_id, o.author_epoch, o.seq, o.serial)"
				   " < (n.stamp, n.author_id, n.author_epoch, n.seq, n.serial)",
				   SPI_OK_DELETE, NULL, 0);
}
