/*
 * p2p_unique.h
 *	  Second unique keys: which rows stand and which are displaced.
 *
 * Input are the live rows: the winner of every primary key. Walk them in
 * descending order of version and keep each unless it conflicts in any unique
 * index with one already kept: the rest is displaced. That is a function of
 * the set of rows alone. This does it step by step: after a row has come,
 * changed or gone, only rows whose verdict may have changed are looked at.
 */
#ifndef P2P_UNIQUE_H
#define P2P_UNIQUE_H

#include "p2p_types.h"

/* Rows in one re-check; a chain longer than that is refused. */
#define P2P_UNIQUE_MAX_ROWS 1024

/* A live row, by a handle that is the caller's; 0 is none. */
typedef uint64_t P2pUniqueRow;

typedef struct P2pUniqueTable
{
	void	   *arg;
	/*
	 * Order of versions: < 0, 0, > 0; 0 only for the same row: rows of one
	 * transaction differ by step, those older than everything by anything
	 * fixed, such as the handle (none of them conflict). The order of two rows
	 * that conflict must never turn: a row that has displaced another keeps its
	 * exact version, also when that is stable, for as long as they conflict. As
	 * "older than everything" it would lose to what it had displaced, and
	 * sooner on one node than on another.
	 */
	int			(*compare) (void *arg, P2pUniqueRow a, P2pUniqueRow b);
	/* The verdict as it is, those noted by set_kept included. Not kept: a row that has just come. */
	bool		(*is_kept) (void *arg, P2pUniqueRow row);
	/*
	 * The other live rows, kept or displaced, that conflict with row in any unique
	 * index, each once. Returns how many there are; writes at most max.
	 */
	uint32_t	(*neighbours) (void *arg, P2pUniqueRow row, P2pUniqueRow *out, uint32_t max);
	/* Note the verdict; carried out by the caller afterwards, displaced ones first. */
	void		(*set_kept) (void *arg, P2pUniqueRow row, bool kept);
} P2pUniqueTable;

/*
 * Judge the rows anew: those that changed or came, and those that conflicted
 * with the old or new values of what changed or went. They may be in any order, and twice.
 * Calls set_kept only for rows whose verdict changes, once, the greatest first.
 * P2P_TOO_LARGE if more than P2P_UNIQUE_MAX_ROWS are reached (some
 * verdicts may have been noted; the caller rolls back).
 */
P2pStatus	p2p_unique_judge(const P2pUniqueTable *table, const P2pUniqueRow *rows, uint32_t n);

#endif							/* P2P_UNIQUE_H */
