# The storm of 066 over tables that have a conflict handler or column merges besides several
# unique indexes: what a key's versions come to (for a custom function that may be
# values that nobody has written) is then judged against the other rows. Each time all nodes end with
# the same rows, the same displaced rows and the same siblings, each displaced row has one in the
# table in its way, and no origin stands still.
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
my %handlers = (
	kept => "SELECT replp2p.set_conflict_handler('kept', 'vector_clock')",
	made => "SELECT replp2p.set_conflict_handler('made', 'custom', 'make(made, made, replp2p.conflict)')",
	summed => "SELECT replp2p.set_column_merge('summed', 'n', 'counter')",
	highest => "SELECT replp2p.set_column_merge('highest', 'n', 'max')");
my @tables = sort keys %handlers;

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "deadlock_timeout = 100ms\n",
	schema => join('', map { Replp2p->unique_table($_) } @tables) . <<'SQL');
-- a value of the older row beside those of the newer, and sometimes no row
CREATE FUNCTION make(older made, newer made, conflict replp2p.conflict) RETURNS made LANGUAGE sql IMMUTABLE
RETURN CASE WHEN older IS NULL THEN newer
	WHEN newer IS NULL THEN CASE WHEN older.u % 2 = 0 THEN older END
	ELSE ROW(newer.id, older.u, newer.w, newer.x, newer.n)::made END;
