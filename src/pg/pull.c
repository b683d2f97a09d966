/*
 * pull.c
 *	  From a peer's reply to a durable change log.
 *
 * Per origin one log, of which this worker is the only writer, and a cursor that
 * says where its contiguous part ends. Each origin is planned for itself, and each
 * peer is asked in one long poll for all origins that it was chosen for: the
 * relay that stands between the origin and this node (p2p_relay.h; groups of up
 * to four have none) while it can be asked and keeps up with what the
 * origin says of itself, else the origin, else the best relay (p2p_plan.h).
 *
 *	  reply -> parse -> known origin? -> the next one? -> group, body
 *		-> continues the hash chain? -> (a run of them) -> signature of the last
 *		-> append -> (all replies) -> write, let apply have it and relay it
 *		-> (soon) fsync -> publish as stored
 *
 * Nothing is believed because of who sent it: a batch counts by its origin's
 * signature alone. Each one names the hash of the one before it, signature
 * included; so of batches that come in a run the last one's signature is the
 * origin's word for all of them, and the only one that is looked at. If that is bad,
 * they are judged one by one. What is refused is counted, noted at the link to the peer
 * that sent it, and that peer is not asked for that origin for a while
 * (PENALTY_US); somebody else is. Nothing that a peer sends is an ERROR.
 *
 * The next PULL goes out before the batches of a full reply are durable, so that
 * both sides work: cursors run ahead of what is published as stored, which is durable. Where what came
 * goes from here is pull_store.c's.
 *
 * Where a log may begin: at the origin's first batch (seq 1, previous hash
 * zero); on a node that joined, anywhere up to what its copy covers. That part,
 * which holds the versions of copied rows, comes from the donor of the copy and
 * nobody else. What is stable at another member, and trimmed there, need not be so at
 * the donor: a change that is concurrent with it may have reached that member,
 * but not the copy. The donor keeps it until this node acks (states.c).
 *
 * A member that left, or was evicted, is pulled up to its last seq, from whomever has
 * it; the latter never from itself (evict.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "monotonic.h"
#include "peers.h"
#include "pull_internal.h"
#include "settings.h"

#include "p2p_plan.h"

#define PENALTY_US 5000000
/* How long after its origin a relay may have something. */
#define RELAY_PATIENCE_US 1000000
/*
 * Bytes after which a peer adds no batch to its reply: together with one batch
 * more still under work_mem's default, beyond which the peer's server would
 * write the reply to a temporary file.
 */
#define PULL_BYTES (2 * 1024 * 1024)

static void take_member(RpPull *pull, int slot);
static P2pMemberLog member_log(const PulledLog *log);
static int	choose_relay(RpPull *pull, int slot, const bool *reachable);
static int	choose_source(RpPull *pull, int slot, const bool *reachable, const int64 *rtt_us);
static bool take_batch(RpPull *pull, int peer, const P2pBlock *bytes, RpPullTaken *taken,
					   char **error);
static void run_add(PulledLog *log, const P2pBatch *batch, const P2pBlock *bytes);
static void run_settle(RpPull *pull, int slot, int peer, RpPullTaken *taken);
static void parse_again(const P2pBlock *bytes, P2pBatch *batch);
static void penalise(RpPull *pull, int slot, int peer);
static void refuse_batch(RpPull *pull, int slot, int peer, const char *why);

/* Make it; no log is open yet. */
RpPull *
rp_pull_make(RpNode *node, const RpIdentity *me)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p pull",
												  ALLOCSET_DEFAULT_SIZES);
	RpPull	   *pull = MemoryContextAllocZero(context, sizeof(RpPull));

	pull->context = context;
	pull->node = node;
	pull->me = me;
	return pull;
}

/* Note the donor. */
void
rp_pull_donor(RpPull *pull, const P2pId *donor)
{
	pull->donor = *donor;
}

/* Follow membership. */
void
rp_pull_refresh(RpPull *pull)
{
	RpSlotSet	opened = {0};
	bool		any = false;

	LWLockAcquire(&pull->node->lock, LW_SHARED);
	pull->nslots = pull->node->nmembers;
	LWLockRelease(&pull->node->lock);
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];
		bool		was_open = log->writer != NULL;

		take_member(pull, slot);
		if (!was_open && log->origin.epoch != 0)
		{
			log->source = -1;
			rp_pull_open_log(pull, slot);
			rp_slots_add(&opened, slot);
			any = true;
		}
	}
	if (!any && pull->refilled)
		return;
	rp_pull_refill(pull, &opened);
	pull->refilled = true;
	rp_pull_announce(pull, &opened);
}

