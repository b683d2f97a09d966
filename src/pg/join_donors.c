/*
 * join_donors.c
 *	  Other members that a join copies tables from, besides its sponsor.
 *
 * The joined state is the sponsor's A at the vector V_A of its snapshot, whoever sends it. Another
 * donor B sends whole tables, in pieces like A's, at a snapshot of its own with a vector V_B, and
 * those are then brought from V_B to V_A (join_patch.c has the proof). For that:
 *
 *	  V_B <= V_A	 B's snapshot is taken first, and A's again and again for a while until it has
 *					 all that B's has. So the difference stands in A's logs alone, and B is not
 *					 needed any more once its pieces are here
 *	  by key alone	 a table whose rows are a function of the transactions that touched their
 *					 keys: one unique index, which is the replica identity; no exclusion
 *					 constraint, no conflict handler or merge, nothing displaced, keys of types
 *					 that the server brings
 *	  same table	 shape (columns and key) is the same at A and B. Shape, oid and file are
 *					 read before the snapshot, too, and again when the table is locked: nobody
 *					 has renamed, truncated or rewritten it in between
 *	  nothing missing  who has transactions that fail, or has skipped changes, is no such
 *					 function; then all comes from A
 *
 * Tables differ by more if somebody has excluded one and included it again, or has repaired it by
 * hand on one node only. The copy of such a table is as wrong as the table.
 *
 * Members are asked in an order that differs from joiner to joiner. Who does not answer, is not
 * active, lags far behind, has stamps that are too far ahead, or has not applied the admission
 * soon, is left out: other donors only spare time. The role in a donor's dsn needs the right to
 * read a table; only the sponsor lends it (join_serve.c). What B leaves undone when it fails is
 * copied from A.
 *
 * After a crash of anybody the plan (join_tables.donor_id, donor_vector) is gone on with, by the
 * same donors, in later snapshots. donor_vector stays that of the first: the patch covers what any
 * later one had.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "p2p_message.h"

#include "join_internal.h"
#include "monotonic.h"
#include "settings.h"
#include "worker.h"

/* Smaller tables are not worth another donor. */
#define WORTH_BYTES (1024 * 1024)
/* A donor that lacks more of what the sponsor has makes too much of a patch. */
#define MAX_LAG UINT64CONST(100000)
/* How long a member has to apply the admission, and how often it is asked. */
#define ADMISSION_PATIENCE_US INT64CONST(3000000)
#define ADMISSION_WAIT_MS 300
/* Members in a row that are no donors: the rest is not asked. */
#define MAX_FAILURES 4

static List *facts_read(RpJoin *join);
static List *facts_stable(List *before, List *after);
static bool changes_are_missing(RpJoin *join);
static RpJoin *donor_try(RpJoin *join, const P2pId *id, const char *name, const char *dsn);
static void donor_prepare(RpJoin *other);
static void donor_close(RpJoin *join, RpJoin *other, const char *why);

/* Find the facts of a table by its name; NULL: it is not among them. */
static const RpJoinFacts *
facts_of(const List *facts, const char *schema, const char *name)
{
	ListCell   *cell;

	foreach(cell, facts)
	{
		const RpJoinFacts *of = lfirst(cell);

		if (strcmp(of->name, name) == 0 && strcmp(of->schema, schema) == 0)
			return of;
	}
	return NULL;
}

/* Is any table worth another donor? */
static bool
any_worth(const List *facts)
{
	ListCell   *cell;

	foreach(cell, facts)
	{
		if (((RpJoinFacts *) lfirst(cell))->bytes >= WORTH_BYTES)
			return true;
	}
	return false;
}

/* Note what the sponsor has to share; where that is little, nobody else is asked for anything. */
void
rp_join_donors_begin(RpJoin *join)
{
	join->facts = NIL;
	if (rp_join_donors > 1 && rp_join_workers > 1 && !changes_are_missing(join))
		join->facts = facts_read(join);
	if (!any_worth(join->facts))
		join->facts = NIL;
}

/* Has a node transactions that it could not apply, or has it skipped changes? */
static bool
changes_are_missing(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT FROM replp2p.failed_transactions"
									 " UNION ALL SELECT FROM replp2p.skipped_changes"
									 " UNION ALL SELECT FROM replp2p.conflict_history WHERE resolution = 'skipped'");

	return rows->nrows > 0;
}

