/*
 * serve.c
 *	  Answers to GOSSIP and PULL.
 *
 * GOSSIP: take the states that the peer pushes, answer with our clock, our
 * digest and what is newer here than in its digest.
 *
 * PULL: batches of the wanted origins, the same bytes as in the logs here, own
 * log or not: so every member is a relay of every other. It waits until some
 * wanted origin has more than the peer has, then takes one batch of each wanted log in turn, so that no
 * origin's backlog starves another, until max_bytes are reached. Nothing new in
 * wait_ms: an empty reply. Whoever allows for several replies gets the next one as soon as there is something, in the
 * same statement (exchange.c). What the peer needs is trimmed, or damaged on this
 * disk: if nothing else can be sent, an ERROR (GONE, INTERNAL) whose text begins
 * with the origin, "<node id>.<epoch>", so that the peer asks somebody else for it.
 *
 * What is written is served, be it durable or not: it cannot come out differently later, since its
 * origin is sure to have it, or to make it again the same (capture_batch.c). Losing it here does no harm to
 * who has it.
 *
 * While waiting the backend holds no snapshot and no lock but its virtual xid
 * (exchange.c sees to that); it notices interrupts, a closed connection and the
 * postmaster's death. Waking (pollers.c): the writer of a log that is waited for, and who
 * wants the database for himself (drops.c).
 *
 * A reader per log stays open between requests, at the place where the last reply
 * ended: reading on costs no look-up. Cancelling or an ERROR in between leaves a
 * reader's place unknown at worst, and it is looked up anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "crashpoint.h"
#include "exchange.h"
#include "libpq_server.h"
#include "monotonic.h"
#include "pollers.h"
#include "serve.h"
#include "states.h"
#include "worker.h"

/* A log that this backend reads for its peer. */
typedef struct ServedLog
{
	P2pOrigin	origin;
	RpLogReader *reader;
	uint64		opened;			/* RpLogExtent */
	bool		placed;			/* it stands behind (seq, parts) */
	uint64		seq;
	uint32		parts;
} ServedLog;

/* What one request wants of one log. */
typedef struct ServedWant
{
	P2pPullWant *want;
	int			slot;
	ServedLog  *log;
	RpLogExtent extent;			/* when reading began */
	bool		done;
} ServedWant;

static MemoryContext serve_context = NULL;
static ServedLog *served[RP_MAX_MEMBERS];
static int	nserved = 0;

static int	known_wants(RpNode *node, P2pPull *pull, ServedWant *wants);
static ServedLog *served_log(const P2pOrigin *origin);
static void wait_for_news(RpNode *node, const ServedWant *wants, int n, uint32 wait_ms);
static void stop_waiting(int code, Datum number);
static bool any_news(RpNode *node, const ServedWant *wants, int n);
static bool wait_for_client(long timeout_ms);
static bool read_all(RpNode *node, ServedWant *wants, int n, uint32 max_bytes, StringInfo reply);
static P2pStatus read_one(RpNode *node, ServedWant *want, StringInfo reply);
static bool stand_at(ServedWant *want);
static void report_missing(const ServedWant *want, P2pStatus status, StringInfo reply);

/* Append ERROR. */
void
rp_serve_error(StringInfo reply, P2pErrorCode code, const char *text)
{
	size_t		size = P2P_TEXT_SIZE + 16;
	P2pWriter	w;

	enlargeStringInfo(reply, (int) size);
	p2p_writer_init(&w, reply->data + reply->len, size);
	p2p_put_error(&w, code, text);
	Assert(!w.overflow);
	reply->len += (int) w.length;
}

/* Answer GOSSIP. */
void
rp_serve_gossip(RpNode *node, const P2pGossip *gossip, StringInfo reply)
{
	P2pGossip  *answer = palloc0(sizeof(P2pGossip));
	bool		newer = false;

	for (uint32 i = 0; i < gossip->nstates; i++)
	{
		if (rp_state_hear(node, &gossip->states[i]))
			newer = true;
	}
	if (newer)
		rp_worker_wake(node, RP_WORKER_GOSSIP);

	rp_states_digest(node, answer);
	rp_states_newer(node, gossip, answer);
	answer->clock = GetCurrentTimestamp();
	rp_states_write(reply, P2P_MSG_GOSSIP_REPLY, answer);
}

