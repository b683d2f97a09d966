/*
 * changelog_window.c
 *	  A buffered look at one segment of a change log.
 *
 * Recovery, trimming and readers all walk a segment record by record, mostly
 * forward. The window holds the bytes around the last record, reads ahead, and grows
 * to what one record needs; records are used in place. It reads 8 kB ahead at first, and
 * twice as much each time that this was not enough, up to 256 kB: who follows a log at
 * its end does not read the zeros that are behind it (changelog_write.c). How
 * long a record claims to be is compared with the size of the file before any
 * memory is taken, so that a flipped bit in a length cannot ask for much.
 *
 * The descriptor lives as long as its owner (a worker's life, mostly), so it
 * is an ordinary one, counted with AcquireExternalFD(). The owner closes it, also
 * on errors: by a reset callback of its memory context.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pgstat.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "changelog_internal.h"

/* Bytes of a record that tell the span of its batch: see p2p_batch.h. */
#define BATCH_FLAGS_AT 6
#define BATCH_SEQS_AT 44
#define BATCH_SPAN_END 64
#define BATCH_FLAG_PARTIAL 0x01
#define BATCH_FLAG_NOT_FINAL 0x02

#define AHEAD_FIRST ((size_t) 8192)

static void window_reserve(RpLogWindow *window, size_t capacity, size_t keep);
static void window_fill(RpLogWindow *window, size_t goal);
static bool read_span(const uint8 *payload, P2pSpan *span);

/* Make a closed window whose memory comes from context. */
void
rp_window_init(RpLogWindow *window, MemoryContext context)
{
	memset(window, 0, sizeof(*window));
	window->context = context;
	window->fd = -1;
	window->ahead = AHEAD_FIRST;
}

/* Look at path from now on; false if there is no such file. */
bool
rp_window_open(RpLogWindow *window, const char *path)
{
	rp_window_close(window);

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path),
				 errhint("Raise max_files_per_process.")));
	window->fd = BasicOpenFile(path, O_RDONLY | O_CLOEXEC | PG_BINARY);
	if (window->fd >= 0)
		return true;

	ReleaseExternalFD();
	if (errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return false;
}

/* Close the file, if one is open, and forget its bytes; the memory stays. */
void
rp_window_close(RpLogWindow *window)
{
	if (window->fd >= 0)
	{
		close(window->fd);
		window->fd = -1;
		ReleaseExternalFD();
	}
	rp_window_drop(window);
}

/* Forget the bytes read ahead: they may have changed since. */
void
rp_window_drop(RpLogWindow *window)
{
	window->start = 0;
	window->filled = 0;
	window->ahead = AHEAD_FIRST;
}

/* Return the size that the open file has now. */
uint64
rp_window_file_size(const RpLogWindow *window)
{
	struct stat st;

	if (fstat(window->fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat a change log segment: %m")));
	return (uint64) st.st_size;
}

/* Point to up to length bytes at offset, reading what is not in memory yet. */
const uint8 *
rp_window_want(RpLogWindow *window, uint64 offset, size_t length, size_t *available)
{
	uint64		end = window->start + window->filled;
	size_t		keep = 0;
	size_t		goal = Max(length, window->ahead);

	if (offset >= window->start && offset <= end)
	{
		if (offset + length <= end)
		{
			*available = length;
			return window->data + (offset - window->start);
		}
		keep = (size_t) (end - offset);
	}

	if (length > RP_LOG_BUFFER_SIZE)
	{
		uint64		size = rp_window_file_size(window);
		uint64		left = (size > offset) ? size - offset : 0;

		goal = Max((size_t) Min((uint64) goal, left), RP_LOG_BUFFER_SIZE);
	}
	window->ahead = Min(window->ahead * 2, RP_LOG_BUFFER_SIZE);

	if (keep > 0)
		memmove(window->data, window->data + (offset - window->start), keep);
	window->start = offset;
	window->filled = keep;
	window_reserve(window, Max(goal, RP_LOG_BUFFER_SIZE), keep);
	window_fill(window, goal);

	*available = Min(window->filled, length);
	return window->data;
}

/* Have memory for capacity bytes, and not much more, with the first keep bytes preserved. */
static void
window_reserve(RpLogWindow *window, size_t capacity, size_t keep)
{
	uint8	   *fresh;

	if (window->capacity >= capacity &&
		(window->capacity <= RP_LOG_KEEP_SIZE || capacity > RP_LOG_KEEP_SIZE || keep > capacity))
		return;

	fresh = MemoryContextAllocHuge(window->context, capacity);
	if (keep > 0)
		memcpy(fresh, window->data, keep);
	if (window->data != NULL)
		pfree(window->data);
	window->data = fresh;
	window->capacity = capacity;
}

/* Read on behind what is there until so much is there or the file ends. */
static void
window_fill(RpLogWindow *window, size_t goal)
{
	while (window->filled < goal)
	{
		ssize_t		got;

		pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_READ);
		got = pg_pread(window->fd, window->data + window->filled,
					   goal - window->filled,
					   (off_t) (window->start + window->filled));
		pgstat_report_wait_end();
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read a change log segment: %m")));
		if (got == 0)
			break;
		window->filled += (size_t) got;
	}
}

/* Read the head of the record at offset. */
P2pStatus
rp_window_peek(RpLogWindow *window, uint64 offset, RpLogRecord *record)
{
	const uint8 *bytes;
	size_t		available;
	uint32		payload_length;
	P2pStatus	status;

	bytes = rp_window_want(window, offset, P2P_LOGREC_HEADER_SIZE + BATCH_SPAN_END, &available);
	if (p2p_logrec_is_blank(bytes, available))
		return P2P_END;
	status = p2p_logrec_peek(bytes, available, &record->type, &payload_length);
	if (status != P2P_OK)
		return status;
	record->size = (uint64) P2P_LOGREC_HEADER_SIZE + payload_length;
	if (record->type != P2P_LOG_BATCH)
		return P2P_OK;
	if (payload_length < BATCH_SPAN_END)
		return P2P_CORRUPT;
	if (available < P2P_LOGREC_HEADER_SIZE + BATCH_SPAN_END)
		return P2P_TORN;
	return read_span(bytes + P2P_LOGREC_HEADER_SIZE, &record->span) ? P2P_OK : P2P_CORRUPT;
}

/* Read a batch's span from its fixed part; false: it cannot be one. */
static bool
read_span(const uint8 *payload, P2pSpan *span)
{
	P2pReader	r;
	uint8		flags = payload[BATCH_FLAGS_AT];

	p2p_reader_init(&r, payload + BATCH_SEQS_AT, BATCH_SPAN_END - BATCH_SEQS_AT);
	span->first_seq = p2p_get_u64(&r);
	span->last_seq = p2p_get_u64(&r);
	span->part = p2p_get_u32(&r);
	span->partial = (flags & BATCH_FLAG_PARTIAL) != 0;
	span->final = (flags & BATCH_FLAG_NOT_FINAL) == 0;
	return span->first_seq > 0 && span->first_seq <= span->last_seq &&
		(!span->partial || span->first_seq == span->last_seq);
}

/* Read the whole record at offset and verify its checksum. */
P2pStatus
rp_window_record(RpLogWindow *window, uint64 offset, RpLogRecord *record, const uint8 **bytes)
{
	size_t		available;
	P2pStatus	status = rp_window_peek(window, offset, record);

	if (status != P2P_OK)
		return status;
	*bytes = rp_window_want(window, offset, (size_t) record->size, &available);
	if (available < record->size)
		return P2P_TORN;
	return p2p_logrec_check(*bytes, available);
}
