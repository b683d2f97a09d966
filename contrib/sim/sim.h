/*
 * sim.h
 *	  The simulated group: what its files hand to one another.
 *
 * Everything of one run stands in `world`, a static structure without pointers
 * to anything but itself and the arena, so that a run begins by forgetting the
 * last one and never calls malloc. Nodes are known by their index, which is the
 * first byte of their id; where the server has a local slot number the model
 * has that index.
 */
#ifndef SIM_H
#define SIM_H

#include <setjmp.h>

#include "p2p_cursor.h"
#include "p2p_evict.h"
#include "p2p_member.h"
#include "p2p_relay.h"
#include "p2p_resolve.h"
#include "p2p_stability.h"

#define MAX_NODES 10			/* 7, and those that join */
#define NTABLES 2
#define MAX_KEYS 4
#define MAX_OPS 4				/* of one transaction of a client */
#define MAX_CHANGES 10			/* of any transaction: a freeze may be of all other nodes */
#define MAX_SUBOPS (2 * MAX_CHANGES)
#define MAX_EFFECTS (MAX_OPS * MAX_KEYS + MAX_CHANGES)
#define MAX_SESSIONS 5			/* clients of one node at once */
#define MAX_QUEUE 64			/* transactions that wait for a session of their node */
#define MAX_EVENTS 200
#define MAX_WAL 4096			/* records of one node */
#define MAX_SEQ 512				/* transactions of one origin */
#define MAX_XIDS 4096
#define MAX_MESSAGES 256
#define MAX_REPLY 8				/* batches in one */
#define NONE 0xFF
#define COPIED 0xFE				/* version index: a row that a join copied */

/* --- randomness: one stream for each who draws, so that taking an event away changes little else --- */

typedef struct Random
{
	uint64_t	state;
} Random;

uint64_t	random_next(Random *r);
uint32_t	random_below(Random *r, uint32_t n);
bool		random_chance(Random *r, uint32_t percent);

/* --- what can be planted --- */

