/*
 * changelog_recover.c
 *	  Where does a log end? Asked once, when its writer opens it.
 *
 * A crash leaves anything behind the last sync: nothing, half a record, zeros,
 * or a later record without an earlier one, since the system writes back in
 * any order. So recovery believes a log up to its first record that is torn, has a
 * wrong checksum, or does not continue what is before it (seq, part, hash
 * chain), and cuts the rest off; zeros, which its writer puts behind the last record, are
 * the end, if nothing else follows. In the own log it goes back further, to the
 * last POSITION: what follows is decoded again, and was never served, or comes out the same again.
 *
 *	  own      | P B B P | P B P B P B ~~~~      B batch, P position, ~ torn
 *	                               ^ cut
 *	  foreign  | B B B B | B B B ~~~~
 *	                            ^ cut
 *
 * Damage to synced records looks like a torn tail. A foreign log may lose them: they
 * are pulled again. The own log may not, for its peers have them under these
 * seqs. One sync writes one POSITION, so at most one whole POSITION can stand
 * behind a tear; if there are more, it is damage, and an error. What cannot
 * be told apart (damage inside of the last sync) capture notices: the slot has
 * then been confirmed beyond the position that is left.
 *
 * Normally only the last segment is read, and as many before it as it takes to
 * find a batch and a complete transaction (1, 2, 4 ... of them, so that a
 * large transaction over many segments is not read over and over). A log that a
 * reader has marked as suspect is checked from its beginning: a foreign one is cut
 * there; the own one goes on, and keeps the mark, which health() shows, until a
 * start finds it whole. Other damage to old segments is found by whoever reads it.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "changelog_internal.h"

/* What is known at one place of the log: behind record `offset` of a segment. */
typedef struct ScanPlace
{
	int			segment;		/* index into the list; -1 = before everything */
	uint64		offset;
	P2pCursor	cursor;
	bool		has_batch;		/* cursor.hash is that of a batch */
	bool		has_stamp;
	P2pStamp	stamp;
} ScanPlace;

typedef struct Scan
{
	const char *folder;
	const P2pOrigin *origin;
	bool		own;
	bool		tolerant;		/* damage is no ERROR, we only ask whether there is any */
	RpLogSegment *segments;
	int			count;
	RpLogWindow window;
	ScanPlace	here;			/* behind the last sound record */
	ScanPlace	keep;			/* where the log is to end */
	bool		has_position;
	P2pPosition position;
	bool		damaged;		/* the scan stopped at here.segment, here.offset */
} Scan;

static bool is_whole(Scan *scan);
static void scan_log(Scan *scan, bool whole);
static void scan_from(Scan *scan, int start);
static bool scan_is_enough(const Scan *scan);
static bool scan_segment(Scan *scan);
static bool is_blank_from(Scan *scan, uint64 offset);
static P2pStatus scan_batch(Scan *scan, const uint8 *payload, size_t length);
static P2pStatus scan_position(Scan *scan, const uint8 *payload, size_t length);
static void check_own_damage(Scan *scan);
static int	count_positions(Scan *scan, int limit);
static uint64 apply_cut(Scan *scan);
static void cut_segment(const char *path, uint64 length);
static void fill_recovery(const Scan *scan, uint64 cut_bytes, RpLogRecovery *recovery);
static void close_scan(void *arg);

/* Find the end of a log, cut what is behind it, and make the result durable. */
void
rp_log_recover(const char *folder, const P2pOrigin *origin, bool own, RpLogRecovery *recovery)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "change log recovery",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	Scan	   *scan = palloc0(sizeof(Scan));
	bool		suspect = rp_log_suspect_get(folder);
	bool		whole = true;
	uint64		cut_bytes;

	scan->folder = folder;
	scan->origin = origin;
	scan->own = own;
	rp_window_init(&scan->window, context);
	callback->func = close_scan;
	callback->arg = scan;
	MemoryContextRegisterResetCallback(context, callback);

	rp_log_remove_unfinished(folder);
	scan->segments = rp_log_list(folder, &scan->count);
	if (suspect && own)
		whole = is_whole(scan);
	scan_log(scan, suspect && !own);
	cut_bytes = apply_cut(scan);
	if (suspect && whole)
		rp_log_suspect_clear(folder);
	fsync_fname(folder, true);
	fill_recovery(scan, cut_bytes, recovery);

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	if (cut_bytes > 0)
		ereport(LOG,
				(errmsg("removed %llu bytes from the end of change log \"%s\"",
						(unsigned long long) cut_bytes, folder),
				 errdetail("The log now ends at sequence number %llu.",
						   (unsigned long long) recovery->end.cursor.seq)));
}

/* Close the file of a scan; also on errors. */
static void
close_scan(void *arg)
{
	rp_window_close(&((Scan *) arg)->window);
}

/* Is there no damage in any segment? */
static bool
is_whole(Scan *scan)
{
	scan->tolerant = true;
	scan_from(scan, 0);
	scan->tolerant = false;
	return !scan->damaged;
}

