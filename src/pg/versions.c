/*
 * versions.c
 *	  The version index: mapped files of 65,536 xids.
 *
 * An array indexed by xid, in pieces: finding an entry is a division and two
 * loads, its memory is the kernel's page cache, and dropping what is stable is
 * unlink(). The format stands in versions.h; byte order is the machine's (the
 * files never leave it).
 *
 * A piece is allocated in full (1 MB) before it is mapped: a store to a hole
 * of a full disk would be a SIGBUS, and take the cluster down; so it is an
 * ENOSPC here. A file that is shorter is still being made, and has no entry yet.
 *
 * Apply looks up the xmin of every row that it changes, mostly far below the horizon,
 * where there is no file. It must learn that without a system call, and must
 * not miss a file that another process has just made, be it below all others
 * (a transaction may commit long after younger ones). So the folder has a
 * counter, "generation", mapped by everybody. Who makes or removes a file
 * counts up afterwards; who sees the same count as when it last read the folder
 * knows that its list of files is still right.
 *
 *	  put: make the file -> generation + 1 -> stamp -> barrier -> slot and seq
 *	  get: generation as known? -> list of files -> slot and seq -> barrier -> stamp
 *
 * An entry never changes once it is there (capture repeats what apply has put),
 * so that no reader sees half of one and half of another. No locks.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "changelog.h"
#include "versions.h"

#define PIECE_XIDS 65536
#define PIECE_BYTES ((size_t) PIECE_XIDS * sizeof(Entry))
#define PIECE_NAME_LENGTH 16

/* Mapped pieces per process, by number modulo this: 256 MB of address space. */
#define MAX_MAPPED 256

#define GENERATION_NAME "generation"
#define GENERATION_BYTES 4096

#define FILE_MODE (S_IRUSR | S_IWUSR)

#define SLOT_SHIFT 48
#define MAX_SEQ ((UINT64CONST(1) << SLOT_SHIFT) - 1)

/* Entries that a scan copies before it calls its visitor. */
#define SCAN_STEP 256

typedef struct Entry
{
	pg_atomic_uint64 stamp;
	pg_atomic_uint64 word;		/* slot << 48 | seq; zero = no entry */
} Entry;

StaticAssertDecl(sizeof(Entry) == 16, "a version entry is 16 bytes on disk");

typedef struct Piece
{
	uint64		number;			/* xid / PIECE_XIDS */
	Entry	   *entries;		/* NULL = not mapped */
	bool		dirty;			/* put into since the last sync */
} Piece;

static char folder[MAXPGPATH];
static pg_atomic_uint64 *generation;	/* NULL = not attached */
static dev_t generation_dev;
static ino_t generation_ino;

/* Numbers of the files that were there at known_generation, in order. */
static uint64 known_generation;
static uint64 *known;
static int	known_count;
static int	known_room;

static Piece mapped[MAX_MAPPED];

static void make_folder(Oid dboid);
static void *map_file(const char *path, size_t size, bool create, struct stat *st);
static void allocate_file(int fd, const char *path, size_t size);
static void forget_all(void);
static void refresh_known(void);
static void read_folder(void);
static int	compare_numbers(const void *a, const void *b);
static bool is_known(uint64 number);
static void piece_path(uint64 number, char path[MAXPGPATH]);
static Entry *find_piece(uint64 number, bool create);
static Entry *map_piece(uint64 number, bool create);
static void unmap_piece(Piece *piece);
static void sync_piece(Piece *piece);
static bool read_entry(Entry *at, RpVersionEntry *entry);
static bool piece_is_stable(uint64 number, RpVersionStable stable, void *arg);

/* Use the index of this database in this process, making it if it is not there. */
void
rp_versions_attach(Oid dboid)
{
	char		path[MAXPGPATH];
	char	   *database = rp_directory_path(dboid);
	struct stat st;
	void	   *memory;

	snprintf(path, MAXPGPATH, "%s/versions/%s", database, GENERATION_NAME);
	if (generation != NULL && stat(path, &st) == 0 &&
		st.st_dev == generation_dev && st.st_ino == generation_ino)
	{
		pfree(database);
		return;
	}

	forget_all();
	snprintf(folder, MAXPGPATH, "%s/versions", database);
	pfree(database);
	make_folder(dboid);
	memory = map_file(path, GENERATION_BYTES, true, &st);
	generation_dev = st.st_dev;
	generation_ino = st.st_ino;
	generation = memory;
	read_folder();
}

