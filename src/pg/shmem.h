/*
 * shmem.h
 *	  What the workers and backends of a cluster share: one RpNode per database
 *	  that is a node, with its members and vectors.
 *
 * Workers never include one another; they meet here and in the change logs.
 *
 * Lock order (take from left to right, never the other way; none of them is
 * held across I/O, SPI, decoding or a wait):
 *
 *	  RpShared.lock  ->  RpNode.lock  ->  RpNode.vector_lock (spinlock)
 *
 * RpNode.notes_lock is taken with none of these held, and takes the last one.
 *
 * A member's slot (its index in RpNode.members) is local to this node, stable
 * for the node's life, and stands for (node id, epoch). Slot 0 is this node.
 */
#ifndef RP_SHMEM_H
#define RP_SHMEM_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "replication/origin.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "conflict_counts.h"
#include "pollers.h"
#include "settings.h"
#include "p2p_message.h"
#include "p2p_vector.h"

#define RP_SELF 0
#define RP_MAX_MEMBERS P2P_MAX_MEMBERS
#define RP_ERROR_TEXT_SIZE 512

/* Does this node have rows that others displace? Until apply has looked, nobody knows. */
typedef enum RpDisplaced
{
	RP_DISPLACED_UNKNOWN = 0,
	RP_DISPLACED_NONE,
	RP_DISPLACED_SOME
} RpDisplaced;

/* The origin under which a join copies rows: never captured. */
#define RP_COPY_ORIGIN DoNotReplicateId

typedef enum RpNodeStatus
{
	RP_NODE_NONE = 0,			/* no node in this database, or not loaded yet */
	RP_NODE_CREATING,			/* create_group has committed; the slot is being made */
	RP_NODE_JOINING,			/* the copy is not complete: no gossip, no apply */
	RP_NODE_CATCHUP,			/* copied; pulls and applies what came since */
	RP_NODE_ACTIVE,
	RP_NODE_LEAVING,			/* leave_group has committed; peers fetch the rest */
	RP_NODE_GONE,				/* catalog rows are deleted; the launcher sweeps */
	RP_NODE_EVICTED				/* and has heard of it: its changes stay here, nothing comes */
} RpNodeStatus;

#define RP_SNAPSHOT_NAME_SIZE 64

typedef enum RpMemberStatus
{
	RP_MEMBER_FREE = 0,			/* slot not in use */
	RP_MEMBER_ADMITTED,
	RP_MEMBER_LEFT,				/* its name and origin stay; it counts for nothing */
	RP_MEMBER_EVICTED			/* no member; holds what is stable until it is settled: evict.h */
} RpMemberStatus;

typedef enum RpWorkerKind
{
	RP_WORKER_CAPTURE = 0,
	RP_WORKER_GOSSIP,
	RP_WORKER_APPLY,
	RP_WORKER_JOIN,
	RP_WORKER_SWEEP,			/* removes what a node that is gone has left behind */
	RP_WORKER_KINDS
} RpWorkerKind;

/* Writer: the launcher (registration), the worker itself (the rest). Lock: RpNode.lock. */
typedef struct RpWorkerSlot
{
	pid_t		pid;			/* 0 = not running */
	Latch	   *latch;			/* of the running worker, else NULL */
	TimestampTz started_at;
	TimestampTz retry_at;		/* launcher: not before this */
	int64		restarts;
	bool		stop;			/* asked to leave and stay away */
	char		last_error[RP_ERROR_TEXT_SIZE];
	TimestampTz last_error_at;
} RpWorkerSlot;

/* What apply says of one origin. Writer: apply. Lock: vector_lock. */
typedef enum RpApplyState
{
	RP_APPLY_IDLE = 0,			/* nothing left to apply */
	RP_APPLY_APPLYING,
	RP_APPLY_WAITING,			/* for what its next transaction depends on */
	RP_APPLY_HELD,				/* its stamps are too far ahead of group time */
	RP_APPLY_PAUSED,
	RP_APPLY_ERROR				/* last_error says why; retried at retry_at */
} RpApplyState;