/* Scan as few segments from the end as tell all that we need, or the whole log. */
static void
scan_log(Scan *scan, bool whole)
{
	int			back = whole ? scan->count : 1;

	for (;;)
	{
		int			start = Max(scan->count - back, 0);

		scan_from(scan, start);
		if (start == 0 || scan_is_enough(scan))
			break;
		back *= 2;
	}
	if (scan->own && scan->has_position && !scan->keep.has_batch && scan->position.seq > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change log \"%s\" has lost its last batch", scan->folder),
				 errhint("Restore the segments from a backup, "
						 "or leave the group and join again.")));
}

/* Does the scan know the last batch, the last stamp, and in the own log the last position? */
static bool
scan_is_enough(const Scan *scan)
{
	if (scan->own)
		return scan->has_position && (scan->keep.has_batch || scan->position.seq == 0);
	return scan->keep.has_batch && scan->keep.has_stamp;
}

/* Scan forward from segment `start` to the end or to the first damage. */
static void
scan_from(Scan *scan, int start)
{
	scan->damaged = false;
	scan->has_position = false;
	memset(&scan->here, 0, sizeof(ScanPlace));
	memset(&scan->keep, 0, sizeof(ScanPlace));
	scan->keep.segment = start - 1;
	if (start == scan->count)
		return;
	scan->here.cursor.seq = scan->segments[start].seq - 1;
	scan->here.cursor.parts = scan->segments[start].part;
	scan->here.cursor.started = true;

	for (int i = start; i < scan->count; i++)
	{
		const P2pCursor *cursor = &scan->here.cursor;
		RpLogSegment expected = {cursor->seq + 1, cursor->parts};

		scan->here.segment = i;
		scan->here.offset = 0;
		if (rp_log_segment_compare(&scan->segments[i], &expected) != 0 || !scan_segment(scan))
		{
			scan->damaged = true;
			break;
		}
	}
	if (scan->damaged && scan->own && !scan->tolerant)
		check_own_damage(scan);
}

/* Scan one segment; false: it has a record that is not sound, at here.offset. */
static bool
scan_segment(Scan *scan)
{
	char		path[MAXPGPATH];
	RpLogRecord record;
	const uint8 *bytes;
	P2pStatus	status;

	rp_log_segment_path(scan->folder, &scan->segments[scan->here.segment], path);
	if (!rp_window_open(&scan->window, path))
		return false;

	while ((status = rp_window_record(&scan->window, scan->here.offset, &record, &bytes)) == P2P_OK)
	{
		const uint8 *payload = bytes + P2P_LOGREC_HEADER_SIZE;
		size_t		length = (size_t) record.size - P2P_LOGREC_HEADER_SIZE;

		CHECK_FOR_INTERRUPTS();
		if (record.type == P2P_LOG_BATCH)
			status = scan_batch(scan, payload, length);
		else
			status = scan_position(scan, payload, length);
		if (status != P2P_OK)
			return false;
		scan->here.offset += record.size;
		if (!scan->own || record.type == P2P_LOG_POSITION)
			scan->keep = scan->here;
	}
	return status == P2P_END && is_blank_from(scan, scan->here.offset);
}

/* Does the segment end here, or hold nothing but zeros from here on? */
static bool
is_blank_from(Scan *scan, uint64 offset)
{
	for (;;)
	{
		size_t		available;
		const uint8 *bytes = rp_window_want(&scan->window, offset, RP_LOG_BUFFER_SIZE,
											&available);

		CHECK_FOR_INTERRUPTS();
		for (size_t i = 0; i < available; i++)
		{
			if (bytes[i] != 0)
				return false;
		}
		if (available < RP_LOG_BUFFER_SIZE)
			return true;
		offset += available;
	}
}

/* Take a batch, if it is the next one of this log. */
static P2pStatus
scan_batch(Scan *scan, const uint8 *payload, size_t length)
{
	ScanPlace  *here = &scan->here;
	P2pBatch	batch;
	P2pStatus	status = p2p_batch_parse(payload, length, &batch);

	if (status != P2P_OK)
		return status;
	if (!p2p_origin_equal(&batch.origin, scan->origin) ||
		p2p_cursor_judge(&here->cursor, &batch.span) != P2P_ARRIVAL_NEXT)
		return P2P_CORRUPT;
	if (here->has_batch && memcmp(batch.previous_hash, here->cursor.hash, P2P_HASH_SIZE) != 0)
		return P2P_CORRUPT;

	p2p_cursor_advance(&here->cursor, &batch.span, batch.hash);
	here->has_batch = true;
	if (batch.span.final)
	{
		here->has_stamp = true;
		here->stamp = batch.last_stamp;
	}
	return P2P_OK;
}

