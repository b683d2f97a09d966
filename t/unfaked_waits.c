/*
 * unfaked_waits.c
 *	  Waits that libfaketime does not see; preloaded before it by the tests.
 *
 * While libfaketime is inside its own select(), poll() or epoll_wait(), it shows
 * real time to whoever asks: to signal handlers, and, for ever, to a process
 * that is forked in one. PostgreSQL 15 forks its background workers just there,
 * and looks in a handler whether a timeout has come. These go straight to the
 * kernel, so that all processes of a server have the same clock.
 *
 * Nobody here needs what select() leaves in its timeout.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Wait until a file is ready, or for so long. */
int
select(int n, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	struct timespec precise;

	if (timeout != NULL)
	{
		precise.tv_sec = timeout->tv_sec;
		precise.tv_nsec = timeout->tv_usec * 1000;
	}
	return (int) syscall(SYS_pselect6, n, in, out, except, timeout ? &precise : NULL, NULL);
}

/* Likewise; timeout in milliseconds, negative for none. */
int
poll(struct pollfd *files, nfds_t n, int timeout)
{
	struct timespec precise = {timeout / 1000, timeout % 1000 * 1000000L};

	return (int) syscall(SYS_ppoll, files, n, timeout >= 0 ? &precise : NULL, NULL, _NSIG / 8);
}

/* Likewise. */
int
epoll_wait(int epoll, struct epoll_event *events, int n, int timeout)
{
	return (int) syscall(SYS_epoll_pwait, epoll, events, n, timeout, NULL, _NSIG / 8);
}
