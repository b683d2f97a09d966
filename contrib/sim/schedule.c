/*
 * schedule.c
 *	  What happens to the group from outside, drawn from the seed; and the
 *	  smallest part of it that still fails.
 *
 * The schedule (clients' transactions, crashes, cuts, clocks, joins, leaves) is
 * drawn before the run, from a stream of its own. Shrinking takes events away,
 * halves first, then single ones, and keeps what still fails in any way; then
 * operations out of transactions, loss and duplicates. As every node draws from
 * its own stream, most of a run stays as it was when an event of it is gone.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void profile_make(Random *r);
static void node_make(Random *r, Node *node);
static Event *event_add(Random *r, EventKind kind);
static void client_make(Random *r, Event *event);
static void faults_make(Random *r, uint32_t percent);
static void flapping_make(Random *r);
static void overtaken_make(Random *r);
static void lost_tails_make(Random *r);
static void lame_join_make(Random *r);
static void evictions_make(Random *r);
static void confidant_make(Random *r, uint8_t node, uint32_t tick);
static void replacement_make(Random *r);
static void trims_late(Random *r, uint8_t node, uint32_t tick);
static int	event_compare(const void *a, const void *b);

/* What kinds of operations this seed prefers: weights of insert, update, delete, move, truncate. */
static uint32_t op_weights[5];

/* Draw a schedule. */
void
schedule_make(uint64_t seed)
{
	Random		r = {.state = seed * UINT64_C(0x2545F4914F6CDD1D) + 1};
	uint32_t	ntransactions;

	world.nevents = 0;
	world.network.state = random_next(&r);
	profile_make(&r);
	for (uint32_t i = 0; i < MAX_NODES; i++)
		node_make(&r, &world.nodes[i]);
	ntransactions = 6 + random_below(&r, 6 + random_below(&r, random_chance(&r, 20) ? 140 : 60));
	world.profile.horizon = 400 + ntransactions * world.profile.nnodes *
		(random_chance(&r, 40) ? 2 + random_below(&r, 16) : 10 + random_below(&r, 70));
	for (uint32_t i = 0; i < ntransactions; i++)
		client_make(&r, event_add(&r, EVENT_CLIENT));
	faults_make(&r, random_below(&r, 4) == 0 ? 0 : 20 + random_below(&r, 60));
	qsort(world.events, world.nevents, sizeof(Event), event_compare);
}

static void
profile_make(Random *r)
{
	Profile    *p = &world.profile;
	static const int64_t skews[] = {0, 500, 20000, 2000000, 8000000, 30000000};
	static const int64_t ticks[] = {1, 10, 1000, 10000};

	p->nnodes = 3 + random_below(r, random_chance(r, 30) ? 5 : 2);
	p->joins = random_chance(r, 25) ? 8 : 1;
	p->evictions = random_chance(r, 35) ? 1 + random_below(r, 3) : 0;
	p->bursts = 1 + random_below(r, 4);
	p->balanced = random_chance(r, 50);
	p->nkeys = 1 + random_below(r, MAX_KEYS);
	p->ntables = 1 + random_below(r, NTABLES);
	p->loss = random_chance(r, 60) ? 0 : random_below(r, 40);
	p->duplicates = random_chance(r, 50) ? 0 : random_below(r, 30);
	p->net_weight = 1 + random_below(r, 40);
	p->tick_us = ticks[random_below(r, 4)];
	p->skew_us = skews[random_below(r, 6)];
	p->max_skew_us = 10000000;
	op_weights[0] = 10;
	op_weights[1] = random_below(r, 15);
	op_weights[2] = random_below(r, 10);
	op_weights[3] = random_chance(r, 50) ? 0 : random_below(r, 6);
	op_weights[4] = random_chance(r, 60) ? 0 : random_below(r, 4);
	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		for (uint32_t j = 0; j < MAX_NODES; j++)
			world.rtt[i][j] = random_below(r, 3);
	}
}

