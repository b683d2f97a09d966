/*
 * apply_internal.h
 *	  Shared by the files of the apply worker only: apply.c (scheduling),
 *	  apply_commit.c (one local commit), apply_stream.c (reading an origin's transactions),
 *	  apply_early.c, apply_change.c (one change against the rows here), apply_row.c,
 *	  conflict_history.c, failed_changes.c.
 */
#ifndef RP_APPLY_INTERNAL_H
#define RP_APPLY_INTERNAL_H

#include "apply_relation.h"
#include "changelog.h"
#include "groupnote.h"
#include "keyindex.h"
#include "p2p_resolve.h"
#include "shmem.h"

/* The transaction that is being applied. */
typedef struct RpApplyTransaction
{
	RpNode	   *node;
	RpSlotVersion slot_version; /* slot, seq, stamp */
	P2pVersion	version;		/* the same, with the origin */
	const P2pVector *deps;
	uint32		item;			/* number of the current item, from 1 */
	uint32		step;			/* of the operation in work: one of the two of its item (step.h) */
	bool		second_half;	/* of a key update: the row at its new key */
	List	   *opened;			/* RpOpenRelation * */
	MemoryContext change_context;	/* reset after each change */
	uint64		changes;
	uint64		conflicts;
	bool		membership_changed;
	bool		no_wait;		/* give way to local transactions: ERROR rather than wait for one */
	bool		careful;		/* its last try failed: look twice, lock before writing */
	bool		early;			/* not all of it is here yet: it waits for nothing but its parts */
	uint32		streak;			/* inserts without anything between, into: */
	const RpOpenRelation *streak_of;
	bool		storing_run;	/* an error is none of the change that was read last */
	const RpGroupNote *group;	/* what is in this local transaction before and with it; NULL: it alone */
} RpApplyTransaction;

typedef struct RpStream RpStream;

/* What the worker knows of one member. */
typedef struct RpApplyOrigin
{
	int			slot;
	RpStream   *stream;			/* NULL: not taken up yet */
	uint64		applied_seq;	/* this worker is its only writer */
	int			retry_ms;
	int64		retry_us;		/* monotonic: not before this; 0 = no error */
	P2pVector  *deps;			/* of the next transaction of an evicted one, while it waits; or NULL */
	uint64		deps_seq;		/* which one that is */
	uint64		alone_until;	/* no groups up to this seq */
	uint64		careful_until;	/* no runs, either */
	uint64		alone;			/* so many were to be applied singly after the last failure of a group */
} RpApplyOrigin;

/* A local transaction in the making: what apply commits at once. */
typedef struct RpCommit
{
	RpApplyOrigin *origin;
	TimestampTz started_at;		/* by our clock */
	bool		grouped;		/* members are subtransactions, listed in note */
	bool		early;			/* begun before all of it was here */
	int			n;				/* transactions so far */
	uint64		seq;			/* of the last, and its stamp */
	P2pStamp	stamp;
	RpApplyTransaction txn;		/* the last; its counts are those of all */
	RpGroupNote note;
} RpCommit;

/* apply_commit.c: once, when the worker starts. */
void		rp_commit_init(RpNode *of_node);
/* Begin to look for something to apply. */
void		rp_commit_begin(RpCommit *commit, RpApplyOrigin *origin);
/*
 * Apply the transaction that was peeked, and others behind it if they are here, and commit. After an ERROR
 * call one of the two below.
 */
void		rp_commit_apply(RpCommit *commit, const P2pBegin *begin, const P2pVector *deps);
/* Was it done in a way that may fail though nothing is wrong? Then it is to be given up, and tried again. */
bool		rp_commit_is_attempt(const RpCommit *commit);
void		rp_commit_give_up(RpCommit *commit);
/* Abort, subtransactions and all, and forget what was remembered of it. */
void		rp_commit_undo(RpCommit *commit);
/* Have the session commit under the origin of slot, as this version of its. */
void		rp_apply_origin_set(int slot, uint64 seq, P2pStamp stamp);
/*
 * The transaction cannot be applied together with others, or early: ERROR if it is.
 * Called before anything that waits for a client, or that memory outside of the transaction
 * would remember of a subtransaction.
 */
void		rp_apply_alone(const RpApplyTransaction *txn);

/* apply.c: is the transaction behind after_seq here, perhaps in part, and may it be applied? Else *state says why. */
bool		rp_apply_next_is_ready(const RpApplyOrigin *origin, uint64 after_seq, P2pBegin *begin,
								   const P2pVector **deps, RpApplyState *state);
