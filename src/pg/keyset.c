/*
 * keyset.c
 *	  The key sets of tracked tables in memory: adding, undoing, forgetting.
 *
 * What a set comes to is core's (p2p_keyset.h); here is who owns its memory,
 * and when versions come and go.
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
 * written lately, some 300 bytes each, not with the number of writes. A
 * counter's set has an entry for each unstable write of its row; nothing of
 * it may be discarded, so from KEYSET_WARN_VERSIONS on, and each time that
 * the number has doubled, the server's log says so.
 *
 * Truncates of a table are versions of each of its keys; the table keeps them
 * in a set of its own, from which new sets begin.
 *
 * Epochs are those of the handlers as they are: when a table's handlers
 * change, all its versions get theirs anew. A new column merge wants deltas,
 * and what was dropped as covered: the sets are built again from the logs,
 * which have lost nothing since (nothing is trimmed while a change is
 * unsettled). To ask for handlers may itself build sets, which moves versions
 * and deps: so each function asks first (table_of), and then looks at sets.
 *
 * The deps of a transaction are kept once for all its versions, and for those
 * of the origin's next ones as long as they are the same.
 *
 * Only apply uses this, alone: no locks.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "keyset.h"

/* A set of so many versions is said to be large. */
#define KEYSET_WARN_VERSIONS 1024
#define FIRST_CAPACITY 1
#define SECOND_CAPACITY 4

/* The deps of one transaction, or of several of one origin. */
typedef struct SharedDeps
{
	uint32		references;
	uint32		count;
	P2pVectorEntry entries[FLEXIBLE_ARRAY_MEMBER];
} SharedDeps;

typedef struct KeyTable KeyTable;

/* A set of core's and what belongs to it here; set comes first, so that its address is ours. */
typedef struct VersionSet
{
	P2pKeySet	set;
	KeyTable   *table;
	bool		pending;		/* stands in pending_sets */
} VersionSet;

typedef struct KeyEntry
{
	RpKeyHash	key;
	VersionSet	versions;
	dlist_node	in_table;
	dlist_node	in_touched;		/* of touched or taken, unless the next is TOUCH_NONE */
	enum
	{
		TOUCH_NONE = 0,
		TOUCH_WAITING,			/* in touched */
		TOUCH_TAKEN				/* in taken: being looked at in this transaction */
	}			touch;
} KeyEntry;

struct KeyTable
{
	Oid			relid;
	dlist_head	sets;			/* KeyEntry.in_table */
	VersionSet	truncates;
	const RpTableHandlers *handlers;	/* NULL: not tracked; as of the last table_of, not to be kept */
	uint64		epochs_of;		/* hash of the handler changes that its epochs are of */
	uint64	   *merges_of;		/* hashes of the merges that its deltas are of */
	int			nmerges;
	bool		build_due;		/* there is a merge of which that is not so */
};

static RpNode *our_node;
static MemoryContext set_context;
static HTAB *entries;			/* KeyEntry by key; entries stay where they are */
static HTAB *tables;			/* KeyTable by relid; likewise */
static SharedDeps *last_deps[RP_MAX_MEMBERS];
static RpKeyPayload plain_payloads[RP_MAX_MEMBERS]; /* of versions without deltas */

/* Sets with versions of the transaction that is being applied. */
static VersionSet **pending_sets;
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
static void set_put(VersionSet *in, const P2pKeyVersion *version, SharedDeps *deps,
					const RpKeyPayload *payload);
static void set_make_room(VersionSet *in);
static void set_warn(VersionSet *in, uint32 count);
static bool set_is_contested(VersionSet *in);
static void set_prune(VersionSet *in);
static void set_undo(VersionSet *in);
static void set_drop_stable(VersionSet *in, const P2pVector *stable);
static void set_empty(VersionSet *in);
static void pending_note(VersionSet *in, const P2pDot *dot);
static void truncate_put(Oid relid, const P2pKeyVersion *version, const P2pVector *deps,
						 bool pending);
static void version_release(P2pKeyVersion *version);
static SharedDeps *deps_share(int slot, const P2pVector *deps);
static void deps_release(SharedDeps *deps);
static RpKeyPayload *payload_copy(const RpKeyPayload *payload);
static int	slot_of(const P2pKeyVersion *version);