/* Copy what shared memory says of a member. Epochs start at 1: 0 stands for none. */
static void
take_member(RpPull *pull, int slot)
{
	const RpMember *member = &pull->node->members[slot];
	PulledLog  *log = &pull->logs[slot];

	LWLockAcquire(&pull->node->lock, LW_SHARED);
	if (member->status != RP_MEMBER_FREE)
	{
		log->origin = member->origin;
		strlcpy(log->name, member->name, sizeof(log->name));
		memcpy(log->public_key, member->public_key, sizeof(log->public_key));
		log->left = member->status == RP_MEMBER_LEFT ||
			(member->status == RP_MEMBER_EVICTED && pull->node->cuts_known);
		log->left_seq = member->left_seq;
		SpinLockAcquire(&pull->node->vector_lock);
		log->required_seq = member->required_seq;
		log->covered_seq = Max(member->required_seq, member->applied_seq);
		SpinLockRelease(&pull->node->vector_lock);
	}
	LWLockRelease(&pull->node->lock);
}

/* Note what a member stores; what it has of its own, a relay must bring soon. */
void
rp_pull_heard(RpPull *pull, int slot, const P2pVector *stored)
{
	PulledLog  *log = &pull->logs[slot];

	log->stored = *stored;
	log->heard = true;
	if (log->over_relay)
		p2p_relay_expect(&log->trust, p2p_vector_get(stored, &log->origin), log->cursor.seq,
						 rp_monotonic_us());
}

/* Turn to the origins whose relays lag. */
void
rp_pull_watch(RpPull *pull)
{
	int64		now = rp_monotonic_us();

	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];

		if (log->over_relay &&
			p2p_relay_is_late(&log->trust, log->cursor.seq, now, RELAY_PATIENCE_US))
			pull->stale_us = now;
	}
}

/* Has the log all that there will ever be of its origin? */
bool
rp_pull_is_complete(const PulledLog *log)
{
	P2pMemberLog member = member_log(log);

	return p2p_member_is_complete(&member, log->cursor.seq);
}

/* What core's rules about joining and leaving want to know of a log. */
static P2pMemberLog
member_log(const PulledLog *log)
{
	return (P2pMemberLog) {
		.stored_seq = log->cursor.seq,
		.applied_seq = log->covered_seq,
		.required_seq = log->required_seq,
		.left = log->left,
		.left_seq = log->left_seq
	};
}

/* Choose for each origin whom to ask. */
void
rp_pull_plan(RpPull *pull, const bool *reachable)
{
	int64		rtt_us[RP_MAX_MEMBERS];

	SpinLockAcquire(&pull->node->vector_lock);
	for (int i = 0; i < pull->nslots; i++)
	{
		int64		measured = pull->node->members[i].rtt_us;

		rtt_us[i] = measured >= 0 ? measured : PG_INT64_MAX;
	}
	SpinLockRelease(&pull->node->vector_lock);

	pull->stale_us = 0;
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];

		log->source = -1;
		log->over_relay = false;
		if (log->writer == NULL || rp_pull_is_complete(log))
			continue;
		log->source = choose_relay(pull, slot, reachable);
		log->over_relay = log->source >= 0;
		if (log->over_relay)
			continue;
		p2p_relay_forget(&log->trust);
		log->source = choose_source(pull, slot, reachable, rtt_us);
	}

	SpinLockAcquire(&pull->node->vector_lock);
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
		pull->node->members[slot].pull_source = pull->logs[slot].source;
	SpinLockRelease(&pull->node->vector_lock);
}

/* Plan anew at this time, or before. */
static void
plan_again_by(RpPull *pull, int64 at_us)
{
	pull->stale_us = pull->stale_us == 0 ? at_us : Min(pull->stale_us, at_us);
}

