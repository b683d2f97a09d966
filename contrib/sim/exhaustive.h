/*
 * exhaustive.h
 *	  All histories of a few transactions, tried one by one: what the files of
 *	  that program hand to one another.
 *
 *	  exhaustive.c			makes the histories and reports
 *	  exhaustive_rules.c	what a history comes to, by definition (no core code)
 *	  exhaustive_node.c		every schedule of one node, kept as the server keeps rows
 *	  exhaustive_tracked.c	rows made of key sets (core: p2p_keyset)
 *	  exhaustive_unique.c	rows and displaced rows (core: p2p_resolve, p2p_unique)
 */
#ifndef EXHAUSTIVE_H
#define EXHAUSTIVE_H

#include "p2p_keyset.h"
#include "p2p_unique.h"

#define MAX_TXNS 6
#define MAX_KEYS 3
#define MAX_NODES 3
#define MAX_OPS 3				/* of one transaction */
#define MAX_VERSIONS (2 * MAX_TXNS)	/* of one key */

#define ANCIENT_IMAGE 200		/* of the rows that were there before */
#define ANCIENT_COLUMN 1000

/* ---- what a table does ---- */

typedef enum Handler
{
	LAST_WRITER_WINS,
	VECTOR_CLOCK,
	CUSTOM
} Handler;

typedef enum Merge
{
	NO_MERGE,
	COUNTER,
	MAX,
	MIN
} Merge;

/* One kind of table, and what is tried on it. */
typedef struct Setting
{
	const char *name;
	bool		tracked;		/* rows are made of key sets; else p2p_resolve */
	bool		unique;			/* has unique columns */
	Handler		handler;
	Merge		merge;
	int			variants;		/* of what is stored: 1, or 2 */
	int			unique_columns;
	bool		refused;		/* tried only if named */
	/* handler changes that transactions may make */
	int			nchanges;
	struct
	{
		bool		is_merge;
		int			to;
	}			changes[3];
} Setting;

/* Mistakes, to see that they are found. One word each on the command line. */
#define PLANTS(X) \
	X(no_floor, "the floor is not raised before apply looks") \
	X(all_acked, "forgotten once all have it, though older writes of theirs may be on the way") \
	X(last_arrival, "whoever comes last stands") \
	X(no_tombstone, "deletes are not remembered") \
	X(no_delete_barrier, "undecoded local deletes are not waited for after an insert") \
	X(siblings_by_stamp, "what is lower than a local write counts as covered") \
	X(fold_pairwise, "custom folds the newcomer into the row") \
	X(no_follow_up, "a row is not folded again after a local write") \
	X(sweep_before_follow_up, "stable versions are dropped though rows are to be folded again") \
	X(follow_rows_only, "a key without a row is not looked at again after a local write") \
	X(lost_touch, "which keys without a row are to be looked at again is lost in a crash") \
	X(truncate_rows_only, "a truncate judges the rows that are here, not the sets") \
	X(losing_delta, "the delta of a version that loses is not added") \
	X(losing_delete, "a delete that loses leaves a counter as it is") \
	X(deleted_deltas, "deltas count whatever was deleted") \
	X(max_pairwise, "max and min compare row and newcomer") \
	X(no_epochs, "versions are compared by stamp alone") \
	X(delete_by_stamp, "where a counter restarts is found by stamp alone") \
	X(arrival_handler, "a conflict is judged by the handler set here on arrival") \
	X(no_chain, "only the newcomer and its neighbours are judged") \
	X(drop_loser, "a displaced row is thrown away") \
	X(no_pins, "a row that displaces another becomes older than everything once stable")

typedef enum Plant
{
	NOTHING,
#define PLANT_NAME(name, text) PLANT_##name,
	PLANTS(PLANT_NAME)
#undef PLANT_NAME
	N_PLANTS
} Plant;

extern const Setting *setting;
extern Plant plant;
extern int n_keys;
extern bool claims;				/* apply holds a key without a row, too */

/* ---- histories ---- */

/* One operation on one key, recorded by its origin. */
typedef struct Op
{
	uint8_t		key;
	uint8_t		step;
	P2pOp		op;
	uint8_t		image;			/* 1 .. 250: all columns but the merged one */
	int16_t		column;			/* the merged one */
	int16_t		delta;			/* what was added to it */
	uint8_t		unique[2];		/* 0: NULL */
} Op;

