# crash: an immediate stop of all nodes at once, as if the power of the house had failed, but for
# what the operating system still writes; then all start at once.
package Torture::Nemesis::Crash;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use POSIX ();

use Torture::Cluster;

sub name { 'crash' }
sub rest { 20 }

sub fault
{
	my ($self, $group) = @_;

	Torture::Cluster::locked(sub {
		at_once(sub { $_[0]->stop('immediate') }, $group->clusters);
		at_once(sub { $_[0]->start_again }, $group->clusters);
	}, $group->clusters);
	return 'all nodes';
}

# Run code for each cluster, in parallel; dies if that dies for one.
sub at_once
{
	my ($code, @clusters) = @_;
	my %running;

	foreach my $cluster (@clusters)
	{
		my $pid = fork() // die "fork: $!\n";
		POSIX::_exit(eval { $code->($cluster); 1 } ? 0 : 1) unless $pid;
		$running{$pid} = $cluster->name;
	}
	my @failed;
	foreach my $pid (keys %running)
	{
		1 while waitpid($pid, 0) < 0 && $!{EINTR};
		push @failed, $running{$pid} if $?;
	}
	die "after an immediate stop of all nodes these do not start: @failed\n" if @failed;
}

1;
