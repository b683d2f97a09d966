/*
 * setup.h
 *	  What create_group and join_group have in common: the checks before, and
 *	  the rows and files of a new node.
 */
#ifndef RP_SETUP_H
#define RP_SETUP_H

#include "members.h"

/* ERROR in a read-only transaction or on a standby. function: as the user wrote it. */
void		rp_writable_required(const char *function);
/* ERROR unless a superuser, on a server that meets the prerequisites, may make a node here. */
void		rp_setup_required(const char *function);
/* ERROR unless text may be the name of a node or group. what: "node", "group". */
void		rp_name_required(const char *what, const char *name);
/* ERROR if this database is a node, or a former one is not swept away within some seconds. */
void		rp_node_absent_required(void);
/*
 * Keep others from making a node until this transaction ends, look again that
 * there is none, and have files removed should the transaction abort.
 */
void		rp_setup_begin(void);

typedef struct RpNewNode
{
	const RpIdentity *identity;
	const char *name;
	const char *dsn;
	const char *group_name;
	RpNodeStatus status;
	const char *sponsor_dsn;	/* joining, else NULL */
	const P2pId *sponsor;
} RpNewNode;

/* Insert local_node, and members slot 0; write the key file. */
void		rp_setup_insert(const RpNewNode *node);

/* Argument of a function as a C string; ERROR naming it if it is NULL. */
#define RP_ARG_NAME(n, what) (rp_arg_required(fcinfo, n, what), NameStr(*PG_GETARG_NAME(n)))
#define RP_ARG_TEXT(n, what) (rp_arg_required(fcinfo, n, what), text_to_cstring(PG_GETARG_TEXT_PP(n)))
struct FunctionCallInfoBaseData;
void		rp_arg_required(struct FunctionCallInfoBaseData *fcinfo, int n, const char *what);

#endif							/* RP_SETUP_H */
