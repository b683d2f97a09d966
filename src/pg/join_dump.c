/*
 * join_dump.c
 *	  Running pg_dump for a join: the schema of the donor, as SQL.
 *
 * pg_dump is the one program that knows how to write down every kind of object.
 * The binary beside the running server's is taken, so that it fits the server
 * that will execute what it writes. It is started by fork and execve with an
 * argument vector: no shell reads the dsn. It connects by the same dsn as the
 * join worker, and sees the same snapshot.
 *
 * Its output is collected in memory (a schema, no data). Its standard error is kept for
 * the message if it fails. The worker waits on both pipes and its latch, so it
 * stays interruptible; whatever ends the wait, also the death of the process,
 * kills and reaps the child.
 *
 * psql commands: minors of August 2025 and later write \restrict KEY before and
 * \unrestrict KEY after everything else, with a key that nothing in between can know. These
 * two lines are taken out; no other line is touched, since lines of a function's
 * body may begin with a backslash, too.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "join_internal.h"
#include "settings.h"
#include "worker.h"

extern char **environ;

#define MAX_ARGUMENTS 16
#define MAX_STDERR 2000			/* kept of what it complains */
#define READ_SIZE 65536
#define PIPES 2

typedef struct Dump
{
	RpJoin	   *join;
	pid_t		pid;			/* 0 = not running */
	int			pipes[PIPES];	/* our ends: its stdout and stderr; -1 = closed */
	int			reserved;		/* descriptors that fd.c knows of */
	StringInfoData texts[PIPES];
} Dump;

static void dump_start(Dump *dump, const char *section);
static void dump_read(Dump *dump);
static void dump_wait(Dump *dump);
static void dump_abandon(int code, Datum arg);
static void restrict_remove(char *script);

/* Run pg_dump for one section; return what it writes. */
char *
rp_join_dump(RpJoin *join, const char *section)
{
	Dump		dump = {.join = join, .pipes = {-1, -1}};

	for (int i = 0; i < PIPES; i++)
		initStringInfo(&dump.texts[i]);
	PG_ENSURE_ERROR_CLEANUP(dump_abandon, PointerGetDatum(&dump));
	{
		dump_start(&dump, section);
		dump_read(&dump);
		dump_wait(&dump);
	}
	PG_END_ENSURE_ERROR_CLEANUP(dump_abandon, PointerGetDatum(&dump));
	dump_abandon(0, PointerGetDatum(&dump));
	pfree(dump.texts[1].data);
	restrict_remove(dump.texts[0].data);
	return dump.texts[0].data;
}

/* Return the path of the pg_dump that belongs to this server. */
static char *
dump_path(void)
{
	char		folder[MAXPGPATH];
	char	   *path;

	strlcpy(folder, my_exec_path, sizeof(folder));
	get_parent_directory(folder);
	path = psprintf("%s/pg_dump", folder);
	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("could not execute \"%s\": %m", path),
				 errhint("Install the client programs of PostgreSQL beside the server.")));
	return path;
}

/* Return the child's environment: ours, in plain English, and with a name for its session. */
static char **
dump_environment(void)
{
	static const char *const replaced[] = {
		"LC_ALL=", "LANGUAGE=", "PGAPPNAME=", "PGCONNECT_TIMEOUT=", "PGOPTIONS="
	};
	int			count = 0,
				n = 0;
	char	  **result;

	while (environ[count] != NULL)
		count++;
	result = palloc((count + 4) * sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		bool		keep = true;

		for (size_t j = 0; j < lengthof(replaced) && keep; j++)
			keep = strncmp(environ[i], replaced[j], strlen(replaced[j])) != 0;
		if (keep)
			result[n++] = environ[i];
	}
	result[n++] = "LC_ALL=C";
	result[n++] = "PGAPPNAME=replp2p join schema";
	result[n++] = psprintf("PGCONNECT_TIMEOUT=%d", Max(rp_connect_timeout_s, 2));
	result[n] = NULL;
	return result;
}

/* Fill the child's argument vector. */
static void
dump_arguments(const Dump *dump, const char *section, char *path, char *arguments[MAX_ARGUMENTS])
{
	int			n = 0;

	arguments[n++] = path;
	arguments[n++] = psprintf("--section=%s", section);
	arguments[n++] = psprintf("--snapshot=%s", dump->join->snapshot);
	arguments[n++] = psprintf("--encoding=%s", GetDatabaseEncodingName());
	arguments[n++] = "--no-blobs";
	arguments[n++] = "--no-publications";
	arguments[n++] = "--no-subscriptions";
	arguments[n++] = "--no-tablespaces";
	arguments[n++] = "--no-password";
	arguments[n++] = "--lock-wait-timeout=60s";
	arguments[n++] = "--exclude-schema=" RP_SCHEMA;
	arguments[n++] = psprintf("--dbname=%s", dump->join->sponsor_dsn);
	arguments[n] = NULL;
	Assert(n < MAX_ARGUMENTS);
}

/* In the child: become pg_dump. Only what is safe after fork. */
static void
dump_become(char *path, char **arguments, char **environment, int out, int err)
{
	int			null = open("/dev/null", O_RDONLY);
	sigset_t	none;

	if (null >= 0)
		(void) dup2(null, STDIN_FILENO);
	if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
		_exit(126);
	(void) signal(SIGPIPE, SIG_DFL);
	(void) sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);
	(void) execve(path, arguments, environment);
	_exit(127);
}

