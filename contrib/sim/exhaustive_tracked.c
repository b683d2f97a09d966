/*
 * exhaustive_tracked.c
 *	  Rows made of key sets, kept step by step as the server keeps them.
 *
 * A row changes when a version arrives, when a local client writes it, and when
 * it is looked at again after a local write; it is never made anew from the set
 * alone, since the set forgets what is stable. What the row was before, the set and the newcomer
 * must suffice.
 *
 * What the server does here: src/pg/apply_tracked.c, merge_columns.c,
 * tracked_follow.c.
 */
#include "exhaustive.h"

#define NOBODY (-1)				/* no newcomer: looking again */

static void judge(const History *history, Node *node, int self, int key, int newcomer, Row here);
static bool fold(const P2pKeyVersion *const *standing, uint32_t n, Row *row);
static void merge_column(const History *history, Node *node, int key, int newcomer, Row here,
						 const P2pKeyVersion *const *standing, uint32_t n, Row *row,
						 bool *rewrite);
static void merge_extreme(Merge merge, const P2pKeyVersion *const *standing, uint32_t n, Row *row);
static void merge_count(Node *node, int key, int newcomer, Row here, Row *row);

static const Op *
op_of(const P2pKeyVersion *version)
{
	return version->payload;
}

/* Versions carry stamps in the order of the history; find the transaction again. */
static int
txn_of(const History *history, const P2pKeyVersion *version)
{
	for (int i = 0; i < history->n; i++)
		if (p2p_version_compare(&history->txns[i].version, &version->version) == 0)
			return i;
	return -1;
}

/* Put one operation into the set of its key. */
void
tracked_add(const History *history, Node *node, int txn, const Op *op)
{
	P2pKeySet  *set = &node->sets[op->key];
	const Txn  *t = &history->txns[txn];
	int			epoch = rules_epoch(history, txn);
	P2pKeyVersion version = {
		.version = t->version,
		.step = op->step,
		.op = op->op,
		.deps = t->deps.entries,
		.ndeps = t->deps.count,
		.is_delta = op->op != P2P_OP_DELETE && rules_merge_seen(history, txn) == COUNTER,
		.payload = (void *) (uintptr_t) op
	};

	if (epoch >= 0 && plant != PLANT_no_epochs)
		version.epoch = history->txns[epoch].version;
	(void) p2p_keyset_add(set, &version);
}

int
tracked_index(const P2pKeySet *set, const void *op)
{
	for (uint32_t i = 0; op != NULL && i < set->count; i++)
		if (set->versions[i].payload == op)
			return (int) i;
	return -1;
}

/* Apply a transaction, all but its commit. */
void
tracked_act(const History *history, Node *node, int self, int txn)
{
	const Txn  *t = &history->txns[txn];

	for (int o = 0; t->truncate && o < t->nops; o++)
		tracked_add(history, node, txn, &t->ops[o]);
	for (int o = 0; o < t->nops; o++)
	{
		const Op   *op = &t->ops[o];
		Row		   *row = &node->rows[op->key];
		int			newcomer;
		uint32_t	known;
		Row			here;

		/* the row's writer is waited for, and is in the set then */
		if (row->raw)
			node_capture(history, node, self, row->writer - 1);
		here = *row;
		if (claims && row->image == 0)
			node_capture(history, node, self, history->n - 1);
		if (row->image != 0 || t->truncate || claims)
			node->locked |= (uint8_t) (1u << op->key);
		tracked_add(history, node, txn, op);
		newcomer = tracked_index(&node->sets[op->key], op);
		if (t->truncate && here.image == 0 && plant == PLANT_truncate_rows_only)
			continue;
		judge(history, node, self, op->key, newcomer, here);
		if (here.image != 0 || row->image == 0)
			continue;

		/* stored where there was no row: it is ours now, and undecoded deletes are waited for */
		node->locked |= (uint8_t) (1u << op->key);
		known = node->sets[op->key].count;
		if (plant != PLANT_no_delete_barrier)
			node_capture(history, node, self, history->n - 1);
		if (plant != PLANT_unmoved)
			newcomer = tracked_index(&node->sets[op->key], op);
		if (node->sets[op->key].count > known)
			judge(history, node, self, op->key, newcomer, here);
	}
}

