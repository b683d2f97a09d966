/*
 * handlers.c
 *	  Conflict handlers and column merges in the memory of the apply worker: what
 *	  holds for a table, and what a version has seen of it.
 *
 * The memory is a copy of replp2p.table_handlers as committed (handlers_catalog.c keeps the
 * table), made anew when it is wanted and may be out of date. What makes it so is known by
 * invalidations of the relation cache, which every change sends for its table and for
 * table_handlers, and which the server delivers before a lock on the table is granted. So
 * whoever asks with a lock on the table gets all changes that any row of it may have seen.
 * What the running transaction itself has noted is left out: it takes effect with the
 * commit.
 *
 * A copy that was handed out stays until the transaction ends, since a caller may
 * hold on to it while another question makes a new one.
 *
 * Per table, changes of the handler are kept in ascending order from the last settled
 * one on, and so are changes of each column's merge. All of them are
 * needed until settled: a version is judged by what it had seen.
 *
 * A change made here has no version until capture has passed it. Whoever asks about a
 * version that has seen it got that version from capture, too, later: so it is looked up
 * again then.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "p2p_stamp.h"

#include "catalog.h"
#include "handlers_internal.h"
#include "hashtable.h"
#include "keyset.h"

static RpNode *our_node = NULL;
static HTAB *tables = NULL;		/* RpTableHandlers by relid; in memory */
static MemoryContext memory = NULL;
static List *retired = NIL;		/* MemoryContext *, until the transaction ends; in TopMemoryContext */
static bool stale = true;
static bool loading = false;
static bool some_not_here = false;	/* an entry's table is missing: any new one may be it */
static List *sets_wanted = NIL; /* tables whose key sets are to be built, or forgotten; in memory */
static Oid	catalog_table = InvalidOid;

static void reload(bool first);
static const RpTableHandlers *handlers_in(HTAB *copy, Oid relid);
static HTAB *copy_make(MemoryContext context);
static void entry_take(HTAB *copy, const RpHandlerEntry *entry);
static void change_take(RpTableHandlers *handlers, const RpHandlerEntry *entry);
static void merge_take(RpTableHandlers *handlers, const RpHandlerEntry *entry);
static void table_finish(RpTableHandlers *handlers);
static List *tracking_changes(HTAB *before, HTAB *after, List *wanted);
static void sets_build(void);
static bool has_seen(RpChangeVersion *made, const P2pKeyVersion *version);

static const char *const handler_names[] = {
	[RP_LAST_WRITER_WINS] = "last_writer_wins",
	[RP_VECTOR_CLOCK] = "vector_clock",
	[RP_CUSTOM] = "custom",
};

static const char *const merge_names[] = {
	[RP_MERGE_NONE] = "none",
	[RP_MERGE_COUNTER] = "counter",
	[RP_MERGE_MAX] = "max",
	[RP_MERGE_MIN] = "min",
};

bool
rp_handler_kind_by_name(const char *name, RpHandlerKind *kind)
{
	for (size_t i = 0; i < lengthof(handler_names); i++)
	{
		if (strcmp(handler_names[i], name) == 0)
		{
			*kind = (RpHandlerKind) i;
			return true;
		}
	}
	return false;
}

bool
rp_merge_kind_by_name(const char *name, RpMergeKind *kind)
{
	for (size_t i = 0; i < lengthof(merge_names); i++)
	{
		if (strcmp(merge_names[i], name) == 0)
		{
			*kind = (RpMergeKind) i;
			return true;
		}
	}
	return false;
}

void
rp_handlers_stale(void)
{
	stale = true;
}

/* The server says that a table (InvalidOid: any) has changed. */
static void
relation_changed(Datum arg, Oid relid)
{
	(void) arg;
	if (!OidIsValid(relid) || relid == catalog_table || some_not_here ||
		(tables != NULL && hash_search(tables, &relid, HASH_FIND, NULL) != NULL))
		stale = true;
}

/* The server says that a function or type has changed. */
static void
function_changed(Datum arg, int cache, uint32 hash)
{
	(void) arg;
	(void) cache;
	(void) hash;
	if (tables != NULL && hash_get_num_entries(tables) > 0)
		stale = true;
}

