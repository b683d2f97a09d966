# partition: wires between nodes hold back what goes over them.
#
#	whole		the nodes in two halves
#	alone		one node from all others
#	ring		each node sees two neighbours only (4 nodes or more: with 3 a ring is everything, and
#				one wire is cut instead)
#	bridge		two halves that only one node, in both, connects
#	one-way		one half is not heard by the other, but hears it
#	flapping	two halves, again and again for a moment
#	slow		everything takes up to half a second, each wire its own time
#
# When it is over the held bytes come through, or (half of the times) the connections have broken.
package Torture::Nemesis::Partition;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use List::Util qw(shuffle);

sub name { 'partition' }
sub rest { 2 }

my %SHAPE = (
	whole => sub { my ($left, $right) = halves(@_); return both($left, $right) },
	alone => sub { my ($one, @rest) = @_; return both([$one], \@rest) },
	ring => \&ring,
	bridge => sub { my ($bridge, @rest) = @_; my ($left, $right) = halves(@rest); return both($left, $right) },
	'one-way' => sub { my ($left, $right) = halves(@_); return one_way($left, $right) },
	flapping => sub { my ($left, $right) = halves(@_); return both($left, $right) },
	slow => sub { return () });

sub fault
{
	my ($self, $group) = @_;
	my $shape = Torture::Nemesis::one_of(sort keys %SHAPE);
	my @pairs = $SHAPE{$shape}->(shuffle($group->names));
	my $links = $group->links;
	my $times = $shape eq 'flapping' ? 5 + int(rand(10)) : 1;

	foreach (1 .. $times)
	{
		$links->cut(@pairs);
		$links->delay(int(rand(500)), $_) foreach $shape eq 'slow' ? $links->pairs : ();
		$self->wait_for($shape eq 'flapping' ? rand(0.4) : 0.5 + rand(4));
		$links->tear(map { [ $_->[0], $_->[1] ], [ $_->[1], $_->[0] ] } @pairs) if rand() < 0.5;
		$links->heal;
		$self->wait_for(rand(0.4)) if $shape eq 'flapping';
	}
	return $shape;
}

sub heal
{
	my ($self, $group) = @_;
	$group->links->heal;
}

# Cut nodes in two halves; neither is empty.
sub halves
{
	my (@names) = @_;
	my $n = 1 + int(rand(@names - 1));
	return ([ @names[ 0 .. $n - 1 ] ], [ @names[ $n .. $#names ] ]);
}

# All wires from one side to the other; in both directions.
sub one_way
{
	my ($from, $to) = @_;
	return map { my $one = $_; map { [ $one, $_ ] } @$to } @$from;
}

sub both { return (one_way(@_[ 0, 1 ]), one_way(@_[ 1, 0 ])) }

# All wires but those between neighbours.
sub ring
{
	my (@names) = @_;
	return both([ $names[0] ], [ $names[1] ]) if @names < 4;
	my %at = map { $names[$_] => $_ } 0 .. $#names;
	return grep { my $distance = abs($at{ $_->[0] } - $at{ $_->[1] }); $distance != 1 && $distance != $#names }
		map { my $one = $_; map { [ $one, $_ ] } grep { $_ ne $one } @names } @names;
}

1;
