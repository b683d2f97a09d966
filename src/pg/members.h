/*
 * members.h
 *	  Identity and membership: the key pair in the data directory, the signed
 *	  membership log (table replp2p.membership, replicated in the stream), and
 *	  the members derived from it (table replp2p.members, and shared memory).
 *
 * An admission is an insert into replp2p.membership by the sponsor: an ordinary
 * transaction of the sponsor's stream. Whoever applies it registers the member
 * in the same local transaction: slot, replication origin, row in members.
 */
#ifndef RP_MEMBERS_H
#define RP_MEMBERS_H

#include "shmem.h"

typedef struct RpIdentity
{
	P2pOrigin	self;
	P2pId		group;
	uint8		public_key[P2P_PUBLIC_KEY_SIZE];
	uint8		secret_key[P2P_SECRET_KEY_SIZE];
} RpIdentity;

/*
 * Make a fresh key pair for identity->group, set by the caller, and write it (0600, fsynced); ERROR
 * if one is there.
 */
void		rp_identity_create(Oid dboid, RpIdentity *identity);
/* Read it; ERROR if it is missing, readable by others or not of this cluster and database. */
void		rp_identity_read(Oid dboid, RpIdentity *identity);
bool		rp_identity_exists(Oid dboid);
void		rp_identity_remove(Oid dboid);

typedef enum RpMembershipChange
{
	RP_MEMBERSHIP_CREATE = 'c', /* the first node, by itself */
	RP_MEMBERSHIP_ADMIT = 'a',
	RP_MEMBERSHIP_LEAVE = 'l',
	RP_MEMBERSHIP_DSN = 'd',
	RP_MEMBERSHIP_EVICT = 'e',
	RP_MEMBERSHIP_FREEZE = 'f'	/* the author takes nothing from the subject any more: evict.h */
} RpMembershipChange;

/* A row of replp2p.membership: who (author) says what of whom (subject). */
typedef struct RpMembershipRow
{
	RpMembershipChange change;
	P2pOrigin	subject;
	P2pOrigin	author;
	int64		serial;			/* per author, grows */
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	uint8		public_key[P2P_PUBLIC_KEY_SIZE];	/* of the subject */
	TimestampTz made_at;
	int64		frozen_seq;		/* freeze: the author stores the subject up to this; else 0 */
	uint8		signature[P2P_SIGNATURE_SIZE];	/* by the author, tag "replp2p membership 1" */
} RpMembershipRow;

/*
 * Sign as this node and insert the row; also registers it here. The caller sets
 * change, subject, name, dsn, public_key. In a transaction with write access; SPI
 * inside. node may be NULL: not claimed yet.
 */
void		rp_membership_add(RpNode *node, const RpIdentity *identity, RpMembershipRow *row);

/* Could this node do that at once, without waiting for a user's transaction? In a transaction. */
bool		rp_membership_is_free(void);
/* Has this node said that it leaves? In a transaction. */
bool		rp_membership_has_left(void);
/*
 * Verify a row that apply or a join has just stored, and carry it out here:
 * admit takes the next slot and creates the replication origin, leave marks
 * it. seq = the author's seq (for leave). Idempotent.
 */
void		rp_membership_register(RpNode *node, const RpMembershipRow *row, uint64 seq);
/* The same for all rows that a join has copied, in whatever order; left_seq of former members stays 0. */
void		rp_membership_register_all(RpNode *node);
/* Read a row from a slot of replp2p.membership (TupleTableSlot *); ERROR if malformed. */
struct TupleTableSlot;
void		rp_membership_row_read(struct TupleTableSlot *slot, RpMembershipRow *row);

/*
 * Read replp2p.local_node, members, paused origins ... into shared memory
 * (status, group, members by slot, applied_seq from replication origin
 * progress where not set yet), and set loaded_generation. Needs a transaction.
 * Returns false if the database has no node (extension dropped or no row).
 */
bool		rp_members_load(RpNode *node);
/* Insert an admitted member, and make its replication origin. Between catalog open and close. */
void		rp_member_insert(int slot, const P2pOrigin *origin, const char *name, const char *dsn,
							 const uint8 *public_key);
/* ERROR if a row of local_node with these belongs to a database that this one is a copy of. */
void		rp_node_copy_refuse(int64 system_identifier, Oid database);
/* Have the node's workers reload after this transaction's commit. node may be NULL: not claimed yet. */
void		rp_members_changed(RpNode *node);
/*
 * Set replp2p.local_node.status in a transaction of its own or the current one.
 * RP_NODE_GONE deletes the node's rows; only in a transaction of its own.
 */
void		rp_node_set_status(RpNode *node, RpNodeStatus status);
const char *rp_node_status_name(RpNodeStatus status);	/* "creating", "joining", "catchup", "active", "leaving", "evicted" */

/* Name of the replication origin of a member: "replp2p_<database oid>_<node id>_<epoch>". */
#define RP_ORIGIN_NAME_SIZE 80
void		rp_origin_name(Oid dboid, const P2pOrigin *origin, char *name, size_t size);
/* Name of the logical slot: "replp2p_<database oid>". */
void		rp_slot_name(Oid dboid, char *name, size_t size);

#endif							/* RP_MEMBERS_H */
