/*
 * keyindex.c
 *	  The model of src/pg/keyindex.c: tombstones, truncates, versions of copied
 *	  rows; in apply's memory, made anew from the logs at its start.
 */
#include "sim.h"

#include <string.h>

#include "p2p_stamp.h"

static void transaction_note(Node *node, const Captured *t, uint32_t origin, bool copied);

/* Remember a version if it is not less than what is there. */
void
keyindex_put(KeyEntry *entry, const P2pVersion *version, bool is_row)
{
	if (entry->there && p2p_version_compare(&entry->version, version) > 0)
		return;
	*entry = (KeyEntry) {.there = true, .is_row = is_row, .version = *version};
}

/* The deletes of apply's transaction become tombstones. */
void
keyindex_remember(Node *node)
{
	Apply	   *a = &node->apply;

	for (uint32_t t = 0; t < NTABLES; t++)
	{
		if (a->truncated[t])
			keyindex_put(&a->truncates[t], &a->version, false);
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (a->deleted[t][k])
				keyindex_put(&a->keys[t][k], &a->version, false);
		}
	}
}

/* The greater of a key's tombstone and its table's truncate. */
bool
keyindex_tombstone(const Node *node, uint32_t table, uint32_t key, P2pVersion *version)
{
	const KeyEntry *entry = &node->apply.keys[table][key];
	const KeyEntry *truncate = &node->apply.truncates[table];
	bool		found = false;

	if (entry->there && !entry->is_row)
	{
		*version = entry->version;
		found = true;
	}
	if (truncate->there && (!found || p2p_version_compare(version, &truncate->version) < 0))
	{
		*version = truncate->version;
		found = true;
	}
	return found;
}

/* Read all logs, up to what is applied; false: the own one is not all there yet. */
bool
keyindex_load(Node *node)
{
	Apply	   *a = &node->apply;
	uint32_t	own_oldest = log_oldest(&node->logs[node->index]);

	memset(a->keys, 0, sizeof(a->keys));
	memset(a->truncates, 0, sizeof(a->truncates));
	a->own_seq = own_oldest > 0 ? own_oldest - 1 : 0;
	a->deletes_known_to = node->shared.captured_lsn;
	for (uint32_t origin = 0; origin < world.nnodes; origin++)
	{
		const Log  *log = &node->logs[origin];

		if (origin == node->index)
			continue;
		for (uint32_t b = log->first; b < log->count; b++)
		{
			for (uint32_t i = 0; i < log->batches[b]->count; i++)
			{
				const Captured *t = log->batches[b]->transactions[i];
				bool		copied = t->seq <= node->shared.required[origin];

				if (t->seq <= a->applied[origin] && (copied || !PLANTED(forgotten_tombstones)))
					transaction_note(node, t, origin, copied);
			}
		}
	}
	if (!PLANTED(forgotten_tombstones))
		return keyindex_follow_own(node, node->shared.captured[node->index]);
	a->own_seq = node->shared.captured[node->index];
	return true;
}

/* Note the own transactions up to limit; false: capture has yet to make some of them again. */
bool
keyindex_follow_own(Node *node, uint32_t limit)
{
	Apply	   *a = &node->apply;

	while (a->own_seq < limit)
	{
		if (a->own_seq >= node->logs[node->index].cursor.seq && !PLANTED(unmade_own))
			return false;
		const Captured *t = log_find(&node->logs[node->index], ++a->own_seq);

		if (t != NULL)			/* else trimmed, so stable */
			transaction_note(node, t, node->index, false);
	}
	return true;
}

/* What a transaction of a log says of its keys. */
static void
transaction_note(Node *node, const Captured *t, uint32_t origin, bool copied)
{
	Apply	   *a = &node->apply;
	P2pVersion	version = {.stamp = t->stamp};
	SubOp		subops[MAX_SUBOPS];
	uint32_t	n = subops_of(t->local, subops);

	version.dot.origin = world.origins[origin];
	version.dot.seq = t->seq;
	for (uint32_t i = 0; i < n; i++)
	{
		const SubOp *subop = &subops[i];

		switch ((OpKind) subop->kind)
		{
			case OP_DELETE:
				keyindex_put(&a->keys[subop->table][subop->key], &version, false);
				break;
			case OP_INSERT:
			case OP_UPDATE:
				if (copied)
					keyindex_put(&a->keys[subop->table][subop->key], &version, true);
				break;
			case OP_TRUNCATE:
				if (!PLANTED(forgotten_truncates))
					keyindex_put(&a->truncates[subop->table], &version, false);
				break;
			case OP_MOVE:
			case OP_ADMIT:
			case OP_LEAVE:
			case OP_EVICT:
			case OP_FREEZE:
				break;
		}
	}
}

/* Forget an entry that is stable. */
static void
entry_sweep(Node *node, KeyEntry *entry)
{
	uint32_t	origin = entry->version.dot.origin.id.bytes[0] - 1u;
	uint32_t	limit = node->shared.stable[origin];

	if (PLANTED(short_tombstones))
		limit = node->shared.captured[origin];
	if (!entry->there || entry->version.dot.seq > limit)
		return;
	check_dropped(node, &entry->version);
	entry->there = false;
}

/* Forget what is stable. */
void
keyindex_sweep(Node *node)
{
	for (uint32_t t = 0; t < NTABLES; t++)
	{
		if (node->apply.truncates[t].there)
			entry_sweep(node, &node->apply.truncates[t]);
		for (uint32_t k = 0; k < MAX_KEYS; k++)
		{
			if (node->apply.keys[t][k].there)
				entry_sweep(node, &node->apply.keys[t][k]);
		}
	}
}
