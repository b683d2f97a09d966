/*
 * published.h
 *	  Columns of rows that a member has published in a table of ours, as apply has
 *	  them in a slot: what another node says is not trusted to be as it should.
 */
#ifndef RP_PUBLISHED_H
#define RP_PUBLISHED_H

#include "postgres.h"

#include "executor/tuptable.h"

/* The value of a column, from 1; ERROR if it is NULL. */
Datum		rp_published_column(TupleTableSlot *slot, int column);
/* Copy a bytea of exactly length bytes, a text of less than size bytes; ERROR if it is not that. */
void		rp_published_bytes(TupleTableSlot *slot, int column, void *out, size_t length);
void		rp_published_text(TupleTableSlot *slot, int column, char *out, size_t size);

#endif							/* RP_PUBLISHED_H */
