/*
 * keyset.c
 *	  The key sets of tracked tables in memory: adding, undoing, forgetting.
 *
 * What a set comes to is core's (p2p_keyset.h), its memory versionset.c's; here
 * is which keys have one, and when versions come and go.
 *
 *	  come	from a log (rp_keyset_put): others' when apply starts or a table
 *			becomes tracked, the own one as it grows; they stay
 *	  come	with the transaction that is being applied (rp_keyset_add): pending
 *			until it commits; if it fails they are taken out again, and what
 *			they covered stands again
 *	  go	when they are stable
 *	  go	when covered, nothing pending is in the set, and the table has no
 *			column merge: who could still ask for them? The one that covers
 *			them is greater and unseen wherever they are, so neither the
 *			winner, nor the standing, nor a conflict changes. (The last
 *			delete stays. Counters sum covered versions, too.)
 *
 * So without column merges memory goes with the number of keys that were
 * written lately, some 300 bytes each, not with the number of writes.
 *
 * Truncates of a table are versions of each of its keys; the table keeps them
 * in a set of its own, from which new sets begin.
 *
 * Epochs are those of the handlers as they are: when a table's handlers
 * change, all its versions get theirs anew. A new column merge wants deltas,
 * and what was dropped as covered; one that is gone takes its deltas along: the sets are built again
 * from the logs, which have lost nothing since (nothing is trimmed while a change is
 * unsettled). To ask for handlers may itself build sets, which moves versions
 * and deps: so each function asks first (table_of), and then looks at sets.
 *
 * Only apply uses this, alone: no locks.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "utils/memutils.h"

#include "hashtable.h"
#include "versionset.h"

typedef struct RpKeyTable KeyTable;

typedef struct KeyEntry
{
	RpKeyHash	key;
	RpVersionSet	versions;
	dlist_node	in_table;
	dlist_node	in_touched;		/* of touched or taken, unless the next is TOUCH_NONE */
	enum
	{
		TOUCH_NONE = 0,
		TOUCH_WAITING,			/* in touched */
		TOUCH_TAKEN				/* in taken: being looked at in this transaction */
	}			touch;
} KeyEntry;

struct RpKeyTable
{
	Oid			relid;
	dlist_head	sets;			/* KeyEntry.in_table */
	RpVersionSet	truncates;
	const RpTableHandlers *handlers;	/* NULL: not tracked; as of the last table_of, not to be kept */
	uint64		epochs_of;		/* hash of the handler changes that its epochs are of */
	uint64	   *merges_of;		/* hashes of the merges that its deltas are of */
	int			nmerges;
	uint32		builds_wanted;	/* one more whenever that is not so */
	uint32		builds_done;
};

static RpNode *our_node;
static MemoryContext set_context;
static HTAB *entries;			/* KeyEntry by key; entries stay where they are */
static HTAB *tables;			/* KeyTable by relid; likewise */

/* Sets with versions of the transaction that is being applied. */
static RpVersionSet **pending_sets;
static int	npending = 0;
static int	max_pending = 0;
static P2pDot pending_dot;

static dlist_head touched = DLIST_STATIC_INIT(touched);
static dlist_head taken = DLIST_STATIC_INIT(taken);

static KeyTable *table_of(Oid relid);
static void table_epochs_follow(KeyTable *table);
static void table_merges_follow(KeyTable *table);
static P2pVersion epoch_of(const KeyTable *table, const P2pKeyVersion *version);
static void table_drop(KeyTable *table);
static KeyEntry *entry_of(Oid relid, RpKeyHash key);
static void entry_drop(KeyEntry *entry);
static void entry_touch(KeyEntry *entry);
static void set_put(RpVersionSet *in, const P2pKeyVersion *version, RpSharedDeps *deps,
					const RpKeyPayload *payload);
static void set_prune(RpVersionSet *in);
static void pending_note(RpVersionSet *in, const P2pDot *dot);
static void truncate_put(Oid relid, const P2pKeyVersion *version, const P2pVector *deps,
						 bool pending);
static int	slot_of(const P2pKeyVersion *version);

void
rp_keysets_init(RpNode *node)
{
	our_node = node;
	set_context = AllocSetContextCreate(TopMemoryContext, "replp2p key sets",
										ALLOCSET_DEFAULT_SIZES);
	entries = rp_hash_make("replp2p key sets", set_context, 1024, sizeof(RpKeyHash),
						   sizeof(KeyEntry));
	tables = rp_hash_make("replp2p tracked tables", set_context, 64, sizeof(Oid), sizeof(KeyTable));
	rp_version_sets_init(set_context);
}

