/*
 * membership.c
 *	  The signed log of who belongs to the group (table replp2p.membership), and
 *	  what each of its rows brings about here (table replp2p.members).
 *
 * A row says: author says change of subject. Rows are only added, never changed
 * or deleted, and travel in the author's own stream like any other insert: so
 * whoever applies an admission has applied all that the author had, and an
 * admitted node is known before anything that hangs on it arrives.
 *
 *	  change     author           subject      brings about
 *	  'c' create the first node   itself       its slot, 0 on itself
 *	  'a' admit  a member         the joiner   the next slot and a replication origin
 *	  'd' dsn    a member         itself       another dsn
 *	  'l' leave  a member         itself       status left; slot, name and origin stay
 *	  'e' evict  a member         another      status evicted, unless it has left; the same stays
 *	  'f' freeze a member         one that is  nothing by itself: evict.c adds them up
 *	                              gone
 *
 * The signature (tag "replp2p membership 1", by the author) covers
 *
 *	  16  group id
 *	   1  change
 *	  20  subject: node id, epoch
 *	  20  author: node id, epoch
 *	   8  serial
 *	   v  text name, text dsn
 *	  32  public key of the subject
 *	   8  made_at
 *	   8  frozen_seq (freeze only)
 *
 * so a row counts only in its own group, whoever relayed or restored it. ONLY
 * APPEND to the changes. Registering a row twice does nothing the second time.
 *
 * Slots are given out under a SHARE ROW EXCLUSIVE lock on members: apply and a
 * backend that serves a join may both be at it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

#include "p2p_buf.h"
#include "p2p_crypto.h"

#include "catalog.h"
#include "identity.h"
#include "members.h"
#include "published.h"
#include "settings.h"

#define MEMBERSHIP_TAG "replp2p membership 1"
#define MESSAGE_SIZE (P2P_ID_SIZE + 1 + 2 * (P2P_ID_SIZE + 4) + 8 + 4 + NAMEDATALEN + \
					  P2P_DSN_SIZE + P2P_PUBLIC_KEY_SIZE + 8 + 8)

/* Columns of replp2p.membership, in their order. */
enum
{
	COLUMN_AUTHOR_ID = 1,
	COLUMN_AUTHOR_EPOCH,
	COLUMN_SERIAL,
	COLUMN_CHANGE,
	COLUMN_SUBJECT_ID,
	COLUMN_SUBJECT_EPOCH,
	COLUMN_NAME,
	COLUMN_DSN,
	COLUMN_PUBLIC_KEY,
	COLUMN_MADE_AT,
	COLUMN_FROZEN_SEQ,
	COLUMN_SIGNATURE
};

/* What this database knows of itself. */
typedef struct Here
{
	P2pOrigin	self;
	P2pId		group;
	bool		founding;		/* nobody vouches for anybody yet: creating, or joining */
} Here;

/* Write the bytes that a row's signature covers; returns their number. */
static size_t
row_message(const P2pId *group, const RpMembershipRow *row, uint8 message[MESSAGE_SIZE])
{
	P2pWriter	w;

	p2p_writer_init(&w, message, MESSAGE_SIZE);
	p2p_put_id(&w, group);
	p2p_put_u8(&w, (uint8) row->change);
	p2p_put_origin(&w, &row->subject);
	p2p_put_origin(&w, &row->author);
	p2p_put_i64(&w, row->serial);
	p2p_put_text_field(&w, row->name, sizeof(row->name));
	p2p_put_text_field(&w, row->dsn, sizeof(row->dsn));
	p2p_put_bytes(&w, row->public_key, P2P_PUBLIC_KEY_SIZE);
	p2p_put_i64(&w, row->made_at);
	if (row->change == RP_MEMBERSHIP_FREEZE)
		p2p_put_i64(&w, row->frozen_seq);
	if (w.overflow)
		elog(ERROR, "replp2p: name or dsn of a membership row does not end");
	return w.length;
}

/* Refuse a row: the stream that brings it stops here, and says why. */
static void
row_refuse(const RpMembershipRow *row, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("membership change about node \"%s\" is refused", row->name),
			 errdetail_internal("%s", why),
			 errhint("A member has published what it may not publish, or its tables were changed by hand.")));
}

