/*
 * decoders.c
 *	  The list of decoders, their keys, and the end of a process in which
 *	  something didn't hold.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_crypto.h"

#include "decoders.h"

uint8_t		fuzz_public_key[P2P_PUBLIC_KEY_SIZE];
uint8_t		fuzz_secret_key[P2P_SECRET_KEY_SIZE];
uint8_t		fuzz_peer_public_key[P2P_PUBLIC_KEY_SIZE];
uint8_t		fuzz_peer_secret_key[P2P_SECRET_KEY_SIZE];

const FuzzTarget fuzz_targets[] = {
	{"vector", fuzz_vector},
	{"logrec", fuzz_logrec},
	{"position", fuzz_position},
	{"batch", fuzz_batch},
	{"body", fuzz_body},
	{"unpack", fuzz_unpack},
	{"hello", fuzz_hello},
	{"welcome", fuzz_welcome},
	{"frame", fuzz_frame},
	{"state", fuzz_state},
	{"gossip", fuzz_gossip},
	{"pull", fuzz_pull},
	{"pull_reply", fuzz_pull_reply},
	{"join", fuzz_join},
	{"join_reply", fuzz_join_reply},
	{"error", fuzz_error},
	{"text", fuzz_text},
	{NULL, NULL}
};

void
fuzz_begin(void)
{
	uint8_t		seed[P2P_SEED_SIZE];

	FUZZ_REQUIRE(p2p_crypto_init());
	memset(seed, 1, sizeof(seed));
	p2p_keypair_from_seed(seed, fuzz_public_key, fuzz_secret_key);
	memset(seed, 2, sizeof(seed));
	p2p_keypair_from_seed(seed, fuzz_peer_public_key, fuzz_peer_secret_key);
}

void
fuzz_fail(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
	abort();
}
