/*
 * identity.h
 *	  The node's files that hold secrets, beside what members.h says of them.
 */
#ifndef RP_IDENTITY_H
#define RP_IDENTITY_H

#include "members.h"

/* Make a fresh key pair in memory; the group is the caller's. */
void		rp_identity_make(const P2pId *group, RpIdentity *identity);
/* Write it; ERROR if the database has a key file already. */
void		rp_identity_write(Oid dboid, const RpIdentity *identity);

/*
 * The invite's secret, from join_group until the join worker has used it. rp_identity_remove
 * removes it, too.
 */
void		rp_join_secret_write(Oid dboid, const uint8 secret[P2P_SECRET_SIZE]);
/* false: none there. */
bool		rp_join_secret_read(Oid dboid, uint8 secret[P2P_SECRET_SIZE]);
void		rp_join_secret_remove(Oid dboid);

/* Fill memory from the server's strong random source; ERROR if it fails. */
void		rp_random(void *memory, size_t length);
/* libsodium is usable, or ERROR. */
void		rp_crypto_required(void);

#endif							/* RP_IDENTITY_H */