/* Read the tables that a donor could share. */
static List *
facts_read(RpJoin *join)
{
	RpJoinRows *rows = rp_join_query(join,
									 "SELECT n.nspname, c.relname, s.shape || ' key ' || k.columns, c.oid,"
									 " pg_relation_filenode(c.oid),"
									 " pg_relation_size(c.oid) / current_setting('block_size')::int, pg_table_size(c.oid)"
									 " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
									 " JOIN pg_index i ON i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)"
									 " CROSS JOIN LATERAL (SELECT string_agg(a.attname, ',' ORDER BY u.place) AS columns,"
									 "   bool_and(a.atttypid < 16384 AND a.attgenerated = '') AS plain"
									 "  FROM unnest(i.indkey) WITH ORDINALITY u (attnum, place)"
									 "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum"
									 "  WHERE u.place <= i.indnkeyatts) k"
									 " CROSS JOIN LATERAL (SELECT string_agg(format('%I %s %s %s', a.attname,"
									 "   format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated), ',' ORDER BY a.attname) AS shape"
									 "  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) s"
									 " WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 AND n.nspname <> 'replp2p'"
									 " AND i.indisvalid AND i.indimmediate AND k.plain"
									 " AND ((c.relreplident = 'd' AND i.indisprimary) OR (c.relreplident = 'i' AND i.indisreplident))"
									 " AND NOT EXISTS (SELECT FROM pg_index o WHERE o.indrelid = c.oid AND o.indexrelid <> i.indexrelid"
									 "  AND (o.indisunique OR o.indisexclusion))"
									 " AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"
									 " AND NOT row_security_active(c.oid)"
									 " AND NOT EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid)"
									 " AND NOT EXISTS (SELECT FROM replp2p.displaced_rows d WHERE d.relation = c.oid)"
									 " AND NOT EXISTS (SELECT FROM replp2p.get_table_handlers() h"
									 "  WHERE h.schema_name = n.nspname AND h.table_name = c.relname)");
	List	   *facts = NIL;

	for (int i = 0; i < rows->nrows; i++)
	{
		RpJoinFacts *of = palloc0(sizeof(RpJoinFacts));

		if (rp_join_value(rows, i, 4) == NULL || rp_join_value(rows, i, 6) == NULL)
			continue;			/* just dropped */
		of->schema = rp_join_value(rows, i, 0);
		of->name = rp_join_value(rows, i, 1);
		of->shape = rp_join_value(rows, i, 2);
		of->oid = (Oid) strtoul(rp_join_value(rows, i, 3), NULL, 10);
		of->file = (Oid) strtoul(rp_join_value(rows, i, 4), NULL, 10);
		of->blocks = strtoll(rp_join_value(rows, i, 5), NULL, 10);
		of->bytes = strtoll(rp_join_value(rows, i, 6), NULL, 10);
		facts = lappend(facts, of);
	}
	return facts;
}

/* Return those of the later facts that were the same before. */
static List *
facts_stable(List *before, List *after)
{
	List	   *stable = NIL;
	ListCell   *cell;

	foreach(cell, after)
	{
		RpJoinFacts *now = lfirst(cell);
		const RpJoinFacts *then = facts_of(before, now->schema, now->name);

		if (then != NULL && then->oid == now->oid && then->file == now->file &&
			strcmp(then->shape, now->shape) == 0)
			stable = lappend(stable, now);
	}
	return stable;
}

/*
 * Keep of what the sponsor has to share what still holds, now that its tables are locked. In a
 * write.
 */
static void
facts_confirm(RpJoin *join)
{
	MemoryContext old = MemoryContextSwitchTo(join->memory);

	join->facts = facts_stable(join->facts, facts_read(join));
	MemoryContextSwitchTo(old);
}

/* Is a member wanted: for any plan, or for tables of the one there is? */
static bool
is_wanted(const P2pId *id, bool planned, const List *foreign)
{
	ListCell   *cell;

	if (!planned)
		return true;
	foreach(cell, foreign)
	{
		const RpJoinForeign *table = lfirst(cell);

		if (!table->complete && p2p_id_compare(&table->donor, id) == 0)
			return true;
	}
	return false;
}

