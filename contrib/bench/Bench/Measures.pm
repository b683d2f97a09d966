# Bench::Measures: each takes a group (see Bench::Load) that runs and is idle, and leaves it so.
#
# What is found goes to $found->(measure, role, unit, value); role is '' where there is none. Names
# of measures are the first column of the CSV, and README.md says of each how it is taken.
package Bench::Measures;

use strict;
use warnings;

use List::Util qw(sum0);
use Time::HiRes qw(sleep);

use Bench::Load;
use Bench::Watch;

*now = \&Bench::Cluster::now;

# How far away a receiver is, for `far`: a byte takes so long each way.
our $FAR_MS = 20;

# Sizes: whole and quick.
our %SIZE = (
	whole => { idle => 10, transactions => 20_000, seconds => 10, bulk => 1_000_000, backlog => 60_000,
		probes => 400, join_mb => 2048 },
	quick => { idle => 2, transactions => 4_000, seconds => 3, bulk => 100_000, backlog => 10_000,
		probes => 100, join_mb => 200 });

# CPU of a cluster by role and as a sum, each by count.
sub report_cpu
{
	my ($found, $measure, $unit, $cpu, $count) = @_;
	$found->($measure, $_, $unit, $cpu->{$_} / $count) foreach sort keys %$cpu;
	$found->($measure, 'all', $unit, sum0(values %$cpu) / $count);
}

# What the processes use when nothing is to be done.
sub idle
{
	my ($group, $size, $found) = @_;
	my $watch = Bench::Watch->new($group->{system}, @{ $group->{clusters} });
	my $begun = now();

	sleep $size->{idle};
	$watch->end;
	my $seconds = now() - $begun;
	report_cpu($found, 'idle cpu', 'us/s', $watch->cpu($group->{origin}{name}), $seconds);
	my ($sent, $received) = $watch->wire_of($group->{origin}{name});
	$found->('idle wire, origin', '', 'bytes/s', ($sent + $received) / $seconds);
}

# One-row transactions by clients that wait for nothing else: CPU, bytes, and how many a second
# come through to all receivers.
sub one_row
{
	my ($group, $size, $found) = @_;
	my ($origin, $receiver) = ($group->{origin}, $group->{receivers}[0]);
	my $script = Bench::Load::script($group);
	my $watch = Bench::Watch->new($group->{system}, @{ $group->{clusters} });
	my $begun = now();

	my ($count) = Bench::Load::pgbench_end(
		Bench::Load::pgbench_start($group, $origin, '-f', $script, '-c', $Bench::Load::CLIENTS,
			'-t', $size->{transactions} / $Bench::Load::CLIENTS), $watch);
	Bench::Load::caught_up($group);
	my $seconds = now() - $begun;
	Bench::Load::clients_gone($origin);
	$watch->end;

	report_cpu($found, 'origin cpu', 'us/tx', $watch->cpu($origin->{name}), $count);
	report_cpu($found, 'receiver cpu', 'us/tx', $watch->cpu($receiver->{name}), $count);
	$found->('client cpu', '', 'us/tx', $watch->clients($origin->{name}) / $count);
	$found->('throughput', '', 'tx/s', $group->{saturation} = $count / $seconds);
	one_row_bytes($group, $found, $watch, $count);
}

sub one_row_bytes
{
	my ($group, $found, $watch, $count) = @_;
	my ($origin, $receiver) = ($group->{origin}{name}, $group->{receivers}[0]{name});
	my ($sent, $received) = $watch->wire_of($origin);

	$found->('wire', '', 'bytes/tx/peer', $watch->wire / $count / $group->{count});
	$found->('wire, origin', 'sent', 'bytes/tx', $sent / $count);
	$found->('wire, origin', 'received', 'bytes/tx', $received / $count);
	$found->('disk, origin', 'WAL', 'bytes/tx', $watch->wal($origin) / $count);
	$found->('disk, receiver', 'WAL', 'bytes/tx', $watch->wal($receiver) / $count);
	if ($group->{system}->store)
	{
		$found->('disk, origin', 'store', 'bytes/tx', $watch->stored($origin) / $count);
		$found->('disk, receiver', 'store', 'bytes/tx', $watch->stored($receiver) / $count);
	}
}

