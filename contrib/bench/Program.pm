# Program: programs that run to their end, and a free port for one that listens. Used by
# contrib/bench and contrib/torture.
package Program;

use strict;
use warnings;

use Errno ();
use IO::Socket::INET;
use POSIX ();

# Run a program to its end, its output appended to a file; did it succeed? environment: a hash
# of what it has beside ours.
sub run
{
	my ($output, $environment, @command) = @_;
	my $pid = fork() // die "fork: $!\n";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $output or POSIX::_exit(127);
		open STDERR, '>&', \*STDOUT;
		@ENV{ keys %$environment } = values %$environment;
		{ no warnings 'exec'; exec @command; }
		POSIX::_exit(127);
	}
	1 while waitpid($pid, 0) < 0 && $!{EINTR};
	return $? == 0;
}

# A TCP port that nobody listens on, on loopback.
sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)
		or die "no free port: $!\n";
	return $socket->sockport;
}

1;
