/*
 * serve.h
 *	  Answers to GOSSIP and PULL, inside a session of exchange.c.
 */
#ifndef RP_SERVE_H
#define RP_SERVE_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "shmem.h"

#include "p2p_message.h"

/* Shortest wait of a PULL that has several replies, longest of any, and most bytes after which no batch is added to its reply. */
#define RP_PULL_MIN_WAIT_MS 10
#define RP_PULL_MAX_WAIT_MS 60000
#define RP_PULL_MAX_BYTES (16 * 1024 * 1024)

/* Append GOSSIP_REPLY to reply. The states in gossip are verified here. */
void		rp_serve_gossip(RpNode *node, const P2pGossip *gossip, StringInfo reply);
/*
 * Wait until there is something that pull wants, or its time is over; append PULL_REPLY or ERROR. True: that was all
 * there is, and pull then wants what comes behind it. Nothing in less than its time is false: who is told so again and
 * again, by whatever cause, asks at a pace of his own.
 */
bool		rp_serve_pull(RpNode *node, P2pPull *pull, StringInfo reply);
/* Append ERROR. */
void		rp_serve_error(StringInfo reply, P2pErrorCode code, const char *text);
/* Close the log readers that this backend has kept open. */
void		rp_serve_end(void);

#endif							/* RP_SERVE_H */
