# measure.pl --work DIR --bin DIR [options of run]: the conductor of the bench.
#
# A group is the clusters of one system with a number of receivers. It is made, measured and
# removed in one turn, so only one system's clusters run at a time and a failure is over with its
# turn. Turns of a round go over the numbers of receivers, and for each over the systems, so that
# what is compared is neighbours; every second round goes the other way. What is found goes to the
# CSV at once. A measure that fails, or takes longer than the limit, is reported and ends its turn.
use strict;
use warnings;

use File::Basename qw(dirname);
use Getopt::Long;
use List::Util qw(max min);

use lib dirname(__FILE__), dirname(__FILE__) . '/../torture';

use Bench::Cluster;
use Bench::Measures;
use Bench::Plot;
use Bench::Profile;
use Bench::Report;
use Bench::System;
use Torture::Links;

# [name, whether only with the first number of receivers, function]
my @MEASURES = (
	[ idle => 0, \&Bench::Measures::idle ],
	[ one_row => 0, \&Bench::Measures::one_row ],
	[ foreground => 0, \&Bench::Measures::foreground ],
	[ bulk => 0, \&Bench::Measures::bulk ],
	[ drain => 1, \&Bench::Measures::drains ],
	[ latency => 1, \&Bench::Measures::latency ],
	[ memory => 0, \&Bench::Measures::memory ]);
my @ALL = ((map { $_->[0] } @MEASURES), 'far', 'join', 'multi');

my %option = (
	systems => 'native,pglogical,replp2p', peers => '1,2,4,8', measures => join(',', @ALL));
GetOptions(\%option, 'work=s', 'bin=s', 'old-bin=s', 'systems=s', 'peers=s', 'measures=s', 'rounds=i',
	'limit=i', 'join-mb=i', 'quick', 'packages=i', 'profile') && !@ARGV
	or die "see contrib/bench/run\n";

my %size = %{ $Bench::Measures::SIZE{ $option{quick} ? 'quick' : 'whole' } };
my $rounds = $option{rounds} // ($option{quick} ? 1 : 3);
my %wanted = map { $_ => 1 } split /,/, $option{measures};
my @peers = split /,/, $option{peers};
$size{join_mb} = $option{'join-mb'} if $option{'join-mb'};
$Bench::Cluster::LIMIT = $option{limit} // ($option{quick} ? 60 : 600);

foreach my $name (keys %wanted)
{
	die "there is no measure $name: @ALL\n" unless grep { $_ eq $name } @ALL;
}
die "--peers: a number of receivers is 1 to 16\n" if !@peers || grep { !/^\d+$/ || $_ < 1 || $_ > 16 } @peers;

($Bench::System::BIN, $Bench::System::OLD_BIN) = @option{ 'bin', 'old-bin' };
my @systems = map { Bench::System->load($_) } split /,/, $option{systems};
if ($option{packages})
{
	print "$_\n" foreach map { $_->packages($option{packages}) } @systems;
	exit 0;
}

$| = 1;
$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub { exit 130 };

open my $file, '>', "$option{work}/conductor" or die "conductor: $!\n";
print $file "$$\n";
close $file or die "conductor: $!\n";

my $report = Bench::Report->new("$option{work}/result.csv");
my $none = Bench::System->load('none');
my $begun = Bench::Cluster::now();

#
# Groups.
#

# 512 MB for all, unless that takes more than a quarter of the machine: then less for receivers.
sub buffers_mb
{
	my ($receivers) = @_;
	my $quarter = Bench::Watch::proc_kb('/proc/meminfo', 'MemTotal') / 1024 / 4;
	return 512 if (1 + $receivers) * 512 <= $quarter;
	return max(64, int(($quarter - 512) / $receivers / 32) * 32);
}

sub cluster_make
{
	my ($system, $name, %more) = @_;
	return Bench::Cluster->make(name => $name, work => $option{work}, bin => $system->bin,
		folder => join('-', 'data', $system->name, $name), preload => $system->preload, conf => $system->conf,
		buffers_mb => 512, %more);
}

