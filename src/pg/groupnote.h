/*
 * groupnote.h
 *	  What stands in the WAL of a local commit that holds several transactions of
 *	  one origin: which of its subtransactions is which of them.
 */
#ifndef RP_GROUPNOTE_H
#define RP_GROUPNOTE_H

#include "postgres.h"

#include "access/xlogreader.h"

#include "p2p_types.h"

/* A subtransaction each: no more than a snapshot of others can list (PGPROC_MAX_CACHED_SUBXIDS). */
#define RP_GROUP_MAX 60

typedef struct RpGroupMember
{
	TransactionId xid;			/* of its subtransaction */
	P2pStamp	stamp;
} RpGroupMember;

/* Member i is transaction first_seq + i of the commit's origin. */
typedef struct RpGroupNote
{
	TransactionId xid;			/* of the commit */
	uint64		first_seq;
	int			n;				/* 0: there is none */
	RpGroupMember members[RP_GROUP_MAX];
} RpGroupNote;

/* Write it into the WAL, as part of the running transaction, whose xid it is. */
void		rp_group_note_write(const RpGroupNote *note);
/* Read it from the record under the reader, if that is one of this database. */
bool		rp_group_note_read(XLogReaderState *reader, RpGroupNote *note);
/* The member that wrote as xid, its own or that of a subtransaction inside it; -1: none. */
int			rp_group_note_find(const RpGroupNote *note, TransactionId xid);

#endif							/* RP_GROUPNOTE_H */