typedef struct RpMember
{
	/* Lock: RpNode.lock. Writer: rp_members_load (members.h). */
	RpMemberStatus status;
	P2pOrigin	origin;
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	uint8		public_key[P2P_PUBLIC_KEY_SIZE];
	RepOriginId roident;		/* of self: for versions of ours that are restated (displaced.h) */
	uint64		left_seq;		/* its last seq that counts, if it left, or is evicted and cuts_known */
	bool		paused;
	P2pStamp	accepted_stamp; /* stamps up to this are not held */

	/* Lock: vector_lock. */
	/*
	 * What the log here has: for good, be it durable or sure to be made again the same (self:
	 * capture_batch.c); in its file, and verified, so that peers may have it and apply may begin with
	 * it; on the disk. Writer: capture (self), gossip.
	 */
	uint64		stored_seq;
	uint64		written_seq;
	uint64		durable_seq;
	uint32		written_parts;	/* and so many parts of the transaction behind it; writer: gossip */
	uint64		noted_seq;		/* apply may commit up to this with a note in the WAL alone: batchnote.h */
	uint64		opened;			/* how often the log was opened for writing; what was read before may be gone from it */
	uint64		oldest_seq;		/* first seq still in the log; 0 = log empty; writer: as above, gossip on trim */
	uint64		captured_seq;	/* as capture read it from the WAL; self: its own seq; writer: capture */
	uint64		applied_seq;	/* visible here; self: = captured_seq; writer: apply, capture for self */
	uint64		stable_seq;		/* writer: gossip */
	uint64		rechecked_seq;	/* displaced rows, and keys touched, were judged after this was applied; writer: apply */
	uint64		required_seq;	/* a joiner must store up to this before it applies; writer: rp_members_load */
	P2pStamp	written_stamp;	/* stamp of written_seq; writer: as written_seq */
	P2pStamp	applied_stamp;	/* stamp of applied_seq; writer: as applied_seq */
	RpApplyState apply_state;
	char		apply_error[RP_ERROR_TEXT_SIZE];
	TimestampTz apply_error_at;
	int64		apply_errors;
	int64		transactions_applied;
	int64		commits_applied;	/* local ones that brought them */
	int64		changes_applied;
	int64		conflicts;

	/* Link from here to that member. Writer: gossip. Lock: vector_lock. */
	bool		connected;
	TimestampTz last_contact;	/* last reply from it */
	TimestampTz connect_failed_at;
	int64		rtt_us;			/* smoothed; -1 = never measured */
	int64		clock_offset_us;	/* its clock - ours */
	bool		clock_known;
	int64		bytes_received;
	int64		batches_received;
	int64		link_errors;
	char		link_error[RP_ERROR_TEXT_SIZE];
	uint64		heard_counter;	/* of the newest state heard, over whichever relay */
	TimestampTz heard_at;		/* when it was heard */
	P2pNodePhase heard_phase;
	int			pull_source;	/* slot that is asked for this origin's batches, -1 = nobody */

	/* Its newest signed state. Lock: RpNode.lock. Writer: gossip and serving backends. */
	uint32		state_length;	/* 0 = none heard */
	uint8		state_bytes[P2P_STATE_MAX_SIZE];
} RpMember;

/* Counters of one node; all atomics, any writer. */
typedef struct RpNodeStats
{
	pg_atomic_uint64 captured_transactions;
	pg_atomic_uint64 captured_changes;
	pg_atomic_uint64 captured_bytes;	/* of bodies before compression */
	pg_atomic_uint64 captured_batches;
	pg_atomic_uint64 skipped_changes;	/* updates and deletes without a usable replica identity */
	pg_atomic_uint64 log_syncs;
	pg_atomic_uint64 requests_served;
	pg_atomic_uint64 bytes_sent;
	pg_atomic_uint64 refused_strangers; /* sessions by keys that are not members */
	pg_atomic_uint64 refused_messages;	/* malformed, replayed, forged, oversized */
	pg_atomic_uint64 refused_batches;
} RpNodeStats;

/* Whose messages were refused, and when that was last logged: so that nobody fills the log. */
#define RP_REFUSAL_SLOTS 16

typedef struct RpRefusal
{
	uint64		who;			/* hash of a key or of an address; 0 = free */
	TimestampTz logged_at;
} RpRefusal;

/* Apply and joins need to know whether a local delete may still be undecoded. */
#define RP_DELETE_BUCKETS 256
#define RP_DELETE_EVERY RP_DELETE_BUCKETS	/* one bucket more: stands for every table */

/* A member that a join copies from besides its sponsor: what a copier needs to know. */
typedef struct RpJoinDonor
{
	P2pId		id;
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	char		snapshot[RP_SNAPSHOT_NAME_SIZE];
} RpJoinDonor;

