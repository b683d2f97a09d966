/*
 * peers.c
 *	  The gossip worker's links: two to each member, and what is said on them.
 *
 * On the control link GOSSIP goes round once per replp2p.gossip_interval, and
 * soon after a state was heard that this peer lacks. On the poll link one PULL
 * after the other waits at the peer; it would keep anything else waiting, hence
 * the second link. A member is asked for batches only while its control link
 * has had a proper answer: that is what "reachable" means to the plan.
 *
 *	  control:  open -> GOSSIP -> reply: heard -> ... -> fails: not heard
 *	  poll:     (heard) open -> (the plan wants something) PULL -> reply, reply ... -> PULL ...
 *
 * Links are made for every admitted member but this node, unless its link is
 * cut by replp2p.unreachable_peers, and closed when that ends. What a peer sends
 * may be anything: the worst that it can do is to lose its link.
 *
 * The link's columns in RpMember are written here alone, under vector_lock.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "linkset.h"
#include "link.h"
#include "monotonic.h"
#include "peers.h"
#include "settings.h"
#include "states.h"

#include "p2p_clock.h"
#include "p2p_pace.h"
#include "p2p_relay.h"

/* States that a peer lacks are pushed no sooner than this after the last reply. */
#define PUSH_DELAY_US 100000
/* A PULL that comes back empty long before its time is not repeated at once. */
#define EMPTY_DELAY_US 200000
/* The same error of the same link is logged again after so long. */
#define REPEAT_LOG_US ((int64) 600 * 1000000)

/*
 * A PULL may have so many replies while changes come one by one, since to ask for each would take as long as to
 * answer; or if the way is long, since they would wait for the question. Else asking at its own pace lets them gather
 * (p2p_pace.h). The next reply, which replp2p.poll_timeout brings if nothing else does, ends it if the plan is another by
 * then.
 */
#define MANY_REPLIES 10000
#define LONG_WAY_US 2000

typedef struct Peer
{
	bool		linked;
	P2pOrigin	origin;
	char		name[NAMEDATALEN];
	char		dsn[P2P_DSN_SIZE];
	RpLink	   *control;
	RpLink	   *poll;
	bool		heard;			/* the control link has had a proper answer */
	int64		gossip_due_us;	/* monotonic */
	int64		push_due_us;	/* 0 = the peer lacks nothing */
	int64		poll_due_us;
	P2pPace		pace;			/* of the PULLs */
	TimestampTz sent_clock;		/* own clock when the GOSSIP under way was sent */
	P2pGossip  *theirs;			/* its last digest; states are not kept */
	int			control_number; /* in the link set's present round */
	int			poll_number;
} Peer;

struct RpPeers
{
	MemoryContext context;
	RpNode	   *node;
	const RpIdentity *me;
	RpPull	   *pull;
	char		application_name[NAMEDATALEN + 16];
	bool		plan_due;
	char		evicted_by[NAMEDATALEN];	/* a member says that this node is evicted; '' = none */
	bool		more;			/* a reply of this round has left something behind */
	RpLinkSet  *set;
	Peer		peers[RP_MAX_MEMBERS];
};

static bool wanted_link(RpNode *node, int slot, Peer *wanted);
static void open_peer(RpPeers *peers, int slot, const Peer *wanted);
static void close_peer(RpPeers *peers, int slot);
static RpLink *make_link(RpPeers *peers, const Peer *peer);
static bool poll_is_wanted(const Peer *peer);
static long next_timeout(RpPeers *peers, long timeout_ms);
static void step_control(RpPeers *peers, int slot, bool ready);
static void step_poll(RpPeers *peers, int slot, bool ready);
static void control_failed(RpPeers *peers, int slot, const char *why);
static void take_control_reply(RpPeers *peers, int slot);
static bool reply_error(RpPeers *peers, int slot, const RpLink *link, char text[P2P_TEXT_SIZE]);
static void take_gossip(RpPeers *peers, int slot, const P2pGossip *gossip);
static void note_contact(RpPeers *peers, int slot, int64 peer_clock);
static void take_poll_reply(RpPeers *peers, int slot);
static int64 poll_delay(RpPeers *peers, Peer *peer, const RpPullTaken *taken);
static void send_gossip(RpPeers *peers, int slot);
static void send_pull(RpPeers *peers, int slot);
static void plan(RpPeers *peers);

