# Column merges. A counter adds what each side added: concurrent increments on every
# node are all there, also those of versions that lost; against deletes and
# re-inserts it does what is documented: what is older than the greatest delete vanishes,
# concurrent inserts add up, a row that survives a delete restarts from its newer
# increments. max and min take the greatest and least of the concurrent versions.
#
# Known cases first, each written on nodes that do not see one another, in both
# orders; then load on all nodes at once whose sum is known, restarts in the middle
# of it, a node that joins; then a storm of everything, which has to end the same everywhere.
#
# RP_SEED repeats the storm's choices.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $seed = $ENV{RP_SEED} // int(rand(2**31));
Replp2p::seed($seed);
my $transactions = $ENV{RP_TRANSACTIONS} // 200;

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "deadlock_timeout = 100ms\n", schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, m numeric NOT NULL DEFAULT 0,
	high int NOT NULL DEFAULT 0, low numeric NOT NULL DEFAULT 99, v text);
CREATE FUNCTION step(op int, k int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 55 THEN UPDATE t SET n = n + 1, high = greatest(high, r) WHERE id = k;
		WHEN op <= 65 THEN UPDATE t SET m = m - r / 10.0, v = 'u' || r WHERE id = k;
		WHEN op <= 72 THEN UPDATE t SET n = 0 WHERE id = k;
		WHEN op <= 80 THEN DELETE FROM t WHERE id = k;
		WHEN op <= 90 THEN INSERT INTO t VALUES (k, r, r, r, r, 'i' || r)
			ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n, low = excluded.low;
		WHEN op <= 95 THEN
			DELETE FROM t WHERE id = k;
			INSERT INTO t VALUES (k, 1, 1, r, r, 'r' || r);
			UPDATE t SET n = n + 2 WHERE id = k;
		ELSE UPDATE t SET id = k + 1, n = n + 10 WHERE id = k AND NOT EXISTS (SELECT FROM t WHERE id = k + 1);
	END CASE;
EXCEPTION WHEN unique_violation OR deadlock_detected THEN
	NULL;
END $$;
SQL
$g->sql('a', <<'SQL');
SELECT replp2p.set_column_merge('t', 'n', 'counter');
SELECT replp2p.set_column_merge('t', 'm', 'counter');
SELECT replp2p.set_column_merge('t', 'high', 'max');
SELECT replp2p.set_column_merge('t', 'low', 'min');
SQL
$g->sync;

my $id = 0;

sub start
{
	my ($n) = @_;
	$id++;
	$g->sql('a', "INSERT INTO t VALUES ($id, " . ($n // 10) . ", 0, 5, 50, 'start')");
	$g->sync;
}

# Each [node, SQL] in turn, none seeing another; ID stands for the row.
sub cross
{
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply(); DELETE FROM replp2p.conflict_history');
	foreach (@_)
	{
		my ($name, $sql) = @$_;
		$sql =~ s/\bID\b/$id/g;
		$g->sql($name, $sql);
	}
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
}

# The row is this on all nodes.
sub row_is
{
	my ($columns, $expected, $what) = @_;
	my @rows = map { $g->sql($_, "SELECT $columns FROM t WHERE id = $id") } $g->names;
	is("@rows", join(' ', ($expected) x @rows), $what);
	return;
}

my $add = sub { [ $_[0], "UPDATE t SET n = n + $_[1] WHERE id = ID" ] };
my $delete = sub { [ $_[0], 'DELETE FROM t WHERE id = ID' ] };
my $insert = sub { [ $_[0], "INSERT INTO t (id, n) VALUES (ID, $_[1])" ] };

foreach my $order ([qw(a b c)], [qw(c b a)])
{
	my ($x, $y, $z) = @$order;

	start();
	cross($add->($x, 1), $add->($y, 20), $add->($z, 300));
	row_is('n', 331, "increments on $x, $y, $z are all there");
	is($g->sql($x, "SELECT string_agg(DISTINCT resolution, ','), max((applied_row ->> 'n')::int) FROM replp2p.conflicts"),
		'merged|331', 'the history says what they were made to');

	start();
	cross([ $x, 'UPDATE t SET n = n + 1, m = m + 0.50 WHERE id = ID' ], [ $y, 'UPDATE t SET m = m - 3.25 WHERE id = ID' ],
		[ $z, "UPDATE t SET v = 'last' WHERE id = ID" ]);
	row_is('n, m, v', '11|-2.75|last', 'also those of versions that lose');

	start();
	cross([ $x, 'UPDATE t SET n = 0 WHERE id = ID' ], $add->($y, 5));
	row_is('n', 5, 'an assignment is an increment by the difference');

	start();
	cross([ $x, 'UPDATE t SET n = n + 1 WHERE id = ID; UPDATE t SET n = n + 1 WHERE id = ID' ],
		[ $y, 'BEGIN; UPDATE t SET n = n + 10 WHERE id = ID; UPDATE t SET n = n + 10 WHERE id = ID; COMMIT' ]);
	row_is('n', 32, 'several of one node, and of one transaction');

	start();
	cross($add->($x, 5), $delete->($y));
	row_is('n', '', 'increments older than a delete vanish');
	cross($insert->($z, 7));
	row_is('n', 7, 'and do not come back');

	start();
	cross($delete->($x), $add->($y, 5), $add->($z, 6));
	row_is('n', 11, 'a row that survives a delete restarts from its newer increments');

	start();
	cross($add->($x, 5), $delete->($y), $add->($z, 6));
	row_is('n', 6, 'and has lost the older ones');

	$id++;
	cross($insert->($x, 3), $insert->($y, 4), $insert->($z, 5));
	row_is('n', 12, 'concurrent inserts add up');

	start();
	cross([ $x, 'DELETE FROM t WHERE id = ID; INSERT INTO t (id, n) VALUES (ID, 2)' ], $add->($y, 5));
	row_is('n', 7, 'a re-insert, and an increment that is later');
	start();
	cross($add->($x, 5), [ $y, 'BEGIN; DELETE FROM t WHERE id = ID; INSERT INTO t (id, n) VALUES (ID, 2); COMMIT' ]);
	row_is('n', 2, 'a re-insert, and an increment that is earlier');

	start();
	cross([ $x, 'UPDATE t SET id = id + 100000, n = n + 1 WHERE id = ID' ], $add->($y, 5));
	row_is('n', 5, 'a key update is a delete of the old key');
	is($g->sql($_, "SELECT n FROM t WHERE id = $id + 100000"), 11, "and an insert of the new one, on $_") foreach $g->names;

	start();
	cross([ $x, 'TRUNCATE t' ], $add->($y, 5));
	row_is('n', 5, 'a TRUNCATE is a delete of each row');
	$g->same('t');

	start();
	cross([ $x, "UPDATE t SET high = 40, low = 40 WHERE id = ID" ], [ $y, "UPDATE t SET high = 50, low = 60 WHERE id = ID" ],
		[ $z, "UPDATE t SET high = 45, low = 41.5, v = 'last' WHERE id = ID" ]);
	row_is('high, low, v', '50|40|last', 'the greatest and the least value');
	cross([ $y, "UPDATE t SET high = 1, low = 70 WHERE id = ID" ]);
	row_is('high, low', '1|70', 'who has seen them may set what he likes');
	cross([ $x, "UPDATE t SET low = 71 WHERE id = ID" ], [ $y, "UPDATE t SET high = 0 WHERE id = ID" ], $delete->($z));
	row_is('high, low', '', 'a delete that is later stands');
	start();
	cross($delete->($x), [ $y, "UPDATE t SET high = 6 WHERE id = ID" ], [ $z, "UPDATE t SET high = 3 WHERE id = ID" ]);
	row_is('high', 6, 'one that is earlier takes no part');
}
$g->same('t', 'the same on all nodes');

# Increment one row of them at random on all nodes at once, for the sum is known.
sub increments
{
	my ($clients, @names) = @_;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/increment.sql";
	PostgreSQL::Test::Utils::append_to_file($script,
		"\\set k random(900001, 900003)\nUPDATE t SET n = n + 1 WHERE id = :k;\n")
	  unless -e $script;
	return map { $g->pgbench($_, '-c', $clients, '-t', $transactions, '-f', $script, "--random-seed=$seed") } @names;
}

subtest 'concurrent increments on every node are all there' => sub {
	$g->sql('a', 'INSERT INTO t (id) VALUES (900001), (900002), (900003)');
	$g->sync;
	my $sum = 0;

	is($g->succeeded(increments(2, $g->names)), 3, 'load on three nodes');
	$sum += 3 * 2 * $transactions;
	$g->sync;
	is($g->sql($_, 'SELECT sum(n) FROM t WHERE id > 900000'), $sum, "nothing is lost or counted twice on $_")
	  foreach $g->names;

	# blind, and with stops in the middle
	$g->sql_all('SELECT replp2p.pause_apply()');
	is($g->succeeded(increments(2, $g->names)), 3, 'load on three nodes that do not see one another');
	$sum += 3 * 2 * $transactions;
	$g->sql_all('SELECT replp2p.resume_apply()');
	my @runs = increments(1, 'a', 'c');
	$sum += 2 * $transactions;
	$g->node('b')->restart('immediate');
	$g->up('b');
	my $pid = $g->pid('a', 'apply');
	$g->sql('a', "SELECT pg_terminate_backend($pid)");
	is($g->succeeded(@runs), 2, 'load while b crashes');
	$g->sync;
	is($g->sql($_, 'SELECT sum(n) FROM t WHERE id > 900000'), $sum, "nothing is lost or counted twice on $_")
	  foreach $g->names;

	# a joiner
	@runs = increments(1, 'a', 'b');
	$sum += 2 * $transactions;
	$g->add_cluster('d', conf => "deadlock_timeout = 100ms\n");
	$g->join('d', 'c');
	is($g->succeeded(@runs), 2, 'load while d joins');
	is($g->succeeded(increments(1, 'd', 'c')), 2, 'load on d');
	$sum += 2 * $transactions;
	$g->sync;
	is($g->sql($_, 'SELECT sum(n) FROM t WHERE id > 900000'), $sum, "nothing is lost or counted twice on $_")
	  foreach $g->names;
	$g->same('t');
};

subtest 'a storm of everything' => sub {
	my $script = "$PostgreSQL::Test::Utils::tmp_check/step.sql";
	PostgreSQL::Test::Utils::append_to_file($script,
		"\\set op random(1, 100)\n\\set k random(1, 20)\n\\set r random(1, 1000)\nSELECT step(:op, :k, :r);\n");

	foreach my $blind (0, 1)
	{
		my $n = $blind * 10;
		$g->sql_all('SELECT replp2p.pause_apply()') if $blind;
		my @runs = map {
			$g->pgbench($_, '-c', 2, '-t', $transactions, '-f', $script, '--random-seed=' . ($seed + ++$n))
		} $g->names;
		is($g->succeeded(@runs), 4, 'the storm is over, ' . ($blind ? 'blind' : 'seeing'));
		$g->sql_all('SELECT replp2p.resume_apply()') if $blind;
		$g->sync;
		$g->same('t', 'the same everywhere, ' . ($blind ? 'blind' : 'seeing'));
	}
	is($g->sql($_, "SELECT coalesce(string_agg(origin || ': ' || last_error, '; '), '') FROM replp2p.stat_lag WHERE state = 'error'"),
		'', "no origin is stuck on $_")
	  foreach $g->names;
};

subtest 'what does not fit waits' => sub {
	start(2000000000);
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', "UPDATE t SET n = n + 100000000 WHERE id = $id");
	$g->sql('b', "UPDATE t SET n = n + 100000000 WHERE id = $id");
	$g->sql_all('SELECT replp2p.resume_apply()');
	ok($g->eventually('a', "SELECT state = 'error' AND last_error ~ 'out of range' FROM replp2p.stat_lag WHERE origin = 'b'"),
		'a sum that does not fit is an error');
	$g->sql($_, "UPDATE t SET n = n - 1000 - 100000000 WHERE id = $id") foreach ('a', 'b');
	$g->sync;
	$g->same('t', 'applying goes on once it fits');
	row_is('n', 1999998000, 'with the right sum');
};

$g->stop;
done_testing();
