# Torture::Nemesis: what goes wrong. A nemesis is a class with
#
#	name			as in NEMESES=
#	lacking($group)	why it cannot work here, if so
#	fault($group)	make one fault and mend it as far as it does not mend itself; returns what it was
#	rest			seconds between two faults, at most
#	per_round($group)	faults in a round, if the run is counted in rounds
#	tend($group)	called by the conductor now and then, while clients are at work
#	heal($group)	mend whatever may be left of it; called by the conductor at the end
#
# Each runs in a process of its own, so that faults meet. It writes one line for each to its record.
package Torture::Nemesis;

use strict;
use warnings;

use Time::HiRes qw(sleep);

# Options: record (path), seed.
sub new
{
	my ($class, %option) = @_;
	return bless {%option}, $class;
}

sub lacking { return undef }
sub rest { return 2 }
sub per_round { return 1 }
sub tend { }
sub heal { }

# Make faults until TERM comes or the conductor is gone; the one under way is mended first.
sub run
{
	my ($self, $group) = @_;
	my $parent = getppid();

	srand($self->{seed});
	$self->{over} = 0;
	local $SIG{TERM} = sub { $self->{over} = 1 };
	while (getppid() == $parent)
	{
		$self->wait_for(rand($self->rest));
		last if $self->{over};
		$self->fault_recorded($group);
	}
}

# Make a fault and record it; false: what it was to hit was not there.
sub fault_recorded
{
	my ($self, $group) = @_;
	my $what = $self->fault($group) or return 0;

	open my $file, '>>', $self->{record} or die "$self->{record}: $!\n";
	return syswrite($file, "$what\n");
}

# Let a fault last for so many seconds, less if the end of the run comes.
sub wait_for
{
	my ($self, $seconds) = @_;
	sleep $seconds unless $self->{over};
}

sub one_of { return $_[ int(rand(@_)) ] }

# What it did: kind => how often.
sub faults
{
	my ($self) = @_;
	my %count;

	open my $file, '<', $self->{record} or return;
	while (my $what = <$file>)
	{
		chomp $what;
		$count{$what}++;
	}
	return %count;
}

1;
