/*
 * changelog_dir.c
 *	  Folders and segments of the change logs: their names, making them,
 *	  listing them, trimming them, removing them.
 *
 *	  replp2p/<database oid>/log/<node id>.<epoch>/
 *		  <seq, 16 hex digits>.<part, 8 hex digits>	 a segment
 *		  unfinished		  the next segment of the own log, before it has its name
 *		  suspect			  a reader has met damage here
 *
 * A segment's name is the first transaction that it may hold; a part other than
 * 0 says that it begins in the middle of a large transaction, with that part.
 * So order by name is order of content, and a transaction stands in the
 * segment with the greatest name that is not above it: nobody needs an index.
 *
 * Trimming takes whole segments from the front. It may run in another process
 * than the writer: it leaves a segment alone until the one behind it begins with
 * a stable, hence durable, transaction. So the last batch, whose hash the
 * next one names, never goes, whatever a crash does to the last segment.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "changelog_internal.h"
#include "crashpoint.h"

#define SUSPECT_NAME "suspect"
#define UNFINISHED_NAME "unfinished"
#define SEGMENT_NAME_LENGTH 25	/* 16 digits, a dot, 8 digits */

static void make_folder(const char *path, const char *parent);
static bool segment_from_name(const char *name, RpLogSegment *segment);
static int	segment_sort(const void *a, const void *b);
static bool segment_has_batch(const char *folder, const RpLogSegment *segment);
static bool window_has_batch(RpLogWindow *window);

/* Return the path of the database's folder, palloc'd. */
char *
rp_directory_path(Oid dboid)
{
	return psprintf("%s/%u", RP_DIRECTORY, dboid);
}

/* Make the database's folder, and the one above it, durably. */
void
rp_directory_make(Oid dboid)
{
	char	   *path = rp_directory_path(dboid);

	make_folder(RP_DIRECTORY, ".");
	make_folder(path, RP_DIRECTORY);
	pfree(path);
}

/* Make one folder that only the server's user can enter; one that is there is fine. */
static void
make_folder(const char *path, const char *parent)
{
	if (mkdir(path, S_IRWXU) != 0)
	{
		if (errno == EEXIST)
			return;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
	}
	fsync_fname(parent, true);
}

/* Return the folder of the log of origin, palloc'd. */
char *
rp_log_folder(Oid dboid, const P2pOrigin *origin)
{
	char		id[P2P_ID_TEXT_SIZE];

	p2p_id_to_text(&origin->id, id);
	return psprintf("%s/%u/log/%s.%u", RP_DIRECTORY, dboid, id, origin->epoch);
}

/* Return the folder of the log of origin, palloc'd, and see to it that it exists. */
char *
rp_log_folder_make(Oid dboid, const P2pOrigin *origin)
{
	char	   *folder = rp_log_folder(dboid, origin);
	char	   *database = rp_directory_path(dboid);
	char	   *logs = psprintf("%s/log", database);

	rp_directory_make(dboid);
	make_folder(logs, database);
	make_folder(folder, logs);
	pfree(logs);
	pfree(database);
	return folder;
}

/* Write the path of a segment. */
void
rp_log_segment_path(const char *folder, const RpLogSegment *segment, char path[MAXPGPATH])
{
	snprintf(path, MAXPGPATH, "%s/%016llx.%08x", folder,
			 (unsigned long long) segment->seq, segment->part);
}

/* Write the path of a segment in the making. */
void
rp_log_unfinished_path(const char *folder, char path[MAXPGPATH])
{
	snprintf(path, MAXPGPATH, "%s/%s", folder, UNFINISHED_NAME);
}

/* Compare two names: < 0, 0, > 0. */
int
rp_log_segment_compare(const RpLogSegment *a, const RpLogSegment *b)
{
	if (a->seq != b->seq)
		return a->seq < b->seq ? -1 : 1;
	if (a->part != b->part)
		return a->part < b->part ? -1 : 1;
	return 0;
}

/* Return the first transaction that stands in the segment from its beginning. */
uint64
rp_log_segment_first_seq(const RpLogSegment *segment)
{
	return segment->part == 0 ? segment->seq : segment->seq + 1;
}

/* Read a segment's name; false: that file is something else. */
static bool
segment_from_name(const char *name, RpLogSegment *segment)
{
	unsigned long long seq;
	unsigned int part;
	char		again[SEGMENT_NAME_LENGTH + 1];

	if (strlen(name) != SEGMENT_NAME_LENGTH ||
		strspn(name, "0123456789abcdef.") != SEGMENT_NAME_LENGTH ||
		sscanf(name, "%16llx.%8x", &seq, &part) != 2)
		return false;
	snprintf(again, sizeof(again), "%016llx.%08x", seq, part);
	if (strcmp(again, name) != 0)
		return false;
	segment->seq = seq;
	segment->part = part;
	return true;
}

/* Return the segments of a folder in order, palloc'd. */
RpLogSegment *
rp_log_list(const char *folder, int *count)
{
	int			room = 64;
	RpLogSegment *segments = palloc(room * sizeof(RpLogSegment));
	DIR		   *dir = AllocateDir(folder);
	struct dirent *entry;

	*count = 0;
	if (dir == NULL && errno == ENOENT)
		return segments;

	while ((entry = ReadDir(dir, folder)) != NULL)
	{
		if (!segment_from_name(entry->d_name, &segments[*count]))
			continue;
		(*count)++;
		if (*count == room)
		{
			room *= 2;
			segments = repalloc(segments, room * sizeof(RpLogSegment));
		}
	}
	FreeDir(dir);
	qsort(segments, *count, sizeof(RpLogSegment), segment_sort);
	return segments;
}

