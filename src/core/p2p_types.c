/*
 * p2p_types.c
 *	  Comparing, printing and reading the nouns of p2p_types.h.
 *
 * The order of ids is the order of their bytes. It breaks ties between equal
 * stamps, so it must be the same on every node for ever. An id has exactly one
 * text (lower-case hex), because texts become folder names and origin names.
 */
#include "p2p_types.h"

#include <string.h>

/* Return a short lower-case text for status. */
const char *
p2p_status_text(P2pStatus status)
{
	switch (status)
	{
		case P2P_OK:
			return "ok";
		case P2P_END:
			return "end";
		case P2P_TORN:
			return "torn";
		case P2P_CORRUPT:
			return "corrupt";
		case P2P_TOO_LARGE:
			return "too large";
		case P2P_NO_SPACE:
			return "no space";
		case P2P_BAD_SIGNATURE:
			return "bad signature";
		case P2P_BAD_VERSION:
			return "unknown version";
		case P2P_FOREIGN_GROUP:
			return "foreign group";
		case P2P_REFUSED:
			return "refused";
	}
	return "unknown status";
}

/* Compare two ids by their bytes. */
int
p2p_id_compare(const P2pId *a, const P2pId *b)
{
	return memcmp(a->bytes, b->bytes, P2P_ID_SIZE);
}

/* Compare two origins by id, then by epoch. */
int
p2p_origin_compare(const P2pOrigin *a, const P2pOrigin *b)
{
	int			order = p2p_id_compare(&a->id, &b->id);

	if (order != 0)
		return order;
	return (a->epoch > b->epoch) - (a->epoch < b->epoch);
}

/* Is it the same incarnation of the same node? */
bool
p2p_origin_equal(const P2pOrigin *a, const P2pOrigin *b)
{
	return a->epoch == b->epoch && p2p_id_compare(&a->id, &b->id) == 0;
}

/* Write id as lower-case hex and a zero byte. */
void
p2p_id_to_text(const P2pId *id, char text[P2P_ID_TEXT_SIZE])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < P2P_ID_SIZE; i++)
	{
		text[2 * i] = digits[id->bytes[i] >> 4];
		text[2 * i + 1] = digits[id->bytes[i] & 0x0f];
	}
	text[2 * P2P_ID_SIZE] = '\0';
}

/* Return the value of a lower-case hex digit, or -1. */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Read exactly what p2p_id_to_text writes; *id is zero if it is anything else. */
bool
p2p_id_from_text(const char *text, P2pId *id)
{
	memset(id, 0, sizeof(*id));
	if (strlen(text) != 2 * P2P_ID_SIZE)
		return false;
	for (size_t i = 0; i < P2P_ID_SIZE; i++)
	{
		int			high = hex_value(text[2 * i]);
		int			low = hex_value(text[2 * i + 1]);

		if (high < 0 || low < 0)
		{
			memset(id, 0, sizeof(*id));
			return false;
		}
		id->bytes[i] = (uint8_t) (high << 4 | low);
	}
	return true;
}