P2pKeySet *
rp_keyset_of(Oid relid, RpKeyHash key)
{
	KeyTable   *table = table_of(relid);

	if (table->builds_done != table->builds_wanted)
	{
		uint32		wanted = table->builds_wanted;
		uint64		own_seq;

		SpinLockAcquire(&our_node->vector_lock);
		own_seq = our_node->members[RP_SELF].captured_seq;
		SpinLockRelease(&our_node->vector_lock);
		rp_keysets_build(relid, own_seq);
		table->builds_done = wanted;
	}
	return &entry_of(relid, key)->versions.set;
}

void
rp_keyset_add(P2pKeySet *set, const P2pKeyVersion *version, const P2pVector *deps,
			  const RpKeyPayload *payload)
{
	RpVersionSet *in = (RpVersionSet *) set;

	(void) table_of(in->table->relid);
	pending_note(in, &version->version.dot);
	set_put(in, version, rp_deps_share(slot_of(version), deps), payload);
}

void
rp_keyset_put(Oid relid, RpKeyHash key, const P2pKeyVersion *version, const P2pVector *deps,
			  const RpKeyPayload *payload)
{
	KeyEntry   *entry = entry_of(relid, key);
	RpVersionSet *in = &entry->versions;
	int			slot = slot_of(version);
	bool		was_contested = slot == RP_SELF && rp_version_set_is_contested(in);

	set_put(in, version, rp_deps_share(slot, deps), payload);
	set_prune(in);
	if (was_contested || (slot == RP_SELF && (rp_version_set_is_contested(in) ||
											  rp_siblings_may_be(relid, key))))
		entry_touch(entry);
}

void
rp_keysets_truncate(Oid relid, const P2pKeyVersion *version, const P2pVector *deps)
{
	truncate_put(relid, version, deps, true);
}

void
rp_keysets_put_truncate(Oid relid, const P2pKeyVersion *version, const P2pVector *deps)
{
	truncate_put(relid, version, deps, false);
}

/* Add a truncate to the table and to all its sets. */
static void
truncate_put(Oid relid, const P2pKeyVersion *version, const P2pVector *deps, bool pending)
{
	KeyTable   *table = table_of(relid);
	int			slot = slot_of(version);
	RpSharedDeps *shared = rp_deps_share(slot, deps);
	dlist_iter	iter;

	if (pending)
		pending_note(&table->truncates, &version->version.dot);
	set_put(&table->truncates, version, shared, rp_payload_plain(slot));
	dlist_foreach(iter, &table->sets)
	{
		KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);
		bool		was_contested = slot == RP_SELF && rp_version_set_is_contested(&entry->versions);

		if (pending)
			pending_note(&entry->versions, &version->version.dot);
		set_put(&entry->versions, version, shared, rp_payload_plain(slot));
		set_prune(&entry->versions);
		if (was_contested || (slot == RP_SELF && rp_version_set_is_contested(&entry->versions)))
			entry_touch(entry);
	}
	if (slot == RP_SELF)
		rp_siblings_touch_table(relid);
}

void
rp_keysets_commit(void)
{
	dlist_mutable_iter iter;

	for (int i = 0; i < npending; i++)
	{
		pending_sets[i]->pending = false;
		set_prune(pending_sets[i]);
	}
	npending = 0;
	dlist_foreach_modify(iter, &taken)
	{
		dlist_container(KeyEntry, in_touched, iter.cur)->touch = TOUCH_NONE;
		dlist_delete(iter.cur);
	}
}

void
rp_keysets_abort(void)
{
	dlist_mutable_iter iter;

	for (int i = 0; i < npending; i++)
	{
		rp_version_set_undo(pending_sets[i], &pending_dot);
		pending_sets[i]->pending = false;
	}
	npending = 0;
	dlist_foreach_modify(iter, &taken)
	{
		dlist_container(KeyEntry, in_touched, iter.cur)->touch = TOUCH_WAITING;
		dlist_delete(iter.cur);
		dlist_push_tail(&touched, iter.cur);
	}
}

void
rp_keysets_sweep(const P2pVector *stable)
{
	HASH_SEQ_STATUS scan;
	KeyTable   *table;

	Assert(npending == 0);
	if (rp_handlers_unsettled(our_node))
		return;
	hash_seq_init(&scan, tables);
	while ((table = hash_seq_search(&scan)) != NULL)
	{
		dlist_mutable_iter iter;

		if (table_of(table->relid)->handlers == NULL)
		{
			table_drop(table);
			continue;
		}
		rp_version_set_drop_stable(&table->truncates, stable);
		dlist_foreach_modify(iter, &table->sets)
		{
			KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);

			if (entry->touch != TOUCH_NONE)
				continue;		/* the row is still to be made of all of them */
			rp_version_set_drop_stable(&entry->versions, stable);
			if (entry->versions.set.count == 0)
				entry_drop(entry);
		}
	}
}

