# Three nodes written at once: nothing acknowledged is lost or repeated, and all
# end identical.
#
# Load: pgbench's TPC-B-like transactions on all three nodes, beside a client
# on each that inserts rows and notes which the server has acknowledged, one of
# the tables being without a key, where a repetition would show. Storm: a
# random mix of updates, deletes, re-inserts and key updates on 100 keys, with
# out-of-line values, several clients on every node. Crossing: each triple of
# operations on one key, one on each node, in each order, none seeing another;
# the row that must come out of it is known.
#
# RP_SEED repeats the storm's choices.
use strict;
use warnings;
use IPC::Run;
use List::Util qw(sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Replp2p;

my $seed = $ENV{RP_SEED} // int(rand(2**31));
Replp2p::seed($seed);

my $clients = 2;
my $transactions = $ENV{RP_TRANSACTIONS} // 250;	# of each pgbench client
my $acknowledged = $ENV{RP_ACKNOWLEDGED} // 400;	# rows of each inserting client
my $storm = $ENV{RP_STORM} // 400;		# transactions of each storming client

# pgbench makes its own tables; its history has no key of its own
my $g = Replp2p->group(['a'], conf => 'deadlock_timeout = 100ms');
$g->node('a')->command_ok(
	[ 'pgbench', '-i', '-I', 'dtGp', '-q', '-d', $g->node('a')->connstr('postgres') ],
	'pgbench makes its tables');
$g->sql('a', <<'SQL');
DROP TABLE pgbench_history;
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22),
	id uuid PRIMARY KEY DEFAULT gen_random_uuid());
CREATE TABLE acked (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), node text);
CREATE TABLE ledger (id uuid);
CREATE TABLE hot (id int PRIMARY KEY, n int, v text, big text, big2 text);
ALTER TABLE hot ALTER big SET STORAGE EXTERNAL, ALTER big2 SET STORAGE EXTERNAL;
INSERT INTO hot SELECT i, 0, 'start', repeat('s', 3000), repeat('t', 3000) FROM generate_series(1, 100) i;
CREATE TABLE crossed (id int PRIMARY KEY, v text, other int, big text);
ALTER TABLE crossed ALTER big SET STORAGE EXTERNAL;

-- One random step on the keys k and l; what clashes with another local client is undone.
CREATE FUNCTION hot_step(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 20 THEN UPDATE hot SET n = n + 1, v = 'u' || r WHERE id = k;
		WHEN op <= 30 THEN UPDATE hot SET big = repeat(md5(r::text), 100) WHERE id = k;
		WHEN op <= 35 THEN UPDATE hot SET big2 = NULL, big = repeat(md5(r::text), 150) WHERE id = k;
		WHEN op <= 50 THEN DELETE FROM hot WHERE id = k;
		WHEN op <= 65 THEN INSERT INTO hot VALUES (k, 1, 'i' || r, repeat(md5(r::text), 90), repeat(md5(r::text), 80))
			ON CONFLICT DO NOTHING;
		WHEN op <= 75 THEN INSERT INTO hot VALUES (k, 1, 'i' || r, 'short')
			ON CONFLICT (id) DO UPDATE SET v = 'c' || r, n = hot.n + 1;
		WHEN op <= 83 THEN
			DELETE FROM hot WHERE id = k;
			INSERT INTO hot VALUES (k, 0, 'r' || r, repeat(md5(r::text), 70));
			UPDATE hot SET v = v || '!' WHERE id = k;
		WHEN op <= 90 THEN UPDATE hot SET id = l, v = 'k' || r WHERE id = k;
		WHEN op <= 96 THEN
			UPDATE hot SET v = 'w' || r WHERE id = l;
			UPDATE hot SET n = n + 1 WHERE id BETWEEN k AND k + 5;
		ELSE
			DELETE FROM hot WHERE id BETWEEN k AND k + 3;
	END CASE;
EXCEPTION WHEN unique_violation OR deadlock_detected THEN
	NULL;
END $$;
SQL
foreach my $name ('b', 'c')
{
	$g->add_cluster($name, conf => 'deadlock_timeout = 100ms');
	$g->join($name, 'a');
}

# Start pgbench on a node; its result and output are in the hash returned.
sub pgbench
{
	my ($name, @options) = @_;
	my %run = (name => $name, output => '');
	$run{handle} = IPC::Run::start(
		[ 'pgbench', '-n', @options, '-d', $g->node($name)->connstr('postgres') ],
		'<', \undef, '>', \$run{output}, '2>&1');
	return \%run;
}

# Insert rows one by one and note those acknowledged: psql prints a row when its commit is.
sub inserter
{
	my ($name) = @_;
	my %run = (name => $name, output => '');
	my $insert = "WITH x AS (INSERT INTO acked (node) VALUES ('$name') RETURNING id), "
	  . "y AS (INSERT INTO ledger SELECT id FROM x) SELECT id FROM x;\n";
	$run{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $g->node($name)->connstr('postgres') ],
		'<', \($insert x $acknowledged), '>', \$run{output}, '2>&1');
	return \%run;
}