/* Answer PULL, waiting for something to say. */
bool
rp_serve_pull(RpNode *node, P2pPull *pull, StringInfo reply)
{
	ServedWant *wants = palloc0(sizeof(ServedWant) * P2P_MAX_MEMBERS);
	int			n = known_wants(node, pull, wants);
	uint32		wait_ms = Min(pull->wait_ms, RP_PULL_MAX_WAIT_MS);
	int64		rested_us = rp_monotonic_us() + Max(wait_ms, RP_PULL_MIN_WAIT_MS) * INT64CONST(1000);
	int			start = reply->len;

	wait_for_news(node, wants, n, wait_ms);
	return read_all(node, wants, n, Min(pull->max_bytes, RP_PULL_MAX_BYTES), reply) &&
		(reply->len > start + 1 || rp_monotonic_us() >= rested_us);
}

/* Close all readers. */
void
rp_serve_end(void)
{
	if (serve_context != NULL)
		MemoryContextDelete(serve_context);
	serve_context = NULL;
	nserved = 0;
}

/* Fill wants with those whose origin is a member (or was) here; returns how many. */
static int
known_wants(RpNode *node, P2pPull *pull, ServedWant *wants)
{
	int			n = 0;

	for (uint32 i = 0; i < pull->nwants; i++)
	{
		int			slot = rp_member_by_origin(node, &pull->wants[i].origin);
		ServedLog  *log = slot >= 0 ? served_log(&pull->wants[i].origin) : NULL;

		if (log == NULL)
			continue;
		wants[n].want = &pull->wants[i];
		wants[n].slot = slot;
		wants[n].log = log;
		n++;
	}
	return n;
}

/* Return the reader kept for an origin, made if need be; NULL if there are too many. */
static ServedLog *
served_log(const P2pOrigin *origin)
{
	MemoryContext old;
	ServedLog  *log;

	for (int i = 0; i < nserved; i++)
	{
		if (p2p_origin_equal(&served[i]->origin, origin))
			return served[i];
	}
	if (nserved == RP_MAX_MEMBERS)
		return NULL;

	if (serve_context == NULL)
		serve_context = AllocSetContextCreate(TopMemoryContext, "replp2p serve",
											  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(serve_context);
	log = palloc0(sizeof(ServedLog));
	log->origin = *origin;
	log->reader = rp_log_open_reader(MyDatabaseId, origin);
	served[nserved++] = log;
	MemoryContextSwitchTo(old);
	return log;
}

/* Wait until one of the wants can be served, or wait_ms are over, or the client has gone. */
static void
wait_for_news(RpNode *node, const ServedWant *wants, int n, uint32 wait_ms)
{
	int64		until = rp_monotonic_us() + (int64) wait_ms * 1000;
	RpSlotSet	slots = {0};
	int			number;

	if (wait_ms == 0 || any_news(node, wants, n))
		return;
	rp_exchange_let_go();
	for (int i = 0; i < n; i++)
		rp_slots_add(&slots, wants[i].slot);
	number = rp_poller_enter(node, &slots);
	if (number < 0)
		return;					/* the peer asks again before long */
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(number));
	{
		for (;;)
		{
			int64		left_us = until - rp_monotonic_us();

			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			/* settings are read again between statements, and may cut this very link */
			if (any_news(node, wants, n) || rp_workers_are_stopped(node) || ConfigReloadPending ||
				left_us <= 0 ||
				!wait_for_client((long) ((left_us + 999) / 1000)))
				break;
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(number));
	rp_poller_leave(node, number);
}

/* An ERROR, or the end of this backend, while it waits. */
static void
stop_waiting(int code, Datum number)
{
	rp_poller_leave(rp_node_find(MyDatabaseId), DatumGetInt32(number));
}

/* Is there, of any wanted origin, more than the peer has? */
static bool
any_news(RpNode *node, const ServedWant *wants, int n)
{
	bool		news = false;

	for (int i = 0; i < n && !news; i++)
		news = rp_log_extent(node, wants[i].slot).readable_seq > wants[i].want->after_seq;
	return news;
}

/* Wait for the latch (which stays set), at most timeout_ms; false: the client has closed the connection. */
static bool
wait_for_client(long timeout_ms)
{
	WaitEvent	events[FeBeWaitSetNEvents];
	int			n;

	if (!WaitEventSetCanReportClosed())
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
						 PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
		return true;
	}
	/* All users of this set choose the socket's events anew. */
	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_CLOSED, NULL);
	n = WaitEventSetWait(FeBeWaitSet, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_SOCKET_CLOSED)
			return false;
		if (events[i].events & WL_POSTMASTER_DEATH)
			ereport(FATAL,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("terminating connection due to unexpected postmaster exit")));
	}
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Append PULL_REPLY with what the wants get, in turn; or ERROR if one of them can't and none does. True: it is all there is. */
static bool
read_all(RpNode *node, ServedWant *wants, int n, uint32 max_bytes, StringInfo reply)
{
	int			start = reply->len;
	bool		progress = true;
	ServedWant *failed = NULL;
	P2pStatus	failure = P2P_OK;

	appendStringInfoChar(reply, (char) P2P_MSG_PULL_REPLY);
	for (int i = 0; i < n; i++)
	{
		wants[i].extent = rp_log_extent(node, wants[i].slot);
		if (wants[i].want->parts > 0 && wants[i].extent.readable_seq > wants[i].want->after_seq)
			RP_CRASH_POINT("serve_further_parts");
	}

	while (progress)
	{
		progress = false;
		for (int i = 0; i < n; i++)
		{
			P2pStatus	status;

			if (wants[i].done)
				continue;
			/* At least one batch, however large; a reply stays far below P2P_MAX_MESSAGE. */
			if (reply->len > start + 1 && reply->len - start >= (int) max_bytes)
				return false;
			CHECK_FOR_INTERRUPTS();
			status = read_one(node, &wants[i], reply);
			if (status == P2P_OK)
				progress = true;
			else
				wants[i].done = true;
			if (status != P2P_OK && status != P2P_END)
			{
				failed = &wants[i];
				failure = status;
			}
		}
	}
	if (failed != NULL && reply->len == start + 1)
	{
		reply->len = start;
		report_missing(failed, failure, reply);
	}
	return failed == NULL;
}