-- One random step on the keys k and l; what clashes with what this node can see is undone.
CREATE FUNCTION step(t text, op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace(CASE
		WHEN op <= 30 THEN 'INSERT INTO %t VALUES ($1, $3 % 30, $3 % 37, ''x'' || $3 % 41)'
		WHEN op <= 45 THEN 'UPDATE %t SET u = $3 % 30 WHERE id = $1'
		WHEN op <= 55 THEN 'UPDATE %t SET w = $3 % 37, x = ''X'' || $3 % 41 WHERE id = $1'
		WHEN op <= 65 THEN 'DELETE FROM %t WHERE id = $1'
		WHEN op <= 70 THEN 'UPDATE %t SET n = -1 - n WHERE id = $1'
		WHEN op <= 78 THEN 'UPDATE %t SET id = $2, n = n + 1 WHERE id = $1'
		WHEN op <= 86 THEN 'INSERT INTO %t VALUES ($1, $3 % 30, NULL, NULL) ON CONFLICT (id) DO UPDATE SET u = $3 % 30, x = NULL'
		WHEN op <= 99 THEN 'UPDATE %t SET u = CASE WHEN id = $1 THEN $3 % 29 ELSE $3 % 28 END WHERE id IN ($1, $2)'
		ELSE 'DELETE FROM %t WHERE id BETWEEN $1 AND $1 + 10'
	END, '%t', t) USING k, l, r;
EXCEPTION WHEN unique_violation OR deadlock_detected THEN
	NULL;
END $$;
SQL
my @nodes = $g->names;
$g->sql('a', $handlers{$_}) foreach @tables;
$g->sync;
ok($g->eventually($_, "SELECT count(*) = " . @tables . " FROM replp2p.tables WHERE handler <> 'last_writer_wins' OR merges <> '{}'"),
	"handlers on $_") or diag($g->sql($_, 'TABLE replp2p.tables')) foreach @nodes;

# All that a node has of a table. (Versions are forgotten once stable, sooner on one node than on another: what a
# displaced row's was, and which of several in its way is the greatest, is not compared.)
sub state
{
	my ($name, $t) = @_;
	return $g->sql($name, <<"SQL");
SELECT coalesce(string_agg(t::text, ' ' ORDER BY id), 'no rows') FROM $t t;
SELECT coalesce(string_agg(row::text, ' ' ORDER BY key), 'none displaced')
	FROM replp2p.displaced WHERE relation = '$t'::regclass;
SQL
}

# All nodes end the same, and as they should.
sub settled
{
	my ($what) = @_;

	$g->sync;
	foreach my $t (@tables)
	{
		my $same = $g->wait_until(sub { my %states = map { state($_, $t) => 1 } @nodes; keys %states == 1 });
		ok($same, "$what, $t: the same rows stand, and the same are displaced, on all nodes")
			or diag(map { "$_: " . state($_, $t) . "\n" } @nodes);
		Replp2p::figure("$what, $t: stand, displaced: " . $g->sql('a',
			"SELECT (SELECT count(*) FROM $t) || ', ' || count(*) FROM replp2p.displaced WHERE relation = '$t'::regclass"));
		$g->displaced_right($t, $what);
	}
	$g->none_stands_still($what);
}

# One transaction, and a function that makes rows claiming one value of what it has deleted: they have one version, and one
# of them stands, the same on all nodes.
$g->sql('a', "INSERT INTO made SELECT i, 100 + i, i, i FROM generate_series(1, 9) i");
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('b', "UPDATE made SET u = 200 WHERE id = 1; UPDATE made SET u = 202 WHERE id = 5");
$g->sql('c', "UPDATE made SET u = 200 WHERE id = 2; UPDATE made SET u = 202 WHERE id = 4");
$g->sql('a', "BEGIN; DELETE FROM made WHERE id < 4; TRUNCATE made; COMMIT");
$g->sql_all('SELECT replp2p.resume_apply()');
settled('one transaction');
is($g->sql('a', "SELECT string_agg(id || ': ' || u, ', ' ORDER BY id) FROM made"), '2: 200, 5: 202', 'the row of the greater key stands');
$g->sql('a', "DELETE FROM made WHERE id IN (2, 5)");
settled('come back');
is($g->sql('c', "SELECT string_agg(id || ': ' || u, ', ' ORDER BY id) FROM made"), '1: 200, 4: 202', 'the other one came back');
$g->sql('b', "DELETE FROM made");

# The row that displaces another is stable and forgotten, a lower version of its key that did not see it is not:
# the row keeps its version. (b stands still, so that what c wrote cannot become stable.)
my $seq_of = "SELECT stored_seq FROM replp2p.stat_log WHERE origin = '%s'";
$g->sql('a', "INSERT INTO kept SELECT i, 100 + i, i, i FROM generate_series(1, 4) i");
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('c', "UPDATE kept SET n = 1 WHERE id = 1; INSERT INTO kept VALUES (5, 150, 5, 5), (6, 160, 6, 6)");
$g->sql('b', "UPDATE kept SET u = 150 WHERE id = 1; UPDATE kept SET u = 160 WHERE id = 2; SELECT replp2p.wait_for_token(replp2p.current_token())");
my $seq = $g->sql('b', sprintf($seq_of, 'b'));
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'a', 'c';
ok($g->eventually('a', "SELECT stable_seq >= $seq FROM replp2p.stat_log WHERE origin = 'b'"), 'what b wrote is stable');
is($g->sql('a', 'SELECT bool_and(stable_seq < stored_seq) FROM replp2p.stat_log WHERE origin = \'c\''), 't', 'what c wrote is not');
ok($g->eventually('a', "SELECT string_agg(key ->> 'id', ' ' ORDER BY key) = '5 6' FROM replp2p.displaced"), 'displaced by what b wrote');
my $apply = $g->pid('a', 'apply');
$g->sql('a', "SELECT pg_terminate_backend($apply, 60000)");
ok($g->eventually('a', "SELECT pid <> $apply FROM pg_stat_activity WHERE backend_type = 'replp2p apply'"), 'apply has started again');
$g->sql('a', 'DELETE FROM kept WHERE id = 2');
ok($g->eventually('a', 'SELECT EXISTS (SELECT FROM kept WHERE id = 6)'), 'displaced rows have been judged again');
is($g->sql('a', "SELECT string_agg(key ->> 'id', ' ') FROM replp2p.displaced"), '5', 'the other one stays displaced');
$g->sql('b', 'SELECT replp2p.resume_apply()');
settled('forgotten');
is($g->sql('c', "SELECT string_agg(id || ': ' || u, ', ' ORDER BY id) FROM kept"), '1: 150, 3: 103, 4: 104, 6: 160', 'the greater one stands');
$g->sql('b', 'DELETE FROM kept');

$g->unique_storms(
	steps => join('', map { "SELECT step('$_', :op, :k, :l, :r);\n" } @tables),
	times => $steps,
	seed => $seed,
	rounds => 2,
	settled => \&settled);

$g->stop;
done_testing();