/* Read what this database knows of itself. Between catalog open and close. */
static void
here_read(Here *here)
{
	char		status[NAMEDATALEN];

	if (rp_catalog_run("SELECT node_id, epoch, group_id, status FROM replp2p.local_node",
					   SPI_OK_SELECT, NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not a node"),
				 errhint("Call replp2p.create_group() or replp2p.join_group().")));
	rp_column_bytes(0, 1, &here->self.id, P2P_ID_SIZE);
	here->self.epoch = (uint32) DatumGetInt32(rp_column(0, 2));
	rp_column_bytes(0, 3, &here->group, P2P_ID_SIZE);
	rp_column_text(0, 4, status, sizeof(status));
	here->founding = strcmp(status, rp_node_status_name(RP_NODE_CREATING)) == 0 ||
		strcmp(status, rp_node_status_name(RP_NODE_JOINING)) == 0;
}

/* Find a member's key; false if it has never been one. Between catalog open and close. */
static bool
member_key(const P2pOrigin *member, uint8 key[P2P_PUBLIC_KEY_SIZE])
{
	RpArg		args[] = {
		rp_arg_bytes(&member->id, P2P_ID_SIZE),
		rp_arg_int4((int32) member->epoch),
	};

	if (rp_catalog_run("SELECT public_key FROM replp2p.members WHERE node_id = $1 AND epoch = $2",
					   SPI_OK_SELECT, args, lengthof(args)) == 0)
		return false;
	rp_column_bytes(0, 1, key, P2P_PUBLIC_KEY_SIZE);
	return true;
}

/* Is the author's word enough for this change? Between catalog open and close. */
static void
row_verify(const Here *here, const RpMembershipRow *row)
{
	uint8		message[MESSAGE_SIZE];
	uint8		key[P2P_PUBLIC_KEY_SIZE];
	P2pId		id;
	bool		by_itself = p2p_origin_equal(&row->author, &row->subject);

	p2p_id_of_key(row->public_key, &id);
	if (p2p_id_compare(&id, &row->subject.id) != 0)
		row_refuse(row, "Its public key is not that of the node.");

	switch (row->change)
	{
		case RP_MEMBERSHIP_CREATE:
			/* on a joiner the sponsor's copy of it counts; in a stream it has no business */
			if (!by_itself || !here->founding)
				row_refuse(row, "A group is created once, by its first node.");
			memcpy(key, row->public_key, sizeof(key));
			break;
		case RP_MEMBERSHIP_ADMIT:
			if (by_itself)
				row_refuse(row, "A node cannot admit itself.");
			if (!member_key(&row->author, key))
				row_refuse(row, "Its author is not a member.");
			break;
		case RP_MEMBERSHIP_EVICT:
		case RP_MEMBERSHIP_FREEZE:
			if (by_itself)
				row_refuse(row, "A node cannot say this of itself.");
			if (!member_key(&row->author, key))
				row_refuse(row, "Its author is not a member.");
			break;
		case RP_MEMBERSHIP_LEAVE:
		case RP_MEMBERSHIP_DSN:
			if (!by_itself)
				row_refuse(row, "Only the node itself may say this.");
			if (!member_key(&row->author, key))
				row_refuse(row, "Its author is not a member.");
			break;
		default:
			row_refuse(row, "This version does not know such a change.");
	}
	if (!p2p_verify(MEMBERSHIP_TAG, message, row_message(&here->group, row, message),
					key, row->signature))
		row_refuse(row, "Its signature is not its author's.");
}

/* Say that two live members go by one name; both are kept. Between catalog open and close. */
static void
name_warn(const RpMembershipRow *row)
{
	RpArg		args[] = {
		rp_arg_name(row->name),
		rp_arg_bytes(&row->subject.id, P2P_ID_SIZE),
	};

	if (rp_catalog_run("SELECT FROM replp2p.members"
					   " WHERE node_name = $1 AND node_id <> $2 AND status = 'admitted'",
					   SPI_OK_SELECT, args, lengthof(args)) > 0)
		ereport(WARNING,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("two members of the group are named \"%s\"", row->name),
				 errdetail("They were admitted at the same time by different members."),
				 errhint("Let one of them leave and join again with another name.")));
}

