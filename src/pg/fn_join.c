/*
 * fn_join.c
 *	  SQL function join_group: everything that can be known to go wrong is found
 *	  out before anything is changed.
 *
 *	  1. here: prerequisites, names, no node yet
 *	  2. the invite: well formed, not made by this very database
 *	  3. the own dsn leads here; the sponsor's dsn leads to a node
 *	  4. the sponsor, over a sealed session, says whether invite and name are good
 *	     (JOIN_CHECK; the invite is used up later, by the join worker's JOIN)
 *	  5. no relation here has the name of one that will be copied
 *	  6. the wish: rows, key file, the invite's secret in a file
 *
 * The key pair is made in memory for step 4 and written in step 6 only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "p2p_crypto.h"
#include "p2p_token.h"

#include "catalog.h"
#include "compat.h"
#include "dsn.h"
#include "identity.h"
#include "members.h"
#include "peer_call.h"
#include "setup.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(rp_join_group);

/* What the sponsor's refusals mean to the user; order and number of P2pErrorCode. */
static const struct
{
	P2pErrorCode code;
	int			errcode;
	const char *text;
	const char *hint;
}			refusals[] = {
	{P2P_ERROR_UNKNOWN_NODE, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
	"the sponsor does not know this node", "Use a new invite."},
	{P2P_ERROR_INVITE_INVALID, ERRCODE_INVALID_PARAMETER_VALUE,
	"the sponsor does not know this invite", "Use the text that replp2p.create_invite() returned, unchanged, or make a new one."},
	{P2P_ERROR_INVITE_EXPIRED, ERRCODE_INVALID_PARAMETER_VALUE,
	"the invite has expired", "Make a new one with replp2p.create_invite()."},
	{P2P_ERROR_INVITE_USED, ERRCODE_INVALID_PARAMETER_VALUE,
	"the invite has been used", "An invite is good for one node: make a new one with replp2p.create_invite()."},
	{P2P_ERROR_NAME_TAKEN, ERRCODE_DUPLICATE_OBJECT,
	"the group has a member of this name already", "Choose another node_name."},
	{P2P_ERROR_NOT_READY, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
	"the sponsor is not ready", "Try again when replp2p.wait_for_ready() has returned there."},
	{P2P_ERROR_UNREACHABLE, ERRCODE_CONNECTION_FAILURE,
	"the sponsor has cut the link by replp2p.unreachable_peers", "Take this node's name out of that setting."},
	{P2P_ERROR_INCOMPATIBLE, ERRCODE_FEATURE_NOT_SUPPORTED,
	"this database does not fit to the group", "Encodings must be equal, and both servers of a supported version."},
};

/* Take the invite's text apart; ERROR if it is not one. */
static void
invite_read(const char *text, P2pInvite *invite)
{
	P2pStatus	status = p2p_invite_from_text(text, invite);

	if (status != P2P_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this is not a valid invite: %s", p2p_status_text(status)),
				 errhint("Use the text that replp2p.create_invite() returned, unchanged.")));
}

/* ERROR if the invite was made by the node that this database is. */
static void
invite_of_oneself_refuse(const P2pInvite *invite)
{
	RpNode	   *node = rp_node_find(MyDatabaseId);
	RpDsnProbe	oneself = {.fault = RP_DSN_ONESELF};
	bool		same;

	if (node == NULL)
		return;
	LWLockAcquire(&node->lock, LW_SHARED);
	same = p2p_id_compare(&node->members[RP_SELF].origin.id, &invite->sponsor) == 0;
	LWLockRelease(&node->lock);
	if (same)
		rp_dsn_require("the invite", &oneself);
}

/* The sponsor's dsn must work from here, and lead elsewhere. */
static void
sponsor_probe(const P2pInvite *invite)
{
	RpDsnProbe	probe;

	rp_dsn_probe(invite->dsn, &probe);
	if (probe.here && (probe.fault == RP_DSN_FINE || probe.fault == RP_DSN_NO_EXECUTE))
		probe.fault = RP_DSN_ONESELF;
	rp_dsn_require("the sponsor's dsn in the invite", &probe);
	if (strcmp(probe.encoding, GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("encodings differ: %s here, %s at the sponsor",
						GetDatabaseEncodingName(), probe.encoding),
				 errhint("Create this database with ENCODING '%s'.", probe.encoding)));
}

