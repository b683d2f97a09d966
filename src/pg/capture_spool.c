/*
 * capture_spool.c
 *	  Large transactions, decoded before they commit.
 *
 * The server keeps the changes of running transactions in memory. When they
 * outgrow DECODING_MEMORY it hands us those of the largest transaction, up to where the WAL
 * is read, as often as it takes. We encode them at once, and keep them in a file
 * until it is known what becomes of them:
 *
 *	  run, run, ... --> spool: [chunk][chunk] ... --commit--> [BEGIN chunk][BEGIN chunk COMMIT]
 *											   \--abort---> nothing
 *
 * So little is left to be done when it commits: neither is all of it decoded then, nor has the
 * server written it to files of its own, change by change. Seq, stamp and deps
 * come with the commit record, as for everybody else.
 *
 * A chunk is what a part of the transaction holds between its BEGIN and its end:
 * descriptions of tables, numbered from 0, and items. It ends when it has the size of a
 * part, or with the run. A transaction of one chunk becomes an ordinary batch.
 *
 * An aborted subtransaction is cut off: while it ran nobody but itself and its own
 * subtransactions has written, so that everything behind its first change is to go. The
 * chunk that is cut ends there, since the tables described behind that place are unknown again.
 *
 * Files lie in replp2p/<database oid>/spool, by xid. Nothing is synced and nothing
 * is kept: at capture's start decoding begins before the first change of whoever still
 * runs, and the folder is emptied. Memory: one chunk for all, 24 bytes for each chunk
 * written, and some 50 for each subtransaction that has changed something.
 *
 * Called by decode.c, from decoding callbacks; abort and commit come outside of the
 * server's transaction around them, and look nothing up.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_utils.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "capture.h"
#include "crashpoint.h"
#include "hashtable.h"

/* What stands in the file, one after the other. */
typedef struct SpoolChunk
{
	uint64		offset;
	uint32		length;
	uint32		nrelations;		/* described in it */
	int64		rows;			/* of the spool, up to its end */
} SpoolChunk;

/* Where a subtransaction's first change is. */
typedef struct SpoolMark
{
	TransactionId xid;
	uint32		chunk;
	uint32		offset;			/* in the chunk */
	int64		rows;			/* in front of it */
} SpoolMark;

struct RpSpool
{
	TransactionId xid;			/* hash key */
	MemoryContext memory;
	char		path[MAXPGPATH];
	SpoolChunk *chunks;
	uint32		nchunks;
	uint32		max_chunks;
	int64		rows;

	/* In the order of their places, and by xid; without the transaction itself. */
	SpoolMark  *marks;
	uint32		nmarks;
	uint32		max_marks;
	HTAB	   *marked;			/* set of xids; NULL = none */
	TransactionId last_xid;		/* of the last change: marked, or the transaction's own */
};

/* How much of the open chunk is complete changes. One chunk is open at a time. */
static size_t complete = 0;

static RpSpool *spool_of(RpCapture *capture, TransactionId xid);
static RpSpool *spool_make(RpCapture *capture, TransactionId xid);
static void mark_add(RpSpool *spool, TransactionId xid, size_t offset);
static void chunk_end(RpCapture *capture);
static void chunk_write(RpSpool *spool, const P2pWriter *writer, uint64 offset);
static void cut_back(RpSpool *spool, TransactionId xid);
static void spool_drop(RpCapture *capture, RpSpool *spool);
static void chunks_copy(RpCapture *capture, RpSpool *spool);
static void chunk_read(RpSpool *spool, int fd, const SpoolChunk *chunk, P2pWriter *writer);

