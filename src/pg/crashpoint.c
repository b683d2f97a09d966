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

/* Leave at once, or stop, if the setting names this point and nobody did so here before. */
void
rp_crash_point_reached(const char *name)
{
	char		path[MAXPGPATH];
	int			marker;
	bool		stop;

	if (rp_crash_point == NULL)
		return;
	stop = strncmp(rp_crash_point, STOP_PREFIX, strlen(STOP_PREFIX)) == 0;
	if (strcmp(rp_crash_point + (stop ? strlen(STOP_PREFIX) : 0), name) != 0)
		return;
	snprintf(path, sizeof(path), "%s/%s_at_%s", RP_DIRECTORY, stop ? "stopped" : "crashed", name);
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

#endif							/* RP_CRASH_POINTS */
