/*
 * crashpoint.h
 *	  Places where a test build dies on purpose: each boundary of fsync and
 *	  commit. Compiled in only with -DRP_CRASH_POINTS; nothing otherwise.
 *
 * Setting replp2p.crash_point = 'capture_after_append' makes the next process
 * that comes by RP_CRASH_POINT("capture_after_append") leave by _exit(2),
 * which the postmaster treats as a crash of the cluster. 'stop:NAME' stops it there instead.
 * Several names are separated by commas.
 *
 * RP_CRASH_POINT_IS_ARMED lets who would die break something first, as a loss of power would.
 */
#ifndef RP_CRASHPOINT_H
#define RP_CRASHPOINT_H

#ifdef RP_CRASH_POINTS
void		rp_crash_point_reached(const char *name);
bool		rp_crash_point_is_armed(const char *name);
#define RP_CRASH_POINT(name) rp_crash_point_reached(name)
#define RP_CRASH_POINT_IS_ARMED(name) rp_crash_point_is_armed(name)
#else
#define RP_CRASH_POINT(name) ((void) 0)
#define RP_CRASH_POINT_IS_ARMED(name) false
#endif

#endif							/* RP_CRASHPOINT_H */