# Wait for the end of what was started; the number of those that succeeded.
sub succeeded
{
	my $good = 0;
	foreach my $run (@_)
	{
		if ($run->{handle}->finish) { $good++ }
		else { diag("on $run->{name}: $run->{output}") }
	}
	return $good;
}

# Wait until all have all, and say how long that took.
sub settle
{
	my ($start, $what) = @_;
	my $written = time();
	$g->sync;
	Replp2p::figure(sprintf('%s: written in %.1f s, everywhere %.1f s later',
			$what, $written - $start, time() - $written));
}

subtest 'load on all nodes at once' => sub {
	my $start = time();
	my @benches = map { pgbench($_, '-c', $clients, '-t', $transactions, '--max-tries=100', "--random-seed=$seed") } $g->names;
	my @inserters = map { inserter($_) } $g->names;

	is(succeeded(@benches), 3, 'pgbench succeeds on each');
	is(succeeded(@inserters), 3, 'the inserting clients, too');
	settle($start, sprintf('%d TPC-B and %d acknowledged inserts on 3 nodes',
			3 * $clients * $transactions, 3 * $acknowledged));

	my $processed = sum(map { $_->{output} =~ /actually processed: (\d+)/ ? $1 : 0 } @benches);
	is($processed, 3 * $clients * $transactions, 'pgbench has processed all transactions');
	is($g->sql($_, 'SELECT count(*) FROM pgbench_history'), $processed, "as many in the history on $_")
	  foreach $g->names;
	$g->same("pgbench_$_") foreach qw(accounts tellers branches history);

	my $expected = join("\n", sort(split(/\n/, join('', map { $_->{output} } @inserters))));
	is(() = $expected =~ /^[0-9a-f-]{36}$/mg, 3 * $acknowledged, 'each insert was acknowledged by its id');
	foreach my $name ($g->names)
	{
		ok($g->sql($name, 'SELECT id FROM acked ORDER BY id::text COLLATE "C"') eq $expected,
			"what was acknowledged is on $name, and nothing else");
		ok($g->sql($name, 'SELECT id FROM ledger ORDER BY id::text COLLATE "C"') eq $expected,
			"exactly once, also without a key, on $name");
	}
	is($g->sql($_, "SELECT count(*) FROM replp2p.conflicts WHERE relation::text IN ('acked', 'ledger', 'pgbench_history')"),
		0, "nothing that was only inserted is a conflict on $_")
	  foreach $g->names;
};

subtest 'storm on 100 keys' => sub {
	my $script = $g->node('a')->basedir . '/storm.sql';
	append_to_file($script, <<'SQL');
\set op random(1, 100)
\set k random(1, 100)
\set l random(1, 100)
\set r random(1, 1000000000)
SELECT hot_step(:op, :k, :l, :r);
SQL
	my $start = time();
	my $n = 0;
	my @runs = map {
		pgbench($_, '-c', 3, '-t', $storm, '-f', $script, '--max-tries=100', '--random-seed=' . ($seed + ++$n))
	} $g->names;
	is(succeeded(@runs), 3, 'the storm is over');
	settle($start, sprintf('%d hot-key transactions on 3 nodes', 9 * $storm));
	$g->same('hot');
	my $conflicts = sum($g->sql_all("SELECT count(*) FROM replp2p.conflicts WHERE relation = 'hot'::regclass"));
	cmp_ok($conflicts, '>', 0, 'there were conflicts');
	Replp2p::figure("conflicts of the storm, on all nodes: $conflicts");
	is($g->sql($_, "SELECT coalesce(string_agg(origin || ': ' || last_error, '; '), '') FROM replp2p.stat_lag WHERE state = 'error'"),
		'', "no origin is stuck on $_")
	  foreach $g->names;
};

