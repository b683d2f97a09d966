# Second unique keys on three nodes: of rows that claim one value the greatest
# version keeps its place, on every node and for every order of arrival; the
# others are displaced, and come back with their exact version when what
# displaced them goes.
#
# Cases write on nodes that don't see one another, as applying is paused; then
# the changes cross. A row may come back a moment after a change has been
# applied, so the end of a case is waited for: all nodes the same, table and
# view displaced, and as expected.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, w int UNIQUE, v text);
CREATE TABLE odd (id int PRIMARY KEY, part int, on_part boolean, word text, maybe int, twice int,
	doubled int GENERATED ALWAYS AS (twice * 2) STORED UNIQUE, big text);
CREATE UNIQUE INDEX odd_part ON odd (part) WHERE on_part;
CREATE UNIQUE INDEX odd_word ON odd (lower(word));
CREATE UNIQUE INDEX odd_maybe ON odd (maybe) NULLS NOT DISTINCT;
CREATE TABLE tick (n int);
CREATE TABLE deferred (id int PRIMARY KEY, u int UNIQUE DEFERRABLE);
SQL
my @nodes = $g->names;

# What stands in a table, what is displaced in it.
my $rows = "SELECT coalesce(string_agg(id || '' || v, ' ' ORDER BY id), '') FROM t";
my $displaced = "SELECT coalesce(string_agg((key ->> 'id') || (\"row\" ->> 'v') || '<' || (displaced_by ->> 'id'), ' '
	ORDER BY key), '') FROM replp2p.displaced WHERE relation = 't'::regclass";

# Wait until every node has this in table t, and this displaced.
sub ends
{
	my ($what, $stands, $out) = @_;
	my $state = sub { $g->sql($_[0], $rows) . ' | ' . $g->sql($_[0], $displaced) };

	$g->sync;
	my $good = $g->wait_until(sub { !grep { $state->($_) ne "$stands | $out" } $g->names });
	ok($good, $what) or diag(map { "$_: " . $state->($_) . "\n" } $g->names);
	return;
}

# Run pieces of SQL, each on its node, without their seeing one another; then have them cross.
sub cross
{
	my (@pieces) = @_;
	$g->sql_all("SELECT replp2p.pause_apply()");
	while (my ($name, $sql) = splice(@pieces, 0, 2)) { $g->sql($name, $sql) }
	$g->sql_all("SELECT replp2p.resume_apply()");
	return;
}

# Empty the table; that removes displaced rows, too.
sub afresh
{
	$g->sync;
	$g->sql('a', "TRUNCATE t");
	$g->sync;
	$g->sql_all("DELETE FROM replp2p.conflict_history");
	return;
}

# Two rows that clash, in every order.
foreach my $pair ([ 'a', 'b' ], [ 'b', 'a' ], [ 'b', 'c' ], [ 'c', 'a' ])
{
	my ($x, $y) = @$pair;

	cross($x, "INSERT INTO t VALUES (1, 10, 1, 'x')", $y, "INSERT INTO t VALUES (2, 10, 2, 'y')");
	ends("insert on $x, then on $y", '2y', '1x<2');
	foreach my $name (@nodes)
	{
		is($g->sql($name, "SELECT string_agg(conflict_type || ' ' || resolution || ' ' || (key ->> 'id'), ',') FROM replp2p.conflicts"),
			'insert_exists displaced 1', "one row of history on $name");
	}
	$g->sql($y, "DELETE FROM t WHERE id = 2");
	ends('the displacing row is deleted', '1x', '');
	$g->sql($x, "INSERT INTO t VALUES (2, 20, 2, 'y')");
	$g->sync;
	cross($x, "UPDATE t SET u = 99, v = 'x' WHERE id = 1", $y, "UPDATE t SET u = 99, v = 'y' WHERE id = 2");
	ends("update on $x, then on $y", '2y', '1x<2');
	$g->sql($x, "UPDATE t SET u = 98, v = 'z' WHERE id = 2");
	ends('the displacing row gives up the value', '1x 2z', '');
	afresh();
}

# Three, in every order; and both keys at once.
foreach my $order ([ 'a', 'b', 'c' ], [ 'c', 'b', 'a' ], [ 'b', 'c', 'a' ])
{
	my ($x, $y, $z) = @$order;

	cross($x, "INSERT INTO t VALUES (1, 10, 1, 'x')", $y, "INSERT INTO t VALUES (2, 20, 2, 'y')",
		$z, "INSERT INTO t VALUES (3, 10, 2, 'z')");
	ends("one displaces two, @$order", '3z', '1x<3 2y<3');
	$g->sql($x, "DELETE FROM t WHERE id = 3");
	ends('and both come back', '1x 2y', '');
	afresh();

	cross($x, "INSERT INTO t VALUES (3, 30, 1, 'x')", $y, "INSERT INTO t VALUES (2, 20, 1, 'y')",
		$z, "INSERT INTO t VALUES (1, 20, 5, 'z')");
	ends("who is displaced displaces nobody, @$order", '1z 3x', '2y<1');
	$g->sql($y, "DELETE FROM t WHERE id = 1");
	ends('who comes back displaces a row that stood', '2y', '3x<2');
	afresh();
}

