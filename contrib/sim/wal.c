/*
 * wal.c
 *	  A node's server: its WAL, what is committed, what a crash leaves.
 *
 * The WAL is an array of commit records, marks and notes; LSN n is the end of record
 * n - 1. What stands before the flush pointer survives. The tables, and what
 * the catalog says of members, are kept twice: as they are, and (disk) as the
 * flushed WAL makes them, which is what a crash goes back to. xids are given out
 * again after a crash from the first one that no flushed record names.
 *
 * A crash of the server alone keeps what was written to files; a crash of the
 * machine loses what was not synced, the version index entry by entry, as the
 * system happens to have written back its pages.
 */
#include "sim.h"

#include <string.h>

static void effect_apply(const Effect *effect, uint32_t xid, Row *row, Catalog *catalog);
static void record_to_disk(Node *node, const Wal *record);

/* Make a node that has nothing. */
void
node_init(Node *node, uint32_t index, uint8_t status)
{
	for (uint32_t i = 0; i < node->nversions; i++)
		node->versions[i].origin = NONE;
	for (uint32_t i = node->nversions; i < MAX_XIDS && node->nversions == 0; i++)
		node->versions[i].origin = NONE;
	node->nversions = 1;
	node->trimmed_xid = 0;
	node->index = (uint8_t) index;
	node->status = status;
	node->up = status != STATUS_UNBORN;
	node->life = 0;
	node->clock_offset = 0;
	node->clock_drift = 0;
	memset(node->cells, 0, sizeof(node->cells));
	memset(node->table_lock, 0, sizeof(node->table_lock));
	memset(&node->catalog, 0, sizeof(node->catalog));
	node->next_xid = 3;
	node->nwal = node->flushed = 0;
	for (uint32_t i = 0; i < MAX_NODES; i++)
	{
		Log		   *log = &node->logs[i];

		log->open = false;
		log->first = log->count = log->synced = 0;
		p2p_cursor_init(&log->cursor);
	}
	memset(&node->disk, 0, sizeof(node->disk));
	node->disk.next_xid = 3;
	node->disk.status = status;
	memset(&node->join, 0, sizeof(node->join));
	memset(node->sessions, 0, sizeof(node->sessions));
	node->nqueued = 0;
	memset(node->top, 0, sizeof(node->top));
	memset(node->base_top, 0, sizeof(node->base_top));
	memset(node->base_vector, 0, sizeof(node->base_vector));
	node->base_greatest = 0;
	memset(node->wal_vector, 0, sizeof(node->wal_vector));
	node->wal_greatest = 0;
	node->leave_barrier = 0;
	memset(node->leave_deps, 0, sizeof(node->leave_deps));
	node->armed = ARM_NONE;
	memset(node->paused, 0, sizeof(node->paused));
}

/* Append a record; returns its end. The truth about it is noted beside. */
uint32_t
wal_insert(Node *node, const Wal *record)
{
	Wal		   *w = &node->wal[node->nwal];

	if (node->nwal == MAX_WAL)
		violation("limit: the WAL of node %u is full", node->index);
	*w = *record;
	if (w->kind == WAL_LOCAL)
	{
		Local	   *local = w->local;

		memcpy(local->past, node->wal_vector, sizeof(local->past));
		local->ordinal = ++node->wal_vector[node->index];
		check_local_commit(node, local);
		top_raise(node, local);
	}
	else if (w->kind == WAL_REMOTE)
	{
		check_progress(node, w->origin, w->seq);
		node->wal_vector[w->origin] = w->seq;
		if (w->stamp > node->wal_greatest)
			node->wal_greatest = w->stamp;
		top_raise(node, w->local);
	}
	memcpy(w->vector, node->wal_vector, sizeof(w->vector));
	w->greatest = node->wal_greatest;
	return ++node->nwal;
}

/* Flush up to an LSN. */
void
wal_flush(Node *node, uint32_t lsn)
{
	while (node->flushed < lsn)
		record_to_disk(node, &node->wal[node->flushed++]);
}

/* What a flushed record makes of the disk. */
static void
record_to_disk(Node *node, const Wal *record)
{
	Disk	   *disk = &node->disk;

	for (uint32_t i = 0; i < record->neffects; i++)
	{
		const Effect *e = &record->effects[i];

		effect_apply(e, record->xid, e->what <= EFFECT_GONE ? &disk->rows[e->table][e->key] : NULL,
					 &disk->catalog);
	}
	if (record->xid >= disk->next_xid)
		disk->next_xid = record->xid + 1;
	if (record->kind != WAL_LOCAL)
		return;
	record->local->flushed = true;
	if (world.nflushed[node->index] == MAX_SEQ)
		violation("limit: too many transactions of node %u", node->index);
	world.flushed[node->index][world.nflushed[node->index]++] = record->local;
}

/* Carry out one effect. */
static void
effect_apply(const Effect *effect, uint32_t xid, Row *row, Catalog *catalog)
{
	switch (effect->what)
	{
		case EFFECT_ROW:
			row->exists = true;
			row->xid = xid;
			row->value = effect->value;
			row->truth = effect->truth;
			break;
		case EFFECT_GONE:
			row->exists = false;
			break;
		case EFFECT_ADMIT:
			if (catalog->members[effect->key] == MEMBER_FREE)
				catalog->members[effect->key] = MEMBER_ADMITTED;
			break;
		case EFFECT_LEAVE:
			catalog->members[effect->key] = MEMBER_LEFT;
			catalog->left_seq[effect->key] = effect->value;
			break;
		case EFFECT_EVICT:
			if (catalog->members[effect->key] == MEMBER_ADMITTED)
				catalog->members[effect->key] = MEMBER_EVICTED;
			break;
		case EFFECT_FREEZE:
			if (catalog->frozen[effect->table][effect->key] <= effect->value)
				catalog->frozen[effect->table][effect->key] = effect->value + 1;
			break;
	}
}

