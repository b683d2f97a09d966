/*
 * join_pieces.c
 *	  Copying the pieces of the plan: by the join worker, and by copiers beside it.
 *
 * A piece is a range of blocks of a table at the donor (TID range scan), or all of a
 * table that is small. Taking it, its rows here and the note that it is copied are one
 * transaction: whoever dies, each row is copied exactly once.
 *
 *	  join worker   holds the donor's snapshot in a transaction of its own session,
 *	                exported; shows its name and stamp in shared memory (RpNode.join);
 *	                starts up to replp2p.join_workers - 1 copiers; copies like them;
 *	                then waits for them. What they leave it copies itself, so that a
 *	                copier's error is no error of the join
 *	  copier        a dynamic background worker; imports the snapshot into a session of its
 *	                own with the donor; ends when no piece is free, or when the join
 *	                worker that started it has gone. If tables are copied from other members,
 *	                too (join_donors.c), copiers take theirs first, and the sponsor's then;
 *	                what they leave of another member's is copied from the sponsor
 *
 * A copier that outlives its join worker finishes a piece at most, and notes of
 * which snapshot it is, as ever.
 *
 * A copier waits at the donor for a lock only briefly: the join worker holds locks there
 * on all tables, so somebody who wants one exclusively waits for it, and a copier behind
 * that one. The join worker's own session does not.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#include "crashpoint.h"
#include "join_internal.h"
#include "settings.h"
#include "worker.h"

#define COPIER_LOCK_TIMEOUT "2s"
/* Smaller pieces may be lost by a crash just after they were copied. */
#define DURABLE_BYTES (1024 * 1024)

/* Copiers of this join worker. */
static BackgroundWorkerHandle *copiers[RP_JOIN_WORKERS_LIMIT];
static int	ncopiers;

/* What the donor is to send of a piece. */
static char *
piece_select(const RpJoinPiece *piece, Relation rel)
{
	const char *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));
	const char *columns = rp_join_column_list(rel);
	StringInfoData select;

	initStringInfo(&select);
	if (piece->first_block == 0 && piece->end_block < 0)
	{
		appendStringInfoString(&select, name);
		if (columns[0] != '\0')
			appendStringInfo(&select, " (%s)", columns);
		return select.data;
	}
	appendStringInfo(&select, "(SELECT %s FROM ONLY %s WHERE ctid >= '(" INT64_FORMAT ",0)'::tid",
					 columns, name, piece->first_block);
	if (piece->end_block >= 0)
		appendStringInfo(&select, " AND ctid < '(" INT64_FORMAT ",0)'::tid", piece->end_block);
	appendStringInfoChar(&select, ')');
	return select.data;
}

/* Copy one piece; false: none is free. */
static bool
piece_copy(RpJoin *join)
{
	RpJoinPiece piece;
	bool		taken;

	rp_join_write_begin(join);
	taken = rp_join_piece_take(join, &piece);
	if (taken)
	{
		Relation	rel = table_open(piece.relation, RowExclusiveLock);
		int64		rows;

		rows = rp_join_copy_rows(join, piece_select(&piece, rel), rel, rp_join_columns(rel),
								 rp_join_is_portable(rel));
		table_close(rel, NoLock);
		rp_join_piece_done(join, &piece, rows);
		if (piece.bytes >= DURABLE_BYTES)
			ForceSyncCommit();
		RP_CRASH_POINT("join_before_piece");
	}
	rp_join_write_commit(join);
	if (taken)
	{
		RP_CRASH_POINT("join_after_piece");
		if (join->donor_name != NULL)
			RP_CRASH_POINT("join_after_other_piece");
		LWLockAcquire(&join->node->lock, LW_EXCLUSIVE);
		join->node->join.bytes_processed += piece.bytes;
		LWLockRelease(&join->node->lock);
	}
	return taken;
}

/* Is the join worker still there for which this process copies? */
static bool
leader_is_there(RpJoin *join)
{
	bool		there;

	LWLockAcquire(&join->node->lock, LW_SHARED);
	there = join->node->workers[RP_WORKER_JOIN].pid == join->leader;
	LWLockRelease(&join->node->lock);
	return there;
}

