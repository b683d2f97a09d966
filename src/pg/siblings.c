/*
 * siblings.c
 *	  The table behind the view siblings: all standing versions of the keys
 *	  that are contested under vector_clock, the winner among them.
 *
 * It only shows: what a row comes to is asked of the key sets, never of it. Its
 * lines are written in the transaction that changes the row. They stay until a
 * version has covered them: a remote one as it is applied, a local one when
 * tracked_follow.c gets to it.
 *
 * A version covers what it has seen, and says so by its deps. Whoever writes a
 * row whose versions are stable has seen them all, so the lines can outlive the key set,
 * which forgets what is stable: of a line only its dot is needed to tell whether
 * it is covered. That, too, is why lines are neither made anew when apply starts
 * nor when a node joins: they are kept, and copied. The hash by which a key's lines are found is
 * this node's own; it is made again from the key's values when apply starts.
 *
 * A conflict of many nodes on one row makes many siblings. Nothing discards
 * them; from replp2p.sibling_warning on the server's log says so.
 *
 * contested is a superset of the keys that have lines, so that changes of other
 * keys cost no statement. Only apply uses it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "displaced.h"
#include "hashtable.h"
#include "rowbody.h"
#include "settings.h"
#include "tracked.h"

#define WARNING_INTERVAL_MS 60000

/* Entry of the hash table; without padding. */
typedef struct ContestedKey
{
	RpKeyHash	hash;
	uint64		relid;
} ContestedKey;

/* A line of the table, and what becomes of it. */
typedef struct Line
{
	P2pVersion	version;
	bool		is_winner;
	bool		is_row;			/* no delete */
	bool		stays;
} Line;

/* All that is shown of one key. */
typedef struct Contest
{
	RpTrackedKey *t;
	Line	   *lines;			/* that are there */
	uint64		nlines;
	const P2pKeyVersion **added;	/* standing versions that have no line yet */
	uint32		nadded;
	P2pVersion	winner;
} Contest;

static HTAB *contested = NULL;

static void contested_reset(void);
static bool lines_are_wanted(RpTrackedKey *t);
static void lines_read(Contest *contest);
static bool line_stays(RpTrackedKey *t, const Line *line);
static bool has_line(const Contest *contest, const P2pKeyVersion *version);
static bool choice_is_left(Contest *contest);
static void lines_write(Contest *contest);
static void line_insert(Contest *contest, const P2pKeyVersion *version);
static void warn_if_many(const Contest *contest);
static void table_load(Oid relid);

/* Argument for the first 16 bytes of a key's lines, and its like. */
static void
key_args(RpArg *args, Oid relid, RpKeyHash hash)
{
	args[0] = (RpArg) {REGCLASSOID, ObjectIdGetDatum(relid), false};
	args[1] = rp_arg_bytes(&hash, sizeof(hash));
}

/* Arguments for a dot. */
static void
dot_args(RpArg *args, const P2pDot *dot)
{
	args[0] = rp_arg_bytes(&dot->origin.id, P2P_ID_SIZE);
	args[1] = rp_arg_int4((int32) dot->origin.epoch);
	args[2] = rp_arg_int8((int64) dot->seq);
}

static bool
dot_equal(const P2pDot *a, const P2pDot *b)
{
	return a->seq == b->seq && p2p_origin_equal(&a->origin, &b->origin);
}

bool
rp_siblings_may_be(Oid relid, RpKeyHash hash)
{
	ContestedKey name = {hash, relid};

	return contested != NULL && hash_get_num_entries(contested) > 0 &&
		hash_search(contested, &name, HASH_FIND, NULL) != NULL;
}

void
rp_siblings_touch_table(Oid relid)
{
	HASH_SEQ_STATUS scan;
	ContestedKey *name;

	if (contested == NULL || hash_get_num_entries(contested) == 0)
		return;
	hash_seq_init(&scan, contested);
	while ((name = hash_seq_search(&scan)) != NULL)
	{
		if (name->relid == relid)
			rp_keyset_touch(relid, name->hash);
	}
}

