/*
 * crashpoint.c
 *	  Dying, or stopping, on purpose, once per name: see crashpoint.h.
 *
 * A process that leaves by _exit(2) makes the postmaster restart the whole
 * cluster, and the restarted processes still have the setting. So the first
 * one that comes by leaves a marker file, replp2p/crashed_at_<name>, and the
 * next ones find it and go on. The file also proves to a test that the point
 * was reached; who removes it arms the point again.
 *
 * The marker is not fsynced: only processes die here, not the machine.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "common/file_perm.h"

#include "changelog.h"
#include "crashpoint.h"
#include "settings.h"

#ifdef RP_CRASH_POINTS

/* "stop:NAME" stops the process there instead, until SIGCONT. */
#define STOP_PREFIX "stop:"

static bool point_find(const char *name, bool *stop, char *path);

/* Leave at once, or stop, if the setting names this point and nobody did so here before. */
void
rp_crash_point_reached(const char *name)
{
	char		path[MAXPGPATH];
	int			marker;
	bool		stop;

	if (!point_find(name, &stop, path))
		return;
	marker = open(path, O_CREAT | O_EXCL | O_WRONLY | PG_BINARY, pg_file_create_mode);
	if (marker < 0 && errno == EEXIST)
		return;
	if (stop)
	{
		close(marker);
		(void) raise(SIGSTOP);
		return;
	}
	write_stderr("replp2p: crash point %s\n", name);
	_exit(2);
}

/* Would this process leave, or stop, at this point? */
bool
rp_crash_point_is_armed(const char *name)
{
	char		path[MAXPGPATH];
	bool		stop;

	return point_find(name, &stop, path) && access(path, F_OK) != 0;
}

/* Is this point in the setting's list? Then say how, and the path of its marker. */
static bool
point_find(const char *name, bool *stop, char *path)
{
	const char *at = rp_crash_point;

	while (at != NULL && *at != '\0')
	{
		size_t		length;

		*stop = strncmp(at, STOP_PREFIX, strlen(STOP_PREFIX)) == 0;
		at += *stop ? strlen(STOP_PREFIX) : 0;
		length = strcspn(at, ",");
		if (length == strlen(name) && memcmp(at, name, length) == 0)
		{
			snprintf(path, MAXPGPATH, "%s/%s_at_%s", RP_DIRECTORY,
					 *stop ? "stopped" : "crashed", name);
			return true;
		}
		at += length;
		at += *at == ',' ? 1 : 0;
	}
	return false;
}

#endif							/* RP_CRASH_POINTS */