/* Give back the copies that nobody can hold on to any more. */
static void
retired_free(XactEvent event, void *arg)
{
	ListCell   *cell;

	(void) arg;
	if (retired == NIL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	foreach(cell, retired)
		MemoryContextDelete(lfirst(cell));
	list_free(retired);
	retired = NIL;
}

void
rp_handlers_load(RpNode *node)
{
	if (our_node == NULL)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, function_changed, (Datum) 0);
		RegisterXactCallback(retired_free, NULL);
	}
	our_node = node;
	reload(true);
}

const RpTableHandlers *
rp_handlers_of(Oid relid)
{
	if (our_node == NULL)
		return NULL;
	if (stale && !loading)
		reload(false);
	if (sets_wanted != NIL && !loading)
		sets_build();
	return handlers_in(tables, relid);
}

bool
rp_handlers_in_use(void)
{
	return stale || tables == NULL || hash_get_num_entries(tables) > 0;
}

bool
rp_handlers_are_known(void)
{
	return !stale && tables != NULL && hash_get_num_entries(tables) > 0;
}

/* The table's handlers in a copy, if it is tracked, else NULL. */
static const RpTableHandlers *
handlers_in(HTAB *copy, Oid relid)
{
	RpTableHandlers *handlers = hash_get_num_entries(copy) == 0 ? NULL :
		hash_search(copy, &relid, HASH_FIND, NULL);

	return handlers != NULL && handlers->tracked ? handlers : NULL;
}

/* Make the copy anew. first: the caller builds the key sets of all tables next. */
static void
reload(bool first)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p handlers",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	HTAB	   *copy;

	stale = false;				/* what comes from here on makes it so again */
	loading = true;
	PG_TRY();
	{
		copy = copy_make(context);
	}
	PG_CATCH();
	{
		stale = true;
		loading = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	loading = false;

	sets_wanted = first ? NIL : tracking_changes(tables, copy, sets_wanted);
	MemoryContextSwitchTo(TopMemoryContext);
	if (memory != NULL)
		retired = lappend(retired, memory);
	MemoryContextSetParent(context, TopMemoryContext);
	memory = context;
	tables = copy;
	MemoryContextSwitchTo(old);
}

/* Read table_handlers into a hash table in context, which is the current one. */
static HTAB *
copy_make(MemoryContext context)
{
	HASH_SEQ_STATUS scan;
	RpTableHandlers *handlers;
	HTAB	   *copy;
	RpCatalog	catalog;
	RpHandlerEntry *entries;
	uint64		n;

	copy = rp_hash_make("replp2p handlers", context, 16, sizeof(Oid), sizeof(RpTableHandlers));
	rp_catalog_open(&catalog);
	catalog_table = rp_catalog_table("table_handlers");
	entries = rp_handler_entries_read(our_node, &n);
	some_not_here = false;
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
	{
		if (!rp_handler_entry_is_new(&entries[i].row))
			entry_take(copy, &entries[i]);
	}
	hash_seq_init(&scan, copy);
	while ((handlers = hash_seq_search(&scan)) != NULL)
		table_finish(handlers);
	rp_catalog_close(&catalog);
	return copy;
}

/* Take one entry into the copy. */
static void
entry_take(HTAB *copy, const RpHandlerEntry *entry)
{
	Oid			relid = entry->relid;
	AttrNumber	attno = entry->attno;
	bool		is_merge = entry->row.column[0] != '\0';
	bool		found;
	RpTableHandlers *handlers;
	RpHandlerEntry resolved = *entry;

	if (!OidIsValid(relid) || (is_merge && attno == 0))
		rp_handler_row_resolve(&entry->row, &relid, &attno);
	if (!OidIsValid(relid) || (is_merge && attno == 0))
	{
		some_not_here = true;
		return;
	}
	handlers = hash_search(copy, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(handlers, 0, sizeof(*handlers));
		handlers->relid = relid;
	}
	resolved.relid = relid;
	resolved.attno = attno;
	if (is_merge)
		merge_take(handlers, &resolved);
	else
		change_take(handlers, &resolved);
}

