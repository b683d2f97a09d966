# measure.pl WORK BIN [--quick]: set up the systems, measure, print, write WORK/result.csv.
#
# A system is a way to replicate with a number of receivers: none, native
# (built-in logical replication one way) or replp2p. Each has clusters of its
# own, and only one system's clusters run at a time. Rounds are interleaved:
# every system once, then every system again, so that whatever else the machine
# does meets all of them. How each number is taken stands in README.md.
use strict;
use warnings;

use IO::Socket::INET;
use List::Util qw(min sum);
use POSIX ();
use Time::HiRes qw(time sleep);

use PgSession;

my ($work, $bin, $quick) = @ARGV;
my %size = $quick ?
	(rounds => 1, transactions => 2000, seconds => 5, probes => 100) :
	(rounds => 3, transactions => 20000, seconds => 15, probes => 500);
my $clients = 4;
my $scale = 5;
my $rate = 200;

# in the order of a round: what is compared with one another is neighbours
my @systems = map { { way => $_->[0], count => $_->[1], name => "$_->[0] $_->[1]" } }
	([ none => 0 ], [ native => 1 ], [ replp2p => 1 ], [ native => 2 ], [ replp2p => 2 ]);
my @values;    # [measure, system, round, value]

$| = 1;
$SIG{INT} = $SIG{TERM} = sub { exit 130 };

#
# Clusters. One is a hash: data, port, preload; name is that of its node.
#

sub run
{
	my (@command) = @_;
	open my $out, '>>', "$work/run.log" or die "run.log: $!\n";
	my $pid = fork() // die "fork: $!\n";
	if ($pid == 0)
	{
		open STDOUT, '>&', $out;
		open STDERR, '>&', $out;
		exec @command or POSIX::_exit(127);
	}
	waitpid $pid, 0;
	die "failed: @command\n" if $?;
}

sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)
		or die "no free port: $!\n";
	return $socket->sockport;
}

