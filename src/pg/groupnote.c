/*
 * groupnote.c
 *	  What stands in the WAL of a local commit that holds several transactions of
 *	  one origin.
 *
 * A row's version is found by its xmin, so every origin transaction needs an xid
 * of its own, also where apply commits several at once (apply_commit.c): each is a
 * subtransaction then. The commit record lists the xids of these, but knows
 * one origin_lsn and one origin_timestamp only. Capture must give each its own seq and
 * stamp, also after a crash, from the WAL alone. So apply writes a logical
 * message, transactional and of the group's origin, right before the commit record:
 *
 *	  1 byte	 version of this format: 1
 *	  1 byte	 n, number of members
 *	  8 bytes	 seq of the first; the others follow it without a gap
 *	  n times	 4 bytes xid of the subtransaction, 8 bytes stamp
 *
 * in the machine's byte order: it is read by this server alone. ONLY APPEND to the version.
 *
 * Members stand in the order of their xids, since each is assigned when its transaction
 * begins. A function that an index calls may open a subtransaction inside a
 * member; its xid lies between that member's and the next one's.
 *
 * The message is found again whenever the commit is read: capture starts to read at the slot's
 * restart_lsn, which is not after the first record of any transaction that commits later.
 * A message whose commit never came is forgotten with the next one.
 *
 * Written by apply, read by capture.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlogrecord.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "replication/origin.h"

#include "groupnote.h"

#define PREFIX "replp2p group"
#define VERSION 1
#define HEAD_SIZE (2 + sizeof(uint64))
#define MEMBER_SIZE (sizeof(uint32) + sizeof(int64))

void
rp_group_note_write(const RpGroupNote *note)
{
	char		bytes[HEAD_SIZE + RP_GROUP_MAX * MEMBER_SIZE];
	char	   *at = bytes + HEAD_SIZE;

	Assert(note->n > 0 && note->n <= RP_GROUP_MAX);
	bytes[0] = VERSION;
	bytes[1] = (char) note->n;
	memcpy(bytes + 2, &note->first_seq, sizeof(uint64));
	for (int i = 0; i < note->n; i++, at += MEMBER_SIZE)
	{
		memcpy(at, &note->members[i].xid, sizeof(uint32));
		memcpy(at + sizeof(uint32), &note->members[i].stamp, sizeof(int64));
	}
	LogLogicalMessage(PREFIX, bytes, at - bytes, true);
}

bool
rp_group_note_read(XLogReaderState *reader, RpGroupNote *note)
{
	const xl_logical_message *message;
	const char *bytes;

	/* any client can write messages, but none under an origin */
	if (XLogRecGetRmid(reader) != RM_LOGICALMSG_ID ||
		XLogRecGetOrigin(reader) == InvalidRepOriginId)
		return false;
	message = (const xl_logical_message *) XLogRecGetData(reader);
	if (message->dbId != MyDatabaseId || !message->transactional ||
		message->prefix_size != sizeof(PREFIX) || strcmp(message->message, PREFIX) != 0)
		return false;
	bytes = message->message + message->prefix_size;
	if (message->message_size < HEAD_SIZE || bytes[0] != VERSION || bytes[1] < 1 ||
		bytes[1] > RP_GROUP_MAX || message->message_size != HEAD_SIZE + bytes[1] * MEMBER_SIZE)
		return false;			/* somebody else's, who uses our name */

	note->xid = XLogRecGetXid(reader);
	note->n = bytes[1];
	memcpy(&note->first_seq, bytes + 2, sizeof(uint64));
	bytes += HEAD_SIZE;
	for (int i = 0; i < note->n; i++, bytes += MEMBER_SIZE)
	{
		memcpy(&note->members[i].xid, bytes, sizeof(uint32));
		memcpy(&note->members[i].stamp, bytes + sizeof(uint32), sizeof(int64));
	}
	return true;
}

int
rp_group_note_find(const RpGroupNote *note, TransactionId xid)
{
	int			low = 0;
	int			high = note->n;

	/* the first one that begins after xid; the one before it is the member */
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (TransactionIdFollows(note->members[middle].xid, xid))
			high = middle;
		else
			low = middle + 1;
	}
	return low - 1;
}