/* Return the slot of the relay between an origin and this node, -1 = none that is to be asked now. */
static int
choose_relay(RpPull *pull, int slot, const bool *reachable)
{
	const PulledLog *log = &pull->logs[slot];
	int64		now = rp_monotonic_us();
	P2pOrigin	members[RP_MAX_MEMBERS];
	int			slots[RP_MAX_MEMBERS];
	uint32		n = 0;
	uint32		relay;

	if (!reachable[slot] || rp_node_status(pull->node) != RP_NODE_ACTIVE)
		return -1;
	members[n] = pull->me->self;
	slots[n++] = RP_SELF;
	for (int peer = RP_SELF + 1; peer < pull->nslots; peer++)
	{
		if (pull->logs[peer].writer == NULL || pull->logs[peer].left)
			continue;
		members[n] = pull->logs[peer].origin;
		slots[n++] = peer;
	}
	if (!p2p_relay_find(members, n, &pull->me->self, &log->origin, P2P_FANOUT, &relay) ||
		!reachable[slots[relay]] || log->penalty_us[slots[relay]] > now)
		return -1;
	if (p2p_relay_is_trusted(&log->trust, now))
		return slots[relay];
	plan_again_by(pull, log->trust.avoid_until_us);
	return -1;
}

/* Return the slot of the peer to ask for one origin, -1 = nobody; notes when a penalty ends. */
static int
choose_source(RpPull *pull, int slot, const bool *reachable, const int64 *rtt_us)
{
	const PulledLog *log = &pull->logs[slot];
	int64		now = rp_monotonic_us();
	bool		donor_only = log->cursor.seq < log->required_seq &&
		rp_node_status(pull->node) == RP_NODE_CATCHUP;
	P2pPlanPeer peers[RP_MAX_MEMBERS];
	int			slots[RP_MAX_MEMBERS];
	uint32		n = 0;
	P2pVector	mine;
	uint32		choice;

	for (int peer = RP_SELF + 1; peer < pull->nslots; peer++)
	{
		const PulledLog *other = &pull->logs[peer];
		int64		until = log->penalty_us[peer];

		if (!reachable[peer] || other->writer == NULL)
			continue;
		if (donor_only && p2p_id_compare(&other->origin.id, &pull->donor) != 0)
			continue;
		if (until > now)
		{
			plan_again_by(pull, until);
			continue;
		}
		peers[n].origin = other->origin;
		peers[n].reachable = true;
		peers[n].rtt_us = rtt_us[peer];
		peers[n].stored = other->heard ? &other->stored : NULL;
		slots[n++] = peer;
	}
	p2p_vector_clear(&mine);
	(void) p2p_vector_set(&mine, &log->origin, log->cursor.seq);
	p2p_plan_pulls(peers, n, &log->origin, 1, &mine, &choice);
	return choice == P2P_PLAN_NOBODY ? -1 : slots[choice];
}

/* Is a penalty over since the plan was made? */
bool
rp_pull_plan_is_stale(const RpPull *pull)
{
	return pull->stale_us != 0 && rp_monotonic_us() >= pull->stale_us;
}

/* Append the PULL for all origins that the peer was chosen for. */
bool
rp_pull_request(RpPull *pull, int peer, uint32 max_replies, StringInfo request)
{
	P2pPull    *message = palloc0(sizeof(P2pPull));
	RpSlotSet  *asked = &pull->asked[peer];
	P2pWriter	w;

	memset(asked, 0, sizeof(*asked));
	message->wait_ms = (uint32) rp_poll_timeout_ms;
	message->max_bytes = PULL_BYTES;
	message->max_replies = max_replies;
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		const PulledLog *log = &pull->logs[slot];
		P2pPullWant *want;

		if (log->writer == NULL || log->source != peer || rp_pull_is_complete(log))
			continue;
		want = &message->wants[message->nwants++];
		want->origin = log->origin;
		want->after_seq = log->cursor.seq;
		want->parts = log->cursor.parts;
		want->from_start = !log->cursor.started && log->covered_seq > 0;
		rp_slots_add(asked, slot);
	}
	if (message->nwants == 0)
		return false;
	enlargeStringInfo(request, P2P_PULL_MAX_SIZE);
	p2p_writer_init(&w, request->data + request->len, P2P_PULL_MAX_SIZE);
	p2p_put_pull(&w, message);
	Assert(!w.overflow);
	request->len += (int) w.length;
	return true;
}

