/*
 * p2p_vector.c
 *	  Version vectors as sorted arrays.
 *
 * Entries ascend strictly by origin, so a look-up is a binary search, and
 * join, meet, comparison and encoding are single walks over both arrays. An
 * entry of seq 0 says the same as no entry; it is kept where somebody set it,
 * because the transactions of a batch body name deps by their index.
 */
#include "p2p_vector.h"

#include <string.h>

/* Return where origin stands in v, or where it would have to be put in. */
static uint32_t
vector_find(const P2pVector *v, const P2pOrigin *origin, bool *found)
{
	uint32_t	low = 0;
	uint32_t	high = v->count;

	while (low < high)
	{
		uint32_t	middle = (low + high) / 2;
		int			order = p2p_origin_compare(&v->entries[middle].origin, origin);

		if (order == 0)
		{
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = false;
	return low;
}

/* Put in a new entry at index at; false if the vector is full. */
static bool
vector_insert(P2pVector *v, uint32_t at, const P2pOrigin *origin, uint64_t seq)
{
	if (v->count >= P2P_MAX_MEMBERS)
		return false;
	memmove(&v->entries[at + 1], &v->entries[at], (v->count - at) * sizeof(v->entries[0]));
	v->entries[at].origin = *origin;
	v->entries[at].seq = seq;
	v->count++;
	return true;
}

/* Make v empty: every seq is 0. */
void
p2p_vector_clear(P2pVector *v)
{
	v->count = 0;
}

/* Return the seq of origin. */
uint64_t
p2p_vector_get(const P2pVector *v, const P2pOrigin *origin)
{
	bool		found;
	uint32_t	at = vector_find(v, origin, &found);

	return found ? v->entries[at].seq : 0;
}

/* Set the seq of origin; an entry is made also for 0. */
bool
p2p_vector_set(P2pVector *v, const P2pOrigin *origin, uint64_t seq)
{
	bool		found;
	uint32_t	at = vector_find(v, origin, &found);

	if (!found)
		return vector_insert(v, at, origin, seq);
	v->entries[at].seq = seq;
	return true;
}

/* Raise the seq of origin to at least seq; no entry is made for 0. */
bool
p2p_vector_raise(P2pVector *v, const P2pOrigin *origin, uint64_t seq)
{
	bool		found;
	uint32_t	at = vector_find(v, origin, &found);

	if (!found)
		return seq == 0 || vector_insert(v, at, origin, seq);
	if (v->entries[at].seq < seq)
		v->entries[at].seq = seq;
	return true;
}

/* Return how many origins are in a or b. */
static uint32_t
union_count(const P2pVector *a, const P2pVector *b)
{
	uint32_t	i = 0;
	uint32_t	j = 0;
	uint32_t	n = 0;

	while (i < a->count && j < b->count)
	{
		int			order = p2p_origin_compare(&a->entries[i].origin, &b->entries[j].origin);

		i += (order <= 0);
		j += (order >= 0);
		n++;
	}
	return n + (a->count - i) + (b->count - j);
}

/* Join from into `into`; false, and `into` as it was, if it does not fit. */
bool
p2p_vector_merge(P2pVector *into, const P2pVector *from)
{
	uint32_t	n = union_count(into, from);
	uint32_t	i = into->count;
	uint32_t	j = from->count;

	if (n > P2P_MAX_MEMBERS)
		return false;
	into->count = n;
	/* From the back, in place: slot n is never below slot i, so nothing unread is overwritten. */
	while (j > 0)
	{
		const P2pVectorEntry *b = &from->entries[j - 1];
		int			order = -1;

		if (i > 0)
			order = p2p_origin_compare(&into->entries[i - 1].origin, &b->origin);
		n--;
		if (order < 0)
			into->entries[n] = *b;
		else
			into->entries[n] = into->entries[i - 1];
		if (order == 0 && b->seq > into->entries[n].seq)
			into->entries[n].seq = b->seq;
		i -= (order >= 0);
		j -= (order <= 0);
	}
	return true;
}

/* Lower each entry of `into` to that of from; one that from lacks becomes 0. */
void
p2p_vector_meet(P2pVector *into, const P2pVector *from)
{
	uint32_t	j = 0;

	for (uint32_t i = 0; i < into->count; i++)
	{
		P2pVectorEntry *a = &into->entries[i];
		uint64_t	other = 0;
		int			order = -1;

		while (j < from->count &&
			   (order = p2p_origin_compare(&from->entries[j].origin, &a->origin)) < 0)
			j++;
		if (j < from->count && order == 0)
			other = from->entries[j].seq;
		if (a->seq > other)
			a->seq = other;
	}
}

/* Is every component of b at most that of a? */
bool
p2p_vector_covers(const P2pVector *a, const P2pVector *b)
{
	uint32_t	i = 0;

	for (uint32_t j = 0; j < b->count; j++)
	{
		const P2pVectorEntry *entry = &b->entries[j];
		int			order = -1;

		if (entry->seq == 0)
			continue;
		while (i < a->count &&
			   (order = p2p_origin_compare(&a->entries[i].origin, &entry->origin)) < 0)
			i++;
		if (i >= a->count || order != 0 || a->entries[i].seq < entry->seq)
			return false;
	}
	return true;
}

/* Is dot in v? */
bool
p2p_vector_covers_dot(const P2pVector *v, const P2pDot *dot)
{
	return p2p_vector_get(v, &dot->origin) >= dot->seq;
}

/* Are all components equal? An entry of 0 equals no entry. */
bool
p2p_vector_equal(const P2pVector *a, const P2pVector *b)
{
	return p2p_vector_covers(a, b) && p2p_vector_covers(b, a);
}

/* Write v. */
void
p2p_put_vector(P2pWriter *w, const P2pVector *v)
{
	p2p_put_varint(w, v->count);
	for (uint32_t i = 0; i < v->count; i++)
	{
		p2p_put_origin(w, &v->entries[i].origin);
		p2p_put_varint(w, v->entries[i].seq);
	}
}

/* Read v; it is empty, and the reader bad, if it is anything that p2p_put_vector can't write. */
void
p2p_get_vector(P2pReader *r, P2pVector *v)
{
	uint64_t	count = p2p_get_varint(r);
	bool		sound = count <= P2P_MAX_MEMBERS;

	for (uint32_t i = 0; sound && i < count; i++)
	{
		P2pVectorEntry *entry = &v->entries[i];

		p2p_get_origin(r, &entry->origin);
		entry->seq = p2p_get_varint(r);
		sound = !r->bad &&
			(i == 0 || p2p_origin_compare(&v->entries[i - 1].origin, &entry->origin) < 0);
	}
	v->count = sound ? (uint32_t) count : 0;
	if (!sound)
		p2p_reader_fail(r);
}
