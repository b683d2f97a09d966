# A node whose clock steps back and forth, by an hour and by milliseconds, while
# all three nodes write the same rows: they end the same, with all that each has
# committed, and the stamps of each origin grow strictly, as the commit
# records of who applied them prove. Then what waits for a time of day must not
# wait an hour because the clock was set back: the retry of what could not be
# applied, the position of capture, and the restart of a worker.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $EACH = 30;				# transactions of the stepping node between two steps, at least
my $seed = $ENV{REPLP2P_SEED} // int(rand(1_000_000_000));
Replp2p::seed($seed);

# Below replp2p.max_clock_skew ahead, so that nothing is held; any time back.
my @STEPS = (-3600, 0, 300, -5, 0.5, -3600, 299.9, -0.001, -86400, 0, 120, -3600);

my $g = Replp2p->group([ 'a', 'b', 'steps' ],
	conf => "max_wal_size = '4GB'\nwal_keep_size = '4GB'\n",
	options => { steps => { Replp2p->faked_clock('steps') } },
	schema => <<"SQL");
CREATE TABLE hot (id int PRIMARY KEY, n int, v text);
CREATE TABLE ledger (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), node int);
INSERT INTO hot SELECT x, 0, 'start' FROM generate_series(1, 40) x;
SQL

my %start = map { $_ => $g->sql($_, 'SELECT pg_current_wal_insert_lsn()') } $g->names;

# Each transaction touches one hot row, so that none can block another for ever.
my $script = "$PostgreSQL::Test::Utils::tmp_check/steps.pgbench";
append_to_file($script, <<'SQL');
\set id random(1, 40)
\set op random(1, 10)
\set r random(1, 1000000)
\if :op <= 7
UPDATE hot SET n = n + 1, v = :r WHERE id = :id;
\elif :op <= 8
DELETE FROM hot WHERE id = :id;
\else
INSERT INTO hot VALUES (:id, 0, 'new') ON CONFLICT (id) DO UPDATE SET v = 'again';
\endif
INSERT INTO ledger (node) VALUES (:me);
SQL
my $me = 0;
my @load = map {
	$g->pgbench($_, '-c', 2, '-T', 600, '-R', 150, '--random-seed', $seed + $me,
		'-D', 'me=' . $me++, '-f', $script)
} $g->names;

# Let the stepping node write on, for some transactions.
sub writes_on
{
	my $due = $EACH + $g->sql('steps', 'SELECT count(*) FROM ledger WHERE node = 2');
	return $g->eventually('steps', "SELECT count(*) >= $due FROM ledger WHERE node = 2");
}