bool
rp_pull_request_stands(const RpPull *pull, int peer)
{
	for (int slot = RP_SELF + 1; slot < pull->nslots; slot++)
	{
		const PulledLog *log = &pull->logs[slot];

		if (log->writer != NULL && !rp_pull_is_complete(log) &&
			(log->source == peer) != rp_slots_has(&pull->asked[peer], slot))
			return false;
	}
	return true;
}

/* Take a reply's batches. */
bool
rp_pull_receive(RpPull *pull, int peer, const void *bytes, size_t length,
				RpPullTaken *taken, char **error)
{
	RpMember   *member = &pull->node->members[peer];
	P2pReader	r;
	P2pBlock	block;
	P2pStatus	status = P2P_OK;
	bool		sound = true;
	int			seen = 0;

	memset(taken, 0, sizeof(*taken));
	taken->full = length + 1 >= PULL_BYTES;	/* with its kind */
	for (int slot = 0; slot < pull->nslots; slot++)
	{
		PulledLog  *log = &pull->logs[slot];

		log->skip = false;
		log->run = NULL;
		log->nrun = log->max_run = 0;
		log->run_end = log->cursor;
	}
	p2p_reader_init(&r, bytes, length);
	while (sound && (status = p2p_pull_reply_next(&r, &block)) == P2P_OK)
	{
		CHECK_FOR_INTERRUPTS();
		seen++;
		sound = take_batch(pull, peer, &block, taken, error);
	}
	for (int slot = 0; slot < pull->nslots; slot++)
		run_settle(pull, slot, peer, taken);
	if (!sound)
		return false;
	if (status != P2P_END)
	{
		*error = psprintf("malformed reply: %s", p2p_status_text(status));
		return false;
	}
	SpinLockAcquire(&pull->node->vector_lock);
	member->bytes_received += (int64) length;
	member->batches_received += seen;
	SpinLockRelease(&pull->node->vector_lock);
	return true;
}

/* Take one batch, if it is the next one of its log. False: the reply is beyond use. */
static bool
take_batch(RpPull *pull, int peer, const P2pBlock *bytes, RpPullTaken *taken, char **error)
{
	P2pBatch	batch;
	P2pStatus	status = p2p_batch_parse(bytes->bytes, bytes->length, &batch);
	PulledLog  *log;
	int			slot;

	if (status != P2P_OK)
	{
		pg_atomic_fetch_add_u64(&pull->node->stats.refused_batches, 1);
		*error = psprintf("malformed batch: %s", p2p_status_text(status));
		return false;
	}
	slot = rp_member_by_origin(pull->node, &batch.origin);
	if (slot <= RP_SELF || slot >= pull->nslots || pull->logs[slot].writer == NULL)
	{
		refuse_batch(pull, -1, peer, "its origin was not asked for");
		return true;
	}
	log = &pull->logs[slot];
	if (log->skip)
		return true;
	switch (p2p_cursor_judge(&log->run_end, &batch.span))
	{
		case P2P_ARRIVAL_DUPLICATE:
			return true;
		case P2P_ARRIVAL_GAP:
			/*
			 * Honest: two peers were asked to begin an empty log, and keep
			 * different lengths of it. Ask another one first.
			 */
			penalise(pull, slot, peer);
			log->skip = true;
			return true;
		case P2P_ARRIVAL_NEXT:
			break;
	}
	if (p2p_batch_check(&batch, &pull->me->group, log->public_key) == P2P_OK &&
		rp_pull_judge_place(log, &log->run_end, &batch) == NULL)
	{
		run_add(log, &batch, bytes);
		return true;
	}
	run_settle(pull, slot, peer, taken);
	if (log->skip)
		return true;
	status = p2p_batch_verify(&batch, bytes->bytes, &pull->me->group, log->public_key);
	refuse_batch(pull, slot, peer, status != P2P_OK ? p2p_status_text(status) :
				 rp_pull_judge_place(log, &log->cursor, &batch));
	log->skip = true;
	return true;
}

