# Bench::Plot: what the bench found as one SVG, written directly: two charts of the origin's CPU
# against the number of receivers, and small bars for everything else.
#
# Colours are told apart by the colour-blind (Okabe and Ito), and no legend is needed: lines are
# labelled at their ends, bars at their beginnings. A thin line through a point spans all rounds.
package Bench::Plot;

use strict;
use warnings;

use List::Util qw(max min);

use Bench::Report;

my %COLOUR = (native => '#4d4d4d', replp2p => '#0072b2', pglogical => '#e69f00', pgactive => '#cc79a7',
	replp2p_old => '#56b4e9');
my @OTHERS = ('#009e73', '#d55e00');

my ($WIDTH, $MARGIN) = (1120, 20);
my $NAMES = 76;    # width of systems' names beside bars
my $FONT = 'font-family="Helvetica, Arial, sans-serif"';

# measure, title, unit
my @CHARTS = (
	[ 'origin cpu', 'CPU of replication on the origin, one-row transactions', 'µs per transaction' ],
	[ 'origin cpu, bulk', 'The same, rows of one large transaction', 'µs per row' ]);

# measure, role, title, unit, which number of receivers, and which way is better
my @BARS = (
	[ 'throughput', '', 'One-row transactions that come through', 'tx/s', 'least', 'more' ],
	[ 'drain, one row', '', 'Backlog of one-row transactions', 'tx/s', 'least', 'more' ],
	[ 'drain, TPC-B', '', 'Backlog of TPC-B-like transactions', 'tx/s', 'least', 'more' ],
	[ 'bulk visible', '', 'One large transaction: commit to visible', 's', 'least', 'less' ],
	[ 'latency', 'p50', 'Commit to visible at 200 tx/s, median', 'ms', 'least', 'less' ],
	[ 'latency', 'p99', 'Commit to visible at 200 tx/s, p99', 'ms', 'least', 'less' ],
	[ 'latency, half load', 'p50', 'Commit to visible at half load, median', 'ms', 'least', 'less' ],
	[ 'latency, half load', 'p99', 'Commit to visible at half load, p99', 'ms', 'least', 'less' ],
	[ 'foreground', '', 'pgbench on the origin', 'tx/s', 'least', 'more' ],
	[ 'foreground', '', 'pgbench on the origin', 'tx/s', 'most', 'more' ],
	[ 'join', '', 'Join', 's', 'least', 'less' ],
	[ 'wire', '', 'Bytes sent per transaction and receiver', 'bytes', 'least', 'less' ],
	[ 'disk, receiver', 'WAL', 'WAL of a receiver per transaction', 'bytes', 'least', 'less' ],
	[ 'private memory, receiver', 'all', 'Private memory of the receiver\'s workers', 'MB', 'least', 'less' ],
	[ 'multi-master', '', 'Three nodes write: all together', 'tx/s', 'least', 'more' ]);

sub escape
{
	my ($text) = @_;
	my %by = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;');
	return $text =~ s/([&<>])/$by{$1}/gr;
}