sub group_make
{
	my ($system, $count) = @_;
	my $group = { system => $system, count => $count, work => $option{work}, bin => $option{bin} };
	my @names = ('a' .. 'z')[ 0 .. $count ];

	foreach my $name (@names)
	{
		my $buffers = $name eq 'a' ? 512 : buffers_mb($count);
		push @{ $group->{clusters} }, cluster_make($system, $name, buffers_mb => $buffers);
		$group->{clusters}[-1]->start;
	}
	($group->{origin}, @{ $group->{receivers} }) = @{ $group->{clusters} };
	return $group;
}

# One origin, and receivers that follow it.
sub group_one_way
{
	my ($system, $count) = @_;
	return group_follow(group_make($system, $count));
}

# Have the clusters of a group follow the first.
sub group_follow
{
	my ($group) = @_;
	my $system = $group->{system};
	my ($origin, @receivers) = @{ $group->{clusters} };

	$origin->{session}->query($Bench::Cluster::TABLES);
	$origin->pgbench_tables('dtgvp', $Bench::Load::SCALE);
	$system->set_up($origin);
	$system->add_peer($origin, $_, @receivers) foreach @receivers;
	Bench::Load::caught_up($group);
	return $group;
}

# One origin, and a receiver that is so many ms away.
sub group_far
{
	my ($system) = @_;
	my $group = group_make($system, 1);
	my ($origin, $receiver) = @{ $group->{clusters} };
	my $wires = "$option{work}/links";

	-x $wires || system('gcc', '-std=gnu11', '-O2', '-o', $wires, dirname(__FILE__) . '/../torture/links.c') == 0
		or die "gcc failed\n";
	my $links = $group->{links} = Torture::Links->new($wires, $group->{clusters});
	$origin->{wire_port} = $links->port($receiver->name, $origin->name);
	$receiver->{wire_port} = $links->port($origin->name, $receiver->name);
	group_follow($group);
	$links->delay($Bench::Measures::FAR_MS, $links->pairs);
	return $group;
}

# Three nodes that all write; each numbers its rows in a range of its own.
sub group_mesh
{
	my ($system) = @_;
	my $group = group_make($system, 2);
	my $i = 0;

	$_->{session}->query($Bench::Cluster::TABLES) foreach @{ $group->{clusters} };
	$system->mesh(@{ $group->{clusters} });
	$_->sql(sprintf('ALTER SEQUENCE item_id RESTART WITH %d', 1 + 1e12 * $i++)) foreach @{ $group->{clusters} };
	foreach my $from (@{ $group->{clusters} })
	{
		Bench::Load::arrived(Bench::Load::mark($from), undef, grep { $_ != $from } @{ $group->{clusters} });
	}
	return $group;
}

# A cluster that is full and stopped.
sub fill
{
	my $cluster = cluster_make($none, 'filled');

	progress("filling a cluster with $size{join_mb} MB");
	$cluster->start;
	$cluster->{session}->query($Bench::Cluster::TABLES);
	Bench::Measures::join_data($cluster, $size{join_mb});
	$cluster->stop('fast');
	# gigabytes of WAL that nobody needs would be copied each time
	$cluster->run("$option{bin}/pg_resetwal", $cluster->{data});
	return $cluster;
}

# The origin of a join: a copy of a cluster with the data, which is made once.
my $filled;
sub group_join
{
	my ($system) = @_;
	$filled //= eval { fill() } // (group_remove($none), die $@);
	my $origin = cluster_make($system, 'a', from => $filled->{data});
	my $joiner = cluster_make($system, 'b');
	my $group = { system => $system, count => 1, work => $option{work}, bin => $option{bin},
		clusters => [ $origin, $joiner ], origin => $origin, receivers => [$joiner], joiner => $joiner };

	$_->start foreach $origin, $joiner;
	$system->set_up($origin);
	$origin->sql('CHECKPOINT');
	return $group;
}

sub group_remove
{
	my ($system) = @_;
	foreach my $data (glob("$option{work}/data-" . $system->name . '-*/'))
	{
		$data =~ s{/$}{};
		my $cluster = $Bench::Cluster::running{$data};
		eval { $cluster->stop('immediate') } if $cluster;
		system('rm', '-rf', $data, "$data.log");
	}
}

