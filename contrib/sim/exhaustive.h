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
 *	  exhaustive_both.c		rows made of key sets, and displaced ones of these
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

/* What a row claims in its table's one unique index, where rows are made of key sets. */
typedef enum Claim
{
	CLAIM_UNIQUE,				/* its unique column */
	CLAIM_COLUMN,				/* the merged one */
	CLAIM_WHERE					/* its unique column, if the merged one is 2 or more */
} Claim;

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
	Claim		claim;			/* if it is both tracked and unique */
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
	X(no_floor, "no note says before apply looks with which stamp it does") \
	X(late_floor, "the note stands behind the look-ups of what it is for") \
	X(floor_as_read, "the floor is that of the moment when capture reads, not that of the WAL's order") \
	X(unmoved, "what is applied is looked for where it was before lower local versions were read") \
	X(unread_truncate, "a displaced row is added to before local truncates of it are read") \
	X(no_batch_note, "what its log may yet lose is applied without a note of its batch") \
	X(unread_batch_notes, "logs are read after a power loss before noted batches are back in them") \
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
	X(no_pins, "a row that displaces another becomes older than everything once stable") \
	X(low_winner, "a row that displaces another has the version that is left in its key's set") \
	X(late_count, "what capture has read while a row was stored is not judged") \
	X(truncate_displaced, "a truncate removes displaced rows by their versions") \
	X(early_superseded, "who has written over a displaced row is not waited for") \
	X(fold_winner, "a row that came back under this node's version is folded again") \
	X(unheld, "clients may insert a key while its row is being displaced") \
	X(late_pin, "a row that comes back is not pinned before the walk has met whom it displaces") \
	X(lost_count, "what a displaced row has counted is lost if who wrote over it is displaced, too") \
	X(delete_of_old, "a row that comes back is taken for deleted by its version alone") \
	X(truncate_of_old, "a local truncate supersedes displaced rows by their versions alone") \
	X(known_notes, "what was known when a row was displaced is noted again after a restart") \
	X(late_notes, "a displaced row counts though a local write has superseded it") \
	X(lost_pin, "a walk takes away pins that are still needed") \
	X(tie_in_hand, "of two rows of one transaction the one in hand counts as the greater") \
	X(no_notes, "a displaced row stays though a client has written its key anew") \
	X(lost_dirty, "that displaced rows are to be judged is lost in a crash")

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
	uint8_t		unique[2];		/* only where a setting is both tracked and unique */
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
/* f of two rows, image 0 = NULL, into *result; false: it raises an error. */
bool		rules_function(const Row *older, const Row *newer, Row *result);
/* The row that an operation stores; image 0: it deletes. */
Row			rules_stored(const Op *op);
/* What the key is once the transactions in set are applied. Not for unique. */
Row			rules_row(const History *history, unsigned set, int key);
/* Which rows are kept and displaced once the transactions in set are applied. */
void		rules_unique(const History *history, unsigned set, Row rows[MAX_KEYS]);
/* The standing versions of a key, as a set of transactions. */
unsigned	rules_standing(const History *history, unsigned set, int key);
bool		rules_conflict(const Op *a, const Op *b);
/* The same of a setting that is both: the rows by rules_row, and their places; writer: of their version, 0: ancient. */
void		rules_both(const History *history, unsigned set, Row rows[MAX_KEYS]);
/* Do two of these rows claim one value? */
bool		rules_rows_conflict(const Row *a, const Row *b);
/* What they claim; 0: nothing. */
int			rules_claim(const Row *row);
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
	uint8_t		begun;			/* greatest transaction + 1 that apply has noted in the WAL: the floor */
	uint8_t		batch_noted;	/* of others: commits with their batches in front of them in the WAL */
	uint8_t		out;			/* own transaction + 1 that others have, and the own log has lost; 0: none yet */
	bool		forked;			/* it was read again, and came out differently */
	bool		gone;			/* something is applied that neither the logs nor the WAL have */
	uint8_t		locked;			/* keys, by what is being applied */
	uint8_t		touched;		/* keys with a local version that are to be looked at again */
	uint8_t		pinned;			/* keys whose exact version is kept for good */
	uint8_t		tombstone[MAX_KEYS]; /* transaction + 1 */
	/* of settings that are both tracked and unique: exhaustive_both.c */
	uint8_t		values_locked;	/* unique values in work, as bits */
	bool		may_displace;	/* there may be displaced rows */
	bool		holds;			/* so nothing is dropped that was not rechecked */
	bool		dirty;			/* they are to be judged */
	uint8_t		may_be_displaced;	/* keys: the filter */
	uint8_t		rechecked;		/* transactions after which displaced rows were judged */
	uint8_t		noted[MAX_KEYS];	/* transaction + 1 that wrote over a displaced row */
	uint8_t		noted_all;		/* the same of a truncate */
	uint8_t		known_to[MAX_KEYS];	/* of a displaced row: own transactions that were captured by then */
	uint8_t		pins[MAX_KEYS]; /* transaction + 1 */
	Row			displaced[MAX_KEYS];	/* writer: its version */
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
/* Have capture read all local transactions up to i, and sync them. */
void		node_capture(const History *history, Node *node, int self, int i);

