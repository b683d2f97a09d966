/*
 * identity.c
 *	  The node's key pair, kept in a file of the data directory and nowhere else.
 *
 *	  replp2p/<database oid>/node.key
 *
 *	  offset size
 *	       0    8  magic "P2PNODE" and a zero byte
 *	       8    4  format version (1)
 *	      12    4  epoch
 *	      16    8  system identifier of the cluster
 *	      24    4  database oid
 *	      28   16  group id
 *	      44   32  public key
 *	      76   64  secret key
 *	     140   32  BLAKE2b-256 of all bytes before it
 *
 *	  replp2p/<database oid>/join.secret: the 32 bytes of an invite's secret.
 *
 * Both are written beside their place, fsynced and renamed, so that a reader
 * finds a whole file or none; mode 0600 and the server's own user are demanded
 * on reading. System identifier and database oid bind the key to one database:
 * whoever copies a database or a cluster copies the tables, and must not speak
 * as the same node. ONLY APPEND to the format versions.
 *
 * Secrets stand on the stack or in the caller's memory and are wiped.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "p2p_buf.h"
#include "p2p_crypto.h"

#include "changelog.h"
#include "identity.h"

#define KEY_FILE "node.key"
#define SECRET_FILE "join.secret"
#define KEY_MAGIC "P2PNODE"
#define KEY_FORMAT 1
#define KEY_HASHED_SIZE 140
#define KEY_FILE_SIZE (KEY_HASHED_SIZE + P2P_HASH_SIZE)

StaticAssertDecl(KEY_HASHED_SIZE == sizeof(KEY_MAGIC) + 4 + 4 + 8 + 4 + P2P_ID_SIZE +
				 P2P_PUBLIC_KEY_SIZE + P2P_SECRET_KEY_SIZE, "layout of node.key");

/* Fill memory from the server's strong random source; ERROR if it fails. */
void
rp_random(void *memory, size_t length)
{
	if (!pg_strong_random(memory, length))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not get random bytes"),
				 errhint("The operating system's source of random numbers must work.")));
}

/* libsodium is usable, or ERROR. */
void
rp_crypto_required(void)
{
	if (!p2p_crypto_init())
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("libsodium could not be initialized"),
				 errhint("Check the installation of libsodium on this machine.")));
}

/* Return the path of a file of the database's folder, palloc'd. */
static char *
file_path(Oid dboid, const char *name)
{
	char	   *folder = rp_directory_path(dboid);
	char	   *path = psprintf("%s/%s", folder, name);

	pfree(folder);
	return path;
}

/* Remove a file if it is there; a failure is only logged, as aborts call this. */
static void
file_remove(Oid dboid, const char *name)
{
	char	   *path = file_path(dboid, name);

	if (unlink(path) < 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
	pfree(path);
}

/* Write all bytes to a new file and make them durable. */
static void
file_fill(const char *path, const void *bytes, size_t length)
{
	int			fd = OpenTransientFilePerm(path, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY,
										   S_IRUSR | S_IWUSR);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path),
				 errhint("The server's user must be able to write in its data directory.")));
	errno = 0;
	if (write(fd, bytes, length) != (ssize_t) length)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	if (pg_fsync(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/* Write a file of the database's folder durably; whole or not at all. */
static void
file_write(Oid dboid, const char *name, const void *bytes, size_t length)
{
	char	   *path = file_path(dboid, name);
	char	   *draft = psprintf("%s.tmp", path);

	rp_directory_make(dboid);
	if (unlink(draft) < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", draft)));
	file_fill(draft, bytes, length);
	(void) durable_rename(draft, path, ERROR);
	pfree(draft);
	pfree(path);
}

/* Refuse a secret file that somebody else owns or may read. */
static void
file_check_mode(const char *path, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("file \"%s\" has wrong owner or permissions", path),
				 errdetail("It holds the secret of this node."),
				 errhint("It must belong to the server's user and have mode 0600.")));
}

/* Read a file of exactly size bytes; false if there is none, ERROR for all else. */
static bool
file_read(const char *path, void *bytes, size_t size)
{
	uint8		one_more;
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	bool		whole;

	if (fd < 0)
	{
		if (errno == ENOENT)
			return false;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	file_check_mode(path, fd);
	whole = read(fd, bytes, size) == (ssize_t) size && read(fd, &one_more, 1) == 0;
	(void) CloseTransientFile(fd);
	if (!whole)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not have %zu bytes", path, size),
				 errhint("Restore it from a backup of this very data directory; or remove it, call leave_group(force => true), and join anew.")));
	return true;
}

/* Make a fresh key pair in memory. */
void
rp_identity_make(const P2pId *group, RpIdentity *identity)
{
	uint8		seed[P2P_SEED_SIZE];

	rp_crypto_required();
	memset(identity, 0, sizeof(*identity));
	rp_random(seed, sizeof(seed));
	p2p_keypair_from_seed(seed, identity->public_key, identity->secret_key);
	p2p_wipe(seed, sizeof(seed));
	p2p_id_of_key(identity->public_key, &identity->self.id);
	identity->self.epoch = 1;
	identity->group = *group;
}