/*
 * Append the next batch of a wanted log. P2P_END: there is none; P2P_REFUSED:
 * trimmed; P2P_CORRUPT: the disk changed it.
 */
static P2pStatus
read_one(RpNode *node, ServedWant *want, StringInfo reply)
{
	ServedLog  *log = want->log;
	RpLogLimit	limit = {want->extent.readable_seq, 0, false};
	P2pBatch	batch;
	P2pBlock	bytes;
	P2pStatus	status;
	P2pWriter	w;

	if (want->extent.readable_seq <= want->want->after_seq)
		return P2P_END;
	limit.unsure = want->want->after_seq >= want->extent.durable_seq;
	if (!stand_at(want))
		return limit.unsure ? P2P_END : P2P_REFUSED;
	log->placed = false;		/* also if reading raises an ERROR */
	status = rp_log_read_to(log->reader, &limit, &bytes, &batch);
	if (status == P2P_CORRUPT)
		rp_worker_wake(node, RP_WORKER_GOSSIP); /* it repairs what is not our own */
	if (status != P2P_OK)
	{
		log->placed = status == P2P_END;
		return status;
	}
	log->placed = true;
	log->seq = batch.span.final ? batch.span.last_seq : batch.span.first_seq - 1;
	log->parts = batch.span.final ? 0 : batch.span.part + 1;
	*want->want = (P2pPullWant) {
		.origin = want->want->origin, .after_seq = log->seq, .parts = log->parts
	};

	enlargeStringInfo(reply, (int) bytes.length + 10);
	p2p_writer_init(&w, reply->data + reply->len, bytes.length + 10);
	p2p_put_block(&w, bytes.bytes, bytes.length);
	Assert(!w.overflow);
	reply->len += (int) w.length;
	return P2P_OK;
}

/*
 * Have the reader stand where the peer's log ends, with what was sent to it; false: trimmed.
 */
static bool
stand_at(ServedWant *want)
{
	ServedLog  *log = want->log;
	const P2pPullWant *w = want->want;
	/* A peer asks for what it had before when its log was cut, or it refused what we sent. */
	bool		reading_on = log->seq == w->after_seq && log->parts == w->parts;

	if (!log->placed || w->from_start || !reading_on || log->opened != want->extent.opened)
	{
		log->opened = want->extent.opened;
		log->placed = rp_log_seek(log->reader, w->after_seq, w->parts, w->from_start);
		log->seq = w->after_seq;
		log->parts = w->parts;
	}
	return log->placed;
}

/* Append an ERROR that names the origin whose batches can't be had here. */
static void
report_missing(const ServedWant *want, P2pStatus status, StringInfo reply)
{
	const P2pOrigin *origin = &want->want->origin;
	char		id[P2P_ID_TEXT_SIZE];
	char		text[P2P_TEXT_SIZE];

	p2p_id_to_text(&origin->id, id);
	snprintf(text, sizeof(text), "%s.%u: transactions after " UINT64_FORMAT " are %s",
			 id, origin->epoch, want->want->after_seq,
			 status == P2P_REFUSED ? "no longer kept here" : "damaged on this disk");
	rp_serve_error(reply, status == P2P_REFUSED ? P2P_ERROR_GONE : P2P_ERROR_INTERNAL, text);
}
