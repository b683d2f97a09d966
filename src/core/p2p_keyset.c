/*
 * p2p_keyset.c
 *	  All versions of one key that are not stable yet, and what they come to.
 *
 * Two orders are at work, and the second extends the first:
 *
 *	  seen		a is in the past of b: b's transaction had applied a's, or both
 *				are of one origin (one transaction: one step after the other)
 *	  compare	(epoch, stamp, origin, seq, step), a total order. The epoch is the
 *				greatest handler change in a version's past, and stamps extend
 *				causality, so what was seen is lower in each of the first two
 *
 * From that follows what the handlers lean on: the greatest version of all is
 * never covered and is of the greatest epoch, so it is the winner; and what
 * loses to a version by epoch was concurrent with it, or seen by it.
 *
 * Deps are complete (an origin that had applied a transaction had applied all
 * that this one had), so one look at each pair says all: nothing here walks
 * chains, and the order of arrival can't matter.
 *
 * Dropping what is stable. Stable means here: whatever still arrives has seen
 * it. So the newcomer is greater than any version dropped, and covers it; what
 * the set says with the newcomer in it is what the complete set would say, as
 * far as covered versions don't count. For counters they do; there the same
 * thought shows that each step is right by itself:
 *
 *	  newcomer is where counting restarts: all versions above it are unseen by
 *		it, so none of them was dropped, and the sum is complete
 *	  newcomer is a delta above the restart: it is added once, here
 *	  newcomer is below the restart: that one is unseen by it, so it is here to
 *		say so
 *
 * The last delete compares by epoch first, as all do. By stamp alone it would
 * break: with no row, because a delete of a greater epoch won, a version of a
 * greater stamp and lesser epoch would still count for whoever had not yet
 * dropped it when the next insert comes, and not for the others.
 *
 * Nearly all sets have a handful of versions, but that of a hot counter has one for each write as
 * long as a member is down. So versions are kept in their order, by stamp: a newcomer
 * comes near the end, and so do those that it may be compared with. These are the uncovered ones:
 * who has seen a covered version has been seen by, or is, or has seen the one that covers it, since deps
 * are complete. A walk from the end stops when it has met all of them. Likewise with those where counting may restart.
 *
 * Called by apply, under the lock of the row.
 */
#include <string.h>

#include "p2p_keyset.h"

static uint32_t place_of(const P2pKeySet *set, const P2pKeyVersion *version);
static uint64_t seq_seen(const P2pKeyVersion *version, const P2pOrigin *origin);
static bool is_same(const P2pKeyVersion *a, const P2pKeyVersion *b);
static bool is_delete(const P2pKeyVersion *version);
static bool is_restart(const P2pKeyVersion *version);
static const P2pKeyVersion *greatest(const P2pKeySet *set, uint32_t left,
									 bool (*counted) (const P2pKeyVersion *version),
									 bool (*wanted) (const P2pKeyVersion *version));

/* Add a version, marking what is covered by it, and itself if it is covered. */
bool
p2p_keyset_add(P2pKeySet *set, const P2pKeyVersion *version)
{
	uint32_t	place = place_of(set, version);
	uint32_t	left = set->uncovered;
	bool		covered = false;

	if (place < set->count && is_same(&set->versions[place], version))
		return true;
	if (set->count >= set->capacity)
		return false;

	for (uint32_t i = set->count; i-- > 0 && left > 0;)
	{
		P2pKeyVersion *other = &set->versions[i];

		if (other->covered)
			continue;
		left--;
		covered |= p2p_keyversion_in_past(version, other);
		other->covered = p2p_keyversion_in_past(other, version);
		set->uncovered -= other->covered;
	}
	memmove(&set->versions[place + 1], &set->versions[place],
			(set->count - place) * sizeof set->versions[0]);
	set->versions[place] = *version;
	set->versions[place].covered = covered;
	set->count++;
	set->uncovered += !covered;
	set->restarts += is_restart(version);
	return true;
}