/* Make the folder, and remove what an earlier process has left in it. */
void
rp_spools_open(RpCapture *capture)
{
	char	   *database = rp_directory_path(capture->node->dboid);
	char	   *folder = psprintf("%s/spool", database);

	if (mkdir(folder, S_IRWXU) != 0)
	{
		if (errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", folder)));
		(void) rmtree(folder, false);
	}
	capture->spools = rp_hash_make("replp2p spools", capture->memory, 16, sizeof(TransactionId),
								   sizeof(RpSpool));
	pfree(folder);
	pfree(database);
}

/* Changes of this transaction come from now on. */
void
rp_spool_start(RpCapture *capture, TransactionId xid)
{
	RpSpool    *spool = spool_of(capture, xid);

	Assert(capture->spool == NULL && !capture->tx.open);
	capture->spool = spool != NULL ? spool : spool_make(capture, xid);
	capture->out = &capture->chunk;
	complete = 0;
}

/* The spool of a transaction, or NULL. */
static RpSpool *
spool_of(RpCapture *capture, TransactionId xid)
{
	return hash_search(capture->spools, &xid, HASH_FIND, NULL);
}

/* Make an empty one. Its file comes with the first chunk. */
static RpSpool *
spool_make(RpCapture *capture, TransactionId xid)
{
	RpSpool    *spool = hash_search(capture->spools, &xid, HASH_ENTER, NULL);
	char	   *database = rp_directory_path(capture->node->dboid);

	memset(spool, 0, sizeof(*spool));
	spool->xid = xid;
	spool->last_xid = xid;
	spool->memory = AllocSetContextCreate(capture->memory, "replp2p spool", ALLOCSET_SMALL_SIZES);
	snprintf(spool->path, sizeof(spool->path), "%s/spool/%08x", database, xid);
	pfree(database);
	return spool;
}

/* Before each replicated change: end a chunk that is full, and note where a subtransaction begins. */
void
rp_spool_change(RpCapture *capture, TransactionId xid)
{
	RpSpool    *spool = capture->spool;

	if (rp_body_is_part(&capture->chunk))
		chunk_end(capture);
	if (xid != spool->last_xid && xid != spool->xid)
		mark_add(spool, xid, capture->chunk.writer.length);
	spool->last_xid = xid;
}

/* Note that a subtransaction begins here, unless it has begun already. */
static void
mark_add(RpSpool *spool, TransactionId xid, size_t offset)
{
	SpoolMark  *mark;
	bool		found;

	if (spool->marked == NULL)
		spool->marked = rp_hash_make("replp2p spooled subtransactions", spool->memory, 64,
									 sizeof(TransactionId), sizeof(TransactionId));
	(void) hash_search(spool->marked, &xid, HASH_ENTER, &found);
	if (found)
		return;
	if (spool->nmarks == spool->max_marks)
	{
		spool->max_marks = Max(64, spool->max_marks * 2);
		if (spool->marks == NULL)
			spool->marks = MemoryContextAlloc(spool->memory, spool->max_marks * sizeof(SpoolMark));
		else
			spool->marks = repalloc_huge(spool->marks, spool->max_marks * sizeof(SpoolMark));
	}
	mark = &spool->marks[spool->nmarks++];
	mark->xid = xid;
	mark->chunk = spool->nchunks;
	mark->offset = (uint32) offset;
	mark->rows = spool->rows;
}

/* After each replicated change: it is complete. */
void
rp_spool_changed(RpCapture *capture, int64 rows)
{
	if (capture->chunk.writer.overflow)
		elog(ERROR, "could not encode a change for a spool");
	capture->spool->rows += rows;
	complete = capture->chunk.writer.length;
}

/* The run ends: what follows goes to the body again. */
void
rp_spool_stop(RpCapture *capture)
{
	chunk_end(capture);
	capture->spool = NULL;
	capture->out = &capture->body;
}

/* Write the complete changes of the open chunk, if any, and begin an empty one. */
static void
chunk_end(RpCapture *capture)
{
	RpSpool    *spool = capture->spool;
	P2pWriter  *writer = &capture->chunk.writer;
	SpoolChunk *chunk;

	writer->length = complete;
	if (complete > 0)
	{
		if (spool->nchunks == spool->max_chunks)
		{
			spool->max_chunks = Max(16, spool->max_chunks * 2);
			if (spool->chunks == NULL)
				spool->chunks = MemoryContextAlloc(spool->memory,
												   spool->max_chunks * sizeof(SpoolChunk));
			else
				spool->chunks = repalloc_huge(spool->chunks,
											  spool->max_chunks * sizeof(SpoolChunk));
		}
		chunk = &spool->chunks[spool->nchunks];
		chunk->offset = spool->nchunks == 0 ? 0 : chunk[-1].offset + chunk[-1].length;
		chunk->length = (uint32) complete;
		chunk->nrelations = capture->chunk.nrelations;
		chunk->rows = spool->rows;
		chunk_write(spool, writer, chunk->offset);
		spool->nchunks++;
		RP_CRASH_POINT("capture_after_spool");
	}
	rp_body_reset(capture, &capture->chunk);
	complete = 0;
}

/* Write a chunk to its place in the file. */
static void
chunk_write(RpSpool *spool, const P2pWriter *writer, uint64 offset)
{
	int			fd = OpenTransientFilePerm(spool->path, O_RDWR | O_CREAT | PG_BINARY,
										   S_IRUSR | S_IWUSR);
	ssize_t		written;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", spool->path)));
	errno = 0;
	pgstat_report_wait_start(WAIT_EVENT_REORDER_BUFFER_WRITE);
	written = pg_pwrite(fd, writer->data, writer->length, (off_t) offset);
	pgstat_report_wait_end();
	if (written != (ssize_t) writer->length)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", spool->path)));
	}
	CloseTransientFile(fd);
}