/* Make it, without any link. */
RpPeers *
rp_peers_make(RpNode *node, const RpIdentity *me, RpPull *pull)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replp2p peers",
												  ALLOCSET_DEFAULT_SIZES);
	RpPeers    *peers = MemoryContextAllocZero(context, sizeof(RpPeers));
	MemoryContext old = CurrentMemoryContext;

	peers->context = context;
	peers->node = node;
	peers->me = me;
	peers->pull = pull;
	MemoryContextSwitchTo(context);
	peers->set = rp_linkset_make();
	MemoryContextSwitchTo(old);
	LWLockAcquire(&node->lock, LW_SHARED);
	snprintf(peers->application_name, sizeof(peers->application_name), "replp2p %s",
			 node->members[RP_SELF].name);
	LWLockRelease(&node->lock);
	return peers;
}

/* Follow membership and replp2p.unreachable_peers. */
void
rp_peers_refresh(RpPeers *peers)
{
	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS; slot++)
	{
		Peer	   *peer = &peers->peers[slot];
		Peer		wanted;
		bool		want = wanted_link(peers->node, slot, &wanted);

		if (peer->linked &&
			(!want || strcmp(peer->dsn, wanted.dsn) != 0 || strcmp(peer->name, wanted.name) != 0))
			close_peer(peers, slot);
		if (want && !peer->linked)
			open_peer(peers, slot, &wanted);
	}
}

/* Shall there be links to the member in slot? Then to whom is in *wanted. */
static bool
wanted_link(RpNode *node, int slot, Peer *wanted)
{
	const RpMember *member = &node->members[slot];
	bool		admitted;

	LWLockAcquire(&node->lock, LW_SHARED);
	admitted = slot < node->nmembers && member->status == RP_MEMBER_ADMITTED;
	if (admitted)
	{
		wanted->origin = member->origin;
		strlcpy(wanted->name, member->name, sizeof(wanted->name));
		strlcpy(wanted->dsn, member->dsn, sizeof(wanted->dsn));
	}
	LWLockRelease(&node->lock);
	return admitted && !rp_peer_is_cut(wanted->name);
}

/* Make both links to a member; they connect when stepped. */
static void
open_peer(RpPeers *peers, int slot, const Peer *wanted)
{
	Peer	   *peer = &peers->peers[slot];
	MemoryContext old = MemoryContextSwitchTo(peers->context);

	memset(peer, 0, sizeof(*peer));
	peer->linked = true;
	peer->origin = wanted->origin;
	strlcpy(peer->name, wanted->name, sizeof(peer->name));
	strlcpy(peer->dsn, wanted->dsn, sizeof(peer->dsn));
	peer->control = make_link(peers, peer);
	peer->poll = make_link(peers, peer);
	peer->theirs = palloc0(sizeof(P2pGossip));
	MemoryContextSwitchTo(old);
}

static RpLink *
make_link(RpPeers *peers, const Peer *peer)
{
	RpLinkTarget target = {
		.me = peers->me,
		.group = peers->me->group,
		.peer = peer->origin.id,
		.dsn = peer->dsn,
		.application_name = peers->application_name
	};

	return rp_link_make(&target);
}

/* Close both links to a member. */
static void
close_peer(RpPeers *peers, int slot)
{
	Peer	   *peer = &peers->peers[slot];

	rp_link_free(peer->control);
	rp_link_free(peer->poll);
	pfree(peer->theirs);
	memset(peer, 0, sizeof(*peer));
	SpinLockAcquire(&peers->node->vector_lock);
	peers->node->members[slot].connected = false;
	SpinLockRelease(&peers->node->vector_lock);
	rp_linkset_forget(peers->set);
	peers->plan_due = true;
}

/* Is anything taken that a member sends? */
bool
rp_peers_is_linked(const RpPeers *peers, int slot)
{
	return peers->peers[slot].linked;
}

/* Return the name of a member that has said that this node is evicted, or NULL. */
const char *
rp_peers_evicted_by(const RpPeers *peers)
{
	return peers->evicted_by[0] != '\0' ? peers->evicted_by : NULL;
}

/* Wait, then step all links. */
bool
rp_peers_wait(RpPeers *peers, long timeout_ms)
{
	peers->more = false;
	rp_linkset_begin(peers->set);
	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS; slot++)
	{
		Peer	   *peer = &peers->peers[slot];

		if (!peer->linked)
			continue;
		peer->control_number = rp_linkset_add(peers->set, peer->control);
		peer->poll_number = rp_linkset_add(peers->set, peer->poll);
	}
	rp_linkset_wait(peers->set, next_timeout(peers, timeout_ms));

	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS; slot++)
	{
		const Peer *peer = &peers->peers[slot];

		if (!peer->linked)
			continue;
		step_control(peers, slot, rp_linkset_ready(peers->set, peer->control_number));
		if (poll_is_wanted(peer))
			step_poll(peers, slot, rp_linkset_ready(peers->set, peer->poll_number));
	}
	return peers->more;
}

