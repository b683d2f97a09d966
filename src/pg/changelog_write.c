/*
 * changelog_write.c
 *	  The writer of a change log: append, sync, roll back, rotate.
 *
 *	  append ... append  ->  sync  ->  (rotate)
 *	        \__ rollback __/
 *
 * Each log has one writer: capture for the own one, gossip for the others.
 * Appending collects records in 256 kB of memory, or hands large ones to the
 * operating system at once; nothing counts until rp_log_sync() has returned.
 * Any ERROR on the way leaves the writer failed, and it refuses everything until
 * rp_log_rollback() has cut the file back to what was synced.
 *
 * A failed fsync is not tried again: the kernel may have dropped the pages and
 * would report success. The tail is cut off first, which drops them for sure,
 * and may then be appended again. Only if that fails, too, the server's
 * policy for its own data files holds (PANIC, unless data_sync_retry is on).
 *
 * The POSITION that closes a sync of the own log waits in memory for the sync, so
 * that one sync writes one position, as its last record: recovery counts on it.
 *
 * Space ahead. A sync that makes the file longer also makes the file system write its
 * journal, which costs more than our few bytes. So a small sync that reaches the end of the
 * file puts zeros behind it, PREPARE_SIZE of them, and the next hundred go into those. No
 * record begins with zeros (core/p2p_logrec.h): for readers and recovery that is where the
 * log ends. Large syncs are left to make the file longer: they'd write most of it twice.
 * The zeros are cut off when the segment is left. While batches are small nobody comes to their
 * end: when few are left, rp_log_prepare() puts more and syncs them, at a moment when nothing waits
 * for this writer.
 *
 * Rotation. A foreign log gets its next segment with the next batch, whose place
 * names the file. The own log gets it at once, complete with a copy of the
 * last POSITION and under its name only when durable (rename), so that there
 * is no moment without one. If the full segment holds positions alone (other nodes
 * write, this one doesn't), the new one comes to the same name and replaces it. A
 * failed rotation fails nothing: the old segment goes on and the next sync
 * tries again.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pgstat.h"
#include "port/pg_iovec.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "changelog_internal.h"
#include "crashpoint.h"

/* What a small sync prepares when it has come to the end of the file, and what is small. */
#define PREPARE_SIZE ((size_t) 128 * 1024)
#define PREPARE_SYNC_SIZE ((size_t) 32 * 1024)
/* So much room is enough for some time. */
#define PREPARE_ROOM ((uint64) 32 * 1024)

/* What is true of a writer at one moment: now, or at the last sync. */
typedef struct WriterPlace
{
	uint64		length;			/* bytes of the segment handed to the system */
	P2pCursor	cursor;
} WriterPlace;

struct RpLogWriter
{
	MemoryContext context;
	MemoryContextCallback callback;
	char		folder[MAXPGPATH];
	P2pOrigin	origin;
	bool		own;
	bool		failed;			/* only a rollback helps */
	int			fd;				/* -1: the next batch begins a segment */
	RpLogSegment segment;
	WriterPlace now;
	WriterPlace synced;
	uint64		prepared;		/* bytes that the file has at least */
	bool		small;			/* the last sync was */
	uint8	   *buffer;			/* not written yet */
	size_t		buffered;
	bool		position_waits; /* for the sync */
	bool		closed_by_position;		/* the last sync was */
	P2pPosition position;		/* the last one handed in */
};

static void close_writer_file(void *arg);
static void begin_segment(RpLogWriter *writer, const P2pSpan *span);
static int	open_segment_file(const char *path, int flags, int elevel);
static void begin_work(RpLogWriter *writer);
static void put_record(RpLogWriter *writer, P2pLogType type, const void *first,
					   size_t first_length, const void *second, size_t second_length);