/* Does a batch that comes next by its seq continue the log at cursor? NULL, or why not. */
const char *
rp_pull_judge_place(const PulledLog *log, const P2pCursor *cursor, const P2pBatch *batch)
{
	P2pMemberLog member = member_log(log);

	if (!cursor->started)
		return p2p_member_may_begin(&member, &batch->span, batch->previous_hash) ?
			NULL : "the log cannot begin with it";
	if (memcmp(batch->previous_hash, cursor->hash, P2P_HASH_SIZE) != 0)
		return "it does not continue the origin's log as stored here";
	return NULL;
}

/* Put a batch behind those that wait for a signature. Bytes and list live as long as the step. */
static void
run_add(PulledLog *log, const P2pBatch *batch, const P2pBlock *bytes)
{
	if (log->nrun == log->max_run)
	{
		log->max_run = Max(16, log->max_run * 2);
		log->run = log->run == NULL ? palloc(log->max_run * sizeof(P2pBlock)) :
			repalloc_huge(log->run, log->max_run * sizeof(P2pBlock));
	}
	log->run[log->nrun++] = *bytes;
	p2p_cursor_advance(&log->run_end, &batch->span, batch->hash);
}

/* Append the batches that wait if the last one's signature is good, else those before the first bad one. */
static void
run_settle(RpPull *pull, int slot, int peer, RpPullTaken *taken)
{
	PulledLog  *log = &pull->logs[slot];
	const P2pBlock *last;
	P2pBatch	batch;
	bool		vouched;

	if (log->nrun == 0)
		return;
	last = &log->run[log->nrun - 1];
	parse_again(last, &batch);
	vouched = p2p_batch_verify(&batch, last->bytes, &pull->me->group, log->public_key) == P2P_OK;
	for (uint32 i = 0; i < log->nrun; i++)
	{
		const P2pBlock *bytes = &log->run[i];
		P2pStatus	status = P2P_OK;

		parse_again(bytes, &batch);
		if (!vouched)
			status = p2p_batch_verify(&batch, bytes->bytes, &pull->me->group, log->public_key);
		if (status != P2P_OK)
		{
			refuse_batch(pull, slot, peer, p2p_status_text(status));
			log->skip = true;
			break;
		}
		rp_pull_append(pull, log, &batch, bytes);
		taken->batches++;
		if (batch.span.final)
			taken->transactions += batch.span.last_seq - batch.span.first_seq + 1;
	}
	log->nrun = 0;
	log->run_end = log->cursor;
}

/* Parse a batch that was parsed before. */
static void
parse_again(const P2pBlock *bytes, P2pBatch *batch)
{
	if (p2p_batch_parse(bytes->bytes, bytes->length, batch) != P2P_OK)
		elog(ERROR, "a batch has changed in memory");
}

/* Don't ask the peer for this origin for a while. */
static void
penalise(RpPull *pull, int slot, int peer)
{
	int64		now = rp_monotonic_us();

	pull->logs[slot].penalty_us[peer] = now + PENALTY_US;
	pull->stale_us = now;		/* plan anew at once */
}

/* Count and note a batch that was refused. slot: of its origin, -1 = unknown. */
static void
refuse_batch(RpPull *pull, int slot, int peer, const char *why)
{
	char		text[RP_ERROR_TEXT_SIZE];

	pg_atomic_fetch_add_u64(&pull->node->stats.refused_batches, 1);
	if (slot >= 0)
		snprintf(text, sizeof(text), "refused a batch of origin \"%s\" from it: %s",
				 pull->logs[slot].name, why);
	else
		snprintf(text, sizeof(text), "refused a batch from it: %s", why);
	rp_peer_error(pull->node, peer, text);
	if (slot >= 0)
		penalise(pull, slot, peer);
}

/* An ERROR whose text begins with an origin, "<node id>.<epoch>:", is about that origin only. */
bool
rp_pull_refused(RpPull *pull, int peer, const char *text)
{
	char		id[P2P_ID_TEXT_SIZE];
	P2pOrigin	origin;
	int			slot;

	strlcpy(id, text, sizeof(id));
	if (strlen(text) < sizeof(id) || text[sizeof(id) - 1] != '.' ||
		!p2p_id_from_text(id, &origin.id))
		return false;
	origin.epoch = (uint32) strtoul(text + sizeof(id), NULL, 10);
	slot = rp_member_by_origin(pull->node, &origin);
	if (slot <= RP_SELF || slot >= pull->nslots)
		return false;
	penalise(pull, slot, peer);
	return true;
}
