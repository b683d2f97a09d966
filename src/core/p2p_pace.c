/*
 * p2p_pace.c
 *	  How soon after an answer the next pull goes out.
 *
 * The rate of transactions is counted in windows of 50 ms and more: a window ends
 * with the first answer after that time. Below SLOW_RATE nothing is
 * ever kept back, however close together two transactions come by chance. Above
 * it the next pull waits for as many as make one worth its while; the more nodes
 * pull from the same peer, the longer, up to four times as long, since all of
 * their pulls are that peer's work.
 *
 * After a pause the window is as long as the pause, and its rate low: a load
 * that has ended slows nothing down.
 */
#include "p2p_pace.h"

#define WINDOW_US 50000
#define SLOW_RATE 500			/* a second; up to this nothing is kept back */
#define WORTH_A_PULL 16			/* transactions, for each puller */
#define MOST_PULLERS 4			/* that stretch the longest delay */

/* Count an answer, and return how long to let more gather before the next pull. */
int64_t
p2p_pace_next(P2pPace *pace, int64_t now_us, uint64_t transactions,
			  uint32_t pullers, int64_t max_delay_us)
{
	int64_t		age_us = now_us - pace->since_us;
	uint64_t	sharers = pullers < 1 ? 1 : pullers;
	int64_t		delay_us;

	pace->counted += transactions;
	if (pace->since_us == 0 || age_us >= WINDOW_US)
	{
		pace->rate = pace->since_us == 0 ? 0 : pace->counted * 1000000 / (uint64_t) age_us;
		pace->since_us = now_us;
		pace->counted = 0;
	}
	if (pace->rate <= SLOW_RATE)
		return 0;
	delay_us = (int64_t) (WORTH_A_PULL * sharers * 1000000 / pace->rate);
	max_delay_us *= (int64_t) (sharers < MOST_PULLERS ? sharers : MOST_PULLERS);
	return delay_us < max_delay_us ? delay_us : max_delay_us;
}