static void write_out(RpLogWriter *writer, struct iovec *pieces, int npieces, size_t length);
static void flush_buffer(RpLogWriter *writer);
static void put_position(RpLogWriter *writer);
static void prepare(RpLogWriter *writer);
static void put_zeros(RpLogWriter *writer);
static void make_durable(RpLogWriter *writer);
static void lose_tail(RpLogWriter *writer);
static void rotate(RpLogWriter *writer);
static void leave_segment(RpLogWriter *writer);
static bool rotate_own(RpLogWriter *writer);
static int	create_with_position(RpLogWriter *writer, const char *path, size_t *length);
static void cut_back(RpLogWriter *writer, int elevel);

/* Open a log for writing: recover it, and stand behind its last record. */
RpLogWriter *
rp_log_open_writer(Oid dboid, const P2pOrigin *origin, bool own, RpLogEnd *end)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "change log writer",
												  ALLOCSET_DEFAULT_SIZES);
	RpLogWriter *writer = MemoryContextAllocZero(context, sizeof(RpLogWriter));
	RpLogRecovery *recovery = MemoryContextAllocZero(context, sizeof(RpLogRecovery));
	char	   *folder = rp_log_folder_make(dboid, origin);
	char		path[MAXPGPATH];

	writer->context = context;
	writer->origin = *origin;
	writer->own = own;
	writer->fd = -1;
	writer->buffer = MemoryContextAlloc(context, RP_LOG_BUFFER_SIZE);
	strlcpy(writer->folder, folder, MAXPGPATH);
	pfree(folder);
	writer->callback.func = close_writer_file;
	writer->callback.arg = writer;
	MemoryContextRegisterResetCallback(context, &writer->callback);

	rp_log_recover(writer->folder, origin, own, recovery);
	*end = recovery->end;
	writer->now.cursor = end->cursor;
	writer->position = end->position;
	writer->closed_by_position = end->has_position;
	if (!recovery->empty)
	{
		writer->segment = recovery->last;
		writer->now.length = recovery->length;
		writer->prepared = recovery->length;
		rp_log_segment_path(writer->folder, &writer->segment, path);
		writer->fd = open_segment_file(path, O_RDWR, ERROR);
	}
	writer->synced = writer->now;
	pfree(recovery);
	return writer;
}

/* Close a log and free the writer; what was appended since the last sync does not count. */
void
rp_log_close_writer(RpLogWriter *writer)
{
	MemoryContextDelete(writer->context);
}

/* Close the file of a writer; called when its memory goes, also on errors. */
static void
close_writer_file(void *arg)
{
	RpLogWriter *writer = arg;

	if (writer->fd >= 0)
	{
		close(writer->fd);
		writer->fd = -1;
		ReleaseExternalFD();
	}
}