/* Report the sponsor's refusal. */
static void
refusal_raise(P2pErrorCode code, const char *text)
{
	for (size_t i = 0; i < lengthof(refusals); i++)
		if (refusals[i].code == code)
			ereport(ERROR,
					(errcode(refusals[i].errcode),
					 errmsg("cannot join: %s", refusals[i].text),
					 text[0] != '\0' ? errdetail("The sponsor says: %s", text) : 0,
					 errhint("%s", refusals[i].hint)));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("cannot join: the sponsor reports an error"),
			 errdetail("The sponsor says: %s", text),
			 errhint("See the log of the sponsor's server.")));
}

/* Understand the sponsor's answer, or report what it refuses. */
static void
answer_read(const StringInfoData *answer, const P2pInvite *invite, P2pJoinReply *reply)
{
	char		text[P2P_TEXT_SIZE];
	P2pErrorCode code;
	P2pReader	r;
	uint8		kind;

	p2p_reader_init(&r, answer->data, (size_t) answer->len);
	kind = p2p_get_u8(&r);
	if (kind == P2P_MSG_ERROR && p2p_get_error(&r, &code, text) == P2P_OK)
		refusal_raise(code, text);
	if (kind != P2P_MSG_JOIN_REPLY || p2p_get_join_reply(&r, reply) != P2P_OK ||
		p2p_id_compare(&reply->sponsor.id, &invite->sponsor) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("cannot join: the sponsor's answer is not understood"),
				 errhint("Use the same version of replp2p on both servers.")));
}

/* Ask the sponsor whether invite and name are good. */
static void
sponsor_ask(const RpIdentity *me, const P2pInvite *invite, const char *name, const char *dsn,
			P2pJoinReply *reply)
{
	uint8		request[P2P_JOIN_MAX_SIZE];
	StringInfoData answer;
	P2pJoin		join;
	P2pWriter	w;
	char	   *error = NULL;
	bool		answered;

	memset(&join, 0, sizeof(join));
	memcpy(join.secret, invite->secret, sizeof(join.secret));
	strlcpy(join.name, name, sizeof(join.name));
	strlcpy(join.dsn, dsn, sizeof(join.dsn));
	join.server_version = RP_SERVER_VERSION;
	strlcpy(join.encoding, GetDatabaseEncodingName(), sizeof(join.encoding));
	p2p_writer_init(&w, request, sizeof(request));
	p2p_put_join(&w, P2P_MSG_JOIN_CHECK, &join);
	if (w.overflow)
		elog(ERROR, "replp2p: a join request does not fit");

	initStringInfo(&answer);
	answered = rp_peer_call(invite->dsn, me, &invite->group, &invite->sponsor,
							request, w.length, &answer, &error);
	p2p_wipe(&join, sizeof(join));
	p2p_wipe(request, sizeof(request));
	if (!answered)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("cannot join: no conversation with the sponsor"),
				 errdetail_internal("%s", error != NULL ? error : "The session ended."),
				 errhint("The invite must be of a node that runs, and unchanged.")));
	answer_read(&answer, invite, reply);
	pfree(answer.data);
}

/* Does a relation here hold rows? Between catalog open and close. */
static bool
relation_has_rows(const char *schema, const char *name)
{
	rp_catalog_run(psprintf("SELECT EXISTS (SELECT FROM %s)",
							quote_qualified_identifier(schema, name)), SPI_OK_SELECT, NULL, 0);
	return DatumGetBool(rp_column(0, 1));
}

