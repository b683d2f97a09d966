/*
 * changelog_read.c
 *	  The reader of a change log: seek, read on, unpack.
 *
 * Readers live in any process (apply, gossip, backends that serve peers) and
 * share nothing with the writer but the files and a published limit: a seq, and for apply
 * also how many parts of the transaction behind it. Everything up to it
 * will not change, though a part of it may be cut off and come again; everything behind it
 * may be half written, or rolled back and written differently. So a reader
 *
 *	  - touches the file only if the limit says that its next batch is there,
 *	  - never moves past records (positions too) before it has found that batch,
 *	  - and drops bytes read ahead under an older limit than the batch needs.
 *
 * Reading on is one pread of 256 kB for many batches. At the end of a segment
 * the next one is opened by the name that it must have. If that is not there, the log
 * was cut and filled again (a foreign log after damage): the place is looked up
 * anew, from the list of files. An unlinked segment stays readable while open.
 *
 * A record that is unsound, though the limit covers it, is looked up once more
 * from scratch; then it is damage: the log is marked as suspect, so that its
 * writer checks it as a whole when it opens it next.
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "changelog_internal.h"

/* A trimmer may remove what has just been listed: list again so often. */
#define MAX_LOOKUPS 5

/* Looks at a place before a record that is not sound is called damage. */
#define MAX_READ_ATTEMPTS 3

struct RpLogReader
{
	MemoryContext context;
	MemoryContextCallback callback;
	char		folder[MAXPGPATH];
	P2pOrigin	origin;
	bool		from_start;		/* looking for the oldest, whatever its seq */
	bool		positioned;
	RpLogSegment next;			/* what to read next: seq, and part of it */
	RpLogWindow window;			/* on the segment that we stand in */
	RpLogSegment segment;
	uint64		offset;			/* behind the last batch that was read */
	RpLogLimit	window_limit;	/* the limit when the window was filled */
	uint8	   *unpacked;
	size_t		unpacked_size;
};

typedef enum Lookup
{
	LOOKUP_FOUND,
	LOOKUP_TRIMMED,
	LOOKUP_ABSENT				/* not there yet, or lost */
} Lookup;

/* Where a batch is, seen from what we look for. */
typedef enum Side
{
	SIDE_BEFORE,
	SIDE_HERE,
	SIDE_BEHIND
} Side;

static void close_reader_file(void *arg);
static Lookup look_up(RpLogReader *reader);
static Lookup look_up_listed(RpLogReader *reader, const RpLogSegment *segments, int count);
static int	segment_to_begin_with(const RpLogReader *reader, const RpLogSegment *segments,
								  int count);
static Lookup walk(RpLogReader *reader);
static Side side_of(const RpLogReader *reader, const P2pSpan *span);
static bool open_segment(RpLogReader *reader, const RpLogSegment *segment);
static bool open_next_segment(RpLogReader *reader);
static bool limit_covers(const RpLogLimit *limit, uint64 seq, uint32 part);
static P2pStatus read_here(RpLogReader *reader, const RpLogLimit *limit, P2pBlock *bytes,
						   P2pBatch *batch);
static void step_over(RpLogReader *reader, const P2pSpan *span);

/* Make a reader of the log of origin, which need not exist yet. */
RpLogReader *
rp_log_open_reader(Oid dboid, const P2pOrigin *origin)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "change log reader",
												  ALLOCSET_SMALL_SIZES);
	RpLogReader *reader = MemoryContextAllocZero(context, sizeof(RpLogReader));
	char	   *folder = rp_log_folder(dboid, origin);

	reader->context = context;
	reader->origin = *origin;
	strlcpy(reader->folder, folder, MAXPGPATH);
	pfree(folder);
	rp_window_init(&reader->window, context);
	reader->callback.func = close_reader_file;
	reader->callback.arg = reader;
	MemoryContextRegisterResetCallback(context, &reader->callback);
	return reader;
}

/* Close the file and free the reader. */
void
rp_log_close_reader(RpLogReader *reader)
{
	MemoryContextDelete(reader->context);
}

/* Close the file of a reader; called when its memory goes, also on errors. */
static void
close_reader_file(void *arg)
{
	rp_window_close(&((RpLogReader *) arg)->window);
}

/* Stand before transaction after_seq + 1 without its first parts, or before the oldest. */
bool
rp_log_seek(RpLogReader *reader, uint64 after_seq, uint32 parts, bool from_start)
{
	reader->from_start = from_start;
	reader->next.seq = from_start ? 0 : after_seq + 1;
	reader->next.part = from_start ? 0 : parts;
	reader->positioned = look_up(reader) == LOOKUP_FOUND;
	return reader->positioned;
}

