/*
 * world.c
 *	  The one scheduler: who does the next step, which message arrives, what
 *	  happens from outside, what time it is.
 *
 * One tick, one step: of a worker or client of some node, drawn by weight, or
 * the arrival of one message, drawn from all that are under way (so they come
 * late and in any order). A worker may go on to its next step at once. A node
 * that is drawn rarely is a slow one. Everything is drawn from the seed.
 *
 * When the schedule is over, faults are healed and all go on in turn until
 * nothing is left to do; time passes too, so that nothing is held for ever.
 */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BASE_TIME INT64_C(1000000000000)
#define END_ROUNDS 6000

static void begin(void);
static void event_happen(const Event *event);
static void step_one(void);
static void node_step(Node *node, uint32_t worker);
static bool crash_is_due(const Node *node);
static bool is_overtaken(const Node *node);
static void message_arrive(uint32_t which);
static void finish(void);

/* What a node's clock shows. */
P2pStamp
node_clock(const Node *node)
{
	int64_t		passed = (int64_t) world.tick * world.profile.tick_us + world.jumped_us;

	return BASE_TIME + passed + node->clock_offset + passed * node->clock_drift / 1000000;
}

/* Say what happens. */
void
trace(const char *format, ...)
{
	va_list		args;

	printf("%6u  ", world.tick);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* Send a message; it may get lost, and it is forgotten if too many are under way. */
void
message_send(Message *m)
{
	if (world.nmessages == MAX_MESSAGES)
		return;
	if (!world.ending && random_chance(&world.network, world.profile.loss))
		return;
	m->sent = world.tick;
	world.messages[world.nmessages++] = *m;
}

/* Run the schedule, from the first tick to the last. */
void
world_run(void)
{
	uint32_t	next = 0;

	begin();
	while (world.tick < world.profile.horizon)
	{
		world.tick++;
		while (next < world.nevents && world.events[next].tick <= world.tick)
		{
			if (!world.events[next].deleted)
				event_happen(&world.events[next]);
			next++;
		}
		step_one();
	}
	finish();
	check_end();
}

/* The group as it begins: its nodes know each other, and have no rows. */
static void
begin(void)
{
	world.nnodes = world.profile.nnodes;
	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		if (i >= world.nnodes)
		{
			world.nodes[i].status = STATUS_UNBORN;
			world.nodes[i].up = false;
			continue;
		}
		{
			int64_t		offset = world.nodes[i].clock_offset;
			int64_t		drift = world.nodes[i].clock_drift;

			node_init(&world.nodes[i], i, STATUS_ACTIVE);
			world.nodes[i].clock_offset = offset;
			world.nodes[i].clock_drift = drift;
		}
		for (uint32_t m = 0; m < world.nnodes; m++)
			world.nodes[i].catalog.members[m] = world.nodes[i].disk.catalog.members[m] = MEMBER_ADMITTED;
		node_start(&world.nodes[i]);
	}
}

