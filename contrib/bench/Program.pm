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

# A TCP port that nobody listens on, on loopback. Not one that the kernel gives to who connects: it would be taken
# while a server is down. (Nor by rand: who has set a seed wants the same numbers again.)
my $next_port = 10200 + $$ * 37 % 20000;

sub free_port
{
	foreach my $try (1 .. 1000)
	{
		$next_port = $next_port < 32767 ? $next_port + 1 : 10200;
		return $next_port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $next_port, Listen => 1);
	}
	die "no free port: $!\n";
}

1;