#define PLANT_LIST(X) \
	X(raw_stamps, "stamps are the commit times as they come") \
	X(no_floor, "apply notes no stamp before it looks, and its commits tell none") \
	X(late_floor, "apply notes a stamp when it commits, not before it looks") \
	X(floor_as_read, "the floor is what apply has begun with when capture reads, not what the WAL says") \
	X(assumed_floor, "after a start apply takes the stamps in the logs for noted") \
	X(kept_stamp, "a stamp that capture gave before it ended, and forgot, raises the next") \
	X(arrival_wins, "whoever comes last stands, whatever its version") \
	X(skip_missing, "an update that finds no row is skipped") \
	X(no_deps, "apply does not wait for what a transaction depends on") \
	X(shared_deps, "deps are what apply has done by now, not what the WAL says") \
	X(immature_acks, "stable is what all have acked, ripe or not") \
	X(gossip_admission, "a new member counts once it is heard of, not once its admission is applied") \
	X(early_ack, "an ack is told before it is durable") \
	X(forgotten_tombstones, "tombstones are not read again at a restart") \
	X(short_tombstones, "tombstones go when the own node has no more use for them") \
	X(early_tombstones, "tombstones of a transaction stay when it is given up") \
	X(forgotten_truncates, "a TRUNCATE is not remembered") \
	X(unchecked_inserts, "an insert does not ask for undecoded deletes") \
	X(no_wait_for_version, "a row that capture has not read counts as ancient") \
	X(kept_versions, "version entries of lost xids survive a crash") \
	X(no_refill, "version entries that a crash lost are not put again") \
	X(again_from_slot, "capture begins at the slot's position with the log's seqs") \
	X(served_unsynced, "all batches are served before they are synced") \
	X(unmade_own, "apply does not wait for what capture makes again of the own log") \
	X(sealed_with_more, "what others may have is sealed anew with what came after it") \
	X(unnoted, "what its log may yet lose is applied without a note of its batch") \
	X(late_batch_note, "the note of a batch stands behind the commit") \
	X(confirmed_notes, "the slot is confirmed past notes of what logs may yet lose") \
	X(closed_log_notes, "apply notes what it has read of a log before that was opened anew") \
	X(early_confirm, "the slot is confirmed before the log is durable") \
	X(lost_progress, "apply's progress is not in its transaction") \
	X(copied_now, "a joiner's copied rows are as new as the copy") \
	X(copied_ancient, "a joiner's copied rows are all ancient") \
	X(snapshot_vector, "a snapshot's vector is what is captured, whatever the snapshot sees") \
	X(late_admission, "the copy is taken before the admission") \
	X(early_join_ack, "a joiner acks before its logs hold what its copy covers") \
	X(any_donor, "a joiner takes the versions of its copy from anybody") \
	X(no_copy_floor, "a joiner's floor is not raised to the copy's") \
	X(late_trim, "what was stable before a join is trimmed while the joiner pulls it") \
	X(late_writes, "what a member commits after it left is applied where it is stored") \
	X(early_farewell, "a leaving node waits neither for who has copied from it, nor until all have what it had") \
	X(early_leave, "a leaving node goes at once") \
	X(hasty_leave, "a leave is written at once, before all have applied what the leaving node had") \
	X(early_drop, "an evicted node stops to count for stability at once") \
	X(own_cut, "an evicted node's cut is what is stored here") \
	X(some_freezes, "the freeze of one member tells the cut") \
	X(open_evicted, "an evicted node is still asked for its batches") \
	X(open_replies, "what an evicted node was asked for before is still taken") \
	X(hasty_freeze, "a freeze tells what is published, not what is under way") \
	X(single_freeze, "a freeze is not told again when another node is gone") \
	X(open_leavers, "nodes that have left are not frozen") \
	X(cut_unapplied, "an evicted node stops to count when its cut is known, applied or not") \
	X(endless, "what depends on what nobody has is waited for") \
	X(any_conflict, "a different origin is a conflict") \
	X(held_skipped, "a transaction held for its stamp is left out")

typedef enum Plant
{
	PLANT_none = 0,
#define PLANT_ENUM(name, text) PLANT_##name,
	PLANT_LIST(PLANT_ENUM)
	PLANTS
} Plant;

#define PLANTED(name) (world.plant == PLANT_##name)

/* --- transactions and logs --- */

typedef enum OpKind
{
	OP_INSERT, OP_UPDATE, OP_DELETE, OP_MOVE, OP_TRUNCATE, OP_ADMIT, OP_LEAVE, OP_EVICT, OP_FREEZE
} OpKind;

/*
 * One operation, as it was carried out. MOVE: from key to key2. ADMIT, EVICT: node `key`.
 * FREEZE: node `key`, of which seqs up to `value` are stored.
 */
typedef struct Op
{
	uint8_t		kind;
	uint8_t		table;
	uint8_t		key;
	uint8_t		key2;
	uint32_t	value;
} Op;

/* What becomes of one key (or member), as a WAL record says it. */
typedef struct Effect
{
	uint8_t		what;			/* EFFECT_... */
	uint8_t		table;
	uint8_t		key;
	uint32_t	value;
	struct Local *truth;
} Effect;

/* ADMIT, LEAVE, EVICT: of member `key`. FREEZE: by member `table`. */
enum { EFFECT_ROW, EFFECT_GONE, EFFECT_ADMIT, EFFECT_LEAVE, EFFECT_EVICT, EFFECT_FREEZE };

/*
 * A transaction of a client, as it truly was: the model's own knowledge, which
 * the system under test must not use. Also stands for "who wrote this row".
 */
