/*
 * p2p_buf.h
 *	  Bounded writing and reading of bytes: the only way in which the core
 *	  touches an encoding.
 *
 * All integers are little-endian; a varint is LEB128 of at most 10 bytes.
 * A writer that runs over its end, or a reader over its, sets a sticky flag
 * and goes on harmlessly (the reader yields zeros), so that a codec checks
 * once at its end. A writer over NULL, 0 only counts. What may never be written
 * sets overflow, too, with length still at most capacity: more memory is no cure.
 */
#ifndef P2P_BUF_H
#define P2P_BUF_H

#include "p2p_types.h"

typedef struct P2pWriter
{
	uint8_t    *data;
	size_t		capacity;
	size_t		length;			/* bytes written, or that would have been */
	bool		overflow;
} P2pWriter;

typedef struct P2pReader
{
	const uint8_t *data;
	size_t		length;
	size_t		pos;
	bool		bad;			/* sticky: read past the end, or bad varint */
} P2pReader;

void		p2p_writer_init(P2pWriter *w, void *memory, size_t capacity);
void		p2p_put_u8(P2pWriter *w, uint8_t value);
void		p2p_put_u16(P2pWriter *w, uint16_t value);
void		p2p_put_u32(P2pWriter *w, uint32_t value);
void		p2p_put_u64(P2pWriter *w, uint64_t value);
void		p2p_put_i64(P2pWriter *w, int64_t value);
void		p2p_put_varint(P2pWriter *w, uint64_t value);
void		p2p_put_bytes(P2pWriter *w, const void *bytes, size_t length);
/* varint length, then the bytes */
void		p2p_put_block(P2pWriter *w, const void *bytes, size_t length);
void		p2p_put_text(P2pWriter *w, const char *text);
/* A text that stands in an array of size bytes; overflow if it does not end inside it. */
void		p2p_put_text_field(P2pWriter *w, const char *text, size_t size);
void		p2p_put_id(P2pWriter *w, const P2pId *id);
void		p2p_put_origin(P2pWriter *w, const P2pOrigin *origin);

void		p2p_reader_init(P2pReader *r, const void *bytes, size_t length);
size_t		p2p_reader_left(const P2pReader *r);
/* Mark it as bad: for a codec that has read what may not be. */
void		p2p_reader_fail(P2pReader *r);
uint8_t		p2p_get_u8(P2pReader *r);
uint16_t	p2p_get_u16(P2pReader *r);
uint32_t	p2p_get_u32(P2pReader *r);
uint64_t	p2p_get_u64(P2pReader *r);
int64_t		p2p_get_i64(P2pReader *r);
uint64_t	p2p_get_varint(P2pReader *r);
/* Point into the reader's memory, or NULL (and bad) if length is not there. */
const uint8_t *p2p_get_bytes(P2pReader *r, size_t length);
/* Copy length bytes to out, or zeros (and bad) if they are not there. */
void		p2p_get_raw(P2pReader *r, void *out, size_t length);
/* A block: pointer and length; refuses (bad) more than max bytes. */
const uint8_t *p2p_get_block(P2pReader *r, size_t max, size_t *length);
/* Copy a text of at most size - 1 bytes, without zero bytes in it, into text. */
void		p2p_get_text(P2pReader *r, char *text, size_t size);
void		p2p_get_id(P2pReader *r, P2pId *id);
void		p2p_get_origin(P2pReader *r, P2pOrigin *origin);

#endif							/* P2P_BUF_H */
