# kill: kill -9 of a worker, of a backend that serves a peer or a client, of another process of the
# server, or of a postmaster, which is then started again as soon as all that it left have gone.
package Torture::Nemesis::Kill;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use Torture::Cluster;

my @KINDS = ('postmaster', sort keys %Torture::Cluster::KIND);

sub name { 'kill' }
sub rest { 1.5 }
# as many as there are nodes, each somewhere
sub per_round { return scalar $_[1]->clusters }

sub fault
{
	my ($self, $group) = @_;
	my $cluster = Torture::Nemesis::one_of($group->clusters);
	my $kind = Torture::Nemesis::one_of(@KINDS);

	return $self->postmaster($cluster) if $kind eq 'postmaster';
	my @pids = sort $cluster->pids($kind);
	# a server that is just starting has none: whatever comes next
	return undef unless @pids;
	return kill('KILL', Torture::Nemesis::one_of(@pids)) ? $kind : undef;
}

sub postmaster
{
	my ($self, $cluster) = @_;

	return Torture::Cluster::locked(sub {
		my $pid = $cluster->postmaster;
		kill 'KILL', $pid if $pid;
		$cluster->start_again;
		return 'postmaster';
	}, $cluster);
}

1;