#
# Turns.
#

sub progress
{
	my ($text) = @_;
	my $seconds = Bench::Cluster::now() - $begun;
	print STDERR sprintf("%3d:%02d  %s\n", int($seconds / 60), $seconds % 60, $text);
}

# Make a group, take measures, each [name, function], and remove it.
sub turn
{
	my ($system, $count, $round, $make, @measures) = @_;
	my $title = sprintf('round %d of %d: %s, %d receivers', $round, $rounds, $system->name, $count);
	my $name = 'setting up';

	my $group = eval { $make->($system, $count) };
	foreach my $measure ($group ? @measures : ())
	{
		$name = $measure->[0];
		progress("$title: $name");
		eval
		{
			$_->sql('CHECKPOINT') foreach @{ $group->{clusters} };
			$measure->[1]->($group, \%size,
				sub { $report->add(@_[ 0 .. 2 ], $system->name, $count, $round, $_[3]) });
			1;
		} or last;
	}
	failed($system, $count, $round, $name, $@) if $@;
	group_remove($system);
	$group->{links}->stop if $group && $group->{links};
}

sub failed
{
	my ($system, $count, $round, $name, $error) = @_;
	chomp $error;
	$report->failed($name, $system->name, $count, $round, $error);
	progress("failed: $error");
	foreach my $cluster (values %Bench::Cluster::running)
	{
		print STDERR "       $cluster->{name}: $_" foreach $cluster->complaints;
	}
}

sub round_run
{
	my ($round) = @_;
	my @order = $round % 2 ? @systems : reverse @systems;
	my @foreground = grep { $_->[0] eq 'foreground' } @MEASURES;

	turn($none, 0, $round, \&group_one_way, map { [ $_->[0], $_->[2] ] } @foreground) if $wanted{foreground};
	foreach my $count (@peers)
	{
		my @now = grep { $wanted{ $_->[0] } && (!$_->[1] || $count == $peers[0]) } @MEASURES;
		next if !@now;
		turn($_, $count, $round, \&group_one_way, map { [ $_->[0], $_->[2] ] } @now) foreach @order;
	}
	foreach my $system ($wanted{far} ? @order : ())
	{
		turn($system, 1, $round, \&group_far, [ far => \&Bench::Measures::far ]);
	}
	foreach my $system ($wanted{join} ? @order : ())
	{
		turn($system, 1, $round, \&group_join, [ join => \&Bench::Measures::join_time ]);
	}
	foreach my $system ($wanted{multi} ? grep { $_->can('mesh') } @order : ())
	{
		turn($system, 2, $round, \&group_mesh, [ multi => \&Bench::Measures::multi ]);
	}
}

# Leave out a system whose extension the server hasn't.
sub systems_there
{
	foreach my $system (splice @systems)
	{
		chomp(my $share = `'${\$system->bin}/pg_config' --sharedir`);
		my $extension = $system->extension;
		if (!defined $extension || -e "$share/extension/$extension.control")
		{
			push @systems, $system;
			next;
		}
		print STDERR $system->name, " is left out: the server has no extension $extension\n";
	}
	die "no system is left\n" if !@systems;
}

# Whatever happens, no server stays.
END
{
	my $status = $?;
	Bench::Cluster::stop_all();
	$? = $status;
}

systems_there();
if ($option{profile})
{
	Bench::Profile::run($option{work}, $option{quick} ? 5 : 15, \&group_one_way, \@systems);
	exit 0;
}
foreach my $count (@peers)
{
	next if buffers_mb($count) == 512;
	print STDERR sprintf("with %d receivers each has %d MB of shared buffers instead of 512\n", $count,
		buffers_mb($count));
}
foreach my $round (1 .. $rounds)
{
	my $before = Bench::Cluster::now();
	round_run($round);
	my $minutes = (Bench::Cluster::now() - $before) / 60 * ($rounds - $round);
	progress(sprintf('about %.0f minutes to go', $minutes)) if $round < $rounds;
}
$report->print_table(\@systems);
Bench::Plot::write("$option{work}/result.svg", $report, \@systems);
