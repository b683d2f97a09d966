/*
 * leave.c
 *	  What follows on leave_group: when does this node say that it leaves, and
 *	  when may it go? p2p_member.c tells why there are two halves.
 *
 * leave_group sets the status to leaving, which is a wish: the node admits
 * nobody any more, and is a member like any other. It says nothing before
 *
 *	  barrier -> capture has passed it -> the captured vector: what this node had
 *		-> the acks of all admitted members cover that
 *		-> evictions are over here (evict.c)
 *
 * and begins anew with the barrier when membership has changed meanwhile. Then it
 * inserts the leave row into replp2p.membership, an ordinary
 * transaction of this node's stream. What this
 * node wrote before that transaction the others must get; what comes after it
 * they ignore, all of them from the same seq on (p2p_follow.h), also those that store it.
 * So the node stays, serving its log, until every other member has
 * said in its signed state that it stores our log up to that transaction:
 *
 *	  barrier -> capture has passed it -> seq of the leave row, from the own log
 *		-> stored[self] >= seq in the states of all admitted members, and stored
 *		   covers what this node had applied at the barrier, on which the row depends
 *
 * Nor does it go while a member is joining: it may have copied from here, and nobody
 * else may give it the part of the logs that its copy needs (pull.c).
 *
 * A member that has applied the leave row takes us for gone, so its links to us
 * end; it still answers our GOSSIP (exchange.c), which is how its state, and
 * those of members behind it, get here.
 *
 * The seq is found by reading the own log backwards in growing steps: as a rule
 * the row stands among the last transactions. A log that does not have it any
 * more was trimmed beyond it, so all members have it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "barrier.h"
#include "changelog.h"
#include "evict.h"
#include "leave.h"
#include "settings.h"
#include "states.h"

#include "p2p_body.h"
#include "p2p_member.h"

/* Transactions of the first look at the end of the log; each next look takes 16 times as many. */
#define FIRST_LOOK 1000
#define LOOK_GROWTH 16

#define NO_COLUMN UINT32_MAX

struct RpLeave
{
	RpNode	   *node;
	const RpIdentity *me;
	XLogRecPtr	barrier;		/* Invalid = not set yet */
	bool		looked;			/* capture has passed it */
	P2pVector	had;			/* captured there; of the leave row: what it depends on, or a little more */

	/* before it is said */
	uint64		generation;		/* of membership, at the barrier */

	/* afterwards */
	bool		seq_known;
	uint64		seq;			/* of the leave row's transaction; 0 = everybody has it */
};

/* Where replp2p.membership says what a row is about, in the body at hand. */
typedef struct LeaveColumns
{
	bool		known;
	uint32		relno;
	uint32		change;
	uint32		subject;
} LeaveColumns;

static bool has_looked(RpLeave *leave);
static bool all_say(const RpLeave *leave,
					bool (*says) (const RpLeave *leave, const P2pNodeState *state));
static bool has_met(const RpLeave *leave, const P2pNodeState *state);
static bool has_leave(const RpLeave *leave, const P2pNodeState *state);
static bool say(RpLeave *leave);
static uint64 find_leave_seq(RpNode *node, const RpIdentity *me);
static uint64 look_between(const RpIdentity *me, RpLogReader *reader, uint64 last_seq);
static uint64 look_into_batch(const RpIdentity *me, RpLogReader *reader, const P2pBatch *batch);
static void find_columns(const P2pRelation *relation, LeaveColumns *columns);
static bool is_leave_row(const RpIdentity *me, const P2pBodyReader *body, const P2pItem *item,
						 const LeaveColumns *columns);

/* Begin to leave. */
RpLeave *
rp_leave_make(RpNode *node, const RpIdentity *me)
{
	RpLeave    *leave = palloc0(sizeof(RpLeave));

	leave->node = node;
	leave->me = me;
	return leave;
}

