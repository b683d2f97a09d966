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

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "deadlock_timeout = 100ms\n",
	schema => Replp2p->unique_table('s') . <<'SQL');
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
	$g->displaced_right('s', $what);
	$g->none_stands_still($what);
	return if $same;
	diag("$_: " . $g->sql($_, "SELECT s FROM s ORDER BY id") . "\n" .
		$g->sql($_, "SELECT row, origin, seq, stamp, displaced_by FROM replp2p.displaced ORDER BY key")) foreach @nodes;
}

$g->unique_storms(
	steps => "SELECT step(:op, :k, :l, :r);\n",
	times => $steps,
	seed => $seed,
	rounds => 3,
	settled => \&settled);

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