/* A node's clock and the speeds of its workers. */
static void
node_make(Random *r, Node *node)
{
	static const uint8_t trims[] = {2, 12, 100, 100};
	static const uint8_t talks[] = {8, 50, 90, 90};

	node->random.state = random_next(r);
	node->clock_offset = 0;
	node->clock_drift = 0;
	if (world.profile.skew_us > 0)
	{
		node->clock_offset = (int64_t) random_below(r, (uint32_t) world.profile.skew_us * 2) -
			world.profile.skew_us;
		if (random_chance(r, 30))
			node->clock_drift = (int64_t) random_below(r, 200000) - 100000;
	}
	for (uint32_t w = 0; w < 5; w++)
		node->weights[w] = world.profile.balanced ? 4u << random_below(r, 3) : 1u << random_below(r, 6);
	node->weights[0] = 8;
	node->run_on = random_below(r, 90);
	node->batch_size = 1 + random_below(r, 4);
	node->talk_chance = talks[random_below(r, 4)];
	node->trim_chance = trims[random_below(r, 4)];
	node->error_chance = random_chance(r, 70) ? 0 : random_below(r, 1000);
}

static Event *
event_add(Random *r, EventKind kind)
{
	Event	   *event = &world.events[world.nevents];

	if (world.nevents < MAX_EVENTS - 1)
		world.nevents++;
	memset(event, 0, sizeof(*event));
	event->kind = (uint8_t) kind;
	event->order = world.nevents;
	event->node = (uint8_t) random_below(r, world.profile.nnodes);
	event->tick = 1 + random_below(r, world.profile.horizon);
	return event;
}

/* A transaction of a client. */
static void
client_make(Random *r, Event *event)
{
	uint32_t	total = 0;

	/* in bursts, between which the group may come to rest */
	if (world.profile.bursts > 1)
	{
		uint32_t	length = world.profile.horizon / world.profile.bursts;

		event->tick = 1 + event->tick / length * length + event->tick % length * 2 / 5;
	}
	/* some go to a node that joins later */
	event->node = (uint8_t) random_below(r, world.profile.nnodes + 1);
	event->async = random_chance(r, 30);
	event->nops = (uint8_t) (1 + (random_chance(r, 35) ? random_below(r, MAX_OPS) : 0));
	for (uint32_t i = 0; i < 5; i++)
		total += op_weights[i];
	for (uint32_t i = 0; i < event->nops; i++)
	{
		Op		   *op = &event->ops[i];
		uint32_t	pick = random_below(r, total);
		static const uint8_t kinds[] = {OP_INSERT, OP_UPDATE, OP_DELETE, OP_MOVE, OP_TRUNCATE};
		uint32_t	k = 0;

		while (pick >= op_weights[k])
			pick -= op_weights[k++];
		op->kind = kinds[k];
		op->table = (uint8_t) random_below(r, world.profile.ntables);
		op->key = (uint8_t) random_below(r, world.profile.nkeys);
		op->key2 = (uint8_t) random_below(r, world.profile.nkeys);
		if (op->kind == OP_MOVE && op->key == op->key2)
			op->kind = OP_UPDATE;
	}
}

/* Faults, as many as this seed has of them. */
static void
faults_make(Random *r, uint32_t percent)
{
	uint32_t	span = world.profile.horizon;

	for (uint32_t i = 0; i < 14; i++)
	{
		Event	   *event;

		if (!random_chance(r, percent))
			continue;
		switch (random_below(r, 12 + world.profile.joins))
		{
			case 0:
			case 1:
			case 2:
			case 3:
				event = event_add(r, EVENT_CRASH);
				event->power = random_chance(r, 50);
				event->peer = (uint8_t) (random_chance(r, 50) ? ARM_NONE : random_below(r, ARMS));
				event->amount = 1 + random_below(r, 1 + span / 8);
				break;
			case 4:
				flapping_make(r);
				break;
			case 5:
			case 6:
				event = event_add(r, EVENT_CUT);
				event->amount = random_below(r, 3);
				event->peer = event->amount == 2 ? (uint8_t) (1 + random_below(r, 126)) :
					random_chance(r, 50) ? NONE : (uint8_t) random_below(r, world.profile.nnodes);
				if (random_chance(r, 85))
					event_add(r, EVENT_HEAL)->tick = event->tick + 1 + random_below(r, 1 + span / 6);
				break;
			case 7:
			case 8:
				(void) event_add(r, EVENT_HEAL);
				break;
			case 9:
				event = event_add(r, EVENT_CLOCK);
				event->amount = (int64_t) random_below(r, 30000000) - 15000000;
				if (random_chance(r, 50))
					event->amount /= 10000;
				break;
			case 10:
				event = event_add(r, EVENT_WORKER);
				event->amount = random_below(r, 3);
				event->power = event->amount == 1 && random_chance(r, 50);
				break;
			case 11:
				event = event_add(r, EVENT_SPEED);
				event->peer = (uint8_t) random_below(r, 5);
				event->amount = 1 + random_below(r, 32);
				break;
			default:
				event = event_add(r, EVENT_JOIN);
				event->tick = 1 + event->tick * 3 / 4;
				break;
		}
	}
	if (world.profile.joins > 1 && random_chance(r, 50))
		lame_join_make(r);
	if (random_chance(r, 15))
		overtaken_make(r);
	if (random_chance(r, 20))
		lost_tails_make(r);
	if (random_chance(r, percent / 4))
		(void) event_add(r, EVENT_LEAVE);
	if (world.profile.evictions > 0)
		evictions_make(r);
	if (random_chance(r, 5))
		replacement_make(r);
}