typedef struct Local
{
	uint8_t		origin;
	uint8_t		nops;
	bool		flushed;		/* the client may have been told */
	bool		lost;			/* with a crash, before the flush */
	uint32_t	number;
	Op			ops[MAX_CHANGES];
	uint32_t	past[MAX_NODES];	/* seqs that its node had applied, in the order of its WAL */
	uint32_t	ordinal;		/* which local transaction of that WAL it is: the seq that it must get */
	P2pStamp	above_applied;	/* its stamp must exceed that of all it came after */
	P2pStamp	above_begun;	/* and of all that apply had looked up before, */
	bool		is_out;			/* others have stored it */
	bool		registered;		/* durable in a log: nothing of it can change any more */
	P2pVersion	version;		/* stamp 0: capture has not come to it */
} Local;

/* A captured transaction. */
typedef struct Captured
{
	Local	   *local;
	uint32_t	seq;
	uint32_t	xid;
	P2pStamp	stamp;
	const P2pVector *deps;		/* only as long as its count says */
} Captured;

typedef struct Batch
{
	uint8_t		origin;
	uint32_t	count;
	P2pSpan		span;
	P2pStamp	last_stamp;
	uint8_t		previous[P2P_HASH_SIZE];
	uint8_t		hash[P2P_HASH_SIZE];
	Captured   *transactions[];
} Batch;

/* A position record of the own log. */
typedef struct Position
{
	bool		there;
	uint32_t	lsn;
	uint32_t	seq;
	uint32_t	batches;		/* in front of it */
	P2pStamp	stamp;
	P2pStamp	floor;
	uint32_t	vector[MAX_NODES];
} Position;

/* The change log of one origin on one node. Batches [first, synced) are durable. */
typedef struct Log
{
	bool		open;
	uint32_t	first;
	uint32_t	count;
	uint32_t	synced;
	P2pCursor	cursor;			/* behind the last one appended */
	Batch	   *batches[MAX_SEQ];
} Log;

/* --- one node --- */

typedef struct Row
{
	bool		exists;
	uint32_t	xid;
	uint32_t	value;
	Local	   *truth;
} Row;

/* Who holds a lock: 0 nobody, 1 + session, or apply. */
#define BY_APPLY 100

typedef struct Cell
{
	Row			row;			/* committed and visible */
	Row			pending;		/* what the holder of the lock makes of it */
	uint8_t		locked_by;
} Cell;

/* FLOOR, BATCH: notes of apply, before it looks and before it commits. */
typedef enum WalKind { WAL_LOCAL, WAL_REMOTE, WAL_COPY, WAL_MARK, WAL_FLOOR, WAL_BATCH } WalKind;

typedef struct Wal
{
	uint8_t		kind;
	uint8_t		origin;
	uint8_t		neffects;
	uint32_t	xid;
	uint32_t	seq;			/* remote: origin_lsn */
	P2pStamp	stamp;			/* remote: origin_timestamp; copy, note: floor */
	P2pStamp	time;			/* of the commit record */
	Local	   *local;			/* local, remote: whose */
	Batch	   *batch;			/* of a note */
	Effect	   *effects;
	uint32_t	vector[MAX_NODES];	/* applied, this record included: the truth */
	P2pStamp	greatest;		/* stamp applied up to here: the truth */
} Wal;

typedef enum SessionPhase { SESSION_FREE, SESSION_RUNS, SESSION_COMMITS, SESSION_WRITTEN } SessionPhase;

/* A client's transaction. */
typedef struct Session
{
	uint8_t		phase;
	uint8_t		nwanted;
	uint8_t		next;
	bool		async;
	uint32_t	xid;
	uint32_t	lsn;
	uint32_t	blocked;		/* tries in a row */
	P2pStamp	time;
	const Op   *wanted;
	Local	   *local;
} Session;

typedef struct VersionEntry
{
	uint8_t		origin;			/* NONE = no entry */
	bool		synced;
	uint32_t	seq;
	P2pStamp	stamp;
} VersionEntry;

typedef struct PendingVersion
{
	uint32_t	xid;
	uint32_t	seq;
	P2pStamp	stamp;
} PendingVersion;

