/*
 * capture.h
 *	  Capture's own memory: what its files (capture*.c, decode*.c) hand to one
 *	  another. Nothing in it is for other workers; they meet capture in shared
 *	  memory and in the change log.
 *
 * A transaction goes through it in this order:
 *
 *	  spool     large ones only: decoded changes are written to a file while it still runs
 *	  commit    its commit record has been read; nothing (else) of it is decoded yet
 *	  tx        decoded changes are being written into the body; it has seq and stamp
 *	  body      whole transactions, waiting to be sealed
 *	  (log)     appended batches, waiting for one position record and one fsync
 *	  pending   xids whose version entries may only be made after that fsync
 *	  published in shared memory: now others may see it
 */
#ifndef RP_CAPTURE_H
#define RP_CAPTURE_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "replication/logical.h"
#include "utils/hsearch.h"
#include "utils/resowner.h"

#include "batchnote.h"
#include "changelog.h"
#include "groupnote.h"
#include "members.h"
#include "p2p_body.h"
#include "p2p_pace.h"
#include "shmem.h"

#define RP_PLUGIN_NAME "replp2p"

/* A body ends when it describes this many tables, so that a TRUNCATE always has room. */
#define RP_BODY_RELATIONS_SOFT (P2P_MAX_BODY_RELATIONS - P2P_MAX_TRUNCATED)
/* A batch of one whole transaction of at most so many bytes is not compressed. */
#define RP_PLAIN_MAX_BODY 4096
/* A transaction is cut into parts of about so many batches' size. */
#define RP_PART_BATCHES 4

/* The commit record that is being decoded, in this database. */
typedef struct RpCommitRecord
{
	bool		known;			/* false: the current record is something else */
	TransactionId xid;
	uint64		full_xid;
	int			nsubxacts;
	const TransactionId *subxacts;	/* into the reader's record */
	TimestampTz commit_time;
	RepOriginId origin;
	XLogRecPtr	origin_lsn;		/* our origins: the seq */
	TimestampTz origin_timestamp;	/* our origins: the stamp */
	bool		changes_catalogs;
} RpCommitRecord;

/* Where something stands in the body. */
typedef struct RpBodyRange
{
	size_t		start;
	size_t		end;
} RpBodyRange;

/* The body of the batch in the making. */
typedef struct RpBody
{
	P2pWriter	writer;
	uint64		number;			/* grows with each body; says where a table is described */
	uint32		nrelations;
	RpBodyRange *relations;		/* P2P_MAX_BODY_RELATIONS: each description */
	uint64		first_seq;		/* of the whole transactions in it; 0 = none */
	uint64		last_seq;
	P2pStamp	last_stamp;
	int64		since_us;		/* monotonic: when its first transaction came in */
	P2pVector	deps;			/* of its first transaction */
	P2pVector	last_deps;		/* of its last */
} RpBody;

/* A transaction that is decoded before its end; see capture_spool.c. */
typedef struct RpSpool RpSpool;

/* The transaction whose changes are being written into the body. */
typedef struct RpOpenTransaction
{
	bool		open;
	bool		partial;		/* cut into parts; the body holds nothing else */
	uint32		part;
	P2pBegin	begin;
	P2pVector	deps;
	size_t		start;			/* in the body: of its BEGIN, and behind it */
	size_t		items;
	int64		changes;
} RpOpenTransaction;

/* A version entry that waits for its batch to be durable. */
typedef struct RpPendingVersion
{
	uint64		xid;
	uint64		seq;
	P2pStamp	stamp;
} RpPendingVersion;

typedef struct RpCapture
{
	RpNode	   *node;
	RpIdentity	identity;
	MemoryContext memory;		/* the worker's life */
	MemoryContext step_memory;	/* reset each round */
	MemoryContext change_memory;	/* reset after each change */
	ResourceOwner owner;
	LogicalDecodingContext *decoding;

	/* Members by slot, as of `generation`. */
	uint64		generation;
	int			nmembers;
	P2pOrigin	origins[RP_MAX_MEMBERS];
	uint8	   *slot_of_origin; /* by RepOriginId; RP_NO_SLOT = not ours */

	/* The captured vector: by slot, and the same as a version vector. */
	uint64		captured[RP_MAX_MEMBERS];
	bool		in_vector[RP_MAX_MEMBERS];
	P2pVector	vector;
	uint64		seq;			/* last finished local transaction, its stamp and commit time */
	P2pStamp	stamp;
	TimestampTz last_commit_time;
	P2pStamp	floor;			/* what apply had begun with at this place of the WAL */

	XLogRecPtr	done_lsn;		/* end of the last record that is dealt with */
	uint64		commits;		/* of anybody, read since the start */
	P2pPace		pace;
	RpCommitRecord commit;
	RpGroupNote group;			/* the last one read; its commit record may follow */
	RpOpenTransaction tx;
	RpBody		body;
	uint64		bodies;			/* how many were begun, chunks of spools included */

	/* Where decoded changes go: the body, or the chunk of a spool. */
	RpBody	   *out;
	RpBody		chunk;
	RpSpool    *spool;			/* NULL: they go to the body */
	HTAB	   *spools;			/* by xid */
	void	   *packed;			/* buffer of the compressor */
	size_t		packed_size;

	RpLogWriter *writer;
	P2pCursor	cursor;			/* end of what was appended */
	bool		appended;		/* batches that are not published yet */
	uint32		unsynced;		/* batches that are published, and not durable */
	int64		unsynced_us;	/* monotonic: when the first of them was */
	uint64		start_seq;		/* where reading began */
	bool		started;		/* what may have been published before and lost has been made again */
	bool		active;			/* the node was, when members were looked at last */
	bool		repeatable;		/* all since the last sync comes out the same again */
	XLogRecPtr	catalogs_lsn;	/* end of the last commit that changed catalogs */
	bool		caches_doubtful;	/* somebody's older snapshot has been used since then */
	int64		caches_reset_us;	/* monotonic */
	uint64		oldest_seq;
	XLogRecPtr	synced_lsn;		/* of the last durable position */
	int64		synced_us;		/* monotonic: when that was written */
	int			remote_commits; /* since then */
	XLogRecPtr	confirmed_lsn;
	int64		confirmed_us;	/* monotonic: when the slot was moved */
	XLogRecPtr	confirm_lsn;	/* where it is to go once that may be; Invalid = nothing is due */
	RpBatchMark confirm_mark;	/* what was noted in front of that */

	RpPendingVersion *pending;
	size_t		npending;
	size_t		max_pending;

	/* "Every committed xid before below_xid is captured once below_lsn is." */
	TransactionId below_xid;	/* Invalid = nothing waits */
	XLogRecPtr	below_lsn;

	/* Start only: from where on version entries may be missing, and local commits found there. */
	bool		caught_up;		/* reading has reached the start position */
	XLogRecPtr	start_lsn;
	XLogRecPtr	refill_lsn;
	HTAB	   *refill;
	uint64		published_seq;	/* what others know */
	XLogRecPtr	published_lsn;
} RpCapture;