/* Capture is slow everywhere, and a node crashes when apply overtakes it. */
static void
overtaken_make(Random *r)
{
	static const uint8_t weights[] = {8, 1, 64, 16, 32};

	for (uint32_t n = 0; n < world.profile.nnodes; n++)
	{
		Event	   *crash = event_add(r, EVENT_CRASH);

		crash->node = (uint8_t) n;
		crash->peer = ARM_OVERTAKEN;
		crash->power = true;
		crash->tick = 1;
		crash->amount = 1 + random_below(r, 200);
		for (uint32_t w = 1; w < 3; w++)
		{
			Event	   *speed = event_add(r, EVENT_SPEED);

			speed->node = (uint8_t) n;
			speed->peer = (uint8_t) w;
			speed->amount = weights[w];
			speed->tick = 1;
		}
	}
}

/*
 * Disks are slow, and power fails when others have what a node has not synced, or its tables
 * have; perhaps capture has ended now and then before.
 */
static void
lost_tails_make(Random *r)
{
	for (uint32_t n = 0; n < world.profile.nnodes; n++)
	{
		Event	   *crash;

		if (random_chance(r, 30))
			continue;
		crash = event_add(r, EVENT_CRASH);
		crash->node = (uint8_t) n;
		crash->peer = random_chance(r, 50) ? ARM_OUT : ARM_NOTED;
		crash->power = true;
		crash->amount = 1 + random_below(r, 1000);
		for (uint32_t ends = random_chance(r, 70) ? 0 : 8; ends > 0; ends--)
		{
			Event	   *end = event_add(r, EVENT_WORKER);

			end->node = (uint8_t) n;
			end->amount = 0;
		}
	}
}

/* Somebody joins by a node that leaves one origin alone for a while. */
static void
lame_join_make(Random *r)
{
	Event	   *pause = event_add(r, EVENT_PAUSE);
	Event	   *join = event_add(r, EVENT_JOIN);

	pause->tick = 1 + pause->tick / 2;
	pause->peer = (uint8_t) random_below(r, world.profile.nnodes);
	pause->amount = 200 + random_below(r, world.profile.horizon / 2);
	join->node = pause->node;
	join->tick = pause->tick + random_below(r, (uint32_t) pause->amount);
	if (random_chance(r, 40))
		pause->deleted = true;
	trims_late(r, join->node, join->tick);
	if (random_chance(r, 60))
	{
		Event	   *leave = event_add(r, EVENT_LEAVE);

		leave->node = join->node;
		leave->tick = join->tick + 300 + random_below(r, 2000);
	}
}

/*
 * Evictions, often of somebody who is down or cut off by then, or who sponsors a
 * join; close to one another, and with a leave between them.
 */