/* Open a segment for as long as its writer likes; -1 if it fails and elevel is below ERROR. */
static int
open_segment_file(const char *path, int flags, int elevel)
{
	int			fd = -1;

	if (AcquireExternalFD())
	{
		fd = BasicOpenFilePerm(path, flags | O_CLOEXEC | PG_BINARY, RP_LOG_FILE_MODE);
		if (fd < 0)
			ReleaseExternalFD();
	}
	if (fd < 0)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

/* Append a batch, which has to be the next one of this log. */
void
rp_log_append_batch(RpLogWriter *writer, const P2pBatch *batch,
					const void *header, size_t header_length,
					const void *body, size_t body_length)
{
	P2pCursor  *cursor = &writer->now.cursor;

	begin_work(writer);
	if (!p2p_origin_equal(&batch->origin, &writer->origin) ||
		p2p_cursor_judge(cursor, &batch->span) != P2P_ARRIVAL_NEXT ||
		(cursor->started && memcmp(cursor->hash, batch->previous_hash, P2P_HASH_SIZE) != 0))
		elog(ERROR, "batch of seq %llu to %llu, part %u, does not continue change log \"%s\"",
			 (unsigned long long) batch->span.first_seq,
			 (unsigned long long) batch->span.last_seq, batch->span.part, writer->folder);

	/* an earlier position of this sync says less than the one that will follow */
	writer->position_waits = false;
	if (writer->fd < 0)
		begin_segment(writer, &batch->span);
	put_record(writer, P2P_LOG_BATCH, header, header_length, body, body_length);
	p2p_cursor_advance(cursor, &batch->span, batch->hash);
	writer->failed = false;
}

/* Append a position behind all batches so far; it is written by the next sync. */
void
rp_log_append_position(RpLogWriter *writer, const P2pPosition *position)
{
	const P2pCursor *cursor = &writer->now.cursor;

	if (!writer->own || position->seq != cursor->seq || cursor->parts != 0)
		elog(ERROR, "position of seq %llu does not continue change log \"%s\"",
			 (unsigned long long) position->seq, writer->folder);
	begin_work(writer);
	writer->position = *position;
	writer->position_waits = true;
	writer->failed = false;
}

/* Hand everything appended so far to the operating system. */
void
rp_log_write(RpLogWriter *writer)
{
	begin_work(writer);
	flush_buffer(writer);
	writer->failed = false;
}

/* Make everything appended so far durable, then rotate if the segment is full. */
void
rp_log_sync(RpLogWriter *writer)
{
	bool		closed_by_position = writer->position_waits;

	begin_work(writer);
	if (writer->position_waits)
		put_position(writer);
	if (writer->buffered > 0 || writer->now.length != writer->synced.length)
	{
		flush_buffer(writer);
		prepare(writer);
		RP_CRASH_POINT("log_after_write");
		make_durable(writer);
		RP_CRASH_POINT("log_after_sync");
		writer->closed_by_position = closed_by_position;
	}
	writer->position_waits = false;
	writer->synced = writer->now;
	writer->failed = false;
	if (writer->now.length >= RP_LOG_SEGMENT_SIZE)
		rotate(writer);
}

bool
rp_log_is_sound(const RpLogWriter *writer)
{
	return !writer->failed;
}

/* Put zeros ahead of small syncs, if all is synced and there is little room left. */
void
rp_log_prepare(RpLogWriter *writer)
{
	if (writer->fd < 0 || !writer->small || writer->buffered > 0 ||
		writer->now.length != writer->synced.length ||
		writer->prepared >= writer->now.length + PREPARE_ROOM)
		return;
	begin_work(writer);
	put_zeros(writer);
	make_durable(writer);
	writer->failed = false;
}

/* Forget what was appended since the last sync. */
void
rp_log_rollback(RpLogWriter *writer)
{
	writer->failed = true;
	cut_back(writer, ERROR);
	writer->failed = false;
}

/* Refuse a failed writer; take it as failed until the caller says that its work is done. */
static void
begin_work(RpLogWriter *writer)
{
	if (writer->failed)
		elog(ERROR, "change log \"%s\" was not rolled back after an error", writer->folder);
	writer->failed = true;
}

/* Make the segment that begins with this batch. */
static void
begin_segment(RpLogWriter *writer, const P2pSpan *span)
{
	char		path[MAXPGPATH];

	writer->segment.seq = span->first_seq;
	writer->segment.part = span->part;
	writer->now.length = 0;
	/* a rollback goes back to no segment at all */
	writer->synced.length = 0;
	writer->prepared = 0;
	rp_log_segment_path(writer->folder, &writer->segment, path);
	writer->fd = open_segment_file(path, O_RDWR | O_CREAT | O_TRUNC, ERROR);
	fsync_fname(writer->folder, true);
}

/* Append one record to the buffer, or past it if it is large. */
static void
put_record(RpLogWriter *writer, P2pLogType type, const void *first, size_t first_length,
		   const void *second, size_t second_length)
{
	uint8		header[P2P_LOGREC_HEADER_SIZE];
	struct iovec pieces[3];
	size_t		total = sizeof(header) + first_length + second_length;

	if (first_length + second_length > P2P_LOGREC_MAX_PAYLOAD)
		elog(ERROR, "change log record of %zu bytes is too large", total);
	p2p_logrec_header(type, first, (uint32) first_length, second, (uint32) second_length, header);
	pieces[0].iov_base = header;
	pieces[0].iov_len = sizeof(header);
	pieces[1].iov_base = unconstify(void *, first);
	pieces[1].iov_len = first_length;
	pieces[2].iov_base = unconstify(void *, second);
	pieces[2].iov_len = second_length;

	if (writer->buffered + total > RP_LOG_BUFFER_SIZE)
		flush_buffer(writer);
	if (total > RP_LOG_BUFFER_SIZE)
	{
		write_out(writer, pieces, second_length > 0 ? 3 : 2, total);
		return;
	}
	for (int i = 0; i < 3; i++)
	{
		if (pieces[i].iov_len > 0)
			memcpy(writer->buffer + writer->buffered, pieces[i].iov_base, pieces[i].iov_len);
		writer->buffered += pieces[i].iov_len;
	}
}

/* Append the position that waits. */
static void
put_position(RpLogWriter *writer)
{
	uint8		payload[P2P_POSITION_MAX_SIZE];
	P2pWriter	w;

	if (writer->fd < 0)
	{
		P2pSpan		next = {.first_seq = writer->now.cursor.seq + 1};

		begin_segment(writer, &next);
	}
	p2p_writer_init(&w, payload, sizeof(payload));
	p2p_put_position(&w, &writer->position);
	Assert(!w.overflow);
	put_record(writer, P2P_LOG_POSITION, payload, w.length, NULL, 0);
}

/* Write what the buffer holds. */
static void
flush_buffer(RpLogWriter *writer)
{
	struct iovec piece;

	if (writer->buffered == 0)
		return;
	piece.iov_base = writer->buffer;
	piece.iov_len = writer->buffered;
	write_out(writer, &piece, 1, writer->buffered);
	writer->buffered = 0;
}

/* Write pieces at the end of the segment. */
static void
write_out(RpLogWriter *writer, struct iovec *pieces, int npieces, size_t length)
{
	ssize_t		written;

	errno = 0;
	pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_WRITE);
	written = pg_pwritev_with_retry(writer->fd, pieces, npieces, (off_t) writer->now.length);
	pgstat_report_wait_end();
	if (written != (ssize_t) length)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to change log \"%s\": %m", writer->folder)));
	}
	/* have the system begin to write what the sync would wait for */
	if (length >= RP_LOG_BUFFER_SIZE)
		pg_flush_data(writer->fd, (off_t) writer->now.length, (off_t) length);
	writer->now.length += length;
}