void
rp_siblings_show(RpTrackedKey *t)
{
	Oid			relid = t->open->map->relid;
	Contest		contest = {.t = t};
	bool		wanted;
	ContestedKey name = {t->hash, relid};

	if (t->moved)
	{
		rp_keyset_touch(relid, t->hash);	/* tracked_follow.c does it */
		return;
	}
	wanted = lines_are_wanted(t);
	if (!rp_siblings_may_be(relid, t->hash) && (!wanted || t->nstanding < 2))
		return;
	if (t->winner && t->winner->op != P2P_OP_DELETE && t->row == NULL && wanted)
		return;					/* somebody has deleted the row: his delete comes */

	lines_read(&contest);
	for (uint64 i = 0; i < contest.nlines; i++)
		contest.lines[i].stays = wanted && line_stays(t, &contest.lines[i]);
	contest.added = palloc_array(const P2pKeyVersion *, Max(t->nstanding, 1));
	for (uint32 i = 0; wanted && t->key && i < t->nstanding; i++)
	{
		const P2pKeyVersion *version = t->standing[i];

		if (has_line(&contest, version) ||
			(version != t->winner && rp_tracked_is_stable(t->node, version)))
			continue;
		if (version != t->winner && version->op != P2P_OP_DELETE)
			(void) rp_tracked_image(t, version);	/* read it before we become somebody else */
		contest.added[contest.nadded++] = version;
	}
	if (!choice_is_left(&contest))
	{
		contest.nadded = 0;
		for (uint64 i = 0; i < contest.nlines; i++)
			contest.lines[i].stays = false;
	}
	hash_search(contested, &name, HASH_ENTER, NULL);
	lines_write(&contest);
	warn_if_many(&contest);
}

/* Does the key's handler show siblings? */
static bool
lines_are_wanted(RpTrackedKey *t)
{
	const RpHandlerChange *handler;

	if (t->winner == NULL)
		return true;			/* as before */
	handler = rp_handler_of_epoch(t->handlers, &t->winner->epoch);
	return handler != NULL && handler->kind == RP_VECTOR_CLOCK;
}

/* Read the lines of the key, in CurrentMemoryContext. */
static void
lines_read(Contest *contest)
{
	static RpStatement select = {
		"SELECT node_id, epoch, seq, stamp, is_winner, kind <> 'delete'"
		" FROM replp2p.sibling_rows WHERE relation = $1 AND key_hash = $2",
		SPI_OK_SELECT
	};
	MemoryContext context = CurrentMemoryContext;
	RpCatalog	catalog;
	RpArg		args[2];

	if (!rp_siblings_may_be(contest->t->open->map->relid, contest->t->hash))
		return;
	rp_catalog_open(&catalog);
	key_args(args, contest->t->open->map->relid, contest->t->hash);
	contest->nlines = rp_statement_run(&select, args, lengthof(args));
	contest->lines = MemoryContextAllocZero(context, sizeof(Line) * Max(contest->nlines, 1));
	for (uint64 i = 0; i < contest->nlines; i++)
	{
		Line	   *line = &contest->lines[i];

		rp_column_bytes(i, 1, &line->version.dot.origin.id, P2P_ID_SIZE);
		line->version.dot.origin.epoch = (uint32) DatumGetInt32(rp_column(i, 2));
		line->version.dot.seq = (uint64) DatumGetInt64(rp_column(i, 3));
		line->version.stamp = DatumGetInt64(rp_column(i, 4));
		line->is_winner = DatumGetBool(rp_column(i, 5));
		line->is_row = DatumGetBool(rp_column(i, 6));
	}
	rp_catalog_close(&catalog);
}

/*
 * Is a line's version not covered by any that the set knows? If it is in the set itself, does it
 * stand there?
 */
static bool
line_stays(RpTrackedKey *t, const Line *line)
{
	P2pKeyVersion itself = {.version = line->version};

	for (uint32 i = 0; i < t->nstanding; i++)
	{
		if (dot_equal(&t->standing[i]->version.dot, &line->version.dot))
			return true;
	}
	for (uint32 i = 0; i < t->set->count; i++)
	{
		if (dot_equal(&t->set->versions[i].version.dot, &line->version.dot) ||
			p2p_keyversion_in_past(&itself, &t->set->versions[i]))
			return false;
	}
	return true;
}

static bool
has_line(const Contest *contest, const P2pKeyVersion *version)
{
	for (uint64 i = 0; i < contest->nlines; i++)
	{
		if (dot_equal(&contest->lines[i].version.dot, &version->version.dot))
			return true;
	}
	return false;
}