/* Make the folder of the index, durably. */
static void
make_folder(Oid dboid)
{
	rp_directory_make(dboid);
	if (mkdir(folder, S_IRWXU) == 0)
	{
		char	   *parent = rp_directory_path(dboid);

		fsync_fname(parent, true);
		pfree(parent);
	}
	else if (errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", folder)));
}

/*
 * Map a whole file of the given size. NULL: there is none, or it is being
 * made; with create it is made, all zeros, and *st tells which file it is.
 */
static void *
map_file(const char *path, size_t size, bool create, struct stat *st)
{
	int			fd = OpenTransientFilePerm(path, O_RDWR | PG_BINARY | (create ? O_CREAT : 0),
										   FILE_MODE);
	void	   *memory = NULL;

	if (fd < 0)
	{
		if (errno == ENOENT && !create)
			return NULL;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	if (create)
		allocate_file(fd, path, size);
	if (fstat(fd, st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	if ((size_t) st->st_size >= size)
	{
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (memory == MAP_FAILED)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("could not map file \"%s\": %m", path)));
	}
	CloseTransientFile(fd);
	return memory;
}

/* Give a file its disk space, unless it has it; what is in it stays. */
static void
allocate_file(int fd, const char *path, size_t size)
{
	struct stat st;
	int			result;

	if (fstat(fd, &st) == 0 && (size_t) st.st_size >= size)
		return;
	do
	{
		CHECK_FOR_INTERRUPTS();
		pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_EXTEND);
		result = posix_fallocate(fd, 0, (off_t) size);
		pgstat_report_wait_end();
	} while (result == EINTR);
	if (result == 0)
		return;

	errno = result;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not allocate space for file \"%s\": %m", path),
			 errhint("Free some disk space, or bring up the peers that hold old versions back.")));
}

/* Give up all mappings: the index they belonged to is gone. */
static void
forget_all(void)
{
	for (int i = 0; i < MAX_MAPPED; i++)
	{
		mapped[i].dirty = false;
		unmap_piece(&mapped[i]);
	}
	if (generation != NULL)
		munmap(generation, GENERATION_BYTES);
	generation = NULL;
	known_count = 0;
}

/* Have the list of files as of now; mostly one comparison. */
static inline void
refresh_known(void)
{
	if (generation == NULL)
		elog(ERROR, "version index is not attached");
	if (pg_atomic_read_u64(generation) != known_generation)
		read_folder();
}

/* Read which files there are, and give up mappings of those that are gone. */
static void
read_folder(void)
{
	DIR		   *dir;
	struct dirent *file;

	/* counted before it is read: what comes meanwhile makes us read again */
	known_generation = pg_atomic_read_u64(generation);
	pg_memory_barrier();

	known_count = 0;
	dir = AllocateDir(folder);
	while ((file = ReadDir(dir, folder)) != NULL)
	{
		if (strlen(file->d_name) != PIECE_NAME_LENGTH ||
			strspn(file->d_name, "0123456789abcdef") != PIECE_NAME_LENGTH)
			continue;
		if (known_count == known_room)
		{
			int			room = Max(known_room * 2, 64);

			if (known == NULL)
				known = MemoryContextAlloc(TopMemoryContext, room * sizeof(uint64));
			else
				known = repalloc(known, room * sizeof(uint64));
			known_room = room;
		}
		known[known_count++] = strtoull(file->d_name, NULL, 16) / PIECE_XIDS;
	}
	FreeDir(dir);
	qsort(known, known_count, sizeof(uint64), compare_numbers);

	for (int i = 0; i < MAX_MAPPED; i++)
	{
		if (mapped[i].entries != NULL && !is_known(mapped[i].number))
		{
			mapped[i].dirty = false;
			unmap_piece(&mapped[i]);
		}
	}
}

