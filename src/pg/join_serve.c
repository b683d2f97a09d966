/*
 * join_serve.c
 *	  The sponsor's side of a join: judging an invite, admitting its holder, and
 *	  lending him the right to read.
 *
 *	  JOIN_CHECK  asked by join_group: would a JOIN be granted? Changes nothing.
 *	  JOIN        uses the invite up: the joiner's admission becomes a transaction
 *	              of this node's stream. Asked again by the same key (the joiner
 *	              or this node died in between), it gives the same answer.
 *	  JOIN_CHECK  asked by the key that has used the invite: the copy is complete,
 *	              take the right to read back.
 *
 * An invite is known by the hash of its secret, and bound by its first use to
 * one key, which the session has proven. So a joiner makes a fresh key for each
 * try of join_group, and nobody else can take the place that an invite gave.
 *
 * The role by which peers connect may only EXECUTE exchange(). A joiner reads
 * all tables over the same connection, so the role becomes a member of
 * pg_read_all_data for the time of the copy, if it wasn't one before;
 * invites.granted_to remembers that. Two joins may lean on the same loan: the
 * last one that ends returns it. What a joiner that died never gave back is
 * taken back by rp_join_loans_sweep after a day.
 *
 * Order of JOIN: all is written in one transaction; after its commit capture
 * has to pass the admission, and shared memory to know the member, before the
 * joiner hears of it: the snapshot that it then asks for contains its admission.
 *
 * A node that has admitted a joiner does not leave before the joiner has its copy:
 * it would wait for the joiner, and refuse it the snapshot that it needs.
 *
 * Locks: members in SHARE ROW EXCLUSIVE mode, for all of it. So two joins
 * at this node cannot take one name, and of two that return a loan at once one
 * sees that it is the last.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "p2p_crypto.h"

#include "barrier.h"
#include "catalog.h"
#include "compat.h"
#include "dsn.h"
#include "identity.h"
#include "join_serve.h"
#include "serve.h"

/* How long an admission may take to get through capture. */
#define ADMISSION_TIMEOUT_MS 60000

/* One request, and what is found out about it. */
typedef struct Request
{
	RpNode	   *node;
	const RpIdentity *me;
	const P2pJoin *join;
	P2pOrigin	joiner;
	uint8		joiner_key[P2P_PUBLIC_KEY_SIZE];
	uint8		secret_hash[P2P_HASH_SIZE];
	bool		admitted;		/* the invite was used by this very joiner */
} Request;

/* Why a request is refused; code 0 if it is not. */
typedef struct Refusal
{
	P2pErrorCode code;
	const char *text;			/* static memory */
} Refusal;

static const Refusal granted = {0, NULL};

static Refusal request_judge(Request *request);
static Refusal invite_judge(Request *request);
static void joiner_admit(Request *request);
static void loan_give(const Request *request);
static void loan_return(const uint8 *secret_hash);
static void copied_note(const Request *request);
static void reply_write(const Request *request, bool check_only, StringInfo reply);

/* Judge and carry out the request, in a transaction that is then committed. */
static Refusal
request_carry_out(Request *request, bool check_only)
{
	RpCatalog	catalog;
	Refusal		refusal;

	rp_catalog_open(&catalog);
	LockRelationOid(rp_catalog_table("members"), ShareRowExclusiveLock);
	refusal = request_judge(request);
	if (refusal.code == 0 && check_only && request->admitted)
	{
		copied_note(request);
		loan_return(request->secret_hash);
	}
	else if (refusal.code == 0 && !check_only)
	{
		if (!request->admitted)
			joiner_admit(request);
		loan_give(request);
	}
	rp_catalog_close(&catalog);
	SPI_commit();
	return refusal;
}

/* Wait until the admission is behind capture and in shared memory. */
static void
admission_settle(const Request *request)
{
	/* no snapshot and no xid is held while it waits */
	rp_barrier(request->node, ADMISSION_TIMEOUT_MS);
	(void) rp_members_load(request->node);
	SPI_commit();
	if (rp_member_by_origin(request->node, &request->joiner) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the admission has not come into effect yet"),
				 errhint("The joiner tries again by itself.")));
}