typedef enum CaptureStage
{
	CAPTURE_DOWN, CAPTURE_READS, CAPTURE_APPENDED, CAPTURE_SYNCED, CAPTURE_ENTERED
} CaptureStage;

/* Capture's own memory. */
typedef struct Capture
{
	uint8_t		stage;
	uint32_t	read_lsn;		/* done_lsn */
	uint32_t	captured[MAX_NODES];
	uint32_t	seq;
	P2pStamp	stamp;
	P2pStamp	floor;			/* as the WAL says, up to read_lsn */
	uint32_t	nbody;
	Captured   *body[MAX_SEQ];
	uint32_t	npending;
	PendingVersion pending[MAX_SEQ];
	Position	position;		/* appended, not synced yet */
	uint32_t	below_xid;		/* 0 = none */
	uint32_t	below_lsn;
	uint32_t	synced_lsn;
	bool		appended;
	uint32_t	alone;			/* so many transactions may be out since before a crash, each by itself */
	bool		out;			/* what was appended may be served before it is synced */
	uint32_t	unsynced;		/* batches that are published, and not synced */
	uint32_t	appended_tick;
	uint32_t	confirm_lsn;	/* where the slot is to go once that may be; 0 = nothing is due */
	uint32_t	confirm_mark[MAX_NODES];	/* what was noted in front of that */
} Capture;

typedef struct KeyEntry
{
	bool		there;
	bool		is_row;
	P2pVersion	version;
} KeyEntry;

typedef enum ApplyStage
{
	APPLY_DOWN, APPLY_LOADS, APPLY_IDLE, APPLY_WORKS
} ApplyStage;

typedef enum SubStep { SUB_LOOK, SUB_INSERT, SUB_OVERRULE, SUB_TRUNCATE } SubStep;

/* One row operation of a transaction at hand. */
typedef struct SubOp
{
	uint8_t		kind;			/* OP_INSERT, OP_UPDATE, OP_DELETE, OP_TRUNCATE, OP_ADMIT, OP_LEAVE */
	uint8_t		table;
	uint8_t		key;
	uint32_t	value;
} SubOp;

/* Apply's own memory. */
typedef struct Apply
{
	uint8_t		stage;
	uint32_t	applied[MAX_NODES];
	KeyEntry	keys[NTABLES][MAX_KEYS];
	KeyEntry	truncates[NTABLES];
	uint32_t	own_seq;
	uint32_t	deletes_known_to;
	uint32_t	barrier;		/* 0 = does not wait */
	/* the transaction at hand */
	uint8_t		origin;
	uint8_t		nsubops;
	uint8_t		subop;
	uint8_t		substep;
	bool		waited;			/* for the version of the row at hand */
	bool		secured;		/* its batch will be durable if the commit is */
	uint32_t	opened;			/* how often its log had been when it was read */
	uint32_t	blocked;
	uint32_t	xid;
	Captured   *transaction;
	Batch	   *batch;
	P2pVersion	version;
	bool		deleted[NTABLES][MAX_KEYS]; /* tombstones to be, once it has committed */
	bool		truncated[NTABLES];
	SubOp		subops[MAX_SUBOPS];
} Apply;

typedef enum Status
{
	STATUS_UNBORN, STATUS_JOINING, STATUS_CATCHUP, STATUS_ACTIVE, STATUS_LEAVING, STATUS_GONE,
	STATUS_EVICTED				/* and has heard of it, or was wiped */
} Status;

typedef enum MemberStatus { MEMBER_FREE, MEMBER_ADMITTED, MEMBER_LEFT, MEMBER_EVICTED } MemberStatus;

/* What a node's tables say of the members. */
typedef struct Catalog
{
	uint8_t		members[MAX_NODES];	/* MemberStatus */
	uint32_t	left_seq[MAX_NODES];
	uint32_t	frozen[MAX_NODES][MAX_NODES];	/* [by][gone]: 1 + seq; 0 = no word of it */
} Catalog;