/* qsort's comparison of two piece numbers. */
static int
compare_numbers(const void *a, const void *b)
{
	uint64		left = *(const uint64 *) a;
	uint64		right = *(const uint64 *) b;

	return (left > right) - (left < right);
}

/* Is there a file for this piece, as far as the list tells? */
static bool
is_known(uint64 number)
{
	if (known_count == 0 || number < known[0] || number > known[known_count - 1])
		return false;
	return bsearch(&number, known, known_count, sizeof(uint64), compare_numbers) != NULL;
}

/* Write the path of a piece. */
static void
piece_path(uint64 number, char path[MAXPGPATH])
{
	snprintf(path, MAXPGPATH, "%s/%016llx", folder, (unsigned long long) (number * PIECE_XIDS));
}

/* Return the entries of a piece; NULL if there is none and it is not to be made. */
static Entry *
find_piece(uint64 number, bool create)
{
	Piece	   *piece = &mapped[number % MAX_MAPPED];

	refresh_known();
	if (piece->entries != NULL && piece->number == number)
		return piece->entries;
	if (!create && !is_known(number))
		return NULL;
	return map_piece(number, create);
}

/* Map a piece in place of whatever has its place in the table. */
static Entry *
map_piece(uint64 number, bool create)
{
	Piece	   *piece = &mapped[number % MAX_MAPPED];
	bool		made = create && !is_known(number);
	char		path[MAXPGPATH];
	struct stat st;
	Entry	   *entries;

	piece_path(number, path);
	entries = map_file(path, PIECE_BYTES, create, &st);
	if (entries == NULL)
		return NULL;

	unmap_piece(piece);
	piece->number = number;
	piece->entries = entries;
	piece->dirty = false;
	if (made)
	{
		pg_atomic_fetch_add_u64(generation, 1);
		refresh_known();
		fsync_fname(folder, true);
	}
	return entries;
}

/* Unmap what is in this place of the table; what was put into it is synced first. */
static void
unmap_piece(Piece *piece)
{
	if (piece->entries == NULL)
		return;
	sync_piece(piece);
	munmap(piece->entries, PIECE_BYTES);
	piece->entries = NULL;
}

/* Make a piece durable, if this process has put anything into it. */
static void
sync_piece(Piece *piece)
{
	int			result;

	if (piece->entries == NULL || !piece->dirty)
		return;
	if (enableFsync)
	{
		pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_SYNC);
		result = msync(piece->entries, PIECE_BYTES, MS_SYNC);
		pgstat_report_wait_end();
		if (result != 0)
			ereport(data_sync_elevel(ERROR),
					(errcode_for_file_access(),
					 errmsg("could not sync the version index in \"%s\": %m", folder)));
	}
	piece->dirty = false;
}

/* Store the entry of xid. */
void
rp_versions_put(uint64 xid, const RpVersionEntry *entry)
{
	uint64		number = xid / PIECE_XIDS;
	uint64		word = (uint64) entry->slot << SLOT_SHIFT | entry->seq;
	Entry	   *at;

	if (entry->seq > MAX_SEQ || word == 0)
		elog(ERROR, "version entry of slot %u, seq %llu cannot be stored",
			 entry->slot, (unsigned long long) entry->seq);
	at = find_piece(number, true) + xid % PIECE_XIDS;
	mapped[number % MAX_MAPPED].dirty = true;
	if (pg_atomic_read_u64(&at->word) == word &&
		pg_atomic_read_u64(&at->stamp) == (uint64) entry->stamp)
		return;
	pg_atomic_write_u64(&at->stamp, (uint64) entry->stamp);
	pg_write_barrier();
	pg_atomic_write_u64(&at->word, word);
}

/* Look up xid; false: there is no entry. */
bool
rp_versions_get(uint64 xid, RpVersionEntry *entry)
{
	Entry	   *entries = find_piece(xid / PIECE_XIDS, false);

	return entries != NULL && read_entry(entries + xid % PIECE_XIDS, entry);
}