bool
rp_keysets_next_touched(Oid *relid, RpKeyHash *key)
{
	KeyEntry   *entry;

	if (dlist_is_empty(&touched))
		return false;
	entry = dlist_container(KeyEntry, in_touched, dlist_pop_head_node(&touched));
	dlist_push_tail(&taken, &entry->in_touched);
	entry->touch = TOUCH_TAKEN;
	*relid = entry->versions.table->relid;
	*key = entry->key;
	return true;
}

bool
rp_keysets_any_touched(void)
{
	return !dlist_is_empty(&touched);
}

void
rp_keysets_touch_contested(Oid relid)
{
	HASH_SEQ_STATUS scan;
	KeyTable   *table;

	hash_seq_init(&scan, tables);
	while ((table = hash_seq_search(&scan)) != NULL)
	{
		dlist_iter	iter;

		if (OidIsValid(relid) && table->relid != relid)
			continue;
		dlist_foreach(iter, &table->sets)
		{
			KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);

			if (rp_version_set_is_contested(&entry->versions))
				entry_touch(entry);
		}
	}
}

RpKeyHash *
rp_keysets_contested(Oid relid, int *count)
{
	KeyTable   *table = hash_search(tables, &relid, HASH_FIND, NULL);
	RpKeyHash  *keys = NULL;
	dlist_iter	iter;
	int			max = 0;

	*count = 0;
	if (table == NULL)
		return NULL;
	dlist_foreach(iter, &table->sets)
	{
		KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);

		if (!rp_version_set_is_contested(&entry->versions))
			continue;
		if (*count == max)
		{
			max = Max(64, max * 2);
			keys = keys == NULL ? palloc_array(RpKeyHash, max) : repalloc_array(keys, RpKeyHash, max);
		}
		keys[(*count)++] = entry->key;
	}
	return keys;
}

void
rp_keyset_touch(Oid relid, RpKeyHash key)
{
	entry_touch(entry_of(relid, key));
}

/* Have the key looked at again; one that is being looked at now, too. */
static void
entry_touch(KeyEntry *entry)
{
	if (entry->touch == TOUCH_WAITING)
		return;
	if (entry->touch == TOUCH_TAKEN)
		dlist_delete(&entry->in_touched);
	dlist_push_tail(&touched, &entry->in_touched);
	entry->touch = TOUCH_WAITING;
}

/* Return the table, made if it is new, with handlers as they are, and epochs of them. */
static KeyTable *
table_of(Oid relid)
{
	const RpTableHandlers *handlers = rp_handlers_of(relid);
	bool		found;
	KeyTable   *table = hash_search(tables, &relid, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) table + sizeof(Oid), 0, sizeof(KeyTable) - sizeof(Oid));
		dlist_init(&table->sets);
		table->truncates.table = table;
	}
	table->handlers = handlers;
	table_epochs_follow(table);
	table_merges_follow(table);
	if (!found)
		table->builds_done = table->builds_wanted;
	return table;
}

/* Hash a handler change, or a merge of a column. */
static uint64
change_hash(const RpChangeVersion *made, int kind, int attno)
{
	const P2pVersion *version = &made->version;
	uint64		hash = hash_bytes_extended(version->dot.origin.id.bytes, P2P_ID_SIZE, kind);

	hash = hash_combine64(hash, (uint64) version->stamp);
	hash = hash_combine64(hash, version->dot.seq);
	hash = hash_combine64(hash, version->dot.origin.epoch);
	return hash_combine64(hash, (uint64) attno);
}

/* Give all versions of the table their epochs anew if the changes of its handler are others. */
static void
table_epochs_follow(KeyTable *table)
{
	uint64		hash = 1;
	P2pKeySet  *set = &table->truncates.set;
	dlist_iter	iter;

	for (int i = 0; table->handlers && i < table->handlers->nchanges; i++)
		hash = hash_combine64(hash, change_hash(&table->handlers->changes[i].made, 0, 0));
	if (hash == table->epochs_of)
		return;
	table->epochs_of = hash;
	for (uint32 i = 0; i < set->count; i++)
		set->versions[i].epoch = epoch_of(table, &set->versions[i]);
	dlist_foreach(iter, &table->sets)
	{
		set = &dlist_container(KeyEntry, in_table, iter.cur)->versions.set;
		for (uint32 i = 0; i < set->count; i++)
			set->versions[i].epoch = epoch_of(table, &set->versions[i]);
	}
}