/* A member's signed state: does not change once it is made. */
typedef struct State
{
	uint8_t		node;
	uint8_t		phase;
	uint64_t	counter;
	const P2pVector *ack;
	const P2pVector *stored;
} State;

/* Shared memory: gone with a crash. */
typedef struct Shared
{
	uint32_t	captured_lsn;
	uint32_t	captured_below;
	P2pStamp	last_stamp;
	P2pStamp	own_time;
	P2pStamp	floor;			/* as captured */
	P2pStamp	noted;			/* apply's: the WAL has it as a floor */
	uint32_t	noted_seq[MAX_NODES];	/* batches that the WAL has notes of end with this */
	uint32_t	opened[MAX_NODES];	/* how often a log was */
	bool		notes_known;	/* what was noted before the start is in the logs */
	bool		capture_ready;
	int64_t		group_offset;
	uint32_t	stored[MAX_NODES];
	uint32_t	captured[MAX_NODES];
	uint32_t	applied[MAX_NODES];
	uint32_t	stable[MAX_NODES];
	uint32_t	required[MAX_NODES];
	Catalog		catalog;		/* as loaded */
	uint32_t	wanted_generation;
	uint32_t	loaded_generation;
	const State *states[MAX_NODES];
	int64_t		offsets[MAX_NODES];
	bool		offset_known[MAX_NODES];
	uint32_t	deleting[NTABLES];
	uint32_t	deleted_lsn[NTABLES];
	uint64_t	heard_self;		/* counter of our own newest state, as others know it */
	P2pStamp	begun[NTABLES][MAX_KEYS];	/* model: greatest stamp that apply has looked there with */
} Shared;

/* Gossip's own memory, lost with it. */
typedef struct Gossip
{
	uint8_t		source[MAX_NODES];
	bool		over_relay[MAX_NODES];	/* the source is the tree's relay of this origin */
	P2pRelayTrust trust[MAX_NODES];
	uint32_t	penalty[MAX_NODES][MAX_NODES];	/* [origin][peer]: not before this tick */
	uint32_t	asked[MAX_NODES];	/* 0, or the tick of the PULL that waits */
	uint32_t	silent[MAX_NODES];	/* taken for unreachable until then */
	bool		dirty;
	uint32_t	dirty_since;
	const State *seen[MAX_NODES];	/* whose ack was heard last */
	uint32_t	ripe_at[MAX_NODES];	/* what was applied when stability was last looked at */
} Gossip;

typedef enum JoinStage
{
	JOIN_NONE, JOIN_CONNECTS, JOIN_ADMITTED, JOIN_SNAPSHOT, JOIN_COPIES, JOIN_READ, JOIN_DONE
} JoinStage;

/* A snapshot of the sponsor, and what is copied of it. */
typedef struct Join
{
	uint8_t		stage;
	uint8_t		sponsor;
	uint32_t	sponsor_life;
	uint32_t	barrier;
	uint32_t	wait;
	uint32_t	xmin;
	uint32_t	xmax;
	uint32_t	nrunning;
	uint32_t	running[MAX_SESSIONS + 1];
	Row			rows[NTABLES][MAX_KEYS];
	Catalog		catalog;
	uint32_t	vector[MAX_NODES];
	P2pStamp	stamp;
	uint32_t	xid;
} Join;

/* What is on the disk besides logs and WAL: the state that the flushed WAL leads to. */
typedef struct Disk
{
	Row			rows[NTABLES][MAX_KEYS];
	Catalog		catalog;
	uint32_t	required[MAX_NODES];
	uint32_t	next_xid;
	uint8_t		status;
	uint8_t		donor;
	bool		slot;			/* capture's slot was made */
	uint32_t	confirmed;
	Position	position;
} Disk;