# pgbench's own transaction, for a time. The receivers' backlog at its end counts, too: tps that are
# paid for by lag are no gain.
sub foreground
{
	my ($group, $size, $found) = @_;
	my $origin = $group->{origin};
	my $watch = Bench::Watch->new($group->{system}, $origin);

	my ($count, $tps) = Bench::Load::pgbench_end(
		Bench::Load::pgbench_start($group, $origin, '-c', $Bench::Load::CLIENTS, '-T', $size->{seconds}), $watch);
	my $ended = now();
	Bench::Load::caught_up($group);
	my $lag = now() - $ended;
	Bench::Load::clients_gone($origin);
	$watch->end;

	$found->('foreground', '', 'tx/s', $tps);
	$found->('foreground client cpu', '', 'us/tx', $watch->clients($origin->{name}) / $count);
	return if !$group->{count};
	report_cpu($found, 'foreground origin cpu', 'us/tx', $watch->cpu($origin->{name}), $count);
	$found->('foreground lag at end', '', 's', $lag);
}

# Many rows in one transaction. Who applies before it has all of it has used CPU by the commit.
sub bulk
{
	my ($group, $size, $found) = @_;
	my ($system, $origin, $receiver) = (@$group{qw(system origin)}, $group->{receivers}[0]);
	my $watch = Bench::Watch->new($system, @{ $group->{clusters} });
	my $rows = $size->{bulk};
	my $looked = now();
	my $look = sub
	{
		return if now() < $looked + 0.02;
		$looked = now();
		$watch->look_memory;
	};

	$origin->{session}->start("INSERT INTO bulk SELECT g, repeat('x', 60) FROM generate_series(1, $rows) g");
	$look->() until $origin->{session}->answered(0.02);
	$origin->{session}->finish;
	my $committed = now();
	my $early = $watch->seconds_now($receiver->{name}, sub { $system->applies($_[0]) });
	foreach (@{ $group->{receivers} })
	{
		$_->poll("SELECT EXISTS (SELECT FROM bulk WHERE id = $rows)", 'the rows do not come', $look);
	}
	my $visible = now() - $committed;
	Bench::Load::caught_up($group);
	$watch->end;

	report_cpu($found, 'origin cpu, bulk', 'us/row', $watch->cpu($origin->{name}), $rows);
	report_cpu($found, 'receiver cpu, bulk', 'us/row', $watch->cpu($receiver->{name}), $rows);
	$found->('bulk visible', '', 's', $visible);
	$found->('bulk, apply before commit', '', 's of CPU', $early);
	report_peak($group, $found, $watch);
}

sub report_peak
{
	my ($group, $found, $watch) = @_;
	foreach my $where ([ 'origin', $group->{origin} ], [ 'receiver', $group->{receivers}[0] ])
	{
		my $peak = $watch->peak($where->[1]{name});
		$found->("peak memory, bulk, $where->[0]", $_, 'MB', $peak->{$_} / 1024) foreach sort keys %$peak;
	}
}

# Keep the receiver back. A worker may still be at its last transaction, and a request that already
# waits be answered: rows are written until one does not arrive.
sub hold
{
	my ($group, $way) = @_;
	my ($origin, $receiver) = ($group->{origin}, $group->{receivers}[0]);
	my $end = now() + $Bench::Cluster::LIMIT;

	$way->[1]->($receiver, $origin);
	while (1)
	{
		my $marker = Bench::Load::mark($origin);
		sleep 0.5;
		return $marker if $receiver->sql("SELECT NOT EXISTS (SELECT FROM marker WHERE id = $marker)") eq 't';
		die "the receiver cannot be kept back\n" if now() > $end;
	}
}

# A receiver with a backlog of count transactions that add rows to a table, from being let go until
# it has the last of it. Returns seconds, those until the first of it, and the watch.
sub drain
{
	my ($group, $count, $table, $write, $way) = @_;
	my ($origin, $receiver) = ($group->{origin}, $group->{receivers}[0]);
	my $first = hold($group, $way);

	$write->($group, $count);
	my $marker = Bench::Load::mark($origin);
	$way->[2]->($receiver, $origin);
	my ($here, $there) = map { $_->sql("SELECT count(*) FROM $table") } $origin, $receiver;
	die "the receiver was not kept back\n" if $here - $there < $count;

	my $watch = Bench::Watch->new($group->{system}, $origin, $receiver);
	my $looked = my $begun = now();
	$way->[3]->($receiver, $origin);
	Bench::Load::arrived($first, undef, $receiver);
	my $began = now() - $begun;
	Bench::Load::arrived($marker, sub
	{
		return if now() < $looked + 0.5;
		$looked = now();
		$watch->look;
	}, $receiver);
	my $seconds = now() - $begun;
	$watch->end;
	return ($seconds, $began, $watch);
}

