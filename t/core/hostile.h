/*
 * hostile.h
 *	  What the tests of codecs throw at them: cut and flipped bytes, from a seed
 *	  that is printed and can be given as P2P_TEST_SEED.
 *
 * Bytes under test stand in memory of exactly their size, so that the address
 * sanitizer sees one read too far.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Return the seed of this run, printing it once. */
static inline uint64_t
hostile_seed(void)
{
	static uint64_t seed;

	if (seed == 0)
	{
		const char *given = getenv("P2P_TEST_SEED");

		seed = (given != NULL) ? strtoull(given, NULL, 10) : 20240229;
		if (seed == 0)
			seed = 1;
		print_message("# P2P_TEST_SEED=%llu\n", (unsigned long long) seed);
	}
	return seed;
}

/* Return the next number of a sequence (xorshift64*); start *state with hostile_seed(). */
static inline uint64_t
hostile_next(uint64_t *state)
{
	uint64_t	x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 2685821657736338717ULL;
}

/* Return a number below limit. */
static inline uint32_t
hostile_below(uint64_t *state, uint32_t limit)
{
	return (uint32_t) ((hostile_next(state) >> 32) % limit);
}

/* Return a copy in memory of exactly length bytes; free() it. */
static inline uint8_t *
exact_copy(const void *bytes, size_t length)
{
	uint8_t    *copy = malloc(length > 0 ? length : 1);

	assert_non_null(copy);
	if (length > 0)
		memcpy(copy, bytes, length);
	return copy;
}

typedef void (*HostileReader) (const uint8_t *bytes, size_t length, void *context);

/* Call reader with every proper prefix of bytes. */
static inline void
hostile_truncate(const void *bytes, size_t length, HostileReader reader, void *context)
{
	for (size_t n = 0; n < length; n++)
	{
		uint8_t    *copy = exact_copy(bytes, n);

		reader(copy, n, context);
		free(copy);
	}
}

/* Call reader rounds times with 1 to 4 random bytes changed, and sometimes cut, too. */
static inline void
hostile_flip(const void *bytes, size_t length, int rounds, HostileReader reader, void *context)
{
	uint64_t	state = hostile_seed();

	for (int round = 0; round < rounds; round++)
	{
		size_t		n = length;
		uint8_t    *copy;

		if (hostile_below(&state, 4) == 0)
			n = hostile_below(&state, (uint32_t) length) + 1;
		copy = exact_copy(bytes, n);
		for (uint32_t i = hostile_below(&state, 4) + 1; i > 0; i--)
			copy[hostile_below(&state, (uint32_t) n)] ^=
				(uint8_t) (hostile_below(&state, 255) + 1);
		reader(copy, n, context);
		free(copy);
	}
}

#endif							/* HOSTILE_H */