typedef struct Node
{
	uint8_t		index;
	bool		up;
	uint8_t		status;
	uint32_t	life;			/* counts crashes */
	Random		random;
	int64_t		clock_offset;
	int64_t		clock_drift;	/* per million */
	/* speed of each worker: weights of the scheduler */
	uint32_t	weights[5];
	uint32_t	run_on;			/* percent: does a worker go on to its next step at once? */
	uint32_t	batch_size;

	Cell		cells[NTABLES][MAX_KEYS];
	uint8_t		table_lock[NTABLES];	/* exclusive: who */
	Catalog		catalog;		/* as committed */
	uint32_t	next_xid;
	uint32_t	nwal;
	uint32_t	flushed;
	Wal			wal[MAX_WAL];
	uint32_t	trimmed_xid;
	uint32_t	nversions;		/* greatest xid with an entry, + 1 */
	VersionEntry versions[MAX_XIDS];

	Log			logs[MAX_NODES];
	Disk		disk;
	Shared		shared;
	Capture		capture;
	Apply		apply;
	Gossip		gossip;
	Join		join;
	Session		sessions[MAX_SESSIONS];
	uint32_t	nqueued;
	const struct Event *queue[MAX_QUEUE];
	uint32_t	restart_tick;	/* while down */
	uint8_t		armed;			/* crash when this comes to be: ARM_... */
	bool		armed_power;
	uint32_t	armed_ticks;
	uint32_t	paused[MAX_NODES];	/* apply leaves an origin alone until this tick */
	uint32_t	trim_chance;	/* percent */
	uint32_t	talk_chance;
	uint32_t	error_chance;	/* per ten thousand steps of apply */
	uint32_t	leave_barrier;
	bool		leave_looked;	/* leave_deps are known */
	uint32_t	leave_generation;	/* of membership, at the barrier of a wish to leave */
	uint32_t	leave_deps[MAX_NODES];	/* what it had at the barrier */

	/* the truth: the greatest version of all applied, in the order of the WAL; and what a copy began with */
	Local	   *top[NTABLES][MAX_KEYS];
	Local	   *base_top[NTABLES][MAX_KEYS];
	uint32_t	base_vector[MAX_NODES];
	P2pStamp	base_greatest;
	uint32_t	wal_vector[MAX_NODES];
	P2pStamp	wal_greatest;
	P2pAck		acks[MAX_NODES];
} Node;

/* --- network, schedule, world --- */

typedef enum MessageKind { MESSAGE_GOSSIP, MESSAGE_GOSSIP_REPLY, MESSAGE_PULL, MESSAGE_BATCHES,
	MESSAGE_EVICTED } MessageKind;

typedef struct Message
{
	uint8_t		kind;
	uint8_t		from;
	uint8_t		to;
	uint8_t		nbatches;
	uint32_t	sent;
	P2pStamp	asked_at;		/* of the one who asked, by its clock */
	P2pStamp	time;			/* of the one who answers */
	bool		gone[MAX_NODES];	/* not had any more */
	bool		wanted[MAX_NODES];
	bool		from_start[MAX_NODES];
	uint32_t	after[MAX_NODES];
	const State *states[MAX_NODES];
	Batch	   *batches[MAX_REPLY];
} Message;

typedef enum EventKind
{
	EVENT_CLIENT, EVENT_CRASH, EVENT_CUT, EVENT_HEAL, EVENT_CLOCK, EVENT_JOIN, EVENT_LEAVE,
	EVENT_WORKER, EVENT_SPEED, EVENT_PAUSE, EVENT_EVICT
} EventKind;

/* Moments at which a crash is worth more than at others. */
enum
{
	ARM_NONE, ARM_CAPTURED, ARM_APPENDED, ARM_SYNCED, ARM_APPLIED, ARM_STORED, ARM_APPLYING,
	ARM_COPYING, ARM_OVERTAKEN, ARM_OUT, ARM_NOTED, ARMS
};

/* Something that happens to the group from outside. */
typedef struct Event
{
	uint8_t		kind;
	uint8_t		node;
	uint8_t		peer;
	uint8_t		nops;
	bool		async;
	bool		power;			/* crash: of the machine, else of the server; worker: a sync failed */
	bool		deleted;		/* by the shrinker */
	uint32_t	order;			/* among those of one tick */
	uint32_t	tick;
	int64_t		amount;
	Op			ops[MAX_OPS];
} Event;

