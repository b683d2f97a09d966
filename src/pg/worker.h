/*
 * worker.h
 *	  What every background worker of ours does at its start and in its loop.
 */
#ifndef RP_WORKER_H
#define RP_WORKER_H

#include "postmaster/bgworker.h"

#include "shmem.h"
#include "members.h"

/*
 * Register a process of ours for a database: role shows in pg_stat_activity ("replp2p role"),
 * main_name is one of the mains below, extra goes into bgw_extra. False: max_worker_processes are
 * taken.
 */
bool		rp_worker_start(Oid dboid, const char *role, const char *main_name, uint32 extra,
							BackgroundWorkerHandle **handle);
/*
 * Open a worker: signals, database connection (as the bootstrap superuser),
 * pinned settings (search_path pg_catalog, DateStyle ISO, TimeZone UTC,
 * IntervalStyle postgres, extra_float_digits 3, bytea_output hex, statement and
 * lock timeouts off, synchronous_commit off, session_replication_role replica),
 * application_name, its slot in shared memory, on_shmem_exit to give it back.
 * Returns the node. Leaves quietly (exit 0) if the node is gone.
 */
RpNode	   *rp_worker_open(Datum dboid, RpWorkerKind kind);
/* The same for a process beside a worker, which has no slot; `role` shows in application_name. */
RpNode	   *rp_worker_open_helper(Oid dboid, const char *role);
/* The same for the sweep worker, which may have to connect elsewhere because dboid is dropped. */
RpNode	   *rp_worker_open_in(Oid dboid, RpWorkerKind kind, Oid connect_to);
/*
 * Wait on the latch, up to timeout_ms; leaves at the postmaster's death; handles interrupts,
 * reload, stop.
 */
void		rp_worker_wait(RpNode *node, RpWorkerKind kind, long timeout_ms, uint32 wait_event);
/*
 * In loops that do not wait: interrupts, config reload, stop flag, and the postmaster's death every
 * call. True: settings were read again.
 */
bool		rp_worker_check(RpNode *node, RpWorkerKind kind);

/* The mains, registered by the launcher by these names in library "replp2p". */
PGDLLEXPORT void rp_launcher_main(Datum unused);
PGDLLEXPORT void rp_capture_main(Datum dboid);
PGDLLEXPORT void rp_gossip_main(Datum dboid);
PGDLLEXPORT void rp_apply_main(Datum dboid);
PGDLLEXPORT void rp_join_main(Datum dboid);
PGDLLEXPORT void rp_sweep_main(Datum dboid);
/* Registered by the join worker. */
PGDLLEXPORT void rp_copier_main(Datum dboid);

/* A database's folder is renamed with this behind before it is removed. */
#define RP_REMOVED_SUFFIX ".removed"

/* Is this process one of our workers? Its own transactions announce no deletes. */
extern bool rp_in_worker;
/* "capture", "gossip", "apply", "join", "sweep" */
const char *rp_worker_name(RpWorkerKind kind);
/* Register the launcher with the postmaster; called by _PG_init under shared_preload_libraries. */
void		rp_launcher_register(void);
/* Install the hooks that see nodes dropped, renamed or copied (drops.c). */
void		rp_drops_install(void);
/* ereport(elevel) whatever keeps this cluster from having a node in this database. */
void		rp_check_prerequisites(int elevel);

/* Wake all workers of the node that have to leave (force: by SIGTERM); true while one of them runs. */
bool		rp_workers_push_out(RpNode *node, bool force);
/* Stop all workers of a database (and keep them stopped), wait for it; then let them start again. */
void		rp_workers_stop_and_wait(Oid dboid);
void		rp_workers_allow(Oid dboid);
/* Are they stopped for such a command? Then backends that serve peers have to leave the database, too. */
bool		rp_workers_are_stopped(RpNode *node);
/* After the commit of DROP EXTENSION or DROP DATABASE: sweep slot, origins, files. */
void		rp_node_sweep_after_commit(Oid dboid);

#endif							/* RP_WORKER_H */
