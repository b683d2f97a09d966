/*
 * refusals.c
 *	  Logging what was refused, so that nobody can fill the log.
 *
 * Every refusal is counted by its caller. It is logged once a minute for each
 * key or address, and RP_REFUSAL_SLOTS times a minute in all: the table of who
 * was logged lately is shared by all serving backends (RpNode.refusals, under
 * vector_lock), because a stranger may come with a new connection each time.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "refusals.h"

#define REPEAT_US ((int64) 60 * 1000000)
#define ADDRESS_SIZE 128

static bool is_due(RpNode *node, uint64 who);
static void write_log(const char *address, const char *what, const char *why);
static void client_address(char address[ADDRESS_SIZE]);

/* A key that is no member's. */
void
rp_refused_key(RpNode *node, const uint8 key[P2P_PUBLIC_KEY_SIZE], const char *what,
			   const char *why)
{
	char		address[ADDRESS_SIZE];

	if (!is_due(node, hash_bytes_extended(key, P2P_PUBLIC_KEY_SIZE, 0)))
		return;
	client_address(address);
	write_log(address, what, why);
}

/* A client that has not proven any key. */
void
rp_refused_client(RpNode *node, const char *what, const char *why)
{
	char		address[ADDRESS_SIZE];

	client_address(address);
	if (is_due(node, hash_bytes_extended((const unsigned char *) address,
										 (int) strlen(address), 1)))
		write_log(address, what, why);
}

/* Was who not logged in the last minute? Then that is noted. */
static bool
is_due(RpNode *node, uint64 who)
{
	TimestampTz now = GetCurrentTimestamp();
	RpRefusal  *place = &node->refusals[0];
	bool		due;

	SpinLockAcquire(&node->vector_lock);
	for (int i = 0; i < RP_REFUSAL_SLOTS; i++)
	{
		RpRefusal  *slot = &node->refusals[i];

		if (slot->who == who)
		{
			place = slot;
			break;
		}
		if (slot->logged_at < place->logged_at)
			place = slot;
	}
	/* A time in the future is left from before the clock was set back. */
	due = place->logged_at > now || now - place->logged_at >= REPEAT_US;
	if (due)
	{
		place->who = who;
		place->logged_at = now;
	}
	SpinLockRelease(&node->vector_lock);
	return due;
}

static void
write_log(const char *address, const char *what, const char *why)
{
	ereport(WARNING,
			(errmsg("refused a %s of a peer session from %s: %s", what, address, why),
			 errdetail("More of them from there are counted, but not logged, for a minute."),
			 errhint("See refused_strangers and refused_messages in the statistics views.")));
}

/* Write the client's address. */
static void
client_address(char address[ADDRESS_SIZE])
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum		value;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	value = inet_client_addr(fcinfo);
	if (fcinfo->isnull)
		strlcpy(address, "a local socket", ADDRESS_SIZE);
	else
		strlcpy(address, DatumGetCString(DirectFunctionCall1(inet_out, value)), ADDRESS_SIZE);
}