/*
 * Append a change of the handler; a settled one, or one of the same transaction, makes those
 * before it superfluous.
 */
static void
change_take(RpTableHandlers *handlers, const RpHandlerEntry *entry)
{
	RpHandlerChange *change;
	int			n = handlers->nchanges;

	if (entry->made.settled)
		n = 0;
	else if (n > 0 && entry->made.version.dot.seq != 0 &&
			 p2p_version_compare(&handlers->changes[n - 1].made.version, &entry->made.version) == 0)
		n--;
	if (handlers->changes == NULL)
		handlers->changes = palloc(sizeof(RpHandlerChange));
	else
		handlers->changes = repalloc(handlers->changes, sizeof(RpHandlerChange) * (n + 1));
	change = &handlers->changes[n];
	memset(change, 0, sizeof(*change));
	change->made = entry->made;
	if (!rp_handler_kind_by_name(entry->row.setting, &change->kind))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("unknown conflict handler \"%s\"", entry->row.setting),
				 errhint("The node that set it may run a newer version of replp2p: update this "
						 "one.")));
	if (change->kind == RP_CUSTOM)
	{
		change->function = rp_handler_function_find(entry->row.function, handlers->relid);
		strlcpy(change->function_name, entry->row.function, sizeof(change->function_name));
	}
	handlers->nchanges = n + 1;
}

/* Append a change of a column's merge; superfluous ones go when the table is finished. */
static void
merge_take(RpTableHandlers *handlers, const RpHandlerEntry *entry)
{
	RpColumnMerge *merge;

	if (handlers->merges == NULL)
		handlers->merges = palloc(sizeof(RpColumnMerge));
	else
		handlers->merges = repalloc(handlers->merges,
									sizeof(RpColumnMerge) * (handlers->nmerges + 1));
	merge = &handlers->merges[handlers->nmerges++];
	memset(merge, 0, sizeof(*merge));
	merge->made = entry->made;
	merge->attno = entry->attno;
	if (!rp_merge_kind_by_name(entry->row.setting, &merge->kind))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("unknown column merge \"%s\"", entry->row.setting),
				 errhint("The node that set it may run a newer version of replp2p: update this "
						 "one.")));
}

/* Is a merge superseded by a later one, whoever looks; or does it say nothing? */
static bool
merge_is_superfluous(const RpTableHandlers *handlers, int m)
{
	const RpColumnMerge *merge = &handlers->merges[m];

	for (int i = m + 1; i < handlers->nmerges; i++)
	{
		const RpColumnMerge *later = &handlers->merges[i];

		if (later->attno == merge->attno &&
			(later->made.settled ||
			 (merge->made.version.dot.seq != 0 &&
			  p2p_version_compare(&later->made.version, &merge->made.version) == 0)))
			return true;
	}
	return merge->made.settled && merge->kind == RP_MERGE_NONE;
}

/* Order merges by column, link them, and say whether the table is tracked. */
static void
table_finish(RpTableHandlers *handlers)
{
	RpColumnMerge *merges = palloc(sizeof(RpColumnMerge) * Max(handlers->nmerges, 1));
	int			n = 0;

	for (AttrNumber attno = 1; attno <= MaxHeapAttributeNumber && n < handlers->nmerges; attno++)
	{
		for (int m = 0; m < handlers->nmerges; m++)
		{
			if (handlers->merges[m].attno != attno || merge_is_superfluous(handlers, m))
				continue;
			merges[n] = handlers->merges[m];
			if (n > 0 && merges[n - 1].attno == attno)
				merges[n - 1].next = &merges[n];
			n++;
		}
	}
	handlers->merges = merges;
	handlers->nmerges = n;
	handlers->tracked = n > 0 || handlers->nchanges > 1 ||
		(handlers->nchanges == 1 &&
		 (!handlers->changes[0].made.settled || handlers->changes[0].kind != RP_LAST_WRITER_WINS));
}

