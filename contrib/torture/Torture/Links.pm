# Torture::Links: the wires between nodes, by the program "links" (see links.c).
#
#   my $links = Torture::Links->new($program, \@clusters);
#   $links->port('a', 'b')          the port by which a reaches b
#   $links->cut([ 'a', 'b' ], ...)  nothing goes from a to b
#   $links->heal                    everything goes everywhere, at once
package Torture::Links;

use strict;
use warnings;

use IO::Handle;
use IPC::Open2;

sub new
{
	my ($class, $program, $clusters) = @_;
	my $self = bless { names => [ map { $_->name } @$clusters ] }, $class;
	my %port = map { $_->name => $_->{port} } @$clusters;
	my @pairs = $self->pairs;

	$self->{pid} = open2(my $answers, my $commands, $program, map { "$_->[0]:$_->[1]:$port{ $_->[1] }" } @pairs);
	@$self{qw(answers commands)} = ($answers, $commands);
	foreach (@pairs)
	{
		my ($from, $to, $listens) = split ' ', <$answers> // die "links do not start\n";
		$self->{port}{"$from $to"} = $listens;
	}
	return $self;
}

# All ordered pairs of names.
sub pairs
{
	my ($self) = @_;
	my @names = @{ $self->{names} };
	return map { my $from = $_; map { [ $from, $_ ] } grep { $_ ne $from } @names } @names;
}

sub port
{
	my ($self, $from, $to) = @_;
	return $self->{port}{"$from $to"};
}

# Give a command and return the answer.
sub command
{
	my ($self, $command) = @_;
	my ($answers, $commands) = @$self{qw(answers commands)};

	print $commands "$command\n";
	$commands->flush;
	my $answer = <$answers> // die "links are gone\n";
	chomp $answer;
	die "links: $answer\n" if $answer =~ /no such/;
	return $answer;
}

# What goes from one to another: pass, hold, or a delay in ms.
sub wire
{
	my ($self, $from, $to, $how) = @_;
	$self->command("wire $from $to $how");
}

sub cut
{
	my ($self, @pairs) = @_;
	$self->wire(@$_, 'hold') foreach @pairs;
}

sub delay
{
	my ($self, $ms, @pairs) = @_;
	$self->wire(@$_, $ms) foreach @pairs;
}

# Reset the connections of these pairs.
sub tear
{
	my ($self, @pairs) = @_;
	$self->command("tear @$_") foreach @pairs;
}

sub heal
{
	my ($self) = @_;
	$self->wire(@$_, 'pass') foreach $self->pairs;
}

# Connections and bytes that all links have carried.
sub carried
{
	my ($self) = @_;
	my @sum = (0, 0);

	foreach ($self->pairs)
	{
		my @count = split ' ', $self->command("count @$_");
		$sum[$_] += $count[$_] foreach 0, 1;
	}
	return @sum;
}

sub stop
{
	my ($self) = @_;
	close $self->{commands};
	close $self->{answers};
	waitpid $self->{pid}, 0;
}

1;