# A displaced row is a row: its key can be written, deleted, truncated.
cross('a', "INSERT INTO t VALUES (1, 10, 1, 'x')", 'b', "INSERT INTO t VALUES (2, 10, 2, 'y')");
ends('displaced', '2y', '1x<2');
$g->sql('c', "INSERT INTO t VALUES (1, 11, 1, 'anew')");
ends('its key is inserted anew with another value', '1anew 2y', '');
$g->sql('b', "DELETE FROM t WHERE id = 2");
ends('the older version does not come back', '1anew', '');
afresh();
$g->sql('a', "INSERT INTO t VALUES (1, 1, 1, 'x'), (2, 2, 2, 'y')");
$g->sync;
cross('a', "UPDATE t SET u = 7 WHERE id = 1", 'b', "UPDATE t SET u = 7 WHERE id = 2", 'c', "DELETE FROM t WHERE id = 1");
ends('a displaced row is deleted by who still saw it', '2y', '');
$g->sql('a', "DELETE FROM t WHERE id = 2");
ends('and stays away', '', '');
$g->sql('a', "INSERT INTO t VALUES (1, 1, 1, 'x'), (2, 2, 2, 'y')");
$g->sync;
cross('a', "UPDATE t SET u = 7 WHERE id = 1", 'b', "UPDATE t SET u = 7 WHERE id = 2", 'c', "UPDATE t SET v = 'mine' WHERE id = 1");
ends('a displaced row is overwritten by who still saw it', '1mine 2y', '');
cross('a', "UPDATE t SET u = 70 WHERE id = 1", 'b', "UPDATE t SET u = 70 WHERE id = 2");
ends('displaced again', '2y', '1mine<2');
$g->sql('c', "TRUNCATE t");
ends('truncated', '', '');
$g->sql('a', "INSERT INTO t VALUES (1, 1, 1, 'x'), (2, 2, 2, 'y')");
$g->sync;
cross('a', "UPDATE t SET u = 7 WHERE id = 1", 'b', "UPDATE t SET u = 7 WHERE id = 2", 'c', "UPDATE t SET id = 3 WHERE id = 1");
ends('its key is changed by who still saw it', '2y 3x', '');
afresh();

# It comes back with its exact version: an older write that arrives later loses to it, on the node that
# wrote the row as well as on another; and it is not sent again.
$g->sql('a', "INSERT INTO t VALUES (2, 2, 2, 'start')");
$g->sync;
$g->sql_all("SELECT replp2p.pause_apply()");
$g->sql('c', "UPDATE t SET v = 'older' WHERE id = 2");
$g->sql('b', "UPDATE t SET v = 'newer', u = 77 WHERE id = 2");
$g->sql('a', "INSERT INTO t VALUES (9, 77, 9, 'displaces')");
$g->sql($_, "SELECT replp2p.resume_apply(o) FROM unnest('{a,b}'::name[]) o WHERE o <> '$_'") foreach ('a', 'b');
foreach my $name ('a', 'b')
{
	$g->eventually($name, $displaced, '2newer<9');
}
my $version = "SELECT origin, seq, stamp FROM replp2p.displaced";
my $seq = $g->sql('b', "SELECT replp2p.current_token()");
is($g->sql('a', $version), $g->sql('b', $version), 'the version is the same on both');
$g->sql('a', "DELETE FROM t WHERE id = 9");
$g->eventually($_, $rows, '2newer') foreach ('a', 'b');
$g->sql_all("SELECT replp2p.resume_apply()");
ends('an older write loses to a row that came back', '2newer', '');
afresh();

