/*
 * versions.h
 *	  Nodes, versions and vectors of three nodes, in one line each.
 */
#ifndef VERSIONS_H
#define VERSIONS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p_resolve.h"

/* Node i: its id is greater than that of a lower one. */
static inline P2pOrigin
node(uint32_t i)
{
	P2pOrigin	origin = {.epoch = 1};

	origin.id.bytes[0] = (uint8_t) ('a' + i);
	return origin;
}

static inline P2pVersion
version_of(P2pStamp stamp, uint32_t origin, uint64_t seq)
{
	return (P2pVersion) {.stamp = stamp, .dot = {.origin = node(origin), .seq = seq}};
}

/* Seqs of nodes 0, 1 and 2; 0 for none. */
static inline P2pVector
vector(uint64_t a, uint64_t b, uint64_t c)
{
	const uint64_t seqs[] = {a, b, c};
	P2pVector	v;

	p2p_vector_clear(&v);
	for (uint32_t i = 0; i < 3; i++)
	{
		P2pOrigin	origin = node(i);

		if (seqs[i] > 0)
			assert_true(p2p_vector_set(&v, &origin, seqs[i]));
	}
	return v;
}

#endif							/* VERSIONS_H */