static void
evictions_make(Random *r)
{
	uint32_t	span = world.profile.horizon;
	uint32_t	middle = 1 + random_below(r, span);

	for (uint32_t i = 0; i < world.profile.evictions; i++)
	{
		Event	   *evict = event_add(r, EVENT_EVICT);
		uint8_t		victim = (uint8_t) random_below(r, world.profile.nnodes + random_chance(r, 15));
		uint32_t	tick = random_chance(r, 70) ? middle + random_below(r, 1 + span / 8) :
			1 + random_below(r, span);
		uint32_t	before = tick - random_below(r, tick < 300 ? tick : 300);
		Event	   *event;

		evict->peer = victim;
		evict->tick = tick;
		if (random_chance(r, 25))
			event_add(r, EVENT_LEAVE)->tick = tick + random_below(r, 300);
		else if (random_chance(r, 50))
			confidant_make(r, victim, before);
		if (random_chance(r, 20))
		{
			event = event_add(r, EVENT_JOIN);
			event->node = victim;
			event->tick = before;
		}
		if (random_chance(r, 60) || victim >= world.profile.nnodes)
			continue;
		event = event_add(r, random_chance(r, 50) ? EVENT_CRASH : EVENT_CUT);
		event->node = victim;
		event->peer = NONE;
		event->tick = before;
		if (event->kind == EVENT_CRASH)
		{
			event->peer = ARM_NONE;
			event->power = random_chance(r, 50);
			event->amount = 1 + random_below(r, 4 * span);
		}
		else
			event->amount = random_below(r, 2);
	}
}

/* A node talks with one other alone, and is gone soon; the other leaves, or is evicted, too. */
static void
confidant_make(Random *r, uint8_t node, uint32_t tick)
{
	Event	   *leave = event_add(r, random_chance(r, 50) ? EVENT_LEAVE : EVENT_EVICT);
	uint8_t		confidant = leave->node;
	uint32_t	writes = 1 + random_below(r, 6);

	leave->tick = tick + random_below(r, 600);
	if (leave->kind == EVENT_EVICT)
	{
		leave->peer = confidant;
		leave->node = (uint8_t) random_below(r, world.profile.nnodes);
	}
	for (uint32_t n = 0; n < world.profile.nnodes; n++)
	{
		Event	   *cut;

		if (n == node || n == confidant)
			continue;
		cut = event_add(r, EVENT_CUT);
		cut->node = node;
		cut->peer = (uint8_t) n;
		cut->amount = 0;
		cut->tick = tick;
	}
	for (uint32_t i = 0; i < writes; i++)
	{
		Event	   *write = event_add(r, EVENT_CLIENT);

		client_make(r, write);
		write->node = i == 0 || random_chance(r, 80) ? node : confidant;
		write->tick = tick + random_below(r, 200);
	}
}

/*
 * In each of two halves somebody takes others in, then all of the first nodes leave
 * (they ask until they may), and the halves meet again.
 */
static void
replacement_make(Random *r)
{
	uint32_t	n = world.profile.nnodes;
	uint32_t	side = 1 + random_below(r, (1u << n) - 2);
	uint32_t	tick = 1 + random_below(r, 500);
	bool		taken_in[2] = {false, false};
	Event	   *event = event_add(r, EVENT_CUT);

	event->amount = 2;
	event->peer = (uint8_t) side;
	event->tick = tick;
	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t	half = side >> i & 1;
		uint32_t	joins = taken_in[half] ? 0 : 2;

		taken_in[half] = true;
		while (joins-- > 0)
		{
			event = event_add(r, EVENT_JOIN);
			event->node = (uint8_t) i;
			event->tick = tick + random_below(r, 100);
		}
		for (uint32_t asks = 1; asks <= 6; asks++)
		{
			event = event_add(r, EVENT_LEAVE);
			event->node = (uint8_t) i;
			event->tick = tick + asks * 1000 + random_below(r, 1000);
		}
		for (uint32_t other = 0; other < n; other++)
		{
			if ((side >> other & 1) == half)
				continue;
			event = event_add(r, EVENT_PAUSE);
			event->node = (uint8_t) i;
			event->peer = (uint8_t) other;
			event->tick = tick;
			event->amount = 7000 + random_below(r, 3000);
		}
	}
	event_add(r, EVENT_HEAL)->tick = tick + 6500;
	if (world.profile.horizon < tick + 9000)
		world.profile.horizon = tick + 9000;
}

/* A node trims nothing until somebody joins by it, and then at once. */
static void
trims_late(Random *r, uint8_t node, uint32_t tick)
{
	for (uint32_t i = 0; i < 2; i++)
	{
		Event	   *event = event_add(r, EVENT_SPEED);

		event->node = node;
		event->peer = 5;
		event->tick = i == 0 ? 1 : tick + random_below(r, 600);
		event->amount = i == 0 ? 0 : 100;
	}
}