# The operations: SQL for row K on node N, what becomes of the row, and what it adds.
my %operations = (
	update => {
		sql => "UPDATE crossed SET v = 'N', other = 1 WHERE id = K",
		row => sub { "$_[1] 1 z20000" }
	},
	toast => {
		sql => "UPDATE crossed SET v = 'N', big = repeat('N', 9000) WHERE id = K",
		row => sub { "$_[1] 0 $_[1]9000" }
	},
	delete => {
		sql => "DELETE FROM crossed WHERE id = K",
		row => sub { undef }
	},
	again => {
		sql => "DELETE FROM crossed WHERE id = K; INSERT INTO crossed VALUES (K, 'N', 2, 'new')",
		row => sub { "$_[1] 2 n3" }
	},
	moved => {
		sql => "UPDATE crossed SET id = id + 1000000 * ascii('N'), v = 'N' WHERE id = K",
		row => sub { undef },
		added => sub { [ $_[0] + 1000000 * ord($_[1]), "$_[1] 0 z20000" ] }
	});

subtest 'three operations cross on one key' => sub {
	my @orders = ([qw(a b c)], [qw(a c b)], [qw(b a c)], [qw(b c a)], [qw(c a b)], [qw(c b a)]);
	my @kinds = sort keys %operations;
	my @steps = ({}, {}, {});	# by place in the order: node -> SQL
	my %expected;
	my %case;
	my $key = 0;

	foreach my $order (@orders)
	{
		foreach my $kind1 (@kinds)
		{
			foreach my $kind2 (@kinds)
			{
				foreach my $kind3 (@kinds)
				{
					my @row = ($kind1, $kind2, $kind3);
					$key++;
					$case{$key} = "@row by @$order";
					foreach my $i (0 .. 2)
					{
						my $op = $operations{ $row[$i] };
						my $sql = $op->{sql};
						$sql =~ s/\bK\b/$key/g;
						$sql =~ s/'N'/'$order->[$i]'/g;
						$steps[$i]{ $order->[$i] } .= "$sql;\n";
						if ($op->{added})
						{
							my ($id, $row) = @{ $op->{added}->($key, $order->[$i]) };
							$expected{$id} = $row;
						}
						my $stands = $op->{row}->($key, $order->[$i]);
						delete $expected{$key};
						$expected{$key} = $stands if defined $stands;
					}
				}
			}
		}
	}

	$g->sql('b', "INSERT INTO crossed SELECT i, 'start', 0, repeat('z', 20000) FROM generate_series(1, $key) i");
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	foreach my $step (@steps)
	{
		$g->sql($_, $step->{$_}) foreach sort keys %$step;
	}
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
	$g->same('crossed', "$key triples end the same on all nodes");

	my %found = split(/[|\n]/,
		$g->sql('c', "SELECT id, v || ' ' || other || ' ' || left(big, 1) || length(big) FROM crossed"));
	my @wrong = grep { ($found{$_} // 'none') ne ($expected{$_} // 'none') }
	  sort { $a <=> $b } keys %{ { %found, %expected } };
	is(scalar(@wrong), 0, 'the last operation stands')
	  or diag(map { "$_ (" . ($case{ $_ % 1000000 } // '?') . '): ' . ($found{$_} // 'none') . ' instead of '
			. ($expected{$_} // 'none') . "\n" } @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]);

	my @updated = grep { $case{$_} =~ /^update update update/ } keys %case;
	my $keys = join(',', @updated);
	is($g->sql($_, "SELECT count(*), count(DISTINCT key ->> 'id') FROM replp2p.conflicts
			WHERE relation = 'crossed'::regclass AND (key ->> 'id')::int IN ($keys)
				AND conflict_type = 'update_origin_differs'"),
		2 * @updated . '|' . @updated, "three updates of a key are two conflicts on $_")
	  foreach $g->names;
};

$g->stop;
done_testing();