/* Make a commit's effects visible. */
void
effects_show(Node *node, const Effect *effects, uint32_t n, uint32_t xid)
{
	for (uint32_t i = 0; i < n; i++)
	{
		const Effect *e = &effects[i];

		if (e->what > EFFECT_GONE)
			node->shared.wanted_generation++;
		effect_apply(e, xid, e->what <= EFFECT_GONE ? &node->cells[e->table][e->key].row : NULL,
					 &node->catalog);
		if (e->what == EFFECT_EVICT && e->key == node->index)
			evict_hear(node, "by a stream");
	}
}

/* Find again what is the greatest applied version of each key, from the WAL. */
void
tops_rebuild(Node *node)
{
	memcpy(node->top, node->base_top, sizeof(node->top));
	for (uint32_t i = 0; i < world.nflushed[node->index]; i++)
	{
		Local	   *local = world.flushed[node->index][i];

		if (!local->registered && !local->is_out)
			memset(&local->version, 0, sizeof(local->version));
	}
	for (uint32_t i = 0; i < node->nwal; i++)
	{
		if (node->wal[i].local != NULL)
			top_raise(node, node->wal[i].local);
	}
}

/* Stop at once. Everything in memory is lost, and what no disk has. */
void
node_crash(Node *node, bool power)
{
	TRACE("node %u crashes%s: WAL %u of %u survives", node->index, power ? " (power)" : "",
		  node->flushed, node->nwal);
	for (uint32_t i = node->flushed; i < node->nwal; i++)
	{
		if (node->wal[i].kind == WAL_LOCAL)
			node->wal[i].local->lost = true;
	}
	node->up = false;
	node->armed = ARM_NONE;
	node->life++;
	node->nwal = node->flushed;
	node->next_xid = node->disk.next_xid;
	node->status = node->disk.status;
	memset(node->cells, 0, sizeof(node->cells));
	memset(node->table_lock, 0, sizeof(node->table_lock));
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		for (uint32_t k = 0; k < MAX_KEYS; k++)
			node->cells[t][k].row = node->disk.rows[t][k];
	}
	node->catalog = node->disk.catalog;
	memset(node->sessions, 0, sizeof(node->sessions));
	node->nqueued = 0;
	memcpy(node->wal_vector, node->nwal > 0 ? node->wal[node->nwal - 1].vector : node->base_vector,
		   sizeof(node->wal_vector));
	node->wal_greatest = node->nwal > 0 ? node->wal[node->nwal - 1].greatest : node->base_greatest;
	log_recover(node, power);
	for (uint32_t i = 0; power && i < node->nversions; i++)
	{
		if (!node->versions[i].synced && random_chance(&node->random, 50))
			node->versions[i].origin = NONE;
	}
	if (node->join.stage != JOIN_DONE && node->join.stage != JOIN_NONE)
		node->join.stage = JOIN_CONNECTS;
	tops_rebuild(node);
}

/* Start after a crash, or for the first time. */
void
node_start(Node *node)
{
	TRACE("node %u starts", node->index);
	node->up = true;
	memset(&node->shared, 0, sizeof(node->shared));
	capture_stop(node);
	gossip_stop(node);
	apply_stop(node);
	node->leave_barrier = 0;
	memset(node->leave_deps, 0, sizeof(node->leave_deps));
	node->shared.wanted_generation = 1;
	members_load(node);
}

/* Have shared memory say what the catalog says. */
void
members_load(Node *node)
{
	Shared	   *shared = &node->shared;

	shared->loaded_generation = shared->wanted_generation;
	shared->catalog = node->catalog;
	memcpy(shared->required, node->disk.required, sizeof(shared->required));
	for (uint32_t i = 0; i < world.nnodes; i++)
	{
		if (i != node->index && shared->applied[i] < node->wal_vector[i])
			shared->applied[i] = node->wal_vector[i] - (PLANTED(lost_progress) &&
														shared->loaded_generation == 1);
	}
}

/* The least xid that is in work; none: the next one. */
uint32_t
oldest_running(const Node *node)
{
	uint32_t	oldest = node->next_xid;

	for (uint32_t i = 0; i < MAX_SESSIONS; i++)
	{
		const Session *s = &node->sessions[i];

		if (s->phase != SESSION_FREE && s->xid != 0 && s->xid < oldest)
			oldest = s->xid;
	}
	if (node->apply.stage == APPLY_WORKS && node->apply.xid < oldest)
		oldest = node->apply.xid;
	if (node->join.stage > JOIN_ADMITTED && node->join.stage < JOIN_DONE && node->join.xid != 0 &&
		node->join.xid < oldest)
		oldest = node->join.xid;
	return oldest;
}

/* Put a version entry; one that is there stays, as capture repeats what apply has put. */
void
versions_put(Node *node, uint32_t xid, uint32_t origin, uint32_t seq, P2pStamp stamp)
{
	VersionEntry *entry = &node->versions[xid];

	if (xid >= MAX_XIDS)
		violation("limit: too many xids on node %u", node->index);
	while (node->nversions <= xid)
		node->versions[node->nversions++].origin = NONE;
	*entry = (VersionEntry) {.origin = (uint8_t) origin, .seq = seq, .stamp = stamp};
}