/* Something from outside. */
static void
event_happen(const Event *event)
{
	Node	   *node = &world.nodes[event->node];

	switch ((EventKind) event->kind)
	{
		case EVENT_CLIENT:
			if (node->up && node->status >= STATUS_CATCHUP && node->status <= STATUS_LEAVING)
				client_begin(node, event);
			break;
		case EVENT_CRASH:
			if (!node->up || node->status >= STATUS_GONE)
				break;
			if (event->peer != ARM_NONE)
			{
				node->armed = event->peer;
				node->armed_power = event->power;
				node->armed_ticks = (uint32_t) event->amount;
				break;
			}
			node_crash(node, event->power);
			node->restart_tick = world.tick + (uint32_t) event->amount;
			break;
		case EVENT_CUT:
			for (uint32_t i = 0; i < MAX_NODES; i++)
			{
				if (event->amount == 2)
				{
					/* two halves, by the bits of peer */
					for (uint32_t j = 0; j < MAX_NODES; j++)
						world.cut[i][j] |= ((event->peer >> (i % 8)) & 1) != ((event->peer >> (j % 8)) & 1);
					continue;
				}
				if (event->peer != NONE && i != event->peer)
					continue;
				world.cut[event->node][i] = true;
				if (event->amount == 0)
					world.cut[i][event->node] = true;
			}
			TRACE("node %u is cut off (peer %u%s)", event->node, event->peer,
				  event->amount == 0 ? "" : ", one way");
			break;
		case EVENT_HEAL:
			memset(world.cut, 0, sizeof(world.cut));
			TRACE("the network is healed");
			break;
		case EVENT_CLOCK:
			node->clock_offset += event->amount;
			TRACE("the clock of node %u is set by %ld", event->node, (long) event->amount);
			break;
		case EVENT_JOIN:
			join_begin(event->node);
			break;
		case EVENT_LEAVE:
			leave_begin(node);
			break;
		case EVENT_EVICT:
			evict_begin(node, event->peer);
			break;
		case EVENT_WORKER:
			if (!node->up)
				break;
			TRACE("worker %u of node %u ends%s", (uint32_t) event->amount, event->node,
				  event->power ? ", as a sync failed" : "");
			if (event->amount == 0)
			{
				if (node->capture.stage != CAPTURE_DOWN)
					log_recover_own(node, true);
				capture_stop(node);
				tops_rebuild(node);
			}
			else if (event->amount == 1)
			{
				log_reopen(node, event->power);
				gossip_stop(node);
			}
			else
				apply_stop(node);
			break;
		case EVENT_PAUSE:
			node->paused[event->peer] = world.tick + (uint32_t) event->amount;
			TRACE("node %u does not apply what node %u makes for %ld ticks", event->node, event->peer,
				  (long) event->amount);
			break;
		case EVENT_SPEED:
			if (event->peer < 5)
				node->weights[event->peer] = (uint32_t) event->amount;
			else
				node->trim_chance = (uint32_t) event->amount;
			break;
	}
}

/* One step of somebody. */
static void
step_one(void)
{
	uint32_t	total = world.nmessages > 0 ? world.profile.net_weight + world.nmessages : 0;
	uint32_t	net = total;
	uint32_t	pick;

	world.steps++;
	for (uint32_t n = 0; n < world.nnodes; n++)
	{
		for (uint32_t w = 0; w < 5; w++)
			total += world.nodes[n].weights[w];
	}
	pick = random_below(&world.network, total);
	if (pick < net)
	{
		message_arrive(random_below(&world.network, world.nmessages));
		return;
	}
	pick -= net;
	for (uint32_t n = 0; n < world.nnodes; n++)
	{
		for (uint32_t w = 0; w < 5; w++)
		{
			if (pick < world.nodes[n].weights[w])
			{
				node_step(&world.nodes[n], w);
				return;
			}
			pick -= world.nodes[n].weights[w];
		}
	}
}

/* A worker of a node, and on with it while chance has it. */
static void
node_step(Node *node, uint32_t worker)
{
	bool		more = true;

	if (!node->up)
	{
		if (node->status < STATUS_GONE && node->status != STATUS_UNBORN &&
			(world.tick >= node->restart_tick || world.ending))
			node_start(node);
		return;
	}
	while (more)
	{
		switch (worker)
		{
			case 0:
				more = client_step(node);
				break;
			case 1:
				more = capture_step(node);
				break;
			case 2:
				more = apply_step(node);
				break;
			case 3:
				more = gossip_step(node);
				break;
			default:
				if (node->status == STATUS_JOINING || node->status == STATUS_CATCHUP)
					more = join_step(node);
				else if (node->status == STATUS_LEAVING)
					more = leave_step(node);
				else
				{
					wal_flush(node, node->flushed +
							  random_below(&node->random, node->nwal - node->flushed + 1));
					more = false;
				}
				break;
		}
		if (node->armed != ARM_NONE && crash_is_due(node))
		{
			node_crash(node, node->armed_power);
			node->restart_tick = world.tick + node->armed_ticks;
		}
		if (!node->up || !random_chance(&node->random, node->run_on))
			return;
	}
}