#define RP_NO_SLOT 0xFF			/* RP_MAX_MEMBERS is less */
/* In loops over WAL, interrupts and the postmaster are looked at every so many records. */
#define RP_RECORDS_PER_CHECK 256

/* capture.c */

/* Slot of a replication origin; RP_SELF: versions of this node restated; -1: it is none of ours. */
int			rp_capture_origin_slot(RpCapture *capture, RepOriginId origin);
/* Take over the members from shared memory if they have changed; may seal the body. */
void		rp_capture_members_refresh(RpCapture *capture);
/* Raise the captured vector; may seal the body, so never from a decoding callback. */
void		rp_capture_vector_raise(RpCapture *capture, int slot, uint64 seq);
/* Raise the floor, at this place of the WAL. */
void		rp_capture_floor_raise(RpCapture *capture, P2pStamp floor);
/* Put version entries for a transaction and its subtransactions. */
void		rp_capture_versions_put(const RpCommitRecord *commit, uint16 slot, uint64 seq,
									P2pStamp stamp);

/* capture_position.c */

/* Open log and slot, find the start position, make the decoding context. */
void		rp_capture_open(RpCapture *capture);
/* A commit between the slot's and the log's position: its entries may be missing. */
void		rp_capture_refill_note(RpCapture *capture, const RpCommitRecord *commit);
/* The start position is reached: put the missing entries, from the log. */
void		rp_capture_refill_finish(RpCapture *capture);
/* What was published before the start, and lost, has been made again. */
void		rp_capture_started(RpCapture *capture);
/* Is a transaction so small that decoding it again from the last position will not spool it? */
bool		rp_capture_is_small(const ReorderBufferTXN *txn);

/* capture_batch.c */

void		rp_body_init(RpCapture *capture);
/* Empty a body: what tables are described where is forgotten. */
void		rp_body_reset(RpCapture *capture, RpBody *body);
/* Has it the size of a part? */
bool		rp_body_is_part(const RpBody *body);
/* Make room in capture->out for at least so many more bytes; ERROR beyond P2P_BATCH_MAX_BODY. */
void		rp_body_reserve(RpCapture *capture, size_t bytes);
/* Describe a table in capture->out; sets and returns its relno. size: of the encoding. */
uint32		rp_body_describe(RpCapture *capture, P2pRelation *relation, size_t size);
/* Before each replicated change: begin the transaction, or a new part of a large one. */
void		rp_transaction_change(RpCapture *capture);
/* Begin the transaction of the commit record at hand. */
void		rp_transaction_begin(RpCapture *capture);
/* Append what the body holds of the open transaction as a part, and begin the next one. */
void		rp_transaction_cut(RpCapture *capture);
/* Write the end of the open transaction: it is finished, not yet sealed. */
void		rp_transaction_commit(RpCapture *capture);
/* Seal the whole transactions in the body, if any, and append the batch. */
void		rp_capture_seal(RpCapture *capture);
/* Seal, write; make durable what is not repeatable; put version entries, publish. */
void		rp_capture_flush(RpCapture *capture);
/* Make everything that is sealed durable, with a position behind it. No part of a transaction may be last. */
void		rp_capture_sync(RpCapture *capture);
/* Has what is published been waiting long enough for that? */
bool		rp_capture_sync_is_due(const RpCapture *capture);
/* Tell shared memory how far we are; nothing unsealed, nothing that is not published. */
void		rp_capture_publish(RpCapture *capture);

/* capture_spool.c */

/* Make the folder, and remove what an earlier process has left in it. */
void		rp_spools_open(RpCapture *capture);
/* Changes of this running transaction come: to its spool, until rp_spool_stop. */
void		rp_spool_start(RpCapture *capture, TransactionId xid);
void		rp_spool_stop(RpCapture *capture);
/* Before each replicated change, of this (sub)transaction; after it, for so many rows. */
void		rp_spool_change(RpCapture *capture, TransactionId xid);
void		rp_spool_changed(RpCapture *capture, int64 rows);
/* A (sub)transaction is undone; xid = top: all of it. */
void		rp_spool_abort(RpCapture *capture, TransactionId top, TransactionId xid);
/* The commit record at hand is this transaction's: its spool becomes parts in the log. */
void		rp_spool_commit(RpCapture *capture, TransactionId xid);

#endif							/* RP_CAPTURE_H */
