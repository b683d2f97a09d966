# A storm over a table with three unique indexes, on three nodes at once: few
# values, so that many transactions clash with one that they did not see: at once,
# then without applying anything meanwhile, then with one node stopped hard and
# started again. Each time all nodes end with the same rows and the same displaced
# rows, each displaced one has a row in the table in its way, and no origin
# stands still.
#
# RP_SEED repeats the choices of each client, RP_STORM their number.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $seed = $ENV{RP_SEED} // int(rand(2**31));
Replp2p::seed($seed);
my $steps = $ENV{RP_STORM} // 150;
my $clients = 2;

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "deadlock_timeout = 100ms\n", schema => <<'SQL');
CREATE TABLE s (id int PRIMARY KEY, u int UNIQUE, w int, x text, n int NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX s_w ON s (w) WHERE n >= 0;
CREATE UNIQUE INDEX s_x ON s (lower(x)) NULLS NOT DISTINCT;
-- One random step on the keys k and l; what clashes with what this node can see is undone.
CREATE FUNCTION step(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 30 THEN INSERT INTO s VALUES (k, r % 30, r % 37, 'x' || r % 41);
		WHEN op <= 45 THEN UPDATE s SET u = r % 30 WHERE id = k;
		WHEN op <= 55 THEN UPDATE s SET w = r % 37, x = 'X' || r % 41 WHERE id = k;
		WHEN op <= 65 THEN DELETE FROM s WHERE id = k;
		WHEN op <= 70 THEN UPDATE s SET n = -1 - n WHERE id = k;
		WHEN op <= 78 THEN UPDATE s SET id = l, n = n + 1 WHERE id = k;
		WHEN op <= 86 THEN INSERT INTO s VALUES (k, r % 30, NULL, NULL)
			ON CONFLICT (id) DO UPDATE SET u = r % 30, x = NULL;
		WHEN op <= 92 THEN
			UPDATE s SET u = NULL WHERE id = k;
			UPDATE s SET u = r % 30 WHERE id = l;
			UPDATE s SET u = r % 29 WHERE id = k;
		WHEN op <= 99 THEN
			DELETE FROM s WHERE id = k;
			INSERT INTO s VALUES (l, r % 30, r % 37, 'x' || r % 41);
		ELSE
			DELETE FROM s WHERE id BETWEEN k AND k + 10;
	END CASE;
EXCEPTION WHEN unique_violation OR deadlock_detected THEN
	NULL;
END $$;
SQL
my @nodes = $g->names;

# A client's script, its choices made of the seed.
my $script = "$PostgreSQL::Test::Utils::tmp_check/unique_storm.sql";
append_to_file($script, <<'SQL');
\set op random(1, 100)
\set k random(1, 60)
\set l random(1, 60)
\set r random(1, 1000000)
SELECT step(:op, :k, :l, :r);
SQL

my $n = 0;
sub storm
{
	return map {
		$g->pgbench($_, '-f', $script, '-c', $clients, '-t', $steps, '--random-seed', $seed + $n++)
	} @_;
}

# All nodes at once, not seeing one another; then all cross.
sub storm_apart
{
	$g->sql_all("SELECT replp2p.pause_apply()");
	my $good = $g->succeeded(storm(@nodes));
	$g->sql_all("SELECT replp2p.resume_apply()");
	return $good;
}

my $content = "SELECT md5(coalesce(string_agg(s::text, ',' ORDER BY id), '')) FROM s";
my $displaced = "SELECT md5(coalesce(string_agg(concat_ws(',', key, row, origin, seq, stamp, displaced_by), ';' ORDER BY key), '')) FROM replp2p.displaced";

# All nodes end the same, and as they should.
sub settled
{
	my ($what) = @_;

	$g->sync;
	my $same = $g->wait_until(sub {
			my %states = map { $g->sql($_, $content) . $g->sql($_, $displaced) => 1 } @nodes;
			return keys %states == 1;
		});
	ok($same, "$what: the same rows stand, and the same are displaced, on all nodes");
	Replp2p::figure("$what: stand, displaced: " . $g->sql('a', "SELECT (SELECT count(*) FROM s) || ', ' || count(*) FROM replp2p.displaced"));
	foreach my $name (@nodes)
	{
		is($g->sql($name, <<'SQL'), '', "every displaced row has one in its way on $name");
SELECT string_agg(d.key ->> 'id', ',') FROM replp2p.displaced d, jsonb_populate_record(NULL::s, d.row) r
WHERE NOT EXISTS (SELECT FROM s WHERE s.u = r.u OR (s.w = r.w AND s.n >= 0 AND r.n >= 0)
	OR lower(s.x) IS NOT DISTINCT FROM lower(r.x))
SQL
		is($g->sql($name, "SELECT string_agg(origin || ': ' || last_error, ' ') FROM replp2p.stat_lag WHERE state = 'error'"),
			'', "no origin stands still on $name");
		is($g->sql($name, "SELECT count(*) FROM s JOIN replp2p.displaced d ON (d.key ->> 'id')::int = s.id"),
			0, "no row is in both places on $name");
	}
	return if $same;
	diag("$_: " . $g->sql($_, "SELECT s FROM s ORDER BY id") . "\n" .
		$g->sql($_, "SELECT row, origin, seq, stamp, displaced_by FROM replp2p.displaced ORDER BY key")) foreach @nodes;
}

is($g->succeeded(storm(@nodes)), 3, 'all three nodes at once');
settled('at once');
foreach my $round (1 .. 3)
{
	is(storm_apart(), 3, 'none seeing another');
	settled("apart, round $round");
}
my @others = storm('a', 'b');
$g->node('c')->stop('immediate');
$g->node('c')->start;
$g->up('c');
is($g->succeeded(@others, storm('c')), 3, 'one is stopped hard and started again');
settled('after a crash');

# It empties as it came: rows come back until none is left.
my $rounds = 0;
while ($g->sql('b', "SELECT count(*) FROM s") > 0 && $rounds++ < 50)
{
	$g->sql('b', 'DELETE FROM s');
	$g->sync;
	$g->eventually('b', "SELECT (SELECT count(*) FROM replp2p.displaced) = 0 OR EXISTS (SELECT FROM s)");
}
$g->sync;
foreach my $name (@nodes)
{
	$g->eventually($name, "SELECT NOT EXISTS (SELECT FROM s) AND NOT EXISTS (SELECT FROM replp2p.displaced)");
	is($g->sql($name, "SELECT (SELECT count(*) FROM s) + (SELECT count(*) FROM replp2p.displaced)"), 0,
		"all rows were there to be deleted on $name");
}

$g->stop;
done_testing();