/* Find the winner; is there another beside it, and are they not all deletes? */
static bool
choice_is_left(Contest *contest)
{
	uint64		n = contest->nadded;
	bool		row = false;

	memset(&contest->winner, 0, sizeof(contest->winner));
	if (contest->t->winner)
		contest->winner = contest->t->winner->version;
	for (uint32 i = 0; i < contest->nadded; i++)
		row |= contest->added[i]->op != P2P_OP_DELETE;
	for (uint64 i = 0; i < contest->nlines; i++)
	{
		const Line *line = &contest->lines[i];
		bool		in_set = false;

		if (!line->stays)
			continue;
		n++;
		row |= line->is_row;
		for (uint32 s = 0; s < contest->t->nstanding; s++)
			in_set |= dot_equal(&contest->t->standing[s]->version.dot, &line->version.dot);
		/* one that the set has forgotten as stable may be greater than all that it still has */
		if (!in_set && p2p_version_compare(&line->version, &contest->winner) > 0)
			contest->winner = line->version;
	}
	return n > 1 && row;
}

/* Remove the lines that don't stay, write those that are new, and mark the winner. */
static void
lines_write(Contest *contest)
{
	static RpStatement delete = {
		"DELETE FROM replp2p.sibling_rows WHERE relation = $1 AND key_hash = $2"
		" AND node_id = $3 AND epoch = $4 AND seq = $5",
		SPI_OK_DELETE
	};
	static RpStatement update = {
		"UPDATE replp2p.sibling_rows SET is_winner = $6 WHERE relation = $1"
		" AND key_hash = $2 AND node_id = $3 AND epoch = $4 AND seq = $5",
		SPI_OK_UPDATE
	};
	RpCatalog	catalog;
	RpArg		args[6];

	rp_catalog_open(&catalog);
	key_args(args, contest->t->open->map->relid, contest->t->hash);
	for (uint64 i = 0; i < contest->nlines; i++)
	{
		const Line *line = &contest->lines[i];
		bool		wins = dot_equal(&line->version.dot, &contest->winner.dot);

		dot_args(&args[2], &line->version.dot);
		args[5] = rp_arg_bool(wins);
		if (!line->stays)
			rp_statement_run(&delete, args, 5);
		else if (line->is_winner != wins)
			rp_statement_run(&update, args, 6);
	}
	rp_catalog_close(&catalog);
	for (uint32 i = 0; i < contest->nadded; i++)
		line_insert(contest, contest->added[i]);
}

/* Write the line of one standing version. Its image has been read. */
static void
line_insert(Contest *contest, const P2pKeyVersion *version)
{
	static RpStatement insert = {
		"INSERT INTO replp2p.sibling_rows (relation, key_hash, node_id, epoch, seq, stamp,"
		" key, key_image, row_data, is_winner, kind)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
		SPI_OK_INSERT
	};
	RpTrackedKey *t = contest->t;
	const RpImage *image = NULL;
	bytea	   *key_image = rp_rowbody_encode(t->open, t->key, true);
	Datum		key = rp_key_jsonb(t->open, t->key);
	Datum		row = (Datum) 0;
	RpCatalog	catalog;
	RpArg		args[11];

	if (version->op != P2P_OP_DELETE)
		image = version == t->winner ? t->row : rp_tracked_image(t, version);
	if (image)
		row = rp_image_jsonb(t->open, image);
	rp_catalog_open(&catalog);
	key_args(args, t->open->map->relid, t->hash);
	dot_args(&args[2], &version->version.dot);
	args[5] = rp_arg_int8(version->version.stamp);
	args[6] = (RpArg) {JSONBOID, key, false};
	args[7] = (RpArg) {BYTEAOID, PointerGetDatum(key_image), false};
	args[8] = (RpArg) {JSONBOID, row, image == NULL};
	args[9] = rp_arg_bool(dot_equal(&version->version.dot, &contest->winner.dot));
	args[10] = rp_arg_text(rp_op_name(version->op));
	rp_statement_run(&insert, args, lengthof(args));
	rp_catalog_close(&catalog);
}

