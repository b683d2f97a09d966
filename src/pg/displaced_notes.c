/*
 * displaced_notes.c
 *	  What local writes mean for displaced rows.
 *
 * A local write supersedes the displaced row of its key, and a local TRUNCATE those of
 * its table. Clients know nothing of displaced rows; apply finds out when it follows
 * the own log (ownlog.c): it notes each such write, and between transactions forgets the
 * displaced rows that are less. In a tracked table the sum of a counter may come first
 * (tracked_follow.c).
 *
 * The notes are in memory only. The log is followed from its oldest record after a start, so
 * that they come again. Some may be long carried out, then; so a displaced row says up to where local writes were
 * known when it was displaced, and those supersede nothing. Their versions would not tell: what is stable
 * is dropped from key sets, so a row may have been displaced as the lower of the versions that it was made
 * of (apply_unique.c: tracked_row_version).
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "displaced.h"
#include "handlers.h"
#include "hashtable.h"
#include "keyset.h"
#include "logpass.h"

/* Displaced rows that are read at once after a truncate. */
#define TRUNCATE_ROWS 64

/* What the own log has told: a row superseded by a local write, or a truncate of the table. */
typedef struct LocalNote
{
	RpKeyHash	hash;			/* of a truncate: of no key, made of relid */
	Oid			relid;
	bool		every;			/* a truncate */
	RpSlotVersion version;
} LocalNote;

static HTAB *notes = NULL;		/* LocalNote, by hash; made with the first */

static HTAB *notes_make(void);
static void note_add(Oid relid, RpKeyHash hash, bool every, const RpSlotVersion *version);
static bool has_counter(const RpTableHandlers *handlers);
static bool sum_is_due(Oid relid, RpKeyHash hash);
static bool note_stands(const LocalNote *note);
static void note_apply(const LocalNote *note);

static HTAB *
notes_make(void)
{
	return rp_hash_make("replp2p displaced notes", TopMemoryContext, 64, sizeof(RpKeyHash),
						sizeof(LocalNote));
}

/* Remember that a local write has superseded a key, or (no key of its own) emptied the table. */
static void
note_add(Oid relid, RpKeyHash hash, bool every, const RpSlotVersion *version)
{
	bool		found;
	LocalNote  *note;

	if (notes == NULL)
		notes = notes_make();
	note = hash_search(notes, &hash, HASH_ENTER, &found);
	if (!found || rp_slot_version_compare(&note->version, version) < 0)
		note->version = *version;
	note->relid = relid;
	note->every = every;
}

void
rp_displaced_visit(const RpPassItem *item)
{
	RpPassKeys	found;

	if (rp_displaced_is_empty())
		return;
	if (item->tag == P2P_TAG_TRUNCATE)
	{
		for (int i = 0; i < item->ntables; i++)
		{
			Oid			relid = rp_pass_relid(item->tables[i]);
			RpKeyHash	hash = {relid, PG_UINT64_MAX};

			if (!rp_displaced_in(relid))
				continue;
			rp_displaced_touch(relid);
			note_add(relid, hash, true, &item->version);
		}
		return;
	}
	if (!rp_displaced_in(rp_pass_relid(item->table)))
		return;
	rp_displaced_touch(rp_pass_relid(item->table));
	if (!rp_pass_keys(item, NULL, &found))
		return;
	if (found.old && rp_displaced_key(found.old_key))
		note_add(rp_pass_relid(item->table), found.old_key, false, &item->version);
	if (found.new && rp_displaced_key(found.new_key))
	{
		note_add(rp_pass_relid(item->table), found.new_key, false, &item->version);
		if (has_counter(rp_handlers_of(rp_pass_relid(item->table))))
			rp_keyset_touch(rp_pass_relid(item->table), found.new_key);
	}
}

/* Does the table have a counter? Then what a displaced row has counted is not simply forgotten. */
static bool
has_counter(const RpTableHandlers *handlers)
{
	for (int m = 0; handlers && m < handlers->nmerges; m++)
	{
		if (handlers->merges[m].kind == RP_MERGE_COUNTER)
			return true;
	}
	return false;
}

bool
rp_displaced_is_followed(Oid relid, RpKeyHash hash)
{
	if (!sum_is_due(relid, hash))
		return false;
	rp_keyset_touch(relid, hash);
	return true;
}

/* Has a client inserted the key anew, so that counters are to be added up? */
static bool
sum_is_due(Oid relid, RpKeyHash hash)
{
	const P2pKeyVersion *winner;

	if (!has_counter(rp_handlers_of(relid)))
		return false;
	winner = p2p_keyset_winner(rp_keyset_of(relid, hash));
	return winner != NULL && winner->op != P2P_OP_DELETE;
}

/*
 * Is the displaced row to be forgotten? In a tracked table a remote version may beat a local one that is
 * greater (p2p_keyset.h); and tracked_follow.c may have to add up counters first.
 */
static bool
note_stands(const LocalNote *note)
{
	const RpTableHandlers *handlers = rp_handlers_of(note->relid);
	const P2pKeyVersion *winner;

	if (handlers == NULL || !handlers->tracked)
		return true;
	if (sum_is_due(note->relid, note->hash))
		return false;			/* the key was touched when the note was made */
	winner = p2p_keyset_winner(rp_keyset_of(note->relid, note->hash));
	return winner == NULL || ((RpKeyPayload *) winner->payload)->slot == RP_SELF;
}

bool
rp_displaced_is_superseded(Oid relid, const RpDisplacedRow *row)
{
	RpKeyHash	names[] = {row->hash, {relid, PG_UINT64_MAX}};

	for (size_t i = 0; notes != NULL && i < lengthof(names); i++)
	{
		const LocalNote *note = hash_search(notes, &names[i], HASH_FIND, NULL);

		if (note != NULL && note->relid == relid && note->version.seq > row->known_seq &&
			rp_slot_version_compare(&note->version, &row->version) > 0)
		{
			LocalNote	one = *note;

			one.hash = row->hash;
			if (note_stands(&one))
				return true;
		}
	}
	return false;
}

/* Forget what a note supersedes. A truncate is asked key by key where the table is tracked. */
static void
note_apply(const LocalNote *note)
{
	const RpTableHandlers *handlers = rp_handlers_of(note->relid);
	LocalNote	one = *note;
	RpDisplacedRow *last = NULL;
	List	   *rows;

	if (!note->every || handlers == NULL || !handlers->tracked)
	{
		if (note_stands(note))
			rp_displaced_forget_older(note->relid, note->every ? NULL : &note->hash, &note->version);
		return;
	}
	while ((rows = rp_displaced_list(note->relid, last, TRUNCATE_ROWS)) != NIL)
	{
		ListCell   *cell;

		foreach(cell, rows)
		{
			last = lfirst(cell);
			one.hash = last->hash;
			if (note_stands(&one))
				rp_displaced_forget_older(one.relid, &one.hash, &one.version);
		}
	}
}

bool
rp_displaced_notes_apply(void)
{
	HASH_SEQ_STATUS scan;
	LocalNote  *note;

	if (notes == NULL || hash_get_num_entries(notes) == 0)
		return false;
	hash_seq_init(&scan, notes);
	while ((note = hash_seq_search(&scan)) != NULL)
		note_apply(note);
	return true;
}

void
rp_displaced_notes_done(void)
{
	HASH_SEQ_STATUS scan;
	LocalNote  *note;

	if (notes == NULL)
		return;
	hash_seq_init(&scan, notes);
	while ((note = hash_seq_search(&scan)) != NULL)
		(void) hash_search(notes, &note->hash, HASH_REMOVE, NULL);
}