/* How this seed plays. */
typedef struct Profile
{
	uint32_t	nnodes;
	uint32_t	nkeys;
	bool		balanced;		/* no worker is much slower than another */
	uint32_t	bursts;			/* of clients' transactions */
	uint32_t	joins;			/* weight of joins among the faults */
	uint32_t	evictions;
	uint32_t	ntables;
	uint32_t	horizon;
	uint32_t	loss;			/* percent */
	uint32_t	duplicates;
	uint32_t	net_weight;
	int64_t		tick_us;
	int64_t		skew_us;
	int64_t		max_skew_us;
} Profile;

typedef struct World
{
	uint64_t	seed;
	Plant		plant;
	bool		verbose;
	uint32_t	tick;
	int64_t		jumped_us;		/* the end of a run lets time pass */
	bool		ending;
	bool		fresh;			/* the schedule was just drawn */
	Profile		profile;
	uint32_t	nevents;
	Event		events[MAX_EVENTS];
	uint32_t	nnodes;			/* that ever were */
	uint32_t	nlocals;
	uint32_t	nvalues;
	Random		network;
	bool		cut[MAX_NODES][MAX_NODES];	/* from, to */
	bool		evicts[MAX_NODES][MAX_NODES];	/* the truth: who has evicted whom */
	uint32_t	rtt[MAX_NODES][MAX_NODES];
	uint32_t	nmessages;
	Message		messages[MAX_MESSAGES];
	P2pOrigin	origins[MAX_NODES];
	/* The truth: what has become durable of each origin, and can never change. */
	uint32_t	nregistered[MAX_NODES];
	Captured   *registered[MAX_NODES][MAX_SEQ];
	/* what anybody has stored, before it was durable or after */
	uint32_t	nknown[MAX_NODES];
	Captured   *known[MAX_NODES][MAX_SEQ];
	const Batch *batches[MAX_NODES][MAX_SEQ];
	Local	   *flushed[MAX_NODES][MAX_SEQ];	/* in WAL order */
	uint32_t	nflushed[MAX_NODES];
	jmp_buf		stop;
	char		violation[512];
	uint64_t	steps;
	uint64_t	conflicts;
	uint64_t	applied;
	Node		nodes[MAX_NODES];
} World;

extern World world;

/* arena.c: memory of one run */
void	   *arena_take(size_t size);
void		arena_reset(void);
const P2pVector *vector_keep(const uint32_t *seqs);
void		vector_build(P2pVector *v, const uint32_t *seqs);
uint32_t	vector_seq(const P2pVector *v, uint32_t node);

/* world.c */
void		world_run(void);	/* one run; jumps to world.stop on a violation */
P2pStamp	node_clock(const Node *node);
void		message_send(Message *m);
void		trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define TRACE(...) do { if (world.verbose) trace(__VA_ARGS__); } while (0)

/* schedule.c */
void		schedule_make(uint64_t seed);
void		schedule_print(void);
uint32_t	schedule_shrink(uint32_t max_runs);
bool		run_once(void);		/* main.c: true if clean */

/* wal.c: WAL, tables, crashes */
void		node_init(Node *node, uint32_t index, uint8_t status);
uint32_t	wal_insert(Node *node, const Wal *record);
void		wal_flush(Node *node, uint32_t lsn);
void		tops_rebuild(Node *node);
void		effects_show(Node *node, const Effect *effects, uint32_t n, uint32_t xid);
void		node_crash(Node *node, bool power);
void		node_start(Node *node);
void		versions_put(Node *node, uint32_t xid, uint32_t origin, uint32_t seq, P2pStamp stamp);
void		members_load(Node *node);
uint32_t	oldest_running(const Node *node);

/* client.c */
void		client_begin(Node *node, const Event *event);
bool		client_step(Node *node);
void		client_cancel(Node *node);
uint32_t	local_commit(Node *node, const Op *ops, uint32_t nops);

