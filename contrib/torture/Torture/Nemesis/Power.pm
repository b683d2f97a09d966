# power: the power of one server fails, as far as it can be had without a machine of its own: at its next sync a
# change log loses all that was not synced, and its writer dies; so the server goes down and recovers. What
# else the operating system had not written stays, the WAL above all, of which a loss takes only what is
# not flushed.
#
#	own		the log of the node's own transactions, by capture
#	foreign	that of another node's, by gossip
package Torture::Nemesis::Power;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use Time::HiRes qw(time);

use Torture::Cluster;

use constant PATIENCE => 10;	# seconds in which there is something to be synced

sub name { 'power' }
sub rest { 6 }

sub lacking
{
	my ($self, $group) = @_;
	my ($any) = $group->clusters;
	return $any->value(q{SELECT count(*) FROM pg_settings WHERE name = 'replp2p.crash_point'})
		? undef : 'the build has no crash points';
}

sub fault
{
	my ($self, $group) = @_;
	my $cluster = Torture::Nemesis::one_of($group->clusters);
	my $kind = Torture::Nemesis::one_of(qw(own foreign));
	my $mark = "$cluster->{data}/replp2p/crashed_at_${kind}_tail_lost";
	my $deadline = time + PATIENCE;

	unlink $mark;
	$cluster->crash_at("${kind}_tail_lost");
	$self->wait_for(0.05) until -e $mark || time > $deadline || $self->{over};
	$cluster->crash_at(undef);
	return -e $mark ? $kind : undef;
}

sub heal
{
	my ($self, $group) = @_;
	$_->crash_at(undef) foreach $group->clusters;
}

1;