/* Is there anything to do on the poll link? It connects when the peer has been heard. */
static bool
poll_is_wanted(const Peer *peer)
{
	return peer->heard || peer->poll->state != RP_LINK_IDLE;
}

/* Return how long nothing needs to be done, at most timeout_ms. */
static long
next_timeout(RpPeers *peers, long timeout_ms)
{
	int64		now = rp_monotonic_us();
	int64		until = now + timeout_ms * 1000;

	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS; slot++)
	{
		const Peer *peer = &peers->peers[slot];
		long		control_ms;
		long		poll_ms;

		if (!peer->linked)
			continue;
		control_ms = rp_link_timeout(peer->control, now);
		poll_ms = poll_is_wanted(peer) ? rp_link_timeout(peer->poll, now) : -1;
		if (control_ms >= 0)
			until = Min(until, now + control_ms * 1000);
		if (poll_ms >= 0)
			until = Min(until, now + poll_ms * 1000);
		if (peer->control->state == RP_LINK_READY)
		{
			until = Min(until, peer->gossip_due_us);
			if (peer->push_due_us != 0)
				until = Min(until, peer->push_due_us);
		}
		if (peer->poll->state == RP_LINK_READY && peer->poll_due_us > now)
			until = Min(until, peer->poll_due_us);
	}
	return until <= now ? 0 : (long) ((until - now + 999) / 1000);
}

/* Go on with a control link. */
static void
step_control(RpPeers *peers, int slot, bool ready)
{
	Peer	   *peer = &peers->peers[slot];

	switch (rp_link_step(peer->control, ready))
	{
		case RP_LINK_NOTHING:
			break;
		case RP_LINK_OPENED:
			peer->gossip_due_us = 0;
			break;
		case RP_LINK_REPLIED:
			take_control_reply(peers, slot);
			break;
		case RP_LINK_FAILED:
			control_failed(peers, slot, peer->control->error);
			break;
	}
}

/* Go on with a poll link. */
static void
step_poll(RpPeers *peers, int slot, bool ready)
{
	Peer	   *peer = &peers->peers[slot];

	RpLinkEvent event;

	do
	{
		event = rp_link_step(peer->poll, ready);
		ready = false;
		switch (event)
		{
			case RP_LINK_NOTHING:
				break;
			case RP_LINK_OPENED:
				peer->poll_due_us = 0;
				peers->plan_due = true;
				break;
			case RP_LINK_REPLIED:
				take_poll_reply(peers, slot);
				break;
			case RP_LINK_FAILED:
				rp_peer_error(peers->node, slot, peer->poll->error);
				peers->plan_due = true;
				break;
		}
	} while (event == RP_LINK_REPLIED);
}

/* The control link is down. The digest is forgotten: the peer may be another process then. */
static void
control_failed(RpPeers *peers, int slot, const char *why)
{
	Peer	   *peer = &peers->peers[slot];
	RpMember   *member = &peers->node->members[slot];
	TimestampTz now = GetCurrentTimestamp();

	rp_peer_error(peers->node, slot, why);
	peer->heard = false;
	peer->push_due_us = 0;
	peer->theirs->ndigest = 0;
	SpinLockAcquire(&peers->node->vector_lock);
	member->connected = false;
	member->connect_failed_at = now;
	SpinLockRelease(&peers->node->vector_lock);
	peers->plan_due = true;
}

/* Take the answer to GOSSIP. */
static void
take_control_reply(RpPeers *peers, int slot)
{
	Peer	   *peer = &peers->peers[slot];
	RpLink	   *link = peer->control;
	P2pGossip  *gossip = palloc(sizeof(P2pGossip));
	char		text[P2P_TEXT_SIZE];
	P2pReader	r;

	if (reply_error(peers, slot, link, text))
	{
		rp_link_fail(link, text);
		control_failed(peers, slot, text);
		return;
	}
	p2p_reader_init(&r, link->reply.data + 1, link->reply.len - 1);
	if (link->reply.data[0] != P2P_MSG_GOSSIP_REPLY || p2p_get_gossip(&r, gossip) != P2P_OK)
	{
		rp_link_fail(link, "malformed answer to GOSSIP");
		control_failed(peers, slot, link->error);
		return;
	}
	rp_link_prosper(link);
	take_gossip(peers, slot, gossip);
}

