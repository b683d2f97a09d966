# Bench::Report: every value that was found, in a CSV as it comes, and medians in a table at the end.
package Bench::Report;

use strict;
use warnings;

use List::Util qw(uniq);

our @COLUMNS = qw(measure role unit system peers round value);

sub new
{
	my ($class, $path) = @_;
	open my $csv, '>', $path or die "$path: $!\n";
	$csv->autoflush(1);
	print $csv join(',', @COLUMNS), "\n";
	return bless { csv => $csv, values => [], failures => [] }, $class;
}

# Read values that another run has written.
sub read
{
	my ($class, $path) = @_;
	my $self = bless { values => [], failures => [] }, $class;

	open my $csv, '<', $path or die "$path: $!\n";
	my $head = <$csv> // '';
	chomp $head;
	die "$path is not a CSV of the bench\n" if $head ne join(',', @COLUMNS);
	while (my $line = <$csv>)
	{
		chomp $line;
		my @fields = map { s/^"|"$//gr } $line =~ /("[^"]*"|[^,]*)(?:,|$)/g;
		if ($fields[0] eq 'failed')
		{
			push @{ $self->{failures} }, "$fields[1], $fields[3], $fields[4] receivers, round $fields[5]: $fields[6]";
			next;
		}
		push @{ $self->{values} }, [ @fields[ 0 .. 6 ] ];
	}
	return $self;
}

sub add
{
	my ($self, @fields) = @_;
	push @{ $self->{values} }, [@fields];
	$self->write(@fields[ 0 .. 5 ], sprintf('%.4f', $fields[6]));
}

sub write
{
	my ($self, @fields) = @_;
	print { $self->{csv} } join(',', map { /,/ ? "\"$_\"" : $_ } @fields), "\n";
}

sub failed
{
	my ($self, $measure, $system, $peers, $round, $error) = @_;
	push @{ $self->{failures} }, "$measure, $system, $peers receivers, round $round: $error";
	$self->write('failed', $measure, '', $system, $peers, $round, $error =~ tr/,"\n/; /r);
}

# undef where nothing was found
sub median
{
	my ($self, $measure, $role, $system, $peers) = @_;
	my @found = sort { $a <=> $b } map { $_->[6] }
		grep { $_->[0] eq $measure && $_->[1] eq $role && $_->[3] eq $system && $_->[4] == $peers }
		@{ $self->{values} };

	return undef unless @found;
	return ($found[ $#found / 2 ] + $found[ @found / 2 ]) / 2;
}

# In the order of first appearance.
sub systems { return uniq(map { $_->[3] } @{ $_[0]{values} }) }

sub peers
{
	my ($self, $measure) = @_;
	return sort { $a <=> $b } uniq(map { $_->[4] } grep { $_->[0] eq $measure } @{ $self->{values} });
}

sub number
{
	my ($value) = @_;
	return '-' unless defined $value;
	return sprintf('%.*f', abs($value) < 10 ? 2 : abs($value) < 100 ? 1 : 0, $value);
}

# Sections of the table: a letter of the issue that asked for it, a title, and measures.
our @SECTIONS = (
	[ 'Origin: CPU of replication', 'origin cpu', 'origin cpu, bulk', 'latency, origin cpu', 'idle cpu' ],
	[ 'Receiver: CPU', 'receiver cpu', 'receiver cpu, bulk' ],
	[ 'What comes through, and backlogs', 'throughput', 'drain, one row', 'drain, TPC-B', 'drain, one row, received',
		'drain, TPC-B, received', 'drain, one row, receiver cpu', 'drain, TPC-B, receiver cpu',
		'drain, one row, received, receiver cpu', 'drain, TPC-B, received, receiver cpu',
		'drain, one row, until the first', 'drain, TPC-B, until the first',
		'drain, one row, from the first', 'drain, TPC-B, from the first',
		'drain, one row, origin cpu', 'drain, TPC-B, origin cpu', 'bulk visible',
		'bulk, apply before commit' ],
	[ 'Commit to visible', 'latency', 'latency, half load', 'latency, half load, origin cpu',
		'latency, receiver cpu', 'latency, 20 ms away, 200 tx/s', 'latency, 20 ms away, 2000 tx/s' ],
	[ 'Foreground', 'foreground', 'foreground client cpu', 'foreground origin cpu',
		'foreground lag at end', 'client cpu' ],
	[ 'Join', 'join', 'join, rate', 'join cpu' ],
	[ 'Bytes', 'wire', 'wire, origin', 'idle wire, origin', 'disk, origin', 'disk, receiver' ],
	[ 'Memory', 'memory, origin', 'memory, receiver', 'private memory, origin', 'private memory, receiver',
		'peak memory, bulk, origin', 'peak memory, bulk, receiver' ],
	[ 'All of three nodes write', 'multi-master', 'multi-master throughput', 'multi-master lag at end',
		'multi-master cpu' ]);

# Where a measure has no counterpart of its own, it is compared with this one.
our %COMPARED = map { ("$_, received" => $_, "$_, received, receiver cpu" => "$_, receiver cpu") }
	'drain, one row', 'drain, TPC-B';

# Lines of one measure: for each number of receivers and role, all systems and their ratios to the first.
sub lines
{
	my ($self, $measure, @systems) = @_;
	my $compared = $COMPARED{$measure} // $measure;
	my @values = grep { $_->[0] eq $measure } @{ $self->{values} };
	my %unit = map { ("$_->[4] $_->[1]" => $_->[2]) } @values;
	my @lines;

	foreach my $peers ($self->peers($measure))
	{
		foreach my $role (uniq(map { $_->[1] } grep { $_->[4] == $peers } @values))
		{
			my @found = map { $self->median($measure, $role, $_, $peers) } @systems;
			next if !grep { defined } @found;
			# roles that do nothing: the CSV has them
			next if $role eq 'launcher' || ($role ne '' && !grep { defined && $_ >= 0.05 } @found);
			my $base = $found[0] // $self->median($compared, $role, $systems[0], $peers);
			my @ratios = map { $base && defined ? sprintf('%.2f', $_ / $base) : '-' } @found[ 1 .. $#found ];
			push @lines, [ $measure, $role, $peers, $unit{"$peers $role"}, (map { number($_) } @found), @ratios ];
		}
	}
	return @lines;
}

sub print_table
{
	my ($self, $drivers) = @_;
	my @systems = map { ref $_ ? $_->name : $_ } @$drivers;
	my $rounds = uniq(map { $_->[5] } @{ $self->{values} });
	my $format = "%-40s %-9s %5s  %-13s" . ' %11s' x @systems . ' %9s' x $#systems . "\n";

	printf "\nMedians of %d round%s; ratios to %s\n", $rounds, $rounds == 1 ? '' : 's', $systems[0];
	foreach my $section (@SECTIONS)
	{
		my ($title, @measures) = @$section;
		my @lines = map { $self->lines($_, @systems) } @measures;
		next if !@lines;
		printf "\n$format", $title, 'role', 'peers', 'unit', @systems, map { "$_ x" } @systems[ 1 .. $#systems ];
		printf $format, @$_ foreach @lines;
	}
	$self->print_rest($drivers);
}

# What no replication gives, what could not be measured.
sub print_rest
{
	my ($self, $drivers) = @_;
	my @alone = map { $self->median($_, '', 'none', 0) } 'foreground', 'foreground client cpu';

	if (defined $alone[0] && defined $alone[1])
	{
		printf "\nForeground without replication: %s tx/s, %s us of the clients' CPU each. With:\n",
			map { number($_) } @alone;
		foreach my $system (map { ref $_ ? $_->name : $_ } @$drivers)
		{
			foreach my $peers (grep { $_ > 0 } $self->peers('foreground'))
			{
				my @with = map { $self->median($_, '', $system, $peers) // next } 'foreground', 'foreground client cpu';
				printf "  %-12s %2d peers: %.2f x tps, %.2f x CPU\n", $system, $peers, $with[0] / $alone[0], $with[1] / $alone[1];
			}
		}
	}
	foreach my $system (grep { ref $_ && !$_->can('mesh') } @$drivers)
	{
		print "\nNo multi-master of ", $system->name, ': ', $system->no_mesh, "\n";
	}
	print "\nFAILED: $_\n" foreach @{ $self->{failures} };
}

1;
