/*
 * p2p_buf.c
 *	  Bounded writing and reading of bytes.
 *
 * Everything passes through two gates: reserve() hands out room to write and
 * take() hands out bytes to read, or NULL. No other line of the core compares
 * a position with an end, but for the fast paths of p2p_body.c.
 *
 * Invariants: a writer without overflow has length <= capacity; a reader has
 * pos <= length always, and pos = length once it is bad, so that loops "while
 * something is left" end.
 *
 * A varint has one encoding: a reader refuses needless trailing zero groups
 * and what does not fit into 64 bits.
 */
#include "p2p_buf.h"

#include <string.h>

#define VARINT_MAX_SIZE 10

/* Swap to or from the little-endian order of all encodings; nothing on most machines. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE16(x) __builtin_bswap16(x)
#define LITTLE32(x) __builtin_bswap32(x)
#define LITTLE64(x) __builtin_bswap64(x)
#else
#define LITTLE16(x) (x)
#define LITTLE32(x) (x)
#define LITTLE64(x) (x)
#endif

/* Return room for n bytes and count them, or NULL: the writer is over its end. */
static inline uint8_t *
reserve(P2pWriter *w, size_t n)
{
	size_t		at = w->length;

	w->length += n;
	if (w->overflow || n > w->capacity - at)
	{
		w->overflow = true;
		return NULL;
	}
	return w->data + at;
}

/* Write into memory; NULL, 0 only counts. */
void
p2p_writer_init(P2pWriter *w, void *memory, size_t capacity)
{
	w->data = memory;
	w->capacity = capacity;
	w->length = 0;
	w->overflow = false;
}

/* Write one byte. */
void
p2p_put_u8(P2pWriter *w, uint8_t value)
{
	uint8_t    *at = reserve(w, 1);

	if (at != NULL)
		*at = value;
}

/* Write 2 bytes. */
void
p2p_put_u16(P2pWriter *w, uint16_t value)
{
	uint16_t	little = LITTLE16(value);
	uint8_t    *at = reserve(w, sizeof(little));

	if (at != NULL)
		memcpy(at, &little, sizeof(little));
}

/* Write 4 bytes. */
void
p2p_put_u32(P2pWriter *w, uint32_t value)
{
	uint32_t	little = LITTLE32(value);
	uint8_t    *at = reserve(w, sizeof(little));

	if (at != NULL)
		memcpy(at, &little, sizeof(little));
}

/* Write 8 bytes. */
void
p2p_put_u64(P2pWriter *w, uint64_t value)
{
	uint64_t	little = LITTLE64(value);
	uint8_t    *at = reserve(w, sizeof(little));

	if (at != NULL)
		memcpy(at, &little, sizeof(little));
}

/* Write 8 bytes, two's complement. */
void
p2p_put_i64(P2pWriter *w, int64_t value)
{
	p2p_put_u64(w, (uint64_t) value);
}

/* Write 1 to 10 bytes: groups of 7 bits, lowest first, the high bit says that more follow. */
void
p2p_put_varint(P2pWriter *w, uint64_t value)
{
	uint8_t		groups[VARINT_MAX_SIZE];
	size_t		n = 0;

	while (value >= 0x80)
	{
		groups[n++] = (uint8_t) (value | 0x80);
		value >>= 7;
	}
	groups[n++] = (uint8_t) value;
	p2p_put_bytes(w, groups, n);
}

/* Write bytes as they are. */
void
p2p_put_bytes(P2pWriter *w, const void *bytes, size_t length)
{
	uint8_t    *at = reserve(w, length);

	if (at != NULL && length > 0)
		memcpy(at, bytes, length);
}

/* Write a varint length and the bytes. */
void
p2p_put_block(P2pWriter *w, const void *bytes, size_t length)
{
	p2p_put_varint(w, length);
	p2p_put_bytes(w, bytes, length);
}

/* Write a zero-terminated text as a block, without its zero. */
void
p2p_put_text(P2pWriter *w, const char *text)
{
	p2p_put_block(w, text, strlen(text));
}

/* Write the text in an array of size bytes, refusing one that does not end inside it. */
void
p2p_put_text_field(P2pWriter *w, const char *text, size_t size)
{
	const char *end = memchr(text, '\0', size);

	if (end == NULL)
	{
		w->overflow = true;
		return;
	}
	p2p_put_block(w, text, (size_t) (end - text));
}

/* Write an id. */
void
p2p_put_id(P2pWriter *w, const P2pId *id)
{
	p2p_put_bytes(w, id->bytes, P2P_ID_SIZE);
}

/* Write an id and a u32 epoch. */
void
p2p_put_origin(P2pWriter *w, const P2pOrigin *origin)
{
	p2p_put_id(w, &origin->id);
	p2p_put_u32(w, origin->epoch);
}