/* Say so in the log, now and then, when a key has many siblings. */
static void
warn_if_many(const Contest *contest)
{
	static TimestampTz warned_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	uint64		n = contest->nadded;

	for (uint64 i = 0; i < contest->nlines; i++)
		n += contest->lines[i].stays;
	if (rp_sibling_warning == 0 || n <= (uint64) rp_sibling_warning ||
		(warned_at != 0 && !TimestampDifferenceExceeds(warned_at, now, WARNING_INTERVAL_MS)))
		return;
	warned_at = now;
	ereport(WARNING,
			(errmsg("a row of table \"%s\" has " UINT64_FORMAT " siblings",
					RelationGetRelationName(contest->t->open->rel), n - 1),
			 errhint("See the view replp2p.siblings; writing the row once more settles them."
					 " replp2p.sibling_warning says from how many on this is logged.")));
}

void
rp_siblings_forget_table(Oid relid)
{
	RpArg		arg = {REGCLASSOID, ObjectIdGetDatum(relid), false};

	if (contested == NULL || hash_get_num_entries(contested) == 0)
		return;
	rp_catalog_execute("DELETE FROM replp2p.sibling_rows WHERE relation = $1", SPI_OK_DELETE, &arg, 1);
}

/* Forget which keys may have lines. */
static void
contested_reset(void)
{
	if (contested)
		hash_destroy(contested);
	contested = rp_hash_make("replp2p contested keys", TopMemoryContext, 64, sizeof(ContestedKey),
							 sizeof(ContestedKey));
}

/* The tables that have lines; those of dropped ones are removed. In CurrentMemoryContext. */
static List *
tables_read(void)
{
	MemoryContext context = CurrentMemoryContext;
	RpCatalog	catalog;
	List	   *tables = NIL;
	uint64		n;

	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.sibling_rows s WHERE NOT EXISTS"
				   " (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relation)",
				   SPI_OK_DELETE, NULL, 0);
	n = rp_catalog_run("SELECT DISTINCT relation::oid FROM replp2p.sibling_rows", SPI_OK_SELECT, NULL, 0);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		tables = lappend_oid(tables, DatumGetObjectId(rp_column(i, 1)));
		MemoryContextSwitchTo(old);
	}
	rp_catalog_close(&catalog);
	return tables;
}

/*
 * Note the keys of a table that have lines; their hashes may be those of the node that they were
 * copied from.
 */
static void
table_load(Oid relid)
{
	RpOpenRelation *open = rp_displaced_open(relid);
	RpArg		args[3] = {{REGCLASSOID, ObjectIdGetDatum(relid), false}};
	RpCatalog	catalog;
	SPITupleTable *rows;
	uint64		n;

	if (open == NULL)
		return;
	rp_catalog_open(&catalog);
	n = rp_catalog_run("SELECT DISTINCT key_hash, key_image FROM replp2p.sibling_rows"
					   " WHERE relation = $1", SPI_OK_SELECT, args, 1);
	rows = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		ContestedKey name = {.relid = relid};
		RpKeyHash	copied;

		SPI_tuptable = rows;
		rp_column_bytes(i, 1, &copied, sizeof(copied));
		rp_rowbody_decode(open, DatumGetByteaPP(rp_column(i, 2)), open->image);
		name.hash = rp_key_hash(open->map, open->image);
		hash_search(contested, &name, HASH_ENTER, NULL);
		if (name.hash.h1 != copied.h1 || name.hash.h2 != copied.h2)
		{
			args[1] = rp_arg_bytes(&copied, sizeof(copied));
			args[2] = rp_arg_bytes(&name.hash, sizeof(name.hash));
			rp_catalog_run("UPDATE replp2p.sibling_rows SET key_hash = $3"
						   " WHERE relation = $1 AND key_hash = $2", SPI_OK_UPDATE, args, 3);
		}
		ResetPerTupleExprContext(open->estate);
	}
	rp_catalog_close(&catalog);
	rp_relation_close(open);
}

void
rp_siblings_load(void)
{
	ListCell   *cell;

	contested_reset();
	foreach(cell, tables_read())
		table_load(lfirst_oid(cell));
}

void
rp_siblings_sweep(void)
{
	ListCell   *cell;

	if (contested == NULL || hash_get_num_entries(contested) == 0)
		return;
	StartTransactionCommand();
	foreach(cell, tables_read())
	{
		const RpTableHandlers *handlers = rp_handlers_of(lfirst_oid(cell));
		bool		wanted = false;

		for (int i = 0; handlers && i < handlers->nchanges; i++)
			wanted |= handlers->changes[i].kind == RP_VECTOR_CLOCK;
		if (!wanted)
			rp_siblings_forget_table(lfirst_oid(cell));
	}
	CommitTransactionCommand();
}