/* Hash a merge of the table. */
static uint64
merge_hash(const KeyTable *table, int m)
{
	const RpColumnMerge *merge = &table->handlers->merges[m];

	return change_hash(&merge->made, merge->kind, merge->attno);
}

/* Note whether the table has a merge that its sets do not know, or they know one that it has no more. */
static void
table_merges_follow(KeyTable *table)
{
	int			n = table->handlers ? table->handlers->nmerges : 0;
	int			same = 0;
	uint64	   *hashes;

	while (same < Min(n, table->nmerges) && table->merges_of[same] == merge_hash(table, same))
		same++;
	if (same == n && n == table->nmerges)
		return;
	hashes = MemoryContextAlloc(set_context, sizeof(uint64) * Max(n, 1));
	for (int i = 0; i < n; i++)
		hashes[i] = merge_hash(table, i);
	if (table->merges_of)
		pfree(table->merges_of);
	table->merges_of = hashes;
	table->nmerges = n;
	if (table->handlers)
		table->builds_wanted++;
}

/* The epoch of a version of the table. */
static P2pVersion
epoch_of(const KeyTable *table, const P2pKeyVersion *version)
{
	P2pVersion	ancient = {0};

	return table->handlers ? rp_handler_epoch(table->handlers, version) : ancient;
}

/* Drop a table and all its sets. */
static void
table_drop(KeyTable *table)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &table->sets)
		entry_drop(dlist_container(KeyEntry, in_table, iter.cur));
	rp_version_set_empty(&table->truncates);
	if (table->merges_of)
		pfree(table->merges_of);
	hash_search(tables, &table->relid, HASH_REMOVE, NULL);
}

/* Return the entry of a key; a new one begins with the table's truncates. */
static KeyEntry *
entry_of(Oid relid, RpKeyHash key)
{
	KeyTable   *table = table_of(relid);
	bool		found;
	KeyEntry   *entry = hash_search(entries, &key, HASH_ENTER, &found);
	P2pKeySet  *truncates = &table->truncates.set;

	if (found)
		return entry;
	memset((char *) entry + sizeof(key), 0, sizeof(KeyEntry) - sizeof(key));
	entry->versions.table = table;
	dlist_push_tail(&table->sets, &entry->in_table);
	if (table->truncates.pending)
		pending_note(&entry->versions, &pending_dot);
	for (uint32 i = 0; i < truncates->count; i++)
	{
		const P2pKeyVersion *v = &truncates->versions[i];

		set_put(&entry->versions, v, rp_deps_of(v), v->payload);
	}
	return entry;
}

static void
entry_drop(KeyEntry *entry)
{
	Assert(!entry->versions.pending);
	if (entry->touch != TOUCH_NONE)
		dlist_delete(&entry->in_touched);
	dlist_delete(&entry->in_table);
	rp_version_set_empty(&entry->versions);
	hash_search(entries, &entry->key, HASH_REMOVE, NULL);
}

/* Add a version to a set, with the epoch that it has by the table's handlers. */
static void
set_put(RpVersionSet *in, const P2pKeyVersion *version, RpSharedDeps *deps,
		const RpKeyPayload *payload)
{
	P2pKeyVersion new = *version;

	new.deps = deps->entries;
	new.ndeps = deps->count;
	new.epoch = epoch_of(in->table, &new);
	rp_version_set_put(in, &new, deps, payload, in->table->relid);
}

/* Drop covered versions if nobody can ask for them any more (file head). */
static void
set_prune(RpVersionSet *in)
{
	if (!in->pending && in->table->nmerges == 0)
		rp_version_set_prune(in);
}

/* Remember that the set gets a version of the transaction that is being applied. */
static void
pending_note(RpVersionSet *in, const P2pDot *dot)
{
	if (npending == 0)
		pending_dot = *dot;
	Assert(pending_dot.seq == dot->seq && p2p_origin_equal(&pending_dot.origin, &dot->origin));
	if (in->pending)
		return;
	if (npending == max_pending)
	{
		int			room = Max(max_pending * 2, 1024);
		Size		size = sizeof(RpVersionSet *) * (Size) room;

		if (pending_sets == NULL)
			pending_sets = MemoryContextAlloc(set_context, size);
		else
			pending_sets = repalloc_huge(pending_sets, size);
		max_pending = room;
	}
	pending_sets[npending++] = in;
	in->pending = true;
}

/* The slot of a version's origin. */
static int
slot_of(const P2pKeyVersion *version)
{
	for (int slot = 0; slot < our_node->nmembers; slot++)
	{
		if (p2p_origin_equal(&our_node->members[slot].origin, &version->version.dot.origin))
			return slot;
	}
	elog(ERROR, "a version has an origin that is no member");
}
