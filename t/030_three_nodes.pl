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

my @conf = (conf => 'deadlock_timeout = 100ms');
my $g = Replp2p->group(['a'], @conf);
$g->pgbench_tables('a');
$g->sql('a', Replp2p->storm_schema . <<'SQL');
CREATE TABLE acked (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), node text);
CREATE TABLE ledger (id uuid);
CREATE TABLE crossed (id int PRIMARY KEY, v text, other int, big text);
ALTER TABLE crossed ALTER big SET STORAGE EXTERNAL;
SQL
foreach my $name ('b', 'c')
{
	$g->add_cluster($name, @conf);
	$g->join($name, 'a');
}

# Insert rows one by one and note those acknowledged: psql prints a row when its commit is.
sub inserter
{
	my ($name) = @_;
	my $insert = "WITH x AS (INSERT INTO acked (node) VALUES ('$name') RETURNING id), "
	  . "y AS (INSERT INTO ledger SELECT id FROM x) SELECT id FROM x;\n";
	return $g->psql($name, $insert x $acknowledged);
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

subtest 'a pull that waits holds no snapshot' => sub {
	foreach my $name ($g->names)
	{
		ok($g->eventually($name, <<'SQL'), "two peers wait at $name, and hold back no vacuum");
SELECT count(*) = 2 AND bool_and(backend_xmin IS NULL) FROM pg_stat_activity
WHERE application_name LIKE 'replp2p %' AND backend_type = 'client backend' AND state = 'active'
SQL
	}
};

subtest 'load on all nodes at once' => sub {
	my $start = time();
	my @benches = map { $g->pgbench($_, '-c', $clients, '-t', $transactions, "--random-seed=$seed") } $g->names;
	my @inserters = map { inserter($_) } $g->names;

	is($g->succeeded(@benches), 3, 'pgbench succeeds on each');
	is($g->succeeded(@inserters), 3, 'the inserting clients, too');
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
	my $script = Replp2p->storm_script;
	my $n = 0;

	# with the changes coming in from the first moment; then only after a part of the storm
	# (about half of the steps find something to change)
	foreach my $blind (0, 1)
	{
		my $how = $blind ? 'blind at first' : 'seeing';
		my $part = $g->sql('a', 'SELECT seq FROM replp2p.stat_capture') + $storm / 4;
		my $start = time();

		$g->sql_all('SELECT replp2p.pause_apply(); DELETE FROM replp2p.conflict_history') if $blind;
		my @runs = map {
			$g->pgbench($_, '-c', 3, '-t', $storm, '-f', $script, '--random-seed=' . ($seed + ++$n))
		} $g->names;
		if ($blind)
		{
			ok($g->eventually('a', "SELECT seq >= $part FROM replp2p.stat_capture"), 'the storm is on');
			$g->sql_all('SELECT replp2p.resume_apply()');
		}
		is($g->succeeded(@runs), 3, "the storm is over, $how");
		settle($start, sprintf('%d hot-key transactions on 3 nodes, %s', 9 * $storm, $how));
		$g->same('hot', "hot is the same on all nodes, $how");
		my $conflicts = sum($g->sql_all("SELECT count(*) FROM replp2p.conflicts WHERE relation = 'hot'::regclass"));
		cmp_ok($conflicts, '>', 0, 'there were conflicts') if $blind;
		Replp2p::figure("conflicts of the storm, $how, on all nodes: $conflicts");
	}
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