/* Is the reply an ERROR? Then text is what it says, cleaned; notes if it says that we are evicted. */
static bool
reply_error(RpPeers *peers, int slot, const RpLink *link, char text[P2P_TEXT_SIZE])
{
	char		raw[P2P_TEXT_SIZE];
	P2pErrorCode code;
	P2pReader	r;

	if (link->reply.data[0] != P2P_MSG_ERROR)
		return false;
	p2p_reader_init(&r, link->reply.data + 1, link->reply.len - 1);
	if (p2p_get_error(&r, &code, raw) != P2P_OK)
		strlcpy(raw, "malformed error", sizeof(raw));
	else if (code == P2P_ERROR_EVICTED)
		strlcpy(peers->evicted_by, peers->peers[slot].name, sizeof(peers->evicted_by));
	rp_text_clean(text, P2P_TEXT_SIZE, raw);
	return true;
}

/* Take what a peer says: clock, states, and what it knows itself. */
static void
take_gossip(RpPeers *peers, int slot, const P2pGossip *gossip)
{
	Peer	   *peer = &peers->peers[slot];
	int64		now = rp_monotonic_us();

	for (uint32 i = 0; i < gossip->nstates; i++)
		(void) rp_state_hear(peers->node, &gossip->states[i]);

	peer->theirs->ndigest = gossip->ndigest;
	memcpy(peer->theirs->digest, gossip->digest, sizeof(P2pDigestEntry) * gossip->ndigest);
	peer->gossip_due_us = now + (int64) rp_gossip_interval_ms * 1000;
	peer->push_due_us = rp_states_any_newer(peers->node, peer->theirs) ? now + PUSH_DELAY_US : 0;
	if (!peer->heard)
		peers->plan_due = true;
	peer->heard = true;
	note_contact(peers, slot, gossip->clock);
}

/* Note contact, round trip and clock of a member. */
static void
note_contact(RpPeers *peers, int slot, int64 peer_clock)
{
	const Peer *peer = &peers->peers[slot];
	RpMember   *member = &peers->node->members[slot];
	int64		rtt = Max(peer->control->replied_us - peer->control->sent_us, 0);
	int64		offset = p2p_clock_offset(peer->sent_clock, peer_clock, peer->sent_clock + rtt);
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&peers->node->vector_lock);
	member->connected = true;
	member->last_contact = now;
	member->rtt_us = member->rtt_us < 0 ? rtt : (member->rtt_us * 7 + rtt) / 8;
	member->clock_offset_us = offset;
	member->clock_known = true;
	SpinLockRelease(&peers->node->vector_lock);
	rp_states_clock(peers->node);
}

/* Take the answer to PULL. */
static void
take_poll_reply(RpPeers *peers, int slot)
{
	Peer	   *peer = &peers->peers[slot];
	RpLink	   *link = peer->poll;
	char		text[P2P_TEXT_SIZE];
	char	   *error = "malformed answer to PULL";
	RpPullTaken taken;

	if (reply_error(peers, slot, link, text))
	{
		rp_peer_error(peers->node, slot, text);
		peers->plan_due = true;
		if (!rp_pull_refused(peers->pull, slot, text))
			rp_link_fail(link, text);
		return;
	}
	if (link->reply.data[0] != P2P_MSG_PULL_REPLY ||
		!rp_pull_receive(peers->pull, slot, link->reply.data + 1, link->reply.len - 1,
						 &taken, &error))
	{
		rp_link_fail(link, error);
		rp_peer_error(peers->node, slot, link->error);
		peers->plan_due = true;
		return;
	}
	rp_link_prosper(link);
	peers->more |= taken.full;
	peer->poll_due_us = link->replied_us + poll_delay(peers, peer, &taken);
	if (link->state == RP_LINK_BUSY && !rp_pull_request_stands(peers->pull, slot))
		rp_link_restart(link);
}

/* Return how long after an answer the next PULL goes out. */
static int64
poll_delay(RpPeers *peers, Peer *peer, const RpPullTaken *taken)
{
	const RpLink *link = peer->poll;
	uint32		pullers = 0;

	/* An honest peer waits; one that does not must not make this a busy loop. */
	if (taken->batches == 0)
		return link->replied_us - link->sent_us <
			Min((int64) rp_poll_timeout_ms * 500, EMPTY_DELAY_US) ? EMPTY_DELAY_US : 0;
	/* no more than the fan-out ask one peer for the same */
	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS && pullers < P2P_FANOUT; slot++)
		pullers += peers->peers[slot].linked ? 1 : 0;
	p2p_pace_note(&peer->pace, link->replied_us, taken->transactions);
	if (taken->full)
		return 0;
	return p2p_pace_pull_delay(&peer->pace, link->replied_us, taken->transactions / taken->batches,
							   pullers, (int64) rp_batch_delay_ms * 1000);
}