/* qsort's view of rp_log_segment_compare. */
static int
segment_sort(const void *a, const void *b)
{
	return rp_log_segment_compare(a, b);
}

/* Return the size of a segment; 0 if it is gone. */
uint64
rp_log_segment_bytes(const char *folder, const RpLogSegment *segment)
{
	char		path[MAXPGPATH];
	struct stat st;

	rp_log_segment_path(folder, segment, path);
	if (stat(path, &st) == 0)
		return (uint64) st.st_size;
	if (errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	return 0;
}

/*
 * Return how many bytes a log has on disk. The files are the only account of it: capture
 * or gossip append while gossip trims, and two writers of one figure would lose one another's.
 */
uint64
rp_log_bytes(Oid dboid, const P2pOrigin *origin)
{
	char	   *folder = rp_log_folder(dboid, origin);
	int			count;
	RpLogSegment *segments = rp_log_list(folder, &count);
	uint64		bytes = 0;

	for (int i = 0; i < count; i++)
		bytes += rp_log_segment_bytes(folder, &segments[i]);
	pfree(segments);
	pfree(folder);
	return bytes;
}

/* Unlink a segment, not yet durably; one that is gone is no error. */
void
rp_log_segment_remove(const char *folder, const RpLogSegment *segment)
{
	char		path[MAXPGPATH];

	rp_log_segment_path(folder, segment, path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* Remove what a rotation that did not complete has left. */
void
rp_log_remove_unfinished(const char *folder)
{
	char		path[MAXPGPATH];

	rp_log_unfinished_path(folder, path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* Mark the log as one in which a reader has met damage; says so once. */
void
rp_log_suspect_set(const char *folder)
{
	char	   *path = psprintf("%s/%s", folder, SUSPECT_NAME);
	int			fd = OpenTransientFilePerm(path, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY,
										   RP_LOG_FILE_MODE);

	if (fd >= 0)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("change log \"%s\" is damaged", folder),
				 errdetail("What could not be read is neither applied nor served.")));
	else if (errno != EEXIST)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	if (fd >= 0)
		CloseTransientFile(fd);
	pfree(path);
}

/* Is the log marked? */
bool
rp_log_suspect_get(const char *folder)
{
	char	   *path = psprintf("%s/%s", folder, SUSPECT_NAME);
	struct stat st;
	bool		found = stat(path, &st) == 0;

	pfree(path);
	return found;
}

/* Take the mark away. */
void
rp_log_suspect_clear(const char *folder)
{
	char	   *path = psprintf("%s/%s", folder, SUSPECT_NAME);

	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
	pfree(path);
}

/* Has a reader, in any process, met damage in this log? */
bool
rp_log_is_suspect(Oid dboid, const P2pOrigin *origin)
{
	char	   *folder = rp_log_folder(dboid, origin);
	bool		suspect = rp_log_suspect_get(folder);

	pfree(folder);
	return suspect;
}

/* Remove the leading segments that nobody needs; return the first seq left, 0 if there is none. */
uint64
rp_log_trim(Oid dboid, const P2pOrigin *origin, uint64 stable_seq)
{
	char	   *folder = rp_log_folder(dboid, origin);
	int			count;
	RpLogSegment *segments = rp_log_list(folder, &count);
	int			first = 0;
	uint64		first_seq = 0;

	while (first + 1 < count && segments[first + 1].seq <= stable_seq &&
		   (first + 2 < count || segment_has_batch(folder, &segments[first + 1])))
		rp_log_segment_remove(folder, &segments[first++]);
	if (first > 0)
	{
		fsync_fname(folder, true);
		RP_CRASH_POINT("log_after_trim");
	}

	if (first + 1 < count || (count > 0 && segment_has_batch(folder, &segments[first])))
		first_seq = rp_log_segment_first_seq(&segments[first]);

	pfree(segments);
	pfree(folder);
	return first_seq;
}

/* Does a segment hold a batch? Mostly the first or second record says so. */
static bool
segment_has_batch(const char *folder, const RpLogSegment *segment)
{
	char		path[MAXPGPATH];
	RpLogWindow window;
	volatile bool found = false;

	rp_log_segment_path(folder, segment, path);
	rp_window_init(&window, CurrentMemoryContext);
	PG_TRY();
	{
		found = rp_window_open(&window, path) && window_has_batch(&window);
	}
	PG_FINALLY();
	{
		rp_window_close(&window);
	}
	PG_END_TRY();
	if (window.data != NULL)
		pfree(window.data);
	return found;
}

/* Does an open segment hold a batch? */
static bool
window_has_batch(RpLogWindow *window)
{
	RpLogRecord record;
	uint64		offset = 0;

	while (rp_window_peek(window, offset, &record) == P2P_OK)
	{
		CHECK_FOR_INTERRUPTS();
		if (record.type == P2P_LOG_BATCH)
			return true;
		offset += record.size;
	}
	return false;
}

/* Remove the database's folder and everything in it: logs, version index, identity. */
void
rp_log_remove_all(Oid dboid)
{
	char	   *path = rp_directory_path(dboid);
	struct stat st;

	if (stat(path, &st) == 0)
	{
		if (!rmtree(path, true))
			ereport(WARNING,
					(errmsg("some files of directory \"%s\" could not be removed", path)));
		fsync_fname(RP_DIRECTORY, true);
	}
	pfree(path);
}
