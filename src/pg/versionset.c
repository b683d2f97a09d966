/*
 * versionset.c
 *	  One set of versions with the memory that belongs to it.
 *
 * Versions stand in an array that grows by doubling; nearly all sets have one
 * or two. The deps of a transaction are kept once for all its versions, and for those
 * of the origin's next ones as long as they are the same: counted by
 * reference, one of which is the origin's own. Versions without
 * deltas share one payload for each origin.
 *
 * A counter's set has an entry for each unstable write of its row, and nothing
 * of it may be discarded. So there is no limit, but from KEYSET_WARN_VERSIONS on, and each
 * time that the number has doubled, the server's log says so.
 */
#include "postgres.h"

#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "versionset.h"

/* A set of so many versions is said to be large. */
#define KEYSET_WARN_VERSIONS 1024
#define FIRST_CAPACITY 1
#define SECOND_CAPACITY 4

static MemoryContext set_context;
static RpSharedDeps *last_deps[RP_MAX_MEMBERS];
static RpKeyPayload plain_payloads[RP_MAX_MEMBERS]; /* of versions without deltas */

static void set_make_room(P2pKeySet *set, Oid relid);
static void set_warn(uint32 count, Oid relid);
static void version_release(P2pKeyVersion *version);
static bool deps_equal(const RpSharedDeps *shared, const P2pVector *deps);
static void deps_release(RpSharedDeps *deps);
static RpKeyPayload *payload_copy(const RpKeyPayload *payload);

void
rp_version_sets_init(MemoryContext context)
{
	set_context = context;
	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
		plain_payloads[slot].slot = (uint16) slot;
}

RpKeyPayload *
rp_payload_plain(int slot)
{
	return &plain_payloads[slot];
}

RpSharedDeps *
rp_deps_of(const P2pKeyVersion *version)
{
	return (RpSharedDeps *) ((char *) version->deps - offsetof(RpSharedDeps, entries));
}

void
rp_version_set_put(RpVersionSet *in, const P2pKeyVersion *version, RpSharedDeps *deps,
				   const RpKeyPayload *payload, Oid relid)
{
	P2pKeySet  *set = &in->set;
	P2pKeyVersion *have = p2p_keyset_find(set, version);
	P2pKeyVersion new = *version;

	if (have == NULL && set->count == set->capacity)
		set_make_room(set, relid);
	new.deps = deps->entries;
	new.ndeps = deps->count;
	new.is_delta = payload->ndeltas > 0;
	new.covered = have ? have->covered : false;
	new.payload = payload_copy(payload);
	deps->references++;
	if (have)
	{
		version_release(have);
		set->restarts += have->is_delta && !new.is_delta;
		set->restarts -= !have->is_delta && new.is_delta;
		*have = new;
	}
	else if (!p2p_keyset_add(set, &new))
		elog(ERROR, "a key set has no room");
}

/* Give the set room for another version. */
static void
set_make_room(P2pKeySet *set, Oid relid)
{
	uint32		capacity = set->capacity == 0 ? FIRST_CAPACITY :
		Max(set->capacity * 2, SECOND_CAPACITY);
	Size		size = sizeof(P2pKeyVersion) * (Size) capacity;

	if (set->versions == NULL)
		set->versions = MemoryContextAlloc(set_context, size);
	else
		set->versions = repalloc_huge(set->versions, size);
	if (set->capacity >= KEYSET_WARN_VERSIONS)
		set_warn(set->capacity, relid);
	set->capacity = capacity;
}

/* Say that a set is large. */
static void
set_warn(uint32 count, Oid relid)
{
	char	   *table = get_rel_name(relid);

	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("a key of table \"%s\" has %u versions that are not stable",
					table ? table : "?", count),
			 errdetail("All of them are kept until every member has acknowledged them."),
			 errhint("See replp2p.health() for members that are down or far behind.")));
}

bool
rp_version_set_is_contested(const RpVersionSet *in)
{
	const P2pKeyVersion *standing[2];

	return in->set.count > 1 && p2p_keyset_standing(&in->set, standing, 2) > 1;
}

void
rp_version_set_prune(RpVersionSet *in)
{
	P2pKeySet  *set = &in->set;
	const P2pKeyVersion *last_delete;
	int64		keep = -1;
	uint32		kept = 0;

	if (set->count < 2)
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
	p2p_keyset_recount(set);
}

/* What is left is added anew, which needs no more room than there is. */
void
rp_version_set_undo(RpVersionSet *in, const P2pDot *dot)
{
	P2pKeySet  *set = &in->set;
	uint32		count = set->count;

	p2p_keyset_clear(set);
	for (uint32 i = 0; i < count; i++)
	{
		P2pKeyVersion v = set->versions[i];

		if (v.version.dot.seq == dot->seq &&
			p2p_origin_equal(&v.version.dot.origin, &dot->origin))
		{
			version_release(&v);
			continue;
		}
		v.covered = false;
		(void) p2p_keyset_add(set, &v);
	}
}

void
rp_version_set_drop_stable(RpVersionSet *in, const P2pVector *stable)
{
	for (uint32 i = 0; i < in->set.count; i++)
	{
		if (p2p_vector_covers_dot(stable, &in->set.versions[i].version.dot))
			version_release(&in->set.versions[i]);
	}
	(void) p2p_keyset_drop_stable(&in->set, stable);
}

void
rp_version_set_empty(RpVersionSet *in)
{
	for (uint32 i = 0; i < in->set.count; i++)
		version_release(&in->set.versions[i]);
	if (in->set.versions)
		pfree(in->set.versions);
	memset(&in->set, 0, sizeof(in->set));
}

/* Free what a version refers to. */
static void
version_release(P2pKeyVersion *version)
{
	RpKeyPayload *payload = version->payload;

	deps_release(rp_deps_of(version));
	if (payload->ndeltas > 0)
		pfree(payload);
}

/* Are the deps these? Components of 0 are not kept. */
static bool
deps_equal(const RpSharedDeps *shared, const P2pVector *deps)
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

RpSharedDeps *
rp_deps_share(int slot, const P2pVector *deps)
{
	RpSharedDeps *shared = last_deps[slot];

	if (shared && deps_equal(shared, deps))
		return shared;
	shared = MemoryContextAlloc(set_context, offsetof(RpSharedDeps, entries) +
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
deps_release(RpSharedDeps *deps)
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
