/*
 * linkset.c
 *	  Waiting on many links at once, the latch and the postmaster among them.
 *
 * The kernel's set is made anew only when a socket, or what to wait for, has
 * changed since the last round; RpLink.sockets tells, since a new socket may get
 * an old number. While a link is connecting that is so each time; once it stands,
 * waiting costs one system call.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "linkset.h"

/* What a link looked like. */
typedef struct Watched
{
	const RpLink *link;
	uint64		sockets;
	uint32		wants;
	pgsocket	socket;
} Watched;

struct RpLinkSet
{
	MemoryContext context;
	WaitEventSet *events;		/* NULL = not made */
	int			nwatched;		/* of events */
	Watched		watched[RP_LINKSET_MAX];
	int			nlinks;			/* of this round */
	Watched		links[RP_LINKSET_MAX];
	bool		ready[RP_LINKSET_MAX];
};

static bool fits(const RpLinkSet *set);
static void build(RpLinkSet *set);

/* Make an empty set. */
RpLinkSet *
rp_linkset_make(void)
{
	RpLinkSet  *set = palloc0(sizeof(RpLinkSet));

	set->context = CurrentMemoryContext;
	return set;
}

/* Begin a round. */
void
rp_linkset_begin(RpLinkSet *set)
{
	set->nlinks = 0;
}

/* Add a link to the round; return its number. */
int
rp_linkset_add(RpLinkSet *set, RpLink *link)
{
	Watched    *watched = &set->links[set->nlinks];

	Assert(set->nlinks < RP_LINKSET_MAX);
	watched->link = link;
	watched->sockets = link->sockets;
	watched->wants = rp_link_wants(link);
	watched->socket = rp_link_socket(link);
	return set->nlinks++;
}

/* Wait until something can be done, at most timeout_ms. */
void
rp_linkset_wait(RpLinkSet *set, long timeout_ms)
{
	WaitEvent	events[RP_LINKSET_MAX + 2];
	int			n;

	if (!fits(set))
		build(set);
	memset(set->ready, 0, sizeof(set->ready));
	n = WaitEventSetWait(set->events, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	if (n == 1 && (events[0].events & WL_LATCH_SET))
	{
		/* A latch that is set hides the sockets: look at them, too. */
		ResetLatch(MyLatch);
		n = WaitEventSetWait(set->events, 0, events, lengthof(events), PG_WAIT_EXTENSION);
	}
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (events[i].user_data != NULL)
			*(bool *) events[i].user_data = true;
	}
}

/* Does the kernel's set fit this round's links? */
static bool
fits(const RpLinkSet *set)
{
	if (set->events == NULL || set->nlinks != set->nwatched)
		return false;
	for (int i = 0; i < set->nlinks; i++)
	{
		const Watched *a = &set->links[i];
		const Watched *b = &set->watched[i];

		if (a->link != b->link || a->sockets != b->sockets || a->wants != b->wants ||
			a->socket != b->socket)
			return false;
	}
	return true;
}

/* Make the kernel's set for this round's links. */
static void
build(RpLinkSet *set)
{
	if (set->events != NULL)
		FreeWaitEventSet(set->events);
	set->events = NULL;
	set->events = CreateWaitEventSet(set->context, set->nlinks + 2);
	(void) AddWaitEventToSet(set->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	(void) AddWaitEventToSet(set->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < set->nlinks; i++)
	{
		const Watched *watched = &set->links[i];

		if (watched->wants != 0 && watched->socket != PGINVALID_SOCKET)
			(void) AddWaitEventToSet(set->events, watched->wants, watched->socket, NULL,
									 &set->ready[i]);
	}
	memcpy(set->watched, set->links, sizeof(Watched) * set->nlinks);
	set->nwatched = set->nlinks;
}

/* Was a link's socket ready? */
bool
rp_linkset_ready(const RpLinkSet *set, int number)
{
	return set->ready[number];
}

/* Make the kernel's set anew in the next round. */
void
rp_linkset_forget(RpLinkSet *set)
{
	set->nwatched = -1;
}
