/*
 * siblings.c
 *	  The table behind the view siblings: all standing versions of the keys
 *	  that are contested under vector_clock, the winner among them.
 *
 * It only shows: what a row comes to is asked of the key sets, never of it. Its
 * lines are written in the transaction that changes the row, so that one who
 * sees a loser's line can rely on the row. They go when a version has covered
 * them (a remote one as it is applied, a local one when tracked_follow.c gets to
 * it), and when they are stable: whoever writes from then on has them in his
 * past. When apply starts it empties the table, and has every contested key
 * looked at again (rp_keysets_touch_contested).
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
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "settings.h"
#include "tracked.h"

#define WARNING_INTERVAL_MS 60000

/* Key of the hash table; without padding. */
typedef struct ContestedKey
{
	RpKeyHash	hash;
	uint64		relid;
} ContestedKey;

static HTAB *contested = NULL;

static bool is_shown(RpTrackedKey *t, const P2pKeyVersion *version);
static bool is_contested(RpTrackedKey *t);
static void contested_reset(void);
static void line_write(RpTrackedKey *t, const P2pKeyVersion *version, Datum key);
static void warn_if_many(RpTrackedKey *t);

/* An int8 argument for half of a key's hash, and its like. */
static void
key_args(RpArg *args, Oid relid, RpKeyHash hash)
{
	args[0] = rp_arg_oid(relid);
	args[1] = rp_arg_int8((int64) hash.h1);
	args[2] = rp_arg_int8((int64) hash.h2);
}

void
rp_siblings_show(RpTrackedKey *t)
{
	ContestedKey name = {t->hash, t->open->map->relid};
	bool		shown = is_contested(t);
	bool		found;
	RpCatalog	catalog;
	RpArg		args[3];
	Datum		key;

	if (contested == NULL)
		contested_reset();
	hash_search(contested, &name, shown ? HASH_ENTER : HASH_FIND, &found);
	if (!shown && !found)
		return;

	key = rp_key_jsonb(t->open, t->key);
	for (uint32 i = 0; shown && i < t->nstanding; i++)
	{
		if (is_shown(t, t->standing[i]) && t->standing[i] != t->winner &&
			t->standing[i]->op != P2P_OP_DELETE)
			(void) rp_tracked_image(t, t->standing[i]); /* before we become somebody else */
	}
	rp_catalog_open(&catalog);
	key_args(args, t->open->map->relid, t->hash);
	rp_catalog_run("DELETE FROM replp2p.sibling_rows WHERE relation = $1 AND h1 = $2 AND h2 = $3",
				   SPI_OK_DELETE, args, 3);
	for (uint32 i = 0; shown && i < t->nstanding; i++)
	{
		if (is_shown(t, t->standing[i]))
			line_write(t, t->standing[i], key);
	}
	rp_catalog_close(&catalog);
	if (shown)
		warn_if_many(t);
}

/* The winner is shown, and who stands beside it until it is stable. */
static bool
is_shown(RpTrackedKey *t, const P2pKeyVersion *version)
{
	return version == t->winner || !rp_tracked_is_stable(t->node, version);
}

/* Are there versions to show beside the winner? Of deletes alone there is no choice. */
static bool
is_contested(RpTrackedKey *t)
{
	const RpHandlerChange *handler;
	bool		loser = false;
	bool		row = false;

	if (t->winner == NULL || t->nstanding < 2)
		return false;
	handler = rp_handler_of_epoch(t->handlers, &t->winner->epoch);
	if (handler == NULL || handler->kind != RP_VECTOR_CLOCK)
		return false;
	for (uint32 i = 0; i < t->nstanding; i++)
	{
		if (!is_shown(t, t->standing[i]))
			continue;
		loser |= t->standing[i] != t->winner;
		row |= t->standing[i]->op != P2P_OP_DELETE;
	}
	return loser && row;
}

