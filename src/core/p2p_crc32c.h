/*
 * p2p_crc32c.h
 *	  CRC-32C (Castagnoli), for records on disk. Table-driven, no CPU feature needed.
 */
#ifndef P2P_CRC32C_H
#define P2P_CRC32C_H

#include "p2p_types.h"

/* Continue crc (0 at the start) over length bytes. */
uint32_t	p2p_crc32c(uint32_t crc, const void *bytes, size_t length);

#endif							/* P2P_CRC32C_H */
