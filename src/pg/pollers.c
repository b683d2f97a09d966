/*
 * pollers.c
 *	  Long polls that wait at this node, and waking just those that a new batch
 *	  is for.
 *
 * Every peer has a poll waiting here, most of them for logs that seldom grow: with
 * relays a node serves some origins to some peers. So a poll says which logs it
 * waits for, and who publishes more of one wakes nobody else. A condition variable
 * would wake all of them for each batch.
 *
 * Nothing is lost between looking and waiting, if one enters first, and resets the
 * latch before each look: publishing comes before waking, and both take vector_lock.
 * A latch that is set after its process has gone or waits for something else does
 * no harm.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "pollers.h"
#include "shmem.h"

/* Take a free entry. */
int
rp_poller_enter(RpNode *node, const RpSlotSet *wanted)
{
	RpPollers  *pollers = &node->pollers;
	int			number = 0;

	SpinLockAcquire(&node->vector_lock);
	while (number < pollers->used && pollers->entry[number].latch != NULL)
		number++;
	if (number < RP_MAX_POLLERS)
	{
		pollers->entry[number].latch = MyLatch;
		pollers->entry[number].wanted = *wanted;
		pollers->used = Max(pollers->used, number + 1);
	}
	SpinLockRelease(&node->vector_lock);
	return number < RP_MAX_POLLERS ? number : -1;
}

/* Give the entry back. */
void
rp_poller_leave(RpNode *node, int number)
{
	RpPollers  *pollers = &node->pollers;

	SpinLockAcquire(&node->vector_lock);
	pollers->entry[number].latch = NULL;
	while (pollers->used > 0 && pollers->entry[pollers->used - 1].latch == NULL)
		pollers->used--;
	SpinLockRelease(&node->vector_lock);
}

/* Do two sets have a slot in common? */
static bool
slots_overlap(const RpSlotSet *a, const RpSlotSet *b)
{
	uint64		common = 0;

	for (size_t i = 0; i < lengthof(a->bits); i++)
		common |= a->bits[i] & b->bits[i];
	return common != 0;
}

/* Set the latches of those who wait for one of these logs, outside of the lock. */
void
rp_pollers_wake(RpNode *node, const RpSlotSet *grown)
{
	const RpPollers *pollers = &node->pollers;
	Latch	   *latches[RP_MAX_POLLERS];
	int			n = 0;

	SpinLockAcquire(&node->vector_lock);
	for (int i = 0; i < pollers->used; i++)
	{
		if (pollers->entry[i].latch != NULL &&
			(grown == NULL || slots_overlap(&pollers->entry[i].wanted, grown)))
			latches[n++] = pollers->entry[i].latch;
	}
	SpinLockRelease(&node->vector_lock);
	for (int i = 0; i < n; i++)
		SetLatch(latches[i]);
}