# origin cpu is here what the origin uses while the receiver drains: a system that decodes and packs
# when a transaction is committed has done that before.
sub drains
{
	my ($group, $size, $found) = @_;
	my %backlog = (
		'one row' => [ $size->{backlog}, 'item', \&Bench::Load::backlog_one_row ],
		'TPC-B' => [ $size->{backlog} / 2, 'pgbench_history', \&Bench::Load::backlog_tpcb ]);

	foreach my $way ($group->{system}->ways)
	{
		foreach my $what ('one row', 'TPC-B')
		{
			my $count = $backlog{$what}[0];
			my $name = "drain, $what" . ($way->[0] && ", $way->[0]");
			my ($seconds, $began, $watch) = drain($group, @{ $backlog{$what} }, $way);
			$found->($name, '', 'tx/s', $count / $seconds);
			$found->("$name, until the first", '', 's', $began);
			$found->("$name, from the first", '', 'tx/s', $count / ($seconds - $began));
			report_cpu($found, "$name, receiver cpu", 'us/tx', $watch->cpu($group->{receivers}[0]{name}), $count);
			report_cpu($found, "$name, origin cpu", 'us/tx', $watch->cpu($group->{origin}{name}), $count);
		}
	}
}

# At a fixed rate, and at half of what came through when clients waited for nothing.
sub latency
{
	my ($group, $size, $found) = @_;

	latency_at($group, $size, $found, 200, 'latency');
	return unless $group->{saturation};
	my $rate = int($group->{saturation} / 2);
	latency_at($group, $size, $found, $rate, 'latency, half load');
}

# To a receiver far away, whose changes come one by one, and by the thousand.
sub far
{
	my ($group, $size, $found) = @_;

	latency_at($group, $size, $found, $_, "latency, $FAR_MS ms away, $_ tx/s") foreach 200, 2000;
}

sub latency_at
{
	my ($group, $size, $found, $rate, $name) = @_;
	my $seconds = int($size->{probes} * 0.03) + 2;
	my ($origin, $receiver) = ($group->{origin}, $group->{receivers}[0]);
	my $watch = Bench::Watch->new($group->{system}, $origin, $receiver);
	my $pgbench = Bench::Load::pgbench_start($group, $origin, '-f', Bench::Load::script($group), '-c',
		$Bench::Load::CLIENTS, '-R', $rate, '-T', $seconds);

	sleep 1;
	my @ms = eval { Bench::Load::probes($group, $size->{probes}) };
	my $error = $@;
	Bench::Load::pgbench_kill($pgbench) if $error;
	die $error if $error;
	my ($count, $tps) = Bench::Load::pgbench_end($pgbench, $watch);
	$count += $size->{probes};
	Bench::Load::caught_up($group);
	$watch->end;
	$found->($name, 'rate', 'tx/s', $tps);
	$found->($name, "p$_", 'ms', Bench::Load::percentile($_, @ms)) foreach 50, 95, 99;
	report_cpu($found, "$name, origin cpu", 'us/tx', $watch->cpu($origin->{name}), $count);
	report_cpu($found, "$name, receiver cpu", 'us/tx', $watch->cpu($receiver->{name}), $count);
}

# Each worker's share of the machine's memory at the end of all this, and what of it is its own.
sub memory
{
	my ($group, $size, $found) = @_;
	foreach my $where ([ 'origin', $group->{origin} ], [ 'receiver', $group->{receivers}[0] ])
	{
		my %sum;
		foreach my $process (Bench::Watch->memory($group->{system}, $where->[1]))
		{
			my ($role, $pss, $private) = @$process;
			$sum{$role}[0] += $pss / 1024;
			$sum{$role}[1] += $private / 1024;
			$sum{all}[0] += $pss / 1024;
			$sum{all}[1] += $private / 1024;
		}
		foreach my $role (sort keys %sum)
		{
			$found->("memory, $where->[0]", $role, 'MB', $sum{$role}[0]);
			$found->("private memory, $where->[0]", $role, 'MB', $sum{$role}[1]);
		}
	}
}

