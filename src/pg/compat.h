/*
 * compat.h
 *	  The only place that knows server versions: each difference under a name
 *	  of our own.
 */
#ifndef RP_COMPAT_H
#define RP_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "replp2p supports PostgreSQL 15"
#endif

#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"

/* This server's version as a number (150020), to be told to others. */
#define RP_SERVER_VERSION PG_VERSION_NUM
#define RP_MAJOR_OF(version) ((version) / 10000)

/*
 * Who may what: PostgreSQL 16 has one function for all kinds of objects (object_ownercheck,
 * object_aclcheck).
 */
static inline bool
rp_database_is_owned(Oid database, Oid role)
{
	return pg_database_ownercheck(database, role);
}

static inline bool
rp_extension_is_owned(Oid extension, Oid role)
{
	return pg_extension_ownercheck(extension, role);
}

static inline bool
rp_function_is_executable(Oid function, Oid role)
{
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
}

/*
 * The locks of this process in one partition of the lock table, one after the other (NULL: the
 * first; at the end). The partition is locked. PostgreSQL 16 has a dlist in place of the queue.
 */
static inline PROCLOCK *
rp_next_own_lock(int partition, PROCLOCK *previous)
{
	SHM_QUEUE  *queue = &MyProc->myProcLocks[partition];

	return (PROCLOCK *) SHMQueueNext(queue, previous != NULL ? &previous->procLink : queue,
									 offsetof(PROCLOCK, procLink));
}

#endif							/* RP_COMPAT_H */
