/*
 * pull.h
 *	  The logs of the other members: who is asked for which, and storing what
 *	  comes. The gossip worker's alone.
 */
#ifndef RP_PULL_H
#define RP_PULL_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "members.h"

typedef struct RpPull RpPull;

/* Lives in a child of CurrentMemoryContext. me must outlive it. */
RpPull	   *rp_pull_make(RpNode *node, const RpIdentity *me);
/*
 * Take over membership from shared memory: open the log of every other member,
 * which recovers it, put back what the WAL has noted of it, and publish what it holds. Cheap when
 * nothing has changed.
 */
void		rp_pull_refresh(RpPull *pull);
/*
 * From whom this node was copied: while it catches up, what the copy covers is
 * pulled from him only.
 */
void		rp_pull_donor(RpPull *pull, const P2pId *donor);
/* A member has said what it stores. */
void		rp_pull_heard(RpPull *pull, int slot, const P2pVector *stored);
/* Does a relay lag behind what its origin says of itself? Then the plan becomes stale. */
void		rp_pull_watch(RpPull *pull);
/* Plan who is asked for what. reachable: by slot. */
void		rp_pull_plan(RpPull *pull, const bool *reachable);
/* Append the PULL that is due to the peer in slot; false: it has nothing that we want. */
bool		rp_pull_request(RpPull *pull, int peer, uint32 max_replies, StringInfo request);
/* Did its last PULL ask it for all that the plan now wants of it, and for nothing else? */
bool		rp_pull_request_stands(const RpPull *pull, int peer);
/* What a reply has brought. */
typedef struct RpPullTaken
{
	int			batches;
	uint64		transactions;	/* that are complete with it */
	bool		full;			/* its size was the limit: there is more to be had at once */
} RpPullTaken;

/*
 * Take the bytes of a PULL_REPLY behind its kind: verify its batches and append
 * those that come next to their logs, not yet durable. False: the reply is
 * malformed (error says how; in CurrentMemoryContext).
 */
bool		rp_pull_receive(RpPull *pull, int peer, const void *bytes, size_t length,
							RpPullTaken *taken, char **error);
/* The peer has answered PULL with an ERROR about one origin: ask others for some time. False: it is about none. */
bool		rp_pull_refused(RpPull *pull, int peer, const char *text);
/* Write what was received, so that apply begins with it; make it durable if that is due. */
void		rp_pull_store(RpPull *pull);
/* By when the next call is due, monotonic; 0 = when something was received. */
int64		rp_pull_due_us(const RpPull *pull);
/* Make durable and publish what was received. */
void		rp_pull_commit(RpPull *pull);
/* Make room in the logs for what comes next: when nothing is to be done at once. */
void		rp_pull_prepare(RpPull *pull);
/* Reopen logs that some reader has found damaged, so that they are cut and pulled again. */
void		rp_pull_repair(RpPull *pull);
/* Must the plan be made anew, although nothing was heard? (A penalty is over, a log was reopened.) */
bool		rp_pull_plan_is_stale(const RpPull *pull);

#endif							/* RP_PULL_H */
