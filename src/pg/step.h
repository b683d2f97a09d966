/*
 * step.h
 *	  Steps: where in its transaction an operation on a key stands.
 *
 * Items of a transaction (INSERT, UPDATE, DELETE, TRUNCATE; not its
 * descriptions, BEGIN and COMMIT) are numbered from 1 in the order of the
 * stream; a large transaction that goes in parts is counted on over their
 * repeated BEGINs. Each item has two steps, since an update that changes the
 * key is a delete of the old key and an insert of the new one:
 *
 *	  item n	2n		removes: a delete, a truncate, the old key of a moved row
 *				2n + 1	stores: an insert, an update, the new key of a moved row
 *
 * All nodes number the same bytes, so the steps are the same everywhere, be
 * they counted by apply or by a pass over a log.
 */
#ifndef RP_STEP_H
#define RP_STEP_H

#include "postgres.h"

/* The step at which item number n removes a key. */
static inline uint32
rp_step_removing(uint32 number)
{
	return 2 * number;
}

/* The step at which item number n stores a row. */
static inline uint32
rp_step_storing(uint32 number)
{
	return 2 * number + 1;
}

#endif							/* RP_STEP_H */
