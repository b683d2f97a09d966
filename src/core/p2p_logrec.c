/*
 * p2p_logrec.c
 *	  Records of a change log file: framing, checksum, position payload.
 *
 * The format stands in p2p_logrec.h. The checksum covers the type and the
 * zeros first, then the length, then the payload: a record that is all zeros
 * (a hole that a crash left in the file, or space prepared for what comes next) is refused
 * by its type already.
 *
 * P2P_TORN means "wait or cut": every byte that is there could be the start of
 * a sound record. P2P_CORRUPT means that more bytes won't help.
 */
#include "p2p_logrec.h"

#include <string.h>

#include "p2p_crc32c.h"

#define LENGTH_AT 0
#define LENGTH_SIZE 4
#define TYPE_AT 8
#define TYPE_SIZE 4				/* with the zeros after it */

/* Write the header of a record with the payload {first, second}. */
void
p2p_logrec_header(P2pLogType type, const void *first, uint32_t first_length,
				  const void *second, uint32_t second_length,
				  uint8_t header[P2P_LOGREC_HEADER_SIZE])
{
	P2pWriter	w;
	uint32_t	crc;

	p2p_writer_init(&w, header, P2P_LOGREC_HEADER_SIZE);
	p2p_put_u32(&w, first_length + second_length);
	p2p_put_u32(&w, 0);
	p2p_put_u32(&w, (uint32_t) type);

	crc = p2p_crc32c(0, header + TYPE_AT, TYPE_SIZE);
	crc = p2p_crc32c(crc, header + LENGTH_AT, LENGTH_SIZE);
	crc = p2p_crc32c(crc, first, first_length);
	crc = p2p_crc32c(crc, second, second_length);

	p2p_writer_init(&w, header + LENGTH_SIZE, 4);
	p2p_put_u32(&w, crc);
}

/* Read a header without its checksum, which needs the payload. */
P2pStatus
p2p_logrec_peek(const void *bytes, size_t length, P2pLogType *type, uint32_t *payload_length)
{
	P2pReader	r;
	uint32_t	type_and_zeros;

	if (length < P2P_LOGREC_HEADER_SIZE)
		return P2P_TORN;
	p2p_reader_init(&r, bytes, P2P_LOGREC_HEADER_SIZE);
	*payload_length = p2p_get_u32(&r);
	(void) p2p_get_u32(&r);
	type_and_zeros = p2p_get_u32(&r);

	if (type_and_zeros != P2P_LOG_BATCH && type_and_zeros != P2P_LOG_POSITION)
		return P2P_CORRUPT;
	if (*payload_length == 0 || *payload_length > P2P_LOGREC_MAX_PAYLOAD)
		return P2P_CORRUPT;
	*type = (P2pLogType) type_and_zeros;
	return P2P_OK;
}

/* Say whether all that is there of a header is zero, which no record's length and type are. */
bool
p2p_logrec_is_blank(const void *bytes, size_t length)
{
	static const uint8_t zeros[P2P_LOGREC_HEADER_SIZE];

	if (length > sizeof(zeros))
		length = sizeof(zeros);
	return memcmp(bytes, zeros, length) == 0;
}

/* Check the record at the start of bytes; what stands behind it does not matter. */
P2pStatus
p2p_logrec_check(const void *bytes, size_t length)
{
	const uint8_t *record = bytes;
	P2pReader	r;
	P2pLogType	type;
	uint32_t	payload_length;
	uint32_t	crc;
	P2pStatus	status = p2p_logrec_peek(bytes, length, &type, &payload_length);

	if (status != P2P_OK)
		return status;
	if (length - P2P_LOGREC_HEADER_SIZE < payload_length)
		return P2P_TORN;

	crc = p2p_crc32c(0, record + TYPE_AT, TYPE_SIZE);
	crc = p2p_crc32c(crc, record + LENGTH_AT, LENGTH_SIZE);
	crc = p2p_crc32c(crc, record + P2P_LOGREC_HEADER_SIZE, payload_length);

	p2p_reader_init(&r, record + LENGTH_SIZE, 4);
	return (p2p_get_u32(&r) == crc) ? P2P_OK : P2P_CORRUPT;
}

/* Write the payload of a POSITION record. */
void
p2p_put_position(P2pWriter *w, const P2pPosition *position)
{
	p2p_put_u64(w, position->lsn);
	p2p_put_u64(w, position->seq);
	p2p_put_i64(w, position->stamp);
	p2p_put_i64(w, position->floor);
	p2p_put_vector(w, &position->vector);
}

/* Read the payload of a POSITION record, all of it: P2P_OK or P2P_CORRUPT. */
P2pStatus
p2p_get_position(const void *bytes, size_t length, P2pPosition *position)
{
	P2pReader	r;

	p2p_reader_init(&r, bytes, length);
	position->lsn = p2p_get_u64(&r);
	position->seq = p2p_get_u64(&r);
	position->stamp = p2p_get_i64(&r);
	position->floor = p2p_get_i64(&r);
	p2p_get_vector(&r, &position->vector);
	return (r.bad || p2p_reader_left(&r) > 0) ? P2P_CORRUPT : P2P_OK;
}