/* capture.c */
bool		capture_step(Node *node);
void		capture_stop(Node *node);

/* log.c: change logs and pulls */
void		log_append(Node *node, Log *log, Batch *batch);
void		log_recover(Node *node, bool power);
void		log_recover_own(Node *node, bool survives);
void		log_reopen(Node *node, bool failed);
uint32_t	log_synced_seq(const Log *log);
Batch	   *log_batch(const Log *log, uint32_t seq);
bool		batch_is_out(const Batch *batch);
void		log_open_all(Node *node);
void		log_trim(Node *node, const P2pVector *held);
P2pMemberLog member_log(const Node *node, uint32_t origin);
Captured   *log_find(const Log *log, uint32_t seq);
uint32_t	log_oldest(const Log *log);
void		pull_plan(Node *node);
void		pull_request(Node *node, uint32_t peer);
void		pull_serve(Node *node, const Message *request);
void		pull_receive(Node *node, const Message *reply);
bool		pull_commit(Node *node, bool slowly);

/* gossip.c */
bool		gossip_step(Node *node);
void		gossip_stop(Node *node);
void		gossip_receive(Node *node, const Message *m);
void		stability_step(Node *node);

/* apply.c, apply_change.c, keyindex.c */
bool		apply_step(Node *node);
void		apply_stop(Node *node);
void		apply_abort(Node *node);
bool		subop_step(Node *node);	/* false: it waits */
void		barrier_set(Node *node);
bool		barrier_passed(Node *node);
bool		keyindex_load(Node *node);
void		keyindex_put(KeyEntry *entry, const P2pVersion *version, bool is_row);
bool		keyindex_follow_own(Node *node, uint32_t limit);
void		keyindex_remember(Node *node);
bool		keyindex_tombstone(const Node *node, uint32_t table, uint32_t key, P2pVersion *version);
void		keyindex_sweep(Node *node);
uint32_t	subops_of(const Local *local, SubOp *subops);

/* evict.c */
void		evict_begin(Node *node, uint32_t victim);
void		evict_hear(Node *node, const char *how);
void		evict_freeze(Node *node);
void		evict_refuse(const Node *node, uint32_t to);
bool		evict_cuts(const Node *node, uint64_t *cuts);
bool		evict_is_settled(const Node *node);
void		evict_operate(bool patient);
bool		is_evicted(uint32_t node);
uint32_t	members_left(const Node *node);

/* join.c */
void		join_begin(uint32_t sponsor);
bool		join_step(Node *node);
void		leave_begin(Node *node);
bool		leave_step(Node *node);
bool		leave_is_written(const Node *node);


/* check.c: the invariants */
void		violation(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void		check_local_commit(Node *node, Local *local);
void		check_register(const Node *node, const Batch *batch);
void		check_batch_taken(const Node *node, const Batch *batch);
void		check_stored(const Node *node, uint32_t origin, uint32_t applied);
void		check_captured(Node *node, Local *local);
void		check_applied(Node *node, Captured *t);
void		check_conflict(const Node *node, const Captured *t, const P2pVersion *other);
void		check_stable(const Node *node, const P2pVector *stable);
void		check_copy(const Node *node);
void		check_dropped(const Node *node, const P2pVersion *version);
void		check_held(const Node *node, P2pStamp stamp);
uint32_t	left_at(uint32_t origin);
void		check_cut(const Node *node, const Batch *batch);
void		winner_find(uint32_t table, uint32_t key, const uint32_t *vector, Local **winner);
void		check_progress(const Node *node, uint32_t origin, uint32_t seq);
void		check_end(void);
bool		quiet(char *why, size_t size);
bool		locals_meet(const Local *a, const Local *b);
void		top_raise(Node *node, Local *local);
bool		local_result(const Local *local, uint32_t table, uint32_t key, bool *exists, uint32_t *value);

#endif							/* SIM_H */