/* Take a position, if it fits in here. */
static P2pStatus
scan_position(Scan *scan, const uint8 *payload, size_t length)
{
	P2pPosition position;
	P2pStatus	status = p2p_get_position(payload, length, &position);

	if (status != P2P_OK)
		return status;
	if (!scan->own || position.seq != scan->here.cursor.seq || scan->here.cursor.parts != 0)
		return P2P_CORRUPT;
	scan->position = position;
	scan->has_position = true;
	return P2P_OK;
}

/* The own log has an unsound record at here.offset: ERROR unless a crash can have left it. */
static void
check_own_damage(Scan *scan)
{
	const RpLogSegment *segment = &scan->segments[scan->here.segment];
	bool		last = scan->here.segment == scan->count - 1;
	/* all but the first segment get their name with a synced POSITION in them */
	bool		born_synced = scan->here.offset == 0 && segment->seq > 1;
	char		path[MAXPGPATH];

	if (last && !born_synced && count_positions(scan, 2) < 2)
		return;
	rp_log_segment_path(scan->folder, segment, path);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("change log segment \"%s\" is damaged at byte %llu",
					path, (unsigned long long) scan->here.offset),
			 errdetail("What stands behind that place had been made durable and served to peers."),
			 errhint("Restore the file from a backup, or leave the group and join again.")));
}

/* Count sound positions behind here.offset, wherever they begin, up to limit. */
static int
count_positions(Scan *scan, int limit)
{
	uint64		offset = scan->here.offset + 1;
	int			found = 0;

	while (found < limit)
	{
		size_t		available;
		size_t		i = 0;
		const uint8 *bytes = rp_window_want(&scan->window, offset, RP_LOG_BUFFER_SIZE,
											&available);
		/* a position that begins behind this may reach out of what we hold */
		size_t		sure = available < RP_LOG_BUFFER_SIZE ? available :
			RP_LOG_BUFFER_SIZE - P2P_LOGREC_HEADER_SIZE - P2P_POSITION_MAX_SIZE;

		CHECK_FOR_INTERRUPTS();
		for (i = 0; i < sure && found < limit; i++)
		{
			P2pLogType	type;
			uint32		length;

			if (p2p_logrec_peek(bytes + i, available - i, &type, &length) == P2P_OK &&
				type == P2P_LOG_POSITION && length <= P2P_POSITION_MAX_SIZE &&
				p2p_logrec_check(bytes + i, available - i) == P2P_OK)
				found++;
		}
		if (available < RP_LOG_BUFFER_SIZE)
			break;
		offset += sure;
	}
	return found;
}

/* Remove what is behind scan->keep, fsync what is left of that segment; return bytes removed. */
static uint64
apply_cut(Scan *scan)
{
	const ScanPlace *keep = &scan->keep;
	uint64		removed = 0;
	char		path[MAXPGPATH];
	uint64		size;

	rp_window_close(&scan->window);
	for (int i = scan->count - 1; i > keep->segment; i--)
	{
		removed += rp_log_segment_bytes(scan->folder, &scan->segments[i]);
		rp_log_segment_remove(scan->folder, &scan->segments[i]);
	}
	if (keep->segment < 0)
		return removed;

	size = rp_log_segment_bytes(scan->folder, &scan->segments[keep->segment]);
	rp_log_segment_path(scan->folder, &scan->segments[keep->segment], path);
	if (size <= keep->offset)
	{
		fsync_fname(path, false);
		return removed;
	}
	/* zeros were space for what was to come, and are no loss */
	if (rp_window_open(&scan->window, path) && !is_blank_from(scan, keep->offset))
		removed += size - keep->offset;
	rp_window_close(&scan->window);
	cut_segment(path, keep->offset);
	return removed;
}

/* Cut a segment to length, durably. */
static void
cut_segment(const char *path, uint64 length)
{
	int			fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	int			result;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_TRUNCATE);
	result = ftruncate(fd, (off_t) length);
	if (result == 0)
		result = pg_fsync(fd);
	pgstat_report_wait_end();
	if (result != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not truncate file \"%s\": %m", path)));
	CloseTransientFile(fd);
}

/* Say what is left of the log. */
static void
fill_recovery(const Scan *scan, uint64 cut_bytes, RpLogRecovery *recovery)
{
	const ScanPlace *keep = &scan->keep;
	RpLogEnd   *end = &recovery->end;

	memset(recovery, 0, sizeof(*recovery));
	end->cut_bytes = cut_bytes;
	recovery->empty = keep->segment < 0;
	if (recovery->empty)
		return;

	recovery->last = scan->segments[keep->segment];
	recovery->length = keep->offset;
	if (keep->has_batch)
	{
		end->cursor = keep->cursor;
		end->oldest_seq = rp_log_segment_first_seq(&scan->segments[0]);
		end->last_stamp = keep->stamp;
	}
	if (scan->own && scan->has_position)
	{
		end->has_position = true;
		end->position = scan->position;
		if (!keep->has_stamp)
			end->last_stamp = scan->position.stamp;
	}
}