/* Return the next free slot. members is locked. Between catalog open and close. */
static int
slot_next(const RpMembershipRow *row)
{
	int			slot;

	rp_catalog_run("SELECT coalesce(max(slot), 0)::integer + 1 FROM replp2p.members",
				   SPI_OK_SELECT, NULL, 0);
	slot = DatumGetInt32(rp_column(0, 1));
	if (slot >= RP_MAX_MEMBERS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("node \"%s\" cannot be admitted: the group has had %d members",
						row->name, RP_MAX_MEMBERS),
				 errhint("Former members count, too. Form a new group.")));
	return slot;
}

/* Give a node its slot and its replication origin. Between catalog open and close. */
static void
member_admit(const Here *here, const RpMembershipRow *row)
{
	uint8		known_key[P2P_PUBLIC_KEY_SIZE];

	LockRelationOid(rp_catalog_table("members"), ShareRowExclusiveLock);
	if (member_key(&row->subject, known_key))
		return;					/* registered before, or ourselves */
	if (p2p_origin_equal(&row->subject, &here->self))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("slot 0 of replp2p.members is missing"),
				 errhint("Only the extension may write its tables; restore the row, or "
						 "leave by replp2p.leave_group(force => true) and join again.")));
	name_warn(row);
	rp_member_insert(slot_next(row), &row->subject, row->name, row->dsn, row->public_key);
}

/* Mark a member as evicted: by a member, or this node itself. Between catalog open and close. */
static void
member_evict(const Here *here, const RpMembershipRow *row)
{
	RpArg		args[] = {
		rp_arg_bytes(&row->subject.id, P2P_ID_SIZE),
		rp_arg_int4((int32) row->subject.epoch),
	};

	if (p2p_origin_equal(&row->subject, &here->self))
	{
		RpArg		status[] = {rp_arg_text(rp_node_status_name(RP_NODE_EVICTED))};

		rp_catalog_run("UPDATE replp2p.local_node SET status = $1 WHERE status <> 'leaving'",
					   SPI_OK_UPDATE, status, 1);
	}
	else
		rp_catalog_run("UPDATE replp2p.members SET status = 'evicted'"
					   " WHERE node_id = $1 AND epoch = $2 AND status = 'admitted'",
					   SPI_OK_UPDATE, args, lengthof(args));
}

/* Carry out what the subject says of itself. Between catalog open and close. */
static void
member_update(const Here *here, const RpMembershipRow *row, uint64 seq)
{
	RpArg		args[] = {
		rp_arg_bytes(&row->subject.id, P2P_ID_SIZE),
		rp_arg_int4((int32) row->subject.epoch),
		rp_arg_text(row->dsn),
		rp_arg_int8((int64) seq),
	};

	if (row->change == RP_MEMBERSHIP_DSN)
		rp_catalog_run("UPDATE replp2p.members SET dsn = $3 WHERE node_id = $1 AND epoch = $2",
					   SPI_OK_UPDATE, args, lengthof(args));
	else if (!p2p_origin_equal(&row->subject, &here->self))
		/* our own leaving is local_node's status, and the gossip worker's work */
		rp_catalog_run("UPDATE replp2p.members SET status = 'left',"
					   " left_seq = greatest(left_seq, $4) WHERE node_id = $1 AND epoch = $2",
					   SPI_OK_UPDATE, args, lengthof(args));
}

/* Verify and carry out one row. Between catalog open and close. */
static void
row_register(const RpMembershipRow *row, uint64 seq)
{
	Here		here;

	here_read(&here);
	row_verify(&here, row);
	if (row->change == RP_MEMBERSHIP_CREATE || row->change == RP_MEMBERSHIP_ADMIT)
		member_admit(&here, row);
	else if (row->change == RP_MEMBERSHIP_EVICT)
		member_evict(&here, row);
	else if (row->change != RP_MEMBERSHIP_FREEZE)
		member_update(&here, row, seq);
}