/*
 * Put zeros behind a small sync that has made the file longer. That this fails, for lack of
 * space, harms nothing: what was to be synced has been written.
 */
static void
prepare(RpLogWriter *writer)
{
	writer->small = writer->now.length - writer->synced.length <= PREPARE_SYNC_SIZE;
	if (writer->now.length <= writer->prepared)
		return;
	writer->prepared = writer->now.length;
	if (writer->small)
		put_zeros(writer);
}

/* Make the file longer. */
static void
put_zeros(RpLogWriter *writer)
{
	static const uint8 zeros[PREPARE_SIZE];
	ssize_t		written = pg_pwrite(writer->fd, zeros, sizeof(zeros), (off_t) writer->prepared);

	if (written > 0)
		writer->prepared += (uint64) written;
}

/* fsync the segment; on failure drop what was not durable, then ERROR. */
static void
make_durable(RpLogWriter *writer)
{
	int			result;
	int			saved_errno;

	lose_tail(writer);
	pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_SYNC);
	result = pg_fdatasync(writer->fd);
	pgstat_report_wait_end();
	if (result == 0)
		return;

	saved_errno = errno;
	cut_back(writer, data_sync_elevel(ERROR));
	errno = saved_errno;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not fsync change log \"%s\": %m", writer->folder)));
}

/*
 * In test builds: lose what is not durable and the process with it, as if the power had gone
 * before the sync, but for the WAL.
 */