/* Make a pipe that no other program inherits, our end of it nonblocking. */
static int
pipe_make(Dump *dump, int which)
{
	int			ends[2];

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no file descriptor is left to run pg_dump"),
				 errhint("Raise max_files_per_process.")));
	dump->reserved++;
	if (pipe(ends) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe: %m")));
	dump->pipes[which] = ends[0];
	if (fcntl(ends[0], F_SETFD, FD_CLOEXEC) < 0 || fcntl(ends[1], F_SETFD, FD_CLOEXEC) < 0 ||
		!pg_set_noblock(ends[0]))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not set up a pipe to pg_dump: %m"),
				 errhint("Joining is tried again by itself.")));
	return ends[1];
}

/* Start pg_dump. */
static void
dump_start(Dump *dump, const char *section)
{
	char	   *arguments[MAX_ARGUMENTS];
	char	   *path = dump_path();
	char	  **environment = dump_environment();
	int			out,
				err;
	pid_t		pid;

	dump_arguments(dump, section, path, arguments);
	out = pipe_make(dump, 0);
	err = pipe_make(dump, 1);
	pid = fork();
	if (pid == 0)
		dump_become(path, arguments, environment, out, err);
	(void) close(out);
	(void) close(err);
	if (pid < 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not start pg_dump: %m")));
	dump->pid = pid;
}

/* Take what is in one pipe; close it at its end. */
static void
pipe_take(Dump *dump, int which)
{
	char		bytes[READ_SIZE];
	ssize_t		n = read(dump->pipes[which], bytes, sizeof(bytes));

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return;
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from pg_dump: %m")));
	if (n == 0)
	{
		(void) close(dump->pipes[which]);
		dump->pipes[which] = -1;
		return;
	}
	if (which == 1)
		n = Min(n, MAX_STDERR - dump->texts[1].len);
	appendBinaryStringInfo(&dump->texts[which], bytes, (int) n);
}

/* Read both pipes to their ends. */
static void
dump_read(Dump *dump)
{
	while (dump->pipes[0] >= 0 || dump->pipes[1] >= 0)
	{
		WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, PIPES + 2);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < PIPES; i++)
		{
			if (dump->pipes[i] >= 0)
				AddWaitEventToSet(set, WL_SOCKET_READABLE, dump->pipes[i], NULL, NULL);
		}
		{
			WaitEvent	event;

			(void) WaitEventSetWait(set, -1, &event, 1, PG_WAIT_EXTENSION);
		}
		FreeWaitEventSet(set);
		ResetLatch(MyLatch);
		rp_worker_check(dump->join->node, RP_WORKER_JOIN);
		for (int i = 0; i < PIPES; i++)
		{
			if (dump->pipes[i] >= 0)
				pipe_take(dump, i);
		}
	}
}

/* Reap pg_dump, which has closed its output; ERROR if it has failed. */
static void
dump_wait(Dump *dump)
{
	pid_t		pid = dump->pid;
	int			status;

	while (waitpid(pid, &status, 0) < 0)
	{
		if (errno != EINTR)
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not wait for pg_dump: %m"),
					 errhint("Joining is tried again by itself.")));
	}
	dump->pid = 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("pg_dump of the sponsor's schema failed"),
			 errdetail_internal("%s", dump->texts[1].len > 0 ? dump->texts[1].data :
								psprintf("It ended with status %d.", status)),
			 errhint("The role in the sponsor's dsn must be able to read all tables; a table there must not be locked for long.")));
}

/* Leave nothing behind: no child, no descriptor. */
static void
dump_abandon(int code, Datum arg)
{
	Dump	   *dump = (Dump *) DatumGetPointer(arg);

	(void) code;
	for (int i = 0; i < PIPES; i++)
	{
		if (dump->pipes[i] >= 0)
			(void) close(dump->pipes[i]);
		dump->pipes[i] = -1;
	}
	for (; dump->reserved > 0; dump->reserved--)
		ReleaseExternalFD();
	if (dump->pid != 0)
	{
		(void) kill(dump->pid, SIGKILL);
		while (waitpid(dump->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	dump->pid = 0;
}

/* Overwrite a line with blanks. */
static void
line_blank(char *line)
{
	while (*line != '\0' && *line != '\n')
		*line++ = ' ';
}

/* Take out \restrict before the first statement, and the \unrestrict that belongs to it. */
static void
restrict_remove(char *script)
{
	char	   *line = script;
	char	   *closing;
	char	   *found;
	size_t		length;

	while (line[0] == '\n' || strncmp(line, "--", 2) == 0)
	{
		line += strcspn(line, "\n");
		if (*line == '\n')
			line++;
	}
	if (strncmp(line, "\\restrict ", 10) != 0)
		return;
	length = strcspn(line, "\n");
	closing = psprintf("\n\\un%.*s\n", (int) length - 1, line + 1);
	line_blank(line);
	found = strstr(script, closing);
	if (found != NULL)
		line_blank(found + 1);
	pfree(closing);
}
