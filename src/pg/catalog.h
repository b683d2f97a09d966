/*
 * catalog.h
 *	  Statements on the extension's own tables, run as their owner with a
 *	  pinned search_path, whoever called.
 */
#ifndef RP_CATALOG_H
#define RP_CATALOG_H

#include "postgres.h"

#include "executor/spi.h"

/* What rp_catalog_close puts back; an ERROR in between puts it back by itself. */
typedef struct RpCatalog
{
	Oid			user;
	int			security_context;
	int			settings_level;
	bool		pushed_snapshot;
} RpCatalog;

/* One argument of a statement; isnull when it is to be NULL. */
typedef struct RpArg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} RpArg;

#define RP_MAX_ARGS 24

/*
 * A statement that apply runs again and again: a static variable of its own, {"text", SPI_OK_...},
 * holds its plan. The text is constant, and so are the types of its arguments.
 */
typedef struct RpStatement
{
	const char *sql;
	int			expected;
	SPIPlanPtr	plan;			/* NULL: none was made yet */
	int			uses;
	int64		made_us;
} RpStatement;

/* Start: SPI, as the owner. Memory that is palloc'd until close goes at close. */
void		rp_catalog_open(RpCatalog *catalog);
void		rp_catalog_close(RpCatalog *catalog);

/*
 * Run one statement between open and close. Returns the rows it touched;
 * those that it returns are in SPI_tuptable. expected: SPI_OK_...
 */
uint64		rp_catalog_run(const char *sql, int expected, const RpArg *args, int nargs);

/* The same for a statement whose plan is kept by this process. It must not run within itself. */
uint64		rp_statement_run(RpStatement *statement, const RpArg *args, int nargs);

/* Open, run one statement of which no row is read, close; returns the rows it touched. */
uint64		rp_catalog_execute(const char *sql, int expected, const RpArg *args, int nargs);
uint64		rp_statement_execute(RpStatement *statement, const RpArg *args, int nargs);

/* Arguments: bytes are copied, text must stay. NULL text or bytes: NULL. */
RpArg		rp_arg_bytes(const void *bytes, size_t length);
RpArg		rp_arg_text(const char *text);
RpArg		rp_arg_name(const char *name);
RpArg		rp_arg_int4(int32 value);
RpArg		rp_arg_int8(int64 value);
RpArg		rp_arg_bool(bool value);
RpArg		rp_arg_oid(Oid value);
RpArg		rp_arg_char(char value);
RpArg		rp_arg_time(TimestampTz value);

/* Columns of SPI_tuptable, from 1. A NULL where the name does not say "or" is an ERROR. */
Datum		rp_column(uint64 row, int column);
int64		rp_column_int8_or_zero(uint64 row, int column);
/* Copy a bytea of exactly length bytes, a text or name of less than size bytes. */
void		rp_column_bytes(uint64 row, int column, void *out, size_t length);
void		rp_column_text(uint64 row, int column, char *out, size_t size);
void		rp_column_name(uint64 row, int column, char *out);

/* Oid of a table by its names, or InvalidOid; no right is needed. */
Oid			rp_table_of(const char *schema, const char *table);
/* Oid of a table of ours, or InvalidOid if the extension is not there. */
Oid			rp_catalog_table(const char *name);

#endif							/* RP_CATALOG_H */
