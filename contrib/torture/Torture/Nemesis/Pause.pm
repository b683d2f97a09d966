# pause: SIGSTOP of any process of a server, the postmaster too, and SIGCONT some time later. Who is
# stopped holds what it holds: locks, connections that stay open and say nothing, a slot.
package Torture::Nemesis::Pause;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use Torture::Cluster;

my @KINDS = ('postmaster', sort keys %Torture::Cluster::KIND);

sub name { 'pause' }
sub rest { 2 }

sub fault
{
	my ($self, $group) = @_;
	my $cluster = Torture::Nemesis::one_of($group->clusters);
	my $kind = Torture::Nemesis::one_of(@KINDS);
	my @pids = $kind eq 'postmaster' ? grep { defined } $cluster->postmaster : sort $cluster->pids($kind);

	return undef unless @pids;
	my $pid = Torture::Nemesis::one_of(@pids);
	return undef unless kill 'STOP', $pid;
	$self->wait_for(0.2 + rand(3));
	kill 'CONT', $pid;
	return $kind;
}

sub heal
{
	my ($self, $group) = @_;
	kill 'CONT', keys %{ { $_->processes } } foreach $group->clusters;
}

1;