/* Go on by at_us, monotonic, at the latest, even if nobody wakes the worker. */
void		rp_apply_wake_by(int64 at_us);
/* Has an origin other than slot a whole transaction that may be applied now? */
bool		rp_apply_others_are_ready(int slot);

/* apply_change.c: carry out one item of a transaction. tag: INSERT, UPDATE or DELETE. */
void		rp_apply_change(RpApplyTransaction *txn, RpRelationMap *map, P2pTag tag,
							const P2pValue *old_values, const P2pValue *new_values);
/* Carry out a TRUNCATE of these tables. */
void		rp_apply_truncate(RpApplyTransaction *txn, List *maps, uint8 flags);
/* Close what the transaction opened. */
void		rp_apply_close_relations(RpApplyTransaction *txn);
/* Before the first apply: local deletes that the key index must know are all captured and read. */
void		rp_apply_deletes_known_to(XLogRecPtr lsn);
/* Make the key index complete for all local deletes of table that have committed up to now; false: it was. */
bool		rp_apply_deletes_complete(RpApplyTransaction *txn, Oid table);

/* apply_start.c: wait until versions can be known here; then read all that must be known of them. */
void		rp_apply_wait_until_ready(RpNode *node);
void		rp_apply_load(RpNode *node);
/* apply_upkeep.c: settle, forget, report what is due. Outside of a transaction. */
void		rp_apply_upkeep(RpNode *node);

/*
 * The version of a row found here (see there), and that with the origin in place of the slot.
 */
RpSlotVersion rp_row_version(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *row);
P2pVersion	rp_version_of(RpNode *node, const RpSlotVersion *v);

/*
 * The row of open->incoming was inserted, as open->store. A local delete has become known meanwhile: does it
 * overrule the row, or is it a conflict?
 */
void		rp_insert_reconsider(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op, TupleTableSlot *key);
/* Insert open->incoming the usual way. */
void		rp_insert_again(RpApplyTransaction *txn, RpOpenRelation *open);

/* apply_run.c: take the insert of open->incoming into the run; false: it is none for a run, which is stored. */
bool		rp_run_take(RpApplyTransaction *txn, RpOpenRelation *open);
/* Store what has been gathered; before anything but the next insert into its table. */
bool		rp_run_flush(RpApplyTransaction *txn);
/* Forget it, after an abort. */
void		rp_run_abort(void);

/*
 * apply_tracked.c: one operation on a key of a table with a handler or merge of its own;
 * false: somebody inserted the key meanwhile, look again. As the table's owner.
 */
bool		rp_tracked_change(RpApplyTransaction *txn, RpOpenRelation *open, P2pOp op,
							  TupleTableSlot *key);
/*
 * A truncate of a tracked table that is locked against everybody, all local changes captured:
 * remember it in the key sets, and take out the rows that it leaves nothing of. For a
 * table that was just emptied because all is in the truncate's past, too.
 */
void		rp_tracked_truncate(RpApplyTransaction *txn, RpOpenRelation *open);
/*
 * tracked_follow.c. Between transactions: fold rows again that a local write has touched. Returns whether
 * anything was done.
 */
bool		rp_tracked_follow_up(RpNode *node);
/* When it wants to be called again though nothing has happened, monotonic; 0: never. */
int64		rp_tracked_due_us(void);
/* siblings.c. Which keys have siblings; once, in a transaction, before the own log is followed. */
void		rp_siblings_load(void);
/* Between transactions: forget those of tables that have none any more. */
void		rp_siblings_sweep(void);

/*
 * apply_unique.c: store open->store as the row of its key, over what is here, with this version, in
 * a table that may have more unique indexes. A displaced row of the key is forgotten if the row is
 * stored, be it displaced again.
 */
typedef enum RpHere
{
	RP_HERE_NOTHING,
	RP_HERE_NOTHING_HOLD,		/* and nobody else is to make a row of that key before our commit, if ours is displaced */
	RP_HERE_LOCKED,				/* the row in open->local */
	RP_HERE_GLANCED				/* the same, but not locked: RP_STORE_AGAIN if it has changed */
} RpHere;

typedef enum RpStored
{
	RP_STORED,					/* it stands; others may have been displaced by it */
	RP_STORED_DISPLACED,		/* a greater row has one of its unique values: kept in displaced_rows */
	RP_STORE_AGAIN				/* a live row of that key appeared meanwhile; nothing is left behind */
} RpStored;

RpStored	rp_unique_store(RpApplyTransaction *txn, RpOpenRelation *open, RpHere here,
							const RpSlotVersion *version);
