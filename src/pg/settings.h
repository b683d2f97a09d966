/*
 * settings.h
 *	  The settings replp2p.*, and the names of the extension's own objects.
 */
#ifndef RP_SETTINGS_H
#define RP_SETTINGS_H

#include "postgres.h"

#define RP_SCHEMA "replp2p"

extern int	rp_max_databases;			/* postmaster; default 4 */
extern int	rp_max_clock_skew_s;		/* sighup; seconds, default 600 */
extern int	rp_gossip_interval_ms;		/* sighup; default 1000 */
extern int	rp_poll_timeout_ms;			/* sighup; long poll, default 2000 */
extern int	rp_batch_max_kb;			/* sighup; soft limit of a batch, default 1024 kB */
extern int	rp_batch_delay_ms;			/* sighup; longest wait for more under load, default 10 */
extern int	rp_max_log_size_mb;			/* sighup; warning limit, default 4096 MB */
extern int	rp_conflict_history_days;	/* sighup; default 30 */
extern int	rp_conflict_history_rows;	/* sighup; default 100000 */
extern int	rp_connect_timeout_s;		/* sighup; default 5 */
extern int	rp_dead_after_s;			/* sighup; a member unheard of for so long is unreachable, default 10 */
extern int	rp_handler_timeout_ms;		/* sighup; one call of a custom handler, default 1000 */
extern int	rp_sibling_warning;			/* sighup; siblings of one row, 0 = never, default 100 */
extern int	rp_join_workers;			/* sighup; processes that copy at the same time in a join, default 2 */
extern int	rp_join_work_mem_kb;		/* sighup; memory of each index that a join makes, default 256 MB */
extern int	rp_join_donors;			/* sighup; members that a join copies from, the sponsor among them, default 2 */
extern char *rp_unreachable_peers;		/* sighup; comma-separated names: drill, link cut both ways */
extern char *rp_crash_point;			/* only with RP_CRASH_POINTS: see crashpoint.h */
extern bool rp_raw_stamps;				/* only with RP_CRASH_POINTS: stamps that diverge */

#define RP_JOIN_WORKERS_LIMIT 32
#define RP_JOIN_DONORS_LIMIT 4

/* Define them all; called by _PG_init. */
void		rp_settings_define(void);
/* Is the link to the member of this name cut by replp2p.unreachable_peers? */
bool		rp_peer_is_cut(const char *name);

#endif							/* RP_SETTINGS_H */