/* Read an entry where it is; false: it is none. */
static bool
read_entry(Entry *at, RpVersionEntry *entry)
{
	uint64		word = pg_atomic_read_u64(&at->word);

	if (word == 0)
		return false;
	pg_read_barrier();
	entry->stamp = (P2pStamp) pg_atomic_read_u64(&at->stamp);
	entry->slot = (uint16) (word >> SLOT_SHIFT);
	entry->seq = word & MAX_SEQ;
	return true;
}

/* Make durable what this process has put. */
void
rp_versions_sync(void)
{
	for (int i = 0; i < MAX_MAPPED; i++)
		sync_piece(&mapped[i]);
}

/* Zero every entry that keep does not want. */
void
rp_versions_retain(RpVersionKeep keep, void *arg)
{
	refresh_known();
	for (int i = 0; i < known_count; i++)
	{
		uint64		number = known[i];
		Entry	   *entries = find_piece(number, true);
		RpVersionEntry entry;

		CHECK_FOR_INTERRUPTS();
		for (int j = 0; j < PIECE_XIDS; j++)
		{
			if (!read_entry(&entries[j], &entry) || keep(&entry, arg))
				continue;
			pg_atomic_write_u64(&entries[j].word, 0);
			pg_write_barrier();
			pg_atomic_write_u64(&entries[j].stamp, 0);
			mapped[number % MAX_MAPPED].dirty = true;
		}
	}
	rp_versions_sync();
}

/*
 * Remove leading files that are of no use any more. Not durably: one that
 * comes back after a crash holds the same stable entries, and goes next time.
 */
uint64
rp_versions_trim(uint64 before, RpVersionStable stable, void *arg)
{
	for (;;)
	{
		char		path[MAXPGPATH];
		uint64		number;

		CHECK_FOR_INTERRUPTS();
		refresh_known();
		if (known_count == 0)
			break;
		number = known[0];
		if ((number + 1) * PIECE_XIDS > before || !piece_is_stable(number, stable, arg))
			break;
		piece_path(number, path);
		if (unlink(path) != 0 && errno != ENOENT)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
		pg_atomic_fetch_add_u64(generation, 1);
	}
	return (uint64) known_count * PIECE_BYTES;
}

/* Are all entries of a piece stable? The callback must not touch the index. */
static bool
piece_is_stable(uint64 number, RpVersionStable stable, void *arg)
{
	Entry	   *entries = find_piece(number, false);
	RpVersionEntry entry;

	for (int i = 0; entries != NULL && i < PIECE_XIDS; i++)
	{
		if (read_entry(&entries[i], &entry) && !stable(&entry, arg))
			return false;
	}
	return true;
}

/* Visit the entries with first <= xid < end, in order. */
void
rp_versions_scan(uint64 first, uint64 end, RpVersionVisit visit, void *arg)
{
	uint64		xid = first;

	while (xid < end)
	{
		RpVersionEntry found[SCAN_STEP];
		uint64		xids[SCAN_STEP];
		int			nfound = 0;
		uint64		piece_end = (xid / PIECE_XIDS + 1) * PIECE_XIDS;
		uint64		stop = Min(Min(end, piece_end), xid + SCAN_STEP);
		Entry	   *entries = find_piece(xid / PIECE_XIDS, false);

		CHECK_FOR_INTERRUPTS();
		if (entries == NULL)
		{
			/* on to the next file there is, if any */
			int			i = 0;

			while (i < known_count && known[i] * PIECE_XIDS < piece_end)
				i++;
			if (i == known_count)
				break;
			xid = known[i] * PIECE_XIDS;
			continue;
		}
		for (; xid < stop; xid++)
		{
			if (read_entry(entries + xid % PIECE_XIDS, &found[nfound]))
				xids[nfound++] = xid;
		}
		/* copied before, because the visitor may unmap this piece by its look-ups */
		for (int i = 0; i < nfound; i++)
			visit(xids[i], &found[i], arg);
	}
}

/* Return the 64-bit xid that a raw xmin stands for; special xids stand for themselves. */
uint64
rp_versions_full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (!TransactionIdIsNormal(xid))
		return xid;
	/* greater than the next one: given out before the counter wrapped */
	if (xid > XidFromFullTransactionId(next) && epoch > 0)
		epoch--;
	return (uint64) epoch << 32 | xid;
}
