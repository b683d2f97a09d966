/*
 * walread.c
 *	  Reading this server's WAL record by record, up to a limit.
 *
 * The limit is one of the process, since the page_read callback has nowhere else to
 * look: whoever reads says first how far. It is at most the flush pointer, so that nothing is
 * read that a crash could take back. Nothing here waits; who wants more looks again.
 *
 * Called by capture, for decoding and at its start, and by whoever looks for notes (walnote.h).
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "utils/memutils.h"

#include "walread.h"

static XLogRecPtr read_limit = InvalidXLogRecPtr;

static XLogRecPtr record_at(XLogRecPtr end);

int
rp_wal_page_read(XLogReaderState *reader, XLogRecPtr page, int required, XLogRecPtr target,
				 char *buffer)
{
	TimeLineID	timeline;
	XLogRecPtr	limit = read_limit;
	WALReadError error;

	(void) target;
	(void) GetFlushRecPtr(&timeline);
	XLogReadDetermineTimeline(reader, page, required, timeline);
	if (reader->currTLI != timeline && reader->currTLIValidUntil < limit)
		limit = reader->currTLIValidUntil;
	if (page + required > limit)
		return -1;
	if (!WALRead(reader, buffer, page, XLOG_BLCKSZ, reader->currTLI, &error))
		WALReadRaiseError(&error);
	return (int) Min((XLogRecPtr) XLOG_BLCKSZ, limit - page);
}

void
rp_wal_read_limit(XLogRecPtr limit)
{
	read_limit = limit;
}

XLogReaderState *
rp_wal_reader_open(XLogRecPtr after)
{
	XLogReaderState *reader = XLogReaderAllocate(wal_segment_size, NULL,
												 XL_ROUTINE(.page_read = rp_wal_page_read,
															.segment_open = wal_segment_open,
															.segment_close = wal_segment_close),
												 NULL);

	if (reader == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	XLogBeginRead(reader, record_at(after));
	return reader;
}

/* Where the record begins that follows one that ends here. */
static XLogRecPtr
record_at(XLogRecPtr end)
{
	if (end % XLOG_BLCKSZ != 0)
		return end;
	return end + (XLogSegmentOffset(end, wal_segment_size) == 0 ? SizeOfXLogLongPHD :
				  SizeOfXLogShortPHD);
}

/*
 * One that is too large for the reader's buffer is allocated here, and freed by the next call: so
 * in the memory that lives as long as the reader.
 */
bool
rp_wal_record_read(XLogReaderState *reader, MemoryContext memory)
{
	char	   *error = NULL;
	MemoryContext old = MemoryContextSwitchTo(memory);
	bool		found = XLogReadRecord(reader, &error) != NULL;

	MemoryContextSwitchTo(old);
	if (found)
		return true;
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read WAL at %X/%X: %s",
						LSN_FORMAT_ARGS(reader->EndRecPtr), error),
				 errhint("If that WAL is gone for good, have this node leave the group by "
						 "replp2p.leave_group(force => true), and join again.")));
	return false;
}