/* What of a log can be read: rp_log_extent(). */
typedef struct RpLogExtent
{
	uint64		opened;			/* if it has grown, the log may have been cut: who stands in it looks for his place anew */
	uint64		readable_seq;	/* what is written included */
	uint64		durable_seq;	/* what is missing behind this is no damage */
} RpLogExtent;

typedef struct RpNode
{
	/* Lock: RpShared.lock for in_use and dboid. */
	bool		in_use;
	Oid			dboid;

	LWLock		lock;

	/* Lock: RpNode.lock. Writer: rp_members_load. */
	RpNodeStatus status;
	P2pId		group;
	char		group_name[NAMEDATALEN];
	int			nmembers;		/* slots in use, former members included */
	uint64		loaded_generation;
	bool		any_evicted;
	bool		cuts_known;		/* every member has frozen all who are gone */
	uint64		settled_generation; /* of members, in which all evicted ones are at their end; writer: apply */
	bool		swept;			/* GONE, and nothing is left of it; writer: the sweep worker */

	/* Bumped at the commit of whatever changes our catalog: gossip reloads. */
	pg_atomic_uint64 wanted_generation;

	RpWorkerSlot workers[RP_WORKER_KINDS];

	/* Apply notes a batch under it, gossip opens a log: batchnote.h. */
	LWLock		notes_lock;

	slock_t		vector_lock;
	/* Lock: vector_lock. Writer: gossip. */
	bool		notes_known;	/* what the WAL had noted when the server started is back in the logs */
	/* Lock: vector_lock. Writer: capture. */
	XLogRecPtr	captured_lsn;	/* every commit that ends at or before it is accounted for: log, versions, vectors */
	XLogRecPtr	confirmed_lsn;	/* slot's */
	TransactionId captured_below;	/* every committed xid before it is captured; Invalid = unknown */
	P2pStamp	last_stamp;		/* origin's previous stamp */
	P2pStamp	own_time;		/* greatest stamp that came from this node's own clock */
	bool		capture_ready;	/* the slot stands */
	TimestampTz last_commit_time;	/* of the last captured local transaction */
	/* Lock: vector_lock. Writers: apply, join (rp_floor_raise), capture. The WAL says so, too. */
	P2pStamp	floor;
	/* Lock: vector_lock. Writer: apply. */
	RpDisplaced displaced;
	/* Lock: vector_lock. Writer: gossip. */
	int64		group_offset_us;	/* group time - own clock */
	bool		clock_is_outlier;

	/* Highest commit end of a local transaction; written in commit callbacks: rp_commit_publish. */
	pg_atomic_uint64 commit_lsn;
	/* 1 = capture sleeps until a commit wakes it, 0 = it looks by itself soon. Writer: capture. */
	pg_atomic_uint32 capture_listens;
	/* 1 = apply has something to do after local transactions, too. Writer: apply. */
	pg_atomic_uint32 apply_listens;

	/*
	 * Local deletes (and truncates, key updates) per bucket of table oid:
	 * deleting = transactions between their announcement and their end;
	 * deleted_lsn = greatest commit end of one. See deletes.h.
	 */
	pg_atomic_uint32 deleting[RP_DELETE_BUCKETS + 1];
	pg_atomic_uint64 deleted_lsn[RP_DELETE_BUCKETS + 1];

	/*
	 * Changes of conflict handlers: counted before their commit by whoever makes
	 * or applies them; 1 + that count when apply found all of them settled, 0 =
	 * it has not looked yet. See handlers_catalog.c.
	 */
	pg_atomic_uint64 handler_changes;
	pg_atomic_uint64 handlers_settled;

	/* Broadcast after: captured_lsn moved | some applied_seq moved | status or members changed. */
	ConditionVariable captured_cv;
	ConditionVariable applied_cv;
	ConditionVariable status_cv;

	RpPollers	pollers;		/* who waits for more of some log; see there */

	/* stat_join, and what copiers need. Writers: join worker, copiers. Lock: RpNode.lock. */
	struct
	{
		char		phase[32];
		int64		tables_total;
		int64		tables_processed;
		int64		indexes_total;
		int64		indexes_processed;
		int64		bytes_total;	/* of tables at the sponsor */
		int64		bytes_processed;
		int64		rows_processed;
		char		snapshot[RP_SNAPSHOT_NAME_SIZE];	/* of the sponsor, exported */
		P2pStamp	stamp;		/* no row in it has a greater one */
		RpJoinDonor others[RP_JOIN_DONORS_LIMIT - 1];	/* that tables are copied from besides */
		int			nothers;
		uint32		ncopiers;	/* started so far */
		char		donors[RP_ERROR_TEXT_SIZE]; /* names, the sponsor's first */
		TimestampTz started_at;
		char		waits_for[128];
		char		last_error[RP_ERROR_TEXT_SIZE];
	}			join;

	/* Lock: vector_lock. Writer: serving backends. */
	RpRefusal	refusals[RP_REFUSAL_SLOTS];

	RpConflictCounts conflict_counts;	/* see there */

	TimestampTz stats_reset;
	RpNodeStats stats;
	RpMember	members[RP_MAX_MEMBERS];
} RpNode;

