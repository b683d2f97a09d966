/*
 * fn_tables.h
 *	  Which tables are replicated, as current catalogs have it.
 *
 * Capture judges the same under its historic snapshot, by its own means; the
 * view tables says it in SQL.
 */
#ifndef RP_FN_TABLES_H
#define RP_FN_TABLES_H

#include "postgres.h"

#include "access/htup.h"

/* Would changes of this table go to the other nodes? False for what is no table. */
bool		rp_table_is_replicated(Oid relid);
/* Its row of pg_class, for ReleaseSysCache; ERROR if it is gone, or not the caller's. */
HeapTuple	rp_own_relation(Oid relid);

#endif							/* RP_FN_TABLES_H */
