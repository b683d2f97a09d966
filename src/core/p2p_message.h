/*
 * p2p_message.h
 *	  What nodes say to one another inside a session: one request, one reply.
 *	  First byte of the plain text: the kind. ONLY APPEND to the kinds.
 *
 *	  GOSSIP       client's clock, digest of the states it knows, states it pushes
 *	  GOSSIP_REPLY server's clock, digest, states newer than the client's digest
 *	  PULL         long poll: cursors of the origins wanted, wait_ms, max_bytes,
 *				   max_replies
 *	  PULL_REPLY   batches, verbatim
 *	  JOIN_CHECK / JOIN  a joiner's name, dsn and invite secret; reply JOIN_REPLY
 *	  ERROR        code and text
 *
 * A state is what a member says of itself, signed by it (tag "replp2p state 1"),
 * and handed on by anybody: so acks travel by way of relays, too.
 */
#ifndef P2P_MESSAGE_H
#define P2P_MESSAGE_H

#include "p2p_batch.h"
#include "p2p_vector.h"

typedef enum P2pMessageKind
{
	P2P_MSG_GOSSIP = 1,
	P2P_MSG_GOSSIP_REPLY = 2,
	P2P_MSG_PULL = 3,
	P2P_MSG_PULL_REPLY = 4,
	P2P_MSG_JOIN_CHECK = 5,
	P2P_MSG_JOIN = 6,
	P2P_MSG_JOIN_REPLY = 7,
	P2P_MSG_ERROR = 8
} P2pMessageKind;

typedef enum P2pNodePhase
{
	P2P_PHASE_JOINING = 1,
	P2P_PHASE_ACTIVE = 2,
	P2P_PHASE_LEAVING = 3
} P2pNodePhase;

#define P2P_DSN_SIZE 1024
#define P2P_TEXT_SIZE 512		/* error texts */
#define P2P_SECRET_SIZE 32

/* What a member says of itself. counter grows with each, also over restarts (use the clock as a base). */
typedef struct P2pNodeState
{
	P2pOrigin	node;
	uint64_t	counter;
	P2pNodePhase phase;
	uint64_t	log_bytes;		/* kept on its disk for all origins */
	P2pVector	stored;			/* durable in its logs */
	P2pVector	oldest;			/* per origin the first seq that its logs still have; 0 = none */
	P2pVector	ack;			/* applied vector at one place of its WAL order, own component included */
	/* the signed bytes, as received or made */
	const uint8_t *bytes;
	size_t		length;
} P2pNodeState;

/*
 * The signed bytes: u8 format version (1), group id, node (id, u32 epoch), u64
 * counter, u8 phase, u64 log_bytes, vectors stored, oldest, ack; then 64 bytes
 * of signature over all before it. ONLY APPEND to versions and phases.
 */
#define P2P_STATE_MAX_SIZE (64 + 3 * P2P_VECTOR_MAX_SIZE + P2P_SIGNATURE_SIZE)

/* Encode and sign state into memory (P2P_STATE_MAX_SIZE); sets state->bytes and length. */
P2pStatus	p2p_state_seal(P2pNodeState *state, const P2pId *group,
						   const uint8_t secret_key[P2P_SECRET_KEY_SIZE],
						   uint8_t *memory, size_t capacity);
/* Parse; state->bytes points into bytes. */
P2pStatus	p2p_state_parse(const void *bytes, size_t length, P2pNodeState *state);
P2pStatus	p2p_state_verify(const P2pNodeState *state, const P2pId *group,
							 const uint8_t public_key[P2P_PUBLIC_KEY_SIZE]);

typedef struct P2pDigestEntry
{
	P2pOrigin	node;
	uint64_t	counter;
} P2pDigestEntry;

typedef struct P2pBlock
{
	const uint8_t *bytes;
	size_t		length;
} P2pBlock;

typedef struct P2pGossip
{
	int64_t		clock;			/* sender's, microseconds since 2000 */
	uint32_t	ndigest;
	P2pDigestEntry digest[P2P_MAX_MEMBERS];
	uint32_t	nstates;
	P2pBlock	states[P2P_MAX_MEMBERS];	/* signed bytes */
} P2pGossip;