/* Say that this node leaves, if it may. */
void
rp_leave_say(RpLeave *leave)
{
	RpNode	   *node = leave->node;
	uint64		loaded;
	bool		settled;

	LWLockAcquire(&node->lock, LW_SHARED);
	loaded = node->loaded_generation;
	settled = rp_evict_is_settled(node) && pg_atomic_read_u64(&node->wanted_generation) == loaded;
	LWLockRelease(&node->lock);
	if (loaded != leave->generation)
	{
		leave->generation = loaded;
		leave->barrier = InvalidXLogRecPtr;
	}
	if (has_looked(leave) && settled && all_say(leave, has_met) && say(leave))
		leave->barrier = InvalidXLogRecPtr;
}

/* Has capture passed a barrier, so that it is known what this node had there? */
static bool
has_looked(RpLeave *leave)
{
	RpNode	   *node = leave->node;
	XLogRecPtr	captured;

	if (XLogRecPtrIsInvalid(leave->barrier))
	{
		leave->barrier = rp_barrier_insert();
		leave->looked = false;
	}
	SpinLockAcquire(&node->vector_lock);
	captured = node->captured_lsn;
	SpinLockRelease(&node->vector_lock);
	if (captured < leave->barrier)
	{
		rp_worker_wake(node, RP_WORKER_CAPTURE);
		return false;
	}
	if (!leave->looked)
	{
		rp_vector_captured(node, &leave->had);
		ereport(LOG,
				(errmsg("this node is leaving its replp2p group: all others have to have what it has now")));
	}
	leave->looked = true;
	return true;
}

/* Do the states of all admitted members say it? One whose state is not known says nothing. */
static bool
all_say(const RpLeave *leave, bool (*says) (const RpLeave *leave, const P2pNodeState *state))
{
	RpNode	   *node = leave->node;
	int			nmembers;

	LWLockAcquire(&node->lock, LW_SHARED);
	nmembers = node->nmembers;
	LWLockRelease(&node->lock);
	for (int slot = RP_SELF + 1; slot < nmembers; slot++)
	{
		uint8		memory[P2P_STATE_MAX_SIZE];
		P2pNodeState state;
		bool		counts;

		LWLockAcquire(&node->lock, LW_SHARED);
		counts = node->members[slot].status == RP_MEMBER_ADMITTED;
		LWLockRelease(&node->lock);
		if (counts && (!rp_state_read(node, slot, memory, &state) || !says(leave, &state)))
			return false;
	}
	return true;
}

/* Has it applied what this node had? */
static bool
has_met(const RpLeave *leave, const P2pNodeState *state)
{
	return p2p_member_has_met(&state->ack, &leave->had);
}

/* Does it store the leave, and what that depends on, and has nothing more to pull? */
static bool
has_leave(const RpLeave *leave, const P2pNodeState *state)
{
	return state->phase != P2P_PHASE_JOINING &&
		p2p_member_has_leave(&state->stored, &leave->me->self, leave->seq, &leave->had);
}

/* Write the leave row; false: a user's transaction that changes membership is in the way. */
static bool
say(RpLeave *leave)
{
	const RpMember *self = &leave->node->members[RP_SELF];
	RpMembershipRow row;
	bool		is_free;

	memset(&row, 0, sizeof(row));
	row.change = RP_MEMBERSHIP_LEAVE;
	row.subject = leave->me->self;
	LWLockAcquire(&leave->node->lock, LW_SHARED);
	strlcpy(row.name, self->name, sizeof(row.name));
	strlcpy(row.dsn, self->dsn, sizeof(row.dsn));
	memcpy(row.public_key, self->public_key, sizeof(row.public_key));
	LWLockRelease(&leave->node->lock);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	is_free = rp_membership_is_free();
	if (is_free)
		rp_membership_add(leave->node, leave->me, &row);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return is_free;
}

/* May this node go? */
bool
rp_leave_may_go(RpLeave *leave)
{
	if (!has_looked(leave))
		return false;
	if (!leave->seq_known)
		leave->seq = find_leave_seq(leave->node, leave->me);
	leave->seq_known = true;
	return all_say(leave, has_leave);
}

