/*
 * changelog_internal.h
 *	  What the files changelog_*.c share: names and lists of segments, and a
 *	  buffered look at one of them. Nobody else includes it.
 */
#ifndef RP_CHANGELOG_INTERNAL_H
#define RP_CHANGELOG_INTERNAL_H

#include "changelog.h"

/* A segment that has reached this is followed by another; tests make it small. */
#ifndef RP_LOG_SEGMENT_SIZE
#define RP_LOG_SEGMENT_SIZE ((uint64) 16 * 1024 * 1024)
#endif

/* What writers collect before they write, and readers read ahead. */
#define RP_LOG_BUFFER_SIZE ((size_t) 256 * 1024)

/* Memory beyond this that one large batch needed is given back afterwards. */
#define RP_LOG_KEEP_SIZE ((size_t) 4 * 1024 * 1024)

#define RP_LOG_FILE_MODE (S_IRUSR | S_IWUSR)

/* Names a segment by the first transaction, or part of one, that it may hold. */
typedef struct RpLogSegment
{
	uint64		seq;
	uint32		part;
} RpLogSegment;

/* changelog_dir.c */

/* Folder of a log, palloc'd; rp_log_folder_make also creates it and those above. */
char	   *rp_log_folder(Oid dboid, const P2pOrigin *origin);
char	   *rp_log_folder_make(Oid dboid, const P2pOrigin *origin);
void		rp_log_segment_path(const char *folder, const RpLogSegment *segment,
								char path[MAXPGPATH]);
int			rp_log_segment_compare(const RpLogSegment *a, const RpLogSegment *b);
/* Segments of a folder in order, palloc'd; *count = 0 if there is no such folder. */
RpLogSegment *rp_log_list(const char *folder, int *count);
/* First transaction that stands in the segment from its beginning. */
uint64		rp_log_segment_first_seq(const RpLogSegment *segment);
/* Size of a segment; 0 if it is gone. */
uint64		rp_log_segment_bytes(const char *folder, const RpLogSegment *segment);
/* Unlink; a segment that is gone already is no error. */
void		rp_log_segment_remove(const char *folder, const RpLogSegment *segment);
/* Remove what a rotation that did not complete has left. */
void		rp_log_remove_unfinished(const char *folder);
/* Name of a segment in the making. */
void		rp_log_unfinished_path(const char *folder, char path[MAXPGPATH]);
/*
 * A reader that meets damage marks the log; the next recovery then checks every
 * segment and not only the last. Marking never fails, it is a hint.
 */
void		rp_log_suspect_set(const char *folder);
bool		rp_log_suspect_get(const char *folder);
void		rp_log_suspect_clear(const char *folder);

/* changelog_window.c */

/* A buffered look at one open segment file. */
typedef struct RpLogWindow
{
	MemoryContext context;		/* of data */
	int			fd;				/* -1 = closed; counted as an external fd */
	uint8	   *data;
	size_t		capacity;
	uint64		start;			/* offset in the file of data[0] */
	size_t		filled;
	size_t		ahead;			/* how much to read next time */
} RpLogWindow;

/* The head of a record. */
typedef struct RpLogRecord
{
	P2pLogType	type;
	uint64		size;			/* header and payload */
	P2pSpan		span;			/* of a batch */
} RpLogRecord;

void		rp_window_init(RpLogWindow *window, MemoryContext context);
/* Close what is open and open path instead; false if there is no such file. */
bool		rp_window_open(RpLogWindow *window, const char *path);
void		rp_window_close(RpLogWindow *window);
/* Forget the bytes read ahead. */
void		rp_window_drop(RpLogWindow *window);
uint64		rp_window_file_size(const RpLogWindow *window);
/*
 * Point to the bytes from offset on, of which *available (at most length, less
 * only at the end of the file) are there. Valid until the next call.
 */
const uint8 *rp_window_want(RpLogWindow *window, uint64 offset, size_t length, size_t *available);
/*
 * Read the head of the record at offset, checksum unverified: P2P_OK, P2P_END
 * (the file ends there, or has zeros), P2P_TORN (it ends inside of the record), P2P_CORRUPT.
 */
P2pStatus	rp_window_peek(RpLogWindow *window, uint64 offset, RpLogRecord *record);
/* Read and check the whole record at offset: as above, *bytes valid until the next call. */
P2pStatus	rp_window_record(RpLogWindow *window, uint64 offset, RpLogRecord *record,
							 const uint8 **bytes);

/* changelog_recover.c */

/* Where recovery has cut a log. */
typedef struct RpLogRecovery
{
	bool		empty;			/* no segment is left */
	RpLogSegment last;			/* the last segment */
	uint64		length;			/* its length */
	RpLogEnd	end;
} RpLogRecovery;

void		rp_log_recover(const char *folder, const P2pOrigin *origin, bool own,
						   RpLogRecovery *recovery);

/* changelog_pack.c */

/* Unpack an LZ4 body of a parsed batch into raw_length bytes: P2P_OK or P2P_CORRUPT. */
P2pStatus	rp_log_unpack_into(const P2pBatch *batch, void *memory);

#endif							/* RP_CHANGELOG_INTERNAL_H */
