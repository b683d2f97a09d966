/*
 * join_schema.c
 *	  Executing what pg_dump has written of the donor's schema.
 *
 * A script is taken apart by the server's own parser. Left out is what pg_dump
 * says of our own extension's objects: rights on them are each node's own affair.
 * Roles and tablespaces belong to clusters, not to databases, and are not copied.
 *
 * Statements of the post-data section that make an index of one table and nothing
 * else are marked: they may be executed before all others, each in a transaction of
 * its own.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "join_internal.h"
#include "settings.h"

static Oid	statement_index_on(Node *statement);

/* Is a dotted name, as the parser gives it, one of our schema? */
static bool
name_is_ours(Node *object)
{
	List	   *name = NIL;

	if (IsA(object, RangeVar))
		return ((RangeVar *) object)->schemaname != NULL &&
			strcmp(((RangeVar *) object)->schemaname, RP_SCHEMA) == 0;
	if (IsA(object, String))
		return strcmp(strVal(object), RP_SCHEMA) == 0;
	if (IsA(object, ObjectWithArgs))
		name = ((ObjectWithArgs *) object)->objname;
	else if (IsA(object, List))
		name = (List *) object;
	return list_length(name) > 1 && strcmp(strVal(linitial(name)), RP_SCHEMA) == 0;
}

/* Does a statement make our extension, or give or take rights on an object of it? */
static bool
statement_is_local(Node *statement)
{
	GrantStmt  *grant = (GrantStmt *) statement;

	if (IsA(statement, CreateExtensionStmt))
		return strcmp(((CreateExtensionStmt *) statement)->extname, RP_SCHEMA) == 0;
	if (!IsA(statement, GrantStmt) || grant->targtype != ACL_TARGET_OBJECT ||
		grant->objects == NIL)
		return false;
	switch (grant->objtype)
	{
		case OBJECT_TABLE:
		case OBJECT_SEQUENCE:
		case OBJECT_FUNCTION:
		case OBJECT_PROCEDURE:
		case OBJECT_ROUTINE:
		case OBJECT_TYPE:
		case OBJECT_DOMAIN:
		case OBJECT_SCHEMA:
			return name_is_ours(linitial(grant->objects));
		default:
			return false;
	}
}

/* Take a script apart. */
List *
rp_join_statements(const char *script)
{
	List	   *statements = NIL;
	ListCell   *cell;

	foreach(cell, raw_parser(script, RAW_PARSE_DEFAULT))
	{
		RawStmt    *raw = lfirst_node(RawStmt, cell);
		const char *start = script + raw->stmt_location;
		RpJoinStatement *statement;

		CHECK_FOR_INTERRUPTS();
		if (statement_is_local(raw->stmt))
			continue;
		statement = palloc(sizeof(RpJoinStatement));
		statement->text = raw->stmt_len == 0 ? pstrdup(start) : pnstrdup(start, raw->stmt_len);
		statement->index_on = statement_index_on(raw->stmt);
		statements = lappend(statements, statement);
	}
	return statements;
}

/* Return the plain table on which a statement makes an index, if that is all that it does. */
static Oid
statement_index_on(Node *statement)
{
	RangeVar   *name = NULL;
	Oid			table;

	if (IsA(statement, IndexStmt))
		name = ((IndexStmt *) statement)->relation;
	else if (IsA(statement, AlterTableStmt) &&
			 list_length(((AlterTableStmt *) statement)->cmds) == 1)
	{
		AlterTableCmd *command = linitial_node(AlterTableCmd, ((AlterTableStmt *) statement)->cmds);

		if (command->subtype == AT_AddConstraint && IsA(command->def, Constraint))
		{
			ConstrType	type = ((Constraint *) command->def)->contype;

			if (type == CONSTR_PRIMARY || type == CONSTR_UNIQUE || type == CONSTR_EXCLUSION)
				name = ((AlterTableStmt *) statement)->relation;
		}
	}
	if (name == NULL || name->schemaname == NULL)
		return InvalidOid;
	table = rp_table_of(name->schemaname, name->relname);
	return OidIsValid(table) && get_rel_relkind(table) == RELKIND_RELATION ? table : InvalidOid;
}

/* Give an error that says that something is missing the hint that it is not copied. */
static void
statement_run(const char *text)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		int			rc = SPI_execute(text, false, 0);

		if (rc < 0)
			elog(ERROR, "replp2p: unexpected result %s of \"%s\"", SPI_result_code_string(rc), text);
		SPI_freetuptable(SPI_tuptable);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->hint == NULL && error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT)
			error->hint = "Roles and tablespaces are not copied: create here what the schema needs. The join is tried again by itself.";
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* Where an error of the schema happened. */
static void
schema_error_place(void *arg)
{
	(void) arg;
	errcontext("copying the schema of the sponsor");
}

/* Execute statements. */
void
rp_join_execute(const List *statements)
{
	ErrorContextCallback callback = {error_context_stack, schema_error_place, NULL};
	ListCell   *cell;

	error_context_stack = &callback;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "replp2p: could not connect to SPI");
	foreach(cell, statements)
		statement_run(((RpJoinStatement *) lfirst(cell))->text);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "replp2p: could not finish SPI");
	error_context_stack = callback.previous;
}