/* kind: P2P_MSG_GOSSIP or P2P_MSG_GOSSIP_REPLY. The reader gets the bytes after the kind. */
void		p2p_put_gossip(P2pWriter *w, P2pMessageKind kind, const P2pGossip *gossip);
P2pStatus	p2p_get_gossip(P2pReader *r, P2pGossip *gossip);
size_t		p2p_gossip_size(const P2pGossip *gossip);	/* upper bound of its encoding */

typedef struct P2pPullWant
{
	P2pOrigin	origin;
	uint64_t	after_seq;		/* last complete transaction that we have */
	uint32_t	parts;			/* parts that we have of the next */
	bool		from_start;		/* we have nothing: begin at the oldest that you keep */
} P2pPullWant;

typedef struct P2pPull
{
	uint32_t	wait_ms;		/* answer empty after this long */
	uint32_t	max_bytes;		/* soft: at least one batch is sent however large */
	uint32_t	max_replies;	/* so many may come, each as soon as there is something; 0 is 1 */
	uint32_t	nwants;
	P2pPullWant wants[P2P_MAX_MEMBERS];
} P2pPull;

#define P2P_PULL_MAX_SIZE (20 + P2P_MAX_MEMBERS * 48)
void		p2p_put_pull(P2pWriter *w, const P2pPull *pull);
P2pStatus	p2p_get_pull(P2pReader *r, P2pPull *pull);

/* PULL_REPLY: kind byte, then blocks (p2p_put_block) of batches to the end. */
void		p2p_put_pull_reply_start(P2pWriter *w);
/* P2P_OK and the next batch's bytes, or P2P_END. */
P2pStatus	p2p_pull_reply_next(P2pReader *r, P2pBlock *batch);

typedef struct P2pJoin
{
	uint8_t		secret[P2P_SECRET_SIZE];	/* of the invite */
	char		name[64];
	char		dsn[P2P_DSN_SIZE];
	uint32_t	server_version;	/* PG_VERSION_NUM */
	char		encoding[32];	/* of the database */
} P2pJoin;

#define P2P_JOIN_MAX_SIZE (P2P_SECRET_SIZE + 64 + P2P_DSN_SIZE + 128)
/* kind: P2P_MSG_JOIN_CHECK or P2P_MSG_JOIN. */
void		p2p_put_join(P2pWriter *w, P2pMessageKind kind, const P2pJoin *join);
P2pStatus	p2p_get_join(P2pReader *r, P2pJoin *join);

typedef struct P2pJoinReply
{
	char		group_name[64];
	P2pOrigin	sponsor;
	char		sponsor_name[64];
	uint64_t	admission_seq;	/* 0 in the answer to JOIN_CHECK */
} P2pJoinReply;

void		p2p_put_join_reply(P2pWriter *w, const P2pJoinReply *reply);
P2pStatus	p2p_get_join_reply(P2pReader *r, P2pJoinReply *reply);

/* Codes of ERROR, so that a client knows what to do. ONLY APPEND. */
typedef enum P2pErrorCode
{
	P2P_ERROR_UNKNOWN_NODE = 1,	/* not a member here (yet): try again later */
	P2P_ERROR_INVITE_INVALID = 2,
	P2P_ERROR_INVITE_EXPIRED = 3,
	P2P_ERROR_INVITE_USED = 4,
	P2P_ERROR_NAME_TAKEN = 5,
	P2P_ERROR_NOT_READY = 6,
	P2P_ERROR_GONE = 7,			/* trimmed: what you want is no longer kept here */
	P2P_ERROR_BAD_REQUEST = 8,
	P2P_ERROR_INTERNAL = 9,
	P2P_ERROR_UNREACHABLE = 10,	/* drill: this link is cut by a setting */
	P2P_ERROR_INCOMPATIBLE = 11,	/* encoding or version */
	P2P_ERROR_EVICTED = 12		/* you were a member, and are none any more, for good */
} P2pErrorCode;

void		p2p_put_error(P2pWriter *w, P2pErrorCode code, const char *text);
P2pStatus	p2p_get_error(P2pReader *r, P2pErrorCode *code, char text[P2P_TEXT_SIZE]);

#endif							/* P2P_MESSAGE_H */