/* A link that comes and goes. */
static void
flapping_make(Random *r)
{
	uint32_t	node = random_below(r, world.profile.nnodes);
	uint32_t	peer = random_chance(r, 50) ? NONE : random_below(r, world.profile.nnodes);
	uint32_t	tick = 1 + random_below(r, world.profile.horizon);
	uint32_t	times = 2 + random_below(r, 5);

	for (uint32_t i = 0; i < times; i++)
	{
		Event	   *cut = event_add(r, EVENT_CUT);
		Event	   *heal;

		cut->node = (uint8_t) node;
		cut->peer = (uint8_t) peer;
		cut->tick = tick;
		tick += 1 + random_below(r, 60);
		heal = event_add(r, EVENT_HEAL);
		heal->tick = tick;
		tick += 1 + random_below(r, 60);
	}
}

static int
event_compare(const void *a, const void *b)
{
	const Event *x = a;
	const Event *y = b;

	if (x->tick != y->tick)
		return x->tick < y->tick ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* Print what is left of the schedule. */
void
schedule_print(void)
{
	static const char *const kinds[] = {"insert", "update", "delete", "move", "truncate"};
	static const char *const names[] = {"client", "crash", "cut", "heal", "clock", "join", "leave",
		"worker ends", "speed", "pause", "evict"};
	const Profile *p = &world.profile;

	printf("schedule: %u nodes, %u ticks of %ld us, skew up to %ld us, loss %u %%, duplicates %u %%\n",
		   p->nnodes, p->horizon, (long) p->tick_us, (long) p->skew_us, p->loss, p->duplicates);
	for (uint32_t i = 0; i < world.nevents; i++)
	{
		const Event *e = &world.events[i];

		if (e->deleted)
			continue;
		printf("  tick %5u node %u %s", e->tick, e->node, names[e->kind]);
		if (e->kind == EVENT_CLIENT)
		{
			printf("%s:", e->async ? " (asynchronous)" : "");
			for (uint32_t o = 0; o < e->nops; o++)
			{
				const Op   *op = &e->ops[o];

				printf(" %s %u.%u", kinds[op->kind], op->table, op->key);
				if (op->kind == OP_MOVE)
					printf(" to %u", op->key2);
			}
		}
		else if (e->kind == EVENT_CRASH)
			printf("%s at moment %u, for %ld ticks", e->power ? " (power)" : "", e->peer, (long) e->amount);
		else if (e->kind != EVENT_HEAL && e->kind != EVENT_JOIN && e->kind != EVENT_LEAVE)
			printf(" peer %u amount %ld", e->peer, (long) e->amount);
		printf("\n");
	}
}

/* Take away events and operations as long as it fails; returns how many runs that took. */
uint32_t
schedule_shrink(uint32_t max_runs)
{
	uint32_t	runs = 0;
	bool		again = true;

	while (again && runs < max_runs)
	{
		again = false;
		for (uint32_t size = world.nevents / 2; size >= 1; size /= 2)
		{
			for (uint32_t i = 0; i < world.nevents && runs < max_runs; i += size)
			{
				bool		was[MAX_EVENTS];
				bool		any = false;

				for (uint32_t j = 0; j < world.nevents; j++)
				{
					was[j] = world.events[j].deleted;
					if (j >= i && j < i + size && !was[j])
						any = world.events[j].deleted = true;
				}
				runs += any;
				if (any && !run_once())
					again = true;
				else
				{
					for (uint32_t j = 0; j < world.nevents; j++)
						world.events[j].deleted = was[j];
				}
			}
		}
		for (uint32_t i = 0; i < world.nevents && runs < max_runs; i++)
		{
			Event	   *e = &world.events[i];

			for (uint32_t o = 0; o < e->nops && e->nops > 1 && !e->deleted; o++)
			{
				Event		before = *e;

				memmove(&e->ops[o], &e->ops[o + 1], (e->nops - o - 1u) * sizeof(Op));
				e->nops--;
				runs++;
				if (!run_once())
					again = true;
				else
					*e = before;
			}
		}
	}
	return runs;
}