/* ---- exhaustive_tracked.c ---- */
void		tracked_add(const History *history, Node *node, int txn, const Op *op);
/* Where in a set is the version of this operation (NULL: of none)? -1: nowhere. */
int			tracked_index(const P2pKeySet *set, const void *op);
void		tracked_act(const History *history, Node *node, int self, int txn);
void		tracked_follow_up(const History *history, Node *node, int self, int key);
bool		tracked_is_right(const History *history, const Node *node, unsigned known);
/* What the set of a key comes to, given what is here and who came (index in the set; -1: nobody). */
typedef struct Verdict
{
	int			winner;			/* transaction + 1; 0: the set is empty */
	bool		newcomer_wins;
	bool		rewrite;		/* stored even if it is the same */
	Row			row;
} Verdict;

Verdict		tracked_judge(const History *history, Node *node, int self, int key, int newcomer,
						  Row here);
/* The transaction of a version of a set, + 1. */
int			tracked_writer(const History *history, const P2pKeyVersion *version);

/* ---- exhaustive_unique.c ---- */
void		unique_act(const History *history, Node *node, int txn);
bool		unique_may_write(const History *history, const Node *node, int txn);
void		unique_write(const History *history, Node *node, int txn);
void		unique_follow_up(const History *history, Node *node);
void		unique_forget(const History *history, Node *node, unsigned forgotten);
bool		unique_is_right(const History *history, const Node *node);

/* ---- exhaustive_both.c ---- */
static inline bool
is_both(void)
{
	return setting->tracked && setting->unique;
}

void		both_act(const History *history, Node *node, int self, int txn);
bool		both_may_write(const History *history, const Node *node, int txn);
void		both_write(const History *history, Node *node, int txn);
/* Capture has read a local operation, which is in the set of its key; contested: it was so before. */
unsigned	both_is_left(const History *history, const Node *node, unsigned own);
void		both_captured(const History *history, Node *node, int txn, const Op *op, bool contested);
void		both_follow_up(const History *history, Node *node, int self, int key);
/* Judge displaced rows again; partly: until one comes back. */
void		both_walk(const History *history, Node *node, int self, bool partly);
bool		both_is_to_walk(const Node *node, unsigned own);
unsigned	both_may_forget(const History *history, const Node *node, unsigned own, unsigned stable);
/* After a crash: what is not in tables is made anew from the logs. */
void		both_restart(const History *history, Node *node, unsigned logged, unsigned own);
bool		both_is_contested(const Node *node, int key);
bool		both_is_quiet(const Node *node);
bool		both_is_right(const History *history, const Node *node);

#endif							/* EXHAUSTIVE_H */