/* Write the line of one standing version. Its image has been read. */
static void
line_write(RpTrackedKey *t, const P2pKeyVersion *version, Datum key)
{
	bool		is_winner = version == t->winner;
	const RpImage *image = NULL;
	RpSlotVersion v = rp_tracked_slot_version(t->node, version);
	RpArg		args[10];

	if (version->op != P2P_OP_DELETE)
		image = is_winner ? t->row : rp_tracked_image(t, version);
	key_args(args, t->open->map->relid, t->hash);
	args[3] = (RpArg) {JSONBOID, key, false};
	args[4] = (RpArg) {JSONBOID, image ? rp_image_jsonb(t->open, image) : (Datum) 0, image == NULL};
	args[5] = rp_arg_int4(v.slot);
	args[6] = rp_arg_int8((int64) v.seq);
	args[7] = rp_arg_int8(v.stamp);
	args[8] = rp_arg_bool(is_winner);
	args[9] = rp_arg_text(rp_op_name(version->op));
	rp_catalog_run("INSERT INTO replp2p.sibling_rows (relation, h1, h2, key, \"row\", slot, seq, stamp,"
				   " is_winner, kind) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
				   SPI_OK_INSERT, args, lengthof(args));
}

/* Say so in the log, now and then, when a key has many siblings. */
static void
warn_if_many(RpTrackedKey *t)
{
	static TimestampTz warned_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (rp_sibling_warning == 0 || t->nstanding <= (uint32) rp_sibling_warning ||
		(warned_at != 0 && !TimestampDifferenceExceeds(warned_at, now, WARNING_INTERVAL_MS)))
		return;
	warned_at = now;
	ereport(WARNING,
			(errmsg("a row of table \"%s\" has %u siblings",
					RelationGetRelationName(t->open->rel), t->nstanding - 1),
			 errhint("See the view replp2p.siblings; writing the row once more settles them."
					 " replp2p.sibling_warning says from how many on this is logged.")));
}

void
rp_siblings_forget_table(Oid relid)
{
	RpCatalog	catalog;
	RpArg		arg = rp_arg_oid(relid);

	if (contested == NULL || hash_get_num_entries(contested) == 0)
		return;
	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.sibling_rows WHERE relation = $1", SPI_OK_DELETE, &arg, 1);
	rp_catalog_close(&catalog);
}

/* Forget which keys may have lines. */
static void
contested_reset(void)
{
	HASHCTL		ctl = {0};

	if (contested)
		hash_destroy(contested);
	ctl.keysize = sizeof(ContestedKey);
	ctl.entrysize = sizeof(ContestedKey);
	ctl.hcxt = TopMemoryContext;
	contested = hash_create("replp2p contested keys", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void
rp_siblings_start(RpNode *node)
{
	RpCatalog	catalog;

	contested_reset();
	StartTransactionCommand();
	rp_catalog_open(&catalog);
	rp_catalog_run("DELETE FROM replp2p.sibling_rows", SPI_OK_DELETE, NULL, 0);
	rp_catalog_close(&catalog);
	CommitTransactionCommand();
}

void
rp_siblings_sweep(RpNode *node)
{
	RpCatalog	catalog;

	if (contested == NULL || hash_get_num_entries(contested) == 0)
		return;
	StartTransactionCommand();
	rp_catalog_open(&catalog);
	for (int slot = 0; slot < node->nmembers; slot++)
	{
		RpArg		args[2];
		uint64		stable;

		SpinLockAcquire(&node->vector_lock);
		stable = node->members[slot].stable_seq;
		SpinLockRelease(&node->vector_lock);
		args[0] = rp_arg_int4(slot);
		args[1] = rp_arg_int8((int64) stable);
		rp_catalog_run("DELETE FROM replp2p.sibling_rows WHERE slot = $1 AND seq <= $2 AND NOT is_winner",
					   SPI_OK_DELETE, args, lengthof(args));
	}
	rp_catalog_run("DELETE FROM replp2p.sibling_rows w WHERE is_winner AND NOT EXISTS (SELECT"
				   " FROM replp2p.sibling_rows s WHERE s.relation = w.relation AND s.h1 = w.h1"
				   " AND s.h2 = w.h2 AND NOT s.is_winner)", SPI_OK_DELETE, NULL, 0);
	rp_catalog_run("SELECT DISTINCT relation, h1, h2 FROM replp2p.sibling_rows", SPI_OK_SELECT, NULL, 0);
	contested_reset();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		ContestedKey name;

		name.relid = DatumGetObjectId(rp_column(i, 1));
		name.hash.h1 = (uint64) DatumGetInt64(rp_column(i, 2));
		name.hash.h2 = (uint64) DatumGetInt64(rp_column(i, 3));
		hash_search(contested, &name, HASH_ENTER, NULL);
	}
	rp_catalog_close(&catalog);
	CommitTransactionCommand();
}