# Rows of three tables and their indexes, together of about so many MB.
sub join_data
{
	my ($cluster, $mb) = @_;
	# bytes of a row with its share of all indexes, as measured: see README.md
	my $rows = int($mb * 1024 * 1024 / 212);

	$cluster->sql(<<"SQL");
CREATE TABLE orders (id bigint PRIMARY KEY, customer int, placed timestamp, note text);
CREATE TABLE lines (id bigint PRIMARY KEY, order_id bigint, amount numeric, note text);
CREATE TABLE events (id uuid PRIMARY KEY, at timestamptz, what text);
INSERT INTO orders SELECT g, g * 7919 % 100003, timestamp '2026-01-01' + g * interval '1 s', repeat(md5(g::text), 3)
	FROM generate_series(1::bigint, $rows / 2) g;
INSERT INTO lines SELECT g, g * 104729 % $rows, g % 10000 / 100.0, repeat(md5(g::text), 3)
	FROM generate_series(1::bigint, $rows / 4) g;
INSERT INTO events SELECT md5(g::text)::uuid, timestamptz '2026-01-01' + g * interval '1 s', repeat(md5(g::text), 3)
	FROM generate_series(1::bigint, $rows / 4) g;
CREATE INDEX ON orders (customer);
CREATE INDEX ON orders (placed);
CREATE INDEX ON lines (order_id);
CREATE INDEX ON events (at);
SQL
	$cluster->sql('VACUUM ANALYZE');
}

my $JOIN_SIZE = "SELECT sum(pg_total_relation_size(r)) FROM unnest('{orders,lines,events}'::regclass[]) r";
my $JOIN_ROWS = 'SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM lines) + (SELECT count(*) FROM events)';

# From the command on an empty database until all rows and indexes are there.
sub join_time
{
	my ($group, $size, $found) = @_;
	my ($system, $origin, $receiver) = ($group->{system}, $group->{origin}, $group->{joiner});
	my $cpu = all_cpu($origin) + all_cpu($receiver);
	my $begun = now();

	$system->add_peer($origin, $receiver);
	my $seconds = now() - $begun;
	Bench::Load::arrived(Bench::Load::mark($origin), undef, $receiver);
	my ($rows, $came) = map { $_->sql($JOIN_ROWS) } $origin, $receiver;
	die "the joiner has $came of $rows rows\n" if $rows != $came;
	$found->('join', '', 's', $seconds);
	$found->('join, rate', '', 'MB/s', $origin->sql($JOIN_SIZE) / 1024 / 1024 / $seconds);
	$found->('join cpu', 'both', 's', (all_cpu($origin) + all_cpu($receiver) - $cpu) / 1e6);
}

# CPU that a cluster has used since its start, whatever for.
sub all_cpu
{
	my ($cluster) = @_;
	my @pids = map { $_->[0] } $cluster->{session}->query('SELECT pid FROM pg_stat_activity');
	return Bench::Watch::ended_us($cluster->{postmaster})
		+ sum0(map { (Bench::Watch::cpu_ns($_) // 0) / 1000 } @pids, $cluster->{postmaster});
}

# All nodes write at once.
sub multi
{
	my ($group, $size, $found) = @_;
	my @clusters = @{ $group->{clusters} };
	my $script = Bench::Load::script($group);
	my $watch = Bench::Watch->new($group->{system}, @clusters);
	my $begun = now();
	my @pgbench = map { Bench::Load::pgbench_start($group, $_, '-f', $script, '-c', 2, '-T', $size->{seconds}) }
		@clusters;
	my ($count, $tps) = (0, 0);

	foreach (@pgbench)
	{
		my @one = Bench::Load::pgbench_end($_, $watch);
		$count += $one[0];
		$tps += $one[1];
	}
	my $ended = now();
	foreach my $from (@clusters)
	{
		Bench::Load::arrived(Bench::Load::mark($from), undef, grep { $_ != $from } @clusters);
	}
	my $last = now();
	$watch->end;
	$found->('multi-master', '', 'tx/s', $tps);
	$found->('multi-master lag at end', '', 's', $last - $ended);
	$found->('multi-master throughput', '', 'tx/s', $count / ($last - $begun));
	$found->('multi-master cpu', 'all nodes', 'us/tx',
		sum0(map { values %{ $watch->cpu($_->{name}) } } @clusters) / $count);
}

1;
