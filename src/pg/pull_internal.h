/*
 * pull_internal.h
 *	  Shared by the files of pulling only: pull.c (whom to ask, taking replies), pull_store.c (the
 *	  logs), pull_refill.c (what the WAL has noted).
 */
#ifndef RP_PULL_INTERNAL_H
#define RP_PULL_INTERNAL_H

#include "changelog.h"
#include "pull.h"

#include "p2p_member.h"
#include "p2p_relay.h"

/* One other member, or former one: its log here, and what it is as a peer. */
typedef struct PulledLog
{
	RpLogWriter *writer;		/* NULL = slot not in use */
	P2pOrigin	origin;
	char		name[NAMEDATALEN];
	uint8		public_key[P2P_PUBLIC_KEY_SIZE];
	bool		left;
	uint64		left_seq;
	uint64		required_seq;	/* the copy that this node began with covers up to this */
	uint64		covered_seq;	/* up to this its transactions are in the tables without the log */

	P2pCursor	cursor;			/* behind the last batch appended */
	P2pStamp	stamp;			/* of the last complete transaction */
	uint64		oldest_seq;
	bool		unwritten;		/* appended since the last write */
	bool		dirty;			/* appended since the last sync */
	bool		skip;			/* nothing more of it is taken from the reply at hand */
	P2pBlock   *run;			/* batches of that reply that come next, signatures not looked at */
	uint32		nrun;
	uint32		max_run;
	P2pCursor	run_end;		/* behind them; without any, as cursor */

	int			source;			/* slot of the peer that is asked for it, -1 = nobody */
	bool		over_relay;		/* which is the relay between the origin and this node */
	P2pRelayTrust trust;
	int64		penalty_us[RP_MAX_MEMBERS]; /* monotonic, by peer: not asked until then */

	bool		heard;			/* as a peer: stored is what it last said */
	P2pVector	stored;
} PulledLog;

struct RpPull
{
	MemoryContext context;
	RpNode	   *node;
	const RpIdentity *me;
	P2pId		donor;			/* of the copy; zeros if there was none */
	int			nslots;
	bool		refilled;		/* what the WAL had noted is in the logs, as far as it can be */
	int64		stale_us;		/* the plan is to be made anew then; 0 = not */
	uint32		unwritten;		/* batches appended since the last write */
	int64		sync_due_us;	/* what is dirty is to be synced then; 0 = nothing is */
	PulledLog	logs[RP_MAX_MEMBERS];
	RpSlotSet	asked[RP_MAX_MEMBERS];	/* by peer: whose logs its last PULL was for */
};

/* pull.c: does a batch that comes next by its seq continue the log at cursor? NULL, or why not. */
const char *rp_pull_judge_place(const PulledLog *log, const P2pCursor *cursor,
									const P2pBatch *batch);
/* Has the log all that there will ever be of its origin? */
bool		rp_pull_is_complete(const PulledLog *log);

/* pull_store.c: open a log for writing, which recovers it; rp_pull_refill is to follow. */
void		rp_pull_open_log(RpPull *pull, int slot);
/* Wake whoever waits for more of these logs. */
void		rp_pull_announce(RpPull *pull, const RpSlotSet *grown);
/* Append a verified batch, verbatim. */
void		rp_pull_append(RpPull *pull, PulledLog *log, const P2pBatch *batch,
						   const P2pBlock *bytes);

/* pull_refill.c: put back what the WAL has noted of these logs, which were just opened. */
void		rp_pull_refill(RpPull *pull, const RpSlotSet *opened);

#endif							/* RP_PULL_INTERNAL_H */