/* Answer JOIN_CHECK or JOIN. */
void
rp_serve_join(RpNode *node, const RpIdentity *me, bool check_only, const P2pJoin *join,
			  const uint8 joiner_key[P2P_PUBLIC_KEY_SIZE], StringInfo reply)
{
	Request		request = {.node = node, .me = me, .join = join};
	Refusal		refusal;

	p2p_id_of_key(joiner_key, &request.joiner.id);
	request.joiner.epoch = 1;
	memcpy(request.joiner_key, joiner_key, P2P_PUBLIC_KEY_SIZE);
	p2p_hash(join->secret, P2P_SECRET_SIZE, NULL, 0, request.secret_hash);

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "replp2p: could not connect to SPI");
	refusal = request_carry_out(&request, check_only);
	if (refusal.code == 0 && !check_only)
		admission_settle(&request);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "replp2p: could not finish SPI");

	if (refusal.code != 0)
		rp_serve_error(reply, refusal.code, refusal.text);
	else
		reply_write(&request, check_only, reply);
}

/* Is a name that the joiner wants one that create_group would take? */
static bool
name_is_fit(const char *name)
{
	size_t		length = strlen(name);

	if (length == 0 || length >= NAMEDATALEN || name[0] == ' ' || name[length - 1] == ' ')
		return false;
	for (const char *c = name; *c != '\0'; c++)
	{
		if (*c == ',' || (unsigned char) *c < ' ' || *c == 0x7f)
			return false;
	}
	return pg_verifymbstr(name, (int) length, true);
}