/* Open sessions with other donors. */
void
rp_join_donors_open(RpJoin *join)
{
	int			max = Min(rp_join_donors, rp_join_workers) - 1;
	int			failures = 0;
	RpJoinRows *rows;
	List	   *foreign;
	bool		planned;

	join->others = NIL;
	if (join->facts == NIL)
		return;
	rp_join_write_begin(join);
	MemoryContextSwitchTo(join->memory);
	planned = rp_join_plan_is_there();
	foreign = rp_join_foreign();
	rp_join_write_commit(join);

	rp_join_phase(join->node, "admission", "other members to copy from");
	rows = rp_join_query(join, psprintf("SELECT encode(node_id, 'hex'), node_name, dsn FROM replp2p.members"
										" WHERE status = 'admitted' AND slot > 0 AND node_name <> %s"
										" ORDER BY md5(node_id::text || %s)",
										quote_literal_cstr(join->name), quote_literal_cstr(join->name)));
	for (int i = 0; i < rows->nrows && failures < MAX_FAILURES; i++)
	{
		P2pId		id;
		RpJoin	   *other;

		if (list_length(join->others) >= max)
			break;
		rp_join_id(rp_join_value(rows, i, 0), &id);
		if (!is_wanted(&id, planned, foreign) || rp_peer_is_cut(rp_join_value(rows, i, 1)))
			continue;
		other = donor_try(join, &id, rp_join_value(rows, i, 1), rp_join_value(rows, i, 2));
		if (other != NULL)
			join->others = lappend(join->others, other);
		else
			failures++;
	}
}