my $written = writes_on();
foreach my $step (@STEPS)
{
	Replp2p->set_clock('steps', $step);
	$written += writes_on();
}
is($written, 1 + @STEPS, 'it wrote on after each step');
ok($g->halt(@load), 'no client noticed');
ok($g->eventually($_, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'"),
	"the last commit on $_ is done") foreach $g->names;
my %ledger;
foreach my $node (0 .. 2)
{
	$ledger{$node} = $g->sql(($g->names)[$node], "SELECT count(*) FROM ledger WHERE node = $node");
}

$g->sync;
$g->same('hot');
$g->same('ledger');
foreach my $node (0 .. 2)
{
	is($g->sql($_, "SELECT count(*) FROM ledger WHERE node = $node"), $ledger{$node},
		"on $_ is all that node $node has committed") foreach $g->names;
}
ok($g->eventually($_, "SELECT sum(lag_transactions) = 0 FROM replp2p.stat_lag"), "no lag remains on $_")
	foreach $g->names;
Replp2p::figure('conflicts met on a: ' . $g->sql('a', 'SELECT sum(conflicts) FROM replp2p.stat_lag'));

# The commits of a node from its WAL: [time, origin, seq, stamp, how many transactions of the origin are in it:
# each is a subtransaction, if there are several].
sub commits
{
	my ($name) = @_;
	local $ENV{TZ} = 'UTC';
	my $log = $g->node($name)->data_dir . '/pg_wal';
	my $file = $g->sql($name, "SELECT pg_walfile_name('$start{$name}')");
	my $end = $g->sql($name, 'SELECT pg_current_wal_flush_lsn()');
	my ($out, $err) = run_command([ 'pg_waldump', '-p', $log, '-r', 'Transaction', '-s', $start{$name}, '-e', $end, $file ]);
	my @commits;

	foreach my $line (split /\n/, $out)
	{
		next unless $line =~ /desc: COMMIT (\S+ \S+) UTC/;
		my $time = $1;
		my ($origin, $high, $low, $stamp) =
			$line =~ m{origin: node (\d+), lsn ([0-9A-F]+)/([0-9A-F]+), at (\S+ \S+) UTC};
		my ($subxacts) = $line =~ /subxacts: ([\d ]+)/;
		my @members = split ' ', $subxacts // '0';
		push @commits, [ $time, $origin // 0, hex($high // 0) << 32 | hex($low // 0), $stamp, scalar @members ];
	}
	return @commits;
}

# The clock did step, and stamps did not.
my $back = 0;
my $last = '';
foreach my $commit (grep { !$_->[1] } commits('steps'))
{
	$back++ if $commit->[0] lt $last;
	$last = $commit->[0];
}
cmp_ok($back, '>=', grep({ $STEPS[$_] < $STEPS[ $_ - 1 ] } 1 .. $#STEPS), 'commit times have stepped back each time');
Replp2p::figure("commits before their predecessor: $back");

foreach my $name ($g->names)
{
	my (%seq, %stamp, @wrong);
	my $applied = 0;

	foreach my $commit (grep { $_->[1] } commits($name))
	{
		my (undef, $origin, $seq, $at, $n) = @$commit;
		$applied += $n;
		push @wrong, "origin $origin: seq $seq after $seq{$origin}"
			if $seq{$origin} && $seq != $seq{$origin} + $n;
		push @wrong, "origin $origin: seq $seq has $at after $stamp{$origin}"
			if $stamp{$origin} && $at le $stamp{$origin};
		$seq{$origin} = $seq;
		$stamp{$origin} = $at;
	}
	cmp_ok($applied, '>=', 2 * $EACH, "$name has applied what the others wrote");
	is("@wrong[0 .. ($#wrong < 4 ? $#wrong : 4)]", '', "each once and in order, by seq and by stamp, on $name");
}

# What cannot be applied is tried again though the clock was set back in between.
Replp2p->set_clock('steps', 0);
$g->sql($_, 'CREATE TABLE later (id int PRIMARY KEY)') foreach ('a', 'b');
$g->sql('a', 'INSERT INTO later VALUES (1)');
ok($g->eventually('steps', "SELECT last_error LIKE '%does not exist%' FROM replp2p.stat_lag WHERE origin = 'a'"),
	'a change cannot be applied');
Replp2p->set_clock('steps', -3600);
$g->sql('steps', 'CREATE TABLE later (id int PRIMARY KEY)');
$g->sync('a');
is($g->sql('steps', 'SELECT count(*) FROM later'), 1, 'with its cause gone it is, within the hour');

# Capture writes positions, and lets go of WAL, though the last one is in the future.
my $lsn = $g->sql('steps', 'SELECT pg_current_wal_insert_lsn()');
$g->sql('a', "INSERT INTO later VALUES (2)");
$g->sql('steps', "INSERT INTO later VALUES (3)");
Replp2p->set_clock('steps', -7200);
$g->sql('a', "INSERT INTO later VALUES (4)");
$g->sync;
ok($g->eventually('steps', "SELECT confirmed_lsn > '$lsn' FROM replp2p.stat_capture"), 'its slot moves on');

# A worker that ends is started again, though its pause ends in the future.
Replp2p->set_clock('steps', 0);
my $pid = $g->pid('steps', 'gossip');
$g->sql('steps', "SELECT pg_terminate_backend($pid, 60000)");
Replp2p->set_clock('steps', -7200);
ok($g->eventually('steps', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'replp2p gossip' AND pid <> $pid"),
	'a worker is started again');
$g->sql('b', "INSERT INTO later VALUES (5)");
$g->sync;
$g->same('later');

$g->stop;
done_testing();