# options: size, anchor, colour, weight, turn
sub text
{
	my ($x, $y, $text, %option) = @_;
	my $turn = $option{turn} ? sprintf(' transform="rotate(-90 %.1f %.1f)"', $x, $y) : '';

	return sprintf qq{<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s" font-weight="%s"%s>%s</text>\n},
		$x, $y, $option{size} // 12, $option{anchor} // 'start', $option{colour} // '#222222',
		$option{weight} // 'normal', $turn, escape($text);
}

sub line
{
	my ($x1, $y1, $x2, $y2, $colour, $width) = @_;
	return sprintf qq{<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>\n},
		$x1, $y1, $x2, $y2, $colour, $width;
}

sub colours
{
	my (@systems) = @_;
	my @others = @OTHERS;
	return map { $_ => $COLOUR{$_} // shift @others // '#999999' } @systems;
}

# A round step between 1 and 10 times a power of ten, for about five ticks.
sub step
{
	my ($greatest) = @_;
	my $step = 10**int(log($greatest / 5) / log(10) - ($greatest < 5 ? 1 : 0));
	foreach (1, 2, 5, 10, 20)
	{
		return $step * $_ if $greatest / ($step * $_) <= 6;
	}
	return $step * 50;
}

# Points of a measure: [peers, median, least, greatest].
sub points
{
	my ($report, $measure, $system) = @_;
	my @points;

	foreach my $peers ($report->peers($measure))
	{
		my $median = $report->median($measure, 'all', $system, $peers) // next;
		my @values = map { $_->[6] } grep { $_->[0] eq $measure && $_->[1] eq 'all' && $_->[3] eq $system
			&& $_->[4] == $peers } @{ $report->{values} };
		push @points, [ $peers, $median, min(@values), max(@values) ];
	}
	return @points;
}

# Lines against the number of receivers, in a frame with its upper left corner at (x, y).
sub chart
{
	my ($report, $chart, $x, $y, $width, $height, @systems) = @_;
	my ($measure, $title, $unit) = @$chart;
	my %colour = colours(@systems);
	my %points = map { $_ => [ points($report, $measure, $_) ] } @systems;
	my @all = map { @$_ } values %points or return '';
	my $step = step(max(map { $_->[3] } @all) || 1);
	my $top = $step * (1 + int(max(map { $_->[3] } @all) / $step));
	my $most = max(map { $_->[0] } @all);
	my ($left, $right, $up, $down) = ($x + 56, $x + $width - 80, $y + 34, $y + $height - 44);
	my $at_x = sub { $left + ($right - $left) * $_[0] / $most };
	my $at_y = sub { $down - ($down - $up) * $_[0] / $top };
	my $out = text($x, $y + 14, $title, size => 14, weight => 'bold');

	for (my $tick = 0; $tick <= $top * 1.001; $tick += $step)
	{
		$out .= line($left, $at_y->($tick), $right, $at_y->($tick), '#dddddd', 1);
		$out .= text($left - 6, $at_y->($tick) + 4, $tick + 0, anchor => 'end', colour => '#555555');
	}
	$out .= text($at_x->($_), $down + 18, $_, anchor => 'middle', colour => '#555555') foreach $report->peers($measure);
	$out .= text(($left + $right) / 2, $down + 36, 'receivers', anchor => 'middle', colour => '#555555');
	$out .= text($x + 12, ($up + $down) / 2, $unit, anchor => 'middle', colour => '#555555', turn => 1);
	$out .= curve($points{$_}, $colour{$_}, $at_x, $at_y) foreach @systems;
	return $out . end_labels(\%points, \%colour, $at_x, $at_y, @systems);
}

sub curve
{
	my ($points, $colour, $at_x, $at_y) = @_;
	my $out = sprintf qq{<polyline fill="none" stroke="%s" stroke-width="2.5" points="%s"/>\n}, $colour,
		join ' ', map { sprintf '%.1f,%.1f', $at_x->($_->[0]), $at_y->($_->[1]) } @$points;

	foreach (@$points)
	{
		my ($peers, $median, $least, $greatest) = @$_;
		$out .= line($at_x->($peers), $at_y->($least), $at_x->($peers), $at_y->($greatest), $colour, 1);
		$out .= sprintf qq{<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>\n}, $at_x->($peers), $at_y->($median), $colour;
	}
	return $out;
}

# Names at the ends of lines, apart from one another.
sub end_labels
{
	my ($points, $colour, $at_x, $at_y, @systems) = @_;
	my $out = '';
	my $last;

	foreach my $system (sort { $points->{$b}[-1][1] <=> $points->{$a}[-1][1] } grep { @{ $points->{$_} } } @systems)
	{
		my $end = $points->{$system}[-1];
		my $y = $at_y->($end->[1]) + 4;
		$y = max($y, $last + 15) if defined $last;
		$last = $y;
		$out .= text($at_x->($end->[0]) + 8, $y, $system, colour => $colour->{$system}, weight => 'bold');
	}
	return $out;
}

# One bar for each system.
sub bars
{
	my ($report, $bars, $x, $y, $width, @systems) = @_;
	my ($measure, $role, $title, $unit, $which, $better) = @$bars;
	my @peers = grep { $_ > 0 } $report->peers($measure);
	my $peers = $peers[ $which eq 'most' ? -1 : 0 ] // return '';
	return '' if $which eq 'most' && @peers == 1;
	my %colour = colours(@systems);
	my %value = map { $_ => $report->median($measure, $role, $_, $peers) } @systems;
	my $greatest = max(grep { defined } values %value) || return '';
	my $out = text($x, $y + 13, $title, size => 13, weight => 'bold')
		. text($x, $y + 28, sprintf('%s, %d receiver%s; %s is better', $unit, $peers, $peers == 1 ? '' : 's', $better),
			size => 11, colour => '#555555');

	$y += 36;
	foreach my $system (@systems)
	{
		my $value = $value{$system};
		my $length = ($width - $NAMES - 60) * ($value // 0) / $greatest;
		$out .= text($x, $y + 12, $system, size => 11, colour => $colour{$system}, weight => 'bold');
		$out .= sprintf qq{<rect x="%.1f" y="%.1f" width="%.1f" height="14" fill="%s"/>\n}, $x + $NAMES, $y,
			$length, $colour{$system};
		$out .= text($x + $NAMES + 5 + $length, $y + 12, Bench::Report::number($value), size => 11);
		$y += 18;
	}
	return $out;
}

# The whole sheet. drivers: the systems, in order.
sub write
{
	my ($file, $report, $drivers) = @_;
	my @systems = map { ref $_ ? $_->name : $_ } @$drivers;
	my ($y, $column, $body) = (56, 0, '');
	my $half = ($WIDTH - 2 * $MARGIN) / 2;
	my $third = ($WIDTH - 2 * $MARGIN) / 3;

	my @charts = grep { $_ ne '' }
		map { chart($report, $CHARTS[$_], $MARGIN + $_ * $half, $y, $half - 10, 320, @systems) } 0, 1;
	$body .= join '', @charts;
	$y += 340 if @charts;
	foreach my $bars (@BARS)
	{
		my $drawn = bars($report, $bars, $MARGIN + $column * $third, $y, $third - 20, @systems);
		next if $drawn eq '';
		$body .= $drawn;
		$column = ($column + 1) % 3;
		$y += 56 + 18 * @systems if $column == 0;
	}
	$y += 56 + 18 * @systems if $column;

	open my $out, '>:encoding(UTF-8)', $file or die "$file: $!\n";
	utf8::decode($body);
	print $out qq{<svg xmlns="http://www.w3.org/2000/svg" width="$WIDTH" height="$y" viewBox="0 0 $WIDTH $y" $FONT>\n},
		qq{<rect width="100%" height="100%" fill="#ffffff"/>\n},
		text($MARGIN, 32, 'Replication on one machine: ' . join(', ', @systems), size => 20, weight => 'bold'),
		$body, "</svg>\n";
	close $out or die "$file: $!\n";
}

1;