/* Undo a transaction, or a subtransaction. */
void
rp_spool_abort(RpCapture *capture, TransactionId top, TransactionId xid)
{
	RpSpool    *spool = spool_of(capture, top);

	if (spool == NULL)
		return;
	Assert(capture->spool == NULL);
	if (xid == top)
		spool_drop(capture, spool);
	else
		cut_back(spool, xid);
}

/* Cut off everything from the first change of a subtransaction on. */
static void
cut_back(RpSpool *spool, TransactionId xid)
{
	SpoolMark	mark = {0};
	bool		found = false;

	if (spool->marked != NULL)
		(void) hash_search(spool->marked, &xid, HASH_FIND, &found);
	if (!found)
		return;
	do
	{
		Assert(spool->nmarks > 0);
		mark = spool->marks[--spool->nmarks];
		(void) hash_search(spool->marked, &mark.xid, HASH_REMOVE, NULL);
	} while (mark.xid != xid);

	spool->rows = mark.rows;
	spool->last_xid = spool->xid;
	if (mark.chunk >= spool->nchunks)
		return;
	spool->nchunks = mark.chunk;
	if (mark.offset > 0)
	{
		spool->chunks[mark.chunk].length = mark.offset;
		spool->chunks[mark.chunk].rows = mark.rows;
		spool->nchunks++;
	}
}

/* Forget a spool and its file. */
static void
spool_drop(RpCapture *capture, RpSpool *spool)
{
	if (unlink(spool->path) != 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", spool->path)));
	MemoryContextDelete(spool->memory);
	(void) hash_search(capture->spools, &spool->xid, HASH_REMOVE, NULL);
}

/* The transaction has committed: give it its seq, and put it into the log. */
void
rp_spool_commit(RpCapture *capture, TransactionId xid)
{
	RpSpool    *spool = spool_of(capture, xid);
	MemoryContext old = MemoryContextSwitchTo(capture->step_memory);

	if (spool != NULL && spool->nchunks > 0)
		chunks_copy(capture, spool);
	if (spool != NULL)
		spool_drop(capture, spool);
	MemoryContextSwitchTo(old);
}

/* Write the transaction: each chunk a part, and the last one with the COMMIT. */
static void
chunks_copy(RpCapture *capture, RpSpool *spool)
{
	int			fd = OpenTransientFile(spool->path, O_RDONLY | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", spool->path)));
	/* its tables are numbered from 0, so nothing may stand in front of it */
	if (capture->body.first_seq != 0)
		rp_capture_flush(capture);
	rp_transaction_begin(capture);
	capture->tx.partial = spool->nchunks > 1;
	capture->tx.changes = spool->rows;
	for (uint32 i = 0; i < spool->nchunks; i++)
	{
		const SpoolChunk *chunk = &spool->chunks[i];

		if (i > 0)
			rp_transaction_cut(capture);
		rp_body_reserve(capture, chunk->length);
		chunk_read(spool, fd, chunk, &capture->body.writer);
		capture->body.nrelations = chunk->nrelations;
	}
	rp_transaction_commit(capture);
	capture->repeatable = false;	/* that it was spooled hung on all that ran beside it */
	/* nor may anything follow that wants to know where its tables are described */
	rp_capture_seal(capture);
	CloseTransientFile(fd);
}

/* Append a chunk's bytes; there is room for them. */
static void
chunk_read(RpSpool *spool, int fd, const SpoolChunk *chunk, P2pWriter *writer)
{
	ssize_t		got;

	errno = 0;
	pgstat_report_wait_start(WAIT_EVENT_REORDER_BUFFER_READ);
	got = pg_pread(fd, writer->data + writer->length, chunk->length, (off_t) chunk->offset);
	pgstat_report_wait_end();
	if (got < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", spool->path)));
	if (got != (ssize_t) chunk->length)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" has been cut", spool->path)));
	writer->length += chunk->length;
}