/* Write the key file; ERROR if there is one. */
void
rp_identity_write(Oid dboid, const RpIdentity *identity)
{
	uint8		bytes[KEY_FILE_SIZE];
	uint8		hash[P2P_HASH_SIZE];
	P2pWriter	w;

	if (rp_identity_exists(dboid))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("this database has a node key already"),
				 errhint("A former node is still being removed; try again in a few seconds.")));

	p2p_writer_init(&w, bytes, sizeof(bytes));
	p2p_put_bytes(&w, KEY_MAGIC, sizeof(KEY_MAGIC));
	p2p_put_u32(&w, KEY_FORMAT);
	p2p_put_u32(&w, identity->self.epoch);
	p2p_put_u64(&w, GetSystemIdentifier());
	p2p_put_u32(&w, dboid);
	p2p_put_id(&w, &identity->group);
	p2p_put_bytes(&w, identity->public_key, P2P_PUBLIC_KEY_SIZE);
	p2p_put_bytes(&w, identity->secret_key, P2P_SECRET_KEY_SIZE);
	Assert(!w.overflow && w.length == KEY_HASHED_SIZE);
	p2p_hash(bytes, KEY_HASHED_SIZE, NULL, 0, hash);
	p2p_put_bytes(&w, hash, sizeof(hash));

	file_write(dboid, KEY_FILE, bytes, sizeof(bytes));
	p2p_wipe(bytes, sizeof(bytes));
}

/* Make a key pair for identity->group, which the caller has set, and write it. */
void
rp_identity_create(Oid dboid, RpIdentity *identity)
{
	P2pId		group = identity->group;

	rp_identity_make(&group, identity);
	rp_identity_write(dboid, identity);
}

/* Take the file's bytes apart; which error they deserve is decided here. */
static void
identity_parse(Oid dboid, const char *path, const uint8 *bytes, RpIdentity *identity)
{
	uint8		hash[P2P_HASH_SIZE];
	char		magic[sizeof(KEY_MAGIC)];
	P2pId		id;
	P2pReader	r;
	uint64		system;
	uint32		format,
				database;

	p2p_reader_init(&r, bytes, KEY_HASHED_SIZE);
	p2p_get_raw(&r, magic, sizeof(magic));
	format = p2p_get_u32(&r);
	identity->self.epoch = p2p_get_u32(&r);
	system = p2p_get_u64(&r);
	database = p2p_get_u32(&r);
	p2p_get_id(&r, &identity->group);
	p2p_get_raw(&r, identity->public_key, P2P_PUBLIC_KEY_SIZE);
	p2p_get_raw(&r, identity->secret_key, P2P_SECRET_KEY_SIZE);
	p2p_id_of_key(identity->public_key, &id);
	identity->self.id = id;

	p2p_hash(bytes, KEY_HASHED_SIZE, NULL, 0, hash);
	if (memcmp(magic, KEY_MAGIC, sizeof(magic)) != 0 ||
		memcmp(hash, bytes + KEY_HASHED_SIZE, sizeof(hash)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is damaged", path),
				 errhint("Restore it from a backup of this very data directory; or remove it, call leave_group(force => true), and join anew.")));
	if (format != KEY_FORMAT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("file \"%s\" has format %u, which this version does not know", path, format),
				 errhint("Install the version of replp2p that wrote it, or a newer one.")));
	if (system != GetSystemIdentifier() || database != dboid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("file \"%s\" belongs to another database", path),
				 errdetail("It was made for database %u of cluster " UINT64_FORMAT
						   "; this is database %u of cluster " UINT64_FORMAT ".",
						   database, system, dboid, GetSystemIdentifier()),
				 errhint("A copy of a node cannot speak in its name: DROP EXTENSION replp2p here, then let this database join as a node of its own.")));
}

/* Read the key file; ERROR if it is missing, readable by others or not of this database. */
void
rp_identity_read(Oid dboid, RpIdentity *identity)
{
	uint8		bytes[KEY_FILE_SIZE];
	char	   *path = file_path(dboid, KEY_FILE);

	rp_crypto_required();
	if (!file_read(path, bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("the key file \"%s\" of this node is missing", path),
				 errdetail("The tables of schema replp2p say that this database is a node."),
				 errhint("If this is a copy of another node's database, DROP EXTENSION replp2p here and join anew; else restore the file from a backup of this data directory, or call leave_group(force => true).")));
	identity_parse(dboid, path, bytes, identity);
	p2p_wipe(bytes, sizeof(bytes));
	pfree(path);
}

/* Is there a key file, whatever is in it? */
bool
rp_identity_exists(Oid dboid)
{
	char	   *path = file_path(dboid, KEY_FILE);
	struct stat st;
	bool		exists = lstat(path, &st) == 0;

	pfree(path);
	return exists;
}

/* Remove key file, invite's secret and, if that leaves it empty, the folder. Never throws. */
void
rp_identity_remove(Oid dboid)
{
	char	   *folder = rp_directory_path(dboid);

	file_remove(dboid, KEY_FILE);
	file_remove(dboid, KEY_FILE ".tmp");
	file_remove(dboid, SECRET_FILE);
	file_remove(dboid, SECRET_FILE ".tmp");
	(void) rmdir(folder);		/* it stays if logs are in it */
	pfree(folder);
}

/* Keep the invite's secret for the join worker. */
void
rp_join_secret_write(Oid dboid, const uint8 secret[P2P_SECRET_SIZE])
{
	file_write(dboid, SECRET_FILE, secret, P2P_SECRET_SIZE);
}

/* Read the invite's secret; false if it has been used and removed. */
bool
rp_join_secret_read(Oid dboid, uint8 secret[P2P_SECRET_SIZE])
{
	char	   *path = file_path(dboid, SECRET_FILE);
	bool		there = file_read(path, secret, P2P_SECRET_SIZE);

	pfree(path);
	return there;
}

/* Forget the invite's secret: it is used. */
void
rp_join_secret_remove(Oid dboid)
{
	file_remove(dboid, SECRET_FILE);
}
