/*
 * p2p_logrec.h
 *	  Records of a change log file.
 *
 *	  offset size
 *	       0    4  length of the payload
 *	       4    4  CRC-32C of type, the three zero bytes, the length field and the payload
 *	       8    1  type
 *	       9    3  zero
 *	      12    n  payload
 *
 * Behind the last record of a file there may be zeros: space that is prepared for the next ones.
 *
 * POSITION payload (own log only): u64 lsn, u64 seq, i64 stamp of the last
 * local transaction, i64 floor, vector (the applied vector as capture had read
 * it from the WAL up to lsn, own component = seq). BATCH payload: p2p_batch.h.
 * ONLY APPEND to the types.
 */
#ifndef P2P_LOGREC_H
#define P2P_LOGREC_H

#include "p2p_vector.h"

typedef enum P2pLogType
{
	P2P_LOG_BATCH = 1,
	P2P_LOG_POSITION = 2
} P2pLogType;

#define P2P_LOGREC_HEADER_SIZE 12
#define P2P_LOGREC_MAX_PAYLOAD ((uint32_t) 600 * 1024 * 1024)

/* Write the header of a record whose payload is the two pieces one after the other. */
void		p2p_logrec_header(P2pLogType type, const void *first, uint32_t first_length,
							  const void *second, uint32_t second_length,
							  uint8_t header[P2P_LOGREC_HEADER_SIZE]);

/*
 * Read a header: its payload length and type. P2P_TORN if fewer than
 * P2P_LOGREC_HEADER_SIZE bytes, P2P_CORRUPT if type, zeros or length are impossible.
 */
P2pStatus	p2p_logrec_peek(const void *bytes, size_t length,
							P2pLogType *type, uint32_t *payload_length);

/* Does no record begin here: zeros where its header would be, or the end of the file? */
bool		p2p_logrec_is_blank(const void *bytes, size_t length);

/* Check the whole record (header and payload): P2P_OK, P2P_TORN or P2P_CORRUPT. */
P2pStatus	p2p_logrec_check(const void *bytes, size_t length);

typedef struct P2pPosition
{
	uint64_t	lsn;			/* all commits that end at or before it are accounted for */
	uint64_t	seq;			/* last local transaction up to it */
	P2pStamp	stamp;			/* its stamp */
	P2pStamp	floor;			/* when this was written */
	P2pVector	vector;
} P2pPosition;

#define P2P_POSITION_MAX_SIZE (32 + P2P_VECTOR_MAX_SIZE)
void		p2p_put_position(P2pWriter *w, const P2pPosition *position);
P2pStatus	p2p_get_position(const void *bytes, size_t length, P2pPosition *position);

#endif							/* P2P_LOGREC_H */