/* Is something captured that is not durable, and a greater version of its key is, which was applied later? */
static bool
is_overtaken(const Node *node)
{
	const Capture *c = &node->capture;
	const Wal  *last = node->nwal > 0 ? &node->wal[node->nwal - 1] : NULL;

	if (last == NULL || last->kind != WAL_REMOTE || node->nwal != node->flushed ||
		c->stage == CAPTURE_DOWN || c->stage > CAPTURE_APPENDED)
		return false;
	for (uint32_t i = 0; i < c->npending; i++)
	{
		const Local *local = world.flushed[node->index][c->pending[i].seq - 1];

		if (!local->registered && local->version.stamp < last->stamp && locals_meet(local, last->local))
			return true;
	}
	return false;
}

/* Is something flushed that was applied from what its log may lose? */
static bool
is_noted(const Node *node)
{
	for (uint32_t i = node->flushed; i > 0 && i + node->armed_ticks % 16 >= node->flushed; i--)
	{
		const Wal  *record = &node->wal[i - 1];

		if (record->kind == WAL_REMOTE && record->seq > log_synced_seq(&node->logs[record->origin]))
			return true;
	}
	return false;
}

/* Has the moment come that a crash waits for? */
static bool
crash_is_due(const Node *node)
{
	switch (node->armed)
	{
		case ARM_CAPTURED:
			return node->capture.stage == CAPTURE_READS && node->capture.nbody > 0;
		case ARM_APPENDED:
			return node->capture.stage == CAPTURE_APPENDED;
		case ARM_SYNCED:
			return node->capture.stage == CAPTURE_SYNCED && node->capture.npending > 0;
		case ARM_APPLIED:
			return node->nwal > node->flushed && node->wal[node->nwal - 1].kind == WAL_REMOTE;
		case ARM_STORED:
			return node->gossip.dirty;
		case ARM_APPLYING:
			return node->apply.stage == APPLY_WORKS && node->apply.subop > 0;
		case ARM_COPYING:
			return node->join.stage == JOIN_COPIES || node->join.stage == JOIN_READ;
		case ARM_OVERTAKEN:
			return is_overtaken(node);
		case ARM_OUT:
			return node->capture.stage == CAPTURE_APPENDED &&
				world.nknown[node->index] > world.nregistered[node->index] &&
				world.tick > node->capture.appended_tick + node->armed_ticks % 256;
		case ARM_NOTED:
			return is_noted(node) &&
				world.tick > node->gossip.dirty_since + node->armed_ticks % 128;
		default:
			return false;
	}
}

/* A message comes in; it may come again. */
static void
message_arrive(uint32_t which)
{
	Message		m = world.messages[which];
	Node	   *to = &world.nodes[m.to];

	if (world.ending || !random_chance(&world.network, world.profile.duplicates))
		world.messages[which] = world.messages[--world.nmessages];
	if (!to->up || world.cut[m.from][m.to])
		return;
	switch ((MessageKind) m.kind)
	{
		case MESSAGE_GOSSIP:
		case MESSAGE_GOSSIP_REPLY:
			gossip_receive(to, &m);
			break;
		case MESSAGE_PULL:
			pull_serve(to, &m);
			break;
		case MESSAGE_BATCHES:
			pull_receive(to, &m);
			break;
		case MESSAGE_EVICTED:
			if (to->shared.catalog.members[m.from] == MEMBER_ADMITTED)
				evict_hear(to, "by a member");
			break;
	}
}

/* Heal everything and go on until nothing is left to do. */
static void
finish(void)
{
	char		why[128] = "";

	TRACE("the end begins");
	world.ending = true;
	memset(world.cut, 0, sizeof(world.cut));
	for (uint32_t round = 0; round < END_ROUNDS; round++)
	{
		world.tick++;
		for (uint32_t n = 0; n < world.nnodes; n++)
		{
			for (uint32_t w = 0; w < 5; w++)
				node_step(&world.nodes[n], w);
		}
		while (world.nmessages > 0)
			message_arrive(world.nmessages - 1);
		if (round % 100 == 99)
			evict_operate(round < 1000);
		if (round % 8 == 7 && quiet(why, sizeof(why)))
			return;
		if (round > 200)
			world.jumped_us += world.profile.max_skew_us / 100;
	}
	violation("stuck: %s", why);
}
