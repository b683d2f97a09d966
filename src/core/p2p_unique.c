/*
 * p2p_unique.c
 *	  Second unique keys: which rows stand and which are displaced.
 *
 * The rule: walk the live rows in descending order, keep each unless it
 * conflicts with one already kept. So a row's verdict hangs only on the greater
 * rows that it conflicts with, its greater neighbours:
 *
 *	  kept(row)  =  no greater neighbour of row is kept
 *
 * After an event, verdicts are wrong only where that equation was touched: at rows that
 * changed, at those whose neighbourhood changed, and below a row whose verdict
 * changes. They are judged in descending order. Judging a row can only add lower
 * rows to be judged, so whatever is greater than the row in hand has its final
 * verdict, each row is judged once, and the walk ends.
 *
 *	  judge row --- verdict as before ---> nothing follows
 *	            \-- now kept ------------> its lower neighbours that are kept
 *	            \-- now displaced -------> its lower neighbours that are displaced
 *
 * (A lower neighbour that is displaced stays so when one more row above it is
 * kept; one that is kept stays so when one less is.)
 *
 * What is still to be judged stands in an array in descending order, behind
 * what has been judged: rows are few, and a row that is reached twice is found.
 *
 * Called by apply, in the transaction that brings the event, before its verdicts are
 * carried out; for local writes that free a value, in one of its own.
 */
#include "p2p_unique.h"

#include <assert.h>
#include <string.h>

/* Rows that were reached, in descending order: judged, then to be judged. */
typedef struct Agenda
{
	const P2pUniqueTable *table;
	uint32_t	n;
	uint32_t	judged;
	P2pUniqueRow rows[P2P_UNIQUE_MAX_ROWS];
} Agenda;

/* The other rows that conflict with one. */
typedef struct Neighbours
{
	uint32_t	n;
	P2pUniqueRow rows[P2P_UNIQUE_MAX_ROWS];
} Neighbours;

static P2pStatus agenda_add(Agenda *agenda, P2pUniqueRow row);
static P2pStatus agenda_judge_next(Agenda *agenda);
static P2pStatus find_neighbours(const P2pUniqueTable *table, P2pUniqueRow row,
								 Neighbours *neighbours);
static bool deserves_its_place(const P2pUniqueTable *table, P2pUniqueRow row,
							   const Neighbours *neighbours);
static P2pStatus agenda_add_lower(Agenda *agenda, P2pUniqueRow row, bool kept,
								  const Neighbours *neighbours);

/* Judge the rows anew, and all whose verdict hangs on theirs. */
P2pStatus
p2p_unique_judge(const P2pUniqueTable *table, const P2pUniqueRow *rows, uint32_t n)
{
	Agenda		agenda = {.table = table};
	P2pStatus	status = P2P_OK;

	for (uint32_t i = 0; i < n && status == P2P_OK; i++)
		if (rows[i] != 0)
			status = agenda_add(&agenda, rows[i]);
	while (agenda.judged < agenda.n && status == P2P_OK)
		status = agenda_judge_next(&agenda);
	return status;
}

/* Put a row at its place, unless it is there; P2P_TOO_LARGE if there is no room. */
static P2pStatus
agenda_add(Agenda *agenda, P2pUniqueRow row)
{
	const P2pUniqueTable *table = agenda->table;
	uint32_t	low = 0;
	uint32_t	high = agenda->n;

	while (low < high)
	{
		uint32_t	middle = low + (high - low) / 2;

		if (agenda->rows[middle] == row)
			return P2P_OK;
		if (table->compare(table->arg, agenda->rows[middle], row) > 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (agenda->n == P2P_UNIQUE_MAX_ROWS)
		return P2P_TOO_LARGE;

	/* what has been judged is greater than all that is added after */
	assert(low >= agenda->judged);
	memmove(&agenda->rows[low + 1], &agenda->rows[low],
			(agenda->n - low) * sizeof agenda->rows[0]);
	agenda->rows[low] = row;
	agenda->n++;
	return P2P_OK;
}

/* Judge the greatest row that is still to be judged. */
static P2pStatus
agenda_judge_next(Agenda *agenda)
{
	const P2pUniqueTable *table = agenda->table;
	P2pUniqueRow row = agenda->rows[agenda->judged++];
	Neighbours	neighbours;
	P2pStatus	status = find_neighbours(table, row, &neighbours);
	bool		kept;

	if (status != P2P_OK)
		return status;
	kept = deserves_its_place(table, row, &neighbours);
	if (kept == table->is_kept(table->arg, row))
		return P2P_OK;
	table->set_kept(table->arg, row, kept);
	return agenda_add_lower(agenda, row, kept, &neighbours);
}

/* Find the neighbours of a row; P2P_TOO_LARGE if there are too many. */
static P2pStatus
find_neighbours(const P2pUniqueTable *table, P2pUniqueRow row, Neighbours *neighbours)
{
	neighbours->n = table->neighbours(table->arg, row, neighbours->rows, P2P_UNIQUE_MAX_ROWS);
	return neighbours->n > P2P_UNIQUE_MAX_ROWS ? P2P_TOO_LARGE : P2P_OK;
}

/* Is no greater neighbour of row kept? */
static bool
deserves_its_place(const P2pUniqueTable *table, P2pUniqueRow row, const Neighbours *neighbours)
{
	for (uint32_t i = 0; i < neighbours->n; i++)
		if (table->compare(table->arg, neighbours->rows[i], row) > 0 &&
			table->is_kept(table->arg, neighbours->rows[i]))
			return false;
	return true;
}

/* Row's verdict has changed: those below it on which that can tell are to be judged. */
static P2pStatus
agenda_add_lower(Agenda *agenda, P2pUniqueRow row, bool kept, const Neighbours *neighbours)
{
	const P2pUniqueTable *table = agenda->table;

	for (uint32_t i = 0; i < neighbours->n; i++)
	{
		P2pUniqueRow other = neighbours->rows[i];
		P2pStatus	status;

		if (table->compare(table->arg, other, row) > 0 ||
			table->is_kept(table->arg, other) != kept)
			continue;
		status = agenda_add(agenda, other);
		if (status != P2P_OK)
			return status;
	}
	return P2P_OK;
}