/* Remove the locked row in open->local; what it displaced is judged again after the commit. */
void		rp_unique_delete(RpApplyTransaction *txn, RpOpenRelation *open);
/* The version and image of the displaced row of key, if there is one; its image goes to out (virtual). */
bool		rp_displaced_find(RpOpenRelation *open, TupleTableSlot *key, RpSlotVersion *version,
							  TupleTableSlot *out);
/* Forget the displaced row of key: a greater version of it has come. */
void		rp_displaced_drop(RpApplyTransaction *txn, RpOpenRelation *open, TupleTableSlot *key);
/*
 * displaced_follow.c. Between transactions: bring rows back whose values are free again. Returns
 * whether anything was done.
 */
bool		rp_displaced_follow_up(RpNode *node);
/* When it wants to be called again though nothing has happened, monotonic; 0: never. */
int64		rp_displaced_due_us(void);

/* apply_row.c: find and lock the row of key into out; false: there is none. */
bool		rp_row_find(RpOpenRelation *open, TupleTableSlot *key, TupleTableSlot *out);
/* Look for it once, neither locking nor waiting. */
typedef enum RpGlance
{
	RP_GLANCE_NOTHING,			/* no row, as far as one look can tell */
	RP_GLANCE_ROW,				/* in out; nobody is at it */
	RP_GLANCE_BUSY				/* a transaction has one in work */
} RpGlance;

RpGlance	rp_row_glance(RpOpenRelation *open, TupleTableSlot *key, TupleTableSlot *out);
/* Build open->store from the incoming values over base (the row here), or over defaults (NULL). */
void		rp_row_build(RpOpenRelation *open, TupleTableSlot *base);
/* Insert store; false: a live row claims one of its unique values, and nothing is left behind. */
bool		rp_row_insert(RpOpenRelation *open);
/*
 * Keep a key without a row from being inserted until the transaction ends; false: there is a row by
 * now. Uses store.
 */
bool		rp_row_claim(RpOpenRelation *open, TupleTableSlot *key);
/* Insert store into a table without a key. */
void		rp_row_insert_anyway(RpOpenRelation *open);
/*
 * Insert store where the key's index is the only unique one, and probably no row; false: there is one, and
 * the next inserts should look first.
 */
bool		rp_row_insert_new(RpOpenRelation *open);
/* An insert has met a row: look before the next ones. */
void		rp_row_inserts_meet(RpOpenRelation *open);
/* Overwrite the row in open->local by store. locked: by us. */
typedef enum RpUpdated
{
	RP_UPDATED,
	RP_UPDATED_CLASHING,		/* a live row may claim one of its unique values */
	RP_UPDATE_AGAIN				/* not locked, and not as it was: nothing is left behind */
} RpUpdated;

RpUpdated	rp_row_update(RpOpenRelation *open, bool locked);
/* Remove the row in open->local that was glanced at; false: it is not as it was. */
bool		rp_row_delete_unlocked(RpOpenRelation *open);
void		rp_row_delete(RpOpenRelation *open, TupleTableSlot *row);

/*
 * conflict_history.c: write one row of history in the transaction, and count it. Slots may be NULL:
 * the side was a delete. local.seq 0 = ancient.
 */
typedef struct RpConflictRecord
{
	P2pConflict conflict;
	const char *type;			/* NULL: by conflict */
	const char *resolution;		/* NULL: by incoming_wins */
	const char *message;		/* of a handler's error; NULL: none */
	bool		incoming_wins;	/* else revert_conflict() puts remote_row back */
	bool		none_lost;		/* what stands is made of both sides: nothing to revert */
	RpOpenRelation *open;
	TupleTableSlot *key;
	TupleTableSlot *local_row;
	TupleTableSlot *remote_row;
	TupleTableSlot *applied_row;
	RpSlotVersion local;
} RpConflictRecord;

void		rp_conflict_record(RpApplyTransaction *txn, const RpConflictRecord *record);
/* Remove what is too old or too much; in a transaction. */
void		rp_conflict_prune(void);

/* apply_stream.c: the transactions of one origin, one after the other. */
RpStream   *rp_stream_create(RpNode *node, int slot);
/*
 * Stand before transaction after_seq + 1 and return its BEGIN (deps in
 * *deps, valid until the next call); false: it is not here yet. Cheap to
 * repeat. Its first part is enough: rp_stream_has says whether it is here as a whole. ERROR if
 * the log cannot be read.
 */
bool		rp_stream_peek(RpStream *stream, uint64 after_seq, P2pBegin *begin, const P2pVector **deps);
/*
 * Next item of the transaction that was peeked; false at its COMMIT. For
 * INSERT, UPDATE, DELETE: *map is set and the reader's values are to be used;
 * for TRUNCATE: *truncated lists the maps (tables that are not here left out).
 * In a transaction.
 */
