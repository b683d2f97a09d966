/*
 * p2p_crc32c.c
 *	  CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), eight bytes a step.
 *
 * table[k][i] is the remainder of byte i followed by k zero bytes; the
 * remainders of the eight bytes of a step are looked up independently of one
 * another and added up ("slicing by 8", Kounavis and Berry 2005).
 *
 * Remainders are linear: table[k][i] is the exclusive or of table[k][1 << b]
 * over the bits b of i. So each table is said by eight numbers (BASIS0 to
 * BASIS7), the compiler works out the others, and there is no step of
 * initialization that somebody could forget. The test recomputes it bit by bit.
 */
#include "p2p_crc32c.h"

#define BIT(i, b, c) ((((i) >> (b)) & 1u) ? (c) : 0u)
#define MIX(i, c0, c1, c2, c3, c4, c5, c6, c7) \
	(BIT(i, 0, c0 ## u) ^ BIT(i, 1, c1 ## u) ^ BIT(i, 2, c2 ## u) ^ BIT(i, 3, c3 ## u) ^ \
	 BIT(i, 4, c4 ## u) ^ BIT(i, 5, c5 ## u) ^ BIT(i, 6, c6 ## u) ^ BIT(i, 7, c7 ## u))

#define BASIS0(i) MIX(i, 0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, \
			0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78)
#define BASIS1(i) MIX(i, 0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, \
			0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9)
#define BASIS2(i) MIX(i, 0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, \
			0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743)
#define BASIS3(i) MIX(i, 0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, \
			0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f)
#define BASIS4(i) MIX(i, 0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, \
			0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c)
#define BASIS5(i) MIX(i, 0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, \
			0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6)
#define BASIS6(i) MIX(i, 0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, \
			0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4)
#define BASIS7(i) MIX(i, 0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, \
			0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664)

#define ROW4(basis, i) basis(i), basis((i) + 1u), basis((i) + 2u), basis((i) + 3u)
#define ROW16(basis, i) \
	ROW4(basis, i), ROW4(basis, (i) + 4u), ROW4(basis, (i) + 8u), ROW4(basis, (i) + 12u)
#define ROW64(basis, i) \
	ROW16(basis, i), ROW16(basis, (i) + 16u), ROW16(basis, (i) + 32u), ROW16(basis, (i) + 48u)
#define ROW256(basis) \
	{ ROW64(basis, 0u), ROW64(basis, 64u), ROW64(basis, 128u), ROW64(basis, 192u) }

static const uint32_t table[8][256] = {
	ROW256(BASIS0), ROW256(BASIS1), ROW256(BASIS2), ROW256(BASIS3),
	ROW256(BASIS4), ROW256(BASIS5), ROW256(BASIS6), ROW256(BASIS7)
};

/* Load 4 bytes, the first lowest. */
static inline uint32_t
load32(const uint8_t *at)
{
	return (uint32_t) at[0] | (uint32_t) at[1] << 8 | (uint32_t) at[2] << 16 |
		(uint32_t) at[3] << 24;
}

/* Continue crc over length bytes; crc and the result are the final, inverted form. */
uint32_t
p2p_crc32c(uint32_t crc, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	crc = ~crc;
	for (; length >= 8; at += 8, length -= 8)
	{
		uint32_t	low = crc ^ load32(at);
		uint32_t	high = load32(at + 4);

		crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^
			table[5][low >> 16 & 0xff] ^ table[4][low >> 24] ^
			table[3][high & 0xff] ^ table[2][high >> 8 & 0xff] ^
			table[1][high >> 16 & 0xff] ^ table[0][high >> 24];
	}
	for (; length > 0; at++, length--)
		crc = crc >> 8 ^ table[0][(crc ^ *at) & 0xff];
	return ~crc;
}
