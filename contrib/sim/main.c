/*
 * main.c
 *	  contrib/sim: a whole group in one process, driven by one seeded scheduler,
 *	  deciding by the very object code of src/core.
 *
 * What must hold, looked at after every step that could break it, and at the end:
 *
 *	  winner		the row of a key is what the greatest applied version left
 *	  divergence	all quiet: the tables of all members are equal, and are that
 *	  exactly once	every transaction is applied once by each member, in the order of its origin
 *	  causal		none before what it depends on
 *	  deps			what a transaction says it depends on is what its node had applied, by its WAL
 *	  stamps		who came after an applied version, or could not see one, has the greater stamp
 *	  stable		what is called stable every member has, durably; and nothing arrives
 *					afterwards that has not seen it
 *	  tombstone		one is dropped only when every member has it
 *	  dense, chain	an origin's seqs have no gap, and no two nodes have different ones
 *	  fork			no two different batches of the same seqs of an origin are stored anywhere, ever
 *	  durable		what a client was told is committed is in the log, once, and is never lost
 *	  stored		what a node has applied is in its logs, or comes back into them when they are opened
 *	  copy			a joiner's copy is exactly what its vector says
 *	  leave			nothing is applied of what a member committed after it left
 *	  evict			nothing is stored of an evicted node beyond the end that was agreed on; what
 *					any of those that stay has stored of it all of them apply, as far as anybody can
 *	  held			no stamp is applied that is too far ahead of what the node believes
 *	  conflict		only what is truly concurrent is reported
 *	  slot			capture can go on after any crash
 *	  stuck			all this ends: everything is applied, and becomes stable
 *
 * A run is a pure function of its seed and the schedule drawn from it. One that
 * fails is run again with less and less of its schedule, and printed.
 *
 *	  sim --seed=N				one seed, with all that happens
 *	  sim --seeds=FROM..TO		many; stops at the first that fails
 *	  sim --plant=NAME			with a planted bug
 *	  sim --plants				each planted bug: at which seed is it found?
 */
#include "sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SHRINK_RUNS 3000
#define PLANT_SEEDS 60000

World		world;

static const char *const plant_names[] = {
	"none",
#define PLANT_NAME(name, text) #name,
	PLANT_LIST(PLANT_NAME)
};

static const char *const plant_texts[] = {
	"",
#define PLANT_TEXT(name, text) text,
	PLANT_LIST(PLANT_TEXT)
};

static void setup(void);
static bool run_seed(uint64_t seed);
static void report(uint64_t seed);
static int	run_many(uint64_t from, uint64_t to, FILE *progress);
static int	run_plants(uint64_t from);
static double seconds_now(void);

/* Run what the schedule says; true if nothing is violated. */
bool
run_once(void)
{
	static uint64_t network;
	static uint64_t node_random[MAX_NODES];
	static int64_t offsets[MAX_NODES];
	static int64_t drifts[MAX_NODES];
	static uint32_t weights[MAX_NODES][5];
	static uint32_t trims[MAX_NODES];
	static uint64_t of_seed = UINT64_MAX;
	static bool known = false;

	/* the schedule is drawn once, and may be run many times */
	if (!known || of_seed != world.seed || world.fresh)
	{
		known = true;
		of_seed = world.seed;
		world.fresh = false;
		network = world.network.state;
		for (uint32_t i = 0; i < MAX_NODES; i++)
		{
			node_random[i] = world.nodes[i].random.state;
			offsets[i] = world.nodes[i].clock_offset;
			drifts[i] = world.nodes[i].clock_drift;
			memcpy(weights[i], world.nodes[i].weights, sizeof(weights[i]));
			trims[i] = world.nodes[i].trim_chance;
		}
	}
	world.network.state = network;
	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		world.nodes[i].random.state = node_random[i];
		world.nodes[i].clock_offset = offsets[i];
		world.nodes[i].clock_drift = drifts[i];
		memcpy(world.nodes[i].weights, weights[i], sizeof(weights[i]));
		world.nodes[i].trim_chance = trims[i];
	}
	arena_reset();
	world.tick = 0;
	world.jumped_us = 0;
	world.ending = false;
	world.nlocals = world.nvalues = 0;
	world.nmessages = 0;
	memset(world.cut, 0, sizeof(world.cut));
	memset(world.evicts, 0, sizeof(world.evicts));
	memset(world.nregistered, 0, sizeof(world.nregistered));
	memset(world.nknown, 0, sizeof(world.nknown));
	memset(world.nflushed, 0, sizeof(world.nflushed));
	world.violation[0] = '\0';
	if (setjmp(world.stop) == 0)
		world_run();
	return world.violation[0] == '\0';
}