/* Find segment and offset of reader->next from the list of files. */
static Lookup
look_up(RpLogReader *reader)
{
	Lookup		result = LOOKUP_TRIMMED;

	for (int i = 0; i < MAX_LOOKUPS && result == LOOKUP_TRIMMED; i++)
	{
		int			count;
		RpLogSegment *segments = rp_log_list(reader->folder, &count);

		result = look_up_listed(reader, segments, count);
		pfree(segments);
	}
	return result;
}

/* Find the place in these segments, some of which may be gone: LOOKUP_TRIMMED. */
static Lookup
look_up_listed(RpLogReader *reader, const RpLogSegment *segments, int count)
{
	int			i = segment_to_begin_with(reader, segments, count);

	if (i < 0)
		return LOOKUP_TRIMMED;
	for (; i < count; i++)
	{
		Lookup		result;

		if (!open_segment(reader, &segments[i]))
			return LOOKUP_TRIMMED;
		result = walk(reader);
		if (result == LOOKUP_FOUND || !reader->from_start)
			return result;
	}
	return LOOKUP_ABSENT;
}

/* Return the index of the segment that may hold what we look for; -1 if all are behind it. */
static int
segment_to_begin_with(const RpLogReader *reader, const RpLogSegment *segments, int count)
{
	int			low = 0;
	int			high = count;

	if (reader->from_start)
		return 0;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (rp_log_segment_compare(&segments[middle], &reader->next) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low - 1;
}

/* Walk the open segment from its beginning to what we look for. */
static Lookup
walk(RpLogReader *reader)
{
	RpLogRecord record;

	for (;;)
	{
		P2pStatus	status = rp_window_peek(&reader->window, reader->offset, &record);

		CHECK_FOR_INTERRUPTS();
		if (status == P2P_END)
			return LOOKUP_ABSENT;
		/* whether this is damage or still being written, reading will tell */
		if (status != P2P_OK)
			return reader->from_start ? LOOKUP_ABSENT : LOOKUP_FOUND;
		if (record.type == P2P_LOG_BATCH)
		{
			switch (side_of(reader, &record.span))
			{
				case SIDE_BEFORE:
					break;
				case SIDE_HERE:
					if (reader->from_start)
						reader->next.seq = record.span.first_seq;
					reader->from_start = false;
					return LOOKUP_FOUND;
				case SIDE_BEHIND:
					return LOOKUP_ABSENT;
			}
		}
		reader->offset += record.size;
	}
}

/* Is a batch with this span before, at, or behind what we look for? */
static Side
side_of(const RpLogReader *reader, const P2pSpan *span)
{
	const RpLogSegment *next = &reader->next;

	if (reader->from_start)
		return span->part == 0 ? SIDE_HERE : SIDE_BEFORE;
	if (span->last_seq < next->seq)
		return SIDE_BEFORE;
	if (span->first_seq > next->seq)
		return SIDE_BEHIND;
	if (!span->partial)
		return next->part == 0 ? SIDE_HERE : SIDE_BEHIND;
	if (span->part == next->part)
		return SIDE_HERE;
	return span->part < next->part ? SIDE_BEFORE : SIDE_BEHIND;
}

/* Stand at the beginning of a segment; false: it is gone. */
static bool
open_segment(RpLogReader *reader, const RpLogSegment *segment)
{
	char		path[MAXPGPATH];

	rp_log_segment_path(reader->folder, segment, path);
	if (!rp_window_open(&reader->window, path))
		return false;
	reader->segment = *segment;
	reader->offset = 0;
	reader->window_limit = (RpLogLimit) {0, 0};
	return true;
}

/* Stand at the beginning of the segment that has to follow; false: there is none. */
static bool
open_next_segment(RpLogReader *reader)
{
	if (rp_log_segment_compare(&reader->segment, &reader->next) == 0)
		return false;
	return open_segment(reader, &reader->next);
}

/* Read the next batch, if limit_seq covers it. */
P2pStatus
rp_log_read(RpLogReader *reader, uint64 limit_seq, P2pBlock *bytes, P2pBatch *batch)
{
	RpLogLimit	limit = {limit_seq, 0, false};

	return rp_log_read_to(reader, &limit, bytes, batch);
}

/* Does the limit cover a batch that ends with seq, and is this part of it (0 of a whole one)? */
static bool
limit_covers(const RpLogLimit *limit, uint64 seq, uint32 part)
{
	return seq <= limit->seq || (seq == limit->seq + 1 && part < limit->parts);
}

/* Read the next batch, if the limit covers it. */
P2pStatus
rp_log_read_to(RpLogReader *reader, const RpLogLimit *limit, P2pBlock *bytes, P2pBatch *batch)
{
	P2pStatus	status = P2P_END;

	if (!reader->positioned)
		elog(ERROR, "change log \"%s\" is read without a place", reader->folder);
	if (!limit_covers(limit, reader->next.seq, reader->next.part))
		return P2P_END;

	for (int attempt = 0; attempt < MAX_READ_ATTEMPTS; attempt++)
	{
		Lookup		found;

		if (reader->window.fd >= 0)
		{
			status = read_here(reader, limit, bytes, batch);
			if (status == P2P_OK || status == P2P_END)
				return status;
			if (open_next_segment(reader))
				continue;
		}
		found = look_up(reader);
		if (found == LOOKUP_TRIMMED)
		{
			reader->positioned = false;
			return P2P_REFUSED;
		}
		if (found == LOOKUP_ABSENT)
			break;
	}
	if (limit->unsure)
		return P2P_END;
	rp_log_suspect_set(reader->folder);
	return P2P_CORRUPT;
}

/*
 * Read the next batch from the open segment. P2P_TORN: it is not there, and
 * may be in the next segment. P2P_CORRUPT: something else is there.
 */
static P2pStatus
read_here(RpLogReader *reader, const RpLogLimit *limit, P2pBlock *bytes, P2pBatch *batch)
{
	uint64		offset = reader->offset;
	RpLogRecord record;
	const uint8 *whole;
	P2pStatus	status;

	/* bytes that were read ahead before the next batch was published */
	if (!limit_covers(&reader->window_limit, reader->next.seq, reader->next.part))
		rp_window_drop(&reader->window);
	for (;;)
	{
		if (reader->window.filled == 0)
			reader->window_limit = *limit;
		status = rp_window_peek(&reader->window, offset, &record);
		if (status != P2P_OK)
			return status == P2P_END ? P2P_TORN : status;
		if (record.type == P2P_LOG_POSITION)
		{
			offset += record.size;
			continue;
		}
		if (side_of(reader, &record.span) != SIDE_HERE)
			return P2P_CORRUPT;
		if (limit_covers(&reader->window_limit, record.span.last_seq, record.span.part))
			break;
		if (reader->window_limit.seq == limit->seq && reader->window_limit.parts == limit->parts)
		{
			/* a limit inside of a batch; unless it was damage that made it reach so far */
			status = rp_window_record(&reader->window, offset, &record, &whole);
			return status == P2P_OK ? P2P_END : status;
		}
		/* published as a whole since the window was filled: look again */
		rp_window_drop(&reader->window);
	}

	status = rp_window_record(&reader->window, offset, &record, &whole);
	if (status != P2P_OK)
		return status;
	bytes->bytes = whole + P2P_LOGREC_HEADER_SIZE;
	bytes->length = (size_t) record.size - P2P_LOGREC_HEADER_SIZE;
	if (p2p_batch_parse(bytes->bytes, bytes->length, batch) != P2P_OK ||
		!p2p_origin_equal(&batch->origin, &reader->origin))
		return P2P_CORRUPT;
	reader->offset = offset + record.size;
	step_over(reader, &batch->span);
	return P2P_OK;
}

/* Look for what follows this batch from now on. */
static void
step_over(RpLogReader *reader, const P2pSpan *span)
{
	reader->next.seq = span->final ? span->last_seq + 1 : span->last_seq;
	reader->next.part = span->final ? 0 : span->part + 1;
}

/* Point to the unpacked body of a batch that was just read. */
P2pStatus
rp_log_unpack(RpLogReader *reader, const P2pBatch *batch, P2pBlock *body)
{
	P2pStatus	status;

	if (batch->compression == P2P_COMPRESSION_NONE)
	{
		body->bytes = batch->body;
		body->length = batch->body_length;
		return P2P_OK;
	}
	if (reader->unpacked_size < batch->raw_length ||
		(reader->unpacked_size > RP_LOG_KEEP_SIZE && batch->raw_length <= RP_LOG_KEEP_SIZE))
	{
		if (reader->unpacked != NULL)
			pfree(reader->unpacked);
		reader->unpacked = NULL;
		reader->unpacked_size = 0;
		reader->unpacked = MemoryContextAllocHuge(reader->context, Max(batch->raw_length, 1));
		reader->unpacked_size = batch->raw_length;
	}
	status = rp_log_unpack_into(batch, reader->unpacked);
	body->bytes = reader->unpacked;
	body->length = batch->raw_length;
	return status;
}