/* Return the seq of the transaction with our leave row; 0 if the log does not have it any more. */
static uint64
find_leave_seq(RpNode *node, const RpIdentity *me)
{
	RpLogReader *reader = rp_log_open_reader(MyDatabaseId, &me->self);
	uint64		found = 0;
	uint64		head;
	uint64		back = FIRST_LOOK;

	SpinLockAcquire(&node->vector_lock);
	head = node->members[RP_SELF].stored_seq;
	SpinLockRelease(&node->vector_lock);
	while (found == 0 && head > 0)
	{
		/* Before the oldest there is nothing to stand at: then from the oldest on. */
		bool		whole = back >= head || !rp_log_seek(reader, head - back, 0, false);

		if (whole && !rp_log_seek(reader, 0, 0, true))
			break;
		found = look_between(me, reader, head);
		if (whole)
			break;
		back *= LOOK_GROWTH;
	}
	rp_log_close_reader(reader);
	return found;
}

/* Read on from where the reader stands to last_seq; return the seq of the leave row, or 0. */
static uint64
look_between(const RpIdentity *me, RpLogReader *reader, uint64 last_seq)
{
	P2pBlock	bytes;
	P2pBatch	batch;
	P2pStatus	status;
	uint64		found = 0;

	while (found == 0 &&
		   (status = rp_log_read(reader, last_seq, &bytes, &batch)) != P2P_END)
	{
		CHECK_FOR_INTERRUPTS();
		if (status != P2P_OK)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read the own change log: %s", p2p_status_text(status)),
					 errhint("Leave the group by force.")));
		found = look_into_batch(me, reader, &batch);
	}
	return found;
}

/* Return the seq of the leave row if it is in this batch, or 0. */
static uint64
look_into_batch(const RpIdentity *me, RpLogReader *reader, const P2pBatch *batch)
{
	LeaveColumns columns = {0};
	P2pBodyReader body;
	P2pItem		item;
	P2pBlock	bytes;
	void	   *memory;
	uint64		found = 0;

	if (rp_log_unpack(reader, batch, &bytes) != P2P_OK)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a batch in the change log of this node is damaged"),
				 errhint("Leave by replp2p.leave_group(force => true): the other nodes keep "
						 "what they have.")));
	memory = palloc(p2p_body_reader_memory());
	p2p_body_reader_init(&body, memory, bytes.bytes, bytes.length, &batch->deps);
	while (found == 0 && p2p_body_next(&body, &item) == P2P_OK)
	{
		if (item.tag == P2P_TAG_RELATION)
			find_columns(&item.relation, &columns);
		else if (item.tag == P2P_TAG_INSERT && is_leave_row(me, &body, &item, &columns))
			found = body.last_seq;
	}
	pfree(memory);
	return found;
}

/* If relation is the membership log, remember its number and columns. */
static void
find_columns(const P2pRelation *relation, LeaveColumns *columns)
{
	if (strcmp(relation->schema, RP_SCHEMA) != 0 || strcmp(relation->name, "membership") != 0)
		return;
	columns->known = true;
	columns->relno = relation->relno;
	columns->change = NO_COLUMN;
	columns->subject = NO_COLUMN;
	for (uint32 i = 0; i < relation->ncolumns; i++)
	{
		if (strcmp(relation->columns[i].name, "change") == 0)
			columns->change = i;
		else if (strcmp(relation->columns[i].name, "subject_id") == 0)
			columns->subject = i;
	}
}

/* Does this insert say that we leave? */
static bool
is_leave_row(const RpIdentity *me, const P2pBodyReader *body, const P2pItem *item,
			 const LeaveColumns *columns)
{
	const P2pValue *change;
	const P2pValue *subject;

	if (!columns->known || item->relno != columns->relno ||
		columns->change >= item->ncolumns || columns->subject >= item->ncolumns)
		return false;
	change = &body->new_values[columns->change];
	subject = &body->new_values[columns->subject];
	return change->length == 1 && change->data[0] == (uint8) RP_MEMBERSHIP_LEAVE &&
		subject->kind == P2P_VALUE_BINARY && subject->length == P2P_ID_SIZE &&
		memcmp(subject->data, &me->self.id, P2P_ID_SIZE) == 0;
}