/* Read from bytes, which stay the caller's and must outlive the reader. */
void
p2p_reader_init(P2pReader *r, const void *bytes, size_t length)
{
	/* Never NULL, so that NULL from p2p_get_bytes always means bad. */
	r->data = (bytes != NULL) ? bytes : (const void *) "";
	r->length = (bytes != NULL) ? length : 0;
	r->pos = 0;
	r->bad = false;
}

/* Return how many bytes are left; 0 once bad. */
size_t
p2p_reader_left(const P2pReader *r)
{
	return r->length - r->pos;
}

/* Mark the reader as bad for good. */
void
p2p_reader_fail(P2pReader *r)
{
	r->bad = true;
	r->pos = r->length;
}

/* Return the next n >= 1 bytes and pass them, or NULL: the reader is bad. */
static inline const uint8_t *
take(P2pReader *r, size_t n)
{
	const uint8_t *at = r->data + r->pos;

	if (n > r->length - r->pos)
	{
		p2p_reader_fail(r);
		return NULL;
	}
	r->pos += n;
	return at;
}

/* Read one byte. */
uint8_t
p2p_get_u8(P2pReader *r)
{
	const uint8_t *at = take(r, 1);

	return (at != NULL) ? *at : 0;
}

/* Read 2 bytes. */
uint16_t
p2p_get_u16(P2pReader *r)
{
	uint16_t	little = 0;
	const uint8_t *at = take(r, sizeof(little));

	if (at != NULL)
		memcpy(&little, at, sizeof(little));
	return LITTLE16(little);
}

/* Read 4 bytes. */
uint32_t
p2p_get_u32(P2pReader *r)
{
	uint32_t	little = 0;
	const uint8_t *at = take(r, sizeof(little));

	if (at != NULL)
		memcpy(&little, at, sizeof(little));
	return LITTLE32(little);
}

/* Read 8 bytes. */
uint64_t
p2p_get_u64(P2pReader *r)
{
	uint64_t	little = 0;
	const uint8_t *at = take(r, sizeof(little));

	if (at != NULL)
		memcpy(&little, at, sizeof(little));
	return LITTLE64(little);
}

/* Read 8 bytes, two's complement. */
int64_t
p2p_get_i64(P2pReader *r)
{
	return (int64_t) p2p_get_u64(r);
}

/* Read a varint; bad if it is cut, needlessly long, or more than 64 bits. */
uint64_t
p2p_get_varint(P2pReader *r)
{
	const uint8_t *at = r->data + r->pos;
	size_t		left = r->length - r->pos;
	uint64_t	value = 0;

	if (left > VARINT_MAX_SIZE)
		left = VARINT_MAX_SIZE;
	for (size_t i = 0; i < left; i++)
	{
		uint8_t		group = at[i];

		value |= (uint64_t) (group & 0x7f) << (7 * i);
		if (group < 0x80)
		{
			bool		too_long = group == 0 && i > 0;
			bool		too_large = group > 1 && i == VARINT_MAX_SIZE - 1;

			if (too_long || too_large)
				break;
			r->pos += i + 1;
			return value;
		}
	}
	p2p_reader_fail(r);
	return 0;
}

/* Return the next length bytes (a pointer into the reader's memory), or NULL and bad. */
const uint8_t *
p2p_get_bytes(P2pReader *r, size_t length)
{
	if (r->bad)
		return NULL;
	return take(r, length);
}

/* Copy the next length bytes to out, or zeros and bad. */
void
p2p_get_raw(P2pReader *r, void *out, size_t length)
{
	const uint8_t *at = p2p_get_bytes(r, length);

	if (at != NULL)
		memcpy(out, at, length);
	else
		memset(out, 0, length);
}

/* Return the bytes of a block and their length, or NULL, 0 and bad. */
const uint8_t *
p2p_get_block(P2pReader *r, size_t max, size_t *length)
{
	uint64_t	declared = p2p_get_varint(r);
	const uint8_t *at = NULL;

	if (declared > max)
		p2p_reader_fail(r);
	else
		at = p2p_get_bytes(r, (size_t) declared);
	*length = (at != NULL) ? (size_t) declared : 0;
	return at;
}

/* Copy a text into an array of size bytes; empty and bad if too long or with a zero inside. */
void
p2p_get_text(P2pReader *r, char *text, size_t size)
{
	size_t		length;
	const uint8_t *at = p2p_get_block(r, size - 1, &length);

	if (at != NULL && memchr(at, '\0', length) != NULL)
	{
		p2p_reader_fail(r);
		length = 0;
	}
	if (length > 0)
		memcpy(text, at, length);
	text[length] = '\0';
}

/* Read an id. */
void
p2p_get_id(P2pReader *r, P2pId *id)
{
	p2p_get_raw(r, id->bytes, P2P_ID_SIZE);
}

/* Read an id and a u32 epoch. */
void
p2p_get_origin(P2pReader *r, P2pOrigin *origin)
{
	p2p_get_id(r, &origin->id);
	origin->epoch = p2p_get_u32(r);
}