/* Make a donor of a member; NULL: it is none. */
static RpJoin *
donor_try(RpJoin *join, const P2pId *id, const char *name, const char *dsn)
{
	RpJoin	   *other = rp_join_for_donor(join, id, name, dsn);
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(join->memory, "replp2p join donor",
												  ALLOCSET_DEFAULT_SIZES);
	volatile bool opened = false;

	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		donor_prepare(other);
		opened = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		ereport(LOG,
				(errmsg("nothing is copied from node \"%s\": %s", name,
						error->detail != NULL ? error->detail : error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (opened)
		return other;
	MemoryContextDelete(context);	/* and with it the session */
	return NULL;
}

/* Lock what may be copied. */
static void
tables_lock(RpJoin *other)
{
	StringInfoData names;
	ListCell   *cell;

	initStringInfo(&names);
	foreach(cell, other->facts)
	{
		const RpJoinFacts *of = lfirst(cell);

		if (of->bytes >= WORTH_BYTES)
			appendStringInfo(&names, "%sONLY %s", names.len > 0 ? ", " : "",
							 quote_qualified_identifier(of->schema, of->name));
	}
	if (names.len > 0)
		rp_join_run(other, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", names.data));
}

/*
 * Say a first word in a session, which proves who speaks: a PULL of nothing. False: the donor
 * does not know this node yet. ERROR if it can't answer, or does not want to.
 */
static bool
greet(RpJoin *other)
{
	P2pPull    *pull = palloc0(sizeof(P2pPull));
	uint8	   *request = palloc(P2P_PULL_MAX_SIZE);
	StringInfoData answer;
	P2pErrorCode code;
	P2pWriter	w;
	P2pReader	r;
	char		text[P2P_TEXT_SIZE] = "its answer is not understood";
	char	   *error = NULL;

	p2p_writer_init(&w, request, P2P_PULL_MAX_SIZE);
	p2p_put_pull(&w, pull);
	initStringInfo(&answer);
	if (!rp_peer_session_call(other->donor, request, w.length, ADMISSION_PATIENCE_US / 1000,
							  &answer, &error))
		rp_join_donor_error(other, NULL, error);
	p2p_reader_init(&r, answer.data, (size_t) answer.len);
	switch (p2p_get_u8(&r))
	{
		case P2P_MSG_PULL_REPLY:
			return true;
		case P2P_MSG_ERROR:
			if (p2p_get_error(&r, &code, text) == P2P_OK && code == P2P_ERROR_UNKNOWN_NODE)
				return false;
	}
	rp_join_donor_error(other, NULL, text);
}

/* Wait until the donor has applied the admission of this node; ERROR if that lasts. */
static void
wait_for_admission(RpJoin *other)
{
	int64		until = rp_monotonic_us() + ADMISSION_PATIENCE_US;

	while (!greet(other))
	{
		if (rp_monotonic_us() >= until)
			rp_join_donor_error(other, NULL, "it does not know of the admission yet");
		rp_worker_wait(other->node, RP_WORKER_JOIN, ADMISSION_WAIT_MS, PG_WAIT_EXTENSION);
	}
}

/* Get a donor's snapshot, and its tables' facts; ERROR if it is no donor. */
static void
donor_prepare(RpJoin *other)
{
	List	   *before;

	rp_join_donor_open(other);
	wait_for_admission(other);
	rp_join_donor_settings(other, "2s");
	if (changes_are_missing(other))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("it has changes that it could not apply, or has skipped"),
				 errhint("See its view failed_changes.")));
	before = facts_read(other);
	rp_join_snapshot_take(other);
	other->facts = before;
	tables_lock(other);
	other->facts = facts_stable(before, facts_read(other));
}

/* How much of what the sponsor's snapshot has does a donor's lack? */
static uint64
lag_of(const RpJoin *join, const RpJoin *other)
{
	uint64		lag = 0;

	for (uint32 i = 0; i < join->vector.count; i++)
		lag += join->vector.entries[i].seq -
			Min(join->vector.entries[i].seq,
				p2p_vector_get(&other->vector, &join->vector.entries[i].origin));
	return lag;
}

/* Is all in the sponsor's snapshot that is in theirs? */
bool
rp_join_donors_covered(RpJoin *join)
{
	ListCell   *cell;

	foreach(cell, join->others)
	{
		if (!p2p_vector_covers(&join->vector, &((RpJoin *) lfirst(cell))->vector))
			return false;
	}
	return true;
}

/* Leave out who is ahead, or far behind. */
void
rp_join_donors_drop_ahead(RpJoin *join)
{
	ListCell   *cell;

	foreach(cell, join->others)
	{
		RpJoin	   *other = lfirst(cell);

		if (!p2p_vector_covers(&join->vector, &other->vector))
			donor_close(join, other, "it is ahead of the sponsor");
		else if (lag_of(join, other) > MAX_LAG)
			donor_close(join, other, "it is far behind the sponsor");
		else
			continue;
		join->others = foreach_delete_current(join->others, cell);
	}
}

/* End a session; why: NULL, or something to be told. */
static void
donor_close(RpJoin *join, RpJoin *other, const char *why)
{
	if (why != NULL)
		ereport(LOG, (errmsg("nothing is copied from node \"%s\": %s", other->donor_name, why)));
	rp_peer_close(other->donor);
	other->donor = NULL;
}

/* Is a table at a donor the one that the sponsor has? NULL: it is not, or it can't be shared. */
static const RpJoinFacts *
shared_facts(const RpJoin *join, const RpJoin *other, const char *schema, const char *name)
{
	const RpJoinFacts *here = facts_of(join->facts, schema, name);
	const RpJoinFacts *there = facts_of(other->facts, schema, name);

	return here != NULL && there != NULL && strcmp(here->shape, there->shape) == 0 ? there : NULL;
}

/* Compare tables by size, larger ones first. */
static int
compare_sizes(const ListCell *a, const ListCell *b)
{
	int64		first = ((RpJoinTable *) lfirst(a))->bytes;
	int64		second = ((RpJoinTable *) lfirst(b))->bytes;

	return first > second ? -1 : first < second ? 1 : 0;
}

/* One donor's share of the work; the sponsor's is the last of them. */
typedef struct Share
{
	int			processes;
	int64		bytes;
} Share;

/* How long a donor's share takes with so much more. */
static double
share_time(const Share *share, int64 more)
{
	return (double) (share->bytes + more) / share->processes;
}

/* Give a table to whoever is through with it first. */
static void
table_assign(RpJoin *join, RpJoinTable *table, Share *shares)
{
	int			sponsor = list_length(join->others);
	int			best = sponsor;
	const RpJoinFacts *facts = NULL;

	for (int i = 0; i < sponsor && table->bytes >= WORTH_BYTES; i++)
	{
		const RpJoinFacts *there = shared_facts(join, list_nth(join->others, i), table->schema,
												table->name);

		if (there == NULL ||
			share_time(&shares[i], table->bytes) >= share_time(&shares[best], table->bytes))
			continue;
		best = i;
		facts = there;
	}
	shares[best].bytes += table->bytes;
	if (facts == NULL)
		return;
	table->other = list_nth(join->others, best);
	table->donor_oid = facts->oid;
	table->donor_file = facts->file;
	table->blocks = facts->blocks;
	table->bytes = facts->bytes;
}

/* Say who gives how much, and let go of those who give nothing. */
static void
shares_settle(RpJoin *join, const Share *shares)
{
	MemoryContext old = MemoryContextSwitchTo(join->memory);
	List	   *others = NIL;
	ListCell   *cell;

	foreach(cell, join->others)
	{
		RpJoin	   *other = lfirst(cell);
		int64		bytes = shares[foreach_current_index(cell)].bytes;

		if (bytes == 0)
		{
			donor_close(join, other, NULL);
			continue;
		}
		ereport(LOG,
				(errmsg("tables of " INT64_FORMAT " bytes are copied from node \"%s\"", bytes,
						other->donor_name)));
		others = lappend(others, other);
	}
	join->others = others;
	MemoryContextSwitchTo(old);
}

/* Part the tables among the donors. */
void
rp_join_donors_assign(RpJoin *join, List *tables)
{
	int			sponsor = list_length(join->others);
	Share		shares[RP_JOIN_DONORS_LIMIT] = {{0}};
	ListCell   *cell;

	if (sponsor == 0)
		return;
	facts_confirm(join);
	/* as copiers take their numbers; this process copies from the sponsor */
	shares[sponsor].processes = 1;
	for (int i = 0; i < rp_join_workers - 1; i++)
		shares[i % (sponsor + 1)].processes++;
	list_sort(tables, compare_sizes);
	foreach(cell, tables)
	{
		RpJoinTable *table = lfirst(cell);

		if (!table->excluded)
			table_assign(join, table, shares);
	}
	shares_settle(join, shares);
}

/* Can a table still be had of the donor that it was copied of so far? */
static bool
foreign_is_there(RpJoin *join, const RpJoinForeign *foreign, const char *schema, const char *name)
{
	ListCell   *cell;

	if (foreign->complete)
		return facts_of(join->facts, schema, name) != NULL;
	foreach(cell, join->others)
	{
		RpJoin	   *other = lfirst(cell);
		const RpJoinFacts *facts = shared_facts(join, other, schema, name);

		if (p2p_id_compare(&other->donor_id, &foreign->donor) == 0)
			return facts != NULL && facts->oid == foreign->donor_oid &&
				facts->file == foreign->donor_file;
	}
	return false;
}

/* Go on with a plan. */
void
rp_join_donors_resume(RpJoin *join)
{
	List	   *foreign = rp_join_foreign();
	ListCell   *cell;

	if (foreign == NIL)
		return;
	facts_confirm(join);
	foreach(cell, foreign)
	{
		const RpJoinForeign *table = lfirst(cell);

		if (!foreign_is_there(join, table, get_namespace_name(get_rel_namespace(table->relation)),
							  get_rel_name(table->relation)))
			rp_join_table_to_sponsor(join, table->relation, false);
	}
}

/* Show copiers whom to copy from. */
void
rp_join_donors_show(RpJoin *join)
{
	RpNode	   *node = join->node;
	StringInfoData names;
	ListCell   *cell;

	initStringInfo(&names);
	appendStringInfoString(&names, join->sponsor_name);
	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	node->join.nothers = 0;
	node->join.ncopiers = 0;
	foreach(cell, join->others)
	{
		const RpJoin *other = lfirst(cell);
		RpJoinDonor *donor = &node->join.others[node->join.nothers++];

		donor->id = other->donor_id;
		strlcpy(donor->name, other->donor_name, sizeof(donor->name));
		strlcpy(donor->dsn, other->donor_dsn, sizeof(donor->dsn));
		strlcpy(donor->snapshot, other->snapshot, sizeof(donor->snapshot));
		appendStringInfo(&names, ", %s", other->donor_name);
	}
	strlcpy(node->join.donors, names.data, sizeof(node->join.donors));
	LWLockRelease(&node->lock);
}

/* End the sessions with other donors. */
void
rp_join_donors_close(RpJoin *join)
{
	ListCell   *cell;

	foreach(cell, join->others)
		donor_close(join, lfirst(cell), NULL);
	join->others = NIL;
}