/*
 * Return the tables that are tracked in only one of two copies, and those wanted before. In
 * CurrentMemoryContext.
 */
static List *
tracking_changes(HTAB *before, HTAB *after, List *wanted)
{
	List	   *changed = list_copy(wanted);
	HTAB	   *both[] = {before, after};

	for (size_t i = 0; i < lengthof(both); i++)
	{
		HASH_SEQ_STATUS scan;
		RpTableHandlers *handlers;

		hash_seq_init(&scan, both[i]);
		while ((handlers = hash_seq_search(&scan)) != NULL)
		{
			if ((handlers_in(before, handlers->relid) != NULL) !=
				(handlers_in(after, handlers->relid) != NULL))
				changed = list_append_unique_oid(changed, handlers->relid);
		}
	}
	return changed;
}

/*
 * Build the key sets of tables that became tracked, of all that is in the logs by now; forget
 * others.
 */
static void
sets_build(void)
{
	uint64		own_seq;

	SpinLockAcquire(&our_node->vector_lock);
	own_seq = our_node->members[RP_SELF].captured_seq;
	SpinLockRelease(&our_node->vector_lock);
	loading = true;				/* building asks for handlers, too */
	PG_TRY();
	{
		while (sets_wanted != NIL)
		{
			rp_keysets_build(linitial_oid(sets_wanted), own_seq);
			sets_wanted = list_delete_first(sets_wanted);
		}
	}
	PG_FINALLY();
	{
		loading = false;
	}
	PG_END_TRY();
}

/* Is the change in the past of this version's transaction? */
static bool
has_seen(RpChangeVersion *made, const P2pKeyVersion *version)
{
	const P2pDot *change = &made->version.dot;

	if (!rp_change_version_resolve(our_node, made))
		return false;
	if (p2p_origin_equal(&change->origin, &version->version.dot.origin))
		return version->version.dot.seq > change->seq;
	for (uint32 i = 0; i < version->ndeps; i++)
	{
		if (p2p_origin_equal(&change->origin, &version->deps[i].origin))
			return version->deps[i].seq >= change->seq;
	}
	return false;
}

P2pVersion
rp_handler_epoch(const RpTableHandlers *handlers, const P2pKeyVersion *version)
{
	P2pVersion	ancient = {0};

	for (int i = handlers ? handlers->nchanges - 1 : -1; i >= 0; i--)
	{
		if (has_seen(&handlers->changes[i].made, version))
			return handlers->changes[i].made.version;
	}
	return ancient;
}

bool
rp_handlers_is_past(Oid relid, const RpSlotVersion *version, const P2pVector *deps)
{
	P2pKeyVersion itself = {.deps = deps->entries, .ndeps = deps->count};
	RpTableHandlers *handlers;

	if (our_node == NULL)
		return false;
	if (stale && !loading)
		reload(false);
	handlers = hash_get_num_entries(tables) == 0 ? NULL : hash_search(tables, &relid, HASH_FIND, NULL);
	if (handlers == NULL || handlers->nchanges == 0 || !handlers->changes[0].made.settled)
		return false;
	itself.version.dot.origin = our_node->members[version->slot].origin;
	itself.version.dot.seq = version->seq;
	return !has_seen(&handlers->changes[0].made, &itself);
}

const RpHandlerChange *
rp_handler_of_epoch(const RpTableHandlers *handlers, const P2pVersion *epoch)
{
	if (p2p_version_is_ancient(epoch))
		return NULL;
	for (int i = handlers->nchanges - 1; i >= 0; i--)
	{
		if (p2p_version_compare(&handlers->changes[i].made.version, epoch) == 0)
			return &handlers->changes[i];
	}
	return NULL;
}

bool
rp_merge_is_seen(const RpColumnMerge *merge, const P2pKeyVersion *version)
{
	/* resolving fills in what const callers see no difference in */
	if (!has_seen(&((RpColumnMerge *) merge)->made, version))
		return false;
	for (RpColumnMerge *later = merge->next; later != NULL; later = later->next)
	{
		if (has_seen(&later->made, version))
			return false;
	}
	return true;
}