typedef struct RpStreamItem
{
	P2pTag		tag;
	uint64		change;			/* its number in the transaction, from 1 */
	bool		awaited;		/* the next part is not here yet, and nothing else is set */
	bool		skipped;		/* by rp_stream_skip: nothing below is set */
	RpRelationMap *map;
	const P2pValue *old_values; /* NULL if there are none */
	const P2pValue *new_values;
	List	   *truncated;		/* RpRelationMap * */
	uint8		truncate_flags;
} RpStreamItem;

bool		rp_stream_next(RpStream *stream, RpStreamItem *item);
/*
 * Before each commit, as a stream reads ahead of what is durable in the log: make sure that all up to seq,
 * the last transaction in it, will be durable if the commit is. Waits for what is large. ERROR
 * (serialization failure, to be tried again) if that takes too long.
 */
void		rp_stream_secure(RpStream *stream, uint64 seq);
/* Does the transaction that was peeked go over several batches? */
bool		rp_stream_is_large(RpStream *stream);
/* Are there at least so many whole transactions after after_seq in the log? */
bool		rp_stream_has(RpStream *stream, uint64 after_seq, uint64 n);
/* An item was awaited, in a transaction that was here as a whole: its log was cut. ERROR. */
void		rp_stream_has_no_end(RpStream *stream) pg_attribute_noreturn();
/* An item was awaited: is the part here by now? */
bool		rp_stream_part_has_come(RpStream *stream);
/* Changes of the peeked transaction to be passed over, by number, ascending; their memory must stay until its end. */
void		rp_stream_skip(RpStream *stream, const uint64 *changes, int n);
/* Forget the position (after an error). */
void		rp_stream_reset(RpStream *stream);

/* The change that was read last, as it stands in the log; memory of the stream. */
typedef struct RpStreamChange
{
	uint64		change;			/* its number in the transaction, from 1 */
	P2pTag		tag;
	const P2pRelation *relation;	/* of a TRUNCATE: the first; see rp_stream_truncated */
	const P2pValue *old_values; /* NULL if there are none */
	const P2pValue *new_values;
} RpStreamChange;

/* Return it, until a reset; false: the stream stands at no change. */
bool		rp_stream_change(RpStream *stream, RpStreamChange *change);
/* If it is a TRUNCATE, its n-th table, from 0; NULL: it has no more. */
const P2pRelation *rp_stream_truncated(RpStream *stream, uint32 n);
/* The stamp of the transaction that was peeked; 0: none was since a reset. */
P2pStamp	rp_stream_stamp(RpStream *stream);

/*
 * apply_early.c. May transaction seq, of which only the first parts are here, be begun now?
 */
bool		rp_early_is_possible(RpNode *node, int slot, uint64 seq);
/* It is: it has this one chance. */
void		rp_early_begin(RpApplyTransaction *txn);
/* Every now and then: is it all here by now? If not, ERROR where it has to give way. */
void		rp_early_check(RpApplyTransaction *txn, RpStream *stream);
/* Wait for the part that is awaited; ERROR if it does not come soon, or somebody else goes first. */
void		rp_early_wait(RpApplyTransaction *txn, RpStream *stream);

/*
 * failed_changes.c: transactions that apply cannot get past, one line each in
 * replp2p.failed_transactions, and changes of them that are to be skipped.
 */
typedef struct RpFailure RpFailure;

/* Copy what is to be said of the failure of transaction seq, before it is aborted and the stream reset. */
RpFailure  *rp_failure_note(RpStream *stream, uint64 seq, const ErrorData *error);
/* After that: write its line, in transactions of its own. Raises no error. */
void		rp_failure_store(int slot, const RpFailure *failure);
/* May there be something to be skipped, or a line to be deleted, for this origin? */
bool		rp_failure_any(int slot);
/* At the begin of a transaction: tell the stream what is to be skipped of it. */
void		rp_failure_begin(RpApplyTransaction *txn, RpStream *stream);
/* In place of applying a change: keep it in the history. */
void		rp_failure_skip(RpApplyTransaction *txn, uint64 change);
/*
 * Before the commit: the line goes with it. And after it: what was skipped is known to the indexes of
 * keys all the same, as at the next start of apply (a delete that was left out beats older writes).
 */
void		rp_failure_end(RpApplyTransaction *txn);
void		rp_failure_over(int slot);

#endif							/* RP_APPLY_INTERNAL_H */
