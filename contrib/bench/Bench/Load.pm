# Bench::Load: what clients do to a group of clusters: pgbench, backlogs, probes.
#
# A group is a hash: system, origin, receivers, clusters (all of them), work, bin.
package Bench::Load;

use strict;
use warnings;

use List::Util qw(min);
use Time::HiRes qw(sleep);

our $CLIENTS = 4;
our $SCALE = 5;

*now = \&Bench::Cluster::now;

# One row as every measure writes it: about a hundred bytes.
my $ONE_ROW = "INSERT INTO item VALUES (nextval('item_id'), repeat('x', 60))";

sub script
{
	my ($group) = @_;
	my $file = "$group->{work}/one_row.sql";
	open my $out, '>', $file or die "$file: $!\n";
	print $out "$ONE_ROW;\n";
	close $out or die "$file: $!\n";
	return $file;
}

# Start pgbench on a cluster, without options its TPC-B-like transaction; end it with pgbench_end.
sub pgbench_start
{
	my ($group, $cluster, @options) = @_;
	my $pid = open(my $out, '-|', "$group->{bin}/pgbench", '-n', @options, $cluster->target)
		or die "pgbench: $!\n";
	return { out => $out, pid => $pid, text => '' };
}

# Wait for its end, with a look at the watch now and then; returns transactions and tps, the latter
# without the time to connect.
sub pgbench_end
{
	my ($pgbench, $watch, $limit) = @_;
	my $end = now() + ($limit // $Bench::Cluster::LIMIT);

	while (1)
	{
		vec(my $ready = '', fileno($pgbench->{out}), 1) = 1;
		if (select($ready, undef, undef, 0.5))
		{
			sysread($pgbench->{out}, $pgbench->{text}, 65536, length $pgbench->{text}) or last;
		}
		$watch->look if $watch;
		if (now() > $end)
		{
			pgbench_kill($pgbench);
			die "pgbench takes too long\n";
		}
	}
	close $pgbench->{out} or die "pgbench failed\n";
	my ($count) = $pgbench->{text} =~ /actually processed: (\d+)/ or die "pgbench counted nothing\n";
	my ($tps) = $pgbench->{text} =~ /^tps = ([\d.]+)/m or die "pgbench gave no tps\n";
	return ($count, $tps);
}

# Not by a kill alone: close() waits for a process that may wait for a server.
sub pgbench_kill
{
	my ($pgbench) = @_;
	kill 'KILL', $pgbench->{pid};
	close $pgbench->{out};
}

# Wait until pgbench's sessions are gone, so that their CPU is counted.
sub clients_gone
{
	my ($cluster) = @_;
	$cluster->poll("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')",
		'sessions of pgbench stay');
}

# Write a row on a cluster; wait until others have it. meanwhile: as for poll.
my $marker = 0;
sub mark
{
	my ($cluster) = @_;
	$marker++;
	$cluster->sql("INSERT INTO marker VALUES ($marker)");
	return $marker;
}

sub arrived
{
	my ($marker, $meanwhile, @receivers) = @_;
	$_->poll("SELECT EXISTS (SELECT FROM marker WHERE id = $marker)", 'has not caught up', $meanwhile)
		foreach @receivers;
}

sub caught_up
{
	my ($group, $meanwhile) = @_;
	arrived(mark($group->{origin}), $meanwhile, @{ $group->{receivers} });
}

# A backlog of one-row transactions, written by one session as fast as it can: nobody waits for
# the disk at each commit, and the last one waits for all.
sub backlog_one_row
{
	my ($group, $count) = @_;
	backlog($group, $count, "$ONE_ROW;", '');
}

# A backlog of transactions that write what pgbench's do: three updates and an insert.
sub backlog_tpcb
{
	my ($group, $count) = @_;
	backlog($group, $count, <<"SQL", 'a int; t int; b int; d int;');
a := 1 + floor(random() * 100000 * $SCALE);
t := 1 + floor(random() * 10 * $SCALE);
b := 1 + floor(random() * $SCALE);
d := floor(random() * 10000) - 5000;
UPDATE pgbench_accounts SET abalance = abalance + d WHERE aid = a;
UPDATE pgbench_tellers SET tbalance = tbalance + d WHERE tid = t;
UPDATE pgbench_branches SET bbalance = bbalance + d WHERE bid = b;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, clock_timestamp());
SQL
}

sub backlog
{
	my ($group, $count, $statements, $variables) = @_;
	my $session = $group->{origin}{session};

	$session->query('SET synchronous_commit = off');
	$session->query("DO \$\$ DECLARE $variables BEGIN FOR i IN 1 .. $count LOOP $statements COMMIT; END LOOP; END \$\$");
	$session->query('RESET synchronous_commit');
}

sub percentile
{
	my ($p, @sorted) = @_;
	return $sorted[ min($#sorted, int($p / 100 * @sorted)) ];
}

# Milliseconds from the acknowledgement of a commit on the origin to the row being visible on the
# first receiver, for count rows one after another. Both ends are this process's: one clock, one
# connection to each, prepared statements, a look each 0.1 ms, most of which is its round trip. The
# system may wake who sleeps 0.05 ms late, unless told that this matters.
my $probe = 0;
sub probes
{
	my ($group, $count) = @_;
	my ($origin, $receiver) = map { $_->connect } $group->{origin}, $group->{receivers}[0];
	my @ms;

	timer_slack_ns(1000);
	$origin->prepare('write', 'INSERT INTO probe VALUES ($1::bigint)');
	$receiver->prepare('look', 'SELECT 1 FROM probe WHERE id = $1::bigint');
	foreach (1 .. $count)
	{
		$probe++;
		$origin->execute('write', $probe);
		my $committed = now();
		until ($receiver->execute('look', $probe))
		{
			die "a row has not arrived\n" if now() > $committed + $Bench::Cluster::LIMIT;
			sleep 0.00002;
		}
		push @ms, 1000 * (now() - $committed);
		sleep 0.01 + rand 0.01;
	}
	timer_slack_ns(0);
	return sort { $a <=> $b } @ms;
}

# How late this process may be woken; 0: as ever. Where it cannot be set, looks are further apart.
sub timer_slack_ns
{
	my ($ns) = @_;

	open my $file, '>', '/proc/self/timerslack_ns' or return;
	print $file $ns;
	close $file;
}

1;