typedef struct RpShared
{
	LWLock		lock;
	Latch	   *launcher_latch; /* NULL = not running. Lock: lock. */
	pid_t		launcher_pid;
	bool		nodes_known;	/* the launcher has looked through the data directory. Writer: launcher */
	int			max_nodes;
	RpNode		nodes[FLEXIBLE_ARRAY_MEMBER];
} RpShared;

extern RpShared *rp_shared;		/* NULL if not preloaded */

/* Hooks shmem_request and shmem_startup; called by _PG_init under shared_preload_libraries. */
void		rp_shmem_install(void);

/* The node of a database, or NULL. The entry stays at its address for the life of the postmaster. */
RpNode	   *rp_node_find(Oid dboid);
/* The node of this process's database, or NULL; takes no lock, for commit paths. */
RpNode	   *rp_node_current(void);
/* Find it, or take a free entry; NULL if all replp2p.max_databases are in use. Raises no error. */
RpNode	   *rp_node_claim(Oid dboid);
/* Give the entry back; the launcher only, all its workers gone. */
void		rp_node_release(RpNode *node);
/* The node of this process's database; ERROR with a hint if there is none. */
RpNode	   *rp_node_required(void);

RpNodeStatus rp_node_status(RpNode *node);

/*
 * Up to where of a slot what is stable may be forgotten: not before displaced rows were compared
 * with it, while there are any, nor while a key that was touched by it cannot be judged (tracked_follow.c).
 * vector_lock is held.
 */
static inline uint64
rp_droppable_seq(const RpNode *node, int slot)
{
	const RpMember *member = &node->members[slot];

	switch (node->displaced)
	{
		case RP_DISPLACED_UNKNOWN:
			return 0;
		case RP_DISPLACED_NONE:
			return member->stable_seq;
		case RP_DISPLACED_SOME:
			break;
	}
	return Min(member->stable_seq, member->rechecked_seq);
}

/* Copies of vectors, at one place. Left members are included. */
void		rp_vector_stored(RpNode *node, P2pVector *v);
void		rp_vector_captured(RpNode *node, P2pVector *v);
void		rp_vector_applied(RpNode *node, P2pVector *v);
void		rp_vector_stable(RpNode *node, P2pVector *v);
void		rp_vector_oldest(RpNode *node, P2pVector *v);

/* Slot of an origin, of a replication origin id, of a name; -1 if none. Shared lock taken inside. */
int			rp_member_by_origin(RpNode *node, const P2pOrigin *origin);
int			rp_member_by_roident(RpNode *node, RepOriginId roident);
int			rp_member_by_name(RpNode *node, const char *name);

/*
 * Tell capture that a transaction has committed whose record ends here, and wake it if it would not
 * look otherwise. For commit paths: no lock, no scan, mostly no system call.
 */
void		rp_commit_publish(RpNode *node, XLogRecPtr end);

/*
 * Return what of the log of a member can be read now: also what is not durable yet, since apply
 * commits from that (batchnote.h).
 */
RpLogExtent rp_log_extent(RpNode *node, int slot);
/* Wake one worker of the node, the launcher; harmless if it does not run. */
void		rp_worker_wake(RpNode *node, RpWorkerKind kind);
void		rp_launcher_wake(void);
/* Remember a worker's or a link's last error for the views. */
void		rp_worker_error(RpNode *node, RpWorkerKind kind, const char *text);

#endif							/* RP_SHMEM_H */
