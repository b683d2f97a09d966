/*
 * changelog.h
 *	  The change logs on disk: one folder per (database, origin, epoch) under
 *	  the data directory, append-only segments of p2p_logrec records.
 *
 *	  replp2p/<database oid>/log/<node id>.<epoch>/<first seq, 16 hex>.<part, 8 hex>
 *
 * One writer per log: capture for the own origin, gossip for the others. Any
 * number of readers, in any process: they stop at a seq that the writer has
 * published as durable, so they never meet a torn record.
 *
 * Own log: each sync ends with a POSITION record, and recovery cuts back to
 * the last one (what came after it was never served, or will be made again the
 * same). Each new segment of the own log
 * begins with a POSITION record, so that trimming never loses the last one.
 */
#ifndef RP_CHANGELOG_H
#define RP_CHANGELOG_H

#include "postgres.h"

#include "p2p_batch.h"
#include "p2p_logrec.h"
#include "p2p_message.h"

#define RP_DIRECTORY "replp2p"

typedef struct RpLogWriter RpLogWriter;
typedef struct RpLogReader RpLogReader;

/* Where a log ends, as found by recovery. */
typedef struct RpLogEnd
{
	P2pCursor	cursor;
	uint64		oldest_seq;		/* first whole one in it; 0 = empty */
	P2pStamp	last_stamp;		/* of the last complete transaction */
	bool		has_position;
	P2pPosition position;		/* the last one */
	uint64		cut_bytes;		/* torn tail that recovery removed */
} RpLogEnd;

/*
 * Open for writing and recover: cut a torn tail (own log: back to the last
 * POSITION), create folders as needed, fsync what it changed. A record in the
 * middle whose checksum fails cuts a foreign log there (it is pulled again)
 * and is ERRCODE_DATA_CORRUPTED for the own one. Lives in a child of CurrentMemoryContext,
 * whose reset closes its file. Capture has to compare end->position.lsn with the slot's
 * confirmed LSN: if it is less, synced records were lost (ERROR).
 */
RpLogWriter *rp_log_open_writer(Oid dboid, const P2pOrigin *origin, bool own, RpLogEnd *end);
void		rp_log_close_writer(RpLogWriter *writer);

/*
 * Append: a batch has to be the next one by seq, part and previous hash; a
 * position has to name the last batch's seq, with no large transaction open.
 * Nothing counts until rp_log_sync. ERROR if it does not fit on the disk. Of
 * several positions between two syncs only one behind the last batch is
 * written, as the last record of the sync.
 */
void		rp_log_append_batch(RpLogWriter *writer, const P2pBatch *batch,
								const void *header, size_t header_length,
								const void *body, size_t body_length);
void		rp_log_append_position(RpLogWriter *writer, const P2pPosition *position);
/* Of the own log so many batches may be published at most that are not durable: capture_batch.c. */
#define RP_UNSYNCED_BATCHES 256

/* Hand everything appended so far to the operating system, so that readers see it: not durable yet. */
void		rp_log_write(RpLogWriter *writer);
/* Can anything be written to the log, without a rollback before? */
bool		rp_log_is_sound(const RpLogWriter *writer);
/*
 * Make durable, then rotate if the segment is full (the own log: if the sync
 * ended with a position, which is copied). If an ERROR comes out of it, nothing since the
 * last sync counts. An own log may be synced without a position in the middle of a
 * large transaction; recovery cuts that off again.
 */
void		rp_log_sync(RpLogWriter *writer);
/* Make room for the next small syncs, if there is little: call it when nothing waits. */
void		rp_log_prepare(RpLogWriter *writer);
/* Forget what was appended since the last sync. Required after any ERROR of the five above. */
void		rp_log_rollback(RpLogWriter *writer);
/* Bytes that a log has on disk now; any process may ask, nothing is locked, and files are looked at. */
uint64		rp_log_bytes(Oid dboid, const P2pOrigin *origin);

/*
 * Remove leading segments that are stable with the first transaction behind
 * them; never the last segment, never the last batch. Any process may call it. Returns the
 * first whole seq left (0 = empty).
 */
uint64		rp_log_trim(Oid dboid, const P2pOrigin *origin, uint64 stable_seq);

/* How far a log may be read: the transactions up to seq, and so many parts of the next. */
typedef struct RpLogLimit
{
	uint64		seq;
	uint32		parts;
	bool		unsure;			/* the writer may cut that off again: a lack is no damage */
} RpLogLimit;

/* A log that is not there yet is no error. Memory as for a writer. */
RpLogReader *rp_log_open_reader(Oid dboid, const P2pOrigin *origin);
void		rp_log_close_reader(RpLogReader *reader);
/*
 * Stand before the batch that holds transaction after_seq + 1 (skipping `parts`
 * parts of it), or at the oldest whole one if from_start. The batch may begin with
 * earlier transactions. false: that is trimmed, or not there yet; seek again when
 * more is published.
 */
bool		rp_log_seek(RpLogReader *reader, uint64 after_seq, uint32 parts, bool from_start);
/*
 * Read the next batch whose last_seq <= limit_seq (whole bytes, checksum
 * verified, structure parsed; signature as verified on arrival). limit_seq must
 * have been published by the writer after a sync; of batches that are what they are
 * whatever happens to them here (foreign ones, and own ones that would be made again the same),
 * after a write. P2P_END: none yet.
 * P2P_REFUSED: what comes next has been trimmed. P2P_CORRUPT: the disk changed
 * it; the log is then marked as suspect, and its next rp_log_open_writer checks all of
 * it (a foreign log is cut there, the own one keeps the mark). Memory is valid until the next call.
 */
P2pStatus	rp_log_read(RpLogReader *reader, uint64 limit_seq,
						P2pBlock *bytes, P2pBatch *batch);
/* The same, also parts of a transaction whose end is not there yet. */
P2pStatus	rp_log_read_to(RpLogReader *reader, const RpLogLimit *limit,
						   P2pBlock *bytes, P2pBatch *batch);
/* Has a reader, in any process, marked the log? Then close its writer and open it again. */
bool		rp_log_is_suspect(Oid dboid, const P2pOrigin *origin);
/*
 * Unpack the body of a batch just read: points to it, or to memory of the reader
 * (until the next call). P2P_OK or P2P_CORRUPT.
 */
P2pStatus	rp_log_unpack(RpLogReader *reader, const P2pBatch *batch, P2pBlock *body);
/*
 * Pack a body: returns the compression used; *out points to body itself or to
 * `packed` (rp_log_pack_bound bytes).
 */
uint8		rp_log_pack(const void *body, uint32 length, void *packed,
						const void **out, uint32 *out_length);
size_t		rp_log_pack_bound(uint32 length);

/* Remove everything of a database: the whole folder "replp2p/<oid>" (leave, drop). */
void		rp_log_remove_all(Oid dboid);
/* Path of the database's folder "replp2p/<oid>", palloc'd; rp_directory_make creates it (0700). */
char	   *rp_directory_path(Oid dboid);
void		rp_directory_make(Oid dboid);

#endif							/* RP_CHANGELOG_H */
