/*
 * walread.h
 *	  Reading this server's WAL record by record, up to a limit.
 */
#ifndef RP_WALREAD_H
#define RP_WALREAD_H

#include "postgres.h"

#include "access/xlogreader.h"

/* Page_read callback: what is within the limit; never waits. */
int			rp_wal_page_read(XLogReaderState *reader, XLogRecPtr page, int required,
							 XLogRecPtr target, char *buffer);
/* All readers of this process may read up to here. */
void		rp_wal_read_limit(XLogRecPtr limit);
/*
 * A reader whose first record is the one that follows a record's end at `after`. Free it by
 * XLogReaderFree().
 */
XLogReaderState *rp_wal_reader_open(XLogRecPtr after);
/* Read the next WAL record within the limit; false: none yet. memory: lives as long as the reader. */
bool		rp_wal_record_read(XLogReaderState *reader, MemoryContext memory);

#endif							/* RP_WALREAD_H */