static void
lose_tail(RpLogWriter *writer)
{
	if (writer->now.length == writer->synced.length)
		return;
	if (writer->own && RP_CRASH_POINT_IS_ARMED("own_tail_lost"))
	{
		cut_back(writer, LOG);
		RP_CRASH_POINT("own_tail_lost");
	}
	if (!writer->own && RP_CRASH_POINT_IS_ARMED("foreign_tail_lost"))
	{
		cut_back(writer, LOG);
		RP_CRASH_POINT("foreign_tail_lost");
	}
}

/* Cut the segment back to what is durable; a segment of which nothing is goes. */
static void
cut_back(RpLogWriter *writer, int elevel)
{
	writer->buffered = 0;
	writer->position_waits = false;
	if (writer->fd >= 0 && ftruncate(writer->fd, (off_t) writer->synced.length) != 0)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not truncate change log \"%s\": %m", writer->folder)));
	writer->prepared = writer->synced.length;
	if (writer->fd >= 0 && writer->synced.length == 0)
	{
		close_writer_file(writer);
		rp_log_segment_remove(writer->folder, &writer->segment);
	}
	writer->now = writer->synced;
}

/* Go on in another segment; if that cannot be, stay in this one. */
static void
rotate(RpLogWriter *writer)
{
	if (!writer->own)
	{
		leave_segment(writer);
		writer->now.length = writer->synced.length = 0;
	}
	else if (!writer->closed_by_position || !rotate_own(writer))
		return;
	RP_CRASH_POINT("log_after_rotate");
}

/* Close a full segment, without what was prepared in it; if that can't be cut off, it does no harm. */
static void
leave_segment(RpLogWriter *writer)
{
	if (writer->prepared > writer->now.length &&
		ftruncate(writer->fd, (off_t) writer->now.length) != 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not truncate change log \"%s\": %m", writer->folder)));
	close_writer_file(writer);
}

/* Make the own log's next segment, with the last position in it; false: it could not be made. */
static bool
rotate_own(RpLogWriter *writer)
{
	RpLogSegment next = {writer->now.cursor.seq + 1, 0};
	char		unfinished[MAXPGPATH];
	char		path[MAXPGPATH];
	size_t		length;
	int			fd;

	rp_log_unfinished_path(writer->folder, unfinished);
	rp_log_segment_path(writer->folder, &next, path);
	fd = create_with_position(writer, unfinished, &length);
	if (fd < 0)
		return false;

	/*
	 * Once renamed, the new segment is the last one of the log whatever
	 * happens: staying in the old one would be wrong.
	 */
	if (rename(unfinished, path) != 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", unfinished, path)));
		close(fd);
		ReleaseExternalFD();
		return false;
	}
	leave_segment(writer);
	writer->fd = fd;
	writer->segment = next;
	writer->now.length = length;
	writer->synced = writer->now;
	writer->prepared = length;
	fsync_fname(writer->folder, true);
	return true;
}

/* Make a file with the last position in it, durable but for its name; -1: it could not be made. */
static int
create_with_position(RpLogWriter *writer, const char *path, size_t *length)
{
	uint8		record[P2P_LOGREC_HEADER_SIZE + P2P_POSITION_MAX_SIZE];
	P2pWriter	w;
	int			fd = open_segment_file(path, O_RDWR | O_CREAT | O_TRUNC, LOG);

	if (fd < 0)
		return -1;
	p2p_writer_init(&w, record + P2P_LOGREC_HEADER_SIZE, P2P_POSITION_MAX_SIZE);
	p2p_put_position(&w, &writer->position);
	p2p_logrec_header(P2P_LOG_POSITION, record + P2P_LOGREC_HEADER_SIZE, (uint32) w.length,
					  NULL, 0, record);
	*length = P2P_LOGREC_HEADER_SIZE + w.length;

	errno = 0;
	if (pg_pwrite(fd, record, *length, 0) == (ssize_t) *length && pg_fsync(fd) == 0)
		return fd;
	if (errno == 0)
		errno = ENOSPC;
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", path)));
	close(fd);
	ReleaseExternalFD();
	return -1;
}