/* ERROR if a relation of this name is here. Between catalog open and close. */
static void
relation_absent_required(const char *schema, const char *name)
{
	Oid			namespace = get_namespace_oid(schema, true);
	Oid			relation = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;
	char		kind;

	if (!OidIsValid(relation))
		return;
	kind = get_rel_relkind(relation);
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s.%s\" is here and at the sponsor", schema, name),
				 errhint("join_group copies schema and data: drop it here first.")));
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("table \"%s.%s\" is here and at the sponsor", schema, name),
			 relation_has_rows(schema, name) ?
			 errdetail("The table here holds rows.") : errdetail("The table here is empty."),
			 errhint("join_group copies schema and data: drop the table here first, after saving what you need.")));
}

/* Compare the relations that the sponsor will give with what is here. */
static void
relations_compare(PGconn *conn)
{
	RpCatalog	catalog;
	PGresult   *result;

	/* tables first, so that it is them who are named, not their sequences */
	result = rp_dsn_query(conn,
						  "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
						  " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
						  " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'"
						  " AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'replp2p')"
						  " AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d"
						  "  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
						  "  AND d.objid = c.oid AND d.deptype = 'e')"
						  " ORDER BY c.relkind NOT IN ('r', 'p'), 1, 2");
	PG_TRY();
	{
		if (result == NULL || PQresultStatus(result) != PGRES_TUPLES_OK)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not read the list of the sponsor's tables"),
					 errdetail_internal("%s", result != NULL ? PQresultErrorMessage(result) :
										PQerrorMessage(conn)),
					 errhint("Try again; see the log of the sponsor's server.")));
		rp_catalog_open(&catalog);
		for (int i = 0; i < PQntuples(result); i++)
			relation_absent_required(PQgetvalue(result, i, 0), PQgetvalue(result, i, 1));
		rp_catalog_close(&catalog);
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
}

/* ERROR if a relation here has the name of one that the sponsor will give. */
static void
relations_required(const P2pInvite *invite)
{
	char	   *error = NULL;
	PGconn	   *conn = rp_dsn_connect(invite->dsn, &error);

	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to the sponsor"),
				 errdetail_internal("%s", error),
				 errhint("Check the sponsor's server.")));
	PG_TRY();
	{
		relations_compare(conn);
	}
	PG_FINALLY();
	{
		rp_dsn_disconnect(conn);
	}
	PG_END_TRY();
}

/* Error context: keep the statement, which has a good invite in it, out of the server's log. */
static void
statement_hide(void *unused)
{
	(void) unused;
	errhidestmt(true);
	errhidecontext(true);
}

/* SQL: join_group(node_name name, dsn text, invite text) -> text, the node's id. */
Datum
rp_join_group(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hide = {.callback = statement_hide, .previous = error_context_stack};
	const char *name;
	const char *dsn;
	const char *invite_text;
	char		id_text[P2P_ID_TEXT_SIZE];
	P2pJoinReply reply;
	P2pInvite	invite;
	RpIdentity	me;

	error_context_stack = &hide;
	name = RP_ARG_NAME(0, "node_name");
	dsn = RP_ARG_TEXT(1, "dsn");
	invite_text = RP_ARG_TEXT(2, "invite");
	rp_setup_required("replp2p.join_group()");
	rp_name_required("node", name);
	invite_read(invite_text, &invite);
	invite_of_oneself_refuse(&invite);
	rp_node_absent_required();
	rp_dsn_require_own(dsn);
	sponsor_probe(&invite);
	rp_identity_make(&invite.group, &me);
	sponsor_ask(&me, &invite, name, dsn, &reply);
	relations_required(&invite);

	rp_setup_begin();
	{
		RpNewNode	node = {&me, name, dsn, reply.group_name, RP_NODE_JOINING,
		invite.dsn, &invite.sponsor};

		rp_setup_insert(&node);
	}
	rp_join_secret_write(MyDatabaseId, invite.secret);
	rp_members_changed(NULL);
	p2p_wipe(&invite, sizeof(invite));
	p2p_wipe(me.secret_key, sizeof(me.secret_key));
	error_context_stack = hide.previous;

	p2p_id_to_text(&me.self.id, id_text);
	PG_RETURN_TEXT_P(cstring_to_text(id_text));
}
