/*
 * p2p_keyset.h
 *	  All versions of one key that are not stable yet, and what they come to:
 *	  the rules of the handlers that need more than the greatest version.
 *
 * A key set holds every version of its key that this node has applied or
 * captured and that is not stable: deletes, and truncates of the table (a
 * delete of every key), are versions, too. Whatever is asked of it is a
 * function of the set, not of the order in which it was filled.
 *
 *	  covered	another version of the set has it in its past
 *	  epoch		the greatest handler change in a version's past; versions of a
 *				greater epoch beat all others, so that no conflict is judged
 *				by two rules
 *	  standing	not covered, and of the greatest epoch that is not covered
 *	  winner	the greatest of the standing by (stamp, origin, seq, step)
 *
 * A stable version may be dropped at any time: whatever still arrives has it
 * in its past and would cover it. That holds for what the set comes to **with
 * the next newcomer in it**. Between a drop and the next newcomer the set may
 * lack a winner whose lower, concurrent rival is not stable yet: what the row
 * holds is right, and must not be made anew from the set alone.
 */
#ifndef P2P_KEYSET_H
#define P2P_KEYSET_H

#include "p2p_resolve.h"

/* One version of the key. */
typedef struct P2pKeyVersion
{
	P2pVersion	version;
	uint32_t	step;			/* place within its transaction: the later operation wins */
	P2pOp		op;
	P2pVersion	epoch;			/* of its handler change; ancient = none */
	const P2pVectorEntry *deps; /* of its transaction, sorted by origin; must live as long as the set */
	uint32_t	ndeps;
	bool		covered;
	bool		is_delta;		/* says what it added (old values were known), not only what it set */
	void	   *payload;		/* the caller's */
} P2pKeyVersion;

/* Memory is the caller's: versions has room for capacity. */
typedef struct P2pKeySet
{
	P2pKeyVersion *versions;	/* ascending by (version, step); they move when others come and go */
	uint32_t	count;
	uint32_t	capacity;
	uint32_t	uncovered;		/* how many are not covered: where to stop looking for them */
	uint32_t	restarts;		/* how many are no deltas: deletes, and absolute values */
} P2pKeySet;

/* Forget all versions; their memory stays. */
void		p2p_keyset_clear(P2pKeySet *set);
/* After covered, is_delta or the versions themselves were changed by other hands: count anew. */
void		p2p_keyset_recount(P2pKeySet *set);
/* The version of this (dot, stamp, step); NULL: it is not in the set. */
P2pKeyVersion *p2p_keyset_find(const P2pKeySet *set, const P2pKeyVersion *version);

/*
 * Add a version: marks as covered what is in its past, and itself if it is in
 * another's (versions may come in any order). A version of the same
 * transaction is covered by a later step of it. False, and nothing changed, if
 * the set is full. The same (dot, step) again changes nothing and is true.
 */
bool		p2p_keyset_add(P2pKeySet *set, const P2pKeyVersion *version);

/* Remove versions with seq at most that of their origin in stable; returns how many. payloads are not freed. */
uint32_t	p2p_keyset_drop_stable(P2pKeySet *set, const P2pVector *stable);

/* Compare by (epoch, version, step): < 0, 0, > 0. */
int			p2p_keyversion_compare(const P2pKeyVersion *a, const P2pKeyVersion *b);

/* Is a in the past of b (itself included)? */
bool		p2p_keyversion_in_past(const P2pKeyVersion *a, const P2pKeyVersion *b);

/* The winner; NULL if the set is empty. */
const P2pKeyVersion *p2p_keyset_winner(const P2pKeySet *set);

/*
 * The standing versions in ascending order, deletes among them; returns how
 * many (at most max are written; max = set->count always suffices).
 */
uint32_t	p2p_keyset_standing(const P2pKeySet *set, const P2pKeyVersion **standing, uint32_t max);

/* The greatest delete, covered or not; NULL if there is none. */
const P2pKeyVersion *p2p_keyset_last_delete(const P2pKeySet *set);

/*
 * Counters. The greatest version that says where to count from, a delete (0) or an absolute value
 * (an insert or update that is no delta), is where counting restarts; value = that + the deltas of
 * all greater versions. All in the order of p2p_keyversion_compare: epochs first.
 *
 * is_delta is of the column asked about: with several counters whose merges were set at different
 * times, the caller sets it for all versions before it asks about another column.
 *
 * A restart that is stable may have been dropped, and versions below it may still be in the set;
 * they would seem to count. So don't sum whenever you like: ask p2p_keyset_counter_step() when a
 * version comes, and do what it says.
 */

/* Where counting restarts; NULL: nowhere. */
const P2pKeyVersion *p2p_keyset_restart(const P2pKeySet *set);
/* Is version's delta in the sum? Of many ask p2p_keyset_restart once, and compare. */
bool		p2p_keyset_counts(const P2pKeySet *set, const P2pKeyVersion *version);
/*
 * The version whose value is the base: the greatest above the last delete that
 * is no delta; NULL: none (above a delete the base is 0, otherwise what the
 * row had before all of these).
 */
const P2pKeyVersion *p2p_keyset_base(const P2pKeySet *set);

typedef enum P2pCounterStep
{
	P2P_COUNTER_KEEP,			/* the value stays */
	P2P_COUNTER_ADD,			/* add the newcomer's delta; where there was no row, to 0 */
	P2P_COUNTER_RESTART			/* newcomer's value (a delete's is 0) + the deltas that count */
} P2pCounterStep;

/*
 * What the newcomer, already added, does to the counter of the row as it is (whoever wins). If
 * after that the winner is a delete there is no row, and nothing to be done.
 */
P2pCounterStep p2p_keyset_counter_step(const P2pKeySet *set, const P2pKeyVersion *newcomer);

/*
 * What the newcomer, already added, met: the true conflict to report, named as
 * in p2p_resolve, against the greatest other version that was not in its past.
 * P2P_NO_CONFLICT and *other = NULL if it had seen all.
 */
P2pConflict p2p_keyset_conflict(const P2pKeySet *set, const P2pKeyVersion *newcomer,
								const P2pKeyVersion **other);

#endif							/* P2P_KEYSET_H */