/* Has another live member the name? Between catalog open and close. */
static bool
name_is_taken(const Request *request)
{
	RpArg		args[] = {
		rp_arg_name(request->join->name),
		rp_arg_bytes(&request->joiner.id, P2P_ID_SIZE),
	};

	return rp_catalog_run("SELECT FROM replp2p.members"
						  " WHERE node_name = $1 AND node_id <> $2 AND status = 'admitted'",
						  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/*
 * Has leave_group been called here, if only just now? members is locked. Between catalog open and
 * close.
 */
static bool
leaves(void)
{
	RpArg		args[] = {rp_arg_text(rp_node_status_name(RP_NODE_LEAVING))};

	return rp_catalog_run("SELECT FROM replp2p.local_node WHERE status = $1",
						  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/* May the request be granted? Between catalog open and close. */
static Refusal
request_judge(Request *request)
{
	const P2pJoin *join = request->join;
	RpDsnProbe	probe;
	Refusal		refusal;

	if (rp_node_status(request->node) != RP_NODE_ACTIVE || leaves())
		return (Refusal) {P2P_ERROR_NOT_READY, "the sponsor is not active"};
	if (!name_is_fit(join->name))
		return (Refusal) {P2P_ERROR_BAD_REQUEST, "the joiner's name cannot be a node's name"};
	rp_dsn_inspect(join->dsn, &probe);
	if (probe.fault != RP_DSN_FINE)
		return (Refusal) {P2P_ERROR_BAD_REQUEST, rp_dsn_fault_text(probe.fault)};

	/* only who holds an invite learns more */
	refusal = invite_judge(request);
	if (refusal.code != 0)
		return refusal;
	if (pg_char_to_encoding(join->encoding) != GetDatabaseEncoding())
		return (Refusal) {P2P_ERROR_INCOMPATIBLE, "the databases have different encodings"};
	if (RP_MAJOR_OF(join->server_version) < RP_MAJOR_OF(RP_SERVER_VERSION))
		return (Refusal) {P2P_ERROR_INCOMPATIBLE, "the joiner's server is older than the sponsor's"};
	if (name_is_taken(request))
		return (Refusal) {P2P_ERROR_NAME_TAKEN, "another member has this name"};
	return granted;
}

/*
 * Has the joiner left the group, or was it evicted, after it was admitted? Between catalog open and
 * close.
 */
static bool
joiner_has_left(const Request *request)
{
	RpArg		args[] = {rp_arg_bytes(&request->joiner.id, P2P_ID_SIZE)};

	return rp_catalog_run("SELECT FROM replp2p.members WHERE node_id = $1 AND status <> 'admitted'",
						  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/* Is the invite good, and for this joiner? Between catalog open and close. */
static Refusal
invite_judge(Request *request)
{
	static const Refusal used = {P2P_ERROR_INVITE_USED, "another node has used the invite"};
	RpArg		args[] = {
		rp_arg_bytes(request->secret_hash, P2P_HASH_SIZE),
		rp_arg_bytes(request->joiner_key, P2P_PUBLIC_KEY_SIZE),
	};

	if (rp_catalog_run("SELECT used_by IS NOT NULL, coalesce(used_by = $2, false),"
					   " expires_at < pg_catalog.clock_timestamp()"
					   " FROM replp2p.invites WHERE secret_hash = $1",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		return (Refusal) {P2P_ERROR_INVITE_INVALID, "no such invite was made here"};
	request->admitted = DatumGetBool(rp_column(0, 2));
	if (DatumGetBool(rp_column(0, 1)) && !request->admitted)
		return used;
	if (!request->admitted)
		return DatumGetBool(rp_column(0, 3)) ?
			(Refusal) {P2P_ERROR_INVITE_EXPIRED, "the invite has expired"} : granted;
	return joiner_has_left(request) ?
		(Refusal) {P2P_ERROR_INVITE_USED, "this node has joined by the invite, and left or was evicted"} : granted;
}

/* Use the invite up, and admit the joiner to the group. Between catalog open and close. */
static void
joiner_admit(Request *request)
{
	RpArg		args[] = {
		rp_arg_bytes(request->secret_hash, P2P_HASH_SIZE),
		rp_arg_bytes(request->joiner_key, P2P_PUBLIC_KEY_SIZE),
	};
	RpMembershipRow row;

	rp_catalog_run("UPDATE replp2p.invites SET used_at = pg_catalog.clock_timestamp(), used_by = $2"
				   " WHERE secret_hash = $1", SPI_OK_UPDATE, args, lengthof(args));
	memset(&row, 0, sizeof(row));
	row.change = RP_MEMBERSHIP_ADMIT;
	row.subject = request->joiner;
	strlcpy(row.name, request->join->name, sizeof(row.name));
	strlcpy(row.dsn, request->join->dsn, sizeof(row.dsn));
	memcpy(row.public_key, request->joiner_key, P2P_PUBLIC_KEY_SIZE);
	rp_membership_add(request->node, request->me, &row);
	ereport(LOG, (errmsg("admitted node \"%s\" to the group", row.name)));
}

/* The joiner has all that it needs of this node's tables. Between catalog open and close. */
static void
copied_note(const Request *request)
{
	RpArg		args[] = {rp_arg_bytes(request->secret_hash, P2P_HASH_SIZE)};

	rp_catalog_run("UPDATE replp2p.invites SET copied_at = pg_catalog.clock_timestamp()"
				   " WHERE secret_hash = $1 AND copied_at IS NULL", SPI_OK_UPDATE, args, lengthof(args));
}

/* Has a member said that it is past joining? */
static bool
has_joined(RpNode *node, const P2pOrigin *origin)
{
	int			slot = rp_member_by_origin(node, origin);
	bool		joined;

	if (slot < 0)
		return false;
	SpinLockAcquire(&node->vector_lock);
	joined = node->members[slot].heard_counter > 0 &&
		node->members[slot].heard_phase != P2P_PHASE_JOINING;
	SpinLockRelease(&node->vector_lock);
	return joined;
}

/* Is somebody copying from here? */
bool
rp_join_is_served(RpNode *node, char name[NAMEDATALEN])
{
	RpCatalog	catalog;
	uint64		n;
	bool		served = false;

	rp_catalog_open(&catalog);
	LockRelationOid(rp_catalog_table("members"), ShareRowExclusiveLock);
	n = rp_catalog_run("SELECT node_id, epoch, node_name FROM replp2p.invites"
					   " JOIN replp2p.members ON public_key = used_by"
					   " WHERE status = 'admitted' AND copied_at IS NULL", SPI_OK_SELECT, NULL, 0);
	for (uint64 i = 0; i < n && !served; i++)
	{
		P2pOrigin	origin;

		rp_column_bytes(i, 1, &origin.id, P2P_ID_SIZE);
		origin.epoch = (uint32) DatumGetInt32(rp_column(i, 2));
		rp_column_name(i, 3, name);
		served = !has_joined(node, &origin);
	}
	rp_catalog_close(&catalog);
	return served;
}

/* Does any invite say that the role has a loan? Between catalog open and close. */
static bool
loan_is_out(const char *role)
{
	RpArg		args[] = {rp_arg_name(role)};

	return rp_catalog_run("SELECT FROM replp2p.invites WHERE granted_to = $1",
						  SPI_OK_SELECT, args, lengthof(args)) > 0;
}

/*
 * Lend the role of this session the right to read all data, and remember it,
 * unless it has that right by itself. Between catalog open and close.
 */
static void
loan_give(const Request *request)
{
	Oid			role = GetSessionUserId();
	char	   *name = GetUserNameFromId(role, false);
	bool		reads = has_privs_of_role(role, ROLE_PG_READ_ALL_DATA);
	RpArg		args[] = {
		rp_arg_bytes(request->secret_hash, P2P_HASH_SIZE),
		rp_arg_name(name),
	};

	if (reads && !loan_is_out(name))
		return;
	if (!reads)
		rp_catalog_run(psprintf("GRANT pg_read_all_data TO %s", quote_identifier(name)),
					   SPI_OK_UTILITY, NULL, 0);
	rp_catalog_run("UPDATE replp2p.invites SET granted_to = $2 WHERE secret_hash = $1",
				   SPI_OK_UPDATE, args, lengthof(args));
}

/*
 * Take the loan of one invite back, if there is one. members is locked. Between catalog open and
 * close.
 */
static void
loan_return(const uint8 *secret_hash)
{
	RpArg		args[] = {rp_arg_bytes(secret_hash, P2P_HASH_SIZE)};
	char		role[NAMEDATALEN];

	if (rp_catalog_run("SELECT granted_to FROM replp2p.invites"
					   " WHERE secret_hash = $1 AND granted_to IS NOT NULL",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		return;
	rp_column_name(0, 1, role);
	rp_catalog_run("UPDATE replp2p.invites SET granted_to = NULL WHERE secret_hash = $1",
				   SPI_OK_UPDATE, args, lengthof(args));
	if (!loan_is_out(role) && OidIsValid(get_role_oid(role, true)))
		rp_catalog_run(psprintf("REVOKE pg_read_all_data FROM %s", quote_identifier(role)),
					   SPI_OK_UTILITY, NULL, 0);
}

/* Take back what joiners of more than a day ago still have. */
void
rp_join_loans_sweep(void)
{
	RpCatalog	catalog;
	uint64		n;
	uint8	   *hashes;

	rp_catalog_open(&catalog);
	LockRelationOid(rp_catalog_table("members"), ShareRowExclusiveLock);
	n = rp_catalog_run("SELECT secret_hash FROM replp2p.invites WHERE granted_to IS NOT NULL"
					   " AND used_at < pg_catalog.clock_timestamp() - interval '1 day'",
					   SPI_OK_SELECT, NULL, 0);
	hashes = palloc(n * P2P_HASH_SIZE + 1);
	for (uint64 i = 0; i < n; i++)
		rp_column_bytes(i, 1, hashes + i * P2P_HASH_SIZE, P2P_HASH_SIZE);
	for (uint64 i = 0; i < n; i++)
		loan_return(hashes + i * P2P_HASH_SIZE);
	rp_catalog_close(&catalog);
}

/* Append JOIN_REPLY. */
static void
reply_write(const Request *request, bool check_only, StringInfo reply)
{
	RpNode	   *node = request->node;
	uint8		memory[256];
	P2pJoinReply answer;
	P2pWriter	w;

	memset(&answer, 0, sizeof(answer));
	answer.sponsor = request->me->self;
	LWLockAcquire(&node->lock, LW_SHARED);
	strlcpy(answer.group_name, node->group_name, sizeof(answer.group_name));
	strlcpy(answer.sponsor_name, node->members[RP_SELF].name, sizeof(answer.sponsor_name));
	if (!check_only)
	{
		SpinLockAcquire(&node->vector_lock);
		answer.admission_seq = node->members[RP_SELF].captured_seq;
		SpinLockRelease(&node->vector_lock);
	}
	LWLockRelease(&node->lock);

	p2p_writer_init(&w, memory, sizeof(memory));
	p2p_put_join_reply(&w, &answer);
	if (w.overflow)
		elog(ERROR, "replp2p: the answer to a joiner does not fit");
	appendBinaryStringInfo(reply, (const char *) memory, (int) w.length);
}