/* Verify a row just stored and carry it out here. */
void
rp_membership_register(RpNode *node, const RpMembershipRow *row, uint64 seq)
{
	RpCatalog	catalog;

	rp_crypto_required();
	rp_catalog_open(&catalog);
	row_register(row, seq);
	rp_catalog_close(&catalog);
	rp_members_changed(node);
}

/* Insert a row that is signed. Between catalog open and close. */
static void
row_insert(const RpMembershipRow *row)
{
	RpArg		args[] = {
		rp_arg_bytes(&row->author.id, P2P_ID_SIZE),
		rp_arg_int4((int32) row->author.epoch),
		rp_arg_int8(row->serial),
		rp_arg_char((char) row->change),
		rp_arg_bytes(&row->subject.id, P2P_ID_SIZE),
		rp_arg_int4((int32) row->subject.epoch),
		rp_arg_name(row->name),
		rp_arg_text(row->dsn),
		rp_arg_bytes(row->public_key, P2P_PUBLIC_KEY_SIZE),
		rp_arg_time(row->made_at),
		rp_arg_int8(row->frozen_seq),
		rp_arg_bytes(row->signature, P2P_SIGNATURE_SIZE),
	};

	rp_catalog_run("INSERT INTO replp2p.membership (author_id, author_epoch, serial, change,"
				   " subject_id, subject_epoch, node_name, dsn, public_key, made_at,"
				   " frozen_seq, signature)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
				   SPI_OK_INSERT, args, lengthof(args));
}

/* Complete row as this node's word (author, serial, time, signature), insert and register it. */
void
rp_membership_add(RpNode *node, const RpIdentity *identity, RpMembershipRow *row)
{
	uint8		message[MESSAGE_SIZE];
	RpCatalog	catalog;

	rp_crypto_required();
	rp_catalog_open(&catalog);
	row->author = identity->self;
	row->made_at = GetCurrentTimestamp();
	/* the lock on this row also keeps two authors of this node in order */
	if (rp_catalog_run("UPDATE replp2p.local_node SET membership_serial = membership_serial + 1"
					   " RETURNING membership_serial", SPI_OK_UPDATE_RETURNING, NULL, 0) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("there is no row in replp2p.local_node"),
				 errhint("Only the extension may write its tables; restore the row, or "
						 "leave by replp2p.leave_group(force => true) and join again.")));
	row->serial = DatumGetInt64(rp_column(0, 1));
	p2p_sign(MEMBERSHIP_TAG, message, row_message(&identity->group, row, message),
			 identity->secret_key, row->signature);
	row_insert(row);
	row_register(row, 0);
	rp_catalog_close(&catalog);
	rp_members_changed(node);
}

/*
 * May this node add to the membership log at once? A user may have called
 * evict_node() in a transaction that stays open; gossip must not wait for that.
 */
bool
rp_membership_is_free(void)
{
	RpCatalog	catalog;
	bool		is_free;

	rp_catalog_open(&catalog);
	is_free = rp_catalog_run("SELECT FROM replp2p.local_node FOR UPDATE SKIP LOCKED",
							 SPI_OK_SELECT, NULL, 0) > 0;
	rp_catalog_close(&catalog);
	return is_free;
}

/* Has this node said that it leaves? */
bool
rp_membership_has_left(void)
{
	RpCatalog	catalog;
	bool		has_left;

	rp_catalog_open(&catalog);
	has_left = rp_catalog_run("SELECT FROM replp2p.membership JOIN replp2p.local_node"
							  " ON subject_id = node_id AND subject_epoch = epoch"
							  " WHERE change = 'l' LIMIT 1", SPI_OK_SELECT, NULL, 0) > 0;
	rp_catalog_close(&catalog);
	return has_left;
}