# Partial, expression and generated keys, nulls, TOAST values, columns that are added meanwhile.
sub odd_ends
{
	my ($what, $stands, $out) = @_;
	my $state = sub {
		$g->sql($_[0], "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM odd") . ' | ' .
		  $g->sql($_[0], "SELECT coalesce(string_agg((key ->> 'id'), ' ' ORDER BY key), '') FROM replp2p.displaced WHERE relation = 'odd'::regclass");
	};
	$g->sync;
	ok($g->wait_until(sub { !grep { $state->($_) ne "$stands | $out" } $g->names }), $what)
	  or diag(map { "$_: " . $state->($_) . "\n" } $g->names);
	return;
}
cross('a', "INSERT INTO odd VALUES (1, 5, false, 'one', 1, 1)", 'b', "INSERT INTO odd VALUES (2, 5, false, 'two', 2, 2)");
odd_ends('a partial index says nothing of rows outside of it', '1 2', '');
cross('a', "UPDATE odd SET on_part = true WHERE id = 1", 'b', "UPDATE odd SET on_part = true WHERE id = 2");
odd_ends('two rows that enter a partial index', '2', '1');
$g->sql('c', "UPDATE odd SET on_part = false WHERE id = 2");
odd_ends('one leaves it', '1 2', '');
cross('a', "INSERT INTO odd VALUES (3, 30, true, 'Word', 3, 3)", 'b', "INSERT INTO odd VALUES (4, 40, true, 'wORD', 4, 4)");
odd_ends('an expression', '1 2 4', '3');
cross('a', "INSERT INTO odd VALUES (5, NULL, true, NULL, 5, NULL)", 'b', "INSERT INTO odd VALUES (6, NULL, true, NULL, 6, NULL)");
odd_ends('nulls are distinct', '1 2 4 5 6', '3');
cross('a', "INSERT INTO odd VALUES (7, 70, true, 'seven', NULL, 7)", 'b', "INSERT INTO odd VALUES (8, 80, true, 'eight', NULL, 8)");
odd_ends('but where the index says otherwise', '1 2 4 5 6 8', '3 7');
cross('a', "INSERT INTO odd VALUES (10, 100, true, 'ten', 10, 50)", 'b', "INSERT INTO odd VALUES (11, 110, true, 'eleven', 11, 50)");
odd_ends('a generated column', '1 2 4 5 6 8 11', '3 7 10');
cross('a', "INSERT INTO odd (id, maybe, big) VALUES (12, 12, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i))",
	'b', "INSERT INTO odd (id, maybe) VALUES (13, 12)");
odd_ends('a large value', '1 2 4 5 6 8 11 13', '3 7 10 12');
$g->sql_all("ALTER TABLE odd ADD added text DEFAULT 'filled'; ALTER TABLE odd DROP COLUMN part");

# Restart in between.
foreach my $name (@nodes)
{
	$g->node($name)->restart;
	$g->up($name);
}
$g->sql('b', "DELETE FROM odd WHERE id IN (4, 8, 11, 13)");
odd_ends('all come back after a restart', '1 2 3 5 6 7 10 12', '');
$g->same('odd');
is($g->sql('c', "SELECT added || length(big) FROM odd WHERE id = 12"), 'filled64000',
	'with a column that was added while they were away');

# A deferrable constraint stops the origin with an error, and nothing else.
cross('a', "INSERT INTO deferred VALUES (1, 1)", 'b', "INSERT INTO deferred VALUES (2, 1)");
$g->eventually('a', "SELECT last_error LIKE '%deferrable constraint%' FROM replp2p.stat_lag WHERE origin = 'b'");
$g->sql('a', "DELETE FROM deferred");
$g->sql('b', "DELETE FROM deferred");
$g->sync;

# Versions that everybody has forgotten as stable: rows are still compared by them.
cross('a', "INSERT INTO t VALUES (1, 10, 1, 'x')", 'b', "INSERT INTO t VALUES (2, 10, 2, 'y')");
ends('displaced for long', '2y', '1x<2');
my %folder = map { $_ => glob $g->node($_)->data_dir . '/replp2p/*/versions' } @nodes;
my $oldest = sub { (sort grep { /^[0-9a-f]{16}$/ } slurp_dir($folder{ $_[0] }))[0] // 'f' };
my %before = map { $_ => $oldest->($_) } @nodes;
$g->sql($_, "CREATE TEMP TABLE burn (); DO \$\$ BEGIN FOR i IN 1 .. 70000 LOOP BEGIN INSERT INTO burn DEFAULT VALUES; EXCEPTION WHEN division_by_zero THEN END; END LOOP; END \$\$") foreach @nodes;
foreach my $name (@nodes)
{
	ok($g->wait_until(sub {
			$g->sql('a', 'INSERT INTO tick VALUES (1)');
			return $oldest->($name) gt $before{$name};
		}), "$name has forgotten the versions")
	  or diag($g->sql($name, 'SELECT * FROM replp2p.stat_log'));
}
$g->sql('c', "INSERT INTO t VALUES (3, 3, 3, 'w')");
ends('they stay as they are', '2y 3w', '1x<2');

# A joiner has them, too.
$g->add_cluster('d');
$g->join('d', 'c');
ends('on a joiner, too', '2y 3w', '1x<2');
$g->sql('d', "DELETE FROM t WHERE id = 2");
ends('where they come back as elsewhere', '1x 3w', '');

$g->stop;
done_testing();
