/*
 * arena.c
 *	  Memory and randomness of one run.
 *
 * A run takes memory from one large piece and never gives any back; the next
 * run begins at the start again. Vectors that do not change any more are kept
 * only as long as their count says: core reads no further.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_SIZE ((size_t) 64 * 1024 * 1024)

static uint8_t arena[ARENA_SIZE] __attribute__((aligned(16)));
static size_t used;

/* Return memory that is zero. */
void *
arena_take(size_t size)
{
	void	   *memory = arena + used;

	size = (size + 15) & ~(size_t) 15;
	if (used + size > ARENA_SIZE)
	{
		fprintf(stderr, "sim: the arena is full\n");
		abort();
	}
	used += size;
	memset(memory, 0, size);
	return memory;
}

void
arena_reset(void)
{
	used = 0;
}

/* Make a vector of seqs by node. */
void
vector_build(P2pVector *v, const uint32_t *seqs)
{
	uint32_t	n = 0;

	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (seqs[i] == 0)
			continue;
		v->entries[n].origin = world.origins[i];
		v->entries[n++].seq = seqs[i];
	}
	v->count = n;
}

/* The same, to stay. */
const P2pVector *
vector_keep(const uint32_t *seqs)
{
	P2pVector	v;
	size_t		size;
	P2pVector  *copy;

	vector_build(&v, seqs);
	size = offsetof(P2pVector, entries) + v.count * sizeof(P2pVectorEntry);
	copy = arena_take(size);
	memcpy(copy, &v, size);
	return copy;
}

/* Return a component; as p2p_vector_get, but by the first byte of the id alone, which is the node. */
uint32_t
vector_seq(const P2pVector *v, uint32_t node)
{
	for (uint32_t i = 0; i < v->count; i++)
	{
		if (v->entries[i].origin.id.bytes[0] == node + 1)
			return (uint32_t) v->entries[i].seq;
	}
	return 0;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t
random_next(Random *r)
{
	uint64_t	z = (r->state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* A number from 0 to n - 1. */
uint32_t
random_below(Random *r, uint32_t n)
{
	return (uint32_t) (((random_next(r) >> 32) * n) >> 32);
}

bool
random_chance(Random *r, uint32_t percent)
{
	return random_below(r, 100) < percent;
}