typedef struct Txn
{
	uint8_t		origin;
	unsigned	past;			/* bit i: has seen transaction i; itself not */
	bool		truncate;
	int			change;			/* of the setting's; -1: none */
	int			nops;
	Op			ops[MAX_OPS];
	const char *text;			/* what it does, to which key, and how */
	int			key;
	int			variant;
	P2pVersion	version;
	P2pVector	deps;
} Txn;

/* Transactions in the order of their versions. */
typedef struct History
{
	int			n;
	bool		old_rows;		/* every key had a row before */
	Txn			txns[MAX_TXNS];
} History;

/* The row of a key; image 0: there is none. */
typedef struct Row
{
	uint8_t		image;
	uint8_t		writer;			/* transaction + 1 that wrote it, if it was one; 0: older */
	bool		raw;			/* as a local client left it */
	bool		displaced;
	int16_t		column;
} Row;

static inline bool
in(unsigned set, int i)
{
	return (set >> i & 1) != 0;
}

/* ---- exhaustive_rules.c: by definition ---- */

/* The greatest handler change in the past of transaction i; -1: none. */
int			rules_epoch(const History *history, int i);
/* Does transaction i know the merged column as this? */
Merge		rules_merge_seen(const History *history, int i);
Handler		rules_handler_seen(const History *history, int i);
/* Has the column ever been a counter in this setting? */
bool		rules_may_count(void);
/* f of two images, 0 = NULL; -1: it raises an error. */
int			rules_function(int older, int newer);
/* What the key is once the transactions in set are applied. Not for unique. */
Row			rules_row(const History *history, unsigned set, int key);
/* Which rows are kept and displaced once the transactions in set are applied. */
void		rules_unique(const History *history, unsigned set, Row rows[MAX_KEYS]);
/* The standing versions of a key, as a set of transactions. */
unsigned	rules_standing(const History *history, unsigned set, int key);
bool		rules_conflict(const Op *a, const Op *b);
/* What a row says: that of transaction writer - 1, or (0) the one that was there before. */
const Op   *rules_row_op(const History *history, int writer, int key);

/* ---- exhaustive_node.c ---- */

/* A node. What decides how it goes on stands before the sets, without holes. */
typedef struct Node
{
	uint8_t		applied;		/* committed here, in the order of the WAL */
	uint8_t		captured;		/* of its own, known to the sets */
	uint8_t		forgotten;		/* stable, and dropped */
	uint8_t		acting;			/* transaction + 1 being applied */
	uint8_t		begun;			/* greatest transaction + 1 that apply has begun: the floor */
	uint8_t		locked;			/* keys, by what is being applied */
	uint8_t		touched;		/* keys with a local version that are to be looked at again */
	uint8_t		pinned;			/* keys whose exact version is kept for good */
	uint8_t		tombstone[MAX_KEYS]; /* transaction + 1 */
	uint8_t		pad[3];
	uint16_t	covered[MAX_KEYS];	/* in the sets: bit 2 * transaction + (step & 1) */
	Row			rows[MAX_KEYS];
	P2pKeySet	sets[MAX_KEYS];
	P2pKeyVersion versions[MAX_KEYS][MAX_VERSIONS];
} Node;

typedef struct Counts
{
	unsigned long made;			/* histories */
	unsigned long histories;	/* of these, tried */
	unsigned long states;		/* of nodes */
	unsigned long ends;			/* states in which all has come */
} Counts;

extern Counts counts;

/* Try every schedule of node `self`; false: it is not what the rules say, and *where tells when. */
bool		node_try_all(const History *history, int self, char *where, size_t size);
/* The transactions that the sets must hold. */
unsigned	node_known(const History *history, const Node *node, int self);
/* Have capture read all local transactions up to i. */
void		node_capture(const History *history, Node *node, int self, int i);

/* ---- exhaustive_tracked.c ---- */
void		tracked_add(const History *history, Node *node, int txn, const Op *op);
void		tracked_act(const History *history, Node *node, int self, int txn);
void		tracked_follow_up(const History *history, Node *node, int self, int key);
bool		tracked_is_right(const History *history, const Node *node, unsigned known);

/* ---- exhaustive_unique.c ---- */
void		unique_act(const History *history, Node *node, int txn);
bool		unique_may_write(const History *history, const Node *node, int txn);
void		unique_write(const History *history, Node *node, int txn);
void		unique_follow_up(const History *history, Node *node);
void		unique_forget(const History *history, Node *node, unsigned forgotten);
bool		unique_is_right(const History *history, const Node *node);

#endif							/* EXHAUSTIVE_H */