/* Read a row from a slot of replp2p.membership; ERROR if malformed. */
void
rp_membership_row_read(struct TupleTableSlot *slot, RpMembershipRow *row)
{
	char	   *dsn;

	if (slot->tts_tupleDescriptor->natts < COLUMN_SIGNATURE)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("table replp2p.membership has not the columns that it was made with"),
				 errhint("Only the extension may change its tables.")));
	memset(row, 0, sizeof(*row));
	rp_published_bytes(slot, COLUMN_AUTHOR_ID, &row->author.id, P2P_ID_SIZE);
	row->author.epoch = (uint32) DatumGetInt32(rp_published_column(slot, COLUMN_AUTHOR_EPOCH));
	row->serial = DatumGetInt64(rp_published_column(slot, COLUMN_SERIAL));
	row->change = (RpMembershipChange) DatumGetChar(rp_published_column(slot, COLUMN_CHANGE));
	rp_published_bytes(slot, COLUMN_SUBJECT_ID, &row->subject.id, P2P_ID_SIZE);
	row->subject.epoch = (uint32) DatumGetInt32(rp_published_column(slot, COLUMN_SUBJECT_EPOCH));
	strlcpy(row->name, NameStr(*DatumGetName(rp_published_column(slot, COLUMN_NAME))), sizeof(row->name));
	dsn = TextDatumGetCString(rp_published_column(slot, COLUMN_DSN));
	if (strlcpy(row->dsn, dsn, sizeof(row->dsn)) >= sizeof(row->dsn))
		row_refuse(row, "Its dsn is too long.");
	pfree(dsn);
	rp_published_bytes(slot, COLUMN_PUBLIC_KEY, row->public_key, P2P_PUBLIC_KEY_SIZE);
	row->made_at = DatumGetTimestampTz(rp_published_column(slot, COLUMN_MADE_AT));
	row->frozen_seq = DatumGetInt64(rp_published_column(slot, COLUMN_FROZEN_SEQ));
	rp_published_bytes(slot, COLUMN_SIGNATURE, row->signature, P2P_SIGNATURE_SIZE);
}

/* Read all stored rows, in the order of each author. Between catalog open and close. */
static RpMembershipRow *
rows_read(uint64 *n)
{
	TupleTableSlot *slot;
	RpMembershipRow *rows;

	*n = rp_catalog_run("SELECT author_id, author_epoch, serial, change, subject_id,"
						" subject_epoch, node_name, dsn, public_key, made_at, frozen_seq, signature"
						" FROM replp2p.membership ORDER BY author_id, author_epoch, serial",
						SPI_OK_SELECT, NULL, 0);
	rows = palloc_extended(*n * sizeof(RpMembershipRow) + 1, MCXT_ALLOC_HUGE);
	slot = MakeSingleTupleTableSlot(SPI_tuptable->tupdesc, &TTSOpsHeapTuple);
	for (uint64 i = 0; i < *n; i++)
	{
		ExecStoreHeapTuple(SPI_tuptable->vals[i], slot, false);
		rp_membership_row_read(slot, &rows[i]);
	}
	ExecDropSingleTupleTableSlot(slot);
	return rows;
}

/* Can the row be registered yet: are all known whom it hangs on? Between catalog open and close. */
static bool
row_is_grounded(const RpMembershipRow *row)
{
	uint8		key[P2P_PUBLIC_KEY_SIZE];

	if (row->change == RP_MEMBERSHIP_CREATE)
		return true;
	if ((row->change == RP_MEMBERSHIP_EVICT || row->change == RP_MEMBERSHIP_FREEZE) &&
		!member_key(&row->subject, key))
		return false;
	return member_key(&row->author, key);
}

/*
 * Register every row of a membership log that a join has copied. The rows of
 * one author are in order, but who vouches for whom is not: so go over them
 * until nothing is left. The last seqs of those who left are not in the log;
 * the caller has them from the sponsor.
 */
void
rp_membership_register_all(RpNode *node)
{
	RpCatalog	catalog;
	RpMembershipRow *rows;
	bool	   *done;
	uint64		n,
				left;
	bool		moved = true;

	rp_crypto_required();
	rp_catalog_open(&catalog);
	rows = rows_read(&n);
	done = palloc0(n * sizeof(bool) + 1);
	for (left = n; left > 0 && moved;)
	{
		moved = false;
		for (uint64 i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (done[i] || !row_is_grounded(&rows[i]))
				continue;
			row_register(&rows[i], 0);
			done[i] = moved = true;
			left--;
		}
	}
	if (left > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg(UINT64_FORMAT " membership changes have authors that nobody has admitted", left),
				 errhint("Join by an invite of another member.")));
	rp_catalog_close(&catalog);
	rp_members_changed(node);
}
