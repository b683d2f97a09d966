/*
 * monotonic.h
 *	  Time for waiting: goes on evenly whatever is done to the server's clock.
 *	  Intervals, retries and deadlines are reckoned in it; stamps and what
 *	  users read are not.
 */
#ifndef RP_MONOTONIC_H
#define RP_MONOTONIC_H

#include "postgres.h"

#include "portability/instr_time.h"

/* Return monotonic time in microseconds. */
static inline int64
rp_monotonic_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

#endif							/* RP_MONOTONIC_H */