/*
 * Look again at a key that has got a local version. Where there is no row, it may have gone by a
 * delete that is not captured yet.
 */
void
tracked_follow_up(const History *history, Node *node, int self, int key)
{
	if (plant != PLANT_no_follow_up && node->rows[key].image == 0 &&
		plant != PLANT_follow_rows_only)
	{
		if (plant != PLANT_no_delete_barrier)
			node_capture(history, node, self, history->n - 1);
		judge(history, node, self, key, NOBODY, node->rows[key]);
	}
	else if (plant != PLANT_no_follow_up && node->rows[key].raw)
	{
		node_capture(history, node, self, node->rows[key].writer - 1);
		judge(history, node, self, key, NOBODY, node->rows[key]);
	}
	node->touched &= (uint8_t) ~(1u << key);
}

/* Make the row what the set comes to, given what was here and who came. */
static void
judge(const History *history, Node *node, int self, int key, int newcomer, Row here)
{
	Verdict		verdict = tracked_judge(history, node, self, key, newcomer, here);
	Row			row = verdict.row;

	if (row.image == 0)
		row = (Row) {0};
	else if (!verdict.rewrite && row.image == here.image && row.column == here.column)
		return;					/* as it stands here, a client's own or not */
	row.raw = false;
	row.writer = 0;
	node->rows[key] = row;
}

int
tracked_writer(const History *history, const P2pKeyVersion *version)
{
	return version == NULL ? 0 : txn_of(history, version) + 1;
}

Verdict
tracked_judge(const History *history, Node *node, int self, int key, int newcomer, Row here)
{
	P2pKeySet  *set = &node->sets[key];
	const P2pKeyVersion *winner = p2p_keyset_winner(set);
	const P2pKeyVersion *standing[MAX_VERSIONS];
	uint32_t	n = p2p_keyset_standing(set, standing, MAX_VERSIONS);
	Verdict		verdict = {.winner = tracked_writer(history, winner), .row = here};
	bool		foreign;
	Handler		handler;
	Row			folded;

	if (winner == NULL)
		return verdict;
	foreign = newcomer < 0 && history->txns[verdict.winner - 1].origin != self;
	verdict.newcomer_wins = newcomer >= 0 && winner == &set->versions[newcomer];
	if (plant == PLANT_last_arrival && newcomer >= 0)
	{
		winner = &set->versions[newcomer];
		verdict.newcomer_wins = true;
	}
	handler = rules_handler_seen(history, txn_of(history, winner));
	if (plant == PLANT_arrival_handler)
		for (int i = 0; i < history->n; i++)
			if (in(node->applied, i) && history->txns[i].change >= 0 &&
				!setting->changes[history->txns[i].change].is_merge)
				handler = (Handler) setting->changes[history->txns[i].change].to;

	verdict.rewrite = verdict.newcomer_wins;
	if (handler == CUSTOM && n > 1)
	{
		Row			newer = rules_stored(op_of(winner));
		Row			loser = rules_stored(op_of(newcomer < 0 ? winner : &set->versions[newcomer]));
		bool		answers = fold(standing, n, &folded);

		if (plant == PLANT_fold_pairwise && newcomer >= 0)
			answers = verdict.newcomer_wins ? rules_function(&here, &newer, &folded) :
				rules_function(&loser, &here, &folded);
		verdict.rewrite = true;
		verdict.row = answers ? folded : newer;
		verdict.row.column = op_of(winner)->column;
	}
	else if (winner->op == P2P_OP_DELETE)
		verdict.row = (Row) {0};
	else if (here.image == 0 || verdict.newcomer_wins || foreign)
		verdict.row = rules_stored(op_of(winner));
	if (verdict.row.image != 0)
		merge_column(history, node, key, newcomer, here, standing, n, &verdict.row,
					 &verdict.rewrite);
	return verdict;
}

/* Fold f over the standing; false: it raised an error. */
static bool
fold(const P2pKeyVersion *const *standing, uint32_t n, Row *row)
{
	*row = rules_stored(op_of(standing[0]));
	for (uint32_t i = 1; i < n; i++)
	{
		Row			newer = rules_stored(op_of(standing[i]));

		if (!rules_function(row, &newer, row))
			return false;
	}
	return true;
}