/* Send whatever is due. */
void
rp_peers_talk(RpPeers *peers, bool states_changed)
{
	int64		now = rp_monotonic_us();

	if (peers->plan_due || states_changed || rp_pull_plan_is_stale(peers->pull))
		plan(peers);
	for (int slot = RP_SELF + 1; slot < RP_MAX_MEMBERS; slot++)
	{
		Peer	   *peer = &peers->peers[slot];

		if (!peer->linked)
			continue;
		/* Unused, it would only keep the peer's server from a smart shutdown. */
		if (!peer->heard && peer->poll->state == RP_LINK_READY)
			rp_link_fail(peer->poll, "no contact");
		if (states_changed && peer->heard && peer->push_due_us == 0 &&
			rp_states_any_newer(peers->node, peer->theirs))
			peer->push_due_us = now + PUSH_DELAY_US;
		if (peer->control->state == RP_LINK_READY &&
			(now >= peer->gossip_due_us || (peer->push_due_us != 0 && now >= peer->push_due_us)))
			send_gossip(peers, slot);
		if (peer->poll->state == RP_LINK_READY && peer->heard && now >= peer->poll_due_us)
			send_pull(peers, slot);
	}
}

/* Have whom to ask for what planned anew. */
static void
plan(RpPeers *peers)
{
	bool		reachable[RP_MAX_MEMBERS];

	for (int slot = 0; slot < RP_MAX_MEMBERS; slot++)
	{
		const Peer *peer = &peers->peers[slot];

		reachable[slot] = peer->linked && peer->heard && rp_link_is_open(peer->poll);
	}
	peers->plan_due = false;
	rp_pull_plan(peers->pull, reachable);
}

/* Say GOSSIP: our clock, what we know, what the peer lacks. */
static void
send_gossip(RpPeers *peers, int slot)
{
	Peer	   *peer = &peers->peers[slot];
	P2pGossip  *gossip = palloc0(sizeof(P2pGossip));
	StringInfoData request;

	rp_states_digest(peers->node, gossip);
	rp_states_newer(peers->node, peer->theirs, gossip);
	peer->sent_clock = GetCurrentTimestamp();
	gossip->clock = peer->sent_clock;
	initStringInfo(&request);
	rp_states_write(&request, P2P_MSG_GOSSIP, gossip);
	peer->push_due_us = 0;
	rp_link_send(peer->control, request.data, request.len, (int64) rp_connect_timeout_s * 1000);
}

/* Say PULL, if the plan wants something of the peer. */
static void
send_pull(RpPeers *peers, int slot)
{
	Peer	   *peer = &peers->peers[slot];
	int64		patience_ms = (int64) rp_poll_timeout_ms + (int64) rp_connect_timeout_s * 1000;
	bool		streams = p2p_pace_rate(&peer->pace, rp_monotonic_us()) <= P2P_PACE_QUIET ||
		peers->node->members[slot].rtt_us >= LONG_WAY_US;	/* which gossip alone writes */
	StringInfoData request;

	initStringInfo(&request);
	if (!rp_pull_request(peers->pull, slot, streams ? MANY_REPLIES : 1, &request))
		return;
	if (streams)
		rp_link_stream(peer->poll, request.data, request.len, patience_ms);
	else
		rp_link_send(peer->poll, request.data, request.len, patience_ms);
}

/* Note an error at the link to a member. */
void
rp_peer_error(RpNode *node, int slot, const char *text)
{
	static int64 logged_us[RP_MAX_MEMBERS];
	RpMember   *member = &node->members[slot];
	int64		now = rp_monotonic_us();
	char		name[NAMEDATALEN];
	bool		news;

	LWLockAcquire(&node->lock, LW_SHARED);
	strlcpy(name, member->name, sizeof(name));
	SpinLockAcquire(&node->vector_lock);
	news = strncmp(member->link_error, text, sizeof(member->link_error) - 1) != 0;
	member->link_errors++;
	strlcpy(member->link_error, text, sizeof(member->link_error));
	SpinLockRelease(&node->vector_lock);
	LWLockRelease(&node->lock);

	if (!news && logged_us[slot] != 0 && now < logged_us[slot] + REPEAT_LOG_US)
		return;
	logged_us[slot] = now;
	ereport(LOG,
			(errmsg("link to replp2p node \"%s\": %s", name, text)));
}