sub cluster_make
{
	my ($system, $name) = @_;
	(my $folder = "$system->{name} $name") =~ tr/ /-/;
	my $cluster = { name => $name, data => "$work/$folder", port => free_port() };
	my $preload = $system->{way} eq 'replp2p' ? 'replp2p' : '';

	# not a copy of one: a node knows itself by the system identifier
	run("$bin/initdb", '-D', $cluster->{data}, '-U', 'bench', '--auth=trust', '--encoding=UTF8',
		'--locale=C', '--no-sync');
	open my $conf, '>>', "$cluster->{data}/postgresql.conf" or die "postgresql.conf: $!\n";
	print $conf <<"CONF";
port = $cluster->{port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = '$preload'
wal_level = logical
fsync = on
synchronous_commit = on
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
max_replication_slots = 20
max_worker_processes = 16
CONF
	close $conf or die "postgresql.conf: $!\n";
	return $cluster;
}

sub cluster_start
{
	my ($cluster) = @_;
	run("$bin/pg_ctl", '-D', $cluster->{data}, '-l', "$cluster->{data}.log", '-w', '-s', 'start');
	$cluster->{running} = 1;
	if (!$cluster->{made}++)
	{
		my $session = PgSession->new($cluster->{port}, 'bench', 'template1');
		$session->query('CREATE DATABASE bench');
		$session->query('CREATE ROLE peer LOGIN REPLICATION');
	}
	$cluster->{session} = PgSession->new($cluster->{port}, 'bench', 'bench');
}

sub cluster_stop
{
	my ($cluster) = @_;
	delete $cluster->{session};
	run("$bin/pg_ctl", '-D', $cluster->{data}, '-m', 'fast', '-w', '-s', 'stop');
	$cluster->{running} = 0;
}

sub sql
{
	my ($cluster, $sql) = @_;
	return $cluster->{session}->value($sql);
}

sub dsn
{
	my ($cluster) = @_;
	return "host=127.0.0.1 port=$cluster->{port} dbname=bench user=peer";
}

#
# Systems.
#

my $tables = <<'SQL';
CREATE TABLE item (id bigint PRIMARY KEY, v text);
CREATE SEQUENCE item_id CACHE 100;
CREATE TABLE probe (id bigint PRIMARY KEY);
CREATE TABLE marker (id bigint PRIMARY KEY);
SQL

sub system_make
{
	my ($system) = @_;
	my @clusters = map { cluster_make($system, $_) } ('a', 'b', 'c')[ 0 .. $system->{count} ];
	my ($origin, @receivers) = @clusters;
	@$system{qw(origin receivers clusters)} = ($origin, \@receivers, \@clusters);

	cluster_start($_) foreach @clusters;
	$origin->{session}->query($tables);
	pgbench_tables($origin, 'dtgvp');
	if ($system->{way} eq 'native')
	{
		native_make($origin, @receivers);
	}
	elsif ($system->{way} eq 'replp2p')
	{
		group_make($origin, @receivers);
	}
	caught_up($system);
	cluster_stop($_) foreach reverse @clusters;
}

sub pgbench_tables
{
	my ($cluster, $steps) = @_;
	run("$bin/pgbench", '-i', '-q', '-I', $steps, '-s', $scale, pgbench_target($cluster));
	sql($cluster, 'ALTER TABLE pgbench_history ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()');
}

sub native_make
{
	my ($origin, @receivers) = @_;
	sql($origin, 'CREATE PUBLICATION everything FOR ALL TABLES');
	sql($origin, 'GRANT pg_read_all_data TO peer');
	foreach my $receiver (@receivers)
	{
		$receiver->{session}->query($tables);
		pgbench_tables($receiver, 'dtp');
		sql($receiver, sprintf("CREATE SUBSCRIPTION from_a_to_%s CONNECTION '%s' PUBLICATION everything",
			$receiver->{name}, dsn($origin)));
		# a copy that is interrupted by a stop is not always taken up again
		poll($receiver, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel");
	}
}

sub group_make
{
	my ($origin, @receivers) = @_;
	foreach my $cluster ($origin, @receivers)
	{
		sql($cluster, 'CREATE EXTENSION replp2p');
		sql($cluster, 'GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO peer');
		if ($cluster == $origin)
		{
			sql($cluster, sprintf("SELECT replp2p.create_group('a', '%s')", dsn($cluster)));
		}
		else
		{
			my $invite = sql($origin, 'SELECT replp2p.create_invite()');
			sql($cluster, sprintf("SELECT replp2p.join_group('%s', '%s', '%s')",
				$cluster->{name}, dsn($cluster), $invite));
		}
		sql($cluster, 'SELECT replp2p.wait_for_ready()');
	}
}

# Wait for a query to give t.
sub poll
{
	my ($cluster, $sql, $seconds) = @_;
	my $end = time + ($seconds // 300);
	until ((sql($cluster, $sql) // '') eq 't')
	{
		die "$cluster->{name}: timed out: $sql\n" if time > $end;
		sleep 0.005;
	}
}

# Write a row on the origin and wait until all receivers have it; returns when.
my $marker = 0;
sub caught_up
{
	my ($system) = @_;
	$marker++;
	sql($system->{origin}, "INSERT INTO marker VALUES ($marker)");
	poll($_, "SELECT EXISTS (SELECT FROM marker WHERE id = $marker)") foreach @{ $system->{receivers} };
	return time;
}

#
# pgbench.
#

sub pgbench_target
{
	my ($cluster) = @_;
	return ('-h', '127.0.0.1', '-p', $cluster->{port}, '-U', 'bench', 'bench');
}

# Start it; the caller reads its output to the end with pgbench_end.
sub pgbench_start
{
	my ($cluster, @options) = @_;
	my $pid = open(my $out, '-|', "$bin/pgbench", '-n', @options, pgbench_target($cluster))
		or die "pgbench: $!\n";
	return $out;
}

# Its tps, without the time to connect.
sub pgbench_end
{
	my ($out) = @_;
	my $text = do { local $/; <$out> };
	close $out or die "pgbench failed\n";
	my ($tps) = $text =~ /^tps = ([\d.]+)/m or die "pgbench gave no tps\n";
	return $tps;
}

my $one_row = "$work/one_row.sql";

sub one_row_write
{
	open my $file, '>', $one_row or die "$one_row: $!\n";
	print $file "INSERT INTO item VALUES (nextval('item_id'), repeat('x', 60));\n";
	close $file or die "$one_row: $!\n";
}

# Write a fixed number of one-row transactions on the origin.
sub write_rows
{
	my ($system) = @_;
	my $out = pgbench_start($system->{origin}, '-f', $one_row, '-c', $clients,
		'-t', $size{transactions} / $clients);
	return pgbench_end($out);
}

#
# CPU time of the processes that replicate.
#

# Nanoseconds of CPU that a process has used; undef if it is gone.
sub cpu_ns
{
	my ($pid) = @_;
	if (open my $file, '<', "/proc/$pid/schedstat")
	{
		my ($ns) = split ' ', <$file> // '';
		return $ns;
	}
	open my $file, '<', "/proc/$pid/stat" or return undef;
	my @fields = split ' ', (<$file> // return undef) =~ s/^.*\) //r;
	return ($fields[11] + $fields[12]) * 10_000_000;
}

# Whatever a cluster runs for replication: workers, and sessions of peers.
sub replicating_pids
{
	my ($cluster) = @_;
	return map { $_->[0] } $cluster->{session}->query(
		"SELECT pid FROM pg_stat_activity WHERE usename = 'peer' AND backend_type IN ('walsender', 'client backend')"
		. " OR backend_type LIKE 'replp2p%' OR backend_type LIKE 'logical replication%'");
}

sub cpu_begin
{
	my ($cluster) = @_;
	my %first = map { $_ => cpu_ns($_) // 0 } replicating_pids($cluster);
	return { cluster => $cluster, first => \%first, last => {%first} };
}

# Look again: a process that has come since counts from its start.
sub cpu_look
{
	my ($cpu) = @_;
	foreach my $pid (keys %{ $cpu->{last} }, replicating_pids($cpu->{cluster}))
	{
		my $ns = cpu_ns($pid);
		$cpu->{last}{$pid} = $ns if defined $ns;
	}
}

# Microseconds of CPU since the beginning.
sub cpu_end
{
	my ($cpu) = @_;
	cpu_look($cpu);
	return sum(0, map { $cpu->{last}{$_} - ($cpu->{first}{$_} // 0) } keys %{ $cpu->{last} }) / 1000;
}

#
# Measures. Each takes a system that runs and is idle, and leaves it so.
#

sub measure_tps
{
	my ($system) = @_;
	my $out = pgbench_start($system->{origin}, '-c', $clients, '-T', $size{seconds});
	my $tps = pgbench_end($out);
	caught_up($system);
	return (tps => $tps);
}

sub measure_cpu
{
	my ($system) = @_;
	my $origin = cpu_begin($system->{origin});
	my $receiver = cpu_begin($system->{receivers}[0]);
	my $out = pgbench_start($system->{origin}, '-f', $one_row, '-c', $clients,
		'-t', $size{transactions} / $clients);
	my $ready = '';

	# look now and then, so that a process that ends meanwhile is counted
	until ($ready)
	{
		vec($ready = '', fileno($out), 1) = 1;
		$ready = select($ready, undef, undef, 0.25) ? 1 : '';
		cpu_look($_) foreach $origin, $receiver;
	}
	pgbench_end($out);
	caught_up($system);
	return (
		'origin cpu' => cpu_end($origin) / $size{transactions},
		'receiver cpu' => cpu_end($receiver) / $size{transactions});
}

# How the receiver is kept from getting anything, and let go again.
my %hold = (
	native => [
		sub { sql($_[0], "ALTER SUBSCRIPTION from_a_to_$_[0]{name} DISABLE") },
		sub { sql($_[0], "ALTER SUBSCRIPTION from_a_to_$_[0]{name} ENABLE") } ],
	replp2p => [
		sub { unreachable($_[0], 'a') },
		sub { unreachable($_[0], '') } ],
	paused => [
		sub { sql($_[0], 'SELECT replp2p.pause_apply()') },
		sub { sql($_[0], 'SELECT replp2p.resume_apply()') } ]);

sub unreachable
{
	my ($cluster, $names) = @_;
	sql($cluster, "ALTER SYSTEM SET replp2p.unreachable_peers = '$names'");
	sql($cluster, 'SELECT pg_reload_conf()');
	poll($cluster, "SELECT cut = ('$names' <> '') FROM replp2p.stat_links");
}

# Transactions a second, from the word go to the last one being visible.
sub drain
{
	my ($system, $way) = @_;
	my $receiver = $system->{receivers}[0];
	my ($stop, $go) = @{ $hold{$way} };

	$stop->($receiver);
	# a worker may still be at its last transaction
	sleep 0.5;
	write_rows($system);
	$marker++;
	sql($system->{origin}, "INSERT INTO marker VALUES ($marker)");
	poll($receiver, "SELECT known_seq = (SELECT stored_seq FROM replp2p.stat_log l WHERE l.origin = s.origin)"
		. " AND lag_transactions > $size{transactions} FROM replp2p.stat_lag s WHERE origin = 'a'")
		if $way eq 'paused';
	my $start = time;
	$go->($receiver);
	poll($receiver, "SELECT EXISTS (SELECT FROM marker WHERE id = $marker)");
	return ($size{transactions} + 1) / (time - $start);
}

sub measure_drain
{
	my ($system) = @_;
	my @found = ('drain' => drain($system, $system->{way}));
	push @found, 'drain, received' => drain($system, 'paused') if $system->{way} eq 'replp2p';
	return @found;
}

sub percentile
{
	my ($p, @sorted) = @_;
	return $sorted[ min($#sorted, int($p / 100 * @sorted)) ];
}

my $probe = 0;
sub measure_latency
{
	my ($system) = @_;
	my ($origin, $receiver) = map { $_->{session} } $system->{origin}, $system->{receivers}[0];
	my $seconds = int($size{probes} * 0.03) + 2;
	my $out = pgbench_start($system->{origin}, '-f', $one_row, '-c', 2, '-R', $rate, '-T', $seconds);
	my @ms;

	sleep 1;
	foreach (1 .. $size{probes})
	{
		$probe++;
		$origin->query("INSERT INTO probe VALUES ($probe)");
		my $committed = time;
		sleep 0.0002 until $receiver->query("SELECT FROM probe WHERE id = $probe");
		push @ms, 1000 * (time - $committed);
		sleep 0.02;
	}
	pgbench_end($out);
	caught_up($system);
	@ms = sort { $a <=> $b } @ms;
	return ('latency p50' => percentile(50, @ms), 'latency p99' => percentile(99, @ms));
}

sub system_measure
{
	my ($system, $round) = @_;
	my $receivers = $system->{count};
	my @measures = (\&measure_tps);

	push @measures, \&measure_cpu if $receivers;
	push @measures, \&measure_drain, \&measure_latency if $receivers == 1;

	cluster_start($_) foreach @{ $system->{clusters} };
	caught_up($system);
	foreach my $measure (@measures)
	{
		my @found = $measure->($system);
		while (my ($name, $value) = splice @found, 0, 2)
		{
			push @values, [ $name, $system->{name}, $round, $value ];
			print STDERR sprintf("round %d  %-10s %-16s %.2f\n", $round, $system->{name}, $name, $value);
		}
	}
	cluster_stop($_) foreach reverse @{ $system->{clusters} };
}

#
# What was found.
#

sub median
{
	my ($measure, $system) = @_;
	my @found = sort { $a <=> $b } map { $_->[3] } grep { $_->[0] eq $measure && $_->[1] eq $system } @values;
	return undef unless @found;
	return ($found[ $#found / 2 ] + $found[ @found / 2 ]) / 2;
}

# measure, unit, number of receivers
my @lines = (
	[ 'origin cpu', 'us/tx', 1 ], [ 'origin cpu', 'us/tx', 2 ],
	[ 'receiver cpu', 'us/tx', 1 ], [ 'receiver cpu', 'us/tx', 2 ],
	[ 'drain', 'tx/s', 1 ], [ 'drain, received', 'tx/s', 1 ],
	[ 'latency p50', 'ms', 1 ], [ 'latency p99', 'ms', 1 ],
	[ 'tps', 'tx/s', 1 ], [ 'tps', 'tx/s', 2 ]);

sub report
{
	my $none = median('tps', 'none 0');
	my $cell = sub { defined $_[0] ? sprintf("%.*f", $_[0] < 100 ? 2 : 0, $_[0]) : '-' };

	printf "\n%-18s %9s %6s %12s %12s %8s\n", 'medians of ' . $size{rounds}, 'receivers', 'unit',
		'native', 'replp2p', 'ratio';
	foreach (@lines)
	{
		my ($measure, $unit, $receivers) = @$_;
		my ($native, $ours) = map { median($measure, "$_ $receivers") } 'native', 'replp2p';
		my $base = $measure eq 'drain, received' ? median('drain', 'native 1') : $native;
		printf "%-18s %9d %6s %12s %12s %8s\n", $measure, $receivers, $unit, $cell->($native), $cell->($ours),
			sprintf('%.2f', $ours / $base);
	}
	printf "%-18s %9d %6s %12s\n", 'tps, no receiver', 0, 'tx/s', $cell->($none);
	print "\n";
	foreach my $receivers (1, 2)
	{
		printf "tps with %d receiver%s of that without: native %.2f, replp2p %.2f\n", $receivers,
			$receivers == 1 ? '' : 's', map { median('tps', "$_ $receivers") / $none } 'native', 'replp2p';
	}
}

sub csv_write
{
	open my $csv, '>', "$work/result.csv" or die "result.csv: $!\n";
	print $csv "measure,system,receivers,round,value\n";
	foreach (@values)
	{
		my ($measure, $system, $round, $value) = @$_;
		printf $csv "\"%s\",%s,%d,%d,%.4f\n", $measure, split(' ', $system), $round, $value;
	}
	close $csv or die "result.csv: $!\n";
}

# Whatever happens, no server stays.
END
{
	my $status = $?;
	foreach my $cluster (map { @{ $_->{clusters} // [] } } @systems)
	{
		next unless $cluster->{running};
		system("$bin/pg_ctl", '-D', $cluster->{data}, '-m', 'immediate', '-w', '-s', 'stop');
	}
	$? = $status;
}

one_row_write();
foreach my $system (@systems)
{
	print STDERR "setting up $system->{name}\n";
	system_make($system);
}
foreach my $round (1 .. $size{rounds})
{
	# who comes first changes
	my @order = $round % 2 ? @systems : reverse @systems;
	system_measure($_, $round) foreach @order;
}
csv_write();
report();
