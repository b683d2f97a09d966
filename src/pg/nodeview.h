/*
 * nodeview.h
 *	  A copy of a node's shared memory for whoever only reads: the views,
 *	  health(), waiting for replication.
 */
#ifndef RP_NODEVIEW_H
#define RP_NODEVIEW_H

#include "shmem.h"

typedef struct RpMemberView
{
	RpMember	m;				/* state_bytes as they were heard */
	bool		has_state;		/* state is there; self: made from shared memory */
	P2pNodeState state;
} RpMemberView;

typedef struct RpNodeView
{
	Oid			dboid;
	TimestampTz now;			/* own clock when this was copied */

	RpNodeStatus status;
	P2pId		group;
	TimestampTz stats_reset;
	RpWorkerSlot workers[RP_WORKER_KINDS];

	XLogRecPtr	captured_lsn;
	XLogRecPtr	confirmed_lsn;
	P2pStamp	last_stamp;
	P2pStamp	floor;
	bool		capture_ready;
	int64		group_offset_us;
	bool		clock_is_outlier;
	bool		evicted_settled;	/* evicted members hold nothing any more */
	bool		cuts_known;

	int			nmembers;
	RpMemberView members[FLEXIBLE_ARRAY_MEMBER];
} RpNodeView;

/* What a member is doing, as seen from here. */
typedef enum RpMemberState
{
	RP_STATE_JOINING = 0,
	RP_STATE_SYNCING,
	RP_STATE_ACTIVE,
	RP_STATE_UNREACHABLE,
	RP_STATE_LEAVING,
	RP_STATE_LEFT,
	RP_STATE_EVICTED
} RpMemberState;

/* Copy the node of this process's database into CurrentMemoryContext; NULL if there is none. */
RpNodeView *rp_node_view(void);

RpMemberState rp_view_member_state(const RpNodeView *view, int slot);
const char *rp_member_state_name(RpMemberState state);
/* When a member last gave a sign of life, by its link or by a relay; 0 = never. */
TimestampTz rp_view_last_seen(const RpNodeView *view, int slot);

/* Greatest seq of an origin that any member, this one included, has said it stores. */
uint64		rp_view_known_seq(const RpNodeView *view, int slot);
/* The same, but what others say alone; *teller is the slot of who says it. */
uint64		rp_view_told_seq(const RpNodeView *view, int slot, int *teller);
/*
 * How far the tables here are behind an origin, in microseconds of group time:
 * 0 if nothing is missing, -1 if it cannot be said. An upper bound, exact if
 * only one transaction is missing.
 */
int64		rp_view_lag_us(const RpNodeView *view, int slot);
/* Average bytes of a transaction in an origin's log here; 0 if its log is empty. Looks at files. */
uint64		rp_view_transaction_bytes(const RpNodeView *view, int slot);
/*
 * The member that keeps an origin's log from being trimmed: the one with the
 * smallest ack. -1 if all have acked all; *lacks = how many it has not acked.
 */
int			rp_view_log_holder(const RpNodeView *view, int slot, uint64 *lacks);
/* Bytes of all logs on this node's disk, as they are now. Looks at files. */
uint64		rp_view_log_bytes(const RpNodeView *view);

#endif							/* RP_NODEVIEW_H */