/* Draw the schedule of a seed and run it. */
static bool
run_seed(uint64_t seed)
{
	world.seed = seed;
	world.fresh = true;
	schedule_make(seed);
	return run_once();
}

/* Say what was found, and the least schedule that shows it. */
static void
report(uint64_t seed)
{
	uint32_t	runs;

	printf("seed %" PRIu64 ": %s\n", seed, world.violation);
	runs = schedule_shrink(MAX_SHRINK_RUNS);
	(void) run_once();
	printf("shrunk by %u runs: %s\n", runs, world.violation);
	schedule_print();
	printf("replay: make sim SEED=%" PRIu64 "%s%s\n", seed, world.plant == PLANT_none ? "" : " PLANT=",
		   world.plant == PLANT_none ? "" : plant_names[world.plant]);
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/* Run seeds until one fails. */
static int
run_many(uint64_t from, uint64_t to, FILE *progress)
{
	double		begun = seconds_now();

	for (uint64_t seed = from; seed <= to; seed++)
	{
		if (!run_seed(seed))
		{
			report(seed);
			return 1;
		}
		if (progress != NULL && (seed - from) % 10000 == 9999)
		{
			fprintf(progress, "seeds %" PRIu64 " to %" PRIu64 " are clean, %.0f s\n", from, seed,
					seconds_now() - begun);
			fflush(progress);
		}
	}
	printf("%" PRIu64 " seeds (%" PRIu64 " to %" PRIu64 ") without a violation, %.1f s; %" PRIu64
		   " steps, %" PRIu64 " transactions applied, %" PRIu64 " conflicts\n", to - from + 1, from, to,
		   seconds_now() - begun, world.steps, world.applied, world.conflicts);
	return 0;
}

/* Every planted bug has to be found. */
static int
run_plants(uint64_t from)
{
	int			missed = 0;

	for (uint32_t plant = 1; plant < PLANTS; plant++)
	{
		double		begun = seconds_now();
		uint64_t	seed = from;

		world.plant = (Plant) plant;
		while (seed < from + PLANT_SEEDS && run_seed(seed))
			seed++;
		if (seed < from + PLANT_SEEDS)
			printf("%-20s found after %5" PRIu64 " seeds, %5.1f s: %.*s\n", plant_names[plant],
				   seed - from + 1, seconds_now() - begun, 90, world.violation);
		else
			printf("%-20s NOT FOUND in %u seeds, %.1f s (%s)\n", plant_names[plant], PLANT_SEEDS,
				   seconds_now() - begun, plant_texts[plant]);
		fflush(stdout);
		missed += seed == from + PLANT_SEEDS;
	}
	printf("%d of %d planted bugs found\n", PLANTS - 1 - missed, PLANTS - 1);
	return missed != 0;
}

/* Names that do not change. */
static void
setup(void)
{
	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		world.origins[i].id.bytes[0] = (uint8_t) (i + 1);
		world.origins[i].epoch = 1;
	}
}

static int
usage(void)
{
	fprintf(stderr, "usage: sim --seed=N | --seeds=FROM..TO | --plants  [--plant=NAME] [--progress=FILE]\n"
			"planted bugs:\n");
	for (uint32_t i = 1; i < PLANTS; i++)
		fprintf(stderr, "  %-20s %s\n", plant_names[i], plant_texts[i]);
	return 2;
}

int
main(int argc, char **argv)
{
	uint64_t	from = 1;
	uint64_t	to = 0;
	bool		plants = false;
	FILE	   *progress = NULL;

	setup();
	for (int i = 1; i < argc; i++)
	{
		const char *arg = argv[i];

		if (sscanf(arg, "--seeds=%" SCNu64 "..%" SCNu64, &from, &to) == 2)
			continue;
		if (sscanf(arg, "--seed=%" SCNu64, &from) == 1)
		{
			to = from;
			world.verbose = true;
		}
		else if (strcmp(arg, "--plants") == 0)
			plants = true;
		else if (strncmp(arg, "--progress=", 11) == 0)
			progress = fopen(arg + 11, "a");
		else if (strncmp(arg, "--plant=", 8) == 0)
		{
			for (uint32_t p = 1; p < PLANTS; p++)
			{
				if (strcmp(arg + 8, plant_names[p]) == 0)
					world.plant = (Plant) p;
			}
			if (world.plant == PLANT_none)
				return usage();
		}
		else
			return usage();
	}
	if (plants)
		return run_plants(from);
	if (to < from)
		return usage();
	if (!world.verbose)
		return run_many(from, to, progress);
	if (run_seed(from))
	{
		printf("seed %" PRIu64 ": clean after %u ticks\n", from, world.tick);
		return 0;
	}
	world.verbose = false;
	report(from);
	printf("what happens in the shrunk schedule:\n");
	world.verbose = true;
	(void) run_once();
	return 1;
}
