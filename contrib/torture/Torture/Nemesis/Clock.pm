# clock: steps the clock of a server, back by up to a day, forth by less than what
# replp2p.max_clock_skew allows, and leaves it there until the next step.
#
# A server waits by its clock for the time to look for deadlocks (deadlock_timeout), and who waits
# for a lock when the clock is set back waits for an hour before it looks. That is PostgreSQL's; so
# who is found waiting for the same lock twice in a row is cancelled (tend), as an operator would do.
package Torture::Nemesis::Clock;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use Time::HiRes qw(time);

my @STEPS = (-86400, -3600, -60, -5, -0.5, -0.001, 0, 0.001, 0.5, 5, 60, 299.9);

sub name { 'clock' }
sub rest { 4 }
sub per_round { return scalar $_[1]->clusters }

sub lacking
{
	my ($self, $group) = @_;
	return $group->{faked_clock} ? undef : 'libfaketime is missing: Debian package faketime';
}

sub fault
{
	my ($self, $group) = @_;
	my $step = Torture::Nemesis::one_of(@STEPS);

	$group->set_clock(Torture::Nemesis::one_of($group->names), $step);
	return $step < 0 ? 'behind' : $step > 0 ? 'ahead' : 'right';
}

sub heal
{
	my ($self, $group) = @_;
	$group->set_clock($_, 0) foreach $group->names;
}

# Cancel clients that wait for the same lock as a second ago.
sub tend
{
	my ($self, $group) = @_;

	return if time < ($self->{tend_next} // 0);
	$self->{tend_next} = time + 1;
	my $before = $self->{waiting} // {};
	$self->{waiting} = {};
	foreach my $cluster ($group->clusters)
	{
		my $session = eval { $cluster->session } or next;
		my @rows = eval { $session->query("SELECT pid, pid || ' ' || query_start FROM pg_stat_activity"
			. " WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'") };
		foreach (@rows)
		{
			my ($pid, $what) = ($_->[0], $cluster->name . " $_->[1]");
			$self->{waiting}{$what} = 1;
			eval { $session->query("SELECT pg_cancel_backend($pid)") } if $before->{$what};
		}
	}
}

1;
