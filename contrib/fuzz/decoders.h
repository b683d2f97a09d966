/*
 * decoders.h
 *	  Every decoder of bytes that come from a network or a disk, as one function
 *	  each: fed with anything, it returns, or the process dies.
 *
 * What must hold of each, and ends the process where it doesn't:
 *	- no byte outside of the input is read (ASan), no undefined step (UBSan)
 *	- no memory is asked for: the core has none; what unpacking wants is
 *	  limited before (FUZZ_MAX_UNPACKED)
 *	- what is accepted survives encoding and decoding again unchanged
 *	- nothing made up is taken for signed
 */
#ifndef DECODERS_H
#define DECODERS_H

#include <stddef.h>
#include <stdint.h>

/* Bodies that claim to be larger unpacked are not unpacked here; the server's own limit is P2P_BATCH_MAX_BODY. */
#define FUZZ_MAX_UNPACKED ((uint32_t) 1 << 20)
/* Inputs are at most so long. */
#define FUZZ_MAX_INPUT 65536

typedef void (*FuzzDecoder) (const uint8_t *bytes, size_t length);

typedef struct FuzzTarget
{
	const char *name;
	FuzzDecoder decode;
} FuzzTarget;

/* All of them; ended by a name of NULL. */
extern const FuzzTarget fuzz_targets[];

/* Set up keys and memory; once per process. */
void		fuzz_begin(void);

/* decode_stored.c: what stands in change logs. */
void		fuzz_vector(const uint8_t *bytes, size_t length);
void		fuzz_logrec(const uint8_t *bytes, size_t length);
void		fuzz_position(const uint8_t *bytes, size_t length);
void		fuzz_batch(const uint8_t *bytes, size_t length);
void		fuzz_body(const uint8_t *bytes, size_t length);
void		fuzz_unpack(const uint8_t *bytes, size_t length);

/* decode_spoken.c: what peers and users send. */
void		fuzz_hello(const uint8_t *bytes, size_t length);
void		fuzz_welcome(const uint8_t *bytes, size_t length);
void		fuzz_frame(const uint8_t *bytes, size_t length);
void		fuzz_state(const uint8_t *bytes, size_t length);
void		fuzz_gossip(const uint8_t *bytes, size_t length);
void		fuzz_pull(const uint8_t *bytes, size_t length);
void		fuzz_pull_reply(const uint8_t *bytes, size_t length);
void		fuzz_join(const uint8_t *bytes, size_t length);
void		fuzz_join_reply(const uint8_t *bytes, size_t length);
void		fuzz_error(const uint8_t *bytes, size_t length);
void		fuzz_text(const uint8_t *bytes, size_t length);

/* Keys of the node that reads, and of one that it knows; made from fixed seeds. */
extern uint8_t fuzz_public_key[];
extern uint8_t fuzz_secret_key[];
extern uint8_t fuzz_peer_public_key[];
extern uint8_t fuzz_peer_secret_key[];

/* End the process unless what must hold holds; also where assert() would be compiled out. */
#define FUZZ_REQUIRE(condition) \
	do { if (!(condition)) fuzz_fail(__FILE__, __LINE__, #condition); } while (0)
void		fuzz_fail(const char *file, int line, const char *condition);

#endif							/* DECODERS_H */