/* Set the merged column. */
static void
merge_column(const History *history, Node *node, int key, int newcomer, Row here,
			 const P2pKeyVersion *const *standing, uint32_t n, Row *row, bool *rewrite)
{
	const P2pKeyVersion *winner = standing[n - 1];
	Merge		merge = rules_merge_seen(history, txn_of(history, winner));

	if (merge == MAX || merge == MIN)
	{
		if (plant == PLANT_max_pairwise && here.image != 0 && newcomer >= 0 &&
			op_of(&node->sets[key].versions[newcomer])->op != P2P_OP_DELETE)
		{
			int16_t		column = op_of(&node->sets[key].versions[newcomer])->column;

			row->column = (merge == MAX) == (column > here.column) ? column : here.column;
		}
		else if (n > 1)
		{
			merge_extreme(merge, standing, n, row);
			*rewrite = true;
		}
	}
	else if (rules_may_count())
		merge_count(node, key, newcomer, here, row);
}

static void
merge_extreme(Merge merge, const P2pKeyVersion *const *standing, uint32_t n, Row *row)
{
	bool		any = false;

	for (uint32_t i = 0; i < n; i++)
	{
		const Op   *op = op_of(standing[i]);

		if (op->op == P2P_OP_DELETE)
			continue;
		if (!any || (merge == MAX ? op->column > row->column : op->column < row->column))
			row->column = op->column;
		any = true;
	}
}

/* A counter: what is here, and what the newcomer does to it. */
static void
merge_count(Node *node, int key, int newcomer, Row here, Row *row)
{
	P2pKeySet  *set = &node->sets[key];
	P2pKeyVersion *came = newcomer < 0 ? NULL : &set->versions[newcomer];
	P2pCounterStep step = came == NULL ? P2P_COUNTER_KEEP : p2p_keyset_counter_step(set, came);
	bool		loses = came != NULL && p2p_keyset_winner(set) != came;
	P2pVersion	ancient = {0};
	P2pKeySet	view = *set;
	P2pKeyVersion versions[MAX_VERSIONS];

	if (plant == PLANT_losing_delta && loses && step == P2P_COUNTER_ADD)
		step = P2P_COUNTER_KEEP;
	if (plant == PLANT_losing_delete && loses && came->op == P2P_OP_DELETE)
		step = P2P_COUNTER_KEEP;
	if (plant == PLANT_deleted_deltas && came != NULL && came->is_delta)
		step = P2P_COUNTER_ADD;
	if (plant == PLANT_delete_by_stamp && came != NULL)
	{
		for (uint32_t i = 0; i < set->count; i++)
		{
			versions[i] = set->versions[i];
			versions[i].epoch = ancient;
		}
		view.versions = versions;
		step = p2p_keyset_counter_step(&view, &versions[newcomer]);
	}

	switch (step)
	{
		case P2P_COUNTER_KEEP:
			if (here.image != 0)
				row->column = here.column;
			break;
		case P2P_COUNTER_ADD:
			row->column = (int16_t) ((here.image != 0 ? here.column : 0) + op_of(came)->delta);
			break;
		case P2P_COUNTER_RESTART:
			row->column = came->op == P2P_OP_DELETE ? 0 : op_of(came)->column;
			for (uint32_t i = 0; i < view.count; i++)
				if (p2p_keyset_counts(&view, &view.versions[i]))
					row->column = (int16_t) (row->column + op_of(&view.versions[i])->delta);
			break;
	}
}

/* Are the sets what the rules say, for what they know and have not forgotten? */
bool
tracked_is_right(const History *history, const Node *node, unsigned known)
{
	for (int key = 0; key < n_keys; key++)
	{
		const P2pKeyVersion *standing[MAX_VERSIONS];
		uint32_t	n = p2p_keyset_standing(&node->sets[key], standing, MAX_VERSIONS);
		unsigned	here = 0;

		for (uint32_t i = 0; i < n; i++)
			here |= 1u << txn_of(history, standing[i]);
		if (here != rules_standing(history, known, key))
			return false;
	}
	return true;
}