/* Copy pieces until none is free. */
static void
pieces_copy(RpJoin *join)
{
	MemoryContext context = AllocSetContextCreate(join->memory, "replp2p join piece",
												  ALLOCSET_DEFAULT_SIZES);
	bool		taken = true;

	while (taken && leader_is_there(join))
	{
		rp_worker_check(join->node, RP_WORKER_JOIN);
		MemoryContextSwitchTo(context);
		taken = piece_copy(join);
		MemoryContextSwitchTo(join->memory);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/* Start a copier; false: there is no room for it. */
static bool
copier_start(RpNode *node)
{
	if (!rp_worker_start(node->dboid, "copier", "rp_copier_main", (uint32) MyProcPid,
						 &copiers[ncopiers]))
		return false;
	ncopiers++;
	return true;
}

/* Have the copiers end, and wait until they have. */
static void
copiers_stop(int code, Datum arg)
{
	(void) code;
	(void) arg;
	for (int i = 0; i < ncopiers; i++)
		TerminateBackgroundWorker(copiers[i]);
	for (; ncopiers > 0; ncopiers--)
	{
		(void) WaitForBackgroundWorkerShutdown(copiers[ncopiers - 1]);
		pfree(copiers[ncopiers - 1]);
	}
}

/* Wait for the copiers that are at work. */
static void
copiers_wait(RpJoin *join)
{
	for (; ncopiers > 0; ncopiers--)
	{
		pid_t		pid;

		while (GetBackgroundWorkerPid(copiers[ncopiers - 1], &pid) != BGWH_STOPPED)
			rp_worker_wait(join->node, RP_WORKER_JOIN, -1, PG_WAIT_EXTENSION);
		pfree(copiers[ncopiers - 1]);
	}
}

/* Show copiers which snapshot to import. */
static void
snapshot_show(RpJoin *join)
{
	RpNode	   *node = join->node;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	strlcpy(node->join.snapshot, join->snapshot, sizeof(node->join.snapshot));
	node->join.stamp = join->stamp;
	LWLockRelease(&node->lock);
}

/* Count what is left; show what is not. */
static int64
pieces_count(RpJoin *join)
{
	int64		left;

	rp_join_write_begin(join);
	rp_join_progress_load(join->node);
	left = rp_join_pieces_left();
	rp_join_write_commit(join);
	return left;
}

/*
 * No copier is left: what has not come from other donors is to come from the sponsor. Count what
 * is to be copied.
 */
static int64
tables_take_over(RpJoin *join)
{
	ListCell   *cell;

	rp_join_write_begin(join);
	foreach(cell, rp_join_foreign())
	{
		const RpJoinForeign *foreign = lfirst(cell);

		if (foreign->complete)
			continue;
		ereport(LOG,
				(errmsg("table \"%s\" is copied from the sponsor after all",
						get_rel_name(foreign->relation))));
		rp_join_table_to_sponsor(join, foreign->relation, false);
	}
	rp_join_write_commit(join);
	return pieces_count(join);
}

/* Copy so many pieces, and what copiers leave of them. */
static void
pieces_share(RpJoin *join, int64 left)
{
	for (int i = 1; i < rp_join_workers && i < left; i++)
	{
		if (!copier_start(join->node))
			break;
	}
	while (left > 0)
	{
		pieces_copy(join);
		copiers_wait(join);
		rp_join_phase(join->node, "data", NULL);
		left = tables_take_over(join);
	}
}

/* Copy all pieces. */
void
rp_join_pieces_copy(RpJoin *join)
{
	int64		left = pieces_count(join);

	if (join->node->join.bytes_processed > 0 && !join->copied)
		ereport(LOG,
				(errmsg("the join goes on where it was: " INT64_FORMAT " of " INT64_FORMAT " bytes were copied before",
						join->node->join.bytes_processed, join->node->join.bytes_total)));
	join->copied = true;
	snapshot_show(join);
	rp_join_donors_show(join);
	PG_ENSURE_ERROR_CLEANUP(copiers_stop, (Datum) 0);
	{
		pieces_share(join, left);
	}
	PG_END_ENSURE_ERROR_CLEANUP(copiers_stop, (Datum) 0);
}

/* Read what the join worker shows; number: of another donor, or -1: of the sponsor. */
static void
snapshot_read(RpJoin *join, int number)
{
	RpNode	   *node = join->node;

	LWLockAcquire(&node->lock, LW_SHARED);
	join->stamp = node->join.stamp;
	strlcpy(join->snapshot, node->join.snapshot, sizeof(join->snapshot));
	join->donor_id = join->sponsor;
	join->donor_dsn = join->sponsor_dsn;
	join->donor_name = NULL;
	if (number >= 0 && number < node->join.nothers)
	{
		const RpJoinDonor *donor = &node->join.others[number];

		strlcpy(join->snapshot, donor->snapshot, sizeof(join->snapshot));
		join->donor_id = donor->id;
		join->donor_dsn = MemoryContextStrdup(join->memory, donor->dsn);
		join->donor_name = MemoryContextStrdup(join->memory, donor->name);
	}
	LWLockRelease(&node->lock);
}

/* Take a number: copiers begin with the other donors in turn, and then with the sponsor. */
static int
donor_number(RpNode *node)
{
	int			number;

	LWLockAcquire(&node->lock, LW_EXCLUSIVE);
	number = (int) (node->join.ncopiers++ % (node->join.nothers + 1));
	if (number == node->join.nothers)
		number = -1;
	LWLockRelease(&node->lock);
	return number;
}

/* Copy what is free of one donor's. */
static void
donor_copy(RpJoin *join, int number)
{
	snapshot_read(join, number);
	rp_join_donor_open(join);
	rp_join_donor_settings(join, COPIER_LOCK_TIMEOUT);
	rp_join_run(join, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	rp_join_run(join, psprintf("SET TRANSACTION SNAPSHOT '%s'", join->snapshot));
	rp_join_seen_read(join);
	pieces_copy(join);
	rp_peer_close(join->donor);
}

/* Main of a copier. */
void
rp_copier_main(Datum dboid)
{
	RpNode	   *node = rp_worker_open_helper(DatumGetObjectId(dboid), "copier");
	RpJoin	   *join;
	int			number;

	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "replp2p copier",
												ALLOCSET_DEFAULT_SIZES));
	join = rp_join_begin(node);
	memcpy(&join->leader, MyBgworkerEntry->bgw_extra, sizeof(join->leader));
	number = donor_number(node);
	donor_copy(join, number);
	if (number >= 0)
		donor_copy(join, -1);
}