/* Return the index of the first version that is not less by (version, step); a binary search. */
static uint32_t
place_of(const P2pKeySet *set, const P2pKeyVersion *version)
{
	uint32_t	low = 0;
	uint32_t	high = set->count;

	while (low < high)
	{
		uint32_t	middle = low + (high - low) / 2;
		const P2pKeyVersion *other = &set->versions[middle];
		int			order = p2p_version_compare(&other->version, &version->version);

		if (order < 0 || (order == 0 && other->step < version->step))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Return the version of this (dot, stamp, step); NULL if it is not there. */
P2pKeyVersion *
p2p_keyset_find(const P2pKeySet *set, const P2pKeyVersion *version)
{
	uint32_t	place = place_of(set, version);

	return place < set->count && is_same(&set->versions[place], version)
		? &set->versions[place] : NULL;
}

/* Forget all versions. */
void
p2p_keyset_clear(P2pKeySet *set)
{
	set->count = set->uncovered = set->restarts = 0;
}

/* Count what others have changed. */
void
p2p_keyset_recount(P2pKeySet *set)
{
	set->uncovered = set->restarts = 0;
	for (uint32_t i = 0; i < set->count; i++)
	{
		set->uncovered += !set->versions[i].covered;
		set->restarts += is_restart(&set->versions[i]);
	}
}

/* Remove what is stable. */
uint32_t
p2p_keyset_drop_stable(P2pKeySet *set, const P2pVector *stable)
{
	uint32_t	kept = 0;
	uint32_t	dropped;

	for (uint32_t i = 0; i < set->count; i++)
	{
		if (p2p_vector_covers_dot(stable, &set->versions[i].version.dot))
			continue;
		if (kept != i)
			set->versions[kept] = set->versions[i];
		kept++;
	}
	dropped = set->count - kept;
	set->count = kept;
	if (dropped > 0)
		p2p_keyset_recount(set);
	return dropped;
}

/* Compare by (epoch, version, step): < 0, 0, > 0. */
int
p2p_keyversion_compare(const P2pKeyVersion *a, const P2pKeyVersion *b)
{
	int			by_epoch = p2p_version_compare(&a->epoch, &b->epoch);
	int			by_version;

	if (by_epoch != 0)
		return by_epoch;
	by_version = p2p_version_compare(&a->version, &b->version);
	if (by_version != 0)
		return by_version;
	return (a->step > b->step) - (a->step < b->step);
}

/* Say whether a is in the past of b, itself included. */
bool
p2p_keyversion_in_past(const P2pKeyVersion *a, const P2pKeyVersion *b)
{
	const P2pDot *dot = &a->version.dot;

	if (!p2p_origin_equal(&dot->origin, &b->version.dot.origin))
		return dot->seq <= seq_seen(b, &dot->origin);
	if (dot->seq != b->version.dot.seq)
		return dot->seq < b->version.dot.seq;
	return a->step <= b->step;
}

/* Return how far version's transaction had applied origin; a binary search. */
static uint64_t
seq_seen(const P2pKeyVersion *version, const P2pOrigin *origin)
{
	uint32_t	low = 0;
	uint32_t	high = version->ndeps;

	while (low < high)
	{
		uint32_t	middle = low + (high - low) / 2;
		int			order = p2p_origin_compare(&version->deps[middle].origin, origin);

		if (order == 0)
			return version->deps[middle].seq;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

/* Are they one operation of one transaction? */
static bool
is_same(const P2pKeyVersion *a, const P2pKeyVersion *b)
{
	return a->step == b->step && a->version.dot.seq == b->version.dot.seq &&
		p2p_origin_equal(&a->version.dot.origin, &b->version.dot.origin);
}

static bool
is_uncovered(const P2pKeyVersion *version)
{
	return !version->covered;
}

/* Return the winner: the greatest that is not covered (file head); NULL if the set is empty. */
const P2pKeyVersion *
p2p_keyset_winner(const P2pKeySet *set)
{
	return greatest(set, set->uncovered, is_uncovered, is_uncovered);
}

/* Return the greatest of the wanted, which are among the counted, of which there are `left`; NULL: none. */
static const P2pKeyVersion *
greatest(const P2pKeySet *set, uint32_t left, bool (*counted) (const P2pKeyVersion *version),
		 bool (*wanted) (const P2pKeyVersion *version))
{
	const P2pKeyVersion *best = NULL;

	for (uint32_t i = set->count; i-- > 0 && left > 0;)
	{
		const P2pKeyVersion *version = &set->versions[i];

		if (!counted(version))
			continue;
		left--;
		if (wanted(version) && (best == NULL || p2p_keyversion_compare(version, best) > 0))
			best = version;
	}
	return best;
}

/*
 * Write the standing versions in ascending order; return how many there are.
 * Sorted by insertion: there are few. If there are more than max, which ones
 * are written is not said.
 */
uint32_t
p2p_keyset_standing(const P2pKeySet *set, const P2pKeyVersion **standing, uint32_t max)
{
	const P2pKeyVersion *winner = p2p_keyset_winner(set);
	uint32_t	n = 0;
	uint32_t	written = 0;
	uint32_t	first = set->count;

	for (uint32_t left = set->uncovered; left > 0; left -= is_uncovered(&set->versions[first]))
		first--;
	for (uint32_t i = first; i < set->count; i++)
	{
		const P2pKeyVersion *version = &set->versions[i];
		uint32_t	place;

		if (!is_uncovered(version) || p2p_version_compare(&version->epoch, &winner->epoch) != 0)
			continue;
		n++;
		if (written == max)
			continue;
		for (place = written; place > 0; place--)
		{
			if (p2p_keyversion_compare(standing[place - 1], version) < 0)
				break;
			standing[place] = standing[place - 1];
		}
		standing[place] = version;
		written++;
	}
	return n;
}

/* Return the greatest delete, covered or not; NULL if there is none. */
const P2pKeyVersion *
p2p_keyset_last_delete(const P2pKeySet *set)
{
	return greatest(set, set->restarts, is_restart, is_delete);
}

static bool
is_delete(const P2pKeyVersion *version)
{
	return version->op == P2P_OP_DELETE;
}

/* Does counting restart from it: is it a delete or an absolute value? */
static bool
is_restart(const P2pKeyVersion *version)
{
	return is_delete(version) || !version->is_delta;
}

/* Return the greatest version from which counting restarts; NULL if there is none. */
const P2pKeyVersion *
p2p_keyset_restart(const P2pKeySet *set)
{
	return greatest(set, set->restarts, is_restart, is_restart);
}

/* Say whether version's delta is in the sum: it is above where counting restarts. */
bool
p2p_keyset_counts(const P2pKeySet *set, const P2pKeyVersion *version)
{
	const P2pKeyVersion *restart = p2p_keyset_restart(set);

	if (is_restart(version))
		return false;
	return restart == NULL || p2p_keyversion_compare(version, restart) > 0;
}

/* Return the version whose value is the base; NULL if counting restarts at a delete, or nowhere. */
const P2pKeyVersion *
p2p_keyset_base(const P2pKeySet *set)
{
	const P2pKeyVersion *restart = p2p_keyset_restart(set);

	return restart == NULL || is_delete(restart) ? NULL : restart;
}

/* Say what the newcomer, already added, does to a counter. */
P2pCounterStep
p2p_keyset_counter_step(const P2pKeySet *set, const P2pKeyVersion *newcomer)
{
	const P2pKeyVersion *restart = p2p_keyset_restart(set);

	if (restart == NULL || p2p_keyversion_compare(newcomer, restart) > 0)
		return P2P_COUNTER_ADD;
	return is_same(restart, newcomer) ? P2P_COUNTER_RESTART : P2P_COUNTER_KEEP;
}

/*
 * Name the true conflict that the newcomer met: with the greatest version that
 * it hadn't seen. With one that has seen the newcomer (the set was not filled
 * in causal order) there is none.
 */
P2pConflict
p2p_keyset_conflict(const P2pKeySet *set, const P2pKeyVersion *newcomer,
					const P2pKeyVersion **other)
{
	/* the greatest unseen one is covered only by what has seen the newcomer */
	uint32_t	left = newcomer->covered ? set->count : set->uncovered;

	*other = NULL;
	for (uint32_t i = set->count; i-- > 0 && left > 0;)
	{
		const P2pKeyVersion *version = &set->versions[i];

		if (version->covered && !newcomer->covered)
			continue;
		left--;
		if (p2p_keyversion_in_past(version, newcomer) || p2p_keyversion_in_past(newcomer, version))
			continue;
		if (*other == NULL || p2p_keyversion_compare(version, *other) > 0)
			*other = version;
	}
	if (*other == NULL)
		return P2P_NO_CONFLICT;
	return p2p_conflict_of(newcomer->op, !is_delete(*other));
}
