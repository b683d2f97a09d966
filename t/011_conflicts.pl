# Conflicts of every pair of operations, in both orders of arrival: both nodes
# end the same, the greater version stands, the loser is in the history; what
# saw its predecessor is no conflict.
#
# Each case writes on both nodes while applying is paused on both, then lets
# the changes cross.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE emptied (id int PRIMARY KEY, v text);
SQL

my $id = 0;

# Write first's and then second's SQL without their seeing one another; then cross.
sub cross
{
	my ($first, $sql1, $second, $sql2) = @_;
	$g->sync;
	$g->sql_all("SELECT replp2p.pause_apply(); DELETE FROM replp2p.conflict_history");
	$g->sql($first, $sql1);
	$g->sql($second, $sql2);
	$g->sql_all("SELECT replp2p.resume_apply()");
	$g->sync;
}

sub types
{
	my ($name) = @_;
	return $g->sql($name, "SELECT string_agg(DISTINCT conflict_type, ',') FROM replp2p.conflicts");
}

foreach my $way ([ 'a', 'b' ], [ 'b', 'a' ])
{
	my ($x, $y) = @$way;
	my $start = sub {
		$id++;
		$g->sql($x, "INSERT INTO t VALUES ($id, 'start', repeat('z', 20000))");
		$g->sync;
	};
	my $row = sub { $g->sql('a', "SELECT v FROM t WHERE id = $id") };

	$start->();
	cross($x, "UPDATE t SET v = 'early' WHERE id = $id", $y, "UPDATE t SET v = 'late' WHERE id = $id");
	$g->same('t', "update/update, $x first");
	is($row->(), 'late', 'the later update stands');
	is(types($x), 'update_origin_differs', 'recorded where the loser was');
	is(types($y), 'update_origin_differs', 'and where the winner was');
	is($g->sql($x, "SELECT resolution || ' ' || (local_row ->> 'v') || ' ' || (remote_row ->> 'v') || ' ' || (applied_row ->> 'v') || ' ' || (key ->> 'id') FROM replp2p.conflicts"),
		"apply_remote early late late $id", 'with its images');
	is($g->sql($y, "SELECT resolution || ' ' || local_origin || ' ' || remote_origin || ' ' || relationship FROM replp2p.conflicts"),
		"keep_local $y $x concurrent", 'and its origins');

	$id++;
	cross($x, "INSERT INTO t VALUES ($id, 'early')", $y, "INSERT INTO t VALUES ($id, 'late')");
	$g->same('t', "insert/insert, $x first");
	is($row->(), 'late', 'the later insert stands');
	is(types($x), 'insert_exists', 'as insert_exists');

	$start->();
	cross($x, "UPDATE t SET v = 'early' WHERE id = $id", $y, "DELETE FROM t WHERE id = $id");
	$g->same('t', "update, then delete, $x first");
	is($row->(), '', 'the later delete stands');
	is(types($x), 'delete_origin_differs', 'a delete met an updated row');
	is(types($y), 'update_deleted', 'an update met a tombstone');

	$start->();
	cross($x, "DELETE FROM t WHERE id = $id", $y, "UPDATE t SET v = 'late' WHERE id = $id");
	$g->same('t', "delete, then update, $x first");
	is($row->(), 'late', 'the later update brings the row back');
	is(types($x), 'update_deleted', 'recorded where the delete was made');
	is($g->sql($x, "SELECT length(big) FROM t WHERE id = $id"), 20000,
		'with the out-of-line value that it had left unchanged');

	$start->();
	cross($x, "DELETE FROM t WHERE id = $id; INSERT INTO t VALUES ($id, 'again')", $y,
		"UPDATE t SET v = 'late' WHERE id = $id");
	$g->same('t', "delete and re-insert against update, $x first");
	is($row->(), 'late', 'the later update stands');

	$start->();
	cross($x, "UPDATE t SET v = 'early' WHERE id = $id", $y,
		"DELETE FROM t WHERE id = $id; INSERT INTO t VALUES ($id, 'again')");
	$g->same('t', "update against delete and re-insert, $x first");
	is($row->(), 'again', 'the later re-insert stands');

	$start->();
	cross($x, "DELETE FROM t WHERE id = $id", $y, "DELETE FROM t WHERE id = $id");
	$g->same('t', "delete/delete, $x first");
	is($row->(), '', 'deleted');

	$start->();
	cross($x, "UPDATE t SET id = id + 100000 WHERE id = $id", $y, "UPDATE t SET v = 'late' WHERE id = $id");
	$g->same('t', "key update against update, $x first");

	$start->();
	cross($x, "UPDATE t SET v = 'one' WHERE id = $id; UPDATE t SET big = repeat('q', 9000) WHERE id = $id", $y,
		"UPDATE t SET v = 'two' WHERE id = $id");
	$g->same('t', "an out-of-line value changed here, left unchanged there, $x first");
	is($g->sql('a', "SELECT v || length(big) FROM t WHERE id = $id"), 'two20000',
		'the winner brings its own out-of-line value');

	# TRUNCATE
	$g->sql($x, "INSERT INTO emptied VALUES ($id, 'old')");
	cross($x, "TRUNCATE emptied", $y, "INSERT INTO emptied VALUES (" . ($id + 1) . ", 'late'); UPDATE emptied SET v = 'late' WHERE id = $id");
	$g->same('emptied', "TRUNCATE, then insert and update, $x first");
	is($g->sql('a', "SELECT count(*) FROM emptied WHERE v = 'late'"), 2, 'later versions survive a TRUNCATE');
	cross($x, "INSERT INTO emptied VALUES (" . ($id + 2) . ", 'early')", $y, "TRUNCATE emptied");
	$g->same('emptied', "insert, then TRUNCATE, $x first");
	is($g->sql('a', "SELECT count(*) FROM emptied"), 0, 'earlier versions do not');

	# what has seen its predecessor is no conflict, whichever node wrote that
	$g->sql_all("DELETE FROM replp2p.conflict_history");
	$start->();
	foreach my $n (1 .. 5)
	{
		foreach my $who ($y, $x)
		{
			$g->sql($who, "UPDATE t SET v = '$who$n' WHERE id = $id");
			$g->sync;
		}
	}
	$g->sql($y, "DELETE FROM t WHERE id = $id");
	$g->sync;
	$g->sql($x, "INSERT INTO t VALUES ($id, 'new')");
	$g->sync;
	$g->same('t', "edits in turn, $x first");
	is($g->sql($_, "SELECT count(*) FROM replp2p.conflicts"), 0, "no conflict of it on $_") foreach ($x, $y);
}

$g->stop;
done_testing();