void
rp_keysets_init(RpNode *node)
{
	HASHCTL		ctl = {0};

	our_node = node;
	set_context = AllocSetContextCreate(TopMemoryContext, "replp2p key sets",
										ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(RpKeyHash);
	ctl.entrysize = sizeof(KeyEntry);
	ctl.hcxt = set_context;
	entries = hash_create("replp2p key sets", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(KeyTable);
	tables = hash_create("replp2p tracked tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
		plain_payloads[slot].slot = (uint16) slot;
}

P2pKeySet *
rp_keyset_of(Oid relid, RpKeyHash key)
{
	KeyTable   *table = table_of(relid);

	if (table->build_due)
	{
		uint64		own_seq;

		SpinLockAcquire(&our_node->vector_lock);
		own_seq = our_node->members[RP_SELF].captured_seq;
		SpinLockRelease(&our_node->vector_lock);
		rp_keysets_build(relid, own_seq);
		table->build_due = false;
	}
	return &entry_of(relid, key)->versions.set;
}

void
rp_keyset_add(P2pKeySet *set, const P2pKeyVersion *version, const P2pVector *deps,
			  const RpKeyPayload *payload)
{
	VersionSet *in = (VersionSet *) set;

	(void) table_of(in->table->relid);
	pending_note(in, &version->version.dot);
	set_put(in, version, deps_share(slot_of(version), deps), payload);
}

void
rp_keyset_put(Oid relid, RpKeyHash key, const P2pKeyVersion *version, const P2pVector *deps,
			  const RpKeyPayload *payload)
{
	KeyEntry   *entry = entry_of(relid, key);
	VersionSet *in = &entry->versions;
	int			slot = slot_of(version);
	bool		was_contested = slot == RP_SELF && set_is_contested(in);

	set_put(in, version, deps_share(slot, deps), payload);
	set_prune(in);
	if (was_contested || (slot == RP_SELF && (set_is_contested(in) || rp_siblings_may_be(relid, key))))
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
	SharedDeps *shared = deps_share(slot, deps);
	dlist_iter	iter;

	if (pending)
		pending_note(&table->truncates, &version->version.dot);
	set_put(&table->truncates, version, shared, &plain_payloads[slot]);
	dlist_foreach(iter, &table->sets)
	{
		KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);
		bool		was_contested = slot == RP_SELF && set_is_contested(&entry->versions);

		if (pending)
			pending_note(&entry->versions, &version->version.dot);
		set_put(&entry->versions, version, shared, &plain_payloads[slot]);
		set_prune(&entry->versions);
		if (was_contested || (slot == RP_SELF && set_is_contested(&entry->versions)))
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
		set_undo(pending_sets[i]);
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
		set_drop_stable(&table->truncates, stable);
		dlist_foreach_modify(iter, &table->sets)
		{
			KeyEntry   *entry = dlist_container(KeyEntry, in_table, iter.cur);

			set_drop_stable(&entry->versions, stable);
			if (entry->versions.set.count == 0 && entry->touch == TOUCH_NONE)
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

void
rp_keysets_touch_contested(Oid relid)
{
	HASH_SEQ_STATUS scan;
	KeyEntry   *entry;

	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if ((relid == InvalidOid || entry->versions.table->relid == relid) &&
			set_is_contested(&entry->versions))
			entry_touch(entry);
	}
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
		table->build_due = false;
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

/* Note whether the table has a merge that its sets do not know. */
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
	{
		bool		known = false;

		hashes[i] = merge_hash(table, i);
		for (int k = 0; k < table->nmerges && !known; k++)
			known = table->merges_of[k] == hashes[i];
		table->build_due |= !known;
	}
	if (table->merges_of)
		pfree(table->merges_of);
	table->merges_of = hashes;
	table->nmerges = n;
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
	set_empty(&table->truncates);
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

		set_put(&entry->versions, v,
				(SharedDeps *) ((char *) v->deps - offsetof(SharedDeps, entries)), v->payload);
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
	set_empty(&entry->versions);
	hash_search(entries, &entry->key, HASH_REMOVE, NULL);
}

/* Find a version in a set. Most that are looked for came last. */
static P2pKeyVersion *
set_find(P2pKeySet *set, const P2pKeyVersion *version)
{
	for (uint32 i = set->count; i-- > 0;)
	{
		P2pKeyVersion *v = &set->versions[i];

		if (v->step == version->step && v->version.dot.seq == version->version.dot.seq &&
			p2p_origin_equal(&v->version.dot.origin, &version->version.dot.origin))
			return v;
	}
	return NULL;
}

/* Add a version, or renew what handlers make of it if it is there. */
static void
set_put(VersionSet *in, const P2pKeyVersion *version, SharedDeps *deps, const RpKeyPayload *payload)
{
	P2pKeyVersion *have = set_find(&in->set, version);
	P2pKeyVersion new = *version;

	new.deps = deps->entries;
	new.ndeps = deps->count;
	new.epoch = epoch_of(in->table, &new);
	new.is_delta = payload->ndeltas > 0;
	new.covered = false;
	if (have == NULL && in->set.count == in->set.capacity)
		set_make_room(in);
	new.payload = payload_copy(payload);
	deps->references++;
	if (have)
	{
		new.covered = have->covered;
		version_release(have);
		*have = new;
	}
	else if (!p2p_keyset_add(&in->set, &new))
		elog(ERROR, "a key set has no room");
}

/* Give the set room for another version. */
static void
set_make_room(VersionSet *in)
{
	P2pKeySet  *set = &in->set;
	uint32		capacity = set->capacity == 0 ? FIRST_CAPACITY :
		Max(set->capacity * 2, SECOND_CAPACITY);
	Size		size = sizeof(P2pKeyVersion) * (Size) capacity;

	if (set->versions == NULL)
		set->versions = MemoryContextAlloc(set_context, size);
	else
		set->versions = repalloc_huge(set->versions, size);
	if (set->capacity >= KEYSET_WARN_VERSIONS)
		set_warn(in, set->capacity);
	set->capacity = capacity;
}

/* Say that a set is large. */
static void
set_warn(VersionSet *in, uint32 count)
{
	char	   *table = get_rel_name(in->table->relid);

	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("a key of table \"%s\" has %u versions that are not stable",
					table ? table : "?", count),
			 errdetail("All of them are kept until every member has acknowledged them."),
			 errhint("See replp2p.health() for members that are down or far behind.")));
}

/* Does more than one version stand? */
static bool
set_is_contested(VersionSet *in)
{
	const P2pKeyVersion *standing[2];

	return in->set.count > 1 && p2p_keyset_standing(&in->set, standing, 2) > 1;
}

/* Drop covered versions that nobody can ask for any more (file head). */
static void
set_prune(VersionSet *in)
{
	P2pKeySet  *set = &in->set;
	const P2pKeyVersion *last_delete;
	int64		keep = -1;
	uint32		kept = 0;

	if (set->count < 2 || in->pending || in->table->nmerges > 0)
		return;
	last_delete = p2p_keyset_last_delete(set);
	if (last_delete)
		keep = last_delete - set->versions;
	for (uint32 i = 0; i < set->count; i++)
	{
		if (set->versions[i].covered && i != keep)
			version_release(&set->versions[i]);
		else
			set->versions[kept++] = set->versions[i];
	}
	set->count = kept;
}

/*
 * Take out the pending transaction's versions. What is left is added anew, so that what they covered
 * stands again; that needs no more room than there is.
 */
static void
set_undo(VersionSet *in)
{
	P2pKeySet  *set = &in->set;
	uint32		count = set->count;

	set->count = 0;
	for (uint32 i = 0; i < count; i++)
	{
		P2pKeyVersion v = set->versions[i];

		if (v.version.dot.seq == pending_dot.seq &&
			p2p_origin_equal(&v.version.dot.origin, &pending_dot.origin))
		{
			version_release(&v);
			continue;
		}
		v.covered = false;
		(void) p2p_keyset_add(set, &v);
	}
}

static void
set_drop_stable(VersionSet *in, const P2pVector *stable)
{
	for (uint32 i = 0; i < in->set.count; i++)
	{
		if (p2p_vector_covers_dot(stable, &in->set.versions[i].version.dot))
			version_release(&in->set.versions[i]);
	}
	(void) p2p_keyset_drop_stable(&in->set, stable);
}

/* Drop all versions, and their room. */
static void
set_empty(VersionSet *in)
{
	for (uint32 i = 0; i < in->set.count; i++)
		version_release(&in->set.versions[i]);
	if (in->set.versions)
		pfree(in->set.versions);
	memset(&in->set, 0, sizeof(in->set));
}

/* Remember that the set gets a version of the transaction that is being applied. */
static void
pending_note(VersionSet *in, const P2pDot *dot)
{
	if (npending == 0)
		pending_dot = *dot;
	Assert(pending_dot.seq == dot->seq && p2p_origin_equal(&pending_dot.origin, &dot->origin));
	if (in->pending)
		return;
	if (npending == max_pending)
	{
		int			room = Max(max_pending * 2, 1024);
		Size		size = sizeof(VersionSet *) * (Size) room;

		if (pending_sets == NULL)
			pending_sets = MemoryContextAlloc(set_context, size);
		else
			pending_sets = repalloc_huge(pending_sets, size);
		max_pending = room;
	}
	pending_sets[npending++] = in;
	in->pending = true;
}

/* Free what a version refers to. */
static void
version_release(P2pKeyVersion *version)
{
	RpKeyPayload *payload = version->payload;

	deps_release((SharedDeps *) ((char *) version->deps - offsetof(SharedDeps, entries)));
	if (payload->ndeltas > 0)
		pfree(payload);
}

/* Are the deps these? Components of 0 are not kept. */
static bool
deps_equal(const SharedDeps *shared, const P2pVector *deps)
{
	uint32		n = 0;

	for (uint32 i = 0; i < deps->count; i++)
	{
		const P2pVectorEntry *entry = &deps->entries[i];

		if (entry->seq == 0)
			continue;
		if (n == shared->count || shared->entries[n].seq != entry->seq ||
			!p2p_origin_equal(&shared->entries[n].origin, &entry->origin))
			return false;
		n++;
	}
	return n == shared->count;
}

/* Return the deps in our memory: those of the origin's last version if they are the same. */
static SharedDeps *
deps_share(int slot, const P2pVector *deps)
{
	SharedDeps *shared = last_deps[slot];

	if (shared && deps_equal(shared, deps))
		return shared;
	shared = MemoryContextAlloc(set_context, offsetof(SharedDeps, entries) +
								sizeof(P2pVectorEntry) * deps->count);
	shared->references = 1;
	shared->count = 0;
	for (uint32 i = 0; i < deps->count; i++)
	{
		if (deps->entries[i].seq > 0)
			shared->entries[shared->count++] = deps->entries[i];
	}
	if (last_deps[slot])
		deps_release(last_deps[slot]);
	last_deps[slot] = shared;
	return shared;
}

static void
deps_release(SharedDeps *deps)
{
	if (--deps->references == 0)
		pfree(deps);
}

/* A copy of the payload in one piece; without deltas the one that all versions of its origin have. */
static RpKeyPayload *
payload_copy(const RpKeyPayload *payload)
{
	RpKeyPayload *copy;
	Size		text_size = 0;
	char	   *text;

	if (payload->ndeltas == 0)
		return &plain_payloads[payload->slot];
	for (int i = 0; i < payload->ndeltas; i++)
		text_size += strlen(payload->deltas[i]) + 1;
	copy = MemoryContextAlloc(set_context, MAXALIGN(sizeof(RpKeyPayload)) + text_size +
							  (sizeof(char *) + sizeof(AttrNumber)) * payload->ndeltas);
	copy->slot = payload->slot;
	copy->ndeltas = payload->ndeltas;
	copy->deltas = (char **) ((char *) copy + MAXALIGN(sizeof(RpKeyPayload)));
	copy->attnos = (AttrNumber *) (copy->deltas + payload->ndeltas);
	text = (char *) (copy->attnos + payload->ndeltas);
	for (int i = 0; i < payload->ndeltas; i++)
	{
		copy->attnos[i] = payload->attnos[i];
		copy->deltas[i] = strcpy(text, payload->deltas[i]);
		text += strlen(text) + 1;
	}
	return copy;
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
